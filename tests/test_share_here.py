"""All tests of shared values again, with every graph given to share(): devserver leaves it alone."""

import os
from collections.abc import Iterator

import pytest
import test_shared_values

kept = {name: each for name, each in vars(test_shared_values).items() if "outside_devserver" not in name}
globals().update({name: each for name, each in kept.items() if not name.startswith("__")})
pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def every_graph_is_shared() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "SHARE_EVERY_GRAPH", "1")
        yield

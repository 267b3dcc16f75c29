"""The walk-through with curl, by the shell functions of the README, whatever crashes between its steps."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from walkthrough import RESTARTS, Event, example_server, walk_through

pytestmark = pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="curl is absent")


def functions() -> str:
    """The lines of the README that define `thread` and `say`."""
    (found,) = re.findall(r"^(thread\(\).*?)^FIRST=", (ROOT / "README.md").read_text(), re.M | re.S)
    return str(found)


def shell(url: str, *command: str) -> str:
    script = f"URL={url}\n{functions()}\n{shlex.join(command)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("restart_before", RESTARTS.values(), ids=RESTARTS)
def test_walk_through(tmp_path: Path, restart_before: set[int]) -> None:
    with example_server(tmp_path) as server:

        def say(thread: str | None, user: str, text: str) -> tuple[str, list[Event]]:
            place = thread or shell(server.url, "thread").strip()
            answer = shell(server.url, "say", place, user, text).replace("\r\n", "\n")
            found = re.findall(r"^event: (.+)\ndata: (.+)$", answer, re.M)
            return place, [(name, json.loads(data)) for name, data in found]

        walk_through(server, say, restart_before)

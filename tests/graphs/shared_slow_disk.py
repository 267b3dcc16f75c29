"""`steps` and `as_node` on a disk so slow that the test says when a checkpoint arrives there."""

import asyncio
from typing import Any

import shared  # type: ignore[import-not-found, unused-ignore]

import devserver

steps, as_node = shared.steps, shared.as_node
aput = devserver.Saver.aput


async def late_aput(self: devserver.Saver, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
    """Hold back the checkpoint of the root graph's step that `config.configurable.hold` names."""
    hold = config["configurable"].get("hold")
    if hold and not config["configurable"]["checkpoint_ns"] and metadata["step"] == hold["step"]:
        await asyncio.to_thread(shared.pause, hold["at"])
    return await aput(self, config, checkpoint, metadata, new_versions)


devserver.Saver.aput = late_aput  # type: ignore[method-assign]

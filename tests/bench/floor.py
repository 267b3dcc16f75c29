"""The floor: the same load on the same graphs in one process, with an in-memory saver and no server.

python floor.py one,ten      prints the samples as JSON
"""

# ruff: noqa: T201

import asyncio
import importlib
import json
import sys
from contextlib import nullcontext
from time import perf_counter
from typing import Any
from uuid import uuid4

from load import SCENARIOS, Samples, Stream, measure
from servers import GRAPHS


class InProcess:
    """The client that is its own server."""

    def __init__(self) -> None:
        from langgraph.checkpoint.memory import InMemorySaver

        module, saver = importlib.import_module("graphs"), InMemorySaver()
        self.graphs = {name: getattr(module, name).compile(checkpointer=saver) for name in GRAPHS}

    async def new_thread(self) -> str:
        return str(uuid4())

    async def wait_run(self, thread: str, graph: str, given: Any) -> Any:
        return await self.graphs[graph].ainvoke(given, {"configurable": {"thread_id": thread}})

    async def queue_run(self, thread: str, graph: str, given: Any) -> None:
        await self.wait_run(thread, graph, given)

    async def stream_run(self, thread: str, graph: str, given: Any, mode: str, expected: int) -> Stream:
        config = {"configurable": {"thread_id": thread}}
        start, first, count = perf_counter(), 0.0, 0
        async for _ in self.graphs[graph].astream(given, config, stream_mode=mode.removesuffix("-tuple")):
            first, count = first or perf_counter() - start, count + 1
        if count < expected:
            raise RuntimeError(f"{graph}: {count} events instead of {expected}")
        return Stream(count, first, perf_counter() - start)

    async def state(self, thread: str, graph: str) -> Any:
        return await self.graphs[graph].aget_state({"configurable": {"thread_id": thread}})

    async def history(self, thread: str, graph: str, limit: int) -> list[Any]:
        config = {"configurable": {"thread_id": thread}}
        return [state async for state in self.graphs[graph].aget_state_history(config, limit=limit)]


def main() -> None:
    samples: Samples = {}
    for name in SCENARIOS:
        if name in sys.argv[1].split(","):
            samples |= asyncio.run(measure(name, lambda: nullcontext(InProcess())))
    print(json.dumps(samples))


if __name__ == "__main__":
    main()

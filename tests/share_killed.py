"""A process that test_share_crash.py kills: threads of one user that go on as far as they come.

python share_killed.py FOLDER sync|async
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.sqlite import SqliteStore
from typing_extensions import TypedDict

from devserver import SharedValue, share

THREADS, STEPS = 3, 40


class State(TypedDict):
    thread: str
    step: int
    info: Annotated[dict[str, Any], SharedValue.on("user_id")]


def step(state: State) -> dict[str, Any]:
    """Write an item of this step, and note which items of this thread were there before."""
    mine = sorted(key for key in state["info"] if key.startswith(state["thread"]))
    number = state["step"]
    return {"step": number + 1, "info": {f"{state['thread']} {number:02}": {"before": len(mine)}}}


def graph_of(saver: Any, store: Any) -> Any:
    inner = StateGraph(State).add_node("step", step).add_edge(START, "step").compile()
    builder = StateGraph(State).add_node("inner", inner).add_node("step", step).add_edge(START, "inner")
    builder.add_edge("inner", "step")
    builder.add_conditional_edges("step", lambda state: "inner" if state["step"] < STEPS else END, ["inner", END])
    return share(builder.compile(checkpointer=saver, store=store))


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread, "user_id": "u"}, "recursion_limit": 1000}


def given(thread: str, snapshot: Any) -> Any:
    """What a run begins with: the input, or nothing if the thread goes on."""
    return None if snapshot.next or snapshot.values else {"thread": thread, "step": 0}


def synchronous(saver: Any, store: Any) -> None:
    graph = graph_of(saver, store)
    for thread in map(str, range(THREADS)):
        start = given(thread, graph.get_state(config(thread)))
        graph.invoke(start, config(thread))


async def asynchronous(file: str, store: Any) -> None:
    async with AsyncSqliteSaver.from_conn_string(file) as saver:
        graph = graph_of(saver, store)

        async def go(thread: str) -> None:
            start = given(thread, await graph.aget_state(config(thread)))
            await graph.ainvoke(start, config(thread))

        await asyncio.gather(*(go(str(n)) for n in range(THREADS)))


def work(folder: str, way: str) -> None:
    file = str(Path(folder) / "data.db")
    with SqliteStore.from_conn_string(file) as store, SqliteSaver.from_conn_string(file) as saver:
        store.setup()
        if way == "sync":
            synchronous(saver, store)
        else:
            asyncio.run(asynchronous(file, store))


def main(folder: str, way: str) -> None:
    """For each line of the input, do the work in a process that has all imported: tell its id, then its exit code."""
    for _ in sys.stdin:
        if child := os.fork():
            print(child, flush=True)  # noqa: T201
            print(os.waitpid(child, 0)[1], flush=True)  # noqa: T201
        else:
            work(folder, way)
            os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

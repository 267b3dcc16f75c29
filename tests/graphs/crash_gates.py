"""Graphs that stop where a test wants them to. The server's folder holds the signs:

`calls.txt`  a line per call of a node: `NODE` of the run whose trail begins with TAG is `TAG:NODE`
`at.NAME`    somebody waits at this gate
`go.NAME`    the gate is open
"""

import asyncio
import operator
import os.path
import time
from typing import Annotated, Any

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from devserver import SharedValue


class State(TypedDict, total=False):
    stops: list[str]  # the gates that are shut
    trail: Annotated[list[str], operator.add]
    seconds: float
    info: Annotated[dict[str, Any], SharedValue.on("user_id")]


def called(node: str, state: State) -> None:
    with open("calls.txt", "a") as calls:
        calls.write(f"{(state.get('trail') or ['-'])[0]}:{node}\n")


def sign(name: str) -> None:
    with open(f"at.{name}", "w"):
        pass


def is_open(name: str) -> bool:
    return os.path.exists(f"go.{name}")


async def gate(name: str, state: State) -> None:
    if name in state.get("stops", []):
        sign(name)
        while not is_open(name):
            await asyncio.sleep(0.005)


def counted(state: State) -> dict[str, Any]:
    return {"count": {"n": state["info"].get("count", {"n": 0})["n"] + 1}}


async def a(state: State) -> dict[str, Any]:
    called("a", state)
    await gate("a", state)
    return {"trail": ["a"], "info": counted(state)}


async def b(state: State) -> dict[str, Any]:
    called("b", state)
    await gate("b", state)
    return {"trail": ["b"], "info": counted(state)}


async def c(state: State) -> dict[str, Any]:
    called("c", state)
    await gate("c", state)
    return {"trail": ["c"], "info": counted(state)}


async def ask(state: State) -> dict[str, Any]:
    called("ask", state)
    answer = interrupt("what?")
    await gate("ask", state)
    return {"trail": [f"answer {answer}"]}


async def ask_twice(state: State) -> dict[str, Any]:
    first = interrupt("first?")
    await gate("between", state)
    second = interrupt("second?")
    return {"trail": [f"first {first}", f"second {second}"]}


async def ask_again(state: State) -> dict[str, Any]:
    return {"trail": [f"then {interrupt('and then?')}"]}


async def stubborn(state: State) -> dict[str, Any]:
    """Does not stop when it is cancelled."""
    called("stubborn", state)
    try:
        await gate("stubborn", state)
    except asyncio.CancelledError:
        sign("cancel")
        await gate("stubborn", state)
    return {"trail": ["stubborn"]}


async def nap(state: State) -> dict[str, Any]:
    called("nap", state)
    await asyncio.sleep(state.get("seconds", 0.3))
    return {"trail": ["nap"]}


def sleep(state: State) -> dict[str, Any]:
    called("sleep", state)
    time.sleep(state["seconds"])
    return {"trail": ["sleep"]}


async def block(state: State) -> dict[str, Any]:
    called("block", state)
    # blocks here
    time.sleep(state["seconds"])
    return {"trail": ["block"]}


async def wait(state: State) -> dict[str, Any]:
    await gate("wait", state)
    return {}


async def quick(state: State) -> dict[str, Any]:
    called("quick", state)
    return {"trail": ["quick"]}


async def spin(state: State) -> dict[str, Any]:
    """Keeps the run loop busy."""
    until = time.monotonic() + state["seconds"]
    while time.monotonic() < until:
        time.sleep(0.02)
        await asyncio.sleep(0)
    return {}


async def last(state: State) -> dict[str, Any]:
    called("last", state)
    return {"trail": [f"after {state['trail'][-1]}"]}


async def fail(state: State) -> dict[str, Any]:
    raise ValueError("it went wrong")


def chain(*nodes: Any) -> Any:
    builder = StateGraph(State).add_sequence(nodes)
    first = nodes[0] if isinstance(nodes[0], str) else nodes[0].__name__
    return builder.add_edge(START, first).compile()


gates = chain(a, b, c)
asks = chain(a, ask, c)
asks_twice = chain(ask_twice, c)
stays = chain(a, stubborn, c)
naps = chain(a, nap, c)
sleeps = chain(sleep)
blocks = chain(block)
fails = chain(a, fail)
spins = chain(spin)
quicks = chain(quick)


class Inner(TypedDict, total=False):
    """No reducer: what the subgraph hands back replaces what was there."""

    stops: list[str]
    said: list[str]
    info: Annotated[dict[str, Any], SharedValue.on("user_id")]


async def inner_ask(state: Inner) -> dict[str, Any]:
    return {"said": [f"answer {interrupt('what?')}"]}


async def inner_work(state: Inner) -> dict[str, Any]:
    await gate("work", state)  # type: ignore[arg-type]
    return {"said": [*state["said"], "work"], "info": counted(state)}  # type: ignore[arg-type]


async def inner_ask_again(state: Inner) -> dict[str, Any]:
    return {"said": [*state["said"], f"then {interrupt('and then?')}"]}


class Outer(State):
    said: list[str]


inner = StateGraph(Inner).add_sequence([inner_ask, inner_work, inner_ask_again]).add_edge(START, "inner_ask").compile()
sub_asks = StateGraph(Outer).add_node("inner", inner).add_edge(START, "inner").compile()

fan = (
    StateGraph(State)
    .add_node(wait)
    .add_node(a)
    .add_node(b)
    .add_node(quick)
    .add_node(last)
    .add_edge(START, "wait")
    .add_edge("wait", "a")
    .add_edge("a", "b")
    .add_edge("a", "quick")
    .add_edge(["b", "quick"], "last")
    .compile()
)


async def count_inside(state: Inner) -> dict[str, Any]:
    return {"info": counted(state)}  # type: ignore[arg-type]


async def look_inside(state: Inner) -> dict[str, Any]:
    await gate("inside", state)  # type: ignore[arg-type]
    return {}


async def step(state: State) -> dict[str, Any]:
    return {"trail": ["step"]}


counting = StateGraph(Inner).add_sequence([count_inside, look_inside]).add_edge(START, "count_inside").compile()
steps_then_count = (
    StateGraph(State)
    .add_sequence([(f"step{n}", step) for n in range(12)])
    .add_node("counting", counting)
    .add_edge(START, "step0")
    .add_edge("step11", "counting")
    .compile()
)
looking = StateGraph(Inner).add_sequence([look_inside, count_inside]).add_edge(START, "look_inside").compile()
looks_inside = StateGraph(State).add_node("looking", looking).add_edge(START, "looking").compile()

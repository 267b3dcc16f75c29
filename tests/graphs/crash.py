"""Graphs whose state and shared values show each step that was lost, or done twice.

Every node appends `node:tag` to `trail` (in a subgraph, to `marks`), writes a shared item of that name, and adds one
to the owner's shared counter; so the counter equals the number of entries, whatever happens.
"""

import asyncio
import operator
import random
import time
from typing import Annotated, Any

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from devserver import SharedValue


def union(old: list[str], new: list[str]) -> list[str]:
    return old + [entry for entry in new if entry not in old]


class State(TypedDict, total=False):
    owner: str
    tag: str
    pace: float
    trail: Annotated[list[str], operator.add]
    marks: Annotated[list[str], union]
    info: Annotated[dict[str, Any], SharedValue.on("user_id")]


def entry_of(node: str, state: State) -> str:
    return f"{node}:{state['tag']}"


def shared(node: str, state: State) -> dict[str, Any]:
    count = state["info"].get(f"count/{state['owner']}", {"n": 0})["n"]
    return {f"count/{state['owner']}": {"n": count + 1}, f"{state['owner']}/{entry_of(node, state)}": {"n": count + 1}}


def pause(state: State) -> float:
    return random.uniform(0, state.get("pace", 0.02))


async def one(state: State) -> dict[str, Any]:
    await asyncio.sleep(pause(state))
    return {"trail": [entry_of("one", state)], "info": shared("one", state)}


def two_a(state: State) -> dict[str, Any]:
    time.sleep(pause(state))
    return {"trail": [entry_of("two_a", state)], "info": shared("two_a", state)}


async def two_b(state: State) -> dict[str, Any]:
    """Beside two_a, so the counter is not its own to write."""
    await asyncio.sleep(pause(state))
    entry = entry_of("two_b", state)
    return {"trail": [entry], "info": {f"{state['owner']}/{entry}": {"n": 0}}}


async def three(state: State) -> dict[str, Any]:
    await asyncio.sleep(pause(state))
    return {"trail": [entry_of("three", state)], "info": shared("three", state)}


async def ask(state: State) -> dict[str, Any]:
    answer = interrupt({"tag": state["tag"]})
    await asyncio.sleep(pause(state))
    return {"trail": [f"ask:{answer}"], "info": shared("ask", state)}


async def sub_one(state: State) -> dict[str, Any]:
    await asyncio.sleep(pause(state))
    return {"marks": [entry_of("sub_one", state)], "info": shared("sub_one", state)}


def sub_two(state: State) -> dict[str, Any]:
    time.sleep(pause(state))
    return {"marks": [entry_of("sub_two", state)], "info": shared("sub_two", state)}


class SubState(TypedDict, total=False):
    owner: str
    tag: str
    pace: float
    marks: Annotated[list[str], union]
    info: Annotated[dict[str, Any], SharedValue.on("user_id")]


steps = (
    StateGraph(State)
    .add_node(one)
    .add_node(two_a)
    .add_node(two_b)
    .add_node(three)
    .add_edge(START, "one")
    .add_edge("one", "two_a")
    .add_edge("one", "two_b")
    .add_edge(["two_a", "two_b"], "three")
    .compile()
)
asks = StateGraph(State).add_sequence([one, ask, three]).add_edge(START, "one").compile()
sub = StateGraph(SubState).add_sequence([sub_one, sub_two]).add_edge(START, "sub_one").compile()
nested = (
    StateGraph(State)
    .add_node(one)
    .add_node("sub", sub)
    .add_node(three)
    .add_edge(START, "one")
    .add_edge("one", "sub")
    .add_edge("sub", "three")
    .compile()
)

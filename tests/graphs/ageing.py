"""Graphs whose threads or items grow old."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Annotated, Any

from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.types import interrupt
from typing_extensions import TypedDict

from devserver import SharedValue

try:
    from langgraph.channels.delta import DeltaChannel
except ImportError:  # langgraph 1.1

    def DeltaChannel(reducer: Any, **options: Any) -> Any:  # type: ignore[no-redef]
        return operator.add


Update = dict[str, Any]


# Reads and writes an item as it is told.


class Order(TypedDict, total=False):
    space: str
    put: Update
    get: Update
    seen: bool


def use(state: Order, store: BaseStore) -> Update:
    if "put" in state:
        store.put((state["space"],), "k", {}, **state["put"])
    return {"seen": store.get((state["space"],), "k", **state.get("get", {})) is not None}


items = StateGraph(Order).add_node(use).add_edge(START, "use").compile()


# Learns a shared value.


class Learner(TypedDict, total=False):
    fact: str
    facts: Annotated[dict[str, Any], SharedValue.on("user_id")]


def learn(state: Learner) -> Update:
    return {"facts": {state["fact"]: {"known": True}}}


learner = StateGraph(Learner).add_node(learn).add_edge(START, "learn").compile()


# Two lists that only their changes are stored of, one of them stored whole at every third change, and one
# that is never written.


def extend(whole: list[str], changes: list[list[str]]) -> list[str]:
    return [*whole, *(item for change in changes for item in change)]


class Diary(TypedDict, total=False):
    day: str
    all: Annotated[list[str], DeltaChannel(extend)]
    some: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=3)]
    never: Annotated[list[str], DeltaChannel(extend)]
    plain: Annotated[list[str], operator.add]


def note(state: Diary) -> Update:
    day = [state["day"]]
    return {"plain": day, "some": day} | ({"all": day} if day[0].startswith("all") else {})


diary = StateGraph(Diary).add_node(note).add_edge(START, "note").compile()


# A subgraph that remembers what it was told, and one that asks after its first step.


class Told(TypedDict, total=False):
    text: str
    heard: Annotated[list[str], operator.add]
    steps: Annotated[list[str], operator.add]
    gate: str


def hear(state: Told) -> Update:
    return {"heard": [state["text"]]}


def prepare(state: Told) -> Update:
    with Path(state["gate"]).open("a") as file:
        file.write("prepared\n")
    return {"steps": ["prepared"]}


def ask(state: Told) -> Update:
    return {"steps": [interrupt("what next?")]}


def recall(state: Told) -> Update:
    return {"steps": [f"heard {text}" for text in rememberer.invoke({"text": state["text"]})["heard"]]}


rememberer = StateGraph(Told).add_node(hear).add_edge(START, "hear").compile(checkpointer=True)
asker = StateGraph(Told).add_sequence([prepare, ask]).add_edge(START, "prepare").compile()
talk = (
    StateGraph(Told)
    .add_node(recall)
    .add_node("asker", asker)
    .add_edge(START, "recall")
    .add_edge("recall", "asker")
    .compile()
)

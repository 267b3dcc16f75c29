"""Graphs in graphs in graphs: what loading changes of one is changed at every level."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from langgraph.channels.named_barrier_value import NamedBarrierValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore

from devserver import AppAuth, Graphs, GraphSpec, Settings


class State(TypedDict):
    """A state of one value."""

    value: str


def waiting() -> Any:
    """A graph with a node that waits for two others."""
    builder = StateGraph(State)
    for name in "abc":
        builder.add_node(name, lambda state: {"value": "done"})
    builder.add_edge(START, "a")
    builder.add_edge(START, "b")
    builder.add_edge(["a", "b"], "c")
    return builder.compile()


def around(graph: Any) -> Any:
    return StateGraph(State).add_node("node", graph).add_edge(START, "node").compile()


def test_barriers_at_any_depth_give_copies_to_checkpoints(tmp_path: Path) -> None:
    """Else a checkpoint holds what later supersteps have made of the barrier."""
    spec = GraphSpec(graph_id="deep", path="deep.py:graph")
    settings = Settings(path=tmp_path / "langgraph.json", graphs={"deep": {"path": spec.path}})  # type: ignore[dict-item]
    saver: Any = InMemorySaver()
    store: Any = InMemoryStore()
    graphs = Graphs(settings, saver, store, AppAuth)
    inner = waiting()
    graphs.prepare(spec, around(around(inner)))
    [barrier] = [channel for channel in inner.channels.values() if isinstance(channel, NamedBarrierValue)]
    barrier.update(["a"])
    kept = barrier.checkpoint()
    barrier.update(["b"])
    assert kept == {"a"}

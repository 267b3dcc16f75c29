"""Graphs with shared values. What each node is to do is said by the run's input: see `act`."""

import asyncio
import operator
import os
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # with typing's own, Python 3.11 can't tell the JSON schemas

from devserver import SharedValue, share

Info = SharedValue.on("user_id")
Seen = Annotated[dict[str, Any], operator.or_]  # what each node saw in `info`, by the name of the node or step


class State(TypedDict):
    todo: list[dict[str, Any]]  # what `steps` does, an order per superstep
    orders: dict[str, Any]  # what the other nodes do, by their names
    seen: Seen
    info: Annotated[dict[str, Any], Info]


class NoInfo(TypedDict):
    todo: list[dict[str, Any]]
    orders: dict[str, Any]
    seen: Seen


def pause(at: str) -> None:
    """Tell that this place is reached, and wait until the test says go."""
    Path(f"{at}.reached").touch()
    for _ in range(2000):
        if Path(f"{at}.go").exists():
            return
        time.sleep(0.01)
    raise TimeoutError(at)


def act(name: str, order: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """Obey an order: "put" is an update of `info` as it is, "append" adds to a list kept in the item `log`."""
    update: dict[str, Any] = {"seen": {name: {key: dict(item) for key, item in info.items()}}}
    if "trace" in order:
        with Path(order["trace"]).open("a") as trace:
            trace.write(f"{name}\n")
    if "mutate" in order:
        info["sneaked"] = {"in": "place"}
        info.setdefault("log", {})["sneaked"] = True
    if "ask" in order:
        update["seen"][f"answer to {name}"] = interrupt(order["ask"])
    if "pause" in order:
        pause(order["pause"])
    if "raise" in order:
        raise RuntimeError(order["raise"])
    if "put" in order:
        update["info"] = order["put"]
    if "append" in order:
        update["info"] = {"log": {"done": [*info.get("log", {}).get("done", []), order["append"]]}}
    return update


def node(name: str) -> Any:
    def obey(state: State) -> dict[str, Any]:
        return act(name, (state.get("orders") or {}).get(name, {}), state.get("info", {}))

    return obey


# -- `steps`: a superstep per order --


def step(state: State) -> dict[str, Any]:
    order, *rest = state["todo"]
    return {"todo": rest, **act(order["as"], order, state["info"])}


def more(state: State) -> str:
    return "step" if state.get("todo") else "look"


def steps_of(schema: type[Any]) -> StateGraph[Any]:
    builder = StateGraph(schema)
    builder.add_node("step", step)
    builder.add_node("look", node("end"))
    builder.add_conditional_edges(START, more, ["step", "look"])
    builder.add_conditional_edges("step", more, ["step", "look"])
    builder.add_edge("look", END)
    return builder


steps = steps_of(State)  # compiled by the server
with_own_saver = steps.compile(InMemorySaver())


def factory(config: RunnableConfig) -> StateGraph[Any]:
    return steps


# -- parallel nodes, a conditional edge --


def fork(prefix: str = "", **nodes: Any) -> StateGraph[Any]:
    """before -> the given nodes and `beside`, in parallel -> after"""
    before, beside, after = (prefix + name for name in ("before", "beside", "after"))
    builder = StateGraph(State)
    builder.add_node(before, node(before))
    builder.add_node(after, node(after))
    builder.add_edge(START, before)
    for name, what in {**nodes, beside: node(beside)}.items():
        builder.add_node(name, what)
        builder.add_edge(before, name)
    builder.add_edge([*nodes, beside], after)
    return builder


parallel = fork(other=node("other")).compile()


def saw(state: State) -> str:
    return "told" if "told" in state["info"] else "not_told"


def edge(first: Any) -> StateGraph[Any]:
    """A node, and a conditional edge that looks at `info`."""
    builder = StateGraph(State)
    builder.add_node("first", first)
    builder.add_node("told", node("told"))
    builder.add_node("not_told", node("not_told"))
    builder.add_edge(START, "first")
    builder.add_conditional_edges("first", saw, ["told", "not_told"])
    return builder


conditional = edge(node("first")).compile()
conditional_sub = edge(steps.compile()).compile()


# -- subgraphs --

inner = steps.compile()
inner_unsaved = steps.compile(checkpointer=False)
inner_kept = steps.compile(checkpointer=True)

as_node = fork(sub=inner).compile()
as_node_unsaved = fork(sub=inner_unsaved).compile()
as_node_kept = fork(sub=inner_kept).compile()
deep = fork(sub=fork("inner_", sub=inner).compile()).compile()
deep_kept = fork(sub=fork("inner_", sub=inner).compile(checkpointer=True)).compile()
deep_unsaved = fork(sub=fork("inner_", sub=inner_unsaved).compile(checkpointer=False)).compile()


def call(state: State) -> dict[str, Any]:
    seen = inner.invoke({"todo": state["todo"]})["seen"]
    return {"seen": {f"in {name}": info for name, info in seen.items()}}


async def call_unsaved(state: State) -> dict[str, Any]:
    seen = (await inner_unsaved.ainvoke({"todo": state["todo"]}))["seen"]
    return {"seen": {f"in {name}": info for name, info in seen.items()}}


def call_twice(state: State) -> dict[str, Any]:
    first, second = state["todo"]
    seen = inner.invoke({"todo": [first]})["seen"] | inner.invoke({"todo": [second]})["seen"]
    return {"seen": {f"in {name}": info for name, info in seen.items()}}


def call_with_all(state: State) -> dict[str, Any]:
    return {"seen": inner.invoke(state)["seen"]}


def call_late(state: State) -> dict[str, Any]:
    pause(state["orders"]["late"])
    return {"seen": inner.invoke({"todo": [{"as": "late"}]})["seen"]}


async def call_two(state: State) -> dict[str, Any]:
    await asyncio.gather(*(inner.ainvoke({"todo": [order]}) for order in state["todo"]))
    return {}


called = fork(sub=call).compile()
called_at_once = fork(sub=call_two).compile()
called_with_all = fork(sub=call_with_all).compile()
siblings = fork(sub=inner, late=call_late).compile()
called_unsaved = fork(sub=call_unsaved).compile()
called_twice = fork(sub=call_twice).compile()


def outer_without_info(sub: Any) -> StateGraph[Any]:
    builder = StateGraph(NoInfo)
    builder.add_node("sub", sub)
    builder.add_node("again", inner)
    builder.add_node("hold", node("hold"))
    builder.add_edge(START, "sub")
    builder.add_edge("sub", "hold")
    builder.add_edge("hold", "again")
    return builder


undeclared = outer_without_info(inner).compile()
undeclared_unsaved = outer_without_info(inner_unsaved).compile()

stopping = fork(sub=steps.compile(interrupt_before=["look"])).compile()


def call_itself(state: State) -> dict[str, Any]:
    order, *rest = state["todo"]
    if rest:
        itself.invoke({"todo": rest})
    return act(order["as"], order, state["info"])


itself: Any = StateGraph(State).add_node("call", call_itself).add_edge(START, "call").compile()


def fails_once(state: State) -> dict[str, Any]:
    inner_unsaved.invoke({"todo": state["todo"]})
    if Path(state["todo"][0]["trace"]).read_text().count("\n") == 1:
        raise ConnectionError("try again")
    return {}


def retried_graph() -> Any:
    builder = StateGraph(State)
    builder.add_node("first", fails_once, retry_policy=RetryPolicy(initial_interval=0.01, jitter=False))
    builder.add_node("look", node("end"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "look")
    return builder.compile()


retried = retried_graph()


def tell_parent(state: State) -> Command[Any]:
    return Command(graph=Command.PARENT, update={"info": state["orders"]["put"]}, goto="after")


def to_parent() -> Any:
    builder = StateGraph(State)
    builder.add_node("tell", tell_parent)
    builder.add_edge(START, "tell")
    return builder.compile()


commanding = fork(sub=to_parent()).compile()


# -- other keys and shapes --


class Only(TypedDict):
    info: Annotated[dict[str, Any], Info]


def bump(state: Only) -> dict[str, Any]:
    return {"info": {"count": {"n": state["info"].get("count", {"n": 0})["n"] + 1}}}


only = StateGraph(Only).add_node("bump", bump).add_edge(START, "bump")

Dotted = TypedDict("Dotted", {"my.info": Annotated[dict[str, Any], SharedValue.on("org.id")], "put": dict[str, Any]})


def put_dotted(state: Dotted) -> dict[str, Any]:
    return {"my.info": state["put"]}


dotted = StateGraph(Dotted).add_node("put", put_dotted).add_edge(START, "put")


class Two(TypedDict):
    first: Annotated[dict[str, Any], Info]
    second: Annotated[dict[str, Any], SharedValue.on("org_id")]
    single: str
    orders: dict[str, Any]


def put_all(state: Two) -> dict[str, Any]:
    if "raise" in state["orders"]:
        raise RuntimeError("after")
    return dict(state["orders"])


def two_keys() -> Any:
    builder = StateGraph(Two)
    builder.add_node("put", put_all)
    builder.add_node("also", lambda state: {"single": "also"} if "single" in state["orders"] else {})
    builder.add_edge(START, "put")
    builder.add_edge(START, "also")
    return builder.compile()


two = two_keys()


class Bare(TypedDict):
    saw: list[str]
    info: Annotated[dict, Info]  # type: ignore[type-arg]


class Typed(TypedDict):
    saw: list[str]
    info: Annotated[dict[str, dict[str, int]], "other metadata", Info]


class Mapped(TypedDict):
    saw: list[str]
    info: Annotated[Mapping[str, Any], Info]


class Mutable(TypedDict):
    saw: list[str]
    info: Annotated[MutableMapping[str, Any], Info]


class Outside(TypedDict):
    saw: list[str]
    info: NotRequired[Annotated[dict[str, Any], Info]]


class Inside(TypedDict):
    saw: list[str]
    info: Annotated[NotRequired[dict[str, Any]], Info]


class Model(BaseModel):
    saw: list[str] = Field(default_factory=list)
    info: Annotated[dict[str, Any], Info] = Field(default_factory=dict)


@dataclass
class Data:
    saw: list[str] = field(default_factory=list)
    info: Annotated[dict[str, Any], Info] = field(default_factory=dict)


def note(state: Any) -> dict[str, Any]:
    info = state["info"] if isinstance(state, dict) else state.info
    number = len(info) + 1
    return {"saw": sorted(info), "info": {f"k{number}": {"n": number}}}


def shape(schema: type[Any]) -> StateGraph[Any]:
    """Two supersteps, each of which adds an item and notes those it saw."""
    builder = StateGraph(schema)
    builder.add_sequence([("note", note), ("again", note)])
    return builder.add_edge(START, "note")


bare, typed, mapped, mutable = shape(Bare), shape(Typed), shape(Mapped), shape(Mutable)
outside, inside, model, data = shape(Outside), shape(Inside), shape(Model), shape(Data)

if os.environ.get("SHARE_EVERY_GRAPH"):
    for name, graph in list(globals().items()):
        if isinstance(graph, StateGraph):
            graph = graph.compile()
        if isinstance(graph, CompiledStateGraph):
            globals()[name] = share(graph)

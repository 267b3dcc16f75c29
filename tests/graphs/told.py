"""Graphs that tell all they are told: config, configurable, metadata, context, server and execution info."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.graph import StateGraph
from langgraph.graph.message import add_messages
from langgraph.pregel.remote import RemoteGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from langgraph_sdk import get_client
from typing_extensions import TypedDict


def joined(known: list[Any], more: list[Any]) -> list[Any]:
    """A subgraph gives back what its parent had told."""
    return known + [each for each in more if each not in known]


class State(TypedDict, total=False):
    ask: bool
    gate: str
    remote: dict[str, Any]
    told: Annotated[list[dict[str, Any]], joined]
    messages: Annotated[list[Any], add_messages]


def texts(values: Any) -> dict[str, str]:
    return {key: repr(value) for key, value in dict(values or {}).items()}


def all_told(config: RunnableConfig) -> dict[str, Any]:
    apart = ("configurable", "metadata")
    return {
        "config": {key: repr(value) for key, value in config.items() if key not in apart},
        "configurable": texts(config.get("configurable")),
        "metadata": texts(config.get("metadata")),
    }


def tell(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
    if state.get("ask"):
        interrupt("go on?")
    while state.get("gate") and not Path(state["gate"]).exists():
        time.sleep(0.01)
    info, execution = runtime.server_info, runtime.execution_info
    assert info
    assert execution
    told = {
        **all_told(get_config()),
        "context": texts(runtime.context),
        "assistant": info.assistant_id,
        "graph": info.graph_id,
        "user": info.user.identity if info.user else None,
        "execution": dataclasses.asdict(execution),
    }
    return {"told": [told], "messages": [AIMessage(json.dumps(told))]}


inner = StateGraph(State).add_node("tell", tell).add_edge("__start__", "tell").compile()


def way(state: State, config: RunnableConfig) -> str:
    """Where to go on: a state update decides that, too, and leaves a trace of what it was told."""
    with Path("told.jsonl").open("a") as file:
        print(json.dumps(all_told(config)), file=file)
    return "inner"


graph = (
    StateGraph(State)
    .add_node("tell", tell)
    .add_node("inner", inner)
    .add_edge("__start__", "tell")
    .add_conditional_edges("tell", way, ["inner"])
    .compile()
)


async def call(state: State, config: RunnableConfig) -> dict[str, Any]:
    """Run the graph above by the server, as another client would, with what the state has for its config."""
    remote = state["remote"]
    forged: Any = {**config, **remote["forged"], "configurable": {**config["configurable"], **remote["forged"]}}
    client = get_client(url=remote["url"], headers=remote["headers"], api_key=None)
    called = RemoteGraph("told", client=client)
    return {"told": (await called.ainvoke({"ask": False}, forged))["told"]}


relay = StateGraph(State).add_node("call", call).add_edge("__start__", "call").compile()


def make(config: RunnableConfig) -> Any:
    way({}, config)
    return graph

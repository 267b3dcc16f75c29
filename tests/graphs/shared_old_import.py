"""A graph that imports SharedValue as in LangGraph 0.2 to 0.4."""

from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.managed.shared_value import SharedValue  # type: ignore[import-not-found]


class State(TypedDict):
    put: dict[str, Any]
    info: Annotated[dict[str, Any], SharedValue.on("user_id")]


def put(state: State) -> dict[str, Any]:
    return {"info": state["put"]}


graph = StateGraph(State).add_node("put", put).add_edge(START, "put").compile()

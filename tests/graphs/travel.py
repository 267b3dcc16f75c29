"""Graphs that threads are copied of, from server to server; they need nothing of devserver's."""

import operator
from typing import Annotated, Any, Literal, cast

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict


class Trip(TypedDict, total=False):
    stops: Annotated[list[str], operator.add]
    miles: Annotated[int, operator.add]
    mood: str
    left: list[str]


def pack(state: Trip) -> dict[str, Any]:
    return {"stops": ["home"], "miles": 1, "mood": "eager"}


def north(state: Trip) -> dict[str, Any]:
    return {"stops": ["north"], "miles": 10}


def south(state: Trip) -> dict[str, Any]:
    return {"stops": ["south"], "miles": 100}


def rest(state: Trip) -> None:
    """Write nothing."""


def walk() -> StateGraph[Any]:
    return StateGraph(Trip).add_node(pack).add_node(north).add_node(south).add_node(rest).add_edge(START, "pack")


forked = walk().add_edge("pack", "north").add_edge("pack", "south").add_edge("rest", END)
trip = forked.add_edge("north", "rest").add_edge("south", "rest").compile()
forked = walk().add_edge("pack", "north").add_edge("pack", "south").add_edge("rest", END)
joined = forked.add_edge(["north", "south"], "rest").compile()


def think(state: MessagesState) -> dict[str, Any]:
    last = state["messages"][-1]
    if last.type == "human" and "weather" in last.text:
        calls = [{"name": "weather", "args": {"city": city}, "id": city} for city in ("Rome", "Oslo")]
        return {"messages": [AIMessage("", tool_calls=calls)]}
    return {"messages": [AIMessage(f"You said: {last.text}")]}


def use_tools(state: MessagesState) -> list[Send] | str:
    last = state["messages"][-1]
    return (
        [Send("weather", call) for call in last.tool_calls] if isinstance(last, AIMessage) and last.tool_calls else END
    )


def weather(call: Any) -> dict[str, Any]:
    return {"messages": [ToolMessage("Sunny!", tool_call_id=call["id"])]}


talk = (
    StateGraph(MessagesState)
    .add_node(think)
    .add_node("weather", cast(Any, weather))
    .add_edge(START, "think")
    .add_conditional_edges("think", use_tools, ["weather", END])
    .add_edge("weather", "think")
    .compile()
)


def ask(state: Trip) -> dict[str, Any]:
    return {"stops": [str(interrupt("where to?"))]} if state.get("mood") == "unsure" else {"stops": ["as ever"]}


asked = (
    StateGraph(Trip)
    .add_node(pack)
    .add_node(ask)
    .add_edge(START, "ask")
    .add_edge("ask", "pack")
    .add_edge("pack", END)
    .compile()
)


def choose(state: Trip) -> Command[Literal["north", "south"]]:
    return Command(update={"stops": ["crossing"]}, goto="north" if state.get("mood") == "cold" else "south")


jumping = StateGraph(Trip).add_node(choose).add_node(north).add_node(south).add_edge(START, "choose").compile()


def break_down(state: Trip) -> dict[str, Any]:
    if state.get("mood") == "broken":
        raise ValueError("the car broke down")
    return {"stops": ["garage"]}


broken = (
    StateGraph(Trip)
    .add_node(pack)
    .add_node(break_down)
    .add_edge(START, "break_down")
    .add_edge("break_down", "pack")
    .add_edge("pack", END)
    .compile()
)


@entrypoint()
def sums(numbers: list[int], *, previous: int | None) -> int:
    return sum(numbers) + (previous or 0)

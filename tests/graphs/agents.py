"""A graph that converses, and does what it is told: for clients that speak to it as an agent."""

from __future__ import annotations

from typing import Any

from basic import Parrot, until_open
from langchain_core.messages import AIMessage, SystemMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt


class Talk(MessagesState, total=False):
    gate: str
    locale: str


class RefusedError(Exception):
    """An exception of the user's own."""


async def reply(state: Talk) -> dict[str, Any]:
    await until_open(state.get("gate"))
    said = state["messages"][-1].text if state["messages"] else "nothing"
    match said:
        case "ask me":
            return {"messages": [AIMessage(f"you answered {interrupt({'question': 'really?'})}", id="answered")]}
        case "fail":
            raise RefusedError("not today")
        case "say nothing":
            return {}
        case "use a tool":
            call = {"name": "clock", "args": {}, "id": "call-1"}
            tool = ToolMessage("noon", name="clock", tool_call_id="call-1")
            return {
                "messages": [SystemMessage("be brief"), AIMessage("", tool_calls=[call]), tool, AIMessage("it is noon")]
            }
        case "draw":
            picture = {"type": "image", "base64": "cGl4ZWw=", "mime_type": "image/png", "extras": {"filename": "a.png"}}
            thought = {"type": "reasoning", "reasoning": "how to draw?"}
            return {"messages": [AIMessage([thought, "here it is", {"type": "text", "text": ""}, picture])]}
    return {"messages": [await Parrot().ainvoke(state["messages"])]}


talk = StateGraph(Talk).add_node(reply).add_edge(START, "reply").add_edge("reply", END).compile()

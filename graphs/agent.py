"""An agent that learns about its user, and remembers it in every thread of that user.

`info` is a shared value: one dictionary per `user_id`, whatever the thread. Set DEVSERVER_MODEL, for example
to openai:gpt-4o-mini, to talk to a real model instead of the rule-based one.
"""

import os
from typing import Annotated, Any
from uuid import NAMESPACE_OID, uuid5

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, SystemMessage, ToolCall, ToolMessage
from langgraph.graph import END, START, StateGraph, add_messages
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from devserver import SharedValue
from graphs.rule_model import RuleBasedModel

PROMPT = """You are a helpful assistant that learns about the user.
When they tell you something new about themselves, save it with the Info tool.
What they have told you so far, in their own words:
{facts}"""


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    info: Annotated[dict[str, Any], SharedValue.on("user_id")]


class Info(BaseModel):
    """Save a new fact about the user, to remember it in later conversations."""

    fact: str = Field(description="The fact, in the user's own words, such as: I like pepperoni pizza")
    topic: str = Field(description="What it is about: food, location, work, name or other")


def chat_model() -> BaseChatModel:
    name = os.environ.get("DEVSERVER_MODEL")
    if not name:
        return RuleBasedModel()
    try:
        from langchain.chat_models import init_chat_model  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError(f"DEVSERVER_MODEL={name} needs langchain: pip install devserver[models]") from error
    chosen: BaseChatModel = init_chat_model(name)
    return chosen


def fact_key(fact: str) -> str:
    """The same fact has the same key, so saying it twice saves it once."""
    return str(uuid5(NAMESPACE_OID, " ".join(fact.casefold().split())))


model = chat_model().bind_tools([Info])


async def call_model(state: State) -> dict[str, Any]:
    facts = sorted(f"- {item['topic']}: {item['fact']}" for item in state["info"].values())
    system = SystemMessage(PROMPT.format(facts="\n".join(facts) or "(nothing yet)"))
    return {"messages": [await model.ainvoke([system, *state["messages"]])]}


async def save_info(state: State) -> dict[str, Any]:
    calls = tool_calls(state)
    saved = [Info(**call["args"]) for call in calls]
    return {
        "messages": [ToolMessage("Saved!", tool_call_id=call["id"]) for call in calls],
        "info": {fact_key(info.fact): info.model_dump() for info in saved},
    }


def tool_calls(state: State) -> list[ToolCall]:
    last = state["messages"][-1]
    return last.tool_calls if isinstance(last, AIMessage) else []


def next_node(state: State) -> str:
    return "save_info" if tool_calls(state) else END


builder = StateGraph(State)
builder.add_node(call_model)
builder.add_node(save_info)
builder.add_edge(START, "call_model")
builder.add_conditional_edges("call_model", next_node, ["save_info", END])
builder.add_edge("save_info", END)
graph = builder.compile(name="agent")

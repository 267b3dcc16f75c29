"""Small graphs for the JavaScript clients: steps, an approval, tokens, a slow one, a failing one, a nested one."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    text: str
    decision: str
    trail: Annotated[list[str], operator.add]


def one(state: State) -> dict[str, Any]:
    return {"trail": ["one"]}


def two(state: State) -> dict[str, Any]:
    get_stream_writer()({"note": "from two"})
    return {"trail": ["two"]}


def ask(state: State) -> dict[str, Any]:
    answer = interrupt({"question": f"publish {state['text']}?"})
    return {"decision": str(answer), "trail": ["ask"]}


async def tick(state: State) -> dict[str, Any]:
    for number in range(int(state["text"])):
        get_stream_writer()({"tick": number})
        await asyncio.sleep(0.1)
    return {"trail": ["ticked"]}


def fail(state: State) -> dict[str, Any]:
    raise ValueError("it broke")


async def answer(state: MessagesState) -> dict[str, Any]:
    model = GenericFakeChatModel(messages=iter([AIMessage("hello brave new world", id="answer")]))
    return {"messages": [await model.ainvoke(state["messages"])]}


steps = StateGraph(State).add_sequence([one, two]).add_edge(START, "one").compile()
approval = StateGraph(State).add_sequence([one, ask, two]).add_edge(START, "one").compile()
ticker = StateGraph(State).add_sequence([tick]).add_edge(START, "tick").compile()
broken = StateGraph(State).add_sequence([fail]).add_edge(START, "fail").compile()
chat = StateGraph(MessagesState).add_sequence([answer]).add_edge(START, "answer").compile()
nested = StateGraph(State).add_node("inner", steps).add_edge(START, "inner").compile()

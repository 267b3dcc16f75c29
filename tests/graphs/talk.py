"""Graphs for the event streaming protocol: a model that pauses in the middle of a message, tools, a projection of
a graph's own, chat models in subgraphs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from basic import Parrot, Steps, Update, steps, until_open
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolCallTransformer, ToolNode
from langgraph.stream import StreamChannel, StreamTransformer


class Gated(MessagesState, total=False):
    gate: str


class Hesitant(Parrot):
    """Says its first word, and the others once a file appears."""

    gate: str

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            yield chunk
            await until_open(self.gate)


async def hesitate(state: Gated) -> Update:
    return {"messages": [await Hesitant(gate=state["gate"]).ainvoke(state["messages"])]}


hesitant = StateGraph(Gated).add_node(hesitate).add_edge(START, "hesitate").add_edge("hesitate", END).compile()


# A model that wants a tool for every question, and says what came of it.


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    if city == "Atlantis":
        raise LookupError("no such city")
    return f"sunny in {city}"


async def ask(state: MessagesState) -> Update:
    last = state["messages"][-1]
    if isinstance(last, ToolMessage):
        return {"messages": [await Parrot().ainvoke(state["messages"])]}
    call = {"name": "weather", "args": {"city": last.text}, "id": f"call-{len(state['messages'])}"}
    return {"messages": [AIMessage("", tool_calls=[call])]}


def wants_tool(state: MessagesState) -> str:
    last = state["messages"][-1]
    return "tools" if isinstance(last, AIMessage) and last.tool_calls else END


tooled = (
    StateGraph(MessagesState)
    .add_node(ask)
    .add_node("tools", ToolNode([weather]))
    .add_edge(START, "ask")
    .add_conditional_edges("ask", wants_tool, ["tools", END])
    .add_edge("tools", "ask")
    .compile(transformers=[ToolCallTransformer])
)


# Counts its steps for whoever follows, in a channel of its own; writes plain custom events, too.


class StepCounter(StreamTransformer):
    """Tells after each step how many there were."""

    required_stream_modes = ("updates",)

    def init(self) -> dict[str, Any]:
        self._count = 0
        self._channel: StreamChannel[dict[str, int]] = StreamChannel("progress")
        return {"progress": self._channel}

    def process(self, event: Any) -> bool:
        if event["method"] == "updates":
            self._count += 1
            self._channel.push({"steps": self._count})
        return True


def note(state: Steps) -> Update:
    get_stream_writer()({"name": "note", "payload": "by hand"})
    get_stream_writer()("nameless")
    return {"trail": ["noted"]}


counted = (
    StateGraph(Steps)
    .add_node(note)
    .add_node("steps", steps)
    .add_edge(START, "note")
    .add_edge("note", "steps")
    .add_edge("steps", END)
    .compile(transformers=[StepCounter])
)


# Two members that speak one after the other, each a graph of its own.


async def speak(state: MessagesState) -> Update:
    return {"messages": [await Parrot().ainvoke(state["messages"])]}


member = StateGraph(MessagesState).add_node(speak).add_edge(START, "speak").add_edge("speak", END).compile()

team = (
    StateGraph(MessagesState)
    .add_node("ann", member)
    .add_node("bob", member)
    .add_edge(START, "ann")
    .add_edge("ann", "bob")
    .add_edge("bob", END)
    .compile()
)


# Two models that speak at the same time, word by word in turns.


class Turns(Parrot):
    """Lets the other one speak after every word."""

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in super()._astream(messages, stop, run_manager, **kwargs):
            yield chunk
            await asyncio.sleep(0)


async def sing(state: MessagesState) -> Update:
    return {"messages": [await Turns().ainvoke(state["messages"])]}


choir = (
    StateGraph(MessagesState)
    .add_node("high", sing)
    .add_node("low", sing)
    .add_edge(START, "high")
    .add_edge(START, "low")
    .add_edge("high", END)
    .add_edge("low", END)
    .compile()
)

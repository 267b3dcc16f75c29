"""The graphs that every side of the benchmark serves: small, offline and deterministic.

What streams gives way to the event loop after each event, as anything real does. Otherwise nothing could
leave the process before the node is over, and neither the first event's time nor a rate would mean anything.
"""

import asyncio
import operator
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Annotated, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.channels.delta import DeltaChannel
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

try:
    from devserver import SharedValue
except ImportError:  # the peer has none
    SharedValue = None  # type: ignore[assignment, misc]


def add_all(messages: Any, updates: Any) -> Any:
    for update in updates:
        messages = add_messages(messages or [], update)
    return messages


class DeltaState(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(add_all)]


class State(TypedDict, total=False):
    count: int
    seconds: float
    steps: Annotated[int, operator.add]


class TokenModel(BaseChatModel):
    """Streams as many tokens as the last message says, as fast as it can."""

    @property
    def _llm_type(self) -> str:
        return "bench-tokens"

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for n in range(int(messages[-1].text)):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"t{n} "))
            await asyncio.sleep(0)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        text = "".join(f"t{n} " for n in range(int(messages[-1].text)))
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


async def step(state: State) -> State:
    return {"steps": 1}


async def emit(state: State) -> State:
    write = get_stream_writer()
    for n in range(state["count"]):
        write({"n": n, "text": "progress"})
        await asyncio.sleep(0)
    return {"steps": 1}


async def sleep(state: State) -> State:
    await asyncio.sleep(state["seconds"])
    return {"steps": 1}


async def speak(state: MessagesState) -> dict[str, list[BaseMessage]]:
    return {"messages": [await TokenModel().ainvoke(state["messages"])]}


async def answer(state: MessagesState) -> dict[str, list[BaseMessage]]:
    return {"messages": [AIMessage(f"Answer {len(state['messages'])}: " + "well, " * 15)]}


async def answer_delta(state: DeltaState) -> dict[str, list[BaseMessage]]:
    return {"messages": [AIMessage(f"Answer {len(state['messages'])}: " + "well, " * 15)]}


async def look(state: Any) -> State:
    """Reads the shared items of its user."""
    return {"steps": len(state["info"])}


def chain(schema: type, *nodes: Any) -> StateGraph[Any]:
    """A graph of these nodes one after the other, compiled by whoever serves it."""
    graph = StateGraph[Any](schema)
    names = [f"{node.__name__}_{n}" for n, node in enumerate(nodes)]
    for name, node in zip(names, nodes, strict=True):
        graph.add_node(name, node)
    for before, after in pairwise([START, *names, END]):
        graph.add_edge(before, after)
    return graph


one = chain(State, step)
ten = chain(State, *[step] * 10)
events = chain(State, emit)
tokens = chain(MessagesState, speak)
chat = chain(MessagesState, answer)
delta = chain(DeltaState, answer_delta)
sleeper = chain(State, sleep)
if SharedValue is not None:

    class Shared(State):
        info: Annotated[dict[str, Any], SharedValue.on("user_id")]

    shared = chain(Shared, look)

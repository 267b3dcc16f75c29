"""Graphs with tools that answer in every way a tool may: for the event streaming protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from basic import Parrot
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage, message_chunk_to_message
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool, InjectedToolCallId, tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolCallTransformer, ToolNode
from langgraph.types import Command

CallId = Annotated[str, InjectedToolCallId]
PICTURE = {"type": "image", "base64": "cGl4ZWw=", "mime_type": "image/png"}


@tool
async def text(call_id: CallId) -> str:
    """Answer with text."""
    return "sunny"


@tool
def in_thread(call_id: CallId) -> str:
    """Answer with text, from a thread."""
    return "cloudy"


@tool
def number() -> float:
    """Answer with a number."""
    return 1.5


@tool
def nothing() -> str:
    """Answer with an empty text."""
    return ""


@tool
def blocks() -> list[str | dict[str, Any]]:
    """Answer with blocks of content: texts, a picture, one of a kind of its own."""
    return [{"type": "text", "text": "look: "}, PICTURE, {"type": "text", "text": "nice"}, {"type": "json", "json": {}}]


@tool(response_format="content_and_artifact")
def artifact() -> tuple[str, dict[str, int]]:
    """Answer with text, and an artifact."""
    return "measured", {"rows": 3}


@tool
def refusal(call_id: CallId) -> ToolMessage:
    """Answer with a message of its own that tells of an error."""
    return ToolMessage("no such city", tool_call_id=call_id, status="error", id="refusal-1")


@tool
def command(call_id: CallId) -> Command[Any]:
    """Answer by a command."""
    answer = ToolMessage("written down", tool_call_id=call_id)
    return Command(update={"messages": [ToolMessage("another call's", tool_call_id="other"), answer]})


@tool
def command_of_dicts(call_id: CallId) -> Command[Any]:
    """Answer by a command whose messages are dictionaries."""
    return Command(update={"messages": [{"role": "tool", "content": "as a dict", "tool_call_id": call_id}]})


@tool
def commands(call_id: CallId) -> list[Command[Any] | ToolMessage]:
    """Answer by a list of a command and a message."""
    return [Command(update={}), ToolMessage("last of a list", tool_call_id=call_id)]


@tool
def failing() -> str:
    """Fail."""
    raise LookupError("no such city")


@tool
async def helped() -> str:
    """Answer with what other tools give to who calls them without a tool call."""
    return f"{await number.ainvoke({})} {len(await blocks.ainvoke({}))} {await inner_text.ainvoke({})}"


@tool
async def inner_text() -> str:
    """Answer with text, to a tool."""
    return "helping"


TOOLS: list[BaseTool] = [
    *(text, in_thread, number, nothing, blocks, artifact, refusal),
    *(command, command_of_dicts, commands, failing, helped),
]


class Caller(Parrot):
    """Calls the tools that the last message names; repeats what a tool answers."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _calls(self, messages: list[BaseMessage]) -> AIMessageChunk | None:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            return None
        calls = [
            tool_call_chunk(name=name, args="{}", id=f"call-{name}", index=n)
            for n, name in enumerate(last.text.split())
        ]
        return AIMessageChunk(content="", tool_call_chunks=calls)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        if calls := self._calls(messages):
            return ChatResult(generations=[ChatGeneration(message=message_chunk_to_message(calls))])
        return super()._generate(messages, *args, **kwargs)

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        if calls := self._calls(messages):
            yield ChatGenerationChunk(message=calls)
            return
        async for chunk in super()._astream(messages, *args, **kwargs):
            yield chunk


async def call_model(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await Caller().ainvoke(state["messages"])]}


def wants_tools(state: MessagesState) -> str:
    last = state["messages"][-1]
    return "tools" if isinstance(last, AIMessage) and last.tool_calls else END


def of_a_tool_node(*transformers: Any) -> Any:
    graph = StateGraph(MessagesState).add_node("model", call_model)
    graph.add_node("tools", ToolNode(TOOLS, handle_tool_errors=True))
    graph.add_edge(START, "model").add_conditional_edges("model", wants_tools, ["tools", END]).add_edge(
        "tools", "model"
    )
    return graph.compile(transformers=transformers)


agent = create_agent(Caller(), TOOLS)
tool_node = of_a_tool_node(ToolCallTransformer)
plain_tool_node = of_a_tool_node()
outer = (
    StateGraph(MessagesState)
    .add_node("member", agent)
    .add_edge(START, "member")
    .add_edge("member", END)
    .compile(transformers=[ToolCallTransformer])
)

"""RemoteGraph of langgraph, as a client and as a part of a graph that runs here."""

from __future__ import annotations

import operator
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from conftest import LiveServer
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.pregel.remote import RemoteException, RemoteGraph
from langgraph.types import Command
from langgraph_sdk.client import LangGraphClient
from typing_extensions import TypedDict

NAMES = ("steps", "failing", "question", "nested", "chat", "writer")
SERVED = {name: f"./basic.py:{name}" for name in NAMES}


@pytest.fixture
def at() -> RunnableConfig:
    """A thread that does not exist yet."""
    return {"configurable": {"thread_id": str(uuid.uuid4())}}


@pytest.fixture
async def remote(server: LiveServer, client: LangGraphClient) -> AsyncIterator[Any]:
    with server.sync_client() as sync_client:
        yield lambda name: RemoteGraph(name, client=client, sync_client=sync_client)


async def test_invoke(remote: Any, at: RunnableConfig) -> None:
    graph = remote("steps")
    assert (await graph.ainvoke({"text": "x"}))["total"] == 111
    assert (await graph.ainvoke({"text": "x"}, at))["trail"] == ["first", "second", "third"]
    assert graph.invoke({"text": "y"}, at)["total"] == 222


async def test_every_stream_mode(remote: Any, at: RunnableConfig) -> None:
    graph = remote("steps")
    modes = ["values", "updates", "tasks", "checkpoints", "debug", "custom", "messages"]
    seen = [part async for part in graph.astream({"text": "x"}, at, stream_mode=modes)]
    assert {part.event for part in seen} == {"values", "updates", "tasks", "checkpoints", "debug"}
    assert next(part.data for part in seen if part.event == "updates") == {"first": {"trail": ["first"], "total": 1}}
    assert [data async for data in graph.astream({"text": "x"}, stream_mode="values")][-1]["total"] == 111
    assert [list(update) for update in graph.stream({"text": "x"})] == [["first"], ["second"], ["third"]]
    written = [data async for data in remote("writer").astream({"write": [1, "a"]}, stream_mode="custom")]
    assert written == [1, "a"]
    hi = {"messages": [{"role": "user", "content": "hi"}]}
    spoken = [data async for data in remote("chat").astream(hi, stream_mode="messages")]
    words = [message["content"] for message, metadata in spoken if metadata["langgraph_node"] == "answer"]
    assert [word for word in words if word] == ["you", " said", " hi"]
    assert spoken[0][0]["type"] == AIMessageChunk.__name__


async def test_subgraphs_are_streamed(remote: Any) -> None:
    seen = [part async for part in remote("nested").astream({"text": "x"}, stream_mode="updates", subgraphs=True)]
    assert [(tuple(part.partition(":")[0] for part in namespace), *update) for namespace, update in seen] == [
        ((), "enter"),
        (("child",), "open_child"),
        (("child", "grand"), "leaf"),
        (("child",), "grand"),
        (("child",), "close_child"),
        ((), "child"),
        ((), "leave"),
    ]


async def test_the_state_is_read_and_changed(remote: Any, at: RunnableConfig) -> None:
    graph = remote("steps")
    await graph.ainvoke({"text": "x"}, at)
    state = await graph.aget_state(at)
    assert (state.values["total"], state.next) == (111, ())
    history = [each async for each in graph.aget_state_history(at)]
    assert [each.values.get("total") for each in history] == [111, 11, 1, 0, 0]
    assert history == list(graph.get_state_history(at))
    older = await graph.aget_state(history[1].config)
    assert (older.values["total"], older.next) == (11, ("third",))
    changed = await graph.aupdate_state(at, {"total": 1000}, as_node="second")
    state = graph.get_state(changed)
    assert (state.values["total"], state.next) == (1111, ("third",))
    assert (await graph.ainvoke(None, at))["total"] == 1211
    assert [each.values["total"] async for each in graph.aget_state_history(at, limit=2)] == [1211, 1111]


async def test_it_is_drawn(remote: Any) -> None:
    graph = remote("nested")
    assert set((await graph.aget_graph()).nodes) == {"__start__", "enter", "child", "leave", "__end__"}
    assert any("grand" in name for name in graph.get_graph(xray=True).nodes)
    assert "enter" in graph.get_graph().draw_mermaid()


async def test_a_question_interrupts_and_is_answered(remote: Any, at: RunnableConfig) -> None:
    graph = remote("question")
    (interrupt,) = (await graph.ainvoke({"topic": "x"}, at))["__interrupt__"]
    assert interrupt["value"] == {"question": "publish?", "draft": "about x"}
    state = await graph.aget_state(at)
    assert state.next == ("review",)
    assert state.tasks[0].interrupts[0].id == interrupt["id"]
    assert (await graph.ainvoke(Command(resume="no"), at))["trail"] == ["draft", "review", "shelve"]


async def test_a_failing_graph_fails_here(remote: Any, at: RunnableConfig) -> None:
    with pytest.raises(RemoteException, match="no good value"):
        await remote("failing").ainvoke({"kind": "value"}, at)


# As a node of a graph that runs here


class Topic(TypedDict, total=False):
    topic: str
    decision: Any
    trail: Annotated[list[str], operator.add]


def with_remote_node(graph: RemoteGraph) -> Any:
    return (
        StateGraph(Topic)
        .add_node("open", lambda state: {"topic": "x", "trail": ["open"]})
        .add_node("remote", graph)
        .add_edge(START, "open")
        .add_edge("open", "remote")
        .add_edge("remote", END)
        .compile(checkpointer=InMemorySaver())
    )


async def test_it_is_a_node_whose_questions_pass_through(remote: Any, at: RunnableConfig) -> None:
    """The local graph asks; the answer goes to the remote thread, which has the same id."""
    graph = remote("question")
    local = with_remote_node(graph)
    seen = [part async for part in local.astream({}, at, stream_mode="updates", subgraphs=True)]
    assert [(len(namespace), *update) for namespace, update in seen] == [
        (0, "open"),
        (1, "draft"),
        (1, "__interrupt__"),
        (0, "__interrupt__"),
    ]
    (interrupt,) = (await local.aget_state(at)).interrupts
    assert interrupt.value == {"question": "publish?", "draft": "about x"}
    assert (await graph.ainvoke(Command(resume={interrupt.id: "no"}), at))["trail"][-1] == "shelve"


def test_a_synchronous_graph_has_it_as_a_node(server: LiveServer, at: RunnableConfig) -> None:
    with server.sync_client() as sync_client:
        local = with_remote_node(RemoteGraph("question", sync_client=sync_client))
        (interrupt,) = local.invoke({}, at)["__interrupt__"]
        assert interrupt.value == {"question": "publish?", "draft": "about x"}
        steps = with_remote_node(RemoteGraph("steps", sync_client=sync_client))
        given: RunnableConfig = {"configurable": {"thread_id": str(uuid.uuid4())}}
        assert steps.invoke({}, given)["trail"] == ["open", "open", "first", "second", "third"]


# The third version of its events


async def test_events_of_the_third_version(remote: Any, at: RunnableConfig) -> None:
    async with await remote("steps").astream_events({"text": "x"}, at, version="v3") as run:
        assert [each async for each in run.values][-1]["total"] == 111
        assert (await run.output())["trail"] == ["first", "second", "third"]
    hi = {"messages": [{"role": "user", "content": "hi"}]}
    async with await remote("chat").astream_events(hi, version="v3") as run:
        (message,) = [each async for each in run.messages]
        assert await message.text == "you said hi"


async def test_questions_in_the_third_version(remote: Any, at: RunnableConfig) -> None:
    graph = remote("question")
    async with await graph.astream_events({"topic": "x"}, at, version="v3") as run:
        assert [each async for each in run.values]
        assert await run.interrupted()
        assert [each["value"]["question"] for each in await run.interrupts()] == ["publish?"]
    async with await graph.astream_events("no", at, version="v3") as run:
        assert (await run.output())["decision"] == "no"

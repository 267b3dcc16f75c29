"""The walk-through of the README with both Python clients, whatever crashes between its steps."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveServer
from langgraph_sdk.errors import UnprocessableEntityError
from walkthrough import FACTS, MOVED, PIZZA, RESTARTS, WHO, Event, example_server, said, told, walk_through


@pytest.fixture
def example(tmp_path: Path) -> Iterator[LiveServer]:
    with example_server(tmp_path) as server:
        yield server


def request(user: str, text: str) -> dict[str, Any]:
    return {
        "assistant_id": "agent",
        "input": {"messages": [{"role": "user", "content": text}]},
        "config": {"configurable": {"user_id": user}},
    }


@pytest.mark.parametrize("restart_before", RESTARTS.values(), ids=RESTARTS)
def test_walk_through(example: LiveServer, restart_before: set[int]) -> None:
    async def say(thread: str | None, user: str, text: str) -> tuple[str, list[Event]]:
        async with example.client() as client:
            if thread is None:
                thread = (await client.threads.create())["thread_id"]
            stream = client.runs.stream(thread, **request(user, text))
            return thread, [(part.event, part.data) async for part in stream]

    walk_through(example, lambda *step: asyncio.run(say(*step)), restart_before)


@pytest.mark.parametrize("restart_before", [RESTARTS["never"], RESTARTS["always"]], ids=["never", "always"])
def test_walk_through_with_the_sync_client(example: LiveServer, restart_before: set[int]) -> None:
    def say(thread: str | None, user: str, text: str) -> tuple[str, list[Event]]:
        with example.sync_client() as client:
            if thread is None:
                thread = client.threads.create()["thread_id"]
            return thread, [(part.event, part.data) for part in client.runs.stream(thread, **request(user, text))]

    first, second, third = walk_through(example, say, restart_before)
    with example.sync_client() as client:
        state = client.threads.get_state(first)
        assert isinstance(state["values"], dict)
        assert said(state["values"]["messages"]) == told(PIZZA) + told(MOVED)
        for thread in (first, second, third):
            seen = [client.threads.get_state(thread), client.threads.get_history(thread), client.threads.get(thread)]
            assert '"info"' not in json.dumps(seen)
        runs = [run["status"] for thread in (first, second, third) for run in client.runs.list(thread)]
        assert runs == ["success"] * 4
        items = client.store.search_items(("scoped", "user_id", "info"))["items"]
        assert [item["namespace"] for item in items] == [["scoped", "user_id", "info", "123"]] * 2
        assert sorted((item["value"] for item in items), key=lambda value: str(value["topic"])) == FACTS


async def test_the_reply_streams_word_by_word(example: LiveServer) -> None:
    async with example.client() as client:
        await client.runs.wait(None, **request("123", PIZZA))
        chunks = [
            part.data[0]
            async for part in client.runs.stream(None, **request("123", WHO), stream_mode="messages-tuple")
            if part.event == "messages"
        ]
    assert {chunk["type"] for chunk in chunks} == {"AIMessageChunk"}
    assert len([chunk for chunk in chunks if chunk["content"]]) > 3
    assert "pepperoni pizza" in "".join(chunk["content"] for chunk in chunks)


async def test_a_run_without_a_user_is_refused(example: LiveServer) -> None:
    """The graph is known when the run is made, so nothing is stored first."""
    async with example.client() as client:
        thread = await client.threads.create()
        with pytest.raises(UnprocessableEntityError, match="user_id"):
            await client.runs.create(thread["thread_id"], "agent", input={"messages": []})
        assert await client.runs.list(thread["thread_id"]) == []


async def test_short_runs_stream_whole_even_many_at_once(example: LiveServer) -> None:
    """A run may be over before its client reads the first event."""
    async with example.client() as client:

        async def events() -> list[str]:
            return [part.event async for part in client.runs.stream(None, **request("123", WHO))]

        for _ in range(10):
            assert await asyncio.gather(*(events() for _ in range(16))) == [["metadata", "values", "values"]] * 16

"""Assistants as tools, for the client of the official MCP SDK."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually
from langgraph_sdk.client import LangGraphClient
from mcp import ClientSession, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, PaginatedRequestParams, TextContent, Tool

import devserver

SERVED = {name: f"./basic.py:{name}" for name in ("steps", "chat", "question", "failing", "gated", "context")}
SOURCES = {"basic.py": (GRAPHS / "basic.py").read_text()}
ACCEPT = {"accept": "application/json, text/event-stream"}


@contextlib.asynccontextmanager
async def session_with(server: LiveServer) -> AsyncIterator[ClientSession]:
    async with streamable_http_client(f"{server.url}/mcp") as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


async def call(session: ClientSession, name: str, arguments: dict[str, Any] | None = None) -> tuple[bool, str]:
    """Whether a tool failed, and its text."""
    result = await session.call_tool(name, arguments)
    assert isinstance(result, CallToolResult)
    [content] = result.content
    assert isinstance(content, TextContent)
    return bool(result.is_error), content.text


async def all_tools(session: ClientSession) -> list[list[Tool]]:
    """The tools, page by page."""
    pages, cursor = [], None
    while True:
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))
        pages.append(page.tools)
        cursor = page.next_cursor
        if cursor is None:
            return pages


def post(http: httpx.Client, method: str, params: Any = None, **options: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, **({} if params is None else {"params": params})}
    return http.post("/mcp", json=body, headers=ACCEPT, **options).json()


def make_many(server: LiveServer, names: list[str], graph_id: str = "steps") -> None:
    """Assistants, straight into the file of a server that runs."""
    at = devserver.now()
    with contextlib.closing(sqlite3.connect(server.folder / "devserver.db", timeout=30)) as conn, conn:
        conn.create_function("steady", 0, devserver.CLOCK.steady)
        for name in names:
            new = devserver.Assistant(str(uuid.uuid4()), graph_id, name, None, {}, {}, {}, 1, at, at)
            devserver.Assistants(conn).insert(new)


# Meeting


async def test_the_server_says_what_it_is(server: LiveServer) -> None:
    async with streamable_http_client(f"{server.url}/mcp") as (read, write), ClientSession(read, write) as session:
        met = await session.initialize()
        assert (met.server_info.name, met.server_info.version) == ("devserver", devserver.__version__)
        assert met.capabilities.tools
        assert met.capabilities.tools.list_changed is False
        assert await session.send_ping() is not None


@pytest.mark.parametrize(
    ("asked", "given"), [("2024-11-05", "2024-11-05"), ("2025-06-18", "2025-06-18"), ("1999-01-01", "2025-11-25")]
)
def test_a_version_that_is_not_known_becomes_the_latest(http: httpx.Client, asked: str, given: str) -> None:
    assert post(http, "initialize", {"protocolVersion": asked})["result"]["protocolVersion"] == given


# Tools


async def test_every_assistant_is_a_tool(server: LiveServer, client: LangGraphClient) -> None:
    await client.assistants.create("chat", name="Small  talk (nice!)", description="Chats", if_exists="do_nothing")
    async with session_with(server) as session:
        [tools] = await all_tools(session)
    found = {tool.name: tool for tool in tools}
    assert {"steps", "chat", "question", "Small_talk_nice"} <= set(found)
    talk, steps = found["Small_talk_nice"], found["steps"]
    assert (talk.title, talk.description) == ("Small  talk (nice!)", "Chats")
    assert steps.description == "Tool based on the steps assistant"
    assert talk.input_schema["properties"]["messages"]["type"] == "string"
    assert set(steps.input_schema["properties"]) == {"text", "trail", "total"}


async def test_a_name_without_a_letter_that_may_be_used_is_the_id(server: LiveServer, client: LangGraphClient) -> None:
    made = await client.assistants.create("steps", name="天气")
    async with session_with(server) as session:
        [tools] = await all_tools(session)
        assert "天气" in {tool.title for tool in tools if tool.name == made["assistant_id"]}
        failed, _ = await call(session, made["assistant_id"], {"text": "x"})
    assert not failed


async def test_a_tool_gives_the_values_of_its_graph(server: LiveServer) -> None:
    async with session_with(server) as session:
        failed, text = await call(session, "steps", {"text": "x"})
        assert (failed, text) == (False, repr({"text": "x!", "trail": ["first", "second", "third"], "total": 111}))
        failed, text = await call(session, "chat", {"messages": "hello"})
        assert (failed, "'content': 'you said hello'" in text) == (False, True)
        failed, text = await call(session, "steps")
        assert (failed, "'total': 111" in text) == (False, True)


async def test_a_failing_tool_says_why(server: LiveServer) -> None:
    async with session_with(server) as session:
        assert await call(session, "failing", {"kind": "value"}) == (True, "ValueError: no good value")
        failed, text = await call(session, "failing", {"kind": "own"})
    assert (failed, text) == (True, "UnheardError: nobody knows this class")


async def test_a_tool_that_asks_shows_its_question(server: LiveServer) -> None:
    async with session_with(server) as session:
        failed, text = await call(session, "question", {"topic": "tea"})
    assert (failed, "__interrupt__" in text, "publish?" in text) == (False, True, True)


def test_a_context_reaches_the_graph(http: httpx.Client) -> None:
    result = post(http, "tools/call", {"name": "context", "context": {"user": "ann"}})["result"]
    assert "'user': 'ann'" in result["content"][0]["text"]


async def test_a_tool_leaves_no_thread(server: LiveServer, client: LangGraphClient) -> None:
    before = await client.threads.count()
    async with session_with(server) as session:
        await call(session, "steps", {"text": "x"})
    assert await client.threads.count() == before


@pytest.mark.parametrize("name", ["no-such-tool", "", None, 5, {"a": 1}])
def test_an_unknown_tool_is_an_error(http: httpx.Client, name: Any) -> None:
    error = post(http, "tools/call", {"name": name, "arguments": {}})["error"]
    assert (error["code"], error["message"]) == (-32602, f"Unknown tool: {name}")


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"name": "steps", "arguments": ["x"]}, "arguments must be an object"),
        ({"name": "steps", "context": ["x"]}, "context"),
        (["steps"], "params must be an object"),
    ],
)
def test_what_is_wrong_with_a_call_is_named(http: httpx.Client, params: Any, text: str) -> None:
    error = post(http, "tools/call", params)["error"]
    assert error["code"] == -32602
    assert text in error["message"]


async def test_a_call_that_is_none_is_refused(server: LiveServer, http: httpx.Client) -> None:
    for body in (b"{", b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'):
        assert http.post("/mcp", content=body, headers={"accept": "text/html"}).status_code == 400
    odd_ones: list[Any] = [[], {"id": 1, "method": "ping"}, {"jsonrpc": "2.0"}]
    for odd in odd_ones:
        assert http.post("/mcp", json=odd, headers=ACCEPT).status_code == 400
    assert http.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/x"}, headers=ACCEPT).status_code == 202
    assert post(http, "tools/destroy")["error"]["code"] == -32601
    assert [http.get("/mcp").status_code, http.delete("/mcp").status_code, http.put("/mcp").status_code] == [
        405,
        404,
        405,
    ]
    async with session_with(server) as session:
        with pytest.raises(MCPError, match="Unknown tool: nothing"):
            await session.call_tool("nothing")


# Many


async def test_more_than_a_thousand_assistants_are_tools(make_server: Callable[..., LiveServer]) -> None:
    """The oldest one of 1,050 is found, by name; the list comes in pages of 100."""
    server = make_server({"steps": "./basic.py:steps"}, SOURCES, "--no-reload")
    names = [f"tool {number}" for number in range(1050)]
    make_many(server, [*names, "tool\t7"])
    async with session_with(server) as session:
        pages = await all_tools(session)
        assert [len(page) for page in pages[:-1]] == [100] * 10
        assert {tool.title for page in pages for tool in page} >= {"steps", *names}
        assert (await call(session, "steps", {"text": "x"}))[0] is False
        assert (await call(session, "tool_0", {"text": "x"}))[0] is False
        with pytest.raises(MCPError, match="Multiple tools found"):
            await session.call_tool("tool_7", {"text": "x"})
    assert await asyncio.to_thread(server.stop) == 0


async def test_doubles_are_listed_once_and_not_called(server: LiveServer) -> None:
    name = f"double {uuid.uuid4()}"
    make_many(server, [name, name])
    async with session_with(server) as session:
        [tools] = await all_tools(session)
        assert [tool.title for tool in tools if tool.title == name] == [name]
        with pytest.raises(MCPError, match="Multiple tools found"):
            await session.call_tool(name.replace(" ", "_"), {})


# Servers


async def test_a_graph_that_is_gone_is_no_tool(make_server: Callable[..., LiveServer]) -> None:
    graphs = {name: f"./basic.py:{name}" for name in ("steps", "chat")}
    server = make_server(graphs, SOURCES, "--no-reload")
    make_many(server, ["kept", "of steps"])
    make_many(server, ["of chat"], "chat")
    assert await asyncio.to_thread(server.stop) == 0
    (server.folder / "langgraph.json").write_text(json.dumps({"graphs": {"steps": graphs["steps"]}}))
    await asyncio.to_thread(server.start)
    async with session_with(server) as session:
        [tools] = await all_tools(session)
        assert {tool.name for tool in tools} == {"steps", "kept", "of_steps"}
        with pytest.raises(MCPError, match="Unknown tool: of_chat"):
            await session.call_tool("of_chat", {})
    assert await asyncio.to_thread(server.stop) == 0


async def test_a_graph_that_can_not_be_made_is_no_tool(make_server: Callable[..., LiveServer]) -> None:
    broken = "def make(config):\n    raise RuntimeError('no key')\n"
    graphs = {"steps": SERVED["steps"], "broken": "./broken.py:make", "chat": SERVED["chat"]}
    server = make_server(graphs, {**SOURCES, "broken.py": broken}, "--no-reload")
    async with session_with(server) as session:
        [tools] = await all_tools(session)
        assert {tool.name for tool in tools} == {"steps", "chat"}
        assert (await call(session, "steps", {"text": "a"}))[0] is False
    assert f"{devserver.system_assistant_id('broken')} is left out of the tools: RuntimeError('no key')" in server.log


async def test_a_stop_ends_a_call_that_waits(make_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    server = make_server({"gated": "./basic.py:gated"}, SOURCES, "--no-reload")
    async with session_with(server) as session, server.client() as client:
        calling = asyncio.ensure_future(session.call_tool("gated", {"gate": str(tmp_path / "never")}))
        await eventually(lambda: client.threads.count(status="busy"))
        stopping = asyncio.ensure_future(asyncio.to_thread(server.stop))
        with pytest.raises(MCPError, match="goes on when the server starts again"):
            await calling
    assert await stopping == 0, server.log


def test_no_package_of_the_protocol_is_needed(make_server: Callable[..., LiveServer]) -> None:
    """The project hides it, as if it was not installed."""
    hidden = f"{SOURCES['basic.py']}\nimport sys\nsys.modules['mcp'] = None\n"
    server = make_server({"steps": "./basic.py:steps"}, {"basic.py": hidden}, "--no-reload")
    with server.http() as http:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        [tool] = http.post("/mcp", json=call, headers=ACCEPT).json()["result"]["tools"]
        assert tool["name"] == "steps"
    assert server.stop() == 0

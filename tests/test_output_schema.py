"""A graph's output schema decides what its runs show, by every door; its state keeps everything. And its schemas."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk.client import LangGraphClient

import devserver

SECRET = "internal text"
GRAPHS_WITH_OUTPUT = ("private", "nested", "made")
SERVED = {name: f"./forms.py:{name}" for name in (*GRAPHS_WITH_OUTPUT, "odd", "odd_model", "asks")}
MCP = {"accept": "application/json, text/event-stream"}


class Asked:
    """A run that was asked for by one of the doors; each gives all that the door shows."""

    def __init__(self, server: LiveServer, client: LangGraphClient, http: httpx.Client, graph: str, q: str) -> None:
        self.server, self.client, self.http, self.graph, self.q = server, client, http, graph, q
        self.input: dict[str, Any] = {"q": q}

    async def thread(self) -> str:
        return (await self.client.threads.create())["thread_id"]

    async def stream(self, *modes: Any, thread_id: str | None = None) -> list[Any]:
        parts = self.client.runs.stream(thread_id, self.graph, input=self.input, stream_mode=list(modes))
        return [part.data async for part in parts if part.event in modes]

    async def finished(self) -> tuple[str, str]:
        thread_id = await self.thread()
        run = await self.client.runs.create(thread_id, self.graph, input=self.input)
        await self.client.runs.join(thread_id, run["run_id"])
        return thread_id, run["run_id"]

    async def wait(self) -> Any:
        return await self.client.runs.wait(await self.thread(), self.graph, input=self.input)

    async def wait_stateless(self) -> Any:
        return await self.client.runs.wait(None, self.graph, input=self.input)

    async def wait_for_updates(self) -> Any:
        body = {"assistant_id": self.graph, "input": self.input, "stream_mode": ["updates"]}
        return self.http.post(f"/threads/{await self.thread()}/runs/wait", json=body).json()

    async def wait_with_events(self) -> Any:
        body = {"assistant_id": self.graph, "input": self.input, "stream_mode": ["values", "events"]}
        return self.http.post("/runs/wait", json=body).json()

    async def join(self) -> Any:
        thread_id = await self.thread()
        run = await self.client.runs.create(thread_id, self.graph, input=self.input)
        return await self.client.runs.join(thread_id, run["run_id"])

    async def join_finished(self) -> Any:
        return await self.client.runs.join(*await self.finished())

    async def values(self) -> Any:
        return await self.stream("values")

    async def updates(self) -> Any:
        return await self.stream("updates")

    async def values_beside_events(self) -> Any:
        parts = self.client.runs.stream(None, self.graph, input=self.input, stream_mode=["values", "updates", "events"])
        return [part.data async for part in parts if part.event in ("values", "updates")]

    async def join_stream(self) -> Any:
        thread_id = await self.thread()
        run = await self.client.runs.create(
            thread_id, self.graph, input=self.input, stream_mode=["values", "updates"], stream_resumable=True
        )
        await self.client.runs.join(thread_id, run["run_id"])
        parts = self.client.runs.join_stream(thread_id, run["run_id"], last_event_id="-")
        return [part.data async for part in parts]

    async def protocol(self) -> Any:
        thread_id = str(uuid.uuid4())
        params = {"assistant_id": self.graph, "input": self.input}
        self.http.post(f"/threads/{thread_id}/commands", json={"id": 1, "method": "run.start", "params": params})
        return self._protocol(thread_id)

    def _protocol(self, thread_id: str) -> list[Any]:
        body, found = {"channels": ["values", "updates", "lifecycle"], "depth": 0, "namespaces": [[]]}, []
        with self.http.stream("POST", f"/threads/{thread_id}/stream/events", json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line[6:])["params"]["data"])
                    if isinstance(found[-1], dict) and found[-1].get("event") in ("completed", "interrupted"):
                        break
                elif line.startswith(": heartbeat"):
                    break
        return found

    async def mcp(self) -> Any:
        params = {"name": self.graph, "arguments": self.input}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return self.http.post("/mcp", json=body, headers=MCP).json()

    def _a2a(self, method: str, params: Any) -> httpx.Response:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return self.http.post(f"/a2a/{devserver.system_assistant_id(self.graph)}", json=body)

    def _message(self) -> Any:
        part = {"kind": "data", "data": self.input}
        return {"message": {"role": "user", "messageId": uuid.uuid4().hex, "parts": [part]}}

    async def a2a(self) -> Any:
        return self._a2a("message/send", self._message()).json()

    async def a2a_stream(self) -> Any:
        return self._a2a("message/stream", self._message()).text

    async def a2a_get(self) -> Any:
        task = self._a2a("message/send", self._message()).json()["result"]
        return self._a2a("tasks/get", {"id": task["id"]}).json()

    async def remote(self) -> Any:
        return await RemoteGraph(self.graph, client=self.client).ainvoke(self.input)

    async def remote_updates(self) -> Any:
        remote = RemoteGraph(self.graph, client=self.client)
        return [part async for part in remote.astream(self.input, stream_mode=["updates", "values"])]


DOORS: list[Callable[[Asked], Coroutine[Any, Any, Any]]] = [
    Asked.wait,
    Asked.wait_stateless,
    Asked.wait_for_updates,
    Asked.wait_with_events,
    Asked.join,
    Asked.join_finished,
    Asked.values,
    Asked.updates,
    Asked.values_beside_events,
    Asked.join_stream,
    Asked.protocol,
    Asked.mcp,
    Asked.a2a,
    Asked.a2a_stream,
    Asked.a2a_get,
    Asked.remote,
    Asked.remote_updates,
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("graph", GRAPHS_WITH_OUTPUT)
async def test_a_run_shows_its_graphs_output(
    server: LiveServer, client: LangGraphClient, http: httpx.Client, graph: str, door: Callable[..., Any]
) -> None:
    for q in ("x", "both"):
        shown = str(await door(Asked(server, client, http, graph, q)))
        assert f"{q}!" in shown
        assert SECRET not in shown
        assert "secret" not in shown


@pytest.mark.parametrize("door", [Asked.wait, Asked.wait_for_updates, Asked.join_finished, Asked.mcp, Asked.a2a_get])
async def test_a_run_that_asks_shows_its_graphs_output(
    server: LiveServer, client: LangGraphClient, http: httpx.Client, door: Callable[..., Any]
) -> None:
    shown = str(await door(Asked(server, client, http, "private", "ask")))
    assert "really?" in shown
    assert SECRET not in shown


async def test_updates_are_those_that_langgraph_gives(client: LangGraphClient) -> None:
    wanted = [{"think": {"log": ["think"]}}, {"answer": {"ans": "both!"}}]
    for modes in (["updates"], ["updates", "events"]):
        parts = client.runs.stream(None, "private", input={"q": "both"}, stream_mode=modes)  # type: ignore[arg-type]
        assert [part.data async for part in parts if part.event == "updates"] == wanted
        parts = client.runs.stream(None, "private", input={"q": "x"}, stream_mode=modes)  # type: ignore[arg-type]
        updates = [part.data async for part in parts if part.event == "updates"]
        assert updates == [{"think": None}, {"answer": {"ans": "x!"}}]


@pytest.mark.parametrize("graph", GRAPHS_WITH_OUTPUT[::2])
async def test_the_state_keeps_everything(
    server: LiveServer, client: LangGraphClient, http: httpx.Client, graph: str
) -> None:
    asked = Asked(server, client, http, graph, "x")
    thread_id, _ = await asked.finished()
    whole = {"q": "x", "ans": "x!", "secret": SECRET}
    state: Any = await client.threads.get_state(thread_id)
    thread: Any = await client.threads.get(thread_id)
    history: Any = await client.threads.get_history(thread_id)
    found: Any = await client.threads.search(ids=[thread_id])
    for values in (state["values"], thread["values"], history[0]["values"], found[0]["values"]):
        assert {key: values[key] for key in whole} == whole
    assert "output_keys" not in thread
    for mode in ("events", "tasks", "checkpoints", "debug"):
        assert SECRET in str(await asked.stream(mode, thread_id=await asked.thread()))
    ends = [e for e in await asked.stream("events") if e["event"] == "on_chain_end" and not e["parent_ids"]]
    assert ends[-1]["data"]["output"]["secret"] == SECRET


async def test_a_changed_state_and_a_restart_keep_the_output(make_server: Callable[..., LiveServer]) -> None:
    files = {"forms.py": (GRAPHS / "forms.py").read_text()}
    server = make_server({"made": "./forms.py:made"}, files, "--no-reload")
    with server.http() as http:
        async with contextlib.aclosing(server.client()) as client:
            thread_id, run_id = await Asked(server, client, http, "made", "x").finished()
            await client.threads.update_state(thread_id, {"secret": "another", "ans": "changed"})
            assert (await client.runs.join(thread_id, run_id))["ans"] == "changed"
    assert server.stop() == 0
    server.start()
    async with contextlib.aclosing(server.client()) as client:
        result: Any = await client.runs.join(thread_id, run_id)
        state: Any = await client.threads.get_state(thread_id)
    assert (result["ans"], "secret" in result, state["values"]["secret"]) == ("changed", False, "another")


# Schemas


async def schemas_of(client: LangGraphClient, graph: str) -> Any:
    return await client.assistants.get_schemas(devserver.system_assistant_id(graph))


async def test_a_field_without_a_json_schema_may_hold_anything(client: LangGraphClient) -> None:
    schemas = await schemas_of(client, "odd")
    for kind, title in (("input_schema", "Odd"), ("output_schema", "Odd"), ("state_schema", "odd_state")):
        schema = schemas[kind]
        assert schema["title"] == title
        assert set(schema["properties"]) == {"n", "call", "own"}
        assert schema["properties"]["n"]["type"] == "integer"
        assert "type" not in schema["properties"]["call"]
    model = (await schemas_of(client, "odd_model"))["input_schema"]
    assert (model["title"], model["required"], set(model["properties"])) == ("OddModel", ["n"], {"n", "call"})


async def test_the_config_schema_has_the_fields_at_the_top(client: LangGraphClient) -> None:
    schemas = await schemas_of(client, "odd")
    names = {"enum": ["a", "b"], "default": "a", "title": "Model Name", "type": "string"}
    assert schemas["config_schema"]["title"] == "Configurable"
    assert schemas["config_schema"]["properties"]["model_name"] == names
    assert schemas["context_schema"]["title"] == "Configured"
    assert schemas["context_schema"]["properties"] == schemas["config_schema"]["properties"]
    plain = await schemas_of(client, "private")
    assert (plain["config_schema"], plain["context_schema"]) == ({}, None)


def test_tools_and_agents_describe_such_input_too(http: httpx.Client) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    tools = http.post("/mcp", json=body, headers=MCP).json()["result"]["tools"]
    tool = next(each for each in tools if each["name"] == "odd")
    assert set(tool["inputSchema"]["properties"]) == {"n", "call", "own"}
    card = http.get(f"/a2a/{devserver.system_assistant_id('odd')}/.well-known/agent-card.json")
    if card.status_code == 404:
        card = http.get("/.well-known/agent-card.json", params={"assistant_id": devserver.system_assistant_id("odd")})
    assert set(card.json()["skills"][0]["metadata"]["inputSchema"]["properties"]) == {"n", "call", "own"}


def test_the_server_never_failed(server: LiveServer) -> None:
    assert "failed in devserver" not in server.log

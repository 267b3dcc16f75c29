"""Custom authentication and authorization: who is let in, what each user may do, and that nothing leads around it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client as ws
from conftest import GRAPHS, LiveServer, eventually, write_project
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from websockets.exceptions import InvalidStatus

import devserver

SERVED = {
    "steps": "./basic.py:steps",
    "gated": "./basic.py:gated",
    "question": "./basic.py:question",
    "who": "./who.py:graph",
    "made": "./who.py:make",
}
FILES = {file.name: file.read_text() for file in GRAPHS.glob("*.py")}

# Everybody sees what is their own, told by the owner in the metadata and by the first label of a namespace.
OWN = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def who(authorization: str | None):
    assert authorization, "who are you?"
    name = authorization.removeprefix("Bearer ")
    return {"identity": name, "permissions": ["talk"], "team": f"team of {name}"}

@auth.on
async def own(ctx, value):
    value["metadata"]["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}

@auth.on.store
async def own_items(ctx, value):
    value["namespace"] = (ctx.user.identity, *(value["namespace"] or ()))
"""


def as_user(name: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"} if name else {}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("own")
    write_project(folder, SERVED, {**FILES, "auth.py": OWN}, auth={"path": "./auth.py:auth"})
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0, live.log


@pytest.fixture
def make(make_server: Callable[..., LiveServer]) -> Iterator[Callable[..., LiveServer]]:
    """Makes servers with a text for auth.py."""
    servers = []

    def made(text: str, *options: str, **auth: Any) -> LiveServer:
        files = {**FILES, "auth.py": text}
        server = make_server(SERVED, files, "--no-reload", *options, auth={"path": "./auth.py:auth", **auth})
        servers.append(server)
        return server

    yield made
    for server in servers:
        assert server.stop() == 0


ONLY_WHO = OWN[: OWN.index("@auth.on")]


async def test_without_handlers_whoever_is_known_may_do_everything(make: Callable[..., LiveServer]) -> None:
    server = make(ONLY_WHO)
    async with client_of(server, "alice") as alice, client_of(server, "bob") as bob:
        thread = (await alice.threads.create())["thread_id"]
        await alice.store.put_item(["notes"], "k", {"a": 1})
        await bob.runs.wait(thread, "steps", input={})
        assert [each["thread_id"] for each in await bob.threads.search()] == [thread]
        assert (await bob.store.get_item(["notes"], "k"))["value"] == {"a": 1}
        await alice.runs.wait(thread, "who", input={"note": "of alice"})
        await bob.threads.update_state(thread, {"notes": {"of bob": {}}}, as_node="look")  # shared values are his
        for client, notes in ((alice, ["of alice"]), (bob, ["of bob"])):
            values: Any = await client.runs.wait(None, "who", input={})
            assert values["seen"]["notes"] == notes
    with server.http() as http:
        assert http.get(f"/threads/{thread}").status_code == 401


@contextlib.asynccontextmanager
async def client_of(server: LiveServer, name: str) -> AsyncIterator[LangGraphClient]:
    client = get_client(url=server.url, api_key=None, headers=as_user(name))
    yield client
    await client.aclose()


# The matrix: what a stranger, and then the owner, get for each operation on the owner's things


@dataclass
class Case:
    """One way to use an operation. Names in braces stand for the owner's things."""

    json: Any = None
    params: dict[str, Any] = field(default_factory=dict)
    stranger: int = 404
    sees: Any = None  # what the stranger is shown, if that is no error
    owner: int = 200
    on: dict[str, str] = field(default_factory=dict)  # other things than usual, by name

    def named(self, world: dict[str, str]) -> dict[str, str]:
        return {**world, **{name: world[other] for name, other in self.on.items()}}


BUSY = {"thread_id": "busy_thread", "run_id": "busy_run"}
RUN: dict[str, Any] = {"assistant_id": "steps", "input": {"text": "x"}}
OWN_RUN = {"assistant_id": "{assistant_id}", "input": {"text": "x"}}
YEARLY = {"schedule": "0 0 1 1 *"}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "{name}", "arguments": {}}}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
ITEM = {"namespace": ["notes"], "key": "k", "value": {"text": "changed"}}
ANSWER = {"interrupt_id": "{interrupt_id}", "response": "yes"}


def command(method: str, **params: Any) -> dict[str, Any]:
    return {"id": 1, "method": method, "params": params}


def refused(code: str, message: str) -> dict[str, Any]:
    """What a command of the event streaming protocol answers."""
    return {"type": "error", "id": 1, "error": code, "message": message}


NOT_FOUND = "404: Thread or assistant not found."
NO_RUN = Case(stranger=200, sees={"__error__": devserver.RUN_NOT_FOUND})
NO_RUN_TEXT = f"event: error\r\ndata: {json.dumps(devserver.RUN_NOT_FOUND, separators=(',', ':'))}\r\n\r\n"
NO_RUN_STREAM = Case(stranger=200, sees=NO_RUN_TEXT)
PARTS = [{"kind": "data", "data": {"text": "x"}}]
SEND: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "message/send",
    "params": {"message": {"messageId": "m", "role": "user", "parts": PARTS}},
}
UNKNOWN_AGENT = {
    "jsonrpc": "2.0",
    "id": 1,
    "error": {"code": -32602, "message": "Assistant not found: '{assistant_id}'"},
}
UNKNOWN_TOOL = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "Unknown tool: {name}"}}
A, T, R = "/assistants/{assistant_id}", "/threads/{thread_id}", "/threads/{thread_id}/runs/{run_id}"
MATRIX: dict[str, list[Case]] = {
    "POST /assistants": [
        Case({"assistant_id": "{assistant_id}", "graph_id": "steps", "if_exists": "do_nothing"}, stranger=409)
    ],
    "POST /assistants/search": [
        Case({}, stranger=200, sees=[]),
        Case({"metadata": {"owner": "alice"}, "limit": 100}, stranger=200, sees=[]),
    ],
    "POST /assistants/count": [Case({}, stranger=200, sees=0)],
    f"GET {A}": [Case()],
    f"PATCH {A}": [Case({"name": "taken", "metadata": {"owner": "bob"}})],
    f"DELETE {A}": [Case(owner=204), Case(params={"delete_threads": "true"}, owner=204)],
    f"GET {A}/graph": [Case(), Case(params={"xray": "true"})],
    f"GET {A}/schemas": [Case()],
    f"GET {A}/subgraphs": [Case()],
    f"GET {A}/subgraphs/{{namespace}}": [Case()],
    f"POST {A}/versions": [Case({})],
    f"POST {A}/latest": [Case({"version": 1})],
    "POST /threads": [Case({"thread_id": "{thread_id}", "if_exists": "do_nothing"}, stranger=409)],
    "POST /threads/search": [
        Case({}, stranger=200, sees=[]),
        Case({"ids": ["{thread_id}"], "metadata": {"owner": "alice"}}, stranger=200, sees=[]),
    ],
    "POST /threads/count": [Case({}, stranger=200, sees=0)],
    "POST /threads/prune": [Case({"thread_ids": ["{thread_id}"]}, stranger=200, sees={"pruned_count": 0})],
    f"GET {T}": [Case()],
    f"PATCH {T}": [Case({"metadata": {"owner": "bob"}})],
    f"DELETE {T}": [Case(owner=204)],
    f"POST {T}/copy": [Case(stranger=409)],
    f"GET {T}/storage": [Case()],
    f"GET {T}/stream": [Case(stranger=200), Case(stranger=200, on=BUSY)],
    f"GET {T}/state": [Case()],
    f"POST {T}/state": [Case({"values": {"text": "taken"}})],
    f"PATCH {T}/state": [Case({"metadata": {"owner": "bob"}}, owner=204)],
    f"POST {T}/state/checkpoint": [Case({"checkpoint": {"checkpoint_id": "{checkpoint_id}"}})],
    f"GET {T}/state/{{checkpoint_id}}": [Case()],
    f"GET {T}/history": [Case(params={"limit": 5})],
    f"POST {T}/history": [Case({"limit": 5})],
    f"GET {T}/runs": [Case()],
    "GET /runs": [Case(stranger=200, sees=[]), Case(params={"status": "success"}, stranger=200, sees=[])],
    f"POST {T}/runs": [
        Case(RUN),
        Case({**RUN, "if_not_exists": "create"}),
        Case({**RUN, "multitask_strategy": "rollback"}, on=BUSY),
        Case({**RUN, "config": {"metadata": {"owner": "alice"}}, "metadata": {"owner": "alice"}}),
    ],
    f"POST {T}/runs/stream": [Case(RUN)],
    f"POST {T}/runs/wait": [Case(RUN)],
    f"GET {R}": [Case()],
    f"DELETE {R}": [Case(owner=204)],
    f"GET {R}/join": [NO_RUN, replace(NO_RUN, params={"cancel_on_disconnect": "true"})],
    f"GET {R}/stream": [NO_RUN_STREAM, replace(NO_RUN_STREAM, params={"stream_mode": "values"})],
    f"POST {R}/cancel": [Case(owner=202, on=BUSY), Case(params={"action": "rollback", "wait": "true"}, on=BUSY)],
    f"POST {T}/commands": [
        Case(command("run.start", **RUN), stranger=200, sees=refused("unknown_error", NOT_FOUND)),
        Case(
            command("input.respond", **ANSWER),
            stranger=200,
            sees=refused("no_such_run", "No interrupted run is bound to this thread."),
            on={"thread_id": "asking_thread"},
        ),
    ],
    f"POST {T}/stream/events": [Case({"channels": ["values"]}, stranger=200)],
    "POST /runs": [Case(OWN_RUN)],
    "POST /runs/stream": [Case(OWN_RUN)],
    "POST /runs/wait": [Case(OWN_RUN)],
    "POST /runs/batch": [Case([{"assistant_id": "steps"}, OWN_RUN])],
    "POST /runs/cancel": [
        Case({"thread_id": "{busy_thread}", "run_ids": ["{busy_run}"]}, owner=204),
        Case({"status": "all"}, owner=204),
        Case({"status": "running"}, {"action": "rollback"}, owner=204),
    ],
    "POST /runs/crons": [Case({**OWN_RUN, **YEARLY})],
    "POST /runs/crons/search": [Case({}, stranger=200, sees=[]), Case({"thread_id": "{thread_id}"}, {}, 200, [])],
    "POST /runs/crons/count": [Case({}, stranger=200, sees=0)],
    "GET /runs/crons/{cron_id}": [Case()],
    "PATCH /runs/crons/{cron_id}": [Case({"enabled": False, "metadata": {"owner": "bob"}})],
    "DELETE /runs/crons/{cron_id}": [Case(owner=204)],
    "POST /runs/crons/{cron_id}/fire": [Case()],
    f"POST {T}/runs/crons": [Case({**RUN, **YEARLY})],
    "POST /mcp/": [
        Case(CALL, stranger=200, sees=UNKNOWN_TOOL),
        Case(LIST, stranger=200, sees={"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}),
    ],
    "GET /mcp/": [Case(stranger=405, owner=405)],
    "DELETE /mcp/": [Case(stranger=404, owner=404)],
    "POST /a2a/{assistant_id}": [Case(SEND, stranger=200, sees=UNKNOWN_AGENT)],
    "GET /a2a/{assistant_id}": [Case(stranger=400)],
    "GET /.well-known/agent-card.json": [Case(params={"assistant_id": "{assistant_id}"}, stranger=400)],
    "PUT /store/items": [Case(ITEM, stranger=204, owner=204)],
    "GET /store/items": [
        Case(params={"namespace": "notes", "key": "k"}, stranger=200, sees="null"),
        Case(params={"namespace": "alice.notes", "key": "k"}, stranger=200, sees="null"),
    ],
    "DELETE /store/items": [Case({"namespace": ["notes"], "key": "k"}, stranger=204, owner=204)],
    "POST /store/items/search": [Case({"namespace_prefix": []}, stranger=200, sees={"items": []})],
    "POST /store/namespaces": [
        Case({}, stranger=200, sees={"namespaces": []}),
        Case({"prefix": ["*"], "suffix": ["notes"]}, stranger=200, sees={"namespaces": []}),
    ],
}
OPEN = {"GET /ok", "GET /info", "GET /metrics"}
CHOSEN = {f"POST {T}/commands", f"POST {T}/stream/events"}
ENDLESS = {f"GET {T}/stream", f"POST {T}/stream/events"}


def filled(value: Any, world: dict[str, str]) -> Any:
    """With the names in braces replaced."""
    if isinstance(value, str):
        for name, real in world.items():
            value = value.replace(f"{{{name}}}", real)
        return value
    if isinstance(value, dict):
        return {key: filled(member, world) for key, member in value.items()}
    return [filled(member, world) for member in value] if isinstance(value, list) else value


def request_of(operation: str, case: Case, world: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
    method, path = operation.split(" ")
    named = case.named(world)
    body = {} if case.json is None else {"json": filled(case.json, named)}
    accepted = {"accept": "application/json, text/event-stream"}
    place = {"url": filled(path, named).rstrip("/"), "params": filled(case.params, named)}
    return {"method": method, **place, "headers": {**headers, **accepted}, **body}


def attempt(http: httpx.Client, operation: str, case: Case, world: dict[str, str], name: str | None) -> tuple[int, Any]:
    """The status, and the body unless the stream is endless."""
    with http.stream(**request_of(operation, case, world, as_user(name))) as answer:
        if operation in ENDLESS and answer.status_code == 200:
            return 200, None
        text = answer.read().decode()
    is_json = answer.headers.get("content-type", "").startswith("application/json") and text
    return answer.status_code, json.loads(text) if is_json else text


def make_world(http: httpx.Client, name: str) -> dict[str, str]:
    """A user with one of everything, and a run that goes on. Gives the names of it all."""
    made = new_user(http, name)
    assistant = made("POST", "/assistants", json={"graph_id": "steps", "name": f"tool-{time.time_ns()}"})
    made("PATCH", f"/assistants/{assistant['assistant_id']}", json={"description": "second version"})
    thread = made("POST", "/threads", json={})["thread_id"]
    made("POST", f"/threads/{thread}/runs/wait", json={"assistant_id": assistant["assistant_id"], "input": {}})
    [run] = made("GET", f"/threads/{thread}/runs")
    busy, asking = made("POST", "/threads", json={})["thread_id"], made("POST", "/threads", json={})["thread_id"]
    live = made("POST", f"/threads/{busy}/runs", json={"assistant_id": "gated", "input": {"gate": "never"}})
    asked = made("POST", f"/threads/{asking}/runs/wait", json={"assistant_id": "question", "input": {}})
    cron = made("POST", f"/threads/{thread}/runs/crons", json={**RUN, **YEARLY})
    made("PUT", "/store/items", json={"namespace": ["notes"], "key": "k", "value": {"text": f"of {name}"}})
    deadline = time.monotonic() + 20
    while made("GET", f"/threads/{busy}/state")["next"] != ["wait"]:  # till then the run writes
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return {
        "assistant_id": assistant["assistant_id"],
        "name": assistant["name"],
        "namespace": "none",
        "thread_id": thread,
        "run_id": run["run_id"],
        "checkpoint_id": made("GET", f"/threads/{thread}/state")["checkpoint"]["checkpoint_id"],
        "busy_thread": busy,
        "busy_run": live["run_id"],
        "asking_thread": asking,
        "interrupt_id": asked["__interrupt__"][0]["id"],
        "cron_id": cron["cron_id"],
    }


def new_user(http: httpx.Client, name: str) -> Callable[..., Any]:
    def asked(method: str, path: str, **more: Any) -> Any:
        answer = http.request(method, path, headers=as_user(name), **more).raise_for_status()
        return answer.json() if answer.content else None

    return asked


def view(http: httpx.Client, world: dict[str, str], name: str) -> Any:
    """All that a user has."""
    get = new_user(http, name)
    threads = get("POST", "/threads/search", json={"sort_by": "created_at", "limit": 100})
    for thread in threads:
        thread["runs"] = get("GET", f"/threads/{thread['thread_id']}/runs")
        thread["history"] = get("GET", f"/threads/{thread['thread_id']}/history", params={"limit": 100})
        if thread["status"] == "busy":  # its run goes on
            del thread["history"], thread["values"], thread["updated_at"], thread["state_updated_at"], thread["runs"]
    return {
        "threads": threads,
        "assistants": get("POST", "/assistants/search", json={}),
        "versions": get("POST", f"/assistants/{world['assistant_id']}/versions", json={}),
        "crons": get("POST", "/runs/crons/search", json={}),
        "items": get("POST", "/store/items/search", json={"namespace_prefix": []}),
    }


def clear(http: httpx.Client, name: str) -> None:
    """Remove all that a user has."""
    get = new_user(http, name)
    for thread in get("POST", "/threads/search", json={"limit": 100}):
        http.delete(f"/threads/{thread['thread_id']}", headers=as_user(name))  # a temporary one may be gone
    for assistant in get("POST", "/assistants/search", json={"limit": 100}):
        get("DELETE", f"/assistants/{assistant['assistant_id']}")
    for cron in get("POST", "/runs/crons/search", json={"limit": 100}):
        get("DELETE", f"/runs/crons/{cron['cron_id']}")
    for item in get("POST", "/store/items/search", json={"namespace_prefix": []})["items"]:
        get("DELETE", "/store/items", json={"namespace": item["namespace"][1:], "key": item["key"]})


@pytest.mark.parametrize(("operation", "case"), [(op, case) for op, cases in MATRIX.items() for case in cases])
def test_an_operation_is_for_the_owner_only(http: httpx.Client, operation: str, case: Case) -> None:
    clear(http, "alice")
    clear(http, "bob")
    world = make_world(http, "alice")
    before = view(http, world, "alice")
    assert attempt(http, operation, case, world, None) == (401, {"detail": "Unauthorized"})
    status, shown = attempt(http, operation, case, world, "bob")
    assert status == case.stranger, shown
    if status in (404, 409) and isinstance(shown, dict):
        assert not set(shown) - {"detail"}
    elif case.sees is not None:
        assert shown == (None if case.sees == "null" else filled(case.sees, case.named(world)))
    assert view(http, world, "alice") == before
    status, shown = attempt(http, operation, case, world, "alice")
    assert status == case.owner, shown
    if case.owner == 200 and isinstance(case.sees, list | dict | int):
        assert shown != filled(case.sees, case.named(world))
    clear(http, "alice")


def test_every_operation_is_in_the_matrix() -> None:
    assert {f"{route.method} {route.path}" for route in devserver.ROUTES} == MATRIX.keys() | OPEN
    assert [route.path for route in devserver.ROUTES if not route.rule] == []
    assert {f"{route.method} {route.path}" for route in devserver.ROUTES if route.rule == "open"} == OPEN
    unlisted = {f"{route.method} {route.path}": route.rule for route in devserver.UNLISTED}
    assert {name for name, rule in unlisted.items() if rule == "open"} == {
        *("GET /", "GET /ui", "GET /openapi.json", "GET /docs")
    }
    assert "" not in unlisted.values()


# What is another's, and what is nobody's: not even the time that an answer takes may tell, so the same is looked up

TRACED = """
import devserver
connect = devserver.Db._connect

def traced(db, writer):
    conn = connect(db, writer)
    conn.set_trace_callback(lambda statement: print(" ".join(statement.split()), file=trace, flush=True))
    return conn

with open("trace.txt", "w") as trace:
    devserver.Db._connect = traced
    devserver.main()
"""
NO_TOKEN: dict[str, str] = {}
WRONG_TOKEN = {"authorization": "Basic YWxpY2U6"}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("traced")
    text = OWN.replace('authorization, "who', 'authorization and authorization.startswith("Bearer "), "who')
    write_project(folder, SERVED, {**FILES, "auth.py": text}, auth={"path": "./auth.py:auth"})
    live = LiveServer(folder, ["--no-reload"], program=TRACED).start()
    yield live
    assert live.stop() == 0, live.log


@pytest.fixture(scope="module")
def worlds(traced: LiveServer) -> list[dict[str, str]]:
    """Alice's things, and what is no thing at all."""
    with traced.http() as http:
        alices = make_world(http, "alice")
    return [alices, {key: re.sub("[0-9]", lambda digit: str(9 - int(digit[0])), it) for key, it in alices.items()}]


def answer_and_trace(server: LiveServer, world: dict[str, str], request: dict[str, Any]) -> Any:
    """Status, headers and body of an answer, and the statements about things of the world that it took; with the
    things' names instead of their ids."""
    with (server.folder / "trace.txt").open() as trace, server.http() as http:
        trace.seek(0, os.SEEK_END)
        answer = http.request(**request)
        headers = sorted((name, it) for name, it in answer.headers.items() if name != "date")
        text = json.dumps([answer.status_code, headers, answer.text, trace.read().splitlines()])
    for name, it in world.items():
        text = text.replace(it, f"{{{name}}}")
    *told, statements = json.loads(text)
    return *told, [each for each in statements if any(f"{{{name}}}" in each for name in world)]


TASK = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"id": "{thread_id}:{run_id}"}}
REFUSED = [
    (operation, case) for operation, cases in MATRIX.items() for case in cases if case.stranger == 404 or case.sees
]
# but where a thing may be made, or waited for, under an id of one's own choice: that it is taken has to be said
REFUSED = [
    *(each for each in REFUSED if "if_not_exists" not in (each[1].json or ()) and each[0] not in CHOSEN),
    (f"POST /a2a/{devserver.system_assistant_id('steps')}", Case(TASK)),
]


@pytest.mark.parametrize(("operation", "case"), REFUSED)
def test_what_is_anothers_cannot_be_told_from_what_is_not_there(
    traced: LiveServer, worlds: list[dict[str, str]], operation: str, case: Case
) -> None:
    bob = as_user("bob")
    others, nobodys = (answer_and_trace(traced, world, request_of(operation, case, world, bob)) for world in worlds)
    assert others == nobodys


@pytest.mark.parametrize(("operation", "case"), [(op, case) for op, cases in MATRIX.items() for case in cases])
def test_a_wrong_credential_learns_no_more_than_none(
    traced: LiveServer, worlds: list[dict[str, str]], operation: str, case: Case
) -> None:
    """Nothing is looked up for it."""
    told = [
        answer_and_trace(traced, world, request_of(operation, case, world, headers))
        for world in worlds
        for headers in (NO_TOKEN, WRONG_TOKEN)
    ]
    assert told == [told[0]] * 4
    assert (told[0][0], told[0][-1]) == (401, [])


# Tasks of agents


def test_tasks_are_for_their_owner_only(http: httpx.Client) -> None:
    """The agent is everybody's: the assistant of a graph."""
    path = f"/a2a/{devserver.system_assistant_id('steps')}"

    def call(name: str, method: str, **params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return http.post(path, json=body, headers=as_user(name)).raise_for_status().json()

    task = call("alice", "message/send", **SEND["params"])["result"]
    message = {**SEND["params"]["message"], "contextId": task["contextId"]}
    for method, params in {
        "tasks/get": {"id": task["id"]},
        "tasks/cancel": {"id": task["id"]},
        "tasks/resubscribe": {"id": task["id"]},
        "message/send": {"message": message},
    }.items():
        accept = {"accept": "text/event-stream"} if method == "tasks/resubscribe" else {}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = http.post(path, json=body, headers={**as_user("bob"), **accept})
        error = json.loads(answer.text.rpartition("data: ")[2])["error"]  # of a stream its only event
        assert "not found" in error["message"], (method, answer.text)
    assert call("bob", "ListTasks")["result"]["totalSize"] == 0
    assert call("bob", "ListTasks", contextId=task["contextId"])["result"]["tasks"] == []
    assert call("alice", "tasks/get", id=task["id"])["result"]["status"]["state"] == "completed"
    assert task["id"] in {each["id"] for each in call("alice", "ListTasks")["result"]["tasks"]}


# Routes of the application's own

APP = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

class Noted:
    def __init__(self, app): self.app = app
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            scope.setdefault("state", {})["before"] = "user" in scope
        await self.app(scope, receive, send)

async def me(request):
    user = request.scope.get("user")
    return JSONResponse({"user": user and user["identity"], "before": request.state.before})

app = Starlette(routes=[Route("/me", me)], middleware=[Middleware(Noted)])
"""
ROUTED = """
from fastapi import APIRouter, FastAPI
router = APIRouter()

@router.get("/in")
async def inside(): return {"in": True}

app = FastAPI()
app.include_router(router, prefix="/p")
"""
ASKS_FOR_BODY = OWN.replace("async def who(authorization", "async def who(body, authorization")


@pytest.mark.parametrize("order", ["middleware_first", "auth_first"])
def test_routes_of_routers_are_covered_and_streams_end(make_server: Callable[..., LiveServer], order: str) -> None:
    http = {"app": "./app.py:app", "enable_custom_route_auth": True, "middleware_order": order}
    files = {**FILES, "auth.py": ASKS_FOR_BODY, "app.py": ROUTED}
    server = make_server(SERVED, files, "--no-reload", auth={"path": "./auth.py:auth"}, http=http)
    with server.http(headers=as_user("alice")) as client:
        assert httpx.get(f"{server.url}/p/in").status_code == 401
        assert client.get("/p/in").json() == {"in": True}
        for path in ("/runs/stream", "/runs/wait"):
            assert client.post(path, json=RUN).status_code == 200
        assert client.get("/ok").status_code == 200
    assert server.stop() == 0


def test_an_update_acts_for_its_sender(http: httpx.Client) -> None:
    """Whoever the body says it is of."""
    headers = as_user("alice")
    thread = http.post("/threads", json={}, headers=headers).json()["thread_id"]
    http.post(f"/threads/{thread}/runs/wait", json=RUN, headers=headers).raise_for_status()
    forged = {"langgraph_auth_user": {"identity": "admin"}, "langgraph_auth_user_id": "admin", "user_id": "admin"}
    body = {"values": {"text": "new"}, "checkpoint": {**forged, "configurable": forged}}
    http.post(f"/threads/{thread}/state", json=body, headers=headers).raise_for_status()
    state = http.get(f"/threads/{thread}/state", headers=headers).json()
    assert "admin" not in json.dumps(state)


@pytest.mark.parametrize("order", ["middleware_first", "auth_first"])
@pytest.mark.parametrize("covered", [True, False])
def test_own_routes_may_be_for_known_users_only(
    make_server: Callable[..., LiveServer], order: str, covered: bool
) -> None:
    http = {"app": "./app.py:app", "enable_custom_route_auth": covered, "middleware_order": order}
    files = {**FILES, "auth.py": OWN, "app.py": APP}
    server = make_server(SERVED, files, "--no-reload", auth={"path": "./auth.py:auth"}, http=http)
    with server.http() as client:
        assert client.get("/ok").status_code == 200
        assert client.get("/me").status_code == (401 if covered else 200)
        seen = client.get("/me", headers=as_user("alice")).json()
        assert seen == {"user": "alice" if covered else None, "before": covered and order == "auth_first"}
        assert client.post("/threads", json={}).status_code == 401
        made = client.post("/threads", json={}, headers=as_user("alice")).json()
        assert made["metadata"] == {"owner": "alice"}
        assert client.get(f"/threads/{made['thread_id']}", headers=as_user("bob")).status_code == 404
    assert server.stop() == 0


# WebSockets


def socket_of(server: LiveServer, thread: str, name: str | None) -> ws.ClientConnection:
    url = f"{server.url.replace('http', 'ws')}/threads/{thread}/stream/events"
    return ws.connect(url, additional_headers=as_user(name), proxy=None)


def ask(socket: ws.ClientConnection, method: str, number: int = 1, **params: Any) -> list[Any]:
    """What comes up to the answer to a command."""
    socket.send(json.dumps({**command(method, **params), "id": number}))
    got: list[Any] = []
    while not got or got[-1].get("id") != number:
        got.append(json.loads(socket.recv(timeout=10)))
    return got


def test_a_socket_is_for_the_owner_only(server: LiveServer, http: httpx.Client) -> None:
    clear(http, "alice")
    world = make_world(http, "alice")
    with pytest.raises(InvalidStatus) as caught:
        socket_of(server, world["thread_id"], None)
    assert caught.value.response.status_code == 401
    with socket_of(server, world["thread_id"], "bob") as socket:  # as if the thread were not there
        assert ask(socket, "run.start", **RUN) == [refused("unknown_error", NOT_FOUND)]
        assert ask(socket, "subscription.subscribe", channels=["values", "lifecycle"])[0]["type"] == "success"
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.3)
    with socket_of(server, world["thread_id"], "alice") as socket:
        assert ask(socket, "run.start", **RUN)[-1]["type"] == "success"
    clear(http, "alice")


def test_a_socket_that_was_there_first_sees_nothing_of_another_users_thread(
    server: LiveServer, http: httpx.Client
) -> None:
    thread = devserver.new_id()
    with socket_of(server, thread, "bob") as socket:
        subscribed: dict[str, Any] = {"channels": ["values", "lifecycle", "updates"]}
        ask(socket, "subscription.subscribe", **subscribed)
        made = new_user(http, "alice")
        made("POST", "/threads", json={"thread_id": thread})
        made("POST", f"/threads/{thread}/commands", json=command("run.start", **RUN))
        made("GET", f"/threads/{thread}/runs/{made('GET', f'/threads/{thread}/runs')[0]['run_id']}/join")
        assert ask(socket, "run.start", **RUN) == [refused("unknown_error", NOT_FOUND)]
        assert len(ask(socket, "subscription.subscribe", **subscribed)) == 1
    with socket_of(server, thread, "alice") as socket:
        ask(socket, "subscription.subscribe", **subscribed)
        assert json.loads(socket.recv(timeout=10))["method"] == "lifecycle"
    clear(http, "alice")


# Identity


async def test_a_graph_knows_for_whom_it_works(server: LiveServer, http: httpx.Client) -> None:
    async with client_of(server, "alice") as alice, client_of(server, "bob") as bob:
        forged: Any = {"configurable": {"langgraph_auth_user_id": "bob", "user_id": "bob", "langgraph_auth_user": {}}}
        for note, notes in (("one", []), ("two", ["one"])):
            values: Any = await alice.runs.wait(None, "who", input={"note": note}, config=forged)
            assert values["seen"] == {
                "id": "alice",
                "permissions": ["talk"],
                "user_id": "alice",
                "name": "alice",
                "team": "team of alice",
                "studio": False,
                "notes": notes,
            }
        seen: Any = await bob.runs.wait(None, "who", input={}, context={"langgraph_auth_user_id": "alice"})
        assert (seen["seen"]["id"], seen["seen"]["notes"]) == ("bob", [])


async def test_an_update_of_the_state_has_its_senders_shared_values(server: LiveServer) -> None:
    async with client_of(server, "carol") as carol:
        thread = (await carol.threads.create())["thread_id"]
        await carol.runs.wait(thread, "who", input={"note": "one"})
        await carol.threads.update_state(thread, {"notes": {"two": {}}}, as_node="look")
        values: Any = await carol.runs.wait(None, "who", input={})
        assert values["seen"]["notes"] == ["one", "two"]


async def test_what_a_user_keeps_secret_is_not_shown(server: LiveServer) -> None:
    async with client_of(server, "alice") as alice:
        thread = (await alice.threads.create())["thread_id"]
        shown: list[Any] = []
        stream = alice.runs.stream(thread, "who", input={}, stream_mode=["debug", "checkpoints", "tasks", "events"])
        async for part in stream:
            shown.append(part.data)
        run = (await alice.runs.list(thread))[0]
        shown += [run, await alice.threads.get_state(thread), await alice.threads.get(thread)]
        assert "team of alice" not in json.dumps([each for each in shown if "seen" not in json.dumps(each)])
        configurable: Any = run["kwargs"]["config"]["configurable"]  # type: ignore[typeddict-item]
        assert configurable["langgraph_auth_user"] == {
            "identity": "alice",
            "display_name": "alice",
            "is_authenticated": True,
            "permissions": ["talk"],
        }
        assert configurable["user_id"] == configurable["langgraph_auth_user_id"] == "alice"


async def test_a_factory_knows_who_asks(server: LiveServer, http: httpx.Client) -> None:
    for name in ("alice", "bob"):
        made = new_user(http, name)
        assistant = made("POST", "/assistants", json={"graph_id": "made"})["assistant_id"]
        thread = made("POST", "/threads", json={})["thread_id"]
        values = made("POST", f"/threads/{thread}/runs/wait", json={"assistant_id": assistant, "input": {}})
        assert values == {"made_for": name, "access": "threads.create_run"}
        assert made("GET", f"/threads/{thread}/state")["values"] == values
        nodes = made("GET", f"/assistants/{assistant}/graph")["nodes"]
        assert f"of_{name}" in [node["id"] for node in nodes]
        made("POST", f"/threads/{thread}/state", json={"values": {"access": "x"}, "as_node": f"of_{name}"})
        clear(http, name)


async def test_a_cron_fires_as_who_made_it(server: LiveServer, http: httpx.Client) -> None:
    clear(http, "alice")
    async with client_of(server, "alice") as alice, client_of(server, "bob") as bob:
        every_second: Any = {"schedule": "* * * * * *", "on_run_completed": "keep"}
        cron: Any = await alice.crons.create("who", input={"note": "cron"}, **every_second)
        assert cron["user_id"] == "alice"

        async def fired() -> Any:
            found = await alice.threads.search(metadata={"owner": "alice"}, status="idle")
            return [thread["values"]["seen"] for thread in found if thread["values"]]

        seen = (await eventually(fired))[0]
        assert (seen["id"], seen["team"], seen["user_id"]) == ("alice", "team of alice", "alice")
        await alice.crons.delete(cron["cron_id"])
        assert await bob.threads.search() == []
    clear(http, "alice")


def test_a_run_goes_on_as_its_user_after_a_crash(make: Callable[..., LiveServer]) -> None:
    server = make(OWN)
    with server.http(headers=as_user("alice")) as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        run = http.post(f"/threads/{thread}/runs", json={"assistant_id": "who", "input": {"gate": "go"}}).json()
        while http.get(f"/threads/{thread}/state").json()["next"] != ["wait"]:
            time.sleep(0.01)
    server.kill()
    (server.folder / "go").touch()
    server.start()
    with server.http(headers=as_user("alice")) as http:
        seen = http.get(f"/threads/{thread}/runs/{run['run_id']}/join").json()["seen"]
    assert (seen["id"], seen["team"]) == ("alice", "team of alice")


# What handlers say. In this application a request's token says it all: who sends it, what the handlers are to
# answer for which action, and what they are to change.

SAYS = """
import json, pathlib
from langgraph_sdk import Auth

auth = Auth()

class Detailed(Exception):
    detail = "not on Sundays"

@auth.authenticate
async def who(headers):
    return json.loads(headers.get(b"authorization"))

@auth.on
async def say(ctx, value):
    action = f"{ctx.resource}.{ctx.action}"
    with open("asked.txt", "a") as asked:
        kinds = {key: type(each).__name__ for key, each in value.items()}
        asked.write(json.dumps([ctx.user.identity, action, kinds]) + chr(10))
    said = ctx.user.get(action, ctx.user.get("says"))
    if said == "fails":
        raise RuntimeError("secret")
    if said == "asserts":
        assert False, "not at night"
    if said == "detailed":
        raise Detailed("secret")
    if said == "teapot":
        raise Auth.exceptions.HTTPException(418, "short and stout", {"x-kind": "tea"})
    for key, new in ctx.user.get("sets", {}).get(action, {}).items():
        if isinstance(new, dict) and isinstance(value.get(key), dict):
            value[key].update(new)
        else:
            value[key] = new
    return said
"""


def token(identity: str, says: Any = None, sets: Any = None, **actions: Any) -> dict[str, str]:
    """Headers of a user; `threads_read=False` is what the handler says of threads.read."""
    named = {name.replace("_", ".", 1): said for name, said in actions.items()}
    user = {"identity": identity, "says": says, "sets": sets or {}, **named}
    return {"authorization": json.dumps(user)}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("told")
    write_project(folder, SERVED, {**FILES, "auth.py": SAYS}, auth={"path": "./auth.py:auth"})
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0, live.log


@pytest.fixture
def told_http(told: LiveServer) -> Iterator[httpx.Client]:
    with told.http() as made:
        yield made


def asked(server: LiveServer, identity: str) -> list[tuple[str, dict[str, str]]]:
    """What the application was asked for a user."""
    lines = map(json.loads, (server.folder / "asked.txt").read_text().splitlines())
    return [(action, kinds) for name, action, kinds in lines if name == identity]


@pytest.fixture(scope="module")
def told_world(told: LiveServer) -> dict[str, str]:
    with told.http(headers=token("anybody")) as http:
        return make_world(http, "")


@pytest.mark.parametrize(
    ("says", "detail"), [(False, "Forbidden"), ("asserts", "not at night"), ("detailed", "not on Sundays")]
)
def test_a_denial_is_a_403_everywhere(
    told: LiveServer, told_http: httpx.Client, told_world: dict[str, str], says: Any, detail: str
) -> None:
    told_http.headers.update(token("anybody"))
    before = view(told_http, told_world, "")
    told_http.headers.update(token("denied", says=says))
    for operation, cases in MATRIX.items():
        status, shown = attempt(told_http, operation, cases[0], told_world, None)
        if operation.endswith("/commands"):
            assert shown == {"type": "error", "id": 1, "error": "unknown_error", "message": f"403: {detail}"}
        elif operation.split()[0] == "POST" or "/mcp" not in operation:
            assert (status, shown) == (403, {"detail": detail}), operation
    url = f"{told.url.replace('http', 'ws')}/threads/{told_world['thread_id']}/stream/events"
    with pytest.raises(InvalidStatus) as caught:
        ws.connect(url, additional_headers=token("denied", says=says), proxy=None)
    assert caught.value.response.status_code == 403
    assert json.loads(caught.value.response.body or b"") == {"detail": detail}
    told_http.headers.update(token("anybody"))
    assert view(told_http, told_world, "") == before


FORBIDDEN = (403, {"detail": "Forbidden"})


@pytest.mark.parametrize(
    ("said", "status", "shown"),
    [
        (None, 200, None),
        (True, 200, None),
        ({}, 200, None),
        (False, *FORBIDDEN),
        ("fails", *FORBIDDEN),
        ("asserts", 403, {"detail": "not at night"}),
        ("detailed", 403, {"detail": "not on Sundays"}),
        ("teapot", 418, {"detail": "short and stout"}),
        (7, *FORBIDDEN),
        ("nonsense", *FORBIDDEN),
        ([], *FORBIDDEN),
        ({"$or": [{"kind": "a"}]}, *FORBIDDEN),
        ({"kind": {"$like": "a"}}, *FORBIDDEN),
        ({"kind": "a"}, 200, None),
        ({"kind": {"$eq": "a"}}, 200, None),
        ({"kind": "b"}, 404, None),
        ({"kind": {"$eq": "b"}}, 404, None),
        ({"other": None}, 404, None),
        ({"nothing": None}, 200, None),
        ({"kind": "a", "people": {"$contains": "x"}}, 200, None),
        ({"kind": "b", "people": {"$contains": "x"}}, 404, None),
        ({"people": {"$contains": "z"}}, 404, None),
        ({"people": {"$contains": ["y", "x"]}}, 200, None),
        ({"people": {"$contains": ["x", "z"]}}, 404, None),
        ({"people": {"$contains": "x", "$eq": ["x", "y"]}}, 200, None),
        ({"people": ["x", "y"]}, 200, None),
        ({"kind": {"$contains": "a"}}, 404, None),
        ({"flag": True}, 200, None),
        ({"flag": 1}, 404, None),
        ({"deep": {"a": 1}}, 404, None),
        ({"deep": {"a": 1, "b": 2}}, 200, None),
    ],
)
async def test_an_answer_accepts_denies_or_filters(told: LiveServer, said: Any, status: int, shown: Any) -> None:
    metadata = {"kind": "a", "people": ["x", "y"], "flag": True, "nothing": None, "deep": {"a": 1, "b": 2}}
    with told.http() as http:
        thread = http.post("/threads", json={"metadata": metadata}, headers=token("maker")).json()["thread_id"]
        answer = http.get(f"/threads/{thread}", headers=token("reader", says=said))
        assert answer.status_code == status, answer.text
        assert shown is None or answer.json() == shown
        assert answer.headers.get("x-kind") == ("tea" if said == "teapot" else None)
        found = http.post("/threads/search", json={"ids": [thread]}, headers=token("reader", says=said))
        counted = http.post("/threads/count", json={}, headers=token("reader", says=said))
        if status in (200, 404):
            assert [each["thread_id"] for each in found.json()] == [thread] * (status == 200)
            assert (counted.json() > 0) == (status == 200)
        else:
            assert (found.status_code, counted.status_code) == (status, status)
        http.delete(f"/threads/{thread}", headers=token("maker"))
    assert "secret" not in answer.text
    if said == "fails":
        await eventually(lambda: "RuntimeError: secret" in told.log)


async def test_the_most_specific_handler_answers(make: Callable[..., LiveServer]) -> None:
    server = make("""
        from langgraph_sdk import Auth
        auth = Auth()

        @auth.authenticate
        async def who(authorization: str): return authorization

        def stamp(name):
            async def handler(ctx, value):
                value["metadata"]["by"] = name
            return handler

        auth.on(stamp("global"))
        auth.on(actions="search")(stamp("any search"))
        auth.on.threads(stamp("threads"))
        auth.on.threads.create(stamp("threads.create"))
        auth.on(resources=["assistants"], actions=["create", "update"])(stamp("some of assistants"))
    """)
    with server.http(headers={"authorization": "x"}) as http:
        thread = http.post("/threads", json={}).json()
        assert thread["metadata"] == {"by": "threads.create"}
        path = f"/threads/{thread['thread_id']}"
        assert http.patch(path, json={}).json()["metadata"] == {"by": "threads"}
        assistant = http.post("/assistants", json={"graph_id": "steps"}).json()
        assert assistant["metadata"] == {"by": "some of assistants"}
        cron = http.post("/runs/crons", json={**RUN, **YEARLY}).json()
        assert cron["metadata"] == {"by": "global"}
        assert http.post("/threads/search", json={}).json()[0]["metadata"]["by"] == "threads"
        assert http.post("/assistants/search", json={}).json() == []  # narrowed to "any search"


def test_the_run_that_is_decided_on_is_the_one_that_is_made(make: Callable[..., LiveServer]) -> None:
    """However it is made."""
    server = make("""
        from langgraph_sdk import Auth
        auth = Auth()

        @auth.authenticate
        async def who(authorization: str): return authorization

        @auth.on.threads.create_run
        async def decide(ctx, value):
            value["metadata"]["decided"] = str(value["run_id"])
    """)
    with server.http(headers={"authorization": "x"}) as http:
        a2a = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": SEND["params"]}
        task = http.post(f"/a2a/{devserver.system_assistant_id('steps')}", json=a2a).json()["result"]
        command = {"id": 1, "method": "run.start", "params": {"assistant_id": "steps", "input": {}}}
        path = f"/threads/{task['contextId']}"
        assert http.post(f"{path}/commands", json=command).json()["type"] == "success"
        http.post(f"{path}/runs", json=RUN).raise_for_status()
        runs = http.get(f"{path}/runs").json()
        assert len(runs) == 3
        assert [run["metadata"]["decided"] for run in runs] == [run["run_id"] for run in runs]


RUN_KINDS = {
    "assistant_id": "UUID", "thread_id": "UUID", "run_id": "UUID", "status": "str", "metadata": "dict",
    "prevent_insert_if_inflight": "bool", "multitask_strategy": "NoneType", "if_not_exists": "NoneType",
    "after_seconds": "NoneType", "kwargs": "dict",
}  # fmt: skip
ASKED: dict[str, list[tuple[str, dict[str, str]]]] = {
    f"GET {A}": [("assistants.read", {"assistant_id": "UUID"})],
    f"POST {A}/latest": [("assistants.update", {"assistant_id": "UUID", "version": "int"})],
    "POST /assistants": [("assistants.create", {"assistant_id": "UUID", "graph_id": "str", "if_exists": "str"})],
    "POST /threads/search": [("threads.search", {"limit": "int", "status": "NoneType", "values": "dict"})],
    "POST /threads/prune": [("threads.delete", {"thread_id": "UUID"})],
    f"GET {R}": [("threads.read", {"thread_id": "UUID", "run_id": "UUID"})],
    f"DELETE {R}": [("threads.delete", {"thread_id": "UUID", "run_id": "UUID"})],
    f"GET {T}/runs": [("threads.read", {"thread_id": "UUID"}), ("threads.search", {"thread_id": "UUID"})],
    f"POST {R}/cancel": [("threads.update", {"thread_id": "UUID", "run_id": "UUID"})],
    f"POST {T}/copy": [("threads.read", {"thread_id": "UUID"}), ("threads.create", {"thread_id": "UUID"})],
    f"POST {T}/runs": [("threads.create_run", RUN_KINDS)],
    "POST /runs/wait": [
        ("threads.create_run", {**RUN_KINDS, "thread_id": "NoneType"}), ("assistants.read", {"assistant_id": "UUID"}),
    ],
    f"POST {T}/runs/crons": [
        ("crons.create", {"payload": "dict", "schedule": "str", "thread_id": "UUID", "user_id": "str"}),
        ("threads.create_run", RUN_KINDS),
    ],
    "GET /store/items": [("store.get", {"namespace": "tuple", "key": "str"})],
    "PUT /store/items": [("store.put", {"namespace": "tuple", "key": "str", "value": "dict", "index": "NoneType"})],
    "POST /store/namespaces": [("store.list_namespaces", {"namespace": "NoneType", "suffix": "NoneType"})],
    "POST /store/items/search": [("store.search", {"namespace": "tuple", "filter": "NoneType", "query": "NoneType"})],
    "DELETE /store/items": [("store.delete", {"namespace": "tuple", "key": "str"})],
}  # fmt: skip


@pytest.mark.parametrize("operation", ASKED)
def test_an_application_is_asked_as_documented(told: LiveServer, told_http: httpx.Client, operation: str) -> None:
    told_http.headers.update(token("maker"))
    world = make_world(told_http, "")
    name = f"asker of {operation}"
    told_http.headers.update(token(name, if_exists="x"))
    attempt(told_http, operation, MATRIX[operation][0], world, None)
    got = asked(told, name)
    wanted = ASKED[operation]
    if operation == "POST /assistants":
        wanted = [*wanted, ("assistants.read", {})]  # since it may give the one there is
    assert [action for action, _ in got] == [action for action, _ in wanted]
    for (action, kinds), (_, known) in zip(got, wanted, strict=True):
        assert known.items() <= kinds.items(), action


# What handlers change


def test_what_a_handler_sets_takes_effect(told_http: httpx.Client) -> None:
    sets: Any = {
        "threads.create": {"metadata": {"owner": "me"}},
        "threads.update": {"metadata": {"changed": "me"}},
        "threads.create_run": {
            "metadata": {"run_owner": "me"},
            "kwargs": {"config": {"configurable": {"colour": "red"}}, "stream_mode": ["updates"]},
        },
        "assistants.create": {"name": "set"},
        "assistants.update": {"metadata": {"changed": "me"}},
        "crons.create": {"metadata": {"owner": "me"}, "payload": {"input": {"text": "set"}}},
        "store.put": {"namespace": ["me", "notes"], "value": {"by": "me"}},
        "store.get": {"namespace": ["me", "notes"]},
        "store.search": {"namespace": ["me"]},
        "store.list_namespaces": {"namespace": ["me"]},
        "store.delete": {"namespace": ["me", "notes"]},
    }
    told_http.headers.update(token("setter", sets=sets))
    thread = told_http.post("/threads", json={"metadata": {"owner": "you", "a": 1}}).json()
    assert thread["metadata"] == {"owner": "me", "a": 1}
    path = f"/threads/{thread['thread_id']}"
    assert told_http.patch(path, json={"metadata": {"b": 2}}).json()["metadata"]["changed"] == "me"
    config = {"configurable": {"size": "big"}, "recursion_limit": 7}
    run = told_http.post(f"{path}/runs", json={**RUN, "config": config, "metadata": {"c": 3}}).json()
    assert (run["metadata"]["run_owner"], run["metadata"]["c"]) == ("me", 3)
    assert (run["kwargs"]["config"]["configurable"]["colour"], run["kwargs"]["stream_mode"]) == ("red", ["updates"])
    assistant = told_http.post("/assistants", json={"graph_id": "steps", "name": "given"}).json()
    assert assistant["name"] == "set"
    patched = told_http.patch(f"/assistants/{assistant['assistant_id']}", json={}).json()
    assert patched["metadata"]["changed"] == "me"
    cron = told_http.post("/runs/crons", json={**RUN, **YEARLY}).json()
    assert (cron["metadata"], cron["payload"]["input"]) == ({"owner": "me"}, {"text": "set"})
    assert cron["payload"]["stream_mode"] == ["updates"]
    assert told_http.put("/store/items", json=ITEM).status_code == 204
    item = told_http.get("/store/items", params={"namespace": "your.notes", "key": "k"}).json()
    assert (item["namespace"], item["value"]) == (["me", "notes"], {"text": "changed", "by": "me"})
    assert told_http.post("/store/items/search", json={"namespace_prefix": []}).json()["items"][0]["key"] == "k"
    assert told_http.post("/store/namespaces", json={}).json() == {"namespaces": [["me", "notes"]]}
    told_http.request("DELETE", "/store/items", json={"namespace": ["yours"], "key": "k"})
    assert told_http.get("/store/items", params={"namespace": "x", "key": "k"}).json() is None


def test_a_copy_is_its_makers(told_http: httpx.Client) -> None:
    thread = told_http.post("/threads", json={"metadata": {"owner": "you"}}, headers=token("you")).json()["thread_id"]
    sets = {"threads.create": {"metadata": {"owner": "me"}}}
    copied = told_http.post(f"/threads/{thread}/copy", headers=token("me", sets=sets)).json()
    assert copied["metadata"] == {"owner": "me"}
    assert told_http.get(f"/threads/{copied['thread_id']}", headers=token("me")).json()["metadata"] == {"owner": "me"}


@pytest.mark.parametrize(
    ("sets", "status"),
    [
        ({"threads.create": {"metadata": 5}}, 403),
        ({"threads.create": {"ttl": "soon"}}, 422),
        ({"store.put": {"namespace": "me"}}, 403),
        ({"store.put": {"namespace": ["a.b"]}}, 422),
        ({"threads.create_run": {"after_seconds": "soon"}}, 422),
    ],
)
def test_what_a_handler_sets_is_checked(told_http: httpx.Client, sets: Any, status: int) -> None:
    told_http.headers.update(token("setter", sets=sets))
    (action,) = sets
    if action == "threads.create":
        answer = told_http.post("/threads", json={})
    elif action == "store.put":
        answer = told_http.put("/store/items", json=ITEM)
    else:
        answer = told_http.post("/runs", json=RUN)
    assert answer.status_code == status, answer.text


MINE: dict[str, Any] = {"owner": "me"}


def test_a_changed_cron_is_decided_on_like_a_new_one(told_http: httpx.Client) -> None:
    told_http.headers.update(token("maker"))
    path = f"/runs/crons/{told_http.post('/runs/crons', json={**RUN, **YEARLY}).json()['cron_id']}"
    told_http.headers.update(token("changer", threads_create=False))
    assert told_http.patch(path, json={"on_run_completed": "keep"}).status_code == 403
    told_http.headers.update(token("changer", threads_create_run=False))
    assert told_http.patch(path, json={"enabled": False}).status_code == 403
    sets = {"threads.create_run": {"kwargs": {"stream_mode": ["updates"]}}}
    told_http.headers.update(token("changer", sets=sets))
    changed = told_http.patch(path, json={"enabled": False, "input": {"text": "new"}}).json()
    assert (changed["enabled"], changed["user_id"]) == (False, "maker")
    assert (changed["payload"]["input"], changed["payload"]["stream_mode"]) == ({"text": "new"}, ["updates"])
    told_http.delete(path)


def test_what_is_made_has_to_pass_the_filter(told_http: httpx.Client) -> None:
    told_http.headers.update(token("maker", says=MINE))
    for path, body in (("/threads", {}), ("/assistants", {"graph_id": "steps"}), ("/runs/crons", {**RUN, **YEARLY})):
        assert told_http.post(path, json={**body, "metadata": {"owner": "you"}}).status_code == 403
        assert told_http.post(path, json={**body, "metadata": MINE}).status_code == 200


async def test_items_cannot_be_filtered(told: LiveServer, told_http: httpx.Client) -> None:
    assert told_http.put("/store/items", json=ITEM, headers=token("maker", says=MINE)).status_code == 403
    await eventually(lambda: "change value['namespace'] in @auth.on.store" in told.log)


def test_a_run_that_makes_a_thread_to_stay_needs_leave_to_make_one(told_http: httpx.Client) -> None:
    told_http.headers.update(token("runner", threads_create=False))
    thread = devserver.new_id()
    made = {**RUN, "if_not_exists": "create"}
    assert told_http.post(f"/threads/{thread}/runs/wait", json=made).status_code == 403
    assert told_http.post("/runs/wait", json={**RUN, "on_completion": "keep"}).status_code == 403
    assert told_http.post("/runs/crons", json={**RUN, **YEARLY, "on_run_completed": "keep"}).status_code == 403
    assert told_http.post("/runs/wait", json=RUN).status_code == 200
    started = told_http.post(f"/threads/{thread}/commands", json=command("run.start", **RUN)).json()
    assert started["message"] == "403: Forbidden"
    told_http.headers.update(token("runner", sets={"threads.create": {"metadata": MINE}}))
    assert told_http.post(f"/threads/{thread}/runs/wait", json=made).status_code == 200
    assert told_http.get(f"/threads/{thread}").json()["metadata"]["owner"] == "me"
    told_http.headers.update(token("runner", threads_create=False))
    assert told_http.post(f"/threads/{thread}/runs/wait", json=made).status_code == 200


def test_a_graphs_own_assistant_may_be_run_and_others_if_they_may_be_read(told_http: httpx.Client) -> None:
    body = {"graph_id": "steps", "metadata": {"owner": "you"}}
    assistant = told_http.post("/assistants", json=body, headers=token("you")).json()["assistant_id"]
    own = devserver.system_assistant_id("steps")
    told_http.headers.update(token("me", assistants_read=False))
    assert told_http.post("/runs/wait", json={**RUN, "assistant_id": own}).status_code == 200
    assert told_http.post("/runs/wait", json={**RUN, "assistant_id": assistant}).status_code == 403
    told_http.headers.update(token("me", assistants_read=MINE))
    assert told_http.post("/runs/wait", json={**RUN, "assistant_id": own}).status_code == 200
    assert told_http.post("/runs/wait", json={**RUN, "assistant_id": assistant}).status_code == 404


def test_leaving_cancels_only_for_who_may_cancel(told_http: httpx.Client, told_world: dict[str, str]) -> None:
    told_http.headers.update(token("reader", threads_update=False))
    path = f"/threads/{told_world['busy_thread']}/runs/{told_world['busy_run']}/join"
    assert told_http.get(path, params={"cancel_on_disconnect": "1"}).status_code == 403


def test_deleting_an_assistant_leaves_the_threads_of_others(told_http: httpx.Client) -> None:
    assistant = told_http.post("/assistants", json={"graph_id": "steps"}, headers=token("me")).json()["assistant_id"]
    threads = {}
    for name in ("me", "you"):
        headers = token(name, sets={"threads.create": {"metadata": {"owner": name}}})
        threads[name] = told_http.post("/threads", json={}, headers=headers).json()["thread_id"]
        run = {**RUN, "assistant_id": assistant}
        told_http.post(f"/threads/{threads[name]}/runs/wait", json=run, headers=headers).raise_for_status()
    gone = told_http.delete(
        f"/assistants/{assistant}", params={"delete_threads": "true"}, headers=token("me", threads_delete=MINE)
    )
    assert gone.status_code == 204
    left = {name: told_http.get(f"/threads/{threads[name]}", headers=token("x")).status_code for name in threads}
    assert left == {"me": 404, "you": 200}


def test_a_thread_that_changes_hands_falls_silent(make: Callable[..., LiveServer]) -> None:
    server = make(SAYS)
    with server.http(headers=token("maker")) as http, server.http(headers=token("me", says=MINE)) as reader:
        path = f"/threads/{http.post('/threads', json={'metadata': MINE}).json()['thread_id']}"
        with reader.stream("GET", f"{path}/stream") as answer:
            lines = answer.iter_lines()
            http.post(f"{path}/runs/wait", json=RUN)
            assert next(line for line in lines if "run_done" in line)
            http.patch(path, json={"metadata": {"owner": "you"}})
            http.post(f"{path}/runs/wait", json=RUN)
            run = http.get(f"{path}/runs").json()[0]["run_id"]
            server.stop()
            assert [line for line in lines if line.startswith("data") and run in line] == []


def test_tools_are_those_that_the_filter_lets_through(told_http: httpx.Client) -> None:
    made = {"graph_id": "steps", "name": "mine", "metadata": {"owner": "me, with tools"}}
    told_http.post("/assistants", json=made, headers=token("maker"))
    told_http.headers.update({"accept": "application/json"})
    for who, tools in (("me, with tools", ["mine"]), ("nobody", [])):
        headers = token("reader", says={"owner": who})
        listed = told_http.post("/mcp", json=LIST, headers=headers).json()["result"]["tools"]
        assert [tool["name"] for tool in listed] == tools
        called = told_http.post("/mcp", json=filled(CALL, {"name": "mine"}), headers=headers).json()
        assert ("result" in called) == bool(tools)


def test_an_unknown_thread_is_no_different_from_anothers(told_http: httpx.Client) -> None:
    told_http.headers.update(token("reader", says=MINE))
    thread, run = devserver.new_id(), devserver.new_id()
    for path in ("", "/state", "/runs", f"/runs/{run}"):
        answer = told_http.get(f"/threads/{thread}{path}")
        assert (answer.status_code, answer.json()) == (404, {"detail": f"Thread with ID {thread} not found"})
    assert told_http.get("/threads/nonsense").status_code == 422


# Who is let in

WAYS = """
import dataclasses
from typing import NamedTuple
from langgraph_sdk import Auth
from pydantic import BaseModel
from starlette.exceptions import HTTPException

auth = Auth()

@dataclasses.dataclass
class Person:
    identity: str
    permissions: list
    colour: str = "red"

class Model(BaseModel):
    identity: str
    permissions: tuple = ("p",)

class Bare:
    identity = "bare"

class Named(NamedTuple):
    identity: str
    permissions: list

def error(error): raise error

WAYS = {
    "text": lambda: "ann",
    "dict": lambda: {"identity": "ann", "permissions": ["a", "b"], "colour": "red"},
    "object": lambda: Person("ann", ["a"]),
    "model": lambda: Model(identity="ann"),
    "bare": lambda: Bare(),
    "nothing": lambda: None,
    "number": lambda: 7,
    "empty": lambda: "",
    "no identity": lambda: {"permissions": []},
    "number as identity": lambda: {"identity": 7},
    "not authenticated": lambda: {"identity": "ann", "is_authenticated": False},
    "text as permissions": lambda: {"identity": "ann", "permissions": "all"},
    "numbers as permissions": lambda: {"identity": "ann", "permissions": [1]},
    "pair": lambda: (["a"], "ann"),
    "pair with a dict": lambda: (("a", "b"), {"identity": "ann", "permissions": ["c"], "colour": "red"}),
    "pair with an object": lambda: ([], Person("ann", ["a"])),
    "pair of two texts": lambda: ("a", "ann"),
    "pair the wrong way round": lambda: ("ann", ["a"]),
    "pair with an object first": lambda: ({"a": 1}, "ann"),
    "pair with numbers": lambda: ([1], "ann"),
    "pair without a user": lambda: (["a"], None),
    "pair of pairs": lambda: (["a"], (["b"], "ann")),
    "pair of nobody": lambda: (["a"], {"identity": "ann", "is_authenticated": False}),
    "triple": lambda: (["a"], "ann", "more"),
    "single": lambda: ("ann",),
    "named tuple": lambda: Named("ann", ["a"]),
    "fails": lambda: error(RuntimeError("secret")),
    "asserts": lambda: error(AssertionError("secret")),
    "default": lambda: error(Auth.exceptions.HTTPException()),
    "pay": lambda: error(Auth.exceptions.HTTPException(402, "pay first", {"x-price": "1"})),
    "starlette": lambda: error(HTTPException(429, "later")),
    "odd status": lambda: error(Auth.exceptions.HTTPException(200, "fine")),
}

@auth.authenticate
KIND who(authorization):
    return WAYS[authorization]()

@auth.on
async def show(ctx, value):
    user = ctx.user
    value["metadata"] = {
        "identity": user.identity, "permissions": list(ctx.permissions), "display_name": user.display_name,
        "colour": getattr(user, "colour", None), "same": user["identity"] == user.identity and "identity" in user,
    }
"""
ANN: dict[str, Any] = {"identity": "ann", "display_name": "ann", "permissions": [], "colour": None, "same": True}
UNKNOWN = (401, {"detail": "Unauthorized"})


@pytest.fixture(scope="module", params=["def", "async def"])
def ways(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("ways")
    files = {**FILES, "auth.py": WAYS.replace("KIND", request.param)}
    write_project(folder, SERVED, files, auth={"path": "./auth.py:auth"})
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0, live.log


@pytest.mark.parametrize(
    ("way", "status", "shown"),
    [
        ("text", 200, ANN),
        ("dict", 200, {**ANN, "permissions": ["a", "b"], "colour": "red"}),
        ("object", 200, {**ANN, "permissions": ["a"], "colour": "red"}),
        ("model", 200, {**ANN, "permissions": ["p"]}),
        ("bare", 200, {**ANN, "identity": "bare", "display_name": "bare"}),
        ("nothing", *UNKNOWN),
        ("number", *UNKNOWN),
        ("empty", *UNKNOWN),
        ("no identity", *UNKNOWN),
        ("number as identity", *UNKNOWN),
        ("not authenticated", *UNKNOWN),
        ("text as permissions", *UNKNOWN),
        ("numbers as permissions", *UNKNOWN),
        ("pair", 200, {**ANN, "permissions": ["a"]}),
        ("pair with a dict", 200, {**ANN, "permissions": ["a", "b"], "colour": "red"}),
        ("pair with an object", 200, {**ANN, "colour": "red"}),
        ("pair of two texts", *UNKNOWN),
        ("pair the wrong way round", *UNKNOWN),
        ("pair with an object first", *UNKNOWN),
        ("pair with numbers", *UNKNOWN),
        ("pair without a user", *UNKNOWN),
        ("pair of pairs", *UNKNOWN),
        ("pair of nobody", *UNKNOWN),
        ("triple", *UNKNOWN),
        ("single", *UNKNOWN),
        ("named tuple", 200, {**ANN, "permissions": ["a"]}),
        ("fails", *UNKNOWN),
        ("asserts", *UNKNOWN),
        ("unheard of", *UNKNOWN),
        ("default", *UNKNOWN),
        ("pay", 402, {"detail": "pay first"}),
        ("starlette", 429, {"detail": "later"}),
        ("odd status", *UNKNOWN),
    ],
)
def test_an_authenticate_handler_makes_a_user_or_refuses(
    ways: LiveServer, way: str, status: int, shown: dict[str, Any]
) -> None:
    with ways.http() as http:
        answer = http.post("/threads", json={}, headers={"authorization": way})
        assert answer.status_code == status
        assert (answer.json()["metadata"] if status == 200 else answer.json()) == shown
        assert answer.headers.get("x-price") == ("1" if way == "pay" else None)


def test_what_is_nobodys_is_open(ways: LiveServer) -> None:
    with ways.http() as http:
        for path in ("/", "/ok", "/info", "/metrics", "/docs", "/openapi.json"):
            assert http.get(path).status_code == 200, path
        assert http.get("/nowhere").status_code == 404
        assert http.post("/ok").status_code == 404
        assert http.post("/threads").status_code == 401


ALL_OF_IT = """
from langgraph_sdk import Auth
auth = Auth()

@auth.authenticate
async def who(request, body, path, method, path_params, query_params, headers, authorization, *, extra=1, **more):
    assert headers[b"x-key"] == b"k" and headers["X-Key"] == "k" and "x-key" in headers and b"y" not in headers
    assert headers.get("no") is None and request.headers["x-key"] == "k" and not more
    return {"identity": "ann", "saw": [body, path, method, path_params, query_params, authorization]}

@auth.on
async def show(ctx, value):
    value["metadata"]["saw"] = ctx.user["saw"]
"""


def test_an_authenticate_handler_gets_what_it_asks_for(make: Callable[..., LiveServer]) -> None:
    with make(ALL_OF_IT).http(headers={"x-key": "k"}) as http:
        made = http.post("/threads?a=b", json={"metadata": {"x": 1}}, headers={"authorization": "me"}).json()
        body = {"metadata": {"x": 1}}
        assert made["metadata"] == {"x": 1, "saw": [body, "/threads", "POST", {}, {"a": "b"}, "me"]}
        thread = made["thread_id"]
        patched = http.patch(f"/threads/{thread}", json={}).json()
        assert patched["metadata"]["saw"] == [{}, f"/threads/{thread}", "PATCH", {"thread_id": thread}, {}, None]
        assert http.get(f"/threads/{thread}").status_code == 200
        assert http.post("/threads", content=b"{").status_code == 422


# Studio

DEVELOPERS = """
from langgraph_sdk import Auth
from langgraph_sdk.auth import is_studio_user
auth = Auth()

@auth.authenticate
async def who(authorization: str): return authorization

@auth.on
async def developers(ctx, value):
    assert isinstance(ctx.user, Auth.types.StudioUser) == is_studio_user(ctx.user)
    return is_studio_user(ctx.user)
"""
STUDIO = {"x-auth-scheme": "langsmith"}


def test_studio_is_let_in_if_it_is_wanted(make: Callable[..., LiveServer]) -> None:
    with make(DEVELOPERS, "--studio").http() as http:
        assert http.post("/threads", json={}, headers=STUDIO).status_code == 200
        assert http.post("/threads", json={}, headers={"authorization": "x"}).status_code == 403
        seen = http.post("/runs/wait", json={"assistant_id": "who", "input": {}}, headers=STUDIO).json()["seen"]
        assert (seen["id"], seen["studio"]) == ("langgraph-studio-user", True)
    with make(DEVELOPERS, "--studio", disable_studio_auth=True).http() as http:
        assert http.post("/threads", json={}, headers=STUDIO).status_code == 401


def test_studio_is_no_way_in_unless_it_is_asked_for(server: LiveServer) -> None:
    with server.http() as http:
        assert http.post("/threads", json={}, headers=STUDIO).status_code == 401


# Settings


@pytest.mark.parametrize(
    ("text", "auth", "problem"),
    [
        (OWN, {"path": None}, "'auth.path': Field required"),
        (OWN, {"path": "./auth.py"}, "'auth.path': must be 'file.py:variable' or"),
        (OWN, {"path": "./auth.ts:auth"}, "is JavaScript"),
        ("auth = None", {}, "is a NoneType, not a langgraph_sdk.Auth"),
        (OWN, {"path": "./none.py:auth"}, "cannot be imported"),
        (OWN, {"encrypt": True}, "'auth.encrypt': is not served. Remove it"),
        (OWN, {"disable_studio_auth": "perhaps"}, "'auth.disable_studio_auth': Input should be a valid boolean"),
        ("import nothing", {}, "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit('no key')", {}, "cannot be imported: SystemExit: no key"),
        ("other = None", {}, "there is no 'auth' in"),
        ("from langgraph_sdk import Auth\nauth = Auth()", {}, "no @auth.authenticate handler"),
        (OWN.replace("authorization: str | None", "authorization, secret"), {}, "asks for 'secret'; it may take"),
        (OWN.replace("authorization: str | None", "authorization, /"), {}, "asks for 'authorization'"),
    ],
)
def test_an_auth_that_cannot_be_used_is_refused(tmp_path: Path, text: str, auth: Any, problem: str) -> None:
    name = f"auth_{devserver.new_id().replace('-', '_')}"  # modules are imported once
    settings = {"path": f"./{name}.py:auth", **auth}
    write_project(tmp_path, {"steps": "./basic.py:steps"}, {f"{name}.py": text}, auth=settings)
    path = tmp_path / "langgraph.json"
    with pytest.raises(devserver.StartError, match=re.escape(problem)):
        devserver.AppAuth(devserver.read_settings(path).auth or NO_AUTH, path)


NO_AUTH = devserver.AuthSpec(path="./nowhere.py:auth")


def test_a_server_that_would_be_open_does_not_start(make: Callable[..., LiveServer]) -> None:
    with pytest.raises(AssertionError, match=r"no @auth\.authenticate handler, so nobody could"):
        make("from langgraph_sdk import Auth\nauth = Auth()")


def test_openapi_tells_of_the_security(make: Callable[..., LiveServer]) -> None:
    schemes = {"key": {"type": "apiKey", "in": "header", "name": "x-key"}}
    security = {
        "securitySchemes": schemes,
        "security": [{"key": []}],
        "paths": {"/threads": {"POST": [{"key": ["write"]}]}, "/nowhere": {"GET": []}},
    }
    server = make(OWN, openapi=security, cache={"ttl_seconds": 60})
    with server.http() as http:
        document = http.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == schemes
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/threads"]["post"]["security"] == [{"key": ["write"]}]
    assert "security" not in document["paths"]["/threads/search"]["post"]
    assert "not served yet, ignored: auth.cache" in server.log


async def test_changed_handlers_are_served_and_never_none(make_server: Callable[..., LiveServer]) -> None:
    files = {**FILES, "auth.py": OWN}
    server = make_server(SERVED, files, auth={"path": "./auth.py:auth"})
    auth, settings = server.folder / "auth.py", server.folder / "langgraph.json"
    with server.http(headers=as_user("alice")) as http:
        assert http.post("/threads", json={}).json()["metadata"] == {"owner": "alice"}
        auth.write_text(OWN.replace("ctx.user.identity", "ctx.user.identity.upper()"))
        await eventually(lambda: http.post("/threads", json={}).json()["metadata"] == {"owner": "ALICE"})
        auth.write_text("auth = None")
        await eventually(lambda: "not a langgraph_sdk.Auth" in server.log)
        assert http.post("/threads", json={}).json()["metadata"] == {"owner": "ALICE"}
        auth.write_text(OWN)
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "auth": {}}))
        await eventually(lambda: "take effect at the next start" in server.log)
        assert http.post("/threads", json={}).json()["metadata"] == {"owner": "alice"}
        assert http.post("/threads", json={}, headers={"authorization": ""}).status_code == 401


UNDECIDED = """
import devserver
from basic import steps

async def undecided(server, request):
    raise AssertionError("nobody comes here")

devserver.ROUTES.append(devserver.Operation("GET", "/undecided", undecided))
"""


def test_an_operation_that_nothing_decides_on_is_refused(make_server: Callable[..., LiveServer]) -> None:
    files = {**FILES, "auth.py": OWN, "undecided.py": UNDECIDED}
    graphs = {"steps": "./undecided.py:steps"}
    with make_server(graphs, files, "--no-reload", auth={"path": "./auth.py:auth"}).http() as http:
        answer = http.get("/undecided", headers=as_user("alice"))
        assert (answer.status_code, answer.json()) == (403, {"detail": "No rule says who may use this operation"})
        assert http.get("/undecided").status_code == 401


def printed_matrix() -> str:
    """For reports: `python tests/test_auth.py`."""
    rows = [
        (operation, 401, case.stranger, case.owner, "" if case.sees is None else json.dumps(case.sees))
        for operation, cases in MATRIX.items()
        for case in cases
    ]
    rows += [(operation, 200, 200, 200, "") for operation in sorted(OPEN)]
    lines = [f"{'operation':56}{'nobody':>8}{'stranger':>10}{'owner':>7}  what the stranger sees"]
    return "\n".join(
        lines + [f"{op:56}{nobody:>8}{other:>10}{owner:>7}  {sees}" for op, nobody, other, owner, sees in rows]
    )


if __name__ == "__main__":
    print(printed_matrix())  # noqa: T201

"""Custom authentication and authorization: who is let in, what each user may do, and that nothing leads around it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, write_project
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

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
def make(make_server: Callable[..., LiveServer]) -> Callable[..., LiveServer]:
    """Makes servers with a text for auth.py."""

    def made(text: str, *options: str, **auth: Any) -> LiveServer:
        files = {**FILES, "auth.py": text}
        return make_server(SERVED, files, "--no-reload", *options, auth={"path": "./auth.py:auth", **auth})

    return made


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
RUN = {"assistant_id": "steps", "input": {"text": "x"}}
OWN_RUN = {"assistant_id": "{assistant_id}", "input": {"text": "x"}}
YEARLY = {"schedule": "0 0 1 1 *"}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "{name}", "arguments": {}}}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
ITEM = {"namespace": ["notes"], "key": "k", "value": {"text": "changed"}}
ANSWER = {"interrupt_id": "{interrupt_id}", "response": "yes"}


def command(method: str, **params: Any) -> dict[str, Any]:
    return {"id": 1, "method": method, "params": params}


def refused(status: int, thread: str = "{thread_id}") -> dict[str, Any]:
    """What a command of the event streaming protocol answers."""
    message = f"{status}: Thread with ID {thread} not found"
    return {"type": "error", "id": 1, "error": "unknown_error", "message": message}


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
    f"POST {T}/copy": [Case()],
    f"GET {T}/storage": [Case()],
    f"GET {T}/stream": [Case(), Case(on=BUSY)],
    f"GET {T}/state": [Case()],
    f"POST {T}/state": [Case({"values": {"text": "taken"}})],
    f"POST {T}/state/checkpoint": [Case({"checkpoint": {"checkpoint_id": "{checkpoint_id}"}})],
    f"GET {T}/state/{{checkpoint_id}}": [Case()],
    f"GET {T}/history": [Case(params={"limit": 5})],
    f"POST {T}/history": [Case({"limit": 5})],
    f"GET {T}/runs": [Case()],
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
    f"GET {R}/join": [Case(), Case(params={"cancel_on_disconnect": "true"})],
    f"GET {R}/stream": [Case(), Case(params={"stream_mode": "values"})],
    f"POST {R}/cancel": [
        Case(owner=202, on=BUSY),
        Case(params={"action": "rollback", "wait": "true"}, on=BUSY),
    ],
    f"POST {T}/commands": [
        Case(command("run.start", **RUN), stranger=200, sees=refused(404)),
        Case(
            command("input.respond", **ANSWER),
            stranger=200,
            sees=refused(404, "{asking_thread}"),
            on={"thread_id": "asking_thread"},
        ),
    ],
    f"POST {T}/stream/events": [Case({"channels": ["values"]})],
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
    f"POST {T}/runs/crons": [Case({**RUN, **YEARLY})],
    "POST /mcp/": [
        Case(CALL, stranger=200, sees=UNKNOWN_TOOL),
        Case(LIST, stranger=200, sees={"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}),
    ],
    "GET /mcp/": [Case(stranger=405, owner=405)],
    "DELETE /mcp/": [Case(stranger=404, owner=404)],
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


def attempt(http: httpx.Client, operation: str, case: Case, world: dict[str, str], name: str | None) -> tuple[int, Any]:
    """The status, and the body unless the stream is endless."""
    method, path = operation.split(" ")
    named = case.named(world)
    body = {} if case.json is None else {"json": filled(case.json, named)}
    headers = {**as_user(name), "accept": "application/json, text/event-stream"}
    path = filled(path, named).rstrip("/")
    with http.stream(method, path, params=case.params, headers=headers, **body) as answer:
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
    assert [route.path for route in devserver.ROUTES if not devserver.rule_of(route.handler)] == []
    assert {f"{route.method} {route.path}" for route in devserver.ROUTES if route.handler in devserver.OPEN} == OPEN


def printed_matrix() -> str:
    """For reports: `python tests/test_auth.py`."""
    rows = [
        (operation, 401, case.stranger, case.owner, "" if case.sees is None else json.dumps(case.sees))
        for operation, cases in MATRIX.items()
        for case in cases
    ]
    rows += [(operation, 200, 200, 200, "") for operation in sorted(OPEN)]
    lines = [f"{'operation':56}{'nobody':>8}{'stranger':>10}{'owner':>7}  what the stranger sees"]
    return "\n".join(lines + [f"{op:56}{nobody:>8}{other:>10}{owner:>7}  {sees}" for op, nobody, other, owner, sees in rows])


if __name__ == "__main__":
    print(printed_matrix())  # noqa: T201

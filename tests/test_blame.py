"""Whose fault a failure is: the client's (400, nothing to log), the user's code or ours (500, with a traceback)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually, write_project

MADE = """
    from pathlib import Path

    from basic import gated, steps
    from langgraph.errors import EmptyInputError, InvalidUpdateError

    ERRORS = {
        "ValueError": lambda: ValueError("no such model"),
        "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "no such model"),
        "OverflowError": lambda: OverflowError("no such model"),
        "InvalidUpdateError": lambda: InvalidUpdateError("no such model"),
        "EmptyInputError": lambda: EmptyInputError("no such model"),
        "RuntimeError": lambda: RuntimeError("no such model"),
    }
    fault = Path(__file__).with_name("fault")


    def make(config):
        if fault.exists():
            raise ERRORS[fault.read_text()]()
        return steps


    def make_gated(config):
        make(config)
        return gated
"""
ROUTED = """
    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        text: str

    def write(state):
        return {"text": "a"}

    def route(state):
        raise ValueError("nowhere to go")

    graph = StateGraph(State).add_node("write", write).add_node("end", write).add_edge(START, "write")
    graph = graph.add_conditional_edges("write", route).compile()
"""
MADE_LINE = "made.py:20"
ERRORS = ["ValueError", "UnicodeDecodeError", "OverflowError", "InvalidUpdateError", "EmptyInputError", "RuntimeError"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("project")
    files = {"basic.py": (GRAPHS / "basic.py").read_text(), "made.py": MADE, "routed.py": ROUTED}
    graphs = {
        "made": "./made.py:make",
        "gated": "./made.py:make_gated",
        "routed": "./routed.py:graph",
        "chat": "./basic.py:chat",
    }
    write_project(folder, graphs, files)
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    live.stop()


@pytest.fixture
def thread(server: LiveServer, http: httpx.Client) -> Iterator[str]:
    (server.folder / "fault").unlink(missing_ok=True)
    made = http.post("/threads", json={"metadata": {"graph_id": "made"}}).json()
    http.post(f"/threads/{made['thread_id']}/state", json={"values": {"text": "a"}}).raise_for_status()
    yield made["thread_id"]
    (server.folder / "fault").unlink(missing_ok=True)


def assistant(http: httpx.Client, graph_id: str) -> str:
    [found] = http.post("/assistants/search", json={"graph_id": graph_id, "limit": 1}).json()
    return str(found["assistant_id"])


# The user's code: a factory that fails, at every door that needs the graph

FACTORY_DOORS: dict[str, tuple[str, Any]] = {
    "/assistants/made/graph": ("GET", None),
    "/assistants/{assistant}/schemas": ("GET", None),
    "/assistants/{assistant}/subgraphs": ("GET", None),
    "/threads/{thread}/state": ("GET", None),
    "/threads/{thread}/state/x": ("GET", None),
    "/threads/{thread}/history": ("GET", None),
    "/threads/{thread}/history ": ("POST", {}),
    "/threads/{thread}/state/checkpoint": ("POST", {"checkpoint": {}}),
    "/threads/{thread}/state ": ("POST", {"values": {"text": "b"}}),
    "/threads": ("POST", {"metadata": {"graph_id": "made"}, "supersteps": [{"updates": [{"as_node": "first"}]}]}),
    "/a2a/{assistant}": ("GET", None),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("door", FACTORY_DOORS)
async def test_a_factory_that_fails_is_a_500_that_names_its_line(
    server: LiveServer, http: httpx.Client, thread: str, door: str, error: str
) -> None:
    method, body = FACTORY_DOORS[door]
    path = door.strip().format(thread=thread, assistant=assistant(http, "made"))
    (server.folder / "fault").write_text(error)
    server.lines.clear()
    answer = http.request(method, path, json=body)
    assert answer.status_code == 500
    detail = answer.json()["detail"]
    assert detail.startswith(f"{error}: ")
    assert "no such model" in detail
    assert detail.endswith(f" (at {MADE_LINE})")
    await eventually(lambda: f"{error}: " in server.log)
    assert f"{method} {path} failed in your code" in server.log
    assert server.log.count("Traceback (most recent call last)") == 1
    assert server.log.count("raise ERRORS[fault.read_text()]()") == 1


async def test_a_thread_whose_state_cannot_be_shown_is_logged_and_shows_it_later(
    server: LiveServer, http: httpx.Client, thread: str
) -> None:
    """After a run was deleted; the next start shows it."""

    def shown() -> Any:
        return http.get(f"/threads/{thread}").json()["values"]["text"]

    http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "made", "input": {"text": "b"}})
    [run] = http.get(f"/threads/{thread}/runs").json()
    after = shown()
    (server.folder / "fault").write_text("ValueError")
    server.lines.clear()
    assert http.delete(f"/threads/{thread}/runs/{run['run_id']}").status_code == 204
    await eventually(lambda: f"thread {thread} shows an old state: no such model" in server.log)
    assert server.log.count("raise ERRORS[fault.read_text()]()") == 1
    assert shown() == after
    (server.folder / "fault").unlink()
    assert server.stop() == 0
    server.start()
    with server.http() as again:
        assert (
            again.get(f"/threads/{thread}").json()["values"] == again.get(f"/threads/{thread}/state").json()["values"]
        )
        assert again.get(f"/threads/{thread}").json()["values"]["text"] == "a"


async def test_a_cancelled_run_whose_state_cannot_be_shown_is_logged(
    server: LiveServer, http: httpx.Client, thread: str
) -> None:
    run = http.post(f"/threads/{thread}/runs", json={"assistant_id": "gated", "input": {"gate": "/nowhere"}}).json()
    path = f"/threads/{thread}/runs/{run['run_id']}"
    await eventually(lambda: http.get(f"/threads/{thread}/state").json()["next"] == ["wait"])
    (server.folder / "fault").write_text("ValueError")
    server.lines.clear()
    http.post(f"{path}/cancel?wait=true").raise_for_status()
    await eventually(lambda: f"thread {thread} shows an old state: no such model" in server.log)
    assert server.log.count("raise ERRORS[fault.read_text()]()") == 1


async def test_a_run_of_a_factory_that_fails_is_logged_once(
    server: LiveServer, http: httpx.Client, thread: str
) -> None:
    (server.folder / "fault").write_text("ValueError")
    server.lines.clear()
    http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "made", "input": {}})
    await eventually(lambda: "no such model" in server.log)
    assert server.log.count("raise ERRORS[fault.read_text()]()") == 1
    assert "shows an old state" not in server.log


async def test_a_router_that_fails_at_an_update_is_logged(server: LiveServer, http: httpx.Client) -> None:
    thread = http.post("/threads", json={"metadata": {"graph_id": "routed"}}).json()["thread_id"]
    server.lines.clear()
    answer = http.post(f"/threads/{thread}/state", json={"values": {"text": "a"}, "as_node": "write"})
    assert (answer.status_code, answer.json()["detail"]) == (400, "ValueError: nowhere to go")
    await eventually(lambda: "ValueError: nowhere to go" in server.log)
    assert f"an update of thread {thread} failed in" in server.log
    assert 'raise ValueError("nowhere to go")' in server.log


def test_a_graph_that_cannot_be_compiled_says_what_went_wrong(tmp_path: Path) -> None:
    lost = 'from langgraph.graph import StateGraph\n\ngraph = StateGraph(dict).add_edge("nowhere", "lost")\n'
    write_project(tmp_path, {"lost": "./lost.py:graph"}, {"lost.py": lost})
    live = LiveServer(tmp_path, ["--no-reload"])
    with pytest.raises(AssertionError, match="the server did not start"):
        live.start()
    assert live.stop() == 1
    assert "graph 'lost' (./lost.py:graph) cannot be compiled: ValueError: Found edge starting at unknown" in live.log


# Clients: what LangGraph can't do for them


@pytest.mark.parametrize(
    ("method", "path", "body", "detail"),
    [
        ("POST", "/threads/{}/state", {"values": {}, "as_node": "nowhere"}, "Node nowhere does not exist"),
        ("POST", "/threads/{}/state", {"values": [1], "as_node": "first"}, "Expected dict, got [1]"),
        ("POST", "/threads/{}/state", {"values": {}, "checkpoint": {"checkpoint_ns": "x:1"}}, "Subgraph x not found"),
    ],
)
def test_what_langgraph_refuses_is_the_clients_fault(
    server: LiveServer, http: httpx.Client, thread: str, method: str, path: str, body: Any, detail: str
) -> None:
    server.lines.clear()
    answer = http.request(method, path.format(thread), json=body)
    assert (answer.status_code, answer.json()["detail"].partition("\n")[0]) == (400, detail)
    assert "Traceback" not in server.log


# Ours: a row that can't be read


@pytest.fixture
def broken(server: LiveServer, http: httpx.Client) -> Iterator[str]:
    """A thread with metadata that are no JSON."""
    thread_id = str(http.post("/threads", json={}).json()["thread_id"])

    def set_metadata(text: str) -> None:
        with closing(sqlite3.connect(server.folder / "devserver.db")) as conn, conn:
            conn.execute("UPDATE threads SET metadata = ? WHERE thread_id = ?", (text, thread_id))

    set_metadata("{")
    yield thread_id
    set_metadata("{}")


def call(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def get(http: httpx.Client, thread: str) -> httpx.Response:
    return http.get(f"/threads/{thread}")


def run(http: httpx.Client, thread: str) -> httpx.Response:
    return http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "routed"})


def command(http: httpx.Client, thread: str) -> httpx.Response:
    params = {"assistant_id": "routed", "input": {}}
    return http.post(f"/threads/{thread}/commands", json={"id": 1, "method": "run.start", "params": params})


def message(http: httpx.Client, thread: str) -> httpx.Response:
    said = {"role": "user", "messageId": "1", "contextId": thread, "parts": [{"kind": "text", "text": "a"}]}
    return http.post(f"/a2a/{assistant(http, 'chat')}", json=call("message/send", {"message": said}))


@pytest.mark.parametrize("door", [get, run, command, message])
async def test_a_fault_of_devserver_is_a_500_with_a_traceback(
    server: LiveServer, http: httpx.Client, broken: str, door: Callable[[httpx.Client, str], httpx.Response]
) -> None:
    server.lines.clear()
    answer = door(http, broken)
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal Server Error"})
    await eventually(lambda: "JSONDecodeError" in server.log)
    assert "failed in devserver: please report it" in server.log
    assert server.log.count("Traceback (most recent call last)") == 1


@pytest.mark.parametrize("thread", ["x", "x-y", "00000000"])
def test_a_bad_thread_id_is_named(http: httpx.Client, thread: str) -> None:
    said = command(http, thread).json()
    assert (said["error"], said["message"]) == ("unknown_error", "422: Invalid thread ID")
    assert message(http, thread).json()["error"]["message"] == "Failed to create run: Invalid thread ID"

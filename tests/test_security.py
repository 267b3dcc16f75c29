"""What SECURITY.md promises. Who may talk to the server at all is also in test_http_system.py, large bodies are in
test_bad_input.py, the addresses of webhooks in test_webhooks.py."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import pickle
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import ormsgpack
import pytest
from conftest import GRAPHS, LiveServer, write_project

from devserver import DataTypes

THREAD = "0190f6a0-0000-7000-8000-000000000000"
SERVED = {"steps": "./basic.py:steps", "names": "./names.py:graph", "typed": "./typed.py:graph"}
NAMES = """
    from langgraph.config import get_stream_writer
    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        text: str

    def speak(state):
        get_stream_writer()(state["text"])
        return {"text": state["text"]}

    inner = StateGraph(State).add_node("in\\r\\n\\r\\ndata\\r\\ndata", speak)
    inner = inner.add_edge(START, "in\\r\\n\\r\\ndata\\r\\ndata").compile()
    outer = StateGraph(State).add_node("out\\nretry\\ndata", inner).add_edge(START, "out\\nretry\\ndata")
    graph = outer.compile()
"""
TYPED = """
    import enum
    from dataclasses import dataclass
    from typing import Any, NamedTuple

    from langgraph.graph import START, StateGraph
    from pydantic import BaseModel, SecretStr
    from typing_extensions import TypedDict

    @dataclass
    class Point:
        x: int

    class Colour(enum.Enum):
        RED = "red"

    class Person(BaseModel):
        name: str

    class Pair(NamedTuple):
        a: int
        b: int

    class Tags(set):
        pass

    class State(TypedDict, total=False):
        held: Any
        kinds: Any

    def make(state):
        return {"held": [Point(1), Colour.RED, Person(name="Ada"), Pair(1, 2), Tags({1}), SecretStr("s")]}

    def look(state):
        return {"kinds": [type(each).__name__ for each in state["held"]]}

    graph = StateGraph(State).add_node(make).add_node(look).add_edge(START, "make").add_edge("make", "look")
    graph = graph.compile(interrupt_before=["look"])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("secured")
    files = {"basic.py": (GRAPHS / "basic.py").read_text(), "names.py": NAMES, "typed.py": TYPED}
    write_project(folder, SERVED, files)
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0, live.log


def raw(server: LiveServer, head: str) -> tuple[int, str]:
    """Status and text of the answer to a request written by hand."""
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port or 80), timeout=10) as connection:
        connection.sendall(head.encode("latin-1"))
        connection.settimeout(10)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
                answer += part
    return int(answer.split()[1]), answer.decode("latin-1")


# Web pages from elsewhere: each Host with each Origin, reading, writing and over a WebSocket

HOSTS = {"localhost": True, "127.0.0.1": True, "[::1]": True, "evil.com": False, "127.0.0.1.evil.com": False}
ORIGINS = {
    None: True,
    "http://localhost:3000": True,
    "http://evil.com": False,
    "null": False,
    "https://localhost": True,
}
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.mark.parametrize(("host", "origin"), [*itertools.product(HOSTS, ORIGINS)])
def test_only_this_machine_and_its_pages_may_use_the_server(server: LiveServer, host: str, origin: str | None) -> None:
    """A page whose name was rebound to this machine (DNS) sends its own name as Host: it may not even read."""
    common = f"Host: {host}\r\n" + (f"Origin: {origin}\r\n" if origin else "")
    read, text = raw(server, f"GET /info HTTP/1.1\r\n{common}\r\n")
    assert read == (200 if HOSTS[host] else 403)
    shared = "access-control-allow-origin" in text.lower()
    assert shared == bool(origin and ORIGINS[origin] and HOSTS[host])
    allowed = HOSTS[host] and ORIGINS[origin]
    write, _ = raw(server, f"POST /threads HTTP/1.1\r\n{common}Content-Length: 2\r\n\r\n{{}}")
    assert write == (200 if allowed else 403)
    upgrade, _ = raw(server, f"GET /threads/{THREAD}/stream/events HTTP/1.1\r\n{common}{UPGRADE}\r\n")
    assert upgrade == (101 if allowed else 403)
    _, text = raw(
        server,
        f"OPTIONS /threads HTTP/1.1\r\n{common}Access-Control-Request-Method: DELETE\r\nContent-Length: 0\r\n\r\n",
    )
    assert ("access-control-allow-origin" in text.lower()) == bool(origin and allowed)


@pytest.mark.parametrize(
    "host", ["localhost, evil.com", "localhost evil.com", "localhost/evil.com", "evil.com:80:localhost"]
)
def test_a_host_of_two_names_is_refused(server: LiveServer, host: str) -> None:
    assert raw(server, f"GET /info HTTP/1.1\r\nHost: {host}\r\n\r\n")[0] in (400, 403)


def test_the_last_of_two_hosts_does_not_hide_the_first(server: LiveServer) -> None:
    for hosts in (("evil.com", "localhost"), ("localhost", "evil.com")):
        head = "".join(f"Host: {host}\r\n" for host in hosts)
        assert raw(server, f"GET /info HTTP/1.1\r\n{head}\r\n")[0] in (400, 403)


def test_the_last_of_two_origins_does_not_hide_the_first(server: LiveServer) -> None:
    for origins in (("http://evil.com", "http://localhost"), ("http://localhost", "http://evil.com")):
        head = "".join(f"Origin: {origin}\r\n" for origin in origins)
        sent = f"POST /threads HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: 2\r\n\r\n{{}}"
        assert raw(server, sent)[0] in (400, 403)


# What is in paths, headers and names


@pytest.mark.parametrize(
    "path",
    [
        *("/../langgraph.json", "/%2e%2e/langgraph.json", "/docs/../../etc/passwd", "/docs/%2e%2e%2flanggraph.json"),
        *("/threads/..%2f..%2fdevserver.db", "/threads/%00", "/threads/%0d%0aX-Injected:%201/state", "/devserver.db"),
        *("//evil.com/", "//evil.com/threads/", "/\\evil.com/", "/threads/%252e%252e", "/.well-known/../devserver.db"),
    ],
)
def test_no_path_leads_to_files_or_elsewhere(server: LiveServer, path: str) -> None:
    status, text = raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status in (307, 400, 404, 405, 422)
    head = text.partition("\r\n\r\n")[0].lower()
    assert "x-injected" not in head
    location = [line for line in head.split("\r\n") if line.startswith("location:")]
    assert all(urlsplit(line.partition(": ")[2]).netloc.partition(":")[0] == "localhost" for line in location)


@pytest.mark.parametrize("value", ["a\r\nx-injected: 1", "a\nx-injected: 1", "a\r\n\r\n<p>"])
def test_what_clients_send_makes_no_headers(server: LiveServer, value: str) -> None:
    with server.http() as client:
        thread = client.post("/threads", json={"metadata": {"a": value}}).json()["thread_id"]
        answers = [
            client.post("/threads/search", json={"metadata": {"a": value}}),
            client.get(f"/threads/{thread}/runs", params={"status": value}),
            client.get("/store/items", params={"namespace": value, "key": value}),
            client.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "steps", "input": {"text": value}}),
            client.post("/threads", json={"thread_id": value}),
        ]
    for answer in answers:
        assert "x-injected" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("mode", ["custom", "updates", "values", "debug", "tasks"])
@pytest.mark.parametrize("end", ["\n\n", "\r\r", "\r\n\r\n", "\u2028", "\x85"])
def test_neither_data_nor_names_forge_events(server: LiveServer, mode: str, end: str) -> None:
    text = f"x{end}event: forged\ndata: 1{end}id: 99{end}"
    sent = {"assistant_id": "names", "input": {"text": text}, "stream_mode": mode, "stream_subgraphs": True}
    with server.http() as client:
        answer = client.post("/runs/stream", json=sent).raise_for_status()
    frames = [frame.split("\r\n") for frame in answer.text.split("\r\n\r\n") if frame]
    assert len(frames) > 1
    for frame in frames:
        assert [line.partition(": ")[0] for line in frame] == ["event", "data"]
        assert frame[0].startswith((f"event: {mode}", "event: metadata"))
        assert not any(line.strip("\r\n") != line or "\n" in line or "\r" in line for line in frame)
        json.loads(frame[1].removeprefix("data: "))


def test_the_documentation_holds_nothing_of_its_readers(server: LiveServer) -> None:
    with server.http() as client:
        client.post("/assistants", json={"graph_id": "steps", "name": "<script>alert(1)</script>"})
        for path in ("/docs", "/docs?<script>alert(1)</script>", "/openapi.json"):
            assert "<script" not in client.get(path).text
        missing = client.get("/<script>alert(1)</script>")
        assert missing.headers["content-type"] == "application/json"


# Webhooks


@pytest.mark.parametrize(
    "url",
    [
        *("http://169.254.169.254/latest/meta-data", "http://2852039166/", "http://0xa9fea9fe/", "http://[fe80::1]/"),
        *(
            "http://[::ffff:169.254.169.254]/",
            "file:///etc/passwd",
            "gopher://localhost/",
            "http:///x",
            "//localhost/x",
        ),
    ],
)
def test_webhooks_go_to_no_metadata_service_and_no_file(server: LiveServer, url: str) -> None:
    with server.http() as client:
        refused = client.post("/runs", json={"assistant_id": "steps", "input": {}, "webhook": url})
    assert refused.status_code == 422


def test_webhooks_follow_no_redirects(server: LiveServer) -> None:
    asked: list[str] = []
    told = threading.Event()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(307)
            self.send_header("location", "/elsewhere")
            self.end_headers()
            told.set()

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{receiver.server_port}/here"
        with server.http() as client:
            client.post("/runs/wait", json={"assistant_id": "steps", "input": {}, "webhook": url}).raise_for_status()
            assert told.wait(10)
            client.post("/runs/wait", json={"assistant_id": "steps", "input": {}}).raise_for_status()
        receiver.shutdown()
        thread.join()
    assert asked == ["/here"]


# Database files of somebody else


def ext(code: int, *parts: Any) -> ormsgpack.Ext:
    return ormsgpack.Ext(code, ormsgpack.packb(parts))


class Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.file), "w")


def crafted(kind: str, file: Path) -> tuple[str, bytes]:
    """A value in a checkpoint that makes a file if it is trusted."""
    command = f"touch {file}"
    if kind == "pickle":
        return "pickle", pickle.dumps(Evil(file))
    if kind == "json":
        envelope = {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": [command]}
        return "json", json.dumps(envelope).encode()
    values = {
        "function": ext(0, "os", "system", command),
        "class": ext(1, "subprocess", "Popen", [["touch", str(file)]]),
        "keywords": ext(2, "subprocess", "run", {"args": ["touch", str(file)]}),
        "method": ext(3, "pathlib", "Path", str(file), "touch"),
        "pydantic": ext(5, "builtins", "exec", {"source": f"open({str(file)!r}, 'w')"}, "x"),
        "open": ext(1, "io", "open", [str(file), "w"]),
    }
    return "msgpack", ormsgpack.packb(values[kind])


@pytest.mark.parametrize("kind", ["pickle", "json", "function", "class", "keywords", "method", "pydantic", "open"])
def test_reading_a_crafted_database_runs_nothing(server: LiveServer, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "made"
    typ, value = crafted(kind, file)
    with server.http() as client:
        thread = client.post("/threads", json={}).json()["thread_id"]
        wanted = {"assistant_id": "typed", "input": {}}
        client.post(f"/threads/{thread}/runs/wait", json=wanted).raise_for_status()
        with contextlib.closing(sqlite3.connect(server.folder / "devserver.db", timeout=20)) as conn, conn:
            query = "SELECT checkpoint FROM checkpoints WHERE thread_id = ? ORDER BY checkpoint_id DESC"
            whole = ormsgpack.unpackb(conn.execute(query, (thread,)).fetchone()[0], ext_hook=ormsgpack.Ext)
            if typ == "msgpack":
                whole["channel_values"]["held"] = ormsgpack.unpackb(value, ext_hook=ormsgpack.Ext)
                typ, value = "msgpack", ormsgpack.packb(whole)
            changed = conn.execute(
                "UPDATE checkpoints SET type = ?, checkpoint = ? WHERE thread_id = ?", (typ, value, thread)
            )
            assert changed.rowcount
    for path in (f"/threads/{thread}/state", f"/threads/{thread}/history", f"/threads/{thread}/storage"):
        assert httpx.get(server.url + path).status_code == (200 if typ == "msgpack" else 500)
    httpx.post(f"{server.url}/threads/{thread}/runs/wait", json={**wanted, "input": None}).raise_for_status()
    httpx.post(f"{server.url}/threads/{thread}/copy").raise_for_status()
    assert not file.exists()


def test_a_users_own_data_types_come_back_after_a_restart(server: LiveServer) -> None:
    with server.http() as client:
        thread = client.post("/threads", json={}).json()["thread_id"]
        client.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "typed", "input": {}}).raise_for_status()
    assert server.stop() == 0
    with server.start().http() as client:
        resumed = client.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "typed", "input": None})
    assert resumed.json()["kinds"] == ["Point", "Colour", "Person", "Pair", "Tags", "SecretStr"]
    assert "Deserializing" not in server.log
    assert "Blocked" not in server.log


@pytest.mark.parametrize(
    ("module", "name", "held"),
    [
        *(
            ("os", "system", False),
            ("subprocess", "Popen", False),
            ("builtins", "eval", False),
            ("os", "environ", False),
        ),
        *(("nowhere", "x", False), ("os", "nothing", False), ("importlib", "import_module", False)),
        *(("collections", "Counter", False), ("collections", "deque", True), ("builtins", "frozenset", True)),
        *(("langgraph.types", "Interrupt", True), ("langchain_core.documents.base", "Document", True)),
    ],
)
def test_only_types_that_hold_data_are_made_from_checkpoints(module: str, name: str, held: bool) -> None:
    assert ((module, name) in DataTypes()) == held

"""Clients that misbehave: what they cost is bounded, and others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually

EMITS = """
    import asyncio
    import os
    from langgraph.config import get_stream_writer
    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        count: int
        size: int
        gate: str

    async def emit(state):
        write = get_stream_writer()
        for n in range(state["count"]):
            write({"n": n, "pad": "x" * state["size"]})
            if n % 20 == 0:
                await asyncio.sleep(0)
        while state.get("gate") and not os.path.exists(state["gate"]):
            await asyncio.sleep(0.01)
        return {"count": 0}

    emits = StateGraph(State).add_node(emit).add_edge(START, "emit").compile()
"""
SERVED = {"gated": "./basic.py:gated", "steps": "./basic.py:steps", "emits": "./emits.py:emits"}
FILES = {"basic.py": (GRAPHS / "basic.py").read_text(), "emits.py": EMITS}


@pytest.fixture
def server(make_server: Callable[..., LiveServer]) -> Iterator[LiveServer]:
    made = make_server(SERVED, FILES, "--no-reload")
    yield made
    assert made.stop() == 0


def memory(server: LiveServer) -> int:
    """Bytes that the server has in memory."""
    assert server.process
    with contextlib.suppress(FileNotFoundError):
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024
    pytest.skip("there is no /proc here")


def numbers(text: bytes) -> list[int]:
    """Those of the custom events in a stream."""
    return [int(number) for number in re.findall(rb'event: custom\r\ndata: \{"n":(\d+),', text)]


def emitting(http: httpx.Client, count: int, size: int, **more: Any) -> tuple[str, dict[str, Any]]:
    thread = str(http.post("/threads", json={}).raise_for_status().json()["thread_id"])
    sent = {"assistant_id": "emits", "input": {"count": count, "size": size}, "stream_mode": "custom", **more}
    return thread, sent


def until_idle(server: LiveServer, thread: str) -> None:
    """Others are served meanwhile."""
    with server.http() as http:
        while http.get(f"/threads/{thread}").raise_for_status().json()["status"] == "busy":
            time.sleep(0.02)


@pytest.mark.long
@pytest.mark.parametrize("resumable", [False, True])
def test_a_client_that_stops_reading_costs_no_memory_and_loses_nothing(server: LiveServer, resumable: bool) -> None:
    count, size = 40_000, 8_000  # 320 MB
    with server.http() as http:
        http.post("/runs/wait", json=emitting(http, 10, 10)[1]).raise_for_status()
        before = memory(server)
        thread, sent = emitting(http, count, size, stream_resumable=resumable)
        with http.stream("POST", f"/threads/{thread}/runs/stream", json=sent) as answer:
            until_idle(server, thread)
            assert memory(server) - before < 180e6
            assert numbers(answer.read()) == list(range(count))
        assert memory(server) - before < 180e6
        path = answer.headers["content-location"] + "/stream"
        with http.stream("GET", path, headers={"last-event-id": "-1"}) as again:
            assert numbers(again.read()) == (list(range(count)) if resumable else [])
        assert memory(server) - before < 180e6


def test_who_comes_back_to_a_run_that_goes_on_gets_also_what_is_no_longer_in_memory(
    server: LiveServer, tmp_path: Path
) -> None:
    count, gate = 3_000, tmp_path / "gate"
    with server.http() as http:
        thread, sent = emitting(http, count, 8_000, stream_resumable=True)
        sent["input"]["gate"] = str(gate)
        path = f"/threads/{thread}/runs"
        with http.stream("POST", f"{path}/stream", json=sent) as answer:
            ids = [line for line in itertools.islice(answer.iter_lines(), 4 * count) if line.startswith("id: ")]
        path = f"{answer.headers['content-location']}/stream"
        places = {"-1": 0, ids[count // 2].removeprefix("id: "): count // 2, ids[-1].removeprefix("id: "): count - 1}
        with contextlib.ExitStack() as stack:
            again = [
                stack.enter_context(http.stream("GET", path, headers={"last-event-id": place})) for place in places
            ]
            gate.touch()
            found = [numbers(each.read()) for each in again]
        assert found == [list(range(start, count)) for start in places.values()]


@pytest.mark.parametrize("follows", ["run", "thread"])
def test_a_hopelessly_slow_reader_is_cut_off_where_the_disk_takes_no_more(server: LiveServer, follows: str) -> None:
    """Its stream breaks off, so it is not taken for whole."""
    server.stop()
    server.program = "import devserver as d; d.Overflow.MAX_PAGES = 2000; d.main()"
    server.start()
    with server.http() as http:
        thread, sent = emitting(http, 5_000, 8_000)
        options: dict[str, Any] = {"method": "GET", "url": f"/threads/{thread}/stream"}
        if follows == "run":
            options = {"method": "POST", "url": f"/threads/{thread}/runs/stream", "json": sent}
        with http.stream(**options) as answer:
            if follows == "thread":
                http.post(f"/threads/{thread}/runs", json=sent).raise_for_status()
            until_idle(server, thread)
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
        assert "slow readers are cut off" in server.log
        assert "Traceback" not in server.log
        [run] = http.get(f"/threads/{thread}/runs").json()
        assert run["status"] == "success"


@pytest.mark.long
async def test_five_hundred_open_streams_hold_up_nobody(server: LiveServer, tmp_path: Path) -> None:
    gate, limits = tmp_path / "gate", httpx.Limits(max_connections=None)
    given = {"assistant_id": "gated", "input": {"gate": str(gate)}, "stream_mode": "updates"}
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http:
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        run = (await http.post(f"/threads/{thread}/runs", json=given)).json()["run_id"]
        before = memory(server)
        async with contextlib.AsyncExitStack() as stack:
            path = f"/threads/{thread}/runs/{run}/stream"
            opened = [stack.enter_async_context(http.stream("GET", path)) for _ in range(500)]
            streams = await asyncio.gather(*opened)
            assert memory(server) - before < 60e6
            done = await http.post("/runs/wait", json={"assistant_id": "steps", "input": {"text": "a"}})
            assert done.json()["text"] == "a!"
            for stream in streams[:250]:
                await stream.aclose()  # half of them just go away
            gate.touch()
            for text in await asyncio.gather(*(stream.aread() for stream in streams[250:])):
                assert text.count(b"event: updates") == 2
        assert (await http.get(f"/threads/{thread}/runs/{run}")).json()["status"] == "success"


@contextlib.contextmanager
def connections(server: LiveServer, count: int) -> Iterator[list[socket.socket]]:
    where = urlsplit(server.url)
    with contextlib.ExitStack() as stack:
        address = (where.hostname, where.port or 80)
        yield [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(count)]


def test_heads_that_never_end_hold_up_nobody(server: LiveServer) -> None:
    with connections(server, 300) as opened, server.http() as http:
        for part in (b"POST /threads HTTP/1.1\r\n", b"Host: localhost\r\n", b"X-A: b\r\n"):
            for connection in opened:
                connection.sendall(part)
            assert (
                http.post("/runs/wait", json={"assistant_id": "steps", "input": {"text": "a"}}).json()["text"] == "a!"
            )


def test_a_head_without_end_is_refused_before_it_fills_the_memory(server: LiveServer) -> None:
    before = memory(server)
    for line_end in (b"\r\n", b""):
        with connections(server, 1) as [connection]:
            connection.sendall(b"GET /ok HTTP/1.1\r\nHost: localhost\r\nX-A: ")
            with pytest.raises(ConnectionError):
                connection.sendall((b"b" * 60_000 + line_end + b"X-A: ") * 2000)
    assert memory(server) - before < 50e6
    with server.http() as http:
        assert http.get("/ok", headers={"x-a": "b" * 60_000}).status_code == 200
        assert http.post("/threads/count", json={"metadata": {"a": "b" * 600_000}}).status_code == 200


def test_a_body_may_come_byte_by_byte(server: LiveServer) -> None:
    body = json.dumps({"metadata": {"a": "b" * 200}}).encode()
    with connections(server, 20) as opened, server.http() as http:
        for connection in opened:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"POST /threads HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
        for byte in body:
            for connection in opened:
                connection.sendall(bytes([byte]))
        for connection in opened:
            assert b" 200 OK" in connection.makefile("rb").readline()
        found = http.post("/threads/search", json={"metadata": {"a": "b" * 200}, "limit": 100}).json()
        assert len(found) == 20


@pytest.mark.parametrize("head", [b"Content-Length: 5000", b"Transfer-Encoding: chunked"])
async def test_clients_that_leave_in_mid_body_leave_nothing_behind(server: LiveServer, head: bytes) -> None:
    part = b'{"metadata": {"a": "' + b"b" * 1000
    begun = part if head.startswith(b"Content") else b"%x\r\n%s\r\n" % (len(part), part)
    with connections(server, 100) as opened:
        for connection in opened:
            connection.sendall(b"POST /threads HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n" + begun)
    with server.http() as http:
        assert http.post("/threads/count", json={}).json() == 0
    assert "Traceback" not in server.log
    assert server.process

    def sockets() -> int:
        found = 0
        for each in Path(f"/proc/{server.process.pid}/fd").glob("*"):  # type: ignore[union-attr]
            with contextlib.suppress(FileNotFoundError):
                found += str(each.readlink()).startswith("socket:")
        return found

    await eventually(lambda: sockets() < 20)

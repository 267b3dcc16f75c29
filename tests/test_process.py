"""What a server holds of the machine: its lock, its port, its file descriptors; and the signals that end it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, linux_only, posix_only

import devserver
from devserver import Db, StartError

GRAPHS = {"g": "./g.py:graph", "forks": "./g.py:forks"}
FILES = {
    "g.py": """
    import multiprocessing
    import os
    import time
    from pathlib import Path

    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        n: int
        way: str
        child: int

    def step(state):
        return {"n": state["n"] + 1}

    def fork(state):
        if state["way"] == "os":
            if not (child := os.fork()):
                time.sleep(60)
                os._exit(0)
            return {"child": child}
        process = multiprocessing.get_context(state["way"]).Process(target=time.sleep, args=(60,))
        process.start()
        return {"child": process.pid}

    graph = StateGraph(State).add_node(step).add_edge(START, "step").compile()
    forks = StateGraph(State).add_node(fork).add_edge(START, "fork").compile()
    """
}
Make = Callable[..., LiveServer]


@posix_only
@pytest.mark.parametrize("way", ["os", "fork", "spawn"])
def test_what_a_node_forks_keeps_neither_lock_nor_port_of_a_killed_server(make_server: Make, way: str) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    port = int(server.url.rpartition(":")[2])
    with server.http() as http:
        child = http.post("/runs/wait", json={"assistant_id": "forks", "input": {"way": way}}).json()["child"]
        assert http.post("/runs/wait", json={"assistant_id": "g", "input": {"n": 1}}).json()["n"] == 2  # goes on
    try:
        assert server.process
        server.process.kill()
        server.process.wait()
        os.kill(child, 0)  # it lives
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass
        server.options += ["--port", str(port)]
        server.start()
        assert server.url.endswith(f":{port}")
        assert server.stop() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@posix_only
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
async def test_a_file_system_without_locks_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(StartError) as error:
        await Db(str(tmp_path / "some.db")).open()
    assert "files can't be locked there" in str(error.value)
    assert os.strerror(number) in str(error.value)
    assert "in use" not in str(error.value)


@posix_only
async def test_a_disk_that_takes_no_lock_file_is_named_as_such(tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(StartError, match=r"some\.db: files can't be locked there \(.+\)\. Name one"):
            await Db(str(tmp_path / "some.db")).open()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("content", [b"no database" * 100, b""])
async def test_a_file_that_can_not_be_used_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    class Connection(sqlite3.Connection):
        def close(self) -> None:
            closed.append(self)
            super().close()

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        opened.append(real(*args, factory=Connection, **options))
        return opened[-1]

    opened: list[sqlite3.Connection] = []
    closed: list[sqlite3.Connection] = []
    file, real = tmp_path / "some.db", sqlite3.connect
    file.write_bytes(content)
    if not content:
        with contextlib.closing(real(file)) as other:
            other.execute("PRAGMA user_version = 999999")
    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(StartError):
        await Db(str(file)).open()
    assert opened
    assert closed == opened


@linux_only
def test_a_server_without_file_descriptors_says_so_once_and_recovers(make_server: Make) -> None:
    import resource

    server = make_server(GRAPHS, FILES, "--no-reload")
    assert server.process
    port = int(server.url.rpartition(":")[2])
    run = {"assistant_id": "g", "input": {"n": 1}}
    with server.http() as http:
        assert http.post("/runs/wait", json=run).json()["n"] == 2
        soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (100, hard))
        before = len(server.log)
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            assert http.post("/runs/wait", json=run).json()["n"] == 2  # who has a connection is served
            time.sleep(0.05)
        said = server.log[before:].splitlines()
        assert [line for line in said if "INFO" not in line] == [line for line in said if "ulimit -n" in line]
        assert sum("ulimit -n" in line for line in said) == 1
        for connection in held:
            connection.close()
        assert httpx.get(f"{server.url}/ok", timeout=10).status_code == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert server.stop() == 0


def test_many_connections_at_once_are_all_accepted(make_server: Make) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    port = int(server.url.rpartition(":")[2])
    begun = time.monotonic()
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
    for connection in held:
        connection.sendall(b"GET /ok HTTP/1.1\r\nhost: localhost\r\n\r\n")
    for connection in held:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.close()
    assert time.monotonic() - begun < 10


@posix_only
@pytest.mark.parametrize("ignored", [False, True])
def test_a_hangup_is_a_graceful_stop_unless_it_was_ignored(make_server: Make, ignored: bool) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    assert server.stop() == 0
    handler = "SIG_IGN" if ignored else "SIG_DFL"  # whatever these tests themselves were started with
    first = f"import os, signal, sys; signal.signal(signal.SIGHUP, signal.{handler}); os.execv(sys.executable, sys.argv"
    server.command = [sys.executable, "-c", f"{first}[1:])", sys.executable, "-u", "-m", "devserver"]
    server.start()
    assert server.process
    server.process.send_signal(signal.SIGHUP)
    if ignored:
        time.sleep(1)
        assert httpx.get(f"{server.url}/ok").status_code == 200
        assert server.stop() == 0
    else:
        assert server.process.wait(10) == 0
        assert not (server.folder / "devserver.db-wal").exists()


async def test_what_reaches_a_closed_database_is_told_that_the_server_stops(tmp_path: Path) -> None:
    db = Db(str(tmp_path / "closed.db"))
    await db.open()
    await db.close()
    with pytest.raises(devserver.Unavailable, match="the server stops"):
        await db.write(lambda conn: None)

"""Windows and macOS, as far as they can be simulated: what differs there is taken away or replaced.

as_windows.py is a program that serves as on Windows: no fcntl but an msvcrt whose locks also keep readers out, a
SO_REUSEADDR that shares ports and a SO_EXCLUSIVEADDRUSE that does not, select() with 512 sockets, a clock of 15.6 ms,
no signal handlers of the loop, and files that can't be deleted or replaced while they are open.
"""

from __future__ import annotations

import contextlib
import errno
import ntpath
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, LiveServer
from test_clock import GRAPH, check_order, fill

import devserver
from devserver import Db, StartError

Make = Callable[..., LiveServer]
WINDOWS = (ROOT / "tests" / "as_windows.py").read_text()
FILES = {"g.py": GRAPH}
GRAPHS = {"g": "./g.py:graph"}


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.fixture
def as_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of WINDOWS that code of the tests' own process meets, but for the clock."""
    names = {"__name__": "as_windows", "monkeypatch": monkeypatch}
    exec(WINDOWS, names)  # noqa: S102


# -- where it listens --


def test_localhost_is_both_addresses_on_one_port(make_server: Make) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    port = int(server.url.rpartition(":")[2])
    assert server.url == f"http://localhost:{port}"
    addresses = ["127.0.0.1", "[::1]"] if has_ipv6() else ["127.0.0.1"]
    for address in addresses:
        assert httpx.get(f"http://{address}:{port}/ok").json()["ok"] is True
        foreign = httpx.post(f"http://{address}:{port}/threads", json={}, headers={"host": "evil.com"})
        assert foreign.status_code == 403
    assert devserver.server_address(str(server.folder / "devserver.db")) == server.url
    assert server.stop() == 0
    for address in addresses:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{address}:{port}/ok")


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize(
    ("host", "shown", "reached"),
    [
        ("127.0.0.1", "127.0.0.1", {"127.0.0.1"}),
        ("::1", "[::1]", {"[::1]"}),
        ("localhost", "localhost", {"127.0.0.1", "[::1]"}),
        ("0.0.0.0", "127.0.0.1", {"127.0.0.1"}),
        ("::", "[::1]", {"127.0.0.1", "[::1]"}),
    ],
)
def test_a_host_that_is_named_is_listened_on_alone(make_server: Make, host: str, shown: str, reached: set[str]) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload", "--host", host)
    port = int(server.url.rpartition(":")[2])
    assert server.url == f"http://{shown}:{port}"
    found = set()
    for address in ("127.0.0.1", "[::1]"):
        with contextlib.suppress(httpx.ConnectError):
            httpx.get(f"http://{address}:{port}/ok").raise_for_status()
            found.add(address)
    assert found == reached


def bound(host: str, port: int | None) -> list[tuple[str, int]]:
    """The addresses of the listeners that this makes."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(listener) for listener in devserver.bind(host, port)]
        return [listener.getsockname()[:2] for listener in listeners]


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("taken", devserver.LOCALHOST)
@pytest.mark.parametrize("asked", [True, False])
def test_a_port_is_taken_if_somebody_has_it_on_either_address(
    monkeypatch: pytest.MonkeyPatch, taken: str, asked: bool
) -> None:
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, 0), family=family) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(devserver, "DEFAULT_PORT", port)
        if asked:
            with pytest.raises(StartError, match=f"cannot listen on {taken}:{port}: .*--port 0"):
                bound("localhost", port)
        else:
            [(first, chosen), (second, same)] = bound("localhost", None)
            assert (first, second) == devserver.LOCALHOST
            assert chosen == same > port


@pytest.mark.parametrize("where", ["no socket", "no address"])
@pytest.mark.parametrize("port", [0, None])
def test_a_machine_without_ipv6_listens_on_127_0_0_1(
    monkeypatch: pytest.MonkeyPatch, where: str, port: int | None
) -> None:
    class Socket(socket.socket):
        def __init__(self, family: int, *more: Any) -> None:
            if family == socket.AF_INET6 and where == "no socket":
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported")
            super().__init__(family, *more)

        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Socket)
    [(address, _)] = bound("localhost", port)
    assert address == "127.0.0.1"


def test_a_port_is_chosen_again_if_only_the_first_address_has_it_free(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    real = devserver.listen

    def listener(address: str, port: int) -> socket.socket:
        if address == "::1":
            tried.append(port)
            if len(tried) < 3:
                raise OSError(errno.EADDRINUSE, "Address already in use")
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return real(address, port)

    monkeypatch.setattr(devserver, "listen", listener)
    [(_, port)] = bound("localhost", 0)
    assert port == tried[-1]
    assert len(tried) == 3


@pytest.mark.usefixtures("as_windows")
def test_windows_shares_no_port() -> None:
    """SO_REUSEADDR would let several servers have one there, and the search for a free one would never move on."""
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(each) for each in devserver.bind("127.0.0.1", 0)]
        port = first[0].getsockname()[1]
        with pytest.raises(StartError, match="Address already in use"):
            bound("127.0.0.1", port)


def test_the_banner_names_the_variable_as_the_shell_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = types.SimpleNamespace(
        db=types.SimpleNamespace(persistent=True, path="x.db"),
        graphs=types.SimpleNamespace(loaded={}),
        settings=types.SimpleNamespace(http=devserver.HttpSettings()),
        app=None,
    )
    assert "export LANGGRAPH_API_URL=http://a:1\n" in devserver.banner(server, "http://a:1", 0, True)
    monkeypatch.setattr(sys, "platform", "win32")
    assert '$env:LANGGRAPH_API_URL = "http://a:1"\n' in devserver.banner(server, "http://a:1", 0, True)


# -- a start that fails --

# Each is made to raise this; whatever was opened before is closed, or the process would not end.
PROBLEM = OSError(errno.EIO, "made to fail")
STEPS = ["_share_file", "start_server", "create_app", "_protocols", "banner", "_http_server"]


@pytest.mark.parametrize("step", STEPS)
async def test_whatever_fails_at_the_start_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (tmp_path / "g.py").write_text(GRAPH)
    (tmp_path / "langgraph.json").write_text('{"graphs": {"g": "./g.py:graph"}}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGGRAPH_API_URL", "")

    def fail(*_: Any, **__: Any) -> Any:
        raise PROBLEM

    monkeypatch.setattr(devserver, step, fail)
    options = types.SimpleNamespace(
        config=Path("langgraph.json"), host="127.0.0.1", port=0, db=None, reload=False, env_file=None,
        open_browser=False, max_concurrency=1, full_sync=False, studio=False, ssl_certfile=None, ssl_keyfile=None,
        debug_port=None, wait_for_client=False, offline=False,
        record=None, replay=None, seed=None, test_clock=False, command=(),
    )  # fmt: skip
    try:
        with pytest.raises(StartError, match=r"cannot start: OSError: \[Errno 5\] made to fail \(--verbose tells"):
            await devserver.serve(options)
    finally:
        sys.modules.pop("g", None)
    others = [each for each in threading.enumerate() if not each.name.startswith(("MainThread", "asyncio_", "execnet"))]
    assert [thread for thread in others if not thread.daemon] == []
    assert not (tmp_path / "devserver.db.lock").exists()


# -- as on Windows --


@pytest.fixture
def windows(make_server: Make) -> LiveServer:
    """A server as on Windows; its folder is a project."""
    server = make_server(GRAPHS, FILES, "--no-reload")
    assert server.stop() == 0
    server.command = [sys.executable, "-u", str(ROOT / "tests" / "as_windows.py")]
    return server.start()


def test_a_second_server_is_kept_off_the_file_and_commands_find_the_first(windows: LiveServer) -> None:
    assert windows.process
    path = windows.folder / "devserver.db"
    second = LiveServer(windows.folder, windows.options, command=windows.command)
    with pytest.raises(AssertionError, match=rf"in use by another devserver \(pid {windows.process.pid}\)"):
        second.start()
    second.kill()
    with windows.http() as http:
        assistant = {"assistant_id": "g", "input": {}, "schedule": "0 0 1 1 *"}
        cron = http.post("/runs/crons", json=assistant).raise_for_status().json()["cron_id"]
    listed = windows_command(windows, "cron", "list")
    assert cron in listed
    assert "run " in windows_command(windows, "cron", "fire", cron)
    windows.kill()
    assert path.with_name("devserver.db.lock").exists()
    assert cron in windows_command(windows, "cron", "list")  # from the file, as nobody has it
    windows.start()
    assert windows.stop() == 0, windows.log
    assert [file.name for file in windows.folder.glob("devserver.db*")] == ["devserver.db"]


def windows_command(server: LiveServer, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*server.command, *arguments], cwd=server.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_clock_of_15_ms_changes_no_order(windows: LiveServer) -> None:
    marks: list[str] = []
    threads: list[str] = []
    filled: list[dict[str, Any]] = []
    for number in range(4):
        with windows.http() as http:
            marks.append(f"step {number}")
            filled.append(fill(http, marks[-1], threads))
            check_order(http, filled, marks, threads)
        if number == 1:
            windows.kill()
            windows.start()
        if number == 2:
            assert windows.stop() == 0, windows.log
            windows.start()
    assert "Traceback" not in windows.log


# Windows' default loop closes the listening socket when a connection can't be accepted, as its client has left.
PROACTOR = """
import asyncio, pathlib, socket

class Proactor(asyncio.SelectorEventLoop):
    def _accept_connection(self, factory, sock, *more):
        try:
            super()._accept_connection(factory, sock, *more)
        except OSError:
            self._remove_reader(sock.fileno())
            sock.close()

class Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = Proactor

def left():
    return pathlib.Path("left").exists()

real = socket.socket.accept
def accept(sock):
    made = real(sock)
    if left():
        made[0].close()
        raise OSError(64, "The specified network name is no longer available")
    return made

socket.socket.accept = accept
asyncio.set_event_loop_policy(Policy())
import devserver
devserver.main()
"""
LOOP = """
import asyncio
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

class State(TypedDict, total=False):
    loop: str

async def tell(state):
    return {"loop": type(asyncio.get_running_loop()).__name__}

graph = StateGraph(State).add_node(tell).add_edge(START, "tell").compile()
"""


def test_who_leaves_before_being_accepted_does_not_end_the_listening(make_server: Make) -> None:
    """The server's own loop is another; the graphs' is the default one, as they may start processes."""
    server = make_server({"g": "./g.py:graph"}, {"g.py": LOOP}, "--no-reload")
    assert server.stop() == 0
    server.program = PROACTOR
    server.start()
    port = int(server.url.rpartition(":")[2])
    with server.http() as http:
        assert http.post("/runs/wait", json={"assistant_id": "g", "input": {}}).json() == {"loop": "Proactor"}
    for address in ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]:
        (server.folder / "left").touch()
        with socket.create_connection((address, port), timeout=10) as gone:
            assert gone.recv(1) == b""
        (server.folder / "left").unlink()
        shown = f"[{address}]" if ":" in address else address
        assert httpx.get(f"http://{shown}:{port}/ok").status_code == 200
    assert server.stop() == 0


STANDING = """
import time
day, started = time.time_ns(), time.monotonic_ns()
time.time_ns, time.time, time.monotonic_ns = lambda: day, lambda: day / 1e9, lambda: started
import devserver
devserver.main()
"""


def test_what_is_made_and_changed_at_one_moment_has_an_order(make_server: Make) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    assert server.stop() == 0
    server.program = STANDING
    server.start()
    marks: list[str] = []
    threads: list[str] = []
    filled: list[dict[str, Any]] = []
    with server.http() as http:
        for number in range(3):
            marks.append(f"step {number}")
            filled.append(fill(http, marks[-1], threads))
        check_order(http, filled, marks, threads)
        for path, key, mark in (
            ("/assistants", "assistant", "all"),
            ("/threads", "thread", "all"),
            ("/runs/crons", "cron", "cron"),
        ):
            ids = [each[key] for each in filled]
            for changed in (ids[0], ids[2], ids[1], ids[0]):
                http.patch(f"{path}/{changed}", json={"metadata": {mark: 1}}).raise_for_status()
            search = {"metadata": {mark: 1}, "sort_by": "updated_at", "sort_order": "desc"}
            found = http.post(f"{path}/search", json=search).raise_for_status().json()
            assert [each[f"{key}_id"] for each in found] == [ids[0], ids[1], ids[2]], path
            assert len({each["updated_at"] for each in found}) == 1
        for thread in threads[::-1]:
            http.post(f"/threads/{thread}/state", json={"values": {"said": ["more"]}}).raise_for_status()
        search = {"metadata": {"all": 1}, "sort_by": "state_updated_at"}
        assert [each["thread_id"] for each in http.post("/threads/search", json=search).json()] == threads


def test_connections_that_select_cannot_take_are_refused_with_one_line(windows: LiveServer) -> None:
    port = int(windows.url.rpartition(":")[2])
    before = len(windows.lines)
    with contextlib.ExitStack() as stack, windows.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        others = [
            stack.enter_context(socket.create_connection((address, port), timeout=10))
            for address in (["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"] * 2)
            for _ in range(270)
        ]
        assert others[-1].recv(1000).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert http.get(f"/threads/{thread}").status_code == 200  # who has a connection is served
        for other in others:
            other.close()
        eventual = time.monotonic() + 10
        while httpx.get(f"{windows.url}/ok").status_code != 200:
            assert time.monotonic() < eventual
    assert [line for line in windows.lines[before:] if "450 connections are open" in line] == windows.lines[before:]
    assert len(windows.lines[before:]) == 1
    assert windows.stop() == 0


async def test_nothing_of_a_memory_database_stays_though_a_file_is_still_open(
    as_windows: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    db = Db(":memory:")
    await db.open()
    [folder] = tmp_path.iterdir()
    assert (folder / "devserver.db.lock").exists()
    await db.close()
    assert list(tmp_path.iterdir()) == []
    db = Db(":memory:")
    await db.open()
    [folder] = tmp_path.iterdir()
    with open(folder / "devserver.db", "rb"):  # by a node, which knows the path
        await db.close()
    assert [file.name for file in folder.iterdir()] == ["devserver.db"]


@pytest.mark.parametrize("already", [True, False])
async def test_a_lock_that_another_server_has_taken_stays(as_windows: None, tmp_path: Path, already: bool) -> None:
    """What is deleted after it was closed may be somebody else's by then."""
    first = Db(str(tmp_path / "some.db"))
    await first.open()
    with pytest.raises(StartError, match="in use by another devserver"):
        await Db(str(tmp_path / "some.db")).open()
    lock = tmp_path / "some.db.lock"
    with open(lock, "rb") if already else contextlib.nullcontext():
        await first.close()
        assert lock.exists() == already
    second = Db(str(tmp_path / "some.db"))
    await second.open()
    assert lock.read_text() == str(os.getpid())
    await second.close()
    assert not lock.exists()


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("C:\\x\\devserver.db", "C:\\x\\devserver.db"),
        ("C:\\" + "x" * 236 + "\\devserver.db", "\\\\?\\C:\\" + "x" * 236 + "\\devserver.db"),
        ("C:/" + "x/y" * 100 + "/../a.db", "\\\\?\\C:\\" + "x\\y".join([""] * 100) + "x\\a.db"),
        ("\\\\server\\share\\" + "x" * 240, "\\\\?\\UNC\\server\\share\\" + "x" * 240),
        ("\\\\?\\C:\\" + "x" * 250, "\\\\?\\C:\\" + "x" * 250),
    ],
)
def test_long_paths_have_the_form_that_windows_takes(monkeypatch: pytest.MonkeyPatch, path: str, taken: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(devserver, "sys", types.SimpleNamespace(platform="win32"))
        patch.setattr(os, "path", ntpath)
        assert devserver.absolute(path) == taken
    assert devserver.absolute("/" + "x" * 300) == "/" + "x" * 300


# -- macOS --


@pytest.mark.parametrize("full_sync", [True, False])
async def test_full_sync_is_one_of_the_disk_itself_on_macos(tmp_path: Path, full_sync: bool) -> None:
    db = Db(str(tmp_path / "some.db"), full_sync)
    await db.open()
    for pragma in ("fullfsync", "checkpoint_fullfsync"):
        assert await db.write(lambda conn, p=pragma: conn.execute(f"PRAGMA {p}").fetchone()[0]) == full_sync
    await db.close()


@pytest.mark.parametrize(
    ("had", "has"),
    [
        ((256, -1), (4096, -1)),
        ((256, 1024), (1024, 1024)),
        ((1024, 100_000), (4096, 100_000)),
        ((10_000, 100_000), None),
        ((4096, 4096), None),
        ((-1, -1), None),
    ],
)
def test_the_start_allows_more_open_files(
    monkeypatch: pytest.MonkeyPatch, had: tuple[int, int], has: tuple[int, int] | None
) -> None:
    resource: Any = types.ModuleType("resource")
    set_to: list[tuple[int, int]] = []
    resource.RLIMIT_NOFILE, resource.RLIM_INFINITY = 7, -1
    resource.getrlimit, resource.setrlimit = lambda _: had, lambda _, limits: set_to.append(limits)
    monkeypatch.setitem(sys.modules, "resource", resource)
    devserver.raise_file_limit()
    assert set_to == ([has] if has else [])


def test_a_server_that_is_given_256_files_serves_300_streams(make_server: Make) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    assert server.stop() == 0
    server.program = (
        "import resource; hard = resource.getrlimit(7)[1]; resource.setrlimit(7, (256, hard))\n"
        "import devserver; devserver.main()"
    )
    server.start()
    before = len(server.lines)
    with server.http(limits=httpx.Limits(max_connections=400)) as http, contextlib.ExitStack() as stack:
        thread = http.post("/threads", json={}).json()["thread_id"]
        streams = [stack.enter_context(http.stream("GET", f"/threads/{thread}/stream")) for _ in range(300)]
        assert [stream.status_code for stream in streams] == [200] * 300
    assert server.lines[before:] == []

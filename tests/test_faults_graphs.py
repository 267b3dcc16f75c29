"""Graphs that misbehave: their own run fails with a message, or succeeds, and the server lives."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, posix_only, write_project

ODD = """
    import asyncio
    import concurrent.futures
    import dataclasses
    import logging
    import os
    import pathlib
    import signal
    import sys
    import threading
    import time
    from typing import Any

    from langgraph.config import get_stream_writer
    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        how: str
        value: Any

    class Opaque:
        pass

    class Hostile:
        def __getattr__(self, name):
            raise RuntimeError("hands off")
        def __repr__(self):
            raise RuntimeError("no looking")
        def __str__(self):
            raise RuntimeError("no looking")

    class HostileError(Exception):
        def __str__(self):
            raise RuntimeError("no looking")

    def cycle():
        made = []
        made.append(made)
        return made

    def deep(depth=5000):
        made = []
        for _ in range(depth):
            made = [made]
        return made

    def recursive(n=0):
        return recursive(n + 1) + 1

    VALUES = {
        "object": Opaque, "hostile": Hostile, "nan": lambda: float("nan"), "infinity": lambda: float("inf"),
        "huge integer": lambda: 10**400, "integer": lambda: 2**64 + 1, "cycle": cycle, "bytes": lambda: b"\\xff\\x00",
        "deep": deep, "generator": lambda: (n for n in "abc"), "surrogate": lambda: "\\ud800", "nul": lambda: "a\\0b",
        "function": lambda: deep, "lock": threading.Lock, "class": lambda: Opaque, "set": lambda: {1, 2},
        "keys": lambda: {(1, 2): 3, None: 4, 5: 6}, "exception": lambda: ValueError("a value"), "module": lambda: sys,
        "coroutine": lambda: asyncio.sleep(0), "file": lambda: open(os.devnull), "complex": lambda: 1 + 2j,
    }

    async def leak_tasks():
        async def for_ever(n):
            while True:
                await asyncio.sleep(0.01)
        async def fail():
            raise ValueError("nobody waits for me")
        for n in range(100):
            asyncio.ensure_future(for_ever(n))
            asyncio.ensure_future(fail())

    async def close_loop():
        asyncio.get_running_loop().close()

    async def stop_loop():
        asyncio.get_running_loop().stop()

    async def cancel_all_tasks():
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(1)

    async def cancel_itself():
        raise asyncio.CancelledError("just so")

    async def ignore_cancellation():
        for _ in range(3):
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                pass

    async def new_loop():
        asyncio.run(asyncio.sleep(0))

    async def break_loop_handler():
        def boom(*args):
            raise ValueError("from the loop's handler")
        asyncio.get_running_loop().set_exception_handler(boom)
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.01)

    def threads_that_stay():
        for _ in range(20):
            threading.Thread(target=lambda: time.sleep(600)).start()

    def handle_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def print_binary():
        sys.stdout.buffer.write(bytes(range(256)) * 100)
        sys.stdout.buffer.flush()
        os.write(2, bytes(range(256)))

    def close_output():
        sys.stdout.close()
        sys.stderr.close()

    def break_logging():
        class Handler(logging.Handler):
            def emit(self, record):
                raise RuntimeError("no logging today")
        logging.getLogger().addHandler(Handler())
        logging.getLogger("devserver").addHandler(Handler())
        logging.getLogger("devserver").addFilter(lambda record: 1 / 0)

    def patch_logging():
        def boom(*args, **options):
            raise RuntimeError("no logging today")
        logging.Logger.handle = boom

    def change_folder():
        os.chdir("/")

    def change_limits():
        sys.setrecursionlimit(200)

    def fill_environment():
        os.environ.clear()

    def hostile_error():
        raise HostileError

    def group():
        raise BaseExceptionGroup("two", [ValueError("one"), KeyboardInterrupt()])

    def exit_process():
        with open("calls.txt", "a") as calls:
            calls.write("x")
        os._exit(7)

    def kill_process():
        os.kill(os.getpid(), signal.SIGKILL)

    async def block():
        time.sleep(3)

    async def flood():
        write = get_stream_writer()
        for n in range(300_000):
            write(n)
            if n % 100 == 0:
                await asyncio.sleep(0)

    def write_odd():
        write = get_stream_writer()
        for name, make in VALUES.items():
            write({"name": name, "value": make()})

    async def misbehave(state):
        how = state.get("how", "")
        if how in VALUES:
            return {"value": VALUES[how]()}
        if how:
            action = globals()[how]
            if asyncio.iscoroutinefunction(action):
                await action()
            else:
                await asyncio.to_thread(action)
        return {"value": "fine"}

    odd = StateGraph(State).add_node(misbehave).add_edge(START, "misbehave").compile()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("odd")
    write_project(folder, {"odd": "./odd.py:odd"}, {"odd.py": ODD})
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(0.01)
    return value


def run(server: LiveServer, how: str, **more: Any) -> Any:
    """What a run of this misbehaviour comes to."""
    with server.http() as http:
        sent = {"assistant_id": "odd", "input": {"how": how}, "on_completion": "keep", **more}
        return http.post("/runs/wait", json=sent).raise_for_status().json()


def check_alive(server: LiveServer) -> None:
    """Nothing is stuck; what is right succeeds, what is wrong fails."""
    assert run(server, "")["value"] == "fine"
    assert run(server, "lock")["__error__"]["error"] == "TypeError"
    with server.http() as http:
        assert http.post("/threads/count", json={"status": "busy"}).json() == 0


# What a node returns


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ("nan", None),
        ("infinity", None),
        ("bytes", "/wA="),
        ("surrogate", "?"),
        ("nul", "a\ufffdb"),
        ("set", [1, 2]),
        ("keys", {"(1, 2)": 3, "null": 4, "5": 6}),
        ("exception", {"error": "ValueError", "message": "a value"}),
    ],
)
def test_what_json_cannot_carry_is_shown_as_well_as_it_can(server: LiveServer, how: str, shown: Any) -> None:
    assert run(server, how)["value"] == shown
    check_alive(server)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        *((kind, "not msgpack serializable") for kind in ("object", "hostile", "generator", "function", "lock")),
        *((kind, "not msgpack serializable") for kind in ("class", "module", "coroutine", "file", "complex")),
        ("huge integer", "Integer exceeds 64-bit range"),
        ("integer", "Integer exceeds 64-bit range"),
        ("cycle", "Recursion limit reached"),
        ("deep", "Recursion limit reached"),
    ],
)
def test_what_cannot_be_kept_fails_its_run(server: LiveServer, how: str, message: str) -> None:
    error = run(server, how)["__error__"]
    assert (error["error"], message in error["message"]) == ("TypeError", True)
    check_alive(server)


def test_events_may_hold_anything(server: LiveServer) -> None:
    with server.http() as http:
        sent = {"assistant_id": "odd", "input": {"how": "write_odd"}, "stream_mode": "custom"}
        text = http.post("/runs/stream", json=sent).raise_for_status().text
    assert text.count("event: custom") == 22
    assert "event: error" not in text
    check_alive(server)


# What a node does


@pytest.mark.parametrize(
    "how",
    [
        *("leak_tasks", "stop_loop", "cancel_all_tasks", "break_loop_handler", "ignore_cancellation"),
        *("threads_that_stay", "print_binary", "change_folder", "change_limits", "fill_environment"),
    ],
)
def test_some_mischief_succeeds(server: LiveServer, how: str) -> None:
    assert "__error__" not in run(server, how)
    check_alive(server)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("close_loop", "RuntimeError"),
        ("new_loop", "RuntimeError"),
        ("cancel_itself", "NodeCancelledError"),
        ("handle_signals", "ValueError"),
        ("recursive", "RecursionError"),
        ("hostile_error", "HostileError"),
        ("group", "BaseExceptionGroup"),
    ],
)
def test_other_mischief_fails_with_a_message(server: LiveServer, how: str, error: str) -> None:
    failed = run(server, how)["__error__"]
    assert failed["error"] == error
    assert failed["message"]
    check_alive(server)


@pytest.mark.parametrize("how", ["break_logging", "patch_logging", "close_output"])
def test_who_breaks_the_log_stops_nobody(make_server: Callable[..., LiveServer], how: str) -> None:
    server = make_server({"odd": "./odd.py:odd"}, {"odd.py": ODD}, "--no-reload")
    assert run(server, how)["value"] == "fine"
    check_alive(server)
    assert server.stop() == 0


def test_a_server_with_all_that_stops_all_the_same(server: LiveServer) -> None:
    """Threads that go on for ten minutes and tasks that never end keep nobody waiting."""
    run(server, "threads_that_stay")
    run(server, "leak_tasks")
    assert server.stop() == 0
    server.start()
    check_alive(server)


def test_a_blocked_run_loop_holds_up_runs_but_no_reader(server: LiveServer) -> None:
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        http.post(f"/threads/{thread}/runs", json={"assistant_id": "odd", "input": {"how": "block"}})
        deadline = time.monotonic() + 20
        answered = 0
        while http.get(f"/threads/{thread}").json()["status"] == "busy":
            assert time.monotonic() < deadline
            answered += 1
        assert answered > 20
    check_alive(server)


@pytest.mark.long
def test_three_hundred_thousand_events_cost_no_memory(server: LiveServer) -> None:
    assert server.process
    status = Path(f"/proc/{server.process.pid}/status")

    def memory() -> int:
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
        return int(found[1]) if found else 0

    before, count = memory(), 0
    with server.http() as http:
        sent = {"assistant_id": "odd", "input": {"how": "flood"}, "stream_mode": "custom"}
        with http.stream("POST", "/runs/stream", json=sent) as answer:
            for line in answer.iter_lines():
                count += line == "event: custom"
                if count % 50_000 == 1:
                    assert httpx.get(f"{server.url}/ok").status_code == 200
    assert count == 300_000
    assert memory() - before < 60_000
    check_alive(server)


# What nobody survives


@pytest.mark.parametrize("how", ["exit_process", pytest.param("kill_process", marks=posix_only)])
def test_a_run_that_ends_the_server_each_time_is_not_tried_for_ever(
    make_server: Callable[..., LiveServer], how: str
) -> None:
    server = make_server({"odd": "./odd.py:odd"}, {"odd.py": ODD}, "--no-reload")
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        sent = {"assistant_id": "odd", "input": {"how": how}}
        with pytest.raises(Exception, match=r"disconnected|closed|reset|refused"):
            http.post(f"/threads/{thread}/runs/wait", json=sent)
    for _ in range(20):  # five in a row in vain, after some that stored a checkpoint
        assert server.process
        server.process.wait(20)
        with contextlib.suppress(AssertionError):  # it may die before it can say that it lives
            server.start()
        if until(lambda: "not tried again" in server.log or (server.process and server.process.poll())) is True:
            break
    assert httpx.get(f"{server.url}/threads/{thread}").json()["error"] == {
        "error": "Fatal",
        "message": "the server ended 5 times while this run went on, so it is not tried again",
    }
    check_alive(server)

"""What goes wrong around the server: its file and disk. It says so, does no damage, and serves again after it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, ROOT, LiveServer, mount, no_file_may_grow, posix_only, unmount, write_project

SERVED = {"gates": "./crash_gates.py:gates", "fails": "./crash_gates.py:fails", "nested": "./nested.py:graph"}
NESTED = """
    from crash_gates import State, a, count_inside, Inner
    from langgraph.graph import START, StateGraph

    inner = StateGraph(Inner).add_node(count_inside).add_edge(START, "count_inside").compile()
    graph = StateGraph(State).add_node(a).add_node("inner", inner).add_edge(START, "a").add_edge("a", "inner").compile()
"""
FILES = {"crash_gates.py": (GRAPHS / "crash_gates.py").read_text(), "nested.py": NESTED}
# Waits less long for a file to be free again, and before it lets followers go.
HURRIED = "import devserver as d; d.Db.PATIENCE_SECONDS = 0.4; d.RETRY_SECONDS = 0.05; d.Execution.TRIES = 4; d.main()"


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(0.01)
    return value


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    """A server in a hurry, with a gate in each of its graph's three nodes."""
    folder = tmp_path / "project"
    folder.mkdir()
    write_project(folder, SERVED, FILES)
    made = LiveServer(folder, ["--no-reload"], program=HURRIED).start()
    yield made
    made.kill()


def body(*stops: str, **more: Any) -> dict[str, Any]:
    config = {"configurable": {"user_id": "u"}}
    return {"assistant_id": "gates", "input": {"stops": stops, "trail": ["in"]}, "config": config, **more}


def new_thread(http: httpx.Client) -> str:
    return str(http.post("/threads", json={}).raise_for_status().json()["thread_id"])


def at_gate(server: LiveServer, http: httpx.Client, gate: str, **more: Any) -> tuple[str, str]:
    """Thread and run of a graph that waits at a gate."""
    thread = new_thread(http)
    run = http.post(f"/threads/{thread}/runs", json=body(gate, **more)).raise_for_status().json()["run_id"]
    until((server.folder / f"at.{gate}").exists)
    return thread, run


def status_of(http: httpx.Client, thread: str, run: str) -> str:
    return str(http.get(f"/threads/{thread}/runs/{run}").raise_for_status().json()["status"])


def over(http: httpx.Client, thread: str, run: str) -> str:
    """How a run has ended, once it has."""
    until(lambda: status_of(http, thread, run) not in ("pending", "running"))
    return status_of(http, thread, run)


def check_whole(server: LiveServer, file: Path | None = None) -> None:
    """The server stops well, has shown nobody a traceback, and leaves a file without damage."""
    assert server.stop() == 0
    assert "Traceback" not in server.log
    with contextlib.closing(sqlite3.connect(file or server.folder / "devserver.db")) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# A disk that takes no more


WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/threads", {}),
    ("PATCH", "/threads/{thread}", {"metadata": {"a": 1}}),
    ("POST", "/threads/{thread}/runs", body()),
    ("POST", "/threads/{thread}/runs/wait", body()),
    ("POST", "/threads/{thread}/runs/stream", body()),
    ("POST", "/runs/batch", {}),
    ("POST", "/threads/{thread}/state", {"values": {"trail": ["x"]}}),
    ("POST", "/threads/{thread}/copy", {}),
    ("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": {}}),
    ("POST", "/assistants", {"graph_id": "gates"}),
    ("POST", "/runs/crons", {**body(), "schedule": "@daily"}),
    ("DELETE", "/threads/{thread}", {}),
]


def test_what_cannot_be_written_is_refused_and_what_was_is_still_served(server: LiveServer) -> None:
    with server.http() as http:
        thread = new_thread(http)
        done = http.post(f"/threads/{thread}/runs/wait", json=body()).raise_for_status().json()
        with no_file_may_grow(server):
            for method, path, sent in WRITES:
                content = json.dumps([body()] if path == "/runs/batch" else sent)
                refused = http.request(method, path.format(thread=thread), content=content)
                assert refused.status_code == 503, (method, path, refused.text)
                assert "devserver.db: the disk fails, or takes no more" in refused.json()["detail"]
            assert http.get(f"/threads/{thread}/state").raise_for_status().json()["values"] == done
            assert http.get("/ok", params={"check_db": 1}).status_code == 200
        for method, path, sent in WRITES:
            content = json.dumps([body()] if path == "/runs/batch" else sent)
            answer = http.request(method, path.format(thread=thread), content=content)
            assert answer.is_success, (method, path, answer.text)
            if path.endswith("/runs"):
                assert over(http, thread, answer.json()["run_id"]) == "success"
    check_whole(server)


def test_a_run_that_cannot_be_stored_fails_and_its_thread_can_be_used_again(server: LiveServer) -> None:
    with server.http() as http:
        thread, run = at_gate(server, http, "b", durability="sync")
        path = f"/threads/{thread}/runs/{run}"
        with (
            http.stream("GET", f"{path}/join") as waits,
            http.stream("GET", f"{path}/stream") as streams,
            no_file_may_grow(server),
        ):
            (server.folder / "go.b").touch()
            error = json.loads(waits.read())["__error__"]
            assert error["error"] == "Unavailable"
            assert "devserver.db: the disk fails" in error["message"]
            assert [frame for frame in streams.read().split(b"\r\n\r\n") if frame] == [
                b"event: error\r\ndata: " + json.dumps(error, separators=(",", ":")).encode()
            ]
            assert status_of(http, thread, run) == "running"  # as far as can be told now
        assert over(http, thread, run) == "error"
        assert http.get(f"/threads/{thread}/state").json()["values"]["trail"] == ["in", "a"]
        again = http.post(f"/threads/{thread}/runs/wait", json=body()).raise_for_status().json()
        assert again["trail"] == ["in", "a", "in", "a", "b", "c"]
    check_whole(server)


def test_events_of_resumable_runs_are_shown_once_they_are_stored_though_that_is_later(server: LiveServer) -> None:
    with server.http() as http:
        wanted = {"stream_mode": ["updates", "debug"], "stream_resumable": True, "durability": "exit"}
        thread, run = at_gate(server, http, "b", **wanted)
        path, first = f"/threads/{thread}/runs/{run}/stream", {"last-event-id": "-1"}
        with http.stream("GET", path, headers=first) as follows, no_file_may_grow(server):
            (server.folder / "go.b").touch()
            shown, farewell = follows.read().decode().rstrip("\r\n").rsplit("\r\n\r\n", 1)
            last = {"last-event-id": shown.rpartition("id: ")[2]}
            assert http.get(path, headers=last).text.rstrip("\r\n") == farewell
        assert '{"a":' in shown
        assert '{"b":' not in shown
        assert farewell.startswith("event: error\r\n")
        assert "\nid:" not in farewell  # so nobody comes back to after what was not shown yet
        assert over(http, thread, run) == "error"
        kept, rest = (http.get(path, headers=after).text for after in (first, last))
        assert kept == f"{shown}\r\n\r\n{rest}"
        assert '{"b":' in rest
        assert rest.count("event: error") == 1
    check_whole(server)


HELD = """
import os
import devserver
for owner, name in ((devserver, "finish_run"), (devserver.Threads, "set_state")):
    def held(*given, real=getattr(owner, name), ends=name == "finish_run"):
        if os.path.exists("held"):
            open("refused", "w").close()
            raise devserver.Unavailable("devserver.db: the disk is full")
        if ends and os.path.exists("odd"):
            os.unlink("odd")
            raise RuntimeError("odd")
        return real(*given)
    setattr(owner, name, held)
"""


HELD_PARENTS = """
import os
import devserver
writer = devserver.Saver._checkpoint_writer
def held(saver, config, *rest):
    if os.path.exists("held") and not config["configurable"].get("checkpoint_ns"):
        raise devserver.Unavailable("devserver.db: the disk is full")
    return writer(saver, config, *rest)
devserver.Saver._checkpoint_writer = held
"""


def test_a_subgraph_whose_parent_could_not_be_stored_fails_with_the_same_message(server: LiveServer) -> None:
    server.stop()
    server.program = HELD_PARENTS + HURRIED
    with server.start().http() as http:
        thread, run = at_gate(server, http, "a", assistant_id="nested")
        (server.folder / "held").touch()
        (server.folder / "go.a").touch()
        assert over(http, thread, run) == "error"
        error = {"error": "Unavailable", "message": "devserver.db: the disk is full"}
        assert http.get(f"/threads/{thread}").json()["error"] == error
    check_whole(server)


def test_who_follows_a_run_whose_end_cannot_be_stored_is_let_go_with_a_message(server: LiveServer) -> None:
    """The run's own end is stored later."""
    server.stop()
    server.program = HELD + HURRIED
    held = server.folder / "held"
    with server.start().http() as http:
        held.touch()
        thread = new_thread(http)
        error = {"error": "Unavailable", "message": "devserver.db: the disk is full"}
        streamed = http.post(f"/threads/{thread}/runs/stream", json=body(stream_mode="updates")).text
        assert streamed.count("event: updates") == 3
        assert streamed.endswith(f"event: error\r\ndata: {json.dumps(error, separators=(',', ':'))}\r\n\r\n")
        other = new_thread(http)
        assert http.post(f"/threads/{other}/runs/wait", json=body()).json() == {"__error__": error}
        [run] = http.get(f"/threads/{other}/runs").json()
        assert http.get(f"/threads/{other}/runs/{run['run_id']}/join").json() == {"__error__": error}
        assert http.get(f"/threads/{other}").json()["status"] == "busy"
        held.unlink()
        for each in (thread, other):
            [run] = http.get(f"/threads/{each}/runs").json()
            assert over(http, each, run["run_id"]) == "success"
            assert http.get(f"/threads/{each}").json()["values"]["trail"] == ["in", "a", "b", "c"]
        held.touch()
        http.post(f"/threads/{thread}/runs/stream", json=body())
    check_whole(server)  # it does not wait for the disk
    held.unlink()
    with server.start().http() as http:
        until(lambda: http.get(f"/threads/{thread}").json()["status"] == "idle")
        assert http.get(f"/threads/{thread}").json()["values"]["trail"] == ["in", "a", "b", "c"] * 2
    check_whole(server)


@pytest.mark.parametrize("graph", ["gates", "fails"])
@pytest.mark.parametrize("action", ["interrupt", "rollback"])
def test_a_cancel_that_comes_while_the_end_is_written_is_what_all_are_told(
    server: LiveServer, graph: str, action: str
) -> None:
    server.stop()
    server.program = HELD + HURRIED.replace("TRIES = 4", "TRIES = 4000")
    held, gate = server.folder / "held", server.folder / "go.a"
    with server.start().http() as http:
        thread = new_thread(http)
        run = http.post(f"/threads/{thread}/runs", json={**body("a"), "assistant_id": graph}).json()["run_id"]
        until((server.folder / "at.a").exists)
        path = f"/threads/{thread}/runs/{run}"
        wanted = {"channels": ["lifecycle"]}
        with (
            http.stream("GET", f"{path}/stream") as streams,
            http.stream("GET", f"{path}/join") as waits,
            http.stream("GET", f"/threads/{thread}/stream") as follows,
            http.stream("POST", f"/threads/{thread}/stream/events", json=wanted) as subscribed,
        ):
            held.touch()
            gate.touch()
            until((server.folder / "refused").exists)
            assert http.post(f"{path}/cancel", params={"action": action}).status_code == 202
            held.unlink()
            assert "event: error" not in streams.read().decode()
            assert "__error__" not in json.loads(waits.read())
            told = "".join(itertools.takewhile(lambda line: "run_done" not in line, follows.iter_lines()))
            assert "event: error" not in told
            events = (json.loads(line[6:]) for line in subscribed.iter_lines() if line.startswith("data: "))
            for each in ("interrupted", "completed"):
                assert next(events)["params"]["data"]["event"] == each
        if action == "rollback":
            assert http.get(path).status_code == 404
        else:
            assert status_of(http, thread, run) == "interrupted"
        name = {"interrupt": "UserInterrupt", "rollback": "UserRollback"}[action]
        assert http.get(f"/threads/{thread}").json()["error"]["error"] == name


def test_the_error_of_a_run_whose_end_cannot_be_stored_is_no_event_to_come_back_to(server: LiveServer) -> None:
    """It is not over: after a crash it would go on, and may yet succeed."""
    server.stop()
    server.program = HELD + HURRIED
    with server.start().http() as http:
        (server.folder / "held").touch()
        sent = body(assistant_id="fails", stream_mode="custom", stream_resumable=True)
        (farewell,) = http.post("/runs/stream", json=sent).text.split("event: error\r\n")[1:]
        assert "it went wrong" in farewell
        assert "\nid: " not in farewell  # no event to come back to
    assert server.stop() == 0


def test_a_changed_state_counts_though_its_thread_can_only_show_it_later(server: LiveServer) -> None:
    server.stop()
    server.program = HELD + HURRIED
    held = server.folder / "held"
    with server.start().http() as http:
        thread = new_thread(http)
        http.post(f"/threads/{thread}/runs/wait", json=body()).raise_for_status()
        held.touch()
        http.post(f"/threads/{thread}/state", json={"values": {"trail": ["x"]}}).raise_for_status()
        until(lambda: server.log.count("shows an old state for now") > 2)
        trails = [http.get(f"/threads/{thread}{path}").json()["values"]["trail"] for path in ("", "/state")]
        assert trails == [["in", "a", "b", "c"], ["in", "a", "b", "c", "x"]]
        held.unlink()
        until(lambda: http.get(f"/threads/{thread}").json()["values"]["trail"] == trails[1])
        held.touch()
        http.post(f"/threads/{thread}/state", json={"values": {"trail": ["y"]}}).raise_for_status()
    check_whole(server)  # nor does the stop wait for it


def up_to_done(stream: httpx.Response) -> list[str]:
    """The events of a thread's stream up to the end of a run."""
    return list(itertools.takewhile(lambda line: "run_done" not in line, stream.iter_lines()))


def test_a_run_whose_end_fails_to_be_stored_once_tells_that_it_failed(server: LiveServer) -> None:
    server.stop()
    server.program = HELD + HURRIED
    error = {"error": "RuntimeError", "message": "odd"}
    with server.start().http() as http:
        for way in ("wait", "stream"):
            (server.folder / "odd").touch()
            thread = new_thread(http)
            with http.stream("GET", f"/threads/{thread}/stream") as follows:
                told = http.post(f"/threads/{thread}/runs/{way}", json=body(stream_resumable=True)).text
                shown = json.dumps(error, separators=(",", ":"))
                text = {"wait": f'{{"__error__":{shown}}}', "stream": f"data: {shown}\r\n"}[way]
                assert re.search(re.escape(text) + {"wait": "$", "stream": r"id: \d+-\d+\r\n\r\n$"}[way], told)
                live = up_to_done(follows)
            with http.stream("GET", f"/threads/{thread}/stream", headers={"last-event-id": "0"}) as comes_back:
                assert up_to_done(comes_back) == live
            [run] = http.get(f"/threads/{thread}/runs").json()
            path = f"/threads/{thread}/runs/{run['run_id']}/stream"
            assert f"data: {shown}" in http.get(path, headers={"last-event-id": "0"}).text
            with http.stream("POST", f"/threads/{thread}/stream/events", json={"channels": ["lifecycle"]}) as events:
                assert any('"failed"' in line for line in events.iter_lines())
            after = http.get(f"/threads/{thread}").json()
            assert (after["status"], after["error"]) == ("error", error)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder, 3_000_000):
        pytest.skip("nothing may be mounted here")
    yield folder
    unmount(folder)


def test_a_full_disk_is_named_and_loses_nothing(server: LiveServer, small_disk: Path) -> None:
    file = small_disk / "full.db"
    server.stop()
    server.options += ["--db", str(file)]
    server.start()
    kept: dict[str, int] = {}
    with server.http() as http:
        thread = new_thread(http)
        http.post(f"/threads/{thread}/runs/wait", json=body()).raise_for_status()
        for number in range(200):
            sent = {"metadata": {"number": number, "pad": "x" * 40_000}}
            answer = http.post("/threads", json=sent)
            if answer.status_code == 503:
                break
            kept[answer.raise_for_status().json()["thread_id"]] = number
        assert f"{file}: the disk is full" in answer.json()["detail"]
        answer = http.post(f"/threads/{thread}/runs/wait", json=body())
        assert "the disk is full" in answer.text
        for each, number in kept.items():
            assert http.get(f"/threads/{each}").raise_for_status().json()["metadata"]["number"] == number
    server.kill()
    if answer.status_code == 200:  # there was room for the run, but not for its end: the start has to write
        assert "the disk is full" in start_failure(server.folder, options=("--db", str(file)))
    assert mount(small_disk, 20_000_000, "remount")
    with server.start().http() as http:
        assert http.get(f"/threads/{thread}").raise_for_status().json()["status"] == "idle"
        http.post(f"/threads/{thread}/runs/wait", json=body()).raise_for_status()
        assert http.post("/threads/count", json={}).json() == len(kept) + 1
    check_whole(server, file)


# Another program that uses the file


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=5)) as conn:
        conn.execute("BEGIN EXCLUSIVE")
        yield
        conn.execute("ROLLBACK")


def test_what_meets_a_short_lock_waits_for_it(server: LiveServer) -> None:
    with server.http() as http, ThreadPoolExecutor() as pool:
        thread, run = at_gate(server, http, "b")
        with locked(server.folder / "devserver.db"):
            (server.folder / "go.b").touch()
            made: Future[httpx.Response] = pool.submit(http.post, "/threads", json={})
            waits = pool.submit(http.post, f"/threads/{uuid.uuid4()}/runs/wait", json=body(if_not_exists="create"))
            assert http.get(f"/threads/{thread}").raise_for_status().json()["status"] == "busy"
            time.sleep(0.15)
            assert not made.done()
        assert made.result(10).status_code == 200
        assert waits.result(10).raise_for_status().json()["trail"] == ["in", "a", "b", "c"]
        assert over(http, thread, run) == "success"
    check_whole(server)


def test_what_meets_a_long_lock_is_refused_and_what_waits_goes_on_after_it(server: LiveServer) -> None:
    with server.http() as http:
        first, run = at_gate(server, http, "c")
        queued = http.post(f"/threads/{first}/runs", json=body()).raise_for_status().json()["run_id"]
        delayed = new_thread(http)
        later = http.post(f"/threads/{delayed}/runs", json=body(after_seconds=0.1)).json()["run_id"]
        with locked(server.folder / "devserver.db"):
            refused = http.post("/threads", json={})
            assert (refused.status_code, refused.headers["content-type"]) == (503, "application/json")
            assert "devserver.db: another program has locked it" in refused.json()["detail"]
            (server.folder / "go.c").touch()
            until(lambda: "thread " + delayed + " waits" in server.log)
            assert http.get(f"/threads/{first}/state").status_code == 200
        assert over(http, first, run) in ("success", "error")
        assert [over(http, *ids) for ids in ((first, queued), (delayed, later))] == ["success"] * 2
        http.post("/threads", json={}).raise_for_status()
    check_whole(server)


def test_a_cron_that_is_due_while_the_file_is_locked_fires_after_it(server: LiveServer) -> None:
    with server.http() as http:
        thread = new_thread(http)
        cron = (
            http.post(f"/threads/{thread}/runs/crons", json=body(schedule="* * * * * *"))
            .raise_for_status()
            .json()["cron_id"]
        )
        with locked(server.folder / "devserver.db"):
            until(lambda: "that are due have to wait" in server.log)
            before = len(http.get(f"/threads/{thread}/runs").json())
        until(lambda: len(http.get(f"/threads/{thread}/runs").json()) > before, 15)
        http.delete(f"/runs/crons/{cron}").raise_for_status()
    check_whole(server)


def test_graphs_are_reloaded_though_the_file_is_locked(server: LiveServer) -> None:
    server.stop()
    server.options.remove("--no-reload")
    code = server.folder / "crash_gates.py"
    with server.start().http() as http:
        with locked(server.folder / "devserver.db"):
            code.write_text(code.read_text() + "\n")
            until(lambda: "new graphs have no assistants yet" in server.log)
        code.write_text(code.read_text() + "\n")
        until(lambda: "graphs reloaded" in server.log)
        http.post("/runs/wait", json=body()).raise_for_status()
    check_whole(server)


# A file that goes away


def test_a_file_that_is_deleted_while_it_is_served_takes_no_more_writes(server: LiveServer) -> None:
    """They would be lost with the process. Moved back, it is served as before."""
    file, aside = server.folder / "devserver.db", server.folder / "aside.db"
    with server.http() as http:
        thread = new_thread(http)
        file.rename(aside)
        for _ in range(3):
            refused = http.post("/threads", json={})
            assert refused.status_code == 503
            assert "devserver.db was deleted or replaced" in refused.json()["detail"]
        assert not file.exists()
        shutil.copy(aside, file)
        assert http.post("/threads", json={}).status_code == 503
        aside.rename(file)
        http.post(f"/threads/{thread}/runs/wait", json=body()).raise_for_status()
    check_whole(server)


def test_a_file_that_was_deleted_while_it_was_served_starts_anew(server: LiveServer) -> None:
    with server.http() as http:
        thread, _ = at_gate(server, http, "b")
        for name in ("devserver.db", "devserver.db-wal", "devserver.db-shm"):
            (server.folder / name).unlink()
        (server.folder / "go.b").touch()
        until(lambda: "deleted or replaced" in server.log)
        assert http.get("/ok").status_code == 200
    assert server.stop() == 0
    with server.start().http() as http:
        assert http.get(f"/threads/{thread}").status_code == 404
        new_thread(http)
    check_whole(server)


# Files that a server does not start with


def start_failure(folder: Path, *command: str, options: tuple[str, ...] = ()) -> str:
    """What a server says that does not start: one line."""
    done = subprocess.run(
        [*command, sys.executable, "-c", HURRIED, "up", "--port", "0", "--no-reload", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1
    return said


@pytest.fixture
def stopped(server: LiveServer) -> LiveServer:
    """A server with a thread that has run, stopped."""
    with server.http() as http:
        for _ in range(20):
            http.post("/threads", json={"metadata": {"pad": "x" * 20_000}})
        thread = new_thread(http)
        http.post(f"/threads/{thread}/runs/wait", json=body()).raise_for_status()
    assert server.stop() == 0
    return server


# root may write anything, but for this
ROOT_USER = hasattr(os, "geteuid") and os.geteuid() == 0
AS_USER = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if ROOT_USER else []
needs_rights = pytest.mark.skipif(
    bool(AS_USER) and shutil.which("setpriv") is None, reason="root can't give up its rights here"
)


@posix_only
@needs_rights
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_only_be_read_is_named(stopped: LiveServer, what: str) -> None:
    file = stopped.folder / "devserver.db"
    content = file.read_bytes()
    locked_up = file if what == "file" else stopped.folder
    locked_up.chmod(0o444 if what == "file" else 0o555)
    said = start_failure(stopped.folder, *AS_USER)
    locked_up.chmod(0o755)
    assert "devserver.db" in said
    assert ("it may only be read" if what == "file" else "cannot write beside") in said
    assert file.read_bytes() == content
    stopped.start()
    check_whole(stopped)


def test_a_file_that_stays_locked_at_the_start_is_named(stopped: LiveServer) -> None:
    with locked(stopped.folder / "devserver.db"):
        said = start_failure(stopped.folder)
    assert "devserver.db: another program has locked it" in said
    stopped.start()
    check_whole(stopped)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_truncated_file_is_refused_and_left_alone(stopped: LiveServer, share: float) -> None:
    file = stopped.folder / "devserver.db"
    content = file.read_bytes()[: int(file.stat().st_size * share)]
    file.write_bytes(content)
    said = start_failure(stopped.folder)
    assert "devserver.db: it is damaged" in said
    assert file.read_bytes() == content


def test_an_empty_file_is_a_new_database(tmp_path: Path, server: LiveServer) -> None:
    server.stop()
    (server.folder / "devserver.db").write_bytes(b"")
    with server.start().http() as http:
        http.post("/runs/wait", json=body()).raise_for_status()
    check_whole(server)


def test_what_a_crash_left_in_the_write_ahead_log_is_there_after_it(server: LiveServer) -> None:
    wal = server.folder / "devserver.db-wal"
    with server.http() as http:
        threads = {new_thread(http) for _ in range(5)}
    server.kill()
    assert wal.stat().st_size > 0
    with server.start().http() as http:
        assert {thread["thread_id"] for thread in http.post("/threads/search", json={}).json()} == threads
    check_whole(server)
    assert not wal.exists()


def test_a_write_ahead_log_without_its_database_harms_nobody(server: LiveServer) -> None:
    with server.http() as http:
        new_thread(http)
    server.kill()
    (server.folder / "devserver.db").unlink()
    with server.start().http() as http:
        assert http.post("/threads/search", json={}).json() == []
        new_thread(http)
    check_whole(server)


@pytest.mark.parametrize("cut", [1, 700, 4000])
def test_a_write_ahead_log_that_breaks_off_loses_only_its_end(server: LiveServer, cut: int) -> None:
    """As after a power cut."""
    wal = server.folder / "devserver.db-wal"
    with server.http() as http:
        threads = [new_thread(http) for _ in range(5)]
    server.kill()
    os.truncate(wal, wal.stat().st_size - cut)
    with server.start().http() as http:
        found = {thread["thread_id"] for thread in http.post("/threads/search", json={}).json()}
    assert found in ({*threads[:n]} for n in range(6))
    check_whole(server)

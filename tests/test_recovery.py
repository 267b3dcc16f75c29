"""Crashes and stops at places that matter: what was acknowledged goes on, once, where it was."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import itertools
import json
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, write_project

NAMES = (
    *("gates", "asks", "asks_twice", "sub_asks", "stays", "sleeps", "blocks", "fan", "steps_then_count"),
    *("looks_inside", "fails", "spins", "quicks"),
)
SERVED = {name: f"./crash_gates.py:{name}" for name in NAMES}
USER = {"configurable": {"user_id": "u"}}
Make = Callable[..., LiveServer]
Frame = tuple[str, Any, str | None]  # event, data, id


@pytest.fixture
def make(make_server: Make) -> Make:
    """Makes servers of the graphs of crash_gates.py."""
    files = {"crash_gates.py": (GRAPHS / "crash_gates.py").read_text()}
    return lambda *options: make_server(SERVED, files, "--no-reload", *options)


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(0.01)
    return value


def reached(server: LiveServer, gate: str) -> None:
    until((server.folder / f"at.{gate}").exists)


def kept(server: LiveServer, thread: str, checkpoints: int) -> None:
    """A node begins while the checkpoint before it is still on its way to the disk, unless durability is sync."""
    until(lambda: rows_of(server, "SELECT count(*) FROM checkpoints WHERE thread_id = ?", thread)[0][0] == checkpoints)


def open_gate(server: LiveServer, *gates: str) -> None:
    for gate in gates:
        (server.folder / f"go.{gate}").touch()


def calls(server: LiveServer, tag: str = "in") -> list[str]:
    """The nodes that were called on the thread whose first run has this tag, in their order."""
    file = server.folder / "calls.txt"
    lines = file.read_text().split() if file.exists() else []
    return [line.partition(":")[2] for line in lines if line.startswith(f"{tag}:")]


def new_thread(server: LiveServer) -> str:
    with server.http() as http:
        return str(http.post("/threads", json={}).raise_for_status().json()["thread_id"])


def body(graph: str, *stops: str, tag: str = "in", user: str = "u", **more: Any) -> dict[str, Any]:
    config = {"configurable": {"user_id": user}}
    return {"assistant_id": graph, "input": {"stops": stops, "trail": [tag]}, "config": config, **more}


def start(server: LiveServer, thread: str, wanted: dict[str, Any]) -> str:
    with server.http() as http:
        return str(http.post(f"/threads/{thread}/runs", json=wanted).raise_for_status().json()["run_id"])


def get(server: LiveServer, path: str) -> Any:
    with server.http() as http:
        return http.get(path).raise_for_status().json()


def ended(server: LiveServer, thread: str, run: str, status: str = "success") -> dict[str, Any]:
    """The run, once it is over; it must have this status."""
    until(lambda: get(server, f"/threads/{thread}/runs/{run}")["status"] not in ("pending", "running"))
    found: dict[str, Any] = get(server, f"/threads/{thread}/runs/{run}")
    assert found["status"] == status, server.log
    return found


def values(server: LiveServer, thread: str) -> Any:
    """The values of the thread's state, which the thread has to show too."""
    found = get(server, f"/threads/{thread}/state")["values"]
    assert get(server, f"/threads/{thread}")["values"] == found
    return found


def count(server: LiveServer, user: str = "u") -> int:
    """The shared counter."""
    query = "SELECT value FROM store WHERE prefix = ? AND key = 'count'"
    rows = rows_of(server, query, f"scoped.user_id.info.{user}")
    return int(json.loads(rows[0][0])["n"]) if rows else 0


def database(server: LiveServer) -> Path:
    return server.folder / "devserver.db"


def rows_of(server: LiveServer, query: str, *parameters: Any) -> list[Any]:
    with contextlib.closing(sqlite3.connect(database(server), timeout=5)) as conn:
        return conn.execute(query, parameters).fetchall()


def restart(server: LiveServer, *gates: str) -> None:
    """Crash, open gates, start again."""
    server.kill()
    for sign in server.folder.glob("at.*"):
        sign.unlink()
    open_gate(server, *gates)
    server.start()


def crash_when(server: LiveServer, query: str, *parameters: Any, seconds: float = 20) -> bool:
    """Kill the server right after the transaction that makes the query give a true value: nothing else is
    committed, since the database is locked while we look. False if that never happens."""
    deadline = time.monotonic() + seconds
    with contextlib.closing(sqlite3.connect(database(server), timeout=0, isolation_level=None)) as conn:
        while time.monotonic() < deadline:
            try:
                conn.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:  # the server is writing
                continue
            found = conn.execute(query, parameters).fetchone()
            if found and found[0]:
                server.kill()
                conn.execute("ROLLBACK")
                return True
            conn.execute("ROLLBACK")
    return False


def frames(lines: Iterator[str]) -> Iterator[Frame]:
    """Server-sent events."""
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields["event"], json.loads(fields["data"]), fields.get("id")
            fields = {}


def joined(server: LiveServer, thread: str, run: str, last_event_id: str | None) -> list[Frame]:
    headers = {} if last_event_id is None else {"last-event-id": last_event_id}
    with server.http() as http, http.stream("GET", f"/threads/{thread}/runs/{run}/stream", headers=headers) as answer:
        answer.raise_for_status()
        return list(frames(answer.iter_lines()))


def refusal(folder: Path, *options: str) -> str:
    """What a server says that does not start."""
    server = LiveServer(folder, ["--no-reload", *options])
    with pytest.raises(AssertionError, match="the server did not start"):
        server.start()
    assert server.stop() == 1, server.log
    assert "Traceback" not in server.log
    assert len(server.log.strip().splitlines()) == 1
    return server.log


# Crashes


def test_an_acknowledged_run_that_has_not_begun_runs_after_a_crash(make: Make) -> None:
    server = make("--max-concurrency", "1")
    first, second = new_thread(server), new_thread(server)
    running = start(server, first, body("gates", "b"))
    reached(server, "b")
    waiting = start(server, second, body("gates"))
    assert get(server, f"/threads/{second}/runs/{waiting}")["status"] == "pending"
    restart(server, "b")
    ended(server, first, running)
    found = ended(server, second, waiting)
    assert found["kwargs"]["config"]["metadata"]["run_attempt"] == 1
    assert values(server, second)["trail"] == ["in", "a", "b", "c"]


def test_runs_that_crash_in_mid_superstep_go_on_from_their_last_checkpoint(make: Make) -> None:
    server = make()
    called = {"sync": "a b b b c", "async": "a b b b c", "exit": "a b a b a b c"}
    threads = {tag: new_thread(server) for tag in called}
    runs = {tag: start(server, threads[tag], body("gates", "b", tag=tag, user=tag, durability=tag)) for tag in called}
    until(lambda: all(calls(server, tag).count("b") == 1 for tag in called))
    kept(server, threads["async"], 3)
    restart(server)
    until(lambda: all(calls(server, tag).count("b") == 2 for tag in called))
    restart(server, "b")
    for tag in called:
        found = ended(server, threads[tag], runs[tag])
        assert found["kwargs"]["config"]["metadata"]["run_attempt"] == 3
        assert calls(server, tag) == called[tag].split()
        assert values(server, threads[tag])["trail"] == [tag, "a", "b", "c"]
        assert count(server, tag) == 3


def test_nodes_that_finished_beside_the_one_that_crashed_are_not_called_again(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    run = start(server, thread, body("fan", "b"))
    reached(server, "b")
    stored = "SELECT 1 FROM writes JOIN checkpoints USING (checkpoint_id) WHERE instr(value, CAST('quick' AS BLOB))"
    until(lambda: rows_of(server, stored))
    restart(server, "b")
    ended(server, thread, run)
    assert values(server, thread)["trail"] == ["in", "a", "b", "quick", "after quick"]
    assert sorted(calls(server)) == ["a", "b", "b", "last", "quick"]


@pytest.mark.parametrize("durability", ["async", "sync"])
def test_a_node_that_waits_for_two_others_runs_after_a_crash_between_their_checkpoints(
    make: Make, durability: str
) -> None:
    """A checkpoint must not hold what later supersteps have made of its values: here, of a barrier's set."""
    server = make()
    thread = new_thread(server)
    ended(server, thread, start(server, thread, body("fan", tag="first")))
    with contextlib.closing(sqlite3.connect(database(server), isolation_level=None)) as slow:
        run = start(server, thread, body("fan", "wait", tag="second", durability=durability))
        reached(server, "wait")
        slow.execute("BEGIN IMMEDIATE")  # a disk that takes its time
        open_gate(server, "wait")
        time.sleep(0.3)
        slow.execute("ROLLBACK")
        after_a = "SELECT count(*) = 6 + 4 FROM checkpoints WHERE thread_id = ?"  # input, start, wait, a
        if not crash_when(server, after_a, thread, seconds=1):
            server.kill()  # it was faster than we could look
    server.start()
    ended(server, thread, run)
    once = ["a", "b", "quick", "after quick"]
    assert values(server, thread)["trail"] == ["first", *once, "second", *once]


def test_a_subgraph_does_not_store_shared_values_before_its_parent_has_come_so_far(make: Make) -> None:
    """Else a crash makes the parent call the subgraph again, and that shares the same once more."""
    server = make()
    thread = new_thread(server)
    with contextlib.closing(sqlite3.connect(database(server), isolation_level=None)) as slow:
        slow.execute("PRAGMA journal_mode")
        run = start(server, thread, body("steps_then_count", "inside"))
        with contextlib.suppress(sqlite3.OperationalError):
            slow.execute("BEGIN IMMEDIATE")  # a disk that takes its time
            time.sleep(0.5)
            slow.execute("ROLLBACK")
    assert crash_when(server, "SELECT count(*) FROM store WHERE key = 'count'")
    open_gate(server, "inside")
    server.start()
    ended(server, thread, run)
    assert count(server) == 1


def test_a_subgraph_that_starts_again_does_not_write_back_what_it_was_given_before(make: Make) -> None:
    """Its input holds all shared items that its parent saw, and by now other runs may have changed them."""
    server = make()
    thread = new_thread(server)
    item = {"namespace": ["scoped", "user_id", "info", "u"], "key": "other", "value": {"n": 1}}
    with server.http() as http:
        http.put("/store/items", json=item).raise_for_status()
    run = start(server, thread, body("steps_then_count", durability="sync"))
    if not crash_when(server, "SELECT count(*) FROM checkpoints WHERE checkpoint_ns != ''", seconds=2):
        server.kill()  # it was faster than we could look
    with contextlib.closing(sqlite3.connect(database(server))) as conn, conn:
        conn.execute("UPDATE store SET value = ? WHERE key = 'other'", ('{"n":2}',))  # another run's write
    server.start()
    ended(server, thread, run)
    assert rows_of(server, "SELECT value FROM store WHERE key = 'other'") == [('{"n":2}',)]
    assert count(server) == 1


def test_a_subgraph_that_had_its_input_does_not_write_it_back(make: Make) -> None:
    """The same for one that goes on: what is stored of its input is applied after the crash."""
    server = make()
    thread = new_thread(server)
    item = {"namespace": ["scoped", "user_id", "info", "u"], "key": "other", "value": {"n": 1}}
    with server.http() as http:
        http.put("/store/items", json=item).raise_for_status()
    with contextlib.closing(sqlite3.connect(database(server), isolation_level=None)) as slow:
        run = start(server, thread, body("looks_inside", "inside", durability="sync"))
        until(lambda: rows_of(server, "SELECT count(*) FROM checkpoints WHERE checkpoint_ns != ''")[0][0])
        slow.execute("BEGIN IMMEDIATE")
        server.kill()
        slow.execute("DELETE FROM checkpoints WHERE checkpoint_ns != '' AND CAST(metadata AS TEXT) NOT LIKE '%input%'")
        slow.execute("DELETE FROM writes WHERE checkpoint_ns != ''")
        slow.execute("UPDATE store SET value = ? WHERE key = 'other'", ('{"n":2}',))  # another run's write
        slow.execute("COMMIT")
    assert rows_of(server, "SELECT count(*) FROM checkpoints WHERE checkpoint_ns != ''") == [(1,)]
    open_gate(server, "inside")
    server.start()
    ended(server, thread, run)
    assert rows_of(server, "SELECT value FROM store WHERE key = 'other'") == [('{"n":2}',)]
    assert count(server) == 1


def test_the_stream_of_a_resumed_run_says_which_attempt_it_is(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    run = start(server, thread, body("gates", "b", stream_resumable=True))
    reached(server, "b")
    restart(server, "b")
    events = joined(server, thread, run, "0")
    told = [data for name, data, _ in events if name == "metadata"]
    assert told == [{"run_id": run, "attempt": 1}, {"run_id": run, "attempt": 2}]


def test_a_command_applies_its_update_once_whatever_crashes(make: Make) -> None:
    server = make()
    command = {"resume": "42", "update": {"trail": ["update"]}}
    threads = {tag: new_thread(server) for tag in ("sync", "async", "exit")}
    for tag, thread in threads.items():
        ended(server, thread, start(server, thread, body("asks", "ask", tag=tag)))
        assert get(server, f"/threads/{thread}")["status"] == "interrupted"
    answer = {"assistant_id": "asks", "config": USER, "command": command}
    runs = {tag: start(server, thread, {**answer, "durability": tag}) for tag, thread in threads.items()}
    until(lambda: all(calls(server, tag).count("ask") == 2 for tag in threads))
    restart(server)
    until(lambda: all(calls(server, tag).count("ask") == 3 for tag in threads))
    restart(server, "ask")
    for tag, thread in threads.items():
        ended(server, thread, runs[tag])
        assert values(server, thread)["trail"] == [tag, "a", "update", "answer 42", "c"]
        assert get(server, f"/threads/{thread}")["status"] == "idle"


def test_an_answer_goes_to_one_question_though_the_run_crashed_before_the_next(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    ended(server, thread, start(server, thread, body("asks_twice", "between")))
    answer = {"assistant_id": "asks_twice", "config": USER, "command": {"resume": "one"}}
    run = start(server, thread, answer)
    reached(server, "between")
    restart(server, "between")
    ended(server, thread, run)
    asked = get(server, f"/threads/{thread}/state")["interrupts"]
    assert [question["value"] for question in asked] == ["second?"]
    ended(server, thread, start(server, thread, {**answer, "command": {"resume": "two"}}))
    assert values(server, thread)["trail"] == ["in", "first one", "second two", "c"]


def test_an_answer_goes_to_one_question_though_the_run_crashed_at_the_next(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    ended(server, thread, start(server, thread, body("asks_twice")))
    answer = {"assistant_id": "asks_twice", "config": USER, "command": {"resume": "one"}}
    run = start(server, thread, answer)
    asked_again = (
        "SELECT (SELECT status FROM runs WHERE run_id = ?) = 'running' AND "
        "(SELECT count(*) FROM writes WHERE thread_id = ? AND instr(value, CAST('second?' AS BLOB)))"
    )
    if not crash_when(server, asked_again, run, thread, seconds=1):
        server.kill()  # it was faster than we could look
    server.start()
    ended(server, thread, run)
    asked = get(server, f"/threads/{thread}/state")["interrupts"]
    assert [question["value"] for question in asked] == ["second?"]
    ended(server, thread, start(server, thread, {**answer, "command": {"resume": "two"}}))
    assert values(server, thread)["trail"] == ["in", "first one", "second two", "c"]


def test_an_answer_inside_a_subgraph_goes_to_one_question_though_the_run_crashed(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    ended(server, thread, start(server, thread, body("sub_asks", "work")))
    answer = {"assistant_id": "sub_asks", "config": USER, "command": {"resume": "one"}}
    run = start(server, thread, answer)
    reached(server, "work")
    restart(server, "work")
    ended(server, thread, run)
    asked = get(server, f"/threads/{thread}/state")["interrupts"]
    assert [question["value"] for question in asked] == ["and then?"]
    ended(server, thread, start(server, thread, {**answer, "command": {"resume": "two"}}))
    assert values(server, thread)["said"] == ["answer one", "work", "then two"]
    assert count(server) == 1


@pytest.mark.parametrize(
    ("breakpoint_at", "checkpoints", "next_nodes"),
    [
        ({"interrupt_before": ["b"]}, 3, ["b"]),
        ({"interrupt_after": ["a"]}, 3, ["b"]),
        ({"interrupt_before": "*"}, 2, ["a"]),
    ],
)
def test_a_run_that_crashes_at_its_breakpoint_stays_there(
    make: Make, breakpoint_at: dict[str, Any], checkpoints: int, next_nodes: list[str]
) -> None:
    server = make()
    thread = new_thread(server)
    run = start(server, thread, body("gates", **breakpoint_at))
    at_breakpoint = (
        "SELECT (SELECT status FROM runs WHERE run_id = ?) = 'running' AND "
        "(SELECT count(*) FROM checkpoints WHERE thread_id = ?) = ?"
    )
    if not crash_when(server, at_breakpoint, run, thread, checkpoints, seconds=1):
        server.kill()  # it was faster than we could look
    server.start()
    ended(server, thread, run)
    assert get(server, f"/threads/{thread}/state")["next"] == next_nodes
    assert calls(server) == ([] if next_nodes == ["a"] else ["a"])
    ended(server, thread, start(server, thread, {"assistant_id": "gates", "config": USER}))
    assert calls(server) == ["a", "b", "c"]


def test_a_thread_shows_its_state_though_the_server_crashed_while_it_was_updated(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    ended(server, thread, start(server, thread, body("gates")))
    (before,) = rows_of(server, "SELECT count(*) FROM checkpoints WHERE thread_id = ?", thread)[0]

    def update() -> None:
        with server.http() as http, contextlib.suppress(httpx.TransportError):
            http.post(f"/threads/{thread}/state", json={"values": {"trail": ["update"]}, "as_node": "c"})

    updating = threading.Thread(target=update)
    updating.start()
    assert crash_when(server, "SELECT count(*) > ? FROM checkpoints WHERE thread_id = ?", before, thread)
    updating.join()
    server.start()
    assert values(server, thread)["trail"] == ["in", "a", "b", "c", "update"]


def test_runs_that_were_cancelled_do_not_come_back(make: Make) -> None:
    server = make()
    threads = {action: new_thread(server) for action in ("interrupt", "rollback")}
    runs: dict[str, str] = {}
    for action, thread in threads.items():
        ended(server, thread, start(server, thread, body("gates", tag=action)))
        runs[action] = start(server, thread, body("stays", "stubborn", tag="second"))
        until(lambda action=action: "stubborn" in calls(server, action))  # type: ignore[misc]
        with server.http() as http:
            path = f"/threads/{thread}/runs/{runs[action]}/cancel"
            http.post(path, params={"action": action}).raise_for_status()
        reached(server, "cancel")
        (server.folder / "at.cancel").unlink()
    restart(server, "stubborn")
    ended(server, threads["interrupt"], runs["interrupt"], "interrupted")
    with server.http() as http:
        assert http.get(f"/threads/{threads['rollback']}/runs/{runs['rollback']}").status_code == 404
    assert get(server, f"/threads/{threads['interrupt']}")["status"] == "interrupted"
    assert get(server, f"/threads/{threads['rollback']}")["status"] == "idle"
    assert values(server, threads["interrupt"])["trail"] == ["interrupt", "a", "b", "c", "second", "a"]
    assert values(server, threads["rollback"])["trail"] == ["rollback", "a", "b", "c"]
    time.sleep(0.2)
    for action in threads:
        assert calls(server, action).count("stubborn") == 1


def test_runs_that_were_superseded_do_not_come_back(make: Make) -> None:
    server = make()
    threads = {strategy: new_thread(server) for strategy in ("interrupt", "rollback")}
    runs: dict[str, str] = {}
    for strategy, thread in threads.items():
        start(server, thread, body("stays", "stubborn", tag=strategy))
        until(lambda strategy=strategy: "stubborn" in calls(server, strategy))  # type: ignore[misc]
        runs[strategy] = start(server, thread, body("gates", tag="new", multitask_strategy=strategy))
    restart(server, "stubborn")
    for strategy, thread in threads.items():
        ended(server, thread, runs[strategy])
        assert calls(server, strategy).count("stubborn") == 1
    assert values(server, threads["interrupt"])["trail"] == ["interrupt", "a", "new", "a", "b", "c"]
    assert values(server, threads["rollback"])["trail"] == ["new", "a", "b", "c"]


def test_pending_runs_keep_their_order(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    runs = [start(server, thread, body("gates", "b", tag=f"run{n}")) for n in range(6)]
    reached(server, "b")
    restart(server, "b")
    for run in runs:
        ended(server, thread, run)
    assert values(server, thread)["trail"] == [*itertools.chain(*([f"run{n}", "a", "b", "c"] for n in range(6)))]


def test_runs_begin_in_their_order_though_the_run_loop_is_busy(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    spinning = {"assistant_id": "spins", "input": {"seconds": 60}, "config": USER}
    tags = [f"{turn}{name}" for turn in range(4) for name in "abc"]
    with server.http() as http:

        def is_idle() -> bool:
            return bool(http.get(f"/threads/{thread}").json()["status"] == "idle")

        def enqueue(tag: str) -> None:
            http.post(f"/threads/{thread}/runs", json=body("quicks", tag=tag)).raise_for_status()

        http.post("/runs", json=spinning).raise_for_status()
        for turn in range(4):
            enqueue(f"{turn}a")
            until(is_idle)
            time.sleep(0.006 * turn)  # the first run is over, but its worker does not know yet
            enqueue(f"{turn}b")
            enqueue(f"{turn}c")
            until(is_idle)
    assert [entry for entry in values(server, thread)["trail"] if entry != "quick"] == tags


def test_a_delayed_run_waits_for_its_moment_across_a_crash(make: Make) -> None:
    server = make()
    soon, late = new_thread(server), new_thread(server)
    begun = time.time()
    runs = [start(server, soon, body("gates", after_seconds=0.2)), start(server, late, body("gates", after_seconds=3))]
    server.kill()
    time.sleep(0.2)
    server.start()
    for thread, run, seconds in ((soon, runs[0], 0.2), (late, runs[1], 3)):
        ended(server, thread, run)
        first = get(server, f"/threads/{thread}/history")[-1]["created_at"]
        assert seconds <= datetime.datetime.fromisoformat(first).timestamp() - begun < 20


def test_a_resumable_stream_is_joined_again_after_a_crash(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    seen: list[Frame] = []
    wanted = body("gates", "b", stream_mode=["values", "updates"], stream_resumable=True)
    with server.http() as http, http.stream("POST", f"/threads/{thread}/runs/stream", json=wanted) as answer:
        run = answer.headers["content-location"].rpartition("/")[2]
        for frame in frames(answer.iter_lines()):
            seen.append(frame)
            if frame[0] == "values" and frame[1]["trail"] == ["in", "a"]:
                break
    reached(server, "b")
    kept(server, thread, 3)
    in_file = "SELECT count(*) FROM events WHERE run_id = ? AND ms || '-' || n = ?"  # a moment after the client has it
    until(lambda: rows_of(server, in_file, run, seen[-1][2])[0][0])
    restart(server, "b")
    rest = joined(server, thread, run, seen[1][2])
    assert rest[: len(seen) - 2] == seen[2:]
    again = rest[len(seen) - 2 :]
    assert [name for name, *_ in again] == ["metadata", "values", "updates", "values", "updates", "values"]
    assert [data["trail"][-1] for name, data, _ in again if name == "values"] == ["a", "b", "c"]
    ids = [tuple(map(int, str(frame[2]).split("-"))) for frame in (*seen[:2], *rest)]
    assert ids == sorted(set(ids))
    ended(server, thread, run)
    assert joined(server, thread, run, seen[1][2]) == rest
    assert joined(server, thread, run, "0") == seen[:2] + rest


def test_a_stateless_run_is_finished_after_a_crash_and_vanishes(make: Make) -> None:
    server = make()
    with server.http() as http:
        thread = http.post("/runs", json=body("gates", "b")).raise_for_status().json()["thread_id"]
    reached(server, "b")
    kept(server, thread, 3)
    restart(server, "b")

    def gone() -> bool:
        with server.http() as http:
            return http.get(f"/threads/{thread}").status_code == 404

    until(gone)
    assert calls(server) == ["a", "b", "b", "c"]
    assert count(server) == 3
    assert not rows_of(server, "SELECT 1 FROM checkpoints UNION SELECT 1 FROM writes UNION SELECT 1 FROM run_writes")


def test_a_webhook_that_is_due_is_delivered_after_a_crash(make: Make) -> None:
    received: list[Any] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    server = make()
    thread = new_thread(server)
    run = start(server, thread, body("gates", webhook=f"http://127.0.0.1:{port}/hook"))
    ended(server, thread, run)  # nobody answers there yet
    server.kill()
    with http.server.HTTPServer(("127.0.0.1", port), Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        server.start()
        until(lambda: received)
        receiver.shutdown()
    assert [(hook["run_id"], hook["status"], hook["values"]["trail"][-1]) for hook in received] == [
        (run, "success", "c")
    ]
    until(lambda: not rows_of(server, "SELECT 1 FROM webhooks"))


# Stops


def begin_stop(server: LiveServer, sig: int = signal.SIGTERM) -> None:
    """Send the signal, and wait until no more connections are taken."""
    assert server.process
    server.process.send_signal(sig)
    address = httpx.URL(server.url)

    def refuses() -> bool:
        try:
            socket.create_connection((address.host, address.port or 0)).close()
        except OSError:
            return True
        return False

    until(refuses)
    time.sleep(0.1)  # its run loop hears of it a moment later


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_runs_finish_their_superstep_and_they_go_on_with_the_next_start(make: Make, sig: int) -> None:
    server = make()
    threads = {tag: new_thread(server) for tag in ("sync", "async", "exit")}
    runs = {tag: start(server, thread, body("gates", "b", tag=tag, durability=tag)) for tag, thread in threads.items()}
    until(lambda: all("b" in calls(server, tag) for tag in threads))
    begin_stop(server, sig)
    open_gate(server, "b")
    begun = time.monotonic()
    assert server.stop(sig) == 0
    assert time.monotonic() - begun < 3
    assert "Traceback" not in server.log
    for tag in threads:
        assert calls(server, tag) == ["a", "b"]
    server.start()
    for tag, thread in threads.items():
        ended(server, thread, runs[tag])
        assert calls(server, tag) == ["a", "b", "c"]
        assert values(server, thread)["trail"] == [tag, "a", "b", "c"]
    begun = time.monotonic()
    assert server.stop(sig) == 0  # idle now
    assert time.monotonic() - begun < 3
    assert "Traceback" not in server.log
    assert not (server.folder / "devserver.db.lock").exists()


def test_streams_end_when_the_server_stops(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    names: list[str] = []
    wanted = body("gates", "b", stream_resumable=True)
    with server.http() as http, http.stream("POST", f"/threads/{thread}/runs/stream", json=wanted) as answer:
        run = answer.headers["content-location"].rpartition("/")[2]
        events = frames(answer.iter_lines())
        names.append(next(events)[0])
        reached(server, "b")
        begin_stop(server)
        open_gate(server, "b")
        begun = time.monotonic()
        with contextlib.suppress(httpx.RemoteProtocolError):  # cut off is an end too
            names.extend(name for name, *_ in events)
        assert time.monotonic() - begun < 3
    assert server.stop() == 0
    server.start()
    ended(server, thread, run)
    told = [data for name, data, _ in joined(server, thread, run, "0") if name == "values"]
    trails = [data["trail"] for data in told]
    assert [trail for trail, _ in itertools.groupby(trails)] == [
        ["in"],
        ["in", "a"],
        ["in", "a", "b"],
        ["in", "a", "b", "c"],
    ]


def test_no_run_begins_while_the_server_stops(make: Make) -> None:
    server = make("--max-concurrency", "1")
    threads = [new_thread(server) for _ in range(3)]
    runs = [start(server, thread, body("gates", "b")) for thread in threads]
    reached(server, "b")
    begin_stop(server)
    open_gate(server, "b")
    assert server.stop() == 0
    assert calls(server) == ["a", "b"]
    server.start()
    for thread, run in zip(threads, runs, strict=True):
        ended(server, thread, run)
    assert sorted(calls(server)) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3


def test_nodes_that_block_do_not_hold_up_the_stop(make: Make) -> None:
    server = make()
    thread, other = new_thread(server), new_thread(server)
    start(server, thread, {"assistant_id": "sleeps", "input": {"seconds": 60}, "config": USER})
    until(lambda: "sleep" in calls(server, "-"))
    start(server, other, {"assistant_id": "blocks", "input": {"seconds": 60}, "config": USER})
    until(lambda: "block" in calls(server, "-"))
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 10
    server.start()
    until(lambda: len(calls(server, "-")) > 2)


def test_a_second_interrupt_quits_at_once(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    run = start(server, thread, {"assistant_id": "sleeps", "input": {"seconds": 60}, "config": USER})
    until(lambda: "sleep" in calls(server, "-"))
    begin_stop(server, signal.SIGINT)
    begun = time.monotonic()
    assert server.stop(signal.SIGINT) in (0, 130)
    assert time.monotonic() - begun < 4  # it would wait for 7 s
    assert "Traceback" not in server.log
    server.start()
    assert get(server, f"/threads/{thread}/runs/{run}")["status"] in ("pending", "running")


# One file


def test_a_second_server_on_the_same_file_is_refused_with_the_pid_of_the_first(make: Make) -> None:
    server = make()
    assert server.process
    said = refusal(server.folder)
    assert "devserver.db" in said
    assert f"pid {server.process.pid}" in said
    assert get(server, "/ok")["ok"]
    server.kill()
    server.start()  # what the dead one left behind stops nobody


def test_a_database_in_memory_keeps_nothing(make_server: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    files = {"crash_gates.py": (GRAPHS / "crash_gates.py").read_text()}
    server = make_server(SERVED, files, "--no-reload", "--db", ":memory:")
    thread = new_thread(server)
    ended(server, thread, start(server, thread, body("gates")))
    assert server.stop() == 0
    assert list(temporary.iterdir()) == []
    assert not list(server.folder.glob("*.db*"))
    assert not list(server.folder.glob(":memory:*"))
    server.start()
    with server.http() as http:
        assert http.get(f"/threads/{thread}").status_code == 404


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project that is not served."""
    write_project(tmp_path, SERVED, {"crash_gates.py": (GRAPHS / "crash_gates.py").read_text()})
    return tmp_path


def test_a_database_of_a_newer_devserver_is_refused_and_left_alone(folder: Path) -> None:
    file = folder / "devserver.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as conn:
        conn.execute("PRAGMA user_version = 999")
    old = file.read_bytes()
    said = refusal(folder)
    assert "devserver.db" in said
    assert "newer devserver (schema 999" in said
    with contextlib.closing(sqlite3.connect(file)) as conn:
        assert conn.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert file.read_bytes()[40:] == old[40:]  # at most in its journal mode


@pytest.mark.parametrize("content", [b"these are my notes, not a database\n" * 200, b"SQLite format 3\0" + b"x" * 5000])
def test_a_file_that_is_no_database_is_refused_and_left_alone(folder: Path, content: bytes) -> None:
    (folder / "notes.db").write_bytes(content)
    said = refusal(folder, "--db", "notes.db")
    assert "notes.db" in said
    assert "not a database" in said or "malformed" in said
    assert (folder / "notes.db").read_bytes() == content


def test_a_copy_of_the_file_is_a_copy_of_the_server(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    ended(server, thread, start(server, thread, body("gates")))
    server.stop()
    assert [file.name for file in server.folder.glob("*.db*")] == ["devserver.db"]
    shutil.copy(database(server), server.folder / "copy.db")
    database(server).unlink()
    server.options += ["--db", "copy.db"]
    server.start()
    assert values(server, thread)["trail"] == ["in", "a", "b", "c"]


def test_nothing_is_left_of_live_runs_that_were_deleted(make: Make) -> None:
    server = make()
    threads = {what: new_thread(server) for what in ("thread", "run")}
    for what, thread in threads.items():
        wanted = body("stays", "stubborn", tag=what, stream_resumable=True, stream_mode=["values", "debug"])
        run = start(server, thread, wanted)
        until(lambda what=what: "stubborn" in calls(server, what))  # type: ignore[misc]
        with server.http() as http:
            http.delete(f"/threads/{thread}" + (f"/runs/{run}" if what == "run" else "")).raise_for_status()
        reached(server, "cancel")
        (server.folder / "at.cancel").unlink()
    open_gate(server, "stubborn")
    time.sleep(0.5)
    for table in ("checkpoints", "writes", "runs", "run_writes", "events"):
        assert rows_of(server, f"SELECT count(*) FROM {table}") == [(0,)], table
    assert rows_of(server, "SELECT thread_id FROM threads") == [(threads["run"],)]
    assert get(server, f"/threads/{threads['run']}")["status"] == "idle"
    assert "Traceback" not in server.log
    restart(server)
    for what in threads:
        assert calls(server, what).count("stubborn") == 1


def test_a_failed_run_stays_failed_after_a_crash(make: Make) -> None:
    server = make()
    thread = new_thread(server)
    run = start(server, thread, body("fails"))
    ended(server, thread, run, "error")
    restart(server)
    ended(server, thread, run, "error")
    shown = get(server, f"/threads/{thread}")
    assert (shown["status"], shown["error"]["error"]) == ("error", "ValueError")
    assert calls(server) == ["a"]

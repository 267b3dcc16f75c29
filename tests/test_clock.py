"""One clock: ids and order never go back, whatever happens to the time of day, also between two starts."""

from __future__ import annotations

import ast
import datetime
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from conftest import ROOT, LiveServer, wait_until
from langgraph.checkpoint.base import id as checkpoint_ids

import devserver
from devserver import Assistant, Clock, Cron, Runs, Threads

YEAR = 365 * 24 * 3600
# `devserver` with its time of day as many seconds off as the file `shift` says
MOVED = """
import os, sys, time
from pathlib import Path
real, shift = time.time_ns, Path(__file__).with_name("shift")
time.time_ns = lambda: real() + int(shift.read_text()) * 10**9
time.time = lambda: time.time_ns() / 1e9
import devserver
devserver.main()
"""
GRAPH = """
import operator
from typing import Annotated
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

class State(TypedDict, total=False):
    said: Annotated[list[str], operator.add]

graph = StateGraph(State).add_node("say", lambda state: {}).add_edge(START, "say").compile()
"""

SLOW = """
async def say(state):
    import asyncio, pathlib
    while not pathlib.Path("gate").exists():
        await asyncio.sleep(0.05)
    return {"said": ["done"]}

"""


def move(server: LiveServer, seconds: int) -> None:
    """Set the clock of a server to this much after the real time of day, also while it runs."""
    (server.folder / "new").write_text(str(seconds))
    os.replace(server.folder / "new", server.folder / "shift")


@pytest.fixture
def moved(make_server: Callable[..., LiveServer]) -> LiveServer:
    server = make_server({"g": "./g.py:graph"}, {"g.py": GRAPH, "moved.py": MOVED}, "--no-reload")
    assert server.stop() == 0
    server.command = [sys.executable, "-u", str(server.folder / "moved.py")]
    move(server, 0)
    return server


def ask(http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
    return http.request(method, path, json=body).raise_for_status().json()


def say(http: httpx.Client, thread: str, text: str) -> Any:
    body = {"assistant_id": "g", "input": {"said": [text]}, "stream_resumable": True}
    return ask(http, "POST", f"/threads/{thread}/runs/wait", body)["said"]


def put(http: httpx.Client, key: str) -> None:
    body = {"namespace": ["n"], "key": key, "value": {}, "ttl": 0.03}
    assert http.put("/store/items", json=body).status_code == 204


def fill(http: httpx.Client, mark: str, threads: list[str]) -> dict[str, Any]:
    """Make one of everything, and go on with the threads of earlier calls."""
    thread = ask(http, "POST", "/threads", {"metadata": {"all": 1}})["thread_id"]
    threads.append(thread)
    for number, each in enumerate(threads):
        assert say(http, each, mark)[-1] == mark, number
    assistant = ask(http, "POST", "/assistants", {"graph_id": "g", "name": mark, "metadata": {"all": 1}})
    cron = {"assistant_id": "g", "input": {}, "schedule": "0 0 1 1 *", "metadata": {"cron": 1}}
    put(http, mark)
    expiring = ask(http, "POST", "/threads", {"ttl": {"ttl": 0.03, "strategy": "delete"}, "metadata": {"ttl": 1}})
    return {
        "thread": thread,
        "assistant": assistant["assistant_id"],
        "cron": ask(http, "POST", "/runs/crons", cron)["cron_id"],
        "expiring": expiring["thread_id"],
    }


def check_order(http: httpx.Client, filled: list[dict[str, Any]], marks: list[str], threads: list[str]) -> None:
    """Everything is in the order in which it was made or changed."""
    for thread, count in zip(threads, range(len(marks), 0, -1), strict=True):
        path = f"/threads/{thread}"
        assert ask(http, "GET", f"{path}/state")["values"]["said"] == marks[-count:]
        assert ask(http, "GET", path)["values"]["said"] == marks[-count:]
        states = ask(http, "GET", f"{path}/history?limit=100")
        said = [state["values"].get("said", []) for state in states]
        assert said == sorted(said, key=len, reverse=True)
        before = ask(http, "GET", f"{path}/history?limit=100&before={states[2]['checkpoint']['checkpoint_id']}")
        assert before == states[3:]
        runs = [run["kwargs"]["input"]["said"][0] for run in ask(http, "GET", f"{path}/runs?limit=100")]
        assert runs == marks[-count:][::-1]
        with http.stream("GET", f"{path}/stream", headers={"last-event-id": "0"}) as stream:
            ids = first_ids(stream, 2 * count)
        assert ids == sorted(ids)
    for by in ("created_at", "updated_at", "state_updated_at"):
        found = ask(http, "POST", "/threads/search", {"metadata": {"all": 1}, "sort_by": by, "limit": 100})
        wanted = threads if by != "created_at" else [each["thread"] for each in filled]
        assert [thread["thread_id"] for thread in found] == wanted[::-1]
    for path, key, mark in (("/assistants/search", "assistant", "all"), ("/runs/crons/search", "cron", "cron")):
        for by in ("created_at", "updated_at"):
            found = ask(http, "POST", path, {"metadata": {mark: 1}, "sort_by": by, "sort_order": "desc", "limit": 100})
            assert [each[f"{key}_id"] for each in found] == [each[key] for each in reversed(filled)], (path, by)


def first_ids(stream: httpx.Response, count: int) -> list[tuple[int, ...]]:
    ids: list[tuple[int, ...]] = []
    for line in stream.iter_lines():
        if line.startswith("id: "):
            ids.append(tuple(map(int, line.removeprefix("id: ").split("-"))))
            if len(ids) == count:
                break
    return ids


@pytest.mark.parametrize("running", [False, True], ids=["across restarts", "while it runs"])
def test_a_year_forward_and_back_changes_no_order(moved: LiveServer, running: bool) -> None:
    marks, threads, filled = [], [], []  # type: ignore[var-annotated]
    for number, shift in enumerate((0, YEAR, 0, -YEAR, 0)):
        move(moved, shift)
        if not running or not number:
            moved.start()
        with moved.http() as http:
            marks.append(f"{number}: {shift}")
            filled.append(fill(http, marks[-1], threads))
            check_order(http, filled, marks, threads)
            made = ask(http, "GET", f"/threads/{filled[-1]['thread']}")
            real = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=shift)
            for name in ("created_at", "updated_at", "state_updated_at"):
                assert abs(datetime.datetime.fromisoformat(made[name]) - real) < datetime.timedelta(minutes=1), name
        if not running:
            moved.kill()
    if running:
        moved.kill()
    assert "Traceback" not in moved.log


@pytest.mark.parametrize("running", [False, True], ids=["across restarts", "while it runs"])
def test_what_was_due_does_not_wait_for_a_clock_that_was_put_back(moved: LiveServer, running: bool) -> None:
    move(moved, YEAR)
    with moved.start().http() as http:
        late = fill(http, "late", [])
        thread = ask(http, "POST", "/threads", {})["thread_id"]
        delayed = {"assistant_id": "g", "input": {"said": ["delayed"]}, "after_seconds": 4}
        ask(http, "POST", f"/threads/{thread}/runs", delayed)
        hourly = {"assistant_id": "g", "input": {}, "schedule": "0 * * * *"}
        cron = ask(http, "POST", "/runs/crons", hourly)["cron_id"]
        off = ask(http, "POST", "/runs/crons", {**hourly, "enabled": False})["cron_id"]
        if not running:
            moved.kill()
    move(moved, 0)
    if not running:
        moved.start()
    with moved.http() as http:
        put(http, "nudge")  # the schedules look within a minute, or when something is new

        def next_dates() -> list[datetime.datetime]:
            ask(http, "PATCH", f"/runs/crons/{late['cron']}", {"metadata": {"nudge": time.time()}})
            crons = ask(http, "POST", "/runs/crons/search", {"limit": 100})
            dates = {each["cron_id"]: each["next_run_date"] for each in crons}
            return [datetime.datetime.fromisoformat(dates[each]) for each in (cron, off)]

        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1, minutes=1)
        wait_until(lambda: all(date < soon for date in next_dates()))
        wait_until(lambda: ask(http, "GET", f"/threads/{thread}")["values"])
        wait_until(lambda: http.get(f"/threads/{late['expiring']}").status_code == 404)
        assert http.get("/store/items", params={"namespace": "n", "key": "late"}).json() is None
        shown = ask(http, "POST", "/threads", {"ttl": {"ttl": 60, "strategy": "delete"}})
        until = ask(http, "GET", f"/threads/{shown['thread_id']}?include=ttl")["ttl"]["expires_at"]
        assert datetime.datetime.fromisoformat(until) < soon


def test_a_later_step_of_a_run_that_a_kill_cut_short_is_the_thread_s_latest(moved: LiveServer) -> None:
    """Its checkpoints are newer than anything else in the file."""
    (moved.folder / "g.py").write_text(GRAPH.replace("lambda state: {}", "say").replace("graph = ", SLOW + "graph = "))
    move(moved, YEAR)
    with moved.start().http() as http:
        thread = ask(http, "POST", "/threads", {})["thread_id"]
        ask(http, "POST", f"/threads/{thread}/runs", {"assistant_id": "g", "input": {"said": ["in"]}})
        wait_until(lambda: len(ask(http, "GET", f"/threads/{thread}/history?limit=9")) == 2)
        moved.kill()
    move(moved, 0)
    (moved.folder / "gate").touch()
    with moved.start().http() as http:
        wait_until(lambda: ask(http, "GET", f"/threads/{thread}/runs?status=success"))
        assert ask(http, "GET", f"/threads/{thread}/state")["values"]["said"] == ["in", "done"]
        ask(http, "POST", f"/threads/{thread}/state", {"values": {"said": ["more"]}})
        assert ask(http, "GET", f"/threads/{thread}")["values"]["said"] == ["in", "done", "more"]


# The clock itself


class Hands:
    """A time of day and a monotonic time that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.day, self.passed = 1_000_000.0, 50.0
        monkeypatch.setattr(time, "time_ns", lambda: int(self.day * 1e9))
        monkeypatch.setattr(time, "monotonic_ns", lambda: int(self.passed * 1e9))

    def wait(self, seconds: float) -> None:
        self.day += seconds
        self.passed += seconds


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    return Hands(monkeypatch)


def test_steady_time_is_the_time_of_day_until_that_is_put_back(hands: Hands) -> None:
    clock = Clock()
    assert clock.steady() == hands.day * 1e6
    hands.wait(10)
    assert clock.steady() == hands.day * 1e6
    hands.day += 3600  # a machine that slept
    assert clock.steady() == hands.day * 1e6
    greatest = hands.day
    hands.day -= YEAR
    hands.wait(5)
    assert clock.steady() == (greatest + 5) * 1e6
    assert clock.set_back == 1
    hands.wait(7)
    assert clock.steady() == (greatest + 12) * 1e6
    assert clock.ahead == pytest.approx(YEAR * 1e6)
    hands.day += YEAR  # put right again
    assert clock.steady() == pytest.approx((greatest + 12) * 1e6, abs=10)
    hands.wait(1)
    assert clock.steady() == hands.day * 1e6
    hands.day -= 0.5  # what a time server corrects is not worth a word
    assert clock.steady() == (hands.day + 0.5) * 1e6 + 1
    assert clock.set_back == 1


def test_steady_time_goes_on_from_what_an_earlier_start_has_seen(hands: Hands) -> None:
    clock = Clock()
    clock.begin_after(int((hands.day + YEAR) * 1e6))
    assert clock.set_back == 1
    hands.wait(3)
    assert clock.steady() == (hands.day + YEAR) * 1e6
    calm = Clock()
    calm.begin_after(int((hands.day - YEAR) * 1e6))
    assert calm.set_back == 0
    assert calm.steady() == hands.day * 1e6


def test_each_steady_time_is_greater_also_from_many_threads() -> None:
    clock = Clock()
    found: list[list[int]] = []

    def look() -> None:
        found.append([clock.steady() for _ in range(5000)])

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == sorted(each) for each in found)
    assert len({micros for each in found for micros in each}) == 20_000


def test_ids_sort_by_when_they_were_made() -> None:
    ids = [devserver.new_id() for _ in range(2000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 2000
    assert {uuid.UUID(each).version for each in ids} == {7}
    assert {uuid.UUID(each).variant for each in ids} == {uuid.RFC_4122}


# The greatest id or moment of an earlier start, wherever in the file it is

AT = "2026-01-01T00:00:00.000000+00:00"
FAR = 4_000_000_000_000_000  # microseconds, in 2096


def of_assistant(conn: Any) -> None:
    devserver.Assistants(conn).insert(Assistant("a", "g", "n", None, {}, {}, {}, 1, AT, AT))
    conn.execute("UPDATE assistants SET changed = ?", (FAR,))


def of_thread(conn: Any) -> None:
    Threads(conn).insert("t", {}, {}, None)
    conn.execute("UPDATE threads SET changed = ?", (FAR,))


def of_cron(conn: Any) -> None:
    devserver.Crons(conn).insert(Cron("c", "a", "t", None, "@daily", None, {}, AT, {}, None, True, AT, AT))
    conn.execute("UPDATE crons SET changed = ?", (FAR,))


def of_run(conn: Any) -> None:
    for run_id in (str(uuid.UUID(int=(FAR // 1000) << 80 | 7 << 76 | 2 << 62)), "ffff"):
        Runs(conn).insert(devserver.Run(run_id, "t", "a", AT, AT, None, "success", {}, {}, "enqueue"))


def of_event(conn: Any) -> None:
    conn.execute("INSERT INTO events VALUES (1, 't', 'r', ?, 0, 'x', '', 0)", (FAR // 1000,))


def of_checkpoint(conn: Any) -> None:
    tenths = FAR * 10 + 0x01B21DD213814000
    far = uuid.UUID(int=(tenths >> 12) << 80 | 6 << 76 | (tenths & 0xFFF) << 64 | 2 << 62)
    for checkpoint_id in (str(far), "zz", "ffffffff-0000-4000-8000-000000000000"):
        conn.execute("INSERT INTO checkpoints (thread_id, checkpoint_id) VALUES ('t', ?)", (checkpoint_id,))


@pytest.mark.parametrize("make", [of_assistant, of_thread, of_cron, of_run, of_event, of_checkpoint])
def test_what_is_made_after_a_start_comes_after_all_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], None]
) -> None:
    monkeypatch.setattr(devserver, "CLOCK", clock := Clock())
    monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)
    conn = devserver.Db(str(tmp_path / "far.db"))._connect(True)
    devserver.start_clock(conn)
    assert clock.steady() < FAR
    make(conn)
    devserver.start_clock(conn)
    conn.close()
    assert FAR < clock.steady() < FAR + 10_000_000
    assert devserver.event_id() > (FAR // 1000, 0)
    if make is of_checkpoint:
        assert checkpoint_ids.uuid6().time > FAR * 10 + 0x01B21DD213814000


def test_langgraph_keeps_its_last_moment_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    last = checkpoint_ids.uuid6().time + 10**15
    monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", last)
    assert checkpoint_ids.uuid6().time == last + 1


def test_every_time_of_day_is_the_clock_s() -> None:
    """No other code asks the machine, or SQLite, for it."""
    tree = ast.parse((ROOT / "devserver.py").read_text())
    [clock] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Clock"]
    inside = set(range(clock.lineno, (clock.end_lineno or 0) + 1))
    found: list[int] = []
    for node in cast(Iterator[ast.expr], ast.walk(tree)):
        if isinstance(node, ast.Attribute) and node.attr in ("time_ns", "utcnow", "today"):
            found.append(node.lineno)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in (
            *("datetime.datetime.now", "time.time", "uuid.uuid1", "time.localtime", "time.gmtime"),
        ):
            found.append(node.lineno)
        text = node.value.lower() if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if any(word in text for word in ("'now'", "current_time", "current_date", "unixepoch()", "datetime()")):
            found.append(node.lineno)
    assert set(found) <= inside

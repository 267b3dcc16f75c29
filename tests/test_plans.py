"""Every query finds its rows by an index: what a list, a search or a claim costs grows with what it gives, not
with what there is. SQLite's own query plans say so."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver

import devserver
from devserver import (
    Assistant,
    Assistants,
    AssistantSearchRequest,
    Cron,
    Crons,
    CronSearch,
    Event,
    Events,
    Items,
    Run,
    Runs,
    SharedPuts,
    Table,
    Tasks,
    Threads,
    ThreadSearchRequest,
    Webhooks,
)

AT = "2026-01-01T00:00:00.000000+00:00"
CONFIG = {"configurable": {"graph_id": "g"}, "metadata": {}}
RUN = Run(
    *("r", "t", "a", AT, AT, None, "pending", {}),
    {"config": CONFIG, "temporary": False, "resumable": True, "webhook": None},
    "enqueue",
)
ASSISTANT = Assistant("a", "g", "n", None, {}, {}, {}, 1, AT, AT)
CRON = Cron("c", "a", "t", None, "@daily", None, {}, AT, {}, None, True, AT, AT)
PLACE: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "1"}}
LATEST: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
LIMITS = {"owner": "o"}  # of what a user may see
SEARCH = ThreadSearchRequest(metadata={"a": 1}, values={"b": 2})

Call = Callable[[sqlite3.Connection], Any]

# A call of each method that reads or changes rows
CALLS: dict[str, list[Call]] = {
    "Assistants.get": [lambda c: Assistants(c).get("a")],
    "Assistants.require": [lambda c: Assistants(c).require("a")],
    "Assistants.insert": [lambda c: Assistants(c).insert(ASSISTANT)],
    "Assistants.update": [lambda c: Assistants(c).update("a", {"name": "m"})],
    "Assistants.set_version": [lambda c: Assistants(c).set_version("a", 1)],
    "Assistants.versions": [lambda c: Assistants(c).versions("a", {"b": 1}, 10, 0)],
    "Assistants.delete": [lambda c: Assistants(c).delete("a")],
    "Assistants.search": [lambda c: Assistants(c).search(AssistantSearchRequest(metadata={"a": 1}), LIMITS)],
    "Assistants.count": [lambda c: Assistants(c).count(AssistantSearchRequest(), LIMITS)],
    "Assistants.of_tool": [lambda c: Assistants(c).of_tool("n")],
    "Assistants.all_made_by_system": [lambda c: Assistants(c).all_made_by_system()],
    "Assistants.refresh": [lambda c: Assistants(c).refresh("a", {"name": "n"})],
    "Threads.get": [lambda c: Threads(c).get("t")],
    "Threads.require": [lambda c: Threads(c).require("t")],
    "Threads.insert": [lambda c: Threads(c).insert("t", {}, {}, None)],
    "Threads.update": [lambda c: Threads(c).update("t", metadata={})],
    "Threads.set_state": [lambda c: Threads(c).set_state("t", "idle", {}, {}, None)],
    "Threads.set_outcome": [lambda c: Threads(c).set_outcome("t", None, None)],
    "Threads.set_unshown": [lambda c: Threads(c).set_unshown("t")],
    "Threads.is_unshown": [lambda c: Threads(c).is_unshown("t")],
    "Threads.unshown": [lambda c: Threads(c).unshown()],
    "Threads.delete": [lambda c: Threads(c).delete("t")],
    "Threads.copy": [lambda c: Threads(c).copy("t", "u")],
    "Threads.ttl": [lambda c: Threads(c).ttl("t")],
    "Threads.next_expiry": [lambda c: Threads(c).next_expiry()],
    "Threads.expired": [lambda c: Threads(c).expired()],
    "Threads.set_pruned": [lambda c: Threads(c).set_pruned("t")],
    "Threads.of_assistant": [lambda c: Threads(c).of_assistant("a", LIMITS)],
    "Threads.search": [
        *(
            lambda c, by=by, order=order: Threads(c).search(
                SEARCH.model_copy(update={"sort_by": by, "sort_order": order}), None, LIMITS
            )
            for by in ("thread_id", "created_at", "updated_at", "state_updated_at")
            for order in ("asc", "desc")
        ),
        *(
            lambda c, status=status: Threads(c).search(ThreadSearchRequest(status=status), None, LIMITS)
            for status in ("idle", "interrupted", "error")
        ),
    ],
    "Threads.search, by status": [
        lambda c: Threads(c).search(ThreadSearchRequest(sort_by="status"), None, LIMITS),
        lambda c: Threads(c).search(ThreadSearchRequest(sort_by="status", sort_order="asc", offset=5), None, LIMITS),
    ],
    "Threads.search, some": [
        lambda c: Threads(c).search(ThreadSearchRequest(status="busy"), None, LIMITS),
        lambda c: Threads(c).search(SEARCH, ["t", "u"], LIMITS),
    ],
    "Threads.count": [
        lambda c: Threads(c).count(SEARCH, LIMITS),
        *(
            lambda c, status=status: Threads(c).count(ThreadSearchRequest(status=status), LIMITS)
            for status in ("idle", "busy", "interrupted", "error")
        ),
    ],
    "Runs.get": [lambda c: Runs(c).get("t", "r")],
    "Runs.insert": [lambda c: Runs(c).insert(RUN)],
    "Runs.live": [lambda c: Runs(c).live("t")],
    "Runs.live_ids": [lambda c: Runs(c).live_ids("all", LIMITS), lambda c: Runs(c).live_ids("pending", LIMITS)],
    "Runs.waiting_threads": [lambda c: Runs(c).waiting_threads()],
    "Runs.claim": [lambda c: Runs(c).claim("t")],
    "Runs.has_since": [
        lambda c: Runs(c).has_since("t", 1),
        lambda c: Runs(c).has_since("t1", devserver.CLOCK.steady()),
    ],
    "Runs.prospects": [lambda c: Runs(c).prospects("t")],
    "Runs.set_status": [lambda c: Runs(c).set_status("r", "success")],
    "Runs.request_cancel": [lambda c: Runs(c).request_cancel("r", "interrupt", "x")],
    "Runs.is_live": [lambda c: Runs(c).is_live("r")],
    "Runs.finish": [lambda c: Runs(c).finish("r", "success")],
    "Runs.start_state": [lambda c: Runs(c).start_state("r")],
    "Runs.begun": [lambda c: Runs(c).begun()],
    "Runs.release": [lambda c: Runs(c).release()],
    "Runs.newest": [lambda c: Runs(c).newest("t")],
    "Runs.list": [lambda c: Runs(c).list("t", None, 10, 0), lambda c: Runs(c).list("t", "success", 10, 5)],
    "Runs.list, of all threads": [lambda c: Runs(c).list(None, None, 10, 0, [{}, LIMITS])],
    "Runs.list, of all threads by status": [lambda c: Runs(c).list(None, "error", 10, 0)],
    "Runs.delete": [lambda c: Runs(c).delete(RUN)],
    "Runs.take_back": [lambda c: Runs(c).take_back("r", "t", None), lambda c: Runs(c).take_back("r", "t", "x", 1)],
    "Runs.has_checkpoint": [lambda c: Runs(c).has_checkpoint(RUN)],
    "Runs.reached_in": [lambda c: Runs(c).reached_in(RUN)],
    "Runs.has_used_answer": [lambda c: Runs(c).has_used_answer(RUN)],
    "Runs.queue": [lambda c: Runs(c).queue()],
    "Tasks.get": [lambda c: Tasks(c).get("t", "r")],
    "Tasks.waiting": [lambda c: Tasks(c).waiting("t")],
    "Tasks.search": [lambda c: Tasks(c).search(LIMITS, "a", None, None, None, 10, 0)],
    "Tasks.search, a thread's": [lambda c: Tasks(c).search({}, "a", "t", "working", AT, 10, 0)],
    "Events.append": [
        lambda c: Events(c).append("t", [Event((1, 0), "x", b"1")]),
        lambda c: Events(c).append("t", [Event((1, 0), "x", b"1", run_id="r")], "r"),
    ],
    "Events.of_run": [lambda c: Events(c).of_run("r", (1, 2))],
    "Events.newest": [lambda c: next(Events(c).newest("t", "x"), None)],
    "Events.of_thread": [lambda c: Events(c).of_thread("t", (1, 2))],
    "Events.last_seq": [lambda c: Events(c).last_seq("t")],
    "Events.set_last_seq": [lambda c: Events(c).set_last_seq("t", 1)],
    "Crons.has_assistant": [lambda c: Crons(c).has_assistant("a")],
    "Crons.get": [lambda c: Crons(c).get("c")],
    "Crons.insert": [lambda c: Crons(c).insert(CRON)],
    "Crons.update": [lambda c: Crons(c).update(CRON)],
    "Crons.delete": [lambda c: Crons(c).delete("c")],
    "Crons.next_due": [lambda c: Crons(c).next_due()],
    "Crons.correct_dates": [lambda c: Crons(c).correct_dates()],
    "Crons.due": [lambda c: Crons(c).due(AT)],
    "Crons.search": [lambda c: Crons(c).search(CronSearch(), LIMITS)],
    "Crons.count": [lambda c: Crons(c).count(CronSearch(), LIMITS)],
    "Webhooks.insert": [lambda c: Webhooks(c).insert("http://localhost", b"{}")],
    "Webhooks.due": [lambda c: Webhooks(c).due()],
    "Webhooks.delete": [lambda c: Webhooks(c).delete(1)],
    "Items.get": [lambda c: Items(c).get(("a", "b"), "k")],
    "Items.put": [lambda c: Items(c).put("a.b", "k", b"{}")],
    "Items.delete": [lambda c: Items(c).delete("a.b", "k")],
    "Items.load": [lambda c: Items(c).load("a.b")],
    "Items.apply": [lambda c: Items(c).apply(SharedPuts("a.b", {"k": b"{}", "l": None}))],
    "Items.search": [lambda c: Items(c).search(("a", "b"), None, 10, 0)],
    "Items.namespaces": [lambda c: Items(c).namespaces()],
    "Items.refresh": [lambda c: Items(c).refresh([("a.b", "k")])],
    "Items.next_expiry": [lambda c: Items(c).next_expiry()],
    "Items.sweep": [lambda c: Items(c).sweep(10)],
    # LangGraph's own saver, as the server's uses it
    "SqliteSaver.get_tuple": [lambda c: saver(c).get_tuple(LATEST), lambda c: saver(c).get_tuple(PLACE)],
    "SqliteSaver.list": [
        lambda c: list(saver(c).list(LATEST, limit=10)),
        lambda c: list(saver(c).list(LATEST, limit=10, before=PLACE, filter={"run_id": "r"})),
    ],
    "SqliteSaver.put": [lambda c: saver(c).put(LATEST, empty_checkpoint(), {}, {})],
    "SqliteSaver.put_writes": [lambda c: saver(c).put_writes(PLACE, [("a", 1)], "task")],
}

# What may look at each row of a table: small ones, and those that have to be counted by what their rows hold
MAY_SCAN = {
    "Assistants.all_made_by_system": "assistants",  # once, at start
    "Assistants.count": "assistants",
    "Assistants.delete": "crons",
    "Assistants.of_tool": "assistants",
    "Assistants.search": "assistants",  # in the order of its rows, until the page is full
    "Crons.correct_dates": "crons",  # when the clock was put back
    "Crons.count": "crons",
    "Crons.has_assistant": "crons",
    "Crons.search": "crons",
    "Items.namespaces": "each",  # namespace
    "Runs.list, of all threads": "runs",  # in the order of its rows, until the page is full
    "Runs.list, of all threads by status": "runs",
    "Threads.count": "threads",
    "Threads.of_assistant": "threads",
    "Threads.search": "threads",
    "Webhooks.due": "webhooks",  # in the order of its numbers
}
# What may sort: live runs and their threads, threads that were named, a thread's checkpoints, an assistant's tasks
# (which have to be counted anyway), items below a prefix
MAY_SORT = {
    *(
        "Threads.search, by status",
        "Threads.search, some",
        "Runs.waiting_threads",
        "Runs.queue",
        "Runs.reached_in",
        "Items.search",
    ),
    *("Tasks.search", "Tasks.search, a thread's"),
}


def saver(conn: sqlite3.Connection) -> SqliteSaver:
    made = SqliteSaver(conn)
    made.is_setup = True
    return made


class Explained(sqlite3.Connection):
    """Notes the plan of each statement."""

    plans: list[str]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self.explain(sql, parameters)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, rows: Any, /) -> sqlite3.Cursor:
        rows = [tuple(row) for row in rows]
        for row in rows[:1]:
            self.explain(sql, row)
        return super().executemany(sql, rows)

    def cursor(self, factory: Any = None) -> Any:
        explain = self.explain

        class Cursor(sqlite3.Cursor):
            def execute(self, sql: str, parameters: Any = (), /) -> Any:
                explain(sql, parameters)
                return super().execute(sql, parameters)

        return super().cursor(Cursor)

    def explain(self, sql: str, parameters: Any) -> None:
        if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", sql):
            rows = super().execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
            self.plans += [row[3] for row in rows]


@pytest.fixture
def conn(monkeypatch: pytest.MonkeyPatch) -> Iterator[Explained]:
    """A connection as the server's writer has it, with a row in most tables."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Explained, **options))
    monkeypatch.setattr(Explained, "plans", [], raising=False)
    database = devserver.Db("plans.db")
    database._file = ":memory:"
    made = database._connect(True)
    assert isinstance(made, Explained)
    Assistants(made).insert(ASSISTANT)
    Threads(made).insert("t", {}, {}, None)
    Runs(made).insert(RUN)
    Crons(made).insert(CRON)
    made.plans.clear()
    yield made
    made.close()


def test_every_query_is_looked_at() -> None:
    methods = {
        f"{table.__name__}.{name}"
        for table in Table.__subclasses__()
        for name, method in inspect.getmembers(table, inspect.isfunction)
        if not name.startswith("_") and name in vars(table)
    }
    assert methods - set(CALLS) == set()


def test_placeholders_have_no_numbers() -> None:
    """A `?1` that gets its value from a sequence is a DeprecationWarning of the first Pythons 3.12."""
    assert re.findall(r"\?\d", inspect.getsource(devserver)) == []


@pytest.mark.parametrize("name", CALLS)
def test_an_index_finds_the_rows(conn: Explained, name: str) -> None:
    fresh = "insert" in name or name in ("Threads.copy", "SqliteSaver.put")
    if fresh:
        for table in ("assistants", "assistant_versions", "threads", "runs", "crons"):
            sqlite3.Connection.execute(conn, f"DELETE FROM {table}")
    for call in CALLS[name]:
        conn.execute("BEGIN")
        call(conn)
        if conn.in_transaction:
            conn.execute("ROLLBACK")
    assert conn.plans or "insert" in name or "put" in name
    for plan in conn.plans:
        scanned = re.fullmatch(r"SCAN ([a-z_]+)( VIRTUAL.*| USING .*INDEX.*)?", plan)
        if scanned and not scanned[2]:
            assert MAY_SCAN.get(name) == scanned[1], plan
        if "TEMP B-TREE FOR ORDER BY" in plan:
            assert name in MAY_SORT, conn.plans


# What has more to do where there is more
MAY_GROW = {
    *MAY_SCAN.keys()
    - {"Items.namespaces", "Assistants.search", "Crons.search", "Threads.search", "Runs.list, of all threads"},
    "Threads.copy",
    *("Crons.due", "Items.load", "Threads.delete"),  # it gives that much, or deletes it
    *("Tasks.search", "Tasks.search, a thread's"),  # an assistant's tasks have to be counted
    "Items.search",  # sorts what is below the prefix
    "Runs.delete",  # looks for the run's checkpoints among its thread's
    *("Runs.reached_in", "Runs.has_used_answer"),  # so do these, after a crash
}


def filled(size: int) -> sqlite3.Connection:
    """A database with so many rows of everything, most of them of one thread."""
    database = devserver.Db("plans.db")
    database._file = ":memory:"
    made = database._connect(True)
    for n in range(size):
        at, other = f"2026-01-01T00:00:00.{n:06}+00:00", f"t{n}" if n else "t"
        Assistants(made).insert(
            dataclasses.replace(ASSISTANT, assistant_id=f"a{n}" if n else "a", metadata={**LIMITS, "a": 1})
        )
        Threads(made).insert(other, {**LIMITS, "a": 1}, {}, {"ttl": 1e6 - n, "strategy": "delete"})
        Threads(made).set_state(other, ("idle", "interrupted", "error")[n % 3], {"b": 2}, {}, None)
        for thread in {"t", "t1", other}:
            run = dataclasses.replace(
                RUN, run_id=f"{thread}/{n}", thread_id=thread, created_at=at, updated_at=at, due=n, status="success"
            )
            Runs(made).insert(dataclasses.replace(run, task_id=run.run_id))
        if n < 20:
            Runs(made).insert(dataclasses.replace(RUN, run_id=f"live{n}", thread_id=other))
        Events(made).append("t", [Event((n, 0), "x", b"1" * 4000, run_id=f"t/{n}")], f"t/{n}")
        Crons(made).insert(dataclasses.replace(CRON, cron_id=f"c{n}" if n else "c", thread_id="t", metadata=LIMITS))
        Items(made).put("a.b", f"k{n}", b"{}")
        Items(made).put(f"c{n % 5}", f"k{n}", b"{}", ttl=1e6 - n)
        place: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": f"{n - 1}"}}
        saver(made).put(place, {**empty_checkpoint(), "id": f"{n:06}"}, {"run_id": "r" if n % 2 else "s"}, {})
    Runs(made).insert(dataclasses.replace(RUN, run_id="r", task_id="r"))
    return made


@pytest.fixture(scope="module")
def databases() -> Iterator[list[sqlite3.Connection]]:
    made = [filled(size) for size in (60, 600)]
    yield made
    for each in made:
        each.close()


def steps(conn: sqlite3.Connection, call: Call) -> int:
    """How many of SQLite's instructions a call takes, in tens."""
    counted = itertools.count()
    conn.execute("BEGIN")
    conn.set_progress_handler(lambda: next(counted) and None, 10)
    call(conn)
    conn.set_progress_handler(None, 10)
    if conn.in_transaction:
        conn.execute("ROLLBACK")
    return next(counted)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in MAY_GROW and "insert" not in name])
def test_the_work_does_not_grow_with_what_is_there(databases: list[sqlite3.Connection], name: str) -> None:
    for call in CALLS[name]:
        few, many = (steps(conn, call) for conn in databases)
        assert many < 2 * few + 20, (few, many)

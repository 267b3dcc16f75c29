"""Threads, runs and items against a model of them: any sequence of what the server does to its tables.

The tables are real, on an in-memory SQLite connection that devserver itself opened and migrated.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

import devserver
from devserver import Assistants, Items, Run, Runs, StartError, Threads

LIVE = ("pending", "running")
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b.c", "☃", "$.a"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner)
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "a.b"]), VALUES, max_size=3)
LABELS = st.lists(st.sampled_from(["a", "b", "ab", "a-", "a/"]), min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["", "k", "K", "a.b", "☃"])


def connect() -> sqlite3.Connection:
    """A connection as the server's writer has it, on a database of its own in memory."""
    database = devserver.Db("machine.db")
    database._file = ":memory:"
    return database._connect(True)


def contained(whole: Any, part: Any) -> bool:
    """The documented meaning of a metadata filter."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and contained(whole[k], v) for k, v in part.items())
    return orjson.dumps(whole) == orjson.dumps(part)


def found(page: Any) -> list[str]:
    return [thread.thread_id for thread in page.rows]


class Tables(RuleBasedStateMachine):
    """The model: dictionaries, in the order in which things were made."""

    threads: Bundle[str] = Bundle("threads")
    runs: Bundle[tuple[str, str]] = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.conn = connect()
        self.metadata: dict[str, dict[str, Any]] = {}  # of each thread
        self.state: dict[str, tuple[str, Any]] = {}  # of each thread: its status at rest, its values
        self.status: dict[str, dict[str, str]] = {}  # of each thread: its runs with their statuses
        self.items: dict[tuple[tuple[str, ...], str], dict[str, Any]] = {}

    def teardown(self) -> None:
        self.conn.close()

    # -- threads --

    @rule(target=threads, metadata=OBJECTS)
    def make_thread(self, metadata: dict[str, Any]) -> str:
        thread_id = devserver.new_id()
        Threads(self.conn).insert(thread_id, metadata, {}, None)
        self.metadata[thread_id], self.state[thread_id], self.status[thread_id] = metadata, ("idle", None), {}
        return thread_id

    @rule(thread_id=threads, metadata=OBJECTS)
    def patch_thread(self, thread_id: str, metadata: dict[str, Any]) -> None:
        Threads(self.conn).update(thread_id, metadata=metadata)
        self.metadata[thread_id] = metadata

    @rule(thread_id=threads, rest=st.sampled_from(["idle", "interrupted", "error"]), values=OBJECTS)
    def set_state(self, thread_id: str, rest: str, values: dict[str, Any]) -> None:
        Threads(self.conn).set_state(thread_id, rest, values, {}, None)
        self.state[thread_id] = (rest, values)

    @rule(target=threads, thread_id=threads)
    def copy_thread(self, thread_id: str) -> str:
        copy_id = devserver.new_id()
        Threads(self.conn).copy(thread_id, copy_id)
        self.metadata[copy_id], self.state[copy_id] = self.metadata[thread_id], self.state[thread_id]
        self.status[copy_id] = {}
        return copy_id

    @rule(thread_id=consumes(threads))
    def delete_thread(self, thread_id: str) -> None:
        assert Threads(self.conn).delete(thread_id)
        assert not Threads(self.conn).delete(thread_id)
        del self.metadata[thread_id], self.state[thread_id], self.status[thread_id]

    # -- runs --

    @rule(target=runs, thread_id=threads, cancelled=st.booleans())
    def make_run(self, thread_id: str, cancelled: bool) -> tuple[str, str]:
        run_id, at = devserver.new_id(), devserver.now()
        config = {"configurable": {"graph_id": "g"}, "metadata": {}}
        kwargs = {"config": config, "temporary": False, "resumable": False, "webhook": None}
        Runs(self.conn).insert(Run(run_id, thread_id, "a", at, at, None, "pending", {}, kwargs, "enqueue"))
        self.status[thread_id][run_id] = "pending"
        if cancelled:
            Runs(self.conn).set_status(run_id, "interrupted")
            self.status[thread_id][run_id] = "interrupted"
        return thread_id, run_id

    @rule(thread_id=threads)
    def claim(self, thread_id: str) -> None:
        """What a worker does: the oldest pending run of a thread on which none is running."""
        if "running" in self.status[thread_id].values():
            return
        claimed = Runs(self.conn).claim(thread_id)
        pending = [run_id for run_id, status in self.status[thread_id].items() if status == "pending"]
        if pending:
            assert isinstance(claimed, Run)
            assert (claimed.run_id, claimed.status) == (pending[0], "running")
            self.status[thread_id][pending[0]] = "running"
        else:
            assert claimed is None

    @rule(ids=runs, status=st.sampled_from(["success", "error", "interrupted"]))
    def end_run(self, ids: tuple[str, str], status: str) -> None:
        thread_id, run_id = ids
        if self.status.get(thread_id, {}).get(run_id) == "running":
            Runs(self.conn).set_status(run_id, status)
            self.status[thread_id][run_id] = status

    @rule(ids=consumes(runs))
    def delete_run(self, ids: tuple[str, str]) -> None:
        thread_id, run_id = ids
        run = Runs(self.conn).get(thread_id, run_id)
        assert (run is None) == (run_id not in self.status.get(thread_id, {}))
        if run is not None:
            Runs(self.conn).delete(run)
            del self.status[thread_id][run_id]

    @rule()
    def crash(self) -> None:
        """After a start, what was running is pending again, in the old order."""
        Runs(self.conn).release()
        for runs in self.status.values():
            runs.update({run_id: "pending" for run_id, status in runs.items() if status == "running"})

    # -- items --

    @rule(namespace=LABELS, key=KEYS, value=OBJECTS)
    def put_item(self, namespace: tuple[str, ...], key: str, value: dict[str, Any]) -> None:
        Items(self.conn).put(".".join(namespace), key, orjson.dumps(value))
        self.items[namespace, key] = value

    @rule(namespace=LABELS, key=KEYS)
    def delete_item(self, namespace: tuple[str, ...], key: str) -> None:
        Items(self.conn).delete(".".join(namespace), key)
        self.items.pop((namespace, key), None)

    @rule(namespace=LABELS, key=KEYS)
    def get_item(self, namespace: tuple[str, ...], key: str) -> None:
        row = Items(self.conn).get(namespace, key)
        assert (row and orjson.loads(row["value"])) == self.items.get((namespace, key))

    @rule(prefix=LABELS | st.just(()), limit=st.integers(1, 4), offset=st.integers(0, 3))
    def search_items(self, prefix: tuple[str, ...], limit: int, offset: int) -> None:
        rows = Items(self.conn).search(prefix, None, limit, offset)
        wanted = [place for place in self.items if place[0][: len(prefix)] == prefix]
        assert [(tuple(row["prefix"].split(".")), row["key"]) for row in rows] == wanted[offset : offset + limit]

    @rule(prefix=LABELS | st.just(()), value=SCALARS)
    def filter_items(self, prefix: tuple[str, ...], value: Any) -> None:
        rows = Items(self.conn).search(prefix, {"a": value}, 100, 0)
        wanted = [
            place for place, item in self.items.items() if place[0][: len(prefix)] == prefix and item.get("a") == value
        ]
        assert [(tuple(row["prefix"].split(".")), row["key"]) for row in rows] == wanted

    # -- what holds at any time --

    def wanted_status(self, thread_id: str) -> str:
        busy = any(status in LIVE for status in self.status[thread_id].values())
        return "busy" if busy else self.state[thread_id][0]

    @invariant()
    def threads_are_as_modelled(self) -> None:
        for thread_id, metadata in self.metadata.items():
            thread = Threads(self.conn).require(thread_id)
            assert (thread.status, thread.metadata) == (self.wanted_status(thread_id), metadata)
            assert thread.values == self.state[thread_id][1]

    @invariant()
    def runs_are_as_modelled(self) -> None:
        for thread_id, runs in self.status.items():
            listed = Runs(self.conn).list(thread_id, None, 100, 0)
            assert [(run.run_id, run.status) for run in listed] == list(runs.items())[::-1]
            live = [run_id for run_id, status in runs.items() if status in LIVE]
            assert [run.run_id for run in Runs(self.conn).live(thread_id)] == live
        waiting = {t for t, runs in self.status.items() if "pending" in runs.values()}
        assert set(Runs(self.conn).waiting_threads()) == waiting

    @invariant()
    def nothing_belongs_to_a_thread_that_is_gone(self) -> None:
        for table in ("runs", "run_writes", "events", "checkpoints", "writes"):
            owners = {row[0] for row in self.conn.execute(f"SELECT DISTINCT thread_id FROM {table}")}
            assert owners <= set(self.metadata)

    @invariant()
    def namespaces_are_those_of_the_items(self) -> None:
        assert set(Items(self.conn).namespaces()) == {namespace for namespace, _ in self.items}

    @precondition(lambda self: self.metadata)
    @rule(
        part=OBJECTS,
        status=st.sampled_from([None, "idle", "busy", "interrupted", "error"]),
        values=OBJECTS | st.just({}),
    )
    def search_threads(self, part: dict[str, Any], status: Any, values: dict[str, Any]) -> None:
        wanted = [
            thread_id
            for thread_id, metadata in self.metadata.items()
            if contained(metadata, part)
            and status in (None, self.wanted_status(thread_id))
            and (not values or contained(self.state[thread_id][1], values))
        ]
        body = devserver.ThreadSearchRequest(metadata=part, status=status, values=values, limit=1000)
        assert set(found(Threads(self.conn).search(body, None, {}))) == set(wanted)
        assert Threads(self.conn).count(body, {}) == len(wanted)
        by_age = body.model_copy(update={"sort_by": "created_at", "sort_order": "asc", "limit": 2, "offset": 1})
        page = Threads(self.conn).search(by_age, None, {})
        assert found(page) == wanted[1:3]
        assert page.more == (len(wanted) > 3)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, database=None)


def test_a_file_of_a_newer_server_is_left_alone() -> None:
    conn = connect()
    try:
        version = conn.execute("PRAGMA user_version").fetchone()[0]
        conn.execute(f"PRAGMA user_version = {version + 1}")
        with pytest.raises(StartError, match="newer devserver"):
            devserver.Db("x.db")._prepare(conn)
    finally:
        conn.close()


def test_a_second_migration_changes_nothing() -> None:
    conn = connect()
    try:
        schema = conn.execute("SELECT * FROM sqlite_master").fetchall()
        devserver.Db("x.db")._prepare(conn)
        assert conn.execute("SELECT * FROM sqlite_master").fetchall() == schema
        assert Assistants(conn).get("x") is None
    finally:
        conn.close()

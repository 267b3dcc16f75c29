"""README's recipe copies all checkpoints and items into a real PostgreSQL, and the graphs go on from there."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from postgres import environment, postgres
from test_docs import block
from way_up import fill, start

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform == "win32", reason="this needs PostgreSQL's programs")]

RECIPE = block("python", "PostgresSaver")
CHECK = """
import json, os, sqlite3, sys
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.store.postgres import PostgresStore
from langgraph.store.sqlite import SqliteStore
import travel

url = os.environ["DATABASE_URL"]
with PostgresSaver.from_conn_string(url) as saver, PostgresStore.from_conn_string(url) as store:
    with SqliteSaver.from_conn_string("copy.db") as old, SqliteStore.from_conn_string("copy.db") as old_store:
        tuples = list(old.list(None))
        for one in tuples:
            other = saver.get_tuple(one.config)
            for part in ("config", "checkpoint", "metadata", "parent_config"):
                assert getattr(one, part) == getattr(other, part), (part, one, other)
            key = lambda write: (write[0], write[1], repr(write[2]))
            assert sorted(one.pending_writes, key=key) == sorted(other.pending_writes, key=key), (one, other)
        items = old_store.search((), limit=1000)
        for item in items:
            assert store.get(item.namespace, item.key).value == item.value
    builder = lambda name: {"checkpointer": saver, "store": store}
    said = {}
    ids = json.loads(sys.argv[1])
    talk = travel.talk.copy(update={"checkpointer": saver})
    config = {"configurable": {"thread_id": ids["talk"]}}
    before = len(talk.get_state(config).values["messages"])
    said["talk"] = len(talk.invoke({"messages": [("user", "more")]}, config)["messages"]) - before
    from langgraph.types import Command
    asked = travel.asked.copy(update={"checkpointer": saver})
    config = {"configurable": {"thread_id": ids["asked"]}}
    said["asked"] = asked.invoke(Command(resume="Rome"), config)["stops"]
    print(json.dumps({"tuples": len(tuples), "writes": sum(len(each.pending_writes) for each in tuples),
                      "items": len(items), **said}))
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "venv"
    return environment(
        folder, "langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "psycopg[binary]"
    )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("cluster") / "pg") as url:
        yield url


def run(programs: Path, folder: Path, url: str, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DATABASE_URL": url, "LANGGRAPH_STRICT_MSGPACK": "false"}
    line = [str(programs / "python"), "-c", text, *arguments]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("travel")
    server = start(folder)
    try:
        ids = fill(server.url)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        line = [sys.executable, "-m", "devserver", "snapshot", "copy.db"]
        subprocess.run(line, cwd=folder, env=env, check=True, capture_output=True)
    finally:
        server.stop()
    return folder, ids


def test_every_checkpoint_and_item_is_the_same(
    programs: Path, database: str, filled: tuple[Path, dict[str, str]]
) -> None:
    import json

    folder, ids = filled
    done = run(programs, folder, database, RECIPE)
    assert done.returncode == 0, done.stderr
    again = run(programs, folder, database, RECIPE)  # it may be repeated
    assert again.returncode == 0, again.stderr
    done = run(programs, folder, database, CHECK, json.dumps(ids))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    with sqlite3.connect(folder / "copy.db") as conn:
        rows = [
            conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("checkpoints", "writes", "store")
        ]
    conn.close()
    assert [told["tuples"], told["writes"], told["items"]] == rows
    assert rows[0] > 40
    assert told["talk"] == 2
    assert told["asked"][-2:] == ["Rome", "home"]


@pytest.mark.parametrize("value", ["nul\0", float("nan")], ids=["NUL", "NaN"])
def test_what_jsonb_cannot_hold_is_named(
    programs: Path, database: str, filled: tuple[Path, dict[str, str]], tmp_path: Path, value: object
) -> None:
    make = f"""
import travel
from langgraph.checkpoint.sqlite import SqliteSaver
with SqliteSaver.from_conn_string("copy.db") as saver:
    saver.setup()
    nan = float("nan")
    graph = travel.trip.copy(update={{"checkpointer": saver}})
    graph.invoke({{"miles": {value!r}, "mood": ""}} if {value != value} else {{"mood": {value!r}}},
                 {{"configurable": {{"thread_id": "odd"}}}}, interrupt_before=["pack"])
"""
    shutil.copy(filled[0] / "travel.py", tmp_path)
    done = run(programs, tmp_path, database, make)
    assert done.returncode == 0, done.stderr
    done = run(programs, tmp_path, database, RECIPE)
    assert done.returncode == 1
    assert "unsupported Unicode escape sequence" in done.stderr or "invalid input syntax for type json" in done.stderr

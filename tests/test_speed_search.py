"""A search by the texts in threads' metadata reads an index, and finds what reading all threads finds."""

from __future__ import annotations

import contextlib
import itertools
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveServer

from devserver import MIGRATIONS, Db, JsonObject, Threads, ThreadSearchRequest, contains

TEXTS = ("", "a", "ü", 'say "a"', "a\\b", "a\x00b", "x" * 100, "x" * 101, "1", "😀", "%", "A")
OTHERS: tuple[Any, ...] = (1, 1.0, True, None, ["a"], {"a": "a"})
KEYS = ("owner", "kind", 'a"b', "a.b", "", "graph_id", "k\x00")
SERVED = {"steps": "./basic.py:steps"}


def any_metadata(draw: random.Random) -> JsonObject:
    count = draw.randrange(4)
    return {key: draw.choice(TEXTS if draw.random() < 0.8 else OTHERS) for key in draw.sample(KEYS, count)}


@pytest.mark.parametrize("few", [0, 2, 1000])
async def test_a_search_by_metadata_finds_what_reading_all_threads_finds(few: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(Threads, "FEW", few)
    draw, kept = random.Random(few), dict[str, JsonObject]()
    db = Db(":memory:")
    await db.open()
    try:
        for number in range(400):
            thread, metadata = f"thread-{number % 150}", any_metadata(draw)

            def change(
                conn: sqlite3.Connection, thread: str = thread, metadata: JsonObject = metadata, number: int = number
            ) -> None:
                threads = Threads(conn)
                if thread not in kept:
                    threads.insert(thread, metadata, {}, None)
                elif number % 7 == 0:
                    threads.delete(thread)
                else:
                    threads.update(thread, metadata=metadata)

            await db.write(change)
            if thread in kept and number % 7 == 0:
                del kept[thread]
            else:
                kept[thread] = metadata
        await db.write(lambda conn: Threads(conn).copy(next(iter(kept)), "copy"))
        kept["copy"] = kept[next(iter(kept))]
        pairs = itertools.product(KEYS, (*TEXTS, *OTHERS))
        for wanted in [*({key: value} for key, value in pairs), *(any_metadata(draw) for _ in range(200))]:
            body = ThreadSearchRequest(metadata=wanted, limit=1000)
            page = await db.read(lambda conn, body=body: Threads(conn).search(body, None, {}))
            expected = {name for name, metadata in kept.items() if contains(metadata, wanted)}
            assert {row.thread_id for row in page.rows} == expected, wanted
    finally:
        await db.close()


async def test_what_threads_have_in_common_is_found_page_by_page(tmp_path: Path) -> None:
    db = Db(str(tmp_path / "a.db"))
    await db.open()
    try:

        def fill(conn: sqlite3.Connection) -> None:
            for number in range(1500):
                Threads(conn).insert(f"{number:04}", {"all": "same", "own": f"{number}"}, {}, None)

        await db.write(fill)
        for metadata, found in (({"all": "same"}, 1500), ({"own": "7"}, 1), ({"all": "same", "own": "7"}, 1)):
            rows: list[str] = []
            for offset in range(0, 1501, 500):
                body = ThreadSearchRequest(metadata=metadata, limit=500, offset=offset, sort_order="asc")
                page = await db.read(lambda conn, body=body: Threads(conn).search(body, None, {}))
                rows += [row.thread_id for row in page.rows]
            assert (len(rows), rows) == (found, sorted(rows))
    finally:
        await db.close()


@pytest.mark.parametrize("asked", [{}, {"status": "idle"}, {"sort_by": "status"}])
async def test_a_search_by_a_rare_text_reads_only_its_threads(asked: Any) -> None:
    db = Db(":memory:")
    await db.open()
    try:

        def read(conn: sqlite3.Connection) -> tuple[int, list[str]]:
            calls = 0

            def passes(metadata: str, limits: str) -> bool:
                nonlocal calls
                calls += 1
                return True

            conn.create_function("passes", 2, passes)  # is called for each thread that is read
            body = ThreadSearchRequest(metadata={"own": "7"}, **asked)
            found = [row.thread_id for row in Threads(conn).search(body, None, {"a": 1}).rows]
            return calls, found

        def fill(conn: sqlite3.Connection) -> None:
            for number in range(200):
                Threads(conn).insert(f"{number}", {"own": f"{number}"}, {}, None)

        await db.write(fill)
        calls, found = await db.write(read)
        assert (found, calls <= 5) == (["7"], True)
    finally:
        await db.close()


def test_a_file_of_before_the_index_is_indexed(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(file)) as conn:
        conn.create_function("steady", 0, lambda: 1)
        for script in MIGRATIONS[:3]:
            conn.executescript(script)
        insert = (
            "INSERT INTO threads (thread_id, metadata, created_at, updated_at, state_updated_at, config, rest) "
            "VALUES (?, ?, '2026-01-01', '2026-01-01', '2026-01-01', '{}', 'idle')"
        )
        conn.execute(insert, ("t", '{"owner": "o", "n": 1, "tags": ["a"], "graph_id": "g"}'))
        conn.execute(insert, ("damaged", "{"))
        conn.executescript(MIGRATIONS[3])
        assert conn.execute("SELECT * FROM thread_texts").fetchall() == [("owner", "o", "t")]
        conn.execute('UPDATE threads SET metadata = \'{"owner": "p"}\'')
        assert conn.execute("SELECT * FROM thread_texts").fetchall() == [("owner", "p", "damaged"), ("owner", "p", "t")]
        conn.execute("UPDATE threads SET metadata = '{' WHERE thread_id = 't'")
        conn.execute("DELETE FROM threads")
        assert conn.execute("SELECT * FROM thread_texts").fetchall() == [("owner", "p", "t")]  # of what was damaged


def test_metadata_that_change_are_found_as_they_are(server: LiveServer) -> None:
    with server.http() as http:

        def found(**metadata: str) -> list[str]:
            return [row["thread_id"] for row in http.post("/threads/search", json={"metadata": metadata}).json()]

        thread = http.post("/threads", json={"metadata": {"whose": "a", "kind": "k"}}).json()["thread_id"]
        http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "steps", "input": {"text": "a"}})
        assert (found(whose="a"), found(whose="b")) == ([thread], [])
        http.patch(f"/threads/{thread}", json={"metadata": {"whose": "b"}}).raise_for_status()
        assert (found(whose="a"), found(whose="b", kind="k")) == ([], [thread])
        copied = http.post(f"/threads/{thread}/copy").json()["thread_id"]
        assert sorted(found(whose="b")) == sorted([thread, copied])
        assert http.post("/threads/count", json={"metadata": {"whose": "b"}}).json() == 2
        http.delete(f"/threads/{thread}")
        assert found(whose="b") == [copied]

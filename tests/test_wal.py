"""What was acknowledged is kept, also if the write-ahead log goes while the server runs; and disk space comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually, posix_only, wait_until

import devserver
from devserver import Db, Items, Threads, Unavailable

GRAPHS = {"g": "./g.py:graph", "opens": "./g.py:opens"}
FILES = {
    "g.py": """
    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        n: int

    def step(state):
        return {"n": state["n"] + 1}

    def open_file(state):
        open("devserver.db").close()  # which drops all locks that the process has on it
        return {"n": 0}

    graph = StateGraph(State).add_node(step).add_edge(START, "step").compile()
    opens = StateGraph(State).add_node(open_file).add_edge(START, "open_file").compile()
    """
}
OTHER_PROGRAM = "import sqlite3; c = sqlite3.connect('devserver.db'); c.execute('SELECT * FROM threads').fetchall()"


class Load:
    """Clients that write, read what they wrote, and note it once it was acknowledged."""

    def __init__(self, server: LiveServer) -> None:
        self.threads: list[tuple[str, int]] = []
        self.items: list[str] = []
        self.refused: list[str] = []
        self.ends: list[str] = []
        self.stale: list[str] = []
        self._url = server.url
        self._over = threading.Event()
        self._clients = [threading.Thread(target=self._write, args=(n,)) for n in range(3)]
        for client in self._clients:
            client.start()

    def _write(self, client: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as http:
            number = 0
            while not self._over.is_set():
                number += 1
                try:
                    self._one(http, f"{client}-{number}", number)
                except httpx.HTTPStatusError as error:
                    self.refused.append(error.response.text)
                except httpx.HTTPError as error:
                    self.ends.append(repr(error))
                    return

    def _one(self, http: httpx.Client, key: str, number: int) -> None:
        thread = http.post("/threads", json={}).raise_for_status().json()["thread_id"]
        body = {"assistant_id": "g", "input": {"n": number}}
        done = http.post(f"/threads/{thread}/runs/wait", json=body).raise_for_status().json()
        if done != {"n": number + 1}:
            self.refused.append(str(done))
            return
        self.threads.append((thread, number + 1))
        body = {"namespace": ["n"], "key": key, "value": {"k": key}}
        http.put("/store/items", json=body).raise_for_status()
        self.items.append(key)
        found = http.get("/store/items", params={"namespace": "n", "key": key}).raise_for_status().json()
        shown = http.get(f"/threads/{thread}").raise_for_status().json()
        if found["value"] != {"k": key} or shown["values"] != done:
            self.stale.append(key)

    def count(self) -> int:
        return len(self.items)

    def stop(self) -> None:
        self._over.set()
        for client in self._clients:
            client.join()

    def check(self, server: LiveServer) -> None:
        """All that was acknowledged is in the database."""
        with server.http() as http:
            for thread, number in self.threads:
                assert http.get(f"/threads/{thread}/state").json()["values"] == {"n": number}
            for key in self.items:
                assert http.get("/store/items", params={"namespace": "n", "key": key}).json()["value"] == {"k": key}


def delete(server: LiveServer) -> None:
    (server.folder / "devserver.db-wal").unlink()


def delete_both(server: LiveServer) -> None:
    delete(server)
    (server.folder / "devserver.db-shm").unlink()


def move_away(server: LiveServer) -> None:
    (server.folder / "devserver.db-wal").rename(server.folder / "away")


def replace(server: LiveServer) -> None:
    (server.folder / "new").touch()
    os.replace(server.folder / "new", server.folder / "devserver.db-wal")


def close_by_another_program(server: LiveServer) -> None:
    """SQLite in the other program would take itself for the last one, and take the log away."""
    with server.http() as http:
        http.post("/runs/wait", json={"assistant_id": "opens", "input": {"n": 1}}).raise_for_status()
    subprocess.run([sys.executable, "-c", OTHER_PROGRAM], cwd=server.folder, check=True)


@pytest.mark.parametrize("lose", [delete, delete_both, move_away, replace, close_by_another_program])
def test_nothing_acknowledged_is_lost_with_the_log(
    make_server: Callable[..., LiveServer], lose: Callable[[LiveServer], None]
) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    load = Load(server)
    wait_until(lambda: load.count() > 20)
    lose(server)
    before = load.count()
    wait_until(lambda: load.refused or load.ends or load.count() > before + 20)
    assert (load.refused, load.ends) == ([], []), server.log
    server.kill()
    load.stop()
    told = [line for line in server.log.splitlines() if "-wal was deleted or replaced" in line]
    server.start()
    load.check(server)
    prevented = sys.platform == "linux" and lose is close_by_another_program
    assert len(told) == (not prevented), told
    assert load.stale == []
    with contextlib.closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert server.stop() == 0


@pytest.mark.parametrize("lose", [delete, replace])
def test_a_server_that_rests_keeps_what_it_acknowledged(
    make_server: Callable[..., LiveServer], lose: Callable[[LiveServer], None]
) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    load = Load(server)
    wait_until(lambda: load.count() > 5)
    load.stop()
    lose(server)
    wait_until(lambda: "-wal was deleted or replaced" in server.log)
    server.kill()
    server.start()
    load.check(server)


def test_a_log_that_another_program_writes_to_is_refused(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    wal = server.folder / "devserver.db-wal"
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        wal.unlink()
        wal.write_bytes(b"x" * 5000)
        for _ in range(5):
            refused = http.post("/threads", json={})
            assert refused.status_code == 503, refused.text
            assert "Start the server again" in refused.text
        assert http.get("/ok").status_code == 200
        assert http.get(f"/threads/{thread}").status_code == 200
        assert len(http.post("/threads/search", json={}).json()) == 2  # the first was in vain, but not undone
        assert server.log.count("-wal was deleted or replaced") == 1
    assert server.stop() == 0
    with server.start().http() as http:
        assert http.get(f"/threads/{thread}").status_code == 200
        assert http.post("/threads", json={}).status_code == 200


# The database alone


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Db]:
    made = Db(str(tmp_path / "some.db"))
    await made.open()
    yield made
    await made.close()


def fill(conn: sqlite3.Connection) -> None:
    for number in range(2000):
        Items(conn).put("n", f"k{number}", b'"%s"' % (b"x" * 1000))


async def test_a_commit_costs_one_look_at_the_log(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    stat = os.stat

    def noted(path: str) -> os.stat_result:
        looked.append(path)
        return stat(path)

    monkeypatch.setattr(os, "stat", noted)
    for number in range(10):
        await db.write(lambda conn, number=number: Items(conn).put("n", f"k{number}", b"{}"))
    monkeypatch.undo()
    assert sum(path.endswith("-wal") for path in looked) in (10, 11)  # the one that looks each second
    assert len(looked) <= 22


async def test_the_log_is_cut_when_nothing_was_written_for_a_while(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Db, "QUIET_SECONDS", 2)
    wal = Path(f"{db._file}-wal")
    reading, done = threading.Event(), threading.Event()

    def read_long(conn: sqlite3.Connection) -> None:
        conn.execute("SELECT count(*) FROM store").fetchone()
        reading.set()
        assert done.wait(20)

    reader = asyncio.ensure_future(db.read(read_long))
    await eventually(reading.is_set)
    await db.write(fill)
    size = wal.stat().st_size
    assert size > 1_000_000
    await asyncio.sleep(3.5)
    assert wal.stat().st_size == size  # somebody reads
    begun = time.monotonic()
    await db.write(lambda conn: Items(conn).put("n", "one", b"{}"))
    assert time.monotonic() - begun < 3  # and nobody waits for that
    done.set()
    await reader
    await eventually(lambda: wal.stat().st_size == 0)
    assert await db.read(lambda conn: len(Items(conn).load("n"))) == 2001
    await db.write(lambda conn: Items(conn).put("n", "two", b"{}"))
    assert wal.stat().st_size > 0


@posix_only
async def test_a_full_disk_while_the_log_is_cut_leaves_the_patience(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    async def patience() -> int:
        row = await (await db._writer.execute("PRAGMA busy_timeout")).fetchone()
        return int(row[0]) if row else 0

    monkeypatch.setattr(Db, "QUIET_SECONDS", 1)
    tried: list[str] = []
    db._writer._conn.set_trace_callback(tried.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    await db.write(fill)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # as if the disk were full
    try:
        await eventually(lambda: any("wal_checkpoint" in statement for statement in tried))
        await asyncio.sleep(0.2)
        assert await patience() == 10_000
        assert os.path.getsize(f"{db._file}-wal") > 1_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    await eventually(lambda: os.path.getsize(f"{db._file}-wal") == 0)
    assert await patience() == 10_000


async def test_a_log_that_cannot_be_copied_is_a_503(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Db, "PATIENCE_SECONDS", 0.1)
    reading, done = threading.Event(), threading.Event()

    def read_long(conn: sqlite3.Connection) -> None:
        conn.execute("SELECT count(*) FROM store").fetchone()
        reading.set()
        assert done.wait(30)

    reader = asyncio.ensure_future(db.read(read_long))
    await eventually(reading.is_set)
    await db._writer.execute("PRAGMA busy_timeout = 100")
    await db.write(fill)
    os.unlink(f"{db._file}-wal")
    for _ in range(3):
        with pytest.raises(Unavailable, match="was deleted or replaced"):
            await db.write(lambda conn: Threads(conn).insert(devserver.new_id(), {}, {}, None))
    done.set()
    await reader
    await db.write(lambda conn: Threads(conn).insert(devserver.new_id(), {}, {}, None))
    assert await db.read(lambda conn: conn.execute("SELECT count(*) FROM threads").fetchone()[0]) <= 2


# devserver compact


def run_cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devserver", *arguments]
    root = str(Path(devserver.__file__).parent)
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": root}, check=False, capture_output=True, text=True
    )


def test_compact_gives_back_what_was_deleted(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    database = server.folder / "devserver.db"
    with server.http() as http:
        threads = [http.post("/threads", json={"metadata": {"text": "x" * 20_000}}).json() for _ in range(150)]
        ids = [thread["thread_id"] for thread in threads]
        http.post("/threads/prune", json={"thread_ids": ids[:140]}).raise_for_status()
        sorts: list[dict[str, Any]] = [{"sort_by": by} for by in ("created_at", "updated_at", "state_updated_at")]
        found = [http.post("/threads/search", json=body).json() for body in sorts]
        refused = run_cli(server.folder, "compact")
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1
        assert "in use by another devserver" in refused.stderr
    assert server.stop() == 0
    size = database.stat().st_size
    assert size > 2_000_000
    done = run_cli(server.folder, "compact")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert database.stat().st_size < size / 4
    assert f"{database.stat().st_size:,} bytes" in done.stdout
    assert not Path(f"{database}-wal").exists()
    with server.start().http() as http:
        assert [http.post("/threads/search", json=body).json() for body in sorts] == found
        assert [thread["thread_id"] for thread in found[0]] == ids[:139:-1]
    missing = run_cli(server.folder, "compact", "--db", "none.db")
    assert missing.returncode == 1
    assert "there is no database none.db" in missing.stderr


# A hand-made column, in each table


def test_columns_that_somebody_added_are_passed_over(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(GRAPHS, FILES, "--no-reload")
    server.stop()
    with contextlib.closing(sqlite3.connect(server.folder / "devserver.db", isolation_level=None)) as conn:
        tables = [row[0] for row in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if not table.startswith("sqlite_"):
                conn.execute(f"ALTER TABLE {table} ADD COLUMN own TEXT DEFAULT 'mine'")
                conn.execute(f"ALTER TABLE {table} ADD COLUMN other INTEGER")
    with server.start().http() as http:

        def ask(method: str, path: str, body: Any = None) -> Any:
            answer = http.request(method, path, json=body).raise_for_status()
            return answer.json() if answer.content else None

        assistant = ask("POST", "/assistants", {"graph_id": "g"})["assistant_id"]
        ask("PATCH", f"/assistants/{assistant}", {"name": "b"})
        assert len(ask("POST", f"/assistants/{assistant}/versions", {})) == 2
        ask("POST", f"/assistants/{assistant}/latest", {"version": 1})
        assert "own" not in ask("POST", "/assistants/search", {})[0]
        thread = ask("POST", "/threads", {"ttl": {"ttl": 5}})["thread_id"]
        given = {"assistant_id": assistant, "input": {"n": 1}, "stream_resumable": True}
        assert ask("POST", f"/threads/{thread}/runs/wait", given) == {"n": 2}
        ask("POST", f"/threads/{thread}/state", {"values": {"n": 5}})
        copy = ask("POST", f"/threads/{thread}/copy")["thread_id"]
        assert ask("GET", f"/threads/{copy}/state")["values"] == {"n": 5}
        [run] = ask("GET", f"/threads/{thread}/runs")
        assert "own" not in run
        assert (
            "event: values"
            in http.get(f"/threads/{thread}/runs/{run['run_id']}/stream", headers={"last-event-id": "-1"}).text
        )
        cron = ask("POST", f"/threads/{thread}/runs/crons", {**given, "schedule": "0 0 1 1 *"})
        assert "own" not in ask("POST", "/runs/crons/search", {})[0]
        ask("PATCH", f"/runs/crons/{cron['cron_id']}", {"enabled": False})
        ask("PUT", "/store/items", {"namespace": ["a"], "key": "k", "value": {"v": 1}, "ttl": 5})
        assert ask("POST", "/store/items/search", {"namespace_prefix": ["a"]})["items"][0]["value"] == {"v": 1}
        message = {"role": "user", "parts": [{"kind": "data", "data": {"n": 1}}], "messageId": "m"}
        call = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {"message": message}}
        task = ask("POST", f"/a2a/{assistant}", call)["result"]
        asked = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"id": task["id"]}}
        assert ask("POST", f"/a2a/{assistant}", asked)["result"]["id"] == task["id"]
        ask("DELETE", f"/threads/{thread}/runs/{run['run_id']}")
        ask("DELETE", f"/threads/{thread}")
    assert server.stop() == 0
    assert "Traceback" not in server.log

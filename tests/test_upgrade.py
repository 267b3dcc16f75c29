"""Databases of earlier schemas open and work. Each is kept as tests/data/schema-N.sql, with content of every kind.

`python tests/test_upgrade.py` writes the one of the present schema. Once a version that has it was released, the file
stays as it is, and a change of the schema gets the next number.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, write_project

import devserver

DATA = Path(__file__).resolve().parent / "data"
SERVED = {
    "steps": "./basic.py:steps",
    "question": "./basic.py:question",
    "gated": "./basic.py:gated",
    "shares": "./crash.py:nested",
}
FILES = {name: (GRAPHS / name).read_text() for name in ("basic.py", "crash.py")}
USER = {"configurable": {"user_id": "u@example.org"}}


def wait(http: httpx.Client, thread: str, graph: str, given: Any, **more: Any) -> Any:
    sent = {"assistant_id": graph, "input": given, **more}
    return http.post(f"/threads/{thread}/runs/wait", json=sent).raise_for_status().json()


def new_thread(http: httpx.Client, name: str) -> str:
    return str(http.post("/threads", json={"metadata": {"name": name}}).raise_for_status().json()["thread_id"])


def fill(http: httpx.Client) -> dict[str, str]:
    """Make content of every kind; gives the ids that the test needs."""
    done, asks, shares, waits = (new_thread(http, name) for name in ("done", "asks", "shares", "waits"))
    wait(http, done, "steps", {"text": "a"}, stream_resumable=True, stream_mode=["values", "updates"])
    wait(http, done, "steps", {"text": "b"})
    wait(http, asks, "question", {"topic": "tea"})
    wait(http, shares, "shares", {"owner": "o", "tag": "t", "trail": []}, config=USER)
    http.post(f"/threads/{waits}/runs", json={"assistant_id": "gated", "input": {"gate": "gate"}}).raise_for_status()
    assistant = {"graph_id": "steps", "name": "mine", "metadata": {"n": 1}, "context": {"a": 1}}
    mine = http.post("/assistants", json=assistant).raise_for_status().json()["assistant_id"]
    http.patch(f"/assistants/{mine}", json={"name": "still mine"}).raise_for_status()
    item = {"namespace": ["notes", "u"], "key": "k", "value": {"text": "kept"}}
    http.put("/store/items", json=item).raise_for_status()
    cron = {"assistant_id": "steps", "input": {"text": "c"}, "schedule": "0 0 1 1 *"}
    http.post(f"/threads/{done}/runs/crons", json=cron).raise_for_status()
    first = http.get(f"/threads/{done}/runs").json()[-1]["run_id"]
    return {"done": done, "asks": asks, "shares": shares, "waits": waits, "mine": mine, "first": first}


def make_dump() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder), SERVED, FILES)
        server = LiveServer(Path(folder), ["--no-reload"]).start()
        with server.http() as http:
            ids = fill(http)
        server.kill()
        with contextlib.closing(sqlite3.connect(Path(folder) / "devserver.db")) as conn:
            lines = [f"-- {json.dumps(ids)}", *conn.iterdump(), f"PRAGMA user_version = {len(devserver.MIGRATIONS)};"]
    file = DATA / f"schema-{len(devserver.MIGRATIONS)}.sql"
    file.write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{file}: {file.stat().st_size} bytes\n")


def test_the_present_schema_has_a_dump() -> None:
    assert (DATA / f"schema-{len(devserver.MIGRATIONS)}.sql").exists()


@pytest.mark.parametrize("file", sorted(DATA.glob("schema-*.sql")), ids=lambda file: file.stem)
def test_a_database_of_an_earlier_schema_opens_and_works(make_server: Callable[..., LiveServer], file: Path) -> None:
    server = make_server(SERVED, FILES, "--no-reload")
    assert server.stop() == 0
    database = server.folder / "devserver.db"
    database.unlink()
    script = file.read_text()
    ids = json.loads(script.partition("\n")[0].removeprefix("-- "))
    with contextlib.closing(sqlite3.connect(database)) as conn:
        conn.executescript(script)
    (server.folder / "gate").touch()
    with server.start().http() as http:
        check_content(http, ids)
    assert server.stop() == 0
    assert "Traceback" not in server.log
    with contextlib.closing(sqlite3.connect(database)) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (len(devserver.MIGRATIONS),)
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert schema(conn) == present_schema()


def check_content(http: httpx.Client, ids: dict[str, str]) -> None:
    """What was there is there, and goes on."""
    found = http.post("/threads/search", json={"metadata": {"name": "done"}, "values": {"text": "b!"}}).json()
    assert [thread["thread_id"] for thread in found] == [ids["done"]]
    assert len(http.get(f"/threads/{ids['done']}/history", params={"limit": 100}).json()) == 10
    assert wait(http, ids["done"], "steps", {"text": "c"})["total"] == 333
    asked = http.get(f"/threads/{ids['asks']}").json()
    assert (asked["status"], len(asked["interrupts"])) == ("interrupted", 1)
    assert wait(http, ids["asks"], "question", None, command={"resume": "yes"})["trail"] == [
        "draft",
        "review",
        "publish",
    ]
    [pending] = http.get(f"/threads/{ids['waits']}/runs").json()
    finished = http.get(f"/threads/{ids['waits']}/runs/{pending['run_id']}/join").json()
    assert finished["trail"] == ["before", "waited", "after"]
    shared = wait(http, ids["shares"], "shares", {"owner": "o", "tag": "u"}, config=USER)
    assert len(shared["trail"]) == 4
    counter = {"namespace": "scoped.user_id.info.u@example%2Eorg", "key": "count/o"}
    assert http.get("/store/items", params=counter).json()["value"] == {"n": 8}
    assert http.get("/store/items", params={"namespace": "notes.u", "key": "k"}).json()["value"] == {"text": "kept"}
    versions = http.post(f"/assistants/{ids['mine']}/versions", json={}).json()
    assert [version["name"] for version in versions] == ["still mine", "mine"]
    [cron] = http.post("/runs/crons/search", json={"thread_id": ids["done"]}).json()
    assert (cron["schedule"], cron["enabled"]) == ("0 0 1 1 *", True)
    path = f"/threads/{ids['done']}/runs/{ids['first']}/stream"
    events = http.get(path, headers={"last-event-id": "-1"}).text
    assert [events.count(f"event: {name}\r\n") for name in ("metadata", "values", "updates")] == [1, 4, 3]
    done = f'"status":"run_done","run_id":"{ids["first"]}"'
    with http.stream("GET", f"/threads/{ids['done']}/stream", headers={"last-event-id": "-"}) as answer:
        assert done in next(line for line in answer.iter_lines() if '"run_done"' in line or line.startswith(":"))


def schema(conn: sqlite3.Connection) -> set[tuple[str, str]]:
    rows = conn.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {(name, " ".join(sql.split())) for name, sql in rows}


def present_schema() -> set[tuple[str, str]]:
    database = devserver.Db("present.db")
    database._file = ":memory:"
    with contextlib.closing(database._connect(True)) as conn:
        return schema(conn)


if __name__ == "__main__":
    make_dump()

"""`devserver exec`, `snapshot` and `diff`, and what `up` has for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from conftest import ROOT, LiveServer, posix_only, write_project
from kit_project import run_pytest, write_files
from test_kit_models import GRAPH, PROVIDER

import devserver

COUNT = """
from langgraph.graph import START, StateGraph
from typing import TypedDict
import httpx
class State(TypedDict):
    text: str
def node(state):
    if state["text"] == "out":
        httpx.get("http://192.0.2.1/")
    return {"text": state["text"] * 2}
graph = StateGraph(State).add_node(node).add_edge(START, "node").compile()
"""
GRAPHS = {"count": "./count.py:graph"}
ASK = """
import os, sys
from langgraph_sdk import get_sync_client
client = get_sync_client(url=os.environ["LANGGRAPH_API_URL"])
print(client.runs.wait(None, sys.argv[1], input={"text": sys.argv[2], "out": []}))
"""


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "CI"} | {"PYTHONPATH": str(ROOT)} | env
    command = [sys.executable, "-m", "devserver", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_project(tmp_path, GRAPHS, {"count.py": COUNT, "ask.py": ASK})
    return tmp_path


def test_exec_runs_a_command_beside_a_server(project: Path) -> None:
    done = run(project, "exec", "--", sys.executable, "ask.py", "count", "ab")
    assert (done.stdout, done.returncode) == ("{'text': 'abab'}\n", 0), done.stderr
    assert not (project / "devserver.db").exists()
    assert run(project, "exec", "--", sys.executable, "-c", "exit(7)").returncode == 7
    assert run(project, "exec", "--db", "kept.db", "--", sys.executable, "ask.py", "count", "a").returncode == 0
    assert (project / "kept.db").exists()


def test_exec_may_be_offline(project: Path) -> None:
    done = run(project, "exec", "--offline", "--", sys.executable, "ask.py", "count", "out")
    assert "192.0.2.1:80 was called at" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--", "no-such-command"], "no-such-command cannot be run"),
        (["--config", "none.json", "--", "true"], "none.json not found"),
        (["--replay", "none.jsonl", "--", "true"], "there is no recording none.jsonl"),
        (["--seed", "none.db", "--", "true"], "there is no database none.db"),
        (["--record", "a", "--replay", "b", "--", "true"], "--record is refused with --replay"),
        ([], "Missing argument"),
    ],
)
def test_exec_tells_what_is_wrong(project: Path, arguments: list[str], problem: str) -> None:
    done = run(project, "exec", *arguments)
    assert done.returncode != 0
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@posix_only
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 3), ("SIGINT", 3), ("SIGHUP", 129)])
def test_exec_passes_signals_on(project: Path, name: str, status: int) -> None:
    """And tells as a shell does of a command that a signal ended."""
    if signal.getsignal(signal.Signals[name]) is signal.SIG_IGN:  # by nohup, for what it starts, too
        pytest.skip(f"{name} is ignored here")
    wait = "import signal, sys, time\n"
    wait += "for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, lambda *_: sys.exit(3))\n"
    wait += "open('here', 'w').close(); time.sleep(30)"
    command = [sys.executable, "-m", "devserver", "exec", "--", sys.executable, "-c", wait]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=project, env=env, stdin=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not (project / "here").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.Signals[name])
        assert process.wait(20) == status


def test_a_recording_of_a_whole_server(tmp_path: Path) -> None:
    """Each entry may be used again and again; without a key and with the provider gone."""
    files = {"graph.py": GRAPH, "provider.py": PROVIDER, "ask.py": ASK}
    write_project(tmp_path, {"all": "./graph.py:all", "swallows": "./graph.py:swallows"}, files)
    ask = ["--", sys.executable, "ask.py", "all", "hi"]
    recorded = run(tmp_path, "exec", "--record", "it.jsonl", *ask, ACME_API_KEY="x")
    assert "answer 1 to hi" in recorded.stdout, recorded.stderr
    assert len((tmp_path / "it.jsonl").read_text().splitlines()) == 4
    twice = f"import subprocess, sys\nfor _ in 1, 2: subprocess.run({ask[1:]!r}, check=True)"
    replayed = run(tmp_path, "exec", "--offline", "--replay", "it.jsonl", "--", sys.executable, "-c", twice)
    assert replayed.stdout == recorded.stdout * 2, replayed.stderr
    missed = run(tmp_path, "exec", "--replay", "it.jsonl", "--", sys.executable, "ask.py", "swallows", "hi")
    assert "node swallow asked ChatAcme acme-1 for what it.jsonl does not have" in missed.stderr
    refused = run(tmp_path, "exec", "--record", "it.jsonl", *ask, CI="1")
    assert "--record is refused where CI is set" in refused.stderr


def test_snapshots_of_a_live_server_seed_others(make_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    server = make_server(GRAPHS, {"count.py": COUNT}, "--no-reload")
    with server.sync_client() as client:
        thread = client.threads.create()["thread_id"]
        client.runs.wait(thread, "count", input={"text": "a"})
        client.store.put_item(["notes"], "one", {"text": "old"})
    seed, database = tmp_path / "seed.db", str(server.folder / "devserver.db")
    done = run(server.folder, "snapshot", str(seed))
    assert done.returncode == 0, done.stderr
    before = (seed.read_bytes(), sorted(each.name for each in tmp_path.iterdir()))
    again = run(server.folder, "snapshot", str(seed))
    assert "seed.db is there already" in again.stderr
    server.options += ["--seed", str(seed)]
    server.stop()
    with pytest.raises(AssertionError, match=r"devserver\.db is there already"):
        server.start()
    server.options += ["--db", "other.db"]
    server.start()
    with server.sync_client() as client:
        assert client.threads.get(thread)["values"] == {"text": "aa"}
        client.store.put_item(["notes"], "one", {"text": "new"})
        client.store.put_item(["notes"], "two", {})
        made = client.threads.create(metadata={"a": 1})["thread_id"]
    assert (seed.read_bytes(), sorted(each.name for each in tmp_path.iterdir())) == before
    same = run(server.folder, "diff", str(seed), database)
    assert (same.stdout, same.returncode) == ("", 0), same.stderr
    changed = run(server.folder, "diff", str(seed), "other.db")
    assert changed.returncode == 1
    assert changed.stdout.splitlines() == [
        f'+ thread {made}  {{"status": "idle", "values": null, "interrupts": null, "error": null, '
        '"metadata": {"a": 1}}',
        "~ item notes one  text: old -> new",
        "+ item notes two  {}",
    ]
    told = json.loads(run(server.folder, "diff", "--json", str(seed), "other.db").stdout)
    assert [(each["sign"], each["kind"], each["after"]) for each in told][1] == ("~", "item", {"text": "new"})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"no database" * 100, "file is not a database"),
        (b"", "is no database of devserver's"),
        (None, "there is no database"),
    ],
)
def test_what_is_no_database(tmp_path: Path, data: bytes | None, problem: str) -> None:
    if data is not None:
        (tmp_path / "a.db").write_bytes(data)
    path = str(tmp_path / "a.db")
    invoke: Any = CliRunner().invoke
    for arguments, status in ((["diff", path, path], 2), (["snapshot", str(tmp_path / "b"), "--db", path], 1)):
        result = invoke(devserver.main, arguments)
        assert (result.exit_code, problem in result.output) == (status, True), result.output
    assert [each.name for each in tmp_path.iterdir()] == ([] if data is None else ["a.db"])


def test_a_seed_of_a_newer_devserver(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "new.db")) as conn:
        conn.execute("PRAGMA user_version = 99")
    result = CliRunner().invoke(devserver.main, ["snapshot", str(tmp_path / "b"), "--db", str(tmp_path / "new.db")])
    assert "is of a newer devserver" in result.output


def test_the_clock_over_http(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(GRAPHS, {"count.py": COUNT}, "--test-clock")
    with server.sync_client() as client, server.http() as http:
        client.crons.create("count", schedule="0 0 1 1 *", input={"text": "a"}, on_run_completed="keep")
        for _ in range(2):
            assert http.post("/devserver/clock", json={"next": True}).json()["now"][5:16] == "01-01T00:00"
        assert client.threads.count() == 2
        at = http.post("/devserver/clock", json={"advance": 3600}).json()["now"]
        assert at[5:13] == "01-01T01"
        back = http.post("/devserver/clock", json={"to": "2020-01-01"})
        assert (back.status_code, "cannot go back" in back.text) == (422, True)
    plain = make_server(GRAPHS, {"count.py": COUNT})
    assert httpx.post(f"{plain.url}/devserver/clock", json={}).status_code == 404


SEEDED = """
def test_one(devserver):
    assert devserver.sync_client.store.get_item(["a"], "b")["value"] == {"n": 1}
    devserver.sync_client.store.put_item(["a"], "b", {"n": 2})
    assert len(devserver.sync_client.assistants.search()) == 1

test_other = test_one
"""


def test_each_test_begins_with_the_seed(project: Path) -> None:
    server = LiveServer(project).start()
    with server.sync_client() as client:
        client.store.put_item(["a"], "b", {"n": 1})
    server.stop()
    (project / "devserver.db").rename(project / "seed.db")
    before = (project / "seed.db").read_bytes()
    write_files(project, {"test_it.py": SEEDED, "pytest.ini": "[pytest]\ndevserver_seed = seed.db\n"})
    result = run_pytest(project)
    assert result.tests == {"test_one": "passed", "test_other": "passed"}, result.output
    assert (project / "seed.db").read_bytes() == before

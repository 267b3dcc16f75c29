"""Both lines of the JavaScript SDK, 1.15 and 2.0, against real servers. npm puts them into tests/js/node_modules."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import GRAPHS, LiveServer, write_project
from walkthrough import RESTARTS, Event, example_server, walk_through

JS = Path(__file__).parent / "js"
SDKS = ["sdk115", "sdk200"]
OWN = ["steps", "approval", "ticker", "broken", "chat", "nested"]
TALK = ["tooled", "counted", "team", "choir"]

pytestmark = pytest.mark.skipif(not (shutil.which("npm") and shutil.which("node")), reason="npm is absent")


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", *arguments], cwd=JS, capture_output=True, text=True, timeout=120)


def install() -> None:
    """Put the SDKs there, unless they are since package.json was last changed. One process installs them for all."""
    done = JS / "node_modules" / ".package-lock.json"
    lock = sqlite3.connect(Path(tempfile.gettempdir(), "devserver-npm.lock"), timeout=600)  # on any system
    with contextlib.closing(lock):
        lock.execute("BEGIN EXCLUSIVE")
        if done.exists() and done.stat().st_mtime > (JS / "package.json").stat().st_mtime:
            return
        if os.environ.get("DEVSERVER_OFFLINE"):
            pytest.skip("DEVSERVER_OFFLINE is set")
        options = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        npm = str(shutil.which("npm"))  # on Windows it is npm.cmd, which is found by its whole name only
        result = subprocess.run([npm, "install", *options], cwd=JS, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr
        os.utime(done)


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    install()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("js")
    graphs = {name: f"./js_graphs.py:{name}" for name in OWN} | {name: f"./talk.py:{name}" for name in TALK}
    shared = {name: (GRAPHS / name).read_text() for name in ("basic.py", "talk.py")}
    write_project(folder, graphs, {"js_graphs.py": (JS / "graphs.py").read_text(), **shared})
    server = LiveServer(folder, ["--no-reload"]).start()
    yield server
    assert server.stop() == 0, server.log


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("area", ["assistants", "threads", "runs", "streams", "store", "crons"])
def test_api(live: LiveServer, sdk: str, area: str) -> None:
    done = node("run.mjs", sdk, live.url, f"{area}.mjs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok  " in done.stdout


def test_thread_streams(live: LiveServer) -> None:
    done = node("run.mjs", "sdk115", live.url, "protocol.mjs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == 24


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("restart_before", [RESTARTS["never"], RESTARTS["always"]], ids=["never", "always"])
def test_walk_through(tmp_path: Path, sdk: str, restart_before: set[int]) -> None:
    with example_server(tmp_path) as server:

        def say(thread: str | None, user: str, text: str) -> tuple[str, list[Event]]:
            done = node("say.mjs", sdk, server.url, user, text, *([thread] if thread else []))
            assert done.returncode == 0, done.stderr
            first, *events = [json.loads(line) for line in done.stdout.splitlines()]
            return first, [(name, data) for name, data in events]

        walk_through(server, say, restart_before)


@pytest.mark.parametrize("sdk", SDKS)
def test_a_stream_is_rejoined_after_a_crash(tmp_path: Path, sdk: str) -> None:
    """kill -9 in the middle of a resumable run: the run goes on, and its stream from the last event seen."""
    write_project(tmp_path, {"ticker": "./js_graphs.py:ticker"}, {"js_graphs.py": (JS / "graphs.py").read_text()})
    server = LiveServer(tmp_path, ["--no-reload"]).start()
    try:
        before = node("tick.mjs", sdk, server.url)
        assert before.returncode == 0, before.stderr
        server.kill()
        server.start()
        after = node("tick.mjs", sdk, server.url, before.stdout)
        assert after.returncode == 0, after.stderr
        told = json.loads(after.stdout)
        assert told["status"] == "success"
        assert told["ticks"][-1] == 19
        assert told["values"]["trail"] == ["ticked"]
        assert not set(told["ids"]) & set(json.loads(before.stdout)["ids"])
    finally:
        server.kill()

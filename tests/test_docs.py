"""README and CHANGELOG are true: every block of code in README is run as it is written there.

They find the server by LANGGRAPH_API_URL, as port 2024 may be taken. Those that install packages need a network.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from conftest import ROOT, LiveServer, write_project
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from walkthrough import STEPS, Event, check_step, example_server

import devserver

README = (ROOT / "README.md").read_text()
BLOCKS = [(found[1], found[2]) for found in re.finditer(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)]
NETWORK = pytest.mark.skipif(bool(os.environ.get("DEVSERVER_OFFLINE")), reason="DEVSERVER_OFFLINE is set")


def block(language: str, mark: str) -> str:
    """The one block in this language that holds this text."""
    (found,) = [text for name, text in BLOCKS if name == language and mark in text]
    return found


POSIX_LINES, WINDOWS_LINES = block("bash", "devserver up"), block("powershell", "devserver up")
RUN, TEST = (WINDOWS_LINES if sys.platform == "win32" else POSIX_LINES).splitlines()
SHELL = ["powershell", "-Command"] if sys.platform == "win32" else ["bash", "-c"]
PYTHON = block("python", "get_sync_client")
JS = block("js", "import { Client }")
NPM = block("bash", "npm install")
CURL = block("bash", "curl")
SHARED = block("python", "SharedValue")
TESTING = block("python", "devserver_model")  # test_kit_example.py runs it
PUSH = block("bash", "devserver push")
RECIPE = block("python", "PostgresSaver")  # test_postgres_recipe.py runs it


@pytest.fixture
def example(tmp_path: Path) -> Iterator[LiveServer]:
    folder = tmp_path / "example"
    folder.mkdir()
    with example_server(folder, "--no-reload") as server:
        yield server


def output(server: LiveServer, *command: str, cwd: Path, **more: str) -> str:
    """What a command prints that is told where the server is as the banner says it."""
    banner = r'^  Clients +(?:export |\$env:)(\w+) ?= ?"?(http[^\s"]+)'  # as shells of POSIX and PowerShell take it
    ((name, url),) = re.findall(banner, server.log, re.M)
    env = {**os.environ, name: url, **more}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_walk_through(events: list[Event]) -> None:
    """Four streams one after the other, each beginning with `metadata`."""
    starts = [index for index, (name, _) in enumerate(events) if name == "metadata"]
    assert len(starts) == len(STEPS)
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], None], strict=True), 1):
        check_step(number, events[start:end])


def printed_events(text: str) -> list[Event]:
    return [(name, json.loads(data)) for name, _, data in (line.partition(" ") for line in text.splitlines())]


@pytest.mark.parametrize("text", [PYTHON, JS, CURL], ids=["python", "js", "curl"])
def test_every_walk_through_finds_the_server_by_one_variable(text: str) -> None:
    (line,) = [line for line in text.splitlines() if "2024" in line]
    assert "LANGGRAPH_API_URL" in line, "so that it works where 2024 is taken"


def test_every_block_is_run_by_a_test() -> None:
    first = [POSIX_LINES, WINDOWS_LINES, PYTHON, JS, NPM, CURL, SHARED, TESTING]
    assert [text for _, text in BLOCKS] == [*first, PUSH, RECIPE]


async def test_the_line_that_pushes_reaches_for_its_target(tmp_path: Path) -> None:
    """It names a server that is not there."""
    database = devserver.Db(str(tmp_path / "devserver.db"))
    await database.open()
    await database.close()
    shutil.copy(ROOT / "langgraph.json", tmp_path)
    shutil.copytree(ROOT / "graphs", tmp_path / "graphs")
    here = PUSH.replace("https://agents.example.com", "http://127.0.0.1:9").split()
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", *here], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "http://127.0.0.1:9" in done.stdout + done.stderr


def test_the_lines_for_windows_do_the_same() -> None:
    """PowerShell of Windows knows no `&&`, and its Python is `python`."""
    same = POSIX_LINES.replace("python3", "python").replace(" && ", "; ").replace(".venv/bin/", ".venv\\Scripts\\")
    assert same == WINDOWS_LINES


def test_the_workflow_runs_the_lines_of_the_readme() -> None:
    """For each system that README names; it was never seen to run, so that at least its form is checked."""
    (job,) = workflow("jobs").values()
    assert set(job["strategy"]["matrix"]["os"]) == {"ubuntu-latest", "windows-latest", "macos-latest"}
    steps = [step for step in job["steps"] if "run" in step]
    for lines, condition in ((POSIX_LINES, "runner.os != 'Windows'"), (WINDOWS_LINES, "runner.os == 'Windows'")):
        run = "\n".join(step["run"] for step in steps if step["if"] == condition)
        assert [line for line in lines.splitlines() if line not in run] == []


def workflow(part: str) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())[part]


def test_readme_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) < 270
    assert [line for line in lines if len(line) > 120] == []


def test_python_walk_through(example: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "walk.py").write_text(PYTHON)
    check_walk_through(printed_events(output(example, sys.executable, "walk.py", cwd=tmp_path)))


@pytest.mark.long
@NETWORK
@pytest.mark.skipif(not shutil.which("npm"), reason="npm is absent")
@pytest.mark.parametrize("version", ["1.15", "2.0"])
def test_js_walk_through(example: LiveServer, tmp_path: Path, version: str) -> None:
    folder = tmp_path / "js"
    folder.mkdir()
    (folder / "walk.mjs").write_text(JS)
    install = NPM.replace("langgraph-sdk", f"langgraph-sdk@{version}")
    text = output(example, "bash", "-c", install, cwd=folder, NPM_CONFIG_LOGLEVEL="silent")
    check_walk_through(printed_events("\n".join(re.findall(r"^(?:metadata|values) .*", text, re.M))))


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is absent")
def test_curl_walk_through(example: LiveServer, tmp_path: Path) -> None:
    text = output(example, "bash", "-c", CURL, cwd=tmp_path)
    found = re.findall(r"^event: (.+)\ndata: (.+)$", text.replace("\r", ""), re.M)
    check_walk_through([(name, json.loads(data)) for name, data in found])


def test_shared_values(tmp_path: Path) -> None:
    (settings,) = re.findall(r"`(\{\"graphs\": \{\"notes\".*)`", README)
    (tmp_path / "notes.py").write_text(SHARED)
    (tmp_path / "langgraph.json").write_text(settings)
    server = LiveServer(tmp_path, ["--no-reload"]).start()
    try:
        with server.sync_client() as client:

            def note(user: str, text: str) -> Any:
                return client.runs.wait(None, "notes", input={"text": text}, config={"configurable": {"user_id": user}})

            assert note("123", "a") == {"text": "0 notes before"}
            assert note("123", "b") == {"text": "1 notes before"}
            assert note("321", "c") == {"text": "0 notes before"}
            items = client.store.search_items(("scoped", "user_id", "notes", "123"))["items"]
            assert {item["key"]: item["value"] for item in items} == {"a": {"done": False}, "b": {"done": False}}
    finally:
        server.kill()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files, as in a fresh clone."""
    folder = tmp_path_factory.mktemp("checkout") / "devserver"
    made = (".git", ".venv", "node_modules", "__pycache__", ".*_cache", "*.egg-info", "build", "devserver.db*")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*made))
    return folder


def clean_environment() -> dict[str, str]:
    """Nothing of this Python's: `python3` is the one that is installed, and finds no packages of ours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST", "COV", "VIRTUAL_ENV"))
    }
    return kept | {"PATH": f"{sys.base_prefix}/bin:{os.environ['PATH']}"}


@pytest.mark.long
@NETWORK
def test_the_line_that_runs_the_server(checkout: Path) -> None:
    with subprocess.Popen(
        [*SHELL, RUN],
        cwd=checkout,
        env=clean_environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        try:
            url = next(found[1] for line in process.stdout if (found := re.search(r"API +(http://\S+)", line)))
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    assert httpx.get(f"{url}/ok").json()["ok"] is True
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            assert httpx.post(f"{url}/assistants/count", json={"graph_id": "agent"}).json() == 1
        finally:
            if sys.platform == "win32":
                subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], check=True)
            else:
                os.killpg(process.pid, signal.SIGTERM)
    assert (checkout / "devserver.db").exists()


@pytest.mark.long
@NETWORK
def test_the_line_that_runs_the_tests(checkout: Path) -> None:
    """Up to pytest, which here collects the tests only."""
    environment = clean_environment() | {"PYTEST_ADDOPTS": "--collect-only -q"}
    done = subprocess.run([*SHELL, TEST], cwd=checkout, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/test_docs.py::test_options_are_named" in done.stdout


def test_options_are_named() -> None:
    text = CliRunner().invoke(devserver.main, ["up", "--help"]).output
    options = set(re.findall(r"^ +(--[\w-]+)", text, re.M))
    (listed,) = re.findall(r"^Options of `devserver up`:(.*?)\n\n", README, re.M | re.S)
    assert set(re.findall(r"`(--[\w-]+)", listed)) == options
    assert [name for name in devserver.main.commands if f"`devserver {name}" not in README] == []


GRAPH = """
from langgraph.graph import START, MessagesState, StateGraph
graph = StateGraph(MessagesState).add_node("node", lambda state: state).add_edge(START, "node").compile()
def embed(texts): return [[1.0, 2.0] for _ in texts]
"""


AUTH = "from langgraph_sdk import Auth\nauth = Auth()\nauth.authenticate(lambda authorization: 'somebody')"


def test_settings_are_served_or_named(tmp_path: Path) -> None:
    """What the table names is taken without a word; what it does not, is named in a warning."""
    table = README[README.index("| in langgraph.json |") :].partition("\n\n")[0]
    named = {key for row in table.splitlines()[2:] for key in re.findall(r"`([\w.]+)`", row.split("|")[1])}
    parts = [key for key in devserver.HttpSettings.model_fields if key.startswith("disable_")]
    http: dict[str, Any] = {
        "cors": {"allow_origins": ["http://example.com"]},
        "allowed_hosts": ["example.com"],
        "app": "./g.py:app",
        "mount_prefix": "/api",
        "configurable_headers": {"includes": ["x-*"], "excludes": ["x-y"]},
    }
    served: dict[str, Any] = {
        "env": {"LG_WEBHOOK_A": "b"},
        "http": http | dict.fromkeys(parts, True),
        "webhooks": {"headers": {"a": "${{ env.LG_WEBHOOK_A }}"}, "url": {"disable_loopback": True}},
        "store": {"index": {"embed": "./g.py:embed", "dims": 2, "fields": ["$"]}, "ttl": {"default_ttl": 5}},
        "checkpointer": {"ttl": {"strategy": "keep_latest"}, "serde": {"allowed_msgpack_modules": [["g", "State"]]}},
        "auth": {"path": "./auth.py:auth", "disable_studio_auth": True, "openapi": {"security": []}},
    }
    assert {key.removeprefix("http").removeprefix(".") for key in named} == {
        *("graphs", "dependencies", "env", "webhooks", "disable_...", "auth"),
        *("store.index", "store.ttl", "checkpointer.ttl", "checkpointer.serde"),
        *http,
    }
    app = "\nfrom starlette.applications import Starlette\napp = Starlette()\n"
    write_project(tmp_path, {"g": "./g.py:graph"}, {"g.py": GRAPH + app, "auth.py": AUTH}, **served)
    server = LiveServer(tmp_path).start()
    server.kill()
    assert "not served" not in server.log
    write_project(tmp_path, {"g": "./g.py:graph"}, {"g.py": GRAPH}, ui={"g": "./ui.tsx"})
    server.start()
    server.kill()
    (warning,) = [line for line in server.log.splitlines() if "not served yet" in line]
    assert warning.endswith("ignored: ui")
    assert "`ui`, are named in a warning" in README


async def test_the_file_is_all_there_is(example: LiveServer, tmp_path: Path) -> None:
    async with example.client() as client:
        thread = (await client.threads.create())["thread_id"]
        hello: Any = {"messages": [{"role": "user", "content": "hi"}]}
        await client.runs.wait(thread, "agent", input=hello, config={"configurable": {"user_id": "123"}})
    assert {path.name for path in example.folder.glob("devserver.db*")} == {
        "devserver.db", "devserver.db-shm", "devserver.db-wal", "devserver.db.lock",
    }  # fmt: skip
    assert example.stop() == 0
    assert not (example.folder / "devserver.db-wal").exists()
    copied = tmp_path / "copied.db"
    shutil.copy(example.folder / "devserver.db", copied)
    other = LiveServer(example.folder, ["--db", str(copied)]).start()
    try:
        async with other.client() as client:
            state = await client.threads.get_state(thread)
            assert len(state["values"]["messages"]) == 2  # type: ignore[call-overload]
    finally:
        other.kill()
    async with AsyncSqliteSaver.from_conn_string(str(copied)) as saver:
        assert await saver.aget_tuple({"configurable": {"thread_id": thread}})
    connection = sqlite3.connect(copied)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_changelog_and_licence() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = [name for name in re.findall(r"^## (\S+)", changelog, re.M) if name != "Unreleased"]
    assert released[0] == devserver.__version__
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License")
    assert "The devserver authors" in licence

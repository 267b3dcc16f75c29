"""Versions of what devserver needs: what is declared, what is refused, and what older ones lack."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import types
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from conftest import GRAPHS, NEEDS, ROOT, LiveServer, eventually
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import devserver

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = {re.split(r"[>=;]", each)[0]: each for each in PROJECT["dependencies"]}


# Every package that is imported is declared


def imported() -> Iterator[str]:
    """Each module that devserver.py imports, at the top or within a function."""
    for node in ast.walk(ast.parse((ROOT / "devserver.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            yield from (str(each.value) for each in node.args if isinstance(each, ast.Constant))


def file_of(module: str) -> str | None:
    """The file that a module is; None for a folder of modules, or if it is no module."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return found.origin if found else None


def test_imports_are_declared() -> None:
    """A transitive dependency may go away; pydantic_core is part of pydantic, which asks for exactly one version."""
    names = {*DECLARED, "pydantic-core"} | {
        re.split(r"[>=]", each)[0] for extra in ("debug", "models") for each in PROJECT["optional-dependencies"][extra]
    }
    owners: dict[str, str] = {}
    for name in names - {"tzdata"}:
        owners |= {os.path.realpath(str(file.locate())): name for file in metadata.files(name) or ()}
    ours = {*sys.stdlib_module_names, "devserver", "pytest"}  # pytest: the test kit is part of a session of its own
    third_party = {name for name in imported() if name.partition(".")[0] not in ours}
    files = {name: file for name in third_party if (file := file_of(name))}
    assert {name for name, file in files.items() if os.path.realpath(file) not in owners} == set()
    used = {owners[os.path.realpath(file)] for file in files.values()}
    assert used > {"langgraph", "langgraph-checkpoint", "langgraph-checkpoint-sqlite", "langgraph-sdk", "sqlite-vec"}
    assert names - used == {"httptools", "tzdata"}  # uvicorn speaks by the one; Windows has no time zones


# Versions that are too old


REFUSED = ("aiosqlite", "langgraph", "langgraph-checkpoint", "langgraph-checkpoint-sqlite")


def pretend(folder: Path, **versions: str) -> None:
    """Let packages seem to be installed in a version, for whoever has the folder on its path."""
    for name, version in versions.items():
        told = folder / f"{name}-{version}.dist-info"
        told.mkdir()
        name = name.replace("_", "-")
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def bound(name: str) -> str:
    return str(DECLARED[name].partition(">=")[2])


SCRIPT = "import sys\nfrom devserver import main\nsys.exit(main())\n"  # what pip makes of an entry point
DOORS = {"script": ("devserver", "up"), "module": ("-m", "devserver", "up"), "cron": ("devserver", "cron", "list")}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("door", DOORS)
def test_an_old_version_ends_a_start_in_one_line(tmp_path: Path, name: str, door: str) -> None:
    pretend(tmp_path, **{name.replace("-", "_"): "0.9.7rc1"})
    (tmp_path / "devserver").write_text(SCRIPT)
    done = python(tmp_path, *DOORS[door])
    said = f"devserver cannot run with {name} 0.9.7rc1. Where it is installed: python -m pip install '{DECLARED[name]}'"
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (1, "", [said])


@pytest.mark.parametrize("name", REFUSED)
def test_an_old_version_is_what_an_import_fails_for(tmp_path: Path, name: str) -> None:
    pretend(tmp_path, **{name.replace("-", "_"): "0.9"})
    (tmp_path / "graph.py").write_text("from devserver import SharedValue\n")
    done = python(tmp_path, "graph.py")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: devserver cannot run with {name} 0.9. Where it is")


def test_an_old_version_is_named_before_it_fails(tmp_path: Path) -> None:
    """Its own import would hang, or lack a name. All that is too old is named at once."""
    pretend(tmp_path, aiosqlite="0.21.0", langgraph="1.0.10")
    (tmp_path / "aiosqlite.py").write_text("import time\ntime.sleep(100)\n")
    (tmp_path / "langgraph").mkdir()
    (tmp_path / "langgraph" / "errors.py").write_text("")
    done = python(tmp_path, "-m", "devserver", "up")
    assert "aiosqlite 0.21.0, langgraph 1.0.10." in done.stderr
    assert done.stderr.endswith(f"pip install '{DECLARED['aiosqlite']}' '{DECLARED['langgraph']}'\n")
    assert done.stderr.count("\n") == 1


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    hide = "import sys; sys.path = [each for each in sys.path if 'site-packages' not in each]; import devserver"
    done = python(tmp_path, "-c", hide)
    assert "ImportError: devserver cannot run with aiosqlite (missing), langgraph (missing)" in done.stderr


@pytest.mark.parametrize("more", ["", ".1", "rc1", ".post1", "+local"])
def test_a_bound_itself_will_do(tmp_path: Path, more: str) -> None:
    pretend(tmp_path, **{name.replace("-", "_"): bound(name) + more for name in REFUSED})
    done = python(tmp_path, "-c", "from devserver import SharedValue")
    assert (done.returncode, done.stderr) == (0, "")


# What langgraph 1.1 lacks


OLD = """
import langgraph.errors, devserver
for name in ("GraphDrained", "UnknownInterruptError"):
    setattr(devserver, name, ())
    vars(langgraph.errors).pop(name, None)
devserver.RunControl = None
devserver.main()
"""
NEEDED = "Event streaming needs langgraph 1.2 or later: python -m pip install -U langgraph"
SERVED = {"steps": "./basic.py:steps", "gated": "./basic.py:gated", "question": "./basic.py:question"}


def old_server(folder: Path) -> LiveServer:
    """A server as with langgraph 1.1."""
    return LiveServer(folder, ["--no-reload"], program=OLD)


def event_streaming(server: LiveServer, path: str) -> tuple[int, str]:
    """The status and the body that a door of event streaming answers a subscription with."""
    call = {"id": 1, "method": "run.start", "params": {"assistant_id": "steps", "input": {}}}
    if path.startswith("ws"):
        with pytest.raises(InvalidStatus) as refusal, connect(f"ws{server.url[4:]}{path[2:]}"):
            pass
        response = refusal.value.response
        return response.status_code, (response.body or b"").decode()
    answer = httpx.post(f"{server.url}{path}", json={**call, "channels": ["values"]})
    return answer.status_code, answer.text


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("old")
    files = {"basic.py": (GRAPHS / "basic.py").read_text(), "langgraph.json": json.dumps({"graphs": SERVED})}
    for name, text in files.items():
        (folder / name).write_text(text)
    live = old_server(folder).start()
    yield live
    assert live.stop() == 0, live.log


@pytest.mark.parametrize("door", ["/threads/{}/commands", "/threads/{}/stream/events", "ws/threads/{}/stream/events"])
@pytest.mark.parametrize("thread", ["7b1f0a52-33c5-4d0a-9f3e-6a3c1d2e4f50", "none"])
def test_event_streaming_says_which_langgraph_it_needs(old: LiveServer, door: str, thread: str) -> None:
    status, text = event_streaming(old, door.format(thread))
    assert status == 501
    assert json.loads(text) == {"detail": NEEDED}


@pytest.mark.parametrize(
    "way", ["runs", "runs/stream", "runs/wait", "threads/{}/runs", "threads/{}/runs/wait", "crons"]
)
def test_a_strict_resume_says_which_langgraph_it_needs(old: LiveServer, way: str) -> None:
    thread = httpx.post(f"{old.url}/threads", json={}).json()["thread_id"]
    path = way.format(thread) if way != "crons" else "runs/crons"
    body = {"assistant_id": "question", "input": {}, "schedule": "0 0 1 1 *"}
    answer = httpx.post(f"{old.url}/{path}", json={**body, "strict_resume": True})
    assert (answer.status_code, "langgraph 1.2.20 or later" in answer.text) == (422, True)
    assert httpx.post(f"{old.url}/{path}", json={**body, "strict_resume": False}).status_code == 200


async def test_all_else_works_with_an_old_langgraph(old: LiveServer) -> None:
    client = old.client()
    thread = (await client.threads.create())["thread_id"]
    modes: list[Any] = ["values", "updates", "messages-tuple", "tasks", "checkpoints", "custom", "debug"]
    parts = [part async for part in client.runs.stream(thread, "steps", input={"text": "a"}, stream_mode=modes)]
    assert {"metadata", "values", "updates", "tasks", "checkpoints", "debug"} <= {part.event for part in parts}
    state: Any = await client.threads.get_state(thread)
    assert state["values"]["text"] == "a!"
    events = [part async for part in client.runs.stream(thread, "steps", input={"text": "b"}, stream_mode="events")]
    assert {cast(Any, part.data)["event"] for part in events if part.event == "events"} >= {
        "on_chain_start",
        "on_chain_end",
    }
    asked: Any = await client.runs.wait(thread, "question", input={"topic": "rain"})
    answered: Any = await client.runs.wait(thread, "question", command={"resume": "yes"})
    assert "__interrupt__" in asked
    assert "__interrupt__" not in answered
    await client.aclose()


async def test_a_stop_cancels_runs_after_their_grace_time(tmp_path: Path) -> None:
    """Nobody can ask them to stop after their superstep; with the next start they go on."""
    gate = tmp_path / "gate"
    (tmp_path / "basic.py").write_text((GRAPHS / "basic.py").read_text())
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": SERVED}))
    live = old_server(tmp_path).start()
    with live.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        path = f"/threads/{thread}/runs"
        run = http.post(path, json={"assistant_id": "gated", "input": {"gate": str(gate)}}).json()["run_id"]
        await eventually(lambda: http.get(f"/threads/{thread}/state").json()["next"] == ["wait"])
    assert live.stop() == 0, live.log
    gate.touch()
    live.start()
    with live.http() as http:
        await eventually(lambda: http.get(f"{path}/{run}").json()["status"] == "success")
        assert http.get(f"/threads/{thread}/state").json()["values"]["trail"] == ["before", "waited", "after"]
    assert live.stop() == 0, live.log


@NEEDS["streaming"]
async def test_a_run_of_a_newer_langgraph_says_why_it_cannot_go_on(tmp_path: Path) -> None:
    """It was started by event streaming, before the server was killed and LangGraph made older."""
    (tmp_path / "basic.py").write_text((GRAPHS / "basic.py").read_text())
    (tmp_path / "langgraph.json").write_text(json.dumps({"graphs": SERVED}))
    live = LiveServer(tmp_path, ["--no-reload"]).start()
    thread, params = str(uuid.uuid4()), {"assistant_id": "gated", "input": {"gate": str(tmp_path / "gate")}}
    call = {"id": 1, "method": "run.start", "params": params}
    with live.http() as http:
        run = http.post(f"/threads/{thread}/commands", json=call).json()["result"]["run_id"]
        await eventually(lambda: http.get(f"/threads/{thread}/state").json()["next"] == ["wait"])
    live.kill()
    live = old_server(tmp_path).start()
    with live.http() as http:
        await eventually(lambda: http.get(f"/threads/{thread}/runs/{run}").json()["status"] == "error")
        joined = http.get(f"/threads/{thread}/runs/{run}/join").json()
        assert joined["__error__"]["message"] == NEEDED
    assert live.stop() == 0, live.log


# What Python 3.14 does: annotations are evaluated when they are asked for


class Format:
    FORWARDREF = 3


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations as in Python 3.14, where `inspect.signature` evaluates them."""

    def signature(function: Callable[..., Any], *, annotation_format: int = 1) -> inspect.Signature:
        if annotation_format != Format.FORWARDREF and function.__annotations__:
            raise NameError("name 'ServerRuntime' is not defined")
        return eager(function)

    eager = inspect.signature
    known = types.ModuleType("annotationlib")
    known.Format = Format  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "annotationlib", known)
    monkeypatch.setattr(inspect, "signature", signature)


@pytest.mark.usefixtures("lazy")
def test_annotations_may_name_what_only_type_checkers_know() -> None:
    def handler(authorization: "ServerRuntime") -> "ServerRuntime":  # type: ignore[name-defined]  # noqa: F821, UP037
        return authorization

    def factory(config: "ServerConfig", run: "ServerRuntime") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037

    with pytest.raises(NameError):
        inspect.signature(handler)
    assert [each.name for each in devserver.parameters_of(handler)] == ["authorization"]
    graphs = object.__new__(devserver.Graphs)
    graphs._store = None  # type: ignore[assignment]
    entry = types.SimpleNamespace(factory=factory, spec="graph")
    config, runtime = graphs._arguments(entry, {"configurable": {}}, "threads.read", None)  # type: ignore[arg-type]
    assert config == {"configurable": {}}
    assert type(runtime).__name__ == "_ReadRuntime"

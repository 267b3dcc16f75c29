"""push to, and pull from, other servers: `langgraph dev`, and Aegra on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from postgres import environment, free_port, postgres
from way_up import Contents, counts, fill, held_by, start, way_up, write_travel

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.skipif(sys.platform == "win32", reason="POSIX")]

PEER = ("langgraph-cli[inmem]", "langgraph-api==0.16.7")
Filled = tuple[Path, dict[str, str], Contents]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A folder with a database that has something of everything, the ids in it, and what its server held."""
    folder = tmp_path_factory.mktemp("travel")
    server = start(folder)
    try:
        ids = fill(server.url)
        held = asyncio.run(held_by(server.url))
    finally:
        server.stop()
    return folder, ids, held


def clean() -> dict[str, str]:
    unwanted = ("PYTHONPATH", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "COVERAGE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return env | {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}


def served(folder: Path, line: list[str], health: str, **env: str) -> Iterator[str]:
    """Run another server until it is needed no more."""
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(line, cwd=folder, env=clean() | env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(health).is_success:
                    break
            time.sleep(0.2)
        else:
            raise AssertionError((folder / "log").read_text()[-3000:])
        yield health.rpartition("/")[0]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a `langgraph dev`."""
    programs, port = environment(tmp_path_factory.mktemp("peer") / "venv", *PEER), free_port()
    folder = write_travel(tmp_path_factory.mktemp("langgraph_dev"))
    line = [str(programs / "langgraph"), "dev", "--port", str(port), "--host", "127.0.0.1", "--no-reload"]
    yield from served(folder, [*line, "--no-browser", "--n-jobs-per-worker", "4"], f"http://127.0.0.1:{port}/ok")


@pytest.fixture(scope="module")
def aegra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an Aegra; it needs Python 3.12."""
    others = sorted(map(str, (Path.home() / ".pyenv" / "versions").glob("3.1[23].*/bin/python")))
    names = [sys.executable] * (sys.version_info >= (3, 12)) + ["python3.13", "python3.12", *others]
    found = [python for name in names if (python := shutil.which(name)) and runs(python)]
    if not found:
        pytest.skip("Aegra needs Python 3.12")
    programs = environment(tmp_path_factory.mktemp("aegra") / "venv", "aegra-api>=0.11", python=found[0])
    folder, port = write_travel(tmp_path_factory.mktemp("aegra_folder")), free_port()
    with postgres(tmp_path_factory.mktemp("cluster") / "pg") as url:
        env = {"DATABASE_URL": url, "AEGRA_CONFIG": str(folder / "langgraph.json"), "PORT": str(port)}
        line = [str(programs / "python"), "-m", "uvicorn", "aegra_api.main:app", "--port", str(port)]
        yield from served(folder, line, f"http://127.0.0.1:{port}/health", PYTHONPATH=str(folder), **env)


def runs(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0


def refusals(report: Any, ids: dict[str, str]) -> set[str]:
    names = {value: name for name, value in ids.items()}
    return {names.get(each["id"], each["id"]) for each in report["remarks"] if each["what"] == "refused"}


def check_versions(found: Contents, held: Contents, ids: dict[str, str]) -> None:
    """All of each assistant. Servers differ in which graph one shows that was set back, and in what mirrors context."""
    for name in ("tour", "other"):
        mine, theirs = (each["assistants"][ids[name]][1:] for each in (held, found))
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            for version in (one, other):
                version["config"] = {**version.get("config", {}), "configurable": version.get("context")}
            assert one == other


# Whose history is not told (durability "exit"), cannot be made again (a join of edges), or is none of objects.
NO_HISTORY = {"exit", "joined", "sums"}
UNSETTLED = {"asked", "asked at once"}


async def test_langgraph_dev_gets_all(peer: str, filled: Filled) -> None:
    folder, ids, held = filled
    report = way_up("push", folder, peer, "--verify", status=1)
    assert counts(report) == {"assistants": (2, 7, 0), "threads": (10, 0, 1), "store": (3, 0, 0), "crons": (2, 0, 0)}
    assert refusals(report, ids) == {"sums"}  # it takes only objects as states
    found = await held_by(peer)
    assert found["items"].items() >= held["items"].items()
    check_versions(found, held, ids)
    for name in ("talk", "trip", "jumping", "broken", "stopped", "joined", "exit", "empty"):
        assert found["threads"][ids[name]] == held["threads"][ids[name]], name
        if name not in NO_HISTORY | {"jumping"}:  # it takes no command there
            assert found["histories"][ids[name]] == held["histories"][ids[name]], name
    for cron in found["crons"].values():
        assert cron["enabled"] is False
        assert "webhook" not in cron
    again = way_up("push", folder, peer, status=1)
    assert counts(again) == {"assistants": (0, 9, 0), "threads": (0, 10, 1), "store": (0, 3, 0), "crons": (0, 2, 0)}


async def test_all_comes_from_langgraph_dev(peer: str, tmp_path: Path) -> None:
    ids = fill(peer, crons=False)
    held = await held_by(peer)
    folder = write_travel(tmp_path / "near")
    way_up("pull", folder, peer, "--verify", "--only", "threads,assistants,store")
    server = start(folder)
    try:
        found = await held_by(server.url)
    finally:
        server.stop()
    assert found["items"] == held["items"]
    check_versions(found, held, ids)
    for name in ids.keys() - UNSETTLED - {"tour", "other"}:
        assert found["threads"][ids[name]] == held["threads"][ids[name]], name
        if name not in NO_HISTORY - {"sums"}:
            assert found["histories"][ids[name]] == held["histories"][ids[name]], name


async def test_aegra_gets_all(aegra: str, filled: Filled, tmp_path: Path) -> None:
    """It knows no supersteps and fewer ways to change a state: threads come over without their histories."""
    folder, ids, held = filled
    report = way_up("push", folder, aegra, "--verify", status=1)
    assert counts(report) == {"assistants": (2, 7, 0), "threads": (10, 0, 1), "store": (3, 0, 0), "crons": (2, 0, 0)}
    assert refusals(report, ids) == {"sums"}
    found = await held_by(aegra)
    theirs = {name.removeprefix("users.anonymous."): value for name, value in found["items"].items()}
    assert theirs == held["items"]  # each user has own ones
    assert found["assistants"].keys() == held["assistants"].keys()
    for name in ("talk", "trip", "jumping", "joined", "exit"):
        assert found["threads"][ids[name]]["values"] == held["threads"][ids[name]]["values"], name
        assert found["threads"][ids[name]]["metadata"].items() >= held["threads"][ids[name]]["metadata"].items(), name
    assert [cron["enabled"] for cron in found["crons"].values()] == [False, False]
    again = way_up("push", folder, aegra, status=1)
    assert counts(again) == {"assistants": (0, 9, 0), "threads": (0, 10, 1), "store": (0, 3, 0), "crons": (0, 2, 0)}
    near = write_travel(tmp_path / "near")
    back = way_up("pull", near, aegra, "--verify", "--only", "threads,store,assistants", status=None)
    assert back["kinds"]["threads"] == {"copied": 10, "there": 0, "refused": 0}
    assert back["kinds"]["store"] == {"copied": 3, "there": 0, "refused": 0}

"""Other servers of the LangGraph API, each in a virtual environment that has devserver, too: `langgraph dev`, and Aegra
on a real PostgreSQL. DEVSERVER_PEERS names a folder with environments `dev` and `aegra` made before."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT
from postgres import environment, free_port, postgres, program

ELSEWHERE = ("langgraph dev", "Aegra")
PEER = ("langgraph-cli[inmem]", "langgraph-api==0.16.7")
UNWANTED = ("PYTHON", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "DEVSERVER_", "COVERAGE")


@contextlib.contextmanager
def server_elsewhere(who: str, project: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Run the server on a project, with a folder for what it needs besides. Give its address and its database's, if it
    has a PostgreSQL."""
    port = free_port()
    if who == "langgraph dev":
        line = [str(programs("dev", folder, *PEER) / "langgraph"), "dev", "--port", str(port), "--host", "127.0.0.1"]
        with served(project, [*line, "--no-reload", "--no-browser"], f"http://127.0.0.1:{port}/ok") as url:
            yield url, ""
        return
    with running_postgres() as database:
        own = {"DATABASE_URL": database, "AEGRA_CONFIG": str(project / "langgraph.json"), "PORT": str(port)}
        aegra = programs("aegra", folder, "aegra-api>=0.11", least=(3, 12))
        line = [str(aegra / "python"), "-m", "uvicorn", "aegra_api.main:app", "--port", str(port)]
        with served(project, line, f"http://127.0.0.1:{port}/health", **own) as url:
            yield url, database


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Run a PostgreSQL, and give its address. Its folder is none of pytest's, which each pytest closes to others."""
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        with postgres(Path(folder) / "pg") as url:
            yield url


def programs(name: str, folder: Path, *packages: str, least: tuple[int, int] = (3, 11)) -> Path:
    """Return the folder of an environment's programs, of a Python that is new enough."""
    if made := os.environ.get("DEVSERVER_PEERS"):
        return Path(made) / name / "bin"
    look = f"import ensurepip, sys, venv; sys.exit(sys.version_info < {least})"
    for python in (sys.executable, "python3.13", "python3.12"):
        if shutil.which(python) and subprocess.run([python, "-c", look], capture_output=True).returncode == 0:
            return environment(folder / "venv", *packages, str(ROOT), python=python)
    pytest.skip(f"{packages[0]} needs a newer Python")


@contextlib.contextmanager
def served(project: Path, line: list[str], health: str, **own: str) -> Iterator[str]:
    """Run a server as long as the context lasts."""
    path = os.pathsep.join([str(project), str(ROOT)])
    with open(project / "log", "w") as log:
        env = {name: value for name, value in os.environ.items() if not name.startswith(UNWANTED)}
        env |= {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1", "SHARE_EVERY_GRAPH": "1"}
        env |= {"PYTHONPATH": path, **own}
        process = subprocess.Popen(line, cwd=project, env=env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(health).is_success:
                    break
            time.sleep(0.2)
        assert process.poll() is None, (project / "log").read_text()[-3000:]
        yield health.rpartition("/")[0]
    finally:
        process.terminate()
        process.wait(30)


def stored_in_postgres(database: str, prefix: str) -> dict[str, Any]:
    """Return the items of a namespace, in the official table."""
    query = f"SELECT coalesce(json_object_agg(key, value), '{{}}') FROM store WHERE prefix = '{prefix}'"
    line = [str(program("psql")), "-At", "-c", query, database]
    return dict(json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout))

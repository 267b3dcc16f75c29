"""`devserver up` as a person meets it: options, banner, log."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, ROOT, LiveServer, posix_only, write_project

USER = {"configurable": {"user_id": "u"}}
ENVIRONMENT_GRAPH = """
    import os
    from typing import Any
    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        seen: dict[str, Any]

    def look(state):
        return {"seen": {name: os.environ.get(name) for name in ("FROM_FILE", "FROM_JSON", "IN_BOTH", "SET_BEFORE")}}

    graph = StateGraph(State).add_node(look).add_edge(START, "look").compile()
"""


@dataclass
class Started:
    """A server started by a command of the test's own."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def url(self) -> str:
        found = re.search(r"API +(https?://\S+)", self.output)
        assert found, self.output
        return found[1]


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}


@contextlib.contextmanager
def started(folder: Path, *command: str, trusted: ssl.SSLContext | None = None, **more: str) -> Iterator[Started]:
    """`python *command` in a folder, once it answers; ended politely."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    made = Started(process)
    assert process.stdout
    with process.stdout as output:
        reader = threading.Thread(target=lambda: made.lines.extend(output))
        reader.start()
        try:
            until(lambda: "  Reload " in made.output or process.poll() is not None)
            until(lambda: httpx.get(f"{made.url}/ok", verify=trusted or True).status_code == 200)
            yield made
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            finally:
                process.kill()
                process.wait()
                reader.join()


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(0.02)
    return value


def devserver(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "devserver", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    graphs = {"gates": "./crash_gates.py:gates", "fails": "./crash_gates.py:fails"}
    write_project(folder, graphs, {"crash_gates.py": (GRAPHS / "crash_gates.py").read_text()})
    return folder


def wait_run(url: str, graph: str, **more: Any) -> Any:
    sent = {"assistant_id": graph, "input": {"trail": ["in"]}, "config": USER, "on_completion": "keep", **more}
    return httpx.post(f"{url}/runs/wait", json=sent, timeout=20).raise_for_status().json()


def test_version_and_help_name_what_there_is(tmp_path: Path) -> None:
    from devserver import __version__

    done = devserver(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"devserver, version {__version__}\n")
    done = devserver(tmp_path, "--help")
    assert done.returncode == 0
    assert "up" in done.stdout
    done = devserver(tmp_path, "up", "--help")
    assert done.returncode == 0
    options = ("config", "host", "port", "db", "no-reload", "env-file", "open", "max-concurrency", "full-sync")
    for option in (f"--{name}" for name in options):
        assert option in done.stdout, option


def test_options_that_make_no_sense_are_refused(project: Path) -> None:
    for options in (["--port", "70000"], ["--port", "http"], ["--max-concurrency", "0"], ["--prot", "0"]):
        done = devserver(project, "up", *options)
        assert done.returncode == 2, options
        assert options[0] in done.stderr
        assert "Traceback" not in done.stderr


def test_the_banner_says_where_what_and_how(project: Path) -> None:
    with started(project, "-m", "devserver", "up", "--port", "0") as up:
        assert up.url.startswith("http://localhost:")
        assert not up.url.endswith((":0", ":2024"))
        assert f"Docs      {up.url}/docs" in up.output
        assert f"Page      {up.url}/\n" in up.output
        assert re.search(r"Database +devserver\.db \(kept between starts\)", up.output)
        assert re.search(r"gates +\./crash_gates\.py:gates", up.output)
        assert re.search(r"fails +\./crash_gates\.py:fails", up.output)
        assert re.search(r"Reload +on", up.output)
        assert "TAKEN" not in up.output
        assert f"export LANGGRAPH_API_URL={up.url}\n" in up.output
        assert len(up.lines) <= 12
    assert up.process.returncode == 0
    with started(project, "-m", "devserver", "up", "--port", "0", "--no-reload", "--db", ":memory:") as up:
        assert re.search(r"Reload +off", up.output)
        assert re.search(r"Database +:memory: \(gone when the server stops\)", up.output)


def test_a_busy_default_port_is_stepped_aside_from_loudly(project: Path) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else may have it already
            stack.enter_context(socket.create_server(("127.0.0.1", 2024)))
        with started(project, "-m", "devserver", "up", "--no-reload") as up:
            assert int(up.url.rpartition(":")[2]) > 2024
            assert "PORT 2024 IS TAKEN" in up.output
            assert up.output.count(up.url) >= 4  # API, Docs, where to point clients, and by which variable


def test_a_busy_port_that_was_asked_for_is_an_error(project: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = devserver(project, "up", "--port", str(port))
    assert done.returncode == 1
    said = (done.stdout + done.stderr).strip()
    assert f"127.0.0.1:{port}" in said
    assert "--port" in said
    assert len(said.splitlines()) == 1
    assert not (project / "devserver.db").exists()


def test_the_database_is_beside_langgraph_json_unless_said_otherwise(project: Path) -> None:
    folder = project.parent
    config = "project/langgraph.json"
    with started(folder, "-m", "devserver", "up", "--port", "0", "--no-reload", "--config", config) as up:
        assert wait_run(up.url, "gates")["trail"] == ["in", "a", "b", "c"]
        assert (project / "devserver.db").exists()
    assert not (folder / "devserver.db").exists()
    command = ["-m", "devserver", "up", "--port", "0", "--no-reload", "--config", config, "--db", "other.db"]
    with started(folder, *command) as up:
        assert "other.db" in up.output
        assert httpx.post(f"{up.url}/threads/search", json={}).json() == []
    assert (folder / "other.db").exists()


def test_a_database_that_cannot_be_written_is_named(project: Path) -> None:
    for path in ("nowhere/devserver.db", "."):
        done = devserver(project, "up", "--port", "0", "--db", path)
        assert done.returncode == 1, path
        assert path in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_an_env_file_is_read_and_what_is_set_already_wins(tmp_path: Path) -> None:
    env = {"FROM_JSON": "json", "IN_BOTH": "json", "SET_BEFORE": "json"}
    write_project(tmp_path, {"env": "./env_graph.py:graph"}, {"env_graph.py": ENVIRONMENT_GRAPH}, env=env)
    (tmp_path / "my.env").write_text("# a comment\nFROM_FILE='file'\nIN_BOTH=file\nSET_BEFORE=file\n")
    command = ["-m", "devserver", "up", "--port", "0", "--no-reload", "--env-file", "my.env"]
    with started(tmp_path, *command, SET_BEFORE="before") as up:
        seen = wait_run(up.url, "env", input={})["seen"]
    assert seen == {"FROM_FILE": "file", "FROM_JSON": "json", "IN_BOTH": "file", "SET_BEFORE": "before"}
    done = devserver(tmp_path, "up", "--port", "0", "--env-file", "missing.env")
    assert done.returncode == 1
    assert "missing.env" in done.stderr
    assert "Traceback" not in done.stderr


def test_devserver_py_is_a_script_with_one_shared_value_class(project: Path) -> None:
    script = str(ROOT / "devserver.py")
    with started(project, script, "up", "--port", "0", "--no-reload") as up:
        result = wait_run(up.url, "gates")
        assert result["trail"] == ["in", "a", "b", "c"]
        assert "info" not in result
        wait_run(up.url, "gates")
        item = httpx.get(f"{up.url}/store/items", params={"namespace": "scoped.user_id.info.u", "key": "count"}).json()
        assert item["value"] == {"n": 6}
    assert up.process.returncode == 0


@posix_only
def test_open_shows_the_page(project: Path) -> None:
    for name in ("xdg-open", "open"):
        (project / name).write_text(f'#!/bin/sh\necho "$1" > {project}/opened\n')
        (project / name).chmod(0o755)
    path = f"{project}:{os.environ['PATH']}"
    with started(project, "-m", "devserver", "up", "--port", "0", "--no-reload", "--open", PATH=path) as up:
        until((project / "opened").exists)
        assert until((project / "opened").read_text).strip() == f"{up.url}/"


def test_each_run_has_one_line_in_the_log(make_server: Callable[..., LiveServer]) -> None:
    files = {"crash_gates.py": (GRAPHS / "crash_gates.py").read_text()}
    server = make_server({"gates": "./crash_gates.py:gates", "naps": "./crash_gates.py:naps"}, files, "--no-reload")
    banner = len(server.lines)
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        sent = {"assistant_id": "gates", "input": {}, "config": USER}
        run = http.post(f"/threads/{thread}/runs", json=sent).json()["run_id"]
        http.get(f"/threads/{thread}/runs/{run}/join")
        http.get("/threads/nonsense")
        http.get("/nowhere")
        sent = {"assistant_id": "naps", "input": {"seconds": 20}, "config": USER}
        cancelled = http.post(f"/threads/{thread}/runs", json=sent).json()["run_id"]
        time.sleep(0.2)
        http.post(f"/threads/{thread}/runs/{cancelled}/cancel", params={"wait": True})
    until(lambda: cancelled in server.log)
    time.sleep(0.1)
    lines = server.lines[banner:]
    assert len(lines) == 2, server.log
    assert re.search(rf"run {run} thread {thread} graph gates success \d+\.\d+ s$", lines[0])
    assert re.search(rf"run {cancelled} thread {thread} graph naps interrupted \d+\.\d+ s$", lines[1])


def test_the_traceback_of_a_failing_graph_is_shown_whole_and_once(make_server: Callable[..., LiveServer]) -> None:
    files = {"crash_gates.py": (GRAPHS / "crash_gates.py").read_text()}
    server = make_server({"fails": "./crash_gates.py:fails"}, files, "--no-reload")
    wait_run(server.url, "fails")
    until(lambda: " graph fails error " in server.log)
    time.sleep(0.2)
    assert server.log.count("Traceback (most recent call last)") == 1
    assert server.log.count("ValueError: it went wrong") == 2  # the traceback's end, and the run's line
    assert re.search(r'File ".*crash_gates\.py", line \d+, in fail\n +raise ValueError', server.log)
    assert len([line for line in server.lines if " graph fails error " in line]) == 1


def test_an_address_of_another_family_is_served_too(project: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with started(project, "-m", "devserver", "up", "--port", "0", "--no-reload", "--host", "::1") as up:
        assert up.url.startswith("http://[::1]:")
        assert httpx.get(f"{up.url}/ok").status_code == 200

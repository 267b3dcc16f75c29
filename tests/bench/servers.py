"""The sides of the benchmark: how to install, start, watch and end them."""

# ruff: noqa: T201

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

HERE = Path(__file__).resolve().parent
PEER = ["langgraph-cli[inmem]", "langgraph-api==0.16.7"]
GRAPHS = ("one", "ten", "events", "tokens", "chat", "delta", "sleeper")
SHARED = ("shared",)  # graphs that only devserver can serve


@dataclass(frozen=True)
class Server:
    """A running server; `ready` is how many seconds it took to answer GET /ok."""

    port: int
    pid: int
    ready: float


def cache_directory() -> Path:
    base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or base) / "devserver-bench"


def install_peer(venv: Path) -> None:
    """Make the peer's virtual environment, once. The marker is written last: what broke off is made anew."""
    marker = venv / "installed.txt"
    if marker.exists() and marker.read_text() == " ".join(PEER):
        return
    if venv.exists() and not (venv / "pyvenv.cfg").exists():
        raise SystemExit(f"{venv} exists and is not a virtual environment: not touching it")
    print(f"Installing {' '.join(PEER)} into {venv} ...", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", "-qq", *PEER], check=True)
    marker.write_text(" ".join(PEER))


def environment() -> dict[str, str]:
    """This process's environment without what would slow the sides down, trace them or change them."""
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "DEVSERVER_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return env | {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}


def command(who: str, directory: Path, port: int, venv: Path, jobs: int | None) -> list[str]:
    common = ["--config", f"{directory}/langgraph.json", "--port", str(port), "--no-reload"]
    if who == "devserver":
        more = ["--db", f"{directory}/bench.db"]
        return [sys.executable, "-m", "devserver", "up", *common, *more]
    more = ["--n-jobs-per-worker", str(jobs)] if jobs else []
    return [f"{venv}/bin/langgraph", "dev", *common, "--host", "127.0.0.1", "--no-browser", *more]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /ok HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return connection.recv(1024).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@contextmanager
def folder(who: str) -> Iterator[Path]:
    """A fresh directory with the graphs, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{who}-", ignore_cleanup_errors=True) as name:
        shutil.copy(HERE / "graphs.py", name)
        served = {graph: f"./graphs.py:{graph}" for graph in GRAPHS + SHARED * (who == "devserver")}
        (Path(name) / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": served}))
        yield Path(name)


@contextmanager
def started(who: str, directory: Path, venv: Path, jobs: int | None) -> Iterator[Server]:
    """A server in this directory, which ends politely, whatever happened."""
    port = free_port()
    env = environment() | ({"PYTHONPATH": str(HERE.parents[1])} if who == "devserver" else {})
    full, start = command(who, directory, port, venv, jobs), perf_counter()
    with open(directory / "log", "w") as log:
        process = subprocess.Popen(full, cwd=directory, env=env, stdout=log, stderr=log)
    try:
        while not answers(port):
            if process.poll() is not None or perf_counter() - start > 120:
                raise RuntimeError(f"{who} did not start:\n{(directory / 'log').read_text()[-3000:]}")
            sleep(0.005)
        yield Server(port, process.pid, perf_counter() - start)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running(who: str, venv: Path, jobs: int | None) -> Iterator[Server]:
    """A fresh server in a fresh directory."""
    with folder(who) as directory, started(who, directory, venv, jobs) as server:
        yield server


def memory(pid: int) -> float:
    """Resident megabytes of a process and its children."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True)
    children, size = defaultdict(list), {}
    for child, parent, rss in (map(int, line.split()) for line in listing.stdout.splitlines()):
        children[parent].append(child)
        size[child] = rss
    family = [pid]
    for member in family:
        family.extend(children[member])
    return sum(size.get(member, 0) for member in family) / 1024


def bare_import() -> tuple[float, float]:
    """Seconds from the start of a fresh Python until langgraph.graph is imported, and its megabytes then."""
    code = [sys.executable, "-c", "import langgraph.graph; print(flush=True); input()"]
    start, pipe = perf_counter(), subprocess.PIPE
    with subprocess.Popen(code, env=environment(), stdin=pipe, stdout=pipe, text=True) as process:
        if process.stdout:
            process.stdout.readline()
        took, size = perf_counter() - start, memory(process.pid)
        process.communicate("\n")
    return took, size


def in_process(scenarios: list[str]) -> dict[str, list[float]]:
    """The samples of floor.py, in a fresh process."""
    code = [sys.executable, str(HERE / "floor.py"), ",".join(scenarios)]
    done = subprocess.run(code, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def versions(python: Path, *packages: str) -> str:
    if not python.exists():
        return "not installed"
    code = "import sys; from importlib.metadata import version\nfor p in sys.argv[1:]: print(p, version(p))"
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True)
    return ", ".join(done.stdout.splitlines()) or "unknown"

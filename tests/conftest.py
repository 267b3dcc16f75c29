"""Fixtures: real servers on real sockets and real files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
from forked import COVERAGE, Forked, start_process
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient

ROOT = Path(__file__).resolve().parent.parent
GRAPHS = Path(__file__).resolve().parent / "graphs"
collect_ignore = ["example"]  # a project of its own, which test_kit_example.py runs
PROBE = ROOT.parent / "shared" / "probe"
# What older versions lack, by the name that it has in needs.txt: the package, the first version that has it, and a
# word for it. Versions are compared, not features: where a newer version loses one, tests have to fail.
LACKS = {
    "streaming": ("langgraph", (1, 2), "event streaming"),
    "delta": ("langgraph", (1, 2), "DeltaChannel"),
    "schema": ("langgraph", (1, 2, 12), "a question's response_schema"),
    "strict": ("langgraph", (1, 2, 20), "strict_resume"),
    "cancelled": ("langgraph", (1, 2, 3), "NodeCancelledError"),
    "recorded": ("langgraph", (1, 2, 16), "the graph of the recorded answers"),
    "preflight": ("starlette", (0, 51), "a preflight of a private network"),
    "client": ("langgraph-sdk", (0, 4), "threads.stream()"),
    "agent": ("langchain", (1, 3), "an agent that tells of its tools"),
}
NEEDS = {
    name: pytest.mark.skipif(
        tuple(map(int, re.findall(r"\d+", metadata.version(package))[:3])) < needed,
        reason=f"{feature} needs {package} {'.'.join(map(str, needed))}",
    )
    for name, (package, needed, feature) in LACKS.items()
}


@dataclass
class LiveServer:
    """A devserver process in a folder of its own. `log` is what it printed so far."""

    folder: Path
    options: list[str] = field(default_factory=list)
    url: str = ""
    process: subprocess.Popen[str] | Forked | None = None
    lines: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None
    program: str = ""  # Python text that takes the place of devserver's main()
    command: list[str] = field(default_factory=list)  # what takes the place of `python -m devserver`

    def start(self, wait: float = 60) -> LiveServer:
        """Start it (again, on the same files and on another port), and wait until it answers."""
        self.lines.clear()
        arguments = ["up", "--port", "0", *self.options]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.process = start_process(self.program, arguments, self.folder, env, self.command)
        self.reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self.reader.start()
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            found = re.search(r"API +(http://\S+)", self.log)
            if found:
                self.url = found[1]
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{self.url}/ok").status_code == 200:
                        return self
            if self.process.poll() is not None:
                self.reader.join(10)
                break
            time.sleep(0.02)
        raise AssertionError(f"the server did not start:\n{self.log}")

    def _read(self, process: subprocess.Popen[str] | Forked) -> None:
        assert process.stdout
        with process.stdout as output:
            for line in output:
                self.lines.append(line)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def kill(self) -> None:
        """kill -9: what a crash leaves behind."""
        assert self.process
        assert self.reader
        self.process.kill()
        self.process.wait()
        self.reader.join(10)

    def stop(self, sig: int = signal.SIGTERM, wait: float = 15) -> int:
        """End it politely; gives the exit code."""
        assert self.process
        if sys.platform == "win32":
            sig = signal.CTRL_BREAK_EVENT  # what Windows calls SIGTERM ends a process at once
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(wait)

    def client(self) -> LangGraphClient:
        return get_client(url=self.url, api_key=None)

    def sync_client(self) -> SyncLangGraphClient:
        return get_sync_client(url=self.url, api_key=None)

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="this needs Linux")
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such thing")


@contextlib.contextmanager
def no_file_may_grow(server: LiveServer, size: int = 4096) -> Iterator[None]:
    """The server's process may write to no file beyond a few lines; a page of the database is more."""
    if sys.platform != "linux":
        pytest.skip("another process's files can be limited on Linux only")
    import resource

    assert server.process
    process_id = server.process.pid
    _, hard = resource.prlimit(process_id, resource.RLIMIT_FSIZE)
    resource.prlimit(process_id, resource.RLIMIT_FSIZE, (size, hard))
    yield
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, (hard, hard))


def mount(folder: Path, size: int, *options: str) -> bool:
    """Make a folder a file system of that many bytes; with `remount`, change its size. False where this can't be."""
    if sys.platform != "linux":
        return False
    given = ["-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(folder)]
    return subprocess.run(["mount", *given], check=False, capture_output=True).returncode == 0


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs.txt lists, where versions are too old for it: a feature and a pattern of test ids a line."""
    listed = [line.split(" ", 1) for line in (ROOT / "tests" / "needs.txt").read_text().splitlines()]
    patterns = [(name, re.compile(pattern)) for name, pattern in listed]
    for item in items:
        for name, pattern in patterns:
            if pattern.match(item.nodeid.removeprefix("tests/")):
                item.add_marker(NEEDS[name])


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than cores, as tests wait for servers; one file is run by pytest itself."""
    files = [Path(name.partition("::")[0]) for name in config.args]
    alone = len(set(files)) == 1 and files[0].is_file()
    return 0 if alone else (os.cpu_count() or 1) + 1


def write_project(folder: Path, graphs: dict[str, Any], files: dict[str, str], **settings: Any) -> None:
    """A project folder: langgraph.json and its files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    (folder / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs, **settings}))


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for a test module, with the graphs of tests/graphs that its `SERVED` names:
    `SERVED = {"steps": "./steps.py:graph"}`. For tests that do not restart it."""
    folder = tmp_path_factory.mktemp("project")
    served: dict[str, Any] = request.module.SERVED
    write_project(folder, served, {file.name: file.read_text() for file in GRAPHS.glob("*.py")})
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0, live.log


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Makes servers of projects of a test's own: `make_server(graphs, files, *options, **settings)`."""
    made: list[LiveServer] = []

    def make(graphs: dict[str, Any], files: dict[str, str], *options: str, **settings: Any) -> LiveServer:
        folder = tmp_path / f"project{len(made)}"
        folder.mkdir()
        write_project(folder, graphs, files, **settings)
        server = LiveServer(folder, list(options))
        made.append(server)
        return server.start()

    yield make
    for server in made:
        if server.process and server.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if COVERAGE in os.environ:
                    server.stop(wait=8)  # so that it writes what was covered
            server.kill()


@pytest.fixture
async def client(server: LiveServer) -> AsyncIterator[LangGraphClient]:
    made = server.client()
    yield made
    await made.aclose()


@pytest.fixture
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.http() as made:
        yield made


async def eventually(look: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until `look` (sync or async) gives a true value, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        value = look()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        await asyncio.sleep(0.03)


def wait_until(look: Callable[[], Any], seconds: float = 30) -> None:
    """The same for tests without an event loop; nobody needs the value."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(0.03)

"""A PostgreSQL of the machine's own, started in a temporary folder, and virtual environments with other servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is; Debian has them outside of the path."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, PLACES)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL on a free port, as nobody if this is root, and give its address."""
    initdb, server = program("initdb"), program("postgres")
    if not (initdb and server):
        pytest.skip("PostgreSQL is not installed")
    folder.mkdir()
    user = "nobody" if os.getuid() == 0 else None
    if user:
        shutil.chown(folder, user)
        for parent in folder.parents:  # it has to get there
            if parent.stat().st_uid == 0 and parent.is_relative_to("/tmp/pytest-of-root"):  # noqa: S108
                parent.chmod(0o711)
    port, data = free_port(), folder / "data"
    make = [initdb, "-D", str(data), "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    subprocess.run(make, user=user, cwd=folder, check=True, capture_output=True)
    options = ["-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-F"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([server, "-D", str(data), *options], user=user, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        assert process.poll() is None, (folder / "log").read_text()
        yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(30)


def environment(folder: Path, *packages: str, python: str = sys.executable) -> Path:
    """Make a virtual environment with packages, and return its folder of programs. Skips where that cannot be."""
    if os.environ.get("DEVSERVER_OFFLINE"):
        pytest.skip("DEVSERVER_OFFLINE is set")
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *packages], capture_output=True, text=True, timeout=280)
    if done.returncode:
        pytest.skip(f"{' '.join(packages)} cannot be installed: {done.stderr[-300:]}")
    return folder / "bin"

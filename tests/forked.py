"""Starts servers by forking a process that has imported devserver already, which takes longer than all else at a start.

The tests hold one end of a socket that is this process's standard input. For each server they send two descriptors
over it: a socket for the order (a line of JSON) and the answers (the process id, then the exit code), and a pipe for
the server's output. Only Linux forks a process with threads safely: elsewhere each server is a plain process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

COVERAGE = "COVERAGE_PROCESS_CONFIG"  # set where subprocesses are measured
MAIN = "import devserver; devserver.main()"
NUMBER = struct.Struct("i")
MODULES = (  # that every server has when it is up
    "devserver",
    "langchain_core.language_models",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.websockets_sansio_impl",
    "watchfiles",
)


def start_process(
    program: str, arguments: list[str], cwd: Path, env: dict[str, str], command: list[str]
) -> subprocess.Popen[str] | Forked:
    """Start `python -m devserver ARGUMENTS`: forked where that is possible, else as a plain process. A program, which
    is Python text, takes the place of devserver's main(), and a command that of `python -m devserver`."""
    if sys.platform == "linux" and not command:
        return Forked(program, arguments, cwd, env)
    own = ["-c", program] if program else ["-m", "devserver"]
    return subprocess.Popen(
        [*(command or [sys.executable, "-u", *own]), *arguments],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # so that a CTRL_BREAK_EVENT is for it alone
    )


class Forked:
    """A process like one of `python -m devserver ARGUMENTS`, with the methods of subprocess.Popen that tests use.
    A program, which is Python text, takes the place of devserver's main()."""

    def __init__(self, program: str, arguments: list[str], cwd: Path, env: dict[str, str]) -> None:
        self._line, theirs = socket.socketpair()
        read, write = os.pipe()
        socket.send_fds(_parent(), [b"."], [theirs.fileno(), write])
        theirs.close()
        os.close(write)
        self._line.sendall(json.dumps([program or MAIN, arguments, str(cwd), env]).encode() + b"\n")
        self.pid = self._number()
        self.stdout = os.fdopen(read, errors="replace")
        self.returncode: int | None = None

    def _number(self) -> int:
        (number,) = NUMBER.unpack(self._line.recv(NUMBER.size, socket.MSG_WAITALL))
        return int(number)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("devserver", timeout or 0)
            self.returncode = self._number()
            self._line.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _parent() -> socket.socket:
    """The socket to the process that forks. It ends with this one."""
    ours, theirs = socket.socketpair()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONUNBUFFERED": "1"}
    env.pop(COVERAGE, None)
    process = subprocess.Popen([sys.executable, __file__], stdin=theirs.fileno(), env=env)
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve_orders(orders: socket.socket) -> str:
    """Fork for every order; what returns is a server's process, with its program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        _, descriptors, _, _ = socket.recv_fds(orders, 1, 2)
        if not descriptors:
            with contextlib.suppress(ChildProcessError):
                while True:  # so that the time of servers is counted as the tests'
                    os.wait()
            sys.exit()
        if os.fork() == 0:
            orders.close()
            return become_server(*descriptors)
        for each in descriptors:
            os.close(each)


def kill_orphan(line: socket.socket, process_id: int) -> None:
    """Wait for the end of the tests that asked for this process."""
    line.recv(1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)


def become_server(line: int, output: int) -> str:
    """Read the order, fork once more, and report on that process, which is the one that returns its program."""
    with socket.socket(fileno=line) as answers:
        with answers.makefile() as lines:
            program, arguments, cwd, env = json.loads(lines.readline())
        if process_id := os.fork():
            os.close(output)
            answers.sendall(NUMBER.pack(process_id))
            threading.Thread(target=kill_orphan, args=(answers, process_id), daemon=True).start()
            _, status = os.waitpid(process_id, 0)
            with contextlib.suppress(BrokenPipeError):
                answers.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
            os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = cwd
    sys.argv = ["devserver", *arguments]
    if COVERAGE in env:
        importlib.import_module("coverage").process_startup()
    return str(program)


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    exec(serve_orders(socket.socket(fileno=os.dup(0))), {"__name__": "__main__"})  # noqa: S102  as python -c does

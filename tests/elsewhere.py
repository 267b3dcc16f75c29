"""A plugin for pytest that makes Python look as it does on Windows or on macOS, as far as the collection of tests can
see: `DEVSERVER_ELSEWHERE=win32 pytest -p elsewhere --collect-only`. Packages that choose at import what they need of
the machine are imported before; devserver itself and all tests meet the changed Python."""

import asyncio
import multiprocessing
import os
import shutil
import signal
import socket
import sys
from importlib import import_module

PACKAGES = (
    *("a2a.client", "click", "debugpy", "fastapi", "hypothesis.stateful", "langchain.agents", "langgraph.graph"),
    *("langgraph.checkpoint.sqlite.aio", "langgraph.store.sqlite.aio", "mcp", "uvicorn", "watchfiles", "websockets"),
)
ABSENT = {"fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}  # modules
NAMES = {
    os: ("fork", "forkpty", "geteuid", "getuid", "killpg", "mkfifo", "sched_getaffinity", "statvfs", "wait", "WNOHANG"),
    signal: ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1", "alarm", "pthread_sigmask"),
    socket: ("AF_UNIX", "MSG_DONTWAIT", "recv_fds", "send_fds"),
}


class Absent:
    """Finds no module of those that are absent."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


platform = os.environ["DEVSERVER_ELSEWHERE"]
assert asyncio
assert multiprocessing
for package in PACKAGES:
    import_module(package)
if platform == "win32":
    vars(shutil)["which"] = lambda *_, **__: None  # it would ask Windows
    sys.meta_path.insert(0, Absent())
    for module in ABSENT:
        sys.modules.pop(module, None)
    for where, names in NAMES.items():
        for each in names:
            delattr(where, each)
else:
    del import_module("resource").prlimit
sys.platform = platform

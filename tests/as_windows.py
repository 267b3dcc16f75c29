"""`devserver` with what differs on Windows taken away or replaced: a program, or executed with `monkeypatch` set."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import importlib
import math
import os
import selectors
import signal
import socket
import struct
import sys
import time
import types
from pathlib import Path
from typing import Any

TICK = 0.015625  # s
SOCKETS = 512  # that select() takes

monkeypatch: Any = globals().get("monkeypatch")


def put(target: Any, name: str, value: Any) -> None:
    if monkeypatch:
        monkeypatch.setattr(target, name, value, raising=False)
    else:
        setattr(target, name, value)


def put_module(name: str, module: types.ModuleType | None) -> None:
    if monkeypatch:
        monkeypatch.setitem(sys.modules, name, module)
    else:
        sys.modules[name] = module  # type: ignore[assignment]


# -- files --


def locking(fd: int, mode: int, count: int) -> None:
    """As msvcrt.locking: from the file's position on, against everybody, readers too."""
    assert (mode, count) == (2, 1)
    start = os.lseek(fd, 0, os.SEEK_CUR)
    assert start > 1_000_000, "what is there could not be read"
    kind = fcntl.F_RDLCK if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY else fcntl.F_WRLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, start, count, 0))
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None


def refusing_open_files(function: Any) -> Any:
    """A function that deletes or replaces files: none that this process has open."""

    @functools.wraps(function)
    def checked(*paths: Any, dir_fd: int | None = None, **more: Any) -> Any:
        folder = f"/proc/self/fd/{dir_fd}" if dir_fd is not None else "."
        touched = {os.path.realpath(os.path.join(folder, os.fspath(path))) for path in paths}
        if touched & {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}:
            raise PermissionError(errno.EACCES, "The process cannot access the file: it is being used", str(paths[0]))
        if dir_fd is not None:
            more["dir_fd"] = dir_fd
        return function(*paths, **more)

    return checked


msvcrt: Any = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK, msvcrt.locking = 2, locking
put_module("msvcrt", msvcrt)
put_module("fcntl", None)
put_module("resource", None)
for name in ("unlink", "remove", "replace", "rename"):
    put(os, name, refusing_open_files(getattr(os, name)))

# -- sockets --

put(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE)  # changes nothing, and nobody shares by default
put(socket, "SO_REUSEADDR", socket.SO_REUSEPORT)  # several servers may have a port


class Selector(selectors.SelectSelector):
    """select() of Windows: few sockets, and it wakes at ticks of the clock."""

    def _select(self, r: Any, w: Any, _: Any, timeout: float | None = None) -> Any:
        if max(len(r), len(w)) > SOCKETS:
            raise ValueError("too many file descriptors in select()")
        return super()._select(r, w, _, timeout and math.ceil(timeout / TICK) * TICK)  # type: ignore[misc]


class Loop(asyncio.SelectorEventLoop):
    """The selector loop of Windows."""

    def __init__(self) -> None:
        super().__init__(Selector())

    def add_signal_handler(self, *_: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


put(asyncio, "SelectorEventLoop", Loop)

# -- the clock, in a process of its own --


def coarse(real: Any, tick: Any) -> Any:
    return lambda: real() // tick * tick


if not monkeypatch:
    del signal.SIGHUP
    for name in ("time", "monotonic"):
        put(time, name, coarse(getattr(time, name), TICK))
        put(time, f"{name}_ns", coarse(getattr(time, f"{name}_ns"), int(TICK * 1e9)))
    found = vars(time.get_clock_info("monotonic"))
    put(time, "get_clock_info", lambda _: types.SimpleNamespace(**{**found, "resolution": TICK}))

# -- devserver --

devserver = importlib.import_module("devserver")


class System(types.ModuleType):
    """`sys`, of another platform; what is there for all others stays as it is."""

    platform = "win32"

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


put(devserver, "sys", System("sys"))
put(devserver, "MAX_CONNECTIONS", 450)
if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())
    devserver.main()

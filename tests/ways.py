"""How long three ways through the module are, from the request to the last of its run: serves graphs, counts functions.

Run by test_shape in an empty folder. Writes ways.json: by way its functions in the order of their first call, and how
often each was called. Lambdas and comprehensions count as part of the functions that they are in. What goes on without
any request does not count, nor what only some of several runs pass. Of these the one with the fewest calls tells.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import threading
import time
import traceback
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import devserver

APP = """
import operator
from typing import Annotated
from typing_extensions import TypedDict
from langgraph.graph import StateGraph
from devserver import SharedValue

class Plain(TypedDict, total=False):
    log: Annotated[list, operator.add]

class Shared(Plain, total=False):
    info: Annotated[dict, SharedValue.on("user_id")]

async def one(state):
    return {"log": ["one"]}

async def two(state):
    return {"log": ["two"], "info": {"k": {"a": 1}}}

plain = StateGraph(Plain).add_node(one).add_edge("__start__", "one").compile()
shared = StateGraph(Shared).add_node(two).add_edge("__start__", "two").compile()
"""
STREAMED = {"assistant_id": "plain", "input": {"log": []}, "stream_mode": ["values", "updates"]}
STARTED = {"id": 1, "method": "run.start", "params": {"assistant_id": "plain", "input": {"log": []}}}
WRITING = {"assistant_id": "shared", "input": {"log": []}, "config": {"configurable": {"user_id": "u"}}}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "streamed run": ("/runs/stream", STREAMED),
    "protocol run, followed": ("/commands", STARTED),
    "shared value's write": ("/runs/wait", WRITING),
}
RUNS = 3
QUIET_SECONDS = 0.07  # after which a run has left nothing to do

seen: dict[CodeType, int] = {}
counts = False


def note(frame: FrameType, event: str, _: Any) -> None:
    if counts and event == "call" and frame.f_code.co_filename == devserver.__file__:
        seen[frame.f_code] = seen.get(frame.f_code, 0) + 1


def names() -> dict[str, int]:
    """Return what was seen, by name."""
    named: dict[str, int] = {}
    for code, times in seen.items():
        if not re.search(r"<(lambda|genexpr|listcomp|dictcomp|setcomp)>$", code.co_qualname):
            named[code.co_qualname] = named.get(code.co_qualname, 0) + times
    return named


def connect() -> http.client.HTTPConnection:
    """Return a connection to the server, once it answers."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if found := re.search(r"http://localhost:(\d+)", Path("out").read_text()):
            return http.client.HTTPConnection("localhost", int(found[1]), timeout=30)
        time.sleep(0.02)
    raise TimeoutError("the server does not start")


def post(path: str, body: Any) -> http.client.HTTPResponse:
    connection = connect()
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    return connection.getresponse()


def walk(way: str) -> dict[str, int]:
    """Run a way once, on a thread of its own."""
    global counts
    path, body = WAYS[way]
    thread = json.loads(post("/threads", {}).read())["thread_id"]
    follower = None
    if path == "/commands":
        follower = post(f"/threads/{thread}/stream/events", {"channels": ["values", "updates", "lifecycle"]})
    time.sleep(QUIET_SECONDS)
    seen.clear()
    counts = True
    assert b"error" not in post(f"/threads/{thread}{path}", body).read()
    while follower and b'"completed"' not in (line := follower.readline()):
        assert line, "the stream broke off"
    time.sleep(QUIET_SECONDS)
    counts = False
    if follower:
        follower.close()
    return names()


def drive() -> None:
    global counts
    try:
        walk("streamed run")  # also waits for the server
        seen.clear()
        counts = True
        time.sleep(1.1)  # the slowest of what goes on without a request comes each second
        counts = False
        idle = names()
        ways = {}
        for way in WAYS:
            if way.startswith("protocol") and vars(devserver)["RunControl"] is None:
                continue  # LangGraph is too old for it
            runs = [walk(way) for _ in range(1 + RUNS)][1:]  # the first one makes what lasts
            least = min(runs, key=lambda run: sum(run.values()))
            always = set.intersection(*map(set, runs)) - idle.keys()
            ways[way] = {name: times for name, times in least.items() if name in always}
        Path("ways.json").write_text(json.dumps(ways))
    except BaseException:
        traceback.print_exc()
    os._exit(0)


def main() -> None:
    Path("app.py").write_text(APP)
    Path("langgraph.json").write_text('{"graphs": {"plain": "./app.py:plain", "shared": "./app.py:shared"}}')
    sys.stdout = Path("out").open("w", buffering=1)  # noqa: SIM115  read while the server goes on
    threading.setprofile(note)
    sys.setprofile(note)
    threading.Thread(target=drive, daemon=True).start()
    devserver.main(["up", "--port", "0", "--no-reload"])


if __name__ == "__main__":
    main()

"""Any sequence of requests against a model of the server: threads, runs, cancels, copies, items, shared values.

DEVSERVER_MACHINE_EXAMPLES sets how many sequences are tried, DEVSERVER_MACHINE_STEPS how long each may be.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveServer, write_project
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

EXAMPLES = int(os.environ.get("DEVSERVER_MACHINE_EXAMPLES", "15"))
STEPS = int(os.environ.get("DEVSERVER_MACHINE_STEPS", "20"))
GRAPH = """
    import asyncio
    import operator
    from typing import Annotated, Any

    from langgraph.graph import START, StateGraph
    from langgraph.types import interrupt
    from typing_extensions import TypedDict

    from devserver import SharedValue

    class State(TypedDict, total=False):
        how: str
        trail: Annotated[list[str], operator.add]
        shared: Annotated[dict[str, Any], SharedValue.on("user_id")]

    async def one(state):
        return {"trail": ["one"], "shared": {state["how"]: {"n": len(state["trail"])}}}

    async def two(state):
        if state["how"] == "fail":
            raise ValueError("as asked")
        if state["how"] == "wait":
            await asyncio.sleep(600)
        if state["how"] == "ask":
            return {"trail": [interrupt("what?")]}
        return {"trail": ["two"]}

    graph = StateGraph(State).add_sequence([one, two]).add_edge(START, "one").compile()
"""
USERS = st.sampled_from(["u", "v@example.org"])
METADATA = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 2) | st.none(), max_size=2)
LABELS = st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=2).map(tuple)


class Server(RuleBasedStateMachine):
    """The model: what each thread holds, and how it stands."""

    threads: Bundle[str] = Bundle("threads")
    live: LiveServer

    def __init__(self) -> None:
        super().__init__()
        self.http = self.live.http()
        self.mark = str(uuid.uuid4())  # of the threads, items and users of this example
        self.metadata: dict[str, dict[str, Any]] = {}
        self.trail: dict[str, list[str]] = {}
        self.status: dict[str, str] = {}
        self.runs: dict[str, list[str]] = {}  # the statuses of each thread's runs, in order
        self.waiting: dict[str, str] = {}  # run id of the one that sleeps
        self.queued: dict[str, list[str]] = {}  # users of the runs behind it
        self.items: dict[tuple[tuple[str, ...], str], dict[str, Any]] = {}
        self.shared: dict[str, dict[str, Any]] = {}  # of each user

    def teardown(self) -> None:
        for thread in self.metadata:
            self.http.delete(f"/threads/{thread}").raise_for_status()
        self.http.close()

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self.http.request(method, path, json=body, params=query).raise_for_status()
        return answer.json() if answer.content else None

    def config(self, user: str) -> dict[str, Any]:
        return {"configurable": {"user_id": f"{user}/{self.mark}"}}

    # -- threads --

    @rule(target=threads, metadata=METADATA)
    def make_thread(self, metadata: dict[str, Any]) -> str:
        thread = str(self.ask("POST", "/threads", {"metadata": {**metadata, "mark": self.mark}})["thread_id"])
        self.metadata[thread] = {**metadata, "mark": self.mark}
        self.trail[thread], self.status[thread], self.runs[thread], self.queued[thread] = [], "idle", [], []
        return thread

    @rule(thread=threads, metadata=METADATA)
    def patch_thread(self, thread: str, metadata: dict[str, Any]) -> None:
        self.ask("PATCH", f"/threads/{thread}", {"metadata": metadata})
        self.metadata[thread] |= metadata

    @rule(target=threads, thread=threads)
    def copy_thread(self, thread: str) -> Any:
        if thread in self.waiting:
            return thread
        copy = str(self.ask("POST", f"/threads/{thread}/copy")["thread_id"])
        self.metadata[copy], self.trail[copy] = dict(self.metadata[thread]), list(self.trail[thread])
        # a thread that failed waits at the node that failed
        self.status[copy], self.runs[copy], self.queued[copy] = self.status[thread], [], []
        return copy

    @rule(thread=consumes(threads))
    def delete_thread(self, thread: str) -> None:
        if thread not in self.metadata:  # it was in the bundle twice
            return
        self.ask("DELETE", f"/threads/{thread}")
        assert self.http.get(f"/threads/{thread}").status_code == 404
        for each in (self.metadata, self.trail, self.status, self.runs, self.queued):
            del each[thread]
        self.waiting.pop(thread, None)

    # -- runs --

    def known(self, thread: str) -> bool:
        return thread in self.metadata

    def begun(self, thread: str, how: str, user: str) -> None:
        """What the first node does."""
        self.trail[thread] += [f"in {how}"]
        self.shared.setdefault(user, {})[how] = {"n": len(self.trail[thread])}
        self.trail[thread] += ["one"]
        self.metadata[thread] |= {"graph_id": "graph"}

    def sent(self, how: str, user: str, **more: Any) -> dict[str, Any]:
        given = {"how": how, "trail": [f"in {how}"]}
        return {"assistant_id": "graph", "input": given, "config": self.config(user), **more}

    @rule(thread=threads, how=st.sampled_from(["", "ask", "fail"]), user=USERS, streams=st.booleans())
    def run(self, thread: str, how: str, user: str, streams: bool) -> None:
        if not self.known(thread) or thread in self.waiting:
            return
        path = f"/threads/{thread}/runs/{'stream' if streams else 'wait'}"
        answer = self.http.post(path, json=self.sent(how, user)).raise_for_status()
        self.begun(thread, how, user)
        if how == "":
            self.trail[thread] += ["two"]
        self.status[thread] = {"": "idle", "ask": "interrupted", "fail": "error"}[how]
        self.runs[thread] += ["error" if how == "fail" else "success"]
        if not streams and how == "":
            assert answer.json()["trail"] == self.trail[thread]
        if not streams and how == "fail":
            assert answer.json()["__error__"] == {"error": "ValueError", "message": "as asked"}

    @rule(thread=threads, user=USERS)
    def answer(self, thread: str, user: str) -> None:
        if not self.known(thread) or self.status[thread] != "interrupted":
            return
        body = {"assistant_id": "graph", "command": {"resume": "told"}, "config": self.config(user)}
        assert self.ask("POST", f"/threads/{thread}/runs/wait", body)["trail"][-1] == "told"
        self.trail[thread] += ["told"]
        self.status[thread] = "idle"
        self.runs[thread] += ["success"]

    @rule(thread=threads, user=USERS)
    def run_that_sleeps(self, thread: str, user: str) -> None:
        if not self.known(thread) or thread in self.waiting:
            return
        self.waiting[thread] = self.ask("POST", f"/threads/{thread}/runs", self.sent("wait", user))["run_id"]
        self.begun(thread, "wait", user)
        self.status[thread] = "busy"
        self.runs[thread] += ["running"]
        self.until(lambda: self.at_second_node(thread))

    def at_second_node(self, thread: str) -> bool:
        """Whether the checkpoint is stored that comes before it. A state shows the values of what a node wrote before
        that, and a thread that asked or failed was at that node before."""
        state = self.ask("GET", f"/threads/{thread}/state")
        return bool(state["next"] == ["two"] and state["values"].get("trail") == self.trail[thread])

    @rule(thread=threads, user=USERS, strategy=st.sampled_from(["reject", "enqueue"]))
    def run_behind_it(self, thread: str, user: str, strategy: str) -> None:
        if thread not in self.waiting:
            return
        answer = self.http.post(f"/threads/{thread}/runs", json=self.sent("", user, multitask_strategy=strategy))
        assert answer.status_code == (409 if strategy == "reject" else 200)
        if strategy == "enqueue":
            self.queued[thread] += [user]
            self.runs[thread] += ["pending"]

    @rule(thread=threads, action=st.sampled_from(["interrupt", "rollback"]))
    def cancel(self, thread: str, action: str) -> None:
        if thread not in self.waiting:
            return
        run = self.waiting.pop(thread)
        self.ask("POST", f"/threads/{thread}/runs/{run}/cancel", action=action, wait=1)
        index = self.runs[thread].index("running")
        if action == "rollback":
            self.trail[thread] = self.trail[thread][:-2]
            del self.runs[thread][index]
        else:
            self.runs[thread][index] = "interrupted"
        self.until(lambda: self.ask("GET", f"/threads/{thread}")["status"] != "busy")
        for user in self.queued[thread]:
            self.begun(thread, "", user)
            self.trail[thread] += ["two"]
        self.runs[thread] = [status.replace("pending", "success") for status in self.runs[thread]]
        # what it is at rest, if nothing ran after the one that was cancelled, the server has to say
        self.status[thread] = "idle" if self.queued[thread] else self.ask("GET", f"/threads/{thread}")["status"]
        self.queued[thread] = []

    def until(self, look: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not look():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    # -- items and shared values --

    @rule(namespace=LABELS, key=st.sampled_from(["k", "l"]), value=METADATA)
    def put_item(self, namespace: tuple[str, ...], key: str, value: dict[str, Any]) -> None:
        self.ask("PUT", "/store/items", {"namespace": [self.mark, *namespace], "key": key, "value": value})
        self.items[namespace, key] = value

    @rule(namespace=LABELS, key=st.sampled_from(["k", "l"]))
    def delete_item(self, namespace: tuple[str, ...], key: str) -> None:
        self.ask("DELETE", "/store/items", {"namespace": [self.mark, *namespace], "key": key})
        self.items.pop((namespace, key), None)

    @invariant()
    def items_are_as_modelled(self) -> None:
        found = self.ask("POST", "/store/items/search", {"namespace_prefix": [self.mark], "limit": 100})["items"]
        assert {(tuple(i["namespace"][1:]), i["key"]): i["value"] for i in found} == self.items

    @invariant()
    def shared_values_are_as_modelled(self) -> None:
        for user, values in self.shared.items():
            scope = f"{user}/{self.mark}".replace(".", "%2E")
            namespace = ["scoped", "user_id", "shared", scope]
            found = self.ask("POST", "/store/items/search", {"namespace_prefix": namespace})["items"]
            assert {item["key"]: item["value"] for item in found} == values

    # -- what holds at any time --

    @invariant()
    def threads_are_as_modelled(self) -> None:
        found = self.ask("POST", "/threads/search", {"metadata": {"mark": self.mark}, "limit": 1000})
        assert {each["thread_id"]: each["status"] for each in found} == self.status
        for each in found:
            thread = each["thread_id"]
            shown = {key: each["metadata"].get(key) for key in self.metadata[thread]}
            assert shown == self.metadata[thread]
            state = self.ask("GET", f"/threads/{thread}/state")["values"]
            assert state.get("trail", []) == self.trail[thread]
            if thread not in self.waiting:
                assert ((each["values"] or {}).get("trail") or []) == self.trail[thread]
            runs = self.ask("GET", f"/threads/{thread}/runs", limit=100)
            assert [run["status"] for run in runs][::-1] == self.runs[thread]


@pytest.fixture(scope="module")
def machine() -> Iterator[type[Server]]:
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder), {"graph": "./graph.py:graph"}, {"graph.py": GRAPH})
        live = LiveServer(Path(folder), ["--no-reload"]).start()
        yield type("ServerMachine", (Server,), {"live": live})
        assert live.stop() == 0
        assert "could not be stored" not in live.log


@pytest.mark.timeout(300 + EXAMPLES * STEPS)
def test_any_sequence_of_requests_does_what_the_model_says(machine: type[Server]) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    bounds = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=checks,
    )
    run_state_machine_as_test(machine, settings=bounds)

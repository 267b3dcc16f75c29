"""A run's end: its state is not read where its last values are known to be it, and is written as JSON once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import NEEDS, LiveServer, write_project

NODES = """
import operator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any
from devserver import SharedValue
from langgraph.channels import EphemeralValue, LastValue, Topic, UntrackedValue
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

class State(TypedDict, total=False):
    log: Annotated[list, operator.add]
    n: int

def one(state):
    return {"log": ["one"], "n": 1}

def two(state):
    return {"log": ["two"]}

def chain(schema=State, first=one, second=two, nested=None, output=None, **options):
    graph = StateGraph(schema, output_schema=output) if output else StateGraph(schema)
    graph.add_node("one", first).add_node("two", nested or second).add_edge(START, "one").add_edge("one", "two")
    return graph.compile(**options)

plain = chain()
before, after = chain(interrupt_before=["two"]), chain(interrupt_after=["one"])
nested_before = chain(nested=chain(interrupt_before=["two"]))
asks = chain(second=lambda state: {"log": [interrupt("?")]})
nested_asks = chain(nested=chain(second=lambda state: {"log": [interrupt("?")]}))
nested = chain(nested=chain())

class Narrow(TypedDict, total=False):
    n: int

narrower = chain(output=Narrow)

class Other(TypedDict, total=False):
    n: int
    log: Annotated[list, operator.add]

other_order = chain(output=Other)

class Unwritten(State, total=False):  # an aggregate is empty before anything is written to it
    marks: Annotated[list, operator.add]
    count: Annotated[int, operator.add]
    best: Annotated[str | None, lambda a, b: b]

unwritten = chain(Unwritten)

class Shared(State, total=False):
    info: Annotated[dict, SharedValue.on("user")]

shared = chain(Shared, second=lambda state: {"log": ["two"], "info": {"k": {"a": 1}}})

class Odd(State, total=False):
    passing: Annotated[Any, EphemeralValue]
    unkept: Annotated[Any, UntrackedValue]
    topic: Annotated[list, Topic(str)]

def writes_odd(state):
    return {"log": ["odd"], "passing": "p", "unkept": "u", "topic": "t"}

odd_first, odd_last = chain(Odd, first=writes_odd), chain(Odd, second=writes_odd)

class Doubling(LastValue):
    def from_checkpoint(self, checkpoint):
        channel = super().from_checkpoint(checkpoint)
        if isinstance(checkpoint, int):
            channel.value = checkpoint * 2
        return channel

class OfOwn(State, total=False):
    twice: Annotated[int, Doubling]

own_channel = chain(OfOwn, second=lambda state: {"twice": 1})

class Model(BaseModel):
    log: Annotated[list, operator.add] = []
    n: int = 0

@dataclass
class Data:
    log: Annotated[list, operator.add] = field(default_factory=list)
    n: int = 0

model, data = chain(Model), chain(Data)
root = StateGraph(Annotated[list, operator.add])
root = root.add_node("one", lambda state: ["one"]).add_edge(START, "one").compile()
goes = chain(first=lambda state: Command(update={"log": ["one"]}, goto=END))
barrier = StateGraph(State).add_node("one", one).add_node("two", two).add_node("last", one)
barrier = barrier.add_edge(START, "one").add_edge(START, "two").add_edge(["one", "two"], "last").compile()
sends = StateGraph(State).add_node("one", one).add_node("two", two)
sends = sends.add_edge(START, "one").add_conditional_edges("one", lambda state: [Send("two", {})] * 2, ["two"])
sends = sends.compile()

def changes(state):
    state["log"].append("in place")
    return {}

in_place = chain(second=changes)

async def calls(state):
    await plain_here.ainvoke({"log": ["other"]}, {"configurable": {"thread_id": "other"}})
    return {"log": ["called"]}

plain_here = chain(checkpointer=None)
calling = chain(second=calls)

@entrypoint()
def function(given):
    return {"log": ["done"]}

def fails(state):
    raise ValueError("no")

failing = chain(second=fails)

class Price(Decimal):
    written = 0

    def is_finite(self):
        Price.written += 1
        return super().is_finite()

class Priced(State, total=False):
    price: Any

priced = chain(Priced, second=lambda state: {"price": Price("1.5")})
written = chain(second=lambda state: {"n": Price.written})
"""
NAMES = [
    *(
        "plain",
        "before",
        "after",
        "nested_before",
        "asks",
        "nested_asks",
        "nested",
        "narrower",
        "other_order",
        "unwritten",
        "shared",
    ),
    *(
        "odd_first",
        "odd_last",
        "own_channel",
        "model",
        "data",
        "root",
        "goes",
        "barrier",
        "sends",
        "in_place",
        "calling",
    ),
    *("function", "failing"),
]
GIVEN: dict[str, Any] = {"config": {"configurable": {"user": "u"}}}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("ends")
    served = {name: f"./nodes.py:{name}" for name in (*NAMES, "priced", "written")}
    write_project(folder, served, {"nodes.py": NODES})
    started = LiveServer(folder, ["--no-reload"]).start()
    yield started
    assert started.stop() == 0, started.log


@pytest.fixture
def http(live: LiveServer) -> Iterator[httpx.Client]:
    with live.http() as client:
        yield client


def run(http: httpx.Client, graph: str, thread: str | None = None, way: str = "wait", **more: Any) -> tuple[str, Any]:
    """Run a graph, also by an event stream or in the background; return its thread, and the result."""
    thread = thread or http.post("/threads", json={}).json()["thread_id"]
    given = ["in"] if graph == "root" else {"log": ["in"]}
    body = {"assistant_id": graph, "input": given, **GIVEN, **more}
    if way == "background":
        made = http.post(f"/threads/{thread}/runs", json=body).json()
        return thread, http.get(f"/threads/{thread}/runs/{made['run_id']}/join").json()
    answer = http.post(f"/threads/{thread}/runs/{way}", json=body)
    answer.raise_for_status()
    return thread, answer.json() if way == "wait" else None


def check(http: httpx.Client, thread: str) -> dict[str, Any]:
    """Compare what the thread shows with its state, which is read from its checkpoints."""
    shown: dict[str, Any] = http.get(f"/threads/{thread}").json()
    state = http.get(f"/threads/{thread}/state").json()
    assert shown["values"] == state["values"]
    assert shown["status"] in ("interrupted" if state["next"] else "idle", "error")
    asked = {task["id"]: task["interrupts"] for task in state["tasks"] if task["interrupts"]}
    assert shown["interrupts"] == asked
    return shown


@pytest.mark.parametrize("graph", NAMES)
@pytest.mark.parametrize("way", ["wait", "stream", "background"])
def test_a_thread_shows_the_state_that_its_checkpoints_hold(http: httpx.Client, graph: str, way: str) -> None:
    modes = [["values"], ["values", "updates"], ["updates"], ["values", "events"]] if way == "stream" else [["values"]]
    for mode in modes:
        thread, result = run(http, graph, way=way, stream_mode=mode)
        shown = check(http, thread)
        if way != "stream" and graph not in ("narrower", "failing", "odd_first", "odd_last", "own_channel"):
            told = (
                {key: value for key, value in result.items() if key != "__interrupt__"} if graph != "root" else result
            )
            assert told == shown["values"] or shown["interrupts"]
        run(http, graph, thread, way, stream_mode=mode)  # a second one, on what the first one left
        check(http, thread)


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"interrupt_before": ["two"]}, "interrupted"),
        ({"interrupt_before": "*"}, "interrupted"),
        ({"interrupt_after": ["one"]}, "interrupted"),
        ({"interrupt_after": ["two"]}, "idle"),
        ({"durability": "exit"}, "idle"),
        ({"durability": "sync"}, "idle"),
        ({"stream_subgraphs": True}, "idle"),
        ({"stream_resumable": True}, "idle"),
        ({"multitask_strategy": "interrupt"}, "idle"),
    ],
    ids=str,
)
@pytest.mark.parametrize("graph", ["plain", "nested", "barrier", "sends"])
def test_so_it_does_whatever_a_run_was_asked_for(http: httpx.Client, graph: str, more: Any, status: str) -> None:
    thread, _ = run(http, graph, **more)
    if graph == "plain":
        assert check(http, thread)["status"] == status
    check(http, thread)
    if check(http, thread)["status"] == "interrupted":
        http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": graph, "input": None}).raise_for_status()
        check(http, thread)


def test_so_it_does_after_an_answer_and_after_a_fork(http: httpx.Client) -> None:
    thread, _ = run(http, "asks")
    assert check(http, thread)["status"] == "interrupted"
    answer = {"assistant_id": "asks", "command": {"resume": "yes"}}
    http.post(f"/threads/{thread}/runs/wait", json=answer).raise_for_status()
    assert check(http, thread)["values"]["log"] == ["in", "one", "yes"]
    thread, _ = run(http, "plain")
    history = http.post(f"/threads/{thread}/history", json={"limit": 10}).json()
    again = {"assistant_id": "plain", "input": None, "checkpoint_id": history[1]["checkpoint_id"]}
    http.post(f"/threads/{thread}/runs/wait", json=again).raise_for_status()
    assert check(http, thread)["values"] == history[0]["values"]


@NEEDS["streaming"]
def test_so_it_does_after_a_run_of_the_event_streaming_protocol(http: httpx.Client) -> None:
    thread = http.post("/threads", json={}).json()["thread_id"]
    params = {"assistant_id": "plain", "input": {"log": ["in"]}}
    http.post(f"/threads/{thread}/commands", json={"id": 1, "method": "run.start", "params": params}).raise_for_status()
    [made] = http.get(f"/threads/{thread}/runs").json()
    http.get(f"/threads/{thread}/runs/{made['run_id']}/join")
    assert check(http, thread)["values"] == {"log": ["in", "one", "two"], "n": 1}


def test_so_it_does_when_the_server_stops_amid_a_run(make_server: Callable[..., LiveServer]) -> None:
    slow = """
    import operator, time
    from typing import Annotated
    from langgraph.graph import StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        log: Annotated[list, operator.add]

    def step(name):
        def node(state):
            time.sleep(0.5)
            return {"log": [name]}
        return node

    graph = StateGraph(State).add_sequence([(name, step(name)) for name in "abc"]).set_entry_point("a").compile()
    """
    server = make_server({"slow": "./slow.py:graph"}, {"slow.py": slow})
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        body = {"assistant_id": "slow", "input": {"log": []}}
        made = http.post(f"/threads/{thread}/runs", json=body).json()
    server.stop()
    server.start()
    with server.http() as http:
        http.get(f"/threads/{thread}/runs/{made['run_id']}/join")
        assert check(http, thread)["values"] == {"log": ["a", "b", "c"]}


@pytest.mark.parametrize("way", ["wait", "background"])
def test_the_final_json_is_made_once(http: httpx.Client, way: str) -> None:
    """A value that counts how often it is written as JSON."""

    def count() -> int:
        return int(run(http, "written")[1]["n"])

    thread, _ = run(http, "priced", way=way)
    before = count()
    thread, result = run(http, "priced", way=way)
    assert count() - before == 1
    assert result == http.get(f"/threads/{thread}").json()["values"]
    assert result["price"] == 1.5


def test_the_result_of_a_run_that_is_over_is_what_its_thread_keeps(http: httpx.Client) -> None:
    for graph, status in (("plain", "idle"), ("narrower", "idle"), ("asks", "interrupted"), ("failing", "error")):
        thread, result = run(http, graph)
        [made] = http.get(f"/threads/{thread}/runs").json()
        assert check(http, thread)["status"] == status
        joined = http.get(f"/threads/{thread}/runs/{made['run_id']}/join").json()
        if graph == "asks":  # a question, without what was there before it
            assert [each["id"] for each in joined.pop("__interrupt__")] == [result["__interrupt__"][0]["id"]]
            result = {}
        assert joined == result

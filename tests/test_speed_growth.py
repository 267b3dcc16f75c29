"""Threads that grow: all but the latest states of a history can be pruned, and a large thread is warned of once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, NEEDS, LiveServer, wait_until, write_project
from langgraph.graph import StateGraph
from test_persistence import AT, State, db  # noqa: F401  a fixture

import devserver

DELTA = """
from typing import Annotated, Any
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import StateGraph
from typing_extensions import TypedDict

class State(TypedDict, total=False):
    text: Annotated[list[Any], DeltaChannel(lambda old, new: [*(old or []), *(each for some in new for each in some)])]

deltas = StateGraph(State).add_sequence([(name, lambda state: {"text": ["a"]}) for name in "abc"])
deltas = deltas.set_entry_point("a").compile()
"""
FILES = {name: (GRAPHS / name).read_text() for name in ("ageing.py", "basic.py")} | {"delta.py": DELTA}
SERVED = {"talk": "./ageing.py:talk", "steps": "./basic.py:steps", "nested": "./basic.py:nested"}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("growth")
    served = SERVED | ({} if NEEDS["delta"].args[0] else {"deltas": "./delta.py:deltas"})
    write_project(folder, served, FILES)
    started = LiveServer(folder, ["--no-reload"]).start()
    yield started
    assert started.stop() == 0, started.log


@pytest.fixture
def http(live: LiveServer) -> Iterator[httpx.Client]:
    with live.http() as client:
        yield client


def history(http: httpx.Client, thread: str) -> list[Any]:
    """Return each state with those of its subgraphs, newest first."""
    states = http.post(f"/threads/{thread}/history", json={"limit": 100}).json()
    places = [each["checkpoint"] for each in states]
    return [
        http.post(f"/threads/{thread}/state/checkpoint", json={"checkpoint": place, "subgraphs": True}).json()
        for place in places
    ]


def grown(http: httpx.Client, graph: str, folder: Path, **options: Any) -> str:
    """Return a thread that has had some runs; one of `talk` ends with a question of its subgraph."""
    thread: str = http.post("/threads", json=options).json()["thread_id"]
    texts: list[Any] = [{"text": ["a"] if graph == "deltas" else "a"}] * 3
    for given in [{"text": "a"}, {"resume": "one"}, {"text": "b"}] if graph == "talk" else texts:
        body = {"command": given} if "resume" in given else {"input": {**given, "gate": str(folder / thread)}}
        http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": graph, **body}).raise_for_status()
    return thread


def prune(http: httpx.Client, thread: str, keep: Any) -> httpx.Response:
    body = {"thread_ids": [thread], "strategy": "keep_latest", "keep": keep}
    return http.post("/threads/prune", json=body)


@pytest.mark.parametrize("graph", ["steps", "nested", "talk", pytest.param("deltas", marks=NEEDS["delta"])])
@pytest.mark.parametrize("keep", [1, 2, 3, 1000])
def test_the_latest_states_stay_as_they_are(http: httpx.Client, live: LiveServer, graph: str, keep: int) -> None:
    thread = grown(http, graph, live.folder)
    before, shown = history(http, thread), http.get(f"/threads/{thread}").json()
    assert len(before) > 3
    assert prune(http, thread, keep).json() == {"pruned_count": 1}
    after = history(http, thread)
    kept = before[:keep]
    if graph == "deltas":  # the checkpoints that hold the parts of the oldest one are kept with it
        assert [each["values"] for each in after[: len(kept)]] == [each["values"] for each in kept]
        return
    if len(kept) < len(before):
        kept[-1]["parent_checkpoint"] = kept[-1]["parent_checkpoint_id"] = None
    assert without_ancestry(after) == without_ancestry(kept)
    assert http.get(f"/threads/{thread}").json() == shown


def without_ancestry(states: list[Any]) -> list[Any]:
    """The states, without the parents of those of subgraphs: of each only the newest stays."""

    def shown(state: Any) -> Any:
        tasks = [{**task, "state": task["state"] and shown(task["state"])} for task in state["tasks"]]
        hidden = ("parent_checkpoint", "parent_checkpoint_id")
        return {**{key: value for key, value in state.items() if key not in hidden}, "tasks": tasks}

    return [shown(state) for state in states]


@pytest.mark.parametrize("keep", [0, -1, 1.5, "two", 2**70])
def test_how_many_states_to_keep_is_a_whole_number(http: httpx.Client, keep: Any) -> None:
    thread = http.post("/threads", json={}).json()["thread_id"]
    assert prune(http, thread, keep).status_code == 422
    ttl = {"ttl": 1, "strategy": "keep_latest", "keep": keep}
    assert http.patch(f"/threads/{thread}", json={"ttl": ttl}).status_code == 422


def test_a_thread_s_own_time_to_live_says_how_many_stay(http: httpx.Client, live: LiveServer) -> None:
    thread = grown(http, "steps", live.folder, ttl={"ttl": 60, "strategy": "keep_latest", "keep": 4})
    before = history(http, thread)
    http.patch(f"/threads/{thread}", json={"ttl": {"ttl": 0.002, "strategy": "keep_latest", "keep": 4}})
    wait_until(lambda: len(http.post(f"/threads/{thread}/history", json={"limit": 100}).json()) == 4)
    assert without_ancestry(history(http, thread)) == without_ancestry(before[:4])


def test_langgraph_json_says_how_many_stay(make_server: Callable[..., LiveServer]) -> None:
    ttl = {"strategy": "keep_latest", "keep": 2, "default_ttl": 0.002}
    server = make_server({"steps": "./basic.py:steps"}, FILES, checkpointer={"ttl": ttl})
    with server.http() as http:
        thread = grown(http, "steps", server.folder)
        wait_until(lambda: len(http.post(f"/threads/{thread}/history", json={"limit": 100}).json()) == 2)


async def test_a_large_thread_is_warned_of_once(
    db: devserver.Db,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(devserver.Saver, "LARGE_BYTES", 100_000)
    saver = devserver.Saver(db, devserver.CheckpointerSerde().serializer())
    graph = StateGraph(State).add_node("one", lambda state: {"trail": ["x" * 1000]}).set_entry_point("one")
    compiled: Any = graph.compile(saver)

    def warnings() -> list[str]:
        return [each.getMessage() for each in caplog.records if "takes" in each.getMessage()]

    with caplog.at_level(logging.WARNING, "devserver"):
        for _ in range(4):
            await compiled.ainvoke({"trail": []}, AT)
        assert warnings() == []
        for _ in range(20):
            await compiled.ainvoke({"trail": []}, AT)
    [warning] = warnings()
    assert warning.startswith("thread t takes 0 MB")
    assert "keep_latest" in warning
    assert "checkpointer.ttl" in warning

"""What a thread's checkpoints hold: states, histories, updates, forks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import BadRequestError, ConflictError, NotFoundError

SERVED = {
    name: f"./basic.py:{name}" for name in ("steps", "failing", "gated", "question", "nested", "typed", "workflow")
}
DONE: dict[str, Any] = {"text": "hi!", "trail": ["first", "second", "third"], "total": 111}
EMPTY: dict[str, Any] = {
    "values": {},
    "next": [],
    "tasks": [],
    "interrupts": [],
    "metadata": None,
    "created_at": None,
    "checkpoint": None,
    "parent_checkpoint": None,
    "checkpoint_id": None,
    "parent_checkpoint_id": None,
}


async def after_run(client: LangGraphClient, graph_id: str, given: Any) -> str:
    """A thread on which a graph has run."""
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, graph_id, input=given, raise_error=False)
    return thread_id


async def history(client: LangGraphClient, thread_id: str, **search: Any) -> list[Any]:
    found: list[Any] = list(await client.threads.get_history(thread_id, **{"limit": 100, **search}))
    return found


def checkpoint_id(state: Any) -> str:
    return str(state["checkpoint"]["checkpoint_id"])


def checkpoints(server: LiveServer, thread_id: str) -> int:
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
        found = conn.execute("SELECT count(*) FROM checkpoints WHERE thread_id = ?", (thread_id,)).fetchone()
        return int(found[0])


# Read


async def test_a_thread_without_a_run_has_an_empty_state(client: LangGraphClient) -> None:
    thread = await client.threads.create()
    assert await client.threads.get_state(thread["thread_id"]) == EMPTY
    assert await history(client, thread["thread_id"]) == []


async def test_a_state_tells_values_place_and_origin(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "steps", input={"text": "hi"}, metadata={"purpose": "test"})
    await client.runs.join(thread_id, run["run_id"])
    state: Any = await client.threads.get_state(thread_id)
    assert (state["values"], state["next"], state["tasks"], state["interrupts"]) == (DONE, [], [], [])
    assert state["checkpoint"].keys() == {"thread_id", "checkpoint_ns", "checkpoint_id"}
    assert state["checkpoint"]["thread_id"] == thread_id
    assert state["checkpoint_id"] == checkpoint_id(state)
    assert state["parent_checkpoint_id"] == state["parent_checkpoint"]["checkpoint_id"]
    wanted = {"source": "loop", "step": 3, "run_id": run["run_id"], "graph_id": "steps", "purpose": "test"}
    assert {key: state["metadata"].get(key) for key in wanted} == wanted


async def test_a_history_is_the_chain_of_states_newest_first(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "steps", {"text": "hi"})
    states = await history(client, thread_id)
    assert [state["metadata"]["step"] for state in states] == [3, 2, 1, 0, -1]
    assert [state["metadata"]["source"] for state in states] == ["loop"] * 4 + ["input"]
    assert [state["next"] for state in states] == [[], ["third"], ["second"], ["first"], ["__start__"]]
    assert [state["values"].get("trail") for state in states[:4]] == [DONE["trail"], ["first", "second"], ["first"], []]
    assert [state["parent_checkpoint_id"] for state in states] == [*map(checkpoint_id, states[1:]), None]
    assert states[0] == await client.threads.get_state(thread_id)
    [task] = states[1]["tasks"]
    assert (task["name"], task["result"]) == ("third", {"trail": ["third"], "total": 100, "text": "hi!"})


async def test_a_history_is_searched_by_limit_place_and_metadata(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "steps", {})
    states = await history(client, thread_id)
    assert await history(client, thread_id, limit=2) == states[:2]
    assert await history(client, thread_id, before={"checkpoint_id": checkpoint_id(states[1])}) == states[2:]
    before = {"configurable": {"checkpoint_id": checkpoint_id(states[1])}}
    assert await history(client, thread_id, before=before, limit=1) == states[2:3]
    assert await history(client, thread_id, metadata={"source": "input"}) == states[4:]
    assert await history(client, thread_id, metadata={"step": 1}) == states[2:3]
    assert await history(client, thread_id, checkpoint={"checkpoint_id": checkpoint_id(states[3])}) == states[3:4]


def test_a_history_is_read_with_get_as_well(http: httpx.Client) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": "steps", "input": {}})
    path = f"/threads/{thread_id}/history"
    states = http.get(path, params={"limit": 50}).json()
    assert len(states) == 5
    assert http.get(path).json() == states[:1]
    assert http.get(path, params={"limit": 0}).json() == []
    assert http.get(path, params={"limit": 2, "before": checkpoint_id(states[0])}).json() == states[1:3]
    assert http.get(path, params={"limit": "many"}).json() == {"detail": "Invalid limit many"}
    assert http.get(path, params={"limit": "-1"}).status_code == 422


async def test_each_state_can_be_read_again_by_its_checkpoint(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "steps", {})
    for state in await history(client, thread_id):
        place = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": checkpoint_id(state)}
        by_id: Any = await client.threads.get_state(thread_id, checkpoint_id=checkpoint_id(state))
        by_place: Any = await client.threads.get_state(thread_id, checkpoint=place)  # type: ignore[arg-type]
        assert by_place == state
        assert by_id["values"] == state["values"]
        assert by_id["next"] == state["next"]


async def test_a_place_without_a_checkpoint_id_is_the_latest(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "steps", {"text": "hi"})
    for place in ({}, {"thread_id": thread_id}, {"checkpoint_ns": ""}):
        state = await client.threads.get_state(thread_id, checkpoint=place)  # type: ignore[arg-type]
        assert state["values"] == DONE


@pytest.mark.parametrize("unknown", ["00000000-0000-4000-8000-000000000001", "nonsense", "a b", "..%2F", "é"])
async def test_an_unknown_checkpoint_has_an_empty_state(client: LangGraphClient, unknown: str) -> None:
    thread_id = await after_run(client, "steps", {})
    state: Any = await client.threads.get_state(thread_id, checkpoint_id=unknown)
    assert (state["values"], state["next"], state["metadata"]) == ({}, [], None)


async def test_a_state_of_a_graph_that_is_not_served_is_not_found(client: LangGraphClient) -> None:
    thread = await client.threads.create(graph_id="gone")
    with pytest.raises(NotFoundError, match="Graph 'gone' not found"):
        await client.threads.get_state(thread["thread_id"])


async def test_a_failed_task_shows_its_error(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "failing", {"kind": "value"})
    state: Any = await client.threads.get_state(thread_id)
    [task] = state["tasks"]
    assert (task["name"], task["error"], task["result"]) == ("fail", "ValueError('no good value')", None)
    assert state["next"] == ["fail"]
    assert state["values"] == {"kind": "value", "trail": ["prepared"]}


async def test_states_of_pydantic_and_functional_graphs_read_as_json(client: LangGraphClient) -> None:
    typed = await after_run(client, "typed", {"count": 2, "name": "n"})
    assert (await client.threads.get_state(typed))["values"] == {"count": 3, "name": "n 2"}
    workflow = await after_run(client, "workflow", {"number": 2})
    assert (await client.threads.get_state(workflow))["values"] == {"doubled": 4, "before": None}
    again = await client.runs.wait(workflow, "workflow", input={"number": 5})
    assert again == {"doubled": 10, "before": 4}


# Subgraphs


async def test_a_waiting_subgraph_is_seen_from_above_if_asked_for(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "nested", {"text": "t", "ask": True})
    plain: Any = await client.threads.get_state(thread_id)
    [task] = plain["tasks"]
    assert task["name"] == "child"
    assert task["state"] is None
    assert task["checkpoint"] == {"checkpoint_ns": f"child:{task['id']}", "thread_id": thread_id}
    assert [question["value"] for question in plain["interrupts"]] == ["go deeper?"]
    deep: Any = await client.threads.get_state(thread_id, subgraphs=True)
    [child] = deep["tasks"]
    assert child["checkpoint"] is None
    assert child["state"]["values"] == {"text": "t", "ask": True, "inner": "open"}
    [grand] = child["state"]["tasks"]
    assert grand["state"]["next"] == ["leaf"]
    assert grand["state"]["checkpoint"]["checkpoint_ns"] == f"child:{child['id']}|grand:{grand['id']}"


async def test_a_flag_in_a_query_has_several_forms(client: LangGraphClient, http: httpx.Client) -> None:
    path = f"/threads/{await after_run(client, 'nested', {'text': 't', 'ask': True})}/state"
    shown = {
        text: http.get(f"{path}?subgraphs={text}").json()["tasks"][0]["state"] for text in ("", "0", "false", "no")
    }
    assert shown == dict.fromkeys(shown)
    for text in ("1", "true", "True", "yes"):
        assert http.get(f"{path}?subgraphs={text}").json()["tasks"][0]["state"]["values"]["inner"] == "open"


async def test_a_subgraphs_own_state_and_history_are_read_by_its_namespace(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "nested", {"text": "t", "ask": True})
    [task] = (await client.threads.get_state(thread_id))["tasks"]
    place: Any = {"thread_id": thread_id, "checkpoint_ns": f"child:{task['id']}"}
    state: Any = await client.threads.get_state(thread_id, checkpoint=place)
    assert state["values"] == {"text": "t", "ask": True, "inner": "open"}
    assert state["next"] == ["grand"]
    assert state["checkpoint"]["checkpoint_ns"] == place["checkpoint_ns"]
    states = await history(client, thread_id, checkpoint=place)
    assert [each["metadata"]["step"] for each in states] == [1, 0, -1]


async def test_a_subgraphs_state_can_be_changed(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "nested", {"text": "t", "ask": True})
    [task] = (await client.threads.get_state(thread_id))["tasks"]
    place: Any = {"checkpoint_ns": f"child:{task['id']}"}
    await client.threads.update_state(thread_id, {"text": "changed"}, checkpoint=place)
    state: Any = await client.threads.get_state(thread_id, checkpoint=place)
    assert state["values"]["text"] == "changed"


# Change


async def test_an_update_is_like_a_nodes(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "steps", {"text": "hi"})
    before: Any = await client.threads.get_state(thread_id)
    updated: Any = await client.threads.update_state(thread_id, {"trail": ["by hand"], "total": 1}, as_node="first")
    assert updated["checkpoint"] == updated["configurable"]
    state: Any = await client.threads.get_state(thread_id)
    assert state["values"] == {"text": "hi!", "trail": [*DONE["trail"], "by hand"], "total": 112}
    assert state["next"] == ["second"]
    assert (state["metadata"]["source"], state["metadata"]["step"]) == ("update", 4)
    assert checkpoint_id(state) == updated["checkpoint_id"]
    assert state["parent_checkpoint"] == before["checkpoint"]
    thread: Any = await client.threads.get(thread_id)
    assert (thread["values"], thread["status"]) == (state["values"], "interrupted")
    assert (await client.runs.wait(thread_id, "steps", input=None))["total"] == 222  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("values", "as_node", "following"),
    [
        ({"total": 1}, "second", ["third"]),
        (None, "first", ["second"]),
        ({"total": 1}, "third", []),
        (None, "__end__", []),
    ],
)
async def test_an_update_goes_on_after_its_node(
    client: LangGraphClient, values: Any, as_node: str, following: list[str]
) -> None:
    thread_id = await after_run(client, "steps", {})
    await client.threads.update_state(thread_id, values, as_node=as_node)
    state = await client.threads.get_state(thread_id)
    assert state["next"] == following
    assert (await client.threads.get(thread_id))["status"] == ("interrupted" if following else "idle")


async def test_an_update_of_an_older_state_is_a_fork(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "steps", {})
    states = await history(client, thread_id)
    place = states[2]["checkpoint"]  # after the first step
    await client.threads.update_state(thread_id, {"trail": ["fork"]}, checkpoint=place)
    fork: Any = await client.threads.get_state(thread_id)
    assert fork["values"]["trail"] == ["first", "fork"]
    assert fork["parent_checkpoint"] == place
    assert len(await history(client, thread_id)) == len(states) + 1
    done = await client.runs.wait(thread_id, "steps", input=None)
    assert done["trail"] == ["first", "fork", "second", "third"]  # type: ignore[call-overload]


async def test_an_update_needs_a_graph(client: LangGraphClient) -> None:
    thread = await client.threads.create()
    with pytest.raises(BadRequestError, match="has no assigned graph ID"):
        await client.threads.update_state(thread["thread_id"], {"a": 1})
    bound = await client.threads.create(graph_id="steps")
    await client.threads.update_state(bound["thread_id"], {"text": "hi"})
    assert (await client.threads.get_state(bound["thread_id"]))["next"] == ["first"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"values": {"total": 1}, "as_node": "nope"}, "Node nope does not exist"),
        ({"values": [{"total": 1}]}, "Expected dict, got [{'total': 1}]"),
        ({"values": "text"}, "Expected dict, got text"),
        ({"values": {"total": "not a number"}}, "TypeError: unsupported operand"),
        ({"values": {"trail": 5}}, "TypeError: can only concatenate list"),
        ({"values": {"total": 1}, "checkpoint": {"checkpoint_ns": "nope:1"}}, "Subgraph nope not found"),
    ],
)
async def test_an_update_that_cannot_be_taken_changes_nothing(
    client: LangGraphClient, http: httpx.Client, server: LiveServer, body: dict[str, Any], detail: str
) -> None:
    thread_id = await after_run(client, "steps", {"text": "hi"})
    before = await client.threads.get(thread_id)
    refused = http.post(f"/threads/{thread_id}/state", json=body)
    assert refused.status_code == 400
    assert refused.json()["detail"].startswith(detail)
    assert await client.threads.get(thread_id) == before
    assert checkpoints(server, thread_id) == 5


async def test_a_busy_thread_takes_no_update(client: LangGraphClient, server: LiveServer, tmp_path: Path) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "gated", input={"gate": str(tmp_path / "gate")})
    with pytest.raises(ConflictError, match=rf"has in-flight runs: \['{run['run_id']}'\]"):
        await client.threads.update_state(thread_id, {"trail": ["no"]})
    (tmp_path / "gate").touch()
    await client.runs.join(thread_id, run["run_id"])
    assert (await client.threads.get_state(thread_id))["values"]["trail"] == ["before", "waited", "after"]  # type: ignore[call-overload]


async def test_an_update_drops_the_question_it_overtakes(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "question", {"topic": "tea"})
    await client.threads.update_state(thread_id, {"decision": "no"}, as_node="review")
    thread = await client.threads.get(thread_id)
    assert (thread["status"], thread["interrupts"]) == ("interrupted", {})
    assert (await client.threads.get_state(thread_id))["next"] == ["shelve"]
    done: Any = await client.runs.wait(thread_id, "question", input=None)
    assert done["trail"] == ["draft", "shelve"]


async def test_unknown_state_keys_are_dropped(client: LangGraphClient) -> None:
    thread_id = await after_run(client, "steps", {"text": "hi"})
    await client.threads.update_state(thread_id, {"nobody knows": 1, "total": 1})
    assert (await client.threads.get_state(thread_id))["values"] == {**DONE, "total": 112}


def test_the_sync_client_reads_and_changes_states_too(server: LiveServer) -> None:
    with server.sync_client() as client:
        thread_id = client.threads.create()["thread_id"]
        client.runs.wait(thread_id, "steps", input={})
        client.threads.update_state(thread_id, {"total": 1})
        assert client.threads.get_state(thread_id)["values"]["total"] == 112  # type: ignore[call-overload]
        assert len(client.threads.get_history(thread_id, limit=10)) == 6

"""Runs, on threads and without: create, wait, list, join, options, forks, delete, batches."""

from __future__ import annotations

import asyncio
import datetime
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import BadRequestError, NotFoundError, UnprocessableEntityError

SERVED = {
    name: f"./basic.py:{name}"
    for name in ("steps", "failing", "gated", "stubborn", "question", "context", "typed", "workflow")
}
DONE: dict[str, Any] = {"text": "!", "trail": ["first", "second", "third"], "total": 111}
TABLES = ("threads", "runs", "checkpoints", "writes", "run_writes", "events", "webhooks")


def all_rows(server: LiveServer) -> dict[str, int]:
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
        return {table: conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}


async def new_thread(client: LangGraphClient) -> str:
    return (await client.threads.create())["thread_id"]


async def has_status(client: LangGraphClient, thread_id: str, run_id: str, status: str) -> None:
    async def has() -> bool:
        return (await client.runs.get(thread_id, run_id))["status"] == status

    await eventually(has)


async def checkpoints(client: LangGraphClient, thread_id: str) -> list[Any]:
    states: list[Any] = list(await client.threads.get_history(thread_id, limit=100))
    return states


# Create


def test_a_run_says_all_that_it_is_asked_to_do(http: httpx.Client) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    asked = {
        "input": {"text": "hi"},
        "stream_mode": ["updates", "custom"],
        "interrupt_before": ["third"],
        "interrupt_after": "*",
        "feedback_keys": ["stars", "thumb"],
        "durability": "sync",
    }
    given = {"metadata": {"purpose": "test"}, "multitask_strategy": "interrupt"}
    flags = {"stream_subgraphs": True, "stream_resumable": True}
    body = {"assistant_id": "steps", **asked, **given, **flags}
    run = http.post(f"/threads/{thread_id}/runs", json=body).json()
    assert uuid.UUID(run["run_id"]).version == 7
    assert (run["thread_id"], run["status"], run["multitask_strategy"]) == (thread_id, "pending", "interrupt")
    assert run["metadata"]["purpose"] == "test"
    http.get(f"/threads/{thread_id}/runs/{run['run_id']}/join")
    later = http.get(f"/threads/{thread_id}/runs/{run['run_id']}").json()
    assert later["status"] == "success"
    assert later["updated_at"] > run["updated_at"]
    kept = {**asked, "command": None, "subgraphs": True, "resumable": True, "temporary": False, "webhook": None}
    for each in (run, later):
        assert {key: each["kwargs"][key] for key in kept} == kept


@pytest.mark.parametrize("ending", ["", "/wait", "/stream"])
def test_headers_name_the_run_and_where_to_join_it(http: httpx.Client, ending: str) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    answer = http.post(f"/threads/{thread_id}/runs{ending}", json={"assistant_id": "steps", "input": {}})
    [run] = http.get(f"/threads/{thread_id}/runs").json()
    path = f"/threads/{thread_id}/runs/{run['run_id']}"
    assert answer.headers["content-location"] == path
    assert answer.headers.get("location") == {"": None, "/wait": f"{path}/join", "/stream": f"{path}/stream"}[ending]


async def test_a_run_needs_a_thread_unless_it_may_make_one(client: LangGraphClient) -> None:
    thread_id = str(uuid.uuid4())
    reject: Any
    for reject in (None, "reject"):
        with pytest.raises(NotFoundError, match="Thread or assistant not found"):
            await client.runs.create(thread_id, "steps", input={}, if_not_exists=reject)
    made = await client.runs.wait(
        thread_id, "steps", input={}, if_not_exists="create", metadata={"mine": 1}, config={"tags": ["t"]}
    )
    assert made == DONE
    thread: Any = await client.threads.get(thread_id)
    assert thread["metadata"].keys() == {"graph_id", "assistant_id", "mine"}
    assert thread["config"]["tags"] == ["t"]


async def test_an_unknown_assistant_is_refused(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    with pytest.raises(NotFoundError, match="Thread or assistant not found"):
        await client.runs.create(thread_id, str(uuid.uuid4()), input={})
    with pytest.raises(UnprocessableEntityError, match=r"Invalid assistant: 'nope'(.|\n)*context, failing"):
        await client.runs.create(thread_id, "nope", input={})
    assert await client.runs.list(thread_id) == []


async def test_runs_of_different_threads_go_on_at_the_same_time(client: LangGraphClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    threads = [await new_thread(client) for _ in range(12)]
    runs = [await client.runs.create(each, "gated", input={"gate": str(gate)}) for each in threads]
    for thread_id, run in zip(threads, runs, strict=True):
        await has_status(client, thread_id, run["run_id"], "running")
    gate.touch()
    done: list[Any] = [await client.runs.join(t, r["run_id"]) for t, r in zip(threads, runs, strict=True)]
    assert all(each["trail"] == ["before", "waited", "after"] for each in done)


# What a run is given


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (None, {"error": "EmptyInputError", "message": "Received no input for __start__"}),
        ("text", {"error": "InvalidUpdateError", "message": "Expected dict, got text"}),
    ],
)
async def test_a_strange_input_fails_the_run(client: LangGraphClient, given: Any, error: dict[str, str]) -> None:
    thread_id = await new_thread(client)
    result: Any = await client.runs.wait(thread_id, "steps", input=given, raise_error=False)
    assert result["__error__"]["error"] == error["error"]
    assert result["__error__"]["message"].startswith(error["message"])
    assert (await client.threads.get(thread_id))["status"] == "error"


async def test_without_input_a_finished_thread_stays_as_it_is(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "steps", input={})
    assert await client.runs.wait(thread_id, "steps", input=None) == DONE
    assert len(await checkpoints(client, thread_id)) == 5


async def test_each_input_adds_to_the_state(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "steps", input={"text": "a"})
    assert await client.runs.wait(thread_id, "steps", input={"text": "b", "total": 1000}) == {
        "text": "b!",
        "trail": DONE["trail"] * 2,
        "total": 1222,
    }


async def test_a_pydantic_state_refuses_what_it_cannot_hold(client: LangGraphClient) -> None:
    result: Any = await client.runs.wait(None, "typed", input={"name": 5}, raise_error=False)
    assert result["__error__"]["error"] == "ValidationError"
    assert "valid string" in result["__error__"]["message"]


async def test_a_command_jumps_and_changes_the_state(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "steps", input={})
    done: Any = await client.runs.wait(
        thread_id, "steps", command={"update": {"text": "jump", "trail": ["by command"]}, "goto": "third"}
    )
    assert done["trail"] == ["first", "second", "third", "by command", "third"]
    assert done["text"] == "jump!"


@pytest.mark.parametrize(
    ("goto", "trail"),
    [
        (["third"], ["third"]),
        ({"node": "third", "input": {"text": "sent"}}, ["third"]),
        ([{"node": "second", "input": {}}, "third"], ["second", "third", "third"]),
    ],
)
async def test_a_command_may_jump_to_several_nodes(client: LangGraphClient, goto: Any, trail: list[str]) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "steps", input={})
    done: Any = await client.runs.wait(thread_id, "steps", command={"goto": goto})
    assert sorted(done["trail"][3:]) == sorted(trail)


async def test_an_empty_command_counts_as_none(client: LangGraphClient) -> None:
    assert await client.runs.wait(None, "steps", input={}, command={}) == DONE


async def test_a_run_sees_its_config_and_context(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    config: Any = {"tags": ["t"], "recursion_limit": 9, "metadata": {"a": 1}}
    result: Any = await client.runs.wait(
        thread_id,
        "context",
        input={},
        config=config,
        context={"user": "ann", "level": 3, "unknown": 1},
        metadata={"b": 2, "run_id": "reserved"},
    )
    seen = result["seen"]
    [run] = await client.runs.list(thread_id)
    assert seen["context"] == {"user": "ann", "level": 3}
    assert seen["tags"] == ["t"]
    assert seen["recursion_limit"] == 9
    assert (seen["metadata"]["a"], seen["metadata"]["b"], seen["metadata"]["run_id"]) == (1, 2, run["run_id"])
    wanted = {"thread_id": thread_id, "run_id": run["run_id"], "graph_id": "context", "user": "ann", "user_id": ""}
    assert {key: seen["configurable"].get(key) for key in wanted} == wanted


async def test_configurable_is_context_where_no_context_is_given(client: LangGraphClient) -> None:
    given: Any = {"configurable": {"user": "bob", "langgraph_auth_user": "root"}}
    result: Any = await client.runs.wait(None, "context", input={}, config=given)
    assert result["seen"]["context"] == {"user": "bob", "level": 0}
    assert result["seen"]["configurable"]["langgraph_auth_user"] is None


async def test_context_and_configurable_cannot_both_be_given(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    with pytest.raises(BadRequestError, match="Cannot specify both configurable and context"):
        await client.runs.create(thread_id, "context", input={}, context={"a": 1}, config={"configurable": {"b": 2}})
    assert await client.runs.list(thread_id) == []


async def test_a_run_over_its_recursion_limit_fails(client: LangGraphClient) -> None:
    result: Any = await client.runs.wait(None, "steps", input={}, config={"recursion_limit": 2}, raise_error=False)
    assert result["__error__"]["error"] == "GraphRecursionError"
    assert result["__error__"]["message"].startswith("Recursion limit of 2 reached")


# How a run fails


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("value", "ValueError", "no good value"),
        ("own", "UnheardError", "nobody knows this class"),
        ("zero", "ZeroDivisionError", "integer division or modulo by zero"),
        ("exit", "SystemExit", "3"),
        ("update", "InvalidUpdateError", "Expected dict, got ['not', 'an', 'update']"),
    ],
)
async def test_a_failure_shows_its_class_and_message(
    client: LangGraphClient, server: LiveServer, kind: str, error: str, message: str
) -> None:
    thread_id = await new_thread(client)
    result: Any = await client.runs.wait(thread_id, "failing", input={"kind": kind}, raise_error=False)
    assert result["__error__"]["error"] == error
    assert result["__error__"]["message"].startswith(message)
    [run] = await client.runs.list(thread_id)
    assert run["status"] == "error"
    thread: Any = await client.threads.get(thread_id)
    assert (thread["status"], thread["error"]) == ("error", result["__error__"])
    assert thread["values"]["trail"] == ["prepared"]
    assert await client.runs.join(thread_id, run["run_id"]) == {"__error__": result["__error__"]}
    line = f"run {run['run_id']} thread {thread_id} graph failing error"
    await eventually(lambda: line in server.log)  # it is read by a thread of the tests


async def test_a_failed_run_can_be_gone_on_with(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "failing", input={"kind": "value"}, raise_error=False)
    await client.threads.update_state(thread_id, {"kind": "none"}, as_node="prepare")
    done: Any = await client.runs.wait(thread_id, "failing", input=None)
    assert done["trail"] == ["prepared", "survived"]
    thread: Any = await client.threads.get(thread_id)
    assert (thread["status"], thread["error"]) == ("idle", None)


# List, get, join


async def test_runs_are_listed_newest_first(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    made = []
    for kind in ("none", "value", "none"):
        run = await client.runs.create(thread_id, "failing", input={"kind": kind})
        await client.runs.join(thread_id, run["run_id"])
        made.append(run["run_id"])

    async def ids(**search: Any) -> list[str]:
        return [run["run_id"] for run in await client.runs.list(thread_id, **search)]

    assert await ids() == made[::-1]
    assert await ids(limit=1, offset=1) == [made[1]]
    assert await ids(offset=3) == []
    assert await ids(status="success") == [made[2], made[0]]
    assert await ids(status="error") == [made[1]]
    assert await ids(status="pending") == []
    rows: list[Any] = await client.runs.list(thread_id, limit=1, select=["run_id", "status"])
    assert rows == [{"run_id": made[2], "status": "success"}]


@pytest.mark.parametrize(
    "select",
    [
        "select=run_id&select=status",
        "select=run_id,status",
        'select=["run_id","status"]',
        "select=&select=run_id,status",
    ],
)
def test_a_list_in_a_query_has_several_forms(http: httpx.Client, select: str) -> None:
    thread = http.post("/threads", json={}).json()["thread_id"]
    run = http.post(f"/threads/{thread}/runs", json={"assistant_id": "steps", "input": {}}).json()
    [row] = http.get(f"/threads/{thread}/runs?{select}").raise_for_status().json()
    assert (row.keys(), row["run_id"]) == ({"run_id", "status"}, run["run_id"])


def test_a_list_of_runs_refuses_strange_parameters(http: httpx.Client) -> None:
    path = f"/threads/{http.post('/threads', json={}).json()['thread_id']}/runs"
    unknown = http.get(path, params={"select": ["run_id", "x"]})
    assert unknown.status_code == 422
    assert unknown.json()["detail"].startswith("Invalid select columns: ['x']. Expected: {")
    assert http.get(path, params={"limit": "x"}).status_code == 400
    assert http.get(path, params={"offset": "-1"}).status_code == 422
    assert http.get(path, params={"status": "nope"}).json() == []


async def test_an_unknown_run_is_not_found(client: LangGraphClient, http: httpx.Client) -> None:
    thread_id, unknown = await new_thread(client), str(uuid.uuid4())
    with pytest.raises(NotFoundError):
        await client.runs.get(thread_id, unknown)
    with pytest.raises(NotFoundError, match="Run not found"):
        await client.runs.delete(thread_id, unknown)
    missing = {"error": "HTTPException", "message": "404: Run not found"}
    assert http.get(f"/threads/{thread_id}/runs/{unknown}/join").json() == {"__error__": missing}
    run = await client.runs.create(thread_id, "steps", input={})
    with pytest.raises(NotFoundError):
        await client.runs.get(await new_thread(client), run["run_id"])


async def test_a_run_can_be_joined_while_it_goes_on_and_after(client: LangGraphClient, tmp_path: Path) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "gated", input={"gate": str(tmp_path / "gate")})
    joining = [asyncio.ensure_future(client.runs.join(thread_id, run["run_id"])) for _ in range(2)]
    await has_status(client, thread_id, run["run_id"], "running")
    assert not any(each.done() for each in joining)
    (tmp_path / "gate").touch()
    wanted = {"gate": str(tmp_path / "gate"), "trail": ["before", "waited", "after"]}
    assert await asyncio.gather(*joining) == [wanted, wanted]
    assert await client.runs.join(thread_id, run["run_id"]) == wanted


def test_a_wait_gives_the_threads_values_where_it_streamed_none(http: httpx.Client) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    body = {"assistant_id": "steps", "input": {}, "stream_mode": ["updates"]}
    assert http.post(f"/threads/{thread_id}/runs/wait", json=body).json() == DONE
    assert http.post("/runs/wait", json=body).json() == {}


async def test_a_functional_workflow_gives_what_it_returns(client: LangGraphClient) -> None:
    assert await client.runs.wait(None, "workflow", input={"number": 3}) == {"doubled": 6, "before": None}


# Order, delay


async def test_runs_of_a_thread_take_turns_in_order(client: LangGraphClient, tmp_path: Path) -> None:
    thread_id, gate = await new_thread(client), tmp_path / "gate"
    runs = [await client.runs.create(thread_id, "gated", input={"gate": str(gate)}) for _ in range(4)]
    await has_status(client, thread_id, runs[0]["run_id"], "running")
    assert [run["status"] for run in await client.runs.list(thread_id)] == ["pending"] * 3 + ["running"]
    gate.touch()
    await client.runs.join(thread_id, runs[-1]["run_id"])
    ran = [state["metadata"]["run_id"] for state in await checkpoints(client, thread_id)]
    assert list(dict.fromkeys(ran[::-1])) == [run["run_id"] for run in runs]
    assert (await client.threads.get_state(thread_id))["values"]["trail"] == ["before", "waited", "after"] * 4  # type: ignore[call-overload]


async def test_a_delayed_run_starts_when_it_is_due(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    begun = datetime.datetime.now(datetime.UTC)
    late: Any = await client.runs.create(thread_id, "steps", input={"text": "late"}, after_seconds=1)
    assert late["created_at"] > (begun + datetime.timedelta(seconds=1)).isoformat()
    assert (await client.threads.get(thread_id))["status"] == "busy"
    await client.runs.wait(thread_id, "steps", input={"text": "early"})
    assert (await client.runs.get(thread_id, late["run_id"]))["status"] == "pending"
    done: Any = await client.runs.join(thread_id, late["run_id"])
    assert done["text"] == "late!"
    assert datetime.datetime.now(datetime.UTC) - begun > datetime.timedelta(seconds=1)


@pytest.mark.parametrize("after_seconds", [0, -5, 0.01])
async def test_a_delay_may_be_nothing_or_a_fraction(client: LangGraphClient, after_seconds: Any) -> None:
    assert await client.runs.wait(await new_thread(client), "steps", input={}, after_seconds=after_seconds) == DONE


# Durability, forks


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ({"durability": "sync"}, 5),
        ({"durability": "async"}, 5),
        ({"durability": "exit"}, 1),
        ({"checkpoint_during": False}, 1),
        ({"checkpoint_during": True}, 5),
        ({"checkpoint_during": False, "durability": "sync"}, 5),
        ({}, 5),
    ],
)
def test_durability_decides_which_checkpoints_are_kept(http: httpx.Client, option: dict[str, Any], kept: int) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    body = {"assistant_id": "steps", "input": {}, **option}
    assert http.post(f"/threads/{thread_id}/runs/wait", json=body).json() == DONE
    history = http.get(f"/threads/{thread_id}/history", params={"limit": 100}).json()
    assert len(history) == kept
    assert history[0]["values"] == DONE


@pytest.mark.parametrize("as_place", [True, False])
async def test_a_run_from_an_older_checkpoint_replays_the_rest(client: LangGraphClient, as_place: bool) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "steps", input={"text": "a"})
    states = await checkpoints(client, thread_id)
    place = states[2]["checkpoint"]
    where: Any = {"checkpoint": place} if as_place else {"checkpoint_id": place["checkpoint_id"]}
    done: Any = await client.runs.wait(thread_id, "steps", input=None, **where)
    assert done == {**DONE, "text": "a!"}
    after = await checkpoints(client, thread_id)
    assert len(after) > len(states)
    assert after[-len(states) :] == states
    assert (await client.threads.get_state(thread_id))["values"] == done


async def test_a_run_from_an_older_checkpoint_with_input_goes_another_way(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "steps", input={"text": "a"})
    await client.runs.wait(thread_id, "steps", input={"text": "b"})
    first_end = (await checkpoints(client, thread_id))[5]
    assert first_end["values"]["text"] == "a!"
    done: Any = await client.runs.wait(
        thread_id, "steps", input={"text": "c"}, checkpoint_id=first_end["checkpoint"]["checkpoint_id"]
    )
    assert done == {"text": "c!", "trail": DONE["trail"] * 2, "total": 222}
    thread: Any = await client.threads.get(thread_id)
    assert thread["values"] == done


async def test_a_checkpoint_id_has_to_be_one(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    with pytest.raises(UnprocessableEntityError, match="Invalid checkpoint ID"):
        await client.runs.create(thread_id, "steps", input={}, checkpoint_id="nonsense")
    assert await client.runs.list(thread_id) == []


# Delete


async def test_deleting_the_last_run_restores_the_earlier_state(client: LangGraphClient, server: LiveServer) -> None:
    thread_id = await new_thread(client)
    before: Any = await client.runs.wait(thread_id, "steps", input={"text": "a"})
    states, thread = await checkpoints(client, thread_id), await client.threads.get(thread_id)
    rows = all_rows(server)
    run = await client.runs.create(thread_id, "steps", input={"text": "b"}, stream_resumable=True)
    await client.runs.join(thread_id, run["run_id"])
    await client.runs.delete(thread_id, run["run_id"])
    assert await checkpoints(client, thread_id) == states
    after = await client.threads.get(thread_id)
    assert (after["values"], after["status"], after["interrupts"]) == (before, thread["status"], thread["interrupts"])
    assert len(await client.runs.list(thread_id)) == 1
    assert all_rows(server) == rows


async def test_deleting_the_only_run_leaves_an_empty_thread(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "failing", input={"kind": "value"})
    await client.runs.join(thread_id, run["run_id"])
    await client.runs.delete(thread_id, run["run_id"])
    thread: Any = await client.threads.get(thread_id)
    assert (thread["status"], thread["values"], thread["error"]) == ("idle", {}, None)
    assert await checkpoints(client, thread_id) == []
    assert await client.runs.wait(thread_id, "steps", input={}) == DONE


async def test_deleting_an_answer_asks_the_question_again(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "question", input={"topic": "tea"})
    asked: Any = await client.threads.get(thread_id)
    run = await client.runs.create(thread_id, "question", command={"resume": "no"})
    await client.runs.join(thread_id, run["run_id"])
    await client.runs.delete(thread_id, run["run_id"])
    again: Any = await client.threads.get(thread_id)
    assert (again["status"], again["interrupts"]) == ("interrupted", asked["interrupts"])
    done: Any = await client.runs.wait(thread_id, "question", command={"resume": "yes"})
    assert done["trail"] == ["draft", "review", "publish"]


async def test_deleting_an_earlier_run_keeps_the_present_state(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    first = await client.runs.create(thread_id, "steps", input={"text": "a"})
    await client.runs.join(thread_id, first["run_id"])
    after: Any = await client.runs.wait(thread_id, "steps", input={"text": "b"})
    await client.runs.delete(thread_id, first["run_id"])
    thread: Any = await client.threads.get(thread_id)
    assert (thread["values"], thread["status"]) == (after, "idle")
    assert (await client.threads.get_state(thread_id))["values"] == after


@pytest.mark.parametrize("pending", [True, False])
async def test_deleting_a_live_run_ends_it(client: LangGraphClient, tmp_path: Path, pending: bool) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(
        thread_id, "gated", input={"gate": str(tmp_path / "gate")}, after_seconds=60 if pending else None
    )
    joining = asyncio.ensure_future(client.runs.join(thread_id, run["run_id"]))
    if not pending:
        await has_status(client, thread_id, run["run_id"], "running")
    await asyncio.sleep(0.1)
    await client.runs.delete(thread_id, run["run_id"])
    await asyncio.wait_for(joining, 5)
    assert (await client.threads.get(thread_id))["status"] == "idle"
    assert await client.runs.list(thread_id) == []
    assert await client.runs.wait(thread_id, "steps", input={}) == DONE


async def test_a_running_run_that_is_deleted_writes_nothing_more(
    client: LangGraphClient, server: LiveServer, tmp_path: Path
) -> None:
    """Its node can't be stopped, but what it returns counts for nothing; the next run waits for none of it."""
    thread_id = await new_thread(client)
    gate, done = tmp_path / "gate", tmp_path / "done"
    values: Any = await client.runs.wait(thread_id, "stubborn", input={"gate": str(tmp_path), "done": str(tmp_path)})
    rows = all_rows(server)
    given = {"gate": str(gate), "done": str(done)}
    run = await client.runs.create(thread_id, "stubborn", input=given, stream_resumable=True)
    await eventually((tmp_path / "gate.waits").exists)
    await client.runs.delete(thread_id, run["run_id"])
    thread: Any = await client.threads.get(thread_id)
    assert (thread["status"], thread["values"], thread["error"]) == ("idle", values, None)
    assert all_rows(server) == rows
    gate.touch()
    await eventually(done.exists)
    again: Any = await client.runs.wait(thread_id, "stubborn", input={})
    assert again == {**values, "trail": ["blocked", "blocked"]}
    [_, first] = await client.runs.list(thread_id)
    assert first["status"] == "success"


async def test_a_thread_shows_its_state_whenever_a_run_is_deleted(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    before = await client.runs.wait(thread_id, "steps", input={})
    for n in range(30):
        run = await client.runs.create(thread_id, "steps", input={})
        await asyncio.sleep(n / 3000)
        await client.runs.delete(thread_id, run["run_id"])
        thread: Any = await client.threads.get(thread_id)
        assert (thread["status"], thread["values"]) == ("idle", before)
        assert (await client.threads.get_state(thread_id))["values"] == before


# Without a thread


@pytest.mark.parametrize(
    ("graph_id", "given"), [("steps", {}), ("failing", {"kind": "own"}), ("question", {}), ("typed", {"name": 5})]
)
@pytest.mark.parametrize("ending", ["wait", "stream", "background"])
async def test_a_temporary_run_leaves_nothing_in_the_file(
    client: LangGraphClient, server: LiveServer, http: httpx.Client, graph_id: str, given: Any, ending: str
) -> None:
    before = all_rows(server)
    body = {"assistant_id": graph_id, "input": given, "stream_mode": ["values", "updates"], "stream_resumable": True}
    answer = http.post("/runs" if ending == "background" else f"/runs/{ending}", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-location"].count("/runs/") == 1
    await eventually(lambda: all_rows(server) == before)


async def test_a_temporary_run_lives_on_a_thread_while_it_goes_on(client: LangGraphClient, tmp_path: Path) -> None:
    run: Any = await client.runs.create(None, "gated", input={"gate": str(tmp_path / "gate")})
    assert run["kwargs"]["temporary"] is True
    assert (await client.threads.get(run["thread_id"]))["status"] == "busy"
    joining = asyncio.ensure_future(client.runs.join(run["thread_id"], run["run_id"]))
    await has_status(client, run["thread_id"], run["run_id"], "running")
    (tmp_path / "gate").touch()
    result: Any = await joining
    assert result["trail"] == ["before", "waited", "after"]
    with pytest.raises(NotFoundError):
        await client.threads.get(run["thread_id"])


@pytest.mark.parametrize("end", ["delete", "interrupt", "rollback"])
async def test_a_temporary_run_that_is_ended_early_takes_its_thread_along(
    client: LangGraphClient, server: LiveServer, tmp_path: Path, end: Any
) -> None:
    before = all_rows(server)
    for after_seconds in (None, 60):
        run = await client.runs.create(
            None, "gated", input={"gate": str(tmp_path / "never")}, after_seconds=after_seconds
        )
        if end == "delete":
            await client.runs.delete(run["thread_id"], run["run_id"])
        else:
            await client.runs.cancel(run["thread_id"], run["run_id"], action=end, wait=True)
    await eventually(lambda: all_rows(server) == before, 3)


async def test_a_run_without_a_thread_may_keep_its_own(client: LangGraphClient) -> None:
    run: Any = await client.runs.create(None, "steps", input={}, on_completion="keep")
    assert await client.runs.join(run["thread_id"], run["run_id"]) == DONE
    assert (await client.threads.get(run["thread_id"]))["values"] == DONE
    assert len(await checkpoints(client, run["thread_id"])) == 5


async def test_a_question_without_a_thread_cannot_be_answered(client: LangGraphClient) -> None:
    asked: Any = await client.runs.wait(None, "question", input={"topic": "tea"})
    assert asked["draft"] == "about tea"
    assert asked["__interrupt__"][0]["value"]["question"] == "publish?"
    with pytest.raises(httpx.HTTPStatusError, match="You must provide a thread_id when resuming"):
        await client.runs.wait(None, "question", command={"resume": "yes"})


# Batches


async def test_a_batch_makes_a_run_of_each_item(client: LangGraphClient) -> None:
    items: Any = [{"assistant_id": "steps", "input": {"text": text}, "on_completion": "keep"} for text in "ab"]
    made: Any = await client.runs.create_batch(items)
    assert [run["kwargs"]["input"]["text"] for run in made] == ["a", "b"]
    done: list[Any] = [await client.runs.join(run["thread_id"], run["run_id"]) for run in made]
    assert [each["text"] for each in done] == ["a!", "b!"]


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ({"assistant_id": str(uuid.uuid4())}, 404),
        ({"assistant_id": "nope"}, 422),
        ({"assistant_id": "steps", "input": {}, "webhook": "ftp://x"}, 422),
        ({"assistant_id": "steps", "stream_mode": "nope"}, 422),
        ({"assistant_id": "context", "context": {"a": 1}, "config": {"configurable": {"b": 1}}}, 400),
        ({}, 422),
        (None, 422),
    ],
)
def test_a_batch_is_made_whole_or_not_at_all(http: httpx.Client, server: LiveServer, bad: Any, status: int) -> None:
    before = all_rows(server)
    good = {"assistant_id": "steps", "input": {}, "on_completion": "keep"}
    assert http.post("/runs/batch", json=[good, bad, good]).status_code == status
    assert all_rows(server) == before


# Both clients


def test_the_sync_client_runs_graphs_too(server: LiveServer) -> None:
    with server.sync_client() as client:
        thread_id = client.threads.create()["thread_id"]
        assert client.runs.wait(thread_id, "steps", input={}) == DONE
        run = client.runs.create(thread_id, "steps", input={})
        client.runs.join(thread_id, run["run_id"])
        assert client.runs.get(thread_id, run["run_id"])["status"] == "success"
        assert len(client.runs.list(thread_id)) == 2
        client.runs.delete(thread_id, run["run_id"])
        assert client.runs.wait(None, "steps", input={}) == DONE

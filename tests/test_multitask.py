"""Runs that get in each other's way, runs that are cancelled, clients that leave."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

SERVED = {name: f"./basic.py:{name}" for name in ("steps", "gated", "question", "chat")}
CANCEL = "requested via POST /threads/{thread_id}/runs/{run_id}/cancel"
WHOLE = ["before", "waited", "after"]


async def new_thread(client: LangGraphClient) -> str:
    return (await client.threads.create())["thread_id"]


async def at_the_gate(client: LangGraphClient, gate: Path, thread_id: str | None = None, **options: Any) -> Any:
    """A run that has done its first step and waits in its second until the gate is there."""
    thread_id = thread_id or await new_thread(client)
    run = await client.runs.create(thread_id, "gated", input={"gate": str(gate)}, **options)

    async def waits() -> bool:
        return (await client.threads.get_state(thread_id))["next"] == ["wait"]

    await eventually(waits)
    return run


async def ends(client: LangGraphClient, run: Any) -> str:
    """The run's status once it is over, or "gone"."""

    async def over() -> str | None:
        try:
            status = (await client.runs.get(run["thread_id"], run["run_id"]))["status"]
        except NotFoundError:
            return "gone"
        return None if status in ("pending", "running") else status

    return str(await eventually(over))


async def thread(client: LangGraphClient, thread_id: str) -> Any:
    found: Any = await client.threads.get(thread_id)
    return found


def rows(server: LiveServer, thread_id: str) -> dict[str, list[Any]]:
    """All rows of a thread but its own, and events that tell that a run is over."""
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
        query = "SELECT * FROM {} WHERE thread_id = ? ORDER BY rowid"
        tables = (
            "runs",
            "checkpoints",
            "writes",
            "run_writes",
            "(SELECT rowid, * FROM events WHERE event <> 'run_done')",
        )
        return {table: conn.execute(query.format(table), (thread_id,)).fetchall() for table in tables}


# Several runs on a thread


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("ending", ["", "/wait", "/stream"])
async def test_reject_refuses_a_run_while_there_is_another(
    client: LangGraphClient, http: httpx.Client, tmp_path: Path, pending: bool, ending: str
) -> None:
    if pending:
        run: Any = await client.runs.create(await new_thread(client), "steps", input={}, after_seconds=60)
    else:
        run = await at_the_gate(client, tmp_path / "gate")
    body = {"assistant_id": "steps", "input": {}, "multitask_strategy": "reject"}
    refused = http.post(f"/threads/{run['thread_id']}/runs{ending}", json=body)
    assert refused.status_code == 409
    assert refused.json()["detail"].startswith("Thread is already running a task.")
    assert len(await client.runs.list(run["thread_id"])) == 1


async def test_enqueue_waits_its_turn(client: LangGraphClient, tmp_path: Path) -> None:
    first = await at_the_gate(client, tmp_path / "gate")
    second = await client.runs.create(first["thread_id"], "gated", input={}, multitask_strategy="enqueue")
    third = await client.runs.create(first["thread_id"], "gated", input={})
    assert third["multitask_strategy"] == "enqueue"
    await asyncio.sleep(0.1)
    statuses = [run["status"] for run in await client.runs.list(first["thread_id"])]
    assert statuses == ["pending", "pending", "running"]
    (tmp_path / "gate").touch()
    assert [await ends(client, run) for run in (first, second, third)] == ["success"] * 3
    assert (await thread(client, first["thread_id"]))["values"]["trail"] == WHOLE * 3


async def test_interrupt_stops_the_others_and_goes_on_from_what_they_did(
    client: LangGraphClient, tmp_path: Path
) -> None:
    first = await at_the_gate(client, tmp_path / "never")
    waiting = await client.runs.create(first["thread_id"], "gated", input={})
    done: Any = await client.runs.wait(first["thread_id"], "gated", input={"gate": ""}, multitask_strategy="interrupt")
    assert done["trail"] == ["before", *WHOLE]
    assert [await ends(client, run) for run in (first, waiting)] == ["interrupted"] * 2
    after = await thread(client, first["thread_id"])
    assert (after["status"], after["error"]) == ("idle", None)


async def test_rollback_removes_the_others_with_their_checkpoints(client: LangGraphClient, tmp_path: Path) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "gated", input={})
    before = await client.threads.get_history(thread_id, limit=50)
    first = await at_the_gate(client, tmp_path / "never", thread_id)
    waiting = await client.runs.create(thread_id, "gated", input={})
    done: Any = await client.runs.wait(thread_id, "gated", input={"gate": ""}, multitask_strategy="rollback")
    assert done["trail"] == WHOLE * 2
    assert [await ends(client, run) for run in (first, waiting)] == ["gone"] * 2
    history = await client.threads.get_history(thread_id, limit=50)
    assert history[len(history) - len(before) :] == before
    runs = {(state["metadata"] or {})["run_id"] for state in history}
    assert runs == {run["run_id"] for run in await client.runs.list(thread_id)}


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_those_who_follow_a_superseded_run_are_let_go(
    client: LangGraphClient, tmp_path: Path, strategy: Any
) -> None:
    """Of the running one and of the one that waits its turn, streaming and waiting."""
    thread_id = (await at_the_gate(client, tmp_path / "never"))["thread_id"]

    async def stream() -> list[str]:
        parts = client.runs.stream(thread_id, "gated", input={"gate": str(tmp_path / "never")}, stream_mode="updates")
        return [part.event async for part in parts]

    queued: Any = await client.runs.create(thread_id, "gated", input={})
    followers = [
        asyncio.ensure_future(stream()),
        asyncio.ensure_future(client.runs.wait(thread_id, "gated", input={}, raise_error=False)),
        asyncio.ensure_future(client.runs.join(thread_id, queued["run_id"])),
    ]
    await eventually(lambda: _has_runs(client, thread_id, 4))
    done: Any = await client.runs.wait(thread_id, "gated", input={"gate": ""}, multitask_strategy=strategy)
    assert done["trail"][-3:] == WHOLE
    finished, hanging = await asyncio.wait(followers, timeout=3)
    for each in hanging:
        each.cancel()
    assert len(finished) == 3
    assert (await followers[0]) == []


async def _has_runs(client: LangGraphClient, thread_id: str, count: int) -> bool:
    return len(await client.runs.list(thread_id)) == count


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_a_run_is_stopped_even_in_the_instant_it_is_made(
    client: LangGraphClient, server: LiveServer, tmp_path: Path, strategy: str
) -> None:
    """Double texting at once: of several runs made together, the last one made wins, and no other goes on."""
    body = {"assistant_id": "gated", "multitask_strategy": strategy, "input": {"gate": str(tmp_path / "gate")}}
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        for _ in range(10):
            thread_id = await new_thread(client)
            path = f"/threads/{thread_id}/runs"
            made = [run.json() for run in await asyncio.gather(*(http.post(path, json=body) for _ in range(4)))]

            async def one_is_left(thread_id: str = thread_id) -> bool:
                live = [run for run in await client.runs.list(thread_id) if run["status"] in ("pending", "running")]
                return [run["status"] for run in live] == ["running"]

            await eventually(one_is_left, 5)
            assert {run["thread_id"] for run in made} == {thread_id}
            await client.threads.delete(thread_id)


async def test_new_input_drops_an_open_question(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "question", input={"topic": "tea"})
    again: Any = await client.runs.wait(thread_id, "question", input={"topic": "milk"})
    assert again["trail"] == ["draft", "draft"]
    assert again["__interrupt__"][0]["value"]["draft"] == "about milk"
    assert len((await thread(client, thread_id))["interrupts"]) == 1


# Cancel


async def test_an_interrupted_run_keeps_what_it_did(client: LangGraphClient, tmp_path: Path) -> None:
    run = await at_the_gate(client, tmp_path / "gate")
    await client.runs.cancel(run["thread_id"], run["run_id"])
    assert await ends(client, run) == "interrupted"
    after = await thread(client, run["thread_id"])
    assert after["status"] == "interrupted"
    assert after["error"] == {"error": "UserInterrupt", "message": f"interrupt {CANCEL}"}
    assert after["values"]["trail"] == ["before"]
    (tmp_path / "gate").touch()
    done: Any = await client.runs.wait(run["thread_id"], "gated", input=None)
    assert done["trail"] == WHOLE
    assert (await thread(client, run["thread_id"]))["error"] is None


@pytest.mark.parametrize("resumable", [True, False])
async def test_a_rolled_back_run_is_as_if_it_had_not_been(
    client: LangGraphClient, server: LiveServer, tmp_path: Path, resumable: bool
) -> None:
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "gated", input={})
    before, history = await thread(client, thread_id), await client.threads.get_history(thread_id, limit=50)
    kept = rows(server, thread_id)
    run = await at_the_gate(client, tmp_path / "never", thread_id, stream_resumable=resumable)
    await client.runs.cancel(thread_id, run["run_id"], action="rollback", wait=True)
    assert await ends(client, run) == "gone"
    after = await thread(client, thread_id)
    assert (after["status"], after["values"]) == ("idle", before["values"])
    assert after["error"] == {"error": "UserRollback", "message": f"rollback {CANCEL}"}
    assert await client.threads.get_history(thread_id, limit=50) == history
    assert rows(server, thread_id) == kept


async def test_rolling_back_an_answer_asks_the_question_again(
    client: LangGraphClient, server: LiveServer, tmp_path: Path
) -> None:
    """The answer is written to a checkpoint of an earlier run, and is taken back from there."""
    thread_id = await new_thread(client)
    await client.runs.wait(thread_id, "question", input={"topic": "tea"})
    asked, before = await thread(client, thread_id), rows(server, thread_id)
    command: Any = {"resume": "yes", "update": {"gate": str(tmp_path / "never")}}
    run = await client.runs.create(thread_id, "question", command=command, stream_resumable=True)

    async def publishes() -> bool:
        return (await client.threads.get_state(thread_id))["next"] == ["publish"]

    await eventually(publishes)
    assert rows(server, thread_id) != before
    await client.runs.cancel(thread_id, run["run_id"], action="rollback", wait=True)
    assert rows(server, thread_id) == before
    again = await thread(client, thread_id)
    assert (again["interrupts"], again["values"], again["status"]) == (
        asked["interrupts"],
        asked["values"],
        "interrupted",
    )
    done: Any = await client.runs.wait(thread_id, "question", command={"resume": "no"})
    assert done == {"topic": "tea", "draft": "about tea", "decision": "no", "trail": ["draft", "review", "shelve"]}


@pytest.mark.parametrize(("action", "status"), [("interrupt", "interrupted"), ("rollback", "gone")])
async def test_a_pending_run_can_be_cancelled(client: LangGraphClient, action: Any, status: str) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "steps", input={}, after_seconds=60)
    await client.runs.cancel(thread_id, run["run_id"], action=action)
    assert await ends(client, run) == status
    assert (await thread(client, thread_id))["status"] == "idle"
    assert (await thread(client, thread_id))["values"] in (None, {})


@pytest.mark.parametrize("wait", ["true", "yes", "1"])
def test_a_cancel_may_wait_for_the_end(http: httpx.Client, tmp_path: Path, wait: str) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    body = {"assistant_id": "gated", "input": {"gate": str(tmp_path / "never")}}
    run_id = http.post(f"/threads/{thread_id}/runs", json=body).json()["run_id"]
    path = f"/threads/{thread_id}/runs/{run_id}"
    answer = http.post(f"{path}/cancel", params={"wait": wait})
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["location"] == f"{path}/join"
    assert http.get(path).json()["status"] == "interrupted"


def test_without_wait_a_cancel_is_accepted(http: httpx.Client, tmp_path: Path) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    body = {"assistant_id": "gated", "input": {"gate": str(tmp_path / "never")}}
    run_id = http.post(f"/threads/{thread_id}/runs", json=body).json()["run_id"]
    answer = http.post(f"/threads/{thread_id}/runs/{run_id}/cancel", params={"action": "whatever"})
    assert (answer.status_code, answer.content) == (202, b"")
    assert http.get(f"/threads/{thread_id}/runs/{run_id}/join").status_code == 200
    assert http.get(f"/threads/{thread_id}/runs/{run_id}").json()["status"] == "interrupted"


async def test_what_is_over_cannot_be_cancelled(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "steps", input={})
    await client.runs.join(thread_id, run["run_id"])
    with pytest.raises(NotFoundError, match="No matching runs to cancel"):
        await client.runs.cancel(thread_id, run["run_id"])
    with pytest.raises(NotFoundError, match="No runs found to cancel"):
        await client.runs.cancel(thread_id, str(uuid.uuid4()))
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "success"


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_a_cancelled_runs_stream_just_ends(client: LangGraphClient, tmp_path: Path, action: Any) -> None:
    thread_id = await new_thread(client)
    seen = []
    given = {"gate": str(tmp_path / "never")}
    async for part in client.runs.stream(thread_id, "gated", input=given, stream_mode=["updates", "custom"]):
        seen.append(part.event)
        if part.event == "custom":
            [run] = await client.runs.list(thread_id)
            await client.runs.cancel(thread_id, run["run_id"], action=action)
    assert seen == ["metadata", "updates", "custom"]
    assert (await thread(client, thread_id))["status"] == ("interrupted" if action == "interrupt" else "idle")


async def test_a_cancelled_wait_gives_the_last_values(client: LangGraphClient, tmp_path: Path) -> None:
    thread_id = await new_thread(client)
    given = {"gate": str(tmp_path / "never")}
    waiting = asyncio.ensure_future(client.runs.wait(thread_id, "gated", input=given))
    await eventually(lambda: _is_at_the_gate(client, thread_id))
    [run] = await client.runs.list(thread_id)
    await client.runs.cancel(thread_id, run["run_id"])
    assert await waiting == {**given, "trail": ["before"]}


async def _is_at_the_gate(client: LangGraphClient, thread_id: str) -> bool:
    return (await client.threads.get_state(thread_id))["next"] == ["wait"]


async def test_runs_that_wait_go_on_after_a_cancelled_one(client: LangGraphClient, tmp_path: Path) -> None:
    first = await at_the_gate(client, tmp_path / "never")
    second = await client.runs.create(first["thread_id"], "gated", input={"gate": ""})
    await client.runs.cancel(first["thread_id"], first["run_id"], wait=True)
    assert await ends(client, second) == "success"
    assert (await thread(client, first["thread_id"]))["values"]["trail"] == ["before", *WHOLE]


# Cancel several


async def test_several_runs_of_a_thread_are_cancelled_by_id(client: LangGraphClient, tmp_path: Path) -> None:
    first = await at_the_gate(client, tmp_path / "never")
    thread_id = first["thread_id"]
    others: list[Any] = [await client.runs.create(thread_id, "gated", input={"gate": ""}) for _ in range(2)]
    await client.runs.cancel_many(thread_id=thread_id, run_ids=[first["run_id"], others[1]["run_id"]])
    assert [await ends(client, run) for run in (first, *others)] == ["interrupted", "success", "interrupted"]
    after = await thread(client, thread_id)
    assert after["status"] == "idle"


async def test_runs_are_cancelled_by_status_and_others_left_alone(client: LangGraphClient, tmp_path: Path) -> None:
    running = await at_the_gate(client, tmp_path / "never")
    pending: Any = await client.runs.create(await new_thread(client), "steps", input={}, after_seconds=60)
    await client.runs.cancel_many(status="pending")
    assert await ends(client, pending) == "interrupted"
    assert (await client.runs.get(running["thread_id"], running["run_id"]))["status"] == "running"
    await client.runs.cancel_many(status="running", action="rollback")
    assert await ends(client, running) == "gone"
    assert (await thread(client, running["thread_id"]))["status"] == "idle"
    both = [
        await at_the_gate(client, tmp_path / "never"),
        await client.runs.create(await new_thread(client), "steps", input={}, after_seconds=60),
    ]
    await client.runs.cancel_many(status="all")
    assert [await ends(client, run) for run in both] == ["interrupted"] * 2
    with pytest.raises(NotFoundError, match="No runs found to cancel"):
        await client.runs.cancel_many(status="all")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"thread_id": str(uuid.uuid4())},
        {"run_ids": []},
        {"status": "all", "run_ids": []},
        {"status": "all", "thread_id": str(uuid.uuid4())},
        {"status": "success"},
        {"thread_id": "x", "run_ids": [str(uuid.uuid4())]},
        {"thread_id": str(uuid.uuid4()), "run_ids": ["x"]},
        {"thread_id": str(uuid.uuid4()), "run_ids": "x"},
    ],
)
async def test_runs_to_cancel_are_named_in_exactly_one_way(
    client: LangGraphClient, http: httpx.Client, body: dict[str, Any]
) -> None:
    run = await client.runs.create(await new_thread(client), "steps", input={}, after_seconds=60)
    assert http.post("/runs/cancel", json=body).status_code == 422
    assert (await client.runs.get(run["thread_id"], run["run_id"]))["status"] == "pending"
    with pytest.raises(UnprocessableEntityError):
        await client.runs.cancel_many(thread_id=run["thread_id"])
    await client.threads.delete(run["thread_id"])


# Clients that leave


@pytest.mark.parametrize("how", ["stream", "wait"])
@pytest.mark.parametrize(
    ("on_disconnect", "status"), [("cancel", "interrupted"), ("continue", "success"), (None, "success")]
)
async def test_a_run_may_end_with_the_client_that_made_it(
    client: LangGraphClient, server: LiveServer, tmp_path: Path, how: str, on_disconnect: str | None, status: str
) -> None:
    thread_id, gate = await new_thread(client), tmp_path / "gate"
    body = {"assistant_id": "gated", "input": {"gate": str(gate)}}
    body |= {"on_disconnect": on_disconnect} if on_disconnect else {}
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as leaver:
        request = leaver.stream("POST", f"/threads/{thread_id}/runs/{how}", json=body)
        async with request:
            await eventually(lambda: _is_at_the_gate(client, thread_id))
    [run] = await client.runs.list(thread_id)
    if status == "interrupted":
        assert await ends(client, run) == status
        reason = "client disconnected from the run stream (on_disconnect=cancel)"
        assert (await thread(client, thread_id))["error"] == {"error": "UserInterrupt", "message": reason}
    else:
        await asyncio.sleep(0.2)
        assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "running"
        gate.touch()
        assert await ends(client, run) == status


@pytest.mark.parametrize("how", ["stream", "join"])
@pytest.mark.parametrize(
    ("choice", "cancels"), [("true", True), ("1", True), ("yes", True), ("false", False), ("", False)]
)
async def test_a_run_may_end_with_a_client_that_joined_it(
    client: LangGraphClient, server: LiveServer, tmp_path: Path, how: str, choice: str, cancels: bool
) -> None:
    run = await at_the_gate(client, tmp_path / "gate")
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/{how}"
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30) as leaver,
        leaver.stream("GET", path, params={"cancel_on_disconnect": choice} if choice else {}),
    ):
        await asyncio.sleep(0.1)
    if not cancels:
        await asyncio.sleep(0.2)
        assert (await client.runs.get(run["thread_id"], run["run_id"]))["status"] == "running"
        (tmp_path / "gate").touch()
    assert await ends(client, run) == ("interrupted" if cancels else "success")


async def test_a_client_that_stays_to_the_end_cancels_nothing(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    parts = client.runs.stream(thread_id, "steps", input={"text": "a"}, on_disconnect="cancel")
    assert len([part async for part in parts]) == 5
    await client.runs.wait(thread_id, "steps", input={}, on_disconnect="cancel")
    assert [run["status"] for run in await client.runs.list(thread_id)] == ["success", "success"]
    assert (await thread(client, thread_id))["error"] is None


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_a_run_that_takes_the_place_of_a_waiting_stateless_run_is_done(
    client: LangGraphClient, strategy: Any
) -> None:
    old: Any = {"trail": ["old"]}
    new: Any = {"trail": ["new"]}
    waiting = await client.runs.create(None, "steps", input=old, after_seconds=60)
    done: Any = await client.runs.wait(waiting["thread_id"], "steps", input=new, multitask_strategy=strategy)
    assert done["trail"][0] == "new"
    assert (await thread(client, waiting["thread_id"]))["status"] == "idle"

"""Crons: make, read, change, search, count, delete, and what happens when they are due."""

from __future__ import annotations

import asyncio
import datetime
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError

SERVED = {name: f"./basic.py:{name}" for name in ("steps", "gated")}
ID = "00000000-0000-0000-0000-000000000000"
YEARLY = {"assistant_id": "steps", "schedule": "@yearly"}
EVERY_SECOND = "* * * * * *"


@pytest.fixture
def mark() -> str:
    """Metadata that only one test's crons have."""
    return str(uuid.uuid4())


async def thread_of(client: LangGraphClient) -> str:
    return (await client.threads.create())["thread_id"]


def test_a_cron_is_kept_as_it_was_asked_for(http: httpx.Client) -> None:
    body = {**YEARLY, "input": {"text": "a"}, "metadata": {"n": 1}, "timezone": "Europe/Berlin", "odd": 1}
    cron = http.post("/runs/crons", json=body).json()
    [assistant] = http.post("/assistants/search", json={"graph_id": "steps"}).json()
    assert http.get(f"/runs/crons/{cron['cron_id']}").json() == cron
    assert cron["assistant_id"] == cron["payload"]["assistant_id"] == assistant["assistant_id"]
    assert cron["payload"] == {
        **body,
        "assistant_id": assistant["assistant_id"],
        "config": {"configurable": {"cron_id": cron["cron_id"]}},
    }
    wanted = {"thread_id": None, "user_id": "", "enabled": True, "on_run_completed": "delete", "end_time": None}
    assert {key: cron[key] for key in wanted} == wanted
    assert cron["next_run_date"].endswith("-12-31T23:00:00.000000+00:00")  # midnight in Berlin


def test_a_cron_on_a_thread_ends_with_it(http: httpx.Client) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    cron = http.post(f"/threads/{thread_id}/runs/crons", json={**YEARLY, "on_run_completed": "keep"}).json()
    assert (cron["thread_id"], cron["on_run_completed"]) == (thread_id, None)
    http.delete(f"/threads/{thread_id}")
    assert http.get(f"/runs/crons/{cron['cron_id']}").status_code == 404


@pytest.mark.parametrize(
    ("change", "status", "detail"),
    [
        ({"schedule": "often"}, 422, "Invalid cron schedule: 'often'. Reason: "),
        ({"schedule": "0 0 31 2 *"}, 422, "Invalid cron schedule: '0 0 31 2 *'"),
        ({"schedule": None}, 422, "schedule: "),
        ({"timezone": "Mars/Base"}, 422, "Invalid timezone: 'Mars/Base'. Use IANA timezone format"),
        ({"end_time": "soon"}, 422, "end_time: 'soon' is not an ISO 8601 date and time"),
        ({"webhook": "ftp://x"}, 422, "scheme 'ftp' not allowed"),
        ({"assistant_id": "nope"}, 404, "Assistant 'nope' not found"),
        ({"assistant_id": ID}, 404, f"Assistant '{ID}' not found"),
    ],
)
def test_a_cron_that_cannot_be_is_refused(http: httpx.Client, change: dict[str, Any], status: int, detail: str) -> None:
    before = http.post("/runs/crons/count", json={}).json()
    refused = http.post("/runs/crons", json={**YEARLY, **change})
    assert (refused.status_code, detail in refused.json()["detail"]) == (status, True), refused.text
    assert http.post("/runs/crons/count", json={}).json() == before


def test_a_cron_that_is_not_there_is_not_found(http: httpx.Client) -> None:
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"enabled": False})):
        assert http.request(method, f"/runs/crons/{ID}", json=body).status_code == 404
    refused = http.post(f"/threads/{ID}/runs/crons", json=YEARLY)
    assert refused.status_code == 404
    assert f"Thread with ID '{ID}' not found." in refused.json()["detail"]


def test_a_patch_lays_what_it_has_over_the_cron(http: httpx.Client) -> None:
    body = {**YEARLY, "metadata": {"a": 1, "b": 1}, "end_time": "2050-01-01", "config": {"tags": ["old"]}}
    cron = http.post("/runs/crons", json=body).json()
    path = f"/runs/crons/{cron['cron_id']}"
    changes = {"metadata": {"b": 2}, "enabled": False, "end_time": None, "input": {"text": "new"}, "config": {}}
    patched = http.patch(path, json=changes).json()
    assert (patched["metadata"], patched["enabled"], patched["end_time"]) == ({"a": 1, "b": 2}, False, None)
    assert patched["payload"]["input"] == {"text": "new"}
    assert patched["payload"]["config"] == {"configurable": {"cron_id": cron["cron_id"]}}
    assert patched["next_run_date"] == cron["next_run_date"]
    moved = http.patch(path, json={"schedule": "0 0 1 7 *", "timezone": "UTC"}).json()
    assert moved["next_run_date"].endswith("-07-01T00:00:00.000000+00:00")
    assert http.get(path).json() == moved
    for wrong in ({}, {"schedule": "often"}, {"stream_mode": "nope"}, {"end_time": "soon"}):
        assert http.patch(path, json=wrong).status_code in (400, 422)
    assert http.get(path).json() == moved


async def test_crons_are_searched_and_counted(client: LangGraphClient, http: httpx.Client, mark: str) -> None:
    thread_id = await thread_of(client)
    for n in range(3):
        await client.crons.create("steps", schedule=f"0 0 {3 - n} 1 *", input={}, metadata={"mark": mark, "n": n})
    made: Any = await client.crons.create_for_thread(
        thread_id, "gated", schedule="@yearly", input={}, metadata={"mark": mark}, enabled=False
    )
    assert await client.crons.count(metadata={"mark": mark}) == 4
    by_date: Any = await client.crons.search(
        metadata={"mark": mark}, enabled=True, sort_by="next_run_date", sort_order="asc", select=["payload"], limit=2
    )
    assert [each["payload"]["metadata"]["n"] for each in by_date] == [2, 1]
    found: Any = await client.crons.search(thread_id=thread_id)
    [of_thread] = found
    assert of_thread == made
    assert [each["cron_id"] for each in await client.crons.search(assistant_id=of_thread["assistant_id"])] == [
        of_thread["cron_id"]
    ]
    await client.crons.delete(of_thread["cron_id"])
    with pytest.raises(NotFoundError):
        await client.crons.delete(of_thread["cron_id"])
    page = http.post("/runs/crons/search", json={"metadata": {"mark": mark}, "limit": 2})
    assert page.headers["x-pagination-next"] == "2"
    for field in ("assistant_id", "thread_id"):
        assert http.post("/runs/crons/search", json={field: "nope"}).status_code == 422


async def test_a_cron_on_a_thread_runs_again_and_again(client: LangGraphClient) -> None:
    thread_id = await thread_of(client)
    config: Any = {"configurable": {"mine": 1}}
    cron: Any = await client.crons.create_for_thread(
        thread_id, "steps", schedule=EVERY_SECOND, input={"text": "a"}, metadata={"by": "cron"}, config=config
    )

    async def done() -> list[Any]:
        return [run for run in await client.runs.list(thread_id) if run["status"] == "success"]

    async def several() -> bool:
        return len(await done()) >= 2

    await eventually(several)
    await client.crons.delete(cron["cron_id"])
    run = (await done())[0]
    assert run["metadata"]["by"] == "cron"
    assert {"mine": 1, "cron_id": cron["cron_id"]}.items() <= run["kwargs"]["config"]["configurable"].items()
    assert run["kwargs"]["context"]["cron_id"] == cron["cron_id"]


@pytest.mark.parametrize("kept", [True, False])
async def test_a_cron_without_a_thread_makes_one_for_each_run(
    client: LangGraphClient, server: LiveServer, mark: str, tmp_path: Path, kept: bool
) -> None:
    """And with it, it is gone again, unless it is to be kept."""
    cron: Any = await client.crons.create(
        "gated",
        schedule=EVERY_SECOND,
        input={"gate": str(tmp_path / "gate")},
        metadata={"mark": mark},
        on_run_completed="keep" if kept else "delete",
    )

    async def threads() -> list[Any]:
        return await client.threads.search(metadata={"mark": mark})

    await eventually(threads)
    await client.crons.update(cron["cron_id"], enabled=False)
    (tmp_path / "gate").touch()

    async def at_rest() -> bool:
        return all(thread["status"] == "idle" for thread in await threads())

    await eventually(at_rest)
    assert bool(await threads()) == kept


async def test_a_disabled_cron_and_one_past_its_end_do_not_fire(client: LangGraphClient) -> None:
    thread_id = await thread_of(client)
    past = datetime.datetime(2020, 1, 1)
    for options in ({"enabled": False}, {"end_time": past}):
        await client.crons.create_for_thread(thread_id, "steps", schedule=EVERY_SECOND, input={}, **options)
    other = await thread_of(client)
    await client.crons.create_for_thread(other, "steps", schedule=EVERY_SECOND, input={}, end_time=None)

    async def fired() -> bool:
        return len(await client.runs.list(other)) >= 2

    await eventually(fired)
    assert await client.runs.list(thread_id) == []
    await client.threads.delete(other)


async def test_a_cron_that_cannot_start_a_run_says_so_and_goes_on(
    client: LangGraphClient, http: httpx.Client, server: LiveServer
) -> None:
    thread_id = await thread_of(client)
    cron: Any = await client.crons.create_for_thread(
        thread_id, "steps", schedule=EVERY_SECOND, input={}, multitask_strategy="reject"
    )
    cron_id = cron["cron_id"]
    await client.runs.create(thread_id, "steps", input={}, after_seconds=60)
    await eventually(lambda: f"cron {cron_id} could not start a run: Thread is already running" in server.log)
    [pending] = [run for run in await client.runs.list(thread_id) if run["status"] == "pending"]
    await client.runs.cancel(thread_id, pending["run_id"])
    before = len(await client.runs.list(thread_id))

    async def fires() -> bool:
        return len(await client.runs.list(thread_id)) > before

    await eventually(fires)
    await client.crons.delete(cron_id)


def test_a_cron_that_was_missed_fires_once_at_the_next_start(make_server: Callable[..., LiveServer]) -> None:
    live = make_server({"steps": "./basic.py:steps"}, {"basic.py": (GRAPHS / "basic.py").read_text()}, "--no-reload")
    with live.http() as http:
        thread_id = http.post("/threads", json={}).json()["thread_id"]
        cron = http.post(f"/threads/{thread_id}/runs/crons", json={**YEARLY, "input": {}}).json()
    assert live.stop() == 0
    with closing(sqlite3.connect(live.folder / "devserver.db")) as conn, conn:
        conn.execute("UPDATE crons SET next_run_date = '2020-01-01T00:00:00.000000+00:00'")
    live.start()
    with live.http() as http:
        asyncio.run(
            eventually(lambda: [r["status"] for r in http.get(f"/threads/{thread_id}/runs").json()] == ["success"])
        )
        assert http.get(f"/runs/crons/{cron['cron_id']}").json()["next_run_date"] == cron["next_run_date"]
    assert live.stop() == 0


def test_a_cron_of_which_no_next_time_can_be_told_is_disabled_with_a_word(
    make_server: Callable[..., LiveServer],
) -> None:
    """Such as one that was made on a machine that knows more timezones."""
    live = make_server({"steps": "./basic.py:steps"}, {"basic.py": (GRAPHS / "basic.py").read_text()}, "--no-reload")
    with live.http() as http:
        cron = http.post("/runs/crons", json={**YEARLY, "input": {}, "on_run_completed": "keep"}).json()
    assert live.stop() == 0
    with closing(sqlite3.connect(live.folder / "devserver.db")) as conn, conn:
        conn.execute("UPDATE crons SET timezone = 'Mars/Base', next_run_date = '2020-01-01T00:00:00.000000+00:00'")
    live.start()
    with live.http() as http:
        asyncio.run(eventually(lambda: not http.get(f"/runs/crons/{cron['cron_id']}").json()["enabled"]))
        assert f"cron {cron['cron_id']} is disabled, as it has no next time: Invalid timezone" in live.log
        assert len(http.post("/threads/search", json={}).json()) == 1  # it fired once more

"""Threads: create, read, change, search, copy, prune, delete, and how much they take."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import BadRequestError, ConflictError, NotFoundError

SERVED = {name: f"./basic.py:{name}" for name in ("steps", "failing", "gated", "question", "nested")}
TABLES = ("threads", "runs", "checkpoints", "writes", "run_writes", "events")


@pytest.fixture
def mark() -> str:
    """A text that only this test's threads carry."""
    return str(uuid.uuid4())


def rows(server: LiveServer, thread_id: str) -> dict[str, int]:
    """How many rows of each table belong to a thread."""
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
        query = "SELECT count(*) FROM {} WHERE thread_id = ?"
        return {table: conn.execute(query.format(table), (thread_id,)).fetchone()[0] for table in TABLES}


async def in_each_status(client: LangGraphClient, mark: str, gate: Path) -> dict[Any, str]:
    """A thread in each status, by status."""
    made = {}
    for status, graph_id, given in (
        ("idle", "steps", {}),
        ("error", "failing", {}),
        ("interrupted", "question", {}),
        ("busy", "gated", {"gate": str(gate)}),
    ):
        thread = await client.threads.create(metadata={"mark": mark})
        made[status] = thread["thread_id"]
        if status == "busy":
            await client.runs.create(thread["thread_id"], graph_id, input=given)
        else:
            await client.runs.wait(thread["thread_id"], graph_id, input=given, raise_error=False)
    return made


# Create


async def test_a_new_thread_is_idle_and_empty(client: LangGraphClient) -> None:
    thread: Any = await client.threads.create()
    assert uuid.UUID(thread["thread_id"]).version == 7
    assert thread["status"] == "idle"
    assert thread["values"] is None
    assert (thread["metadata"], thread["config"]) == ({}, {})
    assert thread["created_at"] == thread["updated_at"] == thread["state_updated_at"]
    assert not {"interrupts", "error"} & set(thread)
    assert await client.threads.get(thread["thread_id"]) == thread


async def test_a_thread_id_is_taken_once(client: LangGraphClient, mark: str) -> None:
    old = await client.threads.create(thread_id=mark, metadata={"n": 1})
    assert old["thread_id"] == mark
    with pytest.raises(ConflictError, match=f"Thread with ID {mark} already exists"):
        await client.threads.create(thread_id=mark, metadata={"n": 2})
    assert await client.threads.create(thread_id=mark, metadata={"n": 2}, if_exists="do_nothing") == old


def test_ids_are_read_leniently_and_written_canonically(http: httpx.Client, mark: str) -> None:
    made = http.post("/threads", json={"thread_id": mark.upper().replace("-", "")}).json()
    assert made["thread_id"] == mark
    assert http.get(f"/threads/{{{mark.upper()}}}").json()["thread_id"] == mark


def test_keys_that_the_server_sets_are_not_taken_from_clients(http: httpx.Client) -> None:
    made = http.post("/threads", json={"metadata": {"run_id": "x", "thread_id": "y", "mine": 1}}).json()
    assert made["metadata"] == {"mine": 1}


async def test_supersteps_make_a_history(client: LangGraphClient) -> None:
    thread = await client.threads.create(
        graph_id="steps",
        supersteps=[
            {"updates": [{"values": {"text": "hi"}, "as_node": "__input__"}]},
            {"updates": [{"values": {"trail": ["first"], "total": 1}, "as_node": "first"}]},
            {"updates": [{"values": None, "command": {"update": {"total": 5}}, "as_node": "second"}]},
        ],
    )
    assert thread["values"] == {"trail": ["first"], "total": 6}
    assert thread["status"] == "interrupted"
    state = await client.threads.get_state(thread["thread_id"])
    assert state["next"] == ["third"]
    history = await client.threads.get_history(thread["thread_id"])
    assert [(each["metadata"] or {})["step"] for each in history] == [1, 0, -1]
    done = await client.runs.wait(thread["thread_id"], "steps", input=None)
    assert done == {"trail": ["first", "third"], "total": 106, "text": "!"}


@pytest.mark.parametrize(
    ("metadata", "node", "status", "detail"),
    [
        ({}, "first", 201, "there were problems updating the state: Thread '"),
        ({"graph_id": "steps"}, "nope", 400, "Node nope does not exist"),
        ({"graph_id": "nope"}, "first", 404, "Graph 'nope' not found."),
    ],
)
def test_supersteps_that_cannot_be_taken_are_refused(
    http: httpx.Client, metadata: dict[str, str], node: str, status: int, detail: str
) -> None:
    superstep = {"updates": [{"values": {"total": 1}, "as_node": node}]}
    refused = http.post("/threads", json={"metadata": metadata, "supersteps": [superstep]})
    assert refused.status_code == status
    assert detail in refused.json()["detail"]


async def test_of_supersteps_those_before_a_bad_one_are_kept_and_shown(client: LangGraphClient) -> None:
    thread_id = str(uuid.uuid4())
    good: dict[str, Any] = {"updates": [{"values": {"trail": ["first"]}, "as_node": "first"}]}
    bad: dict[str, Any] = {"updates": [{"values": {}, "as_node": "nope"}]}
    with pytest.raises(BadRequestError, match="Node nope does not exist"):
        await client.threads.create(thread_id=thread_id, graph_id="steps", supersteps=[good, good, bad])
    thread = await client.threads.get(thread_id)
    assert (thread["status"], thread["values"]) == ("interrupted", {"trail": ["first", "first"], "total": 0})
    assert (await client.threads.get_state(thread_id))["values"] == thread["values"]
    await client.runs.wait(thread_id, "steps", input=None)
    assert (await client.threads.get(thread_id))["status"] == "idle"


# Read, change, delete


async def test_an_unknown_thread_is_not_found_anywhere(client: LangGraphClient, http: httpx.Client, mark: str) -> None:
    for method, path, status in (
        ("GET", "", 404),
        ("PATCH", "", 404),
        ("DELETE", "", 404),
        ("POST", "/copy", 409),
        ("GET", "/storage", 404),
        ("GET", "/state", 404),
        ("POST", "/state", 404),
        ("GET", "/history", 404),
        ("POST", "/history", 404),
        ("GET", "/runs", 404),
        ("GET", f"/runs/{uuid.uuid4()}", 404),
    ):
        answer = http.request(method, f"/threads/{mark}{path}", json={} if method in ("POST", "PATCH") else None)
        assert (path, answer.status_code) == (path, status)
    with pytest.raises(NotFoundError, match="Thread or assistant not found"):
        await client.runs.create(mark, "steps", input={})


async def test_a_patch_merges_metadata_one_level_deep(client: LangGraphClient) -> None:
    thread: Any = await client.threads.create(metadata={"a": {"x": 1}, "b": 2, "c": 3})
    patched: Any = await client.threads.update(thread["thread_id"], metadata={"a": {"y": 2}, "c": None})
    assert patched["metadata"] == {"a": {"y": 2}, "b": 2, "c": None}
    assert patched["updated_at"] > thread["updated_at"]
    assert patched["state_updated_at"] == thread["state_updated_at"]


async def test_a_patch_may_want_no_answer(client: LangGraphClient) -> None:
    thread = await client.threads.create()
    await client.threads.update(thread["thread_id"], metadata={"a": 1}, return_minimal=True)
    assert (await client.threads.get(thread["thread_id"]))["metadata"] == {"a": 1}


def test_a_patch_of_the_state_merges_metadata_too(http: httpx.Client, mark: str) -> None:
    """The JavaScript SDK's patchState: "patch the metadata of a thread"."""
    thread_id = http.post("/threads", json={"metadata": {"a": 1, "b": 1}}).json()["thread_id"]
    patched = http.patch(f"/threads/{thread_id}/state", json={"metadata": {"b": 2, "run_id": "reserved"}})
    assert (patched.status_code, patched.content) == (204, b"")
    assert http.get(f"/threads/{thread_id}").json()["metadata"] == {"a": 1, "b": 2}
    assert http.patch(f"/threads/{mark}/state", json={"metadata": {}}).status_code == 404
    assert http.patch(f"/threads/{thread_id}/state", json={"metadata": 5}).status_code == 422


async def test_a_deleted_thread_leaves_no_rows(client: LangGraphClient, server: LiveServer, mark: str) -> None:
    await client.threads.create(thread_id=mark)
    await client.runs.wait(mark, "question", input={})
    await client.runs.wait(mark, "question", command={"resume": "yes"})
    assert all(count for table, count in rows(server, mark).items() if table != "events")
    await client.threads.delete(mark)
    assert not any(rows(server, mark).values())
    with pytest.raises(NotFoundError):
        await client.threads.get(mark)
    again = await client.threads.create(thread_id=mark)
    assert again["values"] is None
    assert await client.threads.get_history(mark) == []
    assert await client.runs.list(mark) == []


async def test_deleting_a_thread_ends_its_live_run_and_leaves_no_rows(
    client: LangGraphClient, server: LiveServer, tmp_path: Path, mark: str
) -> None:
    await client.threads.create(thread_id=mark)
    events = client.runs.stream(
        mark, "gated", input={"gate": str(tmp_path / "gate"), "burst": 400}, stream_mode="custom", stream_resumable=True
    )
    seen = []
    async for part in events:
        seen.append(part.event)
        if len(seen) == 401:
            await client.threads.delete(mark)
    assert seen == ["metadata"] + 400 * ["custom"]
    (tmp_path / "gate").touch()
    await eventually(lambda: not any(rows(server, mark).values()))
    await asyncio.sleep(0.2)
    assert not any(rows(server, mark).values())


# Status, values


async def test_a_threads_status_follows_its_runs(client: LangGraphClient, tmp_path: Path, mark: str) -> None:
    made = await in_each_status(client, mark, tmp_path / "gate")
    for status, thread_id in made.items():
        assert (await client.threads.get(thread_id))["status"] == status
        found = await client.threads.search(metadata={"mark": mark}, status=status)
        assert [each["thread_id"] for each in found] == [thread_id]
        assert await client.threads.count(metadata={"mark": mark}, status=status) == 1
    (tmp_path / "gate").touch()

    async def idle() -> bool:
        return (await client.threads.get(made["busy"]))["status"] == "idle"

    await eventually(idle)


async def test_a_thread_shows_what_its_last_run_left(client: LangGraphClient, tmp_path: Path, mark: str) -> None:
    made = await in_each_status(client, mark, tmp_path / "gate")
    (tmp_path / "gate").touch()
    failed: Any = await client.threads.get(made["error"])
    assert failed["error"] == {"error": "ValueError", "message": "no good value"}
    assert failed["values"] == {"trail": ["prepared"]}
    asked = await client.threads.get(made["interrupted"])
    [[question]] = asked["interrupts"].values()
    assert question["value"] == {"question": "publish?", "draft": "about nothing"}
    done: Any = await client.threads.get(made["idle"])
    assert (done["error"], done["interrupts"]) == (None, {})
    assert done["state_updated_at"] > done["created_at"]


async def test_a_run_binds_its_thread_to_its_graph_and_assistant(client: LangGraphClient) -> None:
    thread = await client.threads.create(metadata={"mine": 1})
    await client.runs.wait(
        thread["thread_id"],
        "steps",
        input={},
        metadata={"of": "the run"},
        config={"tags": ["t"], "configurable": {"secret": 1}},
    )
    after: Any = await client.threads.get(thread["thread_id"])
    assert after["metadata"].keys() == {"mine", "graph_id", "assistant_id"}
    assert after["metadata"]["graph_id"] == "steps"
    assert after["config"]["tags"] == ["t"]
    assert after["config"]["configurable"] == {}


# Search


async def test_search_filters_by_what_metadata_contain(client: LangGraphClient, mark: str) -> None:
    thread = await client.threads.create(metadata={"mark": mark, "deep": {"a": 1, "b": [1, {"c": 2}]}, "none": None})

    async def finds(metadata: dict[str, Any]) -> bool:
        wanted = {"mark": mark, **metadata}
        found = await client.threads.search(metadata=wanted)
        assert await client.threads.count(metadata=wanted) == len(found)
        return [each["thread_id"] for each in found] == [thread["thread_id"]]

    assert await finds({})
    assert await finds({"deep": {"a": 1}})
    assert await finds({"deep": {}})
    assert await finds({"deep": {"b": [1, {"c": 2}]}})
    assert await finds({"none": None})
    assert not await finds({"deep": {"b": [1, {}]}})
    assert not await finds({"deep": {"a": "1"}})
    assert not await finds({"deep": {"a": None}})
    assert not await finds({"missing": None})


async def test_search_filters_by_what_values_contain(client: LangGraphClient, mark: str) -> None:
    for text in ("one", "two"):
        thread = await client.threads.create(metadata={"mark": mark})
        await client.runs.wait(thread["thread_id"], "steps", input={"text": text})
    await client.threads.create(metadata={"mark": mark})  # without values: never found, and no failure

    async def texts(values: dict[str, Any]) -> list[str]:
        found = await client.threads.search(metadata={"mark": mark}, values=values, sort_order="asc")
        assert await client.threads.count(metadata={"mark": mark}, values=values) == len(found)
        return [(each["values"] or {})["text"] for each in found]

    assert await texts({"total": 111}) == ["one!", "two!"]
    assert await texts({"text": "two!"}) == ["two!"]
    assert await texts({"trail": ["first"]}) == []


async def test_search_by_ids_gives_only_those(client: LangGraphClient, mark: str) -> None:
    made = [(await client.threads.create(metadata={"mark": mark}))["thread_id"] for _ in range(3)]
    found = await client.threads.search(ids=[made[0], made[2], str(uuid.uuid4())], sort_order="asc")
    assert [each["thread_id"] for each in found] == [made[0], made[2]]
    with pytest.raises(BadRequestError, match="Invalid thread ID x"):
        await client.threads.search(ids=[made[0], "x"])


@pytest.mark.parametrize("sort_order", ["asc", "desc", None])
@pytest.mark.parametrize("sort_by", ["thread_id", "status", "created_at", "updated_at", "state_updated_at", None])
async def test_search_sorts_by_any_column_both_ways(
    client: LangGraphClient, mark: str, sort_by: Any, sort_order: Any
) -> None:
    made = [(await client.threads.create(metadata={"mark": mark}))["thread_id"] for _ in range(3)]
    await client.runs.wait(made[1], "question", input={})
    await client.threads.update(made[0], metadata={})
    found = await client.threads.search(metadata={"mark": mark}, sort_by=sort_by, sort_order=sort_order)
    key: Callable[[Any], Any] = lambda thread: thread[sort_by or "updated_at"]  # noqa: E731
    assert [key(each) for each in found] == sorted(map(key, found), reverse=sort_order != "asc")
    assert {each["thread_id"] for each in found} == set(made)


@pytest.mark.parametrize("sort_order", ["asc", "desc"])
async def test_pages_sorted_by_status_are_those_of_the_whole(
    client: LangGraphClient, mark: str, sort_order: Any
) -> None:
    """Of one status, the thread that was updated last comes last, or first."""
    made = [(await client.threads.create(metadata={"mark": mark}))["thread_id"] for _ in range(7)]
    for thread_id in made[1], made[4]:
        await client.runs.wait(thread_id, "question", input={})
    await client.runs.create(made[2], "question", input={}, after_seconds=600)
    wanted = [made[each] for each in (2, 0, 3, 5, 6, 1, 4)]
    search = functools.partial(client.threads.search, metadata={"mark": mark}, sort_by="status", sort_order=sort_order)
    whole = [each["thread_id"] for each in await search()]
    assert whole == (wanted if sort_order == "asc" else wanted[::-1])
    for limit in (1, 2, 3, 7):
        for offset in range(9):
            page = await search(limit=limit, offset=offset)
            assert [each["thread_id"] for each in page] == whole[offset : offset + limit]
    some = await search(status="idle", ids=[made[6], made[0], made[1]])
    assert [each["thread_id"] for each in some] == [each for each in whole if each in (made[0], made[6])]


def test_search_headers_tell_of_the_next_page(http: httpx.Client, mark: str) -> None:
    made = [http.post("/threads", json={"metadata": {"mark": mark}}).json()["thread_id"] for _ in range(5)]
    seen: list[str] = []
    offset: str | None = "0"
    while offset is not None:
        body = {"metadata": {"mark": mark}, "limit": 2, "offset": int(offset), "sort_by": "created_at"}
        page = http.post("/threads/search", json=body)
        seen += [thread["thread_id"] for thread in page.json()]
        offset = page.headers.get("x-pagination-next")
        assert int(page.headers["x-pagination-total"]) == (len(seen) + 1 if offset else len(seen))
    assert seen == made[::-1]


async def test_search_gives_only_the_fields_selected(client: LangGraphClient, mark: str) -> None:
    thread = await client.threads.create(metadata={"mark": mark})
    rows: list[Any] = await client.threads.search(metadata={"mark": mark}, select=["thread_id", "status"])
    assert rows == [{"thread_id": thread["thread_id"], "status": "idle"}]


EXTRACTED: dict[str, Any] = {
    "values.trail[0]": "first",
    "values.trail[-1]": "third",
    "values.trail[9]": None,
    "values.trail": ["first", "second", "third"],
    "values.total": 111,
    "values.total.more": None,
    "values.nothing[0].there": None,
    "metadata.deep.list[1].name": "second",
    "metadata.deep._hidden": None,
    "metadata": ...,
    "config.configurable": {},
    "interrupts": {},
}


async def test_search_extracts_parts_of_what_it_finds(client: LangGraphClient, mark: str) -> None:
    deep = {"list": [{"name": "first"}, {"name": "second"}], "_hidden": 1}
    thread = await client.threads.create(metadata={"mark": mark, "deep": deep})
    await client.runs.wait(thread["thread_id"], "steps", input={})
    paths = list(EXTRACTED)
    for some in (paths[:6], paths[6:]):
        named = {f"part_{n}": path for n, path in enumerate(some)}
        [row] = await client.threads.search(metadata={"mark": mark}, select=["thread_id"], extract=named)
        got: dict[str, Any] = row["extracted"]
        assert row.keys() == {"thread_id", "extracted"}
        for name, path in named.items():
            assert EXTRACTED[path] in (..., got[name]), path


@pytest.mark.parametrize(
    ("extract", "detail"),
    [
        ({"x": "status"}, "Extract path 'status' must start with one of: config, interrupts, metadata, values"),
        ({"a-b": "values"}, "Extract key 'a-b' must be a valid identifier (letters, digits, underscores)"),
        ({"values": "values"}, "Extract keys cannot use reserved field names: ['values']"),
        ({"x": ""}, "Extract path for 'x' must be a non-empty string"),
        ({f"x{n}": "values" for n in range(11)}, "extract: "),
    ],
)
def test_strange_extracts_are_refused(http: httpx.Client, extract: dict[str, str], detail: str) -> None:
    refused = http.post("/threads/search", json={"extract": extract})
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith(detail)


# Copy


async def test_a_copy_has_the_same_state_and_history(client: LangGraphClient, mark: str) -> None:
    await client.threads.create(thread_id=mark, metadata={"mine": 1})
    await client.runs.wait(mark, "steps", input={"text": "hi"})
    copy = await _copied(client, mark)
    assert copy["thread_id"] != mark
    assert copy["metadata"] == (await client.threads.get(mark))["metadata"]
    assert copy["status"] == "idle"
    old, new = [await client.threads.get_history(each, limit=50) for each in (mark, copy["thread_id"])]
    assert [each["checkpoint"]["checkpoint_id"] for each in new] == [
        each["checkpoint"]["checkpoint_id"] for each in old
    ]
    assert [each["values"] for each in new] == [each["values"] for each in old]
    assert {each["checkpoint"]["thread_id"] for each in new} == {copy["thread_id"]}
    assert await client.runs.list(copy["thread_id"]) == []


async def _copied(client: LangGraphClient, thread_id: str) -> Any:
    """The SDK's annotation says that copy gives nothing; it gives the thread."""
    copy: Any = client.threads.copy
    return await copy(thread_id)


async def test_a_copy_and_its_original_go_their_own_ways(client: LangGraphClient, mark: str) -> None:
    await client.threads.create(thread_id=mark)
    await client.runs.wait(mark, "question", input={"topic": "tea"})
    copy = (await _copied(client, mark))["thread_id"]
    assert await client.runs.wait(copy, "question", command={"resume": "no"}) == {
        "topic": "tea",
        "draft": "about tea",
        "decision": "no",
        "trail": ["draft", "review", "shelve"],
    }
    assert (await client.threads.get(mark))["status"] == "interrupted"
    assert (await client.threads.get_state(mark))["next"] == ["review"]
    await client.threads.update(copy, metadata={"only": "the copy"})
    await client.threads.delete(mark)
    assert (await client.threads.get_state(copy))["values"]["decision"] == "no"  # type: ignore[call-overload]


async def test_a_copy_of_a_waiting_thread_shows_its_question(client: LangGraphClient, mark: str) -> None:
    await client.threads.create(thread_id=mark)
    await client.runs.wait(mark, "question", input={})
    copy = await client.threads.get((await _copied(client, mark))["thread_id"])
    original = await client.threads.get(mark)
    assert (copy["status"], copy["values"]) == ("interrupted", original["values"])
    assert copy["interrupts"] == original["interrupts"]


# Prune, storage


async def test_prune_removes_the_threads_it_knows(client: LangGraphClient, server: LiveServer, mark: str) -> None:
    made = [(await client.threads.create(metadata={"mark": mark}))["thread_id"] for _ in range(3)]
    await client.runs.wait(made[0], "steps", input={})
    pruned = await client.threads.prune([made[0], made[1], made[1], str(uuid.uuid4())])
    assert pruned == {"pruned_count": 2}
    assert [each["thread_id"] for each in await client.threads.search(metadata={"mark": mark})] == [made[2]]
    assert not any(rows(server, made[0]).values())


def test_storage_tells_how_much_a_thread_takes(http: httpx.Client, mark: str) -> None:
    http.post("/threads", json={"thread_id": mark})
    empty = http.get(f"/threads/{mark}/storage").json()
    assert empty["total_bytes"] == empty["checkpoints"]["count"] == empty["pending_writes"]["count"] == 0
    http.post(f"/threads/{mark}/runs/wait", json={"assistant_id": "steps", "input": {"text": "x" * 5000}})
    full = http.get(f"/threads/{mark}/storage").json()
    assert full["checkpoints"]["count"] == 5
    assert full["channel_values"]["by_channel"]["text"]["versions"] == 2
    assert full["channel_values"]["by_channel"]["text"]["bytes"] > 10_000
    assert full["total_bytes"] > 10_000
    parts = ("checkpoints", "channel_values", "pending_writes")
    assert full["total_bytes"] >= max(full[part]["bytes"] for part in parts)


def test_the_sync_client_manages_threads_too(server: LiveServer, mark: str) -> None:
    with server.sync_client() as client:
        thread = client.threads.create(metadata={"mark": mark})
        client.threads.update(thread["thread_id"], metadata={"n": 1})
        [found] = client.threads.search(metadata={"mark": mark})
        assert found["metadata"] == {"mark": mark, "n": 1}
        assert client.threads.count(metadata={"mark": mark}) == 1
        client.threads.delete(thread["thread_id"])
        assert client.threads.count(metadata={"mark": mark}) == 0

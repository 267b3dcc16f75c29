"""Time to live: of items (`store.ttl`), of threads (`checkpointer.ttl`), and threads pruned to their latest state."""

from __future__ import annotations

import asyncio
import datetime
import functools
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually, write_project
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError
from pydantic import BaseModel

import devserver
from devserver import Items, StartError, Threads

SERVED = {name: f"./ageing.py:{name}" for name in ("items", "learner", "diary", "talk")}
SERVED |= {name: f"./basic.py:{name}" for name in ("steps", "gated", "nested")}
FILES = {name: (GRAPHS / name).read_text() for name in ("ageing.py", "basic.py")}
TABLES = ("threads", "runs", "checkpoints", "writes", "run_writes", "events", "crons")
SOON = 0.005  # minutes
LONG = 60

Make = Callable[..., LiveServer]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server without default times to live."""
    folder = tmp_path_factory.mktemp("ttl")
    write_project(folder, SERVED, FILES)
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0, live.log


@pytest.fixture
def mark() -> str:
    return str(uuid.uuid4())


def ask(server: LiveServer, query: str, *parameters: str) -> list[Any]:
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
        return conn.execute(query, parameters).fetchall()


def rows(server: LiveServer, thread_id: str) -> dict[str, int]:
    """How many rows of each table belong to a thread."""
    query = "SELECT count(*) FROM {} WHERE thread_id = ?"
    return {table: ask(server, query.format(table), thread_id)[0][0] for table in TABLES}


def expiry(server: LiveServer, prefix: str, key: str = "k") -> tuple[float | None, Any]:
    """(minutes to live, when it expires) of an item."""
    [(minutes, expires_at)] = ask(
        server, "SELECT ttl_minutes, expires_at FROM store WHERE prefix = ? AND key = ?", prefix, key
    )
    return minutes, expires_at


def is_gone(server: LiveServer, prefix: str) -> bool:
    return not ask(server, "SELECT 1 FROM store WHERE prefix = ?", prefix)


def moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


async def with_ttl(client: LangGraphClient, thread_id: str) -> Any:
    """A thread's ttl as it is shown when asked for."""
    thread: Any = await client.threads.get(thread_id, include=["ttl"])
    return thread["ttl"]


async def run(client: LangGraphClient, thread_id: str | None, graph: str, **given: Any) -> Any:
    return await client.runs.wait(thread_id, graph, input=given)


# Items


async def test_items_are_swept_when_they_expire(client: LangGraphClient, server: LiveServer, mark: str) -> None:
    http = server.http()
    with http:
        for key, ttl in (("k", SOON), ("other", 2 * SOON)):
            item = {"namespace": [mark], "key": key, "value": {}, "ttl": ttl}
            assert http.put("/store/items", json=item).status_code == 204
    await client.store.put_item([mark, "kept"], "k", {}, ttl=LONG)
    await eventually(lambda: is_gone(server, mark))
    assert not is_gone(server, f"{mark}.kept")
    assert expiry(server, f"{mark}.kept")[0] == LONG


async def test_an_item_put_by_a_node_is_swept_too(client: LangGraphClient, server: LiveServer, mark: str) -> None:
    assert (await run(client, None, "items", space=mark, put={"ttl": SOON}))["seen"]
    await eventually(lambda: is_gone(server, mark))
    assert not (await run(client, None, "items", space=mark))["seen"]


async def test_reading_an_item_lets_its_time_begin_anew_unless_told_not_to(
    client: LangGraphClient, server: LiveServer, mark: str
) -> None:
    async def read(**options: Any) -> None:
        await client.store.get_item([mark], "k", **options)

    async def search(**options: Any) -> None:
        await client.store.search_items([mark], **options)

    async def node(**options: Any) -> None:
        await run(client, None, "items", space=mark, get=options)

    await client.store.put_item([mark], "k", {}, ttl=LONG)
    updated = (await client.store.get_item([mark], "k"))["updated_at"]
    for look in (read, search, node):
        for options, refreshes in (({}, True), ({"refresh_ttl": True}, True), ({"refresh_ttl": False}, False)):
            before = expiry(server, mark)
            await look(**options)
            after = expiry(server, mark)
            assert (after > before, after == before) == (refreshes, not refreshes), (look, options)
    minutes, expires_at = expiry(server, mark)
    left = moment(expires_at) - datetime.datetime.now(datetime.UTC)
    assert minutes == LONG
    assert datetime.timedelta(minutes=LONG - 1) < left <= datetime.timedelta(minutes=LONG)
    assert (await client.store.get_item([mark], "k"))["updated_at"] == updated


async def test_reading_gives_no_time_to_live_to_items_that_have_none(
    client: LangGraphClient, server: LiveServer, mark: str
) -> None:
    await client.store.put_item([mark], "k", {}, ttl=LONG)
    await client.store.put_item([mark], "k", {})
    await client.store.get_item([mark], "k", refresh_ttl=True)
    assert expiry(server, mark) == (None, None)


async def test_defaults_hold_for_items_that_say_nothing(make_server: Make) -> None:
    ttl = {"default_ttl": LONG, "refresh_on_read": False}
    server = make_server(SERVED, FILES, "--no-reload", store={"ttl": ttl})
    async with server.client() as client:
        await client.store.put_item(["plain"], "k", {})
        await client.store.put_item(["given"], "k", {}, ttl=5)
        with server.http() as http:
            http.put("/store/items", json={"namespace": ["never"], "key": "k", "value": {}, "ttl": None})
        await run(client, None, "items", space="node", put={})
        await run(client, None, "items", space="node-never", put={"ttl": None})
        minutes = {name: expiry(server, name)[0] for name in ("plain", "given", "never", "node", "node-never")}
        assert minutes == {"plain": LONG, "given": 5, "never": None, "node": LONG, "node-never": None}
        before = expiry(server, "plain")
        await client.store.get_item(["plain"], "k")
        await client.store.search_items([])
        assert expiry(server, "plain") == before
        await client.store.get_item(["plain"], "k", refresh_ttl=True)
        assert expiry(server, "plain") > before


async def test_shared_values_expire_only_if_they_are_told_to(make_server: Make) -> None:
    server = make_server(SERVED, FILES, "--no-reload", store={"ttl": {"default_ttl": LONG}})
    place = ("scoped", "user_id", "facts", "7")
    async with server.client() as client:
        config: Any = {"configurable": {"user_id": "7"}}
        for fact in ("a", "b"):
            await client.runs.wait(None, "learner", input={"fact": fact}, config=config)
        await client.store.put_item(place, "by a client", {"known": True})
        await client.store.put_item(place, "b", {"known": False}, ttl=5)
        assert {key: expiry(server, ".".join(place), key)[0] for key in ("a", "by a client", "b")} == {
            "a": None,
            "by a client": None,
            "b": 5,
        }
        await client.runs.wait(None, "learner", input={"fact": "b"}, config=config)
        assert expiry(server, ".".join(place), "b") == (None, None)


async def test_a_sweep_interval_spares_the_disk_but_not_the_truth(make_server: Make) -> None:
    """The first item is swept at once, the next ones an hour later; but nobody sees them."""
    server = make_server(SERVED, FILES, "--no-reload", store={"ttl": {"sweep_interval_minutes": 60}})
    async with server.client() as client:
        await run(client, None, "items", space="first", put={"ttl": SOON})
        await eventually(lambda: is_gone(server, "first"))
        await run(client, None, "items", space="second", put={"ttl": SOON})

        async def unseen() -> bool:
            item: Any = await client.store.get_item(["second"], "k", refresh_ttl=False)
            return item is None

        await eventually(unseen)
        assert (await client.store.search_items([]))["items"] == []
        assert (await client.store.list_namespaces())["namespaces"] == []
        assert not is_gone(server, "second")
    assert server.stop() == 0
    server.start()
    await eventually(lambda: is_gone(server, "second"))


# Threads


async def test_a_thread_shows_its_ttl_when_asked(client: LangGraphClient, http: httpx.Client) -> None:
    thread: Any = await client.threads.create(ttl=LONG)
    assert "ttl" not in thread
    shown = await with_ttl(client, thread["thread_id"])
    assert shown == {"strategy": "delete", "ttl_minutes": LONG, "expires_at": shown["expires_at"]}
    late = moment(shown["expires_at"]) - moment(thread["updated_at"])
    assert abs(late - datetime.timedelta(minutes=LONG)) < datetime.timedelta(milliseconds=2)
    path = f"/threads/{thread['thread_id']}"
    assert "ttl" not in http.get(path).json()
    assert "ttl" not in http.get(f"{path}?include=other").json()
    assert http.get(f"{path}?include=other&include=ttl").json()["ttl"] == shown


async def test_a_ttl_can_be_changed_and_taken_away(client: LangGraphClient, http: httpx.Client, mark: str) -> None:
    await client.threads.create(thread_id=mark)
    assert await with_ttl(client, mark) is None
    await client.threads.update(mark, metadata={}, ttl={"ttl": 2.5, "strategy": "keep_latest"})
    shown = await with_ttl(client, mark)
    assert (shown["strategy"], shown["ttl_minutes"]) == ("keep_latest", 2.5)
    copy: Any = await client.threads.copy(mark)  # type: ignore[func-returns-value]
    assert (await with_ttl(client, copy["thread_id"]))["ttl_minutes"] == 2.5
    await client.threads.update(mark, metadata={"n": 1})
    later = await with_ttl(client, mark)
    assert later["expires_at"] > shown["expires_at"]
    http.patch(f"/threads/{mark}", json={"ttl": {"ttl": None}})
    assert await with_ttl(client, mark) is None
    for ttl in (0, -1, 2e9, "1", 5):
        given = ttl if ttl == 5 else {"ttl": ttl}
        assert http.patch(f"/threads/{mark}", json={"ttl": given}).status_code == 422


async def test_an_expired_thread_goes_with_all_that_is_its_own(client: LangGraphClient, server: LiveServer) -> None:
    thread = (await client.threads.create(ttl={"ttl": LONG}))["thread_id"]
    async for _ in client.runs.stream(thread, "steps", input={}, stream_resumable=True):
        pass
    cron: Any = await client.crons.create_for_thread(thread, "steps", schedule="0 0 1 1 *")
    before = rows(server, thread)
    assert min(before[table] for table in TABLES if table != "run_writes") > 0
    kept = (await client.threads.create(ttl=LONG))["thread_id"]
    await client.threads.update(thread, metadata={}, ttl={"ttl": SOON})
    sentinel = (await client.threads.create(ttl={"ttl": 2 * SOON}))["thread_id"]
    await eventually(lambda: not any(rows(server, sentinel).values()))
    await client.threads.get(thread)  # a cron is to run on it
    await client.crons.update(cron["cron_id"], enabled=False)
    await eventually(lambda: not any(rows(server, thread).values()))
    with pytest.raises(NotFoundError):
        await client.threads.get(thread)
    assert (await client.threads.get(kept))["thread_id"] == kept


async def test_a_busy_thread_expires_after_its_run(client: LangGraphClient, server: LiveServer, mark: str) -> None:
    gate = server.folder / mark
    await client.threads.create(thread_id=mark)
    made = await client.runs.create(mark, "gated", input={"gate": str(gate)})
    await client.threads.update(mark, metadata={}, ttl={"ttl": SOON})
    sentinel = (await client.threads.create(ttl={"ttl": 2 * SOON}))["thread_id"]
    await eventually(lambda: not any(rows(server, sentinel).values()))
    thread: Any = await client.threads.get(mark, include=["ttl"])
    assert thread["status"] == "busy"
    assert moment(thread["ttl"]["expires_at"]) < datetime.datetime.now(datetime.UTC)
    await client.threads.update(mark, metadata={}, ttl={"ttl": LONG})
    gate.touch()
    assert (await client.runs.join(mark, made["run_id"]))["trail"] == ["before", "waited", "after"]
    await client.threads.update(mark, metadata={}, ttl={"ttl": SOON})
    await eventually(lambda: not any(rows(server, mark).values()))


async def test_a_thread_that_became_old_while_busy_goes_when_it_rests(
    client: LangGraphClient, server: LiveServer, mark: str
) -> None:
    gate = server.folder / mark
    await client.threads.create(thread_id=mark, ttl={"ttl": 4 * SOON})
    await client.runs.create(mark, "gated", input={"gate": str(gate)})
    sentinel = (await client.threads.create(ttl={"ttl": 6 * SOON}))["thread_id"]
    await eventually(lambda: not any(rows(server, sentinel).values()))
    assert rows(server, mark)["runs"] == 1
    gate.touch()
    await eventually(lambda: not any(rows(server, mark).values()))


async def test_threads_that_expired_while_the_server_was_off_go_at_its_start(make_server: Make) -> None:
    server = make_server(SERVED, FILES, "--no-reload")
    async with server.client() as client:
        thread = (await client.threads.create(ttl={"ttl": 2 * SOON}))["thread_id"]
    server.kill()
    assert rows(server, thread)["threads"] == 1
    server.start()
    await eventually(lambda: rows(server, thread)["threads"] == 0)


async def test_a_default_holds_for_threads_however_they_are_made(make_server: Make) -> None:
    ttl = {"strategy": "keep_latest", "default_ttl": LONG, "sweep_limit": 5}
    server = make_server(SERVED, FILES, "--no-reload", checkpointer={"ttl": ttl})
    expected = ("keep_latest", LONG)

    async def of(client: LangGraphClient, thread_id: str) -> Any:
        shown = await with_ttl(client, thread_id)
        return shown and (shown["strategy"], shown["ttl_minutes"])

    async with server.client() as client:
        assert await of(client, (await client.threads.create())["thread_id"]) == expected
        assert await of(client, (await client.threads.create(ttl=5))["thread_id"]) == ("delete", 5)
        assert await of(client, (await client.threads.create(ttl={"ttl": None}))["thread_id"]) is None
        own = str(uuid.uuid4())
        await client.runs.wait(own, "steps", input={}, if_not_exists="create")
        assert await of(client, own) == expected
        await client.runs.wait(None, "steps", input={}, on_completion="keep", metadata={"by": "run"})
        cron: Any = await client.crons.create(
            "steps", schedule="* * * * * *", metadata={"by": "cron"}, on_run_completed="keep"
        )

        async def made(by: str) -> Any:
            return await client.threads.search(metadata={"by": by})

        for by in ("run", "cron"):
            thread = (await eventually(functools.partial(made, by)))[0]
            assert await of(client, thread["thread_id"]) == expected
        await client.crons.delete(cron["cron_id"])


# Threads that keep their latest state


def history(server: LiveServer, thread_id: str, namespace: str = "") -> int:
    query = "SELECT 1 FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?"
    return len(ask(server, query, thread_id, namespace))


async def prune(client: LangGraphClient, *thread_ids: str) -> int:
    return int((await client.threads.prune(thread_ids, strategy="keep_latest"))["pruned_count"])


async def test_keep_latest_prunes_the_history_once_after_each_update(
    client: LangGraphClient, server: LiveServer, mark: str
) -> None:
    await client.threads.create(thread_id=mark, ttl={"ttl": LONG, "strategy": "keep_latest"})
    await run(client, mark, "steps", text="x")
    before = await client.threads.get(mark)
    assert history(server, mark) == 5
    await client.threads.update(mark, metadata={}, ttl={"ttl": SOON, "strategy": "keep_latest"})
    await eventually(lambda: history(server, mark) == 1)
    after = await client.threads.get(mark)
    assert after["values"] == before["values"]
    assert rows(server, mark) | {"checkpoints": 1} == rows(server, mark)

    async def rests() -> bool:
        return (await with_ttl(client, mark))["expires_at"] is None

    await eventually(rests)
    state: Any
    [state] = await client.threads.get_history(mark, limit=100)
    assert state["values"] == before["values"]
    assert state["parent_checkpoint"] is None
    await client.threads.update_state(mark, {"text": "y"}, as_node="third")
    await eventually(lambda: history(server, mark) == 1)
    await eventually(rests)
    state = await client.threads.get_state(mark)
    assert state["values"]["text"] == "y"


async def test_prune_keeps_the_latest_state_of_threads_at_rest(
    client: LangGraphClient, server: LiveServer, mark: str
) -> None:
    gate = server.folder / mark
    await client.threads.create(thread_id=mark)
    await run(client, mark, "steps", text="x")
    before: Any = await client.threads.get_state(mark)
    busy = (await client.threads.create())["thread_id"]
    empty = (await client.threads.create())["thread_id"]
    made = await client.runs.create(busy, "gated", input={"gate": str(gate)})
    await eventually(lambda: history(server, busy) > 1)
    assert await prune(client, mark, busy, empty, mark, str(uuid.uuid4())) == 2
    assert (history(server, mark), history(server, busy) > 1) == (1, True)
    after: Any = await client.threads.get_state(mark)
    assert (after["values"], after["checkpoint"]) == (before["values"], before["checkpoint"])
    assert len(await client.runs.list(mark)) == 1
    assert ask(server, "SELECT 1 FROM writes WHERE thread_id = ?", mark) == []
    gate.touch()
    await client.runs.join(busy, made["run_id"])
    again = await run(client, mark, "steps", text="again")
    assert again["text"] != before["values"]["text"]
    assert history(server, mark) == 6


async def test_prune_of_both_strategies_answers_as_it_should(http: httpx.Client, mark: str) -> None:
    http.post("/threads", json={"thread_id": mark})
    pruned = {"thread_ids": [mark.upper(), mark], "strategy": "keep_latest"}
    assert http.post("/threads/prune", json=pruned).json() == {"pruned_count": 1}
    assert http.post("/threads/prune", json={"thread_ids": [mark]}).json() == {"pruned_count": 1}
    assert http.get(f"/threads/{mark}").status_code == 404
    assert http.post("/threads/prune", json={**pruned, "strategy": "keep"}).status_code == 422


async def test_what_a_pending_question_needs_is_kept(client: LangGraphClient, server: LiveServer) -> None:
    """The asking subgraph does not begin anew, and the one with a memory still knows what it heard."""

    async def talk(pruned: bool) -> tuple[Any, str]:
        """What a thread says and did, which is the same if it is pruned wherever it rests."""
        thread = (await client.threads.create())["thread_id"]
        gate = server.folder / thread
        for given in ({"text": "a"}, {"resume": "one"}, {"text": "b"}, {"resume": "two"}, {"text": "c"}):
            command: Any = given if "resume" in given else None
            await client.runs.wait(thread, "talk", command=command, input={**given, "gate": str(gate)})
            if pruned:
                assert await prune(client, thread) == 1
        state: Any = await client.threads.get_state(thread, subgraphs=True)
        inner = state["tasks"][0]["state"]
        said = [state["values"]["steps"], state["interrupts"], inner["values"]["steps"], inner["next"]]
        if pruned:
            kept = ask(server, "SELECT checkpoint_ns FROM checkpoints WHERE thread_id = ?", thread)
            assert sorted(name.partition(":")[0] for (name,) in kept) == ["", "asker", "recall"]
        return json.loads(json.dumps(said).replace(state["interrupts"][0]["id"], "ID")), gate.read_text()

    assert await talk(pruned=True) == await talk(pruned=False)


async def test_a_thread_whose_channels_store_changes_keeps_what_they_are_made_of(
    client: LangGraphClient, server: LiveServer, mark: str
) -> None:
    await client.threads.create(thread_id=mark)
    days = ["1", "2", "3", "4", "5"]
    for day in days:
        await run(client, mark, "diary", day=day)
    assert history(server, mark) == 15
    assert await prune(client, mark) == 1
    assert 1 < history(server, mark) < 15  # back to where `some` was stored whole
    state: Any = await client.threads.get_state(mark)
    assert (state["values"]["some"], state["values"]["plain"], state["values"].get("all", [])) == (days, days, [])
    days.append("all 6")
    done = await run(client, mark, "diary", day="all 6")
    assert (done["some"], done["all"]) == (days, ["all 6"])
    for _ in range(2):
        assert await prune(client, mark) == 1
        state = await client.threads.get_state(mark)
        assert (state["values"]["some"], state["values"]["all"]) == (days, ["all 6"])
    copied: Any = await client.threads.copy(mark)  # type: ignore[func-returns-value]
    copy = copied["thread_id"]
    done = await run(client, copy, "diary", day="all 7")
    assert (done["some"], done["all"]) == ([*days, "all 7"], ["all 6", "all 7"])


# Settings


def settings(folder: Path, **sections: Any) -> devserver.Settings:
    write_project(folder, SERVED, {}, **sections)
    return devserver.read_settings(folder / "langgraph.json")


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"store": {"ttl": {"default_ttl": 0}}}, "'store.ttl.default_ttl': Input should be greater than 0"),
        ({"store": {"ttl": {"default_ttl": "5"}}}, "'store.ttl.default_ttl': Input should be a valid number"),
        ({"store": {"ttl": {"refresh_on_read": "no"}}}, "'store.ttl.refresh_on_read': Input should be a valid boolean"),
        ({"checkpointer": {"ttl": {"strategy": "burn"}}}, "'checkpointer.ttl.strategy': Input should be 'delete' or"),
        ({"checkpointer": {"ttl": {"sweep_limit": 0}}}, "'checkpointer.ttl.sweep_limit': Input should be greater"),
        ({"checkpointer": {"ttl": {"sweep_interval_minutes": -1}}}, "'checkpointer.ttl.sweep_interval_minutes': "),
        ({"checkpointer": {"serde": {"allowed_json_modules": "all"}}}, "'checkpointer.serde.allowed_json_modules"),
        ({"checkpointer": []}, "'checkpointer': must be an object"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(tmp_path: Path, sections: Any, problem: str) -> None:
    with pytest.raises(StartError) as refused:
        settings(tmp_path, **sections)
    assert str(refused.value).startswith(f"{tmp_path}/langgraph.json: {problem}")


def test_settings_that_are_not_served_are_named(tmp_path: Path) -> None:
    serde = {"pickle_fallback": True, "allowed_json_modules": None}
    found = settings(
        tmp_path,
        store={"ttl": {"omit_expired": False, "more": 1}, "path": "./store.py:make", "index": None},
        checkpointer={"path": "./saver.py:make", "ttl": None, "serde": serde},
    )
    assert sorted(found.not_served) == [
        "checkpointer.path",
        "checkpointer.serde.pickle_fallback",
        "store.path",
        "store.ttl.more",
    ]
    assert settings(tmp_path, checkpointer={"serde": {**serde, "pickle_fallback": False}}).not_served == []


class Point(BaseModel):
    """A class of the test's own, as a checkpoint may hold."""

    x: int


@pytest.mark.parametrize(
    ("serde", "revives"),
    [
        ({}, True),
        ({"allowed_msgpack_modules": None}, False),
        ({"allowed_msgpack_modules": [["other", "Point"]]}, False),
        ({"allowed_msgpack_modules": [[Point.__module__, "Point"]]}, True),
        ({"allowed_msgpack_modules": True, "allowed_json_modules": [["a", "b"]]}, True),
    ],
)
def test_the_classes_that_checkpoints_may_hold_can_be_named(
    tmp_path: Path, serde: dict[str, Any], revives: bool
) -> None:
    serializer = settings(tmp_path, checkpointer={"serde": serde}).checkpointer.serde.serializer()
    value = serializer.loads_typed(serializer.dumps_typed({"point": Point(x=1)}))["point"]
    assert (value == Point(x=1)) == revives


def test_checkpoints_hold_only_langgraph_s_own_classes_where_the_environment_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it says so after LangGraph was imported, as the env file of langgraph.json does."""
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    serializer = settings(tmp_path).checkpointer.serde.serializer()
    assert serializer.loads_typed(serializer.dumps_typed(Point(x=1))) != Point(x=1)


# The database


@pytest.mark.parametrize(
    "look",
    [
        lambda conn: Threads(conn).next_expiry(),
        lambda conn: Threads(conn).expired(),
        lambda conn: Items(conn).next_expiry(),
        lambda conn: Items(conn).sweep(10),
    ],
)
def test_looking_for_what_expires_uses_an_index(tmp_path: Path, look: Callable[[sqlite3.Connection], Any]) -> None:
    with closing(devserver.Db(str(tmp_path / "plan.db"))._connect(True)) as conn:
        asked: list[str] = []
        conn.set_trace_callback(asked.append)
        look(conn)
        conn.set_trace_callback(None)
        plan = " / ".join(row["detail"] for row in conn.execute(f"EXPLAIN QUERY PLAN {asked[0]}"))
    assert "(expires_at<?)" in plan or "(expires_at>?)" in plan
    assert "SCAN" not in plan
    assert "TEMP B-TREE" not in plan


def test_only_threads_with_a_ttl_are_in_its_index(tmp_path: Path) -> None:
    with closing(devserver.Db(str(tmp_path / "small.db"))._connect(True)) as conn:
        for ttl in (None, {"ttl": LONG, "strategy": "keep_latest"}):
            Threads(conn).insert(devserver.new_id(), {}, {}, ttl)
        [(thread,)] = conn.execute("SELECT thread_id FROM threads WHERE expires_at IS NOT NULL").fetchall()
        Threads(conn).set_pruned(thread)
        assert Threads(conn).next_expiry() is None
        Threads(conn).update(thread, metadata={})
        assert Threads(conn).next_expiry() is not None


async def test_a_failed_sweep_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = devserver.Db(str(tmp_path / "retry.db"))
    await database.open()
    tried = asyncio.Event()
    due = [0.0, -1.0, None]

    async def act() -> None:
        if due.pop(0) == 0:
            raise sqlite3.OperationalError("disk I/O error")
        tried.set()

    monkeypatch.setattr(devserver, "RETRY_SECONDS", 0.001)
    schedule = devserver.Schedule(database, lambda conn: due[0], act)
    schedule.notice()  # before it runs
    task = asyncio.ensure_future(schedule.run())
    await asyncio.wait_for(tried.wait(), 10)
    schedule.stop()
    await task
    await database.close()


async def test_a_schedule_that_is_stopped_while_it_waits_a_moment_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = devserver.Db(str(tmp_path / "stopped.db"))
    await database.open()

    async def act() -> None:
        raise AssertionError

    monkeypatch.setattr(devserver.Schedule, "SOON_SECONDS", 3600)
    schedule = devserver.Schedule(database, lambda conn: None, act)
    task = asyncio.ensure_future(schedule.run())
    await asyncio.sleep(0)  # it runs, and sleeps
    schedule.notice()
    await asyncio.sleep(0.005)  # it will look in a moment
    schedule.stop()
    await asyncio.wait_for(task, 5)
    await database.close()

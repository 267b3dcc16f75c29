"""The checkpointer and the store, called directly, also from threads without an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

import aiosqlite
import pytest
from conftest import eventually
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import StateGraph
from langgraph.store.base import ListNamespacesOp, PutOp

import devserver

AT: RunnableConfig = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    trail: Annotated[list[str], lambda old, new: old + new]


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[devserver.Db]:
    made = devserver.Db(str(tmp_path / "test.db"))
    await made.open()
    yield made
    await made.close()


def graph(db: devserver.Db) -> Any:
    nodes = {name: (lambda state, name=name: {"trail": [name]}) for name in ("one", "two")}
    return (
        StateGraph(State)
        .add_sequence(list(nodes.items()))
        .set_entry_point("one")
        .compile(devserver.Saver(db, JsonPlusSerializer()))
    )


async def test_a_graph_is_kept_alike_with_and_without_an_event_loop(db: devserver.Db) -> None:
    other: RunnableConfig = {"configurable": {"thread_id": "u"}}
    assert await asyncio.to_thread(graph(db).invoke, {"trail": []}, AT) == {"trail": ["one", "two"]}
    assert await graph(db).ainvoke({"trail": []}, other) == {"trail": ["one", "two"]}
    sync_states = await asyncio.to_thread(lambda: [state.values for state in graph(db).get_state_history(AT)])
    assert sync_states == [state.values async for state in graph(db).aget_state_history(other)]
    state = await asyncio.to_thread(graph(db).get_state, AT)
    assert (state.values, state.next) == ({"trail": ["one", "two"]}, ())


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_after_a_checkpoint_that_failed_none_of_its_run_is_stored(
    db: devserver.Db, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """LangGraph before 1.2.20 stores the next one: the shared values of the one that failed would be missing."""
    saver, full = devserver.Saver(db, JsonPlusSerializer()), devserver.Unavailable("the disk is full")
    scope = devserver.SharedScope([{"thread_id": "t"}], lambda prefix: {})
    token = devserver.RUN_SCOPE.set(scope)

    async def put(namespace: str, checkpoint_id: str) -> None:
        config: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": namespace}}
        checkpoint: Any = {"v": 1, "id": checkpoint_id, "channel_values": {}, "channel_versions": {}}
        metadata: Any = {"source": "loop", "step": 1}
        if asynchronous:
            await saver.aput(config, checkpoint, metadata, {})
        else:
            await asyncio.to_thread(saver.put, config, checkpoint, metadata, {})

    async def put_on_full_disk(namespace: str, checkpoint_id: str) -> None:
        def refuse(*args: Any) -> bool:
            raise full

        with monkeypatch.context() as patch:
            patch.setattr(db, "write", refuse)
            patch.setattr(db, "write_now", refuse)
            with pytest.raises(devserver.Unavailable):
                await put(namespace, checkpoint_id)

    try:
        await put_on_full_disk("nested:1", "1")
        await put("", "2")  # a node may be tried again
        await put_on_full_disk("", "3")
        with pytest.raises(devserver.Unavailable, match="the disk is full"):
            await put("", "4")
    finally:
        devserver.RUN_SCOPE.reset(token)
    assert [found.config["configurable"]["checkpoint_id"] for found in saver.list(AT)] == ["2"]


async def test_a_deleted_thread_has_no_checkpoints(db: devserver.Db) -> None:
    saver = devserver.Saver(db, JsonPlusSerializer())
    for delete in (partial(asyncio.to_thread, saver.delete_thread, "t"), partial(saver.adelete_thread, "t")):
        await graph(db).ainvoke({"trail": []}, AT)
        assert saver.get_tuple(AT) is not None
        await delete()
        assert saver.get_tuple(AT) is None
        assert list(saver.list(AT)) == []
        for table in ("checkpoints", "writes"):
            assert db.look(lambda conn, table=table: conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) == 0


async def test_the_history_of_a_channel_is_that_of_the_official_saver(db: devserver.Db) -> None:
    await graph(db).ainvoke({"trail": []}, AT)
    saver = devserver.Saver(db, JsonPlusSerializer())
    place = await saver.aget_tuple(AT)
    assert place
    found = await saver.aget_delta_channel_history(config=place.config, channels=["trail"])
    assert saver.get_delta_channel_history(config=place.config, channels=["trail"]) == found
    with SqliteSaver.from_conn_string(db.path) as official:
        assert official.get_delta_channel_history(config=place.config, channels=["trail"]) == found
    assert found["trail"]["writes"]


async def test_the_store_is_the_same_with_and_without_an_event_loop(db: devserver.Db) -> None:
    store = devserver.Store(db)
    await asyncio.to_thread(store.put, ("a", "b"), "k", {"n": 1})
    await store.aput(("a", "c"), "k", {"n": 2})
    item, other = await asyncio.to_thread(store.get, ("a", "c"), "k"), await store.aget(("a", "b"), "k")
    assert item
    assert other
    assert (item.value, other.value) == ({"n": 2}, {"n": 1})
    assert [each.value for each in await asyncio.to_thread(store.search, ("a",))] == [{"n": 1}, {"n": 2}]
    namespaces = [("a", "b"), ("a", "c")]
    assert await asyncio.to_thread(store.batch, [ListNamespacesOp()]) == [namespaces]
    await asyncio.to_thread(store.delete, ("a", "b"), "k")
    assert await store.aget(("a", "b"), "k") is None
    with pytest.raises(devserver.Invalid, match="Namespace label"):
        store.batch([PutOp(("a.b",), "k", {})])


async def test_aiosqlite_has_the_parts_that_the_writer_uses() -> None:
    """They are private: `_Writer` puts functions into the queue of the connection's thread."""
    async with aiosqlite.connect(":memory:") as conn:
        ran = asyncio.Event()
        conn._tx.put_nowait((None, partial(asyncio.get_running_loop().call_soon_threadsafe, ran.set)))
        await asyncio.wait_for(ran.wait(), 10)
        assert (conn._running, type(conn._conn)) == (True, sqlite3.Connection)
    assert not conn._running


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), StopIteration()], ids=lambda error: repr(error))
async def test_what_fails_in_a_shared_transaction_leaves_the_others_alone(
    db: devserver.Db, error: BaseException
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold_up(conn: sqlite3.Connection) -> None:
        begun.set()
        assert go_on.wait(20)

    def fail(conn: sqlite3.Connection) -> None:
        devserver.Items(conn).put("n", "failed", b"{}")
        raise error

    def put(key: str) -> concurrent.futures.Future[None]:
        return outside.submit(db.write_now, lambda conn: devserver.Items(conn).put("n", key, b"{}"))

    with concurrent.futures.ThreadPoolExecutor() as outside:
        outside.submit(db.write_now, hold_up)
        await eventually(begun.is_set)
        kept, failed, also = put("before"), outside.submit(db.write_now, fail), put("after")
        await eventually(lambda: len(db._writer._waiting) == 3)
        go_on.set()
        raised = await asyncio.to_thread(failed.exception)
        assert repr(error) in repr(raised)
        assert (kept.result(), also.result()) == (None, None)
    assert {*await db.read(lambda conn: devserver.Items(conn).load("n"))} == {"before", "after"}

"""The tests of shared values again, in plain LangGraph: graphs given to share(), run with `invoke` and `ainvoke` on
LangGraph's own checkpointers and stores. `User` does in process what the official SDK does with a server."""

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import test_shared_values
from conftest import GRAPHS
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.store.sqlite.aio import AsyncSqliteStore
from langgraph.types import Command

from devserver import share

# What each test is about is the server's own: its API, its database file, its refusals, its crash.
SERVER_S_OWN = re.compile(
    "config_or_context_of_run_or_assistant|is_refused|stops_the_start|resuming_needs|scope_value_at_creation|by_a_factory"
    "|no_event_state_or_checkpoint|the_shared_key_is_in|a_state_of_nothing_but|update_state_needs_a_run|of_a_new_thread"
    "|the_import_path|checkpointer_of_its_own|stateless_run|a_cancelled_run|crash|outside_devserver|thirty_runs"
    "|a_number_is_a_scope_value|visible_in_the_store|the_last_runs_user|update_state_that_is_no_update"
    "|without_checkpoints_wrote_is_stored|stores_nothing_before_its_parents"
)
globals().update(
    {
        name: each
        for name, each in vars(test_shared_values).items()
        if name.startswith("test_") and not SERVER_S_OWN.search(name)
    }
)


@pytest.fixture(scope="module")
def graphs() -> Iterator[ModuleType]:
    """graphs/shared.py, every graph shared, apart from what other tests import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARE_EVERY_GRAPH", "1")
        spec = importlib.util.spec_from_file_location("shared_by_share", GRAPHS / "shared.py")
        assert spec
        assert spec.loader
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@contextlib.asynccontextmanager
async def persistence(kind: str, folder: Path) -> AsyncIterator[tuple[Any, Any]]:
    """A checkpointer and a store."""
    file = str(folder / "data.db")
    if kind == "memory":
        yield InMemorySaver(), InMemoryStore()
    elif kind == "postgres":  # test_share_elsewhere.py runs these
        saver_class: Any = import_module("langgraph.checkpoint.postgres").PostgresSaver
        store_class: Any = import_module("langgraph.store.postgres").PostgresStore
        with saver_class.from_conn_string(POSTGRES) as saver, store_class.from_conn_string(POSTGRES) as store:
            saver.setup()
            store.setup()
            yield saver, store
    elif kind == "aiopostgres":
        saver_class = import_module("langgraph.checkpoint.postgres.aio").AsyncPostgresSaver
        store_class = import_module("langgraph.store.postgres.aio").AsyncPostgresStore
        async with saver_class.from_conn_string(POSTGRES) as a, store_class.from_conn_string(POSTGRES) as b:
            await a.setup()
            await b.setup()
            yield a, b
    elif kind == "aiosqlite":
        async with AsyncSqliteSaver.from_conn_string(file) as a, AsyncSqliteStore.from_conn_string(file) as b:
            await b.setup()
            yield a, b
    else:
        with SqliteSaver.from_conn_string(file) as saver, SqliteStore.from_conn_string(file) as store:
            store.setup()
            if kind == "sqlite":
                yield saver, store
            else:  # no asynchronous run has SqliteSaver, but it may have SqliteStore
                async with AsyncSqliteSaver.from_conn_string(file) as a:
                    yield a, store


class User(test_shared_values.User):
    """Someone who runs graphs in plain LangGraph."""

    def __init__(self, graphs: ModuleType, saver: Any, store: Any, folder: Path, synchronous: bool) -> None:
        self.server: Any = self
        self.id, self.folder, self.synchronous = f"user-{uuid4()}", folder, synchronous
        self.graphs, self.saver, self.store = graphs, saver, store
        self.threads: dict[str, Any] = {}
        self.failed: set[str] = set()
        self.runs: dict[str, asyncio.Task[Any]] = {}
        self.client: Any = SimpleNamespace(
            threads=SimpleNamespace(get=self._get, get_history=self._history, update_state=self._update),
            runs=SimpleNamespace(create=self._create, join=self._join),
            store=SimpleNamespace(put_item=self._put, delete_item=self._delete),
        )

    def other(self, user_id: Any) -> "User":
        other = User(self.graphs, self.saver, self.store, self.folder, self.synchronous)
        other.id, other.threads, other.runs = user_id, self.threads, self.runs
        return other

    def graph(self, name: str) -> Any:
        graph = getattr(self.graphs, name)
        if isinstance(graph, StateGraph):
            graph = share(graph.compile())
        return graph.copy({"checkpointer": self.saver, "store": self.store})

    async def call(self, graph: Any, method: str, *args: Any, **options: Any) -> Any:
        if self.synchronous:
            return await asyncio.to_thread(getattr(graph, method), *args, **options)
        return await getattr(graph, f"a{method}")(*args, **options)

    async def thread(self) -> str:
        return str(uuid4())

    async def wait(self, graph: str, given: Any = None, thread: str | None = None, **options: Any) -> Any:
        thread = thread or await self.thread()
        made = self.threads[thread] = self.graph(graph)
        config = options.pop("config", None) or ({} if "context" in options else self.config())
        config = {"configurable": {**config.get("configurable", {}), "thread_id": thread}}
        command = options.pop("command", None)
        given = Command(**command) if command else given
        options = {name: value for name, value in options.items() if value is not None and name != "raise_error"}
        self.failed.discard(thread)
        try:
            return await self.call(made, "invoke", given, config, **options)
        except Exception as error:
            self.failed.add(thread)
            return {"__error__": {"error": type(error).__name__, "message": str(error)}}

    async def start(self, graph: str, given: Any, **options: Any) -> tuple[str, str]:
        thread = await self.thread()
        return thread, (await self._create(thread, graph, input=given, **options))["run_id"]

    async def state(self, thread: str, **options: Any) -> Any:
        found = await self.call(self.threads[thread], "get_state", {"configurable": {"thread_id": thread}})
        return {"values": found.values, "next": list(found.next)}

    def stored(self, key: str = "info") -> dict[str, Any]:
        return stored(self, f"scoped.user_id.{key}.{self.id}")

    async def _create(self, thread: str, graph: str, input: Any = None, **options: Any) -> Any:  # noqa: A002
        self.runs[run := str(uuid4())] = asyncio.create_task(self.wait(graph, input, thread, **options))
        return {"run_id": run}

    async def _join(self, thread: str, run: str) -> Any:
        return await self.runs[run]

    async def _get(self, thread: str) -> Any:
        status = "error" if thread in self.failed else "interrupted" if (await self.state(thread))["next"] else "idle"
        return {"status": status}

    async def _history(self, thread: str, **options: Any) -> Any:
        graph = self.threads[thread]
        return await asyncio.to_thread(lambda: [*graph.get_state_history({"configurable": {"thread_id": thread}})])

    async def _update(self, thread: str, values: Any, as_node: str | None = None) -> None:
        config = {"configurable": {"thread_id": thread}}
        await self.call(self.threads[thread], "update_state", config, values, as_node=as_node)

    async def _put(self, namespace: list[str], key: str, value: Any) -> None:
        await asyncio.to_thread(self.store.put, tuple(namespace), key, value)

    async def _delete(self, namespace: list[str], key: str) -> None:
        await asyncio.to_thread(self.store.delete, tuple(namespace), key)


def stored(who: User, prefix: str) -> dict[str, Any]:
    """What is in the store; of a file it is read as it is there."""
    if isinstance(who.store, InMemoryStore):
        place = tuple(prefix.split("."))
        return {item.key: item.value for item in who.store.search(place, limit=10_000) if item.namespace == place}
    if POSTGRES:
        with import_module("psycopg").connect(POSTGRES) as conn:
            return dict(conn.execute("SELECT key, value FROM store WHERE prefix = %s", (prefix,)))
    with contextlib.closing(sqlite3.connect(who.folder / "data.db")) as conn:
        rows = conn.execute("SELECT key, value FROM store WHERE prefix = ?", (prefix,))
        return {key: json.loads(value) for key, value in rows}


POSTGRES = os.environ.get("DEVSERVER_POSTGRES", "")
ON_FILES = [
    pytest.param(each, marks=pytest.mark.long) for each in ("sqlite sync", "sqlitestore async", "aiosqlite async")
]


@pytest.fixture(
    params=["postgres sync", "aiopostgres async"] if POSTGRES else ["memory sync", "memory async", *ON_FILES]
)
async def who(
    request: pytest.FixtureRequest, graphs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[User]:
    kind, way = request.param.split()
    if way == "sync" and re.search("called_unsaved|called_at_once|subgraphs_called_at_once", request.node.name):
        pytest.skip("its nodes are asynchronous")
    monkeypatch.setattr(test_shared_values, "stored", stored)
    async with persistence(kind, tmp_path) as (saver, store):
        yield User(graphs, saver, store, tmp_path, way == "sync")

"""langgraph_sdk.cache within the server: cache_get, cache_set and swr."""

from __future__ import annotations

import asyncio
import datetime
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import httpx
import langgraph_sdk._async.client
import langgraph_sdk.cache
import pytest
from conftest import ROOT, LiveServer, eventually
from pydantic import BaseModel
from test_auth import OWN, as_user

import devserver

LONG = timedelta(hours=1)
NAMES = ("_cache_get", "_cache_set", "_api_swr", "SWRResult")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Any:
    """langgraph_sdk.cache as graphs see it, with a cache of its own that is empty."""
    module: Any = langgraph_sdk.cache
    client = langgraph_sdk._async.client
    for name in NAMES:
        monkeypatch.setattr(module, name, getattr(module, name))
    for name in ("get_asgi_transport", "_registered_transports"):
        monkeypatch.setattr(client, name, getattr(client, name))
    monkeypatch.setenv("__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT", "false")
    monkeypatch.setattr(devserver, "CACHE", devserver.Cache())
    devserver.bind_sdk()
    return module


class SetClock(devserver.Clock):
    """A time of day that a test sets on or back, in seconds."""

    @property
    def at(self) -> float:
        return self.shift / 1e6

    @at.setter
    def at(self, at: float) -> None:
        self.shift = int(at * 1e6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    clock = SetClock()
    monkeypatch.setattr(devserver, "CLOCK", clock)
    return clock


class Loader:
    """Gives 1, 2, 3 ..., or raises what it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> Any:
        self.calls += 1
        number = self.calls
        await self.gate.wait()
        if self.error:
            raise self.error
        return number


def test_the_sdk_still_has_the_private_names_that_are_replaced() -> None:
    """If this fails, a new langgraph-sdk asks its server for cached values in another way: devserver.bind_sdk and
    devserver.Cache have to follow. Look at the functions of langgraph_sdk/cache.py for what they call."""
    module: Any = langgraph_sdk.cache
    assert [name for name in NAMES if not hasattr(module, name)] == []
    for name, bound in (("cache_get", "_cache_get"), ("cache_set", "_cache_set"), ("swr", "_api_swr")):
        assert bound in getattr(module, name).__code__.co_names
    assert set(module.__all__) == {"SWRResult", "cache_get", "cache_set", "swr"}


# Within the server

GRAPH = """
    import asyncio
    import sys
    from datetime import timedelta
    from langgraph.graph import START, StateGraph
    from langgraph_sdk.cache import SWRResult, cache_get, cache_set, swr
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        key: str
        value: object
        how: str
        seen: object

    async def load():
        return "loaded"

    async def use(state):
        key, how = state["key"], state["how"]
        if how == "set":
            await cache_set(key, state["value"], ttl=timedelta(hours=1))
        elif how == "get":
            return {"seen": await cache_get(key)}
        elif how == "swr":
            result = await swr(key, load, fresh_for=timedelta(hours=1))
            assert isinstance(result, SWRResult)
            return {"seen": [result.status, result.value]}
        elif how == "modules":
            return {"seen": [name for name in sys.modules if name.startswith("langgraph_api")]}

    def use_in_thread(state):
        return asyncio.run(use(state))

    async def route(request):
        return JSONResponse(await cache_get(request.query_params["key"]))

    graph = StateGraph(State).add_node(use).add_edge(START, "use").compile()
    in_thread = StateGraph(State).add_node(use_in_thread).add_edge(START, "use_in_thread").compile()
    app = Starlette(routes=[Route("/cached", route)])
"""
SERVED = {"use": "./use.py:graph", "in_thread": "./use.py:in_thread"}


@pytest.fixture
def guarded(make_server: Callable[..., LiveServer]) -> LiveServer:
    settings = {"auth": {"path": "./own.py:auth"}, "http": {"app": "./use.py:app"}}
    return make_server(SERVED, {"use.py": GRAPH, "own.py": OWN}, "--no-reload", **settings)


def run(server: LiveServer, user: str, graph: str, **asked: Any) -> Any:
    body = {"assistant_id": graph, "input": {"key": "k", **asked}}
    answer = httpx.post(f"{server.url}/runs/wait", json=body, headers=as_user(user), timeout=20)
    return answer.json().get("seen", answer.json())


def test_graphs_and_routes_share_the_cache_with_all_users(guarded: LiveServer) -> None:
    for graph, value in (("use", {"a": [1, None]}), ("in_thread", "text")):
        run(guarded, "alice", graph, how="set", value=value)
        for user, other in (("alice", "use"), ("bob", "in_thread"), ("bob", "use")):
            assert run(guarded, user, other, how="get") == value
        assert httpx.get(f"{guarded.url}/cached", params={"key": "k"}).json() == value
    assert run(guarded, "alice", "use", how="swr", key="other") == ["miss", "loaded"]
    assert run(guarded, "bob", "in_thread", how="swr", key="other") == ["fresh", "loaded"]
    assert run(guarded, "bob", "use", how="modules") == []
    guarded.stop()
    guarded.start()
    assert run(guarded, "alice", "use", how="get") is None


def test_without_a_server_the_cache_says_what_it_says_elsewhere() -> None:
    """In a process that has none: one of the tests may have started a server in this one."""
    code = "import asyncio, devserver, langgraph_sdk.cache; asyncio.run(langgraph_sdk.cache.cache_get('k'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "only available server-side" in done.stderr


# cache_get, cache_set


class Colour(BaseModel):
    name: str


SAME: list[Any] = [None, True, 0, -1.5, "", "ü\0", [], {"a": {"b": [1, "2", None]}}]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        *((value, value) for value in SAME),
        ((1, 2), [1, 2]),
        ({1: "one"}, {"1": "one"}),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02T00:00:00+00:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
async def test_values_come_back_as_json(cache: ModuleType, value: Any, read: Any) -> None:
    assert await cache.cache_get("k") is None
    await cache.cache_set("k", value)
    assert await cache.cache_get("k") == read


async def test_what_is_done_to_a_value_stays_out_of_the_cache(cache: ModuleType) -> None:
    value: dict[str, list[int]] = {"a": [1]}
    await cache.cache_set("k", value)
    value["a"].append(2)
    (await cache.cache_get("k"))["a"].append(3)
    assert await cache.cache_get("k") == {"a": [1]}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", Colour(name="red"), 2**70])
async def test_what_is_not_json_is_refused_and_changes_nothing(cache: ModuleType, value: Any) -> None:
    await cache.cache_set("k", 1)
    with pytest.raises(TypeError, match=r"not JSON serializable|exceeds 64-bit"):
        await cache.cache_set("k", value)
    assert await cache.cache_get("k") == 1


@pytest.mark.parametrize(
    ("ttl", "seconds"), [(None, 86_400), (timedelta(0), 86_400), (timedelta(days=3), 86_400), (timedelta(seconds=5), 5)]
)
async def test_values_expire(cache: ModuleType, clock: SetClock, ttl: timedelta | None, seconds: float) -> None:
    await cache.cache_set("k", 1, ttl=ttl)
    clock.at += seconds * 0.9
    assert await cache.cache_get("k") == 1
    clock.at += seconds * 0.2
    assert await cache.cache_get("k") is None


async def test_a_value_lives_no_longer_when_the_clock_was_put_back(cache: ModuleType, clock: SetClock) -> None:
    await cache.cache_set("k", 1, ttl=timedelta(seconds=1))
    clock.at -= 3600
    assert await cache.cache_get("k") == 1
    await asyncio.sleep(1.01)
    assert await cache.cache_get("k") is None


# Bounds


async def test_the_oldest_values_go_when_there_are_too_many(cache: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devserver.Cache, "MAX_ENTRIES", 3)
    for number in (1, 2, 3):
        await cache.cache_set(f"k{number}", number)
    await cache.cache_set("k1", "new")  # it is the youngest now
    await cache.cache_set("k4", 4)
    assert [await cache.cache_get(f"k{number}") for number in (1, 2, 3, 4)] == ["new", None, 3, 4]


async def test_the_oldest_values_go_when_they_are_too_large(cache: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devserver.Cache, "MAX_BYTES", 1000)
    for number in range(10):
        await cache.cache_set(str(number), "x" * 300)
    assert [number for number in range(10) if await cache.cache_get(str(number))] == [7, 8, 9]
    await cache.cache_set("9", "x" * 900)
    assert [number for number in range(10) if await cache.cache_get(str(number))] == [9]
    for key, value in (("k", "x" * 1000), ("k" * 1000, "x")):
        with pytest.raises(ValueError, match="too large: 100"):
            await cache.cache_set(key, value)
    assert await cache.cache_get("9") == "x" * 900
    await cache.cache_set("9", 1)
    for number in range(100, 110):
        await cache.cache_set(str(number), "x" * 80)
    assert await cache.cache_get("9") == 1


# swr


async def test_swr_by_the_age_of_a_value(cache: ModuleType, clock: SetClock) -> None:
    load = Loader()

    async def swr() -> tuple[str, Any]:
        result = await cache.swr("k", load, fresh_for=timedelta(seconds=10), max_age=timedelta(seconds=60))
        assert isinstance(result, cache.SWRResult)
        return result.status, result.value

    assert await swr() == ("miss", 1)
    clock.at += 9
    assert await swr() == ("fresh", 1)
    clock.at += 2
    assert await swr() == ("stale", 1)
    await asyncio.sleep(0.01)
    assert (await swr(), load.calls) == (("fresh", 2), 2)
    clock.at += 60
    assert (await swr(), load.calls) == (("expired", 3), 3)
    assert await cache.cache_get("k") == 3
    clock.at += 60
    assert await cache.cache_get("k") is None


async def test_swr_by_default_loads_again_at_every_use(cache: ModuleType) -> None:
    load = Loader()
    found = []
    for _ in range(3):
        result = await cache.swr("k", load)
        found.append((result.status, result.value))
        await asyncio.sleep(0.01)
    assert found == [("miss", 1), ("stale", 1), ("stale", 2)]


async def test_swr_finds_what_was_set_also_none(cache: ModuleType) -> None:
    for value in ("set", None):
        await cache.cache_set("k", value, ttl=LONG)
        result = await cache.swr("k", Loader(), fresh_for=LONG)
        assert (result.status, result.value) == ("fresh", value)


async def test_a_stale_value_is_loaded_once_at_a_time(cache: ModuleType) -> None:
    load = Loader()
    await cache.swr("k", load)
    load.gate.clear()
    assert [(await cache.swr("k", load)).value for _ in range(5)] == [1] * 5
    await asyncio.sleep(0)
    assert load.calls == 2
    load.gate.set()
    await asyncio.sleep(0.01)
    assert (await cache.swr("k", load)).value == 2


async def test_a_loader_that_fails(cache: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """On a miss its caller is told; behind a stale value the log is, and the value stays."""
    load = Loader()
    load.error = OSError("no connection")
    with pytest.raises(OSError, match="no connection"):
        await cache.swr("k", load)
    load.error = None
    assert (await cache.swr("k", load)).value == 2
    load.error = OSError("no connection")
    for _ in range(2):
        assert (await cache.swr("k", load)).value == 2
        await asyncio.sleep(0.01)
    assert load.calls == 4
    assert "the cached value of 'k' could not be loaded again" in caplog.text


async def test_models_are_stored_as_json_and_read_as_models(cache: ModuleType) -> None:
    async def load() -> Colour:
        return Colour(name="red")

    for status in ("miss", "fresh"):
        result = await cache.swr("k", load, fresh_for=LONG, model=Colour)
        assert (result.status, result.value) == (status, Colour(name="red"))
    assert await cache.cache_get("k") == {"name": "red"}
    assert await result.mutate(Colour(name="blue")) == Colour(name="blue")
    assert await cache.cache_get("k") == {"name": "blue"}


async def test_a_stored_value_that_is_no_such_model_any_more_is_loaded_again(cache: ModuleType) -> None:
    async def load() -> Colour:
        return Colour(name="red")

    await cache.cache_set("k", {"title": "red"})
    result = await cache.swr("k", load, fresh_for=LONG, model=Colour)
    assert (result.status, result.value) == ("miss", Colour(name="red"))


async def test_mutate(cache: ModuleType) -> None:
    load = Loader()
    result = await cache.swr("k", load, fresh_for=LONG)
    assert await result.mutate("other") == "other"
    assert (result.status, result.value, await cache.cache_get("k")) == ("fresh", "other", "other")
    assert await result.mutate() == 2
    assert (result.value, await cache.cache_get("k")) == (2, 2)
    assert await result.mutate(None) is None
    assert (await cache.swr("k", load, fresh_for=LONG)).value is None


def test_threads_with_loops_of_their_own_share_the_cache(cache: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that ends while it loads a value again holds up no other one."""
    monkeypatch.setattr(devserver.Cache, "MAX_ENTRIES", 20)
    failed: list[BaseException] = []

    async def work(number: int) -> None:
        for turn in range(200):
            key = str((number + turn) % 30)

            async def load(key: str = key) -> str:
                await asyncio.sleep(0)
                return key

            assert (await cache.swr(key, load)).value == key
            await cache.cache_set(key, key)
            assert await cache.cache_get(str(turn % 30)) in (None, str(turn % 30))

    def run_all(number: int) -> None:
        try:
            asyncio.run(work(number))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run_all, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []

    async def afterwards() -> None:
        load = Loader()
        await cache.swr("new", load)
        await cache.swr("new", load)
        await eventually(lambda: load.calls == 2)

    asyncio.run(afterwards())


def test_a_loop_that_was_left_behind_holds_up_no_other(cache: ModuleType) -> None:
    abandoned = asyncio.new_event_loop()
    load = Loader()

    async def start() -> None:
        await cache.swr("k", load)
        load.gate = asyncio.Event()
        await cache.swr("k", load)

    abandoned.run_until_complete(start())
    [task] = asyncio.all_tasks(abandoned)
    abandoned.close()

    async def other() -> str:
        return "other"

    async def elsewhere() -> Any:
        await cache.swr("k", other)
        await asyncio.sleep(0.01)
        return (await cache.swr("k", other)).value

    assert asyncio.run(elsewhere()) == "other"
    task._log_destroy_pending = False  # type: ignore[attr-defined]

"""Values that are no JSON: each door shows them all, and the store keeps what HTTP reads or refuses it."""

from __future__ import annotations

import datetime
import json
import sys
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from conftest import GRAPHS, LiveServer
from langgraph_sdk.client import LangGraphClient
from pydantic import BaseModel

import devserver

sys.path.insert(0, str(GRAPHS))
from odd_values import KEPT, REFUSED, SHOWN, STREAMED_SHOWN, Price

SERVED = {name: f"./odd_values.py:{name}" for name in ("odd", "puts", "aputs", "shares")}


# Every door


async def thread_with(client: LangGraphClient, **given: Any) -> str:
    thread_id: str = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "odd", input={"v": None, **given})
    return thread_id


async def streamed(client: LangGraphClient, mode: str, **given: Any) -> list[Any]:
    parts = client.runs.stream(None, "odd", input={"v": None, **given}, stream_mode=mode)  # type: ignore[arg-type]
    return [part.data async for part in parts if part.event not in ("metadata", "error")]


async def by_wait(client: LangGraphClient) -> Any:
    return (await client.runs.wait(None, "odd", input={"v": None}))["v"]  # type: ignore[call-overload]


async def by_join(client: LangGraphClient) -> Any:
    thread_id = await thread_with(client)
    run = (await client.runs.list(thread_id))[0]
    return (await client.runs.join(thread_id, run["run_id"]))["v"]


async def by_values(client: LangGraphClient) -> Any:
    return (await streamed(client, "values"))[-1]["v"]


async def by_updates(client: LangGraphClient) -> Any:
    return (await streamed(client, "updates"))[0]["show"]["v"]


async def by_custom(client: LangGraphClient) -> Any:
    return (await streamed(client, "custom"))[0]["v"]


async def by_tasks(client: LangGraphClient) -> Any:
    return next(each["result"]["v"] for each in await streamed(client, "tasks") if "result" in each)


async def by_debug(client: LangGraphClient) -> Any:
    told = await streamed(client, "debug")
    return next(each["payload"]["result"]["v"] for each in told if each["type"] == "task_result")


async def by_events(client: LangGraphClient) -> Any:
    told = await streamed(client, "events")
    return next(e["data"]["output"]["v"] for e in told if e["name"] == "show" and e["event"] == "on_chain_end")


async def by_state(client: LangGraphClient) -> Any:
    state: Any = await client.threads.get_state(await thread_with(client))
    return state["values"]["v"]


async def by_history(client: LangGraphClient) -> Any:
    history: Any = await client.threads.get_history(await thread_with(client))
    return history[0]["values"]["v"]


async def by_thread(client: LangGraphClient) -> Any:
    thread: Any = await client.threads.get(await thread_with(client))
    return thread["values"]["v"]


async def by_search(client: LangGraphClient) -> Any:
    found: Any = await client.threads.search(ids=[await thread_with(client)])
    return found[0]["values"]["v"]


async def by_question_of_thread(client: LangGraphClient) -> Any:
    thread: Any = await client.threads.get(await thread_with(client, ask=True))
    ((question,),) = thread["interrupts"].values()
    return question["value"]


async def by_question_of_state(client: LangGraphClient) -> Any:
    state: Any = await client.threads.get_state(await thread_with(client, ask=True))
    return state["tasks"][0]["interrupts"][0]["value"]


async def by_question_of_stream(client: LangGraphClient) -> Any:
    return (await streamed(client, "updates", ask=True))[-1]["__interrupt__"][0]["value"]


DOORS: list[Callable[[LangGraphClient], Coroutine[Any, Any, Any]]] = [
    by_wait,
    by_join,
    by_values,
    by_updates,
    by_custom,
    by_tasks,
    by_debug,
    by_events,
    by_state,
    by_history,
    by_thread,
    by_search,
    by_question_of_thread,
    by_question_of_state,
    by_question_of_stream,
]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
async def test_every_value_is_shown(client: LangGraphClient, door: Callable[..., Any]) -> None:
    shown = await door(client)
    assert shown == SHOWN


async def test_what_no_checkpoint_holds_is_streamed(client: LangGraphClient) -> None:
    assert (await streamed(client, "custom"))[0]["streamed"] == STREAMED_SHOWN


class Raising:
    def model_dump(self) -> Any:
        raise RuntimeError

    def __str__(self) -> str:
        raise RuntimeError


class Mute(Raising):
    def __repr__(self) -> str:
        raise RuntimeError


class Broken(BaseModel):
    n: int = 1

    def model_dump(self, **options: Any) -> Any:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "begin"),
    [
        (object(), "<object object at 0x"),
        (Raising, "<class "),
        (Raising(), "<test_json_out.Raising object at 0x"),
        (Mute(), "<test_json_out.Mute object at 0x"),
        (Broken(), "n=1"),
        (lambda: 1, "<function "),
    ],
    ids=lambda value: str(type(value)),
)
@pytest.mark.parametrize("beside", [None, 2**70], ids=["", "beside a huge integer"])
def test_any_object_is_shown_as_text(value: Any, begin: str, beside: Any) -> None:
    assert devserver.from_json(devserver.to_json([beside, {"x": value}]))[1]["x"].startswith(begin)


class Temperature(float):
    pass


class Moment(datetime.datetime):
    pass


@pytest.mark.parametrize("writes", [devserver.to_json, lambda value: devserver.kept_json(value, (), "k")])
def test_classes_of_ones_own_are_shown_as_what_they_derive_from(writes: Callable[[Any], bytes]) -> None:
    value = {Temperature(36.6): Temperature(36.6), Moment(2026, 1, 2): Moment(2026, 1, 2), Price.LOW: Price.LOW}
    assert json.loads(writes(value)) == {"36.6": 36.6, "2026-01-02T00:00:00": "2026-01-02T00:00:00", "0.5": 0.5}


# The store


@pytest.mark.parametrize("graph", ["puts", "aputs", "shares"])
@pytest.mark.parametrize("name", KEPT)
async def test_a_node_reads_from_the_store_what_http_reads(client: LangGraphClient, graph: str, name: str) -> None:
    user = uuid.uuid4().hex
    given: Any = {"input": {"name": name}, "config": {"configurable": {"user": user}}}
    values: Any = await client.runs.wait(None, graph, **given)
    namespace = ("scoped", "user", "info", user) if graph == "shares" else ("odd", "values")
    item: Any = await client.store.get_item(namespace, name)
    assert values["v"] == item["value"] == {"v": KEPT[name][1]}


@pytest.mark.parametrize("graph", ["puts", "aputs", "shares"])
@pytest.mark.parametrize("name", REFUSED)
async def test_the_store_refuses_by_name_what_it_cannot_keep(client: LangGraphClient, graph: str, name: str) -> None:
    user, (_, path, kind) = uuid.uuid4().hex, REFUSED[name]
    given: Any = {"input": {"name": name}, "config": {"configurable": {"user": user}}}
    result: Any = await client.runs.wait(None, graph, raise_error=False, **given)
    namespace = ("scoped", "user", "info", user) if graph == "shares" else ("odd", "values")
    assert result["__error__"]["error"] == "TypeError"
    message = result["__error__"]["message"]
    assert f"Item {name!r} of namespace {namespace} can't be kept as JSON: {path} " in message
    assert f"is a {kind}." in message
    assert await client.store.get_item(namespace, name) is None


def test_outside_devserver_a_shared_value_follows_the_same_rule() -> None:
    channel = devserver.SharedValue.on("user")(dict, "info")
    channel.update([{"k": {"v": KEPT["model"][0]}}])
    assert channel.get() == {"k": {"v": KEPT["model"][1]}}
    with pytest.raises(TypeError, match=r"Item 'k' of namespace \('info',\) .* v is a bytes"):
        channel.update([{"k": {"v": b""}}])


@pytest.mark.parametrize("value", [{"n": 1}, {"deep": None}])
def test_what_is_kept_never_is_cut_off(value: dict[str, Any]) -> None:
    inner = value
    for _ in range(5000):
        inner["in"] = inner = {}
    with pytest.raises(TypeError, match="nested too deeply"):
        devserver.kept_json(value, ("a",), "k")


def test_the_server_never_failed(server: LiveServer) -> None:
    assert "failed in devserver" not in server.log

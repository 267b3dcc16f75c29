"""Streams: every mode, subgraphs, joining and coming back, the stream of a whole thread, heartbeats."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.schema import StreamPart

from devserver import PART_BYTES

NAMES = ("steps", "failing", "gated", "question", "nested", "chat", "writer", "workflow")
SERVED = {name: f"./basic.py:{name}" for name in NAMES}
MODES = ["values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events"]


async def new_thread(client: LangGraphClient) -> str:
    return (await client.threads.create())["thread_id"]


async def collect(parts: AsyncIterator[StreamPart]) -> list[Any]:
    return [part async for part in parts]


async def streamed(
    client: LangGraphClient, graph_id: str, given: Any, mode: Any, thread_id: str | None = None, **options: Any
) -> list[Any]:
    """All the parts of a new run's stream but the first, which tells the run's id."""
    parts = client.runs.stream(thread_id, graph_id, input=given, stream_mode=mode, **options)
    first, *rest = await collect(parts)
    assert first.event == "metadata"
    assert first.data.keys() == {"run_id", "attempt"}
    return rest


def names(parts: list[Any]) -> list[str]:
    return [part.event for part in parts]


class Frame(NamedTuple):
    """One server-sent event as it was on the wire."""

    event: str
    data: Any
    id: str | None


def frames(text: str) -> list[Frame]:
    made = []
    for block in text.split("\r\n\r\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\r\n") if not line.startswith(":") and line)
        if fields:
            made.append(Frame(fields["event"], json.loads(fields["data"]), fields.get("id")))
    return made


# The form


@pytest.mark.parametrize("stateless", [True, False])
def test_a_stream_is_server_sent_events(http: httpx.Client, stateless: bool) -> None:
    where = "" if stateless else f"/threads/{http.post('/threads', json={}).json()['thread_id']}"
    answer = http.post(f"{where}/runs/stream", json={"assistant_id": "steps", "input": {"text": "a"}})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    got = frames(answer.text)
    assert [frame.event for frame in got] == ["metadata"] + ["values"] * 4
    assert [frame.id for frame in got] == [None] * 5
    assert answer.headers["content-location"] == f"{where}/runs/{got[0].data['run_id']}"
    assert answer.headers["location"] == answer.headers["content-location"] + "/stream"
    assert answer.text.endswith("\r\n\r\n")
    assert "\n" not in answer.text.replace("\r\n", "")


async def test_the_runs_final_status_is_stored_before_its_stream_ends(client: LangGraphClient) -> None:
    for kind, status in (("none", "success"), ("value", "error")):
        thread_id = await new_thread(client)
        await streamed(client, "failing", {"kind": kind}, "values", thread_id)
        [run] = await client.runs.list(thread_id)
        assert run["status"] == status
        assert (await client.threads.get(thread_id))["status"] == ("idle" if kind == "none" else "error")


# Modes


@pytest.mark.parametrize(
    ("mode", "events"),
    [
        ("values", ["values"] * 4),
        ("updates", ["updates"] * 3),
        ("tasks", ["tasks"] * 6),
        ("checkpoints", ["checkpoints"] * 5),
        ("debug", ["debug"] * 11),
        ("messages", []),
        ("messages-tuple", []),
        ("custom", []),
        ("events", ["events"] * 11),
        ([], ["values"] * 4),
        (None, ["values"] * 4),
        (["updates", "updates"], ["updates"] * 3),
    ],
)
def test_each_mode_gives_its_events_alone(http: httpx.Client, mode: Any, events: list[str]) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    body = {"assistant_id": "steps", "input": {"text": "a"}} | ({} if mode is None else {"stream_mode": mode})
    answer = http.post(f"/threads/{thread_id}/runs/stream", json=body)
    assert [frame.event for frame in frames(answer.text)] == ["metadata", *events]


async def test_values_are_the_whole_state_after_each_step(client: LangGraphClient) -> None:
    parts = await streamed(client, "steps", {"text": "a"}, "values")
    assert [part.data["total"] for part in parts] == [0, 1, 11, 111]
    assert [len(part.data["trail"]) for part in parts] == [0, 1, 2, 3]


async def test_updates_are_what_each_node_returned(client: LangGraphClient) -> None:
    parts = await streamed(client, "steps", {"text": "a"}, "updates")
    assert [part.data for part in parts] == [
        {"first": {"trail": ["first"], "total": 1}},
        {"second": {"trail": ["second"], "total": 10}},
        {"third": {"trail": ["third"], "total": 100, "text": "a!"}},
    ]


async def test_tasks_tell_of_their_start_and_end(client: LangGraphClient) -> None:
    parts = await streamed(client, "steps", {"text": "a"}, "tasks")
    starts, ends = parts[::2], parts[1::2]
    assert [part.data["name"] for part in starts] == ["first", "second", "third"]
    assert [part.data["id"] for part in starts] == [part.data["id"] for part in ends]
    assert ends[2].data["result"] == {"trail": ["third"], "total": 100, "text": "a!"}
    assert [part.data["error"] for part in ends] == [None] * 3


async def test_checkpoints_are_those_of_the_history(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    parts = await streamed(client, "steps", {"text": "a"}, "checkpoints", thread_id)
    states: list[Any] = list(await client.threads.get_history(thread_id, limit=10))
    ids = [part.data["config"]["configurable"]["checkpoint_id"] for part in parts]
    assert ids == [state["checkpoint"]["checkpoint_id"] for state in states[::-1]]
    assert [part.data["values"] for part in parts][1:] == [state["values"] for state in states[::-1]][1:]
    assert not [key for part in parts for key in part.data["config"]["configurable"] if key.startswith("__")]


async def test_debug_tells_of_checkpoints_and_tasks(client: LangGraphClient) -> None:
    parts = await streamed(client, "steps", {"text": "a"}, "debug", await new_thread(client))
    assert [part.data["type"] for part in parts] == ["checkpoint"] * 2 + ["task", "task_result", "checkpoint"] * 3
    assert parts[1].data["payload"]["parent_checkpoint"] == parts[0].data["payload"]["checkpoint"]


async def test_a_stateless_run_has_no_checkpoints_to_tell_of(client: LangGraphClient) -> None:
    parts = await streamed(client, "steps", {}, ["checkpoints", "debug"])
    assert {part.data["type"] for part in parts} == {"task", "task_result"}


async def test_message_tuples_are_tokens_with_their_metadata(client: LangGraphClient) -> None:
    parts = await streamed(client, "chat", {"messages": "well hello"}, "messages-tuple", metadata={"purpose": "test"})
    assert names(parts) == ["messages"] * len(parts)
    answer = [part for part in parts if part.data[1]["langgraph_node"] == "answer"]
    assert [message["content"] for message, _ in (part.data for part in answer)][:4] == [
        "you",
        " said",
        " well",
        " hello",
    ]
    assert len({message["id"] for message, _ in (part.data for part in answer)}) == 1
    assert {message["type"] for message, _ in (part.data for part in answer)} == {"AIMessageChunk"}
    [signed] = [part for part in parts if part.data[1]["langgraph_node"] == "sign"]
    assert (signed.data[0]["type"], signed.data[0]["content"]) == ("ai", "-- the parrot")
    wanted = {"purpose": "test", "graph_id": "chat", "langgraph_step": 1, "run_attempt": 1}
    assert {key: answer[0].data[1].get(key) for key in wanted} == wanted


async def test_messages_grow_under_their_ids(client: LangGraphClient) -> None:
    parts = await streamed(client, "chat", {"messages": "well hello"}, "messages")
    metadata = [part for part in parts if part.event == "messages/metadata"]
    partial = [part.data for part in parts if part.event == "messages/partial"]
    [complete] = [part.data for part in parts if part.event == "messages/complete"]
    assert [message["content"] for [message] in partial][:4] == [
        "you",
        "you said",
        "you said well",
        "you said well hello",
    ]
    assert {message["type"] for [message] in partial} == {"ai"}
    assert [list(part.data) for part in metadata] == [[partial[0][0]["id"]], [complete[0]["id"]]]
    assert complete[0]["content"] == "-- the parrot"
    assert parts[0].event == "messages/metadata"


async def test_of_both_message_modes_only_tuples_come(client: LangGraphClient) -> None:
    parts = await streamed(client, "chat", {"messages": "hi"}, ["messages", "messages-tuple"])
    assert set(names(parts)) == {"messages"}


CUSTOM = [
    None,
    0,
    False,
    "",
    "zwei\nZeilen\r\n",
    [],
    {},
    [1, [2]],
    {"ä": {"\u2028": "☃"}},
    1.5,
    -(2**53),
    "x" * 200_000,
]


async def test_custom_events_are_any_json_as_it_was_written(client: LangGraphClient) -> None:
    parts = await streamed(client, "writer", {"write": CUSTOM}, "custom")
    assert [part.data for part in parts] == CUSTOM
    assert names(parts) == ["custom"] * len(CUSTOM)


async def test_events_are_langchains_own(client: LangGraphClient) -> None:
    parts = await streamed(client, "chat", {"messages": "hi"}, "events")
    kinds = [part.data["event"] for part in parts]
    assert kinds[0] == "on_chain_start"
    assert kinds[-1] == "on_chain_end"
    assert [p.data["data"]["chunk"]["content"] for p in parts if p.data["event"] == "on_chat_model_stream"][:2] == [
        "you",
        " said",
    ]
    [whole] = [part.data for part in parts if part.data["event"] == "on_chat_model_end"]
    assert whole["data"]["output"]["content"] == "you said hi"
    assert whole["name"] == "Parrot"


async def test_several_modes_come_in_the_order_of_what_happens(client: LangGraphClient) -> None:
    parts = await streamed(
        client, "steps", {"text": "a"}, ["debug", "tasks", "updates", "values", "checkpoints"], await new_thread(client)
    )
    step = ["tasks", "debug", "updates", "tasks", "debug", "values", "checkpoints", "debug"]
    start = ["checkpoints", "debug", "values", "checkpoints", "debug"]
    assert names(parts) == [*start, *step, *step, *step]


async def test_all_modes_at_once_give_what_each_gives_alone(client: LangGraphClient) -> None:
    given = {"messages": [{"role": "user", "content": "hi", "id": "asked"}]}
    together = await streamed(client, "chat", given, MODES, await new_thread(client))
    for mode in MODES:
        alone = await streamed(client, "chat", given, mode, await new_thread(client))
        name = mode.partition("-")[0]
        assert len([part for part in together if part.event == name]) == len(alone), mode


async def test_a_workflow_gives_values_once_and_updates_of_its_tasks(client: LangGraphClient) -> None:
    parts = await streamed(client, "workflow", {"number": 2}, ["values", "updates"])
    assert [(part.event, part.data) for part in parts] == [
        ("updates", {"double": 4}),
        ("updates", {"workflow": {"doubled": 4, "before": None}}),
        ("values", {"doubled": 4, "before": None}),
    ]


# Failures, questions


async def test_a_failure_ends_the_stream_with_an_error(client: LangGraphClient) -> None:
    parts = await streamed(client, "failing", {"kind": "own"}, "values")
    assert names(parts) == ["values", "values", "error"]
    assert parts[-1].data == {"error": "UnheardError", "message": "nobody knows this class"}


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        ("values", ["values"]),
        ("updates", ["updates"]),
        (["values", "updates"], ["updates", "values"]),
        ("messages-tuple", []),
        ("custom", []),
    ],
)
async def test_a_question_is_shown_with_values_and_updates(
    client: LangGraphClient, mode: Any, shown: list[str]
) -> None:
    parts = await streamed(client, "question", {}, mode)
    asking = [part for part in parts if isinstance(part.data, dict) and "__interrupt__" in part.data]
    assert names(asking) == shown
    assert asking == parts[len(parts) - len(asking) :]
    for part in asking:
        [question] = part.data["__interrupt__"]
        assert question["value"]["question"] == "publish?"
        assert len(question["id"]) == 32


async def test_tasks_show_the_question_they_ask(client: LangGraphClient) -> None:
    parts = await streamed(client, "question", {}, "tasks")
    assert parts[-1].data["name"] == "review"
    assert parts[-1].data["interrupts"][0]["value"]["question"] == "publish?"


# Subgraphs


async def test_events_of_subgraphs_are_named_by_their_namespace(client: LangGraphClient) -> None:
    parts = await streamed(client, "nested", {"text": "t"}, ["values", "updates"], stream_subgraphs=True)
    depth = [(part.event.partition("|")[0], part.event.count("|")) for part in parts]
    assert depth.count(("values", 0)) == 4
    assert depth.count(("updates", 0)) == 3
    assert depth.count(("values", 1)) == 4
    assert depth.count(("updates", 1)) == 3
    assert depth.count(("values", 2)) == 2
    assert depth.count(("updates", 2)) == 1
    [deepest] = [part for part in parts if part.event.startswith("updates|") and part.event.count("|") == 2]
    _, child, grand = deepest.event.split("|")
    assert (child.split(":")[0], grand.split(":")[0]) == ("child", "grand")
    assert uuid.UUID(child.split(":")[1])
    assert deepest.data == {"leaf": {"inner": "leaf yes"}}


async def test_subgraphs_stay_silent_unless_asked_for(client: LangGraphClient) -> None:
    parts = await streamed(client, "nested", {"text": "t"}, ["values", "updates"])
    assert {part.event for part in parts} == {"values", "updates"}
    assert len(parts) == 7


async def test_a_question_in_a_subgraph_is_shown_from_there_and_from_the_top(client: LangGraphClient) -> None:
    parts = await streamed(client, "nested", {"ask": True}, "updates", await new_thread(client), stream_subgraphs=True)
    asking = [part for part in parts if "__interrupt__" in part.data]
    assert asking[-1].event == "updates"
    assert {part.data["__interrupt__"][0]["value"] for part in asking} == {"go deeper?"}


# Leaving, joining


async def test_a_client_that_leaves_does_not_end_the_run(client: LangGraphClient, tmp_path: Path) -> None:
    thread_id, gate = await new_thread(client), tmp_path / "gate"
    async for part in client.runs.stream(thread_id, "gated", input={"gate": str(gate)}, stream_mode="custom"):
        if part.event == "custom":
            break
    gate.touch()
    [run] = await client.runs.list(thread_id)
    done: Any = await client.runs.join(thread_id, run["run_id"])
    assert done["trail"] == ["before", "waited", "after"]


async def waiting_run(client: LangGraphClient, gate: Path, mode: Any, **options: Any) -> tuple[str, str]:
    """A run that has come to its gate: its thread and its id."""
    thread_id = await new_thread(client)
    given = {"gate": str(gate), "burst": options.pop("burst", 1), "ticks": options.pop("ticks", False)}
    run = await client.runs.create(thread_id, "gated", input=given, stream_mode=mode, **options)

    async def at_the_gate() -> bool:
        return (await client.threads.get_state(thread_id))["next"] == ["wait"]

    await eventually(at_the_gate)
    return thread_id, run["run_id"]


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (None, ["custom", "updates", "values", "updates", "values"]),
        ("updates", ["updates", "updates"]),
        (["updates", "custom"], ["custom", "updates", "updates"]),
        ("messages", []),
    ],
)
async def test_who_joins_sees_what_comes_from_then_on(
    client: LangGraphClient, tmp_path: Path, mode: Any, wanted: list[str]
) -> None:
    thread_id, run_id = await waiting_run(client, tmp_path / "gate", ["custom", "updates", "values"])
    joined = [
        asyncio.ensure_future(collect(client.runs.join_stream(thread_id, run_id, stream_mode=mode))) for _ in range(2)
    ]
    await asyncio.sleep(0.15)
    (tmp_path / "gate").touch()
    for parts in await asyncio.gather(*joined):
        assert names(parts) == wanted


def test_a_join_filters_by_a_json_list_of_modes(http: httpx.Client) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    body = {
        "assistant_id": "steps",
        "input": {"text": "a"},
        "stream_mode": ["values", "updates", "tasks"],
        "stream_resumable": True,
    }
    first = frames(http.post(f"/threads/{thread_id}/runs/stream", json=body).text)
    path = f"/threads/{thread_id}/runs/{first[0].data['run_id']}/stream"

    def again(mode: str) -> list[str]:
        answer = http.get(path, params={"stream_mode": mode}, headers={"last-event-id": "-1"})
        return [frame.event for frame in frames(answer.text)]

    assert again("") == [frame.event for frame in first]
    assert again('["updates", "values"]') == [f.event for f in first if f.event in ("updates", "values")]
    assert again("tasks") == ["tasks"] * 6
    assert again("metadata") == ["metadata"]
    assert http.get(path, params={"stream_mode": "[oops"}).status_code == 422


async def test_a_finished_run_has_nothing_more_to_stream(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    run = await client.runs.create(thread_id, "steps", input={"text": "a"})
    await client.runs.join(thread_id, run["run_id"])
    assert await collect(client.runs.join_stream(thread_id, run["run_id"])) == []


def test_an_unknown_run_streams_an_error(http: httpx.Client) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    answer = http.get(f"/threads/{thread_id}/runs/{uuid.uuid4()}/stream")
    assert frames(answer.text) == [("error", {"error": "HTTPException", "message": "404: Run not found"}, None)]


async def test_who_joins_a_run_that_waits_its_turn_sees_all_of_it(client: LangGraphClient, tmp_path: Path) -> None:
    thread_id, _ = await waiting_run(client, tmp_path / "gate", "values")
    second = await client.runs.create(thread_id, "gated", input={}, stream_mode="updates")
    joined = asyncio.ensure_future(collect(client.runs.join_stream(thread_id, second["run_id"])))
    await asyncio.sleep(0.15)
    (tmp_path / "gate").touch()
    assert names(await joined) == ["metadata"] + ["updates"] * 3


# Coming back


async def test_a_client_can_come_back_after_any_event(client: LangGraphClient) -> None:
    """Also between events of the same millisecond: 60 are written at once."""
    thread_id = await new_thread(client)
    whole = await collect(
        client.runs.stream(
            thread_id, "gated", input={"burst": 30}, stream_mode=["custom", "values"], stream_resumable=True
        )
    )
    ids = [str(part.id) for part in whole]
    assert len(whole) == 1 + 60 + 4
    assert len({one.partition("-")[0] for one in ids}) < len(ids) == len(set(ids))
    run_id = whole[0].data["run_id"]
    for position, last in enumerate(ids, start=1):
        rest = await collect(client.runs.join_stream(thread_id, run_id, last_event_id=last))
        assert rest == whole[position:]


@pytest.mark.parametrize(("last", "all_of_it"), [("-1", True), ("-", True), ("0", True), ("nonsense", False)])
async def test_there_are_names_for_the_beginning_of_a_stream(
    client: LangGraphClient, last: str, all_of_it: bool
) -> None:
    thread_id = await new_thread(client)
    whole = await collect(client.runs.stream(thread_id, "steps", input={"text": "a"}, stream_resumable=True))
    again = await collect(client.runs.join_stream(thread_id, whole[0].data["run_id"], last_event_id=last))
    assert again == (whole if all_of_it else [])


@pytest.mark.parametrize(
    ("graph_id", "given", "mode", "subgraphs"),
    [
        ("failing", {"kind": "own"}, ["values"], False),
        ("chat", {"messages": "hi"}, ["messages"], False),
        ("chat", {"messages": "hi"}, ["messages-tuple", "events"], False),
        ("nested", {"ask": True}, ["values", "updates", "debug"], True),
        ("writer", {"write": CUSTOM}, ["custom", "tasks"], False),
    ],
)
async def test_all_that_was_streamed_is_streamed_again(
    client: LangGraphClient, graph_id: str, given: Any, mode: Any, subgraphs: bool
) -> None:
    thread_id = await new_thread(client)
    whole = await collect(
        client.runs.stream(
            thread_id, graph_id, input=given, stream_mode=mode, stream_subgraphs=subgraphs, stream_resumable=True
        )
    )
    again = await collect(client.runs.join_stream(thread_id, whole[0].data["run_id"], last_event_id="-1"))
    assert again == whole


async def test_who_comes_back_meanwhile_misses_nothing_and_sees_nothing_twice(
    client: LangGraphClient, tmp_path: Path
) -> None:
    thread_id, run_id = await waiting_run(
        client, tmp_path / "gate", ["custom", "values"], burst=300, stream_resumable=True
    )
    early = asyncio.ensure_future(collect(client.runs.join_stream(thread_id, run_id, last_event_id="-1")))
    live = client.runs.join_stream(thread_id, run_id, last_event_id="-1")
    seen = [await anext(live) for _ in range(150)]
    middle = asyncio.ensure_future(collect(client.runs.join_stream(thread_id, run_id, last_event_id=seen[-1].id)))
    unresumed = asyncio.ensure_future(collect(client.runs.join_stream(thread_id, run_id)))
    await asyncio.sleep(0.15)
    (tmp_path / "gate").touch()
    seen += await collect(live)
    assert await early == seen
    assert await middle == seen[150:]
    assert [part.data["n"] for part in seen if part.event == "custom"] == list(range(600))
    assert await unresumed == seen[-302:]


async def test_a_run_that_is_not_resumable_keeps_no_events(client: LangGraphClient) -> None:
    thread_id = await new_thread(client)
    whole = await collect(client.runs.stream(thread_id, "steps", input={"text": "a"}))
    assert [part.id for part in whole] == [None] * 5
    again = client.runs.join_stream(thread_id, whole[0].data["run_id"], last_event_id="-1")
    assert await collect(again) == []


async def test_many_joiners_come_and_go_while_runs_end(client: LangGraphClient) -> None:
    """Nobody is left hanging, however a join falls together with the end of a run; nothing is lost."""
    thread_id = await new_thread(client)
    for _ in range(15):
        run = await client.runs.create(thread_id, "steps", input={"text": "a"}, stream_resumable=True)

        async def join(run_id: str, pause: float) -> int:
            await asyncio.sleep(pause)
            return len(await collect(client.runs.join_stream(thread_id, run_id, last_event_id="-1")))

        joining = [join(run["run_id"], n * 0.002) for n in range(8)]
        assert await asyncio.wait_for(asyncio.gather(*joining), 10) == [5] * 8


async def test_a_slow_reader_gets_everything(client: LangGraphClient, server: LiveServer) -> None:
    write = [{"n": n, "pad": "x" * 2000} for n in range(3000)]
    body = {"assistant_id": "writer", "input": {"write": write}, "stream_mode": "custom"}
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
        http.stream("POST", "/runs/stream", json=body) as answer,
    ):
        parts: list[bytes] = []
        async for part in answer.aiter_bytes():
            if not parts:
                assert (await client.threads.count()) >= 0  # others are served meanwhile
                await asyncio.sleep(0.5)
            parts.append(part)
    got = frames(b"".join(parts).decode())
    assert [frame.data for frame in got[1:]] == write


@pytest.mark.parametrize("on_one_thread", [False, True])
async def test_many_streams_at_once_are_all_whole(client: LangGraphClient, on_one_thread: bool) -> None:
    thread_id = await new_thread(client) if on_one_thread else None
    streams = [streamed(client, "steps", {"text": "a"}, "updates", thread_id) for _ in range(60)]
    for parts in await asyncio.wait_for(asyncio.gather(*streams), 30):
        assert names(parts) == ["updates"] * 3


async def test_nobody_is_left_hanging_while_large_bodies_keep_the_server_busy(server: LiveServer) -> None:
    """Runs of one thread start, and end, while the server has not come round to answer those who made them."""
    large = b'{"status": "nope", "metadata": {"x": [' + b",".join([b'{"a": [1, 2, 3]}'] * 12_000) + b"]}}"
    body = {"assistant_id": "steps", "input": {"text": "a"}}
    async with httpx.AsyncClient(base_url=server.url, limits=httpx.Limits(max_connections=100)) as http:

        async def keep_busy() -> None:
            while True:
                await http.post("/threads/count", content=large)

        noise = [asyncio.ensure_future(keep_busy()) for _ in range(2)]
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        path = f"/threads/{thread_id}/runs"
        waits = [http.post(f"{path}/wait", json=body, timeout=40) for _ in range(12)]
        streams = [http.post(f"{path}/stream", json=body, timeout=40) for _ in range(12)]
        answers = await asyncio.wait_for(asyncio.gather(*waits, *streams), 15)
        for each in noise:
            each.cancel()
        await asyncio.wait(noise)
    assert sorted(answer.json()["total"] % 111 for answer in answers[:12]) == [0] * 12
    assert [len(frames(answer.text)) for answer in answers[12:]] == [5] * 12


def test_a_stream_is_whole_even_if_its_run_ends_before_the_answer_begins(
    make_server: Callable[..., LiveServer],
) -> None:
    """As for the first stream of a server, which loads some modules first."""
    fresh = make_server({"steps": "./basic.py:steps"}, {"basic.py": (GRAPHS / "basic.py").read_text()}, "--no-reload")
    with fresh.http() as http:
        body = {"assistant_id": "steps", "input": {"text": "a"}, "stream_mode": "updates"}
        answer = http.post("/runs/stream", json=body)
    assert [frame.event for frame in frames(answer.text)] == ["metadata"] + ["updates"] * 3


# Heartbeats


async def test_quiet_streams_show_that_they_live(client: LangGraphClient, server: LiveServer, tmp_path: Path) -> None:
    """Every five seconds: a comment in streams, white space in waits. Also where a run emits things all the
    time that this client does not want to see."""
    gate = tmp_path / "gate"
    quiet, noisy = [await waiting_run(client, gate, ["values", "custom"], ticks=ticks) for ticks in (False, True)]
    paths = {
        "/threads/{}/runs/{}/stream".format(*quiet): ": heartbeat\r\n\r\n",
        "/threads/{}/runs/{}/join".format(*quiet): "\n",
        "/threads/{}/runs/{}/stream?stream_mode=values".format(*noisy): ": heartbeat\r\n\r\n",
        f"/threads/{noisy[0]}/stream?stream_mode=lifecycle": ": heartbeat\r\n\r\n",
    }
    begun, came = time.monotonic(), dict[str, float]()

    async def read(http: httpx.AsyncClient, path: str, sign: str) -> str:
        text = ""
        async with http.stream("GET", path) as answer:
            async for part in answer.aiter_text():
                text += part
                if sign in text and path not in came:
                    came[path] = time.monotonic() - begun
                    if len(came) == len(paths):
                        gate.touch()
                if "run_done" in text:
                    break
        return text

    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        reading = [asyncio.ensure_future(read(http, path, sign)) for path, sign in paths.items()]
        _, late = await asyncio.wait(reading, timeout=9)
        for each in late:
            each.cancel()
        texts: list[Any] = await asyncio.gather(*reading, return_exceptions=True)
    assert came.keys() == paths.keys()
    assert [path for path, seconds in came.items() if not 4 < seconds < 8] == []
    assert [frame.event for frame in frames(texts[0])] == ["custom", "values", "values"]
    assert json.loads(texts[1])["trail"] == ["before", "waited", "after"]
    assert [frame.event for frame in frames(texts[2])] == ["values", "values"]


# The stream of a thread


async def until(parts: AsyncIterator[StreamPart], last: Callable[[StreamPart], bool]) -> list[Any]:
    got = []
    async for part in parts:
        got.append(part)
        if last(part):
            break
    return got


def run_done(run_id: str) -> Callable[[StreamPart], bool]:
    return lambda part: part.data == {"status": "run_done", "run_id": run_id}


async def test_a_threads_stream_shows_all_its_runs(client: LangGraphClient, tmp_path: Path) -> None:
    thread_id, first = await waiting_run(client, tmp_path / "gate", "updates")
    second = await client.runs.create(thread_id, "failing", input={}, stream_mode="values")
    following = asyncio.ensure_future(until(await client.threads.join_stream(thread_id), run_done(second["run_id"])))
    await asyncio.sleep(0.2)
    (tmp_path / "gate").touch()
    parts = await following
    assert names(parts) == ["updates", "updates", "metadata", "metadata", "values", "error", "metadata"]
    assert parts[2].data == {"status": "run_done", "run_id": first}
    assert parts[3].data == {"run_id": second["run_id"], "attempt": 1}
    ids = [tuple(map(int, part.id.split("-"))) for part in parts]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    ("modes", "wanted"),
    [
        ("lifecycle", ["metadata", "metadata"]),
        ("state_update", ["state_update"]),
        (["lifecycle", "state_update"], ["metadata", "metadata", "state_update"]),
        ("run_modes", ["metadata", "updates", "updates", "updates", "metadata"]),
        (["run_modes", "state_update"], ["metadata", "updates", "updates", "updates", "metadata", "state_update"]),
    ],
)
async def test_a_threads_stream_has_three_modes(client: LangGraphClient, modes: Any, wanted: list[str]) -> None:
    thread_id = await new_thread(client)

    stream = await client.threads.join_stream(thread_id, stream_mode=modes)
    following = asyncio.ensure_future(until(stream, lambda part: part.event == wanted[-1] and next(left, None) is None))
    left = iter(range(wanted.count(wanted[-1]) - 1))
    await asyncio.sleep(0.2)
    run = await client.runs.create(thread_id, "steps", input={"text": "a"}, stream_mode="updates")
    await client.runs.join(thread_id, run["run_id"])
    await asyncio.sleep(0.05)
    await client.threads.update_state(thread_id, {"text": "by hand"})
    parts = await asyncio.wait_for(following, 10)
    assert names(parts) == wanted
    if "state_update" in wanted:
        assert parts[-1].data["thread_id"] == thread_id
        assert parts[-1].data["state"]["values"]["text"] == "by hand"


async def test_a_threads_stream_can_be_come_back_to(client: LangGraphClient, tmp_path: Path) -> None:
    """The kept events of finished runs, then those of the live one, then what comes."""
    thread_id = await new_thread(client)
    done = await collect(
        client.runs.stream(thread_id, "steps", input={"text": "a"}, stream_mode="updates", stream_resumable=True)
    )
    await client.runs.wait(thread_id, "steps", input={"text": "a"})  # not resumable: leaves no trace
    gate = tmp_path / "gate"
    live = await client.runs.create(
        thread_id, "gated", input={"gate": str(gate), "burst": 40}, stream_mode="custom", stream_resumable=True
    )
    await eventually(lambda: _has_written(client, thread_id, live["run_id"]))

    async def come_back(last: str) -> list[Any]:
        return await until(await client.threads.join_stream(thread_id, last_event_id=last), run_done(live["run_id"]))

    following = [asyncio.ensure_future(come_back(last)) for last in ("-", "0", str(done[0].id), str(done[2].id))]
    await asyncio.sleep(0.2)
    gate.touch()
    whole, same, *later = await asyncio.gather(*following)
    assert whole == same
    assert names(whole) == ["metadata", *["updates"] * 3, *["metadata"] * 2, *["custom"] * 80, "metadata"]
    assert whole[: len(done)] == done
    assert later == [whole[1:], whole[3:]]


async def _has_written(client: LangGraphClient, thread_id: str, run_id: str) -> bool:
    return (await client.threads.get_state(thread_id))["next"] == ["wait"]


async def test_a_long_past_is_replayed_whole_a_part_at_a_time(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    big = [f"{n} {'x' * PART_BYTES}" for n in range(4)]
    options: Any = {"input": {"write": big}, "stream_mode": "custom", "stream_resumable": True}
    done = [part async for part in client.runs.stream(thread_id, "writer", **options)]
    stream = await client.threads.join_stream(thread_id, last_event_id="-")
    seen = await until(stream, lambda part: part.id == done[-1].id)
    assert [part.data for part in seen[1:]] == big


async def test_the_stream_of_an_unknown_thread_stays_silent_until_it_has_runs(client: LangGraphClient) -> None:
    thread_id = str(uuid.uuid4())
    stream = await client.threads.join_stream(thread_id)
    following = asyncio.ensure_future(until(stream, lambda part: "status" in part.data))
    await asyncio.sleep(0.2)
    await client.runs.create(thread_id, "steps", input={"text": "a"}, if_not_exists="create")
    assert names(await asyncio.wait_for(following, 5)) == ["metadata", *["values"] * 4, "metadata"]


@pytest.mark.parametrize(
    ("params", "headers", "detail"),
    [
        ({"stream_modes": "lifecycle,x"}, {}, "Invalid stream mode: x"),
        ({}, {"last-event-id": "nonsense"}, "Invalid last-event-id: must be a valid Redis stream ID"),
        ({}, {"last-event-id": "-1"}, "Invalid last-event-id: must be a valid Redis stream ID"),
    ],
)
def test_a_threads_stream_refuses_what_it_does_not_know(
    http: httpx.Client, params: dict[str, str], headers: dict[str, str], detail: str
) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    refused = http.get(f"/threads/{thread_id}/stream", params=params, headers=headers)
    assert (refused.status_code, refused.json()) == (422, {"detail": detail})


def test_the_sync_client_streams_too(server: LiveServer) -> None:
    with server.sync_client() as client:
        thread_id = client.threads.create()["thread_id"]
        parts = list(
            client.runs.stream(
                thread_id, "steps", input={"text": "a"}, stream_mode=["values", "updates"], stream_resumable=True
            )
        )
        assert [part.event for part in parts].count("values") == 4
        again = client.runs.join_stream(thread_id, parts[0].data["run_id"], last_event_id=parts[3].id)
        assert list(again) == parts[4:]

"""The event streaming protocol: commands and events on the wire, over HTTP and WebSocket, and the Python client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import json
import socket
import time
import types
import uuid
from collections.abc import AsyncIterable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import NotFoundError
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import devserver

TALK = ("hesitant", "tooled", "counted", "team", "choir")
BASIC = ("steps", "failing", "gated", "question", "questions", "nested", "chat", "writer")
SERVED = {name: f"./talk.py:{name}" for name in TALK} | {name: f"./basic.py:{name}" for name in BASIC}
ALL = ["values", "updates", "messages", "tools", "custom", "lifecycle", "input", "tasks", "checkpoints"]
HI = {"messages": [{"role": "user", "content": "hi"}]}

Envelope = dict[str, Any]
Transport = Literal["sse", "websocket"]
both_transports = pytest.mark.parametrize("transport", ["sse", "websocket"])


# On the wire


def new_id() -> str:
    return str(uuid.uuid4())


def command(http: httpx.Client, thread: str, method: str, **params: Any) -> Any:
    answer = http.post(f"/threads/{thread}/commands", json={"id": 7, "method": method, "params": params})
    assert answer.status_code == 200
    body = answer.json()
    assert body["id"] == 7
    return body


def start(http: httpx.Client, thread: str, graph: str, given: Any, **params: Any) -> str:
    answer = command(http, thread, "run.start", assistant_id=graph, input=given, **params)
    assert answer["type"] == "success", answer
    run_id: str = answer["result"]["run_id"]
    return run_id


@contextlib.contextmanager
def following(
    http: httpx.Client, thread: str, channels: list[str] | None = None, **body: Any
) -> Iterator[Iterator[Envelope]]:
    """The envelopes of a stream of events, as they come, until nothing has come for half a minute."""
    body["channels"] = channels or ALL
    with http.stream("POST", f"/threads/{thread}/stream/events", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        yield envelopes_of(answer.iter_lines())


def next_data(stream: httpx.Response) -> Any:
    """What the next event of a stream carries."""
    return json.loads(next(line for line in awake(stream.iter_lines()) if line.startswith("data: "))[6:])


def awake(lines: Iterator[str]) -> Iterator[str]:
    """The lines of a stream without its heartbeats. It must not be silent for half a minute."""
    silent = 0
    for line in lines:
        silent = silent + 1 if line == ": heartbeat" else silent if not line else 0
        assert silent < 6
        if line != ": heartbeat":
            yield line


def envelopes_of(lines: Iterator[str]) -> Iterator[Envelope]:
    frame: dict[str, str] = {}
    for line in awake(lines):
        if line:
            name, _, frame[name] = line.partition(": ")
        elif "data" in frame:
            envelope = json.loads(frame["data"])
            assert frame == {"event": envelope["method"], "data": frame["data"], "id": str(envelope["seq"])}
            yield envelope
            frame = {}


def is_end(envelope: Envelope) -> bool:
    params = envelope["params"]
    ends = ("completed", "failed", "interrupted")
    return envelope["method"] == "lifecycle" and not params["namespace"] and params["data"]["event"] in ends


def until_ends(events: Iterator[Envelope], count: int = 1) -> list[Envelope]:
    """What comes until so many runs have ended."""
    seen = []
    for envelope in events:
        seen.append(envelope)
        count -= is_end(envelope)
        if not count:
            break
    return seen


def watch(http: httpx.Client, thread: str, channels: list[str] | None = None, ends: int = 1, **body: Any) -> Any:
    with following(http, thread, channels, **body) as events:
        return until_ends(events, ends)


def finish(http: httpx.Client, thread: str, run_id: str) -> None:
    assert http.get(f"/threads/{thread}/runs/{run_id}/join").status_code == 200


def started(http: httpx.Client, graph: str, given: Any, thread: str | None = None) -> str:
    """A thread with a run that is over."""
    thread = thread or new_id()
    finish(http, thread, start(http, thread, graph, given))
    return thread


def data(envelopes: list[Envelope], method: str) -> list[Any]:
    return [envelope["params"]["data"] for envelope in envelopes if envelope["method"] == method]


def places(envelopes: list[Envelope]) -> list[tuple[int, str]]:
    return [(envelope["seq"], envelope["event_id"]) for envelope in envelopes]


def test_a_run_tells_of_itself_in_every_channel(http: httpx.Client) -> None:
    events = watch(http, started(http, "counted", {"text": "x"}))
    assert {envelope["method"] for envelope in events} == {*ALL} - {"messages", "tools", "input"}
    assert all(envelope.keys() == {"type", "event_id", "seq", "method", "params"} for envelope in events)
    root = [envelope for envelope in events if not envelope["params"]["namespace"]]
    assert [each["event"] for each in data(root, "lifecycle")] == ["running", "completed"]
    assert data(root, "values")[-1]["trail"] == ["noted", "noted", "first", "second", "third"]
    assert data(root, "updates")[0] == {"note": {"trail": ["noted"]}}
    assert [each["name"] for each in data(root, "tasks")] == ["note", "note", "steps", "steps"]
    assert data(root, "custom")[:3] == [
        {"name": "note", "payload": "by hand"},
        "nameless",
        {"name": "progress", "payload": {"steps": 1}},
    ]


def test_checkpoints_come_before_the_values_they_hold(http: httpx.Client) -> None:
    thread = started(http, "steps", {"text": "x"})
    events = watch(http, thread, ["checkpoints", "values", "lifecycle"])
    history = http.get(f"/threads/{thread}/history?limit=20").json()
    heads = data(events, "checkpoints")
    assert [head["id"] for head in heads] == [state["checkpoint"]["checkpoint_id"] for state in reversed(history)]
    assert [head["step"] for head in heads] == [-1, 0, 1, 2, 3]
    assert [head.get("parent_id") for head in heads] == [None, *(head["id"] for head in heads[:-1])]
    methods = [envelope["method"] for envelope in events]
    assert methods == ["lifecycle", "checkpoints", *["checkpoints", "values"] * 4, "lifecycle"]


def test_events_are_numbered_from_one_over_channels_and_runs(http: httpx.Client) -> None:
    thread = started(http, "nested", {"text": "x"})
    started(http, "chat", HI, thread)
    events = watch(http, thread, ends=2)
    assert [envelope["seq"] for envelope in events] == list(range(1, len(events) + 1))
    assert len({envelope["event_id"] for envelope in events}) == len(events)
    assert [envelope for envelope in events if envelope["method"] == "values"] == [
        envelope for envelope in watch(http, thread, ["values", "lifecycle"], 2) if envelope["method"] == "values"
    ]
    assert watch(http, thread, ["lifecycle"], 1, since=events[-2]["seq"]) == events[-1:]


def test_all_connections_get_the_same_events(http: httpx.Client, tmp_path: Path) -> None:
    """Whether they come before the run, in its midst or afterwards, and over HTTP or WebSocket."""
    thread, gate = new_id(), tmp_path / "gate"
    with contextlib.ExitStack() as stack:
        early = [stack.enter_context(following(http, thread)) for _ in range(3)]
        start(http, thread, "hesitant", {**HI, "gate": str(gate)})
        seen = [[next(events) for _ in range(8)] for events in early]
        early.append(stack.enter_context(following(http, thread)))
        sockets = [stack.enter_context(subscribed(http, thread, ALL)) for _ in range(2)]
        gate.touch()
        all_seen = [part + until_ends(events) for part, events in zip([*seen, []], early, strict=True)]
        all_seen += [until_ends(envelopes(ws)) for ws in sockets]
        all_seen.append(watch(http, thread))
    assert all(each == all_seen[0] for each in all_seen)
    assert {"messages", "values"} < {envelope["method"] for envelope in all_seen[0]}


def test_namespaces_and_depth_narrow_a_stream(http: httpx.Client) -> None:
    thread = started(http, "nested", {"text": "x"})

    def seen(**body: Any) -> set[tuple[str, ...]]:
        channels = ["values", "lifecycle", "tasks"]
        events = watch(http, thread, channels, since=0, **{**body, "namespaces": [[], *body["namespaces"]]})
        return {tuple(part.partition(":")[0] for part in e["params"]["namespace"]) for e in events}

    assert seen(namespaces=[], depth=0) == {()}
    assert seen(namespaces=[], depth=1) == {(), ("child",)}
    assert seen(namespaces=[["child"]], depth=0) == {(), ("child",)}
    assert seen(namespaces=[["child", "grand"]], depth=0) == {(), ("child", "grand")}
    assert seen(namespaces=[["nobody"]]) == {(), ("child",), ("child", "grand")}
    whole = next(e for e in watch(http, thread) if e["params"]["namespace"])["params"]["namespace"]
    assert seen(namespaces=[whole], depth=0) == {(), ("child",)}
    assert seen(namespaces=[["child:other"]], depth=0) == {()}


def test_a_named_channel_is_a_part_of_custom(http: httpx.Client) -> None:
    thread = started(http, "counted", {"text": "x"})
    assert data(watch(http, thread, ["custom:note", "lifecycle"]), "custom") == [{"name": "note", "payload": "by hand"}]
    assert len(data(watch(http, thread, ["custom:progress", "lifecycle"]), "custom")) == 5
    assert len(data(watch(http, thread, ["custom", "lifecycle"]), "custom")) == 7


def test_subgraphs_start_and_end(http: httpx.Client) -> None:
    events = watch(http, started(http, "nested", {"text": "x"}), ["lifecycle"])
    told = [(d["event"], d["graph_name"], len(e["params"]["namespace"])) for e in events for d in [e["params"]["data"]]]
    assert told == [
        ("running", "a nested graph", 0),
        ("started", "child", 1),
        ("started", "grand", 2),
        ("completed", "grand", 2),
        ("completed", "child", 1),
        ("completed", "a nested graph", 0),
    ]


def test_a_failed_run_says_why(http: httpx.Client) -> None:
    events = watch(http, started(http, "failing", {"kind": "own"}))
    assert data(events, "lifecycle")[-1] == {
        "event": "failed",
        "graph_name": "failing",
        "error": "nobody knows this class",
    }
    assert [task["name"] for task in data(events, "tasks")] == ["prepare", "prepare", "fail", "fail"]
    assert data(events, "tasks")[-1]["error"]


def test_a_model_speaks_in_content_blocks(http: httpx.Client) -> None:
    events = data(watch(http, started(http, "chat", HI)), "messages")
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["message-start", "content-block-start"]
    assert kinds[-2:] == ["content-block-finish", "message-finish"]
    assert (
        "".join(event["delta"]["text"] for event in events if event["event"] == "content-block-delta") == "you said hi"
    )


def test_models_that_speak_at_the_same_time_are_told_apart(http: httpx.Client) -> None:
    events = data(watch(http, started(http, "choir", HI)), "messages")
    starts = {event["run_id"]: event["id"] for event in events if event["event"] == "message-start"}
    assert len(starts) == 2
    assert all(starts[event["run_id"]] == event["id"] for event in events)
    assert len(list(itertools.groupby(event["run_id"] for event in events))) > 2
    for run_id in starts:
        kinds = [event["event"] for event in events if event["run_id"] == run_id]
        assert kinds[0] == "message-start"
        assert kinds[-1] == "message-finish"


def test_nobody_has_heard_of_the_thread_yet(http: httpx.Client) -> None:
    thread = new_id()
    with following(http, thread) as events:
        assert http.get(f"/threads/{thread}").status_code == 404
        with contextlib.ExitStack() as stack:
            other = stack.enter_context(httpx.Client(base_url=http.base_url, timeout=30))
            start(other, thread, "steps", {"text": "x"})
        assert until_ends(events)[0]["seq"] == 1


async def test_quiet_streams_show_that_they_live(http: httpx.Client, tmp_path: Path, server: LiveServer) -> None:
    """Also where things happen all the time that this client does not want to see."""
    thread, gate = new_id(), tmp_path / "gate"
    start(http, thread, "gated", {"gate": str(gate), "ticks": True})

    async def beats(channels: list[str]) -> str:
        text = ""
        path = f"/threads/{thread}/stream/events"
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=30) as client,
            client.stream("POST", path, json={"channels": channels}) as answer,
        ):
            async for part in answer.aiter_text():
                text += part
                if text.endswith(": heartbeat\r\n\r\n"):
                    break
        return text

    texts = await asyncio.wait_for(asyncio.gather(beats(["tools"]), beats(["lifecycle"])), 9)
    gate.touch()
    assert texts[0] == ": heartbeat\r\n\r\n"
    assert texts[1].count("event: lifecycle") == 1


# Runs that vanish, servers that stop


def test_a_rolled_back_run_vanishes_and_its_numbers_are_not_given_again(http: httpx.Client, tmp_path: Path) -> None:
    thread = started(http, "steps", {"text": "x"})
    before = watch(http, thread)
    with following(http, thread, since=before[-1]["seq"]) as events:
        run = start(http, thread, "gated", {"gate": str(tmp_path / "gate")})
        seen = [next(events) for _ in range(5)]
        assert http.post(f"/threads/{thread}/runs/{run}/cancel?action=rollback&wait=1").status_code == 200
        seen += until_ends(events, 2)
        started(http, "steps", {"text": "y"}, thread)
        third = until_ends(events)
    last = max(envelope["seq"] for envelope in seen)
    assert [each["event"] for each in data(seen, "lifecycle")] == ["running", "interrupted", "completed"]
    assert [envelope["seq"] for envelope in third] == list(range(last + 1, last + 1 + len(third)))
    assert watch(http, thread, ends=2) == before + third
    assert watch(http, thread, since=last) == third


def test_a_deleted_run_vanishes(http: httpx.Client) -> None:
    thread = started(http, "steps", {"text": "x"})
    run = start(http, thread, "steps", {"text": "y"})
    finish(http, thread, run)
    first, second = watch(http, thread), watch(http, thread, ends=2)[len(watch(http, thread)) :]
    assert http.delete(f"/threads/{thread}/runs/{first[0]['event_id'].split(':')[1]}").status_code == 204
    assert watch(http, thread) == second


@pytest.mark.parametrize("crash", [False, True])
def test_numbers_and_ids_outlive_the_server(
    make_server: Callable[..., LiveServer], tmp_path: Path, crash: bool
) -> None:
    gate, thread = tmp_path / "gate", new_id()
    server = make_server({"gated": "./basic.py:gated"}, {"basic.py": (GRAPHS / "basic.py").read_text()}, "--no-reload")
    with server.http() as http:
        first = watch(http, started(http, "gated", {}, thread))
        with following(http, thread, since=first[-1]["seq"]) as events:
            run = start(http, thread, "gated", {"gate": str(gate)})
            for seen in events:
                if seen["method"] == "custom":
                    break
            if crash:
                server.kill()
            else:
                gate.touch()
                assert server.stop() == 0, server.log
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):  # so that clients come again
                list(events)
    server.start()
    gate.touch()
    with server.http() as http:
        finish(http, thread, run)
        events_after = watch(http, thread, ends=2)
        assert events_after[: len(first)] == first
        again = [envelope for envelope in events_after if envelope["seq"] > seen["seq"]]
        assert [e["seq"] for e in events_after] == sorted({e["seq"] for e in events_after})
        assert data(again, "values")[-1]["trail"][-3:] == ["before", "waited", "after"]
        assert is_end(again[-1])


@pytest.mark.parametrize("action", ["interrupt", "rollback"])
def test_a_run_that_is_cancelled_before_it_begins_lets_go_those_who_follow_its_thread(
    http: httpx.Client, action: str
) -> None:
    """Subscribers see it end like a cancelled run, also those who come back later, unless it is rolled back."""
    thread = http.post("/threads", json={}).json()["thread_id"]
    body = {"assistant_id": "steps", "input": {}, "after_seconds": 600, "stream_resumable": True}
    run = http.post(f"/threads/{thread}/runs", json=body).json()["run_id"]
    with (
        http.stream("GET", f"/threads/{thread}/stream", params={"stream_modes": "lifecycle"}) as follows,
        following(http, thread) as events,
    ):
        cancelled = http.post(f"/threads/{thread}/runs/{run}/cancel", params={"action": action})
        assert cancelled.status_code == 202
        told = next_data(follows)
        assert told == {"status": "run_done", "run_id": run}
        ends = [next(events), next(events)]
        assert [(each["seq"], each["params"]["data"]["event"]) for each in ends] == [
            (1, "interrupted"),
            (2, "completed"),
        ]
    start(http, thread, "steps", {"text": "x"})
    with following(http, thread, ["lifecycle"]) as events:
        first = next(events)
        assert (first["seq"], first["params"]["data"]["event"]) == (
            (1, "interrupted") if action == "interrupt" else (3, "running")
        )


# What a follower may be late for: it reads the stored events after a rollback, or joins before that is told.
LATE = {
    "reads": """
import time, devserver
read = devserver.Events.of_thread
def slow(*args):
    time.sleep(1)
    return read(*args)
devserver.Events.of_thread = slow
devserver.main()
""",
    "joins": """
import asyncio, devserver
write = devserver.Db.write
async def slow(self, function, *args, **options):
    result = await write(self, function, *args, **options)
    if function.__name__ == "cancel_all":
        await asyncio.sleep(1)
    return result
devserver.Db.write = slow
devserver.main()
""",
}


@pytest.mark.parametrize("late", LATE)
def test_who_follows_while_a_run_is_rolled_back_sees_its_end(make_server: Callable[..., LiveServer], late: str) -> None:
    """Of the run only `run_done` is stored: it must not be taken for all that came before it."""
    server = make_server({"steps": "./basic.py:steps"}, {"basic.py": (GRAPHS / "basic.py").read_text()}, "--no-reload")
    assert server.stop() == 0
    server.program = LATE[late]
    with server.start().http() as http, concurrent.futures.ThreadPoolExecutor() as pool:
        thread = http.post("/threads", json={}).json()["thread_id"]
        body = {"assistant_id": "steps", "input": {}, "after_seconds": 600, "stream_resumable": True}
        run = http.post(f"/threads/{thread}/runs", json=body).json()["run_id"]
        cancel = f"{server.url}/threads/{thread}/runs/{run}/cancel"
        if late == "joins":
            cancelled = pool.submit(httpx.post, cancel, params={"action": "rollback"})
            while http.get(f"/threads/{thread}/runs").json():
                time.sleep(0.01)
        with following(http, thread) as events:
            if late == "reads":
                cancelled = pool.submit(httpx.post, cancel, params={"action": "rollback"})
            assert [next(events)["params"]["data"]["event"] for _ in range(2)] == ["interrupted", "completed"]
        assert cancelled.result().is_success


def test_a_run_that_is_rolled_back_is_told_in_its_order(make_server: Callable[..., LiveServer]) -> None:
    """To a follower that still reads what was stored before, of which `run_done` is no part."""
    server = make_server({"gated": "./basic.py:gated"}, {"basic.py": (GRAPHS / "basic.py").read_text()}, "--no-reload")
    assert server.stop() == 0
    server.program = LATE["reads"]
    with server.start().http() as http:
        path = f"/threads/{http.post('/threads', json={}).json()['thread_id']}"
        params = {"stream_modes": "lifecycle"}
        with http.stream("GET", f"{path}/stream", params=params, headers={"last-event-id": "-"}) as follows:
            body = {"assistant_id": "gated", "input": {"gate": "gate"}, "stream_resumable": True}
            run = http.post(f"{path}/runs", json=body).json()["run_id"]
            http.post(f"{path}/runs/{run}/cancel", params={"action": "rollback", "wait": "true"}).raise_for_status()
            data = (json.loads(line[6:]) for line in awake(follows.iter_lines()) if line.startswith("data: "))
            assert [next(data).get("status") for _ in range(2)] == [None, "run_done"]


def test_the_end_of_a_waiting_run_is_not_taken_for_that_of_the_one_that_goes_on(
    http: httpx.Client, tmp_path: Path
) -> None:
    thread, gate = new_id(), tmp_path / "gate"
    with following(http, thread, ["lifecycle"]) as events:
        start(http, thread, "gated", {"gate": str(gate)})
        assert next(events)["params"]["data"]["event"] == "running"
        waiting = http.post(f"/threads/{thread}/runs", json={"assistant_id": "gated", "input": {}}).json()["run_id"]
        with http.stream("GET", f"/threads/{thread}/stream", params={"stream_modes": "lifecycle"}) as follows:
            http.post(f"/threads/{thread}/runs/{waiting}/cancel").raise_for_status()
            told = next_data(follows)
            assert told == {"status": "run_done", "run_id": waiting}
        gate.touch()
        assert next(events)["params"]["data"]["event"] == "completed"
        assert command(http, thread, "run.start", assistant_id="steps", input={"text": "x"})["type"] == "success"
        assert next(events)["params"]["data"]["event"] == "running"


# Commands


def refusal(http: httpx.Client, thread: str, method: str, **params: Any) -> tuple[str, str]:
    answer = command(http, thread, method, **params)
    assert answer["type"] == "error", answer
    return answer["error"], answer["message"]


def asked(http: httpx.Client, graph: str = "question", **given: Any) -> tuple[str, list[str]]:
    """A thread that waits for answers, and the ids of its questions."""
    thread = started(http, graph, given or {"topic": "x"})
    return thread, [each["interrupt_id"] for each in data(watch(http, thread), "input.requested")]


def test_a_question_is_shown_before_the_run_ends(http: httpx.Client) -> None:
    thread, (question,) = asked(http)
    events = watch(http, thread)
    shown = {"question": "publish?", "draft": "about x"}
    assert [envelope["method"] for envelope in events[-4:]] == ["input.requested", "values", "tasks", "lifecycle"]
    assert events[-4]["params"]["data"] == {"interrupt_id": question, "payload": shown, "value": shown}
    assert "__interrupt__" not in events[-3]["params"]["data"]
    assert events[-1]["params"]["data"] == {"event": "interrupted", "graph_name": "question"}
    assert events[-4]["event_id"].endswith(f":input||{question}")
    assert http.get(f"/threads/{thread}").json()["status"] == "interrupted"


def test_a_question_of_a_subgraph_has_its_namespace(http: httpx.Client) -> None:
    thread, (question,) = asked(http, "nested", text="x", ask=True)
    events = watch(http, thread, ["input", "lifecycle"])
    namespaces = [event["params"]["namespace"] for event in events if event["method"] == "input.requested"]
    assert [len(namespace) for namespace in namespaces] == [2]
    assert [each["event"] for each in data(events, "lifecycle")][-3:] == ["interrupted"] * 3
    answer = {"interrupt_id": question, "response": "yes", "namespace": namespaces[0]}
    assert command(http, thread, "input.respond", **answer)["result"] == {}
    assert data(watch(http, thread, ends=2), "values")[-1]["text"] == "x+leaf yes"


def test_an_answer_goes_on_with_the_run(http: httpx.Client) -> None:
    thread, (question,) = asked(http)
    metadata = {"by": "me"}
    answer = command(http, thread, "input.respond", interrupt_id=question, response="no", metadata=metadata)
    assert answer["result"] == {}
    assert data(watch(http, thread, ends=2), "values")[-1]["trail"] == ["draft", "review", "shelve"]
    runs = http.get(f"/threads/{thread}/runs").json()
    assert [run["metadata"].get("by") for run in runs] == ["me", None]


def test_an_answer_may_change_the_state_and_jump(http: httpx.Client) -> None:
    thread, (question,) = asked(http)
    change = {"update": {"topic": "else"}, "goto": "shelve"}
    command(http, thread, "input.respond", interrupt_id=question, response="yes", **change)
    values = data(watch(http, thread, ends=2), "values")[-1]
    assert values["topic"] == "else"
    assert sorted(values["trail"]) == ["draft", "publish", "review", "shelve"]


def test_several_questions_are_answered_at_once_or_one_by_one(http: httpx.Client) -> None:
    thread, questions = asked(http, "questions")
    responses = [{"interrupt_id": question, "response": n} for n, question in enumerate(questions)]
    command(http, thread, "input.respond", responses=responses)
    assert len(data(watch(http, thread, ends=2), "values")[-1]["trail"]) == 3
    thread, questions = asked(http, "questions")
    command(http, thread, "input.respond", interrupt_id=questions[0], response=None)
    assert data(watch(http, thread, ends=2), "input.requested")[-1]["interrupt_id"] == questions[1]
    command(http, thread, "input.respond", interrupt_id=questions[1], response="b")
    assert len(data(watch(http, thread, ends=3), "values")[-1]["trail"]) == 3


def test_the_input_of_a_new_run_answers_a_question(http: httpx.Client) -> None:
    thread, _ = asked(http)
    start(http, thread, "question", "no")
    assert data(watch(http, thread, ends=2), "values")[-1]["decision"] == "no"


def test_what_can_not_be_answered_is_refused(http: httpx.Client) -> None:
    idle = started(http, "steps", {})
    waiting, (question,) = asked(http)
    respond = "input.respond"
    assert refusal(http, idle, respond, interrupt_id="x") == (
        "no_such_run",
        "No interrupted run is bound to this thread.",
    )
    assert refusal(http, waiting, respond, interrupt_id="x")[0] == "no_such_interrupt"
    assert refusal(http, waiting, respond)[0] == "invalid_argument"
    assert refusal(http, waiting, respond, responses=[])[0] == "invalid_argument"
    assert refusal(http, waiting, respond, responses=["x"])[0] == "invalid_argument"
    assert refusal(http, waiting, respond, interrupt_id=question, namespace=[1])[0] == "invalid_argument"
    assert refusal(http, waiting, respond, interrupt_id=question, goto={"no": 1})[0] == "unknown_error"
    assert refusal(http, "nonsense", respond, interrupt_id="x") == ("unknown_error", "422: Invalid thread ID")
    assert http.get(f"/threads/{waiting}").json()["status"] == "interrupted"


def test_a_question_may_be_answered_before_its_run_has_ended(http: httpx.Client) -> None:
    """Its client may be faster."""
    thread = new_id()
    with following(http, thread) as events, httpx.Client(base_url=http.base_url, timeout=30) as other:
        start(other, thread, "questions", {})
        for turn in range(2):
            question = next(
                data([envelope], "input.requested") for envelope in events if envelope["method"] == "input.requested"
            )[0]
            answer = command(other, thread, "input.respond", interrupt_id=question["interrupt_id"], response=turn)
            assert answer["type"] == "success", answer
            if turn == 0:
                until_ends(events)
        assert len(data(until_ends(events, 2), "values")[-1]["trail"]) == 3


def test_what_is_no_command_or_no_stream_is_refused(http: httpx.Client) -> None:
    nonsense: list[Any] = [
        [],
        {"method": "run.start"},
        {"id": "1", "method": "x"},
        {"id": 1},
        {"id": True, "method": "x"},
    ]
    commands, streams = f"/threads/{new_id()}/commands", f"/threads/{new_id()}/stream/events"
    for path in (commands, streams):
        answer = http.post(path, content=b"{")
        assert (answer.status_code, answer.json()) == (400, {"detail": "Invalid JSON body"})
    for body in nonsense:
        answer = http.post(commands, json=body)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_argument")
    unknown: list[Any] = [[], {}, {"channels": []}, {"channels": "values"}, {"channels": ["debug"]}, {"channels": [1]}]
    for bad in unknown:
        assert http.post(streams, json=bad).status_code == 400
    assert http.post(streams, json={"channels": ["values"], "depth": "x"}).status_code == 422
    thread = new_id()
    assert refusal(http, thread, "run.destroy")[0] == "unknown_command"
    assert refusal(http, thread, "run.start")[0] == "invalid_argument"
    fork = {"configurable": {"checkpoint_id": "x"}}
    assert refusal(http, thread, "run.start", assistant_id="steps", config=fork)[0] == "invalid_argument"
    assert refusal(http, thread, "agent.getTree")[0] == "no_such_run"
    assert refusal(http, thread, "subscription.reconnect", channels=["values"], since=0)[0] == "no_such_run"
    assert refusal(http, thread, "subscription.unsubscribe", subscription_id="x")[0] == "no_such_subscription"
    assert command(http, thread, "subscription.subscribe", channels=["values"])["result"]["replayed_events"] == 0
    assert http.get(f"/threads/{thread}").status_code == 404


async def test_a_strict_answer_to_what_is_not_asked_leaves_the_thread_as_it_was(
    http: httpx.Client, client: LangGraphClient
) -> None:
    thread, (question,) = asked(http)
    strict = {"assistant_id": "question", "command": {"resume": {"0" * 32: "yes"}}, "strict_resume": True}
    run = http.post(f"/threads/{thread}/runs", json={**strict, "stream_resumable": True}).json()
    finish(http, thread, run["run_id"])
    assert http.get(f"/threads/{thread}/runs/{run['run_id']}").json()["status"] == "error"
    failed = data(watch(http, thread, ends=2), "lifecycle")[-1]
    assert {**failed, "error": None} == {
        "event": "failed",
        "graph_name": "question",
        "error": None,
        "reason": "not_pending",
        "interrupt_ids": ["0" * 32],
        "pending_ids": [question],
    }
    assert (await client.threads.get(thread))["status"] == "interrupted"
    command(http, thread, "input.respond", interrupt_id=question, response="yes", strict_resume=True)
    assert data(watch(http, thread, ends=3), "values")[-1]["trail"] == ["draft", "review", "publish"]


def test_a_run_keeps_its_metadata_and_config(http: httpx.Client) -> None:
    thread = new_id()
    config = {"configurable": {"tone": "soft"}, "recursion_limit": 9, "tags": ["a"]}
    run = start(http, thread, "steps", {"text": "x"}, metadata={"who": "me"}, config=config)
    finish(http, thread, run)
    kept = http.get(f"/threads/{thread}/runs/{run}").json()
    assert kept["metadata"]["who"] == "me"
    assert kept["kwargs"]["config"]["configurable"]["tone"] == "soft"
    assert kept["kwargs"]["config"]["recursion_limit"] == 9
    assert http.get(f"/threads/{thread}").json()["metadata"]["graph_id"] == "steps"


def test_a_busy_thread_takes_a_new_run_at_once(http: httpx.Client, tmp_path: Path) -> None:
    thread, gate = new_id(), tmp_path / "gate"
    first = start(http, thread, "gated", {"gate": str(gate)})

    def statuses() -> list[tuple[str, str]]:
        runs = http.get(f"/threads/{thread}/runs").json()
        return [(run["multitask_strategy"], run["status"]) for run in reversed(runs)]

    busy = refusal(http, thread, "run.start", assistant_id="gated", input={}, multitaskStrategy="reject")
    assert busy[0] == "unknown_error"
    assert busy[1].startswith("409: Thread is already running a task.")
    start(http, thread, "gated", {"gate": str(gate)})
    assert [status for _, status in statuses()] == ["running", "pending"]
    last = start(http, thread, "gated", {"gate": ""}, multitask_strategy="interrupt")
    finish(http, thread, last)
    assert statuses() == [("enqueue", "interrupted"), ("enqueue", "interrupted"), ("interrupt", "success")]
    assert http.get(f"/threads/{thread}/runs/{first}").json()["status"] == "interrupted"
    assert refusal(http, thread, "run.start", assistant_id="gated", multitaskStrategy="never")[0] == "unknown_error"


def test_a_fork_leaves_the_thread_at_its_end(http: httpx.Client) -> None:
    thread = started(http, "steps", {"text": "x"})
    history = http.get(f"/threads/{thread}/history?limit=20").json()
    at = next(state for state in history if state["next"] == ["second"])["checkpoint"]["checkpoint_id"]
    run = start(http, thread, "steps", None, config={"configurable": {"checkpoint_id": at}})
    finish(http, thread, run)
    kept = http.get(f"/threads/{thread}").json()
    assert (kept["status"], kept["values"]["trail"]) == ("idle", ["first", "second", "third"])
    assert http.get(f"/threads/{thread}/state").json()["values"] == kept["values"]


def test_a_fork_past_a_question_is_no_answer_to_it(http: httpx.Client) -> None:
    thread, _ = asked(http)
    history = http.get(f"/threads/{thread}/history?limit=20").json()
    at = next(state for state in history if state["next"] == ["draft"])["checkpoint"]["checkpoint_id"]
    run = start(http, thread, "question", {"topic": "y"}, config={"configurable": {"checkpoint_id": at}})
    finish(http, thread, run)
    values = http.get(f"/threads/{thread}/state").json()["values"]
    assert (values["topic"], values["draft"]) == ("y", "about y")


def test_a_command_tells_what_was_before_it(http: httpx.Client) -> None:
    """The Python client reads on from there, and so is not misled by the ends of earlier runs."""
    thread = new_id()
    first = command(http, thread, "run.start", assistant_id="steps", input={"text": "x"})
    finish(http, thread, first["result"]["run_id"])
    second = command(http, thread, "run.start", assistant_id="steps", input={"text": "y"})
    assert first["meta"] == {"applied_through_seq": 0}
    assert second["meta"] == {"applied_through_seq": watch(http, thread)[-1]["seq"]}


async def test_a_cancelled_run_is_interrupted_and_over(
    http: httpx.Client, client: LangGraphClient, tmp_path: Path
) -> None:
    thread = new_id()
    run = start(http, thread, "gated", {"gate": str(tmp_path / "gate")})
    await eventually(lambda: http.get(f"/threads/{thread}/state").json()["values"].get("trail"))
    await client.runs.cancel(thread, run, wait=True)
    ends = data(watch(http, thread, ends=2), "lifecycle")[1:]
    assert ends == [{"event": "interrupted", "graph_name": "gated"}, {"event": "completed", "graph_name": "gated"}]
    assert (await client.runs.get(thread, run))["status"] == "interrupted"


# Runs that were started the ordinary way


def test_ordinary_runs_are_in_the_stream(http: httpx.Client) -> None:
    thread = http.post("/threads", json={}).json()["thread_id"]
    modes = ["values", "updates", "custom", "tasks", "checkpoints"]
    body = {"assistant_id": "question", "input": {"topic": "x"}, "stream_mode": modes, "stream_resumable": True}
    run = http.post(f"/threads/{thread}/runs", json=body).json()["run_id"]
    finish(http, thread, run)
    events = watch(http, thread)
    assert [envelope["seq"] for envelope in events] == list(range(1, len(events) + 1))
    assert "checkpoints" not in {envelope["method"] for envelope in events}
    update = next(envelope["params"] for envelope in events if envelope["method"] == "updates")
    assert (update["node"], update["data"]["trail"]) == ("draft", ["draft"])
    (question,) = data(events, "input.requested")
    assert question["payload"] == question["value"] == {"question": "publish?", "draft": "about x"}
    command(http, thread, "input.respond", interrupt_id=question["interrupt_id"], response="no")
    assert data(watch(http, thread, ends=2), "values")[-1]["trail"] == ["draft", "review", "shelve"]


def test_ordinary_runs_that_keep_nothing_are_seen_live_only(http: httpx.Client) -> None:
    thread = http.post("/threads", json={}).json()["thread_id"]
    with following(http, thread) as events:
        http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "steps", "input": {"text": "x"}})
        live = until_ends(events)
        started(http, "steps", {"text": "y"}, thread)
        later = until_ends(events)
    assert [envelope["seq"] for envelope in live + later] == list(range(1, len(live + later) + 1))
    assert watch(http, thread) == later


def test_an_ordinary_client_sees_runs_started_by_command(http: httpx.Client) -> None:
    thread = new_id()
    run = start(http, thread, "steps", {"text": "x"})
    finish(http, thread, run)
    headers = {"last-event-id": "-1"}
    text = http.get(f"/threads/{thread}/runs/{run}/stream?stream_mode=values", headers=headers).text
    values = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert [len(each["trail"]) for each in values] == [0, 1, 2, 3]
    assert http.get(f"/threads/{thread}/runs/{run}/join").json()["total"] == 111


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("values|child:1", {"a": 1, "__interrupt__": []}, {"namespace": ["child:1"], "data": {"a": 1}}),
        ("updates", {"a": {"b": None}}, {"namespace": [], "node": "a", "data": {"b": None}}),
        ("custom", "x", {"namespace": [], "data": "x"}),
        ("tasks|child:1|b", {}, {"namespace": ["child:1", "b"], "data": {}}),
        ("protocol/lifecycle", {"namespace": [], "data": {}}, {"namespace": [], "data": {}}),
    ],
)
def test_an_event_is_one_envelope(name: str, value: Any, shown: Any) -> None:
    event = devserver.Event((1, 2), name, devserver.to_json(value), 5)
    [made] = devserver.EventFilter({"channels": [*ALL, "custom:x"], "since": 4}).envelopes([event])
    assert (made["seq"], made["event_id"]) == (5, "1-2")
    assert {key: made["params"][key] for key in made["params"] if key != "timestamp"} == shown


# Slow readers


def test_a_thread_is_not_held_in_memory_for_who_does_not_read(http: httpx.Client, server: LiveServer) -> None:
    """Its connection breaks off in the middle, so that it comes again. Meanwhile others are served."""
    thread = http.post("/threads", json={}).json()["thread_id"]
    body = json.dumps({"channels": ["values", "lifecycle"]})
    url = httpx.URL(server.url)
    request = (
        f"POST /threads/{thread}/stream/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    with socket.create_connection(("127.0.0.1", url.port or 0)) as slow:
        slow.settimeout(30)
        slow.sendall(request.encode())
        assert slow.recv(64).startswith(b"HTTP/1.1 200")
        text = "x" * 2**22
        for _ in range(7):  # in all more than the limit and what the sockets take
            given = {"assistant_id": "steps", "input": {"text": text}, "durability": "exit"}
            assert http.post(f"/threads/{thread}/runs/wait", json=given).json()["total"]
        size, last = 0, b""
        while part := slow.recv(2**20):
            size += len(part)
            last = part
    assert size < 7 * 4 * 2**22
    assert not last.endswith(b"0\r\n\r\n")


async def test_who_is_too_far_behind_loses_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devserver.EventLog, "MEMORY_BYTES", 2**20)
    log = devserver.EventLog(max_pages=2**8)  # as much again
    slow, quick = devserver.Follower(), devserver.Follower()
    log.join(slow)
    log.join(quick)
    text = b"x" * 2**18
    for n in range(12):
        log.append(devserver.Event((1, n), "custom", text, n))
        assert log.take(quick) == [devserver.Event((1, n), "custom", text, n)]
        if n == 5:  # the first of them are on the disk
            assert log.take(slow) == [devserver.Event((1, 0), "custom", text, 0)]
    with pytest.raises(devserver.Overtaken):
        log.take(slow)
    assert log.take(quick) == []
    log.leave(slow)
    log.leave(quick)  # the last who leaves closes the file


# WebSocket


@contextlib.contextmanager
def web_socket(http: httpx.Client, thread: str, **options: Any) -> Iterator[ClientConnection]:
    url = f"{str(http.base_url).rstrip('/').replace('http', 'ws', 1)}/threads/{thread}/stream/events"
    with connect(url, **options) as ws:
        yield ws


def ask(ws: ClientConnection, method: str, **params: Any) -> Any:
    """The answer to a command; no events come before it."""
    answer, events = ask_amid_events(ws, method, **params)
    assert events == []
    return answer


def ask_amid_events(ws: ClientConnection, method: str, **params: Any) -> tuple[Any, list[Envelope]]:
    """The answer to a command, and the events that came before it."""
    ws.send(json.dumps({"id": 3, "method": method, "params": params}))
    events = []
    while (message := json.loads(ws.recv(10))).get("id") != 3:
        assert message["type"] == "event"
        events.append(message)
    return message, events


@contextlib.contextmanager
def subscribed(http: httpx.Client, thread: str, channels: list[str], **params: Any) -> Iterator[ClientConnection]:
    with web_socket(http, thread) as ws:
        answer = ask(ws, "subscription.subscribe", channels=channels, **params)
        assert answer["result"].keys() == {"subscription_id", "replayed_events"}
        yield ws


def envelopes(ws: ClientConnection) -> Iterator[Envelope]:
    while True:
        yield json.loads(ws.recv(10))


def test_a_socket_carries_commands_and_events(http: httpx.Client) -> None:
    thread = new_id()
    with subscribed(http, thread, ["values", "lifecycle"]) as ws:
        assert ask(ws, "agent.getTree")["error"] == "no_such_run"
        answer, early = ask_amid_events(ws, "run.start", assistant_id="nested", input={"text": "x"})
        assert answer["type"] == "success"
        events = until_ends(itertools.chain(early, envelopes(ws)))
        assert events == watch(http, thread, ["values", "lifecycle"])
        tree = ask(ws, "agent.getTree")
        assert tree["meta"]["applied_through_seq"] == events[-1]["seq"]
        assert {**tree["result"]["tree"], "children": None} == {
            "namespace": [],
            "status": "completed",
            "graph_name": "a nested graph",
            "children": None,
        }
        children = tree["result"]["tree"]["children"]
        assert [(child["graph_name"], child["status"]) for child in children] == [
            ("child", "completed"),
            ("grand", "completed"),
        ]


def test_each_subscription_has_its_own_replay(http: httpx.Client) -> None:
    thread = started(http, "steps", {"text": "x"})
    with subscribed(http, thread, ["lifecycle"]) as ws:
        assert len(until_ends(envelopes(ws))) == 2
        second = ask(ws, "subscription.subscribe", channels=["values", "lifecycle"], since=3)["result"]
        events = until_ends(envelopes(ws))
        assert events == watch(http, thread, ["values", "lifecycle"], since=3)
        assert ask(ws, "subscription.unsubscribe", **second)["result"] == {}
        assert ask(ws, "subscription.unsubscribe", **second)["error"] == "no_such_subscription"
        started(http, "steps", {"text": "y"}, thread)
        assert {envelope["method"] for envelope in until_ends(envelopes(ws))} == {"lifecycle"}
        ask(ws, "subscription.reconnect", channels=["lifecycle"], since=events[-1]["seq"])
        assert len(until_ends(envelopes(ws))) == 2


def test_a_socket_answers_nonsense(http: httpx.Client) -> None:
    with web_socket(http, new_id()) as ws:
        for text in ("{", "[]", '{"id": true, "method": "run.start"}', '{"id": 1}'):
            ws.send(text)
            answer = json.loads(ws.recv(10))
            assert (answer["type"], answer["error"]) == ("error", "invalid_argument")
        assert ask(ws, "run.destroy")["error"] == "unknown_command"
        for bad in ({}, {"channels": ["x"]}, {"channels": ["values"], "namespaces": "x"}):
            assert ask(ws, "subscription.subscribe", **bad)["error"] == "invalid_argument"
        ws.send(b"bytes")
        with pytest.raises(ConnectionClosedError) as closed:
            ws.recv(10)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1003


class OneCommand:
    """A WebSocket that brings one command, and is open until the server closes it."""

    def __init__(self, method: str, **params: Any) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.messages.put_nowait(
            {"type": "websocket.receive", "text": json.dumps({"id": 1, "method": method, "params": params})}
        )
        self.code = 0

    async def receive(self) -> Any:
        return await self.messages.get()

    async def send_text(self, text: str) -> None:
        assert json.loads(text)["type"] == "success"

    async def close(self, code: int) -> None:
        self.code = code
        self.messages.put_nowait({"type": "websocket.disconnect"})

    async def serve(self) -> None:
        """Run a session whose server is none: for faults that no real one has."""
        db = types.SimpleNamespace(look=lambda function: 0)
        server: Any = types.SimpleNamespace(db=db, auth=None)
        connection: Any = self
        async with asyncio.timeout(5):
            await devserver.Session(server, connection, new_id()).run()


async def test_a_fault_of_a_command_is_not_taken_for_a_binary_message(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> Any:
        raise KeyError("ours")

    monkeypatch.setitem(devserver.COMMANDS, "run.start", fail)
    with pytest.raises(KeyError, match="ours"):
        await OneCommand("run.start").serve()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (devserver.Unavailable("the disk is full"), 1012, 0),
        (devserver.Overtaken(), 1012, 0),
        (ValueError("ours"), 1011, 1),
    ],
)
async def test_a_socket_that_can_send_no_events_is_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, code: int, told: int
) -> None:
    async def fail(*_: Any) -> Any:
        raise error
        yield

    monkeypatch.setattr(devserver, "protocol_tape", fail)
    opened = OneCommand("subscription.subscribe", channels=["values"])
    await opened.serve()
    assert (opened.code, caplog.text.count("could not be sent")) == (code, told)


def test_a_socket_of_no_thread_is_closed_with_the_status(http: httpx.Client) -> None:
    with web_socket(http, "nonsense") as ws, pytest.raises(ConnectionClosedError) as closed:
        ws.recv(10)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4422
    with pytest.raises(InvalidStatus, match="403"), web_socket(http, new_id(), origin="https://elsewhere.example"):
        pass


def test_a_stopping_server_closes_its_streams(make_server: Callable[..., LiveServer]) -> None:
    server = make_server({"steps": "./basic.py:steps"}, {"basic.py": (GRAPHS / "basic.py").read_text()}, "--no-reload")
    with server.http() as http:
        thread = started(http, "steps", {"text": "x"})
        with subscribed(http, thread, ["lifecycle"]) as ws, following(http, thread, ["lifecycle"]) as events:
            assert len(until_ends(events)) == len(until_ends(envelopes(ws))) == 2
            assert server.stop() == 0, server.log
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                list(events)
            with pytest.raises(ConnectionClosedError) as closed:
                ws.recv(10)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1012
    assert "ERROR" not in server.log


# The Python client


async def collect(items: AsyncIterable[Any]) -> list[Any]:
    async with asyncio.timeout(20):
        return [item async for item in items]


@both_transports
async def test_values_of_a_new_thread(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="steps", transport=transport) as thread:
        await thread.run.start(input={"text": "x"}, metadata={"who": "me"})
        values = await collect(thread.values)
        assert values[-1] == await thread.output
        assert [run["metadata"] and run["metadata"]["who"] for run in await client.runs.list(thread.thread_id)] == [
            "me"
        ]
    assert [len(each["trail"]) for each in values[1:]] == [0, 1, 2, 3]


@both_transports
async def test_values_of_a_thread_that_had_runs(client: LangGraphClient, transport: Transport) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    for text in ("x", "y"):
        async with client.threads.stream(thread_id, assistant_id="steps", transport=transport) as thread:
            await thread.run.start(input={"text": text})
            assert (await collect(thread.values))[-1]["text"] == f"{text}!"
    async with client.threads.stream(thread_id, assistant_id="steps", transport=transport) as thread:
        assert (await thread.output)["total"] == 222


@both_transports
async def test_messages_are_streams_of_tokens(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="chat", transport=transport) as thread:
        await thread.run.start(input=HI)
        (message,) = await collect(thread.messages)
        assert await collect(message.text) == ["you", " said", " hi"]
        assert await message.text == "you said hi"
        assert (await thread.output)["messages"][1]["content"][0]["text"] == "you said hi"


@both_transports
async def test_messages_of_models_that_speak_at_the_same_time(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="choir", transport=transport) as thread:
        await thread.run.start(input=HI)
        messages = await collect(thread.messages)
        assert [await message.text for message in messages] == ["you said hi"] * 2


@both_transports
async def test_extensions_are_custom_events(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="counted", transport=transport) as thread:
        await thread.run.start(input={"text": "x"})
        progress = await collect(thread.extensions["progress"])
        assert [each["payload"]["steps"] for each in progress] == [1, 2, 3, 4, 5]
    async with client.threads.stream(assistant_id="counted", transport=transport) as thread:
        await thread.run.start(input={"text": "x"})
        names = ["values", "note", "progress", "updates", "tasks", "checkpoints"]
        items = await collect(thread.interleave_projections(names))
    assert {name for name, _ in items} == set(names)
    assert [item["note"]["trail"] for name, item in items if name == "updates" and "note" in item] == [["noted"]]


@both_transports
async def test_questions_are_answered(client: LangGraphClient, transport: Transport) -> None:
    """The client's iterators wait for ever if the pause or the end came before them, so they are there first."""
    async with client.threads.stream(assistant_id="question", transport=transport) as thread:
        reading = asyncio.create_task(collect(thread.values))
        await thread.run.start(input={"topic": "x"})
        await reading
        assert thread.interrupted
        (question,) = thread.interrupts
        assert question["value"] == {"question": "publish?", "draft": "about x"}
        reading = asyncio.create_task(collect(thread.values))
        await asyncio.sleep(0)
        await thread.run.respond("no")
        assert (await reading)[-1]["trail"] == ["draft", "review", "shelve"]
        assert (await thread.output)["decision"] == "no"


@both_transports
async def test_tool_calls_have_outputs(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="tooled", transport=transport) as thread:
        await thread.run.start(input={"messages": [{"role": "user", "content": "Oslo"}]})
        (call,) = await collect(thread.tool_calls)
        assert (call.name, call.input) == ("weather", {"city": "Oslo"})
        assert (await call.output)["content"] == "sunny in Oslo"
        assert (await thread.output)["messages"][-1]["content"][0]["text"] == "you said sunny in Oslo"
    async with client.threads.stream(assistant_id="tooled", transport=transport) as thread:
        await thread.run.start(input={"messages": [{"role": "user", "content": "Atlantis"}]})
        (call,) = await collect(thread.tool_calls)
        with pytest.raises(RuntimeError, match="no such city"):
            await call.output


@both_transports
async def test_subgraphs_speak_for_themselves(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="team", transport=transport) as thread:
        await thread.run.start(input=HI)
        members = await collect(thread.subgraphs)
        said = {each.graph_name: [await m.text for m in await collect(each.messages)] for each in members}
        assert said == {"ann": ["you said hi"], "bob": ["you said you said hi"]}
        assert [each.status for each in members] == ["completed"] * 2
    async with client.threads.stream(assistant_id="nested", transport=transport) as thread:
        await thread.run.start(input={"text": "x"})
        (child,) = await collect(thread.subgraphs)
        assert [grand.graph_name for grand in await collect(child.subgraphs)] == ["grand"]


@both_transports
async def test_a_cancelled_run_ends_the_iterators(
    client: LangGraphClient, transport: Transport, tmp_path: Path
) -> None:
    async with client.threads.stream(assistant_id="hesitant", transport=transport) as thread:
        run = await thread.run.start(input={**HI, "gate": str(tmp_path / "gate")})
        words: list[str] = []

        async def read(message: Any) -> None:
            async for word in message.text:
                words.append(word)
                await client.runs.cancel(thread.thread_id, run["run_id"])

        async with asyncio.timeout(20):
            items = thread.interleave_projections(["values", "messages"])
            reading = [asyncio.ensure_future(read(item)) async for name, item in items if name == "messages"]
            ends: list[Any] = await asyncio.gather(*reading, thread.output, return_exceptions=True)
    assert words == ["you"]
    assert str(ends[0]) == "The run was cancelled."
    assert ends[1]["messages"][0]["content"] == "hi"


@both_transports
async def test_a_failed_run_fails_the_output(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="failing", transport=transport) as thread:
        await thread.run.start(input={"kind": "value"})
        assert (await collect(thread.values))[-1]["trail"] == ["prepared"]
        with pytest.raises(RuntimeError, match="Run errored: no good value"):
            await thread.output
        with pytest.raises(RuntimeError, match="unknown_error"):
            await thread.run.start(config={"configurable": {"thread_id": 5}, "recursion_limit": "x"})


@both_transports
def test_the_synchronous_client(server: LiveServer, transport: Transport, tmp_path: Path) -> None:
    """The client's iterators wait for ever if the pause or the end came before them: a gate keeps the end from that."""
    gate = tmp_path / "publish"
    with server.sync_client() as client:
        with client.threads.stream(assistant_id="question", transport=transport) as thread:
            thread.run.start(input={"topic": "x", "gate": str(gate)})
            asyncio.run(eventually(lambda: thread.interrupts))
            assert [each["value"]["question"] for each in thread.interrupts] == ["publish?"]
            thread.run.respond("yes")
            values = iter(thread.values)
            assert next(values)
            gate.touch()
            assert list(values)[-1]["trail"] == ["draft", "review", "publish"]
            assert thread.output["decision"] == "yes"
        with client.threads.stream(assistant_id="chat", transport=transport) as thread:
            thread.run.start(input=HI)
            assert [str(message.text) for message in thread.messages] == ["you said hi"]
        with client.threads.stream(assistant_id="counted", transport=transport) as thread:
            thread.run.start(input={"text": "x"})
            assert [each["payload"]["steps"] for each in thread.extensions["progress"]] == [1, 2, 3, 4, 5]
        with client.threads.stream(assistant_id="gated", transport=transport) as thread:
            run = thread.run.start(input={"gate": str(tmp_path / "gate")})
            for values in thread.values:
                if values.get("trail") == ["before"]:
                    with contextlib.suppress(NotFoundError):  # the state is told twice: by the thread, and by the run
                        client.runs.cancel(thread.thread_id, run["run_id"])
            assert thread.output["trail"] == ["before"]


async def test_the_client_reads_on_after_the_server_was_away(
    make_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    """A port of its own, so that the server comes back where it was."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    gate = tmp_path / "gate"
    sources = {"basic.py": (GRAPHS / "basic.py").read_text()}
    server = make_server({"gated": "./basic.py:gated"}, sources, "--no-reload", "--port", port)
    client = server.client()
    async with asyncio.timeout(30), client.threads.stream(assistant_id="gated") as thread:
        thread._shared_max_reconnect_attempts = thread._lifecycle_max_reconnect_attempts = 400
        thread._shared_reconnect_backoff_cap = 0.1
        await thread.run.start(input={"gate": str(gate)})
        custom = thread.subscribe(["custom", "values"])
        seen = [await anext(custom)]
        while seen[-1]["method"] != "custom":
            seen.append(await anext(custom))
        server.kill()
        await asyncio.to_thread(server.start)
        gate.touch()
        seen += [event async for event in custom]
        assert (await thread.output)["trail"] == ["before", "waited", "after"]
    assert [event["seq"] for event in seen] == sorted({event["seq"] for event in seen})
    assert seen[-1]["params"]["data"]["trail"] == ["before", "waited", "after"]
    await client.aclose()

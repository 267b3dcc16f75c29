"""Answers of tools as messages of the event streaming protocol: on the wire, and in the clients' own readers."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest
from langgraph_sdk.client import LangGraphClient
from test_protocol import (
    Envelope,
    Transport,
    ask_amid_events,
    both_transports,
    collect,
    data,
    envelopes,
    finish,
    new_id,
    start,
    started,
    subscribed,
    until_ends,
    watch,
)

SERVED = {name: f"./toolbox.py:{name}" for name in ("agent", "tool_node", "plain_tool_node", "outer")}
CHANNELS = ["messages", "tools", "lifecycle"]
PICTURE = {"type": "image", "base64": "cGl4ZWw=", "mime_type": "image/png"}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


ANSWERS: dict[str, list[dict[str, Any]]] = {
    "text": [text("sunny")],
    "in_thread": [text("cloudy")],
    "number": [text("1.5")],
    "nothing": [],
    "blocks": [text("look: "), PICTURE, text("nice"), {"type": "non_standard", "value": {"type": "json", "json": {}}}],
    "artifact": [text("measured")],
    "refusal": [text("no such city")],
    "command": [text("written down")],
    "command_of_dicts": [text("as a dict")],
    "commands": [text("last of a list")],
}


def call(*names: str) -> dict[str, Any]:
    """The input that makes the model call these tools."""
    return {"messages": [{"role": "user", "content": " ".join(names)}]}


def answers(events: list[Envelope]) -> dict[str, list[Envelope]]:
    """The messages of tools, by their calls."""
    spoken = [each for each in events if each["method"] == "messages"]
    calls: dict[str, list[Envelope]] = {}
    for each in spoken:
        if (place := each["params"]["namespace"][-1:]) and place[0].startswith("tools:"):
            calls.setdefault(place[0].removeprefix("tools:"), []).append(each)
    return calls


def content(parts: list[Envelope]) -> list[Any]:
    return [part["content"] for part in data(parts, "messages") if part["event"] == "content-block-finish"]


@pytest.mark.parametrize("graph", ["agent", "tool_node", "outer"])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_a_message_after_its_tool_has_finished(http: httpx.Client, graph: str, name: str) -> None:
    events = watch(http, started(http, graph, call(name)), CHANNELS)
    finished = next(n for n, each in enumerate(events) if each["params"]["data"]["event"] == "tool-finished")
    ((call_id, parts),) = answers(events).items()
    assert call_id == f"call-{name}"
    assert parts == events[finished + 1 : finished + 1 + len(parts)]
    assert [each["seq"] for each in parts] == list(range(parts[0]["seq"], parts[0]["seq"] + len(parts)))
    place = events[finished]["params"]["namespace"]
    assert [segment.partition(":")[0] for segment in place] == (["member"] if graph == "outer" else [])
    assert {tuple(each["params"]["namespace"]) for each in parts} == {(*place, f"tools:{call_id}")}

    first, *_, last = told = data(parts, "messages")
    assert (first["event"], first["role"], first["tool_call_id"]) == ("message-start", "tool", call_id)
    assert last["event"] == "message-finish"
    assert {each["id"] for each in told} == {first["id"]} != {None}
    assert content(parts) == ANSWERS[name]
    for index, block in enumerate(ANSWERS[name]):
        own = [each for each in told if each.get("index") == index]
        said = block.get("text")
        middle = ["content-block-delta"] if said else []
        assert [each["event"] for each in own] == ["content-block-start", *middle, "content-block-finish"]
        if said:
            assert own[0]["content"] == text("")
            assert (own[1]["delta"], own[1]["content"]) == ({"type": "text-delta", "text": said}, text(said))


def test_the_id_that_a_tool_gave_its_message_is_kept(http: httpx.Client) -> None:
    thread = started(http, "agent", call("refusal"))
    (parts,) = answers(watch(http, thread, CHANNELS)).values()
    assert parts[0]["params"]["data"]["id"] == "refusal-1"
    assert http.get(f"/threads/{thread}/state").json()["values"]["messages"][2]["id"] == "refusal-1"


@pytest.mark.parametrize("graph", ["agent", "tool_node", "outer"])
def test_several_tools_answer_at_once(http: httpx.Client, graph: str) -> None:
    events = watch(http, started(http, graph, call(*ANSWERS)), CHANNELS)
    said = answers(events)
    assert {name: content(said[f"call-{name}"]) for name in ANSWERS} == ANSWERS
    assert len({parts[0]["params"]["data"]["id"] for parts in said.values()}) == len(ANSWERS)
    told = data([each for each in events if each["method"] == "messages"], "messages")
    assert {run for run, _ in itertools.groupby(told, lambda each: each["run_id"])} >= {f"call-{n}" for n in ANSWERS}


def test_what_fails_answers_nothing(http: httpx.Client) -> None:
    events = watch(http, started(http, "tool_node", call("failing", "text")), CHANNELS)
    assert [each["message"] for each in data(events, "tools") if each["event"] == "tool-error"] == ["no such city"]
    assert answers(events).keys() == {"call-text"}


def test_a_value_that_is_no_message_is_told_as_text(http: httpx.Client) -> None:
    """A tool that code calls without a tool call gives its value as it is; LangGraph makes an id for the call."""
    events = watch(http, started(http, "agent", call("helped")), CHANNELS)
    names = {each["tool_call_id"]: each["tool_name"] for each in data(events, "tools") if "tool_name" in each}
    said = {names[call_id]: content(parts) for call_id, parts in answers(events).items()}
    assert said.pop("blocks")[0]["text"].startswith('[{"type":"text"')
    assert said == {"number": [text("1.5")], "inner_text": [text("helping")], "helped": [text("1.5 4 helping")]}


def test_a_plain_tool_node_tells_of_no_tools(http: httpx.Client) -> None:
    """LangGraph follows tools where a graph has its ToolCallTransformer, as agents do."""
    events = watch(http, started(http, "plain_tool_node", call("text")), CHANNELS)
    assert (data(events, "tools"), answers(events)) == ([], {})


def test_an_ordinary_run_tells_of_no_tools(http: httpx.Client) -> None:
    """Ordinary runs have no mode for tools, and their messages have no form in the protocol."""
    thread = http.post("/threads", json={}).json()["thread_id"]
    body = {"input": call("text"), "stream_mode": ["values", "messages"], "stream_resumable": True}
    finish(http, thread, http.post(f"/threads/{thread}/runs", json={"assistant_id": "agent", **body}).json()["run_id"])
    events = watch(http, thread)
    assert {each["method"] for each in events} == {"lifecycle", "values"}
    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))


def test_a_replay_tells_what_was_told_live(http: httpx.Client) -> None:
    thread = new_id()
    with subscribed(http, thread, CHANNELS) as ws:
        given = {"assistant_id": "agent", "input": call("text", "blocks", "command")}
        _, early = ask_amid_events(ws, "run.start", **given)
        live = until_ends(itertools.chain(early, envelopes(ws)))
    assert answers(live).keys() == {"call-text", "call-blocks", "call-command"}
    assert watch(http, thread, CHANNELS) == live
    amid = answers(live)["call-blocks"][2]["seq"]
    assert watch(http, thread, CHANNELS, since=amid) == [each for each in live if each["seq"] > amid]


def test_filters_find_answers(http: httpx.Client) -> None:
    thread = started(http, "agent", call("text", "number"))

    def seen(**body: Any) -> set[str]:
        return answers(watch(http, thread, CHANNELS, **body)).keys() & {"call-text", "call-number"}

    assert seen(namespaces=[[]], depth=1) == {"call-text", "call-number"}
    assert seen(namespaces=[[]], depth=0) == set()
    assert seen(namespaces=[["tools:call-text"], []], depth=0) == {"call-text"}
    assert answers(watch(http, thread, ["tools", "lifecycle"])) == {}


def test_a_run_that_fails_after_a_tool_answered_leaves_no_message_open(http: httpx.Client) -> None:
    """The agent fails with its tool; the other tool's message was whole before."""
    thread = new_id()
    start(http, thread, "agent", call("nothing", "failing"))
    events = watch(http, thread, CHANNELS)
    assert data(events, "lifecycle")[-1]["event"] == "failed"
    assert "error" not in {each["event"] for each in data(events, "messages")}


@both_transports
async def test_the_python_client_reads_models_and_tools_apart(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="agent", transport=transport) as thread:
        await thread.run.start(input=call("text", "command"))
        items = await collect(thread.interleave_projections(["messages", "tool_calls"]))
        calls = {item.name: item for name, item in items if name == "tool_calls"}
        assert (await calls["text"].output)["content"] == "sunny"
        assert calls.keys() == {"text", "command"}
        said = [await item.text for name, item in items if name == "messages"]
        assert said == ["", "you said written down"]


@both_transports
async def test_the_python_client_reads_a_subgraphs_answers(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="outer", transport=transport) as thread:
        await thread.run.start(input=call("text"))
        (member,) = await collect(thread.subgraphs)
        assert [await message.text for message in await collect(member.messages)] == ["", "you said sunny"]
        (tool,) = await collect(member.tool_calls)
        assert (await tool.output)["content"] == "sunny"


@both_transports
async def test_the_python_client_reads_an_answer_where_it_is(client: LangGraphClient, transport: Transport) -> None:
    async with client.threads.stream(assistant_id="agent", transport=transport) as thread:
        await thread.run.start(input=call("blocks"))
        events: Any = thread.subscribe(["messages"], namespaces=[["tools:call-blocks"]])
        assert content([event async for event in events]) == ANSWERS["blocks"]

"""What is kept and shown of a run: updates in pairs, a question's fields, one end for all, places of subgraphs."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually
from langgraph.pregel.remote import RemoteGraph
from langgraph.types import Command
from langgraph_sdk.client import LangGraphClient

import devserver

SERVED = {name: f"./forms.py:{name}" for name in ("asks", "ranked", "parent", "root")}
SCHEMA = {"age": {"title": "Age", "type": "integer"}}
ANSWER: Any = {"age": 7}


async def waiting(client: LangGraphClient, graph: str = "asks") -> str:
    """A thread that waits for an answer."""
    thread_id = (await client.threads.create())["thread_id"]
    given: Any = {"log": ["in"]}
    await client.runs.wait(thread_id, graph, input=given)
    return thread_id


async def values_of(client: LangGraphClient, thread_id: str) -> Any:
    return (await client.threads.get_state(thread_id))["values"]


async def log_of(client: LangGraphClient, thread_id: str) -> list[str]:
    log: list[str] = (await values_of(client, thread_id))["log"]
    return log


# A command's update in pairs


async def by_wait(client: LangGraphClient, http: httpx.Client, thread_id: str, update: Any) -> None:
    await client.runs.wait(thread_id, "asks", command={"resume": ANSWER, "update": update})


async def by_create(client: LangGraphClient, http: httpx.Client, thread_id: str, update: Any) -> None:
    run = await client.runs.create(thread_id, "asks", command={"resume": ANSWER, "update": update})
    await client.runs.join(thread_id, run["run_id"])


async def by_stream(client: LangGraphClient, http: httpx.Client, thread_id: str, update: Any) -> None:
    parts = client.runs.stream(thread_id, "asks", command={"resume": ANSWER, "update": update}, stream_mode="events")
    assert [part async for part in parts if part.event == "error"] == []


async def by_remote_graph(client: LangGraphClient, http: httpx.Client, thread_id: str, update: Any) -> None:
    command: Command[Any] = Command(resume=ANSWER, update=[tuple(pair) for pair in update])
    await RemoteGraph("asks", client=client).ainvoke(command, {"configurable": {"thread_id": thread_id}})


async def by_cron(client: LangGraphClient, http: httpx.Client, thread_id: str, update: Any) -> None:
    body = {"assistant_id": "asks", "schedule": "* * * * * *", "command": {"resume": ANSWER, "update": update}}
    cron = http.post(f"/threads/{thread_id}/runs/crons", json=body).json()
    await eventually(lambda: len(http.get(f"/threads/{thread_id}/runs").json()) > 1)
    http.delete(f"/runs/crons/{cron['cron_id']}")
    await eventually(lambda: http.get(f"/threads/{thread_id}").json()["status"] == "idle")


async def by_protocol(client: LangGraphClient, http: httpx.Client, thread_id: str, update: Any) -> None:
    (question,) = (await client.threads.get_state(thread_id))["interrupts"]
    params = {"response": ANSWER, "interrupt_id": question["id"], "update": update}
    body = {"id": 1, "method": "input.respond", "params": params}
    assert http.post(f"/threads/{thread_id}/commands", json=body).json()["type"] == "success"
    await eventually(lambda: http.get(f"/threads/{thread_id}").json()["status"] == "idle")


@pytest.mark.parametrize("send", [by_wait, by_create, by_stream, by_remote_graph, by_cron, by_protocol])
async def test_an_update_in_pairs_is_done(
    client: LangGraphClient, http: httpx.Client, send: Callable[..., Any]
) -> None:
    thread_id = await waiting(client)
    await send(client, http, thread_id, [["log", ["one"]], ["log", ["two"]]])
    assert await log_of(client, thread_id) == ["in", "begin", "one", "two", "ask:7"]


async def test_an_update_in_pairs_needs_no_answer(client: LangGraphClient) -> None:
    thread_id = await waiting(client)
    command: Any = {"update": [["log", ["one"]]]}
    result: Any = await client.runs.wait(thread_id, "asks", command=command)
    assert result["log"] == ["in", "begin", "one"]
    assert len(result["__interrupt__"]) == 1


async def test_runs_without_a_thread_take_pairs(client: LangGraphClient, http: httpx.Client) -> None:
    command = {"update": [["log", ["one"]]], "goto": "other"}
    body = {"assistant_id": "asks", "command": command, "on_completion": "keep"}
    assert "one" in http.post("/runs/wait", json=body).json()["log"]
    (run,) = http.post("/runs/batch", json=[body]).json()
    await eventually(lambda: http.get(f"/threads/{run['thread_id']}").json()["status"] != "busy")
    assert "one" in await log_of(client, run["thread_id"])


def test_supersteps_take_pairs(http: httpx.Client) -> None:
    command = {"update": [["log", ["one"]], ["log", ["two"]]]}
    supersteps = [{"updates": [{"command": command, "as_node": "begin"}]}]
    thread = http.post("/threads", json={"metadata": {"graph_id": "asks"}, "supersteps": supersteps}).json()
    assert http.get(f"/threads/{thread['thread_id']}/state").json()["values"]["log"] == ["one", "two"]


@pytest.mark.parametrize("update", [[["log"]], [["log", 1, 2]], ["log"], [[1, ["x"]]], [["log", ["x"]], 3]], ids=str)
async def test_an_update_that_would_be_dropped_is_an_error(
    client: LangGraphClient, http: httpx.Client, update: Any
) -> None:
    thread_id = await waiting(client)
    command: Any = {"update": update}
    result: Any = await client.runs.wait(thread_id, "asks", command=command, raise_error=False)
    wanted = f"Expected command.update to be an object or a list of [key, value], got {update}"
    assert result == {"__error__": {"error": "InvalidUpdateError", "message": wanted}}
    supersteps = [{"updates": [{"command": command, "as_node": "begin"}]}]
    answer = http.post("/threads", json={"metadata": {"graph_id": "asks"}, "supersteps": supersteps})
    assert (answer.status_code, answer.json()["detail"]) == (400, wanted)


async def test_an_empty_update_is_harmless(client: LangGraphClient, http: httpx.Client) -> None:
    thread_id = await waiting(client)
    await by_wait(client, http, thread_id, [])
    assert await log_of(client, thread_id) == ["in", "begin", "ask:7"]
    await client.runs.wait(thread_id, "asks", command={"update": []})


async def test_a_state_that_is_a_list_takes_any_list(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "root", input=[0])  # type: ignore[call-overload]
    command: Any = {"update": [["a", 1]], "goto": "keep"}
    await client.runs.wait(thread_id, "root", command=command)
    assert await values_of(client, thread_id) == [0, ["a", 1]]


# Every field of a question


async def of_wait(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    result: Any = await client.runs.wait(None, graph, input={"log": []})
    return result["__interrupt__"][0]


async def of_join(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    thread_id = await waiting(client, graph)
    (run,) = await client.runs.list(thread_id)
    return (await client.runs.join(thread_id, run["run_id"]))["__interrupt__"][0]


async def of_updates(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    parts = client.runs.stream(None, graph, input={"log": []}, stream_mode="updates")
    return [part.data async for part in parts][-1]["__interrupt__"][0]


async def of_state(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    return (await client.threads.get_state(await waiting(client, graph)))["interrupts"][0]


async def of_task(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    state: Any = await client.threads.get_state(await waiting(client, graph))
    return state["tasks"][0]["interrupts"][0]


async def of_history(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    history: Any = await client.threads.get_history(await waiting(client, graph))
    return history[0]["interrupts"][0]


async def of_thread(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    thread: Any = await client.threads.get(await waiting(client, graph))
    ((question,),) = thread["interrupts"].values()
    return question


async def of_search(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    (thread,) = await client.threads.search(ids=[await waiting(client, graph)])
    ((question,),) = thread["interrupts"].values()
    return question


async def of_copy(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    copy: Any = http.post(f"/threads/{await waiting(client, graph)}/copy").json()
    return (await client.threads.get_state(copy["thread_id"]))["interrupts"][0]


async def of_agent(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    message = {"role": "user", "messageId": "m", "parts": [{"kind": "data", "data": {"log": []}}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {"message": message}}
    task = http.post(f"/a2a/{devserver.system_assistant_id(graph)}", json=body).json()["result"]
    return task["artifacts"][0]["parts"][0]["data"]


def protocol_question(http: httpx.Client, thread_id: str) -> Any:
    body = {"channels": ["input"]}
    with http.stream("POST", f"/threads/{thread_id}/stream/events", json=body) as answer:
        line = next(line for line in answer.iter_lines() if line.startswith("data: "))
    data = json.loads(line.removeprefix("data: "))["params"]["data"]
    assert data["payload"] == data["value"]
    return {"id": data["interrupt_id"], **data}


async def of_protocol(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    thread_id, params = str(uuid.uuid4()), {"assistant_id": graph, "input": {"log": []}}
    http.post(f"/threads/{thread_id}/commands", json={"id": 1, "method": "run.start", "params": params})
    return protocol_question(http, thread_id)


async def of_protocol_of_an_ordinary_run(client: LangGraphClient, http: httpx.Client, graph: str) -> Any:
    thread_id = (await client.threads.create())["thread_id"]
    parts = client.runs.stream(thread_id, graph, input={"log": []}, stream_mode="values", stream_resumable=True)
    assert [part async for part in parts]
    return await asyncio.to_thread(protocol_question, http, thread_id)


Look = Callable[[LangGraphClient, httpx.Client, str], Coroutine[Any, Any, Any]]
LOOKS: list[Look] = [
    of_wait,
    of_join,
    of_updates,
    of_state,
    of_task,
    of_history,
    of_thread,
    of_search,
    of_copy,
    of_agent,
    of_protocol,
    of_protocol_of_an_ordinary_run,
]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.__name__)
async def test_a_question_is_shown_with_its_schema(client: LangGraphClient, http: httpx.Client, look: Look) -> None:
    question = await look(client, http, "asks")
    assert question["value"] == "age?"
    assert question["response_schema"]["properties"] == SCHEMA


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.__name__)
async def test_a_question_keeps_fields_of_a_later_langgraph(
    client: LangGraphClient, http: httpx.Client, look: Look
) -> None:
    question = await look(client, http, "ranked")
    assert (question["id"], question["value"], question["rank"]) == ("0" * 32, "rank?", 3)


# The end of a run


async def jumped(client: LangGraphClient, **more: Any) -> tuple[str, Any]:
    """A thread that waits for an answer, and the result of a jump beside that."""
    thread_id = await waiting(client)
    return thread_id, await client.runs.wait(thread_id, "asks", command={"goto": "other"}, **more)


async def test_a_jump_beside_a_question_ends_the_same_everywhere(client: LangGraphClient) -> None:
    thread_id, waited = await jumped(client)
    run = await client.runs.create(thread_id, "asks", command={"goto": "other"})
    joined: Any = await client.runs.join(thread_id, run["run_id"])
    thread: Any = await client.threads.get(thread_id)
    state: Any = await client.threads.get_state(thread_id)
    assert state["values"] == thread["values"] == {"log": ["in", "begin"]}
    questions = [{key: value for key, value in each.items() if value is not None} for each in waited["__interrupt__"]]
    assert {**waited, "__interrupt__": questions} == {"log": ["in", "begin"], "__interrupt__": state["interrupts"]}
    assert joined.get("log", ["in", "begin"]) == ["in", "begin"]
    await client.runs.wait(thread_id, "asks", command={"resume": ANSWER})
    assert sorted(await log_of(client, thread_id)) == ["ask:7", "begin", "in", "other"]


async def test_a_jump_without_a_thread_ends_like_one_with_a_thread(client: LangGraphClient, http: httpx.Client) -> None:
    body = {"assistant_id": "asks", "command": {"goto": ["ask", "other"], "update": {"log": ["in"]}}}
    shown = http.post("/runs/wait", json=body).json()
    thread_id = (await client.threads.create())["thread_id"]
    assert http.post(f"/threads/{thread_id}/runs/wait", json=body).json()["log"] == shown["log"]
    assert await log_of(client, thread_id) == shown["log"]


# Places of subgraphs


async def test_in_mode_debug_a_task_tells_the_place_of_its_subgraph(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    parts = client.runs.stream(
        thread_id, "parent", input={"log": []}, stream_mode=["debug", "checkpoints"], stream_subgraphs=True
    )
    told = [part.data["payload"] async for part in parts if part.event == "debug" and part.data["type"] == "checkpoint"]
    (task,) = told[-1]["tasks"]
    assert task["checkpoint"] == {"thread_id": thread_id, "checkpoint_ns": f"child:{task['id']}"}
    assert set(task) == {"id", "name", "interrupts", "checkpoint"}
    (first,) = told[0]["tasks"]
    assert set(first) == {"id", "name", "interrupts", "state"}
    assert first["state"] is None


async def test_a_subgraphs_state_tells_who_called_it(client: LangGraphClient) -> None:
    thread_id = await waiting(client, "parent")
    state: Any = await client.threads.get_state(thread_id, subgraphs=True)
    (task,) = state["tasks"]
    inner = task["state"]
    namespace = f"child:{task['id']}"
    wanted = {
        "langgraph_node": "child",
        "langgraph_step": 1,
        "langgraph_path": ["__pregel_pull", "child"],
        "langgraph_triggers": ["branch:to:child"],
        "checkpoint_ns": namespace,
    }
    assert {key: inner["metadata"][key] for key in wanted} == wanted
    assert inner["metadata"]["checkpoint_map"][""] == state["checkpoint"]["checkpoint_id"]
    assert not {*wanted, "checkpoint_map"} & set(state["metadata"])
    place: Any = {"thread_id": thread_id, "checkpoint_ns": namespace}
    same: Any = await client.threads.get_state(thread_id, checkpoint=place)
    history: Any = await client.threads.get_history(thread_id, checkpoint=place)
    assert same["metadata"] == history[0]["metadata"] == inner["metadata"]


def test_the_server_never_failed(server: LiveServer) -> None:
    assert "failed in devserver" not in server.log

"""A human in the loop: questions, answers, stops that a client asks for."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from conftest import LiveServer
from langgraph_sdk.client import LangGraphClient

SERVED = {name: f"./basic.py:{name}" for name in ("steps", "question", "questions", "nested")}


async def asked(client: LangGraphClient, graph_id: str, given: dict[str, Any]) -> tuple[str, Any]:
    """A thread whose graph has asked, and what its wait gave."""
    thread_id = (await client.threads.create())["thread_id"]
    return thread_id, await client.runs.wait(thread_id, graph_id, input=given)


async def answer(client: LangGraphClient, thread_id: str, graph_id: str, command: Any, **options: Any) -> Any:
    return await client.runs.wait(thread_id, graph_id, command=command, raise_error=False, **options)


async def thread(client: LangGraphClient, thread_id: str) -> Any:
    found: Any = await client.threads.get(thread_id)
    return found


# Questions


async def test_a_question_is_shown_everywhere_alike(client: LangGraphClient) -> None:
    thread_id, result = await asked(client, "question", {"topic": "tea"})
    value = {"question": "publish?", "draft": "about tea"}
    [question] = result.pop("__interrupt__")
    assert question.pop("response_schema", None) is None
    assert question["value"] == value
    assert uuid.UUID(question["id"]).hex == question["id"]
    assert result == {"topic": "tea", "draft": "about tea", "trail": ["draft"]}
    [run] = await client.runs.list(thread_id)
    assert run["status"] == "success"
    shown = await thread(client, thread_id)
    state: Any = await client.threads.get_state(thread_id)
    [task] = state["tasks"]
    assert (shown["status"], shown["values"], shown["error"]) == ("interrupted", result, None)
    assert shown["interrupts"] == {task["id"]: [question]}
    assert (task["name"], task["interrupts"], state["interrupts"]) == ("review", [question], [question])
    assert state["next"] == ["review"]
    joined: Any = await client.runs.join(thread_id, run["run_id"])
    assert joined == {"__interrupt__": [question]}


@pytest.mark.parametrize("value", ["yes", 0, False, "", [], [1, {"a": None}], {"deep": {"er": "ä"}}, 1.5, None])
async def test_an_answer_is_any_json(client: LangGraphClient, http: httpx.Client, value: Any) -> None:
    thread_id, _ = await asked(client, "question", {"topic": "tea"})
    body = {"assistant_id": "question", "command": {"resume": value}}
    done = http.post(f"/threads/{thread_id}/runs/wait", json=body).json()
    assert done["decision"] == value
    assert done["trail"] == ["draft", "review", "publish"]
    shown = await thread(client, thread_id)
    assert (shown["status"], shown["interrupts"]) == ("idle", {})


async def test_an_answer_may_come_with_an_empty_input(client: LangGraphClient) -> None:
    thread_id, _ = await asked(client, "question", {})
    done: Any = await client.runs.wait(thread_id, "question", input={}, command={"resume": "no"})
    assert done["trail"] == ["draft", "review", "shelve"]


async def test_an_answer_may_come_with_a_change_of_the_state(client: LangGraphClient) -> None:
    thread_id, _ = await asked(client, "question", {"topic": "tea"})
    done = await answer(client, thread_id, "question", {"resume": "no", "update": {"draft": "changed"}})
    assert (done["draft"], done["decision"], done["trail"]) == ("changed", "no", ["draft", "review", "shelve"])


async def test_an_answer_may_come_with_a_jump(client: LangGraphClient) -> None:
    thread_id, _ = await asked(client, "question", {"topic": "tea"})
    done = await answer(client, thread_id, "question", {"resume": "no", "goto": "publish"})
    assert sorted(done["trail"]) == ["draft", "publish", "review", "shelve"]


@pytest.mark.parametrize("command", [{"update": {"topic": "milk"}}, {"goto": "draft"}, {"resume": {}}])
async def test_without_an_answer_the_question_is_asked_again(client: LangGraphClient, command: Any) -> None:
    thread_id, _ = await asked(client, "question", {"topic": "tea"})
    again = await answer(client, thread_id, "question", command)
    assert again["__interrupt__"][0]["value"]["question"] == "publish?"
    assert (await thread(client, thread_id))["status"] == "interrupted"


async def test_without_input_the_question_is_asked_again(client: LangGraphClient) -> None:
    thread_id, first = await asked(client, "question", {"topic": "tea"})
    again: Any = await client.runs.wait(thread_id, "question", input=None)
    assert again == first


async def test_an_answer_to_a_finished_thread_changes_nothing(client: LangGraphClient) -> None:
    thread_id, _ = await asked(client, "question", {})
    done = await answer(client, thread_id, "question", {"resume": "no"})
    assert await answer(client, thread_id, "question", {"resume": "yes"}) == done
    assert (await thread(client, thread_id))["status"] == "idle"


async def test_a_question_outlives_other_runs_of_the_thread_that_do_not_touch_it(client: LangGraphClient) -> None:
    thread_id, _ = await asked(client, "question", {"topic": "tea"})
    before = await thread(client, thread_id)
    failed = await answer(client, thread_id, "question", {"goto": "nowhere"})
    assert failed["__interrupt__"] or failed["__error__"]
    assert (await client.threads.get_state(thread_id))["next"] == ["review"]
    assert (await thread(client, thread_id))["interrupts"] == before["interrupts"]


# Several questions at once


async def test_several_questions_are_answered_by_their_ids(client: LangGraphClient) -> None:
    thread_id, result = await asked(client, "questions", {})
    ids = {question["value"]: question["id"] for question in result["__interrupt__"]}
    assert set(ids) == {"left?", "right?"}
    assert len((await thread(client, thread_id))["interrupts"]) == 2
    done = await answer(client, thread_id, "questions", {"resume": {ids["left?"]: "L", ids["right?"]: "R"}})
    assert (done["left"], done["right"], done["trail"][-1]) == ("L", "R", "L and R")


async def test_a_question_that_is_left_open_is_asked_again(client: LangGraphClient) -> None:
    thread_id, result = await asked(client, "questions", {})
    ids = {question["value"]: question["id"] for question in result["__interrupt__"]}
    again = await answer(client, thread_id, "questions", {"resume": {ids["left?"]: "L"}})
    assert [question["value"] for question in again["__interrupt__"]] == ["right?"]
    assert "both" not in str((await client.threads.get_state(thread_id))["next"])
    [[open_question]] = (await thread(client, thread_id))["interrupts"].values()
    assert open_question["id"] == ids["right?"]
    done = await answer(client, thread_id, "questions", {"resume": "R"})
    assert (done["left"], done["right"], done["trail"][-1]) == ("L", "R", "L and R")


async def test_a_plain_answer_to_several_questions_fails_and_leaves_them_open(client: LangGraphClient) -> None:
    thread_id, result = await asked(client, "questions", {})
    failed = await answer(client, thread_id, "questions", {"resume": "both"})
    assert failed["__error__"]["error"] == "RuntimeError"
    assert failed["__error__"]["message"].startswith("When there are multiple pending interrupts")
    assert (await thread(client, thread_id))["status"] == "error"
    answers = {question["id"]: "X" for question in result["__interrupt__"]}
    done = await answer(client, thread_id, "questions", {"resume": answers})
    assert done["trail"][-1] == "X and X"
    assert (await thread(client, thread_id))["status"] == "idle"


# Below


async def test_a_question_in_a_nested_subgraph_is_answered_from_the_top(client: LangGraphClient) -> None:
    thread_id, result = await asked(client, "nested", {"text": "t", "ask": True})
    assert [question["value"] for question in result["__interrupt__"]] == ["go deeper?"]
    done = await answer(client, thread_id, "nested", {"resume": "sure"})
    assert done == {"text": "t+leaf sure", "ask": True, "trail": ["enter", "leave"]}
    assert (await thread(client, thread_id))["status"] == "idle"


async def test_an_answered_question_can_be_replayed_from_its_checkpoint(client: LangGraphClient) -> None:
    thread_id, _ = await asked(client, "question", {"topic": "tea"})
    asking: Any = await client.threads.get_state(thread_id)
    await answer(client, thread_id, "question", {"resume": "no"})
    place = asking["checkpoint"]["checkpoint_id"]
    old: Any = await client.threads.get_state(thread_id, checkpoint=asking["checkpoint"])
    assert old["next"] == ["review"]
    again: Any = await client.runs.wait(thread_id, "question", input=None, checkpoint_id=place)
    assert again["trail"][0] == "draft"


# Stops that a client asks for


@pytest.mark.parametrize(
    ("option", "stops"),
    [
        ({"interrupt_before": ["second"]}, [["first"]]),
        ({"interrupt_after": ["second"]}, [["first", "second"]]),
        ({"interrupt_before": "*"}, [[], ["first"], ["first", "second"]]),
        ({"interrupt_after": "*"}, [["first"], ["first", "second"], ["first", "second", "third"]]),
        ({"interrupt_before": ["first", "third"]}, [[], ["first", "second"]]),
        ({"interrupt_before": ["nobody"]}, []),
    ],
)
async def test_a_run_stops_before_or_after_the_nodes_named(
    client: LangGraphClient, option: Any, stops: list[list[str]]
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    given: Any = {"text": "a"}
    for trail in stops:
        values: Any = await client.runs.wait(thread_id, "steps", input=given, **option)
        assert values["trail"] == trail
        assert "__interrupt__" not in values
        shown = await thread(client, thread_id)
        over = len(trail) == 3
        assert (shown["status"], shown["interrupts"]) == ("idle" if over else "interrupted", {})
        given = None
    done: Any = await client.runs.wait(thread_id, "steps", input=given)
    assert done == {"text": "a!", "trail": ["first", "second", "third"], "total": 111}


async def test_a_stop_is_seen_in_updates(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    parts: Any = client.runs.stream(
        thread_id, "steps", input={"text": "a"}, stream_mode="updates", interrupt_before=["second"]
    )
    got = [part.data async for part in parts]
    assert got[1:] == [{"first": {"trail": ["first"], "total": 1}}, {"__interrupt__": []}]


def test_the_sync_client_answers_too(server: LiveServer) -> None:
    with server.sync_client() as client:
        thread_id = client.threads.create()["thread_id"]
        client.runs.wait(thread_id, "question", input={"topic": "tea"})
        parts = client.runs.stream(thread_id, "question", command={"resume": "no"}, stream_mode="updates")
        assert [list(part.data) for part in parts][1:] == [["review"], ["shelve"]]

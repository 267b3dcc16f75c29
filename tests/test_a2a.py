"""Assistants as agents, for the clients of the official A2A SDK, in both versions of the protocol."""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from a2a.client import Client, ClientConfig, create_client
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import ClientCallContext
from a2a.client.errors import AgentCardResolutionError
from a2a.types import (
    AgentCard,
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
)
from a2a.utils.errors import (
    ContentTypeNotSupportedError,
    InternalError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from conftest import GRAPHS, LiveServer, eventually
from google.protobuf.json_format import MessageToDict, ParseDict  # type: ignore[import-untyped]
from langgraph_sdk.client import LangGraphClient

import devserver

SERVED = {
    "talk": {"path": "./agents.py:talk", "description": "Talks"},
    **{name: f"./basic.py:{name}" for name in ("steps", "question", "questions", "failing", "gated")},
}
VERSIONS = ["1.0", "0.3"]
Connect = Callable[..., Awaitable[Client]]


def agent_url(server: LiveServer, graph_id: str) -> str:
    return f"{server.url}/a2a/{devserver.system_assistant_id(graph_id)}"


def listening(url: str) -> str:
    """The address that the server listens on, whatever it is called."""
    return url.replace("localhost", "127.0.0.1")


@asynccontextmanager
async def connect_to(
    server: LiveServer, graph_id: str = "talk", version: str = "1.0", assistant_id: str = "", **options: Any
) -> AsyncIterator[Client]:
    """A client of an agent, which sends without streaming, and waits, unless the options say so."""
    url = f"{server.url}/a2a/{assistant_id}" if assistant_id else agent_url(server, graph_id)
    async with httpx.AsyncClient(timeout=20) as http:
        card = await A2ACardResolver(http, url).get_agent_card()
        for interface in card.supported_interfaces:
            interface.protocol_version = version
        yield await create_client(card, ClientConfig(httpx_client=http, **{"streaming": False, **options}))


@pytest.fixture
async def connect(server: LiveServer) -> AsyncIterator[Connect]:
    """Makes clients of the module's server."""
    async with AsyncExitStack() as stack:

        async def connected(graph_id: str = "talk", version: str = "1.0", **options: Any) -> Client:
            return await stack.enter_async_context(connect_to(server, graph_id, version, **options))

        yield connected


def to_part(content: Any) -> Part:
    """A text, or any other JSON as a data part."""
    part = content if isinstance(content, Part) else Part()
    if not isinstance(content, Part):
        ParseDict({"text": content} if isinstance(content, str) else {"data": content}, part)
    return part


def message(*content: Any, **options: Any) -> Message:
    options = {"message_id": str(uuid.uuid4()), "role": Role.ROLE_USER, **options}
    return Message(parts=[to_part(each) for each in content], **options)


Events = list[dict[str, Any]]


async def send_all(
    client: Client, *content: Any, configuration: Any = None, context: Any = None, **options: Any
) -> Events:
    """Everything that comes back for a message."""
    request = SendMessageRequest(message=message(*content, **options), configuration=configuration)
    return [MessageToDict(event) async for event in client.send_message(request, context=context)]


async def send(client: Client, *content: Any, **options: Any) -> dict[str, Any]:
    """The task that comes back for a message to a client that does not stream."""
    [event] = await send_all(client, *content, **options)
    return dict(event["task"])


async def get(client: Client, task: dict[str, Any], **options: Any) -> dict[str, Any]:
    return dict(MessageToDict(await client.get_task(GetTaskRequest(id=task["id"], **options))))


async def listed(client: Client, **options: Any) -> dict[str, Any]:
    return dict(MessageToDict(await client.list_tasks(ListTasksRequest(**options))))


def follow_up(task: dict[str, Any]) -> dict[str, str]:
    return {"task_id": task["id"], "context_id": task["contextId"]}


def state(task: dict[str, Any]) -> str:
    return str(task["status"]["state"]).removeprefix("TASK_STATE_").lower()


def note(task: dict[str, Any]) -> str:
    return str(task["status"]["message"]["parts"][0]["text"])


def artifact(task: dict[str, Any]) -> Any:
    """The parts of the only artifact; the text, if they are one text."""
    [made] = task["artifacts"]
    parts = made["parts"]
    return parts[0]["text"] if len(parts) == 1 and "text" in parts[0] else parts


def history(task: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (each["role"].removeprefix("ROLE_").lower(), each["parts"][0].get("text")) for each in task.get("history", ())
    ]


def rpc(method: str, params: Any, **options: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params, **options}


async def opened(gate: Path) -> None:
    await asyncio.to_thread(gate.touch)


async def made_assistant(client: LangGraphClient, graph_id: str, **options: Any) -> str:
    return str((await client.assistants.create(graph_id, **options))["assistant_id"])


# Cards


async def test_a_card_tells_what_an_agent_can_do(server: LiveServer) -> None:
    async with httpx.AsyncClient() as http:
        card: AgentCard = await A2ACardResolver(http, agent_url(server, "talk")).get_agent_card()
    assert (card.name, card.description, card.version) == ("talk", "Talks", devserver.__version__)
    assert card.capabilities.streaming
    assert not card.capabilities.push_notifications
    [interface] = card.supported_interfaces
    assert (interface.url, interface.protocol_binding) == (listening(agent_url(server, "talk")), "JSONRPC")
    [skill] = card.skills
    assert list(skill.input_modes) == ["application/json", "text/plain"]


def test_a_card_is_found_at_every_address(server: LiveServer, http: httpx.Client) -> None:
    assistant_id = devserver.system_assistant_id("steps")
    paths = [f"/a2a/{assistant_id}", f"/a2a/{assistant_id.upper()}"]
    for name in ("agent-card.json", "agent.json"):
        paths += [f"/a2a/{assistant_id}/.well-known/{name}", f"/.well-known/{name}?assistant_id={assistant_id}"]
    [card] = {http.get(path, headers={"host": "localhost:1"}).text for path in paths}
    shown = json.loads(card)
    assert shown["url"] == listening(agent_url(server, "steps"))
    assert shown["skills"][0]["metadata"]["inputSchema"] == {
        "required": [],
        "properties": ["text", "trail", "total"],
        "supportsA2A": False,
    }


async def test_a_card_shows_the_modes_of_the_assistants_metadata(client: LangGraphClient, http: httpx.Client) -> None:
    modes = {"input_modes": ["text/plain"], "output_modes": ["image/png"]}
    made = await made_assistant(client, "talk", name="Painter", metadata={"a2a": modes})
    card = http.get(f"/a2a/{made}").json()
    assert (card["description"], card["defaultInputModes"]) == ("Painter assistant", ["text/plain"])
    assert card["skills"][0]["outputModes"] == ["image/png"]
    odd = await made_assistant(client, "talk", metadata={"a2a": "none"})
    assert http.get(f"/a2a/{odd}").json()["defaultInputModes"] == ["application/json", "text/plain"]


@pytest.mark.parametrize("assistant_id", ["talk", "01a20708-6052-7670-898c-203668c5e188", "%00"])
async def test_an_agent_that_is_not_there_has_no_card(
    server: LiveServer, http: httpx.Client, assistant_id: str
) -> None:
    for path in (
        f"/a2a/{assistant_id}",
        f"/.well-known/agent.json?assistant_id={assistant_id}",
        "/.well-known/agent.json",
    ):
        answer = http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
    with pytest.raises(AgentCardResolutionError):
        await create_client(f"{server.url}/a2a/{assistant_id}")
    body = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks"}
    assert http.post(f"/a2a/{assistant_id}", json=body).json()["error"]["code"] == -32602


async def test_the_extended_card_is_the_card(connect: Connect, http: httpx.Client) -> None:
    client = await connect()
    client._card.capabilities.extended_agent_card = True  # type: ignore[attr-defined]
    card = await client.get_extended_agent_card(GetExtendedAgentCardRequest())
    assert card.name == "talk"


# Sending


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_message_is_answered(connect: Connect, client: LangGraphClient, version: str) -> None:
    agent = await connect(version=version)
    task = await send(agent, "hello", message_id="m-1")
    assert (state(task), artifact(task)) == ("completed", "you said hello")
    assert history(task) == [("user", "hello"), ("agent", "you said hello")]
    thread_id, _, run_id = task["id"].partition(":")
    assert task["contextId"] == thread_id
    run: Any = await client.runs.get(thread_id, run_id)
    assert (run["status"], run["metadata"]["a2a"]) == ("success", {"task_start_id": run_id})
    thread: Any = await client.threads.get(thread_id)
    assert thread["values"]["messages"][0]["id"] == "m-1"
    again = await send(agent, "more", context_id=thread_id)
    assert again["id"] != task["id"]
    assert history(again)[2:] == [("user", "more"), ("agent", "you said more")]
    assert {each["taskId"] for each in again["history"]} == {task["id"], again["id"]}


async def test_a_context_of_the_clients_own_becomes_a_thread(connect: Connect, client: LangGraphClient) -> None:
    own = str(uuid.uuid4())
    task = await send(await connect(), "hello", context_id=own.upper())
    assert task["contextId"] == own
    assert (await client.threads.get(own))["metadata"]["graph_id"] == "talk"  # type: ignore[index]


async def test_all_texts_of_a_message_count(connect: Connect) -> None:
    task = await send(await connect(), "one", "two", "three")
    assert artifact(task) == "you said one\ntwo\nthree"


async def test_data_is_input_beside_the_text(connect: Connect, client: LangGraphClient) -> None:
    before = {"messages": {"role": "user", "content": "before"}}
    task = await send(await connect(), {"locale": "nb"}, "hello", {"locale": "nn"}, before)
    thread: Any = await client.threads.get(task["contextId"])
    assert thread["values"]["locale"] == "nn"
    assert history(task) == [("user", "before"), ("user", "hello"), ("agent", "you said hello")]


@pytest.mark.parametrize("version", VERSIONS)
async def test_data_is_all_that_some_graphs_take(connect: Connect, version: str) -> None:
    agent = await connect("steps", version)
    task = await send(agent, {"text": "x", "trail": ["zeroth"]})
    assert artifact(task) == repr({"text": "x!", "trail": ["zeroth", "first", "second", "third"], "total": 111})
    assert not task.get("history")
    with pytest.raises(InvalidParamsError, match=r"must include a 'messages' field .* \['text', 'trail', 'total'\]"):
        await send(agent, "text")


@pytest.mark.parametrize("version", VERSIONS)
async def test_files_reach_the_graph_and_the_client(connect: Connect, client: LangGraphClient, version: str) -> None:
    agent = await connect(version=version)
    files = [
        Part(raw=b"sound", media_type="audio/wav", filename="a.wav"),
        Part(url="http://localhost/a.pdf", media_type="application/pdf"),
    ]
    task = await send(agent, "look", *files)
    thread: Any = await client.threads.get(task["contextId"])
    assert thread["values"]["messages"][0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "audio", "base64": "c291bmQ=", "mime_type": "audio/wav", "extras": {"filename": "a.wav"}},
        {"type": "file", "url": "http://localhost/a.pdf", "mime_type": "application/pdf"},
    ]
    assert task["history"][0]["parts"] == [MessageToDict(to_part("look")), *map(MessageToDict, files)]
    drawn = await send(agent, "draw")
    assert artifact(drawn) == [
        {"text": "here it is"},
        {"raw": "cGl4ZWw=", "mediaType": "image/png", "filename": "a.png"},
    ]


async def test_results_of_tools_are_data(connect: Connect) -> None:
    task = await send(await connect(), "use a tool")
    assert artifact(task) == "it is noon"
    result = {"content": "noon", "name": "clock", "status": "success", "toolCallId": "call-1"}
    assert [each["parts"][0] for each in task["history"]] == [
        {"text": "use a tool"},
        {"data": {"tool_results": [result]}},
        {"text": "it is noon"},
    ]


async def test_a_message_in_the_agents_name_stays_one(connect: Connect) -> None:
    task = await send(await connect(), "hello", role=Role.ROLE_AGENT)
    assert history(task) == [("agent", "hello"), ("agent", "you said hello")]


async def test_a_task_without_an_answer_shows_its_values(connect: Connect) -> None:
    task = await send(await connect(), "say nothing")
    assert "'content': 'say nothing'" in artifact(task)


async def test_history_is_as_long_as_asked_for(connect: Connect) -> None:
    agent = await connect()
    first = await send(agent, "one", configuration=SendMessageConfiguration(history_length=1))
    assert history(first) == [("agent", "you said one")]
    none = await send(agent, "two", configuration=SendMessageConfiguration(history_length=0))
    assert "history" not in none
    assert history(await get(agent, none, history_length=1)) == [("agent", "you said two")]
    assert "history" not in await get(agent, none, history_length=0)


async def test_history_may_be_of_the_task_alone(connect: Connect) -> None:
    agent = await connect()
    first = await send(agent, "one")
    only = ClientCallContext(service_parameters={devserver.A2A_SCOPE_HEADER: "task"})
    second = await send(agent, "two", context_id=first["contextId"], context=only)
    assert history(second) == [("user", "two"), ("agent", "you said two")]
    assert len(history(await get(agent, second))) == 4
    odd = ClientCallContext(service_parameters={devserver.A2A_SCOPE_HEADER: "all"})
    with pytest.raises(InvalidParamsError, match="must be one of"):
        await send(agent, "three", context=odd)


# Failing


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_failure_says_what_has_failed(connect: Connect, version: str) -> None:
    agent = await connect(version=version)
    task = await send(agent, "fail")
    text = "Error executing assistant: RefusedError: not today"
    assert (state(task), note(task), history(task)) == ("failed", text, [("user", "fail")])
    assert "artifacts" not in task
    assert note(await get(agent, task)) == text
    after = await send(agent, "hello", context_id=task["contextId"])
    assert state(after) == "completed"
    assert note(await get(agent, task)) == "Error executing assistant"  # the thread tells of its latest run only
    with pytest.raises(UnsupportedOperationError, match="A terminal task"):
        await send(agent, "again", **follow_up(task))


async def test_what_cannot_be_started_is_refused(connect: Connect, client: LangGraphClient) -> None:
    with pytest.raises(InvalidParamsError, match="Failed to create run: Invalid thread ID"):
        await send(await connect(), "hello", context_id="not-a-uuid")
    push = SendMessageConfiguration(task_push_notification_config={"url": "http://localhost/hook"})
    with pytest.raises(PushNotificationNotSupportedError):
        await send(await connect(), "x", configuration=push)
    with pytest.raises(PushNotificationNotSupportedError):
        await (await connect()).create_task_push_notification_config(TaskPushNotificationConfig(task_id="x"))
    with pytest.raises(ContentTypeNotSupportedError):
        await send(await connect(), Part())


# Questions


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_question_is_answered_by_text(connect: Connect, version: str) -> None:
    agent = await connect(version=version)
    asked = await send(agent, "ask me")
    [question] = asked["artifacts"]
    assert (state(asked), question["name"]) == ("input_required", "Interrupt")
    [part] = question["parts"]
    assert part["data"]["value"] == {"question": "really?"}
    waiting = await get(agent, asked)
    assert (state(waiting), waiting["artifacts"]) == ("input_required", [question])
    done = await send(agent, "yes", **follow_up(asked))
    assert (done["id"], state(done), artifact(done)) == (asked["id"], "completed", "you answered yes")
    assert history(done) == [("user", "ask me"), ("agent", "you answered yes")]
    assert {each["taskId"] for each in done["history"]} == {asked["id"]}
    assert artifact(await get(agent, asked)) == "you answered yes"


@pytest.mark.parametrize(
    ("parts", "decision", "topic"),
    [
        ([{"resume": "yes"}], "yes", "tea"),
        ([{"resume": None}], None, "tea"),
        ([{"resume": {"ok": True}, "topic": "coffee"}], {"ok": True}, "coffee"),
        ([{"ok": True}], {"ok": True}, "tea"),
    ],
)
async def test_a_question_is_answered_by_data(
    connect: Connect, client: LangGraphClient, parts: Any, decision: Any, topic: str
) -> None:
    agent = await connect("question")
    asked = await send(agent, {"topic": "tea"})
    done = await send(agent, *parts, **follow_up(asked))
    assert state(done) == "completed"
    thread: Any = await client.threads.get(done["contextId"])
    assert (thread["values"]["decision"], thread["values"]["topic"]) == (decision, topic)


async def test_a_text_beside_an_answer_joins_the_conversation(connect: Connect) -> None:
    agent = await connect()
    asked = await send(agent, "ask me")
    done = await send(agent, {"resume": "no"}, "as I said", **follow_up(asked))
    assert ("user", "as I said") in history(done)
    assert {each["taskId"] for each in done["history"]} == {asked["id"]}


async def test_several_questions_are_answered_by_their_ids(connect: Connect) -> None:
    agent = await connect("questions")
    asked = await send(agent, {})
    ids = [part["data"]["id"] for part in asked["artifacts"][0]["parts"]]
    assert len(ids) == 2
    wrong: list[Any] = [{"resume": "both"}, {"resume": {}}, {"resume": {"other": 1}}]
    for answer in wrong:
        with pytest.raises(InvalidParamsError, match="Several inputs are required"):
            await send(agent, answer, **follow_up(asked))
    half = await send(agent, {"resume": {ids[0]: "a"}}, **follow_up(asked))
    assert state(half) == "input_required"
    done = await send(agent, {"resume": "b"}, **follow_up(asked))
    assert state(done) == "completed"


async def test_other_input_ends_the_task_that_waits(connect: Connect, client: LangGraphClient) -> None:
    agent = await connect()
    first = await send(agent, "ask me")
    second = await send(agent, "never mind", context_id=first["contextId"])
    assert artifact(second) == "you said never mind"
    assert state(await get(agent, first)) == "canceled"
    third = await send(agent, "ask me", context_id=first["contextId"])
    hello: Any = {"messages": [{"role": "user", "content": "hello"}]}
    await client.runs.wait(first["contextId"], "talk", input=hello)
    assert state(await get(agent, third)) == "canceled"
    last = await get(agent, third)
    assert last["history"][-2:] == [
        {**each, "contextId": first["contextId"]} for each in last["history"][-2:] if "taskId" not in each
    ]


async def test_whoever_answers_goes_on_with_the_task(connect: Connect, client: LangGraphClient) -> None:
    agent = await connect()
    asked = await send(agent, "ask me")
    await client.runs.wait(asked["contextId"], "talk", command={"resume": "from elsewhere"})
    done = await get(agent, asked)
    assert (state(done), artifact(done)) == ("completed", "you answered from elsewhere")


# Asking for tasks


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_task_may_be_asked_for_later(connect: Connect, tmp_path: Path, version: str) -> None:
    agent = await connect(version=version, polling=True)
    gate = tmp_path / "gate"
    task = await send(agent, "hello", {"gate": str(gate)})
    assert (state(task), history(task)) == ("submitted", [("user", "hello")])
    await eventually(lambda: _is(agent, task, "working"))
    await opened(gate)
    await eventually(lambda: _is(agent, task, "completed"))
    done = await get(agent, task)
    assert (note(done), artifact(done)) == ("Task completed successfully", "you said hello")


async def _is(agent: Client, task: dict[str, Any], wanted: str) -> bool:
    return state(await get(agent, task)) == wanted


async def test_an_older_task_keeps_its_answer(connect: Connect) -> None:
    agent, counter = await connect(), await connect("steps")
    first = await send(agent, "one")
    await send(agent, "two", context_id=first["contextId"])
    assert artifact(await get(agent, first)) == "you said one"
    counted = await send(counter, {"text": "a"})
    await send(counter, {"text": "b"}, context_id=counted["contextId"])
    assert "artifacts" not in await get(counter, counted)  # the thread has the values of the later one


async def test_a_message_may_follow_while_a_task_goes_on(
    connect: Connect, client: LangGraphClient, tmp_path: Path
) -> None:
    agent, impatient = await connect(), await connect(polling=True)
    gate = tmp_path / "gate"
    task = await send(impatient, "one", {"gate": str(gate)})
    sending = asyncio.ensure_future(send(agent, "two", **follow_up(task)))
    await eventually(lambda: _has_runs(client, task, 2))
    assert state(await get(agent, task)) == "submitted"
    await opened(gate)
    done = await sending
    assert (done["id"], artifact(done)) == (task["id"], "you said two")
    assert {each["taskId"] for each in done["history"]} == {task["id"]}


async def _has_runs(client: LangGraphClient, task: dict[str, Any], number: int) -> bool:
    return len(await client.runs.list(task["contextId"])) == number


async def test_a_task_is_of_one_agent_and_one_context(connect: Connect) -> None:
    agent, other = await connect(), await connect("steps")
    task = await send(agent, "hello")
    thread_id, _, run_id = task["id"].partition(":")
    wrong = [(other, task["id"]), (agent, run_id), (agent, f"{uuid.uuid4()}:{run_id}"), (agent, f"{thread_id}:x")]
    for client, name in wrong:
        with pytest.raises(TaskNotFoundError, match=f"Task not found: {name}"):
            await client.get_task(GetTaskRequest(id=name))
    for context in (str(uuid.uuid4()), "x"):
        with pytest.raises(TaskNotFoundError):
            await send(agent, "more", task_id=task["id"], context_id=context)


async def test_the_run_of_somebody_else_is_no_task(connect: Connect, client: LangGraphClient) -> None:
    agent = await connect("steps")
    task = await send(agent, {"text": "a"})
    run: Any = await client.runs.create(task["contextId"], "steps", input={"text": "b"})
    await client.runs.join(task["contextId"], run["run_id"])
    assert run["metadata"]["a2a"] == {"task_start_id": task["id"].partition(":")[2]}  # as all metadata of the thread
    with pytest.raises(TaskNotFoundError):
        await get(agent, {"id": f"{task['contextId']}:{run['run_id']}"})
    assert (await listed(agent, context_id=task["contextId"]))["totalSize"] == 1


# Lists


async def test_tasks_are_listed_those_changed_last_first(connect: Connect, client: LangGraphClient) -> None:
    made = await made_assistant(client, "talk")
    agent = await connect(assistant_id=made)
    tasks = [await send(agent, text) for text in ("one", "fail", "ask me")]
    tasks.append(await send(agent, "two", context_id=tasks[0]["contextId"]))
    found = await listed(agent)
    assert [each["id"] for each in found["tasks"]] == [each["id"] for each in reversed(tasks)]
    assert (found["totalSize"], found["pageSize"]) == (4, 4)
    assert all("artifacts" not in each for each in found["tasks"])
    assert [state(each) for each in found["tasks"]] == ["completed", "input_required", "failed", "completed"]
    whole = await listed(agent, include_artifacts=True, history_length=0)
    assert [len(each.get("artifacts", ())) for each in whole["tasks"]] == [1, 1, 0, 1]
    assert all("history" not in each for each in whole["tasks"])


async def test_lists_have_pages_and_filters(connect: Connect, client: LangGraphClient) -> None:
    made = await made_assistant(client, "talk")
    agent = await connect(assistant_id=made)
    tasks = [await send(agent, text) for text in ("one", "fail", "two")]
    first = await listed(agent, page_size=2)
    second = await listed(agent, page_size=2, page_token=first["nextPageToken"])
    assert [each["id"] for each in (*first["tasks"], *second["tasks"])] == [each["id"] for each in reversed(tasks)]
    assert "nextPageToken" not in second

    async def ids(**options: Any) -> list[str]:
        return [each["id"] for each in (await listed(agent, **options)).get("tasks", ())]

    assert await ids(status="TASK_STATE_FAILED") == [tasks[1]["id"]]
    assert await ids(status="TASK_STATE_WORKING") == []
    assert await ids(context_id=tasks[0]["contextId"]) == [tasks[0]["id"]]
    assert await ids(context_id=str(uuid.uuid4())) == []
    since = datetime.datetime.fromisoformat(tasks[2]["status"]["timestamp"])
    assert await ids(status_timestamp_after=since) == [tasks[2]["id"]]


# Cancelling


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_task_that_goes_on_is_canceled(
    connect: Connect, client: LangGraphClient, tmp_path: Path, version: str
) -> None:
    agent = await connect("gated", version, polling=True)
    task = await send(agent, {"gate": str(tmp_path / "never")})
    await eventually(lambda: _is(agent, task, "working"))
    follows = await send(agent, {"gate": ""}, **follow_up(task))
    assert follows["id"] == task["id"]
    canceled = MessageToDict(await agent.cancel_task(CancelTaskRequest(id=task["id"])))
    assert (canceled["id"], state(canceled), note(canceled)) == (task["id"], "canceled", "Task was canceled")
    assert {run["status"] for run in await client.runs.list(task["contextId"])} == {"interrupted"}
    with pytest.raises(TaskNotCancelableError):
        await agent.cancel_task(CancelTaskRequest(id=task["id"]))
    with pytest.raises(TaskNotFoundError):
        await agent.cancel_task(CancelTaskRequest(id=f"{task['contextId']}:{uuid.uuid4()}"))


async def test_a_task_that_waits_for_an_answer_is_canceled_with_its_question(
    connect: Connect, client: LangGraphClient
) -> None:
    agent = await connect()
    asked = await send(agent, "ask me")
    canceled = MessageToDict(await agent.cancel_task(CancelTaskRequest(id=asked["id"])))
    for shown in (canceled, await get(agent, asked)):
        assert (state(shown), note(shown)) == ("canceled", "Task was canceled")
        assert "artifacts" not in shown
    thread = await client.threads.get(asked["contextId"])
    now = await client.threads.get_state(asked["contextId"])
    assert (thread["status"], thread["interrupts"], now["next"], now["interrupts"]) == ("idle", {}, [], [])
    messages = cast(dict[str, Any], now["values"])["messages"]
    assert [each["content"] for each in messages] == ["ask me"]
    with pytest.raises(UnsupportedOperationError):
        await send(agent, "yes", **follow_up(asked))
    after = await send(agent, "hello", context_id=asked["contextId"])
    assert artifact(after) == "you said hello"


# Streams


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stream_shows_the_answer_as_it_grows(connect: Connect, version: str) -> None:
    agent = await connect(version=version, streaming=True)
    first, *updates, answer, last = await send_all(agent, "one two")
    task = first["task"]
    assert (state(task), history(task)) == ("submitted", [("user", "one two")])
    growing = [each["statusUpdate"] for each in updates]
    assert {state(each) for each in growing} == {"working"}
    assert [note(each) for each in growing] == ["you", "you said", "you said one", "you said one two"]
    assert artifact({"artifacts": [answer["artifactUpdate"]["artifact"]]}) == "you said one two"
    assert answer["artifactUpdate"]["lastChunk"] is True
    assert state(last["statusUpdate"]) == "completed"
    assert {each["taskId"] for each in (*growing, answer["artifactUpdate"], last["statusUpdate"])} == {task["id"]}
    assert artifact(await get(agent, task)) == "you said one two"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stream_ends_with_the_question_or_the_failure(connect: Connect, version: str) -> None:
    agent = await connect(version=version, streaming=True)
    task, asked, last = await send_all(agent, "ask me")
    [part] = asked["artifactUpdate"]["artifact"]["parts"]
    assert part["data"]["value"] == {"question": "really?"}
    assert state(last["statusUpdate"]) == "input_required"
    resumed, said, _, last = await send_all(agent, {"resume": "yes"}, **follow_up(task["task"]))
    assert resumed["task"]["id"] == task["task"]["id"]
    assert note(said["statusUpdate"]) == "you answered yes"
    assert state(last["statusUpdate"]) == "completed"
    *_, last = await send_all(agent, "fail")
    assert note(last["statusUpdate"]) == "Error executing assistant: RefusedError: not today"
    with pytest.raises(InvalidParamsError):
        await send_all(agent, "hello", context_id="not-a-uuid")


async def test_a_client_that_leaves_its_stream_may_come_back(
    server: LiveServer, connect: Connect, tmp_path: Path
) -> None:
    agent, gate = await connect(streaming=True), tmp_path / "gate"
    call = rpc("message/stream", {"message": MessageToDict(message("hello", {"gate": str(gate)}))})
    async with (
        httpx.AsyncClient(timeout=20) as http,
        http.stream("POST", agent_url(server, "talk"), json=call) as stream,
    ):
        lines = stream.aiter_lines()
        task = json.loads([await anext(lines), await anext(lines)][1].removeprefix("data: "))["result"]
    await eventually(lambda: _is(agent, task, "working"))
    again = agent.subscribe(SubscribeToTaskRequest(id=task["id"]))
    assert MessageToDict(await anext(again))["task"]["id"] == task["id"]
    await opened(gate)
    *_, answer, last = [MessageToDict(event) async for event in again]
    assert artifact({"artifacts": [answer["artifactUpdate"]["artifact"]]}) == "you said hello"
    assert state(last["statusUpdate"]) == "completed"
    with pytest.raises(UnsupportedOperationError, match="the task is completed"):
        await anext(agent.subscribe(SubscribeToTaskRequest(id=task["id"])))


async def test_a_stream_ends_when_its_task_is_canceled(connect: Connect, tmp_path: Path) -> None:
    agent = await connect("gated", streaming=True)
    stream = agent.send_message(SendMessageRequest(message=message({"gate": str(tmp_path / "never")})))
    task = MessageToDict(await anext(stream))["task"]
    await agent.cancel_task(CancelTaskRequest(id=task["id"]))
    [last] = [MessageToDict(event) async for event in stream]
    assert (state(last["statusUpdate"]), note(last["statusUpdate"])) == ("canceled", "Task was canceled")


async def test_a_stream_ends_when_its_thread_is_deleted(
    connect: Connect, client: LangGraphClient, tmp_path: Path
) -> None:
    agent = await connect("gated", streaming=True)
    stream = agent.send_message(SendMessageRequest(message=message({"gate": str(tmp_path / "never")})))
    task = MessageToDict(await anext(stream))["task"]
    await client.threads.delete(task["contextId"])
    with pytest.raises(TaskNotFoundError):
        await anext(stream)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("message/stream", {"message": {"messageId": "m", "role": "user", "parts": []}}, -32602),
        ("message/stream", [1], -32602),
        ("SendStreamingMessage", {"message": {"messageId": "m", "role": "user", "parts": [{}]}}, -32005),
        ("message/stream", {"message": 5}, -32602),
        ("tasks/resubscribe", {"id": "x"}, -32001),
        ("SubscribeToTask", {}, -32602),
    ],
)
@pytest.mark.parametrize("agent", ["talk", "nobody"])
def test_an_error_of_a_stream_is_an_event(
    server: LiveServer, http: httpx.Client, method: str, params: Any, code: int, agent: str
) -> None:
    answer = http.post(agent_url(server, agent), json=rpc(method, params))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    event, data = answer.text.strip().splitlines()
    assert event == "event: message"
    body = json.loads(data.removeprefix("data: "))
    assert (body["jsonrpc"], body["id"]) == ("2.0", 1)
    known = agent == "talk" or isinstance(params, list)  # they are looked at first
    assert body["error"]["code"] == (code if known else -32602)


def test_a_slash_at_the_end_is_no_other_agent(http: httpx.Client) -> None:
    assert http.get(f"{TALK}/").json() == http.get(TALK).json()
    answer = http.post(f"{TALK}/", json=rpc("message/send", {"message": TEXT}))
    assert artifact(answer.json()["result"]) == "you said hi"


# Calls that no SDK makes


TEXT = {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]}
TALK = f"/a2a/{devserver.system_assistant_id('talk')}"


@pytest.mark.parametrize(
    ("body", "rpc_id", "code"),
    [
        (b"{", None, -32700),
        (b"[]", None, -32600),
        (b'{"id": 1, "method": "ListTasks"}', 1, -32600),
        (b'{"jsonrpc": "2.0", "method": "ListTasks"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ListTasks"}', None, -32600),
        (b'{"jsonrpc": "2.0", "id": "x"}', "x", -32600),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "tasks/destroy"}', "x", -32601),
        (b'{"jsonrpc": "2.0", "id": 0, "method": "ListTasks", "params": [1]}', 0, -32602),
    ],
)
def test_a_call_that_is_none_is_refused(http: httpx.Client, body: bytes, rpc_id: Any, code: int) -> None:
    answer = http.post(TALK, content=body)
    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["error"]["code"]) == (rpc_id, code)


@pytest.mark.parametrize(
    ("method", "params", "code", "text"),
    [
        ("message/send", {"message": {**TEXT, "parts": "x"}}, -32602, "'parts' must be an array"),
        ("message/send", {"message": {**TEXT, "parts": []}}, -32602, "at least one part"),
        ("message/send", {"message": {**TEXT, "parts": [7]}}, -32005, "Unsupported part"),
        ("message/send", {"message": {**TEXT, "parts": [{"data": [1]}]}}, -32602, "Invalid message: parts.0"),
        ("message/send", {"message": {**TEXT, "role": "robot"}}, -32602, "Invalid message: role"),
        ("message/send", {"message": {**TEXT, "taskId": 5}}, -32602, "taskId must be a string"),
        ("message/send", {"message": {**TEXT, "taskId": "x"}}, -32001, "Task not found: x"),
        ("message/send", {"message": TEXT, "configuration": 5}, -32602, "configuration must be an object"),
        ("tasks/get", {}, -32602, "Missing required parameter: id"),
        ("tasks/get", {"id": 5}, -32602, "id must be a string"),
        ("tasks/get", {"id": "\x00:ä"}, -32001, "Task not found"),
        ("tasks/get", {"id": "x", "historyLength": True}, -32602, "historyLength"),
        ("ListTasks", {"pageSize": 101}, -32602, "between 1 and 100"),
        ("ListTasks", {"pageToken": "x"}, -32602, "Invalid page token"),
        ("ListTasks", {"status": "dancing"}, -32602, "Invalid status value: 'dancing'"),
        ("ListTasks", {"statusTimestampAfter": "noon"}, -32602, "statusTimestampAfter: 'noon' is not"),
        ("tasks/pushNotificationConfig/set", {}, -32003, "Push notifications"),
    ],
)
def test_what_is_wrong_with_a_call_is_named(http: httpx.Client, method: str, params: Any, code: int, text: str) -> None:
    error = http.post(TALK, json=rpc(method, params)).json()["error"]
    assert error["code"] == code
    assert text in error["message"]


def test_numbers_stay_what_they_are(http: httpx.Client) -> None:
    data = {"total": 2**60, "text": "x"}
    part = {"kind": "data", "data": data}
    body = rpc("message/send", {"message": {**TEXT, "parts": [part]}})
    task = http.post(f"/a2a/{devserver.system_assistant_id('steps')}", json=body).json()["result"]
    assert f"'total': {2**60 + 111}" in task["artifacts"][0]["parts"][0]["text"]


@pytest.mark.parametrize("accept", ["application/json", "application/*, text/html", "*/*", "", "text/event-stream"])
@pytest.mark.parametrize("method", ["message/send", "message/stream"])
def test_an_answer_is_of_a_kind_that_the_client_takes(http: httpx.Client, method: str, accept: str) -> None:
    answer = http.post(TALK, json=rpc(method, {"message": TEXT}), headers={"accept": accept})
    kind = "text/event-stream" if method == "message/stream" else "application/json"
    if accept in ("*/*", "", kind) or (accept.startswith("application/*") and kind == "application/json"):
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    else:
        assert (answer.status_code, answer.json()) == (400, {"error": f"Accept header must include {kind}"})


def test_what_is_no_call_is_not_answered(http: httpx.Client) -> None:
    assert http.post(TALK, json={"jsonrpc": "2.0", "id": 1, "result": {}}).status_code == 202
    assert http.delete(TALK).status_code == 405


def test_messages_of_any_shape_do_no_harm(http: httpx.Client) -> None:
    """Marks of a client's own are no tasks; what can't be shown as a message of the protocol is left out."""
    odd = [
        {"role": "user", "content": "a", "additional_kwargs": {"a2a": "mine"}},
        {"role": "assistant", "content": [{"type": "image", "id": "x"}]},
        {"role": "assistant", "content": [{"type": "image", "url": ["x"]}, {"type": "text", "text": 5}]},
        {"role": "assistant", "content": [{"type": "image", "url": "x", "extras": "none"}]},
        {"role": "user", "content": "b"},
    ]
    data = {"kind": "data", "data": {"messages": odd}}
    task = http.post(TALK, json=rpc("message/send", {"message": {**TEXT, "parts": [data]}})).json()["result"]
    assert [(each.get("taskId"), each["parts"][0]["text"]) for each in task["history"]] == [
        (None, "a"), (None, "b"), (None, "you said b"),
    ]  # fmt: skip


# Servers


def test_no_package_of_the_protocol_is_needed(make_server: Callable[..., LiveServer]) -> None:
    """The project hides it, as if it was not installed."""
    hides = "\nimport sys\nsys.modules['a2a'] = None\n"
    server = make_server(
        {"talk": "./agents.py:talk"}, {**SOURCES, "agents.py": SOURCES["agents.py"] + hides}, "--no-reload"
    )
    with server.http() as http:
        assert http.get(TALK).json()["name"] == "talk"
        said = http.post(TALK, json=rpc("message/send", {"message": TEXT})).json()["result"]
    assert artifact(said) == "you said hi"
    assert server.stop() == 0


SOURCES = {name: (GRAPHS / name).read_text() for name in ("agents.py", "basic.py")}


async def test_a_stop_ends_what_is_waited_for_and_the_tasks_go_on_later(
    make_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    server = make_server({"gated": "./basic.py:gated"}, SOURCES, "--no-reload")
    async with connect_to(server, "gated", streaming=True) as streaming, connect_to(server, "gated") as sending:
        stream = streaming.send_message(SendMessageRequest(message=message({"gate": str(gate)})))
        task = MessageToDict(await anext(stream))["task"]
        answer = asyncio.ensure_future(send(sending, {"gate": str(gate)}))
        await eventually(lambda: _all_work(sending, 2))
        assert await asyncio.to_thread(server.stop) == 0, server.log
        with pytest.raises(InternalError, match="goes on when the server starts again"):
            await anext(stream)
        with pytest.raises(InternalError, match="goes on when the server starts again"):
            await answer
    await opened(gate)
    await asyncio.to_thread(server.start)
    async with connect_to(server, "gated") as again:
        await eventually(lambda: _is(again, task, "completed"))
    assert await asyncio.to_thread(server.stop) == 0


async def _all_work(agent: Client, number: int) -> bool:
    return [state(each) for each in (await listed(agent)).get("tasks", ())] == ["working"] * number


async def test_an_agent_whose_graph_is_gone_says_so(make_server: Callable[..., LiveServer]) -> None:
    server = make_server({"talk": "./agents.py:talk", "steps": "./basic.py:steps"}, SOURCES, "--no-reload")
    async with server.client() as client:
        made = await made_assistant(client, "steps")
    assert server.stop() == 0
    (server.folder / "langgraph.json").write_text(json.dumps({"graphs": {"talk": "./agents.py:talk"}}))
    server.start()
    with server.http() as http:
        assert "Graph 'steps' not found" in http.get(f"/a2a/{made}").json()["error"]["message"]
        error = http.post(f"/a2a/{made}", json=rpc("message/send", {"message": TEXT})).json()["error"]
        assert (error["code"], "Graph 'steps' not found" in error["message"]) == (-32602, True)
    assert server.stop() == 0

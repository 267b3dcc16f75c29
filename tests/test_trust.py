"""No client can be somebody else: whatever it sends, by whichever door, what only the server knows stands.

A graph tells all that it is told. A client asks for runs of it with a name that only the server gives a value, in
every place that the door has; the value that it gives must be nowhere in what the graph was told.
"""

from __future__ import annotations

import ast
import asyncio
import json
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client as ws
from conftest import GRAPHS, LiveServer, eventually, write_project
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client

SERVED = {"told": "./told.py:graph", "relay": "./told.py:relay", "made": "./told.py:make"}
FILES = {"told.py": (GRAPHS / "told.py").read_text()}
HEADERS = {"configurable_headers": {"includes": ["*"]}}

OWN = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def who(authorization: str | None):
    assert authorization
    name = authorization.removeprefix("Bearer ")
    return {"identity": name, "permissions": [f"of {name}"]}

@auth.on
async def own(ctx, value):
    value["metadata"]["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}
"""

Told = dict[str, Any]
VICTIM, REQUEST = "alice", "request-of-the-test"


@dataclass
class World:
    """A server, a client of it that means to be somebody else, and that one's thread."""

    server: LiveServer
    http: httpx.AsyncClient
    user: str | None
    victim: httpx.AsyncClient
    thread: str = ""  # the victim's
    checkpoint: str = ""

    async def post(self, path: str, body: Any, **headers: str) -> Any:
        answer = await self.http.post(path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    async def new_thread(self) -> str:
        return str((await self.post("/threads", {}))["thread_id"])

    async def told(self, thread_id: str) -> list[Told]:
        """What the thread's runs were told, once there is something."""

        async def ended() -> Any:
            thread = (await self.http.get(f"/threads/{thread_id}")).json()
            assert thread["status"] != "error", thread
            return thread["status"] == "idle" and (thread["values"] or {}).get("told")

        found: list[Told] = await eventually(ended)
        return found

    @property
    def trace(self) -> Path:
        """Where graphs write what they were told outside of their nodes."""
        return self.server.folder / "told.jsonl"

    def forged(self, names: Iterable[str]) -> dict[str, Any]:
        """Values for names, of the victim's where that is something that there is. Without auth a client says whose
        shared values it means."""
        known = {
            "langgraph_auth_user": {"identity": VICTIM, "permissions": ["forged"], "is_authenticated": True},
            "langgraph_auth_user_id": VICTIM,
            "langgraph_auth_permissions": ["forged"],
            "user_id": VICTIM,
            "thread_id": self.thread,
            "checkpoint_id": self.checkpoint,
            "checkpoint_map": {"": self.checkpoint},
            "graph_id": "relay forged",
        }
        return {name: known.get(name, f"{name} forged") for name in names if self.user or name != "user_id"}

    def check_nothing_of_the_victim(self, *told: Any) -> None:
        text = json.dumps(told)
        for value in ("forged", VICTIM, self.thread, self.checkpoint):
            at = text.find(value)
            assert at < 0, text[max(at - 200, 0) : at + 100]


def bearer(name: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"} if name else {}


@pytest.fixture(scope="module", params=["auth", "open"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp(request.param)
    auth = {"auth": {"path": "./auth.py:auth"}} if request.param == "auth" else {}
    write_project(folder, SERVED, {**FILES, "auth.py": OWN}, http=HEADERS, **auth)
    server = LiveServer(folder, ["--no-reload"]).start()
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture
async def world(live: LiveServer) -> Any:
    settings = json.loads((live.folder / "langgraph.json").read_text())
    user = "bob" if "auth" in settings else None
    asked = {"x-request-id": REQUEST}
    async with (
        httpx.AsyncClient(base_url=live.url, timeout=30, headers={**bearer(user), **asked}) as http,
        httpx.AsyncClient(base_url=live.url, timeout=30, headers=bearer(user and VICTIM)) as victim,
    ):
        made = World(live, http, user, victim)
        made.thread = str((await victim.post("/threads", json={})).json()["thread_id"])
        await victim.post(f"/threads/{made.thread}/runs/wait", json={"assistant_id": "told", "input": {}})
        state = (await victim.get(f"/threads/{made.thread}/state")).json()
        made.checkpoint = state["checkpoint"]["checkpoint_id"]
        yield made
        after = (await victim.get(f"/threads/{made.thread}/state")).json()
        assert after == state, "something was done on the victim's thread"


# Doors: each takes what is forged, asks for runs by it, and gives what their graphs were told.

Forged = dict[str, Any]
Door = Callable[[World, Forged], Awaitable[list[Told]]]
DOORS: dict[str, Door] = {}


def door(function: Door) -> Door:
    DOORS[function.__name__] = function
    return function


def places(forged: Forged) -> list[dict[str, Any]]:
    """What is forged in every place that a body has for it; configurable and context exclude each other."""
    by_configurable = {"config": {**forged, "configurable": forged, "metadata": forged}, "metadata": forged}
    return [by_configurable, {"config": forged, "context": forged}]


def places_of_run(forged: Forged) -> list[dict[str, Any]]:
    """The same for a run, whose client may name a checkpoint of its own thread in the configurable."""
    first, second = places(forged)
    configurable = {name: value for name, value in forged.items() if not name.startswith("checkpoint")}
    return [{**first, "config": {**first["config"], "configurable": configurable}}, second]


def runs(forged: Forged, **more: Any) -> list[dict[str, Any]]:
    return [{"assistant_id": "told", "input": {"ask": False}, **place, **more} for place in places_of_run(forged)]


@door
async def wait(world: World, forged: Forged) -> list[Told]:
    told = []
    for body in runs(forged):
        told += (await world.post(f"/threads/{await world.new_thread()}/runs/wait", body))["told"]
    return told


@door
async def stream(world: World, forged: Forged) -> list[Told]:
    threads = [await world.new_thread() for _ in places(forged)]
    for thread, body in zip(threads, runs(forged, stream_mode=["values", "debug", "messages"]), strict=True):
        assert "event: error" not in await world.post(f"/threads/{thread}/runs/stream", body)
    return [each for thread in threads for each in await world.told(thread)]


@door
async def create(world: World, forged: Forged) -> list[Told]:
    threads = [await world.new_thread() for _ in places(forged)]
    for thread, body in zip(threads, runs(forged, after_seconds=0.01), strict=True):
        await world.post(f"/threads/{thread}/runs", body)
    return [each for thread in threads for each in await world.told(thread)]


@door
async def stateless(world: World, forged: Forged) -> list[Told]:
    told = []
    for body in runs(forged):
        told += (await world.post("/runs/wait", body))["told"]
        assert "event: error" not in await world.post("/runs/stream", body)
    made = [await world.post("/runs", body) for body in runs(forged, on_completion="keep")]
    return told + [each for run in made for each in await world.told(run["thread_id"])]


@door
async def batch(world: World, forged: Forged) -> list[Told]:
    made = await world.post("/runs/batch", runs(forged, on_completion="keep"))
    return [each for run in made for each in await world.told(run["thread_id"])]


@door
async def thread_config(world: World, forged: Forged) -> list[Told]:
    """What a run leaves in its thread, for later ones and for those who look at its state."""
    told = []
    for body in runs(forged, assistant_id="made"):
        thread = await world.new_thread()
        for given in (body, {"assistant_id": "made", "input": {"ask": False}}):
            await world.post(f"/threads/{thread}/runs/wait", given)
        assert (await world.http.get(f"/threads/{thread}/state")).json()["next"] == []
        told += await world.told(thread)
    return told


@door
async def answer(world: World, forged: Forged) -> list[Told]:
    told = []
    for body in runs(forged):
        path = f"/threads/{await world.new_thread()}/runs/wait"
        await world.post(path, {"assistant_id": "told", "input": {"ask": True}})
        while "__interrupt__" in (values := await world.post(path, {**body, "command": {"resume": 1}, "input": None})):
            pass
        told += values["told"]
    return told


YEARLY = {"schedule": "0 0 1 1 *", "on_run_completed": "keep"}


async def fire(world: World, cron: Any) -> list[Told]:
    run = await world.post(f"/runs/crons/{cron['cron_id']}/fire", {})
    return await world.told(run["thread_id"])


@door
async def cron(world: World, forged: Forged) -> list[Told]:
    made = [await world.post("/runs/crons", body) for body in runs(forged, **YEARLY)]
    return [each for cron in made for each in await fire(world, cron)]


@door
async def thread_cron(world: World, forged: Forged) -> list[Told]:
    told = []
    for body in runs(forged, **YEARLY):
        told += await fire(world, await world.post(f"/threads/{await world.new_thread()}/runs/crons", body))
    return told


@door
async def changed_cron(world: World, forged: Forged) -> list[Told]:
    told = []
    for place in places_of_run(forged):
        made = await world.post("/runs/crons", {"assistant_id": "told", "input": {"ask": False}, **YEARLY})
        changed = await world.http.patch(f"/runs/crons/{made['cron_id']}", json=place)
        assert changed.status_code == 200, changed.text
        told += await fire(world, made)
    return told


@door
async def assistant(world: World, forged: Forged) -> list[Told]:
    told = []
    for place in places(forged):
        made = await world.post("/assistants", {"graph_id": "told", **place})
        told += await run_of(world, made["assistant_id"])
    return told


async def run_of(world: World, assistant_id: str) -> list[Told]:
    body = {"assistant_id": assistant_id, "input": {"ask": False}}
    values = await world.post(f"/threads/{await world.new_thread()}/runs/wait", body)
    return list(values["told"])


@door
async def changed_assistant(world: World, forged: Forged) -> list[Told]:
    """By a change, and by a version that is made the latest again."""
    told = []
    for place in places(forged):
        made = await world.post("/assistants", {"graph_id": "told"})
        for change in (place, {"config": {"tags": ["later"]}}):
            changed = await world.http.patch(f"/assistants/{made['assistant_id']}", json=change)
            assert changed.status_code == 200, changed.text
            told += await run_of(world, made["assistant_id"])
        await world.post(f"/assistants/{made['assistant_id']}/latest", {"version": 2})
        told += await run_of(world, made["assistant_id"])
    return told


def command(method: str, **params: Any) -> dict[str, Any]:
    return {"id": 1, "method": method, "params": params}


@door
async def protocol(world: World, forged: Forged) -> list[Told]:
    """run.start and input.respond."""
    told = []
    for place in places_of_run(forged):
        thread = await world.new_thread()
        asked = command("run.start", assistant_id="told", input={"ask": True}, **place)
        assert (await world.post(f"/threads/{thread}/commands", asked))["type"] == "success"
        for _ in range(2):  # the graph asks, and so does its subgraph
            told_now = await answered(world, thread, place)
        told += told_now
    return told


async def answered(world: World, thread: str, place: Any) -> list[Told]:
    async def asked() -> Any:
        found = (await world.http.get(f"/threads/{thread}")).json()
        return found["status"] == "interrupted" and found

    found = await eventually(asked)
    [question] = [each for questions in found["interrupts"].values() for each in questions]
    response = command("input.respond", interrupt_id=question["id"], response="yes", **place)
    assert (await world.post(f"/threads/{thread}/commands", response))["type"] == "success"

    async def went_on() -> Any:
        now = (await world.http.get(f"/threads/{thread}")).json()
        assert now["status"] != "error", now
        return now["status"] != "busy" and now["interrupts"] != found["interrupts"] and now

    return list((await eventually(went_on))["values"].get("told", ()))


@door
async def websocket(world: World, forged: Forged) -> list[Told]:
    told = []
    for place in places_of_run(forged):
        thread = await world.new_thread()
        url = f"{world.server.url.replace('http', 'ws')}/threads/{thread}/stream/events"
        headers = {**bearer(world.user), "x-request-id": REQUEST}

        def start(url: str = url, headers: Any = headers, place: Any = place) -> None:
            with ws.connect(url, additional_headers=headers) as socket:
                socket.send(json.dumps(command("run.start", assistant_id="told", input={"ask": False}, **place)))
                assert json.loads(socket.recv())["type"] == "success"

        await asyncio.to_thread(start)
        told += await world.told(thread)
    return told


@door
async def mcp(world: World, forged: Forged) -> list[Told]:
    tool = f"tool-{uuid.uuid4()}"
    await world.post("/assistants", {"graph_id": "told", "name": tool})
    params = {"name": tool, "arguments": {"ask": False}, **forged, **places(forged)[0], "_meta": forged}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params, **forged}
    said = await world.post("/mcp", body, accept="application/json, text/event-stream")
    assert "result" in said, said
    return list(ast.literal_eval(said["result"]["content"][0]["text"])["told"])


@door
async def a2a(world: World, forged: Forged) -> list[Told]:
    given = {**places(forged)[0], **forged}
    message = {"role": "user", "messageId": "1", "parts": [{"kind": "text", "text": "hi", "metadata": forged}], **given}
    params = {"message": {**message, "kind": "message"}, "configuration": {"blocking": True, **given}, **given}
    body = {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": params, **forged}
    made = await world.post("/assistants", {"graph_id": "told"})
    said = await world.post(f"/a2a/{made['assistant_id']}", body)
    return await world.told(said["result"]["contextId"])


@door
async def remote_graph(world: World, forged: Forged) -> list[Told]:
    headers = {**bearer(world.user), "x-request-id": REQUEST}
    client = get_client(url=world.server.url, api_key=None, headers=headers)
    remote = RemoteGraph("told", client=client)
    config: Any = {"configurable": {**forged, "thread_id": await world.new_thread()}, "metadata": forged, **forged}
    told = list((await remote.ainvoke({"ask": False}, config))["told"])
    await client.aclose()
    return told


@door
async def client_of_a_node(world: World, forged: Forged) -> list[Told]:
    """One that calls the server as any other would, and the server's own, which acts for the user of the run only."""
    told = []
    for url, user in ((world.server.url, world.user), (None, "carol")):
        headers = {**bearer(world.user and user), "x-request-id": REQUEST}
        node = {"url": url, "headers": headers, "forged": {**forged, "thread_id": await world.new_thread()}}
        told += (await world.post("/runs/wait", {"assistant_id": "relay", "input": {"remote": node}}))["told"]
    return told


@door
async def headers(world: World, forged: Forged) -> list[Told]:
    given = {name: value if isinstance(value, str) else json.dumps(value) for name, value in forged.items()}
    body = {"assistant_id": "told", "input": {"ask": False}}
    return list((await world.post("/runs/wait", body, **given))["told"])


@door
async def state(world: World, forged: Forged) -> list[Told]:
    """A change of the state, on the latest checkpoint and on one that is not there, and the history of it."""
    thread = await world.new_thread()
    await world.post(f"/threads/{thread}/runs/wait", {"assistant_id": "made", "input": {"ask": False}})
    known = {name: forged[name] for name in forged if name == "thread_id"}
    change = {"values": {"ask": False}, "as_node": "tell", **places(forged)[0], "context": forged}
    place = {**known, "checkpoint_map": None, "checkpoint_id": None, "configurable": known}
    for extra in ({}, {"checkpoint": {**place, "checkpoint_ns": ""}}):
        await world.post(f"/threads/{thread}/state", {**change, "checkpoint_id": None, **extra})
    await world.post(f"/threads/{thread}/state/checkpoint", {"checkpoint": place, **places(forged)[0]})
    await world.post(f"/threads/{thread}/history", {"limit": 10, "before": place, "checkpoint": place})
    await world.post(f"/threads/{thread}/runs/wait", {"assistant_id": "made", "input": None})
    return await world.told(thread)


@door
async def supersteps(world: World, forged: Forged) -> list[Told]:
    steps = [{"updates": [{"values": {}, "as_node": "tell"}]}]
    own = {"metadata": {"graph_id": "made"}, "supersteps": steps, "thread_id": str(uuid.uuid4())}
    made = await world.post("/threads", {**forged, **own})
    await world.post(f"/threads/{made['thread_id']}/runs/wait", {"assistant_id": "made", "input": None})
    return await world.told(made["thread_id"])


NAMES = {
    "user": [
        "langgraph_auth_user",
        "langgraph_auth_user_id",
        "langgraph_auth_permissions",
        "langgraph_auth_something_new",
        "user_id",
    ],
    "ids": ["thread_id", "run_id", "assistant_id", "graph_id", "cron_id", "langgraph_request_id"],
    "place": ["checkpoint_id", "checkpoint_ns", "checkpoint_map"],
    "private": [
        "__pregel_task_id",
        "__pregel_resuming",
        "__pregel_durability",
        "__pregel_runtime",
        "__pregel_checkpointer",
        "__pregel_scratchpad",
        "__pregel_something_new",
        "__event_streaming_v2",
        "__request_start_time_ms__",
    ],
}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("by", DOORS)
async def test_the_servers_value_stands(world: World, by: str, names: str) -> None:
    known = world.trace.stat().st_size
    told = await DOORS[by](world, world.forged(NAMES[names]))
    assert told
    for each in told:
        check(world, each)
    world.check_nothing_of_the_victim(told, world.trace.read_text()[known:])


def check(world: World, told: Told, request: str | None = REQUEST) -> None:
    """What a graph was told is consistent, and true as far as a test can know."""
    configurable, execution = told["configurable"], told["execution"]
    assert told["graph"] in ("told", "made")
    assert told["user"] == world.user
    assert (configurable["langgraph_auth_user"] == "None") == (world.user is None)
    assert configurable["langgraph_auth_user_id"] == repr(world.user or "")
    assert configurable["langgraph_auth_permissions"] == repr([f"of {world.user}"] if world.user else [])
    assert configurable["user_id"] == repr(world.user or "")
    assert configurable.get("langgraph_request_id") == (repr(request) if request else None)
    for name in ("run_id", "thread_id"):
        assert configurable[name] == told["metadata"][name]
        assert configurable[name] == repr(execution[name]) or (name == "run_id" and execution[name] is None)
    for name in ("assistant_id", "graph_id"):
        assert configurable[name] == told["metadata"][name] == repr(told[name.removesuffix("_id")])


# What older servers kept, and what is made up from it


ALL_NAMES = [name for names in NAMES.values() for name in names]


def spoil(folder: Path, forged: Forged) -> None:
    """Put what is forged into the rows of a server that is down, in every place where an older one kept it."""
    everywhere = {**forged, "configurable": forged, "metadata": forged}
    private = {name: forged[name] for name in ALL_NAMES if name.startswith("__pregel")}
    conn = sqlite3.connect(folder / "devserver.db")
    for table in ("assistants", "assistant_versions"):
        query = f"UPDATE {table} SET config = ?, context = ? WHERE assistant_id IN (SELECT assistant_id FROM crons)"
        conn.execute(query, (json.dumps(everywhere), json.dumps(forged)))
    conn.execute("UPDATE threads SET config = ?", (json.dumps(everywhere),))
    for number, text in conn.execute("SELECT rowid, payload FROM crons").fetchall():
        payload = {**json.loads(text), **places_of_run(forged)[0], "metadata": json.loads(text).get("metadata")}
        conn.execute("UPDATE crons SET payload = ? WHERE rowid = ?", (json.dumps(payload), number))
    for number, text in conn.execute("SELECT rowid, kwargs FROM runs").fetchall():
        kwargs = json.loads(text)
        kept = {**kwargs["config"]["configurable"], **private}
        kwargs["config"] |= {**forged, "configurable": kept, "metadata": kwargs["config"]["metadata"] | forged}
        kwargs["context"] |= forged
        conn.execute("UPDATE runs SET kwargs = ? WHERE rowid = ?", (json.dumps(kwargs), number))
    conn.commit()
    conn.close()


@pytest.mark.parametrize("auth", [True, False])
async def test_rows_of_an_older_server_make_nobody_somebody_else(
    make_server: Callable[..., LiveServer], tmp_path: Path, auth: bool
) -> None:
    """A run that goes on after a crash, one that waits, an assistant, a thread and a cron: all are bob's."""
    given = {"auth": {"path": "./auth.py:auth"}} if auth else {}
    server = make_server(SERVED, {**FILES, "auth.py": OWN}, "--no-reload", http=HEADERS, **given)
    gate, headers = tmp_path / "gate", {**bearer("bob" if auth else None), "x-request-id": REQUEST}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        world = World(server, http, "bob" if auth else None, http, "the-thread-of-another", "the-checkpoint-of-another")
        made = await world.post("/assistants", {"graph_id": "made"})
        thread = await world.new_thread()
        ran = {"assistant_id": made["assistant_id"], "input": {"gate": str(gate)}}
        await world.post(f"/threads/{thread}/runs", ran)
        await world.post(f"/threads/{thread}/runs", {**ran, "input": {"ask": False}})
        cron = await world.post("/runs/crons", {**ran, "input": {}, **YEARLY})
        every_second = {"schedule": "* * * * * *", "on_run_completed": "keep", "metadata": {"by": "schedule"}}
        await world.post("/runs/crons", {**ran, "input": {}, **every_second})
        await eventually(lambda: is_running(http, thread))
    server.kill()
    spoil(server.folder, world.forged(ALL_NAMES))
    gate.touch()
    world.trace.unlink(missing_ok=True)
    server.start()
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30) as world.http:
        await eventually(lambda: world.trace.exists())
        told = await world.told(thread)
        assert len(told) == 4  # of both runs, each with its subgraph
        told += await run_of(world, made["assistant_id"])
        told += await fire(world, cron)
        later = {"assistant_id": made["assistant_id"], "input": {"ask": False}}
        told += (await world.post(f"/threads/{thread}/runs/wait", later))["told"][4:]
        assert (await world.http.get(f"/threads/{thread}/state")).status_code == 200
        for each in told:
            check(world, each)
        found = await eventually(lambda: search(world, {"by": "schedule"}))
        for each in found["values"]["told"]:
            check(world, each, request=None)
        world.check_nothing_of_the_victim(told, found["values"], world.trace.read_text())


async def is_running(http: httpx.AsyncClient, thread: str) -> bool:
    runs = (await http.get(f"/threads/{thread}/runs")).json()
    return any(run["status"] == "running" for run in runs)


async def search(world: World, metadata: Any) -> Any:
    found = await world.post("/threads/search", {"metadata": metadata, "status": "idle"})
    return next((thread for thread in found if (thread["values"] or {}).get("told")), None)


# What stays a client's


async def test_a_checkpoint_is_a_clients_right_on_its_own_thread(world: World) -> None:
    """By configurable, also beside a context; that of another thread shows nothing of it."""
    thread = await world.new_thread()
    path, body = f"/threads/{thread}/runs/wait", {"assistant_id": "told", "input": {"ask": False}}
    for _ in range(2):
        await world.post(path, body)
    history = await world.post(f"/threads/{thread}/history", {"limit": 20})
    [first] = [each for each in history if len(each["values"]["told"]) == 2 and not each["next"]]
    for context in ({}, {"lang": "en"}):
        fork = {"config": {"configurable": {"checkpoint_id": first["checkpoint_id"]}}, "context": context}
        assert len((await world.post(path, {**body, **fork}))["told"]) == 4
    foreign = {"config": {"configurable": {"checkpoint_id": world.checkpoint}}}
    assert len((await world.post(path, {**body, **foreign}))["told"]) == 2


async def test_other_keys_of_a_config_are_in_the_configurable(world: World) -> None:
    """As LangGraph puts them there: over what the configurable says, unless they are empty."""
    config = {"tone": "kind", "empty": None, "run_name": "named", "configurable": {"tone": "rude", "empty": "full"}}
    body = {"assistant_id": "told", "input": {"ask": False}, "config": config}
    for told in (await world.post("/runs/wait", body))["told"]:
        assert (told["configurable"]["tone"], told["configurable"]["empty"]) == ("'kind'", "'full'")
        assert "tone" not in told["config"]


async def test_a_context_that_needs_an_id_has_the_servers(world: World) -> None:
    thread = await world.new_thread()
    context = {"thread_id": world.thread, "user_id": VICTIM, "lang": "en"}
    body = {"assistant_id": "told", "input": {"ask": False}, "context": context}
    for told in (await world.post(f"/threads/{thread}/runs/wait", body))["told"]:
        assert told["context"] == {"thread_id": repr(thread), "user_id": repr(world.user or VICTIM), "lang": "'en'"}


async def test_a_request_without_an_id_gets_one(world: World) -> None:
    del world.http.headers["x-request-id"]
    told = [await run_of(world, "told"), await run_of(world, "told")]
    first, second = ({each["configurable"]["langgraph_request_id"] for each in every} for every in told)
    assert len(first) == len(second) == 1
    assert first != second


async def test_a_thread_made_by_a_run_is_of_its_graph(world: World) -> None:
    body = {"assistant_id": "told", "input": {"ask": False}, "if_not_exists": "create"}
    forged = {"metadata": {"graph_id": "relay", "mine": 1}, "config": {"metadata": {"graph_id": "relay"}}}
    thread = str(uuid.uuid4())
    await world.post(f"/threads/{thread}/runs/wait", {**body, **forged})
    metadata = (await world.http.get(f"/threads/{thread}")).json()["metadata"]
    assert (metadata["graph_id"], metadata["mine"]) == ("told", 1)

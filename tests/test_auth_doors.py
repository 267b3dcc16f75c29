"""Each door to a thing under an application's Auth: what it tells of things that are another's, or not there, and that
the store's routes keep out of shared values."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, write_project
from langgraph_sdk import get_client
from test_auth import (
    BUSY,
    ENDLESS,
    FILES,
    ITEM,
    MATRIX,
    OWN,
    SEND,
    Case,
    R,
    T,
    as_user,
    ask,
    command,
    make_world,
    new_user,
    request_of,
    socket_of,
)
from test_auth import SERVED as ALL_SERVED
from websockets.exceptions import ConnectionClosed

import devserver

SERVED = {**ALL_SERVED, "look": "./look.py:graph"}

# Shared values: no store route leads to them

# A token is a user's name, and the labels that the handler puts in front of a namespace.
ROOTED = (
    OWN[: OWN.index("    name = ")]
    + """
    name, *root = authorization.removeprefix("Bearer ").split()
    return {"identity": name, "root": root}

@auth.on.store
async def rooted(ctx, value):
    value["namespace"] = (*ctx.user.root, *(value["namespace"] or ()))
"""
)
LOOK = """
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

class State(TypedDict, total=False):
    key: str
    seen: list

async def look(state: State, runtime: Runtime):
    store = runtime.store
    if state.get("key"):
        await store.aput(("scoped", "of", "node"), state["key"], {"from": "a node"})
    found = await store.asearch((), limit=100)
    names = await store.alist_namespaces()
    return {"seen": [sorted({item.namespace[0] for item in found}), sorted({name[0] for name in names})]}

graph = StateGraph(State).add_node(look).add_edge("__start__", "look").compile()
"""
ALICES = ["scoped", "langgraph_auth_user_id", "notes", "alice"]


@pytest.fixture(scope="module", params=["auth", "no auth"])
def store_http(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with an Auth, or without one; with a shared value of alice in its store."""
    folder = tmp_path_factory.mktemp("rooted")
    auth = {"auth": {"path": "./auth.py:auth"}} if request.param == "auth" else {}
    write_project(folder, SERVED, {**FILES, "auth.py": ROOTED, "look.py": LOOK}, **auth)
    server = LiveServer(folder, ["--no-reload"]).start()
    with server.http() as http:
        yield http
    assert server.stop() == 0, server.log


DOORS: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "put": lambda place: {"method": "PUT", "url": "/store/items", "json": {**ITEM, "namespace": place}},
    "get": lambda place: {
        "method": "GET",
        "url": "/store/items",
        "params": {"namespace": ".".join(place), "key": "of alice"},
    },
    "delete": lambda place: {
        "method": "DELETE",
        "url": "/store/items",
        "json": {"namespace": place, "key": "of alice"},
    },
    "search": lambda place: {"method": "POST", "url": "/store/items/search", "json": {"namespace_prefix": place}},
    "list": lambda place: {"method": "POST", "url": "/store/namespaces", "json": {"prefix": place}},
}


WHO = {"assistant_id": "who", "input": {}}


@pytest.mark.parametrize("store_http", ["auth"], indirect=True)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("token", "place", "refused"),
    [
        ("bob", ALICES, True),
        ("alice", ALICES, True),
        ("bob", ["scoped"], True),
        ("scoped scoped", ALICES[1:], True),  # the usual rule, and a user who is called so
        ("bob scoped", ["x"], True),
        ("alice alice", ALICES, False),  # a namespace of her own, by this name
        ("bob", ["scoped2", *ALICES], False),
        ("bob aside", ALICES, False),
    ],
)
def test_no_store_route_leads_to_shared_values(
    store_http: httpx.Client, door: str, token: str, place: list[str], refused: bool
) -> None:
    alice = {"authorization": "Bearer alice"}
    store_http.post("/runs/wait", json={**WHO, "input": {"note": "of alice"}}, headers=alice).raise_for_status()
    answer = store_http.request(**DOORS[door](place), headers={"authorization": f"Bearer {token}"})
    if refused:
        assert answer.status_code == 403
        assert "'scoped'" in answer.json()["detail"]
    else:
        assert answer.status_code in (200, 204), answer.text
        assert "of alice" not in answer.text
    assert store_http.post("/runs/wait", json=WHO, headers=alice).json()["seen"]["notes"] == ["of alice"]


@pytest.mark.parametrize("store_http", ["no auth"], indirect=True)
@pytest.mark.parametrize("door", DOORS)
def test_without_an_auth_every_store_route_leads_to_shared_values(store_http: httpx.Client, door: str) -> None:
    item = {"namespace": ALICES, "key": "of alice", "value": {"text": "written"}}
    store_http.put("/store/items", json=item).raise_for_status()
    answer = store_http.request(**DOORS[door](ALICES)).raise_for_status()
    if door in ("get", "search", "list"):
        assert "alice" in answer.text


@pytest.mark.parametrize(
    ("store_http", "hidden"), [("auth", True), ("no auth", False)], indirect=["store_http"], ids=["auth", "no auth"]
)
def test_searches_and_listings_leave_out_shared_values(store_http: httpx.Client, hidden: bool) -> None:
    """Pages are as long as asked for, and no item is missed or shown twice; without an Auth all is shown."""
    http = store_http
    http.headers["authorization"] = "Bearer bob"

    def ask(path: str, **body: Any) -> list[Any]:
        answer = http.post(f"/store/{path}", json=body).raise_for_status().json()
        return list(answer.get("items") or answer.get("namespaces") or ())

    for item in ask("items/search", namespace_prefix=[], limit=100):
        http.request("DELETE", "/store/items", json={"namespace": item["namespace"], "key": item["key"]})
    for number in range(7):
        run = {"assistant_id": "look", "input": {"key": f"node {number}"}}
        assert http.post("/runs/wait", json=run).json()["seen"][0][-1] == "scoped"  # a node sees them
        item = {"namespace": [f"n{number % 3}", "scoped"], "key": f"k{number}", "value": {"number": number}}
        http.put("/store/items", json=item).raise_for_status()
    keys = [f"{kind}{number}" for number in range(7) for kind in (["k"] if hidden else ["node ", "k"])]
    found = [item["key"] for item in ask("items/search", namespace_prefix=[], limit=100)]
    assert found == keys
    pages = [ask("items/search", namespace_prefix=[], limit=2, offset=n) for n in range(0, len(keys), 2)]
    assert [item["key"] for page in pages for item in page] == keys
    assert [len(page) for page in pages[:-1]] == [2] * (len(pages) - 1)
    assert [each["key"] for each in ask("items/search", namespace_prefix=[], filter={"number": 3})] == ["k3"]
    nodes = ask("items/search", namespace_prefix=[], filter={"from": "a node"}, limit=100)
    assert len(nodes) == (0 if hidden else 7)
    names = [["n0", "scoped"], ["n1", "scoped"], ["n2", "scoped"], *([] if hidden else [["scoped", "of", "node"]])]
    assert ask("namespaces") == names
    assert ask("namespaces", prefix=["*"]) == names
    assert ask("namespaces", max_depth=1) == [name[:1] for name in names]
    assert ask("namespaces", suffix=["scoped"]) == names[:3]
    assert ask("namespaces", suffix=["node"]) == names[3:]
    assert [ask("namespaces", limit=2, offset=n) for n in (0, 2)] == [names[:2], names[2:]]


# Ids that are another's, or nobody's: both are answered as without an Auth


AGENT, MESSAGE = devserver.system_assistant_id("steps"), SEND["params"]["message"]


def names_a_thing(operation: str, case: Case) -> bool:
    """Whether a request names things that have to be there: not one that it searches for, or may make by its id."""
    named = json.dumps([operation, case.json, case.params])
    makes = "if_not_exists" in named or "run.start" in named or operation in ("POST /assistants", "POST /threads")
    return "{" in named.replace('{"', "").replace("{}", "") and not makes and "/search" not in operation


NAMING = [(operation, case) for operation, cases in MATRIX.items() for case in cases if names_a_thing(operation, case)]
NAMING += [
    (f"GET {T}/stream", Case(params={"stream_modes": "lifecycle"})),
    (f"GET {R}/join", Case(on=BUSY)),
    (f"GET {R}/stream", Case(params={"cancel_on_disconnect": "1"}, on=BUSY)),
    (f"POST {T}/commands", Case(command("input.respond", interrupt_id="i", response=1))),
    (f"POST {T}/commands", Case(command("agent.getTree"))),
    (f"POST {T}/commands", Case(command("nonsense"))),
    *((f"POST /a2a/{AGENT}", Case({**SEND, "method": method, "params": {"id": "{thread_id}:{run_id}"}}))
      for method in ("tasks/get", "tasks/cancel", "tasks/resubscribe")),
    (f"POST /a2a/{AGENT}", Case({**SEND, "params": {"message": {**MESSAGE, "taskId": "{thread_id}:{run_id}"}}})),
]  # fmt: skip


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("owned")
    write_project(folder, SERVED, {**FILES, "auth.py": OWN, "look.py": LOOK}, auth={"path": "./auth.py:auth"})
    server = LiveServer(folder, ["--no-reload"]).start()
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture(scope="module")
def worlds(owned: LiveServer) -> tuple[dict[str, str], dict[str, str]]:
    """Alice's things, and things that are not there."""
    with owned.http() as http:
        alices = make_world(http, "alice")
    return alices, {name: re.sub("[0-9]", lambda digit: str(9 - int(digit[0])), it) for name, it in alices.items()}


def told(http: httpx.Client, operation: str, case: Case, world: dict[str, str]) -> tuple[int, Any, str]:
    """Status, headers and body of an answer, of an endless one its beginning; with names in place of ids."""
    request = request_of(operation, case, world, {})
    if "resubscribe" in json.dumps(case.json):
        request["headers"]["accept"] = "text/event-stream"
    with http.stream(**request) as answer:
        headers = sorted((name, it) for name, it in answer.headers.items() if name not in ("date", "content-length"))
        body = "" if operation in ENDLESS and answer.status_code == 200 else answer.read().decode()
    text = json.dumps([answer.status_code, headers, body])
    for name, it in world.items():
        text = text.replace(it, f"{{{name}}}")
    status, headers, body = json.loads(text)
    return status, headers, body


@pytest.mark.parametrize("store_http", ["no auth"], indirect=True)
@pytest.mark.parametrize(("operation", "case"), NAMING, ids=[operation for operation, _ in NAMING])
def test_an_id_of_another_is_answered_as_one_of_nobody_and_as_without_an_auth(
    store_http: httpx.Client, owned: LiveServer, worlds: tuple[dict[str, str], ...], operation: str, case: Case
) -> None:
    alices, nobodys = worlds
    store_http.headers.pop("authorization", None)
    plain = told(store_http, operation, case, nobodys)
    with owned.http(headers=as_user("bob")) as bob:
        assert told(bob, operation, case, nobodys) == plain
        assert told(bob, operation, case, alices) == plain


async def test_the_sdk_reads_that_a_run_is_not_there(owned: LiveServer, worlds: tuple[dict[str, str], ...]) -> None:
    client = get_client(url=owned.url, api_key=None, headers=as_user("bob"))
    for world in worlds:
        parts = [part async for part in client.runs.join_stream(world["thread_id"], world["run_id"])]
        assert [(part.event, part.data["message"]) for part in parts] == [("error", "404: Run not found")]
        joined: Any = await client.runs.join(world["thread_id"], world["run_id"])
        assert joined == {"__error__": {"error": "HTTPException", "message": "404: Run not found"}}
    await client.aclose()


def test_the_commands_of_a_socket_tell_nothing_of_anothers_thread(
    owned: LiveServer, worlds: tuple[dict[str, str], ...]
) -> None:
    commands: list[tuple[str, dict[str, Any]]] = [
        ("agent.getTree", {}),
        ("input.respond", {"interrupt_id": "i", "response": 1}),
        ("subscription.subscribe", {"channels": ["values", "lifecycle"]}),
        ("subscription.reconnect", {"channels": ["values", "lifecycle"], "since": 0}),
        ("subscription.unsubscribe", {"subscription_id": "x"}),
    ]
    with owned.http() as http:  # its kept events have numbers, and a tree
        thread = new_user(http, "alice")("POST", "/threads", json={})["thread_id"]
        start = command("run.start", assistant_id="question", input={})
        run = new_user(http, "alice")("POST", f"/threads/{thread}/commands", json=start)["result"]["run_id"]
        new_user(http, "alice")("GET", f"/threads/{thread}/runs/{run}/join")
    answers = []
    for place in (thread, worlds[1]["thread_id"]):
        with socket_of(owned, place, "bob") as connection:
            said = [ask(connection, method, number, **params) for number, (method, params) in enumerate(commands)]
        answers.append(re.sub('"subscription_id": "[^"]*"', '"subscription_id": ""', json.dumps(said)))
    assert answers[0] == answers[1]


# Whoever asks may search all threads, and read their own.
READERS = (
    OWN[: OWN.index("@auth.on\n")]
    + """
@auth.on.threads.create
@auth.on.threads.create_run
async def owned(ctx, value):
    value["metadata"]["owner"] = ctx.user.identity

@auth.on.threads.read
async def own(ctx, value):
    return {"owner": ctx.user.identity}
"""
)


def test_the_tasks_of_an_agent_are_listed_to_those_who_may_read_their_threads(tmp_path: Path) -> None:
    write_project(tmp_path, SERVED, {**FILES, "auth.py": READERS, "look.py": LOOK}, auth={"path": "./auth.py:auth"})
    server = LiveServer(tmp_path, ["--no-reload"]).start()
    with server.http() as http:
        tasks = {}
        for name in ("alice", "bob"):
            sent = [http.post(f"/a2a/{AGENT}", json=SEND, headers=as_user(name)).json()["result"] for _ in range(2)]
            tasks[name] = [task["id"] for task in reversed(sent)]
        for name, own in tasks.items():
            found = http.post(
                f"/a2a/{AGENT}", json={**SEND, "method": "ListTasks", "params": {}}, headers=as_user(name)
            )
            assert [task["id"] for task in found.json()["result"]["tasks"]] == own
    assert server.stop() == 0, server.log


UPDATES = (
    OWN
    + """
@auth.on.threads.update
async def told(ctx, value):
    raise Auth.exceptions.HTTPException(403, f"asked for {value.get('action')}")
"""
)


def test_an_auth_is_told_the_action_of_those_operations_that_have_one(make_server: Callable[..., LiveServer]) -> None:
    server = make_server(ALL_SERVED, {**FILES, "auth.py": UPDATES}, "--no-reload", auth={"path": "./auth.py:auth"})
    thread, run = devserver.new_id(), devserver.new_id()
    path = f"/threads/{thread}/runs/{run}"
    with server.http(headers=as_user("alice")) as http:
        answers = [
            http.post(f"{path}/cancel"),
            http.post(f"{path}/cancel?action=rollback"),
            http.get(f"{path}/join?cancel_on_disconnect=1&action=rollback"),
            http.patch(f"/threads/{thread}?action=rollback", json={}),
        ]
    assert [(each.status_code, each.json()["detail"].removeprefix("asked for ")) for each in answers] == [
        (403, "interrupt"),
        (403, "rollback"),
        (403, "interrupt"),
        (403, "None"),
    ]


@pytest.mark.parametrize("bad", ["nonsense", "1-2-3"])
def test_a_socket_for_a_thread_that_cannot_be_is_closed_as_without_an_auth(owned: LiveServer, bad: str) -> None:
    with socket_of(owned, bad, "bob") as connection, pytest.raises(ConnectionClosed) as caught:
        connection.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4422


@pytest.mark.parametrize("store_http", ["no auth"], indirect=True)
def test_without_an_auth_commands_do_not_mind_the_form_of_a_threads_id(store_http: httpx.Client) -> None:
    told = {
        method: store_http.post("/threads/nonsense/commands", json=command(method, channels=["values"])).json()
        for method in ("subscription.subscribe", "agent.getTree", "run.start")
    }
    assert told["subscription.subscribe"]["type"] == "success"
    assert told["agent.getTree"]["error"] == "no_such_run"
    assert told["run.start"]["error"] == "invalid_argument"


# Following a thread that is not there yet

CHANNELS = ["values", "lifecycle", "updates", "tasks", "checkpoints"]


def follow_events(server: LiveServer, thread: str, name: str, got: list[Any], stop: threading.Event) -> None:
    read_stream(server, f"POST /threads/{thread}/stream/events", name, got, stop, json.dumps({"channels": CHANNELS}))


def follow_thread(server: LiveServer, thread: str, name: str, got: list[Any], stop: threading.Event) -> None:
    path = f"/threads/{thread}/stream?stream_modes=run_modes,lifecycle,state_update"
    read_stream(server, f"GET {path}", name, got, stop)


def follow_kept(server: LiveServer, thread: str, name: str, got: list[Any], stop: threading.Event) -> None:
    read_stream(server, f"GET /threads/{thread}/stream", name, got, stop, last="0")


def read_stream(
    server: LiveServer, route: str, name: str, got: list[Any], stop: threading.Event, body: str = "", last: str = ""
) -> None:
    """Note the status, and then each part of the stream with the seconds that it took to come."""
    given = {
        **as_user(name),
        "host": "localhost",
        "content-length": len(body),
        **({"last-event-id": last} if last else {}),
    }
    head = f"{route} HTTP/1.1\r\n" + "".join(f"{key}: {it}\r\n" for key, it in given.items())
    place = httpx.URL(server.url)
    with socket.create_connection((place.host, place.port)) as connection:
        connection.sendall(f"{head}\r\n{body}".encode())
        connection.settimeout(0.2)
        read, begun = b"", time.monotonic()
        while b"\r\n\r\n" not in read:
            read += connection.recv(2**16)
        head, _, part = read.decode().partition("\r\n\r\n")
        got.append(int(head.split()[1]))
        while not stop.is_set():
            if part:
                got.append((time.monotonic() - begun, part))
            with contextlib.suppress(TimeoutError):
                part = ""
                part = connection.recv(2**16).decode()


def follow_socket(server: LiveServer, thread: str, name: str, got: list[Any], stop: threading.Event) -> None:
    with socket_of(server, thread, name) as connection:
        got += ask(connection, "subscription.subscribe", channels=CHANNELS)[:-1]
        got.insert(0, 200)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                got.append(connection.recv(timeout=0.2))


FOLLOWING = [follow_thread, follow_kept, follow_events, follow_socket]


@contextlib.contextmanager
def following(server: LiveServer, thread: str, name: str) -> Iterator[dict[str, list[Any]]]:
    """Follow a thread through every door; gives what has come through each."""
    stop, got = threading.Event(), {each.__name__: list[Any]() for each in FOLLOWING}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        futures = [pool.submit(each, server, thread, name, got[each.__name__], stop) for each in FOLLOWING]
        try:
            deadline = time.monotonic() + 10
            while not all(got.values()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield got
        finally:
            stop.set()
        for future in futures:
            future.result()


def use_thread(http: httpx.Client, name: str, thread: str, how: str) -> None:
    """Make a thread, if it is not there, with a run whose events are kept, and a change of its state."""
    made = new_user(http, name)
    run = {"assistant_id": "steps", "input": {}, "stream_resumable": True, "if_not_exists": "create"}
    if how == "a run makes it":
        made("POST", f"/threads/{thread}/runs/wait", json=run)
    elif how == "a command makes it":
        start = command("run.start", assistant_id="steps", input={})
        run_id = made("POST", f"/threads/{thread}/commands", json=start)["result"]["run_id"]
        made("GET", f"/threads/{thread}/runs/{run_id}/join")
    else:
        made("POST", "/threads", json={"thread_id": thread, "if_exists": "do_nothing"})
        made("POST", f"/threads/{thread}/runs/wait", json=run)
    made("POST", f"/threads/{thread}/state", json={"values": {"text": "changed"}})


HOWS = ["it is made", "a run makes it", "a command makes it"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_who_follows_a_thread_that_comes_to_be_anothers_hears_nothing(owned: LiveServer, how: str, when: str) -> None:
    thread = devserver.new_id()
    with owned.http() as http:
        if when == "after":
            use_thread(http, "alice", thread, how)
        with following(owned, thread, "bob") as got:
            use_thread(http, "alice", thread, how)
            http.delete(f"/threads/{thread}", headers=as_user("alice")).raise_for_status()
            time.sleep(0.4)
        assert got == {name: [200] for name in got}


@pytest.mark.parametrize("how", HOWS)
def test_who_follows_a_thread_that_comes_to_be_their_own_hears_all(owned: LiveServer, how: str) -> None:
    thread = devserver.new_id()
    last = {"follow_thread": "state_update", "follow_kept": "run_done"}
    with owned.http() as http, following(owned, thread, "bob") as got:
        use_thread(http, "bob", thread, how)
        for door, parts in got.items():
            deadline = time.monotonic() + 10
            while last.get(door, '"completed"') not in str(parts):
                assert time.monotonic() < deadline, (door, parts)
                time.sleep(0.02)


def test_heartbeats_do_not_tell_what_goes_on_in_anothers_thread(owned: LiveServer) -> None:
    thread = devserver.new_id()
    with owned.http() as http:
        use_thread(http, "alice", thread, "it is made")
        with following(owned, thread, "bob") as got:
            for seconds in (1.0, 1.0, 1.0, 1.0, 2.5):  # none when 5 s are over
                time.sleep(seconds)
                body = {"values": {"text": "again"}}
                http.post(f"/threads/{thread}/state", json=body, headers=as_user("alice")).raise_for_status()
        for door in ("follow_thread", "follow_kept", "follow_events"):
            _, (seconds, text) = got[door]
            assert ": heartbeat" in text
            assert 4.9 < seconds < 6.2


BREAKING = (
    OWN
    + """
@auth.on.threads.create_run
async def breaks(ctx, value):
    exec(ctx.user.identity, {"value": value})

@auth.on.threads.create
@auth.on.assistants.read
async def any(ctx, value):
    pass
"""
)


@pytest.mark.parametrize("breaks", ["del value['kwargs']", "value['metadata'] = 'a'", "value['kwargs'] = None"])
def test_a_handler_that_breaks_the_description_of_a_run_refuses_it(tmp_path: Path, breaks: str) -> None:
    write_project(tmp_path, SERVED, {**FILES, "auth.py": BREAKING, "look.py": LOOK}, auth={"path": "./auth.py:auth"})
    server = LiveServer(tmp_path, ["--no-reload"]).start()
    with server.http() as http:
        answer = http.post("/runs/wait", json={"assistant_id": "look"}, headers=as_user(breaks))
        assert answer.status_code == 403, answer.text
    assert server.stop() == 0
    assert "handler of threads.create_run" in server.log


SLOWLY = (
    OWN
    + """
import asyncio
MEETING = asyncio.Event()

@auth.on.crons.update
async def meets(ctx, value):
    if MEETING.is_set():
        return
    if not hasattr(MEETING, "first"):
        MEETING.first = True  # waits until the other has been decided on, too
        await asyncio.wait_for(MEETING.wait(), 20)
    MEETING.set()
"""
)


def test_two_changes_of_a_cron_at_once_are_both_made(tmp_path: Path) -> None:
    write_project(tmp_path, SERVED, {**FILES, "auth.py": SLOWLY, "look.py": LOOK}, auth={"path": "./auth.py:auth"})
    server = LiveServer(tmp_path, ["--no-reload"]).start()
    with server.http() as http:
        http.headers.update(as_user("alice"))
        body = {"assistant_id": "look", "schedule": "0 0 1 1 *", "input": {"a": 1}}
        path = f"/runs/crons/{http.post('/runs/crons', json=body).json()['cron_id']}"
        changes = [{"input": {"a": 2}}, {"context": {"b": 3}}]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            answers = [*pool.map(lambda change: http.patch(path, json=change), changes)]
        assert [answer.status_code for answer in answers] == [200, 200]
        payload = http.get(path).json()["payload"]
        assert (payload["input"], payload["context"]) == ({"a": 2}, {"b": 3})
    assert server.stop() == 0

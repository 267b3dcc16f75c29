"""push and pull between two devservers, each read back with the SDK."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, LiveServer, write_project
from langgraph_sdk import get_client
from way_up import MARK, contents, counts, fill, held_by, start, way_up, write_travel

Making = Callable[..., LiveServer]
Ids = dict[str, str]
Connecting = Callable[[LiveServer], Any]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ids, Any]:
    """A folder with a database that has something of everything, the ids in it, and what its server held."""
    folder = tmp_path_factory.mktemp("travel")
    server = start(folder)
    try:
        ids = fill(server.url)
        held = asyncio.run(held_by(server.url))
    finally:
        assert server.stop() == 0, server.log
    return folder, ids, held


@pytest.fixture
def source(filled: tuple[Path, Ids, Any], tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(filled[0], tmp_path / "source"))


@pytest.fixture
def ids(filled: tuple[Path, Ids, Any]) -> Ids:
    return filled[1]


@pytest.fixture
def held(filled: tuple[Path, Ids, Any]) -> Any:
    return filled[2]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Making]:
    """Starts servers in folders of a test's own: `begin("target", **settings)`."""
    made: list[LiveServer] = []

    def begin_in(name: str, *options: str, **settings: Any) -> LiveServer:
        made.append(start(tmp_path / name, *options, **settings))
        return made[-1]

    yield begin_in
    for server in made:
        if server.process and server.process.poll() is None:
            server.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Connecting]:
    """Makes clients of servers."""
    made: list[Any] = []

    def connect_to(server: LiveServer) -> Any:
        made.append(get_client(url=server.url, api_key=None))
        return made[-1]

    yield connect_to
    for client in made:
        await client.aclose()


# With durability "exit" nothing tells who wrote, and LangGraph's updates leave a join of edges as it is.
LOST_HISTORY = {"exit", "joined"}
UNSETTLED = {"asked", "asked at once"}


def check_copies(found: Any, held: Any, ids: Ids) -> None:
    """The target holds what the source held, but for what is left out knowingly."""
    assert found["assistants"] == held["assistants"]
    assert found["items"] == held["items"]
    by_name = {name: ids[name] for name in ids if ids[name] in held["threads"]}
    assert found["threads"].keys() == held["threads"].keys()
    for name, thread_id in by_name.items():
        given, there = held["threads"][thread_id], found["threads"][thread_id]
        history, copied = held["histories"][thread_id], found["histories"][thread_id]
        assert there["metadata"] == given["metadata"], name
        if name in UNSETTLED:
            assert copied == history[len(history) - len(copied) :], name
            assert not copied or copied[0][1] == [], name
        elif name in LOST_HISTORY:
            assert there == given, name
        else:
            assert there == given, name
            assert copied == history, name
    assert {name: len(found["histories"][thread]) > 0 for name, thread in by_name.items()} == {
        name: name not in ("empty", "asked at once") for name in by_name
    }


async def test_all_is_there_after_a_push(source: Path, ids: Ids, held: Any, begin: Making, connect: Connecting) -> None:
    target = begin("target")
    client: Any = connect(target)
    report = way_up("push", source, target.url, "--verify")
    assert counts(report) == {"assistants": (2, 7, 0), "threads": (11, 0, 0), "store": (3, 0, 0), "crons": (2, 0, 0)}
    noted = {each["id"]: each["reason"] for each in report["remarks"]}
    assert noted.keys() & {*ids.values()} == {ids[name] for name in UNSETTLED | LOST_HISTORY}
    assert noted[ids["asked"]] == noted[ids["asked at once"]] == "a question waits for its answer: that is left out"
    assert noted[ids["exit"]] == "without its history"

    found = await contents(client)
    check_copies(found, held, ids)
    daily, yearly = found["crons"]["* * * * *"], found["crons"]["0 0 1 1 *"]
    assert "enabled" in daily
    assert {daily["enabled"], yearly["enabled"]} == {False}
    assert "webhook" not in daily
    assert daily["config"]["configurable"]["speed"] == 3
    assert "x-token" not in daily["config"]["configurable"]
    assert (daily["assistant_id"], daily["timezone"], daily["input"]) == (ids["tour"], "Europe/Rome", {"mood": "daily"})
    assert yearly["thread_id"] == ids["trip"]

    # the copies go on, and are not made twice
    again = way_up("push", source, target.url)
    assert counts(again) == {"assistants": (0, 9, 0), "threads": (0, 11, 0), "store": (0, 3, 0), "crons": (0, 2, 0)}
    assert await contents(client) == found
    answer = await client.runs.wait(
        ids["talk"], "talk", input={"messages": [{"role": "user", "content": "still here?"}]}
    )
    assert len(answer["messages"]) == len(held["threads"][ids["talk"]]["values"]["messages"]) + 2
    going_on = await client.runs.wait(ids["stopped"], "trip", input=None)
    assert going_on["stops"] == ["home", "gate", "north", "south"]


async def test_nothing_is_written_to_the_source(source: Path, begin: Making) -> None:
    target = begin("target")
    before = (source / "devserver.db").read_bytes()
    way_up("push", source, target.url)
    assert (source / "devserver.db").read_bytes() == before
    assert sorted(each.name for each in source.iterdir() if each.name.startswith("devserver")) == ["devserver.db"]


async def test_a_dry_run_writes_nothing(source: Path, begin: Making, connect: Connecting) -> None:
    target = begin("target")
    client: Any = connect(target)
    before = await contents(client)
    report = way_up("push", source, target.url, "--dry-run")
    assert counts(report) == {"assistants": (2, 7, 0), "threads": (11, 0, 0), "store": (3, 0, 0), "crons": (2, 0, 0)}
    assert await contents(client) == before


async def test_what_has_gone_on_is_copied_again(ids: Ids, source: Path, begin: Making, connect: Connecting) -> None:
    """Where it went on at the target it is refused instead, and stays as it is."""
    target, only = begin("target"), ("--only", "threads,store,assistants")
    server = begin("source")  # pushed while it runs
    here: Any = connect(server)
    there: Any = connect(target)
    way_up("push", source, target.url, *only)
    hello = {"messages": [{"role": "user", "content": "more"}]}
    await here.runs.wait(ids["talk"], "talk", input=hello)
    await here.runs.wait(ids["sums"], "sums", input=[10])
    await here.threads.update(ids["empty"], metadata={"title": "new"})
    await here.store.put_item(["places", "north"], "cape 0/ä", {"n": "new"})
    await there.store.put_item(["places", "north"], "cape 1/ä", {"n": "theirs"})
    await here.assistants.update(ids["tour"], name="new")
    await here.assistants.update(ids["other"], name="new")
    await there.assistants.update(ids["other"], name="theirs")
    await there.runs.wait(ids["sums"], "sums", input=[1000])
    report = way_up("push", source, target.url, *only, status=1)
    assert counts(report) == {"assistants": (1, 7, 1), "threads": (2, 8, 1), "store": (1, 1, 1)}
    assert {each["id"] for each in report["remarks"] if each["what"] == "refused"} == {
        ids["sums"], ids["other"], "places.north cape 1/ä",
    }  # fmt: skip
    one, other = await contents(here), await contents(there)
    assert one["histories"][ids["talk"]] == other["histories"][ids["talk"]]
    assert other["threads"][ids["empty"]]["metadata"]["title"] == "new"
    assert other["threads"][ids["sums"]]["values"] == 1006
    assert other["items"]["places.north/cape 0/ä"] == {"n": "new"}
    assert other["items"]["places.north/cape 1/ä"] == {"n": "theirs"}
    assert other["assistants"][ids["tour"]][0]["name"] == one["assistants"][ids["tour"]][0]["name"] == "new"
    assert other["assistants"][ids["other"]][0]["name"] == "theirs"


async def test_a_question_that_is_answered_later_is_copied_then(
    ids: Ids, source: Path, begin: Making, connect: Connecting
) -> None:
    target, server = begin("target"), begin("source")
    here: Any = connect(server)
    there: Any = connect(target)
    way_up("push", source, target.url, "--only", "threads")
    await here.runs.wait(ids["asked"], "asked", command={"resume": "Rome"})
    report = way_up("push", source, target.url, "--only", "threads")
    assert counts(report) == {"threads": (1, 10, 0)}
    assert (await there.threads.get_state(ids["asked"]))["values"]["stops"] == ["as ever", "home", "Rome", "home"]


class Proxy(BaseHTTPRequestHandler):
    """Between push and its target: `act` may answer, or not, before or after the target is asked."""

    act: Callable[[Proxy], Any] = staticmethod(lambda request: None)
    after: Callable[[Proxy], Any] = staticmethod(lambda request: None)
    target = ""
    number = 0
    lock = threading.Lock()
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        with Proxy.lock:
            Proxy.number += 1
        if type(self).act(self):
            return
        answer = httpx.request(self.command, self.target + self.path, content=body, timeout=100)
        if type(self).after(self):
            return
        self.answer(answer.status_code, answer.content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def answer(self, status: int, content: bytes = b"{}", **headers: str) -> bool:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return True

    def hang_up(self) -> bool:
        self.close_connection = True
        self.connection.close()
        return True

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def proxy() -> Iterator[Callable[..., str]]:
    """Makes a way to a target: `proxy(target, act=..., after=...)` is its address."""
    servers: list[ThreadingHTTPServer] = []

    def make(target: str, **acts: Any) -> str:
        acts = {name: staticmethod(act) for name, act in acts.items()}
        handler = type("Handler", (Proxy,), {"target": target, **acts})
        Proxy.number = 0
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


FAULTS: dict[str, dict[str, Callable[[Proxy], Any]]] = {
    "429 with seconds": {"act": lambda it: Proxy.number % 25 == 2 and it.answer(429, Retry_After="1")},
    "429 with a moment": {
        "act": lambda it: Proxy.number % 25 == 2 and it.answer(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    },
    "503": {"act": lambda it: Proxy.number % 25 == 2 and it.answer(503)},
    "502 after the target has done it": {
        "after": lambda it: Proxy.number % 25 == 5 and it.command != "PATCH" and it.answer(502)
    },
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_busy_target_is_asked_again(
    source: Path, ids: Ids, held: Any, begin: Making, connect: Connecting, proxy: Callable[..., str], fault: str
) -> None:
    target = begin("target")
    report = way_up("push", source, proxy(target.url, **FAULTS[fault]), "--only", "threads,store,assistants")
    assert counts(report) == {"assistants": (2, 7, 0), "threads": (11, 0, 0), "store": (3, 0, 0)}
    client: Any = connect(target)
    found = await contents(client)
    assert found["threads"].keys() == held["threads"].keys()
    check_copies(found, held, ids)


@pytest.mark.parametrize("number", [3, 9, 17, 25, 34, 47])
async def test_a_killed_push_is_completed_by_the_next(
    source: Path, ids: Ids, held: Any, begin: Making, connect: Connecting, proxy: Callable[..., str], number: int
) -> None:
    target, reached = begin("target"), threading.Event()

    def hold(request: Proxy) -> bool:
        if Proxy.number >= number:
            reached.set()
            time.sleep(1)
            return request.hang_up()
        return False

    url = proxy(target.url, **{"act" if number % 2 else "after": hold})
    line = [sys.executable, str(ROOT / "devserver.py"), "push", url]
    process = subprocess.Popen(line, cwd=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert reached.wait(100)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    client: Any = connect(target)
    for thread in await client.threads.search(limit=100):
        whole = (thread["metadata"] or {}).get(MARK)
        assert whole is not None  # a half one can be told
    way_up("push", source, target.url)
    found = await contents(client)
    check_copies(found, held, ids)
    assert len(await client.crons.search(limit=100)) == 2


async def test_a_target_that_goes_away_ends_the_push(source: Path, begin: Making, proxy: Callable[..., str]) -> None:
    target = begin("target")
    url = proxy(target.url, act=lambda it: Proxy.number > 30 and it.hang_up())
    report = way_up("push", source, url, status=1)
    assert report["lost"]
    report = way_up("push", source, target.url)
    assert report["kinds"]["threads"]["refused"] == 0


def test_what_cannot_begin_has_status_2(source: Path, begin: Making, proxy: Callable[..., str], tmp_path: Path) -> None:
    assert way_up("push", source, "http://127.0.0.1:9", status=2)["lost"]
    page = proxy("", act=lambda it: it.answer(200, b"<html>"))
    assert "is no LangGraph server" in way_up("push", source, page, status=2)["lost"]
    assert "runs" in way_up("push", source, page, "--only", "runs", status=2)
    assert "there is no database" in way_up("push", source, page, "--db", "nowhere.db", status=2)
    assert "OLD=NEW" in way_up("push", source, page, "--map", "x", status=2)
    (tmp_path / "nothing").mkdir()
    assert "langgraph.json not found" in way_up("push", tmp_path / "nothing", page, status=2)


async def test_graphs_and_assistants_may_have_other_names(
    source: Path, ids: Ids, begin: Making, connect: Connecting
) -> None:
    served = {"voyage": "./travel.py:trip", "talk": "./travel.py:talk"}
    target = begin("target")
    target.stop()
    settings = target.folder / "langgraph.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "graphs": served}))
    (target.folder / "devserver.db").unlink()
    client = connect(target.start())
    mine = await client.assistants.create("talk", name="mine")
    names = ("--map", "trip=voyage", "--map", f"{ids['other']}={mine['assistant_id']}")
    report = way_up("push", source, target.url, *names, status=1)
    refused = {each["id"]: each["reason"] for each in report["remarks"] if each["what"] == "refused"}
    assert {ids[name] for name in ("asked", "jumping", "broken", "joined", "sums")} <= refused.keys()
    assert "Expected one of" in str(refused.values())
    found = await contents(client)
    assert found["threads"][ids["trip"]]["metadata"]["graph_id"] == "voyage"
    assert ids["jumping"] not in found["threads"]  # no half thread stays
    assert found["assistants"][ids["tour"]][0]["graph_id"] == "voyage"
    assert ids["other"] not in found["assistants"]
    yearly = found["crons"]["0 0 1 1 *"]["assistant_id"]
    assert (await client.assistants.get(yearly))["graph_id"] == "voyage"


async def test_a_part_is_chosen_by_kind_and_metadata(
    source: Path, ids: Ids, begin: Making, connect: Connecting
) -> None:
    target = begin("target")
    report = way_up("push", source, target.url, "--metadata", "title=talk")
    assert counts(report) == {"threads": (1, 0, 0)}
    report = way_up("push", source, target.url, "--metadata", "cron=1", "--only", "crons,assistants", status=2)
    assert counts(report) == {"crons": (0, 0, 1)}  # its assistant is not there
    report = way_up("push", source, target.url, "--only", "store")
    assert counts(report) == {"store": (3, 0, 0)}
    client: Any = connect(target)
    found = await contents(client)
    assert [*found["threads"]] == [ids["talk"]]
    assert not found["assistants"]


async def test_secrets_go_along_if_that_is_asked_for(source: Path, begin: Making, connect: Connecting) -> None:
    target = begin("target")
    way_up("push", source, target.url, "--with-secrets")
    client: Any = connect(target)
    daily = (await contents(client))["crons"]["* * * * *"]
    assert daily["webhook"] == "http://127.0.0.1:9/hook"
    assert daily["config"]["configurable"]["x-token"] == "secret"
    assert not daily["enabled"]


AUTH = """
from langgraph_sdk import Auth
auth = Auth()

@auth.authenticate
async def who(headers):
    name = headers.get(b"x-user") or headers.get("x-user")
    if not name:
        raise Auth.exceptions.HTTPException(401, "who are you?")
    return name.decode() if isinstance(name, bytes) else name

@auth.on
async def own(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}

@auth.on.store
async def all_items(ctx, value):
    return None
"""


async def test_copies_belong_to_the_sender(source: Path, ids: Ids, begin: Making, tmp_path: Path) -> None:
    write_travel(tmp_path / "target")
    (tmp_path / "target" / "auth.py").write_text(AUTH)
    target = begin("target", auth={"path": "./auth.py:auth"})
    assert "401" in way_up("push", source, target.url, status=2)["lost"]
    report = way_up("push", source, target.url, DEVSERVER_PUSH_HEADER="x-user: ann")
    assert counts(report)["threads"] == (11, 0, 0)
    thread = httpx.get(f"{target.url}/threads/{ids['talk']}", headers={"x-user": "ann"}).json()
    assert thread["metadata"]["owner"] == "ann"
    (tmp_path / "headers").write_text("X-User: bob\n")
    report = way_up("push", source, target.url, "--header-file", str(tmp_path / "headers"), status=1)
    assert report["kinds"]["threads"] == {"copied": 0, "there": 0, "refused": 11}
    assert httpx.get(f"{target.url}/threads/{ids['talk']}", headers={"x-user": "ann"}).json() == thread


async def test_verify_finds_what_has_changed_there(source: Path, ids: Ids, begin: Making, connect: Connecting) -> None:
    target = begin("target")
    way_up("push", source, target.url)
    client: Any = connect(target)
    await client.threads.update_state(ids["talk"], {"messages": [{"role": "user", "content": "changed"}]})
    assert counts(way_up("push", source, target.url))["threads"] == (0, 11, 0)
    report = way_up("push", source, target.url, "--verify", status=1)
    assert [each["id"] for each in report["remarks"] if each["what"] == "refused"] == [ids["talk"]]


async def test_a_thread_with_a_live_run_is_copied_as_it_was_before(
    begin: Making, connect: Connecting, tmp_path: Path
) -> None:
    server, target = begin("source"), begin("target")
    here: Any = connect(server)
    there: Any = connect(target)
    thread = (await here.threads.create())["thread_id"]
    await here.runs.wait(thread, "asked", input={"mood": "sure"})
    settled = await here.threads.get_state(thread)
    await here.runs.create(thread, "asked", input={"mood": "sure"}, after_seconds=300)
    report = way_up("push", tmp_path / "source", target.url, "--only", "threads")
    assert [each["reason"] for each in report["remarks"]] == ["a run goes on: that is left out"]
    assert (await there.threads.get_state(thread))["values"] == settled["values"]
    assert (await here.threads.get(thread))["status"] == "busy"


async def test_pull_fills_a_database(
    ids: Ids, held: Any, source: Path, begin: Making, connect: Connecting, tmp_path: Path
) -> None:
    """Also while a server has it."""
    server = begin("source")
    near = write_travel(tmp_path / "near")
    report = way_up("pull", near, server.url, "--verify")
    assert counts(report) == {"assistants": (2, 7, 0), "threads": (11, 0, 0), "store": (3, 0, 0), "crons": (2, 0, 0)}
    again = begin("near")
    client: Any = connect(again)
    found = await contents(client)
    check_copies(found, held, ids)
    assert counts(way_up("pull", near, server.url))["threads"] == (0, 11, 0)
    await client.threads.delete(ids["talk"])
    assert counts(way_up("pull", near, server.url))["threads"] == (1, 10, 0)
    check_copies(await contents(client), held, ids)
    # and back: what has been there before is not doubled
    back = way_up("push", near, server.url)
    assert back["kinds"]["threads"]["copied"] == 0


async def test_shared_values_are_copied(begin: Making, connect: Connecting, tmp_path: Path) -> None:
    """An own kind in the report, though they are items of the store."""
    agent = {"agent": "./agent.py:graph"}
    text = """
        from typing import Annotated, TypedDict
        from devserver import SharedValue
        from langgraph.graph import StateGraph

        class State(TypedDict):
            text: str
            notes: Annotated[dict, SharedValue.on("user_id")]

        def note(state: State):
            return {"text": f"{len(state['notes'])} before", "notes": {state["text"]: {"done": False}}}

        graph = StateGraph(State).add_node(note).add_edge("__start__", "note").compile()
        """
    servers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_project(tmp_path / name, agent, {"agent.py": text})
        servers.append(LiveServer(tmp_path / name, ["--no-reload"]).start())
    clients: list[Any] = [connect(server) for server in servers]
    one, two = clients
    try:
        thread = (await one.threads.create())["thread_id"]
        mail = {"configurable": {"user_id": "ann@example.org"}}
        for word in ("a", "b"):
            await one.runs.wait(thread, "agent", input={"text": word}, config=mail)
        report = way_up("push", tmp_path / "one", servers[1].url, "--verify")
        assert counts(report) == {"assistants": (0, 1, 0), "threads": (1, 0, 0), "shared values": (2, 0, 0)}
        assert report["remarks"] == []
        assert (await two.threads.get_state(thread))["values"] == {"text": "1 before"}
        assert len(await two.threads.get_history(thread, limit=100)) == 6
        new = (await two.threads.create())["thread_id"]
        assert (await two.runs.wait(new, "agent", input={"text": "c"}, config=mail))["text"] == "2 before"
    finally:
        for server in servers:
            server.stop()


def test_old_databases_are_pushed_too(begin: Making, tmp_path: Path) -> None:
    """The copy is brought to today's form, not the file."""
    folder = write_travel(tmp_path / "old")
    with sqlite3.connect(folder / "devserver.db") as conn:
        conn.executescript((Path(__file__).parent / "data" / "schema-1.sql").read_text())
    before = (folder / "devserver.db").read_bytes()
    report = way_up("push", folder, begin("target").url, status=None)
    assert report["lost"] == ""
    assert (folder / "devserver.db").read_bytes() == before


async def test_a_table_tells_people_how_it_went(source: Path, begin: Making) -> None:
    target = begin("target")
    line = [sys.executable, str(ROOT / "devserver.py"), "push", target.url]
    done = subprocess.run(line, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["copied", "was", "there", "refused"]
    assert [line.split() for line in lines[1:5]] == [
        ["assistants", "2", "7", "0"], ["threads", "11", "0", "0"], ["store", "3", "0", "0"], ["crons", "2", "0", "0"],
    ]  # fmt: skip
    assert lines[-1] == "Copies belong to whom the target takes the sender for, and are as of now."

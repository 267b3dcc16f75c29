"""The test kit's fixtures, in projects that are tested as their authors would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kit_project import INI, Result, run_pytest, write_files

CHAT = """
import asyncio, os, time
import httpx
from typing import Annotated
from devserver import SharedValue
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

STARTED = []

class State(MessagesState):
    notes: Annotated[dict, SharedValue.on("user_id")]

def answer(state):
    text = state["messages"][-1].text
    if text == "fail":
        raise ValueError("no such luck")
    if text == "slow":
        time.sleep(3)
    if text == "ask":
        text = interrupt("sure?")
    if text == "env":
        text = f"{os.environ.get('KIT_VARIABLE')} {os.environ['LANGGRAPH_API_URL']}"
    calls = [{"name": "look", "args": {"at": "it"}, "id": "1"}] if text == "look" else []
    return {"messages": [AIMessage(f"you said {text}", tool_calls=calls)], "notes": {text: {"said": True}}}

async def then(state):
    if state["messages"][0].text == "call":
        async with httpx.AsyncClient() as client:
            await client.get("https://example.org")
    if state["messages"][0].text == "twice" and len(STARTED) == 0:
        STARTED.append(1)
        await asyncio.sleep(30)

graph = StateGraph(State).add_node(answer).add_node(then).add_edge(START, "answer").add_edge("answer", "then").compile()
"""
FILES = {
    "langgraph.json": """{"graphs": {"chat": "./chat.py:graph"}, "env": {"KIT_VARIABLE": "of the file"}}""",
    "chat.py": CHAT,
}
TESTS = """
import os, socket, threading, time, unittest
import httpx, pytest
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

URLS = set()

@pytest.fixture(autouse=True)
def same_address(devserver):
    URLS.add(devserver.url)
    assert len(URLS) == 1
    assert devserver.sync_client.threads.count() == 0
    assert len(devserver.sync_client.assistants.search()) == len(devserver.server.graphs.ids())

def test_a_run_tells_what_it_did(devserver):
    run = devserver.run("chat", "look", user="1")
    assert (run.nodes, run.text, run.status) == (["answer", "then"], "you said look", "success")
    assert run.tool_calls[0]["args"] == {"at": "it"}
    assert [message["type"] for message in run.messages] == ["human", "ai"]
    assert devserver.shared("notes", user_id="1") == {"look": {"said": True}}
    assert devserver.shared("notes", user_id="2") == {}

def test_the_graphs_own_exception(devserver):
    with pytest.raises(ValueError, match="no such luck"):
        devserver.run("chat", "fail", user="1")
    run = devserver.run("chat", "fail", user="1", check=False)
    assert (run.status, type(run.error)) == ("error", ValueError)
    with pytest.raises(ValueError, match="no such luck"):
        list(devserver.stream("chat", "fail", user="1"))

def test_a_question(devserver):
    run = devserver.run("chat", "ask", user="1")
    assert (run.status, run.interrupts[0]["value"]) == ("interrupted", "sure?")
    end = run.resume("yes", user="1")
    assert end.text == "you said yes"
    told = devserver.trajectory(run.thread_id)
    assert told["inputs"][1] == "__resuming__" and told["results"][0] == {}
    assert told["steps"] == [["__start__", "answer", "__interrupt__"], ["then"]]
    assert told["results"][1]["messages"][0]["content"] == "you said yes"

def test_too_slow(devserver):
    with pytest.raises(TimeoutError, match=r"answer is at .*chat.py:\\d+ \\(time.sleep"):
        devserver.run("chat", "slow", user="1", timeout=0.3)
    with pytest.raises(TimeoutError, match=r"answer is at .*chat.py"):
        list(devserver.stream("chat", "slow", user="1", timeout=0.3))

def test_unsettled(devserver):
    devserver.client  # which nobody uses
    thread = devserver.sync_client.threads.create()["thread_id"]
    say = {"input": {"messages": "slow"}, "config": {"configurable": {"user_id": "1"}}}
    devserver.sync_client.runs.create(thread, "chat", **say)
    with pytest.raises(TimeoutError, match=f"run .* of thread {thread} is running"):
        devserver.settle(timeout=0.3)

def test_no_network(devserver):
    with pytest.raises(RuntimeError, match=r"example.org:443 was called at .*test_all.py:\\d+"):
        httpx.get("https://example.org")
    with pytest.raises(RuntimeError, match=r"example.org:443 was called while then is at .*chat.py:\\d+ \\("):
        devserver.run("chat", "call", user="1")
    with pytest.raises(RuntimeError, match="192.0.2.1:9"), socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.sendto(b"x", ("192.0.2.1", 9))
    with pytest.raises(RuntimeError, match="example.org"):
        socket.gethostbyname("example.org")
    assert not [name for name in os.environ if name.lower() in ("https_proxy", "all_proxy")]
    assert os.environ["LANGSMITH_TRACING"] == "false"

@pytest.mark.devserver(network="allow")
def test_network(devserver):
    assert os.environ["HTTPS_PROXY"] == "http://127.0.0.1:9"
    with pytest.raises(httpx.ConnectError):
        httpx.get("https://example.org")

@pytest.mark.devserver(user="7")
def test_stream(devserver):
    events = [event.event for event in devserver.stream("chat", "hi", stream_mode="updates")]
    assert events == ["metadata", "updates", "updates"]

@pytest.mark.devserver(user="7")
@pytest.mark.parametrize("end", ["restart", "crash"])
def test_recovery(devserver, end, monkeypatch):
    import chat
    chat.STARTED.clear()
    thread = devserver.sync_client.threads.create()["thread_id"]
    say = {"input": {"messages": "twice"}, "config": {"configurable": {"user_id": "7"}}}
    made = devserver.sync_client.runs.create(thread, "chat", **say)
    until = time.monotonic() + 20
    while not chat.STARTED and time.monotonic() < until:
        time.sleep(0.01)
    monkeypatch.setattr(type(devserver.server.runner), "GRACE_SECONDS", 0.1)
    getattr(devserver, end)()
    devserver.settle()
    assert devserver.sync_client.runs.get(thread, made["run_id"])["status"] == "success"
    assert len(devserver.sync_client.threads.get_state(thread)["values"]["messages"]) == 2

def test_a_graph_of_the_test(devserver):
    pass

@pytest.mark.devserver(graphs={"echo": StateGraph(MessagesState).add_node("echo", lambda state: {"messages": "echo"})
    .add_edge(START, "echo")})
def test_a_graph_without_langgraph_json(devserver):
    assert devserver.run("echo", "hi").text == "echo"
    assert devserver.run("chat", "hi", user="1").text == "you said hi"

def test_the_environment(devserver):
    assert devserver.run("chat", "env", user="1").text == f"you said of the file {devserver.url}"

def test_webhooks(devserver):
    devserver.run("chat", "hi", user="1", webhook=devserver.webhook_url)
    devserver.settle()
    assert [sent["status"] for sent in devserver.webhooks] == ["success"]

@pytest.mark.devserver(user="7", clock="2026-01-01T00:30")
def test_a_day_of_crons_and_of_life(devserver):
    client, begun = devserver.sync_client, time.monotonic()
    short = client.threads.create(ttl={"ttl": 60 * 24, "strategy": "delete"})["thread_id"]
    say = {"input": {"messages": "hi"}, "config": {"configurable": {"user_id": "7"}}}
    client.crons.create("chat", schedule="0 * * * *", on_run_completed="keep", **say)
    client.store.put_item(["a"], "b", {"c": 1}, ttl=90)
    late = client.runs.create(client.threads.create()["thread_id"], "chat", after_seconds=5400, **say)
    assert devserver.clock.next().isoformat()[:16] == "2026-01-01T01:00"
    assert client.threads.count() == 3
    devserver.clock.advance(hours=22)
    assert client.threads.count() == 25 and client.threads.get(short)
    assert client.store.search_items(["a"])["items"] == []
    assert client.runs.get(late["thread_id"], late["run_id"])["status"] == "success"
    with pytest.raises(ValueError, match="cannot go back"):
        devserver.clock.to("2026-01-01")
    devserver.clock.to("2026-01-02T00:45Z")
    with pytest.raises(httpx.HTTPStatusError):
        client.threads.get(short)
    threads = client.threads.search(limit=100, sort_by="created_at", sort_order="asc")[1:]
    assert [each["created_at"][:16] for each in threads[:3]] == [f"2026-01-01T0{hour}:00" for hour in (1, 2, 3)]
    state = client.threads.get_state(threads[0]["thread_id"])
    assert state["created_at"].startswith("2026-01-01T01:00")
    print("SECONDS", time.monotonic() - begun)

def test_the_clock_is_each_tests_own(devserver):
    assert abs(devserver.clock.now().timestamp() - time.time()) < 5
    with pytest.raises(LookupError, match="nothing is due"):
        devserver.clock.next()

@pytest.mark.asyncio
@pytest.mark.devserver(user="7")
async def test_asyncio(devserver):
    run = await devserver.arun("chat", "hi")
    assert (await devserver.client.threads.get(run.thread_id))["status"] == "idle"

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
@pytest.mark.devserver(user="7")
async def test_anyio(devserver):
    run = await devserver.arun("chat", "hi")
    assert (await devserver.client.threads.get(run.thread_id))["status"] == "idle"

class TestUnit(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def take(self, devserver):
        self.devserver = devserver

    def test_unit(self):
        self.assertEqual(self.devserver.run("chat", "hi", user="1").text, "you said hi")

def test_no_answer_waits_for_nagle(devserver):
    assert devserver.sync_client.assistants.count()
    for connection in devserver._http.server_state.connections:
        assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
"""
FAILING = """
import pytest
from devserver import Kit

def test_fails(devserver: Kit):
    devserver.run("chat", "hi", user="1")
    devserver.run("chat", "fail", user="1")

def test_says_what_differs(devserver):
    assert devserver.run("chat", "hi", user="1").text == "you said ho"

def test_after():
    import os
    assert os.environ["LANGGRAPH_API_URL"]  # until the end of the session
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_files(folder, {**FILES, "test_all.py": TESTS, "test_failing.py": FAILING})
    return folder


def assert_all_passed(result: Result, source: str = TESTS) -> None:
    names = set(re.findall(r"def (test_\w+)\(", source))
    assert {name: how for name, how in result.tests.items() if how != "passed"} == {}, result.output
    assert {name.partition("[")[0] for name in result.tests} == names
    assert result.status == 0, result.output


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["-W", "error"], id="warnings are errors"),
        pytest.param(["-n", "4"], id="four workers", marks=pytest.mark.long),
    ],
)
def test_fixtures(project: Path, options: list[str]) -> None:
    variables = {"HTTPS_PROXY": "http://127.0.0.1:9", "LANGGRAPH_API_URL": ""}
    assert_all_passed(run_pytest(project, "test_all.py", *options, env=variables, bare="-W" in options))


def test_a_failed_test_tells_its_runs_and_keeps_its_database(project: Path) -> None:
    result = run_pytest(project, "test_failing.py", "--basetemp", str(project / "kept"))
    assert result.tests == {"test_fails": "failure", "test_says_what_differs": "failure", "test_after": "passed"}
    assert re.search(r"success +run \S+ of chat on thread \S+\n", result.output)
    assert re.search(r"error +run \S+ of chat on thread \S+\n +ValueError: no such luck\n", result.output)
    assert re.search(r"chat.py:\d+: in answer", result.output)  # the graph's own traceback
    assert "in wait" not in result.output
    assert "assert 'you said hi' == 'you said ho'" in result.output
    (file,) = re.findall(r"devserver up --config \S+ --db (\S+test_fails.db)", result.output)
    import devserver

    assert len(devserver.use_database(file, lambda db: db.read(devserver.contents))["runs"]) == 2


def test_the_environment_is_put_back(project: Path) -> None:
    check = """
    import os
    BEFORE = dict(os.environ)
    pytest_plugins = ["devserver"]
    def pytest_sessionfinish(session):
        session.config.add_cleanup(lambda: print("LEFT", {*os.environ.items()} - {*BEFORE.items()}))
    """
    write_files(project, {"conftest.py": check})
    result = run_pytest(project, "test_failing.py", "-s")
    write_files(project, {})
    (left,) = re.findall(r"LEFT (.*)", result.output)
    assert set(re.findall(r"\('(\w+)'", left)) <= {"PYTEST_CURRENT_TEST", "PYTEST_VERSION"}


@pytest.mark.parametrize(
    ("files", "ini", "problem"),
    [
        ({}, "devserver_config = else.json", "else.json not found"),
        ({}, "", "mark tests with graphs="),
        ({"langgraph.json": "{"}, "", "not readable as JSON"),
        ({"langgraph.json": '{"graphs": {"a": "./none.py:graph"}}'}, "", "none.py does not exist"),
        ({"test_it.py": "import pytest\n@pytest.mark.devserver(colour=1)\ndef test(devserver): pass"}, "", "colour"),
        ({**FILES, "seed.db": "no"}, "devserver_seed = seed.db", "seed.db"),
        (FILES, "devserver_seed = none.db", "there is no database"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, files: dict[str, str], ini: str, problem: str) -> None:
    write_files(tmp_path, {"test_it.py": "def test(devserver): pass", **files, "pytest.ini": f"{INI}{ini}\n"})
    result = run_pytest(tmp_path)
    assert result.status == 1
    assert problem in result.output
    assert "INTERNALERROR" not in result.output


def test_pytest_alone_imports_nothing(tmp_path: Path) -> None:
    """Who does not ask for the fixtures pays nothing: importing devserver imports no pytest, pytest no devserver."""
    write_files(
        tmp_path, {"conftest.py": "", "test_it.py": "import sys\ndef test(): assert 'devserver' not in sys.modules"}
    )
    assert run_pytest(tmp_path, bare=True).status == 0
    import subprocess
    import sys

    code = "import sys, devserver; assert not {'pytest', '_pytest', 'uvicorn'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_devserver_may_be_imported_before_pytest_takes_it(tmp_path: Path) -> None:
    files = {**FILES, "conftest.py": "import devserver\npytest_plugins = ['devserver']", "test_failing.py": FAILING}
    write_files(tmp_path, files)
    result = run_pytest(tmp_path, "-W", "error", "-k", "differs", bare=True)
    assert result.tests == {"test_says_what_differs": "failure"}, result.output

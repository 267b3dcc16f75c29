"""share() on other servers: the README's walk-through and more, under `langgraph dev`, under Aegra on PostgreSQL, and
with the stores and checkpointers of PostgreSQL in plain LangGraph. The peers' own code is never looked at."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from conftest import GRAPHS, ROOT, LiveServer, write_project
from httpx import HTTPStatusError
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient
from servers_elsewhere import ELSEWHERE, programs, running_postgres, server_elsewhere, stored_in_postgres
from test_shared_values import order
from walkthrough import FACTS, Event, walk_through

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.skipif(sys.platform == "win32", reason="POSIX")]

NAMES = ("steps", "as_node", "parallel", "called", "undeclared")
AGENT = (
    "from devserver import share\nfrom graphs.agent import builder\n\ngraph = share(builder.compile(name='agent'))\n"
)
A, B = {"a": {"n": 1}}, {"b": {"n": 2}}


@dataclass
class Server:
    """A server with the example agent and graphs of tests/graphs/shared.py, all given to share()."""

    who: str
    client: SyncLangGraphClient
    database: str = ""

    def stored(self, user: str) -> dict[str, Any]:
        """What is in the store that graphs have."""
        if self.database:
            return stored_in_postgres(self.database, f"scoped.user_id.info.{user}")
        found: list[Any] = []
        while not len(found) % 1000 and (page := self.page(user, len(found))):
            found += page
        return {item["key"]: item["value"] for item in found}

    def page(self, user: str, offset: int) -> list[Any]:
        found = self.client.store.search_items(["scoped", "user_id", "info", user], limit=1000, offset=offset)
        return list(found["items"])


@pytest.fixture(scope="module", params=["devserver", *ELSEWHERE])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    project = tmp_path_factory.mktemp("project")
    graphs = {"agent": "./shared_agent.py:graph", **{name: f"./shared.py:{name}" for name in NAMES}}
    write_project(project, graphs, {"shared_agent.py": AGENT, "shared.py": (GRAPHS / "shared.py").read_text()})
    shutil.copytree(ROOT / "graphs", project / "graphs", ignore=shutil.ignore_patterns("__pycache__"))
    with contextlib.ExitStack() as stack:
        if request.param == "devserver":
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("SHARE_EVERY_GRAPH", "1")
            live = LiveServer(project, ["--no-reload"]).start()
            stack.callback(live.stop)
            url, database = live.url, ""
        else:
            needed = tmp_path_factory.mktemp("needed")
            url, database = stack.enter_context(server_elsewhere(request.param, project, needed))
        client = get_sync_client(url=url, api_key=None)
        stack.callback(client.http.client.close)
        yield Server(request.param, client, database)


@pytest.fixture
def client(server: Server) -> SyncLangGraphClient:
    return server.client


@pytest.fixture
def user() -> str:
    return f"user-{uuid4()}"


def run(client: SyncLangGraphClient, graph: str, user: str, given: Any = None, **more: Any) -> Any:
    thread = more.pop("thread", None) or client.threads.create()["thread_id"]
    config: Any = {"configurable": {"user_id": user}}
    return client.runs.wait(thread, graph, input=given, config=config, **more)


def test_the_walk_through(server: Server, client: SyncLangGraphClient) -> None:
    def say(thread: str | None, who: str, text: str) -> tuple[str, list[Event]]:
        thread = thread or client.threads.create()["thread_id"]
        message: Any = {"role": "user", "content": text}
        config: Any = {"configurable": {"user_id": who}}
        stream = client.runs.stream(thread, "agent", input={"messages": [message]}, config=config)
        return thread, [(part.event, part.data) for part in stream if part.event in ("metadata", "values")]

    walk_through(LiveServer(Path()), say)
    assert sorted(server.stored("123").values(), key=str) == sorted(FACTS, key=str)


def test_what_is_put_into_the_store_is_what_graphs_see(server: Server, client: SyncLangGraphClient, user: str) -> None:
    """As a copy from another server is. Aegra's API puts items below the caller's name, where no graph looks."""
    client.store.put_item(["scoped", "user_id", "info", user], "a", {"n": 1})
    seen = {} if server.who == "Aegra" else A
    assert run(client, "steps", user, order({"put": B}))["seen"]["end"] == server.stored(user) == seen | B
    client.store.delete_item(["scoped", "user_id", "info", user], "a")
    assert run(client, "steps", user, order())["seen"]["end"] == server.stored(user) == B


@pytest.mark.parametrize("graph", ["as_node", "called", "undeclared"])
def test_graphs_in_graphs_share(graph: str, server: Server, client: SyncLangGraphClient, user: str) -> None:
    values = run(client, graph, user, order({"append": 1}, {"append": 2}, before={"put": A}))
    log = {"log": {"done": [1, 2]}}
    assert server.stored(user) == (log if graph == "undeclared" else A | log)
    assert values["seen"]["end" if graph == "undeclared" else "after"] == server.stored(user)
    assert "info" not in values


def test_half_a_superstep_is_stored_after_the_answer(server: Server, client: SyncLangGraphClient, user: str) -> None:
    thread = client.threads.create()["thread_id"]
    run(client, "parallel", user, order(other={"put": A}, beside={"ask": "?", "put": B}), thread=thread)
    assert client.threads.get(thread)["status"] == "interrupted"
    assert server.stored(user) == {}
    assert run(client, "parallel", user, thread=thread, command={"resume": "!"})["seen"]["after"] == A | B
    assert server.stored(user) == A | B


def test_update_state_is_of_the_last_run_s_user(server: Server, client: SyncLangGraphClient, user: str) -> None:
    """Under Aegra it is of the user that the request is from, as Aegra names that user in each config."""
    thread = client.threads.create()["thread_id"]
    run(client, "steps", user, order({"put": A}), thread=thread)
    client.threads.update_state(thread, {"info": {"a": None, **B}}, as_node="step")
    client.threads.update_state(thread, {"info": {"c": {}}}, as_node="step")
    changed = "anonymous" if server.who == "Aegra" else user
    assert server.stored(changed) == B | {"c": {}}
    assert "info" not in client.threads.get_state(thread)["values"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_every_durability_shares(durability: Any, server: Server, client: SyncLangGraphClient, user: str) -> None:
    values = run(client, "as_node", user, order({"put": A}, after={"put": B}), durability=durability)
    assert (values["seen"]["after"], server.stored(user)) == (A, A | B)


def test_a_user_with_dots_and_5000_items(server: Server, client: SyncLangGraphClient, user: str) -> None:
    many = {f"key {n}": {"n": n} for n in range(5000)}
    run(client, "steps", f"{user}@example.com", order({"put": many}))
    assert len(run(client, "steps", f"{user}@example.com", order())["seen"]["end"]) == 5000
    assert server.stored(f"{user}@example%2Ecom") == many


def test_a_run_without_user_fails(server: Server, client: SyncLangGraphClient) -> None:
    """Here it is refused; to Aegra each run has a user."""
    try:
        thread = client.threads.create()["thread_id"]
        values: Any = client.runs.wait(thread, "steps", input=order({"put": A}), raise_error=False)
    except HTTPStatusError:
        values = {"__error__": {}}
    assert ("__error__" in values) == (server.who != "Aegra")


@pytest.mark.skipif(bool(os.environ.get("DEVSERVER_POSTGRES")), reason="this is that run")
def test_the_tests_of_plain_langgraph_pass_on_postgres(tmp_path: Path) -> None:
    """PostgresSaver and PostgresStore, and their asynchronous forms, in an environment that has them."""
    with running_postgres() as database:
        packages = [
            "langchain",
            "langgraph-checkpoint-postgres",
            "psycopg[binary,pool]",
            "pytest",
            "pytest-asyncio",
            "pytest-timeout",
        ]
        python = programs("plain", tmp_path, *packages, "pytest-xdist") / "python"
        env = {**os.environ, "DEVSERVER_POSTGRES": database, "PYTEST_ADDOPTS": ""}
        line = [str(python), "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-k", "postgres"]
        done = subprocess.run([*line, "tests/test_share_plain.py"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 200

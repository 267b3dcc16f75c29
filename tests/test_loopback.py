"""get_client() without a URL: code that the server runs calls the server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, ROOT, LiveServer, eventually, write_project
from langgraph_sdk._shared import utilities
from langgraph_sdk.client import LangGraphClient
from test_auth import OWN, as_user

APP = (GRAPHS / "loopback.py").read_text()
NAMES = ("child", "caller", "nested", "waiting", "waiting_in_thread", "looking", "many", "slow_reader")
SERVED = {name: f"./loopback.py:{name}" for name in NAMES}
CALLS = ("by_wait", "by_stateless_wait", "by_join", "by_stream", "by_remote_graph", "by_remote_stream", "by_protocol")
PLACES = ("in_async_node", "in_sync_node", "in_thread", "in_tool", "made_at_import", "import_and_sync_node")
HTTP = {"app": "./loopback.py:app"}


def serve(folder: Path, *options: str, **settings: Any) -> LiveServer:
    files = {"loopback.py": APP, "own.py": OWN}
    write_project(folder, SERVED, files, **{"http": HTTP, **settings})
    return LiveServer(folder, ["--no-reload", *options]).start()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = serve(tmp_path_factory.mktemp("loopback"))
    yield live
    assert live.stop() == 0, live.log


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that runs one run at a time."""
    live = serve(tmp_path_factory.mktemp("narrow"), "--max-concurrency", "1")
    yield live
    assert live.stop() == 0, live.log


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with an Auth that keeps users apart."""
    live = serve(
        tmp_path_factory.mktemp("guarded"),
        auth={"path": "./own.py:auth"},
        http={**HTTP, "enable_custom_route_auth": True},
    )
    yield live
    assert live.stop() == 0, live.log


async def ask(client: LangGraphClient, graph: str, **asked: Any) -> Any:
    async with asyncio.timeout(20):
        return await client.runs.wait(None, graph, input=asked)


# Where a call can come from, and what it can be


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", PLACES)
async def test_a_graph_calls_its_own_server(client: LangGraphClient, tmp_path: Path, place: str, call: str) -> None:
    """Streams come as they are made: `by_stream` ends only if its first event comes before the child's end."""
    told = await ask(client, "caller", place=place, call=call, gate=str(tmp_path / "gate"))
    assert told["n"] == 11


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("path", ["/call", "/call-in-pool"])
def test_a_route_of_the_app_calls_its_own_server(http: httpx.Client, tmp_path: Path, path: str, call: str) -> None:
    answer = http.get(path, params={"call": call, "gate": str(tmp_path / "gate")}, timeout=20)
    assert answer.json()["n"] == 11


async def test_a_call_passes_the_whole_application_on_its_own_loop(client: LangGraphClient, server: LiveServer) -> None:
    told = await ask(client, "looking", how="app")
    assert told["seen"] == {
        "on_http_loop": True,
        "in_lifespan": 200,
        "state": "of the lifespan",
        "host": server.url.removeprefix("http://"),
        "path": "/where",
        "user": None,
    }


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"http": {**HTTP, "mount_prefix": "/my/api"}}, ()),
        ({"http": {**HTTP, "configurable_headers": {"includes": ["*"]}}}, ()),
        ({"http": {**HTTP, "cors": {"allow_origins": ["https://app.example.com"]}}}, ("--host", "0.0.0.0")),
        ({"http": None}, ("--host", "::1")),
    ],
)
async def test_calls_reach_a_server_however_it_is_set_up(
    tmp_path: Path, settings: dict[str, Any], options: tuple[str, ...]
) -> None:
    (tmp_path / "project").mkdir()
    live = serve(tmp_path / "project", *options, **{name: value for name, value in settings.items() if value})
    try:
        async with live.client() as client:
            for call in ("by_stream", "by_join"):
                told = await ask(client, "caller", place="made_at_import", call=call, gate=str(tmp_path / call))
                assert told["n"] == 11
    finally:
        assert live.stop() == 0, live.log


async def test_clients_leave_nothing_behind_in_the_process(client: LangGraphClient) -> None:
    assert (await ask(client, "looking", how="transports"))["seen"] == 0


# Slots: a run that waits for another one lets it run


@pytest.mark.parametrize("how", ["wait", "join", "stream", "remote", "protocol", "two at once", "in a thread"])
async def test_one_run_at_a_time_is_enough_for_runs_that_wait_for_each_other(narrow: LiveServer, how: str) -> None:
    async with narrow.client() as client:
        assert (await ask(client, "nested", level=3, how=how))["path"] == [3, 2, 1, 0]
        metrics = (await client.http.get("/metrics", params={"format": "json"}))["workers"]
        assert metrics == {"max": 1, "active": 0, "available": 1}


async def only_one_goes_on(client: LangGraphClient, gate: Path) -> None:
    """Of three runs that wait at a gate one has begun, until it opens."""
    gate.parent.mkdir()
    threads = [(await client.threads.create())["thread_id"] for _ in range(3)]
    runs = [await client.runs.create(thread, "child", input={"n": 1, "gate": str(gate)}) for thread in threads]
    await eventually(lambda: [*gate.parent.iterdir()])
    await asyncio.sleep(0.3)
    assert len([*gate.parent.iterdir()]) == 1
    gate.touch()
    for thread, run in zip(threads, runs, strict=True):
        await client.runs.join(thread, run["run_id"])
    assert len([*gate.parent.iterdir()]) == 4


async def test_slots_that_were_lent_come_back(narrow: LiveServer, tmp_path: Path) -> None:
    async with narrow.client() as client:
        for how in ("two at once", "in a thread", "stream"):
            await ask(client, "nested", level=2, how=how)
        await only_one_goes_on(client, tmp_path / "three" / "gate")


@pytest.mark.parametrize("graph", ["waiting", "waiting_in_thread"])
async def test_a_cancelled_run_gives_back_what_it_lent(narrow: LiveServer, tmp_path: Path, graph: str) -> None:
    async with narrow.client() as client:
        parent, child = [(await client.threads.create())["thread_id"] for _ in range(2)]
        asked = {"gate": str(tmp_path / "never"), "child": child, "how": "wait, cancel"}
        run = await client.runs.create(parent, graph, input=asked)
        await eventually(lambda: _status(client, child, "running"))
        await client.runs.cancel(parent, run["run_id"], wait=True)
        await eventually(lambda: _status(client, child, "interrupted"))
        await only_one_goes_on(client, tmp_path / "three" / "gate")


async def _status(client: LangGraphClient, thread_id: str, status: str) -> bool:
    return [run["status"] for run in await client.runs.list(thread_id)] == [status]


# Leaving


@pytest.mark.parametrize("leaving", ["cancel", "continue"])
@pytest.mark.parametrize("how", ["wait", "stream"])
@pytest.mark.parametrize("graph", ["waiting", "waiting_in_thread"])
async def test_cancelling_a_run_ends_its_calls_as_a_client_that_leaves(
    client: LangGraphClient, tmp_path: Path, graph: str, how: str, leaving: str
) -> None:
    gate, (parent, child) = tmp_path / "gate", [(await client.threads.create())["thread_id"] for _ in range(2)]
    run = await client.runs.create(parent, graph, input={"gate": str(gate), "child": child, "how": f"{how}, {leaving}"})
    await eventually(lambda: _status(client, child, "running"))
    await client.runs.cancel(parent, run["run_id"], wait=True)
    if graph == "waiting_in_thread":  # its thread is free again, whatever the child does
        await eventually(Path(f"{gate}.left").exists)
    assert await _status(client, parent, "interrupted")
    if leaving == "continue":
        assert await _status(client, child, "running")
        gate.touch()
    await eventually(lambda: _status(client, child, "success" if leaving == "continue" else "interrupted"))


@pytest.mark.parametrize("end", [LiveServer.stop, LiveServer.kill])
async def test_a_run_that_waits_goes_on_after_a_restart(
    make_server: Callable[..., LiveServer], tmp_path: Path, end: Callable[[LiveServer], Any]
) -> None:
    """It calls again at once, while the server starts."""
    live, gate = make_server(SERVED, {"loopback.py": APP}, "--no-reload"), tmp_path / "gate"
    async with live.client() as client:
        parent, child = [(await client.threads.create())["thread_id"] for _ in range(2)]
        asked = {"gate": str(gate), "child": child, "how": "wait, continue"}
        run = await client.runs.create(parent, "waiting", input=asked)
        await eventually(lambda: _status(client, child, "running"))
    end(live)
    live.start()
    gate.touch()
    async with live.client() as client, asyncio.timeout(20):
        assert (await client.runs.join(parent, run["run_id"]))["told"] == "it ended"
    assert live.stop() == 0, live.log


async def test_a_slow_reader_gets_all_there_is(client: LangGraphClient) -> None:
    told = await ask(client, "slow_reader", count=5000, pause=0.2)
    assert told["told"] == [*range(5000)]


SLOW = """
    import httpx
    from langgraph.graph import START, StateGraph
    from langgraph_sdk import get_client
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        seen: str

    async def call(state):
        try:
            await get_client(timeout=0.3).http.get("/slow")
        except httpx.ReadTimeout as error:
            return {"seen": str(error)}

    graph = StateGraph(State).add_node(call).add_edge(START, "call").compile()
"""


async def test_a_client_s_timeout_is_kept(make_server: Callable[..., LiveServer]) -> None:
    files = {"loopback.py": APP, "slow.py": SLOW}
    live = make_server({**SERVED, "slow": "./slow.py:graph"}, files, "--no-reload", http=HTTP)
    async with live.client() as client:
        assert await ask(client, "slow") == {"seen": "nothing came for 0.3 s"}


# An application: a chat that has what was said remembered once it is quiet, by a run of another graph on its thread

MEMORY = """
    import os
    from langgraph.config import get_store
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph_sdk import get_client

    async def answer(state):
        return {"messages": [("ai", "I see")]}

    async def schedule(state, config):
        configurable = config["configurable"]
        await get_client().runs.create(
            thread_id=configurable["thread_id"], assistant_id="memory", input={"messages": []},
            config={"configurable": {"user": configurable["user"]}}, multitask_strategy="enqueue", after_seconds=1,
        )

    async def remember(state, config):
        said = [message.content for message in state["messages"] if message.type == "human"]
        await get_store().aput(("memories", config["configurable"]["user"]), "said", {"all": said})

    builder = StateGraph(MessagesState).add_node(answer).add_node(schedule)
    chat = builder.add_edge(START, "answer").add_edge("answer", "schedule").compile()
    memory = StateGraph(MessagesState).add_node(remember).add_edge(START, "remember").compile()
"""


async def test_a_chat_that_has_a_memory_made_by_another_graph(make_server: Callable[..., LiveServer]) -> None:
    graphs = {"chat": "./memory.py:chat", "memory": "./memory.py:memory"}
    live = make_server(graphs, {"memory.py": MEMORY}, "--no-reload", "--max-concurrency", "1")
    config: Any = {"configurable": {"user": "ann"}}
    async with live.client() as client:
        thread_id = (await client.threads.create())["thread_id"]
        for text in ("I like pizza", "and cats"):
            said: Any = {"messages": [{"role": "user", "content": text}]}
            state: Any = await client.runs.wait(thread_id, "chat", input=said, config=config)
            assert state["messages"][-1]["content"] == "I see"

        async def memory() -> Any:
            found = (await client.store.search_items(("memories", "ann")))["items"]
            return found and found[0]["value"]["all"] == ["I like pizza", "and cats"]

        await eventually(memory)


# Under auth


async def test_a_run_calls_as_its_user(guarded: LiveServer) -> None:
    alice, bob = (httpx.AsyncClient(base_url=guarded.url, headers=as_user(name)) for name in ("alice", "bob"))
    async with alice, bob:
        made = {}
        for client in (alice, bob):
            made[client] = (await client.post("/threads", json={})).json()["thread_id"]
        for client in (alice, bob):
            asked = {"assistant_id": "looking", "input": {"how": "threads"}}
            answer = await client.post(f"/threads/{made[client]}/runs/wait", json=asked, timeout=20)
            assert answer.json()["seen"] == [made[client]]


@pytest.mark.parametrize("how", ["child", "foreign header", "app"])
async def test_the_api_and_the_app_know_a_run_s_user(guarded: LiveServer, how: str) -> None:
    """Credentials that the code sends make no other user of it."""
    asked = {"assistant_id": "looking", "input": {"how": how}}
    answer = httpx.post(f"{guarded.url}/runs/wait", json=asked, headers=as_user("alice"), timeout=20)
    assert answer.json()["seen"]["user"] == "alice"


async def test_code_outside_of_runs_calls_as_nobody(guarded: LiveServer) -> None:
    """Routes of the app, whoever asks for them, and threads that know nothing of the run they were started in."""
    assert httpx.get(f"{guarded.url}/status", headers=as_user("alice")).json() == 401
    asked = {"assistant_id": "looking", "input": {"how": "thread"}}
    answer = httpx.post(f"{guarded.url}/runs/wait", json=asked, headers=as_user("alice"), timeout=20)
    assert answer.json()["seen"] == 401


async def test_clients_over_the_network_can_not_pass_for_a_run(guarded: LiveServer) -> None:
    claims = {"run_user": "alice", "x-run-user": '{"identity": "alice"}', "host": "api"}
    assert httpx.post(f"{guarded.url}/noauth/threads", json={}, headers={"run_user": "alice"}).status_code == 401
    assert httpx.post(f"{guarded.url}/threads", json={}, headers=claims).status_code == 403  # of the host
    del claims["host"]
    assert httpx.post(f"{guarded.url}/threads", json={}, headers=claims).status_code == 401


# One process


TWO_SERVERS = """
    import asyncio, json, sys
    from pathlib import Path
    import httpx
    import early  # makes a client before there is a server
    import devserver

    async def start(folder, port):
        settings = devserver.read_settings(Path(folder) / "langgraph.json")
        address = f"http://localhost:{port}"
        db = devserver.Db(":memory:")
        await db.open()
        server = await devserver.start_server(settings, db, 4, address)
        return server, httpx.AsyncClient(transport=httpx.ASGITransport(devserver.create_app(server)), base_url=address)

    async def main():
        both = [await asyncio.create_task(start(folder, port)) for folder, port in (("one", 1), ("two", 2))]
        told = []
        for server, client in both * 2:
            run = {"assistant_id": "where", "input": {}}
            told.append((await client.post("/runs/wait", json=run)).json()["seen"])
            told.append((await client.get("/where")).json())
        for server, client in both:
            await client.aclose()
            await server.runner.stop()
            await server.db.close()
        print(json.dumps(told))

    asyncio.run(main())
"""
WHERE = """
    import asyncio
    from langgraph.graph import START, StateGraph
    from langgraph_sdk import get_client
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from typing_extensions import TypedDict
    import early

    class State(TypedDict, total=False):
        seen: list

    at_import = get_client()

    async def ports():
        clients = [get_client(), at_import, early.client]
        told = [await client.http.get("/port") for client in clients]
        # nothing tells a thread where it belongs, but a client may know
        elsewhere = lambda: asyncio.run(at_import.http.get("/port"))
        return [*told, await asyncio.get_running_loop().run_in_executor(None, elsewhere)]

    async def look(state):
        return {"seen": await ports()}

    async def where(request):
        return JSONResponse(await ports())

    async def port(request):
        return JSONResponse(request.url.port)

    graph = StateGraph(State).add_node(look).add_edge(START, "look").compile()
    app = Starlette(routes=[Route("/where", where), Route("/port", port)])
"""
EARLY = "from langgraph_sdk import get_client\nclient = get_client()\n"


def in_process(folder: Path, script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_servers_of_one_process_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(EARLY)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        graphs, http = {"where": f"./where_{name}.py:graph"}, {"app": f"./where_{name}.py:app"}
        write_project(tmp_path / name, graphs, {f"where_{name}.py": WHERE}, http=http)
    told = json.loads(in_process(tmp_path, TWO_SERVERS).splitlines()[-1])
    assert told == [[1] * 4, [1] * 4, [2] * 4, [2] * 4] * 2


RESUMED = """
    import asyncio, time
    from pathlib import Path
    import devserver, httpx

    async def main():
        settings = devserver.read_settings(Path("langgraph.json"))
        db = devserver.Db("kept.db")
        await db.open()
        server = await devserver.start_server(settings, db, 4, "http://localhost:1")
        time.sleep(1)  # runs that are resumed begin before there is an application
        app, left = devserver.create_app(server), Path("left")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:1") as client:
            if left.exists():
                print((await client.get(left.read_text())).json()["seen"]["path"])
            else:
                thread = (await client.post("/threads", json={})).json()["thread_id"]
                asked = {"assistant_id": "looking", "input": {"how": "app"}, "after_seconds": 1}
                run = (await client.post(f"/threads/{thread}/runs", json=asked)).json()["run_id"]
                left.write_text(f"/threads/{thread}/runs/{run}/join")
        await server.runner.stop()
        await db.close()

    asyncio.run(main())
"""


def test_a_resumed_run_may_call_before_the_application_is_made(tmp_path: Path) -> None:
    app = APP.replace('"in_lifespan": home["status"],', "").replace('threading.get_ident() == home["thread"]', "True")
    app = app.replace("request.state.opened", "None")  # nothing runs the lifespan here
    write_project(tmp_path, SERVED, {"loopback.py": app}, http=HTTP)
    in_process(tmp_path, RESUMED)
    time.sleep(1)
    assert in_process(tmp_path, RESUMED) == "/where\n"


def test_without_a_server_a_client_says_so(tmp_path: Path) -> None:
    script = """
        import asyncio
        import devserver, httpx
        from langgraph_sdk import get_client
        devserver.bind_sdk()
        try:
            asyncio.run(get_client().threads.create())
        except httpx.ConnectError as error:
            print(error)
    """
    assert in_process(tmp_path, script) == "no devserver runs in this process: give get_client() a url\n"


def test_calls_while_graphs_are_loaded_say_that_it_is_too_early(tmp_path: Path) -> None:
    early = """
        import asyncio, threading
        from langgraph_sdk import get_client

        def call():
            try:
                asyncio.run(get_client().threads.create())
            except Exception as error:
                print(error, flush=True)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    """
    write_project(tmp_path, {"child": "./early.py:child"}, {"early.py": textwrap.dedent(early) + APP})
    live = LiveServer(tmp_path, ["--no-reload"]).start()
    assert live.stop() == 0
    assert "still loads its graphs" in live.log


# An installed langgraph-api has a server of its own, which is not asked for
BESIDE = {
    "langgraph_api/__init__.py": "",
    "langgraph_api/server.py": "raise SystemExit('the server of another package was asked for')",
    "langgraph_api/asgi_transport.py": "raise SystemExit('the transport of another package was asked for')",
    "langgraph_api/cache.py": "raise KeyError('REDIS_URI')",
}


async def test_an_installed_langgraph_api_stays_out_of_it(
    make_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    probe = "import importlib.util, sys\nassert 'langgraph_api' not in sys.modules\n"
    probe += "assert importlib.util.find_spec('langgraph_api')\nimport langgraph_sdk.cache\n"
    live = make_server(SERVED, {"loopback.py": probe + APP, **BESIDE}, "--no-reload", http=HTTP)
    async with live.client() as client:
        told = await ask(client, "caller", place="made_at_import", call="by_stream", gate=str(tmp_path / "gate"))
    assert told["n"] == 11


async def test_reloaded_code_calls_its_own_server(make_server: Callable[..., LiveServer], tmp_path: Path) -> None:
    live = make_server(SERVED, {"loopback.py": APP}, http=HTTP)
    client = live.client()
    for step in (10, 20, 30):
        (live.folder / "loopback.py").write_text(APP.replace('state["n"] + 10', f'state["n"] + {step}'))

        async def is_new(step: int = step) -> bool:
            gate = str(tmp_path / f"gate{time.monotonic_ns()}")
            told = await ask(client, "caller", place="made_at_import", call="by_stream", gate=gate)
            return bool(told["n"] == 1 + step)

        await eventually(is_new)
    await client.aclose()


def test_the_sdk_still_has_the_private_names_that_are_replaced() -> None:
    """If this fails, a new langgraph-sdk makes get_client() without a URL in another way: devserver.bind_sdk has to
    follow. Look at `get_client` in langgraph_sdk/_async/client.py for how it chooses its transport."""
    spec = importlib.util.find_spec("langgraph_sdk._async.client")
    assert spec
    assert spec.loader
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)  # a copy: a server of another test may have bound the one that is in use
    assert client.get_asgi_transport is utilities.get_asgi_transport
    assert client._registered_transports is utilities._registered_transports
    code = client.get_client.__code__
    assert {"get_asgi_transport", "_registered_transports"} <= {*code.co_names}
    assert "__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT" in code.co_consts

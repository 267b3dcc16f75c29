"""Graphs and an app whose code calls its own server by get_client() without a URL, from wherever code can run."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client
from langgraph_sdk._shared import utilities
from langgraph_sdk.client import LangGraphClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from typing_extensions import TypedDict

made_at_import = get_client()


class Child(TypedDict, total=False):
    n: int
    gate: str
    user: str | None


async def pass_gate(state: Child, config: RunnableConfig) -> Child:
    """Say "first", leave a file that tells of the run, wait until the gate's file is there, and add 10."""
    get_stream_writer()("first")
    if state.get("gate"):
        Path(f"{state['gate']}.{config['configurable']['run_id']}").touch()
    while state.get("gate") and not Path(state["gate"]).exists():
        await asyncio.sleep(0.01)
    return {"n": state["n"] + 10, "user": config["configurable"].get("langgraph_auth_user_id")}


child = StateGraph(Child).add_node(pass_gate).add_edge(START, "pass_gate").compile()

# -- calls: each has the child add 10 to 1 --


async def by_wait(client: LangGraphClient, gate: str) -> Any:
    Path(gate).touch()
    thread = await client.threads.create()
    return await client.runs.wait(thread["thread_id"], "child", input={"n": 1, "gate": gate})


async def by_stateless_wait(client: LangGraphClient, gate: str) -> Any:
    Path(gate).touch()
    return await client.runs.wait(None, "child", input={"n": 1, "gate": gate})


async def by_join(client: LangGraphClient, gate: str) -> Any:
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "child", input={"n": 1, "gate": gate})
    Path(gate).touch()
    return await client.runs.join(thread_id, run["run_id"])


async def by_stream(client: LangGraphClient, gate: str) -> Any:
    """Open the gate only once the first event has come: a stream that is collected whole never ends."""
    thread_id = (await client.threads.create())["thread_id"]
    last: Any = None
    asked: Any = {"n": 1, "gate": gate}
    parts: Any = client.runs.stream(thread_id, "child", input=asked, stream_mode=["custom", "values"])
    async for part in parts:
        if part.event == "custom":
            assert part.data == "first"
            Path(gate).touch()
        last = part.data
    return last


async def by_remote_graph(client: LangGraphClient, gate: str) -> Any:
    Path(gate).touch()
    return await RemoteGraph("child", client=client).ainvoke({"n": 1, "gate": gate})


async def by_remote_stream(client: LangGraphClient, gate: str) -> Any:
    last: Any = None
    remote: Any = RemoteGraph("child", client=client)
    async for part in remote.astream({"n": 1, "gate": gate}, stream_mode=["custom", "values"]):
        if part.data == "first":
            Path(gate).touch()
        last = part.data
    return last


async def by_protocol(client: LangGraphClient, gate: str) -> Any:
    async with client.threads.stream(assistant_id="child") as thread:
        await thread.run.start(input={"n": 1, "gate": gate})
        async for _ in thread.values:  # the first is the input
            Path(gate).touch()
        return await thread.output


Call = Callable[[LangGraphClient, str], Coroutine[Any, Any, Any]]
CALLS: dict[str, Call] = {
    function.__name__: function
    for function in (by_wait, by_stateless_wait, by_join, by_stream, by_remote_graph, by_remote_stream, by_protocol)
}

# -- places: where a call can come from --


class Asked(TypedDict, total=False):
    place: str
    call: str
    gate: str
    n: int


async def in_async_node(state: Asked) -> Asked:
    client = made_at_import if state["place"] == "made_at_import" else get_client()
    return {"n": (await CALLS[state["call"]](client, state["gate"]))["n"]}


def in_sync_node(state: Asked) -> Asked:
    """On an event loop of its own, in a thread of the server's."""
    client = made_at_import if state["place"] == "import_and_sync_node" else get_client()
    return {"n": asyncio.run(CALLS[state["call"]](client, state["gate"]))["n"]}


def in_thread(state: Asked) -> Asked:
    """In a thread of the graph's own, which knows nothing of the run."""
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: asyncio.run(CALLS[state["call"]](get_client(), state["gate"]))).result()
    return {"n": found["n"]}


@tool
async def ask_child(call: str, gate: str) -> str:
    """Ask the child."""
    return str((await CALLS[call](get_client(), gate))["n"])


async def in_tool(state: Asked) -> Asked:
    asked = {"name": "ask_child", "args": {"call": state["call"], "gate": state["gate"]}, "id": "1"}
    told = await tools.ainvoke({"messages": [AIMessage("", tool_calls=[asked])]})
    return {"n": int(told["messages"][-1].content)}


tools = StateGraph(MessagesState).add_node("tools", ToolNode([ask_child])).add_edge(START, "tools").compile()


def place_of(state: Asked) -> str:
    return {"made_at_import": "in_async_node", "import_and_sync_node": "in_sync_node"}.get(
        state["place"], state["place"]
    )


places = StateGraph(Asked)
for node in (in_async_node, in_sync_node, in_thread, in_tool):
    places.add_node(node.__name__, node)
caller = places.add_conditional_edges(START, place_of, [*places.nodes]).compile()


# -- graphs that call themselves --


class Nested(TypedDict, total=False):
    level: int
    how: str
    path: list[int]


async def go_down(state: Nested) -> Nested:
    level, how, client = state["level"], state["how"], get_client()
    if level == 0:
        return {"path": [0]}
    asked: Any = {"level": level - 1, "how": how}
    thread_id = (await client.threads.create())["thread_id"]
    below: Any = None
    if how == "wait":
        below = await client.runs.wait(thread_id, "nested", input=asked)
    elif how == "join":
        run = await client.runs.create(thread_id, "nested", input=asked)
        below = await client.runs.join(thread_id, run["run_id"])
    elif how == "stream":
        async for part in client.runs.stream(thread_id, "nested", input=asked):
            below = part.data
    elif how == "protocol":
        async with client.threads.stream(thread_id, assistant_id="nested") as thread:
            await thread.run.start(input=asked)
            below = await thread.output
    elif how == "remote":
        below = await RemoteGraph("nested", client=client).ainvoke(asked)
    elif how == "two at once":
        found: list[Any] = await asyncio.gather(*(client.runs.wait(None, "nested", input=asked) for _ in range(2)))
        below = found[0]
    elif how == "in a thread":
        below = await asyncio.to_thread(lambda: asyncio.run(client.runs.wait(None, "nested", input=asked)))
    return {"path": [level, *below["path"]]}


nested = StateGraph(Nested).add_node(go_down).add_edge(START, "go_down").compile()


class Waiting(TypedDict, total=False):
    gate: str
    child: str
    how: str
    told: str


async def wait_for_child(state: Waiting) -> Waiting:
    asked: Any = {"n": 1, "gate": state["gate"]}
    client, way, leaving = get_client(), *state["how"].split(", ")
    given: Any = {"thread_id": state["child"], "assistant_id": "child", "input": asked, "on_disconnect": leaving}
    if way == "stream":
        async for _ in client.runs.stream(**given):
            pass
    else:
        await client.runs.wait(**given)
    return {"told": "it ended"}


def wait_in_thread(state: Waiting) -> Waiting:
    try:
        return asyncio.run(wait_for_child(state))
    finally:
        Path(f"{state['gate']}.left").touch()


class Many(TypedDict, total=False):
    count: int
    pause: float
    told: list[int]


async def count_up(state: Many) -> Many:
    tell = get_stream_writer()
    for number in range(state["count"]):
        tell(number)
    return {}


async def read_slowly(state: Many) -> Many:
    told: list[Any] = []
    async for part in get_client().runs.stream(None, "many", input=cast(Any, state), stream_mode="custom"):
        if part.event == "custom":
            told.append(part.data)
            if len(told) % 1000 == 0:
                await asyncio.sleep(state["pause"])
    return {"told": told}


many = StateGraph(Many).add_node(count_up).add_edge(START, "count_up").compile()
slow_reader = StateGraph(Many).add_node(read_slowly).add_edge(START, "read_slowly").compile()

waiting = StateGraph(Waiting).add_node(wait_for_child).add_edge(START, "wait_for_child").compile()
waiting_in_thread = StateGraph(Waiting).add_node(wait_in_thread).add_edge(START, "wait_in_thread").compile()


class Seen(TypedDict, total=False):
    how: str
    seen: Any


async def look(state: Seen) -> Seen:
    """What a call of this run sees."""
    client, asked = get_client(), {"n": 1}
    seen: Any = None
    match state["how"]:
        case "threads":
            seen = [thread["thread_id"] for thread in await client.threads.search()]
        case "child":
            seen = await client.runs.wait(None, "child", input=asked)
        case "foreign header":
            foreign = get_client(headers={"authorization": "Bearer mallory"})
            seen = await foreign.runs.wait(None, "child", input=asked)
        case "thread":
            with ThreadPoolExecutor(1) as pool:
                seen = pool.submit(lambda: asyncio.run(_status(client))).result()
        case "app":
            seen = await client.http.get("/where")
        case "transports":
            seen = len([get_client() for _ in range(100)] and utilities._registered_transports)
    return {"seen": seen}


async def _status(client: LangGraphClient) -> int:
    return (await client.http.client.post("/threads/search", json={})).status_code


looking = StateGraph(Seen).add_node(look).add_edge(START, "look").compile()

# -- http.app --

home: dict[str, Any] = {}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
    home["thread"] = threading.get_ident()
    home["status"] = (await made_at_import.http.client.get("/ok")).status_code
    yield {"opened": "of the lifespan"}


async def call(request: Request) -> Response:
    asked = request.query_params
    return JSONResponse(await CALLS[asked["call"]](get_client(), asked["gate"]))


def call_in_pool(request: Request) -> Response:
    asked = request.query_params
    return JSONResponse(asyncio.run(CALLS[asked["call"]](made_at_import, asked["gate"])))


async def where(request: Request) -> Response:
    return JSONResponse(
        {
            "on_http_loop": threading.get_ident() == home["thread"],
            "in_lifespan": home["status"],
            "state": request.state.opened,
            "host": request.headers["host"],
            "path": request.url.path,
            "user": getattr(request.scope.get("user"), "identity", None),
        }
    )


async def slow(request: Request) -> Response:
    await asyncio.sleep(60)
    return JSONResponse(None)


async def status(request: Request) -> Response:
    return JSONResponse(await _status(get_client()))


app = Starlette(
    routes=[
        Route("/call", call),
        Route("/call-in-pool", call_in_pool),
        Route("/where", where),
        Route("/slow", slow),
        Route("/status", status),
    ],
    lifespan=lifespan,
)

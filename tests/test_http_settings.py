"""What langgraph.json says of HTTP: an app of the user's, CORS, headers, a prefix, parts taken away, webhooks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually, write_project
from langgraph_sdk.client import LangGraphClient
from pydantic import ValidationError
from test_cli import devserver as command
from test_webhooks import Receiver
from test_webhooks import receiver as receiver
from websockets.asyncio.client import connect

import devserver
from devserver import HttpSettings

ID = "00000000-0000-0000-0000-000000000000"
BASIC = (GRAPHS / "basic.py").read_text()
SERVED = {"steps": "./basic.py:steps", "gated": "./basic.py:gated", "headed": "./headed.py:make"}

# Shows in its state what its configurable held when it ran, and in a node's name what its factory was given.
HEADED = """
    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        seen: dict[str, str]

    def make(config):
        tenant = config["configurable"].get("x-tenant", "none")
        def look(state, config):
            names = ("x-tenant", "x-user", "authorization", "x-api-key", "x-internal-a", "user_id", "checkpoint_ns")
            return {"seen": {name: config["configurable"][name] for name in names if name in config["configurable"]}}
        return StateGraph(State).add_node(tenant, look).add_edge(START, tenant).compile()
"""
WEBAPP = """
    from contextlib import asynccontextmanager
    from pathlib import Path
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route, WebSocketRoute

    class Stamp(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            response = await call_next(request)
            response.headers["x-stamp"] = request.app.state.stamp
            return response

    @asynccontextmanager
    async def lifespan(app):
        app.state.stamp = "of the app"
        yield {"opened": "of the lifespan"}
        Path("closed").touch()

    async def hello(request):
        return JSONResponse({"stamp": request.app.state.stamp, "opened": request.state.opened})

    async def own_info(request):
        return JSONResponse({"mine": True})

    async def list_threads(request):
        return JSONResponse(["mine"])

    async def change(request):
        return JSONResponse({"body": await request.json()})

    async def fail(request):
        raise {"key": KeyError("lost"), "http": HTTPException(403, "not for you"), "other": OSError("broken")}[
            request.path_params["how"]
        ]

    async def on_key_error(request, error):
        return PlainTextResponse("no such key", 418)

    async def links(request):
        return JSONResponse([request.url_for("hello").path, request.url_for("websocket").path])

    async def no_link(request):
        return JSONResponse(str(request.url_for("nowhere")))

    async def echo(websocket):
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close()

    app = Starlette(
        routes=[
            Route("/hello", hello),
            Route("/info", own_info),
            Route("/threads", list_threads, methods=["GET"]),
            Route("/change", change, methods=["POST"]),
            Route("/fail/{how}", fail),
            Route("/links", links),
            Route("/no-link", no_link),
            WebSocketRoute("/websocket", echo, name="websocket"),
        ],
        middleware=[Middleware(Stamp)],
        exception_handlers={KeyError: on_key_error},
        lifespan=lifespan,
    )
"""
FASTAPP = """
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse
    from pydantic import BaseModel

    app = FastAPI(title="mine")
    told = []

    class Order(BaseModel):
        pizza: str

    @app.post("/orders", summary="Order a pizza")
    async def order(order: Order) -> Order:
        return order

    @app.post("/told", include_in_schema=False)
    async def tell(run: dict):
        told.append(run)

    @app.get("/told", include_in_schema=False)
    async def list_told():
        return told

    @app.exception_handler(404)
    async def not_here(request, error):
        return PlainTextResponse("not here", 404)
"""
CORS = {
    "allow_origins": ["https://app.example.com"],
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["x-special"],
    "allow_credentials": True,
    "expose_headers": ["x-stamp"],
    "max_age": 7,
}
HEADERS = {"includes": ["X-*", "authorization"], "excludes": ["x-internal-*"]}


def serve(folder: Path, files: dict[str, str] | None = None, **settings: Any) -> LiveServer:
    write_project(folder, SERVED, {"basic.py": BASIC, "headed.py": HEADED, **(files or {})}, **settings)
    return LiveServer(folder, ["--no-reload"]).start()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server behind a Starlette app."""
    http = {"app": "./webapp.py:app", "cors": CORS, "configurable_headers": HEADERS}
    live = serve(tmp_path_factory.mktemp("webapp"), {"webapp.py": WEBAPP}, http=http)
    yield live
    assert live.stop() == 0, live.log
    assert (live.folder / "closed").exists()
    assert "not served" not in live.log


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server below a prefix, behind a FastAPI app."""
    http = {"app": "fastapp:app", "mount_prefix": "/my/api"}
    live = serve(tmp_path_factory.mktemp("prefixed"), {"fastapp.py": FASTAPP}, http=http)
    assert live.url.endswith("/my/api")
    yield live
    assert live.stop() == 0, live.log


def refusal(folder: Path, files: dict[str, str] | None = None, **settings: Any) -> str:
    """Why a server does not start."""
    write_project(folder, SERVED, {"basic.py": BASIC, **(files or {})}, **settings)

    def prepare() -> None:
        settings = devserver.read_settings(folder / "langgraph.json")
        settings.webhooks.filled_headers(os.environ)
        devserver.load_app(settings)

    with pytest.raises(devserver.StartError) as refused:
        prepare()
    return str(refused.value)


# An app of the user's


def test_routes_of_the_app_are_served_within_its_lifespan(http: httpx.Client) -> None:
    answer = http.get("/hello")
    assert answer.json() == {"stamp": "of the app", "opened": "of the lifespan"}
    assert http.get("/hello/").history == []
    assert http.get("/hello/", follow_redirects=True).json() == answer.json()
    assert http.get("/links").json() == ["/hello", "/websocket"]


def test_routes_of_the_app_go_before_those_of_the_api(http: httpx.Client) -> None:
    assert http.get("/info").json() == {"mine": True}
    assert http.get("/threads").json() == ["mine"]
    assert http.post("/threads", json={}).json()["status"] == "idle"
    assert http.get("/ok").json()["ok"] is True


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/hello", 200),
        ("GET", "/ok", 200),
        ("GET", f"/threads/{ID}", 404),
        ("DELETE", "/threads/search", 422),
        ("PUT", "/runs/wait", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/fail/key", 418),
        ("POST", "/threads/", 307),
    ],
)
def test_middleware_of_the_app_runs_for_all_routes(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.headers["x-stamp"]) == (status, "of the app")


async def test_exceptions_in_the_app_are_handled_by_it(http: httpx.Client, server: LiveServer) -> None:
    assert http.get("/fail/key").text == "no such key"
    assert (http.get("/fail/http").status_code, http.get("/fail/http").json()) == (403, {"detail": "not for you"})
    assert [httpx.get(f"{server.url}{path}").status_code for path in ("/fail/other", "/no-link")] == [500, 500]
    await eventually(lambda: "OSError: broken" in server.log and "NoMatchFound" in server.log)
    assert http.get("/nowhere").json() == {"detail": "Not Found"}


async def test_the_sdk_streams_through_the_app(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    parts = [part async for part in client.runs.stream(thread_id, "steps", input={"text": "a"}, stream_mode="updates")]
    assert [part.event for part in parts] == ["metadata", "updates", "updates", "updates"]
    state: Any = await client.threads.get_state(thread_id)
    assert state["values"]["total"] == 111


async def test_a_client_that_leaves_cancels_its_run_through_the_app(client: LangGraphClient, tmp_path: Path) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    given = {"gate": str(tmp_path / "never")}
    async for part in client.runs.stream(thread_id, "gated", input=given, on_disconnect="cancel"):
        if part.event == "values":
            break

    async def is_over() -> bool:
        [run] = await client.runs.list(thread_id)
        return run["status"] == "interrupted"

    await eventually(is_over)


async def test_web_sockets_of_both_are_served(server: LiveServer, client: LangGraphClient) -> None:
    async with connect(f"{server.url.replace('http', 'ws')}/websocket") as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
    thread_id = (await client.threads.create())["thread_id"]
    async with connect(f"{server.url.replace('http', 'ws')}/threads/{thread_id}/stream/events") as socket:
        await socket.send('{"id": 1, "method": "agent.getTree", "params": {}}')
        assert '"id":1' in str(await socket.recv())


def test_the_guard_stands_before_the_app(http: httpx.Client) -> None:
    assert http.post("/change", json=1).json() == {"body": 1}
    for origin, status in (("http://evil.com", 403), ("https://app.example.com", 200)):
        assert http.post("/change", json=1, headers={"origin": origin}).status_code == status
    assert http.get("/hello", headers={"host": "evil.com"}).status_code == 403


def test_cors_is_as_langgraph_json_says(http: httpx.Client) -> None:
    origin = {"origin": "https://app.example.com"}
    asking = {"access-control-request-method": "POST", "access-control-request-headers": "x-special"}
    for path in ("/threads", "/change"):
        told = http.options(path, headers={**origin, **asking}).headers
        assert told["access-control-allow-methods"] == "GET, POST"
        assert "x-special" in told["access-control-allow-headers"].split(", ")
        assert told["access-control-max-age"] == "7"
        assert told["access-control-allow-credentials"] == "true"
        got = http.post(path, json={}, headers=origin).headers
        assert got["access-control-allow-origin"] == origin["origin"]
        assert got["access-control-expose-headers"] == "x-stamp"
    for refused in ({"access-control-request-method": "DELETE"}, {**asking, "access-control-request-headers": "x-o"}):
        assert http.options("/threads", headers={**origin, **refused}).status_code == 400


def test_fastapi_says_what_it_is_in_the_document_of_the_api(prefixed: LiveServer) -> None:
    with prefixed.http() as http:
        document = http.get("/openapi.json").json()
        assert document["info"]["title"] == "devserver"
        assert document["servers"] == [{"url": "/my/api"}]
        assert document["paths"]["/orders"]["post"]["summary"] == "Order a pizza"
        assert "/threads" in document["paths"]
        assert "/told" not in document["paths"]
        assert {"Order", "HTTPValidationError", "RunCreateStateful"} <= set(document["components"]["schemas"])
        page = http.get("/docs").text
        assert "Order a pizza" in page
        assert "//cdn" not in page
        assert http.post("/orders", json={"pizza": "pepperoni"}).json() == {"pizza": "pepperoni"}
        assert http.post("/orders", json={}).json()["detail"][0]["loc"] == ["body", "pizza"]


def test_what_neither_has_is_for_the_app_to_say_and_what_the_api_lacks_for_the_api(prefixed: LiveServer) -> None:
    with prefixed.http() as http:
        assert http.get("/nowhere").text == "not here"
        assert http.get(f"/threads/{ID}").json()["detail"] == f"Thread with ID {ID} not found"


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("./missing.py:app", r"http\.app \(\./missing\.py:app\) cannot be imported: FileNotFoundError: .*missing\.py"),
        ("./broken.py:app", r"http\.app \(\./broken\.py:app\) .*: ZeroDivisionError: .* \(at .*broken\.py:2\)"),
        ("nowhere.mod:app", r"http\.app \(nowhere\.mod:app\) .*: ModuleNotFoundError: No module named 'nowhere'"),
        ("./basic.py:nothing", r"http\.app \(\./basic\.py:nothing\): there is no 'nothing' in \./basic\.py"),
        ("./basic.py:steps", r"http\.app \(.*\) is a CompiledStateGraph, not a Starlette or FastAPI application"),
        ("./app.ts:app", r"langgraph\.json: http\.app must be 'file\.py:variable'"),
        ("webapp", r"langgraph\.json: http\.app must be .*, not 'webapp'"),
        (["./webapp.py:app"], r"langgraph\.json: 'http\.app': Input should be a valid string"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_named(tmp_path: Path, app: Any, said: str) -> None:
    assert re.search(said, refusal(tmp_path, {"broken.py": "\n1 / 0\n"}, http={"app": app}))


def test_the_refusal_is_all_that_a_person_sees(tmp_path: Path) -> None:
    write_project(tmp_path, SERVED, {"basic.py": BASIC, "headed.py": HEADED}, http={"app": "./missing.py:app"})
    done = command(tmp_path, "up", "--port", "0", "--no-reload")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("devserver: http.app (./missing.py:app) cannot be imported: ")


def test_an_app_whose_lifespan_fails_stops_the_start(tmp_path: Path) -> None:
    app = """
        from contextlib import asynccontextmanager
        from starlette.applications import Starlette

        @asynccontextmanager
        async def lifespan(app):
            raise OSError("no database")
            yield

        app = Starlette(lifespan=lifespan)
    """
    write_project(tmp_path, SERVED, {"basic.py": BASIC, "headed.py": HEADED, "app.py": app}, http={"app": "app:app"})
    done = command(tmp_path, "up", "--port", "0", "--no-reload")
    assert done.returncode == 1
    assert "OSError: no database" in done.stderr
    assert done.stderr.strip().endswith("devserver: http.app failed to start: see above")


async def test_a_reload_says_that_it_leaves_the_app_alone(make_server: Callable[..., LiveServer]) -> None:
    live = make_server(
        {"steps": "./basic.py:steps"}, {"basic.py": BASIC, "webapp.py": WEBAPP}, http={"app": "webapp:app"}
    )
    (live.folder / "basic.py").write_text(BASIC + "\n")
    await eventually(lambda: "graphs reloaded, http.app not" in live.log)
    with live.http() as http:
        assert http.get("/hello").json()["stamp"] == "of the app"
        assert http.post("/runs/wait", json={"assistant_id": "steps", "input": {}}).json()["total"] == 111


# A prefix


async def test_the_sdk_works_below_a_prefix(prefixed: LiveServer, tmp_path: Path) -> None:
    client = prefixed.client()
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "gated", input={"gate": str(tmp_path / "gate")})
    joining = asyncio.ensure_future(client.runs.join(thread_id, run["run_id"]))
    (tmp_path / "gate").touch()
    assert (await joining)["trail"]
    seen: list[Any] = []
    parts = client.runs.stream(thread_id, "steps", input={}, on_run_created=seen.append, stream_resumable=True)
    assert [part.event async for part in parts][-1] == "values"
    assert (seen[0]["thread_id"], len(seen)) == (thread_id, 1)
    await client.aclose()


def test_locations_are_as_clients_resolve_them(prefixed: LiveServer) -> None:
    """Every SDK takes a location for a path below the URL that it was given, prefix included."""
    with prefixed.http() as http:
        thread_id = http.post("/threads", json={}).json()["thread_id"]
        for how, ending in (("wait", "join"), ("stream", "stream")):
            answer = http.post(f"/threads/{thread_id}/runs/{how}", json={"assistant_id": "steps", "input": {}})
            place = answer.headers["content-location"]
            assert http.get(place).json()["thread_id"] == thread_id
            assert answer.headers["location"] == f"{place}/{ending}"
            assert http.get(answer.headers["location"]).status_code == 200
        redirected = http.post("/threads/", json={}, follow_redirects=True)
        assert (redirected.status_code, redirected.history[0].status_code) == (200, 307)


def test_outside_of_the_prefix_there_is_only_health(prefixed: LiveServer) -> None:
    root = prefixed.url.removesuffix("/my/api")
    assert [httpx.get(f"{root}{path}").status_code for path in ("/ok", "/", "/metrics")] == [200] * 3
    for path in ("/info", "/threads/search", "/docs", "/told", "/my", "/my/apis/ok"):
        assert httpx.get(f"{root}{path}").json() == {"detail": "Not Found"}
    assert httpx.get(f"{root}/my/api/info", headers={"host": "evil.com"}).status_code == 403


# Parts taken away


def test_every_part_of_the_api_can_be_taken_away() -> None:
    """Each path belongs to one part at most; only health belongs to none."""
    parts = [name for name in HttpSettings.model_fields if name.startswith("disable_") and name != "disable_webhooks"]
    paths = {route.path for route in devserver.ROUTES} | {
        "/threads/{thread_id}/stream/events",
        "/mcp",
        "/ui/{assistant_id}",
        "/",
        "/ui",
        "/docs",
        "/openapi.json",
    }
    for path in paths:
        found = [part for part in parts if HttpSettings.model_validate({part: True}).disables(path)]
        assert len(found) == (path != "/ok"), (path, found)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/assistants/search", "assistants"),
        ("/threads/{thread_id}/state", "threads"),
        ("/threads/{thread_id}/stream", "threads"),
        ("/threads/{thread_id}/runs/{run_id}/join", "runs"),
        ("/threads/{thread_id}/commands", "runs"),
        ("/threads/{thread_id}/stream/events", "runs"),
        ("/runs/crons/search", "runs"),
        ("/store/items", "store"),
        ("/mcp", "mcp"),
        ("/.well-known/agent-card.json", "a2a"),
        ("/ui/{assistant_id}", "ui"),
        ("/metrics", "meta"),
    ],
)
def test_a_path_belongs_to_a_part(path: str, part: str) -> None:
    assert HttpSettings.model_validate({f"disable_{part}": True}).disables(path)


def test_what_is_taken_away_is_not_there(make_server: Callable[..., LiveServer]) -> None:
    parts = ("assistants", "threads", "store", "mcp", "a2a", "ui", "meta")
    http_settings = {f"disable_{part}": True for part in parts}
    live = make_server({"steps": "./basic.py:steps"}, {"basic.py": BASIC}, "--no-reload", http=http_settings)
    with live.http() as http:
        for method, path in (
            ("POST", "/assistants/search"),
            ("POST", "/threads"),
            ("GET", f"/threads/{ID}/state"),
            ("POST", "/store/items/search"),
            ("POST", "/mcp"),
            ("GET", f"/a2a/{ID}"),
            ("POST", "/ui/steps"),
            ("GET", "/"),
            ("GET", "/ui"),
            ("GET", "/info"),
            ("GET", "/metrics"),
            ("GET", "/docs"),
            ("GET", "/openapi.json"),
        ):
            answer = http.request(method, path, json={})
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"}), path
        assert http.get("/ok?check_db=nonsense").json() == {"ok": True}
        assert http.post("/runs/wait", json={"assistant_id": "steps", "input": {}}).json()["total"] == 111


# Headers


def look(http: httpx.Client, headers: dict[str, str], **more: Any) -> Any:
    sent = {"assistant_id": "headed", "input": {}, **more}
    return http.post("/runs/wait", json=sent, headers=headers).json()["seen"]


def test_headers_enter_the_configurable_as_langgraph_json_says(http: httpx.Client) -> None:
    headers = {"X-Tenant": "acme", "authorization": "Bearer b", "x-api-key": "secret", "x-internal-a": "a"}
    headers |= {"user_id": "header", "checkpoint_ns": "header"}
    seen = look(http, headers)
    assert {name: seen[name] for name in seen if name != "checkpoint_ns"} == {
        "x-tenant": "acme",
        "authorization": "Bearer b",
        "user_id": "",
    }
    assert seen["checkpoint_ns"] != "header"
    config = {"configurable": {"x-tenant": "body", "x-user": "u"}}
    seen = look(http, {"x-tenant": "header"}, config=config)
    assert (seen["x-tenant"], seen["x-user"]) == ("header", "u")
    assert look(http, {"x-tenant": "header"}, context={"x-user": "u"})["x-tenant"] == "header"


def test_headers_do_not_stay_with_thread_or_cron(http: httpx.Client) -> None:
    headers = {"x-tenant": "acme"}
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    sent = {"assistant_id": "headed", "input": {}}
    run = http.post(f"/threads/{thread_id}/runs", json=sent, headers=headers).json()
    assert run["kwargs"]["config"]["configurable"]["x-tenant"] == "acme"
    assert http.get(f"/threads/{thread_id}/runs/{run['run_id']}/join").json()["seen"]["x-tenant"] == "acme"
    assert http.get(f"/threads/{thread_id}").json()["config"] == {"configurable": {}}
    assert "x-tenant" not in http.post(f"/threads/{thread_id}/runs/wait", json=sent).json()["seen"]
    cron = http.post("/runs/crons", json={**sent, "schedule": "0 0 1 1 *"}, headers=headers).json()
    fired = http.post(f"/runs/crons/{cron['cron_id']}/fire", headers=headers).json()
    for made in (cron["payload"], fired["kwargs"]):
        assert "x-tenant" not in made["config"]["configurable"]


def test_a_factory_sees_headers_also_where_it_is_only_asked(http: httpx.Client) -> None:
    [assistant] = http.post("/assistants/search", json={"graph_id": "headed"}).json()
    for tenant, headers in (("none", {}), ("acme", {"x-tenant": "acme"})):
        drawn = http.get(f"/assistants/{assistant['assistant_id']}/graph", headers=headers).json()
        assert tenant in {node["id"] for node in drawn["nodes"]}


async def test_commands_carry_headers_too(server: LiveServer, client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    url = f"{server.url.replace('http', 'ws')}/threads/{thread_id}/stream/events"
    async with connect(url, additional_headers={"x-tenant": "acme"}) as socket:
        await socket.send('{"id": 1, "method": "run.start", "params": {"assistant_id": "headed", "input": {}}}')
        assert '"success"' in str(await socket.recv())
    [run] = await client.runs.list(thread_id)
    assert run["kwargs"]["config"]["configurable"]["x-tenant"] == "acme"  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ({}, set()),
        ({"excludes": ["x-b"]}, set()),
        ({"includes": ["*"]}, {"x-a", "x-b"}),
        ({"includes": ["x-a"]}, {"x-a"}),
        ({"includes": ["*-B", "none"]}, {"x-b"}),
        ({"includes": ["x-*"], "excludes": ["X-A"]}, {"x-b"}),
        ({"includes": ["x-api-key", "langgraph_auth_user_id", "__x", "checkpoint_id"]}, set()),
    ],
)
def test_patterns_choose_headers_but_never_keys(patterns: Any, found: set[str]) -> None:
    names = ("X-A", "x-b", "x-api-key", "x-tenant-id", "langgraph_auth_user_id", "__x", "checkpoint_id")
    headers = [(name.encode(), b"v") for name in names]
    assert devserver.HeaderPatterns.model_validate(patterns).select(headers) == dict.fromkeys(found, "v")


# Webhooks


async def test_webhooks_have_the_headers_of_langgraph_json(
    make_server: Callable[..., LiveServer], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LG_WEBHOOK_TOKEN", "s3cret")
    headers = {"Authorization": "Bearer ${{ env.LG_WEBHOOK_TOKEN }}${{env.LG_WEBHOOK_TAIL}}", "Content-Type": "x/y"}
    files = {"basic.py": BASIC}
    live = make_server(
        {"steps": "./basic.py:steps"}, files, "--no-reload", webhooks={"headers": headers}, env={"LG_WEBHOOK_TAIL": "!"}
    )
    with live.http() as http:
        http.post("/runs", json={"assistant_id": "steps", "input": {}, "webhook": receiver.url})
    await receiver.told()
    assert receiver.headers[0]["authorization"] == "Bearer s3cret!"
    assert receiver.headers[0].get_all("content-type") == ["application/json"]
    assert "not served" not in live.log


@pytest.mark.parametrize(
    ("webhooks", "said"),
    [
        ({"headers": {"a": "${{ env.LG_WEBHOOK_NOT_SET }}"}}, "LG_WEBHOOK_NOT_SET is not set"),
        ({"headers": {"a": "${{ env.HOME }}"}}, "the name of HOME does not begin with 'LG_WEBHOOK_'"),
        ({"headers": {"a": "${{ env.LG_WEBHOOK_A }}"}, "env_prefix": "MY_"}, "LG_WEBHOOK_A does not begin with 'MY_'"),
        ({"headers": {"a": "${{ HOME }}"}}, "a has a template that is not like ${{ env.NAME }}"),
        ({"headers": {"a": "${{ env.LG_WEBHOOK_BAD }}"}}, "the value of a cannot be sent in a header"),
        ({"headers": {"a": 1}}, "'webhooks.headers.a': Input should be a valid string"),
        ({"url": {"allowed_ports": ["80"]}}, "'webhooks.url.allowed_ports.0': Input should be a valid integer"),
        ({"url": []}, "'webhooks.url': must be an object"),
    ],
)
def test_webhook_settings_that_cannot_be_meant_stop_the_start(
    tmp_path: Path, webhooks: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LG_WEBHOOK_BAD", "top\nsecret")
    text = refusal(tmp_path, webhooks=webhooks)
    assert said in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("http://localhost:9000/x", None),
        ("http://LOCALHOST/x", None),
        ("/x", None),
        ("http://127.0.0.1/x", "Webhook domain not allowed"),
        ("http://xlocalhost/x", "Webhook domain not allowed"),
        ("http://localhost.evil.com/x", "Webhook domain not allowed"),
        ("http://localhost:9001/x", "Webhook port 9001 not allowed"),
        ("https://localhost/x", "Webhook port 443 not allowed"),
        ("http://localhost/" + "x" * 100, "Webhook URL too long"),
        ("/" + "x" * 100, "Webhook URL too long"),
    ],
)
def test_webhooks_go_to_allowed_places(url: str, detail: str | None) -> None:
    rules = {"require_https": False, "allowed_domains": ["Localhost", "*.localhost"], "allowed_ports": [80, 9000]}
    allowed = devserver.WebhookUrls.model_validate({**rules, "max_url_length": 60})
    if detail is None:
        devserver.check_webhook(url, allowed)
    else:
        with pytest.raises(devserver.Invalid, match=detail):
            devserver.check_webhook(url, allowed)


@pytest.mark.parametrize(
    ("host", "is_in"),
    [("a.b.com", True), ("x.a.b.com", True), ("b.com", False), ("ab.com", False), ("a.b.com.x", False)],
)
def test_a_wildcard_is_every_subdomain_but_no_apex(host: str, is_in: bool) -> None:
    assert devserver._is_in_domain(host, "*.b.com") is is_in


async def test_a_webhook_that_is_only_a_path_leads_to_the_app(prefixed: LiveServer) -> None:
    with prefixed.http() as http:
        sent = {"assistant_id": "steps", "input": {"text": "told"}, "webhook": "/my/api/told", "on_completion": "keep"}
        run = http.post("/runs", json=sent).json()
        [told] = await eventually(lambda: http.get("/told").json())
        assert (told["run_id"], told["status"], told["values"]["text"]) == (run["run_id"], "success", "told!")


async def test_disabled_webhooks_are_checked_but_not_sent(
    make_server: Callable[..., LiveServer], receiver: Receiver
) -> None:
    files = {"basic.py": BASIC}
    live = make_server({"steps": "./basic.py:steps"}, files, "--no-reload", http={"disable_webhooks": True})
    with live.http() as http:
        sent = {"assistant_id": "steps", "input": {}, "webhook": receiver.url}
        assert http.post("/runs/wait", json=sent).json()["total"] == 111
        assert http.post("/runs/wait", json={**sent, "webhook": "ftp://x"}).status_code == 422

    def left() -> int:
        with contextlib.closing(sqlite3.connect(live.folder / "devserver.db")) as conn:
            return int(conn.execute("SELECT count(*) FROM webhooks").fetchone()[0])

    await eventually(lambda: left() == 0)
    assert receiver.got == []


# The rest of langgraph.json


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encryption": {"path": "./e.py:e"}}, "'encryption' is not served yet, and without it everything would"),
        ({"http": {"enable_custom_route_auth": True}}, "http.enable_custom_route_auth"),
        ({"http": {"middleware_order": "auth_first"}}, "auth_first"),
        ({"http": {"middleware_order": "first"}}, "'http.middleware_order': Input should be 'middleware_first'"),
        ({"http": {"mount_prefix": "api"}}, "'http.mount_prefix': it must look like '/api'"),
        ({"http": {"mount_prefix": "/api/"}}, "'http.mount_prefix'"),
        ({"http": {"disable_runs": "yes"}}, "'http.disable_runs': Input should be a valid boolean"),
        ({"http": {"cors": {"allow_origins": "*"}}}, "'http.cors.allow_origins': Input should be a valid list"),
        ({"http": {"cors": {"allow_origin_regex": "("}}}, "'http.cors.allow_origin_regex'"),
        ({"http": {"cors": {"allow_origin_regex": "(?i)x"}}}, "'http.cors.allow_origin_regex'"),
        ({"http": []}, "'http': must be an object"),
    ],
)
def test_what_must_not_be_ignored_stops_the_start(tmp_path: Path, settings: Any, said: str) -> None:
    assert said in refusal(tmp_path, **settings)


def test_what_is_ignored_is_named_once(make_server: Callable[..., LiveServer]) -> None:
    http = {
        "logging_headers": {"includes": ["*"]},
        "cors": {"odd": 1, "max_age": None},
        "app": None,
        "disable_x": False,
    }
    webhooks = {"retries": 3, "url": {"allowed_hosts": ["x"], "require_https": True}}
    live = make_server(
        {"steps": "./basic.py:steps"},
        {"basic.py": BASIC},
        http=http,
        webhooks=webhooks,
        ui={"steps": "./ui.tsx"},
        ui_config={"shared": ["x"]},
        surprise=1,
    )
    [warning] = [line for line in live.lines if "not served" in line]
    names = "ui, ui_config, surprise, http.logging_headers, http.cors.odd, webhooks.retries, webhooks.url.allowed_hosts"
    assert warning.strip().endswith(f"ignored: {names}")
    with live.http() as client:
        refused = client.post("/ui/steps", json={"name": "chart"})
        assert refused.status_code == 501
        assert "need a JavaScript bundler" in refused.json()["detail"]
        assert client.post("/ui/other", json={"name": "chart"}).text == "UI not found for graph 'other'"


def test_null_is_as_good_as_absent() -> None:
    assert HttpSettings.model_validate({"cors": None, "app": None}) == HttpSettings()
    with pytest.raises(ValidationError):
        HttpSettings.model_validate([])


# Metrics


def test_requests_are_counted_by_method_route_and_status(prefixed: LiveServer) -> None:
    with prefixed.http() as http:

        def count(method: str, path: str, status: int) -> int:
            found = http.get("/metrics", params={"format": "json"}).json()["api"]["http_requests_total"]
            wanted = {"method": method, "path": path, "status": status}
            return sum(each["count"] for each in found if each.items() >= wanted.items())

        asked = [("GET", "/threads/{thread_id}", 404), ("POST", "/orders", 422), ("GET", "", 404)]
        before = [count(*each) for each in asked]
        for method, path, _ in asked[:2]:
            http.request(method, path.format(thread_id=ID), json={})
        httpx.get(prefixed.url.replace("/my/api", "/nowhere"))
        http.get("/ok")
        assert [count(*each) for each in asked] == [number + 1 for number in before]
        assert count("GET", "/ok", 200) == count("GET", "/metrics", 200) == 0
        text = http.get("/metrics").text
    labels = 'method="GET",path="/threads/{thread_id}"'
    counted = re.search(rf'^lg_api_http_requests_total{{{re.escape(labels)},status="404"}} (\d+)$', text, re.M)
    assert counted

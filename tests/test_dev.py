"""`devserver dev` as the stand-in for `langgraph dev`: its flags, its environment, what it says, how a start fails."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from conftest import GRAPHS, ROOT, LiveServer, posix_only, write_project
from test_cli import USER, environment, started, until, wait_run

import devserver

SEES = """
    import os
    from typing import Any
    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    AT_IMPORT = os.environ.get("LANGGRAPH_API_URL")

    class State(TypedDict, total=False):
        seen: dict[str, Any]

    def look(state, config):
        given = {key: value for key, value in config["configurable"].items() if key in ("model", "size")}
        return {"seen": {"at_import": AT_IMPORT, "now": os.environ.get("LANGGRAPH_API_URL"), "given": given}}

    graph = StateGraph(State).add_node(look).add_edge(START, "look").compile()
"""
APP = """
    import os
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    AT_IMPORT = os.environ.get("LANGGRAPH_API_URL")
    told = []

    async def see(request):
        return JSONResponse({"at_import": AT_IMPORT, "told": told})

    async def tell(request):
        told.append(await request.json())
        return JSONResponse({})

    app = Starlette(routes=[Route("/see", see), Route("/tell", tell, methods=["POST"])])
"""
DEV = ("-m", "devserver", "dev")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_project(tmp_path, {"sees": "./sees.py:graph"}, {"sees.py": SEES})
    return tmp_path


def run_dev(folder: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """A start that ends by itself."""
    env = environment(**more.pop("env", {}))
    command = [sys.executable, *DEV, "--port", "0", "--no-reload", *arguments]
    return subprocess.run(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, timeout=40, **more)


def refusal(folder: Path, *arguments: str, **more: Any) -> str:
    """The one line that a start which fails leaves; everything is closed then."""
    done = run_dev(folder, *arguments, stdout=more.pop("stdout", subprocess.DEVNULL), **more)
    assert done.returncode == 1, done.stderr
    [line] = [each for each in done.stderr.splitlines() if " INFO " not in each]
    assert line.startswith("devserver: ")
    assert {path.name for path in folder.glob("*.db*")} <= {"devserver.db"}, "neither log nor lock is left"
    return line


# -- the flags of langgraph dev --

# Every option of `langgraph dev` (langgraph-cli 0.4.40), what happens to it here, and its arguments in a test.
FLAGS: dict[str, tuple[str, list[str]]] = {
    "--host": ("honoured", ["127.0.0.1"]),
    "--port": ("honoured", ["0"]),
    "--no-reload": ("honoured", []),
    "--config": ("honoured", ["langgraph.json"]),
    "--n-jobs-per-worker": ("honoured", ["3"]),
    "--server-log-level": ("honoured", ["WARNING"]),
    "--ssl-certfile": ("honoured", ["cert.pem"]),
    "--ssl-keyfile": ("honoured", ["key.pem"]),
    "--debug-port": ("honoured", ["5678"]),
    "--wait-for-client": ("honoured", []),
    "--no-browser": ("accepted", []),
    "--allow-blocking": ("accepted", []),
    "--studio-url": ("accepted", ["https://smith.example.com"]),
    "--tunnel": ("refused", []),
}


@pytest.mark.parametrize("command", ["dev", "up"])
@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_of_langgraph_dev_is_known(flag: str, command: str) -> None:
    fate, _ = FLAGS[flag]
    option = next(p for p in devserver.main.commands[command].params if flag in (*p.opts, *p.secondary_opts))
    assert isinstance(option, click.Option)
    changes_nothing = not option.expose_value
    assert changes_nothing == (fate == "accepted" and flag != "--no-browser"), "which is the other side of --open"


def test_dev_and_up_are_one_command() -> None:
    assert devserver.main.commands["dev"] is devserver.main.commands["up"]


def test_dev_starts_with_all_flags_that_need_nothing_else(tmp_path: Path) -> None:
    graphs = {"gates": "./crash_gates.py:gates", "fails": "./crash_gates.py:fails"}
    write_project(tmp_path, graphs, {"crash_gates.py": (GRAPHS / "crash_gates.py").read_text()})
    apart = ("--ssl-certfile", "--ssl-keyfile", "--debug-port", "--wait-for-client", "--tunnel")
    flags = [each for flag, (_, given) in FLAGS.items() if flag not in apart for each in (flag, *given)]
    with started(tmp_path, *DEV, *flags) as dev:
        assert re.search(r"Reload +off", dev.output)
        figures = httpx.get(f"{dev.url}/metrics", params={"format": "json"}).json()
        assert figures["workers"]["max"] == 3
        wait_run(dev.url, "gates")
        wait_run(dev.url, "fails")
        until(lambda: "graph fails error" in dev.output)
        assert "graph gates success" not in dev.output, "that is less than a warning"
    assert dev.process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tunnel"], "--tunnel is not served"),
        (["--ssl-certfile", "sees.py"], "need each other"),
        (["--ssl-keyfile", "sees.py"], "need each other"),
        (["--ssl-certfile", "gone.pem", "--ssl-keyfile", "sees.py"], "gone.pem"),
        (["--wait-for-client"], "--wait-for-client needs --debug-port"),
        (["--n-jobs-per-worker", "0"], "--n-jobs-per-worker"),
        (["--server-log-level", "loud"], "--server-log-level"),
    ],
)
def test_flags_that_cannot_be_honoured_are_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(project)
    done = CliRunner().invoke(devserver.main, ["dev", *arguments])
    assert done.exit_code == 2
    assert said in done.output
    assert not (project / "devserver.db").exists()


# -- https --


@pytest.fixture
def certified(project: Path) -> Path:
    """A project with a certificate for localhost that nobody knows."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is absent")
    command = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(["openssl", *command.split(), *more], cwd=project, check=True, capture_output=True)
    return project


TLS = ("--port", "0", "--no-reload", "--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem")


def test_with_a_certificate_the_address_is_https_everywhere(certified: Path) -> None:
    for name in ("xdg-open", "open"):
        (certified / name).write_text(f'#!/bin/sh\necho "$1" > {certified}/opened\n')
        (certified / name).chmod(0o755)
    http = {"app": "./app.py:app"}
    write_project(certified, {"sees": "./sees.py:graph"}, {"sees.py": SEES, "app.py": APP}, http=http)
    path, trusted = f"{certified}:{os.environ['PATH']}", ssl.create_default_context(cafile=str(certified / "cert.pem"))
    with (
        started(certified, *DEV, *TLS, "--open", trusted=trusted, PATH=path) as dev,
        httpx.Client(base_url=dev.url, verify=trusted, timeout=20) as http_client,
    ):
        assert dev.url.startswith("https://localhost:")
        assert f"LANGGRAPH_API_URL={dev.url}\n" in dev.output
        answer = http_client.post("/runs/wait", json={"assistant_id": "sees", "input": {}, "webhook": "/tell"})
        assert answer.json()["seen"]["now"] == answer.json()["seen"]["at_import"] == dev.url
        assert until((certified / "opened").exists)
        assert until((certified / "opened").read_text).strip() == f"{dev.url}/ui"  # the root is the app's own
        until(lambda: http_client.get("/see").json()["told"])  # the webhook: only a path, so it leads to this server
        card = http_client.get(f"/a2a/{devserver.system_assistant_id('sees')}").json()
        assert card["url"].startswith("https://")
        listing = [sys.executable, "-m", "devserver", "cron", "list"]  # asks the server that has the database
        done = subprocess.run(listing, cwd=certified, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        page = http_client.post("/threads", json={}, headers={"origin": "https://localhost:3000"})
        assert page.headers["access-control-allow-origin"] == "https://localhost:3000"


# -- a debugger --


class Debugger(threading.Thread):
    """Attaches by the Debug Adapter Protocol, sets a breakpoint, and goes on each time that it is reached."""

    def __init__(self, port: int, file: Path, line: int) -> None:
        super().__init__(daemon=True)
        self.port, self.breakpoint = port, {"source": {"path": str(file)}, "breakpoints": [{"line": line}]}
        self.events: list[str] = []

    def run(self) -> None:
        self.connection: socket.socket = until(lambda: connects(self.port), 30)
        gone = contextlib.suppress(OSError)  # at last with the server
        with gone, self.connection, self.connection.makefile("rb") as messages:
            self.send("initialize", adapterID="test")
            self.send("attach", justMyCode=True)
            while header := messages.readline():
                length = int(header.partition(b":")[2])
                message = json.loads(messages.read(2 + length))
                if message["type"] == "event":
                    self.events.append(message["event"])
                    self.answer(message)

    def answer(self, event: dict[str, Any]) -> None:
        if event["event"] == "initialized":
            self.send("setBreakpoints", **self.breakpoint)
            time.sleep(0.5)
            self.send("configurationDone")
        elif event["event"] == "stopped":
            self.send("continue", threadId=event["body"]["threadId"])
        elif event["event"] == "terminated":
            self.send("disconnect")

    def send(self, command: str, **arguments: Any) -> None:
        body = json.dumps({"seq": 1, "type": "request", "command": command, "arguments": arguments}).encode()
        self.connection.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


def test_a_debugger_is_waited_for_and_stops_in_nodes(project: Path) -> None:
    pytest.importorskip("debugpy")
    port = free_port()
    write_project(project, {"sees": "./sees.py:graph"}, {"sees.py": f"print('LOADED', flush=True)\n{dedent(SEES)}"})
    (line,) = [n for n, text in enumerate((project / "sees.py").read_text().splitlines(), 1) if "given = " in text]
    debugger = Debugger(port, project / "sees.py", line)
    debugger.start()
    more = ("--debug-port", str(port), "--wait-for-client")
    with started(project, *DEV, "--port", "0", "--no-reload", *more) as dev:
        assert dev.output.index("a debugger may attach") < dev.output.index("LOADED")
        assert wait_run(dev.url, "sees", input={})["seen"]["now"] == dev.url
        assert debugger.events.index("initialized") < debugger.events.index("stopped")


@posix_only
def test_a_start_that_waits_for_a_debugger_can_be_interrupted(project: Path) -> None:
    pytest.importorskip("debugpy")
    command = [sys.executable, *DEV, "--port", "0", "--debug-port", str(free_port()), "--wait-for-client"]
    with subprocess.Popen(
        command,
        cwd=project,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # it is ignored in the background of a shell
    ) as process:
        assert process.stderr
        next(line for line in process.stderr if "a debugger may attach" in line)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def connects(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        return socket.create_connection(("127.0.0.1", port), 30)
    return None


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


# -- what the environment says --


def test_graphs_and_app_know_the_address_before_they_are_loaded(tmp_path: Path) -> None:
    """Whatever the shell or the env file say: they may speak of another server, or of an old one."""
    http = {"app": "./app.py:app", "mount_prefix": "/my/api"}
    files = {"sees.py": SEES, "app.py": APP, ".env": "LANGGRAPH_API_URL=http://localhost:1\n"}
    write_project(tmp_path, {"sees": "./sees.py:graph"}, files, http=http, env=".env")
    command = (*DEV, "--port", "0", "--no-reload")
    with started(tmp_path, *command, LANGGRAPH_API_URL="http://localhost:2") as dev:
        assert dev.url.endswith("/my/api")
        seen = wait_run(dev.url, "sees", input={})["seen"]
        assert seen["at_import"] == seen["now"] == dev.url
        assert httpx.get(f"{dev.url}/see").json()["at_import"] == dev.url
        assert f"  Clients   export LANGGRAPH_API_URL={dev.url}\n" in dev.output


def test_a_request_that_comes_before_the_graphs_are_loaded_waits(project: Path) -> None:
    slow = f"import time\ntime.sleep(2)\n{dedent(SEES)}"
    write_project(project, {"sees": "./sees.py:graph"}, {"sees.py": slow})
    port = free_port()
    early: list[tuple[int, float]] = []

    def ask() -> None:
        until(lambda: connects(port), 30).close()
        begun = time.monotonic()
        early.append((httpx.get(f"http://127.0.0.1:{port}/ok", timeout=30).status_code, time.monotonic() - begun))

    client = threading.Thread(target=ask)
    client.start()
    with started(project, *DEV, "--port", str(port), "--no-reload"):
        client.join()
    [(status, seconds)] = early
    assert status == 200
    assert seconds > 1


CONFIG = {"sees": {"configurable": {"model": "small"}, "recursion_limit": 7}}


def test_a_graph_s_own_assistant_starts_with_langgraph_config(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assistant_id = devserver.system_assistant_id("sees")
    live = LiveServer(project, ["--no-reload"])

    def serve(text: str, check: Callable[[str], None]) -> None:
        monkeypatch.setenv("LANGGRAPH_CONFIG", text)
        try:
            check(live.start().url)
        finally:
            live.stop()
        assert "Traceback" not in live.log

    def assistant(url: str) -> Any:
        return httpx.get(f"{url}/assistants/{assistant_id}").json()

    def given(url: str) -> Any:
        return wait_run(url, "sees", input={}, config={"configurable": {}})["seen"]["given"]

    def first(url: str) -> None:
        found = assistant(url)
        assert found["config"] == CONFIG["sees"]
        assert found["context"] == {"model": "small"}
        assert (found["version"], found["metadata"]) == (1, {"created_by": "system"})
        assert given(url) == {"model": "small"}

    def changed(url: str) -> None:
        assert given(url) == {"model": "large"}
        assert assistant(url)["version"] == 1
        patch = {"config": {"configurable": {"size": 1}}}
        assert httpx.patch(f"{url}/assistants/{assistant_id}", json=patch).json()["version"] == 2
        back = httpx.post(f"{url}/assistants/{assistant_id}/latest", json={"version": 1}).json()
        assert back["config"] == {"configurable": {"model": "large"}}, "version 1 is as it was last"
        httpx.post(f"{url}/assistants/{assistant_id}/latest", json={"version": 2})

    def of_a_user(url: str) -> None:
        assert given(url) == {"size": 1}, "a change of the user's stays"

    serve(json.dumps(CONFIG), first)
    serve("", lambda url: None if given(url) == {} else pytest.fail("without the variable it is empty again"))
    serve(json.dumps({"sees": {"configurable": {"model": "large"}}}), changed)
    serve(json.dumps(CONFIG), of_a_user)


def test_langgraph_config_may_come_from_the_env_file(tmp_path: Path) -> None:
    env = {"LANGGRAPH_CONFIG": json.dumps({**CONFIG, "gone": {}})}
    write_project(tmp_path, {"sees": "./sees.py:graph"}, {"sees.py": SEES}, env=env)
    live = LiveServer(tmp_path, ["--no-reload"]).start()
    assert wait_run(live.url, "sees", input={}, config={})["seen"]["given"] == {"model": "small"}
    assert live.stop() == 0
    [warning] = [line for line in live.lines if "LANGGRAPH_CONFIG" in line]
    assert warning.endswith("names graphs that do not exist: gone\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('"sees"', "should be an object"),
        ('{"sees": null}', "sees: "),
        ('{"sees": {"configurable": []}}', "sees.configurable: "),
        ('{"sees": {"recursion_limit": "many"}}', "sees.recursion_limit: "),
        ('{"sees": {"tags": "x"}}', "sees.tags: "),
    ],
)
def test_a_langgraph_config_that_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setenv("LANGGRAPH_CONFIG", text)
    with pytest.raises(devserver.StartError) as refused:
        devserver.system_configs()
    assert said in str(refused.value)
    assert str(refused.value).startswith("LANGGRAPH_CONFIG must be JSON like ")
    assert "\n" not in str(refused.value)


def test_a_missing_env_file_is_a_warning(tmp_path: Path) -> None:
    write_project(tmp_path, {"sees": "./sees.py:graph"}, {"sees.py": SEES, ".env.example": "A=b\n"}, env=".env")
    live = LiveServer(tmp_path).start()
    (tmp_path / "sees.py").write_text(dedent(SEES) + "# changed\n")
    until(lambda: "graphs reloaded" in live.log)
    assert live.stop() == 0
    [warning] = [line for line in live.lines if "env file" in line]
    assert "WARNING" in warning
    assert ".env is not there" in warning


# -- langgraph.json --


def settings(folder: Path, **more: Any) -> devserver.Settings:
    write_project(folder, {"g": "./g.py:graph"}, {}, **more)
    return devserver.read_settings(folder / "langgraph.json")


def test_keys_for_builders_of_images_and_for_readers_are_passed_over(tmp_path: Path) -> None:
    keys = {
        *("$schema", "api_version", "base_image", "dockerfile_lines", "image_distro", "_INTERNAL_docker_tag"),
        *("keep_pkg_tools", "node_version", "package_manager", "pip_config_file", "pip_installer", "python_version"),
        *("source", "name", "version", "description", "_comment", "//", "#"),
    }
    assert settings(tmp_path, **dict.fromkeys(keys, "x")).not_served == []
    assert settings(tmp_path, priority={"path": "x"}, ui_config={"a": 1}, pip=1).not_served == [
        *("priority", "ui_config", "pip")
    ]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ({"include": ["x-*"]}, {"x-a", "x-b"}),
        ({"include": ["x-*"], "exclude": ["x-b"]}, {"x-a"}),
        ({"includes": ["x-a"], "include": ["x-b"]}, {"x-a", "x-b"}),
        ({"includes": ["*"], "excludes": ["x-a"], "exclude": ["y"]}, {"x-b"}),
        ({"include": None, "exclude": None}, set()),
    ],
)
def test_header_patterns_have_two_names(tmp_path: Path, patterns: Any, names: set[str]) -> None:
    found = settings(tmp_path, http={"configurable_headers": patterns})
    assert found.not_served == []
    headers = [(name, b"1") for name in (b"X-A", b"x-b", b"y", b"x-api-key")]
    assert set(found.http.configurable_headers.select(headers)) == names


def test_header_patterns_by_either_name_reach_runs(make_server: Callable[..., LiveServer]) -> None:
    http = {"configurable_headers": {"include": ["model"]}}
    live = make_server({"sees": "./sees.py:graph"}, {"sees.py": SEES}, http=http)
    answer = httpx.post(f"{live.url}/runs/wait", json={"assistant_id": "sees", "input": {}}, headers={"Model": "m"})
    assert answer.json()["seen"]["given"] == {"model": "m"}


STARLETTE = """
    from starlette.applications import Starlette
    from starlette.endpoints import HTTPEndpoint
    from starlette.responses import JSONResponse
    from starlette.routing import Mount, Route, WebSocketRoute

    async def order(request):
        \"\"\"Order a pizza.

        Or two.\"\"\"
        return JSONResponse(dict(request.path_params))

    async def unsaid(request):
        return JSONResponse({})

    class Oven(HTTPEndpoint):
        async def get(self, request):
            \"\"\"How hot it is.\"\"\"
            return JSONResponse({})

        async def delete(self, request):
            return JSONResponse({})

    async def socket(websocket): ...

    app = Starlette(routes=[
        Route("/orders/{number:int}", order, methods=["POST", "PUT"]),
        Route("/unsaid", unsaid),
        Route("/hidden", unsaid, include_in_schema=False),
        Mount("/kitchen/{kitchen}", routes=[Route("/oven", Oven)]),
        WebSocketRoute("/socket", socket),
        Route("/threads", order, methods=["GET"]),
    ])
"""


def test_routes_of_a_starlette_app_are_in_the_document(make_server: Callable[..., LiveServer]) -> None:
    files = {"sees.py": SEES, "app.py": STARLETTE}
    live = make_server({"sees": "./sees.py:graph"}, files, http={"app": "./app.py:app"})
    paths = httpx.get(f"{live.url}/openapi.json").json()["paths"]
    assert set(paths["/orders/{number}"]) == {"post", "put"}
    assert paths["/orders/{number}"]["post"]["summary"] == "Order a pizza."
    [parameter] = paths["/orders/{number}"]["post"]["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("number", "path", True)
    assert paths["/unsaid"]["get"]["summary"] == "unsaid"
    assert set(paths["/kitchen/{kitchen}/oven"]) == {"get", "delete"}
    assert [each["name"] for each in paths["/kitchen/{kitchen}/oven"]["get"]["parameters"]] == ["kitchen"]
    assert not {"/hidden", "/socket"} & set(paths)
    assert set(paths["/threads"]) == {"get", "post"}, "the API's own stay"
    assert paths["/threads"]["post"]["operationId"] == "create_thread"
    assert "Order a pizza." in httpx.get(f"{live.url}/docs").text


FASTAPI = """
    from fastapi import APIRouter, FastAPI, Security
    from fastapi.security import APIKeyHeader
    from pydantic import BaseModel
    from starlette.responses import JSONResponse

    class Item(BaseModel):
        pizza: str

    class Box(BaseModel):
        items: list[Item]

    router = APIRouter(prefix="/boxes")

    @router.post("", summary="Fill a box")
    async def fill(box: Box, key: str = Security(APIKeyHeader(name="x-key"))) -> Item:
        return box.items[0]

    def plain(request):
        \"\"\"A route of Starlette's.\"\"\"
        return JSONResponse({})

    app = FastAPI(openapi_url=None)
    app.include_router(router)
    app.add_route("/plain", plain)
"""


def test_schemas_of_a_fastapi_app_keep_apart_from_those_of_the_api(make_server: Callable[..., LiveServer]) -> None:
    files = {"sees.py": SEES, "app.py": FASTAPI, "auth.py": AUTH}
    security = {"securitySchemes": {"ours": {"type": "http", "scheme": "bearer"}}, "security": []}
    auth = {"path": "./auth.py:auth", "openapi": security}
    live = make_server({"sees": "./sees.py:graph"}, files, http={"app": "./app.py:app"}, auth=auth)
    document = httpx.get(f"{live.url}/openapi.json").json()
    assert document["paths"]["/boxes"]["post"]["summary"] == "Fill a box"
    assert document["paths"]["/plain"]["get"]["summary"] == "A route of Starlette's."
    schemas = document["components"]["schemas"]
    assert set(schemas["AppItem"]["properties"]) == {"pizza"}
    assert schemas["Box"]["properties"]["items"]["items"] == {"$ref": "#/components/schemas/AppItem"}
    assert set(schemas["Item"]["properties"]) == {"namespace", "key", "value", "created_at", "updated_at"}
    assert set(document["components"]["securitySchemes"]) == {"APIKeyHeader", "ours"}
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert name in schemas


AUTH = "from langgraph_sdk import Auth\nauth = Auth()\nauth.authenticate(lambda authorization: 'somebody')\n"


# -- what a start that fails says --

MISSING = "import missing_package.inside\n"
HELPED = "from helped import graph, app, auth, embed\n"
# Everything in langgraph.json that names code, as settings for a file or module.
DOORS: dict[str, Callable[[str], dict[str, Any]]] = {
    "graphs": lambda source: {"graphs": {"g": f"{source}:graph"}},
    "http.app": lambda source: {"http": {"app": f"{source}:app"}},
    "auth": lambda source: {"auth": {"path": f"{source}:auth"}},
    "store.index.embed": lambda source: {"store": {"index": {"embed": f"{source}:embed", "dims": 2}}},
}
# Sources, their files, and a part of the hint.
HINTS: dict[str, tuple[str, dict[str, str], str]] = {
    "package in a file": ("./code.py", {"code.py": MISSING}, "-m pip install missing-package"),
    "package in a helper": (
        "./code.py",
        {"code.py": "import other\n", "other.py": MISSING},
        "pip install missing-package",
    ),
    "src layout": ("./src/agent/code.py", {"src/agent/code.py": "import agent.state\n"}, '"./src"'),
    "src layout, deeper": ("./a/src/agent/code.py", {"a/src/agent/code.py": "import agent.state\n"}, '"./a/src"'),
    "src layout, single file": ("./src/code.py", {"src/code.py": HELPED, "src/helped.py": ""}, '"./src"'),
    "beside the file": ("./agent/code.py", {"agent/code.py": HELPED, "agent/helped.py": ""}, '"./agent"'),
    "a folder of the project": ("./code.py", {"code.py": HELPED, "lib/helped.py": ""}, '"./lib"'),
}


def load(found: devserver.Settings) -> None:
    """All that langgraph.json names, as a start does."""
    for spec in found.graphs.values():
        devserver.import_object(str(spec), spec.path, found.path)
    devserver.load_app(found)
    if found.auth:
        devserver.AppAuth(found.auth, found.path)
    devserver._load_index(found)


def import_failure(folder: Path, door: str, source: str, files: dict[str, str]) -> str:
    more = {"graphs": {"good": "./sees.py:graph"}, **DOORS[door](source)}
    write_project(folder, more.pop("graphs"), {"sees.py": SEES, **files}, **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        with pytest.raises(devserver.StartError) as refused:
            load(devserver.read_settings(folder / "langgraph.json"))
    for name in ("code", "other", "helped", "agent", "sees"):
        sys.modules.pop(name, None)
    return str(refused.value)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", HINTS)
def test_a_module_that_is_not_found_comes_with_a_hint(tmp_path: Path, door: str, case: str) -> None:
    source, files, hint = HINTS[case]
    said = import_failure(tmp_path, door, source, files)
    assert "No module named" in said
    assert hint in said
    assert sys.executable in said, "into which environment"
    assert "\n" not in said
    if hint.startswith('"'):
        assert f'add {hint} to "dependencies" in langgraph.json' in said
        assert "pip install -e ." in said
    else:
        assert "dependencies" not in said


@pytest.mark.parametrize("door", DOORS)
def test_a_module_of_a_src_layout_has_the_hint_as_well(tmp_path: Path, door: str) -> None:
    if door == "store.index.embed":
        pytest.skip("a name that is no module is a model's")
    assert 'add "./src"' in import_failure(tmp_path, door, "agent.code", {"src/agent/code.py": ""})


def test_a_part_that_a_package_lacks_is_not_to_be_installed(tmp_path: Path) -> None:
    said = import_failure(tmp_path, "graphs", "./code.py", {"code.py": "import json.missing_part\n"})
    assert "json.missing_part" in said
    assert "pip install" not in said


def test_the_hints_help(tmp_path: Path) -> None:
    """With what they say the application starts."""
    files = {
        "src/agent/__init__.py": "",
        "src/agent/code.py": "from agent.sees import graph\n",
        "src/agent/sees.py": SEES,
    }
    write_project(tmp_path, {"g": "./src/agent/code.py:graph"}, files)
    assert '"./src"' in refusal(tmp_path)
    write_project(tmp_path, {"g": "./src/agent/code.py:graph"}, {}, dependencies=["./src"])
    with started(tmp_path, *DEV, "--port", "0", "--no-reload") as dev:
        assert wait_run(dev.url, "g", input={})["seen"]["now"] == dev.url


def test_a_reload_that_finds_no_module_has_the_hint(project: Path) -> None:
    live = LiveServer(project).start()
    (project / "sees.py").write_text(MISSING)
    until(lambda: "last good graphs stay" in live.log)
    assert "-m pip install missing-package" in live.log
    assert live.stop() == 0


def test_extras_are_named_by_their_packages() -> None:
    """There may be no package called devserver to install from: it may be a checkout, or only the file."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {name: extras[name] for name in devserver.EXTRAS} == {k: [p] for k, p in devserver.EXTRAS.items()}
    assert extras.keys() - devserver.EXTRAS.keys() == {"fuzz", "test"}
    assert not re.search(r"pip install '?devserver", (ROOT / "devserver.py").read_text())


def test_a_model_without_langchain_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "langchain.embeddings", False)
    monkeypatch.setitem(sys.modules, "langchain", None)
    found = settings(tmp_path, store={"index": {"embed": "openai:small", "dims": 2}})
    with pytest.raises(devserver.StartError, match=re.escape(f"pip install '{devserver.EXTRAS['models']}'")):
        devserver._load_index(found)


ABSENT = "raise ModuleNotFoundError(\"No module named 'debugpy'\", name='debugpy')\n"
BUSY = "def listen(address): raise RuntimeError(f'{address[1]} is taken')\n"
# What goes wrong between the first look at langgraph.json and the first request: arguments, environment, files, said.
FAILURES: dict[str, tuple[list[str], dict[str, str], dict[str, str], str]] = {
    "no debugpy": (["--debug-port", "5678"], {}, {"debugpy.py": ABSENT}, "pip install 'debugpy>=1.8'"),
    "debug port taken": (["--debug-port", "5678"], {}, {"debugpy.py": BUSY}, "127.0.0.1:5678: 5678 is taken"),
    "no certificate": (
        ["--ssl-certfile", "sees.py", "--ssl-keyfile", "sees.py"],
        {},
        {},
        "sees.py and sees.py are no certificate and its key",
    ),
    "LANGGRAPH_CONFIG": ([], {"LANGGRAPH_CONFIG": "{"}, {}, "LANGGRAPH_CONFIG must be JSON"),
    "a graph that exits": ([], {}, {"sees.py": "import sys\nsys.exit(3)\n"}, "SystemExit: 3"),
    "a host that is not ours": (["--host", "192.0.2.1"], {}, {}, "cannot listen on 192.0.2.1:0"),
    "a host without an address": (["--host", "no.such.host.invalid"], {}, {}, "no.such.host.invalid"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_start_that_fails_says_so_in_one_line(project: Path, case: str) -> None:
    arguments, env, files, said = FAILURES[case]
    for name, text in files.items():
        (project / name).write_text(text)
    path = os.pathsep.join([str(project), str(ROOT)])
    assert said in refusal(project, *arguments, env={**env, "PYTHONPATH": path})


def test_a_start_that_fails_tells_where_if_asked(project: Path) -> None:
    (project / "debugpy.py").write_text(BUSY)
    env = {"PYTHONPATH": os.pathsep.join([str(project), str(ROOT)])}
    done = run_dev(project, "--verbose", "--debug-port", "5678", env=env, stdout=subprocess.DEVNULL)
    assert (done.returncode, "debugpy.py" in done.stderr) == (1, True)


NAPS = {"crash_gates.py": (GRAPHS / "crash_gates.py").read_text()}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_console_that_takes_nothing_ends_the_start(make_server: Callable[..., LiveServer]) -> None:
    """Also if a run was resumed by then: it goes on at the next start."""
    live = make_server({"naps": "./crash_gates.py:naps"}, NAPS, "--no-reload")
    with live.http() as http:
        sent = {"assistant_id": "naps", "input": {"seconds": 20}, "config": USER}
        run = http.post(f"/threads/{http.post('/threads', json={}).json()['thread_id']}/runs", json=sent).json()
        until(lambda: http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}").json()["status"] == "running")
    live.kill()
    with open("/dev/full", "w") as full:
        assert "No space left on device" in refusal(live.folder, stdout=full)
    live.start()
    assert "resuming 1 run\n" in live.log
    with live.http() as http:
        until(lambda: http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}").json()["status"] == "running")
    assert live.stop() == 0
    until(lambda: "stopping: waiting for 1 run\n" in live.log)


def test_a_reader_that_is_gone_ends_the_start(project: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        assert "Broken pipe" in refusal(project, stdout=pipe)


def test_a_console_without_the_letters_of_a_path_gets_others(project: Path) -> None:
    command = (*DEV, "--port", "0", "--no-reload", "--db", "snow☃.db")
    with started(project, *command, PYTHONIOENCODING="latin-1") as dev:
        assert "snow\\u2603.db" in dev.output
        assert wait_run(dev.url, "sees", input={})["seen"]
    assert dev.process.returncode == 0


# -- what the log says of runs that go on --


def test_the_log_says_what_a_stop_waits_for_and_a_start_resumes(make_server: Callable[..., LiveServer]) -> None:
    live = make_server({"naps": "./crash_gates.py:naps"}, NAPS, "--no-reload")
    assert "resuming" not in live.log
    with live.http() as http:
        threads = [http.post("/threads", json={}).json()["thread_id"] for _ in range(2)]
        for thread in [*threads, threads[0]]:  # the last one waits in line
            sent = {"assistant_id": "naps", "input": {"seconds": 30}, "config": USER}
            http.post(f"/threads/{thread}/runs", json=sent)
        later = {"assistant_id": "naps", "input": {"seconds": 0}, "config": USER, "after_seconds": 60}
        http.post(f"/threads/{http.post('/threads', json={}).json()['thread_id']}/runs", json=later)
        until(lambda: all_run(http, threads))
    assert live.stop(signal.SIGINT) == 0
    until(lambda: "stopping: waiting for 2 runs\n" in live.log)
    for end in (live.kill, live.stop):
        live.start()
        assert "resuming 2 runs\n" in live.log
        with live.http() as http:
            until(lambda http=http: all_run(http, threads))  # type: ignore[misc]
        end()


def all_run(http: httpx.Client, threads: list[str]) -> bool:
    return all(http.get(f"/threads/{thread}/runs", params={"status": "running"}).json() for thread in threads)


def test_a_stop_without_runs_waits_for_none(project: Path) -> None:
    live = LiveServer(project, ["--no-reload"]).start()
    wait_run(live.url, "sees", input={})
    assert live.stop() == 0
    assert "stopping" not in live.log

"""The server itself: health, information, documents, routes, and who may talk to it."""

from __future__ import annotations

import re
import socket
import types
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually
from langgraph_sdk.client import LangGraphClient

import devserver

SERVED = {name: f"./basic.py:{name}" for name in ("steps", "gated")}
ID = "00000000-0000-0000-0000-000000000000"
EXPOSED = "x-pagination-total, x-pagination-next, content-location"


@pytest.fixture(scope="module")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    """One client for all tests, of which there are many."""
    with server.http() as made:
        yield made


# Health, information


@pytest.mark.parametrize("path", ["/ok", "/", "/ok?check_db=1", "/ok?check_db=0"])
def test_a_healthy_server_says_so(http: httpx.Client, path: str) -> None:
    assert http.get(path).json()["ok"] is True
    assert http.head(path).status_code == 200
    assert http.head(path).content == b""


def test_the_server_says_what_it_is(http: httpx.Client) -> None:
    info = http.get("/info").json()
    assert info["version"] == devserver.__version__
    assert info["langgraph_py_version"] == version("langgraph")
    assert info["flags"]["assistants"] is True
    assert info["flags"]["langsmith"] is False
    assert info["host"]["kind"] == "self-hosted"


async def test_metrics_count_what_waits_and_what_runs(
    client: LangGraphClient, http: httpx.Client, tmp_path: Path
) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    given = {"gate": str(tmp_path / "gate")}
    runs = [await client.runs.create(thread_id, "gated", input=given) for _ in range(3)]

    def numbers() -> tuple[int, int, int]:
        found = http.get("/metrics", params={"format": "json"}).json()
        return found["queue"]["n_pending"], found["queue"]["n_running"], found["workers"]["active"]

    await eventually(lambda: numbers() == (2, 1, 1))
    text = http.get("/metrics")
    assert text.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    assert "\nlg_api_num_running_runs 1\n" in text.text
    assert "lg_api_num_pending_runs 2\n" in text.text
    (tmp_path / "gate").touch()
    await client.runs.join(thread_id, runs[-1]["run_id"])
    await eventually(lambda: numbers() == (0, 0, 0))


# Documents


@pytest.fixture
def document(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, each) for path, methods in document["paths"].items() for method, each in methods.items()]


def test_every_operation_of_the_document_is_served(http: httpx.Client, document: dict[str, Any]) -> None:
    for method, path, _ in operations(document):
        answer = http.request(method, re.sub(r"{\w+}", "x", path), headers={"accept": "application/json"})
        assert answer.status_code not in (405, 501), (method, path)
        assert answer.status_code < 500, (method, path)


def test_every_operation_that_is_served_is_in_the_document(document: dict[str, Any]) -> None:
    listed = {(method.upper(), path) for method, path, _ in operations(document)}
    assert {(route.method, route.path) for route in devserver.ROUTES} <= listed
    assert len(listed) >= 50


def test_the_document_is_whole(document: dict[str, Any]) -> None:
    """Every reference leads somewhere, every path parameter is declared, every operation has a name of its own."""
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == devserver.__version__
    schemas = document["components"]["schemas"]
    for reference in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert reference in schemas, reference
    names = [each["operationId"] for _, _, each in operations(document) if "operationId" in each]
    assert len(names) == len(set(names))
    for _, path, each in operations(document):
        declared = {p["name"] for p in each.get("parameters", ()) if p["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path)), path


def parameters(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    return {each["name"]: each["schema"] for each in document["paths"][path][method]["parameters"]}


def answers(document: dict[str, Any], method: str, path: str) -> dict[str, list[str]]:
    """The statuses of an operation, with the media types that they come in."""
    return {status: list(said["content"]) for status, said in document["paths"][path][method]["responses"].items()}


def test_the_document_tells_what_parameters_may_be(document: dict[str, Any]) -> None:
    takes = parameters(document, "get", "/threads/{thread_id}/runs")
    assert takes["thread_id"] == {"type": "string", "format": "uuid"}
    assert (takes["limit"]["type"], takes["limit"]["default"], takes["offset"]["minimum"]) == ("integer", 10, 0)
    assert takes["status"]["enum"] == ["pending", "running", "success", "error", "timeout", "interrupted"]
    assert "multitask_strategy" in takes["select"]["items"]["enum"]
    cancel = parameters(document, "post", "/threads/{thread_id}/runs/{run_id}/cancel")
    assert cancel["action"] == {"enum": ["interrupt", "rollback"], "default": "interrupt"}
    assert cancel["wait"] == {"type": "boolean"}
    item = parameters(document, "get", "/store/items")
    assert item["refresh_ttl"] == {"type": "boolean"}, "without it the store's own setting holds: none is to be sent"
    assert parameters(document, "get", "/threads/{thread_id}/state/{checkpoint_id}")["checkpoint_id"] == {
        "type": "string"
    }
    [*_, last] = document["paths"]["/threads/{thread_id}/runs/{run_id}/stream"]["get"]["parameters"]
    assert (last["name"], last["in"], last["required"]) == ("Last-Event-ID", "header", False)
    assert {p["name"] for p in document["paths"]["/store/items"]["get"]["parameters"] if p["required"]} == {
        "namespace",
        "key",
    }


def test_the_document_tells_every_status_an_operation_answers_with(document: dict[str, Any]) -> None:
    assert answers(document, "post", "/threads").keys() == {"200", "201", "400", "403", "404", "409", "413", "422"}
    assert answers(document, "patch", "/threads/{thread_id}")["204"] == []
    assert answers(document, "post", "/threads/{thread_id}/runs/stream")["200"] == ["text/event-stream"]
    assert answers(document, "put", "/store/items")["422"] == ["text/plain", "application/json"]
    assert answers(document, "get", "/metrics")["200"] == ["text/plain", "application/json"]
    for method, path, each in operations(document):
        assert all(re.fullmatch(r"[1-5]\d\d", status) for status in each["responses"]), (method, path)
        assert "403" in each["responses"], (method, path)


def test_the_document_tells_what_may_be_null_or_missing(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["Assistant"]["properties"]["description"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert set(schemas["Thread"]["properties"]) - set(schemas["Thread"]["required"]) == {
        "values",
        "interrupts",
        "error",
    }
    assert schemas["ThreadPart"]["required"] == []
    assert schemas["Thread"]["properties"]["status"] == {"enum": ["idle", "busy", "interrupted", "error"]}


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        (
            "RunCreateStateful",
            "assistant_id input command config context checkpoint checkpoint_id metadata webhook interrupt_before "
            "interrupt_after stream_mode stream_subgraphs stream_resumable feedback_keys multitask_strategy "
            "if_not_exists after_seconds on_disconnect durability",
        ),
        ("RunCreateStateless", "assistant_id input command config context metadata webhook on_completion stream_mode"),
        ("ThreadCreate", "thread_id metadata if_exists ttl supersteps"),
        ("ThreadSearchRequest", "ids metadata values status limit offset sort_by sort_order select extract"),
        ("AssistantCreate", "assistant_id graph_id config context metadata if_exists name description"),
        ("StorePutRequest", "namespace key value index ttl"),
    ],
)
def test_the_document_names_the_fields_of_bodies(document: dict[str, Any], schema: str, fields: str) -> None:
    assert set(fields.split()) <= set(document["components"]["schemas"][schema]["properties"])


def test_the_documentation_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "/threads/{thread_id}/runs/stream" in page.text
    row = page.text.partition("<code>/threads/{thread_id}/runs/{run_id}/cancel</code>")[2].partition("<tr>")[0]
    assert row.endswith("<td>action, wait<td>200  202  403  404  422 ")
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?\s*(?:https?:)?//", page.text)
    anchors = set(re.findall(r'href="#(\w+)"', page.text))
    assert anchors
    assert anchors <= set(re.findall(r'id="(\w+)"', page.text))


# Routes


@pytest.mark.parametrize(
    ("method", "path", "status", "header"),
    [
        ("GET", "/nope", 404, {}),
        ("GET", "/threads/a/b/c/d", 404, {}),
        ("POST", "/ok", 404, {}),
        ("GET", "/ok/", 404, {}),
        ("DELETE", "/openapi.json", 404, {}),
        ("POST", "/", 404, {}),
        ("GET", f"/threads//{ID}", 404, {}),
        ("DELETE", "/threads", 405, {"allow": "POST"}),
        ("POST", "/store/items", 405, {"allow": "PUT"}),
        ("PUT", f"/threads/{ID}", 405, {"allow": "GET, HEAD"}),
        ("OPTIONS", "/mcp", 405, {"allow": "DELETE, GET, HEAD, POST"}),
        ("HEAD", "/threads", 405, {"allow": "POST"}),
        ("HEAD", "/nope", 404, {}),
        ("GET", "/threads/search", 422, {}),
        ("HEAD", f"/threads/{ID}", 404, {}),
    ],
)
def test_what_is_not_there_is_said_so(
    http: httpx.Client, method: str, path: str, status: int, header: dict[str, str]
) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in header} == header
    if method != "HEAD":
        assert isinstance(answer.json()["detail"], str)


def test_a_slash_too_many_leads_to_the_right_place(http: httpx.Client) -> None:
    answer = http.post("/threads/", json={"metadata": {"a": 1}}, follow_redirects=True)
    assert answer.json()["metadata"] == {"a": 1}
    assert [step.status_code for step in answer.history] == [307]


@pytest.mark.parametrize("path", ["/", "/ok", "/info", "/metrics?format=prometheus", "/docs", "/openapi.json"])
def test_head_is_get_without_its_body(http: httpx.Client, path: str) -> None:
    got, head = http.get(path), http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


def test_a_stream_has_no_head_lest_its_connection_hangs(http: httpx.Client) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    for path in (f"/threads/{thread_id}/stream", f"/threads/{thread_id}/runs/{ID}/stream"):
        refused = http.head(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert http.get("/ok", timeout=3).status_code == 200


def test_ids_in_paths_are_read_as_uuids_are_written(http: httpx.Client) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    forms = [
        thread_id.upper(),
        thread_id.replace("-", ""),
        f"%7B{thread_id}%7D",
        "".join(f"%{ord(c):x}" for c in thread_id),
    ]
    for form in forms:
        assert http.get(f"/threads/{form}").json()["thread_id"] == thread_id
        copied = http.get(f"/threads/{form}/runs/{ID}/join")
        assert copied.headers["location"] == f"/threads/{thread_id}/runs/{ID}/join"


@pytest.mark.parametrize("line_end", ["%0d%0a", "%0a", "%e5%98%8a", "%00"])
def test_no_path_gets_into_the_headers_of_its_answer(http: httpx.Client, line_end: str) -> None:
    for path in (f"/{line_end}X-Evil:1/", f"/assistants/{line_end}X-Evil:1/", f"/threads/{ID}{line_end}X-Evil:1/runs"):
        answer = http.get(path)
        assert answer.status_code in (307, 404, 422)
        assert "x-evil" not in answer.headers
        assert not re.search(r"[\r\n\0]", str(answer.headers.get("location")))


def test_a_very_long_path_or_query_is_answered(http: httpx.Client) -> None:
    assert http.get(f"/threads/{'a' * 60_000}").json() == {"detail": "Invalid thread ID: must be a UUID"}
    assert http.get("/nope/" + "a/" * 30_000).status_code == 404
    assert http.get("/ok?" + "a=b&" * 15_000).status_code == 200


def with_host(server: LiveServer, host: str, path: str = "/ok") -> int:
    """The status of a request that calls the server by a certain name; httpx would repair some of them."""
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port or 80), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("path", ["//", "//ok", "///", "//evil.com/threads/", "//threads", "*", "ok"])
def test_a_path_of_no_form_is_not_found_and_leads_nowhere(server: LiveServer, path: str) -> None:
    assert with_host(server, "localhost", path) in (400, 404)


# Who may talk to the server


LOOPBACK_HOSTS = [
    "localhost",
    "localhost:2024",
    "LOCALHOST:1",
    "127.0.0.1:99",
    "127.1.2.3",
    "[::1]:2024",
    "[::1]",
    "app.localhost",
]
FOREIGN_HOSTS = [
    "evil.com",
    "evil.com:2024",
    "localhost.evil.com",
    "evil.com#localhost",
    "localhost@evil.com",
    "127.0.0.1.evil.com",
    "127.0.0.1.nip.io:2024",
    "192.168.0.1",
    "0.0.0.0",
    "[2001:db8::1]:80",
    "notlocalhost",
    "evil.com:localhost",
    "evil.com, a.localhost",
    "evil.com#.localhost",
]


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
def test_the_server_knows_itself_by_names_of_this_machine(server: LiveServer, host: str) -> None:
    assert with_host(server, host) == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
@pytest.mark.parametrize("path", ["/ok", "/threads", "/docs", f"/threads/{ID}/state"])
def test_a_foreign_name_is_refused_lest_a_web_page_rebinds_it(server: LiveServer, host: str, path: str) -> None:
    assert with_host(server, host, path) in (400, 403)


def test_the_refusal_of_a_host_says_what_to_do(http: httpx.Client) -> None:
    refused = http.get("/ok", headers={"host": "my.host:2024"})
    assert refused.status_code == 403
    assert "Host 'my.host:2024'" in refused.json()["detail"]
    assert "http.allowed_hosts" in refused.json()["detail"]


LOOPBACK_ORIGINS = [
    "http://localhost",
    "http://localhost:3000",
    "https://localhost:5173",
    "http://127.0.0.1:8080",
    "http://[::1]:3000",
    "http://app.localhost:3000",
]
FOREIGN_ORIGINS = [
    "http://evil.com",
    "https://smith.langchain.com",
    "http://localhost.evil.com",
    "http://evil.com:localhost",
    "http://evillocalhost",
    "http://127.0.0.1.evil.com",
    "http://localhost:3000.evil.com",
    "file://",
    "null",
    "",
    "chrome-extension://abcdef",
    "http://192.168.0.1",
]
CHANGES = [
    ("POST", "/threads"),
    ("POST", "/threads/search"),
    ("POST", "/runs/wait"),
    ("POST", "/runs/stream"),
    ("PATCH", "/threads/{thread_id}"),
    ("DELETE", "/threads/{thread_id}"),
    ("PUT", "/store/items"),
    ("DELETE", "/store/items"),
    ("POST", "/nope"),
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_page_from_elsewhere_cannot_change_anything(http: httpx.Client, origin: str) -> None:
    """Not even with a simple request, for which a browser asks nobody."""
    thread_id = http.post("/threads", json={"metadata": {"n": 1}}).json()["thread_id"]
    before = http.post("/threads/count", json={}).json()
    for method, path in CHANGES:
        for kind in ("text/plain", "application/json", "application/x-www-form-urlencoded"):
            answer = http.request(
                method,
                path.format(thread_id=thread_id),
                content=b'{"metadata": {"n": 2}, "assistant_id": "steps", "namespace": ["a"], "key": "k", "value": {}}',
                headers={"origin": origin, "content-type": kind},
            )
            assert answer.status_code == 403, (method, path)
            assert "access-control-allow-origin" not in answer.headers
    assert http.post("/threads/count", json={}).json() == before
    assert http.get(f"/threads/{thread_id}").json()["metadata"] == {"n": 1}
    assert http.get("/store/items", params={"namespace": "a", "key": "k"}).json() is None


@pytest.mark.parametrize("name", [b"origin", b"host"])
@pytest.mark.parametrize("order", [1, -1])
async def test_of_two_names_neither_counts(name: bytes, order: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("let in")

    values = [b"http://localhost", b"http://evil.com"] if name == b"origin" else [b"localhost", b"evil.com"]
    server: Any = types.SimpleNamespace(requests=Counter())
    server.runner = types.SimpleNamespace(loopback=types.SimpleNamespace(nobody=None))
    guard = devserver.Guard(app, server, devserver.Neighbours(devserver.HttpSettings(), "127.0.0.1", studio=False))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(name, value) for value in values[::order]]}
    await guard(scope, cast(Any, None), send)
    assert sent[0]["status"] == 403


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_page_from_elsewhere_cannot_read_either(http: httpx.Client, origin: str) -> None:
    answer = http.get("/info", headers={"origin": origin})
    assert "access-control-allow-origin" not in answer.headers
    assert "origin" in answer.headers["vary"].lower()


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS[:4])
def test_a_page_from_elsewhere_is_told_so_beforehand(http: httpx.Client, origin: str) -> None:
    asking = {"origin": origin, "access-control-request-method": "POST"}
    refused = http.options("/threads", headers=asking)
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("origin", LOOPBACK_ORIGINS)
def test_a_page_of_this_machine_may_do_all(http: httpx.Client, origin: str) -> None:
    asking = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-api-key",
    }
    allowed = http.options("/threads", headers=asking)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == origin
    assert allowed.headers["access-control-allow-headers"] == "content-type,x-api-key"
    assert {"POST", "PATCH", "DELETE"} <= set(allowed.headers["access-control-allow-methods"].split(", "))
    made = http.post("/threads", json={}, headers={"origin": origin})
    assert made.status_code == 200
    assert made.headers["access-control-allow-origin"] == origin
    assert made.headers["access-control-expose-headers"] == EXPOSED
    thread_id = made.json()["thread_id"]
    assert http.delete(f"/threads/{thread_id}", headers={"origin": origin}).status_code == 204
    missing = http.get(f"/threads/{thread_id}", headers={"origin": origin})
    assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, origin)


def test_a_page_of_this_machine_sees_errors_of_validation(http: httpx.Client) -> None:
    refused = http.post("/threads", content=b"{", headers={"origin": "http://localhost:3000"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (422, "http://localhost:3000")


def test_private_network_access_is_refused(http: httpx.Client) -> None:
    asking = {
        "origin": "http://localhost:3000",
        "access-control-request-method": "POST",
        "access-control-request-private-network": "true",
    }
    answer = http.options("/threads", headers=asking)
    assert answer.status_code == 400 or "access-control-allow-private-network" not in answer.headers


@pytest.mark.parametrize(("origin", "status"), [("http://evil.com", 403), ("null", 403)])
def test_a_page_from_elsewhere_gets_no_web_socket(server: LiveServer, origin: str, status: int) -> None:
    where = urlsplit(server.url)
    request = (
        f"GET /threads/{ID}/stream/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: {origin}\r\n\r\n"
    )
    with socket.create_connection((where.hostname, where.port or 80), timeout=10) as connection:
        connection.sendall(request.encode())
        assert int(connection.makefile("rb").readline().split()[1]) == status


# What langgraph.json and options allow besides

CORS = {"allow_origins": ["https://app.example.com"], "allow_origin_regex": r"https://pr-\d+\.example\.com"}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that lets more in: by langgraph.json, and with --studio."""
    from conftest import write_project

    folder = tmp_path_factory.mktemp("opened")
    files = {"basic.py": (GRAPHS / "basic.py").read_text()}
    http = {"allowed_hosts": ["my.host", "Other.Host"], "cors": CORS}
    write_project(folder, {"steps": "./basic.py:steps"}, files, http=http)
    live = LiveServer(folder, ["--no-reload", "--studio"]).start()
    yield live
    live.stop()


@pytest.mark.parametrize(
    ("host", "status"),
    [("my.host", 200), ("MY.HOST:2024", 200), ("other.host", 200), ("a.my.host", 403), ("localhost", 200)],
)
def test_langgraph_json_may_allow_hosts(opened: LiveServer, host: str, status: int) -> None:
    assert with_host(opened, host) == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://app.example.com", 200),
        ("https://pr-12.example.com", 200),
        ("https://smith.langchain.com", 200),
        ("http://localhost:3000", 200),
        ("http://app.example.com", 403),
        ("https://pr-12.example.com.evil.com", 403),
        ("https://pr-x.example.com", 403),
        ("https://evil.langchain.com", 403),
    ],
)
def test_langgraph_json_and_studio_may_allow_origins(opened: LiveServer, origin: str, status: int) -> None:
    with opened.http() as http:
        answer = http.post("/threads", json={}, headers={"origin": origin})
        assert answer.status_code == status
        preflight = http.options("/threads", headers={"origin": origin, "access-control-request-method": "POST"})
        assert preflight.status_code == (200 if status == 200 else 400)
        if status == 200:
            assert answer.headers["access-control-allow-origin"] == origin


def test_a_server_on_all_interfaces_takes_addresses_but_no_foreign_names(
    make_server: Callable[..., LiveServer],
) -> None:
    files = {"basic.py": (GRAPHS / "basic.py").read_text()}
    live = make_server({"steps": "./basic.py:steps"}, files, "--no-reload", "--host", "0.0.0.0")
    assert [with_host(live, host) for host in ("192.168.0.7:2024", "localhost", "[fe80::1]")] == [200] * 3
    assert [with_host(live, host) for host in ("evil.com", "localhost.evil.com")] == [403] * 2

"""How the page is served, what its headers allow, and the routes that were made for it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, wait_until
from test_auth import APP, FILES, OWN, as_user
from test_auth import SERVED as OWNED

from devserver import PAGE, __version__

SERVED = {name: f"./basic.py:{name}" for name in ("steps", "failing")}
BASIC = (GRAPHS / "basic.py").read_text()
FOR_PEOPLE = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ROOTED = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("mine"))])
"""
OVER_UI = ROOTED.replace('Route("/"', 'Route("/ui"')


# The document


def test_the_document_is_short_and_reads_nothing_as_html() -> None:
    assert len(PAGE.encode()) <= 120 * 1024
    assert len(PAGE.splitlines()) <= 1200
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|DOMParser|document\.write|srcdoc|\beval\(|new Function|setHTML"
    assert not re.findall(sinks, PAGE)
    head = PAGE[: PAGE.index("<script>")]
    assert not re.findall(r"\s(style|on\w+)=", head)
    assert not re.findall(r"(src|href)=\"(?!data:,)", head)  # it loads nothing
    assert "<noscript>" in head
    assert set(re.findall(r"https?://[\w.]+", PAGE)) == {"http://www.w3.org"}  # names of elements


def sha256(tag: str) -> str:
    found = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    assert len(found) == 1
    return base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()


def test_the_policy_lets_nothing_in_but_the_page_itself(server: LiveServer) -> None:
    answer = httpx.get(f"{server.url}/ui")
    parts = [part.split() for part in answer.headers["content-security-policy"].split(";")]
    assert {name: rest for name, *rest in parts} == {
        "default-src": ["'none'"],
        "script-src": [f"'sha256-{sha256('script')}'"],
        "style-src": [f"'sha256-{sha256('style')}'"],
        "connect-src": ["'self'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
        "require-trusted-types-for": ["'script'"],
    }
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text == PAGE


@pytest.mark.parametrize(
    ("accept", "shows_page"),
    [(FOR_PEOPLE["accept"], True), ("text/html", True), ("*/*", False), ("application/json", False), ("", False)],
)
def test_browsers_get_the_page_and_others_health(server: LiveServer, accept: str, shows_page: bool) -> None:
    answer = httpx.get(f"{server.url}/", headers={"accept": accept})
    assert answer.text == PAGE if shows_page else answer.json()["ok"] is True
    assert "accept" in answer.headers["vary"].lower()
    assert httpx.get(f"{server.url}/ui", headers={"accept": accept}).text == PAGE
    assert httpx.head(f"{server.url}/ui", headers={"accept": accept}).content == b""


@pytest.mark.parametrize("path", ["/", "/ui"])
def test_what_a_browser_has_is_not_sent_again(server: LiveServer, path: str) -> None:
    first = httpx.get(f"{server.url}{path}", headers=FOR_PEOPLE)
    assert first.headers["cache-control"] == "no-cache"
    again = httpx.get(f"{server.url}{path}", headers={**FOR_PEOPLE, "if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = httpx.get(f"{server.url}{path}", headers={**FOR_PEOPLE, "if-none-match": '"other"'})
    assert other.status_code == 200


def test_the_page_is_under_the_prefix_and_browsers_find_it(make_server: Callable[..., LiveServer]) -> None:
    settings = {"mount_prefix": "/my/api"}
    live = make_server({"steps": "./basic.py:steps"}, {"basic.py": BASIC}, "--no-reload", http=settings)
    root = live.url.removesuffix("/my/api")
    assert f"Page      {live.url}/\n" in live.log
    for path in ("/", "/ui"):
        assert httpx.get(f"{live.url}{path}", headers=FOR_PEOPLE).text == PAGE
    assert httpx.get(f"{root}/").json()["ok"] is True
    found = httpx.get(f"{root}/", headers=FOR_PEOPLE, follow_redirects=True)
    assert (str(found.url), found.text) == (f"{live.url}/ui", PAGE)
    assert httpx.get(f"{root}/ui", headers=FOR_PEOPLE).status_code == 404


@pytest.mark.parametrize("prefix", ["", "/my"])
def test_an_application_keeps_its_root(make_server: Callable[..., LiveServer], prefix: str) -> None:
    settings = {"app": "./app.py:app", "mount_prefix": prefix}
    files = {"basic.py": BASIC, "app.py": ROOTED}
    live = make_server({"steps": "./basic.py:steps"}, files, "--no-reload", http=settings)
    assert f"Page      {live.url}/ui\n" in live.log
    assert httpx.get(f"{live.url}/", headers=FOR_PEOPLE).text == "mine"
    assert httpx.get(f"{live.url}/ui", headers=FOR_PEOPLE).text == PAGE


@pytest.mark.parametrize("order", ["middleware_first", "auth_first"])
@pytest.mark.parametrize(("app", "path"), [(APP, None), (ROOTED, "/"), (OVER_UI, "/ui")])
def test_the_page_needs_no_authentication_and_an_applications_own_does(
    make_server: Callable[..., LiveServer], order: str, app: str, path: str | None
) -> None:
    settings = {"app": "./app.py:app", "enable_custom_route_auth": True, "middleware_order": order}
    files = {**FILES, "auth.py": OWN, "app.py": app}
    live = make_server(OWNED, files, "--no-reload", auth={"path": "./auth.py:auth"}, http=settings)
    for each in ("/", "/ui"):
        answer = httpx.get(f"{live.url}{each}", headers=FOR_PEOPLE)
        if each == path:
            assert answer.status_code == 401
            assert httpx.get(f"{live.url}{each}", headers=as_user("alice")).text == "mine"
        else:
            assert answer.text == PAGE
    assert httpx.post(f"{live.url}/assistants/search", json={}).status_code == 401
    assert httpx.get(f"{live.url}/runs").status_code == 401
    assert httpx.get(f"{live.url}/info").json()["database"] is None


def test_without_meta_there_is_no_page(make_server: Callable[..., LiveServer]) -> None:
    settings = {"disable_meta": True}
    live = make_server({"steps": "./basic.py:steps"}, {"basic.py": BASIC}, "--no-reload", http=settings)
    assert "Page" not in live.log
    for path in ("/", "/ui"):
        assert httpx.get(f"{live.url}{path}", headers=FOR_PEOPLE).status_code == 404


def test_the_documents_tell_of_it(server: LiveServer) -> None:
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert "text/html" in paths["/ui"]["get"]["responses"]["200"]["content"]
    assert {each["name"] for each in paths["/runs"]["get"]["parameters"]} == {"limit", "offset", "status", "select"}
    assert "/ui" in httpx.get(f"{server.url}/docs").text


def test_a_foreign_page_reads_nothing_of_it(server: LiveServer) -> None:
    assert httpx.get(f"{server.url}/ui", headers={"host": "evil.example"}).status_code == 403
    answer = httpx.get(f"{server.url}/ui", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


# The runs of all threads


def finished(http: httpx.Client, graph: str, **values: Any) -> dict[str, Any]:
    thread = http.post("/threads", json={}).json()["thread_id"]
    http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": graph, "input": values})
    found: dict[str, Any] = http.get(f"/threads/{thread}/runs").json()[0]
    return found


def test_runs_of_all_threads_are_listed_newest_first(server: LiveServer) -> None:
    with server.http() as http:
        first, second = finished(http, "steps", text="a"), finished(http, "failing", kind="own")
        third = finished(http, "steps", text="b")
        shown = http.get("/runs").json()
        assert shown[:3] == [third, second, first]  # as the threads show them
        assert http.get("/runs", params={"limit": 1, "offset": 1}).json() == [second]
        assert http.get("/runs", params={"status": "error", "limit": 1}).json() == [second]
        part = http.get("/runs", params={"select": "run_id", "limit": 2}).json()
        assert part == [{"run_id": third["run_id"]}, {"run_id": second["run_id"]}]
        http.delete(f"/threads/{third['thread_id']}")
        assert http.get("/runs", params={"limit": 1}).json() == [second]


@pytest.mark.parametrize(
    ("query", "status"),
    [("select=nonsense", 422), ("limit=x", 400), ("limit=-1", 422), ("offset=-1", 422), ("status=nonsense", 200)],
)
def test_wrong_queries_are_answered_as_a_threads_are(server: LiveServer, query: str, status: int) -> None:
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        answers = [http.get(f"{path}?{query}") for path in ("/runs", f"/threads/{thread}/runs")]
    assert [answer.status_code for answer in answers] == [status] * 2


# What /info tells the page


def test_info_tells_the_database_and_when_code_was_reloaded(make_server: Callable[..., LiveServer]) -> None:
    live = make_server({"steps": "./basic.py:steps"}, {"basic.py": BASIC})
    with live.http() as http:
        info = http.get("/info").json()
        assert info["version"] == __version__
        assert info["database"].endswith("devserver.db")
        assert info["reloads"] == 0
        (live.folder / "basic.py").write_text(f"{BASIC}\n")
        wait_until(lambda: http.get("/info").json()["reloads"] == 1)
        (live.folder / "basic.py").write_text("not python (")  # the last good code stays
        wait_until(lambda: "the last good graphs stay" in live.log)
        assert http.get("/info").json()["reloads"] == 1

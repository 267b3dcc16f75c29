"""Both `useStream` hooks in a real headless browser, on a page that another server on this machine serves."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import LiveServer
from test_js_sdk import JS, installed  # noqa: F401  the fixture that runs npm
from websockets.sync.client import ClientConnection, connect

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SERVED = {"hesitant": "./talk.py:hesitant", "question": "./basic.py:question", "failing": "./basic.py:failing"}
HI = [{"role": "user", "content": "hi"}]

pytestmark = [
    pytest.mark.skipif(not (shutil.which("npm") and shutil.which("node")), reason="npm is absent"),
    pytest.mark.skipif(not BROWSER, reason="neither chromium nor google-chrome is on the PATH"),
]
hooks = pytest.mark.parametrize("hook", ["new", "socket", "classic"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page, bundled, and served by a server of its own: to devserver, it is another origin."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--bundle", "--jsx=automatic", '--define:process.env.NODE_ENV="production"', "--log-level=warning"]
    bundled = subprocess.run(
        ["node_modules/.bin/esbuild", "page.jsx", *options, f"--outfile={folder / 'page.js'}"],
        cwd=JS,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert bundled.returncode == 0, bundled.stderr
    (folder / "page.html").write_text('<!doctype html><body><script src="page.js"></script>')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/page.html"
        served.shutdown()


class Browser:
    """Chromium, by its DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    def do(self, method: str, session: str | None = None, **params: Any) -> Any:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps(message if session is None else {**message, "sessionId": session}))
        while (answer := json.loads(self._socket.recv(30))).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert BROWSER
    profile = tmp_path_factory.mktemp("profile")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    process = subprocess.Popen(
        [BROWSER, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr
    try:
        found = next(filter(None, (re.search(r"listening on (ws://\S+)", line) for line in process.stderr)))
        reader = threading.Thread(target=process.stderr.read, daemon=True)
        reader.start()
        with connect(found[1], max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(10)
        reader.join(10)
        process.stderr.close()


class Page:
    """The page of one test; what it shows is in its `window.page`."""

    def __init__(self, browser: Browser, url: str) -> None:
        target = browser.do("Target.createTarget", url=url)["targetId"]
        session = browser.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._do = functools.partial(browser.do, session=session)
        self.close = functools.partial(browser.do, "Target.closeTarget", targetId=target)

    def run(self, script: str) -> Any:
        result = self._do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def call(self, name: str, *arguments: Any) -> None:
        self.run(f"window.page.{name}({', '.join(map(json.dumps, arguments))})")

    def shows(self, look: Callable[[Any], Any]) -> Any:
        """What the page shows once that looks right."""
        deadline = time.monotonic() + 15
        while True:
            shown = self.run("window.page && JSON.parse(JSON.stringify(window.page))")
            if shown and look(shown):
                return shown
            assert time.monotonic() < deadline, shown
            time.sleep(0.02)

    def reload(self) -> None:
        self.run("window.page = null")
        self._do("Page.reload")


@pytest.fixture
def open_page(browser: Browser, site: str, server: LiveServer) -> Iterator[Callable[..., Page]]:
    with contextlib.ExitStack() as stack:

        def open_page(hook: str, graph: str, **query: str) -> Page:
            page = Page(browser, f"{site}?{urlencode({'api': server.url, 'hook': hook, 'graph': graph, **query})}")
            stack.callback(page.close)
            page.shows(lambda shown: not shown["loading"])
            return page

        yield open_page


def says(text: str) -> Callable[[Any], bool]:
    return lambda shown: bool(shown["texts"]) and shown["texts"][-1][1] == text


def is_idle(shown: Any) -> bool:
    return not shown["loading"]


@hooks
def test_messages_appear_as_they_are_spoken(open_page: Callable[..., Page], tmp_path: Path, hook: str) -> None:
    page, gate = open_page(hook, "hesitant"), tmp_path / "gate"
    page.call("submit", {"messages": HI, "gate": str(gate)})
    shown = page.shows(says("you"))
    assert shown["loading"]
    gate.touch()
    page.shows(says("you said hi"))
    shown = page.shows(is_idle)
    assert shown["error"] is None
    assert shown["texts"] == [["human", "hi"], ["ai", "you said hi"]]
    assert shown["threadId"]
    page.call("submit", {"messages": [{"role": "user", "content": "ho"}]})
    page.shows(says("you said ho"))
    assert len(page.shows(is_idle)["texts"]) == 4


@hooks
def test_a_question_is_shown_and_answered(open_page: Callable[..., Page], hook: str) -> None:
    page = open_page(hook, "question")
    page.call("submit", {"topic": "x"})
    shown = page.shows(lambda shown: shown["interrupt"] and is_idle(shown))
    assert shown["interrupt"] == {"question": "publish?", "draft": "about x"}
    page.reload()
    page.shows(lambda shown: shown["interrupt"] and is_idle(shown))
    page.call("answer", "no")
    shown = page.shows(lambda shown: shown["values"].get("trail", ())[-1:] == ["shelve"] and is_idle(shown))
    assert shown["values"]["trail"] == ["draft", "review", "shelve"]
    assert shown["values"]["decision"] == "no"
    assert page.shows(lambda shown: shown["interrupt"] is None)["error"] is None


@hooks
def test_a_run_is_stopped(open_page: Callable[..., Page], tmp_path: Path, hook: str, server: LiveServer) -> None:
    page = open_page(hook, "hesitant")
    page.call("submit", {"messages": HI, "gate": str(tmp_path / "gate")})
    thread = page.shows(says("you"))["threadId"]
    page.call("stop")
    assert page.shows(is_idle)["error"] is None
    with server.http() as http:
        deadline = time.monotonic() + 10
        while (run := http.get(f"/threads/{thread}/runs").json()[0])["status"] == "running":
            assert time.monotonic() < deadline
        assert run["status"] == "interrupted"
    page.call("submit", {"messages": [{"role": "user", "content": "again"}], "gate": ""})
    page.shows(lambda shown: ["ai", "you said again"] in shown["texts"])
    assert page.shows(is_idle)["error"] is None


@hooks
def test_a_reloaded_page_follows_the_run_that_goes_on(
    open_page: Callable[..., Page], tmp_path: Path, hook: str
) -> None:
    page, gate = open_page(hook, "hesitant"), tmp_path / "gate"
    page.call("submit", {"messages": HI, "gate": str(gate)})
    page.shows(says("you"))
    page.reload()
    page.shows(lambda shown: shown["loading"] and says("you")(shown))
    gate.touch()
    page.shows(lambda shown: says("you said hi")(shown) and is_idle(shown))
    page.reload()
    shown = page.shows(lambda shown: says("you said hi")(shown) and is_idle(shown))
    assert shown["texts"] == [["human", "hi"], ["ai", "you said hi"]]


@hooks
def test_a_failed_run_is_shown(open_page: Callable[..., Page], hook: str) -> None:
    page = open_page(hook, "failing")
    page.call("submit", {"kind": "value"})
    assert "no good value" in page.shows(lambda shown: shown["error"] and is_idle(shown))["error"]

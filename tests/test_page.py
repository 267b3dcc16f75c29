"""The page, in a real headless browser: what a person sees and does with it, by mouse and by keyboard."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import GRAPHS, ROOT, LiveServer, wait_until, write_project
from test_browser import BROWSER, Browser, browser  # noqa: F401  the fixture that runs Chromium
from test_js_sdk import JS, install

from devserver import PAGE

FILES = {file.name: file.read_text() for file in [*GRAPHS.glob("*.py"), ROOT / "graphs" / "agent.py"]}
HOSTILE = """<img src=x onerror="hacked=1"><script>hacked=1</script> [a](javascript:hacked=1) https://example.org/a"b"""
FILES["paged.py"] = f"""
import asyncio
import operator
import time
from typing import Annotated, TypedDict

from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from devserver import SharedValue

def say(state):
    text = "x" * 10_000_000 if state["messages"][-1].content == "big" else {HOSTILE!r}
    usage = {{"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}}
    return {{"messages": [AIMessage(text, usage_metadata=usage)]}}

class Numbers(TypedDict, total=False):
    n: int
    out: int

async def flood(state):
    write, began = get_stream_writer(), time.monotonic()
    for i in range(state["n"]):
        write({{"i": i}})
        if i % 100 == 99:
            await asyncio.sleep(max(0, (i + 1) / 10_000 - (time.monotonic() - began)))
    return {{"out": state["n"]}}

def count(state):
    return {{"out": state.get("out", 0) + 1}}

class Trail(TypedDict, total=False):
    trail: Annotated[list, operator.add]

def old_shape(state):
    allowed = {{f"allow_{{name}}": True for name in ("accept", "edit", "respond", "ignore")}}
    request = {{"action": "mail", "args": {{"to": "bob"}}}}
    return {{"trail": interrupt([{{"action_request": request, "config": allowed}}])}}

def new_shape(state):
    asked = [{{"name": name, "args": {{"to": "bob"}}}} for name in ("mail", "pay")]
    return {{"trail": interrupt({{"action_requests": asked, "review_configs": []}})["decisions"]}}

def one(node):
    kind = MessagesState if node is say else Numbers if node is flood else Trail
    return StateGraph(kind).add_node("node", node).add_edge(START, "node").compile()

hostile, flooding, asks_old, asks_new = map(one, (say, flood, old_shape, new_shape))
long = StateGraph(Numbers).add_node(count).add_edge(START, "count").add_conditional_edges(
    "count", lambda state: "count" if state["out"] < state["n"] else END, ["count", END]).compile()
two = StateGraph(Trail)
for name in ("left", "right"):
    two.add_node(name, lambda state, name=name: {{"trail": [interrupt(f"{{name}}?")]}}).add_edge(START, name)
both = two.compile()

class Known(TypedDict, total=False):
    note: str
    info: Annotated[dict, SharedValue.on("user_id")]

learn = lambda state: {{"info": {{"fact": {{"said": state["note"]}}}}}}
learns = StateGraph(Known).add_node("learn", learn).add_edge(START, "learn").compile()
"""
SERVED = {
    **{name: f"./basic.py:{name}" for name in ("steps", "failing", "question", "nested", "context", "gated")},
    **{
        name: f"./paged.py:{name}" for name in ("hostile", "flooding", "long", "both", "asks_old", "asks_new", "learns")
    },
    **{name: f"./talk.py:{name}" for name in ("hesitant", "tooled", "counted")},
    "schema": "./forms.py:asks",
    "agent": "./agent.py:graph",
}


@pytest.fixture(scope="session")
def modules() -> Path:
    """What npm installs to check the page."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("npm is absent")
    install()
    return JS / "node_modules"


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("page")
    write_project(folder, SERVED, FILES)
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0, live.log


class Page:
    """The page in a tab of its own, used as a person does: by what is written on buttons and fields."""

    def __init__(self, chromium: Browser, url: str, width: int = 1280) -> None:
        context = chromium.do("Target.createBrowserContext")["browserContextId"]  # with a storage of its own
        target = chromium.do("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = chromium.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.do = functools.partial(chromium.do, session=session)
        self.close = functools.partial(chromium.do, "Target.disposeBrowserContext", browserContextId=context)
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.do("Page.navigate", url=url)
        self.url = url

    def run(self, script: str) -> Any:
        result = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script: str, seconds: float = 15) -> Any:
        """The first true value of an expression."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):  # what is not there yet
                if found := self.run(f"(found => found instanceof Node || found)({script})"):
                    return found
            assert time.monotonic() < deadline, f"{script}\n{self.run('document.body.innerText')}"
            time.sleep(0.02)

    def sees(self, text: str, within: str = "body", seconds: float = 15) -> None:
        self.until(f"document.querySelector({within!r}).innerText.includes({json.dumps(text)})", seconds)

    def click(self, text: str, within: str = "body", nth: int = 0) -> None:
        """Click the button or link that has this text, once it is seen."""
        found = (
            f"[...document.querySelectorAll({json.dumps(within + ' :is(button, a, summary)')})].filter(one =>"
            f" one.innerText.trim().startsWith({json.dumps(text)}) && one.checkVisibility())[{nth}]"
        )
        self.until(f"{found} && ({found}.click(), true)")

    def write(self, label: str, text: str) -> None:
        """Put a text into the field of this label, as if it was typed."""
        found = f"document.querySelectorAll(':is(input, textarea)[aria-label={json.dumps(label)}]')"
        field = f"[...{found}].findLast(field => field.checkVisibility())"  # a dialog comes last
        self.until(f"{field} && ({field}.focus(), {field}.select(), true)")
        self.do("Input.insertText", text=text)
        self.run(f"{field}.dispatchEvent(new Event('change'))")

    def choose_from(self, label: str, value: str) -> None:
        field = f"document.querySelector('select[aria-label={json.dumps(label)}]')"
        self.run(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('change'))")

    def press(self, key: str) -> None:
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = {"Enter": 13, "Escape": 27, "Tab": 9}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.do("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def choose(self, graph: str) -> None:
        self.until("document.querySelectorAll('#assistant option').length && S.assistant && $('threads')")
        name = f"S.assistants.find(one => one.graph_id === {json.dumps(graph)}).assistant_id"
        self.run(f"$('assistant').value = {name}; $('assistant').dispatchEvent(new Event('change'))")
        self.until(f"S.assistant.graph_id === {json.dumps(graph)} && S.nodes.length && stale.size === 0")

    def answer_prompt(self, text: str, act: str) -> None:
        """Do something that asks for a text by a box of the browser's own."""
        self.do("Page.enable")
        self.run(f"setTimeout(() => {{ {act} }})")
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(AssertionError):  # there is no box yet
                self.do("Page.handleJavaScriptDialog", accept=True, promptText=text)
                return
            assert time.monotonic() < deadline

    def reload(self) -> None:
        self.run("window.isOld = true; location.reload()")
        self.until("!window.isOld && S.assistant && $('threads')")

    def idle(self) -> Any:
        return self.until("!S.run && S.runs.length && !['pending', 'running'].includes(S.runs[0].status)")


@pytest.fixture
def open_page(request: pytest.FixtureRequest, server: LiveServer) -> Iterator[Callable[..., Page]]:
    if not BROWSER:
        pytest.skip("neither chromium nor google-chrome is on the PATH")
    chromium: Browser = request.getfixturevalue("browser")
    with contextlib.ExitStack() as stack:

        def opened(graph: str = "", url: str = "", **options: Any) -> Page:
            page = Page(chromium, url or f"{server.url}/", **options)
            stack.callback(page.close)
            if graph:
                page.choose(graph)
            return page

        yield opened


def run_form(page: Page, **values: Any) -> None:
    page.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")  # a form that is due is drawn
    page.click("Form or JSON", "#ask")
    page.write("Input", json.dumps(values))
    page.click("Run", "#ask")


def test_the_script_is_without_faults(modules: Path) -> None:
    script = PAGE.partition("<script>\n")[2].partition("</script>")[0]
    command = [str(modules / ".bin" / "eslint"), "--stdin", "--stdin-filename", "page.js", "--max-warnings", "0"]
    done = subprocess.run(command, cwd=JS, input=script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


# The conversation


def test_a_message_is_answered_as_it_is_spoken(open_page: Callable[..., Page], server: LiveServer) -> None:
    page = open_page("hesitant")
    gate = server.folder / "gate of the page"
    page.click("New thread")
    page.run(
        f"startRun({{ input: {{ messages: [{{ type: 'human', content: 'hi' }}], gate: {json.dumps(str(gate))} }} }})"
    )
    page.sees("you", "#talk article.ai")
    assert page.run("$('talk').querySelector('article.ai').innerText.includes('said')") is False
    page.sees("● running", "#ask")
    page.write("Message", "what comes next")
    page.run("$('message').setSelectionRange(4, 4)")
    gate.touch()
    page.sees("you said hi", "#talk")
    page.idle()
    page.until("!$('ask').innerText.includes('running')")
    assert page.run("[document.activeElement.id, $('message').selectionStart]") == ["message", 4]
    page.until("document.querySelector('#graph .node.done')")
    assert page.run("document.querySelectorAll('#talk article').length") == 2


def test_hostile_output_is_shown_as_text(open_page: Callable[..., Page]) -> None:
    page = open_page("hostile")
    page.write("Message", HOSTILE)
    page.press("Enter")
    page.until("document.querySelectorAll('#talk article').length === 2")
    page.idle()
    assert HOSTILE in page.run("document.querySelector('#talk article.ai p').textContent")
    assert page.run("[typeof hacked, document.images.length, document.scripts.length]") == ["undefined", 0, 1]
    assert page.run("[...document.links].map(link => link.href)") == ["https://example.org/a"] * 2
    page.sees(HOSTILE[:20], "#threads .open")
    page.sees("3 → 9 tokens", "#talk article.ai")


def test_ten_megabytes_are_cut(open_page: Callable[..., Page]) -> None:
    page = open_page("hostile")
    page.write("Message", "big")
    page.click("Send")
    page.sees("Show all 10000 KB", "#talk", 40)
    assert page.run("$('talk').textContent.length") < 30_000


def test_an_edited_message_forks_the_thread(open_page: Callable[..., Page]) -> None:
    page = open_page("hostile")
    page.write("Message", "one")
    page.press("Enter")
    page.until("document.querySelectorAll('#talk article').length === 2")
    page.idle()
    page.click("Edit", "#talk")
    page.write("Message", "other")
    page.click("Send", "#dialog")
    page.sees("other", "#talk article.human")
    page.idle()
    assert page.run("document.querySelectorAll('#talk article').length") == 2
    page.sees("⤷", "#inspector")


def test_tool_calls_are_folded_with_their_results(open_page: Callable[..., Page]) -> None:
    page = open_page("tooled")
    page.write("Message", "Paris")
    page.press("Enter")
    page.sees("you said sunny in Paris", "#talk")
    page.idle()
    page.sees("→ weather(", "#talk details")
    assert "Result" not in page.run("$('talk').innerText")
    page.click("→ weather(", "#talk")
    page.sees("sunny in Paris", "#talk details")
    assert page.run("document.querySelectorAll('#talk article').length") == 3


def test_what_was_said_comes_back_by_the_arrows(open_page: Callable[..., Page]) -> None:
    page = open_page("tooled")
    for text in ("first", "second"):
        page.write("Message", text)
        page.press("Enter")
        page.sees(f"you said sunny in {text}", "#talk")
        page.idle()
    page.until("$('message').value === ''")
    page.run("$('message').focus()")
    shown = []
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowDown", "ArrowDown"):
        page.press(key)
        page.run("$('message').setSelectionRange(0, 0)")
        shown.append(page.run("$('message').value"))
    assert shown == ["second", "first", "first", "second", ""]


def test_a_run_is_cancelled(open_page: Callable[..., Page]) -> None:
    page = open_page("gated")
    run_form(page, gate="never")
    page.click("Cancel", "#ask")
    page.until("!S.run && S.runs[0]?.status === 'interrupted'")
    page.click("Runs", "#inspectors")
    page.sees("? interrupted", "#inspector")


def test_pictures_are_shown_only_if_they_are_in_the_message(open_page: Callable[..., Page]) -> None:
    page = open_page("hostile")
    pixel = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (pixel, "https://example.org/a.png")]
    message = {"type": "human", "content": [{"type": "text", "text": "look"}, *parts]}
    page.run(f"startRun({json.dumps({'input': {'messages': [message]}})})")
    page.until("document.images.length && document.images[0].naturalWidth === 1")
    assert page.run("[...document.images].map(image => image.src)") == [pixel]
    page.sees("https://example.org/a.png", "#talk pre")


def test_custom_events_are_shown(open_page: Callable[..., Page]) -> None:
    page = open_page("counted")
    run_form(page, text="x")
    page.idle()  # what is opened while it is drawn again may be closed
    page.click("2 custom events", "#talk")
    page.sees("nameless", "#talk")


def test_a_message_may_be_sent_as_a_form(open_page: Callable[..., Page]) -> None:
    page = open_page("tooled")
    page.click("Form instead", "#ask")
    page.write("messages", '[["user", "Rome"]]')
    page.click("Run", "#ask")
    page.sees("you said sunny in Rome", "#talk")
    page.idle()
    page.click("Message instead", "#ask")
    page.until("$('message')")


# Forms, errors, questions


def test_a_failed_run_tells_class_message_and_node(open_page: Callable[..., Page], server: LiveServer) -> None:
    page = open_page("failing")
    run_form(page, kind="own")
    page.sees("✕ UnheardError in node fail", "#talk")
    page.sees("nobody knows this class", "#talk")
    page.sees("Retry from the last checkpoint", "#talk")
    assert page.run("document.querySelector('#graph .node.error').dataset.node") == "fail"
    page.click("Runs", "#screens")
    page.sees("✕ error", "#wide")
    page.click("Thread", "#wide tr:has(.bad)")  # one click from its cause
    page.sees("✕ UnheardError", "#talk")
    page.sees("Its traceback is in devserver's log", "#talk")
    ended = server.log.index(f"run {page.run('S.runs[0].run_id')}")
    assert "Traceback (most recent call last)" in server.log[max(0, ended - 3000) : ended + 3000]
    page.write("Search, or key=value", "graph_id=failing")
    page.choose_from("Status", "idle")
    page.sees("No thread here", "#threads")
    page.choose_from("Status", "error")
    page.sees("✕ error", "#threads")


def test_a_question_hides_the_form_and_is_answered(open_page: Callable[..., Page]) -> None:
    page = open_page("question")
    run_form(page, topic="x")
    page.sees("? review asks", "#ask")
    assert page.run("[...document.querySelectorAll('#ask button')].some(one => one.innerText === 'Run')") is False
    page.write("Answer", "no")
    page.click("Answer", "#ask")
    page.until("S.state?.values.decision === 'no' && !S.run")
    page.sees("Run", "#ask")


def test_a_question_with_a_schema_is_a_form(open_page: Callable[..., Page]) -> None:
    page = open_page("schema")
    run_form(page)
    page.sees("? ask asks", "#ask")
    assert page.run("document.querySelector('#ask input').type") == "number"
    page.run("document.querySelector('#ask input').value = 7")
    page.click("Answer", "#ask")
    assert page.until("!S.run && S.state?.values.log?.length === 2 && S.state.values.log[1]") == "ask:7"


def test_questions_are_answered_together_each_by_its_id(open_page: Callable[..., Page]) -> None:
    page = open_page("both")
    run_form(page)
    page.sees("? left asks", "#ask")
    page.run("document.querySelectorAll('#ask textarea').forEach((box, i) => { box.value = `answer ${i}` })")
    page.click("Answer", "#ask .card:nth-child(1)")
    page.sees("✓ answered, 1 more to answer", "#ask")
    page.click("Answer", "#ask .card:nth-child(2)")
    assert page.until("!S.run && S.state?.values.trail?.length === 2 && S.state.values.trail") == [
        "answer 0",
        "answer 1",
    ]


EDITED = {"type": "edit", "args": {"action": "mail", "args": {"to": "bob"}}}


@pytest.mark.parametrize(
    ("graph", "clicks", "answers"),
    [
        ("asks_old", ["Accept"], [{"type": "accept", "args": None}]),
        pytest.param("asks_old", ["Edit"], [EDITED], marks=pytest.mark.long),
        pytest.param("asks_old", ["Respond"], [{"type": "response", "args": "why"}], marks=pytest.mark.long),
        pytest.param("asks_old", ["Ignore"], [{"type": "ignore", "args": None}], marks=pytest.mark.long),
        ("asks_new", ["Approve", "Reject"], [{"type": "approve"}, {"type": "reject", "message": "why"}]),
        (
            "asks_new",
            ["Edit", "Respond"],
            [
                {"type": "edit", "edited_action": {"name": "mail", "args": {"to": "bob"}}},
                {"type": "respond", "message": "why"},
            ],
        ),
    ],
)
def test_tool_calls_are_decided_on(
    open_page: Callable[..., Page], graph: str, clicks: list[str], answers: list[Any]
) -> None:
    page = open_page(graph)
    run_form(page)
    page.sees("? node asks", "#ask")
    page.run("document.querySelectorAll('#ask input').forEach(box => { box.value = 'why' })")
    for i, text in enumerate(clicks):
        page.click(text, "#ask", i)
    assert page.until("!S.run && S.state?.values.trail?.length && S.state.values.trail") == answers


def test_a_breakpoint_stops_and_goes_on(open_page: Callable[..., Page]) -> None:
    page = open_page("steps")
    page.run("document.querySelector('#graph g[data-node=second]').dispatchEvent(new MouseEvent('click'))")
    page.click("Stop before", "#dialog")
    page.click("Close", "#dialog")
    run_form(page, text="x")
    page.sees("Stopped before second", "#ask")
    page.click("Change the state", "#ask")
    page.write("Values", '{"text": "changed", "trail": [1], "total": 1}')
    page.click("Change", "#dialog")
    page.until("S.state?.values.text === 'changed'")
    page.run("S.stops.clear()")
    page.click("Continue", "#ask")
    assert page.until("!S.run && S.state?.values.text === 'changed!' && S.state.values.total") == 111


def test_the_user_and_the_configuration_are_sent(open_page: Callable[..., Page], server: LiveServer) -> None:
    page = open_page("context")
    page.run("$('user').value = 'ann'; $('user').dispatchEvent(new Event('change'))")
    page.click("Configuration")
    page.run("document.querySelector('#dialog input[type=number]').value = 3")
    page.write("user", "of the form")
    page.click("For the runs of this page", "#dialog")
    run_form(page)
    seen = page.until("!S.run && S.state?.values.seen")
    assert seen["context"] == {"user": "of the form", "level": 3}
    assert seen["configurable"]["user_id"] == "ann"
    page.reload()
    page.until("$('user').value === 'ann'")


def test_an_assistant_is_made_and_changed(open_page: Callable[..., Page], server: LiveServer) -> None:
    page = open_page("context")
    page.click("Configuration")
    page.write("user", "first")
    page.write("Name of a new assistant", "for the page")
    page.click("For a new assistant", "#dialog")
    page.until("S.assistant.name === 'for the page' && S.nodes.length")
    run_form(page)
    assert page.until("!S.run && S.state?.values.seen")["context"]["user"] == "first"
    page.click("Configuration")
    page.write("user", "second")
    page.click("For all of for the page", "#dialog")
    page.until("S.assistant.version === 2 && S.assistant.context.user === 'second'")
    with server.http() as http:
        http.delete(f"/assistants/{page.run('S.assistant.assistant_id')}")


# The graph


def test_subgraphs_are_boxes_with_their_nodes_states(open_page: Callable[..., Page]) -> None:
    page = open_page("nested")
    assert page.run("[...document.querySelectorAll('#graph .box')].map(box => box.dataset.node)") == [
        "child",
        "child:grand",
    ]
    run_form(page)
    page.until("!S.run && S.runs[0]?.status === 'success' && document.querySelectorAll('#graph g.done').length > 3")
    listed = page.run("[...document.querySelectorAll('#graph li')].map(node => node.textContent)")
    assert any(text.startswith("leaf ✓") for text in listed), listed
    page.run("document.querySelector('#graph .box').dispatchEvent(new MouseEvent('click'))")
    page.sees("Stop before", "#dialog")
    page.sees("Last output", "#dialog")
    page.press("Escape")
    page.reload()  # now the history alone tells
    page.until("document.querySelector('#graph .box.done')?.dataset.node === 'child'")


def test_a_hundred_nodes_are_laid_out_without_overlap(open_page: Callable[..., Page]) -> None:
    page = open_page("steps")
    laid = page.run("""(() => {
        const nodes = [...Array(100).keys()].map(i => ({ id: `node_${i}`, w: 90 + 37 * i % 60, h: 38 }));
        const edges = nodes.slice(1).map(({ id }, i) => ({ source: `node_${i * 7 % (i + 1)}`, target: id }));
        for (let i = 0; i < 40; i++) edges.push({ source: `node_${i * 13 % 97 + 3}`, target: `node_${i * 5 % 50}` });
        const began = performance.now(), { paths } = layout(nodes, edges), ms = performance.now() - began;
        return { ms, nodes: nodes.map(({ x, y, w, h }) => [x, y, w, h]), paths: paths.map(path => path.d) };
    })()""")
    for i, (x, y, w, h) in enumerate(laid["nodes"]):
        for x2, y2, w2, h2 in laid["nodes"][:i]:
            assert abs(x - x2) >= (w + w2) / 2 or abs(y - y2) >= (h + h2) / 2
    assert len(set(laid["paths"])) == len(laid["paths"])
    assert not [path for path in laid["paths"] if "NaN" in path]
    assert laid["ms"] < 500
    both = page.run("""layout([{ id: "a", w: 90, h: 38 }, { id: "b", w: 90, h: 38 }],
        [{ source: "a", target: "b" }, { source: "b", target: "a" }]).paths.map(path => path.d)""")
    assert both[0].startswith("M0,") or both[0] != both[1]
    start_x = [float(path[1:].split(",")[0]) for path in both]
    assert abs(start_x[0] - start_x[1]) >= 40  # the way back is beside the nodes


def test_reloaded_code_is_drawn_anew(open_page: Callable[..., Page], make_server: Callable[..., LiveServer]) -> None:
    live = make_server({"steps": SERVED["steps"]}, FILES)
    page = open_page("steps", f"{live.url}/")
    page.until("loaded === 0")
    source = (
        FILES["basic.py"].replace(".add_node(second)", '.add_node("renamed", second)').replace('"second"', '"renamed"')
    )
    (live.folder / "basic.py").write_text(source)
    page.until("fetch('info').then(told => told.json()).then(told => told.reloads)")
    page.run("looks = 0; look()")
    page.sees("The code was reloaded", "#notice")
    page.until("S.nodes.includes('renamed')")


# The inspector


def test_a_step_is_changed_and_run_again(open_page: Callable[..., Page]) -> None:
    page = open_page("steps")
    run_form(page, text="x")
    page.until("S.state?.values.text === 'x!' && !S.run")
    page.click("2 second", "#inspector")
    page.sees("Go on from it", "#ask")
    assert "/c/" in page.run("location.hash")
    page.click("Change the state", "#ask")
    page.run(
        "{ const box = document.querySelector('#dialog textarea');"
        " box.value = box.value.replace('\"x\"', '\"other\"') }"
    )
    page.click("Change and run", "#dialog")
    page.until("S.state?.values.text === 'other!' && !S.run")
    page.sees("⤷ 3 third", "#inspector")
    page.click("State", "#inspectors")
    page.write("Search keys and values", "OTHER")
    page.sees("text other!", "#inspector")
    copied = "window.copied = []; navigator.clipboard.writeText = async text => { copied.push(text) }"
    page.run(copied)
    page.click("text", "#inspector li")
    assert page.until("copied.length && copied") == ["text"]
    page.run(f"location.hash += '/c/{page.run('S.history.at(-1).checkpoint_id')}'")
    page.sees("Go on from it", "#ask")
    page.reload()  # the address is of that step
    page.sees("Step -1", "#ask")


def test_a_run_is_copied_as_code_without_the_headers_values(open_page: Callable[..., Page]) -> None:
    page = open_page("steps")
    run_form(page, text="it is 'null'")
    page.until("S.state?.values.total === 111 && !S.run")
    page.run("sessionStorage.setItem('devserver.headers', JSON.stringify({ Authorization: 'Bearer secret' }))")
    codes = page.run("Object.values(CODE).map(write => write(S.runs[0], askedOf(S.runs[0])))")
    assert all("Authorization" in code and "<yours>" in code and "secret" not in code for code in codes)
    curl, python, script = codes
    address = page.url.removesuffix("/")
    real = [code.replace("<yours>", "x").replace("-N ", "-sN ") for code in (curl, python)]
    assert address in script
    commands = [["bash", "-c", real[0]], [sys.executable, "-c", real[1]]]
    if shutil.which("node") and (JS / "node_modules" / "sdk200").exists():
        text = script.replace("@langchain/langgraph-sdk", "sdk200").replace("<yours>", "x")
        text = text.replace("console.log(part)", "console.log(JSON.stringify(part))")
        commands.append(["node", "--input-type=module", "-e", text])
    for command in commands:
        done = subprocess.run(command, cwd=JS, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "it is 'null'" in done.stdout


def test_a_timeline_shows_tasks_as_they_were_seen_or_by_steps(open_page: Callable[..., Page]) -> None:
    page = open_page("steps")
    run_form(page, text="x")
    page.until("S.state?.values.total === 111 && !S.run")
    page.click("Timeline", "#inspectors")
    rows = "[...document.querySelectorAll('#inspector li')].map(row => row.innerText.split(' ').slice(0, 2).join(' '))"
    page.until(f"{rows}.length === 3")
    assert page.run(rows) == ["✓ first", "✓ second", "✓ third"]
    assert "*" not in page.run("$('inspector').innerText")
    page.reload()
    page.until("S.history.length")
    page.click("Timeline", "#inspectors")
    page.sees("* by the checkpoints' times", "#inspector")
    assert page.run(rows) == ["✓ first", "✓ second", "✓ third"]
    starts = page.run("[...document.querySelectorAll('#inspector .bar')].map(bar => bar.getBoundingClientRect().left)")
    assert starts == sorted(starts)


def test_the_list_of_threads(open_page: Callable[..., Page], server: LiveServer) -> None:
    page = open_page("hostile")
    page.write("Message", "a thread to lose")
    page.press("Enter")
    page.sees("a thread to lose", "#threads")
    page.idle()
    page.click("Delete", "#threads")
    page.until("!$('threads').innerText.includes('a thread to lose')")
    page.click("Undo", "#notice")
    page.sees("a thread to lose", "#threads")
    page.write("Search, or key=value", "nothing has=this")
    page.sees("No thread here", "#threads")
    page.sees("curl http", "#threads pre")
    page.write("Search, or key=value", "graph_id=hostile a thread")
    page.sees("a thread to lose", "#threads li")
    page.answer_prompt("a title", "document.querySelector('#threads li .small .plain').click()")
    page.write("Search, or key=value", "a title")
    page.sees("a title", "#threads li")
    page.click("Copy", "#threads li")
    page.until("document.querySelectorAll('#threads li').length === 2")
    page.until("S.threadId && S.threads[0].thread_id === S.threadId")
    page.run("URL.createObjectURL = blob => { window.exported = blob; return 'data:,' }")
    page.click("Export", "#threads")
    saved = json.loads(page.until("window.exported && exported.text()"))
    assert [message["type"] for message in saved["thread"]["values"]["messages"]] == ["human", "ai"]
    assert len(saved["history"]) == len(page.run("S.history"))


def test_a_deleted_thread_is_gone_when_the_page_is_left(open_page: Callable[..., Page], server: LiveServer) -> None:
    with server.http() as http:
        kept, lost = (http.post("/threads", json={"metadata": {"of": "page"}}).json()["thread_id"] for _ in range(2))
        page = open_page("steps")
        page.run(f"S.gone.clear(); remove({json.dumps(lost)})")
        assert http.get(f"/threads/{lost}").status_code == 200
        page.do("Page.navigate", url="about:blank")
        wait_until(lambda: http.get(f"/threads/{lost}").status_code == 404)
        assert http.get(f"/threads/{kept}").status_code == 200


def test_threads_come_by_fifty(open_page: Callable[..., Page], server: LiveServer) -> None:
    with server.http() as http:
        for number in range(60):
            http.post("/threads", json={"metadata": {"title": f"thread {number}", "many": True}})
        page = open_page("steps")
        page.write("Search, or key=value", "many=true")
        page.until("document.querySelectorAll('#threads li').length === 50")
        page.click("More", "#threads")
        page.until("document.querySelectorAll('#threads li').length === 60")
        for thread in http.post("/threads/search", json={"metadata": {"many": True}, "limit": 100}).json():
            http.delete(f"/threads/{thread['thread_id']}")


# The other screens


def test_the_example_agent_is_talked_to_and_what_it_knows_is_corrected(
    open_page: Callable[..., Page], server: LiveServer
) -> None:
    page = open_page("agent")
    page.run("$('user').value = '123'; $('user').dispatchEvent(new Event('change'))")
    page.write("Message", "i like pepperoni pizza")
    page.press("Enter")
    page.sees("→ Info(", "#talk")
    page.idle()
    page.until("document.querySelector('#graph .node.done[data-node=save_info]')")
    page.click("Memory", "#screens")
    page.sees("123", "#wide td")
    page.run("document.querySelector('#wide td textarea').focus()")
    page.run("document.querySelector('#wide td textarea').select()")
    page.do("Input.insertText", text='{"fact": "I like sushi", "topic": "food"}')
    page.run("document.activeElement.blur()")
    page.sees("Saved", "#notice")
    page.click("Threads", "#screens")
    page.click("New thread")
    page.write("Message", "where and what should i eat for dinner?")
    page.press("Enter")
    page.sees("sushi", "#talk article.ai")
    page.idle()


def test_what_the_agent_knows_is_seen_and_corrected(open_page: Callable[..., Page], server: LiveServer) -> None:
    with server.http() as http:
        run = {"assistant_id": "learns", "input": {"note": "likes ham"}, "config": {"configurable": {"user_id": "123"}}}
        assert http.post("/runs/wait", json=run).status_code == 200
        spaces = http.post("/store/namespaces", json={}).json()["namespaces"]
    shared = next((space for space in spaces if space[0] == "scoped"), None)
    assert shared, spaces
    page = open_page()
    page.click("Memory", "#screens")
    page.sees(shared[2], "#wide")
    page.until("document.querySelector('#wide textarea')")
    page.run(
        "{ const box = document.querySelector('#wide textarea'); box.value = '{\"corrected\": 1}';"
        " box.dispatchEvent(new Event('change')) }"
    )
    page.sees("Saved", "#notice")
    with server.http() as http:
        items = http.post("/store/items/search", json={"namespace_prefix": shared}).json()["items"]
    assert {"corrected": 1} in [item["value"] for item in items]


def test_a_cron_is_fired(open_page: Callable[..., Page], server: LiveServer) -> None:
    with server.http() as http:
        cron = {
            "assistant_id": "steps",
            "schedule": "0 9 1 1 *",
            "input": {"text": "by cron"},
            "on_run_completed": "keep",
        }
        made = http.post("/runs/crons", json=cron)
        assert made.status_code == 200, made.text
        page = open_page()
        page.click("Crons", "#screens")
        page.sees("0 9 1 1 *", "#wide")
        page.click("Fire now", "#wide")
        page.until("S.state?.values.text === 'by cron!'")
        http.delete(f"/runs/crons/{made.json()['cron_id']}")


def test_crons_are_made_stopped_and_deleted(open_page: Callable[..., Page], server: LiveServer) -> None:
    page = open_page("steps")
    page.click("Crons", "#screens")
    page.click("New cron", "#wide")
    page.write("Schedule", "nonsense")
    page.click("Create", "#dialog")
    page.until("$('notice').innerText.includes('nonsense') || $('notice').innerText.includes('schedule')")
    page.write("Schedule", "5 4 1 1 *")
    page.write("text", "by the page")
    page.click("Create", "#dialog")
    page.sees("5 4 1 1 *", "#wide")
    with server.http() as http:
        [cron] = [one for one in http.post("/runs/crons/search", json={}).json() if one["schedule"] == "5 4 1 1 *"]
        assert (cron["enabled"], cron["payload"]["input"]) == (True, {"text": "by the page"})
        mine = "#wide tr:has(code)"
        page.run(f"document.querySelector('{mine} input').click()")
        wait_until(lambda: not http.get(f"/runs/crons/{cron['cron_id']}").json()["enabled"])
        page.click("Delete", mine)
        page.until("!$('wide').innerText.includes('5 4 1 1 *')")
        assert http.get(f"/runs/crons/{cron['cron_id']}").status_code == 404


def test_a_queued_run_is_cancelled_from_all_runs(open_page: Callable[..., Page], server: LiveServer) -> None:
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        run = {"assistant_id": "gated", "input": {"gate": "never"}}
        first, second = (http.post(f"/threads/{thread}/runs", json=run).json()["run_id"] for _ in range(2))
        page = open_page()
        page.click("Runs", "#screens")
        page.sees("○ pending", "#wide")
        page.click("Cancel", "#wide tr:has(.dim)")
        wait_until(lambda: http.get(f"/threads/{thread}/runs/{second}").json()["status"] == "interrupted")
        assert http.get(f"/threads/{thread}/runs/{first}").json()["status"] == "running"
        http.post(f"/threads/{thread}/runs/{first}/cancel?wait=true")


def test_the_store_is_edited_and_searched_by_meaning(
    open_page: Callable[..., Page], make_server: Callable[..., LiveServer]
) -> None:
    store = {"index": {"embed": "./meaning.py:sync_words", "dims": 6}}
    live = make_server({"steps": SERVED["steps"]}, FILES, "--no-reload", store=store)
    with live.http() as http:
        for key in ("cat", "tax"):
            http.put("/store/items", json={"namespace": ["notes", "of"], "key": key, "value": {"text": f"a {key}"}})
        page = open_page(url=f"{live.url}/#/memory")
        page.write("Meaning, where there is an index", "tax law")
        page.click("Search all", "#wide")
        page.sees("score", "#wide")
        assert page.run("[...$('wide').querySelectorAll('td:nth-child(2)')].map(cell => cell.innerText)") == [
            "tax",
            "cat",
        ]
        page.write("Meaning, where there is an index", "")
        page.click("notes / of", "#wide")
        page.until("!$('wide').innerText.includes('score') && $('wide').querySelectorAll('td textarea').length === 2")
        page.write("Value of cat", '{"text": "a dog"}')
        page.run("document.activeElement.blur()")
        page.sees("Saved", "#notice")
        assert http.get("/store/items?namespace=notes.of&key=cat").json()["value"] == {"text": "a dog"}
        page.click("Delete", "#wide tr:has(textarea)")
        page.until("!$('wide').querySelector('td')")
        page.click("notes / of", "#wide")
        page.until("$('wide').querySelectorAll('td textarea').length === 1")


# Around it


@pytest.mark.long
def test_a_busy_server_is_asked_again(open_page: Callable[..., Page], make_server: Callable[..., LiveServer]) -> None:
    """What it says is shown meanwhile."""
    live = make_server({"steps": SERVED["steps"]}, FILES, "--no-reload")
    page = open_page("steps", f"{live.url}/")
    with contextlib.closing(sqlite3.connect(live.folder / "devserver.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        run_form(page, text="x")
        page.sees("trying again", "#connection", 30)
        page.sees("locked", "#connection")
        other.execute("ROLLBACK")
    page.until("S.state?.values.total === 111 && !S.run", 30)
    page.sees("● connected", "#connection")


def test_a_run_that_ends_while_its_thread_is_opened_is_seen_to_end(
    open_page: Callable[..., Page], server: LiveServer, tmp_path: Path
) -> None:
    page, gate = open_page("gated"), tmp_path / "gate"
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        run = {"assistant_id": "gated", "input": {"gate": str(gate)}}
        run_id = http.post(f"/threads/{thread}/runs", json=run).json()["run_id"]
        page.run("""{
            const real = fetch;
            window.held = 0;
            window.may = new Promise(let_go => { window.let_go = let_go });
            fetch = async (url, options) => {
                if (url.includes("/stream?")) { held++; await may; }
                return real(url, options);
            };
        }""")
        page.run(f"location.hash = '#/t/{thread}'")
        page.until("held")
        gate.touch()
        http.get(f"/threads/{thread}/runs/{run_id}/join")
    page.run("let_go()")
    page.until("S.runs[0]?.status === 'success' && !S.run && !$('ask').innerText.includes('running')")


@pytest.mark.long
def test_two_tabs_see_the_same_run(open_page: Callable[..., Page]) -> None:
    first, second = open_page("steps"), open_page("steps")
    run_form(first, text="x")
    thread = first.until("S.threadId")
    second.run(f"location.hash = '#/t/{thread}'")
    second.until("S.state?.values.total === 111 && !S.run")
    first.idle()
    first.write("text", "y")
    first.click("Run", "#ask")
    second.until("S.state?.values.text === 'y!' && !S.run")
    assert "The run has ended." in second.until("$('spoken').textContent")


@pytest.mark.long
def test_without_javascript_it_says_so(open_page: Callable[..., Page]) -> None:
    page = open_page("steps")
    page.do("Emulation.setScriptExecutionDisabled", value=True)
    page.do("Page.reload")
    time.sleep(0.3)
    page.do("Emulation.setScriptExecutionDisabled", value=False)
    page.sees("This page needs JavaScript", "main")


def test_beside_an_application_the_page_is_at_ui(
    open_page: Callable[..., Page], make_server: Callable[..., LiveServer]
) -> None:
    app = "from starlette.applications import Starlette\napp = Starlette()\n"
    live = make_server(
        {"steps": SERVED["steps"]}, {**FILES, "app.py": app}, "--no-reload", http={"app": "./app.py:app"}
    )
    page = open_page("steps", f"{live.url}/ui")
    run_form(page, text="x")
    page.until("S.state?.values.total === 111 && !S.run")
    page.click("?", "header")
    assert page.run("document.querySelector('#dialog a').href") == f"{live.url}/docs"


def test_a_lost_server_keeps_the_draft_and_is_found_again(
    open_page: Callable[..., Page], make_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    live = make_server(SERVED, FILES, "--no-reload", "--port", str(free_port()))
    url = f"{live.url}/"
    page = open_page("hesitant", url)
    ask = f"{{ messages: [{{ type: 'human', content: 'hi' }}], gate: {json.dumps(str(gate))} }}"
    page.run(f"startRun({{ input: {ask} }})")
    page.sees("you", "#talk article.ai")
    page.write("Message", "a draft")
    live.kill()
    page.sees("no connection", "#connection")
    assert page.run("$('message').value") == "a draft"
    gate.touch()
    live.start()
    page.sees("● connected", "#connection", 30)
    page.sees("you said hi", "#talk", 30)
    assert page.run("$('message').value") == "a draft"


AUTH = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def who(authorization: str | None):
    assert authorization == "Bearer right", "who are you?"
    return {"identity": "me"}
"""


def test_a_refusal_opens_the_headers_box(
    open_page: Callable[..., Page], make_server: Callable[..., LiveServer]
) -> None:
    files = {**FILES, "auth.py": AUTH}
    live = make_server({"steps": SERVED["steps"]}, files, "--no-reload", auth={"path": "./auth.py:auth"})
    url = f"{live.url}/"
    page = open_page(url=url)
    page.sees("Sent with every request of this tab", "#dialog")
    page.run("document.querySelector('#dialog textarea').value = JSON.stringify({ Authorization: 'Bearer right' })")
    page.click("Use them", "#dialog")
    page.choose("steps")
    run_form(page, text="x")
    page.until("S.state?.values.total === 111 && !S.run")
    assert "right" not in page.run("location.href + JSON.stringify(localStorage)")


def test_the_page_is_under_the_mount_prefix(
    open_page: Callable[..., Page], make_server: Callable[..., LiveServer]
) -> None:
    live = make_server({"steps": SERVED["steps"]}, FILES, "--no-reload", http={"mount_prefix": "/my/api"})
    url = f"{live.url}/"
    for address in (url, f"{url}ui"):
        page = open_page("steps", address)
        run_form(page, text="x")
        page.until("S.state?.values.total === 111 && !S.run")


def test_all_is_reached_by_the_keyboard(open_page: Callable[..., Page], server: LiveServer) -> None:
    with server.http() as http:
        for _ in range(2):
            http.post("/threads", json={})
    page = open_page("hostile")
    page.press("/")
    assert page.run("document.activeElement.id") == "message"
    page.do("Input.insertText", text="by keys")
    page.press("Enter")
    page.until("document.querySelectorAll('#talk article').length === 2")
    page.idle()
    page.press("Escape")
    page.press("[")
    page.until("location.hash.includes('/c/')")
    page.press("]")
    page.press("f")
    page.sees("Change the state", "#dialog")
    page.press("Escape")
    page.press("g")
    assert page.run("document.activeElement.classList.contains('node')")
    page.press("Enter")
    page.sees("Node", "#dialog")
    page.press("Escape")
    page.press("n")
    page.until("location.hash === '#/t' && !S.threadId")
    page.sees("by keys", "#threads li")  # it comes first, and the others have no history
    page.press("j")
    page.until("location.hash.startsWith('#/t/') && S.threadId")
    first = page.run("S.threadId")
    page.press("j")
    page.until(f"S.threadId !== '{first}'")
    page.press("k")
    page.until(f"S.threadId === '{first}' && S.history.length")
    page.run("window.started = 0; { const real = startRun; startRun = (...all) => { started++; return real(...all) } }")
    page.press("r")
    page.until("started")
    page.press("?")
    page.sees("single letters act", "#dialog")
    page.run("document.querySelector('#dialog input').click()")
    page.press("Escape")
    page.press("n")
    assert page.run("location.hash") != "#/t"


def test_a_narrow_page_shows_one_pane_at_a_time(open_page: Callable[..., Page]) -> None:
    page = open_page("steps", width=600)
    seen = "['nav', 'main', 'aside'].map(one => document.querySelector(one).checkVisibility())"
    assert page.run(seen) == [False, True, False]
    page.click("Threads", "#panes")
    assert page.run(seen) == [True, False, False]
    page.click("Inspector", "#panes")
    assert page.run(seen) == [False, False, True]
    assert page.run("document.documentElement.scrollWidth") <= 600
    page.run("pane('talk')")
    run_form(page, text="x")
    page.until("S.state?.values.total === 111 && !S.run")
    page.click("Threads", "#panes")
    page.click("New thread", "nav")
    page.until(f"String({seen}) === 'false,true,false'")


@pytest.mark.long
def test_many_events_do_not_freeze_it(open_page: Callable[..., Page]) -> None:
    page = open_page("flooding")
    page.run(
        "window.longest = 0; new PerformanceObserver(seen => seen.getEntries().forEach(one =>"
        " { longest = Math.max(longest, one.duration) })).observe({ type: 'longtask' })"
    )
    run_form(page, n=20_000)
    page.until("S.state?.values.out === 20000 && !S.run", 60)
    assert page.run("longest") < 300  # on a machine that does other things, too


def test_a_thousand_messages_are_shown_in_parts(open_page: Callable[..., Page], server: LiveServer) -> None:
    with server.http() as http:
        thread = http.post("/threads", json={"metadata": {"graph_id": "tooled"}}).json()["thread_id"]
        messages = [{"type": "human", "content": f"message {number}", "id": str(number)} for number in range(1000)]
        http.post(
            f"/threads/{thread}/state", json={"values": {"messages": messages}, "as_node": "ask"}
        ).raise_for_status()
    page = open_page("tooled")
    began = time.monotonic()
    page.run(f"location.hash = '#/t/{thread}'")
    page.sees("message 999", "#talk")
    assert time.monotonic() - began < 5
    assert page.run("document.querySelectorAll('#talk article').length") == 100
    page.click("Show 900 earlier messages", "#talk")
    page.until("document.querySelectorAll('#talk article').length === 300")


def test_a_long_thread_opens_and_shows_its_steps_in_pages(open_page: Callable[..., Page], server: LiveServer) -> None:
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        run = {"assistant_id": "long", "input": {"n": 500}, "config": {"recursion_limit": 600}}
        assert http.post(f"/threads/{thread}/runs/wait", json=run).json()["out"] == 500
    page = open_page("long")
    page.run(f"location.hash = '#/t/{thread}'")
    page.until("document.querySelectorAll('#inspector li').length === 25")
    page.click("Earlier", "#inspector")
    page.until("document.querySelectorAll('#inspector li').length === 50")


@pytest.mark.long
def test_a_page_at_rest_asks_once_in_five_seconds(open_page: Callable[..., Page], server: LiveServer) -> None:
    """And not at all while it is hidden; then it gives its connection back, of which a browser has six."""
    page = open_page("steps")
    run_form(page, text="x")
    page.idle()
    page.run("{ const real = fetch; window.count = 0; fetch = (...all) => { count++; return real(...all) } }")
    time.sleep(11)
    assert 1 <= page.run("count") <= 3
    page.run("window.seen = false; Object.defineProperty(document, 'hidden', { get: () => !seen }); count = 0")
    with server.http() as http:
        time.sleep(6)  # until after a heartbeat the connection is given back
        run = {"assistant_id": "steps", "input": {"text": "hidden"}}
        http.post(f"/threads/{page.run('S.threadId')}/runs/wait", json=run)
        assert page.run("[S.state.values.text, count]") == ["x!", 0]
    page.run("seen = true")
    page.until("S.state.values.text === 'hidden!'")


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_it_is_for_those_who_cannot_see_it_too(open_page: Callable[..., Page], modules: Path, scheme: str) -> None:
    """axe-core finds nothing, of whatever grade."""
    page = open_page("question")
    page.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    run_form(page, topic="x")
    page.sees("? review asks", "#ask")
    page.run((modules / "axe-core" / "axe.min.js").read_text() + ";0")
    look = "axe.run(document).then(found => found.violations.map(one => [one.impact, one.id, one.nodes[0].html]))"
    for pane in ("Timeline", "State", "Runs", "History"):
        page.click(pane, "#inspectors")
        page.sees("", "#inspector")
        assert page.run(look) == [], pane
    for screen, title in (("Runs", "All runs"), ("Memory", "Memory"), ("Crons", "Crons")):
        page.click(screen, "#screens")
        page.sees(title, "#wide h2")
        assert page.run(look) == [], screen
    for act in ("helpDialog", "configurationDialog", "cronDialog", "askHeaders", "() => nodeMenu('review')"):
        page.run(f"({act})()")
        assert page.run(look) == [], act
    page.run("$('dialog').close(); location.hash = '#/t'; pane('talk')")
    page.do("Emulation.setDeviceMetricsOverride", width=600, height=800, deviceScaleFactor=1, mobile=False)
    for pane in ("list", "talk", "look"):
        page.run(f"pane('{pane}')")
        found = page.run(look)  # the main part is not there while another pane is
        assert [one for one in found if one[1] != "landmark-one-main"] == [], pane

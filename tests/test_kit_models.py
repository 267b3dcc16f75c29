"""Recordings of models, and models that are scripted, in projects that are tested as their authors would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from kit_project import run_pytest, write_files

# A provider: it writes down that it was asked, and speaks in chunks, with calls of tools, usage and ids of its own.
PROVIDER = """
import asyncio, itertools, os, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

LOG = Path(__file__).with_name("asked.log")
NUMBERS = itertools.count(1)

def asked(messages):
    with LOG.open("a") as log:
        log.write("asked\\n")
    if not os.environ.get("ACME_API_KEY"):
        raise RuntimeError("no key")
    return messages[-1].text

class ChatAcme(BaseChatModel):
    model_name: str = "acme-1"

    @property
    def _llm_type(self):
        return "acme"

    def bind_tools(self, tools, **kwargs):
        return self.bind(tools=[{"name": tool.__name__} for tool in tools], **kwargs)

    def answer(self, messages, kwargs):
        text = asked(messages)
        calls = [{"name": "look", "args": {"at": text}, "id": f"call-{uuid.uuid4()}"}] if kwargs.get("tools") else []
        usage = {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}
        about = {"model": "acme", "headers": {"x-secret": "SECRET"}}
        return AIMessage(f"answer {next(NUMBERS)} to {text}", tool_calls=calls, usage_metadata=usage,
            response_metadata=about, id=f"acme-{uuid.uuid4()}")

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=self.answer(messages, kwargs))])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        message = self.answer(messages, kwargs)
        words = [AIMessageChunk(content=word + " ", id=message.id) for word in message.text.split()]
        last = AIMessageChunk(content="", id=message.id, usage_metadata=message.usage_metadata,
            tool_call_chunks=[{"name": c["name"], "args": "{}", "id": c["id"], "index": 0} for c in message.tool_calls])
        for chunk in [*words, last]:
            yield ChatGenerationChunk(message=chunk)

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        for chunk in self._stream(messages, stop, run_manager, **kwargs):
            await asyncio.sleep(0.001)
            yield chunk

class AcmeEmbeddings(Embeddings):
    model = "acme-embed"

    def embed_documents(self, texts):
        return [[float(len(text)), asked([type("M", (), {"text": text})]) and 1.0] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]
"""
GRAPH = """
import operator, os, asyncio, httpx
from typing import Annotated, TypedDict
from langchain_core.tools import tool
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from provider import AcmeEmbeddings, ChatAcme

model, embeddings = ChatAcme(), AcmeEmbeddings()

class State(TypedDict):
    text: str
    out: Annotated[list, operator.add]

def look(at: str): "Look at something."

@tool
def price(item: str) -> dict:
    "Ask for a price."
    open("asked.log", "a").write("asked\\n")
    return {"item": item, "price": 3}

async def plain(state):
    return {"out": [(await model.ainvoke(state["text"], stop=["."])).text]}

def streamed(state):
    return {"out": ["".join(chunk.text for chunk in model.stream(state["text"]))]}

async def tools(state):
    answer = await model.bind_tools([look]).ainvoke(state["text"])
    vector = await embeddings.aembed_query(state["text"])
    return {"out": [{"calls": answer.tool_calls, "usage": answer.usage_metadata, "id": answer.id, "vector": vector}]}

async def priced(state):
    return {"out": [await price.ainvoke({"item": state["text"]})]}

async def first(state):
    async for chunk in model.astream(state["text"]):
        return {"out": [chunk.text]}

async def swallow(state):
    try:
        answer = (await model.ainvoke(state["text"])).text
    except Exception as error:
        answer = "sorry"
    return {"out": [answer]}

async def fetch(state):
    async with httpx.AsyncClient() as client:
        answer = await client.post(os.environ["API"] + "/ask?key=SECRET&q=1", json={"text": state["text"]},
            headers={"authorization": "SECRET"})
        return {"out": [answer.status_code, answer.text]}

def graph(*nodes):
    builder = StateGraph(State)
    for name, node in dict(nodes).items():
        builder.add_node(name, node)
    return builder

both = graph(("plain", plain)).add_conditional_edges(START, lambda s: [Send("plain", s)] * 3, ["plain"]).compile()
all = graph(("streamed", streamed), ("tools", tools)).add_edge("streamed", "tools").add_edge(START, "streamed")
swallows = graph(("swallow", swallow)).add_edge(START, "swallow").compile()
firsts = graph(("first", first)).add_edge(START, "first").compile()
prices = graph(("priced", priced)).add_edge(START, "priced").compile()
fetches = graph(("fetch", fetch)).add_edge(START, "fetch").compile()
"""
FILES = {
    "langgraph.json": json.dumps(
        {"graphs": {n: f"./graph.py:{n}" for n in ("both", "all", "swallows", "firsts", "prices", "fetches")}}
    ),
    "provider.py": PROVIDER,
    "graph.py": GRAPH,
}
TESTS = """
import json, os, pytest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

def out(devserver, graph, text="hi"):
    return devserver.run(graph, {"text": text, "out": []}).values["out"]

def same(request, value):
    "What a first run found, which is written down."
    file = Path(request.node.name.replace("/", "-") + ".json")
    if not file.exists():
        file.write_text(json.dumps(value))
    assert json.loads(file.read_text()) == json.loads(json.dumps(value))

def test_equal_calls_at_once(devserver, request):
    same(request, out(devserver, "both"))

@pytest.mark.parametrize("text", ["a/b", "Con"])
def test_all(devserver, request, text):
    same(request, out(devserver, "all", text))

class TestClass:
    def test_stream(self, devserver, request):
        events = devserver.stream("all", {"text": "hi", "out": []}, stream_mode="messages-tuple")
        said = [part.data[0] for part in events if part.event == "messages"]
        assert len(said) > 5
        said = [each for each in said if "lc_run" not in each["id"]]  # LangChain's own
        same(request, [[each["content"], each["tool_call_chunks"], each["id"]] for each in said])

def test_cut_short(devserver, request):
    same(request, out(devserver, "firsts"))

def test_tool(devserver, request):
    same(request, out(devserver, "prices"))
"""


def asked(folder: Path) -> int:
    log = folder / "asked.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    ini = "[pytest]\nasyncio_default_fixture_loop_scope = function\ndevserver_tools = price\n"
    write_files(tmp_path, {**FILES, "test_models.py": TESTS, "pytest.ini": ini})
    return tmp_path


def record(project: Path, *options: str, mode: str = "missing") -> Any:
    return run_pytest(project, f"--devserver-record={mode}", *options, env={"ACME_API_KEY": "SECRET"})


def test_recorded_once_replayed_for_ever(project: Path) -> None:
    result = record(project)
    assert set(result.tests.values()) == {"passed"}, result.output
    calls = asked(project)
    assert calls == 3 + 3 * 3 + 1 + 1
    files = sorted(file.relative_to(project / "recordings").as_posix() for file in (project / "recordings").rglob("*"))
    assert files[:3] == [
        "test_models",
        "test_models/TestClass.test_stream.jsonl",
        "test_models/test_all-Con-545ce619.jsonl",
    ]
    for file in (project / "recordings").rglob("*.jsonl"):
        assert "SECRET" not in file.read_text()
        assert json.loads(file.read_text().splitlines()[0]) == {"devserver_recording": 1}
    for options in ([], ["-n", "2"], ["--devserver-record=missing"]):
        result = run_pytest(project, *options)
        assert set(result.tests.values()) == {"passed"}, result.output
        assert len(result.tests) == 6
    assert asked(project) == calls
    assert "devserver: dummy values were set for OPENAI_API_KEY, " in run_pytest(project, "-k", "tool").output


@pytest.mark.long
def test_only_what_is_missing_is_asked(project: Path) -> None:
    record(project, "-k", "equal")
    calls = asked(project)
    assert run_pytest(project, "-k", "tool").tests == {"test_tool": "passed"}  # it was not recorded: it is asked
    record(project, "-k", "equal or stream")
    assert asked(project) == calls + 1 + 3
    record(project, "-k", "equal", mode="all")
    assert asked(project) == calls + 1 + 3 + 3


MISSES = """
import pytest

def test_swallowed(devserver):
    assert devserver.run("swallows", {"text": "on 2026-11-29", "out": []}).values["out"] != []

def test_unused(devserver):
    pass
"""


def test_a_miss_fails_also_if_it_was_swallowed(tmp_path: Path) -> None:
    write_files(tmp_path, {**FILES, "test_models.py": MISSES})
    assert record(tmp_path).status == 0
    assert run_pytest(tmp_path).status == 0
    write_files(tmp_path, {"test_models.py": MISSES.replace("11-29", "11-30")})
    result = run_pytest(tmp_path)
    assert result.tests == {"test_swallowed": "failure", "test_unused": "passed"}
    problem = "node swallow asked ChatAcme acme-1 for what"
    assert f"FAILED test_models.py::test_swallowed - Failed: {problem}" in result.output
    differs = "differs at asked.messages[0].content: asked on 2026-11-30, recorded on 2026-11-29"
    assert differs in result.output
    ini = "[pytest]\nasyncio_default_fixture_loop_scope = function\ndevserver_ignore = \\d{4}-\\d\\d-\\d\\d\n"
    write_files(tmp_path, {"pytest.ini": ini, "test_models.py": MISSES.replace("11-29", "11-30")})
    assert run_pytest(tmp_path).status == 0


def test_unused_entries_are_told(tmp_path: Path) -> None:
    write_files(tmp_path, {**FILES, "test_models.py": MISSES})
    record(tmp_path)
    folder = tmp_path / "recordings/test_models"
    (folder / "test_unused.jsonl").write_text((folder / "test_swallowed.jsonl").read_text())
    for options in ([], ["-n", "1"]):
        result = run_pytest(tmp_path, *options)
        assert result.status == 0
        assert "test_unused.jsonl:2: ChatAcme acme-1 was not asked this" in result.output
    assert run_pytest(tmp_path, "--devserver-strict").tests["test_unused"] == "failure"


HEADER = '{"devserver_recording": 1}\n'
ENTRY = '{"node": null, "path": "", "model": "m", "asked": {}, "answer": {"value": 1}}\n'
BAD = [
    ("no\n", "{}:1: is no line of a recording"),
    (f"{HEADER}[1]\n", "{}:2: is no line of a recording"),
    (f'{HEADER}{{"node": 1}}\n', "{}:2: is no line of a recording"),
    (f"{HEADER}{ENTRY}{ENTRY[:20]}", "{}:3: the last line is torn"),
    ('{"devserver_recording": 9}\n', "{}:1: recorded by a newer devserver"),
]


def test_bad_recordings(tmp_path: Path) -> None:
    tests = "".join(f"def test_{number}(devserver): pass\n" for number in range(len(BAD)))
    write_files(tmp_path, {**FILES, "test_bad.py": tests})
    folder = tmp_path / "recordings/test_bad"
    folder.mkdir(parents=True)
    for number, (text, _) in enumerate(BAD):
        (folder / f"test_{number}.jsonl").write_text(text)
    result = run_pytest(tmp_path)
    assert [*result.tests.values()] == ["error"] * len(BAD)
    problems = [problem.format(folder / f"test_{number}.jsonl") for number, (_, problem) in enumerate(BAD)]
    assert [problem for problem in problems if problem not in result.output] == []
    assert result.output.count("ecord it again.") >= len(BAD)


def test_recording_is_refused_in_ci(tmp_path: Path) -> None:
    write_files(tmp_path, {**FILES, "test_models.py": MISSES})
    result = run_pytest(tmp_path, "--devserver-record=all", env={"CI": "true"})
    assert result.status == 4
    assert "refused where CI is set" in result.output


def test_two_tests_record_to_one_file(tmp_path: Path) -> None:
    marked = MISSES.replace("\ndef test", "\n@pytest.mark.devserver(replay='one.jsonl')\ndef test")
    write_files(tmp_path, {**FILES, "test_models.py": marked})
    result = record(tmp_path)
    assert result.tests == {"test_swallowed": "passed", "test_unused": "error"}
    assert "one.jsonl: test_models.py::test_swallowed has recorded to it. Give each test a file" in result.output


@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_an_interrupted_recording_is_not_lost(tmp_path: Path, name: str) -> None:
    slow = (
        MISSES
        + "\ndef test_slow(devserver):\n    import time\n    devserver.run('swallows', {'text': 'hi', 'out': []})"
    )
    slow += "\n    open('here', 'w').close()\n    time.sleep(30)\n"
    write_files(tmp_path, {**FILES, "test_models.py": slow})
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ACME_API_KEY": "x"}
    env = {name: value for name, value in env.items() if name != "CI" and not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--devserver-record=missing", "-k", "slow"]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "here").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.Signals[name])
    kept = tmp_path / "recordings/test_models/test_slow.jsonl"
    assert kept.exists() == (name == "SIGINT")
    calls = asked(tmp_path)
    write_files(tmp_path, {"test_models.py": slow.replace("30", "0")})
    assert record(tmp_path, "-k", "slow").status == 0
    assert asked(tmp_path) == calls
    assert run_pytest(tmp_path, "-k", "slow").status == 0


FETCHES = """
def test_fetch(devserver):
    status, text = devserver.run("fetches", {"text": "TEXT", "out": []}).values["out"]
    assert (status, text) == (200, "part 1 of part 2"), text
"""


def test_what_nodes_send_themselves(tmp_path: Path) -> None:
    """By httpx: told again in the same parts, without the key in the query and the headers; a miss is a status 400."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.path)
            self.send_response(200)
            self.send_header("content-type", "text/plain")
            self.end_headers()
            for part in (b"part 1 of ", b"part 2"):
                self.wfile.write(part)
                self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    write_files(tmp_path, {**FILES, "test_models.py": FETCHES})
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {"API": f"http://127.0.0.1:{server.server_port}", "ACME_API_KEY": "x"}
        result = run_pytest(tmp_path, "--devserver-record=missing", env=env)
        server.shutdown()
    assert result.tests == {"test_fetch": "passed"}, result.output
    assert heard == ["/ask?key=SECRET&q=1"]
    recorded = (tmp_path / "recordings/test_models/test_fetch.jsonl").read_text()
    assert "SECRET" not in recorded
    assert '"query": [["q", "1"]]' in recorded
    assert run_pytest(tmp_path, env=env).tests == {"test_fetch": "passed"}
    write_files(tmp_path, {"test_models.py": FETCHES.replace("TEXT", "other")})
    missed = run_pytest(tmp_path, env=env)
    assert missed.tests == {"test_fetch": "failure"}
    assert "differs at asked.body.text: asked other, recorded TEXT" in missed.output
    assert "assert (400," in missed.output


ARGUMENTS = """
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from provider import ChatAcme

def ask(key):
    call = {"name": "look", "args": {"key": key, "author": "me"}, "id": "x"}
    said = [HumanMessage("hi"), AIMessage("", tool_calls=[call]), ToolMessage("it", tool_call_id="x")]
    return ChatAcme().invoke(said)

def test_arguments(devserver):
    assert ask("one").text != ask("two").text
    with pytest.raises(LookupError, match="args.key: asked three"):
        ask("three")

def test_outside(devserver):
    assert ask("one").text
"""


def test_arguments_of_tools_are_part_of_the_question(tmp_path: Path) -> None:
    """Whatever they are called. A test may ask a model itself, outside of graphs."""
    asks, _, rest = ARGUMENTS.partition("    with pytest")
    asks += rest[rest.index("\ndef test_outside") :]
    write_files(tmp_path, {**FILES, "test_models.py": asks})
    assert record(tmp_path).status == 0
    write_files(tmp_path, {"test_models.py": ARGUMENTS})
    result = run_pytest(tmp_path)
    assert result.tests == {"test_arguments": "failure", "test_outside": "passed"}
    assert "Failed: ChatAcme acme-1 was asked for what" in result.output

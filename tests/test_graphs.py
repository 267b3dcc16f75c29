"""langgraph.json: every form of graph it may name, every mistake it may hold, and nodes that misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import GRAPHS, ROOT, LiveServer, write_project

FORMS = """
    import contextlib
    import os
    from typing import Annotated
    import operator

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.func import entrypoint, task
    from langgraph.graph import START, StateGraph
    from langgraph.store.memory import InMemoryStore
    from langgraph_sdk.runtime import ServerRuntime
    from typing_extensions import TypedDict

    import found_in_lib
    import found_in_bare_lib

    class State(TypedDict, total=False):
        said: Annotated[list[str], operator.add]

    def make(*words):
        def say(state):
            return {"said": list(words)}
        return StateGraph(State).add_node(say).add_edge(START, "say")

    def note(line):
        with open("notes.txt", "a") as notes:
            notes.write(line + "\\n")

    compiled = make("compiled").compile()
    named = make("named").compile(name="A name of its own")
    builder = make("builder")
    libs = make(found_in_lib.WORD, found_in_bare_lib.WORD)
    env = make(os.environ.get("FROM_JSON", "?"), os.environ.get("SET_BEFORE", "?"))
    own = make("own").compile(checkpointer=InMemorySaver(), store=InMemoryStore())

    @task
    async def shout(word):
        return word.upper()

    @entrypoint()
    async def workflow(given: dict) -> dict:
        return {"said": [await shout("workflow")]}

    def no_arguments():
        return make("no_arguments").compile()

    def returns_builder():
        return make("returns_builder")

    def takes_config(config: RunnableConfig):
        return make("takes_config", config["configurable"].get("word", "-")).compile()

    def takes_a_dict(settings: dict):
        return make("takes_a_dict", settings["configurable"].get("word", "-")).compile()

    def takes_runtime(runtime: ServerRuntime):
        return make("takes_runtime", runtime.access_context).compile()

    def takes_both(config: RunnableConfig, runtime: ServerRuntime):
        return make("takes_both", config["configurable"].get("word", "-"), runtime.access_context).compile()

    def takes_both_turned(runtime: ServerRuntime, config: RunnableConfig):
        return make("takes_both_turned", config["configurable"].get("word", "-"), runtime.access_context).compile()

    def has_defaults(config: RunnableConfig, word: str = "default"):
        return make("has_defaults", word).compile()

    async def is_async(config: RunnableConfig):
        return make("is_async", config["configurable"].get("word", "-")).compile()

    @contextlib.contextmanager
    def context(config: RunnableConfig):
        note("enter context")
        yield make("context", config["configurable"].get("word", "-")).compile()
        note("exit context")

    @contextlib.asynccontextmanager
    async def async_context(config: RunnableConfig, runtime: ServerRuntime):
        note("enter async_context")
        yield make("async_context", config["configurable"].get("word", "-")).compile()
        note("exit async_context")

    class Maker:
        def __call__(self, config: RunnableConfig):
            return make("maker", config["configurable"].get("word", "-")).compile()

    maker = Maker()

    def fails(config: RunnableConfig):
        raise LookupError("no graph today")

    def makes_no_graph():
        return "a graph, honestly"
"""
SAID = {
    "compiled": ["compiled"],
    "described": ["compiled"],
    "named": ["named"],
    "builder": ["builder"],
    "libs": ["lib", "bare lib"],
    "env": ["from langgraph.json", "before"],
    "own": ["own"],
    "workflow": ["WORKFLOW"],
    "module": ["module"],
    "package": ["package"],
    "subfolder": ["subfolder"],
    "odd_name": ["odd name"],
    "no_arguments": ["no_arguments"],
    "returns_builder": ["returns_builder"],
    "takes_config": ["takes_config", "w"],
    "takes_a_dict": ["takes_a_dict", "w"],
    "takes_runtime": ["takes_runtime", "threads.create_run"],
    "takes_both": ["takes_both", "w", "threads.create_run"],
    "takes_both_turned": ["takes_both_turned", "w", "threads.create_run"],
    "has_defaults": ["has_defaults", "default"],
    "is_async": ["is_async", "w"],
    "context": ["context", "w"],
    "async_context": ["async_context", "w"],
    "maker": ["maker", "w"],
}
OTHERS = {
    "described": {"path": "./forms.py:compiled", "description": "Says what it is"},
    "module": "plain_module:graph",
    "package": "package.inside:graph",
    "subfolder": "./sub/folder/graph.py:graph",
    "odd_name": "./odd-name.py:graph",
}


SMALL_GRAPH = """
import operator
from typing import Annotated
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

class State(TypedDict, total=False):
    said: Annotated[list[str], operator.add]

def say(state: State):
    return {"said": ["WORD"]}

graph = StateGraph(State).add_node(say).add_edge(START, "say").compile()
"""


def small_graph(word: str, *imports: str) -> str:
    return "\n".join(imports) + SMALL_GRAPH.replace("WORD", word)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of all the forms. Its folder has a neighbour, `beside`, that it depends on."""
    parent = tmp_path_factory.mktemp("forms")
    folder = parent / "project"
    files = {
        "forms.py": FORMS,
        "lib/found_in_lib.py": "WORD = 'lib'\n",
        "../beside/found_in_bare_lib.py": "WORD = 'bare lib'\n",
        "plain_module.py": small_graph("module"),
        "package/__init__.py": "",
        "package/inside.py": small_graph("x", "from .word import WORD as word").replace('"x"', "word"),
        "package/word.py": "WORD = 'package'\n",
        "sub/folder/graph.py": small_graph("subfolder"),
        "odd-name.py": small_graph("odd name"),
    }
    graphs: dict[str, Any] = {name: f"./forms.py:{name}" for name in [*SAID, "fails", "makes_no_graph"]} | OTHERS
    env = {"FROM_JSON": "from langgraph.json", "SET_BEFORE": "too late", "A_NUMBER": 1}
    folder.mkdir()
    more = {"dependencies": [".", "./lib", "../beside", "some-package-from-pypi"], "python_version": "3.12"}
    write_project(folder, graphs, files, env=env, surprise={"a": 1}, http={"surprise": True}, **more)
    os.environ["SET_BEFORE"] = "before"
    try:
        live = LiveServer(folder, ["--no-reload"]).start()
    finally:
        del os.environ["SET_BEFORE"]
    yield live
    assert live.stop() == 0, live.log


def run(server: LiveServer, graph: str, **more: Any) -> Any:
    sent = {"assistant_id": graph, "input": {}, "config": {"configurable": {"word": "w"}}, **more}
    with server.http() as http:
        return http.post("/runs/wait", json=sent).raise_for_status().json()


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(0.01)
    return value


# Forms


@pytest.mark.parametrize("graph", SAID)
def test_each_form_of_graph_runs(forms: LiveServer, graph: str) -> None:
    assert run(forms, graph)["said"] == SAID[graph]


@pytest.mark.parametrize("graph", SAID)
def test_each_form_of_graph_keeps_its_threads_state_here(forms: LiveServer, graph: str) -> None:
    sent = {"assistant_id": graph, "input": {}, "config": {"configurable": {"word": "w"}}}
    with forms.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        for _ in range(2):
            last = http.post(f"/threads/{thread}/runs/wait", json=sent).raise_for_status().json()
        assert http.get(f"/threads/{thread}/state").raise_for_status().json()["values"] == last
        assert last["said"] == (SAID[graph] if graph == "workflow" else SAID[graph] * 2)
        assert len(http.get(f"/threads/{thread}/history?limit=9").raise_for_status().json()) > 1


@pytest.mark.parametrize("graph", SAID)
def test_each_form_of_graph_has_schemas_and_a_drawing(forms: LiveServer, graph: str) -> None:
    with forms.http() as http:
        made = http.post("/assistants", json={"graph_id": graph, "config": {"configurable": {"word": "w"}}}).json()
        for what in ("schemas", "graph", "subgraphs"):
            http.get(f"/assistants/{made['assistant_id']}/{what}").raise_for_status()


def test_each_graph_has_an_assistant_with_its_description_and_name(forms: LiveServer) -> None:
    with forms.http() as http:
        found = http.post("/assistants/search", json={"metadata": {"created_by": "system"}, "limit": 100}).json()
    by_graph = {assistant["graph_id"]: assistant for assistant in found}
    assert set(by_graph) == {*SAID, "fails", "makes_no_graph"}
    assert by_graph["described"]["description"] == "Says what it is"
    assert by_graph["compiled"]["description"] is None
    assert by_graph["named"]["name"] == "A name of its own"
    assert by_graph["compiled"]["name"] == "compiled"


def test_context_managers_are_left_after_each_use(forms: LiveServer) -> None:
    for name in ("context", "async_context"):
        run(forms, name)
    notes = (forms.folder / "notes.txt").read_text().splitlines()
    for name in ("context", "async_context"):
        assert notes.count(f"enter {name}") == notes.count(f"exit {name}") > 0


def test_a_graph_s_own_checkpointer_and_store_are_replaced_with_one_warning(forms: LiveServer) -> None:
    run(forms, "own")
    warnings = [line for line in forms.lines if "own checkpointer" in line]
    assert len(warnings) == 1
    assert "'own'" in warnings[0]
    assert "store" in warnings[0]


def test_keys_that_are_not_served_are_named_in_a_warning(forms: LiveServer) -> None:
    (warning,) = [line for line in forms.lines if "not served" in line]
    assert "surprise" in warning
    assert "http.surprise" in warning
    assert "python_version" not in warning  # it matters only to those who build images


def test_a_factory_that_fails_fails_the_run_and_says_why(forms: LiveServer) -> None:
    assert run(forms, "fails") == {"__error__": {"error": "LookupError", "message": "no graph today"}}
    error = run(forms, "makes_no_graph")["__error__"]
    assert "makes_no_graph" in error["message"]
    assert "str" in error["message"]


def test_bare_names_of_folders_are_dependencies_too(make_server: Callable[..., LiveServer]) -> None:
    """`langgraph dev` takes every dependency that is a folder."""
    files = {
        "graph.py": small_graph("x", "from found_in_lib import WORD", "from found_above import ABOVE").replace(
            '"x"', "WORD, ABOVE"
        ),
        "lib/found_in_lib.py": "WORD = 'lib'\n",
        "../found_above.py": "ABOVE = 'above'\n",
    }
    server = make_server({"g": "./graph.py:graph"}, files, "--no-reload", dependencies=[".", "lib", ".."])
    assert run(server, "g")["said"] == ["lib", "above"]


def test_an_env_file_that_langgraph_json_names_is_read(make_server: Callable[..., LiveServer]) -> None:
    files = {
        "graph.py": small_graph("x", "import os").replace('"x"', "os.environ['OF_FILE']"),
        ".env": "OF_FILE=from the file\n",
    }
    server = make_server({"g": "./graph.py:graph"}, files, "--no-reload", env=".env")
    assert run(server, "g")["said"] == ["from the file"]


# Mistakes

GOOD = {"good": "./good.py:graph"}
MISTAKES: dict[str, tuple[Any, dict[str, str], list[str]]] = {
    "no config": (None, {}, ["langgraph.json", "not found", "--config"]),
    "bad json": ("{'graphs': }", {}, ["langgraph.json", "JSON"]),
    "not an object": ("[]", {}, ["langgraph.json", "object"]),
    "no graphs": ({}, {}, ["langgraph.json", "graphs"]),
    "empty graphs": ({"graphs": {}}, {}, ["langgraph.json", "graphs"]),
    "graphs is a list": ({"graphs": ["./good.py:graph"]}, {}, ["langgraph.json", "graphs", "object"]),
    "dependencies is text": ({"graphs": GOOD, "dependencies": "."}, {}, ["langgraph.json", "dependencies", "list"]),
    "graph is a number": ({"graphs": {"it": 5}}, {}, ["langgraph.json", "graphs.it"]),
    "no path": ({"graphs": {"it": {"description": "x"}}}, {}, ["langgraph.json", "graphs.it", "path"]),
    "no variable": ({"graphs": {"it": "./good.py"}}, {}, ["langgraph.json", "graphs.it", "variable"]),
    "javascript": ({"graphs": {"it": "./agent.ts:graph"}}, {}, ["graphs.it", "./agent.ts", "JavaScript"]),
    "missing file": ({"graphs": {"it": "./gone.py:graph"}}, {}, ["it", "gone.py", "exist"]),
    "missing module": ({"graphs": {"it": "gone.inside:graph"}}, {}, ["it", "gone.inside", "No module named 'gone'"]),
    "import error": (
        {"graphs": {"it": "./bad.py:graph"}},
        {"bad.py": "\nimport not_installed_anywhere\n"},
        ["it", "bad.py:2", "No module named 'not_installed_anywhere'"],
    ),
    "error in a helper": (
        {"graphs": {"it": "./bad.py:graph"}},
        {"bad.py": "import helper\n", "helper.py": "x = 1\ny = {}['z']\n"},
        ["it", "helper.py:2", "KeyError"],
    ),
    "syntax error": (
        {"graphs": {"it": "./bad.py:graph"}},
        {"bad.py": "x = 1\ndef graph(:\n"},
        ["it", "bad.py", "line 2", "SyntaxError"],
    ),
    "exits": ({"graphs": {"it": "./bad.py:graph"}}, {"bad.py": "import sys\nsys.exit(7)\n"}, ["it", "bad.py:2"]),
    "wrong variable": ({"graphs": {"it": "./good.py:grpah"}}, {}, ["it", "./good.py", "'grpah'"]),
    "not a graph": ({"graphs": {"it": "./bad.py:graph"}}, {"bad.py": "graph = 42\n"}, ["it", "./bad.py", "int"]),
    "not to be compiled": (
        {"graphs": {"it": "./bad.py:graph"}},
        {"bad.py": "from langgraph.graph import StateGraph\ngraph = StateGraph(dict)\n"},
        ["it", "./bad.py", "compiled"],
    ),
    "shared key of a wrong type": (
        {"graphs": {"it": "./bad.py:graph"}},
        {
            "bad.py": small_graph("x")
            .replace("Annotated[list[str], operator.add]", "Annotated[list, SharedValue.on('user_id')]")
            .replace("import operator", "from devserver import SharedValue")
        },
        ["it", "'said'", "dict"],
    ),
    "env is a number": ({"graphs": GOOD, "env": 5}, {}, ["langgraph.json", "env"]),
}


# Starts a server in each folder. Where a process may fork devserver is imported once, which saves most of the time.
DRIVER = """
import os, signal, subprocess, sys
import langgraph.graph, uvicorn
import devserver

for folder in sys.argv[1:]:
    os.chdir(folder)
    with open("said.txt", "w") as said:
        if sys.platform != "linux":
            command = [sys.executable, "-m", "devserver", "up", "--port", "0"]
            print(subprocess.run(command, stdout=said, stderr=said, timeout=60).returncode)
            continue
        if os.fork() == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            signal.alarm(60)
            devserver.main(["up", "--port", "0"])
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of a server started with each mistake."""
    folders = {name: tmp_path_factory.mktemp("mistake") for name in MISTAKES}
    for name, (settings, files, _) in MISTAKES.items():
        for file, text in {"good.py": small_graph("good"), **files}.items():
            (folders[name] / file).write_text(text)
        if settings is not None:
            text = settings if isinstance(settings, str) else json.dumps(settings)
            (folders[name] / "langgraph.json").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, folders.values())],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    )
    codes = map(int, done.stdout.split())
    return {name: (code, (folders[name] / "said.txt").read_text()) for name, code in zip(folders, codes, strict=True)}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_in_one_short_message(refusals: dict[str, tuple[int, str]], name: str) -> None:
    code, said = refusals[name]
    assert code == 1, said
    assert "Traceback" not in said
    assert said.startswith("devserver: ")
    assert len(said.strip().splitlines()) == 1
    assert len(said) < 500
    for part in MISTAKES[name][2]:
        assert part in said


# Nodes that misbehave

MISBEHAVING = """
    import operator
    import sys
    from typing import Annotated

    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        how: str
        said: Annotated[list[str], operator.add]

    class Unusual(BaseException):
        pass

    def misbehave(how):
        if how == "exit":
            sys.exit(3)
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "generator":
            raise GeneratorExit
        if how == "unusual":
            raise Unusual("not an Exception")

    def in_thread(state):
        misbehave(state.get("how"))
        return {"said": ["fine"]}

    async def on_loop(state):
        misbehave(state.get("how"))
        return {"said": ["fine"]}

    in_threads = StateGraph(State).add_node(in_thread).add_edge(START, "in_thread").compile()
    on_loops = StateGraph(State).add_node(on_loop).add_edge(START, "on_loop").compile()

    def factory():
        return in_threads
"""


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("misbehaving")
    graphs = {name: f"./misbehaving.py:{name}" for name in ("in_threads", "on_loops", "factory")}
    graphs |= {name: f"./crash_gates.py:{name}" for name in ("gates", "sleeps", "blocks")}
    write_project(
        folder, graphs, {"misbehaving.py": MISBEHAVING, "crash_gates.py": (GRAPHS / "crash_gates.py").read_text()}
    )
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    live.kill()


@pytest.mark.parametrize("graph", ["in_threads", "on_loops"])
@pytest.mark.parametrize(
    ("how", "errors"),
    [
        ("exit", {"SystemExit"}),
        ("interrupt", {"KeyboardInterrupt"}),
        # asyncio throws it into the generator of LangGraph, which newer Pythons then close
        ("generator", {"GeneratorExit", "RuntimeError"}),
        ("unusual", {"Unusual"}),
    ],
)
def test_a_node_that_raises_what_is_no_exception_fails_its_own_run_only(
    misbehaving: LiveServer, graph: str, how: str, errors: set[str]
) -> None:
    with misbehaving.http() as http:
        beside = {"assistant_id": "sleeps", "input": {"seconds": 0.5}, "config": {"configurable": {"user_id": "u"}}}
        other = http.post("/threads", json={}).json()["thread_id"]
        other_run = http.post(f"/threads/{other}/runs", json=beside).json()["run_id"]
        assert run(misbehaving, graph, input={"how": how})["__error__"]["error"] in errors
        assert run(misbehaving, graph)["said"] == ["fine"]
        assert http.get(f"/threads/{other}/runs/{other_run}/join").json()["trail"] == ["sleep"]
        assert http.get(f"/threads/{other}/runs/{other_run}").json()["status"] == "success"


def blocked_for(server: LiveServer, seconds: float) -> tuple[str, str]:
    """Thread and run of a node that blocks the run loop now."""
    sent = {"assistant_id": "blocks", "input": {"seconds": seconds}, "config": {"configurable": {"user_id": "u"}}}
    file = server.folder / "calls.txt"
    before = file.read_text().count(":block") if file.exists() else 0
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        blocking = http.post(f"/threads/{thread}/runs", json=sent).json()["run_id"]
    until(lambda: file.exists() and file.read_text().count(":block") > before)
    return thread, blocking


def idle_thread(server: LiveServer, graph: str) -> str:
    with server.http() as http:
        thread = str(http.post("/threads", json={}).json()["thread_id"])
        http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": graph, "input": {}}).raise_for_status()
    return thread


def test_a_blocking_node_blocks_neither_the_api_nor_the_reading_of_states(misbehaving: LiveServer) -> None:
    idle = idle_thread(misbehaving, "in_threads")
    thread, blocking = blocked_for(misbehaving, 5)
    queued = {"assistant_id": "in_threads", "input": {}, "multitask_strategy": "enqueue"}
    with misbehaving.http() as http:
        for path in ("/ok", f"/threads/{thread}/state", f"/threads/{idle}/state", f"/threads/{idle}/history"):
            http.get(path).raise_for_status()
        http.post(f"/threads/{thread}/runs", json=queued).raise_for_status()
        http.post("/threads/search", json={}).raise_for_status()
        assert http.get(f"/threads/{thread}/runs/{blocking}").json()["status"] == "running"
        http.get(f"/threads/{thread}/runs/{blocking}/join")
    source = (GRAPHS / "crash_gates.py").read_text().splitlines()
    line = source.index("    # blocks here") + 2
    (warning,) = [line for line in misbehaving.lines if "blocks the run loop" in line]
    assert f"crash_gates.py:{line} " in warning


def test_a_blocking_node_does_not_block_the_states_of_graphs_that_a_function_makes(misbehaving: LiveServer) -> None:
    idle = idle_thread(misbehaving, "factory")
    thread, blocking = blocked_for(misbehaving, 5)
    with misbehaving.http() as http:
        http.get(f"/threads/{idle}/state").raise_for_status()
        assert http.get(f"/threads/{thread}/runs/{blocking}").json()["status"] == "running"


def test_many_sync_nodes_run_at_once(misbehaving: LiveServer) -> None:
    begun = time.monotonic()
    sent = {"input": {"seconds": 1}, "config": {"configurable": {"user_id": "u"}}}
    done: list[Any] = []
    threads = [
        threading.Thread(target=lambda: done.append(run(misbehaving, "sleeps", **sent)["trail"])) for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [["sleep"]] * 40
    assert time.monotonic() - begun < 8  # one after the other: 40

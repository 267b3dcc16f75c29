"""Changed code is served at once, and nothing that goes on is lost by it."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LiveServer

Make = Callable[..., LiveServer]

AGENT = """
    import asyncio
    import operator
    from pathlib import Path
    from typing import Annotated

    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict

    class State(TypedDict, total=False):
        wait: bool
        said: Annotated[list[str], operator.add]

    async def first(state):
        return {"said": ["first of old"]}

    async def second(state):
        if state.get("wait"):
            Path("waits").touch()
            while not Path("go").exists():
                await asyncio.sleep(0.01)
        return {"said": ["second of old"], "wait": False}

    graph = StateGraph(State).add_sequence([first, second]).add_edge(START, "first").compile()
"""
WITH_HELPER = """
    import operator
    from typing import Annotated

    from langgraph.graph import START, StateGraph
    from typing_extensions import TypedDict
    from {module} import word

    class State(TypedDict, total=False):
        said: Annotated[list[str], operator.add]

    def say(state):
        return {{"said": [word()]}}

    graph = StateGraph(State).add_node(say).add_edge(START, "say").compile()
"""


def write(file: Path, text: str) -> None:
    """As many editors do: the new file takes the place of the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".tmp")
    new.write_text(textwrap.dedent(text))
    os.replace(new, file)


def until(look: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
        time.sleep(0.02)
    return value


def said_by(server: LiveServer, graph: str = "agent", thread: str | None = None) -> Any:
    path = f"/threads/{thread}/runs/wait" if thread else "/runs/wait"
    with server.http() as http:
        result = http.post(path, json={"assistant_id": graph, "input": {}}).raise_for_status().json()
    return result.get("said", result)


def change(server: LiveServer, file: str, text: str) -> None:
    """Write a file and wait until the server has served the change."""
    before = server.log.count("graphs reloaded")
    write(server.folder / file, text)
    until(lambda: server.log.count("graphs reloaded") > before)


def test_changed_code_is_served_without_losing_a_thread_a_run_or_a_stream(make_server: Make) -> None:
    server = make_server({"agent": "./agent.py:graph"}, {"agent.py": AGENT})
    ids: list[str] = []
    with server.http() as http:
        threads = [http.post("/threads", json={}).json()["thread_id"] for _ in range(2)]
        assert said_by(server, thread=threads[0]) == ["first of old", "second of old"]
        sent = {"assistant_id": "agent", "input": {"wait": True}, "stream_resumable": True, "stream_mode": "values"}
        run = http.post(f"/threads/{threads[1]}/runs", json=sent).json()["run_id"]
        until((server.folder / "waits").exists)
        with http.stream("GET", f"/threads/{threads[1]}/runs/{run}/stream", headers={"last-event-id": "0"}) as stream:
            lines = stream.iter_lines()
            while len(ids) < 3:  # metadata, the input, after first
                line = next(lines)
                if line.startswith("id: "):
                    ids.append(line[4:])
            change(server, "agent.py", AGENT.replace("of old", "of new"))
            assert said_by(server) == ["first of new", "second of new"]
            (server.folder / "go").touch()
            rest = "\n".join(lines)
            assert "second of old" in rest  # the run ends as it began, and so does its stream
        again = http.get(f"/threads/{threads[1]}/runs/{run}/stream", headers={"last-event-id": ids[1]}).text
        assert "second of old" in again
        assert ids[2] in again
        assert ids[1] not in again
        assert http.get(f"/threads/{threads[1]}/runs/{run}").json()["status"] == "success"
        values = http.get(f"/threads/{threads[1]}/state").json()["values"]
        assert values["said"] == ["first of old", "second of old"]
    assert said_by(server, thread=threads[0]) == ["first of old", "second of old", "first of new", "second of new"]
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("module", "file"), [("helper", "helper.py"), ("tools.words", "tools/words.py"), ("lib_words", "lib/lib_words.py")]
)
def test_changes_in_helper_modules_are_served(make_server: Make, module: str, file: str) -> None:
    helper = "def word():\n    return 'old'\n"
    files = {"agent.py": WITH_HELPER.format(module=module), file: helper}
    server = make_server({"agent": "./agent.py:graph"}, files, dependencies=[".", "./lib"])
    assert said_by(server) == ["old"]
    change(server, file, helper.replace("old", "new"))
    assert said_by(server) == ["new"]


@pytest.mark.parametrize("file", ["agent.py", "helper.py"])
@pytest.mark.parametrize(
    ("mistake", "said"),
    [("def word(:\n", "SyntaxError"), ("import not_installed_anywhere\n", "No module named 'not_installed_anywhere'")],
)
def test_broken_code_leaves_the_last_good_graphs_and_is_named_in_the_log(
    make_server: Make, file: str, mistake: str, said: str
) -> None:
    files = {"agent.py": WITH_HELPER.format(module="helper"), "helper.py": "def word():\n    return 'old'\n"}
    server = make_server({"agent": "./agent.py:graph"}, files)
    write(server.folder / file, mistake)
    until(lambda: "last good graphs stay" in server.log)
    assert said_by(server) == ["old"]
    (line,) = [line for line in server.lines if "last good graphs stay" in line]
    assert file in line
    assert said in line
    assert "Traceback" not in server.log
    write(server.folder / "helper.py", "def word():\n    return 'mended'\n")
    if file == "agent.py":
        write(server.folder / file, files["agent.py"])
    until(lambda: said_by(server) == ["mended"])


def test_a_broken_module_in_a_new_folder_is_read_again_once_it_is_mended(make_server: Make) -> None:
    files = {"agent.py": WITH_HELPER.format(module="helper"), "helper.py": "def word():\n    return 'old'\n"}
    server = make_server({"agent": "./agent.py:graph"}, files)
    write(server.folder / "new" / "words.py", "def word(:\n")
    write(server.folder / "agent.py", WITH_HELPER.format(module="new.words"))
    until(lambda: "last good graphs stay" in server.log)
    assert said_by(server) == ["old"]
    write(server.folder / "new" / "words.py", "def word():\n    return 'mended'\n")
    until(lambda: said_by(server) == ["mended"])


def test_graphs_that_langgraph_json_gains_or_loses_come_and_go_with_their_assistants(make_server: Make) -> None:
    server = make_server({"agent": "./agent.py:graph", "going": "./agent.py:graph"}, {"agent.py": AGENT})

    def served() -> set[str]:
        with server.http() as http:
            found = http.post("/assistants/search", json={"metadata": {"created_by": "system"}}).json()
            return {assistant["graph_id"] for assistant in found}

    assert served() == {"agent", "going"}
    (server.folder / "more.py").write_text(textwrap.dedent(AGENT.replace("of old", "of more")))
    graphs = {"agent": "./agent.py:graph", "more": {"path": "./more.py:graph", "description": "One more"}}
    change(server, "langgraph.json", json.dumps({"dependencies": ["."], "graphs": graphs}))
    assert served() == {"agent", "more"}
    assert said_by(server, "more") == ["first of more", "second of more"]
    with server.http() as http:
        assert http.post("/runs/wait", json={"assistant_id": "going", "input": {}}).status_code in (404, 422)
    change(server, "more.py", AGENT.replace("of old", "of new"))
    assert said_by(server, "more") == ["first of new", "second of new"]


def test_a_broken_langgraph_json_leaves_the_last_good_graphs(make_server: Make) -> None:
    server = make_server({"agent": "./agent.py:graph"}, {"agent.py": AGENT})
    for text in ("{", json.dumps({"graphs": {}}), json.dumps({"graphs": {"agent": "./gone.py:graph"}})):
        before = server.log.count("last good graphs stay")
        write(server.folder / "langgraph.json", text)
        until(lambda before=before: server.log.count("last good graphs stay") > before)  # type: ignore[misc]
        assert said_by(server) == ["first of old", "second of old"]
    assert "Traceback" not in server.log


def test_values_of_the_projects_own_classes_outlive_a_reload(make_server: Make) -> None:
    agent = """
        from dataclasses import dataclass, field
        from langgraph.graph import START, StateGraph
        from typing_extensions import TypedDict

        @dataclass
        class Note:
            words: list

        class State(TypedDict, total=False):
            note: Note
            said: list[str]

        def say(state):
            note = state.get("note") or Note([])
            assert isinstance(note, Note), type(note)
            return {"note": Note([*note.words, "old"]), "said": [*note.words, "old"]}

        graph = StateGraph(State).add_node(say).add_edge(START, "say").compile()
    """
    server = make_server({"agent": "./agent.py:graph"}, {"agent.py": agent})
    with server.http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
    assert said_by(server, thread=thread) == ["old"]
    change(server, "agent.py", agent.replace('"old"', '"new"'))
    assert said_by(server, thread=thread) == ["old", "new"]


def test_without_reload_the_code_of_the_start_is_served(make_server: Make) -> None:
    server = make_server({"agent": "./agent.py:graph"}, {"agent.py": AGENT}, "--no-reload")
    write(server.folder / "agent.py", AGENT.replace("of old", "of new"))
    time.sleep(0.7)
    assert said_by(server) == ["first of old", "second of old"]


@pytest.mark.parametrize("away", [0.5, 2.5])
@pytest.mark.parametrize("folder", ["app/pack", "app"])
def test_a_folder_that_is_away_for_a_while_comes_back(make_server: Make, folder: str, away: float) -> None:
    """As `git switch` to a branch that lacks it, and back."""
    files = {
        "app/agent.py": WITH_HELPER.format(module="pack.helper"),
        "app/pack/helper.py": "def word(): return 'old'\n",
        "app/langgraph.json": '{"dependencies": ["."], "graphs": {"agent": "./agent.py:graph"}}',
    }
    server = make_server({}, files, "--db", "some.db", "--config", "app/langgraph.json")
    time.sleep(0.5)
    for word in ("new", "newer"):
        kept = {name: (server.folder / name).read_text() for name in files if name.startswith(folder)}
        shutil.rmtree(server.folder / folder)
        time.sleep(away)
        for name, text in kept.items():
            write(server.folder / name, text)
        write(server.folder / "app/pack/helper.py", f"def word(): return {word!r}\n")
        until(lambda word=word: said_by(server) == [word], 20)  # type: ignore[misc]
    change(server, "app/pack/helper.py", "def word(): return 'changed'\n")  # it is watched again
    assert said_by(server) == ["changed"]
    assert server.stop() == 0

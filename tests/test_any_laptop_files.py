"""Windows and macOS, as far as they can be simulated: paths, encodings, and how changed files are seen."""

from __future__ import annotations

import asyncio
import json
import ntpath
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LiveServer, write_project
from test_clock import GRAPH

import devserver
from devserver import AppAuth, Graphs, StartError, read_env_file, read_settings

Make = Callable[..., LiveServer]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]


def encoded(text: str, encoding: str) -> bytes:
    """A text as editors and PowerShell write it: UTF-16 has a mark."""
    return ("\ufeff" + text if encoding == "utf-16-be" else text).encode(encoding)


# -- what langgraph.json and .env are written in --


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_settings_and_variables_may_be_written_by_powershell(tmp_path: Path, encoding: str) -> None:
    text = json.dumps({"graphs": {"агент": "./g.py:graph"}, "env": ".env"}, ensure_ascii=False)
    (tmp_path / "langgraph.json").write_bytes(encoded(text, encoding))
    (tmp_path / ".env").write_bytes(encoded("FIRST=один\r\nSECOND='two'\r\nTHIRD=${SECOND}3\r\n", encoding))
    settings = read_settings(tmp_path / "langgraph.json")
    assert list(settings.graphs) == ["агент"]
    variables = {"FIRST": "один", "SECOND": "two", "THIRD": "two3"}
    assert settings.environment() == read_env_file(tmp_path / ".env") == variables


def test_what_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    for name, read in (("langgraph.json", read_settings), (".env", read_env_file)):
        (tmp_path / name).write_bytes(b"A=\xff\xfe\xfd")
        with pytest.raises(StartError, match=f"{name}.*can't decode"):
            read(tmp_path / name)


# -- how langgraph.json names code --

PLACES = ["graphs", "auth", "http", "store"]  # of the last all that names no file is a model


def settings_with(folder: Path, key: str, place: str) -> devserver.Settings:
    given: dict[str, Any] = {
        "graphs": {"g": place},
        "auth": {"path": place},
        "http": {"app": place},
        "store": {"index": {"embed": place, "dims": 2}},
    }
    (folder / "langgraph.json").write_text(json.dumps({"graphs": {"g": "./g.py:graph"}, key: given[key]}))
    return read_settings(folder / "langgraph.json")


@pytest.mark.parametrize(
    ("key", "place"),
    [
        *((key, place) for key in PLACES for place in ("C:\\x\\code.py", "C:/x/code.py")),
        *((key, place) for key in PLACES[:3] for place in ("./code.py:", ":made", "./code.py:a b")),
    ],
)
def test_a_file_without_a_variable_is_refused_as_such(tmp_path: Path, key: str, place: str) -> None:
    use = devserver.load_app if key == "http" else devserver._load_index
    with pytest.raises(StartError) as error:
        use(settings_with(tmp_path, key, place))
    assert "'file.py:" in str(error.value)
    assert str(tmp_path / "langgraph.json") in str(error.value)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project on the module path, whose modules are forgotten afterwards."""
    before = dict(sys.modules)
    write_project(tmp_path, {"g": "./far/code.py:made"}, {"far/code.py": "made = [__name__]"})
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in sys.modules.keys() - before.keys():
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("source", [".\\far\\code", "far\\code", ".\\far\\code.py", "far\\code.py", "./far/code"])
def test_backslashes_lead_to_the_same_module(project: Path, source: str) -> None:
    assert devserver.import_object("it", f"{source}:made", project / "langgraph.json") == ["far.code"]


def on_another_drive(path: Any, start: Any = os.curdir) -> str:
    raise ValueError("path is on mount 'D:', start on mount 'C:'")


def test_code_on_another_drive_is_imported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(project / "else where", {}, {"code.py": "made = [__name__]"})
    monkeypatch.setattr(os.path, "relpath", on_another_drive)
    source, path = str(project / "else where" / "code.py"), project / "langgraph.json"
    first = devserver.import_object("it", f"{source}:made", path)
    assert first[0].startswith("code_")
    assert devserver.import_object("it", f"{source}:made", path) is first


def test_a_path_is_shown_from_a_folder_or_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devserver.relative("/a/b", "/a") == "b"
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        assert devserver.relative("C:\\a\\b", "C:\\a") == "b"
        assert devserver.relative("D:\\a\\b", "C:\\a") == "D:\\a\\b"


# -- whose code it is --


@pytest.mark.parametrize(
    ("file", "library"),
    [
        ("C:\\Users\\Ann\\AppData\\Local\\Programs\\Python\\Python311\\Lib\\json\\decoder.py", True),
        ("c:\\users\\ann\\appdata\\local\\programs\\python\\python311\\lib\\json\\decoder.py", True),
        ("C:\\project\\.venv\\Lib\\site-packages\\langgraph\\pregel\\main.py", True),
        ("C:\\project\\Lib\\json.py", False),
        ("C:\\Users\\Ann\\AppData\\Local\\Programs\\Python\\Python311\\Library.py", False),
        ("<frozen os>", True),
    ],
)
def test_python_s_own_folder_is_told_from_the_user_s(monkeypatch: pytest.MonkeyPatch, file: str, library: bool) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        own = ntpath.normcase("C:\\Users\\Ann\\AppData\\Local\\Programs\\Python\\Python311\\Lib\\")
        patch.setattr(devserver, "_STDLIB", own)
        assert devserver._is_library(file) == library


def test_a_project_below_a_folder_lib_is_the_user_s(tmp_path: Path) -> None:
    assert devserver._is_library(json.__file__)
    assert devserver._is_library(str(Path(json.__file__).parent / "decoder.py"))
    assert not devserver._is_library("/home/ann/lib/python-agents/agent.py")
    error = json.JSONDecodeError("no", "", 0)
    try:
        json.loads("{")
    except ValueError as raised:
        error = raised  # type: ignore[assignment]
    assert (devserver.user_line(error) or "").startswith(__file__)


@pytest.mark.parametrize("as_named", [True, False])
def test_a_folder_with_two_names_holds_project_modules_by_both(project: Path, as_named: bool) -> None:
    """A module may be imported by a link's name, or by a short one of Windows (PROGRA~1)."""
    short = project.parent / f"{project.name}~1"
    short.symlink_to(project)
    settings = read_settings((short if as_named else project) / "langgraph.json")
    store: Any = types.SimpleNamespace()
    graphs = Graphs(settings, store, store, AppAuth)
    for folder in (project, short):
        module = types.ModuleType("code")
        module.__file__ = str(folder / "far" / "code.py")
        assert graphs._is_project_module("code", module)
        module.__file__ = str(folder / "node_modules" / "code.py")
        assert not graphs._is_project_module("code", module)
        module.__file__ = str(folder / ".venv" / "Lib" / "site-packages" / "code.py")
        assert not graphs._is_project_module("code", module)


# -- how changed files are seen --


def test_folders_without_inodes_are_told_apart_by_when_they_were_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = os.stat, iter(range(1, 10))

    def stat(path: Any, **more: Any) -> Any:
        if str(path) != str(tmp_path):
            return real(path, **more)
        return types.SimpleNamespace(st_ino=0, st_ctime_ns=next(made))

    monkeypatch.setattr(os, "stat", stat)
    assert devserver._inodes([str(tmp_path)]) != devserver._inodes([str(tmp_path)])


def test_a_file_of_the_same_moment_and_another_length_has_changed(tmp_path: Path) -> None:
    """A file system like FAT has moments of two seconds, and no inodes."""
    file = tmp_path / "a.py"
    seen = []
    for text in ("1", "23"):
        file.write_text(text)
        os.utime(file, ns=(10**18, 10**18))
        seen.append(devserver._sources([str(tmp_path)]))
    assert list(seen[0]) == [str(file)]
    assert seen[0] != seen[1]


def reloads(server: LiveServer, count: int) -> None:
    (server.folder / "g.py").write_text(GRAPH + f"# {'x' * count}\n")
    deadline = time.monotonic() + 20
    while server.log.count("graphs reloaded") < count:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.02)


PROGRAM = """
import os, devserver
real, broken = os.path.relpath, []
def relpath(path, start=os.curdir):
    raise ValueError("path is on mount 'D:', start on mount 'C:'")
os.path.relpath = relpath
sources = devserver._sources
def failing(folders):
    if broken.append(1) or len(broken) == 2:
        raise KeyError("once")
    return sources(folders)
devserver._sources = failing
devserver.main()
"""


def test_code_is_reloaded_on_another_drive_and_after_a_failure(make_server: Make) -> None:
    server = make_server({"g": "./g.py:graph"}, {"g.py": GRAPH}, "--no-reload")
    assert server.stop() == 0
    server.program, server.options = PROGRAM, []
    server.start()
    for count in (1, 2):
        reloads(server, count)
    assert f"{server.folder / 'g.py'} changed: graphs reloaded" in server.log
    assert server.log.count("trying again: 'once'") == 1
    assert httpx.get(f"{server.url}/ok").status_code == 200


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (KeyError("a fault"), 1),
        (RuntimeError("Error creating recommended watcher: Too many open files (os error 24)"), 1),
        (OSError(28, "OS file watch limit reached."), 1),
        (FileNotFoundError(2, "No such file or directory"), 0),  # a folder that goes away for a while
    ],
)
async def test_whatever_keeps_code_from_being_watched_is_told_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception, times: int
) -> None:
    tries: list[int] = []

    def folders() -> set[str]:
        tries.append(1)
        if len(tries) < 4:
            raise fault
        raise asyncio.CancelledError

    monkeypatch.setattr(devserver, "RETRY_SECONDS", 0.001)
    server: Any = types.SimpleNamespace(graphs=types.SimpleNamespace(folders=folders))
    with pytest.raises(asyncio.CancelledError):
        await devserver.reload_on_change(server)
    told = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert told == [f"folders of code can't be watched, trying again: {fault}"] * times

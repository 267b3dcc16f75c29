"""The shape of the one module: its sections, what each may use, and how long its parts are."""

import ast
import json
import os
import re
import subprocess
import symtable
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

PATH = ROOT / "devserver.py"
SOURCE = PATH.read_text()
LINES = SOURCE.splitlines()
TREE = ast.parse(SOURCE)

MAX_LINES = 11770  # of the server, until it is made shorter; these have limits of their own:
MAX_TEST_KIT, MAX_WAY_UP, MAX_PAGE = 1440, 440, 1200
MAX_FUNCTION, MAX_CLASS, MAX_COMPLEXITY = 70, 250, 12
# Functions and calls of three ways through the module, see ways.py. They only go down.
MAX_WAYS = {"streamed run": (112, 350), "protocol run, followed": (135, 750), "shared value's write": (143, 350)}
MAX_USED_ONCE = 70  # functions; more than that, and what belongs together is read apart
SQL_SECTIONS = {"Database", "Tables", "Persistence"}
WEB_SECTIONS = {"Access", "HTTP", "Protocols", "App"}

SQL = re.compile(r"\b(SELECT|INSERT (OR \w+ )?INTO|UPDATE \w+ SET|DELETE FROM|CREATE (TABLE|INDEX)|PRAGMA) ")
BANNER = re.compile(r"^#{80,}\n# (\d+)  (.+)\n#{80,}$", re.M)
CONTENTS = re.compile(r"^ +(\d+)  (\S.*?)  +\S", re.M)

# Where each section starts, with its title; what is before the first one is "".
SECTIONS = [(0, "")] + [(SOURCE[: found.start()].count("\n") + 1, found[2]) for found in BANNER.finditer(SOURCE)]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def section(line: int) -> int:
    """The number of the section that a line is in."""
    return max(number for number, (start, _) in enumerate(SECTIONS) if start <= line)


def title(line: int) -> str:
    return SECTIONS[section(line)][1]


def length(node: Function | ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


FUNCTIONS = [node for node in ast.walk(TREE) if isinstance(node, Function)]
CLASSES = [node for node in ast.walk(TREE) if isinstance(node, ast.ClassDef)]


def test_contents_are_the_banners() -> None:
    contents = (ast.get_docstring(TREE, clean=False) or "").partition("Contents\n")[2].partition("\n\n")[0]
    banners = [(found[1], found[2]) for found in BANNER.finditer(SOURCE)]
    assert CONTENTS.findall(contents) == banners
    assert [int(number) for number, _ in banners] == list(range(1, len(banners) + 1))


def test_the_module_is_short() -> None:
    test_kit, way_up = (
        sum(title(line) == name for line in range(1, len(LINES) + 1)) for name in ("Test kit", "Way up")
    )
    page = sum(
        (node.end_lineno or 0) - node.lineno + 1
        for node in TREE.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAGE"
    )
    assert test_kit <= MAX_TEST_KIT
    assert way_up <= MAX_WAY_UP
    assert page <= MAX_PAGE
    assert len(LINES) - test_kit - way_up - page < MAX_LINES


def test_ways_are_short(tmp_path: Path) -> None:
    """From a request to the last of its run: how many functions a reader has to know."""
    walk = [sys.executable, str(Path(__file__).with_name("ways.py"))]
    done = subprocess.run(
        walk, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (tmp_path / "ways.json").is_file(), done.stderr
    ways = json.loads((tmp_path / "ways.json").read_text())
    assert {*MAX_WAYS} - {*ways} <= {"protocol run, followed"}  # which old versions of LangGraph do not have
    for way, functions in ways.items():
        most, most_calls = MAX_WAYS[way]
        assert len(functions) <= most, (way, functions)
        assert sum(functions.values()) <= most_calls, (way, functions)


def test_classes_are_short() -> None:
    assert {node.name: length(node) for node in CLASSES if length(node) >= MAX_CLASS} == {}


def test_functions_are_short() -> None:
    assert {node.name: length(node) for node in FUNCTIONS if length(node) >= MAX_FUNCTION} == {}


def test_functions_are_simple() -> None:
    limit = f"lint.mccabe.max-complexity={MAX_COMPLEXITY}"
    options = ["--isolated", "--select", "C901", "--config", limit, "--output-format=concise"]
    done = subprocess.run([sys.executable, "-m", "ruff", "check", *options, PATH], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_class_says_what_it_keeps_true() -> None:
    """Request bodies are their own description, and so are exceptions named after what went wrong."""
    silent = [
        node.name
        for node in CLASSES
        if not ast.get_docstring(node) and title(node.lineno) not in ("Vocabulary", "Values")
    ]
    assert silent == []


def test_few_functions_are_used_once() -> None:
    """Neither counted are commands, pytest's hooks, nor handlers that a table names: of routes, commands, methods."""
    own = {node.name for node in TREE.body if isinstance(node, Function) and not node.decorator_list}
    own = {name for name in own if not name.startswith("pytest_")}
    in_tables: set[str] = set()
    for node in TREE.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.List | ast.Dict):
            in_tables |= {name for _, name in names_in(node.value)}
    uses = Counter(name for _, name in names_in(TREE))
    once = sorted(name for name in own - in_tables if uses[name] == 1)
    assert len(own - in_tables) > 100
    assert len(once) <= MAX_USED_ONCE, once


# No section uses a name that a later one defines


def defined() -> dict[str, int]:
    """The section of each name that the module defines."""
    names: dict[str, int] = {}
    for node in TREE.body:
        if isinstance(node, Function | ast.ClassDef):
            names.setdefault(node.name, section(node.lineno))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in ast.walk(node):
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                    names.setdefault(target.id, section(node.lineno))
    return names


def used() -> Iterator[tuple[int, str]]:
    """Each use of a global name, with a line of the scope or statement that it is in."""
    tables = symtable.symtable(SOURCE, str(PATH), "exec").get_children()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and symbol.is_global():
                yield table.get_lineno(), symbol.get_name()
    for outside in executed_at_import():
        yield from names_in(outside)
    for node in ast.walk(TREE):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(annotation, ast.expr):
                yield from names_in(annotation)


def executed_at_import() -> Iterator[ast.AST]:
    for node in TREE.body:
        if isinstance(node, ast.ClassDef):
            yield from [*node.decorator_list, *node.bases, *node.keywords]
        elif isinstance(node, Function):
            yield from [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)]
        else:
            yield node


def names_in(node: ast.AST) -> Iterator[tuple[int, str]]:
    for name in ast.walk(node):
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load):
            yield name.lineno, name.id


def test_no_section_uses_a_later_one() -> None:
    """But for the appendix, which App alone uses: the page."""
    where, titles = {**defined(), "PAGE": len(SECTIONS)}, [*(name for _, name in SECTIONS), "the appendix"]
    assert len(where) > 100
    ahead = {
        f"{title(line)} uses {name} of {titles[where[name]]}, line {line}"
        for line, name in used()
        if name in where and where[name] > section(line) and (title(line), name) != ("App", "PAGE")
    }
    assert ahead == set()


# What only some sections may speak of


def texts() -> Iterator[tuple[int, str]]:
    """Texts in the code, without docstrings."""
    quiet = {id(node.value) for node in ast.walk(TREE) if isinstance(node, ast.Expr)}
    for node in ast.walk(TREE):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in quiet:
            yield node.lineno, node.value


def test_sql_is_only_where_the_tables_are() -> None:
    found = [(line, text) for line, text in texts() if SQL.search(text)]
    assert len(found) > 20
    assert [(line, text) for line, text in found if title(line) not in SQL_SECTIONS] == []


def test_requests_and_responses_are_only_where_http_is() -> None:
    web = {alias.asname or alias.name for node in TREE.body for alias in imported_from(node, "starlette.")}
    assert {"Request", "Response"} <= web
    found = [(line, name) for line, name in used() if name in ("Request", "Response")]
    assert len(found) > 20
    assert [(line, name) for line, name in found if title(line) not in WEB_SECTIONS] == []


def imported_from(node: ast.AST, package: str) -> list[ast.alias]:
    return node.names if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package) else []


def test_it_is_one_file() -> None:
    """Nothing of this repository is imported but the module itself, and nothing else is packaged."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["py-modules"] == ["devserver"]
    roots: set[str] = set()
    for node in ast.walk(TREE):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(str(node.module).partition(".")[0])
    assert roots & own_modules() <= {"devserver"}


def own_modules() -> set[str]:
    def has_code(path: Path) -> bool:
        return path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))

    return {path.stem for path in ROOT.iterdir() if not path.name.startswith(".") and has_code(path)}

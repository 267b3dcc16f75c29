"""Projects that are tested as their authors would: pytest in a process of its own, with devserver's fixtures."""

from __future__ import annotations

import os
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT
from forked import start_process

CONFTEST = 'pytest_plugins = ["devserver"]\n'
HOWS = ("failure", "error", "skipped")
PYTEST = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"


@dataclass
class Result:
    """What pytest printed, and how each test ended: by its name: "passed", or one of HOWS."""

    output: str
    status: int
    tests: dict[str, str]


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in {"conftest.py": CONFTEST, "pytest.ini": INI, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))


def run_pytest(folder: Path, *options: str, env: dict[str, str] | None = None, bare: bool = False) -> Result:
    """Run pytest in a folder. `bare`: in a new Python, that has not imported devserver."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_CORE", "CI"))}
    variables |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    report = folder / "report.xml"
    arguments = ["-vv", "-p", "no:cacheprovider", "--tb=short", f"--rootdir={folder}", f"--junitxml={report}", *options]
    program = [sys.executable, "-m", "pytest"] if bare else []
    process = start_process(PYTEST, arguments, folder, variables, program)
    assert process.stdout
    with process.stdout as output:
        printed = output.read()
    cases = ElementTree.parse(report).iter("testcase") if report.exists() else ()  # noqa: S314  our own
    tests = {
        case.get("name", ""): next((how for how in HOWS if case.find(how) is not None), "passed") for case in cases
    }
    return Result(printed, process.wait(), tests)

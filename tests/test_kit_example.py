"""The worked example: the example agent's own tests, with a recording; and what lives beside the test kit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from conftest import ROOT
from kit_project import run_pytest, write_files
from test_docs import TESTING

EXAMPLE = ROOT / "tests/example"


def test_the_example_runs_offline(tmp_path: Path) -> None:
    """As a checkout has it, and so that its recording is what is asked: in strict mode nothing of it is left."""
    for name in ("langgraph.json", "graphs", "tests/example"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target)
    folder = tmp_path / "tests/example"
    model = tmp_path / "graphs/rule_model.py"
    model.write_text(model.read_text().replace("def reply(", "def gone("))  # there is no provider
    result = run_pytest(folder, "--devserver-strict", f"--confcutdir={folder}", bare=True)
    names = set(re.findall(r"def (test_\w+)\(", (EXAMPLE / "test_agent.py").read_text()))
    assert result.tests == dict.fromkeys(names, "passed"), result.output


def test_the_readme(tmp_path: Path) -> None:
    shutil.copy(ROOT / "langgraph.json", tmp_path)
    shutil.copytree(ROOT / "graphs", tmp_path / "graphs")
    test = TESTING
    write_files(tmp_path, {"test_agent.py": test})
    result = run_pytest(tmp_path)
    names = re.findall(r"def (test_\w+)\(", test)
    assert result.tests == dict.fromkeys(names, "passed"), result.output

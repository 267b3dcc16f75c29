"""The tests find their way on Linux, macOS and Windows; the latter two are simulated here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from forked import start_process


@pytest.mark.long
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_all_tests_can_be_collected_elsewhere(platform: str) -> None:
    folders = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "elsewhere", "-n", "0", "-s", "--collect-only", "-q", "-m", ""],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": folders, "DEVSERVER_ELSEWHERE": platform, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    files = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    assert files - set(re.findall(r"^tests/(test_\w+\.py)::", done.stdout, re.M)) == set()


def test_a_server_is_a_plain_process_where_there_is_no_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "fork")
    program = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['A'])"
    environment = {**os.environ, "A": "b"}
    process = start_process(program, ["up", "--port", "0"], tmp_path, environment, [])
    assert isinstance(process, subprocess.Popen)
    assert process.communicate(timeout=30)[0] == f"['up', '--port', '0'] {tmp_path} b\n"
    assert process.returncode == 0

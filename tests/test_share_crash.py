"""share() in plain LangGraph, killed at any moment: what a checkpoint tells as done is in the store."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import share_killed
from conftest import ROOT, linux_only
from langgraph.checkpoint.sqlite import SqliteSaver

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
ROUNDS = 40


def items(file: Path) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(file)) as conn, contextlib.suppress(sqlite3.OperationalError):
        rows = conn.execute("SELECT key, value FROM store WHERE prefix = 'scoped.user_id.info.u'")
        return {key: json.loads(value) for key, value in rows}
    return {}  # killed before there was a table


def steps(file: Path) -> dict[str, int]:
    """How many steps each thread's newest checkpoint has."""
    with SqliteSaver.from_conn_string(str(file)) as saver:
        found = {str(n): saver.get_tuple(share_killed.config(str(n))) for n in range(share_killed.THREADS)}
    values = {thread: each.checkpoint["channel_values"] for thread, each in found.items() if each}
    return {thread: each.get("step", 0) for thread, each in values.items()}


@linux_only
@pytest.mark.parametrize("way", ["sync", "async"])
def test_no_write_is_lost_whenever_the_process_is_killed(way: str, tmp_path: Path) -> None:
    """A step whose checkpoint was lost may be done again, and then meets its own item; none that comes after."""
    chance, killed, file, env = random.Random(7), 0, tmp_path / "data.db", {**os.environ, "PYTHONPATH": str(ROOT)}
    line, pipe = [sys.executable, share_killed.__file__, str(tmp_path), way], subprocess.PIPE
    with subprocess.Popen(line, env=env, stdin=pipe, stdout=pipe, text=True, bufsize=1) as mother:
        assert mother.stdin
        assert mother.stdout
        while killed < ROUNDS:
            mother.stdin.write("work\n")
            process = int(mother.stdout.readline())
            time.sleep(chance.uniform(0.05, 0.5))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            code = int(mother.stdout.readline())
            assert code in (0, signal.SIGKILL)
            killed += code != 0
            done, stored = steps(file), items(file)
            for thread, count in done.items():
                lost = [n for n in range(count) if f"{thread} {n:02}" not in stored]
                assert lost == [], f"of thread {thread} after {killed} kills, at step {count}"
            for key, item in stored.items():
                assert item["before"] - int(key.split()[1]) in (0, 1), (key, item)
            if code == 0:
                assert done == dict.fromkeys(done, share_killed.STEPS)
                for each in tmp_path.glob("data.db*"):
                    each.unlink()
        mother.stdin.close()

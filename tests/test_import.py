"""What importing devserver does to the process that imports it: nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from typing import Any

from conftest import ROOT

# What a process has of its own, besides modules: as JSON, so that two moments can be compared.
LOOK = """
import asyncio, atexit, functools, gc, json, logging, os, signal, sys, threading, warnings

def look():
    loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    return {
        "collector": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), gc.get_debug(), len(gc.callbacks)],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "warnings": repr(warnings.filters),
        "logging": [
            [each.name, each.level, repr(each.handlers), repr(each.filters), each.propagate, each.disabled]
            for each in loggers
            if isinstance(each, logging.Logger) and each.name != "devserver"
        ],
        "signals": [repr(signal.getsignal(each)) for each in signal.valid_signals()],
        "paths": [list(sys.path), repr(sys.meta_path), repr(sys.path_hooks)],
        "hooks": repr([sys.excepthook, sys.displayhook, threading.excepthook, sys.gettrace(), sys.getprofile()]),
        "streams": repr([sys.stdin, sys.stdout, sys.stderr]),
        "policy": repr(type(asyncio.get_event_loop_policy())) if sys.version_info < (3, 14) else "",
        "threads": [each.name for each in threading.enumerate()],
        "exit functions": atexit._ncallbacks(),
        "limit": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
    }

def names(packages):
    return {
        (module, name): value
        for module, loaded in list(sys.modules.items())
        if module.partition(".")[0] in packages
        for name, value in vars(loaded).items()
        if name not in ("__warningregistry__", "_last_v6_timestamp")  # the latter counts ids
    }
"""


def outcome(code: str) -> Any:
    """Return the JSON that a fresh Python prints last."""
    done = subprocess.run([sys.executable, "-c", LOOK + code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_changes_nothing_of_the_process() -> None:
    """The packages that devserver is made of are there before: what they do when they are loaded is theirs."""
    body = ast.parse((ROOT / "devserver.py").read_text()).body
    imports = "\n".join(ast.unparse(each) for each in body if isinstance(each, ast.Import | ast.ImportFrom))
    code = f"""
exec({imports.partition(chr(10))[2]!r}, {{}})
ours = "langgraph", "langgraph_sdk", "langchain_core", "starlette", "aiosqlite", "uvicorn"
before, modules, parts = look(), dict(sys.modules), names(ours)
collector = []
for name in ("collect", "disable", "enable", "freeze", "set_threshold", "unfreeze"):
    setattr(gc, name, functools.partial(collector.append, name))
import devserver
after, later = look(), names(ours)
print(json.dumps({{
    "collector": collector,
    "changed": {{key: [before[key], after[key]] for key in before if before[key] != after[key]}},
    "new": [name for name, module in sys.modules.items() if name not in modules and not module.__spec__],
    "replaced": [name for name in modules if sys.modules.get(name) is not modules[name]],
    "patched": [f"{{module}}.{{name}}" for (module, name), value in parts.items() if later[module, name] is not value],
}}))
"""
    assert outcome(code) == {"collector": [], "changed": {}, "new": [], "replaced": [], "patched": []}


def test_importing_leaves_a_resting_collector_alone() -> None:
    code = """
gc.disable()
gc.set_threshold(5, 6, 7)
before = look()["collector"]  # Python 3.12 begins with objects that are frozen
import devserver
print(json.dumps([before, look()["collector"]]))
"""
    before, after = outcome(code)
    assert before == after
    assert after[:2] == [False, [5, 6, 7]]


def test_the_command_loads_with_the_collector_at_rest() -> None:
    code = "sys.argv = ['/somewhere/bin/devserver']; import devserver; print(json.dumps(gc.isenabled()))"
    assert outcome(code) is False

"""The shared conformance probe, which compares our answers with a recording of another server.

Only where its folder lies beside this repository. Differences that are kept are in conformance_accepted.txt.
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PROBE, LiveServer

AREAS = (
    "assistants",
    "threads",
    "state",
    "runs",
    "stream",
    "protocol",
    "stateless",
    "crons",
    "store",
    "mcp",
    "a2a",
    "system",
    "errors",
)
ONLY = ",".join(f"{area}.*" for area in AREAS)
ACCEPTED = Path(__file__).with_name("conformance_accepted.txt")
EXACT_SHARE = 0.95
RACES = {"runs.join/live_interrupted": "runs.join/interrupted"}

pytestmark = pytest.mark.skipif(not PROBE.is_dir(), reason="the conformance probe is not beside this repository")

Verdict = dict[str, Any]


def probe(*arguments: str | Path) -> str:
    """What the probe prints; status 1 of `compare` means differences, which the tests judge."""
    done = subprocess.run(
        [sys.executable, PROBE / "probe.py", *arguments],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("probe")
    shutil.copytree(PROBE / "graphs", folder / "graphs", ignore=shutil.ignore_patterns("__pycache__"))
    settings = json.loads((PROBE / "langgraph.json").read_text())
    settings["http"] = {"cors": {"allow_origins": ["*"]}}  # as the other server does without being asked
    (folder / "langgraph.json").write_text(json.dumps(settings))
    server = LiveServer(folder, ["--no-reload"]).start()
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture(scope="module")
def ours(live: LiveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "ours.jsonl"
    probe("record", "--url", live.url, "--out", path, "--only", ONLY, "--workers", "4")
    return path


@pytest.fixture(scope="module")
def verdicts(ours: Path) -> list[Verdict]:
    judged = ours.with_name("verdicts.json")
    accepted = ("--accept", PROBE / "peer_defects.txt", "--accept", ACCEPTED)
    probe("compare", PROBE / "reference.jsonl", ours, "--only", ONLY, "--json", judged, *accepted)
    lost = lost_races(ours)
    return [v for v in json.loads(judged.read_text()) if f"{v['scenario']}/{v['step']}" not in lost]


def lost_races(recording: Path) -> set[str]:
    """Steps that came too late to a run that goes on: they were answered as one that asks for a run that has ended."""
    lines = map(json.loads, recording.read_text().splitlines())
    answers = {f"{line['scenario']}/{line['step']}": line.get("body") for line in lines}
    return {step for step, late in RACES.items() if answers[step].keys() == answers[late].keys()}


def accepted_lines() -> list[tuple[str, str]]:
    lines = [line for line in ACCEPTED.read_text().splitlines() if line and not line.startswith("#")]
    return [(name, reason.strip()) for name, _, reason in (line.partition(":") for line in lines)]


@pytest.mark.parametrize("area", AREAS)
def test_answers_conform(verdicts: list[Verdict], area: str) -> None:
    counted = [v for v in verdicts if v["area"] == area and v["verdict"] not in ("accepted", "unstable")]
    exact = sum(v["exact"] for v in counted)
    differing = {f"{v['scenario']}/{v['step']}": v["diff"] for v in counted if not v["exact"]}
    assert counted
    assert not [v for v in counted if not v["shape"]], json.dumps(differing, indent=1)
    assert exact / len(counted) >= EXACT_SHARE, json.dumps(differing, indent=1)


def test_every_accepted_difference_has_a_reason_and_is_one(verdicts: list[Verdict]) -> None:
    differing = [f"{v['scenario']}/{v['step']}" for v in verdicts if v["verdict"] == "accepted"]
    lines = accepted_lines()
    assert [name for name, reason in lines if not reason] == []
    assert [name for name, _ in lines if not fnmatch.filter(differing, name)] == []


ADDED = ("updates", "tasks", "checkpoints", "custom")


def event_streams(recording: Path) -> dict[str, list[Verdict]]:
    """The events of the event streaming protocol in a recording, without the added channels and what they shift:
    numbers, and the numbers of ids; nor the ids that parts of messages have here. Custom exceptions' messages are
    not compared."""
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    streams = {}
    for line in (line for line in lines if line["area"] == "protocol" and line.get("events")):
        kept = [event["data"] for event in line["events"] if event["event"] not in ADDED]
        for each in (event["params"]["data"] for event in kept if event["method"] == "messages"):
            each.pop("run_id", None)
            each.pop("id", None)
        text = json.dumps([{**event, "seq": None} for event in kept])
        if line["step"] == "custom":
            text = re.sub(r'"error": "[^"]*"', '"error": "..."', text)
        ids = dict.fromkeys(re.findall(r"<(?:uuid|run):\d+>", text))
        for number, name in enumerate(ids):
            text = text.replace(name, f"<{number}>")
        streams[f"{line['scenario']}/{line['step']}"] = json.loads(text)
    return streams


def test_event_streams_differ_by_added_channels_only(ours: Path) -> None:
    made = event_streams(ours)
    assert len(made) == 11
    assert made == event_streams(PROBE / "reference.jsonl")


def test_the_server_never_failed(live: LiveServer, verdicts: list[Verdict]) -> None:
    assert "failed in devserver" not in live.log
    assert live.process
    assert live.process.poll() is None

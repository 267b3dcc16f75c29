"""What is told live is told at a replay: of every stream and every kind of end, before and after a restart."""

from __future__ import annotations

import concurrent.futures
import json
import sqlite3
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client as ws
from conftest import GRAPHS, LiveServer, write_project

import devserver

BASIC = ("steps", "failing", "gated", "question", "nested", "chat")
SERVED = {name: f"./basic.py:{name}" for name in BASIC}
MODES = ["values", "updates", "messages", "custom", "debug", "tasks", "checkpoints"]
CHANNELS = ["values", "updates", "messages", "tools", "custom", "lifecycle", "input", "tasks", "checkpoints"]
RUN = {"stream_mode": MODES, "stream_resumable": True, "stream_subgraphs": True}
FROM_THE_BEGINNING = "0"

Frame = tuple[str, str, str]  # name, data, id


def parse(text: str) -> list[Frame]:
    """The whole events of a stream."""
    found = []
    for part in text.replace("\r\n", "\n").split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in part.split("\n") if not line.startswith(":"))
        if fields:
            found.append((fields["event"], fields["data"], fields.get("id", "")))
    return found


# The doors. Each gives the events of a thread, from now on or after a place, up to the end of a stage.

Door = Callable[["Stage", threading.Event, str | None], list[Frame]]


def thread_stream(modes: str) -> Door:
    def door(stage: Stage, ready: threading.Event, last: str | None) -> list[Frame]:
        def is_last(frame: Frame) -> bool:
            if "state_update" in modes:
                return frame[0] == "state_update" and f'"text":"{stage.end}"' in frame[1]
            return frame[1] == f'{{"status":"run_done","run_id":"{stage.end}"}}'

        headers = {"last-event-id": last} if last else {}
        path = f"/threads/{stage.thread}/stream"
        return read(stage, ready, is_last, "GET", path, params={"stream_modes": modes}, headers=headers)

    return door


def events_stream(stage: Stage, ready: threading.Event, last: str | None) -> list[Frame]:
    body = {"channels": CHANNELS, "since": int(last or 0)}
    return read(stage, ready, stage.is_last_event, "POST", f"/threads/{stage.thread}/stream/events", json=body)


def events_socket(stage: Stage, ready: threading.Event, last: str | None) -> list[Frame]:
    url = f"{stage.server.url.replace('http', 'ws')}/threads/{stage.thread}/stream/events"
    got: list[Frame] = []
    with ws.connect(url, proxy=None, max_queue=None) as socket:
        params = {"channels": CHANNELS, "since": int(last or 0)}
        socket.send(json.dumps({"id": 1, "method": "subscription.subscribe", "params": params}))
        while (whole := up_to(got, stage, stage.is_last_event)) is None:
            text = str(socket.recv(timeout=20))
            said = json.loads(text)
            if said["type"] == "event":
                got.append((said["method"], text, str(said["seq"])))
            ready.set()
    return whole


def read(
    stage: Stage, ready: threading.Event, is_last: Callable[[Frame], bool], method: str, path: str, **more: Any
) -> list[Frame]:
    text, deadline = "", time.monotonic() + 30
    with stage.server.http() as http, http.stream(method, path, **more) as answer:
        assert answer.status_code == 200, answer.read()
        ready.set()
        for part in answer.iter_text():
            text += part
            if (whole := up_to(parse(text), stage, is_last)) is not None:
                return whole
            assert time.monotonic() < deadline, text[-1000:]
    raise AssertionError("the stream ended")


def up_to(frames: list[Frame], stage: Stage, is_last: Callable[[Frame], bool]) -> list[Frame] | None:
    """The frames up to the last one of a stage; None if that is not there yet."""
    ends = [number for number, frame in enumerate(frames, 1) if stage.end and is_last(frame)]
    return frames[: ends[0]] if ends else None


DOORS: dict[str, Door] = {
    **{
        f"thread stream, {modes}": thread_stream(modes)
        for modes in ("run_modes", "lifecycle", "state_update", "lifecycle,state_update", "run_modes,state_update")
    },
    "event streaming": events_stream,
    "event streaming by WebSocket": events_socket,
}


# The scenarios


@dataclass
class Stage:
    """A thread of a server, with what scenarios do there. Runs that are deleted, or rolled back, are erased. The run
    `end` is what all doors read up to; what follows it only lets them look again."""

    server: LiveServer
    http: httpx.Client
    thread: str
    pool: concurrent.futures.Executor
    runs: list[str] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    streams: dict[str, concurrent.futures.Future[list[Frame]]] = field(default_factory=dict)
    end: str = ""

    def is_last_event(self, frame: Frame) -> bool:
        return f"synth:{self.end}:lc||completed" in frame[1]

    def post(self, path: str, body: Any = None, **params: Any) -> Any:
        answer = self.http.post(f"/threads/{self.thread}{path}", json=body or {}, params=params).raise_for_status()
        return answer.json() if answer.content else None

    def begin(self, graph: str, given: Any = None, **more: Any) -> str:
        """Start a run, and read its stream in the background."""
        body = {**RUN, "assistant_id": graph, "input": given or {}, **more}
        request = self.http.build_request("POST", f"/threads/{self.thread}/runs/stream", json=body)
        answer = self.http.send(request, stream=True).raise_for_status()
        run_id = answer.headers["content-location"].rpartition("/")[2]
        self.streams[run_id] = self.pool.submit(lambda: parse(answer.read().decode()))
        self.runs.append(run_id)
        return str(run_id)

    def run(self, graph: str, given: Any = None, **more: Any) -> str:
        return self.join(self.begin(graph, given, **more))

    def join(self, run_id: str) -> str:
        self.http.get(f"/threads/{self.thread}/runs/{run_id}/join").raise_for_status()
        return run_id

    def join_others(self) -> None:
        """Wait for the runs that were not started by their id."""
        found = [run["run_id"] for run in self.http.get(f"/threads/{self.thread}/runs").json()]
        self.runs += [self.join(run_id) for run_id in found if run_id not in self.runs]

    def begun(self, run_id: str) -> str:
        """Wait until a gated run waits."""
        while self.http.get(f"/threads/{self.thread}/state").json()["next"] != ["wait"]:
            time.sleep(0.01)
        return run_id

    def cancel(self, run_id: str, action: str = "interrupt") -> None:
        self.post(f"/runs/{run_id}/cancel", action=action, wait="true")
        if action == "rollback":
            self.erased.append(run_id)

    def delete(self, run_id: str) -> None:
        self.http.delete(f"/threads/{self.thread}/runs/{run_id}").raise_for_status()
        self.erased.append(run_id)
        self.deleted.append(run_id)

    def command(self, method: str, **params: Any) -> Any:
        answer = self.post("/commands", {"id": 1, "method": method, "params": params})
        assert answer["type"] == "success", answer
        return answer["result"]

    def start(self, graph: str, given: Any = None) -> str:
        run_id: str = self.command("run.start", assistant_id=graph, input=given or {})["run_id"]
        self.runs.append(run_id)
        return run_id

    def question(self) -> str:
        asked = self.http.get(f"/threads/{self.thread}").json()["interrupts"]
        return str(next(iter(asked.values()))[0]["id"])

    def update(self, text: str) -> None:
        self.post("/state", {"values": {"text": text}})


NEVER = {"gate": "never"}
LATER = {"after_seconds": 600}


def cancelled_pending_behind(stage: Stage, action: str) -> None:
    first = stage.begun(stage.begin("gated", NEVER))
    stage.cancel(stage.begin("steps"), action)
    stage.cancel(first)


def superseded(stage: Stage, strategy: str) -> None:
    """A run that goes on, and one that waits, give way."""
    ahead, behind = stage.begun(stage.begin("gated", NEVER)), stage.begin("steps")
    if strategy == "rollback":
        stage.erased += [ahead, behind]
    stage.run("steps", multitask_strategy=strategy)


def superseded_by_a_cron(stage: Stage) -> None:
    stage.begin("steps", **LATER)
    cron = {**RUN, "assistant_id": "steps", "schedule": "* * * * * *", "multitask_strategy": "interrupt"}
    cron_id = stage.post("/runs/crons", {**cron, "input": {}})["cron_id"]
    while len(stage.http.get(f"/threads/{stage.thread}/runs").json()) < 2:
        time.sleep(0.01)
    stage.http.delete(f"/runs/crons/{cron_id}").raise_for_status()
    stage.join_others()


def answered(stage: Stage) -> None:
    stage.run("question", {"topic": "x"})
    stage.run("question", command={"resume": "no"})


def answered_by_command(stage: Stage) -> None:
    stage.join(stage.start("question", {"topic": "x"}))
    stage.command("input.respond", interrupt_id=stage.question(), response="no")
    stage.join_others()


def updated(stage: Stage) -> None:
    stage.run("steps")
    stage.update("one")
    stage.run("steps")
    stage.update("two")
    stage.update("three")


SCENARIOS: dict[str, Callable[[Stage], Any]] = {
    "success": lambda stage: stage.run("steps", {"text": "x"}),
    "error": lambda stage: stage.run("failing"),
    "error of a class of its own": lambda stage: stage.run("failing", {"kind": "own"}),
    "subgraphs": lambda stage: stage.run("nested"),
    "messages": lambda stage: stage.run("chat", {"messages": [{"role": "user", "content": "hi"}]}),
    "a question, and its answer": answered,
    "stopped at a breakpoint": lambda stage: stage.run("steps", interrupt_before=["second"]),
    "cancelled": lambda stage: stage.cancel(stage.begun(stage.begin("gated", NEVER))),
    "rolled back": lambda stage: stage.cancel(stage.begun(stage.begin("gated", NEVER)), "rollback"),
    "deleted": lambda stage: stage.delete(stage.begun(stage.begin("gated", NEVER))),
    "cancelled before it began": lambda stage: stage.cancel(stage.begin("steps", **LATER)),
    "rolled back before it began": lambda stage: stage.cancel(stage.begin("steps", **LATER), "rollback"),
    "deleted before it began": lambda stage: stage.delete(stage.begin("steps", **LATER)),
    "cancelled behind another": lambda stage: cancelled_pending_behind(stage, "interrupt"),
    "rolled back behind another": lambda stage: cancelled_pending_behind(stage, "rollback"),
    "superseded": lambda stage: superseded(stage, "interrupt"),
    "superseded with a rollback": lambda stage: superseded(stage, "rollback"),
    "superseded by a cron": superseded_by_a_cron,
    "the state is updated": updated,
    "command: success": lambda stage: stage.join(stage.start("steps", {"text": "x"})),
    "command: error": lambda stage: stage.join(stage.start("failing")),
    "command: a question, and its answer": answered_by_command,
    "command: cancelled": lambda stage: stage.cancel(stage.begun(stage.start("gated", NEVER))),
    "command: rolled back": lambda stage: stage.cancel(stage.begun(stage.start("gated", NEVER)), "rollback"),
}


@dataclass
class Recorded:
    """What came through each door of a stage, and by the streams of its runs: live, and at a replay."""

    stage: Stage
    live: dict[str, list[Frame]]
    replays: list[dict[str, list[Frame]]] = field(default_factory=list)

    def replay(self) -> None:
        """Read all from the beginning."""
        told = {door: DOORS[door](self.stage, threading.Event(), "0") for door in DOORS}
        with self.stage.server.http() as http:
            for run in self.stage.streams:
                path = f"/threads/{self.stage.thread}/runs/{run}/stream"
                told[run] = parse(http.get(path, headers={"last-event-id": "-1"}).text)
        self.replays.append(told)


def record(server: LiveServer, http: httpx.Client, scenario: Callable[[Stage], Any]) -> Recorded:
    ready = {door: threading.Event() for door in DOORS}
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        stage = Stage(server, http, http.post("/threads", json={}).json()["thread_id"], pool)
        readings = {door: pool.submit(DOORS[door], stage, ready[door], None) for door in DOORS}
        assert all(each.wait(10) for each in ready.values())
        scenario(stage)
        end = stage.join(stage.start("steps", {"text": "the last one"}))
        stage.update(end)
        stage.end = end
        stage.run("steps")
        stage.update("over")
        return Recorded(stage, {name: reading.result(20) for name, reading in (readings | stage.streams).items()})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("replayed")
    write_project(folder, SERVED, {file.name: file.read_text() for file in GRAPHS.glob("*.py")})
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0, live.log


@pytest.fixture(scope="module")
def recorded(server: LiveServer) -> dict[str, Recorded]:
    """All scenarios: live, at a replay, and at a replay after a crash."""
    with server.http() as http:
        found = {name: record(server, http, scenario) for name, scenario in SCENARIOS.items()}
    for each in found.values():
        each.replay()
    server.kill()
    server.start()
    for each in found.values():
        each.replay()
    return found


each_scenario = pytest.mark.parametrize("scenario", SCENARIOS)
each_door = pytest.mark.parametrize("door", DOORS)


@each_door
@each_scenario
def test_a_replay_shows_what_was_shown_live(recorded: dict[str, Recorded], scenario: str, door: str) -> None:
    told = recorded[scenario]
    live, (replayed, after_a_crash) = told.live[door], (each[door] for each in told.replays)
    assert after_a_crash == replayed
    if not told.stage.erased:
        assert replayed == live
        return
    assert [frame for frame in live if frame in replayed] == replayed  # what such a run did is gone with it
    for name, data, _ in (frame for frame in live if frame not in replayed):
        assert '"run_done"' not in data or any(run in data for run in told.stage.deleted)
        assert name != "state_update"
        assert [run for run in set(told.stage.runs) - set(told.stage.erased) if run in data] == []


@each_scenario
def test_the_stream_of_a_run_shows_at_a_replay_what_it_has_shown_live(
    recorded: dict[str, Recorded], scenario: str
) -> None:
    told = recorded[scenario]
    for run in told.stage.streams:
        (name, data, _), *more = missing = told.replays[0][run] or [("", "", "")]
        if run in told.stage.erased:
            assert (name, json.loads(data)["message"], more) == ("error", "404: Run not found", [])
        else:
            assert told.replays[0][run] == told.live[run], missing
        assert told.replays[1][run] == told.replays[0][run]


@pytest.mark.parametrize("door", ["thread stream, run_modes", "thread stream, lifecycle"])
@each_scenario
def test_each_run_has_its_end_in_a_threads_stream(recorded: dict[str, Recorded], scenario: str, door: str) -> None:
    """Once, whatever became of the run: who waits for it is let go. Of a run that was deleted nothing is left."""
    told = recorded[scenario]
    for number, frames in enumerate((told.live[door], *(each[door] for each in told.replays))):
        ends = [json.loads(data)["run_id"] for _, data, _ in frames if '"run_done"' in data]
        left = [run for run in told.stage.runs[:-1] if not number or run not in told.stage.deleted]
        assert sorted(ends) == sorted(left)


@each_door
@each_scenario
def test_who_comes_back_sees_what_they_have_missed(recorded: dict[str, Recorded], scenario: str, door: str) -> None:
    """Also who was amid a run that is erased."""
    told = recorded[scenario]
    whole = told.replays[1][door]

    def place(frame: Frame) -> list[int]:
        return list(map(int, frame[2].split("-")))

    *before, _ = told.live[door]
    for seen in {*before[:1], *before[len(before) // 3 :][:1], *before[-1:]}:
        again = DOORS[door](told.stage, threading.Event(), seen[2])
        assert again == [frame for frame in whole if place(frame) > place(seen)]


async def test_an_event_is_not_lost_for_an_end_that_was_kept_before_it(tmp_path: Path) -> None:
    """A run that waits is cancelled while the one ahead of it has told what is not stored yet."""
    database, logs = devserver.Db(str(tmp_path / "late.db")), devserver.Logs()
    await database.open()
    server: Any = types.SimpleNamespace(db=database, auth=None)
    server.runner = types.SimpleNamespace(logs=logs)
    early = devserver.Event(devserver.event_id(), "values", b"{}", run_id="ahead")
    done = devserver.Event(devserver.event_id(), devserver.RUN_DONE, b"{}", run_id="behind")

    def keep(conn: sqlite3.Connection) -> None:
        devserver.Threads(conn).insert("thread", {}, {}, None)
        devserver.Events(conn).append("thread", [done])

    await database.write(keep)
    follower = devserver.Follower()
    joined = logs.follow_thread("thread", follower)
    tape = devserver.thread_tape(server, "thread", joined, follower, (0, -1))
    assert await anext(tape) == [done]
    for each in (done, early):
        logs.tell_thread("thread", each)
    logs.close_all()
    assert [event async for batch in tape for event in batch] == [early]
    await database.close()

"""`devserver cron`: crons listed and fired from the command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import GRAPHS, LiveServer, eventually

import devserver

FILES = {"basic.py": (GRAPHS / "basic.py").read_text()}
NEVER = "0 0 1 1 *"


@pytest.fixture
def live(make_server: Callable[..., LiveServer]) -> LiveServer:
    return make_server({"steps": "./basic.py:steps"}, FILES, "--no-reload")


def cron(live: LiveServer, *arguments: str) -> Result:
    """`devserver cron`, as if run beside the langgraph.json of a server."""
    return CliRunner().invoke(
        devserver.main, ["cron", *arguments, "--config", str(live.folder / "langgraph.json")], catch_exceptions=False
    )


def made(live: LiveServer, **more: Any) -> Any:
    sent = {"assistant_id": "steps", "schedule": NEVER, "input": {"text": "fired"}, "on_run_completed": "keep", **more}
    with live.http() as http:
        return http.post("/runs/crons", json=sent).raise_for_status().json()


def test_crons_are_listed_alike_by_a_server_and_without_one(live: LiveServer) -> None:
    assert cron(live, "list").output == ""
    first, second = made(live, timezone="Europe/Berlin"), made(live, enabled=False)
    with live.http() as http:
        thread_id = http.post("/threads", json={}).json()["thread_id"]
        third = http.post(
            f"/threads/{thread_id}/runs/crons", json={"assistant_id": "steps", "schedule": "@daily"}
        ).json()
    listed = cron(live, "list")
    assert listed.exit_code == 0
    assistant = f"assistant {first['assistant_id']}"
    assert listed.output.splitlines() == [
        f"{third['cron_id']}  @daily (UTC)  next {third['next_run_date']}  {assistant}  thread {thread_id}",
        f"{second['cron_id']}  {NEVER} (UTC)  disabled  {assistant}  new threads",
        f"{first['cron_id']}  {NEVER} (Europe/Berlin)  next {first['next_run_date']}  {assistant}  new threads",
    ]
    assert live.stop() == 0
    assert cron(live, "list").output == listed.output
    live.start().kill()
    assert cron(live, "list").output == listed.output  # by the file: what a crash left behind names nobody


def test_all_crons_are_listed_however_many(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    crons = [made(live)["cron_id"] for _ in range(5)]
    monkeypatch.setattr(devserver, "CRONS_AT_ONCE", 2)
    assert re.findall(r"^\S+", cron(live, "list").output, re.M) == crons[::-1]


async def test_a_fired_cron_makes_its_run_at_once(live: LiveServer) -> None:
    for each in (made(live, metadata={"by": "cron"}), made(live, enabled=False, metadata={"by": "cron"})):
        fired = cron(live, "fire", each["cron_id"])
        assert fired.exit_code == 0
        found = re.fullmatch(r"run (\S+) on thread (\S+)\n", fired.output)
        assert found
        with live.http() as http:
            assert http.get(f"/threads/{found[2]}/runs/{found[1]}/join").json()["text"] == "fired!"
            run = http.get(f"/threads/{found[2]}/runs/{found[1]}").json()
            assert run["metadata"]["by"] == "cron"
            assert run["kwargs"]["config"]["configurable"]["cron_id"] == each["cron_id"]
            assert http.get(f"/runs/crons/{each['cron_id']}").json() == each  # its schedule goes on as before


async def test_a_fired_cron_of_a_thread_runs_there_and_leaves_no_other_trace(live: LiveServer) -> None:
    with live.http() as http:
        thread_id = http.post("/threads", json={}).json()["thread_id"]
        sent = {"assistant_id": "steps", "schedule": NEVER, "input": {"text": "a"}}
        mine = http.post(f"/threads/{thread_id}/runs/crons", json=sent).json()
        assert f"on thread {thread_id}\n" in cron(live, "fire", mine["cron_id"]).output
        await eventually(lambda: http.get(f"/threads/{thread_id}").json()["values"])
        temporary = made(live, on_run_completed="delete")
        assert cron(live, "fire", temporary["cron_id"]).exit_code == 0
        await eventually(lambda: len(http.post("/threads/search", json={}).json()) == 1)


def test_what_cannot_be_fired_says_why(live: LiveServer) -> None:
    for cron_id, status in (("00000000-0000-0000-0000-000000000000", 404), ("nonsense", 422)):
        refused = cron(live, "fire", cron_id)
        assert refused.exit_code == 1
        assert refused.output.startswith(f"Error: {live.url}/runs/crons/{cron_id}/fire answered {status}: ")
    mine = made(live)
    assert live.stop() == 0
    refused = cron(live, "fire", mine["cron_id"])
    assert refused.exit_code == 1
    assert "no running server has" in refused.output


def test_a_server_may_be_named(live: LiveServer, tmp_path: Path) -> None:
    mine = made(live)
    elsewhere = ["--config", str(tmp_path / "langgraph.json")]
    runner = CliRunner()
    listed = runner.invoke(devserver.main, ["cron", "list", *elsewhere, "--url", live.url, "--header", "x-a: b"])
    assert mine["cron_id"] in listed.output
    refused = runner.invoke(devserver.main, ["cron", "list", *elsewhere])
    assert refused.exit_code == 1
    assert "there is no database" in refused.output
    refused = runner.invoke(devserver.main, ["cron", "list", *elsewhere, "--url", "http://127.0.0.1:1"])
    assert refused.exit_code == 1
    assert "http://127.0.0.1:1/runs/crons/search cannot be reached" in refused.output
    (tmp_path / "other.db").write_text("this is no database" * 100)
    refused = runner.invoke(devserver.main, ["cron", "list", *elsewhere, "--db", str(tmp_path / "other.db")])
    assert refused.exit_code == 1
    assert "other.db: it is no SQLite database (file is not a database)" in refused.output


def test_a_second_server_is_still_told_who_has_the_database(live: LiveServer) -> None:
    assert devserver.server_address(str(live.folder / "devserver.db")) == live.url
    with pytest.raises(AssertionError, match=rf"in use by another devserver \(pid {live.process.pid}\)"):  # type: ignore[union-attr]
        LiveServer(live.folder).start()

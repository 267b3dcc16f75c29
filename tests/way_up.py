"""For the tests of push and pull: a server with something of everything, and what a server holds, read with the SDK."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import GRAPHS, ROOT, LiveServer, write_project
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.client import LangGraphClient

MARK = "devserver_copy"
GRAPH_IDS = ("trip", "joined", "talk", "asked", "jumping", "broken", "sums")
SERVED = {name: f"./travel.py:{name}" for name in GRAPH_IDS}
Contents = dict[str, dict[str, Any]]


def write_travel(folder: Path, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_project(folder, SERVED, {"travel.py": (GRAPHS / "travel.py").read_text()}, **settings)
    return folder


def start(folder: Path, *options: str, **settings: Any) -> LiveServer:
    return LiveServer(write_travel(folder, **settings), ["--no-reload", *options]).start()


def way_up(command: str, folder: Path, *arguments: str, status: int | None = 0, **environment: str) -> Any:
    """Run push or pull in a folder, and return its report."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    line = [sys.executable, "-m", "devserver", command, *arguments, "--json"]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=200)
    assert status in (None, done.returncode), (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.stderr


def counts(report: Any) -> dict[str, tuple[int, int, int]]:
    """How many of each kind were copied, there, and refused."""
    return {kind: tuple(row.values()) for kind, row in report["kinds"].items()}


def fill(url: str, crons: bool = True) -> dict[str, str]:
    """Fill a server."""
    client = get_sync_client(url=url, api_key=None)
    try:
        return fill_with(client, crons)
    finally:
        client.http.client.close()


def fill_with(client: Any, crons: bool) -> dict[str, str]:
    """Make something of everything, and return the ids of the threads by name."""
    ids: dict[str, str] = {}

    def thread(name: str) -> str:
        ids[name] = client.threads.create(metadata={"title": name, "tags": ["a", {"b": 1}]})["thread_id"]
        return ids[name]

    def run(name: str, graph: str, given: Any, **options: Any) -> None:
        client.runs.wait(ids[name], graph, input=given, raise_error=False, **options)

    for text in ("hello", "the weather?", "bye"):
        run(
            "talk" if "talk" in ids else thread("talk") and "talk",
            "talk",
            {"messages": [{"role": "user", "content": text}]},
        )
    for name in ("trip", "joined", "jumping", "broken"):
        thread(name)
        run(name, name, {"mood": "cold"})
        run(name, name, {"mood": "broken", "miles": 3})
    run(thread("sums") and "sums", "sums", [1, 2])
    run("sums", "sums", [3])
    run(thread("asked") and "asked", "asked", {"mood": "sure"})
    run("asked", "asked", {"mood": "unsure"})
    run(thread("asked at once") and "asked at once", "asked", {"mood": "unsure"})
    run(thread("stopped") and "stopped", "trip", {"mood": "slow"}, interrupt_before=["north"])
    client.threads.update_state(ids["stopped"], {"mood": "patient", "stops": ["gate"]})
    client.threads.update_state(ids["trip"], {"stops": ["by hand"]})
    run(thread("exit") and "exit", "trip", {"mood": "hasty"}, durability="exit")
    thread("empty")
    for number in range(3):
        client.store.put_item(["places", "north"], f"cape {number}/ä", {"n": number, "list": [1, {"x": None}]})
    own = client.assistants.create("trip", name="tour", context={"size": 1}, metadata={"team": "x"}, description="d")
    client.assistants.update(own["assistant_id"], name="grand tour", context={"size": 2}, metadata={"team": "y"})
    client.assistants.update(own["assistant_id"], graph_id="talk", config={"tags": ["t"], "recursion_limit": 7})
    client.assistants.set_latest(own["assistant_id"], 2)
    other = client.assistants.create("asked", config={"configurable": {"user_id": "u"}})
    if crons:
        client.crons.create(
            own["assistant_id"], schedule="* * * * *", input={"mood": "daily"}, timezone="Europe/Rome",
            webhook="http://127.0.0.1:9/hook", metadata={"cron": 1},
            config={"configurable": {"x-token": "secret", "speed": 3}},
        )  # fmt: skip
        client.crons.create_for_thread(ids["trip"], "trip", schedule="0 0 1 1 *", input={})
    ids["tour"], ids["other"] = own["assistant_id"], other["assistant_id"]
    return ids


def bare(value: Any) -> Any:
    """A value without empty members of objects, and without the marks of copies."""
    if isinstance(value, dict):
        members = {key: bare(member) for key, member in value.items() if key != MARK}
        return {key: member for key, member in members.items() if member not in (None, [], {})}
    return [bare(member) for member in value] if isinstance(value, list) else value


async def contents(client: LangGraphClient, crons: bool = True) -> Contents:
    """What a server holds, as the SDK reads it, without ids that each server makes itself and moments."""
    found: Contents = {"threads": {}, "histories": {}, "items": {}, "assistants": {}, "crons": {}}
    for thread in await client.threads.search(limit=1000):
        name = str(thread["thread_id"])
        metadata = {key: value for key, value in (thread["metadata"] or {}).items() if key != "assistant_id"}
        state = await client.threads.get_state(name)
        found["threads"][name] = bare({"metadata": metadata, "values": state["values"], "next": state["next"]})
        history = await client.threads.get_history(name, limit=1000)
        found["histories"][name] = [bare([state["values"], sorted(state["next"])]) for state in history]
    for item in (await client.store.search_items((), limit=100))["items"]:
        found["items"][".".join(item["namespace"]) + "/" + item["key"]] = item["value"]
    for assistant in await client.assistants.search(limit=100):
        if (assistant["metadata"] or {}).get("created_by") == "system":
            continue
        fields = ("graph_id", "name", "description", "config", "context", "metadata", "version")
        versions = await client.assistants.get_versions(assistant["assistant_id"], limit=100)
        told = [bare({field: each.get(field) for field in fields}) for each in [assistant, *versions]]
        found["assistants"][assistant["assistant_id"]] = told
    for cron in await client.crons.search(limit=100) if crons else []:
        found["crons"][cron["schedule"]] = bare({
            **{key: cron.get(key) for key in ("timezone", "thread_id", "enabled", "assistant_id", "on_run_completed")},
            "metadata": cron["metadata"], "input": cron["payload"].get("input"),
            "webhook": cron["payload"].get("webhook"), "config": cron["payload"].get("config"),
        })  # fmt: skip
    return found


async def held_by(url: str) -> Contents:
    """The same, by address."""
    client = get_client(url=url, api_key=None)
    try:
        return await contents(client)
    finally:
        await client.aclose()

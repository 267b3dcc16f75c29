"""Webhooks: what is POSTed when a run ends, how often, and where it may go."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually
from langgraph_sdk.client import LangGraphClient

import devserver

SERVED = {name: f"./basic.py:{name}" for name in ("steps", "failing", "gated", "question")}


class Receiver(ThreadingHTTPServer):
    """Somebody who is told: keeps what comes, and answers with `statuses` in turn, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str, Any]] = []
        self.headers: list[Message] = []
        self.times: list[float] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/told?by=us"

    async def told(self, count: int = 1) -> Any:
        """The last of so many payloads."""
        await eventually(lambda: len(self.got) >= count)
        return self.got[count - 1][2]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver = self.server
        assert isinstance(receiver, Receiver)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        receiver.times.append(time.monotonic())
        receiver.headers.append(self.headers)
        receiver.got.append((self.path, self.headers["content-type"], body))
        self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


async def new_thread(client: LangGraphClient) -> str:
    return (await client.threads.create())["thread_id"]


# What is told


@pytest.mark.parametrize("how", ["create", "wait", "stream"])
async def test_the_end_of_a_run_is_told(client: LangGraphClient, receiver: Receiver, how: str) -> None:
    thread_id = await new_thread(client)
    if how == "create":
        await client.runs.create(thread_id, "steps", input={"text": "a"}, webhook=receiver.url)
    elif how == "wait":
        await client.runs.wait(thread_id, "steps", input={"text": "a"}, webhook=receiver.url)
    else:
        parts = client.runs.stream(thread_id, "steps", input={"text": "a"}, webhook=receiver.url)
        assert len([part async for part in parts]) == 5
    told = await receiver.told()
    [run] = await client.runs.list(thread_id)
    assert {**told, "updated_at": run["updated_at"]}.items() >= run.items()
    assert told["status"] == "success"
    assert told["values"] == {"text": "a!", "trail": ["first", "second", "third"], "total": 111}
    assert told["run_started_at"] <= told["run_ended_at"] <= told["webhook_sent_at"]
    assert "error" not in told
    assert told["kwargs"]["webhook"] == receiver.url
    assert receiver.got[0][:2] == ("/told?by=us", "application/json")
    await asyncio.sleep(0.1)
    assert len(receiver.got) == 1


async def test_a_failure_is_told_with_its_error(client: LangGraphClient, receiver: Receiver) -> None:
    await client.runs.create(await new_thread(client), "failing", input={"kind": "own"}, webhook=receiver.url)
    told = await receiver.told()
    assert told["status"] == "error"
    assert told["error"] == {"error": "UnheardError", "message": "nobody knows this class"}
    assert told["values"]["trail"] == ["prepared"]


async def test_a_question_is_told_as_the_success_it_is(client: LangGraphClient, receiver: Receiver) -> None:
    await client.runs.create(await new_thread(client), "question", input={"topic": "tea"}, webhook=receiver.url)
    told = await receiver.told()
    assert (told["status"], told["values"]["draft"]) == ("success", "about tea")


@pytest.mark.parametrize(
    ("action", "status", "error", "values"),
    [("interrupt", "interrupted", "UserInterrupt", ["before"]), ("rollback", "rollback", "UserRollback", None)],
)
async def test_a_cancelled_run_is_told(
    client: LangGraphClient, receiver: Receiver, tmp_path: Path, action: Any, status: str, error: str, values: Any
) -> None:
    thread_id = await new_thread(client)
    given = {"gate": str(tmp_path / "never")}
    run = await client.runs.create(thread_id, "gated", input=given, webhook=receiver.url)

    async def is_at_the_gate() -> bool:
        return (await client.threads.get_state(thread_id))["next"] == ["wait"]

    await eventually(is_at_the_gate)
    await client.runs.cancel(thread_id, run["run_id"], action=action)
    told = await receiver.told()
    assert (told["status"], told["error"]["error"]) == (status, error)
    assert (told["values"] and told["values"]["trail"]) == values


async def test_a_temporary_run_is_told_without_values(client: LangGraphClient, receiver: Receiver) -> None:
    run: Any = await client.runs.create(None, "steps", input={}, webhook=receiver.url)
    told = await receiver.told()
    assert (told["run_id"], told["status"], told["values"]) == (run["run_id"], "success", None)
    assert told["kwargs"]["temporary"] is True


async def test_each_run_of_a_batch_is_told(client: LangGraphClient, receiver: Receiver) -> None:
    items: Any = [{"assistant_id": "steps", "input": {"text": str(n)}, "webhook": receiver.url} for n in range(5)]
    made: Any = await client.runs.create_batch(items)
    await receiver.told(5)
    assert {told["run_id"] for _, _, told in receiver.got} == {run["run_id"] for run in made}


# How often


async def test_a_receiver_in_trouble_is_told_again(client: LangGraphClient, receiver: Receiver) -> None:
    receiver.statuses = [500, 429]
    await client.runs.create(await new_thread(client), "steps", input={}, webhook=receiver.url)
    await receiver.told(3)
    assert receiver.got[0] == receiver.got[1] == receiver.got[2]
    assert receiver.times[1] - receiver.times[0] > 0.3
    await asyncio.sleep(0.2)
    assert len(receiver.got) == 3


async def test_a_receiver_that_has_answered_is_not_told_again(client: LangGraphClient, receiver: Receiver) -> None:
    receiver.statuses = [204, 301, 400, 404, 422]
    for _ in range(5):
        await client.runs.create(await new_thread(client), "steps", input={}, webhook=receiver.url)
    await receiver.told(5)
    await asyncio.sleep(0.7)
    assert len({told["run_id"] for _, _, told in receiver.got}) == len(receiver.got) == 5


async def test_a_receiver_that_is_not_there_disturbs_nobody(
    client: LangGraphClient, server: LiveServer, receiver: Receiver
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        unreachable = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        thread_id = await new_thread(client)
        done: Any = await client.runs.wait(thread_id, "steps", input={}, webhook=unreachable)
        assert done["total"] == 111
        await client.runs.wait(thread_id, "steps", input={}, webhook=receiver.url)
        assert (await receiver.told())["values"]["total"] == 222
        await eventually(lambda: f"webhook {unreachable}" in server.log)
    assert "given up after 4 tries" in server.log

    def left() -> int:
        with closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
            query = "SELECT count(*) FROM webhooks WHERE url = ?"
            return int(conn.execute(query, (unreachable,)).fetchone()[0])

    await eventually(lambda: left() == 0)


async def test_what_was_not_told_before_a_crash_is_told_after_it(
    make_server: Callable[..., LiveServer], receiver: Receiver
) -> None:
    receiver.statuses = [503, 503]
    files = {"basic.py": (GRAPHS / "basic.py").read_text()}
    live = make_server({"steps": "./basic.py:steps"}, files, "--no-reload")
    with live.http() as http:
        body = {"assistant_id": "steps", "input": {"text": "a"}, "webhook": receiver.url, "on_completion": "keep"}
        run = http.post("/runs", json=body).json()
    await receiver.told()
    live.kill()
    count = len(receiver.got)
    receiver.statuses = []
    live.start()
    told = await receiver.told(count + 1)
    assert (told["run_id"], told["status"], told["values"]["text"]) == (run["run_id"], "success", "a!")


# Where to


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("http://" + "x" * 4100, "Webhook URL too long"),
        ("ftp://localhost/x", "Webhook host blocked: scheme 'ftp' not allowed"),
        ("file:///etc/passwd", "Webhook host blocked: scheme 'file' not allowed"),
        ("javascript:alert(1)", "Webhook host blocked: scheme 'javascript' not allowed"),
        ("relative", "Webhook host blocked: scheme '' not allowed"),
        ("//localhost/x", "Webhook host blocked: scheme '' not allowed"),
        ("localhost:8000/x", "Webhook host blocked: scheme 'localhost' not allowed"),
        ("http:///x", "Invalid webhook hostname ''"),
        ("http://[::1", "Invalid webhook URL"),
        ("http://localhost:99999/x", "Invalid webhook URL"),
        ("http://localhost:x/", "Invalid webhook URL"),
        ("http://a..b/x", "Webhook host blocked: DNS resolution failed"),
        ("http://nobody.invalid/x", "Webhook host blocked: DNS resolution failed"),
        ("http://169.254.169.254/latest/meta-data", "Webhook host blocked: blocked IP range"),
        ("http://2852039166/", "Webhook host blocked: blocked IP range"),
        ("http://[fe80::1]/", "Webhook host blocked: blocked IP range"),
        ("http://[::ffff:169.254.169.254]/", "Webhook host blocked: blocked IP range"),
    ],
)
def test_some_places_are_told_nothing(http: httpx.Client, url: str, detail: str) -> None:
    thread_id = http.post("/threads", json={}).json()["thread_id"]
    body = {"assistant_id": "steps", "input": {}, "webhook": url}
    for ending in ("", "/wait", "/stream"):
        refused = http.post(f"/threads/{thread_id}/runs{ending}", json=body)
        assert refused.status_code == 422
        assert refused.json()["detail"].startswith(detail)
    assert http.get(f"/threads/{thread_id}/runs").json() == []


@pytest.mark.parametrize(
    ("url", "rules", "detail"),
    [
        ("http://localhost/x", None, None),
        ("http://127.0.0.1/x", None, None),
        ("http://[::1]/x", None, None),
        ("http://10.0.0.1/x", None, None),
        ("/x", None, None),
        ("/x", {"disable_loopback": True}, "webhooks.url.disable_loopback forbids relative URLs"),
        ("http://10.0.0.1/x", {}, "scheme 'http' not allowed"),
        ("http://10.0.0.1/x", {"disable_loopback": False}, "scheme 'http' not allowed"),
        ("https://10.0.0.1/x", {"disable_loopback": False}, None),
        ("https://127.0.0.1/x", {"disable_loopback": False}, None),
        ("http://127.0.0.1/x", {"require_https": False, "disable_loopback": False}, None),
        ("http://127.0.0.1/x", {"require_https": False, "disable_loopback": True}, "loopback IP range"),
        ("https://localhost/x", {"disable_loopback": True}, "loopback IP range"),
        ("https://[::ffff:127.0.0.1]/x", {"disable_loopback": True}, "loopback IP range"),
        ("https://0.0.0.0/x", {"disable_loopback": True}, "loopback IP range"),
        ("https://10.0.0.1/x", {"disable_loopback": True}, None),
    ],
)
def test_langgraph_json_may_forbid_more(url: str, rules: dict[str, Any] | None, detail: str | None) -> None:
    allowed = devserver.WebhookSettings.model_validate({"url": rules}).url
    if detail is None:
        devserver.check_webhook(url, allowed)
    else:
        with pytest.raises(devserver.Invalid, match=f"Webhook host blocked: {detail}"):
            devserver.check_webhook(url, allowed)


async def test_a_proxy_is_used_for_webhooks_elsewhere_but_not_for_this_machines(
    make_server: Callable[..., LiveServer], receiver: Receiver
) -> None:
    proxy = f"http://127.0.0.1:{receiver.server_port}"
    basic = (GRAPHS / "basic.py").read_text()
    env = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    direct = make_server({"steps": "./basic.py:steps"}, {"basic.py": basic}, env=env).client()
    for count, host in enumerate(("127.0.0.1", "localhost"), 1):
        url = receiver.url.replace("127.0.0.1", host)
        await direct.runs.wait(await new_thread(direct), "steps", input={}, webhook=url)
        assert (await receiver.told(count))["status"] == "success"
    by_proxy = make_server({"steps": "./basic.py:steps"}, {"basic.py": basic}, env={"HTTP_PROXY": proxy}).client()
    await by_proxy.runs.wait(await new_thread(by_proxy), "steps", input={}, webhook="http://192.0.2.1/elsewhere")
    await receiver.told(3)
    assert receiver.got[2][0] == "http://192.0.2.1/elsewhere"
    await direct.aclose()
    await by_proxy.aclose()

"""Requests that the OpenAPI document allows, and some that it forbids: whatever comes, the answer is one that the
document names, with the body it promises, and never a 5xx.

A few hundred requests with the other tests, if the extra `fuzz` is installed;
`DEVSERVER_FUZZ=10000 pytest tests/fuzz --log-cli-level=INFO` sends ten thousand and says what came back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from conftest import LiveServer
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

import devserver

schemathesis = pytest.importorskip("schemathesis", reason="needs the extra 'fuzz'")
requests = pytest.importorskip("requests")

log = logging.getLogger(__name__)
REQUESTS = int(os.environ.get("DEVSERVER_FUZZ", "400"))
SERVED = {name: f"./basic.py:{name}" for name in ("steps", "question", "failing", "context", "nested", "chat")}
AGENT_METHODS = ["message/send", "message/stream", "tasks/get", "tasks/cancel", "SendMessage", "ListTasks", "nope"]
REFUSALS = {"GET /mcp/", "DELETE /mcp/"}
# Of these only the head of the answer is read; what comes then is tested in test_stream.py.
ENDLESS = {("GET", "/threads/{thread_id}/stream"), ("POST", "/threads/{thread_id}/stream/events")}


@dataclass
class Fuzz:
    """Sends the cases of a document to a server, with ids of what is there, and notes what breaks a promise."""

    url: str
    http: httpx.Client
    checks: list[Any]
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    there: dict[str, str] = field(default_factory=dict)
    pending: dict[str, str] = field(default_factory=dict)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)

    def send_several(self, cases: Any, count: int, number: int) -> None:
        options = settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with a request that takes nothing
            options(seed(number)(given(case=cases)(lambda case: self.try_out(case))))()

    def try_out(self, case: Any) -> None:
        self._aim(case)
        answer = self._send(case)
        operation = f"{case.method} {case.operation.path}"
        self.statuses[operation, answer.status_code] += 1
        try:
            if not is_bare_label(answer):
                case.validate_response(answer, checks=self.checks)
        except schemathesis.checks.FailureGroup as group:
            for failure in group.exceptions:
                found = f"{operation} {answer.status_code} {type(failure).__name__}"
                sent = case.as_curl_command()[:1500]
                self.problems.setdefault(found, f"{str(failure)[:500]}\n{answer.text[:500]}\n{sent}")

    def _aim(self, case: Any) -> None:
        """Most ids are of something that is there, most words are of the right kind, and no run starts hours later."""
        there = self.there | (self.pending if case.path.endswith("/cancel") else {})
        for place in filter(None, (case.path_parameters, case.query)):
            for name in place:
                if name in there and self.dice.random() < 0.9:
                    place[name] = there[name]
        for body in case.body if isinstance(case.body, list) else [case.body]:
            if isinstance(body, dict):
                self._aim_body(case.operation.path, body)

    def _aim_body(self, path: str, body: dict[str, Any]) -> None:
        likely: dict[str, list[Any]] = {
            "graph_id": list(SERVED),
            "assistant_id": [*SERVED, self.there["assistant_id"]],
            "schedule": ["@yearly", "0 0 1 1 *", "7 3 29 2 *"],
            "timezone": ["UTC", "Europe/Berlin", None],
            "end_time": ["2031-01-01T00:00:00Z", "1999-12-31", None],
            "webhook": [None],
            "as_node": ["first", "publish", "__start__", "__end__", None],
            "version": [1, 2],
            "channels": [["values"], ["lifecycle", "input", "custom:a"]],
        }
        if path == "/mcp/":
            body |= {"jsonrpc": "2.0", "id": 1, "method": self.dice.choice(["initialize", "tools/list", "tools/call"])}
            body["params"] = {"name": self.dice.choice([*SERVED, "nope"]), "arguments": body.get("params")}
        if path.startswith("/a2a/"):
            message = {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]}
            body |= {"jsonrpc": "2.0", "id": 1, "method": self.dice.choice(AGENT_METHODS)}
            body["params"] = {"message": message, "id": f"{self.there['thread_id']}:{self.there['run_id']}"}
        if path.endswith("/commands"):
            likely["method"] = ["run.start", "input.respond", "agent.getTree", "subscription.subscribe"]
            body["params"] = {**body["params"], "assistant_id": "steps"} if isinstance(body.get("params"), dict) else 5
        if path == "/runs/cancel" and self.dice.random() < 0.5:
            body.clear()
            body |= {"thread_id": self.pending["thread_id"], "run_ids": [self.pending["run_id"]]}
        for name in sorted(likely.keys() & body.keys()):
            if self.dice.random() < 0.9:
                body[name] = self.dice.choice(likely[name])
        if isinstance(body.get("after_seconds"), int | float):
            body["after_seconds"] = min(body["after_seconds"], 0.05)

    def _send(self, case: Any) -> httpx.Response:
        """The answer; of a stream that never ends only its head."""
        path = case.operation.path
        kwargs = case.as_transport_kwargs(base_url=self.url)
        kwargs["url"] = kwargs["url"].removesuffix("/") if path == "/mcp/" else kwargs["url"]
        accept = {"accept": "application/json"} if path == "/mcp/" else {}
        made = requests.Request(**{k: v for k, v in kwargs.items() if k in REQUEST_FIELDS}).prepare()
        made.headers.update(accept)
        headers = [(k.encode(), v if isinstance(v, bytes) else v.encode()) for k, v in made.headers.items()]
        with self.http.stream(made.method, made.url, headers=headers, content=made.body) as answer:
            endless = (case.method, path) in ENDLESS and answer.status_code == 200
            content = b"" if endless else b"".join(in_time(answer.iter_raw()))
        read = httpx.Response(answer.status_code, headers=answer.headers, content=content, request=answer.request)
        read.elapsed = answer.elapsed
        return read

    def settle(self) -> None:
        """Something to ask for: a thread that waits for an answer, a pending run, an assistant, a cron, an item."""

        def made(method: str, path: str, **body: Any) -> Any:
            answer = self.http.request(method, path, json=body).raise_for_status()
            return answer.json() if answer.content else None

        thread_id = made("POST", "/threads", metadata={"graph_id": "question"})["thread_id"]
        made("POST", f"/threads/{thread_id}/runs/wait", assistant_id="question", input={"topic": "tea"})
        [run] = self.http.get(f"/threads/{thread_id}/runs").json()
        self.pending = made("POST", "/runs", assistant_id="steps", after_seconds=3600)
        state = self.http.get(f"/threads/{thread_id}/state").json()
        made("PUT", "/store/items", namespace=["a", "b"], key="k", value={"n": 1})
        self.there = {
            "thread_id": thread_id,
            "run_id": run["run_id"],
            "checkpoint_id": state["checkpoint_id"],
            "assistant_id": made("POST", "/assistants", graph_id=self.dice.choice(list(SERVED)))["assistant_id"],
            "cron_id": made("POST", "/runs/crons", assistant_id="steps", schedule="@yearly")["cron_id"],
        }


REQUEST_FIELDS = ("method", "url", "headers", "params", "data", "json", "cookies", "files")
PROMISES = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


def in_time(parts: Iterator[bytes], seconds: float = 60) -> Iterator[bytes]:
    """Runs that are waited for end soon; white space must not keep a client waiting for ever."""
    until = time.monotonic() + seconds
    for part in parts:
        yield part
        assert time.monotonic() < until


def is_bare_label(answer: httpx.Response) -> bool:
    """What the store says of a bad label is text without a content type, as in the API."""
    return (
        answer.status_code == 422
        and "content-type" not in answer.headers
        and answer.text.startswith("Namespace label '")
        and answer.request.url.path.startswith("/store/")
    )


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """The document, with answers that may have no field it does not name."""
    document = deepcopy(document)
    for name in devserver.RESPONSES:
        document["components"]["schemas"][name]["additionalProperties"] = False
    return document


@pytest.fixture(scope="module")
def fuzz(server: LiveServer) -> Iterator[Fuzz]:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    schemathesis.checks.load_all_checks()
    with server.http() as http:
        yield Fuzz(server.url, http, schemathesis.checks.CHECKS.get_by_names(PROMISES))


@pytest.mark.long
@pytest.mark.timeout(0)  # as many requests as are asked for
def test_every_answer_is_one_that_the_document_promises(fuzz: Fuzz) -> None:
    document = closed(fuzz.http.get("/openapi.json").json())
    operations = [each.ok() for each in schemathesis.openapi.from_dict(document).get_all_operations()]
    number = 0
    while sum(fuzz.statuses.values()) < REQUESTS:
        for operation in operations:
            fuzz.settle()
            for mode in schemathesis.GenerationMode:
                fuzz.send_several(operation.as_strategy(generation_mode=mode), max(3, REQUESTS // 1000), number)
        number += 1
    log.info("%d requests: %s", sum(fuzz.statuses.values()), dict(sorted(fuzz.statuses.items())))
    assert fuzz.problems == {}, "\n\n".join(f"{what}\n{how}" for what, how in fuzz.problems.items())
    assert fuzz.http.get("/ok").status_code == 200
    reached = {operation for operation, status in fuzz.statuses if status < 300}
    if REQUESTS >= 2000:
        assert {f"{each.method.upper()} {each.path}" for each in operations} - reached == REFUSALS

"""What is checked when something is made is checked when it is changed, and who may change things."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually, write_project
from langgraph_sdk.client import LangGraphClient
from test_webhooks import Receiver, receiver

import devserver

__all__ = ["receiver"]  # a fixture

SERVED = {**{name: f"./basic.py:{name}" for name in ("steps", "gated", "question")}, "shared": "./crash.py:steps"}
NO_ID = "nouuid"
LATER = "0 0 1 1 *"


@pytest.fixture
def thread(http: httpx.Client) -> str:
    return str(http.post("/threads", json={}).json()["thread_id"])


# Crons, and the runs they make: each fault at each door


def cron_of(http: httpx.Client, thread: str | None = None, **fields: Any) -> dict[str, Any]:
    path = f"/threads/{thread}/runs/crons" if thread else "/runs/crons"
    body = {"assistant_id": "steps", "schedule": LATER, "input": {}, **fields}
    made: dict[str, Any] = http.post(path, json=body).raise_for_status().json()
    return made


def make_cron(http: httpx.Client, thread: str, fault: dict[str, Any]) -> httpx.Response:
    return http.post("/runs/crons", json={"assistant_id": "steps", "schedule": LATER, **fault})


def make_cron_on_thread(http: httpx.Client, thread: str, fault: dict[str, Any]) -> httpx.Response:
    return http.post(f"/threads/{thread}/runs/crons", json={"assistant_id": "steps", "schedule": LATER, **fault})


def change_cron(http: httpx.Client, thread: str, fault: dict[str, Any]) -> httpx.Response:
    return refused_change(http, cron_of(http), fault)


def change_cron_on_thread(http: httpx.Client, thread: str, fault: dict[str, Any]) -> httpx.Response:
    return refused_change(http, cron_of(http, thread), fault)


def refused_change(http: httpx.Client, cron: dict[str, Any], fault: dict[str, Any]) -> httpx.Response:
    answer = http.patch(f"/runs/crons/{cron['cron_id']}", json=fault)
    assert http.get(f"/runs/crons/{cron['cron_id']}").json() == cron
    return answer


def run_by(path: str) -> Callable[[httpx.Client, str, dict[str, Any]], httpx.Response]:
    def run(http: httpx.Client, thread: str, fault: dict[str, Any]) -> httpx.Response:
        body: Any = {"assistant_id": "steps", "input": {}, **fault}
        answer = http.post(path.format(thread), json=[body] if path.endswith("/batch") else body)
        assert http.get(f"/threads/{thread}/runs").json() == []
        return answer

    return run


RUN_PATHS = ["/threads/{}/runs", "/threads/{}/runs/wait", "/threads/{}/runs/stream"]
RUN_PATHS += ["/runs", "/runs/wait", "/runs/stream", "/runs/batch"]
CRON_DOORS = {door.__name__: door for door in (make_cron, make_cron_on_thread, change_cron, change_cron_on_thread)}
RUN_DOORS = {**CRON_DOORS, **{path: run_by(path) for path in RUN_PATHS}}
BLOCKED = "Webhook host blocked: blocked IP range"
BOTH: dict[str, Any] = {"context": {"a": 1}, "config": {"configurable": {"b": 1}}}
RUN_FAULTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "link-local webhook": ({"webhook": "http://169.254.169.254/"}, 422, BLOCKED),
    "embedded link-local webhook": ({"webhook": "http://[64:ff9b::a9fe:a9fe]/"}, 422, BLOCKED),
    "file webhook": ({"webhook": "file:///etc/passwd"}, 422, "Webhook host blocked: scheme 'file' not allowed"),
    "webhook without a scheme": ({"webhook": "xxxx"}, 422, "Webhook host blocked: scheme '' not allowed"),
    "empty webhook": ({"webhook": ""}, 422, "webhook: "),
    "long webhook": ({"webhook": "http://localhost/" + "x" * 5000}, 422, "Webhook URL too long"),
    "checkpoint_id": ({"checkpoint_id": NO_ID}, 422, "Invalid checkpoint ID"),
    "checkpoint": ({"checkpoint": {"checkpoint_id": NO_ID}}, 422, "Invalid checkpoint ID"),
    "configured checkpoint": ({"config": {"configurable": {"checkpoint_id": NO_ID}}}, 422, "Invalid checkpoint ID"),
    "context and configurable": (BOTH, 400, "Cannot specify both configurable and context."),
    "shared value without scope": ({"assistant_id": "shared"}, 422, "Scope user_id for shared state key 'info'"),
    "assistant": ({"assistant_id": str(uuid.UUID(int=0))}, 404, ""),
    "config": ({"config": 5}, 422, "config: "),
    "tags": ({"config": {"tags": 5}}, 422, "config.tags: "),
    "recursion_limit": ({"config": {"recursion_limit": "x"}}, 422, "config.recursion_limit: "),
    "context": ({"context": 5}, 422, "context: "),
    "metadata": ({"metadata": 5}, 422, "metadata: "),
    "command": ({"command": 5}, 422, "command: "),
    "stream_mode": ({"stream_mode": "x"}, 422, "stream_mode: "),
    "multitask_strategy": ({"multitask_strategy": "x"}, 422, "multitask_strategy: "),
    "interrupt_before": ({"interrupt_before": 5}, 422, "interrupt_before: "),
    "durability": ({"durability": "x"}, 422, "durability: "),
    "after_seconds": ({"after_seconds": 1e99}, 422, "after_seconds: "),
}
CRON_FAULTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "schedule": ({"schedule": "x"}, 422, "Invalid cron schedule: 'x'"),
    "timezone": ({"timezone": "Mars"}, 422, "Invalid timezone: 'Mars'"),
    "end_time": ({"end_time": "soon"}, 422, "end_time: 'soon' is not"),
    "enabled": ({"enabled": "x"}, 422, "enabled: "),
    "on_run_completed": ({"on_run_completed": "x"}, 422, "on_run_completed: "),
}


@pytest.mark.parametrize(
    ("door", "fault"),
    [
        *((door, fault) for door in RUN_DOORS for fault in RUN_FAULTS),
        *((door, fault) for door in CRON_DOORS for fault in CRON_FAULTS),
    ],
)
def test_a_faulty_run_is_refused_at_every_door(http: httpx.Client, thread: str, door: str, fault: str) -> None:
    fields, status, detail = (RUN_FAULTS | CRON_FAULTS)[fault]
    answer = RUN_DOORS[door](http, thread, fields)
    assert (answer.status_code, answer.json()["detail"][: len(detail)]) == (status, detail)


@pytest.mark.parametrize(
    ("kept", "patch", "status"),
    [
        ({"context": {"a": 1}}, {"config": {"configurable": {"b": 1}}}, 400),
        ({"config": {"configurable": {"b": 1}}}, {"context": {"a": 1}}, 400),
        ({"assistant_id": "shared", "config": {"configurable": {"user_id": "u"}}}, {"config": {}}, 422),
    ],
)
def test_a_change_of_a_cron_must_fit_what_it_keeps(
    http: httpx.Client, kept: dict[str, Any], patch: dict[str, Any], status: int
) -> None:
    cron = cron_of(http, **kept)
    assert refused_change(http, cron, patch).status_code == status
    path = f"/runs/crons/{cron['cron_id']}"
    assert http.post(f"{path}/fire").status_code == 200
    assert http.patch(path, json={"config": {}, "context": {"user_id": "u"}}).status_code == 200
    assert http.post(f"{path}/fire").status_code == 200


def test_a_cron_may_be_given_another_assistant(http: httpx.Client, thread: str) -> None:
    cron = cron_of(http, thread)
    changed = http.patch(f"/runs/crons/{cron['cron_id']}", json={"assistant_id": "question"}).json()
    known = devserver.system_assistant_id("question")
    assert changed["assistant_id"] == changed["payload"]["assistant_id"] == known
    assert http.post(f"/runs/crons/{cron['cron_id']}/fire").json()["assistant_id"] == known


def test_a_cron_that_cannot_run_any_more_can_be_disabled(server: LiveServer, http: httpx.Client) -> None:
    cron = cron_of(http, webhook="http://localhost/x")
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn, conn:
        conn.execute(
            "UPDATE crons SET payload = json_set(payload, '$.webhook', 'http://gone.invalid/', '$.checkpoint_id', 'x', "
            "'$.context', json_object('a', 1), '$.config.configurable.b', 1) WHERE cron_id = ?",
            (cron["cron_id"],),
        )
    path = f"/runs/crons/{cron['cron_id']}"
    for patch in ({"enabled": False}, {"schedule": "1 1 1 1 *"}, {"metadata": {"a": 1}}, {"end_time": None}):
        assert http.patch(path, json=patch).json() | patch == http.get(path).json()
    assert http.patch(path, json={"input": {}}).status_code in (400, 422)


def test_a_cron_on_a_thread_has_nothing_to_do_with_a_thread_of_its_own(http: httpx.Client, thread: str) -> None:
    cron = cron_of(http, thread, on_run_completed="keep")
    changed = http.patch(f"/runs/crons/{cron['cron_id']}", json={"on_run_completed": "keep"}).json()
    assert (cron["on_run_completed"], changed["on_run_completed"]) == (None, None)


@pytest.mark.parametrize("method", ["run.start", "input.respond"])
@pytest.mark.parametrize("fault", ["configured checkpoint", "config", "tags", "recursion_limit", "metadata"])
def test_a_faulty_run_is_refused_by_the_protocol(http: httpx.Client, thread: str, method: str, fault: str) -> None:
    asked: Any = http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "question", "input": {}}).json()
    ids = {"interrupt_id": asked["__interrupt__"][0]["id"], "response": "yes"} if method == "input.respond" else {}
    params = {"assistant_id": "question", **ids, **RUN_FAULTS[fault][0]}
    answer = http.post(f"/threads/{thread}/commands", json={"id": 1, "method": method, "params": params}).json()
    assert answer["type"] == "error"
    assert fault.partition(" ")[0] in answer["message"] or "heckpoint" in answer["message"]
    assert len(http.get(f"/threads/{thread}/runs").json()) == 1
    assert http.get(f"/threads/{thread}").json()["status"] == "interrupted"


# Assistants and threads


ASSISTANT_FAULTS: dict[str, tuple[dict[str, Any], int]] = {
    "graph": ({"graph_id": "none"}, 404),
    "context and configurable": (BOTH, 400),
    "config": ({"config": 5}, 422),
    "tags": ({"config": {"tags": [5]}}, 422),
    "context": ({"context": 5}, 422),
    "metadata": ({"metadata": 5}, 422),
    "name": ({"name": 5}, 422),
    "description": ({"description": 5}, 422),
}


@pytest.mark.parametrize("fault", ASSISTANT_FAULTS)
def test_a_faulty_assistant_is_neither_made_nor_changed(http: httpx.Client, fault: str) -> None:
    fields, status = ASSISTANT_FAULTS[fault]
    made = http.post("/assistants", json={"graph_id": "steps"}).json()
    refused = http.post("/assistants", json={"graph_id": "steps", **fields})
    assert refused.status_code == status
    path = f"/assistants/{made['assistant_id']}"
    assert (http.patch(path, json=fields).status_code, http.patch(path, json=fields).text) == (status, refused.text)
    assert http.get(path).json() == made


def test_a_version_of_a_graph_that_is_gone_is_not_made_the_latest(server: LiveServer, http: httpx.Client) -> None:
    path = f"/assistants/{http.post('/assistants', json={'graph_id': 'steps'}).json()['assistant_id']}"
    latest = http.patch(path, json={"name": "second"}).json()
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn, conn:
        conn.execute(
            "UPDATE assistant_versions SET graph_id = 'gone' WHERE version = 1 AND assistant_id = ?",
            (latest["assistant_id"],),
        )
    refused = http.post(f"{path}/latest", json={"version": 1})
    assert (refused.status_code, refused.json()["detail"][:22]) == (404, "Graph 'gone' not found")
    assert http.get(path).json() == latest
    assert http.post(f"{path}/latest", json={"version": 2}).status_code == 200


RESERVED = dict.fromkeys(devserver.RESERVED_METADATA, "mine")


def test_reserved_keys_are_dropped_by_every_change(http: httpx.Client) -> None:
    sent = {"metadata": {**RESERVED, "a": 1}}
    for path, body in (("/assistants", {"graph_id": "steps"}), ("/threads", {})):
        made = http.post(path, json={**body, **sent}).json()
        own = f"{path}/{made['assistant_id' if 'assistant_id' in made else 'thread_id']}"
        assert made["metadata"] == http.patch(own, json=sent).json()["metadata"] == {"a": 1}
    assert http.patch(f"{own}/state", json=sent).status_code == 204
    assert http.get(own).json()["metadata"] == http.post(f"{own}/copy").json()["metadata"] == {"a": 1}


@pytest.mark.parametrize("fault", [{"metadata": 5}, {"ttl": 5}, {"ttl": {"ttl": 0}}, {"ttl": {"strategy": "x"}}])
def test_a_faulty_thread_is_neither_made_nor_changed(http: httpx.Client, thread: str, fault: dict[str, Any]) -> None:
    kept = http.get(f"/threads/{thread}").json()
    made = http.post("/threads", json=fault)
    changed = [http.patch(f"/threads/{thread}{path}", json=fault) for path in ("", "/state")]
    assert {(each.status_code, each.text) for each in (made, *changed)} == {(422, made.text)}
    assert http.get(f"/threads/{thread}").json() == kept


STATE_FAULTS: dict[str, dict[str, Any]] = {
    "node": {"values": {"text": "a"}, "as_node": "nowhere"},
    "list": {"values": [5], "as_node": "first"},
    "text": {"values": "x", "as_node": "first"},
    "reducer": {"values": {"trail": 5}, "as_node": "first"},
    "number as node": {"values": {}, "as_node": 5},
}


@pytest.mark.parametrize("fault", STATE_FAULTS)
def test_a_faulty_state_is_refused_when_a_thread_is_made_as_when_it_is_changed(http: httpx.Client, fault: str) -> None:
    entry = STATE_FAULTS[fault]
    metadata = {"graph_id": "steps"}
    thread = http.post("/threads", json={"metadata": metadata}).json()["thread_id"]
    changed = http.post(f"/threads/{thread}/state", json=entry)
    made = http.post("/threads", json={"metadata": metadata, "supersteps": [{"updates": [entry]}]})
    assert (made.status_code, made.json()["detail"].rpartition("as_node: ")[2]) == (
        changed.status_code,
        changed.json()["detail"].rpartition("as_node: ")[2],
    )
    assert changed.status_code in (400, 422)


# Where webhooks may go, when they are set and when they are sent


LINK_LOCAL = [
    *("169.254.169.254", "169.254.0.1", "fe80::1", "febf::1", "fe80::1%lo", "fd00:ec2::254", "fd00:ec2:1::1"),
    "::ffff:169.254.169.254",
    *("::169.254.169.254", "::ffff:0:169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::"),
    "64:ff9b:1:0:a9:fea9:fe00:0",
    "2002:a9fe:a9fe::1",
    *("2001:0:a9fe:a9fe::1", "2001::5601:5601"),  # a Teredo server, and a Teredo client, inverted
]
ELSEWHERE = [
    *("127.0.0.1", "0.0.0.0", "10.0.0.1", "192.0.2.1", "169.253.1.1", "8.8.8.8", "::1", "fd00:ec3::254", "fec0::1"),
    *("2001:db8::a9fe:a9fe", "64:ff9b::808:808", "64:ff9b:2::a9fe:a9fe", "2002:808:808::a9fe:a9fe"),
    *("::ffff:8.8.8.8", "2001:4860:4860::8888", "2001:1::a9fe:a9fe"),
]
LOOPBACK = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1"]


@pytest.mark.parametrize("address", LINK_LOCAL)
def test_link_local_addresses_are_refused_in_every_spelling(address: str) -> None:
    for rules in (devserver.WebhookUrls(), devserver.WebhookUrls(disable_loopback=True)):
        with pytest.raises(devserver.Invalid, match="blocked IP range"):
            devserver.check_webhook_address(address, rules)


@pytest.mark.parametrize("address", ELSEWHERE)
def test_other_addresses_are_allowed(address: str) -> None:
    devserver.check_webhook_address(address, devserver.WebhookUrls())


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_refused_in_every_spelling_where_it_is_forbidden(address: str) -> None:
    devserver.check_webhook_address(address, devserver.WebhookUrls())
    with pytest.raises(devserver.Invalid, match="loopback IP range"):
        devserver.check_webhook_address(address, devserver.WebhookUrls(disable_loopback=True))


NO_LOOPBACK = {"url": {"require_https": False, "disable_loopback": True}}
FICKLE = """
    import socket
    from pathlib import Path

    from basic import steps

    real = socket.getaddrinfo
    told = Path(__file__).with_name("told")


    def fickle(host, *args, **options):
        '''The name `after-N.test` leads to 192.0.2.1 for N look-ups, then to this machine.'''
        name = host.decode() if isinstance(host, bytes) else host
        if name and name.endswith(".test"):
            with told.open("a") as file:
                file.write(name + "\\n")
            lookups = told.read_text().split().count(name)
            host = "192.0.2.1" if lookups <= int(name[6:-5]) else "127.0.0.1"
        return real(host, *args, **options)


    socket.getaddrinfo = fickle
"""


async def test_webhooks_are_judged_when_they_are_sent(
    make_server: Callable[..., LiveServer], receiver: Receiver
) -> None:
    """A name that has changed after one look-up has when the webhook is checked again; after two or three, when the
    connection is made. A cron may be older than the rules."""
    files = {"basic.py": (GRAPHS / "basic.py").read_text(), "fickle.py": FICKLE}
    live = make_server({"steps": "./fickle.py:steps"}, files, "--no-reload", webhooks=NO_LOOPBACK)
    urls = [f"http://after-{lookups}.test:{receiver.server_port}/" for lookups in (1, 2, 3)]
    refused: Any = {"webhook": receiver.url}
    with live.http() as http:
        cron = cron_of(http)
        for answer in (
            http.post("/runs", json={"assistant_id": "steps", **refused}),
            http.post("/runs/crons", json={"assistant_id": "steps", "schedule": LATER, **refused}),
            http.patch(f"/runs/crons/{cron['cron_id']}", json=refused),
        ):
            assert (answer.status_code, answer.json()["detail"]) == (422, "Webhook host blocked: loopback IP range")
        with closing(sqlite3.connect(live.folder / "devserver.db")) as conn, conn:
            conn.execute("UPDATE crons SET payload = json_set(payload, '$.webhook', ?)", (receiver.url,))
        assert http.post(f"/runs/crons/{cron['cron_id']}/fire").status_code == 200
        for url in urls:
            body = {"assistant_id": "steps", "input": {}, "webhook": url}
            assert http.post("/runs", json=body).status_code == 200
        for url in (receiver.url, *urls):
            told = f"webhook {url} failed: Webhook host blocked: loopback IP range; given up"
            await eventually(functools.partial(lambda text: text in live.log, told), 60)
        for lookups, url in enumerate(urls, 1):
            assert (live.folder / "told").read_text().split().count(f"after-{lookups}.test") > lookups
            assert http.post("/runs", json={"assistant_id": "steps", "webhook": url}).status_code == 422
    assert receiver.got == []


# A webhook is sent once


async def test_a_webhook_that_is_delivered_while_others_are_looked_up_is_sent_once(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is delivered between the second look and what follows from it, if there is any between: for whoever looks
    in another thread, the look takes until then."""
    write_project(tmp_path, {"steps": "./steps.py:graph"}, {})
    db = devserver.Db(str(tmp_path / "webhooks.db"))
    await db.open()
    sender = devserver.WebhookSender(db, devserver.read_settings(tmp_path / "langgraph.json"), "http://127.0.0.1:9")
    looked, delivered, here = threading.Event(), threading.Event(), threading.get_ident()
    due, post = devserver.Webhooks.due, sender._post

    def due_slowly(table: devserver.Webhooks) -> list[tuple[int, str, bytes]]:
        found = due(table)
        looked.set()
        if threading.get_ident() != here:
            delivered.wait(10)
        return found

    async def post_after_the_look(url: str, payload: bytes) -> None:
        await asyncio.to_thread(looked.wait, 10)
        await post(url, payload)

    monkeypatch.setattr(sender, "_post", post_after_the_look)
    await db.write(lambda conn: devserver.Webhooks(conn).insert(receiver.url, b"1"))
    await sender.send_due()
    monkeypatch.setattr(devserver.Webhooks, "due", due_slowly)
    second = asyncio.ensure_future(sender.send_due())
    await eventually(lambda: looked.is_set() and not sender._tasks)
    delivered.set()
    await second
    await eventually(lambda: not sender._tasks)
    assert db.look(lambda conn: due(devserver.Webhooks(conn))) == []
    assert len(receiver.got) == 1
    await db.close()


# Who may change something: a request is judged by what it does


FOREIGN: dict[str, dict[str, str]] = {
    "a page's script": {"origin": "http://evil.com"},
    "a page's script, as browsers send it now": {"origin": "http://evil.com", "sec-fetch-site": "cross-site"},
    "a file": {"origin": "null"},
    "a page's picture": {"sec-fetch-site": "cross-site"},
}
OWN: dict[str, dict[str, str]] = {
    "a program": {},
    "a page of this machine": {"origin": "http://localhost:3000", "sec-fetch-site": "cross-site"},
    "the same page": {"sec-fetch-site": "same-origin"},
    "the address bar": {"sec-fetch-site": "none"},
}
READS = [operation for operation in devserver.ROUTES if operation.method == "GET"]


@pytest.fixture(scope="module")
def busy(server: LiveServer) -> dict[str, str]:
    """The ids of a run that waits, its thread, its assistant, and of a cron; there is an item that expires, too."""
    with server.http() as http:
        body = {"assistant_id": "gated", "input": {"gate": "/nowhere"}}
        run = http.post("/runs", json={**body, "on_completion": "keep"}).json()
        item = {"namespace": ["a"], "key": "k", "value": {"v": 1}, "ttl": 100}
        http.put("/store/items", json=item).raise_for_status()
        ids = {name: run[name] for name in ("run_id", "thread_id", "assistant_id")}
        cron_id = cron_of(http)["cron_id"]
    return {**ids, "cron_id": cron_id, "checkpoint_id": str(uuid.uuid4()), "namespace": "x"}


def rows(server: LiveServer) -> list[Any]:
    """All that the database holds, but for events and checkpoints."""
    tables = ("assistants", "threads", "runs", "crons", "store", "webhooks")
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
        return [conn.execute(f"SELECT * FROM {table}").fetchall() for table in tables]


def leave_early(server: LiveServer, method: str, path: str, headers: dict[str, str]) -> int:
    """The status of a request whose client leaves before it has read the answer's body."""
    with server.http(headers=headers) as http, http.stream(method, path) as answer:
        return answer.status_code


@pytest.mark.parametrize("operation", READS, ids=[operation.path for operation in READS])
def test_no_read_of_a_foreign_page_changes_anything(
    server: LiveServer, busy: dict[str, str], operation: devserver.Operation
) -> None:
    """With every parameter that a GET has, set."""
    flags = [name.partition(":")[0] for name in operation.query.split() if ":flag" in name]
    query = "&".join([*(f"{flag}=true" for flag in flags), "namespace=a&key=k&assistant_id=" + busy["assistant_id"]])
    path = f"{operation.path.format_map(busy)}?{query}"
    before, changes = rows(server), operation.handler in devserver.CHANGED_BY
    for headers in FOREIGN.values():
        assert (leave_early(server, "GET", path, headers) == 403) == changes
        head = leave_early(server, "HEAD", path, headers)
        assert head == 405 if operation.returns == "stream" else (head == 403) == changes
    time.sleep(0.1)
    assert rows(server) == before


@pytest.mark.parametrize("who", FOREIGN)
def test_an_item_read_by_a_foreign_page_does_not_live_longer(
    server: LiveServer, busy: dict[str, str], who: str
) -> None:
    """As it would without a word about it, too."""
    with server.http(headers=FOREIGN[who]) as http:
        before = rows(server)
        assert http.get("/store/items?namespace=a&key=k").status_code == 403
        assert http.get("/store/items?namespace=a&key=k&refresh_ttl=false").json()["value"] == {"v": 1}
        assert rows(server) == before


@pytest.mark.parametrize("who", OWN)
@pytest.mark.parametrize("path", ["join", "stream"])
async def test_those_of_this_machine_may_change_things(
    server: LiveServer, client: LangGraphClient, who: str, path: str
) -> None:
    thread = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread, "gated", input={"gate": "/nowhere"})
    place = f"/threads/{thread}/runs/{run['run_id']}/{path}"
    assert leave_early(server, "GET", f"{place}?cancel_on_disconnect=false", OWN[who]) == 200
    assert (await client.runs.get(thread, run["run_id"]))["status"] == "running"
    assert leave_early(server, "GET", f"{place}?cancel_on_disconnect=true", OWN[who]) == 200

    async def is_cancelled() -> bool:
        return (await client.runs.get(thread, run["run_id"]))["status"] == "interrupted"

    await eventually(is_cancelled)
    with server.http(headers=OWN[who]) as http:
        assert http.get("/store/items?namespace=a&key=k&refresh_ttl=true").status_code == 200


def test_a_page_that_langgraph_json_lets_in_may_cancel_runs(make_server: Callable[..., LiveServer]) -> None:
    files = {"basic.py": (GRAPHS / "basic.py").read_text()}
    cors = {"cors": {"allow_origins": ["https://mine.com"]}, "mount_prefix": "/api"}
    live = make_server({"gated": "./basic.py:gated"}, files, "--no-reload", http=cors)
    with live.http() as http:
        body = {"assistant_id": "gated", "input": {"gate": "/nowhere"}, "on_completion": "keep"}
        run = http.post("/runs", json=body).json()
    path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
    for origin, status in (("https://evil.com", 403), ("https://mine.com", 200)):
        headers = {"origin": origin, "sec-fetch-site": "cross-site"}
        assert leave_early(live, "GET", f"{path}?cancel_on_disconnect=1", headers) == status

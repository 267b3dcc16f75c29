"""What clients send wrong: a 4xx that names the field, and nothing changed; never a 5xx."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import LiveServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import devserver

SERVED = {name: f"./basic.py:{name}" for name in ("steps", "question")}
TABLES = [
    "assistants",
    "assistant_versions",
    "threads",
    "runs",
    "run_writes",
    "events",
    "webhooks",
    "crons",
    "checkpoints",
    "writes",
    "store",
]
ID = "00000000-0000-0000-0000-000000000000"
RUN = {"assistant_id": "steps", "input": {"text": "a"}}


@pytest.fixture(scope="module")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    """One client for all tests, of which there are many."""
    with server.http() as made:
        yield made


@pytest.fixture(scope="module")
def ids(server: LiveServer) -> dict[str, str]:
    """Of a thread that waits for an answer, its run, an assistant, and an item."""
    with server.http() as http:
        thread = http.post("/threads", json={"metadata": {"n": 1}}).json()["thread_id"]
        http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "question", "input": {"topic": "tea"}})
        [run] = http.get(f"/threads/{thread}/runs").json()
        assistant = http.post("/assistants", json={"graph_id": "steps"}).json()
        http.put("/store/items", json={"namespace": ["a"], "key": "k", "value": {"n": 1}})
    return {"thread_id": thread, "run_id": run["run_id"], "assistant_id": assistant["assistant_id"], "cron_id": ID}


@pytest.fixture
def unchanged(server: LiveServer) -> Iterator[None]:
    """The test adds, removes and changes no row of the database."""

    def rows() -> dict[str, list[Any]]:
        with closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
            return {table: conn.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in TABLES}

    before = rows()
    yield
    assert rows() == before


# Wrong types

TEXT: list[Any] = [5, 1.5, True, [], {}, ["x"]]
OBJECT: list[Any] = ["x", "{}", 5, True, [], [{}]]
WHOLE: list[Any] = ["1", 1.5, True, [], {}]
NUMBER: list[Any] = ["1", "soon", True, [], {}]
FLAG: list[Any] = ["true", "", 1, 0, [], {}]
TEXTS: list[Any] = ["x", 5, {}, [1], [None], [["x"]]]
CHOICE: list[Any] = ["nope", "", 5, True, [], {}]
LIMIT: list[Any] = [*WHOLE, 0, -1, 1001, 2**63, 2**64, 1e300, None]
OFFSET: list[Any] = [*WHOLE, -1, 2**63, 2**64, 1e300, None]

RUN_FIELDS: dict[str, list[Any]] = {
    "assistant_id": [*TEXT, None, "", "nope", "x" * 10_000],
    "command": ["x", 5, True, [], {"goto": 5}, {"goto": {"node": 5}}, {"goto": [5]}, {"goto": {}}, {"update": "x"}],
    "checkpoint": ["x", 5, True, [], {"checkpoint_id": 5}, {"checkpoint_ns": []}, {"checkpoint_map": "x"}],
    "checkpoint_id": [*TEXT, "nonsense", "0"],
    "config": [
        *OBJECT,
        {"configurable": "x"},
        {"configurable": None},
        {"tags": "x"},
        {"tags": [1]},
        {"recursion_limit": "5"},
        {"recursion_limit": 1.5},
        {"metadata": "x"},
        {"metadata": []},
        {"metadata": None},
    ],
    "context": OBJECT,
    "metadata": OBJECT,
    "webhook": [*TEXT, "", "ftp://localhost/", "relative", "http://", "http://[::1", "x" * 5000],
    "interrupt_before": [*TEXTS, "all"],
    "interrupt_after": [*TEXTS, "all"],
    "stream_mode": ["nope", 5, {}, True, ["nope"], ["values", 5], [["values"]]],
    "stream_subgraphs": FLAG,
    "stream_resumable": FLAG,
    "feedback_keys": TEXTS,
    "multitask_strategy": CHOICE,
    "if_not_exists": CHOICE,
    "after_seconds": [*NUMBER, 1e300, -1e300, 2**63],
    "on_disconnect": [*CHOICE, None],
    "on_completion": CHOICE,
    "checkpoint_during": FLAG,
    "durability": CHOICE,
}
RUN_PATHS = [f"{where}/runs{ending}" for where in ("", "/threads/{thread_id}") for ending in ("", "/wait", "/stream")]


def refusal(http: httpx.Client, method: str, path: str, body: Any) -> httpx.Response:
    answer = http.request(method, path, json=body)
    assert answer.status_code == 422, (method, path, str(body)[:200], answer.status_code, answer.text[:200])
    assert isinstance(answer.json()["detail"], str)
    return answer


@pytest.mark.parametrize("field", RUN_FIELDS)
def test_every_field_of_a_run_is_checked(http: httpx.Client, ids: dict[str, str], unchanged: None, field: str) -> None:
    said = {"assistant_id": "assistant", "webhook": "webhook", "checkpoint_id": "checkpoint"}.get(field, field)
    for path in RUN_PATHS:
        for value in RUN_FIELDS[field]:
            answer = refusal(http, "POST", path.format(**ids), {**RUN, field: value})
            assert said in answer.json()["detail"].lower(), (value, answer.text)
    for value in RUN_FIELDS[field]:
        refusal(http, "POST", "/runs/batch", [RUN, {**RUN, field: value}])


FIELDS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "POST /assistants": (
        {"graph_id": "steps"},
        {
            "graph_id": [*TEXT, None],
            "assistant_id": TEXT,
            "config": [*OBJECT, None, {"tags": "x"}, {"configurable": []}],
            "context": [*OBJECT, None],
            "metadata": [*OBJECT, None],
            "if_exists": [*CHOICE, None],
            "name": [*TEXT, None],
            "description": TEXT,
        },
    ),
    "PATCH /assistants/{assistant_id}": (
        {},
        {
            "graph_id": TEXT,
            "config": [*OBJECT, {"recursion_limit": "x"}],
            "context": OBJECT,
            "metadata": OBJECT,
            "name": TEXT,
            "description": TEXT,
        },
    ),
    "POST /assistants/search": (
        {},
        {
            "metadata": OBJECT,
            "graph_id": TEXT,
            "name": TEXT,
            "limit": LIMIT,
            "offset": OFFSET,
            "sort_by": [*CHOICE, "config"],
            "sort_order": [*CHOICE, "ASC"],
            "select": ["x", 5, {}, ["nope"], [1]],
        },
    ),
    "POST /assistants/count": ({}, {"metadata": OBJECT, "graph_id": TEXT, "name": TEXT}),
    "POST /assistants/{assistant_id}/versions": ({}, {"metadata": OBJECT, "limit": LIMIT, "offset": OFFSET}),
    "POST /assistants/{assistant_id}/latest": ({}, {"version": [*WHOLE, 2**63, 2**64 - 1, 1e300]}),
    "POST /threads": (
        {},
        {
            "thread_id": TEXT,
            "metadata": [*OBJECT, None],
            "if_exists": [*CHOICE, None],
            "ttl": ["x", True, [], {"ttl": "x"}, {"strategy": "nope"}, {"strategy": 5}],
            "supersteps": [
                "x",
                5,
                {},
                [1],
                [{}],
                [{"updates": []}],
                [{"updates": [{}]}],
                [{"updates": [{"as_node": 5}]}],
            ],
        },
    ),
    "PATCH /threads/{thread_id}": ({}, {"metadata": OBJECT, "ttl": ["x", True, []]}),
    "POST /threads/search": (
        {},
        {
            "metadata": OBJECT,
            "values": OBJECT,
            "ids": TEXTS,
            "status": CHOICE,
            "limit": LIMIT,
            "offset": OFFSET,
            "sort_by": [*CHOICE, "metadata"],
            "sort_order": CHOICE,
            "select": ["x", 5, {}, ["nope"]],
            "extract": ["x", 5, [], {"a": 5}, {"a": None}, {"a": "nope"}, {"a.b": "values"}, {"values": "values"}],
        },
    ),
    "POST /threads/count": ({}, {"metadata": OBJECT, "values": OBJECT, "status": CHOICE}),
    "POST /threads/prune": ({"thread_ids": []}, {"thread_ids": [*TEXTS, None], "strategy": CHOICE}),
    "POST /threads/{thread_id}/state": (
        {"values": {"topic": "x"}},
        {
            "as_node": TEXT,
            "checkpoint": ["x", 5, [], {"checkpoint_id": 5}, {"checkpoint_ns": 5}],
            "checkpoint_id": TEXT,
        },
    ),
    "POST /threads/{thread_id}/state/checkpoint": (
        {"checkpoint": {}},
        {
            "checkpoint": ["x", 5, [], None, {"checkpoint_id": 5}, {"checkpoint_map": "x"}, {"checkpoint_ns": 5}],
            "subgraphs": FLAG,
        },
    ),
    "POST /threads/{thread_id}/history": (
        {},
        {"limit": LIMIT, "metadata": OBJECT, "before": ["x", 5, [], {"checkpoint_id": 5}], "checkpoint": ["x", 5, []]},
    ),
    "PUT /store/items": (
        {"namespace": ["b"], "key": "k", "value": {}},
        {
            "namespace": [*TEXTS, None],
            "key": [*TEXT, None],
            "value": [*OBJECT, None],
            "index": ["x", 5, {}, [1], True],
            "ttl": [*NUMBER, 0, -1, 1e300],
        },
    ),
    "DELETE /store/items": ({"namespace": ["a"], "key": "k"}, {"namespace": TEXTS, "key": [*TEXT, None]}),
    "POST /store/items/search": (
        {"namespace_prefix": ["a"]},
        {
            "namespace_prefix": TEXTS,
            "filter": OBJECT,
            "limit": [*WHOLE, 2**63, 1e300],
            "offset": [*WHOLE, -1, 2**63, 1e300],
            "query": TEXT,
            "refresh_ttl": FLAG,
        },
    ),
    "POST /store/namespaces": (
        {},
        {
            "prefix": TEXTS,
            "suffix": TEXTS,
            "max_depth": [*WHOLE, 0, -1, 2**63],
            "limit": [*WHOLE, 0, -1, 2**63],
            "offset": [*WHOLE, -1, 2**63],
        },
    ),
}


@pytest.mark.parametrize(
    ("operation", "field"), [(operation, field) for operation, (_, fields) in FIELDS.items() for field in fields]
)
def test_every_field_of_a_body_is_checked(
    http: httpx.Client, ids: dict[str, str], unchanged: None, operation: str, field: str
) -> None:
    method, path = operation.split(" ")
    body, fields = FIELDS[operation]
    for value in fields[field]:
        answer = refusal(http, method, path.format(**ids), {**body, field: value})
        assert field in answer.json()["detail"].lower(), (value, answer.text)


@pytest.mark.parametrize(
    ("method", "path", "missing"),
    [
        ("POST", "/assistants", "graph_id"),
        ("POST", "/runs", "assistant_id"),
        ("POST", "/runs/wait", "assistant_id"),
        ("POST", "/threads/{thread_id}/runs/stream", "assistant_id"),
        ("POST", "/threads/prune", "thread_ids"),
        ("POST", "/threads/{thread_id}/state/checkpoint", "checkpoint"),
        ("PUT", "/store/items", "namespace"),
        ("PUT", "/store/items", "key"),
        ("PUT", "/store/items", "value"),
        ("DELETE", "/store/items", "key"),
    ],
)
def test_a_missing_field_is_named(
    http: httpx.Client, ids: dict[str, str], unchanged: None, method: str, path: str, missing: str
) -> None:
    body = {"namespace": ["b"], "key": "k", "value": {}}
    body.pop(missing, None)
    answer = refusal(http, method, path.format(**ids), body)
    assert f"{missing}: Field required" in answer.json()["detail"]


def test_null_counts_as_absent_for_the_options_of_a_run(http: httpx.Client) -> None:
    options = {field: None for field in RUN_FIELDS if field not in ("assistant_id", "on_disconnect")}
    answer = http.post("/runs/wait", json={**RUN, **options})
    assert answer.json() == {"text": "a!", "trail": ["first", "second", "third"], "total": 111}


def test_unknown_fields_are_ignored(http: httpx.Client) -> None:
    made = http.post("/threads", json={"surprise": {"a": 1}, "metadata": {"n": 1}})
    assert made.json()["metadata"] == {"n": 1}
    assert http.post("/runs/wait", json={**RUN, "surprise": [1]}).json()["total"] == 111


def test_the_wrong_field_is_named_however_deep_it_is(http: httpx.Client, unchanged: None) -> None:
    supersteps = [{"updates": [{"as_node": "first", "values": {}}]}, {"updates": [{"as_node": 5}]}]
    answer = refusal(http, "POST", "/threads", {"supersteps": supersteps})
    assert "supersteps.1.updates.0.as_node" in answer.json()["detail"]
    answer = refusal(http, "POST", "/runs", {**RUN, "config": {"tags": ["a", 5]}})
    assert "config.tags.1" in answer.json()["detail"]


# Places in a thread's history, which may come as RunnableConfigs


@pytest.mark.parametrize("place", [{"checkpoint_id": {"a": 1}}, {"checkpoint_id": [1]}, {"checkpoint_ns": 5}])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/threads/{thread_id}/state/checkpoint", "checkpoint"),
        ("/threads/{thread_id}/history", "checkpoint"),
        ("/threads/{thread_id}/history", "before"),
        ("/threads/{thread_id}/state", "checkpoint"),
        ("/threads/{thread_id}/runs", "checkpoint"),
    ],
)
def test_a_place_in_a_config_is_checked_as_well(
    http: httpx.Client, ids: dict[str, str], unchanged: None, path: str, field: str, place: Any
) -> None:
    body = {**RUN, "values": {"topic": "x"}, field: {"configurable": place}}
    answer = refusal(http, "POST", path.format(**ids), body)
    assert field in answer.json()["detail"]


@pytest.mark.parametrize(
    "place",
    [
        {"checkpoint_id": "nonsense"},
        {"checkpoint_id": ""},
        {"checkpoint_id": "'; DROP TABLE threads; --"},
        {"checkpoint_ns": "nope", "checkpoint_id": ID},
        {"checkpoint_map": {"": 5}},
        {"__pregel_checkpointer": "x"},
        {"__pregel_send": 5},
        {"__pregel_runtime": {}},
        {"thread_id": ID},
    ],
)
@pytest.mark.parametrize("path", ["state/checkpoint", "history"])
def test_a_strange_place_finds_nothing_or_is_refused(
    http: httpx.Client, ids: dict[str, str], unchanged: None, path: str, place: Any
) -> None:
    answer = http.post(f"/threads/{ids['thread_id']}/{path}", json={"checkpoint": place})
    assert answer.status_code in (200, 400, 422), answer.text


@pytest.mark.parametrize("metadata", [{"a' b": 1}, {"": 1}, {"step": 2**64 - 1}, {"step": 1e300}, {"step": [1, {}]}])
def test_a_strange_filter_of_a_history_finds_nothing_or_is_refused(
    http: httpx.Client, ids: dict[str, str], unchanged: None, metadata: Any
) -> None:
    answer = http.post(f"/threads/{ids['thread_id']}/history", json={"metadata": metadata})
    assert answer.status_code in (200, 400, 422), answer.text
    assert answer.status_code != 200 or answer.json() == []


# Not JSON

CLASSIC = [
    route
    for route in devserver.ROUTES
    if not re.search(r"/crons|/mcp|a2a|agent|/ui/|/commands|/stream/events", route.path)
]
WITH_BODY = [(route.method, route.path) for route in CLASSIC if route.body is not None]
RAW = {
    "nothing": b"",
    "a brace": b"{",
    "words": b"not json",
    "single quotes": b"{'a': 1}",
    "a comma too many": b'{"a": 1,}',
    "two values": b"{} {}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "latin-1": '{"metadata": {"x": "é"}}'.encode("latin-1"),
    "utf-16": '{"metadata": {}}'.encode("utf-16"),
    "invalid utf-8": b'{"metadata": {"x": "\xff\xfe"}}',
    "an overlong NUL": b'{"metadata": {"x": "\xc0\x80"}}',
    "a raw NUL": b'{"metadata": {"x": "\x00"}}',
    "a lone surrogate": b'{"metadata": {"x": "\\ud800"}}',
    "a raw line end": b'{"metadata": {"x": "\n"}}',
    "NaN": b'{"metadata": {"x": NaN}}',
    "Infinity": b'{"metadata": {"x": -Infinity}}',
    "an overflow": b'{"metadata": {"x": 1e999}}',
    "endless nesting": b'{"metadata": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "unclosed nesting": b"[" * 100_000,
    "a form": b"metadata=1&limit=2",
    "compressed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00C\xbf\xa6\xa3\x02\x00\x00\x00",
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
def test_what_is_not_json_is_refused_everywhere(
    http: httpx.Client, ids: dict[str, str], unchanged: None, raw: bytes
) -> None:
    for method, path in WITH_BODY:
        answer = http.request(method, path.format(**ids), content=raw, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()) == (422, {"detail": "Invalid JSON in request body"}), (method, path)


@pytest.mark.parametrize("value", [None, True, 5, 1.5, "x", [], [{}]])
def test_a_body_has_to_be_an_object(http: httpx.Client, ids: dict[str, str], unchanged: None, value: Any) -> None:
    for method, path in WITH_BODY:
        if path != "/runs/batch":
            answer = http.request(method, path.format(**ids), content=json.dumps(value))
            assert answer.status_code == 422, (method, path)
            assert answer.json()["detail"].startswith("body: "), (method, path)


@pytest.mark.parametrize("value", [None, True, 5, "x", {}, [], [None], ["x"], [[]], [{}], {"assistant_id": "steps"}])
def test_a_batch_has_to_be_a_list_of_runs(http: httpx.Client, unchanged: None, value: Any) -> None:
    refusal(http, "POST", "/runs/batch", value)


def test_the_content_type_does_not_matter(http: httpx.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "image/png", ""):
        made = http.post("/threads", content=b'{"metadata": {"n": 1}}', headers={"content-type": kind})
        assert made.json()["metadata"] == {"n": 1}


# Odd, but JSON

ODD = {
    "a NUL": ("a\0b", "a\ufffdb"),
    "an escaped escape": ("\\u0000", "\\u0000"),
    "astral": ("😀", "😀"),
    "line separators": ("\u2028\u2029\r\n\t", "\u2028\u2029\r\n\t"),
    "noncharacters": ("\ufffe\uffff", "\ufffe\uffff"),
    "beyond floats": (2**53 + 1, 2**53 + 1),
    "64 bits": (2**64 - 1, 2**64 - 1),
    "-63 bits": (-(2**63), -(2**63)),
    "beyond 64 bits": (10**30, 1e30),
    "tiny": (1e-320, 1e-320),
    "a long text": ("x" * 1_000_000, "x" * 1_000_000),
    "a long list": (list(range(100_000)), list(range(100_000))),
    "odd keys": ({"": 1, "a.b": 2, "$gt": 3, "'": 4, "\0": 5}, {"": 1, "a.b": 2, "$gt": 3, "'": 4, "\ufffd": 5}),
}


@pytest.mark.parametrize(("value", "kept"), ODD.values(), ids=ODD.keys())
def test_odd_values_come_back_and_can_be_searched_for(http: httpx.Client, value: Any, kept: Any) -> None:
    mark = str(uuid.uuid4())
    made = http.post("/threads", json={"metadata": {"mark": mark, "odd": value}}).json()
    assert made["metadata"]["odd"] == kept
    found = http.post("/threads/search", json={"metadata": {"mark": mark, "odd": value}}).json()
    assert [thread["thread_id"] for thread in found] == [made["thread_id"]]
    http.put("/store/items", json={"namespace": [mark], "key": "k", "value": {"odd": value}})
    assert http.get("/store/items", params={"namespace": mark, "key": "k"}).json()["value"] == {"odd": kept}
    result = http.post("/runs/wait", json={"assistant_id": "steps", "input": {"trail": [value]}}).json()
    assert result["trail"][0] == kept


@pytest.mark.parametrize("depth", [100, 180, 250, 300, 900, 1100])
def test_what_is_nested_too_deeply_is_refused_and_never_cut_off(http: httpx.Client, depth: int) -> None:
    mark = str(uuid.uuid4())
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    made = http.post("/threads", content=b'{"metadata": {"mark": "%s", "deep": %s}}' % (mark.encode(), nested))
    if made.status_code == 422:
        assert depth > 100
        assert http.post("/threads/count", json={"metadata": {"mark": mark}}).json() == 0
    else:
        assert made.status_code == 200
        assert json.dumps(made.json()["metadata"]["deep"]).count("{") == depth
        found = http.post("/threads/count", content=b'{"metadata": {"deep": %s}}' % nested)
        assert found.json() >= 1


def test_a_whole_number_may_be_written_with_a_point(http: httpx.Client, ids: dict[str, str]) -> None:
    """JSON Schema, and so the document, takes 1.0 for an integer."""
    found = http.post("/threads/search", content=b'{"limit": 1.0, "offset": 0.0}')
    assert len(found.json()) == 1
    body = b'{"assistant_id": "steps", "input": {}, "config": {"recursion_limit": 30.0}}'
    run = http.post(f"/threads/{ids['thread_id']}/runs", content=body).json()
    assert run["kwargs"]["config"]["recursion_limit"] == 30
    for path, field in (
        ("/assistants/search", "limit"),
        ("/store/namespaces", "max_depth"),
        ("/runs/crons/search", "offset"),
    ):
        assert http.post(path, json={field: 1.5}).json() == {"detail": f"{field}: Input should be a valid integer"}


def test_of_duplicate_keys_the_last_wins(http: httpx.Client) -> None:
    made = http.post("/threads", content=b'{"metadata": {"a": 1}, "metadata": {"b": 1, "b": 2}}')
    assert made.json()["metadata"] == {"b": 2}


def test_a_search_for_very_many_ids_is_answered(http: httpx.Client, ids: dict[str, str]) -> None:
    wanted = [str(uuid.UUID(int=n)) for n in range(300_000)] + [ids["thread_id"]]
    answer = http.post("/threads/search", json={"ids": wanted})
    assert answer.status_code in (200, 413, 422), answer.text[:200]
    if answer.status_code == 200:
        assert [thread["thread_id"] for thread in answer.json()] == [ids["thread_id"]]


# Paths and queries

STRANGE = [
    "x",
    "0",
    "-1",
    "null",
    "%00",
    "%ff%fe",
    "..%2f..%2fetc",
    "%F0%9F%98%80",
    "a" * 5000,
    "'%20OR%201=1",
    f"{ID}0",
]


def filled(path: str, values: dict[str, str]) -> str:
    for name in re.findall(r"{(\w+)}", path):
        path = path.replace(f"{{{name}}}", values.get(name, "x"))
    return path


@pytest.mark.parametrize("strange", STRANGE)
def test_a_strange_id_in_a_path_is_refused(
    http: httpx.Client, ids: dict[str, str], unchanged: None, strange: str
) -> None:
    for route in CLASSIC:
        for name in re.findall(r"{(thread_id|run_id|assistant_id)}", route.path):
            path = filled(route.path, {**ids, name: strange})
            answer = http.request(route.method, path, json={**RUN, "checkpoint": {}, "version": 1})
            assert answer.status_code in (404, 422), (route.method, path, answer.text)
            if answer.status_code == 422:
                assert re.match("Invalid (thread|run|assistant)", answer.json()["detail"]), answer.text


def test_an_unknown_id_is_not_found(http: httpx.Client, ids: dict[str, str], unchanged: None) -> None:
    bodies = {"/runs": RUN, "/runs/wait": RUN, "/runs/stream": RUN, "/state/checkpoint": {"checkpoint": {}}}
    for route in CLASSIC:
        if (route.method, route.path.rpartition("/")[2]) in (("GET", "stream"), ("GET", "join"), ("POST", "copy")):
            continue  # they answer in ways of their own
        for name in re.findall(r"{(thread_id|run_id|assistant_id)}", route.path):
            path = filled(route.path, {**ids, name: str(uuid.uuid4())})
            body = next((b for ending, b in bodies.items() if route.path.endswith(ending)), {"version": 1})
            answer = http.request(route.method, path, json=body)
            assert answer.status_code == 404, (route.method, path, answer.text)


QUERIES = [
    ("/threads/{thread_id}/runs", "limit", ["x", "1.5", "-1", "9" * 30, "9" * 5000, "%00", " "], (400, 422)),
    ("/threads/{thread_id}/runs", "offset", ["x", "-1", "9" * 30], (400, 422)),
    ("/threads/{thread_id}/runs", "select", ["nope", "%00", "*", "run_id;"], (422,)),
    ("/threads/{thread_id}/history", "limit", ["x", "-1", "1.5", "9" * 30, "9" * 5000], (422,)),
    ("/threads/{thread_id}/history", "before", ["x", "%00", "9" * 5000], (200,)),
    ("/threads/{thread_id}/state", "subgraphs", ["maybe", "%00"], (200,)),
    ("/threads/{thread_id}/stream", "stream_modes", ["x", "run_modes,x", "%00"], (422,)),
    ("/threads/{thread_id}/runs/{run_id}/stream", "stream_mode", ["[", "[1", "[}"], (422,)),
    ("/assistants/{assistant_id}/graph", "xray", ["0", "-1", "x", "1.5", "9" * 5000], (422,)),
    ("/assistants/{assistant_id}/subgraphs", "recurse", ["maybe", "%00"], (200,)),
    ("/ok", "check_db", ["x", "1.5", "9" * 5000], (400, 422)),
    ("/metrics", "format", ["x", "%00"], (200,)),
    ("/store/items", "namespace", ["", ".", "a..b", ".a"], (422,)),
]


@pytest.mark.parametrize(
    ("path", "name", "values", "statuses"), QUERIES, ids=[f"{path} {name}" for path, name, *_ in QUERIES]
)
def test_strange_query_parameters_do_no_harm(
    http: httpx.Client, ids: dict[str, str], unchanged: None, path: str, name: str, values: list[str], statuses: Any
) -> None:
    for value in values:
        key = "&key=k" if path == "/store/items" else ""
        answer = http.get(f"{path.format(**ids)}?{name}={value}{key}")
        assert answer.status_code in statuses, (value[:50], answer.status_code, answer.text[:200])


def test_strange_headers_do_no_harm(http: httpx.Client, ids: dict[str, str], unchanged: None) -> None:
    run = "/threads/{thread_id}/runs/{run_id}".format(**ids)
    for value in ("x", "", "9" * 500, "1-2-3", "-1-1", "\xff"):
        names = (b"last-event-id", b"prefer", b"x-request-id", b"accept")
        headers = {name: value.encode("latin-1") for name in names}
        assert http.get(f"{run}/stream", headers=headers).status_code == 200
        assert http.get(run, headers=headers).status_code == 200


# Large bodies


@pytest.mark.parametrize("path", ["/threads", "/runs/batch", "/threads/search", "/store/items"])
def test_a_body_that_says_it_is_huge_is_refused_unread(server: LiveServer, unchanged: None, path: str) -> None:
    where = urlsplit(server.url)
    method = "PUT" if path == "/store/items" else "POST"
    for size in (devserver.MAX_BODY_BYTES + 1, 10**15, 2**63):
        with socket.create_connection((where.hostname, where.port or 80), timeout=10) as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(head.encode() + b'{"metadata": {}')
            assert int(connection.makefile("rb").readline().split()[1]) == 413


@pytest.mark.parametrize("size", ["-1", "x", "1e3", "", "1, 2"])
def test_a_strange_length_is_refused(server: LiveServer, unchanged: None, size: str) -> None:
    where = urlsplit(server.url)
    with socket.create_connection((where.hostname, where.port or 80), timeout=10) as connection:
        connection.sendall(f"POST /threads HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n{{}}".encode())
        assert int(connection.makefile("rb").readline().split()[1]) == 400


async def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devserver, "MAX_BODY_BYTES", 10)
    parts = iter([b"12345", b"678901", b"never read"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": next(parts), "more_body": True}

    with pytest.raises(devserver.TooLarge):
        await devserver.ApiRequest({"type": "http", "headers": []}, receive).body()
    assert next(parts) == b"never read"


def test_a_client_that_breaks_off_its_body_changes_nothing(
    server: LiveServer, http: httpx.Client, unchanged: None
) -> None:
    where = urlsplit(server.url)
    for _ in range(3):
        with socket.create_connection((where.hostname, where.port or 80), timeout=10) as connection:
            connection.sendall(
                b'POST /threads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"metadata": {}'
            )
    assert http.get("/ok").status_code == 200


# Anything


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["values", "*", ID, "steps", "a.b", "\0", "desc", "[0]", "values.a[0]", "9" * 40]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def fields_of(body: Any) -> list[str]:
    return sorted(body.model_fields) if hasattr(body, "model_fields") else sorted(devserver.RunCreate.model_fields)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, Any]:
    """An operation, and a body of its own fields with any values."""
    route = draw(st.sampled_from([route for route in CLASSIC if route.body is not None]))
    base: dict[str, Any] = {
        "assistant_id": "steps",
        "graph_id": "steps",
        "namespace": ["fuzz"],
        "key": "k",
        "value": {},
    }
    known = fields_of(route.body)
    body = {key: value for key, value in base.items() if key in known and draw(st.booleans())}
    body |= draw(st.dictionaries(st.sampled_from(known), JSON, max_size=3))
    if isinstance(body.get("after_seconds"), float | int):
        body["after_seconds"] = 0
    return route.method, route.path, [body] if route.path == "/runs/batch" else body


@pytest.fixture(scope="module")
def fuzzed(http: httpx.Client) -> httpx.Client:
    """A client of a server with a thread and an assistant of the id ID."""
    http.post("/threads", json={"thread_id": ID, "metadata": {"graph_id": "steps"}})
    http.post("/assistants", json={"assistant_id": ID, "graph_id": "steps"})
    return http


@given(sent=requests())
@settings(max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_no_body_makes_the_server_fail(fuzzed: httpx.Client, sent: tuple[str, str, Any]) -> None:
    method, path, body = sent
    answer = fuzzed.request(method, path.format(thread_id=ID, run_id=ID, assistant_id=ID), json=body)
    assert answer.status_code < 500, (method, path, body, answer.text)

"""JSON of whatever a graph may hold, and the shapes of ids, moments and errors."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import ipaddress
import json
import uuid
from collections import deque, namedtuple
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langgraph.types import Send
from pydantic import BaseModel

import devserver


class Colour(enum.Enum):
    RED = "red"
    BIG = 2**70


class Model(BaseModel):
    n: int


class WithDict:
    def dict(self) -> dict[str, int]:
        return {"n": 1}


class Raising:
    def model_dump(self) -> Any:
        raise RuntimeError


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@dataclasses.dataclass
class Point:
    x: Any
    _hidden: int = 0


Pair = namedtuple("Pair", "a b")


def value_of(value: Any) -> Any:
    return json.loads(devserver.to_json(value))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (ValueError("no"), {"error": "ValueError", "message": "no"}),
        (Unspeakable(), {"error": "Unspeakable", "message": "(its message can't be shown)"}),
        (Model(n=1), {"n": 1}),
        (Send("node", {"n": 1}), {"node": "node", "args": {"n": 1}}),
        (Pair(1, 2), {"a": 1, "b": 2}),
        ({1}, [1]),
        (frozenset({1}), [1]),
        (deque([1, (2, 3)]), [1, [2, 3]]),
        (b"\x00\xff", "AP8="),
        (bytearray(b"a"), "YQ=="),
        (memoryview(b"a"), "YQ=="),
        (datetime.timedelta(minutes=1, milliseconds=500), 60.5),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02T00:00:00+00:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.time(1, 2), "01:02:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (MappingProxyType({"n": 1}), {"n": 1}),
        (WithDict(), {"n": 1}),
        (Path("/a"), "/a"),
        (ipaddress.ip_address("::1"), "::1"),
        (Colour.RED, "red"),
        (Point(1), {"x": 1}),
        ({1: "a", None: "b", 1.5: "c"}, {"1": "a", "null": "b", "1.5": "c"}),
        ("a\0b", "a\ufffdb"),
        ({"k\0": ["\\u0000", "\\\\u0000", "\0"]}, {"k\ufffd": ["\\u0000", "\\\\u0000", "\ufffd"]}),
        (float("nan"), None),
        (float("inf"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_graph_may_hold_is_shown_as_json(value: Any, shown: Any) -> None:
    assert value_of(value) == shown
    assert value_of([{"deep": value}]) == [{"deep": shown}]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (2**64, 2.0**64),
        (10**400, str(10**400)),
        (Colour.BIG, 2.0**70),
        ("a\ud800", "a?"),
        ({"\ud800": Point(2**70)}, {"?": {"x": 2.0**70}}),
        ({(1, 2): "odd key"}, {"(1, 2)": "odd key"}),
        ([2**70, Model(n=1), {1}, Pair(1, 2)], [2.0**70, {"n": 1}, [1], {"a": 1, "b": 2}]),
        ([2**70, None, True, 1.5, b"a"], [2.0**70, None, True, 1.5, "YQ=="]),
        ([2**70, datetime.time(1, 2), uuid.UUID(int=0)], [2.0**70, "01:02:00", str(uuid.UUID(int=0))]),
    ],
    ids=str,
)
def test_what_json_libraries_refuse_is_mended(value: Any, shown: Any) -> None:
    assert value_of(value) == shown


def test_what_contains_itself_is_cut_off() -> None:
    loop: dict[str, Any] = {"n": 1}
    loop["self"] = [loop]
    assert value_of(loop) == {"n": 1, "self": [None]}
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert devserver.to_json(deep).startswith(b"[[[")


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b"1e999", b"\xef\xbb\xbf{}", b'"\xff"', b'"\\ud800"', b"'a'"])
def test_what_is_no_json_is_not_read(text: bytes) -> None:
    with pytest.raises(ValueError):
        devserver.from_json(text)


@pytest.mark.parametrize("text", [b'{"a\\u0000": 1}', '{"a\\u0000": 1}'])
def test_a_nul_is_replaced_when_read(text: Any) -> None:
    assert devserver.from_json(text) == {"a\ufffd": 1}


@pytest.mark.parametrize(
    ("whole", "part", "contained"),
    [
        ({"a": 1, "b": {"c": [1], "d": 2}}, {"b": {"c": [1]}}, True),
        ({"a": 1}, {}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": None}, {"a": None}, True),
        ({}, {"a": None}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": {"b": 1}}, False),
        (5, {"a": 1}, False),
    ],
)
def test_containment_compares_objects_by_their_keys(whole: Any, part: Mapping[str, Any], contained: bool) -> None:
    assert devserver.contains(whole, part) is contained


def test_an_error_without_words_says_its_statuss_phrase() -> None:
    assert devserver.NotFound().detail == "Not Found"
    assert devserver.Conflict("taken").detail == "taken"


@pytest.mark.parametrize(
    ("host", "is_here"),
    [("localhost", True), ("a.localhost", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False), ("a", False)],
)
def test_this_machine_is_known_by_its_names(host: str, is_here: bool) -> None:
    assert devserver.is_loopback(host) is is_here


CALL: Any = {"name": "f", "args": '{"a"', "id": "c", "index": 0, "type": "tool_call_chunk"}


@pytest.mark.parametrize(
    "message",
    [
        AIMessageChunk(content="a"),
        AIMessageChunk(content="a", id="1", chunk_position="last") + AIMessageChunk(content=" b"),
        AIMessageChunk.model_validate({"content": [{"type": "text", "text": "a"}], "more": Colour.RED}),
        AIMessageChunk(content="", response_metadata={"n": {1: 2}}, tool_call_chunks=[CALL]),
        AIMessageChunk(content="", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    ],
)
def test_a_token_is_shown_as_pydantic_does(message: AIMessageChunk) -> None:
    assert devserver.to_json(message) == devserver.to_json(message.model_dump())

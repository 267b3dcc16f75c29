"""Values that are no JSON, in a graph's state, its events, its questions, and in the store."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import operator
import pathlib
import re
import uuid
import zoneinfo
from typing import Annotated, Any, NamedTuple

from langgraph.config import get_store, get_stream_writer
from langgraph.graph import StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel, SecretStr
from typing_extensions import TypedDict

from devserver import SharedValue

ZURICH = zoneinfo.ZoneInfo("Europe/Zurich")
EAST = datetime.timezone(datetime.timedelta(hours=2))


class Price(enum.Enum):
    LOW = decimal.Decimal("0.5")
    NET = ipaddress.ip_network("10.0.0.0/8")


class Pair(NamedTuple):
    first: Any
    second: Any


class Money(BaseModel):
    amount: decimal.Decimal
    net: ipaddress.IPv4Network = ipaddress.IPv4Network("10.0.0.0/8")
    secret: SecretStr = SecretStr("hidden")


@dataclasses.dataclass
class Entry:
    amount: Any
    at: Any = None


class Loose(BaseModel):
    anything: Any


ODD: dict[str, Any] = {
    "decimal": decimal.Decimal("12.30"),
    "whole": decimal.Decimal("7"),
    "not a number": decimal.Decimal("NaN"),
    "immense": decimal.Decimal("1e400"),
    "network": ipaddress.ip_network("::/64"),
    "timezone": EAST,
    "zone": ZURICH,
    "time with zone": datetime.time(1, 2, tzinfo=EAST),
    "moment": datetime.datetime(2026, 7, 1, tzinfo=ZURICH),
    "pattern": re.compile("a+"),
    "enum": Price.LOW,
    "enum of network": Price.NET,
    "model": Money(amount=decimal.Decimal("0.10")),
    "dataclass": Entry(decimal.Decimal("5.5"), datetime.time(1, tzinfo=EAST)),
    "named tuple": Pair(decimal.Decimal("2"), {1}),
    "send": Send("end", {"x": decimal.Decimal("1.5")}),
    "deep": [{"x": (decimal.Decimal("3.25"), {"1": EAST})}],
    "a\ud800b": {"c\udfff": "d\ud800"},
    "surrogates": [
        Pair({"\ud800": 1}, ()),
        Entry({"\ud800": 1}),
        Loose(anything={"\ud800": 1}),
        Send("end", {"\ud800": 1}),
    ],
    "keys": {1: 1, uuid.UUID(int=1): 2, (1, 2): 3},
}
SHOWN: dict[str, Any] = {
    "decimal": 12.3,
    "whole": 7,
    "not a number": "NaN",
    "immense": "1E+400",
    "network": "::/64",
    "timezone": "UTC+02:00",
    "zone": "Europe/Zurich",
    "time with zone": "01:02:00+02:00",
    "moment": "2026-07-01T00:00:00+02:00",
    "pattern": "re.compile('a+')",
    "enum": 0.5,
    "enum of network": "10.0.0.0/8",
    "model": {"amount": 0.1, "net": "10.0.0.0/8", "secret": "**********"},
    "dataclass": {"amount": 5.5, "at": "01:00:00+02:00"},
    "named tuple": {"first": 2, "second": [1]},
    "send": {"node": "end", "args": {"x": 1.5}},
    "deep": [{"x": [3.25, {"1": "UTC+02:00"}]}],
    "a?b": {"c?": "d?"},
    "surrogates": [
        {"first": {"?": 1}, "second": []},
        {"amount": {"?": 1}, "at": None},
        {"anything": {"?": 1}},
        {"node": "end", "args": {"?": 1}},
    ],
    "keys": {"1": 1, "00000000-0000-0000-0000-000000000001": 2, "(1, 2)": 3},
}

# What LangGraph keeps in no checkpoint, but streams.
STREAMED: dict[str, Any] = {
    "fraction": fractions.Fraction(1, 3),
    "complex": complex(1, 2),
    "range": range(3),
    "array": array.array("i", [1, 2]),
    "integer": 10**400,
    "keys": {Price.LOW: 2, datetime.time(1, tzinfo=EAST): 4, decimal.Decimal("1"): 5},
}
STREAMED_SHOWN: dict[str, Any] = {
    "fraction": "1/3",
    "complex": "(1+2j)",
    "range": "range(0, 3)",
    "array": "array('i', [1, 2])",
    "integer": str(10**400),
    "keys": {"0.5": 2, "01:00:00+02:00": 4, "1": 5},
}

# What the store keeps, and the JSON that it comes to.
KEPT: dict[str, tuple[Any, Any]] = {
    "json": ({"a": [1, 2.5, None, True, "x"]}, {"a": [1, 2.5, None, True, "x"]}),
    "datetime": (datetime.datetime(2026, 1, 2, tzinfo=ZURICH), "2026-01-02T00:00:00+01:00"),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "time": (datetime.time(1, 2, tzinfo=EAST), "01:02:00+02:00"),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "enum": (Price.LOW, 0.5),
    "decimal": (decimal.Decimal("12.30"), 12.3),
    "set": ({1}, [1]),
    "frozenset": (frozenset("a"), ["a"]),
    "tuple": ((1, (2,)), [1, [2]]),
    "named tuple": (Pair(1, {2}), {"first": 1, "second": [2]}),
    "dataclass": (Entry(decimal.Decimal("5.5"), {1}), {"amount": 5.5, "at": [1]}),
    "model": (Money(amount=decimal.Decimal("0.10")), {"amount": 0.1, "net": "10.0.0.0/8", "secret": "**********"}),
    "counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "keys": (
        {1: "a", datetime.date(2026, 1, 2): {uuid.UUID(int=1): 1}},
        {"1": "a", "2026-01-02": {str(uuid.UUID(int=1)): 1}},
    ),
    "surrogate": ({"a\ud800": "b\ud800"}, {"a?": "b?"}),
}

# What it refuses: where in the value, and of which type.
REFUSED: dict[str, tuple[Any, str, str]] = {
    "bytes": (b"\x00", "v", "bytes"),
    "duration": (datetime.timedelta(1), "v", "timedelta"),
    "path": (pathlib.PurePosixPath("a"), "v", "PurePosixPath"),
    "pattern": ({"list": [1, {"p": re.compile("a")}]}, "v.list[1].p", "Pattern"),
    "network": (Price.NET, "v", "IPv4Network"),
    "complex": ((1, complex(1, 2)), "v[1]", "complex"),
    "timezone": ({"a": {EAST}}, "v.a[0]", "timezone"),
    "object": (Entry(1, at=object()), "v.at", "object"),
    "in a model": (Loose(anything={"x": [object()]}), "v.anything.x[0]", "object"),
    "class": (Money, "v", "ModelMetaclass"),
    "deque": (collections.deque([1]), "v", "deque"),
    "key": ({"a": {(1, 2): 3}}, "v.a", "tuple"),
}


class State(TypedDict, total=False):
    v: Any
    ask: bool
    name: str
    log: Annotated[list[str], operator.add]


class SharedState(State, total=False):
    info: Annotated[dict[str, Any], SharedValue.on("user")]


def show(state: State) -> Any:
    get_stream_writer()({"v": ODD, "streamed": STREAMED})
    return {"v": ODD}


def end(state: State) -> Any:
    return {"log": [interrupt(ODD)]} if state.get("ask") else Command(update={"log": ["end"]})


odd = StateGraph(State).add_sequence([show, end]).add_edge("__start__", "show").compile()


def put(state: State) -> Any:
    """Put one of the values into the store, and tell what a node reads there afterwards."""
    name = state["name"]
    value = (KEPT | REFUSED)[name][0]
    get_store().put(("odd", "values"), name, {"v": value})
    item = get_store().get(("odd", "values"), name)
    return {"v": item and item.value}


async def aput(state: State) -> Any:
    name = state["name"]
    value = (KEPT | REFUSED)[name][0]
    await get_store().aput(("odd", "values"), name, {"v": value})
    item = await get_store().aget(("odd", "values"), name)
    return {"v": item and item.value}


def share(state: SharedState) -> Any:
    name = state["name"]
    return {"info": {name: {"v": (KEPT | REFUSED)[name][0]}}}


def shared(state: SharedState) -> Any:
    return {"v": state["info"][state["name"]]}


puts = StateGraph(State).add_node(put).add_edge("__start__", "put").compile()
aputs = StateGraph(State).add_node(aput).add_edge("__start__", "aput").compile()
shares = StateGraph(SharedState).add_sequence([share, shared]).add_edge("__start__", "share").compile()

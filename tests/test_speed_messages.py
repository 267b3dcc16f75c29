"""Messages are written from their fields, with the JSON of model_dump and the bytes of LangGraph's own serializer."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel, ConfigDict, Field, model_serializer

import devserver

KINDS: list[Any] = [AIMessage, HumanMessage, SystemMessage, ToolMessage]
OWN: Any = devserver.CheckpointerSerde().serializer()


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Place:
    name: str
    _hidden: int = 1
    point: Point = field(default_factory=lambda: Point(1, 2))


class Color(enum.Enum):
    RED = "red"


class Aliased(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    n: int = Field(1, alias="number")
    secret: str = Field("s", exclude=True)


class Own(BaseModel):
    @model_serializer
    def shown(self) -> dict[str, Any]:
        return {"own": True}


class Serialized(AIMessage):
    @model_serializer
    def shown(self) -> dict[str, Any]:
        return {"content": self.content, "own": True}


class Wider(HumanMessage):
    more: int = 1


class Text(str):
    pass


class Dict(dict[str, Any]):
    pass


ODD = [
    *(Place("here"), [Place("here")], Point(1, 2), Color.RED, {Color.RED: 1}, Aliased(number=2, secret="s"), Own()),
    *(Text("t"), Dict(a=1), OrderedDict(b=1, a=2), {1: "one"}, {(1, 2): 3}, b"bytes", (1, 2), {3}, frozenset({4})),
    *(
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        datetime.timedelta(1),
        decimal.Decimal("1.5"),
        uuid.UUID(int=7),
    ),
    *(float("nan"), float("inf"), 2**63 - 1, "\x00", "é\u2028", None, [], {}, {"deep": [{"deeper": [1.5, True]}]}),
    *(HumanMessage("inner"), [AIMessage("inner", id="1")], ToolMessage("t", tool_call_id="1", artifact=Place("far"))),
]


def changed(message: BaseMessage, **fields: Any) -> BaseMessage:
    """Return the message with fields that nobody has validated."""
    for name, value in fields.items():
        message.__dict__[name] = value
    return message


def with_(message: BaseMessage, change: Callable[[Any], None]) -> BaseMessage:
    change(message)
    return message


def tool_call(**more: Any) -> Any:
    return {"name": "search", "args": {"q": "x"}, "id": "1", "type": "tool_call", **more}


def usage(**more: Any) -> Any:
    return {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, **more}


UNUSUAL = {
    "extra": AIMessage("a", extra={"n": 1}),
    "extra object": HumanMessage("a", extra=Place("here")),
    "set later": with_(HumanMessage("a"), lambda m: setattr(m, "later", 1)),
    "subclass": Wider(content="a"),
    "subclass with a serializer": Serialized(content="a"),
    "unknown key of a call": with_(AIMessage("a", tool_calls=[tool_call()]), lambda m: m.tool_calls[0].update(extra=1)),
    "unknown key of usage": changed(AIMessage("a"), usage_metadata=usage(flex=1)),
    "unknown key of details": changed(AIMessage("a"), usage_metadata=usage(input_token_details={"flex_cache": 1})),
    "details": AIMessage("a", usage_metadata=usage(output_token_details={"reasoning": 1})),
    "calls": AIMessage("a", tool_calls=[tool_call(), tool_call(args={})]),
    "call with an object": AIMessage("a", tool_calls=[tool_call(args={"place": Place("here")})]),
    "call that is a Dict": changed(AIMessage("a"), tool_calls=[Dict(tool_call())]),
    "invalid call": AIMessage(
        "a", invalid_tool_calls=[{"name": "n", "args": "{", "id": "1", "error": "e", "type": "invalid_tool_call"}]
    ),
    "without a field": with_(HumanMessage("a"), lambda m: m.__dict__.pop("name")),
    "with a foreign one": changed(HumanMessage("a"), foreign=1),
    "other order": HumanMessage.model_construct(id="1", content="a"),
    "content that is no text": changed(AIMessage("a"), content=7),
    "content that is a model": changed(AIMessage("a"), content=Aliased(number=1, secret="s")),
    "content of blocks": HumanMessage([{"type": "text", "text": "a"}, "b", {"type": "image", "source": Place("here")}]),
    "chat": ChatMessage(content="a", role="r"),
    "function": FunctionMessage(content="a", name="f"),
    "remove": RemoveMessage(id="1"),
}


def check(message: BaseMessage) -> None:
    """Compare what is written of a message, alone and among others, with what its model_dump and LangGraph write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic, on fields that nobody has validated
        dumped = message.model_dump()
        assert devserver.to_json(message) == devserver.to_json(dumped)
        assert devserver.shown_json([message, message]) == devserver.to_json([dumped, dumped])
        state = {"messages": [message, SystemMessage("s")], "one": message}
        theirs = JsonPlusSerializer()
        try:
            expected = theirs.dumps_typed(state)
        except TypeError:
            return
        assert OWN.dumps_typed(state) == expected
        assert repr(theirs.loads_typed(OWN.dumps_typed(state))) == repr(theirs.loads_typed(expected))


@pytest.mark.parametrize("message", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_messages_are_written_as_ever(message: BaseMessage) -> None:
    check(message)


@pytest.mark.parametrize("value", ODD, ids=lambda value: str(type(value).__name__))
@pytest.mark.parametrize("place", ["additional_kwargs", "response_metadata", "content", "artifact"])
def test_whatever_is_inside_of_a_message_is_written_as_ever(value: Any, place: str) -> None:
    if place == "artifact":
        check(ToolMessage("a", tool_call_id="1", artifact=value))
    elif place == "content":
        check(changed(HumanMessage("a"), content=[{"type": "text", "held": value}]))
    else:
        check(AIMessage("a", **{place: {"held": value}}))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
anything = st.recursive(plain | st.sampled_from(ODD), lambda inner: st.lists(inner, max_size=2), max_leaves=4)
tokens = st.integers(0, 10**9)
usages = st.fixed_dictionaries(
    {"input_tokens": tokens, "output_tokens": tokens, "total_tokens": tokens},
    optional={
        "input_token_details": st.dictionaries(st.sampled_from(["audio", "cache_read", "flex"]), tokens),
        "output_token_details": st.dictionaries(st.sampled_from(["audio", "reasoning", "flex"]), tokens),
        "other": tokens,
    },
)
calls = st.fixed_dictionaries(
    {"name": st.text(), "args": st.dictionaries(st.text(), anything, max_size=2), "id": st.none() | st.text()},
    optional={"type": st.just("tool_call"), "extra": plain},
)


@given(
    kind=st.sampled_from(KINDS),
    content=st.text() | st.lists(st.text() | st.dictionaries(st.text(), anything, max_size=3), max_size=3),
    name=st.none() | st.text(),
    kwargs=st.dictionaries(st.text(), anything, max_size=3),
    metadata=st.dictionaries(st.text(), anything, max_size=3),
    used=st.none() | usages,
    called=st.lists(calls, max_size=2),
    extra=st.dictionaries(st.sampled_from(["more", "less"]), anything, max_size=1),
)
def test_every_message_is_written_as_ever(
    kind: Any, content: Any, name: Any, kwargs: Any, metadata: Any, used: Any, called: Any, extra: Any
) -> None:
    more: dict[str, Any] = {"tool_call_id": "1", "artifact": metadata} if kind is ToolMessage else {}
    message = kind(content, name=name, additional_kwargs=kwargs, response_metadata=metadata, **more, **extra)
    if kind is AIMessage:
        message = changed(message, usage_metadata=used, tool_calls=called)
    check(message)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_messages_of_nothing_but_json_are_not_dumped(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"tool_call_id": "1", "artifact": {"rows": [1, 2]}} if kind is ToolMessage else {}
    if kind is AIMessage:
        more = {"tool_calls": [tool_call()], "usage_metadata": usage(output_token_details={"reasoning": 1})}
    message = kind([{"type": "text", "text": "a"}], id="1", response_metadata={"model": "m", "n": [1.5, None]}, **more)
    expected = orjson.dumps(message.model_dump()), JsonPlusSerializer().dumps_typed([message])

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(kind, "model_dump", fail)
    assert (devserver.to_json(message), OWN.dumps_typed([message])) == expected


def test_tokens_are_written_as_ever() -> None:
    token = AIMessageChunk(content="a", id="1", response_metadata={"n": 1})
    assert orjson.loads(devserver.to_json(token)) == token.model_dump()

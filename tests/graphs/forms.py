"""Graphs with an output schema, with questions that have a schema, and with jumps beside a question."""

from __future__ import annotations

import dataclasses
import operator
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

from langgraph.errors import GraphInterrupt
from langgraph.graph import StateGraph
from langgraph.types import Interrupt, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

SECRET = "internal text"


class In(TypedDict):
    q: str


class Out(TypedDict, total=False):
    ans: str
    log: Annotated[list[str], operator.add]


class Full(In, Out, total=False):
    secret: str


def think(state: Full) -> Any:
    return {"secret": SECRET, "log": ["think"]} if state["q"] == "both" else {"secret": SECRET}


def answer(state: Full) -> Any:
    return {"ans": f"{state['q']}!" if state["q"] != "ask" else interrupt("really?")}


private_builder = StateGraph(Full, input_schema=In, output_schema=Out).add_sequence([think, answer])
private_builder.add_edge("__start__", "think")
private = private_builder.compile()
nested = (
    StateGraph(Full, input_schema=In, output_schema=Out)
    .add_node("child", private_builder.compile())
    .add_edge("__start__", "child")
    .compile()
)


def made() -> Any:
    return private_builder.compile()


# Questions


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


class Age(BaseModel):
    age: int


@dataclasses.dataclass(slots=True)
class Ranked(Interrupt):  # type: ignore[misc]
    """As an Interrupt of a later LangGraph might be."""

    rank: int | None = None


def begin(state: Log) -> Any:
    return {"log": ["begin"]}


def ask(state: Log) -> Any:
    return {"log": [f"ask:{interrupt('age?', response_schema=Age).age}"]}


def other(state: Log) -> Any:
    return {"log": ["other"]}


def rank(state: Log) -> Any:
    question = Ranked("rank?", "0" * 32)
    question.rank = 3
    raise GraphInterrupt([question])


asks = StateGraph(Log).add_sequence([begin, ask]).add_node(other).add_edge("__start__", "begin").compile()
ranked = StateGraph(Log).add_node(rank).add_edge("__start__", "rank").compile()
parent = StateGraph(Log).add_node("child", asks).add_edge("__start__", "child").compile()
whole: Any = StateGraph(Annotated[list[Any], operator.add])  # type: ignore[arg-type]
root = whole.add_node("keep", lambda state: []).add_edge("__start__", "keep").compile()


# Schemas


class Odd(typing.TypedDict, total=False):
    """Neither its Callable nor, in this Python, a typing.TypedDict has a JSON schema."""

    n: int
    call: Callable[[int], int]
    own: Interrupt


class OddModel(BaseModel):
    n: int
    call: Callable[[int], int] | None = None


@dataclasses.dataclass
class Configured:
    model_name: Literal["a", "b"] = "a"
    call: Callable[[int], int] | None = None


odd = StateGraph(Odd, context_schema=Configured).add_node("n", lambda state: {}).add_edge("__start__", "n").compile()
odd_model = StateGraph(OddModel).add_node("n", lambda state: {}).add_edge("__start__", "n").compile()

"""Small, offline, deterministic graphs, each for one thing that the server has to get right."""

from __future__ import annotations

import asyncio
import operator
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.config import get_config, get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

Update = dict[str, Any]


# Three steps; `trail` and `total` are reduced, `text` is replaced.


class Steps(TypedDict, total=False):
    text: str
    trail: Annotated[list[str], operator.add]
    total: Annotated[int, operator.add]


def first(state: Steps) -> Update:
    return {"trail": ["first"], "total": 1}


def second(state: Steps) -> Update:
    return {"trail": ["second"], "total": 10}


def third(state: Steps) -> Update:
    return {"trail": ["third"], "total": 100, "text": f"{state.get('text', '')}!"}


steps = (
    StateGraph(Steps)
    .add_node(first)
    .add_node(second)
    .add_node(third)
    .add_edge(START, "first")
    .add_edge("first", "second")
    .add_edge("second", "third")
    .add_edge("third", END)
    .compile()
)


# Fails in its second step, unless asked for nothing.


class UnheardError(Exception):
    """An exception of the user's own."""


class Failing(TypedDict, total=False):
    kind: str
    trail: Annotated[list[str], operator.add]


def prepare(state: Failing) -> Update:
    return {"trail": ["prepared"]}


def fail(state: Failing) -> Update:
    match state.get("kind", "value"):
        case "value":
            raise ValueError("no good value")
        case "own":
            raise UnheardError("nobody knows this class")
        case "zero":
            return {"trail": [str(1 // 0)]}
        case "exit":
            raise SystemExit(3)
        case "update":
            return ["not", "an", "update"]  # type: ignore[return-value]
    return {"trail": ["survived"]}


failing = (
    StateGraph(Failing)
    .add_node(prepare)
    .add_node(fail)
    .add_edge(START, "prepare")
    .add_edge("prepare", "fail")
    .add_edge("fail", END)
    .compile()
)


# Waits in its middle step until a file appears; emits before and after it, `burst` events at once, and
# with `ticks` one every now and then meanwhile.


class Gated(TypedDict, total=False):
    gate: str
    burst: int
    ticks: bool
    trail: Annotated[list[str], operator.add]


def before(state: Gated) -> Update:
    return {"trail": ["before"]}


async def until_open(gate: str | None, tick: Callable[[], None] | None = None) -> None:
    for n in range(6000):
        if not gate or Path(gate).exists():
            return
        if tick and n % 50 == 49:
            tick()
        await asyncio.sleep(0.005)


async def wait(state: Gated) -> Update:
    writer = get_stream_writer()
    burst = state.get("burst", 1)
    for n in range(burst):
        writer({"n": n})
    await until_open(state.get("gate"), (lambda: writer("tick")) if state.get("ticks") else None)
    for n in range(burst, 2 * burst):
        writer({"n": n})
    return {"trail": ["waited"]}


def after(state: Gated) -> Update:
    return {"trail": ["after"]}


gated = (
    StateGraph(Gated)
    .add_node(before)
    .add_node(wait)
    .add_node(after)
    .add_edge(START, "before")
    .add_edge("before", "wait")
    .add_edge("wait", "after")
    .add_edge("after", END)
    .compile()
)


# Blocks its thread until a file appears, and says when it waits and when it is done.


class Stubborn(TypedDict, total=False):
    gate: str
    done: str
    trail: Annotated[list[str], operator.add]


def block(state: Stubborn) -> Update:
    Path(f"{state['gate']}.waits").touch()
    while not Path(state["gate"]).exists():
        time.sleep(0.005)
    Path(state["done"]).touch()
    return {"trail": ["blocked"]}


stubborn = StateGraph(Stubborn).add_node(block).add_edge(START, "block").add_edge("block", END).compile()


# One question; the answer decides the way. Publishing waits until a file appears, if one is named.


class Question(TypedDict, total=False):
    gate: str
    topic: str
    draft: str
    decision: Any
    trail: Annotated[list[str], operator.add]


def draft(state: Question) -> Update:
    return {"draft": f"about {state.get('topic', 'nothing')}", "trail": ["draft"]}


def review(state: Question) -> Update:
    answer = interrupt({"question": "publish?", "draft": state.get("draft")})
    return {"decision": answer, "trail": ["review"]}


async def publish(state: Question) -> Update:
    await until_open(state.get("gate"))
    return {"trail": ["publish"]}


def shelve(state: Question) -> Update:
    return {"trail": ["shelve"]}


def decide(state: Question) -> str:
    return "shelve" if state.get("decision") == "no" else "publish"


question = (
    StateGraph(Question)
    .add_node(draft)
    .add_node(review)
    .add_node(publish)
    .add_node(shelve)
    .add_edge(START, "draft")
    .add_edge("draft", "review")
    .add_conditional_edges("review", decide, ["publish", "shelve"])
    .add_edge("publish", END)
    .add_edge("shelve", END)
    .compile()
)


# Two questions at the same time.


class Pair(TypedDict, total=False):
    left: Any
    right: Any
    trail: Annotated[list[str], operator.add]


def ask_left(state: Pair) -> Update:
    return {"left": interrupt("left?"), "trail": ["left"]}


def ask_right(state: Pair) -> Update:
    return {"right": interrupt("right?"), "trail": ["right"]}


def both(state: Pair) -> Update:
    return {"trail": [f"{state.get('left')} and {state.get('right')}"]}


questions = (
    StateGraph(Pair)
    .add_node(ask_left)
    .add_node(ask_right)
    .add_node(both)
    .add_edge(START, "ask_left")
    .add_edge(START, "ask_right")
    .add_edge(["ask_left", "ask_right"], "both")
    .add_edge("both", END)
    .compile()
)


# A parent, its child and its grandchild, which asks a question if `ask` is set.


class Nested(TypedDict, total=False):
    text: str
    ask: bool
    trail: Annotated[list[str], operator.add]


class Inner(TypedDict, total=False):
    text: str
    ask: bool
    inner: str


def leaf(state: Inner) -> Update:
    answer = interrupt("go deeper?") if state.get("ask") else "yes"
    return {"inner": f"leaf {answer}"}


grand = StateGraph(Inner).add_node(leaf).add_edge(START, "leaf").add_edge("leaf", END).compile()


def open_child(state: Inner) -> Update:
    return {"inner": "open"}


def close_child(state: Inner) -> Update:
    return {"text": f"{state.get('text')}+{state.get('inner')}"}


child = (
    StateGraph(Inner)
    .add_node(open_child)
    .add_node("grand", grand)
    .add_node(close_child)
    .add_edge(START, "open_child")
    .add_edge("open_child", "grand")
    .add_edge("grand", "close_child")
    .add_edge("close_child", END)
    .compile()
)


def enter(state: Nested) -> Update:
    return {"trail": ["enter"]}


def leave(state: Nested) -> Update:
    return {"trail": ["leave"]}


nested = (
    StateGraph(Nested)
    .add_node(enter)
    .add_node("child", child)
    .add_node(leave)
    .add_edge(START, "enter")
    .add_edge("enter", "child")
    .add_edge("child", "leave")
    .add_edge("leave", END)
    .compile(name="a nested graph")
)


# A chat model that says back what it heard, word by word.


class Parrot(BaseChatModel):
    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _words(self, messages: list[BaseMessage]) -> list[str]:
        return f"you said {messages[-1].text}".split(" ")

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(" ".join(self._words(messages))))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for position, word in enumerate(self._words(messages)):
            text = word if position == 0 else f" {word}"
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
            if run_manager:
                await run_manager.on_llm_new_token(text, chunk=chunk)
            yield chunk


async def answer(state: MessagesState) -> Update:
    return {"messages": [await Parrot().ainvoke(state["messages"])]}


def sign(state: MessagesState) -> Update:
    return {"messages": [AIMessage("-- the parrot", id=f"sign-{uuid.uuid4()}")]}


chat = (
    StateGraph(MessagesState)
    .add_node(answer)
    .add_node(sign)
    .add_edge(START, "answer")
    .add_edge("answer", "sign")
    .add_edge("sign", END)
    .compile()
)


# Writes whatever it is given to the custom stream.


class Writer(TypedDict, total=False):
    write: list[Any]


def write(state: Writer) -> Update:
    writer = get_stream_writer()
    for value in state.get("write", []):
        writer(value)
    return {}


writer = StateGraph(Writer).add_node(write).add_edge(START, "write").add_edge("write", END).compile()


# Tells what it sees of its context and config.


@dataclass
class Context:
    user: str = "nobody"
    level: int = 0


class Seen(TypedDict, total=False):
    seen: dict[str, Any]


def look(state: Seen, runtime: Runtime[Context]) -> Update:
    known, config = runtime.context, get_config()
    seen = {
        "context": {"user": known.user, "level": known.level} if isinstance(known, Context) else None,
        "configurable": {k: v for k, v in config["configurable"].items() if not k.startswith("__")},
        "metadata": dict(config["metadata"]),
        "tags": list(config.get("tags") or []),
        "recursion_limit": config.get("recursion_limit"),
    }
    return {"seen": seen}


context = (
    StateGraph(Seen, context_schema=Context).add_node(look).add_edge(START, "look").add_edge("look", END).compile()
)


# The functional form.


@task
async def double(number: int) -> int:
    return number * 2


@entrypoint()
async def workflow(given: dict[str, int], *, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"doubled": await double(given.get("number", 1)), "before": (previous or {}).get("doubled")}


# State that pydantic checks.


class Typed(BaseModel):
    count: Annotated[int, operator.add] = 0
    name: str = ""


def rename(state: Typed) -> Update:
    return {"name": f"{state.name} {state.count}", "count": 1}


typed = StateGraph(Typed).add_node(rename).add_edge(START, "rename").add_edge("rename", END).compile()


# Reads and writes the store.


class Notes(TypedDict, total=False):
    space: str
    note: str
    found: list[str]


async def take_note(state: Notes, runtime: Runtime[None]) -> Update:
    assert runtime.store
    if "note" in state:
        await runtime.store.aput(("notes", state["space"]), state["note"], {"text": state["note"]})
    return {"found": sorted(item.key for item in await runtime.store.asearch(("notes", state["space"])))}


notes = StateGraph(Notes).add_node(take_note).add_edge(START, "take_note").add_edge("take_note", END).compile()

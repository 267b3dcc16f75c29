"""A thread's history makes a message once that many of its states hold; what user code is given stays its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import NEEDS, LiveServer
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import MessagesState, StateGraph

import devserver

GRAPHS = """
import operator
from typing import Annotated, Any
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.channels import LastValue
from langgraph.graph import MessagesState, StateGraph
from langgraph.types import CachePolicy
from pydantic import BaseModel, field_validator, model_validator
from typing_extensions import TypedDict

made = 0


class Counted(AIMessage):
    @model_validator(mode="after")
    def count(self):
        global made
        made += 1
        return self


def answer(state: MessagesState):
    return {"messages": [Counted("well"), AIMessage("then")]}


def tell(state: dict) -> dict:
    return {"made": made}


class Count(TypedDict, total=False):
    made: int


def shout(messages):
    for message in messages:
        if isinstance(message, AIMessage):
            message.content += "!"
    return messages


def merge(old, new):
    return [*shout(old), *new]


def replay(old, updates):
    return [*shout(old or []), *(each for update in updates for each in update)]


class Validated(BaseModel):
    messages: Annotated[list[AnyMessage], operator.add] = []

    @field_validator("messages", mode="after")
    @classmethod
    def loud(cls, messages):
        return shout(messages)


class Reduced(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], merge]


class Own(LastValue):
    def from_checkpoint(self, checkpoint):
        channel = super().from_checkpoint(checkpoint)
        if isinstance(channel.value if hasattr(channel, "value") else None, list):
            shout(channel.value)
        return channel


class OfOwn(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], Own]


class Plain(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], operator.add]


def key_of(value):
    shout(value["messages"])
    return "key"


def say(state):
    return {"messages": [AIMessage("well")]}


def say_more(state):
    return {"messages": [*state["messages"], AIMessage("well")]}


def graph(schema, node=say, **options):
    nodes = StateGraph(schema).add_node("one", node, **options).add_node("two", node)
    return nodes.set_entry_point("one").add_edge("one", "two").compile()


counted = graph(MessagesState, answer)
count = StateGraph(Count).add_node(tell).set_entry_point("tell").compile()
validated = graph(Validated)
reduced = graph(Reduced)
of_own = graph(OfOwn, say_more)
cached = graph(Plain, cache_policy=CachePolicy(key_func=key_of))
"""
DELTA = """
from langgraph.channels.delta import DeltaChannel
from graphs import *

class Deltas(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], DeltaChannel(replay)]

deltas = graph(Deltas)
"""
ASKED = {"messages": [{"role": "user", "content": "and?", "type": "human", "id": "1"}]}


PLAIN = StateGraph(MessagesState).add_node("node", lambda state: {}).set_entry_point("node").compile()


def serve(make_server: Callable[..., LiveServer], name: str) -> LiveServer:
    file = "delta.py" if name == "deltas" else "graphs.py"
    return make_server(
        {name: f"./{file}:{name}", "count": "./graphs.py:count"}, {"graphs.py": GRAPHS, "delta.py": DELTA}
    )


def test_a_history_makes_each_message_once(make_server: Callable[..., LiveServer]) -> None:
    with serve(make_server, "counted").http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        for _ in range(10):
            http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "counted", "input": ASKED})

        def count() -> int:
            return int(http.post("/runs/wait", json={"assistant_id": "count", "input": {}}).json()["made"])

        before = count()
        history = http.post(f"/threads/{thread}/history", json={"limit": 100}).json()
        # Two of its kind a turn, in up to forty states each. One whose write was stored before it got its id is made
        # once more.
        assert 20 <= count() - before <= 24
        assert len(history) == 40
        for state in history:
            assert state == http.get(f"/threads/{thread}/state/{state['checkpoint_id']}").json()
        assert len(history[0]["values"]["messages"]) == 41
        assert history == http.get(f"/threads/{thread}/history?limit=100").json()


@pytest.mark.parametrize(
    "name", ["validated", "reduced", "of_own", "cached", pytest.param("deltas", marks=NEEDS["delta"])]
)
def test_what_user_code_changes_in_one_state_no_other_state_shows(
    make_server: Callable[..., LiveServer], name: str
) -> None:
    """A validator, a reducer, a channel or a cache's key that changes the messages that it is given."""
    with serve(make_server, name).http() as http:
        thread = http.post("/threads", json={}).json()["thread_id"]
        for _ in range(3):
            http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": name, "input": ASKED})
        if (
            name == "reduced"
        ):  # an update beside an answer is written to the checkpoint it finds, and reduced by who reads
            command = {"update": ASKED, "goto": "two"}
            http.post(f"/threads/{thread}/runs/wait", json={"assistant_id": name, "command": command})
        history = http.post(f"/threads/{thread}/history", json={"limit": 100}).json()
        alone = [http.get(f"/threads/{thread}/state/{each['checkpoint_id']}").json() for each in history]
        assert len(history) > 8
        assert [each["values"] for each in history] == [each["values"] for each in alone]


def test_only_a_serializer_for_show_shares_messages() -> None:
    own = devserver.CheckpointerSerde().serializer()
    assert isinstance(own, devserver.Serializer)
    shown, message = own.for_show(PLAIN), AIMessage("a", id="1", response_metadata={"deep": [{"n": 1}]})
    kept = [own.dumps_typed({"channel_values": {"messages": [message] * n}}) for n in (1, 2)]
    assert kept[0] == JsonPlusSerializer().dumps_typed({"channel_values": {"messages": [message]}})

    def messages(serializer: Any) -> list[Any]:
        return [each for one in kept for each in serializer.loads_typed(one)["channel_values"]["messages"]]

    assert messages(shown) == messages(own) == [message] * 3
    assert len(set(map(id, messages(shown)))) == 1
    assert len(set(map(id, messages(own)))) == 3
    assert messages(own.for_show(PLAIN))[0] is not messages(shown)[0]


def test_the_json_of_what_is_shown_is_the_same() -> None:
    odd = [HumanMessage("\ud800"), AIMessage("a\x00b", id="2"), AIMessage("a", additional_kwargs={"n": 2**70})]
    message = AIMessage("a", id="1", response_metadata={"at": float("nan")})
    for value in ([message, [message, {"m": message}]], [odd, odd], [{"v": {1: odd}}], message, 1, object):
        assert devserver.shown_json(value) == devserver.to_json(value)

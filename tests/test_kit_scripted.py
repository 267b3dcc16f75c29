"""Models that answer what a test's script says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kit_project import run_pytest, write_files
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel
from test_kit_models import FILES

from devserver import ModelError, ScriptedChatModel, call, error


class Weather(BaseModel):
    place: str
    degrees: int


@tool
def weather(place: str) -> str:
    """Tell the weather."""
    return f"sunny in {place}"


async def gathered(model: Any, text: str = "hi") -> AIMessage:
    whole = None
    async for chunk in model.astream(text):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    return AIMessage(whole.content, tool_calls=whole.tool_calls, usage_metadata=whole.usage_metadata)


@pytest.mark.parametrize("streams", [False, True])
async def test_answers_in_order(streams: bool) -> None:
    model = ScriptedChatModel().script(["Let me see.", call("weather", place="Paris")], "Sunny\n  there", usage=(3, 9))
    bound = model.bind_tools([weather])
    first = await gathered(bound) if streams else await bound.ainvoke("hi")
    assert first.content == "Let me see."
    assert [(each["name"], each["args"]) for each in first.tool_calls] == [("weather", {"place": "Paris"})]
    assert first.tool_calls[0]["id"]
    assert first.usage_metadata == {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}
    second = await gathered(model) if streams else model.invoke("ho")
    assert (second.content, second.tool_calls) == ("Sunny\n  there", [])
    assert model.calls[0]["tools"][0]["function"]["name"] == "weather"
    assert model.calls[0]["messages"] == [HumanMessage("hi")]


def test_streams_by_tokens_and_calls_in_chunks() -> None:
    model = ScriptedChatModel().script("one two three", call("weather", place="Paris"))
    assert [chunk.content for chunk in model.stream("hi")] == ["one ", "two ", "three", ""]
    pieces = [chunk.tool_call_chunks for chunk in model.stream("hi")]
    assert len(pieces) > 3
    assert pieces[0][0]["name"] == "weather"


def test_errors_on_cue() -> None:
    model = ScriptedChatModel().script(error(429), TimeoutError, "fine")
    with pytest.raises(ModelError, match="429") as raised:
        model.invoke("hi")
    assert raised.value.status_code == 429
    with pytest.raises(TimeoutError):
        list(model.stream("hi"))
    assert model.invoke("hi").content == "fine"
    with pytest.raises(LookupError, match=r"the script has run out: node None asked for answer 4 \(human: more\?\)"):
        model.invoke("more?")


def test_structured_output() -> None:
    model = ScriptedChatModel().script(Weather(place="Paris", degrees=20))
    assert model.with_structured_output(Weather).invoke("hi") == Weather(place="Paris", degrees=20)


def test_an_agent() -> None:
    agents = pytest.importorskip("langchain.agents")
    model = ScriptedChatModel().script(call("weather", place="Paris"), "It is sunny.")
    agent = agents.create_agent(model, [weather])
    messages = agent.invoke({"messages": [HumanMessage("weather?")]})["messages"]
    assert [message.content for message in messages[1:]] == ["", "sunny in Paris", "It is sunny."]


def test_an_empty_script_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        ScriptedChatModel().script()


TESTS = """
import pytest
from devserver import ScriptedChatModel, call, error
from langgraph.graph import START, MessagesState, StateGraph

def out(devserver, graph):
    return devserver.run(graph, {"text": "hi", "out": []}).values["out"]

def test_in_place_of_all(devserver, devserver_model):
    devserver_model.script("hello", node="streamed").script(call("look", at="it"), usage=(1, 2))
    with pytest.raises(RuntimeError):  # the embeddings are not scripted
        out(devserver, "all")
    assert [call["node"] for call in devserver_model.calls] == ["streamed", "tools"]

def test_streamed(devserver, devserver_model):
    devserver_model.script("hello you")
    parts = devserver.stream("swallows", {"text": "hi", "out": []}, stream_mode="messages-tuple")
    said = [part.data[0]["content"] for part in parts if part.event == "messages"]
    assert said == ["hello ", "you", ""]

def test_left_over(devserver, devserver_model):
    devserver_model.script("one", "two")
    out(devserver, "swallows")

def test_ran_out(devserver, devserver_model):
    assert out(devserver, "swallows") == ["sorry"]

MODEL = ScriptedChatModel()
GRAPH = StateGraph(MessagesState).add_node("say", lambda state: {"messages": MODEL.invoke(state["messages"])})
GRAPH.add_edge(START, "say")

@pytest.mark.devserver(graphs={"mine": GRAPH})
@pytest.mark.parametrize("ends", [1, 2])
def test_own(devserver, ends):
    MODEL.script(*["hello"] * ends)
    assert devserver.run("mine", "hi").text == "hello"
"""


def test_in_tests(tmp_path: Path) -> None:
    write_files(tmp_path, {**FILES, "test_script.py": TESTS})
    result = run_pytest(tmp_path)
    assert result.tests == {
        "test_in_place_of_all": "passed",
        "test_streamed": "passed",
        "test_left_over": "failure",
        "test_ran_out": "failure",
        "test_own[1]": "passed",
        "test_own[2]": "failure",
    }, result.output
    assert "nobody asked the scripted model for 'two'" in result.output
    assert "the script has run out: node swallow asked for answer 1 (human: hi)" in result.output

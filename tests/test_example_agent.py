"""The example agent in-process. Facts that cross threads need the server: here they are given as input."""

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langgraph.checkpoint.memory import InMemorySaver

from graphs.agent import Info, builder, chat_model, fact_key, graph
from graphs.rule_model import RuleBasedModel

PIZZA = {"fact": "I like pepperoni pizza", "topic": "food"}
SF = {"fact": "I just moved to SF", "topic": "location"}
model = RuleBasedModel().bind_tools([Info])


def told(text: str) -> list[dict[str, Any]]:
    """The facts that the model saves when a user says this."""
    return [call["args"] for call in model.invoke(text).tool_calls]


def asked(question: str, *facts: str) -> str:
    return str(model.invoke([SystemMessage("\n".join(facts)), HumanMessage(question)]).text)


def stream(text: str, mode: str, info: dict[str, Any] | None = None, agent: Any = graph) -> list[Any]:
    async def collect() -> list[Any]:
        sent = {"messages": [("user", text)]} | ({"info": info} if info else {})
        config = {"configurable": {"thread_id": "1", "user_id": "123"}}
        return [event async for event in agent.astream(sent, config, stream_mode=mode)]

    return asyncio.run(collect())


def run(text: str, info: dict[str, Any] | None = None, agent: Any = graph) -> list[list[AnyMessage]]:
    """The messages in each `values` event of one run."""
    return [event["messages"] for event in stream(text, "values", info, agent)]


def shape(messages: list[AnyMessage]) -> list[tuple[str, str]]:
    return [(message.type, message.text) for message in messages]


# The model


@pytest.mark.parametrize(
    ("text", "fact", "topic"),
    [
        ("i like pepperoni pizza", "I like pepperoni pizza", "food"),
        ("I love sushi!", "I love sushi", "food"),
        ("My favourite food is ramen.", "My favourite food is ramen", "food"),
        ("i'm vegetarian", "I am vegetarian", "food"),
        ("I\u2019m allergic to nuts", "I am allergic to nuts", "food"),
        ("i also just moved to SF", "I just moved to SF", "location"),
        ("Well, I live in New York", "I live in New York", "location"),
        ("hello, my name is Ann", "My name is Ann", "name"),
        ("I work as a baker", "I work as a baker", "work"),
        ("I hate loud music", "I hate loud music", "other"),
        ("i am tall", "I am tall", "other"),
    ],
)
def test_a_statement_about_the_user_becomes_an_info_call(text: str, fact: str, topic: str) -> None:
    reply = model.invoke(text)
    assert reply.text == ""
    assert [(call["name"], call["args"]) for call in reply.tool_calls] == [("Info", {"fact": fact, "topic": topic})]


def test_several_statements_in_one_message_become_several_calls() -> None:
    facts = [fact["fact"] for fact in told("My name is Bob! I love sushi, and i work at ACME. I love sushi.")]
    assert facts == ["My name is Bob", "I love sushi", "I work at ACME"]


def test_tool_call_ids_follow_from_the_conversation() -> None:
    def call_id(*texts: str) -> str | None:
        return model.invoke([HumanMessage(text) for text in texts]).tool_calls[0]["id"]

    assert call_id("i like tea") == call_id("i like tea")
    assert call_id("i like tea") != call_id("i like tea", "i like tea")
    first, second = model.invoke("i like tea and i like cake").tool_calls
    assert first["id"] != second["id"]


@pytest.mark.parametrize(
    "question",
    ["what do i like to eat?", "hey what do i like to eat", "do i like pizza", "What should I have for dinner?"],
)
def test_a_question_is_answered_from_the_facts_and_saves_nothing(question: str) -> None:
    facts = ("- food: I like pizza", "- name: My name is Bob")
    assert asked(question, *facts).startswith("You like pizza.")
    assert told(question) == []


def test_facts_of_no_topic_are_found_by_their_words() -> None:
    facts = ("- other: My favourite colour is green", "- other: I enjoy hiking")
    assert asked("what is my favourite colour?", *facts) == "Your favourite colour is green."


def test_asking_about_oneself_lists_every_fact() -> None:
    facts = ("- food: I like pizza", "- name: My name is Bob", "- other: I am tall")
    answer = "You like pizza, your name is Bob and you are tall."
    assert asked("what do you know about me?", *facts) == asked("who am I?", *facts) == answer


def test_without_a_matching_fact_it_says_so() -> None:
    assert "don't know anything about that yet" in asked("what is my name?", "- food: I like pizza")


def test_a_statement_and_a_question_are_saved_and_answered_at_once() -> None:
    reply = model.invoke("I live in SF. Where should I eat?")
    assert reply.text.startswith("You live in SF.")
    assert reply.tool_calls[0]["args"] == {"fact": "I live in SF", "topic": "location"}


@pytest.mark.parametrize("text", ["hello", "how are you?", "", "???"])
def test_anything_else_gets_a_friendly_reply(text: str) -> None:
    assert model.invoke(text).text.startswith("Hi!")


def test_without_the_info_tool_it_calls_none() -> None:
    reply = RuleBasedModel().invoke("i like tea")
    assert reply.tool_calls == []
    assert reply.text


def test_after_a_tool_result_it_calls_no_tool_again() -> None:
    [*_, messages] = run("i like tea")
    assert model.invoke(messages).tool_calls == []


@pytest.mark.parametrize("text", ["i like café crème", "who am i?", "i live in SF. what do i like to eat?"])
def test_streamed_chunks_add_up_to_the_whole_reply(text: str) -> None:
    async def astream() -> list[Any]:
        return [chunk async for chunk in model.astream(text)]

    expected = model.invoke(text)
    for chunks in (list[Any](model.stream(text)), asyncio.run(astream())):
        assert len(chunks) > 5
        assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
        whole = add_ai_message_chunks(*chunks)
        assert (whole.text, whole.tool_calls) == (expected.text, expected.tool_calls)
        assert whole.invalid_tool_calls == []


# The graph


def test_two_statements_are_each_saved_in_three_steps() -> None:
    agent = builder.compile(InMemorySaver())
    first = run("i like pepperoni pizza", agent=agent)
    one = [("human", "i like pepperoni pizza"), ("ai", ""), ("tool", "Saved!")]
    assert [shape(messages) for messages in first] == [one[:1], one[:2], one]

    second = run("i also just moved to SF", agent=agent)
    two = [("human", "i also just moved to SF"), ("ai", ""), ("tool", "Saved!")]
    assert [shape(messages) for messages in second] == [one + two[:1], one + two[:2], one + two]

    calls = [call for message in second[-1] if isinstance(message, AIMessage) for call in message.tool_calls]
    assert [(call["name"], call["args"]) for call in calls] == [("Info", PIZZA), ("Info", SF)]
    answered = [message.tool_call_id for message in second[-1] if isinstance(message, ToolMessage)]
    assert answered == [call["id"] for call in calls]


def test_the_answer_uses_facts_that_the_thread_never_saw() -> None:
    question = "where and what should i eat for dinner? Can you list some restaurants?"
    events = run(question, {"a": PIZZA, "b": SF})
    assert [[m.type for m in messages] for messages in events] == [["human"], ["human", "ai"]]
    assert "pepperoni pizza" in events[-1][-1].text
    assert "SF" in events[-1][-1].text
    assert events[-1][-1].text == run(question, {"b": SF, "a": PIZZA})[-1][-1].text


def test_a_user_without_facts_is_told_so() -> None:
    events = run("where do I live? what do I like to eat?")
    assert [[m.type for m in messages] for messages in events] == [["human"], ["human", "ai"]]
    assert "don't know anything about that yet" in events[-1][-1].text


def test_the_same_fact_has_the_same_place_in_info_however_it_is_said() -> None:
    def saved(text: str) -> dict[str, Any]:
        update: dict[str, Any] = stream(text, "updates")[-1]["save_info"]["info"]
        return update

    assert saved("i like pepperoni pizza") == {fact_key(PIZZA["fact"]): PIZZA}
    assert saved("I also like  pepperoni pizza!") == saved("i like pepperoni pizza")
    assert saved("I LIKE PEPPERONI PIZZA").keys() == saved("i like pepperoni pizza").keys()
    assert saved("i like C").keys() != saved("i like C++").keys()
    assert len(saved("i like tea and i like cake")) == 2


def test_stream_mode_messages_shows_each_token() -> None:
    answer = [chunk.text for chunk, _ in stream("where do I live?", "messages")]
    assert answer[:4] == ["I ", "don't ", "know ", "anything "]
    saving = [message for message, _ in stream("i like tea", "messages")]
    assert saving[-1].text == "Saved!"
    args = [piece["args"] for chunk in saving[:-1] for piece in chunk.tool_call_chunks]
    assert args == ["", '{"fact": ', '"I ', "like ", 'tea", ', '"topic": ', '"food"}']


# The choice of model


def test_without_a_named_model_the_rules_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEVSERVER_MODEL", raising=False)
    assert isinstance(chat_model(), RuleBasedModel)


def test_a_named_model_is_made_by_init_chat_model(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module, named = ModuleType("langchain"), ModuleType("langchain.chat_models"), RuleBasedModel()
    module.init_chat_model = {"openai:gpt-x": named}.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "langchain", package)
    monkeypatch.setitem(sys.modules, "langchain.chat_models", module)
    monkeypatch.setenv("DEVSERVER_MODEL", "openai:gpt-x")
    assert chat_model() is named


def test_a_named_model_without_langchain_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain", None)
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    monkeypatch.setenv("DEVSERVER_MODEL", "openai:gpt-x")
    with pytest.raises(ImportError, match=r"openai:gpt-x needs langchain: pip install devserver\[models\]"):
        chat_model()

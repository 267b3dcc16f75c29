"""What the example agent promises, tested as the author of an application would: a real server, no network."""

from typing import Any

import pytest

from devserver import Kit, call, error


def test_facts_are_known_in_all_threads_of_their_user(devserver: Kit) -> None:
    """What the model answered was recorded: recordings/test_agent/."""
    run = devserver.run("agent", "i like pepperoni pizza", user="123")
    assert run.nodes == ["call_model", "save_info"]
    assert run.tool_calls[0]["args"] == {"fact": "I like pepperoni pizza", "topic": "food"}
    assert [fact["topic"] for fact in devserver.shared("info", user_id="123").values()] == ["food"]
    assert "pizza" in devserver.run("agent", "what do I like to eat?", user="123").text
    assert "pizza" not in devserver.run("agent", "what do I like to eat?", user="321").text


def test_two_facts_at_once(devserver: Kit, devserver_model: Any) -> None:
    """What no recording has: the test says what the model answers."""
    facts = [call("Info", fact="I live in Oslo", topic="location"), call("Info", fact="I am Ada", topic="name")]
    devserver_model.script(facts)
    devserver.run("agent", "I am Ada, from Oslo", user="123")
    assert sorted(fact["fact"] for fact in devserver.shared("info", user_id="123").values()) == [
        "I am Ada",
        "I live in Oslo",
    ]


def test_a_provider_that_refuses(devserver: Kit, devserver_model: Any) -> None:
    devserver_model.script(error(429))
    with pytest.raises(Exception, match="429"):
        devserver.run("agent", "hello", user="123")
    assert devserver.shared("info", user_id="123") == {}


@pytest.mark.devserver(user="123", clock="2026-01-05T08:30")
def test_a_greeting_each_hour(devserver: Kit, devserver_model: Any) -> None:
    devserver_model.script(*["good day"] * 3)
    says: Any = {"input": {"messages": [{"role": "user", "content": "greet me"}]}, "on_run_completed": "keep"}
    config: Any = {"configurable": {"user_id": "123"}}
    devserver.sync_client.crons.create("agent", schedule="0 * * * *", config=config, **says)
    devserver.clock.advance(hours=3)
    assert devserver.sync_client.threads.count() == 3


def test_what_was_said_survives_a_crash(devserver: Kit, devserver_model: Any) -> None:
    devserver_model.script(call("Info", fact="I am Ada", topic="name"))
    thread = devserver.run("agent", "I am Ada", user="123").thread_id
    devserver.crash()
    values: Any = devserver.sync_client.threads.get_state(thread)["values"]
    assert len(values["messages"]) == 3

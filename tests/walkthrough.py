"""The README's walk-through, for whichever client: what is said, and what has to come back."""

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import ROOT, LiveServer

PIZZA = "i like pepperoni pizza"
MOVED = "i also just moved to SF"
DINNER = "where and what should i eat for dinner? Can you list some restaurants?"
WHO = "where do I live? what do I like to eat?"
# The thread, the user and the text of each step.
STEPS = [("first", "123", PIZZA), ("first", "123", MOVED), ("second", "123", DINNER), ("third", "321", WHO)]
FACTS = [{"fact": "I like pepperoni pizza", "topic": "food"}, {"fact": "I just moved to SF", "topic": "location"}]
# Before which steps the server is killed and started again.
RESTARTS: dict[str, set[int]] = {"never": set(), "before 2": {2}, "before 3": {3}, "before 4": {4}, "always": {2, 3, 4}}

Event = tuple[str, Any]
Message = dict[str, Any]
# Says a text as a user in a thread (None: a new one); gives the thread's id and all events of the stream.
Say = Callable[[str | None, str, str], tuple[str, list[Event]]]


@contextmanager
def example_server(folder: Path, *options: str) -> Iterator[LiveServer]:
    """A server of the repository's own langgraph.json and graphs, copied to a fresh folder."""
    shutil.copy(ROOT / "langgraph.json", folder)
    shutil.copytree(ROOT / "graphs", folder / "graphs", ignore=shutil.ignore_patterns("__pycache__"))
    server = LiveServer(folder, list(options)).start()
    yield server
    server.kill()


def walk_through(server: LiveServer, say: Say, restart_before: Collection[int] = ()) -> list[str]:
    """All four steps, each checked; gives the threads' ids."""
    threads: dict[str, str] = {}
    for number, (name, user, text) in enumerate(STEPS, 1):
        if number in restart_before:
            server.kill()
            server.start()
        threads[name], events = say(threads.get(name), user, text)
        check_step(number, events)
    return list(threads.values())


def check_step(number: int, events: list[Event]) -> None:
    (first, metadata), *rest = events
    assert first == "metadata"
    assert metadata["run_id"]
    assert [name for name, _ in rest] == ["values"] * (3 if number < 3 else 2)
    for _, data in rest:
        assert set(data) == {"messages"}, "`info` must stay hidden"
    values: list[list[Message]] = [data["messages"] for _, data in rest]
    if number < 3:
        check_told(number, values)
    else:
        check_asked(number, values)


def check_told(number: int, values: list[list[Message]]) -> None:
    """The user's message; then a call of Info that saves the fact; then that it was saved."""
    before, turn = (told(PIZZA), told(MOVED)) if number == 2 else ([], told(PIZZA))
    assert [said(messages) for messages in values] == [before + turn[: n + 1] for n in range(3)]
    (call,) = values[1][-1]["tool_calls"]
    assert (call["name"], call["args"]) == ("Info", FACTS[number - 1])
    assert values[2][-1]["tool_call_id"] == call["id"]


def check_asked(number: int, values: list[list[Message]]) -> None:
    """The user's question in a new thread; then a reply, from what this user told in other threads."""
    question = STEPS[number - 1][2]
    assert [said(messages)[:1] for messages in values] == [[("human", question)]] * 2
    assert [len(messages) for messages in values] == [1, 2]
    reply = values[1][1]
    assert reply["type"] == "ai"
    assert not reply["tool_calls"]
    assert ("SF" in reply["content"]) == (number == 3)
    assert ("pepperoni pizza" in reply["content"]) == (number == 3)
    assert ("don't know" in reply["content"]) == (number == 4)


def said(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message["type"], message["content"]) for message in messages]


def told(text: str) -> list[tuple[str, str]]:
    """A turn in which the user tells something."""
    return [("human", text), ("ai", ""), ("tool", "Saved!")]

"""A chat model made of a few rules: offline, instant, and the same reply every time.

What the last message tells about the user becomes a call of the `Info` tool. What it asks is answered from
the facts that the system message lists, one a line, as `- topic: fact`.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

HELLO = "Hi! Tell me something about yourself, such as where you live or what you like, and I'll remember it."
UNKNOWN = "I don't know anything about that yet. Tell me, and I'll remember it."
ADVICE = " Keep that in mind when you pick a place: I work offline, so I can't look up real restaurants."


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[\w']+", text.lower()))


TOPICS = {  # a fact belongs to the first topic that has one of its words
    "name": words_of("name called"),
    "work": words_of("work job company"),
    "food": words_of(
        "food eat drink hungry breakfast lunch dinner restaurant restaurants vegetarian vegan allergic pizza"
        " pasta sushi ramen tacos burgers curry soup rice cheese meat fish fruit cake coffee tea"
    ),
    "location": words_of("live moved from where city town"),
}
KNOWN_FACT = re.compile(r"^- (.+?): (.+)$", re.M)
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+|,? and (?=i\b|my (?:name|favou?rite)\b)", re.I)
STATEMENT = re.compile(
    r"\b(?:my name is|my favou?rite [\w ]{1,30} is|i'm|i am|i (?:(?:also|just|really|recently|now) )*"
    r"(?:like|love|enjoy|prefer|hate|dislike|don't like|eat|drink|live|moved|work)) .+",
    re.I,
)
QUESTION = re.compile(
    r"\b(?:who|what|where|when|which|why|how)\b|^(?:am|are|do|does|did|can|could|should|would|tell)\b", re.I
)
TOKEN = re.compile(r"\S+\s*")
YOU = {"i": "you", "i'm": "you are", "am": "are", "me": "you", "my": "your"}

Messages = list[BaseMessage]
Fact = tuple[str, str]  # topic, fact


class RuleBasedModel(BaseChatModel):
    """Keeps nothing between calls: the reply depends on the messages and the tools alone."""

    @property
    def _llm_type(self) -> str:
        return "rule-based"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(self, messages: Messages, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=reply(messages, **kwargs))])

    async def _agenerate(self, messages: Messages, *args: Any, **kwargs: Any) -> ChatResult:
        return self._generate(messages, **kwargs)

    def _stream(self, messages: Messages, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for chunk in tokens(reply(messages, **kwargs)):
            yield ChatGenerationChunk(message=chunk)

    async def _astream(self, messages: Messages, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages, **kwargs):
            yield chunk


def reply(messages: Messages, tools: Sequence[dict[str, Any]] = (), **_: Any) -> AIMessage:
    if not messages or messages[-1].type != "human":
        return AIMessage("Got it!")
    told, asked = understand(messages[-1].text)
    if not any(tool["function"]["name"] == "Info" for tool in tools):
        told = []
    known: list[Fact] = [fact for m in messages if m.type == "system" for fact in KNOWN_FACT.findall(m.text)]
    spoken = "\n".join(f"{m.type}: {m.text}" for m in messages if m.type != "system")
    calls = []
    for topic, fact in told:
        call_id = f"call_{uuid5(NAMESPACE_OID, spoken + fact)}"
        calls.append(tool_call(name="Info", args={"fact": fact, "topic": topic}, id=call_id))
    text = answer(asked, known + told) if asked else "" if calls else HELLO
    return AIMessage(text, tool_calls=calls)


def understand(text: str) -> tuple[list[Fact], str]:
    """The facts that a message tells, and the questions it asks."""
    told, asked = [], []
    for sentence in SENTENCE_END.split(text.replace("\u2019", "'")):
        statement = STATEMENT.search(sentence)
        before = sentence[: statement.start()] if statement else sentence
        if "?" in sentence or QUESTION.search(before):
            asked.append(sentence)
        elif statement:
            told.append(as_fact(statement[0]))
    return list(dict.fromkeys(told)), " ".join(asked)


def as_fact(statement: str) -> Fact:
    fact = re.sub(r"(?i)^i'm\b", "I am", " ".join(statement.split()).rstrip(" .!,;"))
    fact = re.sub(r"(?i)\balso ", "", fact)
    topic = next((topic for topic, words in TOPICS.items() if words & words_of(fact)), "other")
    return topic, fact[0].upper() + fact[1:]


def answer(question: str, facts: list[Fact]) -> str:
    words = words_of(question)
    topics = {topic for topic, topic_words in TOPICS.items() if topic_words & words}
    everything = re.search(r"\b(about me|who am i)\b", question, re.I)
    found = [fact for topic, fact in facts if everything or topic in topics]
    if not found:
        telling = {word for word in words if len(word) > 3}
        found = [fact for _, fact in facts if telling & words_of(fact)]
    if not found:
        return UNKNOWN if words & YOU.keys() else HELLO
    *first, last = (re.sub(r"[\w']+", lambda word: YOU.get(word[0].lower(), word[0]), fact) for fact in found)
    text = f"{', '.join(first)} and {last}" if first else last
    wants_advice = "food" in topics and words & {"should", "restaurant", "restaurants"}
    return text[0].upper() + text[1:] + "." + (ADVICE if wants_advice else "")


def tokens(message: AIMessage) -> Iterator[AIMessageChunk]:
    """The message a word at a time. BaseChatModel itself adds the empty chunk that marks the end."""
    for token in TOKEN.findall(message.text):
        yield AIMessageChunk(content=token)
    for i, call in enumerate(message.tool_calls):
        pieces = [tool_call_chunk(name=call["name"], args="", id=call["id"], index=i)]
        pieces += [tool_call_chunk(args=token, index=i) for token in TOKEN.findall(json.dumps(call["args"]))]
        for piece in pieces:
            yield AIMessageChunk(content="", tool_call_chunks=[piece])

"""Embeddings that count words, and a graph that stores and finds by meaning."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from typing_extensions import TypedDict

WORDS = ["cat", "dog", "fish", "law", "tax", "sun"]


def count(text: str) -> list[float]:
    """As many dimensions as words; no text is the zero vector."""
    found = re.findall(r"[a-z]+", text.lower())
    return [0.1 + found.count(word) for word in WORDS]


def sync_words(texts: list[str]) -> list[list[float]]:
    return [count(text) for text in texts]


async def async_words(texts: list[str]) -> list[list[float]]:
    return sync_words(texts)


class Counter(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return sync_words(texts)

    def embed_query(self, text: str) -> list[float]:
        return count(text)


COUNTER = Counter()


def gated_words(texts: list[str]) -> list[list[float]]:
    """Waits for the file `go` where a text says so."""
    if any("gate" in text for text in texts):
        Path("waits").touch()
        while not Path("go").exists():
            time.sleep(0.01)
    return sync_words(texts)


def odd_words(texts: list[str]) -> list[list[float]]:
    """Goes wrong as a text says: `short`, `few`, `none`, `letters`, `huge` or `raise`."""
    text = texts[0]
    if "raise" in text:
        raise ConnectionError("no such host")
    if "few" in text:
        return []
    wrong: dict[str, Any] = {"short": [[1.0]], "none": None, "letters": ["abcdef"], "huge": [[1e300] * 6]}
    return next((vectors for name, vectors in wrong.items() if name in text), sync_words(texts))


class Order(TypedDict, total=False):
    space: str
    texts: list[str]
    query: str
    found: list[list[Any]]


def keep(state: Order, store: BaseStore) -> dict[str, Any]:
    for text in state.get("texts", []):
        store.put((state["space"],), text, {"text": text})
    return {}


def find(state: Order, store: BaseStore) -> dict[str, Any]:
    return {"found": [[item.key, item.score] for item in store.search((state["space"],), query=state["query"])]}


async def akeep(state: Order, store: BaseStore) -> dict[str, Any]:
    for text in state.get("texts", []):
        await store.aput((state["space"],), text, {"text": text})
    return {}


async def afind(state: Order, store: BaseStore) -> dict[str, Any]:
    found = await store.asearch((state["space"],), query=state["query"])
    return {"found": [[item.key, item.score] for item in found]}


async def block(state: Order, store: BaseStore) -> dict[str, Any]:
    return keep(state, store)


memory = StateGraph(Order).add_sequence([keep, find]).add_edge(START, "keep").compile()
amemory = StateGraph(Order).add_sequence([akeep, afind]).add_edge(START, "akeep").compile()
blocking = StateGraph(Order).add_node(block).add_edge(START, "block").compile()

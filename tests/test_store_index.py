"""`store.index`: items found by meaning, by clients and in graph nodes."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually, write_project
from langgraph.store.base import GetOp, Item, PutOp, SearchOp, ensure_embeddings
from langgraph.store.sqlite.aio import AsyncSqliteStore
from langgraph_sdk.client import LangGraphClient

import devserver
from devserver import Index, Items, StartError

SERVED = {name: f"./meaning.py:{name}" for name in ("memory", "amemory", "blocking")}
MEANING = (GRAPHS / "meaning.py").read_text()
WORDS = ["cat", "dog", "fish", "law", "tax", "sun"]
EXTENSIONS = pytest.mark.skipif(
    not hasattr(sqlite3.Connection, "enable_load_extension"), reason="this Python's SQLite takes no extensions"
)

Make = Callable[..., LiveServer]


def index(embed: str, **more: Any) -> dict[str, Any]:
    return {"store": {"index": {"embed": embed, "dims": len(WORDS), **more}}}


def serving(folder: Path, embed: str, **more: Any) -> Iterator[LiveServer]:
    write_project(folder, SERVED, {"meaning.py": MEANING}, **index(embed, **more))
    live = LiveServer(folder, ["--no-reload"]).start()
    yield live
    assert live.stop() == 0, live.log


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    fields = ["text", "parts[*].text"]
    yield from serving(tmp_path_factory.mktemp("meaning"), "./meaning.py:sync_words", fields=fields)


@pytest.fixture
def mark() -> str:
    """The root of namespaces that only this test uses."""
    return uuid.uuid4().hex


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose embedding goes wrong as texts say."""
    yield from serving(tmp_path_factory.mktemp("odd"), "./meaning.py:odd_words", fields=["text"])


def count(text: str) -> list[float]:
    """As meaning.py does."""
    found = re.findall(r"[a-z]+", text.lower())
    return [0.1 + found.count(word) for word in WORDS]


def cosine(a: list[float], b: list[float]) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5)


def similarity(query: str, *texts: str) -> Any:
    """The score that an item with these texts is to have."""
    return pytest.approx(max(cosine(count(query), count(text)) for text in texts), abs=1e-5)


def vectors(server: LiveServer, space: str) -> list[tuple[str, str]]:
    """(key, field) of the vectors of a namespace and those below it."""
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn:
        query = "SELECT key, field_name FROM store_vectors WHERE prefix >= ? AND prefix < ? ORDER BY key, field_name"
        return conn.execute(query, (space, space + "/")).fetchall()


async def found(client: LangGraphClient, *prefix: str, **search: Any) -> list[tuple[str, Any]]:
    answer = await client.store.search_items(prefix, **search)
    return [(item["key"], item["score"]) for item in answer["items"]]


# Search


async def test_a_query_finds_the_nearest_first_with_their_scores(client: LangGraphClient, mark: str) -> None:
    for text in ("the sun", "tax law", "a dog", "dog and cat", "a cat"):
        await client.store.put_item([mark], text, {"text": text})
    near = await found(client, mark, query="cat")
    assert [key for key, _ in near[:2]] == ["a cat", "dog and cat"]
    assert near == [(key, similarity("cat", key)) for key, _ in near]
    assert [score for _, score in near] == sorted((score for _, score in near), reverse=True)
    assert len(near) == 5


async def test_without_a_query_items_come_in_their_order_and_without_score(client: LangGraphClient, mark: str) -> None:
    for text in ("tax", "cat"):
        await client.store.put_item([mark], text, {"text": text})
    assert await found(client, mark) == [("tax", None), ("cat", None)]
    assert await found(client, mark, query="") == [("tax", None), ("cat", None)]


async def test_an_item_scores_by_the_nearest_of_its_texts(
    client: LangGraphClient, server: LiveServer, mark: str
) -> None:
    await client.store.put_item([mark], "many", {"text": "tax", "parts": [{"text": "law"}, {"text": "cat"}, {"n": 1}]})
    await client.store.put_item([mark], "one", {"text": "cat dog", "parts": [{"text": "fish"}]})
    assert await found(client, mark, query="cat") == [
        ("many", similarity("cat", "tax", "law", "cat")),
        ("one", similarity("cat", "cat dog", "fish")),
    ]
    assert vectors(server, mark) == [
        ("many", "parts[*].text.0"),
        ("many", "parts[*].text.1"),
        ("many", "text"),
        ("one", "parts[*].text"),
        ("one", "text"),
    ]


async def test_an_item_may_choose_its_fields_or_none(client: LangGraphClient, server: LiveServer, mark: str) -> None:
    value = {"text": "tax", "note": {"deep": "cat"}}
    await client.store.put_item([mark], "hidden", value, index=False)
    await client.store.put_item([mark], "empty", value, index=[])
    await client.store.put_item([mark], "chosen", value, index=["note.deep", "nothing"])
    await client.store.put_item([mark], "whole", value, index=["$"])
    assert await found(client, mark, query="cat") == [
        ("chosen", similarity("cat", "cat")),
        ("whole", similarity("cat", json.dumps(value))),
    ]
    assert vectors(server, mark) == [("chosen", "note.deep"), ("whole", "$")]
    assert len(await found(client, mark)) == 4


async def test_filters_limit_and_offset_hold_with_a_query(client: LangGraphClient, mark: str) -> None:
    chance = random.Random(5)
    items: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {}
    for n in range(60):
        place, key = chance.choice([(mark, "a"), (mark, "ab"), (mark, "a", "b"), (f"{mark}x",)]), str(n)
        items[key] = (place, {"text": " ".join(chance.choices(WORDS, k=4)), "n": n % 4, "tag": chance.choice("xy")})
        await client.store.put_item(place, key, items[key][1])

    def expected(*prefix: str, **wanted: Any) -> list[tuple[Any, str]]:
        matching = [
            (-round(cosine(count("dog law"), count(value["text"])), 5), int(key))
            for key, (place, value) in items.items()
            if place[: len(prefix)] == prefix and all(value[name] == given for name, given in wanted.items())
        ]
        return [(-score, str(n)) for score, n in sorted(matching)]

    async def actual(*prefix: str, **search: Any) -> list[tuple[Any, str]]:
        near = await found(client, *prefix, query="dog law", **search)
        assert [score for _, score in near] == sorted((score for _, score in near), reverse=True)
        return sorted(((round(score, 5), key) for key, score in near), key=lambda pair: (-pair[0], int(pair[1])))

    assert await actual(mark, "a", limit=100) == expected(mark, "a")
    assert await actual(mark, limit=100, filter={"n": 1, "tag": "x"}) == expected(mark, n=1, tag="x")
    assert len(await actual(mark, limit=100, filter={"n": {"$gte": 2}})) == len(
        expected(mark, n=2) + expected(mark, n=3)
    )
    whole = await found(client, mark, "a", query="dog law", limit=100, filter={"tag": "y"})
    pages = [await found(client, mark, "a", query="dog law", limit=3, offset=n, filter={"tag": "y"}) for n in (0, 3, 6)]
    assert [item for page in pages for item in page] == whole[:9]
    assert all(len(page) == 3 for page in pages)


async def test_a_long_query_and_many_items_are_fine(client: LangGraphClient, http: httpx.Client, mark: str) -> None:
    await client.store.put_item([mark], "k", {"text": "cat " * 5000})
    assert await found(client, mark, query="cat " * 5000) == [("k", pytest.approx(1, abs=1e-5))]
    refused = http.post("/store/items/search", json={"namespace_prefix": [mark], "query": 5})
    assert refused.status_code == 422


# Vectors stay in step


async def test_vectors_go_with_their_items(client: LangGraphClient, server: LiveServer, mark: str) -> None:
    for key in ("a", "b"):
        await client.store.put_item([mark], key, {"text": "cat", "parts": [{"text": "dog"}, {"text": "dog"}]})
    await client.store.put_item([mark], "a", {"text": "tax"})
    assert [(key, field) for key, field in vectors(server, mark) if key == "a"] == [("a", "text")]
    assert await found(client, mark, query="cat") == [("b", similarity("cat", "cat")), ("a", similarity("cat", "tax"))]
    await client.store.put_item([mark], "a", {"text": "cat"}, index=False)
    await client.store.delete_item([mark], "b")
    assert vectors(server, mark) == []
    assert await found(client, mark, query="cat") == []


async def test_vectors_are_swept_with_items_that_expire(
    client: LangGraphClient, http: httpx.Client, server: LiveServer, mark: str
) -> None:
    item = {"namespace": [mark], "key": "short", "value": {"text": "cat"}, "ttl": 0.005}
    assert http.put("/store/items", json=item).status_code == 204
    await client.store.put_item([mark], "long", {"text": "cat"}, ttl=60)
    await eventually(lambda: vectors(server, mark) == [("long", "text")])
    assert [key for key, _ in await found(client, mark, query="cat")] == ["long"]


async def test_items_without_vectors_of_these_dimensions_are_not_found(
    client: LangGraphClient, server: LiveServer, mark: str
) -> None:
    await client.store.put_item([mark], "k", {"text": "cat"})
    with closing(sqlite3.connect(server.folder / "devserver.db")) as conn, conn:
        conn.execute("UPDATE store_vectors SET embedding = zeroblob(8) WHERE prefix = ?", (mark,))
    assert await found(client, mark, query="cat") == []
    await client.store.put_item([mark], "k", {"text": "cat"})
    assert await found(client, mark, query="cat") == [("k", similarity("cat", "cat"))]


# Graphs


@pytest.mark.parametrize("graph", ["memory", "amemory"])
async def test_nodes_find_by_meaning(client: LangGraphClient, mark: str, graph: str) -> None:
    given: Any = {"space": mark, "texts": ["tax law", "cat fish"], "query": "fish"}
    done: Any = await client.runs.wait(None, graph, input=given)
    assert done["found"] == [["cat fish", similarity("fish", "cat fish")], ["tax law", similarity("fish", "tax law")]]
    assert [key for key, _ in await found(client, mark, query="law")] == ["tax law", "cat fish"]


async def test_a_batch_is_done_in_its_order(tmp_path: Path) -> None:
    database, loop = devserver.Db(str(tmp_path / "batch.db"), vectors=True), asyncio.get_running_loop()
    await database.open()
    store = devserver.Store(database)
    store.index = Index(ensure_embeddings(lambda texts: [count(text) for text in texts]), len(WORDS), ["text"])
    store.spawn = lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop)
    results: list[Any] = await store.abatch(
        [
            SearchOp(("s",), query="cat"),
            PutOp(("s",), "a", {"text": "cat"}),
            PutOp(("s",), "b", {"text": "dog"}),
            PutOp(("s",), "c", {"text": "dog"}, index=False),
            GetOp(("s",), "c"),
            PutOp(("s",), "c", None),
            SearchOp(("s",), query="dog"),
            SearchOp(("s",)),
        ]
    )
    keys = [[item.key for item in result] if isinstance(result, list) else result for result in results]
    assert keys[:4] + keys[5:] == [[], None, None, None, None, ["b", "a"], ["a", "b"]]
    assert isinstance(results[4], Item)
    await database.close()


@pytest.mark.parametrize("embed", ["meaning:async_words", "./meaning.py:COUNTER"])
async def test_an_embedding_may_be_async_or_an_object(make_server: Make, embed: str) -> None:
    server = make_server(SERVED, {"meaning.py": MEANING}, "--no-reload", **index(embed, fields=["text"]))
    async with server.client() as client:
        for graph in ("memory", "amemory"):
            given: Any = {"space": graph, "texts": ["tax law", "cat fish"], "query": "fish"}
            done: Any = await client.runs.wait(None, graph, input=given)
            assert done["found"][0] == ["cat fish", similarity("fish", "cat fish")]
            assert [key for key, _ in await found(client, graph, query="law")] == ["tax law", "cat fish"]


async def test_an_async_node_has_to_await_the_store(client: LangGraphClient, mark: str) -> None:
    given: Any = {"space": mark, "texts": ["cat"]}
    done: Any = await client.runs.wait(None, "blocking", input=given, raise_error=False)
    assert done["__error__"]["error"] == "RuntimeError"
    assert "await its aput" in done["__error__"]["message"]


async def test_a_slow_embedding_holds_up_nothing_else(make_server: Make) -> None:
    server = make_server(SERVED, {"meaning.py": MEANING}, "--no-reload", **index("./meaning.py:gated_words"))
    async with server.client() as slow, server.client() as quick:
        putting = asyncio.ensure_future(slow.store.put_item(["s"], "slow", {"text": "gate"}))
        await eventually((server.folder / "waits").exists)
        await quick.store.put_item(["s"], "quick", {"text": "cat"})
        assert [key for key, _ in await found(quick, "s", query="cat")] == ["quick"]
        done: Any = await quick.runs.wait(None, "memory", input={"space": "s", "query": "cat"})
        assert len(done["found"]) == 1
        assert not putting.done()
        (server.folder / "go").touch()
        await putting
        assert sorted(key for key, _ in await found(quick, "s", query="cat")) == ["quick", "slow"]


# What goes wrong


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("short", "'embed' gave a vector of 1 numbers, but 'dims' is 6"),
        ("few", "'embed' gave 0 vectors for 1 texts"),
        ("raise", "'embed' failed: ConnectionError: no such host"),
        ("none", "'embed' failed: TypeError"),
        ("letters", "'embed' failed: error"),
        ("huge", "'embed' failed: OverflowError"),
    ],
)
def test_an_embedding_that_goes_wrong_is_named(odd: LiveServer, word: str, problem: str) -> None:
    with odd.http() as http:
        item = {"namespace": [word], "key": "k", "value": {"text": word}}
        refused = http.put("/store/items", json=item)
        assert refused.status_code == 400
        assert refused.json()["detail"].startswith(f"store.index: {problem}")
        assert http.get("/store/items", params={"namespace": word, "key": "k"}).json() is None
        search = {"namespace_prefix": [word], "query": word}
        if word not in ("few", "none"):  # a function gives a query's vector as the first of a list
            assert http.post("/store/items/search", json=search).json() == refused.json()
        assert http.post("/store/items/search", json=search).status_code == 400
        run = {"assistant_id": "memory", "input": {"space": "s", "texts": [word], "query": "cat"}}
        error = http.post("/runs/wait", json=run).json()["__error__"]
        assert (error["error"], error["message"]) == ("EmbeddingFailed", refused.json()["detail"])
        assert http.put("/store/items", json={**item, "value": {"text": "cat"}}).status_code == 204


@pytest.mark.parametrize(
    ("store", "problem"),
    [
        ({"index": {"embed": "a.py:f"}}, "'store.index.dims': Field required"),
        ({"index": {"dims": 6}}, "'store.index.embed': Field required"),
        ({"index": {"embed": "a.py:f", "dims": "6"}}, "'store.index.dims': Input should be a valid integer"),
        ({"index": {"embed": "a.py:f", "dims": 0}}, "'store.index.dims': Input should be greater than or equal to 1"),
        (
            {"index": {"embed": "a.py:f", "dims": 6, "fields": "$"}},
            "'store.index.fields': Input should be a valid list",
        ),
        ({"index": "openai"}, "'store.index': must be an object"),
        (["index"], "'store': must be an object"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path: Path, store: Any, problem: str) -> None:
    write_project(tmp_path, SERVED, {}, store=store)
    with pytest.raises(StartError, match=re.escape(problem)) as refused:
        devserver.read_settings(tmp_path / "langgraph.json")
    assert str(refused.value).startswith(f"{tmp_path}/langgraph.json: ")


@pytest.mark.parametrize(
    ("embed", "problem"),
    [
        ("./none.py:f", "FileNotFoundError: "),
        ("./meaning.py:none", "AttributeError: "),
        ("./meaning.py:WORDS", "TypeError: 'WORDS' is neither a function nor an Embeddings object"),
        ("meaning:Counter", "TypeError: 'Counter' is neither a function nor an Embeddings object"),
        ("broken:f", "ZeroDivisionError: division by zero (at "),
    ],
)
def test_an_embedding_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embed: str, problem: str
) -> None:
    write_project(tmp_path, SERVED, {"meaning.py": MEANING, "broken.py": "1 / 0\n"}, **index(embed))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StartError) as refused:
        devserver._load_index(devserver.read_settings(tmp_path / "langgraph.json"))
    expected = f"{tmp_path}/langgraph.json: store.index.embed '{embed}' cannot be used: {problem}"
    assert str(refused.value).startswith(expected)


def test_a_refused_index_stops_the_start(make_server: Make) -> None:
    with pytest.raises(AssertionError) as refused:
        make_server(SERVED, {"meaning.py": MEANING}, "--no-reload", **index("./none.py:f"))
    assert re.search(
        r"langgraph.json: store.index.embed .* FileNotFoundError: .*none.py does not exist", str(refused.value)
    )
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize("embed", ["openai:text-embedding-3-small", "some_model"])
def test_a_model_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embed: str) -> None:
    monkeypatch.delitem(sys.modules, "langchain.embeddings", False)
    monkeypatch.setitem(sys.modules, "langchain", None)
    write_project(tmp_path, SERVED, {}, **index(embed))
    with pytest.raises(StartError, match=r"a model needs langchain\. Install it .* pip install 'langchain"):
        devserver._load_index(devserver.read_settings(tmp_path / "langgraph.json"))


async def test_a_model_is_made_by_langchain(make_server: Make) -> None:
    """By a langchain of the test's own, which is found first."""
    files = {
        "meaning.py": MEANING,
        "langchain/__init__.py": "",
        "langchain/embeddings.py": """
            from meaning import COUNTER

            def init_embeddings(name):
                assert name == "counting:cats-and-dogs:v1", name
                return COUNTER
        """,
    }
    server = make_server(SERVED, files, "--no-reload", **index("counting:cats-and-dogs:v1", fields=None))
    async with server.client() as client:
        await client.store.put_item(["s"], "k", {"deep": {"text": "cat"}})
        assert await found(client, "s", query="cat") == [("k", similarity("cat", '{"deep": {"text": "cat"}}'))]


async def test_a_changed_embedding_is_served(make_server: Make) -> None:
    server = make_server(SERVED, {"meaning.py": MEANING}, **index("./meaning.py:sync_words"))
    async with server.client() as client:
        await client.store.put_item(["s"], "old", {"text": "cat"})
        (server.folder / "meaning.py").write_text(MEANING.replace("0.1 + found.count(word)", "float(word == WORDS[5])"))
        await eventually(lambda: "graphs reloaded" in server.log)
        await client.store.put_item(["s"], "new", {"text": "cat"})
        assert [key for key, _ in await found(client, "s", query="anything")] == ["new", "old"]


# The file


async def test_an_index_that_is_gone_leaves_no_old_vectors(make_server: Make) -> None:
    server = make_server(SERVED, {"meaning.py": MEANING}, "--no-reload", **index("./meaning.py:sync_words"))
    async with server.client() as client:
        for key in ("changed", "deleted", "kept"):
            await client.store.put_item(["s"], key, {"text": "cat"})
    assert server.stop() == 0
    with_index = (server.folder / "langgraph.json").read_text()
    (server.folder / "langgraph.json").write_text(json.dumps({"graphs": SERVED}))
    async with server.start().client() as client:
        await client.store.put_item(["s"], "changed", {"text": "tax"})
        await client.store.delete_item(["s"], "deleted")
        assert await found(client, "s", query="cat") == [("changed", None), ("kept", None)]
    assert server.stop() == 0
    assert [key for key, _ in vectors(server, "s")] == ["kept"]
    (server.folder / "langgraph.json").write_text(with_index)
    async with server.start().client() as client:
        assert [key for key, _ in await found(client, "s", query="cat")] == ["kept"]


@EXTENSIONS
async def test_the_official_store_finds_the_same(make_server: Make) -> None:
    server = make_server(SERVED, {"meaning.py": MEANING}, "--no-reload", **index("./meaning.py:sync_words"))
    async with server.client() as client:
        for text in ("the sun", "tax law", "dog and cat", "a cat"):
            await client.store.put_item(["s", "t"], text, {"text": text})
        ours = await found(client, "s", query="cat")
    assert server.stop() == 0
    config: Any = {"embed": lambda texts: [count(text) for text in texts], "dims": len(WORDS)}
    async with AsyncSqliteStore.from_conn_string(str(server.folder / "devserver.db"), index=config) as store:
        await store.setup()
        theirs: list[tuple[str, Any]] = [(item.key, item.score) for item in await store.asearch(("s",), query="cat")]
        assert theirs == [(key, pytest.approx(score, abs=1e-5)) for key, score in ours]
        await store.aput(("s", "t"), "from outside", {"text": "cat"})
    async with server.start().client() as client:
        assert ("from outside", similarity("cat", '{"text": "cat"}')) in await found(client, "s", query="cat")


@EXTENSIONS
@pytest.mark.parametrize(("a", "b"), [([1, 2, 3], [3, 1, 0.5]), ([1, 0, 0], [-1, 0, 0]), ([0, 0, 0], [1, 2, 3])])
def test_distances_are_those_of_sqlite_vec(a: list[float], b: list[float]) -> None:
    import sqlite_vec  # type: ignore[import-untyped]

    with closing(sqlite3.connect(":memory:")) as conn:
        devserver._add_vectors(conn)
        packed = [sqlite_vec.serialize_float32(vector) for vector in (a, b)]
        (theirs,) = conn.execute("SELECT vec_distance_cosine(?, ?)", packed).fetchone()
    without: Any = Mock(spec=["create_function"])  # a connection of a Python whose SQLite takes no extensions
    devserver._add_vectors(without)
    ours = without.create_function.call_args.args[2](*packed)
    assert theirs == (None if ours is None else pytest.approx(ours, abs=1e-6))


@pytest.mark.parametrize("vector", [None, b"\0" * 24])
def test_a_search_below_a_namespace_uses_an_index(tmp_path: Path, vector: bytes | None) -> None:
    database = devserver.Db(str(tmp_path / "plan.db"), vectors=True)
    with closing(database._connect(True)) as conn:
        asked: list[str] = []
        conn.set_trace_callback(asked.append)
        Items(conn).search(("a", "b"), {"n": 1}, 10, 0, vector)
        conn.set_trace_callback(None)
        plan = " / ".join(row["detail"] for row in conn.execute(f"EXPLAIN QUERY PLAN {asked[-1]}"))
    assert "(prefix>? AND prefix<?)" in plan
    assert "SCAN" not in plan

"""The store: items by namespace and key, shared by clients and graph nodes."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from conftest import LiveServer
from langgraph_sdk.client import LangGraphClient

SERVED = {"notes": "./basic.py:notes"}


@pytest.fixture
def space() -> str:
    """The root of namespaces that only this test uses."""
    return uuid.uuid4().hex


async def keys(client: LangGraphClient, *prefix: str, **search: Any) -> list[str]:
    found = await client.store.search_items(prefix, **search)
    return [item["key"] for item in found["items"]]


# One item


async def test_an_item_is_read_as_it_was_put(client: LangGraphClient, space: str) -> None:
    value: dict[str, Any] = {"text": "zwei\nZeilen ☃", "n": [1, 2.5, None, True, {"deep": {}}]}
    await client.store.put_item([space, "a"], "k", value)
    item: Any = await client.store.get_item([space, "a"], "k")
    assert (item["namespace"], item["key"], item["value"]) == ([space, "a"], "k", value)
    assert item["created_at"] == item["updated_at"]
    assert item["created_at"].endswith("+00:00")


async def test_a_second_put_replaces_the_first(client: LangGraphClient, space: str) -> None:
    await client.store.put_item([space], "k", {"a": 1, "b": 2})
    first: Any = await client.store.get_item([space], "k")
    await client.store.put_item([space], "k", {"a": 3})
    second: Any = await client.store.get_item([space], "k")
    assert second["value"] == {"a": 3}
    assert second["created_at"] == first["created_at"]
    assert second["updated_at"] > first["updated_at"]


async def test_what_is_not_there_is_null(client: LangGraphClient, http: httpx.Client, space: str) -> None:
    await client.store.put_item([space, "a"], "k", {})
    assert await client.store.get_item([space, "a"], "other") is None
    assert await client.store.get_item([space], "k") is None
    answer = http.get("/store/items", params={"namespace": space, "key": "k"})
    assert (answer.status_code, answer.json()) == (200, None)


async def test_a_deleted_item_is_gone_and_may_be_deleted_again(client: LangGraphClient, space: str) -> None:
    for key in ("k", "l"):
        await client.store.put_item([space], key, {})
    await client.store.delete_item([space], "k")
    await client.store.delete_item([space], "k")
    await client.store.delete_item([space, "nothing"], "k")
    assert await client.store.get_item([space], "k") is None
    assert await keys(client, space) == ["l"]


@pytest.mark.parametrize("key", ["a.b", "a/b", "ä ☃", "%2E", "..", "'; DROP TABLE store; --", "k" * 3000, "null", "*"])
async def test_any_text_is_a_key(client: LangGraphClient, space: str, key: str) -> None:
    await client.store.put_item([space], key, {"n": 1})
    item = await client.store.get_item([space], key)
    assert item["key"] == key
    assert await keys(client, space) == [key]
    await client.store.delete_item([space], key)
    assert await client.store.get_item([space], key) is None


@pytest.mark.parametrize("label", ["a b", "ä", "%2E", "*", "'", "a/b", "null", "x" * 500])
async def test_a_label_is_any_text_without_a_period(client: LangGraphClient, space: str, label: str) -> None:
    await client.store.put_item([space, label, "end"], "k", {"n": 1})
    assert (await client.store.get_item([space, label, "end"], "k"))["namespace"] == [space, label, "end"]
    assert await keys(client, space, label) == ["k"]


@pytest.mark.parametrize("namespace", [["a.b"], [""], ["a", ""], ["a", "b.c"], ["."]])
@pytest.mark.parametrize("operation", ["put", "get", "delete", "search", "namespaces"])
def test_a_label_that_cannot_be_is_refused(http: httpx.Client, operation: str, namespace: list[str]) -> None:
    if operation == "put":
        refused = http.put("/store/items", json={"namespace": namespace, "key": "k", "value": {}})
    elif operation == "get":
        if any("." in label for label in namespace):
            return  # in a query the period parts labels
        refused = http.get("/store/items", params={"namespace": ".".join(namespace), "key": "k"})
    elif operation == "delete":
        refused = http.request("DELETE", "/store/items", json={"namespace": namespace, "key": "k"})
    elif operation == "search":
        refused = http.post("/store/items/search", json={"namespace_prefix": namespace})
    else:
        refused = http.post("/store/namespaces", json={"prefix": namespace})
    assert refused.status_code == 422
    assert "must be a non-empty string without periods" in refused.text


@pytest.mark.parametrize(
    ("namespace", "detail"),
    [([], "Namespace cannot be empty."), (["langgraph", "x"], 'Root label for namespace cannot be "langgraph".')],
)
def test_some_namespaces_are_not_for_clients(http: httpx.Client, namespace: list[str], detail: str) -> None:
    refused = http.put("/store/items", json={"namespace": namespace, "key": "k", "value": {}})
    assert refused.status_code == 400
    assert refused.json()["detail"].startswith(detail)


def test_a_get_needs_a_key(http: httpx.Client, space: str) -> None:
    for params in ({"namespace": space}, {"namespace": space, "key": ""}):
        refused = http.get("/store/items", params=params)
        assert (refused.status_code, refused.json()) == (400, {"error": "Key is required"})


# Search


async def test_search_goes_by_whole_labels_in_the_order_of_first_writing(client: LangGraphClient, space: str) -> None:
    for path, key in ((["b"], "1"), (["a", "x"], "2"), (["a"], "3"), (["ab"], "4"), (["b"], "1")):
        await client.store.put_item([space, *path], key, {})
    assert await keys(client, space) == ["1", "2", "3", "4"]
    assert await keys(client, space, "a") == ["2", "3"]
    assert await keys(client, space, "a", "x") == ["2"]
    assert await keys(client, space, "none") == []
    assert set(await keys(client, limit=1000)) >= {"1", "2", "3", "4"}


async def test_search_goes_page_by_page(client: LangGraphClient, space: str) -> None:
    for n in range(12):
        await client.store.put_item([space], f"{n:02}", {"even": n % 2 == 0})
    assert await keys(client, space) == [f"{n:02}" for n in range(10)]
    assert await keys(client, space, limit=5, offset=10) == ["10", "11"]
    assert await keys(client, space, limit=2, offset=2, filter={"even": True}) == ["04", "06"]
    assert await keys(client, space, limit=1000, offset=1000) == []


FILTERS = [
    ({"n": 1}, "a"),
    ({"n": {"$eq": 1}}, "a"),
    ({"n": {"$ne": 1}}, "bcde"),
    ({"n": {"$gt": 1}}, "bc"),
    ({"n": {"$gte": 2}}, "bc"),
    ({"n": {"$lt": 2}}, "a"),
    ({"n": {"$lte": 2, "$gt": 0}}, "ab"),
    ({"n": {"$gt": 1}, "list": [1, 2]}, "b"),
    ({"list": [1]}, ""),
    ({"deep": {"x": 1, "y": 2}}, "c"),
    ({"deep": {"x": 1}}, ""),
    ({"n": "text"}, "d"),
    ({"nothing": 1}, ""),
    ({}, "abcde"),
]


@pytest.mark.parametrize(("condition", "found"), FILTERS)
async def test_search_filters_by_value(client: LangGraphClient, space: str, condition: Any, found: str) -> None:
    values: dict[str, Any] = {
        "a": {"n": 1},
        "b": {"n": 2, "list": [1, 2]},
        "c": {"n": 3.5, "deep": {"x": 1, "y": 2}},
        "d": {"n": "text"},
        "e": {},
    }
    for key, value in values.items():
        await client.store.put_item([space], key, value)
    assert "".join(await keys(client, space, filter=condition)) == found


def test_an_unknown_operator_is_refused(http: httpx.Client, space: str) -> None:
    http.put("/store/items", json={"namespace": [space], "key": "k", "value": {"n": 1}})
    refused = http.post("/store/items/search", json={"namespace_prefix": [space], "filter": {"n": {"$like": "x"}}})
    assert (refused.status_code, refused.json()) == (400, {"detail": "Unsupported operator: $like"})


@pytest.mark.parametrize("body", [{}, {"namespace_prefix": None}, {"namespace_prefix": []}])
def test_a_search_without_a_prefix_finds_all(http: httpx.Client, space: str, body: dict[str, Any]) -> None:
    http.put("/store/items", json={"namespace": [space], "key": "k", "value": {}})
    found = http.post("/store/items/search", json={**body, "limit": 10_000})
    assert [space] in [item["namespace"] for item in found.json()["items"]]


async def test_a_query_without_an_index_is_no_filter(client: LangGraphClient, space: str) -> None:
    await client.store.put_item([space], "k", {"text": "tea"}, index=["text"])
    found = await client.store.search_items([space], query="coffee")
    assert [(item["key"], item["score"]) for item in found["items"]] == [("k", None)]


# Namespaces


async def test_namespaces_are_listed_by_prefix_suffix_and_depth(client: LangGraphClient, space: str) -> None:
    for path in (["b"], ["a", "x", "end"], ["a", "y", "end"], ["a"], ["ab", "x"]):
        await client.store.put_item([space, *path], "k", {})

    async def listed(prefix: list[str], **search: Any) -> list[str]:
        found: Any = await client.store.list_namespaces(prefix=[space, *prefix], **search)
        return ["/".join(namespace[1:]) for namespace in found["namespaces"]]

    assert await listed([]) == ["a", "a/x/end", "a/y/end", "ab/x", "b"]
    assert await listed(["a"]) == ["a", "a/x/end", "a/y/end"]
    assert await listed(["*", "x"]) == ["a/x/end", "ab/x"]
    assert await listed([], suffix=["end"]) == ["a/x/end", "a/y/end"]
    assert await listed([], suffix=["x", "*"]) == ["a/x/end"]
    assert await listed([], max_depth=2) == ["a", "ab", "b"]
    assert await listed(["a"], max_depth=3) == ["a", "a/x", "a/y"]
    assert await listed([], limit=2, offset=1) == ["a/x/end", "a/y/end"]
    assert await listed(["none"]) == []


# Graphs


async def test_graph_nodes_and_clients_share_the_store(client: LangGraphClient, space: str) -> None:
    await client.store.put_item(["notes", space], "from the client", {"text": "hi"})
    done: Any = await client.runs.wait(None, "notes", input={"space": space, "note": "from the node"})
    assert done["found"] == ["from the client", "from the node"]
    item: Any = await client.store.get_item(["notes", space], "from the node")
    assert item["value"] == {"text": "from the node"}
    await client.store.delete_item(["notes", space], "from the client")
    done = await client.runs.wait(None, "notes", input={"space": space})
    assert done["found"] == ["from the node"]


async def test_many_clients_write_at_once(client: LangGraphClient, space: str) -> None:
    await asyncio.gather(*(client.store.put_item([space, str(n % 3)], str(n), {"n": n}) for n in range(60)))
    assert sorted(await keys(client, space, limit=100), key=int) == [str(n) for n in range(60)]


def test_the_sync_client_uses_the_store_too(server: LiveServer, space: str) -> None:
    with server.sync_client() as client:
        client.store.put_item([space], "k", {"n": 1})
        assert client.store.get_item([space], "k")["value"] == {"n": 1}
        assert [item["key"] for item in client.store.search_items([space])["items"]] == ["k"]
        assert client.store.list_namespaces(prefix=[space])["namespaces"] == [[space]]
        client.store.delete_item([space], "k")
        assert client.store.search_items([space])["items"] == []

"""Assistants: create, read, change, versions, search, and what they tell of their graphs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from conftest import LiveServer, eventually
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError

NAMES = ("steps", "nested", "context", "gated", "typed", "workflow")
SERVED: dict[str, Any] = {name: f"./basic.py:{name}" for name in NAMES}
SERVED["steps"] = {"path": "./basic.py:steps", "description": "Three steps"}
GRAPH_NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")


@pytest.fixture
def mark() -> str:
    """A text that only this test's assistants carry."""
    return str(uuid.uuid4())


def system_id(graph_id: str) -> str:
    return str(uuid.uuid5(GRAPH_NAMESPACE, graph_id))


# Those of the server


async def test_each_graph_has_an_assistant_made_by_the_system(client: LangGraphClient) -> None:
    found = await client.assistants.search(metadata={"created_by": "system"}, limit=100)
    assert {assistant["assistant_id"] for assistant in found} == {system_id(name) for name in NAMES}
    [steps] = [assistant for assistant in found if assistant["graph_id"] == "steps"]
    assert steps["version"] == 1
    assert (steps["config"], steps["context"]) == ({}, {})


@pytest.mark.parametrize(
    ("graph_id", "name", "description"),
    [("steps", "steps", "Three steps"), ("nested", "a nested graph", None), ("workflow", "workflow", None)],
)
async def test_a_system_assistant_is_named_and_described_by_its_graph(
    client: LangGraphClient, graph_id: str, name: str, description: str | None
) -> None:
    assistant = await client.assistants.get(system_id(graph_id))
    assert (assistant["name"], assistant["description"]) == (name, description)


# Create


async def test_a_new_assistant_needs_only_a_graph(client: LangGraphClient) -> None:
    made = await client.assistants.create("steps")
    assert uuid.UUID(made["assistant_id"]).version == 4
    assert made["name"] == "Untitled"
    assert made["version"] == 1
    assert [made["config"], made["context"], made["metadata"], made["description"]] == [{}, {}, {}, None]
    assert made["created_at"] == made["updated_at"]
    assert await client.assistants.get(made["assistant_id"]) == made


async def test_a_new_assistant_keeps_what_it_is_given(client: LangGraphClient, mark: str) -> None:
    made = await client.assistants.create(
        "context",
        assistant_id=mark,
        name="Ann",
        description="a helper",
        metadata={"mark": mark, "deep": {"list": [1, None]}},
        context={"user": "ann"},
    )
    assert made["assistant_id"] == mark
    assert (made["name"], made["description"]) == ("Ann", "a helper")
    assert made["metadata"] == {"mark": mark, "deep": {"list": [1, None]}}
    assert await client.assistants.get(mark) == made


@pytest.mark.parametrize("given", [{"context": {"user": "ann"}}, {"config": {"configurable": {"user": "ann"}}}])
def test_context_and_configurable_mirror_each_other(http: httpx.Client, given: dict[str, Any]) -> None:
    made = http.post("/assistants", json={"graph_id": "context", **given}).json()
    assert made["context"] == {"user": "ann"}
    assert made["config"]["configurable"] == {"user": "ann"}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_context_and_configurable_cannot_both_be_given(http: httpx.Client, method: str) -> None:
    made = http.post("/assistants", json={"graph_id": "context"}).json()
    path = "/assistants" if method == "POST" else f"/assistants/{made['assistant_id']}"
    both = {"graph_id": "context", "context": {"a": 1}, "config": {"configurable": {"b": 2}}}
    refused = http.request(method, path, json=both)
    assert refused.status_code == 400
    assert refused.json()["detail"].startswith("Cannot specify both configurable and context.")


async def test_an_assistant_id_is_taken_once(client: LangGraphClient, mark: str) -> None:
    old = await client.assistants.create("steps", assistant_id=mark, name="old")
    with pytest.raises(ConflictError, match=f"Assistant {mark} already exists"):
        await client.assistants.create("steps", assistant_id=mark, name="new")
    again = await client.assistants.create("context", assistant_id=mark, name="new", if_exists="do_nothing")
    assert again == old


async def test_an_unknown_graph_is_refused_with_those_there_are(client: LangGraphClient) -> None:
    with pytest.raises(NotFoundError, match=r"Graph 'nope' not found. Expected one of: \['context', 'gated'"):
        await client.assistants.create("nope")


def test_keys_that_the_server_sets_are_not_taken_from_clients(http: httpx.Client) -> None:
    made = http.post(
        "/assistants",
        json={
            "graph_id": "steps",
            "metadata": {"assistant_id": "x", "run_id": "y", "mine": 1},
            "config": {"configurable": {"langgraph_auth_user": "root", "mine": 2}},
        },
    ).json()
    assert made["metadata"] == {"mine": 1}
    assert made["config"]["configurable"] == {"mine": 2}


# Change, versions


async def test_a_patch_merges_metadata_and_replaces_the_rest(client: LangGraphClient) -> None:
    made = await client.assistants.create(
        "context", name="Ann", metadata={"a": {"x": 1}, "b": 2}, context={"user": "ann", "level": 3}
    )
    patched = await client.assistants.update(
        made["assistant_id"], metadata={"a": {"y": 2}}, context={"user": "bob"}, name="Bob"
    )
    assert patched["metadata"] == {"a": {"y": 2}, "b": 2}
    assert patched["context"] == {"user": "bob"}
    assert patched["config"] == {"configurable": {"user": "bob"}}
    assert patched["name"] == "Bob"
    assert patched["graph_id"] == "context"
    assert patched["version"] == 2
    assert patched["updated_at"] > made["updated_at"]


async def test_every_patch_makes_a_version_even_an_empty_one(client: LangGraphClient) -> None:
    made = await client.assistants.create("steps", name="Ann", metadata={"a": 1}, context={"b": 2})
    patched = await client.assistants.update(made["assistant_id"])
    assert {**patched, "version": 1, "updated_at": made["updated_at"]} == made
    assert patched["version"] == 2


async def test_versions_are_listed_newest_first(client: LangGraphClient) -> None:
    made = await client.assistants.create("steps", metadata={"n": 1, "kind": "odd"})
    for n, kind in ((2, "even"), (3, "odd"), (4, "even")):
        await client.assistants.update(made["assistant_id"], metadata={"n": n, "kind": kind})

    async def numbers(**search: Any) -> list[int]:
        return [v["version"] for v in await client.assistants.get_versions(made["assistant_id"], **search)]

    assert await numbers() == [4, 3, 2, 1]
    assert await numbers(limit=2, offset=1) == [3, 2]
    assert await numbers(metadata={"kind": "odd"}) == [3, 1]


async def test_going_back_to_a_version_restores_all_of_it(client: LangGraphClient) -> None:
    made = await client.assistants.create("context", name="Ann", description="first", context={"user": "ann"})
    assistant_id = made["assistant_id"]
    await client.assistants.update(assistant_id, graph_id="steps", name="Bob", context={"user": "bob"})
    back = await client.assistants.set_latest(assistant_id, 1)
    assert {**back, "updated_at": made["updated_at"]} == made
    assert (await client.runs.wait(None, assistant_id, input={}))["seen"]["context"] == {"user": "ann", "level": 0}  # type: ignore[call-overload]
    assert (await client.assistants.update(assistant_id))["version"] == 3


async def test_an_unknown_version_is_not_found(client: LangGraphClient) -> None:
    made = await client.assistants.create("steps")
    with pytest.raises(NotFoundError, match="Version 7 not found"):
        await client.assistants.set_latest(made["assistant_id"], 7)
    assert await client.assistants.get(made["assistant_id"]) == made


# Delete


async def test_a_deleted_assistant_is_gone_with_its_versions_but_its_threads_stay(client: LangGraphClient) -> None:
    made = await client.assistants.create("steps")
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], made["assistant_id"], input={})
    await client.assistants.delete(made["assistant_id"])
    for gone in (
        client.assistants.get(made["assistant_id"]),
        client.assistants.get_versions(made["assistant_id"]),
        client.assistants.delete(made["assistant_id"]),
        client.runs.create(thread["thread_id"], made["assistant_id"], input={}),
    ):
        with pytest.raises(NotFoundError):
            await gone
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"] == {"text": "!", "trail": ["first", "second", "third"], "total": 111}


async def test_an_assistant_may_take_its_threads_along(client: LangGraphClient) -> None:
    made = await client.assistants.create("steps")
    own, other = await client.threads.create(), await client.threads.create()
    await client.runs.wait(own["thread_id"], made["assistant_id"], input={})
    await client.runs.wait(other["thread_id"], "steps", input={})
    await client.assistants.delete(made["assistant_id"], delete_threads=True)
    with pytest.raises(NotFoundError):
        await client.threads.get(own["thread_id"])
    assert (await client.threads.get(other["thread_id"]))["status"] == "idle"


@pytest.mark.parametrize("after_seconds", [0, 60])
async def test_those_who_follow_a_run_of_a_thread_that_an_assistant_takes_along_are_let_go(
    client: LangGraphClient, tmp_path: Any, after_seconds: int
) -> None:
    made = await client.assistants.create("gated")
    thread = await client.threads.create()
    events = client.runs.stream(
        thread["thread_id"],
        made["assistant_id"],
        input={"gate": str(tmp_path / "never")},
        after_seconds=after_seconds,
        stream_mode="custom",
    )

    async def to_the_end() -> list[str]:
        return [part.event async for part in events]

    import asyncio

    following = asyncio.ensure_future(to_the_end())
    await eventually(lambda: client.runs.list(thread["thread_id"]))
    await client.assistants.delete(made["assistant_id"], delete_threads=True)
    assert set(await asyncio.wait_for(following, 5)) <= {"metadata", "custom"}


# Search


async def test_search_filters_by_what_metadata_contain(client: LangGraphClient, mark: str) -> None:
    made = await client.assistants.create("steps", metadata={"mark": mark, "deep": {"a": 1, "b": [1, 2]}, "none": None})

    async def finds(metadata: dict[str, Any]) -> bool:
        found = await client.assistants.search(metadata={"mark": mark, **metadata})
        count = await client.assistants.count(metadata={"mark": mark, **metadata})
        assert count == len(found)
        return [each["assistant_id"] for each in found] == [made["assistant_id"]]

    assert await finds({})
    assert await finds({"deep": {"a": 1}})
    assert await finds({"deep": {"b": [1, 2]}})
    assert await finds({"none": None})
    assert not await finds({"deep": {"b": [1]}})
    assert not await finds({"deep": {"a": True}})
    assert not await finds({"missing": None})


async def test_search_filters_by_graph_and_part_of_the_name(client: LangGraphClient, mark: str) -> None:
    for graph_id, name in (("steps", "Ångström"), ("steps", "100% plan"), ("context", "ÅNG")):
        await client.assistants.create(graph_id, name=name, metadata={"mark": mark})

    async def names(**search: Any) -> list[str]:
        found = await client.assistants.search(metadata={"mark": mark}, sort_by="name", sort_order="asc", **search)
        assert await client.assistants.count(metadata={"mark": mark}, **search) == len(found)
        return [assistant["name"] for assistant in found]

    assert await names(name="ång") == ["ÅNG", "Ångström"]
    assert await names(name="%") == ["100% plan"]
    assert await names(name="_") == []
    assert await names(graph_id="steps") == ["100% plan", "Ångström"]
    assert await names(graph_id="context", name="plan") == []


@pytest.mark.parametrize("path", ["search", "count"])
def test_a_search_for_an_unknown_graph_is_not_found(http: httpx.Client, path: str) -> None:
    assert http.post(f"/assistants/{path}", json={"graph_id": "nope"}).status_code == 404


KEYS: dict[str, Callable[[Any], Any]] = {
    "assistant_id": lambda assistant: assistant["assistant_id"],
    "created_at": lambda assistant: assistant["created_at"],
    "updated_at": lambda assistant: assistant["updated_at"],
    "name": lambda assistant: assistant["name"].lower(),
    "graph_id": lambda assistant: assistant["graph_id"],
}


@pytest.mark.parametrize("sort_order", ["asc", "desc", None])
@pytest.mark.parametrize("sort_by", KEYS)
async def test_search_sorts_by_any_column_both_ways(
    client: LangGraphClient, mark: str, sort_by: Any, sort_order: Any
) -> None:
    made = [
        await client.assistants.create(graph_id, name=name, metadata={"mark": mark})
        for graph_id, name in (("steps", "b"), ("context", "C"), ("nested", "a"))
    ]
    await client.assistants.update(made[0]["assistant_id"], metadata={})
    found = await client.assistants.search(metadata={"mark": mark}, sort_by=sort_by, sort_order=sort_order)
    assert found == sorted(found, key=KEYS[sort_by], reverse=sort_order != "asc")
    assert len(found) == 3


async def test_search_goes_page_by_page(client: LangGraphClient, mark: str) -> None:
    made = [(await client.assistants.create("steps", metadata={"mark": mark}))["assistant_id"] for _ in range(5)]
    seen, offset, pages = [], 0, 0
    while True:
        page = await client.assistants.search(metadata={"mark": mark}, limit=2, offset=offset, response_format="object")
        seen += [assistant["assistant_id"] for assistant in page["assistants"]]
        pages += 1
        if page["next"] is None:
            break
        offset = int(page["next"])
    assert pages == 3
    assert seen == made[::-1]


def test_search_headers_tell_of_the_next_page(http: httpx.Client, mark: str) -> None:
    for _ in range(3):
        http.post("/assistants", json={"graph_id": "steps", "metadata": {"mark": mark}})

    def headers(limit: int, offset: int) -> tuple[str | None, str | None]:
        body = {"metadata": {"mark": mark}, "limit": limit, "offset": offset}
        got = http.post("/assistants/search", json=body).headers
        return got.get("x-pagination-next"), got.get("x-pagination-total")

    assert headers(2, 0) == ("2", "3")
    assert headers(2, 2) == (None, "3")
    assert headers(3, 0) == (None, "3")
    assert headers(3, 50) == (None, "50")


async def test_search_gives_only_the_fields_selected(client: LangGraphClient, mark: str) -> None:
    made = await client.assistants.create("steps", metadata={"mark": mark})
    [row] = await client.assistants.search(metadata={"mark": mark}, select=["assistant_id", "version"])
    assert row == {"assistant_id": made["assistant_id"], "version": 1}
    [row] = await client.assistants.search(metadata={"mark": mark}, select=[])
    assert row == made


# Their graphs


@pytest.mark.parametrize("name", ["nested", system_id("nested")])
async def test_the_drawing_names_nodes_and_edges(client: LangGraphClient, name: str) -> None:
    drawing = await client.assistants.get_graph(name)
    assert [node["id"] for node in drawing["nodes"]] == ["__start__", "enter", "child", "leave", "__end__"]
    assert {"source": "enter", "target": "child"} in drawing["edges"]


@pytest.mark.parametrize(
    ("xray", "inside", "outside"),
    [
        (False, "child", "child:open_child"),
        (1, "child:grand", "child:grand:leaf"),
        (True, "child:grand:leaf", "child:grand"),
    ],
)
async def test_xray_opens_subgraphs(client: LangGraphClient, xray: int | bool, inside: str, outside: str) -> None:
    drawing = await client.assistants.get_graph("nested", xray=xray)
    nodes = {node["id"] for node in drawing["nodes"]}
    assert inside in nodes
    assert outside not in nodes


@pytest.mark.parametrize("xray", ["0", "-1", "yes", "1.5", "٣", "9" * 5000])
def test_a_strange_xray_is_refused(http: httpx.Client, xray: str) -> None:
    refused = http.get("/assistants/nested/graph", params={"xray": xray})
    assert (refused.status_code, refused.json()) == (422, {"detail": "Invalid xray value"})


async def test_schemas_describe_the_graph(client: LangGraphClient) -> None:
    schemas = await client.assistants.get_schemas(system_id("context"))
    assert schemas["graph_id"] == "context"
    assert schemas["context_schema"]
    assert set(schemas["context_schema"]["properties"]) == {"user", "level"}
    for kind in (schemas["input_schema"], schemas["output_schema"], schemas["state_schema"]):
        assert kind
        assert "seen" in kind["properties"]


@pytest.mark.parametrize("graph_id", NAMES)
async def test_every_kind_of_graph_has_schemas(client: LangGraphClient, graph_id: str) -> None:
    schemas = await client.assistants.get_schemas(system_id(graph_id))
    assert isinstance(schemas["input_schema"], dict)
    assert isinstance(schemas["output_schema"], dict)
    assert (schemas["context_schema"] is None) == (graph_id != "context")


async def test_subgraphs_are_named_by_their_namespace(client: LangGraphClient) -> None:
    nested = system_id("nested")
    assert set(await client.assistants.get_subgraphs(nested)) == {"child"}
    assert set(await client.assistants.get_subgraphs(nested, recurse=True)) == {"child", "child|grand"}
    grands: dict[str, Any] = dict(await client.assistants.get_subgraphs(nested, "child|grand", recurse=True))
    [grand] = grands.values()
    assert "inner" in grand["state_schema"]["properties"]
    assert await client.assistants.get_subgraphs(nested, "child|grand") == {}
    assert await client.assistants.get_subgraphs(system_id("steps")) == {}


@pytest.mark.parametrize("part", ["schemas", "subgraphs"])
def test_only_the_drawing_takes_a_graph_id(http: httpx.Client, part: str) -> None:
    assert http.get(f"/assistants/steps/{part}").status_code == 422
    assert http.get(f"/assistants/{uuid.uuid4()}/{part}").status_code == 404


# In runs


async def test_a_run_sees_its_assistants_context_and_config(client: LangGraphClient) -> None:
    made = await client.assistants.create(
        "context", config={"tags": ["t"], "recursion_limit": 7}, context={"user": "ann", "level": 2}
    )
    seen = (await client.runs.wait(None, made["assistant_id"], input={}))["seen"]  # type: ignore[call-overload]
    assert seen["context"] == {"user": "ann", "level": 2}
    assert seen["configurable"]["user"] == "ann"
    assert seen["configurable"]["assistant_id"] == made["assistant_id"]
    assert seen["recursion_limit"] == 7
    assert "t" in seen["tags"]


async def test_a_runs_own_context_wins_over_its_assistants(client: LangGraphClient) -> None:
    made = await client.assistants.create("context", context={"user": "ann", "level": 2})
    seen = (await client.runs.wait(None, made["assistant_id"], input={}, context={"user": "bob"}))["seen"]  # type: ignore[call-overload]
    assert seen["context"] == {"user": "bob", "level": 2}


def test_the_sync_client_manages_assistants_too(server: LiveServer, mark: str) -> None:
    with server.sync_client() as client:
        made = client.assistants.create("steps", metadata={"mark": mark})
        assert client.assistants.update(made["assistant_id"], name="Ann")["version"] == 2
        assert [each["name"] for each in client.assistants.search(metadata={"mark": mark})] == ["Ann"]
        assert client.assistants.count(metadata={"mark": mark}) == 1
        client.assistants.delete(made["assistant_id"])
        assert client.assistants.count(metadata={"mark": mark}) == 0

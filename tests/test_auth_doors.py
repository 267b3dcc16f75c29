"""Each door to a thing under an application's Auth: what it tells of things that are another's, or not there, and that
the store's routes keep out of shared values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import LiveServer, write_project
from test_auth import FILES, ITEM, OWN
from test_auth import SERVED as ALL_SERVED

SERVED = {**ALL_SERVED, "look": "./look.py:graph"}

# Shared values: no store route leads to them

# A token is a user's name, and the labels that the handler puts in front of a namespace.
ROOTED = (
    OWN[: OWN.index("    name = ")]
    + """
    name, *root = authorization.removeprefix("Bearer ").split()
    return {"identity": name, "root": root}

@auth.on.store
async def rooted(ctx, value):
    value["namespace"] = (*ctx.user.root, *(value["namespace"] or ()))
"""
)
LOOK = """
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

class State(TypedDict, total=False):
    key: str
    seen: list

async def look(state: State, runtime: Runtime):
    store = runtime.store
    if state.get("key"):
        await store.aput(("scoped", "of", "node"), state["key"], {"from": "a node"})
    found = await store.asearch((), limit=100)
    names = await store.alist_namespaces()
    return {"seen": [sorted({item.namespace[0] for item in found}), sorted({name[0] for name in names})]}

graph = StateGraph(State).add_node(look).add_edge("__start__", "look").compile()
"""
ALICES = ["scoped", "langgraph_auth_user_id", "notes", "alice"]


@pytest.fixture(scope="module", params=["auth", "no auth"])
def store_http(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with an Auth, or without one; with a shared value of alice in its store."""
    folder = tmp_path_factory.mktemp("rooted")
    auth = {"auth": {"path": "./auth.py:auth"}} if request.param == "auth" else {}
    write_project(folder, SERVED, {**FILES, "auth.py": ROOTED, "look.py": LOOK}, **auth)
    server = LiveServer(folder, ["--no-reload"]).start()
    with server.http() as http:
        yield http
    assert server.stop() == 0, server.log


DOORS: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "put": lambda place: {"method": "PUT", "url": "/store/items", "json": {**ITEM, "namespace": place}},
    "get": lambda place: {
        "method": "GET",
        "url": "/store/items",
        "params": {"namespace": ".".join(place), "key": "of alice"},
    },
    "delete": lambda place: {
        "method": "DELETE",
        "url": "/store/items",
        "json": {"namespace": place, "key": "of alice"},
    },
    "search": lambda place: {"method": "POST", "url": "/store/items/search", "json": {"namespace_prefix": place}},
    "list": lambda place: {"method": "POST", "url": "/store/namespaces", "json": {"prefix": place}},
}


WHO = {"assistant_id": "who", "input": {}}


@pytest.mark.parametrize("store_http", ["auth"], indirect=True)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("token", "place", "refused"),
    [
        ("bob", ALICES, True),
        ("alice", ALICES, True),
        ("bob", ["scoped"], True),
        ("scoped scoped", ALICES[1:], True),  # the usual rule, and a user who is called so
        ("bob scoped", ["x"], True),
        ("alice alice", ALICES, False),  # a namespace of her own, by this name
        ("bob", ["scoped2", *ALICES], False),
        ("bob aside", ALICES, False),
    ],
)
def test_no_store_route_leads_to_shared_values(
    store_http: httpx.Client, door: str, token: str, place: list[str], refused: bool
) -> None:
    alice = {"authorization": "Bearer alice"}
    store_http.post("/runs/wait", json={**WHO, "input": {"note": "of alice"}}, headers=alice).raise_for_status()
    answer = store_http.request(**DOORS[door](place), headers={"authorization": f"Bearer {token}"})
    if refused:
        assert answer.status_code == 403
        assert "'scoped'" in answer.json()["detail"]
    else:
        assert answer.status_code in (200, 204), answer.text
        assert "of alice" not in answer.text
    assert store_http.post("/runs/wait", json=WHO, headers=alice).json()["seen"]["notes"] == ["of alice"]


@pytest.mark.parametrize("store_http", ["no auth"], indirect=True)
@pytest.mark.parametrize("door", DOORS)
def test_without_an_auth_every_store_route_leads_to_shared_values(store_http: httpx.Client, door: str) -> None:
    item = {"namespace": ALICES, "key": "of alice", "value": {"text": "written"}}
    store_http.put("/store/items", json=item).raise_for_status()
    answer = store_http.request(**DOORS[door](ALICES)).raise_for_status()
    if door in ("get", "search", "list"):
        assert "alice" in answer.text


@pytest.mark.parametrize(
    ("store_http", "hidden"), [("auth", True), ("no auth", False)], indirect=["store_http"], ids=["auth", "no auth"]
)
def test_searches_and_listings_leave_out_shared_values(store_http: httpx.Client, hidden: bool) -> None:
    """Pages are as long as asked for, and no item is missed or shown twice; without an Auth all is shown."""
    http = store_http
    http.headers["authorization"] = "Bearer bob"

    def ask(path: str, **body: Any) -> list[Any]:
        answer = http.post(f"/store/{path}", json=body).raise_for_status().json()
        return list(answer.get("items") or answer.get("namespaces") or ())

    for item in ask("items/search", namespace_prefix=[], limit=100):
        http.request("DELETE", "/store/items", json={"namespace": item["namespace"], "key": item["key"]})
    for number in range(7):
        run = {"assistant_id": "look", "input": {"key": f"node {number}"}}
        assert http.post("/runs/wait", json=run).json()["seen"][0][-1] == "scoped"  # a node sees them
        item = {"namespace": [f"n{number % 3}", "scoped"], "key": f"k{number}", "value": {"number": number}}
        http.put("/store/items", json=item).raise_for_status()
    keys = [f"{kind}{number}" for number in range(7) for kind in (["k"] if hidden else ["node ", "k"])]
    found = [item["key"] for item in ask("items/search", namespace_prefix=[], limit=100)]
    assert found == keys
    pages = [ask("items/search", namespace_prefix=[], limit=2, offset=n) for n in range(0, len(keys), 2)]
    assert [item["key"] for page in pages for item in page] == keys
    assert [len(page) for page in pages[:-1]] == [2] * (len(pages) - 1)
    assert [each["key"] for each in ask("items/search", namespace_prefix=[], filter={"number": 3})] == ["k3"]
    nodes = ask("items/search", namespace_prefix=[], filter={"from": "a node"}, limit=100)
    assert len(nodes) == (0 if hidden else 7)
    names = [["n0", "scoped"], ["n1", "scoped"], ["n2", "scoped"], *([] if hidden else [["scoped", "of", "node"]])]
    assert ask("namespaces") == names
    assert ask("namespaces", prefix=["*"]) == names
    assert ask("namespaces", max_depth=1) == [name[:1] for name in names]
    assert ask("namespaces", suffix=["scoped"]) == names[:3]
    assert ask("namespaces", suffix=["node"]) == names[3:]
    assert [ask("namespaces", limit=2, offset=n) for n in (0, 2)] == [names[:2], names[2:]]

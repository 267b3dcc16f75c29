"""Shared values, row by row of the table in design.md: real servers, real files, the official SDK.

What the nodes of the graphs in graphs/shared.py do is said by their input, made by `order`.
"""

import asyncio
import contextlib
import importlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from conftest import GRAPHS, LiveServer, eventually, write_project
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.errors import InvalidUpdateError
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import APIStatusError, UnprocessableEntityError

SHAPES = ["bare", "typed", "mapped", "mutable", "outside", "inside", "model", "data"]
SUBGRAPHS = ["as_node", "as_node_kept", "as_node_unsaved", "called", "called_unsaved"]
SUBGRAPHS += ["deep", "deep_kept", "deep_unsaved"]
OTHERS = ["steps", "parallel", "factory", "with_own_saver", "conditional", "conditional_sub", "siblings", "commanding"]
OTHERS += ["undeclared", "undeclared_unsaved", "called_with_all", "called_twice", "called_at_once", "itself"]
OTHERS += ["retried", "stopping", "only", "dotted", "two"]
SERVED = {name: f"./shared.py:{name}" for name in SHAPES + SUBGRAPHS + OTHERS}
SERVED["old_import"] = "./shared_old_import.py:graph"
SLOW_DISK = {f"slow_{name}": f"./shared_slow_disk.py:{name}" for name in ("steps", "as_node")}
DURABILITIES = ["sync", "async", "exit"]
# LangGraph itself can't run subgraphs without checkpointer with durability "sync".
WAYS = [(graph, mode) for graph in SUBGRAPHS for mode in DURABILITIES if "unsaved" not in graph or mode != "sync"]
WITHOUT_CHECKPOINT = [way for way in WAYS if "unsaved" in way[0] or (way[1] == "exit" and "kept" not in way[0])]
A, B, C = {"a": {"n": 1}}, {"b": {"n": 2}}, {"c": {"n": 3}}
NO_SCOPE = "Scope user_id for shared state key 'info' not in config.configurable"

per_durability = pytest.mark.parametrize("durability", DURABILITIES)


class Place(NamedTuple):
    """A place in a node where it waits until the test says go: see `pause` in graphs/shared.py."""

    file: Path

    def __str__(self) -> str:
        return str(self.file)

    async def reached(self) -> None:
        await eventually(Path(f"{self.file}.reached").exists)

    def go(self) -> None:
        Path(f"{self.file}.go").touch()


@dataclass
class User:
    """Someone who runs graphs; `id` is the scope value. A test's own user has seen nothing yet."""

    server: LiveServer
    client: LangGraphClient
    folder: Path
    id: Any = field(default_factory=lambda: f"user-{uuid4()}")

    def other(self, user_id: Any) -> "User":
        return User(self.server, self.client, self.folder, user_id)

    def config(self, **configurable: Any) -> Any:
        return {"configurable": {"user_id": self.id, **configurable}}

    def place(self, name: str) -> Place:
        return Place(self.folder / name)

    @property
    def namespace(self) -> list[str]:
        return ["scoped", "user_id", "info", self.id]

    async def thread(self) -> str:
        return (await self.client.threads.create())["thread_id"]

    async def start(self, graph: str, given: Any, **options: Any) -> tuple[str, str]:
        """Start a run in a new thread; gives the ids of both."""
        thread = await self.thread()
        run = await self.client.runs.create(thread, graph, input=given, **{"config": self.config(), **options})
        return thread, run["run_id"]

    async def wait(self, graph: str, given: Any = None, thread: str | None = None, **options: Any) -> Any:
        """Run a graph to the end, in a new thread if none is given. Gives the final values."""
        options = {"config": self.config(), "raise_error": False, **options}
        return await self.client.runs.wait(thread or await self.thread(), graph, input=given, **options)

    async def seen(self, graph: str, given: Any, **options: Any) -> dict[str, Any]:
        """Run a graph; gives what each node, or step of `steps`, saw in `info`."""
        result = await self.wait(graph, given, **options)
        assert "__error__" not in result, result
        return dict(result["seen"])

    async def state(self, thread: str, **options: Any) -> Any:
        return await self.client.threads.get_state(thread, **options)

    def stored(self, key: str = "info") -> dict[str, Any]:
        return stored(self.server, f"scoped.user_id.{key}.{self.id}")


@pytest.fixture
async def who(server: LiveServer, tmp_path: Path) -> AsyncIterator[User]:
    async with server.client() as client:
        yield User(server, client, tmp_path)


def order(*steps: Any, **nodes: dict[str, Any] | str) -> dict[str, Any]:
    """The input of a graph: orders for the supersteps of `steps`, and for other nodes by name."""
    return {"todo": [{"as": str(n), **step} for n, step in enumerate(steps, 1)], "orders": nodes}


def append(*labels: Any) -> list[dict[str, Any]]:
    return [{"append": label} for label in labels]


def log(*labels: Any) -> dict[str, Any]:
    return {"log": {"done": list(labels)}}


@contextlib.contextmanager
def database(server: LiveServer) -> Iterator[sqlite3.Connection]:
    """The server's file, read from outside."""
    with contextlib.closing(sqlite3.connect(f"file:{server.folder}/devserver.db?mode=ro", uri=True)) as conn:
        yield conn


def stored(server: LiveServer, prefix: str) -> dict[str, Any]:
    with database(server) as conn:
        rows = conn.execute("SELECT key, value FROM store WHERE prefix = ?", (prefix,))
        return {key: json.loads(value) for key, value in rows}


def keys_of(value: Any) -> set[str]:
    """All keys of all objects in it."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list | tuple) else set()


# Row: shape


@pytest.mark.parametrize("graph", SHAPES)
async def test_any_annotation_of_a_dict_in_any_state_class_can_be_shared(graph: str, who: User) -> None:
    assert await who.wait(graph, {"saw": []}) == {"saw": ["k1"]}
    assert who.stored() == {"k1": {"n": 1}, "k2": {"n": 2}}
    assert await who.wait(graph, {"saw": []}) == {"saw": ["k1", "k2", "k3"]}


NOT_SHARED = """
    from typing import Annotated, Any, TypedDict
    from langgraph.graph import START, StateGraph
    from devserver import SharedValue

    class State(TypedDict):
        info: {annotation}

    inner = StateGraph(State).add_node("a", lambda state: {{}}).add_edge(START, "a").compile({compiled})

    def outer(state):
        inner.invoke({{"info": {{}}}})

    graph = StateGraph(dict).add_node("outer", outer).add_edge(START, "outer")
    """


@pytest.mark.parametrize(
    ("annotation", "target", "compiled", "cause"),
    [
        ('Annotated[list, SharedValue.on("user_id")]', "inner", "", "must be annotated as a dict, not .*list"),
        ('Annotated[int, SharedValue.on("user_id")]', "inner", "", "must be annotated as a dict, not .*int"),
        ("Annotated[dict, SharedValue]", "inner", "", "needs a scope"),
        ('Annotated[dict | None, SharedValue.on("user_id")]', "graph", "checkpointer=False", "must be .* as a dict"),
    ],
    ids=["list", "int", "no scope", "optional, in a subgraph"],
)
async def test_a_key_that_cannot_be_shared_stops_the_start(
    annotation: str, target: str, compiled: str, cause: str, tmp_path: Path
) -> None:
    text = NOT_SHARED.format(annotation=annotation, compiled=compiled)
    write_project(tmp_path, {"bad": f"./bad.py:{target}"}, {"bad.py": text})
    server = LiveServer(tmp_path, ["--no-reload"])
    try:
        with pytest.raises(AssertionError, match="did not start"):
            server.start()
        assert server.stop() == 1
    finally:
        server.kill()
    await eventually(lambda: re.search(rf"graph 'bad' \(.*\): shared state key 'info' {cause}", server.log))
    assert "Traceback" not in server.log


# Row: namespace


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("ann@example.com", "ann@example%2Ecom"),
        ("100%", "100%25"),
        ("a.b%2E..", "a%2Eb%252E%2E%2E"),
        ("Zoë 🍕 / d'or\n", "Zoë 🍕 / d'or\n"),
        (" ", " "),
    ],
)
async def test_items_are_visible_in_the_store_by_scope_key_and_value(value: str, label: str, who: User) -> None:
    store, namespace = who.client.store, ["scoped", "user_id", "info", label]
    await who.other(value).wait("steps", order({"put": A | B}))
    assert stored(who.server, f"scoped.user_id.info.{label}") == A | B
    found = (await store.search_items(namespace))["items"]
    assert [item["namespace"] for item in found] == [namespace] * 2
    assert {item["key"]: item["value"] for item in found} == A | B
    assert (await store.get_item(namespace, "b"))["value"] == B["b"]
    assert namespace in (await store.list_namespaces(["scoped", "user_id"], limit=1000))["namespaces"]
    assert (await who.other(value).seen("steps", order()))["end"] == A | B


async def test_scope_values_that_look_alike_share_nothing(who: User) -> None:
    alike = [who.other(f"{who.id}{end}") for end in (".y", "%2Ey", "%252Ey", "", ".Y", ".y ", "..y")]
    for user in alike:
        assert (await user.seen("steps", order({"put": {user.id: {}}})))["1"] == {}
    for user in alike:
        assert (await user.seen("steps", order()))["end"] == {user.id: {}}


async def test_scope_names_and_state_keys_may_have_dots(who: User) -> None:
    config = {"configurable": {"org.id": f"{who.id}.b"}}
    assert await who.wait("dotted", {"put": A}, config=config) == {"put": A}
    assert stored(who.server, f"scoped.org%2Eid.my%2Einfo.{who.id}%2Eb") == A


async def test_graphs_share_the_items_of_a_user(who: User) -> None:
    await who.wait("steps", order({"put": A}))
    assert (await who.seen("parallel", order()))["before"] == A


async def test_items_changed_through_the_store_api_are_what_graphs_see(who: User) -> None:
    await who.wait("steps", order({"put": A | B}))
    await who.client.store.put_item(who.namespace, "a", {"n": "changed"})
    await who.client.store.delete_item(who.namespace, "b")
    assert (await who.seen("steps", order()))["end"] == {"a": {"n": "changed"}}


# Row: scope value


@pytest.mark.parametrize(
    ("assistant", "run"),
    [
        pytest.param({}, {"config": {"configurable": {"user_id": "X"}}}, id="config"),
        pytest.param({}, {"context": {"user_id": "X"}}, id="context"),
        pytest.param({"config": {"configurable": {"user_id": "X"}}}, {}, id="assistant config"),
        pytest.param({"context": {"user_id": "X"}}, {}, id="assistant context"),
        pytest.param(
            {"context": {"user_id": "Y"}}, {"config": {"configurable": {"user_id": "X"}}}, id="the run's first"
        ),
    ],
)
async def test_the_scope_value_is_of_config_or_context_of_run_or_assistant(assistant: Any, run: Any, who: User) -> None:
    assistant, run = json.loads(json.dumps([assistant, run]).replace('"X"', json.dumps(who.id)))
    made = await who.client.assistants.create("steps", **assistant)
    await who.client.runs.wait(await who.thread(), made["assistant_id"], input=order({"put": A}), **run)
    assert who.stored() == A


@pytest.mark.parametrize(("value", "text"), [(12345678901, "12345678901"), (0, "0"), (1.5, "1%2E5")])
async def test_a_number_is_a_scope_value_like_its_text(value: float, text: str, who: User) -> None:
    await who.other(value).wait("steps", order({"put": A}))
    assert stored(who.server, f"scoped.user_id.info.{text}") == A
    assert (await who.other(str(value)).seen("steps", order()))["end"] == A


@pytest.mark.parametrize("configurable", [{}, {"user_id": None}, {"user_id": ""}], ids=["missing", "None", "empty"])
@pytest.mark.parametrize(
    "path", [f"{prefix}/runs{how}" for prefix in ("", "/threads/{}") for how in ("", "/stream", "/wait", "/batch")][:-1]
)
async def test_a_run_without_scope_value_is_refused_and_not_made(path: str, configurable: Any, who: User) -> None:
    thread, threads = await who.thread(), await who.client.threads.count()
    good = {"assistant_id": "steps", "input": order({"put": A}), "config": who.config()}
    bad = {**good, "config": {"configurable": configurable}}
    async with httpx.AsyncClient(base_url=who.server.url) as http:
        answer = await http.post(path.format(thread), json=[good, bad] if "batch" in path else bad)
    assert (answer.status_code, answer.json()["detail"]) == (422, NO_SCOPE)
    assert await who.client.runs.list(thread) == []
    assert await who.client.threads.count() == threads
    assert (await who.client.threads.get(thread))["status"] == "idle"


@pytest.mark.parametrize("path", ["/runs/crons", "/threads/{}/runs/crons"])
async def test_a_cron_without_scope_value_is_refused(path: str, who: User) -> None:
    cron = {"assistant_id": "steps", "schedule": "0 0 1 1 *", "input": order({"put": A}), "metadata": {"of": who.id}}
    async with httpx.AsyncClient(base_url=who.server.url) as http:
        answer = await http.post(path.format(await who.thread()), json=cron)
    assert (answer.status_code, answer.json().get("detail")) == (422, NO_SCOPE)
    assert await who.client.crons.search(metadata={"of": who.id}) == []


@pytest.mark.parametrize("graph", ["undeclared", "undeclared_unsaved"])
async def test_a_key_that_only_a_subgraph_shares_needs_its_scope_value_at_creation(graph: str, who: User) -> None:
    with pytest.raises(UnprocessableEntityError, match=NO_SCOPE):
        await who.other("").start(graph, order({"put": A}))


async def test_resuming_needs_the_scope_value_as_well(who: User) -> None:
    thread = await who.thread()
    await who.wait("steps", order({"ask": "?", "put": A}), thread)
    with pytest.raises(UnprocessableEntityError, match=NO_SCOPE):
        await who.client.runs.create(thread, "steps", command={"resume": "!"})
    assert (await who.client.threads.get(thread))["status"] == "interrupted"
    await who.wait("steps", thread=thread, command={"resume": "!"})
    assert who.stored() == A


async def test_a_graph_made_by_a_factory_fails_its_run_without_scope_value(who: User) -> None:
    thread = await who.thread()
    result = await who.other("").wait("factory", order({"put": A}), thread)
    assert result["__error__"]["message"] == NO_SCOPE
    assert [run["status"] for run in await who.client.runs.list(thread)] == ["error"]
    assert (await who.seen("factory", order({"put": A})))["end"] == who.stored() == A


# Row: load


async def test_all_of_5000_items_are_loaded_and_none_of_longer_namespaces(who: User) -> None:
    many = {f"key {n}": {"n": n, "text": "é" * 20} for n in range(5000)}
    await who.wait("steps", order({"put": many}))
    await who.client.store.put_item([*who.namespace, "deeper"], "deeper", {})
    await who.client.store.put_item(who.other(f"{who.id}0").namespace, "other", {})
    saw = await who.seen("as_node", order({"put": {"key 0": None}}))
    assert (saw["before"], saw["1"]) == (many, many)
    assert len(saw["after"]) == 4999
    assert who.stored() == {key: item for key, item in many.items() if key != "key 0"}


async def test_items_are_loaded_once_per_run_and_again_on_resume(who: User) -> None:
    async def other_writes(key: str) -> None:
        await who.client.store.put_item(who.namespace, key, {})

    here, there = who.place("here"), who.place("there")
    steps = order({"pause": str(here)}, {"append": 1}, {"ask": "?"}, {"pause": str(there)})
    thread, run = await who.start("steps", steps)
    await here.reached()
    await other_writes("during the first run")
    here.go()
    await who.client.runs.join(thread, run)
    await other_writes("before the resume")
    resume = await who.client.runs.create(thread, "steps", command={"resume": "!"}, config=who.config())
    await there.reached()
    await other_writes("during the resume")
    there.go()
    await who.client.runs.join(thread, resume["run_id"])
    saw = (await who.state(thread))["values"]["seen"]
    assert [saw["1"], saw["2"]] == [{}, {}]
    resumed = {"during the first run": {}, "before the resume": {}, **log(1)}
    assert [saw["3"], saw["4"], saw["end"]] == [resumed] * 3


# Row: read


async def test_an_empty_key_is_there_and_changing_what_was_read_changes_nothing(who: User) -> None:
    saw = await who.seen("steps", order({"mutate": True}, {"append": 1}, {"mutate": True}, {}))
    assert saw == {"1": {}, "2": {}, "3": log(1), "4": log(1), "end": log(1)}
    assert who.stored() == log(1)


# Row: write


@per_durability
async def test_an_update_overwrites_items_none_deletes_and_empty_does_nothing(durability: str, who: User) -> None:
    deep, flat = {"a": {"x": {"y": 1}, "z": 2}}, {"a": {"x": {"w": 3}}}
    puts: list[Any] = [deep | B, flat, {"b": None, "nobody": None}, {}, {"": {}, "b": {}}]
    saw = await who.seen("steps", order(*({"put": put} for put in puts)), durability=durability)
    assert [saw[step] for step in "2345"] == [deep | B, flat | B, flat, flat]
    assert saw["end"] == who.stored() == flat | {"": {}, "b": {}}


@per_durability
@pytest.mark.parametrize("bad", [5, "text", ["list"], None, {"k": 5}, {"k": ["list"]}, {"good": {}, "k": ""}], ids=str)
async def test_an_update_or_item_that_is_no_dict_voids_the_superstep(bad: Any, durability: str, who: User) -> None:
    thread = await who.thread()
    given = order(before={"put": A}, other={"put": B}, beside={"put": bad})
    result = await who.wait("parallel", given, thread, durability=durability)
    assert result["__error__"]["error"] == "InvalidUpdateError"
    assert "shared key 'info'" in result["__error__"]["message"]
    assert who.stored() == A
    assert (await who.client.threads.get(thread))["status"] == "error"
    assert "after" not in (await who.state(thread))["values"]["seen"]  # the thread can be read and used
    assert (await who.seen("parallel", order(other={"put": B}), thread=thread))["after"] == A | B


@per_durability
@pytest.mark.parametrize("second", [C, 5, {"k": 5}], ids=str)
async def test_of_two_shared_keys_both_are_stored_or_neither(second: Any, durability: str, who: User) -> None:
    given, config = {"orders": {"first": A, "second": second}}, who.config(org_id=who.id)
    await who.wait("two", given, config=config, durability=durability)
    assert who.stored("first") == (A if second == C else {})
    assert stored(who.server, f"scoped.org_id.second.{who.id}") == (C if second == C else {})


@per_durability
async def test_a_superstep_with_a_node_that_fails_stores_nothing(durability: str, who: User) -> None:
    given = order(before={"put": A}, other={"put": B}, beside={"raise": "no"})
    result = await who.wait("parallel", given, durability=durability)
    assert result["__error__"] == {"error": "RuntimeError", "message": "no"}
    assert who.stored() == A


async def test_a_node_that_is_tried_again_writes_once(who: User) -> None:
    trace = who.place("trace")
    saw = await who.seen("retried", order({"append": 1, "trace": str(trace)}))
    assert trace.file.read_text() == "1\n1\n"
    assert saw["end"] == who.stored() == log(1)


# Row: visibility


async def test_parallel_nodes_do_not_see_each_other_but_the_next_superstep_does(who: User) -> None:
    saw = await who.seen("parallel", order(before={"put": A}, other={"put": B}, beside={"put": C}))
    assert saw == {"before": {}, "other": A, "beside": A, "after": A | B | C}
    assert who.stored() == A | B | C


@pytest.mark.parametrize(
    ("graph", "given"),
    [("conditional", order(first={"put": {"told": {}}})), ("conditional_sub", order({"put": {"told": {}}}))],
    ids=["a node", "a subgraph"],
)
async def test_a_conditional_edge_sees_what_its_node_wrote(graph: str, given: Any, who: User) -> None:
    assert "not_told" in await who.seen(graph, order())
    assert (await who.seen(graph, given))["told"] == {"told": {}}


@pytest.mark.parametrize(("graph", "durability"), WAYS)
async def test_a_parent_sees_what_its_subgraph_wrote_once_it_returns(graph: str, durability: str, who: User) -> None:
    given = order(*append(1, 2), before={"put": A}, beside={"put": B})
    result = await who.wait(graph, given, durability=durability)
    saw = {name.removeprefix("in "): info for name, info in result["seen"].items()}
    assert (saw["beside"], saw["1"], saw["2"], saw["end"]) == (A, A, A | log(1), A | log(1, 2))
    assert saw["after"] == who.stored() == A | B | log(1, 2)
    assert "info" not in keys_of(result)


async def test_parallel_subgraphs_do_not_see_each_other(who: User) -> None:
    late = who.place("late")
    thread, run = await who.start("siblings", order({"put": A}, late=str(late)))
    await late.reached()
    await eventually(who.stored)
    late.go()
    result: Any = await who.client.runs.join(thread, run)
    assert result["seen"]["late"] == {}
    assert result["seen"]["after"] == A


async def test_a_subgraph_called_twice_by_a_node_sees_what_it_wrote_before(who: User) -> None:
    saw = await who.seen("called_twice", order(*append(1, 2)))
    assert saw["in 2"] == log(1)
    assert saw["after"] == who.stored() == log(1, 2)


async def test_subgraphs_called_at_once_by_a_node_lose_nothing(who: User) -> None:
    saw = await who.seen("called_at_once", order({"put": A}, {"put": B}, {"put": C}))
    assert saw["after"] == who.stored() == A | B | C


async def test_a_graph_may_call_itself(who: User) -> None:
    await who.seen("itself", order({"put": A}, {"put": B}, {"put": C}))
    assert who.stored() == A | B | C


@pytest.mark.parametrize("graph", ["undeclared", "undeclared_unsaved"])
async def test_a_parent_without_the_key_passes_it_from_subgraph_to_subgraph(graph: str, who: User) -> None:
    result = await who.wait(graph, order(*append(1, 2)))
    assert result["seen"]["end"] == who.stored() == log(1, 2)
    assert "info" not in keys_of(result)


async def test_a_subgraphs_command_to_its_parent_updates_the_shared_key(who: User) -> None:
    assert (await who.seen("commanding", {"orders": {"put": A}}))["after"] == who.stored() == A


@pytest.mark.parametrize("graph", ["as_node", "as_node_unsaved", "called_with_all"])
async def test_passing_the_state_to_a_subgraph_and_back_writes_nothing(graph: str, who: User) -> None:
    here = who.place("here")
    await who.wait("steps", order({"put": A | B}))
    thread, run = await who.start(graph, order({"put": C}, before={"pause": str(here)}))
    await here.reached()
    await who.wait("steps", order({"put": {"a": {"n": "newer"}, "b": None}}))
    here.go()
    await who.client.runs.join(thread, run)
    assert who.stored() == {"a": {"n": "newer"}} | C


@per_durability
async def test_other_runs_see_what_is_committed_from_their_next_start(durability: str, who: User) -> None:
    here, there = who.place("here"), who.place("there")
    writing = await who.start("steps", order({"put": A}, {"pause": str(here)}, {}), durability=durability)
    await here.reached()
    if durability == "async":
        await eventually(who.stored)
    reading = await who.start("steps", order({"pause": str(there)}, {}))
    await there.reached()
    here.go()
    await who.client.runs.join(*writing)
    await who.wait("steps", order({"put": B}))
    there.go()
    result: Any = await who.client.runs.join(*reading)
    assert result["seen"]["end"] == ({} if durability == "exit" else A)
    assert (await who.seen("steps", order()))["end"] == A | B


# Row: concurrency


async def test_keys_of_two_threads_at_once_do_not_collide_and_of_one_key_the_last_commit_wins(who: User) -> None:
    places = [who.place("first"), who.place("second")]
    puts = [{name: {}, "same": {"by": name}} for name in ("first", "second")]
    runs = [
        await who.start("steps", order({"pause": str(place), "put": put}))
        for place, put in zip(places, puts, strict=True)
    ]
    for place in places:
        await place.reached()
    for n in (1, 0):
        places[n].go()
        await who.client.runs.join(*runs[n])
    assert who.stored() == {"first": {}, "second": {}, "same": {"by": "first"}}


async def test_thirty_runs_at_once_lose_no_item(who: User) -> None:
    puts = [{f"{n} {part}": {"n": n} for part in "ab"} for n in range(30)]
    await asyncio.gather(*(who.wait("steps", order({"put": put}, {})) for put in puts))
    assert who.stored() == {key: item for put in puts for key, item in put.items()}


# Row: input, update_state


async def test_input_updates_the_shared_key_like_a_node(who: User) -> None:
    assert (await who.seen("steps", {"info": A | B}))["end"] == A | B
    assert (await who.seen("steps", {"info": {"a": None} | C}))["end"] == B | C
    result = await who.wait("steps", {"info": {"k": 5}})
    assert result["__error__"]["error"] == "InvalidUpdateError"
    assert who.stored() == B | C


async def test_a_commands_update_is_written_once(who: User) -> None:
    thread = await who.thread()
    await who.wait("steps", order({"ask": "?"}, {"append": 1}, {"ask": "?"}), thread)
    await who.wait("steps", thread=thread, command={"resume": "!", "update": {"info": A}})
    assert who.stored() == A | log(1)
    await who.client.store.delete_item(who.namespace, "a")
    assert (await who.seen("steps", None, thread=thread, command={"resume": "!"}))["end"] == who.stored() == log(1)


async def test_a_commands_update_is_not_stored_before_a_superstep_ends(who: User) -> None:
    thread = await who.thread()
    await who.wait("steps", order({"ask": "?"}), thread)
    update: Any = {"update": {"info": A}}
    await who.wait("steps", thread=thread, command=update, interrupt_before=["step"])
    assert who.stored() == {}
    await who.wait("steps", thread=thread, command={"resume": "!"})
    assert who.stored() == A


async def test_update_state_updates_the_shared_key_of_the_last_runs_user(who: User) -> None:
    thread, other = await who.thread(), who.other(f"{who.id}-2")
    await who.wait("steps", order({"put": A}), thread)
    await who.client.threads.update_state(thread, {"info": {"a": None} | B}, as_node="step")
    assert who.stored() == B
    await who.wait("steps", order({}), thread, config=None, context={"user_id": other.id})
    await who.client.threads.update_state(thread, {"info": A, "todo": []})
    assert (who.stored(), other.stored()) == (B, A)
    assert "info" not in keys_of([await who.state(thread), await who.client.threads.get(thread)])


@pytest.mark.parametrize("bad", [5, {"k": 5}, {"a": {}, "k": []}], ids=str)
async def test_an_update_state_that_is_no_update_changes_nothing(bad: Any, who: User) -> None:
    thread = await who.thread()
    await who.wait("steps", order({"put": A}), thread)
    history = await who.client.threads.get_history(thread)
    with pytest.raises(APIStatusError, match="shared key 'info'") as refused:
        await who.client.threads.update_state(thread, {"info": bad})
    assert 400 <= refused.value.status_code < 500
    assert who.stored() == A
    assert await who.client.threads.get_history(thread) == history


async def test_update_state_needs_a_run_for_the_shared_key_and_for_no_other(who: User) -> None:
    thread = (await who.client.threads.create(graph_id="steps"))["thread_id"]
    with pytest.raises(UnprocessableEntityError, match=NO_SCOPE):
        await who.client.threads.update_state(thread, {"info": A}, as_node="step")
    assert await who.client.threads.get_history(thread) == []
    await who.client.threads.update_state(thread, {"seen": {"x": {}}, "info": {}}, as_node="step")
    assert (await who.state(thread))["values"] == {"seen": {"x": {}}}


async def test_supersteps_of_a_new_thread_cannot_update_the_shared_key(who: User) -> None:
    def supersteps(*values: Any) -> Any:
        return [{"updates": [{"values": value, "as_node": "step"}]} for value in values]

    good: Any = {"seen": {"x": {}}}
    bad = {"info": A}
    made = await who.client.threads.create(graph_id="steps", supersteps=supersteps(good, {"todo": []}))
    assert made["values"] == good | {"todo": []}
    with pytest.raises(UnprocessableEntityError, match=NO_SCOPE):
        await who.client.threads.create(graph_id="steps", supersteps=supersteps(good, bad))


# Row: hidden

STEPS = order({"put": A}, {"ask": "?", "put": B})
HALVES = order(other={"put": A}, beside={"ask": "?", "put": B})


@pytest.mark.parametrize(
    ("graph", "given"),
    [("parallel", HALVES), ("steps", STEPS), ("undeclared_unsaved", STEPS), *((graph, STEPS) for graph in SUBGRAPHS)],
)
async def test_no_event_state_or_checkpoint_has_the_shared_key(graph: str, given: Any, who: User) -> None:
    thread, shown = await who.thread(), list[Any]()
    for start in ({"input": {**given, "info": C}}, {"command": {"resume": "!"}}):
        options: Any = {"stream_mode": ["values", "updates", "checkpoints"], "stream_subgraphs": True, **start}
        stream = who.client.runs.stream(thread, graph, config=who.config(), **options)
        shown += [part.data async for part in stream]
        shown.append(await who.state(thread, subgraphs=True))
    shown += [await who.client.threads.get_history(thread, limit=100), await who.client.threads.get(thread)]
    assert len(shown) > 10
    assert "info" not in keys_of(shown)
    assert who.stored() == A | B | ({} if graph == "undeclared_unsaved" else C)
    with database(who.server) as conn:
        saver = SqliteSaver(conn)
        saver.is_setup = True
        channels = [found.checkpoint["channel_values"] for found in saver.list({"configurable": {"thread_id": thread}})]
    assert len(channels) > 3
    assert not [values for values in channels if "info" in values]


async def schemas_of(client: LangGraphClient, graph: str) -> Any:
    system, *_ = await client.assistants.search(graph_id=graph, metadata={"created_by": "system"})
    return await client.assistants.get_schemas(system["assistant_id"])


@pytest.mark.parametrize("graph", ["steps", "model", "data", "as_node", "undeclared_unsaved"])
async def test_the_shared_key_is_in_the_state_schema_but_not_in_the_output_schema(graph: str, who: User) -> None:
    schemas = await schemas_of(who.client, graph)
    assert "info" in schemas["state_schema"]["properties"]
    assert schemas["output_schema"]["properties"]
    assert "info" not in schemas["output_schema"]["properties"]
    assert "info" not in schemas["output_schema"].get("required", ())


async def test_a_state_of_nothing_but_the_shared_key_looks_empty(who: User) -> None:
    thread = await who.thread()
    assert await who.wait("only", {}, thread) == {}
    modes: Any = ["values", "updates"]
    stream = who.client.runs.stream(thread, "only", input={"info": A}, config=who.config(), stream_mode=modes)
    events = [part.data async for part in stream][1:]
    assert events
    assert all(data in (None, {}, {"bump": None}, {"bump": {}}) for data in events)
    assert who.stored() == A | {"count": {"n": 2}}
    state = await who.state(thread)
    assert (state["values"], state["next"]) == ({}, [])
    assert list((await schemas_of(who.client, "only"))["state_schema"]["properties"]) == ["info"]


# Row: outside devserver


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """graphs/shared.py as a unit test would import it."""
    monkeypatch.syspath_prepend(GRAPHS)
    return importlib.import_module("shared")


def test_outside_devserver_the_key_is_a_dict_of_the_thread_with_the_same_rules(plain: ModuleType) -> None:
    graph = plain.steps.compile(InMemorySaver())
    one, two = ({"configurable": {"thread_id": name}} for name in ("one", "two"))
    puts = [{"put": A | B}, {"mutate": True, "put": {"a": {}, "b": None}}, {"put": {}}]
    result = graph.invoke(order(*puts), one)
    assert (result["seen"]["1"], result["seen"]["2"], result["info"]) == ({}, A | B, {"a": {}})
    assert graph.invoke(order({"put": C}), one)["info"] == {"a": {}} | C
    assert graph.invoke(order(), two)["info"] == {}
    with pytest.raises(InvalidUpdateError, match="shared key 'info'"):
        graph.invoke(order({"put": {"k": 5}}), one)
    graph.update_state(two, {"info": A | {"c": None}}, as_node="step")
    assert graph.get_state(two).values["info"] == A


def test_outside_devserver_no_checkpointer_or_user_is_needed(plain: ModuleType) -> None:
    assert plain.steps.compile().invoke({"info": A, **order({"put": B})})["info"] == A | B
    result = plain.conditional.invoke(order(first={"put": {"told": {}}}))
    assert result["seen"]["told"] == {"told": {}}


async def test_outside_devserver_a_subgraph_passes_the_key_on_as_any_other(plain: ModuleType) -> None:
    result = await plain.as_node.ainvoke(order(*append(1, 2), before={"put": A}))
    assert result["info"] == A | log(1, 2)


# The old import path; a graph's own checkpointer; stateless runs


async def test_the_import_path_of_older_langgraph_versions_works(who: User) -> None:
    assert await who.wait("old_import", {"put": A}) == {"put": A}
    assert who.stored() == A


async def test_a_graph_with_a_checkpointer_of_its_own_shares_like_others(who: User) -> None:
    thread = await who.thread()
    assert (await who.seen("with_own_saver", order({"put": A}), thread=thread))["end"] == who.stored() == A
    assert (await who.state(thread))["values"]["seen"]["end"] == A
    assert who.server.log.count("'with_own_saver' (./shared.py:with_own_saver) has its own checkpointer") == 1


async def test_stateless_runs_share_and_show_nothing(who: User) -> None:
    for put, expected in ((A, A), (B, A | B)):
        result: Any = await who.client.runs.wait(None, "as_node", input=order({"put": put}), config=who.config())
        assert result["seen"]["after"] == who.stored() == expected
        assert "info" not in keys_of(result)


async def test_an_interrupted_stateless_run_stores_nothing_of_the_superstep_it_left(who: User) -> None:
    given = order(before={"put": A}, other={"put": B}, beside={"ask": "?"})
    result: Any = await who.client.runs.wait(None, "parallel", input=given, config=who.config())
    assert result["__interrupt__"]
    assert who.stored() == A


# Interrupts: half a superstep


@per_durability
async def test_half_a_superstep_is_stored_after_the_resume_and_once(durability: str, who: User) -> None:
    thread, trace = await who.thread(), who.place("trace")
    given = order(before={"put": A}, other={"append": 1, "trace": str(trace)}, beside={"ask": "?", "put": B})
    await who.wait("parallel", given, thread, durability=durability)
    assert (await who.client.threads.get(thread))["status"] == "interrupted"
    assert who.stored() == A
    result = await who.wait("parallel", thread=thread, command={"resume": "!"}, durability=durability)
    assert result["seen"]["after"] == who.stored() == A | B | log(1)
    assert trace.file.read_text() == "other\n"


@pytest.mark.parametrize(("graph", "durability"), WITHOUT_CHECKPOINT)
async def test_a_finished_subgraph_survives_the_interrupt_beside_it(graph: str, durability: str, who: User) -> None:
    thread, trace = await who.thread(), who.place("trace")
    given = order({"append": 1, "trace": str(trace)}, {"append": 2}, beside={"ask": "?"})
    await who.wait(graph, given, thread, durability=durability)
    assert (await who.client.threads.get(thread))["status"] == "interrupted"
    assert who.stored() == {}
    result = await who.wait(graph, thread=thread, command={"resume": "!"}, durability=durability)
    assert trace.file.read_text() == "1\n"
    assert result["seen"]["after"] == who.stored() == log(1, 2)


async def test_a_breakpoint_in_a_subgraph_leaves_half_a_superstep_as_well(who: User) -> None:
    thread = await who.thread()
    await who.wait("stopping", order({"put": A}, beside={"put": B}), thread)
    assert (await who.client.threads.get(thread))["status"] == "interrupted"
    assert who.stored() == A  # the subgraph's superstep is whole
    assert (await who.seen("stopping", None, thread=thread))["after"] == who.stored() == A | B


@pytest.mark.parametrize(("graph", "durability"), [*(("steps", mode) for mode in DURABILITIES), *WAYS])
async def test_an_interrupt_between_supersteps_repeats_none(graph: str, durability: str, who: User) -> None:
    thread, given = await who.thread(), order({"append": 1}, {"append": 2, "ask": "?"}, {"append": 3})
    await who.wait(graph, given, thread, durability=durability)
    result = await who.wait(graph, thread=thread, command={"resume": "!"}, durability=durability)
    assert "__interrupt__" not in result
    assert who.stored() == log(1, 2, 3)


async def test_ending_an_interrupted_thread_stores_what_its_finished_nodes_wrote(who: User) -> None:
    thread = await who.thread()
    await who.wait("parallel", order(other={"put": A}, beside={"ask": "?"}), thread)
    assert who.stored() == {}
    await who.client.threads.update_state(thread, None, as_node="__end__")
    assert who.stored() == A
    assert (await who.seen("parallel", order(), thread=thread))["before"] == A


# Cancelling


@per_durability
@pytest.mark.parametrize("action", ["interrupt", "rollback"])
async def test_a_cancelled_run_stores_nothing_after_its_last_superstep(action: Any, durability: str, who: User) -> None:
    here = who.place("here")
    steps = order({"append": 1}, {"append": 2, "pause": str(here)})
    thread, run = await who.start("steps", steps, durability=durability)
    await here.reached()
    if action == "rollback" and durability == "async":  # the node may begin before the checkpoint is on the disk
        await eventually(lambda: who.stored() == log(1))
    await who.client.runs.cancel(thread, run, action=action)
    await who.client.runs.join(thread, run)
    here.go()
    await asyncio.sleep(0.05)  # the node ends, for nobody
    if action == "rollback":  # what other runs may have seen stays; what was only in memory goes
        assert who.stored() == ({} if durability == "exit" else log(1))
        assert await who.client.threads.get_history(thread) == []
    else:
        assert who.stored() == log(1)
        assert (await who.seen("steps", None, thread=thread))["end"] == who.stored() == log(1, 2)


# Row: crash

Runs = dict[str, tuple[str, Any, dict[str, Any]]]  # by user: graph, input, options


def crash_runs(folder: Path) -> Runs:
    """Runs that wait at a place named like their user when the server is killed."""

    def here(name: str) -> dict[str, str]:
        return {"pause": str(folder / name)}

    def trace(name: str) -> dict[str, str]:
        return {"trace": str(folder / f"{name}.trace")}

    runs: Runs = {}
    for mode in DURABILITIES:
        name = f"steps-{mode}"
        runs[name] = "steps", order({"append": 1}, {"append": 2, **here(name)}, {"append": 3}), {"durability": mode}
        name = f"half-{mode}"
        given = order(before={"append": 0}, other={"append": 1, **trace(name)}, beside=here(name))
        runs[name] = "parallel", given, {"durability": mode}
    for graph in SUBGRAPHS:
        name = f"inside-{graph}"
        steps = [{"append": 1}, {"append": 2, **here(name)}, {"append": 3}]
        runs[name] = graph, order(*steps, before={"append": 0}), {}
        name = f"beside-{graph}"
        steps = [{"append": 1, **trace(name)}, {"append": 2}]
        runs[name] = graph, order(*steps, before={"append": 0}, beside=here(name)), {}
    runs["undeclared"] = "undeclared_unsaved", order(*append(1, 2), hold=here("undeclared")), {}
    disk = {"hold": {"step": 2, "at": str(folder / "disk")}}
    runs["slow"] = "slow_steps", order(*append(1, 2), {"append": 3, **here("slow")}), disk
    disk = {"hold": {"step": 1, "at": str(folder / "disk-inside")}}
    steps = [{"append": 1}, {"append": 2, **here("slow-inside")}]
    runs["slow-inside"] = "slow_as_node", order(*steps, before={"append": 0}), disk
    return runs


@dataclass
class Crash:
    """What was stored for each user when the server was killed, and what when all runs had ended after."""

    at_kill: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]]
    statuses: dict[str, str]
    places: Path

    def trace(self, name: str) -> str:
        return (self.places / f"{name}.trace").read_text()


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crash]:
    """One kill -9 while all of `crash_runs` are at their places, then a restart and the end of all runs."""
    folder, places = tmp_path_factory.mktemp("crash"), tmp_path_factory.mktemp("places")
    write_project(folder, SERVED | SLOW_DISK, {file.name: file.read_text() for file in GRAPHS.glob("shared*.py")})
    server, runs = LiveServer(folder, ["--no-reload"]).start(), crash_runs(places)

    async def begin() -> dict[str, tuple[str, str]]:
        started = {}
        async with server.client() as client:
            for name, (graph, given, options) in runs.items():
                user = User(server, client, places, name)
                config = user.config(hold=options.get("hold"))
                started[name] = await user.start(graph, given, config=config, durability=options.get("durability"))
            for name in (*runs, "disk", "disk-inside"):
                await Place(places / name).reached()
            user = User(server, client, places, "update")
            thread = await user.thread()
            await user.wait("steps", order(), thread)
            await asyncio.sleep(0.5)  # all that can be stored is
            await client.threads.update_state(thread, {"info": A})
        return started

    async def end() -> dict[str, str]:
        async with server.client() as client:
            for ids in started.values():
                await asyncio.wait_for(client.runs.join(*ids), 20)
            return {name: (await client.runs.get(*ids))["status"] for name, ids in started.items()}

    def look() -> dict[str, dict[str, Any]]:
        return {name: stored(server, f"scoped.user_id.info.{name}") for name in (*runs, "update")}

    try:
        started = asyncio.run(begin())
        server.kill()
        at_kill = look()
        for file in places.glob("*.reached"):
            Place(file.with_suffix("")).go()
        server.start()
        statuses = asyncio.run(end())
        assert server.stop() == 0
        yield Crash(at_kill, look(), statuses, places)
    finally:
        server.kill()


def test_every_run_goes_on_after_a_crash(crash: Crash) -> None:
    assert {name: status for name, status in crash.statuses.items() if status != "success"} == {}


@per_durability
def test_a_crash_between_supersteps_stores_each_once(durability: str, crash: Crash) -> None:
    assert crash.at_kill[f"steps-{durability}"] == ({} if durability == "exit" else log(1))
    assert crash.after[f"steps-{durability}"] == log(1, 2, 3)


@per_durability
def test_a_crash_in_half_a_superstep_stores_nothing_of_it_until_it_ends(durability: str, crash: Crash) -> None:
    name = f"half-{durability}"
    assert crash.at_kill[name] == ({} if durability == "exit" else log(0))
    assert crash.after[name] == log(0, 1)
    assert crash.trace(name) == ("other\n" * 2 if durability == "exit" else "other\n")


@pytest.mark.parametrize("graph", SUBGRAPHS)
def test_a_crash_inside_a_subgraph_stores_each_superstep_once(graph: str, crash: Crash) -> None:
    assert crash.at_kill[f"inside-{graph}"] == (log(0) if "unsaved" in graph else log(0, 1))
    assert crash.after[f"inside-{graph}"] == log(0, 1, 2, 3)


@pytest.mark.parametrize("graph", SUBGRAPHS)
def test_a_crash_beside_a_finished_subgraph_keeps_what_it_wrote(graph: str, crash: Crash) -> None:
    assert crash.at_kill[f"beside-{graph}"] == (log(0) if "unsaved" in graph else log(0, 1, 2))
    assert crash.after[f"beside-{graph}"] == log(0, 1, 2)
    assert crash.trace(f"beside-{graph}") == "1\n"


def test_what_subgraphs_without_checkpoints_wrote_is_stored_with_their_parents_checkpoint(crash: Crash) -> None:
    assert crash.at_kill["undeclared"] == crash.after["undeclared"] == log(1, 2)


def test_a_crash_before_a_superstep_reached_the_disk_repeats_it_whole(crash: Crash) -> None:
    assert crash.at_kill["slow"] == log(1)
    assert crash.after["slow"] == log(1, 2, 3)


def test_a_subgraph_stores_nothing_before_its_parents_checkpoint_is_stored(crash: Crash) -> None:
    assert crash.at_kill["slow-inside"] == {}
    assert crash.after["slow-inside"] == log(0, 1, 2)


def test_an_acknowledged_update_of_state_survives_a_crash(crash: Crash) -> None:
    assert crash.at_kill["update"] == crash.after["update"] == A

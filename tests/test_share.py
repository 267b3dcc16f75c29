"""share(): shared values in plain LangGraph, where test_share_plain.py does not look: who may be shared and how, what a
run needs, what its copies, its state and its streams look like. Other servers are in test_share_elsewhere.py."""

import asyncio
import copy
import operator
from typing import Annotated, Any

import pytest
from conftest import NEEDS
from langchain_core.runnables import RunnableConfig
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import InvalidUpdateError
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy, Command, interrupt
from typing_extensions import TypedDict  # with typing's own, Python 3.11 can't tell the JSON schemas
from walkthrough import DINNER, FACTS, MOVED, PIZZA, WHO

from devserver import SharedValue, share

NO_SCOPE = "Scope user_id for shared state key 'info' not in config.configurable"


class State(TypedDict, total=False):
    put: dict[str, Any]
    ask: bool
    fail: bool
    saw: Annotated[dict[str, Any], operator.or_]
    info: Annotated[dict[str, Any], SharedValue.on("user_id")]


def put(state: State) -> State:
    return {"saw": {"put": state["info"]}, "info": state.get("put", {})}


def look(state: State) -> State:
    if state.get("ask"):
        interrupt("?")
    if state.get("fail"):
        raise RuntimeError("no")
    return {"saw": {"look": state["info"]}}


def builder() -> StateGraph[Any]:
    return StateGraph(State).add_sequence([("put", put), ("look", look)]).add_edge(START, "put")


def compiled(**options: Any) -> Any:
    return share(builder().compile(**{"checkpointer": InMemorySaver(), "store": InMemoryStore(), **options}))


def config(user: Any = "u", thread: str = "t", **more: Any) -> RunnableConfig:
    return {"configurable": {"user_id": user, "thread_id": thread, **more}}


def stored(graph: Any, *space: str) -> dict[str, Any]:
    return {item.key: item.value for item in graph.store.search(space or ("scoped", "user_id", "info", "u"))}


A, B, C = {"a": {"n": 1}}, {"b": {"n": 2}}, {"c": {"n": 3}}


# What can be shared


def test_a_shared_graph_is_the_same_graph_of_the_same_class_and_sharing_it_twice_is_sharing_it() -> None:
    plain = builder().compile()
    graph = share(plain)
    assert share(share(graph)) is graph is plain
    assert isinstance(graph, CompiledStateGraph)
    assert type(graph).__name__ == "CompiledStateGraph"
    assert graph.get_graph().draw_mermaid() == builder().compile().get_graph().draw_mermaid()
    assert "info" in graph.get_input_jsonschema()["properties"]


@pytest.mark.parametrize("given", [builder(), builder, RemoteGraph("agent", url="http://localhost:1"), None])
def test_what_is_no_compiled_graph_cannot_be_shared(given: Any) -> None:
    with pytest.raises(TypeError, match=r"share\(\) takes a compiled graph"):
        share(given)


def test_a_graph_without_shared_keys_cannot_be_shared() -> None:
    class Plain(TypedDict):
        info: dict[str, Any]

    graph = StateGraph(Plain).add_node("node", lambda state: {}).add_edge(START, "node").compile(name="plain")
    with pytest.raises(ValueError, match=r"graph 'plain' has no key like Annotated\[dict, SharedValue"):
        share(graph)


def test_a_key_that_cannot_be_shared_is_named() -> None:
    class Wrong(TypedDict):
        info: Annotated[list[Any], SharedValue.on("user_id")]

    graph = StateGraph(Wrong).add_node("node", lambda state: {}).add_edge(START, "node").compile(name="wrong")
    with pytest.raises(Exception, match="graph 'wrong': shared state key 'info' must be annotated as a dict"):
        share(graph)


# What a run needs


async def test_a_run_without_store_says_what_to_do() -> None:
    graph = compiled(store=None)
    text = r"Graph 'LangGraph' shares info: its run needs a store. Compile it as in share\(builder.compile\(store="
    with pytest.raises(ValueError, match=text):
        graph.invoke({"put": A}, config())
    with pytest.raises(ValueError, match=text):
        await graph.ainvoke({"put": A}, config())
    with pytest.raises(ValueError, match=text):
        graph.update_state(config(), {"put": A}, as_node="put")
    assert graph.get_state(config()).values == {}


@pytest.mark.parametrize("given", [{}, {"user_id": None}, {"user_id": ""}], ids=str)
async def test_a_run_without_scope_value_fails_as_in_devserver_and_does_nothing(given: Any) -> None:
    graph, place = compiled(), {"configurable": {"thread_id": "t", **given}}
    for failing in (lambda: graph.invoke({"put": A}, place), lambda: list(graph.stream({"put": A}, place))):
        with pytest.raises(Exception, match=NO_SCOPE):
            failing()
    with pytest.raises(Exception, match=NO_SCOPE):
        await graph.ainvoke({"put": A}, place)
    assert [*graph.get_state_history(place)] == []


@pytest.mark.parametrize("how", ["config", "context", "with_config", "number"])
async def test_the_scope_value_is_of_config_or_context(how: str) -> None:
    graph: Any = compiled()
    given: Any = {"configurable": {"thread_id": "t"}}
    context = {"user_id": "u"} if how == "context" else None
    if how == "with_config":
        graph = graph.with_config({"configurable": {"user_id": "u"}})
    elif how != "context":
        given = config(7 if how == "number" else "u")
    for _ in range(2):
        await graph.ainvoke({"put": A}, given, context=context)
    assert stored(graph, "scoped", "user_id", "info", "7" if how == "number" else "u") == A


@pytest.mark.parametrize(
    ("user", "label"),
    [("ann@example.com", "ann@example%2Ecom"), ("100%", "100%25"), ("a_b", "a_b"), ("Zoë 🍕", "Zoë 🍕")],
)
def test_items_are_where_devserver_has_them(user: str, label: str) -> None:
    graph = compiled()
    graph.invoke({"put": A | B}, config(user))
    assert stored(graph, "scoped", "user_id", "info", label) == A | B
    assert graph.invoke({}, config(user, "2"))["saw"] == {"put": A | B, "look": A | B}
    assert graph.invoke({}, config(f"{user}.", "3"))["saw"] == {"put": {}, "look": {}}


async def test_fifty_runs_of_two_users_at_once_keep_apart() -> None:
    graph = compiled()
    runs = [(f"user{n % 2}", f"key{n}") for n in range(50)]
    await asyncio.gather(*(graph.ainvoke({"put": {key: {"of": who}}}, config(who, key)) for who, key in runs))
    for user in ("user0", "user1"):
        assert {*stored(graph, "scoped", "user_id", "info", user)} <= {key for who, key in runs if who == user}
        seen = graph.invoke({}, config(user, "end"))["saw"]["look"]
        assert seen == {key: {"of": who} for who, key in runs if who == user}


# Without a checkpointer


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_without_checkpointer_a_run_stores_at_its_end_what_whole_supersteps_wrote(asynchronous: bool) -> None:
    async def run(given: Any) -> Any:
        return await graph.ainvoke(given, config()) if asynchronous else graph.invoke(given, config())

    graph = compiled(checkpointer=None)
    assert (await run({"put": A}))["saw"]["look"] == A
    assert stored(graph) == A
    with pytest.raises(RuntimeError):
        await run({"put": B, "fail": True})
    assert stored(graph) == A | B
    with pytest.raises(InvalidUpdateError):
        await run({"put": {"k": 5}})
    assert stored(graph) == A | B


async def test_a_stream_that_is_left_stores_what_was_done() -> None:
    graph = compiled(checkpointer=None)
    for _ in (stream := graph.stream({"put": A}, config(), stream_mode="updates")):
        break
    stream.close()
    assert stored(graph) == A
    async for _ in (parts := graph.astream({"put": B}, config(), stream_mode="updates")):
        break
    await parts.aclose()
    assert stored(graph) == A | B


# State, copies, streams


def test_state_history_and_results_are_without_the_key_and_a_checkpoint_has_nothing_of_it() -> None:
    graph = compiled()
    result = graph.invoke({"put": A, "ask": True}, config())
    assert "info" not in result
    states = [graph.get_state(config()), *graph.get_state_history(config())]
    assert len(states) > 3
    assert not [state for state in states if "info" in state.values]
    found = [*graph.checkpointer.list(config())]
    assert not [each for each in found if "info" in each.checkpoint["channel_values"]]
    assert not [each for each in found if any("pregel" in key for key in each.metadata)]


def test_a_thread_whose_update_was_refused_can_be_read_and_used() -> None:
    graph = compiled()
    with pytest.raises(InvalidUpdateError):
        graph.invoke({"put": {"k": 5}}, config())
    assert graph.get_state(config()).values == {"put": {"k": 5}, "saw": {"put": {}}}
    assert graph.invoke({"put": A}, config())["saw"]["look"] == A


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_update_state_is_of_the_user_of_the_thread_s_last_run(asynchronous: bool) -> None:
    async def update(values: Any, place: Any = None) -> None:
        place = place or {"configurable": {"thread_id": "t"}}
        if asynchronous:
            await graph.aupdate_state(place, values, as_node="put")
        else:
            graph.update_state(place, values, as_node="put")

    graph = compiled()
    with pytest.raises(Exception, match=NO_SCOPE):
        await update({"info": A})
    await update({"put": {}})
    graph.invoke({"put": A}, config())
    await update({"info": {"a": None, **B}})
    await update({"info": C})
    assert stored(graph) == B | C
    await update({"info": A}, config("other"))
    assert (stored(graph), stored(graph, "scoped", "user_id", "info", "other")) == (B | C, A)
    history = len([*graph.get_state_history(config())])
    with pytest.raises(InvalidUpdateError):
        await update({"info": {"k": 5}}, config())
    assert len([*graph.get_state_history(config())]) == history
    assert stored(graph) == B | C


async def test_supersteps_of_a_bulk_update_see_the_store_and_write_it() -> None:
    graph = compiled()
    updates = [[({"info": A}, "put", None)], [({"info": B}, "put", None)]]
    steps: Any = [[type("Update", (tuple,), {})(each) for each in step] for step in updates]
    await graph.abulk_update_state(config(), steps)
    assert stored(graph) == A | B


def test_a_subgraph_s_state_is_updated_in_its_namespace() -> None:
    graph = outer(builder().compile())
    graph.invoke({"put": A, "ask": True}, config())
    place = graph.get_state(config(), subgraphs=True).tasks[0].state.config
    graph.update_state({"configurable": {**place["configurable"], "user_id": "u"}}, {"info": B}, as_node="put")
    assert stored(graph) == A | B


@pytest.mark.parametrize("copied", ["copy", "with_config", "copy.copy", "name"])
def test_copies_share_as_well(copied: str) -> None:
    graph = compiled()
    copies = {
        "copy": lambda: graph.copy({"name": "other"}),
        "with_config": lambda: graph.with_config(tags=["tag"]),
        "copy.copy": lambda: copy.copy(graph),
        "name": lambda: graph.with_config(run_name="name"),
    }
    other: Any = copies[copied]()
    assert other.invoke({"put": A}, config())["saw"]["look"] == A
    assert stored(graph) == A
    bare = graph.copy({"store": None})
    with pytest.raises(ValueError, match="its run needs a store"):
        bare.invoke({}, config())


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("mode", ["values", "updates", "debug", "tasks", "checkpoints", "messages", "custom"])
async def test_every_stream_mode_is_without_the_key_and_the_scope(mode: Any, durability: Any) -> None:
    graph = compiled()
    parts = [part async for part in graph.astream({"put": A}, config(), stream_mode=mode, durability=durability)]
    parts += graph.stream({"put": B}, config(), stream_mode=mode, durability=durability)
    assert bool(parts) == (mode not in ("messages", "custom"))
    assert stored(graph) == A | B
    assert "StoreScope" not in repr(parts)
    assert mode in ("debug", "tasks") or "'info'" not in repr(parts)


@NEEDS["streaming"]
@pytest.mark.filterwarnings("ignore:.*experimental")
async def test_events_share_too() -> None:
    graph = compiled()
    [event async for event in graph.astream_events({"put": A}, config(), version="v2")]
    assert stored(graph) == A
    stream = await graph.astream_events({"put": B}, config(), version="v3")
    [event async for event in stream]
    assert stored(graph) == A | B


def test_breakpoints_and_answers() -> None:
    graph = compiled()
    graph.invoke({"put": A, "ask": True}, config(), interrupt_after=["put"])
    assert stored(graph) == A
    assert graph.invoke(None, config())["__interrupt__"]
    graph.store.put(("scoped", "user_id", "info", "u"), "b", {"n": 2})
    assert graph.invoke(Command(resume="!"), config())["saw"]["look"] == A | B


def test_a_node_of_the_cache_sees_and_writes_as_before() -> None:
    calls: list[Any] = []

    def cached(state: State) -> State:
        calls.append(state["info"])
        return {"info": A}

    graph = StateGraph(State).add_node("node", cached, cache_policy=CachePolicy()).add_edge(START, "node")
    made = share(graph.compile(store=InMemoryStore(), cache=InMemoryCache()))
    for _ in range(3):
        made.invoke({"put": {}}, config())
        made.invoke({"put": {}}, config("other"))
    assert calls == [{}, A]
    assert stored(made) == stored(made, "scoped", "user_id", "info", "other") == A


# Graphs in graphs


def outer(inner: Any, **options: Any) -> Any:
    graph = StateGraph(State).add_sequence([("inner", inner), ("after", look)]).add_edge(START, "inner")
    return share(graph.compile(**{"checkpointer": InMemorySaver(), "store": InMemoryStore(), **options}))


class Unshared(TypedDict, total=False):
    put: dict[str, Any]
    ask: bool
    saw: Annotated[dict[str, Any], operator.or_]


@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize("checkpointer", [None, True, False], ids=["inherited", "kept", "none"])
@pytest.mark.parametrize("saver", [InMemorySaver, None])
def test_a_shared_graph_in_one_that_is_not(checkpointer: Any, durability: Any, saver: Any) -> None:
    inner = share(builder().compile(checkpointer=checkpointer))
    above = StateGraph(Unshared).add_node("inner", inner).add_edge(START, "inner")
    graph = above.compile(checkpointer=saver and saver(), store=InMemoryStore())
    options = {"durability": durability} if saver else {}
    assert graph.invoke({"put": A}, config(), **options)["saw"]["look"] == A
    assert stored(graph) == A
    if not saver or (checkpointer is False and durability == "exit"):
        return
    graph.invoke({"put": B, "ask": True}, config(thread="2"), **options)
    assert graph.invoke(Command(resume="!"), config(thread="2"), **options)["saw"]["look"] == A | B
    assert stored(graph) == A | B


@pytest.mark.parametrize("saver", [InMemorySaver, None])
async def test_a_graph_that_nobody_finds_shares_if_it_is_shared_itself(saver: Any) -> None:
    inner = {"graph": share(builder().compile())}  # in a dictionary no code shows it
    graph = outer(lambda state: {"saw": inner["graph"].invoke({"put": A})["saw"]}, checkpointer=saver and saver())
    assert (await graph.ainvoke({}, config()))["saw"]["put"] == {}
    assert stored(graph) == A


def test_a_graph_called_in_a_thread_of_its_own_has_its_own_user() -> None:
    inner = share(builder().compile(checkpointer=InMemorySaver(), store=InMemoryStore()))

    def call(state: State) -> State:
        inner.invoke({"put": B}, config("else", "its own"))
        return {"info": A}

    graph = outer(call)
    graph.invoke({}, config())
    assert stored(graph) == A
    assert stored(inner, "scoped", "user_id", "info", "else") == B
    assert inner.get_state(config("else", "its own")).values["put"] == B


async def test_the_functional_api_may_call_a_shared_graph() -> None:
    inner = share(builder().compile())

    @task
    async def call(update: Any) -> Any:
        return await inner.ainvoke({"put": update})

    @entrypoint(checkpointer=InMemorySaver(), store=InMemoryStore())
    async def work(update: Any) -> Any:
        return (await call(update))["saw"]["look"]

    assert await work.ainvoke(A, config()) == A
    assert await work.ainvoke(B, config()) == A | B
    assert stored(work) == A | B


def test_a_remote_graph_is_not_told_the_scope() -> None:
    """A node may call a graph on a server, with the config that it has."""
    remote, told = RemoteGraph("agent", url="http://localhost:1"), list[Any]()

    def call(state: State, config: RunnableConfig) -> State:
        told.append(remote._sanitize_config(config))
        return {}

    outer(call).invoke({}, config())
    assert told[0]["configurable"]["user_id"] == "u"
    assert "shared_values" not in repr(told)


# A store or a checkpointer that fails


class Full(InMemoryStore):
    """Takes no more items."""

    def batch(self, ops: Any) -> Any:
        ops = [*ops]
        if any(hasattr(op, "value") for op in ops):
            raise OSError("the disk is full")
        return super().batch(ops)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("saver", [InMemorySaver, None])
async def test_a_store_that_takes_nothing_fails_the_run_before_its_checkpoint(asynchronous: bool, saver: Any) -> None:
    graph = compiled(store=Full(), checkpointer=saver and saver())
    with pytest.raises(OSError, match="the disk is full"):
        await graph.ainvoke({"put": A}, config()) if asynchronous else graph.invoke({"put": A}, config())
    if saver:
        assert [state.metadata["step"] for state in graph.get_state_history(config())] == [0, -1]


# The walk-through


@pytest.fixture
def agent() -> Any:
    from graphs.agent import builder

    return share(builder.compile(checkpointer=InMemorySaver(), store=InMemoryStore()))


async def test_the_walk_through(agent: Any) -> None:
    async def say(thread: str, user: str, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return str((await agent.ainvoke({"messages": messages}, config(user, thread)))["messages"][-1].content)

    assert [await say("1", "123", text) for text in (PIZZA, MOVED)] == ["Saved!", "Saved!"]
    answer = await say("2", "123", DINNER)
    assert "SF" in answer
    assert "pepperoni pizza" in answer
    assert "don't know" in await say("3", "321", WHO)
    assert [*stored(agent, "scoped", "user_id", "info", "123").values()] == FACTS

"""Private names of other packages that devserver cannot do without: what breaks when a package changes them.

Each has one place in devserver.py. A test that fails here says what to look at; what users see is tested elsewhere.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import threading
from dataclasses import dataclass
from typing import Any, TypedDict

import aiosqlite
import pytest
from conftest import ROOT
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde import jsonplus
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import interrupt
from langgraph_sdk import Auth, runtime

from devserver import DataTypes, Serializer

# Each private name, with the test that fails when it changes.
KNOWN = {
    "__pregel_durability": "test_a_checkpointer_is_told_the_durability",
    "__pregel_checkpointer": "test_a_node_s_config_has_the_run_s_store_and_checkpointer",
    "__pregel_runtime": "test_a_node_s_config_has_the_run_s_store_and_checkpointer",
    "__pregel_shared_values": "test_names_that_begin_with_pregel_are_passed_on_and_shown_to_nobody",
    "__pregel_strict_resume": "test_a_resume_may_be_strict",
    "__unpack_ext_hook__": "test_a_serializer_takes_a_hook",
    "_ExecutionRuntime": "test_factories_are_given_the_sdk_s_runtimes",
    "_ReadRuntime": "test_factories_are_given_the_sdk_s_runtimes",
    "_authenticate_handler": "test_an_auth_holds_its_handlers",
    "_create_msgpack_ext_hook": "test_a_serializer_takes_a_hook",
    "_get_running_loop": "test_asyncio_exports_the_loop_of_a_thread",
    "_global_handlers": "test_an_auth_holds_its_handlers",
    "_msgpack_default": "test_a_message_s_bytes_are_made_of_its_fields",
    "_option": "test_a_message_s_bytes_are_made_of_its_fields",
    "_unpack_ext_hook": "test_a_serializer_calls_its_hook",
    "_last_v6_timestamp": "test_ids_of_checkpoints_follow_the_last_one",
    "_handlers": "test_an_auth_holds_its_handlers",
    "_running": "test_aiosqlite_s_thread_takes_functions_from_its_queue",
    "_tx": "test_aiosqlite_s_thread_takes_functions_from_its_queue",
    "_compat_bridge": "test_a_tool_s_message_has_events",
    "langgraph.pregel._utils": "test_the_variables_of_a_function_are_found",
    # in test_loopback.py and test_sdk_cache.py: test_the_sdk_still_has_the_private_names_that_are_replaced
    "__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT": "",
    "_api_swr": "",
    "_cache_get": "",
    "_cache_set": "",
    "_registered_transports": "",
    "langgraph_sdk._async": "",
    "langgraph_sdk._shared": "",
}
# Documented though they begin with an underscore: of named tuples, of sys and os, of LangGraph's streams.
PUBLIC = {"_asdict", "_current_frames", "_exit", "_getframe", "_make", "_native", "_replace"}


TREE = ast.parse((ROOT / "devserver.py").read_text())
OWN = {
    name
    for node in ast.walk(TREE)
    for name in [
        getattr(node, "name", ""),
        ast.unparse(node) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else "",
        ast.unparse(node).removeprefix("self.") if isinstance(node, ast.Attribute) and node.attr[0] == "_" else "",
    ]
} - KNOWN.keys()


def test_each_private_name_is_known() -> None:
    """A private name that is new in devserver.py needs a test here, or better a public way to the same."""
    assert private_names(TREE) - PUBLIC == KNOWN.keys()
    assert {test for test in KNOWN.values() if test} <= globals().keys()


def test_each_private_name_has_one_place() -> None:
    """One function or one class has it: what breaks is mended in one place."""
    places = [name for node in TREE.body if not isinstance(node, ast.ImportFrom) for name in private_names(node)]
    own_flags = {"__pregel_strict_resume"}  # written with a run's values, and known among those that are kept
    assert {name for name in KNOWN if places.count(name) > 1} <= own_flags


def private_names(tree: ast.AST) -> set[str]:
    """Return the private names of others: attributes, arguments, modules that are imported, keys of LangGraph's."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} if "._" in (node.module or "") else {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and str(node.value).startswith(("__pregel_", "__LANGGRAPH", "__unpack")):
            found.add(str(node.value))
    return {
        name
        for name in found - OWN
        if "._" in name or name in KNOWN or (name.startswith("_") and not name.endswith("__") and name.strip("_"))
    }


# langgraph


class State(TypedDict):
    """A state of one value."""

    value: str


def test_a_checkpointer_is_told_the_durability() -> None:
    """If this fails, SharedScope.checkpoints_above no longer knows that a nested graph stores nothing before its end:
    such runs wait for ever. Look for CONFIG_KEY_DURABILITY in langgraph/_internal/_constants.py."""
    told: list[Any] = []

    class Saver(InMemorySaver):
        """Notes what it is told."""

        def put(self, config: RunnableConfig, *args: Any) -> RunnableConfig:
            told.append(config["configurable"].get("__pregel_durability"))
            return super().put(config, *args)

    graph = one_node(lambda state: {"value": "done"}, Saver())
    graph.invoke({"value": ""}, {"configurable": {"thread_id": "1"}}, durability="exit")
    assert told == ["exit"]


def test_a_resume_may_be_strict() -> None:
    """If this fails, `strict_resume` of a run is ignored. Look for CONFIG_KEY_STRICT_RESUME in
    langgraph/_internal/_constants.py, and for its readers."""
    errors = pytest.importorskip("langgraph.errors")
    if not hasattr(errors, "UnknownInterruptError"):
        pytest.skip("this langgraph has no strict resume")
    graph = one_node(lambda state: {"value": interrupt("?")}, InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1", "__pregel_strict_resume": True}}
    graph.invoke({"value": ""}, config)
    from langgraph.types import Command

    with pytest.raises(errors.UnknownInterruptError):
        graph.invoke(Command(resume={"0" * 32: "answer"}), config)


def test_ids_of_checkpoints_follow_the_last_one() -> None:
    """If this fails, checkpoints may get older ids than before when the clock was put back. Look at uuid6() in
    langgraph/checkpoint/base/id.py, and let devserver's `start_clock` begin after the last one."""
    ids: Any = checkpoint_ids
    before = ids._last_v6_timestamp
    try:
        ids._last_v6_timestamp = later = ids.uuid6().time + 10**12
        assert ids.uuid6().time == later + 1
    finally:
        ids._last_v6_timestamp = before


def test_a_node_s_config_has_the_run_s_store_and_checkpointer() -> None:
    """If this fails, a graph given to share() does not find the store of the graph that calls it, or writes its
    checkpoints before its shared values. Look for CONFIG_KEY_RUNTIME and CONFIG_KEY_CHECKPOINTER in
    langgraph/_internal/_constants.py."""
    told: list[Any] = []

    def node(state: State, config: RunnableConfig) -> State:
        told.append((config["configurable"]["__pregel_runtime"].store, config["configurable"]["__pregel_checkpointer"]))
        return {"value": "done"}

    graph = one_node(node, saver := InMemorySaver()).copy({"store": (store := InMemoryStore())})
    graph.invoke({"value": ""}, {"configurable": {"thread_id": "1"}})
    assert told == [(store, saver)]


def test_names_that_begin_with_pregel_are_passed_on_and_shown_to_nobody() -> None:
    """If this fails, the scope of a run with shared values beyond devserver is shown in streams or stored with
    checkpoints, or does not reach the graphs that nodes call. Look for what leaves out `__pregel_` in langgraph."""
    told: list[Any] = []

    def node(state: State, config: RunnableConfig) -> State:
        told.append(config["configurable"]["__pregel_shared_values"])
        return {"value": "done"}

    graph, scope = one_node(node, saver := InMemorySaver()), object()
    config: Any = {"configurable": {"thread_id": "1", "__pregel_shared_values": scope}}
    assert "shared_values" not in repr([*graph.stream({"value": ""}, config, stream_mode=["debug", "checkpoints"])])
    assert told == [scope]
    assert not [found for found in saver.list(config) if "shared_values" in repr(found.metadata)]


def one_node(node: Any, saver: InMemorySaver) -> Any:
    return StateGraph(State).add_node("node", node).add_edge(START, "node").compile(checkpointer=saver)


def test_the_variables_of_a_function_are_found() -> None:
    """If this fails, shared values of a graph that a node calls are not found. Look at how
    langgraph.pregel's `find_subgraph_pregel` looks into functions, and let devserver's `_subgraphs` do the same."""
    from langgraph.pregel._utils import get_function_nonlocals

    inner = object()

    def node(state: State) -> Any:
        return inner

    assert inner in get_function_nonlocals(node)


@dataclass
class Kept:
    """What a checkpoint may hold."""

    text: str


def test_a_serializer_takes_a_hook() -> None:
    """If this fails, checkpoints may call any function of any module while they are read. Look at how
    JsonPlusSerializer makes its `_unpack_ext_hook`, and let CheckpointerSerde.serializer do the same."""
    asked: list[Any] = []

    class Allowed(DataTypes):
        """Notes what is looked for."""

        def __contains__(self, key: Any) -> bool:
            asked.append(key)
            return False

    allowed: Any = Allowed()
    serializer = jsonplus.JsonPlusSerializer(__unpack_ext_hook__=jsonplus._create_msgpack_ext_hook(allowed))
    assert serializer.loads_typed(serializer.dumps_typed(Kept("text"))) != Kept("text")
    assert asked


def test_a_serializer_calls_its_hook() -> None:
    """If this fails, a history makes each of its messages once per state again. Look at what JsonPlusSerializer's
    loads_typed gives to ormsgpack, and let Serializer.for_show replace it."""
    serializer, asked = jsonplus.JsonPlusSerializer(), []
    serializer._unpack_ext_hook = lambda *of: asked.append(of)
    assert serializer.loads_typed(serializer.dumps_typed([Kept("text")])) == [None]
    assert [code for code, _ in asked] == [jsonplus.EXT_CONSTRUCTOR_KW_ARGS]


def test_a_message_s_bytes_are_made_of_its_fields() -> None:
    """If this fails, checkpoints hold other bytes than LangGraph writes. Look at _msgpack_default and _option in
    langgraph/checkpoint/serde/jsonplus.py, and let Serializer._packable of devserver do the same for a message."""
    message = ToolMessage("done", id="1", tool_call_id="2", artifact={"n": [1, None]})
    for value in (message, Kept("text"), {"messages": [message]}, {1: "\ud800"}):
        assert Serializer().dumps_typed(value) == jsonplus.JsonPlusSerializer().dumps_typed(value)


# langgraph-sdk


def test_factories_are_given_the_sdk_s_runtimes() -> None:
    """If this fails, graph factories that take a runtime get none. Look at the subclasses of ServerRuntime in
    langgraph_sdk/runtime.py, and let Graphs._arguments make them."""
    known: dict[str, Any] = {"user": None, "store": None}
    run = runtime._ExecutionRuntime(access_context="threads.create_run", context={"a": 1}, **known)
    read: Any = runtime._ReadRuntime(access_context="threads.read", **known)
    assert (run.execution_runtime, read.execution_runtime) == (run, None)


async def test_an_auth_holds_its_handlers() -> None:
    """If this fails, AppAuth does not find who authenticates and decides: every request would be refused, or none.
    Look at what the decorators of langgraph_sdk/auth/__init__.py append to."""
    auth = Auth()

    @auth.authenticate
    async def authenticate(authorization: str) -> str:
        return authorization

    @auth.on
    async def decide(ctx: Any, value: Any) -> bool:
        return True

    @auth.on.threads.read
    async def decide_of_threads(ctx: Any, value: Any) -> bool:
        return True

    assert auth._authenticate_handler is authenticate
    assert auth._global_handlers == [decide]
    assert auth._handlers == {("threads", "read"): [decide_of_threads]}


# aiosqlite, asyncio, langchain-core


async def test_aiosqlite_s_thread_takes_functions_from_its_queue() -> None:
    """If this fails, _Writer.submit cannot hand its transactions to the connection's thread, or does not see that it
    was closed. Look at Connection._execute in aiosqlite/core.py."""
    connection = await aiosqlite.connect(":memory:")
    ran: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    connection._tx.put_nowait(
        (None, lambda: loop.call_soon_threadsafe(ran.put_nowait, threading.current_thread().name))
    )
    assert await asyncio.wait_for(ran.get(), 10) != threading.current_thread().name
    assert connection._running
    await connection.close()
    assert not connection._running


async def test_asyncio_exports_the_loop_of_a_thread() -> None:
    """If this fails, a store that embeds text does not see that it would block the run loop."""
    assert "_get_running_loop" in asyncio.__all__
    assert asyncio._get_running_loop() is asyncio.get_running_loop()


def test_a_tool_s_message_has_events() -> None:
    """If this fails, the event streaming protocol does not show what tools answer. Look for what turns a message into
    protocol events in langchain_core/language_models."""
    bridge = pytest.importorskip("langchain_core.language_models._compat_bridge")
    assert "message_id" in inspect.signature(bridge.message_to_events).parameters
    events = list(bridge.message_to_events(ToolMessage("done", tool_call_id="1"), message_id="2"))
    assert [event["event"] for event in events][:1] == ["message-start"]
    for name in ("achunks_to_events", "chunks_to_events"):  # of the test kit's models
        assert [*inspect.signature(getattr(bridge, name)).parameters][:1] == ["chunks"]

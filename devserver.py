"""devserver: a local, offline server for LangGraph applications.

It loads the graphs named in langgraph.json, serves the LangGraph Server HTTP API for them, and keeps
everything (assistants, threads, runs, checkpoints, store items, shared values) in a single SQLite file.

Contents
     1  Vocabulary      the words of the API: enumerations and request bodies
     2  Values          errors, JSON, ids, moments
     3  Shared values   state keys that every thread of one user sees
     4  Database        the SQLite file: connections, transactions, schema
     5  Tables          a class per table, short methods that each hold their SQL
     6  Persistence     LangGraph's checkpointer and store, on the same file
     7  Graphs          langgraph.json, loading, factories, schemas, drawings
     8  Access          authentication, what a user may touch; which hosts and web pages may use the server
     9  State           reading and changing what a thread's checkpoints hold
    10  Events          a run's event log, its followers, server-sent events
    11  Runner          create, claim, execute, finish; cancel, recover, expire, webhooks
    12  HTTP            a handler per operation
    13  Protocols       event streaming over HTTP and WebSocket, MCP, Agent2Agent
    14  App             routes, the endpoint around each handler, OpenAPI, middleware
    15  Test kit        fixtures for pytest, recordings of models, a scripted model, a clock that tests move
    16  Way up          copies of what one server holds to another: push and pull
    17  CLI             devserver up, exec, cron, push, pull, snapshot, diff, compact
     -  Page            one HTML document that App serves: an appendix

A section uses only earlier ones, but for the appendix.

The life of a run: POST /threads/T/runs/stream
    endpoint        authenticates the user, validates the body, asks the application's Auth; a Call holds the result
    stream_run      hands a NewRun to Runner.create, and follows the run's log
    make_run        one transaction: multitask rule, run row, thread row; on a free thread the run is running at once
    Runner._work    the thread's worker executes it, or claims it once it is due (no polling): one at a time per thread
    Execution       binds the shared values to the run and calls the graph on the run loop
    graph_events    turns the graph's output into events; EventLog holds them for the run's followers
    EventLog.follow yields the events, and the handler sends them; the first one is `metadata`
    finish_run      one transaction: run status, thread values and status, webhook; then the stream closes

Two event loops: uvicorn's serves HTTP, the run loop's thread executes every graph, so a node that blocks
slows down other runs but never the API. Lasting state is in rows: memory holds only what may end with the process.

PYTEST_DONT_REWRITE: the test kit is a pytest plugin, and has no assertions to rewrite.
"""

from __future__ import annotations

import gc
import importlib.metadata
import re
import sys
from pathlib import Path

if __name__ == "__main__":
    # Graphs import this file as devserver, and there must be one SharedValue only.
    import devserver

    devserver.main()  # type: ignore[has-type]

if IS_COMMAND := Path(sys.argv[0]).stem == "devserver":  # False if another program imports this module
    gc.disable()  # importing makes no garbage, and collecting takes a seventh of the time; `up` enables it again

# Versions older than pyproject.toml asks for hang, or fail halfway: say so before they are imported.
if LACKING := {
    f"'{package}>={least}'": f"{package} {version}"
    for package, least in [
        *{"aiosqlite": "0.22.1", "langgraph": "1.1.6"}.items(),
        *{"langgraph-checkpoint": "4.3", "langgraph-checkpoint-sqlite": "3.1.2"}.items(),
    ]
    for version in [next((each.version for each in importlib.metadata.distributions(name=package)), "(missing)")]
    if [int(number) for number in re.findall(r"\d+", version)] < [int(number) for number in least.split(".")]
}:
    raise (SystemExit if IS_COMMAND else ImportError)(
        f"devserver cannot run with {', '.join(LACKING.values())}. "
        f"Where it is installed: python -m pip install {' '.join(LACKING)}"
    )

import array
import asyncio
import base64
import concurrent.futures
import contextlib
import contextvars
import copy
import dataclasses
import datetime
import decimal
import email.utils
import enum
import errno
import fnmatch
import functools
import hashlib
import importlib.util
import inspect
import io
import ipaddress
import itertools
import json
import logging
import math
import operator
import os
import queue
import signal
import socket
import sqlite3
import struct
import subprocess
import tempfile
import threading
import time
import traceback
import types
import typing
import uuid
import warnings
import weakref
from collections import Counter, deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Container,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from importlib.machinery import ModuleSpec
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar, cast

import aiosqlite
import click
import httpx
import orjson
import ormsgpack
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    BaseMessageChunk,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph import errors as langgraph_errors
from langgraph import runtime as langgraph_runtime
from langgraph import types as langgraph_types
from langgraph.channels.base import MISSING, BaseChannel  # type: ignore[attr-defined]
from langgraph.channels.binop import BinaryOperatorAggregate
from langgraph.channels.ephemeral_value import EphemeralValue
from langgraph.channels.last_value import LastValue
from langgraph.channels.named_barrier_value import NamedBarrierValue
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import (
    EXT_PYDANTIC_V2,
    JsonPlusSerializer,
    _create_msgpack_ext_hook,
    _msgpack_default,
    _option,
)
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, TASKS
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.constants import END, START
from langgraph.errors import InvalidUpdateError
from langgraph.graph.state import StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel._utils import get_function_nonlocals
from langgraph.store.base import (
    NOT_PROVIDED,
    BaseStore,
    Embeddings,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
)
from langgraph.store.sqlite.base import SqliteStore
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError
from starlette import types as asgi
from starlette.applications import Starlette
from starlette.datastructures import Headers, URLPath
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

if typing.TYPE_CHECKING:
    import ssl

    import uvicorn
    from langgraph.errors import GraphDrained, UnknownInterruptError
    from langgraph.runtime import RunControl
    from langgraph_sdk.client import LangGraphClient, SyncLangGraphClient
else:  # langgraph 1.1 lacks the first two, and the event streaming that came with them; the third is new in 1.2.20
    RunControl = getattr(langgraph_runtime, "RunControl", None)
    GraphDrained = getattr(langgraph_errors, "GraphDrained", ())
    UnknownInterruptError = getattr(langgraph_errors, "UnknownInterruptError", ())

__version__ = "0.1.0"
log = logging.getLogger("devserver")

T = TypeVar("T")
JsonObject = dict[str, Any]
Graph = Pregel[Any, Any, Any, Any]


########################################################################################################
# 1  Vocabulary
########################################################################################################

RunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
ThreadStreamMode = Literal["run_modes", "lifecycle", "state_update"]
MultitaskStrategy = Literal["reject", "rollback", "interrupt", "enqueue"]
Durability = Literal["sync", "async", "exit"]
DisconnectMode = Literal["cancel", "continue"]
OnCompletion = Literal["delete", "keep"]
IfExists = Literal["raise", "do_nothing"]
IfNotExists = Literal["create", "reject"]
SortOrder = Literal["asc", "desc"]
# fmt: off
StreamMode = Literal[
    "values", "messages", "messages-tuple", "updates", "events", "debug", "tasks", "checkpoints", "custom",
]
AssistantField = Literal[
    "assistant_id", "graph_id", "name", "description", "config", "context", "created_at", "updated_at", "metadata",
    "version",
]
ThreadField = Literal[
    "thread_id", "created_at", "updated_at", "state_updated_at", "metadata", "config", "status", "values",
    "interrupts",
]
RunField = Literal[
    "run_id", "thread_id", "assistant_id", "created_at", "updated_at", "metadata", "status", "kwargs",
    "multitask_strategy", "langsmith_session_name",
]
CronField = Literal[
    "cron_id", "assistant_id", "thread_id", "user_id", "end_time", "schedule", "timezone", "payload",
    "next_run_date", "metadata", "on_run_completed", "enabled", "created_at", "updated_at",
]
CronSort = Literal[
    "cron_id", "assistant_id", "thread_id", "next_run_date", "end_time", "created_at", "updated_at",
]
RESERVED_METADATA = frozenset({"thread_id", "assistant_id", "run_id", "cron_id", "counters_since_delta_snapshot"})
# fmt: on
# Names that only the server sets: a client's values are dropped from a config, its configurable and a context.
SERVER_ONLY = re.compile(
    r"(thread|run|assistant|graph|cron|checkpoint)_id|checkpoint_(ns|map)|langgraph_(auth_.*|request_id)|__.*", re.S
)
PLACE_KEYS = ("checkpoint_ns", "checkpoint_id", "checkpoint_map")  # exceptions: a client names a checkpoint by them
CONFIG_KEYS = ("tags", "metadata", "run_name", "max_concurrency", "recursion_limit", "configurable")
CancelAction = Literal["interrupt", "rollback"]
SAFE_INTEGER = 2**63 - 1
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Label = Annotated[str, Field(json_schema_extra={"pattern": r"^[^.]+$"})]
WHOLE = BeforeValidator(lambda n: int(n) if isinstance(n, float) and n.is_integer() else n)  # 1.0 is an integer in JSON
Limit = Annotated[int, Field(ge=1, le=1000), WHOLE]
Offset = Annotated[int, Field(ge=0, le=SAFE_INTEGER), WHOLE]
# Lists that cost more than their size, or that SQL limits, are bounded. Validation ends at the first wrong member.
Few = Annotated[list[T], Field(max_length=100, fail_fast=True)]
Some = Annotated[list[T], Field(max_length=1_000, fail_fast=True)]
Many = Annotated[list[T], Field(max_length=10_000, fail_fast=True)]
CronSchedule = Annotated[str, Field(max_length=256)]
MAX_CONDITIONS = 500


def _check_conditions(condition: Any) -> Any:
    """Refuse more than MAX_CONDITIONS, nested ones included: a search compares each of them with each row."""
    inside = [condition]
    for number, value in enumerate(inside):
        if number > MAX_CONDITIONS:
            detail = f"There may be {MAX_CONDITIONS} conditions at most, nested ones included"
            raise PydanticCustomError("too_long", detail)
        inside += value.values() if isinstance(value, dict) else ()
    return condition


def _check_integer(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > SAFE_INTEGER:
        raise PydanticCustomError("too_large", "Input should be an integer of 64 bits at most")
    return value


Conditions = Annotated[JsonObject, BeforeValidator(_check_conditions)]
_Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]+$")]  # LangGraph's checkpointer puts it into SQL
HistoryConditions = Annotated[
    dict[_Name, Annotated[Any, BeforeValidator(_check_integer)]], BeforeValidator(_check_conditions)
]


class Body(BaseModel):
    """A request body. As in the API, types are strict and unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", defer_build=True)

    def given(self) -> JsonObject:
        """Return only the fields that the client sent."""
        return self.model_dump(exclude_unset=True)


class Config(Body):
    """A RunnableConfig. Keys besides the named ones (run_name, max_concurrency) are kept."""

    model_config = ConfigDict(strict=True, extra="allow", defer_build=True)

    tags: Many[str] = Field(default_factory=list)
    recursion_limit: Annotated[int, WHOLE] = 25
    configurable: JsonObject = Field(default_factory=dict)
    metadata: JsonObject = Field(default_factory=dict)


class CheckpointConfig(Body):
    """A point in a thread's history: a checkpoint, or the latest one of a namespace."""

    model_config = ConfigDict(strict=True, extra="allow", defer_build=True)

    thread_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    checkpoint_map: JsonObject | None = None

    @model_validator(mode="before")
    @classmethod
    def _unwrap(cls, value: Any) -> Any:
        """Accept a RunnableConfig, too: the keys of its configurable are read as fields."""
        nested = value.get("configurable") if isinstance(value, dict) else None
        return (
            {**{k: v for k, v in value.items() if k != "configurable"}, **nested} if isinstance(nested, dict) else value
        )

    def configurable(self) -> JsonObject:
        """Return the keys that name this point in a RunnableConfig's configurable."""
        return {key: value for key, value in self.given().items() if key in PLACE_KEYS and value is not None}


class Send(Body):
    """A node to run with an input of its own."""

    node: str
    input: Any = None


class Command(Body):
    """An answer to interrupts, a change of the state, a jump."""

    update: JsonObject | list[Any] | None = None
    resume: Any = None
    goto: str | Send | Many[str | Send] | None = None


class AssistantPatch(Body):
    graph_id: str = ""
    config: Config = Field(default_factory=Config)
    context: JsonObject = Field(default_factory=dict)
    metadata: JsonObject = Field(default_factory=dict)
    name: str = ""
    description: str | None = None


class AssistantCreate(AssistantPatch):
    graph_id: str
    assistant_id: Id | None = None
    if_exists: IfExists = "raise"
    name: str = "Untitled"


class Search(Body):
    """Which page of the results to return, and in which order."""

    limit: Limit = 10
    offset: Offset = 0
    sort_order: SortOrder = "desc"


class AssistantCountRequest(Body):
    metadata: Conditions = Field(default_factory=dict)
    graph_id: str | None = None
    name: Annotated[str, Field(max_length=1_000)] | None = None


class AssistantSearchRequest(AssistantCountRequest, Search):
    sort_by: Literal["assistant_id", "created_at", "updated_at", "name", "graph_id"] = "created_at"
    select: Few[AssistantField] | None = None


class AssistantVersionsSearchRequest(Body):
    metadata: Conditions = Field(default_factory=dict)
    limit: Limit = 10
    offset: Offset = 0


class AssistantVersionChange(Body):
    version: Annotated[int, Field(ge=-SAFE_INTEGER, le=SAFE_INTEGER), WHOLE] | None = None


Minutes = Annotated[float, Field(gt=0, le=1e9)]


Kept = Annotated[int, Field(ge=1, le=SAFE_INTEGER), WHOLE]  # how many states `keep_latest` keeps


class ThreadTtl(Body):
    """How many minutes after its last update a thread expires (None: never), and what happens then."""

    ttl: Minutes | None = None
    strategy: Literal["delete", "keep_latest"] = "delete"
    keep: Kept = 1


class StateUpdateEntry(Body):
    """A change of the state, as if `as_node` had returned it."""

    as_node: str
    values: Any = None
    command: Command | None = None


class ThreadSuperstepUpdate(Body):
    updates: Annotated[Many[StateUpdateEntry], Field(min_length=1)]


class ThreadPatch(Body):
    metadata: JsonObject = Field(default_factory=dict)
    ttl: ThreadTtl | None = None


class ThreadCreate(ThreadPatch):
    thread_id: Id | None = None
    if_exists: IfExists = "raise"
    supersteps: Many[ThreadSuperstepUpdate] = Field(default_factory=list)


class ThreadCountRequest(Body):
    metadata: Conditions = Field(default_factory=dict)
    values: Conditions = Field(default_factory=dict)
    status: ThreadStatus | None = None


class ThreadSearchRequest(ThreadCountRequest, Search):
    ids: Many[Id] | None = None
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] = "updated_at"
    select: Few[ThreadField] | None = None
    extract: Annotated[dict[str, Annotated[str, Field(max_length=256)]], Field(max_length=10)] | None = None


class ThreadPruneRequest(Body):
    thread_ids: Many[Id]
    strategy: Literal["delete", "keep_latest"] = "delete"
    keep: Kept = 1


class ThreadStateUpdate(Body):
    values: Any = None
    as_node: str | None = None
    checkpoint: CheckpointConfig | None = None
    checkpoint_id: str | None = None


class ThreadStateCheckpointRequest(Body):
    checkpoint: CheckpointConfig
    subgraphs: bool | None = None


class ThreadStateSearch(Body):
    limit: Limit = 1
    before: CheckpointConfig | None = None
    metadata: HistoryConditions | None = None
    checkpoint: CheckpointConfig | None = None


class RunCreate(Body):
    """The fields that all ways of creating a run take."""

    assistant_id: str
    input: Any = None
    command: Command | None = None
    checkpoint: CheckpointConfig | None = None
    checkpoint_id: Id | None = None
    config: Config | None = None
    context: JsonObject | None = None
    metadata: JsonObject | None = None
    webhook: Annotated[str, Field(min_length=1)] | None = None
    interrupt_before: Literal["*"] | Many[str] | None = None
    interrupt_after: Literal["*"] | Many[str] | None = None
    stream_mode: StreamMode | Few[StreamMode] | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    on_disconnect: DisconnectMode = "continue"
    on_completion: OnCompletion | None = None
    feedback_keys: Many[str] | None = None
    multitask_strategy: MultitaskStrategy | None = None
    if_not_exists: IfNotExists | None = None
    after_seconds: Annotated[float, Field(ge=-1e9, le=1e9)] | None = None
    checkpoint_during: bool | None = None
    durability: Durability | None = None
    strict_resume: bool | None = None


class RunCreateStateful(RunCreate):
    pass


class RunCreateStateless(RunCreate):
    pass


class RunsCancel(Body):
    status: Literal["pending", "running", "all"] | None = None
    thread_id: Id | None = None
    run_ids: Many[Id] | None = None


class CronCreate(RunCreate):
    """A run that is created again and again, by a schedule."""

    schedule: CronSchedule
    timezone: str | None = None
    end_time: str | None = None
    enabled: bool = True
    on_run_completed: OnCompletion | None = None


class CronPatch(CronCreate):
    """The fields of a cron to change; those left out stay."""

    assistant_id: str = ""
    schedule: CronSchedule = ""
    metadata: JsonObject = Field(default_factory=dict)


class CronCountRequest(Body):
    assistant_id: Id | None = None
    thread_id: Id | None = None
    enabled: bool | None = None
    metadata: Conditions | None = None


class CronSearch(CronCountRequest, Search):
    sort_by: CronSort = "created_at"
    select: Few[CronField] | None = None


class ProtocolCommand(Body):
    """A command of the event streaming protocol."""

    id: int
    method: str
    params: JsonObject = Field(default_factory=dict)


class ProtocolEventStreamRequest(Body):
    """Which events of a thread to stream: of these channels, in these namespaces and `depth` levels below."""

    channels: Some[str]
    namespaces: Some[Some[str]] | None = None
    depth: Annotated[int, Field(ge=0), WHOLE] | None = None
    since: Annotated[int, Field(ge=0), WHOLE] | None = None


class StorePutRequest(Body):
    namespace: Some[Label]
    key: str
    value: JsonObject
    index: Literal[False] | Few[str] | None = None
    ttl: Minutes | None = None


class StoreDeleteRequest(Body):
    key: str
    namespace: Some[Label] | None = None


class StoreSearchRequest(Body):
    namespace_prefix: Some[Label] | None = None
    filter: Conditions | None = None
    limit: Annotated[int, Field(le=SAFE_INTEGER), WHOLE] | None = 10
    offset: Offset | None = 0
    query: str | None = None
    refresh_ttl: bool | None = None


class StoreListNamespacesRequest(Body):
    prefix: Some[Label] | None = None
    suffix: Some[Label] | None = None
    max_depth: Limit | None = None
    limit: Annotated[int, Field(ge=1, le=SAFE_INTEGER), WHOLE] | None = 100
    offset: Offset | None = 0


########################################################################################################
# 2  Values
########################################################################################################


class ApiError(Exception):
    """An answer other than success. `detail` says what is wrong, where, and what to do."""

    status = 500
    headers: Mapping[str, str] | None = None

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or HTTPStatus(self.status).phrase)

    @property
    def detail(self) -> str:
        return str(self.args[0])


class BadRequest(ApiError):
    status = 400


class Refused(ApiError):
    """Authentication or authorization refused the request; the application chooses status, detail and headers."""

    def __init__(self, status: int, detail: Any = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail or HTTPStatus(status).phrase)
        self.status = status
        self.headers = headers


class NotFound(ApiError):
    status = 404


def must_find(value: T | None, detail: str | None = None) -> T:
    """Return the value. Raises NotFound, with this detail, if it is None or empty."""
    if not value:
        raise NotFound(detail)
    return value


class Conflict(ApiError):
    status = 409


class TooLarge(ApiError):
    status = 413


class Invalid(ApiError):
    status = 422


class InvalidId(Invalid):
    pass


class NotServed(ApiError):
    status = 501


class Unavailable(ApiError):
    status = 503


class StartError(Exception):
    """The server cannot start; the message is all that the user needs to see."""


EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)


class Clock:
    """The time of day, and a steady time that never goes back: both in microseconds since 1970.

    People see the time of day. Order and durations (ids, events, queues, times to live) use the steady time. The two
    are the same until the clock is put back: then the steady time goes on from the greatest moment seen, by this or an
    earlier start of the server, and stays ahead until the clock is put forward again.
    """

    JUMP = 1_000_000  # microseconds; smaller differences are corrections of the clock: nobody has set it

    def __init__(self) -> None:
        self.shift = 0  # microseconds from the machine's clock to this one: tests move it
        self.set_back = 0  # how often the time of day was put back
        self.ahead = 0  # microseconds that the steady time is ahead of the time of day
        self._last = 0
        self._boot = self.micros() - time.monotonic_ns() // 1000  # the time of day when the machine started
        self._lock = threading.Lock()

    def restart(self, at: datetime.datetime | None = None) -> None:
        """Start again at a moment, or at the machine's time: for a new database, which holds no later moment."""
        shift = (at - self.now()) // datetime.timedelta(microseconds=1) + self.shift if at else 0
        with self._lock:
            self.shift, self.set_back, self.ahead, self._last = shift, 0, 0, 0
            self._boot = self.micros() - time.monotonic_ns() // 1000

    def micros(self) -> int:
        return time.time_ns() // 1000 + self.shift

    def now(self) -> datetime.datetime:
        return EPOCH + datetime.timedelta(microseconds=self.micros())

    def steady(self) -> int:
        """Return the steady time; each call gives a greater one."""
        with self._lock:
            day = time.time_ns() // 1000 + self.shift  # self.micros(), in half the time
            boot = day - time.monotonic_ns() // 1000
            jump = boot - self._boot
            if abs(jump) > self.JUMP:
                self.set_back += jump < 0
                self.ahead = max(0, self.ahead - jump)
                self._boot = boot
            self._last = max(self._last + 1, day + self.ahead)
            return self._last

    def begin_after(self, greatest: int) -> None:
        """Continue the steady time from the greatest moment that an earlier start of the server stored."""
        with self._lock:
            self._last = max(self._last, greatest)
            if (ahead := greatest - self.micros()) > self.JUMP:
                self.ahead = max(self.ahead, ahead)
                self.set_back += 1


CLOCK = Clock()


def new_id() -> str:
    """Return a UUIDv7; ids sort by when they were made, whatever the clock does."""
    ms, micros = divmod(CLOCK.steady(), 1000)
    chance = int.from_bytes(os.urandom(8)) >> 2
    return str(uuid.UUID(int=ms << 80 | 7 << 76 | micros << 64 | 2 << 62 | chance))


def now() -> str:
    """Return the time of day in ISO 8601, UTC, with microseconds."""
    return (EPOCH + datetime.timedelta(microseconds=CLOCK.micros())).isoformat(timespec="microseconds")


def moment(at: datetime.datetime) -> str:
    return at.astimezone(datetime.UTC).isoformat(timespec="microseconds")


def to_uuid(text: str, what: str) -> str:
    """Return the canonical form of an id, leniently parsed. Raises InvalidId naming `what` has the id."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise InvalidId(f"Invalid {what} ID: must be a UUID") from None


def tool_name(name: str, assistant_id: str) -> str:
    """Return an assistant's name as an MCP tool: its own name's allowed characters, or its id if there are none."""
    return re.sub(r"[^A-Za-z0-9_.-]", "", re.sub(r"\s+", "_", name))[:128] or assistant_id


def is_loopback(host: str) -> bool:
    if re.fullmatch(r"([\w-]+\.)*localhost", host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exception_value(error: BaseException) -> JsonObject:
    """Return an exception as clients see it, in events, threads and webhooks."""
    try:
        message = str(error)
    except Exception:
        message = "(its message can't be shown)"
    return {"error": type(error).__name__, "message": message}


_MESSAGE_FIELDS = {kind: [*kind.model_fields] for kind in (AIMessage, HumanMessage, SystemMessage, ToolMessage)}
# The fields of an AIMessage of whose keys `model_dump` leaves out all but these, and the same of their members.
_Parts = tuple[tuple[str, Any, Any], ...]
_USAGE: _Parts = (
    ("input_token_details", InputTokenDetails.__annotations__.keys(), ()),
    ("output_token_details", OutputTokenDetails.__annotations__.keys(), ()),
)
_AI_PARTS: _Parts = (
    ("tool_calls", ToolCall.__annotations__.keys(), ()),
    ("invalid_tool_calls", InvalidToolCall.__annotations__.keys(), ()),
    ("usage_metadata", UsageMetadata.__annotations__.keys(), _USAGE),
)


def _has_only(fields: JsonObject, parts: _Parts) -> bool:
    for name, keys, inner in parts:
        if value := fields.get(name):
            for each in value if type(value) is list else (value,):
                if type(each) is not dict or not each.keys() <= keys or (inner and not _has_only(each, inner)):
                    return False
    return True


def message_fields(message: Any) -> JsonObject | None:
    """Return the fields of a message if `model_dump`, which takes longer, gives the same wherever they hold only JSON.
    None for all but LangChain's most common messages, and for unusual ones of these."""
    kind = type(message)
    if kind not in _MESSAGE_FIELDS or message.__pydantic_extra__:
        return None
    fields: JsonObject = message.__dict__
    if [*fields] != _MESSAGE_FIELDS[kind] or (kind is AIMessage and not _has_only(fields, _AI_PARTS)):
        return None
    return fields


def _jsonable(value: Any) -> Any:  # noqa: C901  one branch per type
    """Convert a value of a type that orjson does not know to one that it writes or passes here again."""
    if isinstance(value, BaseException):
        return exception_value(value)
    if type(value) is AIMessageChunk:  # one per token: model_dump would take longer
        return {**vars(value), **(value.__pydantic_extra__ or {})}
    if (fields := message_fields(value)) is not None:
        try:
            return orjson.Fragment(orjson.dumps(fields, option=_ONLY_JSON))
        except TypeError:  # there is more in it
            pass
    if isinstance(value, langgraph_types.Send):
        return {"node": value.node, "args": value.arg}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, set | frozenset | deque | tuple):
        return list(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return float(value) if value.is_finite() and math.isfinite(value) else str(value)
    if isinstance(value, float):  # a subclass
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    for dump in ("model_dump", "dict", "isoformat"):
        with contextlib.suppress(Exception):
            if not isinstance(value, type):
                return getattr(value, dump)()
    return _text(value)


def _text(value: Any) -> str:
    """Return a readable text for any object."""
    with contextlib.suppress(Exception):
        return str(value)
    return object.__repr__(value)


def _keepable(value: Any) -> Any:
    """Convert a value of a store item, as _jsonable does. Raises TypeError for types whose JSON would lose a part."""
    if isinstance(value, BaseModel):
        with contextlib.suppress(ValueError):
            value.model_dump_json(warnings=False)  # fails for a field of a type that has no JSON
            return orjson.Fragment(to_json(value))
    if isinstance(value, _KEPT):
        return _jsonable(value)
    raise TypeError(f"is a {type(value).__qualname__}")


_SCALARS = (decimal.Decimal, float, uuid.UUID, datetime.date, datetime.time)  # with the subclasses that orjson refuses
_KEPT = (BaseModel, tuple, set, frozenset, Mapping, *_SCALARS)
_ONLY_JSON = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
_JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def to_json(value: Any, default: Callable[[Any], Any] = _jsonable) -> bytes:
    """Return compact UTF-8 JSON of anything that a graph may hold. NUL becomes U+FFFD, NaN null, other objects a text.
    `default` is given the values that orjson does not know; its errors are raised."""
    failures = (TypeError, RecursionError)
    try:
        text = orjson.dumps(value, default=default, option=orjson.OPT_SERIALIZE_NUMPY)
    except failures:
        try:  # with keys that are no strings: the option doubles the time
            text = orjson.dumps(value, default=default, option=_JSON_OPTIONS)
        except failures:
            text = orjson.dumps(_mend(value, default), default=default, option=_JSON_OPTIONS)
    if b"\\u0000" in text:  # or an escaped backslash and u0000: meanwhile NUL, which JSON lacks, stands for the former
        text = text.replace(b"\\\\", b"\0").replace(b"\\u0000", b"\\ufffd").replace(b"\0", b"\\\\")
    return text


def shown_json(value: Any) -> bytes:
    """Return the same JSON of a value that holds the same messages again and again: each is written once."""
    texts: dict[int, tuple[Any, orjson.Fragment]] = {}  # with the message, lest another one gets its id

    def text(part: Any) -> Any:
        if not isinstance(part, BaseMessage):
            return _jsonable(part)
        if id(part) not in texts:
            texts[id(part)] = part, orjson.Fragment(to_json(part))
        return texts[id(part)][1]

    return to_json(value, text)


def kept_json(value: Any, namespace: Sequence[str], key: str) -> bytes:
    """Return the JSON of a store item's value. Raises TypeError for a value that could not be read back."""
    try:
        return to_json(value, _keepable)
    except TypeError as error:
        where = f"Item {key!r} of namespace {tuple(namespace)} can't be kept as JSON"
        raise TypeError(f"{where}: {error}. Convert it to text, numbers, lists and dicts first.") from None


def _mend(value: Any, default: Callable[[Any], Any], path: str = "", above: frozenset[int] = frozenset()) -> Any:
    """Return a copy that orjson can write: without lone surrogates, huge integers, odd keys, endless nesting, cycles.
    Raises TypeError with the path of a value that `default` refuses."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str):
        return unicode_text(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value) if abs(value) < 1e308 else _text(value)
    if id(value) in above or len(above) > 200:
        if default is _keepable:
            raise TypeError(f"{path.lstrip('.')} contains itself, or is nested too deeply")
        return None
    above |= {id(value)}
    if isinstance(value, Mapping):
        return {_mend_key(k, default, path): _mend(v, default, f"{path}.{_text(k)}", above) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and not hasattr(value, "_asdict"):
        return [_mend(v, default, f"{path}[{n}]", above) for n, v in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]
        return {name: _mend(getattr(value, name), default, f"{path}.{name}", above) for name in shown}
    with contextlib.suppress(TypeError):  # arrays, times
        return orjson.loads(orjson.dumps(value, option=_JSON_OPTIONS))
    try:
        known = default(value)
    except TypeError as error:
        raise TypeError(f"{path.lstrip('.') or 'it'} {error}") from None
    return known if isinstance(known, orjson.Fragment) else _mend(known, default, path, above)


def _mend_key(key: Any, default: Callable[[Any], Any], path: str) -> str:
    """Return the text that orjson writes for a key, or would write if it knew its type."""
    key = key.value if isinstance(key, enum.Enum) else key
    with contextlib.suppress(TypeError):
        (text,) = orjson.loads(orjson.dumps({key: None}, option=_JSON_OPTIONS))
        return str(text)
    if default is _keepable and not isinstance(key, (str, *_SCALARS)):
        raise TypeError(f"{path.lstrip('.') or 'it'} has the key {_text(key)}, which is a {type(key).__qualname__}")
    return unicode_text(_text(key.isoformat() if isinstance(key, datetime.date) else key))


def unicode_text(text: str) -> str:
    """Return the text with '?' for each lone surrogate, as no encoding has them."""
    return text.encode("utf-8", "replace").decode()


def from_json(text: bytes | str) -> Any:
    """Parse JSON. Raises ValueError for anything else: a NaN, a byte order mark, a lone surrogate ..."""
    value = orjson.loads(text)
    marked = b"\\u0000" in text if isinstance(text, bytes) else "\\u0000" in text
    return orjson.loads(to_json(value)) if marked else value


def contains(whole: Any, part: Any) -> bool:
    """Return whether `whole` has all keys of `part`, in nested objects too, with equal values."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and contains(whole[k], v) for k, v in part.items())
    if isinstance(part, bool) or isinstance(whole, bool):
        return part is whole
    return bool(whole == part)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _equal(one: Any, other: Any) -> bool:
    return contains(one, other) and contains(other, one)


def _has_members(value: Any, wanted: Any) -> bool:
    return isinstance(value, list) and all(any(_equal(one, each) for one in value) for each in as_list(wanted))


Operators = dict[str, Callable[[Any, Any], bool]]
STORE_OPERATORS: Operators = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": lambda a, b: float(a) > float(b),
    "$gte": lambda a, b: float(a) >= float(b),
    "$lt": lambda a, b: float(a) < float(b),
    "$lte": lambda a, b: float(a) <= float(b),
}
AUTH_OPERATORS: Operators = {"$eq": _equal, "$contains": _has_members}


def _has_operators(wanted: Any) -> bool:
    return isinstance(wanted, dict) and any(key.startswith("$") for key in wanted)


def matches_filter(value: JsonObject, condition: Mapping[str, Any]) -> bool:
    """Return whether an item passes a store filter: equal fields, or operators. Values that can't be compared fail."""
    pairs = ((value.get(key), each if _has_operators(each) else {"$eq": each}) for key, each in condition.items())
    with contextlib.suppress(TypeError, ValueError):
        return all(STORE_OPERATORS[name](have, operand) for have, wanted in pairs for name, operand in wanted.items())
    return False


def passes(metadata: JsonObject, limits: JsonObject) -> bool:
    """Return whether metadata pass an authorization filter. For each of its keys they have an equal value (alone or as
    `$eq`), or a list with the operand of `$contains`: one value, or each value of a list."""
    for key, wanted in limits.items():
        known = isinstance(wanted, dict) and wanted and wanted.keys() <= AUTH_OPERATORS.keys()
        operands = wanted if known else {"$eq": wanted}
        if key not in metadata or not all(AUTH_OPERATORS[name](metadata[key], operands[name]) for name in operands):
            return False
    return True


class User(dict[str, Any]):
    """The user who sent a request or created a run: a dict whose fields are attributes, too. It always has those in
    SHOWN. `original` is the object that the application's Auth returned."""

    SHOWN = ("identity", "display_name", "is_authenticated", "permissions")
    original: Any = None

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        return getattr(self.original, name)

    def shown(self) -> JsonObject:
        """Return the standard fields only: the application's own may be secret."""
        return {name: self[name] for name in self.SHOWN}


def user_values(user: User | None) -> JsonObject:
    """Return the keys of a configurable that name the run's user; without an Auth, `user` is None."""
    if user is None:
        return {"langgraph_auth_user": None, "langgraph_auth_user_id": "", "langgraph_auth_permissions": []}
    return {
        "langgraph_auth_user": user,
        "langgraph_auth_user_id": user["identity"],
        "langgraph_auth_permissions": user["permissions"],
        "user_id": user["identity"],
    }


def without_reserved(metadata: Mapping[str, Any]) -> JsonObject:
    """Return a client's metadata without the keys that are the server's own."""
    return {key: value for key, value in metadata.items() if key not in RESERVED_METADATA}


def without_own(given: Mapping[str, Any] | None, own: Mapping[str, Any] = types.MappingProxyType({})) -> JsonObject:
    """Return a client's values without the SERVER_ONLY names. A name that the client gave and that is text in `own`,
    such as an id, gets the server's value."""
    known = {name: own[name] for name in given or () if isinstance(own.get(name), str)}
    return {name: value for name, value in (given or {}).items() if not SERVER_ONLY.fullmatch(name)} | known


def client_config(body: Config | None) -> JsonObject:
    """Return the config of a request without the keys that only the server sets."""
    config = without_own(body.given() if body else {})
    if "configurable" in config:
        config["configurable"] = without_own(config["configurable"])
    if "metadata" in config:
        config["metadata"] = without_reserved(config["metadata"])
    return config


def graph_config(given: Mapping[str, Any], own: JsonObject) -> JsonObject:
    """Return a config for a graph or its factory. The server's `own` values replace a client's in the configurable.

    Keys that no RunnableConfig has go there first: LangGraph would copy them over the server's values later."""
    config = {key: given[key] for key in CONFIG_KEYS if key in given}
    others = {key: given[key] for key in given if key not in CONFIG_KEYS and given[key] not in (None, [], {})}
    config["configurable"] = {**without_own({**(config.get("configurable") or {}), **others}), **own}
    config["metadata"] = without_own(config.get("metadata"), own)
    return config


########################################################################################################
# 3  Shared values
########################################################################################################

SHARED_ROOT = "scoped"  # begins the namespaces of shared values in the store
SHARED_SCOPE = "__pregel_shared_values"  # of a run elsewhere, in its config; LangGraph shows nobody such names


class SharedValue(BaseChannel[Any, Any, Any]):
    """A state key shared by all threads whose config names the same scope value.

    `info: Annotated[dict, SharedValue.on("user_id")]` holds `{item key: object}`. In devserver an update
    overwrites per item key, None deletes an item, and what a superstep writes is stored in the same
    transaction as its checkpoint. Elsewhere (plain `graph.invoke`) it is a per-thread dict with the
    same rules, or shared by share(). Items are kept as JSON text, so what a node reads is always a copy.
    """

    __slots__ = ("items", "path", "prefix", "run")
    scope: ClassVar[str] = ""

    def __init__(self, typ: Any, key: str = "") -> None:
        super().__init__(typ, key)
        self.items: dict[str, bytes] = {}
        self.run: SharedScope | None = None
        self.path: tuple[str, ...] = ()
        self.prefix = ""

    @classmethod
    @functools.cache
    def on(cls, scope: str) -> type[SharedValue]:
        """Return the channel type for a scope: a key of the run's `config.configurable` or `context`."""
        if not isinstance(scope, str) or not scope:
            raise ValueError(f"SharedValue.on takes the name of a configurable key, not {scope!r}")
        return type("SharedValue", (cls,), {"scope": scope, "__slots__": (), "__module__": cls.__module__})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SharedValue) and other.scope == self.scope

    __hash__ = object.__hash__

    @property
    def ValueType(self) -> Any:  # noqa: N802  named by BaseChannel
        return self.typ

    @property
    def UpdateType(self) -> Any:  # noqa: N802  named by BaseChannel
        return self.typ

    def copy(self) -> Self:
        """Return a copy that belongs to no run: LangGraph tries a node's writes on it, for its conditional edges."""
        channel = self.__class__(self.typ, self.key)
        channel.items = self.run.peek(self) if self.run else dict(self.items)
        return channel

    def from_checkpoint(self, checkpoint: Any) -> Self:
        channel = self.__class__(self.typ, self.key)
        if (run := RUN_SCOPE.get() or self.run) is not None:
            run.join(channel)
        elif isinstance(checkpoint, dict):
            channel.items = {k: orjson.dumps(v) for k, v in checkpoint.items()}
        return channel

    def checkpoint(self) -> Any:
        """Return the writes since the last checkpoint, for the saver to store with it; outside a run, the items."""
        return self.run.take(self) if self.run else self.get()

    def get(self) -> JsonObject:
        return {key: orjson.loads(text) for key, text in self.items.items()}

    def is_available(self) -> bool:
        return True

    def update(self, values: Sequence[Any]) -> bool:
        if self.run:
            return self.run.record(self, values) or bool(values)
        _apply_puts(self.items, self.puts(values))
        return bool(values)

    def puts(self, values: Sequence[Any]) -> dict[str, bytes | None]:
        puts: dict[str, bytes | None] = {}
        for value in values:
            if not isinstance(value, Mapping):
                raise InvalidUpdateError(f"At shared key '{self.key}': expected a dict of items, got {value!r}")
            for key, item in value.items():
                if not isinstance(key, str) or not (item is None or isinstance(item, Mapping)):
                    raise InvalidUpdateError(
                        f"At shared key '{self.key}': item {key!r} must be a dict, or None to delete it, got {item!r}"
                    )
                puts[key] = None if item is None else kept_json(item, (self.prefix or self.key).split("."), key)
        return puts

    def differing(self, items: Mapping[str, Any]) -> JsonObject:
        """Return the items that differ from the channel's. Raises InvalidUpdateError."""
        return {key: items[key] for key, text in self.puts([items]).items() if self.items.get(key) != text}


def _apply_puts(items: dict[str, bytes], puts: Mapping[str, bytes | None]) -> None:
    for key, text in puts.items():
        if text is None:
            items.pop(key, None)
        else:
            items[key] = text


class SharedPuts(NamedTuple):
    """Writes to items of one namespace, None for a deleted item; the saver finds them among a checkpoint's values."""

    prefix: str
    puts: dict[str, bytes | None]


@dataclass
class _Superstep:
    """The writes of one superstep to one namespace: `origin` is the path of the graph that made them, `holder` the
    channel that has them now, `keeper` the path of the graph whose checkpoint stored them, None until then."""

    puts: dict[str, bytes | None]
    origin: tuple[str, ...]
    holder: SharedValue
    settled: bool = False  # LangGraph accepted all writes of the superstep
    keeper: tuple[str, ...] | None = None


def _within(path: tuple[str, ...], top: tuple[str, ...]) -> bool:
    """Return whether a graph is `top` or nested in it. LangGraph leaves the ids of tasks out of the paths of graphs
    below one compiled with `checkpointer=True`."""
    return len(path) >= len(top) and all(a in (b, b.partition(":")[0]) for a, b in zip(path, top, strict=False))


def _has_task(path: tuple[str, ...], task_id: str) -> bool:
    return any(part.endswith(f":{task_id}") for part in path)


def shared_prefix(sources: Iterable[Mapping[str, Any]], scope: str, key: str) -> str:
    """Return the store namespace of a shared key, in the store's dotted form. Raises MissingScope."""
    for source in sources:
        value = source.get(scope)
        if isinstance(value, str | int | float | uuid.UUID) and value != "":
            labels = (SHARED_ROOT, scope, key, str(value))  # the store joins them with dots
            return ".".join(label.replace("%", "%25").replace(".", "%2E") for label in labels)
    raise MissingScope(f"Scope {scope} for shared state key '{key}' not in config.configurable")


class SharedScope:
    """The shared values as one run and its subgraphs see them, and their writes that are not stored yet.

    A graph sees what its parent saw when the graph started, and its own supersteps; the parent sees
    the writes of a subgraph at the end of the superstep in which the subgraph ran.
    """

    def __init__(
        self,
        sources: Sequence[Mapping[str, Any]],
        load: Callable[[str], dict[str, bytes]],
        run_id: str | None = None,
        updates: tuple[str, int] | None = None,
        at_exit: bool = False,
    ) -> None:
        self.run_id = run_id
        self.updates = updates  # for an update of a thread's state, without a run: thread id and steady time
        self._at_exit = at_exit  # durability "exit": checkpoints are made when the graph ends
        self.floor = str(checkpoint_ids.uuid6())  # checkpoints of this run have greater ids
        self.failed: Exception | None = None  # why a checkpoint could not be stored
        self.broken: Exception | None = None  # the same of a checkpoint that is no subgraph's: none may follow it
        self.latest: tuple[str, Any] | None = None  # the newest checkpoint that is no subgraph's, with its thread's id
        self._sources = sources
        self._load = load
        self._loaded: dict[str, dict[str, bytes]] = {}
        self._views: dict[tuple[str, tuple[str, ...]], SharedValue] = {}
        self._attempts: dict[tuple[str, ...], int] = {}
        self.supersteps: list[_Superstep] = []
        self._stored = {""}  # namespaces of graphs that store checkpoints
        self._lock = threading.RLock()  # subgraphs may run in worker threads

    def preload(self, keys: Iterable[tuple[str, str]]) -> None:
        """Read the items of these (scope, state key) pairs at once, unless they were."""
        for scope, key in keys:
            with contextlib.suppress(*[MissingScope] * bool(self.updates)):  # an update may be of other keys
                if (prefix := shared_prefix(self._sources, scope, key)) not in self._loaded:
                    self._loaded[prefix] = self._load(prefix)

    def join(self, channel: SharedValue) -> None:
        """Fill the channel of a graph that starts with the items that this graph is to see. Raises MissingScope."""
        channel.run, channel.path = self, _task_path()
        try:
            channel.prefix = shared_prefix(self._sources, channel.scope, channel.key)
        except MissingScope:
            if not self.updates:
                raise
            return
        prefix, path = channel.prefix, channel.path
        with self._lock:
            self._forget_failed_attempts(path)
            above = [at for name, at in self._views if name == prefix and _within(path, at)]
            top = max(above, key=len, default=None)
            if top is None:
                if prefix not in self._loaded:
                    self._loaded[prefix] = self._load(prefix)
                channel.items = dict(self._loaded[prefix])
            else:
                channel.items = dict(self._views[prefix, top].items)
            for step in self._supersteps_of(prefix):
                if top is None or (top != path and _within(step.holder.path, path)):
                    _apply_puts(channel.items, step.puts)
            self._views[prefix, path] = channel

    def _supersteps_of(self, prefix: str) -> list[_Superstep]:
        return [step for step in self.supersteps if step.holder.prefix == prefix]

    def _forget_failed_attempts(self, path: tuple[str, ...]) -> None:
        """Drop what a node's failed attempts wrote and did not store: the next one sees what the first one saw."""
        attempt = 1
        with contextlib.suppress(RuntimeError, KeyError, AttributeError):  # not in a node
            attempt = cast(Any, langgraph_runtime.get_runtime()).execution_info.node_attempt
        if self._attempts.setdefault(path, attempt) < attempt:
            self._attempts[path] = attempt
            self.supersteps = [s for s in self.supersteps if s.keeper is not None or not _within(s.holder.path, path)]
            self._views = {view: c for view, c in self._views.items() if not _within(view[1], path)}

    def record(self, channel: SharedValue, values: Sequence[Any]) -> bool:
        """End a superstep: apply the writes of its subgraphs to the channel, then its own. Return whether any of them
        are not stored yet. Raises InvalidUpdateError or MissingScope."""
        puts = channel.puts(values)
        if puts and not channel.prefix:
            shared_prefix(self._sources, channel.scope, channel.key)  # raises MissingScope
        with self._lock:
            below = [s for s in self._supersteps_of(channel.prefix) if self._is_below(s.holder.path, channel)]
            for step in below:
                _apply_puts(channel.items, step.puts)
                step.holder, step.settled = channel, False
            self._views = {
                (prefix, path): view
                for (prefix, path), view in self._views.items()
                if prefix != channel.prefix or not self._is_below(path, channel)
            }
            if not channel.path:
                self.supersteps = [s for s in self.supersteps if s.keeper is None or s.holder is not channel]
            if puts:
                _apply_puts(channel.items, puts)
                self.supersteps.append(_Superstep(puts, channel.path, channel))
        return bool(puts) or any(step.keeper is None for step in below)

    @staticmethod
    def _is_below(path: tuple[str, ...], channel: SharedValue) -> bool:
        return len(path) > len(channel.path) and _within(path, channel.path)

    def differing(self, path: tuple[str, ...], state: Mapping[str, Any]) -> JsonObject:
        """Return a state whose shared keys hold only the items that the graph at this path does not see already."""
        with self._lock:
            views = {view.key: view for (_, at), view in self._views.items() if at == path}
        return {
            key: views[key].differing(value) if key in views and isinstance(value, Mapping) else value
            for key, value in state.items()
        }

    def settle(self, path: tuple[str, ...]) -> None:
        """Note that a superstep of the graph at this path is done: none of its writes was refused."""
        with self._lock:
            for step in self.supersteps:
                step.settled = step.settled or step.holder.path == path

    def peek(self, channel: SharedValue) -> dict[str, bytes]:
        """Return the items that a conditional edge sees: its graph's, with the writes of its node's subgraphs."""
        task, items = _task_path(), dict(channel.items)
        with self._lock:
            for step in self._supersteps_of(channel.prefix):
                if step.holder is not channel and _within(step.holder.path, task):
                    _apply_puts(items, step.puts)
        return items

    def take(self, channel: SharedValue) -> Any:
        """Return the writes to store with a checkpoint of the channel's graph, or MISSING."""
        puts: dict[str, bytes | None] = {}
        with self._lock:
            for step in self.supersteps:
                # At exit, a superstep that is not settled is the one that failed.
                if step.holder is channel and step.keeper is None and (step.settled or not self._at_exit):
                    step.keeper = channel.path
                    puts |= step.puts
        return SharedPuts(channel.prefix, puts) if puts else MISSING

    def of_task(self, task_id: str) -> list[tuple[str, JsonObject]]:
        """Return the writes of a finished task's subgraphs that these did not store, as (state key, update). They are
        stored as the task's own, in case the run is interrupted before the superstep ends."""
        with self._lock:
            return [
                (step.holder.key, {key: text and orjson.loads(text) for key, text in step.puts.items()})
                for step in self.supersteps
                if (_has_task(step.origin, task_id) or _has_task(step.holder.path, task_id))
                and (step.keeper is None or not _has_task(step.keeper, task_id))
                and any(name == step.holder.prefix and not _has_task(at, task_id) for name, at in self._views)
            ]

    @staticmethod
    def is_at_exit(configurable: Mapping[str, Any]) -> bool:
        return configurable.get("__pregel_durability") == "exit"

    def checkpoints_above(self, configurable: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return (namespace, id) of this run's checkpoints above a subgraph's. If the server dies before those are
        stored, the subgraph starts anew, so its own checkpoint must not be stored before them."""
        if self.is_at_exit(configurable) or configurable["thread_id"] != self._sources[0].get("thread_id"):
            return []
        own = configurable["checkpoint_ns"]
        above = configurable.get("checkpoint_map", {}).items()
        with self._lock:
            self._stored.add(own)
            stored = self._stored - {own}  # not graphs compiled with `checkpointer=False`: `above` names them, too
        return [(namespace, at) for namespace, at in above if namespace in stored and at > self.floor]

    def loose_puts(self) -> list[SharedPuts]:
        """Return the writes that no checkpoint stored: of subgraphs without checkpointer, not known when loading."""
        with self._lock:
            loose = [step for step in self.supersteps if step.keeper is None and step.holder.path]
            return [SharedPuts(step.holder.prefix, step.puts) for step in loose]


class _NoScope(SharedScope):
    """Keeps shared values out of a thread's state, even those that the thread's pending writes update."""

    def join(self, channel: SharedValue) -> None:
        channel.run = self

    def record(self, channel: SharedValue, values: Sequence[Any]) -> bool:
        return False


NO_SCOPE = _NoScope((), lambda prefix: {})


@contextlib.contextmanager
def without_shared_values() -> Iterator[None]:
    """Leave shared values out while a thread's state is read. Raises BadRequest for a subgraph that is gone."""
    token = RUN_SCOPE.set(NO_SCOPE)
    try:
        yield
    except ValueError as error:
        if re.fullmatch(r"Subgraph .* not found", str(error)):  # so does an old langgraph report it
            raise BadRequest(str(error)) from None
        raise
    finally:
        RUN_SCOPE.reset(token)


class SharedInput(EphemeralValue[Any]):
    """The input channel of a graph with shared keys: of these it keeps only items that differ from those the graph
    sees. A subgraph often gets its parent's whole state; after a crash its stored input is applied again, when other
    runs may have changed the other items."""

    __slots__ = ()

    def update(self, values: Sequence[Any]) -> bool:
        config = var_child_runnable_config.get() or {}
        run, path = RUN_SCOPE.get() or config.get("configurable", {}).get(SHARED_SCOPE), _task_path()
        if run and path:
            values = [run.differing(path, fields) if (fields := _fields(value)) else value for value in values]
        return super().update(values)


def _fields(state: Any) -> JsonObject | None:
    """Return a state as a dict: of a model or a dataclass, the fields that were set. None for anything else."""
    if isinstance(state, Mapping):
        return dict(state)
    unset: set[str] = set()
    if isinstance(state, BaseModel):
        unset = {name for name, each in type(state).model_fields.items() if each.default is None}
        unset -= state.model_fields_set
    names = [name for base in reversed(type(state).__mro__) for name in inspect.get_annotations(base)]
    found = {name: value for name in names if (value := getattr(state, name, MISSING)) is not MISSING}
    return {name: value for name, value in found.items() if value is not None or name not in unset} or None


class SuperstepEnd(EphemeralValue[Any]):
    """The last of a graph's channels: LangGraph updates it once no write of a superstep was refused."""

    __slots__ = ("path", "run")
    NAME: ClassVar[str] = "__superstep_end__"

    def __init__(self, typ: Any = Any, guard: bool = True) -> None:
        super().__init__(typ, guard)
        self.run: SharedScope | None = None
        self.path: tuple[str, ...] = ()

    def from_checkpoint(self, checkpoint: Any) -> Self:
        channel = self.__class__()
        channel.run, channel.path = RUN_SCOPE.get() or self.run, _task_path()
        return channel

    def is_available(self) -> bool:
        return True

    def update(self, values: Sequence[Any]) -> bool:
        if self.run:
            self.run.settle(self.path)
        return False


class MissingScope(Invalid):
    """The run's config has no value for the scope of a shared key."""


RUN_SCOPE: contextvars.ContextVar[SharedScope | None] = contextvars.ContextVar("run_scope", default=None)


def _task_path() -> tuple[str, ...]:
    """Return the tasks that the graph now starting is nested in, outermost first; () for a run's own graph."""
    config = var_child_runnable_config.get() or {}
    namespace = config.get("configurable", {}).get("checkpoint_ns") or ""
    return tuple(namespace.split("|")) if namespace else ()


########################################################################################################
# 4  Database
########################################################################################################

# Append only: a script per version of the schema. A new column also needs a field in its row's dataclass (Tables). The
# checkpointer's and the store's libraries make their own tables: AsyncSqliteSaver and AsyncSqliteStore open the file.
MIGRATIONS = [
    """
    CREATE TABLE assistants (
        assistant_id TEXT PRIMARY KEY, graph_id TEXT NOT NULL, name TEXT NOT NULL, description TEXT,
        config TEXT NOT NULL, context TEXT NOT NULL, metadata TEXT NOT NULL, version INTEGER NOT NULL,
        created_at TEXT NOT NULL, updated_at TEXT NOT NULL
    );
    CREATE INDEX assistants_created ON assistants (created_at);
    CREATE TABLE assistant_versions (
        assistant_id TEXT NOT NULL, version INTEGER NOT NULL, graph_id TEXT NOT NULL, name TEXT NOT NULL,
        description TEXT, config TEXT NOT NULL, context TEXT NOT NULL, metadata TEXT NOT NULL,
        created_at TEXT NOT NULL, PRIMARY KEY (assistant_id, version)
    );
    -- `rest` is the status while no run is pending or running; while one is, the thread is busy. `unshown`: an
    -- update has changed the checkpoints, and `state` does not show it yet. `last_seq` is the number of the last
    -- event that the thread's runs have sent by the event streaming protocol.
    CREATE TABLE threads (
        thread_id TEXT PRIMARY KEY, created_at TEXT NOT NULL, updated_at TEXT NOT NULL,
        state_updated_at TEXT NOT NULL, metadata TEXT NOT NULL, config TEXT NOT NULL,
        rest TEXT NOT NULL, state TEXT, interrupts TEXT, error TEXT, ttl TEXT, unshown INTEGER NOT NULL DEFAULT 0,
        last_seq INTEGER NOT NULL DEFAULT 0,
        -- The `updated_at` of when the thread's ttl last had its history pruned.
        pruned_at TEXT,
        expires_at REAL AS (
            CASE WHEN ttl IS NOT NULL AND pruned_at IS NOT updated_at
            THEN julianday(updated_at) + json_extract(ttl, '$.ttl') / 1440.0 END
        )
    );
    CREATE INDEX threads_expiring ON threads (expires_at) WHERE expires_at IS NOT NULL;
    CREATE INDEX threads_unshown ON threads (thread_id) WHERE unshown;
    CREATE INDEX threads_created ON threads (created_at);
    CREATE INDEX threads_updated ON threads (updated_at);
    CREATE INDEX threads_state_updated ON threads (state_updated_at);
    CREATE INDEX threads_rest ON threads (rest, updated_at);
    -- `cancel` (an action) and `reason` are set when a live run is to stop; `attempt` counts its starts; `task_id`
    -- names the A2A task that the run belongs to: the id of the task's first run.
    CREATE TABLE runs (
        run_id TEXT PRIMARY KEY, thread_id TEXT NOT NULL, assistant_id TEXT NOT NULL,
        created_at TEXT NOT NULL, updated_at TEXT NOT NULL, started_at TEXT, status TEXT NOT NULL,
        metadata TEXT NOT NULL, kwargs TEXT NOT NULL, multitask_strategy TEXT NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0, cancel TEXT, reason TEXT, task_id TEXT
    );
    CREATE INDEX runs_thread ON runs (thread_id, created_at);
    CREATE INDEX runs_task ON runs (task_id) WHERE task_id IS NOT NULL;
    CREATE INDEX runs_live ON runs (thread_id, created_at) WHERE status IN ('pending', 'running');
    -- A run's writes to checkpoints of other runs, so that a rollback can take them back.
    CREATE TABLE run_writes (
        run_id TEXT NOT NULL, thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL,
        checkpoint_id TEXT NOT NULL, task_id TEXT NOT NULL, idx INTEGER NOT NULL
    );
    CREATE INDEX run_writes_run ON run_writes (run_id);
    CREATE INDEX run_writes_thread ON run_writes (thread_id);
    -- The events of resumable runs, in the order they were sent; an id is `ms-n`.
    CREATE TABLE events (
        number INTEGER PRIMARY KEY, thread_id TEXT NOT NULL, run_id TEXT NOT NULL,
        ms INTEGER NOT NULL, n INTEGER NOT NULL, event TEXT NOT NULL, data BLOB NOT NULL, seq INTEGER NOT NULL
    );
    CREATE INDEX events_run ON events (run_id, ms, n);
    CREATE INDEX events_thread ON events (thread_id, ms, n);
    -- `access`: the user of a cron's runs, and the filters of what they may use; null without authentication.
    CREATE TABLE crons (
        cron_id TEXT PRIMARY KEY, assistant_id TEXT NOT NULL, thread_id TEXT, end_time TEXT,
        schedule TEXT NOT NULL, timezone TEXT, payload TEXT NOT NULL, next_run_date TEXT NOT NULL,
        metadata TEXT NOT NULL, on_run_completed TEXT, enabled INTEGER NOT NULL,
        created_at TEXT NOT NULL, updated_at TEXT NOT NULL, access TEXT
    );
    CREATE INDEX crons_due ON crons (next_run_date) WHERE enabled;
    CREATE INDEX crons_created ON crons (created_at);
    CREATE INDEX crons_thread ON crons (thread_id);
    -- Webhooks not delivered yet.
    CREATE TABLE webhooks (number INTEGER PRIMARY KEY, url TEXT NOT NULL, payload BLOB NOT NULL);
    """,
    """
    -- The state keys in a run's result; null for all.
    ALTER TABLE threads ADD output_keys TEXT;
    """,
    """
    -- Order and times to live use the clock's steady time: `changed` beside `updated_at`, `due` beside `created_at`.
    ALTER TABLE assistants ADD changed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE crons ADD changed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE runs ADD changed INTEGER NOT NULL DEFAULT 0; ALTER TABLE runs ADD due INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE threads ADD changed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE threads ADD state_changed INTEGER NOT NULL DEFAULT 0;
    UPDATE assistants SET changed = strftime('%s', updated_at) * 1000000 + substr(updated_at, 21, 6);
    UPDATE crons SET changed = strftime('%s', updated_at) * 1000000 + substr(updated_at, 21, 6);
    UPDATE runs SET changed = strftime('%s', updated_at) * 1000000 + substr(updated_at, 21, 6),
        due = strftime('%s', created_at) * 1000000 + substr(created_at, 21, 6);
    UPDATE threads SET changed = strftime('%s', updated_at) * 1000000 + substr(updated_at, 21, 6),
        state_changed = strftime('%s', state_updated_at) * 1000000 + substr(state_updated_at, 21, 6);
    DROP INDEX assistants_created; DROP INDEX crons_created; DROP INDEX runs_thread; DROP INDEX runs_live;
    DROP INDEX threads_created; DROP INDEX threads_updated; DROP INDEX threads_state_updated; DROP INDEX threads_rest;
    DROP INDEX threads_expiring; ALTER TABLE threads DROP COLUMN expires_at;
    ALTER TABLE threads ADD expires_at INTEGER AS (CASE WHEN ttl IS NOT NULL AND pruned_at IS NOT updated_at
        THEN changed + CAST(json_extract(ttl, '$.ttl') * 60000000 AS INTEGER) END);
    CREATE INDEX assistants_changed ON assistants (changed); CREATE INDEX crons_changed ON crons (changed);
    CREATE INDEX threads_changed ON threads (changed); CREATE INDEX threads_state_changed ON threads (state_changed);
    CREATE INDEX threads_rest ON threads (rest, changed); CREATE INDEX runs_thread ON runs (thread_id, due);
    CREATE INDEX threads_expiring ON threads (expires_at) WHERE expires_at IS NOT NULL;
    CREATE INDEX runs_live ON runs (thread_id, due) WHERE status IN ('pending', 'running');
    -- The last event of each run is `run_done`, for the followers of its thread.
    INSERT INTO events (thread_id, run_id, ms, n, event, data, seq)
        SELECT thread_id, run_id, ms, n + 1, 'run_done',
            CAST(json_object('status', 'run_done', 'run_id', run_id) AS BLOB), 0
        FROM (SELECT *, row_number() OVER (PARTITION BY run_id ORDER BY ms DESC, n DESC) AS place FROM events)
        WHERE place = 1 AND run_id IN (SELECT run_id FROM runs WHERE status NOT IN ('pending', 'running'));
    """,
    """
    -- The short texts in the metadata of threads, for searches; without those that runs set, which many threads have in
    -- common.
    CREATE TABLE thread_texts (
        key TEXT CHECK (key NOT IN ('graph_id', 'assistant_id')), value TEXT CHECK (length(value) <= 100),
        thread_id TEXT, PRIMARY KEY (key, value, thread_id)
    ) WITHOUT ROWID;
    INSERT OR IGNORE INTO thread_texts (key, value, thread_id)
        SELECT key, value, thread_id FROM threads, json_each(metadata)
        WHERE json_valid(metadata) AND type = 'text' ORDER BY key, value, thread_id;
    CREATE TRIGGER thread_inserted AFTER INSERT ON threads WHEN json_valid(new.metadata) BEGIN
        INSERT OR IGNORE INTO thread_texts (key, value, thread_id)
            SELECT key, value, new.thread_id FROM json_each(new.metadata) WHERE type = 'text';
    END;
    CREATE TRIGGER thread_changed AFTER UPDATE OF metadata ON threads
        WHEN new.metadata != old.metadata AND json_valid(new.metadata) BEGIN
        DELETE FROM thread_texts WHERE thread_id = old.thread_id AND (key, value) IN
            (SELECT key, value FROM json_each(iif(json_valid(old.metadata), old.metadata, '{}')));
        INSERT OR IGNORE INTO thread_texts (key, value, thread_id)
            SELECT key, value, new.thread_id FROM json_each(new.metadata) WHERE type = 'text';
    END;
    CREATE TRIGGER thread_deleted AFTER DELETE ON threads WHEN json_valid(old.metadata) BEGIN
        DELETE FROM thread_texts WHERE thread_id = old.thread_id
            AND (key, value) IN (SELECT key, value FROM json_each(old.metadata));
    END;
    """,
]


RETRY_SECONDS = 1.0  # between attempts at a write that the database refuses for now


class _Job(NamedTuple):
    """A function that waits for its transaction, and the future of its result: a thread's, or one of `loop`."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    future: concurrent.futures.Future[Any] | asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop | None
    then: Callable[[Any], Any] | None = None  # is called with the result, even if the future was cancelled


class _Writer(aiosqlite.Connection):
    """An aiosqlite connection that takes whole functions: one function is one transaction.

    Functions that wait at the same time share a transaction, each in a savepoint of its own, so that concurrent runs
    share a commit; the error of one leaves the others' work alone.
    """

    def __init__(self, conn: sqlite3.Connection, db: Db) -> None:
        super().__init__(lambda: conn, iter_chunk_size=64)
        self._db, self._sqlite = db, conn
        self._waiting: deque[_Job] = deque()

    def submit(self, job: _Job) -> None:
        """Queue a job for the connection's thread: aiosqlite has no public way to do so. Raises Unavailable."""
        if not self._running:
            raise Unavailable("the database is closed: the server stops")
        self._waiting.append(job)
        self._tx.put_nowait((None, self._run_waiting))

    def _run_waiting(self) -> None:
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        jobs = [job for job in waiting if not job.future.cancelled()]
        if not jobs:
            return
        try:
            results = self._transaction(jobs)
        except BaseException as error:  # the transaction as a whole failed: disk full, file locked
            results = [error] * len(jobs)
        results = [self._db.named(each) if isinstance(each, sqlite3.Error) else each for each in results]
        for loop in {job.loop for job in jobs}:
            settled = [(job, result) for job, result in zip(jobs, results, strict=True) if job.loop is loop]
            if loop is None:
                self._settle(settled)
            else:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits any more
                    loop.call_soon_threadsafe(self._settle, settled)

    @staticmethod
    def _settle(results: list[tuple[_Job, Any]]) -> None:
        for job, result in results:
            if job.then and not isinstance(result, BaseException):
                job.then(result)
            if job.future.done():  # it was cancelled
                continue
            if isinstance(result, StopIteration):  # futures refuse one
                result = RuntimeError(repr(result))
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    def _transaction(self, jobs: list[_Job]) -> list[Any]:
        conn = self._sqlite
        if self._db.log_lost:
            self._db.keep_log(conn)
        conn.execute("BEGIN IMMEDIATE")
        try:
            if len(jobs) == 1:
                results = [jobs[0].function(conn, *jobs[0].args)]
            else:
                results = [self._in_savepoint(conn, job) for job in jobs]
            if not conn.in_transaction:
                raise sqlite3.OperationalError("the transaction was rolled back, and its function ignored that")
            if not (is_whole := self._db.is_whole()):
                self._db.check_present()
            conn.execute("COMMIT")
            self._db.quiet_seconds = 0
            if not is_whole:
                self._db.keep_log(conn)
        except BaseException:
            if conn.in_transaction:
                conn.execute("ROLLBACK")
            raise
        return results

    @staticmethod
    def _in_savepoint(conn: sqlite3.Connection, job: _Job) -> Any:
        conn.execute("SAVEPOINT one")
        try:
            result = job.function(conn, *job.args)
        except BaseException as error:  # also a SystemExit of user code, a panic of a library in Rust
            if not conn.in_transaction:  # SQLite gave up the whole transaction
                raise
            conn.execute("ROLLBACK TO one")
            result = error
        conn.execute("RELEASE one")
        return result


_FAULTS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another program has locked it",
    sqlite3.SQLITE_READONLY: "it may only be read",
    sqlite3.SQLITE_IOERR: "the disk fails, or takes no more",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database",
}


def _fault(error: sqlite3.Error) -> str | None:
    """Return the fault of the file or its disk that an error reports, None if the statement is at fault."""
    fault = _FAULTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)  # without the extended code
    return fault and f"{fault} ({error})"


def impatient(error: Unavailable) -> bool:
    """Return False: do not try again (the default of Db.write)."""
    return False


class Db:
    """The SQLite file: a writer, readers, and the lock that keeps other servers out.

    `write` and `read` run one plain function of a connection as one transaction on another thread, and work from
    any event loop; `write_now` blocks, for worker threads. `look` reads on the caller's thread: for a few rows that
    costs less than changing threads. All raise Unavailable if the file or its disk can't be used; then it is not
    certain that a write lasts.
    """

    READERS = 2
    PATIENCE_SECONDS = 10.0  # how long to wait for programs that lock the file
    QUIET_SECONDS = 60  # without a commit, before the write-ahead log is truncated

    def __init__(self, path: str, full_sync: bool = False, vectors: bool = False) -> None:
        self.path = path
        self.vectors = vectors  # for queries that compare vectors
        self.persistent = path != ":memory:"
        self._temporary = None if self.persistent else tempfile.TemporaryDirectory(None, "devserver-", None, True)
        # absolute: nodes may change the current folder
        self._file = absolute(os.path.join(self._temporary.name, "devserver.db") if self._temporary else path)
        self._full_sync = full_sync
        self._lock: io.FileIO
        self._writer: _Writer
        self._readers = concurrent.futures.ThreadPoolExecutor(self.READERS, "devserver-read")
        self._idle: deque[sqlite3.Connection] = deque()
        self._owned: list[sqlite3.Connection] = []
        self._identity: tuple[int, int] | None = None
        self._log_identity: tuple[int, int] | None = None  # of the write-ahead log
        self.log_lost = False  # the write-ahead log was deleted or replaced: the next start would not find its commits
        self._logged: set[str] = set()
        self.quiet_seconds = 0  # since the last commit
        self._tending: asyncio.Task[None]
        self._opened: contextlib.AsyncExitStack

    async def open(self) -> None:
        """Open the file, and bring it to the present schema. Raises StartError if it can't be used."""
        async with contextlib.AsyncExitStack() as stack:
            if self._temporary:
                stack.callback(self._temporary.cleanup)
            self._lock = _lock_file(self._file)
            stack.callback(_unlock_file, self._lock)
            try:
                self._writer = _Writer(self._connect(True), self)
                await self._writer
                stack.push_async_callback(self._writer.close)
                self._identity, self._log_identity = self._identify(), self._identify("-wal")
                _share_file(self._file, stack)
            except sqlite3.Error as error:
                raise StartError(
                    f"{self.path}: {_fault(error) or error}. Is it a devserver database, and can it be written?"
                ) from None
            self._tending = asyncio.ensure_future(self._tend_log())
            self._opened = stack.pop_all()

    def announce(self, address: str) -> None:
        """Write the server's address beside its pid into the lock file, for commands that look for the server."""
        self._lock.write(f"\n{address}".encode())

    async def close(self) -> None:
        self._tending.cancel()
        self._readers.shutdown()
        for conn in self._owned:
            conn.close()
        await self._opened.aclose()

    async def write(
        self,
        function: Callable[..., T],
        *args: Any,
        patient: Callable[[Unavailable], bool] = impatient,
        then: Callable[[T], Any] | None = None,
    ) -> T:
        """Run a function as one transaction. While the file can't be used and `patient` returns True, try again. `then`
        gets the result first, even if the caller was cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        while True:
            future: asyncio.Future[T] = loop.create_future()
            self._writer.submit(_Job(function, args, future, loop, then))
            try:
                return await future
            except Unavailable as error:
                if not patient(error):
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    def write_now(self, function: Callable[..., T], *args: Any) -> T:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._writer.submit(_Job(function, args, future, None))
        return future.result()

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.look, function, *args)

    def look(self, function: Callable[..., T], *args: Any) -> T:
        conn = None
        try:
            with contextlib.suppress(IndexError):
                conn = self._idle.pop()
            conn = conn or self._new_reader()
            if conn is None:
                return self.write_now(function, *args)
            conn.execute("BEGIN")
            return function(conn, *args)
        except sqlite3.Error as error:
            raise self.named(error) from None
        except StopIteration as error:  # futures refuse one
            raise RuntimeError(repr(error)) from None
        finally:
            if conn:
                conn.rollback()
                self._idle.append(conn)

    def _new_reader(self) -> sqlite3.Connection | None:
        """Open a reader. Return None if it would read another write-ahead log than the writer's. Raises Unavailable."""
        if not self.is_whole():
            self.check_present()
            return None
        conn = self._connect(False)
        if self._identify("-wal") != self._log_identity:
            conn.close()
            return None
        self._owned.append(conn)
        return conn

    def named(self, error: sqlite3.Error) -> Exception:
        """Return Unavailable for a fault of the file or its disk, otherwise the error itself."""
        fault = _fault(error)
        return Unavailable(f"{self.path}: {fault}") if fault else error

    def _identify(self, suffix: str = "") -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            found = os.stat(self._file + suffix)
            return found.st_dev, found.st_ino
        return None

    def is_whole(self) -> bool:
        """Return whether the file and its write-ahead log are those that were opened."""
        try:
            file, wal = os.stat(self._file), os.stat(f"{self._file}-wal")
        except OSError:
            return False
        return ((file.st_dev, file.st_ino), (wal.st_dev, wal.st_ino)) == (self._identity, self._log_identity)

    def check_present(self) -> None:
        """Raise Unavailable if the file was deleted or replaced: SQLite would go on with the old one."""
        if self._identify() != self._identity:
            raise Unavailable(f"{self.path} was deleted or replaced. Put it back, or start the server again.")

    def keep_log(self, conn: sqlite3.Connection) -> None:
        """Write commits to the database itself before they are acknowledged, if their write-ahead log was deleted or
        replaced: the next start would not find them. Raises Unavailable if that fails."""
        self.log_lost = self._identify("-wal") != self._log_identity
        if not self.log_lost:
            return
        failed = True
        with contextlib.suppress(sqlite3.Error):
            failed = bool(conn.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0]) or bool(self._log_size())
        problem = f"{self.path}-wal was deleted or replaced while the server runs, so "
        problem += "nothing is kept" if failed else "commits are kept without it, which is slower"
        if problem not in self._logged:
            self._logged.add(problem)
            log.error("%s. Start the server again.", problem)
        if failed:
            raise Unavailable(f"{problem}. Start the server again.")

    def _log_size(self) -> int:
        return os.path.getsize(f"{self._file}-wal") if self._identify("-wal") else 0

    async def _tend_log(self) -> None:
        """Check the write-ahead log each second; truncate it after QUIET_SECONDS without a commit."""
        while True:
            await asyncio.sleep(1)
            self.quiet_seconds += 1
            with contextlib.suppress(Unavailable, sqlite3.Error):  # the next commit reports it
                if self._identify("-wal") != self._log_identity:
                    await self.write(lambda conn: None)
                elif self.quiet_seconds >= self.QUIET_SECONDS and self._log_size():
                    patience = f"PRAGMA busy_timeout = {int(self.PATIENCE_SECONDS * 1000)}"
                    cut = f"PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE); {patience}"
                    try:
                        await self._writer.executescript(cut)  # without patience: writes should not wait for a reader
                    except sqlite3.Error:  # such as a full disk; the rest of the script was not run
                        await self._writer.executescript(patience)

    async def compact(self) -> None:
        """Return the disk space of deleted rows. Raises Unavailable."""
        try:
            await self._writer.execute("VACUUM")
            await self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self.named(error) from None

    def _connect(self, writer: bool) -> sqlite3.Connection:
        conn = sqlite3.connect(
            self._file,
            timeout=self.PATIENCE_SECONDS,
            isolation_level=None,
            cached_statements=512,
            check_same_thread=False,
        )
        try:
            self._set_up(conn, writer)
        except BaseException:
            conn.close()
            raise
        return conn

    def _set_up(self, conn: sqlite3.Connection, writer: bool) -> None:
        conn.row_factory = sqlite3.Row
        conn.create_function("steady", 0, CLOCK.steady)
        functions: dict[str, Callable[[Any, Any], Any]] = {
            "contains": lambda whole, part: contains(orjson.loads(whole) if whole else None, _condition(part)),
            "passes": lambda metadata, limits: passes(orjson.loads(metadata), _condition(limits)),
            "tool_name": tool_name,
            "matches_filter": lambda value, condition: matches_filter(orjson.loads(value), _condition(condition)),
        }
        for name, function in functions.items():
            conn.create_function(name, 2, function, deterministic=True)
        conn.create_function("casefold", 1, lambda text: text and text.casefold(), deterministic=True)
        if self.vectors:
            _add_vectors(conn)
        conn.execute("PRAGMA cache_size = -8000")
        if writer:
            self._prepare(conn)
        else:
            conn.execute("PRAGMA query_only = ON")
            conn.execute("PRAGMA schema_version")  # opens the write-ahead log

    def _prepare(self, conn: sqlite3.Connection) -> None:
        """Bring the file to the present schema. Raises StartError, with the file as it was, if this devserver is too
        old for it."""
        version = conn.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StartError(
                f"{self.path} was written by a newer devserver (schema {version}, this one knows {len(MIGRATIONS)}). "
                "Upgrade devserver, or name another file with --db."
            )
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute(f"PRAGMA synchronous = {'FULL' if self._full_sync else 'NORMAL'}")
        for pragma in ("fullfsync", "checkpoint_fullfsync"):  # else macOS leaves it in the disk's own cache
            conn.execute(f"PRAGMA {pragma} = {self._full_sync}")
        SqliteSaver(conn).setup()
        SqliteStore(conn).setup()  # without its tables for vectors: it makes them only where SQLite takes extensions
        conn.execute("CREATE TABLE IF NOT EXISTS vector_migrations (v INTEGER PRIMARY KEY)")
        done = conn.execute("SELECT count(*) FROM vector_migrations").fetchone()[0]
        for number, script in enumerate(SqliteStore.VECTOR_MIGRATIONS[done:], start=done):
            conn.executescript(f"BEGIN; {script} INSERT INTO vector_migrations (v) VALUES ({number}); COMMIT;")
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            conn.executescript(f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;")


class ScratchDb(Db):
    """A database whose changes stay in the write-ahead log: without it, the file is as it was."""

    QUIET_SECONDS = sys.maxsize

    def _set_up(self, conn: sqlite3.Connection, writer: bool) -> None:
        super()._set_up(conn, writer)
        conn.execute("PRAGMA wal_autocheckpoint = 0")

    async def close(self) -> None:
        uri = f"{Path(self._file).as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as last:  # closed last, and moves no log into the file
            last.execute("PRAGMA schema_version")
            await super().close()

    def cut(self) -> None:
        """Refuse further commits, as after a crash."""
        self._identity = None


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as of one moment to a new file, even while a server uses it. Raises StartError."""
    if target.exists():
        raise StartError(f"{target} is there already. Delete it, or name another file.")
    if not source.is_file():
        raise StartError(f"there is no database {source}")
    uri = f"{source.resolve().as_uri()}?mode=ro"
    if not os.path.exists(f"{source}-wal"):
        uri += "&immutable=1"  # else reading would make files beside it
    part = target.with_name(f"{target.name}.part")
    try:
        with (
            contextlib.closing(sqlite3.connect(uri, uri=True)) as reader,
            contextlib.closing(sqlite3.connect(part)) as writer,
        ):
            version = reader.execute("PRAGMA user_version").fetchone()[0]
            if not 0 < version <= len(MIGRATIONS):
                problem = "is of a newer devserver: upgrade this one" if version else "is no database of devserver's"
                raise StartError(f"{source} {problem}")
            reader.backup(writer)
            writer.execute("PRAGMA journal_mode = DELETE")  # one file, which reading does not change
        part.replace(target)
    except (sqlite3.Error, OSError) as error:
        raise StartError(f"{source} cannot be copied to {target}: {error}") from None
    finally:
        part.unlink(missing_ok=True)


_condition = functools.lru_cache(maxsize=4)(orjson.loads)  # a search has the same one for each row


def _add_vectors(conn: sqlite3.Connection) -> None:
    """Add sqlite-vec's `vec_distance_cosine`, or a slower one where Python's SQLite takes no extensions."""

    def distance(a: bytes, b: bytes) -> float | None:
        """Return 1 minus the cosine of the angle between two vectors; None if one has no direction."""
        x, y = array.array("f", a), array.array("f", b)
        lengths = math.hypot(*x) * math.hypot(*y)
        return 1 - sum(map(operator.mul, x, y)) / lengths if lengths else None

    if not hasattr(conn, "enable_load_extension"):
        conn.create_function("vec_distance_cosine", 2, distance, deterministic=True)
        return
    import sqlite_vec  # type: ignore[import-untyped]

    conn.enable_load_extension(True)
    sqlite_vec.load(conn)
    conn.enable_load_extension(False)


def absolute(path: str) -> str:
    """Return the absolute path of a file, on Windows in the form that may have more than 260 characters."""
    path = os.path.abspath(path)
    if sys.platform != "win32" or len(path) < 248 or path.startswith("\\\\?\\"):  # 12 are for "-wal" and the like
        return path
    return f"\\\\?\\UNC{path[1:]}" if path.startswith("\\\\") else f"\\\\?\\{path}"


def close_in_children(file: io.IOBase | socket.socket) -> None:
    """Close a file or socket in forked processes: they would keep its lock or port after this one was killed."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=file.close)


def _try_lock(file: io.FileIO, shared: bool = False) -> bool:
    """Lock an open file. Return False if another process has locked it. Raises OSError if it can't be locked."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # far beyond the end, since locked bytes can't be read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _lock_file(path: str) -> io.FileIO:
    """Keep other servers off the database. Raises StartError naming the one that has it."""
    try:
        lock = io.FileIO(f"{os.path.realpath(path)}.lock", "a+")
    except OSError as error:
        raise StartError(f"cannot write beside {path}: {error.strerror}. Name another file with --db.") from None
    problem = None
    try:
        if not _try_lock(lock):
            lock.seek(0)
            pid = (lock.read().decode().split() or ["unknown"])[0]
            problem = f"{path} is in use by another devserver (pid {pid}). Stop it, or name another file with --db."
        elif not os.path.exists(lock.name) or os.stat(lock.name).st_ino != os.fstat(lock.fileno()).st_ino:
            lock.close()  # the other server stopped and deleted the lock file meanwhile
            return _lock_file(path)
        else:
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
    except OSError as error:
        problem = f"{path}: files can't be locked there ({error.strerror}). Name one on a local disk with --db."
    if problem:
        lock.close()
        raise StartError(problem)
    close_in_children(lock)
    return lock


def _unlock_file(lock: io.FileIO) -> None:
    if sys.platform == "win32":  # an open file can't be deleted there, also not by others
        lock.close()
    with contextlib.suppress(OSError):
        os.unlink(lock.name)
    lock.close()


def _share_file(path: str, stack: contextlib.AsyncExitStack) -> None:
    """Hold SQLite's shared lock, so that no other program takes itself for the last user and deletes the log.

    SQLite's own locks are the process's, and go when a node opens and closes the file. This lock is the open file's,
    and stays. Close it when a single connection is left.
    """
    if sys.platform == "linux":  # elsewhere keep_log makes up for a deleted log after each commit
        import fcntl

        file = stack.enter_context(open(path, "rb"))  # noqa: SIM115  it stays open as long as the server runs
        close_in_children(file)
        with contextlib.suppress(OSError):
            lock = struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 0x40000002, 510, 0)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)


def server_address(path: str) -> str | None:
    """Return the address of the server that uses a database; None if there is none or its address is unknown."""
    with contextlib.suppress(OSError), io.FileIO(f"{os.path.realpath(absolute(path))}.lock") as lock:
        if not _try_lock(lock, shared=True):
            lock.seek(0)
            _, *address = lock.read().decode().split()
            return address[0] if address else None
    return None


########################################################################################################
# 5  Tables
########################################################################################################


def _json_text(value: Any) -> str:
    return to_json(value).decode()


def _columns(values: JsonObject) -> list[Any]:
    return [to_json(value).decode() if isinstance(value, dict | list) else value for value in values.values()]


# Rows are sorted by the steady time instead of the time of day, which may have been put back.
_ORDER = {"created_at": "rowid", "updated_at": "changed", "state_updated_at": "state_changed"}


class Page(NamedTuple):
    """Part of a search's results; `more` says if others follow."""

    rows: list[Any]
    more: bool


R = TypeVar("R")


@dataclass
class Table(Generic[R]):
    """A table, or several that belong together, on a connection within a transaction. Rows are converted to KIND, a
    dataclass, and their columns in JSON are parsed; without KIND they stay as they are."""

    NAME: ClassVar[str]
    SELECT: ClassVar[str]
    KEY: ClassVar[str]
    KIND: ClassVar[type[Any] | None] = None
    JSON: ClassVar[tuple[str, ...]] = ()

    conn: sqlite3.Connection

    @classmethod
    def _row(cls, row: sqlite3.Row) -> Any:
        """Convert a row to a KIND; columns without a field are ignored."""
        if cls.KIND is None:
            return row
        values = dict(zip(row.keys(), row, strict=True))
        values |= {name: orjson.loads(values[name]) for name in cls.JSON if values[name] is not None}
        return cls.KIND(**{each.name: values[each.name] for each in dataclasses.fields(cls.KIND)})

    def _get(self, key: str, *limits: JsonObject) -> R | None:
        """Return the row with a key, if there is one and it passes all of these authorization filters."""
        row = self.conn.execute(f"{self.SELECT} WHERE {self.KEY} = ?", (key,)).fetchone()
        found: R | None = within(self._row(row) if row else None, *limits)
        return found

    def _insert(self, new: R) -> None:
        names, marks = ", ".join(vars(new)), ", ".join("?" * len(vars(new)))
        query = f"INSERT INTO {self.NAME} ({names}, changed) VALUES ({marks}, steady())"
        self.conn.execute(query, _columns(vars(new)))

    def _all(self, query: str, *parameters: Any) -> list[R]:
        return [self._row(row) for row in self.conn.execute(query, parameters)]

    def _one(self, query: str, *parameters: Any) -> R | None:
        row = self.conn.execute(query, parameters).fetchone()
        return self._row(row) if row else None

    def _value(self, query: str, *parameters: Any) -> Any:
        """Return the first column of the first row, None if there is none."""
        row = self.conn.execute(query, parameters).fetchone()
        return row[0] if row else None

    def _page(self, query: str, where: Where, order: str, body: Search) -> Page:
        """Return one page. One row more than asked for is read, to tell whether others follow."""
        order = f"{_ORDER.get(order, order)} {body.sort_order}, rowid {body.sort_order}"
        page = f"{query} WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"
        rows = self._all(page, *where.parameters, body.limit + 1, body.offset)
        return Page(rows[: body.limit], len(rows) > body.limit)

    def _count(self, table: str, where: Where) -> int:
        return int(self._value(f"SELECT count(*) FROM {table} WHERE {where}", *where.parameters))


class Where:
    """The conditions of a query: SQL with its parameters, joined by AND."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.parameters: list[Any] = []

    def add(self, condition: str, *parameters: Any) -> None:
        self.conditions.append(condition)
        self.parameters.extend(parameters)

    def contains(self, column: str, part: JsonObject) -> None:
        """Require that a JSON column contains the part. Its strings are searched first: most rows need no parsing."""
        for key, value in itertools.islice(part.items(), 20):  # SQLite limits parameters
            if isinstance(value, str):
                self.add(f"instr({column}, ?)", _json_text({key: value})[1:-1])
        if part:
            self.add(f"contains({column}, ?)", _json_text(part))

    def passes(self, limits: JsonObject) -> None:
        """Require that the row's metadata pass an authorization filter."""
        if limits:
            self.add("passes(metadata, ?)", _json_text(limits))

    def __str__(self) -> str:
        return " AND ".join(self.conditions) or "TRUE"


Row = TypeVar("Row", bound="Assistant | Thread | Cron")


def within(row: Row | None, *limits: JsonObject) -> Row | None:
    """Return the row if there is one and it passes all of these authorization filters."""
    return row if row is not None and all(passes(row.metadata, each) for each in limits if each) else None


@dataclass(frozen=True)
class Assistant:
    """A graph with a configuration of its own. `version` is the current one of its versions."""

    assistant_id: str
    graph_id: str
    name: str
    description: str | None
    config: JsonObject
    context: JsonObject
    metadata: JsonObject
    version: int
    created_at: str
    updated_at: str

    def to_dict(self) -> JsonObject:
        return vars(self).copy()


class Assistants(Table[Assistant]):
    """The assistants and all their versions; a new version gets the highest number."""

    NAME, KIND, JSON = "assistants", Assistant, ("config", "context", "metadata")
    SELECT, KEY = "SELECT * FROM assistants", "assistant_id"
    get = Table._get
    _KEPT = "graph_id, name, description, config, context, metadata, version"  # of each version

    def require(self, assistant_id: str, *limits: JsonObject) -> Assistant:
        return must_find(self.get(assistant_id, *limits), f"Assistant {assistant_id} not found")

    def insert(self, new: Assistant) -> None:
        self._insert(new)
        self._keep_version(new.assistant_id)

    def update(self, assistant_id: str, changes: JsonObject, *limits: JsonObject) -> Assistant:
        """Apply `changes` (column: value) as a new version. Raises NotFound."""
        old = self.require(assistant_id, *limits)
        highest = self._value("SELECT max(version) FROM assistant_versions WHERE assistant_id = ?", assistant_id)
        self.refresh(assistant_id, {**changes, "version": (highest or old.version) + 1})
        return self.require(assistant_id)

    def set_version(self, assistant_id: str, version: int | None, *limits: JsonObject) -> Assistant:
        """Make a version the current one: all its columns are restored. Raises NotFound."""
        self.require(assistant_id, *limits)
        query = f"SELECT {self._KEPT} FROM assistant_versions WHERE assistant_id = ? AND version = ?"
        row = self.conn.execute(query, (assistant_id, version)).fetchone()
        self._set(assistant_id, dict(must_find(row, f"Version {version} not found for assistant {assistant_id}")))
        return self.require(assistant_id)

    def versions(
        self, assistant_id: str, metadata: JsonObject, limit: int, offset: int, *limits: JsonObject
    ) -> list[JsonObject]:
        if self.get(assistant_id, *limits) is None:
            return []
        where = Where()
        where.add("assistant_id = ?", assistant_id)
        where.contains("metadata", metadata)
        rows = self.conn.execute(
            f"SELECT * FROM assistant_versions WHERE {where} ORDER BY version DESC LIMIT ? OFFSET ?",
            (*where.parameters, limit, offset),
        )
        return [{**row, **{name: orjson.loads(row[name]) for name in self.JSON}} for row in rows]

    def delete(self, assistant_id: str, *limits: JsonObject) -> bool:
        """Delete an assistant with its versions and crons. Return whether it was there."""
        if self.get(assistant_id, *limits) is None:
            return False
        for table in ("crons", "assistant_versions", "assistants"):
            self.conn.execute(f"DELETE FROM {table} WHERE assistant_id = ?", (assistant_id,))
        return True

    def search(self, body: AssistantSearchRequest, limits: JsonObject) -> Page:
        by = "casefold(name)" if body.sort_by == "name" else body.sort_by
        return self._page("SELECT * FROM assistants", self._where(body, limits), by, body)

    def count(self, body: AssistantCountRequest, limits: JsonObject) -> int:
        return self._count("assistants", self._where(body, limits))

    def of_tool(self, name: str) -> list[Assistant]:
        """Return the assistants whose name as an MCP tool this is."""
        return self._all("SELECT * FROM assistants WHERE tool_name(name, assistant_id) = ?", name)

    def all_made_by_system(self) -> dict[str, Assistant]:
        assistants = self._all("SELECT * FROM assistants WHERE metadata ->> 'created_by' = 'system'")
        return {assistant.assistant_id: assistant for assistant in assistants}

    def refresh(self, assistant_id: str, changes: JsonObject) -> None:
        """Change an assistant's current version in place."""
        self._set(assistant_id, changes)
        self._keep_version(assistant_id)

    def _where(self, body: AssistantCountRequest, limits: JsonObject) -> Where:
        where = Where()
        where.passes(limits)
        where.contains("metadata", body.metadata)
        if body.graph_id:
            where.add("graph_id = ?", body.graph_id)
        if body.name:
            where.add("instr(casefold(name), casefold(?)) > 0", body.name)
        return where

    def _set(self, assistant_id: str, changes: JsonObject) -> None:
        columns = ", ".join(f"{key} = ?" for key in changes)
        self.conn.execute(
            f"UPDATE assistants SET {columns}, updated_at = ?, changed = steady() WHERE assistant_id = ?",
            (*_columns(changes), now(), assistant_id),
        )

    def _keep_version(self, assistant_id: str) -> None:
        self.conn.execute(
            f"INSERT OR REPLACE INTO assistant_versions (assistant_id, {self._KEPT}, created_at) "
            f"SELECT assistant_id, {self._KEPT}, updated_at FROM assistants WHERE assistant_id = ?",
            (assistant_id,),
        )


def output_of(values: Any, keys: Sequence[str] | None) -> Any:
    """Return the part of a graph's values that its output schema has."""
    if keys is None or not isinstance(values, dict):
        return values
    return {key: value for key, value in values.items() if key in keys}


@dataclass(frozen=True)
class Thread:
    """A conversation. `values` (`state` is their JSON), `interrupts`, `output_keys` and `error` are those after its
    latest run or update."""

    thread_id: str
    created_at: str
    updated_at: str
    state_updated_at: str
    metadata: JsonObject
    config: JsonObject
    status: str
    state: str | None
    interrupts: dict[str, list[JsonObject]] | None
    error: JsonObject | None
    output_keys: list[str] | None = None

    def to_dict(self) -> JsonObject:
        """Return the thread as clients see it: `error` and `interrupts` appear once a state was written."""
        thread = {**vars(self), "values": self.state and orjson.Fragment(self.state)}
        del thread["state"], thread["output_keys"]
        if self.interrupts is None:
            del thread["interrupts"], thread["error"]
        return thread

    @property
    def values(self) -> Any:
        return orjson.loads(self.state) if self.state else None

    @property
    def output(self) -> Any:
        """Return the values that a run's result shows."""
        return output_of(self.values, self.output_keys)


LIVE = "runs.status IN ('pending', 'running')"  # as in the partial index runs_live: else SQLite does not use it
_LIVE_RUN = f"(SELECT 1 FROM runs WHERE runs.thread_id = threads.thread_id AND {LIVE})"
# A busy thread does not expire, and a thread with an enabled cron is not deleted.
_MAY_EXPIRE = (
    f"NOT EXISTS {_LIVE_RUN} AND (json_extract(ttl, '$.strategy') = 'keep_latest' OR "
    "NOT EXISTS (SELECT 1 FROM crons WHERE crons.thread_id = threads.thread_id AND enabled))"
)
_THREAD = (
    "SELECT thread_id, created_at, updated_at, state_updated_at, metadata, config, state, interrupts, "
    f"error, output_keys, CASE WHEN EXISTS {_LIVE_RUN} THEN 'busy' ELSE rest END AS status FROM threads"
)


class Threads(Table[Thread]):
    """The threads. A thread is busy while it has a pending or running run: derived, never stored."""

    KIND, JSON = Thread, ("metadata", "config", "interrupts", "error", "output_keys")
    SELECT, KEY = _THREAD, "thread_id"
    FEW = 50  # matches of a search, at most, to read all of them; of more than that, a page is read in its order
    get = Table._get

    def require(self, thread_id: str, *limits: JsonObject) -> Thread:
        return must_find(self.get(thread_id, *limits), f"Thread with ID {thread_id} not found")

    def insert(self, thread_id: str, metadata: JsonObject, config: JsonObject, ttl: JsonObject | None) -> Thread:
        at = now()
        self.conn.execute(
            "INSERT INTO threads (thread_id, created_at, updated_at, state_updated_at, metadata, config, rest, ttl, "
            "changed, state_changed) VALUES (?, ?, ?, ?, ?, ?, 'idle', ?, steady(), steady())",
            (thread_id, at, at, at, _json_text(metadata), _json_text(config), _json_text(ttl) if ttl else None),
        )
        return Thread(thread_id, at, at, at, metadata, config, "idle", None, None, None)

    def update(self, thread_id: str, **columns: Any) -> None:
        """Set columns, and `updated_at`; with a `state`, which is JSON, also `state_updated_at`."""
        changes, steady = {**columns, "updated_at": now()}, "changed = steady()"
        if "state" in columns:
            changes["state_updated_at"], steady = changes["updated_at"], f"{steady}, state_changed = steady()"
        sets = ", ".join(f"{name} = ?" for name in changes)
        query = f"UPDATE threads SET {sets}, {steady} WHERE thread_id = ?"
        self.conn.execute(query, (*_columns(changes), thread_id))

    def set_state(
        self,
        thread_id: str,
        rest: str,
        values: Any,
        interrupts: JsonObject,
        error: Any,
        output_keys: Sequence[str] | None = None,
    ) -> bytes:
        """Store a new state; `output_keys` are the keys of its values that a run's result shows, None for all. Return
        the values as JSON."""
        state, keys = to_json(values), None if output_keys is None else list(output_keys)
        shown = {"state": state.decode(), "interrupts": interrupts, "error": error or None, "output_keys": keys}
        self.update(thread_id, rest=rest, **shown, unshown=0)
        return state

    def set_outcome(self, thread_id: str, rest: str | None, error: Any) -> None:
        """Store the error of a run that left the state as it was, and the status `rest` unless it is None."""
        self.conn.execute(
            "UPDATE threads SET rest = coalesce(?, rest), error = ?, interrupts = coalesce(interrupts, '{}'), "
            "updated_at = ?, changed = steady() WHERE thread_id = ?",
            (rest, _json_text(error) if error else None, now(), thread_id),
        )

    def set_unshown(self, thread_id: str) -> None:
        """Note that an update changes the thread's checkpoints, until `set_state` stores the new state."""
        self.conn.execute("UPDATE threads SET unshown = 1 WHERE thread_id = ?", (thread_id,))

    def is_unshown(self, thread_id: str) -> bool:
        return bool(self._value("SELECT 1 FROM threads WHERE unshown AND thread_id = ?", thread_id))

    def unshown(self) -> list[Thread]:
        """Return threads without live runs that still have the mark: the server died before `set_state`."""
        return self._all(f"{_THREAD} WHERE unshown AND NOT EXISTS {_LIVE_RUN}")

    def delete(self, thread_id: str) -> bool:
        """Delete a thread with everything that belongs to it. Return whether it was there."""
        for table in ("checkpoints", "writes", "runs", "run_writes", "events", "crons"):
            self.conn.execute(f"DELETE FROM {table} WHERE thread_id = ?", (thread_id,))
        return self.conn.execute("DELETE FROM threads WHERE thread_id = ?", (thread_id,)).rowcount > 0

    def copy(self, thread_id: str, copy_id: str) -> None:
        """Make a thread with the same metadata, state and history, under the same checkpoint ids."""
        at = now()
        self.conn.execute(
            "INSERT INTO threads (thread_id, created_at, updated_at, state_updated_at, config, metadata, rest, state, "
            "interrupts, output_keys, ttl, unshown, changed, state_changed) SELECT ?, ?, ?, ?, '{}', metadata, rest, "
            "state, interrupts, output_keys, ttl, unshown, steady(), steady() FROM threads WHERE thread_id = ?",
            (copy_id, at, at, at, thread_id),
        )
        self.conn.execute(
            "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, "
            "metadata) SELECT ?, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, "
            "CAST(json_set(CAST(metadata AS TEXT), '$.thread_id', ?) AS BLOB) FROM checkpoints WHERE thread_id = ?",
            (copy_id, copy_id, thread_id),
        )
        self.conn.execute(
            "INSERT INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, "
            "value) SELECT ?, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value FROM writes "
            "WHERE thread_id = ?",
            (copy_id, thread_id),
        )

    def ttl(self, thread_id: str) -> JsonObject | None:
        """Return a thread's time to live, and when it expires if it is not updated (None: its history was pruned)."""
        row = self.conn.execute(
            "SELECT json_extract(ttl, '$.strategy') AS strategy, json_extract(ttl, '$.ttl') AS ttl_minutes, "
            "expires_at FROM threads WHERE thread_id = ? AND ttl IS NOT NULL",
            (thread_id,),
        ).fetchone()
        if row is None or (at := row["expires_at"]) is None:
            return row and dict(row)
        return {**row, "expires_at": moment(EPOCH + datetime.timedelta(microseconds=at - CLOCK.ahead))}

    def next_expiry(self) -> float | None:
        """Return the seconds until the next thread that is not busy expires, None without one."""
        at = self._value(
            f"SELECT expires_at FROM threads WHERE expires_at IS NOT NULL AND {_MAY_EXPIRE} ORDER BY expires_at LIMIT 1"
        )
        return None if at is None else (at - CLOCK.steady()) / 1e6

    def expired(self) -> tuple[str, str, int | None] | None:
        """Return id and strategy of the first thread that has expired and is not busy."""
        row = self.conn.execute(
            "SELECT thread_id, json_extract(ttl, '$.strategy'), json_extract(ttl, '$.keep') FROM threads "
            f"WHERE expires_at <= ? AND {_MAY_EXPIRE} ORDER BY expires_at LIMIT 1",
            (CLOCK.steady(),),
        ).fetchone()
        return tuple(row) if row else None

    def set_pruned(self, thread_id: str) -> None:
        """Note that the thread's history was pruned: it does not expire again before its next update."""
        self.conn.execute("UPDATE threads SET pruned_at = updated_at WHERE thread_id = ?", (thread_id,))

    def of_assistant(self, assistant_id: str, limits: JsonObject) -> list[str]:
        where = Where()
        where.add("metadata ->> 'assistant_id' = ?", assistant_id)
        where.passes(limits)
        return [row[0] for row in self.conn.execute(f"SELECT thread_id FROM threads WHERE {where}", where.parameters)]

    def search(self, body: ThreadSearchRequest, ids: list[str] | None, limits: JsonObject) -> Page:
        if body.sort_by == "status":
            return self._search_by_status(body, ids, limits)
        return self._page(_THREAD, self._where(body, limits, ids), body.sort_by, body)

    def _search_by_status(self, body: ThreadSearchRequest, ids: list[str] | None, limits: JsonObject) -> Page:
        """Search status after status, each by its index, until the page is full. Within one, sort by last change."""
        rows: list[Thread] = []
        skip = body.offset
        statuses = [body.status] if body.status else typing.get_args(ThreadStatus)
        for status in sorted(statuses, reverse=body.sort_order == "desc"):
            of_status = {"status": status, "sort_by": "updated_at", "limit": body.limit - len(rows), "offset": skip}
            page = self.search(part := body.model_copy(update=of_status), ids, limits)
            rows += page.rows
            if page.more:
                return Page(rows, True)
            if skip:
                skip = 0 if page.rows else skip - self._count("threads", self._where(part, limits, ids))
        return Page(rows, False)

    def count(self, body: ThreadCountRequest, limits: JsonObject) -> int:
        return self._count("threads", self._where(body, limits))

    def _few(self, metadata: JsonObject) -> list[str] | None:
        """Return the ids of the threads that have one of the texts in their metadata, None if they are more than FEW or
        if the index has none of the texts."""
        query = "SELECT thread_id FROM thread_texts WHERE key = ? AND value = ? LIMIT ?"
        for key, value in itertools.islice(metadata.items(), 20):
            is_short = isinstance(value, str) and len(value) <= 100 and key not in ("graph_id", "assistant_id")
            if is_short and "\\" not in _json_text([key, value]):  # what JSON escapes, SQLite may read otherwise
                rows = self.conn.execute(query, (key, value, self.FEW + 1)).fetchall()
                if len(rows) <= self.FEW:
                    return [row[0] for row in rows]
        return None

    def _where(self, body: ThreadCountRequest, limits: JsonObject, ids: list[str] | None = None) -> Where:
        where, few = Where(), self._few(body.metadata)
        where.passes(limits)
        if ids is not None:
            where.add("thread_id IN (SELECT value FROM json_each(?))", _json_text(ids))
        if body.status == "busy":
            where.add(f"thread_id IN (SELECT DISTINCT thread_id FROM runs WHERE {LIVE})")
        elif body.status:  # `+` keeps SQLite from reading all threads of the status by their index
            where.add(f"{'' if few is None else '+'}rest = ? AND NOT EXISTS {_LIVE_RUN}", body.status)
        if few is not None:
            where.add("thread_id IN (SELECT value FROM json_each(?))", _json_text(few))
        where.contains("metadata", body.metadata)
        where.contains("state", body.values)
        return where


@dataclass(frozen=True)
class Run:
    """One execution of an assistant on a thread; `kwargs` holds its request with the server's values."""

    run_id: str
    thread_id: str
    assistant_id: str
    created_at: str
    updated_at: str
    started_at: str | None
    status: str
    metadata: JsonObject
    kwargs: JsonObject
    multitask_strategy: str
    attempt: int = 0
    cancel: str | None = None
    reason: str | None = None
    task_id: str | None = None
    due: int = 0  # steady time in microseconds: the order of a thread's runs

    @property
    def graph_id(self) -> str:
        return str(self.kwargs["config"]["configurable"]["graph_id"])

    def started(self) -> Run:
        """Return a copy whose next attempt is running."""
        at = now()
        return replace(self, status="running", attempt=self.attempt + 1, started_at=at, updated_at=at)

    def config(self) -> JsonObject:
        """Return the config as the run's graph gets it: with the run's id, and the number of the attempt."""
        config = {**self.kwargs["config"], "run_id": uuid.UUID(self.run_id)}
        return {**config, "metadata": {**config["metadata"], "run_attempt": self.attempt}} if self.attempt else config

    def to_dict(self) -> JsonObject:
        config = self.config()
        del config["run_id"]
        if (user := config["configurable"]["langgraph_auth_user"]) is not None:
            config["configurable"] = {**config["configurable"], "langgraph_auth_user": user.shown()}
        shown = {name: getattr(self, name, None) for name in typing.get_args(RunField)}
        return {**shown, "kwargs": {**self.kwargs, "config": config}}


OWN_FLAGS = ("__event_streaming_v2", "__pregel_strict_resume")  # set by the server in a run's configurable
_RUN_ID = "json_extract(CAST(metadata AS TEXT), '$.run_id')"  # of a checkpoint
ANSWERED = -100  # instead of an index in run_writes: the run's answer reached the task


class Runs(Table[Run]):
    """The runs. Live ones are pending or running; at most one per thread is running."""

    NAME, KIND, JSON = "runs", Run, ("metadata", "kwargs")
    insert = Table._insert

    def get(self, thread_id: str, run_id: str) -> Run | None:
        return self._one("SELECT * FROM runs WHERE run_id = ? AND thread_id = ?", run_id, thread_id)

    def live(self, thread_id: str) -> list[Run]:
        return self._all(f"SELECT * FROM runs WHERE thread_id = ? AND {LIVE} ORDER BY due, rowid", thread_id)

    def live_ids(self, status: str, limits: JsonObject) -> list[tuple[str, str]]:
        """Return (thread id, run id) of live runs, all or of one status, whose threads pass the filter."""
        statuses = ("pending", "running") if status == "all" else (status, status)
        threads = Where()
        threads.passes(limits)
        query = (
            f"SELECT thread_id, run_id FROM runs WHERE {LIVE} AND status IN (?, ?) "
            f"AND EXISTS (SELECT 1 FROM threads WHERE thread_id = runs.thread_id AND {threads})"
        )
        return [tuple(row) for row in self.conn.execute(query, (*statuses, *threads.parameters))]

    def waiting_threads(self) -> list[str]:
        query = f"SELECT thread_id FROM runs WHERE {LIVE} AND status = 'pending' GROUP BY thread_id ORDER BY min(due)"
        return [row[0] for row in self.conn.execute(query)]

    def claim(self, thread_id: str) -> Run | float | None:
        """Start the thread's next run and return it; or return the seconds until it is due, or None without one."""
        query = f"SELECT * FROM runs WHERE thread_id = ? AND {LIVE} AND status = ? ORDER BY due, rowid LIMIT 1"
        if self._one(query, thread_id, "running"):  # make_run started it, and its worker has yet to get it
            return None
        run = self._one(query, thread_id, "pending")
        if run is None:
            return None
        if (left := (run.due - CLOCK.steady()) / 1e6) > 0:
            return left
        run = run.started()
        self.conn.execute(
            "UPDATE runs SET status = ?, attempt = ?, started_at = ?, updated_at = ?, changed = steady() "
            "WHERE run_id = ?",
            (run.status, run.attempt, run.started_at, run.updated_at, run.run_id),
        )
        return run

    def has_since(self, thread_id: str, since: int) -> bool:
        """Return whether the thread has live runs, or had any since a steady time: their end changed its row, too."""
        live = f"SELECT 1 FROM runs WHERE thread_id = ? AND {LIVE}"
        went_on = (
            "SELECT 1 FROM threads WHERE thread_id = ? AND changed >= ? "
            "AND EXISTS (SELECT 1 FROM runs WHERE thread_id = threads.thread_id AND changed >= ?)"
        )
        return bool(self._value(live, thread_id) or self._value(went_on, thread_id, since, since))

    def prospects(self, thread_id: str) -> tuple[bool, bool]:
        """Return whether a thread has pending runs, and whether it has a time to live."""
        pending = f"SELECT 1 FROM runs WHERE runs.thread_id = threads.thread_id AND {LIVE} AND status = 'pending'"
        query = f"SELECT EXISTS ({pending}), ttl IS NOT NULL FROM threads WHERE thread_id = ?"
        has_pending, expires = self.conn.execute(query, (thread_id,)).fetchone() or (False, False)
        return bool(has_pending), bool(expires)

    def set_status(self, run_id: str, status: str) -> None:
        self.conn.execute(
            "UPDATE runs SET status = ?, updated_at = ?, changed = steady() WHERE run_id = ?", (status, now(), run_id)
        )

    def request_cancel(self, run_id: str, action: str, reason: str) -> None:
        self.conn.execute("UPDATE runs SET cancel = ?, reason = ? WHERE run_id = ?", (action, reason, run_id))

    def is_live(self, run_id: str) -> bool:
        return bool(self._value(f"SELECT 1 FROM runs WHERE run_id = ? AND {LIVE}", run_id))

    def finish(self, run_id: str, status: str) -> tuple[str | None, str | None] | None:
        """End a running run. Return the action and the reason of a requested cancel, which takes precedence over the
        status, or (None, None); None if the run was not running."""
        query = (
            "UPDATE runs SET status = iif(cancel IS NULL, ?, 'interrupted'), updated_at = ?, changed = steady() "
            "WHERE run_id = ? AND status = 'running' RETURNING cancel, reason"
        )
        rows = self.conn.execute(query, (status, now(), run_id)).fetchall()
        return tuple(rows[0]) if rows else None

    def start_state(self, run_id: str) -> tuple[bool, int]:
        """Return whether a claimed run should still start, and the `seq` of its thread's last event."""
        query = (
            "SELECT status = 'running' AND cancel IS NULL, last_seq FROM runs JOIN threads USING (thread_id) "
            "WHERE run_id = ?"
        )
        wanted, last_seq = self.conn.execute(query, (run_id,)).fetchone() or (False, 0)
        return bool(wanted), last_seq

    def begun(self) -> int:
        """Return the number of runs that have started and not ended."""
        return int(self._value(f"SELECT count(*) FROM runs WHERE {LIVE} AND attempt > 0"))

    def release(self) -> None:
        """Put running runs back to pending."""
        self.conn.execute(
            "UPDATE runs SET status = 'pending', updated_at = ?, changed = steady() "
            f"WHERE {LIVE} AND status = 'running'",
            (now(),),
        )

    def newest(self, thread_id: str) -> Run | None:
        return self._one("SELECT * FROM runs WHERE thread_id = ? ORDER BY due DESC, rowid DESC LIMIT 1", thread_id)

    def list(
        self, thread_id: str | None, status: str | None, limit: int, offset: int, limits: Sequence[JsonObject] = ()
    ) -> list[Run]:
        """Return runs of a thread, or of all threads that pass the filters, newest first."""
        where, threads = Where(), Where()
        if thread_id:
            where.add("thread_id = ?", thread_id)
        elif any(limits):
            for each in limits:
                threads.passes(each)
            passed = f"SELECT 1 FROM threads WHERE thread_id = runs.thread_id AND {threads}"
            where.add(f"EXISTS ({passed})", *threads.parameters)
        if status:
            where.add("status = ?", status)
        order = "due DESC, rowid DESC" if thread_id else "rowid DESC"
        query = f"SELECT * FROM runs WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?"
        return self._all(query, *where.parameters, limit, offset)

    def delete(self, run: Run) -> None:
        """Delete a run with its checkpoints, its events, and its writes to older checkpoints."""
        self.take_back(run.run_id, run.thread_id, None)
        of_run = f"thread_id = ? AND {_RUN_ID} = ?"
        for row in self.conn.execute(
            f"SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE {of_run}", (run.thread_id, run.run_id)
        ).fetchall():
            self.conn.execute(
                "DELETE FROM writes WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?",
                (run.thread_id, row[0], row[1]),
            )
        self.conn.execute(f"DELETE FROM checkpoints WHERE {of_run}", (run.thread_id, run.run_id))
        self.conn.execute("DELETE FROM events WHERE run_id = ?", (run.run_id,))
        self.conn.execute("DELETE FROM runs WHERE run_id = ?", (run.run_id,))

    def take_back(self, run_id: str, thread_id: str, task_id: str | None, index: int | None = None) -> None:
        """Delete the writes of a run (or of one task of it) to checkpoints that are not its own."""
        self.conn.execute(
            "DELETE FROM writes WHERE thread_id = ? AND (checkpoint_ns, checkpoint_id, task_id, idx) IN "
            "(SELECT checkpoint_ns, checkpoint_id, task_id, idx FROM run_writes "
            "WHERE run_id = ? AND task_id = coalesce(?, task_id) AND idx = coalesce(?, idx))",
            (thread_id, run_id, task_id, index),
        )
        self.conn.execute(
            "DELETE FROM run_writes WHERE run_id = ? AND task_id = coalesce(?, task_id) AND idx = coalesce(?, idx)",
            (run_id, task_id, index),
        )

    def has_checkpoint(self, run: Run) -> bool:
        """Return whether the thread's latest checkpoint is of this run: then its input was applied."""
        query = (
            f"SELECT {_RUN_ID} FROM checkpoints "
            "WHERE thread_id = ? AND checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1"
        )
        return bool(self._value(query, run.thread_id) == run.run_id)

    def reached_in(self, run: Run) -> int:
        """Return the attempt that wrote the thread's latest checkpoint; 0 if no attempt of this run did."""
        query = (
            "SELECT json_extract(CAST(metadata AS TEXT), '$.run_attempt') FROM checkpoints WHERE thread_id = ? "
            f"AND {_RUN_ID} = ? ORDER BY checkpoint_id DESC LIMIT 1"
        )
        return self._value(query, run.thread_id, run.run_id) or 0

    def has_used_answer(self, run: Run) -> bool:
        """Return whether the answer that the run brought was used: by a task, or by a subgraph that has gone on."""
        query = (
            "SELECT 1 FROM run_writes WHERE run_id = ? AND idx = ? UNION ALL SELECT 1 FROM checkpoints "
            f"WHERE thread_id = ? AND checkpoint_ns != '' AND {_RUN_ID} = ?"
        )
        return bool(self._value(query, run.run_id, ANSWERED, run.thread_id, run.run_id))

    def queue(self) -> JsonObject:
        """Return the numbers of live runs, and how long pending ones have waited, in seconds, for /metrics."""
        rows = self.conn.execute(f"SELECT thread_id, status, due FROM runs WHERE {LIVE}").fetchall()
        busy = {thread_id for thread_id, status, _ in rows if status == "running"}
        at = CLOCK.steady()
        pending = [(thread_id, max(0.0, (at - due) / 1e6)) for thread_id, status, due in rows if status == "pending"]
        waits = sorted(wait for _, wait in pending)
        return {
            "n_pending": len(pending),
            "n_running": len(rows) - len(pending),
            "pending_runs_wait_time_max_secs": waits[-1] if waits else None,
            "pending_runs_wait_time_med_secs": waits[len(waits) // 2] if waits else None,
            "pending_unblocked_runs_wait_time_max_secs": max(
                (wait for thread_id, wait in pending if thread_id not in busy), default=None
            ),
        }

    @classmethod
    def _row(cls, row: sqlite3.Row) -> Run:
        """Return a run. Older servers stored a client's values of names that only the server sets: drop those."""
        run: Run = super()._row(row)
        kept = run.kwargs["config"]["configurable"]
        flags = {name: kept[name] for name in OWN_FLAGS if name in kept}
        own = flags | {name: kept[name] for name in kept if SERVER_ONLY.fullmatch(name) and name[:2] != "__"}
        own |= {name: getattr(run, name) for name in ("run_id", "thread_id", "assistant_id")}
        own |= user_values(User(user) if (user := own.get("langgraph_auth_user")) else None)
        config, context = graph_config(run.kwargs["config"], own), without_own(run.kwargs.get("context"), own)
        return replace(run, kwargs={**run.kwargs, "config": config, "context": context})


@dataclass(frozen=True)
class Task:
    """A task of the Agent2Agent protocol: its newest run and its state. `latest`: the thread has no newer run."""

    run: Run
    state: str
    latest: bool


# The newest run of each task, with the state of the task: it needs input if the run interrupted the thread.
_TASK = """
    SELECT newest.*, CASE status WHEN 'pending' THEN 'submitted' WHEN 'running' THEN 'working'
        WHEN 'interrupted' THEN 'canceled' WHEN 'success' THEN
        iif(latest AND rest = 'interrupted', 'input-required', 'completed') ELSE 'failed' END AS state
    FROM (SELECT runs.*, runs.rowid AS place, rest, NOT EXISTS (SELECT 1 FROM runs AS later
        WHERE later.thread_id = runs.thread_id AND (later.due, later.rowid) > (runs.due, runs.rowid))
        AS latest FROM runs JOIN threads USING (thread_id) WHERE task_id IS NOT NULL) AS newest
    WHERE NOT EXISTS (SELECT 1 FROM runs AS later
        WHERE later.task_id = newest.task_id AND (later.due, later.rowid) > (newest.due, newest.place))
"""


class Tasks(Table[Task]):
    """The tasks of the Agent2Agent protocol. A task is a run and the runs that answered its questions."""

    def get(self, thread_id: str, task_id: str) -> Task | None:
        query = (
            f"{_TASK} AND +thread_id = ? AND task_id = ?"  # the plus keeps SQLite from walking all the thread's runs
        )
        return self._one(query, thread_id, task_id)

    def waiting(self, thread_id: str) -> Task | None:
        """Return the task whose question the thread waits to have answered."""
        latest = "SELECT run_id FROM runs WHERE thread_id = ? ORDER BY due DESC, rowid DESC LIMIT 1"
        return self._one(f"{_TASK} AND run_id = ({latest}) AND state = 'input-required'", thread_id)

    def search(
        self,
        limits: JsonObject,
        assistant_id: str,
        thread_id: str | None,
        state: str | None,
        since: str | None,
        limit: int,
        offset: int,
    ) -> tuple[list[Task], int]:
        """Return a page of an assistant's tasks, those changed last first, and how many there are in all."""
        where, threads = Where(), Where()
        threads.passes(limits)
        if limits:
            of_thread = f"SELECT 1 FROM threads WHERE thread_id = newest.thread_id AND {threads}"
            where.add(f"EXISTS ({of_thread})", *threads.parameters)
        where.add("assistant_id = ?", assistant_id)
        for condition, value in (("thread_id = ?", thread_id), ("state = ?", state), ("updated_at >= ?", since)):
            if value is not None:
                where.add(condition, value)
        query = f"{_TASK} AND {where}"
        page = f"{query} ORDER BY changed DESC, place DESC LIMIT ? OFFSET ?"
        total = self._value(f"SELECT count(*) FROM ({query})", *where.parameters)
        return self._all(page, *where.parameters, limit, offset), total

    @classmethod
    def _row(cls, row: sqlite3.Row) -> Task:
        return Task(Runs._row(row), row["state"], bool(row["latest"]))


class Event(NamedTuple):
    """An event of a run, or of a thread (then without `run_id`). `id` is (milliseconds, number) and orders a server's
    events; `data` is JSON. `seq` is the event's number in its thread's stream by the event streaming protocol, 0 if
    it is not in that stream."""

    id: tuple[int, int]
    name: str
    data: bytes
    seq: int = 0
    run_id: str = ""


RUN_DONE = "run_done"  # the event of a run's end; clients see it as `metadata`, and in the thread's stream only

PART_BYTES = 256 * 1024


def first_part(events: Iterable[Event]) -> list[Event]:
    """Return the first of the events, at least one, until their data reach PART_BYTES."""
    part, size = [], 0
    for event in events:
        part.append(event)
        size += len(event.data)
        if size >= PART_BYTES:
            break
    return part


class Overflow:
    """Events that a log can't hold in memory, by their number, in an unnamed temporary file.

    Its methods raise sqlite3.Error if the disk is full.
    """

    MAX_PAGES = 2**18  # of 4 KB

    def __init__(self, max_pages: int) -> None:
        self._conn = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._conn.execute("PRAGMA journal_mode = OFF")
        self._conn.execute(f"PRAGMA max_page_count = {min(max_pages, self.MAX_PAGES)}")
        self._conn.execute("CREATE TABLE events (number INTEGER PRIMARY KEY, ms, n, event, data, seq, run_id)")

    def append(self, first: int, events: Iterable[Event]) -> None:
        rows = ((number, *event.id, *event[1:]) for number, event in enumerate(events, first))
        self._conn.execute("BEGIN")
        self._conn.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._conn.execute("COMMIT")

    def part(self, number: int) -> list[Event]:
        rows = self._conn.execute("SELECT * FROM events WHERE number >= ? ORDER BY number", (number,))
        return first_part(Event((ms, n), *others) for _, ms, n, *others in rows)

    def close(self) -> None:
        self._conn.close()


class Events(Table[Event]):
    """The events of resumable runs, and changes of threads' states, for clients that reconnect."""

    def _events(self, condition: str, *parameters: Any) -> Iterator[Event]:
        rows = self.conn.execute(f"SELECT ms, n, event, data, seq, run_id FROM events WHERE {condition}", parameters)
        return (Event((ms, n), *others) for ms, n, *others in rows)

    def append(self, thread_id: str, events: Iterable[Event], run_id: str | None = None) -> None:
        """Store events of a thread, unless the thread, or the run if one is named, was deleted meanwhile."""
        table, name, row_id = ("runs", "run_id", run_id) if run_id else ("threads", "thread_id", thread_id)
        if not self._value(f"SELECT 1 FROM {table} WHERE {name} = ?", row_id):
            return
        self.conn.executemany(
            "INSERT INTO events (thread_id, run_id, ms, n, event, data, seq) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(thread_id, event.run_id, *event.id, event.name, event.data, event.seq) for event in events],
        )

    def of_run(self, run_id: str, after: tuple[int, int]) -> list[Event]:
        """Return the first part of a run's events after an id."""
        condition = f"run_id = ? AND (ms, n) > (?, ?) AND event <> '{RUN_DONE}' ORDER BY ms, n"
        return first_part(self._events(condition, run_id, *after))

    def of_thread(self, thread_id: str, after: tuple[int, int]) -> list[Event]:
        """Return the first part of a thread's events after an id."""
        return first_part(self._events("thread_id = ? AND (ms, n) > (?, ?) ORDER BY ms, n", thread_id, *after))

    def newest(self, thread_id: str, name: str) -> Iterator[Event]:
        """Return an iterator over a thread's events of one name, the last first."""
        return self._events("thread_id = ? AND event = ? ORDER BY ms DESC, n DESC", thread_id, name)

    def last_seq(self, thread_id: str, *limits: JsonObject) -> int:
        """Return the `seq` of a thread's last event at the end of its last run; 0 if there was none, or if the thread
        does not pass the filters."""
        if any(limits) and not Threads(self.conn).get(thread_id, *limits):
            return 0
        return self._value("SELECT last_seq FROM threads WHERE thread_id = ?", thread_id) or 0

    def set_last_seq(self, thread_id: str, seq: int) -> None:
        self.conn.execute("UPDATE threads SET last_seq = ? WHERE thread_id = ?", (seq, thread_id))


@dataclass(frozen=True)
class RunAccess:
    """A run's user, the filters that its thread and its assistant have to pass, and the metadata that the application's
    Auth added."""

    user: JsonObject | None = None
    threads: JsonObject = field(default_factory=dict)
    assistants: JsonObject = field(default_factory=dict)
    metadata: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class Cron:
    """A schedule by which runs are created; `payload` is their request as the client sent it."""

    cron_id: str
    assistant_id: str
    thread_id: str | None
    end_time: str | None
    schedule: str
    timezone: str | None
    payload: JsonObject
    next_run_date: str
    metadata: JsonObject
    on_run_completed: str | None
    enabled: bool
    created_at: str
    updated_at: str
    access: JsonObject | None = None

    def to_dict(self) -> JsonObject:
        """Return the cron as clients see it: its id is among the configurable of its payload."""
        config = self.payload.get("config") or {}
        configurable = {**(config.get("configurable") or {}), "cron_id": self.cron_id}
        payload = {**self.payload, "config": {**config, "configurable": configurable}}
        cron = {**vars(self), "payload": payload, "user_id": self.access["user"]["identity"] if self.access else ""}
        del cron["access"]
        return cron

    def is_over(self, at: datetime.datetime) -> bool:
        return self.end_time is not None and at > parse_moment(self.end_time)


def parse_moment(text: str, what: str = "end_time") -> datetime.datetime:
    """Parse a moment in ISO 8601; without a zone it is UTC. Raises Invalid."""
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{what}: '{text}' is not an ISO 8601 date and time") from None
    return at if at.tzinfo else at.replace(tzinfo=datetime.UTC)


def next_run_date(schedule: str, timezone: str | None) -> str:
    """Return the next moment of a schedule, in UTC. Raises Invalid for a wrong schedule or timezone."""
    import zoneinfo

    from croniter import croniter  # type: ignore[import-untyped]

    try:
        zone = zoneinfo.ZoneInfo(timezone) if timezone else datetime.UTC
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid(f"Invalid timezone: '{timezone}'. Use IANA timezone format (e.g. 'America/New_York').") from None
    try:
        return moment(croniter(schedule, CLOCK.now().astimezone(zone)).get_next(datetime.datetime))
    except (ValueError, KeyError, AttributeError):
        raise Invalid(
            f"Invalid cron schedule: '{schedule}'. Reason: Invalid cron schedule. Ensure the schedule uses the "
            "standard cron format (minute hour day_of_month month day_of_week). Example: '*/5 * * * *' for every "
            "5 minutes."
        ) from None


class Crons(Table[Cron]):
    """The crons. Each has a `next_run_date`, and fires then if it is enabled."""

    NAME, KIND, JSON = "crons", Cron, ("payload", "metadata", "access")
    SELECT, KEY = "SELECT * FROM crons", "cron_id"
    get = Table._get
    insert = Table._insert

    def has_assistant(self, assistant_id: str) -> bool:
        return bool(self._value("SELECT 1 FROM crons WHERE assistant_id = ?", assistant_id))

    def update(self, cron: Cron, by_client: bool = False) -> None:
        """Store a changed cron. Only a client's change affects its order in searches."""
        columns = ", ".join(f"{key} = ?" for key in vars(cron))
        changed = "steady()" if by_client else "changed"
        query = f"UPDATE crons SET {columns}, changed = {changed} WHERE cron_id = ?"
        self.conn.execute(query, (*_columns(vars(cron)), cron.cron_id))

    def delete(self, cron_id: str, *limits: JsonObject) -> bool:
        if self.get(cron_id, *limits) is None:
            return False
        return self.conn.execute("DELETE FROM crons WHERE cron_id = ?", (cron_id,)).rowcount > 0

    def next_due(self) -> float | None:
        """Return the seconds until the next cron fires, None without one."""
        due = self._value("SELECT min(next_run_date) FROM crons WHERE enabled")
        return (datetime.datetime.fromisoformat(due) - CLOCK.now()).total_seconds() if due else None

    def due(self, at: str) -> list[Cron]:
        return self._all("SELECT * FROM crons WHERE enabled AND next_run_date <= ?", at)

    def correct_dates(self) -> None:
        """Let crons fire at their next moment from now, though the clock was put back."""
        for cron in self._all("SELECT * FROM crons"):
            with contextlib.suppress(Invalid):  # the schedule has no further moment
                due = next_run_date(cron.schedule, cron.timezone)
                self.update(replace(cron, next_run_date=min(due, cron.next_run_date)))

    def search(self, body: CronSearch, limits: JsonObject) -> Page:
        return self._page("SELECT * FROM crons", self._where(body, limits), body.sort_by, body)

    def count(self, body: CronCountRequest, limits: JsonObject) -> int:
        return self._count("crons", self._where(body, limits))

    def _where(self, body: CronCountRequest, limits: JsonObject) -> Where:
        where = Where()
        where.passes(limits)
        for column in ("assistant_id", "thread_id"):
            if text := getattr(body, column):
                where.add(f"{column} = ?", to_uuid(text, column.partition("_")[0]))
        if body.enabled is not None:
            where.add("enabled = ?", body.enabled)
        where.contains("metadata", body.metadata or {})
        return where

    @classmethod
    def _row(cls, row: sqlite3.Row) -> Cron:
        cron: Cron = super()._row(row)
        return replace(cron, enabled=bool(cron.enabled))


class Webhooks(Table[tuple[int, str, bytes]]):
    """Webhooks to send. A row is deleted when its POST was answered or given up."""

    def insert(self, url: str, payload: bytes) -> None:
        self.conn.execute("INSERT INTO webhooks (url, payload) VALUES (?, ?)", (url, payload))

    def due(self) -> list[tuple[int, str, bytes]]:
        return self._all("SELECT number, url, payload FROM webhooks ORDER BY number")

    def delete(self, number: int) -> None:
        self.conn.execute("DELETE FROM webhooks WHERE number = ?", (number,))


@dataclass
class Items(Table[sqlite3.Row]):
    """The store's items, in LangGraph's own tables: `prefix` is the namespace, joined with dots. No vector outlives
    its item. Without `shared`, searches and listings leave out shared values."""

    shared: bool = True

    def get(self, namespace: Sequence[str], key: str) -> sqlite3.Row | None:
        query = "SELECT * FROM store WHERE prefix = ? AND key = ? AND (expires_at IS NULL OR expires_at > ?)"
        return self._one(query, ".".join(namespace), key, self._time())

    def put(
        self, prefix: str, key: str, value: bytes, ttl: float | None = None, vectors: Iterable[tuple[str, bytes]] = ()
    ) -> None:
        """Write an item; `ttl` is in minutes, `vectors` are pairs of a field's name and its embedding."""
        text, expires = CLOCK.now().isoformat(" ", "microseconds"), self._time(ttl) if ttl else None
        self.conn.execute(
            "INSERT INTO store (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (prefix, key) DO UPDATE SET value = excluded.value, "
            "updated_at = excluded.updated_at, expires_at = excluded.expires_at, ttl_minutes = excluded.ttl_minutes",
            (prefix, key, value.decode(), text, text, expires, ttl),
        )
        self.conn.execute("DELETE FROM store_vectors WHERE prefix = ? AND key = ?", (prefix, key))
        self.conn.executemany(
            "INSERT OR REPLACE INTO store_vectors (prefix, key, field_name, embedding) VALUES (?, ?, ?, ?)",
            [(prefix, key, *vector) for vector in vectors],
        )

    def delete(self, prefix: str, key: str) -> None:
        for table in ("store", "store_vectors"):
            self.conn.execute(f"DELETE FROM {table} WHERE prefix = ? AND key = ?", (prefix, key))

    def load(self, prefix: str) -> dict[str, bytes]:
        """Return all items of one namespace, as JSON text by key."""
        query = (
            "SELECT key, value FROM store WHERE prefix = ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY rowid"
        )
        return {
            key: value.encode() if isinstance(value, str) else value
            for key, value in self.conn.execute(query, (prefix, self._time()))
        }

    def apply(self, puts: SharedPuts) -> None:
        for key, text in puts.puts.items():
            if text is None:
                self.delete(puts.prefix, key)
            else:
                self.put(puts.prefix, key, text)

    def search(
        self,
        prefix: Sequence[str],
        condition: Mapping[str, Any] | None,
        limit: int,
        offset: int,
        vector: bytes | None = None,
    ) -> list[sqlite3.Row]:
        """Return items, oldest first; with a `vector` those that have vectors, nearest first. Raises BadRequest."""
        where = Where()
        for wanted in (condition or {}).values():
            for name in wanted if _has_operators(wanted) else ():
                if name not in STORE_OPERATORS:
                    raise BadRequest(f"Unsupported operator: {name}")
        where.add("(expires_at IS NULL OR expires_at > ?)", self._time())
        if prefix:
            text = ".".join(prefix)  # '/' is the character after '.', so this is every longer namespace
            where.add("prefix >= ? AND prefix < ? AND (prefix = ? OR prefix > ?)", text, text + "/", text, text + ".")
        if not self.shared:
            where.add("prefix || '.' NOT GLOB ?", f"{SHARED_ROOT}.*")
        if condition:
            where.add("matches_filter(value, ?)", _json_text(condition))
        if vector is None:
            query = f"SELECT *, NULL AS score FROM store WHERE {where} ORDER BY rowid LIMIT ? OFFSET ?"
            return self._all(query, *where.parameters, limit, offset)
        where.add("length(embedding) = ?", len(vector))
        query = (
            "SELECT store.*, max(1 - vec_distance_cosine(embedding, ?)) AS score FROM store "
            f"JOIN store_vectors USING (prefix, key) WHERE {where} GROUP BY store.rowid "
            "ORDER BY score DESC, store.rowid LIMIT ? OFFSET ?"
        )
        return self._all(query, vector, *where.parameters, limit, offset)

    def namespaces(self) -> list[tuple[str, ...]]:
        """Return the namespaces of unexpired items. The query jumps to each next prefix, past all items of the last."""
        query = (
            "WITH RECURSIVE each (name) AS (SELECT min(prefix) FROM store UNION ALL "
            "SELECT (SELECT min(prefix) FROM store WHERE prefix > name) FROM each WHERE name IS NOT NULL) "
            "SELECT name FROM each WHERE EXISTS "
            "(SELECT 1 FROM store WHERE prefix = name AND (expires_at IS NULL OR expires_at > ?))"
        )
        namespaces = [tuple(row[0].split(".")) for row in self.conn.execute(query, (self._time(),))]
        return [namespace for namespace in namespaces if self.shared or namespace[0] != SHARED_ROOT]

    def refresh(self, keys: Iterable[tuple[str, str]]) -> None:
        """Restart the time to live of these (prefix, key)."""
        at = self._time()
        self.conn.executemany(
            "UPDATE store SET expires_at = strftime('%Y-%m-%d %H:%M:%f000+00:00', ?, ttl_minutes || ' minutes') "
            "WHERE prefix = ? AND key = ? AND ttl_minutes IS NOT NULL AND expires_at > ?",
            [(at, *names, at) for names in keys],
        )

    def next_expiry(self) -> float | None:
        """Return the seconds until the next item expires, None without one."""
        query = "SELECT (julianday(min(expires_at)) - julianday(?)) * 86400 FROM store WHERE expires_at IS NOT NULL"
        return cast("float | None", self._value(query, self._time()))

    def sweep(self, limit: int) -> int:
        """Delete items that have expired. Return how many there were."""
        query = "SELECT prefix, key FROM store WHERE expires_at <= ? LIMIT ?"
        expired = self.conn.execute(query, (self._time(), limit)).fetchall()
        for prefix, key in expired:
            self.delete(prefix, key)
        return len(expired)

    @staticmethod
    def _time(minutes: float = 0) -> str:
        """Return the steady time plus some minutes, in the format of the store's tables."""
        at = EPOCH + datetime.timedelta(microseconds=CLOCK.steady(), minutes=minutes)
        return at.isoformat(" ", "microseconds")


def contents(conn: sqlite3.Connection) -> dict[str, dict[str, JsonObject]]:
    """Return a database's threads, runs, shared values and items by name, in a fixed order, for `devserver diff`."""
    result: dict[str, dict[str, JsonObject]] = {"threads": {}, "runs": {}, "shared values": {}, "items": {}}
    for thread in Threads(conn)._all(f"{_THREAD} ORDER BY thread_id"):
        shown = ("status", "values", "interrupts", "error", "metadata")
        result["threads"][thread.thread_id] = {name: getattr(thread, name) for name in shown}
    for run in Runs(conn)._all("SELECT * FROM runs ORDER BY due, rowid"):
        request = {name: run.kwargs[name] for name in ("input", "command")}
        assistant = Assistants(conn).get(run.assistant_id)
        about = {"thread": run.thread_id, "assistant": assistant.name if assistant else run.assistant_id}
        result["runs"][run.run_id] = {"status": run.status, **about, **request}
    for row in conn.execute("SELECT prefix, key, value FROM store ORDER BY prefix, key"):
        kind, _, rest = row["prefix"].partition(".")
        shared = kind == SHARED_ROOT
        name = f"{rest if shared else row['prefix']} {row['key']}"
        result["shared values" if shared else "items"][name] = orjson.loads(row["value"])
    return result


def due_in(conn: sqlite3.Connection) -> float | None:
    """Return the seconds until the next cron, expiry of an item or thread, or delayed run; None without one."""
    query = f"SELECT min(due) FROM runs WHERE {LIVE} AND status = 'pending' AND due > ?"
    run = conn.execute(query, (at := CLOCK.steady(),)).fetchone()[0]
    dues = (Crons(conn).next_due(), Items(conn).next_expiry(), Threads(conn).next_expiry(), run and (run - at) / 1e6)
    return min((due for due in dues if due is not None), default=None)


def unsettled(conn: sqlite3.Connection) -> list[str]:
    """Return a text for each live run and unsent webhook, and one if a cron or an expiry is due."""
    runs = f"SELECT run_id, thread_id, status FROM runs WHERE {LIVE} AND due <= ?"
    left = ["run {} of thread {} is {}".format(*row) for row in conn.execute(runs, (CLOCK.steady(),))]
    left += [f"a webhook to {url} waits" for _, url, _ in Webhooks(conn).due()]
    seconds = due_in(conn)
    return left + ["a cron is due, or something expires"] * (seconds is not None and seconds <= 0)


def start_clock(conn: sqlite3.Connection) -> None:
    """Continue the steady time and LangGraph's checkpoint ids after the greatest in the file."""
    run_id, checkpoint_id, event_ms, *changed = conn.execute(
        "SELECT (SELECT max(run_id) FROM runs WHERE run_id LIKE '________-____-7___-____-____________'), "
        "(SELECT max(checkpoint_id) FROM checkpoints WHERE checkpoint_id LIKE '________-____-6___-____-____________'), "
        "(SELECT max(ms) FROM (SELECT ms FROM events ORDER BY number DESC LIMIT 10000)), "
        "(SELECT max(changed) FROM threads), (SELECT max(changed) FROM assistants), (SELECT max(changed) FROM crons)"
    ).fetchone()
    run_ms = uuid.UUID(run_id).int >> 80 if run_id else 0
    last = checkpoint_ids.UUID(checkpoint_id).time if checkpoint_id else 0  # tenths of a microsecond since 1582
    ms = max(run_ms, event_ms or 0, (last - 0x01B21DD213814000) // 10_000)
    CLOCK.begin_after(max((ms + 1) * 1000, *(each or 0 for each in changed)))
    begin_checkpoint_ids(last)


def begin_checkpoint_ids(last: int | None) -> None:
    """Make LangGraph's next checkpoint ids greater than `last` (tenths of a microsecond since 1582); None: any."""
    ids: Any = checkpoint_ids
    ids._last_v6_timestamp = None if last is None else max(ids._last_v6_timestamp or 0, last)


########################################################################################################
# 6  Persistence
########################################################################################################

NULL_TASK_ID = "00000000-0000-0000-0000-000000000000"  # LangGraph's task id of a command's own writes


# The serializer by which the current context reads checkpoints, if it is not the saver's own.
READ_WITH: contextvars.ContextVar[SerializerProtocol | None] = contextvars.ContextVar("read_with", default=None)


class DataTypes:
    """The types that a checkpoint may name: those that hold data, as LangGraph's serializer writes them. Otherwise a
    forged checkpoint could have any function (`os.system`) called when it is read."""

    _KINDS = (enum.Enum, set, frozenset, deque, Item)
    _METHODS = ("model_dump", "get_secret_value", "dict", "_asdict")  # the serializer writes types with one of these

    def __contains__(self, key: tuple[str, str]) -> bool:
        try:
            named = getattr(importlib.import_module(key[0]), key[1])
        except Exception:
            return False
        return isinstance(named, type) and (
            dataclasses.is_dataclass(named)
            or issubclass(named, self._KINDS)
            or any(hasattr(named, method) for method in self._METHODS)
        )


class Serializer(JsonPlusSerializer):
    """LangGraph's serializer, faster; lone surrogates become '?' in the keys of dicts, too, not only in values."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj is None or isinstance(obj, bytes | bytearray):
            return super().dumps_typed(obj)
        try:
            return "msgpack", ormsgpack.packb(obj, default=self._packable, option=_option)
        except TypeError as error:
            with contextlib.suppress(RecursionError):
                return super().dumps_typed(_with_unicode_keys(obj))
            raise error

    @staticmethod
    def _packable(value: Any) -> Any:
        """Return LangGraph's own form of a value; that of a message of nothing but JSON takes half the time."""
        if (fields := message_fields(value)) is not None:
            parts = (type(value).__module__, type(value).__name__, fields, "model_validate_json")
            try:
                return ormsgpack.Ext(EXT_PYDANTIC_V2, ormsgpack.packb(parts, option=_option))
            except ormsgpack.MsgpackEncodeError:  # there is more in it
                pass
        return _msgpack_default(value)

    def for_show(self, graph: Graph) -> Serializer:
        """Return one to read states of a graph that are only shown: a message which several checkpoints hold is made
        once. Not if user code takes part in reading: a reducer that replays deltas, a validator of a node's input."""
        known = re.compile(r"langgraph\.channels\.(?!delta)|devserver$")
        own_code = not all(known.match(type(each).__module__) for each in graph.channels.values())
        if own_code or graph.cache_policy or any(node.mapper or node.cache_policy for node in graph.nodes.values()):
            return self
        shared = copy.copy(self)
        shared._unpack_ext_hook = functools.cache(self._unpack_ext_hook)
        return shared


def _with_unicode_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {unicode_text(k) if isinstance(k, str) else k: _with_unicode_keys(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_unicode_keys(member) for member in value]
    if isinstance(value, tuple):
        members = map(_with_unicode_keys, value)
        return type(value)._make(members) if hasattr(value, "_make") else tuple(members)
    if isinstance(value, langgraph_types.Send):
        return langgraph_types.Send(value.node, _with_unicode_keys(value.arg))
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        names = [*vars(value)] if isinstance(value, BaseModel) else [each.name for each in dataclasses.fields(value)]
        changed = copy.copy(value)
        for name in names:
            object.__setattr__(changed, name, _with_unicode_keys(getattr(value, name)))
        return changed
    return value


# Metadata of a subgraph's checkpoint: the task of its parent that called it, and the checkpoints it is nested in.
CALLER_METADATA = (
    *("langgraph_node", "langgraph_step", "langgraph_path", "langgraph_triggers"),
    *("checkpoint_ns", "checkpoint_map"),
)


def place_config(thread_id: str, namespace: str = "", **place: Any) -> RunnableConfig:
    """Return the config of a checkpoint in a thread's history: by default the latest of the namespace."""
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": namespace, **place}}


class Saver(BaseCheckpointSaver[str]):
    """LangGraph's checkpointer on the server's file, in the official tables and format.

    Each call is one transaction. A checkpoint is stored with its superstep's writes to shared values. A run
    that was deleted meanwhile can't write any more.
    """

    PATIENCE_SECONDS = 10.0  # how long a nested checkpoint waits for those above it
    LARGE_BYTES = 500 * 1000**2

    def __init__(self, db: Db, serde: JsonPlusSerializer) -> None:
        super().__init__(serde=serde)
        self.db = db
        self._told: set[str] = set()  # of which threads was told that they are large

    get_next_version = SqliteSaver.get_next_version

    def _official(self, conn: sqlite3.Connection, serde: SerializerProtocol | None = None) -> SqliteSaver:
        saver = SqliteSaver(conn, serde=serde or self.serde)
        saver.is_setup = True
        return saver

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self.db.look(lambda conn: self._official(conn).get_tuple(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        if RUN_SCOPE.get() is NO_SCOPE:  # only a look at the state: that of a long chat would hold up the loop
            return await self.db.read(lambda conn: self._official(conn).get_tuple(config))
        return self.db.look(lambda conn: self._official(conn).get_tuple(config))

    def list(self, config: RunnableConfig | None, **options: Any) -> Iterator[CheckpointTuple]:
        yield from self.db.look(lambda conn: [*self._official(conn).list(config, **options)])

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        serde = READ_WITH.get()
        for found in await self.db.read(lambda conn: [*self._official(conn, serde).list(config, **options)]):
            if serde and any(task_id == NULL_TASK_ID for task_id, *_ in found.pending_writes or ()):
                found = self.get_tuple(found.config) or found  # reducers get its messages, and may change them
            yield found

    def get_delta_channel_history(self, **of: Any) -> Mapping[str, DeltaChannelHistory]:
        return self.db.look(lambda conn: self._official(conn).get_delta_channel_history(**of))

    async def aget_delta_channel_history(self, **of: Any) -> Mapping[str, DeltaChannelHistory]:
        return await self.db.read(lambda conn: self._official(conn).get_delta_channel_history(**of))

    def _checkpoint_writer(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> Callable[[sqlite3.Connection, bool], bool]:
        """Return a transaction that stores a checkpoint; called with True it may return False: try again later."""
        values = checkpoint["channel_values"]
        shared = [value for value in values.values() if isinstance(value, SharedPuts)]
        if shared:
            kept = {key: value for key, value in values.items() if not isinstance(value, SharedPuts)}
            checkpoint = {**checkpoint, "channel_values": kept}
        configurable = config["configurable"]
        kept_metadata: JsonObject = {**get_checkpoint_metadata(config, metadata)}
        if configurable.get("checkpoint_ns"):
            known = {**config.get("metadata", {}), **configurable}
            kept_metadata |= {key: known[key] for key in CALLER_METADATA if key in known}
        typed = self.serde.dumps_typed(checkpoint)
        row = (
            str(configurable["thread_id"]),
            configurable.get("checkpoint_ns", ""),
            checkpoint["id"],
            configurable.get("checkpoint_id"),
            *typed,
            to_json(kept_metadata),
        )
        scope = RUN_SCOPE.get()
        above: list[tuple[str, str]] = []
        if scope and configurable.get("checkpoint_ns"):
            above = scope.checkpoints_above(configurable)
        elif scope:
            if scope.broken:  # LangGraph before 1.2.20 stores the next one, which lacks the shared values of this one
                raise scope.broken
            scope.latest = (row[0], checkpoint)

        def write(conn: sqlite3.Connection, patient: bool) -> bool:
            _check_run(conn, scope)
            if (
                patient
                and shared
                and not all(self._has(conn, str(configurable["thread_id"]), *place) for place in above)
            ):
                if scope and scope.failed:
                    raise scope.failed
                return False
            conn.execute(
                "INSERT OR REPLACE INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, "
                "type, checkpoint, metadata) VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            if scope and scope.updates:
                Threads(conn).set_unshown(scope.updates[0])
            for puts in shared:
                Items(conn).apply(puts)
            if metadata.get("step", 0) % 10 == 0 and len(typed[1]) * metadata["step"] > self.LARGE_BYTES:
                self._tell_if_large(conn, row[0])
            return True

        return write

    def _tell_if_large(self, conn: sqlite3.Connection, thread_id: str) -> None:
        """Warn once of a thread whose checkpoints, each of which holds its whole state, take much space."""
        query = "SELECT sum(length(checkpoint)) FROM checkpoints WHERE thread_id = ?"
        if thread_id in self._told or (size := conn.execute(query, (thread_id,)).fetchone()[0]) <= self.LARGE_BYTES:
            return
        self._told.add(thread_id)
        log.warning(
            "thread %s takes %d MB, as each step keeps its whole state. POST /threads/prune with strategy keep_latest "
            "makes it small, checkpointer.ttl in langgraph.json does so by itself (then `devserver compact` gives the "
            "space back); a DeltaChannel for its messages keeps it small.",
            thread_id,
            size // 1000**2,
        )

    @staticmethod
    def _has(conn: sqlite3.Connection, thread_id: str, checkpoint_ns: str, checkpoint_id: str) -> bool:
        query = "SELECT 1 FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
        return conn.execute(query, (thread_id, checkpoint_ns, checkpoint_id)).fetchone() is not None

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        try:
            write = self._checkpoint_writer(config, checkpoint, metadata)
            until = time.monotonic() + self.PATIENCE_SECONDS
            while not self.db.write_now(write, time.monotonic() < until):
                time.sleep(0.002)
        except BaseException as error:
            _note_failure(error, config)
            raise
        place = config["configurable"]
        return place_config(place["thread_id"], place.get("checkpoint_ns", ""), checkpoint_id=checkpoint["id"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        try:
            write = self._checkpoint_writer(config, checkpoint, metadata)
            until = time.monotonic() + self.PATIENCE_SECONDS
            while not await self.db.write(write, time.monotonic() < until):  # noqa: ASYNC110  others write meanwhile
                await asyncio.sleep(0.002)
        except BaseException as error:
            _note_failure(error, config)
            raise
        place = config["configurable"]
        return place_config(place["thread_id"], place.get("checkpoint_ns", ""), checkpoint_id=checkpoint["id"])

    def _writes_writer(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> Callable[[sqlite3.Connection], None]:
        """Return a transaction that stores the pending writes of a task."""
        configurable = config["configurable"]
        place = (
            str(configurable["thread_id"]),
            str(configurable.get("checkpoint_ns", "")),
            str(configurable["checkpoint_id"]),
            task_id,
        )
        rows = [
            (*place, task_path, WRITES_IDX_MAP.get(channel, index), channel, *self.serde.dumps_typed(value))
            for index, (channel, value) in enumerate(writes)
        ]
        conflict = "REPLACE" if all(channel in WRITES_IDX_MAP for channel, _ in writes) else "IGNORE"
        scope = RUN_SCOPE.get()
        if scope and scope.supersteps and not {ERROR, INTERRUPT} & {channel for channel, _ in writes}:
            rows += [
                (*place, task_path, index, channel, *self.serde.dumps_typed(value))
                for index, (channel, value) in enumerate(scope.of_task(task_id), start=len(writes))
            ]

        def write(conn: sqlite3.Connection) -> None:
            _check_run(conn, scope)
            if scope and scope.run_id and place[2] < scope.floor:
                # On a checkpoint of an earlier run: note what is new, to take it back with the run.
                conn.executemany(
                    "INSERT INTO run_writes SELECT ?, ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM writes WHERE "
                    "(thread_id, checkpoint_ns, checkpoint_id, task_id, idx) = (?, ?, ?, ?, ?))",
                    [(scope.run_id, *place, row[5], *place, row[5]) for row in rows],
                )
            if scope and scope.run_id and task_id != NULL_TASK_ID and any(row[6] == RESUME for row in rows):
                conn.execute("INSERT INTO run_writes VALUES (?, ?, ?, ?, ?, ?)", (scope.run_id, *place, ANSWERED))
            conn.executemany(
                f"INSERT OR {conflict} INTO writes (thread_id, checkpoint_ns, "
                "checkpoint_id, task_id, task_path, idx, channel, type, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

        return write

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self.db.write_now(self._writes_writer(config, writes, task_id, task_path))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self.db.write(self._writes_writer(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self.db.write_now(self._delete_thread, thread_id)

    async def adelete_thread(self, thread_id: str) -> None:
        await self.db.write(self._delete_thread, thread_id)

    @staticmethod
    def _delete_thread(conn: sqlite3.Connection, thread_id: str) -> None:
        for table in ("checkpoints", "writes"):
            conn.execute(f"DELETE FROM {table} WHERE thread_id = ?", (thread_id,))


class RunGone(Exception):
    """The run was deleted or rolled back while its graph went on."""


def _note_failure(error: BaseException, config: RunnableConfig) -> None:
    """Note why a checkpoint could not be stored, for those that are nested in it, or come after it."""
    if (scope := RUN_SCOPE.get()) is not None:
        scope.failed = error if isinstance(error, Exception) else RunGone(f"run {scope.run_id} was cancelled")
        if not config["configurable"].get("checkpoint_ns"):
            scope.broken = scope.failed


def _check_run(conn: sqlite3.Connection, scope: SharedScope | None) -> None:
    """Raise RunGone if the run may not write any more. For an update of a thread's state, raise Conflict if the thread
    had runs since it began, NotFound if the thread was deleted."""
    query = "SELECT 1 FROM runs WHERE run_id = ? AND status = 'running' AND cancel IS NOT 'rollback'"
    if scope and scope.run_id and not conn.execute(query, (scope.run_id,)).fetchone():
        raise RunGone(f"run {scope.run_id} was deleted")
    if scope and scope.updates:
        if Runs(conn).has_since(*scope.updates):
            raise Conflict(f"Thread {scope.updates[0]} has in-flight runs")
        Threads(conn).require(scope.updates[0])


class EmbeddingFailed(BadRequest):
    """The `embed` of `store.index` failed, or returned vectors of the wrong number or size."""


Vectors = dict[int, list[tuple[str, bytes]]]  # by an operation's index in its batch: (field, vector) of each text


class Index:
    """The embedding by which items are found by meaning, and the fields of items to embed.

    Each vector has `dims` numbers; others are refused.
    """

    def __init__(self, embeddings: Embeddings, dims: int, fields: list[str]) -> None:
        self._embeddings = embeddings
        self._dims = dims
        self._fields = fields

    @staticmethod
    def concerns(op: Op) -> bool:
        """Return whether the operation has text to embed."""
        if isinstance(op, PutOp):
            return op.value is not None and op.index is not False
        return isinstance(op, SearchOp) and bool(op.query)

    async def vectors(self, ops: list[Op]) -> Vectors:
        """Return the vectors that puts and searches need. Raises EmbeddingFailed."""
        texts = [(n, *text) for n, op in enumerate(ops) if isinstance(op, PutOp) for text in self._texts(op)]
        queries = [(n, "", op.query) for n, op in enumerate(ops) if isinstance(op, SearchOp) and op.query]
        by_op: Vectors = {}
        try:
            vectors = await self._embeddings.aembed_documents([text for *_, text in texts]) if texts else []
            if len(vectors) != len(texts):
                raise EmbeddingFailed(f"store.index: 'embed' gave {len(vectors)} vectors for {len(texts)} texts")
            vectors = [*vectors, *[await self._embeddings.aembed_query(text) for *_, text in queries]]
            for (n, name, _), vector in zip([*texts, *queries], vectors, strict=True):
                by_op.setdefault(n, []).append((name, self._packed(vector)))
        except EmbeddingFailed:
            raise
        except Exception as error:
            raise EmbeddingFailed(f"store.index: 'embed' failed: {type(error).__name__}: {error}") from error
        return by_op

    def _texts(self, op: PutOp) -> Iterator[tuple[str, str]]:
        """Yield (field, text); fields with several texts are numbered, as AsyncSqliteStore does."""
        if not self.concerns(op):
            return
        value = orjson.loads(kept_json(op.value, op.namespace, op.key))
        for name in self._fields if op.index is None else op.index or ():
            texts = get_text_at_path(value, name)
            yield from ((f"{name}.{n}" if len(texts) > 1 else name, text) for n, text in enumerate(texts))

    def _packed(self, vector: Sequence[float]) -> bytes:
        if len(vector) != self._dims:
            raise EmbeddingFailed(
                f"store.index: 'embed' gave a vector of {len(vector)} numbers, but 'dims' is {self._dims}"
            )
        return struct.pack(f"={self._dims}f", *vector)


class Store(BaseStore):
    """LangGraph's store on the server's file, for graph nodes and clients.

    Text is embedded on the run loop before the transaction that needs the vectors. Expired items are not seen.
    """

    supports_ttl = True
    shared = True  # whether searches and listings show shared values
    index: Index | None = None

    def __init__(self, db: Db, ttl: TTLConfig | None = None) -> None:
        self.db = db
        self.ttl_config = ttl
        self.spawn: Callable[[Coroutine[Any, Any, T]], concurrent.futures.Future[T]]  # onto the run loop
        self.on_ttl: Callable[[], None] = lambda: None  # called when an item that expires was put

    def without_shared(self) -> Store:
        """Return the same store without shared values, for users who may not see each other's."""
        view = copy.copy(self)
        view.shared = False
        return view

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        vectors = embedding.result() if (embedding := self._embedding(ops, blocks=True)) else {}
        puts = any(isinstance(op, PutOp) for op in ops)
        results, read = (self.db.write_now if puts else self.db.look)(self._run, ops, vectors)
        if read:
            self.db.write_now(lambda conn: Items(conn).refresh(read))
        self._notice(ops)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        vectors = await asyncio.wrap_future(embedding) if (embedding := self._embedding(ops)) else {}
        puts = any(isinstance(op, PutOp) for op in ops)
        results, read = await (self.db.write if puts else self.db.read)(self._run, ops, vectors)
        if read:
            await self.db.write(lambda conn: Items(conn).refresh(read))
        self._notice(ops)
        return results

    def _embedding(self, ops: list[Op], blocks: bool = False) -> concurrent.futures.Future[Vectors] | None:
        """Start to embed the texts of operations; return None if there are none. Raises RuntimeError if the caller
        `blocks` the thread of an event loop until that is done."""
        index = self.index
        if index is None or not any(map(index.concerns, ops)):
            return None
        if blocks and asyncio._get_running_loop() is not None:
            raise RuntimeError("the store has to embed text first: in an async node await its aput or asearch")
        return self.spawn(index.vectors(ops))

    def _notice(self, ops: list[Op]) -> None:
        if any(isinstance(op, PutOp) and op.ttl for op in ops):
            self.on_ttl()

    def _run(
        self, conn: sqlite3.Connection, ops: list[Op], vectors: Vectors
    ) -> tuple[list[Result], list[tuple[str, str]]]:
        """Return the results, and (prefix, key) of the items that were read with `refresh_ttl`."""
        items, results, read = Items(conn, self.shared), list[Result](), list[tuple[str, str]]()
        for n, op in enumerate(ops):
            found: Result = None
            rows: list[sqlite3.Row] = []
            if isinstance(op, ListNamespacesOp):
                found = list_namespaces(items, op)
            elif isinstance(op, GetOp):
                _check_labels(op.namespace)
                rows = [row] if (row := items.get(op.namespace, op.key)) else []
                found = Item(**self._fields(rows[0])) if rows else None
            elif isinstance(op, SearchOp):
                _check_labels(op.namespace_prefix)
                vector = vectors[n][0][1] if n in vectors else None
                rows = items.search(op.namespace_prefix, op.filter, op.limit, op.offset, vector)
                found = [SearchItem(**self._fields(row), score=row["score"]) for row in rows]
            else:
                self._put(items, op, vectors.get(n, []))
            if isinstance(op, GetOp | SearchOp) and op.refresh_ttl:
                read += [(row["prefix"], row["key"]) for row in rows if row["ttl_minutes"] is not None]
            results.append(found)
        return results, read

    def _put(self, items: Items, op: PutOp, vectors: list[tuple[str, bytes]]) -> None:
        _check_labels(op.namespace)
        prefix = ".".join(op.namespace)
        if op.value is None:
            items.delete(prefix, op.key)
            return
        # A shared value expires only if a client has asked for that: a node writes it without a time to live.
        by_default = op.namespace[0] == SHARED_ROOT and op.ttl == (self.ttl_config or {}).get("default_ttl")
        text = kept_json(op.value, op.namespace, op.key)
        items.put(prefix, op.key, text, None if by_default else op.ttl, vectors)

    @staticmethod
    def _fields(row: sqlite3.Row) -> JsonObject:
        return {
            "namespace": tuple(row["prefix"].split(".")),
            "key": row["key"],
            "value": orjson.loads(row["value"]),
            "created_at": parse_moment(row["created_at"]),
            "updated_at": parse_moment(row["updated_at"]),
        }


def _check_labels(namespace: Sequence[str]) -> None:
    for label in namespace:
        if not label or "." in label:
            raise Invalid(f"Namespace label '{label}' must be a non-empty string without periods")


def list_namespaces(items: Items, op: ListNamespacesOp) -> list[tuple[str, ...]]:
    """Return matching namespaces, sorted, cut to `max_depth`, without duplicates; `*` matches one label."""
    namespaces = items.namespaces()
    for condition in op.match_conditions or ():
        _check_labels(condition.path)
        size, ends = len(condition.path), condition.match_type == "suffix"
        namespaces = [
            namespace
            for namespace in namespaces
            if len(namespace) >= size
            and all(
                pattern in ("*", label)
                for pattern, label in zip(
                    condition.path, namespace[-size or None :] if ends else namespace, strict=False
                )
            )
        ]
    cut = sorted({namespace[: op.max_depth] for namespace in namespaces})
    return cut[op.offset : op.offset + op.limit]


def prune_history(conn: sqlite3.Connection, serde: SerializerProtocol, thread_id: str, keep: int = 1) -> None:
    """Delete a thread's history but for the checkpoints that its latest `keep` states need: theirs; those of subgraphs
    that had not ended or have a state of their own; and each one's ancestors that hold parts of its delta channels."""
    newest_first = conn.execute(
        "SELECT checkpoint_ns, checkpoint_id, json_extract(CAST(metadata AS TEXT), '$.parents.\"\"') "
        "FROM checkpoints WHERE thread_id = ? ORDER BY checkpoint_id DESC",
        (thread_id,),
    ).fetchall()
    roots = [checkpoint_id for namespace, checkpoint_id, _ in newest_first if not namespace][:keep]
    latest: dict[tuple[str, str | None], str] = {}  # by the namespace, and by the state that a subgraph's belongs to
    for namespace, checkpoint_id, parent in newest_first:
        if not namespace and checkpoint_id in roots:
            latest[namespace, checkpoint_id] = checkpoint_id
        elif namespace and parent in roots:
            latest.setdefault((namespace, parent), checkpoint_id)
        if namespace and ":" not in namespace:  # with ':' it belongs to one task of its parent
            latest.setdefault((namespace, None), checkpoint_id)
    kept = {
        (namespace, needed): None
        for (namespace, _), checkpoint_id in latest.items()
        for needed in _delta_chain(conn, serde, thread_id, namespace, checkpoint_id)
    }
    places = _json_text([*kept])
    for table in ("checkpoints", "writes", "run_writes"):
        conn.execute(
            f"DELETE FROM {table} WHERE thread_id = ? AND (checkpoint_ns, checkpoint_id) NOT IN "
            "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))",
            (thread_id, places),
        )
    conn.execute(
        "UPDATE checkpoints SET parent_checkpoint_id = NULL WHERE thread_id = ? AND (checkpoint_ns, "
        "parent_checkpoint_id) NOT IN "
        "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))",
        (thread_id, places),
    )


def _delta_chain(
    conn: sqlite3.Connection, serde: SerializerProtocol, thread_id: str, namespace: str, checkpoint_id: str | None
) -> list[str]:
    """Return a checkpoint with its ancestors, back to where each of its delta channels was stored whole."""
    query = (
        "SELECT parent_checkpoint_id, type, checkpoint, metadata FROM checkpoints "
        "WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
    )
    chain: list[str] = []
    missing: set[str] | None = None
    while checkpoint_id and (row := conn.execute(query, (thread_id, namespace, checkpoint_id)).fetchone()):
        chain.append(checkpoint_id)
        if missing is None:
            missing = set(orjson.loads(row["metadata"]).get("counters_since_delta_snapshot") or ())
        if missing:
            checkpoint = serde.loads_typed((row["type"], row["checkpoint"]))
            missing = (missing & checkpoint["channel_versions"].keys()) - checkpoint["channel_values"].keys()
        checkpoint_id = row["parent_checkpoint_id"] if missing else None
    return chain


def thread_storage(conn: sqlite3.Connection, serde: JsonPlusSerializer, thread_id: str) -> JsonObject:
    """Return counts and bytes of a thread's checkpoints, channels (once per version) and pending writes."""
    versions: dict[tuple[str, str, Any], int] = {}
    count = size = 0
    query = "SELECT checkpoint_ns, type, checkpoint, length(metadata) FROM checkpoints WHERE thread_id = ?"
    for namespace, typ, blob, metadata_size in conn.execute(query, (thread_id,)):
        count, size = count + 1, size + len(blob) + metadata_size
        checkpoint = serde.loads_typed((typ, blob))
        for channel, value in checkpoint["channel_values"].items():
            version = (namespace, channel, checkpoint["channel_versions"].get(channel))
            if version not in versions:
                versions[version] = len(serde.dumps_typed(value)[1])
    by_channel: dict[str, dict[str, int]] = {}
    for (_, channel, _), value_size in versions.items():
        entry = by_channel.setdefault(channel, {"versions": 0, "bytes": 0})
        entry["versions"] += 1
        entry["bytes"] += value_size
    values_size = sum(versions.values())
    query = "SELECT count(*), coalesce(sum(length(value)), 0) FROM writes WHERE thread_id = ?"
    writes_count, writes_size = conn.execute(query, (thread_id,)).fetchone()
    return {
        "thread_id": thread_id,
        "total_bytes": size + writes_size,
        "checkpoints": {"count": count, "bytes": max(0, size - values_size)},
        "channel_values": {"count": len(versions), "bytes": values_size, "by_channel": by_channel},
        "pending_writes": {"count": writes_count, "bytes": writes_size},
    }


########################################################################################################
# 7  Graphs
########################################################################################################

# Keys of langgraph.json that matter only for container images, or to people who read it.
_BUILD_KEYS = {
    *("api_version", "base_image", "building_tools", "description", "dockerfile_lines", "image_distro"),
    *("internal_docker_tag", "keep_pkg_tools", "name", "node_version", "package_manager", "pip_config_file"),
    *("pip_installer", "python_version", "source", "version"),
}
_COMMENT_MARKS = ("$", "_", "/", "#")  # "$schema", "_INTERNAL_docker_tag", "//"


class SettingsPart(BaseModel):
    """An object in langgraph.json: types are strict, null means absent, unknown keys are allowed."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            raise ValueError("must be an object")
        return {key: value for key, value in raw.items() if value is not None}

    def unknown(self, raw: JsonObject) -> list[str]:
        """Return the names of keys that this version does not know."""
        names = [key for key, value in raw.items() if key not in type(self).model_fields and value]
        parts = {key: part for key, part in self if isinstance(part, SettingsPart)}
        return names + [f"{key}.{name}" for key, part in parts.items() for name in part.unknown(raw.get(key) or {})]


class Cors(SettingsPart):
    """Which web pages may use the server, besides those of this machine."""

    allow_origins: list[str] = Field(default_factory=list)
    allow_origin_regex: str | None = None
    allow_methods: list[str] = ["*"]
    allow_headers: list[str] = ["*"]
    allow_credentials: bool = False
    expose_headers: list[str] = ["x-pagination-total", "x-pagination-next", "content-location"]
    max_age: int = 600

    @field_validator("allow_origin_regex")
    @classmethod
    def _is_regex(cls, pattern: str) -> str:
        try:
            re.compile(f"|{pattern}")  # it becomes one of several alternatives
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class HeaderPatterns(SettingsPart):
    """Which request headers enter a run's configurable; `*` stands for any characters."""

    SECRET: ClassVar = ("x-api-key", "x-tenant-id", "x-service-key")

    includes: list[str] = Field(default_factory=list)
    excludes: list[str] = Field(default_factory=list)
    include: list[str] = Field(default_factory=list)  # another name for the same
    exclude: list[str] = Field(default_factory=list)

    def select(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
        includes, excludes = (*self.includes, *self.include), (*self.excludes, *self.exclude, *self.SECRET)
        chosen = {name for pattern in includes for name in fnmatch.filter(named, pattern.lower())}
        chosen -= {name for pattern in excludes for name in fnmatch.filter(chosen, pattern.lower())}
        return without_own({name: named[name] for name in named if name in chosen})


class HttpSettings(SettingsPart):
    """What is served over HTTP, and how: `http` in langgraph.json."""

    app: str | None = None
    middleware_order: Literal["middleware_first", "auth_first"] = "middleware_first"
    enable_custom_route_auth: bool = False
    allowed_hosts: list[str] = Field(default_factory=list)
    cors: Cors = Field(default_factory=Cors)
    configurable_headers: HeaderPatterns = Field(default_factory=HeaderPatterns)
    mount_prefix: str = ""
    disable_assistants: bool = False
    disable_threads: bool = False
    disable_runs: bool = False
    disable_store: bool = False
    disable_mcp: bool = False
    disable_a2a: bool = False
    disable_meta: bool = False
    disable_ui: bool = False
    disable_webhooks: bool = False

    @field_validator("mount_prefix")
    @classmethod
    def _is_path(cls, prefix: str) -> str:
        if not re.fullmatch(r"((/[\w.~-]+)+)?", prefix):
            raise ValueError("it must look like '/api', without a slash at its end")
        return prefix

    def disables(self, path: str) -> bool:
        """Return whether one of the `disable_...` keys turns off a path."""
        first, _, below = path[1:].partition("/")
        if path in META_PATHS:
            group = "meta"
        elif first == "threads" and below.partition("/")[2].startswith(("runs", "commands", "stream/events")):
            group = "runs"
        else:
            group = "a2a" if first == ".well-known" else first
        return bool(getattr(self, f"disable_{group}", False))


META_PATHS = ("/", "/ui", "/info", "/metrics", "/docs", "/openapi.json")


class WebhookUrls(SettingsPart):
    """Where webhooks may go. By default that includes this machine, where a developer's other servers run."""

    require_https: bool = True
    allowed_domains: list[str] = Field(default_factory=list)
    allowed_ports: list[int] = Field(default_factory=list)
    max_url_length: int = 4096
    disable_loopback: bool = False


class WebhookSettings(SettingsPart):
    """The headers sent to webhooks, and which URLs are allowed: `webhooks` in langgraph.json."""

    env_prefix: str = "LG_WEBHOOK_"
    url: WebhookUrls = Field(default_factory=lambda: WebhookUrls(require_https=False))
    headers: dict[str, str] = Field(default_factory=dict)

    def filled_headers(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the headers, `${{ env.NAME }}` filled in. Raises StartError, which shows names and never a value."""

        def fill(found: re.Match[str]) -> str:
            name = found[1]
            if not name.startswith(self.env_prefix):
                raise StartError(f"webhooks.headers: the name of {name} does not begin with '{self.env_prefix}'")
            if name not in environment:
                raise StartError(f"webhooks.headers: {name} is not set in the environment")
            return environment[name]

        filled = {}
        for key, text in self.headers.items():
            if "${{" in _ENV_TEMPLATE.sub("", text):
                raise StartError(f"webhooks.headers: {key} has a template that is not like ${{{{ env.NAME }}}}")
            filled[key.lower()] = value = _ENV_TEMPLATE.sub(fill, text)
            if not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value):
                raise StartError(f"webhooks.headers: the value of {key} cannot be sent in a header")
        return filled


_ENV_TEMPLATE = re.compile(r"\${{\s*env\.(\w+)\s*}}")


class StoreIndex(SettingsPart):
    """The embedding that turns texts into vectors of `dims` numbers, and the fields of items to embed."""

    embed: str
    dims: Annotated[int, Field(ge=1)]
    fields: list[str] | None = None


class StoreTtl(SettingsPart):
    """How long items live, and how often expired ones are deleted (None: at once)."""

    default_ttl: Minutes | None = None
    refresh_on_read: bool = True
    sweep_interval_minutes: Minutes | None = None


class StoreSettings(SettingsPart):
    """How items are found by their meaning, and when they expire: `store` in langgraph.json."""

    index: StoreIndex | None = None
    ttl: StoreTtl = Field(default_factory=StoreTtl)


class CheckpointerTtl(SettingsPart):
    """How long threads live, what happens to expired ones, how often (None: at once), and to how many at a time."""

    strategy: Literal["delete", "keep_latest"] = "delete"
    keep: Kept = 1
    default_ttl: Minutes | None = None
    sweep_interval_minutes: Minutes | None = None
    sweep_limit: Annotated[int, Field(ge=1)] = 1000


class CheckpointerSerde(SettingsPart):
    """Classes whose objects checkpoints may hold, as [module, name]; true allows all."""

    allowed_json_modules: list[list[str]] | bool | None = None
    allowed_msgpack_modules: list[list[str]] | bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, raw: Any) -> Any:
        return raw  # null means that no class is allowed

    def serializer(self) -> JsonPlusSerializer:
        """Return a serializer with the keys that are given, and its own defaults for the others."""
        allowed: JsonObject = {key: getattr(self, key) for key in self.model_fields_set}
        for key, modules in allowed.items():
            allowed[key] = [tuple(names) for names in modules] if isinstance(modules, list) else modules
        if "allowed_msgpack_modules" not in allowed:
            if os.environ.get("LANGGRAPH_STRICT_MSGPACK", "").lower() in ("1", "true", "yes"):
                allowed["allowed_msgpack_modules"] = None
            else:
                allowed["__unpack_ext_hook__"] = _create_msgpack_ext_hook(cast(Any, DataTypes()))
        return Serializer(**allowed)


class CheckpointerSettings(SettingsPart):
    """When threads expire, and which classes checkpoints may hold: `checkpointer` in langgraph.json."""

    ttl: CheckpointerTtl = Field(default_factory=CheckpointerTtl)
    serde: CheckpointerSerde = Field(default_factory=CheckpointerSerde)

    def default_ttl(self) -> JsonObject | None:
        """Return the ttl of a thread that was given none."""
        minutes = self.ttl.default_ttl
        ttl = {"ttl": minutes, "strategy": self.ttl.strategy, "keep": self.ttl.keep}
        return ttl if minutes is not None else None


class CodeSpec(SettingsPart):
    """A variable in a file or a module of the application."""

    path: str

    @field_validator("path")
    @classmethod
    def _is_python(cls, path: str) -> str:
        source, _, variable = path.rpartition(":")
        if not source or not variable.isidentifier():  # C:\agent.py has a colon, too
            raise ValueError("must be 'file.py:variable' or 'module:variable'")
        if Path(source).suffix in JAVASCRIPT:
            raise ValueError(f"{source} is JavaScript; devserver serves Python only")
        return path


JAVASCRIPT = (".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx", ".mts", ".cts")


class AuthSpec(CodeSpec):
    """The application's Auth: `auth` in langgraph.json. To ignore an unknown key might leave something open."""

    model_config = ConfigDict(extra="forbid")

    disable_studio_auth: Annotated[bool, Field(strict=False)] = False  # also "true" and "false"
    openapi: dict[str, Any] = Field(default_factory=dict)
    cache: Any = None


class GraphSpec(CodeSpec):
    """A graph: an entry of `graphs` in langgraph.json, by its id; there it may be a path alone."""

    graph_id: str
    description: str | None = None

    def __str__(self) -> str:
        return f"graph '{self.graph_id}' ({self.path})"


class Settings(SettingsPart):
    """The contents of langgraph.json at `path`. `not_served` names the keys that are ignored."""

    path: Path
    not_served: list[str] = Field(default_factory=list)
    graphs: dict[str, GraphSpec]
    dependencies: list[Any] = Field(default_factory=list)
    env: Any = ""
    http: HttpSettings = Field(default_factory=HttpSettings)
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    ui: dict[str, Any] = Field(default_factory=dict)  # by the ids of graphs that have components of their own
    store: StoreSettings = Field(default_factory=StoreSettings)
    checkpointer: CheckpointerSettings = Field(default_factory=CheckpointerSettings)
    auth: AuthSpec | None = None

    @field_validator("graphs", mode="before")
    @classmethod
    def _with_ids(cls, graphs: Any) -> Any:
        if not isinstance(graphs, dict):
            raise ValueError("must be an object")
        return {
            graph_id: {**(given if isinstance(given, dict) else {"path": given}), "graph_id": graph_id}
            for graph_id, given in graphs.items()
        }

    @property
    def roots(self) -> list[Path]:
        """Return the folders for the module path: that of langgraph.json, and the folders in `dependencies`."""
        root = self.path.resolve().parent
        named = [root / name for name in self.dependencies if isinstance(name, str)]
        return [root, *(folder.resolve() for folder in named if folder.is_dir())]

    @property
    def env_file(self) -> Path | None:
        return self.path.parent / self.env if self.env and isinstance(self.env, str) else None

    def environment(self) -> dict[str, str]:
        """Return the variables of `env`: an object's, or those of a file if it is there. Raises StartError."""
        if isinstance(self.env, dict):
            return {key: str(value) for key, value in self.env.items() if value is not None}
        if not isinstance(self.env, str):
            raise StartError(f"{self.path}: 'env' must be the path of a file, or an object")
        return read_env_file(self.env_file if self.env_file and self.env_file.exists() else None)


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, or as PowerShell writes it, with a mark at its start or in UTF-16."""
    data = path.read_bytes()
    return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")


def read_settings(path: Path) -> Settings:
    """Read langgraph.json. Raises StartError naming file, key and cause."""
    try:
        raw = json.loads(read_text(path))
    except FileNotFoundError:
        raise StartError(
            f"{path} not found. Run devserver in the folder of your langgraph.json, or name it with --config."
        ) from None
    except (OSError, ValueError) as error:
        raise StartError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(raw, dict):
        raise StartError(f"{path}: expected a JSON object")
    if not raw.get("graphs"):
        raise StartError(f'{path}: \'graphs\' names no graph, e.g. {{"graphs": {{"agent": "./agent.py:graph"}}}}')
    if raw.get("encryption"):
        problem = "is not served yet, and without it everything would be stored in plain text. Remove it to go on."
        raise StartError(f"{path}: 'encryption' {problem}")
    try:
        settings = Settings.model_validate({**raw, "path": path, "auth": raw.get("auth") or None})
    except ValidationError as error:
        wrong = error.errors()[0]
        key, problem = ".".join(map(str, wrong["loc"])), wrong["msg"].removeprefix("Value error, ")
        if wrong["type"] == "extra_forbidden":
            problem = "is not served. Remove it to go on."
        raise StartError(f"{path}: '{key}': {problem}") from None
    if not settings.auth and (settings.http.enable_custom_route_auth or settings.http.middleware_order == "auth_first"):
        raise StartError(f"{path}: http.enable_custom_route_auth and auth_first need 'auth'")
    ignored = ["ui"] if settings.ui else []  # a client that asks for a component gets a 501
    ignored += [key for key in settings.unknown(raw) if key not in _BUILD_KEYS and not key.startswith(_COMMENT_MARKS)]
    if settings.auth and settings.auth.cache is not None:
        ignored.append("auth.cache")  # each request is authenticated anew
    return settings.model_copy(update={"not_served": ignored})


def read_env_file(path: Path | None) -> dict[str, str]:
    """Return the variables of a file, none without one. Raises StartError."""
    from dotenv import dotenv_values

    if path is None:
        return {}
    if not path.is_file():
        raise StartError(f"environment file {path} not found")
    try:
        found = dotenv_values(stream=io.StringIO(read_text(path)))
        return {key: value for key, value in found.items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"environment file {path} cannot be read: {error}") from None


@dataclass(frozen=True)
class LoadedGraph:
    """A graph ready to run, or the factory that makes it for each use."""

    spec: GraphSpec
    name: str  # the graph's own, if it was given one
    graph: Graph | None
    factory: Callable[..., Any] | None = None
    shared: frozenset[tuple[str, str]] = frozenset()  # (scope, state key) of its shared values


# -- loading --


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function. From Python 3.14 on its annotations may have undefined names."""
    options: JsonObject = {}
    with contextlib.suppress(ImportError):  # before 3.14
        options["annotation_format"] = importlib.import_module("annotationlib").Format.FORWARDREF
    return list(inspect.signature(function, **options).parameters.values())


class CopiedBarrier(NamedBarrierValue[Any]):
    """A barrier whose checkpoint is a copy: it may be serialized only after a superstep has changed the barrier."""

    __slots__ = ()

    def checkpoint(self) -> set[Any]:
        return set(self.seen)


class Graphs:
    """The graphs of langgraph.json. A failed reload leaves the last good ones in place."""

    def __init__(
        self, settings: Settings, saver: Saver, store: Store, load_auth: Callable[[AuthSpec, Path], Any]
    ) -> None:
        self.settings = settings
        self.auth: Any = None  # the application's Auth, if it has one
        self._load_auth = load_auth
        self._auth_spec = settings.auth  # never changes: a reload loads its code again, but can't turn it off
        self._saver = saver
        self._store = store
        self.loaded: dict[str, LoadedGraph] = {}  # by graph id
        self._warned: set[str] = set()
        self.thread_ttl = settings.checkpointer.default_ttl()  # of a thread that is given none
        self._broken: set[str] = set()  # files in the traceback of the last reload, if that failed

    def ids(self) -> list[str]:
        return sorted(self.loaded)

    def get(self, graph_id: str) -> LoadedGraph:
        """Return a graph. Raises NotFound, which names the graphs."""
        try:
            return self.loaded[graph_id]
        except KeyError:
            raise NotFound(f"Graph '{graph_id}' not found. Expected one of: {self.ids()}") from None

    def load(self) -> None:
        """Import every graph, and the application's Auth. Raises StartError, and changes nothing then."""
        old_home = types.ModuleType("langgraph.managed.shared_value")  # LangGraph 0.2 to 0.4 had it there
        vars(sys.modules.setdefault(old_home.__name__, old_home)).setdefault("SharedValue", SharedValue)
        for root in reversed(self.settings.roots):
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
        loaded = {spec.graph_id: self._load_one(spec) for spec in self.settings.graphs.values()}
        index = _load_index(self.settings) if self._store.db.vectors else None
        self.auth = self._load_auth(self._auth_spec, self.settings.path) if self._auth_spec else None
        self._store.index, self.loaded = index, loaded

    def reload(self) -> None:
        """Import the project's modules and graphs anew; if that fails, the old ones stay."""
        settings = read_settings(self.settings.path)
        modules = {name: module for name, module in sys.modules.items() if self._is_project_module(name, module)}
        old = self.settings
        for name, module in modules.items():
            del sys.modules[name]
            # else Python takes a file changed twice within a second, to the same length, for unchanged
            with contextlib.suppress(OSError, NotImplementedError, ValueError):
                os.unlink(importlib.util.cache_from_source(module.__file__ or ""))
        importlib.invalidate_caches()
        self._broken = set()
        try:
            self.settings = settings
            self.load()
        except BaseException as error:
            self.settings, self._broken = old, set(_files_of(error))
            sys.modules.update(modules)
            raise

    def folders(self) -> set[str]:
        """Return the folders to watch: of langgraph.json, of imported project modules, of files that failed to load."""
        modules = list(sys.modules.items())
        files = [module.__file__ for name, module in modules if self._is_project_module(name, module)]
        folders = {str(self.settings.path.resolve().parent)}
        folders |= {str(Path(file).parent) for file in [*files, *self._broken] if file}
        return {folder for folder in folders if os.path.isdir(folder)}

    def _is_project_module(self, name: str, module: types.ModuleType) -> bool:
        file = getattr(module, "__file__", None)
        if not file or name in (__name__, "__main__") or name.partition(".")[0] == "devserver":
            return False
        return not _is_library(file) and any(
            path.is_relative_to(root) and "node_modules" not in path.relative_to(root).parts
            for root in self.settings.roots
            for path in (Path(file), Path(file).resolve())  # a folder may have other names: links, PROGRA~1
        )

    def serve(self, given: Mapping[str, Any]) -> None:
        """Serve these graphs or factories in place of those that are loaded. Raises StartError."""
        specs = {graph_id: GraphSpec(graph_id=graph_id, path="given:graph") for graph_id in given}
        self.loaded = {
            graph_id: target if isinstance(target, LoadedGraph) else self._to_loaded(specs[graph_id], target)
            for graph_id, target in given.items()
        }

    def _load_one(self, spec: GraphSpec) -> LoadedGraph:
        return self._to_loaded(spec, import_object(str(spec), spec.path, self.settings.path))

    def _to_loaded(self, spec: GraphSpec, target: Any) -> LoadedGraph:
        try:
            if isinstance(target, StateGraph):
                target = target.compile()
            if isinstance(target, Pregel):
                graph = self.prepare(spec, target)
                keys = ((c.scope, name) for _, name, c in _channels(graph) if isinstance(c, SharedValue))
                return LoadedGraph(spec, graph.name, graph, shared=frozenset(keys))
        except StartError:
            raise
        except Exception as error:
            raise StartError(f"{spec} cannot be compiled: {_import_problem(error, self.settings.path)}") from error
        if not callable(target):
            raise StartError(f"{spec} is a {type(target).__name__}, not a graph nor a function that makes one")
        return LoadedGraph(spec, spec.graph_id, None, target)

    def prepare(self, spec: GraphSpec, graph: Graph) -> Graph:
        """Return a copy of a graph that uses the server's checkpointer and store, with its shared keys hidden."""
        own = [name for name in ("checkpointer", "store") if getattr(graph, name) not in (None, True, False)]
        if own and spec.graph_id not in self._warned:
            self._warned.add(spec.graph_id)
            log.warning("%s has its own %s: devserver's is used instead", spec, " and ".join(own))
        _share(spec, graph)
        for each, key, channel in _channels(graph):
            if type(channel) is NamedBarrierValue:
                each.channels[key] = copied = CopiedBarrier(channel.typ, channel.names)
                copied.key = key
        name = graph.name if graph.name not in ("LangGraph", "") else spec.graph_id
        return graph.copy({"checkpointer": self._saver, "store": self._store, "name": name})

    @contextlib.asynccontextmanager
    async def open(self, graph_id: str, config: JsonObject, access: str, context: Any = None) -> AsyncIterator[Graph]:
        """Yield the graph; a factory makes it, and its context, if it is a context manager, is left afterwards.

        `access` is the factory's purpose: threads.create_run, threads.update, threads.read, assistants.read. Raises
        NotFound, or TypeError for a wrong factory."""
        entry = self.get(graph_id)
        if entry.graph is not None:
            yield entry.graph
            return
        async with contextlib.AsyncExitStack() as stack:
            graph = cast(Callable[..., Any], entry.factory)(*self._arguments(entry, config, access, context))
            if inspect.isawaitable(graph):
                graph = await graph
            if hasattr(graph, "__aenter__"):
                graph = await stack.enter_async_context(graph)
            elif hasattr(graph, "__enter__"):
                graph = stack.enter_context(graph)
            if isinstance(graph, StateGraph):
                graph = graph.compile()
            if not isinstance(graph, Pregel):
                raise TypeError(f"{entry.spec} made a {type(graph).__name__}, not a graph")
            yield self.prepare(entry.spec, graph)

    def _arguments(self, entry: LoadedGraph, config: JsonObject, access: str, context: Any) -> list[Any]:
        """Return a factory's arguments: none, config, runtime or both, by annotation or name. Raises TypeError."""
        from langgraph_sdk import runtime

        parameters = [
            parameter
            for parameter in parameters_of(cast(Callable[..., Any], entry.factory))
            if parameter.default is parameter.empty and parameter.kind in (0, 1)
        ]
        if len(parameters) > 2:
            raise TypeError(f"{entry.spec} takes {len(parameters)} arguments; a factory takes config and runtime")
        user = config.get("configurable", {}).get("langgraph_auth_user")
        known: JsonObject = {"access_context": access, "user": user, "store": self._store}
        runs = access == "threads.create_run"
        given = runtime._ExecutionRuntime(**known, context=context) if runs else runtime._ReadRuntime(**known)
        return [given if "Runtime" in str(each.annotation) or each.name == "runtime" else config for each in parameters]


def _load_index(settings: Settings) -> Index | None:
    """Return the index that `store.index` describes. Raises StartError."""
    spec = settings.store.index
    if spec is None:
        return None
    try:
        embeddings = ensure_embeddings(_embed_target(spec.embed, settings.path.resolve().parent))
    except (Exception, SystemExit) as error:  # whatever the user's code raises while it is imported
        problem = _import_problem(error, settings.path)
        raise StartError(f"{settings.path}: store.index.embed '{spec.embed}' cannot be used: {problem}") from error
    return Index(embeddings, spec.dims, spec.fields or ["$"])


def _embed_target(embed: str, root: Path) -> Any:
    """Return the project's function or Embeddings object that `embed` names, or else the embeddings of a model."""
    source, _, name = embed.rpartition(":")
    if embed.endswith(".py"):
        raise ValueError("the function in that file is missing: 'file.py:function'")
    if source.endswith(".py") or (name.isidentifier() and _module_spec(source)):
        target = getattr(_import_source(source, root), name)
        if isinstance(target, Embeddings) or (callable(target) and not isinstance(target, type)):
            return target
        raise TypeError(f"'{name}' is neither a function nor an Embeddings object")
    try:
        return importlib.import_module("langchain.embeddings").init_embeddings(embed)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "langchain":
            raise
        raise ImportError(f"a model needs langchain. {how_to_install('models')}") from None


# The packages in pyproject.toml's extras: messages name these, since devserver itself may be on no package index.
EXTRAS = {"debug": "debugpy>=1.8", "models": "langchain>=1.2.11"}


def how_to_install(extra: str) -> str:
    return f"Install it where devserver is installed: python -m pip install '{EXTRAS[extra]}'"


def _module_spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def relative(path: str, folder: str = os.curdir) -> str:
    """Return a path relative to a folder, or unchanged if it can't be: on another drive of Windows."""
    with contextlib.suppress(OSError, ValueError):  # or the current folder is gone
        return os.path.relpath(path, folder)
    return path


def _import_source(source: str, root: Path) -> types.ModuleType:
    """Import a module by its name, or a file by its path.

    A file gets the name under which the project itself would import it, if it has one: LangGraph stores
    names of classes in checkpoints, so names must stay the same from start to start.
    """
    source = source.replace("\\", "/")
    if not source.endswith(".py"):
        return importlib.import_module(source.replace("/", ".").lstrip("."))
    file = (root / source).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    if file.is_relative_to(root):
        name = ".".join(file.relative_to(root).with_suffix("").parts)
        found = _module_spec(name) if all(part.isidentifier() for part in name.split(".")) else None
        if found and found.origin and Path(found.origin).resolve() == file:
            return importlib.import_module(name)
    relative_path = relative(str(file), str(root)).replace(os.sep, "/").encode()
    name = f"{file.stem}_{hashlib.sha1(relative_path, usedforsecurity=False).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def import_object(what: str, named: str, path: Path) -> Any:
    """Import `file.py:variable` of the user's code, `named` in langgraph.json at `path`. Raises StartError."""
    source, _, variable = named.rpartition(":")
    try:
        module = _import_source(source, path.resolve().parent)
    except BaseException as error:  # whatever the user's code raises while it is imported
        if isinstance(error, KeyboardInterrupt):
            raise
        raise StartError(f"{what} cannot be imported: {_import_problem(error, path)}") from error
    try:
        return getattr(module, variable)
    except AttributeError:
        raise StartError(f"{what}: there is no '{variable}' in {source}") from None


def _import_problem(error: BaseException, path: Path) -> str:
    """Describe an exception in user code: the line that raised it, and how to get a module that was not found."""
    line = None if isinstance(error, SyntaxError) else user_line(error)
    text = f"{type(error).__name__}: {error}" + (f" (at {line})" if line else "")
    if isinstance(error, ModuleNotFoundError) and error.name and not _module_spec(top := error.name.partition(".")[0]):
        text += f". {_where_to_get(top, error, path.resolve().parent)}"
    return text


def user_line(error: BaseException) -> str | None:
    """Return FILE:LINE of the innermost user code in an exception's traceback, None if it has none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None


def _where_to_get(module: str, error: BaseException, root: Path) -> str:
    """Return a hint for a missing module: add the project's folder that has it, such as `src`, or install it."""
    folders = [folder for file in _files_of(error) for folder in Path(file).parents if folder.is_relative_to(root)]
    folders += [folder for folder in sorted(root.iterdir()) if not folder.name.startswith(".")]
    pip = f"{sys.executable} -m pip install"
    for folder in folders:
        if (folder / module).is_dir() or (folder / f"{module}.py").is_file():
            path = f"./{folder.relative_to(root).as_posix()}"
            add = f'add "{path}" to "dependencies" in langgraph.json'
            return f"The project has '{module}' in {path}: {add}, or install the project: {pip} -e ."
    return f"Install the package that provides '{module}' for this server: {pip} {module.replace('_', '-')}"


def _files_of(error: BaseException | None) -> Iterator[str]:
    """Yield the user's files in the tracebacks of an error and its causes."""
    while error is not None:
        names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        names += [error.filename or ""] if isinstance(error, SyntaxError) else []
        yield from (name for name in names if name and not _is_library(name))
        error = error.__cause__


_STDLIB = os.path.join(os.path.normcase(os.path.dirname(os.__file__)), "")


def _is_library(filename: str) -> bool:
    if filename.startswith("<") or filename == __file__ or os.path.normcase(filename).startswith(_STDLIB):
        return True
    return "site-packages" in filename or "dist-packages" in filename


def _subgraphs(graph: Graph) -> list[Graph]:
    """Return the graphs that a graph's nodes call, as far as their code shows. LangGraph's own `get_subgraphs` leaves
    out those compiled with `checkpointer=False`, and all but the first of a node."""
    candidates: list[Any] = [node.bound for node in graph.nodes.values()]
    subgraphs: list[Graph] = []
    seen: set[int] = set()
    for candidate in candidates:
        if id(candidate) in seen:
            continue
        seen.add(id(candidate))
        if isinstance(candidate, Pregel):
            subgraphs.append(candidate)
        elif isinstance(candidate, Runnable):  # a sequence, a binding, or a function
            steps = getattr(candidate, "steps", None)
            candidates += [*(steps if isinstance(steps, list) else ()), getattr(candidate, "bound", None)]
            if function := getattr(candidate, "func", None) or getattr(candidate, "afunc", None):
                candidates += [getattr(value, "__self__", value) for value in get_function_nonlocals(function)]
    return subgraphs


def _channels(graph: Graph) -> Iterator[tuple[Graph, str, Any]]:
    """Yield (graph, name, channel) of a graph and of all that are nested in it, each graph once."""
    graphs = [graph]
    for each in graphs:
        graphs += [subgraph for subgraph in _subgraphs(each) if subgraph not in graphs]
        yield from ((each, name, channel) for name, channel in list(each.channels.items()))


def _share(spec: GraphSpec | str, graph: Graph, above: tuple[Graph, ...] = ()) -> dict[str, SharedValue]:
    """Hide a graph's shared keys from its outputs, and add those of its subgraphs, so that it passes them on. Return
    all these channels by key. Raises StartError for a key that can't be shared."""
    shared = {key: c for key, c in graph.channels.items() if isinstance(c, SharedValue)}
    for key, channel in shared.items():
        _check_shared(spec, key, channel)
        channel.key = key
    for subgraph in _subgraphs(graph):
        if subgraph in (graph, *above):  # a graph may contain itself
            continue
        for key, channel in _share(spec, subgraph, (graph, *above)).items():
            if key not in graph.channels:
                shared[key] = graph.channels[key] = type(channel)(channel.typ, key)
    if shared:
        graph.channels.pop(SuperstepEnd.NAME, None)
        graph.stream_channels = _without(graph, graph.stream_channels_asis, shared)
        graph.output_channels = _without(graph, graph.output_channels, shared) or []
        graph.channels[SuperstepEnd.NAME] = SuperstepEnd()
        if type(old_start := graph.channels.get(START)) is EphemeralValue:
            graph.channels[START] = start = SharedInput(old_start.typ, old_start.guard)
            start.key = START
    return shared


def _check_shared(spec: GraphSpec | str, key: str, channel: SharedValue) -> None:
    typ = channel.typ
    while typing.get_origin(typ) in (typing.Required, typing.NotRequired):
        typ = typing.get_args(typ)[0]
    origin = typing.get_origin(typ) or typ
    is_class = isinstance(origin, type) and not typing.is_typeddict(origin)
    if not (is_class and issubclass(origin, Mapping) and issubclass(dict, origin)):
        raise StartError(f"{spec}: shared state key '{key}' must be annotated as a dict, not {typ}")
    if not channel.scope:
        raise StartError(f"{spec}: shared state key '{key}' needs a scope: SharedValue.on(\"user_id\")")


def _without(graph: Graph, channels: str | Sequence[str], shared: Mapping[str, Any]) -> str | Sequence[str]:
    if isinstance(channels, str):
        return channels
    kept = [key for key in channels if key not in shared]
    if not kept:  # no channels would mean all channels
        graph.channels.setdefault("__nothing__", EphemeralValue(Any))
        kept = ["__nothing__"]
    return kept


# -- shared values beyond devserver --


class StoreScope(SharedScope):
    """The shared values of a run elsewhere: items of the run's LangGraph store, read when it starts. A superstep's are
    stored before its checkpoint: none is lost, and after a crash the superstep may be done again, on its own items."""

    def __init__(self, store: BaseStore, saver: Any, sources: Sequence[Mapping[str, Any]], **options: Any) -> None:
        super().__init__(sources, self._search, **options)
        self._store, self._top = store, _task_path()
        self.saver = self._ordered(saver) if isinstance(saver, BaseCheckpointSaver) else None

    def _search(self, prefix: str) -> dict[str, bytes]:
        space = tuple(prefix.split("."))  # found are items of longer namespaces, too
        (found,) = cast(Any, self._store.batch([SearchOp(space, limit=1_000_000)]))
        return {item.key: kept_json(item.value, space, item.key) for item in found if tuple(item.namespace) == space}

    def put(self, writes: Iterable[SharedPuts]) -> None:
        new: Any = {(tuple(each.prefix.split(".")), key): text for each in writes for key, text in each.puts.items()}
        if new:
            self._store.batch([PutOp(at, key, text and orjson.loads(text), False) for (at, key), text in new.items()])

    def end(self) -> None:
        """Store the supersteps that no checkpoint takes: of runs without checkpointer, of graphs that nobody found."""
        if (top := _task_path()) == self._top:
            joined = {prefix for prefix, at in self._views if at == top}
            own = [top] if top or not self.saver else []
            left = [step for step in self.supersteps if step.holder.path in own or step.holder.prefix not in joined]
            self.put(SharedPuts(s.holder.prefix, s.puts) for s in left if s.settled and s.keeper is None)

    def _ordered(self, saver: BaseCheckpointSaver[Any]) -> Any:
        """Return a checkpointer for this run that stores a checkpoint's shared values, then the checkpoint."""

        def rest(checkpoint: Checkpoint) -> Any:
            values = dict(checkpoint["channel_values"])
            self.put([values.pop(key) for key in [*values] if isinstance(values[key], SharedPuts)])
            return {**checkpoint, "channel_values": values}

        async def aput(config: RunnableConfig, checkpoint: Checkpoint, *others: Any) -> RunnableConfig:
            return await saver.aput(config, await asyncio.to_thread(rest, checkpoint), *others)

        def whole(put: Any) -> Any:
            def put_writes(config: RunnableConfig, writes: Any, task_id: str, *path: str, **named: str) -> Any:
                stopped = {ERROR, INTERRUPT} & {channel for channel, _ in writes}
                return put(config, [*writes, *([] if stopped else self.of_task(task_id))], task_id, *path, **named)

            return functools.wraps(put)(put_writes)  # LangGraph looks at its parameters

        ordered: Any = copy.copy(saver)
        ordered.put = lambda config, checkpoint, *others: saver.put(config, rest(checkpoint), *others)
        ordered.aput, ordered.put_writes, ordered.aput_writes = aput, whole(saver.put_writes), whole(saver.aput_writes)
        return ordered


class Sharing(Graph):
    """A compiled graph whose shared keys are items of its run's store. A run has a copy of the graph, with channels
    that know the run's scope; graphs nested in it find the scope in their config."""

    def _bind(self, config: Any, context: Any = None, durability: Any = None, updates: bool = False, **_: Any) -> Any:
        """Return the graph, the config and the scope of a run or of an update; those given, and None, in devserver."""
        if RUN_SCOPE.get() is not None:
            return self, config, None
        own: JsonObject = dict((config or {}).get("configurable") or {})
        settings = {**((self.config or {}).get("configurable") or {}), **own}
        if not any(settings.get(key) for key in ("thread_id", *PLACE_KEYS)):  # else it is a thread of its own
            settings = {**(var_child_runnable_config.get() or {}).get("configurable", {}), **settings}
        run, shared = copy.copy(self), [each for each in self.channels.values() if isinstance(each, SharedValue)]
        if (scope := settings.get(SHARED_SCOPE)) is None:
            runtime = settings.get("__pregel_runtime")
            if (store := runtime.store if runtime else self.store) is None:
                graph = f"Graph '{self.get_name()}' shares {', '.join(each.key for each in shared)}"
                raise ValueError(f"{graph}: its run needs a store. Compile it as in share(builder.compile(store=...))")
            saver: Any = self.checkpointer is not False and settings.get("__pregel_checkpointer", self.checkpointer)
            if updates and saver and (last := saver.get_tuple({"configurable": {"checkpoint_ns": "", **settings}})):
                scopes = {each.scope for each in shared} - settings.keys()  # as the thread's last run had them
                own |= {name: value for name, value in last.metadata.items() if name in scopes}
            sources = {**settings, **own}, _fields(context or getattr(runtime, "context", None)) or {}
            at_exit = durability == "exit" or StoreScope.is_at_exit(settings) or not saver
            scope = StoreScope(store, saver, sources, at_exit=at_exit, updates=("", 0) if updates else None)
            if scope.saver and "__pregel_checkpointer" in settings:
                own["__pregel_checkpointer"] = scope.saver
            elif scope.saver:
                run.checkpointer = scope.saver
        scope.preload((each.scope, each.key) for each in shared)
        run.channels = dict(self.channels)
        for key, channel in self.channels.items():
            if isinstance(channel, SharedValue | SuperstepEnd):
                run.channels[key] = bound = copy.copy(channel)
                bound.run = scope
        return run, {**(config or {}), "configurable": {**own, SHARED_SCOPE: scope}}, scope

    def stream(self, input: Any, config: Any = None, **options: Any) -> Iterator[Any]:  # noqa: A002
        run, config, scope = self._bind(config, **options)
        try:
            yield from super(Sharing, run).stream(input, config, **options)
        finally:
            if scope:
                scope.end()

    async def astream(self, input: Any, config: Any = None, **options: Any) -> AsyncIterator[Any]:  # noqa: A002
        bind = functools.partial(self._bind, config, **options)
        run, config, scope = bind() if RUN_SCOPE.get() else await asyncio.to_thread(bind)
        try:
            async with contextlib.aclosing(cast(Any, super(Sharing, run).astream(input, config, **options))) as parts:
                async for part in parts:
                    yield part
        finally:
            if scope:
                await asyncio.to_thread(scope.end)

    def bulk_update_state(self, config: Any, supersteps: Any) -> RunnableConfig:
        run, config, _ = self._bind(config, updates=True)
        return super(Sharing, run).bulk_update_state(config, supersteps)

    async def abulk_update_state(self, config: Any, supersteps: Any) -> RunnableConfig:
        run, config, _ = await asyncio.to_thread(self._bind, config, updates=True)
        return await super(Sharing, run).abulk_update_state(config, supersteps)


_sharing = functools.cache(lambda base: type(base.__name__, (Sharing, base), {"__module__": base.__module__}))


def share(graph: T) -> T:
    """Share a compiled graph's shared values wherever it runs, and return it: `graph = share(builder.compile())`.

    devserver does that anyway. Elsewhere (plain `invoke`, other servers) they are items of the run's LangGraph store.
    Graphs that nodes call are shared along; a graph that no node's code shows, such as a tool's, needs a share() too.
    Raises TypeError for what is no compiled graph, ValueError for a graph without shared keys."""
    if not isinstance(graph, Pregel):
        raise TypeError(f"share() takes a compiled graph, such as share(builder.compile()), not {graph!r}")
    if not _share(f"graph '{graph.get_name()}'", graph):
        raise ValueError(f"graph '{graph.get_name()}' has no key like Annotated[dict, SharedValue.on(\"user_id\")]")
    for part, _, channel in _channels(graph):
        if isinstance(channel, SharedValue):
            channel.run = NO_SCOPE  # of a state that is only read
            part.__class__ = type(part) if isinstance(part, Sharing) else _sharing(type(part))
    return graph


# -- schemas --


class LenientJsonSchema(GenerateJsonSchema):
    """Describes types that have no JSON schema, such as functions, as any value."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonObject:
        return {}


def graph_schemas(graph: Graph) -> JsonObject:
    """Return the JSON schemas of a graph's input, output, state, config and context."""
    context = _schema(graph, "context") if graph.context_schema else None
    shared = [key for key, channel in graph.channels.items() if isinstance(channel, SharedValue)]
    output = _schema(graph, "output")
    for key in shared:
        if output and output.get("properties", {}).pop(key, None) is not None and key in output.get("required", ()):
            output["required"].remove(key)
    channels = graph.stream_channels_asis
    updates = {
        key: channel.UpdateType
        for key in ([channels] if isinstance(channels, str) else [*channels, *shared])
        if isinstance(channel := graph.channels.get(key), BaseChannel) and key != "__nothing__"
    }
    return {
        "input_schema": _schema(graph, "input"),
        "output_schema": output,
        "state_schema": _fields_schema(f"{graph.get_name()}_state", updates),
        "config_schema": {**context, "title": "Configurable"} if context else {},
        "context_schema": context,
    }


def _schema(graph: Graph, kind: str) -> JsonObject | None:
    """Return the schema of a graph's input, output or context; by its fields if the whole has none. None on failure."""
    from pydantic import TypeAdapter

    declared: Any = getattr(getattr(graph, "builder", graph), f"{kind}_schema", None)
    makers: list[Callable[[], JsonObject | None]] = [
        getattr(graph, f"get_{kind}_jsonschema"),
        lambda: TypeAdapter(declared).json_schema(schema_generator=LenientJsonSchema),
        lambda: _fields_schema(declared.__name__, typing.get_type_hints(declared), declared.__required_keys__),
    ]
    for make in makers:
        try:
            return make()
        except Exception as error:  # types that have no JSON schema
            log.debug("no JSON schema: %s", error)
    return None


def _fields_schema(title: str, types_: Mapping[str, Any], required: Container[str] = ()) -> JsonObject:
    """Return the JSON schema of an object with these fields; a field whose type has none may have any value."""
    from pydantic import create_model

    options = ConfigDict(arbitrary_types_allowed=True)

    def schema(fields: JsonObject) -> JsonObject:
        model = create_model(title, __config__=options, **fields)
        return model.model_json_schema(schema_generator=LenientJsonSchema)

    definitions: JsonObject = {}
    for number, (key, typ) in enumerate(types_.items()):
        default = Field(alias=key) if key in required else Field(default=None, alias=key)
        try:
            schema({"field": (typ, default)})
        except Exception as error:
            log.debug("no JSON schema for %s of %s: %s", key, title, error)
            typ = Any
        definitions[f"field_{number}"] = (typ, default)
    return schema(definitions)


# -- langgraph_sdk.cache --


@dataclass
class SWRResult(Generic[T]):
    """The result of `swr`: a value, and how it was found."""

    value: T
    status: Literal["miss", "fresh", "stale", "expired"]
    load: Callable[[], Coroutine[Any, Any, T]] = field(repr=False)
    store: Callable[[T], Coroutine[Any, Any, None]] = field(repr=False)

    async def mutate(self, value: T = ...) -> T:  # type: ignore[assignment]
        """Store and return another value, by default a newly loaded one."""
        self.value = await self.load() if value is ... else value
        await self.store(self.value)
        self.status = "fresh"
        return self.value


class Cache:
    """The entries of langgraph_sdk.cache, in memory, for all users together. Beyond a limit the oldest are dropped."""

    MAX_ENTRIES, MAX_BYTES, MAX_SECONDS = 10_000, 64 * 1024 * 1024, 24 * 60 * 60.0

    def __init__(self) -> None:
        self._entries: dict[str, tuple[bytes, float, float]] = {}  # JSON, time, seconds to live; oldest first
        self._bytes = 0
        self._lock = threading.Lock()
        self._refreshing: dict[str, asyncio.Task[Any]] = {}

    def _find(self, key: str, max_age: float = math.inf) -> tuple[bytes, float] | None:
        """Return a value as JSON, with its age in seconds: infinite if it has expired."""
        text, at, ttl = self._entries.get(key, (b"", 0.0, 0.0))
        age = CLOCK.steady() / 1e6 - at
        return (text, age if age < min(ttl, max_age) else math.inf) if text else None

    async def set(self, key: str, value: Any, ttl: datetime.timedelta | None = None) -> None:
        """Store a value. Raises TypeError if it has no JSON, ValueError if that is too large."""
        seconds = min(ttl.total_seconds() if ttl else self.MAX_SECONDS, self.MAX_SECONDS)
        text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
        if (size := len(key) + len(text)) > self.MAX_BYTES:
            raise ValueError(f"cached value too large: {size} bytes, and the whole cache holds {self.MAX_BYTES}")
        with self._lock:
            self._remove(key)
            self._entries[key] = (text, CLOCK.steady() / 1e6, seconds)
            self._bytes += size
            while len(self._entries) > self.MAX_ENTRIES or self._bytes > self.MAX_BYTES:
                self._remove(next(iter(self._entries)))

    def _remove(self, key: str) -> None:
        if old := self._entries.pop(key, None):
            self._bytes -= len(key) + len(old[0])

    async def get(self, key: str) -> Any:
        found = self._find(key)
        return orjson.loads(found[0]) if found and found[1] < math.inf else None

    async def swr(
        self, key: str, loader: Any, *, fresh_for: datetime.timedelta, max_age: datetime.timedelta, model: Any = None
    ) -> SWRResult[Any]:
        """Return a stored value, even a stale one, which is then loaded again in the background; or load one now."""
        dump: Callable[[Any], Any] = operator.methodcaller("model_dump", mode="json") if model else lambda value: value
        result = SWRResult[Any](None, "miss", loader, lambda value: self.set(key, dump(value), max_age))
        if found := self._find(key, max_age.total_seconds()):
            text, age = found
            with contextlib.suppress(ValidationError):  # it was stored by another version of the model
                result.value = model.model_validate_json(text) if model else orjson.loads(text)
                is_fresh = age < fresh_for.total_seconds()
                result.status = "expired" if age == math.inf else "fresh" if is_fresh else "stale"
        if result.status in ("miss", "expired"):
            result.value = await loader()
            await result.store(result.value)
        elif result.status == "stale":
            self._refresh(key, replace(result))
        return result

    def _refresh(self, key: str, result: SWRResult[Any]) -> None:
        """Load a value again in the background, unless that goes on already."""

        def end(task: asyncio.Task[Any]) -> None:
            self._refreshing.pop(key, None)
            if not task.cancelled() and (error := task.exception()):
                log.warning("the cached value of %r could not be loaded again", key, exc_info=error)

        last = self._refreshing.get(key)
        if last is None or last.get_loop().is_closed():
            task = self._refreshing[key] = asyncio.ensure_future(result.mutate())
            task.add_done_callback(end)


CACHE = Cache()


########################################################################################################
# 8  Access
########################################################################################################


@dataclass
class Application:
    """The application that langgraph.json describes: its settings, its graphs, its Auth and their database."""

    settings: Settings
    db: Db
    saver: Saver
    store: Store
    graphs: Graphs
    studio: bool = field(default=False, kw_only=True)  # whether LangSmith's Studio may use it

    @property
    def auth(self) -> AppAuth | None:
        return cast("AppAuth | None", self.graphs.auth)


# -- the application's Auth --

# The parameters that an authenticate handler may have.
ASKABLE = ("request", "body", "path", "method", "path_params", "query_params", "headers", "authorization")


class AppAuth:
    """The application's Auth: authenticates requests, and decides on actions. A handler that raises an error, or
    returns nonsense, refuses the request."""

    def __init__(self, spec: AuthSpec, path: Path) -> None:
        """Import the Auth that langgraph.json, at `path`, names. Raises StartError."""
        from langgraph_sdk import Auth

        label = f"auth ({spec.path})"
        auth = import_object(label, spec.path, path)
        if not isinstance(auth, Auth):
            raise StartError(f"{label} is a {type(auth).__name__}, not a langgraph_sdk.Auth")
        self._authenticate: Any = auth._authenticate_handler
        self._on, self._every = auth._handlers, auth._global_handlers
        if self._authenticate is None:
            name = spec.path.rpartition(":")[2]
            raise StartError(f"{label} has no @{name}.authenticate handler, so nobody could be let in")
        parameters = parameters_of(self._authenticate)
        for each in parameters:
            known = each.name in ASKABLE and each.kind is not each.POSITIONAL_ONLY
            if not known and each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                raise StartError(f"the authenticate handler asks for '{each.name}'; it may take {', '.join(ASKABLE)}")
        self.spec = spec
        self.parameters = {each.name for each in parameters} & set(ASKABLE)  # of the authenticate handler

    async def authenticate(self, given: JsonObject) -> User:
        """Call the handler with the parameters that it asks for, and return the user of a request. Raises Refused."""
        function = self._authenticate
        try:
            is_async = inspect.iscoroutinefunction(function)
            result = await (function(**given) if is_async else asyncio.to_thread(function, **given))
            return to_user(await result if inspect.isawaitable(result) else result)
        except Exception as error:
            raise _refusal(error, 401, "the authenticate handler") from None

    async def decide(self, user: User, action: str, value: JsonObject) -> JsonObject:
        """Return the filter that rows have to pass for an action such as `threads.read`; the handler may change the
        value. Raises Refused."""
        from langgraph_sdk.auth.types import AuthContext, StudioUser

        resource, _, verb = action.partition(".")
        most_specific_first = ((resource, verb), (resource, "*"), ("*", verb))
        handlers = next((self._on[place] for place in most_specific_first if place in self._on), self._every)
        if not handlers:
            return {}
        known_as: Any = user.original if isinstance(user.original, StudioUser) else user
        context = AuthContext(user["permissions"], known_as, cast(Any, resource), cast(Any, verb))
        dicts = [name for name in ("metadata", "kwargs") if isinstance(value.get(name), dict)]
        try:
            limits = _limits(await handlers[-1](ctx=context, value=value))
            if broken := [name for name in dicts if not isinstance(value.get(name), dict)]:
                raise TypeError(f"value['{broken[0]}'] has to stay a dict")
            if resource == "store" and limits:
                raise ValueError("items have no metadata to filter by: change value['namespace'] in @auth.on.store")
            if verb == "create" and not passes(value["metadata"], limits):
                raise ValueError("the new row would not pass the filter: set value['metadata']")
        except Exception as error:
            raise _refusal(error, 403, f"the handler of {action}") from None
        return limits


def to_user(result: Any) -> User:
    """Convert an authenticate handler's result, a user or (permissions, user), to a User. Raises TypeError."""
    from_pair: JsonObject = {}
    if isinstance(result, tuple) and len(result) == 2 and not hasattr(result, "identity"):
        permissions, result = result
        if not isinstance(permissions, list | tuple | set | frozenset) or isinstance(result, tuple):
            raise TypeError("a pair must be (permissions, user), with a list of texts first")
        from_pair = {"permissions": permissions}
    if isinstance(result, str):
        fields: JsonObject = {"identity": result}
    elif isinstance(result, Mapping):
        fields = dict(result)
    else:
        dumped = result.model_dump() if isinstance(result, BaseModel) else getattr(result, "__dict__", {})
        standard = {name: getattr(result, name) for name in User.SHOWN if hasattr(result, name)}
        fields = {**{name: value for name, value in dumped.items() if not name.startswith("_")}, **standard}
    fields |= from_pair
    identity, permissions = fields.get("identity"), fields.get("permissions") or []
    if not isinstance(identity, str) or not identity:
        raise TypeError(f"a user needs an identity, a text, not {identity!r}")
    if isinstance(permissions, str) or not all(isinstance(each, str) for each in permissions):
        raise TypeError(f"permissions must be a list of texts, not {permissions!r}")
    if not fields.get("is_authenticated", True):
        raise TypeError("the user is not authenticated")
    fields |= {"permissions": list(permissions), "is_authenticated": True}
    user = User(from_json(to_json({"display_name": identity, **fields})))
    user.original = result
    return user


def _limits(result: Any) -> JsonObject:
    """Convert an authorization handler's result to a filter. Raises Refused for False, other errors for nonsense."""
    if result is None or result is True:
        return {}
    if result is False:
        raise Refused(403)
    if not isinstance(result, Mapping):
        raise TypeError(f"expected None, a bool or a filter, got {result!r}")
    limits: JsonObject = orjson.loads(orjson.dumps(dict(result)))
    operators = {key for wanted in limits.values() if isinstance(wanted, dict) for key in wanted}
    if unknown := {key for key in operators | limits.keys() if key.startswith("$")} - AUTH_OPERATORS.keys():
        raise ValueError(f"unknown operators in a filter: {sorted(unknown)}")
    return limits


def _refusal(error: Exception, status: int, what: str) -> Refused:
    """Return the error response for an exception of an Auth's handler. Besides the `detail` of an HTTPException it
    shows, to authenticated users only, the text of an assertion or the `detail` of another exception."""
    from langgraph_sdk.auth import exceptions

    if isinstance(error, Refused):
        return error
    if isinstance(error, exceptions.HTTPException | HTTPException) and 400 <= error.status_code < 600:
        return Refused(error.status_code, error.detail, error.headers)
    if isinstance(error, AssertionError):  # a documented way to refuse
        log.debug("%s refused: %s", what, error)
        return Refused(status, str(error) if status == 403 else None)
    log.error("%s failed, so the request is refused", what, exc_info=error)
    detail = getattr(error, "detail", None)
    return Refused(status, detail if status == 403 and isinstance(detail, str) else None)


@dataclass
class Access:
    """A request under the application's Auth: its user, and the filters of the actions decided on so far."""

    auth: AppAuth
    user: User
    limits: dict[str, JsonObject] = field(default_factory=dict)

    async def decide(self, action: str, value: JsonObject) -> JsonObject:
        self.limits[action] = limits = await self.auth.decide(self.user, action, value)
        return limits

    async def change(self, action: str, value: JsonObject, names: Iterable[str]) -> tuple[JsonObject, JsonObject]:
        """Decide on an action. Return its filter, and those members of the value (or its kwargs) with these names that
        the application has changed."""

        def named() -> JsonObject:
            flat = {**value.get("kwargs", {}), **value}
            return {name: flat[name] for name in names if name in flat}

        before = {name: to_json(each) for name, each in named().items()}  # cheaper than a deep copy
        limits = await self.decide(action, value)
        return limits, {name: each for name, each in named().items() if to_json(each) != before.get(name)}


# Set for each authenticated request; never set without an Auth.
ACCESS: contextvars.ContextVar[Access] = contextvars.ContextVar("devserver_access")


def identity() -> JsonObject:
    """Return the keys of a configurable that name the current request's user; none without an Auth."""
    access = ACCESS.get(None)
    return user_values(access.user) if access else {}


# -- requests under an Auth --

CONFIGURABLE_HEADERS: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar(
    "configurable_headers", default=types.MappingProxyType({})
)


class HeaderBytes(dict[bytes, bytes]):
    """Headers for an authenticate handler: a name in bytes finds bytes, one that is a str finds a str."""

    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, bytes):
            return super().__getitem__(name.lower())
        return super().__getitem__(name.lower().encode("latin-1")).decode("latin-1")

    def __contains__(self, name: Any) -> bool:
        return self.get(name) is not None

    def get(self, name: Any, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


def note_headers(server: Application, connection: HTTPConnection) -> None:
    """Keep a request's id, and its headers that `http.configurable_headers` selects, for the configurable of runs."""
    patterns = server.settings.http.configurable_headers
    selected = patterns.select(connection.scope["headers"]) if patterns.includes or patterns.include else {}
    request_id = connection.headers.get("x-request-id") or new_id()
    CONFIGURABLE_HEADERS.set({**selected, "langgraph_request_id": request_id})


async def enter(server: Application, connection: HTTPConnection) -> None:
    """Authenticate a request or a WebSocket and set ACCESS, if there is an Auth, and once only. Raises Refused."""
    from langgraph_sdk.auth.types import StudioUser

    auth, scope, headers = server.auth, connection.scope, connection.headers
    if auth is None or "access" in scope:
        return
    if scope.get("run_user") is not None:  # a run's own call: nothing that comes from a socket can set it
        user = User(scope["run_user"])
    elif headers.get("x-auth-scheme") == "langsmith" and not auth.spec.disable_studio_auth and server.studio:
        user = to_user(StudioUser("langgraph-studio-user", is_authenticated=True))
        user["kind"] = "StudioUser"
    else:
        parsed = None
        if "body" in auth.parameters and isinstance(connection, Request):
            with contextlib.suppress(ValueError):
                parsed = from_json(await connection.body())
        given = {
            "request": connection,
            "body": parsed,
            "path": scope["path"],
            "method": scope.get("method", "GET"),
            "path_params": dict(connection.path_params),
            "query_params": dict(connection.query_params),
            "headers": HeaderBytes(reversed(scope["headers"])),
            "authorization": headers.get("authorization"),
        }
        user = await auth.authenticate({name: given[name] for name in auth.parameters})
    ACCESS.set(access := Access(auth, user))
    scope["user"], scope["access"] = user, access  # request.user: for routes of the application's own


GRAPH_NAMESPACE = uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")


@functools.cache
def system_assistant_id(graph_id: str) -> str:
    return str(uuid.uuid5(GRAPH_NAMESPACE, graph_id))


def to_assistant_id(server: Application, name: str) -> str:
    """Return the id of an assistant named by its id or, if it is a graph's own, by the graph's. Raises InvalidId."""
    return system_assistant_id(name) if name in server.graphs.loaded else to_uuid(name, "assistant")


def named_ids(server: Application, values: Mapping[str, Any]) -> JsonObject:
    """Return the ids in a path or a body as UUIDs, for authorization handlers. An assistant may be named by its graph.
    Raises InvalidId."""
    ids = {}
    for kind in ("assistant", "thread", "run", "cron"):
        text = values.get(f"{kind}_id")
        if text and isinstance(text, str):
            known = to_assistant_id(server, text) if kind == "assistant" else to_uuid(text, kind)
            ids[f"{kind}_id"] = uuid.UUID(known)
    return ids


async def allow(server: Application, action: str, value: JsonObject) -> JsonObject:
    """Have the application decide on an action of the current request. Return the filter that rows have to pass, empty
    without an Auth. Raises Refused."""
    return await ACCESS.get().decide(action, value) if server.auth else {}


async def allow_assistant(server: Application, assistant_id: str) -> JsonObject:
    """Have the application decide on reading an assistant; all users may read a graph's own. Return the filter that
    the assistant has to pass. Raises Refused."""
    if assistant_id in map(system_assistant_id, server.graphs.loaded):
        return {}
    return await allow(server, "assistants.read", {"assistant_id": uuid.UUID(assistant_id), "metadata": {}})


async def allow_thread(
    server: Application, thread_id: str, action: str = "threads.read", /, **asked: str
) -> JsonObject:
    """Have the application decide on an action on a thread, which need not exist yet. Return the filter that the
    thread has to pass. Raises Refused."""
    if server.auth is None:
        return {}
    return await allow(server, action, {"thread_id": uuid.UUID(to_uuid(thread_id, "thread")), "metadata": {}, **asked})


def visibility(server: Application, thread_id: str) -> Callable[[], bool]:
    """Return a function that returns whether the request's user may see a thread now. A stream calls it before it sends
    events, as the thread may be created, or change its owner, while it is followed."""
    limits, seen = ACCESS.get().limits["threads.read"] if server.auth else {}, False

    def shown() -> bool:
        nonlocal seen
        if not limits:
            return True
        thread = server.db.look(lambda conn: Threads(conn).get(thread_id))
        seen = passes(thread.metadata, limits) if thread else seen  # a user who saw it may see that it was deleted
        return seen

    return shown


async def allow_run(
    server: Application, thread_id: str | None, body: RunCreate, run_id: str
) -> tuple[JsonObject, RunAccess]:
    """Have the application decide on a run, on its assistant, and on its thread if that is created and kept. Return
    the fields of the body that a handler has changed, and the run's access. Raises Refused."""
    if server.auth is None:
        return {}, RunAccess()
    access, value = ACCESS.get(), _run_value(thread_id, body, run_id)
    fields = RunCreate.model_fields.keys() - {"assistant_id", "metadata"}
    threads, changes = await access.change("threads.create_run", value, fields)
    decided, metadata = {**value["kwargs"], **value}, dict(value["metadata"])
    thread = server.db.look(lambda conn: Threads(conn).get(thread_id)) if thread_id else None
    kept = decided.get("if_not_exists") == "create" if thread_id else decided.get("on_completion") == "keep"
    if thread is None and kept:
        new_thread = {"thread_id": value["thread_id"], "metadata": dict(metadata), "if_exists": "raise"}
        await access.decide("threads.create", new_thread)
        metadata |= new_thread["metadata"]
    elif decided.get("if_not_exists") == "create":
        changes["if_not_exists"] = "reject"  # it was not asked whether the thread may be created, if deleted meanwhile
    assistants = await allow_assistant(server, body.assistant_id)
    given = body.metadata or {}
    added = {key: metadata[key] for key in metadata if key not in given or metadata[key] != given[key]}
    return changes, RunAccess(dict(access.user), threads, assistants, added)


def _run_value(thread_id: str | None, body: RunCreate, run_id: str) -> JsonObject:
    """Return the value that describes a run to authorization handlers."""
    given = body.given()
    config = {"configurable": {}, "metadata": {}, **(given.get("config") or {})}
    kwargs = {"input": None, "command": None, "context": {}, "config": config}
    apart = ("assistant_id", "metadata", "multitask_strategy", "if_not_exists", "after_seconds", "config")
    return {
        "assistant_id": uuid.UUID(body.assistant_id),
        "thread_id": uuid.UUID(thread_id) if thread_id else None,
        "run_id": uuid.UUID(run_id),
        "status": "pending",
        "metadata": given.get("metadata") or {},
        "prevent_insert_if_inflight": body.multitask_strategy == "reject",
        "multitask_strategy": body.multitask_strategy,
        "if_not_exists": body.if_not_exists,
        "after_seconds": body.after_seconds,
        "kwargs": kwargs | {name: given[name] for name in given if name not in apart},
    }


async def allow_item(server: Application, verb: str, value: JsonObject) -> JsonObject:
    """Have the application decide on an operation of the store. Return the operation with a handler's changes. Raises
    Refused, also for shared values: they belong to many users, and a user's identity may be SHARED_ROOT."""
    before = value.copy()
    await allow(server, f"store.{verb}", value)
    after = {**before, **value}  # a member that a handler removed stays as it was
    if after["namespace"] is not None and not isinstance(after["namespace"], tuple | list):
        raise Refused(403)
    if server.auth and after["namespace"] and after["namespace"][0] == SHARED_ROOT:
        raise Refused(403, f"Namespaces that begin with '{SHARED_ROOT}' hold shared values, which only graphs may use.")
    return after


def user_store(server: Application) -> Store:
    """Return the store for the routes: with an Auth, without shared values."""
    return server.store.without_shared() if server.auth else server.store


# -- hosts and web pages --

_LOOPBACK_ORIGIN = r"https?://(localhost|[A-Za-z0-9.-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?"
STUDIO_ORIGIN = "https://smith.langchain.com"


class Neighbours:
    """The host names of the server, and the origins of web pages that may use it: this machine's and langgraph.json's.

    `cors` are options of Starlette's CORSMiddleware, which let these pages read responses.
    """

    def __init__(self, http: HttpSettings, host: str, studio: bool) -> None:
        self.cors = http.cors.model_dump()
        self.cors["allow_origins"] += [STUDIO_ORIGIN] if studio else []
        patterns = (_LOOPBACK_ORIGIN, self.cors["allow_origin_regex"])
        self.cors["allow_origin_regex"] = "|".join(filter(None, patterns))
        self._exposed = not is_loopback(host)
        self._hosts = {host.lower(), *(name.lower() for name in http.allowed_hosts)}
        self._origins = {*self.cors["allow_origins"], "same-origin", "same-site", "none"}
        self._origin_pattern = re.compile(self.cors["allow_origin_regex"])

    def foreign(self, headers: Headers) -> str | None:
        """Return why the page that sent a request may change nothing, else None. Pictures and links send no Origin."""
        for origin in headers.getlist("origin") or headers.getlist("sec-fetch-site"):
            if not ({"*", origin} & self._origins or self._origin_pattern.fullmatch(origin)):
                return f"Origin '{origin}' may not change anything here. Allow it in langgraph.json with http.cors."
        return None

    def knows_host(self, host: str) -> bool:
        """Return whether a Host is the server's own, and not a foreign name for its address (DNS rebinding)."""
        name = (re.sub(r":\d*$", "", host) if not host.endswith("]") else host).strip("[]").lower()
        if name in self._hosts or is_loopback(name):
            return True
        if not self._exposed:
            return False
        try:
            ipaddress.ip_address(name)  # an address can't be rebound
        except ValueError:
            return name == socket.gethostname().lower()
        return True


########################################################################################################
# 9  State
########################################################################################################

_CHECKPOINT_KEYS = ("thread_id", "checkpoint_ns", "checkpoint_id", "checkpoint_map")


def checkpoint_value(config: RunnableConfig | None) -> JsonObject | None:
    """Return the checkpoint that a RunnableConfig names, as clients see it."""
    configurable = (config or {}).get("configurable", {})
    if not configurable.get("checkpoint_id"):
        return None
    return {key: configurable[key] for key in _CHECKPOINT_KEYS if configurable.get(key) is not None}


def _subgraph_place(config: Mapping[str, Any]) -> JsonObject:
    """Return where a task's subgraph keeps its checkpoints."""
    return {key: value for key, value in config.get("configurable", {}).items() if key in _CHECKPOINT_KEYS}


def interrupt_value(interrupt: langgraph_types.Interrupt) -> JsonObject:
    """Return an interrupt as JSON: `id`, `value`, and the optional fields that are set."""
    fields = {each.name: getattr(interrupt, each.name) for each in dataclasses.fields(interrupt)}
    return {key: value for key, value in fields.items() if key in ("id", "value") or value is not None}


def state_value(snapshot: langgraph_types.StateSnapshot) -> JsonObject:
    """Return a state as clients see it."""
    checkpoint = checkpoint_value(snapshot.config)
    parent = checkpoint_value(snapshot.parent_config)
    metadata: JsonObject | None = None
    if snapshot.metadata is not None:
        metadata = {**snapshot.metadata, "thread_id": snapshot.config["configurable"]["thread_id"]}
    return {
        "values": snapshot.values,
        "next": list(snapshot.next),
        "tasks": [_task_value(task) for task in snapshot.tasks],
        "metadata": metadata,
        "created_at": snapshot.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [interrupt_value(interrupt) for interrupt in snapshot.interrupts],
        "checkpoint_id": checkpoint and checkpoint["checkpoint_id"],
        "parent_checkpoint_id": parent and parent["checkpoint_id"],
    }


def _task_value(task: langgraph_types.PregelTask) -> JsonObject:
    state, checkpoint = None, None
    if isinstance(task.state, langgraph_types.StateSnapshot):
        state = state_value(task.state)
    elif task.state:
        checkpoint = _subgraph_place(task.state)
    return {
        "id": task.id,
        "name": task.name,
        "path": task.path,
        "error": repr(task.error) if isinstance(task.error, BaseException) else task.error,
        "interrupts": [interrupt_value(interrupt) for interrupt in task.interrupts],
        "checkpoint": checkpoint,
        "state": state,
        "result": task.result,
    }


EMPTY_STATE = state_value(langgraph_types.StateSnapshot({}, (), {}, None, None, None, (), ()))


class ShownState(NamedTuple):
    """What a thread shows while no run is live. Results of runs have only `output_keys` of the values (None: all)."""

    status: str
    values: Any
    interrupts: dict[str, list[JsonObject]]
    output_keys: Sequence[str] | None = None

    @classmethod
    def of(cls, graph: Graph, snapshot: langgraph_types.StateSnapshot) -> ShownState:
        interrupts = {
            task.id: [interrupt_value(interrupt) for interrupt in task.interrupts]
            for task in snapshot.tasks
            if task.interrupts and task.result is None  # old versions of langgraph also list answered ones
        }
        status = "interrupted" if snapshot.next else "idle"
        return cls(status, snapshot.values, interrupts, output_keys(graph))

    @classmethod
    def at_end(cls, graph: Graph, checkpoint: Checkpoint) -> ShownState | None:
        """Return the state that a graph's newest checkpoint shows, if no node is due after it. None also where state
        has to be read from it: channels of some types give other values than they store."""
        kept, names, channels = checkpoint["channel_values"], graph.stream_channels_asis, cast(Any, graph.channels)
        seen, versions = checkpoint["versions_seen"], checkpoint["channel_versions"]
        if isinstance(names, str) or not {type(channels[n]) for n in names} <= {LastValue, BinaryOperatorAggregate}:
            return None
        is_due = kept.get(TASKS) or any(
            trigger in kept
            and (name not in seen or versions.get(trigger) != seen[name].get(trigger))
            and channels[trigger].from_checkpoint(kept[trigger]).is_available()
            for name, node in graph.nodes.items()
            for trigger in node.triggers
        )
        never_written = {name: channels[name].from_checkpoint(MISSING) for name in names if name not in kept}
        empty = {name: channel.get() for name, channel in never_written.items() if channel.is_available()}
        values = {name: kept[name] if name in kept else empty[name] for name in names if name in kept or name in empty}
        return None if is_due else cls("idle", values, {}, output_keys(graph))


def output_keys(graph: Graph) -> Sequence[str] | None:
    """Return the keys of a graph's output schema, None if its output is its whole state."""
    keys = graph.output_channels
    return None if isinstance(keys, str) or set(keys) >= set(graph.stream_channels_asis) else keys


async def snapshot(graph: Graph, config: RunnableConfig, subgraphs: bool = False) -> langgraph_types.StateSnapshot:
    with without_shared_values():
        return await graph.aget_state(config, subgraphs=subgraphs)


def state_updates(body: ThreadSuperstepUpdate, graph: Graph) -> list[langgraph_types.StateUpdate]:
    """Return the changes of one superstep, as LangGraph takes them. Raises InvalidUpdateError."""
    update: Any = langgraph_types.StateUpdate  # takes commands as well, despite its annotation
    return [
        update(to_command(entry.command.given(), graph) if entry.command else entry.values, entry.as_node, None)
        for entry in body.updates
    ]


def to_command(command: JsonObject, graph: Graph) -> langgraph_types.Command[Any]:
    """Return a client's command as LangGraph's own. Raises InvalidUpdateError."""
    update = command.get("update")
    if isinstance(update, list) and "__root__" not in graph.channels:  # there a list is the state itself
        pairs = [(pair[0], pair[1]) for pair in update if isinstance(pair, list) and len(pair) == 2]
        if len(pairs) < len(update) or not all(isinstance(key, str) for key, _ in pairs):  # LangGraph would drop it
            raise InvalidUpdateError(f"Expected command.update to be an object or a list of [key, value], got {update}")
        update = pairs
    return langgraph_types.Command(
        update=update,
        resume=command.get("resume"),
        goto=[
            langgraph_types.Send(target["node"], target.get("input")) if isinstance(target, dict) else target
            for target in as_list(command.get("goto") or [])
        ],
    )


########################################################################################################
# 10  Events
########################################################################################################

HEARTBEAT_SECONDS = 5.0
PAUSE_SECONDS = 0.0005  # after a batch, for each of its events
SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.01
MAX_BEHIND_PAGES = 2**14  # of 4 KB, for a thread's events that memory has no room for
NO_ID = (0, 0)  # of an event that clients cannot resume after


def event_id() -> tuple[int, int]:
    """Return a new event id, `(ms, n)`: a millisecond and a number within it. Ids only grow."""
    return divmod(CLOCK.steady(), 1000)


def run_done(run: Run, conn: sqlite3.Connection | None = None) -> Event:
    """Return the event that ends a run in its thread's stream. With `conn`, store it if the run is resumable, even if
    it was rolled back."""
    done = Event(event_id(), RUN_DONE, to_json({"status": "run_done", "run_id": run.run_id}), run_id=run.run_id)
    if conn and run.kwargs["resumable"]:
        Events(conn).append(run.thread_id, [done])
    return done


def parse_event_id(text: str) -> tuple[int, int] | None:
    """Return the id in a Last-Event-ID, None if it is malformed; `-`, `-1` and `0` come before all events."""
    if text in ("-", "-1", "0"):
        return (0, -1)
    match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", text)
    return (int(match[1]), int(match[2] or 0)) if match else None


class Follower:
    """A reader of an event log, on its own event loop. `quiet_since`: when its client was last sent anything."""

    def __init__(self) -> None:
        self.quiet_since = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.wants_wake = False  # while it may be asleep

    def wake(self) -> None:
        """Wake the reader, from any thread. Costs a system call."""
        self.wants_wake = False
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._event.set)

    async def sleep(self, seconds: float | None) -> bool:
        """Sleep until woken, at most `seconds`; return whether it was woken, which may happen without a new event."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        finally:
            self._event.clear()
        return True


class Overtaken(Exception):
    """A follower is so far behind that events which it has not seen were dropped."""


class EventLog:
    """The events of one live run, or of one thread, for its followers.

    Events that every follower has seen are forgotten. Beyond MEMORY_BYTES the oldest overflow to a temporary file, so
    slow readers lose nothing until that is full, too.
    """

    MEMORY_BYTES = 8 * 1024 * 1024
    EVENT_BYTES = 250  # of an event besides its data

    def __init__(self, max_pages: int = Overflow.MAX_PAGES) -> None:
        self.closed = False
        self.last_values: Any = MISSING
        self.result: bytes | None = None  # the last values as JSON, once it is made
        self.interrupts: list[Any] = []
        self.error: bytes | None = None
        self.failed = False  # closed with `error` before the run's end is stored
        self._events: list[Event] = []  # the newest; events are numbered from 0 on
        self._first = 0  # the number of the first of them
        self._size = 0
        self._max_pages = max_pages
        self._overflow: Overflow | None = None  # the older ones
        self._lost = 0  # events before this number were dropped
        self.followers: dict[Follower, int] = {}  # the number of the event that each wants next
        self._waiters: set[Follower] = set()
        self._lock = threading.Lock()

    def append(self, event: Event) -> None:
        with self._lock:
            if followers := tuple(self.followers):
                self._events.append(event)
                self._size += len(event.data) + self.EVENT_BYTES
                if self._size > self.MEMORY_BYTES:
                    self._make_room()
        for follower in followers:
            if follower.wants_wake:
                follower.wake()

    def _make_room(self) -> None:
        oldest = first_part(self._events)
        try:
            self._overflow = self._overflow or Overflow(self._max_pages)
            self._overflow.append(self._first, oldest)
        except sqlite3.Error as error:
            log.warning("the events of a run are too many for memory and disk (%s): slow readers are cut off", error)
            self._drop_overflow()
            self._lost = self._first + len(oldest)
        self._forget(self._first + len(oldest))

    def _forget(self, end: int) -> None:
        """Forget the events in memory before number `end`."""
        self._size -= sum(len(event.data) + self.EVENT_BYTES for event in self._events[: end - self._first])
        del self._events[: end - self._first]
        self._first = end

    def _drop_overflow(self) -> None:
        if self._overflow is not None:
            self._overflow.close()
            self._overflow = None

    def close(self) -> None:
        """Tell followers that no more events come."""
        self.closed = True
        for follower in [*self.followers, *self._waiters]:
            follower.wake()

    def join(self, follower: Follower) -> None:
        """Let a follower see the events from now on."""
        with self._lock:
            self.followers[follower] = self._first + len(self._events)

    def leave(self, follower: Follower) -> None:
        with self._lock:
            self.followers.pop(follower, None)
            if not self.followers:
                self._forget(self._first + len(self._events))
                if self._overflow:
                    self._drop_overflow()

    async def ended(self, seconds: float | None = None) -> bool:
        """Wait until the log is closed, at most `seconds`; return whether it is."""
        follower = Follower()
        self._waiters.add(follower)
        try:
            return self.closed or await follower.sleep(seconds) or self.closed
        finally:
            self._waiters.discard(follower)

    def take(self, follower: Follower) -> list[Event]:
        """Return the events that the follower has not seen yet, or the first of them. Raises Overtaken."""
        with self._lock:
            number = self.followers[follower]
            if number < self._lost:
                raise Overtaken
            if number < self._first and self._overflow is not None:
                fresh = self._overflow.part(number)
            else:
                fresh = self._events[number - self._first :]
                if self._size > PART_BYTES:
                    fresh = first_part(fresh)
            self.followers[follower] = number + len(fresh)
            seen = min(self.followers.values())
            if seen > self._first:
                self._forget(seen)
            if self._overflow and seen >= self._first:
                self._drop_overflow()
            return fresh

    async def follow(self, follower: Follower, heartbeat: float = HEARTBEAT_SECONDS) -> AsyncIterator[list[Event]]:
        """Yield batches of events until the log closes, and an empty one whenever the client was sent nothing for
        `heartbeat` seconds. Ends with the error, without an id, if the log has `failed`. Raises Overtaken.

        An event after a pause is yielded at once, a burst in batches, with a longer pause after a larger batch.
        """
        next_at = 0.0
        try:
            while True:
                follower.wants_wake, closed = True, self.closed  # before `take`, so that nothing is missed
                fresh = self.take(follower)
                if fresh:
                    follower.wants_wake = False
                    if next_at > time.monotonic():
                        while (left := next_at - time.monotonic()) > 0 and not self.closed:
                            await follower.sleep(left)
                        fresh += self.take(follower)
                    pause = min(max(len(fresh) * PAUSE_SECONDS, SHORTEST_PAUSE), LONGEST_PAUSE)
                    next_at = time.monotonic() + pause
                    yield fresh
                elif closed:
                    if self.failed:  # without an id: events before it may be stored later
                        yield [Event(NO_ID, "error", self.error or b"null")]
                    return
                else:
                    left = follower.quiet_since + heartbeat - time.monotonic()
                    if not await follower.sleep(left + 0.001):  # timers may be early
                        yield []
                        follower.quiet_since = time.monotonic()
        finally:
            self.leave(follower)


class Logs:
    """The event logs of live runs, and of threads that have followers."""

    def __init__(self) -> None:
        self._runs: dict[str, EventLog] = {}
        self.threads: dict[str, EventLog] = {}
        self._lock = threading.Lock()

    def of_run(self, run_id: str, follower: Follower | None = None) -> EventLog:
        """Return the log of a live run, made if there is none, and let a follower join it."""
        with self._lock:
            if run_id not in self._runs:
                self._runs[run_id] = EventLog()
            if follower:
                self._runs[run_id].join(follower)
            return self._runs[run_id]

    def close_run(self, run_id: str) -> None:
        with self._lock:
            ended = self._runs.pop(run_id, None)
        if ended:
            ended.close()

    def fail_run(self, run_id: str, value: JsonObject) -> None:
        """End the streams of a run with an error, before the run's end is stored."""
        run_log = self.of_run(run_id)
        run_log.error, run_log.failed = to_json(value), True
        run_log.close()  # it stays until `close_run`, for followers that come meanwhile

    def close_all(self) -> None:
        with self._lock:
            ended = [*self._runs.values(), *self.threads.values()]
            self._runs, self.threads = {}, {}
        for each in ended:
            each.close()

    def follow_thread(self, thread_id: str, follower: Follower) -> EventLog:
        with self._lock:
            joined = self.threads.setdefault(thread_id, EventLog(MAX_BEHIND_PAGES))
            joined.join(follower)
            return joined

    def leave_thread(self, thread_id: str, follower: Follower) -> None:
        with self._lock:
            if (left := self.threads.get(thread_id)) is not None:
                left.leave(follower)
                if not left.followers:
                    del self.threads[thread_id]

    def tell_thread(self, thread_id: str, event: Event) -> None:
        if (told := self.threads.get(thread_id)) is not None:
            told.append(event)


PROTOCOL = "protocol/"  # prefix of events whose data is in the form of the event streaming protocol
PROTOCOL_MODES = ["values", "updates", "messages", "tools", "lifecycle", "custom", "tasks", "checkpoints"]
# The events that a run's ordinary (SSE) stream shows; group 1 is the stream mode of those in the protocol's form.
ORDINARY = re.compile(rf"(?!{PROTOCOL}|{RUN_DONE})|{PROTOCOL}(values|updates|custom|tasks|checkpoints)$")
NUMBERED = ("values", "updates", "custom", "tasks")  # ordinary events that the event streaming protocol shows, too


def need_event_streaming() -> None:
    """Raise NotServed if LangGraph is too old for the event streaming protocol."""
    if RunControl is None:
        raise NotServed("Event streaming needs langgraph 1.2 or later: python -m pip install -U langgraph")


def envelope(event: Event) -> JsonObject:
    """Return a numbered event as the event streaming protocol shows it."""
    name, params = event.name.removeprefix(PROTOCOL), from_json(event.data)
    method, *namespace = name.split("|")
    if name == event.name:
        params = {"namespace": namespace, "timestamp": event.id[0], "data": params}
        if method == "values":
            params["data"] = reduced(params["data"])
        elif method == "updates":
            params["node"], params["data"] = next(iter(params["data"].items()))
    event_id = params.pop("event_id", None) or f"{event.id[0]}-{event.id[1]}"
    return {"type": "event", "event_id": event_id, "seq": event.seq, "method": method, "params": params}


@functools.lru_cache(1000)
def _frame_head(name: str) -> tuple[bytes, str | None]:
    """Return how the frames of a name's events begin, and the stream mode of those in the protocol's form."""
    shown, told = ORDINARY.match(name), "metadata" if name == RUN_DONE else name.replace("\r", " ").replace("\n", " ")
    return b"event: " + told.encode("utf-8", "replace") + b"\r\ndata: ", shown and shown[1]


def sse_frame(event: Event, with_id: bool) -> bytes:
    """Return an event as a frame of an ordinary stream. JSON has no line breaks; those of names become spaces."""
    (head, mode), data = _frame_head(event.name), event.data
    if mode:
        params = from_json(data)
        (head, _), data = _frame_head("|".join((mode, *params["namespace"]))), to_json(params["data"])
    return head + data + (b"\r\nid: %d-%d\r\n\r\n" % event.id if with_id and event.id > NO_ID else b"\r\n\r\n")


SSE_HEARTBEAT = b": heartbeat\r\n\r\n"


def _graph_call(graph: Graph, run: Run, control: RunControl | None) -> JsonObject:
    """Return the keyword arguments with which a run calls its graph. Raises InvalidUpdateError."""
    kwargs = run.kwargs
    modes = {"messages" if mode == "messages-tuple" else mode for mode in kwargs["stream_mode"]}
    context, schema = kwargs["context"], graph.context_schema
    known = getattr(schema, "model_fields", None) or getattr(schema, "__dataclass_fields__", None)
    if context and known:
        context = {key: value for key, value in context.items() if key in known}
    return {
        "input": to_command(kwargs["command"], graph) if kwargs["command"] else kwargs["input"],
        "config": run.config(),
        "context": context,
        "stream_mode": sorted(modes - {"events"}) or ["values"],
        "output_keys": None if "events" in modes else graph.output_channels,
        "subgraphs": kwargs["subgraphs"],
        "interrupt_before": kwargs["interrupt_before"],
        "interrupt_after": kwargs["interrupt_after"],
        "durability": kwargs["durability"],
        **({"control": control} if control else {}),
    }


async def graph_events(graph: Graph, run: Run, control: RunControl | None) -> AsyncIterator[tuple[str, Any]]:
    """Run the graph and yield its events as (name, data). Mode `events` is LangChain's astream_events."""
    calls: Any = graph  # LangGraph's overloads lack arguments that both methods take
    call, converter = _graph_call(graph, run, control), ChunkConverter(graph, run)
    if "events" not in run.kwargs["stream_mode"]:
        async for chunk in calls.astream(**call):
            for each in converter.convert(chunk):
                yield each
        return
    async for event in calls.astream_events(**call, version="v2"):
        if event["event"] == "on_chain_stream" and event["run_id"] == run.run_id:
            for each in converter.convert(event["data"]["chunk"]):
                yield each
        else:
            yield "events", event


class ChunkConverter:
    """Turns the chunks that LangGraph streams into events of the run's stream modes, as (name, data)."""

    def __init__(self, graph: Graph, run: Run) -> None:
        self._run = run
        self._modes: list[str] = run.kwargs["stream_mode"]
        self._keys = output_keys(graph) if "events" in self._modes else None  # else LangGraph itself selects
        self._messages: dict[str, BaseMessage] = {}

    def convert(self, chunk: Any) -> Iterator[tuple[str, Any]]:
        namespace, mode, data = chunk if self._run.kwargs["subgraphs"] else ((), *chunk)
        suffix = "".join(f"|{part}" for part in namespace)
        if mode == "messages" and "messages-tuple" not in self._modes:
            for name, part in self._message_parts(*data):
                yield name + suffix, part
        elif mode in ("debug", "checkpoints"):
            if not (self._run.kwargs["temporary"] and (mode == "checkpoints" or data["type"] == "checkpoint")):
                yield mode + suffix, _checkpoint_event(data) if mode == "checkpoints" else _debug_event(data)
        elif mode in self._modes or mode == "messages":
            yield mode + suffix, data if namespace or self._keys is None else self._output(mode, data, self._keys)

    def _message_parts(self, message: BaseMessage, metadata: JsonObject) -> Iterator[tuple[str, Any]]:
        """Yield the events of mode `messages`: each message as it has grown so far, by its id."""
        known = self._messages.get(message.id or "")
        if known is None:
            yield "messages/metadata", {message.id: {"metadata": metadata}}
        if isinstance(known, BaseMessageChunk) and isinstance(message, BaseMessageChunk):
            message = known + message
        self._messages[message.id or ""] = message
        if isinstance(message, BaseMessageChunk):
            yield "messages/partial", [message_chunk_to_message(message)]
        else:
            yield "messages/complete", [message]

    @staticmethod
    def _output(mode: str, chunk: Any, keys: Sequence[str]) -> Any:
        """Return values or updates with the keys of the output schema only: for mode `events` LangGraph emits all."""
        if mode not in ("values", "updates") or not isinstance(chunk, dict):
            return chunk
        if mode == "values":
            return output_of(chunk, [*keys, "__interrupt__"])
        shown = {}
        for node, update in chunk.items():
            parts = [part for each in as_list(update) if (part := output_of(each, keys))]
            shown[node] = update if node.startswith("__") else parts[0] if len(parts) == 1 else parts or None
        return shown


def _debug_event(event: JsonObject) -> JsonObject:
    """Return a debug event whose checkpoints are in the form that thread states have."""
    if event.get("type") != "checkpoint":
        return event
    payload, tasks = event["payload"], []
    for task in payload["tasks"]:
        state = task.get("state")  # of its subgraph
        shown = {key: value for key, value in task.items() if key != "state"}
        tasks.append({**shown, "checkpoint": _subgraph_place(state)} if state else task)
    spelled = {
        "checkpoint": checkpoint_value(payload.get("config")),
        "parent_checkpoint": checkpoint_value(payload.get("parent_config")),
        "tasks": tasks,
    }
    return {**event, "payload": {**_checkpoint_event(payload), **spelled}}


def _checkpoint_event(payload: JsonObject) -> JsonObject:
    """Return a checkpoint event without the server's own keys of the configurable."""

    def public(config: JsonObject | None) -> JsonObject | None:
        if config is None:
            return None
        shown = (item for item in config["configurable"].items() if not item[0].startswith("__"))
        return {"configurable": {key: value for key, value in shown if key != "langgraph_auth_user"}}

    return {**payload, "config": public(payload.get("config")), "parent_config": public(payload.get("parent_config"))}


@functools.cache
def protocol_transformers() -> list[Any]:
    """Return the stream transformers that LangGraph's event streaming protocol leaves out by default, and TasksTap."""
    from langgraph.stream import CheckpointsTransformer, CustomTransformer, StreamTransformer, UpdatesTransformer
    from langgraph.stream.stream_channel import StreamChannel

    class TasksTap(StreamTransformer):
        """Repeats tasks events, which LangGraph's own transformers swallow, as the data of new events."""

        _native = True
        required_stream_modes = ("tasks",)

        def init(self) -> JsonObject:
            self._channel: StreamChannel[Any] = StreamChannel("tasks")
            return {"task_events": self._channel}

        def process(self, event: Any) -> bool:
            if event["method"] == "tasks":
                self._channel.push(event)
            return True

    return [CheckpointsTransformer, CustomTransformer, UpdatesTransformer, TasksTap]


async def protocol_events(graph: Graph, run: Run, control: RunControl | None) -> AsyncIterator[tuple[str, JsonObject]]:
    """Run the graph and yield events as (method, params) of the event streaming protocol. Raises NotServed."""
    need_event_streaming()  # the run may have been made when a newer LangGraph was installed
    call, calls, converter = _graph_call(graph, run, control), cast(Any, graph), ProtocolConverter(run)
    del call["stream_mode"], call["subgraphs"]
    call["transformers"] = [each for each in protocol_transformers() if each not in graph.stream_transformers]
    held: list[tuple[str, JsonObject]] = []  # root values: the checkpoint that follows them has to be sent first
    async for event in await calls.astream_events(**call, version="v3"):
        for method, params in converter.convert(event):
            root = not params["namespace"]
            if held and not (root and method == "checkpoints"):
                yield held.pop()
            if root and method == "values":
                held = [(method, params)]
                continue
            yield method, params
            if held:
                yield held.pop()
    for each in held:
        yield each


def event_bridge() -> Any:
    """Return LangChain's private module that turns messages into events of the protocol."""
    from langchain_core.language_models import _compat_bridge

    return _compat_bridge


class ProtocolConverter:
    """Turns LangGraph's protocol events into those that clients of LangGraph Server expect."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._names: dict[tuple[str, ...], str] = {}
        self._message_ids: dict[str, Any] = {}
        self._asked: set[str] = set()  # interrupt ids: a subgraph's interrupt comes again with its parents' values

    def convert(self, event: Any) -> Iterator[tuple[str, JsonObject]]:
        method, params = event["method"], dict(event["params"])
        data, interrupts = params["data"], params.pop("interrupts", ())
        if method == "tasks":  # as TasksTap repeats it
            params = data["params"]
        elif method == "values":
            params["data"] = reduced(data)
            for interrupt in interrupts:
                if interrupt.id not in self._asked:
                    self._asked.add(interrupt.id)
                    question = asked_question(interrupt_value(interrupt))
                    event_id = f"synth:{self._run.run_id}:input||{interrupt.id}"
                    yield "input.requested", {**params, "data": question, "event_id": event_id}
        elif method == "lifecycle":
            params = self._lifecycle(params)
        elif method == "messages":
            payload, metadata = data
            if not isinstance(payload, dict):  # a whole message: the values have it
                return
            params["data"] = self._message_part(payload, metadata["run_id"])
        elif method == "checkpoints":  # ids only: the state itself comes as values
            head = {"id": (checkpoint_value(data.get("config")) or {}).get("checkpoint_id")}
            if parent := checkpoint_value(data.get("parent_config")):
                head["parent_id"] = parent["checkpoint_id"]
            known = data.get("metadata") or {}
            params["data"] = {**head, "step": known.get("step"), "source": known.get("source")}
        elif method.startswith("custom:"):
            method, params["data"] = "custom", {"name": method.removeprefix("custom:"), "payload": data}
        yield method, params
        if method == "tools" and data["event"] == "tool-finished":
            yield from self._tool_message(params)

    def _message_part(self, payload: JsonObject, model_run: str) -> JsonObject:
        """Return a part of a message with the ids of the message and of its model's run: several may be streaming."""
        if payload["event"] == "message-start":
            self._message_ids[model_run] = payload.get("id")
        return {**payload, "id": self._message_ids.get(model_run), "run_id": model_run}

    def _tool_message(self, params: JsonObject) -> Iterator[tuple[str, JsonObject]]:
        """Yield the answer to a tool call as a message of role `tool`, in a namespace of its own. The call's id is used
        as the model's run, and in the message's id if the tool gave none."""
        call = params["data"]["tool_call_id"]
        if message := tool_answer(params["data"]["output"], call):
            place = {**params, "namespace": [*params["namespace"], f"tools:{call}"]}
            for part in event_bridge().message_to_events(
                message, message_id=message.id or f"{self._run.run_id}-tool-{call}"
            ):
                own: JsonObject = {"role": "tool", "tool_call_id": call} if part["event"] == "message-start" else {}
                if part["event"] == "content-block-delta":  # some clients read `content` instead of `delta`
                    own = {"content": {**part["delta"], "type": part["delta"]["type"].removesuffix("-delta")}}
                yield "messages", {**place, "data": self._message_part({**part, **own}, call)}

    def _lifecycle(self, params: JsonObject) -> JsonObject:
        data = params["data"]
        namespace = tuple(data["namespace"])
        if data["event"] == "started":
            self._names[namespace] = data.get("graph_name", "")
            return {**params, "namespace": list(namespace)}
        shown = {key: value for key, value in data.items() if key != "namespace"}
        shown["graph_name"] = self._names.get(namespace, "")
        event_id = f"synth:{self._run.run_id}:lc|{chr(0).join(namespace)}|{data['event']}"
        return {**params, "namespace": list(namespace), "data": shown, "event_id": event_id}


def asked_question(interrupt: JsonObject) -> JsonObject:
    """Return an interrupt as the data of the protocol's `input.requested`."""
    more = {key: value for key, value in interrupt.items() if key != "id" and value is not None}
    return {"interrupt_id": interrupt["id"], "payload": interrupt["value"], "value": interrupt["value"], **more}


def tool_answer(output: Any, call: str) -> ToolMessage | None:
    """Return the message in a tool's output that answers a call, None if there is none for it. An output without
    messages and commands becomes a message, as text."""
    if isinstance(output, ToolMessage):
        return output
    parts = as_list(output)
    if not any(isinstance(part, ToolMessage | langgraph_types.Command) for part in parts):
        return ToolMessage(output if isinstance(output, str) else to_json(output).decode(), tool_call_id=call)
    return next((each for part in parts for each in _tool_messages(part) if each.tool_call_id == call), None)


def _tool_messages(value: Any) -> Iterator[ToolMessage]:
    """Yield the tool messages in a part of a tool's output. Those in a command's update may be dictionaries."""
    if isinstance(value, langgraph_types.Command):
        value = list(value.update.values()) if isinstance(value.update, dict) else value.update
    if isinstance(value, list | tuple):
        for each in value:
            yield from _tool_messages(each)
    elif isinstance(value, dict) and "tool" in (value.get("role"), value.get("type")) and "content" in value:
        yield ToolMessage(value["content"], tool_call_id=str(value.get("tool_call_id")))
    elif isinstance(value, ToolMessage):
        yield value


_REDUCED_MESSAGES = ("human", "ai", "system", "tool", "function", "remove", "chat")


def reduced(value: Any) -> Any:
    """Return state with its messages as the event streaming protocol shows them: without empty fields."""
    if isinstance(value, BaseMessage):
        value = value.model_dump()
    if isinstance(value, dict):
        if value.get("type") in _REDUCED_MESSAGES and "content" in value:
            return {k: v for k, v in value.items() if k in ("content", "artifact") or v not in (None, {}, [])}
        return {key: reduced(member) for key, member in value.items() if key != "__interrupt__"}
    if isinstance(value, list | tuple) and not hasattr(value, "_asdict"):
        return [reduced(member) for member in value]
    return value


########################################################################################################
# 11  Runner
########################################################################################################

BUSY = "Thread is already running a task. Wait for it to finish or choose a different multitask strategy."
MAX_BATCH = 1_000
NOT_TWICE = (
    "Cannot specify both configurable and context. Prefer setting context alone. Context was introduced in "
    "LangGraph 0.6.0 and is the long term planned replacement for configurable."
)


@dataclass
class NewRun:
    """A run as a client asked for it. Without `thread_id` it gets a thread of its own."""

    thread_id: str | None
    body: RunCreate
    start: bool = True  # at once, if its thread is free
    cron_id: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # that enter the configurable: the request's id, and more
    protocol: bool = False  # started by a command of the event streaming protocol
    task_id: str | None = None  # of its A2A task
    access: RunAccess = RunAccess()
    run_id: str = field(default_factory=new_id)

    def metadata(self) -> JsonObject:
        config = self.body.config.metadata if self.body.config else {}
        given = {**config, **(self.body.metadata or {}), **self.access.metadata}
        return {key: given[key] for key in given if key != "graph_id" and key not in RESERVED_METADATA}

    def run(
        self, graphs: Graphs, assistant: Assistant, thread_id: str, thread: Thread | None, config: JsonObject
    ) -> Run:
        """Return the run, to be inserted. `thread` is None if it is new, too; `config` is the client's. Raises
        BadRequest or Invalid."""
        body, context, own = self.body, self.body.context or {}, self.own(assistant, thread_id)
        modes = body.stream_mode or ["values"]
        if config.get("configurable") and without_own(context):
            raise BadRequest(NOT_TWICE)
        given = {**config.get("configurable", {}), **context}
        from_cron = {"cron_id": self.cron_id} if self.cron_id and not context else {}
        above = [assistant.config.get("configurable", {}), thread.config.get("configurable", {}) if thread else {}]
        configurable = {"user_id": "", **above[0], **above[1], **given, **self.headers}
        metadata = {**assistant.metadata, **(thread.metadata if thread else {}), **self.metadata()}
        metadata["assistant_id"] = assistant.assistant_id
        kwargs = {
            "input": body.input,
            "command": _given_command(body) if body.command else None,
            "stream_mode": PROTOCOL_MODES if self.protocol else [modes] if isinstance(modes, str) else modes,
            "interrupt_before": body.interrupt_before,
            "interrupt_after": body.interrupt_after,
            "webhook": body.webhook,
            "feedback_keys": body.feedback_keys,
            # its thread is deleted when it ends
            "temporary": self.thread_id is None and body.on_completion != "keep",
            "subgraphs": bool(body.stream_subgraphs),
            "resumable": bool(body.stream_resumable),
            "checkpoint_during": True if body.checkpoint_during is None else body.checkpoint_during,
            "durability": body.durability or ("exit" if body.checkpoint_during is False else "async"),
            "config": graph_config(
                {**assistant.config, **config, "configurable": configurable, "metadata": metadata}, own
            ),
            "context": without_own({**assistant.context, **given, **from_cron}, own),
        }
        loaded = graphs.loaded.get(assistant.graph_id)
        for each in loaded.shared if loaded else ():  # raises MissingScope, which is Invalid
            shared_prefix((kwargs["config"]["configurable"], kwargs["context"]), *each)
        at, delay = now(), datetime.timedelta(seconds=body.after_seconds or 0)
        return Run(
            run_id=self.run_id,
            thread_id=thread_id,
            assistant_id=assistant.assistant_id,
            created_at=moment(CLOCK.now() + delay) if delay else at,
            updated_at=at,
            started_at=None,
            status="pending",
            metadata=metadata,
            kwargs=kwargs,
            multitask_strategy=body.multitask_strategy or "enqueue",
            task_id=self.task_id,
            due=CLOCK.steady() + delay // datetime.timedelta(microseconds=1),
        )

    def own(self, assistant: Assistant, thread_id: str) -> JsonObject:
        """Return the part of the run's configurable that only the server sets."""
        body = self.body
        given = body.config.configurable if body.config else {}
        place = {name: given.get(name) for name in PLACE_KEYS}
        if body.checkpoint:
            place |= body.checkpoint.configurable()
        own = {
            **place,
            "checkpoint_id": body.checkpoint_id or place["checkpoint_id"],
            "cron_id": self.cron_id,
            "langgraph_request_id": self.headers.get("langgraph_request_id"),
            "__event_streaming_v2": self.protocol,
            "__pregel_strict_resume": body.strict_resume,
        }
        return {name: value for name, value in own.items() if value not in (None, False)} | {
            "run_id": self.run_id,
            "thread_id": thread_id,
            "graph_id": assistant.graph_id,
            "assistant_id": assistant.assistant_id,
            **user_values(User(self.access.user) if self.access.user else None),
        }


class Created(NamedTuple):
    """A new run, and what is left to do once its transaction is committed."""

    run: Run
    gave_way: list[Run]  # live runs that it supersedes; running ones have to be stopped
    started: Run | None  # the run, if it is to be executed at once
    ends: list[tuple[Run, Event]]  # how runs in `gave_way` ended, for their followers


def make_run(conn: sqlite3.Connection, graphs: Graphs, new: NewRun) -> Created:
    """Make a run, and its thread if it is new; apply the multitask strategy. Raises NotFound, Conflict, BadRequest."""
    body = new.body
    assistant = Assistants(conn).get(body.assistant_id, new.access.assistants)
    thread = Threads(conn).get(new.thread_id) if new.thread_id else None
    makes_thread = thread is None and (new.thread_id is None or body.if_not_exists == "create")
    if assistant is None or not (makes_thread or within(thread, new.access.threads)):
        raise NotFound("Thread or assistant not found.")
    config, strategy = client_config(body.config), body.multitask_strategy or "enqueue"
    gave_way: list[Run] = []
    if thread and thread.status == "busy" and strategy != "enqueue":
        if strategy == "reject":
            raise Conflict(BUSY)
        gave_way = Runs(conn).live(thread.thread_id)
        for run in gave_way:
            cancel_live_run(conn, run, strategy, f"superseded by run {new.run_id} (multitask_strategy={strategy})")
        thread = Threads(conn).get(thread.thread_id)  # None if it was a stateless run's: deleted with the run
    elif thread and thread.status == "interrupted" and (waiting := Tasks(conn).waiting(thread.thread_id)):
        if body.input is None or _given_command(body):  # an answer: the A2A task goes on
            new = replace(new, task_id=waiting.run.task_id)
        else:  # other input drops the question, and ends the task
            Runs(conn).set_status(waiting.run.run_id, "interrupted")
    thread_id = thread.thread_id if thread else new.thread_id or new_id()
    free = thread is None or thread.status != "busy"
    ids = {"graph_id": assistant.graph_id, "assistant_id": assistant.assistant_id}
    above = thread.config if thread else {}
    configurable = {**assistant.config.get("configurable", {}), **above.get("configurable", {})}  # not the run's
    thread_config = {**assistant.config, **above, **config, "configurable": configurable}
    if thread is None:
        Threads(conn).insert(thread_id, {**ids, **new.metadata()}, thread_config, graphs.thread_ttl)
    elif free or gave_way:
        thread = replace(thread, metadata={**thread.metadata, **ids}, config=thread_config)
        Threads(conn).update(thread_id, metadata=thread.metadata, config=thread.config)
    run = new.run(graphs, assistant, thread_id, thread, config)
    started = run.started() if new.start and free and not body.after_seconds else None
    Runs(conn).insert(started or run)
    return Created(run, gave_way, started, keep_ends(conn, graphs, gave_way) if gave_way else [])


def cancel_live_run(conn: sqlite3.Connection, run: Run, action: str, reason: str) -> None:
    """Cancel a live run. One that is running ends once its graph has stopped."""
    if run.status == "running":
        Runs(conn).request_cancel(run.run_id, action, reason)
        return
    if action == "rollback":
        Runs(conn).delete(run)
    else:
        Runs(conn).set_status(run.run_id, "interrupted")
    status, name = CANCELLED[action]
    leave_behind(conn, run, Outcome(status, {"error": name, "message": reason}))


def _given_command(body: RunCreate) -> JsonObject | None:
    """Return the command of a run, None if it is empty. `resume` with null is an answer like any other."""
    command = body.command.given() if body.command else {}
    return command if any(command.get(key) for key in ("update", "goto")) or "resume" in command else None


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `state` is what its thread shows then, None if the run left it alone. `refusal` tells why
    a strict resume was refused: such a run fails, and leaves its thread as it was."""

    status: str
    error: JsonObject | None = None
    state: ShownState | None = None
    shared: Sequence[SharedPuts] = ()
    refusal: JsonObject | None = None
    values: bytes | None = None  # those of `state` as JSON, once they are stored


# The status of a cancelled run and the name of its error, by the action that was asked for.
CANCELLED = {"interrupt": ("interrupted", "UserInterrupt"), "rollback": ("rollback", "UserRollback")}


def _terminals(outcome: Outcome) -> list[JsonObject]:
    """Return the lifecycle events that end a run in the event streaming protocol. A cancelled run is `interrupted`;
    but so is one that asks a question, and there the Python client waits on, so `completed` has to follow: unlike
    `failed` it shows no error in a browser that reads it again with its next message."""
    if outcome.status == "error":
        message = {"error": outcome.error["message"]} if outcome.error else {}
        return [{"event": "failed", **message, **(outcome.refusal or {})}]
    if outcome.status in ("interrupted", "rollback"):
        return [{"event": "interrupted"}, {"event": "completed"}]
    waits = outcome.state is not None and outcome.state.status == "interrupted"
    return [{"event": "interrupted" if waits else "completed"}]


def finish_run(conn: sqlite3.Connection, run: Run, outcome: Outcome) -> Outcome | None:
    """End a running run: its row, its thread, its webhook. Return the outcome, which is that of a cancel if one came
    before this transaction, or None if the run was deleted meanwhile."""
    if (cancel := Runs(conn).finish(run.run_id, outcome.status)) is None:
        return None
    action, reason = cancel
    if action:
        status, name = CANCELLED[action]
        error = {"error": name, "message": reason or "cancelled"}
        outcome = replace(outcome, status=status, error=error, refusal=None)
    for puts in outcome.shared:
        Items(conn).apply(puts)
    failed = outcome.status == "error" and outcome.refusal is None
    if outcome.status == "rollback":
        Runs(conn).delete(run)
    if (state := outcome.state) and outcome.status != "rollback":
        status = "error" if failed else state.status
        shown = (status, state.values, state.interrupts, outcome.error, state.output_keys)
        outcome = replace(outcome, values=Threads(conn).set_state(run.thread_id, *shown))
    else:
        Threads(conn).set_outcome(run.thread_id, "error" if failed else None, outcome.error)
    if run.kwargs["webhook"] or run.kwargs["temporary"]:
        leave_behind(conn, run, outcome)
    return outcome


def leave_behind(conn: sqlite3.Connection, run: Run, outcome: Outcome) -> None:
    """Store the webhook of a run that is over, and delete its thread if that was made for it alone."""
    if url := run.kwargs["webhook"]:
        shown = outcome.state if outcome.status != "rollback" and not run.kwargs["temporary"] else None
        payload = {
            **run.to_dict(),
            "status": outcome.status,
            "run_started_at": run.started_at,
            "run_ended_at": now(),
            "webhook_sent_at": now(),
            "values": shown.values if shown else None,
            **({"error": outcome.error} if outcome.error is not None else {}),
        }
        Webhooks(conn).insert(url, to_json(payload))
    if run.kwargs["temporary"]:
        Threads(conn).delete(run.thread_id)


NODE_THREADS = "devserver-node"


class RunLoop:
    """The event loop, on a thread of its own, that executes all graphs.

    One loop, since users keep clients in globals, bound to the loop that used them first. A watchdog logs the line of
    user code that blocks it.
    """

    WORKERS = 256
    BLOCKED_SECONDS = 1.0
    PATIENCE_SECONDS = 0.2

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="devserver-runs", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="devserver-watchdog", daemon=True)
        self._nodes = concurrent.futures.ThreadPoolExecutor(self.WORKERS, thread_name_prefix=NODE_THREADS)
        self._stopped = threading.Event()

    def start(self) -> None:
        self.loop.set_default_executor(self._nodes)
        self._thread.start()
        self._watchdog.start()

    def stop(self) -> None:
        self._stopped.set()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=1)
        self._nodes.shutdown(wait=False, cancel_futures=True)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine here for a caller on another loop."""
        return await asyncio.wrap_future(self.spawn(coroutine))

    async def run_or_elsewhere(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine here, or on a new loop if a node blocks this one."""
        begun = asyncio.Event()
        caller = asyncio.get_running_loop()

        async def run() -> T:
            caller.call_soon_threadsafe(begun.set)
            return await make()

        future = self.spawn(run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.PATIENCE_SECONDS):
                await begun.wait()
        if not begun.is_set() and future.cancel():
            return await asyncio.to_thread(asyncio.run, make())
        return await asyncio.wrap_future(future)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopped.is_set():
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # a node called sys.exit, which has failed its own run
                log.warning("a graph tried to exit the process")

    def _watch(self) -> None:
        beat = threading.Event()
        while not self._stopped.wait(self.BLOCKED_SECONDS / 4):
            beat.clear()
            self.loop.call_soon_threadsafe(beat.set)
            if not beat.wait(self.BLOCKED_SECONDS):
                frame = sys._current_frames().get(self._thread.ident or 0)
                stack = traceback.extract_stack(frame)
                at = next((entry for entry in reversed(stack) if not _is_library(entry.filename)), stack[-1])
                line = f"{at.filename}:{at.lineno} ({at.line})"
                log.warning("%s blocks the run loop: other runs wait (await it, or make the node a def)", line)
                while not (self._stopped.is_set() or beat.wait(self.BLOCKED_SECONDS)):  # told once
                    pass


ATTEMPTS = 5


class Fatal(Exception):
    """A run during which the server has ended again and again."""


def _resume(conn: sqlite3.Connection, run: Run) -> Run:
    """Return a run as its next attempt executes it: without its input if a checkpoint has that already, else from the
    start. Raises Fatal if the last attempts, ATTEMPTS of them, stored nothing."""
    if (vain := run.attempt - 1 - Runs(conn).reached_in(run)) >= ATTEMPTS:
        raise Fatal(f"the server ended {vain} times while this run went on, so it is not tried again")
    if Runs(conn).has_checkpoint(run):
        configurable = run.kwargs["config"]["configurable"]
        configurable = {key: configurable[key] for key in configurable if key not in PLACE_KEYS}
        kwargs = {**run.kwargs, "input": None, "command": None}
        kwargs["config"] = {**run.kwargs["config"], "configurable": configurable}
        return replace(run, kwargs=kwargs)
    answer = (run.kwargs["command"] or {}).get("resume")
    if answer is not None and not isinstance(answer, dict) and Runs(conn).has_used_answer(run):
        Runs(conn).take_back(run.run_id, run.thread_id, NULL_TASK_ID, WRITES_IDX_MAP[RESUME])
        return replace(run, kwargs={**run.kwargs, "input": None, "command": None})  # its pending writes have the update
    Runs(conn).take_back(run.run_id, run.thread_id, NULL_TASK_ID)
    return run


async def _is_at_breakpoint(graph: Graph, run: Run) -> bool:
    """Return whether an earlier attempt came to its breakpoint: LangGraph, called again, would go on from there."""
    before = run.kwargs["interrupt_before"] or graph.interrupt_before_nodes
    after = run.kwargs["interrupt_after"] or graph.interrupt_after_nodes
    if not isinstance(graph.checkpointer, Saver) or not (before or after):
        return False
    waiting = {name for name in (await snapshot(graph, place_config(run.thread_id))).next if not name.startswith("__")}
    if waiting and (before == "*" or waiting & set(before)):
        return True
    latest = await graph.checkpointer.aget_tuple(place_config(run.thread_id))
    if latest is None or latest.parent_config is None or not waiting:
        return False
    parent = await graph.checkpointer.aget_tuple(latest.parent_config)
    known = parent.checkpoint["versions_seen"] if parent else {}
    seen = latest.checkpoint["versions_seen"]
    ran = {name for name in seen if seen[name] != known.get(name) and not name.startswith("__")}
    return bool(ran if after == "*" else ran & set(after))


# After a crash it is unknown which event numbers clients have seen: the next attempt begins beyond them.
LOST_SEQS = 1_000_000


def _lifecycle(graphs: Graphs, run: Run, data: JsonObject) -> JsonObject:
    """Return the params of a lifecycle event of a run's root graph, for the event streaming protocol."""
    graph_id = run.graph_id
    name = graphs.loaded[graph_id].name if graph_id in graphs.loaded else graph_id
    event_id, ms = f"synth:{run.run_id}:lc||{data['event']}", CLOCK.micros() // 1000
    return {"event_id": event_id, "namespace": [], "timestamp": ms, "data": {**data, "graph_name": name}}


def keep_ends(conn: sqlite3.Connection, graphs: Graphs, cancelled: Iterable[Run]) -> list[tuple[Run, Event]]:
    """Store and return the events that end cancelled runs which had not begun. If another run of the thread is live,
    there are none of the event streaming protocol: its clients would take them for the end of that run."""
    ends: list[tuple[Run, Event]] = []
    for run in cancelled:
        if run.status != "pending":
            continue
        if not Runs(conn).live(run.thread_id):
            seq, last = Events(conn).last_seq(run.thread_id) + LOST_SEQS * run.attempt, []
            for data in _terminals(Outcome("interrupted")):
                seq += 1
                end = to_json(_lifecycle(graphs, run, data))
                last.append(Event(event_id(), f"{PROTOCOL}lifecycle", end, seq, run.run_id))
            if run.kwargs["resumable"]:
                Events(conn).append(run.thread_id, last, run.run_id)
            Events(conn).set_last_seq(run.thread_id, seq)
            ends += [(run, event) for event in last]
        ends.append((run, run_done(run, conn)))
    return ends


class Execution:
    """One attempt at a run: calls its graph and passes the events to followers of the run and of its thread, those of a
    resumable run by way of the database, each once, in order."""

    TRIES = 10  # to store the end, before followers are sent away with an error

    def __init__(self, db: Db, graphs: Graphs, logs: Logs, run: Run, caller: Caller) -> None:
        self._db = db
        self._graphs = graphs
        self._logs = logs
        self._run = run
        self.caller = caller
        self._run_log = logs.of_run(run.run_id)
        self._queue: EventLog | None = None  # events of a resumable run on their way to the database
        self._reader: Follower
        if run.kwargs["resumable"]:
            self._queue, self._reader = EventLog(), Follower()
            self._queue.join(self._reader)
        self._part: list[Event] = []  # taken from the queue, but not stored yet
        self._writing: asyncio.Task[None] | None = None
        wanted, last_seq = db.look(lambda conn: Runs(conn).start_state(run.run_id))
        self._seq = last_seq + LOST_SEQS * (run.attempt - 1)
        self._unfinished: dict[str, JsonObject] = {}  # `message-start` of messages being streamed, by their model's run
        self.control = RunControl() if RunControl is not None else None
        self.task = asyncio.ensure_future(self._execute())
        if not wanted:  # it was cancelled before it began
            self.task.cancel()

    async def _execute(self) -> Outcome:
        """Call the graph, with the run's shared values bound."""
        CALLER.set(self.caller)
        try:
            self._tell("metadata", {"run_id": self._run.run_id, "attempt": self._run.attempt})
            self._tell(f"{PROTOCOL}lifecycle", _lifecycle(self._graphs, self._run, {"event": "running"}))
            return await self._call_graph()
        except GraphDrained:
            return Outcome("pending")
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever the user's graph raises ends its run, not the server
            value = exception_value(error)
            if isinstance(error, RunGone):
                return Outcome("error", value)
            unknown = None if isinstance(error, Unavailable) else error
            told = {"run_id": self._run.run_id}  # for the test kit
            log.error("run %s of %s failed", self._run.run_id, self._run.graph_id, exc_info=unknown, extra=told)
            RUN_SCOPE.set(None)
            refusal: JsonObject | None = None
            if isinstance(error, UnknownInterruptError):  # LangGraph refuses a strict resume
                ids = {"interrupt_ids": list(error.interrupt_ids), "pending_ids": list(error.pending_ids)}
                refusal = {"reason": error.reason, **ids}
            return Outcome("error", value, await self.state_after_cancel(value), refusal=refusal)
        finally:
            self.caller.end(cancelled=False)

    async def end(self, outcome: Outcome, stopping: Callable[[], bool]) -> Outcome | None:
        """Store how the run ended, then tell its followers. Return the stored outcome, or None if the run was deleted
        meanwhile. While the database is unavailable, wait; raise Unavailable if the server stops meanwhile. If the end,
        or an event, can't be stored for another reason, the run fails."""
        failure = self._event("error", outcome.error) if outcome.status == "error" and outcome.error else None
        tries = itertools.count(1)

        def patient(error: Unavailable) -> bool:
            if stopping():
                return False
            if next(tries) == self.TRIES:  # it may last: followers need not wait any longer
                log.error("run %s has ended, but that cannot be stored yet: %s", self._run.run_id, error)
                self._logs.fail_run(self._run.run_id, outcome.error or exception_value(error))
            return True

        try:
            if self._queue:
                await self._flush(patient)
            ended, last, done = await self._db.write(self._finish, outcome, failure, patient=patient)
        except Unavailable:
            raise
        except Exception as error:
            log.exception("the end of run %s could not be stored: the run fails", self._run.run_id)
            outcome = Outcome("error", exception_value(error))
            failure = self._event("error", outcome.error)
            ended, last, done = await self._db.write(self._finish, outcome, failure, patient=patient)
        if ended and ended.state and ended.state.values is self._run_log.last_values:
            self._run_log.result = ended.values
        if failure in last:
            self._run_log.error = to_json(outcome.error)
        if self._queue:
            self._queue.leave(self._reader)
        self._show([*last, done])
        self._logs.close_run(self._run.run_id)
        return ended

    async def suspend(self) -> None:
        """Store the events that are left: the run goes on at the next start of the server."""
        if self._queue:
            await self._flush(impatient)
            self._queue.leave(self._reader)

    async def state_after_cancel(self, failure: JsonObject | None = None) -> ShownState | None:
        """Return what the thread shows after a cancel, or after `failure` of the run; None if it can't be read."""
        if self._run.kwargs["temporary"]:
            return None
        try:
            async with self._graphs.open(self._run.graph_id, self._run.config(), "threads.read") as graph:
                found = await snapshot(graph, place_config(self._run.thread_id))
                return ShownState.of(graph, found) if found.created_at else None
        except Exception as error:  # the graph is gone or broken
            if exception_value(error) != failure:  # else it is logged already
                log_old_state(self._run.thread_id, error)
            return None

    def _finish(
        self, conn: sqlite3.Connection, outcome: Outcome, failure: Event | None
    ) -> tuple[Outcome | None, list[Event], Event]:
        """End the run. Return its outcome, None if it was deleted (followers see a cancel); the last events for
        followers of the run and its thread; and `run_done`, for those of its thread."""
        ended = finish_run(conn, self._run, outcome)
        shown = ended or Outcome("interrupted")
        last = [failure] if failure and shown.status == "error" else []
        why = shown.error["message"] if shown.error and shown.status == "error" else "The run was cancelled."
        for begun in self._unfinished.values():  # messages that were cut short: the Python client waits for their ends
            cut = {"event": "error", "message": why, "id": begun["data"]["id"], "run_id": begun["data"]["run_id"]}
            params = {**begun, "timestamp": CLOCK.micros() // 1000, "data": cut}
            last.append(self._event(f"{PROTOCOL}messages", params))
        for each in _terminals(shown):
            last.append(self._event(f"{PROTOCOL}lifecycle", _lifecycle(self._graphs, self._run, each)))
        if self._queue:
            Events(conn).append(self._run.thread_id, last, self._run.run_id)
        Events(conn).set_last_seq(self._run.thread_id, self._seq)
        return ended, last, run_done(self._run, conn if ended else None)

    def _event(self, name: str, data: Any) -> Event:
        numbered = name.startswith(PROTOCOL) or name.partition("|")[0] in NUMBERED
        self._seq += numbered
        text = bytes(memoryview(to_json(data)))  # copied: orjson's keeps a buffer of 4 KB
        return Event(event_id(), name, text, self._seq if numbered else 0, self._run.run_id)

    def _tell(self, name: str, data: Any) -> None:
        events = [(name, data)]
        if name == f"{PROTOCOL}input.requested":
            self._run_log.interrupts.append(data["data"])
        elif name == f"{PROTOCOL}messages":
            message = data["data"]
            if message["event"] == "message-start":
                self._unfinished[message["run_id"]] = data
            elif message["event"] in ("message-finish", "error"):
                self._unfinished.pop(message["run_id"], None)
        elif name == "values":
            self._run_log.last_values = data
            for asked in data.get("__interrupt__", ()) if isinstance(data, dict) else ():
                self._run_log.interrupts.append(asked)
                params = {"namespace": [], "timestamp": CLOCK.micros() // 1000}
                question = {**params, "data": asked_question(interrupt_value(asked))}
                events.insert(-1, (f"{PROTOCOL}input.requested", question))
        for each in events:
            if self._queue:
                self._queue.append(self._event(*each))
                if self._writing is None or self._writing.done():
                    self._writing = asyncio.ensure_future(self._write())
            elif self._run.thread_id in self._logs.threads or (
                self._run_log.followers and not each[0].startswith(PROTOCOL)
            ):
                self._show([self._event(*each)])

    def _show(self, events: Iterable[Event]) -> None:
        thread_log = self._logs.threads.get(self._run.thread_id)
        for event in events:
            if ORDINARY.match(event.name) and not self._run_log.closed:  # closed if the log has failed
                self._run_log.append(event)
            if thread_log:
                thread_log.append(event)

    async def _write(self, patient: Callable[[Unavailable], bool] | None = None) -> None:
        """Store the events in the queue, then show them. Without `patient`, leave them to `_flush` if that fails."""
        run = self._run
        try:
            while self._queue and (part := self._part or self._queue.take(self._reader)):
                self._part = part
                await self._db.write(
                    lambda conn, part: Events(conn).append(run.thread_id, part, run.run_id),
                    part,
                    patient=patient or impatient,
                )
                self._part = []
                self._show(part)
        except (Unavailable, Overtaken):
            if patient:
                raise

    async def _flush(self, patient: Callable[[Unavailable], bool]) -> None:
        """Store all events that are left. Raises Unavailable, and Overtaken if events were dropped."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._write(patient)

    async def _call_graph(self) -> Outcome:
        run, kwargs = self._run, self._run.kwargs
        scope = SharedScope(
            (kwargs["config"]["configurable"], kwargs["context"] or {}),
            lambda prefix: self._db.look(lambda conn: Items(conn).load(prefix)),
            run.run_id,
            at_exit=kwargs["durability"] == "exit",
        )
        if run.attempt > 1:
            run = await self._db.write(_resume, run)
        if run.kwargs["command"]:
            run = self._with_null_answer(run)
        RUN_SCOPE.set(scope)
        entry = self._graphs.get(run.graph_id)
        if entry.shared:
            await asyncio.to_thread(scope.preload, entry.shared)
        async with self._graphs.open(run.graph_id, run.config(), "threads.create_run", kwargs["context"]) as graph:
            applied = run.attempt > 1 and self._db.look(lambda conn: Runs(conn).has_checkpoint(run))
            if applied and await _is_at_breakpoint(graph, run):
                log.debug("run %s had come to its breakpoint", run.run_id)
            elif run.kwargs["config"]["configurable"].get("__event_streaming_v2"):
                async for method, params in protocol_events(graph, run, self.control):
                    self._tell(PROTOCOL + method, params)
            else:
                async for name, data in graph_events(graph, run, self.control):
                    self._tell(name, data)
            RUN_SCOPE.set(NO_SCOPE)  # a thread's state has no shared values
            if run.kwargs["temporary"] and not kwargs["webhook"] and not self._run_log.interrupts:
                return Outcome("success", shared=scope.loose_puts())
            values, latest = self._run_log.last_values, scope.latest
            state = ShownState.at_end(graph, latest[1]) if latest and latest[0] == run.thread_id else None
            is_known = state and isinstance(values, dict) and [*values] == [*state.values]
            state = state or ShownState.of(graph, await graph.aget_state(place_config(run.thread_id)))
            if is_known or (state.status == "interrupted" and values is not MISSING):
                # the last values that LangGraph streamed include writes of the unfinished superstep
                self._run_log.last_values = output_of(state.values, state.output_keys)
            shared = scope.loose_puts() if scope.supersteps and state.status == "idle" else ()
            return Outcome("success", state=state, shared=shared)

    def _with_null_answer(self, run: Run) -> Run:
        """Return the run with a null answer under its question's id: LangGraph ignores a bare null."""
        command = run.kwargs["command"]
        if command.get("resume", MISSING) is not None:
            return run
        thread = self._db.look(lambda conn: Threads(conn).get(run.thread_id))
        asked = [each["id"] for asked in ((thread and thread.interrupts) or {}).values() for each in asked]
        if len(asked) != 1:
            return run
        return replace(run, kwargs={**run.kwargs, "command": {**command, "resume": {asked[0]: None}}})


# -- webhooks --


def check_webhook(url: str, allowed: WebhookUrls) -> None:
    """Raise Invalid for a webhook URL that is wrong, or that langgraph.json forbids. A path alone is on this server."""
    if len(url) > allowed.max_url_length:
        raise Invalid("Webhook URL too long")
    if url.startswith("/") and not url.startswith("//"):
        if allowed.disable_loopback:
            raise Invalid("Webhook host blocked: webhooks.url.disable_loopback forbids relative URLs")
        return
    try:
        parts = httpx.URL(url)  # the same parser that is used to send
    except httpx.InvalidURL as error:
        raise Invalid(f"Invalid webhook URL: {error}") from None
    if parts.scheme not in ("http", "https") or (allowed.require_https and parts.scheme != "https"):
        raise Invalid(f"Webhook host blocked: scheme '{parts.scheme}' not allowed")
    host, port = parts.raw_host.decode(), parts.port or (443 if parts.scheme == "https" else 80)
    if not host:
        raise Invalid("Invalid webhook hostname ''")
    if allowed.allowed_domains and not any(_is_in_domain(host, domain.lower()) for domain in allowed.allowed_domains):
        raise Invalid("Webhook domain not allowed")
    if allowed.allowed_ports and port not in allowed.allowed_ports:
        raise Invalid(f"Webhook port {port} not allowed")
    if port > 65535:
        raise Invalid(f"Invalid webhook URL: there is no port {port}")
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        raise Invalid(f"Webhook host blocked: DNS resolution failed for '{host}'") from None
    for address in addresses:
        check_webhook_address(address, allowed)


def _is_in_domain(host: str, domain: str) -> bool:
    """Return whether a host is in a domain: `*.example.com` is every subdomain, without example.com itself."""
    return host.endswith(domain[1:]) if domain.startswith("*.") else host == domain


_CLOUD_SECRETS = ipaddress.ip_network("fd00:ec2::/32")  # of Amazon's machines, beside 169.254.169.254


def check_webhook_address(text: str, allowed: WebhookUrls) -> None:
    """Raise Invalid for an IP address where clouds keep their secrets, and for this machine's if it is forbidden."""
    for address in _addresses_in(text):
        if address.is_link_local or address in _CLOUD_SECRETS:
            raise Invalid("Webhook host blocked: blocked IP range")
        if allowed.disable_loopback and (address.is_loopback or address.is_unspecified):
            raise Invalid("Webhook host blocked: loopback IP range")


def _addresses_in(text: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Yield an address, and the IPv4 addresses that an IPv6 address leads to."""
    address = ipaddress.ip_address(text.partition("%")[0])
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped:
        yield address.ipv4_mapped
    n = int(address)
    short = n >> 64 << 56 | n & 2**56 - 1  # without the octet that RFC 6052 leaves zero
    held = {
        "::/96": [n],  # IPv4-compatible
        "::ffff:0:0:0/96": [n],  # IPv4-translated
        "64:ff9b::/96": [n],  # NAT64
        "64:ff9b:1::/48": [n, short >> 24, short >> 32, short >> 40],  # NAT64 of a network's own
        "2002::/16": [n >> 80],  # 6to4
        "2001::/32": [n >> 64, ~n],  # Teredo: its server, and its client inverted
    }
    for network, numbers in held.items():
        if address in ipaddress.ip_network(network):
            yield from (ipaddress.IPv4Address(low) for number in numbers if (low := number & 2**32 - 1))


def _address_check(host: str, allowed: WebhookUrls) -> Callable[[str, JsonObject], Coroutine[Any, Any, None]]:
    """Return a trace function for httpx that checks the address of a connection before anything is sent: the name may
    lead elsewhere by now. Does nothing if a proxy looks names up."""
    is_proxy = False

    async def watch(event: str, about: JsonObject) -> None:
        nonlocal is_proxy
        if event == "connection.connect_tcp.started":
            is_proxy = about["host"] != host
        elif event == "connection.connect_tcp.complete" and not is_proxy:
            connection = about["return_value"]
            try:
                check_webhook_address(connection.get_extra_info("server_addr")[0], allowed)
            except Invalid:
                await connection.aclose()
                raise

    return watch


class WebhookSender:
    """Posts the webhooks of runs that are over; those that a stop cuts short are sent after the next start."""

    def __init__(self, db: Db, settings: Settings, address: str) -> None:
        """Raises StartError if the headers of langgraph.json can't be filled in."""
        self._db = db
        self._disabled = settings.http.disable_webhooks
        self._allowed = settings.webhooks.url
        self._headers = {**settings.webhooks.filled_headers(os.environ), "content-type": "application/json"}
        self._address = address  # of this server, for URLs that are a path alone
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def send_due(self) -> None:
        """Start to deliver every webhook that is not on its way."""
        # no await before the tasks exist: a webhook delivered meanwhile would be taken for due, and sent twice
        for number, url, payload in self._db.look(lambda conn: Webhooks(conn).due()):
            if number not in self._tasks:
                self._tasks[number] = asyncio.ensure_future(self._deliver(number, url, payload))

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _deliver(self, number: int, url: str, payload: bytes) -> None:
        try:
            if not self._disabled:
                await self._post(url, payload)
            await self._db.write(lambda conn: Webhooks(conn).delete(number))
        finally:
            del self._tasks[number]

    async def _post(self, url: str, payload: bytes) -> None:
        """POST a webhook, with four tries over some seconds. For this machine proxies are not used."""
        whole = f"{self._address}{url}" if url.startswith("/") else url
        target = httpx.URL(whole)
        host, watch = target.host, _address_check(target.raw_host.decode(), self._allowed)
        direct = {f"all://{f'[{host}]' if ':' in host else host}": None} if is_loopback(host) else None
        foreign = not whole.startswith(f"{self._address}/")  # one's own certificate may be self-signed
        async with httpx.AsyncClient(verify=foreign, timeout=10, headers=self._headers, mounts=direct) as client:
            for pause in (0.5, 1, 2, 0):
                try:
                    await asyncio.to_thread(check_webhook, url, self._allowed)
                    sent = client.stream("POST", whole, content=payload, extensions={"trace": watch})
                    async with asyncio.timeout(30), sent as said:
                        if said.status_code < 500 and said.status_code != 429:
                            return
                        problem = f"answered {said.status_code}"
                except Exception as error:
                    problem = f"failed: {error or type(error).__name__}"
                await asyncio.sleep(pause)
            log.warning("webhook %s %s; given up after 4 tries", url, problem)


# -- what is due: crons fire, items and threads expire --


async def _sleep(noticed: asyncio.Event, seconds: float | None) -> None:
    """Sleep until `noticed` is set, at most `seconds`, and never over a minute: clocks may be set, and those of event
    loops stand still while a laptop sleeps. None means without limit."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if seconds is None else max(0.001, min(seconds, 60))):
            await noticed.wait()


class Schedule:
    """Sleeps until the database says that something is due, then acts: at most once in `pause` minutes."""

    SOON_SECONDS = 0.02

    def __init__(
        self,
        db: Db,
        next_due: Callable[[sqlite3.Connection], float | None],  # in how many seconds
        act: Callable[[], Coroutine[Any, Any, None]],
        pause: float | None = None,
    ) -> None:
        self._db = db
        self._next_due = next_due
        self._act = act
        self._pause = 60 * (pause or 0)
        self._noticed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()

    def notice(self) -> None:
        """Read the next due time again soon; calls within 20 ms share one look-up. Thread-safe."""
        if self._loop and not self._noticed.is_set():
            self._loop.call_soon_threadsafe(self._noticed.set)

    def stop(self) -> None:
        self._stopped.set()
        self._noticed.set()

    async def run(self) -> None:
        self._loop, earliest, set_back = asyncio.get_running_loop(), time.monotonic(), 0
        while True:
            if self._noticed.is_set():
                await _sleep(self._stopped, self.SOON_SECONDS)
            self._noticed.clear()  # before the database is read, so that nothing is missed
            if self._stopped.is_set():
                return
            begun = time.monotonic()
            CLOCK.steady()  # updates CLOCK.set_back
            try:
                left = self._db.look(self._next_due)
                if left is not None and (max(left, earliest - begun) <= 0 or set_back < CLOCK.set_back):
                    set_back = CLOCK.set_back
                    await self._act()
                    earliest = begun + self._pause
                    continue
                left = None if left is None else max(left, earliest - begun)
            except Exception as error:
                unknown = None if isinstance(error, Unavailable) else error
                log.error("crons and deletions that are due have to wait, trying again: %s", error, exc_info=unknown)
                left = 10 * RETRY_SECONDS
            await _sleep(self._noticed, left)


def fire_crons(conn: sqlite3.Connection, graphs: Graphs) -> list[Created]:
    """Make the runs of the crons that are due: one each, however many times have passed since the last."""
    made = []
    if CLOCK.ahead:
        Crons(conn).correct_dates()
    for cron in Crons(conn).due(now()):
        try:
            Crons(conn).update(replace(cron, next_run_date=next_run_date(cron.schedule, cron.timezone)))
        except Invalid as error:  # this was its last time, or its timezone is not known on this machine
            log.warning("cron %s is disabled, as it has no next time: %s", cron.cron_id, error)
            Crons(conn).update(replace(cron, enabled=False))
        if cron.is_over(CLOCK.now()):
            continue
        conn.execute("SAVEPOINT cron")
        try:
            made.append(make_run(conn, graphs, cron_run(cron)))
        except (ApiError, ValueError, TypeError, LookupError) as error:  # the others fire all the same
            conn.execute("ROLLBACK TO cron")
            unknown = None if isinstance(error, ApiError) else error
            log.warning("cron %s could not start a run: %s", cron.cron_id, error, exc_info=unknown)
        finally:
            conn.execute("RELEASE cron")
    return made


def cron_run(cron: Cron, headers: Mapping[str, str] = types.MappingProxyType({})) -> NewRun:
    """Return the run that a cron makes when it fires."""
    body = RunCreateStateless.model_validate({**cron.payload, "assistant_id": cron.assistant_id})
    changes = {"metadata": {**cron.metadata, **(body.metadata or {})}, "on_completion": cron.on_run_completed}
    access = RunAccess(**cron.access) if cron.access else RunAccess()
    body = body.model_copy(update=changes)
    return NewRun(cron.thread_id, body, cron_id=cron.cron_id, access=access, headers=headers)


def expire_thread(conn: sqlite3.Connection, serde: SerializerProtocol) -> bool:
    """Delete or prune a thread that has expired. Return whether there was one."""
    expired = Threads(conn).expired()
    if expired is None:
        return False
    thread_id, strategy, keep = expired
    if strategy == "keep_latest":
        prune_history(conn, serde, thread_id, keep or 1)
        Threads(conn).set_pruned(thread_id)
    else:
        Threads(conn).delete(thread_id)
    return True


# -- the server as its own client: get_client() without a URL --


class Loopback:
    """The server, for callers within its process."""

    newest: ClassVar[Loopback | None] = None

    def __init__(self, address: str, prefix: str) -> None:
        """To be called on the HTTP loop."""
        self.url, self.prefix = httpx.URL(address), prefix
        self.loop = asyncio.get_running_loop()
        self.loading = True  # graphs and http.app: meanwhile the HTTP loop stands still
        self.app: asgi.ASGIApp  # with all middleware
        self.nobody = Caller(self, None, None)
        self.state: JsonObject = {}  # of the lifespan of http.app
        Loopback.newest = self


class Caller:
    """Who calls the server from within its process: a run, as its user, or code outside of runs, as nobody.

    While a call lasts, the run lends its slot (of --max-concurrency): the call may wait for another run.
    """

    PATIENCE_SECONDS = 0.05  # most calls take less

    def __init__(self, loopback: Loopback, user: JsonObject | None, slots: asyncio.Semaphore | None) -> None:
        """To be called on the run loop, or on the HTTP loop for nobody."""
        self.loopback, self.user, self.slots = loopback, user, slots
        self.loop = asyncio.get_running_loop()
        self.over = False
        self._calls: set[LoopbackCall] = set()
        self._lasting = 0

    async def lend(self, slots: asyncio.Semaphore, call: LoopbackCall) -> None:
        """Lend the slot until a call is over and the run has a slot again. On the run loop; not to be cancelled."""
        self._calls.add(call)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.PATIENCE_SECONDS):
                await call.closed.wait()
        if not (call.closed.is_set() or self.over):
            self._lasting += 1
            if self._lasting == 1:
                slots.release()
            await call.closed.wait()
            self._lasting -= 1
            if self._lasting == 0:
                await slots.acquire()
        self._calls.discard(call)

    def end(self, cancelled: bool) -> None:
        """Lend no more. Cancel the calls of a cancelled run; those on the run loop are cancelled with its graph."""
        self.over = True
        for call in self._calls:
            call.closed.set()
            if cancelled and call.loop is not self.loop:
                call.cancelled = True
                call.leave()


# Set for runs, for requests to the server, and while graphs are loaded.
CALLER: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("devserver_caller", default=None)


class LoopbackCall(httpx.AsyncByteStream):
    """A request from within the process to its own server: answered on the HTTP loop, read on its caller's loop
    part by part, as it comes. A caller that closes it early is a client that leaves."""

    def __init__(self, caller: Caller, request: httpx.Request, body: bytes) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = asyncio.Event()  # on the run loop
        self.cancelled = False
        self._caller, self._request, self._body = caller, request, [body]
        self._parts: asyncio.Queue[asgi.Message | None] = asyncio.Queue(64)  # None for the end
        self._over = asyncio.Event()  # all is sent, or the caller has left
        self._lent: concurrent.futures.Future[None] | None = None

    async def open(self) -> httpx.Response:
        """Send the request and return the response once its head is there. Raises httpx.TransportError."""
        caller, loopback = self._caller, self._caller.loopback
        if loopback.loading or loopback.loop.is_closed():
            raise httpx.ConnectError("this process's devserver still loads its graphs, or has stopped")
        # in an empty context: the request must not inherit the run's
        contextvars.Context().run(asyncio.run_coroutine_threadsafe, self._answer(), loopback.loop)
        if caller.slots and not caller.over:
            self._lent = asyncio.run_coroutine_threadsafe(caller.lend(caller.slots, self), caller.loop)
        try:
            head = await self._next()
        except BaseException:
            await self.aclose()
            raise
        return httpx.Response(head["status"], headers=head.get("headers", []), stream=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._next()
            more = message.get("more_body", False)
            if (body := message.get("body")) and self._request.method != "HEAD":
                yield bytes(body)

    async def _next(self) -> asgi.Message:
        timeout = self._request.extensions.get("timeout", {}).get("read")
        try:
            async with asyncio.timeout(timeout):
                part = asyncio.run_coroutine_threadsafe(self._parts.get(), self._caller.loopback.loop)
                message = await asyncio.wrap_future(part)
        except TimeoutError:
            raise httpx.ReadTimeout(f"nothing came for {timeout} s") from None
        if message is None:
            raise asyncio.CancelledError if self.cancelled else httpx.RemoteProtocolError("the answer was broken off")
        return message

    async def aclose(self) -> None:
        """Disconnect, and return once the run has its slot again, unless the run is over."""
        self.leave()
        if self._lent:
            self._caller.loop.call_soon_threadsafe(self.closed.set)
            if not self._caller.over:
                await asyncio.shield(asyncio.wrap_future(self._lent))

    def leave(self) -> None:
        """Disconnect, from any thread."""
        with contextlib.suppress(RuntimeError):  # the server has stopped
            self._caller.loopback.loop.call_soon_threadsafe(self._disconnect)

    # -- on the HTTP loop --

    def _disconnect(self) -> None:
        self._over.set()
        while not self._parts.empty():  # so that a sender that waits goes on
            self._parts.get_nowait()
        self._parts.put_nowait(None)

    async def _answer(self) -> None:
        try:
            await self._caller.loopback.app(self._scope(), self._receive, self._send)
        except Exception as error:
            log.error("%s %s failed", self._request.method, self._request.url.path, exc_info=error)
        await self._send(None)

    async def _receive(self) -> asgi.Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop()}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: asgi.Message | None) -> None:
        if not self._over.is_set():
            await self._parts.put(message)
            if message and message["type"] == "http.response.body" and not message.get("more_body"):
                self._over.set()

    def _scope(self) -> asgi.Scope:
        request, loopback = self._request, self._caller.loopback
        raw_path, _, query = request.url.raw_path.partition(b"?")
        headers = [(name.lower(), value) for name, value in request.headers.raw if name.lower() != b"host"]
        # fmt: off
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": request.method, "scheme": loopback.url.scheme, "path": loopback.prefix + request.url.path,
            "raw_path": loopback.prefix.encode() + raw_path, "root_path": "", "query_string": query,
            "headers": [(b"host", loopback.url.netloc), *headers], "client": ("127.0.0.1", 0),
            "server": (loopback.url.host, loopback.url.port), "state": loopback.state.copy(),
            "run_user": self._caller.user,
        }
        # fmt: on


class LoopbackTransport(httpx.AsyncBaseTransport):
    """Sends the requests of get_client() without a URL to the server that the calling code runs in."""

    def __init__(self, *_: Any, **__: Any) -> None:
        maker = CALLER.get()
        self._home = maker.loopback if maker else None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        caller, home = CALLER.get(), self._home or Loopback.newest
        if caller is None:
            if home is None:
                raise httpx.ConnectError("no devserver runs in this process: give get_client() a url")
            caller = home.nobody
        return await LoopbackCall(caller, request, await request.aread()).open()


@dataclass
class Worker:
    """Executes the runs of one thread: those handed to it as started, and those it claims."""

    noticed: asyncio.Event = field(default_factory=asyncio.Event)
    started: deque[Run] = field(default_factory=deque)


class Runner:
    """Executes runs: many at once, one at a time per thread, each the moment it can start."""

    GRACE_SECONDS = 5.0

    def __init__(
        self, db: Db, graphs: Graphs, saver: Saver, webhooks: WebhookSender, max_concurrency: int, loopback: Loopback
    ) -> None:
        self.db, self.graphs, self.loopback = db, graphs, loopback
        self.logs, self.loop = Logs(), RunLoop()
        self.max_concurrency = max_concurrency
        self._slots: asyncio.Semaphore
        self._workers: dict[str, Worker] = {}
        self._executions: dict[str, Execution] = {}
        self._webhooks = webhooks
        self._serde = saver.serde
        self._thread_ttl = graphs.settings.checkpointer.ttl
        pauses = graphs.settings.store.ttl.sweep_interval_minutes, self._thread_ttl.sweep_interval_minutes
        self.crons = Schedule(db, lambda conn: Crons(conn).next_due(), self._fire_crons)
        self.items = Schedule(db, lambda conn: Items(conn).next_expiry(), self._expire_items, pauses[0])
        self.threads = Schedule(db, lambda conn: Threads(conn).next_expiry(), self._expire_threads, pauses[1])
        self._background: set[asyncio.Future[None]] = set()
        self.stopping = False

    # -- called from the HTTP loop --

    async def start(self) -> None:
        """Start the run loop, and resume what the last stop or crash left: runs, webhooks, crons, deletions."""

        def recover(conn: sqlite3.Connection) -> tuple[int, list[str]]:
            Runs(conn).release()
            return Runs(conn).begun(), Runs(conn).waiting_threads()

        self.loop.start()
        self._slots = asyncio.Semaphore(self.max_concurrency)
        for thread in await self.db.read(lambda conn: Threads(conn).unshown()):
            await show_state(self, thread, CLOCK.steady())
        count, threads = await self.db.write(recover)
        if count:
            log.info("resuming %s run%s", count, "s" * (count > 1))
        for thread_id in threads:
            self.loop.loop.call_soon_threadsafe(self._notice, thread_id)
        for job in (self._webhooks.send_due, self.crons.run, self.items.run, self.threads.run):
            self.begin_soon(job)

    async def stop(self) -> None:
        """Let runs finish their superstep, for GRACE_SECONDS; they go on at the next start. Calls after the first do
        nothing."""
        if self.stopping:
            return
        self.stopping = True
        with contextlib.suppress(TimeoutError):  # a node that blocks the run loop keeps nobody waiting
            async with asyncio.timeout(self.GRACE_SECONDS + 2):
                await self.loop.run(self._drain())
        self.logs.close_all()
        self.loop.stop()

    async def create(self, *asked: NewRun) -> list[Run]:
        """Make runs, all of them or none; start those that need not wait in the same transaction. Followers have to
        join a run's log before this call: it may begin at once."""
        free = 0 if self.stopping else self.max_concurrency - len(self._executions)
        news = [replace(new, start=n < free) for n, new in enumerate(asked)]
        try:
            made = await self.db.write(lambda conn: [make_run(conn, self.graphs, new) for new in news], then=self.begin)
        except Exception:
            for new in news:
                self.logs.close_run(new.run_id)
            raise
        return [created.run for created in made]

    def begin(self, made: list[Created]) -> None:
        """Give new runs to the workers of their threads, and end those that gave way. Thread-safe."""
        for run, gave_way, started, ends in made:
            if gave_way:
                self.stop_runs(gave_way, ends)
            # in an empty context: a worker must not inherit the user of the request that makes it
            empty = contextvars.Context()
            self.loop.loop.call_soon_threadsafe(self._notice, run.thread_id, started, context=empty)

    async def cancel(self, runs: list[tuple[str, str]], action: str, reason: str) -> list[Run]:
        """Cancel these (thread id, run id) if they are live; return those that were."""

        def cancel_all(conn: sqlite3.Connection) -> tuple[list[Run], list[tuple[Run, Event]]]:
            found = [Runs(conn).get(*ids) for ids in runs]
            live = [run for run in found if run and run.status in ("pending", "running")]
            for run in live:
                cancel_live_run(conn, run, action, reason)
            return live, keep_ends(conn, self.graphs, live)

        cancelled, ends = await self.db.write(cancel_all)
        self.stop_runs(cancelled, ends)
        return cancelled

    def stop_runs(self, runs: list[Run], ends: list[tuple[Run, Event]] | None = None) -> None:
        """Stop the graphs of runs that were cancelled or, if `ends` is None, deleted. Tell followers of those that had
        not begun that they are over: by `ends`, the events that `keep_ends` stored, or by `run_done` alone."""
        unbegun = [run for run in runs if run.status == "pending"]
        for run, event in [(run, run_done(run)) for run in unbegun] if ends is None else ends:
            self.logs.tell_thread(run.thread_id, event)
        for run in runs:
            self.loop.loop.call_soon_threadsafe(self._stop_graph, run.run_id)
            if run.status == "pending" or ends is None:
                self.logs.close_run(run.run_id)
        if any(run.kwargs["webhook"] for run in unbegun):
            self.begin_soon(self._webhooks.send_due)

    async def with_graph(
        self, graph_id: str, config: JsonObject, access: str, use: Callable[[Graph], Coroutine[Any, Any, T]], **ids: str
    ) -> T:
        """Use a graph for something other than a run. Whatever may call user code runs on the run loop."""
        given = {**(config.get("configurable") or {}), **CONFIGURABLE_HEADERS.get()}
        asked = graph_config({**config, "configurable": given}, {**ids, "graph_id": graph_id, **identity()})

        async def opened() -> T:
            async with self.graphs.open(graph_id, asked, access) as graph:
                return await use(graph)

        if access == "threads.update":
            return await self.loop.run(opened())
        if self.graphs.get(graph_id).factory is not None:
            return await self.loop.run_or_elsewhere(opened)
        return await opened()

    def begin_soon(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a coroutine on the run loop, from any thread, without waiting for it."""
        self.loop.loop.call_soon_threadsafe(lambda: self._keep(make()))

    def load(self) -> JsonObject:
        active = min(len(self._executions), self.max_concurrency)  # runs that wait for calls have lent their slots
        return {"max": self.max_concurrency, "active": active, "available": self.max_concurrency - active}

    # -- on the run loop --

    def _notice(self, thread_id: str, started: Run | None = None) -> None:
        """Wake the worker of a thread that has a new run, or make one."""
        worker = self._workers.get(thread_id)
        if worker is None:
            if self.stopping:
                return
            worker = self._workers[thread_id] = Worker()
            self._keep(self._work(thread_id, worker))
        if started:
            worker.started.append(started)
        worker.noticed.set()

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _work(self, thread_id: str, worker: Worker) -> None:
        """Run a thread's runs, one after the other, until none is left."""
        expires = True
        try:
            while not self.stopping:
                worker.noticed.clear()
                async with self._slots:
                    if self.stopping:
                        return
                    claimed: Run | float | None = None
                    try:
                        if worker.started:
                            claimed = worker.started.popleft()
                        else:
                            has_pending, expires = self.db.look(lambda conn: Runs(conn).prospects(thread_id))
                            if has_pending:
                                claimed = await self.db.write(lambda conn: Runs(conn).claim(thread_id))
                    except Unavailable as error:
                        log.warning("thread %s waits: %s", thread_id, error)
                        claimed = RETRY_SECONDS
                    if isinstance(claimed, Run):
                        await self._run(claimed)
                        continue
                if claimed is not None:
                    await _sleep(worker.noticed, claimed)
                elif not worker.noticed.is_set():
                    return
        except Exception:  # the database failed; pending runs start with the next start of the server
            log.exception("thread %s cannot go on", thread_id)
        finally:
            del self._workers[thread_id]
            if expires:
                self.threads.notice()  # a thread without live runs may expire

    async def _fire_crons(self) -> None:
        await self.db.write(fire_crons, self.graphs, then=self.begin)

    async def _expire_items(self) -> None:
        while await self.db.write(lambda conn: Items(conn).sweep(500)):
            pass  # at most 500 in a transaction, until none is left

    async def _expire_threads(self) -> None:
        for _ in range(self._thread_ttl.sweep_limit):
            if not await self.db.write(expire_thread, self._serde):
                break

    async def _run(self, run: Run) -> None:
        """Execute a run and store how it ended."""
        begun = time.monotonic()
        caller = Caller(self.loopback, run.kwargs["config"]["configurable"]["langgraph_auth_user"], self._slots)
        try:
            execution = self._executions[run.run_id] = Execution(self.db, self.graphs, self.logs, run, caller)
            try:
                outcome = await execution.task
            except asyncio.CancelledError:
                outcome = Outcome("pending" if self.stopping else "interrupted")
            finally:
                del self._executions[run.run_id]
            if outcome.status == "pending":  # the server is stopping
                await execution.suspend()
                return
            if outcome.status == "interrupted":
                outcome = Outcome("interrupted", state=await execution.state_after_cancel())
            if (ended := await execution.end(outcome, lambda: self.stopping)) is not None:
                failure = ended.error if ended.status == "error" else None
                status = "rolled back" if ended.status == "rollback" else ended.status
                text = f" {failure['error']}: {failure['message']}" if failure else ""
                told = (run.run_id, run.thread_id, run.graph_id, status, time.monotonic() - begun, text)
                level = logging.WARNING if ended.status == "error" else logging.INFO
                log.log(level, "run %s thread %s graph %s %s %.3f s%s", *told)
            if run.kwargs["webhook"]:
                await self._webhooks.send_due()
        except Unavailable as error:
            log.error("run %s goes on when the server starts again: %s", run.run_id, error)
        finally:
            self.logs.close_run(run.run_id)

    def _stop_graph(self, run_id: str) -> None:
        if (execution := self._executions.get(run_id)) is not None:
            execution.caller.end(cancelled=True)
            execution.task.cancel()

    async def _drain(self) -> None:
        """Ask running graphs to stop after their superstep; cancel those that don't in GRACE_SECONDS."""
        for execution in self._executions.values():
            if execution.control:
                execution.control.request_drain()
        for each in (self._webhooks, self.crons, self.items, self.threads):
            each.stop()
        for worker in self._workers.values():
            worker.noticed.set()
        if self._background:
            await asyncio.wait(self._background, timeout=self.GRACE_SECONDS)
        for run_id in self._executions:
            self._stop_graph(run_id)
        if self._background:
            await asyncio.wait(self._background, timeout=1)


async def show_state(
    runner: Runner, thread: Thread, since: int, state: ShownState | None = None, update: bytes | None = None
) -> None:
    """Let a thread show the state in its checkpoints (`state`, if it was read already), unless it has had runs since
    the steady time `since`, and send `update` to its followers. While the database is unavailable, try again later, at
    last at the next start: the checkpoints are stored, so the client that changed the state need not know."""

    async def look(graph: Graph) -> ShownState:
        return ShownState.of(graph, await snapshot(graph, place_config(thread.thread_id)))

    def show(conn: sqlite3.Connection, state: ShownState) -> list[Event]:
        if not Runs(conn).has_since(thread.thread_id, since):
            Threads(conn).set_state(thread.thread_id, *state[:3], thread.error, state.output_keys)
        told = [Event(event_id(), "state_update", update)] if update else []
        Events(conn).append(thread.thread_id, told)
        return told

    async def show_later() -> None:
        await asyncio.sleep(RETRY_SECONDS)
        if not runner.stopping:
            await show_state(runner, thread, since, update=update)

    try:
        if state is None:
            graph_id, ids = thread.metadata["graph_id"], {"thread_id": thread.thread_id}
            state = await runner.with_graph(graph_id, thread.config, "threads.read", look, **ids)
        for event in await runner.db.write(show, state):
            runner.logs.tell_thread(thread.thread_id, event)
    except Unavailable as error:
        log.warning("thread %s shows an old state for now: %s", thread.thread_id, error)
        runner.begin_soon(show_later)
    except Exception as error:  # the graph is gone or broken: the next run, update or start shows the state
        log_old_state(thread.thread_id, error)


def log_old_state(thread_id: str, error: Exception) -> None:
    """Log why a thread shows an old state, with a traceback unless the API knows the error (the graph is gone)."""
    unknown = None if isinstance(error, ApiError) else error
    log.warning("thread %s shows an old state: %s", thread_id, error, exc_info=unknown)


########################################################################################################
# 12  HTTP
########################################################################################################

MAX_BODY_BYTES = 300 * 1024 * 1024
RUN_NOT_FOUND = {"error": "HTTPException", "message": "404: Run not found"}

NOTHING_TO_CANCEL = (
    "No matching runs to cancel. Please verify the thread ID and run IDs are correct, and the runs haven't been "
    "deleted or completed."
)
NO_GRAPH = (
    "Thread '{}' has no assigned graph ID. This usually occurs when no runs have been made on this particular "
    "thread. This operation requires a graph ID. Please ensure a run has been made for the thread or manually "
    "update the thread metadata (by setting the 'graph_id' field) before running this operation."
)


@dataclass
class Server(Application):
    """A running server: what handlers need besides their request."""

    runner: Runner
    app: Starlette | None = None  # http.app of langgraph.json
    reloads: int = 0  # how many times changed code was loaded
    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # answered, by method, route and status
    updates: weakref.WeakValueDictionary[str, asyncio.Lock] = field(default_factory=weakref.WeakValueDictionary)


B = TypeVar("B", bound=Body)


class ApiRequest(Request):
    """A request of the API. Its body is read up to the limit only; `body()` may be called again."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the parts of the body. Raises TooLarge at MAX_BODY_BYTES, or at once for a content-length above it."""
        size = int(self.headers.get("content-length") or 0)
        if size <= MAX_BODY_BYTES:
            size = 0
            async for part in super().stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    break
                yield part
        if size > MAX_BODY_BYTES:
            raise TooLarge(f"Request body exceeds {MAX_BODY_BYTES} bytes")


@dataclass
class Call:
    """A request on its way to a handler: its query, its body, and the rows that its user may touch."""

    server: Server
    request: ApiRequest
    parameters: str  # the query parameters that ROUTES declares
    raw: Any = None  # the body as JSON
    body: Any = None  # the body as the operation's model
    limits: list[JsonObject] = field(default_factory=lambda: [{}])  # of the application's Auth: filters for rows

    def id(self, kind: str) -> str:
        """Return the id in the path of a `kind` such as thread. Raises Invalid."""
        return to_uuid(self.request.path_params[f"{kind}_id"], kind)

    @functools.cached_property
    def query(self) -> JsonObject:
        """The parameters of the query, None for those not given. Raises BadRequest or Invalid."""
        values: JsonObject = {}
        for name, _, type_, default in PARAMETER.findall(self.parameters):
            texts = self.request.query_params.getlist(name) or ([default] if default else [])
            if type_.startswith("["):
                values[name] = query_list(name, texts)
            else:
                values[name] = query_value(name, type_, texts[-1]) if texts else None
        return values

    async def json(self) -> Any:
        """Return the body as JSON. Raises Invalid and TooLarge."""
        try:
            value = from_json(await self.request.body())
        except ValueError:
            raise Invalid("Invalid JSON in request body") from None
        try:
            orjson.dumps(functools.reduce(lambda inner, _: [inner], range(NESTING_TO_SPARE), value))
        except TypeError:  # it could be stored, but never shown again
            raise Invalid("The request body is nested too deeply") from None
        return value


NESTING_TO_SPARE = 60  # of the 254 levels that orjson writes: bodies are kept and shown inside of other objects


def validate(model: type[B], value: Any) -> B:
    """Return a value as the model. Raises Invalid, which names each wrong field by its path in the client's JSON."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
    details: dict[str, str] = {}
    for problem in problems:
        path, inside = [], value
        for part in problem["loc"]:
            if isinstance(inside, dict) and (part in inside or problem["type"] == "missing"):
                path.append(str(part))
                inside = inside.get(part)
            elif isinstance(inside, list) and isinstance(part, int) and part < len(inside):
                path.append(str(part))
                inside = inside[part]
        place = ".".join(path) or "body"
        if place not in details or problem["type"] == "too_long":  # which says more than a union's other errors
            details[place] = problem["msg"]
    raise Invalid("; ".join(f"{place}: {message}" for place, message in details.items()))


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type="application/json")


# A parameter in ROUTES: `name:type=default`, with "!" after the name if it is required.
PARAMETER = re.compile(r"([\w-]+)(!?)(?::([^\s=]+))?(?:=(\S+))?")


def query_list(name: str, texts: list[str]) -> list[str]:
    """Return a list that is a key repeated (JS SDK 1.15), a JSON list (JS SDK 2.0), or words with commas."""
    found: list[str] = []
    for text in texts:
        try:
            found += map(str, from_json(text)) if text.startswith("[") else filter(None, text.split(","))
        except ValueError:
            raise Invalid(f"{name}: not a JSON list") from None
    if len(found) > 100:
        raise Invalid(f"{name}: List should have at most 100 items")
    return found


def query_value(name: str, type_: str, text: str) -> Any:
    if type_ == "flag":
        return text.lower() in ("true", "yes", "1")
    if type_ == "xray":
        if re.fullmatch("[0-9]{1,5}", text) and int(text):
            return int(text)
        if text not in ("", "true", "True", "false", "False"):
            raise Invalid("Invalid xray value")
        return text in ("true", "True")
    if type_ not in ("count", "limit"):
        return text
    try:
        number = int(text)
    except ValueError as error:  # clients expect Python's message
        raise BadRequest(str(error)) if type_ == "count" else Invalid(f"Invalid {name} {text}") from None
    if not 0 <= number <= SAFE_INTEGER:
        raise Invalid(f"{name}: {number} is out of range" if type_ == "count" else f"Invalid {name} {text}")
    return number


def page_reply(
    rows: list[JsonObject], more: bool, body: AssistantSearchRequest | ThreadSearchRequest | CronSearch
) -> Response:
    """Return a page of search results, with pagination headers."""
    end = body.offset + len(rows)
    following = {"x-pagination-next": str(end)} if more else {}
    return reply(rows, headers={**following, "x-pagination-total": str(end + more)})


def select_fields(row: JsonObject, select: Sequence[str] | None) -> JsonObject:
    return {key: row[key] for key in row if key in select} if select else row


async def decide(call: Call, rule: str) -> None:
    """Let the application's Auth decide on the actions of a route's rule. Its changes of the body go into the call, and
    its filters into `limits`. Raises Refused."""
    access, asked = ACCESS.get(), named_ids(call.server, call.request.path_params)
    if "action" in call.query:
        asked["action"] = call.query["action"]
    call.limits = []
    for action in rule.split():
        if call.body is None or action.partition(".")[2] not in ("create", "update", "search"):
            call.limits.append(await access.decide(action, {**asked, "metadata": {}}))
            continue
        value = {**call.body.model_dump(), **asked}
        value |= {"metadata": value.get("metadata") or {}, **named_ids(call.server, value)}
        if action == "crons.create":
            value |= {"payload": call.raw, "cron_id": None, "user_id": access.user["identity"]}
        limits, changed = await access.change(action, value, type(call.body).model_fields)
        call.limits.append(limits)
        if changed or "payload" in value:
            call.raw = from_json(to_json({**value.get("payload", call.raw), **changed}))
            call.body = validate(type(call.body), call.raw)
    if call.query.get("cancel_on_disconnect"):
        asked |= {"metadata": {}, "action": "interrupt"}
        call.limits.append(await access.decide("threads.update", asked))


# -- system --


async def ok(call: Call) -> JsonObject:
    """Tell that the server is up."""
    if call.server.settings.http.disable_meta:
        return {"ok": True}
    if call.query["check_db"]:
        await call.server.db.read(lambda conn: Threads(conn).get(""))
    return {"ok": True, "services": {}}


async def info(call: Call) -> JsonObject:
    """Return version, features, number of reloads and, without an Auth, the database file."""
    from importlib.metadata import version

    flags = {"assistants": True, "crons": True, "langsmith": False}
    flags |= {"langsmith_tracing_replicas": True, "langsmith_tracing_session_on_runs": True}
    host = {"kind": "self-hosted"} | dict.fromkeys(("project_id", "host_revision_id", "revision_id", "tenant_id"))
    told = {"version": __version__, "langgraph_py_version": version("langgraph"), "flags": flags, "host": host}
    server = call.server
    return {**told, "database": None if server.auth else str(server.db.path), "reloads": server.reloads}


async def metrics(call: Call) -> Response:
    """Return figures on queue, workers and requests, as Prometheus text or JSON (`format=json`)."""
    queue = await call.server.db.read(lambda conn: Runs(conn).queue())
    workers = call.server.runner.load()
    requests = [
        {"method": method, "path": path, "status": status, "count": count}
        for (method, path, status), count in call.server.requests.items()
    ]
    if call.query["format"] == "json":
        return reply({"queue": queue, "api": {"http_requests_total": requests}, "workers": workers})
    gauges = {
        "lg_api_num_pending_runs": queue["n_pending"],
        "lg_api_num_running_runs": queue["n_running"],
        **{f"lg_api_workers_{name}": value for name, value in workers.items()},
    }
    text = "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in gauges.items())
    text += "# TYPE lg_api_http_requests_total counter\n"
    for each in requests:
        count = each.pop("count")  # Prometheus escapes as JSON does
        labels = ",".join(f"{name}={json.dumps(str(value), ensure_ascii=False)}" for name, value in each.items())
        text += f"lg_api_http_requests_total{{{labels}}} {count}\n"
    return Response(text, headers={"content-type": "text/plain; version=1.0.0; charset=utf-8"})


async def get_ui(call: Call) -> Response:
    """Refuse the UI components that langgraph.json names for a graph: they are written in TSX."""
    name = call.request.path_params["assistant_id"]
    if name not in call.server.settings.ui:
        return Response(f"UI not found for graph '{name}'", 404)
    raise NotServed(f"The components of '{name}' need a JavaScript bundler, which devserver does not have")


# -- assistants --


def config_and_context(body: AssistantCreate | AssistantPatch) -> JsonObject:
    """Return an assistant's config and context. The one given is copied to the other. Raises BadRequest for both."""
    config, context = client_config(body.config), without_own(body.context)
    configurable = config.get("configurable")
    if context and configurable:
        raise BadRequest(NOT_TWICE)
    if configurable:
        context = configurable
    elif context:
        config = {**config, "configurable": context}
    return {"config": config, "context": context}


async def create_assistant(call: Call) -> JsonObject:
    """Make an assistant of a graph."""
    body: AssistantCreate = call.body
    assistant_id = to_uuid(body.assistant_id, "assistant") if body.assistant_id else str(uuid.uuid4())
    call.server.graphs.get(body.graph_id)
    at = now()
    new = Assistant(
        assistant_id=assistant_id,
        graph_id=body.graph_id,
        name=body.name or "Untitled",
        description=body.description,
        metadata=without_reserved(body.metadata),
        version=1,
        created_at=at,
        updated_at=at,
        **config_and_context(body),
    )
    readable: JsonObject = {}
    if body.if_exists == "do_nothing":
        readable = await allow(
            call.server, "assistants.read", {"assistant_id": uuid.UUID(assistant_id), "metadata": {}}
        )

    def create(conn: sqlite3.Connection) -> Assistant:
        old = Assistants(conn).get(assistant_id)
        if old is None:
            Assistants(conn).insert(new)
        elif body.if_exists == "raise" or not passes(old.metadata, readable):
            raise Conflict(f"Assistant {assistant_id} already exists")
        return old or new

    return (await call.server.db.write(create)).to_dict()


async def get_assistant(call: Call) -> JsonObject:
    """Return an assistant."""
    return find_assistant(call.server, call.id("assistant"), *call.limits).to_dict()


def find_assistant(server: Server, assistant_id: str, *limits: JsonObject) -> Assistant:
    return must_find(server.db.look(lambda conn: Assistants(conn).get(assistant_id, *limits)))


async def update_assistant(call: Call) -> JsonObject:
    """Change an assistant: the result is a new version."""
    assistant_id = call.id("assistant")
    body: AssistantPatch = call.body
    if body.graph_id:
        call.server.graphs.get(body.graph_id)
    changes: JsonObject = {
        name: value for name in ("graph_id", "name", "description") if (value := getattr(body, name))
    }
    both = config_and_context(body)
    if both["config"] or both["context"]:
        changes |= both

    def patch(conn: sqlite3.Connection) -> Assistant:
        old = Assistants(conn).get(assistant_id, *call.limits)
        if old is not None and body.metadata:
            changes["metadata"] = {**old.metadata, **without_reserved(body.metadata)}
        return Assistants(conn).update(assistant_id, changes, *call.limits)

    return (await call.server.db.write(patch)).to_dict()


async def delete_assistant(call: Call) -> None:
    """Delete an assistant with its versions, and with its threads if `delete_threads` is set."""
    assistant_id, with_threads = call.id("assistant"), call.query["delete_threads"]
    limits = await allow(call.server, "threads.delete", {"metadata": {}}) if with_threads else {}

    def delete(conn: sqlite3.Connection) -> list[Run]:
        must_find(Assistants(conn).delete(assistant_id, *call.limits), f"Assistant with ID {assistant_id} not found")
        threads = Threads(conn).of_assistant(assistant_id, limits) if with_threads else []
        return [run for thread_id in threads for run in delete_thread_rows(conn, thread_id)]

    call.server.runner.stop_runs(await call.server.db.write(delete))


async def search_assistants(call: Call) -> Response:
    """Search assistants by metadata, graph and name."""
    body: AssistantSearchRequest = call.body
    if body.graph_id:
        call.server.graphs.get(body.graph_id)
    page = await call.server.db.read(lambda conn: Assistants(conn).search(body, *call.limits))
    return page_reply([select_fields(row.to_dict(), body.select) for row in page.rows], page.more, body)


async def count_assistants(call: Call) -> int:
    """Count the assistants that a search finds."""
    if call.body.graph_id:
        call.server.graphs.get(call.body.graph_id)
    return await call.server.db.read(lambda conn: Assistants(conn).count(call.body, *call.limits))


async def list_assistant_versions(call: Call) -> list[JsonObject]:
    """Return an assistant's versions, newest first."""
    assistant_id = call.id("assistant")
    body: AssistantVersionsSearchRequest = call.body
    versions = await call.server.db.read(
        lambda conn: Assistants(conn).versions(assistant_id, body.metadata, body.limit, body.offset, *call.limits)
    )
    return must_find(versions, f"Assistant {assistant_id} not found")


async def set_latest_assistant(call: Call) -> JsonObject:
    """Make a version of an assistant its latest."""

    def change(conn: sqlite3.Connection) -> Assistant:
        changed = Assistants(conn).set_version(call.id("assistant"), call.body.version, *call.limits)
        call.server.graphs.get(changed.graph_id)
        return changed

    return (await call.server.db.write(change)).to_dict()


async def get_assistant_graph(call: Call) -> JsonObject:
    """Return nodes and edges of an assistant's graph; `xray` opens subgraphs."""
    assistant_id = to_assistant_id(call.server, call.request.path_params["assistant_id"])
    assistant = find_assistant(call.server, assistant_id, *call.limits)

    async def drawing(graph: Graph) -> JsonObject:
        drawn: JsonObject = (await graph.aget_graph(xray=call.query["xray"])).to_json()
        for node in drawn.get("nodes", ()):
            if isinstance(node.get("data"), dict):
                node["data"].pop("id", None)
        return drawn

    return await of_assistant_graph(call.server, assistant, drawing)


async def get_assistant_schemas(call: Call) -> JsonObject:
    """Return the JSON schemas of an assistant's graph."""
    assistant = find_assistant(call.server, call.id("assistant"), *call.limits)

    async def schemas(graph: Graph) -> JsonObject:
        return {"graph_id": assistant.graph_id, **graph_schemas(graph)}

    return await of_assistant_graph(call.server, assistant, schemas)


async def get_assistant_subgraphs(call: Call) -> JsonObject:
    """Return the schemas of subgraphs by namespace; `recurse` goes deeper than one level."""
    namespace = call.request.path_params.get("namespace")

    async def subgraphs(graph: Graph) -> JsonObject:
        found = graph.get_subgraphs(namespace=namespace, recurse=call.query["recurse"])
        return {name: graph_schemas(subgraph) for name, subgraph in found if isinstance(subgraph, Pregel)}

    assistant = find_assistant(call.server, call.id("assistant"), *call.limits)
    return await of_assistant_graph(call.server, assistant, subgraphs)


async def of_assistant_graph(server: Server, assistant: Assistant, use: Callable[[Graph], Coroutine[Any, Any, T]]) -> T:
    ids = {"assistant_id": assistant.assistant_id}
    return await server.runner.with_graph(assistant.graph_id, assistant.config, "assistants.read", use, **ids)


# -- threads --


async def create_thread(call: Call) -> JsonObject | Response:
    """Make a thread, with a history if `supersteps` are given."""
    server, body = call.server, cast(ThreadCreate, call.body)
    thread_id = to_uuid(body.thread_id, "thread") if body.thread_id else new_id()
    ttl = thread_ttl(body.ttl) if body.ttl else server.graphs.thread_ttl
    readable = await allow_thread(server, thread_id) if body.if_exists == "do_nothing" else {}

    def create(conn: sqlite3.Connection) -> tuple[Thread, bool]:
        old = Threads(conn).get(thread_id)
        if old is None:
            return Threads(conn).insert(thread_id, without_reserved(body.metadata), {}, ttl), True
        if body.if_exists == "raise" or not passes(old.metadata, readable):
            raise Conflict(f"Thread with ID {thread_id} already exists")
        return old, False

    thread, is_new = await server.db.write(create)
    if ttl:
        server.runner.threads.notice()
    if body.supersteps and is_new:
        try:
            place = place_config(thread_id)
            await change_state(server, thread, place, lambda graph: [state_updates(s, graph) for s in body.supersteps])
            thread = await server.db.read(lambda conn: Threads(conn).require(thread_id))
        except MissingGraph as error:
            detail = f"Thread {thread_id} was created, but there were problems updating the state: {error.detail}"
            return reply({"detail": detail}, 201)
    return thread.to_dict()


def thread_ttl(given: ThreadTtl) -> JsonObject | None:
    return given.model_dump() if given.ttl is not None else None


class MissingGraph(BadRequest):
    """The thread has no graph yet, so its state can't be changed."""


def find_thread(call: Call) -> Thread:
    thread_id = call.id("thread")
    return call.server.db.look(lambda conn: Threads(conn).require(thread_id, *call.limits))


async def get_thread(call: Call) -> JsonObject:
    """Return a thread, with its time to live if `include` has `ttl`."""
    thread = find_thread(call).to_dict()
    if "ttl" in call.query["include"]:
        thread["ttl"] = call.server.db.look(lambda conn: Threads(conn).ttl(thread["thread_id"]))
    return thread


async def update_thread(call: Call) -> JsonObject | Response:
    """Merge metadata into a thread's, set its time to live; `Prefer: return=minimal` asks for an empty response."""
    thread_id, body = call.id("thread"), cast(ThreadPatch, call.body)

    def patch(conn: sqlite3.Connection) -> Thread:
        thread = must_find(Threads(conn).get(thread_id, *call.limits))
        changes: JsonObject = {"metadata": {**thread.metadata, **without_reserved(body.metadata)}}
        if body.ttl:
            changes["ttl"] = thread_ttl(body.ttl)
        Threads(conn).update(thread_id, **changes)
        return Threads(conn).require(thread_id)

    thread = await call.server.db.write(patch)
    call.server.runner.threads.notice()
    minimal = "return=minimal" in call.request.headers.get("prefer", "").replace(" ", "")
    return Response(status_code=204) if minimal else thread.to_dict()


def delete_thread_rows(conn: sqlite3.Connection, thread_id: str, *limits: JsonObject) -> list[Run]:
    """Delete a thread with everything of it. Return its live runs: their graphs have to be stopped."""
    Threads(conn).require(thread_id, *limits)
    live = Runs(conn).live(thread_id)
    Threads(conn).delete(thread_id)
    return live


async def delete_thread(call: Call) -> None:
    """Delete a thread with its runs and its state."""
    thread_id = call.id("thread")
    call.server.runner.stop_runs(await call.server.db.write(delete_thread_rows, thread_id, *call.limits))


async def search_threads(call: Call) -> Response:
    """Search threads by id, metadata, values and status."""
    body: ThreadSearchRequest = call.body
    check_extract(body.extract or {})
    ids = []
    for text in body.ids or ():
        try:
            ids.append(str(uuid.UUID(text)))
        except ValueError:
            raise BadRequest(f"Invalid thread ID {text}") from None
    wanted = None if body.ids is None else ids
    page = await call.server.db.read(lambda conn: Threads(conn).search(body, wanted, *call.limits))
    rows = []
    for thread in page.rows:
        row = select_fields(thread.to_dict(), body.select)
        if body.extract:
            whole = {**vars(thread), "values": thread.values}
            row["extracted"] = {name: extract(whole, path) for name, path in body.extract.items()}
        rows.append(row)
    return page_reply(rows, page.more, body)


EXTRACT_ROOTS = ("config", "interrupts", "metadata", "values")


def check_extract(paths: Mapping[str, str]) -> None:
    reserved = [name for name in paths if name in typing.get_args(ThreadField) or name == "extracted"]
    if reserved:
        raise Invalid(f"Extract keys cannot use reserved field names: {reserved}")
    for name, path in paths.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise Invalid(f"Extract key '{name}' must be a valid identifier (letters, digits, underscores)")
        if not path:
            raise Invalid(f"Extract path for '{name}' must be a non-empty string")
        if re.split(r"[.\[]", path)[0] not in EXTRACT_ROOTS:
            raise Invalid(f"Extract path '{path}' must start with one of: {', '.join(EXTRACT_ROOTS)}")


def extract(value: Any, path: str) -> Any:
    """Return the part of a thread at a path such as `values.messages[-1].content`, None if it has none."""
    for key, index in map(re.Match.groups, re.finditer(r"([^.\[\]]+)|\[(-?\d{1,9})\]", path)):
        if index and isinstance(value, list) and -len(value) <= int(index) < len(value):
            value = value[int(index)]
        elif key and isinstance(value, dict) and not key.startswith("_"):
            value = value.get(key)
        else:
            return None
    return value


async def count_threads(call: Call) -> int:
    """Count the threads that a search finds."""
    return await call.server.db.read(lambda conn: Threads(conn).count(call.body, *call.limits))


async def copy_thread(call: Call) -> JsonObject:
    """Make a thread with the metadata, state and history of another."""
    thread_id, copy_id = call.id("thread"), str(uuid.uuid4())
    original = call.server.db.look(lambda conn: Threads(conn).get(thread_id, *call.limits))
    made = {"thread_id": uuid.UUID(copy_id), "metadata": dict(original.metadata) if original else {}}
    await allow(call.server, "threads.create", made)

    def copy_rows(conn: sqlite3.Connection) -> Thread:
        if original is None or Threads(conn).get(thread_id, *call.limits) is None:
            raise Conflict()
        Threads(conn).copy(thread_id, copy_id)
        if made["metadata"] != original.metadata:
            Threads(conn).update(copy_id, metadata=made["metadata"])
        return Threads(conn).require(copy_id)

    copied = (await call.server.db.write(copy_rows)).to_dict()
    call.server.runner.threads.notice()
    return {key: value for key, value in copied.items() if key != "values" or value is not None}


async def prune_threads(call: Call) -> JsonObject:
    """Delete threads, or their history up to the latest state; a busy thread keeps its history."""
    body: ThreadPruneRequest = call.body
    ids = dict.fromkeys(to_uuid(text, "thread") for text in body.thread_ids)
    limits = {thread_id: await allow_thread(call.server, thread_id, "threads.delete") for thread_id in ids}

    def prune(conn: sqlite3.Connection) -> tuple[int, list[Run]]:
        found = [within(Threads(conn).get(thread_id), limits[thread_id]) for thread_id in ids]
        known = [thread for thread in found if thread]
        if body.strategy == "delete":
            return len(known), [run for thread in known for run in delete_thread_rows(conn, thread.thread_id)]
        idle = [thread for thread in known if thread.status != "busy"]
        for thread in idle:
            prune_history(conn, call.server.saver.serde, thread.thread_id, body.keep)
        return len(idle), []

    count, runs = await call.server.db.write(prune)
    call.server.runner.stop_runs(runs)
    return {"pruned_count": count}


async def get_thread_storage(call: Call) -> JsonObject:
    """Return how many bytes the checkpoints of a thread take."""
    thread = find_thread(call)
    return await call.server.db.read(thread_storage, call.server.saver.serde, thread.thread_id)


# -- state --


def thread_graph_id(thread: Thread) -> str | None:
    graph_id = thread.metadata.get("graph_id")
    return graph_id if isinstance(graph_id, str) else None


async def of_thread_state(call: Call, read: Callable[[Graph], Coroutine[Any, Any, T]], missing: T) -> T:
    """Read something with the graph of the call's thread; return `missing` if it has no graph yet."""
    thread = find_thread(call)
    graph_id, ids = thread_graph_id(thread), {"thread_id": thread.thread_id}
    if graph_id is None:
        return missing
    return await call.server.runner.with_graph(graph_id, thread.config, "threads.read", read, **ids)


async def get_state(call: Call) -> Response:
    """Return a thread's state, the latest or at a checkpoint; `subgraphs` adds those of interrupted subgraphs."""
    if call.body:
        place, subgraphs = call.body.checkpoint.configurable(), call.body.subgraphs
    else:
        checkpoint_id, subgraphs = call.request.path_params.get("checkpoint_id"), call.query["subgraphs"]
        place = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
    config = place_config(call.id("thread"), **place)

    async def read(graph: Graph) -> JsonObject:
        return state_value(await snapshot(graph, config, bool(subgraphs)))

    state = await of_thread_state(call, read, EMPTY_STATE)
    return Response(await asyncio.to_thread(to_json, state), media_type="application/json")


async def get_history(call: Call) -> Response:
    """Return a thread's states, newest first, by metadata and checkpoint."""
    if call.body:
        place, before = (each.configurable() if each else {} for each in (call.body.checkpoint, call.body.before))
        limit, metadata = call.body.limit, call.body.metadata
    else:
        place, before, limit, metadata = {}, {"checkpoint_id": call.query["before"]}, call.query["limit"], None
    config = place_config(call.id("thread"), **place)
    bound = place_config(call.id("thread"), **before) if before.get("checkpoint_id") else None

    async def read(graph: Graph) -> list[JsonObject]:
        with without_shared_values():
            READ_WITH.set(cast(Serializer, call.server.saver.serde).for_show(graph))
            history = graph.aget_state_history(config, filter=metadata, before=bound, limit=limit)
            return [state_value(each) async for each in history] if limit else []

    states = await of_thread_state(call, read, list[JsonObject]())
    return Response(await asyncio.to_thread(shown_json, states), media_type="application/json")


async def update_state(call: Call) -> JsonObject:
    """Change a thread's state, as a node would."""
    thread = find_thread(call)
    body: ThreadStateUpdate = call.body
    place = body.checkpoint.configurable() if body.checkpoint else {}
    if body.checkpoint_id is not None:
        place["checkpoint_id"] = body.checkpoint_id
    update = langgraph_types.StateUpdate(body.values, body.as_node, None)
    changed = await change_state(call.server, thread, place_config(thread.thread_id, **place), lambda graph: [[update]])
    configurable = {key: changed["configurable"][key] for key in _CHECKPOINT_KEYS if key in changed["configurable"]}
    return {"checkpoint": configurable, "configurable": configurable, "checkpoint_id": configurable["checkpoint_id"]}


Supersteps = Callable[[Graph], list[list[langgraph_types.StateUpdate]]]


async def change_state(server: Server, thread: Thread, place: RunnableConfig, supersteps: Supersteps) -> RunnableConfig:
    """Update a thread's checkpoints, then the state that the thread shows. Return the config of the new checkpoint."""
    async with server.updates.setdefault(thread.thread_id, asyncio.Lock()):  # each update builds on the one before
        began, ids = CLOCK.steady(), {"thread_id": thread.thread_id}
        graph_id = thread_graph_id(thread)
        if graph_id is None:
            raise MissingGraph(NO_GRAPH.format(thread.thread_id))
        live = await server.db.read(lambda conn: Runs(conn).live(thread.thread_id))
        if live:
            raise Conflict(f"Thread {thread.thread_id} has in-flight runs: {[run.run_id for run in live]}")
        newest = await server.db.read(lambda conn: Runs(conn).newest(thread.thread_id))
        kwargs = newest.kwargs if newest else {"config": thread.config, "context": {}}
        scope = SharedScope(
            ({**kwargs["config"].get("configurable", {}), **(user := identity())}, kwargs["context"]),
            lambda prefix: server.db.look(lambda conn: Items(conn).load(prefix)),
            updates=(thread.thread_id, began),
        )

        async def change(graph: Graph) -> tuple[RunnableConfig, JsonObject, ShownState]:
            token = RUN_SCOPE.set(scope)
            try:
                whole: RunnableConfig = {"configurable": {**place["configurable"], "graph_id": graph_id, **user}}
                changed = await graph.abulk_update_state(whole, supersteps(graph))
            except ApiError:
                raise
            except Exception as error:
                raise _update_refusal(thread, error) from None
            finally:
                RUN_SCOPE.reset(token)
            found = await snapshot(graph, place_config(thread.thread_id))
            return changed, state_value(found), ShownState.of(graph, found)

        try:
            changed, state, shown = await server.runner.with_graph(
                graph_id, thread.config, "threads.update", change, **ids
            )
        except Exception:  # the first of several supersteps may be stored
            if await server.db.read(lambda conn: Threads(conn).is_unshown(thread.thread_id)):
                await show_state(server.runner, thread, began)
            raise

        await show_state(server.runner, thread, began, shown, to_json({"state": state, "thread_id": thread.thread_id}))
        server.runner.threads.notice()
        return changed


def _update_refusal(thread: Thread, error: Exception) -> BadRequest:
    """Return the answer to an update that LangGraph refuses, or in which a reducer or an edge failed (logged)."""
    where, raised_in = user_line(error), traceback.extract_tb(error.__traceback__)[-1].filename
    refuses = isinstance(error, ValueError) and f"{os.sep}langgraph{os.sep}" in raised_in
    if where is None and (refuses or isinstance(error, InvalidUpdateError)):
        return BadRequest(str(error))
    log.warning("an update of thread %s failed in %s", thread.thread_id, where or raised_in, exc_info=error)
    return BadRequest(f"{type(error).__name__}: {error}")


# -- runs --


async def new_run(server: Server, thread: str | None, body: RunCreate, **more: Any) -> NewRun:
    """Return a checked request for a run on a thread, or on a new one if `thread` is None; its assistant is found by id
    or graph. Raises Invalid, BadRequest, Refused."""
    thread_id = to_uuid(thread, "thread") if thread else None
    try:
        assistant_id = to_assistant_id(server, body.assistant_id)
    except InvalidId:
        raise Invalid(
            f"Invalid assistant: '{body.assistant_id}'. Must be either:\n- A valid assistant UUID, or\n"
            f"- One of the registered graphs: {', '.join(server.graphs.ids())}"
        ) from None
    new = NewRun(
        thread_id, body.model_copy(update={"assistant_id": assistant_id}), headers=CONFIGURABLE_HEADERS.get(), **more
    )
    if server.auth:
        changes, new.access = await allow_run(server, thread_id, new.body, new.run_id)
        if changes:
            new.body = validate(type(body), {**new.body.given(), **changes})
    await check_run_body(server, new.body)
    if thread_id is None and new.body.command and new.body.command.resume is not None:
        raise BadRequest("You must provide a thread_id when resuming.")
    return new


async def check_run_body(server: Server, body: RunCreate) -> None:
    """Check what the model of a run's body cannot: strict_resume, checkpoint ids, webhook. Raises Invalid."""
    configurable = body.config.configurable if body.config else {}
    if body.strict_resume and not hasattr(langgraph_errors, "UnknownInterruptError"):
        raise Invalid("strict_resume needs langgraph 1.2.20 or later: python -m pip install -U langgraph")
    asked = (body.checkpoint_id, body.checkpoint and body.checkpoint.checkpoint_id, configurable.get("checkpoint_id"))
    for checkpoint_id in filter(None, asked):
        try:
            uuid.UUID(str(checkpoint_id))
        except ValueError:
            raise Invalid("Invalid checkpoint ID") from None
    if body.webhook:
        await asyncio.to_thread(check_webhook, body.webhook, server.settings.webhooks.url)


def run_headers(thread_id: str | None, run_id: str, location: str | None = None) -> dict[str, str]:
    """Return the headers that tell where a run is and can be followed. A stateless run's path has no thread."""
    path = f"/threads/{thread_id}/runs/{run_id}" if thread_id else f"/runs/{run_id}"
    return {"content-location": path, **({"location": f"{path}/{location}"} if location else {})}


async def create_run(call: Call) -> Response:
    """Start a run in the background, on a thread or on one of its own."""
    new = await new_run(call.server, call.request.path_params.get("thread_id"), call.body)
    [run] = await call.server.runner.create(new)
    return reply(run.to_dict(), headers=run_headers(new.thread_id, run.run_id))


async def create_run_batch(call: Call) -> list[JsonObject]:
    """Start several runs, each on a thread of its own: all of them, or none."""
    raw = await call.json()
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_BATCH:
        raise Invalid(f"body: Input should be a list of 1 to {MAX_BATCH} runs")
    news = []
    for item in raw:
        news.append(await new_run(call.server, None, validate(RunCreateStateless, item)))
        await asyncio.sleep(0)  # let other requests run
    return [run.to_dict() for run in await call.server.runner.create(*news)]


async def stream_run(call: Call) -> Response:
    """Start a run, on a thread or on one of its own, and stream its events."""
    new = await new_run(call.server, call.request.path_params.get("thread_id"), call.body)
    follower = Follower()
    run_log = call.server.runner.logs.of_run(new.run_id, follower)
    [run] = await call.server.runner.create(new)
    frame = functools.partial(sse_frame, with_id=run.kwargs["resumable"])
    headers = STREAM_HEADERS | run_headers(new.thread_id, run.run_id, "stream")
    response = CutResponse(with_heartbeats(run_log.follow(follower), follower, frame), headers=headers)
    if new.body.on_disconnect == "cancel":
        response.bound = call.server.runner, run
    return response


async def run_tape(
    server: Server, run: Run, run_log: EventLog | None, follower: Follower, after: tuple[int, int]
) -> AsyncIterator[list[Event]]:
    """Yield a run's events after an id, in batches: the stored ones, then new ones while it is live."""
    try:
        while run.kwargs["resumable"] and (
            part := await server.db.read(lambda conn, at=after: Events(conn).of_run(run.run_id, at))
        ):
            after = part[-1].id
            yield part
        if run_log:
            async for events in run_log.follow(follower):
                yield [event for event in events if event.id > after or event.id == NO_ID]
    finally:
        if run_log:
            run_log.leave(follower)


async def with_heartbeats(
    batches: AsyncIterator[list[T]], follower: Follower, frame: Callable[[T], bytes]
) -> AsyncIterator[bytes]:
    """Yield the frames of each batch. Where they are empty, yield a heartbeat if nothing was sent for some seconds."""
    async for batch in batches:
        text = b"".join(map(frame, batch))
        if text or time.monotonic() - follower.quiet_since >= HEARTBEAT_SECONDS:
            yield text or SSE_HEARTBEAT
            follower.quiet_since = time.monotonic()


STREAM_HEADERS = {
    "cache-control": "no-store",
    "x-accel-buffering": "no",
    "content-type": "text/event-stream; charset=utf-8",
}


async def wait_run(call: Call) -> Response:
    """Start a run, on a thread or on one of its own, and wait for its result."""
    new = await new_run(call.server, call.request.path_params.get("thread_id"), call.body)
    run_log = call.server.runner.logs.of_run(new.run_id)
    [run] = await call.server.runner.create(new)
    return wait_reply(call.server, run, run_log, new.body.on_disconnect == "cancel")


class Unfinished(Exception):
    """The server stops before the run that a client waits for has ended: the response is broken off."""


class CutResponse(StreamingResponse):
    """A stream that is cut off at Unfinished or Overtaken, so that its client sees that it is not complete. If the
    client leaves early, the `bound` run is cancelled."""

    bound: tuple[Runner, Run] | None = None

    async def stream_response(self, send: asgi.Send) -> None:
        is_whole = False
        try:
            with contextlib.suppress(Unfinished, Overtaken):
                await super().stream_response(send)
                is_whole = True
        finally:
            if self.bound and not is_whole:
                runner, run = self.bound
                reason = "client disconnected from the run stream (on_disconnect=cancel)"
                cancel = runner.cancel([(run.thread_id, run.run_id)], "interrupt", reason)
                asyncio.ensure_future(cancel)  # noqa: RUF006  the database's queue refers to it


def wait_reply(server: Server, run: Run, run_log: EventLog, cancel: bool, result: bytes = b"") -> Response:
    """Return a response that sends white space while a run is live, then its result (or `result`, if given)."""

    async def parts() -> AsyncIterator[bytes]:
        while not await run_log.ended(HEARTBEAT_SECONDS):
            yield b"\n"
        if server.runner.stopping and server.db.look(lambda conn: Runs(conn).is_live(run.run_id)):
            raise Unfinished
        yield result or await run_result(server, run, run_log)

    headers = {"content-type": "application/json", **run_headers(run.thread_id, run.run_id, "join")}
    response = CutResponse(parts(), headers=headers)
    if cancel:
        response.bound = server.runner, run
    return response


async def run_result(server: Server, run: Run, run_log: EventLog) -> bytes:
    """Return the result of a run as JSON: its error, its last values, or else those of its thread."""
    if run_log.error is not None:
        return b'{"__error__":' + run_log.error + b"}"
    if run_log.result is not None and not run_log.interrupts:
        return run_log.result
    if run_log.last_values is not MISSING:
        values = with_questions(run_log.last_values, run_log.interrupts)
    else:
        values = thread_result(server.db.look(lambda conn: Threads(conn).get(run.thread_id)), with_values=True)
    parts = values.values() if isinstance(values, dict) else ()
    if any(isinstance(part, list | dict) and len(part) > 1000 for part in parts):
        return await asyncio.to_thread(to_json, values)  # a long chat would hold up the API
    return to_json(values)


def thread_result(thread: Thread | None, with_values: bool) -> Any:
    """Return what a thread shows, as the result of a run that is over."""
    if thread is None:
        return {}
    if thread.status == "error":
        return {"__error__": thread.error}
    asked = questions(thread) if thread.status == "interrupted" else []
    if not asked and thread.state and thread.output_keys is None:
        return orjson.Fragment(thread.state)  # that of a long chat takes time to parse
    return with_questions(thread.output if thread.state and (with_values or not asked) else {}, asked)


def questions(thread: Thread) -> list[JsonObject]:
    return [question for asked in (thread.interrupts or {}).values() for question in asked]


def with_questions(values: Any, questions: Sequence[Any]) -> Any:
    """Return values as a run's result: with `__interrupt__` if there are questions."""
    return {**(values if isinstance(values, dict) else {}), "__interrupt__": questions} if questions else values


async def list_runs(call: Call) -> list[JsonObject]:
    """Return the runs of a thread, or of all threads, newest first."""
    query, known = call.query, typing.get_args(RunField)
    thread_id = call.id("thread") if call.request.path_params else None
    if unknown := [name for name in query["select"] if name not in known]:
        raise Invalid(f"Invalid select columns: {unknown}. Expected: {set(known)}")

    def runs(conn: sqlite3.Connection) -> list[Run]:
        if thread_id:
            Threads(conn).require(thread_id, *call.limits)
        return Runs(conn).list(thread_id, query["status"], query["limit"], query["offset"], call.limits)

    return [select_fields(run.to_dict(), query["select"]) for run in await call.server.db.read(runs)]


def find_run(call: Call) -> Run | None:
    thread_id, run_id = call.id("thread"), call.id("run")

    def look(conn: sqlite3.Connection) -> Run | None:
        hidden = any(call.limits) and Threads(conn).get(thread_id, *call.limits) is None
        return None if hidden else Runs(conn).get(thread_id, run_id)

    return call.server.db.look(look)


async def get_run(call: Call) -> JsonObject:
    """Return a run."""
    run = find_run(call)
    if run is None:
        find_thread(call)
        raise NotFound()
    return run.to_dict()


async def delete_run(call: Call) -> None:
    """Delete a run with its checkpoints; its thread shows the state before it."""
    thread_id, run_id, began = call.id("thread"), call.id("run"), CLOCK.steady()

    def delete(conn: sqlite3.Connection) -> tuple[Run, Thread | None]:
        thread = Threads(conn).get(thread_id, *call.limits)
        run = Runs(conn).get(thread_id, run_id) if thread else None
        if run is None:
            raise NotFound("Run not found")
        shows_its_state = Runs(conn).has_checkpoint(run) and run.graph_id in call.server.graphs.loaded
        Runs(conn).delete(run)
        if run.kwargs["temporary"]:
            Threads(conn).delete(thread_id)
        elif shows_its_state:
            Threads(conn).set_unshown(thread_id)
            return run, thread
        return run, None

    run, changed = await call.server.db.write(delete)
    call.server.runner.stop_runs([run])
    if changed:
        await show_state(call.server.runner, replace(changed, error=None), began)


async def live_log(server: Server, run: Run, follower: Follower | None = None) -> EventLog | None:
    """Return the log of a run, after `follower` has joined it; None if the run is over."""
    if run.status not in ("pending", "running"):
        return None
    joined = server.runner.logs.of_run(run.run_id, follower)
    current = server.db.look(lambda conn: Runs(conn).get(run.thread_id, run.run_id))
    if current is None or current.status not in ("pending", "running"):
        server.runner.logs.close_run(run.run_id)  # it ended before the log was made: nobody else closes it
        return None
    return joined


async def join_run(call: Call) -> Response:
    """Wait for the result of an existing run."""
    run, headers = find_run(call), run_headers(call.id("thread"), call.id("run"), "join")
    if run is None:
        return reply({"__error__": RUN_NOT_FOUND}, headers=headers)
    joined = await live_log(call.server, run)
    if joined is not None:
        return wait_reply(call.server, run, joined, call.query["cancel_on_disconnect"])
    thread = call.server.db.look(lambda conn: Threads(conn).get(run.thread_id))
    return reply(thread_result(thread, with_values=False), headers=headers)


async def join_run_stream(call: Call) -> Response:
    """Stream the events of an existing run; of a resumable one, those after Last-Event-ID."""
    run, headers = find_run(call), run_headers(call.id("thread"), call.id("run"), "stream")
    if run is None:
        missing = sse_frame(Event(NO_ID, "error", to_json(RUN_NOT_FOUND)), False)
        return Response(missing, headers={**STREAM_HEADERS, **headers})
    last = call.request.headers.get("last-event-id")
    after = event_id() if last is None else parse_event_id(last) or (2**62, 0)  # malformed: no events
    follower = Follower()
    joined = await live_log(call.server, run, follower)
    # the names of a mode's events begin with it; both modes of messages match all of `messages/*`
    wanted = {"messages" if mode.startswith("messages") else mode for mode in call.query["stream_mode"]}

    def frame(event: Event) -> bytes:
        mode = event.name.removeprefix(PROTOCOL).partition("|")[0].partition("/")[0]
        is_wanted = ORDINARY.match(event.name) and (not wanted or mode in wanted or event.id == NO_ID)
        return sse_frame(event, run.kwargs["resumable"]) if is_wanted else b""

    frames = with_heartbeats(run_tape(call.server, run, joined, follower, after), follower, frame)
    response = CutResponse(frames, headers=STREAM_HEADERS | headers)
    if joined and call.query["cancel_on_disconnect"]:
        response.bound = call.server.runner, run
    return response


async def join_thread_stream(call: Call) -> Response:
    """Stream the events of all runs of a thread, present and future."""
    thread_id = call.id("thread")
    modes = call.query["stream_mode"] or call.query["stream_modes"]
    for mode in modes:
        if mode not in typing.get_args(ThreadStreamMode):
            raise Invalid(f"Invalid stream mode: {mode}")
    last = call.request.headers.get("last-event-id")
    if last is not None and not (last == "-" or re.fullmatch(r"\d{1,18}(-\d{1,18})?", last)):
        raise Invalid("Invalid last-event-id: must be a valid Redis stream ID")
    follower = Follower()
    joined = call.server.runner.logs.follow_thread(thread_id, follower)
    after = parse_event_id(last) if last is not None else None

    def frame(event: Event) -> bytes:
        if event.name == "state_update":
            wanted = "state_update" in modes
        else:
            wanted = "run_modes" in modes or ("lifecycle" in modes and event.name in ("metadata", RUN_DONE))
        return sse_frame(event, True) if wanted and (event.name == RUN_DONE or ORDINARY.match(event.name)) else b""

    tape = thread_tape(call.server, thread_id, joined, follower, after)
    return CutResponse(with_heartbeats(tape, follower, frame), headers=STREAM_HEADERS)


async def thread_tape(
    server: Server, thread_id: str, joined: EventLog, follower: Follower, after: tuple[int, int] | None
) -> AsyncIterator[list[Event]]:
    """Yield a thread's events in batches: the stored ones after an id, if one is given, then new ones."""
    shown, joined_at = visibility(server, thread_id), event_id()  # the log has all events from then on, in their order
    # By run: only its own events are in order; and of a run that was rolled back only `run_done` is stored.
    seen = dict[tuple[str, bool], tuple[int, int]]()

    def stored(conn: sqlite3.Connection, start: tuple[int, int]) -> list[Event]:
        return [event for event in Events(conn).of_thread(thread_id, start) if event.id < joined_at]

    try:
        while after and (part := await server.db.read(stored, after)):
            after, seen = part[-1].id, seen | {(event.run_id, event.name == RUN_DONE): event.id for event in part}
            yield part if shown() else []
        async for events in joined.follow(follower):
            fresh = [each for each in events if each.id > seen.get((each.run_id, each.name == RUN_DONE), (0, -1))]
            yield fresh if shown() else []
    finally:
        server.runner.logs.leave_thread(thread_id, follower)


async def cancel_run(call: Call) -> Response:
    """Cancel a run: `action` interrupt keeps its checkpoints, rollback deletes them and the run."""
    run, action = find_run(call), "rollback" if call.query["action"] == "rollback" else "interrupt"
    if run is None:
        raise NotFound("No runs found to cancel.")
    joined = await live_log(call.server, run)
    reason = f"{action} requested via POST /threads/{{thread_id}}/runs/{{run_id}}/cancel"
    if not await call.server.runner.cancel([(run.thread_id, run.run_id)], action, reason):
        raise NotFound(NOTHING_TO_CANCEL)
    if not call.query["wait"] or joined is None:
        return Response(status_code=202)
    return wait_reply(call.server, run, joined, cancel=False, result=b"{}")


async def cancel_runs(call: Call) -> None:
    """Cancel runs of a thread by id, or the runs of all threads by status."""
    server, body = call.server, cast(RunsCancel, call.body)
    action = "rollback" if call.query["action"] == "rollback" else "interrupt"
    if body.status is not None:
        if body.thread_id is not None or body.run_ids is not None:
            raise Invalid("When providing a 'status', 'thread_id' and 'run_ids' must be omitted")
        status = body.status
        limits = await allow(server, "threads.update", {"action": action, "status": status, "metadata": {}})
        ids = await server.db.read(lambda conn: Runs(conn).live_ids(status, limits))
    elif body.thread_id is not None and body.run_ids is not None:
        thread_id = to_uuid(body.thread_id, "thread")
        wanted = [(thread_id, to_uuid(text, "run")) for text in body.run_ids]
        limits = await allow_thread(server, thread_id, "threads.update", action=action)

        def known(conn: sqlite3.Connection) -> list[tuple[str, str]]:
            thread = within(Threads(conn).get(thread_id), limits)
            return [each for each in wanted if thread and Runs(conn).get(*each)]

        ids = await server.db.read(known)
    else:
        raise Invalid("Give either 'status', or 'thread_id' and 'run_ids'")
    if not ids:
        raise NotFound("No runs found to cancel.")
    if not await server.runner.cancel(ids, action, f"{action} requested via POST /runs/cancel"):
        raise NotFound(NOTHING_TO_CANCEL)


# -- crons --


async def create_cron(call: Call) -> JsonObject:
    """Make a cron: it starts runs by a schedule, on a thread or each on a new one."""
    server, body = call.server, cast(CronCreate, call.body)
    thread_id = call.id("thread") if "thread_id" in call.request.path_params else None
    assistant_id = cron_assistant(server, body.assistant_id)
    if body.end_time is not None:
        parse_moment(body.end_time)
    at = now()
    cron = Cron(
        cron_id=new_id(),
        assistant_id=assistant_id,
        thread_id=thread_id,
        end_time=body.end_time,
        schedule=body.schedule,
        timezone=body.timezone,
        payload={**call.raw, "assistant_id": assistant_id},
        next_run_date=next_run_date(body.schedule, body.timezone),
        metadata=body.metadata or {},
        on_run_completed=None if thread_id else body.on_run_completed or "delete",
        enabled=body.enabled,
        created_at=at,
        updated_at=at,
    )
    cron = await allow_cron(server, cron)
    await check_run_body(server, cron_run(cron).body)

    def insert(conn: sqlite3.Connection) -> None:
        check_cron_run(conn, server.graphs, cron_run(cron))
        Crons(conn).insert(cron)

    await server.db.write(insert)
    server.runner.crons.notice()
    return cron.to_dict()


def cron_assistant(server: Server, name: str) -> str:
    """Return the id of a cron's assistant, which may be named by its graph. Raises NotFound."""
    try:
        return to_assistant_id(server, name)
    except InvalidId:
        raise NotFound(f"Assistant '{name}' not found") from None


def check_cron_run(conn: sqlite3.Connection, graphs: Graphs, new: NewRun) -> None:
    """Refuse a cron whose run could not be made now. Raises NotFound, Invalid or BadRequest."""
    assistant_id = new.body.assistant_id
    found = Assistants(conn).get(assistant_id, new.access.assistants)
    assistant = must_find(found, f"Assistant '{assistant_id}' not found")
    thread = Threads(conn).get(new.thread_id, new.access.threads) if new.thread_id else None
    if new.thread_id and thread is None:
        raise NotFound(
            f"Thread with ID '{new.thread_id}' not found. Please verify the ID is correct and the thread hasn't been "
            "deleted or expired."
        )
    new.run(graphs, assistant, new.thread_id or new_id(), thread, client_config(new.body.config))


async def allow_cron(server: Server, cron: Cron) -> Cron:
    """Return the cron with the changes that the application's Auth makes, and with the access of its runs: that of the
    user who made the cron, also if another changes it. Raises Refused."""
    new = cron_run(cron)
    changes, access = await allow_run(server, cron.thread_id, new.body, new.run_id)
    if access.user is None:
        return cron
    payload = {**cron.payload, **changes}
    is_own = cron.access is None or cron.access["user"]["identity"] == access.user["identity"]
    return replace(cron, payload=payload, access=dataclasses.asdict(access) if is_own else cron.access)


async def get_cron(call: Call) -> JsonObject:
    """Return a cron."""
    cron_id = call.id("cron")
    return must_find(call.server.db.look(lambda conn: Crons(conn).get(cron_id, *call.limits))).to_dict()


CRON_OWN = frozenset({"schedule", "timezone", "end_time", "enabled", "on_run_completed"})  # fields not of its runs


async def update_cron(call: Call) -> JsonObject:
    """Change a cron; the given fields also replace those of its payload."""
    server, cron_id, body = call.server, call.id("cron"), cast(CronPatch, call.body)
    if not call.raw:
        raise BadRequest("Request body cannot be empty")
    if body.end_time is not None:
        parse_moment(body.end_time)
    given = body.model_fields_set
    fields = {name: getattr(body, name) for name in CRON_OWN & given}
    changes_runs = not given <= {*CRON_OWN, "metadata"}  # a cron whose runs can't be made can still be disabled
    if "assistant_id" in given:
        fields["assistant_id"] = call.raw["assistant_id"] = cron_assistant(server, body.assistant_id)

    def find(conn: sqlite3.Connection) -> Cron:
        return must_find(Crons(conn).get(cron_id, *call.limits), f"Cron '{cron_id}' not found")

    def laid_over(old: Cron) -> Cron:
        payload = {**old.payload, **call.raw}
        changed = replace(old, **fields, payload=payload, metadata={**old.metadata, **body.metadata}, updated_at=now())
        if "schedule" in fields or "timezone" in fields:
            changed = replace(changed, next_run_date=next_run_date(changed.schedule, changed.timezone))
        return replace(changed, on_run_completed=None) if old.thread_id else changed

    def patch(conn: sqlite3.Connection, payload: JsonObject, allowed: Cron) -> Cron | None:
        old = find(conn)
        if old.payload != payload:  # another request changed it meanwhile
            return None
        changed = laid_over(old)
        changed = replace(changed, payload=allowed.payload, access=allowed.access) if allowed.access else changed
        if changes_runs:
            check_cron_run(conn, server.graphs, cron_run(changed))
        Crons(conn).update(changed, by_client=True)
        return changed

    changed = None
    while changed is None:
        old = server.db.look(find)
        allowed = await allow_cron(server, laid_over(old))
        if changes_runs:
            await check_run_body(server, cron_run(allowed).body)
        changed = await server.db.write(patch, old.payload, allowed)
    server.runner.crons.notice()
    server.runner.threads.notice()  # its thread may expire now
    return changed.to_dict()


async def delete_cron(call: Call) -> None:
    """Delete a cron."""
    cron_id = call.id("cron")
    must_find(await call.server.db.write(lambda conn: Crons(conn).delete(cron_id, *call.limits)))
    call.server.runner.threads.notice()


async def fire_cron(call: Call) -> Response:
    """Start a run of a cron now, even if it is disabled; its next date stays."""
    cron_id = call.id("cron")
    found = call.server.db.look(lambda conn: Crons(conn).get(cron_id, *call.limits))
    cron = must_find(found, f"Cron '{cron_id}' not found")
    # no other header of this request: the cron may be another user's
    headers = {"langgraph_request_id": CONFIGURABLE_HEADERS.get()["langgraph_request_id"]}
    [run] = await call.server.runner.create(cron_run(cron, headers))
    return reply(run.to_dict(), headers=run_headers(run.thread_id, run.run_id))


async def search_crons(call: Call) -> Response:
    """Search crons by assistant, thread and metadata."""
    body: CronSearch = call.body
    page = await call.server.db.read(lambda conn: Crons(conn).search(body, *call.limits))
    return page_reply([select_fields(row.to_dict(), body.select) for row in page.rows], page.more, body)


async def count_crons(call: Call) -> int:
    """Count the crons that a search finds."""
    return await call.server.db.read(lambda conn: Crons(conn).count(call.body, *call.limits))


# -- store --


class BadLabel(Invalid):
    """An invalid namespace label, answered in plain text as LangGraph Server does."""


def labels(namespace: Sequence[str]) -> tuple[str, ...]:
    try:
        _check_labels(namespace)
    except Invalid as error:
        raise BadLabel(error.detail) from None
    return tuple(namespace)


async def put_item(call: Call) -> None:
    """Store an item, in place of the one with the same key."""
    body: StorePutRequest = call.body
    asked: JsonObject = {"namespace": labels(body.namespace), "key": body.key, "value": body.value, "index": body.index}
    asked = await allow_item(call.server, "put", asked)
    namespace = labels(asked["namespace"])
    if not namespace:
        raise BadRequest("Namespace cannot be empty.")
    if namespace[0] == "langgraph":
        raise BadRequest(f'Root label for namespace cannot be "langgraph". Got: {namespace}')
    ttl = body.ttl if "ttl" in body.model_fields_set else NOT_PROVIDED
    await call.server.store.aput(namespace, asked["key"], asked["value"], index=asked["index"], ttl=ttl)


def item_value(item: Item) -> JsonObject:
    return {
        "namespace": list(item.namespace),
        "key": item.key,
        "value": item.value,
        "created_at": moment(item.created_at),
        "updated_at": moment(item.updated_at),
    }


async def get_item(call: Call) -> JsonObject | Response | None:
    """Return an item, or null."""
    namespace = labels((call.query["namespace"] or "").split("."))
    if not call.query["key"]:
        return reply({"error": "Key is required"}, 400)
    asked = await allow_item(call.server, "get", {"namespace": namespace, "key": call.query["key"]})
    refresh = call.query["refresh_ttl"]
    item = await call.server.store.aget(labels(asked["namespace"]), asked["key"], refresh_ttl=refresh)
    return item_value(item) if item else None


async def delete_item(call: Call) -> None:
    """Delete an item, if there is one."""
    body: StoreDeleteRequest = call.body
    asked = await allow_item(call.server, "delete", {"namespace": labels(body.namespace or ()), "key": body.key})
    if namespace := labels(asked["namespace"]):
        await call.server.store.abatch([PutOp(namespace, asked["key"], None)])


async def search_items(call: Call) -> JsonObject:
    """Search items of a namespace and those below it: oldest first, with a query the nearest first."""
    body: StoreSearchRequest = call.body
    asked: JsonObject = {
        "namespace": labels(body.namespace_prefix or ()),
        "filter": body.filter,
        "limit": 10 if not body.limit else max(0, body.limit),
        "offset": body.offset or 0,
        "query": body.query,
    }
    asked = await allow_item(call.server, "search", asked)
    options = {name: asked[name] for name in ("filter", "limit", "offset", "query")}
    found = await user_store(call.server).asearch(labels(asked["namespace"]), refresh_ttl=body.refresh_ttl, **options)
    return {"items": [{**item_value(item), "score": item.score} for item in found]}


async def list_item_namespaces(call: Call) -> JsonObject:
    """Return the namespaces that hold items."""
    body: StoreListNamespacesRequest = call.body
    asked: JsonObject = {
        "namespace": labels(body.prefix) if body.prefix else None,
        "suffix": labels(body.suffix) if body.suffix else None,
        "max_depth": body.max_depth,
        "limit": body.limit or 100,
        "offset": body.offset or 0,
    }
    asked = await allow_item(call.server, "list_namespaces", asked)
    conditions = [
        MatchCondition(kind, labels(path))  # type: ignore[arg-type]
        for kind, path in (("prefix", asked["namespace"]), ("suffix", asked["suffix"]))
        if path
    ]
    op = ListNamespacesOp(tuple(conditions), asked["max_depth"], asked["limit"], asked["offset"])
    [found] = await user_store(call.server).abatch([op])
    return {"namespaces": found}


########################################################################################################
# 13  Protocols
########################################################################################################

CHANNEL = re.compile(r"values|updates|messages|tools|custom(:.+)?|lifecycle|input|tasks|checkpoints", re.DOTALL)
INVALID_REQUEST, INVALID_PARAMS = -32600, -32602  # of JSON-RPC
NO_ACTIVE_RUN = "No active run is bound to this thread."


class ProtocolError(Exception):
    """A command or call that can't be carried out, with a code of its protocol."""

    def __init__(self, code: str | int, message: str) -> None:
        super().__init__(message)
        self.code = code

    def value(self) -> JsonObject:
        return {"code": self.code, "message": str(self)}


def require(condition: Any, problem: str, code: str | int = INVALID_PARAMS) -> None:
    """Raise ProtocolError unless the condition holds."""
    if not condition:
        raise ProtocolError(code, problem)


class EventFilter:
    """Which events of a thread a client wants: those after `since` of some channels and namespaces."""

    def __init__(self, raw: Any) -> None:
        """Read a ProtocolEventStreamRequest. Raises BadRequest for its channels, Invalid for anything else."""
        asked = raw if isinstance(raw, dict) else {}
        channels = asked.get("channels")
        if not isinstance(channels, list) or not channels:
            raise BadRequest("channels is required and must be a non-empty array")
        if unknown := [str(name) for name in channels if not isinstance(name, str) or not CHANNEL.fullmatch(name)]:
            raise BadRequest(
                f"channels contains unsupported entries: {', '.join(unknown)}. Allowed: values, updates, messages, "
                "tools, custom, lifecycle, input, tasks, or any `custom:<name>`."
            )
        self._asked = validate(ProtocolEventStreamRequest, asked)
        self._channels = set(channels)
        self.since = self._asked.since or 0

    def envelopes(self, events: list[Event]) -> list[JsonObject]:
        """Return the events that the client wants, as the protocol shows them."""
        wanted = []
        for event in events:
            method = event.name.removeprefix(PROTOCOL).partition("|")[0]
            channel = method.partition(".")[0]  # input.requested is of the channel input
            if event.seq > self.since and (channel == "custom" or channel in self._channels):  # parse no others
                made = envelope(event)
                if self._matches(channel, made["params"]):
                    wanted.append(made)
        return wanted

    def _matches(self, channel: str, params: JsonObject) -> bool:
        data, namespaces = params["data"], self._asked.namespaces
        is_named = channel == "custom" and isinstance(data, dict) and f"custom:{data.get('name')}" in self._channels
        if channel not in self._channels and not is_named:
            return False
        return namespaces is None or any(self._is_below(params["namespace"], prefix) for prefix in namespaces)

    def _is_below(self, namespace: list[str], prefix: list[str]) -> bool:
        """Return whether a namespace is `prefix`, or below it by at most `depth`. A name without id means any task."""
        levels, depth = len(namespace) - len(prefix), self._asked.depth
        if levels < 0 or (depth is not None and levels > depth):
            return False
        pairs = zip(prefix, namespace, strict=False)
        return all(wanted in (segment, segment.partition(":")[0]) for wanted, segment in pairs)


async def protocol_tape(
    server: Server, thread_id: str, pick: Callable[[list[Event]], list[JsonObject]], follower: Follower
) -> AsyncIterator[list[JsonObject]]:
    """Yield the events of a thread that `pick` returns, of the stored ones, then of new ones. Raises Unfinished if the
    server stops, Overtaken if the client is too far behind and has to connect again."""
    joined = server.runner.logs.follow_thread(thread_id, follower)
    async for events in thread_tape(server, thread_id, joined, follower, (0, -1)):
        yield pick(events)
    raise Unfinished


async def stream_events(call: Call) -> Response:
    """Stream a thread's events by the event streaming protocol, from its beginning."""
    wanted, follower = EventFilter(await protocol_body(call.request)), Follower()
    tape = protocol_tape(call.server, call.id("thread"), wanted.envelopes, follower)

    def frame(envelope: JsonObject) -> bytes:
        data, name, seq = to_json(envelope), envelope["method"].encode(), envelope["seq"]
        return b"event: %b\r\ndata: %b\r\nid: %d\r\n\r\n" % (name, data, seq)

    return CutResponse(with_heartbeats(tape, follower, frame), headers=STREAM_HEADERS)


async def protocol_body(request: Request) -> Any:
    need_event_streaming()
    try:
        return from_json(await request.body())
    except ValueError:
        raise BadRequest("Invalid JSON body") from None


async def send_command(call: Call) -> Response:
    """Carry out a command of the event streaming protocol."""
    command = await protocol_body(call.request)
    return reply(*await answer_command(call.server, call.request.path_params["thread_id"], command, None))


async def answer_command(server: Server, thread: str, command: Any, session: Session | None) -> tuple[JsonObject, int]:
    """Carry out a command, of a WebSocket if there is a session. Return the answer and the HTTP status. The answer's
    `applied_through_seq` is the last event before the command: those of a run that it starts come after."""
    given = command if isinstance(command, dict) else {}
    command_id, method, params = given.get("id"), given.get("method"), given.get("params")
    if type(command_id) is not int or not isinstance(method, str):  # a bool is an int, too
        form = "Protocol commands must include an integer id and string method."
        return command_failure(command_id, "invalid_argument", form), 400
    try:
        require(method in COMMANDS, f"Unknown protocol command: {method}", "unknown_command")
        limits = await allow_thread(server, thread)
        seq = server.db.look(lambda conn: Events(conn).last_seq(thread, limits))
        result = await COMMANDS[method](server, thread, params if isinstance(params, dict) else {}, session)
    except ProtocolError as error:
        return command_failure(command_id, error.code, str(error)), 200
    except ApiError as error:
        detail = "Invalid thread ID" if isinstance(error, InvalidId) else error.detail
        return command_failure(command_id, "unknown_error", f"{error.status}: {detail}"), 200
    return {"type": "success", "id": command_id, "result": result, "meta": {"applied_through_seq": seq}}, 200


def command_failure(command_id: Any, code: str | int, message: str) -> JsonObject:
    return {"type": "error", "id": command_id, "error": code, "message": message}


async def start_run(server: Server, thread: str, params: JsonObject, session: Session | None) -> JsonObject:
    """run.start: start a run on a thread, which is made if missing. If the thread asks a question, answer it."""
    assistant_id, config = params.get("assistant_id"), params.get("config") or {}
    is_named = isinstance(assistant_id, str) and assistant_id
    require(is_named, "run.start requires an assistant_id.", "invalid_argument")
    configurable = config.get("configurable") if isinstance(config, dict) else None
    checkpoint_id = configurable.get("checkpoint_id") if isinstance(configurable, dict) else None
    if checkpoint_id is not None:
        try:
            uuid.UUID(str(checkpoint_id))
        except ValueError:
            problem = f"Invalid config.configurable.checkpoint_id: '{checkpoint_id}'."
            raise ProtocolError("invalid_argument", problem) from None
    thread_id, value = to_uuid(thread, "thread"), params.get("input")
    is_answer = await asking_thread(server, thread_id) and value is not None and checkpoint_id is None
    body = {
        "assistant_id": assistant_id,
        "config": config,
        "metadata": params.get("metadata") or {},
        "multitask_strategy": params.get("multitaskStrategy") or params.get("multitask_strategy"),
        **({"command": {"resume": value}} if is_answer else {"input": value}),
    }
    return {"run_id": await start_protocol_run(server, thread_id, body)}


async def start_protocol_run(server: Server, thread_id: str, body: JsonObject) -> str:
    given = {key: value for key, value in body.items() if value is not None}
    options = {"stream_subgraphs": True, "stream_resumable": True, "if_not_exists": "create"}
    new = await new_run(server, thread_id, validate(RunCreateStateful, {**given, **options}), protocol=True)
    [run] = await server.runner.create(new)
    return run.run_id


async def asking_thread(server: Server, thread_id: str) -> Thread | None:
    """Return the thread if it waits for answers. A client may answer a run's question just before the run ends: wait
    for that."""
    limits = ACCESS.get().limits["threads.read"] if server.auth else {}
    thread = server.db.look(lambda conn: Threads(conn).get(thread_id, limits))
    if thread and thread.status == "busy":
        for run in await server.db.read(lambda conn: Runs(conn).live(thread_id)):
            joined = await live_log(server, run) if run.status == "running" else None
            if joined and joined.interrupts:
                await joined.ended(5)
        thread = server.db.look(lambda conn: Threads(conn).get(thread_id, limits))
    return thread if thread and thread.status == "interrupted" and questions(thread) else None


async def respond(server: Server, thread: str, params: JsonObject, session: Session | None) -> JsonObject:
    """input.respond: answer one interrupt, or several."""
    responses = [params] if params.get("responses") is None else params["responses"]
    is_some = isinstance(responses, list) and responses
    require(is_some, "input.respond requires at least one response.", "invalid_argument")
    answers = {}
    for each in responses:
        interrupt_id = each.get("interrupt_id") if isinstance(each, dict) else None
        is_named = isinstance(interrupt_id, str) and interrupt_id
        require(is_named, "input.respond requires an interrupt_id.", "invalid_argument")
        namespace = each.get("namespace", [])
        are_names = isinstance(namespace, list) and all(isinstance(part, str) for part in namespace)
        require(are_names, "input.respond requires namespace to be a list of strings.", "invalid_argument")
        answers[interrupt_id] = each.get("response")
    thread_id = to_uuid(thread, "thread")
    asking = await asking_thread(server, thread_id)
    if asking is None:
        raise ProtocolError("no_such_run", "No interrupted run is bound to this thread.")
    asked = [question["id"] for question in questions(asking)]
    for interrupt_id in answers:
        require(interrupt_id in asked, f"No pending interrupt with id {interrupt_id}.", "no_such_interrupt")
    command = {key: params[key] for key in ("update", "goto") if params.get(key) is not None}
    body = {
        "assistant_id": asking.metadata.get("assistant_id") or asking.metadata.get("graph_id"),
        "command": {**command, "resume": answers},
        **{key: params.get(key) for key in ("config", "metadata", "strict_resume")},
    }
    await start_protocol_run(server, thread_id, body)
    return {}


async def subscribe(server: Server, thread: str, params: JsonObject, session: Session | None) -> JsonObject:
    """subscription.subscribe: send events over the WebSocket. Over HTTP the request is checked, and nothing sent."""
    channels = params.get("channels")
    is_some = isinstance(channels, list) and channels
    require(is_some, "subscription.subscribe requires a non-empty channels array.", "invalid_argument")
    try:
        wanted = EventFilter(params)
    except BadRequest:
        raise ProtocolError("invalid_argument", "subscription.subscribe received an unsupported channel.") from None
    except Invalid as error:
        raise ProtocolError("invalid_argument", error.detail) from None
    subscription_id = str(uuid.uuid4())
    if session:
        session.subscribe(subscription_id, wanted)
    return {"subscription_id": subscription_id, "replayed_events": 0}


async def unsubscribe(server: Server, thread: str, params: JsonObject, session: Session | None) -> JsonObject:
    name = str(params.get("subscription_id"))
    known = session and session.subscriptions.pop(name, None)
    require(known, f"Unknown subscription: {name}", "no_such_subscription")
    return {}


async def resubscribe(server: Server, thread: str, params: JsonObject, session: Session | None) -> JsonObject:
    require(session, NO_ACTIVE_RUN, "no_such_run")
    return await subscribe(server, thread, params, session)


async def get_tree(server: Server, thread: str, params: JsonObject, session: Session | None) -> JsonObject:
    """agent.getTree: return the graph and subgraphs of the thread's latest run, and how far they are."""

    def tree(conn: sqlite3.Connection) -> JsonObject | None:
        nodes: dict[tuple[str, ...], JsonObject] = {}
        for event in Events(conn).newest(thread, f"{PROTOCOL}lifecycle"):
            params = from_json(event.data)
            data, place = params["data"], tuple(params["namespace"])
            node = {"namespace": params["namespace"], "status": data["event"], "graph_name": data.get("graph_name", "")}
            nodes[place] = nodes.pop(place, node)  # newest first: keep the status, move it to its first event's place
            if data["event"] == "running":
                break
        root = nodes.pop((), None)
        return {**root, "children": list(nodes.values())[::-1]} if root and nodes else root

    found = await server.db.read(tree) if session and visibility(server, thread)() else None
    require(found, NO_ACTIVE_RUN, "no_such_run")
    return {"tree": found}


CommandHandler = Callable[[Server, str, JsonObject, "Session | None"], Coroutine[Any, Any, JsonObject]]
COMMANDS: dict[str, CommandHandler] = {
    "run.start": start_run,
    "input.respond": respond,
    "subscription.subscribe": subscribe,
    "subscription.unsubscribe": unsubscribe,
    "subscription.reconnect": resubscribe,
    "agent.getTree": get_tree,
}


class Session:
    """A WebSocket of the event streaming protocol: commands in, answers and subscribed events out."""

    def __init__(self, server: Server, socket: WebSocket, thread: str) -> None:
        self._server = server
        self._socket = socket
        self._thread = thread
        self.subscriptions: dict[str, EventFilter] = {}  # events up to their `since` have been sent
        self._tape: asyncio.Future[None] | None = None

    async def run(self) -> None:
        try:
            while (message := await self._socket.receive())["type"] == "websocket.receive":
                if (text := message.get("text")) is None:
                    await self._socket.close(1003)  # a binary message
                    break
                try:
                    command = from_json(text)
                except ValueError:
                    answer = command_failure(None, "invalid_argument", "Protocol commands must be valid JSON.")
                else:
                    answer, _ = await answer_command(self._server, self._thread, command, self)
                await self._send(answer)
        finally:
            if self._tape:
                self._tape.cancel()

    async def _send(self, message: JsonObject) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client is gone
            await self._socket.send_text(to_json(message).decode())

    def subscribe(self, subscription_id: str, wanted: EventFilter) -> None:
        """Read the thread's events again from the first: each subscription gets those after its `since`."""
        self.subscriptions[subscription_id] = wanted
        if self._tape:
            self._tape.cancel()
        self._tape = asyncio.ensure_future(self._play())

    def _pick(self, events: list[Event]) -> list[JsonObject]:
        """Return the events that any subscription wants, in order, each once."""
        wanted = {each["seq"]: each for own in self.subscriptions.values() for each in own.envelopes(events)}
        return [wanted[seq] for seq in sorted(wanted)]

    async def _play(self) -> None:
        try:
            async for batch in protocol_tape(self._server, self._thread, self._pick, Follower()):
                for envelope in batch:
                    await self._send(envelope)
                    for own in self.subscriptions.values():
                        own.since = max(own.since, envelope["seq"])
        except Exception as error:  # whatever it is: the client must not wait for ever
            expected = isinstance(error, Unfinished | Overtaken | Unavailable)
            if not expected:
                log.error("the events of thread %s could not be sent", self._thread, exc_info=error)
            with contextlib.suppress(RuntimeError):  # closed already
                await self._socket.close(1012 if expected else 1011)


async def deny(socket: WebSocket, error: ApiError) -> None:
    """Refuse a WebSocket with an HTTP response."""
    refusal = reply({"detail": error.detail}, error.status, error.headers)
    del refusal.headers["content-length"]  # uvicorn before 0.52.4 adds a second one
    await socket.send_denial_response(refusal)


async def protocol_socket(socket: WebSocket) -> None:
    """Serve the event streaming protocol over a WebSocket. Close codes are 4000 plus an HTTP status."""
    server: Server = socket.app.state.server
    note_headers(server, socket)
    try:
        await enter(server, socket)
        need_event_streaming()
        thread_id = to_uuid(socket.path_params["thread_id"], "thread")
        await allow_thread(server, thread_id)
    except Invalid as error:
        await socket.accept()
        await socket.close(4422, error.detail)
    except ApiError as error:
        await deny(socket, error)
    else:
        await socket.accept()
        await Session(server, socket, thread_id).run()


# -- the Model Context Protocol: every assistant is a tool --

MCP_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MCP_PAGE = 100
MCP_HINTS = {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": False, "openWorldHint": True}
MCP_MESSAGES = {"description": "The user message to send to the agent.", "title": "Messages", "type": "string"}


def rpc_answer(rpc_id: Any, name: str, value: JsonObject) -> JsonObject:
    """Return a JSON-RPC response; `name` is `result` or `error`."""
    return {"jsonrpc": "2.0", "id": rpc_id, name: value}


async def call_mcp(call: Call) -> Response:
    """Answer a message of the Model Context Protocol, stateless: one JSON response per call."""
    try:
        message = await call.json()
    except Invalid:
        return reply({"error": "Invalid JSON"}, 400)
    accept, problem = call.request.headers.get("accept", ""), None
    if "application/json" not in accept and "text/event-stream" not in accept:
        problem = "Accept header must include application/json or text/event-stream"
    elif not isinstance(message, dict):
        problem = "Invalid message format."
    elif message.get("jsonrpc") != "2.0":
        problem = "Invalid JSON-RPC message. Missing or invalid jsonrpc version."
    elif "id" not in message and "method" not in message:
        problem = (
            "Invalid message format. A message is to be either a JSON-RPC request, response, or notification."
            "Please see the Messages section of the Streamable HTTP RFC for more information."
        )
    if problem:
        return reply({"error": problem}, 400)
    if "id" not in message or "method" not in message:
        return Response(status_code=202)
    try:
        method, params = message["method"], message.get("params") or {}
        require(isinstance(params, dict), "params must be an object")
        require(isinstance(method, str) and method in MCP_METHODS, f"Method not found: {method}", -32601)
        result = await MCP_METHODS[method](call.server, params)
    except ProtocolError as error:
        return reply(rpc_answer(message["id"], "error", error.value()))
    return reply(rpc_answer(message["id"], "result", result))


async def mcp_ping(server: Server, params: JsonObject) -> JsonObject:
    return {}


async def mcp_initialize(server: Server, params: JsonObject) -> JsonObject:
    version = params.get("protocolVersion")
    return {
        "protocolVersion": version if version in MCP_VERSIONS else MCP_VERSIONS[-1],
        "capabilities": {"tools": {"listChanged": False}},
        "serverInfo": {"name": "devserver", "version": __version__},
    }


async def list_tools(server: Server, params: JsonObject) -> JsonObject:
    """Return a page of the user's assistants, each as a tool that takes the input of its graph."""
    cursor = params.get("cursor")
    offset = int(cursor) if isinstance(cursor, str) and cursor.isascii() and cursor.isdigit() else 0
    value = AssistantSearchRequest(limit=MCP_PAGE, offset=min(offset, SAFE_INTEGER)).model_dump()
    limits = await allow(server, "assistants.search", value)
    wanted = validate(AssistantSearchRequest, {name: value[name] for name in ("limit", "offset", "metadata")})
    page = await server.db.read(lambda conn: Assistants(conn).search(wanted, limits))
    tools: dict[str, JsonObject] = {}
    for assistant in page.rows:
        name = tool_name(assistant.name, assistant.assistant_id)
        if name in tools or assistant.graph_id not in server.graphs.loaded:
            continue
        try:
            schema = await input_schema(server, assistant)
        except Unavailable:
            raise
        except Exception as error:  # whatever a graph factory raises: the other assistants are listed
            log.warning("assistant %s is left out of the tools: %r", assistant.assistant_id, error)
            continue
        properties = schema.get("properties", {})
        if "messages" in properties:  # a tool takes the text of one message
            properties = {**properties, "messages": MCP_MESSAGES}
            schema = {key: value for key, value in schema.items() if key != "$defs"}
        tools[name] = {
            "name": name,
            "title": assistant.name,
            "description": assistant.description or f"Tool based on the {assistant.name} assistant",
            "inputSchema": {**schema, "properties": properties, "type": "object"},
            "annotations": MCP_HINTS,
        }
    more = {"nextCursor": str(offset + MCP_PAGE)} if page.more else {}
    return {"tools": list(tools.values()), **more}


async def input_schema(server: Server, assistant: Assistant) -> JsonObject:
    """Return the JSON schema of the input of an assistant's graph, empty if it has none."""

    async def schema(graph: Graph) -> JsonObject:
        if graph not in INPUT_SCHEMAS:
            INPUT_SCHEMAS[graph] = _schema(graph, "input") or {}
        return INPUT_SCHEMAS[graph]

    return await of_assistant_graph(server, assistant, schema)


# Making the schema of messages takes some 20 ms, and all assistants of a graph have the same.
INPUT_SCHEMAS: weakref.WeakKeyDictionary[Graph, JsonObject] = weakref.WeakKeyDictionary()


async def call_tool(server: Server, params: JsonObject) -> JsonObject:
    """Run the assistant that a tool is named after. Return its result as text. Raises ProtocolError."""
    name = params.get("name")
    value: JsonObject = {"metadata": {}}
    known = await server.db.read(lambda conn: Assistants(conn).of_tool(name)) if isinstance(name, str) else []
    limits = await allow(server, "assistants.search", value)
    found = [
        each
        for each in known
        if each.graph_id in server.graphs.loaded and within(each, limits) and contains(each.metadata, value["metadata"])
    ]
    require(found, f"Unknown tool: {name}")
    require(len(found) == 1, "Multiple tools found with the same name.")
    given = params.get("arguments") or {}
    require(isinstance(given, dict), "arguments must be an object")
    if isinstance(given.get("messages"), str):
        given = {**given, "messages": [{"role": "user", "content": given["messages"]}]}
    body = {"assistant_id": found[0].assistant_id, "input": given, "context": params.get("context")}
    try:
        new = await new_run(server, None, validate(RunCreateStateless, body))
        run_log = server.runner.logs.of_run(new.run_id)
        [run] = await server.runner.create(new)
    except ApiError as error:
        raise ProtocolError(INVALID_PARAMS, error.detail) from None
    await wait_for_end(server, run, run_log)
    result = from_json(await run_result(server, run, run_log))
    failure = result.get("__error__") if isinstance(result, dict) else None
    text = {"type": "text", "text": failure_text(failure) if failure else repr(result)}
    return {"content": [text], **({"isError": True} if failure else {})}


MCP_METHODS: dict[str, Callable[[Server, JsonObject], Coroutine[Any, Any, JsonObject]]] = {
    "ping": mcp_ping,
    "initialize": mcp_initialize,
    "tools/list": list_tools,
    "tools/call": call_tool,
}


async def wait_for_end(server: Server, run: Run, run_log: EventLog) -> None:
    """Wait until a run is over. Raises ProtocolError if the server stops before."""
    await run_log.ended()
    is_live = server.runner.stopping and server.db.look(lambda conn: Runs(conn).is_live(run.run_id))
    stops = "The server stopped before the run ended. It goes on when the server starts again."
    require(not is_live, stops, -32603)


def failure_text(error: JsonObject) -> str:
    return f"{error['error']}: {error['message']}" if error["message"] else str(error["error"])


async def get_mcp(call: Call) -> None:
    """Refuse a stream: stateless MCP has none."""


async def delete_mcp(call: Call) -> None:
    """Refuse to end a session: stateless MCP has none."""


# -- the Agent2Agent protocol: every assistant is an agent; a task is a run, and the runs that answer its questions --

A2A_PAGE = 100
MAX_PARTS = 1_000
A2A_SCOPE_HEADER, A2A_SCOPES = "LangGraph-A2A-History-Scope", ("context", "task")
FINAL_STATES = ("completed", "failed", "canceled")
# States, and the fields of files, by their names in version 0.3; values are the names in 1.0.
TASK_STATES = {
    state: f"TASK_STATE_{state.upper().replace('-', '_')}"
    for state in (*FINAL_STATES, "submitted", "working", "input-required", "rejected", "auth-required", "unknown")
}
FILE_WORDS = {"bytes": "raw", "uri": "url", "name": "filename", "mimeType": "mediaType"}


@dataclass(frozen=True)
class AgentCall:
    """A JSON-RPC call to an agent, answered in the form of version 1.0 if it is `modern`, else of 0.3."""

    server: Server
    request: Request
    assistant: Assistant
    rpc_id: str | int
    params: JsonObject
    modern: bool
    streams: bool

    def value(self, made: JsonObject) -> JsonObject:
        """Return a task or an update, made in the form of version 0.3, in that of the call's version."""
        if not self.modern:
            return made
        status = made.get("status", {})
        messages = [*made.get("history", ()), *([status["message"]] if "message" in status else ())]
        artifacts = [*made.get("artifacts", ()), *([made["artifact"]] if "artifact" in made else ())]
        if status:
            status["state"] = TASK_STATES[status["state"]]
        for message in messages:
            message["role"] = f"ROLE_{message['role'].upper()}"
        for each in (*messages, *artifacts):
            each["parts"] = [
                {FILE_WORDS[key]: value for key, value in part["file"].items()} if part["kind"] == "file" else part
                for part in each["parts"]
            ]
        return made

    def wrapped(self, made: JsonObject) -> JsonObject:
        """Return a result of several possible kinds likewise: version 1.0 puts it under the name of its kind."""
        names = {"task": "task", "status-update": "statusUpdate", "artifact-update": "artifactUpdate"}
        return {names[made["kind"]]: self.value(made)} if self.modern else made

    def text(self, name: str) -> str:
        """Return a string parameter, empty if it is not given. Raises ProtocolError."""
        value = self.params.get(name) or ""
        require(isinstance(value, str), f"{name} must be a string")
        return str(value)

    def task_id(self) -> str:
        require(name := self.text("id"), "Missing required parameter: id (task_id)")
        return name

    def length(self, options: JsonObject) -> int | None:
        """Return how many messages of a task's history to show, None for all. Raises ProtocolError, for a scope too."""
        length: int | None = options.get("historyLength")
        is_count = length is None or (type(length) is int and length >= 0)
        require(is_count, "historyLength must be a non-negative integer")
        require(self.scope() in A2A_SCOPES, f"{A2A_SCOPE_HEADER} must be one of {A2A_SCOPES}")
        return length

    def scope(self) -> str:
        return self.request.headers.get(A2A_SCOPE_HEADER, A2A_SCOPES[0])


def rpc_error(error: ProtocolError | ApiError) -> JsonObject:
    return (error if isinstance(error, ProtocolError) else ProtocolError(INVALID_PARAMS, error.detail)).value()


def rpc_frame(answer: JsonObject) -> bytes:
    """Return an answer as a server-sent event."""
    return sse_frame(Event(NO_ID, "message", to_json(answer)), False)


async def call_agent(call: Call) -> Response:
    """Answer a JSON-RPC call of the Agent2Agent protocol."""
    rpc_id, streams = None, False
    try:
        try:
            message = await call.json()
        except Invalid as error:
            raise ProtocolError(-32700, error.detail) from None
        require(isinstance(message, dict), "Invalid request: must be an object", INVALID_REQUEST)
        given, name, params = message.get("id"), message.get("method"), message.get("params", {})
        require(type(given) in (str, int), "Invalid request: id must be a string or an integer", INVALID_REQUEST)
        rpc_id = given
        if "result" in message and "method" not in message:
            return Response(status_code=202)
        require(message.get("jsonrpc") == "2.0", "Invalid request: jsonrpc must be '2.0'", INVALID_REQUEST)
        require(name and isinstance(name, str), "Invalid request: method must be a string", INVALID_REQUEST)
        require("pushnotificationconfig" not in name.lower(), "Push notifications are not supported", -32003)
        require(name in AGENT_METHODS, f"Method not found: {name}", -32601)
        streams, modern = name in STREAMING_METHODS, "/" not in name
        kind = "text/event-stream" if streams else "application/json"
        accept = call.request.headers.get("accept") or "*/*"
        if not any(each in accept for each in (kind, f"{kind.partition('/')[0]}/*", "*/*")):
            return reply({"error": f"Accept header must include {kind}"}, 400)
        require(isinstance(params, dict), "Invalid params: must be an object")
        assistant = await find_agent(call.server, call.request.path_params["assistant_id"])
        agent_call = AgentCall(call.server, call.request, assistant, given, params, modern, streams)
        result = await AGENT_METHODS[name](agent_call)
    except Refused:
        raise
    except (ProtocolError, ApiError) as error:
        answer = rpc_answer(rpc_id, "error", rpc_error(error))
        return Response(rpc_frame(answer), headers=STREAM_HEADERS) if streams else reply(answer)
    return result if isinstance(result, Response) else reply(rpc_answer(rpc_id, "result", result))


async def find_agent(server: Server, assistant_id: str) -> Assistant:
    try:
        agent_id = to_uuid(assistant_id, "assistant")
        return find_assistant(server, agent_id, await allow_assistant(server, agent_id))
    except (Invalid, NotFound):
        raise ProtocolError(INVALID_PARAMS, f"Assistant not found: '{assistant_id}'") from None


# messages from clients


class SentFile(Body):
    """A file in a part: its content in base64, or its URL."""

    bytes: str | None = None
    uri: str | None = None
    mime_type: str | None = Field(default=None, alias="mimeType")
    name: str | None = None


class SentPart(Body):
    """A part of a message: a text, an object or a file, by its kind."""

    kind: Literal["text", "data", "file"]
    text: str | None = None
    data: JsonObject | None = None
    file: SentFile | None = None
    metadata: JsonObject | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if getattr(self, self.kind) is None or (self.file and self.file.bytes is self.file.uri):  # both None
            raise ValueError(f"a part of kind '{self.kind}' needs '{self.kind}', and a file 'bytes' or 'uri'")
        return self


class SentMessage(Body):
    """A message to an agent, in the form of version 0.3."""

    message_id: str = Field(alias="messageId")
    role: Literal["user", "agent"]
    parts: list[SentPart]
    context_id: str | None = Field(default=None, alias="contextId")
    task_id: str | None = Field(default=None, alias="taskId")
    metadata: JsonObject | None = None
    extensions: list[str] | None = None
    reference_task_ids: list[str] | None = Field(default=None, alias="referenceTaskIds")


def read_message(call: AgentCall) -> SentMessage:
    """Return the message of a call of either version. Raises ProtocolError."""
    raw: Any = call.params.get("message")
    require(isinstance(raw, dict), "Missing or invalid 'message' in params")
    given = raw.get("parts", [])
    require(isinstance(given, list), "Invalid params: 'parts' must be an array")
    require(given, "Message must contain at least one part")
    require(len(given) <= MAX_PARTS, f"Message must contain at most {MAX_PARTS} parts")
    for name in ("messageId", "role"):
        require(raw.get(name), f"Missing required '{name}' in message")
    for name in ("contextId", "taskId"):
        require(isinstance(raw.get(name) or "", str), f"{name} must be a string")
    parts = []
    for each in given:
        part = each if isinstance(each, dict) else {}
        if "kind" not in part and ("raw" in part or "url" in part):
            part = {"kind": "file", "file": {old: part[new] for old, new in FILE_WORDS.items() if new in part}}
        kind = part.get("kind") or next((kind for kind in ("text", "data") if kind in part), None)
        known = "Unsupported part type. A2A agents support 'text', 'data', and 'file' parts only."
        require(kind in ("text", "data", "file"), known, -32005)
        parts.append({**part, "kind": kind})
    role = str(raw["role"]).removeprefix("ROLE_").lower()
    try:
        return validate(SentMessage, {**raw, "role": role, "parts": parts})
    except Invalid as error:
        raise ProtocolError(INVALID_PARAMS, f"Invalid message: {error}") from None


def read_parts(message: SentMessage) -> tuple[JsonObject, str | list[JsonObject] | None]:
    """Return the data parts of a message as one object, and its texts and files, if there are any, as the content of a
    chat message."""
    data: JsonObject = {}
    blocks: list[JsonObject] = []
    for part in message.parts:
        data |= part.data or {}
        if part.text is not None:
            blocks.append({"type": "text", "text": part.text})
        elif file := part.file:
            kind = (file.mime_type or "").partition("/")[0]
            source = {"url": file.uri} if file.bytes is None else {"base64": file.bytes}
            mime_type = {"mime_type": file.mime_type} if file.mime_type else {}
            name = {"extras": {"filename": file.name}} if file.name else {}
            kind = kind if kind in ("image", "audio", "video") else "file"
            blocks.append({"type": kind, **source, **mime_type, **name})
    if blocks and all(block["type"] == "text" for block in blocks):
        return data, "\n".join(block["text"] for block in blocks)
    return data, blocks or None


def graph_input(message: SentMessage, task_id: str) -> JsonObject:
    """Return a graph's input: the data parts, with the texts and files as one more of `messages`."""
    data, content = read_parts(message)
    if content is None:
        return data
    known = data.get("messages", [])
    new = {
        "role": "human" if message.role == "user" else "ai",
        "content": content,
        "id": message.message_id,
        "additional_kwargs": {"a2a": {"task_start_id": task_id}},
    }
    return {**data, "messages": [*(known if isinstance(known, list) else [known]), new]}


def task_answer(message: SentMessage, task_id: str, asked: list[str]) -> JsonObject:
    """Return the command that answers a task's questions with `resume` of the data, else the text, else all the data;
    what is left of the message is the command's update. `asked` are the ids of the questions. Raises ProtocolError if
    there are several and the answer does not name them."""
    data, content = read_parts(message)
    update: JsonObject = {}
    if "resume" in data:
        update = graph_input(message, task_id)
        resume = update.pop("resume")
    elif content is not None:
        resume, update = content, data
    else:
        resume = data
    is_clear = len(asked) < 2 or (isinstance(resume, dict) and resume and set(resume) <= set(asked))
    require(is_clear, f"Several inputs are required: send {{'resume': {{id: answer}}}} with ids of {asked}")
    return {"resume": resume, "update": update} if update else {"resume": resume}


# tasks for clients


def message_parts(message: JsonObject) -> list[JsonObject]:
    """Return the content of a thread's message as A2A parts: its texts and files, or a tool's result."""
    content, parts = message.get("content"), list[JsonObject]()
    if message.get("type") == "tool":
        result = {key: message.get(key) for key in ("content", "name", "status")}
        return [{"kind": "data", "data": {"tool_results": [{**result, "toolCallId": message.get("tool_call_id")}]}}]
    for block in content if isinstance(content, list) else [content]:
        text = block.get("text") if isinstance(block, dict) else block
        if isinstance(text, str):
            parts += [{"kind": "text", "text": text}] if text else []
        elif isinstance(block, dict):
            known = {**block, "filename": (block.get("extras") or {}).get("filename")}
            words = {"bytes": "base64", "uri": "url", "mimeType": "mime_type", "name": "filename"}
            file = {word: known.get(key) for word, key in words.items()}
            file = {word: value for word, value in file.items() if isinstance(value, str) and value}
            parts += [{"kind": "file", "file": file}] if "bytes" in file or "uri" in file else []
    return parts


def conversation(thread: Thread) -> list[JsonObject]:
    """Return the messages of a thread that have any content, each with the task that it belongs to, if any."""
    said, task_id, values = [], None, thread.output
    messages = values.get("messages") if isinstance(values, dict) else None
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        with contextlib.suppress(AttributeError, TypeError, LookupError):  # not a message
            is_user = message["type"].lower().startswith("human")
            marks = (message.get("additional_kwargs") or {}).get("a2a")
            start = marks.get("task_start_id") if isinstance(marks, dict) else None
            if start or is_user:
                task_id = f"{thread.thread_id}:{start}" if start else None
            parts = message_parts(message)
            if parts and message["type"] != "system":
                ids = {"contextId": thread.thread_id, **({"taskId": task_id} if task_id else {})}
                said.append(message_value(message.get("id") or number, "user" if is_user else "agent", parts, ids))
    return said


def message_value(message_id: Any, role: str, parts: list[JsonObject], ids: JsonObject) -> JsonObject:
    return {"kind": "message", "messageId": str(message_id), "role": role, "parts": parts, **ids}


def task_ids(run: Run) -> JsonObject:
    """Return the ids of a run's task and of its context, which is the thread."""
    return {"contextId": run.thread_id, "taskId": f"{run.thread_id}:{run.task_id}"}


def task_status(run: Run, state: str, parts: list[JsonObject], timestamp: str) -> JsonObject:
    """Return a task's status, with a message of the agent if there are parts."""
    said = {"message": message_value(uuid.uuid4(), "agent", parts, task_ids(run))} if parts else {}
    return {"state": state, **said, "timestamp": timestamp}


def present_status(task: Task, thread: Thread, note: str = "") -> JsonObject:
    """Return a task's status with a text: its error, that it was canceled, else `note`."""
    if task.state == "failed":
        error = thread.error if task.latest else None
        note = f"Error executing assistant{': ' + failure_text(error) if error else ''}"
    elif task.state == "canceled":
        note = "Task was canceled"
    parts = [{"kind": "text", "text": note}] if note else []
    return task_status(task.run, task.state, parts, task.run.updated_at)


def task_artifacts(call: AgentCall, task: Task, thread: Thread, history: list[JsonObject]) -> list[JsonObject]:
    """Return the result of a task in a list, empty if it has none: the questions that it asks, else the agent's last
    message, else the graph's values, if no later run has changed them."""
    name, description, parts = "Interrupt", "Agent requires input to continue", []
    if task.state == "input-required":
        parts = [{"kind": "data", "data": question} for question in questions(thread)]
    elif task.state == "completed":
        name, description = "Assistant Response", f"Response from assistant {call.assistant.assistant_id}"
        mine = (task_ids(task.run)["taskId"], "agent")
        for said in history:
            if (said.get("taskId"), said["role"]) == mine and said["parts"][0]["kind"] != "data":
                parts = said["parts"]
        if task.latest and not parts:
            parts = [{"kind": "text", "text": repr(thread.output)}]
    artifact_id = str(uuid.uuid5(uuid.UUID(task.run.run_id), "artifact"))
    return [{"artifactId": artifact_id, "name": name, "description": description, "parts": parts}] if parts else []


def task_object(run: Run, status: JsonObject, history: list[JsonObject], length: int | None) -> JsonObject:
    """Return a task with the last `length` messages of its history."""
    ids = task_ids(run)
    kept = {} if length == 0 else {"history": history[-(length or 0) :]}
    return {"kind": "task", "id": ids["taskId"], "contextId": ids["contextId"], "status": status, **kept}


def present_task(call: AgentCall, task: Task, thread: Thread, length: int | None, note: str = "") -> JsonObject:
    """Return a task with its status, its artifacts, and the history of its context or of the task alone."""
    history, task_id = conversation(thread), task_ids(task.run)["taskId"]
    if call.scope() == "task":
        history = [message for message in history if message.get("taskId") == task_id]
    made = task_artifacts(call, task, thread, history)
    shown = task_object(task.run, present_status(task, thread, note), history, length)
    return {**shown, "artifacts": made} if made else shown


# the methods


async def find_task(call: AgentCall, name: str, context: str | None, where: str = "") -> tuple[Task, Thread]:
    """Return a task of the agent by `THREAD:RUN`, or by the run's id and its context. Raises ProtocolError."""
    thread_id, _, task_id = name.rpartition(":")
    task = None
    with contextlib.suppress(Invalid, NotFound):
        thread_id = to_uuid(thread_id or context or "", "thread")
        limits = await allow_thread(call.server, thread_id)
        thread = call.server.db.look(lambda conn: Threads(conn).require(thread_id, limits))
        task_id = to_uuid(task_id, "run")
        if not context or to_uuid(context, "thread") == thread.thread_id:
            task = call.server.db.look(lambda conn: Tasks(conn).get(thread.thread_id, task_id))
    if task is None or task.run.assistant_id != call.assistant.assistant_id:
        raise ProtocolError(-32001, f"Task not found: {name}{where}")
    return task, thread


async def start_task(call: AgentCall, message: SentMessage, follower: Follower | None) -> tuple[Run, EventLog]:
    """Start a run for a message, as a new task or of the task that the message names. Raises ProtocolError."""
    server, assistant, run_id = call.server, call.assistant, new_id()
    thread_id, task_id, command = message.context_id or new_id(), run_id, None
    if read_parts(message)[1] is not None:
        fields = list((await input_schema(server, assistant)).get("properties", {}))
        require(
            "messages" in fields,
            f"Assistant '{assistant.assistant_id}' (graph '{assistant.graph_id}') does not support A2A "
            "conversational messages. Graph input schema must include a 'messages' field to accept text or file "
            f"parts. Available input fields: {fields}",
        )
    if message.task_id:
        task, thread = await find_task(call, message.task_id, message.context_id)
        require(task.state not in FINAL_STATES, "A terminal task cannot accept another message", -32004)
        thread_id, task_id = thread.thread_id, str(task.run.task_id)
        if task.state == "input-required":
            command = task_answer(message, task_id, [each["id"] for each in questions(thread)])
    body = {
        "assistant_id": assistant.assistant_id,
        "metadata": {"a2a": {"task_start_id": task_id}},
        "if_not_exists": "create",
        "stream_mode": ["values", "messages"] if follower else ["values"],
        **({"command": command} if command else {"input": graph_input(message, task_id)}),
    }
    try:
        checked = validate(RunCreateStateful, body)
        new = await new_run(server, thread_id, checked, run_id=run_id, task_id=task_id)
        run_log = server.runner.logs.of_run(new.run_id, follower)
        [run] = await server.runner.create(new)
        return run, run_log
    except ApiError as error:
        detail = "Invalid thread ID" if isinstance(error, InvalidId) else error.detail
        raise ProtocolError(INVALID_PARAMS, f"Failed to create run: {detail}") from None


async def wait_for_task(call: AgentCall, run: Run, run_log: EventLog) -> tuple[Task, Thread]:
    """Wait for the end of a task's run. Return the task, and the thread as that run left it. Raises ProtocolError."""
    await wait_for_end(call.server, run, run_log)
    task, thread = await find_task(call, task_ids(run)["taskId"], None)
    if task.run.run_id == run.run_id:  # later runs may have changed the thread
        values = thread.output if run_log.last_values is MISSING else run_log.last_values
        error = thread.error if run_log.error is None else from_json(run_log.error)
        thread = replace(thread, state=to_json(values).decode(), output_keys=None, error=error)
        task = replace(task, latest=True)
    return task, thread


async def send_message(call: AgentCall) -> JsonObject | Response:
    """Start a task, or go on with one. Answer with a stream of updates, at once, or when the task's run is over."""
    options = call.params.get("configuration") or {}
    require(isinstance(options, dict), "configuration must be an object")
    pushes = options.get("pushNotificationConfig") or options.get("taskPushNotificationConfig")
    require(not pushes, "Push notifications are not supported", -32003)
    length, message = call.length(options), read_message(call)
    follower = Follower() if call.streams else None
    run, run_log = await start_task(call, message, follower)
    said = {"kind": "message", **message.model_dump(by_alias=True, exclude_none=True), **task_ids(run)}
    submitted = task_object(run, task_status(run, "submitted", [], run.updated_at), [said], length)
    if follower:
        return task_stream(call, submitted, run, run_log, follower)
    if options.get("blocking") is False or options.get("returnImmediately") is True:
        return call.wrapped(submitted)
    return call.wrapped(present_task(call, *await wait_for_task(call, run, run_log), length))


async def resubscribe_task(call: AgentCall) -> Response:
    task, thread = await find_task(call, call.task_id(), call.text("contextId"))
    first, follower = present_task(call, task, thread, call.length({})), Follower()
    run_log = await live_log(call.server, task.run, follower)
    if run_log is None:
        raise ProtocolError(-32004, f"There is nothing to follow: the task is {task.state}")
    return task_stream(call, first, task.run, run_log, follower)


def task_stream(call: AgentCall, first: JsonObject, run: Run, run_log: EventLog, follower: Follower) -> Response:
    frames = with_heartbeats(task_answers(call, first, run, run_log, follower), follower, rpc_frame)
    return CutResponse(frames, headers=STREAM_HEADERS | {"content-type": "text/event-stream"})


async def task_answers(
    call: AgentCall, first: JsonObject, run: Run, run_log: EventLog, follower: Follower
) -> AsyncIterator[list[JsonObject]]:
    """Yield a task's updates in batches while its run is live, then its artifacts and final status."""

    def answer(made: JsonObject) -> JsonObject:
        return rpc_answer(call.rpc_id, "result", call.wrapped(made))

    def told(status: JsonObject, final: bool) -> JsonObject:
        return answer({"kind": "status-update", "status": status, "final": final, **task_ids(run)})

    yield [answer(first)]
    said: list[JsonObject] = []
    async for batch in run_log.follow(follower):
        answers = []
        for event in batch:
            if event.name in ("messages/partial", "messages/complete"):
                (message,) = from_json(event.data)  # as it has grown so far
                parts = message_parts(message) if message["type"].lower().startswith("ai") else []
                if parts and parts != said:
                    answers.append(told(task_status(run, "working", parts, now()), final=False))
                    said = parts
        yield answers
    try:
        task, thread = await wait_for_task(call, run, run_log)
    except ProtocolError as error:
        yield [rpc_answer(call.rpc_id, "error", error.value())]
        return
    whole = {"append": False, "lastChunk": True} if task.state == "completed" else {}
    for artifact in task_artifacts(call, task, thread, conversation(thread)):
        yield [answer({"kind": "artifact-update", "artifact": artifact, **whole, **task_ids(run)})]
    yield [told(present_status(task, thread), final=True)]


async def get_task(call: AgentCall) -> JsonObject:
    name, context, length = call.task_id(), call.text("contextId"), call.length(call.params)
    task, thread = await find_task(call, name, context, f" in context '{context}'" if context else "")
    note = "Task completed successfully" if task.state == "completed" else ""
    return {**call.value(present_task(call, task, thread, length, note)), "id": name}


async def cancel_task(call: AgentCall) -> JsonObject:
    """Cancel a task: its live runs, or the question that it asks. Raises ProtocolError."""
    server, name, context, length = call.server, call.task_id(), call.text("contextId"), call.length({})
    task, thread = await find_task(call, name, context)
    limits = await allow_thread(server, thread.thread_id, "threads.update", action="interrupt")
    server.db.look(lambda conn: Threads(conn).require(thread.thread_id, limits))
    before, run = task.state, task.run

    def end_waiting(conn: sqlite3.Connection) -> bool:
        waiting = Tasks(conn).waiting(run.thread_id)
        if waiting is None or waiting.run.run_id != run.run_id:  # answered meanwhile
            return False
        Runs(conn).set_status(run.run_id, "interrupted")
        return True

    if before == "input-required":
        if await server.db.write(end_waiting):
            no_tasks = langgraph_types.StateUpdate(None, END, None)  # LangGraph's way to drop a question
            with contextlib.suppress(Conflict):  # another run is live already
                await change_state(server, thread, place_config(thread.thread_id), lambda graph: [[no_tasks]])
    elif before not in FINAL_STATES:
        live = server.db.look(lambda conn: Runs(conn).live(thread.thread_id))
        mine = [each for each in live if each.task_id == run.task_id]
        logs = [await live_log(server, each) for each in mine]
        reason = "canceled by its client"
        await server.runner.cancel([(each.thread_id, each.run_id) for each in mine], "interrupt", reason)
        for run_log in filter(None, logs):
            await run_log.ended()
    task, thread = await find_task(call, name, context)
    is_canceled = before not in FINAL_STATES and task.state == "canceled"
    require(is_canceled, "Task is not cancelable in its current state", -32002)
    return {**call.value(present_task(call, task, thread, length)), "id": name}


async def list_tasks(call: AgentCall) -> JsonObject:
    """Return a page of the agent's tasks, the last changed first. Raises ProtocolError."""
    server, size, length = call.server, call.params.get("pageSize", A2A_PAGE), call.length(call.params)
    require(type(size) is int and 1 <= size <= A2A_PAGE, f"pageSize must be an integer between 1 and {A2A_PAGE}.")
    token, state, since = call.text("pageToken") or "0", call.text("status"), call.text("statusTimestampAfter")
    require(re.fullmatch(r"[0-9]{1,18}", token), f"Invalid page token: '{token}'.")
    states = {word: old for old, new in TASK_STATES.items() for word in (old, new)}
    require(state in ("", *states), f"Invalid status value: '{state}'.")
    thread_id, at = call.text("contextId"), moment(parse_moment(since, "statusTimestampAfter")) if since else None
    found = (call.assistant.assistant_id, thread_id or None, states.get(state), at, size, int(token))
    limits = await allow(server, "threads.search", {"metadata": {}})
    page, total = await server.db.read(lambda conn: Tasks(conn).search(limits, *found))
    allowed = {}
    for place in {task.run.thread_id for task in page}:
        allowed[place] = await allow(server, "threads.read", {"thread_id": uuid.UUID(place), "metadata": {}})

    def shown(conn: sqlite3.Connection) -> Iterator[JsonObject]:
        for task in page:
            if thread := Threads(conn).get(task.run.thread_id, allowed[task.run.thread_id]):  # else deleted meanwhile
                made = call.value(present_task(call, task, thread, length))
                artifacts = made.get("artifacts", []) if call.params.get("includeArtifacts") else []
                yield {**made, "artifacts": artifacts}

    tasks = await server.db.read(lambda conn: list(shown(conn)))
    following = str(int(token) + size) if int(token) + size < total else ""
    return {"tasks": tasks, "totalSize": total, "pageSize": len(tasks), "nextPageToken": following}


AgentMethod = Callable[[AgentCall], Coroutine[Any, Any, JsonObject | Response]]
AGENT_METHODS: dict[str, AgentMethod] = {
    "message/send": send_message,
    "message/stream": send_message,
    "tasks/get": get_task,
    "tasks/cancel": cancel_task,
    "tasks/resubscribe": resubscribe_task,
    "SendMessage": send_message,
    "SendStreamingMessage": send_message,
    "GetTask": get_task,
    "CancelTask": cancel_task,
    "SubscribeToTask": resubscribe_task,
    "ListTasks": list_tasks,
    "GetExtendedAgentCard": lambda call: agent_card(call.server, call.request, call.assistant),
}
STREAMING_METHODS = ("message/stream", "tasks/resubscribe", "SendStreamingMessage", "SubscribeToTask")


# the card


async def agent_card(server: Server, request: Request, assistant: Assistant) -> JsonObject:
    """Return an agent's card. Its URL has the IP address that the client reached, not the name that it used."""
    schema = await input_schema(server, assistant)
    fields = list(schema.get("properties", {}))
    scope = request.scope
    host, port = scope["server"]
    host = f"[{host}]" if ":" in host else host
    url = f"{scope['scheme']}://{host}:{port}{scope.get('root_path', '')}/a2a/{assistant.assistant_id}"
    description = assistant.description or f"{assistant.name} assistant"
    modes = assistant.metadata.get("a2a")
    modes = modes if isinstance(modes, dict) else {}
    inputs, outputs = (modes.get(key) or ["application/json", "text/plain"] for key in ("input_modes", "output_modes"))
    takes = {"required": schema.get("required", []), "properties": fields, "supportsA2A": "messages" in fields}
    # fmt: off
    return {
        "name": assistant.name, "description": description, "url": url, "version": __version__,
        "supportedInterfaces": [{"protocolBinding": "JSONRPC", "protocolVersion": "1.0", "url": url}],
        "capabilities": {
            "streaming": True, "pushNotifications": False, "stateTransitionHistory": False,
            "extensions": [{
                "uri": "https://langchain.com/a2a/extensions/history-scope/v1", "required": False,
                "description": "Choose task-only or full-context response history",
                "params": {
                    "header": A2A_SCOPE_HEADER, "values": list(A2A_SCOPES), "default": A2A_SCOPES[0],
                    "methods": ["SendMessage", "GetTask", "ListTasks"],
                },
            }],
        },
        "defaultInputModes": inputs, "defaultOutputModes": outputs,
        "skills": [{
            "id": f"{assistant.assistant_id}-main", "name": f"{assistant.name} Capabilities",
            "description": description, "tags": ["assistant", "langgraph"], "examples": [],
            "inputModes": inputs, "outputModes": outputs, "metadata": {"inputSchema": takes},
        }],
    }
    # fmt: on


async def get_agent_card(call: Call) -> Response:
    """Return the agent card of the assistant that path or query name."""
    try:
        name = call.request.path_params.get("assistant_id") or call.query["assistant_id"] or ""
        return reply(await agent_card(call.server, call.request, await find_agent(call.server, name)))
    except Refused:
        raise
    except (ProtocolError, ApiError) as error:
        return reply({"error": rpc_error(error)}, 400)


########################################################################################################
# 14  App
########################################################################################################

Handler = Callable[[Call], Coroutine[Any, Any, Any]]


class Operation(NamedTuple):
    """One operation of the API: its route, its handler, who may use it, and what it takes and gives.

    `rule` says what an application's Auth decides on: nothing (`open`: health checks have no token), actions such as
    `threads.read`, or whatever the handler asks it (`inside`). Without a rule the operation is refused. `query` and
    `headers` are lists of PARAMETER. `also` lists further statuses, as `status=type`, besides `status` and those that
    all operations of its kind have. Unless `parsed`, the handler reads the body itself, and answers an invalid one in
    its protocol's form. `name` is the operation's id, if another has the same handler.
    """

    method: str
    path: str
    handler: Handler
    rule: str = ""
    body: Any = None
    returns: str | None = None
    status: int = 200
    query: str = ""
    also: str = ""
    headers: str = ""
    parsed: bool = True
    name: str = ""


# fmt: off
ROUTES = [
    Operation("GET", "/ok", ok, "open", None, "Health", query="check_db:count=0", also="400 422"),
    Operation("GET", "/info", info, "open", None, "Info"),
    Operation("GET", "/metrics", metrics, "open", None, "text|Metrics", query="format:MetricsFormat=prometheus"),
    Operation("POST", "/assistants", create_assistant, "assistants.create", AssistantCreate, "Assistant",
        also="400 404 409"),
    Operation("POST", "/assistants/search", search_assistants, "assistants.search", AssistantSearchRequest,
        "[AssistantPart]", also="404"),
    Operation("POST", "/assistants/count", count_assistants, "assistants.search", AssistantCountRequest, "integer",
        also="404"),
    Operation("GET", "/assistants/{assistant_id}", get_assistant, "assistants.read", None, "Assistant", also="404"),
    Operation("PATCH", "/assistants/{assistant_id}", update_assistant, "assistants.update", AssistantPatch, "Assistant",
        also="400 404"),
    Operation("DELETE", "/assistants/{assistant_id}", delete_assistant, "assistants.delete", status=204,
        query="delete_threads:flag", also="404"),
    Operation("GET", "/assistants/{assistant_id}/graph", get_assistant_graph, "assistants.read", None, "GraphDrawing",
        query="xray:xray", also="404"),
    Operation("GET", "/assistants/{assistant_id}/schemas", get_assistant_schemas, "assistants.read", None,
        "GraphSchema", also="404"),
    Operation("GET", "/assistants/{assistant_id}/subgraphs", get_assistant_subgraphs, "assistants.read", None,
        "Subgraphs", query="recurse:flag", also="404"),
    Operation("GET", "/assistants/{assistant_id}/subgraphs/{namespace}", get_assistant_subgraphs, "assistants.read",
        None, "Subgraphs", query="recurse:flag", also="404", name="get_assistant_subgraphs_of_namespace"),
    Operation("POST", "/assistants/{assistant_id}/versions", list_assistant_versions, "assistants.read",
        AssistantVersionsSearchRequest, "[AssistantVersion]", also="404"),
    Operation("POST", "/assistants/{assistant_id}/latest", set_latest_assistant, "assistants.update",
        AssistantVersionChange, "Assistant", also="404"),
    Operation("POST", "/threads", create_thread, "threads.create", ThreadCreate, "Thread",
        also="201=ErrorResponse 400 404 409"),
    Operation("POST", "/threads/search", search_threads, "threads.search", ThreadSearchRequest, "[ThreadPart]",
        also="400"),
    Operation("POST", "/threads/count", count_threads, "threads.search", ThreadCountRequest, "integer"),
    Operation("POST", "/threads/prune", prune_threads, "inside", ThreadPruneRequest, "ThreadPruneResponse"),
    Operation("GET", "/threads/{thread_id}", get_thread, "threads.read", None, "Thread", query="include:[string]",
        also="404"),
    Operation("PATCH", "/threads/{thread_id}", update_thread, "threads.update", ThreadPatch, "Thread", also="204 404",
        headers="Prefer:string"),
    Operation("DELETE", "/threads/{thread_id}", delete_thread, "threads.delete", status=204, also="404"),
    Operation("POST", "/threads/{thread_id}/copy", copy_thread, "threads.read", None, "Thread", also="409"),
    Operation("GET", "/threads/{thread_id}/storage", get_thread_storage, "threads.read", None, "ThreadStorage",
        also="404"),
    Operation("GET", "/threads/{thread_id}/stream", join_thread_stream, "threads.read", None, "stream",
        query="stream_modes:[ThreadStreamMode]=run_modes stream_mode:[ThreadStreamMode]",
        headers="Last-Event-ID:place"),
    Operation("GET", "/threads/{thread_id}/state", get_state, "threads.read", None, "ThreadState",
        query="subgraphs:flag", also="404"),
    Operation("POST", "/threads/{thread_id}/state", update_state, "threads.update", ThreadStateUpdate,
        "ThreadStateUpdateResponse", also="400 404 409"),
    Operation("PATCH", "/threads/{thread_id}/state", update_thread, "threads.update", ThreadPatch, status=204,
        also="404", name="patch_state"),
    Operation("POST", "/threads/{thread_id}/state/checkpoint", get_state, "threads.read",
        ThreadStateCheckpointRequest, "ThreadState", also="404", name="get_state_at_checkpoint"),
    Operation("GET", "/threads/{thread_id}/state/{checkpoint_id}", get_state, "threads.read", None, "ThreadState",
        query="subgraphs:flag", also="404", name="get_state_at"),
    Operation("GET", "/threads/{thread_id}/history", get_history, "threads.read", None, "[ThreadState]",
        query="limit:limit=1 before:string", also="404"),
    Operation("POST", "/threads/{thread_id}/history", get_history, "threads.read", ThreadStateSearch,
        "[ThreadState]", also="400 404", name="search_history"),
    Operation("GET", "/threads/{thread_id}/runs", list_runs, "threads.read threads.search", None, "[RunPart]",
        query="limit:count=10 offset:count=0 status:RunStatus select:[RunField]", also="400 404"),
    Operation("POST", "/threads/{thread_id}/runs", create_run, "inside", RunCreateStateful, "Run", also="400 404 409"),
    Operation("POST", "/threads/{thread_id}/runs/stream", stream_run, "inside", RunCreateStateful, "stream",
        also="400 404 409"),
    Operation("POST", "/threads/{thread_id}/runs/wait", wait_run, "inside", RunCreateStateful, "any",
        also="400 404 409"),
    Operation("GET", "/threads/{thread_id}/runs/{run_id}", get_run, "threads.read", None, "Run", also="404"),
    Operation("DELETE", "/threads/{thread_id}/runs/{run_id}", delete_run, "threads.delete", status=204, also="404"),
    Operation("GET", "/threads/{thread_id}/runs/{run_id}/join", join_run, "threads.read", None, "any",
        query="cancel_on_disconnect:flag"),
    Operation("GET", "/threads/{thread_id}/runs/{run_id}/stream", join_run_stream, "threads.read", None, "stream",
        query="cancel_on_disconnect:flag stream_mode:[StreamMode]", headers="Last-Event-ID:string"),
    Operation("POST", "/threads/{thread_id}/runs/{run_id}/cancel", cancel_run, "threads.update", status=202,
        query="action:CancelAction=interrupt wait:flag", also="200=object 404"),
    Operation("POST", "/threads/{thread_id}/commands", send_command, "inside", ProtocolCommand, "ProtocolAnswer",
        also="400=object", parsed=False),
    Operation("POST", "/threads/{thread_id}/stream/events", stream_events, "threads.read", ProtocolEventStreamRequest,
        "stream", also="400", parsed=False),
    Operation("POST", "/runs", create_run, "inside", RunCreateStateless, "Run", also="400 404",
        name="create_stateless_run"),
    Operation("GET", "/runs", list_runs, "threads.read threads.search", None, "[RunPart]",
        query="limit:count=10 offset:count=0 status:RunStatus select:[RunField]", also="400 422", name="list_all_runs"),
    Operation("POST", "/runs/stream", stream_run, "inside", RunCreateStateless, "stream", also="400 404",
        name="stream_stateless_run"),
    Operation("POST", "/runs/wait", wait_run, "inside", RunCreateStateless, "any", also="400 404",
        name="wait_stateless_run"),
    Operation("POST", "/runs/batch", create_run_batch, "inside", list[RunCreateStateless], "[Run]", also="400 404",
        parsed=False),
    Operation("POST", "/runs/cancel", cancel_runs, "inside", RunsCancel, status=204,
        query="action:CancelAction=interrupt", also="404"),
    Operation("POST", "/runs/crons", create_cron, "crons.create", CronCreate, "Cron", also="400 404"),
    Operation("POST", "/runs/crons/search", search_crons, "crons.search", CronSearch, "[CronPart]"),
    Operation("POST", "/runs/crons/count", count_crons, "crons.search", CronCountRequest, "integer"),
    Operation("GET", "/runs/crons/{cron_id}", get_cron, "crons.read", None, "Cron", also="404"),
    Operation("PATCH", "/runs/crons/{cron_id}", update_cron, "crons.update", CronPatch, "Cron", also="400 404"),
    Operation("DELETE", "/runs/crons/{cron_id}", delete_cron, "crons.delete", status=204, also="404"),
    Operation("POST", "/runs/crons/{cron_id}/fire", fire_cron, "crons.update", None, "Run", also="400 404 409"),
    Operation("POST", "/threads/{thread_id}/runs/crons", create_cron, "crons.create", CronCreate, "Cron",
        also="400 404", name="create_cron_for_thread"),
    Operation("POST", "/mcp/", call_mcp, "inside", JsonObject, "object", also="202 307 400=object", parsed=False),
    Operation("GET", "/mcp/", get_mcp, "inside", status=405, also="307"),
    Operation("DELETE", "/mcp/", delete_mcp, "inside", status=404, also="307"),
    Operation("POST", "/a2a/{assistant_id}", call_agent, "inside", JsonObject, "object|stream", also="202 400=object",
        parsed=False),
    Operation("GET", "/a2a/{assistant_id}", get_agent_card, "inside", None, "object", also="400=object"),
    Operation("GET", "/.well-known/agent-card.json", get_agent_card, "inside", None, "object",
        query="assistant_id!:uuid", also="400=object", name="find_agent_card"),
    Operation("PUT", "/store/items", put_item, "inside", StorePutRequest, status=204,
        also="400 422=text|ErrorResponse"),
    Operation("GET", "/store/items", get_item, "inside", None, "Item?",
        query="namespace!:string key!:string refresh_ttl:flag", also="400=object 422=text"),
    Operation("DELETE", "/store/items", delete_item, "inside", StoreDeleteRequest, status=204,
        also="422=text|ErrorResponse"),
    Operation("POST", "/store/items/search", search_items, "inside", StoreSearchRequest, "SearchItemsResponse",
        also="400 422=text|ErrorResponse"),
    Operation("POST", "/store/namespaces", list_item_namespaces, "inside", StoreListNamespacesRequest,
        "ListNamespaceResponse", also="422=text|ErrorResponse"),
]
# fmt: on

# The GETs that may change something: the query flag that makes them do so, and whether it is set by default.
CHANGED_BY: dict[Handler, tuple[str, bool]] = {
    join_run: ("cancel_on_disconnect", False),
    join_run_stream: ("cancel_on_disconnect", False),
    get_item: ("refresh_ttl", True),  # the item may live longer
}


# The types that operations return, for the OpenAPI document: their fields with types. "?" after a name means that the
# field may be missing, after a type that it may be null.
# fmt: off
RESPONSES: dict[str, dict[str, str]] = {
    "Health": {"ok": "boolean", "services": "object"},
    "Info": {"version": "string", "langgraph_py_version": "string", "flags": "{boolean}", "host": "object",
        "database": "string?", "reloads": "integer"},
    "Metrics": {"queue": "{number}", "api": "object", "workers": "{integer}"},
    "Assistant": {
        "assistant_id": "uuid", "graph_id": "string", "name": "string", "description": "string?",
        "config": "object", "context": "object", "metadata": "object", "version": "integer",
        "created_at": "date-time", "updated_at": "date-time",
    },
    "GraphDrawing": {"nodes": "[object]", "edges": "[object]"},
    "Thread": {
        "thread_id": "uuid", "created_at": "date-time", "updated_at": "date-time", "state_updated_at": "date-time",
        "metadata": "object", "config": "object", "status": "ThreadStatus", "values?": "any",
        "interrupts?": "{[Interrupt]}", "error?": "object?",
    },
    "Run": {
        "run_id": "uuid", "thread_id": "uuid", "assistant_id": "uuid", "created_at": "date-time",
        "updated_at": "date-time", "metadata": "object", "status": "RunStatus", "kwargs": "object",
        "multitask_strategy": "MultitaskStrategy", "langsmith_session_name": "null",
    },
    "Cron": {
        "cron_id": "uuid", "assistant_id": "uuid", "thread_id": "uuid?", "user_id": "string", "schedule": "string",
        "timezone": "string?", "end_time": "string?", "payload": "object", "next_run_date": "date-time",
        "metadata": "object", "on_run_completed": "OnCompletion?", "enabled": "boolean", "created_at": "date-time",
        "updated_at": "date-time",
    },
    "ThreadState": {
        "values": "any", "next": "[string]", "tasks": "[ThreadTask]", "metadata": "object?",
        "created_at": "date-time?", "checkpoint": "Checkpoint?", "parent_checkpoint": "Checkpoint?",
        "interrupts": "[Interrupt]", "checkpoint_id": "string?", "parent_checkpoint_id": "string?",
    },
    "ThreadTask": {
        "id": "string", "name": "string", "path": "[any]", "error": "any", "interrupts": "[Interrupt]",
        "checkpoint": "Checkpoint?", "state": "ThreadState?", "result": "any",
    },
    "Checkpoint": {
        "thread_id": "uuid", "checkpoint_ns?": "string", "checkpoint_id?": "string", "checkpoint_map?": "object",
    },
    "ThreadStateUpdateResponse": {
        "checkpoint": "Checkpoint", "configurable": "Checkpoint", "checkpoint_id": "string",
    },
    "ThreadStorage": {
        "thread_id": "uuid", "total_bytes": "integer", "checkpoints": "Size", "channel_values": "ChannelSize",
        "pending_writes": "Size",
    },
    "Size": {"count": "integer", "bytes": "integer"},
    "ChannelSize": {"count": "integer", "bytes": "integer", "by_channel": "{{integer}}"},
    "ThreadPruneResponse": {"pruned_count": "integer"},
    "GraphSchemaNoId": {
        "input_schema": "object?", "output_schema": "object?", "state_schema": "object?",
        "config_schema": "object?", "context_schema": "object?",
    },
    "Interrupt": {"id": "string", "value": "any"},
    "Item": {
        "namespace": "[string]", "key": "string", "value": "object", "created_at": "date-time",
        "updated_at": "date-time",
    },
    "SearchItemsResponse": {"items": "[FoundItem]"},
    "ListNamespaceResponse": {"namespaces": "[[string]]"},
    "ProtocolAnswer": {
        "type": "ProtocolAnswerType", "id": "integer", "result?": "object", "meta?": "object", "error?": "string",
        "message?": "string",
    },
    "ServerSentEvent": {"event": "string", "data": "string", "id?": "string"},
    "ErrorResponse": {"detail": "string"},
}
# fmt: on
RESPONSES["AssistantVersion"] = {k: typ for k, typ in RESPONSES["Assistant"].items() if k != "updated_at"}
RESPONSES["GraphSchema"] = {"graph_id": "string", **RESPONSES["GraphSchemaNoId"]}
RESPONSES["FoundItem"] = {**RESPONSES["Item"], "score": "number?"}
for _name in ("Assistant", "Thread", "Run", "Cron"):  # `select` leaves out fields
    RESPONSES[f"{_name}Part"] = {f"{key.rstrip('?')}?": typ for key, typ in RESPONSES[_name].items()}
RESPONSES["ThreadPart"]["extracted?"] = "object"

_MEDIA = {"stream": "text/event-stream", "text": "text/plain", "html": "text/html"}
_TYPES: dict[str, JsonObject] = {
    **{name: {"type": name} for name in ("string", "integer", "number", "boolean", "object", "null")},
    **{name: {"type": "string", "format": name} for name in ("uuid", "date-time")},
    **{name: {"type": "string"} for name in ("text", "html")},
    "stream": {"$ref": "#/components/schemas/ServerSentEvent"},
    **{
        name: {"enum": list(typing.get_args(words))}
        for name, words in {
            "RunStatus": RunStatus,
            "ThreadStatus": ThreadStatus,
            "MultitaskStrategy": MultitaskStrategy,
            "OnCompletion": OnCompletion,
            "CancelAction": CancelAction,
            "RunField": RunField,
            "StreamMode": StreamMode,
            "ThreadStreamMode": ThreadStreamMode,
            "MetricsFormat": Literal["prometheus", "json"],
            "ProtocolAnswerType": Literal["success", "error"],
        }.items()
    },
    "any": {},
    "place": {"type": "string", "pattern": r"^(-|[0-9]{1,18}(-[0-9]{1,18})?)$"},
    **{name: {"type": "integer", "minimum": 0, "maximum": SAFE_INTEGER} for name in ("count", "limit")},
    "flag": {"type": "boolean"},
    "xray": {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": 99_999}], "default": False},
}


def _type_schema(name: str) -> JsonObject:
    """Return the JSON schema of a type in ROUTES or RESPONSES; `[T]` is a list, `{T}` an object with values of T."""
    if name.endswith("?"):
        return {"anyOf": [_type_schema(name[:-1]), {"type": "null"}]}
    if name.startswith("["):
        return {"type": "array", "items": _type_schema(name[1:-1])}
    if name.startswith("{"):
        return {"type": "object", "additionalProperties": _type_schema(name[1:-1])}
    return _TYPES.get(name, {"$ref": f"#/components/schemas/{name}"})


def _parameter(place: str, text: str) -> JsonObject:
    """Return a parameter that ROUTES declares, for the OpenAPI document."""
    [(name, must, typ, default)] = PARAMETER.findall(text)
    schema = _type_schema(typ or "string")
    if default:
        value = int(default) if default.isdigit() else default
        schema = {**schema, "default": [value] if typ.startswith("[") else value}
    return {"name": name, "in": place, "required": place == "path" or bool(must), "schema": schema}


def _operation(route: Operation) -> JsonObject:
    """Return an operation for the OpenAPI document."""
    texts = ("checkpoint_id", "namespace", *(["assistant_id"] if route.path.endswith("/graph") else []))
    in_path = [f"{name}:{'string' if name in texts else 'uuid'}" for name in re.findall(r"{(\w+)}", route.path)]
    declared = {"path": in_path, "query": route.query.split(), "header": route.headers.split()}
    answers = {"403": "ErrorResponse"}
    if route.body:
        answers["413"] = "ErrorResponse"
    if route.body or "_id}" in route.path:
        answers["422"] = "ErrorResponse"
    for each in route.also.split():
        status, _, typ = each.partition("=")
        answers[status] = typ or ("ErrorResponse" if status >= "400" else "")
    answers[str(route.status)] = route.returns or ""

    def content(kinds: str) -> JsonObject:
        return {
            _MEDIA.get(kind, "application/json"): {"schema": _type_schema(kind)} for kind in kinds.split("|") if kind
        }

    operation: JsonObject = {
        "operationId": route.name or route.handler.__name__,
        "summary": (route.handler.__doc__ or "").partition("\n")[0],
        "tags": [route.path.split("/")[1]],
        "parameters": [_parameter(place, text) for place, parameters in declared.items() for text in parameters],
        "responses": {
            status: {"description": HTTPStatus(int(status)).phrase, "content": content(kinds)}
            for status, kinds in sorted(answers.items())
        },
    }
    if route.body:
        is_list = typing.get_origin(route.body) is list
        model = "RunBatchCreate" if is_list else "object" if route.body is JsonObject else route.body.__name__
        operation["requestBody"] = {"required": True, "content": content(model)}
    return operation


@functools.cache
def openapi() -> JsonObject:
    """Return the OpenAPI document of ROUTES, made from the models that validate requests."""
    from pydantic.json_schema import models_json_schema

    paths: JsonObject = {}
    for route in [*ROUTES, *(each for each in UNLISTED if each.returns == "html")]:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    bodies = {RunCreateStateless, *(r.body for r in ROUTES if isinstance(r.body, type) and issubclass(r.body, Body))}
    models = [(model, "validation") for model in sorted(bodies, key=operator.attrgetter("__name__"))]
    schemas = models_json_schema(cast(Any, models), ref_template="#/components/schemas/{model}")[1]["$defs"]
    schemas["RunBatchCreate"] = _type_schema("[RunCreateStateless]") | {"minItems": 1, "maxItems": MAX_BATCH}
    schemas["Subgraphs"] = _type_schema("{GraphSchemaNoId}")
    for name, fields in RESPONSES.items():
        schemas[name] = {
            "type": "object",
            "properties": {key.rstrip("?"): _type_schema(typ) for key, typ in fields.items()},
            "required": [key for key in fields if not key.endswith("?")],
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "devserver", "version": __version__, "description": "The LangGraph Server API, locally."},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


async def get_openapi(call: Call) -> JsonObject:
    """Return the OpenAPI document."""
    document, settings, app = copy.deepcopy(openapi()), call.server.settings, call.server.app
    paths, components = document["paths"], document["components"]
    for path in filter(settings.http.disables, [*paths]):
        del paths[path]
    if settings.http.mount_prefix:
        document["servers"] = [{"url": settings.http.mount_prefix}]
    custom = app_openapi(app, components["schemas"]) if app else {"paths": {}, "components": {}}
    for whole, part in ((paths, custom["paths"]), (components, custom["components"])):
        for name, values in part.items():
            whole[name] = {**whole.get(name, {}), **values}
    if security := settings.auth and settings.auth.openapi:
        for path, methods in security.get("paths", {}).items():
            for method, needed in methods.items():
                if operation := paths.get(path, {}).get(method.lower()):
                    operation["security"] = needed
        schemes = {**components.get("securitySchemes", {}), **security.get("securitySchemes", {})}
        components["securitySchemes"], document["security"] = schemes, security.get("security", [])
    return document


def app_openapi(app: Starlette, taken: JsonObject) -> JsonObject:
    """Return paths and components of the user's app: from FastAPI's document, and from routes and docstrings. Schemas
    whose names are `taken` are renamed."""
    from starlette.schemas import SchemaGenerator

    document = app.openapi() if hasattr(app, "openapi") else {}
    text = json.dumps({key: document.get(key, {}) for key in ("paths", "components")})
    twice = document.get("components", {}).get("schemas", {}).keys() & taken.keys()
    for name in twice:
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/App{name}"')
    custom: JsonObject = json.loads(text)
    for name in twice:
        custom["components"]["schemas"][f"App{name}"] = custom["components"]["schemas"].pop(name)
    for path, method, function in SchemaGenerator({}).get_endpoints(app.routes):
        parameters = [_parameter("path", f"{name}:string") for name in re.findall(r"{(\w+)}", path)]
        summary = (inspect.getdoc(function) or function.__name__).partition("\n")[0]
        told = {"summary": summary, "parameters": parameters}
        custom["paths"].setdefault(path, {}).setdefault(method, told)
    return custom


async def get_docs(call: Call) -> Response:
    """Show the API as a web page, which loads nothing from elsewhere."""
    from html import escape

    def models(value: Any) -> str:
        names = dict.fromkeys(re.findall(r"#/components/schemas/(\w+)", str(value)))
        return ", ".join(f'<a href="#{name}">{name}</a>' for name in names)

    document, rows = await get_openapi(call), []
    for path, methods in document["paths"].items():
        for method, each in methods.items():
            takes = [
                models(each.get("requestBody")),
                *(p["name"] for p in each.get("parameters", ()) if p["in"] != "path"),
            ]
            gives = [
                f"{status} {models(said) if status < '300' else ''}"
                for status, said in each.get("responses", {}).items()
            ]
            rows.append(
                f"<tr><td><b>{method.upper()}</b><td><code>{escape(path)}</code><td>{escape(each.get('summary', ''))}"
                f"<td>{', '.join(filter(None, takes))}<td>{' '.join(gives)}"
            )
    schemas = "".join(
        f'<details id="{name}"><summary>{name}</summary><pre>{escape(json.dumps(schema, indent=2))}</pre></details>'
        for name, schema in document["components"]["schemas"].items()
    )
    return HTMLResponse(
        "<!doctype html><html lang=en><meta charset=utf-8><title>devserver</title>"
        "<style>body{font:15px/1.5 system-ui;margin:2rem auto;max-width:90rem;padding:0 1rem}"
        "td{padding:.2rem .8rem .2rem 0;vertical-align:top}pre{background:#f6f6f6;padding:1rem}"
        "summary{cursor:pointer}</style>"
        f"<h1>devserver {__version__}</h1><p>The LangGraph Server API. <a href=openapi.json>openapi.json</a>"
        "<h2>Operations</h2><table><tr><th><th><th><th align=left>takes<th align=left>gives"
        f"{''.join(rows)}</table><h2>Schemas</h2>{schemas}"
    )


@functools.cache
def page_headers() -> dict[str, str]:
    """Return the headers of the page: it may run its own script and style, by hash, and load nothing."""

    def sha256(tag: str) -> str:
        text = PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; script-src {sha256('script')}; style-src {sha256('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
    etag = f'"{hashlib.sha256(PAGE.encode()).hexdigest()[:32]}"'
    return {"content-security-policy": policy, "etag": etag, "cache-control": "no-cache", "vary": "Accept"}


async def get_page(call: Call) -> Response:
    """Show graphs, threads, runs and memory in a browser."""
    headers = page_headers()
    if headers["etag"] in call.request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return HTMLResponse(PAGE, headers=headers)


async def get_root(call: Call) -> Response:
    """Show the page to browsers, tell other clients that the server is up. Outside a mount prefix, redirect to it."""
    if "text/html" not in call.request.headers.get("accept", ""):
        return reply(await ok(call), headers={"vary": "Accept"})
    prefix = call.server.settings.http.mount_prefix
    if not call.request.scope.get("root_path", "").endswith(prefix):
        return RedirectResponse(f"{prefix}/ui", headers={"vary": "Accept"})
    return await get_page(call)


# Operations that the OpenAPI document leaves out (but for its html pages): mostly other paths of those in ROUTES.
UNLISTED = [
    Operation("GET", "/", get_root, "open", None, "Health", query="check_db:count=0"),
    Operation("GET", "/openapi.json", get_openapi, "open", None, "object"),
    Operation("GET", "/docs", get_docs, "open", None, "html"),
    Operation("GET", "/ui", get_page, "open", None, "html", also="304"),
    Operation("POST", "/ui/{assistant_id}", get_ui, "assistants.read"),
    Operation("POST", "/a2a/{assistant_id}/", call_agent, "inside"),
    Operation("GET", "/a2a/{assistant_id}/", get_agent_card, "inside"),
    Operation("GET", "/a2a/{assistant_id}/.well-known/agent-card.json", get_agent_card, "inside"),
    Operation("GET", "/a2a/{assistant_id}/.well-known/agent.json", get_agent_card, "inside"),
    Operation("GET", "/.well-known/agent.json", get_agent_card, "inside", query="assistant_id!:uuid"),
]


def endpoint(operation: Operation) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Return the endpoint of an operation: it authenticates the user, reads and validates the request, asks the
    application's Auth, and only then calls the handler."""
    changes, by_default = CHANGED_BY.get(operation.handler, ("", False))

    async def answer(request: Request) -> Response:
        server: Server = request.app.state.server
        request.scope.setdefault("route", operation)  # old Starlettes do not: Guard counts requests by its path
        call = Call(server, ApiRequest(request.scope, request.receive), operation.query)
        note_headers(server, request)
        auth = None if operation.rule == "open" else server.auth
        if auth:
            await enter(server, call.request)
        if auth and not operation.rule:
            raise Refused(403, "No rule says who may use this operation")
        if changes and (foreign := request.scope.get("foreign")):
            flag = call.query[changes]
            if by_default if flag is None else flag:
                raise Refused(403, foreign)
        if operation.body and operation.parsed:
            call.raw = await call.json()
            call.body = validate(operation.body, call.raw)
        if auth and operation.rule != "inside":
            await decide(call, operation.rule)
        made = await operation.handler(call)
        if isinstance(made, Response):
            return made
        return reply(made, operation.status) if operation.returns else Response(status_code=operation.status)

    return answer


def _route(operation: Operation) -> Route:
    route = Route(operation.path, endpoint(operation), methods=[operation.method])
    if operation.returns == "stream" and route.methods:
        route.methods.discard("HEAD")  # it would keep its connection busy as long as the stream lasts
    return route


def _routes(http: HttpSettings, more: Sequence[Operation]) -> list[BaseRoute]:
    async def not_found(request: Request) -> Response:
        raise NotFound()

    served, methods = [*more, *UNLISTED, *ROUTES], ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    routes: list[BaseRoute] = [_route(each) for each in served if each.rule == "open"]
    for route in routes.copy():  # with other methods, or a slash at the end: 404
        path = cast(Route, route).path
        routes += [Route(each, not_found, methods=methods) for each in (path, f"{path}/")]
    routes.append(WebSocketRoute("/threads/{thread_id}/stream/events", protocol_socket))
    routes += [_route(each) for each in served if each.rule != "open" and each.path != "/mcp/"]
    mcp = {each.method: endpoint(each) for each in served if each.path == "/mcp/"}

    async def call_by_method(request: Request) -> Response:
        return await mcp.get(request.method, mcp["GET"])(request)

    routes.append(Route("/mcp", call_by_method, methods=[*mcp]))
    return [route for route in routes if not http.disables(getattr(route, "path", "").rstrip("/") or "/")]


async def on_error(request: Request, error: Exception) -> Response:
    """Return the response for an exception: the one place where that is decided."""
    if isinstance(error, BadLabel):
        return Response(error.detail, error.status)
    if isinstance(error, ApiError):
        return reply({"detail": error.detail}, error.status, error.headers)
    if isinstance(error, HTTPException):
        headers = {name: ", ".join(sorted(text.split(", "))) for name, text in (error.headers or {}).items()}  # Allow
        return reply({"detail": error.detail}, error.status_code, headers)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)
    # Starlette raises it again after this response, so its traceback is logged, too
    if place := user_line(error):
        log.error("%s %s failed in your code, %s", request.method, request.url.path, place)
        return reply({"detail": f"{type(error).__name__}: {error} (at {os.path.basename(place)})"}, 500)
    log.error("%s %s failed in devserver: please report it", request.method, request.url.path)
    return reply({"detail": "Internal Server Error"}, 500)


class Guard:
    """The outermost middleware. It keeps web pages from elsewhere out: no foreign Host (DNS rebinding), no writes of a
    foreign Origin. It counts answered requests, except health checks, metrics and the like."""

    def __init__(self, app: asgi.ASGIApp, server: Server, neighbours: Neighbours) -> None:
        self.app = app
        self._neighbours = neighbours
        self._loopback, self._answered = server.runner.loopback, server.requests

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        CALLER.set(self._loopback.nobody)
        if scope["type"] == "lifespan":
            self._loopback.state = scope.get("state", self._loopback.state)
            await self.app(scope, receive, send)
            return
        headers, is_http, status = Headers(scope=scope), scope["type"] == "http", 500
        scope["foreign"] = foreign = self._neighbours.foreign(headers)  # for GETs that change something
        problem = None if is_http and scope["method"] in ("GET", "HEAD", "OPTIONS") else foreign
        for host in headers.getlist("host"):  # if there are several, check each
            if not self._neighbours.knows_host(host):
                problem = f"Host '{host}' is not this server's. Allow it in langgraph.json with http.allowed_hosts."

        async def send_varying(message: asgi.Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                varies = any(name.lower() == b"vary" and b"origin" in text.lower() for name, text in message["headers"])
                more = [] if varies else [(b"vary", b"Origin")]
                # a response may repeat what a client sent: no browser may take that for a page
                message["headers"] = [*message["headers"], *more, (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            if problem is None:
                await self.app(scope, receive, send_varying)
            elif is_http:
                status = 403
                await reply({"detail": problem}, status)(scope, receive, send)
            else:  # closed before it is accepted: the client sees a 403
                await send({"type": "websocket.close", "code": 4403, "reason": problem[:120]})
        finally:
            path = getattr(scope.get("route"), "path", "")  # with {names}
            if is_http and path not in (*META_PATHS, "/ok"):
                self._answered[scope["method"], path, status] += 1


# -- the user's app --


class Gate:
    """Middleware of http.app that authenticates requests, except those of open paths."""

    def __init__(self, app: asgi.ASGIApp, server: Server, api: ApiRoute) -> None:
        self.app = app
        self._server = server
        self._api = api

    def _is_open(self, scope: asgi.Scope) -> bool:
        """Return whether a path needs no authentication: health, docs and the like, perhaps the app's own routes."""
        is_covered = self._server.settings.http.enable_custom_route_auth
        if scope["path"].removeprefix(scope.get("root_path", "")) in (*META_PATHS, "/ok"):
            routes = self._server.app.routes if self._server.app else []  # which may serve the same path
            return not is_covered or self._api is next((r for r in routes if r.matches(scope)[0] is Match.FULL), None)
        return self._api.matches(scope)[0] is not Match.FULL and not is_covered

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        auth = self._server.auth
        if auth is None or scope["type"] not in ("http", "websocket") or self._is_open(scope):
            await self.app(scope, receive, send)
            return
        connection: HTTPConnection = HTTPConnection(scope, receive)
        try:
            if scope["type"] == "http":
                connection = request = ApiRequest(scope, receive)
                if "body" in auth.parameters:  # read here, and read again by the app
                    body, following = [await request.body()], receive

                    async def replay() -> asgi.Message:
                        return {"type": "http.request", "body": body.pop()} if body else await following()

                    receive = replay
            await enter(self._server, connection)
        except ApiError as error:
            if scope["type"] == "http":
                await reply({"detail": error.detail}, error.status, error.headers)(scope, receive, send)
            else:
                await deny(WebSocket(scope, receive, send), error)
            return
        await self.app(scope, receive, send)


class ApiRoute(BaseRoute):
    """The API as the last route of the user's app: it matches the paths of the API, and no others."""

    def __init__(self, api: Starlette) -> None:
        self.api = api

    def matches(self, scope: asgi.Scope) -> tuple[Match, asgi.Scope]:
        return max((route.matches(scope)[0] for route in self.api.routes), key=lambda match: match.value), {}

    async def handle(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        inner = dict(scope)  # Starlette puts the API into it as `app`
        await self.api(inner, receive, send)
        scope["route"] = inner.get("route")

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        return self.api.url_path_for(name, **path_params)


def load_app(settings: Settings) -> Starlette | None:
    """Return the application that http.app names, None if it names none. Raises StartError."""
    target = settings.http.app
    if not target:
        return None
    source, _, variable = target.rpartition(":")
    if not source or not variable.isidentifier() or Path(source).suffix in JAVASCRIPT:
        raise StartError(f"{settings.path}: http.app must be 'file.py:variable' or 'module:variable', not '{target}'")
    app = import_object(f"http.app ({target})", target, settings.path)
    if not isinstance(app, Starlette):
        raise StartError(f"http.app ({target}) is a {type(app).__name__}, not a Starlette or FastAPI application")
    return app


# -- the whole --


def _starlette(server: Server, routes: list[BaseRoute], **options: Any) -> Starlette:
    handled: list[type[Exception]] = [ApiError, HTTPException, ClientDisconnect, Exception]
    app = Starlette(routes=routes, exception_handlers={kind: cast(Any, on_error) for kind in handled}, **options)
    app.state.server = server
    return app


def create_app(
    server: Server, host: str = "127.0.0.1", studio: bool = False, more: Sequence[Operation] = ()
) -> asgi.ASGIApp:
    """Return the ASGI application of a started server: Guard around CORS, mount prefix, http.app and the API."""
    server.studio = studio
    http = server.settings.http
    app = _starlette(server, _routes(http, more))
    if server.app:  # in front of the API: its middleware runs for both, its routes come first
        api, app = ApiRoute(app), server.app
        # leave out FastAPI's documents: devserver's include its routes, and load nothing from elsewhere
        documents = {getattr(app, "openapi_url", None), getattr(app, "docs_url", None)} & {*META_PATHS}
        others = [route for route in app.router.routes if getattr(route, "path", "") not in documents]
        app.router.routes[:] = [*others, api]
        app.exception_handlers.setdefault(HTTPException, cast(Any, on_error))
        gate = Middleware(Gate, server=server, api=api)
        if http.middleware_order == "auth_first":  # before the app's own middleware
            app.user_middleware.insert(0, gate)
        elif http.enable_custom_route_auth:
            app.user_middleware.append(gate)
    if http.mount_prefix:
        served = app
        health = [each for each in (*ROUTES, *UNLISTED) if each.path in ("/", "/ok", "/metrics")]
        outside = [_route(each) for each in health if not http.disables(each.path)]
        routes = [Mount(http.mount_prefix, served), *outside]
        app = _starlette(server, routes, lifespan=lambda _: served.router.lifespan_context(served))
    neighbours = Neighbours(http, host, studio)
    server.runner.loopback.app = guard = Guard(CORSMiddleware(app, **neighbours.cors), server, neighbours)
    return guard


def system_configs() -> dict[str, JsonObject]:
    """Return config and context of graphs' own assistants, by graph id, from LANGGRAPH_CONFIG. Raises StartError."""
    from pydantic import TypeAdapter

    try:
        given = TypeAdapter(dict[str, Config]).validate_json(os.environ.get("LANGGRAPH_CONFIG") or "{}")
    except ValidationError as error:
        [problem, *_] = error.errors()
        place, form = ".".join(map(str, problem["loc"])) or "all of it", '{"graph": {"configurable": {...}}}'
        raise StartError(f"LANGGRAPH_CONFIG must be JSON like {form}: {place}: {problem['msg']}") from None
    return {name: config_and_context(AssistantCreate(graph_id=name, config=config)) for name, config in given.items()}


def sync_system_assistants(
    conn: sqlite3.Connection, graphs: Iterable[LoadedGraph], configs: Mapping[str, JsonObject]
) -> None:
    """Make or refresh each graph's own assistant, with an id made from the graph's. Delete those of graphs that are
    gone, unless a user changed them or has crons on them: the graph may come back."""
    known = Assistants(conn).all_made_by_system()
    for loaded in graphs:
        assistant_id, at = system_assistant_id(loaded.spec.graph_id), now()
        old = known.pop(assistant_id, None) or Assistants(conn).get(assistant_id)
        wanted: JsonObject = {"name": loaded.name, "description": loaded.spec.description}
        wanted |= configs.get(loaded.spec.graph_id, {"config": {}, "context": {}})
        if old is None:
            fixed: JsonObject = {"metadata": {"created_by": "system"}, "version": 1, "created_at": at, "updated_at": at}
            Assistants(conn).insert(Assistant(assistant_id, loaded.spec.graph_id, **wanted, **fixed))
        elif not wanted.items() <= vars(old).items() and old.version == 1:
            Assistants(conn).refresh(assistant_id, wanted)
    for assistant_id, gone in known.items():
        is_untouched = gone.version == 1 and not Crons(conn).has_assistant(assistant_id)
        if assistant_id == system_assistant_id(gone.graph_id) and is_untouched:
            Assistants(conn).delete(assistant_id)


DEFERS_LOOPBACK = "__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT"  # makes the SDK look for this process's server at each call


def bind_sdk() -> None:
    """Make get_client() without a URL and langgraph_sdk.cache work in this process.

    The SDK has no public hook for either: it knows langgraph-api only (which may be installed, and is not used). All
    private names of the SDK that devserver replaces are here.
    """
    from langgraph_sdk._async import client
    from langgraph_sdk._shared import utilities

    os.environ[DEFERS_LOOPBACK] = "true"
    hides = sys.modules.setdefault("langgraph_api", cast(Any, None)) is None  # while the cache is imported
    try:
        from langgraph_sdk import cache
    finally:
        if hides:
            del sys.modules["langgraph_api"]
    sdk_client, sdk_cache = cast(Any, client), cast(Any, cache)
    sdk_client.get_asgi_transport = lambda: LoopbackTransport
    sdk_client._registered_transports = deque(maxlen=0)  # a list would keep each client's transport for ever
    sdk_cache._cache_get, sdk_cache._cache_set, sdk_cache._api_swr = CACHE.get, CACHE.set, CACHE.swr
    sdk_cache.SWRResult = SWRResult
    for transport in utilities._registered_transports:  # of clients made earlier
        transport.handle_async_request = LoopbackTransport().handle_async_request  # type: ignore[method-assign]


BACKLOG = 2048  # connections that wait to be accepted


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens for connections. Raises OSError."""
    # asyncio turns Nagle's delay off only where the protocol is named
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # on Windows SO_REUSEADDR lets others share a port that is in use
        option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    close_in_children(listener)
    return listener


async def load_server(settings: Settings, db: Db, max_concurrency: int, address: str) -> Server:
    """Load graphs and http.app, and return a server that runs nothing yet. Raises StartError and Unavailable."""
    await db.write(start_clock)
    bind_sdk()
    loopback = Loopback(address, settings.http.mount_prefix)
    CALLER.set(loopback.nobody)  # for clients that graphs and http.app make at import
    ttl, configs = settings.store.ttl, system_configs()
    saver = Saver(db, settings.checkpointer.serde.serializer())
    store = Store(db, {"default_ttl": ttl.default_ttl, "refresh_on_read": ttl.refresh_on_read})
    graphs = Graphs(settings, saver, store, AppAuth)
    graphs.load()
    app = load_app(settings)
    loopback.loading = False
    if unknown := configs.keys() - graphs.loaded:
        log.warning("LANGGRAPH_CONFIG names graphs that do not exist: %s", ", ".join(sorted(unknown)))
    await db.write(sync_system_assistants, graphs.loaded.values(), configs)
    runner = Runner(db, graphs, saver, WebhookSender(db, settings, address), max_concurrency, loopback)
    store.spawn, store.on_ttl = runner.loop.spawn, runner.items.notice
    return Server(settings, db, saver, store, graphs, runner, app)


async def start_server(settings: Settings, db: Db, max_concurrency: int, address: str) -> Server:
    """Load graphs and http.app, resume unfinished runs, and return the server. Raises StartError and Unavailable."""
    server = await load_server(settings, db, max_concurrency, address)
    db.announce(f"{address}{settings.http.mount_prefix}")
    await server.runner.start()
    return server


async def reload_on_change(server: Server) -> None:
    """Reload graphs when code changes; live runs keep theirs, and an error keeps the last good ones. Never returns."""
    import watchfiles

    known: set[str] = set()  # all folders so far: one that vanishes may come back
    files: dict[str, tuple[int, ...]] = {}  # the source files, as last read
    told = ""  # the last failure, which is not logged again each second
    while True:
        try:
            new, modules, reloaded = server.graphs.folders() - known, len(sys.modules), False
            known |= new
            files |= await asyncio.to_thread(_sources, new)
            there = _inodes(known)
            async for _ in watchfiles.awatch(
                *there,
                watch_filter=_is_source,
                recursive=False,
                step=50,
                debounce=200,
                rust_timeout=2000,
                yield_on_timeout=True,
            ):
                # the watcher only wakes this loop: it misses changes in a folder that was deleted and made again
                found = await asyncio.to_thread(_sources, known)
                if found != files:
                    changed, files = {path for path, _ in found.items() ^ files.items()}, found
                    await reload(server, sorted({relative(path) for path in changed}))
                    reloaded = True
                    if server.graphs.folders() <= known:
                        continue  # until nothing changes: while a new watcher is made, changes are noticed late
                if reloaded or len(sys.modules) != modules or _inodes(known) != there:  # a new watcher is needed
                    break
        except Exception as error:
            is_new = str(error) != told and not isinstance(error, FileNotFoundError)  # a folder may be gone
            told, level = str(error), logging.ERROR if is_new else logging.DEBUG
            log.log(level, "folders of code can't be watched, trying again: %s", error, exc_info=error)
            await asyncio.sleep(RETRY_SECONDS)


def _inodes(folders: Iterable[str]) -> dict[str, int]:
    """Return the inodes of the folders that exist: a folder made again under its name needs a new watcher."""
    found = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            stat = os.stat(folder)
            found[folder] = stat.st_ino or stat.st_ctime_ns  # not every file system of Windows has inodes
    return found


def _sources(folders: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the source files in folders, with numbers that differ once a file has changed."""
    found: dict[str, tuple[int, ...]] = {}
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if _is_source(None, entry.path):
                    with contextlib.suppress(OSError):  # gone meanwhile
                        stat = os.stat(entry.path)  # entry.stat() has no inodes on Windows
                        found[entry.path] = stat.st_ino, stat.st_mtime_ns, stat.st_size
    return found


def _is_source(change: Any, path: str) -> bool:
    return path.endswith((".py", "langgraph.json", ".env")) and Path(path) != Path(__file__)


async def reload(server: Server, changed: list[str]) -> None:
    try:
        await asyncio.to_thread(server.graphs.reload)
        await server.db.write(sync_system_assistants, server.graphs.loaded.values(), system_configs())
    except Unavailable as error:
        log.error("%s changed, but new graphs have no assistants yet: %s", ", ".join(changed), error)
        return
    except StartError as error:
        log.error("%s changed, but the last good graphs stay: %s", ", ".join(changed), error)
        return
    except Exception:
        log.exception("%s changed, but the last good graphs stay", ", ".join(changed))
        return
    new, old = server.graphs.settings, server.settings
    lasting = operator.attrgetter("env", "http", "ui", "webhooks", "store.ttl", "checkpointer", "auth")
    if lasting(new) != lasting(old) or (new.store.index is None) != (old.store.index is None):
        log.warning("changes of all but graphs, dependencies and store.index take effect at the next start")
    server.reloads += 1
    log.info("%s changed: graphs reloaded%s", ", ".join(changed), ", http.app not" if server.app else "")


########################################################################################################
# 15  Test kit
########################################################################################################

# -- no accidental calls --


class NetworkClosed(RuntimeError):
    """A test called another machine. Not a ConnectionError, which clients would hide, and try again."""


PROXIES = ("http_proxy", "https_proxy", "all_proxy")
TRACING = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
RUN_LOOPS: list[asyncio.AbstractEventLoop] = []  # of the kit's servers
_closed = threading.Event()


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    """Raise NetworkClosed for a socket or a look-up that leads to another machine. An audit hook."""
    if not event.startswith("socket.") or not _closed.is_set():
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(args[1], tuple):
        host, port = args[1][:2]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host, port = args[0], args[1] if len(args) > 1 else None
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host or ""
    if host in ("", "0.0.0.0", "::", socket.gethostname()) or is_loopback(host.partition("%")[0]):
        return
    frame: types.FrameType | None = sys._getframe(1)
    while frame and (_is_library(name := frame.f_code.co_filename) or name == __file__ or name[0] == "<"):
        frame = frame.f_back
    line = f" at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
    if not line and RUN_LOOPS:  # a look-up is on a thread of its own: name the nodes that wait for it
        line = "".join(f" while {place}" for place in node_places(RUN_LOOPS[-1], "getaddrinfo"))
    raise NetworkClosed(
        f"{host if port is None else f'{host}:{port}'} was called{line}, but tests have no network. Record the call "
        "(--devserver-record=missing), script the model, or allow it: @pytest.mark.devserver(network='allow')"
    )


hook_network = functools.cache(lambda: sys.addaudithook(_refuse))  # once, as it can't be taken away


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Keep Python's sockets from all other machines, use no proxy, and let LangSmith trace nothing."""
    hook_network()
    names = [name for name in os.environ if name.lower() in PROXIES]
    old = {name: os.environ.get(name) for name in (*names, *TRACING)}
    os.environ.update(dict.fromkeys(TRACING, "false"))
    for name in names:
        del os.environ[name]
    _forget_tracing()
    _closed.set()
    try:
        yield
    finally:
        _closed.clear()
        set_variables(old)
        _forget_tracing()


def _forget_tracing() -> None:
    """Let LangSmith read its variables again."""
    with contextlib.suppress(KeyError, AttributeError):
        sys.modules["langsmith.utils"].get_env_var.cache_clear()


def set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


# -- a clock that tests own --


class _Datetime(datetime.datetime):
    """`datetime` as LangGraph's own modules use it: by the server's clock."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return cls.fromtimestamp(CLOCK.micros() / 1e6, tz)


def _follow_clock() -> None:
    """Let times and ids of checkpoints go by the server's clock: LangGraph has no public way to set it."""
    for name in ("langgraph.pregel._checkpoint", "langgraph.pregel._loop", "langgraph.checkpoint.base"):
        if hasattr(module := sys.modules.get(name), "datetime"):
            module.datetime = _Datetime  # type: ignore[union-attr]
    vars(checkpoint_ids)["time"] = types.SimpleNamespace(time_ns=lambda: CLOCK.micros() * 1000)


async def catch_up(runner: Runner) -> None:
    """Do what is due now that the clock was moved. To be called on the run loop."""
    for act in (runner._fire_crons, runner._expire_items, runner._expire_threads):
        await act()
    for worker in runner._workers.values():
        worker.noticed.set()
    for schedule in (runner.crons, runner.items, runner.threads):
        schedule.notice()


async def settle(server: Server, timeout: float = 30) -> None:  # noqa: ASYNC109
    """Return once no run is live, no webhook waits, and nothing is due. Raises TimeoutError that tells what is left."""
    until = time.monotonic() + timeout
    while left := server.db.look(unsettled):
        if time.monotonic() > until:
            places = "".join(f"\n  {place}" for place in (*left, *node_places(server.runner.loop.loop)))
            raise TimeoutError(f"after {timeout:g} s there is still:{places}")
        if server.db.look(lambda conn: (due_in(conn) or 1) <= 0):
            await server.runner.loop.run(catch_up(server.runner))
        await asyncio.sleep(0.002)


async def move_clock(server: Server, to: datetime.datetime | None) -> datetime.datetime:
    """Move the clock to a moment, or to the next thing that is due, and return it. All that is due until then happens
    in order, each at its own time. Raises ValueError for the past, LookupError if nothing is due."""
    if to is not None and to < CLOCK.now():
        raise ValueError(f"the clock is at {now()} and cannot go back to {moment(to)}")
    _follow_clock()
    await settle(server)
    while (left := server.db.look(due_in)) is not None:
        if to is not None and left > (to - CLOCK.now()).total_seconds():
            break
        CLOCK.shift += max(0, int(left * 1e6)) + 1000
        await server.runner.loop.run(catch_up(server.runner))
        await settle(server)
        if to is None:
            return CLOCK.now()
    if to is None:
        raise LookupError("nothing is due: no cron, no delayed run, nothing that expires")
    CLOCK.shift += max(0, (to - CLOCK.now()) // datetime.timedelta(microseconds=1))
    await server.runner.loop.run(catch_up(server.runner))
    return CLOCK.now()


class KitClock:
    """The clock of a test's server: crons, delayed runs and times to live go by it, and so do the times it writes."""

    def __init__(self, kit: KitServer) -> None:
        self._kit = kit

    def now(self) -> datetime.datetime:
        return CLOCK.now()

    def advance(self, **parts: float) -> datetime.datetime:
        """Go on by a timedelta's parts: `advance(hours=1)`."""
        return self.to(CLOCK.now() + datetime.timedelta(**parts))

    def to(self, at: datetime.datetime | str) -> datetime.datetime:
        """Go to a moment; without a zone it is UTC. Raises ValueError if it is in the past."""
        return self._kit.wait(move_clock(self._kit.server, parse_moment(str(at), "clock")))

    def next(self) -> datetime.datetime:
        """Go to the next thing that is due, and let it happen. Raises LookupError if there is none."""
        return self._kit.wait(move_clock(self._kit.server, None))


class ClockMove(Body):
    """A move of the clock: by seconds, to a moment, or to the next thing that is due."""

    advance: float | None = Field(None, ge=0)
    to: str | None = None
    next: bool = False


async def set_clock(call: Call) -> JsonObject:
    """Move the clock: served only with --test-clock."""
    asked: ClockMove = call.body
    at = parse_moment(asked.to, "to") if asked.to else CLOCK.now() + datetime.timedelta(seconds=asked.advance or 0)
    try:
        return {"now": moment(await move_clock(call.server, None if asked.next else at))}
    except (ValueError, LookupError, TimeoutError) as error:
        raise Invalid(str(error)) from None


TEST_CLOCK = Operation("POST", "/devserver/clock", set_clock, "open", ClockMove, "object")


# -- what models are asked, and answer, as JSON --

MESSAGE_KEYS = ("type", "content", "name", "tool_calls", "tool_call_id", "status")
SECRET_KEYS = re.compile(r"(^|_)(headers?|api_?key|key|token|secret|password|signature|sig|authorization)$", re.I)


def call_place() -> JsonObject:
    """Return the calling node and the path of its task: names of nodes, and its number among tasks of one node."""
    about = (var_child_runnable_config.get() or {}).get("metadata") or {}
    names = [part.partition(":")[0] for part in about.get("langgraph_checkpoint_ns", "").split("|") if part]
    places = [str(part) for part in about.get("langgraph_path") or () if type(part) is int]
    return {"node": about.get("langgraph_node"), "path": "/".join([*names, *places])}


def plain(value: Any) -> Any:
    """Return a value as JSON: models as their schema, other objects as text without memory addresses and secrets."""

    def text(value: Any) -> Any:
        if isinstance(value, type) and issubclass(value, BaseModel):
            return {"class": value.__name__, **value.model_json_schema()}
        return "(secret)" if hasattr(value, "get_secret_value") else re.sub(r" at 0x[0-9a-f]+", "", repr(value))

    return json.loads(json.dumps(value, default=text))


def without_keys(value: Any, pattern: re.Pattern[str]) -> Any:
    """Return JSON without the members, at any depth, whose names have the pattern."""
    if isinstance(value, dict):
        return {key: without_keys(each, pattern) for key, each in value.items() if not pattern.search(key)}
    return [without_keys(each, pattern) for each in value] if isinstance(value, list) else value


def without_secrets(value: Any) -> Any:
    """Return a value as JSON without fields for headers, keys and the like."""
    return without_keys(plain(value), SECRET_KEYS)


def model_question(model: Any, messages: Sequence[BaseMessage], kwargs: JsonObject) -> JsonObject:
    """Return a question to a chat model as JSON: messages without ids (numbers for tool calls), tools, options."""
    numbers: dict[str, int] = {}
    told = []
    for message in messages:
        fields = {key: getattr(message, key, None) for key in MESSAGE_KEYS}
        fields["tool_calls"] = [
            {"name": each["name"], "args": each["args"], "id": numbers.setdefault(each["id"] or "", len(numbers) + 1)}
            for each in fields["tool_calls"] or ()
        ]
        fields["tool_call_id"] = numbers.get(fields["tool_call_id"] or "")
        told.append({key: value for key, value in fields.items() if value not in (None, [], "success")})
    options = {key: value for key, value in kwargs.items() if key not in ("run_manager", "tools") and value is not None}
    options = without_secrets({**getattr(model, "_identifying_params", {}), **options})
    return {"messages": told, "tools": kwargs.get("tools") or [], "options": options}


AS_GIVEN = ("response_metadata", "usage_metadata")


def build_message(cls: type[BaseMessage], fields: JsonObject) -> Any:
    """Return a recorded message. Builds no other object."""
    message = cls(**{key: fields[key] for key in fields if key not in AS_GIVEN})
    for name in AS_GIVEN:
        if name in fields:
            setattr(message, name, fields[name])
    return message


def kept_part(part: Any) -> JsonObject:
    """Return a generation, or a chunk of one, as JSON for a recording."""
    data = part.message.model_dump(mode="json")
    kept = {key: value for key, value in data.items() if value not in (None, [], {}) or key == "content"}
    for name in AS_GIVEN:  # model_dump changes the order of their keys
        if value := getattr(part.message, name, None):
            kept[name] = without_secrets(value)
    info = {"generation_info": without_secrets(part.generation_info)} if part.generation_info else {}
    return {"message": kept, **info}


def read_chunks(answer: JsonObject) -> list[Any]:
    """Return the chunks of a recorded answer: one, if it was not streamed."""
    from langchain_core.outputs import ChatGenerationChunk

    chunks = []
    for kept in answer.get("chunks") or answer["generations"][:1]:
        fields = {**kept["message"], "type": "AIMessageChunk"}
        calls = fields.pop("tool_calls", [])  # else made from their chunks
        fields.pop("invalid_tool_calls", None)
        if "generations" in answer:
            pieces = [{**each, "args": json.dumps(each["args"]), "index": i} for i, each in enumerate(calls)]
            fields["chunk_position"] = "last"
            fields["tool_call_chunks"] = [{**each, "type": "tool_call_chunk"} for each in pieces]
        message = build_message(AIMessageChunk, fields)
        chunks.append(ChatGenerationChunk(message=message, generation_info=kept.get("generation_info")))
    return chunks


def read_result(answer: JsonObject) -> Any:
    """Return a recorded answer as a ChatResult."""
    from langchain_core.language_models.chat_models import generate_from_stream
    from langchain_core.outputs import ChatGeneration, ChatResult

    if "chunks" in answer:
        return generate_from_stream(iter(read_chunks(answer)))
    parts = [(build_message(AIMessage, kept["message"]), kept.get("generation_info")) for kept in answer["generations"]]
    generations = [ChatGeneration(message=message, generation_info=info) for message, info in parts]
    return ChatResult(generations=generations, llm_output=answer.get("llm_output"))


# -- recordings --


class Missed(LookupError):
    """A model was asked something that its recording does not have."""


def differences(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two JSON values differ: path, value, other value."""
    if isinstance(one, list) and isinstance(other, list):
        one, other, form = dict(enumerate(one)), dict(enumerate(other)), "{}[{}]"
    elif isinstance(one, dict) and isinstance(other, dict):
        form = "{}.{}" if place else "{}{}"
    else:
        if one != other:
            yield place, one, other
        return
    for key in {**one, **other}:
        yield from differences(one.get(key, "(nothing)"), other.get(key, "(nothing)"), form.format(place, key))


def shortened(value: Any, size: int = 120) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= size else f"{text[:size]}…"


class Recording:
    """Answers of models, in a file of JSON lines: a header, then an entry for each call, in the order of their ends.
    Mode `replay` asks no model, `missing` what the file lacks, `all` everything. Thread-safe."""

    VERSION = 1

    def __init__(self, path: Path, mode: str, ignore: Sequence[str] = (), scrub: Sequence[str] = ()) -> None:
        """Read the file. Texts that match `ignore` may differ from the recorded ones, those that match `scrub` are not
        written. Raises StartError."""
        self.path, self.mode = path, mode
        self.misses: list[str] = []
        self._scrub = [(re.compile(each), "(scrubbed)") for each in scrub]
        self._ignore = [*self._scrub, *((re.compile(each), "…") for each in ignore)]
        self._lock = threading.Lock()
        self._uses: Counter[int] = Counter()
        self._asked: Counter[str] = Counter()
        self._file: io.FileIO | None = None
        self._added = 0
        if mode != "replay":
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(self._part, "a+")
            if not _try_lock(self._file):
                raise StartError(f"{path}: another test records to it, too. Give each a file of its own.")
        interrupted = self._file and self._part.stat().st_size  # then it has all of the file, and more
        self.entries = [] if mode == "all" else self._read(self._part if interrupted else path)
        self._by_key: dict[str, list[int]] = {}
        for number in sorted(range(len(self.entries)), key=lambda number: self.entries[number].get("nth", 0)):
            self._by_key.setdefault(self._key(self.entries[number]), []).append(number)
        if self._file:
            self._file.truncate(0)
            for entry in ({"devserver_recording": self.VERSION}, *self.entries):
                self._write(entry)

    @property
    def _part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")

    def _read(self, path: Path) -> list[JsonObject]:
        *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
        if last and path == self.path:
            raise StartError(f"{path}:{len(lines) + 1}: the last line is torn. Delete it, or record it again.")
        entries = []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                newer = number == 1 and entry["devserver_recording"] > self.VERSION
                needed = () if number == 1 else (*self.KEYS, "node", "answer")
                entries.append({**entry, **{key: entry[key] for key in needed}})
            except (ValueError, KeyError, TypeError) as error:
                problem = f"is no line of a recording ({error!r}). Delete it, or record it again."
                raise StartError(f"{path}:{number}: {problem}") from None
            if newer:
                raise StartError(f"{path}:1: recorded by a newer devserver. Upgrade this one, or record it again.")
        return entries[1:]

    KEYS = ("path", "model", "asked")

    def _without(self, value: Any, patterns: Sequence[tuple[re.Pattern[str], str]]) -> Any:
        if isinstance(value, str):
            for pattern, mark in patterns:
                value = pattern.sub(mark, value)
        elif isinstance(value, dict):
            return {key: self._without(each, patterns) for key, each in value.items()}
        return [self._without(each, patterns) for each in value] if isinstance(value, list) else value

    def _key(self, entry: JsonObject) -> str:
        return json.dumps(self._without([entry[key] for key in self.KEYS], self._ignore), sort_keys=True)

    def find(self, asked: JsonObject) -> Any:
        """Return the recorded answer, the least used one if a question was asked several times; None if the model is to
        be asked. Raises Missed in mode `replay`."""
        with self._lock:
            key = self._key(asked)
            if found := self._by_key.get(key):
                number = min(found, key=lambda each: self._uses[each])
                self._uses[number] += 1
                return self.entries[number]["answer"]
            if self.mode == "replay":
                self.misses.append(self._miss(asked))
                log.error("%s", self.misses[-1])
                raise Missed(self.misses[-1])
            asked["nth"] = self._asked[key]  # among equal questions, whose answers may end in another order
            self._asked[key] += 1
            return None

    def add(self, asked: JsonObject, answer: JsonObject) -> None:
        with self._lock:
            self._write({**asked, "answer": answer})
            self._added += 1

    def _write(self, entry: JsonObject) -> None:
        if self._file and not self._file.closed:
            text = json.dumps(self._without(entry, self._scrub), ensure_ascii=False)
            self._file.write(f"{text}\n".encode())

    def close(self) -> None:
        """Put the new recording in place of the old one, if anything was added."""
        if self._file:
            self._file.close()
            if self._added:
                self._part.replace(self.path)
            else:
                self._part.unlink()

    def unused(self) -> list[str]:
        numbers = [number for number in range(len(self.entries)) if not self._uses[number]]
        return [f"{self.path}:{number + 2}: {self.entries[number]['model']} was not asked this" for number in numbers]

    def _miss(self, asked: JsonObject) -> str:
        who = f"node {asked['node']} asked {asked['model']}" if asked["node"] else f"{asked['model']} was asked"
        now, *others = [{key: each[key] for key in self.KEYS} for each in (asked, *self.entries)]
        found = min(([*differences(now, then)] for then in others), key=len, default=[("", "", "")])
        place, here, there = found[0]
        nearest = f"the nearest entry differs at {place}: asked {shortened(here)}, recorded {shortened(there)}"
        text = f"{who} for what {self.path} does not have; {nearest if others else 'it is empty'}"
        return f"{text}. To add it: --devserver-record=missing"


# -- the tape, which stands between models and their providers --

# Set while a model works: what it calls or sends itself is not taped.
IN_MODEL: contextvars.ContextVar[bool] = contextvars.ContextVar("devserver_in_model", default=False)
DONE: Any = object()


@contextlib.contextmanager
def in_model() -> Iterator[None]:
    token = IN_MODEL.set(True)
    try:
        yield
    finally:
        IN_MODEL.reset(token)


def is_async(name: str) -> bool:
    return name.lstrip("_").startswith("a")


def run_now(coroutine: Any) -> Any:
    """Run a coroutine that awaits nothing, without an event loop, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a synchronous method awaits something")


def stream_now(parts: AsyncGenerator[T, None]) -> Iterator[T]:
    """Yield from an async generator that awaits nothing, without an event loop."""
    try:
        while (part := run_now(anext(parts, DONE))) is not DONE:
            yield part
    finally:
        run_now(parts.aclose())


class Tape:
    """Answers in place of chat models, embeddings and named tools, from a recording or a script, or records what they
    answer: replaces methods of their classes, also of those that are defined later."""

    def __init__(self, tools: Sequence[str] = ()) -> None:
        from langchain_core.embeddings import Embeddings
        from langchain_core.language_models import BaseChatModel
        from langchain_core.tools import BaseTool

        self.recording: Recording | None = None
        self.script: Any = None  # a ScriptedChatModel in place of all models
        self.address, self.tools = "(none)", tools  # calls of this address, the server's, are not taped
        self._undo: list[Callable[[], None]] = []
        models = ("_generate", "_agenerate", "_stream", "_astream", *EVENTS)
        embeddings = ("embed_query", "embed_documents", "aembed_query", "aembed_documents")
        for base, names in ((BaseChatModel, models), (Embeddings, embeddings), (BaseTool, ("_run", "_arun"))):
            self._tape_class(base, names)
        for package in ("httpx", "httpx2"):
            if importlib.util.find_spec(package):
                Tee(self, importlib.import_module(package))

    def stop(self) -> None:
        while self._undo:
            self._undo.pop()()

    def replace(self, cls: type, name: str, value: Any) -> None:
        real = cls.__dict__.get(name, DONE)
        setattr(cls, name, value)
        self._undo.append(lambda: delattr(cls, name) if real is DONE else setattr(cls, name, real))

    def _tape_class(self, base: Any, names: Sequence[str]) -> None:
        inherited = getattr(base.__init_subclass__, "__func__", lambda cls: None)

        def tape(cls: Any) -> None:
            for name in names:
                if callable(real := cls.__dict__.get(name)) and cls.__name__ != "ScriptedChatModel":
                    wrap = self._stream if "_stream" in name or "_astream" in name else self._call
                    self.replace(cls, name, functools.wraps(real)(wrap(real, name)))
            for below in cls.__subclasses__():
                tape(below)

        def tape_later(cls: Any, /, **kwargs: Any) -> None:
            inherited(cls, **kwargs)
            tape(cls)

        for cls in base.__subclasses__():
            tape(cls)
        self.replace(base, "__init_subclass__", classmethod(tape_later))

    def _look(self, name: str, model: Any, args: Sequence[Any], kwargs: JsonObject) -> tuple[JsonObject | None, Any]:
        """Return the question to the recording (None: do not ask it) and its answer (None: none). Raises Missed."""
        is_tool, is_model = name.endswith("run"), name.startswith("_") and not name.endswith("run")
        not_named = is_tool and model.name not in self.tools
        if self.recording is None or IN_MODEL.get() or not_named or (is_model and self.script):
            return None, None
        if is_tool:
            given = {key: kwargs[key] for key in kwargs if key not in ("config", "run_manager")}
            question: Any = {"args": args, **given}
        elif "embed" in name:
            question = {name.removeprefix("a"): args[0]}
        else:
            stop = args[1] if len(args) > 1 else kwargs.get("stop")
            question = model_question(model, args[0] if args else kwargs["messages"], {**kwargs, "stop": stop})
        named = next(filter(None, (getattr(model, name, None) for name in ("model_name", "model", "name"))), "")
        asked = call_place() | {"model": f"{type(model).__name__} {named}".strip(), "asked": plain(question)}
        return asked, self.recording.find(asked)

    def _stand_in(self, name: str, model: Any, real: Any) -> tuple[Any, Any]:
        """Return the model and the method that answer: the script's, or the given ones."""
        if self.script is None or IN_MODEL.get() or "embed" in name or name.endswith("run"):
            return model, real
        if name not in EVENTS:
            return self.script, getattr(type(self.script), name)
        a = "a" if is_async(name) else ""
        to_events, stream = getattr(event_bridge(), f"{a}chunks_to_events"), getattr(self.script, f"_{a}stream")
        return self.script, lambda _, *args, **kwargs: to_events(stream(*args, **kwargs))

    def add(self, asked: JsonObject | None, answer: JsonObject) -> None:
        if asked is not None and self.recording:
            self.recording.add(asked, answer)

    def _call(self, real: Any, name: str) -> Any:
        def read(answer: JsonObject) -> Any:
            return answer["value"] if "value" in answer else read_result(answer)

        def keep(result: Any) -> JsonObject:
            if "generate" in name:
                kept: JsonObject = {"generations": [kept_part(each) for each in result.generations]}
                return {**kept, "llm_output": without_secrets(result.llm_output)} if result.llm_output else kept
            return {"value": json.loads(json.dumps(result))}

        async def call(model: Any, *args: Any, **kwargs: Any) -> Any:
            asked, answer = self._look(name, model, args, kwargs)
            if answer is not None:
                return read(answer)
            model, method = self._stand_in(name, model, real)
            with in_model():
                result = method(model, *args, **kwargs)
                result = await result if is_async(name) else result
            self.add(asked, keep(result) if asked else {})
            return result

        return call if is_async(name) else lambda *args, **kwargs: run_now(call(*args, **kwargs))

    def _stream(self, real: Any, name: str) -> Any:
        events = name in EVENTS

        async def stream(model: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            asked, answer = self._look(name, model, args, kwargs)
            if answer is not None:
                for part in answer["events"] if events else read_chunks(answer):
                    yield part
                return
            model, method = self._stand_in(name, model, real)
            parts, kept = method(model, *args, **kwargs), []
            with contextlib.suppress(GeneratorExit):
                async with contextlib.aclosing(parts if is_async(name) else each_of(parts)) as parts:
                    while True:
                        with in_model():  # not while the consumer works
                            part = await anext(parts, DONE)
                        if part is DONE:
                            break
                        if asked:
                            kept.append(part if events else kept_part(part))
                        yield part
            self.add(asked, {"events" if events else "chunks": kept})

        return stream if is_async(name) else lambda *args, **kwargs: stream_now(stream(*args, **kwargs))


class Tee:
    """Tapes requests that nodes send by httpx or httpx2, but not those of models, nor those to this server."""

    def __init__(self, tape: Tape, package: Any) -> None:
        self._tape, self._package = tape, package
        real, areal = package.HTTPTransport.handle_request, package.AsyncHTTPTransport.handle_async_request

        def handle(transport: Any, request: Any) -> Any:
            asked, answer = self._look(request, request.read())
            return self._replayed(answer) if answer else self._copied(asked, real(transport, request))

        async def ahandle(transport: Any, request: Any) -> Any:
            asked, answer = self._look(request, await request.aread())
            return self._replayed(answer) if answer else self._copied(asked, await areal(transport, request))

        tape.replace(package.HTTPTransport, "handle_request", handle)
        tape.replace(package.AsyncHTTPTransport, "handle_async_request", ahandle)

    def _look(self, request: Any, body: bytes) -> tuple[JsonObject | None, Any]:
        place = call_place()
        recording, own = self._tape.recording, str(request.url).startswith(self._tape.address)
        if recording is None or IN_MODEL.get() or place["node"] is None or own:
            return None, None
        query = [pair for pair in request.url.params.multi_items() if not SECRET_KEYS.search(pair[0])]
        try:
            said = plain(json.loads(body)) if body else None
        except ValueError:
            said = body.decode(errors="replace")
        where = {"method": request.method, "url": str(request.url.copy_with(query=None, fragment=None))}
        asked = place | {"model": request.url.host, "asked": {**where, "query": plain(query), "body": said}}
        try:
            answer = recording.find(asked)
        except Missed as miss:  # a status that no client tries again
            problem = {"error": {"message": str(miss), "type": "Missed"}}
            answer = {"status": 400, "type": "application/json", "parts": [json.dumps(problem)]}
        if answer is None:
            request.headers["accept-encoding"] = "identity"
        return asked, answer

    def _replayed(self, answer: JsonObject) -> Any:
        """Return a response with the parts of an answer as they came."""
        parts = [part.encode() for part in answer["parts"]]
        stream = self._stream(parts, lambda kept: None)
        return self._package.Response(answer["status"], headers={"content-type": answer["type"]}, stream=stream)

    def _copied(self, asked: JsonObject | None, response: Any) -> Any:
        if asked:
            about = {"status": response.status_code, "type": response.headers.get("content-type", "")}
            add = functools.partial(self._tape.add, asked)
            response.stream = self._stream(response.stream, lambda kept: add({**about, "parts": kept}))
        return response

    def _stream(self, source: Any, end: Callable[[list[str]], None]) -> Any:
        """Return a response's body that calls `end` with its parts once it is closed."""
        kept: list[str] = []

        class Parts(self._package.SyncByteStream, self._package.AsyncByteStream):  # type: ignore[misc, name-defined]
            """The body of a response, for either kind of client."""

            def __iter__(self) -> Iterator[bytes]:
                for part in source:
                    kept.append(part.decode(errors="replace"))
                    yield part

            async def __aiter__(self) -> AsyncIterator[bytes]:
                async for part in source if hasattr(source, "__aiter__") else each_of(source):
                    kept.append(part.decode(errors="replace"))
                    yield part

            def close(self) -> None:  # also called if the body is not read to its end
                end(kept)
                getattr(source, "close", lambda: None)()

            async def aclose(self) -> None:
                end(kept)
                if hasattr(source, "aclose"):
                    await source.aclose()

        return Parts()


async def each_of(values: Iterable[T]) -> AsyncGenerator[T, None]:
    for value in values:
        yield value


EVENTS = ("_stream_chat_model_events", "_astream_chat_model_events")


# -- a model that answers by a test's script --


class ModelError(Exception):
    """An error of a model's provider, with its HTTP status."""

    def __init__(self, status_code: int, message: str = "") -> None:
        super().__init__(message or f"{status_code} from the scripted model")
        self.status_code = status_code


def scripted_call(name: str, /, **args: Any) -> JsonObject:
    """Return a call of a tool, for a script."""
    return {"name": name, "args": args}


SCRIPTED: list[Script] = []  # which got answers since the test began


class Script:
    """The answers of a scripted model, in order, and the calls that it has got."""

    def __init__(self) -> None:
        self.steps: list[tuple[str | None, Any, tuple[int, int]]] = []  # node or None for any, answer, usage
        self.calls: list[JsonObject] = []
        self.misses: list[str] = []
        self._lock = threading.Lock()

    def problems(self) -> list[str]:
        """Return a line for each call that found no answer, and for each answer that was not asked for."""
        return [*self.misses, *(f"nobody asked the scripted model for {answer!r}" for _, answer, _ in self.steps)]

    def answer(self, messages: Sequence[BaseMessage], stop: Any, tools: Any = ()) -> AIMessage:
        node = call_place()["node"]
        with self._lock:
            self.calls.append({"messages": [*messages], "tools": [*tools], "stop": stop, "node": node})
            number = len(self.calls)
            steps = sorted((step for step in self.steps if step[0] in (node, None)), key=lambda step: step[0] is None)
            if steps:
                self.steps.remove(steps[0])
            else:
                asked = f"{messages[-1].type}: {shortened(str(messages[-1].text))}" if messages else "nothing"
                self.misses.append(f"the script has run out: node {node} asked for answer {number} ({asked})")
                raise Missed(self.misses[-1])
        _, answer, usage = steps[0]
        if isinstance(answer, BaseException) or (isinstance(answer, type) and issubclass(answer, BaseException)):
            raise answer
        if isinstance(answer, AIMessage):
            return answer
        parts = answer if isinstance(answer, list | tuple) else [answer]
        calls = [
            scripted_call(type(part).__name__, **part.model_dump(mode="json")) if isinstance(part, BaseModel) else part
            for part in parts
            if not isinstance(part, str)
        ]
        ids = [{**each, "id": f"call_{number}_{i}", "type": "tool_call"} for i, each in enumerate(calls)]
        counted = dict(zip(("input_tokens", "output_tokens", "total_tokens"), (*usage, sum(usage)), strict=True))
        text = "".join(part for part in parts if isinstance(part, str))
        return AIMessage(text, tool_calls=ids, usage_metadata=cast(Any, counted) if any(usage) else None)

    @staticmethod
    def chunks(message: AIMessage) -> Iterator[AIMessageChunk]:
        """Yield a message word by word, and its tool calls in pieces."""
        for word in re.findall(r"\S+\s*|\s+", message.text):
            yield AIMessageChunk(content=word)
        for index, asked in enumerate(message.tool_calls):
            pieces: list[tuple[Any, str, Any]] = [(asked["name"], "", asked["id"])]
            pieces += [(None, text, None) for text in re.findall(r"(?s).{1,8}", json.dumps(asked["args"]))]
            for name, args, call_id in pieces:
                chunk: Any = {"name": name, "args": args, "id": call_id, "index": index, "type": "tool_call_chunk"}
                yield AIMessageChunk(content="", tool_call_chunks=[chunk])
        yield AIMessageChunk(content="", usage_metadata=message.usage_metadata, chunk_position="last")


@functools.cache
def scripted_chat_model() -> type:
    """Return the class ScriptedChatModel, made when it is needed: its base takes a while to import."""
    from langchain_core.language_models import BaseChatModel
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from pydantic import PrivateAttr

    class ScriptedChatModel(BaseChatModel):
        """A chat model that answers by its script: texts, calls of tools, objects, errors."""

        _kept: Script = PrivateAttr(default_factory=Script)

        @property
        def _llm_type(self) -> str:
            return "scripted"

        @property
        def calls(self) -> list[JsonObject]:
            """The calls that it has got, each with messages, tools, stop and node."""
            return self._kept.calls

        def script(self, *answers: Any, node: str | None = None, usage: tuple[int, int] = (0, 0)) -> ScriptedChatModel:
            """Add answers: a text, `call(...)`, a list of those, a message, a pydantic object (structured output), an
            exception. With `node` they are for that node alone. `usage` is (input, output) tokens of each."""
            if not answers:
                raise ValueError("a script needs at least one answer: model.script('Hello')")
            self._kept.steps += [(node, answer, usage) for answer in answers]
            SCRIPTED.append(self._kept)
            return self

        def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Any:
            return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            message = self._kept.answer(messages, stop, kwargs.get("tools", ()))
            return ChatResult(generations=[ChatGeneration(message=message)])

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            return self._generate(*args, **kwargs)

        def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
            for chunk in self._kept.chunks(self._kept.answer(messages, stop, kwargs.get("tools", ()))):
                yield ChatGenerationChunk(message=chunk)

        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            for chunk in self._stream(*args, **kwargs):
                await asyncio.sleep(0)
                yield chunk

    return ScriptedChatModel


def __getattr__(name: str) -> Any:
    """Return a name that tests import: `from devserver import ScriptedChatModel, call, error`."""
    if name == "ScriptedChatModel":
        return scripted_chat_model()
    if name in ("call", "error"):
        return scripted_call if name == "call" else ModelError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


KEYS = "OPENAI ANTHROPIC GOOGLE GEMINI MISTRAL GROQ COHERE XAI DEEPSEEK TOGETHER FIREWORKS"


def set_dummy_keys() -> list[str]:
    """Set the API keys without which clients of models can't be made, unless they are set; return their names."""
    names = [name for name in (f"{each}_API_KEY" for each in KEYS.split()) if name not in os.environ]
    os.environ.update(dict.fromkeys(names, "no-key-devserver-replays"))
    return names


@contextlib.contextmanager
def taped(record: Path | None, replay: Path | None, address: str) -> Iterator[None]:
    """Record what all models answer, or answer for them from a recording, if a file is given. Raises StartError."""
    if not (record or replay):
        yield
        return
    if record and (replay or os.environ.get("CI")):
        raise StartError("--record is refused " + ("with --replay" if replay else "where CI is set"))
    if replay and not replay.is_file():
        raise StartError(f"there is no recording {replay}. Make one with --record.")
    tape = Tape()
    tape.address, tape.recording = address, Recording(cast(Path, record or replay), "missing" if record else "replay")
    if replay:
        set_dummy_keys()
    try:
        yield
    finally:
        tape.recording.close()
        tape.stop()


def database_changes(one: Mapping[str, JsonObject], other: Mapping[str, JsonObject]) -> list[JsonObject]:
    """Return what differs between two databases' `contents`, in their order."""
    changes = []
    for kind in one:
        for name in {**one[kind], **other[kind]}:
            before, after = one[kind].get(name), other[kind].get(name)
            sign = "+" if before is None else "-" if after is None else "~"
            pairs = [f"{place}: {shortened(was)} -> {shortened(now)}" for place, was, now in differences(before, after)]
            told = "; ".join(pairs) if sign == "~" else shortened(before if after is None else after)
            if before != after:
                about = {"sign": sign, "kind": kind.removesuffix("s"), "name": name}
                changes.append({**about, "before": before, "after": after, "told": told})
    return changes


# -- a server for tests --


def node_places(loop: asyncio.AbstractEventLoop, inner: str = "") -> Iterator[str]:
    """Yield where nodes are in the user's code: those running on a thread, and those awaiting something. With `inner`,
    only those that are inside a call of a function of that name."""
    frames = sys._current_frames()
    stacks: list[list[traceback.FrameSummary]] = [
        [*traceback.extract_stack(frames.get(thread.ident or 0))]
        for thread in threading.enumerate()
        if thread.name.startswith((NODE_THREADS, "devserver-runs")) and thread.ident in frames
    ]
    for task in asyncio.all_tasks(loop):
        awaited: Any = task.get_coro()
        stack: list[traceback.FrameSummary] = []
        while awaited is not None:
            if frame := next(
                filter(None, (getattr(awaited, f"{kind}_frame", None) for kind in ("cr", "gi", "ag"))), None
            ):
                stack.append(traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
        stacks.append(stack)
    for stack in stacks:
        own = [entry for entry in stack if not _is_library(entry.filename) and entry.filename != __file__]
        if own and (not inner or any(entry.name == inner for entry in stack)):
            yield f"{own[-1].name} is at {own[-1].filename}:{own[-1].lineno} ({own[-1].line})"


class RunFailed(Exception):
    """A run failed, and its exception is not at hand: class and message as clients see them."""


@dataclass
class KitRun:
    """A run that has ended: what it did and said, what it asks, and why it failed."""

    kit: Kit
    assistant: str
    thread_id: str
    run_id: str = ""
    values: Any = None
    error: BaseException | None = None
    nodes: list[str] = field(default_factory=list)  # in the order in which they ended, those of subgraphs too
    tool_calls: list[JsonObject] = field(default_factory=list)
    interrupts: list[JsonObject] = field(default_factory=list)

    def take(self, event: str, data: Any) -> None:
        if event == "metadata":
            self.run_id = data["run_id"]
        elif event == "values":
            self.values, self.interrupts = data, []
            if isinstance(data, dict):
                self.values = {key: value for key, value in data.items() if key != "__interrupt__"}
                self.interrupts = data.get("__interrupt__", [])
        elif event.startswith("updates"):
            self.nodes += [node for node in data if node != "__interrupt__"]
            self._take_calls(data)
        elif event == "error":
            self.error = self.kit.errors.get(self.run_id) or RunFailed(f"{data['error']}: {data['message']}")

    def _take_calls(self, value: Any) -> None:
        for member in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            self._take_calls(member)
        for call in value.get("tool_calls") or () if isinstance(value, dict) else ():
            if isinstance(call, dict) and call not in self.tool_calls:
                self.tool_calls.append(call)

    @property
    def messages(self) -> list[JsonObject]:
        """The thread's messages."""
        return cast("list[JsonObject]", self.values["messages"])

    @property
    def text(self) -> Any:
        """The content of the last message."""
        return self.messages[-1]["content"]

    @property
    def status(self) -> str:
        return "error" if self.error else "interrupted" if self.interrupts else "success"

    def resume(self, value: Any, **how: Any) -> KitRun:
        """Answer what the run asks, and wait for what follows."""
        return self.kit.run(self.assistant, thread=self.thread_id, command={"resume": value}, **how)


class _Failures(logging.Handler):
    """Keeps the exceptions that runs fail with, by the run's id, which the runner logs beside them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: dict[str, BaseException] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "run_id") and record.exc_info and record.exc_info[1]:
            self.errors[record.run_id] = record.exc_info[1]


@dataclass(frozen=True)
class KitOptions:
    """The arguments of @pytest.mark.devserver."""

    user: str | None = None
    clock: datetime.datetime | str | None = None
    network: Literal["block", "allow"] = "block"
    replay: bool | str | Path | None = None
    graphs: Mapping[str, Any] = field(default_factory=dict)


class KitServer:
    """A server in this process, on a thread of its own. Its address and its graphs stay the same for all tests.

    So does its database file: what a test changes is in the write-ahead log, which is deleted for the next test.
    """

    def __init__(self, settings: Settings, folder: Path, seed: Path | None = None) -> None:
        """Start it. Raises StartError."""
        self.settings, self._seed = settings, seed
        self.db = str(folder / "devserver.db")
        self.server: Server
        self.url = ""
        self.webhook_url = ""
        self.webhooks: list[Any] = []  # payloads sent to `webhook_url`
        self.clock = KitClock(self)
        self.sync_client: SyncLangGraphClient
        self._failures = _Failures()
        self.errors = self._failures.errors
        self._stat: tuple[int, int] = (0, 0)
        set_here = (*settings.environment(), "LANGGRAPH_API_URL", DEFERS_LOOPBACK)
        self._variables = {name: os.environ.get(name) for name in set_here}
        self._ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="devserver-http", daemon=True)
        self._thread.start()
        self._ready.result()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        import uvicorn
        from langgraph_sdk.client import SyncLangGraphClient

        async def catch(call: Call) -> None:
            self.webhooks.append(await call.json())

        catching = Operation("POST", "/devserver/webhooks", catch, "open", parsed=False)

        self.loop = asyncio.get_running_loop()
        log.addHandler(self._failures)
        with listen("127.0.0.1", 0) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            for name, value in self.settings.environment().items():
                os.environ.setdefault(name, value)
            self.url = os.environ["LANGGRAPH_API_URL"] = address + self.settings.http.mount_prefix
            self.webhook_url = self.url + catching.path
            db = Db(":memory:", vectors=self.settings.store.index is not None)
            await db.open()
            self.server = await start_server(self.settings, db, 200, address)
            self._project_graphs = self.server.graphs.loaded
            self._runs = self.server.runner.loop  # stays, while runners come and go: nodes keep clients of this loop
            vars(self._runs).update(start=lambda: None, stop=lambda: None)
            RUN_LOOPS.append(self._runs.loop)
            await self._close(0)
            await self._make_file()
            options: Any = {"ws": "websockets-sansio", "lifespan": "on" if self.server.app else "off"}
            app = create_app(self.server, more=[catching, TEST_CLOCK])
            self._http = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, **options))
            self._api = self._client()
            transport = httpx.HTTPTransport(verify=False, trust_env=False)
            self.sync_client = SyncLangGraphClient(httpx.Client(base_url=self.url, transport=transport, timeout=300))
            serving = asyncio.ensure_future(self._http.serve(sockets=[listener]))
            while not (self._http.started or serving.done()):  # noqa: ASYNC110  uvicorn has no event for it
                await asyncio.sleep(0.001)
            self._ready.set_result(None)
            await serving
            await self._api.aclose()
            RunLoop.stop(self._runs)

    def _client(self) -> LangGraphClient:
        """Return an SDK client that reads no certificates, which takes 20 ms, and keeps no connections, which may
        outlive a test's event loop."""
        from langgraph_sdk.client import LangGraphClient

        limits = httpx.Limits(max_keepalive_connections=0)
        transport = httpx.AsyncHTTPTransport(verify=False, trust_env=False, limits=limits)
        return LangGraphClient(httpx.AsyncClient(base_url=self.url, transport=transport, timeout=300))

    async def _make_file(self) -> None:
        """Make the file that each test begins with: a copy of the seed, if there is one, and the graphs' assistants."""
        self._drop("", "-wal", "-shm")
        if self._seed:
            copy_database(self._seed, Path(self.db))
        db = Db(self.db, vectors=self.server.db.vectors)
        await db.open()
        await db.write(sync_system_assistants, self._project_graphs.values(), system_configs())
        await db.close()
        self._stat = self._file_stat()

    def _drop(self, *suffixes: str) -> None:
        for suffix in suffixes:
            Path(self.db + suffix).unlink(missing_ok=True)

    def _file_stat(self) -> tuple[int, int]:
        found = os.stat(self.db)
        return found.st_mtime_ns, found.st_size

    async def _close(self, grace: float) -> None:
        """Stop the runner, with `grace` seconds for runs, and close the database."""
        self.server.runner.GRACE_SECONDS = grace
        await self.server.runner.stop()
        await self.server.db.close()

    async def _open(self, goes_on: bool) -> None:
        """Open the database, start a runner on it. Unless it `goes_on`, delete the write-ahead log first."""
        if not goes_on:
            self._drop("-wal", "-shm")
            if self._file_stat() != self._stat:  # changes got from the log into the file
                await self._make_file()
        server, old = self.server, self.server.runner
        db = self._db = ScratchDb(self.db, vectors=server.db.vectors)
        await db.open()
        server.db = server.saver.db = server.store.db = db
        if self._seed or goes_on:
            await db.write(start_clock)
        if server.graphs.loaded.keys() != self._project_graphs.keys():
            await db.write(sync_system_assistants, server.graphs.loaded.values(), system_configs())
        address = str(old.loopback.url)
        sender = WebhookSender(db, server.settings, address)
        server.runner = Runner(db, server.graphs, server.saver, sender, 200, old.loopback)
        server.runner.loop.loop.close()
        server.runner.loop = self._runs
        server.store.on_ttl = server.runner.items.notice
        db.announce(self.url)
        await server.runner.start()

    async def _reopen(self, grace: float) -> None:
        await self._close(grace)
        await self._open(True)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop, and wait for its result."""
        __tracebackhide__ = True
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def stop(self) -> None:
        """End the server, and put the environment back."""
        self._http.should_exit = True
        self._thread.join(10)
        self.sync_client.http.client.close()
        log.removeHandler(self._failures)
        set_variables(self._variables)


class Kit(KitServer):
    """The server as tests use it: a fresh database for each, methods that wait for runs, a clock to move."""

    user: str | None = None  # of runs that name none
    client: LangGraphClient

    def run(self, assistant: str, input: Any = None, **how: Any) -> KitRun:  # noqa: A002
        """Run an assistant and wait for the run. A text as input is the user's message. `how`: user, configurable,
        context, headers, thread, timeout=30, check=True, and arguments of the SDK's `runs.stream`. Raises the graph's
        own exception, unless `check` is false, and TimeoutError, which tells where its nodes are."""
        __tracebackhide__ = True
        return self.wait(self._follow(assistant, input, **how))

    async def arun(self, assistant: str, input: Any = None, **how: Any) -> KitRun:  # noqa: A002
        """Do the same as `run` from an event loop."""
        __tracebackhide__ = True
        run = asyncio.run_coroutine_threadsafe(self._follow(assistant, input, **how), self.loop)
        return await asyncio.wrap_future(run)

    def stream(self, assistant: str, input: Any = None, **how: Any) -> Iterator[Any]:  # noqa: A002
        """Yield the SDK's events, `event` and `data`, as they come. Takes and raises the same as `run`."""
        parts: queue.SimpleQueue[Any] = queue.SimpleQueue()
        how = {"stream_mode": "values", "stream_subgraphs": False, **how}
        ended = asyncio.run_coroutine_threadsafe(self._follow(assistant, input, show=parts.put, **how), self.loop)
        ended.add_done_callback(lambda _: parts.put(None))
        try:
            yield from iter(parts.get, None)
            ended.result()
        finally:
            ended.cancel()

    def shared(self, key: str, **scope: Any) -> JsonObject:
        """Return the items of a shared value: `shared("info", user_id="123")`."""
        [(name, _)] = scope.items()
        prefix = shared_prefix([scope], name, key)
        return {
            item: from_json(text) for item, text in self.server.db.look(lambda conn: Items(conn).load(prefix)).items()
        }

    def settle(self, timeout: float = 30) -> None:
        """Wait until no run is live, no webhook waits, and nothing is due. Raises TimeoutError telling what is left."""
        self.wait(settle(self.server, timeout))

    def trajectory(self, thread: str) -> JsonObject:
        """Return a thread's history, newest last, as agentevals' GraphTrajectory."""
        states = cast("list[JsonObject]", self.sync_client.threads.get_history(thread, limit=1000))  # newest first
        inputs: list[Any] = []
        results: list[JsonObject] = []
        steps: list[list[str]] = []
        for state, before in itertools.zip_longest(states, states[1:]):
            asks, values = any(task["interrupts"] for task in state["tasks"]), state["values"]
            if asks or not state["next"]:
                says = isinstance(values, dict) and isinstance(values.get("messages"), list) and values["messages"]
                results.append({} if asks else {"messages": says[-1:]} if says else values)
                steps.append([])
            if not steps:  # a run that goes on
                continue
            for task in state["tasks"]:
                steps[-1] += [*(["__interrupt__"] if task["interrupts"] else []), task["name"]]
            if state["metadata"].get("source") == "input":
                inputs += [{task["name"]: task.get("result")} for task in state["tasks"]]
            elif before and any(task["interrupts"] for task in before["tasks"]):
                inputs.append("__resuming__")
        return {"inputs": inputs[::-1], "results": results[::-1], "steps": [each[::-1] for each in steps[::-1]]}

    def restart(self) -> None:
        """Stop the server as by a signal, and start it again on the same database: its runs go on."""
        self.wait(self._reopen(Runner.GRACE_SECONDS))

    def crash(self) -> None:
        """Lose all that is not stored, as by kill -9, and start the server again."""
        self._db.cut()
        self.wait(self._reopen(0))

    @contextlib.contextmanager
    def test(self, options: KitOptions) -> Iterator[Kit]:
        """Serve a fresh database for as long as a test lasts."""
        at = parse_moment(str(options.clock), "clock") if options.clock else None
        if at:
            _follow_clock()
        CLOCK.restart(at)
        begin_checkpoint_ids(None)
        self.user, self.webhooks = options.user, []
        self.errors.clear()
        self.server.graphs.serve({**self._project_graphs, **options.graphs})
        if not self.server.graphs.ids():
            raise StartError(
                f"there is no {self.settings.path}: name it by devserver_config, or mark tests with graphs="
            )
        self.client = self._client()
        self.wait(self._open(False))
        try:
            yield self
        finally:
            self._db.cut()
            self.wait(self._close(0))
            CLOCK.restart()

    async def _follow(
        self,
        assistant: str,
        given: Any,
        timeout: float = 30,  # noqa: ASYNC109
        check: bool = True,
        show: Callable[[Any], object] = id,
        **how: Any,
    ) -> KitRun:
        __tracebackhide__ = True
        thread_id, asked = self._arguments(
            given, **{"stream_mode": ["values", "updates"], "stream_subgraphs": True, **how}
        )
        run = KitRun(self, assistant, thread_id)
        try:
            async with asyncio.timeout(timeout):
                async for part in self._api.runs.stream(thread_id, assistant, **asked):
                    run.take(part.event, part.data)
                    show(part)
        except TimeoutError:
            places = "".join(f"\n  {place}" for place in node_places(self.server.runner.loop.loop))
            if run.run_id:
                await self.server.runner.cancel([(thread_id, run.run_id)], "interrupt", "it took too long")
            raise TimeoutError(f"the run of {assistant} has not ended after {timeout:g} s:{places}") from None
        if check and run.error:
            raise run.error
        return run

    def _arguments(
        self,
        given: Any,
        user: Any = None,
        configurable: Any = None,
        context: Any = None,
        thread: Any = None,
        **more: Any,
    ) -> tuple[str, JsonObject]:
        """Return the thread's id, and the arguments for the SDK's `runs.stream`."""
        name = user or self.user
        who = {"user_id": name} if name else {}
        if context is None:
            more["config"] = {**more.get("config", {}), "configurable": {**who, **(configurable or {})}}
        else:
            more["context"] = {**who, **context, **(configurable or {})}
        said = {"messages": [{"role": "user", "content": given}]} if isinstance(given, str) else given
        return thread or new_id(), {"input": said, "if_not_exists": "create", **more}


# -- the plugin for pytest --


def file_name(text: str) -> str:
    """Return a file name for a test: safe everywhere (Windows allows no CON), and another one for each text."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:80].strip(".-")
    is_safe = name == text and len(name.partition(".")[0]) > 4
    return name if is_safe else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class KitPlugin:
    """Fixtures and hooks for pytest: one server for the session, made when the first test asks for it."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self._mode = config.getoption("devserver_record") or "replay"
        self._kit: Kit | None = None
        self._tape: Tape
        self._item: Any = None  # the test that has the server
        self._recorded: dict[str, str] = {}  # the test that records to each file
        self._dummies: list[str] = []

    def devserver(self, request: Any) -> Iterator[Kit]:
        """Give a running devserver with a fresh, empty database."""
        item, marker = request.node, request.node.get_closest_marker("devserver")
        options = KitOptions(**marker.kwargs) if marker else KitOptions()
        warnings.filterwarnings("ignore", "The v3 streaming protocol on Pregel is experimental")
        with contextlib.ExitStack() as stack:
            if options.network == "block" and self._mode == "replay":
                stack.enter_context(without_network())
            kit = self._kit = self._kit or self._start(request.getfixturevalue("tmp_path_factory"))
            SCRIPTED.clear()
            self._tape.recording = recording = self._recording(item, options)
            if recording:
                stack.callback(recording.close)
                dummies = f"dummy values were set for {', '.join(self._dummies)}"
                item.user_properties += [("devserver", dummies)] * bool(self._dummies)
            stack.enter_context(kit.test(options))
            self._item = item
            yield kit
            self._item = self._tape.recording = None

    def devserver_model(self, devserver: Kit) -> Iterator[Any]:
        """Give a ScriptedChatModel that answers in place of every chat model."""
        self._tape.script = model = scripted_chat_model()()
        SCRIPTED.append(model._kept)
        yield model
        self._tape.script = None

    def _start(self, folders: Any) -> Kit:
        root, named = self.config.rootpath, self.config.getini("devserver_config")
        path, seed = root / (named or "langgraph.json"), self.config.getini("devserver_seed")
        settings = read_settings(path) if named or path.exists() else Settings(path=path, graphs={})
        if self._mode == "replay":
            self._dummies = set_dummy_keys()
        self._tape = Tape(self.config.getini("devserver_tools"))
        kit = Kit(settings, folders.mktemp("devserver"), root / seed if seed else None)
        self._tape.address = kit.url
        return kit

    def _recording(self, item: Any, options: KitOptions) -> Recording | None:
        """Return the recording of a test, beside it or where its marker says, or None. Raises StartError."""
        name = file_name(".".join(item.nodeid.split("::")[1:]))
        path = item.path.parent / "recordings" / item.path.stem / f"{name}.jsonl"
        if isinstance(options.replay, str | Path):
            path = item.path.parent / options.replay
        if options.replay is False or (self._mode == "replay" and options.replay is None and not path.exists()):
            return None
        first = self._recorded.setdefault(str(path).casefold(), item.nodeid)
        if first != item.nodeid and self._mode != "replay":
            raise StartError(f"{path}: {first} has recorded to it. Give each test a file of its own.")
        return Recording(path, self._mode, *map(self.config.getini, ("devserver_ignore", "devserver_scrub")))

    def pytest_runtest_call(self, item: Any) -> Any:
        """Fail a test for missing answers, and for unused ones, which its graph may have swallowed."""
        result = yield
        if item is self._item:
            import pytest

            problems, unused = self._problems(), self._tape.recording.unused() if self._tape.recording else []
            if self.config.getoption("devserver_strict"):
                problems += unused
            elif self._mode == "replay":
                item.user_properties += [("devserver", each) for each in unused]
            if problems:
                pytest.fail("\n".join(problems), pytrace=False)
        return result

    def _problems(self) -> list[str]:
        misses = self._tape.recording.misses if self._tape.recording else []
        return [*dict.fromkeys([*misses, *(each for script in SCRIPTED for each in script.problems())])]

    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        report = yield
        if report.failed and item is self._item and self._kit:
            report.sections.append(("devserver", self._tell(self._kit, item)))
        return report

    def _tell(self, kit: Kit, item: Any) -> str:
        """Return a report on a failed test: its runs, what its recording lacks, the command that opens its database."""
        lines = []
        for run_id, run in kit.server.db.look(contents)["runs"].items():
            lines.append(f"{run['status']:<12} run {run_id} of {run['assistant']} on thread {run['thread']}")
            if error := kit.errors.get(run_id):
                lines.append(f"             {type(error).__name__}: {error}")
        file = Path(kit.db).parent / "failed" / f"{file_name(item.name)}.db"
        with contextlib.suppress(StartError):
            file.parent.mkdir(exist_ok=True)
            copy_database(Path(kit.db), file)
        database = f"its database: devserver up --config {kit.settings.path} --db {file}"
        return "\n".join([*lines, *self._problems(), database])

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        reports = itertools.chain.from_iterable(terminalreporter.stats.values())
        told = [each for report in reports for each in getattr(report, "user_properties", ()) if each[0] == "devserver"]
        for _, line in dict.fromkeys(told):
            terminalreporter.write_line(f"devserver: {line}")

    def pytest_unconfigure(self) -> None:
        if self._kit:
            self._kit.stop()
            self._tape.stop()
            set_variables(dict.fromkeys(self._dummies))
            self._kit = None


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("devserver")
    record = "ask models, and record their answers: those that recordings lack, or all"
    group.addoption("--devserver-record", choices=["missing", "all"], help=record)
    group.addoption(
        "--devserver-strict", action="store_true", help="fail tests that leave entries of recordings unused"
    )
    parser.addini("devserver_config", "langgraph.json of the application, from the root folder of the tests")
    parser.addini("devserver_seed", "a snapshot that the database of each test begins with")
    parser.addini("devserver_ignore", "patterns of texts that change from run to run, such as dates", "linelist")
    parser.addini("devserver_scrub", "patterns of texts that are not written to recordings", "linelist")
    parser.addini("devserver_tools", "names of tools whose answers are recorded, too", "args")


def pytest_configure(config: Any) -> None:
    import pytest

    if config.getoption("devserver_record") and os.environ.get("CI"):
        raise pytest.UsageError("--devserver-record is refused where CI is set: record on your own machine")
    marker = "devserver(user=None, clock=None, network='block', replay=None, graphs={}): how a test is served"
    config.addinivalue_line("markers", marker)
    for hook in (KitPlugin.pytest_runtest_makereport, KitPlugin.pytest_runtest_call):
        pytest.hookimpl(wrapper=True)(hook)
    fixtures = {name: pytest.fixture(getattr(KitPlugin, name)) for name in ("devserver", "devserver_model")}
    config.pluginmanager.register(type("Plugin", (KitPlugin,), fixtures)(config), "devserver-kit")


########################################################################################################
# 16  Way up
########################################################################################################

COPY_KINDS = ("assistants", "threads", "store", "crons")  # in this order: crons name the others
COPY_MARK = "devserver_copy"  # in the metadata of a copy; empty until a thread is whole
COPY_PAUSES = (0.5, 1, 2, 4, 8)  # s before a request is sent again
JSON_TYPE = {"content-type": "application/json"}
MAX_COPY_PAUSE = 60  # s: the longest that a server may ask for
CRON_SECRETS = re.compile(
    r"^(webhook|headers|cookie|authorization|x-.*|(.*[-_])?(api[-_]?key|token|secret|password))\Z", re.I | re.S
)


class CopyError(Exception):
    """Why something is not copied, with the status of the answer that says so; 0 if a server cannot be asked."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class CopyEnd:
    """A server that is copied from or to. One that is busy is asked again, a few times, as late as it says."""

    http: httpx.AsyncClient
    is_known: bool = False  # it has answered before

    @classmethod
    async def of(cls, path: str, settings: Settings, stack: contextlib.AsyncExitStack) -> Self:
        """Serve a database to this process alone: no run starts, no cron fires, nothing expires, and no Auth decides.
        Raises StartError and Unavailable."""
        still = settings.model_copy(update={"http": HttpSettings(), "auth": None})
        db = Db(path, vectors=still.store.index is not None)
        await db.open()
        stack.push_async_callback(db.close)
        server = await load_server(still, db, 1, "http://localhost")
        server.runner.loop.start()
        stack.push_async_callback(server.runner.stop)
        transport = httpx.ASGITransport(create_app(server, "localhost", False))
        return cls(httpx.AsyncClient(base_url="http://localhost", transport=transport))

    async def ask(self, method: str, path: str, body: JsonObject | None = None, **query: str) -> Any:
        """Return an answer, None if what is to be got is not there. Raises CopyError."""
        content = None if body is None else to_json(body)
        may_repeat = method in ("GET", "PUT", "DELETE") or path.endswith(("search", "versions", "history", "threads"))
        for pause in (*COPY_PAUSES, None):
            status, asked, unheard = 0, "", may_repeat
            try:
                answer = await self.http.request(method, path, content=content, params=query or None, headers=JSON_TYPE)
                status, asked, self.is_known = answer.status_code, answer.headers.get("retry-after", ""), True
                problem = f"{method} {path}: {status} {answer.text[:300]}"
            except httpx.TransportError as error:
                problem, unheard = (
                    str(error) or type(error).__name__,
                    may_repeat or isinstance(error, httpx.ConnectError),
                )
            is_first = status == 500 and pause == COPY_PAUSES[0]  # mostly a fault that stays
            is_busy = status in (429, 503) or (unheard and (status == 0 or status > 500 or is_first))
            if pause is None or not (is_busy and self.is_known):
                break
            with contextlib.suppress(ValueError):  # a number, or a moment
                date = 0 if asked.isdecimal() else email.utils.parsedate_to_datetime(asked).timestamp()
                pause = max(pause, date - CLOCK.micros() / 1e6 if date else int(asked))
            await asyncio.sleep(min(pause, MAX_COPY_PAUSE))
        if status == 404 and method in ("GET", "DELETE"):
            return None
        if not 200 <= status < 300:
            is_lost = is_busy and status in (0, 429, 503)
            raise CopyError(f"{self.http.base_url}: {problem}", 0 if is_lost else status or 400)
        try:
            return orjson.loads(answer.content) if answer.content else None
        except orjson.JSONDecodeError:
            raise CopyError(f"{self.http.base_url} is no LangGraph server: {problem}", 0) from None

    async def rows(self, path: str, **body: Any) -> AsyncIterator[JsonObject]:
        """Yield all that a search finds; a server that has nothing (more) may say so with 404."""
        offset, rows = 0, [JsonObject()]
        while rows:
            try:
                found = await self.ask("POST", path, {**body, "limit": 50, "offset": offset})
            except CopyError as error:
                if error.status not in (404, 405):
                    raise
                return
            before, rows = rows, found["items"] if isinstance(found, dict) else found
            if rows == before:  # a server that knows no offset
                return
            offset += len(rows)
            for row in rows:
                yield row


@dataclass
class ThreadLine:
    """The states that led to a thread's last one, and how to make them. What a live run, or one that asks a question,
    has added since the last settled state is left out."""

    left_out: str  # why something is
    digests: list[bytes] = field(default_factory=list)  # of values and next nodes, oldest first
    supersteps: list[JsonObject] | None = field(default_factory=list)  # None if they can't be told
    nexts: list[list[str]] = field(default_factory=list)  # the nodes that follow each superstep
    last_id: str | None = None  # of the last checkpoint
    settled: tuple[bytes, JsonObject] | None = None  # the last state that waits for nothing: digest, and update
    unnamed: list[JsonObject] = field(default_factory=list)  # updates by the node that ran before, which is yet to come

    @classmethod
    async def read(cls, end: CopyEnd, thread_id: str, left_out: str = "") -> Self:
        line, after, place = cls(left_out), None, JsonObject()
        wanted: str | None = None
        while page := await end.ask("POST", f"/threads/{thread_id}/history", {"limit": 50, **place}):
            for state in page:
                checkpoint_id = state["checkpoint"]["checkpoint_id"]
                if not place and any(task.get("interrupts") for task in state["tasks"]):
                    line.left_out = line.left_out or "a question waits for its answer"
                place = {"before": {"configurable": {"checkpoint_id": checkpoint_id}}}
                is_cut = line.last_id is None and line.left_out and state["next"]
                if not is_cut and (line.last_id is None or checkpoint_id == wanted):  # others are of forks
                    line.last_id = line.last_id or checkpoint_id
                    line._lead(state, after)
                    after, wanted = state, (state["parent_checkpoint"] or {}).get("checkpoint_id")
            if after and not wanted:
                line._lead({"values": {}, "next": None, "tasks": []}, after)
                break
        return line

    def _lead(self, state: JsonObject, after: JsonObject | None) -> None:
        """Add a state that comes before the first so far, and the superstep between them."""
        old, tasks = state["values"], state["tasks"]
        for task in tasks:
            for update in self.unnamed if task["name"] != START else ():
                update["as_node"] = task["name"]
            self.unnamed = self.unnamed if task["name"] == START else []
        if state["next"] is not None:  # else it stands for nothing
            told = orjson.dumps([_filled(old), sorted(state["next"])], option=orjson.OPT_SORT_KEYS)
            self.digests.insert(0, hashlib.sha256(told).digest())
            if not (self.settled or state["next"]):
                self.settled = self.digests[0], {"values": old, "as_node": START}
                self.unnamed.append(self.settled[1])
        if after is None or self.supersteps is None:
            return
        source, new = after["metadata"]["source"], after["values"]
        updates = [{"values": _written(task.get("result"), old, new), "as_node": task["name"]} for task in tasks]
        if source == "input" and after["tasks"]:
            updates = [{"values": after["tasks"][0].get("result"), "as_node": "__input__"}]
        elif source == "update" and isinstance(new, dict):
            changed = {key: _added(old.get(key), value) for key, value in new.items() if old.get(key) != value}
            updates = [{"values": changed, "as_node": tasks[0]["name"] if tasks else START}]
            self.unnamed += updates if state["next"] == after["next"] else []
        self.supersteps = [{"updates": updates}, *self.supersteps] if updates else None
        self.nexts.insert(0, after["next"])

    def ways(self) -> Iterator[tuple[str, list[JsonObject], list[bytes]]]:
        """Yield the supersteps to make the thread by, best first, with a word for those that lose something, and the
        digests of the last states that they are to show."""
        if self.supersteps is not None:
            yield "", self.supersteps, self.digests
            steered = copy.deepcopy(self.supersteps)  # for nodes that say themselves who is next
            for step, following in zip(steered, self.nexts, strict=True):
                if (last := step["updates"][-1])["as_node"] != "__input__":
                    last["command"] = {"update": last.pop("values"), "goto": following}
            yield "", steered, self.digests
        if self.settled:
            digest, step = self.settled
            loss = "without its history" + ("" if digest == self.digests[-1] else ", as it was when last settled")
            yield loss, [{"updates": [step]}], [digest]
            yield loss, [{"updates": [step]}, {"updates": [{"values": None, "as_node": END}]}], [digest]


def _filled(value: Any) -> Any:
    """Return a value without empty members of objects, which servers leave out or not as they like."""
    if isinstance(value, dict):
        filled = {key: _filled(member) for key, member in value.items()}
        return {key: member for key, member in filled.items() if member not in (None, [], {})}
    return [_filled(member) for member in value] if isinstance(value, list) else value


def _added(old: Any, new: Any) -> Any:
    """Return what was added to a list, or else the whole value."""
    is_longer = isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old
    return new[len(old) :] if is_longer else new


def _written(update: Any, old: Any, new: Any) -> Any:
    """Return what a node wrote of the state, its messages with the ids that they got there."""
    if not all(isinstance(each, dict) for each in (update, old, new)):
        return update
    written = {key: value for key, value in update.items() if key in new}  # a shared value is not
    for key, value in written.items():
        left = [each for each in as_list(_added(old.get(key), new[key])) if isinstance(each, dict) and each.get("id")]
        written[key] = members = [*as_list(value)] if left else value
        for number, member in enumerate(members if left else ()):
            given = (
                member if isinstance(member, dict) else {"content": member[-1] if isinstance(member, list) else member}
            )
            told = {name: given[name] for name in ("content", "tool_calls", "tool_call_id") if given.get(name)}
            alike = [each for each in left if told and all(each.get(name) == told[name] for name in told)]
            if alike and not given.get("id"):
                left.remove(alike[0])
                members[number] = alike[0]
    return written


@dataclass
class Copy:
    """A copy of what one server holds to another.

    The source is only read. At the target nothing is changed but what a former copy made and nobody has touched since.
    """

    source: CopyEnd
    target: CopyEnd
    options: types.SimpleNamespace
    names: dict[str, str]  # of graphs and assistants: the target's by the source's
    counts: dict[str, Counter[str]] = field(default_factory=dict)  # outcomes by kind
    remarks: list[JsonObject] = field(default_factory=list)  # on what was refused, or not copied whole
    lost: str = ""  # why the copy was broken off

    async def run(self, tell: Callable[[str], None]) -> None:
        """Copy all that there is of some kinds."""
        kinds: dict[str, tuple[str, JsonObject, Callable[[JsonObject], Coroutine[Any, Any, str]]]] = {
            "assistants": ("/assistants/search", {}, self.assistant),
            "threads": ("/threads/search", {"sort_by": "created_at"}, self.thread),
            "store": ("/store/items/search", {"namespace_prefix": [], "refresh_ttl": False}, self.item),
            "crons": ("/runs/crons/search", {}, self.cron),
        }
        try:
            await self._find_graphs()
            for kind in self.options.only:
                search, body, copy_one = kinds[kind]
                async for row in self.source.rows(search, **body):
                    told = {key: (str(value), json.dumps(value)) for key, value in row.get("metadata", {}).items()}
                    wanted = (each.partition("=") for each in self.options.metadata if kind != "store")
                    if all(text in told.get(key, ()) for key, _, text in wanted):
                        await self._copy(kind, row, copy_one)
                        tell(f"{kind}: {sum(each.total() for each in self.counts.values())}")
        except CopyError as error:
            self.lost = str(error)

    async def _find_graphs(self) -> None:
        """Find the target's own assistants of the graphs."""
        own = {"metadata": {"created_by": "system"}}
        theirs = {row["graph_id"]: row["assistant_id"] async for row in self.target.rows("/assistants/search", **own)}
        async for row in self.source.rows("/assistants/search", **own):
            graph_id = self._name(row["graph_id"])  # names it where the sender may not see it
            self.names.setdefault(row["assistant_id"], theirs.get(graph_id, graph_id))

    async def _copy(
        self, kind: str, row: JsonObject, copy_one: Callable[[JsonObject], Coroutine[Any, Any, str]]
    ) -> None:
        """Copy one object; with --verify do so again, which has to find it there."""
        try:
            outcome = await copy_one(row)
            if self.options.verify and not self.options.dry_run and await copy_one(row) != "there":
                raise CopyError("reading back shows something else")
        except CopyError as error:
            if error.status == 0:
                raise
            outcome = "refused"
            self._remark(outcome, kind, row, str(error))
        is_shared = kind == "store" and row["namespace"][0] == SHARED_ROOT
        self.counts.setdefault("shared values" if is_shared else kind, Counter())[outcome] += 1

    def _remark(self, what: str, kind: str, row: JsonObject, reason: str) -> None:
        name = row.get(f"{kind[:-1]}_id") or f"{'.'.join(row['namespace'])} {row['key']}"
        self.remarks.append({"what": what, "kind": kind, "id": name, "reason": reason})

    def _name(self, name: str) -> str:
        return self.names.get(name, name)

    def _own(self, metadata: JsonObject) -> JsonObject:
        """Return metadata as they are at the target, without the mark of a copy that the source is."""
        kept = {key: value for key, value in metadata.items() if key not in (COPY_MARK, "assistant_id")}
        return kept | ({"graph_id": self._name(kept["graph_id"])} if kept.get("graph_id") else {})

    async def assistant(self, row: JsonObject) -> str:
        """Copy the versions that the target lacks; of a graph's own assistant those that users have made."""
        is_system = row["metadata"].get("created_by") == "system"
        if is_system and row["version"] == 1:
            return "there"  # each server has its own
        name, number = self._name(row["assistant_id"]), operator.itemgetter("version")
        searches = [(self.source, row["assistant_id"]), (self.target, name)]
        pages = [[each async for each in end.rows(f"/assistants/{own}/versions")] for end, own in searches]
        given, there = (sorted(page, key=number) for page in pages)
        newest: JsonObject = there[-1] if there else {"version": 0, "metadata": {COPY_MARK: {}}}
        mark = newest["metadata"].get(COPY_MARK)
        if is_system:
            given, mark = given[1:], mark or ({} if len(there) == 1 else None)
            if not there:
                raise CopyError(f"the target shows no graph {self._name(row['graph_id'])}: see --map")
        told = {key: newest.get(key) or {} for key in ("config", "context")}  # not every server tells empty ones
        is_same = contains(newest | told, self._as_made(given[-1]))
        is_changed = mark is None or mark.get("as", newest["version"]) != newest["version"]
        missing = [each for each in given if not is_changed and each["version"] > mark.get("version", 0)]
        if not is_same and (is_changed or not missing):
            raise CopyError("the target has an assistant of this id, made or changed there")
        for at, version in enumerate([] if self.options.dry_run else missing, newest["version"] + 1):
            body = self._as_made(version) | {"assistant_id": name, "if_exists": "do_nothing"}
            body["metadata"][COPY_MARK] = {"version": version["version"], "as": at}
            await self.target.ask(*(("PATCH", f"/assistants/{name}") if at > 1 else ("POST", "/assistants")), body)
        if row["version"] < given[-1]["version"] and not (is_changed or self.options.dry_run):
            current = await self.target.ask("GET", f"/assistants/{name}")
            if current["version"] == given[-1]["version"]:  # the last thing that a copy does, which may have been cut
                await self.target.ask("POST", f"/assistants/{name}/latest", {"version": row["version"]})
        return "copied" if missing else "there"

    def _as_made(self, version: JsonObject) -> JsonObject:
        """Return a version as it is made at the target, where context and configurable mirror each other."""
        made = {key: version[key] for key in ("name", "description") if version.get(key)}
        made |= {key: version.get(key) or {} for key in ("config", "context")}
        if made["context"]:
            made["config"] = {key: value for key, value in made["config"].items() if key != "configurable"}
        return {**made, "graph_id": self._name(version["graph_id"]), "metadata": self._own(version["metadata"])}

    async def thread(self, row: JsonObject) -> str:
        """Copy a thread: its history if the target takes it, which reading back shows, else its last settled state."""
        name, path, metadata = row["thread_id"], f"/threads/{row['thread_id']}", self._own(row["metadata"])
        there = await self.target.ask("GET", path)
        mark = there and there["metadata"].get(COPY_MARK)
        is_done = bool(mark and mark["updated_at"] == row["updated_at"])
        if is_done and not self.options.verify:
            return "there"
        line = await ThreadLine.read(self.source, name, "a run goes on" if row["status"] == "busy" else "")
        if there and mark != {}:
            made = await ThreadLine.read(self.target, name)
            states = line.digests[-1:], [line.settled[0]] if line.settled else []
            if (is_done or mark is None) and made.digests[-1:] in states and contains(there["metadata"], metadata):
                return "there"
            if is_done or mark is None or there["status"] == "busy" or made.last_id != mark["as"]:
                raise CopyError("the target has a thread of this id, made or continued there")
        if self.options.dry_run:
            return "copied"
        if there:
            await self.target.ask("DELETE", path)
        made, loss = await self._make_thread(row, {**metadata, COPY_MARK: {}}, line)
        mark = {"updated_at": row["updated_at"], "as": made.last_id}
        await self.target.ask("PATCH", path, {"metadata": {COPY_MARK: mark}})
        if line.left_out or loss:
            self._remark("note", "threads", row, ": ".join(filter(None, (line.left_out, loss or "that is left out"))))
        return "copied"

    async def _make_thread(self, row: JsonObject, metadata: JsonObject, line: ThreadLine) -> tuple[ThreadLine, str]:
        """Make a thread in the best way that the target takes. Return what it shows, and what is lost on the way."""
        path, problem = f"/threads/{row['thread_id']}", CopyError("the target cannot be given its state")
        for loss, supersteps, digests in line.ways():
            body = {"thread_id": row["thread_id"], "metadata": metadata, "if_exists": "do_nothing"}
            try:
                await self.target.ask("POST", "/threads", {**body, "supersteps": supersteps})
                made = await ThreadLine.read(self.target, row["thread_id"])
                if not made.digests:  # some servers know no supersteps; states they know
                    for update in [update for step in supersteps for update in step["updates"]]:
                        await self.target.ask("POST", f"{path}/state", update)
                    made = await ThreadLine.read(self.target, row["thread_id"])
                if made.digests == digests or (loss and made.digests[-1:] == digests):
                    return made, loss
            except CopyError as error:
                if error.status == 0:
                    raise
                problem = error
            await self.target.ask("DELETE", path)
        raise problem

    async def item(self, row: JsonObject) -> str:
        """Copy an item, unless the target's own was written later."""
        place = {"namespace": ".".join(row["namespace"]), "key": row["key"], "refresh_ttl": "false"}
        there = await self.target.ask("GET", "/store/items", **place)
        if there and there["value"] == row["value"]:
            return "there"
        if there and parse_moment(there["updated_at"]) > parse_moment(row["updated_at"]):
            raise CopyError("the target has another value, written later")
        if not self.options.dry_run:
            await self.target.ask("PUT", "/store/items", {key: row[key] for key in ("namespace", "key", "value")})
        return "copied"

    async def cron(self, row: JsonObject) -> str:
        """Copy a cron, disabled, without what may be a secret."""
        name, fields = row["cron_id"], ("schedule", "timezone", "end_time", "on_run_completed")
        wanted = {key: row[key] for key in fields if row.get(key)}
        search = self.target.rows("/runs/crons/search", metadata={COPY_MARK: name})
        found = [each async for each in search if (each.get("metadata") or {}).get(COPY_MARK) == name]
        there = found[0] if found else {}  # not every server tells all
        if self.options.verify and any(there.get(key) not in (None, value) for key, value in wanted.items()):
            raise CopyError("the target has changed it")
        if found or self.options.dry_run:
            return "there" if found else "copied"
        asked = {key: value for key, value in row["payload"].items() if value is not None}
        run = asked if self.options.with_secrets else without_keys(asked, CRON_SECRETS)
        if run != asked:
            self._remark("note", "crons", row, "without its webhook and what looks like headers: see --with-secrets")
        run |= {key: asked[key] for key in ("input", "command") if key in asked}
        run |= {"metadata": {**self._own(row["metadata"]), COPY_MARK: name}, "enabled": False, **wanted}
        run["assistant_id"] = self._name(row["assistant_id"])
        place = f"/threads/{row['thread_id']}/runs/crons" if row.get("thread_id") else "/runs/crons"
        made = await self.target.ask("POST", place, run)
        if made.get("enabled") is not False:
            made = await self.target.ask("PATCH", f"/runs/crons/{made['cron_id']}", {"enabled": False})
        if made.get("enabled") is not False:
            await self.target.ask("DELETE", f"/runs/crons/{made['cron_id']}")
            raise CopyError("the target has no crons that are disabled")
        return "copied"

    def report(self, url: str) -> int:
        """Tell how it went, and return the exit status."""
        outcomes, would = ("copied", "there", "refused"), "would be" if self.options.dry_run else ""
        rows = {kind: {outcome: count[outcome] for outcome in outcomes} for kind, count in self.counts.items()}
        if self.options.as_json:
            parts = {"url": url, "dry_run": self.options.dry_run, "kinds": rows, "remarks": self.remarks}
            click.echo(json.dumps({**parts, "lost": self.lost}))
        else:
            click.echo(f"{would:14}{'copied':>8}{'was there':>11}{'refused':>9}")
            for kind, row in rows.items():
                click.echo(f"{kind:14}{row['copied']:8}{row['there']:11}{row['refused']:9}")
            for each in self.remarks:
                click.echo("{what}: {kind} {id}: {reason}".format(**each))
            click.echo("Copies belong to whom the target takes the sender for, and are as of now.")
        if self.lost:
            click.echo(f"Error: broken off; the same command goes on from here: {self.lost}", err=True)
        total = sum(self.counts.values(), Counter())
        return 0 if not (self.lost or total["refused"]) else 1 if total["copied"] + total["there"] else 2


########################################################################################################
# 17  CLI
########################################################################################################

DEFAULT_PORT = 2024
LOCALHOST = ("127.0.0.1", "::1")  # clients try either first


def bind(host: str, port: int | None) -> list[socket.socket]:
    """Return a listening socket for each address of a host, all on one port. Without a port it is the default one, or
    the next that is free. Raises StartError."""
    addresses = LOCALHOST if host == "localhost" else (host,)
    first = DEFAULT_PORT if port is None else port
    candidates = range(first, first + 100) if port is None else [port] * (1 if port else 20)  # 0: a new one each time
    for candidate in candidates:
        with contextlib.ExitStack() as stack:
            listeners: list[socket.socket] = []
            for address in addresses:
                try:
                    listener = stack.enter_context(listen(address, candidate))
                except OSError as error:
                    problem, is_taken = error, error.errno in (errno.EADDRINUSE, errno.EACCES)
                    if is_taken or not listeners:
                        break
                    continue  # the machine has no IPv6
                listeners.append(listener)
                candidate = listener.getsockname()[1]
            else:
                stack.pop_all()
                return listeners
        if not is_taken:
            break
    if port is None and is_taken:
        raise StartError(f"cannot listen on {address}: ports {first} to {candidate} are taken ({problem.strerror})")
    raise StartError(
        f"cannot listen on {address}:{candidate}: {problem.strerror}. Choose another with --port, or --port 0."
    )


def page_address(server: Server, address: str) -> str:
    return f"{address}/ui" if server.app else f"{address}/"  # an http.app may have a root of its own


def banner(server: Server, address: str, port: int | None, reload: bool) -> str:
    """Return the lines to print at the start: addresses, database, graphs, reload."""
    lines = [f"devserver {__version__}", f"  API       {address}"]
    if not server.settings.http.disable_meta:
        lines += [f"  Page      {page_address(server, address)}", f"  Docs      {address}/docs"]
    if port is None and f":{DEFAULT_PORT}" not in address:
        lines.append(f"            PORT {DEFAULT_PORT} IS TAKEN: point your clients at {address}")
    line = '$env:LANGGRAPH_API_URL = "{}"' if sys.platform == "win32" else "export LANGGRAPH_API_URL={}"
    lines.append(f"  Clients   {line.format(address)}")
    kept = "kept between starts" if server.db.persistent else "gone when the server stops"
    lines.append(f"  Database  {server.db.path} ({kept})")
    lines += [f"  Graph     {loaded.spec.graph_id}  {loaded.spec.path}" for loaded in server.graphs.loaded.values()]
    lines.append(f"  Reload    {'on: changed code is served at once' if reload else 'off'}")
    return "\n".join(lines)


class Scarcity(logging.Filter):
    """Lets asyncio log only once a minute, in one line, that no connection can be accepted: it would each second."""

    _silent_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if "accept() out of system resource" not in str(record.msg):
            return True
        if time.monotonic() < self._silent_until:
            return False
        self._silent_until = time.monotonic() + 60
        record.msg = "no file descriptor is left for a new connection: close clients, or raise the limit (ulimit -n)"
        record.exc_info = None
        return True


def setup_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(level)
    broken_off = "ASGI callable returned without completing response."  # on purpose, by CutResponse
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.getMessage() != broken_off)

    def handle(record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # whatever a graph has done to logging, or to stderr
            logging.Logger.handle(log, record)

    log.handle = handle  # type: ignore[method-assign]
    logging.getLogger("asyncio").addFilter(Scarcity())
    warnings.filterwarnings("ignore", "The v3 streaming protocol on Pregel is experimental")


async def serve(options: types.SimpleNamespace) -> int:
    """Serve until a signal or, if `options` has a command, until that ends; return the exit status. Raises StartError,
    with everything closed, whatever prevents the start."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            http, listeners = await prepare(options, stack)
        except Exception as error:
            known, kind = isinstance(error, StartError | Unavailable), type(error).__name__
            told = str(error) if known else f"cannot start: {kind}: {error} (--verbose tells where)"
            raise StartError(told) from error

        async def serve_http() -> None:
            with contextlib.suppress(SystemExit):  # uvicorn has logged why it cannot start
                await http.serve(sockets=listeners)

        serving = asyncio.ensure_future(serve_http())
        code = await run_command(options.command, http, serving) if options.command else 0
        await serving
        if not http.started:
            raise StartError("http.app failed to start: see above")
        return code


async def run_command(command: Sequence[str], http: uvicorn.Server, serving: asyncio.Future[None]) -> int:
    """Run a command beside the server, pass signals on to it, and return its exit status in a shell's form."""

    def pass_on(number: int, frame: Any) -> None:
        if number != signal.SIGINT or not sys.stdin.isatty():  # a terminal sends Ctrl+C to both
            process.send_signal(number)

    while not (http.started or serving.done()):  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.001)
    if serving.done():
        return 1
    try:
        process = subprocess.Popen(command)  # noqa: ASYNC220, S603  the user's own command
    except OSError as error:
        http.should_exit = True
        await serving
        raise StartError(f"{command[0]} cannot be run: {error.strerror}") from None
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), pass_on)
    code = await asyncio.to_thread(process.wait)
    http.should_exit = True
    return code if code >= 0 else 128 - code


def read_project(options: types.SimpleNamespace) -> Settings:
    """Read langgraph.json and set the environment that it and --env-file describe. Raises StartError."""
    settings = read_settings(options.config)
    for name, value in (settings.environment() | read_env_file(options.env_file)).items():
        os.environ.setdefault(name, value)
    return settings


async def prepare(
    options: types.SimpleNamespace, stack: contextlib.AsyncExitStack
) -> tuple[uvicorn.Server, list[socket.socket]]:
    """Start all but HTTP, and return uvicorn and the listening sockets, in whose queues connections wait meanwhile. The
    stack gets the callbacks that stop everything. Raises StartError, Unavailable and whatever else prevents it."""
    import uvicorn

    settings = read_project(options)
    if (file := settings.env_file) and not file.exists():
        log.warning("%s: the env file %s is not there, its variables are not set", settings.path, file)
    if settings.not_served:
        log.warning("%s: not served yet, ignored: %s", settings.path, ", ".join(settings.not_served))
    if options.offline:
        stack.enter_context(without_network())
    tls = tls_context(options)
    listeners = [stack.enter_context(listener) for listener in bind(options.host, options.port)]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
    name = f"[{host}]" if ":" in host else host
    address = f"{'https' if tls else 'http'}://{name}:{listeners[0].getsockname()[1]}"
    base = os.environ["LANGGRAPH_API_URL"] = address + settings.http.mount_prefix  # for the application's own clients
    await debugger(options)
    stack.enter_context(taped(options.record, options.replay, base))
    path = options.db or str(settings.path.parent / "devserver.db")
    if options.seed:
        copy_database(options.seed, Path(path))
    db = Db(path, options.full_sync, vectors=settings.store.index is not None)
    await db.open()
    stack.push_async_callback(db.close)
    server = await start_server(settings, db, options.max_concurrency, address)
    stack.push_async_callback(server.runner.stop)
    app = create_app(server, options.host, options.studio, [TEST_CLOCK] if options.test_clock else [])
    http, ws = _protocols()
    own: Any = {"http": http, "ws": ws, "lifespan": "on" if server.app else "off"}
    # backlog: else asyncio tries 2048 times to accept a connection for which there is no file descriptor, and logs each
    config = uvicorn.Config(app, log_level=max(logging.WARNING, log.level), access_log=False, backlog=1, **own)
    config.load()
    config.ssl = tls
    # never walk again what is loaded by now; a collection every 700 allocations takes a sixth of the time of small runs
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()
    if not options.command:
        click.echo(banner(server, base, options.port, options.reload))
    if options.reload:
        watcher = asyncio.ensure_future(reload_on_change(server))
        stack.push_async_callback(asyncio.wait, [watcher])
        stack.callback(watcher.cancel)
    if options.open_browser:
        click.launch(page_address(server, base))
    return _http_server(config, server), listeners


def tls_context(options: types.SimpleNamespace) -> ssl.SSLContext | None:
    """Return the TLS context, None if no certificate is given. Raises StartError."""
    import ssl

    if not options.ssl_certfile:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
    except OSError as error:
        files = f"{options.ssl_certfile} and {options.ssl_keyfile}"
        raise StartError(f"{files} are no certificate and its key, as PEM files: {error}") from None
    return context


async def debugger(options: types.SimpleNamespace) -> None:
    """Let a debugger attach if there is --debug-port, and wait for it with --wait-for-client. Raises StartError."""
    if options.debug_port is None:
        return
    host = LOCALHOST[0] if options.host == "localhost" else options.host
    try:
        debugpy = importlib.import_module("debugpy")
        debugpy.listen((host, options.debug_port))
    except ModuleNotFoundError:
        raise StartError(f"--debug-port needs debugpy. {how_to_install('debug')}") from None
    except Exception as error:  # debugpy has no class of its own for this
        raise StartError(f"cannot listen for a debugger on {host}:{options.debug_port}: {error}") from error
    log.info("a debugger may attach to %s:%s", host, options.debug_port)
    while options.wait_for_client and not debugpy.is_client_connected():  # noqa: ASYNC110  it has no other way
        await asyncio.sleep(0.05)


def raise_file_limit() -> None:
    """Let the process open 4,096 files, if it may: macOS allows 256 by default, too few for many streams."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


MAX_HEAD_BYTES = 256 * 1024
MAX_CONNECTIONS = 450 if sys.platform == "win32" else None  # select() takes 512 sockets there, of any kind


def _protocols() -> tuple[type[asyncio.Protocol], type[asyncio.Protocol]]:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
    from websockets.exceptions import InvalidState

    class HttpProtocol(HttpToolsProtocol):
        """uvicorn's, with limits for the head of a request and, on Windows, for the number of connections."""

        _head = 0  # bytes of a head that is not complete yet
        _silent_until = 0.0

        if MAX_CONNECTIONS is not None:

            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                if len(self.connections) > MAX_CONNECTIONS:
                    transport.write(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n")
                    transport.close()
                    if time.monotonic() > HttpProtocol._silent_until:
                        HttpProtocol._silent_until = time.monotonic() + 60
                        log.error("%d connections are open, more are refused: close clients", MAX_CONNECTIONS)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            is_complete = "method" in (self.scope or ())
            self._head = 0 if is_complete else self._head + len(data)
            if self._head > MAX_HEAD_BYTES:
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
                self.transport.close()

    class WebSocketProtocol(WebSocketsSansIOProtocol):
        """uvicorn's, but one that is closing does not break the server's shutdown, as it did before uvicorn 0.53."""

        def shutdown(self) -> None:
            try:
                super().shutdown()
            except InvalidState:
                self.transport.close()

    return HttpProtocol, WebSocketProtocol


def _http_server(config: uvicorn.Config, server: Server) -> uvicorn.Server:
    import uvicorn

    class HttpServer(uvicorn.Server):
        """uvicorn's, but on a signal it stops the runner before it waits for connections to close."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            for listening in sockets or ():
                listening.listen(BACKLOG)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for listening in self.servers:
                listening.close()
            if active := server.runner.load()["active"]:
                log.info("stopping: waiting for %s run%s", active, "s" * (active > 1))
            stopping = asyncio.ensure_future(server.runner.stop())
            while not stopping.done() and not self.force_exit:
                await asyncio.wait([stopping], timeout=0.05)
            await super().shutdown(sockets)

        def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
            """Stop; at once at a second Ctrl+C. Unlike uvicorn's, this does not send the signal again at the end."""
            self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
            self.should_exit = True

    http = HttpServer(config)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it
        signal.signal(signal.SIGHUP, http.handle_exit)
    return http


@click.group()
@click.version_option(__version__, prog_name="devserver")
def main() -> None:
    """A local, offline server for LangGraph applications."""
    with contextlib.suppress(AttributeError, OSError):  # a console may lack letters of a path, or of a print()
        cast(Any, sys.stdout).reconfigure(errors="backslashreplace")


PEM_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
LOG_LEVELS = click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False)
FILE = click.Path(dir_okay=False, path_type=Path)
CONFIG = click.option("--config", type=click.Path(path_type=Path), default=Path("langgraph.json"), show_default=True)
DB = click.option("--db", help="Database file  [default: devserver.db beside langgraph.json]")


def kit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `up` and `exec` share: most are for tests."""
    for option in (
        CONFIG,
        click.option("--record", type=FILE, help="Write down what models answer; ask them what the file lacks."),
        click.option("--replay", type=FILE, help="Let models answer from a recording alone, without a key."),
        click.option("--seed", type=FILE, help="Begin with a copy of this snapshot; the database must not exist."),
        click.option("--test-clock", is_flag=True, help="Let POST /devserver/clock move the server's clock."),
        click.option("--env-file", type=click.Path(path_type=Path), help="Environment variables; those set win."),
    ):
        command = option(command)
    return command


@main.command(context_settings={"show_default": True})
@kit_options
@click.option("--host", default="localhost", help="Where to listen. localhost stands for 127.0.0.1 and ::1.")
@click.option("--port", type=click.IntRange(0, 65535), help="0 picks a free one.  [default: 2024, or the next free]")
@click.option("--db", help="Database file, or :memory:  [default: devserver.db beside langgraph.json]")
@click.option("--no-reload", is_flag=True, help="Do not reload graphs when their code changes.")
@click.option("--open/--no-browser", "open_browser", help="Open the page in a browser, or don't.")
@click.option("--max-concurrency", "--n-jobs-per-worker", type=click.IntRange(1), default=200, help="Runs at once.")
@click.option("--full-sync", is_flag=True, help="Survive power cuts too: the disk confirms every commit.")
@click.option("--studio", is_flag=True, help=f"Let {STUDIO_ORIGIN} use this server from your browser.")
@click.option("--ssl-certfile", type=PEM_FILE, help="Serve https with this certificate.")
@click.option("--ssl-keyfile", type=PEM_FILE, help="The key of the certificate.")
@click.option("--debug-port", type=click.IntRange(1, 65535), help="Let a debugger attach here. Needs debugpy.")
@click.option("--wait-for-client", is_flag=True, help="Wait until a debugger has attached.")
@click.option("--server-log-level", type=LOG_LEVELS, default="info")
@click.option("--verbose", is_flag=True, help="Log more: the same as --server-log-level debug.")
@click.option("--allow-blocking", is_flag=True, hidden=True, expose_value=False)  # it is allowed
@click.option("--studio-url", hidden=True, expose_value=False)  # no Studio is opened
@click.option("--tunnel", is_flag=True, hidden=True)
def up(verbose: bool, server_log_level: str, no_reload: bool, tunnel: bool, **options: Any) -> None:
    """Serve the graphs of langgraph.json; up and dev are the same."""
    if tunnel:
        raise click.UsageError(
            "--tunnel is not served: devserver lets nobody in from outside. For a tunnel of your own, name its host "
            "under http.allowed_hosts in langgraph.json, and protect it with auth."
        )
    if bool(options["ssl_certfile"]) != bool(options["ssl_keyfile"]):
        raise click.UsageError("--ssl-certfile and --ssl-keyfile need each other.")
    if options["wait_for_client"] and not options["debug_port"]:
        raise click.UsageError("--wait-for-client needs --debug-port.")
    setup_logging("DEBUG" if verbose else server_log_level.upper())
    run_server(types.SimpleNamespace(reload=not no_reload, command=(), offline=False, **options))


def run_server(options: types.SimpleNamespace) -> None:
    """Serve, then exit."""
    raise_file_limit()
    code = 0
    try:
        # not Windows' own loop, which stops listening when a client leaves while its connection is accepted
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            code = runner.run(serve(options))
    except StartError as error:
        log.debug("where that comes from:", exc_info=error)
        click.echo(f"devserver: {error}", err=True)
        code = 1
    except KeyboardInterrupt:
        code = 130
    end_process(code)


main.add_command(up, "dev")


@main.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@kit_options
@click.option("--db", default=":memory:", help="Database file, to keep the data.")
@click.option("--offline", is_flag=True, help="Keep the server's Python sockets from other machines, as in tests.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(command: Sequence[str], **options: Any) -> None:
    """Run a COMMAND, such as a test suite in any language, beside a server on a free port: LANGGRAPH_API_URL tells it
    where. The exit status is the command's."""
    setup_logging("WARNING")
    usual = up.make_context("up", ["--port", "0"]).params
    run_server(types.SimpleNamespace(**{**usual, **options, "reload": False, "command": command}))


def end_process(code: int) -> None:
    """Exit, without waiting for a node that blocks its thread, nor for a stdout that takes nothing."""

    def is_blocked() -> bool:
        return any(thread.name.startswith(NODE_THREADS) and thread.is_alive() for thread in threading.enumerate())

    if is_blocked():
        time.sleep(0.2)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        if not is_blocked():
            sys.exit(code)
    os._exit(code)


@main.group()
def cron() -> None:
    """List crons, and fire them."""


CRONS_AT_ONCE = 1000


def cron_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name a server, or a database."""
    for option in (
        click.option("--header", "headers", multiple=True, help="Header to send, as 'authorization: Bearer ...'"),
        click.option("--url", help="Address of the server  [default: the server that has the database open]"),
        DB,
        CONFIG,
    ):
        command = option(command)
    return command


@cron.command("list")
@cron_options
def list_crons(config: Path, db: str | None, url: str | None, headers: Sequence[str]) -> None:
    """List all crons of the running server, or else of the database file."""
    path = db or str(config.parent / "devserver.db")
    address = url or server_address(path)
    found: list[JsonObject] = []

    async def search(db: Db) -> list[JsonObject]:
        return [cron.to_dict() for cron in (await db.read(lambda conn: Crons(conn).search(asked, {}))).rows]

    while True:
        asked = CronSearch(limit=CRONS_AT_ONCE, offset=len(found))
        page = post(f"{address}/runs/crons/search", headers, asked) if address else use_database(path, search)
        found += page
        if len(page) < asked.limit:
            break
    for each in found:
        click.echo(
            f"{each['cron_id']}  {each['schedule']} ({each['timezone'] or 'UTC'})  "
            f"{'next ' + each['next_run_date'] if each['enabled'] else 'disabled'}  assistant {each['assistant_id']}  "
            f"{'thread ' + each['thread_id'] if each['thread_id'] else 'new threads'}"
        )


@cron.command("fire")
@click.argument("cron_id")
@cron_options
def fire_now(cron_id: str, config: Path, db: str | None, url: str | None, headers: Sequence[str]) -> None:
    """Start a run of a cron now. Its server must be running."""
    path = db or str(config.parent / "devserver.db")
    address = url or server_address(path)
    if not address:
        raise click.ClickException(f"no running server has {path}. Start it, or name one with --url.")
    run = post(f"{address}/runs/crons/{cron_id}/fire", headers)
    click.echo(f"run {run['run_id']} on thread {run['thread_id']}")


def post(url: str, headers: Sequence[str], body: Body | None = None) -> Any:
    """Post to a server, and return its answer as JSON. Raises ClickException if it refuses, or can't be reached."""
    try:
        sent = {name.strip(): value.strip() for name, _, value in (header.partition(":") for header in headers)}
        verify = not is_loopback(httpx.URL(url).host)  # this machine's certificate may be self-signed
        content = body.model_dump() if body else {}
        answer = httpx.post(url, json=content, headers=sent, verify=verify, timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()
    except httpx.HTTPStatusError:
        raise click.ClickException(f"{url} answered {answer.status_code}: {answer.text}") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise click.ClickException(f"{url} cannot be reached: {error}") from None


def use_database(path: str, use: Callable[[Db], Coroutine[Any, Any, T]]) -> T:
    """Open a database that no server has open, use it, and close it. Raises ClickException."""

    async def opened() -> T:
        db = Db(path)
        await db.open()
        try:
            return await use(db)
        finally:
            await db.close()

    if not Path(path).is_file():
        raise click.ClickException(f"there is no database {path}. Name one with --db.")
    try:
        return asyncio.run(opened())
    except (StartError, Unavailable) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@DB
@CONFIG
def compact(config: Path, db: str | None) -> None:
    """Give back the disk space of what was deleted. The server must be stopped."""
    path = db or str(config.parent / "devserver.db")
    use_database(path, Db.compact)
    click.echo(f"{path} is compact: {os.path.getsize(path):,} bytes")


@main.command("snapshot")
@click.argument("file", type=FILE)
@DB
@CONFIG
def take_snapshot(file: Path, config: Path, db: str | None) -> None:
    """Copy the database to FILE as it is at this moment, also while a server runs."""
    try:
        copy_database(Path(db or config.parent / "devserver.db"), file)
    except StartError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{file}: {file.stat().st_size:,} bytes")


@main.command("diff")
@click.argument("one", type=FILE)
@click.argument("other", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def compare(one: Path, other: Path, as_json: bool) -> None:
    """Tell what is added, changed and removed from database ONE to OTHER: threads, runs, shared values, items. The exit
    status is 0 if nothing is, 1 if something is, 2 if a database cannot be read."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate((one, other)):
            try:
                copy_database(path, copied := Path(folder, f"{number}.db"))
                found.append(use_database(str(copied), lambda db: db.read(contents)))
            except (StartError, click.ClickException) as error:
                click.echo(f"Error: {path}: {error}", err=True)
                sys.exit(2)
    changes = database_changes(*found)
    for change in [] if as_json else changes:
        click.echo("{sign} {kind} {name}  {told}".format(**change))
    if as_json:
        click.echo(json.dumps(changes))
    sys.exit(bool(changes))


COPY_HEADER = "DEVSERVER_PUSH_HEADER"


async def copy_between(url: str, is_push: bool, options: types.SimpleNamespace) -> int:
    """Copy between the database and a server, tell how it went, and return the exit status. Raises StartError."""
    lines = (read_text(options.header_file) if options.header_file else os.environ.get(COPY_HEADER, "")).splitlines()
    headers = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip()
    }
    path = options.db or str(options.config.parent / "devserver.db")
    settings, told, on_terminal = read_project(options), time.monotonic(), sys.stderr.isatty()

    def tell(text: str) -> None:
        nonlocal told
        if on_terminal or time.monotonic() > told + 5:
            click.echo(f"\r\033[K{text}" if on_terminal else text, nl=not on_terminal, err=True)
            told = time.monotonic()

    def at(url: str, headers: Mapping[str, str]) -> CopyEnd:
        is_away = not is_loopback(httpx.URL(url).host)
        client = httpx.AsyncClient(base_url=url, headers=headers, timeout=300, verify=is_away, trust_env=is_away)
        return CopyEnd(client)

    gc.enable()
    if not all("=" in pair for pair in (*options.names, *options.metadata)):
        raise StartError("--map takes OLD=NEW, --metadata KEY=VALUE")
    async with contextlib.AsyncExitStack() as stack:
        far, address = at(url, headers), None if is_push else server_address(path)
        if is_push:
            copy_database(Path(path), Path(folder := stack.enter_context(tempfile.TemporaryDirectory()), "copy.db"))
            path = f"{folder}/copy.db"
            settings = settings.model_copy(update={"store": StoreSettings()})  # nothing is embedded to be read
        near = at(address, {}) if address else await CopyEnd.of(path, settings, stack)
        ends = (near, far) if is_push else (far, near)
        copying = Copy(*ends, options, dict(pair.split("=", 1) for pair in options.names))
        await copying.run(tell)
        for end in ends:
            await end.http.aclose()
    tell("" if on_terminal else "done")
    return copying.report(url)


def copy_kinds(context: click.Context, parameter: click.Parameter, text: str | None) -> list[str]:
    """Return the kinds that --only names, in the order that they are copied in."""
    named = (
        text.split(",") if text else [kind for kind in COPY_KINDS if kind != "store" or not context.params["metadata"]]
    )
    if unknown := {*named} - {*COPY_KINDS}:
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: there are {', '.join(COPY_KINDS)}")
    return [kind for kind in COPY_KINDS if kind in named]


@click.command()
@click.argument("url")
@click.option("--db", help="Database file  [default: devserver.db beside langgraph.json]")
@click.option("--config", type=click.Path(path_type=Path), default=Path("langgraph.json"), show_default=True)
@click.option("--env-file", type=click.Path(path_type=Path), help="Environment variables; those set win.")
@click.option("--header-file", type=FILE, help=f"Headers to send, such as a token  [default: ${COPY_HEADER}]")
@click.option("--only", help=f"Kinds, with commas  [default: {','.join(COPY_KINDS)}]", callback=copy_kinds)
@click.option("--metadata", is_eager=True, multiple=True, metavar="KEY=VALUE", help="Only what has this; no items.")
@click.option("--map", "names", multiple=True, metavar="OLD=NEW", help="Another id of a graph or assistant there.")
@click.option("--dry-run", is_flag=True, help="Tell what would be copied.")
@click.option("--verify", is_flag=True, help="Read all of it back, and compare.")
@click.option("--with-secrets", is_flag=True, help="Copy webhooks and headers of crons, too.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.pass_context
def copy_command(context: click.Context, /, url: str, **options: Any) -> None:
    """push: copy the database to the server at URL, also while a server has it. pull: copy what the server at URL
    holds to the database, through the server that has it, if one does. The exit status is 0 if all was copied or is
    there, 1 if some was refused, 2 if nothing was copied."""
    setup_logging("WARNING")
    try:
        code = asyncio.run(copy_between(url, context.info_name == "push", types.SimpleNamespace(**options)))
    except (StartError, Unavailable, OSError, httpx.InvalidURL, ValueError) as error:
        click.echo(f"Error: {error}", err=True)
        code = 2
    end_process(code)


main.add_command(copy_command, "push")
main.add_command(copy_command, "pull")


########################################################################################################
# Page
########################################################################################################

PAGE = r"""<!doctype html>
<html lang="en">
<head><link rel="icon" href="data:,">
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>devserver</title>
<style>
:root { color-scheme: light dark;
  --back: light-dark(#ffffff, #15171c); --pane: light-dark(#f6f7f9, #1b1e25); --line: light-dark(#d3d7df, #363c48);
  --text: light-dark(#1b1d22, #e7e9ed); --dim: light-dark(#575d6b, #a3abba); --link: light-dark(#0b57b8, #86b6ff);
  --done: light-dark(#176c30, #5ccb7a); --error: light-dark(#b3261e, #ff8a80); --wait: light-dark(#7d5200, #e8b84b);
  --code: light-dark(#eef0f4, #23272f); }
* { box-sizing: border-box; } [hidden] { display: none !important; }
body { margin: 0; height: 100vh; display: grid; grid-template: auto minmax(0, 1fr) / 18rem minmax(0, 1fr) 25rem;
  font: 14px/1.45 system-ui, sans-serif; background: var(--back); color: var(--text); }
body > header { grid-column: 1 / -1; display: flex; flex-wrap: wrap; align-items: center; gap: .4rem .9rem;
  padding: .45rem .8rem; border-bottom: 1px solid var(--line); background: var(--pane); }
h1, h2 { font-size: 1rem; margin: .4rem 0; } td > a { white-space: nowrap; } td:has(textarea) { width: 45%; }
.end { margin-left: auto; display: flex; gap: .8rem; align-items: center; color: var(--dim); }
nav, aside { overflow: auto; background: var(--pane); padding: .6rem; outline: 1px solid var(--line); }
main { display: grid; grid-template-rows: auto minmax(0, 1fr) auto; min-height: 0; }
#wide { grid-column: 2 / -1; overflow: auto; padding: .8rem 1rem; }
button, select, input, textarea { font: inherit; color: inherit; background: var(--back);
  border: 1px solid var(--line); border-radius: .3rem; padding: .2rem .45rem; max-width: 100%; }
textarea { width: 100%; resize: vertical; } button { cursor: pointer; } button:hover { border-color: var(--link); }
a { color: var(--link); } button.plain { border: 0; background: none; padding: .1rem .3rem; color: var(--link); }
button.open { display: block; width: 100%; text-align: left; border: 0; background: none; padding: .1rem .2rem; }
textarea.code, pre, code, .tree { font: 12px/1.5 ui-monospace, monospace; }
pre { overflow: auto; max-height: 30rem; background: var(--code); padding: .4rem .6rem; border-radius: .3rem; }
:focus-visible { outline: 2px solid var(--link); outline-offset: -1px; }
.row { display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; margin: .3rem 0; }
.row > .dim { min-width: 5rem; } .grow { flex: 1; min-width: 6rem; } .small { font-size: 12px; }
.dim { color: var(--dim); } .good { color: var(--done); } .bad { color: var(--error); } .live { color: var(--link); }
.wait { color: var(--wait); } li[aria-current=true] { background: var(--code); }
.only-read { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.tabs { display: flex; flex-wrap: wrap; gap: .2rem; margin-bottom: .6rem; } #threads pre { white-space: pre-wrap; }
.tabs [aria-current=true] { border-color: var(--link); color: var(--link); }
.list { list-style: none; margin: 0; padding: 0; overflow-wrap: anywhere; }
.list > li { border-bottom: 1px solid var(--line); padding: .3rem .2rem; }
table { border-collapse: collapse; width: 100%; overflow-wrap: anywhere; }
th { white-space: nowrap; } td { min-width: 5.5rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .5rem .3rem 0; border-bottom: 1px solid var(--line); }
#graph { overflow: auto; max-height: 40vh; padding: .4rem; border-bottom: 1px solid var(--line); resize: vertical; }
#graph svg { display: block; margin: auto; height: auto; } #graph > button { position: absolute; }
#graph.natural { max-height: 75vh; } #graph.natural svg { width: auto !important; } .node { cursor: pointer; }
.node rect { fill: var(--back); stroke: var(--dim); }
.edge-text { paint-order: stroke; stroke: var(--back); stroke-width: 3px; }
.node text, .edge-text { fill: var(--text); font-size: 13px; text-anchor: middle; }
.node .note, .edge-text, .box > text { fill: var(--dim); font-size: 10px; }
.box > rect { fill: none; stroke: var(--line); } @keyframes pulse { to { stroke-opacity: .35; } }
.running > rect { stroke: var(--link); stroke-width: 3; animation: pulse 1s infinite alternate; }
.done > rect { stroke: var(--done); stroke-width: 2.5; } .error > rect { stroke: var(--error); stroke-width: 3; }
.waiting > rect { stroke: var(--wait); stroke-width: 3; stroke-dasharray: 6 3; }
.edge { fill: none; stroke: var(--dim); } .edge.if { stroke-dasharray: 5 4; } #tip path { fill: var(--dim); }
@media (prefers-reduced-motion: reduce) { .running > rect { animation: none; } }
#chat { overflow: auto; padding: .6rem 1rem; display: flex; flex-direction: column-reverse; } /* stays at its end */
#talk { margin-bottom: auto; overflow-wrap: anywhere; } .card.error { border-color: var(--error); }
.message { margin: .45rem 0; padding: .4rem .7rem; border: 1px solid var(--line); border-radius: .5rem;
  content-visibility: auto; contain-intrinsic-size: auto 4rem; }
.message.human { margin-left: 3rem; background: var(--pane); } .message p { margin: .2rem 0; white-space: pre-wrap; }
.message header { display: flex; gap: .6rem; color: var(--dim); align-items: center; } img { max-width: 100%; }
.card { border: 1px solid var(--wait); border-radius: .5rem; padding: .5rem .7rem; margin: .6rem 0; }
#ask { border-top: 1px solid var(--line); padding: .5rem 1rem; max-height: 45vh; overflow: auto; }
.bar { height: .4rem; min-width: 2px; background: currentcolor; border-radius: .2rem; }
.tree details, .tree .leaf { padding-left: 1rem; } .tree .leaf { overflow-wrap: anywhere; white-space: pre-wrap; }
.tree summary { margin-left: -1rem; } .tree .plain { font: inherit; padding: 0; }
.old { border-left: 3px solid var(--error); } .new { border-left: 3px solid var(--done); }
dialog { width: min(44rem, 94vw); max-height: 88vh; color: var(--text); background: var(--back);
  border: 1px solid var(--line); border-radius: .5rem; } dialog::backdrop { background: #0007; }
#notice { position: fixed; bottom: 1rem; left: 50%; translate: -50%; background: var(--text); color: var(--back);
  padding: .4rem .9rem; border-radius: .4rem; max-width: 90vw; }
#notice:empty { display: none; } #notice button { background: none; color: inherit; } #panes { display: none; }
@media (max-width: 900px) {
  body { grid-template: auto minmax(0, 1fr) auto / minmax(0, 1fr); } #wide { grid-column: 1; }
  #panes { display: flex; justify-content: space-around; border-top: 1px solid var(--line); padding: .3rem; margin: 0; }
  body:not([data-pane=list]) nav, body:not([data-pane=talk]) main, body:not([data-pane=look]) aside,
  body:not([data-pane=talk]) #wide, #database { display: none; } .message.human { margin-left: 1rem; }
}
</style></head>
<body>
<header>
  <h1>devserver</h1> <label>Assistant <select id="assistant"></select></label>
  <label>User id <input id="user" size="10"></label> <button id="settings">Configuration</button>
  <button id="headers">Headers</button> <span class="end"><span id="database"></span>
    <span id="connection" role="status"></span> <button id="help" aria-label="Help and keys">?</button></span>
</header>
<nav aria-label="Threads and other screens"><div id="screens" class="tabs"></div><div id="list"></div></nav>
<main aria-label="Thread">
  <noscript>This page needs JavaScript. The API under this address works without it: see docs.</noscript>
  <section id="graph" aria-label="Graph" tabindex="0"></section>
  <div id="chat" tabindex="0" role="log" aria-label="Conversation"><div id="talk"></div></div>
  <section id="ask" aria-label="What to send"></section>
</main>
<aside aria-label="Inspector"><div id="inspectors" class="tabs"></div><div id="inspector"></div></aside>
<section id="wide" role="main" aria-label="Screen" hidden></section><footer id="panes" class="tabs"></footer>
<div id="spoken" class="only-read" role="status"></div>
<dialog id="dialog" aria-label="Dialog"></dialog><div id="notice" role="alert"></div>
<script>
"use strict";

// 1. Elements. All that is shown is made here, as text: nothing is ever read as HTML.
const $ = id => document.getElementById(id);
const isNothing = value => [null, undefined, false, 0].includes(value);
const some = children => children.flat(9).filter(child => !isNothing(child));
const DRAWING = ["svg", "defs", "marker", "g", "path", "rect", "text"], OWN = ["value", "checked", "open"];
/** Make an element. A property that is a function listens; children that are null, false or 0 are left out. */
function h(tag, properties, ...children) {
  const space = `http://www.w3.org/${DRAWING.includes(tag) ? "2000/svg" : "1999/xhtml"}`;
  const element = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (typeof value === "function") element.addEventListener(name.slice(2), guarded(value));
    else if (OWN.includes(name)) element[name] = value;
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...some(children));
  return element;
}
/** Put other children into an element; the focus stays at its place. */
function fill(element, ...children) {
  const places = () => [...element.querySelectorAll("button, a, summary, select, input, textarea")];
  const focused = document.activeElement, at = places().indexOf(focused);
  element.replaceChildren(...some(children));
  if (at >= 0) (focused.isConnected ? focused : places()[at])?.focus({ preventScroll: true });
}
const tagged = (tag, cls) => (...children) => h(tag, { class: cls }, ...children);
const row = tagged("div", "row"), hint = tagged("p", "dim"), dim = tagged("span", "dim small");
const item = tagged("li", ""), heading = tagged("h2", "");
const div = (cls, ...children) => h("div", { class: cls }, ...children);
const pre = (text, cls = "") => h("pre", { class: cls, tabindex: 0 }, text);
const button = (text, onclick, more) => h("button", { type: "button", onclick, ...more }, text);
const plain = (text, onclick, more) => button(text, onclick, { class: "plain", ...more });
const entryButton = (text, onclick, ...more) => h("button", { type: "button", class: "open", onclick }, text, ...more);
const entry = (label, value = "", more = {}) => h("input", { "aria-label": label, placeholder: label, value, ...more });
const cell = tag => child => h(tag, {}, child);
const list = (items, empty, more) => items.length ? h("ul", { class: "list", ...more }, items) : hint(empty);
const choice = (label, options, onchange) => h("select", { "aria-label": label, onchange },
  options.map(option => h("option", { value: [option].flat()[0] }, [option].flat().at(-1))));
const table = (titles, rows, empty) => rows.length ? h("table", {}, h("thead", {}, h("tr", {}, titles.map(cell("th")))),
  h("tbody", {}, rows.map(cells => h("tr", {}, cells.map(cell("td")))))) : hint(empty);
const tabs = (titles, current, choose) => titles.map(([name, title]) =>
  button(title, () => choose(name), { "aria-current": name === current }));
const say = text => { $("spoken").textContent = text; };
const to = address => { location.hash = address; };
/** A box for text or JSON, as high as what is in it. */
function area(label, given, more) {
  const value = show(given, 1), rows = Math.min(16, value.split("\n").length + value.length / 300 | 0);
  return h("textarea", { "aria-label": label, class: "code", rows, value, ...more });
}
/** What is unfolded is made then, and stays unfolded when it is drawn again. `make` gives the children. */
function folded(id, summary, make, open = S.opened.has(id)) {
  const add = () => { if (details.open && details.childElementCount === 1) details.append(...some([make()])); };
  const ontoggle = () => { S.opened[details.open ? "add" : "delete"](id); add(); };
  const details = h("details", { open, ontoggle }, h("summary", {}, summary));
  add();
  return details;
}
/** Show a line at the bottom for some seconds, with a button if there is something to undo. */
function notice(text, seconds = 6, undo = null) {
  const close = () => fill($("notice"));
  fill($("notice"), text, undo && button("Undo", () => { undo(); close(); }));
  ($("dialog").open ? $("dialog") : document.body).append($("notice")); // a dialog covers all that is outside of it
  clearTimeout(notice.timer);
  notice.timer = setTimeout(close, seconds * 1000);
}
/** Make a listener that shows an error instead of losing it. */
const guarded = listener => async event => {
  try { return await listener(event); } catch (error) { notice(error.message, 12); }
};
/** Open a dialog. Gives what closes it. */
function dialog(title, ...children) {
  const close = () => $("dialog").close();
  document.body.append($("notice"));
  fill($("dialog"), heading(title), children, row(button("Close", close)));
  if (!$("dialog").open) $("dialog").showModal();
  return close;
}
const show = (value, space) => typeof value === "string" ? value : JSON.stringify(value, null, space) ?? "";
const short = (text, length = 80) => text.length > length ? `${text.slice(0, length - 1)}…` : text;
const took = ms => ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
const between = (before, after) => took(new Date(after) - new Date(before));
function ago(date) {
  const seconds = (Date.now() - new Date(date)) / 1000, long = Math.abs(seconds);
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([size]) => long > size) ?? [1, "s"];
  return `${seconds < 0 ? "in " : ""}${Math.round(long / size)} ${unit}${seconds < 0 ? "" : " ago"}`;
}
const timeOf = date => h("time", { datetime: date, title: new Date(date).toLocaleString() }, ago(date));
const SIGNS = { idle: "✓", success: "✓", done: "✓", error: "✕", timeout: "✕", busy: "●", running: "●", pending: "○",
  interrupted: "?", waiting: "?" };
const COLOURS = { "✓": "good", "✕": "bad", "●": "live", "?": "wait" };
const signed = name => h("span", { class: COLOURS[SIGNS[name]] ?? "dim" }, `${SIGNS[name] ?? "·"} ${name}`);
const copy = text => navigator.clipboard?.writeText(text).then(() => notice("Copied", 2)) ?? dialog("Copy", pre(text));
const remembered = (name, otherwise) => JSON.parse(localStorage.getItem(`devserver.${name}`)) ?? otherwise;
const remember = (name, value) => localStorage.setItem(`devserver.${name}`, JSON.stringify(value));
/** An object without its empty values. */
const full = object => Object.fromEntries(Object.entries(object).filter(([, value]) =>
  !(isNothing(value) || value === "" || (typeof value === "object" && !Object.keys(value).length))));
const parsedOrText = text => { try { return JSON.parse(text); } catch { return text; } };
function parse(text) {
  try { return JSON.parse(text); } catch (cause) { throw Error(`This is no JSON: ${cause.message}`, { cause }); }
}

// 2. The server, by its public API, relative to where this page is
const BASE = location.pathname.replace(/ui\/?$/, "").replace(/\/?$/, "/");
const ADDRESS = (location.origin + BASE).replace(/\/$/, "");
const sleep = ms => new Promise(wake => setTimeout(wake, ms));
const headers = () => JSON.parse(sessionStorage.getItem("devserver.headers")) ?? {};
const connection = (text, cls) => $("connection").textContent === text
  || fill($("connection"), h("span", { class: cls }, text));
/** What a refusal says, in one line. */
async function reason(response) {
  const text = await response.text(), { detail, message } = Object(parsedOrText(text));
  return show(detail ?? message ?? (text || response.statusText));
}
/** Ask the server. A busy one (503) is asked again for half a minute; 401 and 403 open the headers box. */
async function api(path, body, method = body === undefined ? "GET" : "POST") {
  const options = { method, body: JSON.stringify(body), headers: { ...headers(), "Content-Type": "application/json" } };
  for (let wait = 500; ; wait *= 2) {
    const response = await fetch(BASE + path, options).catch(() => null);
    connection(response ? "● connected" : "✕ no connection", response ? "good" : "bad");
    if (!response) throw Error("The server does not answer. Is devserver running?");
    if (response.ok) return JSON.parse(await response.text() || "null");
    const text = await reason(response);
    if ([401, 403].includes(response.status) && !$("dialog").open) askHeaders(text);
    if (response.status !== 503 || wait > 16000) throw Error(text);
    connection(`○ ${short(text)}: trying again`, "wait");
    await sleep(wait);
  }
}
/** The server-sent events of a response, until the page is hidden. The browser gets time to draw between them. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = [], worked = performance.now();
  for (let part; !document.hidden && !(part = await reader.read()).done;) { // heartbeats are parts, too
    const seam = (rest.at(-1)?.slice(-3) ?? "") + part.value;
    rest.push(part.value);
    if (!seam.includes("\r\n\r\n")) continue; // a large event comes in many parts
    const blocks = rest.join("").split("\r\n\r\n");
    rest = [blocks.pop()];
    for (const block of blocks) {
      const event = {};
      for (const line of block.split("\r\n")) event[/^\w*/.exec(line)[0]] = line.slice(line.indexOf(":") + 1).trim();
      if (event.event) yield { name: event.event, id: event.id, data: event.data ? JSON.parse(event.data) : null };
      if (performance.now() - worked > 12) { await sleep(0); worked = performance.now(); }
    }
  }
  await reader.cancel(); // a browser has few connections
}
let following = new AbortController();
/** Follow all runs of a thread, whoever starts them, until another is followed. Resolves once that was tried. */
function follow(threadId) {
  const { signal } = following = new AbortController(), url = `${BASE}threads/${threadId}/stream`;
  return new Promise(began => guarded(async () => {
    for (let last, wait = 250; !signal.aborted; wait = Math.min(wait * 2, 10000)) {
      try {
        const options = { signal, headers: { ...headers(), ...(last && { "Last-Event-ID": last }) } };
        const response = await fetch(`${url}?stream_modes=run_modes,state_update`, options);
        if (!response.ok) throw Error(await reason(response));
        if (wait > 250) await refresh(); // what happened meanwhile
        wait = 250;
        began();
        for await (const event of eventsOf(response)) {
          if (signal.aborted) return;
          last = event.id ?? last;
          take(event);
        }
      } catch { if (!signal.aborted) connection("✕ no connection: trying again", "bad"); }
      began();
      do await sleep(wait); while (document.hidden && !signal.aborted);
    }
  })());
}

// 3. What this page knows, and what a run's events change in it
// A run's values, parts of messages that the state does not have yet, tasks with their times, custom events
const emptyRun = () => ({ run: null, values: null, parts: new Map(), tasks: [], custom: [], error: null });
const emptyThread = () => ({ state: null, history: [], chosen: null, runs: [], shown: 100, readAt: 0, ...emptyRun() });
const S = {
  assistants: [], assistant: null, schemas: {}, nodes: [], // the assistant in use, the nodes of its drawing
  threadId: null, ...emptyThread(), // the thread that is open, the checkpoint chosen in it, and its live run
  stops: new Map(), said: [], opened: new Set(), // where to stop: node → "before" or "after"; what is unfolded
  inspector: "History", threads: [], moreThreads: false, filter: { text: "", status: "" },
  gone: new Map(), // the list of threads, those that are being deleted
};
const valuesNow = () => S.chosen?.values ?? S.values ?? S.state?.values ?? {};
const here = () => (S.chosen ?? S.state)?.checkpoint_id;
let stale = new Set();
const DRAW = { graph: drawMarks, chat: drawChat, ask: drawAsk, inspector: drawInspector, list: drawThreads };
/** Draw parts of the page anew, once for all changes of a frame. */
function redraw(...names) {
  const frame = () => { const now = stale; stale = new Set(); now.forEach(name => DRAW[name]()); };
  if (!stale.size) requestAnimationFrame(frame);
  names.forEach(name => stale.add(name));
}
/** Take one event of the thread's stream. Only changes what is known: drawing is done a frame at a time. */
function take({ name, data }) {
  const [kind, ...path] = name.split("|"), inside = path.map(part => part.split(":")[0]);
  if (kind === "metadata" && data.status === "run_done") guarded(endRun)();
  else if (kind === "metadata" && data.run_id && data.run_id !== S.run) {
    Object.assign(S, emptyRun(), { run: data.run_id });
    say("The run has started.");
  }
  else if (kind === "state_update") guarded(refresh)();
  else if (kind === "tasks") takeTask(data, inside);
  else if (kind === "messages") takeMessage(...data);
  else if (kind === "custom") S.custom.push(...S.custom.splice(0).slice(-99), data);
  else if (kind === "error") { S.error = data; say(`The run failed: ${data.message}`); }
  else if (kind === "values" && !inside.length) {
    S.values = data;
    for (const message of [data.messages].flat()) S.parts.delete(message?.id);
  }
  redraw("chat", ...(["metadata", "tasks", "values"].includes(kind) ? ["graph", "ask", "inspector"] : []));
}
const blocksOf = content => [content ?? ""].flat()
  .map(one => typeof one === "string" ? { type: "text", text: one } : { ...one });
const textOf = content => blocksOf(content).map(block => block?.text ?? "").join("");
/** Put a streamed message's next part to those that came before; it is shown until the state has the message. */
function takeMessage(chunk, about) {
  const part = S.parts.get(chunk.id), content = blocksOf(chunk.content);
  if (!part || !/Chunk$/.test(chunk.type)) {
    if ([S.values?.messages].flat().some(message => message?.id === chunk.id)) return;
    const type = chunk.type.replace("MessageChunk", "").toLowerCase();
    S.parts.set(chunk.id, { ...chunk, content, type, node: about?.langgraph_node, version: 0 });
    return;
  }
  part.version++;
  part.usage_metadata = chunk.usage_metadata ?? part.usage_metadata;
  for (const next of content)
    if (part.content.at(-1)?.type === "text" && next.type === "text") part.content.at(-1).text += next.text;
    else part.content.push(next);
  for (const call of chunk.tool_call_chunks ?? []) {
    const calls = part.tool_call_chunks ??= [], known = calls.find(other => other.index === call.index);
    if (known) for (const key of ["name", "args"]) known[key] = (known[key] ?? "") + (call[key] ?? "");
    else calls.push(call);
  }
}
function takeTask(task, inside) {
  const { id, name, input, error, result, interrupts } = task, now = Date.now();
  const known = S.tasks.findLast(other => other.id === id), asks = interrupts?.length;
  const end = { state: error ? "error" : asks ? "waiting" : "done", to: now, output: error ?? result };
  if ("result" in task || "error" in task) { Object.assign(known ?? {}, end); return; }
  if (S.tasks.length > 2000) S.tasks.splice(0, 1000);
  S.tasks.push({ id, node: [...inside, name].join(":"), state: "running", input, from: now });
  say(`${name} is running.`);
}
/** The tasks of the last run: as this page saw them, and the others by the times of the checkpoints. */
function tasksOfRun() {
  const { state, history, tasks, run, runs } = S, by = byId(history), last = run ?? history[0]?.metadata?.run_id;
  const steps = history.filter(({ metadata }) => metadata?.run_id === last && metadata.source === "loop").toReversed();
  const done = steps.flatMap(({ parent_checkpoint_id: before, created_at: to }) => (by.get(before)?.tasks ?? []).map(
    ({ id, name: node }) => ({ id, node, state: "done", from: by.get(before).created_at, to })));
  const open = (run ? [] : state?.tasks ?? []).filter(({ error, interrupts }) => error || interrupts?.length)
    .map(({ id, name: node, error: output }) => ({ id, node, state: output ? "error" : "waiting", output,
      from: state.created_at, to: runs[0]?.updated_at }));
  const seen = new Set(["__start__", ...tasks.map(({ id }) => id)]);
  const others = [...done, ...open].filter(({ id, node }) => !seen.has(id) && !seen.has(node)).map(task =>
    ({ ...task, from: Date.parse(task.from), to: Date.parse(task.to), isStep: true }));
  return [...others, ...tasks];
}
/** What each node did in the last run. It runs as long as one of its tasks does. */
function marks() {
  const known = new Map();
  for (const { node, from, to, ...task } of tasksOfRun()) {
    const { count = 0, state } = known.get(node) ?? {}, still = state === "running" && { state };
    known.set(node, { ...task, ...still, ms: to && to - from, count: count + 1 });
  }
  return known;
}
async function endRun() {
  const { error, run } = S;
  await refresh();
  if (S.run && S.run !== run) return; // the next one has begun
  if (!error) say(S.state?.next?.length ? "The run waits for you." : "The run has ended.");
  await readThreads();
}
/** Read the open thread anew. */
async function refresh() {
  const id = S.threadId, path = `threads/${id}`, at = performance.now();
  if (!id) return;
  const [thread, state, history, runs] = await Promise.all([api(path), api(`${path}/state?subgraphs=true`),
    api(`${path}/history`, { limit: 25 }), api(`${path}/runs?limit=50`)]);
  if (id !== S.threadId || at < S.readAt) return; // what was asked later came sooner
  const live = runs.find(run => run.status === "running") ?? runs.find(run => run.status === "pending");
  Object.assign(S, { thread, state, history, runs, error: live ? S.error : thread.error, readAt: at });
  Object.assign(S, live ? { run: live.run_id } : { run: null, values: null, parts: new Map() });
  redraw("chat", "ask", "inspector", "graph");
}
/** Start a run of the open thread, which is made if need be, from the chosen checkpoint. Events come by `follow`. */
async function startRun(request) {
  const { assistant_id, graph_id } = S.assistant;
  if (!S.threadId) {
    const { thread_id: id } = await api("threads", { metadata: { graph_id, assistant_id } });
    await openThread(id);
    to(`#/t/${id}`);
  }
  const stops = place => [...S.stops].filter(([, at]) => at === place).map(([node]) => node);
  await api(`threads/${S.threadId}/runs`, { assistant_id, ...configured(), checkpoint_id: S.chosen?.checkpoint_id,
    stream_mode: ["values", "messages-tuple", "tasks", "custom"], stream_subgraphs: true, stream_resumable: true,
    interrupt_before: stops("before"), interrupt_after: stops("after"), ...request });
  if (S.chosen) to(`#/t/${S.threadId}`);
  await readThreads();
}
const goOn = () => startRun({ input: null });
/** The configuration of every run: the form's and the user id, as context where the graph declares one. */
function configured() {
  const given = full({ ...remembered(`configuration.${S.assistant.graph_id}`), user_id: $("user").value.trim() });
  return full(S.schemas.context_schema?.properties ? { context: given } : { config: full({ configurable: given }) });
}

// 4. A graph's layout: layers, with back edges turned round, points that long edges pass through, subgraphs as boxes
const GAP_X = 30, GAP_Y = 36;
/** Nest what is named "outer:inner" into boxes. An edge into a box ends at the box. */
function boxes(nodes, edges, prefix = "") {
  const mine = new Map(), lines = new Map(), top = id => prefix + id.slice(prefix.length).split(":")[0];
  for (const { id } of nodes) if (id.startsWith(prefix)) mine.set(top(id), { id: top(id), box: top(id) !== id });
  for (const edge of edges) {
    const source = top(edge.source), target = top(edge.target), isInside = source === target && mine.get(source)?.box;
    if (!mine.has(source) || !mine.has(target) || isInside) continue;
    lines.set([source, target, edge.data].join(), { ...edge, source, target });
  }
  for (const node of mine.values()) {
    if (node.box) node.inner = boxes(nodes, edges, `${node.id}:`);
    node.w = Math.max(84, named(node.id).length * 7.6 + 26, node.inner ? node.inner.width + 24 : 0);
    node.h = node.inner ? node.inner.height + 40 : 38;
  }
  return layout([...mine.values()], [...lines.values()]);
}
function layout(nodes, edges) {
  const by = new Map(nodes.map(node => [node.id, Object.assign(node, { in: [], out: [] })]));
  turnBackEdges([...by.keys()], edges);
  const layers = layered(by, edges.filter(edge => !edge.loop));
  place(layers);
  let height = 0;
  for (const layer of layers) {
    const tallest = Math.max(...layer.map(node => node.h));
    for (const node of layer) node.y = height + tallest / 2;
    height += tallest + GAP_Y;
  }
  const paths = edges.map(edge => drawn(edge, by)), all = layers.flat();
  const left = Math.min(...all.map(node => node.x - node.w / 2));
  const right = Math.max(...all.map(node => node.x + node.w / 2), ...paths.map(path => path.x));
  return { nodes, paths, left, width: right - left, height: height - GAP_Y };
}
/** Depth first from the start: an edge to a node that is still being visited goes back. */
function turnBackEdges(ids, edges) {
  const seen = new Map();
  const visit = id => {
    if (seen.has(id)) return;
    seen.set(id, "open");
    for (const edge of edges.filter(other => other.source === id)) {
      edge.loop = edge.target === id;
      edge.back = seen.get(edge.target) === "open";
      visit(edge.target);
    }
    seen.set(id, "closed");
  };
  [...ids.filter(id => id.endsWith("__start__")), ...ids].forEach(visit);
}
/** The layer of a node is the length of the longest path to it; edges over several layers get a point in each. */
function layered(by, edges) {
  const rank = new Map(), layers = [], ends = ({ back, source, target }) => back ? [target, source] : [source, target];
  const rankOf = id => {
    const above = edges.map(ends).filter(([, below]) => below === id);
    if (!rank.has(id)) rank.set(id, 1 + Math.max(-1, ...above.map(([from]) => rankOf(from))));
    return rank.get(id);
  };
  const last = Math.max(...[...by.keys()].map(rankOf)), put = (node, layer) => (layers[layer] ??= []).push(node);
  for (const [id, node] of by) {
    if (id.endsWith("__end__")) rank.set(id, last);
    put(node, rank.get(id));
  }
  for (const edge of edges) {
    const [from, below] = ends(edge);
    edge.chain = [by.get(from)];
    for (let layer = rank.get(from) + 1; layer <= rank.get(below); layer++) {
      const node = layer === rank.get(below) ? by.get(below) : { w: edge.back ? 40 : 8, h: 0, in: [], out: [] };
      if (!node.id) put(node, layer);
      node.in.push(edge.chain.at(-1));
      edge.chain.at(-1).out.push(node);
      edge.chain.push(node);
    }
  }
  return layers.filter(Boolean);
}
/** Pull each node to the mean of its neighbours, alternately from above and below; at first that orders the layers. */
function place(layers) {
  const mean = numbers => numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
  for (const layer of layers) layer.reduce((x, node) => { node.x = x + node.w / 2; return x + node.w + GAP_X; }, 0);
  for (let sweep = 0; sweep < 30; sweep++) {
    const side = sweep % 2 ? "out" : "in";
    for (const layer of sweep % 2 ? layers.toReversed() : layers) {
      for (const node of layer) node.wanted = node[side].length ? mean(node[side].map(other => other.x)) : node.x;
      if (sweep < 14) layer.sort((a, b) => a.wanted - b.wanted);
      layer.forEach((node, i) => {
        const left = layer[i - 1];
        node.x = left ? Math.max(node.wanted, left.x + (left.w + node.w) / 2 + GAP_X) : node.wanted;
      });
      const shift = mean(layer.map(node => node.wanted - node.x));
      for (const node of layer) node.x += shift;
    }
  }
}
/** An edge's path and where its label goes. A back edge runs beside the nodes, so that no forward edge hides it. */
function drawn(edge, by) {
  const { chain, loop, back } = edge, ends = [by.get(edge.source), by.get(edge.target)];
  if (loop || (back && chain.length === 2)) { // round the right side
    const [x1, x2] = ends.map(node => node.x + node.w / 2), x = Math.max(x1, x2) + 24, turn = loop ? 8 : 0;
    const y1 = ends[0].y + turn, y2 = ends[1].y - turn;
    return { edge, x, y: (y1 + y2) / 2, d: `M${x1},${y1} C${x},${y1} ${x},${y2} ${x2},${y2}` };
  }
  const end = i => i === 0 ? 1 : i === chain.length - 1 ? -1 : 0; // out of the lower side, into the upper one
  const points = chain.map((node, i) => [node.x + (back ? 14 : 0), node.y + end(i) * node.h / 2]);
  const [[x1, y1], [x2, y2]] = points.slice((points.length - 1) >> 1);
  if (back) points.reverse();
  const curves = points.slice(1).map(([x, y], i) => {
    const [before, above] = points[i], middle = (above + y) / 2;
    return `C${before},${middle} ${x},${middle} ${x},${y}`;
  });
  return { edge, x: (x1 + x2) / 2, y: (y1 + y2) / 2, d: `M${points[0]} ${curves.join(" ")}` };
}

// 5. The graph: drawn once for an assistant, marked as a run goes on
const named = id => id.split(":").at(-1).replace(/^__(start|end)__$/, "$1");
const namesOf = ids => [...new Set(ids)].map(named).join(", ");
async function drawGraph() {
  const { nodes, edges } = await api(`assistants/${S.assistant.assistant_id}/graph?xray=true`);
  const laid = boxes(nodes, edges), width = laid.width + 16, height = laid.height + 16;
  const tip = h("marker", { id: "tip", viewBox: "0 0 8 8", refX: 8, refY: 4, markerWidth: 8, markerHeight: 8,
    orient: "auto" }, h("path", { d: "M0,0L8,4L0,8z" }));
  const image = h("svg", { width, height, viewBox: `${laid.left - 8} -8 ${width} ${height}`, role: "group",
    "aria-label": "Drawing" }, h("defs", {}, tip), drawLevel(laid));
  image.style.width = `min(${width}px, max(${width * .75}px, min(100%, ${38 * width / height}vh)))`; // fits its pane
  S.nodes = laid.nodes.map(node => node.id);
  const size = button("⤢", () => $("graph").classList.toggle("natural"), { "aria-label": "Natural size, or fit" });
  const names = nodes.map(({ id }) => h("li", { "data-node": id }));
  fill($("graph"), size, image, h("ul", { class: "only-read", "aria-label": "Nodes" }, names));
  drawMarks();
}
function drawLevel({ nodes, paths }) {
  const lines = paths.map(({ d, edge, x, y }) => [
    h("path", { d, class: edge.conditional ? "edge if" : "edge", "marker-end": "url(#tip)" }),
    edge.data && h("text", { class: "edge-text", x, y }, short(String(edge.data), 24))]);
  return h("g", {}, lines, nodes.map(({ id, x, y, w: width, h: height, inner }) => {
    const left = x - width / 2, top = y - height / 2, frame = h("rect", { x: left, y: top, width, height, rx: 8 });
    const title = h("text", inner ? { x: left + 8, y: top + 15 } : { x, y: y + 1 }, named(id));
    const act = event => { if ([undefined, "Enter", " "].includes(event.key)) nodeMenu(id); };
    const button = { tabindex: 0, role: "button", "data-node": id, onclick: act, onkeydown: act };
    if (!inner) return h("g", { class: "node", ...button }, frame, title, h("text", { class: "note", x, y: y + 14 }));
    const place = `translate(${x - inner.width / 2 - inner.left},${top + 26})`;
    return [h("g", { class: "box", ...button }, frame, title), h("g", { transform: place }, drawLevel(inner))];
  }));
}
function drawMarks() {
  const known = marks();
  for (const node of document.querySelectorAll("#graph [data-node]")) {
    const id = node.dataset.node, { state, count, ms } = known.get(id) ?? {}, stop = S.stops.get(id);
    const more = some([count > 1 && `× ${count}`, ms !== undefined && took(ms), stop && `■ ${stop}`]).join(" ");
    const note = `${SIGNS[state] ?? ""} ${more}`, words = `${named(id)} ${note} ${state ?? ""}`;
    if (state === "running" && node.matches(".node:not(.running)")) node.scrollIntoView({ block: "nearest" });
    node.classList.remove("running", "done", "error", "waiting");
    if (state) node.classList.add(state);
    node[node.tagName === "LI" ? "textContent" : "ariaLabel"] = words;
    node.querySelector(":scope > .note")?.replaceChildren(note);
  }
}
function nodeMenu(id) {
  const { input, output, state } = marks().get(id) ?? {}, name = named(id);
  const stop = place => button(`${S.stops.get(id) === place ? "✓ " : ""}Stop ${place}`, () => {
    S.stops.set(id, S.stops.get(id) === place ? null : place);
    redraw("graph");
    nodeMenu(id);
  });
  const seen = value => value === undefined ? hint("Not seen by this page.") : tree(value, "", null, true);
  dialog(`Node ${name}`, S.nodes.includes(id) && !["start", "end"].includes(name) && row(stop("before"), stop("after")),
    heading("Last input"), seen(input), heading(state === "error" ? "Error" : "Last output"), seen(output));
}

// 6. The conversation
const ROLES = { human: "You", ai: "Assistant", tool: "Tool", system: "System" };
const role = ({ type, role: name }) => ({ user: "human", assistant: "ai" })[type ?? name] ?? type ?? name ?? "message";
/** Text with code blocks and links as elements. */
const rich = text => text.split("```").map((part, i) => i % 2 ? pre(part.replace(/^\w*\n/, ""))
  : part.trim() && h("p", {}, part.split(/(https?:\/\/[^\s<>"')\]]+)/).map((piece, j) =>
    j % 2 ? h("a", { href: piece, rel: "noopener noreferrer", target: "_blank" }, piece) : piece)));
/** A long text is cut, with a button that shows all of it. */
function cut(text, make, limit = 20000) {
  if (text.length <= limit) return make(text);
  const all = plain(`Show all ${Math.round(text.length / 1000)} KB`, () => fill(around, make(text)));
  const around = div("", make(text.slice(0, limit)), all);
  return around;
}
/** The parts of a message: texts, pictures that are in the message itself, or JSON. */
const content = message => blocksOf(message.content).map(part => {
  if (typeof part?.text === "string") return cut(part.text, rich);
  const address = part?.image_url?.url ?? part?.image_url ?? `data:${part?.mime_type};base64,${part?.base64}`;
  if (/^data:image\/(png|jpeg|gif|webp);/.test(address)) return h("img", { src: address, alt: "Image of the message" });
  return !/^(tool_use|tool_call|input_json_delta)/.test(part?.type) && pre(short(show(part, 1), 2000)); // those: below
});
let drawnMessages = new Map();
function drawChat() {
  const values = valuesNow(), known = [values.messages].flat().filter(message => message?.constructor === Object);
  const messages = S.chosen ? known : [...known, ...S.parts.values()], next = new Map();
  const results = new Map(messages.map(message => [message.tool_call_id, message]));
  const called = new Set(messages.flatMap(message => (message.tool_calls ?? []).map(call => call.id)));
  const rows = messages.filter(message => !called.has(message.tool_call_id));
  const elements = rows.slice(-S.shown).map((message, i) => { // only what is new or changed is made
    const answers = (message.tool_calls ?? []).map(call => results.get(call.id)), id = message.id ?? `#${i}`;
    const sign = [message.version ?? JSON.stringify(message), answers.map(answer => answer?.id), !S.chosen].join();
    const old = drawnMessages.get(id);
    next.set(id, old?.sign === sign ? old : { sign, element: drawMessage(message, answers) });
    return next.get(id).element;
  });
  drawnMessages = next;
  const more = rows.length - elements.length, isState = !isChat() && Object.keys(values).length;
  fill($("talk"), more && button(`Show ${more} earlier messages`, () => { S.shown += 200; redraw("chat"); }),
    !elements.length && !isState && hint("The thread begins with what you send."), elements,
    isState && tree(values, "", "State", true),
    S.custom.length && folded("custom", `${S.custom.length} custom events`,
      () => S.custom.slice(-20).map(data => pre(short(show(data), 500)))), errorCard());
}
function drawMessage(message, answers) {
  const kind = role(message), usage = message.usage_metadata, name = ROLES[kind] ?? kind;
  const calls = message.tool_calls?.length ? message.tool_calls : message.tool_call_chunks ?? [];
  return h("article", { class: `message ${kind}`, "aria-label": name }, h("header", {}, message.name ?? name,
    dim(message.node), usage && dim(`${usage.input_tokens ?? 0} → ${usage.output_tokens ?? 0} tokens`),
    kind === "human" && message.id && !S.chosen && plain("Edit", () => editMessage(message))),
  content(message), calls.map(({ id, name: tool, args }, i) =>
    folded(`call ${id}`, `→ ${tool}(${short(show(args), 70)}) ${answers[i] ? "✓" : "…"}`,
      () => [pre(show(args, 1)), answers[i] && [hint("Result"), content(answers[i])]])));
}
function errorCard() {
  const { error, run, chosen, runs } = S, node = tasksOfRun().findLast(task => task.state === "error")?.node;
  if (!error || run || chosen) return null;
  return div("card error", h("strong", { class: "bad" }, `✕ ${error.error ?? "Error"}`), node && ` in node ${node}`,
    cut(error.message ?? "", text => h("p", {}, text)), button("Retry from the last checkpoint", goOn),
    hint(`Its traceback is in devserver's log, where run ${runs[0]?.run_id} ended.`));
}
/** Ask again with another text: the thread goes on from before the message, the old way stays in its history. */
function editMessage(message) {
  const text = area("Message", textOf(message.content));
  const close = dialog("Edit the message", text, hint("The thread forks before it."), button("Send", async () => {
    const by = byId(await api(`threads/${S.threadId}/history`, { limit: 1000 }));
    let state = by.get(here());
    while (state?.values.messages?.some(other => other.id === message.id)) state = by.get(state.parent_checkpoint_id);
    if (!state) throw Error("The checkpoint before this message is gone.");
    close();
    const messages = [{ type: "human", content: text.value }];
    await startRun({ input: { messages }, checkpoint_id: state.checkpoint_id });
  }));
}

// 7. What can be sent: an answer to a question, a message, or a form
const isChat = () => Boolean(S.schemas.input_schema?.properties?.messages ?? valuesNow().messages);
const questions = () => S.run || S.chosen ? [] : (S.state?.tasks ?? []).flatMap(({ name, interrupts }) =>
  (interrupts ?? []).map(question => ({ ...question, node: name })));
let asked = "";
function drawAsk() {
  const open = questions(), stopped = !S.run && !S.chosen && !open.length && !S.error && S.state?.next?.length;
  const { threadId, assistant, run, asForm, chosen } = S;
  const now = JSON.stringify([threadId, assistant, run, open, stopped, isChat(), asForm, here(), chosen && 1]);
  if (now === asked) return; // so that what somebody is typing stays
  asked = now;
  const cancel = () => api(`threads/${S.threadId}/runs/${S.run}/cancel?action=interrupt`, {});
  const change = button("Change the state", () => forkDialog(S.chosen ?? S.state));
  fill($("ask"), open.length && questionCards(open),
    S.chosen && div("card", `Step ${S.chosen.metadata?.step}, of `, timeOf(S.chosen.created_at), ". Go on from it:",
      row(button("Run again from here", goOn), change, button("Back to now", () => to(`#/t/${S.threadId}`)))),
    stopped && div("card", `Stopped before ${namesOf(S.state.next)}.`, row(button("Continue", goOn), change)),
    S.run && row(h("span", { class: "live" }, "● running"), button("Cancel", cancel)),
    isChat() && !asForm ? drawAsk.chat ??= chatForm() : !open.length && !run && inputForm(),
    isChat() && plain(asForm ? "Message instead" : "Form instead", () => { S.asForm = !asForm; redraw("ask"); }));
}
function chatForm() {
  let back = 0;
  const send = async () => {
    const said = text.value.trim(), messages = [{ type: "human", content: said }];
    if (!said) return;
    S.said.push(said);
    text.value = "";
    try { await startRun({ input: { messages } }); } catch (error) { $("message").value = said; throw error; }
    remember("draft", "");
  };
  const onkeydown = async event => {
    const { key } = event, isSent = key === "Enter" && !event.shiftKey && !event.isComposing;
    const step = key === "ArrowUp" && !text.selectionStart ? 1 : key === "ArrowDown" && back ? -1 : 0;
    if (!isSent && (!step || back + step > S.said.length)) return;
    event.preventDefault();
    back += step;
    if (isSent) await send();
    else text.value = back ? S.said.at(-back) : "";
  };
  const text = h("textarea", { id: "message", rows: 2, "aria-label": "Message", onkeydown,
    value: remembered("draft", ""), oninput: () => remember("draft", text.value),
    placeholder: "Message: Enter sends, Shift+Enter makes a new line" });
  return row(div("grow", text), button("Send", send));
}
function inputForm() {
  const name = `input.${S.assistant?.graph_id}`, run = input => { remember(name, input); return startRun({ input }); };
  return editor("Input", S.schemas.input_schema, remembered(name, {}), { Run: run });
}
/** All open questions; a single answer is sent at once, several together, each under its interrupt's id. */
function questionCards(open) {
  const answers = new Map();
  say(`${open.length === 1 ? "A question waits" : `${open.length} questions wait`} for an answer.`);
  return open.map(({ id, node, ...question }) => {
    const note = tagged("p", "good")(), title = h("strong", { class: "wait" }, `? ${node} asks`);
    return div("card", title, questionForm(question, async answer => {
      answers.set(id, answer);
      note.textContent = `✓ answered, ${open.length - answers.size} more to answer`;
      if (answers.size === open.length) await startRun({ command: { resume: Object.fromEntries(answers) } });
    }), note);
  });
}
// How tool calls are decided on: as LangGraph's prebuilt agents ask, and as langchain's middleware does
const OLD_ANSWERS = {
  accept: () => ({ type: "accept", args: null }), ignore: () => ({ type: "ignore", args: null }),
  edit: (args, words, action) => ({ type: "edit", args: { action, args } }),
  respond: (args, words) => ({ type: "response", args: words }),
};
const ANSWERS = {
  approve: () => ({ type: "approve" }), respond: (args, message) => ({ type: "respond", message }),
  edit: (args, words, name) => ({ type: "edit", edited_action: { name, args } }),
  reject: (args, message) => ({ type: "reject", ...full({ message }) }),
};
/** The known shapes of questions get buttons, a response_schema a form, all else a text or JSON. */
function questionForm({ value, response_schema: schema }, give) {
  const old = [value].flat();
  if (old[0]?.action_request) return toolForms(OLD_ANSWERS, give, old.map(({ action_request, config, description }) =>
    [action_request.action, action_request.args, description, key => config?.[`allow_${key}`]]));
  const configOf = name => value.review_configs?.find(one => one.action_name === name)?.allowed_decisions;
  if (value?.action_requests) return toolForms(ANSWERS, decisions => give({ decisions }), value.action_requests.map(
    ({ name, args, description }) => [name, args, description, key => configOf(name)?.includes(key) ?? true]));
  const text = area("Answer", "", { placeholder: "Text, or JSON" });
  return [typeof value === "string" ? rich(value) : tree(value, "", null, true),
    schema ? editor("Answer", schema, {}, { Answer: give })
      : row(text, button("Answer", () => give(parsedOrText(text.value))))];
}
/** Tool calls with their arguments, each to be decided on; the answers are given once there is one for each. */
function toolForms(answers, give, requests) {
  const decided = [];
  return requests.map(([name, args, description, isAllowed], i) => {
    const allowed = Object.keys(answers).filter(isAllowed);
    const edited = area("Arguments", args ?? {}), words = entry("Response, or reason"), note = tagged("p", "good")();
    const decide = key => async () => {
      decided[i] = answers[key](key === "edit" ? parse(edited.value) : null, words.value, name);
      note.textContent = `✓ ${key}`;
      if (requests.every((_, j) => decided[j])) await give(decided);
    };
    return div("", h("p", {}, description), h("code", {}, name), edited, row(
      allowed.map(key => button(key[0].toUpperCase() + key.slice(1), decide(key))),
      allowed.some(key => /respond|reject/.test(key)) && words, note));
  });
}

// 8. Editors: a form from a JSON schema, which can be turned into raw JSON and back
function editor(label, schema, value, actions) {
  const place = div(""), properties = Object.entries(resolved(schema, schema)?.properties ?? {});
  let read, raw = Boolean(properties.length);
  const turn = now => {
    raw = !raw || !properties.length;
    const text = area(label, now), fields = raw ? [] : properties.map(([name, part]) =>
      [name, ...field(name, resolved(part, schema), now?.[name] ?? part.default)]);
    const readFields = () => Object.fromEntries(fields.map(([name, , get]) => [name, get()]));
    read = raw ? () => parse(text.value) : () => JSON.parse(JSON.stringify(readFields())); // without what is undefined
    fill(place, raw ? text : fields.map(([name, input]) => row(dim(name), div("grow", input))));
  };
  turn(value);
  const toggle = properties.length && plain("Form or JSON", () => turn(read()));
  return div("", place, row(Object.entries(actions).map(([name, act]) => button(name, () => act(read()))), toggle));
}
/** A part of a schema with its reference, or the one type that is not null, put in its place. */
function resolved(part, whole) {
  const name = part?.$ref?.split("/").at(-1), types = (part?.anyOf ?? part?.allOf)?.filter(one => one.type !== "null");
  if (name) return resolved(whole.$defs?.[name], whole);
  return types?.length === 1 ? { ...part, ...resolved(types[0], whole) } : part;
}
/** An input for a value of a schema's type, and what reads it: undefined where nothing was given. */
function field(name, schema, value) {
  const { type, enum: options, description: title } = schema ?? {}, isNumber = ["integer", "number"].includes(type);
  const input = options ? choice(name, ["", ...options.map(option => show(option))])
    : type === "boolean" ? h("input", { "aria-label": name, title, type: "checkbox", checked: Boolean(value) })
      : isNumber ? entry(name, value, { title, type: "number", step: "any" }) : area(name, value, { title });
  if (options) input.value = show(value);
  const read = options ? text => options.find(option => show(option) === text) : isNumber ? Number
    : type === "string" ? String : type ? parse : parsedOrText;
  return [input, () => type === "boolean" ? input.checked : input.value === "" ? undefined : read(input.value)];
}

// 9. JSON as a tree that is made as it is opened
const pathTo = (path, key, isList) => isList ? `${path}[${key}]` : path ? `${path}.${key}` : key;
/** A leaf's key is a button that copies its path; what is unfolded begins with one. */
function tree(value, path = "", key = null, open = undefined) {
  const copier = text => path ? plain(text, () => copy(path), { title: `Copy ${path}` }) : key;
  const isList = Array.isArray(value), entries = value && typeof value === "object" ? Object.entries(value) : [];
  const keys = isList ? `[${entries.length}]` : `{${short(Object.keys(value ?? {}).join(", "), 50)}}`;
  const line = ([part, inner]) => tree(inner, pathTo(path, part, isList), part);
  const more = from => entries.length > from && plain(`${entries.length - from} more`,
    event => event.target.replaceWith(...some(page(from))));
  const page = from => [entries.slice(from, from + 100).map(line), more(from + 100)];
  const element = entries.length ? folded(`tree ${path}`, h("span", {}, key !== null && `${key}: `, dim(keys)),
    () => [path && copier("Copy path"), page(0)], open)
    : div("leaf", key !== null && [copier(key), ": "], cut(JSON.stringify(value) ?? "", text => text));
  return path ? element : div("tree", element);
}
/** The paths and leaves of a value that have a text in them. */
function* matches(value, text, path = "") {
  if (value !== null && typeof value === "object")
    for (const key of Object.keys(value)) yield* matches(value[key], text, pathTo(path, key, Array.isArray(value)));
  else if (`${path} ${value}`.toLowerCase().includes(text)) yield [path, value];
}

// 10. The inspector
const INSPECTORS = { History: drawHistory, Timeline: drawTimeline, State: drawState, Runs: drawRuns };
function drawInspector() {
  fill($("inspectors"), tabs(Object.keys(INSPECTORS).map(name => [name, name]), S.inspector,
    name => { S.inspector = name; redraw("inspector"); }));
  if (document.activeElement !== search) fill($("inspector"), INSPECTORS[S.inspector]());
}
/** The top-level keys that differ, each with what was and what is. */
function changes(before, after) {
  const keys = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])];
  const pairs = keys.map(key => [key, before?.[key], after?.[key]]);
  return pairs.filter(([, one, other]) => JSON.stringify(one) !== JSON.stringify(other));
}
function changed([key, before, after]) {
  const isGrown = Array.isArray(before) && Array.isArray(after) && after.length > before.length;
  const now = after === undefined ? "(gone)" : show(isGrown ? after.slice(before.length) : after, 1);
  return [h("code", {}, key), !isGrown && before !== undefined && pre(short(show(before, 1), 700), "old"),
    pre(short(now, 1500), "new")];
}
const byId = states => new Map(states.map(state => [state.checkpoint_id, state]));
/** The checkpoints as a tree: the way to the latest one is not indented, each fork is once more than its parent. */
function drawHistory() {
  const by = byId(S.history), lanes = new Map(), parentOf = state => by.get(state.parent_checkpoint_id);
  for (let leaf of [by.get(S.state?.checkpoint_id), ...S.history]) {
    const way = [];
    for (; leaf && !lanes.has(leaf.checkpoint_id); leaf = parentOf(leaf)) way.push(leaf.checkpoint_id);
    for (const id of way) lanes.set(id, leaf ? lanes.get(leaf.checkpoint_id) + 1 : 0);
  }
  const rows = S.history.map(state => {
    const { checkpoint_id: id, metadata, next } = state, parent = parentOf(state), lane = lanes.get(id);
    const differ = changes(parent?.values, state.values);
    const nodes = metadata?.source === "loop" ? namesOf(parent?.next) : metadata?.source;
    const after = ` → ${namesOf(next) || "end"} ${parent ? `· ${between(parent.created_at, state.created_at)}` : ""}`;
    const line = h("li", { "aria-current": id === here() }, entryButton(`${lane ? "⤷ " : ""}${metadata?.step} ${nodes}`,
      () => to(`#/t/${S.threadId}/c/${id}`), dim(after)),
    folded(id, dim(`changed ${differ.map(([key]) => key).join(", ") || "nothing"}`), () => differ.map(changed)));
    line.style.marginLeft = `${lane}rem`;
    return line;
  });
  return [list(rows, "No checkpoint yet."), rows.length && rows.length % 25 === 0 && button("Earlier", async () => {
    const before = { configurable: { checkpoint_id: S.history.at(-1).checkpoint_id } };
    S.history.push(...await api(`threads/${S.threadId}/history`, { limit: 25, before }));
    redraw("inspector");
  })];
}
/** The last run's tasks as bars, each where and as long as it was within the run. */
function drawTimeline() {
  const tasks = tasksOfRun().slice(-150), start = tasks[0]?.from;
  const ends = tasks.map(({ to }) => (to ?? Date.now()) - start), percent = ms => `${100 * ms / Math.max(1, ...ends)}%`;
  const rows = tasks.map(({ node, state, from, isStep }, i) => {
    const bar = div(`bar ${COLOURS[SIGNS[state]]}`), ms = ends[i] + start - from;
    Object.assign(bar.style, { marginLeft: percent(from - start), width: percent(ms) });
    return item(`${SIGNS[state]} ${node.replaceAll(":", " › ")} `, dim(`${took(ms)}${isStep ? " *" : ""}`), bar);
  });
  return [list(rows, "No run yet."), tasks.some(task => task.isStep) && hint("* by the checkpoints' times")];
}
/** Change a checkpoint's state and go on from the change; the checkpoint itself stays as it is. */
function forkDialog({ values, checkpoint_id }) {
  const text = area("Values", values), nodes = S.nodes.filter(id => !id.endsWith("__end__"));
  const as = choice("As node", [["", "the node that wrote last"], ...nodes.map(id => [id, named(id)])]);
  const change = runs => async () => {
    const update = changes(values, parse(text.value)).map(([key, , after]) => [key, after ?? null]);
    const made = await api(`threads/${S.threadId}/state`, { checkpoint_id, as_node: as.value || undefined,
      values: update.length ? Object.fromEntries(update) : null });
    close();
    to(`#/t/${S.threadId}`);
    await (runs ? startRun({ input: null, checkpoint_id: made.checkpoint_id }) : refresh());
  };
  const close = dialog("Change the state", hint("The keys that you change are written, through their reducers."),
    text, row("As", as, button("Change", change(false)), button("Change and run", change(true))));
}
const search = entry("Search keys and values", "", { oninput: () => fill($("inspector"), drawState()) });
function drawState() {
  const values = valuesNow(), text = search.value.toLowerCase(), found = [];
  if (!text) return [row(search), tree(values, "", null, true), tree(S.chosen ?? S.state, "", "checkpoint", false)];
  for (const match of matches(values, text)) if (found.push(match) > 200) break;
  return [row(search), list(found.map(([path, value]) =>
    item(plain(path, () => copy(path), { title: `Copy ${path}` }), " ", short(show(value), 300))), "Nothing found.")];
}
function drawRuns() {
  return list(S.runs.map((run, i) => item(signed(run.status), " ", timeOf(run.created_at),
    dim(` ${between(run.created_at, run.updated_at)}`), i === 0 && S.error && div("bad", short(show(S.error), 200)),
    folded(run.run_id, dim("What was asked"), () => tree(askedOf(run), "", null, true)),
    row("Copy as", Object.entries(CODE).map(([name, of]) => plain(name, () => copy(of(run, askedOf(run)))))))),
  "No run yet.");
}
/** A run's request, without what the server added. */
function askedOf({ kwargs: { input, command, config, context, stream_mode, interrupt_before, interrupt_after } }) {
  const own = /^(__|run_id|thread_id|graph_id|assistant_id|langgraph_)/;
  const given = Object.entries(config?.configurable ?? {}).filter(([key]) => !own.test(key));
  const settings = { config: full({ configurable: full(Object.fromEntries(given)) }), context };
  return { input, ...full({ command, ...settings, stream_mode, interrupt_before, interrupt_after }) };
}
// A run as a program's text. Of the headers only the names are copied.
const secrets = form => Object.keys(headers()).map(form).join("");
const pair = name => `"${name}": "<yours>", `;
const CODE = {
  curl(run, asked) {
    const body = JSON.stringify({ assistant_id: run.assistant_id, ...asked }).replaceAll("'", "'\\''");
    return `curl -N ${ADDRESS}/threads/${run.thread_id}/runs/stream${secrets(name => ` -H '${name}: <yours>'`)} \\
  -H 'Content-Type: application/json' -d '${body}'`;
  },
  Python(run, asked) {
    const words = { true: "True", false: "False", null: "None" }; // but for those within texts
    const literal = JSON.stringify(asked, null, 4).replace(/("(?:[^"\\]|\\.)*")|\b\w+\b/g,
      (all, text) => text ?? words[all] ?? all);
    return `from langgraph_sdk import get_sync_client\n
client = get_sync_client(url="${ADDRESS}", headers={${secrets(pair)}})
for part in client.runs.stream("${run.thread_id}", "${run.assistant_id}", **${literal}):
    print(part.event, part.data)\n`;
  },
  JavaScript(run, asked) {
    const camel = ([key, value]) => [key.replace(/_(.)/g, (_, letter) => letter.toUpperCase()), value];
    const options = JSON.stringify(Object.fromEntries(Object.entries(asked).map(camel)), null, 2);
    return `import { Client } from "@langchain/langgraph-sdk";\n
const client = new Client({ apiUrl: "${ADDRESS}", defaultHeaders: { ${secrets(pair)}} });
const stream = client.runs.stream("${run.thread_id}", "${run.assistant_id}", ${options});
for await (const part of stream) console.log(part);\n`;
  },
};

// 11. The list of threads
async function readThreads(more = false) {
  const pairs = S.filter.text.split(/\s+/).filter(word => word.includes("=")).map(word => word.split(/=(.*)/));
  const metadata = Object.fromEntries(pairs.map(([key, value]) => [key, parsedOrText(value)]));
  const found = await api("threads/search", { ...full({ metadata, status: S.filter.status }), limit: 50,
    offset: more ? S.threads.length : 0, extract: { kind: "values.messages[0].type",
      first: "values.messages[0].content", second: "values.messages[1].content" },
    select: ["thread_id", "updated_at", "status", "metadata"] });
  S.moreThreads = found.length === 50;
  S.threads = more ? [...S.threads, ...found] : found;
  redraw("list");
}
function titleOf({ thread_id: id, metadata, extracted }) {
  const said = textOf(extracted?.[extracted.kind === "system" ? "second" : "first"]).trim();
  return short(metadata?.title || said || `${metadata?.graph_id ?? "Thread"} ${id.slice(-6)}`, 70);
}
function drawThreads() {
  if (!$("threads")) {
    const filter = async () => {
      S.filter = { text: look.value, status: only.value };
      redraw("list");
      await sleep(300);
      if (S.filter.text === look.value) await readThreads();
    };
    const look = entry("Search, or key=value", "", { type: "search", class: "grow", oninput: filter });
    const only = choice("Status", [["", "any status"], "idle", "busy", "interrupted", "error"], filter);
    $("list").append(button("New thread", () => to("#/t")), row(look, only), div(""));
    $("list").lastChild.id = "threads";
  }
  const words = S.filter.text.toLowerCase().split(/\s+/).filter(word => !word.includes("="));
  const isFound = thread => words.every(word => titleOf(thread).toLowerCase().includes(word));
  const rows = S.threads.filter(thread => !S.gone.has(thread.thread_id) && isFound(thread)).map(thread => {
    const id = thread.thread_id, copied = async () => to(`#/t/${(await api(`threads/${id}/copy`, {})).thread_id}`);
    return h("li", { "aria-current": id === S.threadId }, entryButton(titleOf(thread), () => to(`#/t/${id}`),
      div("small", signed(thread.status), dim(` ${ago(thread.updated_at)}`))),
    div("small", plain("Rename", () => rename(thread)), plain("Copy", copied), plain("Export", () => save(id)),
      plain("Delete", () => remove(id))));
  });
  const example = JSON.stringify({ on_completion: "keep", assistant_id: S.assistant?.graph_id,
    input: isChat() ? { messages: [{ role: "user", content: "hi" }] } : {} });
  const curl = `curl ${ADDRESS}/runs/wait -H 'Content-Type: application/json' -d '${example}'`;
  fill($("threads"), list(rows, "No thread here. Write a message, or start one outside:"), !rows.length && pre(curl),
    S.moreThreads && button("More", () => readThreads(true)));
}
async function save(id) {
  const [thread, history, runs] = await Promise.all(["", "/history?limit=1000", "/runs?limit=1000"]
    .map(part => api(`threads/${id}${part}`)));
  const href = URL.createObjectURL(new Blob([show({ thread, history, runs }, 1)]));
  h("a", { download: `thread-${id}.json`, href }).click();
}
async function rename(thread) {
  const title = prompt("Title of the thread", titleOf(thread));
  if (title !== null) await api(`threads/${thread.thread_id}`, { metadata: { title } }, "PATCH");
  await readThreads();
}
/** Deleted after six seconds, or when the page is left; until then it can be undone. */
function remove(id) {
  const send = () => fetch(`${BASE}threads/${id}`, { method: "DELETE", headers: headers(), keepalive: true });
  const timer = setTimeout(guarded(() => api(`threads/${id}`, undefined, "DELETE")
    .finally(() => { S.gone.delete(id); return readThreads(); })), 6000);
  S.gone.set(id, send);
  if (S.threadId === id) to("#/t");
  notice("The thread is deleted.", 6, () => { clearTimeout(timer); S.gone.delete(id); redraw("list"); });
  redraw("list");
}

// 12. The other screens: memory (shared values first, then the store), the runs of all threads, crons
const items = async (namespace_prefix, more) =>
  (await api("store/items/search", { namespace_prefix, limit: 500, ...more })).items;
async function showMemory() {
  const { namespaces } = await api("store/namespaces", { limit: 1000 }), user = $("user").value.trim();
  const isShared = space => space[0] === "scoped" && space.length === 4;
  const whose = ({ namespace }) => decodeURIComponent(namespace[3]);
  const kinds = new Set(namespaces.filter(isShared).map(space => `${space[1]}\n${space[2]}`));
  const tables = await Promise.all([...kinds].map(async kind => {
    const [scope, key] = kind.split("\n"), known = await items(["scoped", scope, key]);
    known.sort((a, b) => (whose(b) === user) - (whose(a) === user) || whose(a).localeCompare(whose(b)));
    return [heading(`${key}, shared on ${scope}`), itemTable(known, [scope, "Key"], one => [whose(one), one.key])];
  }));
  const found = div(""), query = entry("Meaning, where there is an index", "", { class: "grow" });
  const cells = one => [one.namespace.join(" / "), one.key], titles = ["Namespace", "Key"];
  const look = async space => fill(found, itemTable(await items(space, full({ query: query.value })), titles, cells));
  fill($("wide"), heading("Memory"),
    hint("Each value is edited in place. State keys annotated with SharedValue come first."), tables, heading("Store"),
  row(query, button("Search all", () => look([]))),
  row(namespaces.filter(space => !isShared(space)).map(space => button(space.join(" / "), () => look(space)))), found);
}
function itemTable(known, titles, cells) {
  return table([...titles, "Value", "Changed", "Act"], known.map(one => {
    const { namespace, key, score, updated_at: date } = one;
    const put = () => api("store/items", { namespace, key, value: parse(value.value) }, "PUT");
    const onchange = async () => { await put(); notice("Saved", 2); };
    const value = area(`Value of ${key}`, one.value, { onchange });
    const drop = async () => { await api("store/items", { namespace, key }, "DELETE"); await showMemory(); };
    return [...cells(one), [value, score && hint(`score ${score.toFixed(3)}`)], timeOf(date), plain("Delete", drop)];
  }), "Nothing here.");
}
const threadLink = id => id ? h("a", { href: `#/t/${id}` }, `Thread ${id.slice(-6)}`) : "a new thread each";
async function showRuns() {
  const found = div(""), open = ["pending", "running"], closed = ["success", "error", "interrupted", "timeout"];
  const cancel = async run => { await api(`threads/${run.thread_id}/runs/${run.run_id}/cancel`, {}); await look(); };
  let limit = 50;
  const look = async () => {
    const runs = await api(`runs?limit=${limit}${only.value && `&status=${only.value}`}`);
    fill(found, table(["Status", "When", "Graph", "Thread", "Input", "Act"], runs.map(run => [signed(run.status),
      timeOf(run.created_at), run.metadata?.graph_id, threadLink(run.thread_id),
      short(textOf(run.kwargs.input?.messages?.at?.(-1)?.content) || show(run.kwargs.input ?? run.kwargs.command), 120),
      open.includes(run.status) && button("Cancel", () => cancel(run))]), "No run."),
    runs.length === limit && button("More", () => { limit *= 2; return look(); }));
  };
  const only = choice("Status", [["", "any status"], ...open, ...closed], look);
  fill($("wide"), heading("All runs"), row(only, button("Refresh", look)), found);
  await look();
}
async function showCrons() {
  const crons = await api("runs/crons/search", { limit: 100 });
  const titles = ["Schedule", "Assistant", "Thread", "Next", "Enabled", "Act"];
  fill($("wide"), heading("Crons"), table(titles, crons.map(cron => {
    const path = `runs/crons/${cron.cron_id}`;
    const onchange = ({ target }) => api(path, { enabled: target.checked }, "PATCH");
    const name = S.assistants.find(one => one.assistant_id === cron.assistant_id)?.name ?? cron.assistant_id;
    return [h("code", {}, `${cron.schedule} ${cron.timezone ?? ""}`), name, threadLink(cron.thread_id),
      cron.next_run_date ? timeOf(cron.next_run_date) : "never",
      h("input", { type: "checkbox", checked: cron.enabled !== false, "aria-label": "Enabled", onchange }),
      row(button("Fire now", async () => to(`#/t/${(await api(`${path}/fire`, {})).thread_id}`)),
        plain("Delete", async () => { await api(path, undefined, "DELETE"); await showCrons(); }))];
  }), "No cron yet."), row(button("New cron", cronDialog)));
}
/** Make a cron of the assistant and the configuration in use; each of its runs gets a thread that stays. */
function cronDialog() {
  const { name, graph_id, assistant_id } = S.assistant, timezone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const schedule = entry("Schedule", "0 9 * * 1-5"), create = async input => {
    const cron = { assistant_id, schedule: schedule.value, timezone, input, ...configured(), on_run_completed: "keep" };
    await api("runs/crons", cron);
    close();
    await showCrons();
  };
  const close = dialog(`New cron of ${name}`, hint(`Minute, hour, day, month, weekday, in ${timezone}:`), schedule,
    editor("Input", S.schemas.input_schema, remembered(`input.${graph_id}`, {}), { Create: create }));
}

// 13. The head, keys, addresses within the page, and the start
const SCREENS = [["t", "Threads"],
  ["runs", "Runs", showRuns], ["memory", "Memory", showMemory], ["crons", "Crons", showCrons]];
const PANES = [["list", "Threads"], ["talk", "Thread"], ["look", "Inspector"]];
async function chooseAssistant(id, again = false) {
  const assistant = S.assistants.find(one => one.assistant_id === id) ?? S.assistants[0];
  if (!assistant || (assistant.assistant_id === S.assistant?.assistant_id && !again)) return;
  const schemas = await api(`assistants/${assistant.assistant_id}/schemas`).catch(() => ({}));
  Object.assign(S, { assistant, schemas, nodes: [], stops: new Map() });
  $("assistant").value = assistant.assistant_id;
  remember("assistant", assistant.assistant_id);
  await drawGraph().catch(error => fill($("graph"), h("p", { class: "bad" }, error.message)));
  redraw("ask", "chat");
}
async function openThread(id) {
  if (id === S.threadId) return;
  following.abort();
  Object.assign(S, emptyThread(), { threadId: id });
  if (!id) return;
  await follow(id); // before it is read, so that nothing is missed
  await refresh();
  await chooseAssistant(S.thread?.metadata?.assistant_id ?? S.assistant?.assistant_id);
}
const pane = name => { document.body.dataset.pane = name; fill($("panes"), tabs(PANES, name, pane)); };
/** Show what the address names: a screen, a thread, or a checkpoint of it. */
async function go() {
  const [, screen = "t", id, , checkpoint] = location.hash.split("/");
  const [, , draw] = SCREENS.find(([name]) => name === screen) ?? [];
  fill($("screens"), tabs(SCREENS, screen, name => { to(`#/${name}`); if (name !== "t") pane("talk"); }));
  $("wide").hidden = !draw;
  document.querySelector("main").hidden = document.querySelector("aside").hidden = Boolean(draw);
  if (draw) { pane("talk"); await draw(); return; }
  if (S.threadId !== (id || null)) pane("talk"); // in a narrow page, from the list to what was chosen in it
  await openThread(id || null);
  const known = S.history.find(state => state.checkpoint_id === checkpoint);
  S.chosen = checkpoint ? known ?? await api(`threads/${id}/state/${checkpoint}`) : null;
  redraw("graph", "chat", "ask", "inspector", "list");
}
/** The settings of runs that this page starts; they can be kept with the assistant, or with a new one. */
function configurationDialog() {
  const { graph_id, assistant_id: id, name, config, context } = S.assistant, own = `configuration.${graph_id}`;
  const { context_schema: schema, config_schema: old } = S.schemas, called = entry("Name of a new assistant");
  const keep = (path, method, more) => async given => {
    const settings = schema?.properties ? { context: given } : { config: { configurable: given } };
    const { assistant_id } = await api(path, { ...more(), ...settings }, method);
    close();
    await readAssistants(assistant_id);
  };
  const now = { ...config?.configurable, ...context, ...remembered(own) }, close = dialog(`Configuration of ${name}`,
    editor("Configuration", schema?.properties ? schema : old, now, {
      "For the runs of this page": given => { remember(own, given); close(); },
      [`For all of ${name}`]: keep(`assistants/${id}`, "PATCH", () => ({})),
      "For a new assistant": keep("assistants", "POST", () => full({ graph_id, name: called.value })) }), called);
}
/** Headers are kept for this tab alone, and go into no address and no copied code. */
function askHeaders(why) {
  const text = area("Headers", { Authorization: "Bearer abc", ...headers() });
  dialog("Headers", why && h("p", { class: "bad" }, why), hint("Sent with every request of this tab."), text,
    button("Use them", () => {
      new Headers(parse(text.value)); // which says what is wrong
      sessionStorage.setItem("devserver.headers", text.value);
      location.reload();
    }));
}
function step(rows, key, now, by, base) {
  const next = rows[Math.max(0, rows.findIndex(one => one[key] === now) + by)]?.[key];
  if (next) to(base + next);
}
const stepThread = by => step(S.threads, "thread_id", S.threadId, by, "#/t/");
const stepBack = by => step(S.history, "checkpoint_id", here(), by, `#/t/${S.threadId}/c/`);
const KEYS = {
  "/": ["write a message", () => $("message")?.focus()], n: ["new thread", () => to("#/t")],
  j: ["next thread", () => stepThread(1)], k: ["previous thread", () => stepThread(-1)],
  g: ["to the graph", () => document.querySelector("#graph .node")?.focus()],
  "[": ["older checkpoint", () => stepBack(1)], "]": ["newer checkpoint", () => stepBack(-1)],
  f: ["change the state and run", () => here() && forkDialog(S.chosen ?? S.state)],
  r: ["run again from here", () => here() && goOn()], "?": ["this help", helpDialog],
};
function helpDialog() {
  const onchange = () => remember("letters", letters.checked);
  const letters = h("input", { type: "checkbox", checked: remembered("letters", true), onchange });
  const rows = [...Object.entries(KEYS), ["Esc", ["close, leave a field"]]];
  dialog("Keys", table(["Key", "Does"], rows.map(([key, [does]]) => [h("kbd", {}, key), does])),
    h("label", {}, letters, " single letters act"), hint(h("a", { href: `${BASE}docs` }, "The API's documentation")));
}
function pressed(event) {
  const isTyping = event.target.matches("input, textarea, select"), [, act] = KEYS[event.key] ?? [];
  if (event.key === "Escape" && isTyping) event.target.blur();
  const isOff = event.ctrlKey || event.metaKey || event.altKey || $("dialog").open || !remembered("letters", true);
  if (!act || isTyping || isOff) return;
  event.preventDefault();
  guarded(act)();
}
async function readAssistants(id) {
  S.assistants = await api("assistants/search", { limit: 1000 });
  fill($("assistant"), S.assistants.map(({ assistant_id: value, name, graph_id: graph }) =>
    h("option", { value }, name === graph ? name : `${name} (${graph})`)));
  await chooseAssistant(id, true);
}
let loaded, looks = 0;
/** Every five seconds while the page is seen, one question: was the code reloaded, or which threads changed? */
async function look() {
  if (document.hidden) return;
  if (looks++ % 2) { await readThreads(); return; }
  const { database, reloads } = await api("info");
  $("database").textContent = database ?? "";
  if ((loaded ??= reloads) === reloads) return;
  loaded = reloads;
  notice("The code was reloaded.", 4);
  await readAssistants(S.assistant?.assistant_id);
}
async function start() {
  const on = (id, kind, listener) => $(id).addEventListener(kind, guarded(listener));
  $("user").value = remembered("user", "");
  on("user", "change", () => remember("user", $("user").value));
  on("assistant", "change", async () => { to("#/t"); await chooseAssistant($("assistant").value); });
  const heads = { settings: configurationDialog, headers: () => askHeaders(), help: helpDialog };
  for (const [id, open] of Object.entries(heads)) on(id, "click", open);
  addEventListener("hashchange", guarded(go));
  addEventListener("keydown", pressed);
  addEventListener("pagehide", () => { for (const send of S.gone.values()) send(); });
  pane("talk");
  await readAssistants(remembered("assistant"));
  await readThreads();
  setInterval(() => look().catch(() => {}), 5000);
  await go();
  await look();
}
guarded(start)();
</script></body></html>"""  # noqa: RUF001  it has a sign of multiplication

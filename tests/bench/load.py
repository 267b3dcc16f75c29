"""The load: a small HTTP client and the scenarios that drive a server, or the floor, with it.

The client is bare HTTP/1.1 on asyncio streams. It shares the machine's cores with the server, and httpx needs
several times more time for a request and far more for an event, so that it would be httpx that is measured.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Protocol, Self

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Stream:
    """A run's stream: its number of events; in seconds since the request, the first of them and the end."""

    events: int
    first: float
    end: float

    @property
    def rate(self) -> float:
        """Events per second, from the first one to the end of the stream: closing the run counts."""
        return self.events / (self.end - self.first)


class Client(Protocol):
    """What scenarios need of a side. A run that fails raises, lest failures be measured as speed."""

    async def new_thread(self) -> str: ...

    async def wait_run(self, thread: str, graph: str, given: Any) -> Any: ...

    async def queue_run(self, thread: str, graph: str, given: Any) -> None: ...

    async def stream_run(self, thread: str, graph: str, given: Any, mode: str, expected: int) -> Stream: ...

    async def state(self, thread: str, graph: str) -> Any: ...

    async def history(self, thread: str, graph: str, limit: int) -> list[Any] | bytes: ...


class Connection:
    """The client of a server: one keep-alive connection, for one request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def _send(self, path: str, body: Any, method: str = "POST", more: str = "") -> dict[str, str]:
        """Send a request, and return the answer's headers."""
        data = b"" if method == "GET" else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {len(data)}\r\n{more}"
        self.writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if not status.startswith("HTTP/1.1 2"):
            raise RuntimeError(f"{method} {path}: {status} {(await self._body(headers))[:500]!r}")
        return headers

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return body

    async def post(self, path: str, body: Any) -> Any:
        answer = json.loads(await self._body(await self._send(path, body)))
        if isinstance(answer, dict) and "__error__" in answer:
            raise RuntimeError(f"POST {path}: {answer['__error__']}")
        return answer

    async def get(self, path: str) -> Any:
        return json.loads(await self._body(await self._send(path, None, "GET")))

    async def put(self, path: str, body: Any) -> None:
        await self._send(path, body, "PUT")

    async def new_thread(self) -> str:
        return str((await self.post("/threads", {}))["thread_id"])

    async def wait_run(self, thread: str, graph: str, given: Any) -> Any:
        return await self.post(f"/threads/{thread}/runs/wait", {"assistant_id": graph, "input": given})

    async def queue_run(self, thread: str, graph: str, given: Any) -> None:
        body = {"assistant_id": graph, "input": given, "multitask_strategy": "enqueue"}
        await self.post(f"/threads/{thread}/runs", body)

    async def stream_run(self, thread: str, graph: str, given: Any, mode: str, expected: int) -> Stream:
        """Counts events in the raw bytes: no server's chunk ends in the middle of an event's name."""
        start = perf_counter()
        await self._send(
            f"/threads/{thread}/runs/stream", {"assistant_id": graph, "input": given, "stream_mode": [mode]}
        )
        return await self._read_stream(start, graph, mode, expected)

    async def state(self, thread: str, graph: str) -> bytes:
        return await self._body(await self._send(f"/threads/{thread}/state", None, "GET"))

    async def history(self, thread: str, graph: str, limit: int) -> bytes:
        """Return it as JSON: to read 10 MB of that takes this process longer than it takes the server to write it."""
        return await self._body(await self._send(f"/threads/{thread}/history", {"limit": limit}))

    async def replay_run(self, thread: str, run: str, mode: str, expected: int) -> Stream:
        """Read all events of a run that is over and was resumable."""
        start = perf_counter()
        await self._send(f"/threads/{thread}/runs/{run}/stream", None, "GET", "Last-Event-ID: -1\r\n")
        return await self._read_stream(start, run, mode, expected)

    async def _read_stream(self, start: float, graph: str, mode: str, expected: int) -> Stream:
        mark = b"event: " + mode.removesuffix("-tuple").encode()
        first, count, tail = 0.0, 0, b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            data = await self.reader.read(1 << 20)
            count += (tail[1 - len(mark) :] + data).count(mark)
            if count and not first:
                first = perf_counter() - start
            tail = (tail + data)[-500:]
            if not data:
                break
        if count < expected:
            raise RuntimeError(f"{graph}: {count} events instead of {expected}, ending in {tail!r}")
        return Stream(count, first, perf_counter() - start)


async def timed(what: Awaitable[Any]) -> float:
    """Milliseconds it takes."""
    start = perf_counter()
    await what
    return (perf_counter() - start) * 1000


async def repeat(action: Callable[[], Awaitable[Any]], times: int) -> list[float]:
    """Time an action after two to warm up, until it was done so often or has taken eight seconds."""
    await action()
    await action()
    took: list[float] = []
    while len(took) < times and sum(took) < 8000:
        took.append(await timed(action()))
    return took


async def one(clients: list[Client]) -> Samples:
    async def create_and_wait() -> None:
        await clients[0].wait_run(await clients[0].new_thread(), "one", {"steps": 0})

    return {"one_ms": await repeat(create_and_wait, 300)}


async def one32(clients: list[Client]) -> Samples:
    """Clients stop starting runs after five seconds; what they have begun still counts."""

    async def work(client: Client) -> int:
        runs = 0
        while perf_counter() < start + 5:
            await client.wait_run(await client.new_thread(), "one", {"steps": 0})
            runs += 1
        return runs

    start = perf_counter()
    runs = await asyncio.gather(*map(work, clients))
    return {"one32_rate": [sum(runs) / (perf_counter() - start)]}


async def ten(clients: list[Client]) -> Samples:
    threads = [await clients[0].new_thread() for _ in range(102)]
    return {"ten_ms": await repeat(lambda: clients[0].wait_run(threads.pop(), "ten", {"steps": 0}), 100)}


async def stream(name: str, client: Client, graph: str, given: Any, mode: str, count: int) -> Samples:
    """Three streams, after one to warm up."""
    runs = [await client.stream_run(await client.new_thread(), graph, given, mode, count) for _ in range(4)]
    return {f"{name}_rate": [r.rate for r in runs[1:]], f"{name}_first_ms": [r.first * 1000 for r in runs[1:]]}


async def custom(clients: list[Client]) -> Samples:
    return await stream("custom", clients[0], "events", {"count": 2000}, "custom", 2000)


async def tokens(clients: list[Client]) -> Samples:
    given = {"messages": [{"role": "user", "content": "1000"}]}
    return await stream("tokens", clients[0], "tokens", given, "messages-tuple", 1000)


async def streams50(clients: list[Client]) -> Samples:
    threads = [await client.new_thread() for client in clients]
    runs = [c.stream_run(t, "events", {"count": 200}, "custom", 200) for c, t in zip(clients, threads, strict=True)]
    return {"streams50_rate": [200_000 * len(clients) / await timed(asyncio.gather(*runs))]}


async def turns(clients: list[Client]) -> Samples:
    """Turns 1-5 and 146-150 are timed; those between are queued, as each would take the peer a second."""
    client, thread = clients[0], await clients[0].new_thread()

    def turn(n: int) -> Any:
        return {"messages": [{"role": "user", "content": f"Turn {n}: " + "and then? " * 10}]}

    await client.wait_run(await client.new_thread(), "chat", turn(0))
    early = [await timed(client.wait_run(thread, "chat", turn(n))) for n in range(1, 6)]
    for n in range(6, 145):
        await client.queue_run(thread, "chat", turn(n))
    await client.wait_run(thread, "chat", turn(145))
    late = [await timed(client.wait_run(thread, "chat", turn(n))) for n in range(146, 151)]
    messages = (await client.wait_run(thread, "chat", turn(151)))["messages"]
    if len(messages) != 302:
        raise RuntimeError(f"{len(messages)} messages after 151 turns")
    states = await client.history(thread, "chat", 100)
    if len(json.loads(states) if isinstance(states, bytes) else states) != 100:
        raise RuntimeError("a history that has not 100 states")
    return {
        "turn150_ms": late,
        "turn150_more_ms": [median(late) - median(early)],
        "history_ms": [await timed(client.history(thread, "chat", 100)) for _ in range(10)],
        "state_ms": [await timed(client.state(thread, "chat")) for _ in range(10)],
    }


async def sleepers(clients: list[Client]) -> Samples:
    """Runs done per second, of those done after ten seconds."""
    threads = [await client.new_thread() for client in clients]
    start = perf_counter()
    runs = [
        asyncio.create_task(client.wait_run(thread, "sleeper", {"seconds": 1}))
        for client, thread in zip(clients, threads, strict=True)
    ]
    done, late = await asyncio.wait(runs, timeout=10)
    took = perf_counter() - start
    for run in late:
        run.cancel()
    for run in done:
        run.result()
    return {"sleepers_rate": [len(done) / took]}


# With how many clients. In this order: a slow server is left with a long queue by sleepers.
SCENARIOS: dict[str, tuple[Callable[[list[Client]], Awaitable[Samples]], int]] = {
    "one": (one, 1),
    "one32": (one32, 32),
    "ten": (ten, 1),
    "custom": (custom, 1),
    "tokens": (tokens, 1),
    "streams50": (streams50, 50),
    "turns": (turns, 1),
    "sleepers": (sleepers, 200),
}


async def measure(name: str, connect: Callable[[], AbstractAsyncContextManager[Client]]) -> Samples:
    scenario, count = SCENARIOS[name]
    async with AsyncExitStack() as stack, asyncio.timeout(180):
        return await scenario([await stack.enter_async_context(connect()) for _ in range(count)])

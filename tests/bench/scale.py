"""What grows: many threads, long threads, long queues, many shared items, long logs, restarts.

    python tests/bench/scale.py [--only devserver peer floor] [--scenario threads,turns] [--threads N] [--json FILE]

Each scenario has a fresh server on a fresh database. The sides take turns within a scenario. The table shows
medians and, of many times, the 95th percentile.
"""

# ruff: noqa: T201

import argparse
import asyncio
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import servers
from floor import InProcess
from load import Client, Connection, Samples, timed
from table import SIDES, Row, about, picture, table

TEXT = "and then? " * 100  # 1 KB
FILL_SECONDS = 240  # the peer takes longer for each thread it has

ROWS = (
    Row("threads_made", f"threads created, in {FILL_SECONDS} s at most", "", ">="),
    Row("create_rate", "threads created, 8 clients", "threads/s", ">="),
    Row("metadata_ms", "of all threads, search by metadata", "ms", "<="),
    Row("status_ms", "- by status", "ms", "<="),
    Row("values_ms", "- by values", "ms", "<="),
    Row("page_ms", "- page 1, sorted", "ms", "<="),
    Row("page1000_ms", "- page 1,000, sorted", "ms", "<="),
    Row("threads_mb", "- memory", "MB", "<="),
    Row("threads_ready_s", "- ready after start", "s", "<="),
    Row("turn_first_ms", "thread of 1,000 turns: turn 1", "ms", "<="),
    Row("turn_last_ms", "- turn 1,000", "ms", "<="),
    Row("turn_file_mb", "- database", "MB", "<="),
    Row("state_ms", "- state", "ms", "<="),
    Row("history_ms", "- history, 10 states", "ms", "<="),
    Row("delta_first_ms", "the same with a DeltaChannel: turn 1", "ms", "<="),
    Row("delta_last_ms", "- turn 1,000", "ms", "<="),
    Row("delta_file_mb", "- database", "MB", "<="),
    Row("sleepers_s", "200 runs at once that sleep 1 s", "s", "<=", 1.6),
    Row("open_ms", "a run beside 200 open streams", "ms", "<="),
    Row("queue_s", "1,000 queued runs on one thread", "s", "<="),
    Row("shared1_ms", "a run with 1 shared item", "ms", "<="),
    Row("shared100_ms", "- 100 items", "ms", "<="),
    Row("shared10000_ms", "- 10,000 items", "ms", "<="),
    Row("replay_rate", "10,000 kept events replayed", "events/s", ">="),
    Row("restart_s", "restart with 1,000 pending runs, until all are done", "s", "<="),
)


class ServerSide:
    """A server in a directory of its own."""

    def __init__(self, who: str, directory: Path, options: argparse.Namespace) -> None:
        self.who, self.directory, self.options = who, directory, options

    def start(self) -> Any:
        return servers.started(self.who, self.directory, self.options.peer_venv, self.options.peer_jobs)

    def file_mb(self) -> float:
        """What the side keeps on disk: a database, or the peer's pickles."""
        kept = [*self.directory.glob("bench.db*"), *self.directory.glob(".langgraph_api/*")]
        return sum(file.stat().st_size for file in kept) / 2**20


async def connected(port: int, count: int, work: Callable[[list[Connection]], Awaitable[Samples]]) -> Samples:
    async with AsyncExitStack() as stack, asyncio.timeout(900):
        return await work([await stack.enter_async_context(Connection(port)) for _ in range(count)])


async def several(action: Callable[[], Awaitable[Any]], times: int = 15) -> list[float]:
    await action()
    return [await timed(action()) for _ in range(times)]


def threads(side: ServerSide) -> Samples:
    """As many threads as `--threads` says, if there is time for them; one of 500 has a state."""

    async def fill(clients: list[Connection]) -> Samples:
        numbers = iter(range(side.options.threads))
        count = 0

        async def work(client: Connection) -> None:
            nonlocal count
            for n in numbers:
                if perf_counter() > start + FILL_SECONDS:
                    return
                made = await client.post("/threads", {"metadata": {"n": n, "owner": f"user{n}"}})
                count += 1
                if n % 500 == 0:
                    await client.wait_run(made["thread_id"], "one", {"steps": 0, "count": n})

        start = perf_counter()
        await asyncio.gather(*map(work, clients))
        return {"threads_made": [count], "create_rate": [count / (perf_counter() - start)]}

    async def search(clients: list[Connection]) -> Samples:
        async def found(expected: int, **body: Any) -> None:
            rows = await clients[0].post("/threads/search", body)
            if len(rows) != expected:
                raise RuntimeError(f"{len(rows)} threads found by {body}")

        sort: Any = {"sort_by": "created_at", "sort_order": "asc"}
        last = max(0, total - 10)
        return {
            "metadata_ms": await several(lambda: found(1, metadata={"owner": f"user{total // 2}"})),
            "status_ms": await several(lambda: found(10, status="idle")),
            "values_ms": [] if side.who == "peer" else await several(lambda: found(1, values={"count": 0})),
            "page_ms": await several(lambda: found(10, **sort)),
            "page1000_ms": await several(lambda: found(10, offset=min(9990, last), **sort)),
        }

    with side.start() as server:
        samples = asyncio.run(connected(server.port, 8, fill))
        total = int(samples["threads_made"][0])
        samples |= asyncio.run(connected(server.port, 1, search))
        samples["threads_mb"] = [servers.memory(server.pid)]
    with side.start() as server:
        samples["threads_ready_s"] = [server.ready]
    return samples


async def long_thread(client: Client, graph: str, name: str) -> tuple[str, Samples]:
    thread = await client.new_thread()

    async def turn(n: int) -> None:
        await client.wait_run(thread, graph, {"messages": [{"role": "user", "content": f"{n} {TEXT}"}]})

    await client.wait_run(await client.new_thread(), graph, {"messages": [{"role": "user", "content": "0"}]})
    early = [await timed(turn(n)) for n in range(1, 6)]
    for n in range(6, 991):
        await client.queue_run(thread, graph, {"messages": [{"role": "user", "content": f"{n} {TEXT}"}]})
    await turn(991)
    return thread, {f"{name}_first_ms": early, f"{name}_last_ms": [await timed(turn(n)) for n in range(992, 1001)]}


def turns_of(graph: str, name: str) -> Callable[[ServerSide], Samples]:
    def scenario(side: ServerSide) -> Samples:
        async def work(clients: list[Connection]) -> Samples:
            thread, samples = await long_thread(clients[0], graph, name)
            if name == "turn":
                samples["state_ms"] = await several(lambda: clients[0].get(f"/threads/{thread}/state"))
                path = f"/threads/{thread}/history"
                samples["history_ms"] = await several(lambda: clients[0].post(path, {"limit": 10}), 5)
            return samples

        with side.start() as server:
            samples = asyncio.run(connected(server.port, 1, work))
        samples[f"{name}_file_mb"] = [side.file_mb()]
        return samples

    return scenario


def sleepers(side: ServerSide) -> Samples:
    async def work(clients: list[Connection]) -> Samples:
        ids = [await client.new_thread() for client in clients]
        start = perf_counter()
        runs = [c.wait_run(thread, "sleeper", {"seconds": 1}) for c, thread in zip(clients, ids, strict=True)]
        await asyncio.gather(*runs)
        return {"sleepers_s": [perf_counter() - start]}

    with side.start() as server:
        return asyncio.run(connected(server.port, 200, work))


def open_streams(side: ServerSide) -> Samples:
    """Runs on one thread while 200 clients follow other threads."""

    async def work(clients: list[Connection]) -> Samples:
        for client in clients[1:]:
            thread = await client.new_thread()
            await client._send(f"/threads/{thread}/stream", None, "GET")
        thread = await clients[0].new_thread()
        return {"open_ms": await several(lambda: clients[0].wait_run(thread, "one", {"steps": 0}), 50)}

    with side.start() as server:
        return asyncio.run(connected(server.port, 201, work))


def queue(side: ServerSide) -> Samples:
    async def work(clients: list[Connection]) -> Samples:
        thread = await clients[0].new_thread()
        await clients[0].wait_run(thread, "one", {"steps": 0})
        start = perf_counter()
        for _ in range(999):
            await clients[0].queue_run(thread, "one", {"steps": 0})
        await clients[0].wait_run(thread, "one", {"steps": 0})
        return {"queue_s": [perf_counter() - start]}

    with side.start() as server:
        return asyncio.run(connected(server.port, 1, work))


def shared(side: ServerSide) -> Samples:
    """One node that reads the shared items of its user."""
    if side.who == "peer":
        return {}

    async def work(clients: list[Connection]) -> Samples:
        samples: Samples = {}
        for count in (1, 100, 10_000):
            for n in range(count):
                item = {"namespace": ["scoped", "user_id", "info", f"u{count}"], "key": f"k{n}", "value": {"n": n}}
                await clients[0].put("/store/items", item)
            body = {"assistant_id": "shared", "input": {}, "config": {"configurable": {"user_id": f"u{count}"}}}
            samples[f"shared{count}_ms"] = await several(lambda body=body: clients[0].post("/runs/wait", body))  # type: ignore[misc]
        return samples

    with side.start() as server:
        return asyncio.run(connected(server.port, 1, work))


def replay(side: ServerSide) -> Samples:
    async def work(clients: list[Connection]) -> Samples:
        client, samples = clients[0], []
        thread = await client.new_thread()
        body = {
            "assistant_id": "events",
            "input": {"count": 10_000},
            "stream_mode": ["custom"],
            "stream_resumable": True,
        }
        run = (await client.post(f"/threads/{thread}/runs", body))["run_id"]
        await client.get(f"/threads/{thread}/runs/{run}/join")
        for _ in range(3):
            read = await client.replay_run(thread, run, "custom", 10_000)
            samples.append(read.events / read.end)
        return {"replay_rate": samples}

    with side.start() as server:
        return asyncio.run(connected(server.port, 1, work))


def restart(side: ServerSide) -> Samples:
    """Runs that are due while the server is off."""

    async def prepare(clients: list[Connection]) -> Samples:
        for _ in range(1000):
            thread = await clients[0].new_thread()
            body = {"assistant_id": "one", "input": {"steps": 0}, "after_seconds": 20}
            await clients[0].post(f"/threads/{thread}/runs", body)
        return {}

    async def finish(clients: list[Connection]) -> Samples:
        while await clients[0].post("/threads/count", {"status": "busy"}):
            await asyncio.sleep(0.02)
        return {}

    with side.start() as server:
        asyncio.run(connected(server.port, 1, prepare))
        asyncio.run(asyncio.sleep(12))  # the peer writes its file every ten seconds
    asyncio.run(asyncio.sleep(20))
    start = perf_counter()
    with side.start() as server:
        asyncio.run(connected(server.port, 1, finish))
        return {"restart_s": [perf_counter() - start]}


SCENARIOS: dict[str, Callable[[ServerSide], Samples]] = {
    "threads": threads,
    "turns": turns_of("chat", "turn"),
    "delta": turns_of("delta", "delta"),
    "sleepers": sleepers,
    "open": open_streams,
    "queue": queue,
    "shared": shared,
    "replay": replay,
    "restart": restart,
}


def in_process(scenario: str) -> Samples:
    """The floor: what the graph itself takes, with a saver in memory."""
    graph, name = {"turns": ("chat", "turn"), "delta": ("delta", "delta")}.get(scenario, ("", ""))
    return asyncio.run(long_thread(InProcess(), graph, name))[1] if graph else {}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=SIDES, nargs="+", default=SIDES, help="measure some sides")
    parser.add_argument("--scenario", default=",".join(SCENARIOS), help="some of " + ",".join(SCENARIOS))
    parser.add_argument("--threads", type=int, default=100_000, help="how many threads the scenario threads makes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to a file")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the medians as SVG")
    parser.add_argument("--peer-venv", type=Path, default=servers.cache_directory() / "peer", metavar="DIR")
    parser.add_argument("--peer-jobs", type=int, metavar="N", help="give the peer --n-jobs-per-worker N")
    options = parser.parse_args()
    options.peer_venv = options.peer_venv.absolute()
    options.scenario = options.scenario.split(",")
    if unknown := set(options.scenario) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return options


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end then, too
    if "peer" in options.only:
        servers.install_peer(options.peer_venv)
    sides: dict[str, Samples] = {who: defaultdict(list) for who in SIDES}
    failures: list[str] = []
    for scenario in options.scenario:
        for who in options.only:
            print(f"{scenario}: {who}", file=sys.stderr, flush=True)
            try:
                if who == "floor":
                    samples = in_process(scenario)
                else:
                    with servers.folder(who) as directory:
                        samples = SCENARIOS[scenario](ServerSide(who, directory, options))
                sides[who].update(samples)
            except Exception as error:
                failures.append(f"{who} {scenario}: {type(error).__name__}: {error}")
    print(*about(options.peer_venv), "", table(ROWS, sides), *failures, sep="\n")
    if options.json:
        options.json.write_text(json.dumps({"samples": sides, "failures": failures}, indent=1))
    if options.picture:
        medians = {who: {key: median(values) for key, values in s.items() if values} for who, s in sides.items()}
        options.picture.write_text(picture(ROWS, medians))
    return 1 if failures else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.exit(main())

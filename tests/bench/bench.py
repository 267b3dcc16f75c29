"""Benchmarks devserver against its peer, `langgraph dev`, and the floor: the same graphs in one process.

    python tests/bench/bench.py [--only devserver peer floor] [--scenario one,ten] [--rounds 3] [--picture FILE]

The sides take turns (A B C A B C ...) with fresh servers each time, so that a slow spell of the machine meets
all of them. The samples of all rounds are pooled; the table shows medians and, of many times, the 95th
percentile. Start-up time and memory are always measured, and alone with `--scenario ready`.
"""

# ruff: noqa: T201

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import servers
from load import SCENARIOS, Connection, Samples, measure
from table import SIDES, Row, about, picture, table

ROWS = (
    Row("ready_s", "ready after start", "s", "<=", 0.9, of_floor=True),
    Row("one_ms", "create thread + wait, one node", "ms", "<=", 3),
    Row("one32_rate", "create + wait, 32 clients", "runs/s", ">=", 600),
    Row("ten_ms", "ten-step run, wait", "ms", "<=", 2, of_floor=True),
    Row("custom_rate", "2,000 custom events in one run", "events/s", ">=", 100_000),
    Row("custom_first_ms", "- the first custom event after", "ms", "<=", 3),
    Row("tokens_rate", "1,000 message tokens", "tokens/s", ">=", 0.95, of_floor=True),
    Row("tokens_first_ms", "- the first token after", "ms", "<="),
    Row("streams50_rate", "50 streams at once", "events/s", ">=", 30_000),
    Row("turn150_ms", "turn 150 of a thread", "ms", "<="),
    Row("turn150_more_ms", "- turn 150 beyond turn 1", "ms", "<=", 5),
    Row("history_ms", "- its history of 100 states", "ms", "<=", 100),
    Row("state_ms", "- its state", "ms", "<=", 5),
    Row("sleepers_rate", "200 runs at once that sleep 1 s", "runs/s", ">=", 125),
    Row("memory_mb", "memory after start", "MB", "<=", 90),
    Row("memory_turns_mb", "- memory after 150 turns and a history", "MB", "<=", 130),
)


def measure_server(who: str, options: argparse.Namespace, found: Samples, failures: list[str]) -> None:
    """Three starts: the second has long threads alone, for its memory; the last all else. A scenario that fails is
    noted and the rest goes on."""
    for start in range(3):
        with servers.running(who, options.peer_venv, options.peer_jobs) as server:
            time.sleep(1)
            found["ready_s"].append(server.ready)
            found["memory_mb"].append(servers.memory(server.pid))
            for name in [name for name in SCENARIOS if name in options.scenario and start == 2 - (name == "turns")]:
                try:
                    samples = asyncio.run(measure(name, lambda: Connection(server.port)))
                    for key, values in samples.items():
                        found[key].extend(values)
                    if name == "turns":
                        found["memory_turns_mb"].append(servers.memory(server.pid))
                except Exception as error:
                    failures.append(f"{who} {name}: {type(error).__name__}: {error}")


def measure_floor(options: argparse.Namespace, found: Samples) -> None:
    for took, size in (servers.bare_import() for _ in range(3)):
        found["ready_s"].append(took)
        found["memory_mb"].append(size)
    for key, values in servers.in_process(options.scenario).items():
        found[key].extend(values)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=SIDES, nargs="+", default=SIDES, help="measure some sides")
    parser.add_argument("--scenario", default=",".join(SCENARIOS), help="some of " + ",".join(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to a file")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the medians as SVG")
    parser.add_argument("--peer-venv", type=Path, default=servers.cache_directory() / "peer", metavar="DIR")
    parser.add_argument("--peer-jobs", type=int, metavar="N", help="give the peer --n-jobs-per-worker N")
    options = parser.parse_args()
    options.peer_venv = options.peer_venv.absolute()
    options.scenario = options.scenario.split(",")
    if unknown := set(options.scenario) - set(SCENARIOS) - {"ready", "memory"}:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return options


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end then, too
    if "peer" in options.only:
        servers.install_peer(options.peer_venv)
    sides: dict[str, Samples] = {who: defaultdict(list) for who in SIDES}
    failures: list[str] = []
    for turn in range(options.rounds):
        for who in options.only:
            print(f"round {turn + 1} of {options.rounds}: {who}", file=sys.stderr, flush=True)
            try:
                if who == "floor":
                    measure_floor(options, sides[who])
                else:
                    measure_server(who, options, sides[who], failures)
            except Exception as error:
                failures.append(f"{who}: {type(error).__name__}: {error}")
    print(*about(options.peer_venv), "", table(ROWS, sides), *failures, sep="\n")
    if options.json:
        options.json.write_text(json.dumps({"samples": sides, "failures": failures}, indent=1))
    if options.picture:
        medians = {who: {key: median(values) for key, values in found.items()} for who, found in sides.items()}
        options.picture.write_text(picture(ROWS, medians))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

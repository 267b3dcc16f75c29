"""CPU of `from devserver import SharedValue`, which every graph that uses it pays, beside LangGraph's own import.

python imports.py [ROUNDS]      alternates both in fresh processes; fails if the ratio is over the aim
"""

# ruff: noqa: T201

import os
import statistics
import subprocess
import sys
from pathlib import Path

AIM = 1.15
LANGGRAPH, DEVSERVER = "from langgraph.graph import StateGraph", "from devserver import SharedValue"
MODULE_PATH = str(Path(__file__).parents[2])


def cpu_seconds(code: str) -> float:
    """Return what a new Python takes to run the code: user and system time."""
    timed = f"import time\n{code}\nprint(time.process_time())"
    environment = {**os.environ, "PYTHONPATH": MODULE_PATH, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run([sys.executable, "-c", timed], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    cpu_seconds(DEVSERVER)  # bytecode is written
    times = [(cpu_seconds(LANGGRAPH), cpu_seconds(DEVSERVER)) for _ in range(rounds)]
    langgraph, devserver = (statistics.median(each) for each in zip(*times, strict=True))
    print(f"langgraph {langgraph:.3f} s, devserver {devserver:.3f} s: ratio {devserver / langgraph:.2f} (aim {AIM})")
    sys.exit(devserver / langgraph > AIM)


if __name__ == "__main__":
    main()

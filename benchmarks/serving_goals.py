"""The service's goals of reliability at their whole counts, on the embedded model.

    python -m benchmarks.serving_goals [--share 1.0] [--only R3,R5] [--output FILE.json]

Prints a table. A goal that does not hold ends the command with its assertion. `--share 0.1` tries
a tenth of each. What is asserted is in tests/serve/goals.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.serve import goals
from tests.serve.conftest import Running, start_server

Goal = Callable[[Running, float], goals.Numbers]
WIDE = ("--max-num-seqs", "256", "--max-queue", "512")
GOALS: dict[str, tuple[str, tuple[str, ...], Goal]] = {
    "R2": (
        "20,000 spoiled requests, none answered by 5xx",
        (),
        lambda server, share: goals.mutated_requests(server, int(20_000 * share)),
    ),
    "R3": (
        "256 streams at once for 5 minutes, each as alone",
        WIDE,
        lambda server, share: goals.streams_at_once(server, int(256 * share), 300 * share),
    ),
    "R4": (
        "1,000 hang-ups, nothing left behind",
        (),
        lambda server, share: goals.hang_ups(server, int(1000 * share)),
    ),
    "R5": (
        "1,000 sockets with half a head or body, closed",
        (),
        lambda server, share: goals.slow_clients(server, int(1000 * share)),
    ),
    "R7": (
        "full queue refused at once; SIGTERM loses nothing",
        ("--max-num-seqs", "64", "--max-queue", "64"),
        lambda server, share: {
            **goals.full_queue(server, 128, int(200 * share)),
            **goals.drained(server, max(8, int(100 * share))),
        },
    ),
    "R14": (
        "schemas that hurt refused; 2,000 constrained replies valid",
        (),
        lambda server, share: {
            **goals.grammar_bombs(server),
            **goals.constrained_samples(server, int(2000 * share)),
        },
    ),
    "R17": (
        "20 minutes of mixed work, memory at rest",
        (),
        lambda server, share: goals.soak(server, 1200 * share),
    ),
}


def main() -> int:
    """Run the goals and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of each count (1)")
    parser.add_argument("--only", default="", help="goals with commas between")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    wanted = [name for name in arguments.only.split(",") if name] or list(GOALS)
    told: dict[str, object] = {}
    print("| goal | what | seconds | measured |\n|---|---|---|---|", flush=True)
    for name in wanted:
        meaning, flags, goal = GOALS[name]
        with tempfile.TemporaryDirectory() as folder:
            server = start_server(Path(folder) / "log", *flags)
            start = time.perf_counter()
            try:
                numbers = goal(server, arguments.share)
            finally:
                server.process.kill()
                server.process.wait()
        seconds = time.perf_counter() - start
        measured = ", ".join(f"{key} {value:g}" for key, value in numbers.items())
        print(f"| {name} | {meaning} | {seconds:.0f} | {measured} |", flush=True)
        told[name] = {"seconds": round(seconds, 1), **numbers}
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

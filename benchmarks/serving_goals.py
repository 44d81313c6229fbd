"""The service's goals of reliability at their whole counts, on the embedded model.

    python -m benchmarks.serving_goals [--share 1.0] [--only R3,R5] [--state FILE.json]

Prints a table. A goal that does not hold ends the command with its assertion. `--share 0.1` tries
a tenth of each. With a state file, goals that it holds already are not tried again: what was cut
off goes on where it was. What is asserted is in tests/serve/{goals,doors,described}.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.serve import described, doors, goals
from tests.serve.conftest import Running, start_server

KEY = "sk-benchmark"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is promised, the server's flags, and the trial of a share of the whole count."""

    meaning: str
    run: Callable[[Running, float], goals.Numbers]
    flags: tuple[str, ...] = ()


def count(whole: int, share: float) -> int:
    """A share of a count."""
    return max(1, int(whole * share))


NAMED = ("--served-model-name", "toy")  # as the requests' bodies name it
WIDE = ("--max-num-seqs", "256", "--max-queue", "512")
LOCKED = ("--api-key", KEY, "--log-format", "json")
GOALS = {
    "R1": Goal(
        meaning="10,000 requests made from the API's description, right and wrong",
        run=lambda server, share: {"requests": described.try_all(server, count(2500, share))},
        flags=("--max-model-len", "64", "--accept-any-model"),
    ),
    "R2": Goal(
        meaning="20,000 spoiled requests, none answered by 5xx",
        run=lambda server, share: goals.mutated_requests(server, count(20_000, share)),
        # A spoiled max_tokens may be none: replies end early.
        flags=(*NAMED, "--max-model-len", "256"),
    ),
    "R3": Goal(
        meaning="256 streams at once for 5 minutes, each as alone",
        run=lambda server, share: goals.streams_at_once(server, count(256, share), 300 * share),
        flags=WIDE,
    ),
    "R4": Goal(
        meaning="1,000 hang-ups, nothing left behind",
        run=lambda server, share: goals.hang_ups(server, count(1000, share)),
    ),
    "R5": Goal(
        meaning="1,000 sockets with half a head or body, closed",
        run=lambda server, share: goals.slow_clients(server, count(1000, share), 20.0),
    ),
    "R6": Goal(
        meaning="10 MB of text, a body and a head too large, refused",
        run=lambda server, share: goals.too_large(server, count(20, share)),
    ),
    "R7": Goal(
        meaning="full queue refused at once; SIGTERM with 100 running loses nothing",
        run=lambda server, share: {
            **goals.full_queue(server, 192, count(200, share)),
            **goals.drained(server, count(100, share)),
        },
        flags=("--max-num-seqs", "128", "--max-queue", "64"),
    ),
    "R13": Goal(
        meaning="every route without, with a wrong and with the right key",
        run=lambda server, share: doors.routes_and_keys(server, KEY),
        flags=LOCKED,
    ),
    "R14": Goal(
        meaning="schemas that hurt refused; 2,000 constrained replies valid",
        run=lambda server, share: {
            **goals.grammar_bombs(server),
            **goals.constrained_samples(server, count(2000, share)),
        },
    ),
    "R17": Goal(
        meaning="20 minutes of mixed work, memory at rest",
        run=lambda server, share: {
            **goals.fill_cache(server),
            **goals.soak(server, 1200 * share),
        },
        flags=NAMED,
    ),
    "R19": Goal(
        meaning="500 requests whose every field would forge a line of the log",
        run=lambda server, share: doors.forged_lines(server, KEY, count(500, share)),
        flags=LOCKED,
    ),
}


def measure(goal: Goal, share: float) -> dict[str, float]:
    """What a goal's trial comes to, on a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        key = KEY if KEY in goal.flags else "none"
        server = start_server(Path(folder) / "log", *goal.flags, key=key)
        start = time.perf_counter()
        try:
            numbers = goal.run(server, share)
        finally:
            server.process.kill()
            server.process.wait()
        return {"seconds": round(time.perf_counter() - start, 1), **numbers}


def main() -> int:
    """Run the goals and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of each count (1)")
    parser.add_argument("--only", default="", help="goals with commas between")
    parser.add_argument("--state", type=Path, help="what is known already, and where it is kept")
    arguments = parser.parse_args()
    known: dict[str, dict[str, float]] = {}
    if arguments.state is not None and arguments.state.exists():
        known = json.loads(arguments.state.read_text("utf-8"))
    print("| goal | what | seconds | measured |\n|---|---|---|---|", flush=True)
    for name in [name for name in arguments.only.split(",") if name] or list(GOALS):
        if name not in known:
            known[name] = measure(GOALS[name], arguments.share)
            if arguments.state is not None:
                arguments.state.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        numbers = {**known[name]}
        seconds = numbers.pop("seconds")
        measured = ", ".join(f"{key} {value:g}" for key, value in numbers.items())
        print(f"| {name} | {GOALS[name].meaning} | {seconds:.0f} | {measured} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

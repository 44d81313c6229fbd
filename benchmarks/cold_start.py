"""Seconds from the start of a process to the first streamed character, and where they go.

    python -m benchmarks.cold_start --runs 5

Every run starts new processes in turn: `python -c "import torch"`, the embedded model up to its
first character, and `chatglm --help`. The table has the median and the best of the runs. Files
that an earlier run has read come from the operating system's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

PROMPT = "你好，我是一个程序员。"
CHILD = """
import time
stamps = [time.monotonic()]
from chatglm import ChatGLM
stamps.append(time.monotonic())
model = ChatGLM.from_pretrained()
stamps.append(time.monotonic())
piece = next(model.stream({prompt!r}, temperature=0))
stamps.append(time.monotonic())
assert piece
print(*stamps)
"""
STAGES = ("python", "import", "load", "first token")


def seconds_of(*command: str) -> float:
    """Wall time of a process from its start to its end."""
    since = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
    return time.monotonic() - since


def stages(prompt: str) -> dict[str, float]:
    """Seconds of each stage up to the first character; the clock is the whole machine's."""
    since = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(prompt=prompt)],
        check=True,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    stamps = [since, *map(float, done.stdout.split())]
    pairs = zip(STAGES, pairwise(stamps), strict=True)
    parts = {name: later - sooner for name, (sooner, later) in pairs}
    return parts | {"first character": stamps[-1] - since}


def environment() -> dict[str, str]:
    """Ours, with the package of this checkout in front."""
    source = str(Path(__file__).resolve().parents[1] / "src")
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    args = parser.parse_args(arguments)
    rows: dict[str, list[float]] = {}
    for _ in range(args.runs):
        run = stages(args.prompt)
        run['python -c "import torch"'] = seconds_of(sys.executable, "-c", "import torch")
        run["chatglm --help"] = seconds_of(sys.executable, "-m", "chatglm", "--help")
        for name, seconds in run.items():
            rows.setdefault(name, []).append(seconds)
    print("| | median s | best s |\n|---|---:|---:|")
    for name, values in rows.items():
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} |")
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

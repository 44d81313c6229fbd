"""Our engine, llama.cpp and transformers, each as a process that measures one thing and ends;
rounds of them in turn; and what comes out as a table, a picture and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.shapes import FORMATS, GGUF_KINDS, SHAPES, shape_of, write_gguf

ROOT = Path(__file__).resolve().parents[1]
Numbers = Mapping[str, float]
Side = Callable[[], Numbers]
"""Runs a process and gives its figures by name."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What every comparison takes."""
    parser.add_argument("--shape", choices=SHAPES, default="nano")
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=list(FORMATS))
    parser.add_argument("--layers", type=int, help="fewer than the shape has, to fit the memory")
    parser.add_argument("--peer-bin", type=Path, required=True, help="the folder of llama-bench")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gguf", type=Path, help="keep the random GGUF files there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the medians there")


def names_of(format: str) -> tuple[str, str]:
    """What our side and llama.cpp's are called in a format."""
    return f"ours {format}", f"llama.cpp {GGUF_KINDS[format][0]}"


def title_of(format: str) -> str:
    """Our format and llama.cpp's beside it."""
    return f"{format} / {GGUF_KINDS[format][0].upper()}"


class Peers:
    """The sides of a comparison for one shape and number of threads."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.shape = ["--shape", arguments.shape, "--threads", str(arguments.threads)]
        if arguments.layers is not None:
            self.shape += ["--layers", str(arguments.layers)]
        self.commit = commit_of(arguments.peer_bin)

    def ours(self, format: str, *flags: str) -> Numbers:
        """Our engine by `benchmarks.own_speed`."""
        return self.child("benchmarks.own_speed", *self.shape, "--format", format, *flags)

    def transformers(self, *flags: str) -> Numbers:
        """transformers by `benchmarks.transformers_speed`."""
        return self.child("benchmarks.transformers_speed", *self.shape, *flags)

    def child(self, module: str, *flags: str) -> Numbers:
        """The JSON object that a module prints."""
        path = os.pathsep.join(filter(None, (f"{ROOT}/src", os.environ.get("PYTHONPATH"))))
        text = output([sys.executable, "-m", module, *flags], cwd=ROOT, PYTHONPATH=path)
        found: Numbers = json.loads(text.splitlines()[-1])
        return found

    def llama_bench(
        self, format: str, *, prompt: int = 0, new: int = 0, repeat: int = 3
    ) -> Numbers:
        """llama.cpp's own measurement of one sequence: prompts to their last scores, and replies
        without choosing tokens.
        """
        command = [self.arguments.peer_bin / "llama-bench", "-m", self.file(format)]
        counts = ["-p", prompt, "-n", new, "-r", repeat, "-t", self.arguments.threads, "-o", "json"]
        rows = json.loads(output([*command, *counts]))
        return {
            "prefill" if row["n_prompt"] else "decode": statistics.median(row["samples_ts"])
            for row in rows
        }

    def llama_batched(self, format: str, sizes: Sequence[int], prompt: int, new: int) -> Numbers:
        """llama.cpp's own measurement of several sequences."""
        room = max(sizes) * (prompt + new)
        command = [self.arguments.peer_bin / "llama-batched-bench", "-m", self.file(format)]
        counts = ["-c", room, "-npp", prompt, "-ntg", new, "-npl", ",".join(map(str, sizes))]
        threads = ["-t", self.arguments.threads, "--output-format", "jsonl"]
        lines = output([*command, *counts, *threads]).splitlines()
        rows = [json.loads(line) for line in lines if line.startswith("{")]
        return {
            f"{key} {row['pl']}": row[name]
            for row in rows
            for key, name in (("prefill", "speed_pp"), ("decode", "speed_tg"), ("total", "speed"))
        }

    def file(self, format: str) -> Path:
        """The GGUF file of the shape, written when it is first needed."""
        layers = self.arguments.layers or "all"
        path = self.folder / f"{self.arguments.shape}-{layers}-{GGUF_KINDS[format][0]}.gguf"
        if not path.exists():
            write_gguf(shape_of(self.arguments.shape, self.arguments.layers), format, path)
        return path


def commit_of(folder: Path) -> str:
    """The commit that the llama.cpp of a folder was built from."""
    programs = sorted(folder.glob("llama-*"))
    if not programs:
        raise FileNotFoundError(f"{folder} holds no llama-bench; build llama.cpp and give its bin")
    done = subprocess.run([programs[0], "--version"], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).partition("commit ")[2].partition(")")[0] or "?"


def output(command: Sequence[object], cwd: Path | None = None, **environment: str) -> str:
    """What a process prints; its complaint ends this one."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Peers]:
    """The sides, with their files in a folder that is kept where one is given."""
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.gguf or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        yield Peers(arguments, folder)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Other work on the machine: processes that count without end."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def in_turn(sides: Mapping[str, Side], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Every figure of every side, round after round: what disturbs the machine meets all sides."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    for index in range(rounds):
        for name, side in sides.items():
            for key, value in side().items():
                found[name].setdefault(key, []).append(value)
            print(f"round {index + 1}: {name}", file=sys.stderr, flush=True)
    return found


def medians(found: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float]]:
    """The middle of the rounds."""
    return {
        side: {key: statistics.median(values) for key, values in figures.items()}
        for side, figures in found.items()
    }


def machine(peers: Peers) -> str:
    """Where and with what it was measured."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text("utf-8").splitlines() if info.exists() else ())
        if line.startswith("model name")
    ]
    layers = peers.arguments.layers
    return (
        f"{peers.arguments.shape}{f' with {layers} layers' if layers else ''}, "
        f"{names[0] if names else platform.processor()}, {peers.arguments.threads} threads, "
        f"{peers.arguments.rounds} rounds; PyTorch {torch.__version__}, "
        f"transformers {version('transformers')}, llama.cpp {peers.commit}"
    )


def cell(value: object) -> str:
    """A number with three digits; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def show(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print a Markdown table."""
    columns = list(rows[0])
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(cell(row[name]) for name in columns)} |", flush=True)


def keep(path: Path | None, title: str, rows: object, found: object) -> None:
    """Write the rows, and every single measurement, as JSON."""
    if path is not None:
        table = {"measured": title, "rows": rows, "rounds": found}
        path.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


def draw(path: Path | None, title: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Bars of tokens/s: a group for each format, a bar for each side."""
    if path is None:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sides = list(dict.fromkeys(side for group in groups.values() for side in group))
    figure, axes = plt.subplots(figsize=(1.6 + 1.5 * len(groups), 3.2))
    width = 0.8 / len(sides)
    for index, side in enumerate(sides):
        places = [at + index * width for at, group in enumerate(groups.values()) if side in group]
        values = [group[side] for group in groups.values() if side in group]
        bars = axes.bar(places, values, width, label=side)
        axes.bar_label(bars, [cell(float(value)) for value in values], fontsize=7)
    middle = [at + width * (len(sides) - 1) / 2 for at in range(len(groups))]
    axes.set_xticks(middle, list(groups))
    axes.set_ylabel("tokens/s")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=140)

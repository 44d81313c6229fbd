"""What a run tells: metrics.jsonl, a progress line, a plot of the loss."""

from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# What the progress line shows beside loss and speed.
_SHOWN = (
    ("accuracy", "accuracy"),
    ("reward", "reward"),
    ("validation_loss", "validation"),
    ("general_loss", "general"),
)


class Log:
    """Writes one JSON object a line to `metrics.jsonl`, a line to the terminal, and to TensorBoard
    where that is installed.
    """

    def __init__(
        self, directory: Path, *, steps: int, first_step: int = 0, is_silent: bool = False
    ) -> None:
        self.path = directory / "metrics.jsonl"
        self.steps = steps
        self.first_step = first_step
        self.is_silent = is_silent
        self.started = time.monotonic()
        self.since, self.tokens_since = self.started, 0
        self.board: SummaryWriter | None = None
        if is_silent:
            return
        directory.mkdir(parents=True, exist_ok=True)
        self.forget_after(first_step)
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1)

    def begin(self, tokens: int) -> None:
        """Measure speed from here on."""
        self.since, self.tokens_since = time.monotonic(), tokens

    def tokens_per_second(self, tokens: int) -> float:
        """Speed since it was asked for last."""
        elapsed = max(time.monotonic() - self.since, 1e-9)
        speed = (tokens - self.tokens_since) / elapsed
        self.begin(tokens)
        return speed

    def say(self, text: str) -> None:
        """A line on stderr."""
        if not self.is_silent:
            print(text, file=sys.stderr, flush=True)

    def forget_after(self, step: int) -> None:
        """Drop what a killed run wrote beyond its last checkpoint, so that no step stands twice."""
        if not self.path.exists():
            return
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        temporary = self.path.with_suffix(".part")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), "utf-8")
        temporary.replace(self.path)

    def write(self, row: dict[str, float]) -> None:
        """Append a row; `step` is the number of steps done."""
        if self.is_silent:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.board is not None:
            for name, value in row.items():
                if name != "step":
                    self.board.add_scalar(name, value, int(row["step"]))
            self.board.flush()

    def show(self, row: dict[str, float]) -> None:
        """The progress line on stderr; it stays in place on a terminal."""
        step = int(row["step"])
        done = step - self.first_step
        left = (time.monotonic() - self.started) / max(done, 1) * (self.steps - step)
        parts = [f"step {step}/{self.steps}"]
        if "loss" in row:
            parts += [f"loss {row['loss']:.4f}", f"{row['tokens_per_second']:,.0f} tokens/s"]
        parts += [f"{label} {row[key]:.4f}" for key, label in _SHOWN if key in row]
        parts.append(f"left {int(left // 3600)}:{int(left % 3600 // 60):02d}:{int(left % 60):02d}")
        self.say("  ".join(parts))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def load_plotting() -> bool:
    """Load what draws the curve, so that its memory is counted too; whether it is there."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def plot_loss(directory: Path) -> Path | None:
    """Draw train and validation loss over tokens into `loss.png`; None where matplotlib is
    missing.
    """
    if not load_plotting():
        print("no loss.png: pip install 'chatglm[train]' brings matplotlib", file=sys.stderr)
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(directory / "metrics.jsonl")
    unit = 1e6 if max((row["tokens"] for row in rows), default=0) >= 1e6 else 1e3
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for key, label, style in (
        ("loss", "train", {"linewidth": 0.8, "alpha": 0.6}),
        ("validation_loss", "validation", {"linewidth": 1.6, "marker": "."}),
        ("general_loss", "general", {"linewidth": 1.2, "marker": ".", "linestyle": "--"}),
    ):
        points = [(row["tokens"] / unit, row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set_xlabel("million tokens" if unit == 1e6 else "thousand tokens")
    axes.set_ylabel("loss (nats per target)")
    axes.grid(alpha=0.3)
    axes.legend()
    path = directory / "loss.png"
    FigureCanvasAgg(figure).print_png(path)
    return path

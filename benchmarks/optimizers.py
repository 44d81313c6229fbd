"""AdamW and Muon on the embedded model's shape: steps, tokens and processor time to one loss.

    python -m benchmarks.optimizers --data data/nano/pretrain [--output runs/optimizers]

Both learn from the same rows in the same order, from the same start, at a constant rate after a
warm-up of ten steps; each rate of a small grid is a run of its own, and the same command goes on
where it was stopped. The mark is the lowest held-out loss that AdamW ends with: the table says
what each run needed to get there, and `optimizers.png` shows the curves.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

from chatglm.tokenizer import load_tokenizer
from chatglm.training.config import TrainConfig, read_recipe
from chatglm.training.log import read_metrics
from chatglm.training.objectives import chunked
from chatglm.training.rows import as_batch
from chatglm.training.run import PackedSource, make_model, make_stream
from chatglm.training.trainer import Trainer

GRID = {"adamw": (5e-4, 1e-3, 2e-3, 4e-3), "muon": (2e-3, 4e-3, 8e-3)}
EVERY = 10
Rows = list[dict[str, float]]


def recipe(args: argparse.Namespace, kind: str, lr: float) -> TrainConfig:
    """The first stage of the embedded model, with another optimizer."""
    source = f"[{{path = '{args.data}'}}]"
    return read_recipe(
        "recipes/nano-1-pretrain.toml",
        [
            f"output='{args.output / f'{kind}-{lr:g}'}'", f"steps={args.steps}", "batch_rows=16",
            f"sources={source}", f"validation={source}", "validate_rows=32", "log_steps=1",
            f"validate_steps={EVERY}", "save_steps=40", "keep=1", "optim.warmup_steps=10",
            f"optim.kind='{kind}'", f"optim.lr={lr}", f"threads={args.threads}",
            f"compiled={str(args.compiled).lower()}", "validate_first=true",
        ],
    )  # fmt: skip


def train(config: TrainConfig) -> Rows:
    """The log of a run, with processor time beside the losses."""
    metrics = Path(config.output) / "metrics.jsonl"
    if metrics.is_file() and (rows := read_metrics(metrics))[-1]["step"] == config.steps:
        return rows
    assert config.tokenizer is not None
    tokenizer = load_tokenizer(config.tokenizer)
    model = make_model(config, tokenizer)
    shape = model.config
    train, kept = (
        make_stream(sources, tokenizer, shape, length=config.length, seed=config.seed, part=part)
        for sources, part in ((config.sources, "train"), (config.validation, "validation"))
    )
    spent = [0.0, time.process_time()]
    trainer = Trainer(
        config,
        model,
        PackedSource(train, shape),
        chunked(config.loss_chunk),
        validation=[as_batch(kept.rows(config.validate_rows), shape)],
        extra=lambda: {"cpu": spent[0] + time.process_time() - spent[1]},
    )
    if trainer.resume():
        spent[0] = next(row["cpu"] for row in read_metrics(metrics) if row["step"] == trainer.step)
    trainer.run()
    return read_metrics(metrics)


def needed(rows: Rows, mark: float) -> tuple[float, float, float] | None:
    """Steps, tokens and seconds until the held-out loss is at the mark, on a straight line between
    two validations; None where it never is.
    """
    told = [row for row in rows if "validation_loss" in row]
    for before, after in pairwise(told):
        high, low = before["validation_loss"], after["validation_loss"]
        if low <= mark:
            part = (high - mark) / (high - low)
            step, tokens, cpu = (
                before.get(key, 0) + part * (after[key] - before.get(key, 0))
                for key in ("step", "tokens", "cpu")
            )
            return step, tokens, cpu
    return None


def plot(found: dict[tuple[str, float], Rows], mark: float, path: Path) -> None:
    """Held-out loss over steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for (kind, lr), rows in found.items():
        told = [(row["step"], row["validation_loss"]) for row in rows if "validation_loss" in row]
        rank = sorted(GRID[kind]).index(lr)
        color = ("#1f77b4" if kind == "adamw" else "#d62728", 0.4 + 0.2 * rank)
        axes.plot(*zip(*told, strict=True), label=f"{kind}, {lr:g}", color=color, marker=".")
    axes.axhline(mark, color="gray", linewidth=0.8, linestyle="--")
    axes.set(xlabel="steps", ylabel="held-out loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(path)


def main() -> None:
    """Run the grid, print the table, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="what `chatglm prepare` wrote")
    parser.add_argument("--output", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    found = {
        (kind, lr): train(recipe(args, kind, lr)) for kind, rates in GRID.items() for lr in rates
    }
    ends = {key: rows[-1]["validation_loss"] for key, rows in found.items()}
    mark = min(loss for (kind, _), loss in ends.items() if kind == "adamw")
    print(f"| optimizer | rate | held-out loss | steps to {mark:.3f} | tokens | CPU s |")
    print("|---|---:|---:|---:|---:|---:|")
    for (kind, lr), rows in found.items():
        at = needed(rows, mark)
        cells = "– | – | –" if at is None else f"{at[0]:.0f} | {at[1]:,.0f} | {at[2]:.0f}"
        print(f"| {kind} | {lr:g} | {ends[kind, lr]:.3f} | {cells} |")
    plot(found, mark, args.output / "optimizers.png")


if __name__ == "__main__":
    main()

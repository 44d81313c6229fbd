"""`chatglm train`: run a recipe."""

from __future__ import annotations

import argparse
import sys


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train",
        help="按配方训练 / run a training recipe",
        description="Run a recipe (TOML). The same command goes on where a stopped run left off.",
    )
    parser.add_argument("recipe", help="a recipe, e.g. recipes/pretrain.toml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. optim.lr=0.001")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; 4 when the loss is no number any more, 130 or 143 when asked to stop."""
    from chatglm.training.config import read_recipe
    from chatglm.training.run import train
    from chatglm.training.trainer import Interrupted, TrainingDiverged

    try:
        directory = train(read_recipe(args.recipe, args.overrides))
    except TrainingDiverged as error:
        print(error, file=sys.stderr)
        return 4
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 128 + error.number
    if (directory / "config.json").is_file():
        print(f"chatglm chat --model {directory}")
    else:
        print(f"weights: {directory} (no public format has a place for this shape)")
    return 0

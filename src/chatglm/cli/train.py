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
    from chatglm.training.config import TrainConfig, build, read_table
    from chatglm.training.run import train
    from chatglm.training.trainer import Interrupted, TrainingDiverged
    from chatglm.training.tuning import is_tune_table

    table = read_table(args.recipe, args.overrides)
    if is_tune_table(table):
        from chatglm.cli.finetune import tune_recipe

        return tune_recipe(table, args.recipe)
    try:
        directory = train(build(TrainConfig, table, where=args.recipe))
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

"""`chatglm train`: run a recipe."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from chatglm.cli.cluster import add_training_flags, train_in_workers
from chatglm.cli.console import say

if TYPE_CHECKING:
    from chatglm.training.config import TrainConfig


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train",
        help=say("run a training recipe", "按配方训练"),
        description=say(
            "Run a recipe (TOML). The same command goes on where a stopped run left off.",
            "运行一份 TOML 配方；训练中断后，同一命令从断点继续。",
        ),
    )
    parser.add_argument(
        "recipe",
        help=say(
            "a recipe, e.g. recipes/nano-1-pretrain.toml", "配方，如 recipes/nano-1-pretrain.toml"
        ),
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help=say("e.g. optim.lr=0.001", "覆盖配方中的值，如 optim.lr=0.001"),
    )
    add_training_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train; 4 when the loss is no number any more, 130 or 143 when asked to stop."""
    from chatglm.training.config import TrainConfig, build, read_table
    from chatglm.training.tuning import TuneConfig, is_tune_table

    table = read_table(args.recipe, args.overrides)
    work: Callable[[], int]
    if is_tune_table(table):
        from chatglm.cli.finetune import go_on

        tuned = build(TuneConfig, table, where=args.recipe)
        work, output = partial(go_on, tuned), tuned.output_dir
    else:
        config = build(TrainConfig, table, where=args.recipe)
        work, output = partial(train_recipe, config), config.output
    return train_in_workers(work, output, args) if args.cluster else work()


def train_recipe(config: TrainConfig) -> int:
    """Run a recipe from where it stopped."""
    from chatglm.cli.samples import Continuations
    from chatglm.training.run import train
    from chatglm.training.trainer import Interrupted, TrainingDiverged

    samples = Continuations(config)
    try:
        directory = train(config, witness=samples)
    except TrainingDiverged as error:
        print(error, file=sys.stderr)
        return 4
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 128 + error.number
    if os.environ.get("RANK", "0") != "0":  # the first of several processes speaks
        return 0
    samples.show()
    if (directory / "config.json").is_file():
        print(f"chatglm chat --model {directory}")
    else:
        print(f"weights: {directory} (no public format has a place for this shape)")
    return 0

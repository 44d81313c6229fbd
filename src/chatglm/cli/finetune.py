"""`chatglm finetune`: examples and a model in, a tuned model out."""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.cluster import add_training_flags, train_in_workers
from chatglm.cli.console import note, say
from chatglm.cli.finetune_flags import add_flags, settings_of
from chatglm.cli.options import INVALID_INPUT, CommandError

if TYPE_CHECKING:
    from chatglm.training.finetune import Tuning
    from chatglm.training.foresight import Foresight
    from chatglm.training.tuning import TuneConfig

DIVERGED = 4


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "finetune",
        help=say("tune a model on your examples", "用自己的数据微调模型"),
        description=say(
            "Tune a model on a file of examples: LoRA, DoRA, QLoRA, P-tuning v2, last layers or in "
            "full. What it will do is said before the first step.",
            "用一个数据文件微调模型：LoRA、DoRA、QLoRA、P-tuning v2、末几层或全参数。"
            "第一步之前会说明将要做什么。",
        ),
    )
    add_flags(parser)
    add_training_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tune; 4 when the loss is no number any more, 130 or 143 when asked to stop."""
    config = settings_of(args)
    if not args.cluster:
        return tune(config, resume=args.resume is not None, dry_run=args.dry_run)
    from chatglm.training.finetune import check_directory

    if args.dry_run:
        raise CommandError("--dry-run measures on this machine; leave --cluster out")
    check_directory(config, resume=args.resume is not None)
    return train_in_workers(partial(go_on, config), config.output_dir, args)


def tune(config: TuneConfig, *, resume: bool = False, dry_run: bool = False) -> int:
    """Run a fine-tuning recipe from its first line to the command that chats with the result."""
    from chatglm.cli.samples import FILE, ask, remembered, show_samples
    from chatglm.training.trainer import Interrupted, TrainingDiverged

    run = prepared(config, resume=resume)
    for line in described(run):
        tell(run, line)
    if run.epochs is not None and (run.trainer.step == 0 or dry_run):
        for line in foretold(run, run.foresee()):
            tell(run, line)
    if dry_run:
        return 0
    # A network in pieces answers only where all processes ask together.
    in_pieces = config.shard or config.tensor_parallel > 1
    answers = config.objective != "reward" and not in_pieces
    before = remembered(run) if answers else []
    try:
        result = run.run()
    except TrainingDiverged as error:
        print(error, file=sys.stderr)
        return DIVERGED
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 128 + error.number
    finally:
        run.group.leave()
    if not run.group.is_first:
        return 0
    if before:
        show_samples(before, ask(run), Path(config.output_dir) / FILE)
    print(result_line(config, result))
    return 0


def prepared(config: TuneConfig, *, resume: bool) -> Tuning:
    """The run, with a warning where the general loss rises."""
    from chatglm.data.kinds import BadRecord
    from chatglm.training.finetune import prepare_run
    from chatglm.training.log import read_metrics

    metrics = Path(config.output_dir) / "metrics.jsonl"
    first: dict[str, float] = {}
    if resume and metrics.is_file():
        first |= next(iter(read_metrics(metrics)), {})

    def warn_of_drift(row: dict[str, float]) -> None:
        loss = row.get("general_loss")
        if loss is None:
            return
        start = first.setdefault("general_loss", loss)
        rise = loss / start - 1
        if rise > config.drift_limit:
            remedy = (
                say("raise --replay-share or lower --lr", "调大 --replay-share 或调小 --lr")
                if config.replay
                else say(
                    "--replay general mixes general data in", "可用 --replay general 混入通用数据"
                )
            )
            note(
                say(
                    f"drift: the general held-out loss is {rise:.1%} above its start; {remedy}",
                    f"遗忘警告：通用留出损失比开始时高 {rise:.1%}；{remedy}",
                )
            )

    try:
        if config.objective == "grpo":
            from chatglm.cli.rollout import prepare_grpo

            return prepare_grpo(config, resume=resume, notice=warn_of_drift)
        return prepare_run(config, resume=resume, notice=warn_of_drift)
    except BadRecord as error:
        raise CommandError(str(error), INVALID_INPUT) from error


def tell(run: Tuning, line: str) -> None:
    """A line on stderr, of the first process alone."""
    if run.group.is_first:
        print(line, file=sys.stderr, flush=True)


def described(run: Tuning) -> list[str]:
    """What was read and what will be trained."""
    from chatglm.checkpoint.adapter import shape_of

    config, material = run.config, run.material
    lines = [collection.described() for collection in material.collections]
    for collection in material.collections:
        lines += [f"    {sentence}" for sentence in collection.bad]
    loop = run.trainer.config
    network = run.network
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in network.parameters())
    whole += sum(math.prod(shape_of(m)) for m in network.modules() if hasattr(m, "weight_scale"))
    lines += [
        say(
            f"{config.method} on {run.loaded.base}: {trained:,} of {whole:,} parameters learn "
            f"({trained / whole:.2%}); {config.objective}, {loop.optim.kind}, lr "
            f"{loop.optim.lr:.2g}, {loop.precision}",
            f"{config.method}，基座 {run.loaded.base}：训练 {trained:,} / {whole:,} 个参数"
            f"（{trained / whole:.2%}）；{config.objective}，{loop.optim.kind}，学习率 "
            f"{loop.optim.lr:.2g}，{loop.precision}",
        ),
    ]
    if run.epochs is not None:
        epoch = len(run.epochs.batches(0))
        lines.append(
            say(
                f"{len(material.train):,} examples to learn from, {len(material.validation):,} "
                f"held out; {epoch:,} steps an epoch, {run.num_steps:,} in all, of "
                f"{config.batch_size} × {config.grad_accum} examples",
                f"训练样例 {len(material.train):,} 条，留出 {len(material.validation):,} 条；每轮 "
                f"{epoch:,} 步，共 {run.num_steps:,} 步，每步 {config.batch_size} × "
                f"{config.grad_accum} 条",
            )
        )
    else:
        lines.append(
            say(
                f"{run.num_steps:,} steps of {config.grad_accum} questions with "
                f"{config.num_samples} replies each",
                f"共 {run.num_steps:,} 步，每步 {config.grad_accum} 个问题，各 "
                f"{config.num_samples} 个回答",
            )
        )
    if run.trainer.step:
        lines.append(
            say(f"resumes after step {run.trainer.step}", f"从第 {run.trainer.step} 步之后继续")
        )
    return lines


def foretold(run: Tuning, foresight: Foresight) -> list[str]:
    """Tokens, memory and time that the run will take."""
    tokens = sum(map(sum, run.planned()))
    minutes, seconds = divmod(round(foresight.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    memory = foresight.peak_bytes / 2**30
    return [
        say(
            f"expected: {tokens:,} tokens (padding included), {memory:.2f} GiB of memory, "
            f"{hours}:{minutes:02d}:{seconds:02d} of time",
            f"预计：{tokens:,} 个词元（含填充），内存 {memory:.2f} GiB，用时 "
            f"{hours}:{minutes:02d}:{seconds:02d}",
        )
    ]


def result_line(config: TuneConfig, result: Path) -> str:
    """The command that uses the result."""
    if config.objective == "reward":
        return say(f"reward model: {result}", f"奖励模型：{result}")
    if config.method in ("full", "freeze"):
        return f"chatglm chat --model {result}"
    base = "" if config.model is None else f" --model {config.model}"
    quantized = "" if config.bits is None else f" --quantize {config.bits}"
    return f"chatglm chat{base}{quantized} --adapter {result}"


def go_on(config: TuneConfig) -> int:
    """Run a fine-tuning recipe from where it stopped, or from the start."""
    from chatglm.training.state import checkpoints

    return tune(config, resume=bool(checkpoints(Path(config.output_dir))))

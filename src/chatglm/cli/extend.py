"""`chatglm extend`: a model with further words."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from chatglm.cli.console import say
from chatglm.cli.options import CommandError
from chatglm.cli.source import add_output_flag, add_source_flags, load_weights, refuse_existing


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "extend",
        help=say("give a model further words", "扩充模型的词表"),
        description=say(
            "Give a model further words, each one token from then on. The row of a word starts as "
            "the mean of the tokens that it was written with; train it on afterwards.",
            "为模型增加新词，此后每个新词只占一个词元。新词的向量取其原有词元的平均值，之后可继续训练。",
        ),
    )
    add_source_flags(parser)
    parser.add_argument(
        "--words",
        required=True,
        metavar="FILE",
        help=say("a text file with a word on each line", "文本文件，每行一个词"),
    )
    add_output_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the extended model, and print where it is."""
    refuse_existing(Path(arguments.output))
    file = Path(arguments.words)
    if not file.is_file():
        raise CommandError(f"no file {file}; give a text file with a word on each line")
    words = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    loaded = load_weights(arguments)
    from chatglm.checkpoint.extend import extend

    added = extend(loaded, [word for word in words if word], arguments.output)
    print(
        say(
            f"{len(added):,} words added; {loaded.config.vocab_size:,} rows",
            f"新增 {len(added):,} 个词，共 {loaded.config.vocab_size:,} 行",
        ),
        file=sys.stderr,
    )
    print(arguments.output)
    return 0

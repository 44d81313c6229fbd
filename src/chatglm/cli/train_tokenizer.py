"""`chatglm train-tokenizer`: learn a vocabulary from a corpus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from chatglm.cli.console import say
from chatglm.cli.options import CommandError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train-tokenizer",
        help=say("learn a vocabulary from a corpus", "从语料训练分词器"),
        description=say(
            "Learn a byte-level BPE vocabulary with the family's special tokens.",
            "从语料训练字节级 BPE 词表，含本系列的特殊标记。",
        ),
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE[:CHARACTERS]",
        help=say(
            "files or directories; :20000000 takes that many characters from the start",
            "文件或目录；:20000000 表示只取前两千万字",
        ),
    )
    parser.add_argument("--output", required=True, help=say("the directory to write", "输出目录"))
    parser.add_argument(
        "--vocab-size", type=int, default=12288, help=say("default: 12288", "默认 12288")
    )
    parser.add_argument(
        "--max-token-length",
        type=int,
        default=12,
        help=say(
            "longest token in bytes; default 12, four Chinese characters",
            "单个词元的最大字节数；默认 12，即四个汉字",
        ),
    )
    parser.set_defaults(run=run)


def split_limit(name: str) -> tuple[str, int | None]:
    """A path and how many characters to take from it, None for all."""
    path, colon, limit = name.rpartition(":")
    if not colon or not limit.isdigit():
        return name, None
    if int(limit) == 0:
        raise CommandError(f"{name}: the number of characters must be at least 1")
    return path, int(limit)


def read_texts(inputs: list[str]) -> Iterator[str]:
    """The texts of all inputs; the turns of a conversation are lines."""
    from chatglm.data.records import find_files, read_records

    for name in inputs:
        path, limit = split_limit(name)
        num_characters = 0
        for file in find_files([path]):
            for record in read_records(file):
                text = record.text or "\n".join(m.content for m in record.messages)
                num_characters += len(text)
                yield text
                if limit is not None and num_characters > limit:
                    break
            if limit is not None and num_characters > limit:
                break


def run(args: argparse.Namespace) -> int:
    """Train, and say how much text a token holds."""
    from chatglm.data.records import find_files
    from chatglm.tokenizer import load_tokenizer
    from chatglm.tokenizer.train import train_tokenizer

    for name in args.inputs:
        find_files([split_limit(name)[0]])  # a wrong name is told before hours of work
    directory = train_tokenizer(
        read_texts(args.inputs),
        args.output,
        vocab_size=args.vocab_size,
        max_token_length=args.max_token_length,
    )
    tokenizer = load_tokenizer(directory)
    sample = next(iter(read_texts(args.inputs)))
    ratio = len(sample) / max(len(tokenizer.encode(sample)), 1)
    print(
        say(
            f"{directory}: {tokenizer.vocab_size:,} tokens; {ratio:.2f} characters a token in the "
            "first text",
            f"{directory}：词表 {tokenizer.vocab_size:,}；首篇文本平均每词元 {ratio:.2f} 字",
        ),
        file=sys.stdout,
    )
    return 0

"""`chatglm prepare`: a corpus into shards for training."""

from __future__ import annotations

import argparse
import sys

from chatglm.cli.cluster import add_cluster_flag
from chatglm.cli.console import say


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "prepare",
        help=say("tokenize a corpus for training", "把语料变成训练数据"),
        description=say(
            "Deduplicate, shuffle and tokenize text or conversations into shards.",
            "对文本或对话去重、打乱、分词，写成训练分片。",
        ),
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        help=say(
            "files or directories: .jsonl .json .csv .txt .md, also .zst .gz",
            "文件或目录：.jsonl .json .csv .txt .md，可为 .zst .gz",
        ),
    )
    parser.add_argument("--output", required=True, help=say("the directory to write", "写入的目录"))
    parser.add_argument(
        "--tokenizer",
        help=say(
            "a directory with a tokenizer (default: the embedded model's)",
            "分词器所在目录（默认用内置模型的）",
        ),
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.005,
        help=say("share kept apart (default: 0.005)", "留作验证的比例（默认 0.005）"),
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help=say("of the shuffle (default: 0)", "打乱的种子（默认 0）"),
    )
    add_cluster_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepare, and say what was done."""
    from chatglm.data.prepare import prepare
    from chatglm.tokenizer import load_tokenizer

    if args.tokenizer is None:
        from chatglm.checkpoint.resolve import NANO

        args.tokenizer = NANO
    settings = {
        "validation_fraction": args.validation_fraction,
        "seed": args.seed,
        "report": lambda line: print(line, file=sys.stderr, flush=True),
    }
    if args.cluster:
        from chatglm.cluster.prepare import prepare_on_cluster

        counts = prepare_on_cluster(args.inputs, args.tokenizer, args.output, **settings)
    else:
        counts = prepare(args.inputs, load_tokenizer(args.tokenizer), args.output, **settings)
    print(
        f"{args.output}: {counts.documents:,} documents, {counts.tokens:,} tokens; "
        f"left out {counts.duplicates:,} duplicates and {counts.empty:,} empty ones"
    )
    return 0

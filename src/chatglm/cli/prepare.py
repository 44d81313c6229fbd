"""`chatglm prepare`: a corpus into shards for training."""

from __future__ import annotations

import argparse
import sys


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "prepare",
        help="语料 → 训练数据 / tokenize a corpus for training",
        description="Deduplicate, shuffle and tokenize text or conversations into shards.",
    )
    parser.add_argument(
        "inputs", nargs="+", help="files or directories: .jsonl .json .csv .txt .md, also .zst .gz"
    )
    parser.add_argument("--output", required=True, help="the directory to write")
    parser.add_argument(
        "--tokenizer", help="a directory with a tokenizer (default: the embedded model's)"
    )
    parser.add_argument(
        "--validation-fraction", type=float, default=0.005, help="share kept apart (default: 0.005)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepare, and say what was done."""
    from chatglm.data.prepare import prepare
    from chatglm.tokenizer import load_tokenizer

    if args.tokenizer is None:
        from chatglm.checkpoint.resolve import NANO

        args.tokenizer = NANO
    counts = prepare(
        args.inputs,
        load_tokenizer(args.tokenizer),
        args.output,
        validation_fraction=args.validation_fraction,
        seed=args.seed,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(
        f"{args.output}: {counts.documents:,} documents, {counts.tokens:,} tokens; "
        f"left out {counts.duplicates:,} duplicates and {counts.empty:,} empty ones"
    )
    return 0

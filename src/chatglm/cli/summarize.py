"""`chatglm summarize`: texts of any length, in short."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from chatglm.cli.console import note, paint, say
from chatglm.cli.inputs import ProgressLine, add_input, given_documents, invalid_input
from chatglm.cli.options import CommandError, add_model_flags, load_model
from chatglm.cli.remarks import remark

if TYPE_CHECKING:
    from chatglm.apps.summarize import Summarizer


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("summarize", help=say("sum up texts", "文本摘要"))
    add_input(parser)
    parser.add_argument(
        "--form",
        choices=("headline", "paragraph", "points"),
        default="paragraph",
        help=say("what to make of it (default: a paragraph)", "标题、段落或要点（默认段落）"),
    )
    parser.add_argument(
        "--length", type=int, metavar="CHARACTERS", help=say("most characters", "最多字数")
    )
    parser.add_argument(
        "--points", type=int, default=5, help=say("most bullet points (5)", "要点条数，默认 5")
    )
    parser.add_argument(
        "--mode",
        choices=("auto", "extractive", "abstractive"),
        default="auto",
        help=say(
            "sentences as they stand, or the model's words; auto: by the model",
            "抽取原句或由模型改写；auto 按模型选择",
        ),
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--json", action="store_true", help=say("a JSON object a text", "输出 JSON")
    )
    parser.add_argument("-q", "--quiet", action="store_true", help=say("no progress", "不显示进度"))
    add_model_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the summaries."""
    documents = given_documents(arguments.input, "summarize")
    summarizer = make_summarizer(arguments)
    with invalid_input(), ProgressLine(say("reading", "阅读"), quiet=arguments.quiet) as progress:
        try:
            summaries = summarizer.summarize_many(
                [d.text for d in documents],
                form=arguments.form,
                length=arguments.length,
                points=arguments.points,
                seed=arguments.seed,
                on_progress=progress,
            )
        except ValueError as error:
            raise error if type(error) is not ValueError else CommandError(str(error)) from error
    for document, summary in zip(documents, summaries, strict=True):
        if arguments.json:
            print(json.dumps({"name": document.name, **summary.to_dict()}, ensure_ascii=False))
            continue
        if len(documents) > 1:
            print(paint(f"== {document.name}", "bold", sys.stdout))
        print(summary.text)
        if not arguments.quiet:
            for text in dict.fromkeys(summary.notes):
                note(remark(text))
    return 0


def make_summarizer(arguments: argparse.Namespace) -> Summarizer:
    """What sums up; the model is only loaded where it is asked."""
    from chatglm.apps.summarize import Summarizer

    is_embedded = arguments.model is None and arguments.adapter is None
    if arguments.mode == "extractive" or (arguments.mode == "auto" and is_embedded):
        return Summarizer(mode="extractive")
    return Summarizer(load_model(arguments), mode=arguments.mode)

"""`chatglm embed`: texts as vectors."""

from __future__ import annotations

import argparse
import json

from chatglm.cli.console import say
from chatglm.cli.options import add_model_flags, add_text, given_text, local_model


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "embed",
        help=say(
            "sentence vectors, one JSON object a line of text", "句向量，每行文本输出一个 JSON"
        ),
    )
    add_text(parser)
    add_model_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print {"text", "embedding"} for every line that is not blank."""
    lines = [line for line in given_text(arguments.text).splitlines() if line.strip()]
    model = local_model(arguments, "embed")
    for line in lines:
        vector = [round(x, 6) for x in model.embed(line)[0].tolist()]
        print(json.dumps({"text": line, "embedding": vector}, ensure_ascii=False), flush=True)
    return 0

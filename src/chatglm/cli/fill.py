"""`chatglm fill`: blanks in a text, filled."""

from __future__ import annotations

import argparse
import json

from chatglm.cli.console import say
from chatglm.cli.options import (
    CommandError,
    add_model_flags,
    add_sampling_flags,
    add_text,
    given_text,
    local_model,
    sampling_options,
)

BLANKS = ("[MASK]", "[sMASK]", "[gMASK]")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "fill", help=say("fill the blanks [MASK], [sMASK], [gMASK] of a text", "填空：[MASK] 等")
    )
    add_text(parser)
    add_sampling_flags(parser)
    parser.add_argument("--json", action="store_true", help=say("one JSON object", "输出 JSON"))
    add_model_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the text with its blanks filled."""
    text, options = given_text(arguments.text), sampling_options(arguments)
    if not any(blank in text for blank in BLANKS):
        raise CommandError(
            f"the text has no blank; mark one with {', '.join(BLANKS)}, "
            'e.g. "今天[MASK]，适合出门。"'
        )
    filled = local_model(arguments, "fill").fill(text, **options)
    print(json.dumps({"text": filled}, ensure_ascii=False) if arguments.json else filled)
    return 0

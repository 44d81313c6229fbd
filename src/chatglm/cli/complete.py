"""`chatglm complete`: what follows a text."""

from __future__ import annotations

import argparse
import sys

from chatglm.cli.console import say
from chatglm.cli.options import (
    add_model_flags,
    add_output_flags,
    add_sampling_flags,
    add_text,
    given_text,
    local_model,
    sampling_options,
)
from chatglm.cli.output import write_stream


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "complete", help=say("continue a text, without any chat format", "续写文本")
    )
    add_text(parser)
    parser.add_argument(
        "--echo", action="store_true", help=say("print the text itself first", "先输出原文")
    )
    add_sampling_flags(parser)
    add_output_flags(parser)
    add_model_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the continuation."""
    text, options = given_text(arguments.text), sampling_options(arguments)
    model = local_model(arguments, "complete")
    if arguments.echo and not arguments.json:
        sys.stdout.write(text)
    write_stream(model.stream_complete(text, **options), arguments)
    return 0

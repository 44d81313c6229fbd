"""`chatglm generate`: one reply."""

from __future__ import annotations

import argparse

from chatglm.cli.console import say
from chatglm.cli.options import (
    add_model_flags,
    add_output_flags,
    add_sampling_flags,
    add_text,
    given_text,
    load_model,
    sampling_options,
)
from chatglm.cli.output import write_stream


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("generate", help=say("one reply to a text", "一问一答"))
    add_text(parser)
    parser.add_argument("--system", help=say("system prompt", "系统提示词"))
    add_sampling_flags(parser)
    add_output_flags(parser)
    add_model_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the reply."""
    text, options = given_text(arguments.text), sampling_options(arguments)
    model = load_model(arguments)
    write_stream(model.stream(text, system=arguments.system, **options), arguments)
    return 0

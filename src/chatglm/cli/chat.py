"""`chatglm chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import sys

from chatglm.cli.console import say
from chatglm.cli.options import add_model_flags, add_sampling_flags, load_model, sampling_options


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "chat", help=say("a conversation with history and /commands", "多轮对话")
    )
    parser.add_argument("--system", help=say("system prompt", "系统提示词"))
    parser.add_argument(
        "-v", "--verbose", action="store_true", help=say("tokens/s after replies", "显示速度")
    )
    add_sampling_flags(parser)
    add_model_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Talk until the user leaves."""
    from chatglm.cli.repl import Conversation, talk
    from chatglm.cli.terminal import make_reader

    options = sampling_options(arguments)
    if sys.stdin.isatty():
        print(say("loading the model …", "正在载入模型……"), end="\r", flush=True)
    conversation = Conversation(load_model(arguments), options, arguments.system)
    talk(conversation, make_reader(), verbose=arguments.verbose)
    return 0

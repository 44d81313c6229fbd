"""The command line. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from chatglm import __version__
from chatglm.cli import config_file
from chatglm.cli.config_file import add_config_flag
from chatglm.cli.console import error_line, say, tidy_streams, welcome
from chatglm.cli.options import CommandError

COMMANDS = (
    "generate",
    "chat",
    "fill",
    "complete",
    "embed",
    "train_tokenizer",
    "prepare",
    "train",
    "finetune",
    "data",
    "merge",
    "extend",
    "quantize",
    "export",
    "serve",
    "batch",
    "compare",
    "kb",
    "support",
    "summarize",
    "translate",
    "write",
    "eval",
    "tokenize",
    "info",
    "models",
    "config",
    "doctor",
)

FAILURE, USAGE, OUT_OF_MEMORY, UNREACHABLE, INTERRUPTED = 1, 2, 5, 69, 130


class Parser(argparse.ArgumentParser):
    """A command's parser; options may stand between its words too."""

    is_within = False

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """What the words say, and the words that nobody knows."""
        takes_all = any(
            action.nargs in (argparse.PARSER, argparse.REMAINDER)
            for action in self._get_positional_actions()
        )
        if takes_all or self.is_within:
            return super().parse_known_args(args, namespace)
        self.is_within = True  # it asks this very method for each of its two passes
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.is_within = False


def make_parser() -> argparse.ArgumentParser:
    """The parser of `chatglm` with every command."""
    parser = argparse.ArgumentParser(
        prog="chatglm",
        description=say("ChatGLM in one place.", "ChatGLM 一站式工具。"),
        epilog=say(
            "`chatglm COMMAND --help` says more about each.", "每条命令的说明：chatglm 命令 --help"
        ),
    )
    parser.add_argument("--version", action="version", version=f"chatglm {__version__}")
    commands = parser.add_subparsers(
        dest="command",
        metavar=say("COMMAND", "命令"),
        title=say("commands", "命令"),
        parser_class=Parser,
    )
    for name in COMMANDS:
        if find_spec(f"chatglm.cli.{name}") is not None:
            import_module(f"chatglm.cli.{name}").register(commands)
    for command in commands.choices.values():
        if "--config" not in command._option_string_actions:
            add_config_flag(command)
        if "--debug" not in command._option_string_actions:
            command.add_argument(
                "--debug",
                action="store_true",
                help=say("show the traceback of an error", "出错时显示完整调用栈"),
            )
    return parser


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands, by name."""
    kinds = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(next(kinds).choices)


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, with what environment and configuration file say where flags are left out."""
    parser = make_parser()
    commands = commands_of(parser)
    name = next((word for word in argv if word in commands), None)
    if name is None or name == "config":
        return parser.parse_args(argv)
    only_file = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_file.add_argument("--config", type=Path)
    file = config_file.read(only_file.parse_known_args(argv)[0].config)
    return config_file.parse(parser, commands, argv, file, name)[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    tidy_streams()
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments = parsed(argv)
    except CommandError as error:
        print(error_line(sentence(error)), file=sys.stderr)
        return error.code
    if arguments.command is None:
        print(welcome())
        return 0
    try:
        return arguments.run(arguments) or 0
    except BrokenPipeError:
        # The reader of our pipe has enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (
        Exception
    ) as error:  # the command line ends here: a sentence, or the traceback on request
        if arguments.debug:
            traceback.print_exc()
        else:
            print(error_line(sentence(error)), file=sys.stderr)
        return exit_code(error)


def exit_code(error: Exception) -> int:
    """0 ok, 1 failure, 2 usage, 3 invalid input data, 5 out of memory, 69 endpoint unreachable."""
    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OUT_OF_MEMORY
    if isinstance(error, ConnectionError):
        return UNREACHABLE
    return FAILURE


def sentence(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; try --dtype bfloat16, a smaller model or a shorter prompt"
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | FileNotFoundError | TypeError | ConnectionError):
        return text or type(error).__name__
    if isinstance(error, OSError) and error.errno is None:  # one of ours, with its remedy
        return text
    return f"{type(error).__name__}: {text}; run again with --debug to see where"

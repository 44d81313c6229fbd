"""Lines from the user: prompt_toolkit where it is installed, else readline, else a plain pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from chatglm.cli.console import has_colour
from chatglm.cli.options import INVALID_INPUT, CommandError

Reader = Callable[[str], str]
"""Asks with a prompt and returns a line; EOFError at the end, KeyboardInterrupt at Ctrl-C."""


def make_reader() -> Reader:
    """The best way to read lines here."""
    if not sys.stdin.isatty():
        return pipe_line
    if find_spec("prompt_toolkit") is not None and os.environ.get("TERM") != "dumb":
        return toolkit_reader()
    return readline_reader()


def pipe_line(prompt: str) -> str:
    """The next line of a pipe; shows nothing."""
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CommandError(
            "standard input is not valid UTF-8; convert it first, e.g. iconv -f GB18030 -t UTF-8",
            INVALID_INPUT,
        ) from error


def history_path() -> Path | None:
    """The file of typed lines under CHATGLM_HOME, for the user alone; None if not writable."""
    path = Path(os.environ.get("CHATGLM_HOME", Path.home() / ".chatglm")) / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return None
    return path


def toolkit_reader() -> Reader:
    """Lines through prompt_toolkit: wide characters, pasted paragraphs, history."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import ANSI
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = history_path()
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(path)) if path else InMemoryHistory()
    )
    return lambda prompt: session.prompt(ANSI(coloured(prompt)))


def readline_reader() -> Reader:
    """Lines through readline, where Python has it."""
    if find_spec("readline") is None:
        return input
    import atexit
    import readline

    if path := history_path():
        try:
            readline.read_history_file(path)
        except OSError:
            readline.clear_history()  # another library wrote the file; begin afresh
        readline.set_history_length(1000)
        atexit.register(readline.write_history_file, path)
    # \001 and \002 tell readline that the colour takes no columns.
    return lambda prompt: input(coloured(prompt, "\001", "\002"))


def coloured(prompt: str, before: str = "", after: str = "") -> str:
    """The prompt in green where the terminal has colours."""
    if not has_colour(sys.stdout):
        return prompt
    return f"{before}\033[32m{after}{prompt}{before}\033[0m{after}"

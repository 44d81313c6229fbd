"""Documents that a command works on: files, text given in words, standard input."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chatglm.cli.console import note, paint, say
from chatglm.cli.options import INVALID_INPUT, CommandError, has_input
from chatglm.cli.remarks import remark

if TYPE_CHECKING:
    from chatglm.apps.text_file import TextFile

_PATH = re.compile(r"(?:\S*[/\\])?[^\s，。！？]*\.[A-Za-z0-9]{1,8}|[./~]\S*/\S*")


def add_input(parser: argparse.ArgumentParser) -> None:
    """The positional files or texts."""
    parser.add_argument(
        "input",
        nargs="*",
        metavar="INPUT",
        help=say(
            "a file, a text in quotes, or - for standard input, which is read too if it is a pipe",
            "文件、引号中的文本，或 - 表示标准输入（有管道时自动读取）",
        ),
    )


def given_documents(words: Sequence[str], command: str) -> list[TextFile]:
    """What the arguments name, in order; a remark for each that was not UTF-8."""
    if not words:
        if sys.stdin.isatty():
            raise CommandError(
                f"no input; give a file, a text or -, e.g. chatglm {command} article.txt"
            )
        words = ["-"]
    elif "-" not in words and not any(os.path.exists(w) for w in words) and has_input():
        words = ["-", *words]
    documents = []
    with invalid_input():
        for word in words:
            documents.append(document(word))
            if told := documents[-1].note:
                note(remark(told))
    return documents


def document(word: str) -> TextFile:
    """The document that an argument names, or is."""
    from chatglm.apps.text_file import TextFile, read_text

    if word == "-" or os.path.exists(word) or looks_like_path(word):
        return read_text(word)
    if not word.strip():
        raise CommandError("the text is empty; give some text")
    if any("\ud800" <= c <= "\udfff" for c in word):
        raise CommandError("the text is not valid UTF-8; put it into a file", INVALID_INPUT)
    return TextFile(text=word, name="the text", encoding="utf-8", newline="\n")


def looks_like_path(word: str) -> bool:
    """Whether a word that is no file was meant as one."""
    return _PATH.fullmatch(word) is not None


@contextmanager
def invalid_input() -> Iterator[None]:
    """What is wrong with the input is answered with its own exit code."""
    from chatglm.apps.text_file import InvalidText

    try:
        yield
    except InvalidText as error:
        raise CommandError(str(error), INVALID_INPUT) from error


class ProgressLine:
    """A line on stderr that counts, in a terminal only; `with` wipes it at the end."""

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        self.what = what
        self.shows = sys.stderr.isatty() and not quiet

    def __enter__(self) -> ProgressLine:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self.shows and total > 1:
            text = paint(f"{self.what} {done}/{total}", "dim", sys.stderr)
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self.shows:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

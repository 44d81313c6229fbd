"""What the terminal gets: language, colours, the page that `chatglm` alone shows."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def speaks_chinese() -> bool:
    """Whether the interface is Chinese, by CHATGLM_LANG, LC_ALL, LC_MESSAGES or LANG."""
    for name in ("CHATGLM_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return value.lower().startswith("zh")
    return False


def say(english: str, chinese: str) -> str:
    """The text in the language of the interface."""
    return chinese if speaks_chinese() else english


def has_colour(stream: TextIO) -> bool:
    """Whether to colour: in a terminal, unless NO_COLOR forbids or FORCE_COLOR demands it."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO) -> str:
    """The text in a style (`bold`, `dim`, `red`, `green`, `cyan`) where the stream has colours."""
    code = {"bold": 1, "dim": 2, "red": 31, "green": 32, "cyan": 36}[style]
    return f"\033[{code}m{text}\033[0m" if has_colour(stream) else text


def error_line(text: str) -> str:
    """One line for stderr, free of control characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return f"{paint('chatglm:', 'red', sys.stderr)} {shown}"


def note(text: str) -> None:
    """A remark on stderr, so that stdout stays pure text."""
    print(paint(text, "dim", sys.stderr), file=sys.stderr, flush=True)


def tidy_streams() -> None:
    """Write UTF-8 to pipes and files whatever the locale; a terminal keeps its own encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8", errors="replace")


def welcome() -> str:
    """The page for `chatglm` alone."""
    lines = [
        say(
            "ChatGLM · a Chinese language model in your terminal", "ChatGLM · 终端里的中文语言模型"
        ),
        "",
        *(
            f"  {paint(command, 'cyan', sys.stdout)}{' ' * (44 - width(command))}{say(*meaning)}"
            for command, meaning in _EXAMPLES
        ),
        "",
        say(
            "A model of your own: --model DIRECTORY or HUB/NAME. Everything else: chatglm --help",
            "换用其他模型：--model 目录 或 HUB/名称。更多命令：chatglm --help",
        ),
    ]
    lines[0] = paint(lines[0], "bold", sys.stdout)
    return "\n".join(lines)


_EXAMPLES = (
    ("chatglm chat", ("talk, with history and /commands", "多轮对话，输入 /help 查看命令")),
    ('chatglm generate "你好"', ("one reply", "一问一答")),
    ('chatglm fill "今天[MASK]，适合出门。"', ("fill in the blanks", "完形填空")),
    ('chatglm complete "床前明月光，"', ("write on", "续写")),
    ('cat a.txt | chatglm generate "总结："', ("text from a pipe", "从管道读入文本")),
    ("chatglm doctor", ("check this machine and installation", "检查环境与安装")),
)


def width(text: str) -> int:
    """Columns that a text takes in a terminal; wide characters take two."""
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)

"""Log lines: one an event, in text or JSON; nothing in one could pass for another."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from chatglm.serve.record import Record

MAX_LENGTH = 512
CONTENT, MAX_CONTENT = frozenset({"prompt", "reply", "input", "output"}), 1 << 20
"""Fields that are there because the operator asks for them, and how much of them is told."""
access = logging.getLogger("chatglm.access")


def clean(value: object, most: int = MAX_LENGTH) -> str:
    """A value on one line: what is not printable is escaped, what is long is cut."""
    text = str(value)
    cut = text[:most]
    shown = "".join(c if c.isprintable() else escape(c) for c in cut)
    return shown if len(text) <= most else f"{shown}…({len(text)} characters)"


def escape(letter: str) -> str:
    """A control character, mark of direction or lone surrogate as Python writes it."""
    return (
        letter.encode("ascii", "backslashreplace").decode()
        if ord(letter) > 126
        else repr(letter)[1:-1]
    )


def told(key: str, value: object) -> str:
    """A field's value, cleaned."""
    return clean(value, MAX_CONTENT if key in CONTENT else MAX_LENGTH)


def quoted(text: str) -> str:
    """A cleaned value for a text line, in quotes where it has blanks or quotes."""
    if text and not any(c in ' "=' for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Formatter(logging.Formatter):
    """`LEVEL time [component] message key=value`, or a JSON object."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, object] = getattr(record, "fields", {})
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        moment = f"{moment}.{int(record.msecs):03d}"
        component = record.name.removeprefix("chatglm.")
        message = clean(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            fields = {**fields, "error": f"{type(error).__name__}: {error}", "at": where(error)}
        if self.as_json:
            line = {
                "level": record.levelname.lower(),
                "time": moment,
                "component": component,
                "message": message,
                **{k: v if isinstance(v, int | float) else told(k, v) for k, v in fields.items()},
            }
            return json.dumps(line, ensure_ascii=False)
        shown = "".join(f" {key}={quoted(told(key, value))}" for key, value in fields.items())
        return f"{record.levelname} {moment} [{component}] {message}{shown}"


def where(error: BaseException) -> str:
    """File and line where an error was raised, without its folder."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name}:{trace.tb_lineno}"


def set_up(
    *,
    as_json: bool = False,
    verbose: bool = False,
    quiet: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Send the server's log lines to stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Formatter(as_json=as_json))
    for name, level in (("chatglm", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else level)
        logger.propagate = False


PROBES = frozenset({"/health", "/ready"})
"""Paths whose 503 is an answer, and no trouble."""


def report(record: Record) -> None:
    """One line for a request that is over."""
    is_trouble = record.status >= 500 and record.path not in PROBES
    level = logging.WARNING if is_trouble else logging.INFO
    access.log(level, "request", extra={"fields": record.fields()})

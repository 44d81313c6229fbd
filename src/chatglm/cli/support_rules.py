"""`chatglm support rules`: what the operator decides, kept with the base for all who ask it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chatglm.cli.kb import opened
from chatglm.cli.options import CommandError

if TYPE_CHECKING:
    from chatglm.apps.knowledge import KnowledgeBase
    from chatglm.apps.support import Rules

AUTO: Literal["auto"] = "auto"
"""A threshold's word for the one that was found from the base's own questions."""


def run_rules(arguments: argparse.Namespace) -> int:
    """Keep what the flags give with the base, and print what is kept."""
    from chatglm.apps.support.webhook import Webhook

    threshold = given_threshold(arguments)
    with opened(arguments.kb) as base:
        kept = dict(lists_of(base))
        for name, path in given(arguments):
            kept[name] = list(lines_of(path))
        if kept != lists_of(base):
            base.store.set("rules", kept)
        if arguments.webhook is not None:
            base.store.set("webhook", arguments.webhook and Webhook(url=arguments.webhook).url)
        if threshold is not None:
            base.answer_from(None if threshold == AUTO else threshold)
        shown = {**lists_of(base), "webhook": base.store.setting("webhook") or ""}
        print(json.dumps({**shown, "threshold": base.threshold}, ensure_ascii=False))
    return 0


def lists_of(base: KnowledgeBase) -> dict[str, object]:
    """The lists that a base keeps."""
    kept = base.store.setting("rules")
    return {"topics": [], "words": [], **(kept if isinstance(kept, dict) else {})}


def given(arguments: argparse.Namespace) -> list[tuple[str, Path]]:
    """The lists that the flags name, with their files."""
    files = (("topics", arguments.topics), ("words", arguments.blocked_words))
    return [(name, path) for name, path in files if path is not None]


def lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a list."""
    from chatglm.apps.support.rules import read_lines

    return read_lines(path.read_text("utf-8-sig"))


def given_rules(arguments: argparse.Namespace) -> Rules | None:
    """The rules of the flags; None where they name no list, so that the base's own hold."""
    from chatglm.apps.support import Rules

    lists = {name: lines_of(path) for name, path in given(arguments)}
    return Rules.of(lists) if lists else None


def given_threshold(arguments: argparse.Namespace) -> float | Literal["auto"] | None:
    """The certainty of the flags from which on to answer; None where they give none."""
    from chatglm.apps.knowledge.certainty import checked_threshold

    text: str | None = arguments.threshold
    if text is None or text == AUTO:
        return text
    try:
        threshold = float(text)
    except ValueError as error:
        raise CommandError(f"--threshold must be a number or auto, got {text!r}") from error
    try:
        return checked_threshold(threshold)
    except ValueError as error:
        raise CommandError(f"--{error}") from error

"""Models for tests whose every reply is known: what a service could answer, good or bad."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace


class Scripted:
    """Answers each prompt by a function; follows instructions unless it is `small`."""

    def __init__(self, answer: Callable[[str], str], *, small: bool = False) -> None:
        self.answer = answer
        self.prompts: list[str] = []
        self.name = "scripted"
        if small:
            self.config = SimpleNamespace(hidden_size=64, max_length=1024)

    def stream(self, text: str, *, system: str | None = None, **options: object) -> Iterator[str]:
        self.prompts.append(text)
        yield self.answer(text)


def babbler(seed: int, *, small: bool = False) -> Scripted:
    """A model that answers anything with marks, numbers, markup and words of both languages."""
    chance = random.Random(seed)
    scraps = [
        "你好", "world", "{name}", "%s", "⟦1⟧", "⟦2⟧", "⟦9⟧", "**", "`", "|", "\n\n", "# ", "- ",
        "3", "<b>", "</b>", "](", "[", "-->", "00:00:01,000 --> 00:00:02,000", '"', "\\", "}", "。",
        "<!--", "```\n", "msgid", "WEBVTT", "\u2028", "1. ", "> ", "---", "http://x.y",
        "$a$", "&amp;",
    ]  # fmt: skip
    return Scripted(lambda _: "".join(chance.choices(scraps, k=chance.randrange(9))), small=small)

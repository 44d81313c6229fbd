"""From which language into which: Chinese, English, classical Chinese."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from chatglm.apps.text import language, num_han

Tongue = Literal["zh", "en", "lzh"]
TONGUES: tuple[Tongue, ...] = ("zh", "en", "lzh")
_ALIASES: dict[str, Tongue] = {
    "zh": "zh", "zh-cn": "zh", "zh_cn": "zh", "chinese": "zh", "中文": "zh", "汉语": "zh",
    "modern": "zh", "白话": "zh", "白话文": "zh", "现代汉语": "zh",
    "en": "en", "en-us": "en", "en_us": "en", "en-gb": "en", "english": "en", "英文": "en",
    "英语": "en",
    "lzh": "lzh", "classical": "lzh", "文言": "lzh", "文言文": "lzh", "古文": "lzh",
}  # fmt: skip

_CLASSICAL = re.compile(
    r"[之乎者也矣焉哉曰其而於乃吾汝尔余夫盖遂弗毋孰岂兮耶欤邪]|何以|是以|不亦|所谓|于是"
)
_MODERN = re.compile(
    r"[的了们这那吗呢吧啊着很都她它给让把被]|什么|没有|可以|已经|因为|所以|但是|就是"
)
_WORD = re.compile(r"[A-Za-zÀ-ɏ]{2,}")


@dataclass(frozen=True)
class Direction:
    """A pair of languages."""

    source: Tongue
    target: Tongue

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"

    def has_source(self, text: str) -> bool:
        """Whether a text has anything in the language to translate from."""
        if self.source != "en":
            return num_han(text) > 0
        wide = num_han(text)
        return bool(_WORD.search(text)) and wide <= len(_WORD.findall(text))


def tongue(name: str) -> Tongue:
    """The language that a user's word for it means."""
    found = _ALIASES.get(name.strip().lower())
    if found is None:
        raise ValueError(f"the language must be one of {', '.join(TONGUES)}, got {name!r}")
    return found


def recognize(text: str) -> Tongue:
    """The language of a text."""
    if language(text) == "en":
        return "en"
    old, new = len(_CLASSICAL.findall(text)), len(_MODERN.findall(text))
    return "lzh" if old > 2 * new and old * 25 >= num_han(text) else "zh"


def direction(text: str, source: str | None = None, target: str | None = None) -> Direction:
    """The pair for a text: what is not given is recognized.

    Chinese goes into English and English into Chinese, classical Chinese into modern. Into the
    language that carries a text go its parts in the other; with none, modern Chinese is asked of a
    classical text.
    """
    goal = None if target is None else tongue(target)
    start = source_of(text, goal) if source is None else tongue(source)
    if goal is None:
        goal = "en" if start == "zh" else "zh"
    if start == goal:
        raise ValueError(f"source and target are both {goal}; give another target")
    return Direction(start, goal)


def source_of(text: str, goal: Tongue | None) -> Tongue:
    """The language to translate from, for a text whose target is known or not."""
    seen = recognize(text)
    if goal is None or goal not in (seen, "en"):
        return seen if goal != "lzh" or seen == "en" else "zh"
    if goal == "en":
        if seen != "en":
            return "zh"
        if num_han(text):
            return "zh"
        raise ValueError("the text is English already; give another target")
    if goal == "lzh":
        return "zh"
    return "en" if _WORD.search(text) else "lzh"

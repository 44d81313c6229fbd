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

    Chinese goes into English and English into Chinese; classical Chinese into modern. Where modern
    Chinese is asked for and the text is Chinese, it is taken to be classical.
    """
    seen = recognize(text)
    goal = None if target is None else tongue(target)
    start = seen if source is None else tongue(source)
    if source is None and goal == start:
        start = "lzh" if goal == "zh" else "zh"
    if goal is None:
        goal = "en" if start == "zh" else "zh"
    if source is None and goal == "en" and start == "lzh":
        start = "zh"
    if start == goal:
        raise ValueError(f"source and target are both {goal}; give another --to")
    if source is None and (start == "en") != (seen == "en"):
        raise ValueError(
            f"the text is {seen} already and {goal} was asked for; give --from where it is not"
        )
    return Direction(start, goal)

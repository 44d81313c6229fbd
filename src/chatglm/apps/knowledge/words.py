"""A text as terms to search for: Chinese characters and their pairs, words of other scripts.

SQLite's own tokenizers find no two-character word such as 退货 inside a sentence; pairs of
characters find every one, need no dictionary, and measured better than a segmenter's words
(docs/support.md).
"""

from __future__ import annotations

import re
from functools import lru_cache
from unicodedata import normalize as unicode_form

from chatglm.apps.knowledge.traditional import SIMPLIFIED

_RUN = re.compile(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+")
_NUMBER = re.compile(
    r"[零一二两三四五六七八九十百千万]+(?=[天日月年周号元块钱件倍折兆级楼岁次]|小时|分钟)"
)
_CODE = re.compile(r"(?<![a-z\d])[a-z]+-?\d[a-z\d]*")
_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}


def normalized(text: str) -> str:
    """The text as it is compared: narrow forms, lower case, simplified characters, digits."""
    text = unicode_form("NFKC", text).lower().translate(SIMPLIFIED)
    return _NUMBER.sub(lambda found: digits(found.group()), text)


def digits(numeral: str) -> str:
    """A Chinese numeral as digits, e.g. 十五 as 15; as it is where it is none, e.g. 一一."""
    total = section = number = 0
    for i, c in enumerate(numeral):
        if c in _DIGITS:
            if i and numeral[i - 1] in _DIGITS and numeral[i - 1] != "零":
                return numeral
            number = _DIGITS[c]
        elif c == "万":
            total, section, number = (total + section + number) * 10_000, 0, 0
        else:
            section += (number or 1) * _UNITS[c]
            number = 0
    return str(total + section + number)


def terms(text: str) -> list[str]:
    """The terms of a text in its order, repeated as they are repeated."""
    found: list[str] = []
    for run in _RUN.findall(normalized(text)):
        if "\u3400" <= run[0] <= "\u9fff":
            found += run
            found += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            found.append(stem(run))
    return found


def stem(word: str) -> str:
    """An English plural as its singular; other words as they are."""
    is_plural = len(word) > 3 and word.isascii() and word.endswith("s")
    return word[:-1] if is_plural and not word.endswith(("ss", "us", "is")) else word


def codes(text: str) -> frozenset[str]:
    """The names of types and models in a text: B2, iphone15, rtx-4090."""
    return frozenset(found.replace("-", "") for found in _CODE.findall(normalized(text)))


@lru_cache(maxsize=4096)
def distinct(text: str) -> tuple[str, ...]:
    """The terms of a question, each once."""
    return tuple(dict.fromkeys(terms(text)))


def bigrams(text: str) -> set[str]:
    """Pairs of neighbouring characters and whole words: what a text says, free of its order."""
    return {term for term in terms(text) if len(term) > 1 or not "\u3400" <= term <= "\u9fff"}

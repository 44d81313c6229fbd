"""BM25 (Robertson & Zaragoza 2009, eq. 3.15): what a term says, and how much of it a text holds.

Constants were chosen on the similar questions of five FAQ bases, one left out at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from chatglm.apps.knowledge.words import terms

K1, B = 3.0, 0.75
# Words that every question has: they say little of what it is about.
_CHINESE = (
    "怎么 怎样 如何 什么 多少 哪里 哪些 哪个 可以 能不 不能 能否 是否 吗 呢 为什 几天 时候 多久 "
    "请问 一下 么办 怎么办 我的 我要 我想 有没 没有 需要 你们"
)
_ENGLISH = "how what when where why which can do does is are the a to my i"
QUESTION_WORDS = frozenset(f"{_CHINESE} {_ENGLISH}".split())
QUESTION_WORD = 0.2


def weight(term: str, count: int, total: int) -> float:
    """How much a term says that stands in `count` of `total` chunks: the rarer, the more."""
    rarity = math.log(1 + (total - count + 0.5) / (count + 0.5))
    return rarity * (QUESTION_WORD if term in QUESTION_WORDS else 1.0)


def bm25(text: str, weights: Mapping[str, float], mean_length: float) -> float:
    """BM25 of a text for weighted terms."""
    counts = counted(text)
    norm = K1 * (1 - B + B * counts.total() / mean_length)
    return sum(
        weight * counts[term] * (K1 + 1) / (counts[term] + norm)
        for term, weight in weights.items()
        if term in counts
    )


@lru_cache(maxsize=8192)
def counted(text: str) -> Counter[str]:
    """How often each term stands in a text; not to be changed."""
    return Counter(terms(text))

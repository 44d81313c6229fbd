"""Tones and rhymes of Chinese characters in today's pronunciation, by pypinyin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Literal

from chatglm.errors import missing_extra

Tone = Literal["平", "仄"]

_RHYMES: dict[str, Sequence[str]] = {
    "麻": ("a", "ia", "ua"),
    "波": ("o", "uo"),
    "歌": ("e",),
    "皆": ("ie", "ve", "ê"),
    "支": ("-i",),
    "儿": ("er",),
    "齐": ("i",),
    "微": ("ei", "uei"),
    "开": ("ai", "uai"),
    "姑": ("u",),
    "鱼": ("v",),
    "侯": ("ou", "iou"),
    "豪": ("ao", "iao"),
    "寒": ("an", "ian", "uan", "van"),
    "痕": ("en", "in", "uen", "vn"),
    "唐": ("ang", "iang", "uang"),
    "庚": ("eng", "ing", "ueng"),
    "东": ("ong", "iong"),
}
"""The eighteen rhymes of 中华新韵 (1941); the fourteen of 2005 join some of them, so that what
rhymes here rhymes there."""

_GROUP = {final: group for group, finals in _RHYMES.items() for final in finals}


_BOTH_WAYS = frozenset(
    "为行好中重长看思听教还空分间兴应相当将种只少处数难度量转传调更舍背冠藏奔胜任喝曲乐觉朝称"
    "差缝扇华号担钉干观和假降禁卷累露蒙磨宁泡铺强曾丧散省石似宿吐咽吟载占涨正着钻论离过忘醒叹望"
    "那哪得地的都不一了吗呢吧么"
)
"""Characters that are commonly read in two ways, or in another than their first."""


@cache
def reading(character: str) -> tuple[Tone, str] | None:
    """(tone, rhyme) of a character; None where it has none, or two that are both common."""
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError as error:
        raise missing_extra("pypinyin", "apps") from error
    if character in _BOTH_WAYS:
        return None
    spelled = lazy_pinyin(character, style=Style.FINALS_TONE3, errors="ignore")
    match = re.fullmatch(r"([a-zêü]+)([1-4])", spelled[0]) if spelled else None
    if match is None:
        return None
    final = match[1].replace("ü", "v")
    initial = lazy_pinyin(character, style=Style.INITIALS, errors="ignore")[0]
    if final == "i" and initial in ("zh", "ch", "sh", "r", "z", "c", "s"):
        final = "-i"
    group = _GROUP.get(final)
    return None if group is None else ("平" if match[2] in "12" else "仄", group)


def tone(character: str) -> Tone | None:
    """The tone of a character, level or oblique; None where it is not certain."""
    found = reading(character)
    return None if found is None else found[0]


def rhyme(character: str) -> str | None:
    """The rhyme of a character; None where it is not certain."""
    found = reading(character)
    return None if found is None else found[1]

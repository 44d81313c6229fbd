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


@cache
def readings(character: str) -> frozenset[tuple[Tone, str]]:
    """(tone, rhyme) of each reading of a character; empty where it has none with a full tone."""
    try:
        from pypinyin import Style, pinyin
    except ImportError as error:
        raise missing_extra("pypinyin", "apps") from error
    found = set()
    finals = pinyin(character, style=Style.FINALS_TONE3, heteronym=True, errors="ignore")
    initials = pinyin(character, style=Style.INITIALS, heteronym=True, errors="ignore")
    starts = set(initials[0]) if initials else set()
    for spelled in finals[0] if finals else []:
        match = re.fullmatch(r"([a-zêü]+)([1-4])", spelled)
        if match is None:
            continue
        final = match[1].replace("ü", "v")
        if final == "i" and starts & {"zh", "ch", "sh", "r", "z", "c", "s"}:
            final = "-i"
        group = _GROUP.get(final)
        if group is not None:
            found.add(("平" if match[2] in "12" else "仄", group))
    return frozenset(found)  # type: ignore[arg-type]


def tone(character: str) -> Tone | None:
    """The tone of a character, level or oblique; None where its readings differ in it."""
    found = {reading[0] for reading in readings(character)}
    return found.pop() if len(found) == 1 else None


def rhyme(character: str) -> str | None:
    """The rhyme of a character; None where its readings differ in it."""
    found = {reading[1] for reading in readings(character)}
    return found.pop() if len(found) == 1 else None

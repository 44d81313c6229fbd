"""The words of a unit: marks for what stays, what models put around a reply, blank space."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatglm.apps.text import num_han
from chatglm.apps.translate.kept import Kept, Part, parts
from chatglm.apps.translate.unit import Unit

_SLOT = re.compile(r"⟦\s*(\d+)\s*⟧")
_PREAMBLE = re.compile(r"^(?:译文|翻译|Translation)\s*[：:]\s*", re.IGNORECASE)


def bare(unit: Unit) -> str:
    """A unit without what stays."""
    return " ".join(part for part in parts(unit.text, unit.style) if isinstance(part, str))


def mask(found: Sequence[Part]) -> tuple[str, list[Kept]]:
    """A text with numbered marks for what stays, and what they stand for."""
    slots: list[Kept] = []
    text = ""
    for part in found:
        if isinstance(part, Kept):
            slots.append(part)
            text += f"⟦{len(slots)}⟧"
        else:
            text += part
    return text, slots


def unmask(text: str, slots: Sequence[Kept]) -> str:
    """A text with its marks resolved; an unknown mark vanishes."""
    return _SLOT.sub(
        lambda m: slots[int(m[1]) - 1].shown if 0 < int(m[1]) <= len(slots) else "", text
    )


def tidy(reply: str, source: str) -> str:
    """A reply without what models put around a translation."""
    text = _PREAMBLE.sub("", reply.strip()).removeprefix("<<<").removesuffix(">>>").strip()
    for left, right in ("“”", '""', "「」"):
        is_wrapped = len(text) > 1 and text[0] == left and text[-1] == right
        if is_wrapped and not source.lstrip().startswith(("“", '"', "「")):
            text = text[1:-1].strip()
    return text


def edges(source: str, target: str) -> str:
    """The target with the blank space that is around the source."""
    core = source.strip()
    if not core:
        return source
    start = source.index(core[0])
    return source[:start] + target.strip() + source[start + len(core) :]


def fitted(target: str, source: str) -> str:
    """The target with the source's blank space around it, and no block mark that it has not."""
    text = target.strip()
    if not re.match(r"\s*(?:[-+#>=|]|\d+[.)]\s)", source):
        text = re.sub(r"^(?:[-+#>=|]+\s*|\d+[.)]\s+)+(?=\S)", "", text)
    return edges(source, text)


def touches(left: str, right: str, before: Part, part: Part) -> bool:
    """Whether two parts would make one word where the language wants two."""
    if not left or not right or left[-1].isspace() or right[0].isspace():
        return False
    if isinstance(before, str) and isinstance(part, Kept):
        return bool(before) and is_word(left[-1]) and part.kind not in ("close",)
    if isinstance(before, Kept) and isinstance(part, str):
        return before.kind != "open" and is_word(right[0])
    return isinstance(before, Kept) and before.kind == "close" and is_word(right[0])


def is_word(character: str) -> bool:
    """Whether a character is part of a word that is written with blanks around it."""
    return character.isalnum() and not num_han(character)

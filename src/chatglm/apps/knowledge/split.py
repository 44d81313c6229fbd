"""Text in chunks: along headings, then paragraphs, then sentences; a question keeps its answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from chatglm.apps.knowledge.records import Passage

MOST = 400
"""Characters of a chunk at most, but for a single sentence without an end."""

_SENTENCE = re.compile(r".+?(?:[。！？；!?;…]+[”’」』）)\"']*|\.(?=\s)|\n|$)", re.DOTALL)
_ASKS = re.compile(r"[？?]\s*$|^(?:如何|怎么|怎样|为什么|什么|哪些|哪里|能否|是否|可以)")
_ASKS_ENGLISH = re.compile(r"^(?:how|what|why|when|where|who|which|can|do|does|is|are)\b.*", re.I)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A paragraph, list, table or the like under its headings."""

    text: str
    path: tuple[str, ...] = ()
    place: str = ""


def asks(heading: str) -> bool:
    """Whether a heading is a question."""
    return bool(_ASKS.search(heading.strip()) or _ASKS_ENGLISH.match(heading.strip()))


def passages(blocks: Iterable[Block], most: int = MOST) -> Iterator[Passage]:
    """Chunks of blocks. A heading that asks, with a text that fits, is an FAQ entry."""
    for path, group in groupby(blocks, key=lambda block: block.path):
        members = list(group)
        whole = "\n".join(block.text for block in members)
        if path and asks(path[-1]) and len(whole) <= 4 * most:
            yield Passage(
                kind="faq",
                question=path[-1],
                text=whole,
                path=path[:-1],
                place=members[0].place,
                tag=path[-2] if len(path) > 2 else "",
            )
            continue
        for text, place in packed(members, most):
            yield Passage(kind="text", text=text, path=path, place=place)


def packed(blocks: Iterable[Block], most: int) -> Iterator[tuple[str, str]]:
    """Texts of at most `most` characters with the place where each begins."""
    text, place = "", ""
    for block in blocks:
        for i, part in enumerate(parts(block.text, most)):
            joint = "\n" if i == 0 else ""
            if text and len(text) + len(joint) + len(part) > most:
                yield text.strip(), place
                text = ""
            if not text:
                place, joint = block.place, ""
            text += joint + part
    if text.strip():
        yield text.strip(), place


def parts(text: str, most: int) -> Iterator[str]:
    """The text whole where it fits, else its sentences, else pieces of an endless sentence."""
    if len(text) <= most:
        yield text
        return
    for sentence in sentences(text):
        for start in range(0, len(sentence), most):
            yield sentence[start : start + most]


def sentences(text: str) -> list[str]:
    """The sentences of a text, with their ends; joined they are the text."""
    return [found for found in _SENTENCE.findall(text) if found]

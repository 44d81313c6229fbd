"""A long text in parts that a prompt can hold, cut at headings, paragraphs and sentences."""

from __future__ import annotations

from collections.abc import Callable

from chatglm.apps.text import sentences


def split(text: str, room: int, size: Callable[[str], int]) -> list[str]:
    """The text in as few parts as are needed for each to have at most `room` tokens.

    Paragraphs stay together where they can; a sentence that is too long by itself is cut.
    """
    if size(text) <= room:
        return [text]
    parts: list[str] = []
    held, held_size = "", 0
    for unit in units(text, room, size):
        unit_size = size(unit)
        if held and held_size + unit_size > room:
            parts.append(held.strip())
            held, held_size = "", 0
        held += unit
        held_size += unit_size
    if held.strip():
        parts.append(held.strip())
    return parts


def units(text: str, room: int, size: Callable[[str], int]) -> list[str]:
    """Paragraphs, sentences of those that are too long, and pieces of sentences that are."""
    found: list[str] = []
    for line in text.splitlines(keepends=True):
        if not line.strip():
            continue
        if size(line) <= room:
            found.append(line)
            continue
        for sentence in sentences(line):
            found += pieces(sentence, room, size)
        found[-1] += "\n"
    return found


def pieces(sentence: str, room: int, size: Callable[[str], int]) -> list[str]:
    """A sentence, halved until each piece fits."""
    if size(sentence) <= room or len(sentence) < 2:
        return [sentence]
    middle = len(sentence) // 2
    space = sentence.rfind(" ", 0, middle)
    cut = space + 1 if space > len(sentence) // 4 else middle
    return pieces(sentence[:cut], room, size) + pieces(sentence[cut:], room, size)

"""Language, sentences and terms of a text, Chinese and English."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

Language = Literal["zh", "en"]

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f〇"
_HAN = re.compile(f"[{HAN}]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]+")
_TERM = re.compile(rf"[{HAN}]+|[A-Za-zÀ-ɏ0-9][\w.+#-]*")

_CLOSERS = "”’」』）)】》\"'"
_END_ZH = re.compile(rf"(?:[。！？!?…]+|\.{{3,}})[{_CLOSERS}]*")
_END_EN = re.compile(r"[.!?]+[”’\"')\]]*(?=\s)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|etc|cf|al|No|Nos|Fig|Eq|Vol|pp|ed|eds|approx|Inc|Ltd|Co"
    r"|Corp|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)|\b[A-Za-z]|\b(?:[A-Za-z]\.)+[A-Za-z])$"
)
_LIST = re.compile(r"\s*(?:[-*+•·]|\d+[.)、]|[（(]?[一二三四五六七八九十]+[)）、])")

STOP_WORDS = frozenset(
    [
        "a", "an", "the", "and", "or", "but", "if", "of", "in", "on", "at", "to", "for", "from",
        "by", "with", "as", "is", "are", "was", "were", "be", "been", "being", "it", "its",
        "this", "that", "these", "those", "he", "she", "they", "we", "you", "i", "his", "her",
        "their", "our", "your", "not", "no", "do", "does", "did", "have", "has", "had", "will",
        "would", "can", "could", "should", "may", "might", "which", "who", "what", "when",
        "where", "how", "than", "then", "so", "such", "also", "into", "about", "over", "after",
        "before", "more", "most", "some", "any", "all", "each", "other", "there", "here", "just",
    ]
)  # fmt: skip


def num_han(text: str) -> int:
    """Chinese characters of a text."""
    return len(_HAN.findall(text))


def language(text: str) -> Language:
    """`zh` where Chinese characters carry the text, else `en`."""
    wide = num_han(text)
    return "zh" if wide and wide * 2 >= len(_LATIN.findall(text)) else "en"


def has_letters(text: str) -> bool:
    """Whether there is anything that could be read aloud."""
    return any(c.isalpha() for c in text)


def characters(text: str) -> int:
    """Characters without blank space: the unit in which lengths are asked for."""
    return sum(not c.isspace() for c in text)


def sentences(text: str) -> list[str]:
    """The sentences of a text in order, without blank space around; nothing else is lost.

    A line break ends a sentence, save in Latin text that is wrapped at a column.
    """
    return [part for line in lines(text) for part in split_line(line)]


def lines(text: str) -> Iterator[str]:
    """Lines with wrapped ones joined again."""
    held = ""
    for line in (*text.splitlines(), ""):
        shown = line.strip()
        if held and shown and is_wrapped(held, shown):
            held = f"{held.removesuffix('-')}{'' if held.endswith('-') else ' '}{shown}"
            continue
        if held:
            yield held
        held = shown


def is_wrapped(line: str, following: str) -> bool:
    """Whether a line goes on in the following one."""
    if len(line.rsplit("\n", 1)[-1]) < 50 or line[-1] in ".!?:;。！？：；…" or _HAN.search(line):
        return False
    return not _LIST.match(following) and not following.startswith(("#", ">", "|"))


def split_line(line: str) -> list[str]:
    """The sentences of one line."""
    found, start = [], 0
    for end in sorted({m.end() for m in _END_ZH.finditer(line)} | set(english_ends(line))):
        if closes(line, start, end):
            found.append(line[start:end].strip())
            start = end
    found.append(line[start:].strip())
    return [part for part in found if part]


def english_ends(line: str) -> Iterator[int]:
    """Where a full stop ends an English sentence, and not an abbreviation or a number."""
    for match in _END_EN.finditer(line):
        before = line[: match.start()]
        follows = line[match.end() :].lstrip()[:1]
        if match[0].startswith(".") and (_ABBREVIATION.search(before) or follows.islower()):
            continue
        yield match.end()


def closes(line: str, start: int, end: int) -> bool:
    """Whether a sentence may end here: not inside a Latin word or number such as `a!b` or `3?5`,
    and not before the punctuation that goes on with it.
    """
    if not line[start:end].strip():
        return False
    follows = line[end : end + 1]
    if follows and follows in "，,、；;：:":
        return False
    mark = line[end - 1]
    return not (mark in "!?" and follows.isascii() and follows.isalnum())


def clauses(sentence: str) -> list[str]:
    """The parts of a sentence between commas and the like, each with the mark that ends it."""
    return re.findall(r"(?:[^，,；;：:]|(?<=\d)[,:](?=\d))+[，,；;：:]*|[，,；;：:]+", sentence)


def terms(text: str) -> list[str]:
    """What a text is about, for counting: pairs of Chinese characters, and Latin words without
    the commonest.
    """
    found: list[str] = []
    for match in _TERM.finditer(unicodedata.normalize("NFKC", text)):
        word = match[0]
        if _HAN.match(word):
            found += [word[i : i + 2] for i in range(len(word) - 1)] or [word]
        elif (lower := word.lower().rstrip(".-")) not in STOP_WORDS:
            found.append(lower)
    return found

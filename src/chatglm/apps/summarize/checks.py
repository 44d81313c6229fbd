"""Whether a summary may be believed, and how it is brought to its form and length."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from chatglm.apps.text import Language, clauses, has_letters, language, sentences, terms

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_NAME = re.compile(r"[A-Za-z][\w.+#-]*")
_BULLET = re.compile(r"^\s*(?:[-*+•·]|\d+[.)、]|[（(]\d+[)）])\s*")
_ENDED = "。！？!?….；;：:”’」』）)】"


def problems(summary: str, source: str, least: float) -> list[str]:
    """What speaks against a summary; empty where it may be believed.

    least: the share of its terms that the source must have.
    """
    found = []
    if not has_letters(summary):
        return ["it is empty"]
    if language(summary) != language(source):
        found.append("it is in another language")
    if loops(summary):
        found.append("it repeats itself")
    if missing := unknown(summary, source):
        found.append(f"the text has no {missing[0]}")
    if (share := support(summary, source)) < least:
        found.append(f"the text has only {share:.0%} of its words")
    return found


def unknown(summary: str, source: str) -> list[str]:
    """Numbers of a summary that the source lacks; in Chinese, Latin names too."""
    plain, lower = source.replace(",", ""), source.lower()
    found = [n for n in _NUMBER.findall(summary) if n.replace(",", "") not in plain]
    if language(source) == "zh":
        found += [n for n in _NAME.findall(summary) if n.rstrip(".-").lower() not in lower]
    return found


def loops(text: str, size: int = 8) -> bool:
    """Whether a run of characters comes again and again."""
    squeezed = "".join(text.split())
    runs = Counter(squeezed[i : i + size] for i in range(len(squeezed) - size + 1))
    return max(runs.values(), default=0) >= 3


def support(summary: str, source: str) -> float:
    """The share of a summary's terms that the source has."""
    wanted = terms(summary)
    have = set(terms(source))
    return sum(t in have for t in wanted) / len(wanted) if wanted else 0.0


def supported(summary: str, source: str, least: float) -> str:
    """The sentences of a summary that may be believed, joined."""
    kept = [s for s in sentences(summary) if not problems(s, source, least)]
    return joined(list(dict.fromkeys(kept)), language(source))


def joined(parts: Sequence[str], lang: Language) -> str:
    """Sentences as one paragraph; one that ends without a mark gets a full stop."""
    stop, space = ("。", "") if lang == "zh" else (".", " ")
    ended = [p if p[-1] in _ENDED else f"{p}{stop}" for p in parts]
    return space.join(ended)


def clipped(text: str, length: int) -> str:
    """The text in at most `length` characters: whole sentences, else whole clauses, else words."""
    if len(text) <= length:
        return text
    lang = language(text)
    kept: list[str] = []
    for sentence in sentences(text):
        if len(joined([*kept, sentence], lang)) > length:
            break
        kept.append(sentence)
    if kept:
        return joined(kept, lang)
    return clipped_clauses(text, length)


def clipped_clauses(sentence: str, length: int) -> str:
    """As many first clauses of a sentence as fit, without the mark at the end."""
    shown = ""
    for clause in clauses(sentence):
        if len((shown + clause).rstrip("，,、；;：:。. ")) > length:
            break
        shown += clause
    shown = shown.rstrip("，,、；;：:。. ")
    if shown:
        return shown
    if language(sentence) == "en" and " " in sentence[:length]:
        return sentence[: length + 1].rsplit(" ", 1)[0]
    return sentence[:length]


def bullets(text: str, points: int, length: int) -> str:
    """A model's list as at most `points` lines that begin with `- `, in `length` characters."""
    lines = [_BULLET.sub("", line).strip() for line in text.splitlines()]
    lines = [line for line in dict.fromkeys(lines) if has_letters(line)]
    if len(lines) == 1:
        lines = sentences(lines[0])
    return as_points(lines[:points], length)


def as_points(lines: Sequence[str], length: int) -> str:
    """Lines as bullet points, in at most `length` characters together."""
    shown: list[str] = []
    room = length
    for line in lines:
        text = clipped(_BULLET.sub("", line), room - 3) if room > 10 else ""
        if not text:
            break
        shown.append(f"- {text}")
        room -= len(text) + 3
    return "\n".join(shown)


def headline(text: str, length: int) -> str:
    """The first line of a model's reply as a title."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    first = re.sub(r"^(?:标题|题目|Headline|Title)\s*[：:]\s*", "", first)
    return clipped_clauses(first.strip("“”\"'《》#* 。"), length)

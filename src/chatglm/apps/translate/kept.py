"""What a translation must carry over unchanged: placeholders, markup, addresses, code."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

Kind = Literal["open", "close", "word", "number", "term"]
Style = Literal["plain", "markdown"]

_CODE = r"(?P<code>(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
_PLACE = (
    r"(?P<place>\{\{.*?\}\}|\$?\{(?:[^{}\n]|\{[^{}\n]*\})*\}"
    r"|(?<![\d%])%(?:\([\w.]+\))?(?:\d+\$)?[-+#0]*(?:\d+|\*)?(?:\.\d+)?l{0,2}[sdifgGeExXcrau@](?![A-Za-z]{3})"
    r"|%%|%[A-Z][A-Z_]+%|%@|\$[A-Za-z_]\w*|⟦[^⟧]*⟧|\\[Nnrth](?![a-z]))"
)
_ADDRESS = (
    r"(?P<address>(?:https?|ftp)://[^\s<>\"'()\[\]，。；、）》（]+(?<![.,;:!?])"
    r"|\bwww\.[\w.-]+\w|[\w.+-]+@[\w-]+(?:\.[\w-]+)+)"
)
_TAG = (
    r"(?P<end></[A-Za-z][^<>]*>)|(?P<single><!--.*?-->|<[A-Za-z][^<>]*/>|<(?:br|hr|img)\b[^<>]*>"
    r"|&(?:[A-Za-z]+|#\d+|#x[\da-fA-F]+);)|(?P<start><[A-Za-z][^<>]*>)"
)
_URL_PART = r"(?:[^()\s\\]|\\.|\([^()\s]*\))*"
_MARK = (
    r"(?P<auto><(?:https?|mailto):[^<>\s]+>)|(?P<foot>\[\^[^\]\s]+\])|(?P<math>\$\$?[^$\s][^$\n]*\$\$?(?!\d))"
    rf"|(?P<tail>\](?:\(\s*<?{_URL_PART}>?(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)|\[[^\[\]]*\])?)"
    r"|(?P<head>!?\[)|(?P<escape>\\[!-/:-@\[-`{-~])"
    r"|(?P<stars>\*{1,3}|~~|(?<!\w)_{1,3}(?=\S)|(?<=\S)_{1,3}(?!\w))|(?P<emoji>:[a-z][a-z0-9_+-]+:)"
)
PATTERNS: dict[Style, re.Pattern[str]] = {
    "plain": re.compile("|".join((_CODE, _PLACE, _ADDRESS, _TAG))),
    "markdown": re.compile("|".join((_CODE, _MARK, _PLACE, _ADDRESS, _TAG))),
}
NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
_OPENS = {"start": "open", "head": "open", "end": "close", "tail": "close"}
_MARKS = set("`*_|<>{}[]\\~$")


@dataclass(frozen=True)
class Kept:
    """A piece that stays, what it is, and what stands for it in the translation."""

    text: str
    kind: Kind
    shown: str


Part = str | Kept


def parts(text: str, style: Style) -> list[Part]:
    """The text as runs of words and pieces that stay, in order."""
    found: list[Part] = []
    at = 0
    is_open: dict[str, bool] = {}
    for match in PATTERNS[style].finditer(text):
        name = match.lastgroup if match.lastgroup != "ticks" else "code"
        name = next(n for n, v in match.groupdict().items() if v is not None and n != "ticks")
        if name == "stars" and match[0].startswith("*") and surrounded(text, match):
            continue  # a multiplication sign
        if match.start() > at:
            found.append(text[at : match.start()])
        if name == "stars":
            kind: Kind = "close" if is_open.get(match[0]) else "open"
            is_open[match[0]] = kind == "open"
        else:
            kind = _OPENS.get(name, "word")  # type: ignore[assignment]
        found.append(Kept(match[0], kind, match[0]))
        at = match.end()
    if at < len(text):
        found.append(text[at:])
    return found


def surrounded(text: str, match: re.Match[str]) -> bool:
    """Whether blank space is on both sides of a match."""
    around = text[max(match.start() - 1, 0) : match.start()] + text[match.end() : match.end() + 1]
    return bool(around) and around.isspace()


def kept(text: str, style: Style) -> list[Kept]:
    """The pieces of a text that stay."""
    return [part for part in parts(text, style) if isinstance(part, Kept)]


def with_numbers(found: list[Part]) -> list[Part]:
    """The parts with numbers among what stays."""
    more: list[Part] = []
    for part in found:
        if isinstance(part, Kept):
            more.append(part)
            continue
        at = 0
        for match in NUMBER.finditer(part):
            if match.start() > at:
                more.append(part[at : match.start()])
            more.append(Kept(match[0], "number", match[0]))
            at = match.end()
        if at < len(part):
            more.append(part[at:])
    return more


def numbers(text: str, style: Style) -> Counter[str]:
    """The numbers in the words of a text."""
    return Counter(
        n for part in parts(text, style) if isinstance(part, str) for n in NUMBER.findall(part)
    )


def faults(source: str, target: str, style: Style) -> list[str]:
    """What a translation has lost or made up; empty where it may stand."""
    if source.strip() and not target.strip():
        return ["it is empty"]
    found = []
    ours, theirs = kept(source, style), kept(target, style)
    lost = Counter(k.text for k in ours) - Counter(k.text for k in theirs)
    added = Counter(k.text for k in theirs) - Counter(k.text for k in ours)
    found += [f"{text} is missing" for text in lost]
    found += [f"{text} was added" for text in added]
    marks = ("open", "close")
    if [k.text for k in ours if k.kind in marks] != [k.text for k in theirs if k.kind in marks]:
        found.append("its markup is in another order")
    gone = numbers(source, style) - numbers(target, style)
    found += [f"the number {n} is missing" for n in gone]
    if target.count("\n") != source.count("\n"):
        found.append("its lines are others")
    return found


def clean(target: str, source: str) -> str:
    """A model's words without marks of structure that the source has not."""
    allowed = set(source)
    return "".join(c for c in target if c not in _MARKS or c in allowed)

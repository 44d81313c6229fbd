"""gettext catalogues (.po): msgid goes into msgstr; comments, contexts and flags stay."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from chatglm.apps.text import has_letters
from chatglm.apps.text_file import InvalidText
from chatglm.apps.translate.formats.document import Document, Piece, Segment
from chatglm.apps.translate.unit import Unit

_FIELD = re.compile(r"(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s+(\".*\")\s*$")
_MORE = re.compile(r"(\".*\")\s*$")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "a": "\a", "b": "\b", "f": "\f"}


@dataclass
class Entry:
    """Fields of a message by name: value, and the rows that spell it; in the file's order."""

    line: int
    is_fuzzy: bool = False
    rows: list[tuple[str, str]] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether there is something to translate and no translation yet."""
        source = self.values.get("msgid", "")
        done = all(v for k, v in self.values.items() if k.startswith("msgstr"))
        return has_letters(source) and (self.is_fuzzy or not done)


def parse(text: str, name: str) -> Document:
    """The document of a catalogue: messages without a translation, or with a fuzzy one."""
    pieces: list[Piece] = []
    entry = Entry(1)
    current = ""
    for number, row in enumerate(text.splitlines(keepends=True), 1):
        stripped = row.strip()
        if match := _FIELD.match(stripped):
            current = match[1]
            if current in ("msgctxt", "msgid") and "msgid" in entry.values:
                pieces += written(entry)
                entry = Entry(number)
            if current in entry.values:
                raise InvalidText(f"{name} line {number}: {current} comes twice")
            entry.values[current] = unquote(match[2], name, number)
            entry.rows.append((current, row))
        elif (match := _MORE.match(stripped)) and current:
            entry.values[current] += unquote(match[1], name, number)
            entry.rows.append((current, row))
        elif not stripped or stripped.startswith("#"):
            if "msgid" in entry.values:
                pieces += written(entry)
                entry = Entry(number)
            current = ""
            entry.is_fuzzy = entry.is_fuzzy or (stripped.startswith("#,") and "fuzzy" in stripped)
            entry.rows.append(("", row))
        else:
            raise InvalidText(
                f"{name} line {number}: expected msgid, msgstr or a comment, got {stripped[:40]!r}"
            )
    if "msgid" in entry.values and not any(k.startswith("msgstr") for k in entry.values):
        raise InvalidText(f"{name} line {entry.line}: msgid has no msgstr; the file is cut short")
    pieces += written(entry)
    return Document(tuple(pieces))


def frame(text: str) -> list[str]:
    """The rows of a catalogue without those of its translations."""
    parse(text, "the translation")
    rows: list[str] = []
    is_target = False
    for row in text.splitlines():
        if match := _FIELD.match(row.strip()):
            is_target = match[1].startswith("msgstr")
            rows.append(match[1] if is_target else row)
        elif not (is_target and _MORE.match(row.strip())):
            rows.append(row)
    return rows


def written(entry: Entry) -> list[Piece]:
    """The pieces of a message; rows of a msgstr that is to be made become one segment."""
    if not entry.is_open:
        return [row for _, row in entry.rows]
    pieces: list[Piece] = []
    seen: set[str] = set()
    for key, row in entry.rows:
        if not key.startswith("msgstr"):
            pieces.append(row)
            continue
        if key in seen:
            continue
        seen.add(key)
        plural = entry.values.get("msgid_plural", "")
        source = plural if plural and key != "msgstr[0]" else entry.values["msgid"]
        if plural and "msgstr[1]" not in entry.values:
            source = plural  # a language with one form counts with the plural's words
        raw = "".join(r for k, r in entry.rows if k == key)
        pieces.append(Segment(unit=Unit(source), raw=raw, write=writer(key, raw), line=entry.line))
    return pieces


def unquote(quoted: str, name: str, line: int) -> str:
    """The text of a quoted string."""
    match = _QUOTED.fullmatch(quoted)
    if match is None:
        raise InvalidText(f"{name} line {line}: a quotation mark is missing or not escaped")
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[0]), match[1])


def quote(text: str) -> str:
    """A text as a quoted string."""
    marks = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
    return '"' + "".join(marks.get(c, c) for c in text) + '"'


class writer:
    """Spells a translation as rows of a msgstr, broken after each `\\n` as gettext does."""

    def __init__(self, key: str, raw: str) -> None:
        self.key = key
        self.end = raw[len(raw.rstrip("\r\n")) :]

    def __call__(self, text: str) -> str:
        lines = text.splitlines(keepends=True)
        if len(lines) < 2:
            return f"{self.key} {quote(text)}{self.end}"
        rows = "\n".join(quote(line) for line in lines)
        return f'{self.key} ""\n{rows}{self.end}'

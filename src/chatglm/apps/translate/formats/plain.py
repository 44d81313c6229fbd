"""Plain text: each paragraph, or each line, is a segment."""

from __future__ import annotations

import re

from chatglm.apps.text import has_letters, is_wrapped
from chatglm.apps.translate.formats.document import Document, Piece, Segment
from chatglm.apps.translate.kept import Style
from chatglm.apps.translate.unit import Unit

_INDENT = re.compile(
    r"(\s*(?:[-*+•·]\s+|\d+[.)、]\s*|[（(]\d+[)）]\s*|[>#]+\s+)?)(.*?)(\s*)$", re.DOTALL
)


def parse(text: str, name: str) -> Document:
    """The document of a plain text."""
    pieces: list[Piece] = []
    held: list[str] = []
    line = begin = 1

    def flush() -> None:
        if held:
            pieces.extend(paragraph(held, begin, "plain"))
            held.clear()

    for row in text.splitlines(keepends=True):
        if not has_letters(row):
            flush()
            pieces.append(row)
        elif held and is_wrapped(held[-1].rstrip(), row.strip()):
            held.append(row)
        else:
            flush()
            begin = line
            held.append(row)
        line += 1
    flush()
    return Document(tuple(pieces))


def paragraph(rows: list[str], line: int, style: Style) -> list[Piece]:
    """The pieces of a paragraph whose lines belong together: what stands around its words, and
    the words on one line.
    """
    raw = "".join(rows)
    match = _INDENT.match(raw)
    assert match is not None
    before, core, after = match.groups()
    if not has_letters(core):
        return [raw]
    words = " ".join(part.strip() for part in core.splitlines())
    segment = Segment(unit=Unit(words, style), raw=core, line=line)
    return [piece for piece in (before, segment, after) if piece]

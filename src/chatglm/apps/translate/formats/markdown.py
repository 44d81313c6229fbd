"""Markdown: code, addresses, tables and all marks stay; headings, paragraphs and cells go."""

from __future__ import annotations

import re

from chatglm.apps.text import has_letters, num_han
from chatglm.apps.translate.formats.document import Document, Piece, Segment
from chatglm.apps.translate.unit import Unit

_FENCE = re.compile(r"\s{0,3}(?:> ?)*\s*(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}|~{3,}|\$\$|:::)")
_HTML = re.compile(
    r"\s{0,3}<(?:!--|/?(?:script|style|pre|div|table|details|svg|iframe|p\b|img)\b)", re.I
)
_HTML_END = re.compile(r"-->|</(?:script|style|pre|svg)>|^\s*$", re.I)
_DEFINITION = re.compile(r"\s{0,3}\[[^\]]+\]:\s*\S+")
_RULE = re.compile(r"\s{0,3}(?:(?:[-*_]\s*){3,}|=+)\s*$")
_TABLE_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$")
_BLOCK = re.compile(
    r"(\s*(?:>\s?)*\s*(?:#{1,6}\s+|(?:[-*+]|\d+[.)])\s+(?:\[[ xX]\]\s+)?|\[\^[^\]]+\]:\s*|:\s+)?)"
    r"(.*?)(\s*#*\s*(?:\{[#.:][^}]*\})?\s*)$",
    re.DOTALL,
)
_STARTS_BLOCK = re.compile(r"\s*(?:>|#{1,6}\s|(?:[-*+]|\d+[.)])\s|\||\[\^[^\]]+\]:|:\s)")
_CELL = re.compile(r"((?:\\.|`[^`]*`|[^|\\])+)|(\|)|(\\)")
_META = re.compile(
    r"(\s*(?:title|description|summary|subtitle)\s*:\s*)([\"']?)([^\"'\n].*?)(\2\s*)$"
)


class Reader:
    """Reads a document line by line."""

    def __init__(self, text: str) -> None:
        self.rows = text.splitlines(keepends=True)
        self.at = 0
        self.pieces: list[Piece] = []

    def read(self) -> Document:
        """The document."""
        self.front_matter()
        while self.at < len(self.rows):
            row = self.rows[self.at]
            if fence := _FENCE.match(row):
                self.code(fence[1])
            elif _HTML.match(row):
                self.html()
            elif self.is_table():
                self.table()
            elif not has_letters(row) or is_code(row, self.before) or is_frame(row):
                self.keep(1)
            else:
                self.paragraph()
        return Document(tuple(self.pieces))

    @property
    def before(self) -> str:
        """The line before."""
        return self.rows[self.at - 1] if self.at else ""

    def keep(self, count: int) -> None:
        """Take lines as they are."""
        self.pieces += self.rows[self.at : self.at + count]
        self.at += count

    def front_matter(self) -> None:
        """Metadata between `---` at the beginning: titles and descriptions go, the rest stays."""
        if not self.rows or self.rows[0].strip() != "---":
            return
        ends = (i for i, row in enumerate(self.rows[1:], 1) if row.strip() in ("---", "..."))
        end = next(ends, None)
        if end is None:
            return
        for i, row in enumerate(self.rows[: end + 1]):
            match = _META.match(row)
            if match and has_letters(match[3]) and ":" not in match[3] and "#" not in match[3]:
                self.segment(match[1] + match[2], match[3], match[4], i + 1)
            else:
                self.pieces.append(row)
        self.at = end + 1

    def code(self, fence: str) -> None:
        """A fenced block, to its end."""
        count = 1
        close = fence if fence in ("$$", ":::") else fence[0] * len(fence)
        if fence == ":::" or (fence == "$$" and self.rows[self.at].count("$$") > 1):
            self.keep(1)
            return
        for row in self.rows[self.at + 1 :]:
            count += 1
            if row.strip().lstrip("> ").startswith(close) or row.strip().endswith(close):
                break
        self.keep(count)

    def html(self) -> None:
        """A block of HTML, to the blank line or closing tag that ends it."""
        count = 1
        for row in self.rows[self.at :]:
            if _HTML_END.search(row):
                break
            count += 1
        self.keep(min(count, len(self.rows) - self.at))

    def is_table(self) -> bool:
        """Whether a table begins here."""
        if "|" not in self.rows[self.at] or self.at + 1 >= len(self.rows):
            return False
        rule = self.rows[self.at + 1]
        return "|" in rule and bool(_TABLE_RULE.match(rule))

    def table(self) -> None:
        """A table: the cells of each row."""
        while self.at < len(self.rows) and "|" in self.rows[self.at]:
            row = self.rows[self.at]
            if _TABLE_RULE.match(row):
                self.keep(1)
                continue
            for cell in _CELL.finditer(row):
                core = cell[0].strip()
                if cell[1] is None or not has_letters(core):
                    self.pieces.append(cell[0])
                else:
                    start = cell[0].index(core)
                    self.segment(cell[0][:start], core, cell[0][start + len(core) :], self.at + 1)
            self.at += 1

    def paragraph(self) -> None:
        """A heading, list item or paragraph with the lines that go on in it."""
        first = self.at
        row = self.rows[first]
        count = 1
        is_heading = row.lstrip(" >").startswith("#")
        while not is_heading and first + count < len(self.rows):
            following = self.rows[first + count]
            if self.ends(self.rows[first + count - 1], following):
                break
            count += 1
        match = _BLOCK.match("".join(self.rows[first : first + count]))
        assert match is not None
        self.segment(match[1], match[2], match[3], first + 1)
        self.at = first + count

    def ends(self, row: str, following: str) -> bool:
        """Whether a paragraph ends before the following line."""
        return (
            not following.strip()
            or row.rstrip("\r\n").endswith(("  ", "\\"))
            or bool(_STARTS_BLOCK.match(following))
            or bool(_FENCE.match(following))
            or bool(_HTML.match(following))
            or is_frame(following)
        )

    def segment(self, before: str, core: str, after: str, line: int) -> None:
        """A translatable piece with what stands around it."""
        if not has_letters(core):
            self.pieces.append(before + core + after)
            return
        if before:
            self.pieces.append(before)
        words = one_line(core)
        self.pieces.append(Segment(unit=Unit(words, "markdown"), raw=core, line=line))
        if after:
            self.pieces.append(after)


def is_code(row: str, before: str) -> bool:
    """Whether a line is an indented block of code."""
    return row.startswith(("    ", "\t")) and not before.strip() and not _STARTS_BLOCK.match(row)


def is_frame(row: str) -> bool:
    """Whether a line is a rule, an underline or the address of a reference."""
    return bool(_RULE.match(row) or (_DEFINITION.match(row) and not row.lstrip().startswith("[^")))


def one_line(core: str) -> str:
    """Wrapped lines as one: with a blank between Latin words, with none between Chinese ones."""
    rows = [row.strip() for row in core.splitlines()]
    text = rows[0]
    for row in rows[1:]:
        row = re.sub(r"^(?:>\s?)+", "", row)
        joins = bool(row) and num_han(text[-1:]) > 0 and num_han(row[0]) > 0
        text += row if joins or text[-1:] in "，。；：、！？" else f" {row}"
    return text


def parse(text: str, name: str) -> Document:
    """The document of a Markdown text."""
    return Reader(text).read()

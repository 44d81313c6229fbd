"""Terms and the one translation that each may have."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping

from chatglm.apps.text import num_han
from chatglm.apps.text_file import InvalidText, read_text
from chatglm.apps.translate.direction import Direction
from chatglm.apps.translate.kept import Kept, Part


class Glossary:
    """Pairs of terms, read in both directions."""

    def __init__(self, pairs: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        rows = pairs.items() if isinstance(pairs, Mapping) else pairs
        self.pairs = [(a.strip(), b.strip()) for a, b in rows]
        for a, b in self.pairs:
            if not a or not b:
                raise ValueError(f"a glossary entry is empty: {a!r} → {b!r}; give both terms")
        self._tables: dict[Direction, tuple[dict[str, str], re.Pattern[str] | None]] = {}

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Glossary:
        """A glossary from a CSV or TSV file: a term and its translation on each line."""
        file = read_text(path)
        delimiter = "\t" if "\t" in file.text.split("\n", 1)[0] else ","
        pairs = []
        reader = csv.reader(io.StringIO(file.text), delimiter=delimiter)
        for row in reader:
            if not any(cell.strip() for cell in row) or row[0].startswith("#"):
                continue
            if len(row) < 2 or not row[0].strip() or not row[1].strip():
                raise InvalidText(
                    f"{file.name} line {reader.line_num}: expected TERM{delimiter!r}TRANSLATION, "
                    f"got {delimiter.join(row)!r}"
                )
            pairs.append((row[0], row[1]))
        return Glossary(pairs)

    def table(self, direction: Direction) -> tuple[dict[str, str], re.Pattern[str] | None]:
        """Terms of a direction in lower case with their translations, and what finds them."""
        if direction not in self._tables:
            table: dict[str, str] = {}
            for a, b in self.pairs:
                source, target = (a, b) if is_in(a, direction.source) else (b, a)
                if not is_in(source, direction.source):
                    source, target = a, b
                table[source.lower()] = target
            terms = sorted(table, key=len, reverse=True)
            pattern = "|".join(bounded(t) for t in terms)
            self._tables[direction] = (
                table,
                re.compile(pattern, re.IGNORECASE) if terms else None,
            )
        return self._tables[direction]

    def found(self, text: str, direction: Direction) -> dict[str, str]:
        """The terms that occur in a text, with their translations."""
        table, pattern = self.table(direction)
        if pattern is None:
            return {}
        return {m[0]: table[m[0].lower()] for m in pattern.finditer(text)}

    def faults(self, source: str, target: str, direction: Direction) -> list[str]:
        """Terms of the source whose translation the target lacks."""
        lower = target.lower()
        return [
            f"{term} is not translated as {wanted}"
            for term, wanted in self.found(source, direction).items()
            if wanted.lower() not in lower
        ]

    def mark(self, parts: Iterable[Part], direction: Direction) -> list[Part]:
        """The parts with the terms among what stays, shown in their translation."""
        table, pattern = self.table(direction)
        marked: list[Part] = []
        for part in parts:
            if isinstance(part, Kept) or pattern is None:
                marked.append(part)
                continue
            at = 0
            for match in pattern.finditer(part):
                if match.start() > at:
                    marked.append(part[at : match.start()])
                marked.append(Kept(match[0], "term", table[match[0].lower()]))
                at = match.end()
            if at < len(part):
                marked.append(part[at:])
        return marked


def is_in(term: str, source: str) -> bool:
    """Whether a term may be of a language."""
    return (num_han(term) == 0) if source == "en" else num_han(term) > 0


def bounded(term: str) -> str:
    """A pattern for a term; Latin ones stand alone, with a plural's s at most."""
    text = re.escape(term)
    if term[0].isascii() and term[0].isalnum():
        text = rf"(?<![A-Za-z0-9]){text}"
    if term[-1].isascii() and term[-1].isalnum():
        text = rf"{text}(?![A-Za-z0-9])"
    return text

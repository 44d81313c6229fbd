"""Translations made before, in the knowledge bases' kind of store: the same text, the same but
for its numbers, or one much like it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from hashlib import sha256

from chatglm.apps.knowledge.database import marks, open_database
from chatglm.apps.knowledge.home import home
from chatglm.apps.text import terms
from chatglm.apps.translate.direction import Direction
from chatglm.apps.translate.kept import NUMBER

# A text may be longer than an index takes, so it is known by its digest.
_TABLES = """
CREATE TABLE IF NOT EXISTS unit(
    id {number}, direction TEXT NOT NULL, maker TEXT NOT NULL, digest TEXT NOT NULL,
    pattern TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL,
    UNIQUE (direction, maker, digest));
CREATE INDEX IF NOT EXISTS unit_pattern ON unit(direction, maker, pattern);
CREATE TABLE IF NOT EXISTS unit_term(
    term TEXT NOT NULL, unit BIGINT NOT NULL REFERENCES unit, PRIMARY KEY (term, unit))
"""
HUMAN = "human"
"""The maker of translations that a person has given; they come before any model's."""

NUM_CANDIDATES = 12
MOST_TERMS = 200
MOST_ROWS = 20_000
"""Rows that a search for similar texts touches; rare terms come first."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A translation from the memory: of `source`, which is like the text by `similarity` of 1."""

    source: str
    target: str
    similarity: float


class Memory:
    """The translation memory in a SQLite file, or in a schema of PostgreSQL (`postgresql://…#name`);
    several processes may use it at a time.
    """

    def __init__(self, location: str | os.PathLike[str] | None = None) -> None:
        self.database = open_database(
            os.fspath(location) if location is not None else str(home() / "translation.sqlite")
        )
        self.database.create(_TABLES)

    def close(self) -> None:
        """Give the connections back."""
        self.database.close()

    def __len__(self) -> int:
        return int(str(self.database.rows("SELECT count(*) FROM unit")[0][0]))

    def add(self, pairs: Iterable[tuple[str, str]], direction: Direction, maker: str) -> None:
        """Remember translations, all or none; a new one of the same text replaces the old."""
        with self.database.transaction():
            for source, target in pairs:
                self.put(source, target, str(direction), maker)

    def put(self, source: str, target: str, direction: str, maker: str) -> None:
        """Write one pair inside a transaction."""
        made = self.database.rows(
            "INSERT INTO unit(direction, maker, digest, pattern, source, target) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (direction, maker, digest) "
            "DO UPDATE SET target = excluded.target RETURNING id",
            (direction, maker, digest(source), pattern(source), source, target),
        )
        self.database.many(
            "INSERT INTO unit_term(term, unit) VALUES (?, ?) ON CONFLICT (term, unit) DO NOTHING",
            [(term, made[0][0]) for term in dict.fromkeys(terms(source))],
        )

    def exact(self, text: str, direction: Direction, maker: str) -> Match | None:
        """The translation of this very text, or of one that differs in its numbers only."""
        for who in (HUMAN, maker):
            found = self.database.rows(
                "SELECT target FROM unit WHERE direction = ? AND maker = ? AND digest = ?",
                (str(direction), who, digest(text)),
            )
            if found:
                return Match(source=text, target=str(found[0][0]), similarity=1.0)
        for who in (HUMAN, maker):
            if found_match := self.with_other_numbers(text, direction, who):
                return found_match
        return None

    def with_other_numbers(self, text: str, direction: Direction, maker: str) -> Match | None:
        """A translation whose source is the text but for its numbers, with the text's numbers."""
        wanted = NUMBER.findall(text)
        if not wanted:
            return None
        candidates = self.database.rows(
            "SELECT source, target FROM unit WHERE direction = ? AND maker = ? AND pattern = ? "
            "ORDER BY id LIMIT 8",
            (str(direction), maker, pattern(text)),
        )
        for source, target in ((str(s), str(t)) for s, t in candidates):
            theirs = NUMBER.findall(source)
            there = NUMBER.findall(target)
            is_clear = len(set(theirs)) == len(theirs) and sorted(there) == sorted(theirs)
            if is_clear and len(theirs) == len(wanted):
                swap = dict(zip(theirs, wanted, strict=True))
                adapted = NUMBER.sub(lambda m, swap=swap: swap[m[0]], target)  # type: ignore[misc]
                return Match(source=source, target=adapted, similarity=1.0)
        return None

    def fuzzy(self, text: str, direction: Direction, maker: str, least: float) -> Match | None:
        """The translation of the text most like this one, if it is so by `least` at all."""
        words = self.telling(terms(text))
        if not words:
            return None
        candidates = self.database.rows(
            "SELECT unit.source, unit.target FROM unit JOIN (SELECT unit, count(*) AS shared "
            f"FROM unit_term WHERE term IN ({marks(words)}) GROUP BY unit) AS hit "
            "ON hit.unit = unit.id WHERE direction = ? AND maker IN (?, ?) "
            "ORDER BY hit.shared DESC, unit.id LIMIT ?",
            (*words, str(direction), HUMAN, maker, NUM_CANDIDATES),
        )
        best: Match | None = None
        for source, target in ((str(s), str(t)) for s, t in candidates):
            matcher = SequenceMatcher(None, text, source, autojunk=False)
            if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
                continue
            similarity = matcher.ratio()
            if similarity >= least and (best is None or similarity > best.similarity):
                best = Match(source=source, target=target, similarity=similarity)
        return best

    def telling(self, words: Iterable[str]) -> list[str]:
        """Those of the words by which to look for similar texts, the rarest first."""
        distinct = list(dict.fromkeys(words))[:MOST_TERMS]
        if not distinct:
            return []
        found = self.database.rows(
            f"SELECT term, count(*) FROM unit_term WHERE term IN ({marks(distinct)}) "
            "GROUP BY term ORDER BY 2, 1",
            distinct,
        )
        kept: list[str] = []
        rows = 0
        for term, count in found:
            rows += int(str(count))
            if kept and rows > MOST_ROWS:
                break
            kept.append(str(term))
        return kept


def digest(text: str) -> str:
    """What a text is known by."""
    return sha256(text.encode()).hexdigest()


def pattern(text: str) -> str:
    """What a text is known by whatever its numbers."""
    return digest(NUMBER.sub("0", text))

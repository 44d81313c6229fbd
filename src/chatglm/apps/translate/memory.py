"""Translations made before, in one SQLite file: the same text, the same but for its numbers, or
one much like it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from chatglm.apps.text import terms
from chatglm.apps.text_file import home
from chatglm.apps.translate.direction import Direction
from chatglm.apps.translate.kept import NUMBER

_SCHEMA = """
CREATE TABLE IF NOT EXISTS units (
    id INTEGER PRIMARY KEY,
    direction TEXT NOT NULL,
    maker TEXT NOT NULL,
    source TEXT NOT NULL,
    pattern TEXT NOT NULL,
    target TEXT NOT NULL,
    UNIQUE (direction, maker, source)
);
CREATE INDEX IF NOT EXISTS patterns ON units (direction, maker, pattern);
CREATE VIRTUAL TABLE IF NOT EXISTS bags USING fts5 (bag, content='', tokenize='unicode61');
"""
HUMAN = "human"
"""The maker of translations that a person has given; they come before any model's."""

NUM_CANDIDATES = 12
NUM_TERMS = 24


@dataclass(frozen=True, kw_only=True)
class Match:
    """A translation from the memory: of `source`, which is like the text by `similarity` of 1."""

    source: str
    target: str
    similarity: float


class Memory:
    """The translation memory in a file; several processes may use it at a time."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else home() / "translation.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.connection = sqlite3.connect(
                self.path, timeout=30, isolation_level=None, check_same_thread=False
            )
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self.connection.close()
            raise ValueError(
                f"{self.path} is no translation memory ({error}); give another --memory file"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __len__(self) -> int:
        with closing(self.connection.execute("SELECT count(*) FROM units")) as rows:
            return int(rows.fetchone()[0])

    def add(self, pairs: Iterable[tuple[str, str]], direction: Direction, maker: str) -> None:
        """Remember translations, all or none; a new one of the same text replaces the old."""
        db = self.connection
        db.execute("BEGIN IMMEDIATE")
        try:
            for source, target in pairs:
                self.put(source, target, str(direction), maker)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def put(self, source: str, target: str, direction: str, maker: str) -> None:
        """Write one pair inside a transaction."""
        db = self.connection
        key = (direction, maker, source)
        where = "direction = ? AND maker = ? AND source = ?"
        with closing(db.execute(f"SELECT id FROM units WHERE {where}", key)) as rows:
            known = rows.fetchone()
        if known is not None:
            db.execute("UPDATE units SET target = ? WHERE id = ?", (target, known[0]))
            return
        with closing(
            db.execute(
                "INSERT INTO units (direction, maker, source, pattern, target) "
                "VALUES (?, ?, ?, ?, ?)",
                (*key, NUMBER.sub("0", source), target),
            )
        ) as rows:
            number = rows.lastrowid
        db.execute("INSERT INTO bags (rowid, bag) VALUES (?, ?)", (number, " ".join(terms(source))))

    def exact(self, text: str, direction: Direction, maker: str) -> Match | None:
        """The translation of this very text, or of one that differs in its numbers only."""
        for who in (HUMAN, maker):
            with closing(
                self.connection.execute(
                    "SELECT target FROM units WHERE direction = ? AND maker = ? AND source = ?",
                    (str(direction), who, text),
                )
            ) as rows:
                if found := rows.fetchone():
                    return Match(source=text, target=found[0], similarity=1.0)
        for who in (HUMAN, maker):
            if found_match := self.with_other_numbers(text, direction, who):
                return found_match
        return None

    def with_other_numbers(self, text: str, direction: Direction, maker: str) -> Match | None:
        """A translation whose source is the text but for its numbers, with the text's numbers."""
        wanted = NUMBER.findall(text)
        if not wanted:
            return None
        with closing(
            self.connection.execute(
                "SELECT source, target FROM units WHERE direction = ? AND maker = ? "
                "AND pattern = ? LIMIT 8",
                (str(direction), maker, NUMBER.sub("0", text)),
            )
        ) as rows:
            candidates = rows.fetchall()
        for source, target in candidates:
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
        words = [t.replace('"', "") for t in dict.fromkeys(terms(text))][:NUM_TERMS]
        if not words:
            return None
        query = " OR ".join(f'"{w}"' for w in words if w)
        with closing(
            self.connection.execute(
                "SELECT source, target FROM units JOIN (SELECT rowid, rank FROM bags "
                "WHERE bags MATCH ? ORDER BY rank LIMIT 200) AS hit ON hit.rowid = units.id "
                "WHERE direction = ? AND maker IN (?, ?) ORDER BY hit.rank LIMIT ?",
                (query, str(direction), HUMAN, maker, NUM_CANDIDATES),
            )
        ) as rows:
            candidates = rows.fetchall()
        best: Match | None = None
        for source, target in candidates:
            matcher = SequenceMatcher(None, text, source, autojunk=False)
            if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
                continue
            similarity = matcher.ratio()
            if similarity >= least and (best is None or similarity > best.similarity):
                best = Match(source=source, target=target, similarity=similarity)
        return best

"""What the stores in SQLite and in PostgreSQL share: states of documents, terms, vectors."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from chatglm.apps.knowledge.bm25 import weight
from chatglm.apps.knowledge.database import Database, marks
from chatglm.apps.knowledge.matrix import VectorMatrix
from chatglm.apps.knowledge.records import EVERYTHING, Chunk, Document, Filter, Passage, Scored
from chatglm.apps.knowledge.rows import (
    CHUNK_COLUMNS,
    CHUNKS,
    DOCUMENTS,
    TABLES,
    chunk_of,
    chunk_row,
    document_of,
)
from chatglm.apps.knowledge.words import terms as terms_of
from chatglm.apps.knowledge.writer import NOBODY, is_gone, this_writer

if TYPE_CHECKING:
    import numpy as np

MOST_ROWS = 20_000


class SqlStore(ABC):
    """A store in a SQL database; the index of terms is each database's own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.location = database.location
        database.create(TABLES)
        self.create_index()
        self._counted: tuple[int, dict[str, int]] = (-1, {})
        self._sizes: tuple[int, int, float] = (-1, 0, 1.0)

    # What each database does its own way

    @abstractmethod
    def create_index(self) -> None:
        """Make the index of terms."""

    @abstractmethod
    def add_terms(self, rows: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Index chunks by their terms."""

    @abstractmethod
    def drop_terms(self, document: int) -> None:
        """Take a document's chunks out of the index."""

    @abstractmethod
    def term_counts(self, terms: Iterable[str]) -> dict[str, int]:
        """In how many chunks each term occurs."""

    @abstractmethod
    def best(self, weights: dict[str, float], k: int, only: Filter = EVERYTHING) -> Scored:
        """The best k ready chunks by BM25 over weighted terms."""

    def add_vectors(self, rows: Sequence[tuple[int, np.ndarray]]) -> None:
        """Keep the unit vectors of chunks, in float16."""
        self.database.many(
            "INSERT INTO vector(chunk, data) VALUES (?, ?)",
            [(chunk, vector.astype("<f2").tobytes()) for chunk, vector in rows],
        )

    # Settings

    def setting(self, name: str) -> object:
        """A setting of the base; None where it was never set."""
        found = self.database.rows("SELECT value FROM setting WHERE name = ?", (name,))
        return json.loads(str(found[0][0])) if found else None

    def set(self, name: str, value: object) -> None:
        """Keep a setting."""
        self.database.rows(
            "INSERT INTO setting(name, value) VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, json.dumps(value, ensure_ascii=False)),
        )

    def revision(self) -> int:
        """A number that grows whenever what readers see changes."""
        return int(str(self.setting("revision") or 0))

    # Writing

    def begin(self, source: str, sha256: str, size: int) -> tuple[int, int]:
        """A document to add to and how many chunks it has, where an earlier try was cut off."""
        with self.database.transaction():
            resumed = None
            for row in self.database.rows(
                "SELECT id, sha256, writer FROM document WHERE source = ? AND state = 'adding' "
                "ORDER BY id",
                (source,),
            ):
                document, digest, writer = int(str(row[0])), str(row[1]), str(row[2])
                if not is_gone(writer):
                    continue
                if digest == sha256 and resumed is None:
                    resumed = document
                else:
                    self.forget(document)
            if resumed is not None:
                self.database.rows(
                    "UPDATE document SET writer = ? WHERE id = ?", (this_writer(), resumed)
                )
                found = self.database.rows(
                    "SELECT count(*) FROM chunk WHERE document = ?", (resumed,)
                )
                return resumed, int(str(found[0][0]))
            now = datetime.now(UTC).isoformat(timespec="seconds")
            values = (source, sha256, "adding", 0, size, now, this_writer())
            made = self.database.rows(
                "INSERT INTO document(source, sha256, state, num_chunks, size, added, writer) "
                f"VALUES ({marks(values)}) RETURNING id",
                values,
            )
            return int(str(made[0][0])), 0

    def extend(
        self, document: int, start: int, passages: Sequence[Passage], vectors: np.ndarray | None
    ) -> None:
        """Add passages at positions from `start` on; all of them or none."""
        indexed = [terms_of(passage.searchable) for passage in passages]
        with self.database.transaction():
            ids: list[int] = []
            for i, passage in enumerate(passages):
                values = chunk_row(document, start + i, passage, len(indexed[i]))
                made = self.database.rows(
                    f"INSERT INTO chunk({CHUNK_COLUMNS}) VALUES ({marks(values)}) RETURNING id",
                    values,
                )
                ids.append(int(str(made[0][0])))
            self.add_terms(list(zip(ids, indexed, strict=True)))
            if vectors is not None:
                self.add_vectors(list(zip(ids, vectors, strict=True)))

    def publish(self, document: int) -> None:
        """Make a document ready in one step, in place of the source's earlier version."""
        with self.database.transaction():
            for row in self.database.rows(
                "SELECT old.id FROM document AS old JOIN document AS new "
                "ON new.source = old.source WHERE new.id = ? AND old.state = 'ready'",
                (document,),
            ):
                self.forget(int(str(row[0])))
            self.database.rows(
                "UPDATE document SET state = 'ready', num_chunks = "
                "(SELECT count(*) FROM chunk WHERE document = ?) WHERE id = ?",
                (document, document),
            )
            self.set("revision", self.revision() + 1)

    def release(self, document: int) -> None:
        """Leave a document half done, for a later try to take over."""
        self.database.rows("UPDATE document SET writer = ? WHERE id = ?", (NOBODY, document))

    def remove(self, sources: Iterable[str]) -> int:
        """Forget documents; how many there were."""
        removed = 0
        with self.database.transaction():
            for source in sources:
                for row in self.database.rows(
                    "SELECT id FROM document WHERE source = ? AND state = 'ready'", (source,)
                ):
                    self.forget(int(str(row[0])))
                    removed += 1
            if removed:
                self.set("revision", self.revision() + 1)
        return removed

    def tidy(self) -> int:
        """Forget what writers that are gone left half done; how many documents."""
        with self.database.transaction():
            left = [
                int(str(row[0]))
                for row in self.database.rows(
                    "SELECT id, writer FROM document WHERE state = 'adding'"
                )
                if is_gone(str(row[1]))
            ]
            for document in left:
                self.forget(document)
        return len(left)

    def forget(self, document: int) -> None:
        """Delete a document with its chunks, terms and vectors, inside a transaction."""
        self.drop_terms(document)
        self.database.rows("DELETE FROM document WHERE id = ?", (document,))

    # Reading

    def documents(self) -> list[Document]:
        """The ready documents, by source."""
        return [document_of(row) for row in self.database.rows(DOCUMENTS)]

    def chunks(self, ids: Sequence[int]) -> list[Chunk]:
        """The ready chunks of these numbers, in their order."""
        if not ids:
            return []
        rows = self.database.rows(f"{CHUNKS} AND chunk.id IN ({marks(ids)})", tuple(ids))
        found = {int(str(row[0])): chunk_of(row) for row in rows}
        return [found[number] for number in ids if number in found]

    def all_chunks(self, documents: Sequence[int] = ()) -> Iterator[Chunk]:
        """The ready chunks, by document and position; of these documents where any is given."""
        for document in documents or [d.id for d in self.documents()]:
            for row in self.database.rows(
                f"{CHUNKS} AND document.id = ? ORDER BY chunk.position", (document,)
            ):
                yield chunk_of(row)

    def num_chunks(self) -> int:
        """How many chunks readers see."""
        return self.sizes()[0]

    def mean_length(self) -> float:
        """Terms of a chunk, on average."""
        return self.sizes()[1]

    def sizes(self) -> tuple[int, float]:
        """Number of ready chunks and their mean length, counted once per revision."""
        revision = self.revision()
        if self._sizes[0] != revision:
            count, mean = self.database.rows(
                "SELECT count(*), avg(chunk.num_terms) FROM chunk JOIN document "
                "ON document.id = chunk.document WHERE document.state = 'ready'"
            )[0]
            self._sizes = (revision, int(str(count)), float(str(mean or 1)))
        return self._sizes[1], self._sizes[2]

    def frequencies(self, terms: Iterable[str]) -> dict[str, int]:
        """In how many chunks each term occurs, asked once per revision."""
        revision = self.revision()
        if self._counted[0] != revision:
            self._counted = (revision, {})
        known, wanted = self._counted[1], list(terms)
        if unknown := [term for term in wanted if term not in known]:
            known.update(self.term_counts(unknown))
        return {term: known[term] for term in wanted}

    def lexical(self, terms: Sequence[str], k: int, only: Filter = EVERYTHING) -> Scored:
        """The best k chunks by BM25 over terms.

        Rare terms first, and no more of them once MOST_ROWS rows are touched: words that stand
        everywhere cost much and say little.
        """
        counts, total = self.frequencies(dict.fromkeys(terms)), self.num_chunks()
        weights: dict[str, float] = {}
        rows = 0
        for term in sorted((t for t in counts if counts[t]), key=lambda t: counts[t]):
            rows += counts[term]
            if weights and rows > MOST_ROWS:
                break
            weights[term] = weight(term, counts[term], total)
        return self.best(weights, k, only) if weights else []

    @cached_property
    def matrix(self) -> VectorMatrix:
        """The vectors in memory."""
        return VectorMatrix(self.database)

    def dense(self, vector: np.ndarray, k: int, only: Filter = EVERYTHING) -> Scored:
        """The best k chunks by the product with a unit vector."""
        return self.matrix.best(vector, k, only, self.revision())

    def condition(self, only: Filter) -> tuple[str, list[object]]:
        """A filter as SQL and its values."""
        parts = ["document.state = 'ready'"]
        values: list[object] = []
        for column, allowed in (
            ("document.source", only.sources),
            ("chunk.tag", only.tags),
            ("chunk.kind", only.kinds),
        ):
            if allowed:
                parts.append(f"{column} IN ({marks(allowed)})")
                values.extend(allowed)
        return " AND ".join(parts), values

    def check(self) -> str:
        """`ok`, or what the database says is wrong with itself."""
        return self.database.check()

    def close(self) -> None:
        """Give the connections back."""
        self.database.close()


def open_store(location: str) -> SqlStore:
    """The store at a `postgresql://…` address or in a SQLite file."""
    from chatglm.apps.knowledge.database import open_database

    database = open_database(location)
    if location.startswith(("postgresql://", "postgres://")):
        from chatglm.apps.knowledge.postgres import PostgresStore

        return PostgresStore(database)
    from chatglm.apps.knowledge.sqlite import SqliteStore

    return SqliteStore(database)

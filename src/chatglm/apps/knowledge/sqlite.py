"""A knowledge base in one SQLite file: write-ahead log, foreign keys, full text through FTS5."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chatglm.apps.knowledge.database import Database, Row, marks
from chatglm.apps.knowledge.records import EVERYTHING, Filter, Scored
from chatglm.apps.knowledge.store import SqlStore

BUSY_SECONDS = 60
RETRY_SECONDS = 0.01
_FULL_TEXT = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS word USING fts5(terms, tokenize='unicode61')",
    "CREATE VIRTUAL TABLE IF NOT EXISTS word_row USING fts5vocab(word, row)",
)


class SqliteDatabase(Database):
    """One file; several threads and processes may read and write it."""

    number = "INTEGER PRIMARY KEY AUTOINCREMENT"  # a cited number never means another chunk
    blob = "BLOB"

    def __init__(self, location: str) -> None:
        self.location = location
        self.local = threading.local()
        self.connections: list[sqlite3.Connection] = []
        self.lock = threading.Lock()
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        self.connection  # noqa: B018  (a file that is no database is told here)

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        found: sqlite3.Connection | None = getattr(self.local, "connection", None)
        if found is None:
            found = self.local.connection = self.connect()
            with self.lock:
                self.connections.append(found)
        return found

    def connect(self) -> sqlite3.Connection:
        """A new connection; ValueError where the file is no database, TimeoutError where it is
        busy.
        """
        try:
            connection = sqlite3.connect(
                self.location, BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self.keep_log(connection)
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA foreign_keys = ON")
            except BaseException:
                connection.close()
                raise
        except sqlite3.DatabaseError as error:
            if is_busy(error):
                raise self.busy() from error
            raise ValueError(
                f"{self.location} cannot be opened as a SQLite file ({error}); check its name and "
                "its directory's permissions"
            ) from error
        return connection

    def keep_log(self, connection: sqlite3.Connection) -> None:
        """Write ahead from now on. SQLite does not wait for others when it changes to the log, it
        says at once that the file is locked: processes that make a base together ask again.
        """
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > until:
                    raise
            time.sleep(RETRY_SECONDS)

    def busy(self) -> TimeoutError:
        """What to say of a file that others held for all the time one waits."""
        return TimeoutError(
            f"{self.location} is busy: another process has kept it locked for {BUSY_SECONDS} s; "
            "wait for that process or end it, then try again (nothing of the base is damaged)"
        )

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """What a statement gives."""
        try:
            return self.connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            if is_busy(error):
                raise self.busy() from error
            raise

    def many(self, statement: str, values: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of values."""
        try:
            self.connection.executemany(statement, values)
        except sqlite3.OperationalError as error:
            if is_busy(error):
                raise self.busy() from error
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; the write lock is taken at the start, so that it never fails midway."""
        self.rows("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.rows("COMMIT")

    def close(self) -> None:
        """Give all connections back."""
        with self.lock:
            for connection in self.connections:
                connection.close()
            self.connections.clear()
        self.local = threading.local()

    def drop(self) -> None:
        """Delete the file with its log, and close."""
        self.close()
        for ending in ("", "-wal", "-shm"):
            Path(f"{self.location}{ending}").unlink(missing_ok=True)

    def check(self) -> str:
        """`ok`, or the first fault of the file."""
        return str(self.rows("PRAGMA integrity_check(1)")[0][0])


def is_busy(error: sqlite3.Error) -> bool:
    """Whether others hold the file, and nothing is wrong with it."""
    code = getattr(error, "sqlite_errorcode", 0)  # errors of Python's own have none
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class SqliteStore(SqlStore):
    """The store in one file."""

    def create_index(self) -> None:
        """The full-text tables."""
        try:
            with self.database.transaction():
                for statement in _FULL_TEXT:
                    self.database.rows(statement)
        except sqlite3.OperationalError as error:
            if "fts5" not in str(error):
                raise
            raise ValueError(
                "this Python's SQLite lacks FTS5; use a Python that has it, or a base in PostgreSQL"
            ) from error

    def add_terms(self, rows: Sequence[tuple[int, Sequence[str]]]) -> None:
        """Index chunks by their terms."""
        self.database.many(
            "INSERT INTO word(rowid, terms) VALUES (?, ?)",
            [(chunk, " ".join(terms)) for chunk, terms in rows],
        )

    def drop_terms(self, document: int) -> None:
        """Take a document's chunks out of the index."""
        self.database.rows(
            "DELETE FROM word WHERE rowid IN (SELECT id FROM chunk WHERE document = ?)", (document,)
        )

    def term_counts(self, terms: Iterable[str]) -> dict[str, int]:
        """In how many chunks each term occurs."""
        counts = {}
        for term in terms:
            found = self.database.rows("SELECT doc FROM word_row WHERE term = ?", (term,))
            counts[term] = int(str(found[0][0])) if found else 0
        return counts

    def best(self, weights: dict[str, float], k: int, only: Filter = EVERYTHING) -> Scored:
        """The best k ready chunks by BM25."""
        # Quoted, a term is text to FTS5 and never an operator.
        query = " OR ".join(f'"{term}"' for term in weights)
        condition, values = self.condition(only)
        if only == EVERYTHING:
            found = self.database.rows(
                "SELECT rowid, -rank FROM word WHERE word MATCH ? ORDER BY rank LIMIT ?",
                (query, 2 * k),
            )
            ready = self.ready([int(str(row[0])) for row in found])
            kept = [(int(str(c)), float(str(s))) for c, s in found if int(str(c)) in ready]
            if len(kept) >= k or len(found) < 2 * k:
                return kept[:k]
        found = self.database.rows(
            "SELECT word.rowid, -bm25(word) FROM word JOIN chunk ON chunk.id = word.rowid "
            f"JOIN document ON document.id = chunk.document WHERE word MATCH ? AND {condition} "
            "ORDER BY bm25(word) LIMIT ?",
            (query, *values, k),
        )
        return [(int(str(chunk)), float(str(score))) for chunk, score in found]

    def ready(self, chunks: Sequence[int]) -> set[int]:
        """Which of these chunks readers may see."""
        return {
            int(str(row[0]))
            for row in self.database.rows(
                "SELECT chunk.id FROM chunk JOIN document ON document.id = chunk.document "
                f"WHERE document.state = 'ready' AND chunk.id IN ({marks(chunks)})",
                chunks,
            )
        }

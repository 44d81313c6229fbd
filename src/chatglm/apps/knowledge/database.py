"""One SQL database whatever it is: rows, transactions and the few words in which they differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

Row = tuple[object, ...]


class Database(ABC):
    """A connection per thread. Statements have `?` for a value, whatever the driver says.

    number: the type of a row's own number. blob: the type of bytes.
    """

    location: str
    number: str
    blob: str

    @abstractmethod
    def rows(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """What a statement gives; an empty list where it gives nothing."""

    @abstractmethod
    def many(self, statement: str, values: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of values."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """A `with` block that writes all or nothing, one writer at a time."""

    @abstractmethod
    def close(self) -> None:
        """Give all connections back."""

    @abstractmethod
    def drop(self) -> None:
        """Delete everything, and close."""

    @abstractmethod
    def check(self) -> str:
        """`ok`, or what the database says is wrong with itself."""

    def create(self, script: str) -> None:
        """Make the tables that are not there; {number} and {blob} are this database's types."""
        with self.transaction():
            for statement in script.format(number=self.number, blob=self.blob).split(";"):
                if statement.strip():
                    self.rows(statement)


def open_database(location: str) -> Database:
    """The database at a `postgresql://…` address or in a SQLite file."""
    if location.startswith(("postgresql://", "postgres://")):
        from chatglm.apps.knowledge.postgres import PostgresDatabase

        return PostgresDatabase(location)
    from chatglm.apps.knowledge.sqlite import SqliteDatabase

    return SqliteDatabase(location)


def marks(values: Sequence[object]) -> str:
    """`?, ?, ?` for as many values."""
    return ", ".join("?" * len(values))

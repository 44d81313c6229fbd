"""Records from files that people have; a bad one is named by file, line and reason."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from chatglm.data.kinds import BadRecord, Columns, Record, as_record
from chatglm.errors import missing_extra

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")
PACKED = (".zst", ".gz")
MOST_BYTES = 1 << 26
"""A line longer than this (64 MiB) is refused: it is no record, or a packed file made to fill the
memory.
"""

Bad = Callable[[str], None]
"""What is done with a bad record's sentence; the readers go on with the next."""


def find_files(paths: list[str]) -> list[Path]:
    """The files that are meant: files as given, and all known ones below a directory."""
    known = f"{', '.join(SUFFIXES)}, also {', '.join(PACKED)}"
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and kind_of(p)]
            if not inside:
                raise FileNotFoundError(f"{path} holds no file of a known kind; known: {known}")
            found += inside
        elif path.is_file():
            if not kind_of(path):
                raise ValueError(f"{path} is of no known kind; known: {known}")
            found.append(path)
        else:
            raise FileNotFoundError(
                f"no file or directory {path}; give text or conversations, e.g. corpus.jsonl"
            )
    return found


def kind_of(path: Path) -> str:
    """The suffix that says what is in a file, packed or not; empty for an unknown one."""
    name = path.name.removesuffix(".zst").removesuffix(".gz")
    suffix = Path(name).suffix
    return suffix if suffix in SUFFIXES else ""


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked."""
    with path.open("rb") as raw:
        yield unpack(raw, path)


def unpack(raw: BinaryIO, path: Path) -> BinaryIO:
    """The bytes inside a packed file."""
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise missing_extra(f"zstandard, which {path} needs,", "train") from error
        inner = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw)
        return io.BufferedReader(inner)
    return raw


def read_records(
    path: Path, *, columns: Columns | None = None, bad: Bad | None = None
) -> Iterator[Record]:
    """The records of a file.

    columns: names of the columns with question and answer, where they are not the usual ones. bad:
        gets the sentence of each bad record, and reading goes on; None raises it as a ValueError.
    """
    for where, item in read_items(path, bad):
        try:
            yield item if isinstance(item, Record) else as_record(item, where, columns)
        except ValueError as error:
            if bad is None:
                raise
            bad(str(error))


def read_items(path: Path, bad: Bad | None) -> Iterator[tuple[str, object]]:
    """Each record's place (file and line) and what the file says of it."""
    kind = kind_of(path)
    try:
        with open_bytes(path) as file:
            if kind in (".txt", ".md"):
                yield str(path), Record(text=decoded(file.read(), path), kind="text")
            elif kind == ".jsonl":
                yield from read_lines(file, path, bad)
            elif kind == ".json":
                yield from read_json(decoded(file.read(), path), path, bad)
            elif kind == ".parquet":
                yield from read_parquet(file, path)
            else:
                yield from read_table(file, path, "\t" if kind == ".tsv" else ",")
    except (gzip.BadGzipFile, EOFError) as error:
        raise BadRecord(f"{path} is damaged or cut off ({error})") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise BadRecord(f"{path} is damaged or cut off ({error})") from error
        raise


def decoded(data: bytes, path: Path) -> str:
    """The text of a whole file."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRecord(f"{path} is not UTF-8 at byte {error.start}; convert it") from error


def read_lines(file: BinaryIO, path: Path, bad: Bad | None) -> Iterator[tuple[str, object]]:
    """The objects of JSON lines."""
    number = 0
    while line := file.readline(MOST_BYTES):
        number += 1
        where = f"{path} line {number}"
        try:
            if len(line) == MOST_BYTES:
                raise BadRecord(f"{path} line {number} is longer than {MOST_BYTES >> 20} MiB")
            if not line.strip():
                continue
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            item = parsed(text, where)
        except UnicodeDecodeError as error:
            refuse(f"{where} is not UTF-8 at byte {error.start}; convert the file", bad)
        except ValueError as error:
            refuse(str(error), bad)
            if len(line) == MOST_BYTES:
                return
        else:
            yield where, item


def refuse(sentence: str, bad: Bad | None) -> None:
    """Hand a bad record's sentence on, or raise it."""
    if bad is None:
        raise BadRecord(sentence)
    bad(sentence)


def parsed(text: str, where: str) -> object:
    """A JSON value."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{where}: not JSON ({error})") from error


def read_json(text: str, path: Path, bad: Bad | None) -> Iterator[tuple[str, object]]:
    """The items of a JSON list, each with the line that it begins on; a file of JSON lines that is
    named .json is read as such.
    """
    start = re.match(r"\s*", text)
    assert start is not None
    if not text.startswith("[", start.end()):
        lines = io.BytesIO(text.encode("utf-8"))
        try:
            yield str(path), json.loads(text)
        except (ValueError, RecursionError):
            yield from read_lines(lines, path, bad)
        return
    decoder, at, line, counted = json.JSONDecoder(), start.end() + 1, 1, 0
    skip = re.compile(r"[\s,]*")
    while True:
        gap = skip.match(text, at)
        assert gap is not None
        at = gap.end()
        line, counted = line + text.count("\n", counted, at), at
        if text.startswith("]", at):
            return
        try:
            item, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"{path} line {line}: not JSON ({error})") from error
        yield f"{path} line {line}", item


def read_table(file: BinaryIO, path: Path, delimiter: str) -> Iterator[tuple[str, object]]:
    """The rows of a CSV file as objects by its column names."""
    csv.field_size_limit(min(MOST_BYTES, sys.maxsize))
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    rows = csv.DictReader(text, delimiter=delimiter)
    try:
        for row in rows:
            where = f"{path} line {rows.line_num}"
            if None in row:
                raise BadRecord(f"{where}: more fields than the header has columns")
            yield where, {key: value for key, value in row.items() if value is not None}
    except UnicodeDecodeError as error:
        raise BadRecord(f"{path} is not UTF-8 at byte {error.start}; convert it") from error
    except csv.Error as error:
        raise BadRecord(f"{path} line {rows.line_num}: {error}") from error
    finally:
        text.detach()


def read_parquet(file: BinaryIO, path: Path) -> Iterator[tuple[str, object]]:
    """The rows of a Parquet file as objects."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_extra(f"pyarrow, which {path} needs,", "train") from error
    number = 0
    try:
        source = io.BytesIO(file.read()) if path.suffix in PACKED else file
        for batch in parquet.ParquetFile(source).iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", drop_missing(row)
    except arrow.ArrowException as error:
        raise BadRecord(f"{path} is damaged or cut off ({error})") from error


def drop_missing(value: object) -> object:
    """The value without the keys that a table's other rows have."""
    if isinstance(value, dict):
        return {key: drop_missing(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [drop_missing(item) for item in value]
    return value

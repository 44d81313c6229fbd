"""Records of text or conversation from files that people have; a bad one is named by file, line
and reason.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from chatglm.messages import Message

SUFFIXES = (".jsonl", ".json", ".csv", ".txt", ".md")
PACKED = (".zst", ".gz")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A document, or a conversation; one of the two is empty."""

    text: str = ""
    messages: tuple[Message, ...] = ()


def find_files(paths: list[str]) -> list[Path]:
    """The files that are meant: files as given, and all known ones below a directory."""
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and kind_of(p)]
            if not inside:
                raise FileNotFoundError(
                    f"{path} holds no file of a known kind; known: {', '.join(SUFFIXES)}, also "
                    f"{', '.join(PACKED)}"
                )
            found += inside
        elif path.is_file():
            if not kind_of(path):
                raise ValueError(
                    f"{path} is of no known kind; known: {', '.join(SUFFIXES)}, also "
                    f"{', '.join(PACKED)}"
                )
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
def open_text(path: Path) -> Iterator[io.TextIOBase]:
    """A file's text, unpacked."""
    with path.open("rb") as raw:
        yield io.TextIOWrapper(unpack(raw, path), "utf-8")


def unpack(raw: BinaryIO, path: Path) -> BinaryIO:
    """The bytes inside a packed file."""
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise ImportError(f"{path} needs zstandard; pip install 'chatglm[train]'") from error
        return zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(raw)
    return raw


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file."""
    kind = kind_of(path)
    try:
        with open_text(path) as file:
            if kind in (".txt", ".md"):
                yield Record(text=file.read())
            elif kind == ".jsonl":
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield parse(line, f"{path} line {number}")
            elif kind == ".json":
                yield from parse_list(file.read(), path)
            else:
                yield from read_table(file, path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; convert it") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged or cut off ({error})") from error


def parse(line: str, where: str) -> Record:
    """One JSON object as a record."""
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    return as_record(data, where)


def parse_list(text: str, path: Path) -> Iterator[Record]:
    """The records of a JSON list."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    for number, item in enumerate(data if isinstance(data, list) else [data], start=1):
        yield as_record(item, f"{path} item {number}")


def read_table(file: io.TextIOBase, path: Path) -> Iterator[Record]:
    """The rows of a CSV file with a column `text`."""
    rows = csv.DictReader(file)
    if "text" not in (rows.fieldnames or []):
        raise ValueError(
            f"{path} line 1: no column 'text'; found {', '.join(rows.fieldnames or [])}"
        )
    for row in rows:
        yield Record(text=row["text"] or "")


def as_record(data: object, where: str) -> Record:
    """A record from `{"text": …}` or `{"messages": […]}`."""
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object, got {type(data).__name__}")
    if isinstance(data.get("text"), str):
        return Record(text=data["text"])
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError(
            f"{where}: 'text' and 'messages' are missing; expected "
            '{"text": "…"} or {"messages": […]}, see docs/data.md'
        )
    try:
        return Record(messages=tuple(Message.from_dict(m) for m in messages))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{where}: {error}") from error

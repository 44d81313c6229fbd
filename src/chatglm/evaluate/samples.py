"""Test sets as they come: jsonl of many keys, C-Eval's and CMMLU's csv layouts, folders of them."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

MAX_BYTES = 256 << 20
LETTERS = "ABCDEFGHIJ"
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with options; `answer` is the index of the right one. subject: its group."""

    question: str
    options: tuple[str, ...]
    answer: int
    subject: str = "all"


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A premise and texts that may follow it; `answer` is the index of the one that does."""

    premise: str
    options: tuple[str, ...]
    answer: int
    subject: str = "all"


def read_rows(path: str | Path) -> list[dict[str, object]]:
    """The objects of a jsonl file, or the rows of a csv file by their header."""
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES >> 20} MB; give a smaller test set")
    text = path.read_text("utf-8-sig")
    if path.suffix == ".csv":
        return [dict(row) for row in csv.DictReader(text.splitlines())]
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path} line {number}: no valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path} line {number}: expected an object, got {line[:40]}")
        rows.append(row)
    return rows


def read_pairs(path: str | Path, source: str, reference: str) -> list[dict[str, str]]:
    """Rows with a text and its reference, as strings; an error names the row that lacks one."""
    rows = []
    for number, row in enumerate(read_rows(path), 1):
        for key in (source, reference):
            if not isinstance(row.get(key), str) or not str(row[key]).strip():
                raise ValueError(f"{path} row {number}: {key!r} is missing")
        rows.append({key: str(value) for key, value in row.items()})
    return rows


def read_choices(path: str | Path) -> list[Choice]:
    """The questions of a file, or of all csv and jsonl files of a folder."""
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".csv", ".jsonl"))
        found = [choice for file in files for choice in read_choices(file)]
        if not found:
            raise FileNotFoundError(f"{path} has no csv or jsonl file of questions")
        return found
    subject = path.stem.removesuffix("_test").removesuffix("_val").removesuffix("_dev")
    return [
        as_choice(row, subject, f"{path} row {number}")
        for number, row in enumerate(read_rows(path), 1)
    ]


def as_choice(row: Mapping[str, object], subject: str, where: str) -> Choice:
    """A question from a row: `question`, `A`, `B`, …, `answer`, in capitals or not."""
    lower = {str(key).lower(): value for key, value in row.items()}
    options = [str(row[letter]) for letter in LETTERS if row.get(letter) not in (None, "")]
    answer = str(lower.get("answer", "")).strip().upper()
    if not lower.get("question") or len(options) < 2:
        raise ValueError(f"{where}: expected question, A, B, … and answer, got {sorted(row)}")
    if len(answer) != 1 or answer not in LETTERS[: len(options)]:
        raise ValueError(f"{where}: answer must be one of the letters, got {answer!r}")
    return Choice(
        question=str(lower["question"]),
        options=tuple(options),
        answer=LETTERS.index(answer),
        subject=str(lower.get("subject") or subject),
    )


def read_continuations(path: str | Path) -> list[Continuation]:
    """XCOPA's questions: what a premise came from, or what came of it."""
    found = []
    for number, row in enumerate(read_rows(path), 1):
        missing = [k for k in ("premise", "choice1", "choice2", "label") if k not in row]
        if missing:
            raise ValueError(f"{path} row {number}: {missing[0]!r} is missing")
        asks_cause = row.get("question") == "cause"
        word = "因为" if asks_cause else "所以"
        found.append(
            Continuation(
                premise=f"{str(row['premise']).rstrip('。')}，{word}",
                options=(str(row["choice1"]), str(row["choice2"])),
                answer=int(str(row["label"])),
                subject="cause" if asks_cause else "effect",
            )
        )
    return found


def sample(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """All items, or `limit` of them drawn by the seed, in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; leave it out for all")
    chosen = sorted(random.Random(seed).sample(range(len(items)), limit))
    return [items[i] for i in chosen]

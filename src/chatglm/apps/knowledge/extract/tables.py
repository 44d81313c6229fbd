"""FAQ tables: CSV, TSV, JSON lines and the rows of a sheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from chatglm.apps.knowledge.extract import UnreadableFile
from chatglm.apps.knowledge.extract.encoding import text_of
from chatglm.apps.knowledge.records import Passage
from chatglm.apps.knowledge.split import Block, passages

# Column names as people write them, in lower case, best first.
QUESTIONS = (
    "question",
    "问题",
    "标准问题",
    "标准问",
    "提问",
    "问",
    "query",
    "q",
    "faq",
    "title",
    "标题",
)
ANSWERS = (
    "answer",
    "答案",
    "标准答案",
    "回答",
    "回复",
    "答",
    "response",
    "reply",
    "a",
    "content",
    "内容",
)
VARIANTS = (
    "similar_questions",
    "相似问题",
    "相似问",
    "similar",
    "variants",
    "alternatives",
    "同义问法",
)
TAGS = ("category", "类别", "分类", "类目", "tag", "标签", "主题", "topic")
MOST_FIELD = 1_000_000


def column(names: Iterable[str], known: Sequence[str]) -> str | None:
    """The first known name among the columns, as it is written there."""
    found = {str(name).strip().lower(): name for name in names if name is not None}
    return next((found[name] for name in known if name in found), None)


def csv_table(path: Path) -> Iterator[Passage]:
    """The entries of a CSV or TSV file, whatever separates its columns."""
    text = text_of(path)
    head = text[:4096]
    first = head.split("\n", 1)[0]
    marks = {mark: first.count(mark) for mark in ",\t;；|"}
    separator = max(marks, key=lambda mark: marks[mark]) if any(marks.values()) else ","
    csv.field_size_limit(MOST_FIELD)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    numbered = ((f"第 {rows.line_num} 行", row) for row in checked_rows(rows, path.name))
    return table(numbered, path.name)


def checked_rows(rows: Iterable[list[str]], name: str) -> Iterator[list[str]]:
    """The rows; what csv cannot read is told with its line."""
    try:
        yield from rows
    except csv.Error as error:
        line = getattr(rows, "line_num", 0)
        raise UnreadableFile(
            f"{name} line {line}: {error}; close the quotes there and add the file again"
        ) from error


def table(rows: Iterable[tuple[str, Sequence[str]]], name: str) -> Iterator[Passage]:
    """The entries of rows with their places; the first row names the columns.

    Without a question and an answer among the names, each row is a text of `name：value` lines.
    """
    given = iter(rows)
    head = next((row for _, row in given if any(cell.strip() for cell in row)), None)
    if head is None:
        return
    names = [cell.strip() or f"列{i + 1}" for i, cell in enumerate(head)]
    is_faq = column(names, QUESTIONS) is not None and column(names, ANSWERS) is not None
    for place, row in given:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) > len(names) and any(cell.strip() for cell in row[len(names) :]):
            raise UnreadableFile(
                f"{name} {place} has {len(row)} columns and the first row {len(names)}; put quotes "
                "around cells that hold the separator"
            )
        record = dict(zip(names, row, strict=False))
        if is_faq and (entry := faq(record, place)) is not None:
            yield entry
        else:
            text = "\n".join(f"{key}：{value.strip()}" for key, value in record.items() if value)
            yield from passages([Block(text=text, place=place)])


def faq(record: Mapping[str, object], place: str) -> Passage | None:
    """A record as an FAQ entry; None where it has no question or no answer."""
    named = {key: column(record, known) for key, known in _COLUMNS.items()}
    question = str(record.get(named["question"] or "") or "").strip()
    answer = str(record.get(named["answer"] or "") or "").strip()
    if not question or not answer:
        return None
    variants = record.get(named["variants"] or "") or ()
    if isinstance(variants, str):
        for mark in "\n|｜;；":
            variants = variants.replace(mark, "\n")
        variants = variants.split("\n")
    if not isinstance(variants, list | tuple):
        variants = ()
    return Passage(
        kind="faq",
        question=question,
        variants=tuple(text for item in variants if (text := str(item).strip())),
        text=answer,
        place=place,
        tag=str(record.get(named["tag"] or "") or "").strip(),
    )


_COLUMNS = {"question": QUESTIONS, "answer": ANSWERS, "variants": VARIANTS, "tag": TAGS}


def json_lines(path: Path) -> Iterator[Passage]:
    """The records of a .jsonl file, or of a .json file with a list of them."""
    text = text_of(path)
    if path.suffix.lower() == ".json":
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(f"{path.name} is no JSON ({error}); correct it there") from error
        listed = data if isinstance(data, list) else [data]
        for number, record in enumerate(listed, start=1):
            yield from json_record(record, path.name, f"第 {number} 条")
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(
                f"{path.name} line {number} is no JSON ({error}); correct it there"
            ) from error
        yield from json_record(record, path.name, f"第 {number} 行")


def json_record(record: object, name: str, place: str) -> Iterator[Passage]:
    """The passages of a record: an FAQ entry, or its text."""
    if not isinstance(record, Mapping):
        raise UnreadableFile(
            f'{name} {place} is no object; expected {{"question": …, "answer": …}} or {{"text": …}}'
        )
    if (entry := faq(record, place)) is not None:
        yield entry
        return
    text = record.get("text") or record.get("content")
    if not isinstance(text, str) or not text.strip():
        raise UnreadableFile(
            f'{name} {place} lacks a text; expected {{"question": …, "answer": …}} or {{"text": …}}'
        )
    title = record.get("title")
    path = (title,) if isinstance(title, str) and title else ()
    yield from passages([Block(text=text, path=path, place=place)])

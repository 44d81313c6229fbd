"""Files as passages: which reader takes which file, and what no reader is allowed to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from chatglm.apps.knowledge.records import Passage

MAX_BYTES = 100_000_000
"""The largest file that is read; a book has 2 MB, a large FAQ table 20."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class UnreadableFile(ValueError):
    """A file that cannot become passages: which, why, what to do."""


def _reader(suffix: str) -> Callable[[Path], Iterator[Passage]] | None:
    """The function that reads files of a suffix; None for what is not known."""
    from chatglm.apps.knowledge.extract import markup, office, pdf, tables

    return {
        ".md": markup.markdown,
        ".markdown": markup.markdown,
        ".txt": markup.plain,
        ".text": markup.plain,
        ".html": markup.html,
        ".htm": markup.html,
        ".csv": tables.csv_table,
        ".tsv": tables.csv_table,
        ".jsonl": tables.json_lines,
        ".json": tables.json_lines,
        ".xlsx": office.xlsx,
        ".docx": office.docx,
        ".pdf": pdf.pdf,
    }.get(suffix.lower())


def is_known(path: Path) -> bool:
    """Whether there is a reader for this kind of file."""
    return _reader(path.suffix) is not None


def passages_of(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[Passage]:
    """The passages of a file; UnreadableFile in one sentence where there are none to be had."""
    read = _reader(path.suffix)
    if read is None:
        raise UnreadableFile(
            f"{path.name} is of no known kind; give .md, .txt, .html, .csv, .xlsx, .jsonl, .docx "
            "or .pdf"
        )
    size = path.stat().st_size
    if size > max_bytes:
        raise UnreadableFile(
            f"{path.name} has {size / 1e6:.0f} MB and the limit is {max_bytes / 1e6:.0f} MB; split "
            "it, or raise the limit with --max-megabytes"
        )
    found = False
    for passage in read(path):
        found = True
        yield cleaned(passage)
    if not found:
        raise UnreadableFile(f"{path.name} holds no text; is it empty, or made of images alone?")


def cleaned(passage: Passage) -> Passage:
    """The passage without what no database takes: zeros and halves of UTF-16 pairs."""
    if not _UNSTORABLE.search(passage.searchable):
        return passage
    return replace(
        passage,
        text=plain_text(passage.text),
        question=plain_text(passage.question),
        variants=tuple(map(plain_text, passage.variants)),
        path=tuple(map(plain_text, passage.path)),
        tag=plain_text(passage.tag),
    )


def plain_text(text: str) -> str:
    """The text without zeros, and with U+FFFD for halves of UTF-16 pairs."""
    return _UNSTORABLE.sub(lambda found: "" if found.group() == "\x00" else "\ufffd", text)

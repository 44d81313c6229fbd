"""Files as passages: which reader takes which file, and what no reader is allowed to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from chatglm.apps.knowledge.records import Passage

MAX_BYTES = 100_000_000
"""The largest file that is read; a book has 2 MB, a large FAQ table 20."""


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
        yield passage
    if not found:
        raise UnreadableFile(f"{path.name} holds no text; is it empty, or made of images alone?")

"""PDF files by page, through pypdf."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from chatglm.apps.knowledge.extract import UnreadableFile
from chatglm.apps.knowledge.records import Passage
from chatglm.apps.knowledge.split import Block, passages
from chatglm.errors import missing_extra

MAX_PAGES = 5_000
_SEAM = re.compile(r"(?<=[\u3400-\u9fff，、])\n(?=[\u3400-\u9fff])")


def pdf(path: Path) -> Iterator[Passage]:
    """The passages of a PDF, each with its page; scanned pages have none."""
    try:
        import pypdf
    except ImportError as error:
        raise missing_extra("pypdf", "apps") from error
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # damage is told once, by us
    blocks: list[Block] = []
    try:
        with pypdf.PdfReader(path) as reader:
            if reader.is_encrypted and not reader.decrypt(""):
                raise UnreadableFile(f"{path.name} is locked by a password; save it without one")
            if len(reader.pages) > MAX_PAGES:
                raise UnreadableFile(
                    f"{path.name} has {len(reader.pages)} pages and the limit is {MAX_PAGES}; "
                    "split it"
                )
            for number, page in enumerate(reader.pages, start=1):
                # Lines end where the paper does, and not where a Chinese sentence does.
                text = _SEAM.sub("", page.extract_text().strip())
                if text:
                    blocks.append(Block(text=text, place=f"第 {number} 页"))
    except UnreadableFile:
        raise
    except Exception as error:  # damage takes every shape inside a PDF reader
        raise UnreadableFile(
            f"{path.name} cannot be read as PDF ({type(error).__name__}: {error}); print it to a "
            "new PDF"
        ) from error
    if not blocks:
        raise UnreadableFile(
            f"{path.name} holds no text, only images of pages; run a text recognition (OCR) first"
        )
    return passages(blocks)

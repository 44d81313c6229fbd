"""Formats of documents: how each is read into what is translated and what stays."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Literal

from chatglm.apps.translate.formats import json_strings, markdown, plain, po, subtitles
from chatglm.apps.translate.formats.document import (
    Document,
    Reading,
    Segment,
    around,
    damaged,
)

__all__ = [
    "FORMATS",
    "Document",
    "Format",
    "Reading",
    "Segment",
    "damaged",
    "format_of",
    "reading",
]

Format = Literal["text", "markdown", "srt", "vtt", "json", "po"]
_READINGS: dict[Format, Reading] = {
    "text": around(plain.parse),
    "markdown": around(markdown.parse),
    "srt": around(subtitles.parse_srt),
    "vtt": around(subtitles.parse_vtt),
    "json": Reading(json_strings.parse, json_strings.frame),
    "po": Reading(po.parse, po.frame),
}
FORMATS: tuple[Format, ...] = tuple(_READINGS)
_SUFFIXES: dict[str, Format] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".rmd": "markdown",
    ".srt": "srt",
    ".vtt": "vtt",
    ".json": "json",
    ".po": "po",
    ".pot": "po",
}


def reading(name: str) -> Reading:
    """How a format is read."""
    for known, how in _READINGS.items():
        if known == name:
            return how
    raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")


def format_of(name: str, text: str = "") -> Format:
    """The format of a file, by its name, else by what it looks like."""
    if known := _SUFFIXES.get(PurePath(name).suffix.lower()):
        return known
    head = text.lstrip("\ufeff")
    if head.startswith("WEBVTT"):
        return "vtt"
    if re.match(r"\d+\s*\n\d+:\d\d:\d\d[,.]\d+ *-->", head):
        return "srt"
    return "text"

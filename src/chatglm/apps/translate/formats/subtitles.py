"""Subtitles, SubRip (.srt) and WebVTT (.vtt): numbers, times and settings stay."""

from __future__ import annotations

import re

from chatglm.apps.text import has_letters
from chatglm.apps.text_file import InvalidText
from chatglm.apps.translate.formats.document import Document, Piece, Segment
from chatglm.apps.translate.unit import Unit

_SRT_TIME = re.compile(r"\s*\d+:\d\d:\d\d[,.]\d{1,3}\s*-->\s*\d+:\d\d:\d\d[,.]\d{1,3}(?:\s.*)?$")
_VTT_TIME = re.compile(r"\s*(?:\d+:)?\d\d:\d\d\.\d{3}\s*-->\s*(?:\d+:)?\d\d:\d\d\.\d{3}(?:\s.*)?$")


def parse_srt(text: str, name: str) -> Document:
    """The document of SubRip subtitles; an InvalidText names the line of a damaged cue."""
    pieces: list[Piece] = []
    for first, rows in blocks(text):
        if not rows[0].strip():
            pieces += rows
            continue
        if not rows[0].strip().lstrip("\ufeff").isdigit():
            raise InvalidText(
                f"{name} line {first}: expected the number of a subtitle, got "
                f"{rows[0].strip()[:40]!r}"
            )
        if len(rows) < 2 or not _SRT_TIME.match(rows[1].rstrip("\n")):
            got = rows[1].strip()[:40] if len(rows) > 1 else "the end"
            raise InvalidText(
                f"{name} line {first + 1}: expected a time such as "
                f"00:00:01,000 --> 00:00:02,500, got {got!r}"
            )
        pieces += rows[:2]
        pieces += cue(rows[2:], first + 2)
    return Document(tuple(pieces))


def parse_vtt(text: str, name: str) -> Document:
    """The document of WebVTT subtitles; an InvalidText names the line of a damaged cue."""
    pieces: list[Piece] = []
    for first, rows in blocks(text):
        is_head = first == 1
        if is_head and not rows[0].lstrip("\ufeff").startswith("WEBVTT"):
            raise InvalidText(f"{name} line 1: expected WEBVTT, got {rows[0].strip()[:40]!r}")
        if is_head or not rows[0].strip() or rows[0].startswith(("NOTE", "STYLE", "REGION")):
            pieces += rows
            continue
        time = next((i for i, row in enumerate(rows[:2]) if "-->" in row), None)
        if time is None or not _VTT_TIME.match(rows[time].rstrip("\n")):
            raise InvalidText(
                f"{name} line {first + (time or 0)}: expected a time such as "
                f"00:01.000 --> 00:02.500, got {rows[time or 0].strip()[:40]!r}"
            )
        pieces += rows[: time + 1]
        pieces += cue(rows[time + 1 :], first + time + 1)
    return Document(tuple(pieces))


def blocks(text: str) -> list[tuple[int, list[str]]]:
    """Lines that stand together and runs of blank lines, each with its first line's number."""
    found: list[tuple[int, list[str]]] = []
    for number, row in enumerate(text.splitlines(keepends=True), 1):
        if found and bool(found[-1][1][-1].strip()) == bool(row.strip()):
            found[-1][1].append(row)
        else:
            found.append((number, [row]))
    return found


def cue(rows: list[str], line: int) -> list[Piece]:
    """The pieces of a subtitle's text: each line of it, so that there stay as many."""
    pieces: list[Piece] = []
    for i, row in enumerate(rows):
        core = row.strip()
        if not has_letters(core):
            pieces.append(row)
            continue
        dash = re.match(r"(?:[-–—]\s*)?", core)
        assert dash is not None
        start = row.index(core) + dash.end()
        core = core[dash.end() :]
        if start:
            pieces.append(row[:start])
        pieces.append(Segment(unit=Unit(core), raw=core, write=on_one_line, line=line + i))
        pieces.append(row[start + len(core) :])
    return [piece for piece in pieces if piece]


def on_one_line(text: str) -> str:
    """A subtitle's line without what would end it."""
    return " ".join(text.replace("-->", "→").split())

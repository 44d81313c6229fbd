"""A document as what is translated and what is not; the pieces join to the document again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatglm.apps.translate.unit import Unit


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A translatable piece.

    unit: its text as people read it. raw: its text in the document. write: how a translation is
    spelled in the document. line: where it stands, from 1.
    """

    unit: Unit
    raw: str
    write: Callable[[str], str] = str
    line: int = 1


Piece = str | Segment


@dataclass(frozen=True)
class Document:
    """The pieces of a document in order."""

    pieces: tuple[Piece, ...]

    @property
    def segments(self) -> list[Segment]:
        """What is to be translated."""
        return [piece for piece in self.pieces if isinstance(piece, Segment)]

    @property
    def frame(self) -> list[str]:
        """What is not, in order: the structure that a translation must keep."""
        return [piece for piece in self.pieces if isinstance(piece, str)]

    def render(self, texts: Sequence[str]) -> str:
        """The document with a text for each segment; an unchanged one is spelled as it was."""
        left = iter(texts)
        shown = []
        for piece in self.pieces:
            if isinstance(piece, str):
                shown.append(piece)
                continue
            text = next(left)
            shown.append(piece.raw if text == piece.unit.text else piece.write(text))
        return "".join(shown)


Parse = Callable[[str, str], Document]


@dataclass(frozen=True)
class Reading:
    """How a format is read.

    parse: text and its name → document. frame: what of a text a translation must leave alone.
    """

    parse: Parse
    frame: Callable[[str], list[str]]


def around(parse: Parse) -> Reading:
    """A format whose frame is all that is not translated, with the number of segments."""

    def frame(text: str) -> list[str]:
        document = parse(text, "the translation")
        return [*document.frame, str(len(document.segments))]

    return Reading(parse, frame)


def damaged(reading: Reading, document: Document, texts: Sequence[str]) -> set[int]:
    """Segments whose translations break the document's structure.

    The rendered document is read again and must have the same frame; where it has not, halves are
    tried until the culprits stand alone.
    """
    originals = [segment.unit.text for segment in document.segments]
    frame = reading.frame(document.render(originals))

    def is_whole(start: int, stop: int) -> bool:
        trial = [*originals[:start], *texts[start:stop], *originals[stop:]]
        try:
            return reading.frame(document.render(trial)) == frame
        except ValueError:
            return False

    def culprits(start: int, stop: int) -> set[int]:
        if is_whole(start, stop):
            return set()
        if stop - start == 1:
            return {start}
        middle = (start + stop) // 2
        return culprits(start, middle) | culprits(middle, stop)

    found = culprits(0, len(texts))
    left = [originals[i] if i in found else text for i, text in enumerate(texts)]
    if reading.frame(document.render(left)) != frame:
        return set(range(len(texts)))
    return found

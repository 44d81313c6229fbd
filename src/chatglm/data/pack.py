"""Examples into rows of one length; attention never crosses from one example to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from chatglm.data.example import NO_LOSS, Example, Ids


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Packed rows (R, T): tokens, labels, positions (R, 2, T), documents (which example of the row
    a token belongs to) and prefix (bool, context that its whole example sees).
    """

    tokens: Ids
    labels: Ids
    positions: Ids
    documents: Ids
    prefix: np.ndarray


def cut(example: Example, start: int, stop: int) -> Example:
    """A piece of an example; positions of plain text start again at 0."""
    positions = example.positions[:, start:stop]
    if example.may_be_cut:
        positions = positions - positions[:, :1]
    return Example(
        tokens=example.tokens[start:stop],
        labels=example.labels[start:stop],
        positions=positions,
        prefix=min(max(example.prefix - start, 0), stop - start),
        may_be_cut=example.may_be_cut,
    )


class Packer:
    """Fills rows from a stream of examples.

    An example that may be cut fills a row to its end and goes on in the next; any other starts a
    new row where it does not fit, and is cut only if it is longer than a row. Nothing is dropped.
    `pending` tells how many tokens of the last example drawn are still to come; a stream that
    gives that example again can go on from there.
    """

    def __init__(self, draw: Callable[[], Example], length: int, pad: int) -> None:
        self.draw = draw
        self.length = length
        self.pad = pad
        self.rest: Example | None = None

    @property
    def pending(self) -> int:
        """Tokens of the last example that no row holds yet."""
        return 0 if self.rest is None else len(self.rest)

    def restore(self, example: Example, pending: int) -> None:
        """Go on with the last `pending` tokens of the example that was drawn last."""
        self.rest = cut(example, len(example) - pending, len(example)) if pending else None

    def rows(self, count: int) -> Rows:
        """The next `count` rows."""
        shape = (count, self.length)
        tokens = np.full(shape, self.pad, np.int64)
        labels = np.full(shape, NO_LOSS, np.int64)
        positions = np.zeros((count, 2, self.length), np.int64)
        documents = np.full(shape, -1, np.int64)
        prefix = np.zeros(shape, bool)
        for row in range(count):
            for number, (at, piece) in enumerate(self.row()):
                span = slice(at, at + len(piece))
                tokens[row, span] = piece.tokens
                labels[row, span] = piece.labels
                positions[row, :, span] = piece.positions
                documents[row, span] = number
                prefix[row, at : at + piece.prefix] = True
        return Rows(
            tokens=tokens, labels=labels, positions=positions, documents=documents, prefix=prefix
        )

    def row(self) -> list[tuple[int, Example]]:
        """Pieces of one row with their places."""
        placed: list[tuple[int, Example]] = []
        at = 0
        while at < self.length:
            example = self.rest if self.rest is not None else self.draw()
            self.rest = None
            room = self.length - at
            if len(example) > room:
                if not example.may_be_cut and at:
                    self.rest = example  # begins the next row; the end of this one stays padding
                    return placed
                self.rest = cut(example, room, len(example))
                example = cut(example, 0, room)
            placed.append((at, example))
            at += len(example)
        return placed

"""Whole passes over a set of examples, in an order that a resumed run finds again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatglm.data.example import NO_LOSS, Example
from chatglm.data.examples import Item
from chatglm.data.pack import Rows

# Examples of about equal length are looked for among this many batches.
_WINDOW = 32
# Rows are as long as a multiple of this.
MULTIPLE = 16


@dataclass(frozen=True, kw_only=True)
class Share:
    """A source's items `start` to `start + count`, of which `take` are drawn in an epoch."""

    start: int
    count: int
    take: int


def shares_of(sizes: Sequence[int], weights: Sequence[float | None]) -> list[Share]:
    """Each source once an epoch, or by weight where weights are given: an epoch then is as long as
    all of them together.
    """
    total = sum(sizes)
    if all(weight is None for weight in weights):
        takes = list(sizes)
    else:
        known = [1.0 if weight is None else weight for weight in weights]
        if sum(known) <= 0:
            raise ValueError("the weights of the sources are all 0; give at least one more")
        takes = [round(total * weight / sum(known)) for weight in known]
    starts = np.cumsum([0, *sizes])
    return [
        Share(start=int(start), count=size, take=take)
        for start, size, take in zip(starts, sizes, takes, strict=False)
    ]


class Epochs:
    """Batches of items: each epoch in a new order, the last batch of it as short as what is left.

    length: None puts each example into a row of its own, and batches hold examples of about equal
    length where `by_length` says so; a number packs them into rows of so many tokens.
    """

    def __init__(
        self,
        items: Sequence[Item],
        shares: Sequence[Share],
        *,
        rows: int,
        seed: int,
        length: int | None = None,
        by_length: bool = True,
    ) -> None:
        self.items = items
        self.shares = shares
        self.rows = rows
        self.seed = seed
        self.length = length
        self.by_length = by_length
        self.epoch = 0
        self.at = 0
        self.plans: tuple[int, list[list[list[int]]]] | None = None

    def batches(self, epoch: int) -> list[list[list[int]]]:
        """The batches of an epoch: rows of item numbers."""
        if self.plans is None or self.plans[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(np.concatenate([self.drawn(s, epoch) for s in self.shares]))
            if self.length is not None:
                rows = self.packed(order.tolist(), self.length, rng)
            else:
                rows = [[i] for i in (self.grouped(order, rng) if self.by_length else order)]
            cut = [rows[i : i + self.rows] for i in range(0, len(rows), self.rows)]
            if self.by_length and self.length is None:
                cut = [cut[i] for i in rng.permutation(len(cut))]
            self.plans = (epoch, cut)
        return self.plans[1]

    def drawn(self, share: Share, epoch: int) -> np.ndarray:
        """Items of a source in an epoch: a stretch of its endless passes, each in its own order."""
        if not share.count or not share.take:
            return np.empty(0, np.int64)
        first = epoch * share.take
        passes = range(first // share.count, -(-(first + share.take) // share.count))
        orders = [
            np.random.default_rng((self.seed, share.start, number)).permutation(share.count)
            for number in passes
        ]
        skip = first - passes.start * share.count
        return share.start + np.concatenate(orders)[skip : skip + share.take]

    def size(self, item: int) -> int:
        """Tokens of an item's longest example."""
        return max(len(example) for example in self.items[item])

    def grouped(self, order: np.ndarray, rng: np.random.Generator) -> list[int]:
        """The order with examples of about equal length beside each other."""
        window = self.rows * _WINDOW
        found: list[int] = []
        for start in range(0, len(order), window):
            part = order[start : start + window].tolist()
            found += sorted(part, key=self.size, reverse=True)
        return found

    def packed(self, order: list[int], length: int, rng: np.random.Generator) -> list[list[int]]:
        """Rows of at most `length` tokens; each example goes where the least room is left over."""
        rows: list[list[int]] = []
        room: list[int] = []
        for start in range(0, len(order), self.rows * _WINDOW):
            part = order[start : start + self.rows * _WINDOW]
            first = len(rows)
            for item in sorted(part, key=self.size, reverse=True):
                size = self.size(item)
                fits = [(room[r], r) for r in range(first, len(rows)) if room[r] >= size]
                if fits:
                    _, row = min(fits)
                else:
                    row = len(rows)
                    rows.append([])
                    room.append(length)
                rows[row].append(item)
                room[row] -= size
        return [rows[i] for i in rng.permutation(len(rows))]

    def next(self) -> list[list[int]]:
        """The rows of the next batch."""
        batches = self.batches(self.epoch)
        batch = batches[self.at]
        self.at += 1
        if self.at == len(batches):
            self.epoch, self.at = self.epoch + 1, 0
        return batch

    def state(self) -> dict[str, object]:
        """Plain data; `load_state` on the same examples goes on from here."""
        return {"epoch": self.epoch, "batch": self.at, "items": len(self.items)}

    def load_state(self, state: dict[str, object]) -> None:
        """Continue as if the batches before had been read here."""
        if state.get("items") != len(self.items):
            raise ValueError(
                f"the checkpoint was made with {state.get('items')} examples and the data has "
                f"{len(self.items)}; give the same data, or start in a new output directory"
            )
        self.epoch, self.at = int(str(state["epoch"])), int(str(state["batch"]))


def rounded(length: int) -> int:
    """A length as rows have it, so that few shapes occur: for each new one oneDNN and torch.compile
    make code of its own, which takes time and stays in memory.
    """
    return -(-length // MULTIPLE) * MULTIPLE


def fill_rows(rows: Sequence[Sequence[Example]], pad: int) -> Rows:
    """Rows of examples side by side, padded to a rounded length."""
    length = rounded(max(sum(len(example) for example in row) for row in rows))
    shape = (len(rows), length)
    tokens = np.full(shape, pad, np.int64)
    labels = np.full(shape, NO_LOSS, np.int64)
    positions = np.zeros((len(rows), 2, length), np.int64)
    documents = np.full(shape, -1, np.int64)
    prefix = np.zeros(shape, bool)
    for number, row in enumerate(rows):
        at = 0
        for document, example in enumerate(row):
            span = slice(at, at + len(example))
            tokens[number, span] = example.tokens
            labels[number, span] = example.labels
            positions[number, :, span] = example.positions
            documents[number, span] = document
            prefix[number, at : at + example.prefix] = True
            at += len(example)
    return Rows(
        tokens=tokens, labels=labels, positions=positions, documents=documents, prefix=prefix
    )

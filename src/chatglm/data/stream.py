"""Examples from several prepared directories, mixed by weight, in an order that a resumed run
finds again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from chatglm.data.blank import BlankConfig, BlankIds, blank_example, longest_text
from chatglm.data.example import Example, causal_example, chat_example
from chatglm.data.masked import masked_example
from chatglm.data.pack import Packer, Rows
from chatglm.data.shards import Documents

Build = Callable[[Documents, int, np.random.Generator], Example]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Documents, what is made of each, and the share of tokens that is drawn from here."""

    documents: Documents
    build: Build
    weight: float


def causal_build(end: int) -> Build:
    """Whole documents for next-token prediction."""
    return lambda documents, index, rng: causal_example(documents[index], end)


def chat_build() -> Build:
    """Conversations with their loss mask."""
    return lambda documents, index, rng: chat_example(documents[index], documents.learnt(index))


def blank_build(
    ids: BlankIds, config: BlankConfig, length: int, sentence_ends: frozenset[int]
) -> Build:
    """Documents, or a random window of a long one, with blanks."""
    most = longest_text(length, config)

    def build(documents: Documents, index: int, rng: np.random.Generator) -> Example:
        text = window(documents[index], most, rng)
        return blank_example(text, ids, config, rng, sentence_ends)

    return build


def masked_build(mask: int, num_words: int, length: int) -> Build:
    """Documents, or a random window of a long one, with masked words."""
    return lambda documents, index, rng: masked_example(
        window(documents[index], length, rng), mask, num_words, rng
    )


def window(text: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """The text, or a random part of `most` tokens of it."""
    if len(text) <= most:
        return text
    start = int(rng.integers(0, len(text) - most + 1))
    return text[start : start + most]


class Stream:
    """Packed rows of a mix; what comes next depends on the seed and on how many examples were
    drawn before.

    Documents of an origin come in a new random order in each of its epochs.
    """

    def __init__(self, origins: list[Origin], *, length: int, pad: int, seed: int) -> None:
        if not any(len(origin.documents) for origin in origins):
            raise ValueError("the sources hold no documents; prepare them again")
        self.origins = origins
        self.seed = seed
        sizes = [o.documents.num_tokens / max(len(o.documents), 1) for o in origins]
        rates = np.array([o.weight / s if s else 0.0 for o, s in zip(origins, sizes, strict=True)])
        self.rates = rates / rates.sum()
        self.cursors = [0] * len(origins)
        self.num_drawn = 0
        self.orders: dict[int, tuple[int, np.ndarray]] = {}
        self.packer = Packer(self.draw, length, pad)

    def rows(self, count: int) -> Rows:
        """The next `count` packed rows."""
        return self.packer.rows(count)

    def draw(self) -> Example:
        """The next example of the mix."""
        rng = np.random.default_rng((self.seed, self.num_drawn))
        which = int(rng.choice(len(self.origins), p=self.rates))
        self.num_drawn += 1
        cursor = self.cursors[which]
        self.cursors[which] += 1
        return self.make(which, cursor, rng)

    def make(self, which: int, cursor: int, rng: np.random.Generator) -> Example:
        """The example that origin `which` gives as its number `cursor`."""
        origin = self.origins[which]
        epoch, at = divmod(cursor, len(origin.documents))
        if which not in self.orders or self.orders[which][0] != epoch:
            order = np.random.default_rng((self.seed, which, epoch)).permutation(
                len(origin.documents)
            )
            self.orders[which] = (epoch, order)
        return origin.build(origin.documents, int(self.orders[which][1][at]), rng)

    def state(self) -> dict[str, object]:
        """Plain data; `load_state` on a stream of the same settings goes on from here."""
        return {
            "drawn": self.num_drawn,
            "cursors": list(self.cursors),
            "pending": self.packer.pending,
        }

    def load_state(self, state: dict[str, object]) -> None:
        """Continue as if the rows before had been read here."""
        cursors, drawn = state["cursors"], state["drawn"]
        pending = state["pending"]
        assert isinstance(cursors, list)
        assert isinstance(drawn, int)
        assert isinstance(pending, int)
        if len(cursors) != len(self.origins):
            raise ValueError(
                f"the checkpoint was made with {len(cursors)} sources and the recipe has "
                f"{len(self.origins)}; "
                "give the same ones, or start from its weights in a new output directory"
            )
        self.cursors = [int(c) for c in cursors]
        self.num_drawn = drawn
        if pending:  # draw the last example once more
            rng = np.random.default_rng((self.seed, drawn - 1))
            which = int(rng.choice(len(self.origins), p=self.rates))
            example = self.make(which, self.cursors[which] - 1, rng)
            self.packer.restore(example, pending)
        else:
            self.packer.rest = None

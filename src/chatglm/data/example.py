"""One training example, whatever the objective."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
NO_LOSS = -100


@dataclass(frozen=True, kw_only=True)
class Example:
    """tokens, labels (T,), labels −100 = no loss; positions (2, T), of which a 1-D model reads the
    sums; prefix: number of leading tokens that all of the example
    sees; may_be_cut: whether a packer may cut it in two.
    """

    tokens: Ids
    labels: Ids
    positions: Ids
    prefix: int = 0
    may_be_cut: bool = False

    def __len__(self) -> int:
        return len(self.tokens)


def counting(length: int) -> Ids:
    """Positions (2, T) of plain left to right."""
    return np.stack([np.arange(length), np.zeros(length, np.int64)])


def causal_example(tokens: Ids, end: int) -> Example:
    """Predict every next token of a document, its end token included."""
    tokens = np.append(tokens, end)
    labels = np.append(tokens[1:], NO_LOSS)
    return Example(tokens=tokens, labels=labels, positions=counting(len(tokens)), may_be_cut=True)


def chat_example(tokens: Ids, learnt: NDArray[np.bool_]) -> Example:
    """Predict what the assistant says; learnt: which tokens the model has to produce."""
    labels = np.append(np.where(learnt[1:], tokens[1:], NO_LOSS), NO_LOSS)
    return Example(tokens=tokens, labels=labels, positions=counting(len(tokens)))

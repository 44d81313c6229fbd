"""BERT's masked words (arXiv:1810.04805, §3.1)."""

from __future__ import annotations

import numpy as np

from chatglm.data.example import NO_LOSS, Example, Ids, counting


def masked_example(
    text: Ids, mask: int, num_words: int, rng: np.random.Generator, *, share: float = 0.15
) -> Example:
    """Predict `share` of the tokens in place, seeing the whole text: 80 % masked, 10 % another
    word, 10 % as it is.
    """
    chosen = rng.permutation(len(text))[: max(1, round(share * len(text)))]
    tokens = text.copy()
    labels = np.full(len(text), NO_LOSS, np.int64)
    labels[chosen] = text[chosen]
    kind = rng.random(len(chosen))
    tokens[chosen[kind < 0.8]] = mask
    others = chosen[(kind >= 0.8) & (kind < 0.9)]
    tokens[others] = rng.integers(0, num_words, len(others))
    return Example(tokens=tokens, labels=labels, positions=counting(len(text)), prefix=len(text))

"""What the network is asked: tokens, how many of them are context, and which position is being
filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Tokens, the length of the context and the blank to fill.

    tokens: ids in the model's own layout.
    prefix: number of leading tokens that see each other in both directions; 0 for a causal model.
    hole: index of the [MASK] or [gMASK] that the tokens after the prefix fill; None for plain left
        to right.
    """

    tokens: tuple[int, ...]
    prefix: int = 0
    hole: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.prefix <= len(self.tokens):
            raise ValueError(
                f"prefix must lie between 0 and the {len(self.tokens)} tokens, got {self.prefix}"
            )
        if self.hole is not None and not 0 <= self.hole < max(self.prefix, 1):
            raise ValueError(
                f"hole must be an index inside the {self.prefix} context tokens, got {self.hole}"
            )


def place(index: int, *, prefix: int, hole: int | None) -> tuple[int, int]:
    """Position ids of token `index`: place in the text, place in the span (GLM, arXiv:2103.10360,
    §2.1).

    Context counts up in the first plane and stays 0 in the second; what fills a hole keeps the
    hole's place in the first and counts from 1 in the second.
    """
    if hole is None:
        return (index, 0) if index < prefix or prefix == 0 else (prefix - 1, index - prefix + 1)
    return (index, 0) if index < prefix else (hole, index - prefix + 1)


def positions(prompt: Prompt, length: int, planes: int, start: int = 0) -> list[list[int]]:
    """Position ids (P, length - start) of the tokens `start` to `length`, in the prompt and after
    it. A single plane has the sums of the two: it counts up, and what fills a hole counts on from
    there, so that what stands around the hole is near.
    """
    if planes == 1 and prompt.hole is None:
        return [list(range(start, length))]
    pairs: Sequence[tuple[int, int]] = [
        place(i, prefix=prompt.prefix, hole=prompt.hole) for i in range(start, length)
    ]
    if planes == 1:
        return [[p + q for p, q in pairs]]
    return [[p for p, _ in pairs], [q for _, q in pairs]]

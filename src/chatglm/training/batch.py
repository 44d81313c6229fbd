"""Rows of packed examples as tensors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """tokens, labels (B, T), labels −100 = no loss; positions (B, P, T); documents (B, T), which
    example a token belongs to; prefix (B, T) bool, True for context that its whole example sees,
    or None where all is causal.
    """

    tokens: Tensor
    labels: Tensor
    positions: Tensor
    documents: Tensor
    prefix: Tensor | None = None

    def split(self, rows: int) -> list[Batch]:
        """Micro-batches of `rows` rows each."""
        return [
            Batch(
                tokens=self.tokens[i : i + rows],
                labels=self.labels[i : i + rows],
                positions=self.positions[i : i + rows],
                documents=self.documents[i : i + rows],
                prefix=None if self.prefix is None else self.prefix[i : i + rows],
            )
            for i in range(0, len(self.tokens), rows)
        ]

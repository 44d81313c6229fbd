"""Rows of examples as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from chatglm.data.epochs import rounded
from chatglm.model import document_mask


@dataclass(frozen=True, kw_only=True)
class Batch:
    """tokens, labels (B, T), labels −100 = no loss; positions (B, P, T); documents (B, T), which
    example a token belongs to, −1 = padding; prefix (B, T) bool, True for context that its whole
    example sees, or None where all is causal.

    extras: (B, …) tensors that an objective asks for, by name. is_padded: rows end in padding,
    which micro-batches that do not need it leave out. is_plain: each row is one example, read
    from left to right, so that no mask is needed: padding stands behind all that looks.
    """

    tokens: Tensor
    labels: Tensor
    positions: Tensor
    documents: Tensor
    prefix: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    is_padded: bool = False
    is_plain: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens that are read; packed rows are counted whole."""
        return int((self.documents >= 0).sum()) if self.is_padded else self.tokens.numel()

    @property
    def num_targets(self) -> int:
        """Tokens that are learnt."""
        return int((self.labels != -100).sum())

    def mask(self) -> Tensor | None:
        """Who may look at whom (B, 1, T, T); None where that is plainly causal."""
        return None if self.is_plain else document_mask(self.documents, self.prefix)

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed in the same way."""
        changed = {
            f.name: change(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        extras = {name: change(tensor) for name, tensor in self.extras.items()}
        return replace(self, **changed, extras=extras)  # type: ignore[arg-type]

    def split(self, rows: int) -> list[Batch]:
        """Micro-batches of `rows` rows each."""
        parts = [
            self.each(lambda tensor, i=i: tensor[i : i + rows])  # type: ignore[misc]
            for i in range(0, len(self.tokens), rows)
        ]
        return [part.trimmed() for part in parts] if self.is_padded else parts

    def trimmed(self) -> Batch:
        """Without the columns that are padding in every row, to a rounded length."""
        length = rounded(max(int((self.documents >= 0).sum(1).max()), 1))
        return replace(
            self,
            tokens=self.tokens[:, :length],
            labels=self.labels[:, :length],
            positions=self.positions[..., :length],
            documents=self.documents[:, :length],
            prefix=None if self.prefix is None else self.prefix[:, :length],
        )

    def shared_out(self, rank: int, size: int, *, together: int = 1) -> Batch:
        """The rows of one of `size` processes; all get equally many, rows without targets where
        there are too few. together: rows that belong together, as the two answers of a pair.
        """
        if size == 1:
            return self
        groups = -(-len(self.tokens) // together)
        padded = -(-groups // size) * size
        wanted = torch.arange(rank, padded, size)
        rows = (wanted[:, None] * together + torch.arange(together)).flatten()
        is_real = rows < len(self.tokens)
        part = self.each(lambda tensor: tensor[torch.where(is_real, rows, rows % together)])
        return replace(part, labels=torch.where(is_real[:, None], part.labels, -100))

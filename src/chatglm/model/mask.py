"""Who may look at whom: boolean masks (B, 1, T, S), True = may look."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(
    length: int, total: int | None = None, *, device: torch.device | None = None
) -> Tensor:
    """Each of the last `length` of `total` tokens sees itself and those before: (1, 1, T, S)."""
    total = length if total is None else total
    rows = torch.arange(total - length, total, device=device)  # (T,)
    columns = torch.arange(total, device=device)  # (S,)
    return (columns[None, :] <= rows[:, None])[None, None]


def prefix_mask(prefix: Tensor, length: int) -> Tensor:
    """Causal, and the first `prefix` (B,) tokens of each row are seen by all: (B, 1, T, T)."""
    columns = torch.arange(length, device=prefix.device)
    return causal_mask(length, device=prefix.device) | (columns < prefix[:, None])[:, None, None]


def document_mask(documents: Tensor, prefix: Tensor | None = None) -> Tensor:
    """Causal inside each document of packed rows: (B, 1, T, T).

    documents: (B, T), the number of the document that a token belongs to.
    prefix: (B, T) bool, True for context tokens, which their whole document sees.
    """
    same = documents[:, None, :, None] == documents[:, None, None, :]  # (B, 1, T, T)
    seen = causal_mask(documents.shape[1], device=documents.device)
    if prefix is not None:
        seen = seen | prefix[:, None, None, :]
    return same & seen

"""Cross-entropy whose gradient is made together with the loss, so that logits are never kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ROWS = 64  # whose probabilities exist in float32 at once: they stay in the cache


def word_loss(hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int) -> Tensor:
    """Cross-entropy of labels (N,) under hidden states (N, C) and a head (V, C), summed, in
    float32; chunk: tokens whose logits exist at once (0: all).

    The products have the precision of autocast, as a linear would.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    loss: Tensor = WordLoss.apply(hidden, weight, labels, chunk or max(len(labels), 1), dtype)
    return loss


class WordLoss(torch.autograd.Function):
    """Loss and gradients in one pass over the words."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, dtype: torch.dtype
    ) -> Tensor:
        """()."""
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        dhidden = torch.empty_like(hidden) if wants_hidden else None
        dweight: Tensor | None = None
        head = weight.to(dtype)
        total = torch.zeros((), device=hidden.device)
        for at in range(0, len(labels), chunk):
            part = slice(at, at + chunk)
            states = hidden[part].to(dtype)
            logits = F.linear(states, head)  # (n, V)
            total += loss_and_gradient(logits, labels[part])
            if dhidden is not None:
                dhidden[part] = logits @ head
            if wants_weight:
                product = logits.t() @ states  # (V, C)
                dweight = product.to(weight.dtype) if dweight is None else dweight.add_(product)
        ctx.save_for_backward(dhidden, dweight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the hidden states and of the head."""
        dhidden, dweight = (None if d is None else d.mul_(dy) for d in ctx.saved_tensors)
        return dhidden, dweight, None, None, None


def loss_and_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss (); the logits (n, V) become its gradient."""
    total = torch.zeros((), device=logits.device)
    for rows, wanted in zip(logits.split(ROWS), labels.split(ROWS), strict=True):
        counts = wanted != -100
        at = torch.where(counts, wanted, 0)[:, None]
        scores = rows.float()  # (64, V)
        odds = scores.softmax(-1)
        # The largest of the odds is at least 1 / V: its logarithm is exact where theirs may be −∞.
        sums = scores.amax(-1) - odds.amax(-1).log()
        total += ((sums - scores.gather(1, at)[:, 0]) * counts).sum()
        odds.scatter_add_(1, at, -odds.new_ones(at.shape))
        if not bool(counts.all()):
            odds.mul_(counts[:, None])
        rows.copy_(odds)
    return total

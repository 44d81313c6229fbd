"""Attention for training in bfloat16 on a processor, where PyTorch's own takes most of a step.

PyTorch's kernel multiplies in float32. Here the products are oneDNN's in bfloat16, a block of
queries at a time, over no more keys than the block may see; query heads that share a key head lie
below each other in one product. Softmax is computed in float32, its arguments and results are
bfloat16. The way back computes the scores again, so that nothing of size T² is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128  # queries of a head at a time


def fits(q: Tensor) -> bool:
    """Whether this is faster than PyTorch's attention."""
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """What q (B, H, T, D) reads of k, v (B, G, S, D): (B, H, T, D); mask (B, 1, T, S), None =
    causal.
    """
    y: Tensor = Blocked.apply(q * q.shape[-1] ** -0.5, k, v, mask)
    return y


class Blocked(torch.autograd.Function):
    """Softmax of the scores of scaled queries, times the values."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, T, D)."""
        ctx.save_for_backward(q, k, v, mask)
        y = torch.empty_like(q)
        values = v.flatten(0, 1)  # (B·G, S, D)
        for part, seen, p in weights(q, k, mask):
            y[:, :, part] = torch.bmm(p, values[:, :seen]).view(y[:, :, part].shape)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of q, k and v."""
        q, k, v, mask = ctx.saved_tensors
        dq = torch.empty_like(q)
        keys, values = k.flatten(0, 1), v.flatten(0, 1)  # (B·G, S, D)
        dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (keys, values))
        for part, seen, p in weights(q, k, mask):
            d, asked = below(dy[:, :, part], k), below(q[:, :, part], k)  # (B·G, R·t, D)
            dp = torch.bmm(d, values[:, :seen].transpose(1, 2))  # (B·G, R·t, S)
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
            dq[:, :, part] = torch.bmm(ds, keys[:, :seen]).view(dq[:, :, part].shape)
            dk[:, :seen] += torch.bmm(ds.transpose(1, 2), asked)
            dv[:, :seen] += torch.bmm(p.transpose(1, 2), d)
        return dq, dk.to(k.dtype).view(k.shape), dv.to(v.dtype).view(v.shape), None


def weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, int, Tensor]]:
    """Blocks of queries, how many keys each may see, and how much it reads of them
    (B·G, R·t, S).
    """
    length, num_shared = q.shape[2], q.shape[1] // k.shape[1]
    keys = k.flatten(0, 1).transpose(1, 2)  # (B·G, D, S)
    for start in range(0, length, BLOCK):
        part = slice(start, min(start + BLOCK, length))
        count = part.stop - start
        seen = part.stop if mask is None else k.shape[2]
        scores = torch.bmm(below(q[:, :, part], k), keys[:, :, :seen])
        by_head = scores.view(len(q), -1, num_shared, count, seen)
        if mask is None:
            ahead = scores.new_full((count, count), -torch.inf).triu_(1)
            by_head[..., start:] += ahead
        else:
            by_head.masked_fill_(~mask[:, :, None, part], -torch.inf)
        yield part, seen, scores.softmax(-1)


def below(x: Tensor, k: Tensor) -> Tensor:
    """Heads of x (B, H, t, D) that share a key head of k below each other: (B·G, R·t, D)."""
    return x.reshape(len(x) * k.shape[1], -1, x.shape[-1])

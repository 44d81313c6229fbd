"""A product with quantized weights that gradients pass through: the weights are unpacked again on
the way back, and never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Blocks = Callable[[torch.dtype], Iterator[Tensor]]
"""The rows of a weight in a dtype, block by block, in order."""


class FrozenProduct(torch.autograd.Function):
    """x (…, columns) times the rows of a weight that gets no gradient: (…, rows)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: Blocks) -> Tensor:
        """Only the means to unpack the weight is remembered."""
        ctx.blocks, ctx.dtype = blocks, x.dtype
        parts = [torch.nn.functional.linear(x, rows) for rows in blocks(x.dtype)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient of x, summed over the blocks in float32."""
        (gradient,) = gradients
        total: Tensor | None = None
        at = 0
        for rows in ctx.blocks(gradient.dtype):
            part = (gradient[..., at : at + len(rows)] @ rows).float()
            at += len(rows)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.to(ctx.dtype), None


def frozen_product(x: Tensor, blocks: Blocks) -> Tensor:
    """x (…, columns) times the rows that `blocks` gives: (…, rows); under autocast in its dtype."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    y: Tensor = FrozenProduct.apply(x, blocks)
    return y

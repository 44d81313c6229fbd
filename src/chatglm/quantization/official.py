"""ChatGLM's own quantized layout: int8 or int4 rows with a float16 scale each.

int4 keeps two signed nibbles in a byte, the even column in the high one. The packed weights stay
as they are in the file and are unpacked where they are used, so that saving gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from chatglm.quantization.frozen import frozen_product


def unpack(weight: Tensor, columns: int) -> Tensor:
    """Signed integers (rows, columns) int8 of a packed weight: int8 as it is, int4 from its
    nibbles.
    """
    if weight.shape[1] == columns:
        return weight
    high = weight >> 4  # arithmetic: keeps the sign
    low = (weight << 4) >> 4
    return torch.stack((high, low), -1).flatten(1)


class OfficialLinear(nn.Module):
    """A linear over packed rows: weight (rows, columns) or (rows, columns / 2) int8, weight_scale
    (rows,).
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: bool, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.bias = nn.Parameter(torch.empty(weight.shape[0])) if bias else None
        self.weight: Tensor
        self.weight_scale: Tensor

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight (rows, columns) in `dtype`."""
        return unpack(self.weight, self.columns).to(dtype) * self.weight_scale.to(dtype)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """(…, columns) → (…, rows)."""
        y = frozen_product(x, self.blocks) * self.weight_scale.to(x.dtype)
        return y if self.bias is None else y + self.bias

    def blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weight's whole numbers in `dtype`, without the scale."""
        yield unpack(self.weight, self.columns).to(dtype)


class OfficialEmbedding(nn.Module):
    """A table of packed rows, as in chatglm-6b-int4-qe."""

    def __init__(self, weight: Tensor, scale: Tensor, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.columns, self.dtype = columns, dtype
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.weight: Tensor
        self.weight_scale: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows (…, columns) of ids (…)."""
        rows = unpack(self.weight[tokens.flatten()], self.columns).to(self.dtype)
        scale = self.weight_scale[tokens.flatten()].to(self.dtype)
        return (rows * scale[:, None]).view(*tokens.shape, self.columns)

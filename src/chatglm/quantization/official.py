"""ChatGLM's own quantized layout: int8 or int4 rows with a float16 scale each.

int4 keeps two signed nibbles in a byte, the even column in the high one. Two modules compute with
it: one as the official code does, which unpacks the weight for each product, and one by the native
kernels, many times faster, which round inputs to 8 bits. Saving gives the same bytes from both.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from chatglm.quantization.embedding import QuantizedEmbedding
from chatglm.quantization.frozen import frozen_product
from chatglm.quantization.linear import Integers, QuantizedLinear, to_tiles
from chatglm.quantization.tiles import BLOCK, Bits, up_to
from chatglm.quantization.tiles import unpack as unpack_tiles


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
        self.rows, self.columns = weight.shape[0], columns
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.bias = nn.Parameter(torch.empty(weight.shape[0])) if bias else None
        self.weight: Tensor
        self.weight_scale: Tensor

    def is_whole(self) -> bool:
        """Whether all tensors are there."""
        return not any(t.is_meta for t in self.state_dict().values())

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


class OfficialTiles(QuantizedLinear):
    """The same weight in tiles: a row is one group."""

    def official(self, name: str) -> Tensor:
        """The tensor of that name as the file has it."""
        if name == "weight_scale":
            return self.integers.scale[:, 0].contiguous()
        values = unpack_tiles(self.weight, self.bits)[: self.rows, : self.columns]
        signed = (values.to(torch.int16) - 2 ** (self.bits - 1)).to(torch.int8)
        if self.bits == 8:
            return signed.contiguous()
        return (signed[:, ::2] << 4) | (signed[:, 1::2] & 15)


class OfficialTable(OfficialTiles, QuantizedEmbedding):
    """A table of packed rows in tiles."""


class OfficialEmbedding(OfficialLinear):
    """A table of packed rows, as in chatglm-6b-int4-qe."""

    def __init__(self, weight: Tensor, scale: Tensor, columns: int, dtype: torch.dtype) -> None:
        super().__init__(weight, scale, bias=False, columns=columns)
        self.dtype = dtype

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows (…, columns) of ids (…)."""
        rows = unpack(self.weight[tokens.flatten()], self.columns).to(self.dtype)
        scale = self.weight_scale[tokens.flatten()].to(self.dtype)
        return (rows * scale[:, None]).view(*tokens.shape, self.columns)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores (…, rows) of words after hidden states (…, columns)."""
        return super().forward(hidden)


def in_tiles(linear: OfficialLinear) -> OfficialTiles:
    """An official linear or table for the native kernels, of which the weight's numbers are the
    same.
    """
    rows, columns = linear.weight.shape[0], linear.columns
    bits: Bits = 8 if linear.weight.shape[1] == columns else 4
    values = unpack(linear.weight, columns).to(torch.int16) + 2 ** (bits - 1)
    integers = Integers(values.to(torch.uint8), linear.weight_scale[:, None], None)
    group = up_to(columns, BLOCK)
    size = rows, columns, bits, group
    if isinstance(linear, OfficialEmbedding):
        return OfficialTable(to_tiles(integers, bits), *size, dtype=linear.dtype)
    tiles = OfficialTiles(to_tiles(integers, bits), *size, bias=False)
    tiles.bias = linear.bias
    return tiles

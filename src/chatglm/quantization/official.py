"""ChatGLM's own quantized layout: int8 or int4 rows with a float16 scale each.

int4 keeps two signed nibbles in a byte, the even column in the high one. Where the native kernels
compute with a weight, its bytes are put in the order of their tiles, in place; saving gives those
of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from chatglm.quantization import native
from chatglm.quantization.frozen import frozen_product
from chatglm.quantization.linear import is_native, tiles_at_once
from chatglm.quantization.tiles import BLOCK, TILE, Bits
from chatglm.quantization.tiles import pack as pack_tiles
from chatglm.quantization.tiles import unpack as unpack_tiles

ALL = slice(None)


def unpack(weight: Tensor, columns: int) -> Tensor:
    """Signed integers (rows, columns) int8 of a packed weight: int8 as it is, int4 from its
    nibbles.
    """
    if weight.shape[1] == columns:
        return weight
    high = weight >> 4  # arithmetic: keeps the sign
    low = (weight << 4) >> 4
    return torch.stack((high, low), -1).flatten(1)


def pack(integers: Tensor, bits: Bits) -> Tensor:
    """The packed weight of signed integers (rows, columns) int8."""
    if bits == 8:
        return integers
    return integers[:, ::2] << 4 | (integers[:, 1::2] & 15)


class OfficialLinear(nn.Module):
    """A linear over packed rows: weight (rows, columns) or (rows, columns / 2) int8, weight_scale
    (rows,).

    is_tiled: whether the bytes of `weight` are in the order of the kernels' tiles.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: bool, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.is_tiled = False
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.bias = nn.Parameter(torch.empty(weight.shape[0])) if bias else None
        self.weight: Tensor
        self.weight_scale: Tensor

    @property
    def bits(self) -> Bits:
        """Bits of a weight."""
        return 8 if self.weight.shape[1] == self.columns else 4

    @property
    def fills_tiles(self) -> bool:
        """Whether the kernels' tiles need not be filled up, so that they take no more bytes."""
        return self.weight.shape[0] % TILE == 0 and self.columns % BLOCK == 0

    def integers(self, tiles: slice = ALL) -> Tensor:
        """Signed integers (rows, columns) int8, of some tiles of rows or of all."""
        if not self.is_tiled:
            start, stop, _ = tiles.indices(-(-self.weight.shape[0] // TILE))
            return unpack(self.weight[start * TILE : stop * TILE], self.columns)
        packed = self.weight.view(torch.uint8).view(-1, TILE * self.weight.shape[1])[tiles]
        return (unpack_tiles(packed, self.bits) - 2 ** (self.bits - 1)).view(torch.int8)

    def as_in_file(self) -> Tensor:
        """The weight in the file's order."""
        return pack(self.integers(), self.bits) if self.is_tiled else self.weight

    @torch.no_grad()
    def to_tiles(self) -> None:
        """Put the bytes in the order of the kernels' tiles; a tile's rows have them all."""
        if self.is_tiled:
            return
        weight = self.weight.contiguous()
        packed = weight.view(torch.uint8).view(-1, TILE * weight.shape[1])
        step = tiles_at_once(self.columns)
        for at in range(0, len(packed), step):
            whole = self.integers(slice(at, at + step)).view(torch.uint8) + 2 ** (self.bits - 1)
            if self.bits == 4:
                whole &= 15
            packed[at : at + step] = pack_tiles(whole, self.bits)
        self.weight, self.is_tiled = weight, True

    def for_kernels(self) -> native.Weight:
        """The weight and the bias as the native kernels take them; only where tiles are filled."""
        self.to_tiles()
        rows = self.weight.shape[0]
        return native.whole_weight(
            self.weight.view(torch.uint8).view(rows // TILE, -1),
            self.weight_scale.half().view(rows // TILE, 1, TILE),
            None,
            rows=rows,
            columns=self.columns,
            bits=self.bits,
            group=self.columns,
            bias=self.bias,
        )

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight (rows, columns) in `dtype`."""
        return self.integers().to(dtype) * self.weight_scale.to(dtype)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """(…, columns) → (…, rows)."""
        if self.fills_tiles and is_native(x):
            y = native.linear(x.reshape(-1, self.columns), self.for_kernels())
            return y.to(x.dtype).view(*x.shape[:-1], -1)
        y = frozen_product(x, self.blocks) * self.weight_scale.to(x.dtype)
        return y if self.bias is None else y + self.bias

    def blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weight's whole numbers in `dtype`, without the scale."""
        step = tiles_at_once(self.columns)
        for at in range(0, -(-self.weight.shape[0] // TILE), step):
            yield self.integers(slice(at, at + step)).to(dtype)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:  # who asks for the variables themselves does not read them
            destination[f"{prefix}weight"] = self.as_in_file()

    def _load_from_state_dict(self, *arguments: Any, **settings: Any) -> None:
        self.is_tiled = False
        super()._load_from_state_dict(*arguments, **settings)


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

"""The table of words in few bits, in the tiles of a linear, which it is where it is the output head
as well: one set of tiles serves both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatglm.quantization.linear import Packed, QuantizedLinear, dequantize
from chatglm.quantization.tiles import TILE, Bits, pack_groups


class QuantizedEmbedding(QuantizedLinear):
    """A linear from hidden states to scores of words, called for the rows of words."""

    def __init__(
        self,
        packed: Packed,
        rows: int,
        columns: int,
        bits: Bits,
        group: int,
        *,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(packed, rows, columns, bits, group, bias=False)
        self.dtype = dtype

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows (…, columns) of ids (…); nothing else of the table is unpacked."""
        ids = tokens.flatten()
        size = len(ids), self.columns, self.bits, self.group
        rows = dequantize(picked(self.packed, ids), *size, torch.float32)
        return rows.to(self.dtype).view(*tokens.shape, self.columns)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores (…, rows) of words after hidden states (…, columns)."""
        return super().forward(hidden)


def picked(packed: Packed, rows: Tensor) -> Packed:
    """Rows (N,) of a weight in tiles of their own, in that order."""
    tile, lane = rows // TILE, rows % TILE

    def some(numbers: Tensor) -> Tensor:
        return pack_groups(numbers[tile, :, lane])  # of (tiles, n, 16)

    words = some(packed.weight.view(torch.int32).unflatten(1, (-1, TILE)))
    zero = None if packed.zero is None else some(packed.zero)
    return Packed(words.flatten(1).view(torch.uint8), some(packed.scale), zero)

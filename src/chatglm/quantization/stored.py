"""Quantized linears and tables of words as they lie in a file: row by row, whatever the kernels'
tiles are.

weight: uint8, (rows, columns) for 8 bits; for 4, two columns to a byte, the even one in its low
half; for 6, four columns to three bytes, which from the lowest bit on hold one after the other.
weight_scale: float16 (rows, groups). weight_zero: uint8 (rows, groups), where the scheme is
not symmetric. The number is (weight − zero) · scale, zero being half of what the bits hold unless
stored.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.quantization.embedding import QuantizedEmbedding
from chatglm.quantization.linear import Integers, QuantizedLinear, to_tiles
from chatglm.quantization.official import OfficialTiles
from chatglm.quantization.scheme import Scheme
from chatglm.quantization.tiles import BLOCK, Bits, unpack, unpack_groups, up_to


class StoredWeight(nn.Module):
    """The place of a quantized linear or table while its tensors come from a file one by one."""

    def __init__(self, module: nn.Module, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        self.is_table = isinstance(module, nn.Embedding)
        self.rows, self.columns = module.get_parameter("weight").shape
        groups = -(-self.columns // scheme.group)
        width = row_bytes(self.columns, scheme.bits)
        with torch.device("meta"):
            self.register_buffer("weight", torch.empty(self.rows, width, dtype=torch.uint8))
            scale = torch.empty(self.rows, groups, dtype=torch.float16)
            self.register_buffer("weight_scale", scale)
            if not scheme.symmetric:
                zero = torch.empty(self.rows, groups, dtype=torch.uint8)
                self.register_buffer("weight_zero", zero)
        self.bias = module.bias if isinstance(module, nn.Linear) else None

    def is_whole(self) -> bool:
        """Whether all tensors are there."""
        return not any(t.is_meta for t in self.state_dict().values())

    def in_tiles(self, dtype: torch.dtype) -> QuantizedLinear:
        """The module that computes, a table in `dtype`; a ValueError where a tensor is not what
        this format has.
        """
        parts = dict(self.named_buffers())
        for name, kind in (("weight", torch.uint8), ("weight_scale", torch.float16)):
            if parts[name].dtype != kind:
                raise ValueError(f"{name} is {parts[name].dtype}, expected {kind}")
        bits, group = self.scheme.bits, self.scheme.group
        zero = parts.get("weight_zero")
        if zero is not None and (zero.dtype != torch.uint8 or int(zero.max()) >= 2**bits):
            raise ValueError(f"weight_zero must be uint8 below {2**bits}, got {zero.dtype}")
        if not bool(parts["weight_scale"].isfinite().all()):
            raise ValueError("weight_scale must be finite, got infinity or NaN")
        values = from_bytes(parts["weight"], bits)[:, : self.columns]
        missing = up_to(up_to(self.columns, BLOCK), group) // group - parts["weight_scale"].shape[1]
        scale = F.pad(parts["weight_scale"], (0, missing))
        zero = None if zero is None else F.pad(zero, (0, missing))
        tiles = to_tiles(Integers(values, scale, zero), bits)
        size = self.rows, self.columns, bits, group
        if self.is_table:
            return QuantizedEmbedding(tiles, *size, dtype=dtype)
        linear = QuantizedLinear(tiles, *size, bias=False)
        linear.bias = self.bias
        return linear


def row_bytes(columns: int, bits: Bits) -> int:
    """Bytes of a row of numbers; the last byte, or three of 6 bits, are filled up."""
    at_once = 8 // math.gcd(8, bits)
    return -(-columns // at_once) * at_once * bits // 8


def to_bytes(values: Tensor, bits: Bits) -> Tensor:
    """Rows of whole numbers (rows, columns) uint8 with no bits between them."""
    if bits == 8:
        return values.contiguous()
    if bits == 4:
        even = F.pad(values, (0, values.shape[1] % 2))
        return even[:, ::2] | even[:, 1::2] << 4
    a, b, c, d = F.pad(values, (0, -values.shape[1] % 4)).unflatten(1, (-1, 4)).unbind(2)
    return torch.stack((a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2), 2).flatten(1)


def from_bytes(rows: Tensor, bits: Bits) -> Tensor:
    """What `to_bytes` was given, and what fills its rows up."""
    if bits == 8:
        return rows
    if bits == 4:
        return torch.stack((rows & 15, rows >> 4), -1).flatten(1)
    a, b, c = rows.unflatten(1, (-1, 3)).unbind(2)
    parts = (a & 63, a >> 6 | (b & 15) << 2, b >> 4 | (c & 3) << 4, c >> 2)
    return torch.stack(parts, 2).flatten(1)


def stored_part(linear: QuantizedLinear, name: str) -> Tensor:
    """A tensor of a linear as a file has it, by its name without the linear's."""
    if isinstance(linear, OfficialTiles) and name != "bias":
        return linear.official(name)
    packed, rows, columns = linear.packed, linear.rows, linear.columns
    if name == "weight":
        return to_bytes(unpack(packed.weight, linear.bits)[:rows, :columns], linear.bits)
    groups = -(-columns // linear.group)
    if name == "weight_scale":
        return unpack_groups(packed.scale)[:rows, :groups].contiguous()
    if name == "weight_zero":
        assert packed.zero is not None
        return unpack_groups(packed.zero)[:rows, :groups].contiguous()
    tensor: Tensor = linear.get_parameter(name).detach()
    return tensor

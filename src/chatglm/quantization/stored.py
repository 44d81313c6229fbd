"""Quantized linears as they lie in a file: row by row, whatever the kernels' tiles are.

weight: uint8, (rows, columns) for 8 bits; for 4, two columns to a byte, the even one in its low
half. weight_scale: float16 (rows, groups). weight_zero: uint8 (rows, groups), where the scheme is
not symmetric. The number is (weight − zero) · scale, zero being half of what the bits hold unless
stored.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.quantization.linear import Integers, QuantizedLinear, to_tiles
from chatglm.quantization.official import OfficialTiles
from chatglm.quantization.scheme import Scheme
from chatglm.quantization.tiles import BLOCK, unpack, unpack_groups, up_to


class StoredLinear(nn.Module):
    """The place of a quantized linear while its tensors come from a file one by one."""

    def __init__(self, linear: nn.Linear, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        self.rows, self.columns = linear.weight.shape
        groups = -(-self.columns // scheme.group)
        width = self.columns if scheme.bits == 8 else -(-self.columns // 2)
        with torch.device("meta"):
            self.register_buffer("weight", torch.empty(self.rows, width, dtype=torch.uint8))
            scale = torch.empty(self.rows, groups, dtype=torch.float16)
            self.register_buffer("weight_scale", scale)
            if not scheme.symmetric:
                zero = torch.empty(self.rows, groups, dtype=torch.uint8)
                self.register_buffer("weight_zero", zero)
        self.bias = linear.bias

    def is_whole(self) -> bool:
        """Whether all tensors are there."""
        return not any(t.is_meta for t in self.state_dict().values())

    def in_tiles(self) -> QuantizedLinear:
        """The linear that computes; a ValueError where a tensor is not what this format has."""
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
        values = parts["weight"]
        if bits == 4:
            values = torch.stack((values & 15, values >> 4), -1).flatten(1)[:, : self.columns]
        missing = up_to(up_to(self.columns, BLOCK), group) // group - parts["weight_scale"].shape[1]
        scale = F.pad(parts["weight_scale"], (0, missing))
        zero = None if zero is None else F.pad(zero, (0, missing))
        tiles = to_tiles(Integers(values, scale, zero), bits)
        linear = QuantizedLinear(tiles, self.rows, self.columns, bits, group, bias=False)
        linear.bias = self.bias
        return linear


def stored_part(linear: QuantizedLinear, name: str) -> Tensor:
    """A tensor of a linear as a file has it, by its name without the linear's."""
    if isinstance(linear, OfficialTiles) and name != "bias":
        return linear.official(name)
    packed, rows, columns = linear.packed, linear.rows, linear.columns
    if name == "weight":
        values = unpack(packed.weight, linear.bits)[:rows, :columns]
        if linear.bits == 8:
            return values.contiguous()
        even = F.pad(values, (0, columns % 2))
        return even[:, ::2] | even[:, 1::2] << 4
    groups = -(-columns // linear.group)
    if name == "weight_scale":
        return unpack_groups(packed.scale)[:rows, :groups].contiguous()
    if name == "weight_zero":
        assert packed.zero is not None
        return unpack_groups(packed.zero)[:rows, :groups].contiguous()
    tensor: Tensor = linear.get_parameter(name).detach()
    return tensor

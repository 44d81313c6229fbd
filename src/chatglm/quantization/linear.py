"""Linears of few bits: int8 and int6 with a float16 scale for 64 columns of a row, int4 for 32;
other groups, and zero points, where they are asked for. They lie in the tiles of
`chatglm.quantization.tiles`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.quantization import native, pages
from chatglm.quantization.frozen import frozen_product
from chatglm.quantization.tiles import (
    BLOCK,
    TILE,
    Bits,
    pack,
    pack_groups,
    unpack,
    unpack_groups,
    up_to,
)

GROUP: dict[Bits, int] = {8: 64, 6: 64, 4: 32}
# Weights that exist in float32 at once while quantizing or computing: 4 MiB, which also
# stay in the cache between one operator and the next.
_CHUNK_ELEMENTS = 1 << 20
# What the farthest value of a group becomes: −8 first, which the other sign does not have.
_WAYS = (-8.0, *(-6.4 - 0.28 * i for i in range(10)), *(6.2 + 0.3 * i for i in range(5)))


class Integers(NamedTuple):
    """A weight in whole numbers: (values − zero) · scale.

    values: uint8 (rows, columns), below 2 ** bits. scale: float16 (rows, groups). zero: uint8
    (rows, groups), or None for half of what the bits hold.
    """

    values: Tensor
    scale: Tensor
    zero: Tensor | None = None


class Packed(NamedTuple):
    """The same in tiles: weight uint8 (tiles, bytes), scale and zero (tiles, groups, 16)."""

    weight: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def part(self, tiles: slice) -> Packed:
        """Some of the tiles."""
        zero = None if self.zero is None else self.zero[tiles]
        return Packed(self.weight[tiles], self.scale[tiles], zero)


class QuantizedLinear(nn.Module):
    """A linear over quantized rows; `bits` is 8, 6 or 4, `group` the columns that share a scale."""

    def __init__(
        self, packed: Packed, rows: int, columns: int, bits: Bits, group: int, *, bias: bool
    ) -> None:
        super().__init__()
        self.rows, self.columns, self.bits, self.group = rows, columns, bits, group
        self.register_buffer("weight", packed.weight)
        self.register_buffer("weight_scale", packed.scale)
        self.register_buffer("weight_zero", packed.zero)
        self.weight: Tensor
        self.weight_scale: Tensor
        self.weight_zero: Tensor | None
        self.bias = nn.Parameter(torch.empty(rows, device="meta")) if bias else None

    @property
    def packed(self) -> Packed:
        """What is kept of the weight."""
        return Packed(self.weight, self.weight_scale, self.weight_zero)

    @property
    def integers(self) -> Integers:
        """The weight in whole numbers, row by row."""
        scale, zero = (
            None if part is None else unpack_groups(part)[: self.rows] for part in self.packed[1:]
        )
        assert scale is not None
        return Integers(unpack(self.weight, self.bits)[: self.rows, : self.columns], scale, zero)

    def for_kernels(self) -> native.Weight:
        """The weight and the bias as the native kernels take them."""
        return native.whole_weight(
            *self.packed,
            rows=self.rows,
            columns=self.columns,
            bits=self.bits,
            group=self.group,
            bias=self.bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(…, columns) → (…, rows). Where no gradient is asked for, native kernels compute it with
        x rounded to 8 bits; else the weight is taken back to x's dtype, part by part.
        """
        if is_native(x):
            y = native.linear(x.reshape(-1, self.columns), self.for_kernels())
            return y.to(x.dtype).view(*x.shape[:-1], self.rows)
        y = frozen_product(x, self.blocks)
        return y if self.bias is None else y + self.bias

    def blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weight's rows in `dtype`, as many at a time as fit the working memory."""
        step = tiles_at_once(self.columns)
        for at in range(0, len(self.weight), step):
            rows = min(self.rows - at * TILE, step * TILE)
            part = self.packed.part(slice(at, at + step))
            yield dequantize(part, rows, self.columns, self.bits, self.group, dtype)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight (rows, columns) in `dtype`."""
        return dequantize(self.packed, self.rows, self.columns, self.bits, self.group, dtype)


def is_native(x: Tensor) -> bool:
    """Whether the native kernels compute a linear of this input."""
    wants_gradient = torch.is_grad_enabled() and x.requires_grad
    return x.device.type == "cpu" and not wants_gradient and native.library() is not None


def to_integers(
    weight: Tensor, bits: Bits, group: int | None = None, *, symmetric: bool = True
) -> Integers:
    """The whole numbers nearest to a floating-point weight (rows, columns)."""
    columns = weight.shape[1]
    size = GROUP[bits] if group is None else group
    padded = up_to(up_to(columns, BLOCK), size)
    grouped = F.pad(weight.float(), (0, padded - columns)).unflatten(-1, (-1, size))
    top, half = 2**bits - 1, 2 ** (bits - 1)
    over, zero = None, None
    if not symmetric:
        low, high = grouped.amin(-1).clamp_max(0), grouped.amax(-1).clamp_min(0)
        scale = as_half((high - low) / top)
        zero = (-low * inverse(scale)).round_().clamp_(0, top)
        middle = zero[..., None]
    else:
        middle = torch.tensor(float(half), device=weight.device)
        if bits == 4:
            over, scale = search(grouped)
        else:
            scale = grouped.abs().amax(-1) / (half - 1)
        scale = as_half(scale)
    over = inverse(scale) if over is None else over
    values = (grouped * over[..., None]).round_().add_(middle).clamp_(0, top)
    whole = values.to(torch.uint8).flatten(1)[:, :columns]
    return Integers(whole, scale, None if zero is None else zero.to(torch.uint8))


def search(grouped: Tensor) -> tuple[Tensor, Tensor]:
    """What each group (…, size) is multiplied by to become whole numbers of symmetric int4, and the
    scale that takes them back.

    Of several ways to divide the farthest value, that whose whole numbers q point most nearly where
    the weights w do. The scale s keeps ⟨s q, w⟩ = ⟨w, w⟩: least squares would be nearer, but it
    shrinks every group, which adds up over the network where other errors cancel out.
    """
    low, high = grouped.aminmax(dim=-1)
    extreme = torch.where(-low > high, low, high)
    sizes = torch.where(extreme == 0, 0.0, 1 / extreme).clamp(-3e38, 3e38)
    shares = grouped * sizes[..., None]  # of the farthest value: nothing overflows
    way, most = torch.full_like(extreme, -8.0), torch.zeros_like(extreme)
    product = way.clone()
    for steps in _WAYS:
        q = (shares * steps).round_().clamp_(-8, 7)
        along, square = (shares * q).sum(-1), (q * q).sum(-1)
        gain = along * along / square.clamp_min(1)
        is_better = gain > most * 1.000001
        way, most = torch.where(is_better, steps, way), torch.where(is_better, gain, most)
        product = torch.where(is_better, along, product)
    return way * sizes, extreme * (shares * shares).sum(-1) / product


def as_half(scale: Tensor) -> Tensor:
    """The scale in float16, which ends at 65,504."""
    return scale.clamp(-65504.0, 65504.0).half()


def inverse(scale: Tensor) -> Tensor:
    """1 / scale in float32; 0 where the scale is."""
    return torch.where(scale == 0, 0.0, 1.0 / scale.float())


def to_tiles(integers: Integers, bits: Bits) -> Packed:
    """Whole numbers, as `to_integers` or a calibration finds them, in tiles."""
    values, scale, zero = integers
    zeros = None if zero is None else pack_groups(zero)
    return Packed(pack(values, bits), pack_groups(scale), zeros)


def quantize(
    weight: Tensor, bits: Bits, group: int | None = None, *, symmetric: bool = True
) -> Packed:
    """Tiles of a floating-point weight (rows, columns), on its device; the peak is the result and
    a few MiB.
    """
    rows, columns = weight.shape
    size, tiles, padded = group or GROUP[bits], up_to(rows, TILE) // TILE, up_to(columns, BLOCK)
    made = pages.empty(tiles, padded * TILE * bits // 8, dtype=torch.uint8, device=weight.device)
    scale = weight.new_empty(tiles, -(-padded // size), TILE, dtype=torch.float16)
    zero = None if symmetric else torch.empty_like(scale, dtype=torch.uint8)
    whole = Packed(made, scale, zero)
    step = tiles_at_once(columns)
    is_native = weight.device.type == "cpu" and native.opened() is not None
    for at in range(0, tiles, step):
        rows_here, out = weight[at * TILE : (at + step) * TILE], whole.part(slice(at, at + step))
        if is_native:
            known = rows_here.dtype in native.FLOAT_KINDS
            source = rows_here.detach() if known else rows_here.detach().float()
            native.quantize(source.contiguous(), *out, bits, size)
            continue
        integers = to_integers(rows_here, bits, size, symmetric=symmetric)
        for to, part in zip(out, to_tiles(integers, bits), strict=True):
            if to is not None and part is not None:
                to.copy_(part)
    return whole


def dequantize(
    packed: Packed, rows: int, columns: int, bits: Bits, group: int, dtype: torch.dtype
) -> Tensor:
    """The weight (rows, columns) in `dtype` that tiles stand for."""
    values = unpack(packed.weight, bits)
    middle: Tensor | int = 2 ** (bits - 1)
    if packed.zero is not None:
        middle = spread(unpack_groups(packed.zero), group, values.shape[1]).short()
    whole = (values.short() - middle).to(dtype)
    whole *= spread(unpack_groups(packed.scale).to(dtype), group, values.shape[1])
    return whole[:rows, :columns]


def spread(numbers: Tensor, group: int, columns: int) -> Tensor:
    """A group's number for each of its columns: (rows, columns) of (rows, groups)."""
    return numbers.repeat_interleave(group, 1)[:, :columns]


def tiles_at_once(columns: int) -> int:
    """How many tiles fit the working memory in float32."""
    return max(_CHUNK_ELEMENTS // (columns * TILE), 1)


def quantized(
    weight: Tensor,
    bits: Bits,
    group: int | None = None,
    *,
    symmetric: bool = True,
    bias: bool,
) -> QuantizedLinear:
    """A module with `weight` (rows, columns) quantized; a bias is allocated on `meta`, to be
    placed.
    """
    rows, columns = weight.shape
    packed = quantize(weight, bits, group, symmetric=symmetric)
    return QuantizedLinear(packed, rows, columns, bits, group or GROUP[bits], bias=bias)

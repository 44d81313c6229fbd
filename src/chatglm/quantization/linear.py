"""Linears of few bits: int8 in groups of 64 columns, int4 in groups of 32, symmetric, with a
float16 scale each.

Columns come in blocks of 64, filled up with zeros. A block of int4 is 32 bytes: byte j holds
column j in its low nibble and column j + 32 in its high one, both plus 8, so that a vector
register unpacks to two groups in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.quantization import native
from chatglm.quantization.frozen import frozen_product

Bits = Literal[8, 4]
KINDS: dict[str, Bits] = {"int8": 8, "int4": 4}

BLOCK = 64
GROUP: dict[Bits, int] = {8: 64, 4: 32}
# Weights that exist in float32 at once while quantizing or computing: 4 MiB, which also
# stay in the cache between one operator and the next.
_CHUNK_ELEMENTS = 1 << 20


class QuantizedLinear(nn.Module):
    """A linear over quantized rows; `bits` is 8 or 4.

    weight: int8 (rows, padded) for 8 bits, uint8 (rows, padded / 2) for 4, `padded` being the
        columns rounded up to 64. weight_scale: float16 (rows, padded / group).
    """

    def __init__(self, weight: Tensor, scale: Tensor, columns: int, bits: Bits, bias: bool) -> None:
        super().__init__()
        self.columns, self.bits = columns, bits
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.weight: Tensor
        self.weight_scale: Tensor
        self.bias = nn.Parameter(torch.empty(weight.shape[0], device="meta")) if bias else None

    @property
    def rows(self) -> int:
        """Width of the output."""
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(…, columns) → (…, rows). Where no gradient is asked for, native kernels compute it with
        x rounded to 8 bits; else the weight is taken back to x's dtype, part by part.
        """
        if is_native(x):
            flat = x.reshape(-1, self.columns)
            y = native.linear(flat, self.weight, self.weight_scale, self.bits).to(x.dtype)
            y = y.view(*x.shape[:-1], self.rows)
            return y if self.bias is None else y + self.bias
        y = frozen_product(x, self.blocks)
        return y if self.bias is None else y + self.bias

    def blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weight's rows in `dtype`, as many at a time as fit the working memory."""
        for weight, scale in in_chunks(self.columns, self.weight, self.weight_scale):
            yield dequantize(weight, scale, self.columns, self.bits, dtype)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight (rows, columns) in `dtype`."""
        return dequantize(self.weight, self.weight_scale, self.columns, self.bits, dtype)


def is_native(x: Tensor) -> bool:
    """Whether the native kernels compute a linear of this input."""
    wants_gradient = torch.is_grad_enabled() and x.requires_grad
    return x.device.type == "cpu" and not wants_gradient and native.library() is not None


def quantize(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """Packed rows and scales of a floating-point weight (rows, columns), on its device; the peak
    is the result and a few MiB.
    """
    rows, columns = weight.shape
    padded = -(-columns // BLOCK) * BLOCK
    packed = torch.empty(
        (rows, padded if bits == 8 else padded // 2),
        dtype=torch.int8 if bits == 8 else torch.uint8,
        device=weight.device,
    )
    scale = torch.empty((rows, padded // GROUP[bits]), dtype=torch.float16, device=weight.device)
    for part, out, out_scale in in_chunks(columns, weight, packed, scale):
        grouped = F.pad(part.float(), (0, padded - columns)).unflatten(-1, (-1, GROUP[bits]))
        if bits == 8:
            extreme = grouped.abs().amax(-1) / 127
        else:  # the value farthest from 0 becomes -8, which the other sign does not have
            low, high = grouped.aminmax(dim=-1)
            extreme = torch.where(-low > high, low, high) / -8
        half = extreme.clamp(-65504.0, 65504.0).half()
        out_scale.copy_(half)
        inverse = torch.where(half == 0, 0.0, 1.0 / half.float())
        grouped = (grouped * inverse[..., None]).round_()
        if bits == 8:
            out.copy_(grouped.clamp_(-127, 127).flatten(1))
            continue
        blocks = grouped.add_(8).clamp_(0, 15).to(torch.uint8).view(-1, padded // BLOCK, 2, 32)
        out.copy_((blocks[:, :, 0] | blocks[:, :, 1] << 4).flatten(1))
    return packed, scale


def dequantize(
    weight: Tensor, scale: Tensor, columns: int, bits: Bits, dtype: torch.dtype
) -> Tensor:
    """The weight (rows, columns) in `dtype` of packed rows and scales."""
    if bits == 8:
        whole = weight
    else:
        blocks = weight.unflatten(-1, (-1, 32))
        whole = (torch.stack((blocks & 15, blocks >> 4), -2).to(torch.int8) - 8).flatten(1)
    grouped = whole.to(dtype).unflatten(-1, (-1, GROUP[bits])) * scale.to(dtype)[..., None]
    return grouped.flatten(1)[:, :columns]


def in_chunks(columns: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of several tensors, as many as fit the working memory."""
    rows = max(_CHUNK_ELEMENTS // max(columns, 1), 1)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def quantized(weight: Tensor, bits: Bits, *, bias: bool) -> QuantizedLinear:
    """A module with `weight` (rows, columns) quantized; a bias is allocated on `meta`, to be
    placed.
    """
    packed, scale = quantize(weight, bits)
    return QuantizedLinear(packed, scale, weight.shape[1], bits, bias)


def bits_of(name: str, kind: str) -> Bits:
    """The bits of a linear when the model is quantized to `kind`; the output head keeps 8, since
    its errors go straight into the scores.
    """
    return 8 if name == "head" else KINDS[kind]

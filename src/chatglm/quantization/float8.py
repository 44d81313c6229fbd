"""Linears of 8-bit floats (e4m3: 4 bits of exponent, 3 of fraction), a float32 scale for each row.

On a GPU that multiplies them (Ada, Hopper and later) inputs are rounded to the same format, a scale
for each, and PyTorch's scaled product does the rest; for few inputs a Triton kernel unpacks the
weight in registers and leaves the inputs as they are. Elsewhere the weight is unpacked for each
product: right, and slow.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.quantization import cuda
from chatglm.quantization.frozen import frozen_product

FORMAT = torch.float8_e4m3fn
LARGEST = 448.0
BLOCK = 64
FIRST = (8, 9)
"""The compute capability that knows the format."""
FEW_INPUTS = 64
"""Inputs up to which reading the weight takes longer than multiplying."""
_CHUNK_ELEMENTS = 1 << 22


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (…, C) in 8 bits, and their scales (…, 1) in float32."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(1e-12) / LARGEST
    return (wide / scale).clamp_(-LARGEST, LARGEST).to(FORMAT), scale


def scaled_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x (M, C), rounded to 8 bits, times the rows of a weight (R, C) in 8 bits: (M, R)."""
    x8, x_scale = quantize(x)
    y = torch._scaled_mm(
        x8, weight.t(), scale_a=x_scale, scale_b=scale[None], out_dtype=torch.bfloat16
    )
    return y.to(x.dtype)


@cache
def can_scale(device: torch.device) -> bool:
    """Whether a GPU multiplies rows of 8-bit floats with scales; not each that knows them does."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FIRST:
        return False
    try:
        x = torch.ones(16, BLOCK, device=device)
        weight, scale = quantize(torch.ones(16, BLOCK, device=device))
        return bool((scaled_product(x, weight, scale[:, 0]) == BLOCK).all())
    except RuntimeError:
        return False


@cache
def warn_of(device: torch.device) -> None:
    """Tell once that a device has no products of 8-bit floats."""
    warnings.warn(
        f"fp8 weights are unpacked for every product on {device}, which is slow: products of 8-bit "
        "floats need a GPU of compute capability 8.9 or later; int8 is faster here",
        stacklevel=3,
    )


class Float8Linear(nn.Module):
    """A linear over rows of 8-bit floats; weight: (rows, columns filled up to 64)."""

    def __init__(self, weight: Tensor, *, bias: bool) -> None:
        super().__init__()
        self.rows, self.columns = weight.shape
        parts = [quantize(part) for part in weight.split(self.rows_at_once)]
        padding = (0, -self.columns % BLOCK)
        # Zeros have the same bits in either type; 8-bit floats cannot be padded everywhere.
        whole = torch.cat([F.pad(part.view(torch.int8), padding) for part, _ in parts])
        self.register_buffer("weight", whole.view(FORMAT))
        self.register_buffer("weight_scale", torch.cat([scale[:, 0] for _, scale in parts]))
        self.weight: Tensor
        self.weight_scale: Tensor
        self.bias = nn.Parameter(torch.empty(self.rows, device="meta")) if bias else None

    @property
    def rows_at_once(self) -> int:
        """Rows whose columns fit the working memory."""
        return max(_CHUNK_ELEMENTS // self.columns, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(…, columns) → (…, rows)."""
        y = self.product(x)
        return y if self.bias is None else y + self.bias

    def product(self, x: Tensor) -> Tensor:
        """`forward` without the bias."""
        device, count = x.device, x.numel() // self.columns
        wants_gradient = torch.is_grad_enabled() and x.requires_grad
        if wants_gradient or not can_scale(device) or self.rows % 16:
            if not wants_gradient and not can_scale(device):
                warn_of(device)
            return frozen_product(x, self.blocks)
        flat = x.reshape(-1, self.columns)
        if count <= FEW_INPUTS and cuda.is_usable(device):
            rows = cuda.kernels().Rows(
                weight=self.weight, scale=self.weight_scale, zero=None,
                columns=self.columns, bits=8, group=0,
            )  # fmt: skip
            with cuda.current(device):
                y = cuda.kernels().multiply(flat, rows, None, cuda.num_processors(device))
        else:
            filled = F.pad(flat, (0, self.weight.shape[1] - self.columns))
            y = scaled_product(filled, self.weight, self.weight_scale)
        return y.view(*x.shape[:-1], self.rows)

    def blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weight's rows in `dtype`, as many at a time as fit the working memory."""
        step = self.rows_at_once
        for rows, scale in zip(self.weight.split(step), self.weight_scale.split(step), strict=True):
            yield (rows.to(dtype) * scale.to(dtype)[:, None])[:, : self.columns]

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight (rows, columns) in `dtype`."""
        return torch.cat(list(self.blocks(dtype)))

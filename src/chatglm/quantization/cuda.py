"""Quantized linears on a GPU: a layout of their own, multiplied by Triton kernels.

Inputs keep their dtype and the weight is unpacked to it in registers, so that a product is that of
the dequantized weight. `CHATGLM_TRITON=0` leaves the kernels out; linears then unpack their weight
through PyTorch's operators, which is right and slow.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.quantization.embedding import QuantizedEmbedding
from chatglm.quantization.frozen import frozen_product
from chatglm.quantization.linear import QuantizedLinear

if TYPE_CHECKING:
    from chatglm.quantization.triton import Rows

UNPACKED_FROM = 1024
"""Inputs from which on the weight is unpacked once and multiplied by cuBLAS."""
OLDEST = (8, 0)
"""The compute capability that bfloat16 products need."""


def kernels() -> ModuleType:
    """The module of kernels; imported where they are used, since Triton is not everywhere."""
    from chatglm.quantization import triton

    return triton


@cache
def is_usable(device: torch.device) -> bool:
    """Whether Triton kernels run on a device: they are tried, and what is in the way is told once.

    Triton comes with PyTorch for CUDA and needs a C compiler when it first runs.
    """
    if device.type != "cuda" or os.environ.get("CHATGLM_TRITON") == "0":
        return False
    if torch.cuda.get_device_capability(device) < OLDEST:
        return False
    try:
        rows = to_rows(
            torch.ones(16, 64, dtype=torch.uint8, device=device),
            torch.ones(16, 1, dtype=torch.float16, device=device),
            None, 8, 64,
        )  # fmt: skip
        with current(device):
            kernels().multiply(torch.ones(1, 64, device=device), rows, None, 1)
        torch.cuda.synchronize(device)
    except Exception as error:  # Triton's own, a compiler's or the driver's: all mean the same
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        warnings.warn(
            f"the model runs on PyTorch's operators, which is slower: Triton does not run here "
            f"({reason}); install triton and a C compiler, or set CHATGLM_TRITON=0",
            stacklevel=2,
        )
        return False
    return True


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the one that kernels are launched on: Triton asks for the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def to_rows(values: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int) -> Rows:
    """The layout of the kernels.

    values: whole numbers from 0 (rows, columns) uint8. scale, zero: (rows, groups); zero None: half
    of what the bits hold. 6 bits take a byte each.
    """
    rows, columns = values.shape
    padded = -(-columns // 128) * 128
    middle = 2 ** (bits - 1)
    filled = F.pad(values, (0, padded - columns), value=middle)
    if bits == 4:
        nibbles = filled.view(rows, -1, 4, 32).to(torch.int16)  # (rows, steps, nibbles, 32)
        words = nibbles[:, :, 0] | nibbles[:, :, 1] << 4 | nibbles[:, :, 2] << 8
        weight = (words | nibbles[:, :, 3] << 12).flatten(1)
    else:
        weight = (filled.to(torch.int16) - middle).to(torch.int8)
    num_groups = max(padded // group, 1)

    def by_group(numbers: Tensor) -> Tensor:
        return F.pad(numbers, (0, num_groups - numbers.shape[1])).t().contiguous()

    if zero is not None:
        shift = 0 if bits == 4 else middle
        zero = by_group((zero.to(torch.int16) - shift).to(torch.float16))
    return kernels().Rows(
        weight=weight, scale=by_group(scale.half()), zero=zero,
        columns=columns, bits=4 if bits == 4 else 8, group=group,
    )  # fmt: skip


class CudaLinear(nn.Module):
    """A quantized linear in the layout of the kernels; see `chatglm.quantization.triton`."""

    def __init__(self, rows: Rows, *, bias: bool) -> None:
        super().__init__()
        self.rows, self.columns = rows.weight.shape[0], rows.columns
        self.bits, self.group = rows.bits, rows.group
        self.register_buffer("weight", rows.weight)
        self.register_buffer("weight_scale", rows.scale)
        self.register_buffer("weight_zero", rows.zero)
        self.weight: Tensor
        self.weight_scale: Tensor
        self.weight_zero: Tensor | None
        self.bias = nn.Parameter(torch.empty(self.rows, device="meta")) if bias else None

    @property
    def packed(self) -> Rows:
        """What the kernels read."""
        return kernels().Rows(
            weight=self.weight, scale=self.weight_scale, zero=self.weight_zero,
            columns=self.columns, bits=self.bits, group=self.group,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(…, columns) → (…, rows)."""
        count = x.numel() // self.columns
        if (torch.is_grad_enabled() and x.requires_grad) or count >= UNPACKED_FROM:
            y = frozen_product(x, self.blocks)
            return y if self.bias is None else y + self.bias
        flat = x.reshape(-1, self.columns)
        with current(x.device):
            y = kernels().multiply(flat, self.packed, self.bias, num_processors(x.device))
        return y.view(*x.shape[:-1], self.rows)

    def blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weight's rows in `dtype`, all at once: what a GPU multiplies fastest."""
        yield self.dequantized(dtype)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight (rows, columns) in `dtype`."""
        with current(self.weight.device):
            return kernels().dequantize(self.packed, dtype)


class CudaEmbedding(CudaLinear):
    """A quantized table of words, which is a linear where it is the output head as well."""

    def __init__(self, rows: Rows, *, dtype: torch.dtype) -> None:
        super().__init__(rows, bias=False)
        self.dtype = dtype

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows (…, columns) of ids (…)."""
        ids, whole = tokens.flatten(), self.packed
        zero = None if whole.zero is None else whole.zero[:, ids]
        some = replace(whole, weight=whole.weight[ids], scale=whole.scale[:, ids], zero=zero)
        with current(tokens.device):
            rows = kernels().dequantize(some, torch.float32)
        return rows.to(self.dtype).view(*tokens.shape, self.columns)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores (…, rows) of words after hidden states (…, columns)."""
        return super().forward(hidden)


def on_cuda(linear: QuantizedLinear) -> CudaLinear | QuantizedLinear:
    """The linear or table as its device computes it best; itself where the kernels do not run."""
    if not is_usable(linear.weight.device):
        return linear
    rows = to_rows(*linear.integers, linear.bits, linear.group)
    if isinstance(linear, QuantizedEmbedding):
        return CudaEmbedding(rows, dtype=linear.dtype)
    made = CudaLinear(rows, bias=linear.bias is not None)
    made.bias = linear.bias
    return made

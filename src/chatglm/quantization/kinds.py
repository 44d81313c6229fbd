"""What a model can be quantized to while it is loaded."""

from __future__ import annotations

from torch import Tensor, nn

from chatglm.quantization.cuda import on_cuda
from chatglm.quantization.float8 import Float8Linear
from chatglm.quantization.linear import KINDS as INTEGERS
from chatglm.quantization.linear import bits_of, quantized

KINDS = (*INTEGERS, "fp8")


def linear_of(weight: Tensor, name: str, kind: str, *, bias: bool) -> nn.Module:
    """The linear of that name over a weight (rows, columns) in fewer bits, as its device multiplies
    it best; a bias is allocated on `meta`, to be placed.
    """
    if kind == "fp8":
        return Float8Linear(weight, bias=bias)
    return on_cuda(quantized(weight, bits_of(name, kind), bias=bias))

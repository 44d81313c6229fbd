"""A linear in fewer bits, of any kind that there is."""

from __future__ import annotations

from torch import Tensor, nn

from chatglm.quantization.cuda import on_cuda
from chatglm.quantization.float8 import Float8Linear
from chatglm.quantization.linear import quantized
from chatglm.quantization.scheme import scheme_of


def linear_of(weight: Tensor, name: str, kind: str, *, bias: bool) -> nn.Module:
    """The linear of that name over a weight (rows, columns) in fewer bits, as its device multiplies
    it best; a bias is allocated on `meta`, to be placed.
    """
    if kind == "fp8":
        return Float8Linear(weight, bias=bias)
    scheme = scheme_of(name, kind)
    return on_cuda(
        quantized(weight, scheme.bits, scheme.group, symmetric=scheme.symmetric, bias=bias)
    )

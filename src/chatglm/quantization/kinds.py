"""The parts of a model in fewer bits, of any kind that there is."""

from __future__ import annotations

from torch import Tensor, nn

from chatglm.model import Transformer
from chatglm.quantization.cuda import on_cuda
from chatglm.quantization.float8 import Float8Linear
from chatglm.quantization.linear import quantized
from chatglm.quantization.scheme import Kind, Scheme


def schemes_of(model: Transformer, kind: Kind) -> dict[str, Scheme]:
    """How each part that a kind has in fewer bits is kept, by the name of its module."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            scheme = kind.head if name == "head" else kind.layers
            if scheme is not None:
                found[name] = scheme
    return found


def narrowed(module: nn.Module, weight: Tensor, scheme: Scheme) -> nn.Module:
    """What stands for a linear over a weight (rows, columns) in fewer bits, as its device
    multiplies it best; a bias is allocated on `meta`, to be placed.
    """
    bias = module.bias is not None
    if scheme.is_float:
        return Float8Linear(weight, bias=bias)
    return on_cuda(
        quantized(weight, scheme.bits, scheme.group, symmetric=scheme.symmetric, bias=bias)
    )

"""The parts of a model in fewer bits, of any kind that there is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chatglm.model import Transformer
from chatglm.quantization.cuda import on_cuda
from chatglm.quantization.embedding import QuantizedEmbedding
from chatglm.quantization.float8 import Float8Linear
from chatglm.quantization.linear import quantize, quantized
from chatglm.quantization.scheme import Kind, Scheme


def schemes_of(model: Transformer, kind: Kind) -> dict[str, Scheme]:
    """How each part that a kind has in fewer bits is kept, by the name of its module."""
    outer = {"embedding": kind.words, "head": kind.head}
    schemes = {
        name: outer.get(name, kind.layers)
        for name, module in model.named_modules()
        if name in outer or isinstance(module, nn.Linear)
    }
    return {name: scheme for name, scheme in schemes.items() if scheme is not None}


def narrowed(
    module: nn.Module, weight: Tensor, scheme: Scheme, dtype: torch.dtype | None = None
) -> nn.Module:
    """What stands for a linear or a table of words over a weight (rows, columns) in fewer bits, as
    its device computes it best; a bias is allocated on `meta`, to be placed.

    dtype: of the rows that are looked up in a table; None is the weight's.
    """
    if isinstance(module, nn.Embedding):
        packed = quantize(weight, scheme.bits, scheme.group, symmetric=scheme.symmetric)
        size = (*weight.shape, scheme.bits, scheme.group)
        return on_cuda(QuantizedEmbedding(packed, *size, dtype=dtype or weight.dtype))
    bias = module.bias is not None
    if scheme.is_float:
        return Float8Linear(weight, bias=bias)
    return on_cuda(
        quantized(weight, scheme.bits, scheme.group, symmetric=scheme.symmetric, bias=bias)
    )

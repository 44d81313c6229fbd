"""What the native kernels make of a model's parts: weights in tiles, and linears over them.

A row's result is its own in any company, which PyTorch's products do not promise: so a reply does
not depend on the requests that run with it.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Tensor, nn

from chatglm.generation.joined import JoinedAttention
from chatglm.model import Transformer
from chatglm.model.attention import Attention
from chatglm.model.transformer import WordEmbedding
from chatglm.quantization import native
from chatglm.quantization.linear import QuantizedLinear, quantized
from chatglm.quantization.native import Weight
from chatglm.quantization.scheme import OUTER

MOST_BYTES = 1 << 30
"""Plain weights are packed up to this size in all, since the tiles come on top of them; larger
ones are read as they lie."""


def has_weight(module: nn.Module) -> bool:
    """Whether the kernels know a module's weight."""
    if type(module) in (nn.Linear, WordEmbedding):
        weight = module.weight
        assert isinstance(weight, Tensor)
        return weight.device.type == "cpu" and weight.dtype in native.FLOAT_KINDS
    return hasattr(module, "for_kernels")


def weight_of(module: nn.Module, *, packs: bool) -> Weight:
    """A linear's or an embedding's weight as the kernels take it; packs: plain ones in tiles."""
    if isinstance(module, nn.Linear | nn.Embedding):
        bias = module.bias if isinstance(module, nn.Linear) else None
        make = native.packed_weight if packs else native.float_weight
        return make(module.weight, bias)
    found: Weight = module.for_kernels()  # type: ignore[operator]
    return found


def head_weight(model: Transformer, *, packs: bool) -> Weight:
    """The output head as the kernels take it. That of a model with quantized linears has 8 bits,
    also where a table of words that is not quantized, as of ChatGLM's own files, serves as it.
    """
    if not model.config.tied:
        return weight_of(model.head, packs=packs)
    words = model.embedding
    if type(words) is WordEmbedding and any(
        isinstance(module, QuantizedLinear) for module in model.modules()
    ):
        scheme = OUTER[8]
        weight = words.weight.detach()
        return quantized(weight, scheme.bits, scheme.group, bias=False).for_kernels()
    return weight_of(words, packs=packs)


def can_pack(model: Transformer) -> bool:
    """Whether the plain weights are few enough to be packed."""
    linears = [m.weight for m in model.modules() if type(m) is nn.Linear]
    return sum(w.numel() * w.element_size() for w in linears) <= MOST_BYTES


def pack(model: Transformer) -> Transformer:
    """A transformer that computes what `model` does and shares its weights, with native attention
    and native linears; for models that have parts of which the native step knows nothing.
    """
    packs = can_pack(model)
    packed = _copy(model, {}, packs)
    assert isinstance(packed, Transformer)
    if model.config.tied and has_weight(model.embedding):
        packed.config = replace(model.config, tied=False)
        packed.add_module("head", PackedLinear(head_weight(model, packs=packs)))
    return packed


def _copy(module: nn.Module, known: dict[int, PackedLinear], packs: bool) -> nn.Module:
    if type(module) is nn.Linear and has_weight(module):
        key = id(module.weight)  # adapters have linears of their own over the same weight
        if key not in known:
            known[key] = PackedLinear(weight_of(module, packs=packs))
        return known[key]
    twin = copy.copy(module)
    twin._modules = {
        name: None if part is None else _copy(part, known, packs)
        for name, part in module._modules.items()
    }
    if isinstance(twin, Attention) and not twin.qk_norm:
        return JoinedAttention(twin)
    return twin


class PackedLinear(nn.Module):
    """A linear or the rows of an embedding, by the native kernels."""

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.kernel_weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C')."""
        y = native.linear(x.flatten(0, -2), self.kernel_weight)
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


def fingerprint(model: Transformer) -> tuple[tuple[int, int], ...]:
    """What changes when a weight is written to or replaced."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())

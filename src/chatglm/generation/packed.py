"""Linears prepacked for a CPU: faster at the few rows of decoding, and a row's result is its own.

oneDNN's packed product computes a row of float32 the same way whatever rows come with it, which the
usual one does not: there, one row and several take different kernels, whose last bits differ. So a
reply does not depend on its company. In bfloat16 this holds for few rows only.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from chatglm.generation import native
from chatglm.generation.cache import PagedBatch
from chatglm.model import Transformer
from chatglm.model.attention import Attention
from chatglm.model.mlp import MLP
from chatglm.model.position import Rotary

MOST_COLUMNS = 1024
MOST_BYTES = 1 << 30
"""Linears are packed up to this size in all, since the packed copy comes on top of the weights."""


class PackedLinear(nn.Module):
    """A linear with its weight in oneDNN's own layout.

    In float32 wide inputs are summed in parts of 1,024 columns: beyond them oneDNN adds up one row
    in another order than several.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        columns = weight.shape[1]
        self.width = MOST_COLUMNS if weight.dtype == torch.float32 else columns
        self.packed = [
            torch.ops.mkldnn._reorder_linear_weight(part.contiguous(), 16)
            for part in weight.detach().split(self.width, 1)
        ]
        self.linear_bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C')."""
        if len(self.packed) == 1:
            return multiply(x, self.packed[0], self.linear_bias)
        parts = x.split(self.width, -1)
        out = multiply(parts[0], self.packed[0], self.linear_bias)
        for part, packed in zip(parts[1:], self.packed[1:], strict=True):
            out += multiply(part, packed, None)
        return out


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, C) times a packed weight: (…, C')."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out


def can_pack(model: Transformer) -> bool:
    """Whether packing helps: plain weights on a CPU with oneDNN, and not too many of them."""
    weight = model.embedding.weight
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
    elif weight.dtype != torch.float32:
        return False
    linears = [m.weight for m in model.modules() if type(m) is nn.Linear]
    return sum(w.numel() * w.element_size() for w in linears) <= MOST_BYTES


def pack(model: Transformer, *, linears: bool, attention: bool) -> Transformer:
    """A transformer that computes what `model` does and shares its weights, but for the linears if
    they are packed; attention, norms and gates may go through the native kernels.
    """
    packed = _copy(model, {}, linears=linears, attention=attention)
    assert isinstance(packed, Transformer)
    if model.config.tied and linears:
        packed.config = replace(model.config, tied=False)
        packed.add_module("head", PackedLinear(model.embedding.weight, None))
    return packed


def _copy(
    module: nn.Module, known: dict[int, PackedLinear], *, linears: bool, attention: bool
) -> nn.Module:
    if linears and type(module) is nn.Linear:
        key = id(module.weight)  # adapters have linears of their own over the same weight
        if key not in known:
            known[key] = PackedLinear(module.weight, module.bias)
        return known[key]
    twin = copy.copy(module)
    twin._modules = {
        name: None if part is None else _copy(part, known, linears=linears, attention=attention)
        for name, part in module._modules.items()
    }
    if attention and isinstance(twin, Attention) and not twin.qk_norm:
        return JoinedAttention(twin)
    if attention and native.pieces() is not None:
        if type(twin) is nn.RMSNorm:
            return NativeNorm(twin)
        if type(twin) is MLP and twin.kind == "swiglu":
            return NativeMLP(twin)
    return twin


class NativeNorm(nn.Module):
    """A root-mean-square norm in one call."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = torch.finfo(norm.weight.dtype).eps if norm.eps is None else norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C)."""
        return native.rms_norm(x, self.weight, self.eps)


class NativeMLP(nn.Module):
    """A SwiGLU block whose gate is one call."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.up, self.down = mlp.up, mlp.down

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C)."""
        y: Tensor = self.down(native.swiglu(self.up(x)))
        return y


class JoinedAttention(nn.Module):
    """Attention whose rotary positions, cache and sums are one native call."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.layer = attention.layer
        self.qkv, self.out = attention.qkv, attention.out

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Rotary, Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: PagedBatch,
    ) -> Tensor:
        """What each token reads (1, T, C)."""
        call = cache.native
        assert call is not None
        if rotary is not None:
            call.turn(*rotary)
        y: Tensor = self.out(call.attend_joined(self.layer, self.qkv(x)))
        return y


def fingerprint(model: Transformer) -> tuple[tuple[int, int], ...]:
    """What changes when a weight is written to or replaced."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())

"""A transformer on a GPU: its small operators are one kernel each, its decoding is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from chatglm.generation.adapters import Routing, bare_twin
from chatglm.generation.blocks import BLOCK_SIZE
from chatglm.generation.cuda.attention import PagedCall, layout_of
from chatglm.generation.cuda.graphs import Recordings
from chatglm.generation.joined import JoinedAttention, JoinedCall
from chatglm.model import Transformer
from chatglm.model.attention import Attention
from chatglm.model.mlp import MLP, ExpertMLP
from chatglm.model.position import Rotary
from chatglm.model.surgery import replace_module
from chatglm.model.transformer import Layer
from chatglm.quantization.cuda import current

if TYPE_CHECKING:
    from chatglm.generation.cache import KeyValueStore, Span


class Network:
    """The model over the same weights, with what a GPU computes better replaced.

    Forwards of few tokens are recorded as graphs, one for each of a few sizes, and replayed: the
    host then gives one order in the place of some hundred. Experts, which are chosen on the host,
    and batches of several adapters run as they are.
    """

    def __init__(self, model: Transformer, routing: Routing, *, num_slots: int) -> None:
        self.model, self.routing = with_kernels(model), routing
        self.recordings = Recordings(self.model, table_size=-(-num_slots // BLOCK_SIZE))
        self.can_record = not any(isinstance(part, ExpertMLP) for part in model.modules())

    def forward(
        self,
        tokens: Sequence[int],
        places: Sequence[Sequence[int]],
        store: KeyValueStore,
        spans: Sequence[Span],
    ) -> Tensor:
        """Hidden states (T, C) of tokens at positions (P, T)."""
        with current(store.keys.device):
            if self.can_record and not self.routing.rows and self.recordings.can_hold(spans):
                return self.recordings.forward(tokens, places, store, spans, self.routing.only)
            numbers = torch.tensor([list(tokens), *map(list, places)])  # (1 + P, T)
            numbers = numbers.to(store.keys.device)
            call = PagedCall(store, layout_of(spans, store, self.model.config.num_heads))
            hidden: Tensor = self.model(numbers[None, 0], numbers[None, 1:], None, call)
            return hidden[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (…, V) in float32 of the token after each hidden state."""
        return self.model.logits(hidden)


def with_kernels(model: Transformer) -> Transformer:
    """A transformer that computes what `model` does, over the same weights."""
    twin = bare_twin(model)
    assert isinstance(twin, Transformer)
    for name, module in list(twin.named_modules()):
        if type(module) is Layer and is_fused(module):
            replace_module(twin, name, FusedLayer(module))
    for name, module in list(twin.named_modules()):
        if type(module) is Attention and not module.qk_norm:
            replace_module(twin, name, JoinedAttention(module))
        elif type(module) is MLP and module.kind == "swiglu":
            replace_module(twin, name, GatedMLP(module))
        elif type(module) is nn.RMSNorm:
            replace_module(twin, name, Norm(module))
    return twin


def is_fused(layer: Layer) -> bool:
    """Whether a layer's first addition can be made by its second norm."""
    return layer.residual == "pre" and type(layer.norm2) is nn.RMSNorm


def norm(x: Tensor, weight: Tensor, eps: float, added: Tensor | None = None) -> Tensor:
    """x (…, C) by the root of its mean square, times the weight (C,); x takes in `added` first."""
    from chatglm.generation.cuda.kernels import norm_kernel

    x = x.contiguous()
    added = None if added is None else added.contiguous()
    out, width = torch.empty_like(x), x.shape[-1]
    padded = 1 << (width - 1).bit_length()
    norm_kernel[(x.numel() // width,)](
        x, added, weight, out, width, eps, HAS_ADDED=added is not None, PADDED=padded,
        num_warps=min(max(padded // 512, 1), 16),
    )  # fmt: skip
    return out


def gate(x: Tensor) -> Tensor:
    """silu(gate) · value (…, F) of rows (gate, value) (…, 2F)."""
    from chatglm.generation.cuda.kernels import gate_kernel

    x = x.contiguous()
    width = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], width)
    gate_kernel[(out.numel() // width, -(-width // 1024))](x, out, width, SIZE=1024)
    return out


def epsilon(module: nn.RMSNorm) -> float:
    """What a norm adds to the mean square."""
    return torch.finfo(module.weight.dtype).eps if module.eps is None else module.eps


class Norm(nn.Module):
    """A root-mean-square norm in one kernel."""

    def __init__(self, module: nn.RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = module.weight, epsilon(module)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C)."""
        return norm(x, self.weight, self.eps)


class GatedMLP(nn.Module):
    """A SwiGLU block whose gate is one kernel."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.up, self.down = mlp.up, mlp.down

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C)."""
        y: Tensor = self.down(gate(self.up(x)))
        return y


class FusedLayer(nn.Module):
    """A layer whose second norm adds what the attention read."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.norm1, self.attention = layer.norm1, layer.attention
        self.mlp = layer.mlp
        assert isinstance(layer.norm2, nn.RMSNorm)
        self.weight, self.eps = layer.norm2.weight, epsilon(layer.norm2)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Rotary, Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: JoinedCall,
    ) -> Tensor:
        """Hidden states (1, T, C) after this layer; x is used up."""
        x = x.contiguous()
        y = self.attention(self.norm1(x), rotary, mask, cache)
        normed = norm(x, self.weight, self.eps, added=y)
        return x + self.mlp(normed)

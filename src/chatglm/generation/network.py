"""A whole network as one native call: `csrc/step.cpp` computes all layers of a forward.

The stream, norms and activations are float32 whatever the weights are. A token's results are its
own in any company and in chunks of any size.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from chatglm.generation.native import Arguments, arguments, place
from chatglm.generation.packed import can_pack, has_weight, head_weight, weight_of
from chatglm.model import Transformer
from chatglm.model.attention import Attention
from chatglm.model.mlp import MLP
from chatglm.model.transformer import Layer
from chatglm.quantization import native
from chatglm.quantization.native import Weight

if TYPE_CHECKING:
    from chatglm.generation.cache import KeyValueStore, Span

_RESIDUALS = ("pre", "normed", "sandwich")
_ACTIVATIONS = ("gelu", "gelu_tanh", "swiglu")

_Fields = list[tuple[str, type]]


def _fields(names: str, kind: type) -> _Fields:
    return [(name, kind) for name in names.split()]


class _Layer(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        *_fields("norm1 norm1_bias norm1_post norm2 norm2_bias norm2_post", ctypes.c_void_p),
        *_fields("q_norm k_norm", ctypes.c_void_p),
        *_fields("qkv out up down", Weight),
    ]


class _Network(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        *_fields("layers norm norm_bias cos sin", ctypes.c_void_p),
        *_fields("embedding head", Weight),
        *_fields("num_layers hidden_size ffn_size num_positions", ctypes.c_int64),
        *_fields("norm_eps residual_scale", ctypes.c_float),
        *_fields("norm_kind residual activation", ctypes.c_int32),
    ]


class _Forward(ctypes.Structure):
    _fields_: ClassVar[_Fields] = [
        *_fields("tokens input output scores positions scratch", ctypes.c_void_p),
        *_fields("scratch_bytes key_stride value_stride scale_stride", ctypes.c_int64),
    ]


_MIRRORED: tuple[type[ctypes.Structure], ...] = (_Network, _Forward, _Layer, Arguments)


@cache
def functions() -> tuple[Any, Any] | None:
    """The native forward and the scratch bytes that it needs; None where they were not built."""
    library = native.opened()
    if library is None:
        return None
    library.chatglm_forward_structures.restype = ctypes.c_int64
    if library.chatglm_forward_structures() != sum(map(ctypes.sizeof, _MIRRORED)):
        raise library.stale("other structures of a forward")
    pointers = [ctypes.POINTER(kind) for kind in (_Network, _Forward, Arguments)]
    library.chatglm_forward.argtypes = pointers
    library.chatglm_forward_bytes.argtypes = [pointers[0], pointers[2]]
    library.chatglm_forward_bytes.restype = ctypes.c_int64
    return library.chatglm_forward, library.chatglm_forward_bytes


def can_run(model: Transformer) -> bool:
    """Whether the native step knows every part of a model."""
    config = model.config
    return (
        functions() is not None
        and config.ffn_size % 16 == 0  # gate and value both begin with a tile
        and all(
            type(layer) is Layer
            and type(layer.attention) is Attention
            and type(layer.mlp) is MLP
            and all(has_weight(part) for part in products_of(layer))
            for layer in model.layers
        )
        and has_weight(model.embedding if config.tied else model.head)
    )


def products_of(layer: Layer) -> tuple[nn.Module, ...]:
    """The linears of a layer, in the order of their use."""
    assert isinstance(layer.mlp, MLP)
    return layer.attention.qkv, layer.attention.out, layer.mlp.up, layer.mlp.down


class Network:
    """A transformer over the same weights, but for those that are packed for the kernels."""

    def __init__(self, model: Transformer) -> None:
        found = functions()
        assert found is not None
        self.run, self.bytes_needed = found
        self.model, config = model, model.config
        self.packs = packs = can_pack(model)
        self.kept: list[Tensor] = []  # what the native structures point to
        self.weights: list[Weight] = []
        self.layers = (_Layer * config.num_layers)(*(self.layer(layer) for layer in model.layers))
        self.head = head_weight(model, packs=packs)
        self.network = n = _Network()
        n.head = self.head
        # Words whose position is rotary are looked up by the native step itself.
        self.reads_words = model.rotary is not None and has_weight(model.embedding)
        if self.reads_words:
            is_shared = config.tied and self.head.kind in native.FLOAT_KINDS.values()
            self.words = self.head if is_shared else weight_of(model.embedding, packs=False)
            n.embedding = self.words
        n.layers = ctypes.addressof(self.layers)
        n.norm, n.norm_bias = self.norm(model.norm)
        n.num_layers, n.hidden_size = config.num_layers, config.hidden_size
        n.ffn_size, n.residual_scale = config.ffn_size, config.residual_scale
        n.norm_eps = config.norm_eps
        n.norm_kind = int(config.norm == "rmsnorm")
        n.residual = _RESIDUALS.index(config.residual)
        n.activation = _ACTIVATIONS.index(config.mlp)
        self.forwards = _Forward()
        self.store: KeyValueStore | None = None
        self.scratch, self.base = torch.empty(0, dtype=torch.uint8), 0
        self.needed: dict[int, int] = {}  # bytes of it, by the number of tokens

    def layer(self, layer: nn.Module) -> _Layer:
        """The native form of a layer."""
        assert isinstance(layer, Layer)
        posts = [getattr(layer, name, nn.Identity()) for name in ("norm1_post", "norm2_post")]
        norms = [
            pointer
            for norm, post in zip((layer.norm1, layer.norm2), posts, strict=True)
            for pointer in (*self.norm(norm), self.norm(post)[0])
        ]
        heads = [getattr(layer.attention, name, nn.Identity()) for name in ("q_norm", "k_norm")]
        norms += [self.norm(norm)[0] for norm in heads]
        weights = [weight_of(part, packs=self.packs) for part in products_of(layer)]
        self.weights += weights
        return _Layer(*norms, *weights)

    def norm(self, norm: nn.Module) -> tuple[int | None, int | None]:
        """Addresses of a norm's weight and bias in float32; None for what there is not."""
        addresses: list[int | None] = []
        for name in ("weight", "bias"):
            value = getattr(norm, name, None)
            if value is not None:
                self.kept.append(value.detach().float().contiguous())
            addresses.append(None if value is None else self.kept[-1].data_ptr())
        return addresses[0], addresses[1]

    def forward(
        self,
        tokens: Sequence[int],
        places: Sequence[Sequence[int]],
        store: KeyValueStore,
        spans: Sequence[Span],
        scores: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (T, C) in float32 of tokens at positions (P, T); where there is room for
        scores (T, V), those of the token after each as well.
        """
        if store is not self.store:
            self.bind(store)
        a = self.arguments
        kept = place(a, spans)
        ids, positions = array("i", tokens), self.turn(places)
        x = None if self.reads_words else self.embedded(tokens, places)
        out = torch.empty(a.num_tokens, self.network.hidden_size)
        f = self.forwards
        f.scratch, f.scratch_bytes = self.room(a)
        f.tokens, f.positions = ids.buffer_info()[0], positions.buffer_info()[0]
        f.input, f.output = None if x is None else x.data_ptr(), out.data_ptr()
        f.scores = None if scores is None else scores.data_ptr()
        if self.run(ctypes.byref(self.network), ctypes.byref(f), ctypes.byref(a)):
            raise ValueError(
                f"the native step refuses {a.num_tokens} tokens of {a.num_sequences} sequences; "
                "set CHATGLM_NATIVE=0 to run without it"
            )
        del kept
        return out

    def bind(self, store: KeyValueStore) -> None:
        """Note where a store's keys, values and scales lie."""
        self.store, f = store, self.forwards
        scales: list[int | None] = [None, None]
        if store.scales is not None:
            scales = [part.data_ptr() for part in store.scales]
            f.scale_stride = store.scales.stride(1) * store.scales.element_size()
        keys, values = store.stored_keys, store.stored_values
        f.key_stride = keys.stride(0) * keys.element_size()
        f.value_stride = values.stride(0) * values.element_size()
        self.arguments = a = arguments(store)
        a.heads, a.keys, a.values = self.model.config.num_heads, keys.data_ptr(), values.data_ptr()
        a.key_scales, a.value_scales = scales
        rotary = self.model.rotary
        if rotary is not None:
            a.planes, a.turned = self.model.config.num_planes, rotary.size
            a.is_interleaved = rotary.pairs == "interleaved"

    def room(self, a: Arguments) -> tuple[int, int]:
        """Scratch memory for so many tokens: its address and bytes."""
        needed = self.needed.get(a.num_tokens)
        if needed is None:
            needed = self.bytes_needed(ctypes.byref(self.network), ctypes.byref(a))
            self.needed[a.num_tokens] = needed
            if needed + 64 > len(self.scratch):
                self.scratch = torch.empty(needed + 64, dtype=torch.uint8)
                self.base = -(-self.scratch.data_ptr() // 64) * 64
        return self.base, needed

    def embedded(self, tokens: Sequence[int], places: Sequence[Sequence[int]]) -> Tensor:
        """The stream (T, C) as the first layer finds it."""
        ids, at = torch.tensor([tokens]), torch.tensor([places])
        x: Tensor = self.model.position(self.model.embedding(ids), at)
        return x[0].float().contiguous()

    def turn(self, places: Sequence[Sequence[int]]) -> array[int]:
        """Positions token by token; the angles of all of them stand ready."""
        rotary, n = self.model.rotary, self.network
        flat = array("i", (p for planes in zip(*places, strict=True) for p in planes))
        if rotary is not None and max(flat) >= n.num_positions:
            count = max(1024, 2 * max(flat))
            angles = rotary.angles(torch.arange(count)[None, None])
            self.angles = [part[0, :, 0].contiguous() for part in angles]  # (positions, R/2)
            n.cos, n.sin = (part.data_ptr() for part in self.angles)
            n.num_positions = count
        return flat

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (…, V) in float32 of the token after each hidden state."""
        return native.linear(hidden.flatten(0, -2), self.head).view(*hidden.shape[:-1], -1)

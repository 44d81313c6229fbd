"""Our network with its modules where the official code has them, so that official tensor names,
LoRA adapters and `_no_split_modules` fit; the forward is the network's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from chatglm.adapters.prefix import learned_prefix
from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.names import RULES
from chatglm.config import ModelConfig
from chatglm.model import Transformer
from chatglm.model.attention import Attention
from chatglm.model.mlp import MLP as OurMLP
from chatglm.model.position import PositionEmbedding
from chatglm.model.surgery import replace_module
from chatglm.model.transformer import Layer, WordEmbedding
from chatglm.quantization.official import OfficialLinear


class Elsewhere(nn.Module):
    """Finds the modules that our code asks for at their official places.

    places: our name → the official one, dotted, below `root`; without a root, below this module.
    """

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        places: Mapping[str, str] = self.__dict__.get("places", {})
        if name not in places:
            return super().__getattr__(name)
        root: nn.Module = self.__dict__.get("root", self)
        return root.get_submodule(places[name])


class Network(Elsewhere, Transformer):
    """The whole, which owns no module: all are in the official tree."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (…, V) of the next word in float32; what was put in the table's place, resized or
        under an adapter, is multiplied by its weight.
        """
        if self.config.tied:
            weight = self.embedding.weight
            return nn.functional.linear(hidden, weight).float()
        return super().logits(hidden)


class Backbone(nn.Module):
    """The official tree without its head; called, it gives the hidden states of its model."""

    def forward(self, *inputs: object, **settings: object) -> object:
        """Last hidden states (B, T, C) as `last_hidden_state`."""
        return self.__dict__["model"].states(*inputs, **settings)


class Positions(Elsewhere, PositionEmbedding):
    """Learned position tables, which the official tree keeps beside the layers."""


class Words(WordEmbedding):
    """Word embeddings that let pass what is embedded already (`inputs_embeds`)."""

    def forward(self, input: Tensor) -> Tensor:
        """Rows (B, T, C) of ids (B, T)."""
        return input if input.is_floating_point() else super().forward(input)


class GLMBlock(GradientCheckpointingLayer, Elsewhere, Layer):
    """A layer under its official name."""


class SelfAttention(Elsewhere, Attention):
    """Attention whose `query_key_value` is ours."""


class HeadwiseAttention(SelfAttention):
    """Attention whose `query_key_value` has query, key and value of a head together: its output is
    reordered and not its rows, so that an adapter on it stays in the official order.
    """

    @property
    def qkv(self) -> Callable[[Tensor], Tensor]:  # type: ignore[override]
        return self.by_kind

    def by_kind(self, x: Tensor) -> Tensor:
        """All queries, then all keys, then all values: (B, T, 3·H·D)."""
        linear = self.get_submodule("query_key_value")
        by_head = linear(x).unflatten(-1, (-1, 3, self.head_dim))  # (B, T, H, 3, D)
        return by_head.transpose(-3, -2).flatten(-3)


class MLP(Elsewhere, OurMLP):
    """The block between attentions under its official names."""


class PrefixEncoder(nn.Module):
    """The learned prefix of P-tuning v2 under its official names."""

    def __init__(self, shape: ModelConfig, length: int, *, projects: bool) -> None:
        super().__init__()
        width = shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim
        inner = shape.hidden_size if shape.context == "prefix" else width
        self.shape = shape
        self.embedding = nn.Embedding(length, inner if projects else width)
        if projects:
            hidden = shape.hidden_size
            self.trans = nn.Sequential(
                nn.Linear(inner, hidden), nn.Tanh(), nn.Linear(hidden, width)
            )

    def forward(self) -> Tensor:
        """Keys and values (L, 2, G, N, D)."""
        return learned_prefix(dict(self.named_parameters()), self.shape)


def official_places(format: Format) -> dict[str, dict[str, str]]:
    """The official place of each module by the module of ours that has it: of the `network` and
    its `position`, seen from the root; of the `layer`, its `attention` and its `mlp`, seen from
    themselves.
    """
    found: dict[str, dict[str, str]] = {
        name: {} for name in ("network", "position", "layer", "attention", "mlp")
    }
    for rule in RULES[format]:
        root, inside, theirs = rule.theirs[0].partition(".{i}.")
        if not inside:
            owner, _, ours = rule.ours.rpartition(".")
            found[owner or "network"][ours] = rule.theirs[0]
            continue
        found["network"]["layers"] = root
        owner = "layer"
        pairs = zip(rule.ours.split(".")[2:], theirs.split("."), strict=True)
        for ours, official in pairs:
            if ours != official:
                found[owner][ours] = official
            owner = ours
    return found


def build_network(root: nn.Module, shape: ModelConfig, format: Format) -> Network:
    """The network, its modules placed below `root` as the official code has them."""
    network = Transformer(shape)
    places = official_places(format)
    network.embedding.__class__ = Words
    is_headwise = any(rule.transform == "heads" for rule in RULES[format])
    for layer in network.layers:
        assert isinstance(layer, Layer)
        kind = HeadwiseAttention if is_headwise else SelfAttention
        rename(layer.attention, kind, places["attention"])
        rename(layer.mlp, MLP, places["mlp"])
        rename(layer, GLMBlock, places["layer"])
    move(network.position, Positions, places["position"], root)
    move(network, Network, places["network"], root)
    assert isinstance(network, Network)
    return network


def rename(module: nn.Module, kind: type[Elsewhere], places: Mapping[str, str]) -> None:
    """Give a module's children their official names."""
    children = dict(module.named_children())
    for ours in children:
        delattr(module, ours)
    module.__class__ = kind
    for ours, child in children.items():
        module.add_module(places.get(ours, ours), child)
    module.__dict__["places"] = places


def move(
    module: nn.Module, kind: type[Elsewhere], places: Mapping[str, str], root: nn.Module
) -> None:
    """Hand a module's children over to the official tree."""
    children = {name: child for name, child in module.named_children() if name in places}
    for ours, child in children.items():
        delattr(module, ours)
        plant(root, places[ours], child)
    module.__class__ = kind
    module.__dict__["places"] = {ours: places[ours] for ours in children}
    module.__dict__["root"] = root


def plant(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module at a dotted name, with plain containers on the way there."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(leaf, module)


def quantize_layers(layers: nn.Module, bits: int) -> None:
    """Put empty modules of ChatGLM's own quantized layout in the place of the layers' linears."""
    if bits not in (4, 8):
        raise ValueError(f"quantization_bit must be 4, 8 or 0 for none, got {bits}")
    for name, module in list(layers.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        rows, columns = module.weight.shape
        weight = torch.zeros(rows, columns * bits // 8, dtype=torch.int8)
        scale = torch.ones(rows, dtype=torch.float16)
        new = OfficialLinear(weight, scale, module.bias is not None, columns)
        replace_module(layers, name, new)

"""P-tuning v2 (arXiv:2110.07602): keys and values that every sequence starts with, learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.config import ModelConfig
from chatglm.model import Transformer, causal_mask
from chatglm.model.attention import attend
from chatglm.model.position import Rotary, yarn_strength


def learned_prefix(tensors: Mapping[str, Tensor], config: ModelConfig) -> Tensor:
    """Keys and values (L, 2, G, N, D) from the tensors of an official `prefix_encoder`.

    embedding.weight (N, L·2·G·D) holds them directly; with prefix_projection it is (N, C) and goes
    through trans.0, a tanh and trans.2.
    """
    table = table_of(tensors)
    num_learned = table.shape[0]
    width = prefix_width(config)
    if table.shape[1] != width:
        raise ValueError(
            f"the prefix encoder gives {table.shape[1]} numbers a position and the model needs "
            f"{width}; "
            "it was trained on another base"
        )
    shape = (num_learned, config.num_layers, 2, config.num_kv_heads, config.head_dim)
    return table.view(shape).permute(1, 2, 3, 0, 4).contiguous()


def shifted(prefix: Tensor, config: ModelConfig, by: int) -> Tensor:
    """The keys and values (L, 2, G, N, D) that have the same effect when all that follows them
    stands `by` places further on; where positions are learned there are none, and it stays.

    PEFT counts learned positions and the official code does not: keys are turned by as many places
    between the two.
    """
    if not config.position.startswith("rope"):
        return prefix
    rotary = Rotary(config)
    keys = prefix[:, 0].float().transpose(1, 2)  # (L, N, G, D)
    places = torch.full((1, config.num_planes, keys.shape[1]), by, device=prefix.device)
    cos, sin = rotary.angles(places)
    strength = yarn_strength(config.rope_scaling)
    turned = rotary.rotate(keys, cos / strength, sin / strength).transpose(1, 2)
    return torch.stack((turned.to(prefix.dtype), prefix[:, 1]), 1)


def from_peft(table: Tensor, config: ModelConfig) -> Tensor:
    """Keys and values (L, 2, G, N, D) from PEFT's numbers (N, L·2·G·D)."""
    prefix = learned_prefix({"embedding.weight": table.float()}, config)
    return shifted(prefix, config, -table.shape[0])


def to_peft(prefix: Tensor, config: ModelConfig) -> Tensor:
    """PEFT's numbers (N, L·2·G·D) of keys and values (L, 2, G, N, D)."""
    return shifted(prefix, config, prefix.shape[3]).permute(3, 0, 1, 2, 4).flatten(1)


def prefix_width(config: ModelConfig) -> int:
    """Numbers of one learned position: keys and values of every layer."""
    return config.num_layers * 2 * config.num_kv_heads * config.head_dim


def table_of(tensors: Mapping[str, Tensor]) -> Tensor:
    """The numbers (N, L·2·G·D) that an encoder's tensors give."""
    table = tensors["embedding.weight"]
    if "trans.0.weight" in tensors:
        table = torch.tanh(F.linear(table, tensors["trans.0.weight"], tensors["trans.0.bias"]))
        table = F.linear(table, tensors["trans.2.weight"], tensors["trans.2.bias"])
    return table


class PrefixEncoder(nn.Module):
    """The learned prefix under its official names: the numbers themselves, or what a small network
    makes of one vector a position (`projects`).
    """

    def __init__(
        self, config: ModelConfig, length: int, *, projects: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        width = prefix_width(config)
        hidden = config.hidden_size
        self.embedding = nn.Embedding(length, hidden if projects else width)
        if projects:
            self.trans = nn.Sequential(
                nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, width)
            )
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                else:
                    parameter.normal_(0.0, 0.02, generator=generator)
            if projects:
                self.embedding.weight.mul_(50)

    @torch.no_grad()
    def start_from(self, prefix: Tensor) -> None:
        """Begin with the keys and values (L, 2, G, N, D) of words; not for an encoder that
        projects.
        """
        self.embedding.weight.copy_(prefix.permute(3, 0, 1, 2, 4).flatten(1))

    def forward(self) -> Tensor:
        """Keys and values (L, 2, G, N, D)."""
        return learned_prefix(dict(self.named_parameters()), self.config)


class Start:
    """A cache that holds a learned prefix (L, 2, G, N, D) and nothing else."""

    def __init__(self, prefix: Tensor) -> None:
        self.prefix = prefix

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """What q (B, H, T, D) reads of the prefix and of k, v (B, G, T, D)."""
        first = self.prefix[layer].to(k.dtype)[:, None].expand(2, len(k), -1, -1, -1)
        return attend(q, torch.cat((first[0], k), 2), torch.cat((first[1], v), 2), mask)


class Listener:
    """A cache that remembers the keys and values of a text, to begin a prefix with."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention as it is without a cache."""
        self.heard.append(torch.stack((k[0], v[0])))  # (2, G, T, D)
        return attend(q, k, v, mask)


class PrefixTuned(nn.Module):
    """A network that stays as it is and the prefix that is learned for it, to be called as the
    network.
    """

    def __init__(self, base: Transformer, encoder: PrefixEncoder) -> None:
        super().__init__()
        self.base = base
        self.encoder = encoder
        self.config = base.config

    def forward(
        self, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Hidden states (B, T, C); positions do not count the prefix, and all tokens see it."""
        prefix = self.encoder()
        if mask is None:
            mask = causal_mask(tokens.shape[1], device=tokens.device)
        seen = mask.new_ones(*mask.shape[:3], prefix.shape[3])
        hidden: Tensor = self.base(tokens, positions, torch.cat((seen, mask), -1), Start(prefix))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (…, V) of the next word in float32."""
        return self.base.logits(hidden)


@torch.no_grad()
def heard_from(base: Transformer, tokens: Tensor) -> Tensor:
    """Keys and values (L, 2, G, N, D) that a text's tokens (N,) leave."""
    listener = Listener()
    base(tokens[None], None, None, listener)
    return torch.stack(listener.heard).float()

"""The one transformer of the family; its config says which generation it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.config import ModelConfig
from chatglm.model.attention import Attendable, Attention
from chatglm.model.mlp import MLP, ExpertMLP
from chatglm.model.position import PositionEmbedding, Rotary


def make_norm(config: ModelConfig) -> nn.Module:
    """The config's norm over the hidden width; statistics are float32 whatever the dtype."""
    kind = nn.LayerNorm if config.norm == "layernorm" else nn.RMSNorm
    return kind(config.hidden_size, eps=config.norm_eps)


class Layer(nn.Module):
    """Attention, then MLP, joined to the stream as `config.residual` says."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.norm1 = make_norm(config)
        self.attention = Attention(config, index)
        self.norm2 = make_norm(config)
        experts = config.experts
        self.mlp: MLP | ExpertMLP = (
            MLP(config)
            if experts is None or index < experts.first_layer
            else ExpertMLP(config, experts)
        )
        self.residual = config.residual
        self.residual_scale = config.residual_scale
        if self.residual == "sandwich":
            self.norm1_post = make_norm(config)
            self.norm2_post = make_norm(config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Rotary, Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: Attendable | None,
    ) -> Tensor:
        """Hidden states (B, T, C) after this layer."""
        normed = self.norm1(x)
        y = self.attention(normed, rotary, mask, cache)
        if self.residual == "sandwich":
            y = self.norm1_post(y)
        x = self.join(x, normed, y)
        normed = self.norm2(x)
        y = self.mlp(normed)
        if self.residual == "sandwich":
            y = self.norm2_post(y)
        return self.join(x, normed, y)

    def join(self, x: Tensor, normed: Tensor, y: Tensor) -> Tensor:
        """The stream x, or the normed input in its place, with a block's output y added."""
        return normed * self.residual_scale + y if self.residual == "normed" else x + y


class WordEmbedding(nn.Embedding):
    """The table of words, which multiplies hidden states where it is the output head as well."""

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores (…, V) of words after hidden states (…, C)."""
        return F.linear(hidden, self.weight)


class Transformer(nn.Module):
    """Tokens to hidden states; `logits` is apart, asked for only where it is needed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = WordEmbedding(config.vocab_size, config.hidden_size)
        self.position = PositionEmbedding(config)
        self.rotary = Rotary(config) if config.position.startswith("rope") else None
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_layers))
        self.norm = make_norm(config) if config.final_norm else nn.Identity()
        if not config.tied:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Attendable | None = None,
    ) -> Tensor:
        """Hidden states (B, T, C) of tokens (B, T) at positions (B, P, T).

        positions None: counting from 0 in the first plane. mask (B, 1, T, S), True = may look;
        None: causal. A cache keeps keys and values and attends over what it holds; S then counts
        its tokens too.
        """
        if positions is None:
            positions = self.count(tokens)
        x = self.position(self.embedding(tokens), positions)  # (B, T, C)
        rotary = None
        if self.rotary is not None:
            rotary = (self.rotary, *self.rotary.angles(positions))
        for layer in self.layers:
            x = layer(x, rotary, mask, cache)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (…, V) of the next word in float32."""
        scores = self.embedding.scores if self.config.tied else self.head
        return scores(hidden).float()

    def count(self, tokens: Tensor) -> Tensor:
        """Position ids (B, P, T) of plain left to right: 0, 1, 2 … and 0 in a second plane."""
        batch, length = tokens.shape
        first = torch.arange(length, device=tokens.device).expand(batch, 1, length)
        if self.config.num_planes == 1:
            return first
        return torch.cat((first, torch.zeros_like(first)), 1)

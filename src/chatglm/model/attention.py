"""Self-attention with grouped keys and values; where keys are kept is the cache's affair."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.config import ModelConfig
from chatglm.model import blocked
from chatglm.model.position import Rotary


class Attendable(Protocol):
    """A cache: keeps the keys and values of a layer and attends over all that it holds."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Store k and v (B, G, T, D) and return what q (B, H, T, D) reads: (B, H, T, D)."""
        ...


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention of q (B, H, T, D) over k, v (B, G, S, D); mask None = causal."""
    if blocked.fits(q):
        return blocked.attend(q, k, v, mask)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        mask,
        is_causal=mask is None and q.shape[2] > 1,
        enable_gqa=q.shape[1] != k.shape[1],
    )


class Attention(nn.Module):
    """Queries, keys and values from one linear; rows: all query heads, key heads, value heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.widths = (
            config.num_heads * config.head_dim,
            config.num_kv_heads * config.head_dim,
            config.num_kv_heads * config.head_dim,
        )
        self.qkv = nn.Linear(config.hidden_size, sum(self.widths), bias=config.bias != "none")
        self.out = nn.Linear(self.widths[0], config.hidden_size, bias=config.bias == "all")
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = nn.RMSNorm(config.head_dim, config.norm_eps)
        self.qk_norm = config.qk_norm

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Rotary, Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: Attendable | None,
    ) -> Tensor:
        """What each token reads (B, T, C) from those that the mask (B, 1, T, S) lets it see."""
        num_turned = (self.widths[0] + self.widths[1]) // self.head_dim
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # (B, T, H + 2G, D)
        qk, v = heads[:, :, :num_turned], heads[:, :, num_turned:]
        num_heads = self.widths[0] // self.head_dim
        if self.qk_norm:
            q, k = qk[:, :, :num_heads], qk[:, :, num_heads:]
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), 2)
        if rotary is not None:
            rope, cos, sin = rotary
            qk = rope.rotate(qk, cos, sin)
        q, k = qk[:, :, :num_heads], qk[:, :, num_heads:]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or G, T, D)
        y = attend(q, k, v, mask) if cache is None else cache.attend(self.layer, q, k, v, mask)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, C)

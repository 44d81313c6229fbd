"""Attention whose rotary positions, cache and sums are one call of kernels for a whole layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from chatglm.model.attention import Attention
from chatglm.model.position import Rotary

if TYPE_CHECKING:
    from chatglm.generation.cache import KeyValueStore


class JoinedCall(Protocol):
    """A cache whose kernels take the heads of a forward as its linears give them."""

    store: KeyValueStore

    def turn(self, rope: Rotary, cos: Tensor, sin: Tensor) -> None:
        """Take the angles (1, T, P, R/2) of this forward."""

    def attend_joined(self, layer: int, rows: Tensor) -> Tensor:
        """What the queries read, (1, T, H·D), from rows (1, T, (H + 2G)·D) of query, key and value
        heads; keys and values are kept.
        """
        ...

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The same for heads apart that have been turned already: q (1, H, T, D) and k, v
        (1, G, T, D).
        """
        joined = torch.cat((q, k, v), 1).transpose(1, 2).flatten(2)  # (1, T, (H + 2G)·D)
        out = self.attend_joined(layer, joined)
        return out.unflatten(-1, (-1, self.store.width)).transpose(1, 2)


class JoinedAttention(nn.Module):
    """A layer's attention by one such call."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.layer = attention.layer
        self.qkv, self.out = attention.qkv, attention.out

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Rotary, Tensor, Tensor] | None,
        mask: Tensor | None,
        cache: JoinedCall,
    ) -> Tensor:
        """What each token reads (1, T, C)."""
        if rotary is not None:
            cache.turn(*rotary)
        y: Tensor = self.out(cache.attend_joined(self.layer, self.qkv(x)))
        return y

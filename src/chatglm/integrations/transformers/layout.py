"""Positions and masks of padded batches, as transformers passes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm.checkpoint import Layout
from chatglm.config import ModelConfig
from chatglm.model import causal_mask


@dataclass(frozen=True)
class Places:
    """Where the tokens of each row stand.

    index (B, T): number of real tokens before each, from 0. prefix (B,): number of context tokens.
    hole (B,): index of the blank that the tokens after the context fill, −1 for none.
    """

    index: Tensor
    prefix: Tensor
    hole: Tensor

    def positions(self, num_planes: int) -> Tensor:
        """Position ids (B, P, T); see `chatglm.prompt.place`, of which this is the batched form."""
        if num_planes == 1:
            return self.positions(2).sum(1, keepdim=True)
        prefix = self.prefix[:, None]
        hole = torch.where(self.hole < 0, self.prefix - 1, self.hole)[:, None]
        is_context = (self.index < prefix) | (prefix == 0)
        first = torch.where(is_context, self.index, hole)
        second = torch.where(is_context, 0, self.index - prefix + 1)
        return torch.stack((first, second), 1)


def read_places(tokens: Tensor, keep: Tensor | None, config: ModelConfig, ids: Layout) -> Places:
    """Where tokens (B, T) stand: a prefix model's context ends before `sop`, its blank is the first
    [gMASK], else the first [MASK] in the context; a row without `sop` is plain left to right.

    keep (B, T): False for padding; None: no padding.
    """
    real = torch.ones_like(tokens, dtype=torch.bool) if keep is None else keep
    index = (real.long().cumsum(-1) - 1).clamp(min=0)
    nothing = index.new_zeros(len(tokens))
    if config.context == "causal" or ids.sop < 0:
        return Places(index, nothing, nothing - 1)
    prefix = first_index((tokens == ids.sop) & real, index)
    in_context = real & (index < prefix[:, None])
    gmask = first_index((tokens == ids.gmask) & in_context, index)
    mask = first_index((tokens == ids.mask) & in_context, index)
    return Places(index, prefix.clamp(min=0), torch.where(gmask >= 0, gmask, mask))


def first_index(found: Tensor, index: Tensor) -> Tensor:
    """The index (B,) of the first column that is True in found (B, T); −1 where none is."""
    first = index.gather(1, found.long().argmax(1, keepdim=True))[:, 0]
    return torch.where(found.any(1), first, -1)


def seen(places: Places, keep: Tensor | None, *, past: int, num_learned: int = 0) -> Tensor | None:
    """Whom the tokens may look at: (B, 1, T, N + S), S counting the `past` tokens; None: causal.

    keep (B, S): False for padding, past tokens included. A padded token looks at all, since to look
    at none is no number.
    """
    length = places.index.shape[1]
    no_padding = keep is None or bool(keep.all())
    if past == 0 and num_learned == 0 and no_padding and not places.prefix.any():
        return None
    mask = causal_mask(length, past + length, device=places.index.device)
    in_context = (places.index < places.prefix[:, None])[:, None, None]  # (B, 1, 1, T)
    mask = mask | torch.nn.functional.pad(in_context, (past, 0))
    if not no_padding:
        assert keep is not None
        mask = mask & keep[:, None, None]
    return with_learned(mask | ~mask.any(-1, keepdim=True), num_learned)


def with_learned(mask: Tensor, num_learned: int) -> Tensor:
    """The mask with a learned prefix in front, which all see."""
    return torch.nn.functional.pad(mask, (num_learned, 0), value=True) if num_learned else mask


def extended(positions: Tensor, length: int) -> Tensor:
    """Given position ids (B, P, T) or (B, T) of a prompt, up to `length`: what fills a blank goes
    on filling it.
    """
    planes = positions if positions.dim() == 3 else positions[:, None]
    more = length - planes.shape[2]
    if more <= 0:
        return planes[..., :length]
    steps = torch.arange(1, more + 1, device=planes.device)
    last = planes[..., -1:]  # (B, P, 1)
    following = last + steps
    if planes.shape[1] == 2:
        is_context = last[:, 1] == 0  # (B, 1)
        first = torch.where(is_context, following[:, 0], last[:, 0])
        second = torch.where(is_context, 0, following[:, 1])
        following = torch.stack((first, second), 1)
    return torch.cat((planes, following), -1)

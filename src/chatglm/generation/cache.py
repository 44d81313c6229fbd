"""Keys and values of running sequences, and the mask and positions that go with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from chatglm.config import ModelConfig
from chatglm.model.attention import attend
from chatglm.prompt import Prompt, positions


class SequenceCache:
    """Keys and values of one sequence, all layers, in buffers that grow by half when they are full.

    learned_prefix: (L, 2, G, N, D), keys and values that the sequence starts with (P-tuning v2);
    positions do not count them.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        learned_prefix: Tensor | None = None,
        capacity: int = 64,
    ) -> None:
        self.num_learned = 0 if learned_prefix is None else learned_prefix.shape[3]
        capacity += self.num_learned
        shape = (config.num_layers, 2, config.num_kv_heads, capacity, config.head_dim)
        self.buffer = torch.empty(shape, dtype=dtype, device=device)  # (L, 2, G, capacity, D)
        if learned_prefix is not None:
            self.buffer[:, :, :, : self.num_learned] = learned_prefix.to(self.buffer)
        self.length = 0  # tokens whose keys are kept; the learned prefix is not counted
        self.layers = self.buffer.flatten(0, 1).unbind(0)  # 2L of (G, capacity, D)

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in all."""
        needed, capacity = length + self.num_learned, self.buffer.shape[3]
        if needed > capacity:
            more = max(needed, capacity + capacity // 2) - capacity
            self.buffer = F.pad(self.buffer, (0, 0, 0, more))
            self.layers = self.buffer.flatten(0, 1).unbind(0)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Keep k, v (1, G, T, D) behind what is there; q (1, H, T, D) reads all: (1, H, T, D)."""
        start = self.num_learned + self.length
        length = k.shape[2]
        keys, values = self.layers[2 * layer], self.layers[2 * layer + 1]  # (G, capacity, D)
        keys.narrow(1, start, length).copy_(k[0])
        values.narrow(1, start, length).copy_(v[0])
        keys = keys.narrow(1, 0, start + length).unsqueeze(0)  # (1, G, S, D)
        values = values.narrow(1, 0, start + length).unsqueeze(0)
        if length > 1:
            return attend(q, keys, values, mask)
        # One query: the heads of a group stand as its rows, so that keys need no repeating.
        grouped = q.reshape(1, keys.shape[1], -1, q.shape[3])  # (1, G, H/G, D)
        return F.scaled_dot_product_attention(grouped, keys, values).reshape(q.shape)


class BatchCache:
    """The caches of several sequences as one: row b of the batch belongs to sequence b.

    Each row attends alone, over its own keys and no padding, so that its result is the same in any
    company.
    """

    def __init__(self, sequences: Sequence[SequenceCache]) -> None:
        self.sequences = sequences

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Each row reads its own sequence: (B, H, T, D)."""
        if len(self.sequences) == 1:
            return self.sequences[0].attend(layer, q, k, v, mask)
        rows = zip(self.sequences, q.split(1), k.split(1), v.split(1), strict=True)
        return torch.cat([cache.attend(layer, a, b, c, mask) for cache, a, b, c in rows])

    def advance(self, num_tokens: int) -> None:
        """Count the tokens of a finished forward."""
        for sequence in self.sequences:
            sequence.length += num_tokens


def position_ids(
    prompt: Prompt, length: int, config: ModelConfig, device: torch.device, start: int = 0
) -> Tensor:
    """Position ids (1, P, length − start) of a prompt's tokens and of those that follow it."""
    return torch.tensor([positions(prompt, length, config.num_planes, start)], device=device)


def attention_mask(
    prompt: Prompt,
    config: ModelConfig,
    device: torch.device,
    *,
    start: int,
    stop: int,
    num_learned: int = 0,
) -> Tensor | None:
    """Whom the tokens `start` to `stop` may look at: (1, 1, T, N + stop); None: plainly causal."""
    prefix = prompt.prefix if config.context == "prefix" else 0
    if stop - start == 1 or (start == 0 and prefix <= 1 and num_learned == 0):
        return None
    rows = torch.arange(start, stop, device=device)[:, None]
    columns = torch.arange(-num_learned, stop, device=device)[None, :]
    return ((columns <= rows) | (columns < prefix))[None, None]

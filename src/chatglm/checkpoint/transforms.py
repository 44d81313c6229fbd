"""What is done to rows between a file and the network; each can be undone to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from chatglm.config import ModelConfig

Transform = Literal["same", "join", "heads"]


def to_ours(transform: Transform, tensors: Sequence[Tensor], config: ModelConfig) -> Tensor:
    """A parameter of ours from the file's tensors."""
    if transform == "join":
        return torch.cat(list(tensors))
    if transform == "heads":
        rows = tensors[0]  # head by head: query, key, value
        by_head = rows.unflatten(0, (config.num_heads, 3, config.head_dim))
        return by_head.transpose(0, 1).flatten(0, 2).contiguous()
    return tensors[0]


def to_theirs(transform: Transform, tensor: Tensor, config: ModelConfig, ours: str) -> list[Tensor]:
    """The file's tensors from a parameter of ours."""
    if transform == "join":
        return [part.contiguous() for part in tensor.split(part_sizes(len(tensor), config, ours))]
    if transform == "heads":
        by_kind = tensor.unflatten(0, (3, config.num_heads, config.head_dim))
        return [by_kind.transpose(0, 1).flatten(0, 2).contiguous()]
    return [tensor]


def part_sizes(rows: int, config: ModelConfig, ours: str) -> list[int]:
    """Rows of each part of a joined parameter: queries, keys, values; or gate and value."""
    if ".qkv." in ours:
        keys = config.num_kv_heads * config.head_dim
        return [config.num_heads * config.head_dim, keys, keys]
    return [rows // 2] * 2

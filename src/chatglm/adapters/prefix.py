"""P-tuning v2 (arXiv:2110.07602): keys and values that every sequence starts with, learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from chatglm.config import ModelConfig


def learned_prefix(tensors: Mapping[str, Tensor], config: ModelConfig) -> Tensor:
    """Keys and values (L, 2, G, N, D) from the tensors of an official `prefix_encoder`.

    embedding.weight (N, L·2·G·D) holds them directly; with prefix_projection it is (N, C) and goes
    through trans.0, a tanh and trans.2.
    """
    table = tensors["embedding.weight"]
    if "trans.0.weight" in tensors:
        table = torch.tanh(
            torch.nn.functional.linear(table, tensors["trans.0.weight"], tensors["trans.0.bias"])
        )
        table = torch.nn.functional.linear(
            table, tensors["trans.2.weight"], tensors["trans.2.bias"]
        )
    num_learned = table.shape[0]
    width = config.num_layers * 2 * config.num_kv_heads * config.head_dim
    if table.shape[1] != width:
        raise ValueError(
            f"the prefix encoder gives {table.shape[1]} numbers a position and the model needs "
            f"{width}; "
            "it was trained on another base"
        )
    shape = (num_learned, config.num_layers, 2, config.num_kv_heads, config.head_dim)
    return table.view(shape).permute(1, 2, 3, 0, 4).contiguous()

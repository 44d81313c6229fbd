"""Packed rows as tensors for a model."""

from __future__ import annotations

import torch

from chatglm.config import ModelConfig
from chatglm.data.pack import Rows
from chatglm.training.batch import Batch


def as_batch(rows: Rows, config: ModelConfig) -> Batch:
    """Packed rows as tensors for a model: one position plane has the sums of the two, from 0 on for
    every piece of an example, and a causal model has no prefix.
    """
    tokens = torch.from_numpy(rows.tokens)
    documents = torch.from_numpy(rows.documents)
    positions = torch.from_numpy(rows.positions)  # (B, 2, T)
    if config.num_planes == 1:
        sums = positions.sum(1)
        index = torch.arange(tokens.shape[1]).expand_as(tokens)
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        start = torch.where(begins, index, 0).cummax(1).values
        positions = (sums - sums.gather(1, start))[:, None]  # (B, 1, T)
    return Batch(
        tokens=tokens,
        labels=torch.from_numpy(rows.labels),
        positions=positions,
        documents=documents,
        prefix=torch.from_numpy(rows.prefix) if config.context == "prefix" else None,
    )

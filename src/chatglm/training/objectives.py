"""What a step lowers: the objective is the part of the one loop that is swapped."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from chatglm.adapters.prefix import PrefixTuned
from chatglm.data.epochs import rounded
from chatglm.model import Transformer
from chatglm.model.transformer import WordEmbedding
from chatglm.parallel.group import is_sharded
from chatglm.training.batch import Batch
from chatglm.training.loss import word_loss

Network = Transformer | PrefixTuned
"""What is trained: tokens to hidden states, hidden states to logits."""


class Objective(Protocol):
    """Summed loss and the number of targets it sums over; the trainer divides by the whole step's
    number.
    """

    def __call__(self, model: Network, batch: Batch, /) -> tuple[Tensor, Tensor]:
        """Loss () in nats, with a gradient, and targets ()."""
        ...


def next_word_loss(model: Network, batch: Batch, *, chunk: int = 0) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of the labels (−100 = no loss) and their number, in one forward.

    Serves causal, blank-infilling, masked and chat examples alike: they differ in labels,
    positions and mask.
    chunk: tokens whose logits exist at once; 0 for all.
    """
    hidden = model(batch.tokens, batch.positions, batch.mask()).flatten(0, 1)  # (N, C)
    labels = batch.labels.flatten()  # (N,)
    learnt = labels != -100
    count = learnt.sum()
    head = None if torch.compiler.is_compiling() else plain_head(model)
    if batch.is_padded or head is not None:  # questions and padding need no logits
        hidden, labels = hidden[learnt], labels[learnt]
        more = rounded(len(labels)) - len(labels)
        hidden, labels = F.pad(hidden, (0, 0, 0, more)), F.pad(labels, (0, more), value=-100)
    if head is not None and torch.is_grad_enabled():
        return word_loss(hidden, head, labels, chunk), count
    if chunk <= 0 or chunk >= len(labels):
        return summed_cross_entropy(model, hidden, labels), count
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, target in zip(hidden.split(chunk), labels.split(chunk), strict=True):
        # The logits of a chunk are made again in the backward pass and never kept.
        total = total + checkpoint(
            summed_cross_entropy, model, part, target, use_reentrant=False, preserve_rng_state=False
        )
    return total, count


def plain_head(model: Network) -> Tensor | None:
    """The matrix (V, C) that makes logits; None where it is quantized, adapted or in pieces."""
    network = model.base if isinstance(model, PrefixTuned) else model
    if not isinstance(network, Transformer):
        return None
    module = network.embedding if network.config.tied else network.head
    is_plain = type(module) in (WordEmbedding, nn.Linear)
    is_whole = is_plain and len(module.weight) == network.config.vocab_size
    # Between forward and backward the head of a network in pieces is whole, its layers are not.
    is_whole = is_whole and not any(is_sharded(parameter) for parameter in network.parameters())
    return module.weight if is_whole else None


def chunked(chunk: int) -> Objective:
    """`next_word_loss` with a chunk size."""

    def objective(model: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        return next_word_loss(model, batch, chunk=chunk)

    return objective


def summed_cross_entropy(model: Network, hidden: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of labels (N,) under hidden states (N, C), summed, in float32."""
    return F.cross_entropy(model.logits(hidden), labels, ignore_index=-100, reduction="sum")

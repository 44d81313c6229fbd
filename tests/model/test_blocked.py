"""Attention for training, beside the same in double precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from chatglm.model import blocked, document_mask


def exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention in double precision, with as many key heads as query heads."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("kind", ["causal", "documents", "prefix"])
def test_blocked_attention_is_as_near_to_exact_as_bfloat16_is(kind: str) -> None:
    torch.manual_seed(0)
    length = blocked.BLOCK + 9
    q, k, v = (torch.randn(2, h, length, 16).bfloat16() for h in (4, 2, 2))
    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    if kind == "documents":
        documents = (torch.arange(length) // 50).expand(2, -1)
        mask = document_mask(documents, torch.arange(length).expand(2, -1) % 50 < 7)
    if kind == "prefix":  # keys of a learned prefix before those of the text
        k, v = (torch.cat((torch.randn(2, 2, 5, 16).bfloat16(), x), 2) for x in (k, v))
        mask = torch.cat((mask.new_ones(1, 1, length, 5), mask), -1)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    precise = [x.detach().double().requires_grad_() for x in inputs]
    weight = torch.randn(2, 4, length, 16)

    def run(attend: Callable[..., Tensor], tensors: list[Tensor], seen: Tensor | None) -> list:
        y = attend(*tensors, seen)
        grads = torch.autograd.grad((y * weight.to(y.dtype)).sum(), tensors)
        return [y.detach(), *grads]

    found = run(blocked.attend, inputs, None if kind == "causal" else mask)
    for a, b in zip(found, run(exact, precise, mask), strict=True):
        assert (a - b).norm() < 0.01 * b.norm()

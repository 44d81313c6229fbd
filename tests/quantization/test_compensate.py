"""Rounding that is made up for: GPTQ beside its plain formula and rounding to the nearest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.quantization.compensate import (
    DAMPING,
    best_scale,
    compensate,
    compensated,
    loss,
    restored,
)
from chatglm.quantization.linear import to_integers
from chatglm.quantization.tiles import Bits

schemes = pytest.mark.parametrize(
    ("bits", "group", "symmetric"), [(4, 32, True), (4, 64, True), (4, 32, False), (8, 64, True)]
)


def random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def moments(columns: int, count: int = 400, seed: int = 1) -> torch.Tensor:
    """Σ x xᵀ of inputs that hang together, as a network's do."""
    x = random(count, columns, seed) @ (random(columns, columns, seed + 1) + torch.eye(columns))
    return x.T @ x


def plain(
    weight: torch.Tensor, h: torch.Tensor, bits: Bits, group: int, symmetric: bool
) -> torch.Tensor:
    """Each column rounded, its error spread by the inverse of what is left of H, in float64."""
    left, h = weight.double().clone(), h.double()
    inverse = torch.linalg.inv(h + DAMPING * h.diagonal().mean() * torch.eye(len(h)).double())
    result = torch.empty_like(left)
    for at in range(left.shape[1]):
        if at % group == 0:
            part = left[:, at : at + group].float()
            half, middle = best_scale(
                part, h.diagonal()[at : at + group].float(), bits, symmetric=symmetric
            )
        step = half.double()
        whole = (left[:, at] / step + middle).round().clamp(0, 2**bits - 1)
        result[:, at] = (whole - middle) * step
        error = (left[:, at] - result[:, at]) / inverse[at, at]
        left[:, at:] -= error[:, None] * inverse[at, at:]
        inverse = inverse - torch.outer(inverse[:, at], inverse[at]) / inverse[at, at]
    return result.float()


@schemes
def test_the_whole_numbers_are_those_of_the_plain_formula(
    bits: Bits, group: int, symmetric: bool
) -> None:
    weight, h = random(5, 150), moments(150)
    found = restored(compensate(weight, h, bits, group, symmetric=symmetric), bits, group)
    expected = plain(weight, h, bits, group, symmetric)
    # A sum that is just between two whole numbers may fall to either; then later ones differ too.
    is_same = (found - expected).abs() < 1e-4
    assert is_same.float().mean() > 0.97
    error, other = found - weight, expected - weight
    mine, theirs = ((e @ h * e).sum(-1) for e in (error, other))
    torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.0)


@given(
    rows=st.integers(1, 20), columns=st.integers(1, 150), count=st.integers(0, 40),
    bits=st.sampled_from([4, 8]), symmetric=st.booleans(), group=st.sampled_from([32, 64, 128]),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_no_row_loses_more_than_by_rounding_to_the_nearest(
    rows: int, columns: int, count: int, bits: Bits, symmetric: bool, group: int
) -> None:
    weight, h = random(rows, columns), moments(columns, count)
    found = compensated(weight, h, bits, group, symmetric=symmetric)
    nearest = to_integers(weight, bits, group, symmetric=symmetric)
    for new, old in zip(found, nearest, strict=True):
        assert (new is None) == (old is None)
        if new is not None and old is not None:
            assert (new.shape, new.dtype) == (old.shape, old.dtype)
    mine, theirs = (loss(weight, i, h, bits, group) for i in (found, nearest))
    assert (mine <= theirs * (1 + 1e-5) + 1e-6).all()


def test_inputs_that_hang_together_lose_far_less() -> None:
    weight, h = random(32, 256), moments(256)
    mine = loss(weight, compensated(weight, h, 4, 32), h, 4, 32).sum()
    theirs = loss(weight, to_integers(weight, 4, 32), h, 4, 32).sum()
    assert mine < 0.6 * theirs


@pytest.mark.parametrize("value", [0.0, 1e4, -3.0, 1e-30])
def test_extreme_weights_and_inputs_that_never_come_stay_finite(value: float) -> None:
    weight, h = torch.full((3, 70), value), torch.zeros(70, 70)
    for symmetric in (True, False):
        found = restored(compensated(weight, h, 4, symmetric=symmetric), 4, 32)
        torch.testing.assert_close(found, weight, rtol=2e-3, atol=1e-7)

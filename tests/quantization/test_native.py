"""The native kernels against plain formulas, on every instruction set that this processor has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from chatglm.quantization import native
from chatglm.quantization.linear import Bits, dequantize, quantize, quantized

pytestmark = pytest.mark.skipif(
    native.best_level() < 0, reason="the native kernels were not built on this machine"
)
LEVELS = range(native.best_level() + 1)
sides = st.integers(1, 300)


def random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """x as 8 bits in groups of 32 hold it."""
    groups = F.pad(x, (0, -x.shape[1] % 32)).unflatten(-1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    whole = torch.where(scale > 0, groups / scale.clamp_min(1e-38), 0.0).round()
    return (whole * scale).flatten(1)[:, : x.shape[1]]


def expected(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (rounded(x).double() @ weight.double().t()).float()


@given(rows=sides, columns=sides, count=st.integers(1, 20), bits=st.sampled_from([4, 8]))
@settings(deadline=None, max_examples=80)
def test_every_shape_is_the_formula(rows: int, columns: int, count: int, bits: Bits) -> None:
    packed, scale = quantize(random(rows, columns), bits)
    x = random(count, columns, seed=1)
    reference = expected(x, dequantize(packed, scale, columns, bits, torch.float32))
    for level in LEVELS:
        y = native.linear(x, packed, scale, bits, level=level)
        # a value halfway between two steps may be rounded to either
        torch.testing.assert_close(y, reference, rtol=1e-3, atol=0.05)
        assert (y - reference).abs().median() < 1e-4


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("level", LEVELS)
def test_a_row_has_the_same_bits_in_any_company(bits: Bits, level: int) -> None:
    packed, scale = quantize(random(130, 500), bits)
    x = random(19, 500, seed=1)
    together = native.linear(x, packed, scale, bits, level=level)
    for i in range(len(x)):
        alone = native.linear(x[i : i + 1], packed, scale, bits, level=level)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("bits", [4, 8])
def test_any_number_of_threads_gives_the_same_bits(bits: Bits) -> None:
    packed, scale = quantize(random(1000, 700), bits)
    x = random(9, 700, seed=1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8, 2):
            torch.set_num_threads(threads)
            results += [native.linear(x, packed, scale, bits) for _ in range(20)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(y, results[0]) for y in results)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-30, 1e30])
def test_extreme_values_are_kept(bits: Bits, level: int, size: float) -> None:
    weight = torch.ones(3, 64)
    packed, scale = quantize(weight, bits)
    x = torch.full((2, 64), size)
    y = native.linear(x, packed, scale, bits, level=level)
    torch.testing.assert_close(y, x @ weight.t(), rtol=0.02, atol=1e-40)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_spoils_its_own_row_only(level: int, value: float) -> None:
    packed, scale = quantize(random(5, 96), 4)
    x = random(3, 96, seed=1)
    x[1, 40] = value
    y = native.linear(x, packed, scale, 4, level=level)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_may_lie_at_any_address(bits: Bits) -> None:
    packed, scale = quantize(random(7, 128), bits)
    x = random(2, 128, seed=1)
    reference = native.linear(x, packed, scale, bits)
    moved = torch.empty(packed.numel() + 1, dtype=packed.dtype)[1:].view_as(packed).copy_(packed)
    assert torch.equal(native.linear(x, moved, scale, bits), reference)


def test_nothing_in_gives_nothing_out() -> None:
    packed, scale = quantize(random(7, 128), 4)
    assert native.linear(torch.empty(0, 128), packed, scale, 4).shape == (0, 7)
    linear = quantized(random(7, 128), 4, bias=False)
    assert linear(torch.empty(2, 0, 128)).shape == (2, 0, 7)


def test_a_shape_that_does_not_fit_is_refused_before_native_code() -> None:
    packed, scale = quantize(random(7, 128), 4)
    for x, weight, scales in (
        (random(2, 129), packed, scale),
        (random(2, 64), packed, scale),
        (random(2, 128), packed[:, :-1], scale),
        (random(2, 128), packed, scale[:-1]),
        (random(2, 128), packed, scale.float()),
        (random(2, 128), packed.to(torch.int8), scale),
        (random(2, 128), packed.t().contiguous().t(), scale),
    ):
        with pytest.raises(ValueError, match="does not fit inputs"):
            native.linear(x, weight, scales, 4)
    with pytest.raises(ValueError, match="level must be 0 to"):
        native.linear(random(2, 128), packed, scale, 4, level=9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_linear_keeps_the_dtype_and_the_shape_of_its_input(dtype: torch.dtype) -> None:
    linear = quantized(random(7, 70), 8, bias=False)
    x = random(6, 70, seed=1).to(dtype).view(2, 3, 70)
    y = linear(x)
    assert (y.dtype, y.shape) == (dtype, (2, 3, 7))
    near = F.linear(x.float(), linear.dequantized(torch.float32))
    torch.testing.assert_close(y.float(), near, rtol=0.05, atol=0.3)


def test_gradients_go_through_the_weight_in_full() -> None:
    linear = quantized(random(7, 70), 4, bias=False)
    x = random(3, 70, seed=1).requires_grad_()
    linear(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(
        x.grad, linear.dequantized(torch.float32).sum(0).expand(3, 70), rtol=1e-5, atol=1e-5
    )

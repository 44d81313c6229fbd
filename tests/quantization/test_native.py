"""The native kernels against plain formulas, on every instruction set that this processor has."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from chatglm.quantization import native
from chatglm.quantization.linear import Integers, QuantizedLinear, quantized, to_tiles
from chatglm.quantization.tiles import Bits

pytestmark = pytest.mark.skipif(
    native.best_level() < 0, reason="the native kernels were not built on this machine"
)
LEVELS = range(native.best_level() + 1)
KINDS = ("float32", "bfloat16", "int8", "int6", "int4")
sides = st.integers(1, 300)


def random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def made(
    kind: str, rows: int, columns: int, *, group: int = 32, symmetric: bool = True
) -> tuple[native.Weight, torch.Tensor]:
    """A random weight for the kernels, and the same in float32; float kinds in tiles."""
    weight = random(rows, columns)
    if kind.startswith("int"):
        bits: Bits = {"int8": 8, "int6": 6, "int4": 4}[kind]
        small = quantized(weight, bits, group, symmetric=symmetric, bias=False)
        return small.for_kernels(), small.dequantized(torch.float32)
    weight = weight.to(getattr(torch, kind))
    return native.packed_weight(weight), weight.float()


def rounded(x: torch.Tensor, kind: str) -> torch.Tensor:
    """x as the kernels take it: for whole numbers as 8 bits in groups of 32 hold it."""
    if not kind.startswith("int"):
        return x.to(getattr(torch, kind)).float()
    groups = F.pad(x, (0, -x.shape[1] % 32)).unflatten(-1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    whole = torch.where(scale > 0, groups / scale.clamp_min(1e-38), 0.0).round()
    return (whole * scale).flatten(1)[:, : x.shape[1]]


def exact(count: int, columns: int, seed: int = 1) -> torch.Tensor:
    """Inputs that 8 bits in groups of 32 hold without rounding, so that no halfway case is left to
    chance.
    """
    chance = torch.Generator().manual_seed(seed)
    x = torch.randint(-127, 128, (count, columns), generator=chance)
    x[:, ::32] = 127
    return x / 16


def assert_near(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, kind: str) -> None:
    reference = (rounded(x, kind).double() @ weight.double().t()).float()
    torch.testing.assert_close(y, reference, rtol=1e-3, atol=2e-3)
    assert (y - reference).abs().median() < 1e-3


@given(
    rows=sides,
    columns=sides,
    count=st.integers(1, 40),
    kind=st.sampled_from(KINDS),
    group=st.sampled_from([32, 64, 128, 320]),
    symmetric=st.booleans(),
)
@settings(deadline=None, max_examples=120)
def test_every_shape_is_the_formula(
    rows: int, columns: int, count: int, kind: str, group: int, symmetric: bool
) -> None:
    packed, weight = made(kind, rows, columns, group=group, symmetric=symmetric)
    x = exact(count, columns)
    for level in LEVELS:
        assert_near(native.linear(x, packed, level=level), x, weight, kind)


@pytest.mark.whole
@pytest.mark.parametrize("side", ["rows", "columns", "count"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_length_of_every_side_is_the_formula(kind: str, side: str) -> None:
    chance = Random(f"{kind} {side}")
    for length in range(1, 301):
        sides = {name: chance.randint(1, 300) for name in ("rows", "columns", "count")}
        sides[side] = length
        packed, weight = made(
            kind,
            sides["rows"],
            sides["columns"],
            group=chance.choice([32, 64, 128, 320]),
            symmetric=chance.random() < 0.5,
        )
        x = exact(sides["count"], sides["columns"], seed=length)
        for level in LEVELS:
            assert_near(native.linear(x, packed, level=level), x, weight, kind)


@given(
    rows=sides,
    columns=sides,
    count=st.integers(1, 40),
    kind=st.sampled_from(["float32", "bfloat16"]),
)
@settings(deadline=None, max_examples=40)
def test_rows_are_multiplied_as_they_lie(rows: int, columns: int, count: int, kind: str) -> None:
    weight = random(rows, columns).to(getattr(torch, kind))
    bias = random(1, rows, seed=2)[0]
    x = random(count, columns, seed=1)
    for level in LEVELS:
        y = native.linear(x, native.float_weight(weight, bias), level=level) - bias
        assert_near(y, x, weight, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_row_has_the_same_bits_in_any_company(kind: str, level: int) -> None:
    packed, _ = made(kind, 130, 500)
    x = random(37, 500, seed=1)
    together = native.linear(x, packed, level=level)
    for i in range(len(x)):
        for count in (1, 3, 9):
            some = native.linear(x[i : i + count], packed, level=level)
            assert torch.equal(some, together[i : i + count])


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_threads_gives_the_same_bits(kind: str) -> None:
    packed, _ = made(kind, 1000, 700)
    x = random(9, 700, seed=1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 8, 2):
            torch.set_num_threads(threads)
            results += [native.linear(x, packed) for _ in range(20)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(y, results[0]) for y in results)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-30, 1e30])
def test_extreme_values_are_kept(kind: str, level: int, size: float) -> None:
    weight = torch.ones(3, 64)
    x = torch.full((2, 64), size)
    y = native.linear(x, weight_of(kind, weight), level=level)
    torch.testing.assert_close(y, x @ weight.t(), rtol=0.02, atol=1e-40)


def weight_of(kind: str, weight: torch.Tensor) -> native.Weight:
    if kind.startswith("int"):
        return quantized(weight, 8 if kind == "int8" else 4, bias=False).for_kernels()
    return native.packed_weight(weight.to(getattr(torch, kind)))


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("level", LEVELS)
def test_the_largest_sums_fit(bits: Bits, level: int) -> None:
    columns = 1024
    top = torch.full((17, columns), 2**bits - 1, dtype=torch.uint8)
    ones = torch.ones(17, 1).half()
    small = QuantizedLinear(
        to_tiles(Integers(top, ones, torch.zeros(17, 1).to(torch.uint8)), bits),
        17, columns, bits, columns, bias=False,
    )  # fmt: skip
    for sign in (1, -1):
        x = torch.full((3, columns), 127.0 * sign)
        y = native.linear(x, small.for_kernels(), level=level)
        assert torch.equal(y, torch.full((3, 17), sign * 127.0 * columns * (2**bits - 1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_spoils_its_own_row_only(kind: str, level: int, value: float) -> None:
    packed, _ = made(kind, 5, 96)
    x = random(3, 96, seed=1)
    x[1, 40] = value
    y = native.linear(x, packed, level=level)
    assert not y[1].isfinite().any()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_weights_may_lie_at_any_address(bits: Bits) -> None:
    small = quantized(random(7, 128), bits, bias=False)
    x = random(2, 128, seed=1)
    reference = native.linear(x, small.for_kernels())
    weight = small.weight
    moved = torch.empty(weight.numel() + 1, dtype=torch.uint8)[1:].view_as(weight).copy_(weight)
    small.weight = moved
    assert torch.equal(native.linear(x, small.for_kernels()), reference)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_can_be_read_alone(kind: str) -> None:
    packed, weight = made(kind, 21, 70, symmetric=False)
    for r in (0, 15, 16, 20):
        assert torch.equal(native.row(packed, r), weight[r])
    with pytest.raises(IndexError, match="row 21 of a weight of 21 rows"):
        native.row(packed, 21)


def test_nothing_in_gives_nothing_out() -> None:
    small = quantized(random(7, 128), 4, bias=False)
    assert native.linear(torch.empty(0, 128), small.for_kernels()).shape == (0, 7)
    assert small(torch.empty(2, 0, 128)).shape == (2, 0, 7)


def test_a_shape_that_does_not_fit_is_refused_before_native_code() -> None:
    small = quantized(random(7, 128), 4, bias=False)
    weight, scale, _ = small.packed
    for wrong in (
        {"weight": weight[:, :-1]},
        {"scale": scale[:, :-1]},
        {"scale": scale.float()},
        {"weight": weight.to(torch.int8)},
        {"rows": 17},
        {"columns": 129},
        {"bits": 8},
        {"group": 16},
        {"zero": scale},
    ):
        right = {"weight": weight, "scale": scale, "zero": None, "rows": 7, "columns": 128}
        with pytest.raises(ValueError, match="are no tiles of"):
            native.whole_weight(**(right | {"bits": 4, "group": 32} | wrong))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contiguous and on the CPU"):
        native.float_weight(random(7, 128).t())
    for x in (random(2, 129), random(2, 64), random(2, 128)[0]):
        with pytest.raises(ValueError, match="do not fit a weight of 7 rows"):
            native.linear(x, small.for_kernels())
    with pytest.raises(ValueError, match="level must be 0 to"):
        native.linear(random(2, 128), small.for_kernels(), level=9)


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


def test_a_library_of_another_version_is_named() -> None:
    library = native.Kernels(None)  # this process, which has none of the kernels' functions
    with pytest.raises(RuntimeError, match="no chatglm_forward: it was built for another version"):
        _ = library.chatglm_forward

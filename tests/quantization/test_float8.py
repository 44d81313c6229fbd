"""Linears of 8-bit floats: what they keep of a weight, and their products."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from chatglm.checkpoint import load
from chatglm.quantization import float8
from chatglm.quantization.float8 import Float8Linear, quantize, scaled_product


def random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (50, 70)])
def test_a_weight_keeps_three_bits_of_its_fraction(shape: tuple[int, int]) -> None:
    weight = random(*shape)
    weight[0, 0] = 1e4
    back = Float8Linear(weight, bias=False).dequantized(torch.float32)
    smallest = weight.abs().amax(-1, keepdim=True) / 448 * 2**-10
    assert ((back - weight).abs() <= weight.abs() * 2**-4 + smallest).all()


def test_rows_of_zeros_and_of_extremes_stay_finite() -> None:
    weight = torch.stack((torch.zeros(8), torch.full((8,), 3e38), torch.full((8,), -1e-30)))
    back = Float8Linear(weight, bias=False).dequantized(torch.float32)
    assert back.isfinite().all()
    torch.testing.assert_close(back[:2], weight[:2])


def test_the_scaled_product_is_that_of_the_rounded_numbers() -> None:
    x, weight = random(5, 128).bfloat16(), random(48, 128, 1)
    x8, x_scale = quantize(x)
    w8, w_scale = quantize(weight)
    expected = (x8.float() * x_scale) @ (w8.float() * w_scale).t()
    try:
        y = scaled_product(x, w8, w_scale[:, 0])
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"this PyTorch has no scaled product on a processor: {error}")
    torch.testing.assert_close(y.float(), expected, rtol=1e-2, atol=1e-1)


def test_without_a_gpu_the_weight_is_unpacked_and_this_is_told_once() -> None:
    float8.warn_of.cache_clear()
    linear = Float8Linear(random(40, 70), bias=True)
    linear.bias = torch.nn.Parameter(random(1, 40, 2)[0])
    x = random(3, 70, 3)
    with torch.no_grad():
        with pytest.warns(UserWarning, match="int8 is faster here"):
            y = linear(x)
        again = linear(x)  # warnings are errors
    torch.testing.assert_close(y, F.linear(x, linear.dequantized(torch.float32), linear.bias))
    assert torch.equal(y, again)


def test_gradients_pass_through() -> None:
    linear = Float8Linear(random(40, 70), bias=False)
    x = random(3, 70, 3).requires_grad_()
    (mine,) = torch.autograd.grad(linear(x).square().sum(), x)
    expected = F.linear(x, linear.dequantized(torch.float32))
    (theirs,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:fp8 weights are unpacked")
def test_a_model_is_quantized_to_fp8_while_loading(toy: Path) -> None:
    plain, small = load(toy), load(toy, quantize="fp8")
    linears = [m for m in small.model.modules() if isinstance(m, Float8Linear)]
    assert len(linears) == sum(isinstance(m, torch.nn.Linear) for m in plain.model.modules())
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        a, b = plain.model(ids), small.model(ids)
    assert F.cosine_similarity(a, b, dim=-1).mean() > 0.98  # random weights forgive little


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="needs a GPU that multiplies 8-bit floats",
)
@pytest.mark.parametrize("count", [1, 64, 65, 300])
def test_a_gpu_multiplies_them(count: int) -> None:
    linear = Float8Linear(random(96, 200).cuda().bfloat16(), bias=False)
    x = random(count, 200, 1).cuda().bfloat16()
    with torch.no_grad():
        y = linear(x).float()
        expected = F.linear(x.float(), linear.dequantized(torch.float32))
    assert (y - expected).norm() / expected.norm() < 0.04

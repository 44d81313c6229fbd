"""ChatGLM's own quantized rows on the native kernels: the file's bytes come back."""

from __future__ import annotations

import pytest
import torch

from chatglm.quantization import native
from chatglm.quantization.official import OfficialLinear
from chatglm.quantization.tiles import Bits


def official(bits: Bits, rows: int = 96, columns: int = 192) -> OfficialLinear:
    generator = torch.Generator().manual_seed(0)
    shape = (rows, columns * bits // 8)
    weight = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
    scale = torch.rand(rows, generator=generator).half() / 100
    linear = OfficialLinear(weight, scale, bias=True, columns=columns)
    linear.bias = torch.nn.Parameter(torch.randn(rows, generator=generator))
    return linear


@pytest.mark.skipif(native.best_level() < 0, reason="the native kernels were not built")
@pytest.mark.parametrize("bits", [8, 4])
def test_the_kernels_compute_what_the_rows_say(bits: Bits) -> None:
    linear = official(bits)
    weight, rows = linear.dequantized(torch.float32), linear.weight.clone()
    x = torch.randn(2, 5, 192)
    with torch.inference_mode():
        y = linear(x)
    assert linear.is_tiled
    assert not torch.equal(linear.weight, rows)
    assert torch.equal(linear.dequantized(torch.float32), weight)
    expected = torch.nn.functional.linear(x, weight, linear.bias)
    assert (y - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("bits", [8, 4])
def test_saving_gives_the_bytes_of_the_file(bits: Bits) -> None:
    linear = official(bits)
    rows = linear.weight.clone()
    address = linear.weight.data_ptr()
    linear.to_tiles()
    assert linear.weight.data_ptr() == address  # in place: a second copy would not fit
    assert torch.equal(linear.state_dict()["weight"], rows)
    other = official(bits)
    other.to_tiles()
    other.load_state_dict(linear.state_dict())
    assert torch.equal(other.state_dict()["weight"], rows)


@pytest.mark.parametrize("bits", [8, 4])
def test_gradients_go_through_tiles_as_through_rows(bits: Bits) -> None:
    plain, tiled = official(bits), official(bits)
    tiled.to_tiles()
    results = []
    for linear in (plain, tiled):
        x = torch.ones(3, 192, requires_grad=True)
        linear(x).square().sum().backward()
        results.append(x.grad)
    assert torch.equal(results[0], results[1])


def test_rows_that_do_not_fill_tiles_stay_as_they_are() -> None:
    linear = official(4, rows=24, columns=64)
    with torch.inference_mode():
        linear(torch.randn(2, 64))
    assert not linear.is_tiled

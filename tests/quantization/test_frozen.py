"""Gradients through quantized linears: those of the unpacked weight."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from chatglm.quantization.linear import quantized
from chatglm.quantization.official import OfficialLinear


def linears() -> list[torch.nn.Module]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3000, 130, generator=generator)
    found: list[torch.nn.Module] = [quantized(weight, bits, bias=False) for bits in (8, 4)]
    packed = torch.randint(-128, 128, (96, 65), generator=generator, dtype=torch.int8)
    scale = torch.rand(96, generator=generator).half() / 100
    found.append(OfficialLinear(packed, scale, bias=False, columns=130))
    return found


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_gradient_is_that_of_the_unpacked_weight(index: int) -> None:
    linear = linears()[index]
    x = torch.randn(2, 5, 130, requires_grad=True)
    y = linear(x)
    (mine,) = torch.autograd.grad(y.square().sum(), x)
    weight = linear.dequantized(torch.float32)
    expected = F.linear(x, weight)
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
    (theirs,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(mine, theirs, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_no_unpacked_weight_is_kept_for_the_way_back(index: int) -> None:
    linear = linears()[index]
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    x = torch.randn(4, 130, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        linear(x).sum()
    assert max(kept, default=0) <= 3000


def test_products_follow_autocast() -> None:
    x = torch.randn(4, 130, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = linears()[1](x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32

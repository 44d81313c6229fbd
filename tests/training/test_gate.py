"""The native gate beside PyTorch's operators, at every level of the processor."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from chatglm.quantization import native
from chatglm.training.gate import can_serve, gate

pytestmark = pytest.mark.skipif(native.opened() is None, reason="the native kernels were not built")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", range(native.best_level() + 1))
def test_a_gate_and_its_gradient_are_pytorchs(level: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(3, 19, 96) * 8).to(dtype)
    dy = torch.randn(3, 19, 48).to(dtype)
    precise = x.double().requires_grad_()
    first, value = precise.chunk(2, -1)
    wanted = F.silu(first) * value
    wanted.backward(dy.double())
    assert precise.grad is not None
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 8e-3, "atol": 1e-5}
    torch.testing.assert_close(gate(x, level=level).double(), wanted.detach(), **near)
    torch.testing.assert_close(gate(x, dy, level=level).double(), precise.grad, **near)


def test_large_numbers_and_no_numbers_stay_what_they_are() -> None:
    x = torch.tensor([[300.0, -300.0, float("nan"), float("inf")] + [0.0] * 12 + [1.0] * 16])
    found = gate(x)[0, :4]
    torch.testing.assert_close(found, F.silu(x[0, :4]), equal_nan=True)


def test_widths_and_kinds_without_a_kernel_are_known() -> None:
    assert can_serve(torch.zeros(2, 96))
    assert not can_serve(torch.zeros(2, 50))
    assert not can_serve(torch.zeros(2, 96, dtype=torch.float64))


def test_a_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        gate(torch.zeros(2, 96), torch.zeros(3, 48))

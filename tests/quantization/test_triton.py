"""The Triton kernels against plain formulas: on a GPU, or in Triton's interpreter without one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from chatglm.quantization import cuda
from chatglm.quantization.kinds import narrowed
from chatglm.quantization.linear import quantized
from chatglm.quantization.scheme import KINDS
from chatglm.quantization.tiles import Bits

WITHIN = {torch.float16: 2e-2, torch.bfloat16: 1e-1}


def whole_numbers(
    rows: int, columns: int, bits: int, group: int, device: str, *, zeros: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Random numbers of so many bits, the extreme ones among them, with scales and zeros."""
    generator = torch.Generator().manual_seed(rows * columns + bits)
    values = torch.randint(0, 2**bits, (rows, columns), generator=generator).byte()
    values[0, 0], values[-1, -1] = 0, 2**bits - 1
    groups = -(-columns // group)
    scale = (torch.rand(rows, groups, generator=generator) / 2**bits).half()
    zero = torch.randint(0, 2**bits, (rows, groups), generator=generator).byte()
    return values.to(device), scale.to(device), zero.to(device) if zeros else None


def formula(
    values: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None, bits: int, group: int
) -> torch.Tensor:
    """The weight in float32."""
    middle = torch.full_like(scale, 2 ** (bits - 1)) if zero is None else zero
    spread = [part.float().repeat_interleave(group, 1)[:, : values.shape[1]]
              for part in (middle, scale)]  # fmt: skip
    return (values.float() - spread[0]) * spread[1]


SHAPES = [(1, 1, 1), (2, 33, 40), (17, 65, 129), (65, 40, 1100)]


@pytest.mark.parametrize(("count", "rows", "columns"), SHAPES)
@pytest.mark.parametrize(
    ("bits", "group", "zeros"),
    [(4, 32, False), (4, 32, True), (4, 128, False), (4, 64, True), (8, 64, False),
     (8, 32, True), (8, 128, True), (6, 64, False), (6, 32, True)],
)  # fmt: skip
def test_products_and_weights_are_the_formula(
    count: int, rows: int, columns: int, bits: int, group: int, zeros: bool, kernel_device: str
) -> None:
    whole = whole_numbers(rows, columns, bits, group, kernel_device, zeros=zeros)
    weight = formula(*whole, bits, group)
    packed = cuda.to_rows(*whole, bits, group)
    back = cuda.kernels().dequantize(packed, torch.float32)
    torch.testing.assert_close(back, weight, rtol=1e-6, atol=1e-6)
    x = torch.randn(count, columns, device=kernel_device)
    bias = torch.randn(rows, device=kernel_device)
    for processors in (1, 64):  # alone, and shared by several programs
        y = cuda.kernels().multiply(x, packed, bias, processors)
        torch.testing.assert_close(y, F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
def test_half_floats_multiply_the_weight_in_their_dtype(
    dtype: torch.dtype, bits: int, zeros: bool, kernel_device: str
) -> None:
    if kernel_device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter has no arithmetic of bfloat16; needs a GPU")
    whole = whole_numbers(40, 512, bits, 64, kernel_device, zeros=zeros)
    packed = cuda.to_rows(*whole, bits, 64)
    weight = cuda.kernels().dequantize(packed, dtype)
    torch.testing.assert_close(
        weight.float(), formula(*whole, bits, 64), rtol=2e-2, atol=WITHIN[dtype] / 50
    )
    x = torch.randn(3, 512, device=kernel_device).to(dtype)
    y = cuda.kernels().multiply(x, packed, None, 8)
    assert y.dtype == dtype
    expected = x.float() @ weight.float().t()
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=WITHIN[dtype])


def test_nibbles_become_the_last_bits_of_a_float() -> None:
    nibbles = torch.arange(16, dtype=torch.int16)
    assert (nibbles | 0x4300).view(torch.bfloat16).tolist() == list(range(128, 144))
    assert (nibbles | 0x6400).view(torch.float16).tolist() == list(range(1024, 1040))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_linear_on_a_gpu_is_the_quantized_one(
    bits: Bits, kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel_device == "cpu":
        monkeypatch.setattr(cuda, "is_usable", lambda device: True)
    monkeypatch.setattr(cuda, "UNPACKED_FROM", 5)
    weight = torch.randn(40, 70, generator=torch.Generator().manual_seed(0)).to(kernel_device)
    plain = narrowed(nn.Linear(70, 40, device="meta"), weight, KINDS[f"int{bits}"].layers)
    assert isinstance(plain, cuda.CudaLinear)
    plain.bias = torch.nn.Parameter(torch.randn(40, device=kernel_device))
    exact = quantized(weight, bits, bias=False).dequantized(torch.float32)
    torch.testing.assert_close(plain.dequantized(torch.float32), exact)
    table = narrowed(nn.Embedding(40, 70, device="meta"), weight, KINDS[f"int{bits}"].layers)
    assert isinstance(table, cuda.CudaEmbedding)
    ids = torch.tensor([[39, 0, 7], [7, 16, 15]], device=kernel_device)
    torch.testing.assert_close(table(ids), exact[ids])
    with torch.inference_mode():
        torch.testing.assert_close(table.scores(exact[:3]), exact[:3] @ exact.T)
    for count in (3, 5):  # multiplied as it is, and unpacked
        x = torch.randn(1, count, 70, device=kernel_device)
        with torch.inference_mode():
            torch.testing.assert_close(
                plain(x), F.linear(x, exact, plain.bias), rtol=1e-4, atol=1e-4
            )
    x = torch.randn(3, 70, device=kernel_device, requires_grad=True)
    (mine,) = torch.autograd.grad(plain(x).square().sum(), x)
    (theirs,) = torch.autograd.grad(F.linear(x, exact, plain.bias).square().sum(), x)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_eight_bit_floats_are_multiplied_with_a_scale_for_each_row(kernel_device: str) -> None:
    weight = torch.randn(40, 128, generator=torch.Generator().manual_seed(0))
    whole, scale = (weight * 9).round().clamp(-127, 127).to(torch.int8), torch.rand(40)
    rows = cuda.kernels().Rows(
        weight=whole.to(kernel_device), scale=scale.to(kernel_device), zero=None,
        columns=128, bits=8, group=0,
    )  # fmt: skip
    x = torch.randn(3, 128, device=kernel_device)
    expected = x @ (whole.float() * scale[:, None]).t().to(kernel_device)
    for processors in (1, 64):
        y = cuda.kernels().multiply(x, rows, None, processors)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_what_keeps_triton_from_running_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cuda.is_usable(torch.device("cpu"))
    device = torch.device("cuda", 99)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.warns(UserWarning, match="Triton does not run here"):
        assert not cuda.is_usable(device)
    assert not cuda.is_usable(device)  # warnings are errors
    old = torch.device("cuda", 98)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not cuda.is_usable(old)

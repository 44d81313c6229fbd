"""Packed linears against the plain ones, and rows against their company."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chatglm.generation import native
from chatglm.generation.packed import PackedLinear, weight_of

pytestmark = pytest.mark.skipif(native.kernel() is None, reason="the native kernels were not built")


@pytest.mark.parametrize("columns", [1, 48, 864, 1025, 2816])
@pytest.mark.parametrize("rows", [1, 64, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_to_the_bit_in_any_company(
    columns: int, rows: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(columns)
    plain = nn.Linear(columns, rows).to(dtype)
    linear = PackedLinear(weight_of(plain, packs=True))
    x = torch.randn(300, columns).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    with torch.inference_mode():
        torch.testing.assert_close(linear(x), plain(x), atol=tolerance, rtol=tolerance)
        alone = torch.cat([linear(x[i : i + 1]) for i in range(20)])
        for count in (2, 3, 5, 8, 16, 17, 33, 64, 128, 300):
            assert torch.equal(linear(x[:count])[:20], alone[:count])

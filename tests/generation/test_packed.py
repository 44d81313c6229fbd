"""Packed linears against the plain ones, and rows against their company."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from chatglm.generation.packed import MOST_COLUMNS, PackedLinear

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="needs a CPU with oneDNN"
)


@pytest.mark.parametrize("columns", [1, 48, 320, 864, 1024, 1025, 1408, 2816, 4096, 5000])
@pytest.mark.parametrize("rows", [1, 64, 300])
def test_a_row_of_float32_is_the_same_to_the_bit_in_any_company(columns: int, rows: int) -> None:
    torch.manual_seed(columns)
    weight, bias = torch.randn(rows, columns) / columns**0.5, torch.randn(rows)
    linear = PackedLinear(weight, bias)
    x = torch.randn(300, columns)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x), F.linear(x, weight, bias), atol=1e-4, rtol=1e-4)
        alone = torch.cat([linear(x[i : i + 1]) for i in range(20)])
        for count in (2, 3, 5, 8, 16, 17, 33, 64, 128, 300):
            assert torch.equal(linear(x[:count])[:20], alone[:count])


def test_wide_inputs_are_split_in_float32_only() -> None:
    weight = torch.randn(8, MOST_COLUMNS + 1)
    assert len(PackedLinear(weight, None).packed) == 2
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert len(PackedLinear(weight.bfloat16(), None).packed) == 1

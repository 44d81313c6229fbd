"""Memory for weights."""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path

import pytest
import torch

from chatglm.quantization import pages


@pytest.mark.parametrize("rows", [0, 1, 700, 2048])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_memory_for_weights_holds_what_is_put_there(rows: int, dtype: torch.dtype) -> None:
    tensor = pages.empty(rows, 1111, dtype=dtype)
    numbers = torch.arange(rows * 1111).remainder(251).view(rows, 1111).to(dtype)
    tensor.copy_(numbers)
    assert tensor.shape == (rows, 1111)
    assert tensor.is_contiguous()
    assert torch.equal(tensor, numbers)
    assert torch.equal(pickle.loads(pickle.dumps(tensor)), numbers)
    kept = tensor[rows // 2 :]
    del tensor  # a part keeps the memory of the whole
    assert torch.equal(kept, numbers[rows // 2 :])


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no large pages")
def test_large_weights_begin_with_a_large_page_and_take_no_more_than_theirs() -> None:
    def resident() -> int:
        pages_held = int(Path("/proc/self/statm").read_text().split()[1])
        return pages_held * mmap.PAGESIZE

    size = 5 * pages.LARGE + 12345
    before = resident()
    tensors = [pages.empty(size, dtype=torch.uint8).fill_(7) for _ in range(8)]
    assert all(tensor.data_ptr() % pages.LARGE == 0 for tensor in tensors)
    grown = resident() - before
    assert 7 * size < grown < 8 * size + pages.LARGE
    del tensors
    assert resident() - before < pages.LARGE

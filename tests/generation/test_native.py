"""The native attention against PyTorch's, over the same blocks."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatglm.config import ModelConfig
from chatglm.generation import native
from chatglm.generation.cache import KeyValueStore, PagedBatch, Span
from chatglm.generation.native import LayerCall
from chatglm.model.position import Rotary
from chatglm.quantization import native as library

pytestmark = pytest.mark.skipif(native.kernel() is None, reason="the native kernel was not built")

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def config_of(groups: int, share: int, width: int) -> ModelConfig:
    return ModelConfig(
        num_layers=2,
        hidden_size=32,
        num_heads=groups * share,
        num_kv_heads=groups,
        head_dim=width,
        ffn_size=32,
        vocab_size=32,
        max_length=512,
    )


def stores(config: ModelConfig, dtype: torch.dtype, seed: int = 0) -> list[KeyValueStore]:
    """A store for PyTorch and one for the kernel, with the same noise in them."""
    both = []
    for for_native in (False, True):
        generator = torch.Generator().manual_seed(seed)
        store = KeyValueStore(config, num_blocks=40, dtype=dtype, device=CPU, for_native=for_native)
        table = torch.arange(40)[:, None].expand(40, 16).flatten()
        offsets = torch.arange(16).repeat(40)
        shape = (2, config.num_kv_heads, 640, config.head_dim)
        noise = [torch.randn(shape, generator=generator) for _ in range(2)]
        store.put(slice(None), table, offsets, *noise)
        both.append(store)
    return both


def spans_of(lengths: list[tuple[int, int]], seed: int) -> list[Span]:
    """Sequences with so many slots kept and so many to be read, in blocks out of order."""
    blocks = random.Random(seed).sample(range(40), 40)
    spans = []
    for start, length in lengths:
        table = [blocks.pop() for _ in range(-(-(start + length) // 16))]
        spans.append(Span(table=table, start=start, visible=range(start + 1, start + length + 1)))
    return spans


def heads(config: ModelConfig, length: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    counts = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    return tuple(
        torch.randn(1, n, length, config.head_dim, generator=generator).to(dtype) for n in counts
    )


lengths = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 40)), min_size=1, max_size=4)


@given(
    lengths,
    st.integers(1, 3),
    st.integers(1, 9),
    st.sampled_from([4, 8, 16, 40, 64, 128]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([None, torch.int8]),
    st.integers(0, 2),
)
@settings(max_examples=150, deadline=None)
def test_the_kernel_agrees_with_pytorch(
    spans: list[tuple[int, int]],
    groups: int,
    share: int,
    width: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype | None,
    level: int,
) -> None:
    config = config_of(groups, share, width)
    kept, stored = stores(config, kv_dtype or dtype)
    total = sum(length for _, length in spans)
    q, k, v = heads(config, total, dtype, total)
    expected = PagedBatch(kept, spans_of(spans, 1)).attend(1, q, k, v, None)
    batch = LayerCall(stored, spans_of(spans, 1))
    batch.arguments.level = min(level, library.best_level())
    got = batch.attend(1, q, k, v, None)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    for a, b in ((kept.keys, stored.keys), (kept.values, stored.values)):
        torch.testing.assert_close(a[0], b[0], atol=0, rtol=0)
        torch.testing.assert_close(a[1].float(), b[1].float(), atol=1e-6, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_a_query_is_the_same_to_the_bit_in_any_company_and_any_blocks(dtype: torch.dtype) -> None:
    config = config_of(2, 3, 64)
    _, whole = stores(config, dtype)
    q, k, v = heads(config, 70, torch.float32, 0)
    together = LayerCall(whole, spans_of([(0, 70)], 1)).attend(0, q, k, v, None)
    _, pieces = stores(config, dtype, seed=5)
    blocks = random.Random(9).sample(range(40), 5)
    start = 0
    for length in (1, 3, 17, 1, 40, 8):
        part = slice(start, start + length)
        mine = Span(table=blocks, start=start, visible=range(start + 1, start + length + 1))
        others = [b for b in range(40) if b not in blocks]
        company = Span(table=others[:2], start=3, visible=range(4, 24))
        noise = heads(config, 20, torch.float32, length)
        joined = [torch.cat((n, x[:, :, part]), 2) for n, x in zip(noise, (q, k, v), strict=True)]
        out = LayerCall(pieces, [company, mine]).attend(0, *joined, None)
        assert torch.equal(out[:, :, 20:], together[:, :, part])
        start += length


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads: int) -> None:
    config = config_of(2, 4, 64)
    q, k, v = heads(config, 300, torch.float32, 0)
    results = []
    for number in (1, threads):
        batch = LayerCall(stores(config, torch.float32)[1], spans_of([(20, 300)], 1))
        batch.arguments.num_threads = number
        results.append(batch.attend(0, q, k, v, None))
    assert torch.equal(*results)


@pytest.mark.parametrize("pairs", ["interleaved", "half"])
@pytest.mark.parametrize("position", ["rope", "rope_2d"])
def test_the_kernel_turns_heads_as_the_network_does(position: str, pairs: str) -> None:
    config = ModelConfig(
        **{**vars(config_of(2, 2, 64)), "position": position, "rope_pairs": pairs}  # type: ignore[arg-type]
    )
    rope = Rotary(config)
    cos, sin = rope.angles(torch.randint(0, 500, (1, config.num_planes, 9)))
    q, k, v = heads(config, 9, torch.float32, 3)
    turned = [rope.rotate(x.transpose(1, 2), cos, sin).transpose(1, 2) for x in (q, k)]
    kept, stored = stores(config, torch.float32)
    expected = PagedBatch(kept, spans_of([(5, 9)], 1)).attend(0, *turned, v, None)
    batch = LayerCall(stored, spans_of([(5, 9)], 1))
    batch.turn(rope, cos, sin)
    got = batch.attend(0, q, k, v)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


def test_extreme_scores_give_numbers_and_broken_ones_are_passed_on() -> None:
    config = config_of(1, 1, 16)
    for value in (1e18, -1e18, 300.0):
        store = stores(config, torch.float32)[1]
        q, k, v = heads(config, 20, torch.float32, 1)
        out = LayerCall(store, spans_of([(0, 20)], 1)).attend(0, q * value, k, v, None)
        assert bool(out.isfinite().all())
    q[0, 0, 3, 5] = torch.nan
    out = LayerCall(store, spans_of([(0, 20)], 1)).attend(0, q, k, v, None)
    assert bool(out[0, 0, 3].isnan().all())
    assert bool(out[0, 0, :3].isfinite().all())


def test_a_damaged_block_table_is_refused_before_native_code_runs() -> None:
    _, store = stores(config_of(1, 1, 16), torch.float32)
    for table, start, visible in (
        ([0, 40], 0, range(1, 21)),
        ([0, -1], 0, range(1, 21)),
        ([0], 10, range(11, 31)),
        ([0, 1], 0, [21] * 20),
        ([0, 1], 0, [0] * 20),
    ):
        with pytest.raises(ValueError, match="the block table is damaged"):
            LayerCall(store, [Span(table=table, start=start, visible=visible)])


def test_rows_of_another_model_are_refused() -> None:
    _, store = stores(config_of(2, 2, 16), torch.float32)
    batch = LayerCall(store, spans_of([(0, 3)], 1))
    with pytest.raises(ValueError, match="the cache was made for another model"):
        batch.attend_joined(0, torch.zeros(1, 4, 128))
    with pytest.raises(ValueError, match="the native attention refuses"):
        batch.attend_joined(0, torch.zeros(1, 3, 7 * 16))

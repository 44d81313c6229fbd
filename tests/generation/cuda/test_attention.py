"""Attention over blocks by the Triton kernels against PyTorch's, over the same blocks."""

from __future__ import annotations

import random

import pytest
import torch

from chatglm.config import ModelConfig
from chatglm.generation.cache import KeyValueStore, PagedBatch, Span
from chatglm.generation.cuda.attention import PagedCall, layout_of
from chatglm.model.position import Rotary

NUM_BLOCKS = 24


def config_of(groups: int, share: int, width: int, **settings: object) -> ModelConfig:
    sizes: dict[str, object] = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": groups * share,
        "num_kv_heads": groups,
        "head_dim": width,
        "ffn_size": 32,
        "vocab_size": 32,
        "max_length": 512,
    }
    return ModelConfig(**{**sizes, **settings})  # type: ignore[arg-type]


def stores(config: ModelConfig, dtype: torch.dtype, device: str) -> list[KeyValueStore]:
    """Two stores with the same noise in them."""
    both = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        store = KeyValueStore(
            config, num_blocks=NUM_BLOCKS, dtype=dtype, device=torch.device(device)
        )
        table = torch.arange(NUM_BLOCKS)[:, None].expand(NUM_BLOCKS, 16).flatten()
        offsets = torch.arange(16).repeat(NUM_BLOCKS)
        shape = (2, config.num_kv_heads, NUM_BLOCKS * 16, config.head_dim)
        noise = [torch.randn(shape, generator=generator).to(device) for _ in range(2)]
        store.put(slice(None), table.to(device), offsets.to(device), *noise)
        both.append(store)
    return both


def spans_of(lengths: list[tuple[int, int]], prefix: int = 0) -> list[Span]:
    """Sequences with so many slots kept and so many to be read, in blocks out of order; the first
    `prefix` of what is read see each other.
    """
    blocks = random.Random(1).sample(range(NUM_BLOCKS), NUM_BLOCKS)
    spans = []
    for start, length in lengths:
        table = [blocks.pop() for _ in range(-(-(start + length) // 16))]
        visible = [max(i, min(start + prefix, start + length))
                   for i in range(start + 1, start + length + 1)]  # fmt: skip
        spans.append(Span(table=table, start=start, visible=visible))
    return spans


def heads_of(
    config: ModelConfig, length: int, dtype: torch.dtype, device: str
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    counts = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    return [
        torch.randn(1, n, length, config.head_dim, generator=generator).to(device, dtype)
        for n in counts
    ]


CASES = {
    "one token of each": ([(0, 1), (40, 1), (63, 1), (64, 1)], 0),
    "a prompt": ([(0, 18)], 0),
    "a chunk, a token and some tried ahead": ([(17, 7), (70, 1), (30, 3)], 0),
    "a context seen from both sides": ([(0, 12), (3, 5)], 9),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("groups", "share", "width", "kept"),
    [(2, 4, 16, None), (3, 1, 40, torch.int8), (1, 6, 8, None)],
)
def test_every_mix_of_sequences_reads_what_pytorch_reads(
    case: str, groups: int, share: int, width: int, kept: torch.dtype | None, kernel_device: str
) -> None:
    config = config_of(groups, share, width)
    lengths, prefix = CASES[case]
    spans = spans_of(lengths, prefix)
    theirs, ours = stores(config, kept or torch.float32, kernel_device)
    heads = heads_of(config, sum(n for _, n in lengths), torch.float32, kernel_device)
    expected = PagedBatch(theirs, spans).attend(1, *heads, None)
    for shares in (1, 3):
        layout = layout_of(spans, ours, config.num_heads)
        layout.shares = shares
        got = PagedCall(ours, layout).attend(1, *heads)
        close = 3e-2 if kept else 1e-5  # where a number lies between two of 8 bits, either will do
        torch.testing.assert_close(got, expected, atol=close, rtol=close)
    for a, b in ((theirs.keys, ours.keys), (theirs.values, ours.values)):
        torch.testing.assert_close(a[0], b[0], atol=0, rtol=0)
        torch.testing.assert_close(a[1].float(), b[1].float(), atol=1 if kept else 0, rtol=0)


@pytest.mark.parametrize("pairs", ["interleaved", "half"])
@pytest.mark.parametrize("position", ["rope", "rope_2d"])
def test_heads_are_turned_as_the_network_does(
    position: str, pairs: str, kernel_device: str
) -> None:
    config = config_of(2, 2, 24, position=position, rope_pairs=pairs)
    rope = Rotary(config)
    places = torch.randint(0, 500, (1, config.num_planes, 9), device=kernel_device)
    cos, sin = rope.angles(places)
    q, k, v = heads_of(config, 9, torch.float32, kernel_device)
    turned = [rope.rotate(x.transpose(1, 2), cos, sin).transpose(1, 2) for x in (q, k)]
    theirs, ours = stores(config, torch.float32, kernel_device)
    spans = spans_of([(5, 9)])
    expected = PagedBatch(theirs, spans).attend(0, *turned, v, None)
    call = PagedCall(ours, layout_of(spans, ours, config.num_heads))
    call.turn(rope, cos, sin)
    torch.testing.assert_close(call.attend(0, q, k, v), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.keys, theirs.keys, atol=1e-6, rtol=1e-6)


def test_a_token_without_a_slot_writes_nothing_and_reads_nothing(kernel_device: str) -> None:
    config = config_of(1, 2, 16)
    before, ours = stores(config, torch.float32, kernel_device)
    layout = layout_of(spans_of([(4, 1), (9, 1)]), ours, 2)
    layout.slots[1], layout.visible[1] = -1, 0
    heads = heads_of(config, 2, torch.float32, kernel_device)
    got = PagedCall(ours, layout).attend(0, *heads)
    assert got[:, :, 1].abs().max() == 0
    assert (ours.keys != before.keys).flatten(4).any(-1).sum() == 1


def test_a_damaged_table_is_refused() -> None:
    config = config_of(1, 1, 16)
    store, _ = stores(config, torch.float32, "cpu")
    span = Span(table=[NUM_BLOCKS], start=0, visible=[1])
    with pytest.raises(ValueError, match="the block table is damaged"):
        layout_of([span], store, 1)

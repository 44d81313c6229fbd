"""Tables of words in few bits against the linear whose tiles they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from chatglm.checkpoint import load
from chatglm.generation.engine import Engine
from chatglm.generation.sampling import Sampling
from chatglm.prompt import Prompt
from chatglm.quantization import native
from chatglm.quantization.embedding import QuantizedEmbedding
from chatglm.quantization.linear import quantize
from chatglm.quantization.official import OfficialEmbedding, in_tiles
from chatglm.quantization.tiles import Bits

needs_kernels = pytest.mark.skipif(native.best_level() < 0, reason="the kernels were not built")


def table(
    rows: int, columns: int, bits: Bits, group: int, dtype: torch.dtype, *, symmetric: bool = True
) -> QuantizedEmbedding:
    """One of random numbers."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))
    packed = quantize(weight, bits, group, symmetric=symmetric)
    return QuantizedEmbedding(packed, rows, columns, bits, group, dtype=dtype)


@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 200),
    bits=st.sampled_from([8, 6, 4]),
    group=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_rows_are_those_of_the_whole_weight(
    rows: int, columns: int, bits: Bits, group: int, symmetric: bool, data: st.DataObject
) -> None:
    words = table(rows, columns, bits, group, torch.float32, symmetric=symmetric)
    ids = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=40)), dtype=torch.long)
    assert torch.equal(words(ids), words.dequantized(torch.float32)[ids])
    if native.best_level() >= 0:
        for index in ids[:3].tolist():
            kept = native.row(words.for_kernels(), index)
            torch.testing.assert_close(words(torch.tensor(index)), kept)


def test_rows_have_the_dtype_and_the_shape_that_are_asked_for() -> None:
    words = table(40, 70, 8, 64, torch.bfloat16)
    ids = torch.tensor([[3, 39], [0, 3], [16, 15]])
    exact = words.dequantized(torch.float32)
    assert torch.equal(words(ids), exact[ids].bfloat16())


def test_scores_pass_their_gradient_on() -> None:
    words = table(40, 70, 8, 64, torch.float32)
    exact = words.dequantized(torch.float32)
    hidden = torch.randn(2, 3, 70, requires_grad=True)
    scores = words.scores(hidden)
    torch.testing.assert_close(scores, F.linear(hidden, exact), rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(scores.square().sum(), hidden)
    torch.testing.assert_close(gradient, 2 * scores.detach() @ exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("bits", [8, 4])
def test_an_official_table_has_the_same_rows_in_tiles(bits: int) -> None:
    width = 70 if bits == 8 else 35
    weight = torch.randint(-128, 128, (40, width)).to(torch.int8)
    words = OfficialEmbedding(weight, torch.rand(40).half() / 100, 70, torch.float32)
    tiles = in_tiles(words)
    ids = torch.tensor([[3, 39, 16]])
    torch.testing.assert_close(tiles(ids), words(ids))
    assert torch.equal(tiles.official("weight"), weight)


@needs_kernels
@pytest.mark.parametrize("name", ["glm-large-chinese", "chatglm-6b", "chatglm3-6b"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_answers_with_words_of_8_bits(name: str, dtype: str, shared: Path) -> None:
    small = load(shared / "oracles" / name, dtype=dtype, quantize="int8")
    plain = load(shared / "oracles" / name, dtype=dtype)
    assert isinstance(small.model.embedding, QuantizedEmbedding)
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        states = [m.model.logits(m.model(ids)) for m in (small, plain)]
    assert F.cosine_similarity(*states, dim=-1).mean() > 0.99
    assert small.model(ids).dtype == plain.model(ids).dtype
    prompt = Prompt(tokens=tuple(range(5, 45)), prefix=20, hole=3)
    if small.config.context == "causal":
        prompt = Prompt(tokens=tuple(range(5, 45)))
    sampling = Sampling(temperature=0, max_new_tokens=8)
    assert len([o.token for o in Engine(small.model).stream(prompt, sampling)]) == 8

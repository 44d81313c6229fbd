"""ChatGLM's own quantized files on the native kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.checkpoint import fill, load, save
from chatglm.generation.engine import Engine
from chatglm.generation.network import Network
from chatglm.generation.sampling import Sampling
from chatglm.prompt import Prompt
from chatglm.quantization import native
from chatglm.quantization.official import OfficialLinear, OfficialTiles, in_tiles

needs_kernels = pytest.mark.skipif(native.best_level() < 0, reason="the kernels were not built")
NAMES = ["chatglm-6b-int4", "chatglm-6b-int8", "chatglm2-6b-int4"]


def official(rows: int, columns: int, bits: int) -> OfficialLinear:
    """One of random numbers, all that the bits hold."""
    chance = torch.Generator().manual_seed(rows * 1000 + columns)
    width = columns if bits == 8 else columns // 2
    weight = torch.randint(-128, 128, (rows, width), generator=chance).to(torch.int8)
    scale = torch.rand(rows, generator=chance).half() / 100
    return OfficialLinear(weight, scale, bias=False, columns=columns)


@given(rows=st.integers(1, 50), half=st.integers(1, 80), bits=st.sampled_from([8, 4]))
@settings(deadline=None, max_examples=40)
def test_tiles_have_the_same_numbers_and_go_back_as_they_came(
    rows: int, half: int, bits: int
) -> None:
    linear = official(rows, 2 * half, bits)
    tiles = in_tiles(linear)
    assert torch.equal(tiles.dequantized(torch.float32), linear.dequantized(torch.float32))
    assert torch.equal(tiles.official("weight"), linear.weight)
    assert torch.equal(tiles.official("weight_scale"), linear.weight_scale)


@needs_kernels
@pytest.mark.parametrize("bits", [8, 4])
def test_the_kernels_multiply_what_the_official_module_does(bits: int) -> None:
    linear = official(70, 96, bits)
    x = torch.randint(-127, 128, (5, 96)) / 16  # 8 bits hold it
    x[:, ::32] = 127 / 16
    with torch.inference_mode():
        wanted = torch.nn.functional.linear(x, linear.dequantized(torch.float32))
        torch.testing.assert_close(in_tiles(linear)(x), wanted, rtol=1e-4, atol=1e-3)


@needs_kernels
@pytest.mark.parametrize("name", NAMES)
def test_a_large_file_is_computed_by_the_kernels_and_saved_as_it_was(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared / "oracles" / name
    exact = load(source)
    assert not any(isinstance(m, OfficialTiles) for m in exact.model.modules())
    monkeypatch.setattr(fill, "_MOST_EXACT", 0)
    fast = load(source)
    kinds = {type(m) for m in fast.model.modules()}
    assert OfficialTiles in kinds
    assert OfficialLinear not in kinds
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        states = [loaded.model(ids)[0] for loaded in (exact, fast)]
    assert torch.nn.functional.cosine_similarity(*states).min() > 0.995
    engine = Engine(fast.model)
    prompt = Prompt(tokens=tuple(range(5, 45)), prefix=20, hole=3)
    if fast.config.context == "causal":
        prompt = Prompt(tokens=tuple(range(5, 45)))
    tokens = [o.token for o in engine.stream(prompt, Sampling(temperature=0, max_new_tokens=8))]
    assert len(tokens) == 8
    assert isinstance(engine.runner.network, Network)
    saved = save(fast, tmp_path / "again")
    monkeypatch.undo()
    again, first = load(saved).model.state_dict(), exact.model.state_dict()
    assert again.keys() == first.keys()
    assert all(torch.equal(again[key], value) for key, value in first.items())


@needs_kernels
def test_who_asks_for_float32_gets_what_the_official_code_computes(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "_MOST_EXACT", 0)
    loaded = load(shared / "oracles" / NAMES[0], dtype="float32")
    assert not any(isinstance(m, OfficialTiles) for m in loaded.model.modules())

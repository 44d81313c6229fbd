"""Keys and values in blocks, and what they take."""

from __future__ import annotations

import pytest

from chatglm.config import ModelConfig
from chatglm.generation import native
from chatglm.generation.engine import Engine
from chatglm.model import Transformer


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("is_native", [False, True])
@pytest.mark.parametrize("width", [4, 16, 40])
def test_the_bytes_that_are_told_are_those_that_the_cache_takes(
    width: int, is_native: bool, kv_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_native:
        monkeypatch.setattr(native, "can_serve", lambda *_: False)
    elif native.kernel() is None:
        pytest.skip("the native kernel was not built")
    config = ModelConfig(
        num_layers=2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=width,
        ffn_size=32, vocab_size=32, max_length=64,
    )  # fmt: skip
    engine = Engine(Transformer(config), kv_dtype=kv_dtype)
    store = engine.runner.open(engine.scheduler.num_blocks)
    assert store.for_native == is_native
    parts = [store.keys, store.values, *([] if store.scales is None else [store.scales])]
    assert engine.max_cache_bytes == sum(part.untyped_storage().nbytes() for part in parts)

from __future__ import annotations

import math

import pytest
import torch

from chatglm.config import ModelConfig
from chatglm.evaluate.likelihood import score, token_losses, transformer_scorer
from chatglm.model import Transformer
from chatglm.training.start import initialize

SHAPE = ModelConfig(
    num_layers=1, hidden_size=16, num_heads=2, num_kv_heads=1, head_dim=8, ffn_size=32,
    vocab_size=32, max_length=16,
)  # fmt: skip


def make_model() -> Transformer:
    model = Transformer(SHAPE).eval()
    initialize(model, seed=3)
    return model


def test_every_token_is_scored_once_whatever_the_window() -> None:
    model = make_model()
    torch.nn.init.zeros_(model.head.weight)  # every word is as likely as any other
    for length in (2, 15, 16, 17, 18, 40, 100):
        ids = [i % 32 for i in range(length)]
        nats = transformer_scorer(model)(ids)
        assert nats == pytest.approx((length - 1) * math.log(32), rel=1e-5)


def test_a_short_text_is_scored_in_one_forward() -> None:
    model, ids = make_model(), [1, 5, 9, 2, 7]
    expected = float(token_losses(model, torch.tensor([ids])).sum().detach())
    assert transformer_scorer(model)(ids) == pytest.approx(expected, rel=1e-5)


def test_bits_are_counted_per_character_and_domain() -> None:
    def encode(text: str) -> list[int]:
        return list(text.encode())

    tallies = score([("a", "你好"), ("b", "xyz")], encode, lambda ids: len(ids) - 1.0, start=0)
    assert list(tallies) == ["a", "b", "all"]
    assert tallies["a"].bits_per_character == pytest.approx(6 / math.log(2) / 2)
    assert tallies["all"].bits_per_character == pytest.approx(9 / math.log(2) / 5)

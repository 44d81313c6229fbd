"""The recipes that are compared for an equal time are a fair pair."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatglm.model import Transformer
from chatglm.training.config import TrainConfig, read_recipe

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def num_parameters(recipe: TrainConfig) -> int:
    assert recipe.model is not None
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(recipe.model).parameters())


def test_the_plain_gpt_is_as_large_and_reads_the_same_rows() -> None:
    plain, small = (read_recipe(BENCHMARKS / f"{n}.toml") for n in ("plain_gpt", "small_glm"))
    assert num_parameters(plain) == pytest.approx(num_parameters(small), rel=0.01)
    for name in ("sources", "validation", "tokenizer", "seed", "length", "batch_rows", "threads"):
        assert getattr(plain, name) == getattr(small, name)
    for recipe in (plain, small):
        assert recipe.optim.warmup_steps + recipe.optim.decay_steps == recipe.steps

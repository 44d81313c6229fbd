"""Tiny models with random weights, one for each kind of position, residual and context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chatglm import ChatGLM
from chatglm.config import Experts, ModelConfig
from chatglm.model import Transformer

torch.set_num_threads(1)

KINDS: dict[str, dict[str, object]] = {
    "rope": {},
    "rope_half_sandwich": {"rope_pairs": "half", "residual": "sandwich", "qk_norm": True},
    "rope_tied": {"tied": True, "bias": "none"},
    "rope_2d_prefix": {
        "position": "rope_2d",
        "rope_pairs": "half",
        "rope_fraction": 1.0,
        "context": "prefix",
        "residual": "normed",
        "residual_scale": 2.0,
        "norm": "layernorm",
        "mlp": "gelu",
        "bias": "all",
        "num_kv_heads": 4,
    },
    "learned": {"position": "learned", "norm": "layernorm", "mlp": "gelu_tanh"},
    "learned_2d_prefix": {
        "position": "learned_2d",
        "context": "prefix",
        "norm": "layernorm",
        "mlp": "gelu",
        "bias": "all",
        "num_kv_heads": 4,
        "tied": True,
    },
    "sinusoidal": {"position": "sinusoidal"},
    "experts": {
        "experts": Experts(num_experts=4, num_active=2, num_shared=1, ffn_size=16, first_layer=1)
    },
}


@pytest.fixture
def tiny() -> Callable[[str], Transformer]:
    """Builds a tiny model of a kind, always with the same weights."""

    def build(kind: str) -> Transformer:
        sizes = {
            "num_layers": 2,
            "hidden_size": 32,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 8,
            "ffn_size": 48,
            "vocab_size": 96,
            "max_length": 128,
        }
        torch.manual_seed(0)
        model = Transformer(ModelConfig(**{**sizes, **KINDS[kind]}))  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.3)
        return model.eval()

    return build


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def model(toy: Path) -> ChatGLM:
    """The tiny model in the embedded model's format."""
    model = ChatGLM.from_pretrained(toy)
    assert isinstance(model, ChatGLM)
    return model

"""The network against the plain formulas, for every choice that a config can make."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.glm import NaiveGLM, places_left_to_right, places_of_a_blank

from chatglm import config as choices
from chatglm.config import Experts, ModelConfig, RopeScaling
from chatglm.generation.cache import SequenceCache, position_ids
from chatglm.model import Transformer, prefix_mask
from chatglm.prompt import Prompt, positions

BASE = ModelConfig(
    num_layers=2, hidden_size=20, num_heads=4, num_kv_heads=2, head_dim=8, ffn_size=12,
    vocab_size=24, max_length=32,
)  # fmt: skip
EXPERTS = Experts(num_experts=6, num_active=3, num_shared=1, ffn_size=8)
LINEAR = RopeScaling(kind="linear", factor=4.0)
YARN = RopeScaling(
    kind="yarn", factor=4.0, original_length=32, beta_fast=2.0, beta_slow=0.5, truncate=False
)
STRETCHED: dict[str, object] = {"rope_fraction": 1.0, "rope_theta": 10.0}

# One entry a value of an axis; the shape is GLM-4's otherwise.
AXES: dict[str, list[dict[str, object]]] = {
    "norm": [{"norm": "rmsnorm", "norm_eps": 1e-2}, {"norm": "layernorm", "norm_eps": 1e-2}],
    "residual": [
        {"residual": "pre"},
        {"residual": "normed", "residual_scale": 2.0},
        {"residual": "normed", "norm": "layernorm"},
        {"residual": "sandwich"},
    ],
    "final_norm": [{"final_norm": True}, {"final_norm": False}],
    "position": [
        {"position": "rope"},
        {"position": "rope_2d", "rope_fraction": 1.0, "context": "prefix"},
        {"position": "learned"},
        {"position": "learned_2d"},
        {"position": "sinusoidal"},
    ],
    "rope_pairs": [
        {"rope_pairs": "interleaved"},
        {"rope_pairs": "half"},
        {"rope_pairs": "half", "position": "rope_2d", "rope_fraction": 1.0, "context": "prefix"},
    ],
    "rope_fraction": [{"rope_fraction": share} for share in (0.25, 0.5, 1.0)],
    "rope_theta": [{"rope_theta": 10.0}, {"rope_theta": 5e5}],
    "rope_scaling": [
        {"rope_scaling": LINEAR},
        {**STRETCHED, "rope_scaling": YARN},
        {**STRETCHED, "rope_scaling": replace(YARN, truncate=True)},
        {**STRETCHED, "rope_scaling": replace(YARN, attention_factor=0.8)},
    ],
    "rope_frequency_dtype": [
        {"rope_frequency_dtype": dtype, "rope_fraction": 1.0}
        for dtype in ("float32", "float16", "bfloat16")
    ],
    "context": [
        {"context": "causal"},
        {"context": "prefix"},
        {"context": "prefix", "position": "learned_2d"},
        {"context": "prefix", "position": "rope_2d", "rope_fraction": 1.0, "rope_pairs": "half"},
    ],
    "mlp": [{"mlp": "swiglu"}, {"mlp": "gelu"}, {"mlp": "gelu_tanh"}],
    "bias": [{"bias": "qkv"}, {"bias": "all"}, {"bias": "none"}],
    "qk_norm": [{"qk_norm": False}, {"qk_norm": True}],
    "tied": [{"tied": False}, {"tied": True}],
    "num_kv_heads": [{"num_kv_heads": count} for count in (1, 2, 4)],
    "experts": [
        {"experts": EXPERTS},
        {"experts": replace(EXPERTS, num_shared=0, first_layer=0)},
        {"experts": replace(EXPERTS, num_shared=2, weights_are_normalized=False, scale=2.5)},
        {"experts": replace(EXPERTS, num_groups=3, num_active_groups=2)},
    ],
}
CASES = [
    pytest.param(replace(BASE, **values), id=f"{axis}-{number}")  # type: ignore[arg-type]
    for axis, rows in AXES.items()
    for number, values in enumerate(rows)
]
SIZES = {"num_layers", "hidden_size", "num_heads", "head_dim", "ffn_size", "vocab_size"}
TOKENS = (3, 17, 3, 9, 21, 0, 5, 11, 8)
PREFIX, HOLE = 5, 2


def make_model(config: ModelConfig) -> Transformer:
    """A network in float64 whose every number is random, norms and corrections too."""
    generator = torch.Generator().manual_seed(11)
    model = Transformer(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
            if name.endswith("correction"):  # below 0, closed groups (0) would tie with each other
                parameter.abs_()
    return model


def make_naive(model: Transformer) -> NaiveGLM:
    return NaiveGLM(model.config, {n: p.detach().numpy() for n, p in model.named_parameters()})


def prompt_of(config: ModelConfig) -> Prompt:
    if config.context == "prefix":
        return Prompt(tokens=TOKENS, prefix=PREFIX, hole=HOLE)
    return Prompt(tokens=TOKENS)


def expected_logits(model: Transformer, prompt: Prompt) -> np.ndarray:
    planes, length = model.config.num_planes, len(prompt.tokens)
    places = places_left_to_right(length, planes)
    if prompt.hole is not None:
        places = places_of_a_blank(length, planes, prefix=prompt.prefix, hole=prompt.hole)
    return make_naive(model).logits(prompt.tokens, places, prefix=prompt.prefix)


@torch.inference_mode()
def full_logits(model: Transformer, prompt: Prompt) -> torch.Tensor:
    """Scores (T, V) from one forward over all tokens."""
    length = len(prompt.tokens)
    places = torch.tensor([positions(prompt, length, model.config.num_planes)])
    is_prefix = model.config.context == "prefix"
    mask = prefix_mask(torch.tensor([prompt.prefix]), length) if is_prefix else None
    return model.logits(model(torch.tensor([prompt.tokens]), places, mask))[0]


@torch.inference_mode()
def cached_logits(model: Transformer, prompt: Prompt, read_at_once: int) -> torch.Tensor:
    """Scores (T, V) of a prompt read in pieces: the first so many tokens, then one by one."""
    config, device = model.config, torch.device("cpu")
    length = len(prompt.tokens)
    cache = SequenceCache(config, dtype=torch.float64, device=device, capacity=length)
    rows = []
    start = 0
    for stop in range(read_at_once, length + 1):
        places = position_ids(prompt, stop, config, device, start)
        tokens = torch.tensor([prompt.tokens[start:stop]])
        hidden = model(tokens, places, None, cache.read(prompt, start, stop))
        rows.append(model.logits(hidden)[0])
        start = stop
    return torch.cat(rows)


def assert_close(got: torch.Tensor, expected: np.ndarray) -> None:
    """Equal but for float32 rotary angles and float32 scores."""
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=5e-5)  # scores reach 20


@pytest.mark.parametrize("config", CASES)
def test_every_choice_is_what_the_formulas_say(config: ModelConfig) -> None:
    model = make_model(config)
    prompt = prompt_of(config)
    expected = expected_logits(model, prompt)
    assert np.abs(expected).max() > 0.1
    assert_close(full_logits(model, prompt), expected)
    assert_close(cached_logits(model, prompt, read_at_once=PREFIX), expected)


def test_every_choice_of_every_axis_is_among_the_cases() -> None:
    hints = get_type_hints(ModelConfig, vars(choices))
    for field in fields(ModelConfig):
        if field.name in SIZES | {"max_length", "norm_eps", "residual_scale"}:
            continue
        assert field.name in AXES, f"{field.name} has no case"
        used = [values.get(field.name, field.default) for values in AXES[field.name]]
        if all(isinstance(value, str) for value in used):
            assert set(get_args(hints[field.name])) == set(used)
    kinds = get_args(get_type_hints(RopeScaling, vars(choices))["kind"])
    assert {scaling.kind for scaling in (LINEAR, YARN)} == set(kinds)


def test_each_choice_matters() -> None:
    """Two values of an axis give different scores, so that no case above is empty."""
    for axis, rows in AXES.items():
        made = [full_logits(make_model(c), prompt_of(c)) for c in cases_of(rows)]
        for i, a in enumerate(made):
            for b in made[:i]:
                assert not torch.allclose(a, b, atol=1e-6), axis


def cases_of(rows: list[dict[str, object]]) -> list[ModelConfig]:
    return [replace(BASE, **values) for values in rows]  # type: ignore[arg-type]


configs = st.fixed_dictionaries({axis: st.sampled_from(rows) for axis, rows in AXES.items()})


@given(configs, st.permutations(list(AXES)))
@settings(max_examples=40, deadline=None)
def test_choices_combine(picked: dict[str, dict[str, object]], order: list[str]) -> None:
    values: dict[str, object] = {}
    for axis in order:
        values |= picked[axis]
    if values["position"] == "rope_2d":
        values |= {"rope_fraction": 1.0}
    config = replace(BASE, **values)  # type: ignore[arg-type]
    model, prompt = make_model(config), prompt_of(config)
    expected = expected_logits(model, prompt)
    assert_close(full_logits(model, prompt), expected)
    assert_close(cached_logits(model, prompt, read_at_once=PREFIX), expected)


@pytest.mark.parametrize("position", ["rope", "rope_2d", "learned", "learned_2d", "sinusoidal"])
def test_without_positions_tokens_count_from_the_left(position: str) -> None:
    config = replace(BASE, position=position, rope_fraction=1.0)  # type: ignore[arg-type]
    model = make_model(config)
    with torch.inference_mode():
        logits = model.logits(model(torch.tensor([TOKENS])))[0]
    places = places_left_to_right(len(TOKENS), config.num_planes)
    assert_close(logits, make_naive(model).logits(TOKENS, places))


def test_a_batch_of_prefixes_equals_each_alone() -> None:
    config = replace(BASE, context="prefix", position="learned_2d")
    model = make_model(config)
    prompts = [Prompt(tokens=TOKENS, prefix=p, hole=0) for p in (3, 5, 9)]
    places = torch.tensor([positions(p, len(TOKENS), 2) for p in prompts])
    mask = prefix_mask(torch.tensor([p.prefix for p in prompts]), len(TOKENS))
    with torch.inference_mode():
        together = model.logits(model(torch.tensor([TOKENS] * 3), places, mask))
    for row, prompt in zip(together, prompts, strict=True):
        assert_close(row, expected_logits(model, prompt))

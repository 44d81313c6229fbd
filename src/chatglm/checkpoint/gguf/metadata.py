"""A config as GGUF's keys, and back: one table, read in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np

from chatglm.checkpoint import configs
from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.gguf.header import Value
from chatglm.checkpoint.parts import transformers_format
from chatglm.checkpoint.published import Defaults
from chatglm.config import Experts, ModelConfig, RopeScaling
from chatglm.errors import CheckpointError

whole = partial(configs.whole, where="")
number = partial(configs.number, where="")

Architecture = Literal["chatglm", "glm4", "glm4moe"]
Keys = dict[str, Value]

_ARCHITECTURES: dict[Format, Architecture] = {
    "glm": "chatglm",
    "glm4": "glm4",
    "glm4_moe": "glm4moe",
}
# ggml's key behind the architecture → our field.
_SIZES = {
    "block_count": "num_layers",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_heads",
    "attention.head_count_kv": "num_kv_heads",
    "attention.key_length": "head_dim",
    "feed_forward_length": "ffn_size",
    "vocab_size": "vocab_size",
    "context_length": "max_length",
}
_NUMBERS = {
    "attention.layer_norm_rms_epsilon": "norm_eps",
    "rope.freq_base": "rope_theta",
}
_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_active",
    "expert_shared_count": "num_shared",
    "expert_feed_forward_length": "ffn_size",
    "leading_dense_block_count": "first_layer",
}
_GROUPS = {"expert_group_count": "num_groups", "expert_group_used_count": "num_active_groups"}
_MAY_BE_ZERO = ("expert_shared_count", "leading_dense_block_count")
_SIGMOID = 2
_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
# Keys of our own; llama.cpp passes over what it does not know.
GENERATION, END_IDS, MAX_NEW_TOKENS = (
    "chatglm.generation", "chatglm.end_ids", "chatglm.max_new_tokens",
)  # fmt: skip


def architecture_of(config: ModelConfig) -> Architecture:
    """llama.cpp's name of an architecture; a ValueError where it has none for this one."""
    format = transformers_format(config)
    if format is None or not has_default_yarn(config.rope_scaling):
        raise ValueError(
            "llama.cpp has no architecture for this model; it knows ChatGLM2 and 3, GLM-4, "
            "GLM-4-0414, GLM-Z1 and GLM-4.5 as they were published"
        )
    return _ARCHITECTURES[format]


def has_default_yarn(scaling: RopeScaling | None) -> bool:
    """Whether what llama.cpp does not read of a scaling has its usual value."""
    if scaling is None or scaling.kind == "linear":
        return True
    return scaling.truncate and (scaling.beta_fast, scaling.beta_slow) == (32.0, 1.0)


def is_square(config: ModelConfig) -> bool:
    """Whether llama.cpp opens a file of this shape: its `chatglm` wants heads and their width to
    make the model's width, as in all published models.
    """
    is_bound = architecture_of(config) == "chatglm"
    return not is_bound or config.num_heads * config.head_dim == config.hidden_size


def keys_of(config: ModelConfig) -> Keys:
    """The keys of a config, with the architecture before them."""
    keys: Keys = {key: getattr(config, name) for key, name in (_SIZES | _NUMBERS).items()}
    keys["attention.value_length"] = config.head_dim
    keys["rope.dimension_count"] = config.rotary_size
    if (scaling := config.rope_scaling) is not None:
        keys["rope.scaling.type"] = scaling.kind
        keys["rope.scaling.factor"] = float(scaling.factor)
        if scaling.original_length is not None:
            keys["rope.scaling.original_context_length"] = scaling.original_length
        if scaling.attention_factor is not None:
            keys["rope.scaling.attn_factor"] = scaling.attention_factor / usual_strength(scaling)
    if (experts := config.experts) is not None:
        keys |= {key: getattr(experts, name) for key, name in _EXPERTS.items()}
        if experts.num_groups > 1:
            keys |= {key: getattr(experts, name) for key, name in _GROUPS.items()}
        keys["expert_gating_func"] = _SIGMOID
        keys["expert_weights_norm"] = experts.weights_are_normalized
        keys["expert_weights_scale"] = float(experts.scale)
    architecture = architecture_of(config)
    return {f"{architecture}.{key}": value for key, value in keys.items()}


def usual_strength(scaling: RopeScaling) -> float:
    """YaRN's factor on cosine and sine where none is given (arXiv:2309.00071, §3.4)."""
    return 1.0 if scaling.kind == "linear" else 0.1 * math.log(scaling.factor) + 1.0


def format_of(metadata: Mapping[str, Value], names: set[str]) -> Format:
    """The table of names of a file; a CheckpointError where its architecture is of another
    family.
    """
    found = metadata.get("general.architecture")
    if found == "chatglm":
        return "gguf_chatglm" if "blk.0.attn_qkv.weight" in names else "gguf_chatglm_apart"
    if found in ("glm4", "glm4moe"):
        return "gguf_glm4" if found == "glm4" else "gguf_glm4moe"
    raise CheckpointError(
        f"the file's architecture is {found!r}, which is not of this family; known: chatglm, glm4, "
        "glm4moe"
    )


def config_of(metadata: Mapping[str, Value], names: set[str]) -> ModelConfig:
    """The config of a file by its keys and the names of its tensors."""
    architecture = cast(Architecture, str(metadata["general.architecture"]))
    start = f"{architecture}."
    keys = {k.removeprefix(start): v for k, v in metadata.items() if k.startswith(start)}
    for key, other in (
        ("attention.head_count_kv", keys.get("attention.head_count")),
        ("attention.key_length", usual_head(keys)),
        ("vocab_size", len(words) if isinstance(words := metadata.get(WORDS), list) else None),
    ):
        if other is not None:
            keys.setdefault(key, other)
    keys["block_count"] = whole(keys, "block_count") - whole(
        keys, "nextn_predict_layers", 0, least=0
    )
    sizes: dict[str, Any] = {name: whole(keys, key) for key, name in _SIZES.items()}
    rotated = whole(keys, "rope.dimension_count", sizes["head_dim"])
    is_mixed = architecture == "glm4moe"
    return ModelConfig(
        **sizes,
        norm_eps=number(keys, "attention.layer_norm_rms_epsilon", 1e-5),
        rope_theta=number(keys, "rope.freq_base", 10000.0),
        rope_fraction=rotated / sizes["head_dim"],
        rope_scaling=scaling_of(keys),
        rope_pairs="half" if is_mixed else "interleaved",
        residual="sandwich" if architecture == "glm4" else "pre",
        bias="qkv" if {"blk.0.attn_qkv.bias", "blk.0.attn_q.bias"} & names else "none",
        qk_norm="blk.0.attn_q_norm.weight" in names,
        tied="output.weight" not in names,
        experts=experts_of(keys) if is_mixed else None,
    )


WORDS = "tokenizer.ggml.tokens"


def usual_head(keys: Mapping[str, Value]) -> int:
    """Width of a head where the file does not say it."""
    return whole(keys, "embedding_length") // whole(keys, "attention.head_count")


def scaling_of(keys: Mapping[str, Value]) -> RopeScaling | None:
    """The rotary scaling of a file."""
    kind = keys.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ValueError(f"rope.scaling.type {kind!r} is not supported; known: linear, yarn")
    scaling = RopeScaling(
        kind="linear" if kind == "linear" else "yarn",
        factor=number(keys, "rope.scaling.factor", 1.0),
    )
    if "rope.scaling.original_context_length" in keys:
        length = whole(keys, "rope.scaling.original_context_length")
        scaling = replace(scaling, original_length=length)
    if "rope.scaling.attn_factor" in keys:
        strength = number(keys, "rope.scaling.attn_factor", 1.0) * usual_strength(scaling)
        scaling = replace(scaling, attention_factor=strength)
    return scaling


def experts_of(keys: Mapping[str, Value]) -> Experts:
    """The experts of a file."""
    if keys.get("expert_gating_func", _SIGMOID) != _SIGMOID:
        raise ValueError(
            f"expert_gating_func must be {_SIGMOID} (sigmoid), got {keys['expert_gating_func']!r}"
        )
    sizes: dict[str, Any] = {
        name: whole(keys, key, least=0 if key in _MAY_BE_ZERO else 1)
        for key, name in _EXPERTS.items()
    }
    groups: dict[str, Any] = {name: whole(keys, key, 1) for key, name in _GROUPS.items()}
    return Experts(
        **sizes,
        **groups,
        weights_are_normalized=bool(keys.get("expert_weights_norm", True)),
        scale=number(keys, "expert_weights_scale", 1.0),
    )


def keys_of_defaults(defaults: Defaults, generation: str) -> Keys:
    """Settings of generation as keys: llama.cpp's own where it has them."""
    keys: Keys = {key: float(getattr(defaults, name)) for key, name in _SAMPLING.items()}
    keys["general.sampling.top_k"] = defaults.top_k
    keys[GENERATION] = generation
    if defaults.end_ids:
        keys[END_IDS] = np.array(sorted(defaults.end_ids), dtype=np.uint32)
    if defaults.max_new_tokens is not None:
        keys[MAX_NEW_TOKENS] = defaults.max_new_tokens
    return keys


def defaults_of(metadata: Mapping[str, Value]) -> Defaults:
    """Settings of generation of a file; 0.8 and 0.8, as GLM-4's own, where it has none."""
    usual = Defaults(temperature=0.8, top_p=0.8)
    ends = metadata.get(END_IDS)
    most = metadata.get(MAX_NEW_TOKENS)
    return Defaults(
        **{name: number(metadata, key, getattr(usual, name)) for key, name in _SAMPLING.items()},
        top_k=whole(metadata, "general.sampling.top_k", 0, least=0),
        max_new_tokens=None if most is None else whole(metadata, MAX_NEW_TOKENS),
        end_ids=frozenset(ends.tolist()) if isinstance(ends, np.ndarray) else frozenset(),
    )

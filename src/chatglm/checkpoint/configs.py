"""Published config.json files as our config, one reader per format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from chatglm.config import Experts, ModelConfig, RopeScaling

Format = Literal[
    "glm2021", "chatglm", "chatglm2", "chatglm2_heads", "glm", "glm4", "glm4_moe",
    "gguf_chatglm", "gguf_chatglm_apart", "gguf_glm4", "gguf_glm4moe",
]  # fmt: skip
Table = Mapping[str, object]


def format_of(table: Table) -> Format:
    """Which published format a config.json is in; `glm` names two, told apart by their keys."""
    kind = table.get("model_type")
    if kind == "glm":
        return "glm" if "num_hidden_layers" in table else "glm2021"
    if kind == "chatglm":
        if "inner_hidden_size" in table:
            return "chatglm"
        # Without groups the official code keeps query, key and value of a head together.
        return "chatglm2" if table.get("multi_query_attention") else "chatglm2_heads"
    if kind == "glm4":
        return "glm4"
    if kind == "glm4_moe":
        return "glm4_moe"
    raise ValueError(
        f"config.json: model_type {kind!r} is not of this family; known: glm, chatglm, glm4, "
        "glm4_moe"
    )


CONFIG = "config.json: "


def whole(
    table: Table, key: str, default: int | None = None, *, least: int = 1, where: str = CONFIG
) -> int:
    """A whole number of a config; a ValueError names the key."""
    value = table.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise ValueError(
            f"{where}{key} must be a whole number of at least {least}, got {table.get(key)!r}"
        )
    return value


def number(table: Table, key: str, default: float, *, where: str = CONFIG) -> float:
    """A finite number of a config; a ValueError names the key."""
    value = table.get(key)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}{key} must be a number, got {table.get(key)!r}")
    return float(value)


def width_and_heads(table: Table) -> tuple[int, int]:
    """The hidden size and the number of heads, which divide it."""
    hidden, heads = whole(table, "hidden_size"), whole(table, "num_attention_heads")
    if hidden % heads:
        raise ValueError(
            f"config.json: num_attention_heads must divide hidden_size, got {heads} and {hidden}"
        )
    return hidden, heads


def read_glm2021(table: Table) -> ModelConfig:
    """GLM 2021 as on the hub; its GELU is the exact one of the hub's modeling file."""
    hidden, heads = width_and_heads(table)
    if table.get("relative_encoding"):
        raise ValueError("config.json: relative_encoding true was never published; expected false")
    return ModelConfig(
        num_layers=whole(table, "num_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_size=4 * hidden,
        vocab_size=whole(table, "vocab_size"),
        max_length=whole(table, "max_sequence_length"),
        norm="layernorm",
        position="learned_2d" if table.get("block_position_encoding", True) else "learned",
        context="prefix",
        mlp="gelu",
        bias="all",
        tied=True,
    )


# The official code scales ChatGLM-6B's skips by √(2·28) whatever num_layers says.
OFFICIAL_DEPTH = 28


def read_chatglm(table: Table) -> ModelConfig:
    """ChatGLM-6B."""
    hidden, heads = width_and_heads(table)
    is_2d = bool(table.get("position_encoding_2d", True))
    return ModelConfig(
        num_layers=whole(table, "num_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        ffn_size=whole(table, "inner_hidden_size"),
        vocab_size=whole(table, "vocab_size"),
        max_length=whole(table, "max_sequence_length", 2048),
        norm="layernorm",
        norm_eps=number(table, "layernorm_epsilon", 1e-5),
        residual="normed",
        residual_scale=math.sqrt(2 * OFFICIAL_DEPTH),
        position="rope_2d" if is_2d else "rope",
        rope_pairs="half",
        rope_fraction=1.0,
        rope_frequency_dtype="float16",
        context="prefix",
        mlp="gelu_tanh",
        bias="all",
    )


def read_chatglm2(table: Table) -> ModelConfig:
    """ChatGLM2, ChatGLM3, CodeGeeX2 and GLM-4 in the `chatglm` format."""
    hidden, heads = whole(table, "hidden_size"), whole(table, "num_attention_heads")
    grouped = bool(table.get("multi_query_attention", False))
    all_bias = bool(table.get("add_bias_linear", False))
    some_bias = bool(table.get("add_qkv_bias", False))
    return ModelConfig(
        num_layers=whole(table, "num_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=whole(table, "multi_query_group_num", 1) if grouped else heads,
        head_dim=whole(table, "kv_channels", max(hidden // heads, 1)),
        ffn_size=whole(table, "ffn_hidden_size"),
        vocab_size=whole(table, "padded_vocab_size"),
        max_length=whole(table, "seq_length", 2048),
        norm="rmsnorm" if table.get("rmsnorm", True) else "layernorm",
        norm_eps=number(table, "layernorm_epsilon", 1e-5),
        residual="normed" if table.get("apply_residual_connection_post_layernorm") else "pre",
        final_norm=bool(table.get("post_layer_norm", True)),
        bias="all" if all_bias else "qkv" if some_bias else "none",
        tied=bool(table.get("tie_word_embeddings", False)),
    )


def rope_settings(table: Table) -> Table:
    """Rotary settings of a transformers config, under their old or their new (`rope_parameters`)
    keys.
    """
    new = table.get("rope_parameters")
    if isinstance(new, Mapping):
        return {**table, **new}
    old = table.get("rope_scaling")
    return {**table, **(old if isinstance(old, Mapping) else {})}


def read_rope_scaling(rope: Table) -> RopeScaling | None:
    """Scaling of a transformers config."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind not in ("linear", "yarn"):
        raise ValueError(
            f"config.json: rope scaling {kind!r} is not supported; known: default, linear, yarn"
        )
    original = "original_max_position_embeddings"
    strength = rope.get("attention_factor")
    return RopeScaling(
        kind="linear" if kind == "linear" else "yarn",
        factor=number(rope, "factor", 1.0),
        original_length=whole(rope, original if rope.get(original) else "max_position_embeddings"),
        beta_fast=number(rope, "beta_fast", 32.0),
        beta_slow=number(rope, "beta_slow", 1.0),
        attention_factor=None if strength is None else number(rope, "attention_factor", 1.0),
        truncate=bool(rope.get("truncate", True)),
    )


def scaled_length(length: int, scaling: RopeScaling | None) -> int:
    """The context that scaling stretches to, where max_position_embeddings still says the original
    one.
    """
    if scaling is None or scaling.original_length is None:
        return length
    return max(length, int(scaling.original_length * scaling.factor))


def read_transformers(table: Table) -> ModelConfig:
    """transformers' `glm`, `glm4` and `glm4_moe`."""
    kind = table["model_type"]
    hidden, heads = whole(table, "hidden_size"), whole(table, "num_attention_heads")
    rope = rope_settings(table)
    scaling = read_rope_scaling(rope)
    act = table.get("hidden_act", "silu")
    if act != "silu":
        raise ValueError(f"config.json: hidden_act must be silu, got {act!r}")
    has_bias = bool(table.get("attention_bias", kind == "glm"))
    experts = None
    if kind == "glm4_moe":
        experts = Experts(
            num_experts=whole(table, "n_routed_experts"),
            num_active=whole(table, "num_experts_per_tok"),
            num_shared=whole(table, "n_shared_experts", 1, least=0),
            ffn_size=whole(table, "moe_intermediate_size"),
            first_layer=whole(table, "first_k_dense_replace", 1, least=0),
            num_groups=whole(table, "n_group", 1),
            num_active_groups=whole(table, "topk_group", 1),
            weights_are_normalized=bool(table.get("norm_topk_prob", True)),
            scale=number(table, "routed_scaling_factor", 1.0),
        )
    return ModelConfig(
        num_layers=whole(table, "num_hidden_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=whole(table, "num_key_value_heads", heads),
        head_dim=whole(table, "head_dim", max(hidden // heads, 1)),
        ffn_size=whole(table, "intermediate_size"),
        vocab_size=whole(table, "vocab_size"),
        max_length=scaled_length(whole(table, "max_position_embeddings"), scaling),
        norm_eps=number(table, "rms_norm_eps", 1.5625e-07 if kind == "glm" else 1e-5),
        residual="sandwich" if kind == "glm4" else "pre",
        rope_pairs="half" if kind == "glm4_moe" else "interleaved",
        rope_fraction=number(rope, "partial_rotary_factor", 0.5),
        rope_theta=number(rope, "rope_theta", 10000.0),
        rope_scaling=scaling,
        bias="qkv" if has_bias else "none",
        qk_norm=bool(table.get("use_qk_norm", False)) and kind == "glm4_moe",
        tied=bool(table.get("tie_word_embeddings", False)),
        experts=experts,
    )


_READERS: dict[Format, Callable[[Table], ModelConfig]] = {
    "glm2021": read_glm2021,
    "chatglm": read_chatglm,
    "chatglm2": read_chatglm2,
    "chatglm2_heads": read_chatglm2,
    "glm": read_transformers,
    "glm4": read_transformers,
    "glm4_moe": read_transformers,
}
assert set(_READERS) == {name for name in get_args(Format) if not name.startswith("gguf")}


def read_config(format: Format, table: Table) -> ModelConfig:
    """Our config from a config.json, its rope_ratio left to `with_ratio`; a ValueError names the
    key.
    """
    return _READERS[format](table)

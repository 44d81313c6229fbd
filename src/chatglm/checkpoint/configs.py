"""Published config.json files as our config, one reader per format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from chatglm.config import Experts, ModelConfig, RopeScaling

Format = Literal[
    "glm2021", "chatglm", "chatglm2", "chatglm2_heads", "glm", "glm4", "glm4_moe",
    "gguf_chatglm", "gguf_chatglm_apart", "gguf_glm4", "gguf_glm4moe",
]  # fmt: skip
RopeRatio = Literal["base", "positions"]
Table = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Settings of generation that the files give, or the official code of the generation."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    end_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Ids that say where a prefix model's context ends and what it fills; −1 where the files do
    not say.
    """

    sop: int = -1
    gmask: int = -1
    mask: int = -1


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a directory's json files say."""

    format: Format
    config: ModelConfig
    defaults: Defaults
    layout: Layout
    num_learned: int = 0
    notes: tuple[str, ...] = ()


def read_published(
    table: Table, generation: Table | None = None, *, rope_ratio: RopeRatio | None = None
) -> Published:
    """Config, defaults and layout from config.json and generation_config.json.

    rope_ratio: what a ChatGLM config's ratio means, `base` (multiplies the rotary base) or
        `positions` (divides the positions); None decides on evidence and says so in `notes`.
    """
    format = format_of(table)
    config, notes = _READERS[format](table, rope_ratio)
    layout = Layout()
    if format == "chatglm":
        layout = Layout(
            sop=(sop := whole(table, "bos_token_id", 130004, least=0)),
            # The first config.json files do not name them; they stand before <sop>.
            gmask=whole(table, "gmask_token_id", max(sop - 3, 0), least=0),
            mask=whole(table, "mask_token_id", max(sop - 4, 0), least=0),
        )
    return Published(
        format=format,
        config=config,
        defaults=read_defaults(format, table, generation or {}),
        layout=layout,
        num_learned=whole(table, "pre_seq_len", 0, least=0),
        notes=notes,
    )


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


def read_glm2021(table: Table, rope_ratio: RopeRatio | None) -> tuple[ModelConfig, tuple[str, ...]]:
    """GLM 2021 as on the hub; its GELU is the exact one of the hub's modeling file."""
    hidden, heads = whole(table, "hidden_size"), whole(table, "num_attention_heads")
    if hidden % heads:
        raise ValueError(
            f"config.json: num_attention_heads must divide hidden_size, got {heads} and {hidden}"
        )
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
    ), ()


# The official code scales ChatGLM-6B's skips by √(2·28) whatever num_layers says.
OFFICIAL_DEPTH = 28


def read_chatglm(table: Table, rope_ratio: RopeRatio | None) -> tuple[ModelConfig, tuple[str, ...]]:
    """ChatGLM-6B."""
    hidden, heads = whole(table, "hidden_size"), whole(table, "num_attention_heads")
    num_layers = whole(table, "num_layers")
    if hidden % heads:
        raise ValueError(
            f"config.json: num_attention_heads must divide hidden_size, got {heads} and {hidden}"
        )
    is_2d = bool(table.get("position_encoding_2d", True))
    return ModelConfig(
        num_layers=num_layers,
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
    ), ()


def read_chatglm2(
    table: Table, rope_ratio: RopeRatio | None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """ChatGLM2, ChatGLM3, CodeGeeX2 and GLM-4 in the `chatglm` format."""
    hidden, heads = whole(table, "hidden_size"), whole(table, "num_attention_heads")
    grouped = bool(table.get("multi_query_attention", False))
    all_bias = bool(table.get("add_bias_linear", False))
    some_bias = bool(table.get("add_qkv_bias", False))
    ratio = number(table, "rope_ratio", 1.0)
    theta, scaling = 10000.0, None
    notes: tuple[str, ...] = ()
    if ratio != 1:
        meaning, why = (rope_ratio, "as asked") if rope_ratio else meaning_of_ratio(table, ratio)
        if meaning == "base":
            theta *= ratio
        else:
            scaling = RopeScaling(kind="linear", factor=ratio)
        told = "multiplies the rotary base" if meaning == "base" else "divides the positions"
        notes = (f"rope_ratio {ratio:g} {told} ({why}); rope_ratio= of the loader overrides this",)
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
        rope_theta=theta,
        rope_scaling=scaling,
        bias="all" if all_bias else "qkv" if some_bias else "none",
        tied=bool(table.get("tie_word_embeddings", False)),
    ), notes


def meaning_of_ratio(table: Table, ratio: float) -> tuple[RopeRatio, str]:
    """What rope_ratio does in this config: ChatGLM2-6B-32k divides positions, later ones multiply
    the base.
    """
    said = table.get("rope_ratio_meaning")  # what our classes for transformers write
    if said in get_args(RopeRatio):
        return cast(RopeRatio, said), "config.json says so"
    name = str(table.get("_name_or_path", "")).lower()
    if "chatglm2" in name or "codegeex2" in name:
        return "positions", f"the name is {table['_name_or_path']}"
    if "chatglm3" in name or "glm-4" in name or "longwriter" in name:
        return "base", f"the name is {table['_name_or_path']}"
    version = str(table.get("transformers_version", ""))
    if version.startswith("4.27"):
        return "positions", f"transformers_version is {version}, ChatGLM2's"
    if version:
        return "base", f"transformers_version is {version}, later than ChatGLM2's"
    return (
        ("base", "a ratio of 50 and more is ChatGLM3's or GLM-4's")
        if ratio >= 50
        else (
            ("base", "several end tokens are GLM-4's")
            if isinstance(table.get("eos_token_id"), list)
            else ("positions", "a small ratio is ChatGLM2-32k's")
        )
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
    original = rope.get("original_max_position_embeddings")
    strength = rope.get("attention_factor")
    return RopeScaling(
        kind="linear" if kind == "linear" else "yarn",
        factor=number(rope, "factor", 1.0),
        original_length=whole(
            rope if original else {"max_position_embeddings": rope["max_position_embeddings"]},
            "original_max_position_embeddings" if original else "max_position_embeddings",
        ),
        beta_fast=number(rope, "beta_fast", 32.0),
        beta_slow=number(rope, "beta_slow", 1.0),
        attention_factor=None if strength is None else number(rope, "attention_factor", 1.0),
        truncate=bool(rope.get("truncate", True)),
    )


def scaled_length(length: int, rope: Table) -> int:
    """The context that scaling stretches to, where max_position_embeddings still says the original
    one.
    """
    scaling = read_rope_scaling(rope)
    if scaling is None or scaling.original_length is None:
        return length
    return max(length, int(scaling.original_length * scaling.factor))


def read_transformers(
    table: Table, rope_ratio: RopeRatio | None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """transformers' `glm`, `glm4` and `glm4_moe`."""
    kind = table["model_type"]
    hidden, heads = whole(table, "hidden_size"), whole(table, "num_attention_heads")
    rope = rope_settings(table)
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
    config = ModelConfig(
        num_layers=whole(table, "num_hidden_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=whole(table, "num_key_value_heads", heads),
        head_dim=whole(table, "head_dim", max(hidden // heads, 1)),
        ffn_size=whole(table, "intermediate_size"),
        vocab_size=whole(table, "vocab_size"),
        max_length=scaled_length(whole(table, "max_position_embeddings"), rope),
        norm_eps=number(table, "rms_norm_eps", 1.5625e-07 if kind == "glm" else 1e-5),
        residual="sandwich" if kind == "glm4" else "pre",
        rope_pairs="half" if kind == "glm4_moe" else "interleaved",
        rope_fraction=number(rope, "partial_rotary_factor", 0.5),
        rope_theta=number(rope, "rope_theta", 10000.0),
        rope_scaling=read_rope_scaling(rope),
        bias="qkv" if has_bias else "none",
        qk_norm=bool(table.get("use_qk_norm", False)) and kind == "glm4_moe",
        tied=bool(table.get("tie_word_embeddings", False)),
        experts=experts,
    )
    return config, ()


_READERS: dict[Format, Callable[[Table, RopeRatio | None], tuple[ModelConfig, tuple[str, ...]]]] = {
    "glm2021": read_glm2021,
    "chatglm": read_chatglm,
    "chatglm2": read_chatglm2,
    "chatglm2_heads": read_chatglm2,
    "glm": read_transformers,
    "glm4": read_transformers,
    "glm4_moe": read_transformers,
}
assert set(_READERS) == {name for name in get_args(Format) if not name.startswith("gguf")}

# temperature, top_p of the official chat methods, where no generation_config.json says otherwise.
_OFFICIAL = {
    "chatglm": (0.95, 0.7),
    "chatglm2": (0.8, 0.8),
    "chatglm2_heads": (0.8, 0.8),
    "glm": (0.8, 0.8),
    "glm4": (0.8, 0.8),
    "glm4_moe": (1.0, 1.0),
    "glm2021": (0.9, 0.7),
}


def read_defaults(format: Format, table: Table, generation: Table) -> Defaults:
    """Defaults of generation: generation_config.json, else what the official code does."""
    temperature, top_p = _OFFICIAL[format]
    if generation.get("do_sample") is False:
        temperature = 0.0
    ends = generation.get("eos_token_id", table.get("eos_token_id"))
    ends = [ends] if isinstance(ends, int) else ends
    if ends is None:
        ends = []
    if not isinstance(ends, list) or not all(isinstance(i, int) and i >= 0 for i in ends):
        raise ValueError(f"config.json: eos_token_id must be an id or a list of ids, got {ends!r}")
    most = generation.get("max_new_tokens")
    return Defaults(
        temperature=temperature and number(generation, "temperature", temperature),
        top_k=whole(generation, "top_k", 0, least=0),
        top_p=number(generation, "top_p", top_p),
        repetition_penalty=number(generation, "repetition_penalty", 1.0),
        max_new_tokens=None if most is None else whole(generation, "max_new_tokens"),
        end_ids=frozenset(ends),
    )

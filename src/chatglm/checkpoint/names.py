"""One table of names per published format, read in both directions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.transforms import Transform
from chatglm.config import ModelConfig


@dataclass(frozen=True)
class Rule:
    """Our name, the file's names in the order of their rows, and what is done between them.

    `{i}` is the layer, `{e}` the expert. A name without weight or bias stands for all parts of a
    linear or norm.
    """

    ours: str
    theirs: tuple[str, ...]
    transform: Transform = "same"


def linears(ours: str, *theirs: str, transform: Transform = "same") -> Rule:
    """A module whose parts (weight, bias, weight_scale) all follow one rule."""
    kind: Transform = "join" if len(theirs) > 1 else transform
    return Rule(ours, theirs, kind)


def remote_rules(root: str, layers: str, attention: str, *, interleaved: bool) -> list[Rule]:
    """What GLM 2021, ChatGLM-6B and ChatGLM2 share inside a layer."""
    at = f"{root}{layers}.{{i}}."
    return [
        linears("layers.{i}.norm1", f"{at}input_layernorm"),
        linears(
            "layers.{i}.attention.qkv",
            f"{at}{attention}.query_key_value",
            transform="heads" if interleaved else "same",
        ),
        linears("layers.{i}.attention.out", f"{at}{attention}.dense"),
        linears("layers.{i}.norm2", f"{at}post_attention_layernorm"),
        linears("layers.{i}.mlp.up", f"{at}mlp.dense_h_to_4h"),
        linears("layers.{i}.mlp.down", f"{at}mlp.dense_4h_to_h"),
    ]


def chatglm2_rules(*, interleaved: bool) -> list[Rule]:
    """ChatGLM2, 3 and GLM-4 in the `chatglm` format."""
    return [
        linears("embedding", "transformer.embedding.word_embeddings"),
        *remote_rules("transformer.encoder.", "layers", "self_attention", interleaved=interleaved),
        linears("norm", "transformer.encoder.final_layernorm"),
        linears("head", "transformer.output_layer"),
    ]


def transformers_rules(format: Format) -> list[Rule]:
    """transformers' `glm`, `glm4` and `glm4_moe`."""
    at = "model.layers.{i}."
    moe = at + "mlp.experts.{e}."
    is_moe = format == "glm4_moe"
    after = "post_self_attn_layernorm", "post_mlp_layernorm"
    gate_up = ("gate_proj", "up_proj") if is_moe else ("gate_up_proj",)
    rules = [
        linears("embedding", "model.embed_tokens"),
        linears("layers.{i}.norm1", at + "input_layernorm"),
        linears(
            "layers.{i}.attention.qkv", *(f"{at}self_attn.{part}_proj" for part in ("q", "k", "v"))
        ),
        linears("layers.{i}.attention.out", at + "self_attn.o_proj"),
        linears("layers.{i}.norm2", at + "post_attention_layernorm"),
        linears("layers.{i}.mlp.up", *(f"{at}mlp.{part}" for part in gate_up)),
        linears("layers.{i}.mlp.down", at + "mlp.down_proj"),
        linears("norm", "model.norm"),
        linears("head", "lm_head"),
    ]
    if format == "glm4":
        rules += [
            linears("layers.{i}.norm1_post", at + after[0]),
            linears("layers.{i}.norm2_post", at + after[1]),
        ]
    if is_moe:
        rules += [
            linears("layers.{i}.attention.q_norm", at + "self_attn.q_norm"),
            linears("layers.{i}.attention.k_norm", at + "self_attn.k_norm"),
            linears("layers.{i}.mlp.router", at + "mlp.gate"),
            Rule("layers.{i}.mlp.router.correction", (at + "mlp.gate.e_score_correction_bias",)),
            linears("layers.{i}.mlp.experts.{e}.up", moe + "gate_proj", moe + "up_proj"),
            linears("layers.{i}.mlp.experts.{e}.down", moe + "down_proj"),
            linears(
                "layers.{i}.mlp.shared.up",
                at + "mlp.shared_experts.gate_proj",
                at + "mlp.shared_experts.up_proj",
            ),
            linears("layers.{i}.mlp.shared.down", at + "mlp.shared_experts.down_proj"),
        ]
    return rules


def gguf_rules(*, fused: bool, sandwich: bool = False, moe: bool = False) -> list[Rule]:
    """llama.cpp's `chatglm`, `glm4` and `glm4moe`."""
    at = "blk.{i}."
    qkv = ("attn_qkv",) if fused else ("attn_q", "attn_k", "attn_v")
    after_attention = "post_attention_norm" if moe else "ffn_norm"
    up = ("ffn_gate", "ffn_up") if moe else ("ffn_up",)
    rules = [
        linears("embedding", "token_embd"),
        linears("layers.{i}.norm1", at + "attn_norm"),
        linears("layers.{i}.attention.qkv", *(at + part for part in qkv)),
        linears("layers.{i}.attention.out", at + "attn_output"),
        linears("layers.{i}.norm2", at + after_attention),
        linears("layers.{i}.mlp.up", *(at + part for part in up)),
        linears("layers.{i}.mlp.down", at + "ffn_down"),
        linears("norm", "output_norm"),
        linears("head", "output"),
    ]
    if sandwich:
        rules += [
            linears("layers.{i}.norm1_post", at + "post_attention_norm"),
            linears("layers.{i}.norm2_post", at + "post_ffw_norm"),
        ]
    if moe:
        stacked = tuple(f"{at}ffn_{part}_exps.weight[{{e}}]" for part in ("gate", "up", "down"))
        rules += [
            linears("layers.{i}.attention.q_norm", at + "attn_q_norm"),
            linears("layers.{i}.attention.k_norm", at + "attn_k_norm"),
            linears("layers.{i}.mlp.router", at + "ffn_gate_inp"),
            Rule("layers.{i}.mlp.router.correction", (at + "exp_probs_b.bias",)),
            Rule("layers.{i}.mlp.experts.{e}.up.weight", stacked[:2], "join"),
            Rule("layers.{i}.mlp.experts.{e}.down.weight", stacked[2:]),
            linears("layers.{i}.mlp.shared.up", at + "ffn_gate_shexp", at + "ffn_up_shexp"),
            linears("layers.{i}.mlp.shared.down", at + "ffn_down_shexp"),
        ]
    return rules


RULES: dict[Format, list[Rule]] = {
    "glm2021": [
        linears("embedding", "word_embeddings"),
        linears("position.text", "transformer.position_embeddings"),
        linears("position.span", "transformer.block_position_embeddings"),
        *remote_rules("transformer.", "layers", "attention", interleaved=False),
        linears("norm", "transformer.final_layernorm"),
    ],
    "chatglm": [
        linears("embedding", "transformer.word_embeddings"),
        *remote_rules("transformer.", "layers", "attention", interleaved=True),
        linears("norm", "transformer.final_layernorm"),
        linears("head", "lm_head"),
    ],
    "chatglm2": chatglm2_rules(interleaved=False),
    "chatglm2_heads": chatglm2_rules(interleaved=True),
    "glm": transformers_rules("glm"),
    "glm4": transformers_rules("glm4"),
    "glm4_moe": transformers_rules("glm4_moe"),
    "gguf_chatglm": gguf_rules(fused=True),
    "gguf_chatglm_apart": gguf_rules(fused=False),
    "gguf_glm4": gguf_rules(fused=False, sandwich=True),
    "gguf_glm4moe": gguf_rules(fused=False, moe=True),
}

# Tensors that are computed here and so not needed: rotary frequencies.
_COMPUTED = re.compile(r"(^|\.)rotary_(pos_)?emb\.(inv_freq|cos_cached|sin_cached)$")
_PREFIX_ENCODER = re.compile(r"^(transformer\.)?prefix_encoder\.")
_LAYER = re.compile(r"^(?:model\.layers|blk)\.(\d+)\.")


@dataclass(frozen=True)
class Entry:
    """One parameter of ours and where it comes from."""

    ours: str
    theirs: tuple[str, ...]
    transform: Transform


def entry_of(format: Format, name: str) -> Entry:
    """The entry of one parameter of ours; a KeyError where the format has no place for it."""
    indices = {}
    pattern = name
    if layer := re.match(r"layers\.(\d+)\.", name):
        indices["i"] = layer[1]
        pattern = pattern.replace(f"layers.{layer[1]}.", "layers.{i}.", 1)
    if expert := re.search(r"\.experts\.(\d+)\.", name):
        indices["e"] = expert[1]
        pattern = pattern.replace(f".experts.{expert[1]}.", ".experts.{e}.", 1)
    module, _, part = pattern.rpartition(".")
    rules = {rule.ours: rule for rule in RULES[format]}
    if (rule := rules.get(pattern)) is not None:
        return Entry(name, tuple(t.format(**indices) for t in rule.theirs), rule.transform)
    rule = rules[module]
    theirs = tuple(f"{t.format(**indices)}.{part}" for t in rule.theirs)
    return Entry(name, theirs, rule.transform)


def is_left_out(format: Format, config: ModelConfig, name: str) -> bool:
    """Whether a tensor of the file has no part in the model: frequencies, the prefix encoder, a
    tied head, layers for multi-token prediction behind the last one.
    """
    if _COMPUTED.search(name) or _PREFIX_ENCODER.match(name):
        return True
    if config.tied and name in ("lm_head.weight", "transformer.output_layer.weight"):
        return True
    layer = _LAYER.match(name)
    has_more = format in ("glm4_moe", "gguf_glm4", "gguf_glm4moe")
    return has_more and layer is not None and int(layer[1]) >= config.num_layers

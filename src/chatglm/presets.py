"""The shapes of the published models, as their config.json gives them."""

from __future__ import annotations

from dataclasses import replace

from chatglm.config import Experts, ModelConfig


def _glm_2021(num_layers: int, hidden_size: int, num_heads: int, vocab_size: int) -> ModelConfig:
    return ModelConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        ffn_size=4 * hidden_size,
        vocab_size=vocab_size,
        max_length=1024,
        norm="layernorm",
        position="learned_2d",
        context="prefix",
        mlp="gelu",
        bias="all",
        tied=True,
    )


_CHATGLM_6B = ModelConfig(
    num_layers=28,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
    ffn_size=16384,
    vocab_size=130528,
    max_length=2048,
    norm="layernorm",
    residual="normed",
    residual_scale=56**0.5,
    position="rope_2d",
    rope_pairs="half",
    rope_fraction=1.0,
    context="prefix",
    mlp="gelu_tanh",
    bias="all",
    tied=True,
)
_CHATGLM2_6B = ModelConfig(
    num_layers=28,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=2,
    head_dim=128,
    ffn_size=13696,
    vocab_size=65024,
    max_length=32768,
)
_GLM4_9B = replace(
    _CHATGLM2_6B,
    num_layers=40,
    vocab_size=151552,
    max_length=131072,
    norm_eps=1.5625e-7,
    rope_theta=5e6,
)
_GLM4_0414 = replace(_GLM4_9B, residual="sandwich", max_length=32768, norm_eps=1e-5, rope_theta=1e4)
_GLM45_AIR = ModelConfig(
    num_layers=46,
    hidden_size=4096,
    num_heads=96,
    num_kv_heads=8,
    head_dim=128,
    ffn_size=10944,
    vocab_size=151552,
    max_length=131072,
    rope_pairs="half",
    rope_theta=1e6,
    experts=Experts(num_experts=128, num_active=8, num_shared=1, ffn_size=1408),
)

PRESETS: dict[str, ModelConfig] = {
    "glm-large-chinese": _glm_2021(24, 1024, 16, 50048),
    "glm-10b-chinese": _glm_2021(48, 4096, 64, 50048),
    "glm-10b": _glm_2021(48, 4096, 64, 50304),
    "chatglm-6b": _CHATGLM_6B,
    "chatglm2-6b": _CHATGLM2_6B,
    "codegeex2-6b": replace(_CHATGLM2_6B, max_length=8192),
    "chatglm3-6b": replace(_CHATGLM2_6B, max_length=8192),
    "chatglm3-6b-32k": replace(_CHATGLM2_6B, rope_theta=5e5),
    "chatglm3-6b-128k": replace(_CHATGLM2_6B, max_length=131072, rope_theta=5e6),
    "glm-4-9b-chat": _GLM4_9B,
    "glm-4-9b-chat-1m": replace(_GLM4_9B, num_kv_heads=4, max_length=1048576, rope_theta=1e8),
    "glm-4-9b-0414": _GLM4_0414,
    "glm-4-32b-0414": replace(
        _GLM4_0414,
        num_layers=61,
        hidden_size=6144,
        num_heads=48,
        ffn_size=23040,
        bias="none",
    ),
    "glm-4.5-air": _GLM45_AIR,
    "glm-4.5": replace(
        _GLM45_AIR,
        num_layers=92,
        hidden_size=5120,
        ffn_size=12288,
        qk_norm=True,
        experts=Experts(
            num_experts=160, num_active=8, num_shared=1, ffn_size=1536, first_layer=3, scale=2.5
        ),
    ),
}

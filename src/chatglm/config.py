"""The shape of a model: closed choices that together cover every published generation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

Norm = Literal["layernorm", "rmsnorm"]
Residual = Literal["pre", "normed", "sandwich"]
Position = Literal["rope", "rope_2d", "learned", "learned_2d", "sinusoidal"]
RopePairs = Literal["interleaved", "half"]
Context = Literal["causal", "prefix"]
Activation = Literal["gelu", "gelu_tanh", "swiglu"]
Bias = Literal["all", "qkv", "none"]
Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary angles are stretched beyond the length of training.

    `linear` divides the positions by `factor`. `yarn` interpolates low frequencies and keeps high
    ones (arXiv:2309.00071), and scales cosine and sine by `attention_factor` (None: 0.1 ln(factor)
    + 1).
    """

    kind: Literal["linear", "yarn"]
    factor: float
    original_length: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts in the place of the MLP, from layer `first_layer` on (arXiv:2412.19437,
    §2.1.2).
    """

    num_experts: int
    num_active: int
    num_shared: int
    ffn_size: int
    first_layer: int = 1
    num_groups: int = 1
    num_active_groups: int = 1
    weights_are_normalized: bool = True
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One transformer of the family. Defaults are GLM-4's; a field exists because a published
    checkpoint needs it.

    residual: `pre` adds a block's output to its input; `normed` adds it to the *normed* input
        times `residual_scale` (ChatGLM-6B: √(2L); ChatGLM2 with
        `apply_residual_connection_post_layernorm`: 1); `sandwich` is `pre` with a norm on the
        output of each block as well.
    position: where order comes from; the `_2d` kinds take two planes, place in the text and place
        in the span.
    rope_fraction: share of the head width that is rotated (of each plane's half in `rope_2d`,
        which is 1).
    rope_frequency_dtype: precision in which the official code keeps inverse frequencies.
    context: `prefix` lets the first `Prompt.prefix` tokens see each other in both directions.
    bias: which linears have one; `qkv` leaves the attention output and the MLP without.
    max_length: the context in tokens, prompt and reply together.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    max_length: int
    norm: Norm = "rmsnorm"
    norm_eps: float = 1e-5
    residual: Residual = "pre"
    residual_scale: float = 1.0
    final_norm: bool = True
    position: Position = "rope"
    rope_pairs: RopePairs = "interleaved"
    rope_fraction: float = 0.5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rope_frequency_dtype: Precision = "float32"
    context: Context = "causal"
    mlp: Activation = "swiglu"
    bias: Bias = "qkv"
    qk_norm: bool = False
    tied: bool = False
    experts: Experts | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads, got {self.num_kv_heads} and {self.num_heads}"
            )
        if self.position.startswith("rope") and (self.rotary_size < 2 or self.rotary_size % 2):
            raise ValueError(
                f"the rotated width must be even and at least 2, got {self.rotary_size}"
                f" from head_dim {self.head_dim}; change head_dim or rope_fraction"
            )

    @property
    def num_planes(self) -> int:
        """P: how many position ids a token has."""
        return 2 if self.position.endswith("_2d") else 1

    @property
    def rotary_size(self) -> int:
        """Width that one position plane rotates in each head."""
        width = self.head_dim // 2 if self.position == "rope_2d" else self.head_dim
        return int(width * self.rope_fraction)


_CHOICES = {
    "norm": get_args(Norm),
    "residual": get_args(Residual),
    "position": get_args(Position),
    "rope_pairs": get_args(RopePairs),
    "rope_frequency_dtype": get_args(Precision),
    "context": get_args(Context),
    "mlp": get_args(Activation),
    "bias": get_args(Bias),
}
_SIZES = [f.name for f in fields(ModelConfig) if f.type == "int"]

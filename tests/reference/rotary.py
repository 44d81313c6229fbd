"""Rotary positions (arXiv:2104.09864), pair by pair, in one plane or two, plain or stretched."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from chatglm.config import ModelConfig

Vector = NDArray[np.float64]


def rotate(config: ModelConfig, x: Vector, place: tuple[int, ...]) -> Vector:
    """A head's query or key turned by its place; in two planes each turns its own part."""
    y = x.copy()
    size = config.rotary_size
    for plane, position in enumerate(place):
        for pair in range(size // 2):
            a, b = members(config, pair)
            a, b = a + plane * size, b + plane * size
            angle = stretched_position(config, position) * frequency(config, pair)
            cos, sin = math.cos(angle) * strength(config), math.sin(angle) * strength(config)
            y[a] = x[a] * cos - x[b] * sin
            y[b] = x[b] * cos + x[a] * sin
    return y


def members(config: ModelConfig, pair: int) -> tuple[int, int]:
    """Which two numbers turn together: neighbours, or one of each half."""
    if config.rope_pairs == "interleaved":
        return 2 * pair, 2 * pair + 1
    return pair, pair + config.rotary_size // 2


def frequency(config: ModelConfig, pair: int) -> float:
    """Radians a position, θ^(−2i/R), rounded as the official code keeps it."""
    plain = rounded(config.rope_theta ** (-2 * pair / config.rotary_size), config)
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "yarn":
        return plain
    # YaRN (arXiv:2309.00071, §3.2), with the blend linear in the pair's index as in the published
    # code: pairs that turn often in the trained length stay, those that turn seldom are stretched.
    low, high = (
        pair_that_turns(config, scaling.beta_fast),
        pair_that_turns(config, scaling.beta_slow),
    )
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_size - 1)
    share = min(max((pair - low) / max(high - low, 0.001), 0), 1)
    return share * plain / scaling.factor + (1 - share) * plain


def pair_that_turns(config: ModelConfig, turns: float) -> float:
    """The (fractional) pair that turns so often within the trained length."""
    assert config.rope_scaling is not None
    length = config.rope_scaling.original_length
    assert length is not None
    per_position = turns * 2 * math.pi / length
    return config.rotary_size / 2 * math.log(1 / per_position) / math.log(config.rope_theta)


def stretched_position(config: ModelConfig, position: int) -> float:
    """Linear scaling squeezes positions into the trained length."""
    scaling = config.rope_scaling
    is_linear = scaling is not None and scaling.kind == "linear"
    return position / scaling.factor if scaling is not None and is_linear else position


def strength(config: ModelConfig) -> float:
    """YaRN's factor on cosine and sine (arXiv:2309.00071, §3.4)."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 1.0 + 0.1 * math.log(max(scaling.factor, 1.0))


def rounded(value: float, config: ModelConfig) -> float:
    """The value in the precision that frequencies are kept in."""
    if config.rope_frequency_dtype == "float16":
        return float(np.float16(np.float32(value)))
    if config.rope_frequency_dtype == "bfloat16":  # the upper half of a float32, ties to even
        bits = int(np.float32(value).view(np.uint32))
        bits += 0x7FFF + (bits >> 16 & 1)
        return float(np.uint32(bits & 0xFFFF0000).view(np.float32))
    return value

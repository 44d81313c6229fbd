"""Where a token stands: rotary angles (one or two planes), learned and sinusoidal embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from chatglm.config import ModelConfig, RopeScaling

_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Rotary(nn.Module):
    """Rotary position embedding (arXiv:2104.09864); in two planes, each turns its own half of a
    head.

    Frequencies are computed where they are used, so that a model built on `meta` needs no buffer
    filled in.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.size = config.rotary_size  # width turned by one plane
        self.theta = config.rope_theta
        self.scaling = config.rope_scaling
        self.pairs = config.rope_pairs
        self.precision = _PRECISIONS[config.rope_frequency_dtype]
        self.inverse: Tensor | None = None  # made on first use, on the device that asks

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (B, T, P, R/2) in float32 of position ids (B, P, T), R the rotated width
        of a plane.
        """
        if self.inverse is None or self.inverse.device != positions.device:
            with torch.no_grad():
                self.inverse = self.frequencies(positions.device)
        at = positions.transpose(1, 2).float()  # (B, T, P)
        if self.scaling is not None and self.scaling.kind == "linear":
            at = at / self.scaling.factor
        angles = at[..., None] * self.inverse  # (B, T, P, R/2)
        strength = yarn_strength(self.scaling)
        return angles.cos() * strength, angles.sin() * strength

    def frequencies(self, device: torch.device) -> Tensor:
        """Inverse frequencies (R/2,) in float32, rounded as the official code of the generation
        rounds them.
        """
        exponent = torch.arange(0, self.size, 2, dtype=torch.float32, device=device) / self.size
        inverse = 1.0 / (self.theta**exponent)
        inverse = inverse.to(self.precision).float()
        if self.scaling is not None and self.scaling.kind == "yarn":
            inverse = yarn_frequencies(inverse, self.size, self.theta, self.scaling)
        return inverse

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn queries or keys (B, T, H, D) by angles (B, T, P, R/2); what lies beyond P·R is left
        as it is.
        """
        num_planes = cos.shape[2]
        turned, rest = x[..., : num_planes * self.size], x[..., num_planes * self.size :]
        planes = turned.float().unflatten(-1, (num_planes, self.size))  # (B, T, H, P, R)
        cos, sin = cos[:, :, None], sin[:, :, None]  # (B, T, 1, P, R/2)
        if self.pairs == "interleaved":
            a, b = planes[..., 0::2], planes[..., 1::2]
            planes = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
        else:
            a, b = planes.chunk(2, -1)
            planes = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        turned = planes.flatten(-2).to(x.dtype)  # (B, T, H, P·R)
        return torch.cat((turned, rest), -1) if rest.shape[-1] else turned


def yarn_strength(scaling: RopeScaling | None) -> float:
    """Factor on cosine and sine under YaRN (arXiv:2309.00071, §3.4); 1 elsewhere."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0


def yarn_frequencies(inverse: Tensor, size: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Inverse frequencies blended by how often each turns in the original length
    (arXiv:2309.00071, §3.2).
    """
    if scaling.original_length is None:
        raise ValueError("yarn scaling needs original_length, the context of training; got None")

    def dimension(turns: float) -> float:
        length = scaling.original_length or 1
        return size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    index = torch.arange(size // 2, dtype=torch.float32, device=inverse.device)
    ramp = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    return inverse / scaling.factor * ramp + inverse * (1 - ramp)


def sinusoidal(positions: Tensor, width: int) -> Tensor:
    """Fixed embeddings (B, T, width) of position ids (B, T): sines, then cosines
    (arXiv:1706.03762, §3.5).
    """
    half = torch.arange(width // 2, dtype=torch.float32, device=positions.device)
    angles = positions.float()[..., None] * 10000.0 ** (-2 * half / width)  # (B, T, width/2)
    return torch.cat((angles.sin(), angles.cos()), -1)


class PositionEmbedding(nn.Module):
    """What position adds to the word embeddings; nothing where position is rotary."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.position
        self.width = config.hidden_size
        if self.kind.startswith("learned"):
            # One row beyond the length, as the family's published files have it.
            self.text = nn.Embedding(config.max_length + 1, config.hidden_size)
        if self.kind == "learned_2d":
            self.span = nn.Embedding(config.max_length + 1, config.hidden_size)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Embeddings (B, T, C) with the position ids (B, P, T) added."""
        if self.kind == "sinusoidal":
            return x + sinusoidal(positions[:, 0], self.width).to(x.dtype)
        if self.kind.startswith("learned"):
            x = x + self.text(positions[:, 0])
        if self.kind == "learned_2d":
            x = x + self.span(positions[:, 1])
        return x

"""LoRA (arXiv:2106.09685) and DoRA (arXiv:2402.09353): a product of two narrow matrices beside a
linear that stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.model.surgery import replace_module


@dataclass(frozen=True, kw_only=True)
class Update:
    """What is added to the output rows `start` to `start + len(b)`: scale · b a x, with a (R, in)
    and b (rows, R).

    magnitude: (rows,), the length that DoRA gives each row of the sum; None in plain LoRA.
    """

    start: int
    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None


class LoraPart(nn.Module):
    """One update of some rows of a linear."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.start, self.scale = update.start, update.scale
        self.a = nn.Parameter(update.a)
        self.b = nn.Parameter(update.b)
        self.magnitude = None if update.magnitude is None else nn.Parameter(update.magnitude)

    @property
    def stop(self) -> int:
        """The row after the last."""
        return self.start + self.b.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, rows), in the updates' own precision."""
        return F.linear(F.linear(x.to(self.a.dtype), self.a), self.b) * self.scale

    def ratio(self, weight: Tensor) -> Tensor:
        """What DoRA multiplies the rows of the sum by; their own length counts as a constant
        (§4.3).
        """
        assert self.magnitude is not None
        with torch.no_grad():
            whole = weight.float() + self.scale * (self.b.float() @ self.a.float())
            length = whole.norm(dim=1)
        return self.magnitude / length


class LoraLinear(nn.Module):
    """Any linear, quantized ones too, and its updates."""

    def __init__(self, base: nn.Module, updates: Iterable[Update]) -> None:
        super().__init__()
        self.base = base
        self.parts = nn.ModuleList(LoraPart(update) for update in updates)
        self.ratios: list[Tensor] | None = None
        self.is_on = True

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, rows); without the updates while they are switched off."""
        y: Tensor = self.base(x)
        if not self.is_on:
            return y
        parts = [part for part in self.parts if isinstance(part, LoraPart)]
        if any(part.magnitude is not None for part in parts):
            return self.scaled(x, y, parts)
        pieces, at = [], 0
        for part in [*parts, None]:
            start = y.shape[-1] if part is None else part.start
            if start > at:
                pieces.append(y.new_zeros(*y.shape[:-1], start - at))
            if part is not None:
                pieces.append(part(x).to(y.dtype))
                at = part.stop
        return y + (pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1))

    def scaled(self, x: Tensor, y: Tensor, parts: list[LoraPart]) -> Tensor:
        """DoRA's: the rows of base and update together, each brought to its learned length."""
        ratios = self.ratios if self.ratios is not None else self.measure()
        pieces, at = [], 0
        bias = getattr(self.base, "bias", getattr(self.base, "linear_bias", None))
        for part, ratio in zip(parts, ratios, strict=True):
            if part.start > at:
                pieces.append(y[..., at : part.start])
            rows = y[..., part.start : part.stop]
            offset = 0.0 if bias is None else bias[part.start : part.stop]
            ratio = ratio.to(y.dtype)
            pieces.append((rows - offset + part(x).to(y.dtype)) * ratio + offset)
            at = part.stop
        return torch.cat([*pieces, y[..., at:]], -1)

    def measure(self) -> list[Tensor]:
        """DoRA's ratio of each part."""
        weight = plain_weight(self.base)
        parts = [part for part in self.parts if isinstance(part, LoraPart)]
        return [part.ratio(weight[part.start : part.stop]) for part in parts]

    def train(self, mode: bool = True) -> Self:
        """Switch; outside of training the ratios are measured once."""
        super().train(mode)
        has_magnitude = any(getattr(part, "magnitude", None) is not None for part in self.parts)
        self.ratios = None
        if not mode and has_magnitude:
            self.ratios = [ratio.detach() for ratio in self.measure()]
        return self


class LoraEmbedding(nn.Module):
    """A word table and an update of every row: scale · aᵀ[token] bᵀ, with a (R, V) and b (C, R)."""

    def __init__(self, base: nn.Module, update: Update) -> None:
        super().__init__()
        self.base, self.scale = base, update.scale
        self.a = nn.Parameter(update.a)
        self.b = nn.Parameter(update.b)

    @property
    def weight(self) -> Tensor:
        """What the base keeps of the table."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores (…, V) of a tied output head, which is the base's alone."""
        y: Tensor = self.base.scores(hidden)  # type: ignore[operator]
        return y

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows (…, C) of ids (…)."""
        y: Tensor = self.base(tokens)
        return y + (F.linear(self.a.t()[tokens], self.b) * self.scale).to(y.dtype)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add every update to the weight that it belongs to, and take the adapter off.

    A ValueError where the base is quantized: the sum would be rounded again.
    """
    adapted = {
        name: (module, float_weight(name, module.base))
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear | LoraEmbedding)
    }
    for name, (module, weight) in adapted.items():
        if isinstance(module, LoraEmbedding):
            change = (module.b.float() @ module.a.float()).t() * module.scale
            weight.copy_(weight.float() + change)
        else:
            for part in module.parts:
                assert isinstance(part, LoraPart)
                rows = weight[part.start : part.stop]
                whole = rows.float() + part.scale * (part.b.float() @ part.a.float())
                if part.magnitude is not None:
                    whole *= part.ratio(rows)[:, None]
                rows.copy_(whole)
        replace_module(model, name, module.base)


def float_weight(name: str, base: nn.Module) -> Tensor:
    """The weight of a module that an adapter lies on; a ValueError where it is quantized."""
    weight = getattr(base, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise ValueError(
            f"{name} is quantized and an adapter cannot be merged into it; load the base without "
            "quantize"
        )
    return weight


def plain_weight(base: nn.Module) -> Tensor:
    """The weight (rows, columns) in floating point, of a quantized linear too."""
    dequantized = getattr(base, "dequantized", None)
    if dequantized is not None:
        unpacked: Tensor = dequantized(torch.float32)
        return unpacked
    return float_weight("the base", base)

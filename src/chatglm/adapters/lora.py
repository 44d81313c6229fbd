"""LoRA (arXiv:2106.09685): a product of two narrow matrices beside a linear that stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.model.surgery import replace_module


@dataclass(frozen=True, kw_only=True)
class Update:
    """What is added to the output rows `start` to `start + len(b)`: scale · b a x, with a (R, in)
    and b (rows, R).
    """

    start: int
    a: Tensor
    b: Tensor
    scale: float


class LoraPart(nn.Module):
    """One update of some rows of a linear."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.start, self.scale = update.start, update.scale
        self.a = nn.Parameter(update.a)
        self.b = nn.Parameter(update.b)

    @property
    def stop(self) -> int:
        """The row after the last."""
        return self.start + self.b.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, rows), in the updates' own precision."""
        return F.linear(F.linear(x.to(self.a.dtype), self.a), self.b) * self.scale


class LoraLinear(nn.Module):
    """Any linear, quantized ones too, and its updates."""

    def __init__(self, base: nn.Module, updates: Iterable[Update]) -> None:
        super().__init__()
        self.base = base
        self.parts = nn.ModuleList(LoraPart(update) for update in updates)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, rows)."""
        y: Tensor = self.base(x)
        for part in self.parts:
            assert isinstance(part, LoraPart)
            y[..., part.start : part.stop] += part(x).to(y.dtype)
        return y


class LoraEmbedding(nn.Module):
    """A word table and an update of every row: scale · aᵀ[token] bᵀ, with a (R, V) and b (C, R)."""

    def __init__(self, base: nn.Module, update: Update) -> None:
        super().__init__()
        self.base, self.scale = base, update.scale
        self.a = nn.Parameter(update.a)
        self.b = nn.Parameter(update.b)

    @property
    def weight(self) -> Tensor:
        """The table (V, C) of the base, for a tied output head."""
        return float_weight("embedding", self.base)

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
                rows.copy_(rows.float() + part.scale * (part.b.float() @ part.a.float()))
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

"""Quantize a model layer by layer on what its linears are given when it reads some texts.

Each layer is run on the outputs of the quantized ones before it, so that it makes up for their
errors too. Of a linear's inputs only Σ x xᵀ is kept; no more than one layer exists in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.model.transformer import Layer
from chatglm.quantization.compensate import compensated
from chatglm.quantization.cuda import on_cuda
from chatglm.quantization.linear import QuantizedLinear, to_tiles
from chatglm.quantization.scheme import Scheme


@dataclass(frozen=True, kw_only=True)
class Row:
    """A text as the network reads it: tokens (1, T), positions (1, P, T) or None for counting,
    mask (1, 1, T, T) or None for causal.
    """

    tokens: Tensor
    positions: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: torch.device) -> Row:
        """The row on a device."""
        parts = (self.tokens, self.positions, self.mask)
        tokens, positions, mask = (None if part is None else part.to(device) for part in parts)
        assert tokens is not None
        return Row(tokens=tokens, positions=positions, mask=mask)


class Calibration:
    """The texts on their way through a model whose weights arrive layer by layer."""

    def __init__(self, rows: Sequence[Row], scheme: Scheme) -> None:
        self.rows, self.scheme = rows, scheme
        self.hidden: list[Tensor] = []  # of each row, (1, T, C) before the next layer

    @torch.inference_mode()
    def quantize_layer(self, model: Transformer, index: int) -> None:
        """Put quantized linears into the layer that has just been filled, and pass through it."""
        places = [self.positions(model, row) for row in self.rows]
        if not self.hidden:
            self.hidden = [
                model.position(model.embedding(row.tokens), at)
                for row, at in zip(self.rows, places, strict=True)
            ]
        layer = model.layers[index]
        assert isinstance(layer, Layer)
        linears = [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]
        with moments_of(dict(linears)) as moments:
            self.run(model, layer, places)
        for name, linear in linears:
            new = quantized_by(linear, moments.pop(name), self.scheme)
            replace_module(layer, name, new)
        self.hidden = self.run(model, layer, places)

    def run(self, model: Transformer, layer: Layer, places: Sequence[Tensor]) -> list[Tensor]:
        """What the layer makes of every row."""
        results = []
        for row, x, at in zip(self.rows, self.hidden, places, strict=True):
            rotary = None
            if model.rotary is not None:
                rotary = (model.rotary, *model.rotary.angles(at))
            results.append(layer(x, rotary, row.mask, None))
        return results

    @staticmethod
    def positions(model: Transformer, row: Row) -> Tensor:
        """Position ids (1, P, T) of a row."""
        return model.count(row.tokens) if row.positions is None else row.positions


@contextmanager
def moments_of(linears: dict[str, nn.Linear]) -> Iterator[dict[str, Tensor]]:
    """Σ x xᵀ (columns, columns) in float32 of what each linear is given meanwhile."""
    found = {
        name: torch.zeros(m.in_features, m.in_features, device=m.weight.device)
        for name, m in linears.items()
    }

    def note(name: str, x: Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1]).float()
        found[name].addmm_(flat.T, flat)

    hooks = [
        m.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
        for name, m in linears.items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def quantized_by(linear: nn.Linear, moments: Tensor, scheme: Scheme) -> nn.Module:
    """The linear in few bits, its rounding made up for; the bias is kept."""
    rows, columns = linear.weight.shape
    integers = compensated(
        linear.weight, moments, scheme.bits, scheme.group, symmetric=scheme.symmetric
    )
    new = QuantizedLinear(
        to_tiles(integers, scheme.bits), rows, columns, scheme.bits, scheme.group, bias=False
    )
    new.bias = linear.bias
    return on_cuda(new)

"""Several adapters beside one base in one batch: each token goes through its own request's."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from chatglm.adapters.peft import read_adapter
from chatglm.checkpoint import Loaded, resolve
from chatglm.checkpoint.adapter import apply
from chatglm.model import Transformer


class NotShared(ValueError):
    """An adapter that changes what all requests of a batch share."""


class Routing:
    """Which tokens of the present forward belong to which adapter; None is the base alone.

    rows: empty where all belong to `only`.
    """

    def __init__(self) -> None:
        self.only: str | None = None
        self.rows: dict[str | None, Tensor] = {}

    def set(self, adapters: Sequence[str | None], lengths: Sequence[int]) -> None:
        """Take the adapters of sequences that stand one after the other, and their lengths."""
        self.rows = {}
        self.only = adapters[0]
        if all(name == self.only for name in adapters):
            return
        places: dict[str | None, list[int]] = {}
        start = 0
        for name, length in zip(adapters, lengths, strict=True):
            places.setdefault(name, []).extend(range(start, start + length))
            start += length
        self.rows = {name: torch.tensor(found) for name, found in places.items()}


class Routed(nn.Module):
    """A module in its variants, one for each adapter."""

    def __init__(self, variants: Mapping[str | None, nn.Module], routing: Routing) -> None:
        super().__init__()
        self.names = list(variants)
        self.variants = nn.ModuleList(variants.values())
        self.routing = routing

    def variant(self, name: str | None) -> nn.Module:
        """The module that an adapter's tokens go through."""
        return self.variants[self.names.index(name)]

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, …) → (1, T, …), each token by its own variant."""
        routing = self.routing
        if not routing.rows:
            whole: Tensor = self.variant(routing.only)(x)
            return whole
        out: Tensor | None = None
        for name, rows in routing.rows.items():
            rows = rows.to(x.device)
            part = self.variant(name)(x.index_select(1, rows))
            if out is None:
                out = part.new_empty(1, x.shape[1], *part.shape[2:])
            out.index_copy_(1, rows, part)
        assert out is not None
        return out


def route(models: Mapping[str | None, Transformer], routing: Routing) -> Transformer:
    """One model of several that are alike but for what their adapters lie on."""
    for name, model in models.items():
        for part in ("embedding", "position", "norm", "head"):
            mine, base = getattr(model, part, None), getattr(models[None], part, None)
            if type(mine) is not type(base):
                raise NotShared(
                    f"the adapter {name!r} changes the {part}, which all requests of a batch "
                    "share; load it alone, as adapter="
                )
    joined = _join(dict(models), routing)
    assert isinstance(joined, Transformer)
    return joined


def _join(modules: dict[str | None, nn.Module], routing: Routing) -> nn.Module:
    first = modules[None]
    if all(module is first for module in modules.values()):
        return first
    if any(type(m) is not type(first) or m._modules.keys() != first._modules.keys()
           for m in modules.values()):  # fmt: skip
        return Routed(modules, routing)
    twin = copy.copy(first)
    parts: dict[str, nn.Module | None] = {}
    for name, part in first._modules.items():
        others = {key: module._modules[name] for key, module in modules.items()}
        found = {key: other for key, other in others.items() if other is not None}
        parts[name] = None if part is None else _join(found, routing)
    twin._modules = parts
    return twin


def bare_twin(model: nn.Module) -> nn.Module:
    """A model of its own modules over the same weights, for an adapter to be put on."""
    twin = copy.copy(model)
    twin._modules = {
        name: None if part is None else bare_twin(part) for name, part in model._modules.items()
    }
    return twin


def twin_with(loaded: Loaded, source: str | os.PathLike[str]) -> Transformer:
    """A loaded model with a LoRA adapter put on, over the same weights."""
    found = read_adapter(resolve(source))
    if found.saved or found.prefix is not None:
        raise NotShared(
            f"{source} replaces whole tensors or the prefix of the base, which all requests of "
            "a batch share; load it alone, as adapter="
        )
    twin = bare_twin(loaded.model)
    assert isinstance(twin, Transformer)
    apply(found, twin, loaded.format, loaded.config)
    return twin

"""Replace modules from outside: quantized linears, adapters."""

from __future__ import annotations

from torch import nn


def module_at(model: nn.Module, name: str) -> nn.Module:
    """The module of a dotted name; an AttributeError where there is none."""
    return model.get_submodule(name)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the one at a dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)

"""Models run by the Triton kernels: on a GPU, or in Triton's interpreter without one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chatglm.generation import native
from chatglm.generation.engine import Engine
from chatglm.model import Transformer
from chatglm.quantization import cuda


@pytest.fixture
def engine_with_kernels(
    kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Engine]:
    """Makes an engine that runs a model through the kernels."""
    if kernel_device == "cpu":
        monkeypatch.setattr(cuda, "is_usable", lambda device: True)
        monkeypatch.setattr(native, "can_serve", lambda *_: False)

    def build(model: Transformer, **settings: object) -> Engine:
        engine = Engine(model.to(kernel_device), **settings)  # type: ignore[arg-type]
        engine.refresh()
        assert engine.runner.network is not None
        return engine

    torch.manual_seed(0)
    return build

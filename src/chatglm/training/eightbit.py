"""AdamW whose moments take 8 bits a number (arXiv:2110.02861), by bitsandbytes.

Its state of a parameter holds two tables that are the same for all parameters; checkpoints leave
them out, and `restore` puts them back.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from chatglm.errors import missing_extra

TABLES = ("qmap1", "qmap2")
# Below it the square of a small gradient rounds to 0, and the update is divided by this alone.
EPSILON = 1e-8


def make_adamw8bit(
    groups: Sequence[dict[str, object]], betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """The optimizer; tensors of fewer than 4,096 numbers keep moments of 32 bits."""
    try:
        with without_hub_kernels():
            from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise missing_extra("bitsandbytes", "8bit") from error
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, betas=betas, eps=EPSILON)
    return optimizer


@contextmanager
def without_hub_kernels() -> Iterator[None]:
    """Let bitsandbytes be imported without a network: it would fetch a product of 4-bit weights,
    which nobody asked for, through the package `kernels` where that is installed.
    """
    # It warns that the product is not there.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    own = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # importing it is an ImportError
    try:
        yield
    finally:
        del sys.modules["kernels"]
        if own is not None:
            sys.modules["kernels"] = own


def restore(optimizer: torch.optim.Optimizer) -> None:
    """Complete the state that came from a checkpoint."""
    saved = {p: dict(entry) for p, entry in optimizer.state.items()}
    for index, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(group["params"]):
            if parameter in saved:
                restore_one(optimizer, (index, place), parameter, saved[parameter])


def restore_one(
    optimizer: torch.optim.Optimizer,
    place: tuple[int, int],
    parameter: nn.Parameter,
    saved: dict[str, Tensor],
) -> None:
    """A fresh state of the parameter, filled with the saved one."""
    begin = optimizer.init_state  # type: ignore[attr-defined]
    begin(optimizer.param_groups[place[0]], parameter, *place)
    state = optimizer.state[parameter]
    state |= {key: value.to(parameter.device) for key, value in saved.items() if key != "step"}
    state["step"] = int(saved["step"])

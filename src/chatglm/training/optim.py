"""Optimizers of a run and the learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from chatglm.parallel.group import whole
from chatglm.training.config import OptimConfig
from chatglm.training.eightbit import make_adamw8bit


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon is made for this parameter: a hidden matrix, not a table of embeddings or the
    head.
    """
    return parameter.ndim == 2 and not name.startswith(("embedding.", "position.", "head."))


def make_optimizers(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
) -> dict[str, torch.optim.Optimizer]:
    """The run's optimizers by name; together they own every trainable parameter once.

    Muon (torch.optim.Muon) orthogonalizes the update of a matrix; its rate is scaled so that an
    update is as large as AdamW's (arXiv:2502.16982, §2.2), and one `lr` serves both.
    """
    trainable = [(name, p) for name, p in named if p.requires_grad]
    matrices = [p for name, p in trainable if is_matrix(name, p)]
    rest = [p for name, p in trainable if not is_matrix(name, p)]
    optimizers: dict[str, torch.optim.Optimizer] = {}
    group = {"params": matrices, "lr": config.lr, "weight_decay": config.weight_decay}
    if config.kind == "muon" and matrices:
        optimizers["muon"] = torch.optim.Muon(
            matrices,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
    if config.kind == "adamw8bit" and matrices:
        optimizers["adamw8bit"] = make_adamw8bit([group], config.betas)
    groups: list[dict[str, object]] = [
        {**group, "params": [] if optimizers else matrices},
        {
            "params": rest,
            "lr": config.lr if config.embedding_lr is None else config.embedding_lr,
            "weight_decay": 0.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if groups:
        optimizers["adamw"] = torch.optim.AdamW(groups, betas=config.betas, eps=1e-10, fused=True)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def rate(step: int, steps: int, config: OptimConfig) -> float:
    """Share of the peak learning rate at `step` (0 is the first) of `steps`."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    left = (steps - step) / config.decay_steps if config.decay_steps else 1.0
    if config.decay == "cosine" and left < 1.0:
        left = 0.5 - 0.5 * math.cos(math.pi * left)
    return min(warm, left, 1.0)


def set_rate(optimizers: dict[str, torch.optim.Optimizer], share: float) -> None:
    """Give every group `share` of its peak learning rate."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


def clip(
    parameters: Iterable[nn.Parameter], limit: float, *, known: Tensor | None = None
) -> Tensor:
    """Scale gradients so that their joint norm is at most `limit` (0: leave them); returns the
    norm before. known: that norm, where it is known.
    """
    gradients = list(parameters)
    if known is None:
        norm = nn.utils.get_total_norm([p.grad for p in gradients if p.grad is not None])
        known = whole(norm)  # of pieces on several processes
    # A norm below the limit would multiply them all by 1.
    if 0 < limit < float(known):
        nn.utils.clip_grads_with_norm_(gradients, limit, known)
    return known

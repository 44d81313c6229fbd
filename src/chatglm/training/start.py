"""Where a run begins: fresh weights, or those of a checkpoint."""

from __future__ import annotations

import math

import torch
from torch import nn

from chatglm.model import Transformer

SPREAD = 0.02


@torch.no_grad()
def initialize(model: Transformer, *, seed: int) -> None:
    """Fill the weights: normal with deviation 0.02, norms 1, biases 0; a seed gives the same
    numbers everywhere.

    What writes into the residual stream is divided by √(2L), so that the stream keeps its size
    with depth (GPT-2, §2.3).
    """
    generator = torch.Generator().manual_seed(seed)
    depth = math.sqrt(2 * model.config.num_layers)
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm | nn.RMSNorm)
        for parameter in module.parameters()
    }
    for name, parameter in model.named_parameters():
        if id(parameter) in norms:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        elif name.endswith(("bias", "correction")):
            parameter.zero_()
        else:
            writes = name.endswith(("out.weight", "down.weight"))
            parameter.normal_(0.0, SPREAD / depth if writes else SPREAD, generator=generator)

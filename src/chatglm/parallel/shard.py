"""FSDP2: parameters, gradients and optimizer states in pieces, each process holding its own."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from chatglm.model.transformer import Layer
from chatglm.parallel.group import Group


def shard(network: nn.Module, group: Group, *, dtype: torch.dtype | None = None) -> None:
    """Put each layer, and the rest, into pieces over the processes of the group.

    Gradients are summed and not averaged, since the loss is divided by the targets of all
    processes together. dtype: in which gathered parameters compute; None: their own.
    """
    mesh = init_device_mesh(group.device.type, (group.size,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in list(network.modules()):
        if isinstance(module, Layer):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
    # The head is used outside of the forward, chunk by chunk.
    register_fsdp_forward_method(network, "logits")

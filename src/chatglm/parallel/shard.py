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
from chatglm.parallel.group import Group, is_sharded, whole


def shard(network: nn.Module, group: Group, *, dtype: torch.dtype | None = None) -> None:
    """Put each layer, and the rest, into pieces over the teams of the group.

    Gradients are summed and not averaged, since the loss is divided by the targets of all
    processes together. dtype: in which gathered parameters compute; None: their own.
    """
    if group.mesh is None:
        mesh = init_device_mesh(group.device.type, (group.size,))
    else:
        mesh = group.mesh["data"]
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in list(network.modules()):
        if isinstance(module, Layer):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # all that gloo knows
    # The head is used outside of the forward, chunk by chunk.
    register_fsdp_forward_method(network, "logits")


@torch.no_grad()
def gather(network: nn.Module) -> None:
    """Make a network whole again on every process, as it was before `shard`; all processes call
    this together.
    """
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if is_sharded(parameter):
                trains = parameter.requires_grad
                module._parameters[name] = nn.Parameter(whole(parameter).clone(), trains)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module._forward_pre_hooks.clear()
            module._forward_hooks.clear()
            module.__dict__.pop("logits", None)
            # FSDP2 makes a class of its own from (FSDPModule, the module's class).
            module.__class__ = type(module).__bases__[1]

"""Where a network computes, and in how many pieces."""

from __future__ import annotations

from chatglm.parallel import Group
from chatglm.parallel.recompute import recompute
from chatglm.training.config import LoopConfig
from chatglm.training.objectives import Network


def distribute(model: Network, config: LoopConfig, group: Group) -> None:
    """Move the model to this process's device, in pieces and recomputing where the recipe says so.

    A process alone on a CPU leaves everything as it is.
    """
    if group.device.type != "cpu":
        model.to(group.device)
    if config.recompute:
        recompute(model)
    if config.shard:
        if group.size == 1:
            raise ValueError("shard needs several processes; start them by torchrun")
        if config.optim.kind == "muon":
            raise ValueError("muon orthogonalizes whole matrices; with shard, set optim.kind=adamw")
        from chatglm.parallel.shard import shard

        shard(model, group)

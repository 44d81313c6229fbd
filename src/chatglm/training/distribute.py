"""Where a network computes, and in how many pieces."""

from __future__ import annotations

from chatglm.parallel import Group
from chatglm.parallel.recompute import recompute
from chatglm.training.config import LoopConfig
from chatglm.training.objectives import Network


def distribute(model: Network, config: LoopConfig, group: Group) -> None:
    """Move the model to this process's device, in pieces and recomputing where the recipe says so;
    in pieces first, since a device may not hold all of it.

    A process alone on a CPU leaves everything as it is.
    """
    if config.recompute:
        recompute(model)
    if (config.shard or config.tensor_parallel > 1) and config.optim.kind != "adamw":
        raise ValueError(
            f"{config.optim.kind} works on whole matrices; with shard or tensor_parallel, set "
            "optim.kind=adamw"
        )
    if config.tensor_parallel > 1:
        from chatglm.parallel.tensor import split

        split(model, group)
    if config.shard:
        if group.data_size == 1:
            raise ValueError(
                f"shard needs at least {2 * config.tensor_parallel} processes here; start them by "
                "torchrun"
            )
        from chatglm.parallel.shard import shard

        shard(model, group)
    if group.device.type != "cpu":
        model.to(group.device)


def collect(model: Network) -> None:
    """Make the model whole again on every process; all call this together."""
    from chatglm.parallel.shard import gather
    from chatglm.parallel.tensor import unite

    gather(model)
    unite(model)

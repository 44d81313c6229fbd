"""Less memory for more work: what is inside a layer is computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chatglm.model.transformer import Layer


def recompute(network: nn.Module) -> None:
    """Make every layer keep its input alone; names of modules and parameters stay."""
    for module in network.modules():
        if isinstance(module, Layer):
            # An instance's own attribute goes before the method of its class.
            module.forward = partial(again, module.forward)  # type: ignore[method-assign]


def again(forward: Callable[..., Tensor], *inputs: object) -> Tensor:
    """What `forward` gives, computed a second time when its gradient is asked for."""
    output: Tensor = checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
    return output

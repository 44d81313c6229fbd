"""Tensor parallel (arXiv:1909.08053): a team of processes holds one copy of the network, each its
share of the heads, of the width inside the MLPs and of the words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.model import Transformer
from chatglm.model.attention import Attention
from chatglm.parallel.group import Group, is_sharded, whole


@dataclass(frozen=True, kw_only=True)
class Split:
    """What one of a team holds of a tensor: along `dim`, its share of each of the blocks, one
    behind the other. A fused linear has several blocks: queries, keys, values; gate, value.
    """

    dim: int
    blocks: tuple[int, ...]
    rank: int
    size: int
    team: dist.ProcessGroup

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Of each block: where the share begins here, where in the whole, and its length."""
        here = base = 0
        for block in self.blocks:
            length = block // self.size
            yield here, base + self.rank * length, length
            here, base = here + length, base + block

    def share(self, tensor: Tensor) -> Tensor:
        """The share of a whole tensor, in memory of its own."""
        parts = [tensor.narrow(self.dim, start, length) for _, start, length in self.spans()]
        return torch.cat(parts, self.dim)

    def join(self, tensor: Tensor) -> Tensor:
        """The whole of which everyone in the team gives a share."""
        shares = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(shares, tensor.contiguous(), group=self.team)
        lengths = [block // self.size for block in self.blocks]
        pieces = [share.split(lengths, self.dim) for share in shares]
        return torch.cat([p[i] for i in range(len(lengths)) for p in pieces], self.dim)


class _Enter(torch.autograd.Function):
    """Into the shares: the same value for all; their gradients are summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, team: dist.ProcessGroup) -> Tensor:
        ctx.team = team
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].contiguous()
        if summed is gradients[0]:
            summed = summed.clone()
        dist.all_reduce(summed, group=ctx.team)
        return summed, None


class _Leave(torch.autograd.Function):
    """Out of the shares: their sum, whose gradient is everyone's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, team: dist.ProcessGroup) -> Tensor:
        summed = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=team)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Join(torch.autograd.Function):
    """The shares side by side in the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, split: Split) -> Tensor:
        ctx.rank, ctx.width = split.rank, x.shape[-1]
        shares = [torch.empty_like(x) for _ in range(split.size)]
        dist.all_gather(shares, x.contiguous(), group=split.team)
        return torch.cat(shares, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].narrow(-1, ctx.rank * ctx.width, ctx.width), None


def rows(module: nn.Linear, split: Split, x: Tensor) -> Tensor:
    """A linear that gives its share of the outputs."""
    return F.linear(_Enter.apply(x, split.team), module.weight, module.bias)


def columns(module: nn.Linear, split: Split, x: Tensor) -> Tensor:
    """A linear that reads its share of the inputs; the bias is added once, to the sum."""
    y: Tensor = _Leave.apply(F.linear(x, module.weight), split.team)
    return y if module.bias is None else y + module.bias


def words(module: nn.Embedding, split: Split, tokens: Tensor) -> Tensor:
    """The rows of the words that are held here, zeros for the others, summed over the team."""
    count = module.weight.shape[0]
    at = tokens - split.rank * count
    is_here = (at >= 0) & (at < count)
    x = F.embedding(torch.where(is_here, at, 0), module.weight)
    return _Leave.apply(x * is_here[..., None], split.team)


def head_norm(module: nn.RMSNorm, split: Split, x: Tensor) -> Tensor:
    """A norm whose one weight serves the heads of all."""
    weight = _Enter.apply(module.weight, split.team)
    return F.rms_norm(x, module.normalized_shape, weight, module.eps)


def scores(model: Transformer, split: Split, hidden: Tensor) -> Tensor:
    """The logits of all words, each of the team giving its own."""
    mine = Transformer.logits(model, _Enter.apply(hidden, split.team))
    return _Join.apply(mine, split)


# By the last part of a module's name: what computes in its place, and which dimension of its
# weight is shared out.
TABLE: dict[str, tuple[Callable[..., Tensor] | None, int | None]] = {
    "qkv": (rows, 0),
    "out": (columns, 1),
    "up": (rows, 0),
    "down": (columns, 1),
    "embedding": (words, 0),
    "head": (None, 0),
    "q_norm": (head_norm, None),
    "k_norm": (head_norm, None),
}


@torch.no_grad()
def split(model: nn.Module, group: Group) -> None:
    """Keep this process's share of the network's linears and words, by the table.

    A ValueError where the heads or widths cannot be shared out evenly. Words that cannot stay
    whole on everyone.
    """
    if not isinstance(model, Transformer):
        raise ValueError(
            f"tensor_parallel splits the model's own linears, and this run trains a "
            f"{type(model).__name__}; use shard"
        )
    check(model, group.tensor_size)
    assert group.mesh is not None
    team = group.mesh["tensor"].get_group()
    for name, module in list(model.named_modules()):
        leaf = name.rpartition(".")[2]
        if leaf not in TABLE:
            continue
        compute, dim = TABLE[leaf]
        blocks = blocks_of(model, name, module, dim)
        if dim is not None and any(block % group.tensor_size for block in blocks):
            continue
        own = Split(
            dim=-1 if dim is None else dim,
            blocks=blocks,
            rank=group.tensor_rank,
            size=group.tensor_size,
            team=team,
        )
        module.split = own
        if compute is not None:
            # An instance's own attribute goes before the method of its class.
            module.forward = partial(compute, module, own)
        for key in split_keys(module):
            parameter = getattr(module, key)
            shared = nn.Parameter(own.share(parameter), parameter.requires_grad)
            setattr(module, key, shared)
    set_widths(model, group.tensor_size)
    last = model.embedding if model.config.tied else model.head
    if isinstance(last.split, Split):
        model.logits = partial(scores, model, last.split)  # type: ignore[method-assign]


def check(model: Transformer, size: int) -> None:
    """A ValueError that names what `size` does not divide, or what is no plain linear."""
    config = model.config
    counts = {
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "ffn_size": config.ffn_size,
    }
    if config.experts is not None:
        counts["experts.ffn_size"] = config.experts.ffn_size
    for name, count in counts.items():
        if count % size:
            raise ValueError(
                f"tensor_parallel {size} does not divide {name} {count}; give a smaller one, and "
                "shard for the rest"
            )
    for name, module in model.named_modules():
        is_linear = name.rpartition(".")[2] in ("qkv", "out", "up", "down")
        if is_linear and not isinstance(module, nn.Linear):
            raise ValueError(
                f"tensor_parallel splits plain linears, and {name} is a {type(module).__name__}; "
                "use shard for adapters"
            )


def blocks_of(model: Transformer, name: str, module: nn.Module, dim: int | None) -> tuple[int, ...]:
    """The widths of what is fused in a module's weight along the dimension."""
    leaf = name.rpartition(".")[2]
    if dim is None:
        return ()
    length: int = module.weight.shape[dim]  # type: ignore[index, assignment]
    if leaf == "qkv":
        config = model.config
        width = config.num_kv_heads * config.head_dim
        return (config.num_heads * config.head_dim, width, width)
    if leaf == "up" and model.config.mlp == "swiglu":
        return (length // 2, length // 2)
    return (length,)


def split_keys(module: nn.Module) -> list[str]:
    """Which parameters of a module are shared out."""
    own = getattr(module, "split", None)
    if not isinstance(own, Split) or own.dim < 0:
        return []
    has_bias = own.dim == 0 and getattr(module, "bias", None) is not None
    return ["weight", "bias"] if has_bias else ["weight"]


def splits_of(model: nn.Module) -> dict[str, Split]:
    """How the parameters are shared out, by name; the others are whole."""
    return {
        f"{name}.{key}" if name else key: module.split
        for name, module in model.named_modules()
        for key in split_keys(module)
    }


def gradient_norm(model: nn.Module, group: Group) -> Tensor:
    """The norm of all gradients together, each number counted once."""
    splits = splits_of(model)
    total = torch.zeros((), dtype=torch.float64, device=group.device)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        copies = 1 if name in splits else group.tensor_size
        gradient = parameter.grad
        if is_sharded(gradient):
            gradient = gradient.to_local()  # type: ignore[attr-defined]
        else:
            copies *= group.data_size
        total += gradient.double().square().sum() / copies
    dist.all_reduce(total)
    return total.sqrt().float()


def whole_tensors(model: nn.Module, *, keeps: bool = True) -> dict[str, Tensor]:
    """Parameters and buffers by name, as if one process held them; all processes ask together.

    keeps: False in a process that only gives its part.
    """
    splits = splits_of(model)
    found = {}
    for name, tensor in model.state_dict().items():
        full = whole(tensor.detach())
        if name in splits:
            full = splits[name].join(full)
        if keeps:
            found[name] = full
    return found


@torch.no_grad()
def unite(model: nn.Module) -> None:
    """Make a network whole again on every process, as it was before `split`; all processes call
    this together, and after `shard.gather`.
    """
    for module in list(model.modules()):
        own = getattr(module, "split", None)
        if not isinstance(own, Split):
            continue
        for key in split_keys(module):
            parameter = getattr(module, key)
            setattr(module, key, nn.Parameter(own.join(parameter), parameter.requires_grad))
        module.__dict__.pop("forward", None)
        del module.split
    if isinstance(model, Transformer):
        set_widths(model, 1)
    model.__dict__.pop("logits", None)


def set_widths(model: Transformer, size: int) -> None:
    """Let every attention know how many of the heads it has."""
    c = model.config
    for module in model.modules():
        if isinstance(module, Attention):
            kv = c.num_kv_heads * c.head_dim // size
            module.widths = (c.num_heads * c.head_dim // size, kv, kv)

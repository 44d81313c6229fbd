"""The small steps between the products of a layer, each with a gradient written by hand: fewer
passes over memory than the ones that autograd strings together, and fewer tensors kept.

`fuse` puts them on a network from outside, where it trains on a processor without a compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from chatglm.adapters.lora import LoraLinear, LoraPart
from chatglm.model.mlp import MLP
from chatglm.model.position import Rotary
from chatglm.training.gate import can_serve, gate

Turn = Callable[[Tensor, Tensor, Tensor], Tensor]


def fuse(network: nn.Module) -> None:
    """Let norms, gates and rotary positions of a network compute as here; names of modules and
    parameters stay.
    """
    for module in network.modules():
        # An instance's own attribute goes before the method of its class.
        if type(module) is nn.RMSNorm:
            module.forward = partial(normed, module)  # type: ignore[method-assign]
        elif type(module) is MLP and module.kind == "swiglu":
            module.forward = partial(gated, module)  # type: ignore[method-assign]
        elif type(module) is Rotary:
            module.rotate = partial(turned, turn_of(module))  # type: ignore[method-assign]
        elif isinstance(module, LoraLinear) and is_plain(module):
            module.forward = partial(adapted, module)  # type: ignore[method-assign]


def unfuse(network: nn.Module) -> None:
    """Undo `fuse`."""
    for module in network.modules():
        if type(module) is nn.RMSNorm or isinstance(module, MLP | LoraLinear):
            module.__dict__.pop("forward", None)
        elif isinstance(module, Rotary):
            module.__dict__.pop("rotate", None)


def turn_of(rotary: Rotary) -> Turn:
    """The rotation of a network without its gradient."""
    if rotary.pairs != "interleaved":
        return rotary.rotate

    def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        width = cos.shape[2] * rotary.size  # P·R
        pairs = x[..., :width].float().unflatten(-1, (-1, 2))  # (B, T, H, P·R/2, 2)
        angles = torch.complex(cos, sin).flatten(2)[:, :, None]  # (B, T, 1, P·R/2)
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        y[..., :width] = torch.view_as_real(torch.view_as_complex(pairs) * angles).flatten(-2)
        y[..., width:] = x[..., width:]
        return y

    return turn


def is_plain(lora: LoraLinear) -> bool:
    """Whether this is LoRA of one rank over a frozen linear."""
    base, parts = lora.base, lora_parts(lora)
    return (
        type(base) is nn.Linear
        and not any(p.requires_grad for p in base.parameters())
        and all(part.magnitude is None and part.a.shape == parts[0].a.shape for part in parts)
    )


def lora_parts(lora: LoraLinear) -> list[LoraPart]:
    """The updates of a linear."""
    return [part for part in lora.parts if isinstance(part, LoraPart)]


def product_dtype(x: Tensor) -> torch.dtype:
    """In which precision a linear multiplies."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """x (…, C) by the root of its mean square, times the weight."""
    y: Tensor = Normed.apply(x, norm.weight, norm.eps)
    return y


def adapted(lora: LoraLinear, x: Tensor) -> Tensor:
    """(…, in) → (…, rows); without the updates while they are switched off."""
    y: Tensor
    if not lora.is_on:
        y = lora.base(x)
        return y
    parts = lora_parts(lora)
    pairs = [matrix for part in parts for matrix in (part.a, part.b)]
    y = Adapted.apply(lora.base, [(part.start, part.scale) for part in parts], x, *pairs)
    return y


def gated(mlp: MLP, x: Tensor) -> Tensor:
    """(…, C) → (…, C)."""
    y: Tensor = mlp.down(Gated.apply(mlp.up(x)))
    return y


def turned(rotate: Turn, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, H, D) turned by its angles."""
    y: Tensor = Turned.apply(rotate, x, cos, sin)
    return y


class Normed(torch.autograd.Function):
    """RMSNorm (arXiv:1910.07467) with statistics in float32; keeps its input and a number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float | None) -> Tensor:
        """(…, C)."""
        epsilon = torch.finfo(x.dtype).eps if eps is None else eps
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)  # (…, 1)
        inverse = (length.square() / x.shape[-1] + epsilon).rsqrt()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(product_dtype(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Gradients of x and of the weight."""
        x, weight, inverse = ctx.saved_tensors
        wide = dy.float()
        unit = x.float() * inverse  # (…, C)
        product = wide * unit
        dweight = (
            product.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        )
        along = (product @ weight.float())[..., None] / -x.shape[-1]  # (…, 1)
        dx = (wide * weight).addcmul_(unit, along).mul_(inverse)
        return dx.to(x.dtype), None if dweight is None else dweight.to(weight.dtype), None


class Adapted(torch.autograd.Function):
    """A frozen linear and its updates: the narrow matrices of all parts as one pair, added inside
    of the products.
    """

    @staticmethod
    def forward(
        ctx: Any, base: nn.Linear, places: list[tuple[int, float]], x: Tensor, *pairs: Tensor
    ) -> Tensor:
        """(…, rows)."""
        dtype = product_dtype(x)
        flat = x.flatten(0, -2).to(dtype)  # (N, in)
        weight = base.weight.to(dtype)
        rank, rows = pairs[0].shape[0], weight.shape[0]
        a = torch.cat(pairs[0::2]).to(dtype)  # (K·R, in)
        b = a.new_zeros(rows, len(a))  # (rows, K·R)
        for index, ((start, scale), part) in enumerate(zip(places, pairs[1::2], strict=True)):
            b[start : start + len(part), index * rank :][:, :rank] = part * scale
        narrow = flat @ a.t()  # (N, K·R)
        y = F.linear(flat, weight, None if base.bias is None else base.bias.to(dtype))
        y.addmm_(narrow, b.t())
        ctx.places, ctx.like = places, (x.shape, x.dtype)
        ctx.save_for_backward(flat, weight, a, b, narrow, *pairs)
        return y.view(*x.shape[:-1], rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input and of the pairs."""
        flat, weight, a, b, narrow, *pairs = ctx.saved_tensors
        dy = dy.flatten(0, -2)  # (N, rows)
        dnarrow = dy @ b  # (N, K·R)
        shape, dtype = ctx.like
        dx = None
        if ctx.needs_input_grad[2]:
            dx = (dy @ weight).addmm_(dnarrow, a).view(shape).to(dtype)
        da, db = dnarrow.t() @ flat, dy.t() @ narrow  # (K·R, in), (rows, K·R)
        found: list[Tensor] = []
        rank = pairs[0].shape[0]
        for index, ((start, scale), part) in enumerate(zip(ctx.places, pairs[1::2], strict=True)):
            columns = slice(index * rank, (index + 1) * rank)
            found.append(da[columns].to(part.dtype))
            found.append(db[start : start + len(part), columns].to(part.dtype) * scale)
        return None, None, dx, *found


class Gated(torch.autograd.Function):
    """SwiGLU's silu(gate) · value; keeps its input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(…, 2F) → (…, F)."""
        ctx.save_for_backward(x)
        if can_serve(x):
            return gate(x)
        first, value = x.chunk(2, -1)
        return F.silu(first).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        """Gradient of the input."""
        (x,) = ctx.saved_tensors
        if can_serve(x):
            return gate(x, dy)
        first, value = x.chunk(2, -1)
        dx = torch.empty_like(x)
        dgate, dvalue = dx.chunk(2, -1)
        torch.mul(F.silu(first), dy, out=dvalue)
        torch.ops.aten.silu_backward.grad_input(dy * value, first, grad_input=dgate)
        return dx


class Turned(torch.autograd.Function):
    """A rotation; its gradient is turned back, and nothing but the angles is kept."""

    @staticmethod
    def forward(ctx: Any, rotate: Turn, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, T, H, D)."""
        ctx.rotate = rotate
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor, None, None]:
        """Gradient of the heads."""
        cos, sin = ctx.saved_tensors
        # YaRN's strength is in both, and so in the gradient as it should be.
        return None, ctx.rotate(dy, cos, -sin), None, None

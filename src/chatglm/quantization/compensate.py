"""Whole numbers for a weight that make up for each other's rounding (GPTQ, arXiv:2210.17323).

What is kept small is the error of a linear's *outputs* on inputs x of a calibration: with
H = Σ x xᵀ the loss of a row is e H eᵀ, e its error. Columns are rounded one after the other, and
what the rounding of one does to the outputs is taken out again by the columns behind it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatglm.quantization.linear import GROUP, Integers, as_half, inverse, to_integers
from chatglm.quantization.tiles import BLOCK, Bits, up_to

DAMPING = 0.01
"""Share of H's mean diagonal that is added to it, so that inputs seen rarely weigh something."""
_AT_ONCE = 128
"""Columns whose errors are passed on together to those behind them; a multiple of every group."""
_SHRINKS = (1.0, 0.95, 0.9, 0.86, 0.82, 0.78, 0.74, 0.7)
"""Shares of the widest range that are tried: fewer cut-off values against finer steps."""


def compensated(
    weight: Tensor, moments: Tensor, bits: Bits, group: int | None = None, *, symmetric: bool = True
) -> Integers:
    """Whole numbers for a weight (rows, columns) that lose no more on the calibration's inputs than
    the nearest ones, row by row.

    moments: H (columns, columns) in float32.
    """
    weight = weight.float()
    nearest = to_integers(weight, bits, group, symmetric=symmetric)
    size = group or GROUP[bits]
    found = compensate(weight, moments, bits, size, symmetric=symmetric)
    worse = loss(weight, found, moments, bits, size) > loss(weight, nearest, moments, bits, size)
    for new, old in zip(found, nearest, strict=True):
        if new is not None and old is not None:
            new[worse] = old[worse]
    return found


def compensate(
    weight: Tensor, moments: Tensor, bits: Bits, group: int, *, symmetric: bool
) -> Integers:
    """GPTQ's whole numbers, each group's scale chosen when its first column is reached."""
    rows, columns = weight.shape
    left = weight.clone()  # what the columns not yet rounded should be
    factor = triangular(moments)
    weights = moments.diagonal()
    values = torch.empty(rows, columns, dtype=torch.uint8)
    count = up_to(up_to(columns, BLOCK), group) // group
    scale = torch.zeros(rows, count, dtype=torch.float16)
    zero = None if symmetric else torch.zeros(rows, count, dtype=torch.uint8)
    middle: Tensor | float = float(2 ** (bits - 1))
    for start in range(0, columns, _AT_ONCE):
        stop = min(start + _AT_ONCE, columns)
        errors = torch.empty(rows, stop - start)
        for at in range(start, stop):
            if at % group == 0:
                part = slice(at, min(at + group, columns))
                index = at // group
                scale[:, index], middle = best_scale(
                    left[:, part], weights[part], bits, symmetric=symmetric
                )
                step, over = scale[:, index].float(), inverse(scale[:, index])
                if zero is not None:
                    zero[:, index] = middle
            column = left[:, at]
            whole = (column * over).round_().add_(middle).clamp_(0, 2**bits - 1)
            values[:, at] = whole
            error = (column - (whole - middle) * step) / factor[at, at]
            left[:, at:stop] -= error[:, None] * factor[at, at:stop]
            errors[:, at - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return Integers(values, scale, zero)


def triangular(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of H, damped: its row i, divided by its diagonal,
    says how an error in column i is shared among the columns behind it.
    """
    damped = moments.clone()
    diagonal = damped.diagonal()
    diagonal += DAMPING * diagonal.mean()
    diagonal[diagonal == 0] = 1.0  # inputs that never came
    lower = torch.linalg.cholesky(damped)
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)


def best_scale(
    part: Tensor, weights: Tensor, bits: Bits, *, symmetric: bool
) -> tuple[Tensor, Tensor | float]:
    """The scale (rows,) and the middle of some columns of all rows that lose least when each is
    rounded for itself; weights (columns,) say how much a column matters.
    """
    top = 2**bits - 1
    best: list[Tensor] | None = None
    for scale, middle in candidates(part, bits, symmetric=symmetric):
        half = as_half(scale)
        at = middle if isinstance(middle, float) else middle[:, None]
        whole = (part * inverse(half)[:, None]).round_().add_(at).clamp_(0, top).sub_(at)
        lost = ((whole * half.float()[:, None] - part).square_() * weights).sum(-1)
        kept = torch.as_tensor(middle).expand_as(lost)
        if best is None:
            best = [lost, half, kept.clone()]
            continue
        is_better = lost < best[0]
        best = [torch.where(is_better, n, b) for n, b in zip((lost, half, kept), best, strict=True)]
    assert best is not None
    return best[1], best[2]


def candidates(part: Tensor, bits: Bits, *, symmetric: bool) -> list[tuple[Tensor, Tensor | float]]:
    """Scales and middles to try: the range of the values and narrower ones; in 4 bits with either
    sign, of which one has a step more.
    """
    low, high = part.amin(-1).clamp_max(0), part.amax(-1).clamp_min(0)
    if not symmetric:
        found: list[tuple[Tensor, Tensor | float]] = []
        for shrink in _SHRINKS:
            scale = (high - low) * shrink / (2**bits - 1)
            middle = (-low * shrink * inverse(as_half(scale))).round_().clamp_(0, 2**bits - 1)
            found.append((scale, middle))
        return found
    most = torch.maximum(-low, high)
    if bits > 4:
        half = 2.0 ** (bits - 1)
        return [(most / (half - 1), half)]
    signs = torch.where(-low > high, 1.0, -1.0)
    return [(most * shrink / 8 * sign, 8.0) for shrink in _SHRINKS for sign in (signs, -signs)]


def loss(weight: Tensor, integers: Integers, moments: Tensor, bits: Bits, group: int) -> Tensor:
    """e H eᵀ of each row (rows,)."""
    error = restored(integers, bits, group) - weight
    return ((error @ moments) * error).sum(-1)


def restored(integers: Integers, bits: Bits, group: int) -> Tensor:
    """The weight (rows, columns) in float32 that whole numbers stand for."""
    columns = integers.values.shape[1]
    middle: Tensor | int = 2 ** (bits - 1)
    if integers.zero is not None:
        middle = integers.zero.repeat_interleave(group, 1)[:, :columns].float()
    scale = integers.scale.float().repeat_interleave(group, 1)[:, :columns]
    return (integers.values.float() - middle) * scale

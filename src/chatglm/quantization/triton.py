"""Triton kernels for linears with weights of few bits.

A program multiplies a tile of the weight's rows by a tile of inputs: the weight is unpacked in
registers to the inputs' dtype and goes to the tensor cores from there. Where there are fewer tiles
than the chip has room for, several programs share one and each takes some of the columns; their
parts are added in a fixed order, so that a result is the same each time.

The rows lie as they are read. int8: one byte a column. int4: 16-bit words over 128 columns each 32
words wide; word j holds columns j, j + 32, j + 64 and j + 96 from its low nibble up, so that a
nibble of all words is a tile of 32 columns side by side. Scales and zeros are (groups, rows).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def unpack(
    words,
    scale,
    zero,
    group,
    rows,
    num_rows,
    PART: tl.constexpr,
    BITS: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """A tile of the weight (rows, columns) in DTYPE: (number − zero) · scale of its group."""
    if BITS == 4:
        # The nibble becomes the last bits of a float whose first bits say 128 (bfloat16) or 1024.
        nibble = (words >> (4 * PART)) & 15
        MIDDLE: tl.constexpr = 0.0 if HAS_ZERO else 8.0
        if tl.bfloat16 == DTYPE:
            number = (nibble | 0x4300).to(tl.bfloat16, bitcast=True) - (128.0 + MIDDLE)
        elif tl.float16 == DTYPE:
            number = (nibble | 0x6400).to(tl.float16, bitcast=True) - (1024.0 + MIDDLE)
        else:
            number = nibble.to(DTYPE) - MIDDLE
    else:
        number = words.to(DTYPE)
    if HAS_ZERO:
        number = number - tl.load(zero + group * num_rows + rows).to(DTYPE)[:, None]
    return number * tl.load(scale + group * num_rows + rows).to(DTYPE)[:, None]


@triton.jit
def multiply_kernel(
    x,
    weight,
    scale,
    zero,
    bias,
    out,
    num_inputs,
    num_rows,
    num_columns,
    row_words,
    steps_each,
    num_steps,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_FLOAT: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    SHARED: tl.constexpr,
):
    """x (inputs, columns) times rows (rows, columns): (inputs, rows), or parts of it in float32.

    COLUMNS: those of one product; a step of int4 has NUM_PARTS of them. IS_FLOAT: the weight is a
    float of 8 bits with one scale (rows,).
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    read_row = tl.where(is_row, row, 0)
    item = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    is_item = item < num_inputs
    words = weight + read_row.to(tl.int64)[:, None] * row_words
    inputs = x + item.to(tl.int64)[None, :] * num_columns
    place = tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, INPUTS), tl.float32)
    begin = tl.program_id(2) * steps_each
    for step in range(begin, min(begin + steps_each, num_steps)):
        read = tl.load(words + step * COLUMNS + place[None, :])
        for part in tl.static_range(NUM_PARTS):
            column = (step * NUM_PARTS + part) * COLUMNS
            if IS_FLOAT:
                tile = read.to(x.dtype.element_ty)
            else:
                group = column // GROUP
                tile = unpack(
                    read, scale, zero, group, read_row, num_rows, part, BITS, HAS_ZERO,
                    x.dtype.element_ty,
                )  # fmt: skip
            at = column + place[:, None]
            is_there = is_item[None, :] & (at < num_columns)
            columns = tl.load(inputs + at, mask=is_there, other=0.0)
            total = tl.dot(tile, columns, total, input_precision="ieee")
    if IS_FLOAT:
        total *= tl.load(scale + read_row)[:, None]
    target = item.to(tl.int64)[None, :] * num_rows + row[:, None]
    is_target = is_item[None, :] & is_row[:, None]
    if SHARED:
        out += tl.program_id(2).to(tl.int64) * num_inputs * num_rows
    elif HAS_BIAS:
        total += tl.load(bias + read_row).to(tl.float32)[:, None]
    tl.store(out + target, total.to(out.dtype.element_ty), mask=is_target)


@triton.jit
def add_parts_kernel(
    parts, bias, out, count, num_rows, num_parts, HAS_BIAS: tl.constexpr, SIZE: tl.constexpr
):
    """The sum of parts (parts, count) in float32, with the bias of each row added."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), tl.float32)
    for part in range(num_parts):
        total += tl.load(parts + part * count + at, mask=at < count, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + at % num_rows, mask=at < count, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=at < count)


@triton.jit
def dequantize_kernel(
    weight,
    scale,
    zero,
    out,
    num_rows,
    num_columns,
    row_words,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    NUM_PARTS: tl.constexpr,
):
    """The weight (rows, columns) in the output's dtype."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    read_row = tl.where(is_row, row, 0)
    step = tl.program_id(1)
    place = tl.arange(0, COLUMNS)
    words = weight + read_row.to(tl.int64)[:, None] * row_words
    read = tl.load(words + step * COLUMNS + place[None, :])
    for part in tl.static_range(NUM_PARTS):
        column = (step * NUM_PARTS + part) * COLUMNS
        tile = unpack(
            read, scale, zero, column // GROUP, read_row, num_rows, part, BITS, HAS_ZERO,
            out.dtype.element_ty,
        )  # fmt: skip
        at = column + place[None, :]
        target = row.to(tl.int64)[:, None] * num_columns + at
        tl.store(out + target, tile, mask=is_row[:, None] & (at < num_columns))


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A weight as the kernels read it.

    weight: (rows, words), int16 for 4 bits; int8, or float8_e4m3fn with scale (rows,), for 8.
    scale, zero: (groups, rows); zero None: 8 stands for nothing in 4 bits, 0 in 8. group: the
    columns that share a scale; 0 where all of a row do.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor | None
    columns: int
    bits: int
    group: int

    @property
    def part(self) -> int:
        """Columns of one product."""
        return 32 if self.bits == 4 else min(self.group or 64, 64)

    @property
    def num_parts(self) -> int:
        """Products of one step."""
        return 4 if self.bits == 4 else 1


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How large the pieces are that a program computes."""

    inputs: int
    rows: int
    num_warps: int
    num_stages: int


def tile_for(num_inputs: int) -> Tile:
    """The tile for so many inputs: narrow while reading the weight is what takes the time."""
    if num_inputs <= 16:
        return Tile(inputs=16, rows=32, num_warps=2, num_stages=5)
    if num_inputs <= 64:
        width = 32 if num_inputs <= 32 else 64
        return Tile(inputs=width, rows=64, num_warps=4, num_stages=4)
    return Tile(inputs=64, rows=128, num_warps=8, num_stages=3)


def num_shares(num_tiles: int, num_steps: int, num_processors: int) -> int:
    """How many programs share the columns of a tile: as many as fill the chip four times over,
    with no less than four steps each.
    """
    return max(1, min(4 * num_processors // num_tiles, num_steps // 4, 16))


def multiply(
    x: Tensor, rows: Rows, bias: Tensor | None, num_processors: int, tile: Tile | None = None
) -> Tensor:
    """x (M, columns) times the rows: (M, rows) in x's dtype."""
    x = x.contiguous()
    num_inputs, num_rows = x.shape[0], rows.weight.shape[0]
    tile = tile or tile_for(num_inputs)
    out = x.new_empty(num_inputs, num_rows)
    num_steps = rows.weight.shape[1] // rows.part
    tiles = (triton.cdiv(num_rows, tile.rows), triton.cdiv(num_inputs, tile.inputs))
    shares = num_shares(tiles[0] * tiles[1], num_steps, num_processors)
    steps_each = triton.cdiv(num_steps, shares)
    shares = triton.cdiv(num_steps, steps_each)
    target = out
    if shares > 1:
        target = x.new_empty(shares, num_inputs, num_rows, dtype=torch.float32)
    multiply_kernel[(*tiles, shares)](
        x, rows.weight, rows.scale, rows.zero, bias, target,
        num_inputs, num_rows, rows.columns, rows.weight.shape[1], steps_each, num_steps,
        INPUTS=tile.inputs, ROWS=tile.rows, COLUMNS=rows.part, BITS=rows.bits, GROUP=rows.group,
        HAS_ZERO=rows.zero is not None, HAS_BIAS=bias is not None, IS_FLOAT=rows.group == 0,
        NUM_PARTS=rows.num_parts, SHARED=shares > 1,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    if shares > 1:
        count = out.numel()
        add_parts_kernel[(triton.cdiv(count, 1024),)](
            target, bias, out, count, num_rows, shares, HAS_BIAS=bias is not None, SIZE=1024
        )
    return out


def dequantize(rows: Rows, dtype: torch.dtype) -> Tensor:
    """The weight (rows, columns) in `dtype`."""
    num_rows = rows.weight.shape[0]
    out = torch.empty(num_rows, rows.columns, dtype=dtype, device=rows.weight.device)
    num_steps = rows.weight.shape[1] // rows.part
    dequantize_kernel[(triton.cdiv(num_rows, 32), num_steps)](
        rows.weight, rows.scale, rows.zero, out, num_rows, rows.columns, rows.weight.shape[1],
        ROWS=32, COLUMNS=rows.part, BITS=rows.bits, GROUP=rows.group,
        HAS_ZERO=rows.zero is not None, NUM_PARTS=rows.num_parts,
    )  # fmt: skip
    return out

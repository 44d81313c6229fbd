"""Rows of a weight as the kernels read them: in tiles of 16, 4 bytes of each row side by side.

A tile is a sequence of steps of 64 bytes: 4 bytes of each of its 16 rows, which are 1 column of
float32, 2 of bfloat16 or 4 of 8 bits. Two steps of 4 bits share 64 bytes: of the 8 steps of 32
columns the first 4 are low nibbles and the last 4 high ones. Of 6 bits the lower 4 come so, then
the upper 2 in 128 bytes: of the first 4 steps, then of the last 4, the first in the lowest bits.
Rows are filled up with zeros to a multiple of 16, columns to one of 64. Numbers of groups of
columns lie as (tiles, groups, 16).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from chatglm.quantization import pages

Bits = Literal[8, 6, 4]

TILE = 16
BLOCK = 64


def up_to(count: int, multiple: int) -> int:
    """The smallest multiple that is not below `count`."""
    return -(-count // multiple) * multiple


def interleave(rows: Tensor) -> Tensor:
    """Tiles (tiles, bytes) uint8 of rows (rows, columns) of one, two or four bytes a number."""
    count, columns = rows.shape
    full = F.pad(rows, (0, up_to(columns, BLOCK) - columns, 0, up_to(count, TILE) - count))
    words = full.view(torch.int32).unflatten(0, (-1, TILE)).transpose(1, 2)  # (tiles, steps, 16)
    tiles = pages.empty(*words.shape, dtype=torch.int32, device=rows.device).copy_(words)
    return tiles.flatten(1).view(torch.uint8)


def separate(tiles: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows that tiles were made of, with what they were filled up with."""
    words = tiles.view(torch.int32).unflatten(1, (-1, TILE))  # (tiles, steps, 16)
    return words.transpose(1, 2).flatten(0, 1).contiguous().view(dtype)


def pack(integers: Tensor, bits: Bits) -> Tensor:
    """Tiles of whole numbers from 0 (rows, columns) uint8."""
    tiles = interleave(integers)
    if bits == 8:
        return tiles
    steps = tiles.unflatten(1, (-1, 8, 64))
    lower = steps & 15
    parts = [lower[:, :, :4] | lower[:, :, 4:] << 4]
    if bits == 6:
        a, b, c, d = (steps >> 4).unflatten(2, (2, 4)).unbind(3)
        parts.append(a | b << 2 | c << 4 | d << 6)
    return torch.cat(parts, 2).flatten(1)


def unpack(tiles: Tensor, bits: Bits) -> Tensor:
    """The whole numbers (rows, columns) that tiles were made of, and what fills them up."""
    if bits < 8:
        packed = tiles.unflatten(1, (-1, bits, 64))
        steps = torch.cat((packed[:, :, :4] & 15, packed[:, :, :4] >> 4), 2)
        if bits == 6:
            upper = torch.stack([packed[:, :, 4:] >> 2 * i & 3 for i in range(4)], 3)
            steps |= upper.flatten(2, 3) << 4
        tiles = steps.flatten(1)
    return separate(tiles, torch.uint8)


def pack_groups(numbers: Tensor) -> Tensor:
    """A number for each row and group of columns (rows, groups) as (tiles, groups, 16)."""
    count = numbers.shape[0]
    full = F.pad(numbers, (0, 0, 0, up_to(count, TILE) - count))
    return full.unflatten(0, (-1, TILE)).transpose(1, 2).contiguous()


def unpack_groups(numbers: Tensor) -> Tensor:
    """(rows, groups) of (tiles, groups, 16)."""
    return numbers.transpose(1, 2).flatten(0, 1)

"""ggml's layouts of numbers: plain ones, and blocks of 32 with a float16 scale before them.

Q8_0 holds signed bytes; Q4_0 half-bytes plus 8, column j in the low half of byte j and column
j + 16 in the high one. The same bytes as ggml's own reference gives, a few MiB at a time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from chatglm.errors import CheckpointError

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
BLOCK = 32
# Numbers that exist in float32 at once beside what is read and made.
_CHUNK = 1 << 20


def to_blocks(tensor: Tensor, kind: str) -> Tensor:
    """A tensor (…, columns) as bytes (…, bytes of a row) of ggml's type `kind`."""
    if kind in PLAIN:
        return tensor.to(PLAIN[kind]).contiguous().view(torch.uint8)
    pack = {"Q8_0": to_bytes, "Q4_0": to_halves}[kind]
    rows = tensor.reshape(-1, tensor.shape[-1])
    parts = [pack(part.float().view(-1, BLOCK)) for part in rows.split(chunk(rows.shape[1]))]
    return torch.cat(parts).view(*tensor.shape[:-1], -1)


def chunk(columns: int) -> int:
    """How many rows are computed at once."""
    return max(_CHUNK // columns, 1)


def to_bytes(blocks: Tensor) -> Tensor:
    """Blocks of 32 (N, 32) as Q8_0 (N, 34)."""
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    scaled = blocks * inverse(scale)
    whole = scaled.trunc()
    whole += (2 * (scaled - whole)).trunc_()  # halves away from zero
    return torch.cat((scale.half().view(torch.uint8), whole.to(torch.int8).view(torch.uint8)), -1)


def to_halves(blocks: Tensor) -> Tensor:
    """Blocks of 32 (N, 32) as Q4_0 (N, 18): the number farthest from 0 becomes -8."""
    farthest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = farthest / -8
    whole = (blocks * inverse(scale) + 8.5).trunc_().clamp_(0, 15).to(torch.uint8)
    packed = whole[:, :16] | whole[:, 16:] << 4
    return torch.cat((scale.half().view(torch.uint8), packed), -1)


def inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where that is 0."""
    return torch.where(scale == 0, 0.0, 1 / scale)


def from_blocks(raw: Tensor, shape: tuple[int, ...], kind: str, dtype: torch.dtype) -> Tensor:
    """The numbers in bytes `raw` of ggml's type `kind`; quantized ones in `dtype`."""
    if kind in PLAIN:
        return raw.view(PLAIN[kind]).view(shape)
    columns = shape[-1]
    rows = raw.view(math.prod(shape) // columns, -1)
    result = torch.empty(len(rows), columns, dtype=dtype)
    step = chunk(columns)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        result[start : start + step] = numbers(part, kind).view(len(part), columns)
    return result.view(shape)


def numbers(rows: Tensor, kind: str) -> Tensor:
    """float32 numbers of some rows."""
    if kind not in ("Q8_0", "Q4_0"):
        return foreign_numbers(rows, kind)
    blocks = rows.reshape(-1, 34 if kind == "Q8_0" else 18)
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    packed = blocks[:, 2:]
    if kind == "Q8_0":
        return packed.contiguous().view(torch.int8) * scale
    return (torch.cat((packed & 15, packed >> 4), -1).to(torch.int8) - 8) * scale


def foreign_numbers(rows: Tensor, kind: str) -> Tensor:
    """float32 numbers of a type that is read and not written."""
    from gguf import GGMLQuantizationType, dequantize

    try:
        return torch.from_numpy(dequantize(rows.numpy(), GGMLQuantizationType[kind]))
    except NotImplementedError as error:
        raise CheckpointError(f"tensors of type {kind} are not read; convert the file") from error

"""Tensors of a GGUF file by name, in the shape of `TensorFiles`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chatglm.checkpoint.gguf.header import Header, Stored, read_header
from chatglm.errors import CheckpointError

# Tensors of experts lie in one another: `blk.3.ffn_up_exps.weight[5]` is the sixth of them.
_PART = re.compile(r"(.+)\[(\d+)\]")
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
# Elements that exist in float32 at once beside the result.
_CHUNK = 1 << 24


class GgufFile:
    """The tensors of a file by name; each is read from disk when it is asked for, quantized ones
    as floating point.
    """

    def __init__(self, path: Path) -> None:
        self.header: Header = read_header(path)
        self.path = self.folder = path
        self.homes: dict[str, Path] = {}
        for name, stored in self.header.tensors.items():
            if len(stored.shape) == 3:
                parts = (f"{name}[{index}]" for index in range(stored.shape[0]))
                self.homes |= dict.fromkeys(parts, path)
            else:
                self.homes[name] = path

    def __iter__(self) -> Iterator[str]:
        return iter(self.homes)

    def __contains__(self, name: str) -> bool:
        return name in self.homes

    @property
    def files(self) -> list[Path]:
        """The file, in a list."""
        return [self.path]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self.stored(name).shape

    def kind(self, name: str) -> str:
        """ggml's name of a tensor's type, e.g. Q8_0."""
        from gguf import GGMLQuantizationType

        return str(GGMLQuantizationType(self.stored(name).kind).name)

    def stored(self, name: str) -> Stored:
        """Where a tensor, or a part of one, lies."""
        if (part := _PART.fullmatch(name)) is None:
            return self.header.tensors[name]
        whole, index = self.header.tensors[part[1]], int(part[2])
        size = (whole.end - whole.start) // whole.shape[0]
        start = whole.start + index * size
        return Stored(kind=whole.kind, shape=whole.shape[1:], start=start, end=start + size)

    def read(self, name: str) -> Tensor:
        """A tensor in memory of its own; quantized ones in float32, which holds them exactly."""
        stored, kind = self.stored(name), self.kind(name)
        raw = np.empty(stored.end - stored.start, dtype=np.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            done = 0
            while done < len(raw):
                step = file.readinto(raw.data[done:])
                if not step:
                    raise CheckpointError(f"{self.path} is cut off in {name}; get it again")
                done += step
        if kind in _PLAIN:
            return torch.from_numpy(raw).view(_PLAIN[kind]).view(stored.shape)
        return dequantized(raw, stored)

    def close(self) -> None:
        """Nothing is kept open."""


def dequantized(raw: np.ndarray, stored: Stored) -> Tensor:
    """float32 numbers of ggml's blocks."""
    from gguf import GGMLQuantizationType, dequantize

    rows = raw.reshape(-1, len(raw) * stored.shape[-1] // int(np.prod(stored.shape)))
    result = torch.empty(len(rows), stored.shape[-1])
    step = max(_CHUNK // stored.shape[-1], 1)
    for start in range(0, len(rows), step):
        try:
            part = dequantize(rows[start : start + step], GGMLQuantizationType(stored.kind))
        except NotImplementedError as error:
            name = GGMLQuantizationType(stored.kind).name
            raise CheckpointError(
                f"tensors of type {name} are not read; convert the file"
            ) from error
        result[start : start + step] = torch.from_numpy(part)
    return result.view(stored.shape)

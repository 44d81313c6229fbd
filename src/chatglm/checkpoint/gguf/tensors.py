"""Tensors of a GGUF file by name, in the shape of `TensorFiles`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from chatglm.checkpoint.gguf.blocks import PLAIN, from_blocks
from chatglm.checkpoint.gguf.header import Header, Stored, read_header
from chatglm.errors import CheckpointError

# Tensors of experts lie in one another: `blk.3.ffn_up_exps.weight[5]` is the sixth of them.
_PART = re.compile(r"(.+)\[(\d+)\]")


class GgufFile:
    """The tensors of a file by name; each is read from disk when it is asked for, quantized ones
    as floating point.
    """

    def __init__(self, path: Path) -> None:
        self.header: Header = read_header(path)
        self.path = self.folder = path
        # Whether 8-bit tensors are read as float16, which takes half the memory of float32.
        self.reads_halves = False
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

    def dtype(self, name: str) -> torch.dtype:
        """Dtype that `read` gives, without reading."""
        kind = self.kind(name)
        is_half = self.reads_halves and kind == "Q8_0"
        return PLAIN.get(kind, torch.float16 if is_half else torch.float32)

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
        """A tensor in memory of its own; quantized ones in float32, which holds them exactly, or as
        `reads_halves` says.
        """
        stored, kind = self.stored(name), self.kind(name)
        raw = torch.empty(stored.end - stored.start, dtype=torch.uint8)
        buffer, done = raw.numpy().data, 0
        with self.path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            while done < len(buffer):
                step = file.readinto(buffer[done:])
                if not step:
                    raise CheckpointError(f"{self.path} is cut off in {name}; get it again")
                done += step
        return from_blocks(raw, stored.shape, kind, self.dtype(name))

    def close(self) -> None:
        """Nothing is kept open."""

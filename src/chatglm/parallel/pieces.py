"""Tensors in pieces on disk: each process writes what it holds, and any number of processes read
what each of them needs.

A piece is an entry `NAME@ROW,COLUMN` of a safetensors file: where in the whole tensor it begins.
An entry without a mark is a whole tensor. Unlike torch.distributed.checkpoint's format, whose
index is a pickle, nothing in these files can run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from chatglm.parallel.group import Group
from chatglm.parallel.tensor import Split


@dataclass(frozen=True, kw_only=True)
class Box:
    """A part of a process's own tensor, and where it begins in the whole one."""

    own: tuple[slice, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]


def whole_shape(tensor: Tensor, split: Split | None) -> tuple[int, ...]:
    """The shape that all pieces make together."""
    shape = list(tensor.shape)
    if split is not None:
        shape[split.dim] = sum(split.blocks)
    return tuple(shape)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def boxes_of(tensor: Tensor, split: Split | None) -> list[Box]:
    """The parts of the whole tensor that this process holds."""
    shape: tuple[int, ...] = tuple(tensor.shape)
    first, stop = 0, shape[0] if shape else 0
    if isinstance(tensor, DTensor):
        assert tensor.placements == (Shard(0),)
        count, place = tensor.device_mesh.size(), tensor.device_mesh.get_local_rank()
        length = -(-shape[0] // count)
        first, stop = min(place * length, stop), min((place + 1) * length, stop)
    if not shape:
        return [Box(own=(), start=(), shape=())]
    spans = [(0, 0, shape[0])] if split is None or split.dim else list(split.spans())
    offset = [0] * len(shape)
    if split is not None and split.dim:
        offset[split.dim] = next(start for _, start, _ in split.spans())
    boxes = []
    for here, there, length in spans:
        begin, end = max(here, first), min(here + length, stop)
        if begin < end and 0 not in shape[1:]:
            rest = tuple(slice(0, size) for size in shape[1:])
            boxes.append(
                Box(
                    own=(slice(begin - first, end - first), *rest),
                    start=(there + begin - here, *offset[1:]),
                    shape=(end - begin, *shape[1:]),
                )
            )
    return boxes


def held_pieces(
    tensors: Iterable[tuple[str, Tensor, Split | None]], group: Group
) -> dict[str, Tensor]:
    """What this process has to write of named tensors, so that all write each number once."""
    pieces = {}
    for name, tensor, split in tensors:
        is_own = group.data_rank == 0 or isinstance(tensor, DTensor)
        if not is_own or (split is None and group.tensor_rank):
            continue
        whole = whole_shape(tensor, split)
        for box in boxes_of(tensor, split):
            mark = "" if box.shape == whole else "@" + ",".join(map(str, box.start))
            piece = local(tensor)[box.own].detach().contiguous()
            pieces[name + mark] = piece.clone() if mark else piece  # files hold no shared memory
    return pieces


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A piece in a file."""

    file: Path
    key: str
    start: tuple[int, ...]
    shape: tuple[int, ...]


class Pieces:
    """The tensors of several files, read part by part; use it in a `with`."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = {path: safe_open(path, framework="pt") for path in sorted(files)}
        self.entries: dict[str, list[Entry]] = {}
        for path, file in self.files.items():
            for key in file.keys():  # noqa: SIM118
                name, _, mark = key.partition("@")
                shape = tuple(file.get_slice(key).get_shape())
                start = tuple(map(int, mark.split(","))) if mark else (0,) * len(shape)
                entry = Entry(file=path, key=key, start=start, shape=shape)
                self.entries.setdefault(name, []).append(entry)

    def __enter__(self) -> Pieces:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self.files.values():
            file.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's shape; a ValueError where a piece of it is missing."""
        entries = self.entries[name]
        ends = [[a + n for a, n in zip(e.start, e.shape, strict=True)] for e in entries]
        shape: tuple[int, ...] = tuple(max(sizes) for sizes in zip(*ends, strict=True))
        if sum(math.prod(e.shape) for e in entries) != math.prod(shape):
            raise ValueError(
                f"{entries[0].file.parent} lacks a piece of {name}; take an older checkpoint"
            )
        return shape

    def dtype(self, name: str) -> torch.dtype:
        """The type of its numbers."""
        entry = self.entries[name][0]
        file = self.files[entry.file]
        found: torch.dtype = (
            file.get_slice(entry.key)[:0].dtype if entry.shape else file.get_tensor(entry.key).dtype
        )
        return found

    def tensor(self, name: str) -> Tensor:
        """The whole tensor."""
        found = torch.empty(self.shape(name), dtype=self.dtype(name))
        self.fill(name, found, None)
        return found

    @torch.no_grad()
    def fill(self, name: str, tensor: Tensor, split: Split | None) -> None:
        """Copy what this process holds of a tensor into it."""
        mine = local(tensor)
        for box in boxes_of(tensor, split):
            target = mine[box.own]
            for entry in self.entries[name]:
                begin = [max(a, b) for a, b in zip(box.start, entry.start, strict=True)]
                end = [
                    min(a + n, b + m)
                    for a, n, b, m in zip(
                        box.start, box.shape, entry.start, entry.shape, strict=True
                    )
                ]
                if any(a >= b for a, b in zip(begin, end, strict=True)):
                    continue
                there = tuple(
                    slice(a - s, b - s) for a, b, s in zip(begin, end, box.start, strict=True)
                )
                source = tuple(
                    slice(a - s, b - s) for a, b, s in zip(begin, end, entry.start, strict=True)
                )
                file = self.files[entry.file]
                part = file.get_slice(entry.key)[source] if source else file.get_tensor(entry.key)
                target[there].copy_(part)

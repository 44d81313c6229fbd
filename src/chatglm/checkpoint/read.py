"""Tensors of a model directory, one at a time: safetensors and pytorch_model.bin, whole or in
shards.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import pickle
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatglm.errors import CheckpointError
from chatglm.quantization import pages

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_MAX_HEADER = 100_000_000
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor lies in a safetensors file; `start` and `end` are bytes of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Tensors(Protocol):
    """Tensors by name, each read from disk when it is asked for."""

    folder: Path
    homes: dict[str, Path]

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, name: str) -> bool: ...

    @property
    def files(self) -> list[Path]:
        """The files that hold tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""

    def dtype(self, name: str) -> torch.dtype:
        """Dtype that `read` gives, without reading."""

    def read(self, name: str) -> Tensor:
        """A tensor in memory of its own."""

    def close(self) -> None:
        """Let go of the files."""


class TensorFiles:
    """The tensors of a directory by name; each is read from disk when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.homes = find_homes(folder)  # name of tensor → file
        self.bins: dict[Path, BinFile] = {}
        self.headers: dict[Path, dict[str, Place]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.homes)

    def __contains__(self, name: str) -> bool:
        return name in self.homes

    @property
    def files(self) -> list[Path]:
        """The files that hold tensors."""
        return sorted(set(self.homes.values()))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        home = self.homes[name]
        if home.suffix == ".bin":
            return tuple(self.bin(home, name).tensors[name].shape)
        return self.place(home, name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor, without reading it."""
        home = self.homes[name]
        if home.suffix == ".bin":
            return self.bin(home, name).tensors[name].dtype
        return self.place(home, name).dtype

    def read(self, name: str) -> Tensor:
        """A tensor in memory of its own."""
        home = self.homes[name]
        if home.suffix == ".bin":
            file = self.bin(home, name)
            mapped = file.tensors[name]
            tensor = mapped.clone(memory_format=torch.contiguous_format)
            if file.is_mapped and mapped.is_contiguous():
                forget(mapped)
            return tensor
        place = self.place(home, name)
        content = pages.empty(place.end - place.start, dtype=torch.uint8)
        with home.open("rb", buffering=0) as raw:
            raw.seek(place.start)
            buffer, done = content.numpy().data, 0
            while done < len(buffer):
                step = raw.readinto(buffer[done:])
                if not step:
                    raise CheckpointError(f"{home} is cut off in {name}; download it again")
                done += step
        return content.view(place.dtype).view(place.shape)

    def place(self, path: Path, name: str) -> Place:
        """Where a tensor of a safetensors file lies."""
        if path not in self.headers:
            self.headers[path] = read_header(path)
        if name not in self.headers[path]:
            raise CheckpointError(lacks(path, name))
        return self.headers[path][name]

    def bin(self, path: Path, name: str) -> BinFile:
        """A .bin file, mapped and not read, which holds `name`."""
        if path not in self.bins:
            self.bins[path] = open_bin(path)
        if name not in self.bins[path].tensors:
            raise CheckpointError(lacks(path, name))
        return self.bins[path]

    def close(self) -> None:
        """Let go of the files."""
        self.bins.clear()
        self.headers.clear()


def lacks(path: Path, name: str) -> str:
    """What is said of a file that lacks a tensor of its index."""
    return f"{path} lacks {name}, which the index places there; download it again"


def forget(tensor: Tensor) -> None:
    """Take the pages of a tensor in a mapped file out of memory; what is read again comes from the
    file.

    Mapped pages count as the process's memory until the system needs them for something else, and
    a loaded checkpoint would be counted twice.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.nbytes) // page * page
    if end > start:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def find_homes(folder: Path) -> dict[str, Path]:
    """The file of each tensor: by an index where there is one, else all of the one file."""
    for name in INDEX:
        if (folder / name).is_file() and not (folder / WHOLE[INDEX.index(name)]).is_file():
            return read_index(folder / name)
    for name in WHOLE:
        path = folder / name
        if path.is_file():
            check_file(path)
            names = open_bin(path).tensors if path.suffix == ".bin" else read_header(path)
            return dict.fromkeys(names, path)
    raise CheckpointError(
        f"{folder} holds no weights; expected one of {', '.join((*WHOLE, *INDEX))}"
    )


def read_index(path: Path) -> dict[str, Path]:
    """Tensor names and files of an index.json; every file is there and none lies elsewhere."""
    check_file(path)
    try:
        table = json.loads(path.read_text("utf-8"))["weight_map"]
        assert isinstance(table, dict)
        names = {str(name): str(file) for name, file in table.items()}
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise CheckpointError(f"{path} is not an index of shards; download it again") from error
    suffix = ".bin" if "bin" in path.name else ".safetensors"
    for file in sorted(set(names.values())):
        if Path(file).name != file or not file.endswith(suffix):
            raise CheckpointError(
                f"{path} names the file {file!r}; a shard lies beside its index and ends in "
                f"{suffix}"
            )
        if not (path.parent / file).is_file():
            raise CheckpointError(
                f"{path.parent} lacks the shard {file}, which {path.name} names; download it again"
            )
        check_file(path.parent / file)
    return {name: path.parent / file for name, file in names.items()}


def check_file(path: Path) -> None:
    """A CheckpointError for an empty file and for a git-lfs pointer in its place."""
    with path.open("rb") as file:
        start = file.read(20)
    if not start:
        raise CheckpointError(f"{path} is empty; download it again")
    if start.startswith(b"version https://git-"):
        raise CheckpointError(
            f"{path} is a git-lfs pointer and not the file; run 'git lfs pull' or download it again"
        )


def read_header(path: Path) -> dict[str, Place]:
    """Where each tensor of a safetensors file lies; all is checked against the file's size before
    anything is allocated.
    """
    check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise CheckpointError(f"{path} has {size} bytes and is cut off; download it again")
        length = struct.unpack("<Q", start)[0]
        if length > min(size - 8, _MAX_HEADER):
            raise CheckpointError(
                f"{path} has {size} bytes and its header claims {length}; it is cut off or "
                "damaged, download it again"
            )
        header = file.read(length)
    try:
        with safe_open(path, "pt"):  # the library checks names, offsets and sizes
            pass
        table = json.loads(header)
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut off ({error}); download it again"
        ) from error
    places = {}
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise CheckpointError(
                f"{path}: {name} is {entry['dtype']}; known: {', '.join(_SAFETENSORS_DTYPES)}"
            )
        begin, end = entry["data_offsets"]
        places[name] = Place(
            dtype=_SAFETENSORS_DTYPES[entry["dtype"]],
            shape=tuple(entry["shape"]),
            start=8 + length + begin,
            end=8 + length + end,
        )
    return places


@dataclass(frozen=True)
class BinFile:
    """The tensors of a .bin file, and whether they lie in the mapped file."""

    tensors: Mapping[str, Tensor]
    is_mapped: bool


def open_bin(path: Path) -> BinFile:
    """The tensors of a .bin file by torch's restricted reader; code in it never runs."""
    check_file(path)
    is_mapped = True
    try:
        table = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and was not opened, since it could run code; "
            "get the checkpoint from its publisher"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, TypeError) as error:
        is_mapped = False
        try:  # the format before torch 1.6 cannot be mapped
            table = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as inner:
            raise CheckpointError(
                f"{path} is damaged, or holds more than tensors; it was not opened, download it "
                "again"
            ) from inner
        except Exception:  # torch raises many kinds for damaged files
            raise CheckpointError(f"{path} is damaged or cut off; download it again") from error
    if not isinstance(table, Mapping) or not all(isinstance(t, Tensor) for t in table.values()):
        raise CheckpointError(f"{path} does not hold tensors by name; is it a training state?")
    return BinFile(table, is_mapped)


def read_json(path: Path, *, required: bool = False) -> dict[str, object]:
    """A JSON object of a model directory; empty where an optional file is missing."""
    if not path.is_file():
        if required:
            raise CheckpointError(f"{path.parent} has no {path.name}; is it a model directory?")
        return {}
    check_file(path)
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold an object, got {type(data).__name__}")
    return data

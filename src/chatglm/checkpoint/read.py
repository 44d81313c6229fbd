"""Tensors of a model directory, one at a time: safetensors and pytorch_model.bin, whole or in
shards.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatglm.errors import CheckpointError

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_MAX_HEADER = 100_000_000


class TensorFiles:
    """The tensors of a directory by name; each is read from disk when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.homes = find_homes(folder)  # name of tensor → file
        self.bins: dict[Path, Mapping[str, Tensor]] = {}
        self.handles: dict[Path, safe_open] = {}

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
        try:
            if home.suffix == ".bin":
                return tuple(self.bin(home)[name].shape)
            return tuple(self.handle(home).get_slice(name).get_shape())
        except (SafetensorError, KeyError) as error:
            raise CheckpointError(
                f"{home} lacks {name}, which the index places there; download it again"
            ) from error

    def read(self, name: str) -> Tensor:
        """A tensor."""
        home = self.homes[name]
        if home.suffix == ".bin":
            return self.bin(home)[name]
        try:
            return self.handle(home).get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{home}: {name} cannot be read ({error})") from error

    def handle(self, path: Path) -> safe_open:
        """An open safetensors file."""
        if path not in self.handles:
            self.handles[path] = open_safetensors(path)
        return self.handles[path]

    def bin(self, path: Path) -> Mapping[str, Tensor]:
        """The tensors of a .bin file, mapped and not read."""
        if path not in self.bins:
            self.bins[path] = open_bin(path)
        return self.bins[path]

    def close(self) -> None:
        """Let go of the files."""
        self.bins.clear()
        self.handles.clear()


def find_homes(folder: Path) -> dict[str, Path]:
    """The file of each tensor: by an index where there is one, else all of the one file."""
    for name in INDEX:
        if (folder / name).is_file() and not (folder / WHOLE[INDEX.index(name)]).is_file():
            return read_index(folder / name)
    for name in WHOLE:
        path = folder / name
        if path.is_file():
            check_file(path)
            names = open_bin(path) if path.suffix == ".bin" else open_safetensors(path).keys()
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


def open_safetensors(path: Path) -> safe_open:
    """An open safetensors file; sizes are checked against the file before anything is allocated."""
    check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise CheckpointError(f"{path} has {size} bytes and is cut off; download it again")
    header = struct.unpack("<Q", start)[0]
    if header > min(size - 8, _MAX_HEADER):
        raise CheckpointError(
            f"{path} has {size} bytes and its header claims {header}; it is cut off or damaged, "
            "download it again"
        )
    try:
        return safe_open(path, "pt")
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut off ({error}); download it again"
        ) from error


def open_bin(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a .bin file by torch's restricted reader; code in it never runs."""
    check_file(path)
    try:
        table = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and was not opened, since it could run code; "
            "get the checkpoint from its publisher"
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, TypeError) as error:
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
    return table


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

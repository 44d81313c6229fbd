"""The header of a GGUF file: metadata, and where each tensor lies. All counts, lengths and offsets
are checked against the file's size before memory is asked for.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chatglm.checkpoint.read import check_file
from chatglm.errors import CheckpointError, missing_extra

Value = bool | int | float | str | list[str] | np.ndarray
MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY, BOOL = 8, 9, 7
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", BOOL: "|b1",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_MAX_KEYS, _MAX_TENSORS, _MAX_WORDS = 1 << 14, 1 << 20, 1 << 21
_MAX_DIMS = 4


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a tensor lies: `kind` is ggml's number of its type, `shape` has the rows first, `start`
    and `end` are bytes of the file.
    """

    kind: int
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """What stands before the tensors."""

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, Stored]


class Reader:
    """Bytes of a file from a moving place; asking for more than there are is a CheckpointError."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.place = path, data, 0

    def take(self, count: int, what: str) -> int:
        """Where the next `count` bytes start, having moved behind them."""
        if count > len(self.data) - self.place:
            raise CheckpointError(
                f"{self.path} has {len(self.data)} bytes and {what} reaches beyond; it is cut off "
                "or damaged, get it again"
            )
        start = self.place
        self.place += count
        return start

    def number(self, kind: str, what: str) -> int:
        """A number by its struct letter."""
        start = self.take(struct.calcsize("<" + kind), what)
        return int(struct.unpack_from("<" + kind, self.data, start)[0])

    def count(self, most: int, size: int, what: str) -> int:
        """A count of things of at least `size` bytes each, which fit into what is left."""
        number = self.number("Q", what)
        if number > min(most, (len(self.data) - self.place) // size):
            raise CheckpointError(
                f"{self.path} has {len(self.data)} bytes and claims {number} {what}; it is damaged "
                "or cut off, get it again"
            )
        return number

    def string(self, what: str) -> str:
        """A string with its length before it."""
        length = self.number("Q", what)
        start = self.take(length, what)
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: {what} is not UTF-8; get it again") from error

    def value(self, kind: int, key: str) -> Value:
        """A value of the metadata; arrays of numbers as numpy's."""
        if kind == STRING:
            return self.string(key)
        if kind == ARRAY:
            inner = self.number("I", key)
            if inner == STRING:
                return [self.string(key) for _ in range(self.count(_MAX_WORDS, 8, f"of {key}"))]
            dtype = self.dtype(inner, key)
            length = self.count(1 << 62, dtype.itemsize, f"of {key}")
            start = self.take(length * dtype.itemsize, key)
            return np.frombuffer(self.data, dtype, length, start).copy()
        dtype = self.dtype(kind, key)
        start = self.take(dtype.itemsize, key)
        value: bool | int | float = np.frombuffer(self.data, dtype, 1, start)[0].item()
        if dtype == np.float32:  # the shortest decimal that is this number
            return float(str(np.float32(value)))
        return value

    def dtype(self, kind: int, key: str) -> np.dtype:
        """numpy's name of a type of values."""
        if kind not in _SCALARS:
            raise CheckpointError(f"{self.path}: {key} has the unknown type {kind}; get it again")
        return np.dtype(_SCALARS[kind])


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file by its name."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def read_header(path: Path) -> Header:
    """Metadata and places of the tensors; a CheckpointError says what is wrong with the file."""
    check_file(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = Reader(path, data)
        reader.take(min(len(MAGIC), len(data)), "its first word")
        if data[: len(MAGIC)] != MAGIC:
            raise CheckpointError(
                f"{path} is not a GGUF file: it begins with {data[: len(MAGIC)]!r}; get it again"
            )
        version = reader.number("I", "its version")
        if version not in VERSIONS:
            raise CheckpointError(
                f"{path} is GGUF version {version}; versions 2 and 3 in little-endian are read, "
                "convert it with llama.cpp"
            )
        num_tensors = reader.count(_MAX_TENSORS, 8 + 4 + 8 + 4 + 8, "tensors")
        num_keys = reader.count(_MAX_KEYS, 8 + 4 + 1, "keys")
        metadata: dict[str, Value] = {}
        for _ in range(num_keys):
            key = reader.string("a key")
            if key in metadata:
                raise CheckpointError(f"{path} has the key {key} twice; get it again")
            metadata[key] = reader.value(reader.number("I", key), key)
        entries = [read_entry(reader) for _ in range(num_tensors)]
        return Header(path=path, metadata=metadata, tensors=place(reader, metadata, entries))


def read_entry(reader: Reader) -> tuple[str, int, tuple[int, ...], int]:
    """Name, type, shape with the rows first, and offset of a tensor."""
    name = reader.string("a tensor's name")
    num_dims = reader.number("I", name)
    if not 1 <= num_dims <= _MAX_DIMS:
        raise CheckpointError(
            f"{reader.path}: {name} has {num_dims} dimensions; expected 1 to {_MAX_DIMS}"
        )
    shape = tuple(reader.number("Q", name) for _ in range(num_dims))[::-1]
    return name, reader.number("I", name), shape, reader.number("Q", name)


def place(
    reader: Reader,
    metadata: dict[str, Value],
    entries: list[tuple[str, int, tuple[int, ...], int]],
) -> dict[str, Stored]:
    """Where each tensor lies, all of them inside the file and none over another."""
    path, size = reader.path, len(reader.data)
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16:
        raise CheckpointError(
            f"{path}: general.alignment must lie between 1 and 65536, got {alignment!r}"
        )
    begin = -(-reader.place // alignment) * alignment
    tensors: dict[str, Stored] = {}
    for name, kind, shape, offset in entries:
        if name in tensors:
            raise CheckpointError(f"{path} has the tensor {name} twice; get it again")
        start = begin + offset
        end = start + num_bytes(path, name, kind, shape)
        if offset % alignment or end > size:
            raise CheckpointError(
                f"{path} has {size} bytes and {name} lies from {start} to {end}; it is cut off or "
                "damaged, get it again"
            )
        tensors[name] = Stored(kind=kind, shape=shape, start=start, end=end)
    last = ("", begin)
    for name, stored in sorted(tensors.items(), key=lambda item: item[1].start):
        if stored.start < last[1]:
            raise CheckpointError(f"{path}: {name} lies over {last[0]}; get it again")
        last = (name, stored.end)
    return tensors


def num_bytes(path: Path, name: str, kind: int, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of ggml's type `kind`."""
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise missing_extra("gguf", "gguf") from error
    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: {name} has the unknown type {kind}; pip install -U gguf, or convert the file"
        ) from error
    if min(shape) < 1 or shape[-1] % block:
        raise CheckpointError(
            f"{path}: {name} is {shape}; the last side must be a multiple of {block} and none zero"
        )
    return math.prod(shape) // block * size

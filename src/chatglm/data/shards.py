"""Prepared data on disk, of which a document is read when it is asked for.

A directory holds, for each part (`train`, `validation`): `PART.tokens.bin` (little-endian uint16
or uint32, documents one after the other without end tokens), `PART.offsets.npy` (int64, where each
begins, and the end), for chats `PART.loss.bin` (a byte a token, 1 = the model has to produce it);
and `index.json`, written last.
"""

from __future__ import annotations

import json
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatglm.data.example import Ids

INDEX = "index.json"


class Numbers:
    """The numbers of a file, read part by part.

    The file stays open, so that one that is deleted can be read to the end of a run. Were it mapped
    into memory, one that is cut short would end the process without a word.
    """

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        self.file = path.open("rb", buffering=0)
        weakref.finalize(self, self.file.close)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Numbers `start` to `stop`."""
        size = self.dtype.itemsize
        self.file.seek(int(part.start) * size)
        wanted = int(part.stop - part.start) * size
        found = self.file.read(wanted)
        if len(found) < wanted:
            raise OSError(
                f"{self.path} ends before byte {int(part.stop) * size}, and did not when the run "
                "began; put it back and give the same command again"
            )
        return np.frombuffer(found, self.dtype)


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The documents of one part."""

    tokens: NDArray[Any] | Numbers
    offsets: NDArray[np.int64]
    loss: NDArray[np.uint8] | Numbers | None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return int(self.offsets[-1])

    def __getitem__(self, index: int) -> Ids:
        """Tokens of a document."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].astype(np.int64)

    def learnt(self, index: int) -> NDArray[np.bool_]:
        """Which tokens of a chat the model has to produce."""
        assert self.loss is not None
        return self.loss[self.offsets[index] : self.offsets[index + 1]].astype(bool)


def read_index(folder: Path) -> dict[str, object]:
    """The index of a prepared directory; an error says what to run where it is none."""
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not prepared data ({INDEX} is missing); run 'chatglm prepare INPUT "
            f"--output {folder}'"
        )
    table = json.loads(path.read_text("utf-8"))
    assert isinstance(table, dict)
    return table


def open_documents(folder: str | Path, part: str = "train") -> Documents:
    """The documents of a part of a prepared directory."""
    folder = Path(folder)
    index = read_index(folder)
    dtype: type[np.generic] = np.uint16 if index["dtype"] == "uint16" else np.uint32
    offsets = np.load(folder / f"{part}.offsets.npy", allow_pickle=False)
    path = folder / f"{part}.tokens.bin"
    expected = int(offsets[-1]) * np.dtype(dtype).itemsize
    if path.stat().st_size != expected:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes and its offsets say {expected}; prepare it "
            "again"
        )
    empty = not expected
    loss_path = folder / f"{part}.loss.bin"
    return Documents(
        tokens=np.empty(0, dtype) if empty else Numbers(path, dtype),
        offsets=offsets,
        loss=Numbers(loss_path, np.uint8) if loss_path.is_file() and not empty else None,
    )

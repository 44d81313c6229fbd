"""Word vectors from outside as the start of the word embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def read_vectors(
    path: str | Path, words: Mapping[str, int] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Vectors by word from a Word2Vec or fastText text file (`.vec`): a line `count width`, then
    word and numbers.

    words: keep these only; the file is read as a stream, so a large one costs no more memory than
        what is kept.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no vectors at {file}; expected a Word2Vec or fastText .vec file")
    vectors: dict[str, NDArray[np.float32]] = {}
    with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        header = lines.readline().split()
        if len(header) != 2 or not all(part.isdigit() for part in header):
            raise ValueError(
                f"{file} line 1 must read 'count width', got {' '.join(header)[:60]!r}; is it a "
                "binary .bin?"
            )
        width = int(header[1])
        for number, line in enumerate(lines, start=2):
            parts = line.rstrip().rsplit(" ", width)
            if len(parts) != width + 1:
                raise ValueError(
                    f"{file} line {number}: expected a word and {width} numbers, got "
                    f"{len(parts) - 1} numbers"
                )
            if words is not None and parts[0] not in words:
                continue
            try:
                vectors[parts[0]] = np.array(parts[1:], np.float32)
            except ValueError as error:
                raise ValueError(f"{file} line {number}: {error}") from error
    return vectors


@torch.no_grad()
def start_embedding(
    embedding: nn.Embedding,
    vectors: Mapping[str, NDArray[np.float32]],
    words: Mapping[str, int],
    *,
    seed: int = 0,
) -> int:
    """Write the vectors of known words into their rows; returns how many rows were set.

    A width other than the embedding's goes through a fixed random projection, which keeps angles
    (Johnson and Lindenstrauss); all set rows are scaled to the spread that the embedding had.
    """
    known = [word for word in vectors if word in words]
    if not known:
        return 0
    table = torch.from_numpy(np.stack([vectors[word] for word in known]))  # (N, width)
    width, size = table.shape[1], embedding.embedding_dim
    if width != size:
        generator = torch.Generator().manual_seed(seed)
        table = table @ (torch.randn(width, size, generator=generator) / math.sqrt(size))
    spread = embedding.weight.std()
    table = table / table.std().clamp_min(1e-12) * spread
    rows = torch.tensor([words[word] for word in known])
    embedding.weight[rows] = table.to(embedding.weight)
    return len(known)

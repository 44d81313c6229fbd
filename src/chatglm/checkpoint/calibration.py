"""The texts that quantizing is calibrated on, as the network reads them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import torch

from chatglm.config import ModelConfig
from chatglm.data.example import Example
from chatglm.data.examples import GENERAL, collect
from chatglm.model import prefix_mask
from chatglm.quantization.calibrate import Row
from chatglm.tokenizer import Tokenizer

NUM_TOKENS = 16384
"""Tokens that a calibration reads."""
_LONGEST = 512


def calibration_rows(
    source: str | os.PathLike[str],
    tokenizer: Tokenizer | None,
    config: ModelConfig,
    *,
    num_tokens: int = NUM_TOKENS,
) -> list[Row]:
    """Texts to calibrate on, in the model's own format, drawn until there are `num_tokens`.

    source: a file of texts or conversations in any of the shapes that fine-tuning takes, or
    `general` for those in the package.
    """
    if tokenizer is None:
        raise ValueError("calibrating needs the model's tokenizer files; add them, or leave it out")
    path = str(GENERAL) if source == "general" else os.fspath(source)
    if source != "general" and not Path(path).exists():
        raise FileNotFoundError(f"no calibration texts at {path}; give a file, or general")
    longest = min(config.max_length, _LONGEST)
    items = collect(path, tokenizer, cutoff=longest, truncate=True, skip_bad=True).items
    random.Random(0).shuffle(items)
    rows: list[Row] = []
    read = 0
    for (example,) in items:
        if read >= num_tokens:
            break
        rows.append(as_row(example, config))
        read += len(example)
    return rows


def as_row(example: Example, config: ModelConfig) -> Row:
    """An example as the network reads it."""
    positions = mask = None
    if config.num_planes > 1:
        positions = torch.from_numpy(example.positions)[None]
    if config.context == "prefix":
        mask = prefix_mask(torch.tensor([example.prefix]), len(example))
    return Row(tokens=torch.from_numpy(example.tokens)[None], positions=positions, mask=mask)

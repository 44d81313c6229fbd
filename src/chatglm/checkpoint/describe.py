"""What a model directory holds, told by its json files and the headers of its weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from chatglm.checkpoint.checks import check_size
from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.fill import build
from chatglm.checkpoint.open import open_model
from chatglm.checkpoint.resolve import resolve
from chatglm.config import ModelConfig
from chatglm.model import Transformer
from chatglm.quantization.kinds import schemes_of
from chatglm.quantization.scheme import KINDS, Kind
from chatglm.quantization.tiles import BLOCK, TILE, up_to

SCALE_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Description:
    """A model as its directory describes it; sizes in bytes.

    memory: the weights in bfloat16, and as `quantize` makes them; what is not a linear stays
        bfloat16.
    cache_per_token: keys and values of one token in bfloat16.
    """

    directory: Path
    base: Path
    format: Format
    generation: str
    config: ModelConfig
    num_parameters: int
    files: dict[str, int]
    memory: dict[str, int]
    cache_per_token: int
    notes: tuple[str, ...]


def describe(
    source: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    offline: bool | None = None,
) -> Description:
    """The model at `source` without its weights: of those only the headers are read."""
    folder = resolve(source, revision=revision, offline=offline)
    opened = open_model(folder)
    files, config = opened.files, opened.config
    check_size(files, config)
    model = build(config)
    sizes = {path.name: path.stat().st_size for path in files.files}
    files.close()
    return Description(
        directory=folder,
        base=opened.base,
        format=opened.format,
        generation=opened.generation,
        config=config,
        num_parameters=sum(p.numel() for p in model.parameters()),
        files=sizes,
        memory={
            "bf16": weight_bytes(model),
            **{name: weight_bytes(model, KINDS[name]) for name in ("int8", "int4")},
        },
        cache_per_token=2 * config.num_layers * config.num_kv_heads * config.head_dim * 2,
        notes=opened.notes,
    )


def weight_bytes(model: Transformer, kind: Kind | None = None) -> int:
    """Memory of the weights in a kind of whole numbers; what it leaves as it is, and all where it
    is None, in bfloat16.
    """
    total = 2 * sum(p.numel() for p in model.parameters())
    for name, scheme in ({} if kind is None else schemes_of(model, kind)).items():
        rows, columns = model.get_parameter(f"{name}.weight").shape
        padded = up_to(columns, BLOCK)
        row_bytes = padded * scheme.bits // 8 + padded // scheme.group * SCALE_BYTES
        total += up_to(rows, TILE) * row_bytes - 2 * rows * columns
    return total

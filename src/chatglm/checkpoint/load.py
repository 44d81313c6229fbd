"""From a model's files to a network: built on `meta`, filled tensor by tensor, every tensor
accounted for.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from chatglm.adapters.lora import LoraEmbedding, merge
from chatglm.adapters.peft import Adapter, is_adapter, read_adapter
from chatglm.adapters.prefix import from_peft, learned_prefix
from chatglm.checkpoint.adapter import apply, base_of
from chatglm.checkpoint.checks import check_size
from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.fill import DTYPES, fill, is_small
from chatglm.checkpoint.gguf.tensors import GgufFile
from chatglm.checkpoint.open import Opened, open_model
from chatglm.checkpoint.published import Defaults, Layout
from chatglm.checkpoint.resolve import resolve
from chatglm.checkpoint.rope_ratio import RopeRatio
from chatglm.config import ModelConfig
from chatglm.errors import CheckpointError
from chatglm.model import Transformer
from chatglm.quantization.calibrate import Calibration
from chatglm.quantization.scheme import INTEGER_KINDS, KINDS, Kind, Scheme
from chatglm.tokenizer import Tokenizer


@dataclass(kw_only=True)
class Loaded:
    """A model with all that its directory says."""

    model: Transformer
    tokenizer: Tokenizer | None
    config: ModelConfig
    format: Format
    generation: str
    defaults: Defaults
    layout: Layout
    directory: Path
    base: Path
    name_prefix: str = ""
    prefix: Tensor | None = None
    kind: Kind | None = None
    adapter: Path | None = None
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def quantize(self) -> str | None:
        """The name of the kind in which the weights are quantized, ChatGLM's own apart."""
        return None if self.kind is None else self.kind.name


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    offline: bool | None = None,
    base: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    rope_ratio: RopeRatio | None = None,
    quantize: str | None = None,
    calibrate: str | os.PathLike[str] | None = None,
) -> Loaded:
    """The model at `source`: None (embedded), a directory, a GGUF file, or a hub id.

    dtype: `auto` keeps the file's, but computes in float32 on a CPU where that fits easily. base:
        where the weights lie of which `source` holds an adapter or a learned prefix only. adapter:
        a LoRA adapter in PEFT's format to put on the model at `source`. rope_ratio: see
        `read_published`. quantize: `int8`, `int4` or another of KINDS quantizes each linear as it
        is read, so that the whole model never exists in more bits. calibrate: a file of texts on
        which the rounding is made up for (GPTQ), layer by layer; `general` for those in the
        package.
    """
    if quantize is not None and quantize not in KINDS:
        raise ValueError(f"quantize must be one of {', '.join(KINDS)} or None, got {quantize!r}")
    if calibrate is not None and quantize not in INTEGER_KINDS:
        raise ValueError(
            f"calibrate is for quantizing to one of {', '.join(INTEGER_KINDS)}, got {quantize!r}"
        )
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype must be auto or one of {', '.join(DTYPES)}, got {dtype!r}")
    folder = resolve(source, revision=revision, offline=offline)
    put_on = None
    if adapter is not None:
        put_on = read_adapter(resolve(adapter, offline=offline))
    elif is_adapter(folder) and not (folder / "config.json").is_file():
        put_on = read_adapter(folder)
        folder = base_of(put_on, base, offline=offline)
    loaded = load_weights(
        folder,
        dtype=dtype,
        device=device,
        base=base,
        rope_ratio=rope_ratio,
        quantize=quantize,
        calibrate=calibrate,
    )
    if put_on is not None:
        put_adapter_on(loaded, put_on)
        loaded.adapter = loaded.directory = put_on.folder
    return loaded


def put_adapter_on(loaded: Loaded, adapter: Adapter) -> None:
    """Put LoRA's matrices beside the linears, or a learned prefix before every sequence."""
    if adapter.prefix is None:
        apply(adapter, loaded.model, loaded.format, loaded.config)
        loaded.model.eval()
        return
    try:
        prefix = from_peft(adapter.prefix, loaded.config)
    except ValueError as error:
        raise CheckpointError(f"{adapter.folder}: {error}") from error
    loaded.prefix = prefix.to(loaded.model.embedding.weight.device)


def merge_adapter(loaded: Loaded) -> None:
    """Make the adapter part of the weights, so that the model is saved whole, in its base's format.

    A ValueError where there is no adapter, the base is quantized, or the adapter changes word
    embeddings that are the output head as well.
    """
    if loaded.adapter is None:
        raise ValueError(f"{loaded.directory} was loaded without an adapter; nothing to merge")
    if loaded.prefix is not None:
        raise ValueError(
            f"{loaded.adapter} is a learned prefix, which is no part of any weight; use it as it is"
        )
    if loaded.config.tied and isinstance(loaded.model.embedding, LoraEmbedding):
        raise ValueError(
            f"{loaded.adapter} changes the word embeddings and not the head, and in the base they "
            "are tied; use the adapter as it is"
        )
    merge(loaded.model)
    loaded.adapter, loaded.directory = None, loaded.base


def load_weights(
    folder: Path,
    *,
    dtype: str,
    device: str,
    base: str | os.PathLike[str] | None,
    rope_ratio: RopeRatio | None,
    quantize: str | None,
    calibrate: str | os.PathLike[str] | None = None,
) -> Loaded:
    """The model at a path, with a learned prefix where it has one."""
    opened = open_model(folder, base=base, rope_ratio=rope_ratio)
    target = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    config, format, files = opened.config, opened.format, opened.files
    check_size(files, config)
    if isinstance(files, GgufFile) and quantize is None and dtype == "auto":
        dtype, quantize = fitting(files, target)
    kind = None if quantize is None else KINDS[quantize]
    calibration = None
    if kind is not None and calibrate is not None and opened.quantized is None:
        calibration = calibration_of(opened, calibrate, kind.layers, target)
    model, dtypes = fill(
        files,
        format,
        config,
        opened.name_prefix,
        dtype,
        target,
        kind,
        stored=opened.quantized,
        calibration=calibration,
    )
    encoder = opened.encoder
    prefix = learned_prefix(encoder, config).float().to(target) if encoder else None
    files.close()
    return Loaded(
        model=model.eval(),
        tokenizer=opened.tokenizer,
        config=config,
        format=format,
        generation=opened.generation,
        defaults=opened.defaults,
        layout=opened.layout,
        directory=folder,
        base=opened.base,
        name_prefix=opened.name_prefix,
        prefix=prefix,
        kind=opened.quantized or kind,
        dtypes=dtypes,
        notes=opened.notes,
    )


def calibration_of(
    opened: Opened, source: str | os.PathLike[str], scheme: Scheme, device: torch.device
) -> Calibration:
    """What quantizes the layers on the texts of a file."""
    from chatglm.checkpoint.calibration import calibration_rows  # reads data: a second to import

    rows = calibration_rows(source, opened.tokenizer, opened.config)
    return Calibration([row.to(device) for row in rows], scheme)


def fitting(files: GgufFile, device: torch.device) -> tuple[str, str | None]:
    """Dtype and quantization for a file where the user leaves the choice: a small model in float32
    on a CPU; else quantized weights keep about their bits.

    Q4_0 becomes int4 without loss; Q8_0 becomes int8 with one scale for 64 columns in place of 32.
    """
    if device.type == "cpu" and is_small(files):
        return "float32", None
    kinds = Counter(files.kind(name) for name in files if len(files.shape(name)) > 1)
    most = kinds.most_common(1)[0][0] if kinds else ""
    if most in ("F32", "F16", "BF16"):
        return "auto", None
    files.reads_halves = True
    return "bfloat16", "int8" if most == "Q8_0" else "int4"

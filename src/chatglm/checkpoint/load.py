"""From a model directory to a network: built on `meta`, filled tensor by tensor, every tensor
accounted for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from chatglm.adapters.lora import LoraEmbedding, merge
from chatglm.adapters.peft import Adapter, is_adapter, read_adapter
from chatglm.adapters.prefix import learned_prefix
from chatglm.checkpoint.adapter import apply, base_of
from chatglm.checkpoint.checks import check_size
from chatglm.checkpoint.configs import Defaults, Format, Layout, RopeRatio, read_published
from chatglm.checkpoint.fill import DTYPES, fill
from chatglm.checkpoint.read import TensorFiles, read_json
from chatglm.checkpoint.resolve import nearby_base, resolve
from chatglm.config import ModelConfig
from chatglm.errors import CheckpointError
from chatglm.model import Transformer
from chatglm.quantization.linear import KINDS
from chatglm.tokenizer import Tokenizer, load_tokenizer

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


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
    quantize: str | None = None
    adapter: Path | None = None
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


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
) -> Loaded:
    """The model at `source`: None (embedded), a directory, or a hub id.

    dtype: `auto` keeps the file's, but computes in float32 on a CPU where that fits easily. base:
        where the weights lie of which `source` holds an adapter or a learned prefix only. adapter:
        a LoRA adapter in PEFT's format to put on the model at `source`. rope_ratio: see
        `read_published`. quantize: `int8` or `int4` quantizes each linear as it is read, so that
        the whole model never exists in more bits.
    """
    if quantize is not None and quantize not in KINDS:
        raise ValueError(f"quantize must be one of {', '.join(KINDS)} or None, got {quantize!r}")
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
        folder, dtype=dtype, device=device, base=base, rope_ratio=rope_ratio, quantize=quantize
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
        prefix = learned_prefix({"embedding.weight": adapter.prefix}, loaded.config)
    except ValueError as error:
        raise CheckpointError(f"{adapter.folder}: {error}") from error
    loaded.prefix = prefix.float().to(loaded.model.embedding.weight.device)


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
) -> Loaded:
    """The model of a directory, with a learned prefix where it has one."""
    table = read_json(folder / "config.json", required=True)
    published = read_published(
        table, read_json(folder / "generation_config.json"), rope_ratio=rope_ratio
    )
    files = TensorFiles(folder)
    home = folder
    encoder = prefix_tensors(files)
    if encoder and len(encoder) == len(list(files)):
        home = find_base(folder, table, base)
        files = TensorFiles(home)
    target = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    names = set(files)
    config, name_prefix = settle(published.config, published.format, names)
    check_size(files, config)
    model, dtypes = fill(files, published.format, config, name_prefix, dtype, target, quantize)
    prefix = learned_prefix(encoder, config).float().to(target) if encoder else None
    files.close()
    tokenizer = find_tokenizer(folder, home)
    return Loaded(
        model=model.eval(),
        tokenizer=tokenizer,
        config=config,
        format=published.format,
        generation=generation_of(published.format, table, tokenizer),
        defaults=with_ends(published.defaults, tokenizer),
        layout=with_tokens(published.layout, tokenizer),
        directory=folder,
        base=home,
        name_prefix=name_prefix,
        prefix=prefix,
        quantize=quantize,
        dtypes=dtypes,
        notes=published.notes,
    )


def settle(config: ModelConfig, format: Format, names: set[str]) -> tuple[ModelConfig, str]:
    """What only the tensors' names tell: whether the head is tied, and what stands before every
    name.
    """
    if format == "glm2021":
        is_prefixed = any(name.startswith("glm.") for name in names)
        return config, "glm." if is_prefixed else ""
    if format == "chatglm":
        config = replace(config, tied="lm_head.weight" not in names)
    return config, ""


def find_base(folder: Path, table: dict[str, object], base: str | os.PathLike[str] | None) -> Path:
    """The directory of the weights that a learned prefix belongs to."""
    if base is not None:
        return resolve(base)
    name = str(table.get("_name_or_path") or "")
    found = nearby_base(folder, name) if name else None
    found = found or same_shape_beside(folder, table)
    if found is None:
        raise CheckpointError(
            f"{folder} holds a learned prefix and no weights; give their directory as base= "
            f"(trained on {name!r})"
        )
    return found


def same_shape_beside(folder: Path, table: dict[str, object]) -> Path | None:
    """The one directory beside `folder` whose config is the same but for the prefix; None where
    there is not just one.
    """

    def shape(data: dict[str, object]) -> dict[str, object]:
        ignored = (
            "pre_seq_len",
            "prefix_projection",
            "torch_dtype",
            "dtype",
            "transformers_version",
        )
        return {key: value for key, value in data.items() if key not in ignored}

    found = [
        path.parent
        for path in sorted(folder.resolve().parent.glob("*/config.json"))
        if path.parent.name != folder.resolve().name
        and shape(read_json(path)) == shape(table)
        and "pre_seq_len" not in read_json(path)
    ]
    return found[0] if len(found) == 1 else None


def prefix_tensors(files: TensorFiles) -> dict[str, Tensor]:
    """The tensors of an official prefix encoder, by their names inside it."""
    mark = "prefix_encoder."
    return {
        name.split(mark, 1)[1]: files.read(name).float()
        for name in files
        if name.startswith((mark, f"transformer.{mark}"))
    }


def find_tokenizer(folder: Path, home: Path) -> Tokenizer | None:
    """The tokenizer beside the weights, if there is one."""
    for place in (folder, home):
        try:
            return load_tokenizer(place)
        except FileNotFoundError:
            continue
    return None


def generation_of(format: Format, table: dict[str, object], tokenizer: Tokenizer | None) -> str:
    """The generation's name: what the tokenizer says, else the format's, else the model's name."""
    if tokenizer is not None:
        return tokenizer.generation
    if not format.startswith("chatglm2"):
        return {"glm2021": "glm", "glm": "glm4", "glm4": "glm4_0414"}.get(format, format)
    if isinstance(table.get("eos_token_id"), list):
        return "glm4"
    return "chatglm3" if "chatglm3" in str(table.get("_name_or_path", "")) else "chatglm2"


def with_ends(defaults: Defaults, tokenizer: Tokenizer | None) -> Defaults:
    """Defaults whose end ids are the files', else the chat format's."""
    if tokenizer is None:
        return defaults
    return replace(defaults, end_ids=defaults.end_ids | tokenizer.end_ids)


def with_tokens(layout: Layout, tokenizer: Tokenizer | None) -> Layout:
    """A layout with the ids that the tokenizer knows better."""
    if tokenizer is None:
        return layout
    special = tokenizer.special
    return Layout(
        sop=special.get("<sop>", special.get("<|startofpiece|>", layout.sop)),
        gmask=special.get("[gMASK]", layout.gmask),
        mask=special.get("[MASK]", layout.mask),
    )

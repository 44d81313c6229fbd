"""What lies at a path, before its weights are read: config, names, tokenizer, settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.gguf.header import is_gguf
from chatglm.checkpoint.gguf.metadata import config_of, defaults_of, format_of
from chatglm.checkpoint.gguf.tensors import GgufFile
from chatglm.checkpoint.gguf.words import generation_of_file, tokenizer_of
from chatglm.checkpoint.published import Defaults, Layout, read_published
from chatglm.checkpoint.quantized import kind_in
from chatglm.checkpoint.read import TensorFiles, Tensors, read_json
from chatglm.checkpoint.resolve import nearby_base, resolve
from chatglm.checkpoint.rope_ratio import RopeRatio
from chatglm.config import ModelConfig
from chatglm.errors import CheckpointError
from chatglm.quantization.scheme import Kind
from chatglm.tokenizer import Tokenizer, load_tokenizer


@dataclass(kw_only=True)
class Opened:
    """A model as its files describe it.

    base: where the weights lie, which is elsewhere where `directory` holds a learned prefix only.
    encoder: the tensors of an official prefix encoder, by their names inside it. quantized: the
    kind in which the weights are quantized in our own layout.
    """

    directory: Path
    base: Path
    files: Tensors
    format: Format
    config: ModelConfig
    generation: str
    tokenizer: Tokenizer | None
    defaults: Defaults
    layout: Layout
    name_prefix: str = ""
    encoder: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    quantized: Kind | None = None


def open_model(
    path: Path,
    *,
    base: str | os.PathLike[str] | None = None,
    rope_ratio: RopeRatio | None = None,
) -> Opened:
    """The model in a directory, or in a GGUF file."""
    return open_gguf(path) if is_gguf(path) else open_directory(path, base, rope_ratio)


def open_directory(
    folder: Path, base: str | os.PathLike[str] | None, rope_ratio: RopeRatio | None
) -> Opened:
    """The model in a directory."""
    table = read_json(folder / "config.json", required=True)
    published = read_published(
        table, read_json(folder / "generation_config.json"), rope_ratio=rope_ratio
    )
    files, home = TensorFiles(folder), folder
    encoder = prefix_tensors(files)
    if encoder and len(encoder) == len(list(files)):
        home = find_base(folder, table, base)
        files = TensorFiles(home)
    config, name_prefix = settle(published.config, published.format, set(files))
    tokenizer = find_tokenizer(folder, home)
    return Opened(
        directory=folder,
        base=home,
        files=files,
        format=published.format,
        config=config,
        generation=generation_of(published.format, table, tokenizer),
        tokenizer=tokenizer,
        defaults=with_ends(published.defaults, tokenizer),
        layout=with_tokens(published.layout, tokenizer),
        name_prefix=name_prefix,
        encoder=encoder,
        notes=published.notes,
        quantized=kind_in(table if home == folder else read_json(home / "config.json")),
    )


def open_gguf(path: Path) -> Opened:
    """The model in a GGUF file."""
    files = GgufFile(path)
    metadata, names = files.header.metadata, set(files)
    try:
        format, config = format_of(metadata, names), config_of(metadata, names)
        defaults = defaults_of(metadata)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    tokenizer = tokenizer_of(metadata, path)
    return Opened(
        directory=path,
        base=path,
        files=files,
        format=format,
        config=config,
        generation=generation_of_file(metadata, path),
        tokenizer=tokenizer,
        defaults=with_ends(defaults, tokenizer),
        layout=with_tokens(Layout(), tokenizer),
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

"""Write a model as a GGUF file that llama.cpp runs."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.gguf.blocks import BLOCK, to_blocks
from chatglm.checkpoint.gguf.header import Value, is_gguf, read_header
from chatglm.checkpoint.gguf.metadata import Keys, architecture_of, keys_of, keys_of_defaults
from chatglm.checkpoint.gguf.words import TEMPLATE, keys_of_tokenizer
from chatglm.checkpoint.load import Loaded
from chatglm.checkpoint.parts import Place, places_of, refuse_parts, shape_at, tensor_at
from chatglm.checkpoint.write import flush
from chatglm.errors import missing_extra
from chatglm.tokenizer.jinja import chat_template

if TYPE_CHECKING:
    import gguf

# Our names of types → ggml's, and its number of a file of that type.
TYPES = {
    "f32": ("F32", 0),
    "f16": ("F16", 1),
    "bf16": ("BF16", 32),
    "q8_0": ("Q8_0", 7),
    "q4_0": ("Q4_0", 2),
}
_FORMATS: dict[str, Format] = {
    "chatglm": "gguf_chatglm",
    "glm4": "gguf_glm4",
    "glm4moe": "gguf_glm4moe",
}
_LARGEST_HALF = 65504.0


def export_gguf(loaded: Loaded, path: str | os.PathLike[str], *, kind: str = "q8_0") -> Path:
    """The file, written at `path` in one step.

    kind: `f32`, `f16`, `bf16`, `q8_0` or `q4_0`. Norms, biases and routers stay float32; in q4_0
        word embeddings and head have 8 bits; rows that 32 does not divide are f16.
    """
    target = Path(path)
    check(loaded, target, kind)
    try:
        import gguf
    except ImportError as error:
        raise missing_extra("gguf", "gguf") from error
    architecture = architecture_of(loaded.config)
    format = _FORMATS[architecture]
    part = target.with_name(f".{target.name}.part")
    writer = gguf.GGUFWriter(part, architecture)
    for key, value in keys_of_model(loaded, kind).items():
        add_key(writer, key, value)
    tensors = {}
    for name, places in places_of(loaded.config, format).items():
        shape = shape_in_file(loaded, format, places)
        of_tensor = kind_of(name, shape, kind)
        tensors[name] = places, of_tensor
        stored = gguf.GGMLQuantizationType[of_tensor]
        block, size = gguf.GGML_QUANT_SIZES[stored]
        num_bytes = math.prod(shape) // block * size
        writer.add_tensor_info(name, shape, np.dtype(np.float32), num_bytes, raw_dtype=stored)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for places, of_tensor in tensors.values():
            writer.write_tensor_data(blocks(loaded, format, places, of_tensor))
        writer.close()
        flush(part)
        part.rename(target)
    except OSError as error:
        raise OSError(
            f"{target} could not be written ({error}); nothing is left of it, free some space or "
            "give another place"
        ) from error
    finally:
        writer.close()
        part.unlink(missing_ok=True)
    return target


def check(loaded: Loaded, target: Path, kind: str) -> None:
    """An error where the model cannot become such a file."""
    if kind not in TYPES:
        raise ValueError(f"the type must be one of {', '.join(TYPES)}, got {kind!r}")
    if target.exists():
        raise FileExistsError(f"{target} is there already; give a new file")
    refuse_parts(loaded)


def shape_in_file(loaded: Loaded, format: Format, places: list[Place]) -> tuple[int, ...]:
    """Shape of a tensor of the file; experts are stacked."""
    shape = shape_at(loaded, format, places[0])
    is_stacked = len(places) > 1 or ".experts." in places[0][0]
    return (len(places), *shape) if is_stacked else shape


def kind_of(name: str, shape: tuple[int, ...], kind: str) -> str:
    """ggml's type of a tensor in a file of type `kind`."""
    if len(shape) == 1 or ".ffn_gate_inp." in name:
        return "F32"
    if kind in ("q8_0", "q4_0"):
        if shape[-1] % BLOCK:
            return "F16"
        if name in ("token_embd.weight", "output.weight"):
            return "Q8_0"
    return TYPES[kind][0]


def blocks(loaded: Loaded, format: Format, places: list[Place], kind: str) -> np.ndarray:
    """The bytes of a tensor of the file, as numpy's array."""
    made = []
    for place in places:
        tensor = tensor_at(loaded, format, place)
        if kind == "F16" and float(tensor.abs().max()) > _LARGEST_HALF:
            raise ValueError(f"{place[0]} has numbers beyond float16; export as bf16 or f32")
        made.append(to_blocks(tensor, kind))
    return (made[0] if len(made) == 1 else torch.cat(made)).numpy()


def keys_of_model(loaded: Loaded, kind: str) -> Keys:
    """All keys of the file."""
    if is_gguf(loaded.base):
        template = read_header(loaded.base).metadata.get(TEMPLATE)
        name = loaded.base.stem
    else:
        template = chat_template(loaded.generation, loaded.base)
        name = loaded.base.resolve().name
    tokenizer, config = loaded.tokenizer, loaded.config
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": TYPES[kind][1],
        "general.quantization_version": 2,
        **keys_of(config),
        **keys_of_defaults(loaded.defaults, loaded.generation),
        **keys_of_tokenizer(
            tokenizer, config.vocab_size, template if isinstance(template, str) else None
        ),
    }


def add_key(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    """Add a key with the type that llama.cpp expects of it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, np.ndarray):
        writer.add_array(key, value.tobytes() if value.dtype == np.uint8 else value.tolist())
    else:
        writer.add_array(key, value)

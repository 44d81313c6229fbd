"""Models of random weights in the shapes that speed is measured on: ours, GGUF, transformers'.

Speed does not depend on the values of weights, so a block of noise is repeated over all of them.
Ours are built quantized, layer by layer, and never exist in more bits.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from chatglm.checkpoint.fill import build, place
from chatglm.checkpoint.gguf.export import TYPES, add_key
from chatglm.checkpoint.gguf.metadata import keys_of
from chatglm.checkpoint.names import entry_of
from chatglm.config import ModelConfig
from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.presets import PRESETS
from chatglm.quantization import pages
from chatglm.quantization.kinds import narrowed, schemes_of
from chatglm.quantization.scheme import KINDS

if TYPE_CHECKING:
    from transformers import GlmForCausalLM

_6B = PRESETS["chatglm3-6b"]
SHAPES: dict[str, ModelConfig] = {
    "6B": _6B,
    "200M": replace(
        _6B, num_layers=12, hidden_size=1024, num_heads=16, num_kv_heads=2, head_dim=64,
        ffn_size=2816, vocab_size=32000,
    ),
    "nano": replace(
        _6B, num_layers=8, hidden_size=512, num_heads=8, num_kv_heads=2, head_dim=64,
        ffn_size=1408, vocab_size=8192,
    ),
}  # fmt: skip
FORMATS = ("int4", "int8", "bf16")
# llama.cpp's nearest format: bits of the matrices, and of the output head where it has others.
GGUF_KINDS = {
    "int4": ("q4_0", {"output.weight": "Q6_K"}),
    "int8": ("q8_0", {}),
    "bf16": ("bf16", {}),
}
_NOISE = 1 << 22


def shape_of(name: str, num_layers: int | None) -> ModelConfig:
    """The config of a shape, with fewer layers where that is asked for."""
    config = SHAPES[name]
    return config if num_layers is None else replace(config, num_layers=num_layers)


def noise(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Numbers that keep activations near 1: small ones for matrices, near 1 for vectors."""
    count = math.prod(shape)
    chance = torch.Generator().manual_seed(seed)
    some = torch.randn(min(count, _NOISE), generator=chance)
    some = some * shape[-1] ** -0.5 if len(shape) > 1 else 1 + some / 16
    return some.to(dtype).repeat(-(-count // len(some)))[:count].view(shape)


@torch.no_grad()
def random_model(config: ModelConfig, format: str, dtype: torch.dtype) -> Transformer:
    """Our network; the first layer is made and the others are copies with memory of their own."""
    model = build(config)
    layers, model.layers = model.layers, nn.ModuleList(model.layers[:1])
    schemes = {} if format == "bf16" else schemes_of(model, KINDS[format])
    for name, empty in model.state_dict().items():
        module, _, part = name.rpartition(".")
        tensor = noise(tuple(empty.shape), dtype)
        if part == "weight" and module in schemes:
            new = narrowed(model.get_submodule(module), tensor, schemes[module])
            replace_module(model, module, new)
        else:
            place(model, name, tensor)
    for index in range(1, len(layers)):
        layer = copy.deepcopy(model.layers[0], twins(model.layers[0]))
        layer.attention.layer = index  # type: ignore[union-attr]
        model.layers.append(layer)
    return model.eval()


def twins(layer: nn.Module) -> dict[int, object]:
    """Copies of a layer's tensors by their ids, where a loader puts them."""
    found: dict[int, object] = {}
    for kept in (*layer.parameters(), *layer.buffers()):
        twin = pages.empty(*kept.shape, dtype=kept.dtype).copy_(kept)
        is_parameter = isinstance(kept, nn.Parameter)
        found[id(kept)] = nn.Parameter(twin, requires_grad=False) if is_parameter else twin
    return found


def read_bytes(model: Transformer) -> int:
    """Bytes of weights that a token of a reply reads: all but the table of words, of which it is a
    row.
    """
    return sum(
        t.nbytes
        for name, t in model.state_dict().items()
        if model.config.tied or not name.startswith("embedding.")
    )


def write_gguf(config: ModelConfig, format: str, path: Path) -> None:
    """A GGUF file of that shape for llama.cpp, in the types that its own quantizer gives."""
    import gguf

    kind, others = GGUF_KINDS[format]
    writer = gguf.GGUFWriter(path, "chatglm")
    add_key(writer, "general.file_type", TYPES[kind][1])
    add_key(writer, "tokenizer.ggml.model", "none")
    for key, value in keys_of(config).items():
        add_key(writer, key, value)
    tensors = []
    for ours, empty in build(config).state_dict().items():
        (name,) = entry_of("gguf_chatglm", ours).theirs
        shape = tuple(empty.shape)
        stored = "F32" if len(shape) == 1 else others.get(name, TYPES[kind][0])
        raw = gguf.GGMLQuantizationType[stored]
        per_block, size = gguf.GGML_QUANT_SIZES[raw]
        num_bytes = math.prod(shape) // per_block * size
        writer.add_tensor_info(name, shape, np.dtype(np.float32), num_bytes, raw_dtype=raw)
        tensors.append((shape, stored, num_bytes))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for shape, stored, num_bytes in tensors:
        writer.write_tensor_data(np.resize(block_noise(shape, stored), num_bytes))
    writer.close()


def block_noise(shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Bytes of ggml's type `kind`, to be repeated: random whole numbers under a scale that keeps
    activations near 1.
    """
    if kind in ("F32", "BF16"):
        dtype = torch.float32 if kind == "F32" else torch.bfloat16
        some = noise((min(math.prod(shape), _NOISE),), torch.float32) - 1
        some = 16 * some * shape[-1] ** -0.5 if len(shape) > 1 else 1 + some
        return some.to(dtype).view(torch.uint8).numpy()
    # Bytes of a block, where its float16 scale stands, and the spread of the numbers under it.
    size, at, spread = {"Q4_0": (18, 0, 4.6), "Q8_0": (34, 0, 74.0), "Q6_K": (210, 208, 1360.0)}[
        kind
    ]
    blocks = np.random.default_rng(0).integers(0, 256, (_NOISE // 32, size), dtype=np.uint8)
    scale = np.array([shape[-1] ** -0.5 / spread], dtype=np.float16)
    blocks[:, at : at + 2] = scale.view(np.uint8)
    return blocks.reshape(-1)


@torch.no_grad()
def random_transformers(config: ModelConfig) -> GlmForCausalLM:
    """transformers' network of that shape in bfloat16."""
    from transformers import GlmConfig, GlmForCausalLM

    theirs = GlmConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        attention_bias=config.bias == "qkv",
        max_position_embeddings=config.max_length,
        tie_word_embeddings=config.tied,
        pad_token_id=0,
        eos_token_id=None,
    )
    with torch.device("meta"):
        model = GlmForCausalLM(theirs)
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.copy_(noise(tuple(parameter.shape), torch.bfloat16))
    model.model.rotary_emb = type(model.model.rotary_emb)(theirs)  # its angles are no parameters
    return model.eval()

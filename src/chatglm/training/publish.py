"""A trained network as a model directory in a public format: transformers' `glm`, which vLLM and
llama.cpp read too.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from chatglm.checkpoint.names import entry_of
from chatglm.checkpoint.transforms import to_theirs
from chatglm.config import ModelConfig
from chatglm.model import Transformer
from chatglm.parallel.tensor import whole_tensors
from chatglm.tokenizer import Tokenizer
from chatglm.training.state import flush


def has_format(config: ModelConfig) -> bool:
    """Whether transformers' GlmForCausalLM has a place for this shape."""
    plain = ModelConfig(
        **{
            name: getattr(config, name)
            for name in (
                "num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "ffn_size",
                "vocab_size", "max_length", "norm_eps", "rope_theta", "rope_fraction", "bias",
                "tied",
            )
        }
    )  # fmt: skip
    return config == plain and config.bias != "all"


def glm_config(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, object]:
    """config.json of transformers' GlmForCausalLM for a shape that it has a place for."""
    if not has_format(config):
        raise ValueError(
            "transformers' glm format has RMSNorm, SwiGLU, interleaved rotary positions and a "
            "causal context only; this shape stays in the run's checkpoints"
        )
    ends = sorted(tokenizer.end_ids)
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "chatglm_generation": tokenizer.generation,
        "attention_bias": config.bias == "qkv",
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": ends,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_length,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "pad_token_id": tokenizer.special.get("<|endoftext|>"),
        "partial_rotary_factor": config.rope_fraction,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def publish(
    model: Transformer, tokenizer: Tokenizer, directory: Path, *, writes: bool = True
) -> Path:
    """Write weights in bfloat16, config, tokenizer and generation defaults into `directory`.

    All is written beside it first and takes its place in one step, so that it is never half.
    writes: False in a process that only gives its part of the weights.
    """
    table = glm_config(model.config, tokenizer)
    weights = whole_tensors(model, keeps=writes)
    if not writes:
        return directory
    temporary = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write_files(weights, model.config, tokenizer, table, temporary)
        for path in (*temporary.iterdir(), temporary):
            flush(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"{directory} could not be written ({error}); free some space and give the same "
            "command again: the checkpoints are whole"
        ) from error
    older = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(older, ignore_errors=True)
    if directory.exists():
        directory.rename(older)
    temporary.rename(directory)
    shutil.rmtree(older, ignore_errors=True)
    return directory


def write_files(
    weights: dict[str, Tensor],
    config: ModelConfig,
    tokenizer: Tokenizer,
    table: dict[str, object],
    folder: Path,
) -> None:
    """The files of a model directory."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        entry = entry_of("glm", name)
        parts = to_theirs(entry.transform, tensor.detach().to(torch.bfloat16), config, name)
        tensors |= {t: part.clone() for t, part in zip(entry.theirs, parts, strict=True)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    generation = {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "repetition_penalty": 1.1,
        "max_new_tokens": 256,
        "eos_token_id": table["eos_token_id"],
        "pad_token_id": table["pad_token_id"],
    }
    for name, data in (("config.json", table), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(data, ensure_ascii=False, indent=1), "utf-8")
    for file in tokenizer.files:
        shutil.copyfile(file, folder / file.name)
        beside = file.parent / "tokenizer_config.json"
        if beside.is_file():
            shutil.copyfile(beside, folder / beside.name)

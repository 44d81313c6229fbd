"""Write a model in transformers' public formats, which vLLM and SGLang read too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.fill import DTYPES, with_prefix
from chatglm.checkpoint.gguf.header import is_gguf, read_header
from chatglm.checkpoint.load import Loaded
from chatglm.checkpoint.names import entry_of
from chatglm.checkpoint.parts import (
    Place,
    places_of,
    refuse_parts,
    shape_at,
    tensor_at,
    transformers_format,
)
from chatglm.checkpoint.read import INDEX, WHOLE
from chatglm.checkpoint.write import flush, save
from chatglm.config import ModelConfig, RopeScaling
from chatglm.tokenizer import Tokenizer
from chatglm.tokenizer.base import names_apart
from chatglm.tokenizer.convert import as_backend
from chatglm.tokenizer.jinja import chat_template

_CLASSES = {
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
}
SHARD_BYTES = 5_000_000_000
_ENDS = ("<|endoftext|>", "<eos>")


def export_transformers(
    loaded: Loaded, directory: str | os.PathLike[str], *, dtype: str | None = None
) -> Path:
    """The directory, with the model in transformers' `glm`, `glm4` or `glm4_moe`.

    dtype: `float32`, `float16` or `bfloat16`; None keeps the file's, and takes bfloat16 for what
        was quantized. A model that is in such a format already is saved as it is.
    """
    target = Path(directory)
    refuse_parts(loaded)
    format = format_for(loaded.config)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if loaded.format == format and dtype is None:
        return save(loaded, target)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; give a new directory")
    files = texts(loaded, format, dtype)
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, text in files.items():
            (temporary / name).write_text(text, "utf-8")
        write_shards(loaded, format, dtype, temporary)
        for path in temporary.iterdir():
            flush(path)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{target} could not be written ({error}); nothing is left of it, free some space or "
            "give another place"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def format_for(config: ModelConfig) -> Format:
    """The format of transformers that holds a model; a ValueError where none does."""
    format = transformers_format(config)
    if format is None:
        raise ValueError(
            "transformers has no class for this model; it knows ChatGLM2 and 3, GLM-4, GLM-4-0414, "
            "GLM-Z1 and GLM-4.5 as they were published; others load there by `import "
            "chatglm.integrations.transformers`"
        )
    return format


def texts(loaded: Loaded, format: Format, dtype: str | None) -> dict[str, str]:
    """The files beside the weights, by name."""
    tokenizer = loaded.tokenizer
    pad = end_of(tokenizer)
    tables: dict[str, object] = {
        "config.json": config_table(
            loaded.config,
            format,
            tensor_dtype(loaded, "embedding.weight", dtype),
            generation=loaded.generation,
            ends=sorted(loaded.defaults.end_ids),
            pad=pad,
        ),
        "generation_config.json": generation_table(loaded, pad),
    }
    found = {}
    if tokenizer is not None:
        found["tokenizer.json"] = tokenizer_json(tokenizer)
        tables["tokenizer_config.json"] = tokenizer_table(loaded, tokenizer)
    return found | {
        name: json.dumps(table, ensure_ascii=False, indent=2) for name, table in tables.items()
    }


def end_of(tokenizer: Tokenizer | None) -> int | None:
    """The id of the end of a text, which pads too."""
    special = tokenizer.special if tokenizer is not None else {}
    return next((special[name] for name in _ENDS if name in special), None)


def config_table(
    config: ModelConfig,
    format: Format,
    dtype: torch.dtype,
    *,
    generation: str,
    ends: Sequence[int],
    pad: int | None,
) -> dict[str, object]:
    """config.json."""
    table: dict[str, object] = {
        "architectures": [_CLASSES[format]],
        "model_type": format,
        "chatglm_generation": generation,
        "attention_bias": config.bias == "qkv",
        "attention_dropout": 0.0,
        "eos_token_id": list(ends) or pad,
        "pad_token_id": pad,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_length,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "partial_rotary_factor": config.rope_fraction,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "vocab_size": config.vocab_size,
    }
    if (scaling := config.rope_scaling) is not None:
        table["rope_scaling"] = scaling_table(scaling, config.max_length)
    if (experts := config.experts) is not None:
        table |= {
            "use_qk_norm": config.qk_norm,
            "n_routed_experts": experts.num_experts,
            "num_experts_per_tok": experts.num_active,
            "n_shared_experts": experts.num_shared,
            "moe_intermediate_size": experts.ffn_size,
            "first_k_dense_replace": experts.first_layer,
            "n_group": experts.num_groups,
            "topk_group": experts.num_active_groups,
            "norm_topk_prob": experts.weights_are_normalized,
            "routed_scaling_factor": experts.scale,
            "num_nextn_predict_layers": 0,
        }
    return table


def scaling_table(scaling: RopeScaling, max_length: int) -> dict[str, object]:
    """`rope_scaling` of a config.json whose max_position_embeddings is the scaled length."""
    original = scaling.original_length or max(int(max_length / scaling.factor), 1)
    table: dict[str, object] = {
        "rope_type": scaling.kind,
        "type": scaling.kind,
        "factor": scaling.factor,
        "original_max_position_embeddings": original,
    }
    if scaling.kind == "yarn":
        table |= {
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "truncate": scaling.truncate,
        }
        if scaling.attention_factor is not None:
            table["attention_factor"] = scaling.attention_factor
    return table


def generation_table(loaded: Loaded, pad: int | None) -> dict[str, object]:
    """generation_config.json."""
    defaults = loaded.defaults
    table: dict[str, object] = {"do_sample": defaults.temperature > 0}
    if defaults.temperature > 0:
        table |= {"temperature": defaults.temperature, "top_p": defaults.top_p}
        if defaults.top_k:
            table["top_k"] = defaults.top_k
    if defaults.repetition_penalty != 1:
        table["repetition_penalty"] = defaults.repetition_penalty
    if defaults.max_new_tokens is not None:
        table["max_new_tokens"] = defaults.max_new_tokens
    ends = sorted(defaults.end_ids)
    return table | {"eos_token_id": ends or pad, "pad_token_id": pad}


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """tokenizer.json, which puts around a text what the official tokenizer object does."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    backend = Backend.from_str(as_backend(tokenizer).to_str())
    template = tokenizer.template
    around = [*template.before_text, *template.after_text]
    if around:
        apart = {i: name for name, i in names_apart(tokenizer.special).items()}
        names = [apart[token] for token in around]
        before = names[: len(template.before_text)]
        after = names[len(template.before_text) :]
        backend.post_processor = TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", "$B", *after],
            special_tokens=list(zip(names, around, strict=True)),
        )
    return str(backend.to_str(pretty=True))


def tokenizer_table(loaded: Loaded, tokenizer: Tokenizer) -> dict[str, object]:
    """tokenizer_config.json."""
    end = end_of(tokenizer)
    name = None if end is None else tokenizer.special_ids[end]
    if is_gguf(loaded.base):
        template = read_header(loaded.base).metadata.get("tokenizer.chat_template")
    else:
        template = chat_template(loaded.generation, loaded.base)
    table: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chatglm_generation": loaded.generation,
        "model_max_length": loaded.config.max_length,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "eos_token": name,
        "pad_token": name,
    }
    if isinstance(template, str):
        table["chat_template"] = template
    return table


def write_shards(loaded: Loaded, format: Format, dtype: str | None, target: Path) -> None:
    """The weights, in files of at most 5 GB."""
    shards = list(in_shards(loaded, format, dtype))
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        name = WHOLE[0]
        if len(shards) > 1:
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for key, place in shard.items():
            kept = tensor_dtype(loaded, place[0], dtype)
            tensors[key] = tensor_at(loaded, format, place).to(kept).clone()
            total += tensors[key].nbytes
        save_file(tensors, target / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (target / INDEX[0]).write_text(json.dumps(index, indent=2), "utf-8")


def in_shards(loaded: Loaded, format: Format, dtype: str | None) -> Iterator[dict[str, Place]]:
    """The tensors' names and places, file by file."""
    shard: dict[str, Place] = {}
    size = 0
    for name, places in places_of(loaded.config, format).items():
        (place,) = places
        count = torch.Size(shape_at(loaded, format, place)).numel()
        num_bytes = count * tensor_dtype(loaded, place[0], dtype).itemsize
        if shard and size + num_bytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = place
        size += num_bytes
    yield shard


def tensor_dtype(loaded: Loaded, ours: str, dtype: str | None) -> torch.dtype:
    """The dtype that a parameter is written in; the router's correction is float32 always."""
    if ours.endswith("router.correction"):
        return torch.float32
    if dtype is not None:
        return DTYPES[dtype]
    if is_gguf(loaded.base):
        plain = {0: torch.float32, 1: torch.float16}
        kind = read_header(loaded.base).metadata.get("general.file_type")
        return plain.get(kind, torch.bfloat16) if isinstance(kind, int) else torch.bfloat16
    entry = with_prefix(entry_of(loaded.format, ours), loaded.name_prefix)
    own = loaded.dtypes.get(entry.theirs[0], torch.bfloat16)
    return own if own.is_floating_point else torch.float16

"""Adapters on disk in PEFT's format, which PEFT, vLLM and `--adapter` read."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from chatglm.adapters.peft import CONFIG, WEIGHTS, Pair
from chatglm.config import ModelConfig


def write_lora(folder: Path, pairs: Mapping[str, Pair], *, base: str, rslora: bool = False) -> Path:
    """Write matrices by the base's module names; ranks and scales may differ from module to
    module.
    """
    tensors = {}
    for module, pair in pairs.items():
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = pair.a
        tensors[f"{name}.lora_B.weight"] = pair.b
        if pair.magnitude is not None:
            tensors[f"{name}.lora_magnitude_vector"] = pair.magnitude
    ranks = {module: pair.a.shape[0] for module, pair in pairs.items()}
    alphas = {
        module: pair.scale * (math.sqrt(ranks[module]) if rslora else ranks[module])
        for module, pair in pairs.items()
    }
    rank, alpha = (Counter(table.values()).most_common(1)[0][0] for table in (ranks, alphas))
    table = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {m: value for m, value in ranks.items() if value != rank},
        "alpha_pattern": {m: value for m, value in alphas.items() if value != alpha},
        "lora_dropout": 0.0,
        "target_modules": sorted({module.rpartition(".")[2] for module in pairs}),
        "use_rslora": rslora,
        "use_dora": any(pair.magnitude is not None for pair in pairs.values()),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "inference_mode": True,
    }
    return write(folder, tensors, table)


def write_prefix(folder: Path, table: Tensor, config: ModelConfig, base: str) -> Path:
    """Write the numbers (N, L·2·G·D) of a learned prefix."""
    settings = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "num_virtual_tokens": table.shape[0],
        "num_layers": config.num_layers,
        "num_attention_heads": config.num_kv_heads,
        "token_dim": config.num_kv_heads * config.head_dim,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": config.hidden_size,
        "prefix_projection": False,
        "inference_mode": True,
    }
    return write(folder, {"prompt_embeddings": table}, settings)


def write_official_prefix(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write a prefix encoder's tensors under their official names, as the official scripts do."""
    named = {f"transformer.prefix_encoder.{name}": tensor for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    put(folder / "model.safetensors", named)
    return folder


def write(folder: Path, tensors: Mapping[str, Tensor], table: Mapping[str, object]) -> Path:
    """Write weights, and then the config that makes a directory an adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    put(folder / WEIGHTS[0], tensors)
    temporary = folder / f".{CONFIG}.part"
    temporary.write_text(json.dumps(table, ensure_ascii=False, indent=2) + "\n", "utf-8")
    os.replace(temporary, folder / CONFIG)
    return folder


def put(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that is never half."""
    temporary = path.with_name(f".{path.name}.part")
    plain = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    try:
        save_file(plain, temporary, metadata={"format": "pt"})
    except Exception as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written ({error}); free some space and give the same command "
            "again with --resume: the checkpoints are whole"
        ) from error
    os.replace(temporary, path)

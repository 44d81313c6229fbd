"""PEFT's adapter directories: adapter_config.json and adapter_model.safetensors or .bin."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from chatglm.errors import CheckpointError

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_ROOT = "base_model.model."
_PART = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?")
_MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?")
_PREFIX = "prompt_embeddings"
# Settings that change what an adapter computes and that this package does not know.
_UNKNOWN = (
    "lora_bias", "layer_replication", "megatron_config", "target_parameters",
    "alora_invocation_tokens", "trainable_token_indices", "arrow_config", "use_qalora",
    "use_bdlora", "kasa_config",
)  # fmt: skip


@dataclass(kw_only=True)
class Pair:
    """The two matrices on one module of the base: a (R, in) and b (out, R); of an embedding
    a (R, V) and b (C, R).

    magnitude: (out,), DoRA's length of each row.
    """

    a: Tensor
    b: Tensor
    scale: float
    is_embedding: bool = False
    magnitude: Tensor | None = None


@dataclass(kw_only=True)
class Adapter:
    """A LoRA adapter by the base's own module names, or a learned prefix.

    saved: whole tensors that replace the base's (`modules_to_save` and trained biases). prefix:
    (N, L·2·G·D), keys and values of P-tuning v2.
    """

    folder: Path
    base: str
    pairs: dict[str, Pair] = field(default_factory=dict)
    saved: dict[str, Tensor] = field(default_factory=dict)
    prefix: Tensor | None = None


def is_adapter(folder: Path) -> bool:
    """Whether a directory holds an adapter in PEFT's format."""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a directory; a CheckpointError where it is damaged or of another kind."""
    table = read_config(folder)
    tensors = read_tensors(folder)
    adapter = Adapter(folder=folder, base=str(table.get("base_model_name_or_path") or ""))
    if table["peft_type"] == "PREFIX_TUNING":
        adapter.prefix = read_prefix(tensors, folder)
        return adapter
    halves: dict[tuple[str, bool], dict[str, Tensor]] = {}
    magnitudes: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix(_ROOT)
        if match := _PART.fullmatch(bare):
            halves.setdefault((match[1], bool(match[2])), {})[match[3]] = tensor
        elif match := _MAGNITUDE.fullmatch(bare):
            magnitudes[match[1]] = tensor.flatten()
        else:
            bare = bare.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
            adapter.saved[bare] = tensor
    for (module, is_embedding), half in halves.items():
        if set(half) != {"A", "B"}:
            other = "B" if "A" in half else "A"
            raise CheckpointError(f"{folder}: {module} lacks lora_{other}; save the adapter again")
        rank = half["A"].shape[0]
        if half["A"].ndim != 2 or half["B"].ndim != 2 or half["B"].shape[1] != rank:
            shapes = [tuple(tensor.shape) for tensor in (half["A"], half["B"])]
            raise CheckpointError(
                f"{folder}: {module} has lora_A {shapes[0]} and lora_B {shapes[1]}; expected "
                "(rank, in) and (out, rank)"
            )
        adapter.pairs[module] = Pair(
            a=half["A"],
            b=half["B"],
            scale=scale_of(table, module, rank),
            is_embedding=is_embedding,
            magnitude=magnitude_of(module, half["B"], magnitudes, table, folder),
        )
    if not adapter.pairs:
        raise CheckpointError(f"{folder} holds no LoRA matrices; is the adapter complete?")
    return adapter


def magnitude_of(
    module: str,
    b: Tensor,
    magnitudes: Mapping[str, Tensor],
    table: Mapping[str, object],
    folder: Path,
) -> Tensor | None:
    """DoRA's length of each row of a module; None in plain LoRA."""
    if not table.get("use_dora"):
        return None
    found = magnitudes.get(module)
    if found is None or found.shape[0] != b.shape[0]:
        raise CheckpointError(
            f"{folder}: use_dora is set and {module} lacks a lora_magnitude_vector of "
            f"{b.shape[0]} rows; save the adapter again"
        )
    return found


def read_prefix(tensors: Mapping[str, Tensor], folder: Path) -> Tensor:
    """The learned prefix (N, L·2·G·D)."""
    found = tensors.get(_PREFIX, tensors.get(f"base_model.{_PREFIX}"))
    if found is None or found.ndim != 2:
        raise CheckpointError(
            f"{folder} holds no {_PREFIX} of (positions, numbers); save the adapter again"
        )
    return found


def read_config(folder: Path) -> dict[str, object]:
    """adapter_config.json, with nothing in it that changes what is computed and is not known."""
    path = folder / CONFIG
    try:
        table = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); save the adapter again") from error
    kind = table.get("peft_type") if isinstance(table, dict) else type(table).__name__
    if kind not in ("LORA", "PREFIX_TUNING"):
        raise CheckpointError(f"{path}: peft_type must be LORA or PREFIX_TUNING, got {kind!r}")
    for key in _UNKNOWN:
        if table.get(key):
            raise CheckpointError(
                f"{path}: {key} is {table[key]!r}, which is not supported; merge the adapter with "
                "the peft it was made with and load the result"
            )
    return table


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter; of a .bin nothing but tensors is read."""
    for name in WEIGHTS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            if path.suffix == ".safetensors":
                return load_file(path)
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or cut off ({error})") from error
        except Exception as error:  # torch raises many kinds for damaged files
            raise CheckpointError(
                f"{path} is damaged, or holds more than tensors; it was not opened"
            ) from error
        if not isinstance(tensors, dict) or not all(
            isinstance(t, Tensor) for t in tensors.values()
        ):
            raise CheckpointError(f"{path} does not hold tensors by name")
        return tensors
    raise CheckpointError(f"{folder} holds no {' or '.join(WEIGHTS)}; copy it beside {CONFIG}")


def scale_of(table: Mapping[str, object], module: str, rank: int) -> float:
    """What b a x is multiplied by: α / R, or α / √R in rank-stabilized LoRA (arXiv:2312.03732)."""
    alpha = table.get("lora_alpha", 8)
    patterns = table.get("alpha_pattern") or {}
    if isinstance(patterns, dict):
        for pattern, value in patterns.items():
            if module == pattern or re.search(rf"(^|\.){pattern}$", module):
                alpha = value
                break
    if not isinstance(alpha, int | float) or rank < 1:
        raise CheckpointError(f"lora_alpha must be a number and the rank at least 1, got {alpha!r}")
    return alpha / math.sqrt(rank) if table.get("use_rslora") else alpha / rank

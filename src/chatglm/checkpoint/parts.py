"""A model's tensors in the names of any format."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.fill import build
from chatglm.checkpoint.names import entry_of
from chatglm.checkpoint.transforms import part_sizes, to_theirs
from chatglm.config import ModelConfig
from chatglm.quantization.official import OfficialLinear, OfficialTiles

if TYPE_CHECKING:
    from chatglm.checkpoint.load import Loaded

# Our parameter, and the place of the file's tensor among those that it joins.
Place = tuple[str, int]
# What stands behind the name of a tensor that is stacked with others.
_INDEX = re.compile(r"\[\d+\]$")


def places_of(config: ModelConfig, format: Format) -> dict[str, list[Place]]:
    """What each of the file's tensors is made of: several, in their order, where it is stacked."""
    places: dict[str, list[Place]] = {}
    for ours in build(config).state_dict():
        for index, name in enumerate(entry_of(format, ours).theirs):
            places.setdefault(_INDEX.sub("", name), []).append((ours, index))
    return places


def shape_at(loaded: Loaded, format: Format, place: Place) -> tuple[int, ...]:
    """Shape of a tensor of the file."""
    ours, index = place
    rows, *columns = shape_of(loaded, ours)
    if entry_of(format, ours).transform == "join":
        rows = part_sizes(rows, loaded.config, ours)[index]
    return rows, *columns


def shape_of(loaded: Loaded, ours: str) -> tuple[int, ...]:
    """Shape of a parameter of ours, packed or not."""
    owner, _, leaf = ours.rpartition(".")
    module = loaded.model.get_submodule(owner)
    shape = tuple(module.state_dict(keep_vars=True)[leaf].shape)
    if isinstance(module, OfficialLinear | OfficialTiles) and leaf == "weight":
        return module.rows, module.columns
    return shape


def tensor_at(loaded: Loaded, format: Format, place: Place) -> Tensor:
    """A tensor of the file in floating point, on the CPU."""
    ours, index = place
    transform = entry_of(format, ours).transform
    tensor = to_theirs(transform, parameter(loaded, ours), loaded.config, ours)[index]
    return tensor.detach().cpu().contiguous()


def parameter(loaded: Loaded, ours: str) -> Tensor:
    """A parameter of the model; what is packed as floating point."""
    owner, _, leaf = ours.rpartition(".")
    module = loaded.model.get_submodule(owner)
    if isinstance(module, OfficialLinear | OfficialTiles) and leaf == "weight":
        return module.dequantized(torch.float32)
    tensor: Tensor = module.state_dict()[leaf]
    return tensor


def transformers_format(config: ModelConfig) -> Format | None:
    """The format of transformers whose network computes this model; None where none does."""
    is_known = (
        config.norm == "rmsnorm"
        and config.residual in ("pre", "sandwich")
        and config.final_norm
        and config.position == "rope"
        and config.context == "causal"
        and config.mlp == "swiglu"
        and config.bias in ("qkv", "none")
        and config.rope_frequency_dtype == "float32"
        and config.rope_pairs == ("half" if config.experts else "interleaved")
        and not (config.experts and config.residual == "sandwich")
        and (config.experts is not None or not config.qk_norm)
    )
    if not is_known:
        return None
    if config.experts:
        return "glm4_moe"
    return "glm4" if config.residual == "sandwich" else "glm"


def refuse_parts(loaded: Loaded) -> None:
    """A ValueError where the model is more, or less, than its weights."""
    if loaded.adapter is not None:
        raise ValueError(f"the adapter {loaded.adapter} must be merged before the export")
    if loaded.prefix is not None:
        raise ValueError(
            f"{loaded.directory} has a learned prefix, which this format does not hold; save it in "
            "its own"
        )
    if loaded.quantize is not None:
        raise ValueError(
            f"the model is quantized to {loaded.quantize}; export the one that it was made from, "
            "loaded without quantize"
        )

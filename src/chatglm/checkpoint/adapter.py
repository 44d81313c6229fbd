"""Put an adapter on a loaded model: its names are those of the base's files."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from chatglm.adapters.lora import LoraEmbedding, LoraLinear, Update
from chatglm.adapters.peft import Adapter, Pair
from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.names import Entry, entry_of
from chatglm.checkpoint.resolve import nearby_base, resolve
from chatglm.checkpoint.transforms import to_ours
from chatglm.config import ModelConfig
from chatglm.errors import CheckpointError
from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.quantization.linear import QuantizedLinear, quantize


def base_of(
    adapter: Adapter,
    base: str | os.PathLike[str] | None,
    *,
    offline: bool | None,
) -> Path:
    """The directory of the weights that an adapter was trained on."""
    if base is not None:
        return resolve(base, offline=offline)
    if not adapter.base:
        raise CheckpointError(f"{adapter.folder} does not name its base; give it as base=")
    found = nearby_base(adapter.folder, adapter.base)
    return found if found is not None else resolve(adapter.base, offline=offline)


def apply(adapter: Adapter, model: Transformer, format: Format, config: ModelConfig) -> None:
    """Put every matrix of the adapter in its place; a CheckpointError that lists those without
    one.
    """
    # GLM's classes differ in what stands before the names, as its files do.
    root = "glm." if format == "glm2021" else ""
    pairs = {name.removeprefix(root): pair for name, pair in adapter.pairs.items()}
    saved = {name.removeprefix(root): tensor for name, tensor in adapter.saved.items()}
    plan = [entry_of(format, name) for name in model.state_dict()]
    for entry in plan:
        override(model, entry, saved, config)
    for entry in plan:
        module_name, _, part = entry.ours.rpartition(".")
        names = [name.removesuffix(".weight") for name in entry.theirs]
        found = {i: pairs.pop(name) for i, name in enumerate(names) if name in pairs}
        if part == "weight" and found:
            module = model.get_submodule(module_name)
            replace_module(model, module_name, adapted(module, entry, found, config, adapter))
    if pairs or saved:
        names = sorted({*pairs, *saved})
        raise CheckpointError(
            f"{adapter.folder} has {len(names)} tensors that the base has no place for: "
            f"{', '.join(names)}; was it trained on another base?"
        )


def adapted(
    module: nn.Module, entry: Entry, found: dict[int, Pair], config: ModelConfig, adapter: Adapter
) -> nn.Module:
    """The module with the updates of its parts; shapes are checked."""
    rows, columns = shape_of(module)
    sizes = rows_of_parts(entry, rows, config)
    device = next(iter(module.state_dict().values())).device
    updates = []
    for index, pair in found.items():
        if pair.is_embedding:
            expected = (pair.a.shape[0], rows), (columns, pair.a.shape[0])
        else:
            expected = (pair.a.shape[0], columns), (sizes[index], pair.a.shape[0])
        if (tuple(pair.a.shape), tuple(pair.b.shape)) != expected:
            raise CheckpointError(
                f"{adapter.folder}: the matrices of {entry.theirs[index]} are "
                f"{tuple(pair.a.shape)} and {tuple(pair.b.shape)}, the base needs {expected[0]} "
                f"and {expected[1]}; was it trained on another base?"
            )
        b, magnitude = pair.b, pair.magnitude
        if entry.transform == "heads":
            b = to_ours("heads", [b], config)
            magnitude = None if magnitude is None else to_ours("heads", [magnitude], config)
        update = Update(
            start=sum(sizes[:index]),
            a=pair.a.to(device),
            b=b.to(device),
            scale=pair.scale,
            magnitude=None if magnitude is None else magnitude.to(device),
        )
        if pair.is_embedding:
            return LoraEmbedding(module, update)
        updates.append(update)
    return LoraLinear(module, updates)


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Rows and columns of a linear or embedding, whatever its weight is packed into."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows, columns = (getattr(module, n, weight.shape[i]) for i, n in enumerate(("rows", "columns")))
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    return rows, columns


def rows_of_parts(entry: Entry, rows: int, config: ModelConfig) -> list[int]:
    """Rows of each of the file's tensors in the joined parameter."""
    if len(entry.theirs) == 3:
        keys = config.num_kv_heads * config.head_dim
        return [config.num_heads * config.head_dim, keys, keys]
    return [rows // len(entry.theirs)] * len(entry.theirs)


@torch.no_grad()
def override(
    model: Transformer, entry: Entry, saved: dict[str, Tensor], config: ModelConfig
) -> None:
    """Put whole tensors of the adapter over those of the base; a weight in few bits is quantized
    again where all of it is given.
    """
    names = [name for name in entry.theirs if name in saved]
    if not names:
        return
    module, _, part = entry.ours.rpartition(".")
    owner, is_packed = model.get_submodule(module), False
    ours = model.state_dict(keep_vars=True)[entry.ours]
    if isinstance(owner, QuantizedLinear) and part == "weight" and len(names) == len(entry.theirs):
        ours, is_packed = torch.empty(owner.rows, owner.columns, device=ours.device), True
    sizes = rows_of_parts(entry, ours.shape[0], config)
    start = 0
    for name, size in zip(entry.theirs, sizes, strict=True):
        if name in saved:
            tensor = to_ours(
                entry.transform if len(sizes) == 1 else "same", [saved.pop(name)], config
            )
            target = ours[start : start + size]
            if not ours.is_floating_point():
                raise CheckpointError(
                    f"the adapter replaces {name}, which is in {ours.dtype} here; load its base "
                    "without quantize"
                )
            if tensor.shape != target.shape:
                raise CheckpointError(
                    f"the adapter's {name} is {tuple(tensor.shape)}, the base needs "
                    f"{tuple(target.shape)}; was it trained on another base?"
                )
            target.copy_(tensor)
        start += size
    if is_packed:
        assert isinstance(owner, QuantizedLinear)
        quantize_again(owner, ours)


def quantize_again(linear: QuantizedLinear, weight: Tensor) -> None:
    """Let a linear or table hold another weight (rows, columns), in the bits that it has."""
    symmetric = linear.weight_zero is None
    packed = quantize(weight, linear.bits, linear.group, symmetric=symmetric)
    for kept, new in zip(linear.packed, packed, strict=True):
        if kept is not None and new is not None:
            kept.copy_(new)

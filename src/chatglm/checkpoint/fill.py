"""The network of a config, filled with the tensors of a directory one by one; every tensor is
accounted for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chatglm.checkpoint.checks import check_names, check_shapes
from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.names import Entry, entry_of
from chatglm.checkpoint.read import Tensors
from chatglm.checkpoint.transforms import to_ours
from chatglm.config import ModelConfig
from chatglm.errors import CheckpointError
from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.quantization.calibrate import Calibration
from chatglm.quantization.cuda import on_cuda
from chatglm.quantization.kinds import narrowed, schemes_of
from chatglm.quantization.native import best_level
from chatglm.quantization.official import OfficialEmbedding, OfficialLinear, in_tiles
from chatglm.quantization.scheme import Kind, Scheme
from chatglm.quantization.stored import StoredWeight

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# On a CPU, `auto` computes in float32 what needs no more than this share of the memory there is.
_SMALL_SHARE = 0.2
# Of ChatGLM's own quantized files, `auto` computes those of more weights by the native kernels, and
# smaller ones as the official code does.
_MOST_EXACT = 1 << 28


class Uninitialized(TorchFunctionMode):
    """Leaves `torch.nn.init` out: on `meta` there is nothing to fill, and it imports
    for a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """What `func` gives; the tensor as it is where `func` would initialize it."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


def build(config: ModelConfig) -> Transformer:
    """The network on `meta`: shapes and no numbers."""
    try:
        with torch.device("meta"), Uninitialized():
            return Transformer(config)
    except RuntimeError as error:
        raise CheckpointError(
            f"config.json asks for a tensor larger than any memory: hidden_size "
            f"{config.hidden_size}, ffn_size {config.ffn_size}, head_dim {config.head_dim}"
        ) from error


def fill(
    files: Tensors,
    format: Format,
    config: ModelConfig,
    name_prefix: str,
    dtype: str,
    device: torch.device,
    quantize: Kind | None,
    *,
    stored: Kind | None = None,
    calibration: Calibration | None = None,
) -> tuple[Transformer, dict[str, torch.dtype]]:
    """The network with the files' tensors in it, and the dtype that each of those had; the peak is
    one tensor more, with a calibration one layer.

    stored: the kind in which the files' linears are quantized in our own layout.
    """
    model = build(config)
    if stored is not None:
        for name, scheme in schemes_of(model, stored).items():
            replace_module(model, name, StoredWeight(model.get_submodule(name), scheme))
    quantize_in_place(model, files, format, config, name_prefix)
    plan = [with_prefix(entry_of(format, name), name_prefix) for name in model.state_dict()]
    check_names(files, plan, format, config)
    check_shapes(files, plan, model)
    wanted = choose_dtype(files, plan, dtype, device)
    if quantize is not None:
        refuse_quantized(model, files.folder)
    schemes = {} if quantize is None else schemes_of(model, quantize)
    put = Put(model, schemes, device, wanted, stream_dtype(files, plan, wanted), calibration)
    if isinstance(model.embedding, OfficialEmbedding):
        model.embedding.dtype = put.stream
    put.tiles_official = dtype == "auto" and device.type == "cpu" and is_for_kernels(model)
    empty = model.state_dict()
    dtypes: dict[str, torch.dtype] = {}
    for layer, entries in groupby(plan, key=layer_of):
        for entry in entries:
            read = [files.read(name) for name in entry.theirs]
            dtypes |= {name: part.dtype for name, part in zip(entry.theirs, read, strict=True)}
            home = f"{files.homes[entry.theirs[0]]}: {entry.theirs[0]}"
            if empty[entry.ours].is_floating_point() and not read[0].is_floating_point():
                raise CheckpointError(
                    f"{home} is {read[0].dtype}, expected floating point; a quantized tensor needs "
                    "its weight_scale beside it"
                )
            try:
                put(entry.ours, to_ours(entry.transform, read, config))
            except ValueError as error:
                raise CheckpointError(f"{home}: {error}; make it again") from error
        if calibration is not None and layer is not None:
            calibration.quantize_layer(model, layer)
    return model, dtypes


@dataclass
class Put:
    """Puts each tensor where it belongs, quantized as soon as that can be done.

    wanted: the dtype of floating-point tensors, None for that of each. stream: of hidden states.
    """

    model: Transformer
    schemes: Mapping[str, Scheme]
    device: torch.device
    wanted: torch.dtype | None
    stream: torch.dtype
    calibration: Calibration | None
    tiles_official: bool = False

    def __call__(self, name: str, tensor: Tensor) -> None:
        """Take a tensor of the network by its name."""
        parent, _, part = name.rpartition(".")
        module = self.model.get_submodule(parent)
        is_stored = isinstance(module, StoredWeight)
        # A calibration quantizes the linears of a layer when all of it is there.
        is_later = self.calibration is not None and name.startswith("layers.")
        if parent in self.schemes and part == "weight" and not is_later:
            new = narrowed(module, tensor.to(self.device), self.schemes[parent], self.stream)
            replace_module(self.model, parent, new)
            return
        keep = not tensor.is_floating_point() or part == "correction"
        official = module if isinstance(module, OfficialLinear) and self.tiles_official else None
        keep = keep or ((is_stored or official is not None) and part != "bias")
        kept = tensor.dtype if keep else self.wanted or tensor.dtype
        place(self.model, name, tensor.to(device=self.device, dtype=kept))
        if isinstance(module, StoredWeight) and module.is_whole():
            replace_module(self.model, parent, on_cuda(module.in_tiles(self.stream)))
        if official and official.is_whole() and official.weight_scale.dtype == torch.float16:
            replace_module(self.model, parent, in_tiles(official))


def layer_of(entry: Entry) -> int | None:
    """The number of the layer that a parameter is part of."""
    first, _, rest = entry.ours.partition(".")
    return int(rest.partition(".")[0]) if first == "layers" else None


def is_for_kernels(model: Transformer) -> bool:
    """Whether the native kernels are there and ChatGLM's own quantized linears are large."""
    sizes = [m.rows * m.columns for m in model.modules() if isinstance(m, OfficialLinear)]
    return sum(sizes) > _MOST_EXACT and best_level() >= 0


def refuse_quantized(model: Transformer, folder: Path) -> None:
    """A ValueError where the files hold quantized linears already."""
    if any(isinstance(module, OfficialLinear | StoredWeight) for module in model.modules()):
        raise ValueError(f"{folder} is quantized already; leave quantize out")


def with_prefix(entry: Entry, prefix: str) -> Entry:
    """The entry with what stands before every name of the file."""
    return replace(entry, theirs=tuple(prefix + name for name in entry.theirs)) if prefix else entry


def place(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor where a parameter or buffer of that name is."""
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        trains = tensor.is_floating_point() and leaf != "correction"
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=trains)


def choose_dtype(
    files: Tensors,
    plan: Sequence[Entry],
    dtype: str,
    device: torch.device,
) -> torch.dtype | None:
    """The dtype of floating-point tensors; None keeps the files', which is one for all then."""
    if dtype != "auto":
        return DTYPES[dtype]
    needed = [name for entry in plan for name in entry.theirs]
    if device.type == "cpu" and is_small(files, needed):
        return torch.float32
    counts: Counter[torch.dtype] = Counter()
    for name in needed:
        is_scale = name.endswith(".weight_scale")
        if (found := files.dtype(name)).is_floating_point and not is_scale:
            counts[found] += size_of(files.shape(name))
    return counts.most_common(1)[0][0] if len(counts) > 1 else None


def stream_dtype(files: Tensors, plan: Sequence[Entry], wanted: torch.dtype | None) -> torch.dtype:
    """The dtype of hidden states: the norms', which no quantization touches."""
    norm = next(entry for entry in plan if ".norm1." in entry.ours)
    return wanted or files.dtype(norm.theirs[0])


def is_small(files: Tensors, names: Iterable[str] | None = None) -> bool:
    """Whether the tensors, all of them unless named, take little of the memory in float32."""
    count = sum(size_of(files.shape(name)) for name in (files if names is None else names))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 4 * count <= _SMALL_SHARE * memory


def size_of(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape."""
    count = 1
    for side in shape:
        count *= side
    return count


def quantize_in_place(
    model: Transformer, files: Tensors, format: Format, config: ModelConfig, name_prefix: str
) -> None:
    """Where the files hold a `weight_scale`, put ChatGLM's own quantized module."""
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        entry = with_prefix(entry_of(format, f"{name}.weight"), name_prefix)
        scale = entry.theirs[0].removesuffix("weight") + "weight_scale"
        if scale not in files or entry.theirs[0] not in files:
            continue
        rows, columns = module.weight.shape
        packed = files.shape(entry.theirs[0])
        if len(packed) != 2 or packed[0] != rows or packed[1] not in (columns, columns // 2):
            raise CheckpointError(
                f"{entry.theirs[0]} has the shape {packed}; quantized rows for ({rows}, "
                f"{columns}) have "
                f"{columns} or {columns // 2} bytes"
            )
        with torch.device("meta"):
            weight = torch.empty(packed, dtype=torch.int8)
            scales = torch.empty(rows)
            replace_module(
                model,
                name,
                OfficialEmbedding(weight, scales, columns, torch.float32)
                if isinstance(module, nn.Embedding)
                else OfficialLinear(weight, scales, module.bias is not None, columns),
            )

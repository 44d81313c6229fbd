"""From a model directory to a network: built on `meta`, filled tensor by tensor, every tensor
accounted for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from chatglm.adapters.prefix import learned_prefix
from chatglm.checkpoint.checks import check_names, check_shapes, check_size
from chatglm.checkpoint.configs import Defaults, Format, Layout, RopeRatio, read_published
from chatglm.checkpoint.names import Entry, entry_of
from chatglm.checkpoint.read import TensorFiles, read_json
from chatglm.checkpoint.resolve import nearby_base, resolve
from chatglm.checkpoint.transforms import to_ours
from chatglm.config import ModelConfig
from chatglm.errors import CheckpointError
from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.quantization.linear import KINDS, bits_of, quantized
from chatglm.quantization.official import OfficialEmbedding, OfficialLinear
from chatglm.tokenizer import Tokenizer, load_tokenizer

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# On a CPU, `auto` computes in float32 what needs no more than this share of the memory there is.
_SMALL_SHARE = 0.2


@dataclass(kw_only=True)
class Loaded:
    """A model with all that its directory says."""

    model: Transformer
    tokenizer: Tokenizer | None
    config: ModelConfig
    format: Format
    generation: str
    defaults: Defaults
    layout: Layout
    directory: Path
    base: Path
    name_prefix: str = ""
    prefix: Tensor | None = None
    quantize: str | None = None
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    offline: bool | None = None,
    base: str | os.PathLike[str] | None = None,
    rope_ratio: RopeRatio | None = None,
    quantize: str | None = None,
) -> Loaded:
    """The model at `source`: None (embedded), a directory, or a hub id.

    dtype: `auto` keeps the file's, but computes in float32 on a CPU where that fits easily. base:
        where the weights lie of which `source` holds a learned prefix only. rope_ratio: see
        `read_published`. quantize: `int8` or `int4` quantizes each linear as it is read, so that
        the whole model never exists in more bits.
    """
    if quantize is not None and quantize not in KINDS:
        raise ValueError(f"quantize must be one of {', '.join(KINDS)} or None, got {quantize!r}")
    if dtype != "auto" and dtype not in _DTYPES:
        raise ValueError(f"dtype must be auto or one of {', '.join(_DTYPES)}, got {dtype!r}")
    folder = resolve(source, revision=revision, offline=offline)
    table = read_json(folder / "config.json", required=True)
    published = read_published(
        table, read_json(folder / "generation_config.json"), rope_ratio=rope_ratio
    )
    files = TensorFiles(folder)
    home = folder
    encoder = prefix_tensors(files)
    if encoder and len(encoder) == len(list(files)):
        home = find_base(folder, table, base)
        files = TensorFiles(home)
    target = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )
    names = set(files)
    config, name_prefix = settle(published.config, published.format, names)
    check_size(files, config)
    model, dtypes = fill(files, published.format, config, name_prefix, dtype, target, quantize)
    prefix = learned_prefix(encoder, config).float().to(target) if encoder else None
    files.close()
    tokenizer = find_tokenizer(folder, home)
    return Loaded(
        model=model.eval(),
        tokenizer=tokenizer,
        config=config,
        format=published.format,
        generation=generation_of(published.format, table, tokenizer),
        defaults=with_ends(published.defaults, tokenizer),
        layout=with_tokens(published.layout, tokenizer),
        directory=folder,
        base=home,
        name_prefix=name_prefix,
        prefix=prefix,
        quantize=quantize,
        dtypes=dtypes,
        notes=published.notes,
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
    files: TensorFiles,
    format: Format,
    config: ModelConfig,
    name_prefix: str,
    dtype: str,
    device: torch.device,
    quantize: str | None,
) -> tuple[Transformer, dict[str, torch.dtype]]:
    """The network with the files' tensors in it, and the dtype that each had; the peak is one
    tensor more.
    """
    model = build(config)
    quantize_in_place(model, files, format, config, name_prefix)
    plan = [with_prefix(entry_of(format, name), name_prefix) for name in model.state_dict()]
    check_names(files, plan, format, config)
    check_shapes(files, plan, model)
    wanted = choose_dtype(files, plan, dtype, device, quantize)
    linears = linears_of(model, files.folder) if quantize is not None else {}
    empty = model.state_dict()
    dtypes: dict[str, torch.dtype] = {}
    for entry in plan:
        read = [files.read(name) for name in entry.theirs]
        dtypes[entry.ours] = read[0].dtype
        if empty[entry.ours].is_floating_point() and not read[0].is_floating_point():
            raise CheckpointError(
                f"{files.homes[entry.theirs[0]]}: {entry.theirs[0]} is {read[0].dtype}, expected "
                "floating point; a quantized tensor needs its weight_scale beside it"
            )
        tensor = to_ours(entry.transform, read, config)
        linear, _, part = entry.ours.rpartition(".")
        if quantize is not None and part == "weight" and linear in linears:
            bits = bits_of(linear, quantize)
            new = quantized(tensor.to(device), bits, bias=linears[linear].bias is not None)
            replace_module(model, linear, new)
        else:
            keep = not tensor.is_floating_point() or entry.ours.endswith("router.correction")
            kept = tensor.dtype if keep else wanted or tensor.dtype
            place(model, entry.ours, tensor.to(device=device, dtype=kept))
    return model, dtypes


def linears_of(model: Transformer, folder: Path) -> dict[str, nn.Linear]:
    """The linears by name; a ValueError where the files hold quantized ones already."""
    if any(isinstance(module, OfficialLinear) for module in model.modules()):
        raise ValueError(f"{folder} is quantized already; leave quantize out")
    return {n: module for n, module in model.named_modules() if isinstance(module, nn.Linear)}


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
    files: TensorFiles,
    plan: Sequence[Entry],
    dtype: str,
    device: torch.device,
    quantize: str | None,
) -> torch.dtype | None:
    """The dtype of floating-point tensors; None keeps the files'."""
    if dtype != "auto":
        return _DTYPES[dtype]
    if device.type != "cpu":
        return None
    count = sum(size_of(files.shape(name)) for entry in plan for name in entry.theirs)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return torch.float32 if 4 * count <= _SMALL_SHARE * memory else None


def size_of(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape."""
    count = 1
    for side in shape:
        count *= side
    return count


def quantize_in_place(
    model: Transformer, files: TensorFiles, format: Format, config: ModelConfig, name_prefix: str
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

"""Save a model in the format it was read from: the same tensors give the same bytes, other files
come along.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from chatglm.checkpoint.fill import with_prefix
from chatglm.checkpoint.gguf.header import is_gguf, read_header
from chatglm.checkpoint.load import Loaded
from chatglm.checkpoint.names import entry_of
from chatglm.checkpoint.quantized import write_kind
from chatglm.checkpoint.read import INDEX, WHOLE, TensorFiles
from chatglm.checkpoint.transforms import to_theirs
from chatglm.quantization.linear import QuantizedLinear
from chatglm.quantization.scheme import INTEGER_KINDS
from chatglm.quantization.stored import stored_part


def save(loaded: Loaded, directory: str | os.PathLike[str]) -> Path:
    """Write the model to `directory`, which must not hold another one; returns it.

    Tensors go back into the file's own names, layout, dtypes and shards; weights are written as
    safetensors, also where they came as .bin. An adapter is copied as it is; a learned prefix that
    lay apart from its base is written into one directory with it. Everything is written beside the
    directory first and moved in one step. A model from a GGUF file gives one in the directory, of
    the same type.
    """
    target = Path(directory)
    if is_gguf(loaded.base):
        return save_gguf(loaded, target)
    is_adapter = loaded.adapter is not None
    if loaded.kind is not None and not is_adapter:
        check_quantized(loaded)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; give a new directory")
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        if not is_adapter:
            copy_files(loaded.base, temporary, weights=False)
            write_shards(loaded, temporary)
            if loaded.kind is not None:
                write_kind(temporary, loaded.kind)
        if loaded.directory != loaded.base:
            copy_files(loaded.directory, temporary, weights=is_adapter)
        for path in temporary.rglob("*"):
            flush(path)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"{target} could not be written ({error}); nothing is left of it, free some space or "
            "give another place"
        ) from error
    return target


def check_quantized(loaded: Loaded) -> None:
    """A ValueError where quantized linears have no form in a file."""
    if loaded.quantize not in INTEGER_KINDS:
        raise ValueError(
            f"a model quantized to {loaded.quantize} has no form in a file; load it without "
            f"quantize and save that, or quantize it to one of {', '.join(INTEGER_KINDS)}"
        )
    device = loaded.model.embedding.weight.device
    if device.type != "cpu":
        raise ValueError(f"quantized weights on {device} are not saved; load the model on the CPU")


def save_gguf(loaded: Loaded, target: Path) -> Path:
    """The directory with a GGUF file of the name and type of the one that was read."""
    from chatglm.checkpoint.gguf.export import TYPES, export_gguf

    number = read_header(loaded.base).metadata.get("general.file_type")
    kinds = [kind for kind, (_, known) in TYPES.items() if known == number]
    if not kinds:
        raise ValueError(
            f"{loaded.base} has a type that is not written (general.file_type {number}); use "
            "`chatglm export` with a --type"
        )
    export_gguf(loaded, target / loaded.base.name, kind=kinds[0])
    return target


def copy_files(source: Path, target: Path, *, weights: bool) -> None:
    """Copy what a model directory holds, folders too, and the weights on request; links to folders
    are left out, since they may lead anywhere.
    """
    for path in source.iterdir():
        is_weights = path.suffix in (".safetensors", ".bin") or path.name in INDEX
        if path.is_dir() and not path.is_symlink():
            (target / path.name).mkdir(exist_ok=True)
            copy_files(path, target / path.name, weights=True)
        elif path.is_file() and (weights or not is_weights):
            shutil.copyfile(path, target / path.name)


def write_shards(loaded: Loaded, target: Path) -> None:
    """Write the tensors shard by shard, in the shards that they were read from."""
    files = TensorFiles(loaded.base)
    shards: dict[str, list[str]] = {}
    for name, home in files.homes.items():
        shards.setdefault(home.name, []).append(name)
    ours: dict[str, Callable[[], Tensor]] = dict(their_tensors(loaded, files))
    for name in ours:  # scales of what was quantized while loading go beside their weights
        if name not in files:
            home = files.homes[f"{name.rpartition('.')[0]}.weight"]
            shards[home.name].append(name)
    if loaded.directory != loaded.base:  # a learned prefix goes into the last shard
        learned = TensorFiles(loaded.directory)
        ours |= {name: partial(learned.read, name) for name in learned}
        list(shards.values())[-1].extend(name for name in learned if name not in files)
    weight_map: dict[str, str] = {}
    total = 0
    for file, names in shards.items():
        new = file.removesuffix(".bin").replace("pytorch_model", "model")
        new = new if new.endswith(".safetensors") else f"{new}.safetensors"
        tensors = {}
        for name in names:
            # What is not part of the network (frequencies, further layers) is copied as it is.
            read = ours.get(name, partial(files.read, name))
            tensors[name] = read().contiguous()
            total += tensors[name].nbytes
        save_file(tensors, target / new, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, new)
    if len(shards) > 1 or not set(shards) <= set(WHOLE):
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (target / INDEX[0]).write_text(json.dumps(index, indent=2), "utf-8")


def their_tensors(loaded: Loaded, files: TensorFiles) -> Iterator[tuple[str, Lazy]]:
    """The file's tensors of the network by name, each made when it is asked for."""
    for ours in loaded.model.state_dict(keep_vars=True):
        entry = with_prefix(entry_of(loaded.format, ours), loaded.name_prefix)
        for index, name in enumerate(entry.theirs):
            yield name, Lazy(loaded, files, ours, index, name)


class Lazy:
    """One tensor of the file, made from the network's parameter when called."""

    def __init__(
        self, loaded: Loaded, files: TensorFiles, ours: str, index: int, name: str
    ) -> None:
        self.loaded, self.files = loaded, files
        self.ours, self.index, self.name = ours, index, name

    def __call__(self) -> Tensor:
        linear, _, part_of_it = self.ours.rpartition(".")
        module = self.loaded.model.get_submodule(linear)
        if isinstance(module, QuantizedLinear):
            tensor = stored_part(module, part_of_it).cpu()
        else:
            tensor = module.state_dict()[part_of_it].detach().cpu()
        transform = entry_of(self.loaded.format, self.ours).transform
        part = to_theirs(transform, tensor, self.loaded.config, self.ours)[self.index]
        if isinstance(module, QuantizedLinear) and part_of_it != "bias":
            return part
        kept = self.loaded.dtypes.get(self.name, part.dtype)
        if kept.itemsize > part.dtype.itemsize and self.name in self.files:
            # Computed with in fewer bits than the file has: what nobody changed is written whole.
            original = self.files.read(self.name)
            if original.shape == part.shape and torch.equal(original.to(part.dtype), part):
                return original
        return part.to(kept, copy=True)


def flush(path: Path) -> None:
    """Ask the operating system to put a file on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

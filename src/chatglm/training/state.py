"""A run on disk: checkpoints that a kill at any moment cannot spoil.

`checkpoints/step-000123/` holds `model.safetensors`, `optimizer.safetensors`, `state.json` and,
written last, `manifest.json` with the size and SHA-256 of each. The directory is written under
another name, flushed and renamed; `checkpoints/latest` is a text file with the newest name. No
pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chatglm.parallel.group import whole

MANIFEST = "manifest.json"


def save_state(
    directory: Path,
    *,
    step: int,
    model: nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, object],
    keep: int,
    trained_only: bool = False,
    protect: str = "",
    writes: bool = True,
) -> Path:
    """Write the checkpoint of `step` below `directory`; the `keep` newest stay.

    trained_only: leave out what is not trained and so found in the base. protect: the name of one
    more checkpoint that stays. writes: False in a process that only gives its part of the tensors.
    """
    folder = directory / "checkpoints"
    name = f"step-{step:06d}"
    target, temporary = folder / name, folder / f".{name}.part"
    tensors = dict(unique_tensors(model, trained_only=trained_only))
    packed = pack_optimizers(model, optimizers)
    if not writes:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file(tensors, temporary / "model.safetensors")
        save_file(packed, temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps({**state, "step": step}), "utf-8")
        manifest = {
            file.name: {"size": file.stat().st_size, "sha256": digest(file)}
            for file in sorted(temporary.iterdir())
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        for file in temporary.iterdir():
            flush(file)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"checkpoint {target} could not be written ({error}); free some space and resume: "
            "the older checkpoints are whole"
        ) from error
    flush(temporary)
    discard(target)
    temporary.rename(target)
    flush(folder)
    write_text_safely(folder / "latest", name)
    kept = checkpoints(directory)[-keep:]
    for path in (*folder.glob("step-*"), *folder.glob(".step-*.part")):
        if path not in kept and path.name != protect:
            discard(path)
    return target


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint, its manifest first, so that a kill on the way leaves nothing that looks
    like one.
    """
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def unique_tensors(model: nn.Module, *, trained_only: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, or the trained parameters alone; sharded ones whole."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for name, tensor in model.state_dict().items():
        if name in trained or not trained_only:
            yield name, whole(tensor).detach().contiguous()


def piece_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's piece of a whole tensor, where `like` is in pieces."""
    if not hasattr(like, "full_tensor"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def pack_optimizers(
    model: nn.Module, optimizers: dict[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Optimizer state as named tensors, `optimizer|parameter|key`."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{kind}|{names[id(p)]}|{key}": whole(torch.as_tensor(value)).contiguous()
        for kind, optimizer in optimizers.items()
        for p, entry in optimizer.state.items()
        for key, value in entry.items()
    }


def unpack_optimizers(
    tensors: dict[str, Tensor], model: nn.Module, optimizers: dict[str, torch.optim.Optimizer]
) -> None:
    """Put packed state back; parameters that this run does not train are left out."""
    parameters = dict(model.named_parameters())
    owned = {
        kind: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for kind, optimizer in optimizers.items()
    }
    for label, tensor in tensors.items():
        kind, name, key = label.split("|")
        parameter = parameters.get(name)
        if parameter is not None and id(parameter) in owned.get(kind, ()):
            placed = tensor.to(parameter.device)
            if placed.shape == parameter.shape:
                placed = piece_of(placed, parameter)
            optimizers[kind].state[parameter][key] = placed


def load_state(
    checkpoint: Path, *, model: nn.Module, optimizers: dict[str, torch.optim.Optimizer]
) -> dict[str, object]:
    """Fill model and optimizers from a checkpoint directory; returns its `state.json`."""
    load_weights(checkpoint, model)
    unpack_optimizers(load_file(checkpoint / "optimizer.safetensors"), model, optimizers)
    state = json.loads((checkpoint / "state.json").read_text("utf-8"))
    assert isinstance(state, dict)
    return state


@torch.no_grad()
def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Fill a model from a checkpoint, which holds all of it or what is trained of it."""
    tensors = load_file(checkpoint / "model.safetensors")
    own = model.state_dict(keep_vars=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if set(tensors) not in (set(own), trained):
        odd = sorted(set(tensors) ^ trained)[0]
        raise ValueError(
            f"{checkpoint} was made with other trained parameters (e.g. {odd}); give the same "
            "method and settings, or start in a new output directory"
        )
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise ValueError(
                f"{checkpoint}: {name} is {tuple(tensor.shape)}, and this run needs "
                f"{tuple(own[name].shape)}; give the same settings, or start in a new output "
                "directory"
            )
        own[name].copy_(piece_of(tensor, own[name]))


def checkpoints(directory: Path) -> list[Path]:
    """Finished checkpoint directories of a run, oldest first."""
    return sorted(
        path for path in (directory / "checkpoints").glob("step-*") if (path / MANIFEST).is_file()
    )


def newest(directory: Path) -> Path | None:
    """The newest checkpoint whose files have the sizes and hashes of its manifest; None: start
    anew.
    """
    return next((path for path in reversed(checkpoints(directory)) if is_whole(path)), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is as the manifest says."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text("utf-8"))
        return bool(manifest) and all(
            (checkpoint / name).stat().st_size == entry["size"]
            and digest(checkpoint / name) == entry["sha256"]
            for name, entry in manifest.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Ask the operating system to put a file or directory on the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_safely(path: Path, text: str) -> None:
    """Replace a small text file in one move."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, "utf-8")
    flush(temporary)
    temporary.replace(path)

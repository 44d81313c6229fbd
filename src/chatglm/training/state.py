"""A run on disk: checkpoints that a kill at any moment cannot spoil.

`checkpoints/step-000123/` holds `model.safetensors`, `optimizer.safetensors`, `state.json` and,
written last, `manifest.json` with the size and SHA-256 of each. Where processes hold the network in
pieces, each writes its own: `model-00001-of-00004.safetensors`. The directory is written under
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
from safetensors.torch import save_file
from torch import Tensor, nn

from chatglm.parallel import Group
from chatglm.parallel.group import is_sharded
from chatglm.parallel.pieces import Pieces, held_pieces, whole_shape
from chatglm.parallel.tensor import Split, splits_of
from chatglm.training import eightbit

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
    group: Group | None = None,
) -> Path:
    """Write the checkpoint of `step` below `directory`; the `keep` newest stay.

    trained_only: leave out what is not trained and so found in the base. protect: the name of one
    more checkpoint that stays. group: processes that all call this together, on a directory that
    all of them see.
    """
    group = group or Group()
    folder = directory / "checkpoints"
    name = f"step-{step:06d}"
    target, temporary = folder / name, folder / f".{name}.part"
    if not (group.is_first or is_in_pieces(model)):
        return target
    try:
        write_all(
            temporary, model, optimizers, {**state, "step": step}, group, trained_only=trained_only
        )
    except (OSError, SafetensorError) as error:
        if group.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"checkpoint {target} could not be written ({error}); free some space and resume: "
            "the older checkpoints are whole"
        ) from error
    if group.is_first:
        put_in_place(directory, temporary, target, keep=keep, protect=protect)
    return target


def is_in_pieces(model: nn.Module) -> bool:
    """Whether this process holds but a part of the network."""
    return bool(splits_of(model)) or any(is_sharded(p) for p in model.parameters())


def write_all(
    folder: Path,
    model: nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    state: dict[str, object],
    group: Group,
    *,
    trained_only: bool,
) -> None:
    """Write the files of a checkpoint; an error in one process is one in all that write."""
    if group.is_first:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    in_pieces = is_in_pieces(model)
    part = ""
    if in_pieces:
        part = f"-{group.rank + 1:05d}-of-{group.size:05d}"
        group.wait()
    failure: Exception | None = None
    try:
        write_tensors(folder, part, model, optimizers, group, trained_only=trained_only)
        if group.is_first:
            (folder / "state.json").write_text(json.dumps(state), "utf-8")
    except (OSError, SafetensorError) as error:
        failure = error
    if in_pieces and group.largest(int(failure is not None)):
        failure = failure or OSError("another process could not write its pieces")
    if failure is not None:
        raise failure
    if group.is_first:
        write_manifest(folder)


def write_tensors(
    folder: Path,
    part: str,
    model: nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    group: Group,
    *,
    trained_only: bool,
) -> None:
    """Write what this process holds of the weights and the optimizers, with sizes and hashes."""
    splits = splits_of(model)
    weights = (
        (name, tensor, splits.get(name))
        for name, tensor in named_tensors(model, trained_only=trained_only)
    )
    contents = {"model": weights, "optimizer": optimizer_tensors(model, optimizers, splits)}
    files = {f"{what}{part}.safetensors": held_pieces(t, group) for what, t in contents.items()}
    for name, pieces in files.items():
        save_file(pieces, folder / name)
        flush(folder / name)
    entries = {name: entry_of(folder / name) for name in files}
    if part:
        (folder / f"manifest{part}.json").write_text(json.dumps(entries), "utf-8")
        flush(folder / f"manifest{part}.json")


def write_manifest(folder: Path) -> None:
    """Write, as the last file, the sizes and hashes of all; those that processes have told of
    their own are taken over.
    """
    manifest: dict[str, object] = {}
    for told in sorted(folder.glob("manifest-*.json")):
        manifest |= json.loads(told.read_text("utf-8"))
        told.unlink()
    for file in sorted(folder.iterdir()):
        if file.name not in manifest:
            manifest[file.name] = entry_of(file)
            flush(file)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), "utf-8")
    flush(folder / MANIFEST)
    flush(folder)


def entry_of(file: Path) -> dict[str, object]:
    """What the manifest says of a file."""
    return {"size": file.stat().st_size, "sha256": digest(file)}


def put_in_place(
    directory: Path, temporary: Path, target: Path, *, keep: int, protect: str
) -> None:
    """Give a finished checkpoint its name, and delete those that need not stay."""
    folder = target.parent
    discard(target)
    temporary.rename(target)
    flush(folder)
    write_text_safely(folder / "latest", target.name)
    kept = checkpoints(directory)[-keep:]
    for path in (*folder.glob("step-*"), *folder.glob(".step-*.part")):
        if path not in kept and path.name != protect:
            discard(path)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint, its manifest first, so that a kill on the way leaves nothing that looks
    like one.
    """
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def named_tensors(model: nn.Module, *, trained_only: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name, or the trained parameters alone."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for name, tensor in model.state_dict().items():
        if name in trained or not trained_only:
            yield name, tensor


def optimizer_tensors(
    model: nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    splits: dict[str, Split],
) -> Iterator[tuple[str, Tensor, Split | None]]:
    """Optimizer state as named tensors, `optimizer|parameter|key`; what has the parameter's shape
    is shared out as the parameter is.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    for kind, optimizer in optimizers.items():
        for parameter, entry in optimizer.state.items():
            name = names[id(parameter)]
            for key, value in entry.items():
                if key in eightbit.TABLES:
                    continue
                tensor = torch.as_tensor(value)
                split = splits.get(name) if tensor.shape == parameter.shape else None
                yield f"{kind}|{name}|{key}", tensor, split


def load_optimizers(
    pieces: Pieces, model: nn.Module, optimizers: dict[str, torch.optim.Optimizer]
) -> None:
    """Put saved state back; parameters that this run does not train are left out, and those that it
    trains in another way are a ValueError.
    """
    parameters = dict(model.named_parameters())
    splits = splits_of(model)
    owned = {
        kind: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for kind, optimizer in optimizers.items()
    }
    for label in pieces:
        kind, name, key = label.split("|")
        parameter = parameters.get(name)
        own = next((k for k, ids in owned.items() if id(parameter) in ids), None)
        if parameter is None or own is None:
            continue
        if own != kind:
            raise ValueError(
                f"{name} was trained by {kind} and this run would go on by {own}; give the same "
                "optim.kind (optimizer), or start from the weights in a new output directory"
            )
        split = splits.get(name)
        if pieces.shape(label) == whole_shape(parameter, split):
            value = torch.zeros_like(parameter.detach(), dtype=pieces.dtype(label))
            pieces.fill(label, value, split)
        else:
            value = pieces.tensor(label).to(parameter.device)
        optimizers[kind].state[parameter][key] = value
    if "adamw8bit" in optimizers:
        eightbit.restore(optimizers["adamw8bit"])


def open_tensors(checkpoint: Path, what: str) -> Pieces:
    """The `model` or `optimizer` of a checkpoint, in however many files."""
    return Pieces(checkpoint.glob(f"{what}*.safetensors"))


def load_state(
    checkpoint: Path, *, model: nn.Module, optimizers: dict[str, torch.optim.Optimizer]
) -> dict[str, object]:
    """Fill model and optimizers from a checkpoint directory; returns its `state.json`."""
    load_weights(checkpoint, model)
    with open_tensors(checkpoint, "optimizer") as pieces:
        load_optimizers(pieces, model, optimizers)
    state = json.loads((checkpoint / "state.json").read_text("utf-8"))
    assert isinstance(state, dict)
    return state


@torch.no_grad()
def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Fill a model from a checkpoint, which holds all of it or what is trained of it."""
    own = model.state_dict(keep_vars=True)
    splits = splits_of(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    with open_tensors(checkpoint, "model") as pieces:
        if set(pieces) not in (set(own), trained):
            odd = sorted(set(pieces) ^ trained)[0]
            raise ValueError(
                f"{checkpoint} was made with other trained parameters (e.g. {odd}); give the same "
                "method and settings, or start in a new output directory"
            )
        for name in pieces:
            shape = whole_shape(own[name], splits.get(name))
            if pieces.shape(name) != shape:
                raise ValueError(
                    f"{checkpoint}: {name} is {pieces.shape(name)}, and this run needs {shape}; "
                    "give the same settings, or start in a new output directory"
                )
            pieces.fill(name, own[name], splits.get(name))


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

"""What an adapter directory holds, told by its config and the header of its weights."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from chatglm.adapters.peft import CONFIG, WEIGHTS, read_config
from chatglm.checkpoint.describe import Description, describe
from chatglm.checkpoint.read import open_bin, read_header
from chatglm.checkpoint.resolve import nearby_base, resolve
from chatglm.errors import CheckpointError

_MATRIX = re.compile(r"(.+)\.lora_(?:embedding_)?A(?:\.default)?(?:\.weight)?")


@dataclass(frozen=True, kw_only=True)
class AdapterDescription:
    """An adapter as its directory describes it; sizes in bytes.

    kind: `LoRA`, `DoRA` or `P-tuning v2`. ranks: the ranks that occur, with the number of modules
        of each; of a learned prefix its length, once. targets: the last names of the modules.
    base: the model that it was trained on, where that is found without the network; base_name is
        what the config calls it.
    """

    directory: Path
    kind: str
    ranks: dict[int, int]
    targets: tuple[str, ...]
    num_parameters: int
    files: dict[str, int]
    base_name: str
    base: Description | None


def describe_adapter(folder: Path) -> AdapterDescription:
    """The adapter in a directory without its weights, and its base."""
    table = read_config(folder)
    shapes, file = shapes_of(folder)
    ranks: Counter[int] = Counter()
    targets = set()
    if table["peft_type"] == "PREFIX_TUNING":
        kind = "P-tuning v2"
        ranks.update(shape[0] for shape in shapes.values() if len(shape) == 2)
    else:
        kind = "DoRA" if table.get("use_dora") else "LoRA"
        for name, shape in shapes.items():
            if (match := _MATRIX.fullmatch(name)) and len(shape) == 2:
                ranks[shape[0]] += 1
                targets.add(match[1].rpartition(".")[2])
    name = str(table.get("base_model_name_or_path") or "")
    return AdapterDescription(
        directory=folder,
        kind=kind,
        ranks=dict(sorted(ranks.items())),
        targets=tuple(sorted(targets)),
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        files={path.name: path.stat().st_size for path in (folder / CONFIG, file)},
        base_name=name,
        base=found_base(folder, name),
    )


def shapes_of(folder: Path) -> tuple[dict[str, tuple[int, ...]], Path]:
    """Shape of every tensor of an adapter, and the file that holds them."""
    for name in WEIGHTS:
        path = folder / name
        if path.is_file() and path.suffix == ".safetensors":
            return {key: place.shape for key, place in read_header(path).items()}, path
        if path.is_file():
            tensors = open_bin(path).tensors
            return {key: tuple(tensor.shape) for key, tensor in tensors.items()}, path
    raise CheckpointError(f"{folder} holds no {' or '.join(WEIGHTS)}; copy it beside {CONFIG}")


def found_base(folder: Path, name: str) -> Description | None:
    """The base's description, where it lies here or in the hub's cache."""
    if not name:
        return None
    path = nearby_base(folder, name)
    try:
        return describe(resolve(name, offline=True) if path is None else path)
    except (FileNotFoundError, CheckpointError):
        return None

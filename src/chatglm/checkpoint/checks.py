"""Whether a config and the tensors of a directory belong together; all that differs is named."""

from __future__ import annotations

from collections.abc import Sequence

from chatglm.checkpoint.configs import Format
from chatglm.checkpoint.names import Entry, is_left_out
from chatglm.checkpoint.read import Tensors
from chatglm.config import ModelConfig
from chatglm.errors import CheckpointError
from chatglm.model import Transformer


def check_size(files: Tensors, config: ModelConfig) -> None:
    """A CheckpointError where the config asks for more modules than the files have tensors."""
    wanted = config.num_layers
    if config.experts is not None:
        sparse = max(config.num_layers - config.experts.first_layer, 0)
        wanted = max(wanted, sparse * config.experts.num_experts)
    held = sum(1 for _ in files)
    if wanted > held:
        raise CheckpointError(
            f"{files.folder}: config.json asks for {config.num_layers} layers and the files hold "
            f"{held} tensors in all; does it belong to these weights?"
        )


def check_names(files: Tensors, plan: Sequence[Entry], format: Format, config: ModelConfig) -> None:
    """Every tensor of the model is in the files, and every tensor of the files in the model."""
    needed = {name for entry in plan for name in entry.theirs}
    missing = sorted(needed - set(files))
    unexpected = sorted(
        name for name in files if name not in needed and not is_left_out(format, config, name)
    )
    if not missing and not unexpected:
        return
    parts = []
    if missing:
        parts.append(f"lacks {len(missing)} tensors: {', '.join(missing)}")
    if unexpected:
        parts.append(
            f"holds {len(unexpected)} that the config has no place for: {', '.join(unexpected)}"
        )
    raise CheckpointError(
        f"{files.folder} {' and '.join(parts)}; config.json says {format}, does it belong to "
        "these weights?"
    )


def check_shapes(files: Tensors, plan: Sequence[Entry], model: Transformer) -> None:
    """Every tensor has the shape that the config gives it."""
    ours = model.state_dict()
    wrong = []
    for entry in plan:
        shapes = [files.shape(name) for name in entry.theirs]
        rows = sum(shape[0] for shape in shapes if shape)
        expected = tuple(ours[entry.ours].shape)
        if any(shape[1:] != expected[1:] for shape in shapes) or rows != expected[0]:
            told = " + ".join(map(str, shapes))
            wrong.append(f"{entry.theirs[0]} is {told}, config.json gives {expected}")
    if wrong:
        raise CheckpointError(
            f"{files.folder} has {len(wrong)} tensors of another shape: {'; '.join(wrong)}"
        )

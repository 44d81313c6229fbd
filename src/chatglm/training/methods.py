"""Methods as parts put on a loaded model from outside: what is trained, and how it is saved."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from chatglm import checkpoint
from chatglm.adapters.lora import LoraLinear, LoraPart, plain_weight
from chatglm.adapters.peft import Adapter, Pair
from chatglm.adapters.prefix import PrefixEncoder, PrefixTuned, to_peft
from chatglm.adapters.save import write_lora, write_official_prefix, write_prefix
from chatglm.checkpoint import Loaded
from chatglm.checkpoint.adapter import apply, rows_of_parts, shape_of
from chatglm.checkpoint.names import Entry, entry_of
from chatglm.checkpoint.transforms import Transform, to_theirs
from chatglm.quantization.linear import QuantizedLinear
from chatglm.quantization.official import OfficialLinear
from chatglm.training.objectives import Network
from chatglm.training.tuning import TuneConfig, base_name

Linear = nn.Linear | QuantizedLinear | OfficialLinear
# Words for targets whatever the model calls them.
_GROUPS = {
    "all": ("attention.", "mlp."),
    "attention": ("attention.",),
    "mlp": ("mlp.",),
}


def put_on(loaded: Loaded, config: TuneConfig) -> Network:
    """The network with the method's parts, of which nothing else is trained."""
    model = loaded.model
    if config.method in ("full", "freeze"):
        check_weights(loaded)
    for parameter in model.parameters():
        parameter.requires_grad_(config.method == "full")
    generator = torch.Generator().manual_seed(config.seed)
    if config.method == "full":
        return model
    if config.method == "freeze":
        unfreeze_last(loaded, config.freeze_layers)
        return model
    if config.method == "ptuning":
        encoder = PrefixEncoder(
            loaded.config,
            config.prefix_length,
            projects=config.prefix_projection,
            generator=generator,
        )
        return PrefixTuned(model, encoder.to(model.embedding.weight.device))
    if loaded.adapter is None:
        put_lora_on(loaded, config, generator)
    for module in model.modules():
        if isinstance(module, LoraPart):
            for parameter in module.parameters():
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
    return model


def check_base(loaded: Loaded) -> None:
    """A ValueError where what is trained could not be saved, or would not be the whole model."""
    if loaded.format.startswith("gguf"):
        raise ValueError(
            f"{loaded.base} is a GGUF file, whose names no adapter is made for; tune the published "
            "files and export the result"
        )
    if loaded.prefix is not None:
        raise ValueError(
            f"{loaded.directory} has a learned prefix, which would be left out; give its base as "
            "--model"
        )


def check_weights(loaded: Loaded) -> None:
    """A ValueError where the weights themselves cannot learn."""
    if any(isinstance(m, QuantizedLinear | OfficialLinear) for m in loaded.model.modules()):
        raise ValueError(
            f"{loaded.directory} is quantized, and its weights cannot be trained; use qlora or "
            "ptuning"
        )


def unfreeze_last(loaded: Loaded, count: int) -> None:
    """Let the last layers and the norm behind them learn."""
    layers = loaded.model.layers
    if count > len(layers):
        raise ValueError(f"freeze_layers is {count} and the model has {len(layers)} layers")
    for module in [*list(layers)[-count:], loaded.model.norm]:
        for parameter in module.parameters():
            parameter.requires_grad_(True)


def targets(loaded: Loaded, wanted: Sequence[str]) -> dict[str, Entry]:
    """Linears that LoRA goes on, by our name; a ValueError names what is not there."""
    found: dict[str, Entry] = {}
    used: set[str] = set()
    known: set[str] = set()
    for name, module in loaded.model.named_modules():
        if not isinstance(module, Linear) or ".experts." in name or not name.startswith("layers."):
            continue
        entry = entry_of(loaded.format, f"{name}.weight")
        theirs = [file_name.removesuffix(".weight") for file_name in entry.theirs]
        leaves = {their.rpartition(".")[2] for their in theirs}
        known |= leaves
        inside = name.split(".", 2)[2]
        chosen = {
            word
            for word in wanted
            if any(inside.startswith(part) for part in _GROUPS.get(word, ()))
            or any(their == word or their.endswith(f".{word}") for their in theirs)
        }
        if chosen:
            found[name] = entry
            used |= chosen
    missing = [word for word in wanted if word not in used]
    if missing:
        raise ValueError(
            f"lora_target {missing[0]!r} is no linear of this model; known: "
            f"{', '.join([*_GROUPS, *sorted(known)])}"
        )
    return found


def put_lora_on(loaded: Loaded, config: TuneConfig, generator: torch.Generator) -> None:
    """LoRA at its beginning: a random (He uniform, as PEFT has it), b zero."""
    scale = config.lora_alpha / (math.sqrt(config.lora_rank) if config.rslora else config.lora_rank)
    adapter = Adapter(folder=Path(config.output_dir), base="")
    groups = set(config.lora_target) & set(_GROUPS)
    root = "glm." if loaded.format == "glm2021" else ""
    for name, entry in targets(loaded, config.lora_target).items():
        module = loaded.model.get_submodule(name)
        rows, columns = shape_of(module)
        lengths = None
        if config.method == "dora":
            lengths = to_theirs(entry.transform, plain_weight(module), loaded.config, entry.ours)
        sizes = rows_of_parts(entry, rows, loaded.config)
        for index, (file_name, size) in enumerate(zip(entry.theirs, sizes, strict=True)):
            their = file_name.removesuffix(".weight").removeprefix(loaded.name_prefix)
            if not groups and their.rpartition(".")[2] not in config.lora_target:
                continue
            bound = 1 / math.sqrt(columns)
            a = torch.empty(config.lora_rank, columns).uniform_(-bound, bound, generator=generator)
            adapter.pairs[root + their] = Pair(
                a=a,
                b=torch.zeros(size, config.lora_rank),
                scale=scale,
                magnitude=None if lengths is None else lengths[index].float().norm(dim=1).cpu(),
            )
    apply(adapter, loaded.model, loaded.format, loaded.config)


def pairs_of(loaded: Loaded) -> dict[str, Pair]:
    """The trained matrices by the names and in the row order of the base's own files."""
    root = "glm." if loaded.format == "glm2021" else ""
    found: dict[str, Pair] = {}
    for name, module in loaded.model.named_modules():
        if not isinstance(module, LoraLinear):
            continue
        entry = entry_of(loaded.format, f"{name}.weight")
        rows, _ = shape_of(module.base)
        sizes = rows_of_parts(entry, rows, loaded.config)
        starts = [sum(sizes[:index]) for index in range(len(sizes))]
        for part in module.parts:
            assert isinstance(part, LoraPart)
            their = entry.theirs[starts.index(part.start)].removesuffix(".weight")
            found[root + their] = Pair(
                a=part.a.detach().cpu(),
                b=in_file_order(part.b, entry, loaded),
                scale=part.scale,
                magnitude=None
                if part.magnitude is None
                else in_file_order(part.magnitude, entry, loaded),
            )
    return found


def in_file_order(rows: Tensor, entry: Entry, loaded: Loaded) -> Tensor:
    """Rows of an update in the order of the base's own file."""
    kind: Transform = "heads" if entry.transform == "heads" else "same"
    return to_theirs(kind, rows.detach().cpu(), loaded.config, entry.ours)[0]


def save_result(loaded: Loaded, network: Network, config: TuneConfig) -> Path:
    """Write what was trained: an adapter into the run's directory, or a whole model below it."""
    folder = Path(config.output_dir)
    base = base_name(config.model, loaded.base)
    if isinstance(network, PrefixTuned):
        with torch.no_grad():
            table = to_peft(network.encoder(), loaded.config)
        write_prefix(folder, table, loaded.config, base)
        if loaded.format.startswith("chatglm"):
            write_official(folder / "official", loaded, network.encoder)
        return folder
    if config.method in ("full", "freeze"):
        return replace_directory(loaded, folder / "model")
    pairs = pairs_of(loaded)
    return write_lora(folder, pairs, base=base, rslora=config.rslora)


def write_official(folder: Path, loaded: Loaded, encoder: PrefixEncoder) -> None:
    """The directory that the official P-tuning scripts write: a config that names the base, and
    the encoder.
    """
    import json

    tensors = {name: p.detach() for name, p in encoder.named_parameters()}
    write_official_prefix(folder, tensors)
    table = json.loads((loaded.base / "config.json").read_text("utf-8"))
    table |= {
        "pre_seq_len": encoder.embedding.num_embeddings,
        "prefix_projection": hasattr(encoder, "trans"),
        "_name_or_path": str(loaded.base.resolve()),
    }
    (folder / "config.json").write_text(json.dumps(table, ensure_ascii=False, indent=2), "utf-8")


def replace_directory(loaded: Loaded, target: Path) -> Path:
    """The model in its base's format at `target`, in the place of what an earlier end wrote."""
    fresh = target.with_name(f".{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    checkpoint.save(loaded, fresh)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target

"""A recipe: what one run trains, on what, and how. Read from TOML, every key checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args, get_origin, get_type_hints

from chatglm.config import ModelConfig

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Prepared data and what is made of it.

    path: a directory that `chatglm prepare` wrote.
    objective: `causal` (next word), `blank` (GLM blank infilling), `masked` (BERT) or `chat`.
    weight: share of the examples drawn from here, against the other sources' weights.
    context_is_learnt: in `blank`, the context of a causal model is predicted as well as the blanks.
    length: tokens of a blanked text at most (0: the row's); short texts have few blanks.
    document_rate, sentence_rate: shares of the blanked texts with one long span and with whole
        sentences; the rest has short spans.
    """

    path: str
    objective: Literal["causal", "blank", "masked", "chat"] = "causal"
    weight: float = 1.0
    context_is_learnt: bool = False
    length: int = 0
    document_rate: float = 0.5
    sentence_rate: float = 0.15

    def __post_init__(self) -> None:
        rates = (self.document_rate, self.sentence_rate)
        if min(rates) < 0 or sum(rates) > 1:
            raise ValueError(
                f"document_rate and sentence_rate must be at least 0 and together at most 1, got "
                f"{rates[0]} and {rates[1]}"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule: warm-up, a constant rate, then down to 0 over the last `decay_steps`,
    in a straight line or as a cosine.

    kind: `muon` updates matrices by Muon (torch.optim.Muon) and the rest by AdamW; `adamw` all by
        AdamW; `adamw8bit` keeps the matrices' moments in 8 bits (bitsandbytes).
    lr: of matrices; `embedding_lr` of everything else (None: the same).
    """

    kind: Literal["muon", "adamw", "adamw8bit"] = "muon"
    lr: float = 4e-3
    embedding_lr: float | None = None
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.95
    warmup_steps: int = 100
    decay_steps: int = 0
    decay: Literal["linear", "cosine"] = "linear"
    clip: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What the one loop has to know of any run.

    batch_rows: rows in a step; micro_rows: rows that go through the network at once.
    loss_chunk: tokens whose logits exist at once (0: all of the micro-batch).
    precision: of the matrix products; trained weights and optimizer are float32.
    recompute: compute each layer again on the way back instead of keeping what is inside it.
    shard: hold weights, gradients and optimizer in pieces over the processes (FSDP2).
    tensor_parallel: how many processes share the heads and widths of one copy of the network.
    validate_first: measure the held-out loss before the first step, too.
    keep_best: keep the checkpoint of the lowest held-out loss. patience: stop after so many
        validations that brought nothing lower (0: never).
    """

    output: str
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0
    steps: int = 1000
    batch_rows: int = 64
    micro_rows: int = 16
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compiled: bool = False
    loss_chunk: int = 0
    recompute: bool = False
    shard: bool = False
    tensor_parallel: int = 1
    log_steps: int = 10
    validate_steps: int = 250
    validate_first: bool = False
    save_steps: int = 250
    keep: int = 2
    keep_best: bool = False
    patience: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        at_least_one = ("steps", "batch_rows", "micro_rows", "log_steps", "keep", "tensor_parallel")
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LoopConfig):
    """A run over prepared data.

    tokenizer: directory of the tokenizer; it is saved beside the weights. None: that of the
        published model in `start`.
    model: a shape to start from nothing; or None, with `start`.
    start: a checkpoint directory (weights only) or the `checkpoints/step-…` of another run (with
        its optimizer).
    length: tokens in a row.
    word_vectors: a Word2Vec or fastText `.vec` file that starts the word embeddings.
    """

    sources: tuple[SourceConfig, ...]
    tokenizer: str | None = None
    validation: tuple[SourceConfig, ...] = ()
    model: ModelConfig | None = None
    start: str | None = None
    word_vectors: str | None = None
    length: int = 256
    validate_rows: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_rows % self.micro_rows:
            raise ValueError(
                f"micro_rows must divide batch_rows, got {self.micro_rows} and {self.batch_rows}"
            )
        if (self.model is None) == (self.start is None):
            raise ValueError("a recipe needs either [model] or start, got both or neither")
        if not self.sources:
            raise ValueError("a recipe needs at least one [[sources]] table, got none")
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}")


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The recipe in a TOML file, with `key=value` overrides (`optim.lr=0.001`); values are TOML."""
    return build(TrainConfig, read_table(path, overrides), where=str(path))


def read_table(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, object]:
    """What a TOML file says, with `key=value` overrides."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no recipe at {file}; the package's own are in recipes/")
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a TOML file: {error}; mend that line") from error
    for override in overrides:
        apply_override(table, override)
    return table


def apply_override(table: dict[str, object], override: str) -> None:
    """Set one dotted key of a nested table from `key=value`."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"an override reads key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    inner = table
    for parent in parents:
        child = inner.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(f"{key} cannot be set: {parent} is not a table")
        inner = child
    inner[last] = value


def build(kind: type[T], table: Mapping[str, object], *, where: str) -> T:
    """A config dataclass from a table; unknown, missing and mistyped keys are named."""
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(
            f"{where}: unknown key {unknown[0]!r} for {kind.__name__}; known: {', '.join(known)}"
        )
    missing = [
        name
        for name, f in known.items()
        if f.default is MISSING and f.default_factory is MISSING and name not in table
    ]
    if missing:
        raise ValueError(f"{where}: {missing[0]!r} is missing for {kind.__name__}")
    values = {
        name: convert(hints[name], value, where=f"{where}: {name}") for name, value in table.items()
    }
    return kind(**values)


def convert(hint: object, value: object, *, where: str) -> object:
    """A TOML value as the annotated type, or a ValueError that says what was expected."""
    options = get_args(hint) if get_origin(hint) not in (tuple, Literal) else ()
    if type(None) in options:
        if value is None:
            return None
        hint = next(option for option in options if option is not type(None))
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where=where)
    if get_origin(hint) is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        inner = get_args(hint)[0]
        return tuple(convert(inner, item, where=where) for item in value)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise ValueError(
            f"{where} must be one of {', '.join(map(str, get_args(hint)))}, got {value!r}"
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(hint, type)
        and isinstance(value, hint)
        and (hint is bool or not isinstance(value, bool))
    ):
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")


def as_table(config: object) -> dict[str, object]:
    """The config as plain data, for config files and logs; None left out."""

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if item is not None}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return value

    table = clean(asdict(config))  # type: ignore[call-overload]
    assert isinstance(table, dict)
    return table

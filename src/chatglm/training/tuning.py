"""What `chatglm finetune` is asked for; the same keys in a TOML recipe."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

Method = Literal["lora", "dora", "qlora", "ptuning", "freeze", "full"]
Objective = Literal["sft", "dpo", "ipo", "kto", "reward", "grpo"]


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """One fine-tuning run.

    model: a directory or hub id; None is the embedded model. data: `path[#count][:weight]` each.
    adapter: a LoRA adapter to go on with (its rank and targets are kept).
    lora_target: `all`, `attention`, `mlp`, or names of the model's own linears.
    prefix_length, prefix_projection: of P-tuning v2. freeze_layers: how many last layers learn.
    precision: of the products; `auto` is bfloat16 where the device is made for it.
    lr: None fits the method and the width of the model (see `default_rate`).
    epochs counts unless max_steps is above 0.
    batch_size: examples (packed: rows) that go through the network at once; grad_accum: how many of
        those make a step.
    cutoff_len: the most tokens of an example; longer ones are refused unless `truncate`.
    val_size: a share below 1 or a number of examples; None takes 5 % of 20 or more, at most 200.
    replay: a file of general conversations, or `general` for those in the package, mixed in as
        `replay_share` of an epoch.
    drift_limit: how much the general loss may rise before it is said.
    beta: strength of the reference in dpo, ipo, kto and grpo. sft_weight: of the chosen answer's
        own loss in dpo. label_smoothing: share of preferences that are taken to be wrong.
    num_samples: replies to a question in grpo; reward: FILE.py:FUNCTION.
    """

    output_dir: str
    data: tuple[str, ...]
    model: str | None = None
    method: Method = "lora"
    objective: Objective = "sft"
    adapter: str | None = None
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_target: tuple[str, ...] = ("all",)
    rslora: bool = False
    prefix_length: int = 64
    prefix_projection: bool = False
    freeze_layers: int = 2
    quantize: Literal["int8", "int4"] | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    epochs: float = 3.0
    max_steps: int = 0
    batch_size: int = 4
    grad_accum: int = 4
    lr: float | None = None
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    cutoff_len: int = 1024
    truncate: bool = False
    skip_bad: bool = False
    packing: bool = False
    group_by_length: bool = True
    val_size: float | None = None
    replay: str | None = None
    replay_share: float = 0.2
    drift_limit: float = 0.05
    prompt_column: str | None = None
    response_column: str | None = None
    history_column: str = "history"
    beta: float = 0.1
    sft_weight: float = 0.0
    label_smoothing: float = 0.0
    num_samples: int = 8
    max_new_tokens: int = 128
    temperature: float = 1.0
    reward: str | None = None
    seed: int = 0
    log_steps: int = 5
    eval_steps: int = 50
    save_steps: int = 100
    save_total_limit: int = 2
    patience: int = 0
    recompute: bool = False
    shard: bool = False
    tensor_parallel: int = 1
    compiled: bool = False
    loss_chunk: int = 1024
    threads: int = 0

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data is empty; give at least one file of examples")
        at_least_one = (
            "lora_rank", "prefix_length", "freeze_layers", "batch_size", "grad_accum",
            "cutoff_len", "log_steps", "eval_steps", "save_steps", "save_total_limit",
            "tensor_parallel",
        )  # fmt: skip
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("epochs", "beta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"lr must be above 0, got {self.lr}")
        for name in ("replay_share", "warmup_ratio", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 0 and below 1, got {getattr(self, name)}"
                )
        if self.val_size is not None and self.val_size < 0:
            raise ValueError(f"val_size must be at least 0, got {self.val_size}")
        self.check_method()

    def check_method(self) -> None:
        """A ValueError where settings do not go together."""
        if self.quantize is not None and self.method in ("full", "freeze"):
            raise ValueError(
                f"quantize keeps weights as they are, and method {self.method} trains them; use "
                "qlora or ptuning"
            )
        if self.tensor_parallel > 1 and self.method not in ("full", "freeze"):
            raise ValueError(
                f"tensor_parallel splits the model's own linears, and {self.method} puts others "
                "beside them; use shard"
            )
        if self.packing and self.objective != "sft":
            raise ValueError(f"packing serves sft, not {self.objective}; leave it out")
        if self.num_samples < 2 and self.objective == "grpo":
            raise ValueError(
                f"grpo compares replies with each other; num_samples must be at least 2, got "
                f"{self.num_samples}"
            )
        if (self.objective == "grpo") != (self.reward is not None):
            raise ValueError("objective grpo and reward (FILE.py:FUNCTION) go together")

    @property
    def bits(self) -> str | None:
        """How the base is quantized while loading; qlora means int4 unless told."""
        return self.quantize or ("int4" if self.method == "qlora" else None)

    @property
    def has_pairs(self) -> bool:
        """Whether the objective compares two answers."""
        return self.objective in ("dpo", "ipo", "reward")


def default_rate(config: TuneConfig, hidden_size: int) -> float:
    """A learning rate for the method: what is used at a width of 4096, higher for narrower models
    as µP has it (arXiv:2203.03466), at most 16 times.
    """
    at_4096 = {
        "lora": 2e-4,
        "dora": 2e-4,
        "qlora": 2e-4,
        "ptuning": 2e-2,
        "freeze": 5e-5,
        "full": 2e-5,
    }
    rate = at_4096[config.method]
    if config.method != "ptuning":
        rate *= min(max(4096 / hidden_size, 1.0), 16.0)
    return rate / 5 if config.objective != "sft" else rate


def as_toml(config: TuneConfig) -> str:
    """The settings that are not the defaults, as the recipe that gives them again."""
    lines = ["# chatglm train THIS_FILE runs it again"]
    for f in fields(config):
        value = getattr(config, f.name)
        if value is None or (value == f.default and f.name != "method"):
            continue
        lines.append(f"{f.name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def toml_value(value: object) -> str:
    """A string, number, truth or list as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)


def is_tune_table(table: dict[str, object]) -> bool:
    """Whether a recipe is one of fine-tuning: it names `data` and no `sources`."""
    return "data" in table and "sources" not in table


def base_name(source: str | None, folder: Path) -> str:
    """How an adapter names its base: a hub id as it was given, a directory in full."""
    if source is not None and not Path(source).expanduser().exists():
        return source
    return str(folder.resolve())

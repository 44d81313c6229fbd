"""The flags of `chatglm finetune`: the field's words, and LLaMA-Factory's as hidden aliases."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from chatglm.cli.console import note, say
from chatglm.cli.options import CommandError

if TYPE_CHECKING:
    from chatglm.training.tuning import TuneConfig

# LLaMA-Factory's names for what is called otherwise here; the others differ in their dashes only.
_ALIASES = {
    "model_name_or_path": "model",
    "dataset": "data",
    "finetuning_type": "method",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "grad_accum",
    "learning_rate": "lr",
    "lr_scheduler_type": "schedule",
    "logging_steps": "log_steps",
    "max_grad_norm": "clip",
    "adapter_name_or_path": "adapter",
    "use_rslora": "rslora",
    "gradient_checkpointing": "recompute",
    "pref_beta": "beta",
    "pref_ftx": "sft_weight",
    "freeze_trainable_layers": "freeze_layers",
    "pre_seq_len": "prefix_length",
    "resume_from_checkpoint": "resume",
    "early_stopping_steps": "patience",
}

# LLaMA-Factory's flags whose values are called otherwise here: the setting and its values.
_VALUES: dict[str, tuple[str, dict[str, str]]] = {
    "stage": (
        "objective",
        {"sft": "sft", "pt": "sft", "dpo": "dpo", "kto": "kto", "rm": "reward"},
    ),
    "quantization_bit": ("quantize", {"4": "int4", "8": "int8"}),
    "optim": (
        "optimizer",
        {
            "adamw_torch": "adamw",
            "adamw_torch_fused": "adamw",
            "adamw_8bit": "adamw8bit",
            "adamw_bnb_8bit": "adamw8bit",
            "muon": "muon",
        },
    ),
    "bf16": ("precision", {"true": "bfloat16", "True": "bfloat16", "false": "float32"}),
}
# And those that ask for what happens here anyway.
_UNNEEDED = (
    "template", "do_train", "plot_loss", "overwrite_cache", "preprocessing_num_workers",
    "report_to", "ddp_timeout", "dataloader_num_workers",
)  # fmt: skip


def add(group: argparse._ArgumentGroup, name: str, text: str, **settings: object) -> None:
    """A flag `--some-name`, its hidden forms `--some_name`, and LLaMA-Factory's name."""
    group.add_argument(f"--{name}", help=text, **settings)  # type: ignore[arg-type]
    dest = str(settings.get("dest", name.replace("-", "_")))
    hidden = {alias for alias, target in _ALIASES.items() if target == dest}
    if "-" in name:
        hidden.add(name.replace("-", "_"))
    for alias in sorted(hidden):
        spelled = {key: value for key, value in settings.items() if key != "metavar"}
        action = settings.get("action", Renamed)
        spelled |= {"dest": dest, "action": action, "default": argparse.SUPPRESS}
        group.add_argument(f"--{alias}", help=argparse.SUPPRESS, **spelled)  # type: ignore[arg-type]


class Renamed(argparse.Action):
    """Takes the value and says once what the flag is called here."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Set the value under the name used here."""
        named = (option_string or "").lstrip("-")
        ours = self.dest.replace("_", "-")
        if named in _ALIASES:
            note(say(f"--{named} is --{ours} here", f"--{named} 在此处为 --{ours}"))
        setattr(namespace, self.dest, values)


class Translated(argparse.Action):
    """Takes a value of LLaMA-Factory's and sets what it is called here."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Set the setting, or say which values are known."""
        named = (option_string or "").lstrip("-")
        dest, known = _VALUES[named]
        if str(values) not in known:
            parser.error(f"--{named} must be one of {', '.join(known)}, got {values!r}")
        ours = f"--{dest.replace('_', '-')} {known[str(values)]}"
        note(say(f"--{named} {values} is {ours} here", f"--{named} {values} 在此处为 {ours}"))
        setattr(namespace, dest, known[str(values)])


class Unneeded(argparse.Action):
    """Takes a flag that nothing here depends on, and says so."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Say that it is not needed."""
        note(say(f"{option_string} is not needed here", f"此处无需 {option_string}"))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """All flags, in groups."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="DATA",
        help=say(
            "files of examples; a.jsonl#500 takes the first 500, a.jsonl:0.7 mixes by weight",
            "数据文件；a.jsonl#500 只取前 500 条，a.jsonl:0.7 按权重混合",
        ),
    )
    add_what(parser.add_argument_group(say("what", "内容")))
    add_method(parser.add_argument_group(say("method", "方法")))
    add_how(parser.add_argument_group(say("how", "训练")))
    add_data(parser.add_argument_group(say("data", "数据")))
    add_run(parser.add_argument_group(say("run", "运行")))
    add_preference(parser.add_argument_group(say("preferences and rewards", "偏好与奖励")))
    hidden: dict[str, object] = {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    for name in _VALUES:
        parser.add_argument(f"--{name}", action=Translated, **hidden)  # type: ignore[arg-type]
    for name in _UNNEEDED:
        parser.add_argument(f"--{name}", nargs="?", action=Unneeded, **hidden)  # type: ignore[arg-type]


def add_what(group: argparse._ArgumentGroup) -> None:
    """Model, data, result."""
    add(group, "model", say("directory or hub id (default: embedded)", "模型目录或 Hub 名称"))
    add(group, "data", say("the same as DATA", "同 DATA"), action="append")
    add(group, "output-dir", say("where all goes", "输出目录"), required=False)
    add(group, "adapter", say("go on with a LoRA adapter", "在已有 LoRA 上继续训练"))
    kinds = ("sft", "dpo", "ipo", "kto", "reward", "grpo")
    add(group, "objective", say("what is lowered (default: sft)", "训练目标"), choices=kinds)


def add_method(group: argparse._ArgumentGroup) -> None:
    """Which parts learn."""
    methods = ("lora", "dora", "qlora", "ptuning", "freeze", "full")
    add(group, "method", say("default: lora", "默认 lora"), choices=methods)
    add(group, "lora-rank", say("default: 8", "默认 8"), type=int)
    add(group, "lora-alpha", say("default: 16", "默认 16"), type=float)
    text = say("all, attention, mlp or names of linears", "all、attention、mlp 或线性层名称")
    add(group, "lora-target", text, action="append")
    add(group, "rslora", say("scale by √rank", "按 √rank 缩放"), action="store_true", default=None)
    add(
        group,
        "prefix-length",
        say("of P-tuning v2 (default: 64)", "P-tuning v2 前缀长度"),
        type=int,
    )
    text = say("P-tuning v2 through a small network", "前缀经小网络投影")
    add(group, "prefix-projection", text, action="store_true", default=None)
    add(group, "freeze-layers", say("last layers that learn (default: 2)", "训练末几层"), type=int)
    add(group, "quantize", say("the base in fewer bits", "量化基座"), choices=("int8", "int4"))
    add(group, "dtype", say("of the base", "基座精度"), choices=("auto", "float32", "bfloat16"))


def add_how(group: argparse._ArgumentGroup) -> None:
    """Steps and rates."""
    add(group, "epochs", say("default: 3", "默认 3"), type=float)
    add(group, "max-steps", say("instead of epochs", "代替轮数"), type=int)
    add(group, "batch-size", say("examples at once (default: 4)", "每次样例数，默认 4"), type=int)
    add(group, "grad-accum", say("of those a step (default: 4)", "梯度累积，默认 4"), type=int)
    add(group, "lr", say("default: fits method and width", "默认随方法与宽度而定"), type=float)
    kinds = ("adamw", "adamw8bit", "muon")
    add(group, "optimizer", say("default: adamw", "优化器，默认 adamw"), choices=kinds)
    schedules = ("cosine", "linear", "constant")
    add(group, "schedule", say("of the rate", "学习率变化"), choices=schedules)
    add(group, "warmup-ratio", say("default: 0.03", "默认 0.03"), type=float)
    add(group, "weight-decay", say("default: 0", "默认 0"), type=float)
    add(group, "clip", say("of the gradient (default: 1)", "梯度裁剪，默认 1"), type=float)
    kinds = ("auto", "float32", "bfloat16")
    add(group, "precision", say("of the products", "计算精度"), choices=kinds)
    text = say("less memory, more work", "省内存，多计算")
    add(group, "recompute", text, action="store_true", default=None)
    add(
        group,
        "shard",
        say("FSDP2 under torchrun", "torchrun 下用 FSDP2"),
        action="store_true",
        default=None,
    )
    text = say("processes that share one network's widths", "几个进程分摊一份网络的宽度")
    add(group, "tensor-parallel", text, type=int)
    add(group, "compiled", say("torch.compile", "torch.compile"), action="store_true", default=None)
    add(group, "threads", say("of the processor", "线程数"), type=int)
    add(group, "device", say("auto, cpu, cuda …", "设备"))


def add_data(group: argparse._ArgumentGroup) -> None:
    """What is done to examples."""
    add(group, "cutoff-len", say("most tokens of one (default: 1024)", "样例最大长度"), type=int)
    text = say("cut longer ones", "截断过长样例")
    add(group, "truncate", text, action="store_true", default=None)
    text = say("leave bad ones out and list them", "跳过并列出坏数据")
    add(group, "skip-bad", text, action="store_true", default=None)
    text = say("several in a row, none sees another", "打包，互不可见")
    add(group, "packing", text, action="store_true", default=None)
    text = say("share or number held out", "留出比例或条数")
    add(group, "val-size", text, type=float)
    text = say("general, or a file: mixed in against forgetting", "general 或文件，防遗忘")
    add(group, "replay", text, nargs="?", const="general")
    add(group, "replay-share", say("of an epoch (default: 0.2)", "占比，默认 0.2"), type=float)
    add(group, "drift-limit", say("rise that is said (default: 0.05)", "遗忘警告阈值"), type=float)
    add(group, "prompt-column", say("of questions", "问题列"))
    add(group, "response-column", say("of answers", "回答列"))
    add(group, "history-column", say("of earlier rounds", "历史列"))


def add_run(group: argparse._ArgumentGroup) -> None:
    """Saving, resuming, looking ahead."""
    add(group, "save-steps", say("default: 100", "默认 100"), type=int)
    add(group, "eval-steps", say("default: 50", "默认 50"), type=int)
    add(group, "log-steps", say("default: 5", "默认 5"), type=int)
    add(group, "save-total-limit", say("checkpoints kept (default: 2)", "保留份数"), type=int)
    text = say("stop after so many validations without gain", "早停：验证多少次无改善")
    add(group, "patience", text, type=int)
    add(group, "seed", say("default: 0", "默认 0"), type=int)
    text = say("go on where a run stopped", "从中断处继续")
    add(group, "resume", text, nargs="?", const="auto", metavar="auto|DIR")
    text = say("say what it would take, and stop", "只估算，不训练")
    group.add_argument("--dry-run", "--dry_run", action="store_true", help=text)


def add_preference(group: argparse._ArgumentGroup) -> None:
    """DPO and its kin, GRPO."""
    add(
        group, "beta", say("hold of the reference (default: 0.1)", "参考约束，默认 0.1"), type=float
    )
    add(
        group,
        "sft-weight",
        say("of the chosen answer's own loss", "选中回答的损失权重"),
        type=float,
    )
    add(group, "label-smoothing", say("share of wrong labels", "错标比例"), type=float)
    text = say("grpo: FILE.py:FUNCTION(question, reply, record) → number", "grpo：奖励函数")
    add(group, "reward", text)
    add(group, "num-samples", say("grpo: replies a question", "grpo：每题回答数"), type=int)
    add(group, "max-new-tokens", say("grpo: of a reply", "grpo：回答长度"), type=int)
    add(group, "temperature", say("grpo: of sampling", "grpo：采样温度"), type=float)


def settings_of(args: argparse.Namespace) -> TuneConfig:
    """The flags that were given as settings; those that were not stay at their defaults."""
    from dataclasses import fields

    from chatglm.training.tuning import TuneConfig

    sources = [*args.files, *(args.data or [])]
    if not sources:
        raise CommandError("no data; give a file of examples, e.g. chatglm finetune data.jsonl")
    output = args.output_dir
    if args.resume not in (None, "auto"):
        if output not in (None, args.resume):
            raise CommandError(f"--resume {args.resume} and --output-dir {output} differ; give one")
        output = args.resume
    if output is None:
        raise CommandError(
            "no --output-dir; give a directory for the result, e.g. --output-dir my-model"
        )
    given: dict[str, object] = {"data": tuple(sources), "output_dir": output}
    for f in fields(TuneConfig):
        value = getattr(args, f.name, None)
        if value is None or f.name in given:
            continue
        if f.name == "lora_target":
            value = tuple(word for part in value for word in part.split(",") if word)
        given[f.name] = value
    try:
        return TuneConfig(**given)  # type: ignore[arg-type]
    except ValueError as error:
        raise CommandError(str(error)) from error

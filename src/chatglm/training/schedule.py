"""How many steps a fine-tuning run has, of what, and how fast it learns."""

from __future__ import annotations

import math
from pathlib import Path

from chatglm.checkpoint import Loaded
from chatglm.data.epochs import Epochs, rounded
from chatglm.training.config import LoopConfig, OptimConfig
from chatglm.training.material import Material
from chatglm.training.tuning import TuneConfig, default_rate


def is_paired(config: TuneConfig) -> bool:
    """Whether the rows of a batch come in twos."""
    return config.has_pairs or config.objective == "kto"


def make_epochs(config: TuneConfig, material: Material) -> Epochs:
    """The order of the examples; a packed row is as long as the cutoff."""
    longest = max(len(example) for item in material.train for example in item)
    return Epochs(
        material.train,
        material.shares,
        rows=config.batch_size * config.grad_accum,
        seed=config.seed,
        length=max(config.cutoff_len, longest) if config.packing else None,
        by_length=config.group_by_length,
    )


def loop_of(config: TuneConfig, loaded: Loaded, epochs: Epochs | None) -> LoopConfig:
    """The settings of the one loop."""
    steps = config.max_steps
    if steps < 1 and epochs is not None:
        whole, part = divmod(config.epochs, 1)
        steps = sum(len(epochs.batches(epoch)) for epoch in range(int(whole)))
        steps += math.ceil(part * len(epochs.batches(int(whole)))) if part else 0
    rate = config.lr or default_rate(config, loaded.config.hidden_size)
    twice = 2 if is_paired(config) else 1
    device = loaded.model.embedding.weight.device.type
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if device == "cuda" or multiplies_bfloat16() else "float32"
    return LoopConfig(
        output=config.output_dir,
        optim=OptimConfig(
            kind=config.optimizer,
            lr=rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.999),
            warmup_steps=round(config.warmup_ratio * steps),
            decay_steps=0 if config.schedule == "constant" else steps,
            decay="cosine" if config.schedule == "cosine" else "linear",
            clip=config.clip,
        ),
        seed=config.seed,
        steps=max(steps, 1),
        batch_rows=config.batch_size * config.grad_accum * twice,
        micro_rows=config.batch_size * twice,
        precision=precision,
        compiled=config.compiled,
        loss_chunk=config.loss_chunk,
        recompute=config.recompute,
        shard=config.shard,
        tensor_parallel=config.tensor_parallel,
        log_steps=config.log_steps,
        validate_steps=config.eval_steps,
        validate_first=True,
        save_steps=config.save_steps,
        keep=config.save_total_limit,
        keep_best=True,
        patience=config.patience,
        threads=config.threads,
    )


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products in bfloat16, as Linux tells; without
    them they are slower than in float32.
    """
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())


def planned_tokens(epochs: Epochs, steps: int, rows: int) -> list[list[int]]:
    """Tokens, padding included, of every micro-batch of every step."""
    planned: list[list[int]] = []
    epoch = 0
    while len(planned) < steps:
        for batch in epochs.batches(epoch):
            sizes = sorted((sum(epochs.size(i) for i in row) for row in batch), reverse=True)
            parts = [sizes[at : at + rows] for at in range(0, len(sizes), rows)]
            planned.append([rounded(part[0]) * len(part) for part in parts])
        epoch += 1
    return planned[:steps]

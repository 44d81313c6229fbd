"""Training beside transformers' Trainer: the same shape, data, precision and processor, in one run.

    python -m benchmarks.training_throughput [--method full|lora] [--length 256] [--rows 4]

A GLM-4 of random weights (by default 6 layers of 512, 8,192 words) is trained on the same rows of
chance tokens by this package and by transformers' Trainer on its own `GlmForCausalLM` (LoRA:
PEFT), in bfloat16 autocast. Each runs in a process of its own, in turns, so that neither has the
quieter minute; printed are tokens a second, peak memory, the last loss, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SHAPE = {
    "model_type": "glm", "architectures": ["GlmForCausalLM"], "hidden_size": 512,
    "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 8192, "max_position_embeddings": 2048,
    "attention_bias": True, "tie_word_embeddings": False, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]


def write_model(folder: Path) -> None:
    """The model's directory in transformers' format."""
    from chatglm.checkpoint.configs import read_published
    from chatglm.checkpoint.names import entry_of
    from chatglm.checkpoint.transforms import to_theirs
    from chatglm.model import Transformer
    from chatglm.training.start import initialize

    config = read_published(SHAPE, {}).config
    model = Transformer(config)
    initialize(model, seed=0)
    tensors = {}
    for name, tensor in model.state_dict().items():
        entry = entry_of("glm", name)
        parts = to_theirs(entry.transform, tensor, config, name)
        tensors |= {t: part.clone() for t, part in zip(entry.theirs, parts, strict=True)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(SHAPE), "utf-8")


def chance_rows(count: int, length: int) -> np.ndarray:
    """Rows of chance tokens."""
    return np.random.default_rng(0).integers(2, SHAPE["vocab_size"], (count, length))


def ours(folder: Path, method: str, rows: np.ndarray, batch: int, *, compiled: bool) -> list[float]:
    """Seconds of each step, and the last loss."""
    from chatglm import checkpoint
    from chatglm.training.batch import Batch
    from chatglm.training.config import LoopConfig, OptimConfig
    from chatglm.training.methods import put_on
    from chatglm.training.objectives import chunked
    from chatglm.training.trainer import Trainer
    from chatglm.training.tuning import TuneConfig

    class Rows:
        """The rows, one batch after the other."""

        at = 0

        def next_batch(self, count: int) -> Batch:
            tokens = torch.from_numpy(rows[self.at : self.at + count])
            self.at += count
            labels = torch.full_like(tokens, -100)
            labels[:, :-1] = tokens[:, 1:]
            places = torch.arange(tokens.shape[1]).expand(count, 1, -1)
            return Batch(
                tokens=tokens,
                labels=labels,
                positions=places,
                documents=torch.zeros_like(tokens),
                is_plain=True,
            )

        def state(self) -> dict[str, object]:
            return {}

        def load_state(self, state: dict[str, object]) -> None:
            pass

    loaded = checkpoint.load(folder, dtype="float32")
    config = TuneConfig(output_dir=str(folder / "ours"), data=("-",), method=method)  # type: ignore[arg-type]
    network = put_on(loaded, config)
    optim = OptimConfig(kind="adamw", lr=1e-4, warmup_steps=0, weight_decay=0.0)
    loop = LoopConfig(
        output=str(folder / "ours"), optim=optim, steps=len(rows) // batch, batch_rows=batch,
        micro_rows=batch, precision="bfloat16", loss_chunk=0, compiled=compiled,
    )  # fmt: skip
    trainer = Trainer(loop, network, Rows(), chunked(0))
    network.train()
    seconds = []
    loss = 0.0
    for _ in range(loop.steps):
        started = time.perf_counter()
        loss, *_ = trainer.train_step()
        seconds.append(time.perf_counter() - started)
    return [*seconds, loss]


def theirs(
    folder: Path, method: str, rows: np.ndarray, batch: int, *, compiled: bool
) -> list[float]:
    """Seconds of each step, and the last loss."""
    warnings.simplefilter("ignore")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if method == "lora":
        import peft

        settings = peft.LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS)
        model = peft.get_peft_model(model, settings)
    ticks: list[float] = []

    class Clock(transformers.TrainerCallback):
        """Notes when steps begin and end."""

        def on_step_begin(self, *args: object, **settings: object) -> None:
            ticks.append(-time.perf_counter())

        def on_step_end(self, *args: object, **settings: object) -> None:
            ticks[-1] += time.perf_counter()

    data = [{"input_ids": row, "labels": row} for row in torch.from_numpy(rows)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "theirs"), per_device_train_batch_size=batch, num_train_epochs=1,
        learning_rate=1e-4, lr_scheduler_type="constant", bf16=True, use_cpu=True, report_to=[],
        save_strategy="no", torch_compile=compiled, logging_steps=1, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=data, callbacks=[Clock()]
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [*ticks, float(losses[-1])]


def main() -> None:
    """Run both in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="torch.compile on both sides")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        rows = chance_rows(args.steps * args.rows, args.length)
        run = ours if args.side == "ours" else theirs
        *seconds, loss = run(args.folder, args.method, rows, args.rows, compiled=args.compiled)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        # The first step asks for memory and compiles nothing that counts.
        print(json.dumps({"seconds": seconds[1:], "loss": loss, "peak": peak}))
        return
    found: dict[str, list[dict[str, object]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name))
        for _ in range(args.turns):
            for side in found:
                command = [sys.executable, "-m", "benchmarks.training_throughput", "--side", side]
                command += ["--folder", name, "--method", args.method]
                command += ["--length", str(args.length), "--rows", str(args.rows)]
                command += ["--steps", str(args.steps)]
                command += ["--compiled"] if args.compiled else []
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[side].append(json.loads(done.stdout.splitlines()[-1]))
    speeds = {}
    print(f"| {args.method}, length {args.length} | tokens/s | peak GiB | last loss |")
    print("|---|---:|---:|---:|")
    for side, runs in found.items():
        best = min(min(run["seconds"]) for run in runs)  # type: ignore[call-overload]
        speeds[side] = args.rows * args.length / best
        print(f"| {side} | {speeds[side]:,.0f} | {runs[0]['peak']:.2f} | {runs[0]['loss']:.4f} |")
    print(f"ratio {speeds['ours'] / speeds['theirs']:.2f}")


if __name__ == "__main__":
    main()

"""Training beside transformers' Trainer: the same shape, data, precision and processor, in one run.

    python -m benchmarks.training_throughput [--method full lora] [--length 256 1024 0] [--compiled]

A GLM-4 of random weights (by default 6 layers of 512, 8,192 words) learns the same examples of
chance tokens by this package and by transformers' Trainer on its own `GlmForCausalLM` (LoRA: PEFT),
in bfloat16 autocast, both as they come (`--optimizer adamw8bit`: moments of 8 bits on both sides).
Length 0 is examples of unequal lengths, as conversations have them (log-normal, the middle one of
150 tokens, at most 1,024); padding then counts as time and not as tokens. Each runs in a process of
its own, in turns, so that neither has the quieter minute. Printed are the tokens a second of the
best turn without its first two steps, peak memory, the last loss, and the ratio.
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
OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw8bit": "adamw_bnb_8bit"}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]


def write_model(folder: Path) -> None:
    """The model's directory in transformers' format."""
    from chatglm.checkpoint.names import entry_of
    from chatglm.checkpoint.published import read_published
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


def chance_texts(count: int, length: int) -> list[np.ndarray]:
    """Examples of chance tokens."""
    rng = np.random.default_rng(0)
    lengths = np.full(count, length)
    if not length:
        lengths = np.exp(rng.normal(np.log(150), 0.8, count)).astype(int).clip(16, 1024)
    return [rng.integers(2, SHAPE["vocab_size"], size) for size in lengths]


def ours(
    folder: Path, method: str, texts: list[np.ndarray], batch: int, args: argparse.Namespace
) -> list[float]:
    """Seconds of each step, and the last loss."""
    from chatglm import checkpoint
    from chatglm.data.epochs import Epochs, shares_of
    from chatglm.data.example import causal_example
    from chatglm.training.config import LoopConfig, OptimConfig
    from chatglm.training.log import read_metrics
    from chatglm.training.material import Batches
    from chatglm.training.methods import put_on
    from chatglm.training.objectives import chunked
    from chatglm.training.trainer import Trainer
    from chatglm.training.tuning import TuneConfig

    seconds: list[float] = []

    class Timed(Trainer):
        """Notes what each step took."""

        def train_step(self) -> tuple[float, float, float]:
            started = time.perf_counter()
            told = super().train_step()
            seconds.append(time.perf_counter() - started)
            return told

    loaded = checkpoint.load(folder, dtype="float32")
    output = tempfile.mkdtemp(dir=folder)
    config = TuneConfig(output_dir=output, data=("-",), method=method)  # type: ignore[arg-type]
    network = put_on(loaded, config)
    items = [(causal_example(text[:-1], int(text[-1])),) for text in texts]
    epochs = Epochs(items, shares_of([len(items)], [None]), rows=batch, seed=0)
    optim = OptimConfig(kind=args.optimizer, lr=1e-4, warmup_steps=0, weight_decay=0.0)
    loop = LoopConfig(
        output=output, optim=optim, steps=len(texts) // batch, batch_rows=batch,
        micro_rows=batch, precision="bfloat16", loss_chunk=config.loss_chunk,
        compiled=args.compiled, log_steps=1,
    )  # fmt: skip
    source = Batches(epochs, loaded.config, 0, {})
    Timed(loop, network, source, chunked(loop.loss_chunk), trained_only=method == "lora").run()
    return [*seconds, read_metrics(Path(output) / "metrics.jsonl")[-1]["loss"]]


def theirs(
    folder: Path, method: str, texts: list[np.ndarray], batch: int, args: argparse.Namespace
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

    def padded(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """What DataCollatorForSeq2Seq makes of examples."""
        found = {}
        for name, fill in (("input_ids", 0), ("labels", -100), ("attention_mask", 0)):
            rows = [example[name] for example in examples]
            found[name] = torch.nn.utils.rnn.pad_sequence(rows, True, fill)
        return found

    data = [
        {"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)}
        for row in map(torch.from_numpy, texts)
    ]
    settings = transformers.TrainingArguments(
        output_dir=str(folder / "theirs"), per_device_train_batch_size=batch, num_train_epochs=1,
        learning_rate=1e-4, lr_scheduler_type="constant", bf16=True, use_cpu=True, report_to=[],
        optim=OPTIMIZERS[args.optimizer], save_strategy="no",
        torch_compile=args.compiled, logging_steps=1, disable_tqdm=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=settings, train_dataset=data, callbacks=[Clock()], data_collator=padded
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return [*ticks, float(losses[-1])]


def main() -> None:
    """Run both in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--length", nargs="+", type=int, default=[256, 1024, 0])
    parser.add_argument("--tokens", type=int, default=2048, help="a step of equal lengths")
    parser.add_argument("--rows", type=int, default=8, help="a step of unequal lengths")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    parser.add_argument("--compiled", action="store_true", help="torch.compile on both sides")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args, args.method[0], args.length[0])))
        return
    print("| method | length | ours, tokens/s | Trainer | ratio | ours, peak GiB | Trainer |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name))
        for method in args.method:
            for length in args.length:
                found = {
                    side: [in_process(args, name, side, method, length) for _ in range(args.turns)]
                    for side in ("ours", "theirs")
                }
                speed = {side: max(run["speed"] for run in runs) for side, runs in found.items()}
                peak = {side: runs[0]["peak"] for side, runs in found.items()}
                losses = {side: runs[0]["loss"] for side, runs in found.items()}
                print(
                    f"| {method} | {length or 'unequal'} | {speed['ours']:,.0f} | "
                    f"{speed['theirs']:,.0f} | {speed['ours'] / speed['theirs']:.2f} | "
                    f"{peak['ours']:.2f} | {peak['theirs']:.2f} |",
                    flush=True,
                )
                print(f"last losses: {losses}", file=sys.stderr)


def measure(args: argparse.Namespace, method: str, length: int) -> dict[str, float]:
    """One side: tokens a second, the last loss and the peak in GiB."""
    if args.threads:
        torch.set_num_threads(args.threads)
    rows = args.tokens // length if length else args.rows
    texts = chance_texts(args.steps * rows, length)
    run = ours if args.side == "ours" else theirs
    *seconds, loss = run(args.folder, method, texts, rows, args)
    # The first steps ask for memory, and compile.
    share = 1 - 2 / args.steps if length else 1.0
    counted = seconds[2:] if length else seconds
    speed = share * sum(map(len, texts)) / sum(counted)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"speed": speed, "loss": loss, "peak": peak}


def in_process(
    args: argparse.Namespace, folder: str, side: str, method: str, length: int
) -> dict[str, float]:
    """What `measure` gives in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training_throughput", "--side", side]
    command += ["--folder", folder, "--method", method, "--length", str(length)]
    for name in ("tokens", "rows", "steps", "threads", "optimizer"):
        command += [f"--{name}", str(getattr(args, name))]
    command += ["--compiled"] if args.compiled else []
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


if __name__ == "__main__":
    main()

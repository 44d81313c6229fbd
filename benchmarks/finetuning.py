"""Tuning the embedded model for a shop's customer service: LoRA, P-tuning v2 and in full beside
the model as it is.

    python -m benchmarks.finetuning --data ../shared/data

Learnt are the questions of a knowledge base and their paraphrases with the answers; asked are
wordings that no training set holds. Beside the score stands what is forgotten: how much the loss
on general conversations rises, with and without replay. Each method runs in a process of its own,
so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from chatglm.checkpoint import Loaded
    from chatglm.training.objectives import Network

LORA: dict[str, object] = {"method": "lora", "lora_rank": 16, "lora_alpha": 32.0}
METHODS: dict[str, dict[str, object]] = {
    "lora": LORA,
    "lora + replay": LORA | {"replay": "general", "replay_share": 0.3},
    # The fewest numbers, which take the most passes.
    "ptuning": {
        "method": "ptuning",
        "prefix_length": 32,
        "lr": 5e-2,
        "batch_size": 4,
        "epochs": 30.0,
    },
    "full": {"method": "full"},
}


def write_task(folder: Path, output: Path, entries: int) -> None:
    """Training conversations and held-out questions of the first entries of the ecommerce
    knowledge base.
    """
    rows = [json.loads(line) for line in (folder / "faq/ecommerce.jsonl").open(encoding="utf-8")]
    rows = rows[:entries]
    known = {row["id"] for row in rows}
    with (output / "train.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            for question in (row["question"], *row["similar_questions"]):
                pair = {"instruction": question, "output": row["answer"]}
                file.write(json.dumps(pair, ensure_ascii=False) + "\n")
    asked = (
        json.loads(line) for line in (folder / "faq/test_questions.jsonl").open(encoding="utf-8")
    )
    with (output / "test.jsonl").open("w", encoding="utf-8") as file:
        for row in asked:
            if row["answerable"] and row["gold_id"] in known:
                pair = {"instruction": row["question"], "output": row["answer"]}
                file.write(json.dumps(pair, ensure_ascii=False) + "\n")


def common(a: str, b: str) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def rouge(reply: str, wanted: str) -> float:
    """ROUGE-L over characters: F1 of the longest common subsequence."""
    length = common(reply, wanted)
    return 2 * length / max(len(reply) + len(wanted), 1)


def held_out_loss(loaded: Loaded, network: Network, file: Path) -> float:
    """Nats for each token of the wanted replies."""
    from chatglm.data.examples import collect
    from chatglm.training.material import held_out_batches
    from chatglm.training.objectives import next_word_loss

    assert loaded.tokenizer is not None
    items = collect(str(file), loaded.tokenizer, cutoff=1024).items
    total, count = 0.0, 0
    network.eval()
    with torch.inference_mode():
        for batch in held_out_batches(items, loaded.config, 0, 8, {}):
            loss, targets = next_word_loss(network, batch)
            total, count = total + float(loss), count + int(targets)
    return total / count


def measure(method: str, task: Path, epochs: float, precision: str) -> dict[str, float]:
    """One row of the table: trained parameters, seconds of processor, memory, loss and score."""
    from chatglm import checkpoint
    from chatglm.adapters.prefix import PrefixTuned
    from chatglm.generation.chat import ChatGLM
    from chatglm.messages import Message
    from chatglm.training.finetune import prepare_run
    from chatglm.training.tuning import TuneConfig

    row: dict[str, float] = {"trained": 0.0, "seconds": 0.0, "forgot": 0.0}
    if method == "none":
        loaded = checkpoint.load()
        network: Network = loaded.model
    else:
        settings: dict[str, object] = {
            "output_dir": str(task / method.replace(" ", "")),
            "data": (str(task / "train.jsonl"),),
            "epochs": epochs,
            "precision": precision,
            "batch_size": 16,
            "grad_accum": 1,
            "val_size": 0.0,
            "eval_steps": 10_000,
            "save_steps": 10_000,
            "log_steps": 10,
            "threads": 1,
        }
        config = TuneConfig(**settings | METHODS[method])  # type: ignore[arg-type]
        run = prepare_run(config)
        before = run.trainer.validate()["general_loss"]
        started = time.process_time()
        run.run()
        loaded, network = run.loaded, run.network
        if isinstance(run.network, PrefixTuned):
            loaded = replace(loaded, prefix=run.network.encoder().detach())
        row["seconds"] = time.process_time() - started
        row["forgot"] = run.trainer.validate()["general_loss"] / before - 1
        row["trained"] = sum(p.numel() for p in run.network.parameters() if p.requires_grad)
    row["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row["loss"] = held_out_loss(loaded, network, task / "test.jsonl")
    model = ChatGLM(loaded)
    tests = [json.loads(line) for line in (task / "test.jsonl").open(encoding="utf-8")]
    answers = {json.loads(line)["output"] for line in (task / "train.jsonl").open(encoding="utf-8")}
    scores, right = 0.0, 0
    for test in tests:
        asked = [Message(role="user", content=test["instruction"])]
        reply = "".join(
            model.stream_messages(asked, temperature=0.0, repetition_penalty=1.0, max_new_tokens=80)
        )
        scores += rouge(reply, test["output"])
        right += max(answers, key=lambda answer: rouge(reply, answer)) == test["output"]
    return row | {"rouge": scores / len(tests), "right": right / len(tests), "asked": len(tests)}


def main() -> None:
    """Measure every method and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--epochs", type=float, default=20.0)
    parser.add_argument("--entries", type=int, default=42, help="of the knowledge base")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    kinds = ("auto", "float32", "bfloat16")
    parser.add_argument("--precision", choices=kinds, default="auto", help="of the products")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only, args.task, args.epochs, args.precision)))
        return
    print("| method | trained | CPU s | peak GiB | loss | ROUGE-L | right answer | general loss |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        write_task(args.data, Path(folder), args.entries)

        def in_process(method: str) -> dict[str, float]:
            command = [sys.executable, "-m", "benchmarks.finetuning", "--only", method]
            command += ["--task", folder, "--epochs", str(args.epochs)]
            command += ["--precision", args.precision]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row: dict[str, float] = json.loads(done.stdout)
            return row

        methods = ("none", *METHODS)
        pool = ThreadPoolExecutor(args.jobs)
        for method, row in zip(methods, pool.map(in_process, methods), strict=True):
            print(
                f"| {method} | {row['trained']:,.0f} | {row['seconds']:.0f} | "
                f"{row['memory']:.2f} | {row['loss']:.3f} | {row['rouge']:.3f} | "
                f"{row['right']:.0%} | {row['forgot']:+.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""What the embedded model's quantized forms lose in the engines that run them: ours, llama.cpp.

    python -m benchmarks.perplexity --eval HELDOUT.jsonl [--python PYTHON] [--texts 100]

PYTHON is an interpreter with llama-cpp-python, which need not be this one. The same ids everywhere:
each text behind the end-of-text token, cut to the context. Loss is the rise of perplexity over the
same engine's bfloat16, KL the divergence from it in nats a token; both sides round activations as
they do when they serve.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.peers import cell, show
from chatglm import checkpoint
from chatglm.checkpoint import Loaded, export_gguf
from chatglm.evaluate.likelihood import read_texts
from chatglm.evaluate.quantization import compare
from chatglm.evaluate.samples import sample
from chatglm.training.run import end_of_text

LONGEST = 512
OURS = {
    "bf16": ("bfloat16", None, None),
    "int8": ("auto", "int8", None),
    "int4": ("auto", "int4", None),
    "int4, calibrated": ("auto", "int4", "general"),
}
THEIRS = ("bf16", "q8_0", "q4_0")
# Runs in PYTHON: each file's sums over all ids after the first of −log p, and of the divergence
# from the first file.
CHILD = """
import json, sys
import numpy as np
import llama_cpp

task = json.load(open(sys.argv[1]))
models = [
    llama_cpp.Llama(file, n_ctx=task["longest"], n_threads=task["threads"], logits_all=True,
                    verbose=False)
    for file in task["files"]
]
sums = np.zeros((len(models), 2))
for row in task["rows"]:
    for which, model in enumerate(models):
        model.reset()
        model.eval(row[:-1])
        scores = model.scores[: len(row) - 1].astype(np.float64)
        scores -= scores.max(-1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        first = logs if which == 0 else first
        sums[which, 0] -= logs[np.arange(len(row) - 1), row[1:]].sum()
        sums[which, 1] += (np.exp(first) * (first - logs)).sum()
print(json.dumps(sums.tolist()))
"""
Sums = tuple[float, float]  # −log p and divergence from bfloat16, in nats of all rows


def ours(rows: Sequence[Sequence[int]]) -> dict[str, Sums]:
    """Our network's sums, with the native kernels where linears are quantized."""
    models = {
        name: checkpoint.load(dtype=dtype, quantize=kind, calibrate=texts).model
        for name, (dtype, kind, texts) in OURS.items()
    }
    losses = compare(models["bf16"], models, rows)
    return {name: (losses[name].nats, losses[name].divergence) for name in models}


def theirs(base: Loaded, rows: Sequence[Sequence[int]], python: str) -> dict[str, Sums]:
    """llama.cpp's sums."""
    with tempfile.TemporaryDirectory() as folder:
        files = [export_gguf(base, Path(folder) / f"{kind}.gguf", kind=kind) for kind in THEIRS]
        task = {
            "files": [str(file) for file in files],
            "rows": rows,
            "longest": LONGEST,
            "threads": torch.get_num_threads(),
        }
        path = Path(folder) / "task.json"
        path.write_text(json.dumps(task), "utf-8")
        done = subprocess.run(
            [python, "-c", CHILD, str(path)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"llama.cpp failed: {done.stderr[-2000:]}")
    sums = json.loads(done.stdout.splitlines()[-1])
    return {kind: (nats, divergence) for kind, (nats, divergence) in zip(THEIRS, sums, strict=True)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--eval", type=Path, required=True, help="jsonl with `text`")
    parser.add_argument("--python", default=sys.executable, help="with llama-cpp-python")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    base = checkpoint.load()
    assert base.tokenizer is not None
    texts = sample(read_texts(arguments.eval), arguments.texts, arguments.seed)
    start = end_of_text(base.tokenizer)
    rows = [[start, *base.tokenizer.encode(text)][:LONGEST] for _, text in texts]
    count = sum(len(row) - 1 for row in rows)
    table: list[dict[str, object]] = []
    for engine, sums in (("ours", ours(rows)), ("llama.cpp", theirs(base, rows, arguments.python))):
        for name, (nats, divergence) in sums.items():
            rise = math.exp((nats - sums["bf16"][0]) / count) - 1
            table.append(
                {
                    "engine": engine,
                    "weights": name,
                    "perplexity": f"{math.exp(nats / count):.2f}",
                    "loss": f"{100 * rise:+.2f} %",
                    "KL": f"{divergence / count:.4f}",
                }
            )
    show(f"{cell(float(count))} tokens of {len(rows)} held-out texts, embedded model", table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

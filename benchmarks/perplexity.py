"""Perplexity of the embedded model's quantized forms in the engines that run them: ours, llama.cpp.

    python -m benchmarks.perplexity --eval HELDOUT.jsonl [--python PYTHON] [--texts 100]

PYTHON is an interpreter with llama-cpp-python, which need not be this one. The same ids everywhere:
each text behind the end-of-text token, cut to the context. Loss is the rise of perplexity over the
same engine's bfloat16; both sides round activations as they do when they serve.
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
from chatglm.evaluate.likelihood import read_texts, token_losses
from chatglm.evaluate.samples import sample
from chatglm.training.run import end_of_text

LONGEST = 512
OURS = {
    "bf16": (None, None),
    "int8": ("int8", None),
    "int4": ("int4", None),
    "int4, calibrated": ("int4", "general"),
}
THEIRS = ("bf16", "q8_0", "q4_0")
# Runs in PYTHON: the sum of −log p of each id after the first, over all rows.
CHILD = """
import json, sys
import numpy as np
import llama_cpp

task = json.load(open(sys.argv[1]))
model = llama_cpp.Llama(
    task["file"], n_ctx=task["longest"], n_threads=task["threads"], logits_all=True, verbose=False
)
total = 0.0
for row in task["rows"]:
    model.reset()
    model.eval(row[:-1])
    scores = model.scores[: len(row) - 1].astype(np.float64)
    top = scores.max(-1, keepdims=True)
    logs = scores - top - np.log(np.exp(scores - top).sum(-1, keepdims=True))
    total -= logs[np.arange(len(row) - 1), row[1:]].sum()
print(total)
"""


@torch.inference_mode()
def ours(loaded: Loaded, rows: Sequence[Sequence[int]]) -> float:
    """Nats of all rows in our network, with the native kernels where linears are quantized."""
    return sum(float(token_losses(loaded.model, torch.tensor([row])).sum()) for row in rows)


def theirs(file: Path, rows: Sequence[Sequence[int]], python: str, threads: int) -> float:
    """Nats of all rows in llama.cpp."""
    task = {"file": str(file), "rows": rows, "longest": LONGEST, "threads": threads}
    path = file.with_suffix(".json")
    path.write_text(json.dumps(task), "utf-8")
    done = subprocess.run(
        [python, "-c", CHILD, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{file.name}: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


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
    nats: dict[tuple[str, str], float] = {}
    for name, (kind, texts_of) in OURS.items():
        dtype = "bfloat16" if kind is None else "auto"
        nats["ours", name] = ours(
            checkpoint.load(dtype=dtype, quantize=kind, calibrate=texts_of), rows
        )
    with tempfile.TemporaryDirectory() as folder:
        for kind in THEIRS:
            file = export_gguf(base, Path(folder) / f"{kind}.gguf", kind=kind)
            threads = torch.get_num_threads()
            nats["llama.cpp", kind] = theirs(file, rows, arguments.python, threads)
    table: list[dict[str, object]] = []
    for (engine, name), value in nats.items():
        rise = math.exp((value - nats[engine, "bf16"]) / count) - 1
        table.append(
            {
                "engine": engine,
                "weights": name,
                "perplexity": f"{math.exp(value / count):.2f}",
                "loss": f"{100 * rise:+.2f} %",
            }
        )
    show(f"{cell(float(count))} tokens of {len(rows)} held-out texts, embedded model", table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

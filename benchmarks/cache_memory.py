"""What keys and values cost at a long context: bytes, resident memory, time of attention.

    python -m benchmarks.cache_memory [--tokens 32768]
    python -m benchmarks.cache_memory --conversation 2048 [--format int4]

The shape is ChatGLM3-6B's (28 layers, 32 heads in 2 groups of width 128), one sequence, random
keys and values. The time is the processor's for one token's attention in all layers. With
--conversation: the most that a whole process has resident, weights included, while it reads a
prompt and replies in so many tokens together.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.shapes import FORMATS
from chatglm.generation import native
from chatglm.generation.blocks import BLOCK_SIZE
from chatglm.generation.cache import KeyValueStore, Span, batch_of, token_bytes
from chatglm.presets import PRESETS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text("ascii").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.inference_mode()
def measure(name: str, num_tokens: int) -> str:
    """A row of the table."""
    config = PRESETS["chatglm3-6b-32k"]
    gc.collect()
    before = resident()
    num_blocks = -(-num_tokens // BLOCK_SIZE)
    store = KeyValueStore(
        config,
        num_blocks=num_blocks,
        dtype=DTYPES[name],
        device=torch.device("cpu"),
        for_native=native.kernel() is not None,
    )
    slots = torch.arange(num_tokens - 1)
    part = torch.randn(config.num_kv_heads, num_tokens - 1, config.head_dim)
    for layer in range(config.num_layers):
        store.put(layer, slots // BLOCK_SIZE, slots % BLOCK_SIZE, part, part)
    del part
    gc.collect()
    used = resident() - before
    size = token_bytes(config, store.dtype, for_native=store.for_native)
    span = Span(table=range(num_blocks), start=num_tokens - 1, visible=[num_tokens])
    q = torch.randn(1, config.num_heads, 1, config.head_dim).bfloat16()
    k = torch.randn(1, config.num_kv_heads, 1, config.head_dim).bfloat16()
    times = []
    for _ in range(5):
        start = time.process_time()
        batch = batch_of(store, [span])
        for layer in range(config.num_layers):
            batch.attend(layer, q, k, k, None)
        times.append(time.process_time() - start)
    return f"{size:,} | {used / 2**20:,.0f} MiB | {1000 * min(times):.0f} ms"


def conversation(num_tokens: int, format: str) -> str:
    """A row of the table of whole processes."""
    new = 64
    counts = ["--batch-prompt", str(num_tokens - new - 1), "--batch-new", str(new)]
    command = [sys.executable, "-m", "benchmarks.own_speed", "--shape", "6B", "--format", format]
    command += ["--batch", "1", "--repeat", "1", *counts]
    found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
    speeds = found["batch 1"]
    return (
        f"{format} | {found['peak'] / 1e9:.2f} GB | {speeds['prefill']:.0f} | "
        f"{speeds['decode']:.1f}"
    )


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--conversation", type=int, metavar="TOKENS")
    parser.add_argument("--format", choices=FORMATS, default="int4")
    args = parser.parse_args()
    if args.conversation:
        print(
            f"| weights | resident at most | tokens/s of the prompt | of the reply |\n|{'---|' * 4}"
        )
        print(f"| {conversation(args.conversation, args.format)} |")
        return
    print(f"| keys and values | bytes a token | resident for {args.tokens:,} | attention a token |")
    print("|---|---|---|---|")
    for name in DTYPES:
        print(f"| {name} | {measure(name, args.tokens)} |", flush=True)


if __name__ == "__main__":
    main()

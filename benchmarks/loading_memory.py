"""Peak memory and time of opening a ChatGLM3-6B of random weights, by way of loading.

    python -m benchmarks.loading_memory [--layers 28] [--output FILE.json]

Writes the checkpoint (12.5 GB, seven shards) into a temporary directory, opens it in a process of
its own per way, and prints the peak resident memory beside the bound: the weights' final size, the
largest tensor and 300 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from chatglm.checkpoint.fill import build
from chatglm.checkpoint.names import entry_of
from chatglm.presets import PRESETS

SHARDS = 7
SLACK = 300e6

CHILD = """
import json, resource, sys, time
import torch
from chatglm.checkpoint import load
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
start = time.perf_counter()
kind = None if sys.argv[2] == "bf16" else sys.argv[2]
loaded = load(sys.argv[1], dtype="bfloat16", quantize=kind)
seconds = time.perf_counter() - start
tensors = loaded.model.state_dict().values()
print(json.dumps({
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "interpreter": base,
    "weights": sum(t.nbytes for t in tensors),
    "seconds": seconds,
}))
"""


def write_checkpoint(folder: Path, num_layers: int) -> tuple[int, int]:
    """A ChatGLM3-6B directory with random bfloat16 weights; bytes in all and of the largest
    tensor.
    """
    config = replace(PRESETS["chatglm3-6b"], num_layers=num_layers)
    table = {
        "model_type": "chatglm",
        "num_layers": num_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.ffn_size,
        "kv_channels": config.head_dim,
        "num_attention_heads": config.num_heads,
        "multi_query_attention": True,
        "multi_query_group_num": config.num_kv_heads,
        "padded_vocab_size": config.vocab_size,
        "seq_length": config.max_length,
        "add_qkv_bias": True,
        "rmsnorm": True,
        "original_rope": True,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(table), "utf-8")
    shapes = {
        entry_of("chatglm2", name).theirs[0]: tuple(parameter.shape)
        for name, parameter in build(config).named_parameters()
    }
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).bfloat16() / 64
    names = list(shapes)
    weight_map, total, largest = {}, 0, 0
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        part = names[shard * len(names) // SHARDS : (shard + 1) * len(names) // SHARDS]
        tensors = {}
        for name in part:
            count = torch.Size(shapes[name]).numel()
            repeats = -(-count // len(noise))
            tensors[name] = noise.repeat(repeats)[:count].view(shapes[name]).contiguous()
            total += tensors[name].nbytes
            largest = max(largest, tensors[name].nbytes)
            weight_map[name] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return total, largest


def main() -> int:
    """Print the table; 1 where a way of loading goes beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28, help="28 is the published depth")
    parser.add_argument("--kinds", nargs="+", default=["bf16", "int8", "int4"])
    parser.add_argument("--output", help="a JSON file for the figures")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        total, largest = write_checkpoint(folder, arguments.layers)
        print(f"{total / 1e9:.2f} GB of bfloat16, the largest tensor {largest / 1e9:.2f} GB\n")
        print(f"| way | weights, GB | peak, GB | bound, GB | seconds | MB/s read |\n|{'---|' * 6}")
        for kind in arguments.kinds:
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(folder), kind],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(f"{kind}: {done.stderr}")
            found = json.loads(done.stdout)
            bound = found["weights"] + largest + SLACK
            results[kind] = found | {"bound": bound, "checkpoint": total, "largest": largest}
            print(
                f"| {kind} | {found['weights'] / 1e9:.2f} | {found['peak'] / 1e9:.2f} | "
                f"{bound / 1e9:.2f} | {found['seconds']:.1f} | "
                f"{total / found['seconds'] / 1e6:.0f} |",
                flush=True,
            )
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(results, indent=1), "utf-8")
    return int(any(found["peak"] > found["bound"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())

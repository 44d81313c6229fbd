"""The speed of our engine on random weights, as one process that measures and ends.

    python -m benchmarks.own_speed --shape 200M --format int4 --threads 2 [--batch 8]

Prints one JSON object: decode (tokens/s after the first token of a reply to one token), prefill
(tokens/s of a prompt), batch (of several requests together), bytes read a token, bandwidth (bytes/s
of a loop that only reads, measured before, between and after the replies), and the most bytes in
memory meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.shapes import FORMATS, SHAPES, random_model, read_bytes, shape_of
from chatglm.generation.engine import Engine
from chatglm.generation.sampling import Sampling
from chatglm.prompt import Prompt
from chatglm.quantization import native, pages

SMALL_LAYERS = 1 << 29
"""Models up to this many weights stream float32, as the loader chooses for what fits easily."""


def make_engine(arguments: argparse.Namespace) -> Engine:
    """The engine on a model of the shape and format that are asked for."""
    config = shape_of(arguments.shape, arguments.layers)
    dtype = torch.bfloat16
    if arguments.format != "bf16" and arguments.shape != "6B":
        dtype = torch.float32
    model = random_model(config, arguments.format, dtype)
    return Engine(model, stop_ids=frozenset(), max_num_seqs=32, prefix_cache=False)


def prompt_of(length: int, seed: int, vocab_size: int) -> Prompt:
    """Random tokens."""
    chance = torch.Generator().manual_seed(seed)
    return Prompt(tokens=tuple(torch.randint(vocab_size, (length,), generator=chance).tolist()))


def run(engine: Engine, *, batch: int, prompt: int, new: int) -> tuple[float, float]:
    """Seconds until every prompt is read and has its first token, and until all replies end."""
    for seed in range(batch):
        engine.add(
            prompt_of(prompt, seed, engine.config.vocab_size),
            Sampling(temperature=0, max_new_tokens=new),
        )
    start = time.perf_counter()
    waiting = set(engine.requests)
    while waiting:
        waiting -= {output.id for output in engine.step()}
    first = time.perf_counter() - start
    while engine.busy:
        engine.step()
    return first, time.perf_counter() - start - first


class Reader:
    """Reads 256 MiB that lie as weights do, in a native loop that does nothing else."""

    def __init__(self, threads: int) -> None:
        self.data = pages.empty(1 << 28, dtype=torch.uint8).fill_(1)
        self.threads = threads
        library = native.opened()
        if library is None:
            sys.exit("the native kernels are not built: pip install -e . with a C++ compiler")
        library.chatglm_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
        self.read = library.chatglm_read

    def speed(self) -> float:
        """Bytes a second, the best of three readings one after the other."""
        times = []
        for _ in range(3):
            start = time.perf_counter()
            self.read(self.data.data_ptr(), self.data.nbytes, self.threads)
            times.append(time.perf_counter() - start)
        return self.data.nbytes / min(times)


def peak() -> int:
    """The most bytes that were resident since the weights were there."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measure(engine: Engine, arguments: argparse.Namespace) -> dict[str, object]:
    """The speeds that are asked for, each the median of `repeat` after a warm-up."""
    found: dict[str, object] = {}
    if arguments.new:
        run(engine, batch=1, prompt=1, new=arguments.new)
        reader = Reader(arguments.threads)
        times, limits = [], [reader.speed()]
        for _ in repeats(arguments):
            times.append(run(engine, batch=1, prompt=1, new=arguments.new + 1)[1])
            limits.append(reader.speed())
        found["decode"] = arguments.new / statistics.median(times)
        found["bandwidth"] = statistics.median(limits)
    if arguments.prompt:
        run(engine, batch=1, prompt=min(arguments.prompt, 64), new=1)
        times = [
            run(engine, batch=1, prompt=arguments.prompt, new=1)[0] for _ in repeats(arguments)
        ]
        found["prefill"] = arguments.prompt / statistics.median(times)
    for batch in arguments.batch:
        prompt, new = arguments.batch_prompt, arguments.batch_new
        run(engine, batch=batch, prompt=1, new=2)
        # The first token of each reply comes with its prompt; llama.cpp counts one step more.
        both = [run(engine, batch=batch, prompt=prompt, new=new + 1) for _ in repeats(arguments)]
        reading = statistics.median(first for first, _ in both)
        writing = statistics.median(rest for _, rest in both)
        found[f"batch {batch}"] = {
            "prefill": batch * prompt / reading,
            "decode": batch * new / writing,
            "total": batch * (prompt + new) / (reading + writing),
        }
    return found


def repeats(arguments: argparse.Namespace) -> range:
    """As often as is asked for."""
    return range(arguments.repeat)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What is run; the other sides take the same."""
    parser.add_argument("--shape", choices=SHAPES, default="nano")
    parser.add_argument("--layers", type=int, help="fewer than the shape has, to fit the memory")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeat", type=int, default=3)


def main() -> None:
    """Print the JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser)
    parser.add_argument("--format", choices=FORMATS, default="int4")
    parser.add_argument("--new", type=int, default=0)
    parser.add_argument("--prompt", type=int, default=0)
    parser.add_argument("--batch", type=int, nargs="*", default=[])
    parser.add_argument("--batch-prompt", type=int, default=128)
    parser.add_argument("--batch-new", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    engine = make_engine(arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    found = measure(engine, arguments)
    found["bytes_read"] = read_bytes(engine.runner.model)
    found["peak"] = peak()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

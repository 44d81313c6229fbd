"""Linears of every format at 1 to 512 rows: bytes read a second, beside what plain reading reaches,
and operations a second, beside PyTorch's own operators.

`python -m benchmarks.linears [--threads 2] [--shapes 6B 200M nano] [--rows 1 16 512]` prints a
table for each shape. A shape is the widest linear of a network of that name, as often as its
weights in this format fill the network, or 300 MB, so that they come from where they would.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from chatglm.quantization import native
from chatglm.quantization.linear import quantized
from chatglm.quantization.tiles import Bits

# Rows and columns of a linear, and the weights of the network that it stands for.
SHAPES = {
    "6B": (13_696, 4_096, 6_243_000_000),
    "200M": (5_632, 1_024, 200_000_000),
    "nano": (2_816, 512, 30_000_000),
}
KINDS = ("int4", "int6", "int8", "bfloat16", "float32")
BITS: dict[str, Bits] = {"int4": 4, "int6": 6, "int8": 8}
MOST_BYTES = 300_000_000
SECONDS = 0.6


def reading_speed(threads: int) -> float:
    """Bytes a second of a loop that only reads, the median of several."""
    library = native.opened()
    assert library is not None
    library.chatglm_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    memory = torch.ones(MOST_BYTES, dtype=torch.uint8)
    call = lambda: library.chatglm_read(memory.data_ptr(), MOST_BYTES, threads)  # noqa: E731
    return MOST_BYTES / seconds_of([call])


def seconds_of(calls: list[Callable[[], object]]) -> float:
    """Median seconds of a call, the calls in turn, for as long as a measurement takes."""
    for call in calls:
        call()
    times = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 3:
        begin = time.perf_counter()
        for call in calls:
            call()
        times.append((time.perf_counter() - begin) / len(calls))
    return median(times)


def weight_of(kind: str, rows: int, columns: int) -> native.Weight:
    """A random weight for the kernels."""
    weight = torch.randn(rows, columns)
    if kind.startswith("int"):
        return quantized(weight, BITS[kind], bias=False).for_kernels()
    return native.packed_weight(weight.to(getattr(torch, kind)))


def twin_of(weight: native.Weight) -> native.Weight:
    """The same weight in other memory."""
    tensors = tuple(None if t is None else t.clone() for t in weight.tensors)
    sizes = weight.rows, weight.columns, weight.group, weight.kind
    return native.made(tensors, *sizes, packed=bool(weight.is_packed))


def bytes_of(weight: native.Weight) -> int:
    """Bytes of a weight with its scales."""
    return sum(t.nbytes for t in weight.tensors if t is not None)


def native_call(weight: native.Weight, x: Tensor, threads: int) -> Callable[[], object]:
    """A call of the kernel as the engine makes it."""
    library = native.opened()
    assert library is not None
    count = len(x)
    y = torch.empty(count, weight.rows)
    scratch = torch.empty(
        library.chatglm_scratch_bytes(weight.kind, count, weight.columns) + 64, dtype=torch.uint8
    )
    scratch = scratch[-scratch.data_ptr() % 64 :]
    kept = (x, y, scratch)
    arguments = (
        ctypes.byref(weight), x.data_ptr(), count, y.data_ptr(), scratch.data_ptr(), threads,
        native.best_level(),
    )  # fmt: skip
    return lambda: (library.chatglm_linear(*arguments), kept)


def torch_calls(kind: str, copies: int, rows: int, columns: int, x: Tensor) -> list[Callable]:
    """PyTorch's operator for the format, over copies of a weight."""
    ops, half = torch.ops.aten, x.bfloat16()
    if kind == "int8":
        random = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
        whole = [random.clone() for _ in range(copies)]
        scale = torch.ones(rows, dtype=torch.bfloat16)
        return [lambda w=w: ops._weight_int8pack_mm(half, w, scale) for w in whole]
    if kind == "int4":
        whole = torch.randint(0, 16, (rows, columns), dtype=torch.int32)
        packed = ops._convert_weight_to_int4pack_for_cpu(whole, 1)
        packs = [packed.clone() for _ in range(copies)]
        scales = torch.ones(columns // 32, rows, 2, dtype=torch.bfloat16)
        return [lambda w=w: ops._weight_int4pack_mm_for_cpu(half, w, 32, scales) for w in packs]
    dtype = getattr(torch, kind)
    x = x.to(dtype)
    random = torch.randn(rows, columns).to(dtype)
    weights = [random.clone() for _ in range(copies)]
    return [lambda w=w: torch.nn.functional.linear(x, w) for w in weights]


def measure(name: str, counts: list[int], threads: int, *, beside: bool) -> None:
    """The table of a shape."""
    rows, columns, network = SHAPES[name]
    limit = reading_speed(threads)
    print(f"\n{name}: {columns:,} to {rows:,}, {threads} threads; reading {limit / 1e9:.1f} GB/s")
    print("| format | rows | µs | GB/s | of reading | G operations/s | PyTorch µs | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        first = weight_of(kind, rows, columns)
        size = bytes_of(first)
        whole = min(network / (rows * columns) * size, MOST_BYTES)
        copies = max(round(whole / size), 1)
        weights = [first, *(twin_of(first) for _ in range(copies - 1))]
        for count in counts:
            x = torch.randn(count, columns)
            mine = seconds_of([native_call(w, x, threads) for w in weights])
            theirs = float("nan")
            if beside and kind != "int6":  # of which PyTorch has no operator
                with torch.inference_mode():
                    theirs = seconds_of(torch_calls(kind, copies, rows, columns, x))
            print(
                f"| {kind} | {count} | {mine * 1e6:,.0f} | {size / mine / 1e9:.1f} "
                f"| {size / mine / limit:.0%} | {2 * count * rows * columns / mine / 1e9:,.0f} "
                f"| {theirs * 1e6:,.0f} | {theirs / mine:.2f} |",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 8, 16, 512])
    parser.add_argument("--alone", action="store_true", help="without PyTorch's operators")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    for name in asked.shapes:
        measure(name, asked.rows, asked.threads, beside=not asked.alone)


if __name__ == "__main__":
    main()

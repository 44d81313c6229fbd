"""Compiles the Triton kernels for GPUs that need not be here, and prints what they take.

    python tests/generation/cuda/compiled.py 80 90

One line a kernel: its name, the compute capability, registers, bytes of stack, shared memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from chatglm.generation.cuda import kernels
from chatglm.quantization import triton as linears

COUNTS = {
    *("num_inputs", "num_rows", "num_columns", "row_words", "steps_each", "num_steps", "count"),
    *("num_parts", "num_heads", "num_groups", "num_slots", "num_tokens", "num_shares", "width"),
}
ALIGNED = {"num_rows", "num_columns", "row_words", "width"}


@dataclass
class Variant:
    """A kernel with the types and constants of one use."""

    name: str
    kernel: Any
    pointers: dict[str, str | None]
    constants: dict[str, object]
    num_warps: int = 4
    num_stages: int = 2


def compile_for(capability: int, variant: Variant) -> tuple[int, int, int]:
    """Registers, stack and shared memory of a kernel."""
    kernel, pointers, constants = variant.kernel, variant.pointers, variant.constants
    signature: dict[str, str] = {}
    fixed: dict[str, object] = {}
    aligned = {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants or pointers.get(name, "") is None:
            signature[name], fixed[name] = "constexpr", constants.get(name)
        elif name in COUNTS:
            signature[name] = "i32"
        elif name in ("scale", "eps") and name not in pointers:
            signature[name] = "fp32"
        else:
            signature[name] = f"*{pointers.get(name, 'i32')}"
        if signature[name][0] == "*" or (name in ALIGNED and signature[name] == "i32"):
            aligned[(i,)] = [["tt.divisibility", 16]]
    source = triton.compiler.ASTSource(kernel, signature, fixed, aligned)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return 0, 0, made.metadata.shared
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        told = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", told.stdout)
    assert found is not None, told.stdout
    return int(found[1]), int(found[2]), made.metadata.shared


def of_linears(capability: int) -> Iterator[Variant]:
    """Products with weights of each kind, for few and for many inputs."""
    kinds = [("int4", "i16", 4, 32, 32, 4), ("int8", "i8", 8, 64, 64, 1)]
    if capability >= 89:
        kinds.append(("fp8", "fp8e4nv", 8, 0, 64, 1))
    for name, word, bits, group, part, num_parts in kinds:
        weight: dict[str, str | None] = {
            "weight": word,
            "scale": "fp16" if group else "fp32",
            "zero": "fp16" if name == "int4" else None,
        }
        constants = {
            "COLUMNS": part,
            "BITS": bits,
            "GROUP": group,
            "HAS_ZERO": name == "int4",
            "NUM_PARTS": num_parts,
        }
        for count in (1, 32, 512):
            tile, is_shared = linears.tile_for(count), count == 1
            yield Variant(
                f"{name}, {count} inputs",
                linears.multiply_kernel,
                {**weight, "x": "bf16", "bias": "bf16", "out": "fp32" if is_shared else "bf16"},
                {
                    **constants,
                    "INPUTS": tile.inputs,
                    "ROWS": tile.rows,
                    "HAS_BIAS": True,
                    "IS_FLOAT": group == 0,
                    "SHARED": is_shared,
                },
                tile.num_warps,
                tile.num_stages,
            )
        if group:
            to = {**weight, "out": "bf16"}
            yield Variant(
                f"{name}, unpacked", linears.dequantize_kernel, to, {**constants, "ROWS": 32}
            )
    to = {"parts": "fp32", "bias": "bf16", "out": "bf16"}
    constants = {"HAS_BIAS": True, "SIZE": 1024}
    yield Variant("parts of a product", linears.add_parts_kernel, to, constants)


def of_layers() -> Iterator[Variant]:
    """Attention over blocks of each kind, and what lies between products."""
    heads: dict[str, object] = {"WIDTH": 128, "PADDED": 128}
    for kept in ("bf16", "i8"):
        scales = "fp32" if kept == "i8" else None
        pointers = {
            **dict.fromkeys(("rows", "queries"), "bf16"),
            **dict.fromkeys(("keys", "values"), kept),
            **dict.fromkeys(("key_scales", "value_scales"), scales),
            **dict.fromkeys(("cos", "sin", "out", "sums"), "fp32"),
        }
        own = {**heads, "IS_INT8": kept == "i8"}
        turns = {"PLANES": 1, "TURNED": 64, "IS_INTERLEAVED": True}
        yield Variant(f"place {kept}", kernels.place_kernel, pointers, {**own, **turns}, 1)
        for rows in (16, 64):
            sizes = {"SHARE": 16, "ROWS": rows, "KEYS": 64, "SHARES": 8}
            yield Variant(
                f"attend {kept}, {rows} rows", kernels.attend_kernel, pointers, {**own, **sizes}
            )
    floats = {"parts": "fp32", "sums": "fp32", "out": "bf16"}
    yield Variant("join", kernels.join_kernel, floats, heads, 1)
    stream = dict.fromkeys(("x", "added", "weight", "out"), "bf16")
    constants = {"HAS_ADDED": True, "PADDED": 4096}
    yield Variant("norm", kernels.norm_kernel, stream, constants, 8)
    yield Variant("gate", kernels.gate_kernel, stream, {"SIZE": 1024})


def main() -> None:
    """Compile all for each capability named."""
    warnings.simplefilter("ignore")  # a version of Triton may announce what it is going to change
    for capability in map(int, sys.argv[1:]):
        for variant in (*of_linears(capability), *of_layers()):
            taken = compile_for(capability, variant)
            print(f"{variant.name:20} sm_{capability} {taken[0]:4} {taken[1]:4} {taken[2]:7}")


if __name__ == "__main__":
    main()

"""The package's native kernels for quantized linears, where they were built.

They are plain C functions in a shared library that `csrc/linear.cpp` becomes; every argument is
checked here, before native code runs. `CHATGLM_NATIVE=0` leaves them out.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

LEVELS = ("portable", "avx2", "avx512")
BLOCK = 64


@cache
def opened() -> ctypes.CDLL | None:
    """The shared library, or None where it was not built or is not wanted."""
    if os.environ.get("CHATGLM_NATIVE") == "0":
        return None
    folder = Path(__file__).parent
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"_native{suffix}"
        if path.is_file():
            return declared(ctypes.CDLL(str(path)))
    return None


@cache
def library() -> ctypes.CDLL | None:
    """The kernels for quantized linears; where they were not built, this is told once."""
    native = opened()
    if native is None and os.environ.get("CHATGLM_NATIVE") != "0":
        warnings.warn(
            "quantized models run on PyTorch's operators, which is slower: the native kernels were "
            "not built; install a C++ compiler and then the package again",
            stacklevel=2,
        )
    return native


def declared(native: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of its functions."""
    whole, pointer, count = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
    native.chatglm_best_level.restype = whole
    native.chatglm_scratch_bytes.argtypes = [count, count]
    native.chatglm_scratch_bytes.restype = count
    native.chatglm_linear.argtypes = [
        pointer, count, count, pointer, pointer, count, count, whole, pointer, pointer, whole,
        whole,
    ]  # fmt: skip
    native.chatglm_linear.restype = whole
    return native


def best_level() -> int:
    """Index into LEVELS of what this processor has; -1 without kernels."""
    native = opened()
    return -1 if native is None else int(native.chatglm_best_level())


def linear(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, *, level: int | None = None
) -> Tensor:
    """x (M, columns) times the quantized rows, (M, rows) float32, x rounded to 8 bits in groups of
    32.

    level: an index into LEVELS; None is the best of this processor.
    """
    native = library()
    assert native is not None
    rows, count = weight.shape[0], x.shape[0]
    padded = weight.shape[1] * (1 if bits == 8 else 2)
    num_scales = padded // (64 if bits == 8 else 32)
    kind = torch.int8 if bits == 8 else torch.uint8
    if (
        bits not in (4, 8)
        or x.ndim != 2
        or not padded - BLOCK < x.shape[1] <= padded
        or padded % BLOCK
        or weight.dtype != kind
        or scale.dtype != torch.float16
        or tuple(scale.shape) != (rows, num_scales)
        or not all(t.is_contiguous() and t.device.type == "cpu" for t in (weight, scale))
    ):
        raise ValueError(
            f"a {bits}-bit weight {tuple(weight.shape)} {weight.dtype} with scales "
            f"{tuple(scale.shape)} {scale.dtype} does not fit inputs {tuple(x.shape)}; expected "
            f"rows of blocks of {BLOCK} columns on the processor"
        )
    x = x.detach().to("cpu", torch.float32).contiguous()
    y = torch.empty(count, rows)
    scratch = torch.empty(native.chatglm_scratch_bytes(count, padded), dtype=torch.uint8)
    failed = native.chatglm_linear(
        x.data_ptr(), count, x.shape[1], weight.data_ptr(), scale.data_ptr(), rows, padded, bits,
        y.data_ptr(), scratch.data_ptr(), torch.get_num_threads(),
        best_level() if level is None else level,
    )  # fmt: skip
    if failed:
        raise ValueError(f"level must be 0 to {best_level()}, got {level}")
    return y

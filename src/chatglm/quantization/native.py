"""The package's native kernels for linears, where they were built.

They are plain C functions in a shared library that `csrc/linear*.cpp` become; every argument is
checked here, before native code runs. `CHATGLM_NATIVE=0` leaves them out; a path takes another
library.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatglm.quantization.tiles import BLOCK, TILE, interleave, up_to

LEVELS = ("portable", "avx2", "avx512")
FLOAT_KINDS = {torch.float32: 0, torch.bfloat16: 1}
WHOLE_KINDS = {8: 2, 4: 3, 6: 4}


class Kernels(ctypes.CDLL):
    """The shared library; a RuntimeError where it was built from another version's sources."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if not name.startswith("chatglm_"):
                raise
            raise self.stale(f"no {name}") from error

    def stale(self, what: str) -> RuntimeError:
        """The error for a library that has something which this version's does not."""
        return RuntimeError(
            f"{self._name} has {what}: it was built for another version of the package; "
            "install the package again, or set CHATGLM_NATIVE=0 to run without it"
        )


@cache
def opened() -> Kernels | None:
    """The shared library, or None where it was not built or is not wanted."""
    wanted = os.environ.get("CHATGLM_NATIVE", "")
    if wanted == "0":
        return None
    if wanted not in ("", "1"):
        return declared(Kernels(wanted))
    folder = Path(__file__).parent
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"_native{suffix}"
        if path.is_file():
            return declared(Kernels(str(path)))
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


class Weight(ctypes.Structure):
    """ChatglmWeight of `csrc/linear.h`; it keeps the tensors that it points into."""

    _fields_ = [  # noqa: RUF012
        *((name, ctypes.c_void_p) for name in ("data", "scales", "zeros", "bias")),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "group")),
        *((name, ctypes.c_int32) for name in ("kind", "is_packed")),
    ]
    tensors: tuple[Tensor | None, ...]


class Quantize(ctypes.Structure):
    """ChatglmQuantize of `csrc/quantize.cpp`."""

    _fields_ = [  # noqa: RUF012
        *((name, ctypes.c_void_p) for name in ("weight", "data", "scales", "zeros")),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "group")),
        *((name, ctypes.c_int32) for name in ("kind", "bits")),
    ]


def declared(native: Kernels) -> Kernels:
    """The library with the types of its functions."""
    whole, pointer, count = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
    weight = ctypes.POINTER(Weight)
    native.chatglm_best_level.restype = whole
    native.chatglm_scratch_bytes.argtypes = [whole, count, count]
    native.chatglm_scratch_bytes.restype = count
    native.chatglm_linear.argtypes = [weight, pointer, count, pointer, pointer, whole, whole]
    native.chatglm_linear.restype = whole
    native.chatglm_quantize.argtypes = [ctypes.POINTER(Quantize), whole]
    native.chatglm_quantize.restype = whole
    native.chatglm_row.argtypes = [weight, count, pointer]
    native.chatglm_row.restype = whole
    return native


@cache
def best_level() -> int:
    """Index into LEVELS of what this processor has; -1 without kernels."""
    native = opened()
    return -1 if native is None else int(native.chatglm_best_level())


def whole_weight(
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    *,
    rows: int,
    columns: int,
    bits: int,
    group: int,
    bias: Tensor | None = None,
) -> Weight:
    """A quantized weight for the kernels, in tiles (tiles, bytes) with scales and zero points
    (tiles, groups, 16).
    """
    tiles, padded = up_to(rows, TILE) // TILE, up_to(columns, BLOCK)
    groups = (tiles, -(-padded // max(group, 1)), TILE)
    if (
        bits not in WHOLE_KINDS
        or group < 32
        or group % 32
        or weight.dtype != torch.uint8
        or weight.shape != (tiles, padded * TILE * bits // 8)
        or scale.dtype != torch.float16
        or scale.shape != groups
        or (zero is not None and (zero.dtype != torch.uint8 or zero.shape != groups))
    ):
        raise ValueError(
            f"a {bits}-bit weight {tuple(weight.shape)} {weight.dtype} with scales "
            f"{tuple(scale.shape)} {scale.dtype} are no tiles of {rows} rows of {columns} columns "
            f"in groups of {group}; pack them with chatglm.quantization.linear"
        )
    return made((weight, scale, zero, bias), rows, columns, group, WHOLE_KINDS[bits], packed=True)


def float_weight(weight: Tensor, bias: Tensor | None = None) -> Weight:
    """A weight (rows, columns) of float32 or bfloat16 for the kernels, as it lies."""
    if weight.ndim != 2 or weight.dtype not in FLOAT_KINDS:
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} in {weight.dtype} has no kernel; expected "
            "rows of float32 or bfloat16"
        )
    rows, columns = weight.shape
    kind = FLOAT_KINDS[weight.dtype]
    return made((weight.detach(), None, None, bias), rows, columns, 0, kind, packed=False)


def packed_weight(weight: Tensor, bias: Tensor | None = None) -> Weight:
    """The same in tiles of its own."""
    rows, columns = weight.shape
    kind = FLOAT_KINDS[weight.dtype]
    tiles = interleave(weight.detach())
    return made((tiles, None, None, bias), rows, columns, 0, kind, packed=True)


def made(
    tensors: tuple[Tensor | None, ...],
    rows: int,
    columns: int,
    group: int,
    kind: int,
    *,
    packed: bool,
) -> Weight:
    """The structure over data, scales, zero points and bias; a bias of another dtype is copied."""
    *parts, bias = tensors
    if bias is not None:
        bias = bias.detach().float().contiguous()
    for tensor in parts:
        if tensor is not None and not (tensor.is_contiguous() and tensor.device.type == "cpu"):
            raise ValueError(
                f"a weight of shape {tuple(tensor.shape)} must be contiguous and on the CPU for "
                f"the kernels, and is on {tensor.device}"
            )
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"a bias of {tuple(bias.shape)} does not fit {rows} rows")
    kept = (*parts, bias)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in kept]
    weight = Weight(*pointers, rows, columns, group, kind, packed)
    weight.tensors = kept
    return weight


def linear(x: Tensor, weight: Weight, *, level: int | None = None) -> Tensor:
    """x (M, columns) times the rows of the weight, (M, rows) float32; for quantized weights x is
    rounded to 8 bits in groups of 32, for bfloat16 to that.

    level: an index into LEVELS; None is the best of this processor.
    """
    native = library()
    assert native is not None
    if x.ndim != 2 or x.shape[1] != weight.columns:
        raise ValueError(
            f"inputs {tuple(x.shape)} do not fit a weight of {weight.rows} rows of "
            f"{weight.columns} columns"
        )
    count = x.shape[0]
    x = x.detach().to("cpu", torch.float32).contiguous()
    y = torch.empty(count, weight.rows)
    scratch = torch.empty(
        native.chatglm_scratch_bytes(weight.kind, count, weight.columns), dtype=torch.uint8
    )
    failed = native.chatglm_linear(
        ctypes.byref(weight), x.data_ptr(), count, y.data_ptr(), scratch.data_ptr(),
        torch.get_num_threads(), best_level() if level is None else level,
    )  # fmt: skip
    if failed:
        raise ValueError(f"level must be 0 to {best_level()}, got {level}")
    return y


def row(weight: Weight, index: int) -> Tensor:
    """Row `index` of the weight in float32."""
    if not 0 <= index < weight.rows:
        raise IndexError(f"row {index} of a weight of {weight.rows} rows")
    native = library()
    assert native is not None
    out = torch.empty(weight.columns)
    native.chatglm_row(ctypes.byref(weight), index, out.data_ptr())
    return out


def quantize(
    weight: Tensor, data: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int
) -> None:
    """Fill tiles with the whole numbers of a weight (rows, columns) of float32 or bfloat16; with
    `zero` they have zero points.
    """
    native = opened()
    assert native is not None
    rows, columns = weight.shape
    whole_weight(data, scale, zero, rows=rows, columns=columns, bits=bits, group=group)
    source = float_weight(weight)
    zeros = None if zero is None else zero.data_ptr()
    call = Quantize(
        source.data, data.data_ptr(), scale.data_ptr(), zeros, rows, columns, group, source.kind,
        bits,
    )  # fmt: skip
    failed = native.chatglm_quantize(ctypes.byref(call), torch.get_num_threads())
    assert not failed

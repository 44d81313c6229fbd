"""SwiGLU and its gradient by the package's native kernel, where it was built."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from chatglm.quantization import native

KINDS = {torch.float32: 0, torch.bfloat16: 1}


class Arguments(ctypes.Structure):
    """ChatglmGate of `csrc/gate.cpp`."""

    _fields_ = [  # noqa: RUF012
        *((name, ctypes.c_void_p) for name in ("x", "dy", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "width")),
        *((name, ctypes.c_int32) for name in ("kind", "num_threads", "level")),
    ]


@cache
def kernel() -> Callable[[object], int] | None:
    """The native function, or None where it was not built or is not wanted."""
    library = native.opened()
    if library is None:
        return None
    function: Callable[[object], int] = library.chatglm_gate
    library.chatglm_gate.argtypes = [ctypes.POINTER(Arguments)]
    library.chatglm_gate.restype = ctypes.c_int
    return function


def can_serve(x: Tensor) -> bool:
    """Whether the kernel computes rows of this kind."""
    is_known = x.dtype in KINDS and x.shape[-1] % 32 == 0
    return kernel() is not None and x.device.type == "cpu" and is_known


def gate(x: Tensor, dy: Tensor | None = None, *, level: int | None = None) -> Tensor:
    """silu(gate) · value (…, F) of rows (gate, value) (…, 2F); with a gradient dy (…, F) of that,
    the gradient (…, 2F) of x.

    level: an index into `native.LEVELS`; None is the best of this processor.
    """
    function = kernel()
    assert function is not None
    x = x.contiguous()
    width = x.shape[-1] // 2
    if dy is not None:
        dy = dy.to(x.dtype).contiguous()
        if dy.shape != (*x.shape[:-1], width):
            raise ValueError(f"a gradient {tuple(dy.shape)} does not fit rows {tuple(x.shape)}")
    out = x.new_empty(*x.shape[:-1], width) if dy is None else torch.empty_like(x)
    call = Arguments(
        x=x.data_ptr(),
        dy=None if dy is None else dy.data_ptr(),
        out=out.data_ptr(),
        rows=x.numel() // x.shape[-1],
        width=width,
        kind=KINDS[x.dtype],
        num_threads=torch.get_num_threads(),
        level=native.best_level() if level is None else level,
    )
    if function(ctypes.byref(call)):
        raise ValueError(f"the gate's kernel refuses rows {tuple(x.shape)} in {x.dtype}")
    return out

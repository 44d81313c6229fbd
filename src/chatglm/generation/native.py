"""Attention over blocks by the package's native kernel, for all sequences of a layer in one call.

It computes each query in an order of its own: in float32 a result is the same to the bit in any
company, in chunks of any size, and wherever its keys lie.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chatglm.generation.joined import JoinedCall
from chatglm.model.position import Rotary
from chatglm.quantization import native

if TYPE_CHECKING:
    from chatglm.generation.cache import KeyValueStore, Span

KINDS = {torch.float32: 0, torch.bfloat16: 1}
KV_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
MOST_WIDTH = 1024

_POINTERS = (
    "qkv out keys values key_scales value_scales cos sin q_norm k_norm "
    "tables offsets firsts places visible"
)
_COUNTS = "stride num_tokens num_sequences num_blocks heads kv_heads width planes turned"
_NUMBERS = "is_interleaved kind kv_kind num_threads level"


class Arguments(ctypes.Structure):
    """ChatglmAttention of `csrc/attention.cpp`."""

    _fields_ = [  # noqa: RUF012
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
        *((name, ctypes.c_int64) for name in _COUNTS.split()),
        *((name, ctypes.c_int32) for name in _NUMBERS.split()),
        ("norm_eps", ctypes.c_float),
    ]


@cache
def kernel() -> Callable[[object], int] | None:
    """The native function, or None where it was not built or is not wanted."""
    library = native.opened()
    if library is None:
        return None
    function: Callable[[object], int] = library.chatglm_attention
    library.chatglm_attention.argtypes = [ctypes.POINTER(Arguments)]
    library.chatglm_attention.restype = ctypes.c_int
    return function


def can_serve(width: int, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel computes attention of this kind."""
    return (
        kernel() is not None
        and device.type == "cpu"
        and dtype in KINDS
        and kv_dtype in KV_KINDS
        and width <= MOST_WIDTH
    )


def arguments(store: KeyValueStore, level: int = -1) -> Arguments:
    """The arguments that say what a store is like; the instruction set is the best unless given."""
    a = Arguments()
    a.num_blocks = store.num_blocks
    a.kv_heads, a.width = store.keys.shape[1], store.width
    a.kv_kind = KV_KINDS[store.dtype]
    a.level = native.best_level() if level < 0 else level
    return a


def place(a: Arguments, spans: Sequence[Span]) -> array[int]:
    """Say where sequences' tokens and blocks lie; the numbers behind it must live as long."""
    offsets, firsts = [0], [0]
    tables: list[int] = []
    places: list[int] = []
    visible: list[int] = []
    for span in spans:
        span.check(a.num_blocks)
        tables += span.table
        places += range(span.start, span.stop)
        visible += span.visible
        offsets.append(len(tables))
        firsts.append(len(places))
    numbers = array("i", [*offsets, *firsts, *places, *visible, *tables])
    size = numbers.itemsize
    a.offsets = at = numbers.buffer_info()[0]
    a.firsts = at = at + size * len(offsets)
    a.places = at = at + size * len(firsts)
    a.visible = at = at + size * len(places)
    a.tables = at + size * len(visible)
    a.num_tokens, a.num_sequences = len(places), len(spans)
    a.num_threads = torch.get_num_threads()
    return numbers


class LayerCall(JoinedCall):
    """One forward's call of the kernel; from layer to layer only the arrays change."""

    def __init__(self, store: KeyValueStore, spans: Sequence[Span], *, level: int = -1) -> None:
        self.store = store
        self.arguments = arguments(store, level)
        self.kept = place(self.arguments, spans)
        self.bases = (store.stored_keys.data_ptr(), store.stored_values.data_ptr())
        self.steps = (
            store.stored_keys.stride(0) * store.stored_keys.element_size(),
            store.stored_values.stride(0) * store.stored_values.element_size(),
        )
        self.rotary: Tensor | None = None
        run = kernel()
        assert run is not None
        self.run = run

    def turn(self, rope: Rotary, cos: Tensor, sin: Tensor) -> None:
        """Take the angles (1, T, P, R/2) of this forward."""
        if self.rotary is cos:
            return
        self.rotary = cos
        self.angles = (cos.contiguous(), sin.contiguous())
        a = self.arguments
        a.cos, a.sin = self.angles[0].data_ptr(), self.angles[1].data_ptr()
        a.planes, a.turned = cos.shape[2], rope.size
        a.is_interleaved = rope.pairs == "interleaved"

    def attend_joined(self, layer: int, rows: Tensor) -> Tensor:
        """What the queries read, (1, T, H·D), from rows (1, T, (H + 2G)·D) of query, key and value
        heads; keys and values are kept.
        """
        a, store = self.arguments, self.store
        rows = rows.contiguous()
        total = rows.shape[-1] // a.width
        a.heads = total - 2 * a.kv_heads
        if rows.shape[:2] != (1, a.num_tokens) or total * a.width != rows.shape[-1] or a.heads < 1:
            raise ValueError(
                f"rows of shape {tuple(rows.shape)} do not fit {a.num_tokens} tokens with heads of "
                f"width {a.width}; the cache was made for another model"
            )
        out = torch.empty(1, a.num_tokens, a.heads * a.width, dtype=rows.dtype)
        a.qkv, a.out, a.stride = rows.data_ptr(), out.data_ptr(), rows.shape[-1]
        a.kind = KINDS[rows.dtype]
        a.keys = self.bases[0] + layer * self.steps[0]
        a.values = self.bases[1] + layer * self.steps[1]
        if store.scales is not None:
            a.key_scales = store.scales[0, layer].data_ptr()
            a.value_scales = store.scales[1, layer].data_ptr()
        if self.run(ctypes.byref(a)):
            raise ValueError(
                f"the native attention refuses {a.heads} heads of width {a.width} in "
                f"{a.kv_heads} groups; set CHATGLM_NATIVE=0 to run without it"
            )
        return out

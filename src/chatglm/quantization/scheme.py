"""The kinds of quantization by name: in how many bits each part of a model is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Bits of a weight, columns of a row that share a scale, and whether 0 is the middle of what
    the bits hold or has a place of its own in each group.

    is_float: 8-bit floats (e4m3) in the place of whole numbers; a row is one group.
    """

    bits: Literal[8, 6, 4]
    group: int
    symmetric: bool = True
    is_float: bool = False


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a model keeps the linears of its layers, its output head and its table of words; None
    leaves a part as it is. A table that is the head as well is kept as words are.
    """

    name: str
    layers: Scheme
    head: Scheme | None
    words: Scheme | None


OUTER: dict[int, Scheme] = {8: Scheme(bits=8, group=64), 6: Scheme(bits=6, group=64)}
"""Head and words by their bits, which are more than those of layers: a head's errors go straight
into the scores, and those of a table that is both enter twice.
"""
_INT8, _FP8 = Scheme(bits=8, group=64), Scheme(bits=8, group=0, is_float=True)


def _int4(name: str, group: int, *, symmetric: bool = True) -> Kind:
    scheme = Scheme(bits=4, group=group, symmetric=symmetric)
    return Kind(name=name, layers=scheme, head=OUTER[6], words=OUTER[8])


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(name="int8", layers=_INT8, head=OUTER[8], words=OUTER[8]),
        Kind(name="int6", layers=Scheme(bits=6, group=64), head=OUTER[8], words=OUTER[8]),
        _int4("int4", 32),
        _int4("int4-g64", 64),
        _int4("int4-g128", 128),
        _int4("int4-zero", 32, symmetric=False),
        _int4("int4-g64-zero", 64, symmetric=False),
        _int4("int4-g128-zero", 128, symmetric=False),
        Kind(name="fp8", layers=_FP8, head=_FP8, words=None),
    )
}
"""What a model can be quantized to while it is loaded."""
INTEGER_KINDS = tuple(name for name, kind in KINDS.items() if not kind.layers.is_float)
"""Those of whole numbers, which can be calibrated and have a form in a file."""

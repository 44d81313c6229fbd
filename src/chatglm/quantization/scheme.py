"""The ways in which linears are quantized, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Bits of a weight, columns of a row that share a scale, and whether 0 is the middle of what
    the bits hold or has a place of its own in each group.
    """

    bits: Literal[8, 4]
    group: int
    symmetric: bool = True


SCHEMES: dict[str, Scheme] = {
    "int8": Scheme(bits=8, group=64),
    "int4": Scheme(bits=4, group=32),
    "int4-g64": Scheme(bits=4, group=64),
    "int4-g128": Scheme(bits=4, group=128),
    "int4-zero": Scheme(bits=4, group=32, symmetric=False),
    "int4-g64-zero": Scheme(bits=4, group=64, symmetric=False),
    "int4-g128-zero": Scheme(bits=4, group=128, symmetric=False),
}
KINDS = (*SCHEMES, "fp8")
"""What a model can be quantized to while it is loaded."""


def scheme_of(linear: str, kind: str) -> Scheme:
    """How a linear is quantized in a model of that kind; the output head keeps 8 bits, since its
    errors go straight into the scores.
    """
    return SCHEMES["int8" if linear == "head" else kind]

"""What config.json says of a checkpoint that is quantized in our own layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from chatglm.errors import CheckpointError
from chatglm.quantization.scheme import INTEGER_KINDS, KINDS, OUTER, Kind

KEY, METHOD = "quantization_config", "chatglm"
_LAYERS = ("bits", "group_size", "symmetric")


def kind_in(table: Mapping[str, object]) -> Kind | None:
    """The kind that a config.json describes, by the name that its layers give it; None where
    nothing is quantized in our layout.
    """
    block = table.get(KEY)
    if not isinstance(block, Mapping) or block.get("quant_method") != METHOD:
        return None
    found = {key: block.get(key) for key in _LAYERS}
    kinds = [KINDS[name] for name in INTEGER_KINDS]
    for kind in kinds:
        if found == layers_of(kind):
            head, words = (outer_bits(block, part) for part in ("head", "embedding"))
            return replace(kind, head=OUTER[head or 8], words=OUTER.get(words))
    known = "; ".join(json.dumps(layers_of(kind)) for kind in kinds)
    raise CheckpointError(f"config.json: {KEY} {json.dumps(found)} is not known; known: {known}")


def outer_bits(block: Mapping[str, object], part: str) -> int:
    """Bits of the head or the word embeddings; 0 where nothing is said of them: the words of such
    files are not quantized, and a head has 8 bits.
    """
    bits = block.get(f"{part}_bits", 0)
    if bits == 0 or (isinstance(bits, int) and bits in OUTER):
        return int(bits)
    raise CheckpointError(
        f"config.json: {KEY} has {part}_bits {json.dumps(bits)}; known: "
        f"{', '.join(map(str, OUTER))}, or leave it out"
    )


def layers_of(kind: Kind) -> dict[str, object]:
    """How the layers of a kind are kept, in the words of config.json."""
    scheme = kind.layers
    return dict(zip(_LAYERS, (scheme.bits, scheme.group, scheme.symmetric), strict=True))


def described(kind: Kind) -> dict[str, object]:
    """A kind in the words of config.json; head and words as `outer_bits` reads them."""
    parts = {"head": kind.head, "embedding": kind.words}
    outer = {f"{part}_bits": scheme.bits for part, scheme in parts.items() if scheme is not None}
    is_old = outer == {"head_bits": 8}
    return layers_of(kind) | ({} if is_old else outer)


def write_kind(folder: Path, kind: Kind) -> None:
    """Say in the config.json of a folder how its weights are quantized."""
    path = folder / "config.json"
    table = json.loads(path.read_text("utf-8"))
    table[KEY] = {"quant_method": METHOD, **described(kind)}
    path.write_text(json.dumps(table, ensure_ascii=False, indent=2) + "\n", "utf-8")

"""What config.json says of a checkpoint whose linears are quantized in our own layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from chatglm.errors import CheckpointError
from chatglm.quantization.scheme import SCHEMES, Scheme

KEY, METHOD = "quantization_config", "chatglm"


def kind_in(table: Mapping[str, object]) -> str | None:
    """The kind that a config.json names; None where it is not quantized in our layout."""
    block = table.get(KEY)
    if not isinstance(block, Mapping) or block.get("quant_method") != METHOD:
        return None
    found = {key: block.get(key) for key in ("bits", "group_size", "symmetric")}
    for kind, scheme in SCHEMES.items():
        if found == described(scheme):
            return kind
    known = "; ".join(json.dumps(described(scheme)) for scheme in SCHEMES.values())
    raise CheckpointError(f"config.json: {KEY} {json.dumps(found)} is not known; known: {known}")


def described(scheme: Scheme) -> dict[str, object]:
    """A scheme in the words of config.json."""
    return {"bits": scheme.bits, "group_size": scheme.group, "symmetric": scheme.symmetric}


def write_kind(folder: Path, kind: str) -> None:
    """Say in the config.json of a folder how its linears are quantized."""
    path = folder / "config.json"
    table = json.loads(path.read_text("utf-8"))
    table[KEY] = {"quant_method": METHOD, **described(SCHEMES[kind])}
    path.write_text(json.dumps(table, ensure_ascii=False, indent=2) + "\n", "utf-8")

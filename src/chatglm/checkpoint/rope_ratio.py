"""What the rope_ratio of a ChatGLM config does, which its name does not say."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast, get_args

from chatglm.checkpoint.configs import Table, number
from chatglm.config import ModelConfig, RopeScaling

RopeRatio = Literal["base", "positions"]

# ChatGLM2-6B-32k divides the positions, later ones multiply the base.
_BY_NAME: dict[str, RopeRatio] = {
    "chatglm2": "positions",
    "codegeex2": "positions",
    "chatglm3": "base",
    "glm-4": "base",
    "longwriter": "base",
}


def with_ratio(
    config: ModelConfig, table: Table, asked: RopeRatio | None
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The config stretched by its table's ratio, and a note of what decided; None as `asked` lets
    the evidence decide.
    """
    ratio = number(table, "rope_ratio", 1.0)
    if ratio == 1:
        return config, ()
    meaning, why = (asked, "as asked") if asked else meaning_of_ratio(table, ratio)
    if meaning == "base":
        config = replace(config, rope_theta=config.rope_theta * ratio)
        told = "multiplies the rotary base"
    else:
        config = replace(config, rope_scaling=RopeScaling(kind="linear", factor=ratio))
        told = "divides the positions"
    note = f"rope_ratio {ratio:g} {told} ({why}); rope_ratio= of the loader overrides this"
    return config, (note,)


def meaning_of_ratio(table: Table, ratio: float) -> tuple[RopeRatio, str]:
    """What rope_ratio does in this config, and the evidence for it."""
    said = table.get("rope_ratio_meaning")  # what our classes for transformers write
    if said in get_args(RopeRatio):
        return cast(RopeRatio, said), "config.json says so"
    name = str(table.get("_name_or_path", "")).lower()
    for part, meaning in _BY_NAME.items():
        if part in name:
            return meaning, f"the name is {table['_name_or_path']}"
    version = str(table.get("transformers_version", ""))
    if version.startswith("4.27"):
        return "positions", f"transformers_version is {version}, ChatGLM2's"
    if version:
        return "base", f"transformers_version is {version}, later than ChatGLM2's"
    if ratio >= 50:
        return "base", "a ratio of 50 and more is ChatGLM3's or GLM-4's"
    if isinstance(table.get("eos_token_id"), list):
        return "base", "several end tokens are GLM-4's"
    return "positions", "a small ratio is ChatGLM2-32k's"

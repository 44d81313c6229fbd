"""What a directory's json files say of a model: config, settings of generation, layout."""

from __future__ import annotations

from dataclasses import dataclass

from chatglm.checkpoint.configs import Format, Table, format_of, number, read_config, whole
from chatglm.checkpoint.rope_ratio import RopeRatio, with_ratio
from chatglm.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Settings of generation that the files give, or the official code of the generation."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    end_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Ids that say where a prefix model's context ends and what it fills; −1 where the files do
    not say.
    """

    sop: int = -1
    gmask: int = -1
    mask: int = -1


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a directory's json files say."""

    format: Format
    config: ModelConfig
    defaults: Defaults
    layout: Layout
    num_learned: int = 0
    notes: tuple[str, ...] = ()


def read_published(
    table: Table, generation: Table | None = None, *, rope_ratio: RopeRatio | None = None
) -> Published:
    """Config, defaults and layout from config.json and generation_config.json.

    rope_ratio: what a ChatGLM config's ratio means, `base` (multiplies the rotary base) or
        `positions` (divides the positions); None decides on evidence and says so in `notes`.
    """
    format = format_of(table)
    config, layout = read_config(format, table), Layout()
    notes: tuple[str, ...] = ()
    if format in ("chatglm2", "chatglm2_heads"):
        config, notes = with_ratio(config, table, rope_ratio)
    if format == "chatglm":
        layout = Layout(
            sop=(sop := whole(table, "bos_token_id", 130004, least=0)),
            # The first config.json files do not name them; they stand before <sop>.
            gmask=whole(table, "gmask_token_id", max(sop - 3, 0), least=0),
            mask=whole(table, "mask_token_id", max(sop - 4, 0), least=0),
        )
    return Published(
        format=format,
        config=config,
        defaults=read_defaults(format, table, generation or {}),
        layout=layout,
        num_learned=whole(table, "pre_seq_len", 0, least=0),
        notes=notes,
    )


# temperature, top_p of the official chat methods, where no generation_config.json says otherwise.
_OFFICIAL = {
    "chatglm": (0.95, 0.7),
    "chatglm2": (0.8, 0.8),
    "chatglm2_heads": (0.8, 0.8),
    "glm": (0.8, 0.8),
    "glm4": (0.8, 0.8),
    "glm4_moe": (1.0, 1.0),
    "glm2021": (0.9, 0.7),
}


def read_defaults(format: Format, table: Table, generation: Table) -> Defaults:
    """Defaults of generation: generation_config.json, else what the official code does."""
    temperature, top_p = _OFFICIAL[format]
    if generation.get("do_sample") is False:
        temperature = 0.0
    ends = generation.get("eos_token_id", table.get("eos_token_id"))
    ends = [ends] if isinstance(ends, int) else ends
    if ends is None:
        ends = []
    if not isinstance(ends, list) or not all(isinstance(i, int) and i >= 0 for i in ends):
        raise ValueError(f"config.json: eos_token_id must be an id or a list of ids, got {ends!r}")
    most = generation.get("max_new_tokens")
    return Defaults(
        temperature=temperature and number(generation, "temperature", temperature),
        top_k=whole(generation, "top_k", 0, least=0),
        top_p=number(generation, "top_p", top_p),
        repetition_penalty=number(generation, "repetition_penalty", 1.0),
        max_new_tokens=None if most is None else whole(generation, "max_new_tokens"),
        end_ids=frozenset(ends),
    )

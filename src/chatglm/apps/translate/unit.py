"""A text to be translated as one, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chatglm.apps.translate.kept import Style

Origin = Literal["model", "pieces", "memory", "fuzzy", "same", "source"]
"""Who made a translation: the model at once, the model piece by piece around what must stay, the
memory, the memory by likeness; `same` had nothing to translate, `source` could not be translated.
"""


@dataclass(frozen=True)
class Unit:
    """A text and how it is marked up."""

    text: str
    style: Style = "plain"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A translation, its origin, and what had to be repaired."""

    text: str
    origin: Origin
    notes: tuple[str, ...] = ()

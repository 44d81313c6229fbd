"""What is asked of a text, and the summary that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from chatglm.apps.summarize.genre import Genre, genre, usual_length
from chatglm.apps.summarize.prompts import FORMS, Form
from chatglm.apps.text import Language, has_letters, language
from chatglm.apps.text_file import InvalidText

Mode = Literal["auto", "extractive", "abstractive"]
MODES: tuple[Mode, ...] = ("auto", "extractive", "abstractive")
HEADLINE_LENGTH = {"zh": 36, "en": 90}
POINT_LENGTH = {"zh": 60, "en": 180}
LATIN_FACTOR = 3
"""An English summary takes about three times the characters of a Chinese one."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A summary and how it came about.

    mode: what was done in the end. sentences: in extractive mode what was taken, in order.
    sections: parts in which the text was read. notes: what had to be repaired.
    """

    text: str
    form: Form
    mode: Mode
    language: Language
    genre: Genre
    sections: int = 1
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON has them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked of one text; `is_exact` where the user gave the length."""

    text: str
    form: Form
    kind: Genre
    lang: Language
    length: int
    is_exact: bool
    points: int
    seed: int | None
    notes: list[str] = field(default_factory=list)


def one_of(value: Mode, allowed: Sequence[Mode], name: str) -> Mode:
    """The value, if it is allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def make_task(text: str, form: Form, length: int | None, points: int, seed: int | None) -> Task:
    """What is asked of a text, checked and with its lengths."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if not has_letters(text):
        raise InvalidText("the text is empty; give at least a sentence")
    if length is not None and length < 8:
        raise ValueError(f"length must be at least 8 characters, got {length}")
    if not 1 <= points <= 50:
        raise ValueError(f"points must lie between 1 and 50, got {points}")
    lang, kind, is_exact = language(text), genre(text), length is not None
    if length is None:
        if form == "headline":
            length = HEADLINE_LENGTH[lang]
        elif form == "points":
            length = POINT_LENGTH[lang] * points
        else:
            length = usual_length(text, kind) * (LATIN_FACTOR if lang == "en" else 1)
    return Task(
        text=text,
        form=form,
        kind=kind,
        lang=lang,
        length=length,
        is_exact=is_exact,
        points=points,
        seed=seed,
    )


def with_text(task: Task, text: str, length: int) -> Task:
    """The task for another text, as a paragraph."""
    return Task(
        text=text,
        form="paragraph",
        kind=task.kind if task.kind != "dialogue" else "article",
        lang=task.lang,
        length=max(length, 20),
        is_exact=True,
        points=task.points,
        seed=task.seed,
    )

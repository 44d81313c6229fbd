"""The bodies of the applications' endpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chatglm.serve.protocol.base import SEEDS, Body

Text = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=-SEEDS, lt=SEEDS)]
Base = Annotated[str, Field(min_length=1, max_length=128)]


class ApplicationBody(Body):
    """What all have in common."""

    model: str | None = Field(None, max_length=256)
    stream: bool | None = None


class SummarizeBody(ApplicationBody):
    """A text, or several, to sum up."""

    text: Text | None = None
    texts: list[Text] | None = Field(None, min_length=1, max_length=1024, fail_fast=True)
    form: Literal["headline", "paragraph", "points"] = "paragraph"
    length: int | None = Field(None, ge=1, le=100_000)
    points: int = Field(5, ge=1, le=100)
    mode: Literal["auto", "extractive", "abstractive"] = "auto"
    seed: Seed | None = None

    @model_validator(mode="after")
    def check(self) -> SummarizeBody:
        """One of the two."""
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either text or texts")
        return self


class TranslateBody(ApplicationBody):
    """A text or document to translate."""

    text: Text
    source: Literal["zh", "en", "lzh"] | None = None
    target: Literal["zh", "en", "lzh"] | None = None
    format: Literal["text", "markdown", "srt", "vtt", "json", "po"] = "text"
    glossary: dict[str, str] | None = Field(None, max_length=10_000)


class WriteBody(ApplicationBody):
    """A form and a topic; or `continue`, `rewrite` or `fill` and a draft."""

    form: Annotated[str, Field(min_length=1, max_length=64)]
    topic: Text
    length: int | None = Field(None, ge=1, le=100_000)
    outline: bool | None = None
    tone: Annotated[str, Field(min_length=1, max_length=64)] = "formal"
    fields: dict[str, str] | None = Field(None, max_length=32)
    seed: Seed | None = None


class SupportBody(ApplicationBody):
    """A customer's question; without a base, the first there is is asked."""

    base: Base | None = None
    question: Text
    session: str | None = Field(None, min_length=1, max_length=128)
    wording: Literal["quote", "model"] = "quote"
    stream: None = None


class FeedbackBody(Body):
    """👍 (1, good) or 👎 (-1, not good) for a reply."""

    base: Base | None = None
    turn: int = Field(ge=1, lt=1 << 63)
    value: Literal[1, -1] | None = None
    good: bool | None = None
    note: str = Field("", max_length=2000)
    session: str | None = Field(None, min_length=1, max_length=128)

    @model_validator(mode="after")
    def check(self) -> FeedbackBody:
        """One of the two."""
        if (self.value is None) == (self.good is None):
            raise ValueError("give either value or good")
        return self

    @property
    def mark(self) -> int:
        """1 or -1."""
        return self.value or (1 if self.good else -1)


class DeskBody(Body):
    """What a person at the desk does with a hand-over: answers, or gives the talk back."""

    base: Base | None = None
    agent: str = Field("agent", min_length=1, max_length=128)
    text: str | None = Field(None, min_length=1, max_length=10_000)
    close: bool = False

    @model_validator(mode="after")
    def check(self) -> DeskBody:
        """Something is done."""
        if self.text is None and not self.close:
            raise ValueError("give a text, or close: true")
        return self

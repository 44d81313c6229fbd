"""`/v1/fill`: a text with blanks."""

from __future__ import annotations

from pydantic import Field

from chatglm.serve.protocol.base import MAX_TOKENS, SamplingBody


class FillBody(SamplingBody):
    """A text whose `[MASK]`, `[sMASK]` and `[gMASK]` are to be filled, from left to right."""

    text: str = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    n: int | None = Field(None, ge=1, le=1)

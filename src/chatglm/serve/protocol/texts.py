"""`/v1/completions`, `/v1/embeddings` and the tokenizer's endpoints: texts and ids."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from chatglm.serve.protocol.base import MAX_TOKENS, Body, SamplingBody
from chatglm.serve.protocol.chat import MessageBody, Tool

MAX_PROMPTS = 2048
MAX_IDS = 1 << 21

Id = Annotated[int, Field(ge=0, lt=1 << 31)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
ManyIds = Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
Prompts = str | Texts | Ids | ManyIds


def listed(prompts: Prompts) -> list[str] | list[list[int]]:
    """One prompt or several as a list."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts[0], int):
        return [prompts]
    return prompts


class CompletionBody(SamplingBody):
    """A request to write on."""

    prompt: Prompts
    suffix: str | None = None
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: int | None = Field(None, ge=1, le=20)

    @model_validator(mode="after")
    def check_completion(self) -> CompletionBody:
        """Fields that need each other."""
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of must be n; ask for n replies and choose")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens may be 0 with echo only")
        if self.suffix and self.echo:
            raise ValueError("echo does not go with suffix")
        if self.suffix and not all(isinstance(p, str) for p in listed(self.prompt)):
            raise ValueError("suffix goes with prompts that are text")
        return self

    @property
    def limit(self) -> int:
        """Most tokens of a reply; OpenAI's default is 16."""
        return 16 if self.max_tokens is None else self.max_tokens


class EmbeddingBody(Body):
    """A request for vectors."""

    model: str | None = Field(None, max_length=256)
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=1 << 20)


class TokenizeBody(Body):
    """A text, or a conversation, whose tokens are asked for."""

    model: str | None = Field(None, max_length=256)
    prompt: str | None = None
    messages: list[MessageBody] | None = Field(None, min_length=1, max_length=4096, fail_fast=True)
    tools: list[Tool] | None = Field(None, max_length=128, fail_fast=True)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def check(self) -> TokenizeBody:
        """One of the two."""
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeBody(Body):
    """Tokens whose text is asked for."""

    model: str | None = Field(None, max_length=256)
    tokens: Annotated[list[Id], Field(max_length=MAX_IDS, fail_fast=True)]

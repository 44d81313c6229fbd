"""What all request bodies have in common."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from chatglm.generation.sampling import Sampling

NO_OPS = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "verbosity",
)
"""Fields that change no answer: they are accepted and ignored."""

MAX_FIELDS = 256
MAX_STOPS = 4
MAX_TOKENS = 1 << 20
SEEDS = 1 << 63

Stop = str | Annotated[list[str], Field(fail_fast=True)] | None


class Body(BaseModel):
    """A JSON object with known fields, each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def ignore_no_ops(cls, data: object) -> object:
        """The body without the fields that are ignored; of very many fields, the first few."""
        if not isinstance(data, Mapping):
            return data
        data = dict(islice(data.items(), MAX_FIELDS))
        return {k: v for k, v in data.items() if k not in NO_OPS or k in cls.model_fields}


class StreamOptions(Body):
    """What a stream tells besides."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SamplingBody(Body):
    """A request that is answered by sampling; what is left out is the model's own default."""

    model: str | None = Field(None, max_length=256)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1 << 31)
    min_p: float | None = Field(None, ge=0, lt=1)
    repetition_penalty: float | None = Field(None, ge=0.001, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=1024
    )
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS)
    stop: Stop = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128)
    ignore_eos: bool | None = None

    @field_validator("stop")
    @classmethod
    def check_stop(cls, stop: Stop) -> Stop:
        """At most four strings, none of them empty."""
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > MAX_STOPS:
            raise ValueError(f"takes {MAX_STOPS} strings at most, got {len(stops)}")
        if any(len(text) > 256 for text in stops):
            raise ValueError("a stop string has 256 characters at most")
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def check_bias(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        """Token ids as keys."""
        for key in bias or {}:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ValueError(f"keys are token ids, got {key[:40]!r}")
        return bias

    @model_validator(mode="after")
    def check_options(self) -> SamplingBody:
        """`stream_options` only where there is a stream."""
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for requests with stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def settings(self) -> dict[str, object]:
        """The given fields in `Sampling`'s words."""
        names = (
            "temperature",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "seed",
        )
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.top_k is not None:
            given["top_k"] = max(self.top_k, 0)
        if self.logit_bias:
            given["logit_bias"] = {int(key): value for key, value in self.logit_bias.items()}
        if self.ignore_eos:
            given["stop_ids"] = frozenset()
        if self.stops:
            given["stop"] = self.stops
        return given


__all__ = ["MAX_TOKENS", "NO_OPS", "Body", "Sampling", "SamplingBody", "StreamOptions"]

"""What a user may set by keyword, over the model's own defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from chatglm.checkpoint import Defaults
from chatglm.generation.sampling import Processor, Sampling


class Options(TypedDict, total=False):
    """Settings of one request, by keyword; see `Sampling` for what they mean."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    max_new_tokens: int | None
    stop: str | Sequence[str]
    seed: int | None
    best_of: int | None
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    speculate: int
    adapter: str
    processor: Processor | None


def sampling_of(defaults: Defaults, options: Options) -> Sampling:
    """The model's own defaults with the user's options over them."""
    settings: Options = {
        "temperature": defaults.temperature,
        "top_k": defaults.top_k,
        "top_p": defaults.top_p,
        "repetition_penalty": defaults.repetition_penalty,
        "max_new_tokens": defaults.max_new_tokens,
    }
    if options.get("num_beams", 1) > 1:
        settings["temperature"] = 0.0  # a search draws nothing
    for key, value in options.items():
        if value is not None:
            settings[key] = value  # type: ignore[literal-required]
    stop = settings.pop("stop", ())
    settings["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return Sampling(**settings)  # type: ignore[arg-type]

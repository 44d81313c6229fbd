"""What goes into the engine and what comes out: requests, their checks, their outputs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from chatglm.generation.sampling import Sampler, Sampling
from chatglm.prompt import Prompt

Finish = Literal["stop", "length"]
TokenScore = tuple[float, dict[int, float]]
"""The log-probability of a token, and those of the likeliest ids in its place; in nats."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """One token of one request.

    token: None where there is none: after an error, or where no new token was asked for.
    finish: `stop` after a stop id, `length` at the limit, None while it goes on. error: why the
    request ended without a token. logprob, top_logprobs: in nats, of the model's own distribution,
    where they were asked for. num_cached: tokens of the prompt that were found in the prefix cache.
    prompt_logprobs: with the first output of a request that asked for them, one entry a token of
    the prompt; None for the first and for those that the model sees from both sides.
    """

    id: int
    token: int | None
    finish: Finish | None = None
    error: Exception | None = None
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None
    num_cached: int = 0
    prompt_logprobs: list[TokenScore | None] | None = None


@dataclass(kw_only=True)
class Request:
    """A sequence on its way: what was asked, and how many of its tokens the cache holds.

    is_reading: it catches up with its tokens, after its arrival or a preemption. root, keys: where
    its chain of block keys starts (None: it shares nothing), and the chain as far as it was read.
    drafts: tokens that are tried after its last one in this step.
    """

    id: int
    prompt: Prompt
    sampling: Sampling
    sampler: Sampler
    stop_ids: frozenset[int]
    limit: int
    root: bytes | None
    num_read: int = 0
    num_cached: int = 0
    is_reading: bool = True
    keys: list[bytes] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    outputs: deque[Output] = field(default_factory=deque)
    prompt_logprobs: list[TokenScore | None] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        """Prompt and reply so far."""
        return self.sampler.tokens

    @property
    def num_new(self) -> int:
        """Tokens of the reply so far."""
        return len(self.tokens) - len(self.prompt.tokens)

    @property
    def fed(self) -> list[int]:
        """What the next forward of this request reads: what is pending, and the drafts."""
        return [*self.tokens[self.num_read :], *self.drafts]


def check(prompt: Prompt, sampling: Sampling, vocab_size: int, max_length: int) -> None:
    """A ValueError where a request cannot be run."""
    length = len(prompt.tokens)
    if not length:
        raise ValueError("the prompt is empty; give at least one token")
    if length >= max_length + (sampling.max_new_tokens == 0):
        raise ValueError(
            f"the prompt has {length} tokens and the model's context holds {max_length}, reply "
            "included; shorten the prompt"
        )
    low, high = min(prompt.tokens), max(prompt.tokens)
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        raise ValueError(
            f"token ids must lie between 0 and {vocab_size - 1}, got {wrong}; "
            "encode the text with this model's own tokenizer"
        )
    for token in sampling.logit_bias:
        if not 0 <= token < vocab_size:
            raise ValueError(f"logit_bias names token {token}; ids go from 0 to {vocab_size - 1}")

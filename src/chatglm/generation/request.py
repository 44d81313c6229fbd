"""What goes into the engine and what comes out: requests, their checks, their outputs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from chatglm.generation.beams import Beams
from chatglm.generation.sampling import Sampler, Sampling, TokenScore
from chatglm.prompt import Prompt

__all__ = ["Branch", "Finish", "Output", "Request", "TokenScore", "check"]

Finish = Literal["stop", "length"]


@dataclass(kw_only=True, slots=True)
class Output:
    """One token of one reply to one request.

    index: which of its replies. token: None where there is none: after an error, or where no new
    token was asked for. finish: `stop` after a stop id, `length` at the limit, None while it goes
    on. error: why the request ended without a token. logprob, top_logprobs: in nats, of the model's
    own distribution, where they were asked for. num_cached: tokens of the prompt that were found in
    the prefix cache. prompt_logprobs: with the first output of a request that asked for them, one
    entry a token of the prompt; None for the first and for those that the model sees from both
    sides.
    """

    id: int
    token: int | None
    index: int = 0
    finish: Finish | None = None
    error: Exception | None = None
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None
    num_cached: int = 0
    prompt_logprobs: list[TokenScore | None] | None = None


@dataclass(kw_only=True)
class Request:
    """What was asked: a prompt and the branches that answer it.

    num_open: replies that have not ended. has_begun: whether an output was told.
    start: the scores after the prompt, until all branches have begun. beams: of a search. root:
    where its chain of block keys starts (None: it shares nothing). prompt_logprobs: as far as the
    prompt was read.
    """

    id: int
    prompt: Prompt
    sampling: Sampling
    stop_ids: frozenset[int]
    limit: int
    root: bytes | None
    branches: list[Branch] = field(default_factory=list)
    outputs: deque[Output] = field(default_factory=deque)
    prompt_logprobs: list[TokenScore | None] = field(default_factory=list)
    num_cached: int = 0
    start: Tensor | None = None
    beams: Beams | None = None
    has_begun: bool = False
    num_open: int = 1

    @property
    def is_held(self) -> bool:
        """Whether nothing is told before all branches have ended."""
        return self.beams is not None or self.sampling.best_of is not None


@dataclass(kw_only=True)
class Branch:
    """One reply on its way, and how many of its tokens the cache holds.

    is_reading: it catches up with its tokens, after its arrival or a preemption. keys: the chain of
    block keys as far as it was read; num_kept: how many of its blocks can be found by them. drafts:
    tokens that are tried after its last one in this step; width: how many, at most; num_drafted,
    num_accepted: of all steps. held: outputs that are not told yet;
    total: the sum of their log-probabilities.
    """

    id: int
    index: int
    request: Request
    sampler: Sampler
    num_read: int = 0
    num_kept: int = 0
    is_reading: bool = True
    keys: list[bytes] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)
    width: int = 4
    num_drafted: int = 0
    num_accepted: int = 0
    held: list[Output] = field(default_factory=list)
    total: float = 0.0

    @property
    def tokens(self) -> list[int]:
        """Prompt and reply so far."""
        return self.sampler.tokens

    @property
    def num_new(self) -> int:
        """Tokens of the reply so far."""
        return len(self.tokens) - len(self.request.prompt.tokens)

    @property
    def fed(self) -> list[int]:
        """What the next forward reads of it: what is pending, and the drafts."""
        return [*self.tokens[self.num_read :], *self.drafts]

    @property
    def num_fed(self) -> int:
        """How many tokens that is."""
        return len(self.tokens) - self.num_read + len(self.drafts)

    @property
    def num_wanted(self) -> int:
        """How many drafts are worth trying now."""
        room = self.request.limit - self.num_new - 1
        if self.request.beams is not None:
            return 0
        return max(min(self.request.sampling.speculate, self.width, room), 0)

    def judge(self, num_accepted: int, num_drafted: int) -> None:
        """Learn from drafts how many to try next."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        if num_accepted == num_drafted:
            self.width = min(2 * self.width, self.request.sampling.speculate)
        else:
            self.width = num_accepted + 1


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

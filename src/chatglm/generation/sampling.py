"""How the next token is chosen from the logits: one request's settings and its own random generator."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Processor = Callable[[Sequence[int], Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """One request's settings.

    temperature: 0 is greedy. top_k: 0 keeps all. top_p, min_p: shares of probability (arXiv:1904.09751;
    arXiv:2407.01082). repetition_penalty divides the scores of tokens seen in prompt or reply (arXiv:1909.05858);
    presence_penalty and frequency_penalty are subtracted for tokens of the reply, once and per occurrence.
    stop: strings that end the reply and are not part of it. stop_ids: token ids that do (None: the model's own).
    max_new_tokens: None fills the context. seed: None draws one.
    processor: called with the tokens so far and the logits (V,), returns logits; for constraints of one's own.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] | None = None
    seed: int | None = None
    logprobs: int | None = None
    processor: Processor | None = None

    def __post_init__(self) -> None:
        at_least_0 = "use 0 for greedy decoding"
        if not self.temperature >= 0 or math.isinf(self.temperature):
            raise ValueError(f"temperature must be at least 0, got {self.temperature}; {at_least_0}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, got {self.top_k}; use 0 to keep all tokens")
        if not 0 < self.top_p <= 1:
            raise ValueError(
                f"top_p must be above 0 and at most 1, got {self.top_p}; use 1 to keep all tokens"
            )
        if not 0 <= self.min_p < 1:
            raise ValueError(
                f"min_p must be at least 0 and below 1, got {self.min_p}; use 0 to keep all tokens"
            )
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty must be above 0, got {self.repetition_penalty}; use 1 for none"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not -100 <= getattr(self, name) <= 100:
                raise ValueError(
                    f"{name} must lie between -100 and 100, got {getattr(self, name)}; use 0 for none"
                )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(
                f"max_new_tokens must be at least 1, got {self.max_new_tokens}; "
                "leave it out to fill the context"
            )
        if "" in self.stop:
            raise ValueError("stop must not hold an empty string; leave it out")
        if self.logprobs is not None and not 0 <= self.logprobs <= 20:
            raise ValueError(f"logprobs must lie between 0 and 20, got {self.logprobs}")


class Sampler:
    """Draws a request's tokens; what it draws depends on its own settings, tokens and seed alone."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], device: torch.device) -> None:
        self.sampling = sampling
        self.tokens = list(prompt)
        self.reply_counts: Counter[int] = Counter()
        self.seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self.generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self.generator = torch.Generator(device)
            seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
            self.generator.manual_seed(seed % 2**64)
        s = sampling
        self.adjusts = bool(
            s.repetition_penalty != 1
            or s.presence_penalty
            or s.frequency_penalty
            or s.logit_bias
            or s.processor
        )

    def next(self, logits: Tensor) -> int:
        """The next token for logits (V,) in float32; remembers it."""
        if self.adjusts:
            logits = self.adjust(logits)
        token = (
            int(logits.argmax()) if self.generator is None else self.draw(logits, self.generator)
        )
        if not -math.inf < float(logits[token]) < math.inf:
            raise ValueError(
                "the model gave no finite score for any token; its weights are damaged or its dtype is too narrow"
            )
        self.tokens.append(token)
        if self.adjusts:
            self.reply_counts[token] += 1
            if self.sampling.repetition_penalty != 1:
                self.seen.add(token)
        return token

    def adjust(self, logits: Tensor) -> Tensor:
        """Logits with bias, penalties and the caller's processor."""
        s = self.sampling
        logits = logits.clone()
        if self.seen:
            ids = torch.tensor(sorted(self.seen), device=logits.device)
            scores = logits[ids]
            logits[ids] = torch.where(
                scores > 0, scores / s.repetition_penalty, scores * s.repetition_penalty
            )
        if self.reply_counts and (s.presence_penalty or s.frequency_penalty):
            ids = torch.tensor(list(self.reply_counts), device=logits.device)
            counts = torch.tensor(list(self.reply_counts.values()), device=logits.device)
            logits[ids] -= s.presence_penalty + s.frequency_penalty * counts
        for token, bias in s.logit_bias.items():
            logits[token] += bias
        return logits if s.processor is None else s.processor(self.tokens, logits)

    def draw(self, logits: Tensor, generator: torch.Generator) -> int:
        """One token from the softmax of the logits over temperature, cut by top_k, min_p and top_p."""
        s = self.sampling
        logits = torch.nan_to_num(logits / s.temperature, nan=-torch.inf)
        ids: Tensor | None = None
        if 0 < s.top_k < len(logits):
            logits, ids = logits.topk(s.top_k)
        elif s.top_p < 1:
            logits, ids = logits.sort(descending=True)
        shares = logits.softmax(-1)
        if s.min_p > 0:
            shares = shares.masked_fill(shares < s.min_p * shares.max(), 0.0)
        if s.top_p < 1:
            total = shares.sum()
            before = shares.cumsum(-1) - shares  # what stands ahead of each token
            shares = shares.masked_fill(before >= s.top_p * total, 0.0)
        if not bool(shares.sum() > 0):
            return int(logits.argmax())
        index = int(torch.multinomial(shares, 1, generator=generator))
        return index if ids is None else int(ids[index])


def log_probabilities(logits: Tensor, token: int, num_top: int) -> tuple[float, dict[int, float]]:
    """Log-probability of `token` and of the `num_top` likeliest tokens, in nats, from logits (V,)."""
    logs = logits.log_softmax(-1)
    top = logs.topk(num_top)
    likeliest = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return float(logs[token]), likeliest

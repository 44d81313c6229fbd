"""How the next token is chosen: one request's settings and its own random generator."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

TokenScore = tuple[float, dict[int, float]]
"""The log-probability of a token, and those of the likeliest ids in its place; in nats."""
Processor = Callable[[Sequence[int], Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """One request's settings.

    temperature: 0 is greedy. top_k: 0 keeps all. top_p, min_p: shares of probability
    (arXiv:1904.09751; arXiv:2407.01082). repetition_penalty divides the scores of tokens seen in
    prompt or reply (arXiv:1909.05858); presence_penalty and frequency_penalty are subtracted for
    tokens of the reply, once and per occurrence.
    stop: strings that end the reply and are not part of it. stop_ids: token ids that do (None: the
    model's own).
    max_new_tokens: None fills the context; 0 reads the prompt only, for prompt_logprobs.
    seed: None draws one. logprobs, prompt_logprobs: how many of the likeliest ids are told beside
    each token of the reply and of the prompt; None tells nothing.
    n: replies to one prompt, each with a generator of its own. best_of: so many are made, and the n
    of the highest mean log-probability are given, once all have ended.
    num_beams: above 1 a search for the likeliest reply, which takes temperature 0; replies are
    compared by their log-probability divided by length ** length_penalty. early_stopping: True
    ends the search with the first num_beams replies, False when a better one is unlikely, `never`
    when none can follow.
    speculate: how many tokens may be tried ahead, 0 for none; the reply does not change.
    adapter: the name of one that was added to the engine; None is the model as it was loaded.
    cache_salt: requests with unlike salts share nothing in the prefix cache.
    processor: called with the tokens so far and the logits (V,), returns logits; for constraints of
    one's own.
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
    prompt_logprobs: int | None = None
    n: int = 1
    best_of: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    speculate: int = 0
    adapter: str | None = None
    cache_salt: str | None = None
    processor: Processor | None = None

    @property
    def num_sequences(self) -> int:
        """How many sequences the request runs as."""
        return max(self.n, self.best_of or 1, self.num_beams)

    def __post_init__(self) -> None:
        for name, (is_right, rule, remedy) in _RULES.items():
            value = getattr(self, name)
            if name == "max_new_tokens" and value == 0 and self.prompt_logprobs is not None:
                continue
            if value is not None and not is_right(value):
                raise ValueError(f"{name} must {rule}, got {value}; {remedy}")
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(
                f"best_of must be at least n, got {self.best_of} for n {self.n}; leave it out"
            )
        if self.num_beams > 1 and (self.temperature or self.best_of or self.n > self.num_beams):
            raise ValueError(
                f"num_beams {self.num_beams} searches for the likeliest replies: it takes "
                "temperature 0, no best_of, and n up to num_beams; set these or num_beams 1"
            )
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(
                f"early_stopping must be True, False or 'never', got {self.early_stopping!r}; "
                "leave it out for False"
            )
        if isinstance(self.stop, str) or "" in self.stop:
            raise ValueError(
                f'stop must be strings that are not empty, got {self.stop!r}; give e.g. ("。",)'
            )


COLDEST = 1e-5
"""Below this temperature nothing changes any more but that scores would overflow."""
_RULES: dict[str, tuple[Callable[[float], bool], str, str]] = {
    "temperature": (
        lambda x: 0 <= x < math.inf,
        "be at least 0",
        "use 0 for greedy decoding",
    ),
    "top_k": (lambda x: x >= 0, "be at least 0", "use 0 to keep all tokens"),
    "top_p": (lambda x: 0 < x <= 1, "be above 0 and at most 1", "use 1 to keep all tokens"),
    "min_p": (lambda x: 0 <= x < 1, "be at least 0 and below 1", "use 0 to keep all tokens"),
    "repetition_penalty": (lambda x: 0.001 <= x < math.inf, "be at least 0.001", "use 1 for none"),
    "presence_penalty": (lambda x: -100 <= x <= 100, "lie between -100 and 100", "use 0 for none"),
    "frequency_penalty": (lambda x: -100 <= x <= 100, "lie between -100 and 100", "use 0 for none"),
    "max_new_tokens": (lambda x: x >= 1, "be at least 1", "leave it out to fill the context"),
    "logprobs": (lambda x: 0 <= x <= 20, "lie between 0 and 20", "leave it out for none"),
    "n": (lambda x: 1 <= x <= 128, "lie between 1 and 128", "use 1 for one reply"),
    "best_of": (lambda x: 1 <= x <= 128, "lie between 1 and 128", "leave it out for none"),
    "num_beams": (lambda x: 1 <= x <= 64, "lie between 1 and 64", "use 1 for no search"),
    "speculate": (lambda x: 0 <= x <= 64, "lie between 0 and 64", "use 0 for none, 8 is usual"),
    "length_penalty": (lambda x: -10 <= x <= 10, "lie between -10 and 10", "use 1, or 0 for none"),
    "prompt_logprobs": (lambda x: 0 <= x <= 20, "lie between 0 and 20", "leave it out for none"),
}


def seeds(sampling: Sampling) -> list[int]:
    """A seed for each sequence of a request; the first has the request's own."""
    first = secrets.randbits(63) if sampling.seed is None else sampling.seed
    return [first + i * 0x9E3779B97F4A7C15 for i in range(sampling.num_sequences)]


class Sampler:
    """Draws a sequence's tokens; they depend on its own settings, tokens and seed alone."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        device: torch.device,
        *,
        seed: int | None = None,
    ) -> None:
        self.sampling = s = sampling
        self.tokens = list(prompt)
        self.reply_counts: Counter[int] = Counter()
        self.seen = set(prompt) if s.repetition_penalty != 1 else set()
        self.generator: torch.Generator | None = None
        if s.temperature > 0:
            self.generator = torch.Generator(device)
            self.generator.manual_seed((seeds(s)[0] if seed is None else seed) % 2**64)
        self.adjusts = bool(
            s.repetition_penalty != 1
            or s.presence_penalty
            or s.frequency_penalty
            or s.logit_bias
            or s.processor
        )

    @property
    def takes_likeliest(self) -> bool:
        """Whether the choice is the highest score as the model gives it."""
        return self.generator is None and not self.adjusts

    def next(self, logits: Tensor) -> int:
        """The next token for logits (V,) in float32."""
        if self.adjusts:
            logits = self.adjust(logits)
        if self.generator is None:
            score, token = (x.item() for x in logits.max(-1))
        else:
            token = self.draw(logits, self.generator)
            score = logits[token].item()
        check_finite(score)
        return int(token)

    def remember(self, token: int) -> None:
        """Count a token of the reply."""
        self.tokens.append(token)
        if self.adjusts:
            self.reply_counts[token] += 1
            if self.sampling.repetition_penalty != 1:
                self.seen.add(token)

    def fork(self) -> Sampler:
        """Another with the same past."""
        twin = copy(self)
        twin.tokens, twin.seen = list(self.tokens), set(self.seen)
        twin.reply_counts = Counter(self.reply_counts)
        return twin

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
        """One token from softmax(logits / temperature), cut by top_k, min_p and top_p."""
        s = self.sampling
        logits = torch.nan_to_num(logits, nan=-torch.inf) / max(s.temperature, COLDEST)
        ids: Tensor | None = None
        if 0 < s.top_k < len(logits):
            logits, ids = logits.topk(s.top_k)
            shares = logits.softmax(-1)
        elif s.top_p < 1:
            shares, ids = likeliest(logits.softmax(-1), s.top_p)
        else:
            shares = logits.softmax(-1)
        if s.min_p > 0:
            shares = shares.masked_fill(shares < s.min_p * shares.max(), 0.0)
        if s.top_p < 1:
            before = shares.cumsum(-1) - shares  # what stands ahead of each token
            total = shares.sum() if s.min_p > 0 or s.top_k > 0 else 1.0
            shares = shares.masked_fill(before >= s.top_p * total, 0.0)
        index = pick(shares, generator)
        if index is None:
            index = int(logits.argmax()) if ids is None else 0
        return index if ids is None else int(ids[index])


def pick(shares: Tensor, generator: torch.Generator) -> int | None:
    """An index drawn in proportion to shares (V,); None where all are 0.

    One number a draw, looked up in the sums: torch.multinomial draws a number for every word.
    """
    sums = shares.cumsum(-1, dtype=torch.float64)
    at = torch.rand((), dtype=torch.float64, device=shares.device, generator=generator) * sums[-1]
    index = int(torch.searchsorted(sums, at, right=True))
    return index if index < len(shares) else None


def best_of(logits: Tensor) -> tuple[list[float], list[int]]:
    """The highest score of each row of logits (R, V), and whose it is; NaN where there is one."""
    if logits.device.type != "cpu":
        best = logits.max(-1)
        return best.values.tolist(), best.indices.tolist()
    rows = logits.numpy()  # finds it five times faster than PyTorch
    tokens: list[int] = rows.argmax(-1).tolist()
    return [float(rows[i, token]) for i, token in enumerate(tokens)], tokens


def check_finite(score: float) -> None:
    """A ValueError where the best score is none."""
    if not -math.inf < score < math.inf:
        raise ValueError(
            f"the best score of the model is {score}; its weights are damaged or its dtype is too "
            "narrow, try dtype float32"
        )


def likeliest(shares: Tensor, top_p: float, first: int = 256) -> tuple[Tensor, Tensor]:
    """Shares and ids in falling order, so many that they come to top_p; all if need be."""
    if len(shares) > first:
        top = shares.topk(first)
        if bool(top.values.sum() >= top_p):
            return top.values, top.indices
    everything = shares.sort(descending=True)
    return everything.values, everything.indices


def log_probabilities(logits: Tensor, token: int, num_top: int) -> tuple[float, dict[int, float]]:
    """Log-probabilities of `token` and of the `num_top` likeliest, in nats, from logits (V,)."""
    return score_tokens(logits[None], [token], num_top)[0]


def score_tokens(logits: Tensor, tokens: Sequence[int], num_top: int) -> list[TokenScore]:
    """`log_probabilities` of each token under its row of logits (T, V)."""
    logs = logits.log_softmax(-1)  # (T, V)
    own = logs.gather(1, torch.tensor(list(tokens), device=logs.device)[:, None])
    top = logs.topk(num_top)
    rows = zip(own[:, 0].tolist(), top.indices.tolist(), top.values.tolist(), strict=True)
    return [(score, dict(zip(ids, scores, strict=True))) for score, ids, scores in rows]

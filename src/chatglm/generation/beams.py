"""Beam search: the likeliest continuations of one prompt, kept side by side."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatglm.generation.sampling import Sampling, TokenScore, check_finite, score_tokens


@dataclass(frozen=True)
class Hypothesis:
    """A continuation: its tokens, their scores, and the sum of their log-probabilities.

    ended: whether a stop id ended it.
    """

    tokens: tuple[int, ...]
    scores: tuple[TokenScore | None, ...]
    total: float
    ended: bool = False


@dataclass(kw_only=True)
class Beams:
    """The state of one search, as `transformers` defines it.

    Each step takes the likeliest of all one-token continuations. Those that end are finished if
    they are among the `num_beams` best, with their sum of log-probabilities divided by their length
    to the power of `length_penalty`; the best of the others go on. The search ends when no running
    one can still become better than the worst finished: with early_stopping True as soon as there
    are `num_beams` finished, with False judged by the present length, with `never` by the longest.
    """

    sampling: Sampling
    stop_ids: frozenset[int]
    limit: int
    running: list[Hypothesis] = field(default_factory=list)
    finished: list[tuple[float, Hypothesis]] = field(default_factory=list)
    logits: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # All begin alike; only the first counts, so that they do not stay alike.
        rest = [Hypothesis((), (), -1e9)] * (self.sampling.num_beams - 1)
        self.running = [Hypothesis((), (), 0.0), *rest]

    @property
    def is_ready(self) -> bool:
        """Whether the scores of all running continuations have come in."""
        return len(self.logits) == self.sampling.num_beams

    def advance(self, log_probs: Tensor) -> list[tuple[int, int]]:
        """Which continuation each of the next ones extends, and by which token; empty at the end.

        log_probs: (num_beams, V) of the next token, after penalties.
        """
        k, vocab_size = log_probs.shape
        totals = torch.tensor([h.total for h in self.running], device=log_probs.device)
        candidates = (log_probs + totals[:, None]).flatten()
        most = min(max(2, 1 + len(self.stop_ids)) * k, len(candidates))
        best = candidates.topk(most)
        raw = torch.stack([self.logits[b] for b in range(k)])
        self.logits.clear()
        check_finite(float(best.values[0]))
        going: list[tuple[int, int, Hypothesis]] = []
        length = len(self.running[0].tokens) + 1
        is_last = length >= self.limit
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        for rank, (total, index) in enumerate(pairs):
            parent, token = divmod(index, vocab_size)
            ends = token in self.stop_ids
            if (ends or is_last) and rank < k:
                hypothesis = self.extended(parent, token, total, raw, ended=ends)
                self.finish(total / length**self.sampling.length_penalty, hypothesis)
            elif not ends and len(going) < k:
                going.append((parent, token, self.extended(parent, token, total, raw)))
        if len(going) < k and not self.finished:
            for _, _, hypothesis in going:
                self.finish(hypothesis.total / length**self.sampling.length_penalty, hypothesis)
        if is_last or len(going) < k or self.is_over(going[0][2].total, length):
            return []
        self.running = [hypothesis for _, _, hypothesis in going]
        return [(parent, token) for parent, token, _ in going]

    def extended(
        self, parent: int, token: int, total: float, logits: Tensor, *, ended: bool = False
    ) -> Hypothesis:
        """A continuation with one more token, whose own scores are told where asked for."""
        before = self.running[parent]
        score: TokenScore | None = None
        if self.sampling.logprobs is not None:
            score = score_tokens(logits[parent][None], [token], self.sampling.logprobs)[0]
        return Hypothesis((*before.tokens, token), (*before.scores, score), total, ended)

    def finish(self, score: float, hypothesis: Hypothesis) -> None:
        """Keep a finished continuation if it is among the best."""
        self.finished.append((score, hypothesis))
        self.finished.sort(key=lambda pair: pair[0], reverse=True)
        del self.finished[self.sampling.num_beams :]

    def is_over(self, best_total: float, length: int) -> bool:
        """Whether no running continuation, the best with this sum, is worth going on with."""
        if len(self.finished) < self.sampling.num_beams:
            return False
        if self.sampling.early_stopping is True:
            return True
        penalty = self.sampling.length_penalty
        if self.sampling.early_stopping == "never" and penalty > 0:
            length = self.limit
        return best_total / length**penalty <= self.finished[-1][0]

    @property
    def results(self) -> list[Hypothesis]:
        """The best finished continuations, as many as were asked for."""
        return [hypothesis for _, hypothesis in self.finished[: self.sampling.n]]

"""Held-out bits per character: how well a model foretells text, whatever its tokenizer."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from chatglm.model import Transformer

# ids of a text with its end token → summed negative log-likelihood in nats of all but the first
Scorer = Callable[[Sequence[int]], float]


@dataclass(kw_only=True)
class Tally:
    """Sums over the texts of a domain."""

    num_texts: int = 0
    num_characters: int = 0
    nats: float = 0.0

    @property
    def bits_per_character(self) -> float:
        """Σ −log₂ p(token) over all tokens, divided by the characters of the texts."""
        return self.nats / math.log(2) / max(self.num_characters, 1)


def read_texts(path: str | Path) -> list[tuple[str, str]]:
    """(domain, text) of a jsonl file with `text` and, if given, `domain`."""
    rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    return [(str(row.get("domain", "all")), row["text"]) for row in rows]


def score(
    texts: Iterable[tuple[str, str]],
    encode: Callable[[str], list[int]],
    scorer: Scorer,
    start: int,
) -> dict[str, Tally]:
    """Tallies by domain, `all` last. Every text is predicted from its first token on, after the
    token `start`.
    """
    tallies: dict[str, Tally] = defaultdict(Tally)
    for domain, text in texts:
        nats = scorer([start, *encode(text)])
        for name in (domain, "all"):
            tally = tallies[name]
            tally.num_texts += 1
            tally.num_characters += len(text)
            tally.nats += nats
    total = tallies.pop("all")
    return {**dict(sorted(tallies.items())), "all": total}


def transformer_scorer(model: Transformer, *, window: int | None = None) -> Scorer:
    """Scores a text in windows of the model's context; each window after the first sees half of
    the one before.
    """
    length = window or model.config.max_length

    @torch.inference_mode()
    def scorer(ids: Sequence[int]) -> float:
        total, done = 0.0, 1  # ids before `done` are scored
        begin = 0
        while done < len(ids):
            part = torch.tensor([ids[begin : begin + length + 1]])
            losses = token_losses(model, part)  # (T,), of ids begin + 1 …
            fresh = losses[done - begin - 1 :]
            total += float(fresh.sum())
            done += len(fresh)
            begin = max(done - length // 2, 0)
        return total

    return scorer


def token_losses(model: Transformer, ids: Tensor) -> Tensor:
    """Negative log-likelihood in nats (T − 1,) of each id after the first, for ids (1, T)."""
    hidden = model(ids[:, :-1])
    return F.cross_entropy(model.logits(hidden)[0], ids[0, 1:], reduction="none")

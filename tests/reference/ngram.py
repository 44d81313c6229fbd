"""Interpolated modified Kneser–Ney as the papers write it: dictionaries of grams, one sum a line.

Chen & Goodman (1999), eq. 26; a gram that begins a document keeps its count in every length
(Heafield et al., ACL 2013, §3.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

START = -1
Gram = tuple[int, ...]


class NaiveKneserNey:
    """p(w | context) of documents of ids 0 … vocab_size − 1, each ended by `end`."""

    def __init__(
        self, documents: Sequence[Sequence[int]], *, vocab_size: int, end: int, order: int
    ) -> None:
        self.vocab_size, self.order = vocab_size, order
        self.counts: dict[int, Counter[Gram]] = {n: Counter() for n in range(1, order + 1)}
        for document in documents:
            ids = (START, *document, end)
            for n in range(1, order + 1):
                for i in range(len(ids) - n + 1):
                    self.counts[n][ids[i : i + n]] += 1
        raw = dict(self.counts)
        for n in range(1, order):
            before: dict[Gram, set[int]] = {}
            for gram in raw[n + 1]:
                before.setdefault(gram[1:], set()).add(gram[0])
            self.counts[n] = Counter(
                {gram: len(before[gram]) if gram in before else c for gram, c in raw[n].items()}
            )
        del self.counts[1][(START,)]
        self.discounts = {n: self.estimate(self.counts[n]) for n in self.counts}

    @staticmethod
    def estimate(counts: Counter[Gram]) -> list[float]:
        t = [sum(1 for c in counts.values() if c == k) for k in range(5)]
        if 0 in t[1:]:
            return [0.0, 0.5, 1.0, 1.5]
        y = t[1] / (t[1] + 2 * t[2])
        d = [0.0] + [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
        return d if all(0 <= d[k] <= k for k in (1, 2, 3)) else [0.0, 0.5, 1.0, 1.5]

    def probability(self, word: int, context: Gram) -> float:
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        n = len(context) + 1
        shorter = self.probability(word, context[1:]) if context else 1 / self.vocab_size
        follow = {gram[-1]: c for gram, c in self.counts[n].items() if gram[:-1] == context}
        total = sum(follow.values())
        if total == 0:
            return shorter
        discount = self.discounts[n]
        own = max(follow.get(word, 0) - discount[min(follow.get(word, 0), 3)], 0) / total
        left = sum(discount[min(c, 3)] for c in follow.values()) / total
        return own + left * shorter

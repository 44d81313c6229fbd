"""Sentences that say most of a text, as they stand: graph, centroid and place, without repeats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chatglm.apps.text import characters, has_letters, sentences, terms

DAMPING = 0.85
"""TextRank's share of rank that comes over edges (aclanthology.org/W04-3252)."""

MAX_SENTENCES = 400
"""The graph has an edge for each pair; longer texts are ranked part by part first."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How much each sign counts in a sentence's score; found on held-out development texts."""

    graph: float = 1.0
    centroid: float = 1.0
    place: float = 1.0
    decay: float = 0.3
    redundancy: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A sentence, where it stands in the text, and its score between 0 and 1."""

    text: str
    index: int
    score: float


def rank(text: str, weights: Weights | None = None) -> list[Ranked]:
    """Every sentence of a text with its score, in the text's order."""
    weights = weights or Weights()
    found = [s for s in sentences(text) if has_letters(s)]
    is_long = len(found) > MAX_SENTENCES
    kept = shortlist(found, weights) if is_long else list(range(len(found)))
    scores = score([found[i] for i in kept], kept, len(found), weights)
    return [Ranked(text=found[i], index=i, score=s) for i, s in zip(kept, scores, strict=True)]


def shortlist(found: Sequence[str], weights: Weights) -> list[int]:
    """The best sentences of each part of a long text, so many that a graph over them is small."""
    num_parts = math.ceil(len(found) / MAX_SENTENCES)
    share = MAX_SENTENCES // num_parts or 1
    kept: list[int] = []
    for start in range(0, len(found), MAX_SENTENCES):
        part = list(range(start, min(start + MAX_SENTENCES, len(found))))
        scores = score([found[i] for i in part], part, len(found), weights)
        best = sorted(zip(scores, part, strict=True), key=lambda x: (-x[0], x[1]))
        kept += sorted(i for _, i in best[:share])
    return kept[: MAX_SENTENCES * 2]


def score(
    found: Sequence[str], places: Sequence[int], length: int, weights: Weights
) -> list[float]:
    """The weighted sum of the three signs, each between 0 and 1."""
    bags = [Counter(terms(s)) for s in found]
    rarity = inverse_frequency(bags)
    vectors = [{t: n * rarity[t] for t, n in bag.items()} for bag in bags]
    signs = [
        (weights.graph, scaled(text_rank(bags))),
        (weights.centroid, scaled(centrality(vectors))),
        (weights.place, [math.exp(-weights.decay * i * min(1, 30 / length)) for i in places]),
    ]
    total = sum(w for w, _ in signs)
    return [
        is_prose(found[i]) * sum(w * values[i] for w, values in signs) / total
        for i in range(len(found))
    ]


def is_prose(sentence: str) -> float:
    """A factor that puts headings, commands and questions behind statements."""
    factor = 1.0
    if characters(sentence) < 10:
        factor *= 0.2
    if sentence[-1] in "：:？?":
        factor *= 0.7
    return factor


def inverse_frequency(bags: Sequence[Counter[str]]) -> dict[str, float]:
    """log(1 + N ÷ n) of each term over the sentences."""
    count = Counter(term for bag in bags for term in bag)
    return {term: math.log(1 + len(bags) / n) for term, n in count.items()}


def text_rank(bags: Sequence[Counter[str]], steps: int = 30) -> list[float]:
    """The stationary rank of each sentence in the graph of shared terms (TextRank, §4)."""
    edges: list[dict[int, float]] = [{} for _ in bags]
    where: dict[str, list[int]] = {}
    for i, bag in enumerate(bags):
        for term in bag:
            where.setdefault(term, []).append(i)
    shared: Counter[tuple[int, int]] = Counter()
    for places in where.values():
        if 1 < len(places) <= len(bags) / 2 + 1:
            shared.update((a, b) for n, a in enumerate(places) for b in places[n + 1 :])
    for (a, b), n in shared.items():
        weight = n / (1 + math.log(1 + len(bags[a])) + math.log(1 + len(bags[b])))
        edges[a][b] = edges[b][a] = weight
    totals = [sum(e.values()) for e in edges]
    ranks = [1.0] * len(bags)
    for _ in range(steps):
        ranks = [
            (1 - DAMPING) + DAMPING * sum(w / totals[j] * ranks[j] for j, w in edges[i].items())
            for i in range(len(bags))
        ]
    return ranks


def centrality(vectors: Sequence[dict[str, float]]) -> list[float]:
    """Cosine of each sentence with the sum of all."""
    centre: dict[str, float] = {}
    for vector in vectors:
        for term, weight in vector.items():
            centre[term] = centre.get(term, 0.0) + weight
    return [cosine(vector, centre) for vector in vectors]


def cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """The cosine of two sparse vectors; 0 where one is empty."""
    dot = sum(w * b[t] for t, w in a.items() if t in b)
    norm = math.sqrt(sum(w * w for w in a.values()) * sum(w * w for w in b.values()))
    return dot / norm if norm else 0.0


def scaled(values: Sequence[float]) -> list[float]:
    """Values divided by the greatest."""
    top = max(values, default=0.0)
    return [v / top if top else 0.0 for v in values]


def lead(text: str, count: int) -> str:
    """The first sentences of a text: the baseline that news is measured against."""
    return "".join(sentences(text)[:count])


def plain_text_rank(text: str, count: int) -> str:
    """The sentences that TextRank alone puts first, in the text's order."""
    found = sentences(text)
    ranks = text_rank([Counter(terms(s)) for s in found])
    best = sorted(sorted(range(len(found)), key=lambda i: -ranks[i])[:count])
    return "".join(found[i] for i in best)


def select(
    ranked: Sequence[Ranked],
    fits: Callable[[list[Ranked]], bool],
    redundancy: float = Weights.redundancy,
) -> list[Ranked]:
    """The best sentences, in the text's order, for as long as they `fits`.

    Each further one is worth its score less what it repeats of those chosen (maximal marginal
    relevance).
    """
    bags = {r.index: Counter(terms(r.text)) for r in ranked}
    chosen: list[Ranked] = []
    left = sorted(ranked, key=lambda r: (-r.score, r.index))
    repeats = dict.fromkeys(bags, 0.0)
    while left:
        best = max(left, key=lambda r: r.score - redundancy * repeats[r.index])
        left.remove(best)
        if fits([*chosen, best]):
            chosen.append(best)
            for r in left:
                again = cosine(bags[r.index], bags[best.index])
                repeats[r.index] = max(repeats[r.index], again)
    return sorted(chosen, key=lambda r: r.index)

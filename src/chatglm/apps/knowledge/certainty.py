"""How certain it is that the first chunk found answers the question, and from where on to answer.

The weights are one logistic regression over five FAQ bases (their similar questions, one left out
at a time; the same with the whole entry left out; questions of nobody's business), fitted by
`python -m benchmarks.certainty`. The threshold is each base's own, found when something is added.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib.resources import files

from chatglm.apps.knowledge.records import Chunk, Hit
from chatglm.apps.knowledge.search import Omit, Searcher
from chatglm.apps.knowledge.vectors import passage_vectors
from chatglm.apps.knowledge.words import codes, normalized

WEIGHTS = (6.37, 2.87, 3.4)
BIAS = -3.57
DEFAULT_THRESHOLD = 0.4
LOWEST, HIGHEST = 0.2, 0.5
OTHER_CODE = 0.15
"""The most where the question names a type (B2) that the hit does not: no answer then."""
NUM_SAMPLES, FEWEST_SAMPLES = 150, 20


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What speaks for the first hit, each between 0 and 1.

    words: its share of the highest BM25. lead: how far it is ahead of the second in that. meaning:
    its cosine.
    """

    words: float
    lead: float
    meaning: float


def certainty(
    searcher: Searcher, question: str, hits: Sequence[Hit], omit: Omit | None = None
) -> float:
    """Between 0 and 1: the chance that the first hit is the right one; 1 for a known wording."""
    if not hits:
        return 0.0
    plain = bare(question)
    if plain and any(bare(known) == plain for known in hits[0].chunk.questions):
        return 1.0
    signs = astuple(signs_of(searcher, question, hits, omit))
    logit = BIAS + sum(weight * sign for weight, sign in zip(WEIGHTS, signs, strict=True))
    chance = 1 / (1 + math.exp(-logit))
    is_named = codes(question) <= codes(hits[0].chunk.searchable)
    return chance if is_named else min(chance, OTHER_CODE)


def bare(text: str) -> str:
    """A question without marks and spaces, as it is compared."""
    return "".join(c for c in normalized(text) if c.isalnum())


def signs_of(
    searcher: Searcher, question: str, hits: Sequence[Hit], omit: Omit | None = None
) -> Signs:
    """The signs of the first hit."""
    share = searcher.share_of_words(question, omit)
    first, second = (*map(share, (hit.chunk for hit in hits[:2])), 0.0)[:2]
    return Signs(
        words=first,
        lead=first - second,
        meaning=near(searcher, question, hits[0].chunk),
    )


def near(searcher: Searcher, question: str, chunk: Chunk) -> float:
    """The cosine of a question and a chunk; 0 without vectors."""
    if searcher.embedder is None:
        return 0.0
    vector = searcher.embedder.embed([question])[0]
    row = passage_vectors([chunk], searcher.embedder.embed)[0]
    return max(float(row @ vector), 0.0)


def checked_threshold(threshold: float) -> float:
    """A certainty from which on one may answer; a ValueError for what is none."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in 0 to 1, got {threshold}")
    return threshold


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where to begin to answer, and what that does to questions of which the truth is known.

    answered_right, answered_wrong: shares of own questions whose wording was left out.
    answered_without_entry: share of own questions whose entry was left out. answered_off_topic:
    share of questions of nobody's business.
    """

    threshold: float
    answered_right: float
    answered_wrong: float
    answered_without_entry: float
    answered_off_topic: float


def calibrate(searcher: Searcher, chunks: Sequence[Chunk]) -> Calibration:
    """The threshold of a base: 98 of 100 off-topic questions are refused, and three of four whose
    entry is taken away.
    """
    cases = [(chunk, wording) for chunk in chunks for wording in chunk.questions]
    sample = random.Random(0).sample(cases, min(NUM_SAMPLES, len(cases)))
    off_topic = [tried(searcher, question, None)[0] for question in off_topic_questions()]
    without: list[float] = []
    right: list[float] = []
    wrong: list[float] = []
    for chunk, wording in sample:
        score, found = tried(searcher, wording, Omit(chunk=chunk.id))
        if found is not None and found.text == chunk.text:
            continue  # the entry is there twice, and cannot be taken away
        without.append(score)
        if len(chunk.questions) > 1:
            score, found = tried(searcher, wording, Omit(chunk=chunk.id, wording=wording))
            (right if found and found.id == chunk.id else wrong).append(score)
    bounds = [quantile(off_topic, 0.98), quantile(without, 0.75)]
    threshold = min(max(*bounds, LOWEST), HIGHEST)
    if len(without) < FEWEST_SAMPLES:  # too few to tell by
        threshold = max(threshold, DEFAULT_THRESHOLD)
    known = len(right) + len(wrong)
    return Calibration(
        threshold=round(threshold, 4),
        answered_right=above(right, threshold) * len(right) / max(known, 1),
        answered_wrong=above(wrong, threshold) * len(wrong) / max(known, 1),
        answered_without_entry=above(without, threshold),
        answered_off_topic=above(off_topic, threshold),
    )


def tried(searcher: Searcher, question: str, omit: Omit | None) -> tuple[float, Chunk | None]:
    """What is found first, and how certain it is."""
    hits = searcher.search(question, 3, omit=omit)
    return certainty(searcher, question, hits, omit), hits[0].chunk if hits else None


def off_topic_questions() -> list[str]:
    """Questions that no base is about."""
    text = (files("chatglm") / "assets" / "support" / "off_topic.txt").read_text("utf-8")
    return [line for line in text.split("\n") if line]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of values does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def above(values: Sequence[float], threshold: float) -> float:
    """The share of values that are at least the threshold."""
    return sum(value >= threshold for value in values) / max(len(values), 1)

"""From a question to chunks: by terms, by vectors, and both joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from chatglm.apps.knowledge.bm25 import K1, bm25, counted, weight
from chatglm.apps.knowledge.records import EVERYTHING, Chunk, Filter, Hit, Scored, Store
from chatglm.apps.knowledge.synonyms import Synonyms
from chatglm.apps.knowledge.vectors import Embedder, passage_vectors
from chatglm.apps.knowledge.words import codes, distinct

Way = Literal["joined", "lexical", "vector"]
WAYS = get_args(Way)
NUM_CANDIDATES = 50
# Chosen on the similar questions of five FAQ bases, one left out at a time.
RANK_OFFSET = 20
SHARES = {"lexical": 1.0, "vector": 0.5}
SCORES = {"lexical": 0.6, "vector": 0.15}
SYNONYM = 0.5
OTHER_CODE = 0.5
"""What a chunk keeps of its score that lacks a code of the question which another chunk has."""


@dataclass(frozen=True, kw_only=True)
class Omit:
    """What a search pretends not to have: a chunk, or one wording of its question."""

    chunk: int
    wording: str | None = None

    def applied(self, chunk: Chunk) -> Chunk | None:
        """The chunk as it would be; None where nothing of it is left."""
        if chunk.id != self.chunk:
            return chunk
        if self.wording is None:
            return None
        rest = tuple(text for text in chunk.questions if text != self.wording)
        return replace(chunk, question=rest[0], variants=rest[1:]) if rest else None


class Searcher:
    """Search over a store. embedder: None leaves the terms alone."""

    def __init__(
        self,
        store: Store,
        embedder: Embedder | None = None,
        synonyms: Synonyms | None = None,
    ) -> None:
        self.store, self.embedder = store, embedder
        self.synonyms = synonyms or Synonyms()

    def search(
        self,
        question: str,
        k: int = 5,
        *,
        way: Way = "joined",
        only: Filter = EVERYTHING,
        omit: Omit | None = None,
    ) -> list[Hit]:
        """The best k chunks, best first; scores between 0 and 1 within each way."""
        if way not in WAYS:
            raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
        if way == "vector" and self.embedder is None:
            raise ValueError("this base has no vectors; search it lexically")
        num = max(NUM_CANDIDATES, k)
        lists: dict[str, Scored] = {}
        if way != "vector":
            lists["lexical"] = self.by_terms(question, num, only, omit)
        if way != "lexical" and self.embedder is not None:
            lists["vector"] = self.by_vector(question, num, only, omit)
        scored = joined(lists) if way == "joined" else next(iter(lists.values()))
        if way == "joined" and (named := codes(question)):
            scored = self.naming(named, scored)
        places = {
            name: {chunk: rank for rank, (chunk, _) in enumerate(found, start=1)}
            for name, found in lists.items()
        }
        scores = dict(scored)
        hits: list[Hit] = []
        texts: set[str] = set()
        for chunk in self.store.chunks([number for number, _ in scored[: 3 * k]]):
            seen = omit.applied(chunk) if omit else chunk
            # The same answer may have come in by several files; once is enough.
            if seen is not None and seen.text not in texts and len(hits) < k:
                texts.add(seen.text)
                ranks = {name: at[chunk.id] for name, at in places.items() if chunk.id in at}
                hits.append(Hit(chunk=seen, score=scores[chunk.id], ranks=ranks))
        return hits

    def naming(self, named: frozenset[str], scored: Scored) -> Scored:
        """The chunks with those first that name what the question names: the price of a B2 is not
        that of an A1, however alike the rest is.
        """
        chunks = self.store.chunks([number for number, _ in scored])
        naming = {chunk.id for chunk in chunks if named <= codes(chunk.searchable)}
        if not naming:
            return scored
        kept = [(c, score * (1.0 if c in naming else OTHER_CODE)) for c, score in scored]
        return sorted(kept, key=lambda pair: (-pair[1], pair[0]))

    def by_terms(
        self, question: str, k: int, only: Filter = EVERYTHING, omit: Omit | None = None
    ) -> Scored:
        """BM25 of the store's candidates, computed here so that all stores score alike.

        1 is what a chunk would have that holds every term of the question over and over.
        """
        wanted, others = self.sought(question)
        found = self.store.lexical([*wanted, *others], k, only)
        if not found:
            return []
        share = self.share_of_words(question, omit)
        scored = []
        for chunk in self.store.chunks([number for number, _ in found]):
            seen = omit.applied(chunk) if omit else chunk
            if seen is not None and (score := share(seen)):
                scored.append((chunk.id, score))
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))

    def sought(self, question: str) -> tuple[tuple[str, ...], list[str]]:
        """The terms of a question, and those of their synonyms."""
        wanted = distinct(question)
        return wanted, [t for t in distinct(self.synonyms.others(question)) if t not in wanted]

    def share_of_words(self, question: str, omit: Omit | None = None) -> Callable[[Chunk], float]:
        """A chunk's BM25 for a question as a share of the highest there is, synonyms helping."""
        wanted, others = self.sought(question)
        weights = self.weights(wanted, omit)
        most = (sum(weights.values()) or 1) * (K1 + 1)
        weights |= {t: SYNONYM * says for t, says in self.weights(others, omit).items()}
        mean = self.store.mean_length()
        return lambda chunk: min(bm25(chunk.searchable, weights, mean) / most, 1.0)

    def by_vector(
        self, question: str, k: int, only: Filter = EVERYTHING, omit: Omit | None = None
    ) -> Scored:
        """Cosines, those below 0 as 0."""
        assert self.embedder is not None
        vector = self.embedder.embed([question])[0]
        if not vector.any():
            return []
        found = [(chunk, max(score, 0.0)) for chunk, score in self.store.dense(vector, k, only)]
        if omit is None:
            return found
        kept = [pair for pair in found if pair[0] != omit.chunk]
        for chunk in self.store.chunks([omit.chunk]):
            if (seen := omit.applied(chunk)) is not None:
                own = passage_vectors([seen], self.embedder.embed)[0]
                kept.append((chunk.id, max(float(own @ vector), 0.0)))
        return sorted(kept, key=lambda pair: (-pair[1], pair[0]))

    def weights(self, wanted: Sequence[str], omit: Omit | None = None) -> dict[str, float]:
        """How much each term says."""
        total = self.store.num_chunks()
        return {t: weight(t, n, total) for t, n in self.counts(wanted, omit).items()}

    def counts(self, wanted: Sequence[str], omit: Omit | None = None) -> dict[str, int]:
        """In how many chunks each term occurs, without what is omitted."""
        counts = dict(self.store.frequencies(wanted))
        for chunk in self.store.chunks([omit.chunk]) if omit else ():
            rest = omit.applied(chunk) if omit else None
            left = set(counted(rest.searchable)) if rest else set[str]()
            for term in set(counted(chunk.searchable)) - left:
                if term in counts:
                    counts[term] -= 1
        return counts


def joined(lists: dict[str, Scored]) -> Scored:
    """Reciprocal rank fusion (Cormack et al. 2009) with a part of each score; 1 at most.

    Ranks alone cannot tell a first that fits from a first for want of better; the scores can.
    """
    total = sum(SHARES[name] / (RANK_OFFSET + 1) + SCORES[name] for name in lists)
    scores: dict[int, float] = {}
    for name, found in lists.items():
        for rank, (chunk, score) in enumerate(found, start=1):
            share = SHARES[name] / (RANK_OFFSET + rank) + SCORES[name] * score
            scores[chunk] = scores.get(chunk, 0.0) + share / total
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))

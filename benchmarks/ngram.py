"""A 5-gram model over token ids: the baseline that counts, against networks that learn.

Interpolated modified Kneser–Ney smoothing (Chen & Goodman 1999, §3; estimated as in Heafield et
al., ACL 2013, §3.1), without pruning. A gram is known by (number of its context, last id): one
64-bit key whatever its length, so that a sorted array per length is the whole model.

    python -m benchmarks.ngram --data data/nano/pretrain --eval HELDOUT.jsonl
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

FALLBACK = (0.0, 0.5, 1.0, 1.5)
"""Discounts where a corpus is too small to estimate them, as KenLM's `--discount_fallback`."""


@dataclass(kw_only=True)
class Grams:
    """All grams of one length, sorted by key.

    keys: number of the gram without its last id × the number of ids, plus the last id.
    share: discounted probability of the last id after the others, without what shorter grams add.
    backoff: weight that the shorter context has where this gram is the context.
    """

    keys: Ints
    share: Floats
    backoff: Floats


@dataclass(frozen=True, kw_only=True)
class NGramModel:
    """Probabilities of ids after up to `len(grams) − 1` earlier ones.

    floor: what every id has at least, from the uniform distribution below the unigrams.
    """

    vocab_size: int
    grams: tuple[Grams, ...]
    floor: float

    @property
    def start(self) -> int:
        """The id before a document's first, never foretold."""
        return self.vocab_size

    def probabilities(self, ids: Sequence[int] | Ints) -> NDArray[np.float64]:
        """Probability (T,) of each id of a document after those before it."""
        row = np.concatenate(([self.start], np.asarray(ids, np.int64)))  # (T + 1,)
        chances = self.grams[0].share[row[1:]].astype(np.float64) + self.floor  # (T,)
        contexts = row  # the gram of the present length that begins at each place, −1 for none
        for length, (shorter, longer) in enumerate(pairwise(self.grams), 1):
            contexts = contexts[: max(len(row) - length, 0)]
            found = look_up(longer.keys, contexts, row[length:], self.vocab_size + 1)
            weight = np.where(contexts >= 0, shorter.backoff[contexts], 1.0)
            share = np.where(found >= 0, longer.share[found], 0.0)
            chances[length - 1 :] = chances[length - 1 :] * weight + share
            contexts = found
        return chances

    def nats(self, ids: Sequence[int]) -> float:
        """Summed negative log-likelihood of all ids but the first, which stands for the start."""
        return float(-np.log(self.probabilities(ids[1:])).sum())


def look_up(keys: Ints, contexts: Ints, last: Ints, base: int) -> Ints:
    """Numbers of the grams (context, last) in the sorted keys; −1 where there is none."""
    wanted = contexts * base + last
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where((contexts >= 0) & (keys[at] == wanted), at, -1)


def fit(
    documents: Iterable[NDArray[Any]], *, vocab_size: int, end: int, order: int = 5
) -> NGramModel:
    """The model of documents of ids, each of which is followed by the id `end`."""
    stream, base = join(documents, start=vocab_size, end=end), vocab_size + 1
    beginnings = np.arange(len(stream), dtype=np.int32)  # where a gram of the present length lies
    numbers = stream  # which gram begins at each place
    keys = np.arange(base, dtype=np.int64)
    counts = np.bincount(stream, minlength=base)
    grams: list[Grams] = []
    floor = 0.0
    for length in range(1, order + 1):
        longer = beginnings[beginnings + length < len(stream)]
        longer = longer[stream[longer + length] != vocab_size]  # inside one document
        is_last = length == order or not len(longer)
        if not is_last:
            longer_keys, ranks, examples, longer_counts = rank(
                numbers[longer].astype(np.int64) * base + stream[longer + length]
            )
            # Below the longest, a gram counts once for each different id before it; those that
            # begin a document have none before and keep their count.
            left = np.bincount(numbers[longer[examples] + 1], minlength=len(keys))
            counts = np.where(left > 0, left, counts)
        if length == 1:
            counts[vocab_size] = 0
        share, weights = discounted(keys // base, counts)
        if length == 1:
            floor = float(weights[0]) / vocab_size
        else:
            grams[-1].backoff[: len(weights)] = weights
        grams.append(Grams(keys=keys, share=share, backoff=np.ones(len(keys), np.float32)))
        if is_last:
            break
        numbers = np.full(len(stream), -1, np.int32)
        numbers[longer] = ranks
        del ranks, examples, left
        beginnings, keys, counts = longer, longer_keys, longer_counts
    return NGramModel(vocab_size=vocab_size, grams=tuple(grams), floor=floor)


def join(documents: Iterable[NDArray[Any]], *, start: int, end: int) -> NDArray[np.int32]:
    """All documents in one row, each between the ids `start` and `end`."""
    parts: list[NDArray[Any]] = []
    for ids in documents:
        parts += [np.array([start], np.int32), ids.astype(np.int32), np.array([end], np.int32)]
    if not parts:
        raise ValueError("there are no documents to count; give prepared data with some")
    return np.concatenate(parts)


def rank(values: Ints) -> tuple[Ints, NDArray[np.int32], Ints, Ints]:
    """Different values in order, each value's number among them, a place of each, and counts."""
    order = np.argsort(values)
    ordered = values[order]
    del values
    is_new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    firsts = np.flatnonzero(is_new)
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.cumsum(is_new, dtype=np.int32) - 1
    return ordered[firsts], ranks, order[firsts], np.diff(firsts, append=len(order))


def discounted(contexts: Ints, counts: Ints) -> tuple[Floats, Floats]:
    """Share of each gram in its context after its discount, and what is left to each context."""
    cuts = np.array(discounts(counts))[np.minimum(counts, 3)]
    totals = np.bincount(contexts, counts)  # up to the last context that has gone on
    left = np.bincount(contexts, cuts)
    share = (counts - cuts) / np.maximum(totals, 1)[contexts]
    weights = np.where(totals > 0, left / np.maximum(totals, 1), 1.0)
    return share.astype(np.float32), weights.astype(np.float32)


def discounts(counts: Ints) -> tuple[float, ...]:
    """What is taken off counts of 0, 1, 2 and more (Chen & Goodman 1999, eq. 26)."""
    t = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    if not all(t):
        return FALLBACK
    y = t[0] / (t[0] + 2 * t[1])
    found = tuple(k - (k + 1) * y * t[k] / t[k - 1] for k in (1, 2, 3))
    if any(not 0 <= d <= k for k, d in enumerate(found, 1)):
        return FALLBACK
    return (0.0, *found)


def fit_prepared(
    folder: Path, *, vocab_size: int, end: int, order: int = 5, num_tokens: int = 0
) -> NGramModel:
    """The model of prepared data; num_tokens: stop after so many, 0 for all."""
    from chatglm.data.shards import open_documents

    documents = open_documents(folder)
    count = len(documents)
    if num_tokens:
        count = max(int(np.searchsorted(documents.offsets, num_tokens, "right")) - 1, 1)
    bounds = zip(documents.offsets[:count], documents.offsets[1 : count + 1], strict=True)
    parts = (documents.tokens[a:b] for a, b in bounds)
    return fit(parts, vocab_size=vocab_size, end=end, order=order)


def main(arguments: list[str] | None = None) -> int:
    """Count, and print bits per character of a held-out file by domain."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="from `chatglm prepare`")
    parser.add_argument("--eval", type=Path, required=True, help="jsonl with text and domain")
    parser.add_argument("--tokenizer", default="src/chatglm/assets/nano", help="its directory")
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=0, help="count so many only (0: all)")
    args = parser.parse_args(arguments)

    from chatglm.evaluate.likelihood import read_texts, score
    from chatglm.tokenizer import load_tokenizer
    from chatglm.training.run import end_of_text

    tokenizer = load_tokenizer(args.tokenizer)
    end = end_of_text(tokenizer)
    since = time.monotonic()
    model = fit_prepared(
        args.data,
        vocab_size=tokenizer.vocab_size,
        end=end,
        order=args.order,
        num_tokens=args.tokens,
    )
    sizes = ", ".join(f"{len(grams.keys):,}" for grams in model.grams)
    print(f"grams: {sizes}; {time.monotonic() - since:.0f} s", file=sys.stderr)
    for domain, tally in score(read_texts(args.eval), tokenizer.encode, model.nats, end).items():
        print(f"{domain}\t{tally.bits_per_character:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

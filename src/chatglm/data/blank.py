"""GLM's autoregressive blank infilling (arXiv:2103.10360, §2.1 and §2.2), constructed as the
official code does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatglm.data.example import NO_LOSS, Example, Ids

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class BlankIds:
    """Ids of the special tokens that blanks need."""

    mask: int
    sentence_mask: int
    document_mask: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class BlankConfig:
    """How texts are blanked.

    Shares of examples with short spans (Poisson λ over `short_share` of the tokens), with whole
    sentences and with one long span of `least` to `most` of the text. context_is_learnt: a causal
    model predicts its context too.
    """

    document_rate: float = 0.5
    sentence_rate: float = 0.15
    mean_span: float = 3.0
    short_share: float = 0.15
    sentence_share: float = 0.15
    least: float = 0.5
    most: float = 1.0
    spans_are_shuffled: bool = True
    context_is_learnt: bool = False


def blank_out(
    text: Ids,
    spans: Sequence[Span],
    mask: int,
    ids: BlankIds,
    *,
    context_is_learnt: bool = False,
) -> Example:
    """The example in which `spans`, in this order, are blanked out of `text`.

    Part A is the text with a mask in the place of each span; part B has, span by span, the start
    token and the span, and predicts the span and the end token. Positions: part B stands at its
    mask in the first plane and counts from 1 in the second.
    """
    in_order = sorted(spans)
    pieces: list[Ids] = []
    hole: dict[Span, int] = {}
    last, length = 0, 0
    for span in in_order:
        pieces.append(text[last : span[0]])
        length += span[0] - last
        hole[span] = length
        pieces.append(np.array([mask], np.int64))
        length += 1
        last = span[1]
    pieces.append(text[last:])
    context = np.concatenate(pieces)
    num_context = len(context)
    labels = np.full(num_context, NO_LOSS, np.int64)
    if context_is_learnt:
        labels[:-1] = np.where(context[1:] == mask, NO_LOSS, context[1:])
    tokens, targets = [context], [labels]
    first, second = [np.arange(num_context)], [np.zeros(num_context, np.int64)]
    for span in spans:
        body = text[span[0] : span[1]]
        tokens.append(np.append(ids.start, body))
        targets.append(np.append(body, ids.end))
        first.append(np.full(len(body) + 1, hole[span]))
        second.append(np.arange(1, len(body) + 2))
    return Example(
        tokens=np.concatenate(tokens),
        labels=np.concatenate(targets),
        positions=np.stack([np.concatenate(first), np.concatenate(second)]),
        prefix=num_context,
    )


def short_spans(length: int, config: BlankConfig, rng: np.random.Generator) -> list[Span]:
    """Disjoint spans, lengths Poisson, that cover about `short_share` of the text; at least one,
    never touching.
    """
    total = max(1, round(length * config.short_share))
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(max(1, int(rng.poisson(config.mean_span))))
    lengths[-1] -= sum(lengths) - total
    lengths = [size for size in lengths if size > 0]
    free = length - total - (len(lengths) - 1)  # tokens that may stand anywhere between spans
    while free < 0:
        free += lengths.pop() + 1
    gaps = np.diff(np.concatenate([[0], np.sort(rng.integers(0, free + 1, len(lengths))), [free]]))
    spans, at = [], 0
    for index, size in enumerate(rng.permutation(lengths).tolist()):
        at += int(gaps[index]) + (1 if index else 0)
        spans.append((at, at + size))
        at += size
    return spans


def sentence_spans(
    text: Ids, ends: frozenset[int], config: BlankConfig, rng: np.random.Generator
) -> list[Span]:
    """Whole sentences that cover about `sentence_share` of the text; empty where it is a single
    one.
    """
    breaks = [0, *(i + 1 for i, token in enumerate(text.tolist()) if token in ends), len(text)]
    sentences = [(a, b) for a, b in itertools.pairwise(breaks) if b > a]
    if len(sentences) < 2:
        return []
    chosen: list[Span] = []
    total = 0
    for index in rng.permutation(len(sentences)).tolist():
        a, b = sentences[index]
        if any(a == d or b == c for c, d in chosen):
            continue  # neighbours would be one blank
        chosen.append((a, b))
        total += b - a
        if total >= config.sentence_share * len(text):
            break
    return sorted(chosen)


def blank_example(
    text: Ids,
    ids: BlankIds,
    config: BlankConfig,
    rng: np.random.Generator,
    sentence_ends: frozenset[int] = frozenset(),
) -> Example:
    """A text of at least two tokens as a blank-infilling example of a kind drawn by the config's
    rates.
    """
    kind = rng.random()
    spans: list[Span] = []
    mask = ids.sentence_mask
    if kind < config.document_rate:
        share = rng.uniform(config.least, config.most)
        start = min(int(len(text) * (1 - share)), len(text) - 1)
        return blank_out(
            text,
            [(start, len(text))],
            ids.document_mask,
            ids,
            context_is_learnt=config.context_is_learnt,
        )
    if kind < config.document_rate + config.sentence_rate:
        spans = sentence_spans(text, sentence_ends, config, rng)
    if not spans:
        spans, mask = short_spans(len(text), config, rng), ids.mask
    if config.spans_are_shuffled:
        spans = [spans[i] for i in rng.permutation(len(spans)).tolist()]
    return blank_out(text, spans, mask, ids, context_is_learnt=config.context_is_learnt)


def longest_text(length: int, config: BlankConfig) -> int:
    """The most tokens of text whose example surely fits `length`: each span adds a mask and a
    start token.
    """
    spans_per_token = config.short_share  # spans of one token each, at the worst
    return max(2, int((length - 4) / (1 + 2 * spans_per_token)))

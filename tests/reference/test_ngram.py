"""The n-gram baseline against dictionaries and plain sums."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.ngram import FALLBACK, NGramModel, discounts, fit
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.ngram import START, NaiveKneserNey

WORDS, END = 7, 6
documents = st.lists(st.lists(st.integers(0, 5), max_size=12), min_size=1, max_size=8)


def count(texts: list[list[int]], order: int, words: int = WORDS) -> NGramModel:
    arrays = [np.array(text, np.uint16) for text in texts]
    return fit(arrays, vocab_size=words, end=words - 1, order=order)


def random_texts(num: int, words: int, seed: int) -> list[list[int]]:
    """Texts whose words follow Zipf's law, so that every count from one to four occurs."""
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, words)
    chances /= chances.sum()
    return [rng.choice(words - 1, rng.integers(0, 30), p=chances).tolist() for _ in range(num)]


@given(documents, st.lists(st.integers(0, 5), max_size=10), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_probabilities_are_those_of_the_definition(
    texts: list[list[int]], asked: list[int], order: int
) -> None:
    naive = NaiveKneserNey(texts, vocab_size=WORDS, end=END, order=order)
    row = [*asked, END]
    expected = [naive.probability(w, (START, *row[:i])) for i, w in enumerate(row)]
    assert count(texts, order).probabilities(row) == pytest.approx(expected, rel=1e-5)


def test_discounts_that_a_corpus_gives_are_those_of_the_definition() -> None:
    texts = random_texts(60, 40, seed=0)
    naive = NaiveKneserNey(texts, vocab_size=40, end=39, order=5)
    assert naive.discounts[2] != list(FALLBACK)
    model = count(texts, order=5, words=40)
    for asked in random_texts(10, 40, seed=1):
        expected = [naive.probability(w, (START, *asked[:i])) for i, w in enumerate(asked)]
        assert model.probabilities(asked) == pytest.approx(expected, rel=1e-5)


@given(documents, st.lists(st.integers(0, 5), max_size=6), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_probabilities_after_any_context_sum_to_one(
    texts: list[list[int]], context: list[int], order: int
) -> None:
    model = count(texts, order)
    chances = [model.probabilities([*context, word])[-1] for word in range(WORDS)]
    assert sum(chances) == pytest.approx(1, abs=1e-5)
    assert min(chances) > 0


def test_discounts_of_a_known_table() -> None:
    counts = np.repeat([1, 2, 3, 4], [100, 40, 20, 10])
    y = 100 / 180
    expected = (0.0, 1 - 2 * y * 40 / 100, 2 - 3 * y * 20 / 40, 3 - 4 * y * 10 / 20)
    assert discounts(counts) == pytest.approx(expected)
    assert discounts(np.array([1, 1, 2])) == FALLBACK


def test_a_scorer_foretells_all_but_the_first_id() -> None:
    model = count([[1, 2, 3], [1, 2, 4]], order=3)
    expected = -np.log(model.probabilities([1, 2, 3])).sum()
    assert model.nats([END, 1, 2, 3]) == pytest.approx(expected)


def test_no_documents_are_an_error_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="no documents to count; give prepared data"):
        count([], order=3)

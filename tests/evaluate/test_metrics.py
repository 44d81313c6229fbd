"""ROUGE over characters, BLEU and chrF, and the tables they are shown in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.evaluate.metrics import (
    bleu_and_chrf,
    common_subsequence,
    rouge,
    rouge_l,
    rouge_n,
    table,
)

TEXT = st.text(alphabet="今天很好abA 。", max_size=30)


def subsequence_by_table(a: str, b: str) -> int:
    """The textbook's table."""
    rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            same = rows[i][j] + 1
            rows[i + 1][j + 1] = same if x == y else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


@given(TEXT, TEXT)
def test_common_subsequences_are_those_of_the_textbook(a: str, b: str) -> None:
    assert common_subsequence(a, b) == subsequence_by_table(a, b)


def test_rouge_counts_shared_characters_and_pairs() -> None:
    one = rouge_n("今天很好", "今天好", 1)
    assert (one.precision, one.recall) == (3 / 4, 1)
    two = rouge_n("今天很好", "今天好", 2)
    assert (two.precision, two.recall) == (1 / 3, 1 / 2)
    assert rouge_l("今天很好", "今天好").f1 == pytest.approx(6 / 7)
    assert rouge_n("", "今天", 1).f1 == 0


@given(TEXT)
def test_a_text_is_its_own_best_summary_whatever_its_spaces_and_case(text: str) -> None:
    if not text.split():
        return
    scores = rouge([" ".join(text.upper())], [text])
    assert scores["rouge1"] == scores["rougeL"] == pytest.approx(100)


def test_bleu_and_chrf_are_sacrebleus() -> None:
    import sacrebleu

    ours, theirs = ["今天天气很好，我们去公园。"], ["今天天气很好，我们去散步。"]
    scores = bleu_and_chrf(ours, theirs, target="zh")
    expected = sacrebleu.BLEU(tokenize="zh").corpus_score(ours, [theirs]).score
    assert scores["bleu"] == pytest.approx(expected)
    assert scores["chrf"] == pytest.approx(sacrebleu.CHRF().corpus_score(ours, [theirs]).score)
    assert bleu_and_chrf(["a b c d"], ["a b c d"], target="en")["bleu"] == pytest.approx(100)


def test_tables_have_a_row_a_name_and_a_column_a_key() -> None:
    shown = table({"a": {"n": 3, "x": 12.5}, "b": {"n": 4, "y": 0.0123}}, "task")
    assert shown.splitlines() == [
        "| task | n | x | y |",
        "|---|---:|---:|---:|",
        "| a | 3 | 12.50 |  |",
        "| b | 4 |  | 0.0123 |",
    ]

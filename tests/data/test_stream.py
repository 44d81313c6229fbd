from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.data.example import NO_LOSS, Example, causal_example, chat_example, counting
from chatglm.data.masked import masked_example
from chatglm.data.pack import Packer
from chatglm.data.shards import Documents
from chatglm.data.stream import Origin, Stream, causal_build, chat_build, masked_build

END = 99


def documents(lengths: list[int], *, is_chat: bool = False, first: int = 0) -> Documents:
    offsets = np.cumsum([0, *lengths])
    tokens = (np.arange(offsets[-1]) + first).astype(np.uint32)
    loss = (np.arange(offsets[-1]) % 2).astype(np.uint8) if is_chat else None
    return Documents(tokens=tokens, offsets=offsets, loss=loss)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=30),
    length=st.integers(4, 24),
)
@settings(max_examples=300, deadline=None)
def test_packing_loses_no_token_and_no_target(lengths: list[tuple[int, bool]], length: int) -> None:
    examples, at = [], 1
    for size, may_be_cut in lengths:
        tokens = np.arange(at, at + size)
        at += size
        labels = np.append(tokens[1:], NO_LOSS)
        examples.append(
            Example(tokens=tokens, labels=labels, positions=counting(size), may_be_cut=may_be_cut)
        )
    queue = iter(examples)

    def draw() -> Example:
        filler = np.zeros(length, np.int64)
        nothing = np.full(length, NO_LOSS)
        return next(
            queue,
            Example(tokens=filler, labels=nothing, positions=counting(length), may_be_cut=True),
        )

    rows = Packer(draw, length, pad=-1).rows(sum(n for n, _ in lengths) + 2)
    kept = rows.tokens[rows.tokens > 0]
    assert kept.tolist() == list(range(1, at))
    targets = rows.labels[rows.labels != NO_LOSS]
    assert targets.tolist() == [int(t) for e in examples for t in e.labels if t != NO_LOSS]
    for row in range(len(rows.tokens)):
        for number in set(rows.documents[row].tolist()) - {-1}:
            here = np.flatnonzero(rows.documents[row] == number)
            assert (np.diff(here) == 1).all()
            assert (np.diff(rows.positions[row, 0, here]) == 1).all()


def make_stream(seed: int) -> Stream:
    origins = [
        Origin(documents=documents([5, 30, 2, 17, 8]), build=causal_build(END), weight=2),
        Origin(
            documents=documents([6, 9, 4], is_chat=True, first=100), build=chat_build(), weight=1
        ),
        Origin(documents=documents([12, 40]), build=masked_build(7, 50, 10), weight=1),
    ]
    return Stream(origins, length=16, pad=END, seed=seed)


@given(before=st.integers(0, 30), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_stream_that_is_taken_up_again_goes_on_the_same(before: int, seed: int) -> None:
    whole, cut = make_stream(seed), make_stream(seed)
    for _ in range(before):
        whole.rows(3)
        cut.rows(3)
    resumed = make_stream(seed)
    resumed.load_state(cut.state())
    for _ in range(4):
        a, b = whole.rows(3), resumed.rows(3)
        assert np.array_equal(a.tokens, b.tokens)
        assert np.array_equal(a.labels, b.labels)
        assert np.array_equal(a.positions, b.positions)
        assert np.array_equal(a.documents, b.documents)


def test_every_document_comes_once_in_each_epoch() -> None:
    origin = Origin(documents=documents([3, 3, 3, 3]), build=causal_build(END), weight=1)
    stream = Stream([origin], length=4, pad=END, seed=0)
    for _ in range(3):
        firsts = sorted(int(stream.rows(1).tokens[0, 0]) for _ in range(4))
        assert firsts == [0, 3, 6, 9]


def test_sources_are_drawn_by_their_share_of_tokens() -> None:
    origins = [
        Origin(documents=documents([10] * 50), build=causal_build(END), weight=3),
        Origin(documents=documents([40] * 50, first=1000), build=causal_build(END), weight=1),
    ]
    tokens = Stream(origins, length=64, pad=END, seed=1).rows(400).tokens
    assert 0.2 < float((tokens >= 1000).mean()) < 0.3


def test_chat_learns_what_the_assistant_says_only() -> None:
    example = chat_example(np.arange(5), np.array([False, False, True, True, False]))
    assert example.labels.tolist() == [NO_LOSS, 2, 3, NO_LOSS, NO_LOSS]
    assert causal_example(np.arange(2), END).labels.tolist() == [1, END, NO_LOSS]


def test_masked_words_are_predicted_where_they_stood() -> None:
    text = np.arange(1000)
    example = masked_example(text, 5000, 1000, np.random.default_rng(0))
    chosen = example.labels != NO_LOSS
    assert int(chosen.sum()) == 150
    assert (example.labels[chosen] == text[chosen]).all()
    assert (example.tokens[~chosen] == text[~chosen]).all()
    assert 100 <= int((example.tokens == 5000).sum()) <= 140
    assert example.prefix == 1000


def test_a_checkpoint_of_other_sources_is_refused() -> None:
    stream = make_stream(0)
    with pytest.raises(ValueError, match="made with 1 sources and the recipe has 3"):
        stream.load_state({"cursors": [1], "drawn": 1, "pending": 0})

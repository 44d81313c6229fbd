"""Ends of a reply, under every way of cutting it into pieces."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm import ChatGLM, load_tokenizer
from chatglm.generation.stop import StopStrings, TextStream
from chatglm.tokenizer import Tokenizer

LETTERS = "ab。\n"
stops = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3)


def cut(text: str, stops: list[str]) -> str:
    """The text up to where the first stop string begins that is complete first."""
    ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    if not ends:
        return text
    first = min(end for end, _ in ends)
    return text[: min(start for end, start in ends if end == first)]


@given(st.text(LETTERS, max_size=40), stops, st.lists(st.integers(1, 5), max_size=40))
@settings(max_examples=400, deadline=None)
def test_stop_strings_cut_the_same_text_under_any_chunking(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    stream, shown, at = StopStrings(stops), "", 0
    for size in [*sizes, len(text)]:
        shown += stream.push(text[at : at + size])
        at += size
        assert cut(text, stops).startswith(shown)
    shown += stream.flush()
    assert shown == cut(text, stops)
    assert stream.found == (cut(text, stops) != text)


@given(st.text(LETTERS, max_size=30), stops)
@settings(max_examples=200, deadline=None)
def test_nothing_is_held_back_that_no_stop_string_can_claim(text: str, stops: list[str]) -> None:
    stream = StopStrings(stops)
    shown = "".join(stream.push(character) for character in text)
    if not stream.found:
        held = text[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)


def check_streams(tokenizer: Tokenizer, count: int, seed: int) -> None:
    """R15: streams of random tokens equal the whole text."""
    chance = random.Random(seed)
    for _ in range(count):
        tokens = chance.choices(range(tokenizer.vocab_size), k=chance.randint(0, 40))
        whole = tokenizer.decode(tokens)
        starts = [chance.randrange(len(whole) + 1) for _ in range(chance.randint(0, 3))]
        stops = [stop for i in starts if (stop := whole[i : i + chance.randint(1, 4)])]
        strips = chance.random() < 0.5
        stream = TextStream(tokenizer.stream(), stops, strips=strips)
        pieces = []
        for token in tokens:
            pieces.append(stream.push(token))
            if stream.stopped:
                break
        else:
            pieces.append(stream.flush())
        expected = cut(whole, stops)
        expected = expected.strip() if strips else expected
        assert "".join(pieces) == expected
        # A replacement mark stands for broken bytes, never for a character cut in two.
        assert "".join(pieces).count("\ufffd") <= whole.count("\ufffd")


def test_streams_of_random_tokens_equal_the_whole_text(model: ChatGLM) -> None:
    check_streams(model.tokenizer, 1000, seed=0)


@pytest.mark.whole
def test_ten_thousand_streams_of_random_tokens_equal_the_whole_text(model: ChatGLM) -> None:
    check_streams(model.tokenizer, 10_000, seed=1)


@pytest.mark.parametrize(
    "name", ["chatglm-6b", "chatglm2-6b", "chatglm3-6b", "glm-10b-chinese", "glm-4-9b-chat"]
)
def test_streams_of_every_vocabulary_equal_the_whole_text(shared: Path, name: str) -> None:
    check_streams(load_tokenizer(shared / "tokenizers" / name), 200, seed=2)

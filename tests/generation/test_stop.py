"""Ends of a reply, under every way of cutting it into pieces."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.generation.stop import StopStrings

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

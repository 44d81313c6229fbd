"""R15: a stream is the whole reply, whatever the tokens, the vocabulary and the stop strings."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.generation.test_stop import cut

from chatglm import ChatGLM, load_tokenizer
from chatglm.checkpoint.resolve import NANO
from chatglm.generation.stop import TextStream
from chatglm.tokenizer import Tokenizer

VOCABULARIES = ["chatglm-6b", "chatglm2-6b", "chatglm3-6b", "glm-10b-chinese", "glm-4-9b-chat"]


def some_stops(chance: random.Random, text: str) -> list[str]:
    """Up to three stop strings, most of them from the text itself, some of one half character."""
    starts = [chance.randrange(len(text) + 1) for _ in range(chance.randint(0, 3))]
    stops = [stop for i in starts if (stop := text[i : i + chance.randint(1, 5)])]
    return [*stops, "不在其中"] if chance.random() < 0.2 else stops


def compare_streams(tokenizer: Tokenizer, *, count: int, seed: int) -> None:
    """Random ids, special ones among them, read one by one and at once."""
    chance = random.Random(seed)
    for _ in range(count):
        tokens = chance.choices(range(tokenizer.vocab_size), k=chance.randint(0, 60))
        whole = tokenizer.decode(tokens)
        stops = some_stops(chance, whole)
        strips = chance.random() < 0.5
        expected = cut(whole, stops).strip() if strips else cut(whole, stops)
        stream, shown = TextStream(tokenizer.stream(), stops, strips=strips), ""
        for token in tokens:
            shown += stream.push(token)
            assert expected.startswith(shown)
            if stream.stopped:
                break
        else:
            shown += stream.flush()
        assert shown == expected
        assert shown.count("\ufffd") <= whole.count("\ufffd")  # none for a character cut in two


def compare_replies(model: ChatGLM, *, count: int, seed: int) -> None:
    """Sampled replies of a model, in pieces and whole, with and without stop strings."""
    chance = random.Random(seed)
    for _ in range(count):
        prompt = "问" + "".join(
            chance.choices("今天天气很好你是我程序员abc \n", k=chance.randint(1, 20))
        )
        number = chance.randrange(2**31)

        def ask(stops: list[str], text: str = prompt, seed: int = number) -> tuple[str, str]:
            pieces = model.stream_complete(
                text, temperature=1.3, seed=seed, max_new_tokens=24, stop=stops
            )
            streamed = "".join(pieces)
            whole = model.complete(text, temperature=1.3, seed=seed, max_new_tokens=24, stop=stops)
            return streamed, whole

        streamed, free = ask([])
        assert streamed == free
        stops = some_stops(chance, free)
        streamed, stopped = ask(stops)
        assert streamed == stopped == cut(free, stops)


def test_a_stream_is_the_whole_text_of_the_embedded_vocabulary() -> None:
    compare_streams(load_tokenizer(NANO), count=1000, seed=1)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_stream_is_the_whole_text_of_every_vocabulary(shared: Path, name: str) -> None:
    compare_streams(load_tokenizer(shared / "tokenizers" / name), count=1000, seed=2)


def test_a_streamed_reply_is_the_whole_reply(toy: Path) -> None:
    model = ChatGLM.from_pretrained(toy)
    assert isinstance(model, ChatGLM)
    compare_replies(model, count=40, seed=3)


@pytest.mark.whole
@pytest.mark.parametrize("name", ["embedded", *VOCABULARIES])
def test_ten_thousand_streams_are_the_whole_text(shared: Path, name: str) -> None:
    folder = NANO if name == "embedded" else shared / "tokenizers" / name
    compare_streams(load_tokenizer(folder), count=10_000, seed=4)


@pytest.mark.whole
def test_a_thousand_streamed_replies_are_the_whole_replies(toy: Path) -> None:
    model = ChatGLM.from_pretrained(toy)
    assert isinstance(model, ChatGLM)
    compare_replies(model, count=1000, seed=5)

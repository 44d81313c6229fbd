"""Words of one's own in every kind of vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.messages import Message
from chatglm.tokenizer import load_tokenizer
from chatglm.tokenizer.extended import ADDED, ExtendedTokenizer, read_words

KINDS = ["chatglm-6b", "chatglm3-6b", "glm-4-9b-chat"]
WORDS = ["罗兰紫云英", "紫云英蜜", "ZX-9000", "罗兰"]


def extended(folder: Path, file: Path) -> ExtendedTokenizer:
    base = load_tokenizer(folder)
    first = base.vocab_size + 500
    file.write_text(json.dumps({word: first + i for i, word in enumerate(WORDS)}))
    return ExtendedTokenizer(base, read_words(file), file)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExtendedTokenizer:
    """A published vocabulary with four words more."""
    return extended(shared / "tokenizers" / request.param, tmp_path_factory.mktemp("x") / ADDED)


def test_a_word_is_one_token_and_the_longest_wins(tokenizer: ExtendedTokenizer) -> None:
    ids = tokenizer.encode("我爱罗兰紫云英蜜，也爱ZX-9000。")
    assert [i for i in ids if i in tokenizer.spelled] == [
        tokenizer.words["罗兰紫云英"], tokenizer.words["ZX-9000"],
    ]  # fmt: skip
    assert tokenizer.vocab_size == max(tokenizer.spelled) + 1


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.sampled_from([*WORDS, "你好", "，", "world", " ", "\n", "紫", "9000", "🙂"]))
)
def test_a_text_comes_back_as_it_was(tokenizer: ExtendedTokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.base.decode(
        tokenizer.base.encode(text)
    )


def test_texts_and_conversations_without_the_words_are_as_before(
    tokenizer: ExtendedTokenizer,
) -> None:
    talk = [
        Message(role="user", content="今天天气怎么样？"),
        Message(role="assistant", content="晴。"),
        Message(role="user", content="Thanks, 再见"),
    ]
    base = tokenizer.base.template.prompt(talk)
    assert tokenizer.template.prompt(talk) == base
    assert tokenizer.end_ids == tokenizer.base.end_ids


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"a": "b"}', '{"": 7}', '{"a": 7, "b": 7}'])
def test_a_damaged_file_of_words_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ADDED).write_text(text)
    with pytest.raises(ValueError, match=ADDED):
        read_words(tmp_path / ADDED)

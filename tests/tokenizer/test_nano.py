from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm.messages import Message, ToolCall
from chatglm.tokenizer import load_tokenizer

NANO = Path(str(files("chatglm") / "assets" / "nano"))
tokenizer = load_tokenizer(NANO)
texts = st.text() | st.text(alphabet="你好，。！程序员 \n\tab1👋🏽é<|user|>[MASK]")


@given(texts)
@settings(max_examples=300, deadline=None)
def test_every_text_comes_back(text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.special_ids.keys().isdisjoint(ids)


@pytest.mark.parametrize("name", tokenizer.special)
def test_a_special_token_written_as_text_stays_text(name: str) -> None:
    ids = tokenizer.encode(f"a{name}b")
    assert tokenizer.special_ids.keys().isdisjoint(ids)
    assert tokenizer.decode(ids) == f"a{name}b"
    prompt = tokenizer.template.prompt([Message(role="user", content=name)])
    assert prompt.tokens.count(tokenizer.special["<|user|>"]) == 1


@given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
@settings(max_examples=300, deadline=None)
def test_a_stream_says_what_decoding_says_and_never_takes_back(ids: list[int]) -> None:
    stream = tokenizer.stream()
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)
    raw = b"".join(tokenizer.bytes_of(i) for i in ids if i not in tokenizer.special_ids)
    assert tokenizer.decode(ids) == raw.decode("utf-8", "replace")


def test_digits_stand_apart_and_words_are_short() -> None:
    assert len(tokenizer.encode("1234567")) == 7
    words = [tokenizer.bytes_of(i) for i in range(tokenizer.vocab_size - 10)]
    assert max(len(word) for word in words) <= 12


def test_the_chat_format_is_the_familys() -> None:
    messages = [
        Message(role="system", content="你是客服。"),
        Message(role="user", content="你好"),
        Message(role="assistant", content="您好！"),
    ]
    rendered = tokenizer.template.render(messages, reply=False)
    assert tokenizer.decode(rendered.tokens, skip_special=False) == (
        "[gMASK]<sop><|system|>\n你是客服。<|user|>\n你好<|assistant|>\n您好！<|user|>"
    )
    learnt = [t for t, is_learnt in zip(rendered.tokens, rendered.loss, strict=True) if is_learnt]
    assert tokenizer.decode(learnt, skip_special=False) == "您好！<|user|>"
    asked = tokenizer.template.prompt(messages[:2]).tokens
    assert list(asked) == rendered.tokens[: len(asked)]


def test_a_blank_becomes_its_special_id_and_fills_after_sop() -> None:
    prompt = tokenizer.template.blank("今天[MASK]，适合出门。")
    assert prompt.tokens.count(tokenizer.special["[MASK]"]) == 1
    assert prompt.tokens[-1] == tokenizer.special["<sop>"]
    with pytest.raises(ValueError, match="no blank"):
        tokenizer.template.blank("今天")


@pytest.mark.parametrize("generation", ["chatglm3", "glm4", "glm4_moe"])
@given(city=st.text(alphabet="北京 a'\"\\\n", max_size=8), number=st.integers())
@settings(max_examples=40, deadline=None)
def test_a_tool_call_that_is_rendered_is_parsed_back(
    generation: str, city: str, number: int
) -> None:
    template = load_tokenizer(NANO, generation).template
    call = ToolCall(name="get_weather", arguments=json.dumps({"city": city, "n": number}))
    message = Message(role="assistant", tool_calls=(call,))
    question = Message(role="user", content="天气")
    text = template.text([question, message], reply=False)
    body = text.split("<|assistant|>")[1].rsplit("<|observation|>", 1)[0]
    parsed = template.parse_text(body)
    assert [c.name for c in parsed.tool_calls] == ["get_weather"]
    found = json.loads(parsed.tool_calls[0].arguments)
    if generation == "glm4_moe":  # values travel as text there; blanks around them are not kept
        assert found["n"] == number
    else:
        assert found == {"city": city, "n": number}


def test_a_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="git-lfs pointer"):
        load_tokenizer(tmp_path)
    for name in ("tokenizer.model", "ice_text.model"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(b"\x0a\x0b\x0c" * 30)
        with pytest.raises(ValueError, match="not a SentencePiece model"):
            load_tokenizer(folder)
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        load_tokenizer(make_empty(tmp_path))
    with pytest.raises(ValueError, match="generation must be one of"):
        load_tokenizer(NANO, "gpt5")


def make_empty(folder: Path) -> Path:
    empty = folder / "empty"
    empty.mkdir()
    return empty


def test_added_words_that_are_not_special_stay_in_the_text(toy: Path, tmp_path: Path) -> None:
    """GLM-4.5 has `<think>` and `<tool_call>` so; what they enclose is told by them."""
    record = json.loads((toy / "tokenizer.json").read_text("utf-8"))
    last = max(entry["id"] for entry in record["added_tokens"])
    for number, word in enumerate(("<think>", "</think>"), last + 1):
        record["added_tokens"].append({**record["added_tokens"][0], "id": number, "content": word})
        record["added_tokens"][-1]["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(record), "utf-8")
    tokenizer = load_tokenizer(tmp_path, generation="glm4")
    text = "<think>想一想</think>你好"
    ids = tokenizer.encode(text)
    assert (ids[0], last + 2 in ids) == (last + 1, True)
    assert tokenizer.decode(ids) == text
    assert "<think>" not in tokenizer.special

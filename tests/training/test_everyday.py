"""The everyday conversations that the embedded model's last stage learns from."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.model_card import PROMPTS

FILE = Path(__file__).resolve().parents[2] / "recipes" / "everyday.jsonl"
LEAST = {
    "identity": 300,
    "smalltalk": 300,
    "introduction": 800,
    "advice": 400,
    "facts": 800,
    "sums": 250,
    "translation": 400,
    "service": 250,
    "refusal": 90,
    "writing": 220,
}
Record = dict[str, object]
Talk = list[tuple[str, str]]


def bare(text: str) -> str:
    """The text in small letters without punctuation, signs and spaces."""
    return "".join(c for c in text.casefold() if unicodedata.category(c)[0] not in "PSZC")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def talks(records: list[Record]) -> list[Talk]:
    found = []
    for record in records:
        messages = record["messages"]
        assert isinstance(messages, list)
        for message in messages:
            assert set(message) == {"role", "content"}
        found.append([(message["role"], message["content"]) for message in messages])
    return found


def test_every_line_has_the_fields_and_a_known_type(records: list[Record]) -> None:
    for record in records:
        assert set(record) == {"messages", "source", "type"}
        assert record["source"] == "everyday"
        assert record["type"] in LEAST


def test_roles_alternate_and_the_assistant_has_the_last_word(talks: list[Talk]) -> None:
    for talk in talks:
        roles = [role for role, _ in talk]
        assert roles == ["user", "assistant"] * (len(talk) // 2)
        assert 2 <= len(talk) <= 8


def test_every_message_is_short_trimmed_plain_text(talks: list[Talk]) -> None:
    for talk in talks:
        for _, text in talk:
            assert text == text.strip()
            assert 1 <= len(text) <= 200
            assert not any(mark in text for mark in ("**", "`", "\ufffd", "\\n", "{", "}"))
            assert text == "".join(c for c in text if c.isprintable() or c == "\n")


def test_no_held_out_prompt_is_taught(talks: list[Talk]) -> None:
    held_out = {bare(prompt) for prompt in PROMPTS}
    assert not [text for talk in talks for _, text in talk if bare(text) in held_out]


def test_no_conversation_stands_twice(talks: list[Talk]) -> None:
    seen = Counter(tuple(bare(text) or text for _, text in talk) for talk in talks)
    assert [talk for talk, times in seen.items() if times > 1] == []


def test_no_first_question_or_reply_is_worn_out(talks: list[Talk]) -> None:
    questions = Counter(bare(talk[0][1]) for talk in talks if len(talk) == 2)
    replies = Counter(talk[1][1] for talk in talks)
    assert max(questions.values()) <= 6
    assert max(replies.values()) <= 20


def test_every_written_sum_is_right(talks: list[Talk]) -> None:
    operate = {"+": 1, "加": 1, "-": -1, "减": -1}
    sums = r"(\d+)(?:([+加])|([-减])|([×乘]))(\d+)(?:=|等于)(\d+)"
    found = [sum_ for talk in talks for _, text in talk for sum_ in re.findall(sums, text)]
    assert len(found) > 100
    for left, plus, minus, times, right, result in found:
        a, b = int(left), int(right)
        value = a * b if times else a + operate[plus or minus] * b
        assert value == int(result), (left, plus or minus or times, right, result)


def test_quotation_marks_pair_and_no_mark_is_doubled(talks: list[Talk]) -> None:
    for talk in talks:
        for _, text in talk:
            assert text.count("“") == text.count("”"), text
            assert text.count("《") == text.count("》"), text
            assert not re.search(r"[，。？！、；：][，。？！、；：]", text), text


def test_every_type_is_well_represented(records: list[Record]) -> None:
    sizes = Counter(record["type"] for record in records)
    for kind, least in LEAST.items():
        assert sizes[kind] >= least, kind
    assert FILE.stat().st_size < 1_200_000


def test_a_part_of_the_conversations_has_several_turns(talks: list[Talk]) -> None:
    several = sum(len(talk) > 2 for talk in talks)
    assert several >= 0.12 * len(talks)

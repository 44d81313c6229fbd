"""What is decided before any search."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.apps.support.rules import (
    Rules,
    WordGate,
    asks_for_person,
    folded,
    parts_of,
    read_lines,
    small_talk,
    without_politeness,
)


@pytest.mark.parametrize(
    "text",
    [
        "转人工",
        "找真人",
        "人工",
        "人工客服",
        "我要转人工！",
        "轉人工",
        "请帮我转人工客服，谢谢",
        "我不想和机器人说话，给我找个真人客服",
        "能不能转人工",
        "能转人工吗",
        "I want to talk to a human",
        "human agent please",
    ],
)
def test_whoever_asks_for_a_person_is_heard(text: str) -> None:
    assert asks_for_person(text)


@pytest.mark.parametrize(
    "text",
    [
        "怎么转人工？",
        "人工客服几点上班",
        "客服电话是多少",
        "人工智能是什么",
        "这个包是人工做的吗",
        "换货",
    ],
)
def test_questions_about_people_are_questions(text: str) -> None:
    assert not asks_for_person(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("你好", "greeting"),
        ("您好，在吗？", "greeting"),
        ("Hello!", "greeting"),
        ("好的，谢谢你", "thanks"),
        ("再见", "parting"),
        ("你好，怎么退货", None),
        ("谢谢，运费谁出", None),
        ("！！！", None),
    ],
)
def test_small_talk_is_nothing_but_small_talk(text: str, kind: str | None) -> None:
    assert small_talk(text) == kind


def test_politeness_and_sentences_are_told_apart() -> None:
    assert without_politeness("你好，请问一下怎么退货？") == "怎么退货？"
    assert without_politeness("你好") == "你好"
    assert parts_of("我买了杯子。收到碎了！怎么办呢？") == ["我买了杯子", "收到碎了", "怎么办呢"]
    assert parts_of("怎么退货？") == []


@pytest.mark.parametrize(
    "text", ["赌博", "赌 博", "赌\u200b博", "線上賭博網站", "网络赌*博", "GamBling"]
)
def test_words_are_found_whatever_they_wear(text: str) -> None:
    assert WordGate(["赌博", "gambling"]).first(text) in ("赌博", "gambling")


@given(
    words=st.lists(st.text("ab退货款", min_size=1, max_size=4), max_size=6),
    text=st.text("ab退货款x", max_size=30),
)
def test_the_gate_finds_a_word_exactly_where_the_text_holds_one(
    words: list[str], text: str
) -> None:
    found = WordGate(words).first(text)
    held = [word for word in words if folded(word) in folded(text)]
    assert (found is not None) == bool(held)
    assert found is None or found in held


def test_lists_are_lines_and_remarks_are_not() -> None:
    assert read_lines("# 敏感\n赔偿\n\n法律 # 律师\n") == ("赔偿", "法律")
    rules = Rules(topics=("赔偿",), words=("脏话",))
    assert rules.topic_in("我要求賠償！") == "赔偿"
    assert rules.topic_in("怎么退货") is None
    assert rules.word_in("说脏话") == "脏话"

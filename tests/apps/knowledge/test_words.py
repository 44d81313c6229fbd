"""Texts as terms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.apps.knowledge.synonyms import Synonyms, read_groups
from chatglm.apps.knowledge.words import codes, distinct, normalized, terms


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("ＡＢＣ１２３", "abc123"),
        ("我要退貨，運費誰出？", "我要退货,运费谁出?"),
        ("七天", "7天"),
        ("二十五小时", "25小时"),
        ("三百零五元", "305元"),
        ("一万二千块", "12000块"),
        ("一一对应", "一一对应"),
        ("一般", "一般"),
    ],
)
def test_looks_that_differ_become_one_form(text: str, form: str) -> None:
    assert normalized(text) == form


def test_chinese_becomes_characters_and_pairs_and_other_words_stay_whole() -> None:
    assert terms("退货运费") == ["退", "货", "运", "费", "退货", "货运", "运费"]
    assert terms("iPhone 15的orders") == ["iphone", "15", "的", "order"]


@given(st.text(max_size=80))
def test_terms_are_words_that_a_full_text_index_takes_whole(text: str) -> None:
    for term in terms(text):
        assert term
        assert " " not in term
        assert '"' not in term
    assert set(distinct(text)) == set(terms(text))


def test_synonyms_of_a_question_are_the_words_it_lacks() -> None:
    groups = read_groups("邮费 运费 快递费 # 同一回事\n\n手机，电话\n")
    assert Synonyms(groups).others("退货邮费谁出") == "运费 快递费"
    assert Synonyms(groups).others("积分") == ""
    with pytest.raises(ValueError, match="stands alone"):
        read_groups("运费")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ｂ２多少钱", {"b2"}),
        ("RTX-4090 和 iPhone15", {"rtx4090", "iphone15"}),
        ("15天内退5G套餐，花了100元", set()),
        ("Windows 下载", set()),
    ],
)
def test_codes_are_names_with_a_number(text: str, found: set[str]) -> None:
    assert codes(text) == found

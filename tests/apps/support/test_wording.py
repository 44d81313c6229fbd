"""Answers that say what their sources say."""

from __future__ import annotations

import pytest

from chatglm.apps.knowledge.records import Chunk
from chatglm.apps.support.followup import completions, content, refers_back, topic_of
from chatglm.apps.support.reply import Citation
from chatglm.apps.support.wording import as_found, best_span, grounded


def chunk(text: str, number: int = 1, question: str = "") -> Chunk:
    return Chunk(
        id=number,
        document=1,
        source="手册.md",
        position=number,
        kind="faq" if question else "text",
        question=question,
        text=text,
        path=("手册", "售后"),
        place="第 2 页",
    )


WARRANTY = chunk("整机保修期为2年，电池保修期为6个月。人为损坏不在保修范围内。")
FREIGHT = chunk("退货运费由买家承担，质量问题由商家承担，客服邮箱是 help@shop.example。", 2)


def test_a_faq_answer_is_given_as_written() -> None:
    worded = as_found("怎么退", chunk("点退货，\n再寄回。", question="怎么退货？"))
    assert worded.text == "点退货，\n再寄回。 [1]"
    (citation,) = worded.citations
    assert (citation.title, citation.source, citation.place) == ("怎么退货？", "手册.md", "第 2 页")
    assert citation.quote == "点退货，\n再寄回。"


def test_of_a_long_text_the_sentences_that_fit_are_quoted() -> None:
    text = "".join(f"第{i}项说明与此无关，请跳过这一句话。" for i in range(20))
    text += "退货运费由买家承担。质量问题除外。" + text
    span = best_span("退货的运费谁出", text)
    assert "退货运费由买家承担。" in span
    assert span in text
    assert len(span) <= 240


def test_a_citation_cannot_quote_what_its_chunk_does_not_say() -> None:
    with pytest.raises(ValueError, match="must quote"):
        Citation.of(WARRANTY, "终身保修")


@pytest.mark.parametrize(
    "said",
    [
        "整机保修期为2年，电池为6个月[1]。",
        "整机保修2年 [1]",
        "整机保修期为2年，电池保修期为6个月。",
    ],
)
def test_what_a_model_says_from_its_sources_passes(said: str) -> None:
    worded = grounded(said, [WARRANTY, FREIGHT])
    assert worded is not None
    assert [c.chunk for c in worded.citations] == [1]
    assert worded.citations[0].quote in WARRANTY.text
    assert "[1]" in worded.text


@pytest.mark.parametrize(
    "said",
    [
        "整机保修期为3年[1]。",
        "整机保修期为2年，电池保修期为6个月，请加微信 abc123[1]。",
        "详情请访问 http://evil.example/x [1]",
        "邮箱是 evil@shop.example[2]。",
        "今天天气很好，适合出门散步，祝您心情愉快[1]。",
        "整机保修期为2年[7]。",
        "不知道。",
        "",
        "[1]",
    ],
)
def test_what_a_model_invents_does_not_pass(said: str) -> None:
    assert grounded(said, [WARRANTY, FREIGHT]) is None


def test_marks_are_numbered_in_their_order() -> None:
    worded = grounded("退货运费由买家承担[2]，人为损坏不在保修范围内[1]。", [WARRANTY, FREIGHT])
    assert worded is not None
    assert worded.text.index("[1]") < worded.text.index("[2]")
    assert [c.chunk for c in worded.citations] == [2, 1]


@pytest.mark.parametrize(
    ("last", "title", "question", "whole"),
    [
        ("专业版有什么好处", "免费版和专业版有什么区别？", "那多少钱？", "专业版多少钱？"),
        ("会员怎么开通", "怎么成为会员？", "它要钱吗", "会员要钱吗"),
        ("信用卡怎么申请", "信用卡怎么申请？", "那贷款呢？", "贷款怎么申请"),
        ("优惠券怎么用", "优惠券怎么用？", "过期了能补吗", "优惠券过期了能补吗"),
    ],
)
def test_a_follow_up_is_made_whole(last: str, title: str, question: str, whole: str) -> None:
    assert completions(question, {"question": last, "title": title})[0] == whole


def test_only_what_points_back_points_back() -> None:
    assert all(map(refers_back, ("那多少钱？", "它要钱吗", "这个能退吗", "生鲜呢？")))
    assert not any(map(refers_back, ("怎么退货", "那儿有店吗", "其他城市能送吗")))
    assert topic_of({}) == ""
    assert completions("那多少钱", {}) == []
    assert content("怎么办理退货呢？") == "退货"

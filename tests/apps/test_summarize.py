"""Summaries: sentences as they stand, a model's checked words, asked forms and lengths."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.apps.scripted import Scripted

from chatglm.apps.summarize import Summarizer
from chatglm.apps.summarize.genre import genre
from chatglm.apps.summarize.rank import rank, text_rank
from chatglm.apps.summarize.sections import split
from chatglm.apps.text import sentences
from chatglm.apps.text_file import InvalidText

ARTICLE = (
    "公司今天发布了新的翻译软件，支持中文和英文。软件可以翻译文档、字幕和网页。"
    "发布会上，负责人介绍了软件的三个特点。第一，速度比上一版快2倍。第二，文档的格式保持不变。"
    "第三，术语可以由用户自己规定。现场有300多人参加。软件从下周一起可以下载。"
)
DIALOGUE = (
    "用户：你好，请推荐一家三百元左右的酒店。\n客服：推荐您去锦江之星。\n用户：电话是多少？\n"
    "客服：电话是010-64917666。\n用户：好的，谢谢。\n客服：不客气。"
)
ENGLISH = (
    "The city opened a new library on Monday. The library holds 200,000 books and has a garden on "
    "its roof. Mr. Lee, the architect, said light was the main idea. Visitors can borrow books for "
    "four weeks. Entry is free for everyone. The old building will become a museum."
)


@pytest.mark.parametrize("text", [ARTICLE, ENGLISH, DIALOGUE])
def test_extracted_sentences_stand_in_the_text_in_its_order(text: str) -> None:
    summary = Summarizer().summarize(text)
    assert summary.mode == "extractive"
    places = [text.index(s) for s in summary.sentences]
    assert places == sorted(places)
    assert 0 < len(summary.text) < len(text)


@given(
    st.lists(
        st.text(alphabet="今天发布新版本，软件翻译文档快abc 12", min_size=1, max_size=40),
        min_size=1,
        max_size=12,
    ),
    st.integers(8, 120),
    st.sampled_from(["headline", "paragraph", "points"]),
)
@settings(deadline=None, max_examples=150)
def test_an_asked_length_is_never_passed(parts: list[str], length: int, form: str) -> None:
    text = "好。" + "。".join(parts) + "。"
    summary = Summarizer().summarize(text, form=form, length=length)  # type: ignore[arg-type]
    assert len(summary.text) <= length


def test_an_asked_length_is_used() -> None:
    text = ARTICLE * 5
    assert 60 <= len(Summarizer().summarize(text, length=100).text) <= 100


def test_bullet_points_are_lines_and_at_most_as_many_as_asked() -> None:
    summary = Summarizer().summarize(ARTICLE, form="points", points=3)
    lines = summary.text.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("- ") and line[2:] in ARTICLE for line in lines)


def test_a_headline_is_one_line_without_a_full_stop() -> None:
    headline = Summarizer().summarize(ARTICLE, form="headline").text
    assert headline in ARTICLE
    assert not headline.endswith("。")


def test_a_dialogue_is_summed_up_by_whoever_opened_it() -> None:
    assert genre(DIALOGUE) == "dialogue"
    assert Summarizer().summarize(DIALOGUE).text == "你好，请推荐一家三百元左右的酒店。电话是多少？"


def test_sentences_that_repeat_are_taken_once() -> None:
    text = ("新版翻译软件支持中文和英文的文档翻译。" * 6) + "软件从下周一起可以免费下载使用。"
    chosen = Summarizer().summarize(text, length=60).sentences
    assert len(set(chosen)) == 2


def test_long_texts_are_ranked_in_parts_and_all_of_them_is_seen() -> None:
    lines = [f"第{i}段讲的是第{i}件小事，与其他各段都没有什么关系。" for i in range(2000)]
    ranked = rank("\n".join(lines))
    assert 200 <= len(ranked) <= 800
    assert max(r.index for r in ranked) >= 1600


def test_text_rank_prefers_what_others_speak_of() -> None:
    from collections import Counter

    ranks = text_rank([Counter("ab"), Counter("bc"), Counter("cd"), Counter("xy")])
    assert max(ranks) in ranks[1:3]
    assert min(ranks) == ranks[3]


def test_a_model_that_keeps_to_the_text_is_believed() -> None:
    model = Scripted(lambda _: "公司发布了新的翻译软件，速度快2倍，格式保持不变。")
    summary = Summarizer(model).summarize(ARTICLE)
    assert summary.mode == "abstractive"
    assert summary.text == "公司发布了新的翻译软件，速度快2倍，格式保持不变。"
    assert summary.notes == ()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "it is empty"),
        ("公司发布了翻译软件，售价99元。", "the text has no 99"),
        ("公司发布了 Windows 翻译软件。", "the text has no Windows"),
        ("The company released software.", "another language"),
        ("公司发布了新的软件" * 9, "repeats itself"),
        ("天气晴朗适合出门旅行散步游泳。", "of its words"),
    ],
)
def test_what_the_text_does_not_say_is_replaced_by_its_sentences(reply: str, reason: str) -> None:
    summary = Summarizer(Scripted(lambda _: reply)).summarize(ARTICLE)
    assert summary.mode == "extractive"
    assert summary.sentences
    assert reason in summary.notes[0]


def test_only_the_sentence_with_an_invented_number_goes() -> None:
    model = Scripted(lambda _: "公司发布了新的翻译软件。软件售价99元。")
    assert Summarizer(model).summarize(ARTICLE).text == "公司发布了新的翻译软件。"


def test_a_text_beyond_the_context_is_read_in_parts_and_reduced() -> None:
    model = Scripted(lambda p: "公司发布了新的翻译软件。", small=True)
    heard: list[tuple[int, int]] = []
    long = "\n".join([ARTICLE] * 40)
    summary = Summarizer(model, mode="abstractive").summarize(
        long, on_progress=lambda done, all_: heard.append((done, all_))
    )
    assert summary.sections > 3
    assert len(model.prompts) == summary.sections + 1
    assert heard[-1] == (summary.sections + 1, summary.sections + 1)
    assert summary.text == "公司发布了新的翻译软件。"


def test_parts_keep_every_sentence() -> None:
    text = "\n".join(ARTICLE for _ in range(10))
    parts = split(text, 100, len)
    assert all(len(part) <= 100 for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert split("长" * 250, 100, len) == ["长" * 62, "长" * 63, "长" * 62, "长" * 63]


def test_many_texts_are_asked_as_one_batch_with_the_same_results() -> None:
    texts = [ARTICLE[:60], DIALOGUE[:60]]
    summarizer = Summarizer(mode="abstractive")
    together = summarizer.summarize_many(texts, form="headline", length=12)
    assert together == [summarizer.summarize(t, form="headline", length=12) for t in texts]
    assert all(summary.text for summary in together)


def test_wrong_input_is_said_in_a_sentence() -> None:
    summarizer = Summarizer()
    with pytest.raises(InvalidText, match="is empty"):
        summarizer.summarize(" \n!!")
    with pytest.raises(ValueError, match="form must be one of headline"):
        summarizer.summarize(ARTICLE, form="poem")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length must be at least 8"):
        summarizer.summarize(ARTICLE, length=3)
    with pytest.raises(ValueError, match="points must lie between 1 and 50, got 0"):
        summarizer.summarize(ARTICLE, form="points", points=0)
    with pytest.raises(ValueError, match="mode must be one of"):
        Summarizer(mode="magic")  # type: ignore[arg-type]


def test_extractive_beats_lead_three_and_text_rank(shared: object) -> None:
    import json
    from pathlib import Path

    from chatglm.apps.summarize.rank import lead, plain_text_rank
    from chatglm.evaluate.metrics import rouge

    path = Path(str(shared)) / "data" / "eval" / "summarization.test.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()][:150]
    refs = [row["ref"] for row in rows]
    summarizer = Summarizer()
    ours = [
        summarizer.summarize(
            r["article"], form="headline" if r["type"] == "title" else "paragraph"
        ).text
        for r in rows
    ]
    score = rouge(ours, refs)
    for peer in (lead, plain_text_rank):
        theirs = rouge([peer(row["article"], 3) for row in rows], refs)
        assert all(score[k] > theirs[k] for k in ("rouge1", "rouge2", "rougeL"))


def test_a_summary_of_sentences_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from chatglm.apps.summarize import Summarizer; "
        f"Summarizer().summarize({sentences(ARTICLE)[0]!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

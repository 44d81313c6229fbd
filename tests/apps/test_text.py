"""Sentences, languages and files of text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm import ChatGLM
from chatglm.apps import text_file
from chatglm.apps.summarize import Summarizer
from chatglm.apps.text import characters, clauses, language, sentences, terms
from chatglm.apps.text_file import InvalidText, decode, read_text, write_text
from chatglm.apps.write import Writer

CHINESE = "他说：“你好！”价格是3.14元；对吧……好。"


def test_chinese_sentences_end_with_their_marks_and_quotes() -> None:
    assert sentences(CHINESE) == ["他说：“你好！”", "价格是3.14元；对吧……", "好。"]


def test_english_sentences_do_not_end_at_abbreviations_or_numbers() -> None:
    text = "Mr. Smith paid $3.50 to Acme Inc. in the U.S. last year. Why? No idea, e.g. none."
    assert sentences(text) == [
        "Mr. Smith paid $3.50 to Acme Inc. in the U.S. last year.",
        "Why?",
        "No idea, e.g. none.",
    ]


def test_wrapped_english_lines_are_one_sentence_and_lists_are_not() -> None:
    text = (
        "This line of English text is wrapped at some column\nand goes on here.\n\n"
        "Now the next line of text is a list that stays one\n- first\n- second"
    )
    assert sentences(text) == [
        "This line of English text is wrapped at some column and goes on here.",
        "Now the next line of text is a list that stays one",
        "- first",
        "- second",
    ]


@given(st.text(alphabet="今天很好。！？，ab. \n“”1", max_size=60))
def test_sentences_lose_nothing_but_blank_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.text(alphabet="今天，,：:；1a 。", max_size=40))
def test_clauses_join_to_their_sentence(sentence: str) -> None:
    assert "".join(clauses(sentence)) == sentence


def test_language_is_told_by_what_carries_the_text() -> None:
    assert language("我在用 Linux 和 GNOME 桌面工作") == "zh"
    assert language("The word 你好 means hello in Chinese") == "en"
    assert characters(" 你 好\n") == 2


def test_terms_are_pairs_of_characters_and_words() -> None:
    assert terms("退货运费 the Linux") == ["退货", "货运", "运费", "linux"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16"])
def test_text_is_read_in_the_usual_encodings(encoding: str) -> None:
    text = "今天我们发布了新版本，欢迎试用。\r\n第二行。"
    file = decode(text.encode(encoding), "a.txt")
    assert file.text == text.replace("\r\n", "\n")
    assert file.newline == "\r\n"
    is_plain = encoding.startswith("utf-8")
    assert (file.note is None) == is_plain
    if "gb" in encoding:
        assert file.note is not None
        assert "GBK" in file.note


def test_bytes_that_are_no_text_are_refused_by_line() -> None:
    with pytest.raises(InvalidText, match=r"a\.bin line 2: byte 0xff is not UTF-8"):
        decode(b"one\n\xff\xfe\x00\x80\x81", "a.bin")
    with pytest.raises(InvalidText, match="NUL"):
        decode(b"a\0b", "a.bin")
    with pytest.raises(InvalidText, match="is empty"):
        decode(b" \n", "a.txt")


def test_a_file_that_is_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(200 << 20)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(InvalidText, match=r"huge\.txt has more than 64 MB \(200 MB seen\)"):
        read_text(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(InvalidText, match="is a directory"):
        read_text(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old\n", "\r\n")
    assert path.read_bytes() == b"old\r\n"

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(text_file.os, "fsync", fails)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_bytes() == b"old\r\n"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("module", ["chatglm.apps.summarize.abstract", "chatglm.apps.write.drafts"])
def test_summaries_and_rewritings_try_to_copy_and_say_the_same(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    model = ChatGLM.from_pretrained()
    assert isinstance(model, ChatGLM)
    notices = [
        "本市图书馆自下月一日起延长开放时间。读者凭身份证或读者证入馆，每人一次可借图书十册。",
        "小猫在花园里看到一只小鸟，小鸟在树上唱歌。小猫想和小鸟做朋友，小鸟也想和小猫做朋友。",
    ]

    def work() -> tuple[list[str], int, int]:
        steps, drafted = model.engine.num_steps, model.engine.replies.num_drafted
        if module.endswith("abstract"):
            texts = [Summarizer(model).summarize(n, mode="abstractive").text for n in notices]
        else:
            texts = [Writer(model).rewrite(n, "formal").text for n in notices]
        return texts, model.engine.num_steps - steps, model.engine.replies.num_drafted - drafted

    ahead, fewer, num_drafted = work()
    monkeypatch.setattr(f"{module}.COPIED", 0)
    plain, steps, none = work()
    assert ahead == plain
    assert fewer <= steps
    assert num_drafted > none == 0

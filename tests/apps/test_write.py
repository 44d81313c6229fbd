"""Writing: the form holds whatever the model, and length, drafts and forms of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.apps.scripted import Scripted

from chatglm import ChatGLM
from chatglm.apps.text_file import InvalidText
from chatglm.apps.write import Writer
from chatglm.apps.write.constraint import Constraint, alphabet
from chatglm.apps.write.drafts import forced, keeps
from chatglm.apps.write.forms import all_forms, find_form, read_form
from chatglm.apps.write.layout import Slot, faults, lower_line, poem
from chatglm.apps.write.prose import bounds, kept_length
from chatglm.apps.write.prosody import reading, rhyme, tone

VERSES = {"jueju5": (4, 5), "jueju7": (4, 7), "lvshi5": (8, 5), "lvshi7": (8, 7)}


@pytest.fixture(scope="module")
def writer() -> Writer:
    """The embedded model's."""
    return Writer(ChatGLM.from_pretrained())  # type: ignore[arg-type]


def lines_of(text: str) -> list[str]:
    return [line for line in re.split(r"[，。\n]", text.split("\n", 1)[1]) if line]


def rhymes_by_pinyin(characters: list[str]) -> set[str]:
    """Finals of characters, without medials, by pypinyin alone."""
    from pypinyin import Style, lazy_pinyin

    finals = [lazy_pinyin(c, style=Style.FINALS)[0] for c in characters]
    return {re.sub(r"^(?:i|u|v|ü)(?=[aeo])", "", f) for f in finals}


@pytest.mark.parametrize("form", VERSES)
def test_poems_have_their_lines_characters_tones_and_rhymes(writer: Writer, form: str) -> None:
    num_lines, size = VERSES[form]
    text = writer.write(form, "春雨", seed=1).text
    assert text.startswith("《春雨》\n")
    lines = lines_of(text)
    assert [len(line) for line in lines] == [size] * num_lines
    assert writer.faults(form, "春雨", text) == []
    ends = [line[-1] for line in lines[1::2]]
    assert all(tone(c) == "平" for c in ends)
    assert len({rhyme(c) for c in ends}) == 1
    assert len(rhymes_by_pinyin(ends)) <= 3
    assert all(tone(line[-1]) == "仄" for line in lines[2::2])
    assert all(tone(line[1]) != tone(line[3]) for line in lines)


def test_the_same_seed_gives_the_same_poem(writer: Writer) -> None:
    first = writer.write("绝句", "秋夜", seed=7).text
    assert first == writer.write("七绝", "秋夜", seed=7).text
    assert first != writer.write("七绝", "秋夜", seed=8).text


@pytest.mark.parametrize("upper", ["佳句偶成缘鸟语", "山山水水", "春风送暖，万里河山披锦绣。"])
def test_a_lower_line_answers_the_upper_one(writer: Writer, upper: str) -> None:
    lower = writer.write("couplet", upper, seed=1).text
    upper = upper.rstrip("。")
    assert writer.faults("couplet", upper, lower) == []
    assert [c == "，" for c in lower] == [c == "，" for c in upper]
    assert not set(lower) & set(upper) - {"，"}
    if upper == "山山水水":
        assert lower[0] == lower[1]
        assert lower[2] == lower[3]
    last = (tone(upper[-1]), tone(lower[-1]))
    assert last[0] is None or last[0] != last[1]


def test_a_model_of_random_weights_and_bytes_keeps_the_form_too(toy: Path) -> None:
    writer = Writer(ChatGLM.from_pretrained(toy, dtype="float32"))  # type: ignore[arg-type]
    for seed in range(3):
        assert writer.faults("jueju5", "雨", writer.write("jueju5", "雨", seed=seed).text) == []


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=3, deadline=None)
def test_any_logits_end_in_a_verse(seed: int) -> None:
    tokenizer = ChatGLM.from_pretrained().tokenizer
    letters = alphabet(tokenizer)
    layout = poem(["中平中仄仄平韵", "中仄平平仄仄韵"], "《月》")
    constraint = Constraint(layout, letters, tokenizer.end_ids)
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = [1, 2, 3]
    while True:
        logits = torch.randn(len(letters.spelled), generator=generator) * 5
        token = int(constraint(tokens, logits).argmax())
        if token in tokenizer.end_ids:
            break
        tokens.append(token)
    assert faults(tokenizer.decode(tokens[3:]), layout) == []


def test_tones_and_rhymes_are_those_of_the_dictionary() -> None:
    assert [tone(c) for c in "春江花月夜"] == ["平", "平", "平", "仄", "仄"]
    assert rhyme("东") == rhyme("松") == rhyme("红") == "东"
    assert rhyme("知") == "支"
    assert rhyme("西") == "齐"
    assert rhyme("鱼") == rhyme("居") == "鱼"
    assert tone("行") is None
    assert rhyme("行") is None
    assert tone("为") is None
    assert reading("a") is None


def test_faults_of_a_verse_are_named() -> None:
    layout = poem(["中平", "仄韵"])
    assert faults("清风，月明。", layout) == []
    assert "清 comes twice" in faults("清清，月明。", layout)
    assert "月 is not 平" in faults("清月，夜明。", layout)
    assert "expected '，'" in faults("清风月，", layout)[0]
    assert "more than the form" in faults("清风，月明。完", layout)[0]
    assert "do not rhyme" in faults("风，天。", poem(["韵", "韵"]))[0]


def test_a_line_that_repeats_is_answered_by_one_that_does() -> None:
    slots = lower_line("风声雨声").slots
    assert slots[3] == Slot(tone=slots[1].tone, like=1)


def test_a_remote_poem_in_form_is_taken_as_it_is() -> None:
    good = "《雨》\n" + Writer().write("jueju5", "雨", seed=3).text.split("\n", 1)[1]
    remote = Scripted(lambda _: good)
    writer = Writer(remote)
    seed = next(s for s in range(40) if not faults(good, seeded_layout(writer, "jueju5", s)))
    done = writer.write("jueju5", "雨", seed=seed)
    assert done.text == good
    assert done.notes == ()
    assert len(remote.prompts) == 1


def seeded_layout(writer: Writer, form: str, seed: int):  # type: ignore[no-untyped-def]
    import random

    lines = random.Random(seed).choice(writer.forms[form].patterns)
    return poem(lines, "《雨》")


def test_a_remote_poem_out_of_form_is_repaired() -> None:
    remote = Scripted(lambda _: "《雨》\n今天下雨了，我没有带伞。")
    done = Writer(remote).write("jueju5", "雨", seed=1)
    assert Writer(remote).faults("jueju5", "雨", done.text) == []
    assert len(remote.prompts) == 3
    assert "有误" in remote.prompts[1]
    assert done.notes


def test_lines_that_are_right_are_kept_in_a_repair() -> None:
    layout = poem(["中平中", "中仄韵"])
    kept = forced(["清风夜，雨雨雨。"], layout)
    assert "清风夜" in kept.elements
    assert set("清风夜") <= kept.banned


@pytest.mark.parametrize(("form", "length"), [("story", 150), ("news", 120), ("email", 200)])
def test_prose_keeps_its_length(writer: Writer, form: str, length: int) -> None:
    text = writer.write(form, "春天的公园", length=length, seed=1).text
    low, high = bounds(length)
    assert low <= len(text) <= high


def test_an_email_has_its_parts_and_fields(writer: Writer) -> None:
    done = writer.write(
        "邮件", "请假", length=150, seed=1, fields={"to": "王经理", "sender": "李雷"}
    )
    assert done.text.startswith("主题：请假\n\n王经理：\n\n您好！\n\n")
    assert done.text.endswith("\n\n此致\n敬礼\n\n李雷")
    with pytest.raises(ValueError, match="email has no field 'from'; it has to, sender"):
        writer.write("email", "请假", fields={"from": "a"})


def test_long_prose_is_written_by_the_outline_of_the_model() -> None:
    sentence = "这是关于春天的一段话，写得不长也不短，正好用来试验。"

    def answer(prompt: str) -> str:
        return "1. 开头\n2. 中间\n3. 结尾" if "列出提纲" in prompt else sentence * 14

    model = Scripted(answer)
    heard: list[tuple[int, int]] = []
    done = Writer(model).write(
        "story", "春天", length=1000, on_progress=lambda a, b: heard.append((a, b))
    )
    assert done.outline == ("开头", "中间", "结尾")
    assert heard == [(1, 3), (2, 3), (3, 3)]
    assert 900 <= len(done.text) <= 1100
    assert "“结尾”" in model.prompts[-1]
    assert Writer(model).outline("story", "春天") == ("开头", "中间", "结尾")


def test_a_short_reply_is_gone_on_with() -> None:
    model = Scripted(lambda _: "春天来了，公园里的花都开了，大家都去看。")
    done = Writer(model).write("story", "春天", length=70)
    assert 63 <= len(done.text) <= 77
    assert len(model.prompts) > 1


@given(st.text(alphabet="春天来了。，公园a b\n", min_size=1, max_size=300), st.integers(20, 120))
@settings(deadline=None)
def test_a_long_text_is_cut_within_its_length(text: str, length: int) -> None:
    cut = kept_length(text, length)
    low, high = bounds(length)
    assert len(cut) <= high or len(text.strip()) <= high
    if len(text.strip()) > high and len("".join(text.split())) > high:
        assert len(cut) >= min(low, high) - 30


def test_going_on_and_filling_keep_what_is_there(writer: Writer) -> None:
    more = writer.go_on("从前有一只小兔子，住在森林里。", length=60, seed=1)
    assert 54 <= len(more) <= 66
    filled = writer.fill("今天____，适合出门。我带了（ ）。")
    match = re.fullmatch(r"今天(.+)，适合出门。我带了(.+)。", filled)
    assert match is not None
    assert all(any(c.isalnum() for c in part) for part in match.groups())
    with pytest.raises(InvalidText, match="no blank"):
        writer.fill("没有空。")


def test_blanks_are_filled_by_a_remote_model_too() -> None:
    words = iter(["晴天", "雨伞"])
    filled = Writer(Scripted(lambda _: next(words))).fill("今天[MASK]，不用带____。")
    assert filled == "今天晴天，不用带雨伞。"


def test_a_rewriting_that_loses_something_is_not_taken() -> None:
    text = "明天3点开会，别迟到。\n大家带上材料。"
    replies = {"明天": "会议定于明天3点召开，请勿迟到。", "大家": "天气很好。"}
    model = Scripted(lambda p: next(v for k, v in replies.items() if f"<<<\n{k}" in p))
    done = Writer(model).rewrite(text, "正式")
    assert done.text == "会议定于明天3点召开，请勿迟到。\n大家带上材料。"
    assert "1 of 2" in done.notes[0]
    assert not keeps("共3人", "共4人")
    assert keeps("共3人", "一共有3人")


def test_forms_of_ones_own_are_added_and_replace(tmp_path: Path) -> None:
    (tmp_path / "haiku.toml").write_text(
        'name = "haiku"\ntitle = "俳句"\nkind = "verse"\ngeneral = "写{topic}"\n'
        'patterns = [["中中中中中", "中中中中中中中", "中中中中中"]]\n',
        encoding="utf-8",
    )
    writer = Writer(ChatGLM.from_pretrained(), forms=tmp_path)  # type: ignore[arg-type]
    text = writer.write("俳句", "雪", seed=1).text
    assert [len(x) for x in re.split(r"[，。\n]+", text) if x] == [5, 7, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name = ", "no valid TOML"),
        ("colour = 1", "unknown key 'colour'"),
        ('kind = "song"', "kind must be one of"),
        ("length = 0", "length must lie between"),
        ('patterns = [["平x"]]', "a line must be of"),
        ('frame = "Hello"', "frame has no {body}"),
    ],
)
def test_a_wrong_form_says_what_is_wrong(change: str, message: str) -> None:
    fields = {"name": '"x"', "title": '"y"', "kind": '"prose"', "general": '"z"'}
    key, value = change.split(" = ")[0].strip(), change.split("=", 1)[1].strip()
    fields[key] = value
    with pytest.raises(InvalidText, match=re.escape(message)):
        read_form("\n".join(f"{k} = {v}" for k, v in fields.items()), "x.toml")


def test_every_form_of_the_package_reads_and_is_found_by_its_chinese_name() -> None:
    forms = all_forms(Path("/nonexistent"))
    assert {"story", "news", "couplet", "email", "advertisement", *VERSES} <= forms.keys()
    for form in forms.values():
        assert find_form(form.title, forms) is form
    with pytest.raises(ValueError, match="no form 'opera'; there are advertisement"):
        find_form("opera", forms)


def test_what_makes_no_sense_is_refused(writer: Writer) -> None:
    with pytest.raises(InvalidText, match="topic is empty"):
        writer.write("story", " ")
    with pytest.raises(ValueError, match="leave length out"):
        writer.write("jueju5", "雨", length=20)
    with pytest.raises(ValueError, match="length must lie between 20 and 50000"):
        writer.write("story", "雨", length=5)
    with pytest.raises(InvalidText, match="must be Chinese"):
        writer.write("couplet", "春风abc")
    with pytest.raises(ValueError, match="is a tone"):
        writer.write("formal", "雨")
    with pytest.raises(ValueError, match="is no tone"):
        writer.rewrite("你好", "story")


def test_a_title_that_the_model_adds_is_left_out() -> None:
    sentence = "雨停了，天上有一道彩虹，孩子们都跑出来看。"
    done = Writer(Scripted(lambda _: f"《天上的桥》\n{sentence * 2}")).write(
        "story", "彩虹", length=40
    )
    assert "《" not in done.text
    assert done.text.startswith("雨停了")

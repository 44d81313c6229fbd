"""Translation: what must stay stays, whatever the model says."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.apps.scripted import Scripted, babbler

from chatglm.apps.text_file import InvalidText
from chatglm.apps.translate import Glossary, Memory, Translator
from chatglm.apps.translate.direction import direction, recognize
from chatglm.apps.translate.formats import FORMATS, format_of, reading
from chatglm.apps.translate.kept import faults, kept, parts

MARKDOWN = """---
title: "Hello world"
date: 2024-01-02
---
# Getting started with **chatglm**

This is a [link](https://example.com/a_(b)) and some `code`. It has
two lines and 3 numbers: 1,000 and 5%.

- first item with {name} and %s
- second *item*
  1. nested item
> quoted text here

| Name | Value |
|:---|---:|
| apple | 12 |
| `x|y` | the red one |

```python
print("hello")  # do not touch
```

    indented code stays

<div align="center">
<b>raw html</b>
</div>

Term[^1] and <b>bold</b> &amp; ![image](a.png "title").

[^1]: The footnote text.
[ref]: https://example.com
"""
SUBTITLES = (
    "1\n00:00:01,000 --> 00:00:02,500\n<i>Hello, my friend.</i>\n- How are you?\n\n"
    "2\n00:00:03,000 --> 00:00:04,500 X1:40\nI have 2 apples.\n"
)
WEBVTT = (
    "WEBVTT - Title\n\nNOTE a remark\n\nintro\n00:01.000 --> 00:02.000 align:left\n"
    "<v Ann>Good morning, <c.red>everyone</c>\n\n00:03.000 --> 00:04.000\nSee you at 9:30\n"
)
STRINGS = (
    '{\n  "greeting": "Hello, {name}!",\n  "n": 3, "list": ["Good morning", "snake_case"],\n'
    '  "id": "abc", "quoted": "a \\"quoted\\" word\\n", "deep": {"k": "You have %d messages"}\n}\n'
)
CATALOGUE = (
    '# A comment\nmsgid ""\nmsgstr ""\n"Language: zh\\n"\n\n#: a.c:1\n#, c-format\n'
    'msgid "Hello %s, you have %d messages\\n"\nmsgstr ""\n\nmsgctxt "menu"\nmsgid "one file"\n'
    'msgid_plural "%d files"\nmsgstr[0] ""\nmsgstr[1] ""\n\nmsgid "done"\nmsgstr "完成"\n'
)
DOCUMENTS = {
    "text": "Hello, {name}.\n\n- I have 3 apples.\n- See https://a.b/c\n",
    "markdown": MARKDOWN,
    "srt": SUBTITLES,
    "vtt": WEBVTT,
    "json": STRINGS,
    "po": CATALOGUE,
}


def upper(prompt: str) -> str:
    """A model that puts its text into capitals after a Chinese word: a translation of a kind."""
    text = prompt.split("<<<\n", 1)[-1].removesuffix("\n>>>")
    return "\n".join(f"译{line.upper()}" if line.strip() else line for line in text.split("\n"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_document_joins_to_itself(format: str) -> None:
    document = reading(format).parse(DOCUMENTS[format], "a")
    assert document.segments
    assert document.render([s.unit.text for s in document.segments]) == DOCUMENTS[format]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("small", [False, True])
def test_no_babble_breaks_a_document(format: str, small: bool) -> None:
    how = reading(format)
    text = DOCUMENTS[format]
    for seed in range(25):
        done = Translator(babbler(seed, small=small)).translate_document(
            text, format, source="en", target="zh"
        )
        assert how.frame(done.text) == how.frame(text)
        before = [s.unit for s in how.parse(text, "a").segments]
        if format == "po":
            continue
        if format == "json":
            pairs = list(
                zip(strings(json.loads(text)), strings(json.loads(done.text)), strict=True)
            )
        else:
            after = [s.unit.text for s in how.parse(done.text, "b").segments]
            pairs = list(zip((u.text for u in before), after, strict=True))
        style = before[0].style
        for source, target in pairs:
            assert not faults(source, target, style), (source, target)


def strings(value: object) -> list[str]:
    """All strings of a JSON value."""
    if isinstance(value, dict):
        return [s for v in value.values() for s in strings(v)]
    if isinstance(value, list):
        return [s for v in value for s in strings(v)]
    return [value] if isinstance(value, str) else []


def test_markdown_is_translated_around_its_marks() -> None:
    done = Translator(Scripted(upper)).translate_document(MARKDOWN, "markdown")
    assert done.num_untranslated == 0
    for whole in (
        'title: "译HELLO WORLD"',
        "# 译GETTING STARTED WITH **CHATGLM**",
        "译THIS IS A [LINK](https://example.com/a_(b)) AND SOME `code`. IT HAS TWO LINES AND 3",
        "- 译FIRST ITEM WITH {name} AND %s",
        "  1. 译NESTED ITEM",
        "> 译QUOTED TEXT HERE",
        "| `x|y` | 译THE RED ONE |",
        'print("hello")  # do not touch',
        "    indented code stays",
        "<b>raw html</b>",
        '译TERM[^1] AND <b>BOLD</b> &amp; ![IMAGE](a.png "title").',
        "[^1]: 译THE FOOTNOTE TEXT.",
        "[ref]: https://example.com",
    ):
        assert whole in done.text


def test_a_catalogue_keeps_what_is_done_and_fills_what_is_not() -> None:
    done = Translator(Scripted(upper)).translate_document(CATALOGUE, "po").text
    assert 'msgstr "译HELLO %s, YOU HAVE %d MESSAGES\\n"' in done
    assert 'msgstr[0] "译%d FILES"' in done or 'msgstr[0] "译ONE FILE"' in done
    assert 'msgstr[1] "译%d FILES"' in done
    assert 'msgid "done"\nmsgstr "完成"' in done
    assert '#: a.c:1\n#, c-format\nmsgid "Hello' in done


def test_json_keeps_layout_keys_and_identifiers() -> None:
    done = Translator(Scripted(upper)).translate_document(STRINGS, "json").text
    value = json.loads(done)
    assert value["greeting"] == "译HELLO, {name}!"
    assert value["list"] == ["译GOOD MORNING", "snake_case"]
    assert value["id"] == "abc"
    assert value["deep"]["k"] == "译YOU HAVE %d MESSAGES"
    assert reading("json").frame(done) == reading("json").frame(STRINGS)


def test_a_lost_placeholder_is_asked_for_again_and_then_worked_around() -> None:
    def careless(prompt: str) -> str:
        return "你好，" + ("朋友" if "⟦" in prompt else "再见")

    done = Translator(Scripted(careless)).translate("Hello, {name}, you have %d messages.")
    assert Counter(k.text for k in kept(done, "plain")) == Counter(["{name}", "%d"])


def test_numbers_that_a_model_changes_are_put_right() -> None:
    done = Translator(Scripted(lambda p: "他有三个苹果" if "⟦" not in p else "他有⟦1⟧个苹果"))
    assert done.translate("He has 3 apples.") == "他有3个苹果"


def test_a_glossary_is_kept_to_even_by_a_model_that_ignores_it() -> None:
    glossary = Glossary({"apple": "林檎", "New York": "纽约市"})
    for model in (Scripted(lambda _: "我在那里买了水果"), babbler(1), babbler(2, small=True)):
        done = Translator(model, glossary=glossary).translate("I bought an apple in New York.")
        assert "林檎" in done
        assert "纽约市" in done
    back = Translator(Scripted(lambda _: "fruit"), glossary=glossary).translate("我买了林檎。")
    assert "apple" in back


def test_glossaries_come_from_csv_and_tsv_and_their_errors_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "terms.csv"
    path.write_text("# terms\nkernel,内核\n", encoding="utf-8")
    assert Glossary.read(path).pairs == [("kernel", "内核")]
    path.write_text("kernel\t内核\nshell\n", encoding="utf-8")
    with pytest.raises(InvalidText, match=r"terms\.csv line 2: expected TERM"):
        Glossary.read(path)


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("srt", "1\nwrong\nHi\n", "line 2: expected a time"),
        ("srt", "1\n00:00:01,000 --> 00:00:02,000\nHi\n\nx\n", "line 5: expected the number"),
        ("vtt", "Hello\n", "line 1: expected WEBVTT"),
        ("vtt", "WEBVTT\n\nid\n00:01 -> 2\nHi\n", "line 3: expected a time"),
        ("json", '{\n "a": }', "line 2: no valid JSON"),
        ("json", '{"a": NaN}', "no JSON number"),
        ("json", "[" * 100_000, "line 1|nested too deeply"),
        ("po", 'msgid "a\nmsgstr ""\n', "line 1"),
        ("po", 'msgid "a"\nwhat\n', "line 2: expected msgid"),
        ("po", 'msgid "a"\n', "line 1: msgid has no msgstr"),
        ("po", 'msgid "a"\nmsgstr ""\nmsgstr ""\n', "line 3: msgstr comes twice"),
    ],
)
def test_a_broken_document_names_its_line(format: str, text: str, message: str) -> None:
    with pytest.raises(InvalidText, match=message):
        Translator(Scripted(upper)).translate_document(text, format, source="en", target="zh")


@given(st.text(alphabet='ab 你{}%s[]()*`_|<>\\"#-1.\n$', max_size=80))
@settings(max_examples=300, deadline=None)
def test_any_text_is_markdown_that_joins_to_itself(text: str) -> None:
    document = reading("markdown").parse(text, "a")
    assert document.render([s.unit.text for s in document.segments]) == text
    for style in ("plain", "markdown"):
        joined = "".join(p if isinstance(p, str) else p.text for p in parts(text, style))
        assert joined == text


def test_directions_are_recognized() -> None:
    assert str(direction("我喜欢苹果")) == "zh-en"
    assert str(direction("I like apples")) == "en-zh"
    assert str(direction("学而时习之，不亦说乎？")) == "lzh-zh"
    assert str(direction("我喜欢苹果", target="文言")) == "zh-lzh"
    assert str(direction("学而时习之，不亦说乎？", target="en")) == "zh-en"
    assert recognize("用 Python 写程序") == "zh"
    with pytest.raises(ValueError, match="language must be one of zh, en, lzh, got 'fr'"):
        direction("a", target="fr")
    assert str(direction("你好 hello there", target="zh")) == "en-zh"
    assert str(direction("hello there, 你好", target="en")) == "zh-en"
    with pytest.raises(ValueError, match="English already"):
        direction("Hello there", target="en")
    with pytest.raises(ValueError, match="both zh"):
        direction("我喜欢苹果", source="zh", target="zh")


def test_formats_are_told_by_name_and_by_look() -> None:
    assert format_of("a.MD") == "markdown"
    assert format_of("a.txt", SUBTITLES) == "srt"
    assert format_of("-", WEBVTT) == "vtt"
    assert format_of("notes") == "text"
    with pytest.raises(ValueError, match="format must be one of text, markdown"):
        reading("docx")


def test_what_has_nothing_to_translate_is_not_asked() -> None:
    model = Scripted(upper)
    done = Translator(model).translate_document(
        "你好\n\n12:30\n\nHello there\n", "text", target="zh"
    )
    assert done.text == "你好\n\n12:30\n\n译HELLO THERE\n"
    assert len(model.prompts) == 1


def test_a_text_that_comes_again_is_asked_once() -> None:
    model = Scripted(upper)
    Translator(model).translate("Good morning.\n" * 20)
    assert len(model.prompts) == 1


def test_what_cannot_be_translated_stays_and_is_told() -> None:
    done = Translator(Scripted(lambda _: "", small=True)).translate_document("Hello there.\n")
    assert done.text == "Hello there.\n"
    assert done.num_untranslated == 1
    assert done.notes[0][0] == 1


def test_the_embedded_model_translates_many_texts_as_each_alone() -> None:
    translator = Translator()
    texts = ["I like to walk in the park.", "我喜欢在公园里散步。", "Good morning!\n\nThank you."]
    together = translator.translate_many(texts)
    assert together == [translator.translate(text) for text in texts]
    assert all(together)


def test_the_stream_is_the_translation() -> None:
    text = "Good morning.\n\nGood night.\n"
    model = Scripted(upper)
    assert "".join(Translator(model).stream(text)) == Translator(model).translate(text)


def test_memory_goes_before_the_model(tmp_path: Path) -> None:
    model = Scripted(upper)
    with closing(Memory(tmp_path / "m.sqlite")) as memory:
        translator = Translator(model, memory=memory)
        first = translator.translate("The room has 3 beds.")
        assert translator.translate("The room has 3 beds.") == first
        assert translator.translate("The room has 12 beds.") == first.replace("3", "12")
    assert len(model.prompts) == 1


def test_a_small_model_that_strays_is_not_taken_at_its_word() -> None:
    def translate(text: str, reply: str, target: str) -> str:
        return Translator(Scripted(lambda _: reply, small=True)).translate(text, target=target)

    assert translate("Hello there.", "to go to; metch", "zh") == "Hello there."
    assert translate("今天很好。", "今天 is good", "en") == "今天很好。"
    assert translate("学而时习之，不亦说乎？", "晚饭吃了面条。", "zh") == "学而时习之，不亦说乎？"
    modern = "学习并且时常温习，不也愉快吗？"
    assert translate("学而时习之，不亦说乎？", modern, "zh") == modern

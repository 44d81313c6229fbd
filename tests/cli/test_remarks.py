"""What the applications remark on their results, as a terminal shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import chatglm
from chatglm.apps.translate.kept import faults
from chatglm.cli import main
from chatglm.cli.remarks import WORDS, in_chinese

PAGE = Path(chatglm.__file__).parent / "serve" / "web" / "scripts" / "words.js"
ENCODING = "{name} is {code}, read as such; output is UTF-8"


def test_a_terminal_has_the_words_of_the_page() -> None:
    entry = r'remark_\w+: \[\s*"([^"]+)",\s*"([^"]+)",?\s*\]'
    page = {english: chinese for chinese, english in re.findall(entry, PAGE.read_text("utf-8"))}
    assert {words: shown for words, shown in WORDS.items() if words != ENCODING} == page


def test_parts_of_a_remark_are_put_into_the_chinese() -> None:
    lost = faults("Hello {name}, take 3.", "你好", "plain")
    told = [in_chinese(f"line 7: not translated: {one}") for one in lost]
    assert told == ["第 7 行：未译：缺少 {name}", "第 7 行：未译：缺少数字 3"]
    assert in_chinese("line 2: of no known kind") == "第 2 行：of no known kind"


def test_remarks_are_in_the_language_of_the_terminal_and_records_in_english(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATGLM_HOME", str(tmp_path))
    source, pairs = tmp_path / "a.txt", tmp_path / "pairs.tsv"
    source.write_bytes("公司今天发布了新的翻译软件。".encode("gbk"))
    pairs.write_text("公司今天发布了新的翻译软件！\tA new program is out!\n", encoding="utf-8")
    words = ["translate", str(source), "--import-memory", str(pairs), "--memory"]
    shown = {}
    for language, more in (("zh", []), ("en", []), ("zh", ["--json"])):
        monkeypatch.setenv("CHATGLM_LANG", language)
        assert main([*words, str(tmp_path / language), *more]) == 0
        shown[language, *more] = capsys.readouterr()
    assert "a.txt 是 GBK 编码，已按此读取；输出为 UTF-8" in shown["zh",].err
    assert "a.txt is GBK, read as such; output is UTF-8" in shown["en",].err
    assert "第 1 行：与译过的“公司今天发布了新的翻译软件！”相似" in shown["zh",].err
    remark = json.loads(shown["zh", "--json"].out)["notes"][0]["note"]
    assert remark.endswith("like: 公司今天发布了新的翻译软件！")
    assert f"line 1: {remark}" in shown["en",].err

"""The commands summarize, translate, write and eval, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatglm.cli import main

ARTICLE = "公司今天发布了新的翻译软件，支持中文和英文。软件可以翻译文档和字幕。现场有300多人参加。"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATGLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CHATGLM_LANG", "en")
    monkeypatch.delenv("CHATGLM_MODEL", raising=False)


def piped(*words: str, text: bytes) -> subprocess.CompletedProcess[bytes]:
    """A command with a pipe on its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "chatglm", *words],
        input=text,
        capture_output=True,
        env=os.environ,
        check=False,
    )


def test_files_and_pipes_are_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text(ARTICLE, encoding="utf-8")
    assert main(["summarize", str(paths[0]), "--length", "30"]) == 0
    one = capsys.readouterr().out.strip()
    assert one
    assert len(one) <= 30
    assert main(["summarize", *map(str, paths), "--length", "30"]) == 0
    assert capsys.readouterr().out.count(one) == 2
    done = piped("summarize", "--json", "--length", "30", text=ARTICLE.encode("gbk"))
    assert done.returncode == 0
    record = json.loads(done.stdout)
    assert record["text"] == one
    assert record["mode"] == "extractive"
    assert b"is GBK" in done.stderr


def test_a_text_in_quotes_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summarize", ARTICLE, "--form", "headline"]) == 0
    assert capsys.readouterr().out.strip() in ARTICLE


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["summarize", "none.txt"], 1, "no file none.txt"),
        (["summarize", "EMPTY"], 3, "is empty"),
        (["summarize", "BINARY"], 3, "NUL"),
        (["summarize", "TEXT", "--length", "2"], 2, "length must be at least 8"),
        (["translate", "JSON"], 3, "line 2: no valid JSON"),
        (["translate", "SRT"], 3, "line 2: expected a time"),
        (["translate", "PO"], 3, "line 1: expected msgid"),
        (["translate", "Hello", "--to", "fr"], 2, "must be one of zh, en, lzh"),
        (["translate", "Hello", "--fuzzy", "3"], 2, "--fuzzy must lie"),
        (["translate", "Hello", "-o", "x"], 2, "--output takes one input file"),
        (["write"], 2, "no form"),
        (["write", "opera", "x"], 2, "no form 'opera'"),
        (["write", "story"], 2, "no topic"),
        (["write", "rewrite", "x", "--tone", "loud"], 2, "no form 'loud'"),
        (["eval", "xcopa", "--data", "none"], 1, "no test set at none"),
        (["eval", "xcopa", "--data", "."], 1, "has no xcopa"),
        (["eval", "cmmlu", "--limit", "0"], 2, "--limit must be at least 1"),
    ],
)
def test_mistakes_are_answered_with_a_sentence_and_a_code(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "EMPTY": ("empty.txt", b""),
        "BINARY": ("a.bin", b"a\0b"),
        "TEXT": ("a.txt", ARTICLE.encode()),
        "JSON": ("a.json", b'{\n "a": }'),
        "SRT": ("a.srt", b"1\nnow\nHello\n"),
        "PO": ("a.po", b'msgid "a\nmsgstr ""\n'),
    }
    for name, data in files.values():
        (tmp_path / name).write_bytes(data)
    typed = [files[w][0] if w in files else w for w in words]
    assert main(typed) == code
    assert message in capsys.readouterr().err


def test_a_document_is_translated_into_a_file_and_remembered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "a.json", tmp_path / "b.json"
    source.write_text('{"hello": "Good morning, {name}!", "id": 3}', encoding="utf-8")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("Good morning, {name}!\t早上好，{name}！\n", encoding="utf-8")
    words = ["translate", str(source), "-o", str(output), "--import-memory", str(pairs), "--json"]
    assert main(words) == 0
    assert json.loads(output.read_text("utf-8")) == {"hello": "早上好，{name}！", "id": 3}
    record = json.loads(capsys.readouterr().out)
    assert record["origins"] == {"memory": 1}
    assert (record["source"], record["target"]) == ("en", "zh")
    assert (tmp_path / "home" / "translation.sqlite").exists()


def test_forms_are_listed_with_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "home" / "forms"
    folder.mkdir(parents=True)
    (folder / "toast.toml").write_text(
        'name = "toast"\ntitle = "祝酒词"\nkind = "prose"\ngeneral = "写{topic}的祝酒词"\n',
        encoding="utf-8",
    )
    assert main(["write", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "祝酒词" in shown
    assert "七言绝句" in shown


def test_a_poem_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["write", "五绝", "秋夜", "--seed", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["form"] == "jueju5"
    lines = record["text"].splitlines()
    assert lines[0] == "《秋夜》"
    assert [len(line) for line in lines[1:]] == [12, 12]


def test_choices_and_perplexity_are_measured(
    tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"subject": "s", "question": "天气？", "A": "好", "B": "坏", "answer": "A"},
        {"subject": "t", "question": "谁？", "A": "你", "B": "我", "answer": "B"},
    ]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "cmmlu_test_sample.jsonl").write_text(lines, encoding="utf-8")
    text = json.dumps({"text": "今天天气很好。", "domain": "news"}, ensure_ascii=False)
    (tmp_path / "lm_heldout.test.jsonl").write_text(text, encoding="utf-8")
    output = tmp_path / "numbers.json"
    shared = ["--data", str(tmp_path), "--model", str(toy), "--output", str(output)]
    assert main(["eval", "cmmlu", *shared, "--by-subject"]) == 0
    assert "| s | 1 |" in capsys.readouterr().out
    numbers = json.loads(output.read_text("utf-8"))
    assert numbers["tasks"]["cmmlu"]["all"]["n"] == 2
    assert numbers["seed"] == 0
    assert main(["eval", "perplexity", *shared]) == 0
    capsys.readouterr()
    row = json.loads(output.read_text("utf-8"))["tasks"]["perplexity"]["all"]
    assert row["bits/character"] > 0
    assert row["perplexity"] > 1
    assert main(["eval", "quantization", *shared, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["tasks"]["quantization"]
    assert list(table)[:4] == ["model", "int8", "int6", "int4"]
    assert table["model"]["agreement"] == 100

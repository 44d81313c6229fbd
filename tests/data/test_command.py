"""`chatglm data` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm.cli import main

ROW = {"instruction": "你好", "output": "您好！"}


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATGLM_LANG", "en")
    monkeypatch.setenv("NO_COLOR", "1")


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def test_check_says_the_kind_the_lengths_and_what_is_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.dumps(ROW, ensure_ascii=False)
    assert main(["data", "check", write(tmp_path / "a.jsonl", row, row)]) == 0
    out = capsys.readouterr().out
    assert "2 Alpaca instructions; 2 examples" in out
    assert "duplicates: 1" in out
    assert "line 2 repeats" in out
    assert "⟦您好！<|user|>⟧" in out


def test_check_lists_bad_lines_and_ends_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps(ROW), "{", '{"a": 1}')
    assert main(["data", "check", file, "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert (report["examples"], report["num_bad"]) == (1, 2)
    assert report["bad"][0].startswith(f"{file} line 2: not JSON")


def test_show_colours_what_is_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = write(tmp_path / "a.jsonl", *[json.dumps(ROW)] * 5)
    assert main(["data", "show", file, "-n", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("\033[32m您好！<|user|>\033[0m") == 2


def test_show_gives_ids_and_mask_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", write(tmp_path / "a.jsonl", json.dumps(ROW)), "--json"]) == 0
    (example,) = json.loads(capsys.readouterr().out)["examples"]
    assert len(example["tokens"]) == len(example["learnt"])
    assert any(example["learnt"])


def test_pairs_show_both_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.dumps({"prompt": "问", "chosen": "好", "rejected": "坏"}, ensure_ascii=False)
    assert main(["data", "show", write(tmp_path / "a.jsonl", row)]) == 0
    out = capsys.readouterr().out
    assert "chosen" in out
    assert "⟦坏<|user|>⟧" in out


def test_nothing_usable_is_invalid_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", write(tmp_path / "a.jsonl", '{"a": 1}')]) == 3
    assert "holds no example that can be learnt" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "none.jsonl")]) == 1

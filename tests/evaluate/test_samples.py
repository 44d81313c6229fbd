"""Test sets: the layouts that C-Eval, CMMLU and XCOPA come in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm.evaluate.samples import (
    read_choices,
    read_continuations,
    read_pairs,
    read_rows,
    sample,
)


def test_c_eval_and_cmmlu_are_read_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "law_val.csv").write_text(
        'id,question,A,B,C,D,answer\n0,"一,二?",甲,乙,丙,丁,C\n', encoding="utf-8-sig"
    )
    (tmp_path / "val" / "art_test.csv").write_text(
        ",Question,A,B,C,D,Answer\n0,三?,子,丑,寅,卯,A\n", encoding="utf-8"
    )
    found = read_choices(tmp_path / "val")
    assert [(c.subject, c.question, c.options, c.answer) for c in found] == [
        ("art", "三?", ("子", "丑", "寅", "卯"), 0),
        ("law", "一,二?", ("甲", "乙", "丙", "丁"), 2),
    ]
    path = tmp_path / "a.jsonl"
    row = {"subject": "s", "question": "q", "A": "x", "B": "y", "answer": "B"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert read_choices(path)[0].options == ("x", "y")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no csv or jsonl"):
        read_choices(tmp_path / "empty")


def test_xcopa_asks_for_cause_and_effect(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    row = {"premise": "下雨了。", "choice1": "地湿。", "choice2": "云。"}
    row |= {"question": "cause", "label": "1"}
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    item = read_continuations(path)[0]
    assert (item.premise, item.answer, item.subject) == ("下雨了，因为", 1, "cause")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": ', "line 2: no valid JSON"),
        ("[1]", "line 1: expected an object"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_rows(path)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"src": "a", "ref": "b"}\n{"src": "a"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="row 2: 'ref' is missing"):
        read_pairs(path, "src", "ref")
    with pytest.raises(ValueError, match="row 1: expected question"):
        read_choices(path)
    path.write_text('{"question": "q", "A": "x", "B": "y", "answer": "E"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="answer must be one of the letters, got 'E'"):
        read_choices(path)


def test_a_sample_is_the_same_for_the_same_seed_and_in_order() -> None:
    rows = list(range(100))
    assert sample(rows, 10, 1) == sample(rows, 10, 1) == sorted(sample(rows, 10, 1))
    assert sample(rows, 10, 1) != sample(rows, 10, 2)
    assert sample(rows, None, 1) == sample(rows, 500, 1) == rows
    with pytest.raises(ValueError, match="limit must be at least 1"):
        sample(rows, 0, 1)

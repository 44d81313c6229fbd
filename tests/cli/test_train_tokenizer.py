"""`chatglm train-tokenizer` as a user meets it."""

from __future__ import annotations

import json

from chatglm.cli import main


def test_a_vocabulary_from_texts_and_conversations(tmp_path, capsys):
    texts = tmp_path / "texts.jsonl"
    texts.write_text(
        "".join(json.dumps({"text": "今天天气很好，我们去公园。"}) + "\n" for _ in range(9)),
        encoding="utf-8",
    )
    turns = tmp_path / "chat.jsonl"
    turn = [
        {"role": "user", "content": "你叫什么名字"},
        {"role": "assistant", "content": "我没有名字"},
    ]
    turns.write_text(json.dumps({"messages": turn}) + "\n", encoding="utf-8")
    output = tmp_path / "out"
    arguments = [f"{texts}:1000", str(turns), "--output", str(output), "--vocab-size", "280"]
    assert main(["train-tokenizer", *arguments]) == 0
    assert "280" in capsys.readouterr().out
    assert (output / "tokenizer.json").is_file()
    assert (output / "tokenizer_config.json").is_file()


def test_a_wrong_name_is_told_before_the_work(tmp_path, capsys):
    output = tmp_path / "out"
    code = main(["train-tokenizer", str(tmp_path / "none.jsonl"), "--output", str(output)])
    assert code != 0
    assert "none.jsonl" in capsys.readouterr().err
    assert not output.exists()

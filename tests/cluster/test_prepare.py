"""Ray Data: a corpus prepared in tasks has the bytes of one prepared here."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from tests.cluster.nodes import Nodes

from chatglm.data.prepare import prepare
from chatglm.tokenizer import load_tokenizer


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_corpus_prepared_on_the_cluster_has_the_same_bytes(
    nodes: Nodes, toy: Path, tmp_path: Path
) -> None:
    chance = random.Random(3)
    words = ["今天", "天气", "很好", "适合", "出门", "ＡＢＣ", "程序员", "，", "\x00", " "]
    texts = ["".join(chance.choices(words, k=chance.randint(0, 60))) for _ in range(2500)]
    texts += texts[:300]
    chance.shuffle(texts)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    half = len(lines) // 2
    half = lines.index("\n", half) + 1
    (tmp_path / "a.jsonl").write_text(lines[:half], "utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines[half:].encode()))
    (tmp_path / "c.txt").write_text("一篇文章\n", "utf-8")
    inputs = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl.gz", "c.txt")]
    here = prepare(inputs, load_tokenizer(toy), tmp_path / "here", validation_fraction=0.1)
    assert here.duplicates >= 300
    assert here.empty > 0
    with nodes.start(
        tmp_path / "log", "prepare", *inputs, "--tokenizer", str(toy), "--output",
        str(tmp_path / "there"), "--validation-fraction", "0.1", "--cluster",
    ) as process:  # fmt: skip
        assert process.wait(240) == 0, (tmp_path / "log").read_text("utf-8")
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def test_conversations_and_their_loss_masks_are_the_same_too(
    nodes: Nodes, toy: Path, tmp_path: Path
) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"你好 {i % 70}"},
                {"role": "assistant", "content": "天气" * (i % 7 + 1)},
            ]
        }
        for i in range(400)
    ]
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    prepare([str(file)], load_tokenizer(toy), tmp_path / "here")
    with nodes.start(
        tmp_path / "log", "prepare", str(file), "--tokenizer", str(toy), "--output",
        str(tmp_path / "there"), "--cluster",
    ) as process:  # fmt: skip
        assert process.wait(240) == 0, (tmp_path / "log").read_text("utf-8")
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")
    file.write_text(json.dumps({"messages": "nonsense"}) + "\n", "utf-8")
    with nodes.start(
        tmp_path / "log", "prepare", str(file), "--tokenizer", str(toy), "--output",
        str(tmp_path / "bad"), "--cluster",
    ) as process:  # fmt: skip
        assert process.wait(240) == 1
    assert "chat.jsonl line 1" in (tmp_path / "log").read_text("utf-8").splitlines()[-1]
    assert not (tmp_path / "bad").exists()

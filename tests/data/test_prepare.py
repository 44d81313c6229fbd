from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from chatglm.data.prepare import prepare
from chatglm.data.records import read_records
from chatglm.data.shards import open_documents
from chatglm.tokenizer import load_tokenizer

tokenizer = load_tokenizer(Path(str(files("chatglm") / "assets" / "nano")))


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return str(path)


def test_text_is_prepared_once_without_duplicates(tmp_path: Path) -> None:
    texts = [f"第{i}篇文章。\n内容{i * 7}" for i in range(20)]
    file = write(
        tmp_path / "a.jsonl", *({"text": t} for t in [*texts, texts[3], f" {texts[4]}\n", "  "])
    )
    counts = prepare([file], tokenizer, tmp_path / "out", validation_fraction=0.2)
    assert (counts.documents, counts.duplicates, counts.empty) == (20, 2, 1)
    found = []
    for part, size in (("train", 16), ("validation", 4)):
        documents = open_documents(tmp_path / "out", part)
        assert len(documents) == size
        found += [tokenizer.decode(documents[i].tolist()) for i in range(size)]
    assert sorted(found) == sorted(texts)
    assert found != texts
    before = (tmp_path / "out/train.tokens.bin").stat().st_mtime_ns
    assert prepare([file], tokenizer, tmp_path / "out", validation_fraction=0.2) == counts
    assert (tmp_path / "out/train.tokens.bin").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="other settings"):
        prepare([file], tokenizer, tmp_path / "out", seed=5)


def test_conversations_keep_their_loss_mask(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好！"}]
    file = write(tmp_path / "c.jsonl", {"messages": messages})
    prepare([file], tokenizer, tmp_path / "out", validation_fraction=0)
    documents = open_documents(tmp_path / "out")
    ids, learnt = documents[0], documents.learnt(0)
    text = tokenizer.decode(ids[learnt].tolist(), skip_special=False)
    assert text == "您好！<|user|>"


def test_a_bad_record_is_named_by_file_and_line(tmp_path: Path) -> None:
    cases = {
        '{"text": "a"}\n{"txt": "b"}\n': "line 2: 'text' and 'messages' are missing",
        '{"text": "a"}\n{"text": \n': "line 2: not JSON",
        "[1]\n": "line 1: expected an object, got list",
        '{"messages": [{"role": "boss", "content": "x"}]}\n': "line 1: role must be one of",
    }
    for text, message in cases.items():
        path = tmp_path / "x.jsonl"
        path.write_text(text, "utf-8")
        with pytest.raises(ValueError, match=message):
            prepare([str(path)], tokenizer, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(ValueError, match="not UTF-8 at byte"):
        prepare([str(path)], tokenizer, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no file or directory"):
        prepare([str(tmp_path / "none")], tokenizer, tmp_path / "out")
    (tmp_path / "x.exe").write_bytes(b"MZ")
    with pytest.raises(ValueError, match="no known kind"):
        prepare([str(tmp_path / "x.exe")], tokenizer, tmp_path / "out")


def test_every_kind_of_file_gives_the_same_records(tmp_path: Path) -> None:
    rows = [{"text": "一"}, {"text": "二"}]
    lines = "".join(json.dumps(r) + "\n" for r in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("text\n一\n二\n", "utf-8")
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    for path in tmp_path.iterdir():
        assert [r.text for r in read_records(path)] == ["一", "二"]


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    prepare([write(tmp_path / "a.jsonl", {"text": "你好"})], tokenizer, tmp_path / "out",
            validation_fraction=0)  # fmt: skip
    with (tmp_path / "out/train.tokens.bin").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match="its offsets say"):
        open_documents(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="chatglm prepare"):
        open_documents(tmp_path)
    assert np.load(tmp_path / "out/train.offsets.npy").tolist()[0] == 0

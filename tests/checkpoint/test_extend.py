"""Models with further words: as before where the words are not, and near it where they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from chatglm import checkpoint
from chatglm.checkpoint.extend import extend, tokens_of
from chatglm.cli import main
from chatglm.tokenizer.extended import ExtendedTokenizer

WORDS = ["天气很好", "程序员，", "今天"]
FORMATS = ["glm-large-chinese", "chatglm-6b", "chatglm2-6b", "glm-4-9b-0414", "glm-4.5-air"]


def small_words(folder: Path) -> None:
    """A vocabulary of a few words, as small as those of the oracles."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = "今天天气很好，程序员，"
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=50, show_progress=False))
    tokenizer.add_special_tokens(["<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|user|>"])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("name", FORMATS)
def test_new_rows_are_the_means_of_their_pieces_and_the_others_stay(
    shared: Path, tmp_path: Path, name: str
) -> None:
    start = tmp_path / name
    shutil.copytree(shared / "oracles" / name, start)
    small_words(start)
    before = checkpoint.load(start, dtype="float32")
    assert before.tokenizer is not None
    rows = before.model.embedding.weight.detach().clone()
    added = extend(checkpoint.load(start), WORDS, tmp_path / "more")
    after = checkpoint.load(tmp_path / "more", dtype="float32")
    assert isinstance(after.tokenizer, ExtendedTokenizer)
    assert after.format == before.format
    assert after.config.vocab_size == before.config.vocab_size + len(added)
    new = after.model.embedding.weight.detach()
    assert torch.equal(new[: len(rows)], rows)
    for word in added:
        (token,) = after.tokenizer.encode(word)
        mean = rows[tokens_of(word, before.tokenizer)].mean(0)
        torch.testing.assert_close(new[token], mean, atol=2e-3, rtol=1e-2)  # files hold 16 bits
        if not after.config.tied:
            head = after.model.head.weight[tokens_of(word, before.tokenizer)].mean(0)
            torch.testing.assert_close(after.model.head.weight[token], head, atol=2e-3, rtol=1e-2)


def test_a_model_answers_as_before_where_the_words_are_not(toy: Path, tmp_path: Path) -> None:
    extend(checkpoint.load(toy), WORDS, tmp_path / "more")
    old, new = checkpoint.load(toy), checkpoint.load(tmp_path / "more")
    tokens = [3, 50, 17, 99]
    with torch.inference_mode():
        before, after = (m.model.logits(m.model(torch.tensor([tokens]))) for m in (old, new))
    assert torch.equal(after[..., : before.shape[-1]], before)


def test_words_can_be_added_twice(toy: Path, tmp_path: Path) -> None:
    extend(checkpoint.load(toy), WORDS[:1], tmp_path / "one")
    assert extend(checkpoint.load(tmp_path / "one"), WORDS, tmp_path / "two") == WORDS[1:]
    tokenizer = checkpoint.load(tmp_path / "two").tokenizer
    assert tokenizer is not None
    assert [len(tokenizer.encode(word)) for word in WORDS] == [1, 1, 1]


def test_the_command_takes_words_by_the_line_and_the_result_is_tuned(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("\ufeff天气很好\n\n程序员，\n天气很好\n", "utf-8")
    more = str(tmp_path / "more")
    command = ["extend", str(toy), "--words", str(tmp_path / "words.txt"), "--output", more]
    assert main(command) == 0
    assert json.loads((tmp_path / "more" / "added_words.json").read_text("utf-8")).keys() == {
        "天气很好", "程序员，",
    }  # fmt: skip
    data = tmp_path / "data.jsonl"
    data.write_text('{"instruction": "问", "output": "今天天气很好"}\n' * 8, "utf-8")
    run = ["finetune", str(data), "--model", more, "--output-dir", str(tmp_path / "run")]
    run += ["--method", "full", "--max-steps", "2", "--threads", "1"]
    assert main(run) == 0
    assert isinstance(checkpoint.load(tmp_path / "run" / "model").tokenizer, ExtendedTokenizer)


def test_what_cannot_be_extended_is_said(shared: Path, toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every word is one token already"):
        extend(checkpoint.load(toy), ["a", ""], tmp_path / "more")
    with pytest.raises(ValueError, match="extend the published weights"):
        extend(checkpoint.load(toy, quantize="int8"), WORDS, tmp_path / "more")
    with pytest.raises(ValueError, match="has no tokenizer files"):
        extend(checkpoint.load(shared / "oracles" / "chatglm3-6b"), WORDS, tmp_path / "more")

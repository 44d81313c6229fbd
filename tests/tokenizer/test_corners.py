"""Vocabularies that the published files have in several editions: image tokens, English GLM."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

from chatglm.checkpoint.published import read_published
from chatglm.messages import Message
from chatglm.tokenizer import Tokenizer, load_tokenizer
from chatglm.tokenizer.builtin_tools import GLM4_OLDER_SYSTEM

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

LINES = [
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "Tsinghua University is located in Beijing [MASK] China; it was founded in 1911.",
    "GLM: general language model pretraining with autoregressive blank infilling.",
] * 4
TEXTS = [*LINES[:3], "Unseen WORDS: naïve café!\n\n  two  blanks\tand 3.14159", "", "北京", " a"]


# ChatGLM-6B's first files, with 20,000 image tokens before the text's


def first_files(shared: Path, folder: Path, **files: dict[str, object]) -> Path:
    folder.mkdir()
    shutil.copy(shared / "tokenizers/chatglm-6b/ice_text.model", folder)
    for name, table in files.items():
        (folder / f"{name}.json").write_text(json.dumps(table), "utf-8")
    return folder


SHIFTS: dict[str, tuple[dict[str, dict[str, object]], int]] = {
    "said": ({"tokenizer_config": {"num_image_tokens": 20000}}, 20000),
    "said to be none": (
        {"tokenizer_config": {"num_image_tokens": 0}, "config": {"vocab_size": 150528}}, 0,
    ),
    "not said": ({"tokenizer_config": {"tokenizer_class": "ChatGLMTokenizer"}}, 20000),
    "by 150,528 rows": ({"tokenizer_config": {}, "config": {"vocab_size": 150528}}, 20000),
    "by 130,528 rows": ({"tokenizer_config": {}, "config": {"vocab_size": 130528}}, 0),
    "the vocabulary alone": ({}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", SHIFTS)
def test_image_tokens_shift_every_id(shared: Path, tmp_path: Path, name: str) -> None:
    files, shift = SHIFTS[name]
    first = load_tokenizer(first_files(shared, tmp_path / "first", **files))
    later = load_tokenizer(shared / "tokenizers/chatglm-6b")
    cases = json.loads((shared / "tokenizers/chatglm-6b/cases.json").read_text("utf-8"))
    for case in cases["texts"]:
        ids = [token + shift for token in case["ids"]]
        assert first.encode(case["text"]) == ids
        assert first.decode(ids) == case["decoded"]
    for case in cases["chats"]:
        messages = [Message.from_dict(message) for message in case["messages"]]
        prompt = first.template.prompt(messages)
        assert list(prompt.tokens) == [token + shift for token in case["input_ids"]]
        assert prompt.hole == later.template.prompt(messages).hole
    assert first.special == {name: i + shift for name, i in later.special.items()}
    assert first.end_ids == {token + shift for token in later.end_ids}
    blank = "今天[MASK]，适合出门。"
    tokens = later.template.blank(blank).tokens
    assert list(first.template.blank(blank).tokens) == [token + shift for token in tokens]


def test_a_number_of_image_tokens_out_of_range_is_refused(shared: Path, tmp_path: Path) -> None:
    folder = first_files(shared, tmp_path / "x", tokenizer_config={"num_image_tokens": -1})
    with pytest.raises(ValueError, match="num_image_tokens must lie between 0 and 100000, got -1"):
        load_tokenizer(folder)


@pytest.mark.parametrize(("start", "rows"), [(150004, 150528), (130004, 130528)])
def test_the_first_config_files_do_not_name_the_blanks(start: int, rows: int) -> None:
    table = {
        "model_type": "chatglm", "bos_token_id": start, "eos_token_id": start + 1,
        "hidden_size": 32, "inner_hidden_size": 64, "num_attention_heads": 4, "num_layers": 2,
        "vocab_size": rows, "position_encoding_2d": True,
    }  # fmt: skip
    layout = read_published(table).layout
    assert (layout.sop, layout.gmask, layout.mask) == (start, start - 3, start - 4)


# GLM 2021's English vocabularies


def write_gpt2(folder: Path, first: tuple[str, ...] = ()) -> Path:
    """vocab.json and merges.txt of a small BPE; `first` are the ids from 0."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(first),
    )
    backend.train_from_iterator(LINES, trainer)
    folder.mkdir()
    backend.model.save(str(folder))
    return folder


def add_to(path: Path, *words: str) -> int:
    """The number of words of a vocab.json, to which some are added."""
    vocabulary = json.loads(path.read_text("utf-8"))
    vocabulary |= {word: len(vocabulary) + i for i, word in enumerate(words)}
    path.write_text(json.dumps(vocabulary), "utf-8")
    return len(vocabulary)


ADDED = ("<|startofpiece|>", "<|endofpiece|>", "[CLS]", "[MASK]", "[SEP]", "[gMASK]", "[sMASK]")


def test_glm_10b_has_gpt2s_ids_and_its_own_marks(tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path / "glm-10b")
    count = add_to(folder / "vocab.json", "<|endoftext|>")
    added = {name: count + i for i, name in enumerate(ADDED)}
    (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    ours = load_tokenizer(folder)
    theirs = transformers.GPT2Tokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
    )
    check_texts(ours, theirs, TEXTS)
    end = count - 1
    assert ours.special == {"<|endoftext|>": end} | added
    ids = ours.encode("Beijing")
    cls, sop = added["[CLS]"], added["<|startofpiece|>"]
    prompt = ours.template.continuation("Beijing")
    assert prompt.tokens == (cls, *ids, added["[gMASK]"], end, sop)
    assert (prompt.hole, prompt.prefix) == (1 + len(ids), len(prompt.tokens) - 1)
    blank = ours.template.blank("Beijing [sMASK]!")
    assert blank.tokens[blank.hole] == added["[sMASK]"]
    assert ours.template.blank_end_ids >= {added["<|endofpiece|>"]}


def test_glm_roberta_uses_robertas_own_marks(tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path / "glm-roberta-large", ("<s>", "<pad>", "</s>", "<unk>"))
    count = add_to(folder / "vocab.json", "<mask>")
    added = {name: count + i for i, name in enumerate(ADDED[:2])}
    (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    ours = load_tokenizer(folder)
    theirs = transformers.RobertaTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
    )
    check_texts(ours, theirs, TEXTS)
    assert ours.wrap(ours.encode("a dog")) == theirs("a dog")["input_ids"]
    assert [ours.special_ids[i] for i in (0, 2, count - 1)] == ["<s>", "</s>", "<mask>"]
    ids = ours.encode("Beijing")
    prompt = ours.template.continuation("Beijing")
    assert prompt.tokens == (0, *ids, count - 1, 2, added["<|startofpiece|>"])
    assert prompt.hole == 1 + len(ids)


@pytest.mark.parametrize("lowercase", [True, False])
def test_berts_vocabulary_is_split_as_bert_does(tmp_path: Path, lowercase: bool) -> None:
    from tokenizers import BertWordPieceTokenizer

    folder = tmp_path / "glm-base"
    folder.mkdir()
    backend = BertWordPieceTokenizer(lowercase=lowercase)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(LINES, vocab_size=300, special_tokens=marks, show_progress=False)
    backend.save_model(str(folder))
    count = backend.get_vocab_size()
    added = {name: count + i for i, name in enumerate(ADDED[:2])}
    (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    if not lowercase:
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    ours = load_tokenizer(folder)
    theirs = transformers.BertTokenizer(str(folder / "vocab.txt"), do_lower_case=lowercase)
    check_texts(ours, theirs, TEXTS)
    special = ours.special
    assert ours.wrap(ours.encode("a dog")) == theirs("a dog")["input_ids"]
    ids = ours.encode("Beijing")
    prompt = ours.template.continuation("Beijing")
    around = special["[CLS]"], special["[MASK]"], special["[SEP]"], special["<|startofpiece|>"]
    assert prompt.tokens == (around[0], *ids, *around[1:])
    blank = ours.template.blank("a [MASK] dog")
    assert blank.tokens[blank.hole] == special["[MASK]"]


def check_texts(ours: Tokenizer, theirs: object, texts: list[str]) -> None:
    """Ids are those of transformers' class where a text holds no special token by name."""
    for text in texts:
        if "[MASK]" not in text:
            ids = theirs.encode(text, add_special_tokens=False)  # type: ignore[attr-defined]
            assert ours.encode(text) == ids, text
            if not any(ours.special_ids.get(i) == "[UNK]" for i in ids) and text.isascii():
                assert "".join(ours.decode(ids).split()).lower() == "".join(text.split()).lower()


# GLM-4's system text before tools, in its two editions


def test_the_older_system_text_of_glm_4_has_no_heading_before_its_tools(shared: Path) -> None:
    folder = shared / "tokenizers/glm-4-9b-chat"
    tokenizer = load_tokenizer(folder)
    case = json.loads((folder / "cases.json").read_text("utf-8"))["chats"][4]
    messages = [Message.from_dict(message) for message in case["messages"]]
    first = messages[0]
    messages[0] = Message(role="system", content=GLM4_OLDER_SYSTEM, tools=first.tools)
    assert tokenizer.template.render(messages).tokens == case["input_ids"]

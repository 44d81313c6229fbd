"""Which tokenizer lies in a directory, told from its files; no code of the directory runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from chatglm.tokenizer.base import Tokenizer
from chatglm.tokenizer.extended import ADDED, ExtendedTokenizer, read_words

GENERATIONS = (
    "glm", "chatglm", "chatglm2", "chatglm3", "glm4", "glm4_0414", "glm_z1", "glm4_moe", "nano",
)  # fmt: skip

# Names of special tokens in their order behind a vocabulary.
_GLM_CHINESE = {
    "<|endoftext|>": 0, "[SEP]": 1, "[CLS]": 2, "[MASK]": 3, "[UNK]": 4,
    "<|startofpiece|>": 6, "<|endofpiece|>": 7, "[sMASK]": 8, "[gMASK]": 9, "[dBLOCK]": 10,
}  # fmt: skip
_CHATGLM = {
    "[MASK]": 130000, "[gMASK]": 130001, "[sMASK]": 130002, "<unused_0>": 130003,
    "<sop>": 130004, "<eop>": 130005, "<ENC>": 130006, "<dBLOCK>": 130007,
    "<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3,
}  # fmt: skip
_CHATGLM2 = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_GLM4 = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *_ROLES,
    "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>",
)  # fmt: skip


def load_tokenizer(directory: str | os.PathLike[str], generation: str | None = None) -> Tokenizer:
    """The tokenizer whose published files lie in `directory`.

    generation: one of GENERATIONS; None tells it from the files. ChatGLM2 and 3 share one
        vocabulary file: what says which is tokenizer_config.json or config.json, and 3 where they
        are silent.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"no directory {folder}; give one with tokenizer files")
    if generation is not None and generation not in GENERATIONS:
        raise ValueError(f"generation must be one of {', '.join(GENERATIONS)}, got {generation!r}")
    for name, read in _READERS.items():
        if (folder / name).is_file():
            refuse_pointer(folder / name)
            tokenizer = read(folder / name, generation)
            if (folder / ADDED).is_file():
                return ExtendedTokenizer(tokenizer, read_words(folder / ADDED), folder / ADDED)
            return tokenizer
    raise FileNotFoundError(f"{folder} has no tokenizer; expected one of {', '.join(_READERS)}")


def refuse_pointer(path: Path) -> None:
    """A ValueError where git has left a pointer in the place of the file."""
    with path.open("rb") as file:
        if file.read(20).startswith(b"version https://git-"):
            raise ValueError(
                f"{path} is a git-lfs pointer and not the file; run 'git lfs pull' or download it "
                "again"
            )


def settings(folder: Path, name: str) -> Mapping[str, object]:
    """A JSON file beside the vocabulary; empty where it is missing."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold an object, got {type(data).__name__}")
    return data


def published_name(folder: Path) -> str:
    """What the files say of the model's name, in lower case, with the folder's own name last."""
    said = [
        settings(folder, "tokenizer_config.json").get("chatglm_generation"),
        settings(folder, "tokenizer_config.json").get("name_or_path"),
        settings(folder, "config.json").get("_name_or_path"),
        folder.resolve().name,
    ]
    return " ".join(str(item).lower() for item in said if item)


def read_ice(path: Path, generation: str | None) -> Tokenizer:
    """ChatGLM-6B's ice_text.model, with or without the 20,000 image tokens of the first files."""
    from chatglm.tokenizer.sentencepiece import SentencePieceTokenizer

    shift = num_image_tokens(path.parent)
    if not isinstance(shift, int) or not 0 <= shift <= 100_000:
        raise ValueError(
            f"{path.parent / 'tokenizer_config.json'}: num_image_tokens must lie between 0 and "
            "100000, "
            f"got {shift!r}"
        )
    special = {name: i + shift for name, i in _CHATGLM.items()}
    return SentencePieceTokenizer(
        path, generation=generation or "chatglm", special=special, shift=shift, spells_layout=True
    )


# The official code takes this many image tokens where tokenizer_config.json names no number; a
# checkpoint of theirs has 150,528 rows, later ones 130,528.
_IMAGE_TOKENS, _ROWS_WITH_IMAGES = 20_000, 150_000


def num_image_tokens(folder: Path) -> object:
    """How many image tokens stand before the text's: by tokenizer_config.json, else by the rows
    of the model, else as the official code has it; 0 where nothing lies beside the vocabulary.
    """
    said = settings(folder, "tokenizer_config.json")
    if "num_image_tokens" in said:
        return said["num_image_tokens"]
    rows = settings(folder, "config.json").get("vocab_size")
    if isinstance(rows, int):
        return _IMAGE_TOKENS if rows >= _ROWS_WITH_IMAGES else 0
    return _IMAGE_TOKENS if said else 0


def read_sentencepiece(path: Path, generation: str | None) -> Tokenizer:
    """tokenizer.model: SentencePiece in ChatGLM2 and 3, a tiktoken rank file in GLM-4."""
    from chatglm.tokenizer.sentencepiece import SentencePieceTokenizer

    with path.open("rb") as file:
        first_line = file.readline(64)
    if first_line.endswith(b" 0\n") or generation in ("glm4", "glm4_0414", "glm_z1", "glm4_moe"):
        return read_glm4(path, generation)
    name = published_name(path.parent)
    if generation is None:
        is_second = any(word in name for word in ("chatglm2", "codegeex2"))
        generation = "chatglm2" if is_second else "chatglm3"
    names = _CHATGLM2 if generation == "chatglm2" else (*_CHATGLM2, *_ROLES)
    tokenizer = SentencePieceTokenizer(path, generation=generation, special={})
    special = {word: tokenizer.num_pieces + i for i, word in enumerate(names)}
    special |= {"<unk>": 0, "<bos>": 1, "<eos>": 2}
    tokenizer.special |= special
    tokenizer.special_ids |= {i: word for word, i in special.items()}
    return tokenizer


def read_glm4(path: Path, generation: str | None) -> Tokenizer:
    """GLM-4's rank file; special ids from tokenizer_config.json, or behind the last rank."""
    from chatglm.tokenizer.bpe import RankTokenizer, read_ranks

    ranks = read_ranks(path)
    config = settings(path.parent, "tokenizer_config.json")
    added = config.get("added_tokens_decoder")
    special = {name: len(ranks) + i for i, name in enumerate(_GLM4)}
    if isinstance(added, dict) and added:
        special = {str(entry["content"]): int(i) for i, entry in added.items()}
    return RankTokenizer(ranks, generation=generation or "glm4", special=special, files=[path])


def read_tokenizer_json(path: Path, generation: str | None) -> Tokenizer:
    """tokenizer.json of GLM-4 in transformers' format and later, and of the embedded model."""
    from chatglm.tokenizer.bpe import read_json

    if generation is None:
        config = settings(path.parent, "config.json")
        said = {**config, **settings(path.parent, "tokenizer_config.json")}
        generation = generation_of_json(said, published_name(path.parent))
    return read_json(path, generation)


def generation_of_json(config: Mapping[str, object], name: str) -> str:
    """Which of the generations with a tokenizer.json this is, by config.json and
    tokenizer_config.json.
    """
    template = str(config.get("chat_template") or "")
    if (said := config.get("chatglm_generation")) in GENERATIONS:
        return str(said)
    if config.get("model_type") == "glm4_moe" or "<arg_key>" in template:
        return "glm4_moe"
    if "z1" in name or "<think>" in template:
        return "glm_z1"
    return "glm4_0414" if config.get("model_type") == "glm4" else "glm4"


def read_glm_chinese(path: Path, generation: str | None) -> Tokenizer:
    """GLM 2021's Chinese vocabulary, with its command tokens behind it."""
    from chatglm.tokenizer.sentencepiece import SentencePieceTokenizer

    tokenizer = SentencePieceTokenizer(path, generation=generation or "glm", special={})
    special = {name: tokenizer.num_pieces + i for name, i in _GLM_CHINESE.items()}
    special |= added_tokens(path.parent)
    tokenizer.special |= special
    tokenizer.special_ids |= {i: name for name, i in special.items()}
    return tokenizer


def added_tokens(folder: Path) -> dict[str, int]:
    """Special tokens that added_tokens.json places behind a vocabulary."""
    return {
        name: i for name, i in settings(folder, "added_tokens.json").items() if isinstance(i, int)
    }


# RoBERTa's names of what GLM's format puts around a text and into it.
_ROBERTA = {"[CLS]": "<s>", "<|endoftext|>": "</s>", "[MASK]": "<mask>"}


def read_glm_gpt2(path: Path, generation: str | None) -> Tokenizer:
    """GLM 2021's English vocabularies of GPT-2 and RoBERTa."""
    from chatglm.tokenizer.bpe import read_gpt2

    vocabulary = {
        name: i for name, i in settings(path.parent, path.name).items() if isinstance(i, int)
    }
    marks = ("<|endoftext|>", *_ROBERTA.values(), "<pad>", "<unk>")
    special = {name: vocabulary[name] for name in marks if name in vocabulary}
    # The format's names first, so that ids are shown under their own.
    alias = {ours: special[name] for ours, name in _ROBERTA.items() if name in special}
    return read_gpt2(path, path.parent / "merges.txt", alias | special | added_tokens(path.parent))


def read_glm_bert(path: Path, generation: str | None) -> Tokenizer:
    """GLM 2021's English vocabulary of BERT."""
    from chatglm.tokenizer.bpe import read_wordpiece

    words = path.read_text("utf-8").splitlines()
    marks = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    special = {name: words.index(name) for name in marks if name in words}
    lowercase = settings(path.parent, "tokenizer_config.json").get("do_lower_case", True)
    return read_wordpiece(path, special | added_tokens(path.parent), lowercase=bool(lowercase))


_READERS = {
    "ice_text.model": read_ice,
    "cog-pretrain.model": read_glm_chinese,
    "tokenizer.json": read_tokenizer_json,
    "tokenizer.model": read_sentencepiece,
    "vocab.json": read_glm_gpt2,
    "vocab.txt": read_glm_bert,
}

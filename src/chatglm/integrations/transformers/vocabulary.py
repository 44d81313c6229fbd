"""A vocabulary of ours as transformers is told it: files, named tokens, a spelling for every id."""

from __future__ import annotations

import re
from collections.abc import Mapping

from chatglm.tokenizer import Tokenizer
from chatglm.tokenizer.convert import spelled
from chatglm.tokenizer.sentencepiece import SentencePieceTokenizer

# The files of all vocabularies of the family; a directory has those of one.
FILES = {
    "ice_text_file": "ice_text.model",
    "cog_pretrain_file": "cog-pretrain.model",
    "vocab_file": "tokenizer.model",
    "bpe_file": "vocab.json",
    "merges_file": "merges.txt",
    "wordpiece_file": "vocab.txt",
}
# transformers' named tokens where tokenizer_config.json does not name them.
_END = "<|endoftext|>"
_SECOND = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
NAMED: dict[str, dict[str, str]] = {
    "glm": {
        "cls_token": "[CLS]",
        "eos_token": _END,
        "mask_token": "[MASK]",
        "pad_token": _END,
        "unk_token": "[UNK]",
    },
    "chatglm": {
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "mask_token": "[MASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    },
    "chatglm2": _SECOND,
    "chatglm3": _SECOND,
    "glm4": {"eos_token": _END, "pad_token": _END},
}
# In these, the official code takes nothing in a text for a special token.
SPLITS_SPECIAL = ("chatglm", "chatglm2", "chatglm3")


def spellings(tokenizer: Tokenizer) -> list[str]:
    """A spelling for every id, no two alike: the vocabulary's own pieces, or bytes in GPT-2's
    letters.
    """
    total = max(tokenizer.vocab_size, *(i + 1 for i in tokenizer.special.values()))
    if isinstance(tokenizer, SentencePieceTokenizer):
        words = pieces(tokenizer, total)
    else:
        words = [tokenizer.special_ids.get(i) or spelled(tokenizer.spell(i)) for i in range(total)]
    seen: set[str] = set()
    for i, word in enumerate(words):
        unique = f"{word}#{i}" if word in seen or not word else word
        seen.add(unique)
        words[i] = unique
    return words


def pieces(tokenizer: SentencePieceTokenizer, total: int) -> list[str]:
    """The file's own spellings, and special tokens' names but for the file's first three: unknown,
    start and end.
    """
    first, last = tokenizer.shift, tokenizer.shift + tokenizer.num_pieces
    words = [f"<image_{i}>" for i in range(first)]
    words += tokenizer.pieces(range(first, last))
    words += [f"<unused_{i}>" for i in range(last, total)]
    return [
        tokenizer.special_ids.get(i, word) if i >= first + 3 else word
        for i, word in enumerate(words)
    ]


def split_at(names: Mapping[str, int], text: str) -> list[str]:
    """A text in parts, each a name or without names."""
    if not names:
        return [text] if text else []
    longest_first = sorted(names, key=len, reverse=True)
    pattern = "|".join(re.escape(name) for name in longest_first)
    return [part for part in re.split(f"({pattern})", text) if part]

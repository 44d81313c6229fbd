"""Byte-level BPE: tokenizer.json, GPT-2's vocab.json and merges.txt, GLM-4's tiktoken rank file;
and BERT's WordPiece.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.tokenizer.base import Tokenizer, official_names, spell_piece

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

# Contractions, words with at most one mark before them, up to three digits, marks, line ends,
# blanks.
GLM4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_alphabet() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for (GPT-2's table, computed)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(256 + i): byte for i, byte in enumerate(others)}


class JsonTokenizer(Tokenizer):
    """A vocabulary that the `tokenizers` library runs."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        generation: str,
        special: dict[str, int],
        files: Sequence[Path],
    ) -> None:
        super().__init__(generation=generation, special=special, files=files)
        self.backend = backend
        self.backend.encode_special_tokens = True
        self.backend.no_padding()
        self.backend.no_truncation()
        kind = type(backend.decoder).__name__ if backend.decoder is not None else ""
        self.is_wordpiece = kind == "WordPiece"
        # SentencePiece's pieces, as conversions of ChatGLM2 and 3 have them.
        self.has_pieces = backend.token_to_id("<0x00>") is not None
        self.strips_first_space = self.is_wordpiece or self.has_pieces
        if self.has_pieces:
            self.broken_bytes = "chatglm-one-mark-a-byte"

    @property
    def vocab_size(self) -> int:
        return max(self.backend.get_vocab_size(), max(self.special.values(), default=-1) + 1)

    def encode(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [item.ids for item in encoded]

    def spell(self, token: int) -> bytes:
        word = self.backend.id_to_token(token)
        if word is None:
            return b""
        if self.is_wordpiece:
            return word[2:].encode() if word.startswith("##") else b" " + word.encode()
        if self.has_pieces:
            return spell_piece(word)
        return bytes(self.letters[letter] for letter in word if letter in self.letters)

    @cached_property
    def letters(self) -> dict[str, int]:
        """The byte of each letter of the vocabulary."""
        return byte_alphabet()


class RankTokenizer(Tokenizer):
    """A tiktoken rank file: a line of base64 bytes and a rank for each word."""

    def __init__(
        self,
        ranks: dict[bytes, int],
        *,
        generation: str,
        special: dict[str, int],
        files: Sequence[Path],
    ) -> None:
        super().__init__(generation=generation, special=special, files=files)
        import tiktoken

        self.backend: tiktoken.Encoding = tiktoken.Encoding(
            "chatglm", pat_str=GLM4_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        self.words = {rank: word for word, rank in ranks.items()}

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        return self.backend.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.backend.encode_ordinary_batch(list(texts))

    def spell(self, token: int) -> bytes:
        return self.words.get(token, b"")


def read_ranks(path: Path) -> dict[bytes, int]:
    """Words and ranks of a tiktoken file; a ValueError names the line that is not one."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            word, rank = line.split()
            ranks[base64.b64decode(word, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"{path} line {number} is not 'base64 rank'; the file is damaged or of another "
                "kind, "
                "download it again"
            ) from error
    if len(set(ranks.values())) != len(ranks) or not ranks:
        raise ValueError(f"{path} holds no ranks or one twice; download it again")
    return ranks


def read_json(path: Path, generation: str) -> JsonTokenizer:
    """The tokenizer of a `tokenizer.json`; its added tokens are the special ones, but for those
    that it calls words, as GLM-4.5's `<think>` and `<tool_call>`: a reply's text has them.
    """
    import tokenizers

    try:
        text = path.read_text("utf-8")
        entries = json.loads(text)["added_tokens"]
        added = {e["content"]: int(e["id"]) for e in entries if e.get("special", True)}
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises a bare Exception
        raise ValueError(f"{path} is not a tokenizer.json ({error}); download it again") from error
    special = official_names(added, generation)
    return JsonTokenizer(backend, generation=generation, special=special, files=[path])


def read_gpt2(vocabulary: Path, merges: Path, special: dict[str, int]) -> JsonTokenizer:
    """GPT-2's or RoBERTa's vocabulary, as GLM's English checkpoints have it."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    try:
        backend = Backend(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:
        raise ValueError(
            f"{vocabulary} and {merges.name} are not a BPE vocabulary ({error}); download them "
            "again"
        ) from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return JsonTokenizer(backend, generation="glm", special=special, files=[vocabulary, merges])


def read_wordpiece(path: Path, special: dict[str, int], *, lowercase: bool = True) -> JsonTokenizer:
    """BERT's vocabulary, as GLM's English base checkpoints have it."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    words = path.read_text("utf-8").split("\n")
    vocabulary = {word.rstrip("\r"): i for i, word in enumerate(words) if word.strip()}
    if "[UNK]" not in vocabulary:
        raise ValueError(f"{path} has no [UNK]; it is not BERT's vocab.txt")
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return JsonTokenizer(backend, generation="glm", special=special, files=[path])

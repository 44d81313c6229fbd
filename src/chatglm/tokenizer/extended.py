"""A vocabulary with words of one's own, in the file `added_words.json` beside its files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from chatglm.tokenizer.base import Tokenizer

ADDED = "added_words.json"


class ExtendedTokenizer(Tokenizer):
    """Another tokenizer, with words that are taken whole wherever they stand in a text, the longest
    first.
    """

    def __init__(self, base: Tokenizer, words: Mapping[str, int], path: Path) -> None:
        super().__init__(
            generation=base.generation, special=base.special, files=[*base.files, path]
        )
        self.base = base
        self.broken_bytes = base.broken_bytes
        self.strips_first_space = base.strips_first_space
        self.words = dict(words)
        self.spelled = {token: word.encode() for word, token in words.items()}
        longest_first = sorted(map(re.escape, words), key=len, reverse=True)
        self.pattern = re.compile(f"({'|'.join(longest_first)})")

    @property
    def vocab_size(self) -> int:
        return max(self.base.vocab_size, max(self.spelled) + 1)

    def encode(self, text: str) -> list[int]:
        return self.encode_stretch(text, starts=True, ends=True)

    def encode_stretch(self, text: str, *, starts: bool, ends: bool) -> list[int]:
        ids: list[int] = []
        parts = self.pattern.split(text)  # every second one is a word
        for number, part in enumerate(parts):
            if number % 2:
                ids.append(self.words[part])
            elif part:
                ids += self.base.encode_stretch(
                    part,
                    starts=starts and number == 0,
                    ends=ends and number == len(parts) - 1,
                )
        return ids

    def spell(self, token: int) -> bytes:
        return self.spelled.get(token) or self.base.spell(token)


def read_words(path: Path) -> dict[str, int]:
    """The words and ids of an `added_words.json`; a ValueError where it is something else."""
    try:
        words = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); extend the model again") from error
    ids = list(words.values()) if isinstance(words, dict) else []
    if not ids or "" in words or not all(type(i) is int for i in ids) or len(set(ids)) < len(ids):
        raise ValueError(f"{path} must hold words and an id for each; extend the model again")
    return words

"""A tokenizer: text to ids that are never special, ids to text, one piece at a time if need be."""

from __future__ import annotations

import codecs
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatglm.tokenizer.template import Template


def _one_mark_a_byte(error: UnicodeError) -> tuple[str, int]:
    """U+FFFD for every byte of a broken character, as SentencePiece decodes."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


# ChatGLM2's and 3's names of two special tokens are words of their own that stand inside others.
# Tools that look for special tokens in a text, or merge whatever is in the vocabulary, would find
# them in "philosophy"; for those they have names that no text holds by chance.
_APART = {"sop": "<sop>", "eop": "<eop>"}
_TOGETHER = {apart: name for name, apart in _APART.items()}


def names_apart(special: Mapping[str, int]) -> dict[str, int]:
    """Special tokens under the names that other tools get."""
    return {_APART.get(name, name): i for name, i in special.items()}


def official_names(special: Mapping[str, int], generation: str) -> dict[str, int]:
    """Special tokens under the names of a generation's own files."""
    if generation not in ("chatglm2", "chatglm3"):
        return dict(special)
    return {_TOGETHER.get(name, name): i for name, i in special.items()}


_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def spell_piece(piece: str) -> bytes:
    """The UTF-8 bytes of SentencePiece's spelling: its blank, or a byte by its number."""
    if byte := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace("\u2581", " ").encode()


codecs.register_error("chatglm-one-mark-a-byte", _one_mark_a_byte)


class Tokenizer(ABC):
    """What all vocabularies of the family have in common.

    generation: whose chat format `template` is. special: id of each special token; text never
        produces one.
    prefix, suffix: ids that the official tokenizer object puts around a text when it is called.
    """

    broken_bytes = "replace"
    strips_first_space = False

    def __init__(self, *, generation: str, special: dict[str, int], files: Sequence[Path]) -> None:
        self.generation = generation
        self.special = special
        self.special_ids = {i: name for name, i in special.items()}
        self.files = tuple(files)
        self._bytes: dict[int, bytes] = {}

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, special ones included where the official tokenizer counts them."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text; none of them special, whatever the text says."""

    @abstractmethod
    def spell(self, token: int) -> bytes:
        """The UTF-8 bytes of an ordinary id; may be part of a character."""

    def encode_stretch(self, text: str, *, starts: bool, ends: bool) -> list[int]:
        """Ids of a stretch of a longer text.

        starts, ends: whether the text starts and ends with it; there some vocabularies add a blank
            and drop others.
        """
        return self.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of several texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of the ids; bytes that are no character become U+FFFD."""
        decoder = StreamDecoder(self, skip_special=skip_special)
        return "".join(map(decoder.push, ids)) + decoder.flush()

    def stream(self) -> StreamDecoder:
        """A decoder that takes ids one by one."""
        return StreamDecoder(self)

    def bytes_of(self, token: int) -> bytes:
        """`spell`, remembered."""
        spelled = self._bytes.get(token)
        if spelled is None:
            spelled = self._bytes[token] = self.spell(token)
        return spelled

    def wrap(self, ids: Sequence[int]) -> list[int]:
        """Ids of a text as the official tokenizer object gives them when it is called: with its
        special ones around.
        """
        return [*self.template.before_text, *ids, *self.template.after_text]

    @cached_property
    def template(self) -> Template:
        """The chat format of this generation."""
        from chatglm.tokenizer.formats import make_template

        return make_template(self)

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a reply in this format."""
        return self.template.end_ids


class StreamDecoder:
    """Ids in, text out: what is certain comes at once, half a character waits for the rest."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self.tokenizer = tokenizer
        self.skip_special = skip_special
        self.decoder = codecs.getincrementaldecoder("utf-8")(tokenizer.broken_bytes)
        self.at_start = tokenizer.strips_first_space

    def push(self, token: int) -> str:
        """Text that `token` makes certain; their concatenation with `flush` is `decode`."""
        name = self.tokenizer.special_ids.get(token)
        if name is not None:
            return "" if self.skip_special else self.decoder.decode(b"", True) + name
        spelled = self.tokenizer.bytes_of(token)
        if self.at_start and spelled:
            spelled = spelled.removeprefix(b" ")
            self.at_start = False
        return self.decoder.decode(spelled)

    def flush(self) -> str:
        """What is left, once nothing more comes: U+FFFD for an unfinished character."""
        return self.decoder.decode(b"", True)

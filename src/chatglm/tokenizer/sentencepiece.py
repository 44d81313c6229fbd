"""SentencePiece vocabularies: ChatGLM-6B with its peculiarities, ChatGLM2 and 3, GLM 2021's
Chinese one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from chatglm.tokenizer.base import Tokenizer, spell_piece

MAX_BLANKS = 80
_BLANKS = re.compile(f" {{2,{MAX_BLANKS}}}")
_BLANK_PIECE = re.compile(r"<\|blank_(\d+)\|>")


class SentencePieceTokenizer(Tokenizer):
    """A `.model` file of SentencePiece.

    content: the model itself where it does not lie at `path` but inside another file there.
    shift: added to every id of the file (ChatGLM-6B's first files had 20,000 image tokens in
        front).
    spells_layout: line ends, tabs and runs of blanks are pieces of their own (ChatGLM-6B).
    """

    broken_bytes = "chatglm-one-mark-a-byte"
    strips_first_space = True

    def __init__(
        self,
        path: Path,
        *,
        generation: str,
        special: dict[str, int],
        shift: int = 0,
        spells_layout: bool = False,
        content: bytes | None = None,
    ) -> None:
        super().__init__(generation=generation, special=special, files=[path])
        from sentencepiece import SentencePieceProcessor

        try:
            model = path.read_bytes() if content is None else content
            self.backend = SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"{path} is not a SentencePiece model, or a part of one; download it again"
            ) from error
        self.shift = shift
        self.spells_layout = spells_layout
        self.num_pieces = self.backend.vocab_size()

    @property
    def vocab_size(self) -> int:
        return max(self.num_pieces + self.shift, max(self.special.values(), default=-1) + 1)

    def encode(self, text: str) -> list[int]:
        return self.encode_stretch(text, starts=True, ends=True)

    def encode_stretch(self, text: str, *, starts: bool, ends: bool) -> list[int]:
        mark = "<n>" if self.spells_layout else "\n"
        body = spell_layout(text) if self.spells_layout else text
        ids = self.backend.encode(("" if starts else mark) + body + ("" if ends else mark))
        first = 0 if starts else len(self.backend.encode(mark))
        last = len(ids) - (0 if ends else 1)
        return [i + self.shift for i in ids[first:last]]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The file's own spelling of each id."""
        return [self.backend.id_to_piece(i - self.shift) for i in ids]

    def spell(self, token: int) -> bytes:
        index = token - self.shift
        if not 0 <= index < self.num_pieces or self.backend.is_control(index):
            return b""
        piece = self.backend.id_to_piece(index)
        if self.backend.is_unknown(index):
            return " \u2047 ".encode()
        if self.spells_layout:
            if piece in ("<n>", "<|tab|>"):
                return b"\n" if piece == "<n>" else b"\t"
            if blank := _BLANK_PIECE.fullmatch(piece):
                return b" " * int(blank[1])
        return spell_piece(piece)


def spell_layout(text: str) -> str:
    """Line ends, tabs and runs of blanks as the pieces that ChatGLM-6B has for them."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    return _BLANKS.sub(lambda run: f"<|blank_{len(run[0])}|>", text)

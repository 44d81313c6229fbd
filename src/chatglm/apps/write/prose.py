"""Prose of an asked length: where it may end while it is decoded, and where it is cut."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chatglm.apps.text import clauses, language, sentences

if TYPE_CHECKING:
    from chatglm.tokenizer.base import Tokenizer

TOLERANCE = 0.1
"""How far from the asked length a text may be."""

ENDING = 5.0
"""What full stops gain, in nats, once a text is long enough."""

_STOPS = ("。", "！", "？", "!", "?", "…", "”", "」")
_LATIN_STOPS = (".", "!", "?", '"')


def bounds(length: int) -> tuple[int, int]:
    """The fewest and most characters of a text that keeps its length."""
    return length - int(length * TOLERANCE), length + int(length * TOLERANCE)


class LengthKeeper:
    """A `Processor` under which a reply goes on to `low` characters and ends, with a sentence if it
    can, before `high`; and which says no run of `gram` tokens twice.
    """

    def __init__(
        self, tokenizer: Tokenizer, end_ids: Collection[int], low: int, high: int, gram: int = 0
    ) -> None:
        self.tokenizer = tokenizer
        self.end_ids = sorted(end_ids)
        self.low, self.high, self.gram = low, high, gram
        self.start: int | None = None
        self.stop_ids = sorted({ids[-1] for s in "。！？." if (ids := tokenizer.encode(s))})
        self.after: dict[tuple[int, ...], set[int]] = {}

    def __call__(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        """Logits with ends closed or everything else closed."""
        if self.start is None:
            self.start = len(tokens)
        reply = tokens[self.start :]
        ends = torch.tensor(self.end_ids, device=logits.device)
        text = self.tokenizer.decode(reply)
        size = len(text.strip())
        is_over = size >= self.high or (size >= self.low and text.rstrip().endswith(_STOPS))
        if is_over:
            kept = torch.full_like(logits, -torch.inf)
            kept[ends] = logits[ends].clamp(min=-1e30)
            return kept
        if size < self.low:
            logits[ends] = -torch.inf
        else:
            logits[self.stop_ids] += ENDING
        if self.gram and len(reply) >= self.gram:
            self.after.setdefault(tuple(reply[-self.gram : -1]), set()).add(reply[-1])
            said = self.after.get(tuple(reply[len(reply) - self.gram + 1 :]), set())
            logits[torch.tensor(sorted(said), dtype=torch.long, device=logits.device)] = -torch.inf
        return logits


class WordFirst:
    """A `Processor` under which each blank begins with a word, not with a mark or nothing."""

    def __init__(self, tokenizer: Tokenizer, most: int = 64) -> None:
        self.tokenizer = tokenizer
        self.most = most
        self.length = -1

    def __call__(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        """Logits with marks closed at the beginning of a blank."""
        is_first = len(tokens) != self.length + 1
        self.length = len(tokens)
        if not is_first:
            return logits
        likely = logits.topk(min(self.most, len(logits))).indices.tolist()
        words = [i for i in likely if any(c.isalnum() for c in self.tokenizer.decode([i]))]
        kept = torch.full_like(logits, -torch.inf)
        kept[words or likely] = logits[words or likely]
        return kept


def kept_length(text: str, length: int) -> str:
    """The text cut to its length: after the last sentence that fits, else the last clause, which
    then ends with a full stop; unchanged where it is short.
    """
    low, high = bounds(length)
    text = text.strip()
    if len(text) <= high:
        return ended(text, high)
    best = ""
    at = 0
    for sentence in sentences(text):
        at = text.index(sentence, at) + len(sentence)
        if at > high:
            break
        best = text[:at]
    if len(best) >= low:
        return best
    at = len(best)
    for clause in clauses(text[at:]):
        if at + len(clause) > high:
            break
        at += len(clause)
    if at < low:
        at = high - 1
        if language(text) == "en":
            at = max(text.rfind(" ", 0, at), low)
    return ended(text[:at], high)


def ended(text: str, most: int) -> str:
    """The text with the mark that ends a sentence."""
    text = text.rstrip("，,、；;：: \n")
    lang = language(text)
    if not text or text.endswith(_STOPS if lang == "zh" else _LATIN_STOPS):
        return text
    stop = "。" if lang == "zh" else "."
    return text[: most - 1] + stop


def joined(parts: Sequence[str]) -> str:
    """Sections as paragraphs."""
    return "\n".join(part.strip() for part in parts if part.strip())

"""Decoding within a layout: at each step only tokens that keep the form are allowed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from chatglm.apps.text import num_han
from chatglm.apps.write.layout import Layout, Slot
from chatglm.apps.write.prosody import Tone, rhyme, tone

if TYPE_CHECKING:
    from chatglm.tokenizer.base import Tokenizer

MIN_CHARACTERS = 1000
"""A vocabulary with fewer whole characters spells them byte by byte too."""

LONGEST = 4
TONES: dict[Tone, int] = {"平": 1, "仄": 2}


class Alphabet:
    """What a tokenizer's tokens spell, and what its characters sound like."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.spelled = [
            b"" if i in tokenizer.special_ids else tokenizer.bytes_of(i)
            for i in range(tokenizer.vocab_size)
        ]
        words: list[tuple[int, str]] = []
        for i, raw in enumerate(self.spelled):
            if 3 <= len(raw) <= 4 * LONGEST and raw[0] >= 0xE3:
                text = raw.decode("utf-8", "ignore")
                if len(text.encode()) == len(raw) and num_han(text) == len(text) <= LONGEST:
                    words.append((i, text))
        singles = {text for _, text in words if len(text) == 1}
        self.is_small = len(singles) < MIN_CHARACTERS
        characters = singles | {c for _, text in words for c in text}
        if self.is_small:
            characters |= common_characters()
        self.characters = sorted(characters)
        self.index = {c: n for n, c in enumerate(self.characters)}
        self.ids = torch.tensor([i for i, _ in words], dtype=torch.long)
        blank = len(self.characters)
        rows = [[self.index[c] for c in t] + [blank] * (LONGEST - len(t)) for _, t in words]
        self.rows = torch.tensor(rows, dtype=torch.long).view(-1, LONGEST)
        self.lengths = torch.tensor([len(t) for _, t in words], dtype=torch.long)
        heard = [tone(c) for c in self.characters]
        self.tones = torch.tensor([TONES[t] if t is not None else 0 for t in heard])
        groups = [rhyme(c) for c in self.characters]
        self.groups = sorted({g for g in groups if g is not None})
        self.rhymes = torch.tensor(
            [self.groups.index(g) if g is not None else len(self.groups) for g in groups]
        )
        self.by_first: dict[int, list[int]] = {}
        for i, raw in enumerate(self.spelled):
            if raw:
                self.by_first.setdefault(raw[0], []).append(i)


_ALPHABETS: WeakKeyDictionary[Tokenizer, Alphabet] = WeakKeyDictionary()


def alphabet(tokenizer: Tokenizer) -> Alphabet:
    """The alphabet of a tokenizer, made once."""
    known = _ALPHABETS.get(tokenizer)
    if known is None:
        known = _ALPHABETS[tokenizer] = Alphabet(tokenizer)
    return known


def common_characters() -> set[str]:
    """The 3,755 characters of GB 2312's first level."""
    rows = range(0xB0, 0xD8)
    found = (
        bytes((row, cell)).decode("gb2312", "ignore") for row in rows for cell in range(0xA1, 0xFF)
    )
    return {c for c in found if c}


@dataclass
class State:
    """How far a reply has come: elements that are done, bytes of the next, characters chosen."""

    element: int = 0
    pending: bytes = b""
    chosen: list[str] = field(default_factory=list)
    group: str | None = None


class Constraint:
    """A `Processor` that keeps one request within a layout; each request needs its own."""

    def __init__(self, layout: Layout, alphabet: Alphabet, end_ids: Collection[int]) -> None:
        self.layout = layout
        self.alphabet = alphabet
        self.end_ids = sorted(end_ids)
        self.start: int | None = None
        self.num_rhymes = sum(slot.rhymes for slot in layout.slots)

    def __call__(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        """Logits with all but what the form allows at −∞."""
        if self.start is None:
            self.start = len(tokens)
        allowed = self.allowed(self.state(tokens[self.start :]))
        kept = torch.full_like(logits, -torch.inf)
        ids = torch.tensor(allowed, device=logits.device)
        kept[ids] = logits[ids].clamp(min=-1e30)
        return kept

    def state(self, reply: Sequence[int]) -> State:
        """Where a reply stands in the layout."""
        state = State()
        for token in reply:
            raw = state.pending + self.alphabet.spelled[token]
            state.pending = b""
            while raw and state.element < len(self.layout.elements):
                element = self.layout.elements[state.element]
                if isinstance(element, str):
                    goal = element.encode()
                    if len(raw) < len(goal):
                        state.pending = raw
                        break
                    raw = raw[len(goal) :]
                else:
                    size = 3 if raw[0] < 0xF0 else 4
                    if len(raw) < size:
                        state.pending = raw
                        break
                    character, raw = raw[:size].decode(), raw[size:]
                    state.chosen.append(character)
                    if element.rhymes and state.group is None:
                        state.group = rhyme(character)
                state.element += 1
        return state

    def allowed(self, state: State) -> list[int]:
        """Tokens that keep the form."""
        if state.element >= len(self.layout.elements):
            return self.end_ids
        element = self.layout.elements[state.element]
        if isinstance(element, str):
            return self.literal(element.encode(), state.pending)
        slots: list[Slot] = []
        for following in self.layout.elements[state.element :]:
            if isinstance(following, str):
                break
            slots.append(following)
        fitting = [self.fitting(slot, state) for slot in slots[:LONGEST]]
        found = [] if state.pending else self.words(fitting)
        if self.alphabet.is_small or not found:
            found = sorted({*found, *self.bytes_of(fitting[0], state.pending)})
        if not found:
            raise ValueError(
                "the form leaves no character to choose; ask for a shorter one or another rhyme"
            )
        return found

    def literal(self, text: bytes, pending: bytes) -> list[int]:
        """Tokens that spell on in fixed text."""
        rest = text[len(pending) :]
        return [
            i
            for i in self.alphabet.by_first.get(rest[0], [])
            if rest.startswith(self.alphabet.spelled[i])
        ]

    def fitting(self, slot: Slot, state: State) -> Tensor:
        """Which characters may stand in a slot (characters + 1,); the last is none at all."""
        letters = self.alphabet
        fits = torch.zeros(len(letters.characters) + 1, dtype=torch.bool)
        if slot.like is not None:
            if slot.like < len(state.chosen):
                fits[letters.index[state.chosen[slot.like]]] = True
            return fits
        good = torch.ones_like(letters.tones, dtype=torch.bool)
        if slot.tone is not None:
            good = letters.tones == TONES[slot.tone]
        for character in {*state.chosen, *self.layout.banned} & letters.index.keys():
            good[letters.index[character]] = False
        fits[:-1] = self.rhyming(good, state) if slot.rhymes else good
        return fits

    def rhyming(self, good: Tensor, state: State) -> Tensor:
        """Of the characters those of the chosen rhyme, or of one that has enough for all lines."""
        letters = self.alphabet
        if state.group is not None:
            return good & (letters.rhymes == letters.groups.index(state.group))
        counts = torch.bincount(letters.rhymes[good], minlength=len(letters.groups) + 1)
        enough = counts >= 2 * self.num_rhymes
        enough[-1] = False  # no rhyme at all
        return good & enough[letters.rhymes]

    def words(self, fitting: Sequence[Tensor]) -> list[int]:
        """Tokens of whole characters that fit the next slots, no character twice in one."""
        letters = self.alphabet
        good = letters.lengths <= len(fitting)
        for k, fits in enumerate(fitting):
            good &= fits[letters.rows[:, k]] | (letters.lengths <= k)
        for a in range(LONGEST):
            for b in range(a):
                good &= (letters.rows[:, a] != letters.rows[:, b]) | (letters.lengths <= a)
        return letters.ids[good].tolist()

    def bytes_of(self, fits: Tensor, pending: bytes) -> list[int]:
        """Tokens that spell a part of a character that fits."""
        letters = self.alphabet
        wanted = [letters.characters[n].encode() for n in fits[:-1].nonzero().flatten().tolist()]
        rests = {w[len(pending) :] for w in wanted if w.startswith(pending)}
        return [
            i
            for first in {rest[0] for rest in rests}
            for i in letters.by_first.get(first, [])
            if any(rest.startswith(letters.spelled[i]) for rest in rests)
        ]

"""The form of a verse: fixed text and places for characters, each with its tone and rhyme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatglm.apps.text import num_han
from chatglm.apps.write.prosody import Tone, rhyme, tone

_TONES: Mapping[str, Tone | None] = {"平": "平", "仄": "仄", "中": None, "韵": "平", "叶": "仄"}
PAUSE, STOP = "，", "。"


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one character.

    tone: None for any. rhymes: with all others that do. like: index of an earlier slot that has
    the same character.
    """

    tone: Tone | None = None
    rhymes: bool = False
    like: int | None = None


Element = str | Slot


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Elements in order; a character fills one slot only, and none that is `banned`."""

    elements: tuple[Element, ...]
    banned: frozenset[str] = frozenset()

    @property
    def slots(self) -> list[Slot]:
        """The places for characters."""
        return [e for e in self.elements if isinstance(e, Slot)]

    def render(self, characters: Sequence[str]) -> str:
        """The text with a character in each slot."""
        left = iter(characters)
        return "".join(e if isinstance(e, str) else next(left) for e in self.elements)


def poem(lines: Sequence[str], heading: str = "") -> Layout:
    """The layout of a poem: a line for each pattern of 平, 仄, 中 (any), 韵 (level, rhymes) and 叶
    (oblique, rhymes); two lines make a sentence.
    """
    elements: list[Element] = [f"{heading}\n"] if heading else []
    for i, line in enumerate(lines):
        elements += [Slot(tone=_TONES[c], rhymes=c in "韵叶") for c in line]
        is_end = i % 2 == 1 or i == len(lines) - 1
        is_last = i == len(lines) - 1
        elements.append((STOP if is_end else PAUSE) + ("\n" if is_end and not is_last else ""))
    return Layout(elements=tuple(elements))


def lower_line(upper: str) -> Layout:
    """The layout of the line that answers the upper line of a couplet: as many characters, the
    other tone in every second place and at the end, repeats where it repeats, none of its own.
    """
    elements: list[Element] = []
    wanted = answering_tones(upper)
    first: dict[str, int] = {}
    count = 0
    for character in upper:
        if not num_han(character):
            elements.append(character)
            continue
        elements.append(Slot(tone=wanted[character], like=first.get(character)))
        first.setdefault(character, count)
        count += 1
    return Layout(elements=tuple(elements), banned=frozenset(c for c in upper if num_han(c)))


def answering_tones(upper: str) -> dict[str, Tone | None]:
    """The tone that answers each character of an upper line: the other one, where the character
    stands in a second place or at an end; level at the very end if it can be heard both ways.
    """
    wanted: dict[str, Tone | None] = dict.fromkeys(upper)
    place = 0
    for i, character in enumerate(upper):
        place = place + 1 if num_han(character) else 0
        is_last = i == len(upper) - 1
        ends = is_last or not num_han(upper[i + 1])
        heard = tone(character) if place else None
        if heard is not None and (place % 2 == 0 or ends):
            wanted[character] = "仄" if heard == "平" else "平"
        elif is_last and heard is None:
            wanted[character] = "平"
    return wanted


def faults(text: str, layout: Layout) -> list[str]:
    """What of a text is not in the form; empty where all is."""
    found: list[str] = []
    chosen: list[str] = []
    at = 0
    for element in layout.elements:
        size = len(element) if isinstance(element, str) else 1
        got = text[at : at + size]
        at += size
        if isinstance(element, str):
            if got != element:
                return [*found, f"expected {element!r} at character {at - size + 1}, got {got!r}"]
        elif not num_han(got):
            return [*found, f"expected a Chinese character at {at}, got {got!r}"]
        else:
            found += slot_faults(got, element, chosen, layout.banned)
            chosen.append(got)
    rhymes = {rhyme(c) for c, s in zip(chosen, layout.slots, strict=True) if s.rhymes}
    if len(rhymes) > 1 or None in rhymes:
        found.append("its lines do not rhyme")
    if text[at:].strip():
        found.append(f"there is more than the form: {text[at:].strip()[:10]!r}")
    return found


def slot_faults(
    character: str, slot: Slot, chosen: Sequence[str], banned: frozenset[str]
) -> list[str]:
    """What is wrong with a character in its slot."""
    found = []
    if slot.like is not None:
        if character != chosen[slot.like]:
            found.append(f"{character} should repeat {chosen[slot.like]}")
    elif character in chosen or character in banned:
        found.append(f"{character} comes twice")
    if slot.tone is not None and tone(character) != slot.tone:
        found.append(f"{character} is not {slot.tone}")
    return found

"""Ends of a reply, and text that is safe to show while it is still growing."""

from __future__ import annotations

from collections.abc import Sequence

from chatglm.tokenizer.base import StreamDecoder


class StopStrings:
    """Cuts text where a stop string is complete first; holds back what could still become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Text that is certain to belong to the reply now."""
        if self.found or not self.stops:
            return "" if self.found else text
        self.held += text
        found = [(at + len(s), at) for s in self.stops if (at := self.held.find(s)) >= 0]
        if found:
            self.found = True
            out, self.held = self.held[: min(found)[1]], ""
            return out
        out, self.held = split_certain(self.held, self.stops)
        return out

    def flush(self) -> str:
        """What was held back, once nothing more comes."""
        out, self.held = self.held, ""
        return out


def split_certain(text: str, marks: Sequence[str]) -> tuple[str, str]:
    """The text in two: what is certain, and the longest end that begins one of the marks."""
    at = len(text) - max(overlap(text, mark) for mark in marks)
    return text[:at], text[at:]


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of the text that begins the mark."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


class Trim:
    """Text in pieces without blank space at its two ends."""

    def __init__(self) -> None:
        self.has_begun = False
        self.blank = ""  # blank space that is shown only if something follows

    def push(self, text: str) -> str:
        """The text without blank space at the beginning, and with that at the end held back."""
        if not self.has_begun:
            text = text.lstrip()
            self.has_begun = bool(text)
        text = self.blank + text
        shown = text.rstrip()
        self.blank = text[len(shown) :]
        return shown


class TextStream:
    """Tokens in, text out: whole characters only, nothing of a stop string, no special token.

    strips: leave out blank space at both ends, as of a reply.
    """

    def __init__(
        self, decoder: StreamDecoder, stops: Sequence[str], *, strips: bool = False
    ) -> None:
        self.decoder = decoder
        self.stops = StopStrings(stops)
        self.trim = Trim() if strips else None

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the reply."""
        return self.stops.found

    def push(self, token: int) -> str:
        """Text that `token` makes certain."""
        return self.shown(self.stops.push(self.decoder.push(token)))

    def flush(self) -> str:
        """The rest, once the reply has ended."""
        return self.shown(self.stops.push(self.decoder.flush()) + self.stops.flush())

    def shown(self, text: str) -> str:
        """The text as it is told: trimmed if asked."""
        return self.trim.push(text) if self.trim else text

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
        keep = max(self.overlap(stop) for stop in self.stops)
        out, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return out

    def overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        for length in range(min(len(stop) - 1, len(self.held)), 0, -1):
            if self.held.endswith(stop[:length]):
                return length
        return 0

    def flush(self) -> str:
        """What was held back, once nothing more comes."""
        out, self.held = self.held, ""
        return out


class TextStream:
    """Tokens in, text out: whole characters only, nothing of a stop string, no special token.

    strips: leave out blank space at both ends, as of a reply.
    """

    def __init__(
        self, decoder: StreamDecoder, stops: Sequence[str], *, strips: bool = False
    ) -> None:
        self.decoder = decoder
        self.stops = StopStrings(stops)
        self.strips = strips
        self.has_begun = False
        self.blank = ""  # blank space that is shown only if something follows

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the reply."""
        return self.stops.found

    def push(self, token: int) -> str:
        """Text that `token` makes certain."""
        return self.trim(self.stops.push(self.decoder.push(token)))

    def flush(self) -> str:
        """The rest, once the reply has ended."""
        return self.trim(self.stops.push(self.decoder.flush()) + self.stops.flush())

    def trim(self, text: str) -> str:
        """The text without blank space at the beginning, and with that at the end held back."""
        if not self.strips or not text:
            return text
        if not self.has_begun:
            text = text.lstrip()
            self.has_begun = bool(text)
        text = self.blank + text
        shown = text.rstrip()
        self.blank = text[len(shown) :]
        return shown

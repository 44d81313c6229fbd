"""A parser: text of a reply in, what it adds to the message out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a piece of text adds: content, reasoning, or a tool call, by its index.

    name: on the first delta of a call. arguments: more of its JSON text.
    """

    content: str = ""
    reasoning: str = ""
    call: int | None = None
    name: str = ""
    arguments: str = ""


class ReplyParser(ABC):
    """Text in, deltas out; any cut of the text gives the same sum."""

    num_calls = 0

    @abstractmethod
    def push(self, text: str) -> list[Delta]:
        """What the text makes certain."""

    def flush(self) -> list[Delta]:
        """The rest, once the reply has ended."""
        return []


class PlainParser(ReplyParser):
    """Everything is content."""

    def push(self, text: str) -> list[Delta]:
        return [Delta(content=text)] if text else []


class StateParser(ReplyParser):
    """A parser that is always in one of several states, and holds text that decides nothing yet."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.held = ""

    def push(self, text: str) -> list[Delta]:
        self.held += text
        deltas: list[Delta] = []
        while True:
            before = (self.state, len(self.held))
            deltas += self.advance()
            if not self.held or before == (self.state, len(self.held)):
                return deltas

    @abstractmethod
    def advance(self) -> list[Delta]:
        """What the held text makes certain in this state; takes that text, and may change the
        state.
        """

"""Thoughts up to `</think>`, and another parser for what follows."""

from __future__ import annotations

from chatglm.generation.stop import Trim, split_certain
from chatglm.serve.parse.base import Delta, ReplyParser, StateParser


class ThinkParser(StateParser):
    """Passes thoughts on as reasoning, without blank space at their two ends.

    begins: whether the reply begins inside the thoughts, because the prompt has opened them.
    """

    END = "</think>"
    START = "<think>"

    def __init__(self, inner: ReplyParser, *, begins: bool) -> None:
        super().__init__("reasoning" if begins else "start")
        self.inner = inner
        self.trim = Trim()

    @property
    def num_calls(self) -> int:  # type: ignore[override]
        """Calls so far."""
        return self.inner.num_calls

    def advance(self) -> list[Delta]:
        if self.state == "start":
            start = self.held.lstrip()
            if start.startswith(self.START):
                self.held, self.state = start[len(self.START) :], "reasoning"
            elif not self.START.startswith(start):
                self.state = "after"
            return []
        if self.state == "reasoning":
            thought, end, rest = self.held.partition(self.END)
            if end:
                self.held, self.state = rest, "gap"
            else:
                thought, self.held = split_certain(self.held, [self.END])
            return self.reason(thought)
        if self.state == "gap":
            self.held = self.held.lstrip()
            if self.held:
                self.state = "after"
            return []
        text, self.held = self.held, ""
        return self.inner.push(text)

    def reason(self, text: str) -> list[Delta]:
        """Reasoning that the text makes certain."""
        shown = self.trim.push(text)
        return [Delta(reasoning=shown)] if shown else []

    def flush(self) -> list[Delta]:
        text, self.held = self.held, ""
        rest = self.reason(text) if self.state == "reasoning" else self.inner.push(text)
        return rest + self.inner.flush()

"""A reply as it comes: pieces of text, and what is known of it once it has ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatglm.generation.engine import Engine
    from chatglm.generation.sampling import Sampling
    from chatglm.generation.stop import TextStream
    from chatglm.prompt import Prompt


class ReplyStream(Iterator[str], ABC):
    """Pieces of text whose concatenation is the reply; closing it stops the work.

    num_prompt, num_new: tokens read and made so far. finish: `stop` (the model or a stop string
    ended it), `length` (a limit did), None while it goes on.
    """

    def __init__(self) -> None:
        self.num_prompt = 0
        self.num_new = 0
        self.finish: str | None = None
        self._pieces = self.pieces()

    @abstractmethod
    def pieces(self) -> Generator[str]:
        """Makes the pieces and keeps the numbers."""

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop here."""
        self._pieces.close()


class TokenReply(ReplyStream):
    """A reply of the engine's."""

    def __init__(
        self, engine: Engine, text: TextStream, prompt: Prompt, sampling: Sampling
    ) -> None:
        self.engine, self.text, self.prompt, self.sampling = engine, text, prompt, sampling
        super().__init__()
        self.num_prompt = len(prompt.tokens)

    def pieces(self) -> Generator[str]:
        """Whole characters, as they become certain."""
        ends = self.engine.stop_ids if self.sampling.stop_ids is None else self.sampling.stop_ids
        with closing(self.engine.stream(self.prompt, self.sampling)) as outputs:
            for output in outputs:
                self.num_new += output.token is not None
                self.finish = output.finish
                if output.token is None or output.token in ends:
                    continue
                if piece := self.text.push(output.token):
                    yield piece
                if self.text.stopped:
                    self.finish = "stop"
                    return
        if rest := self.text.flush():
            yield rest

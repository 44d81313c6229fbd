"""A language model as the applications ask it: text for text, one or many, local or remote."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack, cast, runtime_checkable

from chatglm.apps.text import num_han

if TYPE_CHECKING:
    from chatglm.generation.chat import ChatGLM
    from chatglm.generation.sampling import Processor


class Options(TypedDict, total=False):
    """Settings of one request; a `ChatGLM` knows more of them."""

    temperature: float
    top_p: float
    repetition_penalty: float
    max_new_tokens: int | None
    stop: str | Sequence[str]
    seed: int | None
    processor: Processor | None
    speculate: int


@runtime_checkable
class Streams(Protocol):
    """What a model must be able to do: `ChatGLM`, a remote model, or a server's own."""

    def stream(
        self, text: str, *, system: str | None = None, **options: Unpack[Options]
    ) -> Iterator[str]:
        """A reply in pieces."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt with the settings of its reply."""

    prompt: str
    options: Options
    system: str | None = None


NUM_CONNECTIONS = 8
REMOTE_CONTEXT = 8192
NOT_REMOTE = ("processor", "repetition_penalty", "speculate")
COPIED = 8
"""Tokens tried ahead where much of a reply stands in the prompt; the reply does not change."""


class TextModel:
    """One model, asked for text.

    model: None opens the embedded one when it is first asked. `follows` says whether it follows
    instructions at large; a model that does not is asked in the words of its fine-tuning.
    """

    def __init__(self, model: Streams | None = None) -> None:
        self.given = model
        self.opened: Streams | None = model

    @property
    def model(self) -> Streams:
        """The model itself."""
        if self.opened is None:
            from chatglm.generation.chat import ChatGLM

            self.opened = cast(Streams, ChatGLM.from_pretrained())
        return self.opened

    @property
    def local(self) -> ChatGLM | None:
        """The model where its weights, tokenizer and engine are here."""
        return cast("ChatGLM", self.model) if hasattr(self.model, "tokenizer") else None

    @property
    def name(self) -> str:
        """What tells this model from others: its name, or its directory."""
        if self.given is None:
            return "embedded"
        loaded = getattr(self.given, "loaded", None)
        named = getattr(self.given, "name", None)
        return str(named or getattr(loaded, "directory", None) or type(self.given).__name__)

    @property
    def follows(self) -> bool:
        """Whether the model understands any instruction; the embedded one knows only a few."""
        if self.given is None:
            return False
        config = getattr(self.given, "config", None)
        return config is None or config.hidden_size >= 1024

    @property
    def context(self) -> int:
        """Tokens that prompt and reply may have together."""
        config = getattr(self.model, "config", None)
        return REMOTE_CONTEXT if config is None else int(config.max_length)

    def num_tokens(self, text: str) -> int:
        """Tokens of a text; an upper estimate where the tokenizer is elsewhere."""
        if (local := self.local) is not None:
            return len(local.tokenizer.encode(text))
        wide = num_han(text)
        return wide + (len(text) - wide) // 3 + 1

    def stream(self, question: Question) -> Iterator[str]:
        """The reply in pieces."""
        options = question.options
        if self.local is None:
            options = cast(Options, {k: v for k, v in options.items() if k not in NOT_REMOTE})
        return self.model.stream(question.prompt, system=question.system, **options)

    def ask(self, question: Question) -> str:
        """One reply."""
        return "".join(self.stream(question)).strip()

    def ask_many(
        self,
        questions: Sequence[Question],
        on_reply: Callable[[int, str], None] | None = None,
    ) -> list[str]:
        """A reply for each question, made together; on_reply hears of each as it is done."""
        replies = [""] * len(questions)
        together = self.in_turns if self.local is not None else self.in_threads
        for i, reply in together(questions):
            replies[i] = reply.strip()
            if on_reply is not None:
                on_reply(i, replies[i])
        return replies

    def in_turns(self, questions: Sequence[Question]) -> Iterator[tuple[int, str]]:
        """Replies as they end. The engine serves all open streams by one step, so reading them in
        turns runs them as one batch; as many are open as it runs at a time.
        """
        engine = getattr(self.model, "engine", None)
        room = engine.scheduler.max_num_seqs if engine is not None else NUM_CONNECTIONS
        waiting = deque(enumerate(questions))
        running: deque[tuple[int, Iterator[str], list[str]]] = deque()
        try:
            while waiting or running:
                while waiting and len(running) < room:
                    i, question = waiting.popleft()
                    running.append((i, self.stream(question), []))
                i, stream, pieces = running.popleft()
                piece = next(stream, None)
                if piece is None:
                    yield i, "".join(pieces)
                else:
                    pieces.append(piece)
                    running.append((i, stream, pieces))
        finally:
            for _, stream, _ in running:
                if hasattr(stream, "close"):
                    stream.close()

    def in_threads(self, questions: Sequence[Question]) -> Iterator[tuple[int, str]]:
        """Replies in order, over several connections at a time."""
        with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
            try:
                yield from enumerate(pool.map(self.ask, questions))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

"""From messages to ids and back: what every chat format has in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from chatglm.messages import Message, Tool
from chatglm.prompt import Prompt
from chatglm.tokenizer.base import Tokenizer

BLANK = re.compile(r"\[(?:MASK|sMASK|gMASK)\]")


@dataclass(frozen=True)
class Segment:
    """A special token by its name, or a text; `is_learnt` where the model has to produce it."""

    text: str
    is_special: bool = False
    is_learnt: bool = False


def special(name: str, *, learnt: bool = False) -> Segment:
    """A segment that is one special token."""
    return Segment(name, is_special=True, is_learnt=learnt)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Ids of a conversation, and which of them the model has to produce."""

    tokens: list[int]
    loss: list[bool]


class Template(ABC):
    """The chat format of a generation.

    before_text, after_text: ids that the official tokenizer object puts around a plain text.
    end_ids: ids that end a reply. blank_end_ids: ids that end what fills a blank.
    """

    is_chat = True
    sop = "<sop>"
    gmask = "[gMASK]"
    ends: tuple[str, ...] = ()
    blank_ends: tuple[str, ...] = ("<eop>",)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @abstractmethod
    def segments(
        self, messages: Sequence[Message], *, thinking: bool | None, reply: bool
    ) -> Iterator[Segment]:
        """The conversation in this format; `reply` asks for the next turn, else the last turn is
        closed.
        """

    @property
    def before_text(self) -> list[int]:
        """Ids in front of a plain text."""
        return self.ids_of([self.gmask, self.sop])

    @property
    def after_text(self) -> list[int]:
        """Ids behind a plain text."""
        return []

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a reply."""
        return frozenset(self.ids_of(name for name in self.ends if name in self.tokenizer.special))

    @property
    def blank_end_ids(self) -> frozenset[int]:
        """Ids that end what fills a blank."""
        known = [name for name in self.blank_ends if name in self.tokenizer.special]
        return frozenset(self.ids_of(known)) | self.end_ids

    @property
    def mask_ids(self) -> list[int]:
        """Ids that may be a hole, those first that are preferred; some vocabularies lack some."""
        names = (self.gmask, "[MASK]", "[sMASK]")
        return self.ids_of(name for name in names if name in self.tokenizer.special)

    def ids_of(self, names: Iterable[str]) -> list[int]:
        """Ids of special tokens."""
        return [self.tokenizer.special[name] for name in names]

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: bool | None = None,
        reply: bool = True,
    ) -> Rendered:
        """A conversation as ids and loss mask.

        reply: end where the model is to answer; otherwise the conversation is whole, for training:
            loss is True on what the model has to produce, its end token included. thinking: None
            is the model's default.
        """
        tokens: list[int] = []
        loss: list[bool] = []
        for segment in self.segments(with_tools(messages, tools), thinking=thinking, reply=reply):
            if segment.is_special:
                ids = [self.tokenizer.special[segment.text]]
            else:
                ids = self.tokenizer.encode(segment.text)
            tokens += ids
            loss += [segment.is_learnt] * len(ids)
        return Rendered(tokens=tokens, loss=loss)

    def text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: bool | None = None,
        reply: bool = True,
    ) -> str:
        """The conversation as the text that its special tokens and segments spell."""
        parts = self.segments(with_tools(messages, tools), thinking=thinking, reply=reply)
        return "".join(part.text for part in parts)

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: bool | None = None,
    ) -> Prompt:
        """The conversation as a prompt for the next reply."""
        if not messages:
            raise ValueError("the conversation is empty; give at least one message")
        return self.as_prompt(self.render(messages, tools=tools, thinking=thinking).tokens)

    def as_prompt(self, tokens: Sequence[int]) -> Prompt:
        """Ids as a prompt; formats of prefix models mark context and hole."""
        return Prompt(tokens=tuple(tokens))

    def continuation(self, text: str) -> Prompt:
        """A text that is simply continued."""
        return self.as_prompt(self.tokenizer.wrap(self.tokenizer.encode(text)))

    def first_blank(self, text: str) -> tuple[int, int] | None:
        """Where the first `[MASK]`, `[sMASK]` or `[gMASK]` stands in a text; None where there is
        none.
        """
        found = BLANK.search(text)
        return None if found is None else found.span()

    def blank(self, text: str) -> Prompt:
        """A text with blanks as a prompt whose reply fills the first of them."""
        return self.as_blank(text, self.encode_blanks(text), [self.tokenizer.special[self.sop]])

    def encode_blanks(self, text: str) -> list[int]:
        """Ids of a text whose blanks are the special ids."""
        tokens: list[int] = []
        start = 0
        for found in BLANK.finditer(text):
            if found[0] not in self.tokenizer.special:
                raise ValueError(
                    f"this model has no {found[0]}; it has "
                    + (", ".join(n for n in self.tokenizer.special if "MASK" in n) or "no blanks")
                )
            tokens += self.encode_part(text[start : found.start()], first=start == 0)
            tokens.append(self.tokenizer.special[found[0]])
            start = found.end()
        if not start:
            raise ValueError("the text has no blank; mark one by [MASK]")
        return tokens + self.encode_part(text[start:], first=False)

    def encode_part(self, text: str, *, first: bool) -> list[int]:
        """Ids of a part of a text between blanks."""
        return self.tokenizer.encode(text) if text else []

    def as_blank(self, text: str, tokens: list[int], start: list[int]) -> Prompt:
        """A text's ids with what starts the filling of the first blank behind them."""
        masks = self.mask_ids
        hole = next(i for i, token in enumerate(tokens) if token in masks)
        return Prompt(tokens=(*tokens, *start), prefix=len(tokens), hole=hole)

    def parse_text(self, text: str) -> Message:
        """A reply's text as a message: content, reasoning and tool calls."""
        return Message(role="assistant", content=self.polish(text))

    def polish(self, text: str) -> str:
        """A reply's text as the official code shows it."""
        return text.strip()


def with_tools(messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[Message]:
    """The conversation with the tools on its system turn, which is added where there is none."""
    turns = list(messages)
    if not tools:
        return turns
    if turns and turns[0].role == "system":
        first = turns[0]
        turns[0] = Message(role="system", content=first.content, tools=tuple(tools))
    else:
        turns.insert(0, Message(role="system", tools=tuple(tools)))
    return turns


class PrefixTemplate(Template):
    """What the formats of prefix-LM generations share: the context ends before `<sop>`, the blank
    is its hole.
    """

    def as_prompt(self, tokens: Sequence[int]) -> Prompt:
        sop = self.tokenizer.special[self.sop]
        prefix = len(tokens) - 1 - list(reversed(tokens)).index(sop)
        masks = self.mask_ids
        hole = next((tokens.index(mask) for mask in masks if mask in tokens[:prefix]), None)
        return Prompt(tokens=tuple(tokens), prefix=prefix, hole=hole)

"""A record: a document or a conversation, whatever shape it was kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chatglm.messages import Message


class BadRecord(ValueError):
    """A record that cannot be used: its file, line and reason."""


Kind = Literal[
    "text", "messages", "conversations", "sharegpt", "alpaca", "columns", "preference", "labelled"
]
Row = Mapping[str, object]

NAMES: dict[str, str] = {
    "text": "plain text",
    "messages": "OpenAI messages",
    "conversations": "ChatGLM3 conversations",
    "sharegpt": "ShareGPT conversations",
    "alpaca": "Alpaca instructions",
    "columns": "question and answer columns",
    "preference": "preference pairs",
    "labelled": "answers with a label",
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """A document (`text`), or a conversation (`messages`) with what is special about it.

    unlearnt: indices of assistant turns whose words are not learnt. chosen, rejected: two ways to
    go on after `messages`. label: whether the last turn is a wanted one.
    """

    kind: Kind
    text: str = ""
    messages: tuple[Message, ...] = ()
    unlearnt: frozenset[int] = frozenset()
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    where: str = ""

"""What was said so far, in the forms that people of this family pass it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chatglm.messages import Message

History = Sequence[tuple[str, str] | Mapping[str, object] | Message]
"""Pairs (query, reply), as in ChatGLM-6B and 2, or messages, as in ChatGLM3 and later."""


def conversation(query: str, history: History | None, system: str | None) -> list[Message]:
    """System prompt, history and query as messages."""
    first = [Message(role="system", content=system)] if system else []
    return [*first, *as_messages(history or []), Message(role="user", content=checked(query))]


def as_messages(history: History) -> list[Message]:
    """Pairs, mappings and messages as messages."""
    messages = []
    for turn in history:
        if isinstance(turn, Message):
            messages.append(turn)
        elif isinstance(turn, Mapping):
            messages.append(Message.from_dict(turn))
        else:
            query, reply = turn
            messages.append(Message(role="user", content=query))
            messages.append(Message(role="assistant", content=reply))
    return messages


def with_turn(history: History | None, query: str, reply: str) -> list[object]:
    """The history with one more turn, in the form that it came in; pairs where it was empty."""
    past = list(history or [])
    if not past or isinstance(past[0], tuple | list):
        return [*past, (query, reply)]
    asked = {"role": "user", "content": query}
    return [*past, asked, {"role": "assistant", "content": reply}]


def checked(text: str) -> str:
    """The text, if there is any."""
    if not text.strip():
        raise ValueError("the prompt is empty; give some text")
    return text

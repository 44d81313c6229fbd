"""Questions and answers kept in columns, Alpaca's among them."""

from __future__ import annotations

from dataclasses import dataclass

from chatglm.data.kinds.record import Record, Row
from chatglm.data.kinds.turns import decoded, offered, words
from chatglm.messages import Message, text_of


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns of question, answer and earlier rounds."""

    prompt: str
    response: str
    history: str = "history"


# Question and answer, in the order in which they are looked for.
_PAIRS = (
    ("content", "summary"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("query", "response"),
    ("question", "answer"),
    ("query", "answer"),
    ("question", "response"),
    ("input", "output"),
    ("input", "target"),
    ("source", "target"),
)


def columns_of(row: Row) -> Columns | None:
    """The usual columns of question and answer that a row has."""
    for prompt, response in _PAIRS:
        if prompt in row and response in row:
            return Columns(prompt=prompt, response=response)
    return None


def read_alpaca(row: Row) -> Record:
    """Alpaca's: instruction, input, output, with `system` and `history` of pairs."""
    question = instructed(row, "instruction")
    return Record(kind="alpaca", messages=asked(row, question, words(row, "output"), "history"))


def instructed(row: Row, key: str) -> str:
    """A question and what it is about, of which either may be empty."""
    return "\n".join(filter(None, (words(row, key), words(row, "input", needed=False))))


def read_columns(row: Row, columns: Columns | None) -> Record:
    """A question and its answer, from two columns."""
    assert columns is not None
    for name in (columns.prompt, columns.response):
        if name not in row:
            raise ValueError(f"no column {name!r}; found {', '.join(map(str, row))}")
    question, answer = words(row, columns.prompt), words(row, columns.response)
    return Record(kind="columns", messages=asked(row, question, answer, columns.history))


def asked(row: Row, question: str, answer: str, history: str) -> tuple[Message, ...]:
    """System turn, earlier rounds, question and answer."""
    messages: list[Message] = []
    rounds = decoded(row.get(history)) or []
    if not isinstance(rounds, list):
        raise ValueError(f"{history!r} must be a list of pairs, got {type(rounds).__name__}")
    for number, pair in enumerate(rounds, start=1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"{history!r} item {number} must be a pair [question, answer]")
        messages += [
            Message(role="user", content=text_of(pair[0])),
            Message(role="assistant", content=text_of(pair[1])),
        ]
    messages += [
        Message(role="user", content=question),
        Message(role="assistant", content=answer),
    ]
    return tuple(offered(row, messages))

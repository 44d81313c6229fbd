"""What a record is, told from its keys: the shapes in which people of this field keep examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from chatglm.messages import Message, Role, Tool, ToolCall, read_tool, text_of


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
_SPEAKERS: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "system": "system",
    "observation": "observation", "tool": "observation", "function_response": "observation",
}  # fmt: skip
_EXPECTED = (
    '{"text": "…"}, {"messages": […]}, {"conversations": […]}, {"instruction": "…", "output": "…"} '
    'or {"prompt": "…", "response": "…"}, see docs/data.md'
)


def kind_of(row: Row, columns: Columns | None = None) -> Kind | None:
    """The kind that a row's keys say; None where they say none."""
    turns = row.get("conversations", row.get("conversation"))
    if "rejected" in row or "rejected_response" in row:
        return "preference"
    if isinstance(row.get("kto_tag", row.get("label")), bool):
        return "labelled"
    if columns is not None:
        return "columns"
    if "messages" in row:
        return "messages"
    if isinstance(turns, list):
        shapes = {("from" in t, "role" in t) for t in turns if isinstance(t, Mapping)}
        return "conversations" if shapes == {(False, True)} else "sharegpt"
    if "instruction" in row:
        return "alpaca"
    if isinstance(row.get("text"), str):
        return "text"
    return "columns" if columns_of(row) else None


def columns_of(row: Row) -> Columns | None:
    """The usual columns of question and answer that a row has."""
    for prompt, response in _PAIRS:
        if prompt in row and response in row:
            return Columns(prompt=prompt, response=response)
    return None


def as_record(data: object, where: str, columns: Columns | None = None) -> Record:
    """A record from one object of a file; a ValueError says where it is and what is wrong."""
    if not isinstance(data, Mapping):
        raise BadRecord(f"{where}: expected an object, got {type(data).__name__}")
    kind = kind_of(data, columns)
    if kind is None:
        raise BadRecord(
            f"{where}: 'text' and 'messages' are missing; found {', '.join(map(str, data)) or '{}'}"
            f"; expected {_EXPECTED}"
        )
    try:
        if kind == "columns":
            return replace(read_columns(data, columns or columns_of(data)), where=where)
        return replace(_READERS[kind](data), where=where)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadRecord(f"{where}: {error}") from error


def words(row: Row, key: str, *, needed: bool = True) -> str:
    """The string under a key."""
    value = row.get(key)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        got = "nothing" if value is None else type(value).__name__
        raise ValueError(f"{key!r} must be a string, got {got}")
    return value


def turns_of(row: Row, *keys: str) -> Sequence[Row]:
    """The list of objects under the first key that is there."""
    for key in keys:
        if key in row:
            turns = row[key]
            if not isinstance(turns, list) or not turns:
                raise ValueError(f"{key!r} must be a list of turns and not empty")
            for number, turn in enumerate(turns, start=1):
                if not isinstance(turn, Mapping):
                    raise ValueError(f"turn {number} must be an object, got {type(turn).__name__}")
            return turns
    raise ValueError(f"{keys[0]!r} is missing")


def decoded(value: object) -> object:
    """A JSON value that may come as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON inside the text ({error})") from error


def tools_of(row: Row) -> tuple[Tool, ...]:
    """The tools that a row offers, in OpenAI's shape."""
    listed = decoded(row.get("tools", row.get("functions")))
    if listed is None:
        return ()
    if not isinstance(listed, list):
        raise ValueError(f"'tools' must be a list, got {type(listed).__name__}")
    tools = (read_tool(tool) for tool in listed)
    return tuple(
        {"type": "function", "function": tool} if "name" in tool and "type" not in tool else tool
        for tool in tools
    )


def offered(row: Row, messages: list[Message]) -> list[Message]:
    """The conversation with the row's system text and tools on its first turn."""
    system, tools = words(row, "system", needed=False), tools_of(row)
    if messages and messages[0].role == "system":
        first = messages.pop(0)
        system, tools = first.content or system, (*first.tools, *tools)
    if system or tools:
        messages.insert(0, Message(role="system", content=system, tools=tools))
    return messages


def switched_off(turns: Sequence[Row], messages: Sequence[Message]) -> frozenset[int]:
    """Turns whose `loss` (or OpenAI's `weight`) says that they are not learnt."""
    shift = len(messages) - len(turns)
    off = set()
    for number, turn in enumerate(turns):
        switch = turn.get("loss", turn.get("weight", True))
        if not isinstance(switch, bool | int | float):
            raise ValueError(f"turn {number + 1}: 'loss' must be true or false, got {switch!r}")
        if not switch:
            off.add(number + shift)
    return frozenset(off)


def read_text(row: Row) -> Record:
    """A document."""
    return Record(kind="text", text=words(row, "text"))


def read_messages(row: Row) -> Record:
    """OpenAI's messages, with `tools`."""
    turns = turns_of(row, "messages")
    messages = offered(row, [Message.from_dict(turn) for turn in turns])
    return Record(kind="messages", messages=tuple(messages), unlearnt=switched_off(turns, messages))


def read_conversations(row: Row) -> Record:
    """ChatGLM3's and GLM-4's own: roles, `loss`, and a `tool` turn, a call with its result."""
    messages: list[Message] = []
    off = set()
    for number, turn in enumerate(turns_of(row, "conversations", "conversation"), start=1):
        start = len(messages)
        if turn.get("role") == "tool" and "parameters" in turn:
            call = ToolCall(name=words(turn, "name"), arguments=text_of(turn["parameters"]) or "{}")
            messages.append(Message(role="assistant", tool_calls=(call,), metadata=call.name))
            told = text_of(turn.get("observation"))
            messages.append(Message(role="observation", content=told))
        else:
            messages.append(Message.from_dict(turn))
        if not isinstance(turn.get("loss", True), bool):
            raise ValueError(f"turn {number}: 'loss' must be true or false, got {turn['loss']!r}")
        if not turn.get("loss", True):
            off.add(start)
    count = len(messages)
    messages = offered(row, messages)
    shift = len(messages) - count
    return Record(
        kind="conversations",
        messages=tuple(messages),
        unlearnt=frozenset(index + shift for index in off),
    )


def read_sharegpt(row: Row) -> Record:
    """ShareGPT's: `from` human, gpt, function_call, observation; `value`."""
    turns = turns_of(row, "conversations", "conversation")
    messages = offered(row, [share_turn(turn, number) for number, turn in enumerate(turns, 1)])
    return Record(kind="sharegpt", messages=tuple(messages), unlearnt=switched_off(turns, messages))


def share_turn(turn: Row, number: int) -> Message:
    """One turn of a ShareGPT conversation."""
    speaker = turn.get("from", turn.get("role"))
    value = turn.get("value", turn.get("content"))
    if not isinstance(value, str):
        raise ValueError(f"turn {number}: 'value' must be a string, got {type(value).__name__}")
    if speaker == "function_call":
        asked = decoded(value)
        calls = asked if isinstance(asked, list) else [asked]
        return Message.from_dict({"role": "assistant", "tool_calls": calls})
    if not isinstance(speaker, str) or speaker not in _SPEAKERS:
        known = ", ".join([*_SPEAKERS, "function_call"])
        raise ValueError(f"turn {number}: 'from' must be one of {known}, got {speaker!r}")
    return Message(role=_SPEAKERS[speaker], content=value)


def read_alpaca(row: Row) -> Record:
    """Alpaca's: instruction, input, output, with `system` and `history` of pairs."""
    question = words(row, "instruction")
    if given := words(row, "input", needed=False):
        question = f"{question}\n{given}" if question else given
    return Record(kind="alpaca", messages=asked(row, question, words(row, "output"), "history"))


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


def read_preference(row: Row) -> Record:
    """A beginning and two ways to go on: the names of TRL, LLaMA-Factory and ms-swift."""
    if "rejected_response" in row:
        before = list(read_messages(row).messages)
        chosen: tuple[Message, ...] = (before.pop(),)
        rejected = answer_of(row["rejected_response"], "rejected_response")
    else:
        if "chosen" not in row:
            raise ValueError("'chosen' is missing beside 'rejected'")
        before = beginning(row)
        chosen, rejected = (
            answer_of(row["chosen"], "chosen"),
            answer_of(row["rejected"], "rejected"),
        )
    if not before:  # TRL's form with the question inside both answers
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        before, chosen, rejected = (
            offered(row, list(chosen[:shared])),
            chosen[shared:],
            rejected[shared:],
        )
    if not before or not chosen or not rejected:
        raise ValueError("a preference needs a question and two different answers")
    return Record(kind="preference", messages=tuple(before), chosen=chosen, rejected=rejected)


def beginning(row: Row) -> list[Message]:
    """What both answers of a preference follow."""
    for key, read in (("messages", read_messages), ("conversations", read_any_conversation)):
        if key in row:
            return list(read(row).messages)
    for key in ("prompt", "instruction", "question", "query"):
        value = row.get(key)
        if isinstance(value, list):
            return list(read_messages({**row, "messages": value}).messages)
        if value is not None:
            question = words(row, key)
            if given := words(row, "input", needed=False):
                question = f"{question}\n{given}"
            return list(asked(row, question, "", "history"))[:-1]
    return []


def read_any_conversation(row: Row) -> Record:
    """ShareGPT's or ChatGLM3's, whichever it is."""
    return read_conversations(row) if kind_of(row) == "conversations" else read_sharegpt(row)


def answer_of(value: object, key: str) -> tuple[Message, ...]:
    """An answer that may be a string, a turn or a list of turns."""
    if isinstance(value, str):
        return (Message(role="assistant", content=value),)
    turns = value if isinstance(value, list) else [value]
    if not turns or not all(isinstance(turn, Mapping) for turn in turns):
        raise ValueError(f"{key!r} must be a string, a turn or a list of turns")
    return tuple(
        share_turn(turn, number) if "from" in turn else Message.from_dict(turn)
        for number, turn in enumerate(turns, start=1)
    )


def read_labelled(row: Row) -> Record:
    """An answer with a label that says whether it is a wanted one (KTO)."""
    label = row.get("kto_tag", row.get("label"))
    rest = {key: value for key, value in row.items() if key not in ("kto_tag", "label")}
    if isinstance(rest.get("prompt"), list):
        before = list(read_messages({**rest, "messages": rest["prompt"]}).messages)
        messages = (*before, *answer_of(rest.get("completion"), "completion"))
    else:
        messages = as_record(rest, "the example").messages
    if not messages:
        raise ValueError("a label needs a conversation beside it")
    return Record(kind="labelled", messages=messages, label=bool(label))


_READERS: dict[Kind, Callable[[Row], Record]] = {
    "text": read_text,
    "messages": read_messages,
    "conversations": read_conversations,
    "sharegpt": read_sharegpt,
    "alpaca": read_alpaca,
    "preference": read_preference,
    "labelled": read_labelled,
}

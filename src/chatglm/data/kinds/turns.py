"""Conversations kept as lists of turns: OpenAI's messages, ChatGLM3's and ShareGPT's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from chatglm.data.kinds.record import Kind, Record, Row
from chatglm.messages import Message, Role, Tool, ToolCall, read_tool, text_of

_SPEAKERS: dict[str, Role] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "system": "system",
    "observation": "observation", "tool": "observation", "function_response": "observation",
}  # fmt: skip


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


def turn_kind(turns: Sequence[object]) -> Kind:
    """Whose turns stand under `conversations`: ChatGLM's have a role, ShareGPT's a `from`."""
    shapes = {("from" in turn, "role" in turn) for turn in turns if isinstance(turn, Mapping)}
    return "conversations" if shapes == {(False, True)} else "sharegpt"


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

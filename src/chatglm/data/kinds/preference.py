"""Preferences: a beginning and two ways to go on, the better one and the worse one."""

from __future__ import annotations

from collections.abc import Mapping

from chatglm.data.kinds.columns import asked, instructed
from chatglm.data.kinds.record import Record, Row
from chatglm.data.kinds.turns import (
    offered,
    read_conversations,
    read_messages,
    read_sharegpt,
    share_turn,
    turn_kind,
    turns_of,
)
from chatglm.messages import Message


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
        chosen, rejected = (answer_of(row[key], key) for key in ("chosen", "rejected"))
    if not before:  # TRL's form with the question inside both answers
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        before = offered(row, list(chosen[:shared]))
        chosen, rejected = chosen[shared:], rejected[shared:]
    if not before or not chosen or not rejected:
        raise ValueError("a preference needs a question and two different answers")
    return Record(kind="preference", messages=tuple(before), chosen=chosen, rejected=rejected)


def beginning(row: Row) -> list[Message]:
    """What both answers of a preference follow."""
    if "messages" in row:
        return list(read_messages(row).messages)
    if "conversations" in row:
        is_ours = turn_kind(turns_of(row, "conversations")) == "conversations"
        return list((read_conversations if is_ours else read_sharegpt)(row).messages)
    for key in ("prompt", "instruction", "question", "query"):
        value = row.get(key)
        if isinstance(value, list):
            return list(read_messages({**row, "messages": value}).messages)
        if value is not None:
            return list(asked(row, instructed(row, key), "", "history"))[:-1]
    return []


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

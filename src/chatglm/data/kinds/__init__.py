"""What a record is, told from its keys: the shapes in which people of this field keep examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from chatglm.data.kinds.columns import Columns, columns_of, read_alpaca, read_columns
from chatglm.data.kinds.preference import answer_of, read_preference
from chatglm.data.kinds.record import NAMES, BadRecord, Kind, Record, Row
from chatglm.data.kinds.turns import (
    read_conversations,
    read_messages,
    read_sharegpt,
    turn_kind,
    words,
)

__all__ = ["NAMES", "BadRecord", "Columns", "Record", "as_record"]

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
        return turn_kind(turns)
    if "instruction" in row:
        return "alpaca"
    if isinstance(row.get("text"), str):
        return "text"
    return "columns" if columns_of(row) else None


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


def read_text(row: Row) -> Record:
    """A document."""
    return Record(kind="text", text=words(row, "text"))


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

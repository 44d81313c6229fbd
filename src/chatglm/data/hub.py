"""Data sets by the id that they have on the hub, through the `datasets` library."""

from __future__ import annotations

import re
from collections.abc import Iterator

from chatglm.data.kinds import Columns, Record, as_record
from chatglm.data.records import Bad, drop_missing
from chatglm.errors import missing_extra

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@\w+)?")
FILE_SUFFIX = re.compile(r"\.(jsonl?|csv|tsv|parquet|txt|md|gz|zst)$")


def is_hub_name(text: str) -> bool:
    """Whether a text is `owner/name`, or `owner/name@split`, and no file's name."""
    return bool(_NAME.fullmatch(text)) and not FILE_SUFFIX.search(text)


def hub_records(name: str, columns: Columns | None, bad: Bad | None) -> Iterator[Record]:
    """The records of a data set's split, `train` unless the name says another."""
    try:
        import datasets
    except ImportError as error:
        raise missing_extra(
            f"there is no file {name}, and to look for it on the hub datasets", "train"
        ) from error
    owner, _, part = name.partition("@")
    for number, row in enumerate(datasets.load_dataset(owner, split=part or "train"), start=1):
        where = f"{name} row {number}"
        try:
            yield as_record(drop_missing(dict(row)), where, columns)
        except ValueError as error:
            if bad is None:
                raise
            bad(str(error))

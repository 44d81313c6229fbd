"""What a file of examples is like before training: counts, lengths, doubtful records."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from chatglm.data.examples import Collection, lengths_of
from chatglm.data.kinds import Record

# UTF-8 that was read as Latin-1 or as GBK, and characters that stand for lost ones.
_MOJIBAKE = re.compile(
    "\ufffd|锟斤拷|烫烫烫|屯屯屯|[ÃÂäåæçèé][\u0080-\u00bf]|(?:[鐨勬槸涓浜轰簡鏈夊湪]{3,})|[\ue000-\uf8ff]{2,}"
)
_ENDS = tuple("。！？…”』）」》.!?\"')]}>~～；;：:*`|")
# An answer of this many characters is expected to end with a mark, where most others do.
_LONG = 60
SHOWN = 5


@dataclass(kw_only=True)
class Report:
    """What `chatglm data check` says.

    Lists hold places (file and line) of the first few; counts are of all.
    """

    records: int = 0
    examples: int = 0
    tokens: int = 0
    targets: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    histogram: list[tuple[int, int, int]] = field(default_factory=list)
    longer_than_cutoff: int = 0
    duplicates: list[str] = field(default_factory=list)
    num_duplicates: int = 0
    contradictions: list[str] = field(default_factory=list)
    num_contradictions: int = 0
    mojibake: list[str] = field(default_factory=list)
    num_mojibake: int = 0
    unfinished: list[str] = field(default_factory=list)
    num_unfinished: int = 0
    bad: list[str] = field(default_factory=list)
    num_bad: int = 0

    def as_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


def examine(found: Collection, cutoff: int) -> Report:
    """The report on a source that was read without a cutoff."""
    lengths = lengths_of(found.items)
    report = Report(
        records=found.num_records,
        examples=len(lengths),
        tokens=found.num_tokens,
        targets=found.num_targets,
        kinds=dict(found.kinds),
        lengths=summary(lengths),
        histogram=histogram(lengths),
        longer_than_cutoff=sum(length > cutoff for length in lengths),
        bad=found.bad[:SHOWN],
        num_bad=len(found.bad),
    )
    report.duplicates, report.num_duplicates = repeated(found.prompts)
    report.contradictions, report.num_contradictions = contradicted(found.prompts)
    broken = [r.where for r in found.prompts if _MOJIBAKE.search(words_of(r))]
    report.mojibake, report.num_mojibake = broken[:SHOWN], len(broken)
    report.unfinished, report.num_unfinished = unfinished(found.prompts)
    return report


def summary(lengths: Sequence[int]) -> dict[str, int]:
    """Shortest, middle, long and longest."""
    parts = np.percentile(lengths, [0, 50, 90, 99, 100]).round().astype(int).tolist()
    return dict(zip(("min", "median", "p90", "p99", "max"), parts, strict=True))


def histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(from, below, count) in bins that double: 1 to 15, 16 to 31, 32 to 63 tokens …"""
    bins = Counter(max(length.bit_length(), 5) for length in lengths)
    first, last = min(bins), max(bins)
    return [(0 if b == 5 else 1 << (b - 1), 1 << b, bins[b]) for b in range(first, last + 1)]


def words_of(record: Record) -> str:
    """All text of a record."""
    turns = (*record.messages, *record.chosen, *record.rejected)
    return record.text or "\n".join(message.content for message in turns)


def key_of(text: str) -> bytes:
    """What two texts share that differ in width, case and blanks only."""
    plain = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def repeated(records: Sequence[Record]) -> tuple[list[str], int]:
    """Records that say what an earlier one says."""
    first: dict[bytes, str] = {}
    found = []
    for record in records:
        key = key_of(words_of(record))
        if key in first:
            found.append(f"{record.where} repeats {first[key]}")
        else:
            first[key] = record.where
    return found[:SHOWN], len(found)


def contradicted(records: Sequence[Record]) -> tuple[list[str], int]:
    """Conversations that answer the very question of an earlier one in another way."""
    answers: dict[bytes, tuple[str, str]] = {}
    found = []
    for record in records:
        if not record.messages or record.chosen or record.label is not None:
            continue
        *before, last = record.messages
        key = key_of("\0".join(f"{m.role}\1{m.content}" for m in before))
        earlier = answers.setdefault(key, (last.content, record.where))
        if key_of(earlier[0]) != key_of(last.content):
            found.append(f"{record.where} answers the question of {earlier[1]} in another way")
    return found[:SHOWN], len(found)


def unfinished(records: Sequence[Record]) -> tuple[list[str], int]:
    """Long answers that end without a mark, where most of the file's end with one."""
    ends = [
        (record.where, record.messages[-1].content.rstrip())
        for record in records
        if record.messages and not record.messages[-1].tool_calls
    ]
    long = [(where, text) for where, text in ends if len(text) >= _LONG]
    found = [where for where, text in long if not text.endswith(_ENDS)]
    if len(found) * 2 > len(long):  # a style of the file, such as verses
        return [], 0
    return found[:SHOWN], len(found)

"""The files of a fine-tuning run as examples: everything counted, nothing dropped in silence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path

import numpy as np

from chatglm.data.chat import examples_of, pair_of
from chatglm.data.example import NO_LOSS, Example
from chatglm.data.hub import hub_records, is_hub_name
from chatglm.data.kinds import NAMES, BadRecord, Columns, Record
from chatglm.data.pack import cut
from chatglm.data.records import Bad, find_files, read_records
from chatglm.tokenizer import Tokenizer

GENERAL = files("chatglm") / "assets" / "replay" / "general.jsonl.gz"
"""Conversations of many kinds that come with the package."""
_SPEC = re.compile(r"(?P<path>.+?)(?:#(?P<count>\d+))?(?::(?P<weight>\d+(?:\.\d+)?))?")
Item = tuple[Example, ...]
"""What stays together in a batch: one example, or the chosen and the rejected of a pair."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A source as it is written: `path`, `path#500` (its first 500 records), `path:0.7` (its
    weight).
    """

    path: str
    count: int | None = None
    weight: float | None = None


def read_spec(text: str) -> Spec:
    """A source from `path[#count][:weight]`."""
    if Path(text).exists():
        return Spec(path=text)
    found = _SPEC.fullmatch(text)
    assert found is not None
    count, weight = found["count"], found["weight"]
    return Spec(
        path=found["path"],
        count=int(count) if count else None,
        weight=float(weight) if weight else None,
    )


@dataclass(kw_only=True)
class Collection:
    """Examples of one source, and what was done to its records.

    labels: of each item, where the records have them (KTO). records: of each item, the number of
    the record that it comes from.
    """

    name: str
    weight: float | None = None
    items: list[Item] = field(default_factory=list)
    labels: list[bool] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    prompts: list[Record] = field(default_factory=list)
    record_of: list[int] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    num_truncated: int = 0
    num_records: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of all examples."""
        return sum(len(example) for item in self.items for example in item)

    @property
    def num_targets(self) -> int:
        """Tokens that are learnt."""
        return sum(int((e.labels != NO_LOSS).sum()) for item in self.items for e in item)

    def described(self) -> str:
        """One line on what was read."""
        kinds = ", ".join(f"{count:,} {NAMES[kind]}" for kind, count in self.kinds.items())
        parts = [f"{self.name}: {kinds or 'nothing'}", f"{len(self.items):,} examples"]
        if self.num_truncated:
            parts.append(f"{self.num_truncated:,} truncated")
        if self.bad:
            parts.append(f"{len(self.bad):,} left out")
        return "; ".join(parts)


def collect(
    source: str,
    tokenizer: Tokenizer,
    *,
    cutoff: int,
    truncate: bool = False,
    skip_bad: bool = False,
    columns: Columns | None = None,
    wants_pairs: bool = False,
) -> Collection:
    """The examples of a source.

    cutoff: the most tokens of an example; a longer conversation is bad unless `truncate` cuts its
        end off, a longer text is cut into several. skip_bad: list bad records instead of raising
        the first. wants_pairs: the objective compares two answers.
    """
    spec = read_spec(source)
    found = Collection(name=spec.path, weight=spec.weight)
    bad = found.bad.append if skip_bad else None
    for record in islice(records_of(spec, columns, bad), spec.count):
        found.num_records += 1
        try:
            items, num_cut = items_of(record, tokenizer, cutoff, truncate, wants_pairs)
        except ValueError as error:
            if bad is None:
                raise BadRecord(f"{record.where}: {error}") from error
            bad(f"{record.where}: {error}")
            continue
        found.kinds[record.kind] += 1
        found.num_truncated += num_cut
        found.items += items
        found.record_of += [len(found.prompts)] * len(items)
        found.prompts.append(record)
        if record.label is not None:
            found.labels += [record.label] * len(items)
    if not found.items:
        why = f": {found.bad[0]}" if found.bad else ""
        raise BadRecord(f"{spec.path} holds no example that can be learnt{why}")
    return found


def records_of(spec: Spec, columns: Columns | None, bad: Bad | None) -> Iterator[Record]:
    """The records of a file, of a directory's files, or of a data set on the hub."""
    if not Path(spec.path).exists() and is_hub_name(spec.path):
        yield from hub_records(spec.path, columns, bad)
        return
    for path in find_files([spec.path]):
        yield from read_records(path, columns=columns, bad=bad)


def holds_pairs(source: str, columns: Columns | None = None) -> bool:
    """Whether the first readable record of a source is a preference."""
    first = next(records_of(read_spec(source), columns, lambda _: None), None)
    return first is not None and first.kind == "preference"


def items_of(
    record: Record, tokenizer: Tokenizer, cutoff: int, truncate: bool, wants_pairs: bool
) -> tuple[list[Item], int]:
    """The items of one record, and how many examples were cut to fit."""
    if (record.kind == "preference") != wants_pairs:
        raise ValueError(
            "it has no 'chosen' and 'rejected', which this objective compares"
            if wants_pairs
            else "it is a preference pair; --objective dpo learns from those"
        )
    raw: list[Item] = (
        [pair_of(record, tokenizer)]
        if wants_pairs
        else [(example,) for example in examples_of(record, tokenizer)]
    )
    items: list[Item] = []
    num_cut = 0
    for item in raw:
        if all(len(example) <= cutoff for example in item):
            items.append(item)
        elif len(item) == 1 and item[0].may_be_cut:
            items += [(piece,) for piece in pieces(item[0], cutoff)]
        elif truncate:
            items.append(tuple(shortened(example, cutoff) for example in item))
            num_cut += 1
        else:
            length = max(len(example) for example in item)
            raise ValueError(
                f"{length:,} tokens, and the cutoff is {cutoff:,}; raise --cutoff-len, cut it by "
                "--truncate or leave it out by --skip-bad"
            )
    return items, num_cut


def pieces(example: Example, cutoff: int) -> Iterator[Example]:
    """A text in pieces of at most `cutoff` tokens; the last label of each is the next one's first
    token, so that none is lost.
    """
    for start in range(0, len(example), cutoff):
        piece = cut(example, start, min(start + cutoff, len(example)))
        if (piece.labels != NO_LOSS).any():
            yield piece


def shortened(example: Example, cutoff: int) -> Example:
    """The first `cutoff` tokens; a ValueError where nothing of them is learnt."""
    short = cut(example, 0, cutoff)
    if not (short.labels != NO_LOSS).any():
        raise ValueError(
            f"the first {cutoff:,} of {len(example):,} tokens hold nothing to learn; raise "
            "--cutoff-len or leave it out by --skip-bad"
        )
    return short


def split(count: int, size: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices for training and for validation, in their order; `size` is a share below 1 or a
    number of examples.
    """
    wanted = round(count * size) if size < 1 else int(size)
    if size > 0:
        wanted = max(wanted, 1)
    if wanted >= count:
        raise ValueError(
            f"val-size {size:g} takes {wanted} of {count} examples and leaves none to learn from"
        )
    chosen = set(np.random.default_rng((seed, 77)).permutation(count)[:wanted].tolist())
    return [i for i in range(count) if i not in chosen], sorted(chosen)


def lengths_of(items: Iterable[Sequence[Example]]) -> list[int]:
    """Tokens of each example."""
    return [len(example) for item in items for example in item]

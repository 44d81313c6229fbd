"""Preparing a corpus with Ray Data: files are read and tokenized all over the cluster, and come
back in their order, so that the result has the bytes of `chatglm prepare` on one machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from chatglm.cluster.connect import connected
from chatglm.data.prepare import (
    BATCH,
    Counts,
    Document,
    Report,
    Texts,
    dtype_of,
    encoded,
    key_of,
    prepare,
)
from chatglm.data.records import read_records
from chatglm.tokenizer import Tokenizer, load_tokenizer

BLOCK_BYTES = 4 << 20
"""Of what passes from one task to the next; smaller blocks, more tasks at once."""


def prepare_on_cluster(
    inputs: list[str],
    tokenizer: str | Path,
    output: str | Path,
    *,
    validation_fraction: float = 0.005,
    seed: int = 0,
    report: Report = lambda _: None,
) -> Counts:
    """What `chatglm.data.prepare.prepare` does, tokenizing in tasks of a Ray cluster; all machines
    see the inputs and the tokenizer's directory.
    """
    with connected() as ray:
        try:
            return prepare(
                inputs,
                load_tokenizer(tokenizer),
                output,
                validation_fraction=validation_fraction,
                seed=seed,
                report=report,
                source=lambda *given: tokenize_in_tasks(Path(tokenizer).absolute(), *given),
            )
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


def tokenize_in_tasks(
    folder: Path, files: list[Path], tokenizer: Tokenizer, counts: Counts, report: Report
) -> Iterator[Document]:
    """The documents of all files as ids, in the order of the files, duplicates left out."""
    dtype = dtype_of(tokenizer.vocab_size)
    texts = Texts(counts)
    last = None
    for row in rows_of(folder, files):
        if last not in (None, row["path"]):
            report(f"{Path(last).name}: {counts.documents:,} documents so far")
        last = row["path"]
        if not texts.is_fresh(row["key"] or None):
            continue
        texts.check_kind(row["path"], is_chat=row["is_chat"])
        tokens = np.frombuffer(row["tokens"], dtype)
        stops = np.frombuffer(row["stops"], np.int64)
        for start, stop in zip((0, *stops[:-1]), stops, strict=True):
            loss = np.frombuffer(row["loss"], np.uint8)[start:stop] if row["is_chat"] else None
            counts.tokens += int(stop - start)
            yield tokens[start:stop], loss


def rows_of(folder: Path, files: list[Path]) -> Iterator[dict[str, Any]]:
    """A row for each record: its place, its key, and its documents as bytes."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    paths = ray.data.from_items([{"path": str(file.absolute())} for file in files])
    # Half a processor keeps reading apart from tokenizing, so that one file fills many tasks.
    records = paths.map_batches(read_batches, batch_size=1, num_cpus=0.5)
    rows = records.map_batches(
        tokenize_batch, batch_size=BATCH, num_cpus=1, fn_kwargs={"folder": str(folder)}
    )
    yield from rows.iter_rows()


Columns = dict[str, Any]


def read_batches(batch: Columns) -> Iterator[Columns]:
    """The records of a file, some at a time."""
    (path,) = batch["path"]
    records = read_records(Path(path))
    while some := list(islice(records, BATCH)):
        yield {"path": np.array([path] * len(some)), "record": objects(some)}


@cache
def tokenizer_at(folder: str) -> Tokenizer:
    """The tokenizer of a directory, read once by each worker."""
    return load_tokenizer(folder)


def tokenize_batch(batch: Columns, folder: str) -> Columns:
    """Records as their keys and ids."""
    tokenizer = tokenizer_at(folder)
    dtype = dtype_of(tokenizer.vocab_size)
    records = list(batch["record"])
    keys = [key_of(record) for record in records]
    full = [record for record, key in zip(records, keys, strict=True) if key is not None]
    rendered = iter(encoded(full, tokenizer))
    columns: dict[str, list[object]] = {"key": [], "tokens": [], "loss": [], "stops": []}
    for key in keys:
        parts = [] if key is None else next(rendered)
        lengths = [len(tokens) for tokens, _ in parts]
        columns["key"].append(key or b"")
        columns["tokens"].append(b"".join(tokens.astype(dtype).tobytes() for tokens, _ in parts))
        columns["loss"].append(b"".join(b"" if m is None else m.tobytes() for _, m in parts))
        columns["stops"].append(np.cumsum(lengths, dtype=np.int64).tobytes())
    return {
        "path": batch["path"],
        "is_chat": np.array([bool(record.messages) for record in records]),
        **{name: objects(values) for name, values in columns.items()},
    }


def objects(values: list[Any]) -> Any:
    """A column of values as they are."""
    column = np.empty(len(values), object)
    column[:] = values
    return column

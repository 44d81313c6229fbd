"""A corpus into shards: duplicates out, order shuffled, text tokenized; a kill leaves nothing
half.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatglm.data.chat import conversations
from chatglm.data.kinds import Record
from chatglm.data.records import find_files, read_records
from chatglm.data.shards import INDEX
from chatglm.tokenizer import Tokenizer
from chatglm.tokenizer.template import Rendered

BATCH = 1000
Report = Callable[[str], None]


@dataclass(kw_only=True)
class Counts:
    """What was read and what was left out."""

    documents: int = 0
    duplicates: int = 0
    empty: int = 0
    tokens: int = 0


Tokens = NDArray[Any]
Document = tuple[Tokens, NDArray[np.uint8] | None]
Source = Callable[[list[Path], Tokenizer, Counts, Report], Iterator[Document]]
"""From files to documents, in an order that the files alone decide."""


def prepare(
    inputs: list[str],
    tokenizer: Tokenizer,
    output: str | Path,
    *,
    validation_fraction: float = 0.005,
    seed: int = 0,
    report: Report = lambda _: None,
    source: Source | None = None,
) -> Counts:
    """Write the records of `inputs` as shards into `output`; text and chat are not mixed in one
    directory.

    Exact duplicates (after Unicode and blank normalization) are left out and counted. The
    directory appears in one step when all is done; a second call on a finished one with the same
    settings does nothing. source: where the documents are tokenized, if not here.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must be at least 0 and below 1, got {validation_fraction}"
        )
    files = find_files(inputs)
    target = Path(output)
    settings = {
        "inputs": [[str(f), f.stat().st_size] for f in files],
        "tokenizer": [hashlib.sha256(f.read_bytes()).hexdigest() for f in tokenizer.files],
        "validation_fraction": validation_fraction,
        "seed": seed,
    }
    if (target / INDEX).is_file():
        index = json.loads((target / INDEX).read_text("utf-8"))
        if index["settings"] == settings:
            report(f"{target} is prepared already")
            return Counts(**index["counts"])
        raise FileExistsError(
            f"{target} holds data of other settings; give another directory or remove it"
        )
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        counts = Counts()
        documents = list((source or tokenize)(files, tokenizer, counts, report))
        if not documents:
            raise ValueError(f"{', '.join(map(str, files[:3]))}: no text in it")
        write_parts(temporary, documents, tokenizer.vocab_size, validation_fraction, seed)
        index = {
            "settings": settings,
            "counts": asdict(counts),
            "dtype": dtype_of(tokenizer.vocab_size).__name__,
            "kind": "text" if documents[0][1] is None else "chat",
        }
        (temporary / INDEX).write_text(json.dumps(index, ensure_ascii=False, indent=1), "utf-8")
        flush_all(temporary)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"{target} could not be written ({error}); free some space or give another directory"
        ) from error
    return counts


def dtype_of(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The narrowest type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


class Texts:
    """Which records are kept: neither empty nor seen before, and all of one kind."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.seen: set[bytes] = set()
        self.is_chat: bool | None = None

    def is_fresh(self, key: bytes | None) -> bool:
        """Whether a record of this key is kept; it is counted. None: an empty one."""
        if key is None:
            self.counts.empty += 1
        elif key in self.seen:
            self.counts.duplicates += 1
        else:
            self.seen.add(key)
            self.counts.documents += 1
            return True
        return False

    def check_kind(self, path: str | Path, *, is_chat: bool) -> None:
        """A ValueError where text and conversations come together."""
        if self.is_chat is None:
            self.is_chat = is_chat
        if is_chat != self.is_chat:
            raise ValueError(
                f"{path} mixes text and conversations; prepare them into two directories"
            )


def tokenize(
    files: list[Path], tokenizer: Tokenizer, counts: Counts, report: Report
) -> Iterator[Document]:
    """The documents of all files as ids, duplicates left out."""
    texts = Texts(counts)
    for path in files:
        records = (record for record in read_records(path) if texts.is_fresh(key_of(record)))
        while batch := list(islice(records, BATCH)):
            for record in batch:
                texts.check_kind(path, is_chat=bool(record.messages))
            for documents in encoded(batch, tokenizer):
                for tokens, loss in documents:
                    counts.tokens += len(tokens)
                    yield tokens, loss
        report(f"{path.name}: {counts.documents:,} documents, {counts.tokens:,} tokens so far")


def encoded(records: list[Record], tokenizer: Tokenizer) -> Iterator[list[Document]]:
    """What each record becomes: ids, and of conversations which of them are learnt."""
    dtype = dtype_of(tokenizer.vocab_size)
    texts = iter(tokenizer.encode_batch([r.text for r in records if not r.messages]))
    for record in records:
        if record.messages:
            yield [
                (np.array(rendered.tokens, dtype), np.array(rendered.loss, np.uint8))
                for rendered in rendered_of(record, tokenizer)
            ]
        else:
            yield [(np.array(next(texts), dtype), None)]


def rendered_of(record: Record, tokenizer: Tokenizer) -> list[Rendered]:
    """A conversation as ids and loss mask; several where only its last reply can be learnt."""
    if record.chosen or record.label is not None:
        raise ValueError(
            f"{record.where}: it compares answers, from which 'chatglm finetune --objective dpo' "
            "learns"
        )
    if record.unlearnt:
        return conversations(record.messages, tokenizer, record.unlearnt)
    return [tokenizer.template.render(record.messages, reply=False)]


def key_of(record: Record) -> bytes | None:
    """What two records that say the same have in common; None for an empty one."""
    text = record.text or "\0".join(f"{m.role}\1{m.content}" for m in record.messages)
    if not text.strip():
        return None
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def write_parts(
    folder: Path, documents: list[Document], vocab_size: int, fraction: float, seed: int
) -> None:
    """Shuffle the documents and write the validation part and the rest."""
    order = np.random.default_rng(seed).permutation(len(documents))
    num_validation = round(len(documents) * fraction)
    parts = {"validation": order[:num_validation], "train": order[num_validation:]}
    for name, indices in parts.items():
        chosen = [documents[i] for i in indices]
        lengths = [len(tokens) for tokens, _ in chosen]
        np.save(folder / f"{name}.offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
        with (folder / f"{name}.tokens.bin").open("wb") as file:
            for tokens, _ in chosen:
                file.write(tokens.astype(tokens.dtype.newbyteorder("<")).tobytes())
        if documents[0][1] is not None:
            with (folder / f"{name}.loss.bin").open("wb") as file:
                for _, loss in chosen:
                    assert loss is not None
                    file.write(loss.tobytes())


def flush_all(folder: Path) -> None:
    """Ask the operating system to put every file of a directory on the disk now."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

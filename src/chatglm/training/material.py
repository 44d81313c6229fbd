"""What a fine-tuning run learns from: examples for training, held-out ones, general ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from chatglm.config import ModelConfig
from chatglm.data.chat import last_example
from chatglm.data.epochs import Epochs, Share, fill_rows, shares_of
from chatglm.data.examples import GENERAL, Collection, Item, collect, shortened, split
from chatglm.data.kinds import Columns, Record
from chatglm.tokenizer import Tokenizer
from chatglm.training.batch import Batch
from chatglm.training.rows import as_batch
from chatglm.training.tuning import TuneConfig

# General examples that are kept apart to see what is forgotten.
_NUM_GENERAL = 48


@dataclass(kw_only=True)
class Material:
    """train, validation, general: items. shares: of the training items in an epoch. extras: of
    every training and validation item, one number for each of its examples, by name.
    """

    train: list[Item] = field(default_factory=list)
    validation: list[Item] = field(default_factory=list)
    general: list[Item] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    collections: list[Collection] = field(default_factory=list)
    questions: list[Record] = field(default_factory=list)
    labels: list[bool] = field(default_factory=list)
    validation_labels: list[bool] = field(default_factory=list)


def gather(config: TuneConfig, tokenizer: Tokenizer, limit: int) -> Material:
    """Read and split the files of a run; limit: the most tokens that the model takes."""
    cutoff = min(config.cutoff_len, limit)
    columns = None
    if config.prompt_column or config.response_column:
        columns = Columns(
            prompt=config.prompt_column or "prompt",
            response=config.response_column or "response",
            history=config.history_column,
        )
    found = [
        collect(
            source,
            tokenizer,
            cutoff=cutoff,
            truncate=config.truncate,
            skip_bad=config.skip_bad,
            columns=columns,
            wants_pairs=config.has_pairs,
        )
        for source in config.data
    ]
    if config.objective == "kto":
        for collection in found:
            pair_with_others(collection, tokenizer, cutoff)
    material = divided(config, found)
    add_general(config, material, tokenizer, cutoff)
    return material


def divided(config: TuneConfig, found: list[Collection]) -> Material:
    """Training and held-out items; a record's examples stay together."""
    total = sum(len(c.prompts) for c in found)
    size = config.val_size
    if size is None:
        size = float(min(round(0.05 * total), 200)) if total >= 20 else 0.0
    kept: list[set[int]] = [set() for _ in found]
    if size:
        _, chosen = split(total, size, config.seed)
        starts = np.cumsum([0, *(len(c.prompts) for c in found)])
        for record in chosen:
            which = int(np.searchsorted(starts, record, side="right")) - 1
            kept[which].add(record - int(starts[which]))
    material = Material(collections=found)
    sizes = []
    for collection, held_out in zip(found, kept, strict=True):
        before = len(material.train)
        for number, item in enumerate(collection.items):
            is_kept = collection.record_of[number] in held_out
            (material.validation if is_kept else material.train).append(item)
            if collection.labels:
                labels = material.validation_labels if is_kept else material.labels
                labels.append(collection.labels[number])
        sizes.append(len(material.train) - before)
        material.questions += [collection.prompts[i] for i in sorted(held_out)]
    if not material.questions:
        material.questions = list(found[0].prompts)
    material.shares = shares_of(sizes, [c.weight for c in found])
    return material


def add_general(config: TuneConfig, material: Material, tokenizer: Tokenizer, cutoff: int) -> None:
    """General conversations: a few held out, and the rest mixed in where replay is asked for."""
    if config.objective != "sft" or not tokenizer.template.is_chat:
        if config.replay:
            raise ValueError(f"replay serves sft of chat models, not {config.objective}")
        return
    source = str(GENERAL) if config.replay in (None, "general") else str(config.replay)
    general = collect(source, tokenizer, cutoff=cutoff, skip_bad=True)
    if config.replay is not None and len(general.items) < 2:
        raise ValueError(f"replay {source} holds {len(general.items)} examples; give at least 2")
    count = min(_NUM_GENERAL, max(len(general.items) // 5, 1))
    rest, held_out = split(len(general.items), count, seed=0)
    material.general = [general.items[i] for i in held_out]
    if config.replay is None:
        return
    material.collections.append(general)
    epoch = sum(share.take for share in material.shares)
    take = round(config.replay_share / (1 - config.replay_share) * epoch)
    share = Share(start=len(material.train), count=len(rest), take=take)
    material.train += [general.items[i] for i in rest]
    material.shares.append(share)


def pair_with_others(collection: Collection, tokenizer: Tokenizer, cutoff: int) -> None:
    """Beside every labelled answer the question with another's answer, by which KTO measures how
    far the model has moved at all (arXiv:2402.01306, §4.1).
    """
    if len(collection.labels) != len(collection.items):
        raise ValueError(f"{collection.name}: kto needs a 'label' (true or false) in every record")
    records = collection.prompts
    if len(records) < 2:
        raise ValueError(f"{collection.name}: kto needs at least 2 records")
    items: list[Item] = []
    for number, record in enumerate(records):
        other = records[(number + 1) % len(records)]
        own, strange = (
            last_example((*record.messages[:-1], answer), tokenizer, since=len(record.messages) - 1)
            for answer in (record.messages[-1], other.messages[-1])
        )
        items.append(tuple(shortened(e, cutoff) if len(e) > cutoff else e for e in (own, strange)))
    collection.items = items
    collection.labels = [bool(record.label) for record in records]
    collection.record_of = list(range(len(records)))


class Batches:
    """Items in the order of their epochs as the trainer's source."""

    def __init__(
        self,
        epochs: Epochs,
        config: ModelConfig,
        pad: int,
        extras: Mapping[str, Sequence[Sequence[float]]],
    ) -> None:
        self.epochs, self.config, self.pad, self.extras = epochs, config, pad, extras

    def next_batch(self, rows: int) -> Batch:
        """The next batch; the last one of an epoch is as short as what is left."""
        return self.batch(self.epochs.next())

    def batch(self, rows: Iterable[Sequence[int]]) -> Batch:
        """Rows of item numbers as tensors, the longest first."""
        items = self.epochs.items
        order = sorted(rows, key=lambda row: -sum(self.epochs.size(i) for i in row))
        return batch_of([[items[i] for i in row] for row in order], self.config, self.pad, {
            name: [value for row in order for i in row for value in table[i]]
            for name, table in self.extras.items()
        })  # fmt: skip

    def state(self) -> dict[str, object]:
        """Plain data."""
        return self.epochs.state()

    def load_state(self, state: dict[str, object]) -> None:
        """Continue from a state."""
        self.epochs.load_state(state)


def batch_of(
    rows: Sequence[Sequence[Item]],
    config: ModelConfig,
    pad: int,
    extras: Mapping[str, Sequence[float]],
) -> Batch:
    """Rows of items as a batch: packed side by side, or the two examples of a pair below each
    other.
    """
    lines = [
        [item[part] for item in row] for row in rows for part in range(len(row[0]) if row else 0)
    ]
    tensors: dict[str, Tensor] = {name: torch.tensor(values) for name, values in extras.items()}
    batch = as_batch(fill_rows(lines, pad), config)
    is_plain = batch.prefix is None and all(len(line) == 1 for line in lines)
    return replace(batch, extras=tensors, is_padded=True, is_plain=is_plain)


def held_out_batches(
    items: Sequence[Item],
    config: ModelConfig,
    pad: int,
    rows: int,
    extras: Mapping[str, Sequence[Sequence[float]]],
) -> list[Batch]:
    """Held-out items as batches of about equal length."""
    order = sorted(range(len(items)), key=lambda i: -max(len(e) for e in items[i]))
    return [
        batch_of(
            [[items[i]] for i in order[at : at + rows]],
            config,
            pad,
            {
                name: [value for i in order[at : at + rows] for value in table[i]]
                for name, table in extras.items()
            },
        )
        for at in range(0, len(order), rows)
    ]

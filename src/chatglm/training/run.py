"""A recipe becomes a run: tokenizer, model, sources, trainer; and then a model directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Protocol

from chatglm import checkpoint
from chatglm.checkpoint import Loaded
from chatglm.config import ModelConfig
from chatglm.data.blank import BlankConfig, BlankIds
from chatglm.data.shards import Documents, open_documents
from chatglm.data.stream import (
    Build,
    Origin,
    Stream,
    blank_build,
    causal_build,
    chat_build,
    masked_build,
)
from chatglm.model import Transformer
from chatglm.parallel import Group, join
from chatglm.tokenizer import Tokenizer, load_tokenizer
from chatglm.training.batch import Batch
from chatglm.training.config import SourceConfig, TrainConfig, as_table
from chatglm.training.distribute import collect, distribute
from chatglm.training.foresight import foresee
from chatglm.training.methods import check_base, check_weights, replace_directory
from chatglm.training.objectives import chunked
from chatglm.training.publish import has_format, publish
from chatglm.training.rows import as_batch
from chatglm.training.start import initialize
from chatglm.training.state import load_state, load_weights, newest, write_text_safely
from chatglm.training.trainer import Trainer
from chatglm.training.vectors import read_vectors, start_embedding

SENTENCE_ENDS = "。！？!?.\n"


class PackedSource:
    """A stream of packed rows as the trainer's source."""

    def __init__(self, stream: Stream, config: ModelConfig) -> None:
        self.stream = stream
        self.config = config

    def next_batch(self, rows: int) -> Batch:
        """The next rows as tensors."""
        return as_batch(self.stream.rows(rows), self.config)

    def state(self) -> dict[str, object]:
        """The stream's state."""
        return self.stream.state()

    def load_state(self, state: dict[str, object]) -> None:
        """Continue from a state."""
        self.stream.load_state(state)


def make_build(
    source: SourceConfig, tokenizer: Tokenizer, config: ModelConfig, length: int
) -> Build:
    """What a source's documents become."""
    special = tokenizer.special
    if source.objective == "chat":
        return chat_build()
    if source.objective == "masked":
        return masked_build(special["[MASK]"], min(special.values()), length)
    if source.objective == "blank":
        sop = special.get("<sop>", special.get("<|startofpiece|>", special.get("sop")))
        eop = special.get("<eop>", special.get("<|endofpiece|>", special.get("eop")))
        if sop is None or eop is None or "[MASK]" not in special:
            raise ValueError("the tokenizer has no [MASK], <sop> and <eop>; blanks need them")
        ids = BlankIds(
            mask=special["[MASK]"],
            sentence_mask=special["[sMASK]"],
            document_mask=special["[gMASK]"],
            start=sop,
            end=eop,
        )
        ends = frozenset(i for mark in SENTENCE_ENDS for i in tokenizer.encode(mark)[-1:])
        blanks = BlankConfig(
            document_rate=source.document_rate,
            sentence_rate=source.sentence_rate,
            spans_are_shuffled=config.context == "prefix",
            context_is_learnt=source.context_is_learnt,
        )
        return blank_build(ids, blanks, min(source.length or length, length), ends)
    return causal_build(end_of_text(tokenizer))


def end_of_text(tokenizer: Tokenizer) -> int:
    """The id that ends a document."""
    for name in ("<|endoftext|>", "<eos>", "</s>", "<eop>"):
        if name in tokenizer.special:
            return tokenizer.special[name]
    raise ValueError("the tokenizer has no end-of-text token")


def make_stream(
    sources: tuple[SourceConfig, ...],
    tokenizer: Tokenizer,
    config: ModelConfig,
    *,
    length: int,
    seed: int,
    part: str = "train",
) -> Stream:
    """The packed examples of a recipe's sources."""
    origins = []
    for source in sources:
        documents: Documents = open_documents(source.path, part)
        if (documents.loss is not None) != (source.objective == "chat"):
            kind = "conversations" if documents.loss is not None else "plain text"
            raise ValueError(
                f"{source.path} holds {kind}, which objective {source.objective!r} does not read"
            )
        build = make_build(source, tokenizer, config, length)
        origins.append(Origin(documents=documents, build=build, weight=source.weight))
    return Stream(origins, length=length, pad=end_of_text(tokenizer), seed=seed)


def load_start(config: TrainConfig) -> Loaded | None:
    """The published model that the run goes on with, in float32; None where it begins from nothing
    or from another run's checkpoint.
    """
    if config.start is None or (Path(config.start) / "state.json").is_file():
        return None
    loaded = checkpoint.load(config.start, dtype="float32")
    check_base(loaded)
    check_weights(loaded)
    return loaded


def words_of(config: TrainConfig, loaded: Loaded | None) -> Tokenizer:
    """The recipe's tokenizer, or that of the published model."""
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(config.tokenizer)
    elif loaded is not None and loaded.tokenizer is not None:
        tokenizer = loaded.tokenizer
    else:
        raise ValueError(
            "the recipe has no tokenizer, and neither has its start; give its directory"
        )
    if loaded is not None:
        check_words(loaded.config, tokenizer)
    return tokenizer


def make_model(config: TrainConfig, tokenizer: Tokenizer) -> Transformer:
    """The network at the start of a run that goes on with no published model, in float32."""
    shape = config.model
    if shape is None:
        assert config.start is not None
        shape = shape_of_run(Path(config.start))
    check_words(shape, tokenizer)
    model = Transformer(shape)
    initialize(model, seed=config.seed)
    if config.word_vectors is not None:
        words = {tokenizer.decode([i]): i for i in range(tokenizer.vocab_size)}
        vectors = read_vectors(config.word_vectors, words)
        count = start_embedding(model.embedding, vectors, words, seed=config.seed)
        print(f"{count:,} word embeddings start from {config.word_vectors}", file=sys.stderr)
    if config.start is not None:
        load_weights(Path(config.start), model)
    return model


def check_words(shape: ModelConfig, tokenizer: Tokenizer) -> None:
    """A ValueError where the model has no rows for some words."""
    if shape.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"the model has {shape.vocab_size} rows of words and the tokenizer "
            f"{tokenizer.vocab_size} words; raise model.vocab_size, or give the model's own "
            "tokenizer"
        )


def shape_of_run(state: Path) -> ModelConfig:
    """The model's shape from the config.json beside a run's checkpoints."""
    table = json.loads((state.parents[1] / "config.json").read_text("utf-8"))
    from chatglm.training.config import build

    return build(ModelConfig, table["shape"], where=str(state.parents[1] / "config.json"))


class Witness(Protocol):
    """Who looks at the model before the first step and after the last."""

    def __call__(self, model: Transformer, tokenizer: Tokenizer, *, is_trained: bool) -> None:
        """Look at it; nothing of it is changed."""


def train(config: TrainConfig, *, witness: Witness | None = None) -> Path:
    """Run a recipe to its end, resuming what is there; returns the directory of the finished
    model, or of its last checkpoint where no public format has a place for its shape.

    Under torchrun every process calls this, and they share the rows of each batch. The first of
    them calls the witness, where each has the model whole.
    """
    group = join(tensor_size=config.tensor_parallel)
    directory = Path(config.output)
    directory.mkdir(parents=True, exist_ok=True)
    loaded = load_start(config)
    tokenizer = words_of(config, loaded)
    model = make_model(config, tokenizer) if loaded is None else loaded.model
    shape = model.config
    if group.is_first:
        record = {"recipe": as_table(config), "shape": as_table(shape)}
        text = json.dumps(record, ensure_ascii=False, indent=1)
        write_text_safely(directory / "config.json", text)
    stream = make_stream(config.sources, tokenizer, shape, length=config.length, seed=config.seed)
    validation = []
    if config.validation:
        kept = make_stream(
            config.validation,
            tokenizer,
            shape,
            length=config.length,
            seed=0,
            part="validation",
        )
        validation = [as_batch(kept.rows(config.validate_rows), shape)]
    objective = chunked(config.loss_chunk)
    distribute(model, config, group)
    trainer = Trainer(
        config,
        model,
        PackedSource(stream, shape),
        objective,
        validation=validation,
        group=group,
    )
    if not trainer.resume() and config.start is not None:
        begin_from(Path(config.start), trainer)
    announce(config, trainer, stream)
    if not group.is_first or config.shard or config.tensor_parallel > 1:
        witness = None
    if witness is not None and trainer.step == 0:
        witness(model, tokenizer, is_trained=False)
    trainer.run()
    if witness is not None:
        witness(model, tokenizer, is_trained=True)
    finished = finish(config, model, tokenizer, loaded, group)
    group.wait()
    return finished or latest(directory)


def finish(
    config: TrainConfig,
    model: Transformer,
    tokenizer: Tokenizer,
    loaded: Loaded | None,
    group: Group,
) -> Path | None:
    """Write the model directory: in the format of what the run began with, where its words are the
    same, else in transformers' `glm`; None where that has no place for the shape.
    """
    target = Path(config.output) / "model"
    if loaded is not None:
        words = Path(config.tokenizer or loaded.directory).resolve()
        if words == loaded.directory.resolve() or not has_format(model.config):
            if group.size > 1:
                collect(model)
            return replace_directory(loaded, target) if group.is_first else target
    if has_format(model.config):
        return publish(model, tokenizer, target, writes=group.is_first)
    return None


def latest(directory: Path) -> Path:
    """The newest checkpoint of a run that has one."""
    last = newest(directory)
    assert last is not None
    return last


def begin_from(start: Path, trainer: Trainer) -> None:
    """Take over the optimizer of another run's checkpoint, where `start` is one."""
    if (start / "state.json").is_file():
        load_state(start, model=trainer.model, optimizers=trainer.optimizers)


def announce(config: TrainConfig, trainer: Trainer, stream: Stream) -> None:
    """Say before the first step what the run will do, and what it will take.

    All processes call this together: memory and time are measured on a step's work.
    """
    count = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    tokens = sum(origin.documents.num_tokens for origin in stream.origins)
    step_tokens = config.batch_rows * config.length
    lines = [
        f"{count:,} trainable parameters; {tokens:,} tokens of data; steps {trainer.step} to "
        f"{config.steps} "
        f"of {step_tokens:,} tokens ({config.steps * step_tokens / max(tokens, 1):.2f} times "
        "through); "
        f"{config.optim.kind}, {config.precision}; writes to {config.output}"
    ]
    if trainer.step == 0:
        lines.append(foretold(config, trainer))
    if trainer.group.is_first:
        print("\n".join(lines), file=sys.stderr, flush=True)


def foretold(config: TrainConfig, trainer: Trainer) -> str:
    """Memory and time that the run will take; the source is as before."""
    place = trainer.source.state()
    rows = config.micro_rows
    probes = trainer.source.next_batch(rows), trainer.source.next_batch(rows)
    trainer.source.load_state(place)
    step = [rows * config.length] * (config.batch_rows // rows)
    seen = foresee(trainer, [step] * config.steps, probes)
    minutes, seconds = divmod(round(seen.seconds), 60)
    return (
        f"expected: {seen.peak_bytes / 2**30:.2f} GiB of memory, {minutes // 60}:"
        f"{minutes % 60:02d}:{seconds:02d} of time"
    )

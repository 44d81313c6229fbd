"""A recipe becomes a run: tokenizer, model, sources, trainer; and then a model directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chatglm import checkpoint
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
from chatglm.parallel import join
from chatglm.tokenizer import Tokenizer, load_tokenizer
from chatglm.training.batch import Batch
from chatglm.training.config import SourceConfig, TrainConfig, as_table
from chatglm.training.distribute import distribute
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


def make_model(config: TrainConfig, tokenizer: Tokenizer) -> Transformer:
    """The network at the start of a run, in float32."""
    if config.start is not None and not (Path(config.start) / "state.json").is_file():
        return checkpoint.load(config.start, dtype="float32").model
    shape = config.model
    if shape is None:
        assert config.start is not None
        shape = shape_of_run(Path(config.start))
    if shape.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size is {shape.vocab_size} and the tokenizer has {tokenizer.vocab_size} "
            "words; raise it"
        )
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


def shape_of_run(state: Path) -> ModelConfig:
    """The model's shape from the config.json beside a run's checkpoints."""
    table = json.loads((state.parents[1] / "config.json").read_text("utf-8"))
    from chatglm.training.config import build

    return build(ModelConfig, table["shape"], where=str(state.parents[1] / "config.json"))


def train(config: TrainConfig) -> Path:
    """Run a recipe to its end, resuming what is there; returns the directory of the finished
    model, or of its last checkpoint where no public format has a place for its shape.

    Under torchrun every process calls this, and they share the rows of each batch.
    """
    group = join(tensor_size=config.tensor_parallel)
    directory = Path(config.output)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(config.tokenizer)
    model = make_model(config, tokenizer)
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
    if group.is_first:
        announce(config, trainer, stream)
    trainer.run()
    finished = None
    if has_format(shape):
        finished = publish(model, tokenizer, directory / "model", writes=group.is_first)
    group.wait()
    return finished or latest(directory)


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
    """Say before the first step what the run will do."""
    count = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    tokens = sum(origin.documents.num_tokens for origin in stream.origins)
    step_tokens = config.batch_rows * config.length
    print(
        f"{count:,} trainable parameters; {tokens:,} tokens of data; steps {trainer.step} to "
        f"{config.steps} "
        f"of {step_tokens:,} tokens ({config.steps * step_tokens / max(tokens, 1):.2f} times "
        "through); "
        f"{config.optim.kind}, {config.precision}; writes to {config.output}",
        file=sys.stderr,
        flush=True,
    )

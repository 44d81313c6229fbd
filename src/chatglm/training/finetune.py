"""A fine-tuning run: a published model, a method put on it, examples, and the one loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from chatglm import checkpoint
from chatglm.adapters.prefix import PrefixTuned, heard_from
from chatglm.adapters.save import put
from chatglm.checkpoint import Loaded
from chatglm.data.epochs import Epochs
from chatglm.data.examples import Item
from chatglm.parallel import Group, join
from chatglm.tokenizer import Tokenizer
from chatglm.training.batch import Batch
from chatglm.training.config import LoopConfig
from chatglm.training.distribute import collect, distribute
from chatglm.training.foresight import Foresight, foresee
from chatglm.training.grpo import Reward, Rollout, Sample, questions_of
from chatglm.training.material import Batches, Material, gather, held_out_batches
from chatglm.training.methods import check_base, put_on, save_result
from chatglm.training.objectives import Network, Objective, chunked
from chatglm.training.preference import (
    REFERENCE,
    PolicyGradient,
    Preference,
    Ranking,
    RewardNet,
    Told,
    answer_scores,
    num_pairs,
)
from chatglm.training.schedule import is_paired, loop_of, make_epochs, planned_tokens
from chatglm.training.state import checkpoints, write_text_safely
from chatglm.training.trainer import Source, Trainer, Watch
from chatglm.training.tuning import TuneConfig, as_toml

SCORE = "score.safetensors"
Extras = dict[str, list[list[float]]]


@dataclass(kw_only=True)
class Tuning:
    """A run that is ready to begin."""

    config: TuneConfig
    loaded: Loaded
    tokenizer: Tokenizer
    network: Network
    group: Group
    material: Material = field(default_factory=Material)
    epochs: Epochs | None = None
    told: Told = field(default_factory=Told)
    trainer: Trainer = field(init=False)

    def begin(
        self,
        loop: LoopConfig,
        source: Source,
        objective: Objective,
        watches: dict[str, Watch],
        *,
        notice: Callable[[dict[str, float]], None],
    ) -> None:
        """Join the parts to a trainer."""
        distribute(self.network, loop, self.group)
        counts = {"sft": targets_in, "grpo": rows_in}
        self.trainer = Trainer(
            loop,
            self.network,
            source,
            objective,
            watches=watches,
            count=counts.get(self.config.objective, num_pairs),
            extra=self.told.drain,
            notice=notice,
            trained_only=self.config.method != "full",
            together=2 if is_paired(self.config) else 1,
            group=self.group,
        )

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.trainer.config.steps

    def foresee(self) -> Foresight:
        """Memory and time, measured on the longest batch and on a usual one."""
        return foresee(self.trainer, self.planned(), self.probes())

    def planned(self) -> list[list[int]]:
        """Tokens, padding included, of every micro-batch of every step; empty where the network
        writes them itself.
        """
        if self.epochs is None:
            return []
        loop = self.trainer.config
        twice = 2 if is_paired(self.config) else 1
        planned = planned_tokens(self.epochs, loop.steps, loop.micro_rows // twice)
        return [[twice * tokens for tokens in step] for step in planned]

    def probes(self) -> tuple[Batch, Batch]:
        """A batch of the longest rows of the first epoch, and one of the middle."""
        source = self.trainer.source
        assert isinstance(source, Batches)
        assert self.epochs is not None
        epochs = self.epochs
        rows = [row for batch in epochs.batches(0) for row in batch]
        size = {id(row): sum(epochs.size(i) for i in row) for row in rows}
        rows.sort(key=lambda row: -size[id(row)])
        count = self.config.batch_size
        middle = max((len(rows) - count) // 2, 0)
        return source.batch(rows[:count]), source.batch(rows[middle : middle + count])

    def run(self) -> Path:
        """Train to the end and write the result; returns where it lies."""
        self.trainer.run()
        self.trainer.take_best()
        if self.group.size > 1:
            collect(self.network)
        self.loaded.model.eval()
        result = Path(self.config.output_dir)
        if self.group.is_first:
            network = self.network
            if isinstance(network, RewardNet):
                put(result / SCORE, {"score.weight": network.score.weight})
                network = network.base
            result = save_result(self.loaded, network, self.config)
        self.group.wait()
        return result


def prepare_run(
    config: TuneConfig,
    *,
    resume: bool = False,
    notice: Callable[[dict[str, float]], None] = lambda row: None,
    play: tuple[Sample, Reward] | None = None,
) -> Tuning:
    """Model, method and data of a run, taken up where it stopped if `resume` says so.

    play: where replies come from and what they are worth, in grpo.
    """
    group = join(tensor_size=config.tensor_parallel)
    directory = Path(config.output_dir)
    check_directory(config, resume=resume)
    loaded = load_base(config)
    if loaded.tokenizer is None:
        raise ValueError(f"{loaded.base} has no tokenizer files; add them to train on text")
    check_base(loaded)
    network = put_on(loaded, config)
    if config.objective == "reward":
        network = RewardNet(network)  # type: ignore[assignment]
    run = Tuning(
        config=config, loaded=loaded, tokenizer=loaded.tokenizer, network=network, group=group
    )
    directory.mkdir(parents=True, exist_ok=True)
    if config.objective == "grpo":
        assert play is not None
        run.begin(*played(run, *play), notice=notice)
    else:
        run.begin(*read(run), notice=notice)
    if group.is_first:
        write_text_safely(directory / "config.toml", as_toml(config))
    if resume:
        run.trainer.resume()
    return run


Parts = tuple[LoopConfig, Source, Objective, dict[str, Watch]]


def read(run: Tuning) -> Parts:
    """Loop, batches, objective and held-out losses of a run over examples."""
    config, loaded = run.config, run.loaded
    run.material = material = gather(config, run.tokenizer, loaded.config.max_length)
    run.epochs = make_epochs(config, material)
    loop = loop_of(config, loaded, run.epochs)
    begin_prefix(run.network, material)
    pad = pad_id(run.tokenizer)
    extras, kept_extras = extras_of(config, material)
    if config.objective in ("dpo", "ipo", "kto"):
        scored = reference_scores(
            run.network, material, loaded, pad, loop, writes=run.group.is_first
        )
        extras[REFERENCE], kept_extras[REFERENCE] = scored
    objective: Objective = objective_of(config, run.told)
    watches = {}
    if material.validation:
        kept = held_out_batches(
            material.validation, loaded.config, pad, config.batch_size, kept_extras
        )
        watches["validation_loss"] = Watch(batches=kept, objective=objective)
    if material.general:
        general = held_out_batches(material.general, loaded.config, pad, config.batch_size, {})
        watches["general_loss"] = Watch(batches=general, objective=chunked(config.loss_chunk))
    return loop, Batches(run.epochs, loaded.config, pad, extras), objective, watches


def begin_prefix(network: Network, material: Material) -> None:
    """Let a learned prefix begin as the keys and values of words from the examples, which learns
    sooner than chance ones (arXiv:2101.00190, §7.4).
    """
    if not isinstance(network, PrefixTuned) or hasattr(network.encoder, "trans"):
        return
    wanted = network.encoder.embedding.num_embeddings
    words = np.concatenate([example.tokens for item in material.train for example in item])
    words = np.resize(words, wanted)
    device = network.encoder.embedding.weight.device
    network.encoder.start_from(heard_from(network.base, torch.from_numpy(words).to(device)))


def played(run: Tuning, sample: Sample, reward: Reward) -> Parts:
    """Loop, batches and objective of a run over the network's own replies."""
    config = run.config
    if run.group.size > 1:
        raise ValueError("grpo runs in one process; start it without torchrun")
    questions = questions_of(config, run.tokenizer, run.loaded.config.max_length)
    rows = config.grad_accum * config.num_samples
    steps = config.max_steps or math.ceil(config.epochs * len(questions) / config.grad_accum)
    loop = replace(loop_of(config, run.loaded, None), steps=steps, batch_rows=rows)
    source = Rollout(
        config,
        run.loaded.config,
        run.tokenizer,
        run.network,
        questions,
        sample,
        reward,
        run.told,
        pad_id(run.tokenizer),
    )
    return loop, source, PolicyGradient(config), {}


def targets_in(batch: Batch) -> int:
    """Tokens that are learnt."""
    return batch.num_targets


def rows_in(batch: Batch) -> int:
    """Replies."""
    return len(batch.tokens)


def check_directory(config: TuneConfig, *, resume: bool) -> None:
    """A FileExistsError where a run would begin over another one."""
    if checkpoints(Path(config.output_dir)) and not resume:
        raise FileExistsError(
            f"{config.output_dir} holds a run already; add --resume to go on with it, or give "
            "another --output-dir"
        )


def load_base(config: TuneConfig) -> Loaded:
    """The model in the precision that its method trains in."""
    dtype: str = config.dtype
    if config.method in ("full", "freeze"):
        dtype = "float32"
    loaded = checkpoint.load(
        config.model,
        dtype=dtype,
        device=config.device,
        quantize=config.bits,
        adapter=config.adapter,
    )
    for parameter in loaded.model.parameters():
        if parameter.dtype == torch.float16:  # its range is too narrow for gradients
            parameter.data = parameter.data.bfloat16()
    return loaded


def objective_of(config: TuneConfig, told: Told) -> Objective:
    """What the run lowers."""
    if config.objective == "sft":
        return chunked(config.loss_chunk)
    if config.objective == "reward":
        return Ranking(told)
    return Preference(config, told)


def extras_of(config: TuneConfig, material: Material) -> tuple[Extras, Extras]:
    """Numbers beside the examples: the labels of KTO."""
    if config.objective != "kto":
        return {}, {}
    return (
        {"label": [[float(label)] * 2 for label in material.labels]},
        {"label": [[float(label)] * 2 for label in material.validation_labels]},
    )


@torch.no_grad()
def reference_scores(
    network: Network,
    material: Material,
    loaded: Loaded,
    pad: int,
    loop: LoopConfig,
    *,
    writes: bool,
) -> tuple[list[list[float]], list[list[float]]]:
    """The scores of every answer before the run, kept in a file for when it is resumed."""
    path = Path(loop.output) / "reference.safetensors"
    items: Sequence[Item] = [*material.train, *material.validation]
    shape = (len(items), 2)
    scores: torch.Tensor | None = None
    if path.is_file():
        scores = load_file(path).get(REFERENCE)
    if scores is None or scores.shape != shape:
        scores = torch.empty(shape)
        network.eval()
        device = loaded.model.embedding.weight.device
        order = sorted(range(len(items)), key=lambda i: -max(len(e) for e in items[i]))
        rows = max(loop.micro_rows // 2, 1)
        for at in range(0, len(order), rows):
            chosen = order[at : at + rows]
            (batch,) = held_out_batches([items[i] for i in chosen], loaded.config, pad, rows, {})
            batch = batch.each(lambda tensor: tensor.to(device))
            # The longest first is the order that `held_out_batches` keeps, too.
            scores[chosen] = answer_scores(network, batch, loop.loss_chunk).cpu().view(-1, 2)
        if writes:
            put(path, {REFERENCE: scores})
    table = scores.tolist()
    return table[: len(material.train)], table[len(material.train) :]


def pad_id(tokenizer: Tokenizer) -> int:
    """An id for padding; nothing ever looks at it."""
    return next(iter(sorted(tokenizer.end_ids)), 0)

"""The one loop that trains; what is trained, on what, and to lower what, are parts given to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file

from chatglm.parallel import Group
from chatglm.parallel.tensor import gradient_norm
from chatglm.training.batch import Batch
from chatglm.training.best import Best
from chatglm.training.config import LoopConfig
from chatglm.training.fused import fuse, unfuse
from chatglm.training.log import Log, plot_loss
from chatglm.training.memory import kept_memory
from chatglm.training.objectives import Network, Objective
from chatglm.training.optim import clip, make_optimizers, rate, set_rate
from chatglm.training.signals import Interrupted, heed_signals
from chatglm.training.state import checkpoints, load_state, load_weights, newest, save_state

__all__ = ["Interrupted", "Source", "Trainer", "TrainingDiverged", "Watch"]


class Source(Protocol):
    """Where batches come from; its state is plain data, so that a resumed run reads on where it
    stopped.
    """

    def next_batch(self, rows: int) -> Batch:
        """The next `rows` packed rows."""
        ...

    def state(self) -> dict[str, object]:
        """All that the order of what follows depends on."""
        ...

    def load_state(self, state: dict[str, object]) -> None:
        """Continue as if the batches before `state` had been read here."""
        ...


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is not a number; the batch lies beside the checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Held-out batches and what is measured on them at every validation."""

    batches: Sequence[Batch]
    objective: Objective


class Trainer:
    """A run: model, optimizers, source and log, joined by `run`.

    count: what the summed loss of a step is divided by. watches: held-out losses by the name under
    which they are logged; the first one tells the best checkpoint. extra: further numbers for the
    log. notice: is shown every row of the log. trained_only: checkpoints hold what is trained.
    together: rows of a batch that belong together.
    """

    def __init__(
        self,
        config: LoopConfig,
        model: Network,
        source: Source,
        objective: Objective,
        *,
        validation: list[Batch] | None = None,
        watches: Mapping[str, Watch] | None = None,
        count: Callable[[Batch], int] = lambda batch: batch.num_targets,
        extra: Callable[[], dict[str, float]] = dict,
        notice: Callable[[dict[str, float]], None] = lambda row: None,
        trained_only: bool = False,
        together: int = 1,
        group: Group | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.source = source
        self.objective = objective
        self.watches = dict(watches or {})
        if validation:
            self.watches["validation_loss"] = Watch(batches=validation, objective=objective)
        self.count, self.extra, self.notice = count, extra, notice
        self.trained_only, self.together = trained_only, together
        self.group = group or Group()
        self.directory = Path(config.output)
        self.optimizers = make_optimizers(model.named_parameters(), config.optim)
        self.best = Best()
        self.step = 0
        self.num_tokens = 0
        self.num_seconds = 0.0
        self.stop_signal: int | None = None
        self.loss: Objective = objective
        if config.compiled:
            self.loss = torch.compile(objective)
        elif self.group.size == 1 and next(model.parameters()).device.type == "cpu":
            fuse(model)

    def resume(self) -> bool:
        """Continue from the newest whole checkpoint; False where there is none."""
        found = newest(self.directory) if self.group.is_first else None
        step = self.group.from_first(-1 if found is None else int(found.name.split("-")[1]))
        if step < 0:
            return False
        checkpoint = self.directory / "checkpoints" / f"step-{step:06d}"
        state = load_state(checkpoint, model=self.model, optimizers=self.optimizers)
        self.step = int(str(state["step"]))
        self.num_tokens = int(str(state["tokens"]))
        self.num_seconds = float(str(state["seconds"]))
        self.best = Best.from_state(state.get("best"))
        source = state["source"]
        assert isinstance(source, dict)
        self.source.load_state(source)
        return True

    def save(self, place: dict[str, object] | None = None) -> Path:
        """Write a checkpoint of this step; place: the source's, where it is another than now."""
        state: dict[str, object] = {
            "tokens": self.num_tokens,
            "seconds": self.num_seconds,
            "source": place or self.source.state(),
        }
        if self.config.keep_best:
            state["best"] = self.best.state()
        target = save_state(
            self.directory,
            step=self.step,
            model=self.model,
            optimizers=self.optimizers,
            state=state,
            keep=self.config.keep,
            trained_only=self.trained_only,
            protect=self.best.name if self.config.keep_best else "",
            group=self.group,
        )
        self.group.wait()
        return target

    def run(self) -> None:
        """Train to the last step; saves on the way, at the end, and when asked to stop."""
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        log = Log(
            self.directory,
            steps=self.config.steps,
            first_step=self.step,
            is_silent=not self.group.is_first,
        )
        self.model.train()
        if self.step == 0 and self.config.validate_first and self.watches:
            self.tell(log, {"step": 0, "tokens": 0, **self.validate()})
        log.begin(self.num_tokens)
        with heed_signals(self), kept_memory():
            while self.step < self.config.steps:
                row, is_best = self.advance(log)
                ends = self.step == self.config.steps
                stop = self.group.largest(self.stop_signal or 0)
                is_tired = 0 < self.config.patience <= self.best.waited
                is_due = self.step % self.config.save_steps == 0 or is_best
                if len(row) > 2:
                    self.tell(log, row)
                if is_due or ends or stop or is_tired:
                    self.save()
                if stop and not ends:
                    raise Interrupted(stop, self.step)
                if is_tired and not ends:
                    log.say(f"no lower loss in {self.best.waited} validations: stopped early")
                    break
        unfuse(self.model)
        if self.group.is_first:
            plot_loss(self.directory)

    def advance(self, log: Log) -> tuple[dict[str, float], bool]:
        """One step; the row for the log, and whether its held-out loss is the lowest so far."""
        config = self.config
        started = time.monotonic()
        loss, norm, share = self.train_step()
        self.num_seconds += time.monotonic() - started
        row: dict[str, float] = {"step": self.step, "tokens": self.num_tokens}
        ends = self.step == config.steps
        if self.step % config.log_steps == 0 or ends:
            row |= {
                "loss": loss,
                "lr": config.optim.lr * share,
                "grad_norm": norm,
                "tokens_per_second": log.tokens_per_second(self.num_tokens),
                "seconds": self.num_seconds,
                **self.extra(),
            }
        is_best = False
        if self.watches and (self.step % config.validate_steps == 0 or ends):
            row |= self.validate()
            is_best = config.keep_best and self.best.take(row, self.step)
            log.begin(self.num_tokens)
        return row, is_best

    def tell(self, log: Log, row: dict[str, float]) -> None:
        """Write a row of the log and show it."""
        log.write(row)
        log.show(row)
        self.notice(row)

    def train_step(self) -> tuple[float, float, float]:
        """One update; returns the mean loss, the gradient's norm and the share of the peak rate.

        The gradient is divided by the number of targets of the whole step, in all processes, so
        that the loss does not depend on how the batch is cut.
        """
        config = self.config
        batch = self.next_batch()
        total = max(self.count(batch), 1)
        loss_sum = 0.0
        mine = batch.shared_out(self.group.data_rank, self.group.data_size, together=self.together)
        for micro in mine.split(config.micro_rows):
            with self.autocast():
                loss, _ = self.loss(self.model, self.placed(micro))
            (loss / total).backward()
            loss_sum += float(loss.detach())
        if self.group.size > 1:
            (loss_sum,) = self.group.sum(loss_sum)
            self.group.sum_gradients(p for p in self.model.parameters() if p.requires_grad)
        share = rate(self.step, config.steps, config.optim)
        set_rate(self.optimizers, share)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        known = gradient_norm(self.model, self.group) if self.group.tensor_size > 1 else None
        norm = float(clip(parameters, config.optim.clip, known=known))
        if not math.isfinite(loss_sum) or not math.isfinite(norm):
            self.report_divergence(batch)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.num_tokens += batch.num_tokens
        return loss_sum / total, norm, share

    def next_batch(self) -> Batch:
        """The rows of a step; where their file is lost, the steps until now are saved first, unless
        other processes would have to agree.
        """
        place = self.source.state()
        try:
            return self.source.next_batch(self.config.batch_rows)
        except OSError:
            if self.step and self.group.size == 1:
                self.save(place)
            raise

    def placed(self, batch: Batch) -> Batch:
        """The batch on the model's device."""
        device = next(self.model.parameters()).device
        return batch if device.type == "cpu" else batch.each(lambda tensor: tensor.to(device))

    def report_divergence(self, batch: Batch) -> None:
        """Keep the batch for a look and stop; the last checkpoint is from before it."""
        path = self.directory / f"diverged-{self.step:06d}.safetensors"
        if self.group.is_first:
            self.directory.mkdir(parents=True, exist_ok=True)
            kept = {"tokens": batch.tokens.contiguous(), "labels": batch.labels.contiguous()}
            save_file(kept, path)
        raise TrainingDiverged(
            f"the loss is not a number at step {self.step + 1}; the batch is in {path}, "
            f"the last checkpoint is whole; lower optim.lr (now {self.config.optim.lr}) and resume"
        )

    @torch.no_grad()
    def validate(self, *, first_only: bool = False) -> dict[str, float]:
        """Mean held-out losses in nats per target, by the names of the watches; first_only: of one
        batch each.
        """
        self.model.eval()
        found = {}
        for name, watch in self.watches.items():
            total, count = 0.0, 0.0
            for batch in watch.batches[:1] if first_only else watch.batches:
                mine = batch.shared_out(
                    self.group.data_rank, self.group.data_size, together=self.together
                )
                for micro in mine.split(self.config.micro_rows):
                    with self.autocast():
                        loss, targets = watch.objective(self.model, self.placed(micro))
                    total += float(loss)
                    count += int(targets)
            total, count = self.group.sum(total, count)
            found[name] = total / max(count, 1)
        self.model.train()
        return found

    def take_best(self) -> None:
        """Put the weights of the best checkpoint back, where it is not the last one."""
        names = {path.name: path for path in checkpoints(self.directory)}
        if self.config.keep_best and self.best.name in names and self.best.step != self.step:
            load_weights(names[self.best.name], self.model)

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products in bfloat16 where the recipe asks for it."""
        if self.config.precision == "float32":
            return nullcontext()
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, torch.bfloat16)

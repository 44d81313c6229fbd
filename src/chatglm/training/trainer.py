"""The one training loop: every method and every objective runs through it."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from safetensors.torch import save_file

from chatglm.model import Transformer
from chatglm.training.batch import Batch
from chatglm.training.config import TrainConfig
from chatglm.training.log import Log, plot_loss
from chatglm.training.objectives import Objective
from chatglm.training.optim import clip, make_optimizers, rate, set_rate
from chatglm.training.state import load_state, newest, save_state


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


class Interrupted(RuntimeError):
    """Asked to stop by a signal, after saving."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}, saved; "
            "the same command goes on from here"
        )
        self.number = number


class Trainer:
    """A run: model, optimizers, source and log, joined by `run`."""

    def __init__(
        self,
        config: TrainConfig,
        model: Transformer,
        source: Source,
        objective: Objective,
        *,
        validation: list[Batch] | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.source = source
        self.objective = objective
        self.validation = validation or []
        self.directory = Path(config.output)
        self.optimizers = make_optimizers(model.named_parameters(), config.optim)
        self.step = 0
        self.num_tokens = 0
        self.num_seconds = 0.0
        self.stop_signal: int | None = None
        self.loss: Objective = torch.compile(objective) if config.compiled else objective

    def resume(self) -> bool:
        """Continue from the newest whole checkpoint; False where there is none."""
        checkpoint = newest(self.directory)
        if checkpoint is None:
            return False
        state = load_state(checkpoint, model=self.model, optimizers=self.optimizers)
        self.step = int(str(state["step"]))
        self.num_tokens = int(str(state["tokens"]))
        self.num_seconds = float(str(state["seconds"]))
        source = state["source"]
        assert isinstance(source, dict)
        self.source.load_state(source)
        return True

    def save(self) -> Path:
        """Write a checkpoint of this step."""
        return save_state(
            self.directory,
            step=self.step,
            model=self.model,
            optimizers=self.optimizers,
            state={
                "tokens": self.num_tokens,
                "seconds": self.num_seconds,
                "source": self.source.state(),
            },
            keep=self.config.keep,
        )

    def run(self) -> None:
        """Train to the last step; saves on the way, at the end, and when asked to stop."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        log = Log(self.directory, steps=self.config.steps, first_step=self.step)
        self.model.train()
        since, tokens_since = time.monotonic(), self.num_tokens
        with self.heed_signals():
            while self.step < self.config.steps:
                started = time.monotonic()
                loss, norm, share = self.train_step()
                self.num_seconds += time.monotonic() - started
                row: dict[str, float] = {"step": self.step, "tokens": self.num_tokens}
                last = self.step == self.config.steps
                if self.step % self.config.log_steps == 0 or last:
                    now = time.monotonic()
                    row |= {
                        "loss": loss,
                        "lr": self.config.optim.lr * share,
                        "grad_norm": norm,
                        "tokens_per_second": (self.num_tokens - tokens_since) / (now - since),
                        "seconds": self.num_seconds,
                    }
                    since, tokens_since = now, self.num_tokens
                if self.validation and (self.step % self.config.validate_steps == 0 or last):
                    row["validation_loss"] = self.validate()
                if len(row) > 2:
                    log.write(row)
                    log.show(row)
                if self.step % self.config.save_steps == 0 or last or self.stop_signal:
                    self.save()
                if self.stop_signal and not last:
                    raise Interrupted(self.stop_signal, self.step)
        plot_loss(self.directory)

    def train_step(self) -> tuple[float, float, float]:
        """One update; returns the mean loss, the gradient's norm and the share of the peak rate.

        The gradient is divided by the number of targets of the whole step, so that the loss does
        not depend on how the batch is cut into micro-batches.
        """
        config = self.config
        batch = self.source.next_batch(config.batch_rows)
        total = int((batch.labels != -100).sum())
        loss_sum = 0.0
        for micro in batch.split(config.micro_rows):
            with self.autocast():
                loss, _ = self.loss(self.model, micro)
            (loss / max(total, 1)).backward()
            loss_sum += float(loss.detach())
        share = rate(self.step, config.steps, config.optim)
        set_rate(self.optimizers, share)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = float(clip(parameters, config.optim.clip))
        if not math.isfinite(loss_sum) or not math.isfinite(norm):
            self.report_divergence(batch)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.num_tokens += batch.tokens.numel()
        return loss_sum / max(total, 1), norm, share

    def report_divergence(self, batch: Batch) -> None:
        """Keep the batch for a look and stop; the last checkpoint is from before it."""
        path = self.directory / f"diverged-{self.step:06d}.safetensors"
        save_file({"tokens": batch.tokens.contiguous(), "labels": batch.labels.contiguous()}, path)
        raise TrainingDiverged(
            f"the loss is not a number at step {self.step + 1}; the batch is in {path}, "
            f"the last checkpoint is whole; lower optim.lr (now {self.config.optim.lr}) and resume"
        )

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss in nats per target over the validation batches."""
        self.model.eval()
        total, count = 0.0, 0
        for batch in self.validation:
            for micro in batch.split(self.config.micro_rows):
                with self.autocast():
                    loss, targets = self.objective(self.model, micro)
                total += float(loss)
                count += int(targets)
        self.model.train()
        return total / max(count, 1)

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products in bfloat16 where the recipe asks for it."""
        if self.config.precision == "float32":
            return nullcontext()
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, torch.bfloat16)

    @contextmanager
    def heed_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM are noted, and heeded after the step in hand."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.stop_signal = number
            print("stopping after this step …", file=sys.stderr, flush=True)

        before: dict[int, object] = {
            s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]

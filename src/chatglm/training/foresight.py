"""What a run will need, measured on its own longest batch before the first step."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from chatglm.parallel.pieces import local
from chatglm.training.batch import Batch
from chatglm.training.log import load_plotting
from chatglm.training.memory import kept_memory
from chatglm.training.optim import make_optimizers
from chatglm.training.trainer import Trainer

# What oneDNN keeps for each size of a micro-batch in bfloat16: code of its own for every product.
CODE = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """peak_bytes: the most memory of the process. seconds: the steps, and the held-out losses."""

    peak_bytes: int
    seconds: float
    num_trainable: int
    num_parameters: int


def foresee(trainer: Trainer, planned: list[list[int]], probes: tuple[Batch, Batch]) -> Foresight:
    """Forward and backward on a batch of the longest examples and on one of usual length.

    planned: tokens, padding included, of every micro-batch, step by step. Nothing is updated; the
    gradients are thrown away.
    """
    model, config = trainer.model, trainer.config
    if config.threads:
        torch.set_num_threads(config.threads)
    load_plotting()
    before = peak_bytes()
    forget_peak()
    points = []
    fresh = 0.0
    with kept_memory():
        # First, since what is in pieces goes back into them after a gradient only.
        trainer.validate(first_only=True)
        model.train()
        for batch in probes:
            micro = batch.split(config.micro_rows)[0]
            first = once(trainer, micro)  # memory is asked for, and code is made for the shape
            points.append((micro.tokens.numel(), once(trainer, micro)))
            fresh = max(first - points[-1][1], 0.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    num_trained = sum(p.numel() for p in trained)
    update = seconds_of_update(trainer)
    for parameter in model.parameters():
        parameter.grad = None
    each, a_token = line_through(points)
    share = trainer.group.data_size
    steps = sum(
        each * -(-len(step) // share) + a_token * sum(step) / share + update for step in planned
    )
    watched = sum(b.tokens.numel() for watch in trainer.watches.values() for b in watch.batches)
    rounds = len(planned) // config.validate_steps + 2
    shapes = num_shapes(trainer, planned)
    seconds = steps + rounds * watched * a_token / 3 + shapes * fresh
    moments = moment_bytes(trainer)
    # A checkpoint is written from copies of what is trained and of the optimizer's moments.
    peak = peak_bytes() + moments
    if config.precision == "bfloat16" and not torch.cuda.is_available():
        peak += shapes * CODE
    return Foresight(
        peak_bytes=max(before, peak, resting_bytes() + 2 * moments),
        seconds=seconds,
        num_trainable=num_trained,
        num_parameters=sum(p.numel() for p in model.parameters()),
    )


def once(trainer: Trainer, micro: Batch) -> float:
    """One forward and backward, as a step does it; its seconds."""
    started = time.perf_counter()
    with trainer.autocast():
        loss, _ = trainer.objective(trainer.model, trainer.placed(micro))
    loss.backward()
    return time.perf_counter() - started


def num_shapes(trainer: Trainer, planned: list[list[int]]) -> int:
    """How many sizes of micro-batches there are, learnt and held out."""
    learnt = {tokens for step in planned for tokens in step}
    watched = {
        micro.tokens.numel()
        for watch in trainer.watches.values()
        for batch in watch.batches
        for micro in batch.split(trainer.config.micro_rows)
    }
    return len(learnt | watched)


def line_through(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Seconds that a micro-batch takes in itself, and a token."""
    (n1, t1), (n2, t2) = points
    if n1 > 1.2 * n2 and t1 > t2:
        slope = (t1 - t2) / (n1 - n2)
        return max(t1 - slope * n1, 0.0), slope
    return 0.0, (t1 + t2) / max(n1 + n2, 1)


def moment_bytes(trainer: Trainer) -> int:
    """What the optimizers will hold: two moments of 4 bytes a number, one in Muon, and two of a
    byte with a scale for 256 in 8 bits.
    """
    each = {"muon": 4.0, "adamw": 8.0, "adamw8bit": 2 * (1 + 4 / 256)}
    return sum(round(each[kind] * num_owned(o)) for kind, o in trainer.optimizers.items())


def num_owned(optimizer: torch.optim.Optimizer) -> int:
    """How many numbers of this process an optimizer updates."""
    return sum(local(p).numel() for group in optimizer.param_groups for p in group["params"])


def seconds_of_update(trainer: Trainer) -> float:
    """What the optimizers take for a step, each measured on about a million numbers of its own."""
    seconds = 0.0
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    for kind, optimizer in trainer.optimizers.items():
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        largest = max(owned, key=lambda p: local(p).numel())
        part = local(largest.detach())
        part = part[: -(-(1 << 20) * len(part) // max(part.numel(), 1))]
        parameter = torch.nn.Parameter(part.clone())
        parameter.grad = torch.ones_like(parameter)
        probe = make_optimizers([(names[id(largest)], parameter)], trainer.config.optim)[kind]
        probe.step()
        started = time.perf_counter()
        probe.step()
        taken = time.perf_counter() - started
        seconds += taken * num_owned(optimizer) / max(parameter.numel(), 1)
    return seconds


def forget_peak() -> None:
    """Begin measuring the peak anew, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """The most memory that was held since `forget_peak`: of the GPU where there is one, else of
    the process.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return status_bytes("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def resting_bytes() -> int:
    """The memory that is held now."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return status_bytes("VmRSS")


def status_bytes(key: str) -> int:
    """A size from Linux's status of this process; 0 elsewhere."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0

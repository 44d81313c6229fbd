"""A training run in the workers of a Ray cluster, gone on with where workers are lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from chatglm.cluster.connect import connected

Work = Callable[[], int]
"""A run, from its recipe to its exit code; it resumes by itself from what is in its directory."""


def train_on_cluster(
    work: Work, output: str, *, workers: int, max_failures: int = 3, cpus: int = 1
) -> int:
    """Call `work` in every worker, as torchrun would; returns the exit code of the first one.

    Where a worker or its machine is lost, all begin again from the newest checkpoint, up to
    max_failures times. All machines see the current directory, and `output` in it. cpus: of each
    worker; a worker has a GPU where the cluster has some.
    """
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}")
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # what workers say is shown as it is
    with connected() as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        total = ray.cluster_resources()
        uses_gpu = total.get("GPU", 0) > 0
        kind, wanted = ("GPU", workers) if uses_gpu else ("CPU", workers * cpus)
        if total.get(kind, 0) < wanted:
            raise ValueError(
                f"{workers} workers need {wanted} {kind}s and the cluster has "
                f"{total.get(kind, 0):g}; give fewer --workers or add machines"
            )
        trainer = TorchTrainer(
            partial(take_part, work, os.getcwd()),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=uses_gpu,
                resources_per_worker={"CPU": cpus} | ({"GPU": 1} if uses_gpu else {}),
            ),
            run_config=RunConfig(
                # A name that was used would be taken for a run to be restored.
                name=f"run-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}",
                storage_path=str(Path(output).absolute() / "ray"),
                failure_config=FailureConfig(max_failures=max_failures),
            ),
        )
        try:
            code, said = trainer.fit().return_value
        except Exception as error:
            if type(error).__name__ != "WorkerGroupError":
                raise
            raise RuntimeError(
                f"the run failed more than {max_failures} times, the last time with: "
                f"{last_line(error)}; its checkpoints are whole, and the same command goes on"
            ) from error
    if said:
        raise ValueError(said)
    return int(code)


def take_part(work: Work, directory: str) -> tuple[int, str]:
    """Do the work in a worker; its exit code, or the sentence of an error that would come again."""
    try:
        os.chdir(directory)
    except OSError as error:
        return 1, f"a worker does not see {directory} ({error}); share it among the machines"
    try:
        return work(), ""
    except (ValueError, TypeError, FileNotFoundError, FileExistsError, ImportError) as error:
        return 1, str(error)


def last_line(error: Exception) -> str:
    """What went wrong, without the way there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

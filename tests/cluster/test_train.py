"""Ray Train: recipes in two workers, one of which is killed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from tests.cluster.nodes import Nodes

from chatglm import checkpoint
from chatglm.cli import main
from chatglm.training.config import read_recipe
from chatglm.training.log import read_metrics
from chatglm.training.run import train
from chatglm.training.state import checkpoints

CHANGES = ["steps=40", "save_steps=4", "validate_steps=20", "batch_rows=32", "length=64"]


def losses(run: Path) -> list[float]:
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    assert [int(row["step"]) for row in rows] == list(range(1, 41))
    return [row["loss"] for row in rows]


def test_a_killed_worker_is_replaced_and_the_run_goes_on(
    nodes: Nodes,
    recipe: str,
    tmp_path: Path,
) -> None:
    train(read_recipe(recipe, [*CHANGES, f"output={tmp_path / 'one'}"]))
    run, log = tmp_path / "run", tmp_path / "log"
    with nodes.start(
        log, "train", recipe, *CHANGES, f"output={run}", "--cluster", "--workers", "2"
    ) as process:
        while not checkpoints(run):
            assert process.poll() is None, log.read_text("utf-8")
            time.sleep(0.02)
        first, second = nodes.workers("RayTrainWorker")
        nodes.kill(second)
        assert process.wait(240) == 0, log.read_text("utf-8")[-5000:]
    assert losses(run) == pytest.approx(losses(tmp_path / "one"), rel=5e-3)
    starts = [int(n) for n in re.findall(r"steps (\d+) to 40", log.read_text("utf-8"))]
    assert len(starts) == 2
    assert starts[0] == 0 < starts[1] < 40
    assert (run / "model" / "model.safetensors").is_file()
    assert not {first, second} & set(nodes.workers("RayTrainWorker"))


def test_a_mistake_in_a_recipe_is_said_once(
    nodes: Nodes,
    recipe: str,
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    arguments = ("train", recipe, f"output={tmp_path / 'run'}", "sources=[{path='nowhere'}]")
    arguments = (*arguments, "--cluster", "--workers")
    with nodes.start(log, *arguments, "1") as process:
        assert process.wait(120) == 1
    assert "nowhere is not prepared data" in log.read_text("utf-8").splitlines()[-1]
    with nodes.start(log, *arguments, "40") as process:
        assert process.wait(120) == 1
    assert "40 workers need 40 CPUs and the cluster has 2" in log.read_text("utf-8")


def test_tuning_goes_on_where_a_worker_is_killed(nodes: Nodes, toy: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(
            f'{{"instruction": "{i}天气？", "output": "{"今天很好" * (1 + i % 4)}"}}\n'
            for i in range(40)
        ),
        "utf-8",
    )
    flags = ["--model", str(toy), "--method", "lora", "--lr", "1e-3", "--max-steps", "40"]
    flags += ["--save-steps", "4", "--log-steps", "1", "--eval-steps", "20", "--threads", "1"]
    flags += ["--precision", "float32"]
    alone, run, log = tmp_path / "alone", tmp_path / "run", tmp_path / "log"
    assert main(["finetune", str(data), "--output-dir", str(alone), *flags]) == 0
    with nodes.start(
        log, "finetune", str(data), "--output-dir", str(run), *flags, "--cluster", "--workers", "2"
    ) as process:
        while not checkpoints(run):
            assert process.poll() is None, log.read_text("utf-8")
            time.sleep(0.02)
        nodes.kill(nodes.workers("RayTrainWorker")[1])
        assert process.wait(240) == 0, log.read_text("utf-8")[-5000:]
    assert losses(run) == pytest.approx(losses(alone), rel=5e-3)
    assert "resumes after step" in log.read_text("utf-8")
    assert f"--adapter {run}" in log.read_text("utf-8")
    loaded = checkpoint.load(toy, adapter=run)
    assert loaded.adapter == run

"""Several processes under torchrun train as one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.parallel.team import Team

from chatglm.training.log import read_metrics
from chatglm.training.state import checkpoints

CORPUS = ["天气出门", "你好程序员", "今天很好适合", "我出门"]


def torchrun(size: int, *arguments: str) -> list[str]:
    if size == 1:
        return [sys.executable, "-m", "chatglm", *arguments]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launch, "--nproc-per-node", str(size), "-m", "chatglm", *arguments]


def launch(size: int, *arguments: str) -> None:
    done = subprocess.run(
        torchrun(size, *arguments), capture_output=True, text=True, timeout=300, env=environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CHATGLM_LANG": "en"}


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [
        {"instruction": CORPUS[i % 4] * (1 + i % 3), "output": CORPUS[i % 3] * (1 + i % 5)}
        for i in range(26)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def arguments(toy: Path, data: str, output: Path, *more: str) -> list[str]:
    return [
        "finetune", data, "--model", str(toy), "--output-dir", str(output), "--max-steps", "6",
        "--batch-size", "2", "--grad-accum", "2", "--lr", "0.01", "--val-size", "5",
        "--log-steps", "1", "--eval-steps", "3", "--save-steps", "3", "--threads", "1",
        "--precision", "float32", *more,
    ]  # fmt: skip


def curve(output: Path) -> list[float]:
    rows = read_metrics(output / "metrics.jsonl")
    return [row[key] for row in rows for key in ("loss", "validation_loss") if key in row]


def test_two_processes_have_the_loss_curve_of_one(
    team: Team, toy: Path, data: str, tmp_path: Path
) -> None:
    team.run(1, *arguments(toy, data, tmp_path / "one"))
    launch(2, *arguments(toy, data, tmp_path / "two"))
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=2e-5)


@pytest.mark.parametrize("how", [["--shard"], ["--tensor-parallel", "2"]], ids=" ".join)
def test_a_run_in_pieces_has_the_same_curve_and_goes_on_in_one_process(
    team: Team, toy: Path, data: str, tmp_path: Path, how: list[str]
) -> None:
    full = ("--method", "full")
    team.run(1, *arguments(toy, data, tmp_path / "one", *full))
    team.run(2, *arguments(toy, data, tmp_path / "two", *full, *how))
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=2e-5)
    assert (tmp_path / "two" / "model" / "model.safetensors").is_file()
    (checkpoints(tmp_path / "two")[-1] / "manifest.json").unlink()
    team.run(1, *arguments(toy, data, tmp_path / "two", *full, "--resume"))
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=2e-5)


def test_an_interrupt_saves_and_stops_every_process(toy: Path, data: str, tmp_path: Path) -> None:
    command = torchrun(2, *arguments(toy, data, tmp_path / "run", "--max-steps", "100000"))
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 3/"):
                break
        os.killpg(process.pid, signal.SIGTERM)
        process.stderr.read()
        assert process.wait(120) != 0
    found = checkpoints(tmp_path / "run")
    assert int(found[-1].name.removeprefix("step-")) >= 3

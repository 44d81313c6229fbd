"""A data file that is lost while a run reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.parallel.recipe import write_recipe

from chatglm.cli import main
from chatglm.training.log import read_metrics
from chatglm.training.state import checkpoints

STEPS = ["steps=12", "save_steps=5", "validate_steps=6", "log_steps=1"]


@pytest.fixture
def recipe(toy: Path, tmp_path: Path) -> str:
    """A run over some lines of text of its own."""
    return write_recipe(toy, tmp_path)


def tokens_of(recipe: str) -> Path:
    (found,) = Path(recipe).parent.rglob("train.tokens.bin")
    return found


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def lose_at_step(monkeypatch: pytest.MonkeyPatch, step: int, lose) -> None:
    """Let something happen to the data when a step has been made."""
    from chatglm.training.trainer import Trainer

    plain = Trainer.train_step

    def then_lose(trainer: Trainer) -> tuple[float, float, float]:
        told = plain(trainer)
        if trainer.step == step:
            lose()
        return told

    monkeypatch.setattr(Trainer, "train_step", then_lose)


def test_a_run_reads_a_deleted_file_to_its_end(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", recipe, *STEPS, f"output={tmp_path / 'whole'}"]) == 0
    lose_at_step(monkeypatch, 3, tokens_of(recipe).unlink)
    assert main(["train", recipe, *STEPS, f"output={tmp_path / 'run'}"]) == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_file_that_is_cut_short_ends_the_run_and_loses_no_step(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", recipe, *STEPS, f"output={tmp_path / 'whole'}"]) == 0
    command = ["train", recipe, *STEPS, f"output={tmp_path / 'run'}"]
    file = tokens_of(recipe)
    content = file.read_bytes()
    with monkeypatch.context() as patch:
        lose_at_step(patch, 3, lambda: file.write_bytes(content[:20]))
        assert main(command) == 1
    err = capsys.readouterr().err
    assert f"{file} ends before byte" in err
    assert "put it back and give the same command again" in err
    assert checkpoints(tmp_path / "run")[-1].name == "step-000003"
    assert main(command) == 1  # still lost
    assert "its offsets say" in capsys.readouterr().err
    file.write_bytes(content)
    assert main(command) == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("run", "whole")
    ]
    assert losses[0] == losses[1]


def test_a_tuning_run_needs_its_file_no_more(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"instruction": "你好", "output": "今天天气很好"}\n' * 8, "utf-8")
    lose_at_step(monkeypatch, 1, file.unlink)
    command = ["finetune", str(file), "--model", str(toy), "--output-dir", str(tmp_path / "run")]
    assert main([*command, "--max-steps", "4", "--threads", "1"]) == 0
    assert (tmp_path / "run" / "adapter_model.safetensors").is_file()

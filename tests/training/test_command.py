"""`chatglm finetune` as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from chatglm.cli import main
from chatglm.training.log import read_metrics
from chatglm.training.state import checkpoints


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATGLM_LANG", "en")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def command(toy: Path, data: str, tmp_path: Path) -> list[str]:
    return [
        "finetune", data, "--model", str(toy), "--output-dir", str(tmp_path / "run"),
        "--max-steps", "4", "--batch-size", "2", "--grad-accum", "1", "--val-size", "4",
        "--log-steps", "1", "--eval-steps", "2", "--save-steps", "2", "--threads", "1",
    ]  # fmt: skip


def test_it_says_what_it_will_do_and_ends_with_the_command_that_chats(
    command: list[str], tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    out, err = capsys.readouterr()
    said = err.splitlines()
    assert said[0].endswith("24 Alpaca instructions; 24 examples")
    assert "parameters learn" in said[1]
    assert "20 examples to learn from, 4 held out; 10 steps an epoch, 4 in all" in said[2]
    assert "GiB of memory" in said[3]
    assert out.strip() == f"chatglm chat --model {toy} --adapter {tmp_path / 'run'}"
    assert err.count("before") == 3
    samples = json.loads((tmp_path / "run" / "samples.json").read_text("utf-8"))
    assert {"question", "wanted", "before", "after"} == set(samples[0])
    for name in ("loss.png", "metrics.jsonl", "config.toml", "adapter_config.json"):
        assert (tmp_path / "run" / name).is_file()
    capsys.readouterr()
    asked = ["generate", "天气？", "--model", str(toy), "--adapter", str(tmp_path / "run")]
    assert main([*asked, "--max-tokens", "4"]) == 0


def test_a_dry_run_foretells_and_writes_no_model(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--dry-run"]) == 0
    assert "expected:" in capsys.readouterr().err
    assert not checkpoints(tmp_path / "run")
    assert main(command) == 0


def test_llama_factorys_names_are_understood(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--lora_rank", "2", "--per_device_train_batch_size", "3", "--finetuning_type", "lora"]
    more += ["--stage", "sft", "--template", "chatglm3", "--do_train", "true"]
    more += ["--optim", "adamw_torch"]
    assert main([*command, *more, "--learning_rate", "1e-3", "--dry_run"]) == 0
    err = capsys.readouterr().err
    assert "--per_device_train_batch_size is --batch-size here" in err
    assert "--stage sft is --objective sft here" in err
    assert "--optim adamw_torch is --optimizer adamw here" in err
    assert "--template is not needed here" in err
    assert "of 3 × 1 examples" in err
    assert "lr 0.001" in err


def test_the_recipe_that_a_run_leaves_is_the_run(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--seed", "5", "--lora-target", "attention"]) == 0
    first = load_file(tmp_path / "run" / "adapter_model.safetensors")
    recipe = tmp_path / "run" / "config.toml"
    assert main(["train", str(recipe), f'output_dir="{tmp_path / "again"}"']) == 0
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert all(bool((first[name] == again[name]).all()) for name in first)


def test_bad_lines_are_named_or_listed(
    command: list[str], data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(data).open("a") as file:
        file.write('{"instruction": "a"}\n')
    assert main(command) == 3
    assert "line 25: 'output' must be a string, got nothing" in capsys.readouterr().err
    assert main([*command, "--skip-bad", "--dry-run"]) == 0
    err = capsys.readouterr().err
    assert "1 left out" in err
    assert "line 25" in err


def test_usage_errors_end_with_2(
    toy: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", "--output-dir", str(tmp_path)]) == 2
    assert "no data" in capsys.readouterr().err
    assert main(["finetune", data]) == 2
    assert "no --output-dir" in capsys.readouterr().err
    assert main(["finetune", data, "--output-dir", "x", "--lora-rank", "0"]) == 2
    assert "lora_rank must be at least 1" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_with_4_and_keeps_the_batch(
    command: list[str], toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in toy.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] *= float("nan")
    save_file(tensors, broken / "model.safetensors")
    command[command.index("--model") + 1] = str(broken)
    assert main(command) == 4
    err = capsys.readouterr().err
    assert "the loss is not a number at step 1" in err
    assert "Traceback" not in err
    kept = load_file(tmp_path / "run" / "diverged-000000.safetensors")
    assert kept["tokens"].shape[0] == 2


def test_it_is_taken_up_where_it_stopped(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 1
    assert "add --resume" in capsys.readouterr().err
    command[command.index("--max-steps") + 1] = "6"
    assert main([*command, "--resume"]) == 0
    err = capsys.readouterr().err
    assert "resumes after step 4" in err
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == [0, 1, 2, 3, 4, 5, 6]


def test_an_interrupt_saves_and_the_same_command_goes_on(
    command: list[str], tmp_path: Path
) -> None:
    command[command.index("--max-steps") + 1] = "100000"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CHATGLM_LANG": "en"}
    with subprocess.Popen(
        [sys.executable, "-m", "chatglm", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 3/"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(120) == 130
    assert "saved; the same command goes on from here" in rest
    assert int(checkpoints(tmp_path / "run")[-1].name.removeprefix("step-")) >= 3


def test_grpo_learns_from_a_function_of_the_users_own_file(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text("def short(question, reply, wanted):\n    return -float(len(reply))\n")
    more = ["--objective", "grpo", "--reward", f"{reward}:short", "--num-samples", "2"]
    assert main([*command, *more, "--max-steps", "2", "--max-new-tokens", "4"]) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all("reward" in row for row in rows)
    capsys.readouterr()
    assert main([*command, "--objective", "grpo", "--reward", f"{reward}:long"]) == 2
    assert "has no function 'long'" in capsys.readouterr().err


def test_a_full_disk_is_told_from_a_crash(command: list[str], tmp_path: Path) -> None:
    """The limit on the size of a file stands for a disk that is full."""
    script = (
        "import resource, sys\n"
        "from chatglm.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CHATGLM_LANG": "en"},
    )
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not checkpoints(tmp_path / "run")

"""What a user may get wrong, and a full disk: one sentence with the remedy, and nothing lost.

An empty prompt, invalid UTF-8, truncated weights and a prompt beyond the context of `generate` are
in test_commands.py; damage of every kind to a model's files in tests/checkpoint/test_damaged.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.test_commands import SOURCE, run

from chatglm.cli import main
from chatglm.data.prepare import prepare
from chatglm.tokenizer import load_tokenizer
from chatglm.training.state import checkpoints, is_whole

RECIPE = """
output = "{output}"
tokenizer = "{toy}"
steps = 12
length = 32
batch_rows = 2
micro_rows = 2
save_steps = 2
log_steps = 4
threads = 1
sources = [{{ path = "{data}" }}]
[model]
num_layers = 2
hidden_size = 32
num_heads = 2
num_kv_heads = 1
head_dim = 16
ffn_size = 48
vocab_size = {words}
max_length = 64
bias = "none"
tied = true
"""


def assert_sentence(error: str, message: str) -> None:
    """One line, no traceback, and what to do in it."""
    assert message in error
    assert error.startswith("chatglm: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "no.jsonl", "--output", "out"), "no file or directory no.jsonl; give"),
        (("train", "no.toml"), "no recipe at no.toml; the package's own are in recipes/"),
        (("info", "nowhere"), "give a model directory, a hub id, or nothing"),
        (("generate", "hi", "--model", "recipe.toml"), "give the directory of the model"),
        (("train", "recipe.toml", "surprise=1"), "unknown key 'surprise' for TrainConfig; known:"),
        (("train", "recipe.toml", "model.heads=1"), "unknown key 'heads' for ModelConfig; known:"),
        (("train", "recipe.toml", 'precision="int9"'), "must be one of float32, bfloat16, got"),
        (("train", "recipe.toml", "tokenizer=nowhere"), "no directory nowhere; give one with"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_what_does_not_exist_or_fit_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    recipe = RECIPE.format(output="run", toy="toy", data="data", words=300)
    (tmp_path / "recipe.toml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 3)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert_sentence(shown.err, message)
    assert [path.name for path in tmp_path.iterdir() if path.name != "run"] == ["recipe.toml"]


def test_a_dtype_that_there_is_not_names_those_that_there_are() -> None:
    done = run("generate", "hi", "--dtype", "float33")
    assert done.returncode == 2
    last = done.stderr.decode().splitlines()[-1]
    assert "invalid choice: 'float33' (choose from" in last
    assert "bfloat16" in last


@pytest.mark.parametrize("command", ["complete", "embed"])
def test_a_text_beyond_the_context_is_refused_at_once(toy: Path, command: str) -> None:
    done = run(command, "--model", str(toy), stdin=("今" * 100_000).encode())
    assert done.returncode == 1
    assert_sentence(done.stderr.decode(), "tokens and the model's context holds 512")


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[list[str]]:
    """A folder on a disk of its own with so much room, where we may mount one; elsewhere, what
    goes before a command so that no file of its own can grow beyond a twentieth of that.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    can_mount = shutil.which("mount") is not None and os.geteuid() == 0
    is_mounted = can_mount and subprocess.run(mount, capture_output=True).returncode == 0
    limit = f"ulimit -f {num_bytes // 20 // 1024}; exec "
    try:
        yield [] if is_mounted else ["bash", "-c", limit + '"$@"', "bash"]
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def run_within(prefix: list[str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "chatglm", *arguments],
        capture_output=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"},
    )


def test_a_full_disk_stops_a_run_that_then_goes_on_from_its_last_checkpoint(
    toy: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(toy)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("今天天气很好，适合出门。\n\n" * 40, "utf-8")
    prepare([str(corpus)], tokenizer, tmp_path / "data", validation_fraction=0)
    recipe = tmp_path / "recipe.toml"
    disk = tmp_path / "disk"
    with small_disk(disk, 2048 * 1024) as prefix:
        recipe.write_text(
            RECIPE.format(
                output=disk / "run", toy=toy, data=tmp_path / "data", words=tokenizer.vocab_size
            )
        )
        filler = disk / "filler"
        filler.write_bytes(bytes(1600 * 1024))
        failed = run_within(prefix, "train", str(recipe))
        assert failed.returncode == 1, failed.stderr.decode()
        last = failed.stderr.decode().splitlines()[-1]
        assert last.startswith("chatglm: ")
        assert "could not be written" in last
        assert "free some space and resume: the older checkpoints are whole" in last
        assert all(is_whole(saved) for saved in checkpoints(disk / "run"))
        assert not list((disk / "run" / "checkpoints").glob(".*.part"))
        kept = [saved.name for saved in checkpoints(disk / "run")]
        filler.unlink()
        done = run_within([], "train", str(recipe))
        assert done.returncode == 0, done.stderr.decode()
        first = f"steps {int(kept[-1].removeprefix('step-'))} to 12" if kept else "steps 0 to 12"
        assert first in done.stderr.decode()
        assert (disk / "run" / "model" / "model.safetensors").is_file()


def test_a_full_disk_leaves_nothing_of_prepared_data(toy: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("今天天气很好，适合出门。\n\n" * 20_000, "utf-8")
    disk = tmp_path / "disk"
    with small_disk(disk, 100 * 1024) as prefix:
        arguments = ("prepare", str(corpus), "--output", str(disk / "data"))
        failed = run_within(prefix, *arguments, "--tokenizer", str(toy))
        assert failed.returncode == 1
        last = failed.stderr.decode().splitlines()[-1]
        assert "could not be written" in last
        assert "free some space or give another directory" in last
        assert list(disk.iterdir()) == []

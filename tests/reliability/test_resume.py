"""R9: a run that is killed again and again ends with the very bytes of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from tests.parallel.team import Team
from tests.reliability.nursery import Nursery

from chatglm.data.prepare import prepare
from chatglm.tokenizer import load_tokenizer

RECIPE = """
output = ""
tokenizer = "{toy}"
steps = 24
length = 48
batch_rows = 4
micro_rows = 2
precision = "float32"
log_steps = 3
validate_steps = 10
validate_rows = 4
save_steps = 2
threads = 1

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

[optim]
kind = "muon"
lr = 0.01
warmup_steps = 4
decay_steps = 8

[[sources]]
path = "{data}/text"
weight = 0.4

[[sources]]
path = "{data}/text"
objective = "blank"
weight = 0.3
context_is_learnt = true

[[sources]]
path = "{data}/chat"
objective = "chat"
weight = 0.3

[[validation]]
path = "{data}/text"
"""


@pytest.fixture
def recipe(toy: Path, tmp_path: Path) -> Path:
    """A run over text, blanks and conversations of a few seconds' length."""
    tokenizer = load_tokenizer(toy)
    chance = random.Random(0)
    words = ["今天", "天气", "很好", "适合", "出门", "你好", "程序员", "，", "。"]

    def say(most: int) -> str:
        return "".join(chance.choices(words, k=chance.randint(1, most)))

    texts = [{"text": f"{i}{say(60)}"} for i in range(60)]
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"{i}{say(6)}"},
                {"role": "assistant", "content": say(12)},
            ]
        }
        for i in range(40)
    ]
    for name, rows in (("text", texts), ("chat", chats)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        prepare([str(file)], tokenizer, tmp_path / name, validation_fraction=0.1)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(toy=toy, data=tmp_path, words=tokenizer.vocab_size), "utf-8")
    return path


def what_is_left(run: Path) -> dict[str, bytes]:
    """The finished model's files and the last checkpoint's, by name."""
    folders = [run / "model", run / "checkpoints" / "step-000024"]
    files = {f"{f.name}/{p.name}": p.read_bytes() for f in folders for p in f.iterdir()}
    state = json.loads(files.pop("step-000024/state.json"))
    files.pop("step-000024/manifest.json")  # holds the hash of the state, which tells the seconds
    return files | {"state": json.dumps({**state, "seconds": 0}).encode()}


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len({row["step"] for row in rows}) == len(rows)
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def kill_runs(recipe: Path, folder: Path, *, kills: int) -> None:
    """Runs are killed at random moments and taken up until they end, until there were so many
    kills.
    """
    chance = random.Random(7)
    num_kills = 0
    with Nursery("tests.reliability.tasks:run_recipe") as nursery:
        whole = folder / "whole"
        nursery.run(str(recipe), str(whole))
        since = time.monotonic()
        nursery.run(str(recipe), str(folder / "again"))
        longest = 0.6 * (time.monotonic() - since)
        assert what_is_left(folder / "again") == what_is_left(whole)
        while num_kills < kills:
            run = folder / f"killed-{num_kills}"
            while not nursery.ends_before(chance.random() * longest, str(recipe), str(run)):
                num_kills += 1
            assert what_is_left(run) == what_is_left(whole)
            assert losses(run) == losses(whole)


def test_a_killed_run_ends_with_the_same_bytes(recipe: Path, tmp_path: Path) -> None:
    kill_runs(recipe, tmp_path, kills=20)


@pytest.mark.whole
def test_runs_killed_200_times_end_with_the_same_bytes(recipe: Path, tmp_path: Path) -> None:
    kill_runs(recipe, tmp_path, kills=200)


def kill_pairs(recipe: Path, folder: Path, *, kills: int) -> None:
    """As `kill_runs`, of runs in two processes; both are killed, one a little before the other."""
    chance = random.Random(11)
    num_kills = 0
    with Team(folder / "log") as team:
        whole = folder / "whole"
        team.run(2, "train", str(recipe), f"output={whole}")
        since = time.monotonic()
        team.run(2, "train", str(recipe), f"output={folder / 'again'}")
        longest = 0.8 * (time.monotonic() - since)
        assert what_is_left(folder / "again") == what_is_left(whole)
        while num_kills < kills:
            run = folder / f"killed-{num_kills}"
            ends = [1, 1]
            while ends != [0, 0]:
                pair = team.start(2, "train", str(recipe), f"output={run}")
                time.sleep(chance.random() * longest)
                chance.shuffle(pair)
                for process in pair:
                    os.kill(process, signal.SIGKILL)  # not reaped before `statuses`
                    time.sleep(chance.choice((0, 0.02)))
                ends = team.statuses()
                num_kills += ends != [0, 0]
                # The second one may hear of the first one's death before its own.
                assert set(ends) <= {0, 1, -signal.SIGKILL}, team.log.read_text()[-3000:]
            assert what_is_left(run) == what_is_left(whole)
            assert losses(run) == losses(whole)


def test_a_killed_run_of_two_processes_ends_with_the_same_bytes(
    recipe: Path, tmp_path: Path
) -> None:
    kill_pairs(recipe, tmp_path, kills=5)


@pytest.mark.whole
def test_runs_of_two_processes_killed_200_times_end_with_the_same_bytes(
    recipe: Path, tmp_path: Path
) -> None:
    kill_pairs(recipe, tmp_path, kills=200)

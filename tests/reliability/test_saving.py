"""R10: a process may be killed, or the disk be full, at any moment of a save; what lies at its
place is whole.
"""

from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.reliability.nursery import Nursery
from tests.reliability.tasks import SHAPE, fill, number_of

from chatglm import checkpoint
from chatglm.config import ModelConfig
from chatglm.model import Transformer
from chatglm.tokenizer import load_tokenizer
from chatglm.training.config import OptimConfig
from chatglm.training.optim import make_optimizers
from chatglm.training.publish import publish
from chatglm.training.state import checkpoints, is_whole, load_state, newest, save_state

SHORT = 0.08  # seconds until a kill at first; a save takes 5 to 30 ms on an idle machine
LONGER = 1.2  # times as many after a kill before which nothing was saved


def kill_saves_of_a_run(directory: Path, *, kills: int) -> None:
    """Every checkpoint that is left after a kill is whole, and none that was whole is lost."""
    chance = random.Random(1)
    step, longest = 0, SHORT
    model = Transformer(SHAPE)
    optimizers = make_optimizers(model.named_parameters(), OptimConfig(kind="adamw"))
    with Nursery("tests.reliability.tasks:save_run") as nursery:
        for _ in range(kills):
            assert not nursery.ends_before(chance.random() * longest, str(directory))
            for saved in checkpoints(directory):
                assert is_whole(saved)
            found = newest(directory)
            if found is None:
                assert step == 0
                longest *= LONGER
                continue
            state = load_state(found, model=model, optimizers=optimizers)
            assert number_of(model) == state["step"] == int(found.name.removeprefix("step-"))
            assert int(str(state["step"])) >= step
            longest *= LONGER if state["step"] == step else 1
            step = int(str(state["step"]))
    assert step >= kills // 4
    parts = [path for path in (directory / "checkpoints").iterdir() if "part" in path.name]
    assert len(parts) <= kills // 4 + 2


def kill_saves_of_models(toy: Path, directory: Path, *, kills: int) -> None:
    """Each new model directory is absent or whole, with the tensors of the one it was read from."""
    chance = random.Random(2)
    original = load_file(toy / "model.safetensors")
    num_seen, longest = 0, SHORT
    with Nursery("tests.reliability.tasks:save_model") as nursery:
        for _ in range(kills):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            assert not nursery.ends_before(chance.random() * longest, str(toy), str(directory))
            targets = list(directory.glob("model-*"))
            num_seen += len(targets)
            longest *= 1 if targets else LONGER
            for target in targets:
                assert checkpoint.load(target).tokenizer is not None
                copy = load_file(target / "model.safetensors")
                assert original.keys() == copy.keys()
                assert all(original[name].equal(copy[name]) for name in original)
    assert num_seen > kills // 4


def kill_publications(toy: Path, target: Path, *, kills: int) -> None:
    """A model that takes the place of an older one is absent or whole, and never two in one."""
    chance = random.Random(3)
    num_seen, longest = 0, SHORT
    with Nursery("tests.reliability.tasks:publish_model") as nursery:
        for kill in range(kills):
            wait = chance.random() * longest
            assert not nursery.ends_before(wait, str(toy), str(target), kill)
            longest *= 1 if target.exists() else LONGER
            if target.exists():
                num_seen += 1
                assert number_of(checkpoint.load(target).model) > 0
    assert num_seen > kills // 4


def test_a_kill_never_leaves_half_a_checkpoint(tmp_path: Path) -> None:
    kill_saves_of_a_run(tmp_path, kills=50)


def test_a_kill_never_leaves_half_a_model(toy: Path, tmp_path: Path) -> None:
    kill_saves_of_models(toy, tmp_path / "saved", kills=25)
    kill_publications(toy, tmp_path / "published", kills=25)


@pytest.mark.whole
def test_500_kills_never_leave_half_a_checkpoint(tmp_path: Path) -> None:
    kill_saves_of_a_run(tmp_path, kills=500)


@pytest.mark.whole
def test_500_kills_never_leave_half_a_model(toy: Path, tmp_path: Path) -> None:
    kill_saves_of_models(toy, tmp_path / "saved", kills=250)
    kill_publications(toy, tmp_path / "published", kills=250)


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond so many bytes here: the next byte fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_at_any_byte_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    model = Transformer(SHAPE)
    optimizers = make_optimizers(model.named_parameters(), OptimConfig(kind="adamw"))

    def save(step: int) -> None:
        fill(model, step)
        save_state(tmp_path, step=step, model=model, optimizers=optimizers, state={}, keep=2)

    save(1)
    largest = max(path.stat().st_size for path in (tmp_path / "checkpoints").rglob("*.*"))
    chance = random.Random(3)
    for num_bytes in [0, 1, 100, largest - 1, *(chance.randrange(largest) for _ in range(20))]:
        with (
            room_for(num_bytes),
            pytest.raises(OSError, match=r"could not be written .* free some space and resume"),
        ):
            save(2)
        assert [path.name for path in checkpoints(tmp_path)] == ["step-000001"]
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
            "latest",
            "step-000001",
        ]
    save(2)
    found = newest(tmp_path)
    assert found is not None
    assert found.name == "step-000002"


def test_a_full_disk_leaves_no_part_of_a_model(toy: Path, tmp_path: Path) -> None:
    loaded, tokenizer = checkpoint.load(toy), load_tokenizer(toy)
    model = Transformer(ModelConfig(**vars(SHAPE)))
    fill(model, 1)
    published = publish(model, tokenizer, tmp_path / "published")
    largest = (toy / "model.safetensors").stat().st_size
    for num_bytes in (0, 500, 20_000, largest // 2):
        with room_for(num_bytes), pytest.raises(OSError, match="could not be written"):
            checkpoint.save(loaded, tmp_path / "saved")
        with room_for(num_bytes), pytest.raises(OSError, match="free some space"):
            publish(model, tokenizer, published)
        assert [path.name for path in tmp_path.iterdir()] == ["published"]
    assert number_of(checkpoint.load(published).model) == 1

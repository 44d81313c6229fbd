from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from chatglm.config import ModelConfig
from chatglm.model import Transformer
from chatglm.parallel.recompute import recompute
from chatglm.training.batch import Batch
from chatglm.training.config import OptimConfig, SourceConfig, TrainConfig
from chatglm.training.objectives import next_word_loss
from chatglm.training.start import initialize
from chatglm.training.state import checkpoints, newest
from chatglm.training.trainer import Trainer, TrainingDiverged

SHAPE = ModelConfig(
    num_layers=2, hidden_size=32, num_heads=2, num_kv_heads=1, head_dim=16, ffn_size=48,
    vocab_size=64, max_length=64, tied=True, bias="none",
)  # fmt: skip


class Counting:
    """Rows whose tokens depend on how many were read before: 1, 2, 3 … in a random stride."""

    def __init__(self) -> None:
        self.row = 0

    def next_batch(self, rows: int) -> Batch:
        tokens = torch.stack([(torch.arange(17) * (1 + r % 7) + r) % 64 for r in self.take(rows)])
        shape = tokens[:, :-1].shape
        return Batch(
            tokens=tokens[:, :-1],
            labels=tokens[:, 1:],
            positions=torch.arange(16).expand(shape[0], 1, 16),
            documents=torch.zeros(shape, dtype=torch.long),
        )

    def take(self, rows: int) -> range:
        self.row += rows
        return range(self.row - rows, self.row)

    def state(self) -> dict[str, object]:
        return {"row": self.row}

    def load_state(self, state: dict[str, object]) -> None:
        self.row = int(str(state["row"]))


def make_trainer(
    output: Path,
    *,
    steps: int = 12,
    micro: int = 4,
    lr: float = 1e-2,
    patience: int = 0,
    recompute: bool = False,
    shape: ModelConfig = SHAPE,
    kind: Literal["muon", "adamw", "adamw8bit"] = "muon",
) -> Trainer:
    config = TrainConfig(
        output=str(output), tokenizer="", sources=(SourceConfig(path=""),), model=shape,
        optim=OptimConfig(kind=kind, lr=lr, warmup_steps=2, decay_steps=4), steps=steps, length=16,
        batch_rows=8, micro_rows=micro, precision="float32", log_steps=1, save_steps=1, keep=3,
        validate_steps=2 if patience else 250, patience=patience, keep_best=patience > 0,
        recompute=recompute,
    )  # fmt: skip
    model = Transformer(shape)
    initialize(model, seed=1)
    return Trainer(config, model, Counting(), next_word_loss, validation=[Counting().next_batch(4)])


def weights(directory: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest(directory)
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_lowers_the_loss_and_two_runs_with_one_seed_are_equal(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_trainer(tmp_path / name).run()
    rows = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert len(checkpoints(tmp_path / "a")) == 3


def test_the_loss_does_not_depend_on_how_the_batch_is_cut(tmp_path: Path) -> None:
    losses = [make_trainer(tmp_path, micro=micro).train_step()[0] for micro in (8, 4, 1)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_a_chunked_loss_has_the_same_value_and_gradient() -> None:
    model, batch = Transformer(SHAPE), Counting().next_batch(4)
    initialize(model, seed=0)
    grads = []
    for chunk in (0, 7):
        model.zero_grad()
        loss, count = next_word_loss(model, batch, chunk=chunk)
        loss.backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert int(count) == 64
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*grads, strict=True))


def test_resume_continues_bit_for_bit_where_a_run_was_stopped(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole").run()
    stopped = make_trainer(tmp_path / "cut")
    for _ in range(5):
        stopped.train_step()
    stopped.save()
    resumed = make_trainer(tmp_path / "cut")
    assert resumed.resume()
    assert resumed.step == 5
    resumed.run()
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_checkpoint_with_a_damaged_file_is_passed_over(tmp_path: Path) -> None:
    make_trainer(tmp_path, steps=3).run()
    last = checkpoints(tmp_path)[-1]
    data = bytearray((last / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (last / "model.safetensors").write_bytes(data)
    found = newest(tmp_path)
    assert found is not None
    assert found.name == "step-000002"
    for path in checkpoints(tmp_path):
        (path / "manifest.json").unlink()
    assert newest(tmp_path) is None


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_batch(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.directory.mkdir(exist_ok=True)
    with torch.no_grad():
        trainer.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="not a number at step 1"):
        trainer.train_step()
    assert load_file(tmp_path / "diverged-000000.safetensors")["tokens"].shape == (8, 16)


def test_a_run_stops_where_the_held_out_loss_rises_and_keeps_its_best(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=40, patience=2)
    losses = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    trainer.validate = lambda: {"validation_loss": next(losses)}  # type: ignore[method-assign]
    trainer.run()
    assert trainer.step == 8
    assert trainer.best.step == 4
    names = [path.name for path in checkpoints(tmp_path)]
    assert names == ["step-000004", "step-000006", "step-000007", "step-000008"]
    best = load_file(tmp_path / "checkpoints/step-000004/model.safetensors")
    trainer.take_best()
    assert torch.equal(trainer.model.state_dict()["norm.weight"], best["norm.weight"])
    resumed = make_trainer(tmp_path, steps=40, patience=2)
    assert resumed.resume()
    assert resumed.best == trainer.best


def test_recomputed_layers_give_the_same_gradients() -> None:
    batch = Counting().next_batch(4)
    grads = []
    for again in (False, True):
        model = Transformer(SHAPE)
        initialize(model, seed=0)
        if again:
            recompute(model)
        next_word_loss(model, batch)[0].backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_every_row_goes_to_one_process_and_all_get_equally_many() -> None:
    batch = Counting().next_batch(5)
    parts = [batch.shared_out(rank, 2) for rank in (0, 1)]
    assert [len(part.tokens) for part in parts] == [3, 3]
    assert sum(part.num_targets for part in parts) == batch.num_targets
    pairs = [Counting().next_batch(6).shared_out(rank, 2, together=2) for rank in (0, 1)]
    rows = Counting().next_batch(6).tokens
    assert torch.equal(pairs[0].tokens, rows[[0, 1, 4, 5]])
    assert torch.equal(pairs[1].tokens[:2], rows[2:4])
    assert (pairs[1].labels[2:] == -100).all()

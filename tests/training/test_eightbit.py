"""AdamW with moments of 8 bits: it learns as AdamW does, in a fraction of the memory, and a run is
taken up exactly.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from tests.training.test_trainer import assert_same, make_trainer
from torch import nn

from chatglm.config import ModelConfig
from chatglm.training.config import OptimConfig
from chatglm.training.foresight import moment_bytes
from chatglm.training.optim import make_optimizers
from chatglm.training.state import checkpoints
from chatglm.training.trainer import Trainer

pytest.importorskip("bitsandbytes", reason="needs pip install 'chatglm[8bit]'")
# Wide enough that its matrices have 4,096 numbers and more, and so moments of 8 bits.
SHAPE = ModelConfig(
    num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2, head_dim=16, ffn_size=96,
    vocab_size=96, max_length=64, tied=True, bias="none",
)  # fmt: skip


def start(output: Path, kind: Literal["adamw", "adamw8bit"] = "adamw8bit", **more: int) -> Trainer:
    return make_trainer(output, kind=kind, shape=SHAPE, lr=3e-3, **more)


def test_the_loss_curve_follows_adamws(tmp_path: Path) -> None:
    curves = []
    for kind in ("adamw", "adamw8bit"):
        trainer = start(tmp_path / kind, kind, steps=100)
        curves.append([trainer.train_step()[0] for _ in range(60)])
    states = trainer.optimizers["adamw8bit"].state.values()
    assert len(states) >= 8
    assert all(state["state1"].dtype == torch.uint8 for state in states)
    learnt = curves[0][0] - curves[0][-1]
    assert learnt > 2
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < 0.05 * learnt


def test_what_is_foretold_of_its_moments_is_what_they_take(tmp_path: Path) -> None:
    trainer = start(tmp_path)
    trainer.train_step()
    held = sum(
        value.numel() * value.element_size()
        for optimizer in trainer.optimizers.values()
        for state in optimizer.state.values()
        for key, value in state.items()
        if key in ("state1", "state2", "absmax1", "absmax2", "exp_avg", "exp_avg_sq")
    )
    assert moment_bytes(trainer) == pytest.approx(held, rel=0.01)


def test_a_resumed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    start(tmp_path / "whole").run()
    stopped = start(tmp_path / "cut")
    for _ in range(5):
        stopped.train_step()
    stopped.save()
    resumed = start(tmp_path / "cut")
    assert resumed.resume()
    resumed.run()
    for name in ("model", "optimizer"):
        one, other = (
            load_file(checkpoints(tmp_path / run)[-1] / f"{name}.safetensors")
            for run in ("whole", "cut")
        )
        assert_same(one, other)


def test_checkpoints_leave_out_the_tables_that_are_the_same_for_all(tmp_path: Path) -> None:
    trainer = start(tmp_path)
    trainer.train_step()
    names = {key.rpartition("|")[2] for key in load_file(trainer.save() / "optimizer.safetensors")}
    assert "absmax1" in names
    assert not any("qmap" in name for name in names)


def test_a_run_does_not_go_on_by_another_optimizer(tmp_path: Path) -> None:
    trainer = start(tmp_path)
    trainer.train_step()
    trainer.save()
    with pytest.raises(ValueError, match="was trained by adamw8bit and this run would go on by"):
        start(tmp_path, "adamw").resume()


def test_nothing_is_fetched_from_a_hub(tmp_path: Path) -> None:
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("bitsandbytes fetches on processors with bfloat16 only")
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    raise SystemExit(9)\n")
    ours = """if True:
        import torch
        from chatglm.training.eightbit import make_adamw8bit
        make_adamw8bit([{"params": [torch.ones(64, 64, requires_grad=True)]}], (0.9, 0.95))
        import kernels
        assert kernels.get_kernel
    """
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    for code, expected in (("import bitsandbytes", 9), (ours, 0)):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=False
        )
        assert done.returncode == expected


def test_a_missing_library_is_answered_by_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match=r"pip install 'chatglm\[8bit\]'"):
        make_optimizers(
            [("layers.w", nn.Parameter(torch.ones(64, 64)))], OptimConfig(kind="adamw8bit")
        )

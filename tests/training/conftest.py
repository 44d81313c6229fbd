"""Small files of examples for the toy model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chatglm.training.tuning import TuneConfig

WORDS = ("天气", "程序员", "出门", "今天", "很好", "适合", "你好", "我")


def rows(count: int = 24) -> list[dict[str, object]]:
    """Questions whose answer says the question's words again."""
    return [
        {
            "instruction": f"{WORDS[i % 8]}{WORDS[i // 8 % 8]}？",
            "output": WORDS[i % 8] * (1 + i % 5) + "。",
        }
        for i in range(count)
    ]


@pytest.fixture
def data(tmp_path: Path) -> str:
    """24 Alpaca examples of several lengths."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), "utf-8")
    return str(path)


@pytest.fixture
def settings(toy: Path, data: str, tmp_path: Path) -> Callable[..., TuneConfig]:
    """A run of a few steps on the toy model, with changes."""

    def make(**changes: object) -> TuneConfig:
        given: dict[str, object] = {
            "output_dir": str(tmp_path / "run"),
            "data": (data,),
            "model": str(toy),
            "max_steps": 6,
            "batch_size": 2,
            "grad_accum": 2,
            "lr": 1e-2,
            "val_size": 4.0,
            "log_steps": 1,
            "eval_steps": 3,
            "save_steps": 2,
            "threads": 1,
            "precision": "float32",
            "prefix_length": 4,
            "freeze_layers": 1,
            "cutoff_len": 256,
        } | changes
        return TuneConfig(**given)  # type: ignore[arg-type]

    return make

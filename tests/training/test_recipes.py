"""The recipes that lie in the repository are read as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm.training.config import TrainConfig, build, read_table
from chatglm.training.tuning import TuneConfig, as_toml, is_tune_table

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read(path: Path) -> None:
    table = read_table(path)
    kind = TuneConfig if is_tune_table(table) else TrainConfig
    assert build(kind, table, where=str(path))


def test_settings_come_back_from_toml_as_they_were(tmp_path: Path) -> None:
    config = TuneConfig(
        output_dir='a "b"\\c\n',
        data=("数据.jsonl:0.5", "b"),
        lora_target=("q_proj",),
        lr=3e-5,
        packing=True,
        val_size=0.1,
    )
    path = tmp_path / "recipe.toml"
    path.write_text(as_toml(config), "utf-8")
    assert build(TuneConfig, read_table(path), where="") == config

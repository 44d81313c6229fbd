from __future__ import annotations

from pathlib import Path

import pytest

from chatglm.training.config import as_table, read_recipe

RECIPE = """
output = "runs/x"
tokenizer = "tok"
steps = 7
[model]
num_layers = 1
hidden_size = 16
num_heads = 2
num_kv_heads = 1
head_dim = 8
ffn_size = 32
vocab_size = 64
max_length = 32
[optim]
lr = 1
betas = [0.8, 0.9]
[[sources]]
path = "data"
objective = "blank"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE, "utf-8")
    return path


def test_a_recipe_becomes_a_config_and_overrides_win(recipe: Path) -> None:
    config = read_recipe(recipe, ["steps=9", "optim.kind=adamw", "model.position=learned_2d"])
    assert config.steps == 9
    assert config.optim.kind == "adamw"
    assert config.optim.lr == 1.0
    assert config.optim.betas == (0.8, 0.9)
    assert config.model is not None
    assert config.model.num_planes == 2
    assert config.sources[0].objective == "blank"
    assert as_table(config)["steps"] == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stps=9", "unknown key 'stps'"),
        ("optim.kind=sgd", "must be one of muon, adamw, adamw8bit, got 'sgd'"),
        ("steps=many", "steps must be int, got 'many'"),
        ("steps", "key=value"),
        ("micro_rows=7", "micro_rows must divide batch_rows, got 7 and 64"),
        ("start=here", "either"),
        ("model.norm=batchnorm", "must be one of layernorm, rmsnorm"),
    ],
)
def test_a_wrong_setting_is_named(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe, [override])


def test_a_missing_recipe_and_broken_toml_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recipe at"):
        read_recipe(tmp_path / "none.toml")
    path = tmp_path / "bad.toml"
    path.write_text("a = [", "utf-8")
    with pytest.raises(ValueError, match="not a TOML file"):
        read_recipe(path)


def test_rates_of_blanks_that_are_no_shares_are_refused(recipe: Path) -> None:
    recipe.write_text(RECIPE + "document_rate = 0.9\nsentence_rate = 0.2\n", "utf-8")
    with pytest.raises(ValueError, match=r"together at most 1, got 0\.9 and 0\.2"):
        read_recipe(recipe, [])

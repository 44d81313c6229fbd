"""A recipe from its file to a model on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chatglm import checkpoint
from chatglm.cli import main
from chatglm.data.prepare import prepare
from chatglm.data.shards import Documents
from chatglm.tokenizer import load_tokenizer
from chatglm.training.config import read_recipe
from chatglm.training.run import make_build, train
from chatglm.training.state import newest

RECIPE = """
output = "{output}"
tokenizer = "{toy}"
steps = 3
length = 32
batch_rows = 2
micro_rows = 2
precision = "float32"
save_steps = 3
threads = 1
sources = [{{ path = "{data}" }}]
[model]
num_layers = 1
hidden_size = 16
num_heads = 2
num_kv_heads = 1
head_dim = 8
ffn_size = 24
vocab_size = {words}
max_length = 64
bias = "none"
tied = true
"""


@pytest.fixture
def recipe(toy: Path, tmp_path: Path) -> Path:
    """A run of three steps over one small text."""
    tokenizer = load_tokenizer(toy)
    (tmp_path / "corpus.txt").write_text("今天天气很好，适合出门。\n" * 20, "utf-8")
    data = tmp_path / "data"
    prepare([str(tmp_path / "corpus.txt")], tokenizer, data, validation_fraction=0)
    path = tmp_path / "recipe.toml"
    path.write_text(
        RECIPE.format(output=tmp_path / "run", toy=toy, data=data, words=tokenizer.vocab_size)
    )
    return path


def test_a_finished_run_is_a_model_that_loads(recipe: Path, tmp_path: Path) -> None:
    directory = train(read_recipe(recipe))
    assert directory == tmp_path / "run" / "model"
    loaded = checkpoint.load(directory, dtype="float32")
    assert loaded.tokenizer is not None
    with torch.inference_mode():
        logits = loaded.model.logits(loaded.model(torch.tensor([[1, 2, 3]])))
    assert logits.isfinite().all()


def test_samples_before_and_after_change_nothing_of_a_run(
    recipe: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = (train(read_recipe(recipe)) / "model.safetensors").read_bytes()
    texts = [{"text": f"第{i}天，" + "今天天气很好，适合出门。" * 8} for i in range(40)]
    lines = "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
    (tmp_path / "held.jsonl").write_text(lines, "utf-8")
    held = tmp_path / "held"
    prepare([str(tmp_path / "held.jsonl")], load_tokenizer(toy), held, validation_fraction=0.2)
    more = [f"output={tmp_path / 'other'}", f'validation=[{{path = "{held}"}}]']
    assert main(["train", str(recipe), *more]) == 0
    assert (tmp_path / "other" / "model" / "model.safetensors").read_bytes() == plain
    samples = json.loads((tmp_path / "other" / "samples.json").read_text("utf-8"))
    assert len(samples) == 3
    for sample in samples:
        assert sample["question"] + sample["wanted"] in lines
        assert sample["before"] != ""
        assert sample["after"] is not None
    assert samples[0]["question"] in capsys.readouterr().err


def test_a_finished_run_that_is_asked_again_gives_the_same_model(recipe: Path) -> None:
    first = (train(read_recipe(recipe)) / "model.safetensors").read_bytes()
    assert (train(read_recipe(recipe)) / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize("override", ["position=learned", "norm=layernorm", "mlp=gelu", "bias=all"])
def test_a_shape_without_a_public_format_ends_as_its_checkpoint(
    recipe: Path, tmp_path: Path, override: str
) -> None:
    directory = train(read_recipe(recipe, [f"model.{override}"]))
    assert directory == newest(tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(("length", "most"), [(0, 32), (12, 12)])
def test_a_source_of_blanks_may_ask_for_short_texts(recipe: Path, length: int, most: int) -> None:
    config = read_recipe(recipe)
    source = replace(config.sources[0], objective="blank", length=length)
    assert config.model is not None
    build = make_build(source, load_tokenizer(config.tokenizer), config.model, config.length)
    text = Documents(tokens=np.arange(100, dtype=np.uint32), offsets=np.array([0, 100]), loss=None)
    sizes = [len(build(text, 0, np.random.default_rng(seed)).tokens) for seed in range(50)]
    assert most // 2 < max(sizes) <= most

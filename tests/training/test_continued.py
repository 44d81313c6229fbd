"""Published models that learn on from raw text, and stay in their own format."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from chatglm import checkpoint
from chatglm.data.prepare import prepare
from chatglm.tokenizer import load_tokenizer
from chatglm.training.config import read_recipe
from chatglm.training.log import read_metrics
from chatglm.training.run import train

GENERATIONS = [
    "glm-large-chinese", "chatglm-6b", "chatglm2-6b", "chatglm3-6b", "glm-4-9b-chat",
    "glm-4-9b-chat-hf", "glm-4-9b-0414", "glm-4.5-air",
]  # fmt: skip
RECIPE = """
output = "{output}"
{more}
start = "{start}"
steps = 12
length = 24
batch_rows = 4
micro_rows = 4
precision = "float32"
log_steps = 1
threads = 1
sources = [{sources}]
[optim]
kind = "adamw"
lr = 1e-2
warmup_steps = 0
"""


def recipe(folder: Path, start: Path, objectives: list[str], tokenizer: Path | None = None) -> Path:
    """A run of some steps over one line of text, with each objective."""
    more = f'tokenizer = "{tokenizer}"' if tokenizer else ""
    (folder / "corpus.txt").write_text("今天天气很好。\n" * 20, "utf-8")
    prepare(
        [str(folder / "corpus.txt")],
        load_tokenizer(tokenizer or start),
        folder / "data",
        validation_fraction=0,
    )
    sources = ", ".join(f'{{path="{folder / "data"}", objective="{o}"}}' for o in objectives)
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(output=folder / "run", more=more, start=start, sources=sources))
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary of one line, as small as those of the oracles."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("words")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=40, show_progress=False)
    tokenizer.train_from_iterator(["今天天气很好。"] * 9, trainer)
    marks = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
    marks += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    tokenizer.add_special_tokens(marks)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"chatglm_generation": "nano"}')
    return folder


@pytest.mark.parametrize("name", GENERATIONS)
def test_every_generation_learns_on_and_is_saved_in_its_own_format(
    shared: Path, words: Path, tmp_path: Path, name: str
) -> None:
    start = tmp_path / name
    shutil.copytree(shared / "oracles" / name, start)
    shutil.copy(words / "tokenizer.json", start)
    before = checkpoint.load(start, dtype="float32")
    objectives = ["causal", "blank", *(["masked"] if before.config.context == "prefix" else [])]
    result = train(read_recipe(recipe(tmp_path, start, objectives)))
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert sum(losses[-3:]) < sum(losses[:3]) - 3
    after = checkpoint.load(result, dtype="float32")
    assert after.config == before.config
    assert after.format == before.format
    for file in ("config.json", "tokenizer.json"):
        assert (result / file).read_bytes() == (start / file).read_bytes()
    assert not torch.equal(
        after.model.layers[0].attention.out.weight, before.model.layers[0].attention.out.weight
    )


def test_a_model_without_rows_for_its_words_is_refused(
    shared: Path, toy: Path, tmp_path: Path
) -> None:
    start = shared / "oracles" / "chatglm3-6b"
    with pytest.raises(ValueError, match="has 192 rows of words and the tokenizer 3"):
        train(read_recipe(recipe(tmp_path, start, ["causal"], toy)))

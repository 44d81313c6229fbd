"""A training run of a few seconds."""

from __future__ import annotations

import json
from pathlib import Path

from chatglm.data.prepare import prepare
from chatglm.tokenizer import load_tokenizer

RECIPE = """
output = ""
tokenizer = "{toy}"
steps = 6
length = 32
batch_rows = 8
micro_rows = 2
precision = "float32"
loss_chunk = 24
log_steps = 1
validate_steps = 3
validate_rows = 6
save_steps = 3
threads = 1

[model]
num_layers = 2
hidden_size = 32
num_heads = 4
num_kv_heads = 2
head_dim = 8
ffn_size = 48
vocab_size = 320
max_length = 64
bias = "none"
tied = true

[optim]
kind = "adamw"
lr = 0.02
warmup_steps = 2
decay_steps = 3
clip = 0.5

[[sources]]
path = "{data}"

[[validation]]
path = "{data}"
"""


def write_recipe(toy: Path, folder: Path) -> str:
    """A recipe over some lines of text, in the folder."""
    words = ["今天", "天气", "很好", "适合", "出门", "你好", "程序员"]
    texts = [{"text": f"{i}" + "".join(words[j % 7] for j in range(i % 9, i))} for i in range(60)]
    (folder / "text.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts), "utf-8")
    text = str(folder / "text.jsonl")
    prepare([text], load_tokenizer(toy), folder / "text", validation_fraction=0.2)
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(toy=toy, data=folder / "text"), "utf-8")
    return str(path)

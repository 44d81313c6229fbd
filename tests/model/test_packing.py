"""Rows of several documents: each is read as if it stood alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from chatglm.config import ModelConfig
from chatglm.data.blank import BlankIds, blank_out
from chatglm.data.epochs import fill_rows
from chatglm.data.example import causal_example
from chatglm.model import Transformer, document_mask
from chatglm.prompt import Prompt, positions
from chatglm.training.rows import as_batch
from chatglm.training.start import initialize

SHAPE = ModelConfig(
    num_layers=2, hidden_size=16, num_heads=2, num_kv_heads=1, head_dim=8, ffn_size=24,
    vocab_size=32, max_length=64,
)  # fmt: skip
PROMPTS = [
    Prompt(tokens=(3, 1, 4, 1, 5), prefix=3, hole=1),
    Prompt(tokens=(9, 2, 6, 5, 3, 5, 8), prefix=7, hole=0),
    Prompt(tokens=(9, 7), prefix=1, hole=0),
]


@pytest.mark.parametrize("context", ["causal", "prefix"])
@pytest.mark.parametrize("position", ["rope", "learned_2d"])
@torch.inference_mode()
def test_packed_documents_equal_each_alone(context: str, position: str) -> None:
    shape = replace(SHAPE, context=context, position=position)  # type: ignore[arg-type]
    model = Transformer(shape).double().eval()
    initialize(model, seed=2)
    planes = shape.num_planes
    lengths = [len(prompt.tokens) for prompt in PROMPTS]
    places = [positions(prompt, len(prompt.tokens), planes) for prompt in PROMPTS]
    tokens = torch.tensor([[token for prompt in PROMPTS for token in prompt.tokens]])
    documents = torch.tensor([np.repeat(range(len(PROMPTS)), lengths).tolist()])
    seen = torch.cat([torch.arange(n) < p.prefix for n, p in zip(lengths, PROMPTS, strict=True)])
    mask = document_mask(documents, seen[None] if context == "prefix" else None)
    packed = model(tokens, torch.tensor([np.concatenate(places, 1).tolist()]), mask)[0]
    for piece, prompt, place in zip(packed.split(lengths), PROMPTS, places, strict=True):
        alone = torch.zeros(1, len(prompt.tokens), dtype=torch.long)
        bounds = torch.tensor([[i < prompt.prefix for i in range(len(prompt.tokens))]])
        single = document_mask(alone, bounds if context == "prefix" else None)
        expected = model(torch.tensor([prompt.tokens]), torch.tensor([place]), single)[0]
        torch.testing.assert_close(piece, expected)


@pytest.mark.parametrize("position", ["rope", "rope_2d"])
def test_what_is_learnt_of_blanks_stands_where_it_is_asked_for(position: str) -> None:
    ids = BlankIds(mask=1, sentence_mask=2, document_mask=3, start=4, end=5)
    text = np.arange(10, 30)
    example = blank_out(text, [(6, 9)], ids.mask, ids)
    rows = fill_rows([[causal_example(np.arange(10, 16), 5), example]], pad=0)
    config = replace(SHAPE, position=position)  # type: ignore[arg-type]
    batch = as_batch(rows, config)
    tokens = tuple(example.tokens.tolist())
    prompt = Prompt(tokens=tokens, prefix=example.prefix, hole=6)
    found = batch.positions[0, :, 7 : 7 + len(tokens)].tolist()
    assert found == positions(prompt, len(tokens), config.num_planes)
    assert batch.positions[0, 0, :7].tolist() == list(range(7))

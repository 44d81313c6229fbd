"""Greedy replies and logits of the official code, through the public class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chatglm import ChatGLM
from chatglm.generation.engine import Engine
from chatglm.generation.sampling import Sampling

CAUSAL = [
    "chatglm2-6b",
    "chatglm3-6b",
    "glm-4-9b-chat",
    "glm-4-9b-chat-hf",
    "glm-4-9b-0414",
    "glm-4.5-air",
]


def load(folder: Path) -> tuple[ChatGLM, dict[str, torch.Tensor]]:
    model = ChatGLM.from_pretrained(folder, dtype="float32", device="cpu")
    assert isinstance(model, ChatGLM)
    return model, load_file(folder / "expected.safetensors")


@pytest.mark.parametrize("name", CAUSAL)
def test_greedy_replies_of_causal_models_are_the_official_ones(shared: Path, name: str) -> None:
    model, expected = load(shared / "oracles" / name)
    prompt = expected["input_ids"][0]
    torch.testing.assert_close(model.logits(prompt), expected["logits"][0], atol=1e-4, rtol=0)
    reply = model.generate_ids(prompt, max_new_tokens=12, temperature=0, stop_ids=())
    assert reply == expected["greedy_ids"][0].tolist()


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm-6b-ptuning"])
@pytest.mark.parametrize("part", ["gmask", "mask"])
def test_greedy_replies_of_chatglm_6b_are_the_official_ones(
    shared: Path, name: str, part: str
) -> None:
    model, expected = load(shared / "oracles" / name)
    ids, logits = expected[f"{part}.input_ids"][0], expected[f"{part}.logits"][0]
    torch.testing.assert_close(model.logits(ids), logits, atol=1e-4, rtol=0)
    prompt = expected[f"{part}.greedy_prompt"][0]
    reply = model.generate_ids(prompt, max_new_tokens=12, temperature=0, stop_ids=())
    assert reply == expected[f"{part}.greedy_ids"][0].tolist()


def test_blanks_of_the_first_glm_are_filled_as_officially(shared: Path) -> None:
    model, expected = load(shared / "oracles" / "glm-large-chinese")
    prompt = expected["fill.prompt"][0]
    reply = model.generate_ids(
        prompt,
        max_new_tokens=10,
        temperature=0,
        stop_ids=(),
        context_length=len(prompt) - 1,
        hole=int(expected["fill.blank_position"]),
    )
    assert reply == expected["fill.greedy_ids"][0].tolist()


def test_prefix_prompts_of_unequal_length_in_one_batch_equal_each_alone(shared: Path) -> None:
    model, expected = load(shared / "oracles" / "chatglm-6b")
    sampling = Sampling(temperature=0, max_new_tokens=12, stop_ids=frozenset())
    parts = ("gmask", "mask")
    engine = Engine(model.transformer)
    ids = [engine.add(model.prompt(expected[f"{p}.greedy_prompt"][0]), sampling) for p in parts]
    replies: dict[int, list[int | None]] = {i: [] for i in ids}
    while engine.busy:
        for output in engine.step():
            replies[output.id].append(output.token)
    for i, part in zip(ids, parts, strict=True):
        assert replies[i] == expected[f"{part}.greedy_ids"][0].tolist()

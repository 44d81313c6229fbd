"""Training beside PEFT: the same adapter from the same start gives the same losses, and what is
saved here loads there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chatglm import checkpoint
from chatglm.adapters.lora import LoraLinear, LoraPart
from chatglm.adapters.prefix import PrefixTuned
from chatglm.data.epochs import fill_rows
from chatglm.data.example import Example
from chatglm.prompt import Prompt, positions
from chatglm.training.batch import Batch
from chatglm.training.methods import put_on, save_result
from chatglm.training.objectives import Network, next_word_loss
from chatglm.training.rows import as_batch
from chatglm.training.tuning import TuneConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    import chatglm.integrations.transformers  # noqa: F401

OFFICIAL = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
NATIVE = ["q_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]
MODELS = [
    ("chatglm-6b", OFFICIAL),
    ("chatglm3-6b", OFFICIAL),
    ("glm-4-9b-chat", OFFICIAL),
    ("glm-4-9b-chat-hf", NATIVE),
    ("glm-4-9b-0414", NATIVE),
]
STEPS = 20


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def conversations(loaded: checkpoint.Loaded, count: int) -> list[Example]:
    """Chance ids with a question, the marks of the generation, and a reply that is learnt."""
    chance = np.random.default_rng(0)
    examples = []
    for _ in range(count):
        words = chance.integers(8, min(loaded.config.vocab_size, 120), 24)
        prefix, hole = 0, None
        if loaded.config.context == "prefix":
            words[10], words[11] = loaded.layout.gmask, loaded.layout.sop
            prefix, hole = 11, 10
        labels = np.full(24, -100)
        labels[11:23] = words[12:24]
        prompt = Prompt(tokens=tuple(words.tolist()), prefix=prefix, hole=hole)
        places = np.array(positions(prompt, 24, 2))
        examples.append(Example(tokens=words, labels=labels, positions=places, prefix=prefix))
    return examples


def our_batch(examples: list[Example], loaded: checkpoint.Loaded) -> Batch:
    return as_batch(fill_rows([[example] for example in examples], 0), loaded.config)


def their_loss(model: torch.nn.Module, examples: list[Example]) -> torch.Tensor:
    tokens = torch.from_numpy(np.stack([example.tokens for example in examples]))
    labels = torch.full_like(tokens, -100)
    labels[:, 12:] = tokens[:, 12:]
    return model(input_ids=tokens, labels=labels, use_cache=False).loss


def our_losses(network: Network, batches: list[Batch], lr: float) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr)
    losses = []
    for batch in batches:
        total, count = next_word_loss(network, batch, chunk=7)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total / count))
    return losses


def their_losses(model: torch.nn.Module, batches: list[list[Example]], lr: float) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr)
    losses = []
    for batch in batches:
        loss = their_loss(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def by_peft(source: Path, folder: Path, **settings: object) -> torch.nn.Module:
    torch.manual_seed(1)
    base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(("name", "targets"), MODELS)
@pytest.mark.parametrize("is_dora", [False, True])
def test_twenty_steps_of_lora_are_pefts(
    shared: Path, tmp_path: Path, name: str, targets: list[str], is_dora: bool
) -> None:
    source = shared / "oracles" / name
    theirs = by_peft(source, tmp_path, r=4, lora_alpha=8, target_modules=targets, use_dora=is_dora)
    loaded = checkpoint.load(source, adapter=tmp_path, dtype="float32")
    for module in loaded.model.modules():
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(isinstance(module, LoraPart))
    loaded.model.train()
    groups = [conversations(loaded, 2)] * STEPS
    expected = their_losses(theirs, groups, 1e-2)
    mine = our_losses(loaded.model, [our_batch(group, loaded) for group in groups], 1e-2)
    assert expected[-1] < expected[0] - 0.05
    assert mine == pytest.approx(expected, abs=1e-4)


def tuned(
    source: Path, folder: Path, method: str, **changes: object
) -> tuple[checkpoint.Loaded, Network]:
    """A base with a method's parts, trained for a few steps and saved."""
    loaded = checkpoint.load(source, dtype="float32")
    config = TuneConfig(
        output_dir=str(folder), data=("-",), model=str(source), method=method,
        prefix_length=5, lora_rank=4, seed=3, **changes,
    )  # fmt: skip
    network = put_on(loaded, config)
    loaded.model.train()
    lr = 0.3 if method == "ptuning" else 1e-2
    our_losses(network, [our_batch(conversations(loaded, 2), loaded)] * 4, lr)
    loaded.model.eval()
    save_result(loaded, network, config)
    return loaded, network


@pytest.mark.parametrize(("name", "targets"), MODELS)
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapter_that_was_trained_here_gives_peft_the_same_loss(
    shared: Path, tmp_path: Path, name: str, targets: list[str], method: str
) -> None:
    source = shared / "oracles" / name
    loaded, network = tuned(source, tmp_path, method, rslora=method == "lora")
    examples = conversations(loaded, 3)
    base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        total, count = next_word_loss(network, our_batch(examples, loaded))
        expected = float(their_loss(theirs, examples))
    assert float(total / count) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm3-6b", "glm-4-9b-chat-hf"])
@pytest.mark.parametrize("projects", [False, True])
def test_a_prefix_that_was_trained_here_gives_peft_the_same_loss(
    shared: Path, tmp_path: Path, name: str, projects: bool
) -> None:
    source = shared / "oracles" / name
    loaded, network = tuned(source, tmp_path, "ptuning", prefix_projection=projects)
    examples = conversations(loaded, 3)
    base = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        total, count = next_word_loss(network, our_batch(examples, loaded))
        tokens = torch.from_numpy(np.stack([example.tokens for example in examples]))
        labels = torch.full_like(tokens, -100)
        labels[:, 12:] = tokens[:, 12:]
        seen = torch.ones_like(tokens)
        expected = float(theirs(input_ids=tokens, labels=labels, attention_mask=seen).loss)
    assert float(total / count) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm3-6b"])
@pytest.mark.parametrize("projects", [False, True])
def test_a_prefix_loads_from_pefts_and_from_the_official_format(
    shared: Path, tmp_path: Path, name: str, projects: bool
) -> None:
    source = shared / "oracles" / name
    _, network = tuned(source, tmp_path, "ptuning", prefix_projection=projects)
    assert isinstance(network, PrefixTuned)
    expected = network.encoder().detach()
    for loaded in (
        checkpoint.load(source, adapter=tmp_path),
        checkpoint.load(tmp_path / "official"),
    ):
        assert loaded.prefix is not None
        torch.testing.assert_close(loaded.prefix, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["chatglm-6b", "glm-4-9b-chat-hf"])
def test_a_merged_dora_scores_as_it_did_apart(shared: Path, tmp_path: Path, name: str) -> None:
    loaded, network = tuned(shared / "oracles" / name, tmp_path, "dora")
    batch = our_batch(conversations(loaded, 2), loaded)
    with torch.no_grad():
        before = next_word_loss(network, batch)[0]
        checkpoint.merge_adapter(replace_adapter(loaded, tmp_path))
        assert not any(isinstance(m, LoraLinear) for m in loaded.model.modules())
        torch.testing.assert_close(
            next_word_loss(loaded.model, batch)[0], before, rtol=1e-5, atol=0
        )


def replace_adapter(loaded: checkpoint.Loaded, folder: Path) -> checkpoint.Loaded:
    return replace(loaded, adapter=folder)


@pytest.mark.parametrize("name", ["chatglm-6b-int4", "chatglm-6b-int8", "chatglm2-6b-int4"])
@pytest.mark.parametrize("method", ["lora", "dora", "ptuning"])
def test_the_familys_own_quantized_files_are_tuned_as_they_are(
    shared: Path, tmp_path: Path, name: str, method: str
) -> None:
    source = shared / "oracles" / name
    loaded = checkpoint.load(source)
    config = TuneConfig(output_dir=str(tmp_path), data=("-",), method=method, prefix_length=4)
    network = put_on(loaded, config)
    loaded.model.train()
    batch = our_batch(conversations(loaded, 2), loaded)
    losses = our_losses(network, [batch] * 8, 0.3 if method == "ptuning" else 2e-2)
    assert losses[-1] < losses[0] - 0.02

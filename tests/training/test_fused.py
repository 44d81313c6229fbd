"""What is fused for training is the network it was: loss and every gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from chatglm.adapters.lora import LoraLinear, Update
from chatglm.config import ModelConfig
from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.training.batch import Batch
from chatglm.training.fused import fuse, unfuse
from chatglm.training.objectives import next_word_loss, summed_cross_entropy

SHAPE = ModelConfig(
    num_layers=2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8, ffn_size=48,
    vocab_size=90, max_length=64, bias="qkv",
)  # fmt: skip
SHAPES = {
    "interleaved": SHAPE,
    "halves": replace(SHAPE, rope_pairs="half", rope_fraction=1.0),
    "sandwich": replace(SHAPE, residual="sandwich", tied=True),
    "qk_norm": replace(SHAPE, qk_norm=True),
}


def batch_of(config: ModelConfig) -> Batch:
    """Three packed rows with a question that is not learnt."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, config.vocab_size, (3, 20), generator=generator)
    labels = tokens.roll(-1, 1)
    labels[:, :5] = labels[:, -1:] = -100
    documents = torch.zeros_like(tokens)
    documents[1, 9:] = 1
    positions = torch.arange(20).expand(3, 1, -1)
    return Batch(tokens=tokens, labels=labels, positions=positions, documents=documents)


def network(config: ModelConfig, *, lora: bool) -> Transformer:
    """A network of chance weights; lora: frozen below two updates of each qkv and up."""
    torch.manual_seed(0)
    model = Transformer(config)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    if lora:
        model.requires_grad_(False)
        for name, module in list(model.named_modules()):
            if name.endswith(("qkv", "up")):
                rows, columns = module.weight.shape
                updates = [
                    Update(start=at, a=torch.randn(3, columns), b=torch.randn(10, 3), scale=0.5)
                    for at in (0, rows - 12)
                ]
                replace_module(model, name, LoraLinear(module, updates))
    return model


def gradients(model: Transformer, *, chunk: int = 0) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a batch."""
    model.zero_grad()
    loss, _ = next_word_loss(model, batch_of(model.config), chunk=chunk)
    loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return float(loss.detach()), {n: p.grad for n, p in trained.items() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_a_fused_network_has_the_same_loss_and_gradients(name: str, lora: bool) -> None:
    model = network(SHAPES[name], lora=lora)
    loss, wanted = gradients(model)
    fuse(model)
    fused_loss, found = gradients(model, chunk=7)
    assert fused_loss == pytest.approx(loss, rel=1e-5)
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-4)


def test_an_unfused_network_computes_as_before() -> None:
    model = network(SHAPE, lora=True)
    before = {id(m): m.forward for m in model.modules()}
    fuse(model)
    assert any(before[id(m)] != m.forward for m in model.modules())
    unfuse(model)
    assert all(before[id(m)] == m.forward for m in model.modules())


def test_the_loss_and_its_gradients_are_those_of_the_whole_logits() -> None:
    model = network(SHAPE, lora=False)
    batch = batch_of(SHAPE)
    hidden = model(batch.tokens, batch.positions, batch.mask()).flatten(0, 1)
    plain = summed_cross_entropy(model, hidden, batch.labels.flatten())
    loss, _ = next_word_loss(model, batch, chunk=11)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(loss, parameters),
        torch.autograd.grad(plain, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)

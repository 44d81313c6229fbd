"""What the children do until they are killed; the kill comes after the first `yield`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

# What the work imports on its way, once for all children.
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import torch
import torch._dynamo

from chatglm import checkpoint
from chatglm.config import ModelConfig
from chatglm.model import Transformer
from chatglm.tokenizer import load_tokenizer
from chatglm.training.config import OptimConfig, read_recipe
from chatglm.training.optim import make_optimizers
from chatglm.training.publish import publish
from chatglm.training.run import train
from chatglm.training.state import newest, save_state

SHAPE = ModelConfig(
    num_layers=2, hidden_size=32, num_heads=2, num_kv_heads=1, head_dim=16, ffn_size=48,
    vocab_size=320, max_length=64, tied=True, bias="none",
)  # fmt: skip

torch.set_num_threads(1)


def run_recipe(recipe: str, output: str) -> Iterator[None]:
    """Train to the end, going on from what is there."""
    config = read_recipe(recipe, [f"output={output}"])
    yield
    with contextlib.redirect_stderr(io.StringIO()):
        train(config)


def number_of(model: torch.nn.Module) -> int:
    """The number that all weights of a model are; fails where they are not one number."""
    values = {float(v) for tensor in model.state_dict().values() for v in tensor.unique()}
    assert len(values) == 1, f"weights of several saves in one: {values}"
    return int(values.pop())


def fill(model: torch.nn.Module, number: int) -> None:
    """Make all weights one number."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float(number))


def save_run(directory: str) -> Iterator[None]:
    """Save one checkpoint of a run after the other; all weights are the number of the step."""
    last = newest(Path(directory))
    first = 0 if last is None else int(last.name.removeprefix("step-"))
    model = Transformer(SHAPE)
    optimizers = make_optimizers(model.named_parameters(), OptimConfig(kind="adamw"))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers["adamw"].step()
    yield
    for step in range(first + 1, first + 1000):
        fill(model, step)
        save_state(
            Path(directory),
            step=step,
            model=model,
            optimizers=optimizers,
            state={"tokens": step},
            keep=2,
        )


def publish_model(toy: str, directory: str, number: int) -> Iterator[None]:
    """Write a model directory over the one before; all weights are one number, below 128."""
    model = Transformer(SHAPE)
    tokenizer = load_tokenizer(toy)
    yield
    while True:
        number = number % 127 + 1  # whole in bfloat16
        fill(model, number)
        publish(model, tokenizer, Path(directory))


def save_model(toy: str, directory: str) -> Iterator[None]:
    """Save a model to one new place after the other."""
    loaded = checkpoint.load(toy)
    yield
    for number in range(10_000):
        checkpoint.save(loaded, Path(directory) / f"model-{number}")

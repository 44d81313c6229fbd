"""Several adapters beside one base in one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from chatglm.adapters.lora import LoraLinear, Update
from chatglm.generation.adapters import bare_twin
from chatglm.generation.engine import Engine
from chatglm.generation.sampling import Sampling
from chatglm.model import Transformer
from chatglm.model.surgery import module_at, replace_module
from chatglm.prompt import Prompt

Tiny = Callable[[str], Transformer]
NAMES = ["layers.0.attention.qkv", "layers.1.mlp.down", "layers.1.attention.out"]
SAMPLING = Sampling(temperature=0, max_new_tokens=12, logprobs=0)


def adapted(model: Transformer, seed: int) -> Transformer:
    """The model, over the same weights, with random updates on some of its linears."""
    twin = bare_twin(model)
    assert isinstance(twin, Transformer)
    generator = torch.Generator().manual_seed(seed)
    for name in NAMES:
        linear = module_at(twin, name)
        assert isinstance(linear, torch.nn.Linear)
        rows, columns = linear.weight.shape
        a = torch.randn(4, columns, generator=generator)
        b = torch.randn(rows, 4, generator=generator)
        replace_module(twin, name, LoraLinear(linear, [Update(start=0, a=a, b=b, scale=0.2)]))
    return twin


def told(engine: Engine, prompt: Prompt, sampling: Sampling) -> list[tuple[int | None, float]]:
    return [(o.token, round(o.logprob or 0, 3)) for o in engine.stream(prompt, sampling)]


@pytest.mark.parametrize("kind", ["rope", "rope_2d_prefix", "rope_tied"])
def test_requests_of_one_batch_go_through_their_own_adapters(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    ways: dict[str | None, Transformer] = {None: model, "a": adapted(model, 1)}
    ways["b"] = adapted(model, 2)
    prompt = Prompt(tokens=tuple(range(20, 60)), prefix=0 if kind != "rope_2d_prefix" else 40)
    alone = {name: told(Engine(way), prompt, SAMPLING) for name, way in ways.items()}
    assert len({str(reply) for reply in alone.values()}) == 3
    engine = Engine(model)
    for name in ("a", "b"):
        engine.add_adapter(name, ways[name])
    ids = {}
    for name in ("a", None, "b", "a", None):
        ids[engine.add(prompt, replace(SAMPLING, adapter=name))] = name
    outputs: dict[int, list[tuple[int | None, float]]] = {i: [] for i in ids}
    while engine.busy:
        for o in engine.step():
            outputs[o.id].append((o.token, round(o.logprob or 0, 3)))
    for i, name in ids.items():
        assert [token for token, _ in outputs[i]] == [token for token, _ in alone[name]]
        got, expected = ([score for _, score in r] for r in (outputs[i], alone[name]))
        assert got == pytest.approx(expected, abs=2e-3)
    assert list(model.state_dict()) == list(tiny(kind).state_dict())


def test_adapters_share_nothing_of_the_prefix_cache(tiny: Tiny) -> None:
    model = tiny("rope")
    engine = Engine(model)
    engine.add_adapter("a", adapted(model, 1))
    prompt = Prompt(tokens=tuple(range(50)))
    cached = []
    for name in (None, "a", "a", None):
        sampling = replace(SAMPLING, adapter=name)
        cached.append(next(iter(engine.stream(prompt, sampling))).num_cached)
    assert cached == [0, 0, 48, 48]


def test_an_unknown_adapter_is_refused(tiny: Tiny) -> None:
    engine = Engine(tiny("rope"))
    with pytest.raises(ValueError, match="there is no adapter 'x'; known are: none"):
        engine.add(Prompt(tokens=(1,)), replace(SAMPLING, adapter="x"))


def test_an_adapter_on_what_all_share_is_refused(tiny: Tiny) -> None:
    model = tiny("rope")
    twin = bare_twin(model)
    assert isinstance(twin, Transformer)
    update = Update(start=0, a=torch.zeros(2, 32), b=torch.zeros(96, 2), scale=1.0)
    replace_module(twin, "head", LoraLinear(module_at(twin, "head"), [update]))
    with pytest.raises(ValueError, match="the adapter 'a' changes the head"):
        Engine(model).add_adapter("a", twin)

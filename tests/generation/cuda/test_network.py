"""Whole models through the Triton kernels, prompts and replies, against PyTorch's operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chatglm.generation.adapters import bare_twin
from chatglm.generation.cuda.graphs import size_for
from chatglm.generation.engine import Engine
from chatglm.generation.sampling import Sampling
from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.prompt import Prompt, positions

Build = Callable[..., Engine]
Tiny = Callable[[str], Transformer]


def prompt_of(model: Transformer, length: int, seed: int) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    tokens = tuple(torch.randint(0, 90, (length,), generator=generator).tolist())
    is_prefix = model.config.context == "prefix"
    return Prompt(tokens=tokens, prefix=length - 1, hole=length - 2) if is_prefix else Prompt(
        tokens=tokens
    )  # fmt: skip


def drain(engine: Engine) -> dict[int, list[tuple[int, float]]]:
    """Tokens and log-probabilities by request."""
    found: dict[int, list[tuple[int, float]]] = {}
    while engine.busy:
        for output in engine.step():
            assert output.error is None, output.error
            assert output.token is not None
            assert output.logprob is not None
            found.setdefault(output.id, []).append((output.token, output.logprob))
    return found


def check_replies(
    model: Transformer, prompts: list[Prompt], replies: list[list[tuple[int, float]]]
) -> None:
    """Each token's log-probability is that of a full forward without a cache."""
    model = model.cpu()
    for prompt, reply in zip(prompts, replies, strict=True):
        tokens = [*prompt.tokens, *(token for token, _ in reply)]
        places = torch.tensor([positions(prompt, len(tokens), model.config.num_planes, 0)])
        mask = torch.ones(len(tokens), len(tokens)).tril().bool()
        if model.config.context == "prefix":
            mask[:, : prompt.prefix] = True
        with torch.inference_mode():
            hidden = model(torch.tensor([tokens]), places, mask[None, None])
            logs = model.logits(hidden)[0].log_softmax(-1)
        for i, (token, logprob) in enumerate(reply, len(prompt.tokens) - 1):
            assert logprob == pytest.approx(float(logs[i, token]), abs=1e-4)


@pytest.mark.parametrize(
    ("which", "records"),
    [("rope", True), ("rope", False), ("rope_half_sandwich", True), ("rope_2d_prefix", False),
     ("learned_2d_prefix", True), ("experts", False)],
)  # fmt: skip
def test_replies_are_those_of_a_full_forward(
    tiny: Tiny, which: str, records: bool, engine_with_kernels: Build
) -> None:
    model = tiny(which)
    engine = engine_with_kernels(model, chunk_size=8)
    network = engine.runner.network
    assert network is not None
    network.can_record &= records
    prompts = [prompt_of(model, length, length) for length in (2, 9)]
    sampling = Sampling(temperature=0, max_new_tokens=2, logprobs=1)
    ids = [engine.add(prompt, sampling) for prompt in prompts]
    replies = drain(engine)
    check_replies(model, prompts, [replies[i] for i in ids])
    assert bool(network.recordings.known) == network.can_record


def test_what_is_tried_ahead_changes_no_reply(tiny: Tiny, engine_with_kernels: Build) -> None:
    model = tiny("rope")
    engine = engine_with_kernels(model)
    prompt = Prompt(tokens=(5, 6, 7, 5, 6))
    replies = []
    for ahead in (0, 4):
        sampling = Sampling(temperature=0, max_new_tokens=3, logprobs=1, speculate=ahead)
        engine.add(prompt, sampling)
        replies.append(next(iter(drain(engine).values())))
    check_replies(model, [prompt, prompt], replies)


def test_a_learned_prefix_stands_before_the_sequence(
    tiny: Tiny, engine_with_kernels: Build
) -> None:
    model = tiny("rope")
    config = model.config
    learned = torch.randn(config.num_layers, 2, config.num_kv_heads, 5, config.head_dim)
    sampling = Sampling(temperature=0, max_new_tokens=3, logprobs=1)
    plain = [o.logprob for o in Engine(tiny("rope"), learned_prefix=learned).stream(
        Prompt(tokens=(1, 2, 3)), sampling)]  # fmt: skip
    engine = engine_with_kernels(model, learned_prefix=learned)
    ours = [o.logprob for o in engine.stream(Prompt(tokens=(1, 2, 3)), sampling)]
    assert ours == pytest.approx(plain, abs=1e-4)


def test_recorded_sizes_hold_their_tokens_and_are_few() -> None:
    sizes = [size_for(count) for count in range(1, 129)]
    assert all(size >= count for count, size in enumerate(sizes, 1))
    assert len(set(sizes)) == 12


def test_requests_of_several_adapters_share_a_batch(tiny: Tiny, engine_with_kernels: Build) -> None:
    model = tiny("rope")
    other = bare_twin(model)
    assert isinstance(other, Transformer)
    for name, linear in list(other.named_modules()):
        if name.endswith("mlp.up"):
            assert isinstance(linear, torch.nn.Linear)
            changed = Changed(linear)
            replace_module(other, name, changed)
    engine = engine_with_kernels(model)
    engine.add_adapter("other", other)
    prompt = Prompt(tokens=(5, 6, 7))
    ways = {None: model, "other": other}
    ids = {
        engine.add(prompt, Sampling(temperature=0, max_new_tokens=2, logprobs=1, adapter=name)): way
        for name, way in ways.items()
    }
    replies = drain(engine)
    for i, way in ids.items():
        check_replies(way, [prompt], [replies[i]])


class Changed(torch.nn.Module):
    """A linear whose results are twice as large."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear, self.factor = linear, torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.factor * self.linear(x)
        return y

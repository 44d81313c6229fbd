"""The same request gives the same bytes, whatever else runs (goal R16).

To the bit where the native kernels are built, which compute each row in an order of its own.
Machines without them agree to rounding only, which `tests/generation` checks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from chatglm import checkpoint
from chatglm.checkpoint import Loaded
from chatglm.generation import native
from chatglm.generation.engine import Engine, Output
from chatglm.generation.packed import can_pack
from chatglm.generation.sampling import Sampling
from chatglm.prompt import Prompt

pytestmark = pytest.mark.skipif(
    native.kernel() is None, reason="to the bit only with the native kernels"
)
Told = tuple[tuple[int, int | None, str | None, float | None, tuple[tuple[int, float], ...]], ...]

SYSTEM = "你是一个客服助手，请根据商店的规定回答顾客的问题。退货须在七天之内，运费由顾客承担。" * 2
QUESTIONS = ["你好", "可以退货吗？", "运费是多少？", "什么时候发货？", "今天天气很好，适合出门。"]


@dataclass(frozen=True)
class Ask:
    """A request of the load."""

    prompt: Prompt
    sampling: Sampling


def told(outputs: list[Output]) -> Told:
    """All that a user sees of a reply, to the last bit."""
    return tuple(
        (o.index, o.token, o.finish, o.logprob, tuple((o.top_logprobs or {}).items()))
        for o in sorted(outputs, key=lambda o: o.index)
    )


def requests(loaded: Loaded, count: int) -> list[Ask]:
    """Unlike requests, many of which begin alike."""
    chance = random.Random(0)
    assert loaded.tokenizer is not None
    words = loaded.config.vocab_size
    asks = []
    for i in range(count):
        text = (SYSTEM if i % 2 else "") + chance.choice(QUESTIONS)
        tokens = loaded.tokenizer.encode(text) + chance.choices(range(words), k=i % 7)
        settings: dict[str, object] = {
            "temperature": (0.0, 0.7, 1.2)[i % 3],
            "top_p": (1.0, 0.9)[i % 2],
            "repetition_penalty": (1.0, 1.1)[i % 4 == 3],
            "speculate": (0, 0, 4)[i % 3],
        }
        if i % 8 == 7:
            settings["n"] = 2
        if i % 11 == 10:
            settings |= {"temperature": 0.0, "num_beams": 2, "n": 1}
        sampling = Sampling(
            seed=i,
            max_new_tokens=chance.randint(8, 40),
            logprobs=2,
            **settings,  # type: ignore[arg-type]
        )
        asks.append(Ask(Prompt(tokens=tuple(tokens)), sampling))
    return asks


def mixes(loaded: Loaded) -> Iterator[tuple[str, Engine]]:
    """Eight engines that batch, chunk, share and run out of room in different ways."""
    model, ends = loaded.model, loaded.defaults.end_ids
    yield "four at once", Engine(model, stop_ids=ends, max_num_seqs=4)
    yield "all at once", Engine(model, stop_ids=ends, max_num_seqs=64)
    yield "nothing shared", Engine(model, stop_ids=ends, prefix_cache=False)
    yield "small pieces", Engine(model, stop_ids=ends, chunk_size=5, max_num_batched_tokens=11)
    yield "one by one", Engine(model, stop_ids=ends, max_num_seqs=2)
    yield "little room", Engine(model, stop_ids=ends, max_num_tokens=224, max_num_seqs=16)
    yield (
        "little room, nothing shared",
        Engine(model, stop_ids=ends, max_num_tokens=224, max_num_seqs=16, prefix_cache=False),
    )
    yield "a draft", Engine(model, stop_ids=ends, draft=model)


def run(engine: Engine, asks: list[Ask], seed: int) -> dict[int, Told]:
    """Replies by number, with arrivals in any order and cancelled strangers in between."""
    chance = random.Random(seed)
    order = chance.sample(range(len(asks)), len(asks))
    mine: dict[int, int] = {}
    strangers: list[int] = []
    outputs: dict[int, list[Output]] = {}
    while order or engine.busy:
        for _ in range(chance.randint(0, 3)):
            if order:
                number = order.pop()
                mine[engine.add(asks[number].prompt, asks[number].sampling)] = number
        if order and chance.random() < 0.3:
            other = chance.choice(asks)
            shorter = Prompt(tokens=other.prompt.tokens[: chance.randint(1, 40)])
            strangers.append(engine.add(shorter, replace(other.sampling, seed=seed)))
        for output in engine.step():
            assert output.error is None
            if output.id in mine:
                outputs.setdefault(mine[output.id], []).append(output)
        if strangers and chance.random() < 0.5:
            engine.abort(strangers.pop(chance.randrange(len(strangers))))
    assert engine.scheduler.num_free == engine.scheduler.num_blocks
    return {number: told(found) for number, found in outputs.items()}


def check(loaded: Loaded, count: int) -> None:
    asks = requests(loaded, count)
    ends = loaded.defaults.end_ids
    alone = {}
    for i, ask in enumerate(asks):
        engine = Engine(loaded.model, stop_ids=ends, prefix_cache=False)
        plain = replace(ask.sampling, speculate=0)
        alone[i] = told(list(engine.stream(ask.prompt, plain)))
    preemptions = hits = 0
    for seed, (name, engine) in enumerate(mixes(loaded)):
        replies = run(engine, asks, seed)
        wrong = [i for i in alone if replies.get(i) != alone[i]]
        assert not wrong, f"{name}: {len(wrong)} of {count} differ, e.g. request {wrong[0]}"
        preemptions += engine.num_preemptions
        hits += engine.prefixes.num_hits
    assert preemptions > 0
    assert hits > 0


def load(dtype: str, quantize: str | None = None) -> Loaded:
    torch.set_num_threads(1)
    loaded = checkpoint.load(None, dtype=dtype, quantize=quantize)
    if quantize is None and not can_pack(loaded.model):
        pytest.skip("only weights in tiles are promised to give the same bytes")
    return loaded


KINDS = [("float32", None), ("bfloat16", None), ("float32", "int8"), ("bfloat16", "int4")]


@pytest.mark.parametrize(("dtype", "quantize"), KINDS)
def test_a_request_gives_the_same_bytes_in_eight_mixes(dtype: str, quantize: str | None) -> None:
    check(load(dtype, quantize), 11)


@pytest.mark.whole
@pytest.mark.parametrize(("dtype", "quantize"), KINDS)
def test_64_requests_give_the_same_bytes_in_eight_mixes(dtype: str, quantize: str | None) -> None:
    check(load(dtype, quantize), 64)

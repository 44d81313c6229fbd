"""Several replies to one prompt: n, best_of, and beam search against transformers' own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chatglm import ChatGLM
from chatglm.generation.engine import Engine, Output
from chatglm.generation.sampling import Sampling
from chatglm.model import Transformer
from chatglm.prompt import Prompt

Tiny = Callable[[str], Transformer]


def prompt_of(model: Transformer, length: int, seed: int = 0) -> Prompt:
    tokens = tuple(random.Random(seed).choices(range(model.config.vocab_size), k=length))
    if model.config.context == "prefix":
        return Prompt(tokens=tokens, prefix=length - 1, hole=length // 2)
    return Prompt(tokens=tokens)


def by_index(outputs: list[Output]) -> dict[int, list[int | None]]:
    replies: dict[int, list[int | None]] = {}
    for output in outputs:
        replies.setdefault(output.index, []).append(output.token)
    return replies


@pytest.mark.parametrize("kind", ["rope", "rope_2d_prefix", "learned_2d_prefix"])
def test_replies_to_one_prompt_share_its_blocks(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    engine = Engine(model, prefix_cache=False)
    sampling = Sampling(temperature=1.0, seed=5, n=3, max_new_tokens=20)
    engine.add(prompt_of(model, 50), sampling)
    engine.step()
    held = {block for claim in engine.scheduler.running.values() for block in claim.blocks}
    assert len(held) == 4  # ceil(50 / 16), and not three times as many
    engine.step()
    held = {block for claim in engine.scheduler.running.values() for block in claim.blocks}
    assert len(held) == 3 + 3  # each writes into a last block of its own
    while engine.busy:
        engine.step()
    assert engine.scheduler.num_free == engine.scheduler.num_blocks


@pytest.mark.parametrize("kind", ["rope", "rope_2d_prefix"])
def test_each_of_n_replies_is_what_its_seed_gives_alone(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    prompt = prompt_of(model, 21)
    sampling = Sampling(temperature=1.0, seed=5, n=4, max_new_tokens=15)
    outputs = list(Engine(model).stream(prompt, sampling))
    replies = by_index(outputs)
    assert sorted(replies) == [0, 1, 2, 3]
    assert len({tuple(reply) for reply in replies.values()}) == 4
    assert sum(output.finish is not None for output in outputs) == 4
    alone = Engine(model).stream(prompt, replace(sampling, n=1))
    assert replies[0] == [o.token for o in alone]
    squeezed = Engine(model, max_num_tokens=80, max_num_seqs=3)
    assert by_index(list(squeezed.stream(prompt, sampling))) == replies
    assert squeezed.num_preemptions > 0


def test_one_of_n_replies_can_be_left(tiny: Tiny) -> None:
    model = tiny("rope")
    engine = Engine(model)
    request = engine.add(prompt_of(model, 9), Sampling(seed=1, n=2, max_new_tokens=8))
    engine.step()
    assert engine.abort(request, 0)
    assert not engine.abort(request, 0)
    outputs = []
    while engine.busy:
        outputs += engine.step()
    assert {output.index for output in outputs} == {1}


def test_the_best_of_many_are_those_of_highest_mean_log_probability(tiny: Tiny) -> None:
    model = tiny("rope")
    prompt = prompt_of(model, 9)
    sampling = Sampling(temperature=1.3, seed=2, n=6, max_new_tokens=10, logprobs=0)
    every = list(Engine(model).stream(prompt, sampling))
    means = {}
    for index, reply in by_index(every).items():
        scores = [o.logprob for o in every if o.index == index and o.logprob is not None]
        means[index] = (sum(scores) / len(scores), reply)
    expected = [reply for _, reply in sorted(means.values(), reverse=True)[:2]]
    best = by_index(list(Engine(model).stream(prompt, replace(sampling, n=2, best_of=6))))
    assert [best[0], best[1]] == expected


SEARCHES = [
    {"num_beams": 2},
    {"num_beams": 4, "length_penalty": 0.0},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 3, "length_penalty": -1.0, "early_stopping": "never"},
    {"num_beams": 4, "length_penalty": 0.6, "early_stopping": "never"},
    {"num_beams": 5, "repetition_penalty": 1.7},
]


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_beam_search_is_that_of_transformers(toy: Path, search: dict[str, object]) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(toy, pad_token_id=1)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        toy, config=config, dtype=torch.float32
    ).eval()
    model = ChatGLM.from_pretrained(toy)
    assert isinstance(model, ChatGLM)
    chance = random.Random(1)
    ends = [3, 50, 97]  # ids that a random model meets often enough
    for length in (1, 5, 12):
        prompt = chance.choices(range(model.config.vocab_size), k=length)
        expected = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, length, dtype=torch.long),
            max_new_tokens=14,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=1,
            num_return_sequences=2,
            **search,
        )[:, length:].tolist()
        sampling = Sampling(
            temperature=0,
            n=2,
            max_new_tokens=14,
            stop_ids=frozenset(ends),
            **search,  # type: ignore[arg-type]
        )
        outputs = list(model.engine.stream(Prompt(tokens=tuple(prompt)), sampling))
        replies = by_index(outputs)
        for index, reply in enumerate(expected):
            got = replies[index]
            assert got == reply[: len(got)]
            assert set(reply[len(got) :]) <= {1}
        assert {o.finish for o in outputs if o.finish} <= {"stop", "length"}


@pytest.mark.parametrize("kind", ["rope", "rope_2d_prefix"])
def test_a_search_is_the_same_after_preemptions_and_leaks_nothing(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    prompt = prompt_of(model, 20)
    sampling = Sampling(temperature=0, num_beams=3, n=3, max_new_tokens=30, logprobs=1)
    expected = list(Engine(model).stream(prompt, sampling))
    engine = Engine(model, max_num_tokens=192)
    longer = Sampling(temperature=0, max_new_tokens=80)
    others = [engine.add(prompt_of(model, 45, i), longer) for i in range(2)]
    search = engine.add(prompt, sampling)
    outputs: dict[int, list[Output]] = {i: [] for i in (*others, search)}
    while engine.busy:
        for output in engine.step():
            outputs[output.id].append(output)
    assert by_index(outputs[search]) == by_index(expected)
    assert [len(outputs[i]) for i in others] == [80, 80]
    assert engine.num_preemptions > 0
    assert engine.scheduler.num_free == engine.scheduler.num_blocks


def test_one_beam_is_greedy_and_more_find_likelier_replies(tiny: Tiny) -> None:
    model = tiny("rope")
    prompt = prompt_of(model, 7)

    def mean(num_beams: int) -> float:
        sampling = Sampling(
            temperature=0, num_beams=num_beams, max_new_tokens=10, logprobs=0, length_penalty=0.0
        )
        return sum(o.logprob or 0.0 for o in Engine(model).stream(prompt, sampling))

    assert mean(8) > mean(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 2}, "num_beams 2 searches for the likeliest replies"),
        ({"num_beams": 2, "temperature": 0, "n": 3}, "n up to num_beams"),
        ({"n": 3, "best_of": 2}, "best_of must be at least n, got 2 for n 3"),
        ({"n": 0}, "n must lie between 1 and 128, got 0"),
        ({"early_stopping": "soon"}, "early_stopping must be True, False or 'never', got 'soon'"),
    ],
)
def test_searches_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)  # type: ignore[arg-type]


def test_a_search_that_the_cache_cannot_hold_is_refused(tiny: Tiny) -> None:
    engine = Engine(tiny("rope"), max_num_tokens=128)
    with pytest.raises(ValueError, match="may come to 4 times 40 tokens and the cache holds 128"):
        engine.add(
            Prompt(tokens=(1,) * 20), Sampling(temperature=0, num_beams=4, max_new_tokens=20)
        )
    assert not engine.busy


def test_the_public_class_searches_without_being_told_a_temperature(model: ChatGLM) -> None:
    first = model.generate("你好", num_beams=3, max_new_tokens=12)
    assert model.generate("你好", num_beams=3, max_new_tokens=12) == first
    assert model.generate_many(["你好"] * 2, num_beams=3, max_new_tokens=12) == [first] * 2

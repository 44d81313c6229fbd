"""Tokens tried ahead: fewer steps, the same replies."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatglm.generation.engine import Engine
from chatglm.generation.sampling import Sampling
from chatglm.generation.speculation import DraftModel, Lookup
from chatglm.model import Transformer
from chatglm.prompt import Prompt

Tiny = Callable[[str], Transformer]


def prompt_of(model: Transformer, length: int, seed: int = 0) -> Prompt:
    words = random.Random(seed).choices(range(model.config.vocab_size), k=7)
    tokens = tuple(words[i % 7] for i in range(length))  # a text that repeats itself
    if model.config.context == "prefix":
        return Prompt(tokens=tokens, prefix=length - 1, hole=length // 2)
    return Prompt(tokens=tokens)


def ask(engine: Engine, prompt: Prompt, sampling: Sampling) -> list[int]:
    return [o.token for o in engine.stream(prompt, sampling) if o.token is not None]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 8))
def test_what_is_looked_up_followed_the_same_tokens(tokens: list[int], count: int) -> None:
    lookup = Lookup()
    for end in range(1, len(tokens) + 1):
        seen = tokens[:end]
        found = lookup.propose(seen, count)
        longest = max(
            (n for n in (4, 3, 2) for i in range(n, end) if seen[i - n : i] == seen[-n:]), default=0
        )
        if not longest:
            assert found == []
            continue
        assert len(found) == count
        at = max(i for i in range(longest, end) if seen[i - longest : i] == seen[-longest:])
        both = seen + found
        assert all(both[end + i] == both[at + i] for i in range(count))


def agreeing(tiny: Tiny) -> Transformer:
    """A model that repeats itself soon, as small models do when they are greedy."""
    model = tiny("rope_tied")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".layers." in f".{name}" and parameter.dim() > 1:
                parameter.mul_(0.5)
    return model


def test_greedy_replies_are_the_same_in_fewer_steps(tiny: Tiny) -> None:
    model = agreeing(tiny)
    for length in (3, 9, 40):
        prompt = prompt_of(model, length)
        sampling = Sampling(temperature=0, max_new_tokens=60, logprobs=1)
        plain, ahead = Engine(model), Engine(model)
        expected = list(plain.stream(prompt, sampling))
        outputs = list(ahead.stream(prompt, replace(sampling, speculate=8)))
        assert [o.token for o in outputs] == [o.token for o in expected]
        for a, b in zip(outputs, expected, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
        assert plain.num_steps == 59
        assert ahead.num_steps + ahead.replies.num_accepted == 59
        assert ahead.num_steps < 30


@pytest.mark.parametrize("kind", ["rope", "rope_2d_prefix", "learned", "experts"])
@pytest.mark.parametrize("has_draft", [False, True])
def test_drawn_replies_are_the_same_with_and_without(
    tiny: Tiny, kind: str, has_draft: bool
) -> None:
    model = tiny(kind)
    draft = tiny(kind) if has_draft else None
    engine = Engine(model, draft=draft)
    for seed in range(8):
        prompt = prompt_of(model, 30, seed)
        sampling = Sampling(
            temperature=0.7, top_p=0.9, seed=seed, max_new_tokens=25, repetition_penalty=1.1
        )
        expected = ask(Engine(model), prompt, sampling)
        assert ask(engine, prompt, replace(sampling, speculate=5)) == expected
    assert engine.replies.num_drafted > 0


def test_speculating_requests_do_not_change_each_other(tiny: Tiny) -> None:
    model = agreeing(tiny)
    engine = Engine(model, max_num_tokens=400, draft=model)
    expected, ids = [], []
    for i in range(8):
        sampling = Sampling(
            temperature=0.5 * (i % 2), seed=i, max_new_tokens=40, speculate=(0, 3, 8)[i % 3]
        )
        prompt = prompt_of(model, 5 + 9 * i, i)
        expected.append(ask(Engine(model), prompt, replace(sampling, speculate=0)))
        ids.append(engine.add(prompt, sampling))
    replies: dict[int, list[int | None]] = {i: [] for i in ids}
    while engine.busy:
        for output in engine.step():
            replies[output.id].append(output.token)
    assert [replies[i] for i in ids] == expected
    assert engine.num_preemptions > 0
    assert engine.scheduler.num_free == engine.scheduler.num_blocks


def test_a_draft_that_is_the_model_itself_is_always_right(tiny: Tiny) -> None:
    model = tiny("rope_tied")
    engine = Engine(model, draft=model)
    prompt = Prompt(tokens=tuple(range(20)))
    sampling = Sampling(temperature=0, max_new_tokens=33, speculate=8)
    assert ask(engine, prompt, sampling) == ask(
        Engine(model), prompt, replace(sampling, speculate=0)
    )
    assert engine.replies.num_accepted == engine.replies.num_drafted
    draft = engine.speculation.draft
    assert draft is not None
    engine.speculation.propose([], ())
    assert draft.pool.num_free == draft.pool.num_blocks


def test_draws_follow_the_distribution_of_the_model(tiny: Tiny) -> None:
    """Two tokens after a fixed prompt, against their exact joint distribution."""
    model = tiny("rope_tied")
    engine = Engine(model, draft=tiny("rope_tied"))
    prompt = (5, 6, 7, 8, 5, 6)
    sampling = Sampling(temperature=1.0, top_k=3, max_new_tokens=3, speculate=4)
    shares: dict[tuple[int, int], float] = {}
    with torch.inference_mode():
        for first, p in top_three(model, prompt):
            for second, q in top_three(model, (*prompt, first)):
                shares[first, second] = p * q
    count = 1500
    seen: Counter[tuple[int, int]] = Counter()
    ids = [engine.add(Prompt(tokens=prompt), replace(sampling, seed=seed)) for seed in range(count)]
    replies: dict[int, list[int]] = {i: [] for i in ids}
    while engine.busy:
        for output in engine.step():
            assert output.token is not None
            replies[output.id].append(output.token)
    for reply in replies.values():
        seen[reply[0], reply[1]] += 1
    assert set(seen) <= set(shares)
    assert engine.replies.num_accepted > 0
    expected = {pair: count * p for pair, p in shares.items()}
    chi = sum((seen[pair] - e) ** 2 / e for pair, e in expected.items())
    assert chi < 31.8  # the 99.99 % point with 8 degrees of freedom


def top_three(model: Transformer, tokens: tuple[int, ...]) -> list[tuple[int, float]]:
    top = model.logits(model(torch.tensor([tokens])))[0, -1].topk(3)
    return list(zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True))


def test_stop_ids_and_limits_hold_inside_of_what_is_tried(tiny: Tiny) -> None:
    model = agreeing(tiny)
    prompt = prompt_of(model, 9)
    free = ask(Engine(model), prompt, Sampling(temperature=0, max_new_tokens=50))
    for limit in (1, 2, 17, 49):
        sampling = Sampling(temperature=0, max_new_tokens=limit, speculate=8)
        assert ask(Engine(model), prompt, sampling) == free[:limit]
    stop = frozenset(free[30:31])
    sampling = Sampling(temperature=0, max_new_tokens=50, stop_ids=stop, speculate=8)
    assert ask(Engine(model), prompt, sampling) == free[: free.index(free[30]) + 1]
    full = list(Engine(model).stream(prompt_of(model, 120), Sampling(temperature=0, speculate=8)))
    assert len(full) == 8


def test_a_draft_with_other_words_is_refused(tiny: Tiny) -> None:
    model = tiny("rope")
    with pytest.raises(ValueError, match="take a draft of the same family"):
        DraftModel(tiny("rope_2d_prefix"), model.config, num_seqs=1)
    with pytest.raises(ValueError, match="speculate must lie between 0 and 64, got -1"):
        Sampling(speculate=-1)

"""Settings and the draw."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatglm.generation.sampling import Sampler, Sampling, log_probabilities

CPU = torch.device("cpu")


def draws(logits: Tensor, sampling: Sampling, count: int = 1) -> list[int]:
    sampler = Sampler(sampling, [], CPU)
    return [sampler.next(logits) for _ in range(count)]


def chi_square(counts: Counter[int], shares: dict[int, float]) -> float:
    """Sum of (seen − expected)² / expected."""
    total = sum(counts.values())
    return sum((counts[i] - total * p) ** 2 / (total * p) for i, p in shares.items())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -0.3, "at least 0, got -0.3; use 0 for greedy decoding"),
        ("temperature", math.inf, "at least 0, got inf"),
        ("temperature", math.nan, "at least 0, got nan"),
        ("top_p", 0.0, "above 0 and at most 1, got 0.0"),
        ("top_p", math.nan, "above 0 and at most 1, got nan"),
        ("top_k", -1, "at least 0, got -1"),
        ("min_p", 1.0, "at least 0 and below 1, got 1.0"),
        ("repetition_penalty", 5e-324, "at least 0.001, got 5e-324"),
        ("presence_penalty", 1e308, "lie between -100 and 100"),
        ("frequency_penalty", math.nan, "lie between -100 and 100, got nan"),
        ("max_new_tokens", 0, "at least 1, got 0"),
        ("logprobs", 21, "lie between 0 and 20, got 21"),
        ("stop", ("",), "stop must be strings that are not empty"),
        ("stop", "。", "stop must be strings that are not empty"),
    ],
)
def test_a_wrong_setting_says_what_is_right(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must .*|{message}") as error:
        Sampling(**{name: value})  # type: ignore[arg-type]
    assert message in str(error.value)


scores = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=400)


@given(scores)
@settings(max_examples=60, deadline=None)
def test_greedy_takes_the_highest_score(values: list[float]) -> None:
    logits = torch.tensor(values)
    assert draws(logits, Sampling(temperature=0)) == [int(logits.argmax())]


@given(scores, st.integers(1, 50), st.floats(0.01, 1), st.floats(0, 0.99), st.floats(0.1, 3))
@settings(max_examples=100, deadline=None)
def test_a_draw_lies_inside_every_cut(
    values: list[float], top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    logits = torch.tensor(values)
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=len(values)
    )
    shares = (logits / temperature).softmax(-1)
    for token in draws(logits, sampling, 4):
        share = float(shares[token])
        assert int((logits > logits[token]).sum()) < top_k
        assert share >= min_p * float(shares.max()) * 0.999
        assert float(shares[shares > shares[token]].sum()) <= top_p + 1e-5


@pytest.mark.parametrize("size", [8, 600])
@pytest.mark.parametrize(
    "cut", [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}, {"temperature": 0.5}]
)
def test_draws_follow_the_distribution(size: int, cut: dict[str, float]) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(1))
    logits[:6] += 6
    sampling = Sampling(**{"temperature": 1.0, "seed": 5, **cut})  # type: ignore[arg-type]
    shares = (logits.double() / sampling.temperature).softmax(-1)
    order = shares.argsort(descending=True)
    kept = order[: sampling.top_k or size]
    before = shares[kept].cumsum(0) - shares[kept]
    kept = kept[(before < sampling.top_p) & (shares[kept] >= sampling.min_p * shares.max())]
    expected = dict(zip(kept.tolist(), (shares[kept] / shares[kept].sum()).tolist(), strict=True))
    counts = Counter(draws(logits, sampling, 2000))
    assert set(counts) <= set(expected)
    common = {i: p for i, p in expected.items() if p > 0.005}
    # The 99.99 % point of chi-square lies below 3 times the degrees of freedom, plus 20.
    assert chi_square(counts, common) < 3 * len(common) + 20


def test_one_seed_gives_one_reply_whatever_else_is_drawn() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    first = draws(logits, Sampling(seed=9), 20)
    torch.rand(100)
    assert draws(logits, Sampling(seed=9), 20) == first
    assert draws(logits, Sampling(seed=10), 20) != first


def test_penalties_follow_their_formulas() -> None:
    sampling = Sampling(
        temperature=0, repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25
    )
    sampler = Sampler(sampling, [0, 1], CPU)
    sampler.remember(2)
    sampler.remember(2)
    logits = torch.tensor([4.0, -4.0, 6.0, 1.0])
    assert sampler.adjust(logits).tolist() == [2.0, -8.0, 3.0 - 0.5 - 0.5, 1.0]
    assert logits.tolist() == [4.0, -4.0, 6.0, 1.0]


def test_a_bias_can_force_and_forbid_a_token() -> None:
    logits = torch.zeros(10)
    assert set(draws(logits, Sampling(seed=1, logit_bias={3: 100.0}), 50)) == {3}
    assert 3 not in draws(logits, Sampling(seed=1, logit_bias={3: -100.0}), 200)


def test_a_processor_sees_the_tokens_and_changes_the_scores() -> None:
    seen = []

    def only_even(tokens: object, logits: Tensor) -> Tensor:
        seen.append(list(tokens))  # type: ignore[call-overload]
        return logits.masked_fill(torch.arange(len(logits)) % 2 == 1, -torch.inf)

    sampler = Sampler(Sampling(seed=1, processor=only_even), [7, 8], CPU)
    tokens = []
    for _ in range(20):
        tokens.append(sampler.next(torch.zeros(10)))
        sampler.remember(tokens[-1])
    assert all(token % 2 == 0 for token in tokens)
    assert seen[1] == [7, 8, tokens[0]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_are_told(temperature: float) -> None:
    with pytest.raises(ValueError, match="best score of the model is"):
        draws(torch.full((5,), torch.nan), Sampling(temperature=temperature))


def test_log_probabilities_are_those_of_the_model() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0])
    logprob, top = log_probabilities(logits, 0, 2)
    logs = logits.log_softmax(-1).tolist()
    assert logprob == pytest.approx(logs[0])
    assert top == pytest.approx({2: logs[2], 1: logs[1]})


def test_the_smallest_temperature_is_greedy_and_overflows_nothing() -> None:
    logits = torch.tensor([300.0, -200.0, 300.5, 299.0])
    for temperature in (5e-324, 1e-40, 1e-9):
        sampling = Sampling(temperature=temperature, top_p=0.9, top_k=3, seed=1)
        sampler = Sampler(sampling, (), torch.device("cpu"))
        assert sampler.draw(logits, torch.Generator().manual_seed(1)) == 2

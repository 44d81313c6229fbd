"""What requests share of the cache, and what they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from chatglm.generation.engine import Engine, Output
from chatglm.generation.sampling import Sampling
from chatglm.model import Transformer
from chatglm.prompt import Prompt

Tiny = Callable[[str], Transformer]
SAMPLING = Sampling(temperature=0.9, seed=3, max_new_tokens=12, logprobs=2)
START = [(7 * i) % 96 for i in range(50)]


def ask(engine: Engine, tokens: Sequence[int], sampling: Sampling = SAMPLING) -> list[Output]:
    return list(engine.stream(Prompt(tokens=tuple(tokens)), sampling))


def told(outputs: Sequence[Output]) -> list[object]:
    """What of a reply must not depend on the cache; to the bit where all parts promise that."""
    return [(o.token, o.finish, round(o.logprob or 0.0, 3)) for o in outputs]


def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_there(tiny: Tiny) -> None:
    model = tiny("rope_tied")
    engine, apart = Engine(model), Engine(model, prefix_cache=False)
    first = ask(engine, [*START, 1, 2])
    assert first[0].num_cached == 0
    for end in ([3, 4, 5], [1, 2], [8] * 30):
        again = ask(engine, [*START, *end])
        assert again[0].num_cached == 48
        assert told(again) == told(ask(apart, [*START, *end]))
    assert engine.prefixes.num_hits == 3 * 48
    assert engine.prefixes.num_queries == 52 + 53 + 52 + 80
    assert engine.cache_usage == 0
    assert apart.prefixes.num_hits == 0


def test_the_next_turn_finds_the_reply_of_the_one_before(tiny: Tiny) -> None:
    engine = Engine(tiny("rope"))
    reply = [o.token for o in ask(engine, START, replace(SAMPLING, max_new_tokens=40))]
    turn = [*START, *(token for token in reply if token is not None), 5, 6, 7]
    assert ask(engine, turn)[0].num_cached == 80


def test_the_whole_of_a_prompt_is_never_taken_from_the_cache(tiny: Tiny) -> None:
    engine = Engine(tiny("rope"))
    first = ask(engine, START[:48])
    again = ask(engine, START[:48])
    assert again[0].num_cached == 32
    assert told(again) == told(first)


def test_requests_of_one_step_share_what_the_first_has_read(tiny: Tiny) -> None:
    engine = Engine(tiny("rope"))
    ids = [engine.add(Prompt(tokens=(*START, i)), SAMPLING) for i in range(3)]
    first = {o.id: o.num_cached for o in engine.step()}
    assert [first[i] for i in ids] == [0, 48, 48]


def test_salts_share_nothing(tiny: Tiny) -> None:
    engine = Engine(tiny("rope"))
    ask(engine, START)
    for salt in ("a", "b"):
        salted = replace(SAMPLING, cache_salt=salt)
        assert ask(engine, START, salted)[0].num_cached == 0
        assert ask(engine, START, salted)[0].num_cached == 48


def test_what_fills_a_hole_is_not_found_for_the_same_tokens_elsewhere(tiny: Tiny) -> None:
    model = tiny("rope")
    engine, apart = Engine(model), Engine(model, prefix_cache=False)
    tokens = tuple(START)
    prompts = [
        Prompt(tokens=tokens),
        Prompt(tokens=tokens, prefix=20, hole=4),
        Prompt(tokens=tokens, prefix=20, hole=11),
    ]
    alone = [told(list(apart.stream(prompt, SAMPLING))) for prompt in prompts]
    assert len({str(reply) for reply in alone}) == 3
    assert [told(list(engine.stream(prompt, SAMPLING))) for prompt in prompts] == alone
    again = list(engine.stream(prompts[1], SAMPLING))
    assert again[0].num_cached == 48
    assert told(again) == alone[1]


def test_weights_that_changed_void_the_cache(tiny: Tiny) -> None:
    model = tiny("rope")
    engine = Engine(model)
    ask(engine, START)
    with torch.no_grad():
        model.norm.weight.mul_(2)
    assert ask(engine, START)[0].num_cached == 0


def test_a_context_seen_from_both_sides_is_not_shared(tiny: Tiny) -> None:
    engine = Engine(tiny("rope_2d_prefix"))
    prompt = Prompt(tokens=tuple(START), prefix=49, hole=3)
    replies = [list(engine.stream(prompt, SAMPLING)) for _ in range(2)]
    assert replies[1][0].num_cached == 0
    assert told(replies[0]) == told(replies[1])


def test_a_scored_prompt_is_read_whole_and_found_by_others(tiny: Tiny) -> None:
    engine = Engine(tiny("rope"))
    ask(engine, START)
    (output,) = ask(engine, START, Sampling(max_new_tokens=0, prompt_logprobs=1))
    assert output.num_cached == 0
    assert output.prompt_logprobs is not None
    assert None not in output.prompt_logprobs[1:]


def test_a_learned_prefix_is_shared_with_the_tokens_behind_it(tiny: Tiny) -> None:
    model = tiny("rope")
    c = model.config
    torch.manual_seed(1)
    learned = torch.randn(c.num_layers, 2, c.num_kv_heads, 21, c.head_dim)
    engine = Engine(model, learned_prefix=learned)
    apart = Engine(model, learned_prefix=learned, prefix_cache=False)
    ask(engine, START)
    again = ask(engine, [*START[:20], 1, 2])
    assert again[0].num_cached == 2 * 16 - 21
    assert told(again) == told(ask(apart, [*START[:20], 1, 2]))
    assert ask(engine, [95, *START])[0].num_cached == 0  # the learned part alone is found


def test_the_cache_gives_way_to_what_runs(tiny: Tiny) -> None:
    model = tiny("rope")
    engine = Engine(model, max_num_tokens=128)
    for i in range(20):
        tokens = [i, *START]
        assert told(ask(engine, tokens)) == told(ask(Engine(model), tokens))
    assert engine.cache_usage == 0
    assert engine.num_preemptions == 0


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8"])
def test_narrow_keys_and_values_give_nearly_the_same_scores(tiny: Tiny, kv_dtype: str) -> None:
    model = tiny("rope")
    scored = Sampling(max_new_tokens=0, prompt_logprobs=0)
    (exact,), (rounded,) = (
        ask(Engine(model, kv_dtype=kind), START, scored) for kind in ("auto", kv_dtype)
    )
    assert exact.prompt_logprobs is not None
    assert rounded.prompt_logprobs is not None
    pairs = list(zip(exact.prompt_logprobs[1:], rounded.prompt_logprobs[1:], strict=True))
    worst = max(abs(a[0] - b[0]) for a, b in pairs if a and b)
    assert 0 < worst < 0.25


def test_an_unknown_kind_of_cache_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"kv_dtype must be one of auto, float32.*got 'int3'"):
        Engine(tiny("rope"), kv_dtype="int3")

"""The engine against the full forward, and requests against their company."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from chatglm.generation.engine import Engine, Output
from chatglm.generation.sampling import Sampling
from chatglm.model import Transformer, prefix_mask
from chatglm.prompt import Prompt, positions

Tiny = Callable[[str], Transformer]
GREEDY = Sampling(temperature=0, max_new_tokens=12)


def ask(engine: Engine, prompt: Prompt, sampling: Sampling = GREEDY) -> list[int]:
    return [o.token for o in engine.stream(prompt, sampling) if o.token is not None]


def drain(engine: Engine) -> dict[int, list[Output]]:
    outputs: dict[int, list[Output]] = {}
    while engine.busy:
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    return outputs


def prompt_of(model: Transformer, length: int, seed: int = 0) -> Prompt:
    tokens = tuple(random.Random(seed).choices(range(model.config.vocab_size), k=length))
    if model.config.context == "prefix":
        return Prompt(tokens=tokens, prefix=length - 1, hole=length // 2)
    return Prompt(tokens=tokens)


@torch.inference_mode()
def full_logits(model: Transformer, prompt: Prompt, tokens: list[int]) -> Tensor:
    """Scores of every token from one forward without a cache: (T, V)."""
    places = torch.tensor([positions(prompt, len(tokens), model.config.num_planes)])
    mask = prefix_mask(torch.tensor([prompt.prefix]), len(tokens))
    return model.logits(model(torch.tensor([tokens]), places, mask))[0]


def test_cached_decoding_equals_full_forward(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    prompt = prompt_of(model, 9)
    sampling = Sampling(temperature=0, max_new_tokens=12, logprobs=20)
    outputs = list(Engine(model).stream(prompt, sampling))
    reply = [o.token for o in outputs if o.token is not None]
    logs = full_logits(model, prompt, [*prompt.tokens, *reply]).log_softmax(-1)
    for i, output in enumerate(outputs):
        row = logs[len(prompt.tokens) - 1 + i]
        assert output.top_logprobs is not None
        ids = list(output.top_logprobs)
        torch.testing.assert_close(
            row[ids], torch.tensor(list(output.top_logprobs.values())), atol=2e-5, rtol=1e-4
        )
        assert row[output.token] >= row.max() - 1e-4


def test_a_batch_of_unequal_prompts_equals_each_alone(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    prompts = [prompt_of(model, length, seed=length) for length in (3, 17, 8, 30, 5)]
    alone = [ask(Engine(model), prompt) for prompt in prompts]
    engine = Engine(model)
    ids = [engine.add(prompt, GREEDY) for prompt in prompts]
    together = drain(engine)
    assert [[o.token for o in together[i]] for i in ids] == alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_reply_is_the_same_to_the_bit_in_eight_mixes(tiny: Tiny, dtype: torch.dtype) -> None:
    model = tiny("rope_tied").to(dtype)
    engine = Engine(model)
    engine.refresh()
    if engine.runner.decoder is model:
        pytest.skip("without oneDNN's packed product only tolerance is promised")
    prompt = prompt_of(model, 20)
    sampling = Sampling(temperature=0.9, top_p=0.9, seed=7, max_new_tokens=30, logprobs=3)
    alone = [(o.token, o.logprob, o.top_logprobs) for o in engine.stream(prompt, sampling)]
    for mix in range(8):
        chance = random.Random(mix)
        engine = Engine(model, max_num_seqs=2 + mix)
        for _ in range(mix + 1):
            other = Sampling(temperature=chance.random(), max_new_tokens=chance.randint(1, 40))
            engine.add(prompt_of(model, chance.randint(1, 40), chance.randint(0, 99)), other)
        for _ in range(chance.randint(0, 5)):
            engine.step()
        request = engine.add(prompt, sampling)
        outputs = drain(engine)[request]
        assert [(o.token, o.logprob, o.top_logprobs) for o in outputs] == alone


def test_preempted_requests_lose_nothing(tiny: Tiny) -> None:
    model = tiny("rope")
    prompts = [prompt_of(model, 10 + i, i) for i in range(6)]
    sampling = Sampling(temperature=0.8, seed=3, max_new_tokens=60, logprobs=2)
    alone = [list(Engine(model).stream(prompt, sampling)) for prompt in prompts]
    engine = Engine(model, max_num_tokens=160)
    ids = [engine.add(prompt, sampling) for prompt in prompts]
    outputs = drain(engine)
    assert engine.scheduler.num_preemptions > 0
    assert engine.scheduler.num_free == engine.scheduler.num_blocks
    for i, expected in zip(ids, alone, strict=True):
        assert [o.token for o in outputs[i]] == [o.token for o in expected]
        for a, b in zip(outputs[i], expected, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_a_prompt_read_in_chunks_equals_one_read_whole(tiny: Tiny) -> None:
    model = tiny("rope")
    prompt = prompt_of(model, 50)
    sampling = Sampling(temperature=0, max_new_tokens=10, logprobs=5)
    whole = list(Engine(model, chunk_size=512).stream(prompt, sampling))
    chunked = list(Engine(model, chunk_size=7, max_num_batched_tokens=14).stream(prompt, sampling))
    for a, b in zip(whole, chunked, strict=True):
        assert a.token == b.token
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


def test_long_prompts_do_not_hold_up_running_replies(tiny: Tiny) -> None:
    model = tiny("rope")
    engine = Engine(model, chunk_size=10, max_num_batched_tokens=10)
    first = engine.add(prompt_of(model, 5), Sampling(temperature=0, max_new_tokens=20))
    engine.step()
    engine.add(prompt_of(model, 90), GREEDY)
    for _ in range(8):
        assert [o.id for o in engine.step()] == [first]


class PrefixedCache:
    """Keys and values with learned ones in front, as plainly as can be."""

    def __init__(self, learned: Tensor, prefix: int) -> None:
        self.learned, self.prefix = learned, prefix

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        keys = torch.cat((self.learned[layer, 0][None], k), 2)
        values = torch.cat((self.learned[layer, 1][None], v), 2)
        repeat = q.shape[1] // k.shape[1]
        keys, values = keys.repeat_interleave(repeat, 1), values.repeat_interleave(repeat, 1)
        scores = q @ keys.transpose(2, 3) / q.shape[-1] ** 0.5
        num, length = self.learned.shape[3], k.shape[2]
        seen = prefix_mask(torch.tensor([self.prefix]), length)
        seen = torch.cat((torch.ones(1, 1, length, num, dtype=torch.bool), seen), 3)
        return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values


@pytest.mark.parametrize("which", ["rope", "rope_2d_prefix"])
def test_a_learned_prefix_is_seen_by_every_token(tiny: Tiny, which: str) -> None:
    model = tiny(which)
    config = model.config
    learned = torch.randn(config.num_layers, 2, config.num_kv_heads, 5, config.head_dim)
    prompt = prompt_of(model, 9)
    sampling = Sampling(temperature=0, max_new_tokens=6, logprobs=1)
    outputs = list(Engine(model, learned_prefix=learned).stream(prompt, sampling))
    tokens = [*prompt.tokens, *(o.token for o in outputs if o.token is not None)]
    places = torch.tensor([positions(prompt, len(tokens), config.num_planes)])
    with torch.inference_mode():
        cache = PrefixedCache(learned, prompt.prefix)
        logs = model.logits(model(torch.tensor([tokens]), places, None, cache))[0].log_softmax(-1)
    for i, output in enumerate(outputs):
        expected = float(logs[len(prompt.tokens) - 1 + i, tokens[len(prompt.tokens) + i]])
        assert output.logprob == pytest.approx(expected, abs=1e-4)


def test_an_aborted_request_brings_nothing_more_and_gives_its_blocks_back(tiny: Tiny) -> None:
    model = tiny("rope")
    engine = Engine(model)
    kept, dropped = engine.add(prompt_of(model, 8), GREEDY), engine.add(prompt_of(model, 9), GREEDY)
    engine.step()
    assert engine.abort(dropped)
    assert not engine.abort(dropped)
    assert set(drain(engine)) == {kept}
    assert engine.scheduler.num_free == engine.scheduler.num_blocks


def test_leaving_a_stream_early_aborts_its_request(tiny: Tiny) -> None:
    engine = Engine(tiny("rope"))
    stream = engine.stream(Prompt(tokens=(1, 2, 3)), GREEDY)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not engine.busy


def test_streams_read_in_turns_each_get_their_own_tokens(tiny: Tiny) -> None:
    model = tiny("rope")
    engine = Engine(model)
    prompts = [prompt_of(model, 4), prompt_of(model, 11, 1)]
    streams = [engine.stream(prompt, GREEDY) for prompt in prompts]
    turns = list(zip(*streams, strict=True))
    for b, prompt in enumerate(prompts):
        assert [pair[b].token for pair in turns] == ask(Engine(model), prompt)


def test_a_failing_processor_ends_its_own_request_only(tiny: Tiny) -> None:
    model = tiny("rope")

    def fail(tokens: object, logits: Tensor) -> Tensor:
        raise KeyError("mine")

    engine = Engine(model)
    bad = engine.add(prompt_of(model, 4), Sampling(temperature=0, processor=fail))
    good = engine.add(prompt_of(model, 5), GREEDY)
    outputs = drain(engine)
    assert isinstance(outputs[bad][-1].error, KeyError)
    assert len(outputs[good]) == 12


def test_weights_that_change_between_requests_are_seen(tiny: Tiny) -> None:
    model = tiny("rope_tied")
    engine = Engine(model)
    prompt = prompt_of(model, 6)
    before = ask(engine, prompt)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    assert ask(engine, prompt) == ask(Engine(model), prompt) != before


def test_the_model_itself_stays_as_it_was(tiny: Tiny) -> None:
    model = tiny("rope_tied")
    names = list(model.state_dict())
    ask(Engine(model), prompt_of(model, 6))
    assert list(model.state_dict()) == names
    assert model.config.tied


def test_damaged_weights_are_told(tiny: Tiny) -> None:
    model = tiny("rope")
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="best score of the model is nan; its weights"):
            ask(Engine(model), prompt_of(model, 4), Sampling(temperature=temperature))


def test_log_probabilities_of_a_prompt_are_those_of_the_full_forward(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    prompt = prompt_of(model, 30)
    if model.config.context == "prefix":
        prompt = Prompt(tokens=prompt.tokens, prefix=12, hole=5)
    sampling = Sampling(temperature=0, max_new_tokens=2, prompt_logprobs=3)
    first, second = Engine(model, chunk_size=8).stream(prompt, sampling)
    assert second.prompt_logprobs is None
    known = first.prompt_logprobs
    assert known is not None
    assert len(known) == 30
    assert known[: max(prompt.prefix, 1)] == [None] * max(prompt.prefix, 1)
    logs = full_logits(model, prompt, list(prompt.tokens)).log_softmax(-1)
    for i in range(max(prompt.prefix, 1), 30):
        entry = known[i]
        assert entry is not None
        assert entry[0] == pytest.approx(float(logs[i - 1, prompt.tokens[i]]), abs=2e-4)
        assert list(entry[1].values()) == pytest.approx(
            logs[i - 1].topk(3).values.tolist(), abs=2e-4
        )


def test_a_prompt_can_be_scored_without_a_new_token(tiny: Tiny) -> None:
    model = tiny("rope")
    engine = Engine(model)
    full = prompt_of(model, 128)  # as many tokens as the context holds
    sampling = Sampling(max_new_tokens=0, prompt_logprobs=0)
    (output,) = engine.stream(full, sampling)
    assert (output.token, output.finish) == (None, "length")
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == 128
    assert all(entry is not None and entry[1] == {} for entry in output.prompt_logprobs[1:])
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        Sampling(max_new_tokens=0)


def test_a_preempted_prompt_is_scored_once(tiny: Tiny) -> None:
    model = tiny("rope")
    sampling = Sampling(temperature=0, max_new_tokens=8, prompt_logprobs=0)
    prompts = [prompt_of(model, 60, i) for i in range(3)]
    alone = [next(iter(Engine(model).stream(p, sampling))).prompt_logprobs for p in prompts]
    engine = Engine(model, max_num_tokens=128, chunk_size=16, max_num_batched_tokens=16)
    ids = [engine.add(prompt, sampling) for prompt in prompts]
    outputs = drain(engine)
    assert engine.num_preemptions > 0
    for i, expected in zip(ids, alone, strict=True):
        got = outputs[i][0].prompt_logprobs
        assert got is not None
        assert expected is not None
        assert len(got) == len(expected) == 60
        for a, b in zip(got[1:], expected[1:], strict=True):
            assert a is not None
            assert b is not None
            assert a[0] == pytest.approx(b[0], abs=1e-4)


def test_the_engine_counts_its_load(tiny: Tiny) -> None:
    model = tiny("rope")
    engine = Engine(model, max_num_seqs=2, max_num_tokens=256)
    for i in range(3):
        engine.add(prompt_of(model, 20, i), GREEDY)
    assert (engine.num_running, engine.num_waiting, engine.cache_usage) == (0, 3, 0)
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (2, 1)
    assert engine.cache_usage == pytest.approx(4 / 16)
    drain(engine)
    assert (engine.num_running, engine.num_waiting, engine.cache_usage) == (0, 0, 0)
    assert engine.num_preemptions == 0


def test_a_stop_id_ends_the_reply_and_no_stop_ids_never_do(tiny: Tiny) -> None:
    model = tiny("rope")
    prompt = prompt_of(model, 6)
    free = ask(Engine(model), prompt, Sampling(temperature=0, max_new_tokens=20))
    stop = free[5]
    engine = Engine(model, stop_ids=frozenset({stop}))
    assert ask(engine, prompt) == free[: free.index(stop) + 1]
    never = Sampling(temperature=0, max_new_tokens=20, stop_ids=frozenset())
    assert ask(engine, prompt, never) == free


def test_the_reply_ends_where_the_context_does(tiny: Tiny) -> None:
    model = tiny("rope")
    outputs = list(Engine(model).stream(prompt_of(model, 120), Sampling(temperature=0)))
    assert len(outputs) == 8
    assert outputs[-1].finish == "length"


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ((), GREEDY, "the prompt is empty"),
        ((5,) * 128, GREEDY, "the prompt has 128 tokens and the model's context holds 128"),
        ((5, 96), GREEDY, "token ids must lie between 0 and 95, got 96"),
        ((5,), Sampling(logit_bias={99: 1.0}), "logit_bias names token 99"),
    ],
)
def test_what_cannot_run_is_refused_before_it_enters(
    tiny: Tiny, prompt: tuple[int, ...], sampling: Sampling, message: str
) -> None:
    engine = Engine(tiny("rope"))
    with pytest.raises(ValueError, match=message):
        engine.add(Prompt(tokens=prompt), sampling)
    assert not engine.busy

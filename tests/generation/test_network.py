"""The native step over a whole network against the transformer, layer for layer the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from chatglm.config import ModelConfig
from chatglm.generation import network
from chatglm.generation.cache import KeyValueStore, SequenceCache, Span
from chatglm.generation.engine import Engine
from chatglm.generation.network import Network
from chatglm.generation.sampling import Sampling
from chatglm.model import Transformer
from chatglm.model.surgery import replace_module
from chatglm.prompt import Prompt, positions
from chatglm.quantization import native
from chatglm.quantization.kinds import narrowed, schemes_of
from chatglm.quantization.linear import quantized
from chatglm.quantization.scheme import KINDS

pytestmark = pytest.mark.skipif(network.functions() is None, reason="the native step was not built")
CPU = torch.device("cpu")
Tiny = Callable[[str], Transformer]


def read(model: Transformer, prompt: Prompt, cuts: list[int], kv: torch.dtype) -> Tensor:
    """Hidden states (T, C) by the native step, in parts that begin at `cuts`."""
    config, length = model.config, len(prompt.tokens)
    store = KeyValueStore(config, num_blocks=9, dtype=kv, device=CPU, for_native=True)
    step = Network(model)
    table = [7, 2, 5, 0, 8, 1, 3, 4, 6]
    found = []
    for start, stop in zip(cuts, [*cuts[1:], length], strict=True):
        visible = [max(i + 1, prompt.prefix) for i in range(start, stop)]
        span = Span(table=table, start=start, visible=visible)
        places = positions(prompt, stop, config.num_planes, start)
        found.append(step.forward(prompt.tokens[start:stop], places, store, [span]))
    return torch.cat(found)


@torch.inference_mode()
def expected(model: Transformer, prompt: Prompt) -> Tensor:
    """The same by PyTorch's operators, in one go."""
    length = len(prompt.tokens)
    cache = SequenceCache(model.config, dtype=torch.float32, device=CPU, capacity=length)
    places = torch.tensor([positions(prompt, length, model.config.num_planes)])
    tokens = torch.tensor([prompt.tokens])
    return model(tokens, places, None, cache.read(prompt, 0, length))[0]


def prompt_for(model: Transformer, length: int) -> Prompt:
    """Random tokens; half of them context and one of these a hole, where the model has contexts."""
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(model.config.vocab_size, (length,), generator=generator).tolist()
    if model.config.context == "causal" or length < 4:
        return Prompt(tokens=tuple(tokens))
    return Prompt(tokens=tuple(tokens), prefix=length // 2, hole=1)


@pytest.mark.parametrize("length", [1, 2, 17, 70])
def test_the_step_computes_what_the_transformer_does(tiny: Tiny, kind: str, length: int) -> None:
    model = tiny(kind)
    if not network.can_run(model):
        pytest.skip("mixtures of experts run by PyTorch's operators")
    prompt = prompt_for(model, length)
    hidden = read(model, prompt, [0], torch.float32)
    wanted = expected(model, prompt)
    assert torch.allclose(hidden, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    logits = Network(model).logits(hidden)
    with torch.inference_mode():
        assert torch.allclose(logits, model.logits(wanted), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kv", [torch.float32, torch.bfloat16, torch.int8])
def test_a_token_is_the_same_to_the_bit_in_parts_of_any_size(
    tiny: Tiny, kind: str, kv: torch.dtype
) -> None:
    model = tiny(kind)
    if not network.can_run(model) or model.config.context == "prefix":
        pytest.skip("read whole, or by PyTorch's operators")
    prompt = prompt_for(model, 60)
    whole = read(model, prompt, [0], kv)
    for cuts in ([0, 1, 2, 33], [0, 40, 41, 42, 58, 59]):
        assert torch.equal(read(model, prompt, cuts, kv), whole)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_step_is_the_same_on_any_number_of_threads(tiny: Tiny, threads: int) -> None:
    model = tiny("rope")
    prompt = prompt_for(model, 50)
    alone = read(model, prompt, [0], torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(read(model, prompt, [0], torch.float32), alone)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_linears_are_those_of_the_modules(tiny: Tiny, bits: int) -> None:
    model = tiny("rope")
    for name, part in list(model.named_modules()):
        if type(part) is nn.Linear:
            narrow = quantized(part.weight.detach(), bits, bias=part.bias is not None)  # type: ignore[arg-type]
            narrow.bias = part.bias
            replace_module(model, name, narrow)
    assert network.can_run(model)
    prompt = prompt_for(model, 40)
    hidden, wanted = read(model, prompt, [0], torch.float32), expected(model, prompt)
    # A rounding of an input that falls the other way is worth 1/127 of its group's largest.
    assert torch.nn.functional.cosine_similarity(hidden, wanted).min() > 0.999


@pytest.mark.parametrize("kind", ["rope_tied", "rope"])
def test_words_that_are_the_head_of_a_quantized_model_have_8_bits_there(
    tiny: Tiny, kind: str
) -> None:
    model = tiny(kind)
    plain = Network(model)
    assert plain.head.kind in native.FLOAT_KINDS.values()
    for name, part in list(model.named_modules()):
        if type(part) is nn.Linear and name != "head":
            replace_module(model, name, quantized(part.weight.detach(), 8, bias=False))
    step = Network(model)
    hidden = torch.randn(3, model.config.hidden_size)
    wanted = model.logits(hidden)
    if kind == "rope":  # a head of its own is as it was loaded
        assert step.head.kind == plain.head.kind
        torch.testing.assert_close(step.logits(hidden), wanted, rtol=1e-5, atol=1e-5)
        return
    assert step.head.kind == native.WHOLE_KINDS[8]
    assert step.words.kind == plain.head.kind  # what goes in is as exact as before
    assert torch.nn.functional.cosine_similarity(step.logits(hidden), wanted).min() > 0.999


@pytest.mark.parametrize("kind", ["rope_tied", "rope"])
def test_words_of_8_bits_are_read_by_the_step_itself(tiny: Tiny, kind: str) -> None:
    model = tiny(kind)
    for name, scheme in schemes_of(model, KINDS["int8"]).items():
        module = model.get_submodule(name)
        small = narrowed(module, module.get_parameter("weight").detach(), scheme)
        small.bias = getattr(module, "bias", None)
        replace_module(model, name, small)
    prompt = prompt_for(model, 40)
    hidden, wanted = read(model, prompt, [0], torch.float32), expected(model, prompt)
    assert torch.nn.functional.cosine_similarity(hidden, wanted).min() > 0.999
    step = Network(model)
    assert step.words.kind == native.WHOLE_KINDS[8]
    assert step.words.data == model.embedding.weight.data_ptr()
    if model.config.tied:  # one set of tiles serves both
        assert step.head.data == step.words.data


def test_a_width_that_fills_no_tiles_is_left_to_the_modules() -> None:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    config = ModelConfig(**sizes, ffn_size=40, vocab_size=96, max_length=64)
    model = Transformer(config).eval()
    assert not network.can_run(model)
    engine = Engine(model)
    prompt = Prompt(tokens=(1, 2, 3))
    replies = [o.token for o in engine.stream(prompt, Sampling(temperature=0, max_new_tokens=4))]
    assert len(replies) == 4


def test_a_library_with_other_structures_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = network.functions.__wrapped__
    assert functions() is not None
    monkeypatch.setattr(network, "_MIRRORED", network._MIRRORED[1:])
    with pytest.raises(RuntimeError, match="other structures of a forward: it was built for anoth"):
        functions()


def test_a_token_that_is_no_word_is_refused(tiny: Tiny) -> None:
    model = tiny("rope")
    with pytest.raises(ValueError, match="the native step refuses 2 tokens"):
        read(model, Prompt(tokens=(1, model.config.vocab_size)), [0], torch.float32)

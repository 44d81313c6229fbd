"""Quantized linears: what they keep of a weight, and models that are quantized while loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from chatglm.checkpoint import load
from chatglm.evaluate.likelihood import token_losses
from chatglm.quantization import linear, native
from chatglm.quantization.linear import (
    GROUP,
    Packed,
    QuantizedLinear,
    dequantize,
    quantize,
    quantized,
    spread,
    to_integers,
    to_tiles,
)
from chatglm.quantization.tiles import Bits

kinds = st.sampled_from([8, 6, 4])
sides = st.integers(1, 150)


def random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def unpacked(packed: Packed, rows: int, columns: int, bits: Bits, group: int) -> torch.Tensor:
    return dequantize(packed, rows, columns, bits, group, torch.float32)


@given(
    rows=sides,
    columns=sides,
    bits=kinds,
    group=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_every_weight_is_within_half_a_step(
    rows: int, columns: int, bits: Bits, group: int, symmetric: bool
) -> None:
    weight = random(rows, columns)
    integers = to_integers(weight, bits, group, symmetric=symmetric)
    back = unpacked(quantize(weight, bits, group, symmetric=symmetric), rows, columns, bits, group)
    step = integers.scale.float().abs().repeat_interleave(group, 1)[:, :columns]
    # float16 rounds the scale by up to 2⁻¹¹, a small one by 2⁻²⁵, so the ends by some steps of 8
    # bits; symmetric int4 may let the ends go for the sake of the others
    slack = 0.5 + 2**bits * 2**-11 if bits > 4 else 2.5 if symmetric else 1.0
    assert back.shape == weight.shape
    assert ((back - weight).abs() <= slack * step + 2**bits * 2**-25).all()


@given(
    rows=sides,
    columns=sides,
    bits=kinds,
    group=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_tiles_give_the_whole_numbers_back(
    rows: int, columns: int, bits: Bits, group: int, symmetric: bool
) -> None:
    integers = to_integers(random(rows, columns), bits, group, symmetric=symmetric)
    zero = 2 ** (bits - 1) if integers.zero is None else spread(integers.zero, group, columns)
    scale = spread(integers.scale.float(), group, columns)
    expected = (integers.values.float() - zero) * scale
    assert torch.equal(unpacked(to_tiles(integers, bits), rows, columns, bits, group), expected)


@given(rows=sides, columns=sides, bits=kinds, symmetric=st.booleans())
@settings(deadline=None, max_examples=40)
def test_native_code_finds_the_whole_numbers_that_tensors_do(
    rows: int, columns: int, bits: Bits, symmetric: bool
) -> None:
    weight = random(rows, columns).bfloat16()
    native_one = quantize(weight, bits, symmetric=symmetric)
    by_tensors = to_tiles(to_integers(weight, bits, symmetric=symmetric), bits)
    errors = [
        (unpacked(packed, rows, columns, bits, GROUP[bits]) - weight.float()).square().mean()
        for packed in (native_one, by_tensors)
    ]
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-2, atol=1e-9)


def test_int4_strays_less_than_by_its_farthest_value() -> None:
    weight = random(64, 1024)
    groups = weight.unflatten(1, (-1, 32))
    low, high = groups.aminmax(dim=-1, keepdim=True)
    step = torch.where(-low > high, low, high) / -8
    plain = (groups / step).round().clamp(-8, 7) * step
    error = (unpacked(quantize(weight, 4), 64, 1024, 4, 32) - weight).square().mean()
    assert error < 0.92 * (plain - groups).square().mean()


@pytest.mark.parametrize("group", [32, 128])
def test_int4_shrinks_no_group(group: int) -> None:
    weight = random(64, 1024)
    groups = weight.unflatten(1, (-1, group))
    for packed in (quantize(weight, 4, group), to_tiles(to_integers(weight, 4, group), 4)):
        back = unpacked(packed, 64, 1024, 4, group).unflatten(1, (-1, group))
        shares = (back * groups).sum(-1) / groups.square().sum(-1)
        torch.testing.assert_close(shares, torch.ones_like(shares), rtol=6e-4, atol=0)


def test_working_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random(100, 70)
    whole = quantize(weight, 4)
    monkeypatch.setattr(linear, "_CHUNK_ELEMENTS", 16 * 70 * 2)
    parts = quantize(weight, 4)
    assert torch.equal(whole.weight, parts.weight)
    assert torch.equal(whole.scale, parts.scale)


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e-12, 1e4, -3.0])
def test_constant_rows_keep_their_value(bits: Bits, symmetric: bool, value: float) -> None:
    packed = quantize(torch.full((3, 70), value), bits, symmetric=symmetric)
    back = unpacked(packed, 3, 70, bits, GROUP[bits])
    torch.testing.assert_close(back, torch.full((3, 70), value), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("bits", "bytes_of_a_row"), [(8, 128 + 2 * 2), (6, 96 + 2 * 2), (4, 64 + 4 * 2)]
)
def test_a_row_takes_its_bits_and_a_scale_per_group(bits: Bits, bytes_of_a_row: int) -> None:
    packed = quantize(random(16, 128), bits)
    assert packed.weight.nbytes + packed.scale.nbytes == 16 * bytes_of_a_row


@given(rows=sides, columns=sides, bits=kinds, count=st.integers(1, 20))
@settings(deadline=None, max_examples=40)
def test_the_linear_is_that_of_its_dequantized_weight(
    rows: int, columns: int, bits: Bits, count: int
) -> None:
    small = quantized(random(rows, columns), bits, bias=True)
    small.bias = torch.nn.Parameter(random(1, rows, seed=1)[0])
    x = random(count, columns, seed=2).requires_grad_()  # exact: the native kernels round x
    expected = F.linear(x, small.dequantized(torch.float32), small.bias)
    y = small(x)
    assert y.shape == (count, rows)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_model_quantized_while_loading_is_the_one_quantized_afterwards(
    toy: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "library", lambda: None)  # exact: the native kernels round x
    plain, small = load(toy), load(toy, quantize=kind)
    names = dict(plain.model.named_modules())
    linears = {n: m for n, m in small.model.named_modules() if isinstance(m, QuantizedLinear)}
    wanted = {n for n, m in names.items() if isinstance(m, torch.nn.Linear)}
    assert set(linears) == wanted | {"embedding"}
    for name, module in linears.items():
        packed = quantize(names[name].weight.detach(), module.bits)
        assert torch.equal(module.weight, packed.weight)
        assert torch.equal(module.weight_scale, packed.scale)
        names[name].weight.data.copy_(module.dequantized(torch.float32))
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(small.model(ids), plain.model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.005), ("int4", 0.04)])
def test_the_embedded_model_loses_little(kind: str, tolerance: float, shared: Path) -> None:
    lines = (shared / "data" / "eval" / "lm_heldout.test.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[:30]]  # one text would measure its luck
    losses = {}
    for quantize_to in (None, kind):
        loaded = load(quantize=quantize_to)
        assert loaded.tokenizer is not None
        with torch.inference_mode():
            rows = [torch.tensor([loaded.tokenizer.encode(text)[:256]]) for text in texts]
            parts = [token_losses(loaded.model, ids).flatten() for ids in rows]
        losses[quantize_to] = float(torch.cat(parts).mean())
    # the losses are per token; exp of their difference is the ratio of perplexities
    assert abs(losses[kind] - losses[None]) < tolerance


def test_an_unknown_kind_is_refused_with_those_there_are(toy: Path) -> None:
    with pytest.raises(ValueError, match=r"int8, int6, .* or None, got 'int3'"):
        load(toy, quantize="int3")


def test_a_checkpoint_in_few_bits_is_not_quantized_twice(shared: Path) -> None:
    with pytest.raises(ValueError, match="quantized already"):
        load(shared / "oracles" / "chatglm-6b-int4", quantize="int8")

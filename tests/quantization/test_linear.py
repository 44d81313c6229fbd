"""Quantized linears: what they keep of a weight, and models that are quantized while loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from chatglm.checkpoint import load, save
from chatglm.evaluate.likelihood import token_losses
from chatglm.quantization import native
from chatglm.quantization.linear import (
    GROUP,
    Bits,
    QuantizedLinear,
    dequantize,
    quantize,
    quantized,
)

kinds = st.sampled_from([8, 4])
sides = st.integers(1, 150)


def random(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(rows=sides, columns=sides, bits=kinds)
@settings(deadline=None, max_examples=60)
def test_every_weight_is_within_half_a_step(rows: int, columns: int, bits: Bits) -> None:
    weight = random(rows, columns)
    packed, scale = quantize(weight, bits)
    back = dequantize(packed, scale, columns, bits, torch.float32)
    step = scale.float().abs().repeat_interleave(GROUP[bits], 1)[:, :columns]
    # float16 rounds the scale by up to 2⁻¹¹; in int4 the side without a −8 may lose
    # half a step more
    slack = 0.5 + 8 * 2**-10 if bits == 8 else 1.0
    assert back.shape == weight.shape
    assert ((back - weight).abs() <= slack * step + 1e-7).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("value", [0.0, 1e-12, 1e4, -3.0])
def test_constant_rows_keep_their_value(bits: Bits, value: float) -> None:
    packed, scale = quantize(torch.full((3, 70), value), bits)
    back = dequantize(packed, scale, 70, bits, torch.float32)
    torch.testing.assert_close(back, torch.full((3, 70), value), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(("bits", "bytes_of_a_row"), [(8, 128 + 2 * 2), (4, 64 + 4 * 2)])
def test_a_row_takes_its_bits_and_a_scale_per_group(bits: Bits, bytes_of_a_row: int) -> None:
    packed, scale = quantize(random(5, 128), bits)
    assert packed.nbytes + scale.nbytes == 5 * bytes_of_a_row


@given(rows=sides, columns=sides, bits=kinds, count=st.integers(1, 20))
@settings(deadline=None, max_examples=40)
def test_the_linear_is_that_of_its_dequantized_weight(
    rows: int, columns: int, bits: Bits, count: int
) -> None:
    linear = quantized(random(rows, columns), bits, bias=True)
    linear.bias = torch.nn.Parameter(random(1, rows, seed=1)[0])
    x = random(count, columns, seed=2).requires_grad_()  # exact: the native kernels round x
    expected = F.linear(x, linear.dequantized(torch.float32), linear.bias)
    y = linear(x)
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
    assert set(linears) == {n for n, m in names.items() if isinstance(m, torch.nn.Linear)}
    for name, linear in linears.items():
        packed, scale = quantize(names[name].weight.detach(), linear.bits)
        assert torch.equal(linear.weight, packed)
        assert torch.equal(linear.weight_scale, scale)
        names[name].weight.data.copy_(linear.dequantized(torch.float32))
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


def test_a_quantized_model_is_not_saved_as_if_it_were_the_original(
    toy: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="load it without quantize"):
        save(load(toy, quantize="int8"), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_an_unknown_kind_is_refused_with_those_there_are(toy: Path) -> None:
    with pytest.raises(ValueError, match="int8, int4 or None, got 'int3'"):
        load(toy, quantize="int3")


def test_a_checkpoint_in_few_bits_is_not_quantized_twice(shared: Path) -> None:
    with pytest.raises(ValueError, match="quantized already"):
        load(shared / "oracles" / "chatglm-6b-int4", quantize="int8")

"""Checkpoints whose tensors differ in dtype, also inside what is joined here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatglm import ChatGLM
from chatglm.checkpoint import load, save

KINDS = (torch.float32, torch.bfloat16, torch.float16)
IDS = torch.arange(5, 37)


def mixed(toy: Path, folder: Path, kinds: tuple[torch.dtype, ...] = KINDS) -> Path:
    """The toy model with its tensors in several dtypes by turns, in two shards; q, k and v of a
    layer have three.
    """
    folder.mkdir()
    for path in toy.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(toy / "model.safetensors")
    turned = {
        name: tensor.to(kinds[index % len(kinds)])
        for index, (name, tensor) in enumerate(sorted(tensors.items()))
    }
    attention = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    turned |= {n: turned[n].to(kinds[i % len(kinds)]) for i, n in enumerate(attention)}
    names = sorted(turned)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: turned[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index, "utf-8")
    return folder


def test_joined_parts_of_several_dtypes_are_computed_as_if_all_were_float32(
    toy: Path, tmp_path: Path
) -> None:
    folder = mixed(toy, tmp_path / "mixed")
    whole = tmp_path / "whole"
    whole.mkdir()
    for path in folder.glob("*config.json"):
        (whole / path.name).write_bytes(path.read_bytes())
    shards = [load_file(path) for path in folder.glob("*.safetensors")]
    save_file({n: t.float() for s in shards for n, t in s.items()}, whole / "model.safetensors")
    found, expected = (ChatGLM.from_pretrained(place).logits(IDS) for place in (folder, whole))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("share", [0.2, 0.0])
def test_every_dtype_is_saved_as_it_was(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr("chatglm.checkpoint.fill._SMALL_SHARE", share)
    folder = mixed(toy, tmp_path / "mixed")
    saved = save(load(folder), tmp_path / "saved")
    assert sorted(p.name for p in saved.iterdir()) == sorted(p.name for p in folder.iterdir())
    for path in folder.glob("*.safetensors"):
        before, after = load_file(path), load_file(saved / path.name)
        assert set(before) == set(after)
        for name, tensor in before.items():
            assert tensor.dtype == after[name].dtype
            assert torch.equal(tensor, after[name])


@pytest.mark.parametrize("kinds", [KINDS, (torch.bfloat16, torch.float32)])
def test_a_model_too_large_for_float32_computes_with_mixed_dtypes(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[torch.dtype, ...]
) -> None:
    monkeypatch.setattr("chatglm.checkpoint.fill._SMALL_SHARE", 0.0)
    model = ChatGLM.from_pretrained(mixed(toy, tmp_path / "mixed", kinds))
    plain = ChatGLM.from_pretrained(toy)
    assert float((model.logits(IDS).float() - plain.logits(IDS)).abs().max()) < 0.5

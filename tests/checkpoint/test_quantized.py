"""Checkpoints whose linears are quantized in our own layout: made, saved, loaded, damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatglm.checkpoint import export_gguf, load, save
from chatglm.checkpoint.names import entry_of
from chatglm.cli import main
from chatglm.model.transformer import WordEmbedding
from chatglm.quantization.linear import QuantizedLinear
from chatglm.quantization.scheme import INTEGER_KINDS, KINDS, OUTER


@pytest.fixture(scope="module")
def small(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy in 4 bits with zero points."""
    return save(load(toy, quantize="int4-zero"), tmp_path_factory.mktemp("small") / "model")


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(small, tmp_path / "damaged"))


@pytest.mark.parametrize("kind", INTEGER_KINDS)
def test_a_saved_model_is_the_same_and_saves_the_same_bytes(
    toy: Path, tmp_path: Path, kind: str
) -> None:
    made = load(toy, quantize=kind)
    folder = save(made, tmp_path / "once")
    again = load(folder)
    assert again.quantize == kind
    before, after = made.model.state_dict(), again.model.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        owner, _, leaf = name.rpartition(".")
        module, other = (x.model.get_submodule(owner) for x in (made, again))
        if isinstance(module, QuantizedLinear) and isinstance(other, QuantizedLinear):
            # What fills the tiles up beyond rows and columns is nobody's.
            wanted, got = (m.dequantized(torch.float32) for m in (module, other))
            assert torch.equal(got, wanted), leaf
        else:
            assert torch.equal(after[name], tensor)
    twice = save(again, tmp_path / "twice")
    for path in folder.iterdir():
        assert (twice / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "name", ["chatglm-6b", "chatglm2-6b", "glm-large-chinese", "glm-4-9b-chat"]
)
def test_every_format_keeps_its_names_and_shards(name: str, shared: Path, tmp_path: Path) -> None:
    source = shared / "oracles" / name
    if not source.is_dir():
        pytest.skip(f"needs {source}")
    made = load(source, quantize="int4-g64")
    folder = save(made, tmp_path / "saved")
    ids = torch.arange(3, 20)[None]
    with torch.inference_mode():
        expected = made.model.logits(made.model(ids))
        again = load(folder).model
        assert torch.equal(again.logits(again(ids)), expected)


def test_config_json_says_how_it_is_quantized(small: Path) -> None:
    block = json.loads((small / "config.json").read_text("utf-8"))["quantization_config"]
    assert block == {
        "quant_method": "chatglm", "bits": 4, "group_size": 32, "symmetric": False,
        "head_bits": 6, "embedding_bits": 8,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["chatglm3-6b", "glm-large-chinese"])  # the latter is tied
def test_a_file_from_before_words_were_quantized_is_the_same_as_it_was(
    name: str, shared: Path, tmp_path: Path
) -> None:
    source = shared / "oracles" / name
    plain = load(source)
    folder = save(load(source, quantize="int4"), tmp_path / "new")
    entry = entry_of(plain.format, "embedding.weight")
    words = plain.name_prefix + entry.theirs[0]
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    del tensors[f"{words}_scale"]
    tensors[words] = plain.model.embedding.weight.detach().to(plain.dtypes[words])
    if not plain.config.tied:  # the head had 8 bits
        (other,) = save(load(source, quantize="int8"), tmp_path / "other").glob("*.safetensors")
        (head,) = entry_of(plain.format, "head.weight").theirs
        eight = load_file(other)
        tensors |= {name: eight[name] for name in (head, f"{head}_scale")}
    save_file(tensors, path, metadata={"format": "pt"})
    table = json.loads((folder / "config.json").read_text("utf-8"))
    for key in ("head_bits", "embedding_bits"):
        del table["quantization_config"][key]
    text = json.dumps(table, ensure_ascii=False, indent=2) + "\n"
    (folder / "config.json").write_text(text, "utf-8")
    old = load(folder)
    assert old.quantize == "int4"
    assert type(old.model.embedding) is WordEmbedding
    assert torch.equal(old.model.embedding.weight, plain.model.embedding.weight)
    if not old.config.tied:
        assert isinstance(old.model.head, QuantizedLinear)
        assert old.model.head.bits == 8
    again = save(old, tmp_path / "again")
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_head_and_words_have_the_bits_that_the_file_says(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = replace(KINDS["int4"], head=OUTER[6], words=OUTER[8])
    with monkeypatch.context() as patch:
        patch.setitem(KINDS, "int4", kind)
        folder = save(load(shared / "oracles" / "chatglm3-6b", quantize="int4"), tmp_path / "saved")
    again = load(folder)
    assert again.kind == kind
    assert (again.model.head.bits, again.model.embedding.bits) == (6, 8)
    block = json.loads((folder / "config.json").read_text("utf-8"))["quantization_config"]
    assert (block["bits"], block["head_bits"], block["embedding_bits"]) == (4, 6, 8)


@pytest.mark.parametrize("part", ["head_bits", "embedding_bits"])
def test_bits_of_head_and_words_that_there_are_not_are_refused(copied: Path, part: str) -> None:
    path = copied / "config.json"
    table = json.loads(path.read_text("utf-8"))
    table["quantization_config"][part] = 5
    path.write_text(json.dumps(table), "utf-8")
    with pytest.raises(ValueError, match=f"has {part} 5; known: 8, 6"):
        load(copied)


def test_a_column_of_four_bits_lies_in_the_low_half_before_the_next(small: Path) -> None:
    name = "model.layers.0.self_attn.o_proj.weight"
    tensors = load_file(small / "model.safetensors")
    packed, scale, zero = (tensors[name + part] for part in ("", "_scale", "_zero"))
    values = torch.stack((packed & 15, packed >> 4), -1).flatten(1).float()
    linear = load(small).model.layers[0].attention.out
    assert isinstance(linear, QuantizedLinear)
    expected = (values - zero.float()) * scale.float()
    torch.testing.assert_close(linear.dequantized(torch.float32), expected)


def test_a_calibrated_model_is_nearer_on_its_texts(toy: Path, tmp_path: Path) -> None:
    text = "今天天气很好，适合出门。你好，我是一个程序员。"
    file = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": text[i:] + text[:i]}, ensure_ascii=False) for i in range(8)]
    file.write_text("\n".join(lines), "utf-8")
    plain = load(toy)
    assert plain.tokenizer is not None
    ids = torch.tensor([plain.tokenizer.encode(text)])
    errors = []
    for calibrate in (None, file):
        loaded = load(toy, quantize="int4", calibrate=calibrate)
        assert all(
            isinstance(module, QuantizedLinear)
            for name, module in loaded.model.named_modules()
            if name.endswith((".qkv", ".out", ".up", ".down"))
        )
        with torch.inference_mode():
            errors.append(float((loaded.model(ids) - plain.model(ids)).square().mean()))
    assert errors[1] < 0.8 * errors[0]


def test_quantize_is_a_command(toy: Path, tmp_path: Path, capsys) -> None:
    target = tmp_path / "out"
    assert main(["quantize", str(toy), "--to", str(target), "--kind", "int8"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert load(target).quantize == "int8"
    assert main(["quantize", str(toy), "--to", str(target)]) == 2
    assert "give a new --to" in capsys.readouterr().err


def test_what_is_quantized_is_neither_quantized_again_nor_exported(
    small: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="quantized already; leave quantize out"):
        load(small, quantize="int8")
    with pytest.raises(ValueError, match="export the one that it was made from"):
        export_gguf(load(small), tmp_path / "model.gguf")


def test_what_has_no_form_in_a_file_is_not_saved(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="load it without quantize"):
        save(load(toy, quantize="fp8"), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_calibration_needs_a_kind_and_a_file(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="calibrate is for quantizing"):
        load(toy, calibrate="general")
    with pytest.raises(FileNotFoundError, match="no calibration texts at"):
        load(toy, quantize="int4", calibrate=tmp_path / "none.jsonl")


NAME = "model.layers.1.mlp.down_proj.weight"
Tensors = dict[str, torch.Tensor]


def infinite(tensors: Tensors) -> None:
    tensors[f"{NAME}_scale"][0, 0] = float("inf")


def far(tensors: Tensors) -> None:
    tensors[f"{NAME}_zero"][0, 0] = 16


DAMAGES: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "no scale": (lambda t: t.pop(f"{NAME}_scale"), "lacks 1 tensors"),
    "no zero": (lambda t: t.pop(f"{NAME}_zero"), "lacks 1 tensors"),
    "short": (lambda t: t.update({NAME: t[NAME][:, :-1].contiguous()}), "of another shape"),
    "rows": (lambda t: t.update({NAME: t[NAME][:-1].contiguous()}), "of another shape"),
    "groups": (lambda t: t.update({f"{NAME}_scale": t[f"{NAME}_scale"][:, :-1]}), "another shape"),
    "floats": (lambda t: t.update({NAME: t[NAME].float()}), "expected torch.uint8"),
    "wide": (lambda t: t.update({f"{NAME}_scale": t[f"{NAME}_scale"].float()}), "float16"),
    "whole scale": (lambda t: t.update({f"{NAME}_scale": t[f"{NAME}_scale"].int()}), "floating"),
    "infinite": (infinite, "must be finite"),
    "far": (far, "below 16"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tensors_are_named(copied: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    tensors = load_file(copied / "model.safetensors")
    change(tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, copied / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load(copied)


@pytest.mark.parametrize(
    "block", [{"bits": 3}, {"group_size": 0}, {"group_size": [32]}, {"symmetric": None}]
)
def test_an_unknown_layout_is_refused_with_those_there_are(copied: Path, block: dict) -> None:
    path = copied / "config.json"
    table = json.loads(path.read_text("utf-8"))
    table["quantization_config"] |= block
    path.write_text(json.dumps(table), "utf-8")
    with pytest.raises(ValueError, match="is not known; known: "):
        load(copied)


def test_a_config_of_another_scheme_does_not_fit_the_tensors(copied: Path) -> None:
    path = copied / "config.json"
    table = json.loads(path.read_text("utf-8"))
    table["quantization_config"] |= {"bits": 8, "group_size": 64, "symmetric": True}
    path.write_text(json.dumps(table), "utf-8")
    with pytest.raises(ValueError, match="that the config has no place for"):
        load(copied)

"""GGUF files: what llama.cpp's own package reads in them, and what we read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from chatglm.checkpoint import Loaded, export_gguf, load, save
from chatglm.checkpoint.gguf.blocks import from_blocks, to_blocks
from chatglm.checkpoint.gguf.header import read_header
from chatglm.checkpoint.gguf.tensors import GgufFile
from chatglm.checkpoint.gguf.words import keys_of_tokenizer, tokenizer_of
from chatglm.checkpoint.parts import parameter
from chatglm.errors import CheckpointError
from chatglm.quantization.linear import QuantizedLinear, quantized
from chatglm.tokenizer import load_tokenizer

gguf = pytest.importorskip("gguf")

IDS = torch.arange(3, 40)[None]
KNOWN = {
    "chatglm2-6b": "chatglm", "chatglm2-6b-int4": "chatglm", "chatglm3-6b": "chatglm",
    "glm-4-9b-0414": "glm4", "glm-4-9b-chat": "chatglm", "glm-4-9b-chat-hf": "chatglm",
    "glm-4.5-air": "glm4moe", "more/glm4_0414": "glm4", "more/glm4_hf": "chatglm",
    "more/glm4_moe": "glm4moe", "more/glm4_remote": "chatglm", "more/glm4_yarn": "glm4",
    "more/v2_32k_interp": "chatglm", "more/v2_chatglm2": "chatglm",
    "more/v2_chatglm2_int4": "chatglm", "more/v2_chatglm2_int8": "chatglm",
    "more/v3_32k": "chatglm", "more/v3_chatglm3": "chatglm",
}  # fmt: skip
UNKNOWN = [
    "glm-large-chinese", "chatglm-6b", "chatglm-6b-int4", "chatglm-6b-ptuning", "more/v2_switches",
    "more/v3_ptuning_v2",
]  # fmt: skip
TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0"]
GLM4_WORDS = "今天天气很好，适合出门。\n\t  3.14159 It's GLM-4! 测试\t测试 😀👍🏽 𠮷 <|user|> <sop>"


def scores(loaded: Loaded, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model.logits(loaded.model(ids % loaded.config.vocab_size)).float()


@pytest.mark.parametrize("name", KNOWN)
def test_a_float32_file_gives_the_same_logits(shared: Path, tmp_path: Path, name: str) -> None:
    loaded = load(shared / "oracles" / name)
    file = export_gguf(loaded, tmp_path / "model.gguf", kind="f32")
    again = load(file)
    assert read_header(file).metadata["general.architecture"] == KNOWN[name]
    assert again.config == loaded.config
    assert again.defaults == loaded.defaults
    assert again.generation == loaded.generation
    # What is quantized in ChatGLM's layout is multiplied in another order there.
    bound = 1e-4 if "int" in name and "interp" not in name else 0.0
    assert float((scores(again) - scores(loaded)).abs().max()) <= bound


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_llama_cpp_does_not_know_is_refused_and_nothing_is_written(
    shared: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=r"llama\.cpp has no architecture|learned prefix"):
        export_gguf(load(shared / "oracles" / name), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", TYPES)
def test_llama_cpps_own_reader_finds_every_tensor_and_key(
    toy: Path, tmp_path: Path, kind: str
) -> None:
    loaded = load(toy)
    file = export_gguf(loaded, tmp_path / "model.gguf", kind=kind)
    reader = gguf.GGUFReader(file)
    architecture = gguf.MODEL_ARCH.CHATGLM
    known = {gguf.TENSOR_NAMES[t] for t in gguf.MODEL_TENSORS[architecture]}
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert len(found) == len(loaded.model.state_dict())
    for name, tensor in found.items():
        pattern = (
            name.rpartition(".")[0].replace("blk.0", "blk.{bid}").replace("blk.1", "blk.{bid}")
        )
        assert pattern in known
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert numbers.shape == tuple(reversed(tensor.shape.tolist()))
        assert tensor.tensor_type.name == kind_expected(name, numbers.shape, kind)
    keys = {key: field.contents() for key, field in reader.fields.items()}
    assert keys["chatglm.block_count"] == 2
    assert keys["chatglm.attention.head_count_kv"] == 2
    assert keys["chatglm.rope.dimension_count"] == 4
    assert keys["tokenizer.ggml.pre"] == "gpt-2"
    assert len(keys["tokenizer.ggml.tokens"]) == loaded.config.vocab_size
    assert keys["tokenizer.ggml.eot_token_id"] == loaded.tokenizer.special["<|user|>"]
    assert keys["general.file_type"] == {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}[kind]


def kind_expected(name: str, shape: tuple[int, ...], kind: str) -> str:
    if len(shape) == 1:
        return "F32"
    if kind.startswith("q") and shape[-1] % 32:
        return "F16"
    return "Q8_0" if kind == "q4_0" and name in ("token_embd.weight",) else kind.upper()


# The most that a number may move, as a share of the largest in its group of 32.
STEPS = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.6 / 127, "q4_0": 1.01 / 8}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["more/glm4_hf", "more/glm4_0414", "more/glm4_moe"])
def test_what_is_read_back_is_what_was_written_within_its_precision(
    shared: Path, tmp_path: Path, name: str, kind: str
) -> None:
    loaded = load(shared / "oracles" / name)
    again = load(export_gguf(loaded, tmp_path / "model.gguf", kind=kind))
    for ours in loaded.model.state_dict():
        before, after = parameter(loaded, ours), parameter(again, ours)
        if before.dim() == 1 or ours.endswith("router.weight"):
            assert torch.equal(before, after), ours
            continue
        groups = before.reshape(-1, 32 if before.shape[-1] % 32 == 0 else before.shape[-1])
        change = (after - before).abs().view_as(groups)
        bound = STEPS[kind] * groups.abs().amax(-1, keepdim=True)
        assert bool((change <= bound + 1e-9).all()), ours


@pytest.mark.parametrize("kind", TYPES)
def test_saving_an_imported_file_gives_the_same_bytes_for_every_tensor(
    toy: Path, tmp_path: Path, kind: str
) -> None:
    file = export_gguf(load(toy), tmp_path / "model.gguf", kind=kind)
    saved = save(load(file), tmp_path / "again")
    before, after = read_header(file), read_header(saved / "model.gguf")
    assert list(before.tensors) == list(after.tensors)
    for name, old in before.tensors.items():
        new = after.tensors[name]
        assert (old.kind, old.shape) == (new.kind, new.shape)
        contents = [
            header.path.read_bytes()[stored.start : stored.end]
            for header, stored in ((before, old), (after, new))
        ]
        assert contents[0] == contents[1]
    assert set(before.metadata) == set(after.metadata)
    assert load(saved).directory == saved / "model.gguf"


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_numbers_have_the_bytes_that_ggml_gives_them(kind: str) -> None:
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(300, 96)).astype(np.float32)
    rows *= 10.0 ** chance.uniform(-6, 3, size=(300, 1)).astype(np.float32)
    rows[3] = 0
    rows[4, ::2] = -rows[4, 1::2]  # the largest occurs with both signs
    rows[5] = np.arange(96) / 2 - 24  # halves
    ggml_type = gguf.GGMLQuantizationType[kind]
    expected = gguf.quantize(rows, ggml_type).view(np.uint8)
    raw = to_blocks(torch.from_numpy(rows), kind)
    assert np.array_equal(raw.numpy(), expected)
    back = from_blocks(raw.flatten(), (300, 96), kind, torch.float32).float().numpy()
    assert np.array_equal(back, gguf.dequantize(gguf.quantize(rows, ggml_type), ggml_type))


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q5_0"])
def test_types_that_only_llama_cpp_writes_are_read(kind: str) -> None:
    ggml_type = gguf.GGMLQuantizationType[kind]
    size = gguf.GGML_QUANT_SIZES[ggml_type][1] * (256 // gguf.GGML_QUANT_SIZES[ggml_type][0])
    raw = np.random.default_rng(0).integers(0, 60, size=(4, size), dtype=np.uint8)
    found = from_blocks(torch.from_numpy(raw).flatten(), (4, 256), kind, torch.float32)
    assert np.array_equal(found.numpy(), gguf.dequantize(raw, ggml_type))


def test_q4_0_opens_in_int4_without_loss(toy: Path, tmp_path: Path) -> None:
    file = export_gguf(load(toy), tmp_path / "model.gguf", kind="q4_0")
    plain, packed = load(file, dtype="float32"), load(file, quantize="int4")
    compared = 0
    for name, module in packed.model.named_modules():
        if isinstance(module, QuantizedLinear) and module.bits == 4 and module.columns % 32 == 0:
            weight = plain.model.get_submodule(name).weight
            assert torch.equal(module.dequantized(torch.float32), weight)
            compared += 1
    assert compared == 6


def test_weights_on_a_grid_of_four_bits_come_through_int4_exactly() -> None:
    numbers = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q4_0
    grid = torch.from_numpy(gguf.dequantize(gguf.quantize(numbers, kind), kind))
    assert torch.equal(quantized(grid, 4, bias=False).dequantized(torch.float32), grid)


def test_a_large_file_keeps_its_bits(toy: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("chatglm.checkpoint.fill._SMALL_SHARE", 0.0)
    for kind, kept in (("q8_0", "int8"), ("q4_0", "int4"), ("f16", None)):
        file = export_gguf(load(toy), tmp_path / f"{kind}.gguf", kind=kind)
        assert load(file).quantize == kept
        assert load(file, dtype="float32").quantize is None


def test_the_embedded_model_comes_back_with_tokenizer_and_settings(tmp_path: Path) -> None:
    loaded = load()
    again = load(export_gguf(loaded, tmp_path / "nano.gguf", kind="f16"))
    assert again.config == loaded.config
    assert again.defaults == loaded.defaults
    assert (again.generation, again.tokenizer.special) == ("nano", loaded.tokenizer.special)
    assert again.tokenizer.encode(GLM4_WORDS) == loaded.tokenizer.encode(GLM4_WORDS)
    assert float((scores(again) - scores(loaded)).abs().max()) < 1e-3


@pytest.mark.parametrize("name", ["glm-4-9b-chat", "chatglm3-6b", "chatglm2-6b"])
def test_published_tokenizers_come_back_from_the_keys(
    shared: Path, tmp_path: Path, name: str
) -> None:
    tokenizer = load_tokenizer(shared / "tokenizers" / name)
    rows = tokenizer.vocab_size + 200
    keys = keys_of_tokenizer(tokenizer, rows, None) | {"chatglm.generation": tokenizer.generation}
    again = tokenizer_of(keys, tmp_path / "model.gguf")
    assert len(keys["tokenizer.ggml.tokens"]) == rows
    assert again.special == tokenizer.special
    assert again.generation == tokenizer.generation
    assert again.end_ids == tokenizer.end_ids
    cases = json.loads((shared / "tokenizers" / name / "cases.json").read_text("utf-8"))
    for case in cases["texts"]:
        ids = again.encode(case["text"])
        assert ids == case["ids"]
        assert again.decode(ids) == tokenizer.decode(ids)


def test_a_tokenizer_larger_than_the_model_is_refused(toy: Path) -> None:
    tokenizer = load_tokenizer(toy)
    with pytest.raises(ValueError, match="do they belong together"):
        keys_of_tokenizer(tokenizer, tokenizer.vocab_size - 1, None)


def test_files_of_llama_cpps_converter_with_separate_heads_open(
    shared: Path, tmp_path: Path
) -> None:
    loaded = load(shared / "oracles/more/glm4_hf")
    source = GgufFile(export_gguf(loaded, tmp_path / "ours.gguf", kind="f32"))
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "chatglm")
    for key, value in source.header.metadata.items():
        if not key.startswith(("general.", "tokenizer.", "chatglm.vocab", "chatglm.g")):
            kind = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            if isinstance(value, float | int):
                kind(key, value)
    writer.add_token_list([f"[PAD{i}]" for i in range(loaded.config.vocab_size)])
    sizes = [loaded.config.num_heads * 16, 32, 32]
    for name in source:
        tensor = source.read(name)
        if ".attn_qkv." in name:
            for part, rows in zip("qkv", tensor.split(sizes), strict=True):
                writer.add_tensor(name.replace("qkv", part), rows.numpy())
        else:
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert torch.equal(scores(load(tmp_path / "theirs.gguf")), scores(loaded))


def test_an_export_writes_over_nothing_and_names_unknown_types(toy: Path, tmp_path: Path) -> None:
    loaded = load(toy)
    (tmp_path / "model.gguf").write_text("mine")
    with pytest.raises(FileExistsError, match="there already"):
        export_gguf(loaded, tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="must be one of f32, f16, bf16, q8_0, q4_0"):
        export_gguf(loaded, tmp_path / "other.gguf", kind="q5_1")
    assert (tmp_path / "model.gguf").read_text() == "mine"


def test_a_full_disk_leaves_nothing(toy: Path, tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", fail)
    with pytest.raises(OSError, match="nothing is left of it"):
        export_gguf(load(toy), tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_numbers_beyond_float16_are_not_cut(toy: Path, tmp_path: Path) -> None:
    loaded = load(toy)
    with torch.no_grad():
        loaded.model.layers[0].mlp.down.weight[0, 0] = 1e5
    with pytest.raises(ValueError, match="beyond float16"):
        export_gguf(loaded, tmp_path / "model.gguf", kind="f16")
    with pytest.raises(CheckpointError, match="lacks"):
        load(broken(export_gguf(loaded, tmp_path / "model.gguf", kind="f32")))


def broken(file: Path) -> Path:
    """The file with one tensor renamed."""
    file.write_bytes(file.read_bytes().replace(b"blk.1.ffn_down.weight", b"blk.1.ffn_town.weight"))
    return file

"""LoRA adapters that PEFT wrote: the same scores as PEFT's own, on every format it can wrap."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatglm.adapters.lora import LoraEmbedding, LoraLinear
from chatglm.checkpoint import load, merge_adapter, save
from chatglm.checkpoint.names import entry_of
from chatglm.checkpoint.transforms import to_ours, to_theirs
from chatglm.errors import CheckpointError
from chatglm.quantization.embedding import QuantizedEmbedding

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")

IDS = torch.arange(5, 37)[None]


def scores(loaded) -> torch.Tensor:
    with torch.inference_mode():
        return loaded.model.logits(loaded.model(IDS))


LINEARS = ["q_proj", "v_proj", "gate_up_proj", "down_proj"]


def by_peft(toy: Path, folder: Path, targets: list[str]) -> tuple[Path, torch.Tensor]:
    """An adapter directory that PEFT writes for the toy model, and PEFT's own scores."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = transformers.AutoModelForCausalLM.from_pretrained(toy, pad_token_id=0)
        settings = peft.LoraConfig(
            r=4,
            lora_alpha=16,
            target_modules=targets,
            rank_pattern={"down_proj": 2},
            alpha_pattern={"layers.1.self_attn.q_proj": 3},
            modules_to_save=["input_layernorm"],
        )
        model = peft.get_peft_model(base, settings)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn_like(parameter) / 8 + ("norm" in name))
        model.save_pretrained(folder)
    with torch.inference_mode():
        expected = model(IDS).logits
    return folder, expected


@pytest.fixture(scope="module")
def wrapped(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    return by_peft(toy, tmp_path_factory.mktemp("peft") / "adapter", LINEARS)


def test_an_adapter_on_the_word_embeddings_stays_beside_a_tied_head(
    toy: Path, tmp_path: Path
) -> None:
    folder, expected = by_peft(toy, tmp_path / "adapter", [*LINEARS, "embed_tokens"])
    loaded = load(folder)
    torch.testing.assert_close(scores(loaded), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="tied"):
        merge_adapter(loaded)
    small = load(folder, quantize="int8")  # the table that the adapter brings is quantized too
    assert isinstance(small.model.embedding, LoraEmbedding)
    assert isinstance(small.model.embedding.base, QuantizedEmbedding)
    likeness = torch.nn.functional.cosine_similarity(scores(small), expected, dim=-1)
    assert likeness.min() > 0.99
    small.config = replace(small.config, tied=False)
    with pytest.raises(ValueError, match="embedding is quantized and an adapter cannot be merged"):
        merge_adapter(small)


def test_an_adapter_directory_gives_pefts_scores(wrapped) -> None:
    folder, expected = wrapped
    loaded = load(folder)
    torch.testing.assert_close(scores(loaded), expected, atol=1e-4, rtol=1e-4)
    assert loaded.tokenizer is not None


def test_an_adapter_is_put_on_the_base_that_is_named(wrapped, toy: Path) -> None:
    folder, expected = wrapped
    torch.testing.assert_close(scores(load(toy, adapter=folder)), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores(load(folder, base=toy)), expected, atol=1e-4, rtol=1e-4)
    assert (scores(load(toy)) - expected).abs().max() > 0.1


def test_a_merged_model_scores_the_same_and_is_saved_whole(wrapped, tmp_path: Path) -> None:
    folder, expected = wrapped
    loaded = load(folder)
    merge_adapter(loaded)
    assert not any(isinstance(module, LoraLinear) for module in loaded.model.modules())
    torch.testing.assert_close(scores(loaded), expected, atol=1e-4, rtol=1e-4)
    again = load(save(loaded, tmp_path / "merged"))
    torch.testing.assert_close(scores(again), expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_that_is_not_merged_is_saved_as_it_came(wrapped, tmp_path: Path) -> None:
    folder, _ = wrapped
    saved = save(load(folder), tmp_path / "saved")
    for path in folder.iterdir():
        assert (saved / path.name).read_bytes() == path.read_bytes()


def test_an_adapter_lies_on_a_quantized_base_but_is_not_merged_into_it(wrapped) -> None:
    folder, expected = wrapped
    loaded = load(folder, quantize="int8")
    near = torch.cosine_similarity(scores(loaded), expected, dim=-1)
    assert near.min() > 0.95
    with pytest.raises(ValueError, match="without quantize"):
        merge_adapter(loaded)


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm2-6b", "glm-large-chinese"])
def test_adapters_of_the_familys_own_formats_add_to_the_files_own_rows(
    shared: Path, tmp_path: Path, name: str
) -> None:
    """LoRA is W + s b a in the file's row order: the same as a base whose files hold that sum."""
    source = shared / "oracles" / name
    base = load(source, dtype="float32")
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for ours, parameter in base.model.named_parameters():
        if not ours.endswith(("qkv.weight", "mlp.down.weight")):
            continue
        entry = entry_of(base.format, ours)
        rows, columns = parameter.shape
        a = torch.randn(3, columns, generator=generator) / 4
        b = torch.randn(rows, 3, generator=generator) / 4
        module = entry.theirs[0].removesuffix(".weight")
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
        theirs = to_theirs(entry.transform, parameter.data, base.config, ours)[0] + 2.0 * b @ a
        parameter.data.copy_(to_ours(entry.transform, [theirs], base.config))
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    table = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "base_model_name_or_path": str(source)}
    (folder / "adapter_config.json").write_text(json.dumps(table), "utf-8")
    loaded = load(folder, dtype="float32")
    prompt = torch.arange(6, 30)[None]
    planes = base.config.num_planes
    positions = torch.arange(24).expand(1, planes, 24)
    with torch.inference_mode():
        expected = base.model(prompt, positions, None)
        torch.testing.assert_close(
            loaded.model(prompt, positions, None), expected, atol=1e-4, rtol=1e-4
        )


def damaged(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type must be LORA or PREFIX_TUNING, got 'LOHA'"),
        ({"use_dora": True}, "lacks a lora_magnitude_vector of"),
        ({"lora_bias": True}, "lora_bias is True, which is not supported"),
        ({"base_model_name_or_path": None}, "does not name its base; give it as base="),
    ],
)
def test_a_config_that_means_something_else_is_refused(
    wrapped, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = damaged(wrapped[0], tmp_path / "adapter")
    table = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(table | change), "utf-8")
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_matrices_without_a_place_are_all_named(wrapped, tmp_path: Path) -> None:
    folder = damaged(wrapped[0], tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for side, shape in (("A", (2, 32)), ("B", (32, 2))):
        tensors[f"base_model.model.model.layers.7.self_attn.q_proj.lora_{side}.weight"] = (
            torch.zeros(shape)
        )
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"layers\.7\.self_attn\.q_proj; was it trained on"):
        load(folder)


def test_a_truncated_adapter_and_one_with_code_are_refused(wrapped, tmp_path: Path) -> None:
    folder = damaged(wrapped[0], tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        load(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"holds no adapter_model\.safetensors"):
        load(folder)
    torch.save({"weights": Path}, folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="it was not opened"):
        load(folder)

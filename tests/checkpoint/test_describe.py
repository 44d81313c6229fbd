"""What a directory tells about its model without its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chatglm.checkpoint import export_gguf, load
from chatglm.checkpoint.describe import describe
from chatglm.cli import main


def test_a_description_counts_what_the_model_has(toy: Path) -> None:
    found, loaded = describe(toy), load(toy)
    assert found.num_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert found.config == loaded.config
    assert found.generation == loaded.generation
    assert found.files == {"model.safetensors": (toy / "model.safetensors").stat().st_size}
    assert found.memory["bf16"] == 2 * found.num_parameters
    for kind in ("int8", "int4"):
        weights = load(toy, dtype="bfloat16", quantize=kind).model.state_dict().values()
        assert found.memory[kind] == sum(t.nbytes for t in weights)


def test_every_published_format_is_described(shared: Path) -> None:
    for path in sorted((shared / "oracles").rglob("config.json")):
        found, loaded = describe(path.parent), load(path.parent)
        assert (found.format, found.generation) == (loaded.format, loaded.generation)
        assert (found.config, found.base) == (loaded.config, loaded.base)
        assert found.notes == loaded.notes


def test_info_is_for_people_and_for_programs(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(toy)]) == 0
    assert "parameters" in capsys.readouterr().out
    assert main(["info", str(toy), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["layers"] == 2
    assert told["context"] == 512


def test_info_of_a_damaged_folder_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{")
    assert main(["info", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert "config.json" in error
    assert error.count("\n") == 1


def write_adapter(folder: Path, base: str, **changes: object) -> Path:
    folder.mkdir()
    tensors = {}
    for part, rank in (("q_proj", 4), ("o_proj", 4), ("mlp.down_proj", 2)):
        start = f"base_model.model.model.layers.0.{'' if '.' in part else 'self_attn.'}{part}"
        columns = 48 if "down" in part else 32
        tensors[f"{start}.lora_A.weight"] = torch.zeros(rank, columns)
        tensors[f"{start}.lora_B.weight"] = torch.zeros(32, rank)
    save_file(tensors, folder / "adapter_model.safetensors")
    table = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": base} | changes
    (folder / "adapter_config.json").write_text(json.dumps(table), "utf-8")
    return folder


def test_info_of_an_adapter_tells_its_shape_and_its_base(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_adapter(tmp_path / "lora", str(toy))
    assert main(["info", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["adapter"], told["ranks"]) == ("LoRA", {"2": 1, "4": 2})
    assert told["targets"] == ["down_proj", "o_proj", "q_proj"]
    assert told["parameters"] == 2 * 4 * 64 + 2 * (48 + 32)
    assert told["base"]["directory"] == str(toy)
    assert told["base"]["layers"] == 2
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "2 (×1), 4 (×2)" in shown
    assert "base's context" in shown


def test_info_of_an_adapter_without_its_base_asks_no_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    folder = write_adapter(tmp_path / "lora", "someone/nowhere", use_dora=True)
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "DoRA" in shown
    assert "someone/nowhere" in shown
    assert "not found here" in shown


def test_info_of_a_learned_prefix_tells_its_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_adapter(tmp_path / "prefix", "", peft_type="PREFIX_TUNING")
    save_file({"prompt_embeddings": torch.zeros(7, 64)}, folder / "adapter_model.safetensors")
    assert main(["info", str(folder)]) == 0
    assert "7 tokens" in capsys.readouterr().out


def test_info_of_an_adapter_without_weights_is_invalid_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_adapter(tmp_path / "lora", "")
    (folder / "adapter_model.safetensors").unlink()
    assert main(["info", str(folder)]) == 3
    assert "adapter_model.safetensors" in capsys.readouterr().err


def test_info_reads_a_gguf_file(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    file = export_gguf(load(toy), tmp_path / "toy.gguf", kind="q4_0")
    assert main(["info", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["layers"]) == ("gguf_chatglm", 2)
    assert told["parameters"] == describe(toy).num_parameters
    assert told["files"] == {"toy.gguf": file.stat().st_size}

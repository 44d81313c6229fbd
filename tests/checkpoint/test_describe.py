"""What a directory tells about its model without its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm.checkpoint import load
from chatglm.checkpoint.describe import describe
from chatglm.cli import main


def test_a_description_counts_what_the_model_has(toy: Path) -> None:
    found, loaded = describe(toy), load(toy)
    assert found.num_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert found.config == loaded.config
    assert found.generation == loaded.generation
    assert found.files == {"model.safetensors": (toy / "model.safetensors").stat().st_size}
    assert found.memory["bf16"] == 2 * found.num_parameters
    assert found.memory["bf16"] > found.memory["int8"] > found.memory["int4"]


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

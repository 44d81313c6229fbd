"""A network in pieces over processes learns as a whole one does, and is saved piece by piece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.parallel.team import Team

from chatglm.parallel import Group
from chatglm.parallel.pieces import Pieces
from chatglm.training.log import read_metrics
from chatglm.training.state import MANIFEST, checkpoints, is_whole, newest

SHAPES: dict[str, list[str]] = {
    "grouped heads, tied words": [],
    "all heads, biases, words apart": [
        "model.num_kv_heads=4", "model.bias=all", "model.tied=false", "model.qk_norm=true",
    ],
    "two planes, layernorm, gelu": [
        "model.num_kv_heads=4", "model.bias=all", "model.norm=layernorm", "model.mlp=gelu",
        "model.context=prefix", "model.position=learned_2d",
    ],
    "experts": [
        "model.experts={num_experts=4, num_active=2, num_shared=1, ffn_size=16, first_layer=1}",
    ],
}  # fmt: skip


def train(team: Team, size: int, recipe: str, output: Path, *more: str) -> Path:
    team.run(size, "train", recipe, f"output={output}", *more)
    return output


def curve(output: Path) -> list[float]:
    rows = read_metrics(output / "metrics.jsonl")
    return [row[key] for row in rows for key in ("loss", "gradient_norm") if key in row] + [
        row["validation_loss"] for row in rows if "validation_loss" in row
    ]


def weights(output: Path) -> dict[str, torch.Tensor]:
    last = newest(output)
    assert last is not None
    with Pieces(last.glob("model*.safetensors")) as pieces:
        return {name: pieces.tensor(name) for name in pieces}


def assert_same(one: Path, other: Path) -> None:
    assert curve(other) == pytest.approx(curve(one), rel=5e-5)
    expected, found = weights(one), weights(other)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        if not name.endswith("qkv.bias"):  # of keys, whose gradient is 0 but for rounding
            torch.testing.assert_close(found[name], tensor, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("shape", SHAPES)
def test_two_that_share_the_widths_learn_as_one_does(
    team: Team, recipe: str, tmp_path: Path, shape: str
) -> None:
    one = train(team, 1, recipe, tmp_path / "one", *SHAPES[shape])
    two = train(team, 2, recipe, tmp_path / "two", *SHAPES[shape], "tensor_parallel=2")
    assert_same(one, two)


@pytest.mark.parametrize(
    ("size", "more"),
    [
        (2, ["shard=true"]),
        (4, ["shard=true", "recompute=true"]),
        (4, ["tensor_parallel=2"]),
        (4, ["tensor_parallel=2", "shard=true", "recompute=true"]),
    ],
    ids=["2 in pieces", "4 in pieces", "2 teams of 2", "2 teams of 2 in pieces"],
)
def test_any_way_to_share_out_learns_as_one_does(
    team: Team, recipe: str, tmp_path: Path, size: int, more: list[str]
) -> None:
    one = train(team, 1, recipe, tmp_path / "one")
    assert_same(one, train(team, size, recipe, tmp_path / "many", *more))


def test_a_team_of_four_learns_as_one_does(team: Team, recipe: str, tmp_path: Path) -> None:
    more = SHAPES["all heads, biases, words apart"]
    one = train(team, 1, recipe, tmp_path / "one", *more)
    assert_same(one, train(team, 4, recipe, tmp_path / "four", *more, "tensor_parallel=4"))


def test_a_checkpoint_in_pieces_goes_on_in_any_number_of_processes(
    team: Team, recipe: str, tmp_path: Path
) -> None:
    one = train(team, 1, recipe, tmp_path / "one")
    run = train(team, 4, recipe, tmp_path / "run", "tensor_parallel=2", "shard=true")
    last = checkpoints(run)[-1]
    files = {path.name for path in last.iterdir()}
    assert {f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)} < files
    assert set(json.loads((last / MANIFEST).read_text("utf-8"))) == files - {MANIFEST}
    for size, more in ((2, ["shard=true"]), (1, []), (2, ["tensor_parallel=2"])):
        (checkpoints(run)[-1] / MANIFEST).unlink()
        train(team, size, recipe, run, *more)
        assert_same(one, run)


def test_each_number_is_in_one_piece_only(team: Team, recipe: str, tmp_path: Path) -> None:
    one = train(team, 1, recipe, tmp_path / "one")
    run = train(team, 4, recipe, tmp_path / "run", "tensor_parallel=2", "shard=true")
    for what in ("model", "optimizer"):
        sizes = []
        for folder in (one, run):
            last = newest(folder)
            assert last is not None
            with Pieces(last.glob(f"{what}*.safetensors")) as pieces:
                sizes.append({name: pieces.shape(name) for name in pieces})
        assert sizes[0] == sizes[1]
    largest = max(p.stat().st_size for p in checkpoints(run)[-1].glob("model-*"))
    whole = (checkpoints(one)[-1] / "model.safetensors").stat().st_size
    assert largest < whole / 2


def test_a_lost_piece_is_named(team: Team, recipe: str, tmp_path: Path) -> None:
    run = train(team, 2, recipe, tmp_path / "run", "tensor_parallel=2")
    last = checkpoints(run)[-1]
    (last / "model-00001-of-00002.safetensors").unlink()
    assert not is_whole(last)
    with (
        Pieces(last.glob("model*.safetensors")) as pieces,
        pytest.raises(ValueError, match="lacks a piece of layers"),
    ):
        pieces.shape("layers.0.mlp.down.weight")


def test_what_cannot_be_shared_out_is_said(team: Team, recipe: str, tmp_path: Path) -> None:
    for size, more, words in (
        (4, ["tensor_parallel=4"], "tensor_parallel 4 does not divide num_kv_heads 2"),
        (3, ["tensor_parallel=2"], "tensor_parallel is 2 and there are 3 processes"),
        (2, ["tensor_parallel=2", "shard=true"], "shard needs at least 4 processes"),
        (2, ["tensor_parallel=2", "optim.kind=muon"], "muon works on whole matrices"),
    ):
        team.start(size, "train", recipe, f"output={tmp_path / 'run'}", *more)
        assert set(team.statuses()) == {1}
        assert words in team.log.read_text("utf-8")


def test_a_group_of_one_needs_no_others() -> None:
    group = Group()
    assert group.sum(1.5, 2.0) == [1.5, 2.0]
    assert (group.largest(3), group.from_first(-1)) == (3, -1)

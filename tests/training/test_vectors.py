from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from chatglm.training.vectors import read_vectors, start_embedding


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_vectors_of_the_embedding_width_keep_their_direction(tmp_path: Path) -> None:
    path = write(tmp_path / "a.vec", "2 3\n你好 1 2 3\n世界 -1 0 1\n")
    embedding = nn.Embedding(5, 3)
    before = embedding.weight.detach().clone()
    assert start_embedding(embedding, read_vectors(path), {"你好": 4, "没有": 0}) == 1
    row = embedding.weight[4].detach()
    assert torch.allclose(row / row.norm(), torch.tensor([1.0, 2, 3]) / 14**0.5)
    assert torch.equal(embedding.weight[:4], before[:4])


def test_vectors_of_another_width_keep_their_angles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    width, words = 300, {f"词{i}": i for i in range(20)}
    table = torch.randn(20, width)
    lines = [f"{w} " + " ".join(f"{x:.6f}" for x in table[i].tolist()) for w, i in words.items()]
    path = write(tmp_path / "b.vec", f"20 {width}\n" + "\n".join(lines) + "\n")
    embedding = nn.Embedding(20, 512)
    assert start_embedding(embedding, read_vectors(path), words) == 20

    def cosines(x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.normalize(x, dim=-1)
        return x @ x.T

    assert (cosines(embedding.weight.detach()) - cosines(table)).abs().max() < 0.2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("你好 1 2 3\n", "line 1 must read 'count width'"),
        ("2 3\n你好 1 2 3\n世界 1 2\n", "line 3: expected a word and 3 numbers"),
        ("1 2\n你好 1 x\n", "line 2"),
    ],
)
def test_a_damaged_vector_file_is_named_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_vectors(write(tmp_path / "c.vec", text))

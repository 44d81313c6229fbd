"""The published shapes have the published numbers of parameters."""

from __future__ import annotations

import pytest

from chatglm.checkpoint.fill import build
from chatglm.presets import PRESETS


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("chatglm-6b", 6_173_286_400),
        ("chatglm2-6b", 6_243_584_000),
        ("chatglm3-6b", 6_243_584_000),
        ("glm-4-9b-chat", 9_399_951_360),
    ],
)
def test_a_shape_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in build(PRESETS[name]).parameters()) == parameters

"""A calibration's way through a model, in every generation's own layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatglm.checkpoint import load
from chatglm.model import prefix_mask
from chatglm.prompt import Prompt, positions
from chatglm.quantization import native
from chatglm.quantization.calibrate import Calibration, Row
from chatglm.quantization.linear import QuantizedLinear
from chatglm.quantization.scheme import KINDS

NAMES = ["chatglm-6b", "chatglm3-6b", "glm-large-chinese", "glm-4-9b-0414", "glm-4.5-air"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_passed_on_is_what_the_quantized_model_computes(
    name: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "library", lambda: None)  # exact: the native kernels round x
    model = load(shared / "oracles" / name).model
    config = model.config
    prompt = Prompt(tokens=tuple(range(3, 23)))
    mask = None
    if config.context == "prefix":
        prompt = Prompt(tokens=prompt.tokens, prefix=12, hole=5)
        mask = prefix_mask(torch.tensor([12]), 20)
    row = Row(
        tokens=torch.tensor([prompt.tokens]),
        positions=torch.tensor([positions(prompt, 20, config.num_planes)]),
        mask=mask,
    )
    calibration = Calibration([row, row], KINDS["int4"].layers)
    for index in range(config.num_layers):
        calibration.quantize_layer(model, index)
        linears = [m for m in model.layers[index].modules() if hasattr(m, "weight_scale")]
        assert linears
        assert all(isinstance(linear, QuantizedLinear) for linear in linears)
    with torch.inference_mode():
        expected = model(row.tokens, row.positions, row.mask)
        for hidden in calibration.hidden:
            torch.testing.assert_close(model.norm(hidden), expected, rtol=1e-4, atol=1e-4)

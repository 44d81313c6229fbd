"""The formats that transformers has too, against its classes with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatglm.checkpoint import load, save

transformers = pytest.importorskip("transformers")

SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "num_hidden_layers": 3,
    "vocab_size": 70,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": [1, 2],
}
MOE = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "use_qk_norm": True,
}
CASES = {
    "glm": ("Glm", {}),
    "glm, tied": ("Glm", {"tie_word_embeddings": True, "attention_bias": False}),
    "glm, wide rotation": ("Glm", {"partial_rotary_factor": 1.0}),
    "glm4": ("Glm4", {"attention_bias": True}),
    "glm4, plain": ("Glm4", {"num_key_value_heads": 6}),
    "glm4_moe": ("Glm4Moe", MOE),
    "glm4_moe, one group": ("Glm4Moe", MOE | {"n_group": 1, "topk_group": 1, "use_qk_norm": False}),
    "glm4_moe, weights as they are": ("Glm4Moe", MOE | {"norm_topk_prob": False}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_logits_are_those_of_transformers(tmp_path: Path, name: str, shard: str) -> None:
    kind, changes = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **changes})
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    ids = torch.randint(3, 70, (2, 17))
    loaded = load(tmp_path / "theirs", dtype="float32")
    with torch.no_grad():
        expected = theirs(ids).logits
        got = loaded.model.logits(loaded.model(ids))
    assert float((got - expected).abs().max()) < 1e-4
    assert loaded.defaults.end_ids == {1, 2}
    back = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(
        save(loaded, tmp_path / "ours")
    )
    for parameter, (key, mine) in zip(theirs.parameters(), back.named_parameters(), strict=True):
        assert torch.equal(parameter, mine), key

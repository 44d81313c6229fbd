"""What every test may ask for."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when it is first imported: its kernels then run in its interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def kernel_device() -> str:
    """Where Triton's kernels run in tests: on a GPU, else on a processor in the interpreter."""
    if find_spec("triton") is None:
        pytest.skip("needs Triton: pip install triton")
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of oracles, tokenizers and data beside the checkout; tests skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the oracle and data folder at {folder}")
    return folder


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory in the embedded model's format, tiny and with random weights."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("toy")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    lines = ["今天天气很好，适合出门。", "你好，我是一个程序员。"] * 9
    tokenizer.train_from_iterator(lines, trainer)
    marks = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
    marks += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    tokenizer.add_special_tokens(marks)
    tokenizer.save(str(folder / "tokenizer.json"))
    words = tokenizer.get_vocab_size()
    config = {
        "model_type": "glm",
        "architectures": ["GlmForCausalLM"],
        "chatglm_generation": "nano",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": words,
        "max_position_embeddings": 512,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "eos_token_id": [tokenizer.token_to_id(m) for m in ("<|endoftext|>", "<|user|>")],
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (words, 32), "model.norm.weight": (32,)}
    for i in range(2):
        layer = f"model.layers.{i}."
        shapes |= {
            f"{layer}input_layernorm.weight": (32,),
            f"{layer}post_attention_layernorm.weight": (32,),
            f"{layer}self_attn.q_proj.weight": (32, 32),
            f"{layer}self_attn.k_proj.weight": (16, 32),
            f"{layer}self_attn.v_proj.weight": (16, 32),
            f"{layer}self_attn.o_proj.weight": (32, 32),
            f"{layer}mlp.gate_up_proj.weight": (96, 32),
            f"{layer}mlp.down_proj.weight": (32, 48),
        }
    tensors = {
        name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) / 4
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder

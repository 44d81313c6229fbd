"""Exports to transformers' formats, read by transformers itself; and merged adapters."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chatglm import ChatGLM
from chatglm.checkpoint import export_gguf, export_transformers, load
from chatglm.checkpoint.fill import build
from chatglm.checkpoint.read import TensorFiles
from chatglm.messages import Message
from chatglm.tokenizer import load_tokenizer

transformers = pytest.importorskip("transformers")

KNOWN = {
    "chatglm2-6b": "glm", "chatglm2-6b-int4": "glm", "chatglm3-6b": "glm",
    "glm-4-9b-chat": "glm", "glm-4-9b-chat-hf": "glm", "glm-4-9b-0414": "glm4",
    "glm-4.5-air": "glm4_moe", "more/v2_32k_interp": "glm", "more/v3_32k": "glm",
    "more/glm4_remote": "glm", "more/v2_chatglm2_int8": "glm", "more/glm4_yarn": "glm4",
}  # fmt: skip
MAIN = "import sys; from chatglm.cli import main; sys.exit(main())"


def chatglm(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, words)], capture_output=True, text=True, check=False
    )


def names_of(model: ChatGLM) -> set[str]:
    """Names of the parameters of the model where nothing is quantized."""
    return set(build(model.config).state_dict())


@pytest.mark.parametrize("name", KNOWN)
def test_transformers_own_class_gives_our_logits_and_replies(
    shared: Path, tmp_path: Path, name: str
) -> None:
    model = ChatGLM.from_pretrained(shared / "oracles" / name)
    # By default what was quantized is written in float16, as its publisher had it.
    dtype = "float32" if model.loaded.model.state_dict().keys() - names_of(model) else None
    folder = export_transformers(model.loaded, tmp_path / "out", dtype=dtype)
    assert json.loads((folder / "config.json").read_text("utf-8"))["model_type"] == KNOWN[name]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        expected = theirs(ids).logits[0]
    assert float((model.logits(ids) - expected).abs().max()) < 1e-4
    again = ChatGLM.from_pretrained(folder)
    assert float((again.logits(ids) - expected).abs().max()) < 1e-4
    if name == "more/v2_32k_interp":  # which says nothing of the length before the scaling
        assert again.config.rope_scaling.factor == model.config.rope_scaling.factor
    else:
        assert again.config == model.config
    settings = dict.fromkeys(("do_sample", "eos_token_id"), None) | {"do_sample": False}
    reply = theirs.generate(ids, max_new_tokens=8, attention_mask=torch.ones_like(ids), **settings)[
        0, ids.shape[1] :
    ]
    ours = again.generate_ids(ids, max_new_tokens=8, temperature=0, stop_ids=())
    assert ours[: len(reply)] == reply.tolist()


@pytest.mark.parametrize("name", ["chatglm-6b", "glm-large-chinese", "more/v2_switches"])
def test_what_transformers_does_not_have_is_refused(
    shared: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=r"transformers has no class .* chatglm\.integrations"):
        export_transformers(load(shared / "oracles" / name), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_large_exports_come_in_shards(shared: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("chatglm.checkpoint.transformers.SHARD_BYTES", 40_000)
    loaded = load(shared / "oracles/glm-4-9b-chat")
    folder = export_transformers(loaded, tmp_path / "out", dtype="bfloat16")
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    files = sorted({*index["weight_map"].values()})
    assert len(files) > 2
    assert [path.name for path in sorted(folder.glob("*.safetensors"))] == files
    tensors = TensorFiles(folder)
    assert {tensors.read(name).dtype for name in tensors} == {torch.bfloat16}
    assert index["metadata"]["total_size"] == sum(tensors.read(n).nbytes for n in tensors)
    transformers.AutoModelForCausalLM.from_pretrained(folder)


CHATS = [
    [("user", "你好")],
    [("user", "你好"), ("assistant", "你好！有什么可以帮您？"), ("user", " 1+1 = ?\n请回答")],
    [("system", "简短回答。"), ("user", "北京在哪里？")],
]


@pytest.mark.parametrize("name", ["glm-4-9b-chat", "chatglm3-6b", "chatglm2-6b"])
def test_the_exported_tokenizer_gives_the_official_ids(
    shared: Path, tmp_path: Path, name: str
) -> None:
    source = shared / "tokenizers" / name
    loaded = load(shared / "oracles" / name)
    loaded.tokenizer = load_tokenizer(source)
    loaded.base = source
    loaded.generation = loaded.tokenizer.generation
    folder = export_transformers(loaded, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    assert ours.generation == loaded.generation
    assert ours.special == loaded.tokenizer.special
    cases = json.loads((source / "cases.json").read_text("utf-8"))
    for case in cases["texts"]:
        ids = ours.encode(case["text"])
        assert ids == case["ids"]
        assert ours.decode(ids) == loaded.tokenizer.decode(ids)
        if not any(special in case["text"] for special in ours.special):
            wrapped = loaded.tokenizer.wrap(ids)
            assert theirs(case["text"])["input_ids"] == wrapped
    for chat in CHATS:
        if name == "chatglm2-6b" and chat[0][0] == "system":
            continue
        messages = [{"role": role, "content": content} for role, content in chat]
        text = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        said = [Message(role=role, content=content) for role, content in chat]
        expected = loaded.tokenizer.template.prompt(said).tokens
        assert theirs(text, add_special_tokens=False)["input_ids"] == list(expected)


def test_a_gguf_file_becomes_a_directory_again(tmp_path: Path) -> None:
    file = export_gguf(load(), tmp_path / "nano.gguf", kind="f16")
    folder = export_transformers(load(file), tmp_path / "out")
    before, after = ChatGLM.from_pretrained(), ChatGLM.from_pretrained(folder)
    assert after.config == before.config
    assert after.loaded.defaults == before.loaded.defaults
    ask = {"temperature": 0, "max_new_tokens": 24}
    assert after.generate("你好", **ask) == before.generate("你好", **ask)


def adapter_for(toy: Path, folder: Path) -> Path:
    """A LoRA adapter on the toy model's queries and outputs, with random matrices."""
    folder.mkdir()
    chance = torch.Generator().manual_seed(1)
    tensors = {}
    for layer in range(2):
        for part in ("q_proj", "o_proj"):
            start = f"base_model.model.model.layers.{layer}.self_attn.{part}"
            tensors[f"{start}.lora_A.weight"] = torch.randn(4, 32, generator=chance) / 4
            tensors[f"{start}.lora_B.weight"] = torch.randn(32, 4, generator=chance) / 4
    save_file(tensors, folder / "adapter_model.safetensors")
    table = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(toy),
        "target_modules": ["q_proj", "o_proj"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(table), "utf-8")
    return folder


def test_merge_saves_the_whole_in_the_bases_format(toy: Path, tmp_path: Path) -> None:
    adapter = adapter_for(toy, tmp_path / "adapter")
    done = chatglm("merge", toy, "--adapter", adapter, "--output", tmp_path / "whole")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'whole'}\n"), done.stderr
    ids = torch.arange(5, 37)
    merged = ChatGLM.from_pretrained(tmp_path / "whole").logits(ids)
    adapted = ChatGLM.from_pretrained(toy, adapter=adapter).logits(ids)
    plain = ChatGLM.from_pretrained(toy).logits(ids)
    assert float((merged - adapted).abs().max()) < 1e-4 < float((merged - plain).abs().max())
    assert {p.name for p in (tmp_path / "whole").iterdir()} == {p.name for p in toy.iterdir()}
    alone = chatglm("merge", adapter, "--output", tmp_path / "again")
    assert alone.returncode == 0, alone.stderr
    weights = [tmp_path / name / "model.safetensors" for name in ("whole", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_an_export_merges_the_adapter_first(toy: Path, tmp_path: Path) -> None:
    adapter = adapter_for(toy, tmp_path / "adapter")
    file = tmp_path / "model.gguf"
    done = chatglm("export", adapter, "--format", "gguf", "--type", "F32", "--output", file)
    assert (done.returncode, done.stdout) == (0, f"{file}\n"), done.stderr
    ids = torch.arange(5, 37)
    expected = ChatGLM.from_pretrained(adapter).logits(ids)
    assert float((ChatGLM.from_pretrained(file).logits(ids) - expected).abs().max()) < 1e-4


def test_commands_that_cannot_be_done_say_so(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    wrong: dict[tuple[object, ...], tuple[int, str]] = {
        ("merge", toy, "--output", tmp_path / "out"): (2, "is no adapter"),
        ("merge", toy): (2, "--output"),
        ("export", toy, "--format", "gguf", "-o", tmp_path / "there"): (2, "there already"),
        ("export", toy, "--output", tmp_path / "out"): (2, "--format"),
        ("export", toy, "--format", "gguf", "--type", "q5_1", "-o", "x"): (2, "invalid choice"),
        ("export", toy, "--format", "transformers", "--type", "q8_0", "-o", tmp_path / "out"): (
            2, "--type q8_0 is GGUF's",
        ),
        ("export", tmp_path / "none", "--format", "gguf", "-o", tmp_path / "out"): (1, "none"),
    }  # fmt: skip
    for words, (code, sentence) in wrong.items():
        done = chatglm(*words)
        assert (done.returncode, sentence in done.stderr) == (code, True), (words, done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_model_that_cannot_be_exported_is_refused_before_its_weights_are_read(
    shared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shared / "oracles/glm-large-chinese", folder)
    for kind in ("gguf", "transformers"):
        done = chatglm("export", folder, "--format", kind, "--output", tmp_path / "out")
        assert done.returncode == 1
        assert "it knows ChatGLM2 and 3" in done.stderr
        assert done.stderr.count("\n") == 1

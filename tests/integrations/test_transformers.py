"""The published models through transformers' Auto classes, against the official numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import chatglm.integrations.transformers as integration
from chatglm.checkpoint.read import TensorFiles
from chatglm.integrations.transformers.blanks import with_blank
from chatglm.tokenizer import load_tokenizer

Expected = dict[str, torch.Tensor]
TOLERANCE = 1e-4
CAUSAL = [
    "chatglm2-6b", "chatglm3-6b", "glm-4-9b-chat", "more/glm4_remote", "more/v2_32k_interp",
    "more/v2_chatglm2", "more/v2_switches", "more/v3_32k", "more/v3_chatglm3",
]  # fmt: skip
PREFIX = ["chatglm-6b", "chatglm-6b-ptuning", "more/v1_chatglm6b"]
QUANTIZED = ["chatglm-6b-int4", "chatglm-6b-int8", "chatglm2-6b-int4", "more/v2_chatglm2_int8"]
TOKENIZERS = ["chatglm-6b", "chatglm2-6b", "chatglm3-6b", "glm-4-9b-chat"]
GREEDY = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def open_oracle(shared: Path, name: str) -> tuple[transformers.PreTrainedModel, Expected]:
    folder = shared / "oracles" / name
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), load_file(folder / "expected.safetensors")


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((got - expected).detach().abs().max()) < TOLERANCE


@pytest.mark.parametrize("name", [*CAUSAL, *PREFIX, *QUANTIZED])
@torch.no_grad()
def test_logits_are_official(shared: Path, name: str) -> None:
    model, expected = open_oracle(shared, name)
    for key in expected:
        if key.endswith("input_ids") and not key.startswith(("padded", "batch")):
            got = model(expected[key]).logits
            assert_close(got, expected[key.replace("input_ids", "logits")])
        hidden = key.replace("input_ids", "attention_mask_true_means_masked")
        if key.endswith("input_ids") and hidden in expected:
            got = model(expected[key], attention_mask=expected[hidden]).logits
            assert_close(got, expected[key.replace("input_ids", "logits")])


@pytest.mark.parametrize("name", [*CAUSAL, *PREFIX])
def test_greedy_ids_are_official_with_and_without_cache(shared: Path, name: str) -> None:
    model, expected = open_oracle(shared, name)
    for key in (key for key in expected if key.endswith("greedy_ids") and "batch" not in key):
        start = expected.get(key.replace("greedy_ids", "greedy_prompt_ids"))
        start = expected.get(key.replace("greedy_ids", "greedy_prompt"), start)
        start = expected["input_ids"] if start is None else start
        for use_cache in (True, False):
            got = model.generate(start, max_new_tokens=12, use_cache=use_cache, **GREEDY)
            assert got[:, start.shape[1] :].tolist() == expected[key].tolist()


@pytest.mark.parametrize(
    "name", ["more/v1_chatglm6b", "more/v2_chatglm2", "more/v2_32k_interp", "more/glm4_remote"]
)
def test_batches_padded_on_the_left_are_official(shared: Path, name: str) -> None:
    model, expected = open_oracle(shared, name)
    ids, lengths = expected["batch_input_ids"], expected["batch_lengths"]
    keep = torch.arange(ids.shape[1])[None] >= ids.shape[1] - lengths[:, None]
    got = model(ids, attention_mask=keep.long()).logits
    assert_close(got[keep], expected["batch_logits"][keep])
    got = model.generate(ids, attention_mask=keep.long(), max_new_tokens=12, **GREEDY)
    assert got[:, ids.shape[1] :].tolist() == expected["batch_greedy_ids"].tolist()
    beams = {"attention_mask": keep.long(), "max_new_tokens": 4, "num_beams": 3, **GREEDY}
    placed = model.generate(ids, position_ids=expected["batch_position_ids"], **beams)
    assert placed.tolist() == model.generate(ids, **beams).tolist()


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm2-6b", "glm-4-9b-chat"])
@torch.no_grad()
def test_the_tree_without_its_head_gives_hidden_states(shared: Path, name: str) -> None:
    """TRL calls it, to score in chunks."""
    model, expected = open_oracle(shared, name)
    ids = next(value for key, value in expected.items() if key.endswith("input_ids"))
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    torch.testing.assert_close(head(hidden), model(ids).logits)


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForSeq2SeqLM", "AutoModelForCausalLM"])
def test_glm_2021_fills_its_blank_officially(shared: Path, auto: str) -> None:
    folder = shared / "oracles" / "glm-large-chinese"
    model = getattr(transformers, auto).from_pretrained(folder, dtype=torch.float32).eval()
    expected = load_file(folder / "expected.safetensors")
    got = model(
        expected["input_ids"],
        position_ids=expected["position_ids"],
        attention_mask=expected["context_length"],
    )
    assert_close(got.logits, expected["logits"])
    assert_close(model(expected["causal.input_ids"]).logits, expected["causal.logits"])
    prompt = expected["fill.prompt"]
    blank = int(prompt[0, int(expected["fill.blank_position"])])
    inputs = with_blank(
        prompt[:, :-1],
        torch.ones_like(prompt[:, :-1]),
        blanks=[blank],
        sop=int(prompt[0, -1]),
        eop=0,
        pad=0,
        room=10,
        spans=None,
        fills_room=False,
    )
    assert inputs["input_ids"].tolist() == prompt.tolist()
    reply = model.generate(**inputs, max_new_tokens=10, **GREEDY)[:, prompt.shape[1] :]
    assert reply.tolist() == expected["fill.greedy_ids"].tolist()


def test_losses_are_official(shared: Path) -> None:
    model, expected = open_oracle(shared, "more/v2_chatglm2")
    loss = model(expected["input_ids"], labels=expected["labels"]).loss
    assert_close(loss, expected["loss"][0])
    model, expected = open_oracle(shared, "more/v1_chatglm6b")
    loss = model(expected["mask_input_ids"], labels=expected["mask_labels"]).loss
    assert_close(loss, expected["mask_loss"][0])


@pytest.mark.parametrize(
    "name", ["chatglm-6b", "chatglm2-6b", "more/v2_32k_interp", "chatglm-6b-int4", "more/glm2021"]
)
def test_saving_gives_the_same_bytes_under_the_same_names(
    shared: Path, name: str, tmp_path: Path
) -> None:
    folder = shared / "oracles" / name
    model = transformers.AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    before, after = TensorFiles(folder), TensorFiles(tmp_path)
    names = {n for n in before if "inv_freq" not in n}
    assert set(after) == names
    for tensor in names:
        assert after.read(tensor).dtype == before.read(tensor).dtype
        assert torch.equal(after.read(tensor), before.read(tensor))
    again = transformers.AutoModel.from_pretrained(tmp_path)
    ids = torch.tensor([[9, 11, 12]])
    assert torch.equal(again.eval()(ids).logits, model.eval()(ids).logits)


def test_transformers_keeps_its_own_glm(shared: Path) -> None:
    folder = shared / "oracles" / "glm-4-9b-chat-hf"
    config = transformers.AutoConfig.from_pretrained(folder)
    assert type(config) is transformers.GlmConfig
    assert type(transformers.AutoConfig.for_model("glm")) is transformers.GlmConfig
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is transformers.GlmForCausalLM


def test_code_of_a_directory_never_runs(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*unused: object) -> str:
        raise AssertionError("asked whether to run code")

    monkeypatch.setattr("builtins.input", ask)
    copy_with_tokenizer(shared, "chatglm2-6b", tmp_path)
    table = json.loads((tmp_path / "config.json").read_text("utf-8"))
    table["auto_map"] = {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
    }
    (tmp_path / "config.json").write_text(json.dumps(table), encoding="utf-8")
    for name in ("configuration", "modeling", "tokenization"):
        (tmp_path / f"{name}_chatglm.py").write_text("raise SystemExit('code ran')\n")
    model = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(model) is integration.ChatGLMForConditionalGeneration
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer) is integration.ChatGLMTokenizer


def copy_with_tokenizer(shared: Path, name: str, folder: Path) -> Path:
    for source in (shared / "oracles" / name, shared / "tokenizers" / name):
        for path in source.iterdir():
            shutil.copyfile(path, folder / path.name)
    return folder


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_give_the_official_ids(shared: Path, name: str, tmp_path: Path) -> None:
    folder = copy_with_tokenizer(shared, name, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    cases = json.loads((folder / "cases.json").read_text("utf-8"))
    for case in cases["texts"]:
        assert tokenizer(case["text"], add_special_tokens=False)["input_ids"] == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]
    messages = cases["chats"][0]["messages"]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == cases["chats"][0]["input_ids"]
    saved = tmp_path / "saved"
    tokenizer.save_pretrained(saved)
    shutil.copyfile(folder / "config.json", saved / "config.json")
    again = transformers.AutoTokenizer.from_pretrained(saved)
    assert type(again) is type(tokenizer)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert load_tokenizer(saved).generation == tokenizer.inner.generation


def test_a_batch_is_padded_on_the_left_with_both_position_planes(
    shared: Path, tmp_path: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        copy_with_tokenizer(shared, "chatglm-6b", tmp_path)
    )
    batch = tokenizer(["你好", "今天天气怎么样？"], padding=True, return_tensors="pt")
    room = int((batch["attention_mask"][0] == 0).sum())
    alone = tokenizer("你好", return_tensors="pt")
    assert room > 0
    assert batch["input_ids"][0, room:].tolist() == alone["input_ids"][0].tolist()
    assert batch["position_ids"][0, :, room:].tolist() == alone["position_ids"][0].tolist()


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm2-6b", "glm-large-chinese"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_peft_trains_saves_and_reads_adapters_under_official_names(
    shared: Path, name: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    model, _ = open_oracle(shared, name)
    settings = peft.LoraConfig(r=2, target_modules=["query_key_value"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, settings).train()
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert all(".query_key_value.lora_" in n for n in trained)
    ids = torch.tensor([[9, 11, 12, 13, 20, 21]])
    if name == "chatglm-6b":
        ids = torch.tensor([[9, 11, 155, 156, 20, 21]])
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    before = adapted(input_ids=ids).logits.detach()
    adapted(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    after = adapted.eval()(input_ids=ids).logits.detach()
    assert not torch.equal(before, after)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(open_oracle(shared, name)[0], tmp_path).eval()
    assert torch.equal(again(input_ids=ids).logits, after)
    assert_close(again.merge_and_unload()(ids).logits, after)


def test_recomputed_activations_give_the_same_gradients(shared: Path) -> None:
    model, expected = open_oracle(shared, "chatglm2-6b")
    ids = expected["input_ids"]
    found = []
    for recomputes in (False, True):
        model.zero_grad()
        if recomputes:
            enable_recomputation(model)
        model.train()(ids, labels=ids).loss.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def enable_recomputation(model: transformers.PreTrainedModel) -> None:
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)()

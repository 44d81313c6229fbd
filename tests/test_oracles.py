"""Every published format against the numbers that the official code gives for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open

from chatglm import ChatGLM
from chatglm.checkpoint import load, save
from chatglm.checkpoint.read import TensorFiles
from chatglm.generation.cache import position_ids
from chatglm.prompt import Prompt

Expected = dict[str, torch.Tensor]
TOLERANCE = 1e-4

GLM_2021 = ["glm-large-chinese", "more/glm2021"]
CHATGLM = ["chatglm-6b", "chatglm-6b-int4", "chatglm-6b-int8", "chatglm-6b-ptuning"]
OTHERS = [
    "chatglm2-6b", "chatglm2-6b-int4", "chatglm3-6b", "glm-4-9b-0414", "glm-4-9b-chat",
    "glm-4-9b-chat-hf", "glm-4.5-air", "more/glm4_0414", "more/glm4_hf", "more/glm4_moe",
    "more/glm4_remote", "more/glm4_yarn", "more/v1_chatglm6b", "more/v1_chatglm6b_int4",
    "more/v1_chatglm6b_int8", "more/v1_ptuning_v2", "more/v2_32k_interp", "more/v2_chatglm2",
    "more/v2_chatglm2_int4", "more/v2_chatglm2_int8", "more/v2_switches", "more/v3_32k",
    "more/v3_chatglm3", "more/v3_ptuning_v2",
]  # fmt: skip


def open_oracle(shared: Path, name: str) -> tuple[ChatGLM, Expected]:
    folder = shared / "oracles" / name
    model = ChatGLM.from_pretrained(folder)
    assert isinstance(model, ChatGLM)
    return model, load_file(folder / "expected.safetensors")


def assert_logits(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.dtype == torch.float32
    assert float((got - expected).abs().max()) < TOLERANCE


def continue_greedily(model: ChatGLM, ids: torch.Tensor, count: int, **where: int) -> list[int]:
    return model.generate_ids(
        ids,
        max_new_tokens=count,
        temperature=0,
        stop_ids=(),
        **where,  # type: ignore[arg-type]
    )


def test_no_oracle_is_left_out(shared: Path) -> None:
    found = {
        str(path.parent.relative_to(shared / "oracles"))
        for path in (shared / "oracles").rglob("config.json")
    }
    assert found == {*GLM_2021, *CHATGLM, *OTHERS}


@pytest.mark.parametrize("name", OTHERS)
def test_logits_and_greedy_ids_are_official(shared: Path, name: str) -> None:
    model, expected = open_oracle(shared, name)
    for key in expected:
        if key.endswith("input_ids") and not key.startswith(("padded", "batch")):
            logits = expected[key.replace("input_ids", "logits")][0]
            assert_logits(model.logits(expected[key]), logits)
    if "greedy_ids" in expected:
        start = expected.get("greedy_prompt_ids", expected.get("input_ids"))
        assert start is not None
        reply = expected["greedy_ids"][0].tolist()
        assert continue_greedily(model, start, len(reply)) == reply


@pytest.mark.parametrize("name", OTHERS)
def test_padded_batches_equal_single_runs(shared: Path, name: str) -> None:
    model, expected = open_oracle(shared, name)
    if "batch_lengths" in expected:
        for row, length in enumerate(expected["batch_lengths"].tolist()):
            ids = expected["batch_input_ids"][row, -length:]
            assert_logits(model.logits(ids), expected["batch_logits"][row, -length:])
            reply = expected["batch_greedy_ids"][row].tolist()
            assert continue_greedily(model, ids, len(reply)) == reply
    elif "padded.attention_mask" in expected:
        for row, mask in enumerate(expected["padded.attention_mask"].bool()):
            ids = expected["padded.input_ids"][row][mask]
            assert_logits(model.logits(ids), expected["padded.logits"][row][mask])


@pytest.mark.parametrize("name", CHATGLM)
def test_chatglm_6b_finds_its_context_and_its_hole(shared: Path, name: str) -> None:
    model, expected = open_oracle(shared, name)
    for key in ("gmask", "mask", "ragged.0", "ragged.1", "ragged.2"):
        if f"{key}.input_ids" in expected:
            ids = expected[f"{key}.input_ids"]
            assert_logits(model.logits(ids), expected[f"{key}.logits"][0])
        if f"{key}.greedy_prompt" in expected:
            reply = expected[f"{key}.greedy_ids"][0].tolist()
            start = expected[f"{key}.greedy_prompt"]
            assert continue_greedily(model, start, len(reply)) == reply


def test_glm_large_chinese_reads_and_fills(shared: Path) -> None:
    model, expected = open_oracle(shared, GLM_2021[0])
    assert_logits(model.logits(expected["causal.input_ids"]), expected["causal.logits"][0])
    prompt = expected["fill.prompt"][0]
    reply = expected["fill.greedy_ids"][0].tolist()
    hole = int(expected["fill.blank_position"])
    context = len(prompt) - 1
    assert continue_greedily(model, prompt, len(reply), context_length=context, hole=hole) == reply
    got = model.logits(
        expected["input_ids"],
        context_length=int(expected["context_length"]),
        positions=expected["position_ids"][0],
    )
    assert_logits(got, expected["logits"][0])


def test_glm_2021_reads_blanks_of_every_kind(shared: Path) -> None:
    model, expected = open_oracle(shared, GLM_2021[1])
    for kind in ("bert", "sent", "gpt"):
        got = model.logits(
            expected[f"{kind}_input_ids"],
            context_length=int(expected[f"{kind}_sep"]),
            positions=expected[f"{kind}_position_ids"][0],
        )
        assert_logits(got, expected[f"{kind}_logits_erf_gelu"][0])
    for kind, mask in (("mask", 103), ("gmask", 109)):
        prompt = expected[f"{kind}_greedy_prompt_ids"][0]
        reply = expected[f"{kind}_greedy_ids"][0].tolist()
        hole = prompt.tolist().index(mask)
        context = len(prompt) - 1
        assert (
            continue_greedily(model, prompt, len(reply), context_length=context, hole=hole) == reply
        )


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm2-6b", "glm-4.5-air"])
def test_positions_are_the_official_ones(shared: Path, name: str) -> None:
    model, expected = open_oracle(shared, name)
    for key in ("gmask.", "mask."):
        if f"{key}position_ids" in expected:
            prompt = model.prompt(expected[f"{key}input_ids"])
            assert isinstance(prompt, Prompt)
            length = len(prompt.tokens)
            got = position_ids(prompt, length, model.config, torch.device("cpu"))
            assert torch.equal(got, expected[f"{key}position_ids"])


@pytest.mark.parametrize("name", [*GLM_2021, *CHATGLM, *OTHERS])
def test_saving_gives_the_same_bytes(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "oracles" / name
    loaded = load(folder)
    saved = save(loaded, tmp_path / "saved")
    sources = [TensorFiles(place) for place in (loaded.base, folder)]
    before = {name: files for files in sources for name in files}
    after = TensorFiles(saved)
    assert set(before) == set(after)
    for tensor, files in before.items():
        old, new = files.read(tensor), after.read(tensor)
        assert old.dtype == new.dtype
        assert torch.equal(old.contiguous().view(torch.uint8), new.contiguous().view(torch.uint8))
    for path in folder.iterdir():
        is_weights = path.suffix in (".safetensors", ".bin") or path.name.endswith("index.json")
        if not is_weights:
            assert (saved / path.name).read_bytes() == path.read_bytes()
    again = load(saved)
    assert again.directory == again.base
    assert (again.prefix is None) == (loaded.prefix is None)
    assert torch.equal(
        again.model.embedding.weight.view(-1), loaded.model.embedding.weight.view(-1)
    )


def test_the_learnt_prefix_of_a_folder_without_weights_finds_its_base(shared: Path) -> None:
    loaded = load(shared / "oracles/more/v3_ptuning_v2")
    assert loaded.base.name == "v3_chatglm3"
    assert loaded.prefix is not None
    with safe_open(shared / "oracles/more/v3_ptuning_v2/expected.safetensors", "pt") as file:
        assert "logits" in file.keys()  # noqa: SIM118

"""Fine-tuning from a file of examples to a result that loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chatglm import checkpoint
from chatglm.generation.chat import ChatGLM
from chatglm.training.finetune import prepare_run
from chatglm.training.log import read_metrics
from chatglm.training.schedule import planned_tokens
from chatglm.training.state import checkpoints, newest
from chatglm.training.tuning import TuneConfig

Settings = Callable[..., TuneConfig]
METHODS = ["lora", "dora", "qlora", "ptuning", "freeze", "full"]
ASKED = "天气出门？"


def reply_of(model: ChatGLM) -> list[int]:
    prompt = model.tokenizer.template.prompt([_user(ASKED)])
    return model.generate_ids(prompt.tokens, temperature=0.0, max_new_tokens=8, stop_ids=())


def _user(text: str):
    from chatglm.messages import Message

    return Message(role="user", content=text)


def loaded_result(config: TuneConfig, result: Path) -> ChatGLM:
    if config.method in ("full", "freeze"):
        return ChatGLM(checkpoint.load(result, dtype="float32"))
    loaded = checkpoint.load(config.model, adapter=result, quantize=config.bits)
    return ChatGLM(loaded)


def trained_reply(run) -> list[int]:
    from dataclasses import replace

    from chatglm.adapters.prefix import PrefixTuned

    loaded = run.loaded
    if isinstance(run.network, PrefixTuned):
        loaded = replace(loaded, prefix=run.network.encoder().detach())
    return reply_of(ChatGLM(loaded))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_the_loss_and_what_it_saves_answers_the_same(
    settings: Settings, method: str
) -> None:
    lr = 0.1 if method == "ptuning" else 1e-2
    config = settings(method=method, max_steps=12, schedule="constant", lr=lr)
    run = prepare_run(config)
    trained = {n for n, p in run.network.named_parameters() if p.requires_grad}
    result = run.run()
    rows = read_metrics(Path(config.output_dir) / "metrics.jsonl")
    held_out = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert held_out[-1] < held_out[0] - 0.05
    assert trained
    if method != "full":
        saved = load_file(newest(Path(config.output_dir)) / "model.safetensors")
        assert set(saved) == trained
    assert reply_of(loaded_result(config, result)) == trained_reply(run)
    assert (Path(config.output_dir) / "loss.png").is_file()


def test_a_prefix_through_a_network_is_saved_as_what_it_makes(settings: Settings) -> None:
    config = settings(method="ptuning", prefix_projection=True)
    run = prepare_run(config)
    result = run.run()
    assert reply_of(loaded_result(config, result)) == trained_reply(run)


def test_the_loss_of_a_step_does_not_depend_on_how_it_is_cut(
    settings: Settings, tmp_path: Path
) -> None:
    losses = []
    for number, (size, accum) in enumerate([(8, 1), (4, 2), (2, 4), (1, 8)]):
        config = settings(batch_size=size, grad_accum=accum, output_dir=str(tmp_path / str(number)))
        trainer = prepare_run(config).trainer
        losses.append([trainer.train_step()[0] for _ in range(3)])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-5)


def test_packed_examples_give_the_loss_that_they_give_apart(
    settings: Settings, tmp_path: Path
) -> None:
    """All 20 examples in one step: packed and padded, the mean loss is the same number."""
    losses = []
    for packing in (False, True):
        config = settings(
            packing=packing, batch_size=20, grad_accum=1, output_dir=str(tmp_path / str(packing))
        )
        run = prepare_run(config)
        losses.append([run.trainer.train_step()[0] for _ in range(2)])
        if packing:
            assert len(run.epochs.batches(0)[0]) < 10
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "lora"},
        {"method": "dora"},
        {"method": "qlora"},
        {"method": "ptuning", "prefix_projection": True},
        {"method": "freeze", "packing": True},
        {"method": "full", "optimizer": "muon"},
        {"method": "full", "precision": "bfloat16", "recompute": True},
    ],
    ids=lambda changes: " ".join(str(value) for value in changes.values()),
)
def test_a_resumed_run_ends_with_the_same_bytes(
    settings: Settings, tmp_path: Path, changes: dict[str, object]
) -> None:
    whole = settings(**changes, output_dir=str(tmp_path / "whole"))
    prepare_run(whole).run()
    cut = settings(**changes, output_dir=str(tmp_path / "cut"))
    first = prepare_run(cut)
    for _ in range(3):
        first.trainer.train_step()
    first.trainer.save()
    with pytest.raises(FileExistsError, match="add --resume"):
        prepare_run(cut)
    again = prepare_run(cut, resume=True)
    assert again.trainer.step == 3
    again.run()
    a, b = (newest(tmp_path / name) for name in ("whole", "cut"))
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (a / file).read_bytes() == (b / file).read_bytes()


def test_a_run_is_not_taken_up_with_other_parameters(settings: Settings) -> None:
    first = prepare_run(settings())
    first.trainer.save()
    with pytest.raises(ValueError, match="made with other trained parameters"):
        prepare_run(settings(method="ptuning"), resume=True)
    with pytest.raises(ValueError, match="this run needs"):
        prepare_run(settings(lora_rank=2), resume=True)


def test_a_run_is_not_taken_up_with_other_data(settings: Settings, data: str) -> None:
    first = prepare_run(settings())
    first.trainer.save()
    Path(data).write_text("\n".join(Path(data).read_text().splitlines()[:-3]))
    with pytest.raises(ValueError, match="was made with 20 examples and the data has 17"):
        prepare_run(settings(), resume=True)
    Path(data).unlink()
    with pytest.raises(FileNotFoundError, match=r"no file or directory .*data\.jsonl"):
        prepare_run(settings(), resume=True)


def test_targets_are_named_in_the_models_own_words(settings: Settings, tmp_path: Path) -> None:
    run = prepare_run(settings(lora_target=("q_proj", "down_proj")))
    folder = run.run()
    names = {name.split(".")[-3] for name in load_file(folder / "adapter_model.safetensors")}
    assert names == {"q_proj", "down_proj"}
    with pytest.raises(ValueError, match=r"'query' is no linear of this model; known: all, att"):
        prepare_run(settings(lora_target=("query",), output_dir=str(tmp_path / "x")))


def test_an_adapter_can_be_trained_on(settings: Settings, tmp_path: Path) -> None:
    first = settings(lora_rank=3)
    result = prepare_run(first).run()
    more = settings(adapter=str(result), output_dir=str(tmp_path / "more"))
    run = prepare_run(more)
    assert trained_reply(run) == reply_of(loaded_result(first, result))
    again = run.run()
    table = json.loads((again / "adapter_config.json").read_text())
    assert (table["r"], table["lora_alpha"]) == (3, 16.0)


def test_replay_mixes_general_examples_in_and_keeps_some_to_watch(settings: Settings) -> None:
    run = prepare_run(settings(replay="general", replay_share=0.5, skip_bad=True))
    drawn = [i for b in run.epochs.batches(0) for row in b for i in row]
    assert sum(i < 20 for i in drawn) == 20
    assert len(drawn) == 40
    run.run()
    rows = read_metrics(Path(run.config.output_dir) / "metrics.jsonl")
    assert "general_loss" in rows[0]


def test_the_best_checkpoint_is_what_is_saved(settings: Settings) -> None:
    run = prepare_run(settings(eval_steps=1, max_steps=4))
    losses = iter([9.0, 3.0, 1.0, 5.0, 6.0])
    run.trainer.validate = lambda: {"validation_loss": next(losses)}  # type: ignore[method-assign]
    result = run.run()
    folder = Path(run.config.output_dir) / "checkpoints"
    assert [p.name for p in checkpoints(Path(run.config.output_dir))] == [
        "step-000002",
        "step-000004",
    ]
    best = load_file(folder / "step-000002" / "model.safetensors")
    saved = load_file(result / "adapter_model.safetensors")
    name = "layers.0.attention.out.parts.0.a"
    theirs = "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight"
    assert torch.equal(best[name], saved[theirs])


def test_what_is_foretold_is_what_is_read(settings: Settings) -> None:
    run = prepare_run(settings(epochs=2, max_steps=0))
    foresight = run.foresee()
    assert foresight.seconds > 0
    assert foresight.peak_bytes > 1 << 20
    planned = planned_tokens(run.epochs, run.num_steps, 2)
    seen = []
    for _ in range(run.num_steps):
        batch = run.trainer.source.next_batch(0)
        seen.append([part.tokens.numel() for part in batch.split(2)])
    assert seen == planned
    assert all(p.grad is None for p in run.network.parameters())


def test_foresight_changes_nothing_of_the_run(settings: Settings, tmp_path: Path) -> None:
    ends = []
    for name in ("a", "b"):
        run = prepare_run(settings(output_dir=str(tmp_path / name)))
        if name == "b":
            run.foresee()
        result = run.run()
        ends.append((result / "adapter_model.safetensors").read_bytes())
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "data is empty"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"method": "full", "quantize": "int8"}, "use qlora or ptuning"),
        ({"objective": "dpo", "packing": True}, "packing serves sft"),
        ({"objective": "grpo"}, "go together"),
        ({"val_size": -1.0}, "val_size must be at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: Settings, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_a_quantized_base_is_not_trained_in_full(
    shared: Path, tmp_path: Path, settings: Settings
) -> None:
    from chatglm.training.methods import put_on

    loaded = checkpoint.load(shared / "oracles" / "chatglm-6b-int4")
    with pytest.raises(ValueError, match="its weights cannot be trained"):
        put_on(loaded, settings(method="full"))

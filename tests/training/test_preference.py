"""DPO, IPO, KTO, reward models and GRPO: their numbers, and that they move the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from chatglm.prompt import Prompt
from chatglm.training.finetune import Tuning, prepare_run
from chatglm.training.log import read_metrics
from chatglm.training.preference import REFERENCE, answer_scores
from chatglm.training.state import newest
from chatglm.training.tuning import TuneConfig

Settings = Callable[..., TuneConfig]


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    words = ["天气", "程序员", "出门", "今天"]
    rows = [
        {
            "prompt": f"{words[i % 4]}{words[i // 4 % 4]}？",
            "chosen": "很好。" * (1 + i % 2),
            "rejected": "我" * (1 + i % 3),
        }
        for i in range(16)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    rows = [
        {"prompt": f"天气{i}？", "completion": "很好。" if i % 2 else "我我", "label": bool(i % 2)}
        for i in range(12)
    ]
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def scores_by_hand(run, batch) -> torch.Tensor:
    """Log-probability of each row's reply, one row at a time without any mask."""
    found = []
    for tokens, labels, documents in zip(batch.tokens, batch.labels, batch.documents, strict=True):
        real = int((documents >= 0).sum())
        hidden = run.network(tokens[None, :real])
        logits = run.network.logits(hidden)[0].log_softmax(-1)
        wanted = labels[:real]
        kept = wanted != -100
        found.append(logits[kept].gather(1, wanted[kept][:, None]).sum())
    return torch.stack(found)


def test_the_first_loss_of_dpo_is_that_of_no_preference(settings: Settings, pairs: str) -> None:
    run = prepare_run(settings(objective="dpo", data=(pairs,)))
    loss, _, _ = run.trainer.train_step()
    assert loss == pytest.approx(-float(F.logsigmoid(torch.tensor(0.0))), abs=1e-5)


@pytest.mark.parametrize("kind", ["dpo", "ipo"])
def test_the_loss_is_the_papers_formula(settings: Settings, pairs: str, kind: str) -> None:
    run = prepare_run(settings(objective=kind, data=(pairs,), beta=0.3, label_smoothing=0.1))
    for _ in range(2):
        run.trainer.train_step()
    batch = run.trainer.source.next_batch(0)
    with torch.no_grad():
        loss, count = run.trainer.objective(run.network, batch)
        scores = scores_by_hand(run, batch)
        torch.testing.assert_close(answer_scores(run.network, batch, 3), scores)
    gain = scores - batch.extras[REFERENCE]
    lengths = (batch.labels != -100).sum(1)
    if kind == "dpo":
        margin = 0.3 * (gain[0::2] - gain[1::2])
        expected = -(0.9 * F.logsigmoid(margin) + 0.1 * F.logsigmoid(-margin))
    else:
        mean = gain / lengths
        expected = (mean[0::2] - mean[1::2] - 1 / 0.6) ** 2
    assert int(count) == len(batch.tokens) // 2
    torch.testing.assert_close(loss, expected.sum())


@pytest.mark.parametrize("kind", ["dpo", "ipo", "reward"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_chosen_becomes_likelier(
    settings: Settings, pairs: str, kind: str, method: str
) -> None:
    config = settings(objective=kind, data=(pairs,), max_steps=12, method=method, sft_weight=0.1)
    run = prepare_run(config)
    result = run.run()
    rows = read_metrics(Path(config.output_dir) / "metrics.jsonl")
    assert rows[-1]["accuracy"] > 0.9
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    if kind == "reward":
        folder = Path(config.output_dir)
        assert load_file(folder / "score.safetensors")["score.weight"].shape == (1, 32)
    assert result.exists()


def test_kto_learns_from_labels(settings: Settings, labelled: str) -> None:
    config = settings(objective="kto", data=(labelled,), max_steps=12)
    run = prepare_run(config)
    first, *_ = run.trainer.train_step()
    assert first == pytest.approx(0.5, abs=1e-5)
    run.run()
    rows = read_metrics(Path(config.output_dir) / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.45


def test_reference_scores_are_those_of_the_start_when_a_run_is_taken_up(
    settings: Settings, pairs: str, tmp_path: Path
) -> None:
    whole = settings(objective="dpo", data=(pairs,), output_dir=str(tmp_path / "whole"))
    done = prepare_run(whole).run()
    cut = settings(objective="dpo", data=(pairs,), output_dir=str(tmp_path / "cut"))
    first = prepare_run(cut)
    for _ in range(4):
        first.trainer.train_step()
    first.trainer.save()
    again = prepare_run(cut, resume=True).run()
    name = "adapter_model.safetensors"
    assert (done / name).read_bytes() == (again / name).read_bytes()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_resumed_run_of_grpo_ends_with_the_same_bytes(
    settings: Settings, tmp_path: Path, method: str
) -> None:
    def config(name: str) -> TuneConfig:
        return settings(
            objective="grpo", reward="r.py:f", method=method, num_samples=2, grad_accum=2,
            batch_size=4, output_dir=str(tmp_path / name),
        )  # fmt: skip

    def prepared(name: str, *, resume: bool = False) -> Tuning:
        def sample(prompt: Prompt, seeds: Sequence[int]) -> list[list[int]]:
            with torch.no_grad():
                odds = run.network.logits(run.network(torch.tensor([prompt.tokens]))[0, -1])
            chances = [torch.Generator().manual_seed(seed) for seed in seeds]
            return [torch.multinomial(odds.softmax(-1), 1, generator=g).tolist() for g in chances]

        def reward(question: str, reply: str, wanted: str) -> float:
            return float(len(reply) % 3)

        run = prepare_run(config(name), resume=resume, play=(sample, reward))
        return run

    prepared("whole").run()
    first = prepared("cut")
    for _ in range(3):
        first.trainer.train_step()
    first.trainer.save()
    prepared("cut", resume=True).run()
    for file in ("model.safetensors", "optimizer.safetensors"):
        a, b = (newest(tmp_path / name) / file for name in ("whole", "cut"))
        assert a.read_bytes() == b.read_bytes()


def test_grpo_makes_what_is_rewarded_likelier(settings: Settings) -> None:
    """Replies are ids drawn from the model itself; those with an even id are rewarded."""
    config = settings(
        objective="grpo", reward="r.py:f", max_steps=25, num_samples=8, grad_accum=1,
        batch_size=8, lr=2e-2, beta=0.01, schedule="constant",
    )  # fmt: skip

    def sample(prompt: Prompt, seeds: Sequence[int]) -> list[list[int]]:
        with torch.no_grad():
            hidden = run.network(torch.tensor([prompt.tokens]))
            odds = run.network.logits(hidden[0, -1]).softmax(-1)
        return [
            torch.multinomial(odds, 1, generator=torch.Generator().manual_seed(seed)).tolist()
            for seed in seeds
        ]

    def reward(question: str, reply: str, wanted: str) -> float:
        return float("天" in reply or "很" in reply or len(reply) > 1)

    run = prepare_run(config, play=(sample, reward))
    run.run()
    rewards = [r["reward"] for r in read_metrics(Path(config.output_dir) / "metrics.jsonl")]
    assert sum(rewards[-8:]) > sum(rewards[:8]) + 0.5


def test_a_reward_that_is_no_number_is_refused(settings: Settings) -> None:
    config = settings(objective="grpo", reward="r.py:f", num_samples=2)
    play = (lambda prompt, seeds: [[5] for _ in seeds], lambda q, r, w: float("nan"))
    run = prepare_run(config, play=play)
    with pytest.raises(ValueError, match="the reward must be a finite number, got nan"):
        run.trainer.train_step()

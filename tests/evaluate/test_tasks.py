"""Choices by logits, arithmetic, and what quantization costs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from chatglm import ChatGLM, checkpoint
from chatglm.evaluate.choice import (
    Score,
    by_asking,
    by_letter,
    by_likelihood,
    examples_for,
    few_shot,
    tally,
)
from chatglm.evaluate.generative import answer_of, arithmetic, is_same_number, summaries, verses
from chatglm.evaluate.quantization import compare
from chatglm.evaluate.samples import Choice, Continuation


@pytest.fixture(scope="module")
def model(toy: Path) -> ChatGLM:
    loaded = ChatGLM.from_pretrained(toy, dtype="float32")
    assert isinstance(loaded, ChatGLM)
    return loaded


def test_a_letter_is_chosen_by_the_logits_behind_the_question(model: ChatGLM) -> None:
    choice = Choice(question="哪个？", options=("甲", "乙", "丙"), answer=0)
    prompt = model.continuation(few_shot(choice, []))
    assert few_shot(choice, []).endswith("哪个？\nA. 甲\nB. 乙\nC. 丙\n答案：")
    logits = model.logits(prompt.tokens)[-1]
    scores = [float(logits[model.tokenizer.encode(letter)[-1]]) for letter in "ABC"]
    assert by_letter(model, choice) == scores.index(max(scores))


def test_examples_leave_where_the_context_is_full(model: ChatGLM) -> None:
    long = Choice(question="长" * 60, options=("甲", "乙"), answer=1, subject="s")
    short = Choice(question="短", options=("甲", "乙"), answer=1, subject="s")
    assert by_letter(model, short, [long] * 5) == by_letter(
        model, short, [long] * fitting(model, short, long)
    )
    assert examples_for(short, [long, Choice(question="q", options=("a", "b"), answer=0)], 5) == [
        long
    ]
    assert by_letter(model, Choice(question="长" * 600, options=("甲", "乙"), answer=1)) == 0


def fitting(model: ChatGLM, choice: Choice, example: Choice) -> int:
    """How many examples the context holds."""
    count = 0
    while count < 5:
        prompt = model.continuation(few_shot(choice, [example] * (count + 1)))
        if len(prompt.tokens) > model.config.max_length:
            break
        count += 1
    return count


def test_a_continuation_is_chosen_by_its_likelihood(model: ChatGLM) -> None:
    item = Continuation(premise="今天天气", options=("很好。", "程序员是我"), answer=0)
    scores = []
    for option in item.options:
        start = model.continuation(item.premise).tokens
        ids = model.tokenizer.encode(option)
        logs = model.logits([*start, *ids]).log_softmax(-1)
        total = sum(float(logs[len(start) + i - 1, token]) for i, token in enumerate(ids))
        scores.append(total / len(option))
    assert by_likelihood(model, item) == scores.index(max(scores))


def test_a_letter_is_found_in_a_reply() -> None:
    choice = Choice(question="q", options=("x", "y"), answer=1)
    assert by_asking(lambda _: "答案是 B。", choice, []) == 1
    assert by_asking(lambda _: "不知道", choice, []) == -1


def test_scores_are_tallied_by_subject() -> None:
    scores = tally([("b", True), ("a", False), ("b", True), ("b", False)])
    assert list(scores) == ["a", "b", "all"]
    assert scores["all"].accuracy == 50
    assert scores["b"].num_all == 3
    assert Score(num_right=50, num_all=100).margin == pytest.approx(9.8)


@pytest.mark.parametrize(
    ("reply", "number", "is_right"),
    [
        ("9+15=24，24÷4=6\n答案：6", "6", True),
        ("所以每盘放6个。", "6.0", True),
        ("共 1,200 元", "1200", True),
        ("占 1/4", "0.25", True),
        ("50%", "0.5", True),
        ("不会", "6", False),
        ("1/0", "6", False),
    ],
)
def test_the_last_number_is_the_answer(reply: str, number: str, is_right: bool) -> None:
    assert is_same_number(answer_of(reply), number) == is_right


def test_arithmetic_is_scored_by_grade() -> None:
    rows = [
        {"input": "1+1", "golden": "2", "grade": 1},
        {"input": "2+2", "golden": "5", "grade": 2},
    ]
    table = arithmetic(rows, lambda prompts: ["2"] * len(prompts))
    assert table["1"] == {"n": 1, "accuracy": 100}
    assert table["2"]["accuracy"] == 0
    assert table["all"] == {"n": 2, "accuracy": 50}


def test_summaries_and_verses_have_a_row_a_system_and_kind() -> None:
    rows = [
        {"article": "今天很好。", "ref": "今天很好", "type": "a"},
        {"article": "x", "ref": "y", "type": "b"},
    ]
    table = summaries(rows, {"copy": lambda row: row["article"]})
    assert list(table) == ["copy, a", "copy, b", "copy"]
    assert table["copy, b"]["rouge1"] == 0
    verse = verses(["月"], ["x"], [1, 2], {"even": lambda form, topic, seed: ["odd"] * (seed % 2)})
    assert verse["even, x"] == {"n": 2, "in form": 50}


def test_the_loss_by_quantization_is_what_it_says(model: ChatGLM, toy: Path) -> None:
    quantized = checkpoint.load(toy, dtype="float32", quantize="int4").model
    rows = [model.tokenizer.encode("今天天气很好，适合出门。"), [5]]
    losses = compare(model.transformer, {"int4": quantized, "same": model.transformer}, rows)
    assert losses["model"].to_dict()["kl"] == 0
    assert losses["same"].to_dict() == losses["model"].to_dict()
    ids = torch.tensor([rows[0]])
    with torch.inference_mode():
        ours = model.transformer.logits(model.transformer(ids[:, :-1]))[0].log_softmax(-1)
        theirs = quantized.logits(quantized(ids[:, :-1]))[0].log_softmax(-1)
    nats = -theirs.gather(1, ids[0, 1:, None]).mean()
    values = losses["int4"].to_dict()
    assert values["perplexity"] == pytest.approx(math.exp(float(nats)), rel=1e-4)
    divergence = torch.nn.functional.kl_div(theirs, ours, log_target=True, reduction="none").sum(-1)
    assert values["kl"] == pytest.approx(float(divergence.mean()), rel=1e-3, abs=1e-6)
    same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
    assert values["agreement"] == pytest.approx(100 * float(same), rel=1e-4)

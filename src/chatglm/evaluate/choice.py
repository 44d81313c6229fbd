"""Choices by logits: which option a model finds likeliest, without letting it write."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from chatglm.evaluate.samples import LETTERS, Choice, Continuation
from chatglm.model import Transformer
from chatglm.prompt import Prompt
from chatglm.tokenizer.base import Tokenizer


class Knows(Protocol):
    """A model whose logits are here; `ChatGLM` is one."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back."""

    @property
    def transformer(self) -> Transformer:
        """The network."""

    def continuation(self, text: str) -> Prompt:
        """A text as a prompt that is continued."""

    def hidden(self, prompt: Prompt, positions: Tensor | None = None) -> Tensor:
        """Last hidden states (1, T, C)."""


@dataclass(kw_only=True)
class Score:
    """Right answers of a group."""

    num_right: int = 0
    num_all: int = 0

    @property
    def accuracy(self) -> float:
        """Percent that are right."""
        return 100 * self.num_right / max(self.num_all, 1)

    @property
    def margin(self) -> float:
        """Half of the 95 % interval of the accuracy, in percent (normal approximation)."""
        share = self.num_right / max(self.num_all, 1)
        return 196 * math.sqrt(share * (1 - share) / max(self.num_all, 1))


def tally(results: Iterable[tuple[str, bool]]) -> dict[str, Score]:
    """Scores by subject, `all` last."""
    scores: dict[str, Score] = defaultdict(Score)
    for subject, is_right in results:
        for name in {subject, "all"}:
            scores[name].num_all += 1
            scores[name].num_right += is_right
    total = scores.pop("all", Score())
    return {**dict(sorted(scores.items())), "all": total}


def question_text(choice: Choice, *, with_answer: bool = False) -> str:
    """A question as a sheet of a test has it."""
    rows = [choice.question.strip()]
    rows += [f"{letter}. {text}" for letter, text in zip(LETTERS, choice.options, strict=False)]
    return "\n".join([*rows, f"答案：{LETTERS[choice.answer]}\n" if with_answer else "答案："])


def few_shot(choice: Choice, examples: Sequence[Choice]) -> str:
    """The question after examples with their answers."""
    rows = ["以下是单项选择题，请直接给出正确答案的选项。\n"]
    rows += [question_text(example, with_answer=True) for example in examples]
    return "\n".join([*rows, question_text(choice)])


def examples_for(choice: Choice, examples: Sequence[Choice], most: int) -> list[Choice]:
    """The first examples of a question's subject."""
    return [e for e in examples if e.subject == choice.subject][:most]


@torch.inference_mode()
def by_letter(model: Knows, choice: Choice, examples: Sequence[Choice] = ()) -> int:
    """The option whose letter is likeliest to come next; examples go where the context is full.

    A question that no context holds is answered by its first option.
    """
    room = model.transformer.config.max_length
    shown = list(examples)
    prompt = model.continuation(few_shot(choice, shown))
    while shown and len(prompt.tokens) > room:
        shown.pop()
        prompt = model.continuation(few_shot(choice, shown))
    if len(prompt.tokens) > room:
        return 0
    logits = model.transformer.logits(model.hidden(prompt)[:, -1])[0]
    letters = [model.tokenizer.encode(LETTERS[i])[-1] for i in range(len(choice.options))]
    return int(logits[torch.tensor(letters)].argmax())


@torch.inference_mode()
def by_likelihood(model: Knows, item: Continuation) -> int:
    """The option that is likeliest after the premise, by the mean over its characters."""
    scores = []
    for option in item.options:
        prompt = model.continuation(item.premise)
        ids = model.tokenizer.encode(option)
        start = len(prompt.tokens)
        whole = replace(prompt, tokens=(*prompt.tokens, *ids))
        hidden = model.hidden(whole)[:, start - 1 : -1]
        logs = model.transformer.logits(hidden)[0].float().log_softmax(-1)  # (T, V)
        total = logs.gather(1, torch.tensor(ids).unsqueeze(1)).sum()
        scores.append(float(total) / max(len(option), 1))
    return scores.index(max(scores))


def by_asking(generate: Callable[[str], str], choice: Choice, examples: Sequence[Choice]) -> int:
    """The option that a model writes, where its logits are elsewhere; −1 where it writes none."""
    reply = generate(few_shot(choice, examples) + "\n只回答选项字母。")
    found = re.search(rf"\b([{LETTERS[: len(choice.options)]}])\b", reply)
    return -1 if found is None else LETTERS.index(found[1])

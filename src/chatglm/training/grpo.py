"""Batches that the network writes itself: replies to questions, and how much better than the
others of its group each is (GRPO, arXiv:2402.03300, §4.1).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from chatglm.adapters.lora import LoraLinear
from chatglm.adapters.prefix import PrefixTuned
from chatglm.config import ModelConfig
from chatglm.data.chat import learnt_example
from chatglm.data.example import Example
from chatglm.data.examples import read_spec, records_of
from chatglm.data.kinds import Record
from chatglm.messages import Message
from chatglm.prompt import Prompt
from chatglm.tokenizer import Tokenizer
from chatglm.tokenizer.template import Rendered
from chatglm.training.batch import Batch
from chatglm.training.material import batch_of
from chatglm.training.objectives import Network
from chatglm.training.preference import REFERENCE, Told, answer_scores
from chatglm.training.tuning import TuneConfig

Sample = Callable[[Prompt, Sequence[int]], list[list[int]]]
"""A prompt and a seed for each reply wanted: the replies' ids, the one that ended each included."""

Reward = Callable[[str, str, str], float]
"""The question, a reply, and the reply of the data (empty where it has none): how good it is."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the network is asked, and what the data would answer."""

    prompt: Prompt
    text: str
    wanted: str


def questions_of(config: TuneConfig, tokenizer: Tokenizer, limit: int) -> list[Question]:
    """The questions of the files; too long ones are refused unless they are to be left out."""
    most = min(config.cutoff_len, limit - config.max_new_tokens)
    found = []
    for source in config.data:
        for record in records_of(read_spec(source), None, None):
            asked, wanted = parted(record)
            prompt = tokenizer.template.prompt(asked)
            if len(prompt.tokens) <= most:
                found.append(Question(prompt=prompt, text=asked[-1].content, wanted=wanted))
            elif not config.skip_bad:
                raise ValueError(
                    f"{record.where}: the question has {len(prompt.tokens):,} tokens and "
                    f"{most:,} leave room for a reply; raise --cutoff-len or leave it out by "
                    "--skip-bad"
                )
    if not found:
        raise ValueError(f"{', '.join(config.data)}: no question in it")
    return found


def parted(record: Record) -> tuple[list[Message], str]:
    """The conversation up to the question, and the reply that follows in the data."""
    messages = list(record.messages)
    wanted = ""
    if messages and messages[-1].role == "assistant":
        wanted = messages.pop().content
    if not messages or messages[-1].role != "user":
        raise ValueError(f"{record.where}: grpo needs a conversation with a question")
    return messages, wanted


class Rollout:
    """The trainer's source: a batch is `num_samples` replies to each of a few questions.

    Questions come in a new random order in each epoch; seeds of the replies depend on the run's
    seed and the number of the question drawn.
    """

    def __init__(
        self,
        config: TuneConfig,
        shape: ModelConfig,
        tokenizer: Tokenizer,
        network: Network,
        questions: Sequence[Question],
        sample: Sample,
        reward: Reward,
        told: Told,
        pad: int,
    ) -> None:
        self.config, self.shape, self.tokenizer, self.network = config, shape, tokenizer, network
        self.questions, self.sample, self.reward = questions, sample, reward
        self.told, self.pad = told, pad
        self.drawn = 0
        keeps_base = config.method in ("full", "freeze")
        self.frozen = copy.deepcopy(network) if keeps_base else None

    def next_batch(self, rows: int) -> Batch:
        """Replies with their advantages and the scores that the untuned network gives them."""
        examples: list[Example] = []
        advantages: list[float] = []
        for _ in range(max(rows // self.config.num_samples, 1)):
            question, seeds = self.draw()
            self.network.eval()
            replies = self.sample(question.prompt, seeds)
            self.network.train()
            rewards = [self.rated(question, reply) for reply in replies]
            mean = sum(rewards) / len(rewards)
            spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(rewards))
            self.told.add("reward", torch.tensor(sum(rewards)), len(rewards))
            examples += [self.example(question.prompt, reply) for reply in replies]
            advantages += [(reward - mean) / (spread + 1e-4) for reward in rewards]
        order = sorted(range(len(examples)), key=lambda i: -len(examples[i]))
        batch = batch_of(
            [[(examples[i],)] for i in order],
            self.shape,
            self.pad,
            {"advantage": [advantages[i] for i in order]},
        )
        extras = {**batch.extras, REFERENCE: self.reference(batch)}
        return Batch(**{**vars(batch), "extras": extras})

    def draw(self) -> tuple[Question, list[int]]:
        """The next question and a seed for each of its replies."""
        epoch, at = divmod(self.drawn, len(self.questions))
        order = np.random.default_rng((self.config.seed, epoch)).permutation(len(self.questions))
        chance = np.random.default_rng((self.config.seed, 1, self.drawn))
        seeds = chance.integers(0, 2**31, self.config.num_samples).tolist()
        self.drawn += 1
        return self.questions[int(order[at])], seeds

    def rated(self, question: Question, reply: Sequence[int]) -> float:
        """The reward of a reply, a number."""
        text = self.tokenizer.template.polish(self.tokenizer.decode(reply))
        value = self.reward(question.text, text, question.wanted)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"the reward must be a finite number, got {value!r}")
        return float(value)

    def example(self, prompt: Prompt, reply: Sequence[int]) -> Example:
        """Prompt and reply, of which the reply is learnt."""
        tokens = [*prompt.tokens, *reply]
        loss = [False] * len(prompt.tokens) + [True] * len(reply)
        rendered = Rendered(tokens=tokens, loss=loss)
        return learnt_example(rendered, self.tokenizer.template, prompt)

    @torch.no_grad()
    def reference(self, batch: Batch) -> torch.Tensor:
        """Scores (B,) of the replies before any tuning."""
        device = next(self.network.parameters()).device
        parts = batch.split(self.config.batch_size)
        with untuned(self.network, self.frozen) as network:
            found = [
                answer_scores(network, part.each(lambda t: t.to(device)), self.config.loss_chunk)
                for part in parts
            ]
        return torch.cat(found).cpu()

    def state(self) -> dict[str, object]:
        """Plain data."""
        return {"drawn": self.drawn}

    def load_state(self, state: dict[str, object]) -> None:
        """Continue from a state."""
        self.drawn = int(str(state["drawn"]))


@contextmanager
def untuned(network: Network, frozen: Network | None) -> Iterator[Network]:
    """The network without what tuning has put on it."""
    if frozen is not None:
        yield frozen
        return
    if isinstance(network, PrefixTuned):
        yield network.base
        return
    adapted = [module for module in network.modules() if isinstance(module, LoraLinear)]
    for module in adapted:
        module.is_on = False
    try:
        yield network
    finally:
        for module in adapted:
            module.is_on = True

"""Tokens that are tried before they are certain: several are then read in one forward.

What is tried comes from the text itself (prompt lookup, arXiv:2304.04487) or from a smaller model
of the same family (arXiv:2211.17192). A token is always drawn from the model's own scores by the
request's own generator; a draft that equals it saves a step, another is dropped. That is rejection
sampling from a proposal of one token: replies are those that come without speculation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from chatglm.config import ModelConfig
from chatglm.generation.blocks import BLOCK_SIZE, BlockPool
from chatglm.generation.request import Branch
from chatglm.generation.runner import Part, Runner
from chatglm.model import Transformer
from chatglm.prompt import Prompt

NGRAMS = (4, 3, 2)
"""Lengths of what is looked up, the longest first."""


class Lookup:
    """Where in a text each short run of tokens occurred last."""

    def __init__(self) -> None:
        self.next_at: dict[tuple[int, ...], int] = {}
        self.num_known = 0

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Up to `count` tokens that followed the last ones at their latest occurrence."""
        for i in range(self.num_known, len(tokens)):
            for n in NGRAMS:
                if n <= i:
                    self.next_at[tuple(tokens[i - n : i])] = i
        self.num_known = len(tokens)
        for n in NGRAMS:
            start = self.next_at.get(tuple(tokens[-n:]))
            if start is not None:
                found: list[int] = []
                for i in range(start, start + count):  # past the end it goes on in a circle
                    found.append(tokens[i] if i < len(tokens) else found[i - len(tokens)])
                return found
        return []


@dataclass(kw_only=True)
class Reading:
    """What a draft model has read of a branch, and the blocks that hold it.

    num_sure: tokens of it that are not drafts.
    """

    tokens: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    num_sure: int = 0

    def agree(self, tokens: Sequence[int]) -> int:
        """How many leading tokens have been read, the last one of `tokens` left out."""
        most = min(len(self.tokens), len(tokens) - 1)
        at = min(self.num_sure, most)
        while at < most and self.tokens[at] == tokens[at]:
            at += 1
        del self.tokens[at:]
        return at


class DraftModel:
    """A small model that says what comes next, for several branches at once."""

    def __init__(self, model: Transformer, target: ModelConfig, *, num_seqs: int) -> None:
        small = model.config
        if (small.vocab_size, small.context) != (target.vocab_size, target.context):
            raise ValueError(
                f"the draft has {small.vocab_size} words and a {small.context} context, the model "
                f"{target.vocab_size} and {target.context}; take a draft of the same family with "
                "the same tokenizer"
            )
        self.runner = Runner(model)
        self.pool = BlockPool(num_seqs * -(-small.max_length // BLOCK_SIZE))
        self.readings: dict[int, Reading] = {}

    def forget(self, alive: Collection[int]) -> None:
        """Give back what belongs to branches that are no more."""
        for branch in [i for i in self.readings if i not in alive]:
            self.pool.release(self.readings.pop(branch).blocks)

    @torch.inference_mode()
    def propose(self, wanted: Mapping[int, tuple[Prompt, list[int], int]]) -> dict[int, list[int]]:
        """The likeliest next tokens of each branch: its prompt, its tokens and how many."""
        if self.runner.refresh():
            self.forget(())
        self.runner.open(self.pool.num_blocks)
        drafts: dict[int, list[int]] = {}
        for branch, (_, tokens, count) in wanted.items():
            if self.make_room(branch, len(tokens) + count):
                drafts[branch] = []
        while True:
            parts: dict[int, Part] = {}
            for branch, found in drafts.items():
                prompt, tokens, count = wanted[branch]
                if len(found) < count:
                    parts[branch] = self.part(branch, prompt, [*tokens, *found], len(tokens))
            if not parts:
                return drafts
            hidden = self.runner.read(list(parts.values()))
            ends = torch.tensor([len(part.tokens) for part in parts.values()]).cumsum(0) - 1
            best = self.runner.logits(hidden[ends.to(hidden.device)]).argmax(-1).tolist()
            for (branch, part), token in zip(parts.items(), best, strict=True):
                self.readings[branch].tokens += part.tokens
                drafts[branch].append(token)

    def part(self, branch: int, prompt: Prompt, tokens: list[int], num_sure: int) -> Part:
        """What is to be read of a branch next."""
        reading = self.readings[branch]
        start = reading.agree(tokens) if len(tokens) == num_sure else len(reading.tokens)
        reading.num_sure = min(num_sure, len(tokens))
        return Part(prompt=prompt, blocks=reading.blocks, start=start, tokens=tokens[start:])

    def make_room(self, branch: int, num_tokens: int) -> bool:
        """Whether there are blocks for so many tokens of a branch."""
        reading = self.readings.setdefault(branch, Reading())
        missing = -(-num_tokens // BLOCK_SIZE) - len(reading.blocks)
        if missing > self.pool.num_free or num_tokens > self.runner.config.max_length:
            return False
        if missing > 0:
            reading.blocks += self.pool.take(missing)
        return True


class Speculation:
    """Finds drafts for branches, fewer after they proved wrong and more after they proved right."""

    def __init__(self, draft: DraftModel | None) -> None:
        self.draft = draft
        self.lookups: dict[int, Lookup] = {}

    def propose(self, branches: Sequence[Branch], alive: Collection[int]) -> None:
        """Set the drafts of the branches that want some."""
        for gone in [i for i in self.lookups if i not in alive]:
            del self.lookups[gone]
        if self.draft is not None:
            self.draft.forget(alive)
        wanted: dict[int, tuple[Prompt, list[int], int]] = {}
        asking = {}
        for branch in branches:
            count = branch.num_wanted
            if count < 1:
                continue
            lookup = self.lookups.setdefault(branch.id, Lookup())
            branch.drafts = lookup.propose(branch.tokens, count)
            if not branch.drafts and self.draft is not None:
                wanted[branch.id] = (branch.request.prompt, branch.tokens, count)
                asking[branch.id] = branch
        if self.draft is not None and wanted:
            for i, drafts in self.draft.propose(wanted).items():
                asking[i].drafts = drafts

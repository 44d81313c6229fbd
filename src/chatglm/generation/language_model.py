"""A loaded model and the engine that runs it, on ids in the model's own layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Self, Unpack

import torch
from torch import Tensor

from chatglm import checkpoint
from chatglm.checkpoint import Loaded
from chatglm.config import ModelConfig
from chatglm.generation.adapters import twin_with
from chatglm.generation.cache import SequenceCache, position_ids
from chatglm.generation.engine import Engine
from chatglm.generation.options import Options, sampling_of
from chatglm.generation.sampling import Sampling
from chatglm.model import Transformer
from chatglm.prompt import Prompt
from chatglm.tokenizer.base import Tokenizer

Ids = Sequence[int] | Tensor


class LanguageModel:
    """A model of the family: ids in, ids and numbers out."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        max_num_seqs: int = 16,
        max_num_tokens: int | None = None,
        kv_dtype: str = "auto",
        draft: Loaded | None = None,
    ) -> None:
        self.loaded = loaded
        self.adapter: str | None = None
        self.engine = Engine(
            loaded.model,
            stop_ids=loaded.defaults.end_ids,
            learned_prefix=loaded.prefix,
            max_num_seqs=max_num_seqs,
            max_num_tokens=max_num_tokens,
            kv_dtype=kv_dtype,
            draft=None if draft is None else draft.model,
        )

    def save_pretrained(self, directory: str | os.PathLike[str]) -> Path:
        """Write the checkpoint in the format it was read from; same tensors, same bytes."""
        return checkpoint.save(self.loaded, directory)

    def merge_adapter(self) -> None:
        """Make the adapter part of the weights; the replies stay, and the model is saved whole."""
        checkpoint.merge_adapter(self.loaded)

    def add_adapter(self, name: str, source: str | os.PathLike[str]) -> None:
        """Let requests choose a LoRA adapter by `adapter=name`, several of them in one batch."""
        self.engine.add_adapter(name, twin_with(self.loaded, source))

    def with_adapter(self, name: str) -> Self:
        """This model through one of the adapters that were added, over the same weights and engine;
        whatever it is asked goes through that adapter.
        """
        if name not in self.engine.runner.adapters:
            known = ", ".join(self.engine.runner.adapters) or "none"
            raise ValueError(f"there is no adapter {name!r}; known are: {known}")
        twin = copy(self)
        twin.adapter = name
        return twin

    @property
    def transformer(self) -> Transformer:
        """The `nn.Module`, with its adapter."""
        if self.adapter is None:
            return self.loaded.model
        return self.engine.runner.adapters[self.adapter]

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.loaded.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; a ValueError where its directory has none."""
        if self.loaded.tokenizer is None:
            raise ValueError(
                f"{self.loaded.directory} has no tokenizer files; add them, "
                "or use logits and generate_ids"
            )
        return self.loaded.tokenizer

    @torch.inference_mode()
    def logits(
        self,
        ids: Ids,
        context_length: int | None = None,
        hole: int | None = None,
        *,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Scores (T, V) in float32 of the word after each id, in the model's own layout.

        In a prefix-LM generation the context ends at `<sop>` and the hole is its [gMASK] or [MASK],
        unless given. positions (P, T): where several spans fill several holes.
        """
        hidden = self.hidden(self.prompt(ids, context_length, hole), positions)
        return self.transformer.logits(hidden)[0]

    def generate_ids(
        self,
        ids: Ids,
        *,
        stop_ids: Sequence[int] | frozenset[int] | set[int] | None = None,
        context_length: int | None = None,
        hole: int | None = None,
        **options: Unpack[Options],
    ) -> list[int]:
        """Ids that follow `ids`, the stop id that ended them included.

        stop_ids: None for the model's own; empty, and nothing but the limit ends the reply.
        """
        sampling = self.sampling(options)
        if stop_ids is not None:
            sampling = replace(sampling, stop_ids=frozenset(stop_ids))
        prompt = self.prompt(ids, context_length, hole)
        with closing(self.engine.stream(prompt, sampling)) as outputs:
            return [output.token for output in outputs if output.token is not None]

    def prompt(
        self, ids: Ids, context_length: int | None = None, hole: int | None = None
    ) -> Prompt:
        """Ids as a prompt; see `logits` for the context of a prefix-LM generation."""
        tokens = tuple(torch.as_tensor(ids).flatten().tolist())
        if self.config.context == "causal":
            return Prompt(tokens=tokens)
        layout = self.loaded.layout
        if context_length is None:
            context_length = tokens.index(layout.sop) if layout.sop in tokens else 0
        if hole is None:
            holes = [m for m in (layout.gmask, layout.mask) if m in tokens[:context_length]]
            hole = tokens.index(holes[0]) if holes else None
        return Prompt(tokens=tokens, prefix=context_length, hole=hole)

    def hidden(self, prompt: Prompt, positions: Tensor | None = None) -> Tensor:
        """Last hidden states (1, T, C) of a prompt's tokens, at positions (P, T) if given."""
        length, device, config = len(prompt.tokens), self.engine.runner.device, self.config
        is_bounded = config.position.startswith("learned")  # rotary angles know no last place
        if not length or (is_bounded and length > config.max_length):
            raise ValueError(
                f"the text has {length} tokens; the model takes 1 to {config.max_length}"
            )
        cache = SequenceCache(
            config,
            dtype=self.engine.runner.dtype,
            device=device,
            learned_prefix=self.loaded.prefix,
            capacity=length,
        )
        if positions is None:
            places = position_ids(prompt, length, config, device)
        else:
            places = positions.to(device).view(1, config.num_planes, length)
        tokens = torch.tensor([prompt.tokens], device=device)
        return self.transformer(tokens, places, None, cache.read(prompt, 0, length))

    def sampling(self, options: Options) -> Sampling:
        """The model's own defaults with the user's options over them."""
        sampling = sampling_of(self.loaded.defaults, options)
        return sampling if sampling.adapter else replace(sampling, adapter=self.adapter)

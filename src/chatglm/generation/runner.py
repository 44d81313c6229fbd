"""The model as the engine uses it: packed for the machine, over a store of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from chatglm.generation import native, network
from chatglm.generation.adapters import Routing, route
from chatglm.generation.cache import (
    KeyValueStore,
    Span,
    batch_of,
    token_bytes,
    visible_slots,
    write_learned,
)
from chatglm.generation.cuda.network import Network as GpuNetwork
from chatglm.generation.packed import fingerprint, pack
from chatglm.model import Transformer
from chatglm.prompt import Prompt, positions
from chatglm.quantization import cuda


class Network(Protocol):
    """A whole model in a form of its machine's."""

    def forward(
        self,
        tokens: Sequence[int],
        places: Sequence[Sequence[int]],
        store: KeyValueStore,
        spans: Sequence[Span],
    ) -> Tensor:
        """Hidden states (T, C) of tokens at positions (P, T)."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (…, V) in float32 of the token after each hidden state."""
        ...


@dataclass(kw_only=True)
class Part:
    """Tokens that a sequence reads next: `tokens` from place `start` on, into its blocks, through
    an adapter or the base alone.
    """

    prompt: Prompt
    blocks: Sequence[int]
    start: int
    tokens: Sequence[int]
    adapter: str | None = None


class Runner:
    """Reads tokens of several sequences in one forward."""

    def __init__(
        self, model: Transformer, *, learned_prefix: Tensor | None = None, kv_dtype: str = "auto"
    ) -> None:
        self.model = model.eval()
        self.config = model.config
        self.learned_prefix = learned_prefix
        self.num_learned = 0 if learned_prefix is None else learned_prefix.shape[3]
        self.device = model.embedding.weight.device
        self.dtype = stream_dtype(model)
        self.kv_dtype = kv_dtype_of(kv_dtype, self.dtype)
        self.is_native = native.can_serve(
            self.config.head_dim, self.dtype, self.kv_dtype, self.device
        )
        self.adapters: dict[str, Transformer] = {}
        self.routing = Routing()
        self.whole = self.decoder = model
        self.network: Network | None = None
        self.fingerprint: tuple[tuple[int, int], ...] | None = None
        self.store: KeyValueStore | None = None

    @property
    def slots_needed(self) -> int:
        """Slots of a sequence that fills the context."""
        return self.config.max_length + self.num_learned

    @property
    def token_bytes(self) -> int:
        """Bytes of a token's keys and values."""
        return token_bytes(self.config, self.kv_dtype, for_native=self.is_native)

    def refresh(self) -> bool:
        """Whether weights have changed since the last call; then they are packed again."""
        now = fingerprint(self.whole)
        if now == self.fingerprint:
            return False
        self.decoder, self.network = self.whole, None
        if cuda.is_usable(self.device):
            self.network = GpuNetwork(self.whole, self.routing, num_slots=self.slots_needed)
        elif self.is_native and network.can_run(self.whole):
            self.network = network.Network(self.whole)
        elif self.is_native:
            self.decoder = pack(self.whole)
        self.fingerprint = now
        return True

    def add_adapter(self, name: str, model: Transformer) -> None:
        """Let parts go through an adapter: `model` is the base with it put on."""
        adapters = {**self.adapters, name: model}
        ways: dict[str | None, Transformer] = {None: self.model}
        ways.update(adapters)
        self.whole = route(ways, self.routing)
        self.adapters = adapters
        self.refresh()

    def open(self, num_blocks: int) -> KeyValueStore:
        """The keys and values; their memory is asked for when this is first called."""
        if self.store is None:
            self.store = KeyValueStore(
                self.config,
                num_blocks=num_blocks,
                dtype=self.kv_dtype,
                device=self.device,
                for_native=self.is_native,
            )
        return self.store

    def begin(self, blocks: Sequence[int], num_slots: int) -> None:
        """Put the learned prefix in front of a sequence, but for the first `num_slots`."""
        if self.learned_prefix is not None and num_slots < self.num_learned:
            assert self.store is not None
            write_learned(self.store, blocks, self.learned_prefix, num_slots)

    def read(self, parts: Sequence[Part]) -> Tensor:
        """Hidden states (T, C) of the parts' tokens, one part after the other."""
        tokens, places, store, spans = self.arranged(parts)
        if self.network is not None:
            return self.network.forward(tokens, places, store, spans)
        hidden: Tensor = self.decoder(
            torch.tensor([tokens], device=self.device),  # (1, T)
            torch.tensor([places], device=self.device),  # (1, P, T)
            None,
            batch_of(store, spans),
        )
        return hidden[0]

    def score(self, parts: Sequence[Part]) -> Tensor:
        """Scores (T, V) in float32 of the token after each of the parts' tokens."""
        if isinstance(self.network, network.Network):
            arranged = self.arranged(parts)
            scores = torch.empty(len(arranged[0]), self.network.head.rows)
            self.network.forward(*arranged, scores=scores)
            return scores
        return self.logits(self.read(parts))

    def arranged(
        self, parts: Sequence[Part]
    ) -> tuple[list[int], list[list[int]], KeyValueStore, list[Span]]:
        """The parts' tokens, their positions by plane, and where their keys and values lie."""
        assert self.store is not None
        spans: list[Span] = []
        places: list[list[int]] = [[] for _ in range(self.config.num_planes)]
        for part in parts:
            start, stop = part.start, part.start + len(part.tokens)
            visible = visible_slots(part.prompt, self.config, start, stop, self.num_learned)
            spans.append(Span(table=part.blocks, start=self.num_learned + start, visible=visible))
            own = positions(part.prompt, stop, len(places), start)
            for plane, row in zip(places, own, strict=True):
                plane += row
        tokens = [token for part in parts for token in part.tokens]
        if self.adapters:
            self.routing.set([part.adapter for part in parts], [len(p.tokens) for p in parts])
        return tokens, places, self.store, spans

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (…, V) in float32 of the token after each hidden state."""
        if self.network is not None:
            return self.network.logits(hidden)
        return self.decoder.logits(hidden)


def stream_dtype(model: Transformer) -> torch.dtype:
    """The dtype of hidden states, keys and values: the norms', which no quantization touches."""
    return next(p.dtype for name, p in model.named_parameters() if ".norm1." in name)


def kv_dtype_of(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of keys and values: `auto` is the model's."""
    kinds = {"auto": dtype, "float32": torch.float32, "bfloat16": torch.bfloat16}
    kinds |= {"float16": torch.float16, "int8": torch.int8}
    if name not in kinds:
        raise ValueError(f"kv_dtype must be one of {', '.join(kinds)}, got {name!r}")
    return kinds[name]

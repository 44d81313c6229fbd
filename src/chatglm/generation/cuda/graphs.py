"""Forwards of few tokens as recorded graphs.

A graph has fixed shapes and addresses. So there is one for each of a few numbers of tokens, whose
inputs lie in one array that every step fills; tokens that are missing to the number have no slot,
write nothing and read nothing. Each token is a tile of its own with a table of its own, so that
tokens of many sequences, tokens tried ahead and short prompts are all the same to it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chatglm.generation.blocks import BLOCK_SIZE
from chatglm.generation.cuda.attention import Layout, PagedCall, num_shares
from chatglm.model import Transformer
from chatglm.quantization.cuda import num_processors

if TYPE_CHECKING:
    from torch.cuda import _POOL_HANDLE

    from chatglm.generation.cache import KeyValueStore, Span

MOST_TOKENS = 128
"""Tokens up to which a forward is recorded; more keep the GPU busy without."""


def size_for(num_tokens: int) -> int:
    """The number of tokens that is recorded for so many: 1, 2, 4, 8, then multiples of 16."""
    if num_tokens <= 8:
        return 1 << (num_tokens - 1).bit_length()
    return -(-num_tokens // 16) * 16


class Recordings:
    """The recorded forwards of a model, made when they are first asked for."""

    def __init__(self, model: Transformer, *, table_size: int) -> None:
        self.model, self.table_size = model, table_size
        self.known: dict[tuple[int, str | None], Recording] = {}
        self.store: KeyValueStore | None = None
        self.pool: _POOL_HANDLE | None = None  # memory that all graphs share

    def can_hold(self, spans: Sequence[Span]) -> bool:
        """Whether a forward is small enough to be recorded."""
        num_tokens = sum(len(span.visible) for span in spans)
        return num_tokens <= MOST_TOKENS and all(len(s.table) <= self.table_size for s in spans)

    def forward(
        self,
        tokens: Sequence[int],
        places: Sequence[Sequence[int]],
        store: KeyValueStore,
        spans: Sequence[Span],
        adapter: str | None,
    ) -> Tensor:
        """Hidden states (T, C), which the next call overwrites."""
        if store is not self.store:
            self.known, self.store = {}, store
        key = (size_for(len(tokens)), adapter)
        if key not in self.known:
            self.known[key] = Recording(self.model, store, key[0], self.table_size)
        recording = self.known[key]
        recording.fill(tokens, places, spans)
        if store.keys.device.type == "cuda" and recording.graph is None:
            if self.pool is None:
                self.pool = torch.cuda.graph_pool_handle()
            recording.record(self.pool)
        return recording.run()[: len(tokens)]


class Recording:
    """A forward of a fixed number of tokens."""

    def __init__(
        self, model: Transformer, store: KeyValueStore, size: int, table_size: int
    ) -> None:
        config, device = model.config, store.keys.device
        self.model, self.store, self.size = model, store, size
        self.num_planes = config.num_planes
        self.graph: torch.cuda.CUDAGraph | None = None
        self.is_broken = False
        self.hidden: Tensor | None = None
        parts = [size, size * self.num_planes, size, size, size * table_size]
        self.host = torch.zeros(sum(parts), dtype=torch.int32, pin_memory=device.type == "cuda")
        self.numbers = self.host.to(device, copy=True)
        self.tables = self.host[-parts[-1] :].view(size, table_size).numpy()
        self.kept: list[list[int]] = [[] for _ in range(size)]
        self.tokens, self.places, slots, visible, tables = self.numbers.split(parts)
        count = torch.arange(size, dtype=torch.int32, device=device)
        groups = config.num_kv_heads
        longest = min(config.max_length, store.num_blocks * BLOCK_SIZE)
        self.layout = Layout(
            slots=slots,
            visible=visible,
            firsts=count,
            counts=torch.ones_like(count),
            offsets=count * table_size,
            tables=tables,
            width=1,
            shares=num_shares(size * groups, longest, num_processors(device)),
        )

    def fill(
        self, tokens: Sequence[int], places: Sequence[Sequence[int]], spans: Sequence[Span]
    ) -> None:
        """Put a step's inputs where the graph reads them."""
        slots: list[int] = []
        visible: list[int] = []
        for span in spans:
            span.check(self.store.num_blocks)
            for i in range(span.start, span.stop):
                self.set_table(len(slots), span.table)
                slots.append(span.table[i // BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE)
            visible += span.visible
        num_missing = self.size - len(tokens)
        flat: list[int] = []
        for row in (tokens, *places):
            flat += [*row, *[0] * num_missing]
        flat += [*slots, *[-1] * num_missing, *visible, *[0] * num_missing]
        self.host[: len(flat)] = torch.tensor(flat, dtype=torch.int32)
        self.numbers.copy_(self.host)  # waits: the host's array may be filled again at once

    def set_table(self, row: int, table: Sequence[int]) -> None:
        """The blocks of a token; most often those of the last step."""
        if self.kept[row] != table:
            self.kept[row] = list(table)
            self.tables[row, : len(table)] = table

    def compute(self) -> Tensor:
        """Hidden states (size, C) of what the inputs hold."""
        hidden: Tensor = self.model(
            self.tokens[None],
            self.places.view(1, self.num_planes, self.size),
            None,
            PagedCall(self.store, self.layout),
        )
        return hidden[0]

    def record(self, pool: _POOL_HANDLE) -> None:
        """Run once, which compiles the kernels, then once more for the record."""
        if self.is_broken:
            return
        try:
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                self.compute()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self.hidden = self.compute()
            self.graph = graph
        except RuntimeError as error:
            self.is_broken = True
            reason = str(error).split("\n")[0]
            warnings.warn(
                f"a forward of {self.size} tokens runs without a CUDA graph, which is slower: "
                f"{reason}",
                stacklevel=2,
            )

    def run(self) -> Tensor:
        """Hidden states (size, C): the graph's, or computed as ever where there is none."""
        if self.graph is None:
            return self.compute()
        self.graph.replay()
        assert self.hidden is not None
        return self.hidden

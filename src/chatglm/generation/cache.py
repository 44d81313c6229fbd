"""Keys and values in blocks, and a batch of sequences that attends over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from chatglm.config import ModelConfig
from chatglm.generation import native
from chatglm.generation.blocks import BLOCK_SIZE
from chatglm.model.attention import Attendable, attend
from chatglm.prompt import Prompt, positions


def value_width(config: ModelConfig, *, for_native: bool) -> int:
    """Numbers that the values of a head take; for the native kernel they are padded to 16."""
    return -(-config.head_dim // 16) * 16 if for_native else config.head_dim


def token_bytes(config: ModelConfig, dtype: torch.dtype, *, for_native: bool) -> int:
    """Bytes that the keys and values of a token take."""
    width = config.head_dim + value_width(config, for_native=for_native)
    scales = 2 * 4 if dtype == torch.int8 else 0
    return config.num_layers * config.num_kv_heads * (width * dtype.itemsize + scales)


class KeyValueStore:
    """Keys and values of all blocks, (L, G, blocks, 16, D) each; int8 with a scale per token.

    The memory is asked for at once and, on a processor, taken where it is first written to. For
    the native kernel a block of keys lies in memory by coordinate, and values are padded.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_blocks: int,
        dtype: torch.dtype,
        device: torch.device,
        for_native: bool = False,
    ) -> None:
        layers, groups, width = config.num_layers, config.num_kv_heads, config.head_dim
        self.dtype, self.width, self.num_blocks = dtype, width, num_blocks
        self.for_native = for_native
        shape = (layers, groups, num_blocks)
        if for_native:
            self.stored_keys = torch.empty(*shape, width, BLOCK_SIZE, dtype=dtype, device=device)
            self.keys = self.stored_keys.transpose(3, 4)
            padded = value_width(config, for_native=True)
            self.stored_values = torch.empty(*shape, BLOCK_SIZE, padded, dtype=dtype, device=device)
            self.values = self.stored_values[..., :width]
        else:
            self.keys = torch.empty(*shape, BLOCK_SIZE, width, dtype=dtype, device=device)
            self.values = torch.empty_like(self.keys)
        self.scales: Tensor | None = None
        if dtype == torch.int8:  # (2, L, G, blocks, 16), of keys and of values
            self.scales = torch.empty(2, *shape, BLOCK_SIZE, device=device)

    def put(
        self, layers: int | slice, blocks: Tensor, offsets: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """Write keys and values ([L,] G, T, D) of tokens into blocks (T,) at offsets (T,)."""
        for side, (kept, new) in enumerate(((self.keys, keys), (self.values, values))):
            if self.scales is not None:
                new = new.float()
                scale = new.abs().amax(-1) / 127  # ([L,] G, T)
                self.scales[side][layers][..., blocks, offsets] = scale
                inverse = torch.where(scale > 0, 1 / scale, 0.0)
                new = (new * inverse[..., None]).round_().clamp_(-127, 127)
            kept[layers][..., blocks, offsets, :] = new.to(self.dtype)

    def gather(
        self, layer: int, table: Tensor | slice, length: int, dtype: torch.dtype
    ) -> list[Tensor]:
        """Keys and values (1, G, S, D) of the first `length` slots in blocks `table`."""
        found = []
        for side, kept in enumerate((self.keys[layer], self.values[layer])):
            part = kept[:, table]
            if self.scales is not None:
                part = part * self.scales[side, layer][:, table][..., None]
            found.append(part.to(dtype).flatten(1, 2)[None, :, :length])
        return found

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy blocks (from, to), one after the other."""
        kept = [self.keys, self.values, *([] if self.scales is None else self.scales)]
        for source, target in pairs:
            for part in kept:
                part[:, :, target].copy_(part[:, :, source])


@dataclass(kw_only=True)
class Span:
    """Tokens that one sequence reads in a forward.

    table: its blocks. start: the slot of the first token. visible: how many slots each may see.
    """

    table: Sequence[int]
    start: int
    visible: Sequence[int]

    @property
    def stop(self) -> int:
        """The slot after the last."""
        return self.start + len(self.visible)

    def check(self, num_blocks: int) -> None:
        """A ValueError where the sequence would read or write outside its blocks."""
        if (
            self.start < 0
            or self.stop > len(self.table) * BLOCK_SIZE
            or not 1 <= min(self.visible) <= max(self.visible) <= self.stop
            or not 0 <= min(self.table) <= max(self.table) < num_blocks
        ):
            raise ValueError(
                f"slots {self.start} to {self.stop} do not lie in {len(self.table)} blocks of "
                f"{num_blocks}; the block table is damaged"
            )

    def indices(self, device: torch.device) -> Tensor | slice:
        """The table as an index; a slice, which needs no copy, where blocks lie side by side."""
        table = list(self.table)
        if table == list(range(table[0], table[0] + len(table))):
            return slice(table[0], table[0] + len(table))
        return torch.tensor(table, device=device)


def batch_of(store: KeyValueStore, spans: Sequence[Span]) -> Attendable:
    """What a forward over these sequences keeps its keys and values in, and attends by."""
    return native.LayerCall(store, spans) if store.for_native else PagedBatch(store, spans)


class PagedBatch:
    """PyTorch's: the sequences of a forward, whose tokens stand one after the other in one row.

    Each token attends over its own sequence alone, so that what it reads is the same in any
    company.
    """

    def __init__(self, store: KeyValueStore, spans: Sequence[Span]) -> None:
        self.store, self.spans = store, spans
        device = store.keys.device
        self.tables = [span.indices(device) for span in spans]
        slots = [(span.table, i) for span in spans for i in range(span.start, span.stop)]
        places = [table[i // BLOCK_SIZE] for table, i in slots]
        self.blocks = torch.tensor(places, device=device)
        self.offsets = torch.tensor([i % BLOCK_SIZE for _, i in slots], device=device)
        self.masks = [self.mask(span, device) for span in spans]

    def mask(self, span: Span, device: torch.device) -> Tensor | None:
        """Which slots each token sees, (1, 1, T, S); None: plainly causal, or one token."""
        is_causal = span.start == 0 and list(span.visible) == list(range(1, span.stop + 1))
        if len(span.visible) == 1 or is_causal:
            return None
        columns = torch.arange(span.stop, device=device)
        return (columns < torch.tensor(list(span.visible), device=device)[:, None])[None, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Keep k, v (1, G, T, D) and give what q (1, H, T, D) reads: (1, H, T, D)."""
        store = self.store
        store.put(layer, self.blocks, self.offsets, k[0], v[0])
        results, begin = [], 0
        for span, table, seen in zip(self.spans, self.tables, self.masks, strict=True):
            length = len(span.visible)
            queries = q[:, :, begin : begin + length]
            begin += length
            keys, values = store.gather(layer, table, span.stop, q.dtype)
            if length > 1:
                results.append(attend(queries, keys, values, seen))
                continue
            # One query: the heads of a group stand as its rows, so that keys need no repeating.
            grouped = queries.reshape(1, keys.shape[1], -1, q.shape[3])  # (1, G, H/G, D)
            part = F.scaled_dot_product_attention(grouped, keys, values)
            results.append(part.reshape(queries.shape))
        return results[0] if len(results) == 1 else torch.cat(results, 2)


class SequenceCache:
    """A cache of one sequence, for whoever reads a text outside the engine.

    learned_prefix: (L, 2, G, N, D), keys and values that the sequence starts with (P-tuning v2);
    positions do not count them.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        capacity: int,
        learned_prefix: Tensor | None = None,
    ) -> None:
        self.config = config
        self.num_learned = 0 if learned_prefix is None else learned_prefix.shape[3]
        num_blocks = -(-(self.num_learned + capacity) // BLOCK_SIZE)
        self.table = list(range(num_blocks))
        self.store = KeyValueStore(config, num_blocks=num_blocks, dtype=dtype, device=device)
        if learned_prefix is not None:
            write_learned(self.store, self.table, learned_prefix)

    def read(self, prompt: Prompt, start: int, stop: int) -> PagedBatch:
        """What the tokens `start` to `stop` of a prompt are read with; those before have been."""
        visible = visible_slots(prompt, self.config, start, stop, self.num_learned)
        span = Span(table=self.table, start=self.num_learned + start, visible=visible)
        return PagedBatch(self.store, [span])


def write_learned(
    store: KeyValueStore, table: Sequence[int], learned: Tensor, start: int = 0
) -> None:
    """Put learned keys and values (L, 2, G, N, D) into the first slots of a sequence, those from
    `start` on.
    """
    slots = range(start, learned.shape[3])
    device = store.keys.device
    blocks = torch.tensor([table[slot // BLOCK_SIZE] for slot in slots], device=device)
    offsets = torch.tensor([slot % BLOCK_SIZE for slot in slots], device=device)
    learned = learned[:, :, :, start:].to(device)
    store.put(slice(None), blocks, offsets, learned[:, 0], learned[:, 1])


def visible_slots(
    prompt: Prompt, config: ModelConfig, start: int, stop: int, num_learned: int = 0
) -> list[int]:
    """How many slots the tokens `start` to `stop` may see: those up to their own, and the whole of
    a bidirectional context.
    """
    prefix = prompt.prefix if config.context == "prefix" else 0
    return [num_learned + max(i + 1, prefix) for i in range(start, stop)]


def position_ids(
    prompt: Prompt, length: int, config: ModelConfig, device: torch.device, start: int = 0
) -> Tensor:
    """Position ids (1, P, length − start) of a prompt's tokens and of those that follow it."""
    return torch.tensor([positions(prompt, length, config.num_planes, start)], device=device)

"""Attention over blocks on a GPU, for all sequences of a layer in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chatglm.generation.blocks import BLOCK_SIZE
from chatglm.generation.joined import JoinedCall
from chatglm.model.position import Rotary
from chatglm.quantization.cuda import num_processors

if TYPE_CHECKING:
    from chatglm.generation.cache import KeyValueStore, Span

ROWS = 64
"""Queries of a tile that share keys, where a sequence reads several tokens."""
KEYS = 64
"""Keys of a step."""
MOST_SHARES = 32


@dataclass(kw_only=True)
class Layout:
    """Where the tokens of a forward stand, in tiles of queries that share their keys.

    slots: (T,), where each token's key goes; -1: nowhere. visible: (T,), how many slots each may
    see. firsts, counts, offsets: (tiles,), the tokens of a tile and where in `tables` its blocks
    begin. width: tokens that a tile may hold. shares: programs that share the keys of a tile.
    """

    slots: Tensor
    visible: Tensor
    firsts: Tensor
    counts: Tensor
    offsets: Tensor
    tables: Tensor
    width: int
    shares: int


def layout_of(spans: Sequence[Span], store: KeyValueStore, num_heads: int) -> Layout:
    """The layout of sequences that stand one after the other."""
    groups, device = store.keys.shape[1], store.keys.device
    longest = max(len(span.visible) for span in spans)
    width = min(longest, max(ROWS // (num_heads // groups), 1))
    slots: list[int] = []
    visible: list[int] = []
    tables: list[int] = []
    tiles: list[tuple[int, int, int]] = []
    starts = accumulate((len(span.visible) for span in spans), initial=0)
    for span, start in zip(spans, starts, strict=False):
        span.check(store.num_blocks)
        length = len(span.visible)
        tiles += [(start + i, min(width, length - i), len(tables)) for i in range(0, length, width)]
        slots += [
            span.table[i // BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE
            for i in range(span.start, span.stop)
        ]
        visible += span.visible
        tables += span.table
    parts = [slots, visible, *zip(*tiles, strict=True), tables]
    joined = torch.tensor([n for part in parts for n in part], dtype=torch.int32).to(device)
    shares = num_shares(len(tiles) * groups, max(visible), num_processors(device))
    return Layout(
        **dict(zip(
            ("slots", "visible", "firsts", "counts", "offsets", "tables"),
            joined.split([len(part) for part in parts]),
            strict=True,
        )),
        width=width,
        shares=shares,
    )  # fmt: skip


def num_shares(num_tiles: int, most_visible: int, num_processors: int) -> int:
    """How many programs share the keys of a tile: as many as fill the chip twice."""
    steps = -(-most_visible // KEYS)
    return max(1, min(2 * num_processors // num_tiles, steps, MOST_SHARES))


class PagedCall(JoinedCall):
    """One forward's calls of the kernels; from layer to layer only the arrays change."""

    def __init__(self, store: KeyValueStore, layout: Layout) -> None:
        self.store, self.layout = store, layout
        self.rope: Rotary | None = None
        self.angles: tuple[Tensor | None, Tensor | None] = (None, None)

    def turn(self, rope: Rotary, cos: Tensor, sin: Tensor) -> None:
        """Take the angles (1, T, P, R/2) of this forward."""
        if self.rope is None:
            self.rope, self.angles = rope, (cos.contiguous(), sin.contiguous())

    def attend_joined(self, layer: int, rows: Tensor) -> Tensor:
        """What the queries read, (1, T, H·D), from rows (1, T, (H + 2G)·D) of query, key and value
        heads; keys and values are kept.
        """
        from chatglm.generation.cuda import kernels

        store, layout = self.store, self.layout
        rows = rows.contiguous()
        groups, width = store.keys.shape[1], store.width
        num_tokens = len(layout.slots)
        heads = rows.shape[-1] // width - 2 * groups
        if rows.numel() != num_tokens * (heads + 2 * groups) * width or heads < groups:
            raise ValueError(
                f"rows of shape {tuple(rows.shape)} do not fit {num_tokens} tokens with heads of "
                f"width {width}; the cache was made for another model"
            )
        keys, values = store.keys[layer], store.values[layer]
        scales: Sequence[Tensor | None] = (None, None)
        if store.scales is not None:
            scales = [store.scales[side, layer] for side in (0, 1)]
        padded = max(16, 1 << (width - 1).bit_length())
        num_slots = store.num_blocks * BLOCK_SIZE
        queries = rows.new_empty(num_tokens, heads, width)
        cos, sin = self.angles
        is_int8 = store.scales is not None
        kernels.place_kernel[(num_tokens, heads + 2 * groups)](
            rows, queries, keys, values, *scales, cos, sin, layout.slots, heads, groups, num_slots,
            WIDTH=width, PADDED=padded, PLANES=1 if cos is None else cos.shape[2],
            TURNED=0 if self.rope is None else self.rope.size,
            IS_INTERLEAVED=self.rope is not None and self.rope.pairs == "interleaved",
            IS_INT8=is_int8, num_warps=1,
        )  # fmt: skip
        out = torch.empty_like(queries)
        shares, share = layout.shares, heads // groups
        parts, sums = out, None
        if shares > 1:
            parts = out.new_empty(shares, *out.shape, dtype=torch.float32)
            sums = out.new_empty(shares, num_tokens, heads, 2, dtype=torch.float32)
        count = max(16, 1 << (layout.width * share - 1).bit_length())
        kernels.attend_kernel[(len(layout.firsts), groups, shares)](
            queries, keys, values, *scales, parts, sums, layout.firsts, layout.counts,
            layout.offsets, layout.tables, layout.visible, width**-0.5, num_tokens, heads,
            num_slots, WIDTH=width, PADDED=padded, SHARE=share, ROWS=count, KEYS=KEYS,
            SHARES=shares, IS_INT8=is_int8, num_warps=4, num_stages=2,
        )  # fmt: skip
        if shares > 1:
            kernels.join_kernel[(num_tokens * heads,)](
                parts, sums, out, num_tokens * heads, shares, WIDTH=width, PADDED=padded,
                num_warps=1,
            )  # fmt: skip
        return out.view(1, num_tokens, heads * width)

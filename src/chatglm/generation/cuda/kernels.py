"""Triton kernels of a forward: heads are placed, queries attend over blocks, streams are normed.

Attention takes tiles of queries: a few tokens of one sequence with all heads that share a group of
keys, so that keys are read once for all of them. One kernel serves a token of each of many
sequences, a long prompt, and what lies between. Where tiles are few, several programs share the
keys of one, and a second kernel joins what they found.
"""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK: tl.constexpr = tl.constexpr(16)


@triton.jit
def keep(
    x,
    kept,
    scales,
    group,
    slot,
    num_slots,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    IS_INT8: tl.constexpr,
):
    """Write a head into its slot, in 8 bits with its scale if asked for."""
    at = tl.arange(0, PADDED)
    spot = group.to(tl.int64) * num_slots + slot
    if IS_INT8:
        wide = x.to(tl.float32)
        scale = tl.max(tl.abs(wide), 0) / 127
        tl.store(scales + spot, scale, mask=slot >= 0)
        x = tl.floor(wide * tl.where(scale > 0, 1 / scale, 0.0) + 0.5)
    tl.store(
        kept + spot * WIDTH + at,
        x.to(kept.dtype.element_ty),
        mask=at < tl.where(slot >= 0, WIDTH, 0),
    )


@triton.jit
def place_kernel(
    rows,
    queries,
    keys,
    values,
    key_scales,
    value_scales,
    cos,
    sin,
    slots,
    num_heads,
    num_groups,
    num_slots,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    PLANES: tl.constexpr,
    TURNED: tl.constexpr,
    IS_INTERLEAVED: tl.constexpr,
    IS_INT8: tl.constexpr,
):
    """Turn the heads of a token's row (H + 2G heads) by its angles; queries (T, H, WIDTH) go
    out, keys and values into its slot. A token without a slot (below 0) leaves nothing.

    TURNED: width that one of the PLANES turns; 0 turns nothing.
    """
    token, head = tl.program_id(0), tl.program_id(1)
    at = tl.arange(0, PADDED)
    is_there = at < WIDTH
    row = rows + (token.to(tl.int64) * (num_heads + 2 * num_groups) + head) * WIDTH
    x = tl.load(row + at, mask=is_there, other=0.0).to(tl.float32)
    if TURNED > 0:
        is_turned = at < tl.where(head < num_heads + num_groups, PLANES * TURNED, 0)
        inside = at % TURNED
        if IS_INTERLEAVED:
            pair, is_first = inside // 2, inside % 2 == 0
            other = tl.where(is_first, at + 1, at - 1)
        else:
            pair, is_first = inside % (TURNED // 2), inside < TURNED // 2
            other = tl.where(is_first, at + TURNED // 2, at - TURNED // 2)
        partner = tl.load(row + other, mask=is_turned, other=0.0).to(tl.float32)
        angle = (token * PLANES + at // TURNED) * (TURNED // 2) + pair
        cosine = tl.load(cos + angle, mask=is_turned, other=1.0)
        sine = tl.load(sin + angle, mask=is_turned, other=0.0)
        x = x * cosine + tl.where(is_first, -partner, partner) * sine
    slot = tl.load(slots + token).to(tl.int64)
    x = x.to(rows.dtype.element_ty)
    if head < num_heads:
        target = queries + (token.to(tl.int64) * num_heads + head) * WIDTH
        tl.store(target + at, x, mask=is_there)
    elif head < num_heads + num_groups:
        keep(x, keys, key_scales, head - num_heads, slot, num_slots, WIDTH, PADDED, IS_INT8)
    else:
        group = head - num_heads - num_groups
        keep(x, values, value_scales, group, slot, num_slots, WIDTH, PADDED, IS_INT8)


@triton.jit
def attend_kernel(
    queries,
    keys,
    values,
    key_scales,
    value_scales,
    out,
    sums,
    firsts,
    counts,
    offsets,
    tables,
    visible,
    scale,
    num_tokens,
    num_heads,
    num_slots,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    SHARE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    SHARES: tl.constexpr,
    IS_INT8: tl.constexpr,
):
    """What a tile of queries reads of the slots that each may see.

    A tile is `counts` tokens from `firsts` on, whose table begins at `offsets`; SHARE heads of a
    token stand as rows. With SHARES > 1, out and sums (SHARES, T, H, …) in float32 hold what each
    share of the keys gave, and its maximum and sum.
    """
    tile, group, share = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, count = tl.load(firsts + tile), tl.load(counts + tile)
    table = tables + tl.load(offsets + tile)
    row = tl.arange(0, ROWS)
    token, head = row // SHARE, group * SHARE + row % SHARE
    is_row = token < count
    seen = tl.load(visible + first + token, mask=is_row, other=0)
    stop = tl.max(seen, 0)
    at = tl.arange(0, PADDED)
    place = (first + token).to(tl.int64) * num_heads + head
    is_query = is_row[:, None] & (at[None, :] < WIDTH)
    q = tl.load(queries + place[:, None] * WIDTH + at[None, :], mask=is_query, other=0.0)
    num_steps = tl.cdiv(tl.cdiv(stop, KEYS), SHARES)
    begin = share * num_steps * KEYS
    highest = tl.full((ROWS,), -1e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    read = tl.zeros((ROWS, PADDED), tl.float32)
    for start in range(begin, min(begin + num_steps * KEYS, stop), KEYS):
        slot = start + tl.arange(0, KEYS)
        block = tl.load(table + slot // BLOCK, mask=slot < stop, other=0)
        spot = group.to(tl.int64) * num_slots + block.to(tl.int64) * BLOCK + slot % BLOCK
        is_key = (slot < stop)[:, None] & (at[None, :] < WIDTH)
        where = spot[:, None] * WIDTH + at[None, :]
        k = tl.load(keys + where, mask=is_key, other=0.0).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if IS_INT8:
            scores *= tl.load(key_scales + spot, mask=slot < stop, other=0.0)[None, :]
        is_seen = slot[None, :] < seen[:, None]
        scores = tl.where(is_seen, scores, -1e30)
        top = tl.maximum(highest, tl.max(scores, 1))
        shares = tl.where(is_seen, tl.exp(scores - top[:, None]), 0.0)
        shrink = tl.exp(highest - top)
        total = total * shrink + tl.sum(shares, 1)
        if IS_INT8:
            shares *= tl.load(value_scales + spot, mask=slot < stop, other=0.0)[None, :]
        v = tl.load(values + where, mask=is_key, other=0.0).to(q.dtype)
        read = read * shrink[:, None]
        read = tl.dot(shares.to(q.dtype), v, read, input_precision="ieee")
        highest = top
    if SHARES > 1:
        place += share.to(tl.int64) * num_tokens * num_heads
        tl.store(sums + 2 * place, highest, mask=is_row)
        tl.store(sums + 2 * place + 1, total, mask=is_row)
    else:
        read = read / tl.where(total > 0, total, 1.0)[:, None]
    target = out + place[:, None] * WIDTH + at[None, :]
    tl.store(target, read.to(out.dtype.element_ty), mask=is_query)


@triton.jit
def join_kernel(parts, sums, out, num_rows, num_shares, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """One head's reading of all shares: parts (shares, rows, WIDTH) weighed by their sums."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    highest = tl.full((), -1e30, tl.float32)
    total = tl.zeros((), tl.float32)
    read = tl.zeros((PADDED,), tl.float32)
    for share in range(num_shares):
        place = share * num_rows + row
        top = tl.load(sums + 2 * place)
        part = tl.load(parts + place * WIDTH + at, mask=at < WIDTH, other=0.0)
        new = tl.maximum(highest, top)
        shrink, weight = tl.exp(highest - new), tl.exp(top - new)
        total = total * shrink + tl.load(sums + 2 * place + 1) * weight
        read = read * shrink + part * weight
        highest = new
    read = read / tl.where(total > 0, total, 1.0)
    tl.store(out + row * WIDTH + at, read.to(out.dtype.element_ty), mask=at < WIDTH)


@triton.jit
def norm_kernel(x, added, weight, out, width, eps, HAS_ADDED: tl.constexpr, PADDED: tl.constexpr):
    """A row by the root of its mean square, times the weight; with `added`, which x takes in."""
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, PADDED)
    is_there = at < width
    value = tl.load(x + row + at, mask=is_there, other=0.0)
    if HAS_ADDED:
        more = tl.load(added + row + at, mask=is_there, other=0.0)
        value = (value.to(tl.float32) + more.to(tl.float32)).to(value.dtype)
        tl.store(x + row + at, value, mask=is_there)
    wide = value.to(tl.float32)
    root = tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    scale = tl.load(weight + at, mask=is_there, other=0.0).to(tl.float32)
    tl.store(out + row + at, (wide * root * scale).to(out.dtype.element_ty), mask=is_there)


@triton.jit
def gate_kernel(x, out, width, SIZE: tl.constexpr):
    """silu(gate) · value (T, F) of rows (gate, value) (T, 2F)."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    is_there = at < width
    gate = tl.load(x + row * 2 * width + at, mask=is_there, other=0.0).to(tl.float32)
    value = tl.load(x + row * 2 * width + width + at, mask=is_there, other=0.0).to(tl.float32)
    result = gate * tl.sigmoid(gate) * value
    tl.store(out + row * width + at, result.to(out.dtype.element_ty), mask=is_there)

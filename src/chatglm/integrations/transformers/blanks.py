"""Inputs of GLM 2021's blank filling, in the form that its official tokenizer gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BatchEncoding


def with_blank(
    ids: Tensor | Sequence[Sequence[int]],
    keep: Tensor | Sequence[Sequence[int]],
    *,
    blanks: Sequence[int],
    sop: int,
    eop: int,
    pad: int,
    room: int,
    spans: Sequence[Sequence[int]] | None,
    fills_room: bool,
) -> BatchEncoding:
    """Ids (B, L), 0 in `keep` for padding, with what fills the first blank of each row behind them.

    Without `spans`: input_ids (B, L + 1) that end in `sop`, position_ids (B, 2, L + room) and
    generation_attention_mask (B, 1, L + room, L + room), 1 = may look. With them, the spans' ids
    and `eop` are the labels (B, L + longest) and the mask is called attention_mask; fills_room
    makes rows as long as `room` says.
    """
    context, real = torch.as_tensor(ids), torch.as_tensor(keep)
    batch, length = context.shape
    is_blank = torch.isin(context, torch.tensor(blanks)) & real.bool()
    if not is_blank.any(1).all():
        row = int((~is_blank.any(1)).nonzero()[0])
        raise ValueError(f"text {row} has no blank; mark one by [MASK], [sMASK] or [gMASK]")
    if spans is not None:
        spans = [[*span, eop][:room] for span in spans]
        if len(spans) != batch:
            raise ValueError(f"got {batch} texts and {len(spans)} targets; give one for each")
        room = room if fills_room else max(map(len, spans))
    index = (real.cumsum(1) - 1).clamp(min=0)  # (B, L)
    hole = index.gather(1, is_blank.long().argmax(1, keepdim=True))  # (B, 1)
    first = torch.cat((index, hole.expand(batch, room)), 1)
    counts = torch.arange(1, room + 1).expand(batch, room)
    second = torch.cat((torch.zeros_like(context), counts), 1)
    mask = torch.zeros(batch, 1, length + room, length + room, dtype=real.dtype)
    mask[..., :length] = real[:, None, None]
    mask[..., length:, length:] = torch.ones(room, room, dtype=real.dtype).tril()
    data = {"position_ids": torch.stack((first, second), 1)}
    if spans is None:
        starts = context.new_full((batch, 1), sop)
        data["input_ids"] = torch.cat((context, starts), 1)
        data["generation_attention_mask"] = mask
        return BatchEncoding(data)
    inputs = [([sop, *span] + [pad] * room)[:room] for span in spans]
    labels = [(list(span) + [-100] * room)[:room] for span in spans]
    data["input_ids"] = torch.cat((context, torch.tensor(inputs)), 1)
    data["labels"] = torch.cat((torch.full_like(context, -100), torch.tensor(labels)), 1)
    data["attention_mask"] = mask
    return BatchEncoding(data)

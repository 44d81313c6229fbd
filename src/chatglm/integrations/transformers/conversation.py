"""Conversations in transformers' shape, written by the generation's own template."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import BatchEncoding, PreTrainedTokenizer

from chatglm.messages import Message
from chatglm.tokenizer.template import Template

Conversation = Sequence[Mapping[str, object]]
# What transformers returns unless asked otherwise: ids in version 4, a dict from 5 on.
RETURNS_DICT: bool = (
    inspect.signature(PreTrainedTokenizer.apply_chat_template).parameters["return_dict"].default
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A conversation as text and as ids, and which ids the model has to produce."""

    text: str
    tokens: list[int]
    is_reply: list[bool]


def write_chats(
    template: Template,
    conversation: Conversation | Sequence[Conversation],
    *,
    tools: Sequence[Mapping[str, object]] | None,
    reply: bool,
    is_open: bool,
    thinking: object,
) -> tuple[list[Written], bool]:
    """One or several conversations, and whether it was several.

    reply: end where the model is to answer. is_open: leave the last turn without its end.
    """
    if not template.is_chat:
        raise ValueError(
            "this generation has no chat format; give it text, with [gMASK] where it is to write"
        )
    if not conversation:
        raise ValueError("the conversation is empty; give at least one message")
    if reply and is_open:
        raise ValueError(
            "continue_final_message and add_generation_prompt exclude each other; give one of them"
        )
    first = conversation[0]
    is_batch = not isinstance(first, Mapping)
    chats = conversation if is_batch else [conversation]
    return [write(template, chat, tools, reply, is_open, thinking) for chat in chats], is_batch  # type: ignore[arg-type]


def write(
    template: Template,
    chat: Conversation,
    tools: Sequence[Mapping[str, object]] | None,
    reply: bool,
    is_open: bool,
    thinking: object,
) -> Written:
    """One conversation; formats of rounds cannot end behind a question without asking for its
    answer, and so do.
    """
    messages = [Message.from_dict(message) for message in chat]
    has_rounds = "<|user|>" not in template.tokenizer.special
    asks = reply or (has_rounds and messages[-1].role != "assistant")
    wish = None if thinking is None else bool(thinking)
    rendered = template.render(messages, tools=tools, thinking=wish, reply=asks)
    text = template.text(messages, tools=tools, thinking=wish, reply=asks)
    tokens, is_reply = rendered.tokens, rendered.loss
    if is_open and tokens[-1] in template.end_ids:
        text = text.removesuffix(template.tokenizer.special_ids[tokens[-1]])
        tokens, is_reply = tokens[:-1], is_reply[:-1]
    return Written(text=text, tokens=tokens, is_reply=is_reply)


def encode_chats(
    tokenizer: PreTrainedTokenizer,
    chats: Sequence[Written],
    *,
    is_batch: bool,
    padding: bool | str,
    max_length: int | None,
    truncates: bool,
    return_tensors: str | None,
    marks_replies: bool,
) -> BatchEncoding:
    """Conversations as transformers' encoding; `assistant_masks` where replies are to be marked."""
    most = (max_length or tokenizer.model_max_length) if truncates else None
    kept = slice(-most, None) if most and tokenizer.truncation_side == "left" else slice(most)
    rows = [{"input_ids": chat.tokens[kept]} for chat in chats]
    encoded = tokenizer.pad(rows, padding=padding, max_length=max_length)
    if marks_replies:
        masks = []
        for chat, ids in zip(chats, encoded["input_ids"], strict=True):
            mask = [int(is_reply) for is_reply in chat.is_reply[kept]]
            room = [0] * (len(ids) - len(mask))
            masks.append(room + mask if tokenizer.padding_side == "left" else mask + room)
        encoded["assistant_masks"] = masks
    data = dict(encoded)
    if not is_batch and return_tensors is None:
        data = {key: value[0] for key, value in data.items()}
    return BatchEncoding(data, tensor_type=return_tensors)

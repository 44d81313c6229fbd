"""A record as training examples, in the chat format and with the loss mask of a generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from chatglm.data.example import NO_LOSS, Example
from chatglm.data.kinds import Record
from chatglm.messages import Message
from chatglm.prompt import Prompt, positions
from chatglm.tokenizer import Tokenizer
from chatglm.tokenizer.roles import RoleTemplate
from chatglm.tokenizer.template import Rendered, Template
from chatglm.tokenizer.thinking import MoeTemplate


def examples_of(record: Record, tokenizer: Tokenizer) -> list[Example]:
    """The examples of a text or conversation; a ValueError where nothing in it can be learnt.

    A format that learns the last reply only gives an example for every reply, each with all that
    stands before it.
    """
    if not record.messages:
        return [text_example(record.text, tokenizer)]
    return [
        example
        for rendered in conversations(record.messages, tokenizer, record.unlearnt)
        for example in [learnt_example(rendered, tokenizer.template)]
    ]


def pair_of(record: Record, tokenizer: Tokenizer) -> tuple[Example, Example]:
    """The chosen and the rejected way to go on, each learnt in its last part alone."""
    chosen, rejected = (
        last_example((*record.messages, *answer), tokenizer, since=len(record.messages))
        for answer in (record.chosen, record.rejected)
    )
    return chosen, rejected


def last_example(messages: Sequence[Message], tokenizer: Tokenizer, *, since: int) -> Example:
    """A conversation of which only the turns from number `since` on are learnt."""
    silent = frozenset(i for i in range(since) if messages[i].role == "assistant")
    return learnt_example(conversations(messages, tokenizer, silent)[-1], tokenizer.template)


def conversations(
    messages: Sequence[Message], tokenizer: Tokenizer, unlearnt: frozenset[int] = frozenset()
) -> list[Rendered]:
    """Ids and loss masks of a whole conversation in this model's format."""
    template = tokenizer.template
    check(messages, template)
    if not template.is_chat:
        return [continued(messages, tokenizer)]
    rendered = template.render(messages, reply=False)
    spoken = blocks(messages)
    runs = learnt_runs(rendered.loss)
    kept = [not all(i in unlearnt for i in block) for block in spoken]
    if any(0 < sum(i in unlearnt for i in block) < len(block) for block in spoken):
        raise ValueError("assistant turns in a row are learnt together or not at all")
    if not any(kept):
        raise ValueError("no assistant turn of it is learnt; see 'loss'")
    if len(runs) == len(spoken):
        loss = list(rendered.loss)
        for (start, stop), is_kept in zip(runs, kept, strict=True):
            if not is_kept:
                loss[start:stop] = [False] * (stop - start)
        return [Rendered(tokens=rendered.tokens, loss=loss)]
    return [
        template.render(messages[: block[-1] + 1], reply=False)
        for block, is_kept in zip(spoken, kept, strict=True)
        if is_kept
    ]


def check(messages: Sequence[Message], template: Template) -> None:
    """A ValueError where a conversation is none, or says what the format has no place for."""
    if not messages or messages[-1].role != "assistant":
        last = messages[-1].role if messages else "nothing"
        raise ValueError(f"it ends with {last}; an example ends with what the assistant says")
    for number, message in enumerate(messages, start=1):
        calls = bool(message.tool_calls)
        if message.role == "assistant" and not calls and not message.content.strip():
            raise ValueError(f"turn {number} is an assistant's and empty; nothing can be learnt")
        if (calls or message.tools) and not isinstance(template, RoleTemplate):
            raise ValueError(f"turn {number} has tools, and this model's chat format knows none")
        if calls and message.content.strip() and not isinstance(template, MoeTemplate):
            raise ValueError(
                f"turn {number} has words beside its tool call, and this model's chat format has "
                "no place for them"
            )


def blocks(messages: Sequence[Message]) -> list[list[int]]:
    """Indices of the assistant's turns; those in a row together."""
    by_role = groupby(range(len(messages)), key=lambda i: messages[i].role == "assistant")
    return [list(indices) for is_reply, indices in by_role if is_reply]


def learnt_runs(loss: Sequence[bool]) -> list[tuple[int, int]]:
    """Where the learnt stretches begin and end."""
    edges = np.flatnonzero(np.diff(np.array([False, *loss, False]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def continued(messages: Sequence[Message], tokenizer: Tokenizer) -> Rendered:
    """For a model without a chat format: the last turn as what follows all before it."""
    template = tokenizer.template
    prompt = template.continuation("\n".join(message.content for message in messages[:-1]))
    reply = [*tokenizer.encode(messages[-1].content), end_id(tokenizer)]
    return Rendered(
        tokens=[*prompt.tokens, *reply], loss=[False] * len(prompt.tokens) + [True] * len(reply)
    )


def text_example(text: str, tokenizer: Tokenizer) -> Example:
    """A document that is learnt whole, its end included; it may be cut into pieces."""
    if not text.strip():
        raise ValueError("the text is empty")
    prompt = tokenizer.template.continuation("")
    body = [*tokenizer.encode(text), end_id(tokenizer)]
    rendered = Rendered(
        tokens=[*prompt.tokens, *body], loss=[False] * len(prompt.tokens) + [True] * len(body)
    )
    example = learnt_example(rendered, tokenizer.template, prompt)
    return replace(example, may_be_cut=not prompt.prefix)


def end_id(tokenizer: Tokenizer) -> int:
    """The id that ends a text or the filling of a blank."""
    for name in ("<|endofpiece|>", "<|endoftext|>", "<eos>", "<eop>", "</s>"):
        if name in tokenizer.special:
            return tokenizer.special[name]
    raise ValueError("the tokenizer has no token that ends a text")


def learnt_example(rendered: Rendered, template: Template, prompt: Prompt | None = None) -> Example:
    """Ids with their loss mask as an example: each label is the next id where that is learnt."""
    tokens = np.array(rendered.tokens, np.int64)
    learnt: NDArray[np.bool_] = np.array(rendered.loss, bool)
    prompt = prompt or template.as_prompt(rendered.tokens)
    labels = np.append(np.where(learnt[1:], tokens[1:], NO_LOSS), NO_LOSS)
    planes = np.array(positions(prompt, len(tokens), 2), np.int64)
    return Example(tokens=tokens, labels=labels, positions=planes, prefix=prompt.prefix)

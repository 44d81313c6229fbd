"""ChatGLM: a model, its tokenizer and the engine, in the shape that people of this family know."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor

from chatglm import checkpoint
from chatglm.generation import batch
from chatglm.generation.history import (
    History,
    as_messages,
    checked,
    conversation,
    with_turn,
)
from chatglm.generation.language_model import LanguageModel
from chatglm.generation.options import Options
from chatglm.generation.reply import ReplyStream, TokenReply
from chatglm.generation.sampling import Sampling
from chatglm.generation.stop import TextStream
from chatglm.messages import Message
from chatglm.prompt import Prompt

if TYPE_CHECKING:
    from chatglm.generation.remote import RemoteChatGLM

__all__ = ["ChatGLM", "Options"]


class ChatGLM(LanguageModel):
    """A language model of the family, ready to be asked: text in, text out."""

    @staticmethod
    def from_pretrained(
        source: str | os.PathLike[str] | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        offline: bool | None = None,
        quantize: str | None = None,
        calibrate: str | os.PathLike[str] | None = None,
        adapter: str | os.PathLike[str] | None = None,
        base: str | os.PathLike[str] | None = None,
        max_num_seqs: int = 16,
        max_num_tokens: int | None = None,
        kv_dtype: str = "auto",
        draft: str | os.PathLike[str] | None = None,
    ) -> ChatGLM | RemoteChatGLM:
        """The model at `source`: None (the embedded one), a directory, a hub id, `openai/MODEL`.

        dtype: `auto` (as the file has it), `float32`, `bfloat16` or `float16`. device: `auto`,
        `cpu`, `cuda`, …. quantize: `int8`, `int4`, …, while loading. calibrate: a file of texts on
        which its rounding is made up for, or `general`. adapter: a LoRA adapter in PEFT's format;
        `source` may be one too, and names its base itself unless `base` is given. max_num_seqs:
        sequences that run at once. max_num_tokens: room for keys and values, which running
        sequences and the prefix cache share; None: so many full contexts, 4 GiB at most. kv_dtype:
        of keys and values, `auto` (the model's), `float32`, `bfloat16`, `float16` or `int8`. draft:
        a smaller model of the family whose guesses save steps where a request asks to speculate.
        """
        if source is not None and str(source).startswith("openai/"):
            from chatglm.generation.remote import RemoteChatGLM

            return RemoteChatGLM(str(source).removeprefix("openai/"))
        loaded = checkpoint.load(
            source,
            dtype=dtype,
            device=device,
            revision=revision,
            offline=offline,
            quantize=quantize,
            calibrate=calibrate,
            adapter=adapter,
            base=base,
        )
        small = None
        if draft is not None:
            small = checkpoint.load(
                draft, dtype=dtype, device=device, offline=offline, quantize=quantize
            )
        return ChatGLM(
            loaded,
            max_num_seqs=max_num_seqs,
            max_num_tokens=max_num_tokens,
            kv_dtype=kv_dtype,
            draft=small,
        )

    # Text in, text out

    def generate(self, text: str, *, system: str | None = None, **options: Unpack[Options]) -> str:
        """One reply in the model's own chat format; a continuation where the model has none."""
        return "".join(self.stream(text, system=system, **options))

    def stream(
        self, text: str, *, system: str | None = None, **options: Unpack[Options]
    ) -> ReplyStream:
        """`generate` in pieces, as they become certain; their concatenation is the whole reply."""
        if not self.tokenizer.template.is_chat:
            return self.stream_complete(text, **options)
        return self.stream_messages(conversation(text, None, system), **options)

    def complete(self, text: str, **options: Unpack[Options]) -> str:
        """What follows the text, without any chat format."""
        return "".join(self.stream_complete(text, **options))

    def stream_complete(self, text: str, **options: Unpack[Options]) -> ReplyStream:
        """`complete` in pieces."""
        return self.stream_prompt(self.continuation(text), self.sampling(options))

    def chat(
        self,
        query: str,
        history: History | None = None,
        *,
        system: str | None = None,
        **options: Unpack[Options],
    ) -> tuple[str, list[object]]:
        """A reply and the history with this turn added, in the form that the history came in.

        history: pairs (query, reply), as in ChatGLM-6B and 2, or messages, as in ChatGLM3 and
        later.
        """
        *_, last = self.stream_chat(query, history, system=system, **options)
        return last

    def stream_chat(
        self,
        query: str,
        history: History | None = None,
        *,
        system: str | None = None,
        **options: Unpack[Options],
    ) -> Iterator[tuple[str, list[object]]]:
        """The reply so far and the history with it, after every piece."""
        messages = conversation(query, history, system)
        reply = ""
        for piece in self.stream_messages(messages, **options):
            reply += piece
            yield self.turn(history, query, reply)
        if not reply:
            yield self.turn(history, query, reply)

    def turn(self, history: History | None, query: str, reply: str) -> tuple[str, list[object]]:
        """The reply as it is shown, and the history with it."""
        shown = self.tokenizer.template.polish(reply)
        return shown, with_turn(history, query, shown)

    def stream_messages(
        self, messages: Sequence[Message], **options: Unpack[Options]
    ) -> ReplyStream:
        """The reply to a conversation, in pieces."""
        prompt = self.tokenizer.template.prompt(messages)
        return self.stream_prompt(prompt, self.sampling(options), strips=True)

    def stream_prompt(
        self, prompt: Prompt, sampling: Sampling, *, strips: bool = False
    ) -> ReplyStream:
        """Text that follows a prompt, in pieces: the one path from tokens to text."""
        return TokenReply(
            self.engine,
            TextStream(self.tokenizer.stream(), sampling.stop, strips=strips),
            prompt,
            sampling,
        )

    def generate_many(
        self,
        texts: Sequence[str | Prompt],
        *,
        system: str | None = None,
        **options: Unpack[Options],
    ) -> list[str]:
        """`generate` of each text, all in one batch; a Prompt is taken as it is."""
        is_chat = self.tokenizer.template.is_chat
        prompts = []
        for text in texts:
            if isinstance(text, Prompt):
                prompts.append(text)
            elif is_chat:
                messages = conversation(text, None, system)
                prompts.append(self.tokenizer.template.prompt(messages))
            else:
                prompts.append(self.continuation(text))
        return self.reply_to(prompts, self.sampling(options), strips=is_chat)

    def chat_many(self, conversations: Sequence[History], **options: Unpack[Options]) -> list[str]:
        """The reply to each conversation, all in one batch; each is a list of messages that ends
        with the user's.
        """
        template = self.tokenizer.template
        prompts = [template.prompt(as_messages(messages)) for messages in conversations]
        replies = self.reply_to(prompts, self.sampling(options), strips=True)
        return [template.polish(reply) for reply in replies]

    def reply_to(self, prompts: Sequence[Prompt], sampling: Sampling, *, strips: bool) -> list[str]:
        """The text that follows each prompt, in their order."""
        texts = batch.replies(
            self.engine,
            prompts,
            sampling,
            lambda: TextStream(self.tokenizer.stream(), sampling.stop, strips=strips),
        )
        return [replies[0] for replies in texts]

    def fill(self, text: str, **options: Unpack[Options]) -> str:
        """The text with its blanks `[MASK]`, `[sMASK]` and `[gMASK]` filled, from left to right.

        What fills a blank is part of the context of the next.
        """
        template = self.tokenizer.template
        if template.first_blank(checked(text)) is None:
            raise ValueError(
                'the text has no blank; mark one by [MASK], [sMASK] or [gMASK], e.g. "今天[MASK]。"'
            )
        sampling = replace(self.sampling(options), stop_ids=template.blank_end_ids)
        while (blank := template.first_blank(text)) is not None:
            start, stop = blank
            span = "".join(self.stream_prompt(template.blank(text), sampling))
            text = text[:start] + span.strip("\n") + text[stop:]
        return text

    @torch.inference_mode()
    def embed(self, texts: str | Sequence[str]) -> Tensor:
        """Unit vectors (N, C) in float32, one a text: the mean of the last hidden states."""
        rows = []
        for text in [texts] if isinstance(texts, str) else texts:
            prompt = self.continuation(text)
            if len(prompt.tokens) > self.config.max_length:
                raise ValueError(
                    f"the text has {len(prompt.tokens)} tokens and the model's context holds "
                    f"{self.config.max_length}; embed it in parts"
                )
            hidden = self.hidden(prompt)
            rows.append(torch.nn.functional.normalize(hidden[0].float().mean(0), dim=0))
        if not rows:
            raise ValueError("texts is empty; give at least one text")
        return torch.stack(rows)

    def continuation(self, text: str) -> Prompt:
        """Text as a prompt that is simply continued."""
        return self.tokenizer.template.continuation(checked(text))

"""Formats without role tokens: GLM 2021's continuation, ChatGLM-6B's and ChatGLM2's rounds of
question and answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from chatglm.messages import Message
from chatglm.prompt import Prompt
from chatglm.tokenizer.template import PrefixTemplate, Segment, Template, special


def rounds(messages: Sequence[Message]) -> list[tuple[str, str | None]]:
    """Questions with their answers, for the formats that know nothing else; a system turn goes
    before the first.
    """
    pairs: list[tuple[str, str | None]] = []
    system = ""
    for message in messages:
        if message.role == "system":
            system += message.content + "\n\n"
        elif message.role == "assistant":
            if not pairs or pairs[-1][1] is not None:
                pairs.append(("", None))
            pairs[-1] = (pairs[-1][0], message.content)
        else:
            pairs.append((system + message.content, None))
            system = ""
    return pairs


class GLM2021Template(PrefixTemplate):
    """GLM (2021): no chat; `[CLS] text [gMASK] <eos> <sop>` is continued."""

    is_chat = False
    sop = "<|startofpiece|>"
    ends = ("<|endofpiece|>", "<|endoftext|>")
    blank_ends = ("<|endofpiece|>",)

    @property
    def before_text(self) -> list[int]:
        return self.ids_of(["[CLS]"]) if "[CLS]" in self.tokenizer.special else []

    @property
    def after_text(self) -> list[int]:
        ends = [name for name in ("<|endoftext|>", "[SEP]") if name in self.tokenizer.special]
        return self.ids_of(ends[:1])

    @property
    def document_mask(self) -> str:
        """The blank for what follows a text: `[MASK]` in BERT's and RoBERTa's vocabularies, which
        have no `[gMASK]`.
        """
        return self.gmask if self.gmask in self.tokenizer.special else "[MASK]"

    def segments(
        self, messages: Sequence[Message], *, thinking: bool | None, reply: bool
    ) -> Iterator[Segment]:
        if self.before_text:
            yield special("[CLS]")
        yield Segment("\n".join(message.content for message in messages))
        yield special(self.document_mask)
        for token in self.after_text:
            yield special(self.tokenizer.special_ids[token])
        yield special(self.sop)

    def continuation(self, text: str) -> Prompt:
        ids = [*self.tokenizer.encode(text), *self.ids_of([self.document_mask])]
        return self.as_prompt([*self.tokenizer.wrap(ids), *self.ids_of([self.sop])])

    def as_blank(self, text: str, tokens: list[int], start: list[int]) -> Prompt:
        return super().as_blank(text, self.tokenizer.wrap(tokens), start)


class ChatGLMTemplate(PrefixTemplate):
    """ChatGLM-6B: `[Round N]`, 问 and 答 as text, then `[gMASK] <sop>`."""

    ends = ("<eop>",)

    @property
    def before_text(self) -> list[int]:
        return []

    @property
    def after_text(self) -> list[int]:
        return self.ids_of([self.gmask, self.sop])

    def segments(
        self, messages: Sequence[Message], *, thinking: bool | None, reply: bool
    ) -> Iterator[Segment]:
        pairs = rounds(messages)
        if not reply and pairs and pairs[-1][1] is None:
            raise ValueError("a whole conversation ends with an assistant turn")
        *past, (query, answer) = pairs
        text = "".join(
            f"[Round {i}]\n问：{question}\n答：{told}\n" for i, (question, told) in enumerate(past)
        )
        yield Segment(f"{text}[Round {len(past)}]\n问：{query}\n答：" if past else query)
        yield special(self.gmask)
        yield special(self.sop)
        if not reply:
            yield Segment(answer or "", is_learnt=True)
            yield special("<eop>", learnt=True)

    def encode_part(self, text: str, *, first: bool) -> list[int]:
        if not text:
            return []
        return self.tokenizer.encode_stretch(text, starts=first, ends=True)

    def polish(self, text: str) -> str:
        """Strip, name the time of training, and give Chinese its full-width marks, as the official
        code does.
        """
        text = text.strip().replace("[[训练时间]]", "2023年")
        return widen(text)


_WIDE = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}


def widen(text: str) -> str:
    """Half-width marks beside a Chinese character made full-width."""
    for mark, wide in _WIDE.items():
        text = re.sub(rf"([\u4e00-\u9fff]){re.escape(mark)}", rf"\1{wide}", text)
        text = re.sub(rf"{re.escape(mark)}([\u4e00-\u9fff])", rf"{wide}\1", text)
    return text


class ChatGLM2Template(Template):
    """ChatGLM2: `[Round N]` from 1 with blank lines, after `[gMASK] sop`."""

    sop = "sop"
    ends = ("<eos>",)
    blank_ends = ("eop",)

    def segments(
        self, messages: Sequence[Message], *, thinking: bool | None, reply: bool
    ) -> Iterator[Segment]:
        pairs = rounds(messages)
        *past, (query, answer) = pairs
        text = "".join(
            f"[Round {i}]\n\n问：{question}\n\n答：{told}\n\n"
            for i, (question, told) in enumerate(past, start=1)
        )
        yield special(self.gmask)
        yield special(self.sop)
        yield Segment(f"{text}[Round {len(pairs)}]\n\n问：{query}\n\n答：")
        if not reply:
            yield Segment(answer or "", is_learnt=True)
            yield special("<eos>", learnt=True)

    def polish(self, text: str) -> str:
        return text.strip().replace("[[训练时间]]", "2023年")

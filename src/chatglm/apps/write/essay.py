"""A prose text of a length: an outline where it is long, then section after section."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from chatglm.apps.text import has_letters
from chatglm.apps.text_model import Options, Question, TextModel
from chatglm.apps.write.forms import Form
from chatglm.apps.write.prose import bounds, joined, kept_length

Progress = Callable[[int, int], None]
LONG = 800
MAX_LENGTH = 50_000
TEMPERATURE = 0.8
GRAM = 4
NUM_TRIES = 4
_TITLE = re.compile(r"\s*《[^》]*》\s*")
_FIELD = re.compile(r"\{(\w+)\}")
_BULLET = re.compile(r"^\s*(?:[-*+•]|\d+[.)、]|[（(]?[一二三四五六七八九十]+[)）、.])\s*")


class Essay:
    """Writes one text.

    length: characters (None: the form's own), the frame's among them; kept within a tenth.
    """

    def __init__(
        self,
        model: TextModel,
        form: Form,
        topic: str,
        length: int | None = None,
        seed: int | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.form, self.topic, self.seed = model, form, topic, seed
        self.fields = {**(form.defaults or {}), **(fields or {})}
        if unknown := sorted(self.fields.keys() - (form.defaults or {}).keys()):
            raise ValueError(
                f"{form.name} has no field {unknown[0]!r}; "
                f"it has {', '.join(form.defaults or ()) or 'none'}"
            )
        whole = form.length if length is None else length
        around = len(self.framed(""))
        if not 20 + around <= whole <= MAX_LENGTH:
            raise ValueError(
                f"length must lie between {20 + around} and {MAX_LENGTH} characters, got {whole}"
            )
        self.length = whole - around
        self.notes: list[str] = []

    @property
    def is_long(self) -> bool:
        """Whether it is better written by sections."""
        return self.length > LONG

    def outline(self) -> tuple[str, ...]:
        """What the sections are about: the model's own plan, or the form's parts."""
        if not self.model.follows:
            return self.form.parts
        count = max(3, min(12, round(self.length / 400)))
        prompt = (
            f"要写一篇{self.form.title}，题目是“{self.topic}”，约{self.length}字。"
            f"请列出提纲，共{count}条，每条一行，每条不超过30字，只输出提纲。"
        )
        reply = self.model.ask(Question(prompt=prompt, options=self.options(600, 0)))
        lines = [_BULLET.sub("", line).strip() for line in reply.splitlines()]
        return tuple(line for line in lines if has_letters(line))[:count] or self.form.parts

    def write(self, sections: Sequence[str], on_progress: Progress | None = None) -> str:
        """The text without its frame."""
        if not sections:
            text = self.of_length(self.request(self.length), self.length, "")
        else:
            parts: list[str] = []
            for i, section in enumerate(sections):
                written = joined(parts)
                share = (self.length - len(written)) // (len(sections) - i)
                part = self.of_length(
                    self.section_request(section, sections, written, share), share, written
                )
                parts.append(part)
                if on_progress is not None:
                    on_progress(i + 1, len(sections))
            text = joined(parts)
        return kept_length(text, self.length)

    def request(self, length: int) -> str:
        """The request for the whole text."""
        wording = self.form.general if self.model.follows else self.form.tuned or self.form.general
        return filled(wording, {"topic": self.topic, "length": str(length)})

    def section_request(
        self, section: str, sections: Sequence[str], written: str, length: int
    ) -> str:
        """The request for a section."""
        if not self.model.follows:
            return self.onward(written) if written else self.request(length)
        plan = "\n".join(f"{i}. {s}" for i, s in enumerate(sections, 1))
        before = f"前文结尾：\n{written[-600:]}\n\n" if written else ""
        return (
            f"正在写一篇{self.form.title}，题目是“{self.topic}”。提纲：\n{plan}\n\n{before}"
            f"请写“{section}”这一部分，约{length}字，与前文衔接，不重复前文，不写小标题，只输出正文。"
        )

    def onward(self, text: str) -> str:
        """The request to go on."""
        if self.model.follows:
            return f"接着下面的文字往下写，不重复已有内容，只输出续写的部分。\n\n{text[-1500:]}"
        room = 300 if self.model.context <= 1024 else 1500
        return filled(self.form.onward or "请续写下面的故事：\n{text}", {"text": text[-room:]})

    def go_on(self, text: str, length: int) -> str:
        """What follows a text."""
        return kept_length(self.of_length(self.onward(text), length, text), length)

    def of_length(self, prompt: str, length: int, before: str) -> str:
        """A reply of at least nine tenths of the length: where it is short, the model goes on."""
        low, high = bounds(length)
        text = ""
        for attempt in range(NUM_TRIES):
            left = length - len(text)
            reply = self.model.ask(
                Question(prompt=prompt, options=self.options(left, attempt, low - len(text)))
            )
            reply = self.plain(reply)
            text = joined((text, reply)) if text else reply
            if len(text) >= low:
                break
            prompt = self.onward(before + text)
        else:
            self.notes.append(f"the model stopped at {len(text)} of {length} characters")
        return kept_length(text, length) if len(text) > high else text

    def plain(self, reply: str) -> str:
        """A reply without the title that the frame has already."""
        lines = reply.strip().splitlines()
        while len(lines) > 1 and (
            lines[0].strip("#*《》“” 　：:") in (self.topic, "") or _TITLE.fullmatch(lines[0])
        ):
            lines.pop(0)
        return "\n".join(line for line in lines if line.strip())

    def options(self, length: int, attempt: int, low: int = 0) -> Options:
        """Settings of a reply of a length; a local model is held to it while it decodes."""
        room = max(16, min(2 * length + 64, self.model.context // 2))
        options: Options = {"temperature": TEMPERATURE, "top_p": 0.9, "max_new_tokens": room}
        if self.seed is not None:
            options["seed"] = self.seed + attempt
        local = self.model.local
        if local is not None and low > 0:
            from chatglm.apps.write.prose import LengthKeeper

            ends = local.loaded.defaults.end_ids or local.tokenizer.end_ids
            gram = 0 if self.model.follows else GRAM
            high = bounds(length)[1]
            options["processor"] = LengthKeeper(local.tokenizer, ends, low, high, gram)
        return options

    def framed(self, body: str) -> str:
        """The body in the form's frame."""
        values = {**self.fields, "topic": self.topic, "body": body}
        return filled(self.form.frame, values).strip("\n")


def filled(wording: str, values: Mapping[str, str]) -> str:
    """A wording with its fields; braces of the values stay."""
    return _FIELD.sub(lambda m: values.get(m[1], m[0]), wording)

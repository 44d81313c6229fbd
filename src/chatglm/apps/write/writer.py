"""Writing in a form: verses by constrained decoding, prose by sections, and work on drafts."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from chatglm.apps.text import has_letters, num_han
from chatglm.apps.text_file import InvalidText
from chatglm.apps.text_model import Options, Question, Streams, TextModel
from chatglm.apps.write import drafts
from chatglm.apps.write.essay import Essay
from chatglm.apps.write.forms import Form, all_forms, find_form
from chatglm.apps.write.layout import Layout, faults, lower_line, poem

Progress = Callable[[int, int], None]
TEMPERATURE = 0.8
ATTEMPTS = 3
MAX_UPPER = 40
ENDS = "，。；,; "


@dataclass(frozen=True, kw_only=True)
class Written:
    """A text in its form.

    outline: the sections of prose. notes: what had to be repaired.
    """

    text: str
    form: str
    outline: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Writer:
    """Writes in the forms of TOML files, and works on drafts.

    model: a `ChatGLM`, a remote model, or None for the embedded one. forms: a folder of the user's
    own forms (None: `$CHATGLM_HOME/forms`).
    """

    def __init__(self, model: Streams | None = None, *, forms: Path | None = None) -> None:
        self.model = TextModel(model)
        self.forms = all_forms(forms)

    def write(
        self,
        form: str,
        topic: str,
        *,
        length: int | None = None,
        outline: bool | None = None,
        seed: int | None = None,
        fields: Mapping[str, str] | None = None,
        on_progress: Progress | None = None,
    ) -> Written:
        """A text in a form about a topic; of a couplet, the topic is the upper line.

        length: characters of prose. outline: sections first (None: where it is long). fields: of
        the form's frame, such as `to` of an e-mail.
        """
        kind = find_form(form, self.forms)
        topic = " ".join(topic.split())
        if not has_letters(topic):
            raise InvalidText("the topic is empty; say what to write about")
        if kind.kind == "rewrite":
            raise ValueError(f"{kind.name} is a tone; use rewrite(text, tone={kind.name!r})")
        if kind.kind != "prose" and length is not None:
            raise ValueError(f"the length of a {kind.name} is part of its form; leave length out")
        if kind.kind == "verse":
            return self.verse(kind, topic, seed)
        if kind.kind == "couplet":
            return self.couplet(kind, topic, seed)
        essay = Essay(self.model, kind, topic, length, seed, fields)
        return self.prose(essay, outline, on_progress)

    def stream(
        self,
        form: str,
        topic: str,
        *,
        length: int | None = None,
        outline: bool | None = None,
        seed: int | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Iterator[str]:
        """`write` in pieces that are final: lines of a verse, sections of prose."""
        done = self.write(form, topic, length=length, outline=outline, seed=seed, fields=fields)
        yield from done.text.splitlines(keepends=True)

    # Verse

    def verse(self, form: Form, topic: str, seed: int | None) -> Written:
        """A poem in one of the form's patterns."""
        choice = random.Random(seed)
        lines = choice.choice(form.patterns)
        title = re.sub(r"[《》\n]", "", topic)[:30]
        layout = poem(lines, form.heading.format(topic=title))
        text, notes = self.in_layout(self.request(form, title), layout, seed)
        return Written(text=text, form=form.name, notes=notes)

    def couplet(self, form: Form, upper: str, seed: int | None) -> Written:
        """The lower line to an upper one."""
        upper = upper.rstrip(ENDS)
        if not 1 <= num_han(upper) <= MAX_UPPER:
            raise InvalidText(
                f"the upper line must have 1 to {MAX_UPPER} Chinese characters, got {upper!r}"
            )
        if re.search(r"[A-Za-z0-9]", upper):
            raise InvalidText(f"the upper line must be Chinese, got {upper!r}")
        layout = lower_line(upper)
        text, notes = self.in_layout(self.request(form, upper), layout, seed)
        return Written(text=text, form=form.name, notes=notes)

    def faults(self, form: str, topic: str, text: str) -> list[str]:
        """What of a verse or couplet is not in its form; empty where one of the patterns fits."""
        kind = find_form(form, self.forms)
        if kind.kind == "couplet":
            return faults(text.strip(), lower_line(topic.rstrip(ENDS)))
        if kind.kind != "verse":
            raise ValueError(f"a {kind.name} has no layout to check")
        layouts = [poem(lines, kind.heading.format(topic=topic)) for lines in kind.patterns]
        return min((faults(text.strip(), layout) for layout in layouts), key=len)

    def unconstrained(self, form: str, topic: str, *, seed: int | None = None) -> str:
        """What the model writes when it is only asked for a verse, for comparison."""
        kind = find_form(form, self.forms)
        options: Options = {"temperature": TEMPERATURE, "max_new_tokens": 256}
        if seed is not None:
            options["seed"] = seed
        return self.model.ask(Question(prompt=self.request(kind, topic), options=options))

    def request(self, form: Form, topic: str) -> str:
        """The request for a verse in the words that the model knows."""
        wording = form.general if self.model.follows else form.tuned or form.general
        return wording.format(topic=topic)

    def in_layout(
        self, prompt: str, layout: Layout, seed: int | None
    ) -> tuple[str, tuple[str, ...]]:
        """A text in a layout, and what had to be repaired.

        A model whose tokens are here is held to it while it decodes. A remote one is asked up to
        three times; what is still wrong is written again by the embedded model.
        """
        if self.model.local is not None:
            return self.constrained(self.model, prompt, layout, seed), ()
        tries: list[str] = []
        for attempt in range(ATTEMPTS):
            options: Options = {"temperature": TEMPERATURE}
            if seed is not None:
                options["seed"] = seed + attempt
            text = self.model.ask(Question(prompt=prompt, options=options))
            if not (wrong := faults(text, layout)):
                return text, ()
            tries.append(text)
            prompt += f"\n上次写的是：\n{text}\n有误：{'；'.join(wrong[:4])}。请改正，只输出全文。"
        best = drafts.forced(tries, layout)
        text = self.constrained(TextModel(None), prompt, best, seed)
        return text, ("lines that were not in the form were written by the embedded model",)

    def constrained(self, model: TextModel, prompt: str, layout: Layout, seed: int | None) -> str:
        """A text that a local model decodes within a layout."""
        from chatglm.apps.write.constraint import Constraint, alphabet

        local = model.local
        assert local is not None
        ends = local.loaded.defaults.end_ids or local.tokenizer.end_ids
        size = len(layout.render("字" * len(layout.slots)).encode())
        options: Options = {
            "temperature": TEMPERATURE,
            "top_p": 0.9,
            "repetition_penalty": 1.0,
            "max_new_tokens": size + 8,
            "processor": Constraint(layout, alphabet(local.tokenizer), ends),
        }
        if seed is not None:
            options["seed"] = seed
        return model.ask(Question(prompt=prompt, options=options))

    # Prose

    def prose(
        self,
        essay: Essay,
        outline: bool | None,
        on_progress: Progress | None,
    ) -> Written:
        """A text of its length, by sections where it is long, in the form's frame."""
        sections = essay.outline() if essay.is_long or outline else ()
        if outline is False:
            sections = ()
        body = essay.write(sections, on_progress)
        return Written(
            text=essay.framed(body),
            form=essay.form.name,
            outline=sections,
            notes=tuple(essay.notes),
        )

    def outline(
        self, form: str, topic: str, *, length: int | None = None, seed: int | None = None
    ) -> tuple[str, ...]:
        """The sections that a text would have."""
        kind = find_form(form, self.forms)
        if kind.kind != "prose":
            raise ValueError(f"a {kind.name} has no outline; it has lines")
        return Essay(self.model, kind, topic, length, seed).outline()

    # Drafts

    def go_on(self, text: str, *, length: int = 200, seed: int | None = None) -> str:
        """What follows a text, about `length` characters of it."""
        if not has_letters(text):
            raise InvalidText("there is nothing to go on from; give the beginning of a text")
        form = find_form("story", self.forms)
        return Essay(self.model, form, text[:30], length, seed).go_on(text, length)

    def rewrite(self, text: str, tone: str, *, seed: int | None = None) -> Written:
        """The text in another tone; a sentence whose rewriting lost something stays as it was."""
        form = find_form(tone, self.forms)
        if form.kind != "rewrite":
            tones = [f.name for f in self.forms.values() if f.kind == "rewrite"]
            raise ValueError(f"{tone!r} is no tone; there are {', '.join(tones)}")
        if not has_letters(text):
            raise InvalidText("there is nothing to rewrite; give a text")
        done, notes = drafts.rewrite(self.model, form, text, seed)
        return Written(text=done, form=form.name, notes=notes)

    def fill(self, draft: str, *, seed: int | None = None) -> str:
        """The draft with its blanks filled: `[MASK]` and its kind, `____`, `（  ）`."""
        return drafts.fill(self.model, draft, seed)

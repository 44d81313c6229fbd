"""Summaries of texts of any length: the sentences that say most, or a model's own words."""

from __future__ import annotations

from collections.abc import Sequence

from chatglm.apps.summarize.abstract import Progress, Wording
from chatglm.apps.summarize.extract import extract
from chatglm.apps.summarize.prompts import Form
from chatglm.apps.summarize.task import MODES, Mode, Summary, make_task, one_of
from chatglm.apps.text_model import Streams, TextModel


class Summarizer:
    """Sums up texts, Chinese and English.

    model: a `ChatGLM`, a remote model, or None for the embedded one, which is only opened in
    abstractive mode. mode: `extractive` takes sentences as they stand, `abstractive` lets the model
    word it and checks what it says, `auto` is abstractive where the model follows instructions.
    """

    def __init__(self, model: Streams | None = None, *, mode: Mode = "auto") -> None:
        self.model = TextModel(model)
        self.mode = one_of(mode, MODES, "mode")

    def summarize(
        self,
        text: str,
        *,
        form: Form = "paragraph",
        length: int | None = None,
        points: int = 5,
        mode: Mode | None = None,
        seed: int | None = None,
        on_progress: Progress | None = None,
    ) -> Summary:
        """The summary of a text.

        form: `headline`, `paragraph` or `points`. length: most characters (None: by the text).
        points: most bullet points. on_progress: hears (sections read, sections).
        """
        return self.summarize_many(
            [text],
            form=form,
            length=length,
            points=points,
            mode=mode,
            seed=seed,
            on_progress=on_progress,
        )[0]

    def summarize_many(
        self,
        texts: Sequence[str],
        *,
        form: Form = "paragraph",
        length: int | None = None,
        points: int = 5,
        mode: Mode | None = None,
        seed: int | None = None,
        on_progress: Progress | None = None,
    ) -> list[Summary]:
        """The summary of each text; a model reads all of them as one batch."""
        tasks = [make_task(text, form, length, points, seed) for text in texts]
        if self.chosen(mode) == "extractive":
            done = []
            for i, task in enumerate(tasks):
                done.append(extract(task))
                if on_progress is not None:
                    on_progress(i + 1, len(tasks))
            return done
        return Wording(self.model).word(tasks, on_progress)

    def chosen(self, mode: Mode | None) -> Mode:
        """`extractive` or `abstractive`."""
        mode = self.mode if mode is None else one_of(mode, MODES, "mode")
        if mode == "auto":
            return "abstractive" if self.model.follows else "extractive"
        return mode

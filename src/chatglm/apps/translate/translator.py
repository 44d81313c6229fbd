"""Translations of texts and documents, Chinese, English and classical Chinese."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chatglm.apps.text import characters
from chatglm.apps.text_file import InvalidText, TextFile, read_text, write_text
from chatglm.apps.text_model import Streams, TextModel
from chatglm.apps.translate.direction import Direction, direction
from chatglm.apps.translate.formats import damaged, format_of, reading
from chatglm.apps.translate.glossary import Glossary
from chatglm.apps.translate.journal import Journal
from chatglm.apps.translate.memory import Memory
from chatglm.apps.translate.pipeline import Pipeline
from chatglm.apps.translate.unit import Origin, Result, Unit

WINDOW = 64
"""Units that are translated together; after each window they are in the memory too."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A translated document.

    origins: how many segments came from where. notes: (line, remark) of what had to be repaired.
    """

    text: str
    direction: Direction
    format: str
    origins: Mapping[Origin, int]
    notes: tuple[tuple[int, str], ...] = ()

    @property
    def num_untranslated(self) -> int:
        """Segments that stayed in the source language because nothing acceptable came."""
        return self.origins.get("source", 0)


class Translator:
    """Translates by a model, with what must stay checked and repaired.

    model: a `ChatGLM`, a remote model, or None for the embedded one. glossary: terms with the one
    translation that each may have. memory: where translations are kept and found again.
    """

    def __init__(
        self,
        model: Streams | None = None,
        *,
        glossary: Glossary | Mapping[str, str] | None = None,
        memory: Memory | None = None,
        fuzzy: float = 0.9,
    ) -> None:
        if not 0.5 <= fuzzy <= 1:
            raise ValueError(f"fuzzy must lie between 0.5 and 1, got {fuzzy}; use 1 for exact only")
        self.model = TextModel(model)
        self.glossary = glossary if isinstance(glossary, Glossary) else Glossary(glossary or {})
        self.memory = memory
        self.fuzzy = fuzzy

    def translate(self, text: str, *, source: str | None = None, target: str | None = None) -> str:
        """The translation of a text; the direction is recognized where it is not given."""
        return self.translate_document(text, "text", source=source, target=target).text

    def translate_many(
        self, texts: Sequence[str], *, source: str | None = None, target: str | None = None
    ) -> list[str]:
        """The translation of each text, all in one batch; each has its own direction."""
        pairs = [direction(text, source, target) for text in texts]
        done: dict[int, str] = {}
        for pair in dict.fromkeys(pairs):
            rows = [i for i, p in enumerate(pairs) if p == pair]
            documents = [reading("text").parse(texts[i], "the text") for i in rows]
            units = [s.unit for document in documents for s in document.segments]
            results = iter(self.pipeline(pair).run(units))
            for i, document in zip(rows, documents, strict=True):
                done[i] = document.render([next(results).text for _ in document.segments])
        return [done[i] for i in range(len(texts))]

    def stream(
        self, text: str, *, source: str | None = None, target: str | None = None
    ) -> Iterator[str]:
        """The translation of a text in pieces, paragraph by paragraph."""
        pair = direction(text, source, target)
        document = reading("text").parse(checked(text), "the text")
        pipeline = self.pipeline(pair)
        for piece in document.pieces:
            if isinstance(piece, str):
                yield piece
            else:
                yield pipeline.run([piece.unit])[0].text

    def translate_document(
        self,
        text: str,
        format: str = "text",
        *,
        source: str | None = None,
        target: str | None = None,
        name: str = "the text",
        on_progress: Progress | None = None,
        journal: Journal | None = None,
    ) -> Translation:
        """The translation of a document that keeps its structure.

        format: `text`, `markdown`, `srt`, `vtt`, `json` or `po`. on_progress: hears (segments
        done, segments). journal: where finished segments are written down and found again.
        """
        how = reading(format)
        document = how.parse(checked(text), name)
        segments = document.segments
        words = "\n".join(segment.unit.text for segment in segments[:400])
        pair = direction(words or text, source, target)
        results = self.results([s.unit for s in segments], pair, on_progress, journal)
        texts = [result.text for result in results]
        notes = [
            (segment.line, note)
            for segment, result in zip(segments, results, strict=True)
            for note in result.notes
        ]
        for i in damaged(how, document, texts):
            notes.append((segments[i].line, "not translated: it would break the structure"))
            texts[i] = segments[i].unit.text
            results[i] = Result(text=texts[i], origin="source")
        return Translation(
            text=document.render(texts),
            direction=pair,
            format=format,
            origins=Counter(result.origin for result in results),
            notes=tuple(sorted(notes)),
        )

    def translate_file(
        self,
        path: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        format: str | None = None,
        source: str | None = None,
        target: str | None = None,
        on_progress: Progress | None = None,
    ) -> Translation:
        """Translate a file into another, which appears whole at the end.

        What is finished is kept in `OUTPUT.journal` until then: after a kill the same call goes on
        where it was.
        """
        file = read_text(path)
        goal = Path(output)
        if goal.exists() and goal.resolve() == Path(path).resolve():
            raise ValueError(f"{path} would be overwritten; give another output")
        format = format or format_of(os.fspath(path), file.text)
        journal = Journal(goal, self.work(file, format, source, target))
        finished = False
        try:
            done = self.translate_document(
                file.text,
                format,
                source=source,
                target=target,
                name=file.name,
                on_progress=on_progress,
                journal=journal,
            )
            write_text(goal, done.text, file.newline)
            finished = True
        finally:
            journal.close(finished=finished)
        return done

    def work(
        self, file: TextFile, format: str, source: str | None, target: str | None
    ) -> dict[str, object]:
        """All that a translation depends on; a journal of other work is not used."""
        return {
            "text": file.text,
            "format": format,
            "source": source,
            "target": target,
            "model": self.model.name,
            "glossary": self.glossary.pairs,
        }

    def results(
        self,
        units: Sequence[Unit],
        pair: Direction,
        on_progress: Progress | None,
        journal: Journal | None,
    ) -> list[Result]:
        """A result for each unit; those in the journal are taken from it."""
        known = {} if journal is None else journal.done
        done: dict[Unit, Result] = {u: known[u.text] for u in units if u.text in known}
        left = [unit for unit in dict.fromkeys(units) if unit not in done]
        times = Counter(units)
        count = sum(times[unit] for unit in done)
        pipeline = self.pipeline(pair)

        def settle(unit: Unit, result: Result) -> None:
            nonlocal count
            done[unit] = result
            count += times[unit]
            if journal is not None:
                journal.add(unit.text, result)
            if on_progress is not None:
                on_progress(count, len(units))

        for window in windows(left):
            pipeline.run(window, settle)
        return [done[unit] for unit in units]

    def pipeline(self, pair: Direction) -> Pipeline:
        """What translates units in a direction."""
        return Pipeline(
            model=self.model,
            direction=pair,
            glossary=self.glossary,
            memory=self.memory,
            maker=self.model.name,
            fuzzy=self.fuzzy,
        )

    def remember(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        source: str | None = None,
        target: str | None = None,
    ) -> None:
        """Put translations made by people into the memory; they come before any model's."""
        from chatglm.apps.translate.memory import HUMAN

        if self.memory is None:
            raise ValueError("there is no memory to put them in; give memory=Memory(path)")
        for a, b in pairs:
            pair = direction(a, source, target)
            self.memory.add([(a, b)], pair, HUMAN)
            with suppress(ValueError):  # a classical text has no way back
                self.memory.add([(b, a)], Direction(pair.target, pair.source), HUMAN)


def checked(text: str) -> str:
    """The text, if there is anything in it."""
    if not text.strip():
        raise InvalidText("the text is empty; give some text")
    return text


def windows(units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    """Units in groups; those of about one length stand together, so that a batch ends together."""
    for start in range(0, len(units), 4 * WINDOW):
        near = sorted(units[start : start + 4 * WINDOW], key=lambda u: characters(u.text))
        for at in range(0, len(near), WINDOW):
            yield near[at : at + WINDOW]

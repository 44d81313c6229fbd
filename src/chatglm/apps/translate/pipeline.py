"""Units through memory, model, checks and repairs; every result keeps what must stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from chatglm.apps.text import has_letters, num_han, sentences
from chatglm.apps.text_model import Options, Question, TextModel
from chatglm.apps.translate.direction import Direction
from chatglm.apps.translate.glossary import Glossary
from chatglm.apps.translate.kept import NUMBER, Kept, Part, clean, faults, parts, with_numbers
from chatglm.apps.translate.memory import Match, Memory
from chatglm.apps.translate.prompts import prompt
from chatglm.apps.translate.unit import Result, Unit
from chatglm.apps.translate.words import bare, edges, fitted, mask, tidy, touches, unmask

OnResult = Callable[[Unit, Result], None]
MAX_CHARACTERS = 300
"""Longer texts go sentence by sentence to a model that was tuned on sentences."""

MIN_SHARED = 0.2
"""Share of a text's characters that its wording in classical, or in modern, Chinese has too."""


@dataclass(kw_only=True)
class Pipeline:
    """Translates units in one direction.

    fuzzy: from which similarity (of 1) on a remembered translation is used again.
    """

    model: TextModel
    direction: Direction
    glossary: Glossary = field(default_factory=Glossary)
    memory: Memory | None = None
    maker: str = "model"
    fuzzy: float = 0.9

    def run(self, units: Sequence[Unit], on_result: OnResult | None = None) -> list[Result]:
        """A result for each unit; the same unit is translated once."""
        results: dict[Unit, Result] = {}

        def settle(unit: Unit, result: Result) -> None:
            results[unit] = result
            if on_result is not None:
                on_result(unit, result)

        open_: list[Unit] = []
        similar: dict[Unit, Match] = {}
        for unit in dict.fromkeys(units):
            known = self.known(unit)
            if isinstance(known, Result):
                settle(unit, known)
                continue
            if known is not None:
                similar[unit] = known
            open_.append(unit)
        self.apart(self.whole(open_, similar, settle), settle)
        if self.memory is not None:
            made = [(u.text, r.text) for u, r in results.items() if r.origin in ("model", "pieces")]
            self.memory.add(made, self.direction, self.maker)
        return [results[unit] for unit in units]

    # What is known already

    def known(self, unit: Unit) -> Result | Match | None:
        """A result without the model, or a similar translation to show it."""
        if not self.direction.has_source(bare(unit)):
            return Result(text=unit.text, origin="same")
        if self.memory is None:
            return None
        match = self.memory.exact(unit.text, self.direction, self.maker)
        if match is not None and not self.faults(unit, match.target):
            return Result(text=match.target, origin="memory")
        match = self.memory.fuzzy(unit.text, self.direction, self.maker, self.fuzzy)
        if match is None or self.model.follows or self.faults(unit, match.target):
            return match
        return Result(
            text=match.target,
            origin="fuzzy",
            notes=(f"{match.similarity:.0%} like: {match.source}",),
        )

    def faults(self, unit: Unit, target: str) -> list[str]:
        """What is wrong with a translation of a unit."""
        found = faults(unit.text, target, unit.style)
        found += self.glossary.faults(unit.text, target, self.direction)
        if len(target) > 8 * len(unit.text) + 60:
            found.append("it runs on")
        return found

    # The model, the text as a whole

    def whole(
        self, units: Sequence[Unit], similar: dict[Unit, Match], settle: OnResult
    ) -> dict[Unit, list[str]]:
        """Settle what the model translates well as a whole; the rest with what was wrong."""
        rest: dict[Unit, list[str]] = {}
        asked: list[Unit] = []
        for unit in units:
            if self.goes_whole(unit):
                asked.append(unit)
            else:
                rest[unit] = []
        masked = {unit: mask(self.parts(unit, numbers=False)) for unit in asked}
        again: list[Unit] = []

        def take(unit: Unit, reply: str, slots: Sequence[Kept], last: bool) -> None:
            target = fitted(unmask(tidy(reply, unit.text), slots), unit.text)
            reasons = self.faults(unit, target) + self.strangeness(unit.text, target)
            if not reasons:
                settle(unit, Result(text=target, origin="model"))
            elif last or not self.model.follows:
                rest[unit] = reasons
            else:
                again.append(unit)

        questions = [self.question(masked[u][0], u, similar.get(u)) for u in asked]
        self.model.ask_many(
            questions, lambda i, reply: take(asked[i], reply, masked[asked[i]][1], False)
        )
        strict = list(again)
        if strict:  # once more, with numbers and terms as marks too
            masked = {unit: mask(self.parts(unit, numbers=True)) for unit in strict}
            self.model.ask_many(
                [self.question(masked[u][0], u, None) for u in strict],
                lambda i, reply: take(strict[i], reply, masked[strict[i]][1], True),
            )
        return rest

    def goes_whole(self, unit: Unit) -> bool:
        """Whether the model can be given the unit in one piece."""
        if self.model.follows:
            return True
        has_slots = len(self.parts(unit, numbers=False)) > 1
        return not has_slots and len(unit.text) <= MAX_CHARACTERS and "\n" not in unit.text

    def parts(self, unit: Unit, *, numbers: bool) -> list[Part]:
        """Words and what stays; with numbers, numbers and terms stay too."""
        found = parts(unit.text, unit.style)
        if numbers:
            return with_numbers(self.glossary.mark(found, self.direction))
        return found if self.model.follows else self.glossary.mark(found, self.direction)

    def question(self, text: str, unit: Unit, match: Match | None) -> Question:
        """The request for a translation."""
        room = self.model.context // 2
        options: Options = {
            "temperature": 0.0,
            "max_new_tokens": min(room, 3 * self.model.num_tokens(text) + 48),
        }
        return Question(
            prompt=prompt(
                text,
                self.direction,
                follows=self.model.follows,
                terms=self.glossary.found(unit.text, self.direction),
                similar=None if match is None else (match.source, match.target),
            ),
            options=options,
        )

    # The model, piece by piece

    def apart(self, rest: dict[Unit, list[str]], settle: OnResult) -> None:
        """Settle units by translating the words between what must stay, all in one batch; where a
        number or a term was lost, these stay too.
        """
        runs: dict[str, str | None] = {}
        for has_numbers in (False, True):
            found = {
                unit: self.parts(unit, numbers=has_numbers or bool(reasons))
                for unit, reasons in rest.items()
            }
            words = {p for some in found.values() for p in some if isinstance(p, str)}
            runs |= self.translated(sorted(words - runs.keys()), is_last=has_numbers)
            for unit, reasons in list(rest.items()):
                if any(isinstance(p, str) and runs[p] is None for p in found[unit]):
                    continue
                target = self.put_together(found[unit], runs)
                wrong = self.faults(unit, target) or self.unchanged(unit, target)
                if not wrong:
                    result = Result(text=target, origin="pieces", notes=tuple(reasons))
                elif has_numbers:
                    result = Result(
                        text=unit.text, origin="source", notes=(f"not translated: {wrong[0]}",)
                    )
                else:
                    continue
                settle(unit, result)
                del rest[unit]

    def translated(self, runs: Sequence[str], *, is_last: bool) -> dict[str, str | None]:
        """Runs of words with their translations, sentence by sentence, all in one batch.

        None where a number was lost, and it can still be told to stay; else words that found no
        translation stay as they are.
        """
        pieces: dict[str, str | None] = {}
        for run in runs:
            for line in run.split("\n"):
                pieces |= {s: s for s in sentences(line) if self.direction.has_source(s)}
        questions = [self.question(key, Unit(key), None) for key in pieces]
        for key, reply in zip(list(pieces), self.model.ask_many(questions), strict=True):
            text = clean(tidy(reply, key), key).replace("\n", " ")
            wrong = faults(key, text, "plain") + self.strangeness(key, text)
            if not wrong:
                pieces[key] = text
            elif not is_last and NUMBER.search(key):
                pieces[key] = None
        return {run: self.rebuilt(run, pieces) for run in runs}

    def strangeness(self, source: str, target: str) -> list[str]:
        """Whether a text is in another language than the target, or about something else: a small
        model strays.
        """
        if not has_letters(target):
            return ["it has no words"]
        if self.model.follows:
            return []
        if (num_han(target) == 0) != (self.direction.target == "en"):
            return ["it is in another language"]
        if "en" not in (self.direction.source, self.direction.target):
            wanted = {c for c in source if num_han(c)}
            if len(wanted & set(target)) < MIN_SHARED * len(wanted):
                return ["it has hardly a word of the text"]
        return []

    def unchanged(self, unit: Unit, target: str) -> list[str]:
        """Whether nothing at all came of it."""
        return ["the model has no translation"] if target == unit.text else []

    def rebuilt(self, run: str, pieces: Mapping[str, str | None]) -> str | None:
        """A run with its sentences translated, and the blank space around it as it was."""
        space = " " if self.direction.target == "en" else ""
        lines = []
        for line in run.split("\n"):
            found = [pieces.get(s, s) for s in sentences(line)]
            texts = [text for text in found if text is not None]
            if len(texts) < len(found):
                return None
            lines.append(edges(line, space.join(texts)))
        return "\n".join(lines)

    def put_together(self, found: Sequence[Part], runs: Mapping[str, str | None]) -> str:
        """Words and what stays in their order; an English text gets blanks where words would
        touch.
        """
        target = ""
        before: Part = ""
        for part in found:
            text = part.shown if isinstance(part, Kept) else runs[part] or ""
            if self.direction.target == "en" and touches(target, text, before, part):
                target += " "
            target += text
            before = part
        return fitted(target, "".join(p.text if isinstance(p, Kept) else p for p in found))

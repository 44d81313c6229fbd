"""Work on texts that are there: rewriting, filling blanks, keeping the good lines of a verse."""

from __future__ import annotations

import re
from collections.abc import Sequence

from chatglm.apps.text import has_letters, sentences, terms
from chatglm.apps.text_file import InvalidText
from chatglm.apps.text_model import COPIED, Options, Question, TextModel
from chatglm.apps.write.forms import Form
from chatglm.apps.write.layout import Layout, Slot, faults

_BLANK = re.compile(r"\[(?:MASK|sMASK|gMASK)\]|_{3,}|（[ 　]*）|\([ 　]+\)|【[ 　]*】")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
MIN_KEPT = 0.3
"""Share of a sentence's terms that its rewriting must still have."""


def rewrite(
    model: TextModel, form: Form, text: str, seed: int | None
) -> tuple[str, tuple[str, ...]]:
    """The text rewritten, paragraph by paragraph (sentence by sentence by a small model), and how
    much of it had to stay as it was.
    """
    lines = text.splitlines(keepends=True)
    units = [sentences(line) if not model.follows else [line.strip()] for line in lines]
    flat = [u for found in units for u in found if has_letters(u)]
    wording = form.general if model.follows else form.tuned or form.general
    questions = []
    for i, unit in enumerate(flat):
        options: Options = {
            "speculate": COPIED,
            "temperature": 0.0 if seed is None else 0.7,
            "max_new_tokens": min(model.context // 2, 2 * model.num_tokens(unit) + 48),
        }
        if seed is not None:
            options["seed"] = seed + i
        questions.append(Question(prompt=wording.replace("{text}", unit), options=options))
    replies = dict(zip(flat, model.ask_many(questions), strict=True))
    stayed = [unit for unit, reply in replies.items() if not keeps(unit, reply)]
    done = []
    for line, found in zip(lines, units, strict=True):
        for unit in found:
            if unit in replies and unit not in stayed:
                line = line.replace(unit, replies[unit].replace("\n", " ").strip(), 1)
        done.append(line)
    notes: tuple[str, ...] = ()
    if stayed:
        notes = (
            f"{len(stayed)} of {len(replies)} parts stayed as they were: their rewriting lost "
            "numbers, names or sense",
        )
    return "".join(done), notes


def keeps(source: str, reply: str) -> bool:
    """Whether a rewriting has the numbers of its source, enough of its words, and its size."""
    if not has_letters(reply) or not 0.3 * len(source) <= len(reply) <= 3 * len(source) + 20:
        return False
    if sorted(_NUMBER.findall(source)) != sorted(_NUMBER.findall(reply)):
        return False
    wanted, have = terms(source), set(terms(reply))
    return sum(t in have for t in wanted) >= MIN_KEPT * len(wanted)


def fill(model: TextModel, draft: str, seed: int | None) -> str:
    """The draft with its blanks filled and everything else as it was."""
    if _BLANK.search(draft) is None:
        raise InvalidText(
            "the draft has no blank; mark one by [MASK], ____ or （ ）, "
            'e.g. "今天[MASK]，适合出门。"'
        )
    options: Options = {"temperature": 0.0 if seed is None else 0.7, "max_new_tokens": 64}
    if seed is not None:
        options["seed"] = seed
    local = model.local
    if local is not None and not local.tokenizer.template.blank_end_ids:
        local = None
    if local is not None:
        from chatglm.apps.write.prose import WordFirst

        options["processor"] = WordFirst(local.tokenizer)
        text = _BLANK.sub(lambda m: m[0] if m[0].startswith("[") else "[MASK]", draft)
        return local.fill(text, **options)
    return fill_by_asking(model, draft, options)


def fill_by_asking(model: TextModel, draft: str, options: Options) -> str:
    """The blanks filled one by one by a model that knows no blanks of its own."""
    while (blank := _BLANK.search(draft)) is not None:
        before, after = draft[: blank.start()], draft[blank.end() :]
        prompt = (
            "下面的文字有一处用⟦空⟧标出，请写出应填在那里的内容，使上下文通顺。"
            f"只输出填写的内容，不重复前后文。\n\n{before}⟦空⟧{_BLANK.sub('……', after)}"
        )
        reply = model.ask(Question(prompt=prompt, options=options)).strip("⟦⟧ \n")
        reply = _BLANK.sub("", reply) or "……"
        draft = before + reply + after
    return draft


def forced(tries: Sequence[str], layout: Layout) -> Layout:
    """The layout with the lines that the best try has right as fixed text."""
    best = min(tries, key=lambda text: len(faults(text, layout)))
    lines = [line for line in re.split(r"[，。！？；\n]", best) if line]
    if lines and lines[0].startswith("《"):
        lines = lines[1:]
    elements: list[str | Slot] = []
    runs = iter(lines)
    held: list[Slot] = []
    for element in (*layout.elements, ""):
        if isinstance(element, Slot):
            held.append(element)
            continue
        if held:
            line = next(runs, "")
            part = Layout(elements=tuple(held), banned=layout.banned)
            rhymes = any(slot.rhymes for slot in held)
            is_right = not rhymes and len(line) == len(held) and not faults(line, part)
            elements += [line] if is_right else held
            held = []
        if element:
            elements.append(element)
    fixed = {c for e in elements if isinstance(e, str) for c in e}
    return Layout(elements=tuple(elements), banned=layout.banned | frozenset(fixed))

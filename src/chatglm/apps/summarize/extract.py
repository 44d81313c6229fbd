"""The best sentences of a text as they stand, in the asked form and length."""

from __future__ import annotations

from collections.abc import Sequence

from chatglm.apps.summarize import checks
from chatglm.apps.summarize.genre import WEIGHTS, matter
from chatglm.apps.summarize.rank import Ranked, rank, select
from chatglm.apps.summarize.task import Summary, Task


def extract(task: Task) -> Summary:
    """The best sentences of a text as they stand, in the asked form."""
    source = matter(task.text) if task.kind == "dialogue" else task.text
    ranked = rank(source, WEIGHTS[task.kind])
    if task.form == "headline":
        best = max(ranked, key=lambda r: r.score)
        chosen, text = [best], checks.clipped_clauses(best.text, task.length)
    else:
        chosen = select(ranked, lambda some: fits(task, some))
        if not chosen:  # even the shortest sentence is too long
            chosen = [max(ranked, key=lambda r: r.score)]
        lines = [r.text for r in chosen]
        if task.form == "points":
            text = checks.as_points(lines, task.length)
        else:
            text = checks.joined(lines, task.lang)
            text = checks.clipped(text, task.length) if task.is_exact else text
    return Summary(
        text=text,
        form=task.form,
        mode="extractive",
        language=task.lang,
        genre=task.kind,
        sentences=tuple(r.text for r in chosen),
        notes=tuple(task.notes),
    )


def fits(task: Task, some: Sequence[Ranked]) -> bool:
    """Whether sentences keep within the length, and bullet points within their number.

    Where no length was given, one sentence always does.
    """
    if len(some) == 1 and not task.is_exact:
        return True
    lines = [r.text for r in sorted(some, key=lambda r: r.index)]
    if task.form == "points":
        return len(some) <= task.points and sum(len(x) + 3 for x in lines) <= task.length
    return len(checks.joined(lines, task.lang)) <= task.length

"""How well a base is searched: recall and mean reciprocal rank over questions with answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatglm.apps.knowledge.base import KnowledgeBase
from chatglm.apps.knowledge.certainty import bare
from chatglm.apps.knowledge.records import Chunk
from chatglm.apps.knowledge.search import Way

DEPTH = 50


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with the text that answers it; None where the base has no answer."""

    question: str
    answer: str | None


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Shares of questions whose answer is first, among three, among five; mean reciprocal rank."""

    at_1: float
    at_3: float
    at_5: float
    mrr: float
    num_questions: int


def read_questions(path: Path, base: str | None = None) -> list[Asked]:
    """Questions from lines {"question", "answer"}; of one base where lines name theirs in `kb`."""
    asked = []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            question, answer = record["question"], record.get("answer")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path} line {number}: expected {{"question": …, "answer": … or null}}'
            ) from error
        if base is None or record.get("kb") in (None, base):
            has_answer = record.get("answerable", True) and answer
            asked.append(Asked(question=question, answer=answer if has_answer else None))
    if not asked:
        raise ValueError(f"{path} has no question" + (f" for {base}" if base else ""))
    return asked


def answers(chunk: Chunk, wanted: str) -> bool:
    """Whether a chunk is what was wanted: the same text, or one that holds it."""
    return bare(wanted) in bare(chunk.text)


def rank_of(chunks: Sequence[Chunk], wanted: str) -> int | None:
    """The place, from 1, of the first chunk that answers."""
    return next((i for i, chunk in enumerate(chunks, start=1) if answers(chunk, wanted)), None)


def recall(ranks: Sequence[int | None]) -> Recall:
    """The shares over ranks from 1; None is not found."""
    count = max(len(ranks), 1)

    def within(limit: int) -> float:
        return sum(rank is not None and rank <= limit for rank in ranks) / count

    return Recall(
        at_1=within(1),
        at_3=within(3),
        at_5=within(5),
        mrr=sum(1 / rank for rank in ranks if rank is not None) / count,
        num_questions=len(ranks),
    )


def measured(base: KnowledgeBase, asked: Iterable[Asked], way: Way) -> list[int | None]:
    """The rank of each answerable question's answer."""
    ranks = []
    for one in asked:
        if one.answer is not None:
            hits = base.search(one.question, DEPTH, way=way)
            ranks.append(rank_of([hit.chunk for hit in hits], one.answer))
    return ranks

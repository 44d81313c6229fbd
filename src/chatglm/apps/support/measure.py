"""Customer service end to end: how many questions are answered right, wrong, or handed over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chatglm.apps.knowledge.certainty import bare
from chatglm.apps.knowledge.measure import Asked, answers
from chatglm.apps.support.reply import Reply
from chatglm.apps.support.service import CustomerService


@dataclass(kw_only=True)
class Outcome:
    """Counts over questions, each asked in a session of its own.

    right, wrong, handed_over: of questions that have an answer. suggested: of those handed over,
    where the entry meant is among the suggestions. answered_anyway, refused: of questions that have
    no answer. bad_citations: replies with a citation that does not stand in its source, or an
    answer without any.
    """

    right: int = 0
    wrong: int = 0
    handed_over: int = 0
    suggested: int = 0
    answered_anyway: int = 0
    refused: int = 0
    bad_citations: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(**{name: count + getattr(other, name) for name, count in vars(self).items()})


def tried(service: CustomerService, asked: Iterable[Asked]) -> Outcome:
    """What becomes of questions."""
    outcome = Outcome()
    for one in asked:
        reply = service.ask(one.question)
        if reply.action != "answer":
            outcome.handed_over += one.answer is not None
            outcome.suggested += one.answer is not None and is_suggested(service, reply, one.answer)
            outcome.refused += one.answer is None
            continue
        outcome.bad_citations += not is_cited(service, reply)
        if one.answer is None:
            outcome.answered_anyway += 1
        elif bare(one.answer) in bare(reply.text):
            outcome.right += 1
        else:
            outcome.wrong += 1
    return outcome


def is_suggested(service: CustomerService, reply: Reply, answer: str) -> bool:
    """Whether one of the suggested questions has the answer."""
    hits = service.base.search(reply.question)
    return any(
        hit.chunk.question in reply.suggestions and answers(hit.chunk, answer) for hit in hits
    )


def is_cited(service: CustomerService, reply: Reply) -> bool:
    """Whether every mark has a citation, and every quote stands in the chunk it names."""
    chunks = {c.id: c for c in service.base.store.chunks([x.chunk for x in reply.citations])}
    return bool(reply.citations) and all(
        f"[{citation.number}]" in reply.text
        and citation.chunk in chunks
        and citation.quote in chunks[citation.chunk].text
        and citation.source == chunks[citation.chunk].source
        for citation in reply.citations
    )

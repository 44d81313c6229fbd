"""What a customer is told, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chatglm.apps.knowledge.records import Chunk

Action = Literal["answer", "handover", "person", "talk", "refusal"]
Reason = Literal["asked", "topic", "unknown", "words"]


@dataclass(frozen=True, kw_only=True)
class Citation:
    """The source behind a mark `[number]`. quote: the chunk's own words that were used."""

    number: int
    title: str
    source: str
    place: str
    quote: str
    chunk: int

    @staticmethod
    def of(chunk: Chunk, quote: str, number: int = 1) -> Citation:
        """A citation of a chunk; the quote is part of its text."""
        if quote not in chunk.text:
            raise ValueError("a citation must quote the chunk that it cites")
        return Citation(
            number=number,
            title=chunk.title or chunk.source,
            source=chunk.source,
            place=chunk.place,
            quote=quote,
            chunk=chunk.id,
        )

    def to_dict(self) -> dict[str, object]:
        """As JSON says it."""
        return {
            "number": self.number,
            "title": self.title,
            "source": self.source,
            "place": self.place,
            "quote": self.quote,
            "chunk": self.chunk,
        }


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One reply.

    action: `answer` (from the base), `handover` (a person was called), `person` (a person has the
    talk; nothing was said), `talk` (a greeting), `refusal` (the words were not allowed).
    question: the question as it was understood, follow-ups made whole. certainty: of the best
    entry. suggestions: questions of the base that are close. turn: the number for 👍 and 👎.
    """

    text: str
    action: Action
    session: str
    turn: int
    question: str
    certainty: float = 0.0
    reason: Reason | None = None
    citations: tuple[Citation, ...] = ()
    suggestions: tuple[str, ...] = ()
    handover: int | None = None

    def to_dict(self) -> dict[str, object]:
        """As JSON says it."""
        return {
            "text": self.text,
            "action": self.action,
            "session": self.session,
            "turn": self.turn,
            "question": self.question,
            "certainty": round(self.certainty, 4),
            "reason": self.reason,
            "citations": [citation.to_dict() for citation in self.citations],
            "suggestions": list(self.suggestions),
            "handover": self.handover,
        }

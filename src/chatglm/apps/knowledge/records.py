"""What a knowledge base holds and finds, and the one interface that its stores have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["faq", "text"]


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A piece of a document before it has a number: one FAQ entry, or text under its headings.

    kind: `faq` (text is the answer to question and variants) or `text`. path: the headings above
    it, outermost first. place: where it stands, for people (`第 3 行`, `p. 2`).
    """

    kind: Kind
    text: str
    question: str = ""
    variants: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    place: str = ""
    tag: str = ""

    @property
    def questions(self) -> tuple[str, ...]:
        """All wordings of the question."""
        return (self.question, *self.variants) if self.question else ()

    @property
    def searchable(self) -> str:
        """Everything that a question may hit."""
        return "\n".join(filter(None, (*self.path, self.tag, *self.questions, self.text)))

    @property
    def title(self) -> str:
        """A line that names it: its question, else its innermost heading."""
        return self.question or (self.path[-1] if self.path else "")


@dataclass(frozen=True, kw_only=True)
class Chunk(Passage):
    """A passage in the store. source: the document's name; document: its number."""

    id: int
    document: int
    source: str
    position: int


@dataclass(frozen=True, kw_only=True)
class Document:
    """A source in the store. state: `adding` until all of it is there, then `ready`."""

    id: int
    source: str
    sha256: str
    state: Literal["adding", "ready"]
    num_chunks: int
    size: int
    added: str


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A chunk that was found. score: 0 to 1, whatever the way; ranks: its place by each way."""

    chunk: Chunk
    score: float
    ranks: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which chunks may be found; an empty part allows all."""

    sources: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()


EVERYTHING = Filter()
Scored = list[tuple[int, float]]
"""Chunk numbers with scores, best first."""


class Store(Protocol):
    """Where a knowledge base lives. Readers see documents that are `ready`, and nothing else."""

    location: str

    def setting(self, name: str) -> object:
        """A setting of the base; None where it was never set."""

    def set(self, name: str, value: object) -> None:
        """Keep a setting; anything that JSON can say."""

    def revision(self) -> int:
        """A number that grows whenever what readers see changes."""

    def begin(self, source: str, sha256: str, size: int) -> tuple[int, int]:
        """A document to add to and how many chunks it has already, where an earlier try ended."""

    def extend(
        self, document: int, start: int, passages: Sequence[Passage], vectors: np.ndarray | None
    ) -> None:
        """Add passages at positions from `start` on, with unit vectors (N, C) or without."""

    def publish(self, document: int) -> None:
        """Make a document ready in one step, in place of the source's earlier version."""

    def release(self, document: int) -> None:
        """Leave a document half done, for a later try to take over."""

    def tidy(self) -> int:
        """Forget what writers that are gone left half done; how many documents."""

    def remove(self, sources: Iterable[str]) -> int:
        """Forget documents; how many there were."""

    def documents(self) -> list[Document]:
        """The ready documents, by source."""

    def chunks(self, ids: Sequence[int]) -> list[Chunk]:
        """The ready chunks of these numbers, in their order."""

    def all_chunks(self, documents: Sequence[int] = ()) -> Iterable[Chunk]:
        """The ready chunks, by document and position; of these documents where any is given."""

    def lexical(self, terms: Sequence[str], k: int, only: Filter = EVERYTHING) -> Scored:
        """The best k chunks by BM25 over terms."""

    def dense(self, vector: np.ndarray, k: int, only: Filter = EVERYTHING) -> Scored:
        """The best k chunks by the product with a unit vector."""

    def frequencies(self, terms: Iterable[str]) -> dict[str, int]:
        """In how many chunks each term occurs."""

    def num_chunks(self) -> int:
        """How many chunks readers see."""

    def mean_length(self) -> float:
        """Terms of a chunk, on average."""

    def check(self) -> str:
        """`ok`, or what the database says is wrong with itself."""

    def close(self) -> None:
        """Give the connections back."""

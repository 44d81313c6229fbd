"""KnowledgeBase: documents in, chunks with their places out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from chatglm.apps.knowledge.certainty import (
    DEFAULT_THRESHOLD,
    Calibration,
    calibrate,
    certainty,
    checked_threshold,
)
from chatglm.apps.knowledge.extract import MAX_BYTES, passages_of
from chatglm.apps.knowledge.folder import Found, digest, found_in, upload_name
from chatglm.apps.knowledge.home import location_of
from chatglm.apps.knowledge.records import EVERYTHING, Chunk, Document, Filter, Hit, Passage
from chatglm.apps.knowledge.search import Searcher, Way
from chatglm.apps.knowledge.store import SqlStore, open_store
from chatglm.apps.knowledge.synonyms import Synonyms, packaged
from chatglm.apps.knowledge.vectors import (
    Embedder,
    Embeds,
    ModelVectors,
    Remembered,
    ServiceVectors,
    TermVectors,
    passage_vectors,
)

if TYPE_CHECKING:
    import numpy as np

Vectors = Literal["terms", "model", "service", "none"]
VECTORS = get_args(Vectors)
BATCH = 500
Progress = Callable[[str, int], None]
"""Told a source and how many of its chunks are in the store."""


@dataclass(kw_only=True)
class Added:
    """What became of each source: new, changed, same as before, gone from its folder, or not read.

    failed: pairs of a source and the reason.
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


class KnowledgeBase:
    """A base that is there. name: under CHATGLM_HOME, a path ending in .sqlite, or
    `postgresql://…#name`.

    model: whose `.embed` made the vectors of a base created with vectors="model"; None opens the
    model that the base remembers, when it is first needed.
    """

    def __init__(self, name: str, *, model: Embeds | None = None) -> None:
        location = location_of(name)
        if "://" not in location and not Path(location).is_file():
            raise FileNotFoundError(
                f"there is no knowledge base {name}; make it by: chatglm kb create {name}"
            )
        self.name, self.given = name, model
        self.store: SqlStore = open_store(location)

    @staticmethod
    def create(
        name: str,
        *,
        vectors: Vectors = "terms",
        model: Embeds | None = None,
        model_name: str = "",
        url: str = "",
    ) -> KnowledgeBase:
        """A new base.

        vectors: `terms` (packaged, fast, no model), `model` (model's `.embed`; model_name is what
        `ChatGLM.from_pretrained` opens again), `service` (url of an OpenAI-compatible `/v1` and
        model_name) or `none`.
        """
        if vectors not in VECTORS:
            raise ValueError(f"vectors must be one of {', '.join(VECTORS)}, got {vectors!r}")
        if vectors == "service" and not (url and model_name):
            raise ValueError("vectors of a service need its url and the name of its model")
        location = location_of(name)
        if "://" not in location and Path(location).exists():
            raise ValueError(f"there is a knowledge base {name} already; add to it, or remove it")
        store = open_store(location)
        with closing(store), store.database.transaction():
            if store.setting("vectors") is not None:
                raise ValueError(
                    f"there is a knowledge base {name} already; add to it, or remove it"
                )
            store.set("vectors", {"kind": vectors, "model": model_name, "url": url})
        return KnowledgeBase(name, model=model)

    # What is in it

    def add(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        prune: bool = False,
        max_bytes: int = MAX_BYTES,
        progress: Progress | None = None,
    ) -> Added:
        """Take in files and folders; what has not changed is left as it is.

        A file that cannot be read is told and leaves its earlier version in place. prune: forget
        documents of these folders whose files are gone.
        """
        known = {document.source: document.sha256 for document in self.store.documents()}
        given = [Path(path) for path in paths]
        report, seen = Added(), set()
        for found in found_in(given):
            seen.add(found.source)
            self.add_one(found, known, report, max_bytes, progress)
        self.store.tidy()
        if prune:
            roots = tuple(f"{path.resolve().name}/" for path in given if path.is_dir())
            gone = [s for s in known if roots and s.startswith(roots) and s not in seen]
            self.store.remove(gone)
            report.removed += gone
        if report.new or report.changed or report.removed:
            self.calibrate()
        return report

    def add_one(
        self,
        found: Found,
        known: dict[str, str],
        report: Added,
        max_bytes: int,
        progress: Progress | None,
    ) -> None:
        """Take in a file, and say in the report what became of it."""
        if found.problem:
            report.failed.append((found.source, found.problem))
            return
        try:
            sha256 = digest(found.path)
            if known.get(found.source) == sha256:
                report.same.append(found.source)
                return
            self.ingest(found.source, found.path, sha256, max_bytes, progress)
        except (ValueError, OSError, ImportError) as error:
            if isinstance(error, ConnectionError):
                raise
            report.failed.append((found.source, str(error)))
            return
        (report.changed if found.source in known else report.new).append(found.source)

    def ingest(
        self, source: str, path: Path, sha256: str, max_bytes: int, progress: Progress | None
    ) -> None:
        """Read a file in batches and publish it; what an earlier try left is gone on with."""
        passages = passages_of(path, max_bytes)
        batch = list(islice(passages, BATCH))  # a file that cannot be opened leaves no trace
        document, done = self.store.begin(source, sha256, path.stat().st_size)
        try:
            start = 0
            while batch:
                if (fresh := batch[max(done - start, 0) :]) != []:
                    at = start + len(batch) - len(fresh)
                    self.store.extend(document, at, fresh, self.vectors_of(fresh))
                start += len(batch)
                if progress is not None:
                    progress(source, start)
                batch = list(islice(passages, BATCH))
            self.store.publish(document)
        except BaseException:
            self.store.release(document)
            raise

    def add_upload(self, name: str, data: bytes, *, max_bytes: int = MAX_BYTES) -> Added:
        """Take in a file that came from elsewhere; its name is only a name."""
        source = upload_name(name)
        report = Added()
        known = {document.source: document.sha256 for document in self.store.documents()}
        with tempfile.TemporaryDirectory(prefix="chatglm-") as folder:
            path = Path(folder) / f"upload{Path(source).suffix}"
            path.write_bytes(data)
            self.add_one(Found(source=source, path=path), known, report, max_bytes, None)
        if report.new or report.changed:
            self.calibrate()
        return report

    def remove(self, sources: Sequence[str]) -> int:
        """Forget documents; how many there were."""
        removed = self.store.remove(sources)
        if removed:
            self.calibrate()
        return removed

    def documents(self) -> list[Document]:
        """The documents, by source."""
        return self.store.documents()

    def chunks(self, source: str | None = None) -> Iterator[Chunk]:
        """The chunks in their order; of one document where it is named."""
        if source is None:
            yield from self.store.all_chunks()
            return
        numbers = [document.id for document in self.documents() if document.source == source]
        if not numbers:
            raise ValueError(f"there is no document {source} in {self.name}; see chatglm kb list")
        yield from self.store.all_chunks(numbers)

    def export(self) -> Iterator[dict[str, object]]:
        """Every chunk as a record that `add` reads again from .jsonl."""
        for chunk in self.chunks():
            record: dict[str, object] = {"source": chunk.source, "place": chunk.place}
            if chunk.kind == "faq":
                record |= {"question": chunk.question, "similar_questions": list(chunk.variants)}
                record |= {"answer": chunk.text, "category": chunk.tag}
            else:
                record |= {"title": " › ".join(chunk.path), "text": chunk.text}
            yield record

    # Finding

    def search(
        self, question: str, k: int = 5, *, way: Way = "joined", only: Filter = EVERYTHING
    ) -> list[Hit]:
        """The best k chunks, best first; scores between 0 and 1 within each way."""
        return self.searcher.search(question, k, way=way, only=only)

    def certainty(self, question: str, hits: Sequence[Hit]) -> float:
        """The chance, 0 to 1, that the first hit answers the question."""
        return certainty(self.searcher, question, hits)

    @property
    def threshold(self) -> float:
        """The certainty from which on to answer: the operator's, else the calibrated one."""
        chosen = self.store.setting("threshold")
        return float(chosen) if isinstance(chosen, int | float) else self.calibrated_threshold

    @property
    def calibrated_threshold(self) -> float:
        """The one found from the base's own questions, whatever the operator says."""
        found = self.store.setting("calibration")
        known = found.get("threshold") if isinstance(found, dict) else None
        return float(known) if isinstance(known, int | float) else DEFAULT_THRESHOLD

    def answer_from(self, threshold: float | None) -> None:
        """Keep the operator's threshold; None: let the calibrated one hold again."""
        self.store.set("threshold", None if threshold is None else checked_threshold(threshold))

    def calibrate(self) -> Calibration:
        """Find the threshold anew from the base's own questions and off-topic ones."""
        found = calibrate(self.searcher, list(islice(self.chunks(), 20_000)))
        self.store.set("calibration", asdict(found))
        return found

    # Parts

    def use_synonyms(self, groups: Sequence[Sequence[str]]) -> None:
        """Keep groups of words that mean the same here, beside the packaged ones."""
        self.store.set("synonyms", [list(group) for group in groups])
        self.__dict__.pop("searcher", None)

    @cached_property
    def searcher(self) -> Searcher:
        """Search over the store."""
        own = cast("list[list[str]]", self.store.setting("synonyms") or [])
        return Searcher(self.store, self.embedder, Synonyms([*packaged(), *own]))

    @cached_property
    def embedder(self) -> Embedder | None:
        """What makes this base's vectors."""
        kept = self.store.setting("vectors")
        spec = cast("dict[str, str]", kept if isinstance(kept, dict) else {"kind": "terms"})
        if spec["kind"] == "terms":
            return TermVectors()
        if spec["kind"] == "service":
            return Remembered(ServiceVectors(spec["url"], spec["model"]))
        if spec["kind"] == "model":
            return Remembered(
                ModelVectors(
                    self.given or RememberedModel(spec["model"]),
                    name=spec["model"] or "embedded",
                    state=self.store.setting("common"),
                )
            )
        return None

    def vectors_of(self, passages: Sequence[Passage]) -> np.ndarray | None:
        """Unit vectors (N, C) of passages; None in a base without."""
        embedder = self.embedder
        if embedder is None:
            return None
        rows = passage_vectors(passages, embedder.embed)
        inner = embedder.embedder if isinstance(embedder, Remembered) else embedder
        if isinstance(inner, ModelVectors) and self.store.setting("common") is None:
            self.store.set("common", inner.state)
        return rows

    def delete(self) -> None:
        """Forget the whole base, its file or schema included."""
        self.store.database.drop()

    def close(self) -> None:
        """Give the connections back."""
        self.store.close()

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RememberedModel:
    """The model that a base's vectors were made with, opened when it is first asked."""

    def __init__(self, source: str) -> None:
        self.source = source

    @cached_property
    def model(self) -> Embeds:
        """The model itself."""
        from chatglm.generation.chat import ChatGLM

        return cast(Embeds, ChatGLM.from_pretrained(self.source or None))

    def embed(self, texts: str | Sequence[str]) -> object:
        """The model's sentence vectors."""
        return self.model.embed(texts)

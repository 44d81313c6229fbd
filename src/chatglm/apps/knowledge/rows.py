"""Documents and chunks as rows of SQL tables, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence

from chatglm.apps.knowledge.records import Chunk, Document, Passage

TABLES = """
CREATE TABLE IF NOT EXISTS setting(name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS document(
    id {number}, source TEXT NOT NULL, sha256 TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('adding', 'ready')), num_chunks INTEGER NOT NULL,
    size BIGINT NOT NULL, added TEXT NOT NULL, writer TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS document_ready ON document(source) WHERE state = 'ready';
CREATE TABLE IF NOT EXISTS chunk(
    id {number}, document BIGINT NOT NULL REFERENCES document ON DELETE CASCADE,
    position INTEGER NOT NULL, kind TEXT NOT NULL, question TEXT NOT NULL, variants TEXT NOT NULL,
    text TEXT NOT NULL, path TEXT NOT NULL, place TEXT NOT NULL, tag TEXT NOT NULL,
    num_terms INTEGER NOT NULL, UNIQUE (document, position));
CREATE TABLE IF NOT EXISTS vector(
    chunk BIGINT PRIMARY KEY REFERENCES chunk ON DELETE CASCADE, data {blob} NOT NULL)
"""
CHUNKS = (
    "SELECT chunk.id, chunk.document, document.source, chunk.position, chunk.kind, chunk.question, "
    "chunk.variants, chunk.text, chunk.path, chunk.place, chunk.tag FROM chunk "
    "JOIN document ON document.id = chunk.document WHERE document.state = 'ready'"
)
DOCUMENTS = (
    "SELECT id, source, sha256, num_chunks, size, added FROM document "
    "WHERE state = 'ready' ORDER BY source"
)
CHUNK_COLUMNS = "document, position, kind, question, variants, text, path, place, tag, num_terms"


def chunk_row(document: int, position: int, passage: Passage, num_terms: int) -> tuple[object, ...]:
    """The values of CHUNK_COLUMNS."""
    return (
        document,
        position,
        passage.kind,
        passage.question,
        json.dumps(passage.variants, ensure_ascii=False),
        passage.text,
        json.dumps(passage.path, ensure_ascii=False),
        passage.place,
        passage.tag,
        num_terms,
    )


def chunk_of(row: Sequence[object]) -> Chunk:
    """A chunk from its row of CHUNKS."""
    return Chunk(
        id=int(str(row[0])),
        document=int(str(row[1])),
        source=str(row[2]),
        position=int(str(row[3])),
        kind="faq" if row[4] == "faq" else "text",
        question=str(row[5]),
        variants=tuple(json.loads(str(row[6]))),
        text=str(row[7]),
        path=tuple(json.loads(str(row[8]))),
        place=str(row[9]),
        tag=str(row[10]),
    )


def document_of(row: Sequence[object]) -> Document:
    """A ready document from its row."""
    return Document(
        id=int(str(row[0])),
        source=str(row[1]),
        sha256=str(row[2]),
        state="ready",
        num_chunks=int(str(row[3])),
        size=int(str(row[4])),
        added=str(row[5]),
    )

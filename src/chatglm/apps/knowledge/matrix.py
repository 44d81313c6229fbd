"""The vectors of a base in memory: one product finds the nearest of a hundred thousand."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from chatglm.apps.knowledge.database import Database
from chatglm.apps.knowledge.records import EVERYTHING, Filter, Scored

if TYPE_CHECKING:
    import numpy as np


class VectorMatrix:
    """Unit vectors (N, C) of the ready chunks, read again when the base has changed."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.revision = -1
        self.lock = threading.Lock()
        self.ids: list[int] = []
        self.facts: list[tuple[str, str, str]] = []
        self.rows: np.ndarray | None = None

    def load(self, revision: int) -> None:
        """Read the vectors unless they are of this revision."""
        import numpy as np

        with self.lock:
            if self.revision == revision:
                return
            found = self.database.rows(
                "SELECT vector.chunk, document.source, chunk.tag, chunk.kind, vector.data "
                "FROM vector JOIN chunk ON chunk.id = vector.chunk "
                "JOIN document ON document.id = chunk.document WHERE document.state = 'ready' "
                "ORDER BY vector.chunk"
            )
            self.ids = [int(str(row[0])) for row in found]
            self.facts = [(str(row[1]), str(row[2]), str(row[3])) for row in found]
            data = b"".join(row[4] for row in found)  # type: ignore[misc]
            matrix = np.frombuffer(data, dtype="<f2").reshape(len(found), -1) if found else None
            self.rows = None if matrix is None else matrix.astype(np.float32)
            self.revision = revision

    def best(
        self, vector: np.ndarray, k: int, only: Filter = EVERYTHING, revision: int = 0
    ) -> Scored:
        """The best k chunks by the product with a unit vector."""
        import numpy as np

        self.load(revision)
        if self.rows is None:
            return []
        if len(vector) != self.rows.shape[1]:
            raise ValueError(
                f"the question's vector has {len(vector)} numbers and the base's have "
                f"{self.rows.shape[1]}; search with the model that the base was made with"
            )
        scores = self.rows @ vector.astype(np.float32)  # (N,)
        if only != EVERYTHING:
            scores[~self.allowed(only)] = -np.inf
        nearest = np.argpartition(-scores, min(k, len(scores) - 1))[:k]
        nearest = nearest[np.lexsort((nearest, -scores[nearest]))]
        return [(self.ids[i], float(scores[i])) for i in nearest if np.isfinite(scores[i])]

    def allowed(self, only: Filter) -> np.ndarray:
        """Which rows a filter lets through, (N,) bool."""
        import numpy as np

        wanted = (only.sources, only.tags, only.kinds)
        return np.array(
            [
                all(not some or fact in some for some, fact in zip(wanted, facts, strict=True))
                for facts in self.facts
            ]
        )

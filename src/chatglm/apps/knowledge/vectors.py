"""Texts as unit vectors: of terms that come with the package, of a model, or of a service."""

from __future__ import annotations

import json
import os
import threading
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Protocol, cast

from chatglm.apps.knowledge.records import Passage
from chatglm.apps.knowledge.words import terms

if TYPE_CHECKING:
    import numpy as np

ANSWER_WEIGHT = 0.5
NUM_COMMON = 3
PIECE = 300
BATCH = 64
MOST_REMEMBERED = 10_000


class Embedder(Protocol):
    """What makes vectors. name: kept with the base, so that questions are embedded alike."""

    name: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, C) in float32; a text without any known word has a row of zeros."""


class Embeds(Protocol):
    """A model with sentence vectors, as `ChatGLM` has them."""

    def embed(self, texts: str | Sequence[str]) -> object:
        """A tensor or array (N, C)."""


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one; zeros stay zeros."""
    import numpy as np

    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


@cache
def term_table() -> tuple[dict[str, int], np.ndarray]:
    """The packaged terms' rows and their vectors (V, C); see recipes/retrieval_vectors.py."""
    from safetensors.numpy import load

    folder = files("chatglm") / "assets" / "retrieval"
    names = (folder / "terms.txt").read_text("utf-8").split("\n")
    tensors = load((folder / "vectors.safetensors").read_bytes())
    vectors = tensors["vectors"].astype("float32") * tensors["scale"][:, None]
    return {name: i for i, name in enumerate(names) if name}, vectors


class TermVectors:
    """The mean of a text's terms: no torch, no model, a tenth of a millisecond."""

    name = "terms"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, C)."""
        import numpy as np

        known, vectors = term_table()
        rows = np.zeros((len(texts), vectors.shape[1]), np.float32)
        for i, text in enumerate(texts):
            ids = [known[term] for term in terms(text) if term in known]
            if ids:
                rows[i] = vectors[ids].mean(0)
        return unit(rows)


class ModelVectors:
    """A model's own sentence vectors, free of what all of them have in common.

    The mean and the first principal directions of the texts seen first are taken away (SIF, Arora
    et al. 2017, §3): in a language model's hidden states they drown what texts differ in.
    state: the mean and the directions as lists, kept with the base; None before the first fit.
    """

    def __init__(self, model: Embeds, *, name: str, state: object = None) -> None:
        self.model, self.name = model, name
        self.state = cast("list[list[float]] | None", state)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, C)."""
        import numpy as np

        rows = np.stack([self.raw(text) for text in texts])
        if self.state is None:
            self.fit(rows)
        mean, *directions = (np.array(row, np.float32) for row in self.state or [])
        rows = rows - mean
        for direction in directions:
            rows = rows - np.outer(rows @ direction, direction)
        return unit(rows)

    def raw(self, text: str) -> np.ndarray:
        """The model's vector (C,) of a text, the mean of its pieces' where it is long."""
        import numpy as np

        pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)] or [" "]
        return np.asarray(self.model.embed(pieces), dtype=np.float32).mean(0)

    def fit(self, rows: np.ndarray) -> None:
        """Learn from rows (N, C) what is common to all."""
        import numpy as np

        mean = rows.mean(0)
        _, _, directions = np.linalg.svd(rows - mean, full_matrices=False)
        count = min(NUM_COMMON, max(len(rows) // 8, 0))
        self.state = [mean.tolist(), *directions[:count].tolist()]


class ServiceVectors:
    """Vectors of a service that speaks OpenAI's `/v1/embeddings`; OPENAI_API_KEY is its key."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url.rstrip("/"), model
        self.name = f"{model} @ {self.url}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, C)."""
        import numpy as np

        rows: list[list[float]] = []
        for start in range(0, len(texts), BATCH):
            rows += self.ask(list(texts[start : start + BATCH]))
        return unit(np.array(rows, np.float32))

    def ask(self, texts: list[str]) -> list[list[float]]:
        """The service's vectors of a batch."""
        request = urllib.request.Request(
            f"{self.url}/embeddings",
            json.dumps({"model": self.model, "input": texts}).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                data = json.load(answer)["data"]
            found = [row["embedding"] for row in sorted(data, key=lambda row: row["index"])]
        except urllib.error.HTTPError as error:
            raise ValueError(
                f"{self.url} answers {error.code} for embeddings of {self.model}; check the "
                "model's name and OPENAI_API_KEY"
            ) from error
        except (OSError, ValueError) as error:
            raise ConnectionError(
                f"{self.url} gives no embeddings ({error}); check the address and the network"
            ) from error
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.url} does not answer in OpenAI's shape") from error
        if len(found) != len(texts):
            raise ValueError(f"{self.url} gives {len(found)} vectors for {len(texts)} texts")
        return found


class Remembered:
    """Vectors of an embedder that takes its time, each text asked for once."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.name = embedder, embedder.name
        self.known: OrderedDict[str, np.ndarray] = OrderedDict()
        self.lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (N, C)."""
        import numpy as np

        with self.lock:
            fresh = [text for text in dict.fromkeys(texts) if text not in self.known]
            if fresh:
                self.known.update(zip(fresh, self.embedder.embed(fresh), strict=True))
            rows = np.stack([self.known[text] for text in texts])
            while len(self.known) > MOST_REMEMBERED:
                self.known.popitem(last=False)
        return rows


def passage_vectors(
    passages: Sequence[Passage], embed: Callable[[Sequence[str]], np.ndarray]
) -> np.ndarray:
    """Unit vectors (N, C): a text's own; an FAQ entry's middle of its wordings and its answer."""
    import numpy as np

    texts: list[str] = []
    spans: list[tuple[int, int]] = []
    for passage in passages:
        start = len(texts)
        texts += passage.questions or ("\n".join(passage.path),) * bool(passage.path)
        spans.append((start, len(texts)))
        texts.append(passage.text)
    rows = embed(texts)
    found = []
    for start, stop in spans:
        answer = rows[stop]
        middle = unit(rows[start:stop].sum(0)) if stop > start else answer
        found.append(middle + ANSWER_WEIGHT * answer)
    return unit(np.stack(found))

"""The weights of `chatglm.apps.knowledge.certainty`, fitted to FAQ bases with similar questions.

    python -m benchmarks.certainty FAQ.jsonl FAQ.jsonl FAQ.jsonl

Right answers are similar questions that find their entry with their own wording left out; wrong
ones are those that do not, all of them with the whole entry left out (half weight), the other
bases' questions (half weight) and the packaged off-topic questions. Every base counts twice, with
its similar questions and with none but the first wording of each, as many bases are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np

from chatglm.apps.knowledge import KnowledgeBase
from chatglm.apps.knowledge.certainty import off_topic_questions, signs_of
from chatglm.apps.knowledge.search import Omit

Example = tuple[tuple[float, ...], bool, float]


def examples(
    base: KnowledgeBase, variants: dict[str, tuple[str, ...]], foreign: list[str]
) -> Iterator[Example]:
    """Signs, whether the first hit is right, and the weight of the example."""
    searcher = base.searcher
    cases: list[tuple[str, Omit | None, int | None, float]] = []
    for chunk in base.chunks():
        for wording in variants[chunk.question]:
            known = Omit(chunk=chunk.id, wording=wording) if chunk.variants else None
            cases.append((wording, known, chunk.id, 1.0))
            cases.append((wording, Omit(chunk=chunk.id), None, 0.5))
    cases += [(question, None, None, 1.0) for question in off_topic_questions()]
    cases += [(question, None, None, 0.5) for question in foreign]
    for question, omit, gold, weight in cases:
        if hits := searcher.search(question, 5, omit=omit):
            signs = astuple(signs_of(searcher, question, hits, omit))
            yield signs, hits[0].chunk.id == gold, weight


def without_variants(base: KnowledgeBase, folder: Path) -> KnowledgeBase:
    """The same base with the first wording of each entry alone."""
    path = folder / "plain.jsonl"
    records = [{**record, "similar_questions": []} for record in base.export()]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    plain = KnowledgeBase.create(f"{base.name.removesuffix('.sqlite')}-plain.sqlite")
    plain.add([path])
    return plain


def fitted(found: list[Example], ridge: float = 1e-4) -> np.ndarray:
    """Weights of a logistic regression, the bias last, by Newton's method."""
    rows = np.array([[*signs, 1.0] for signs, _, _ in found])
    gold = np.array([right for _, right, _ in found], float)
    shares = np.array([weight for _, _, weight in found])
    damping = ridge * len(rows) * np.diag([1.0] * (rows.shape[1] - 1) + [0.0])
    weights = np.zeros(rows.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (shares * (chance - gold)) + damping @ weights
        curve = (rows * (shares * chance * (1 - chance))[:, None]).T @ rows + damping
        weights -= np.linalg.solve(curve, slope)
    return weights


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bases", nargs="+", type=Path)
    paths = parser.parse_args().bases
    found: list[Example] = []
    with tempfile.TemporaryDirectory() as folder:
        bases = []
        for path in paths:
            base = KnowledgeBase.create(str(Path(folder) / f"{path.stem}.sqlite"))
            base.add([path])
            bases.append(base)
        asked = [{chunk.question: chunk.variants for chunk in base.chunks()} for base in bases]
        for i, base in enumerate(bases):
            foreign = [q for j, questions in enumerate(asked) if j != i for q in questions]
            plain = without_variants(base, Path(folder))
            for one in (base, plain):
                found += examples(one, asked[i], foreign)
                one.close()
    *weights, bias = (round(float(x), 2) for x in fitted(found))
    print(f"WEIGHTS = {tuple(weights)}\nBIAS = {bias}  # {len(found)} examples")


if __name__ == "__main__":
    main()

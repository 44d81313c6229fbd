"""Fit the vectors of terms that a knowledge base searches with when it has no better model.

    python -m recipes.retrieval_vectors CORPUS_DIRECTORY --output src/chatglm/assets/retrieval

Reads `sft/*.train.jsonl.zst` (a question and its reply are a pair, and so are a sentence and its
translation: what has one translation means one thing) and `pretrain/part-*.jsonl.zst` (a sentence
and the sentences around it, a dictionary's word and its senses). A text is the mean of its terms'
vectors; they are fitted so that of 1024 pairs each half finds its other (InfoNCE, arXiv:1807.03748,
eq. 4, in both directions). FAQ bases and what was written for them stay out, so that measuring on
them is fair. About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import zstandard
from safetensors.numpy import save_file
from torch.nn import functional as F

from chatglm.apps.knowledge.words import terms

Pair = tuple[str, str]
TASKS = ("chat", "customer_service", "summarization")
DOMAINS = {"dialogue", "tech-docs", "tech-article", "qa", "encyclopedia", "law", "novel", "recipe"}
LEFT_OUT = ("authored", "synthetic", "MSDocs-Alchemy")
SENTENCE = re.compile(r"[^。！？；\n]+[。！？；\n]?")
ENTRY = re.compile(r"\s*([\u3400-\u9fff]{2,})\s*(.*)")
READING = re.compile(r"\[[^\]]*\]|（[^）]*）|\([^)]*\)")
SCALE = 20.0
BATCH = 1024
MOST_NEIGHBOURS = 8


def records(path: Path) -> Iterator[dict]:
    """The lines of a packed file."""
    with path.open("rb") as file:
        unpacked = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(file)
        for line in io.TextIOWrapper(unpacked, encoding="utf-8"):
            yield json.loads(line)


def replies(corpus: Path) -> Iterator[Pair]:
    """First questions with their replies."""
    for task in TASKS:
        for record in records(corpus / "sft" / f"{task}.train.jsonl.zst"):
            if record["source"].startswith(LEFT_OUT):
                continue
            turns = [turn["content"] for turn in record["messages"] if turn["role"] != "system"]
            if len(turns) > 1 and 4 <= len(turns[0]) <= 400 and len(turns[1]) >= 8:
                yield turns[0][:200], turns[1][:300]


def neighbours(corpus: Path, choose: random.Random) -> Iterator[Pair]:
    """Sentences with the two before and the two after."""
    for path in sorted((corpus / "pretrain").glob("part-*.jsonl.zst")):
        for record in records(path):
            if record["domain"] not in DOMAINS:
                continue
            parts = [part.strip() for part in SENTENCE.findall(record["text"])]
            parts = [part for part in parts if len(part) >= 6]
            count = min(MOST_NEIGHBOURS, max(1, len(parts) // 8))
            for _ in range(count if len(parts) > 1 else 0):
                i = choose.randrange(len(parts))
                yield parts[i][:100], "".join(parts[max(0, i - 2) : i] + parts[i + 1 : i + 3])[:300]


def translations(corpus: Path) -> Iterator[Pair]:
    """Texts between Chinese and English with their translations."""
    for record in records(corpus / "sft" / "translation.train.jsonl.zst"):
        if record["source"] == "Classical-Modern":
            continue
        asked, told = (t["content"] for t in record["messages"][-2:])
        text = re.split(r"[\n:：]", asked, maxsplit=1)[-1].strip() or asked  # without the order
        if len(text) > 1 and len(told) > 1:
            yield text[:200], told[:300]


def senses(corpus: Path) -> Iterator[Pair]:
    """A dictionary's words with their senses."""
    for path in sorted((corpus / "pretrain").glob("part-*.jsonl.zst")):
        for record in records(path):
            for line in record["text"].splitlines() if record["domain"] == "dictionary" else ():
                if (found := ENTRY.match(line)) is not None:
                    sense = READING.sub(" ", found[2]).strip(" :：—-/")
                    if sense:
                        yield found[1], sense[:200]


def means(rows: Sequence[np.ndarray], table: torch.nn.Embedding) -> torch.Tensor:
    """Unit vectors (B, C) of texts."""
    starts = torch.tensor(np.cumsum([0, *(len(row) for row in rows[:-1])]))
    ids = torch.from_numpy(np.concatenate(rows)).long()
    return F.normalize(F.embedding_bag(ids, table.weight, starts, mode="mean"), dim=1)


def fit(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], num_terms: int, width: int, epochs: int
) -> np.ndarray:
    """Vectors (V, C) of the terms."""
    table, batch = torch.nn.Embedding(num_terms, width), BATCH
    torch.nn.init.normal_(table.weight, std=0.1)
    optimizer = torch.optim.Adam(table.parameters())
    num_steps = epochs * (len(pairs) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=num_steps)
    gold, order = torch.arange(batch), np.random.default_rng(0)
    for step in range(num_steps):
        if step % (num_steps // epochs) == 0:
            places = order.permutation(len(pairs))
        start = step % (num_steps // epochs) * batch
        chosen = [pairs[i] for i in places[start : start + batch]]
        scores = (
            SCALE * means([a for a, _ in chosen], table) @ means([b for _, b in chosen], table).T
        )
        loss = (F.cross_entropy(scores, gold) + F.cross_entropy(scores.T, gold)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {num_steps}, loss {loss.item():.3f}", flush=True)
    return table.weight.detach().numpy()


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--terms", type=int, default=40_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    choose = random.Random(0)
    corpus = arguments.corpus
    texts = [*replies(corpus), *neighbours(corpus, choose), *translations(corpus), *senses(corpus)]
    choose.shuffle(texts)
    counts: Counter[str] = Counter()
    for pair in texts[:120_000]:
        counts.update(terms(pair[0] + "\n" + pair[1][:150]))
    names = [term for term, _ in counts.most_common(arguments.terms)]
    ids = {term: i for i, term in enumerate(names)}

    def encoded(text: str) -> np.ndarray:
        return np.array([ids[term] for term in terms(text) if term in ids], np.int32)

    pairs = [(encoded(a), encoded(b)) for a, b in texts]
    pairs = [(a, b) for a, b in pairs if len(a) and len(b)]
    print(f"{len(pairs)} pairs, {len(names)} terms", flush=True)
    vectors = fit(pairs, len(names), arguments.width, arguments.epochs)
    scale = np.abs(vectors).max(1, keepdims=True) / 127
    arguments.output.mkdir(parents=True, exist_ok=True)
    tensors = {
        "vectors": np.round(vectors / scale).astype(np.int8),
        "scale": scale[:, 0].astype(np.float32),
    }
    save_file(tensors, arguments.output / "vectors.safetensors")
    (arguments.output / "terms.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Held-out bits per character by domain: models and an n-gram baseline in one table.

    python -m benchmarks.bits_per_character --eval HELDOUT.jsonl \\
        --model embedded --model runs/plain-gpt --ngram data/nano/pretrain --json bits.json

The formula is in docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.ngram import fit_prepared
from chatglm import checkpoint
from chatglm.config import ModelConfig
from chatglm.evaluate.likelihood import Scorer, Tally, read_texts, score, transformer_scorer
from chatglm.model import Transformer
from chatglm.tokenizer import Tokenizer, load_tokenizer
from chatglm.training.config import build
from chatglm.training.run import end_of_text
from chatglm.training.state import newest

Tallies = Mapping[str, Tally]


def open_model(source: str) -> tuple[Transformer, Tokenizer]:
    """A network in float32 with its tokenizer: `embedded`, a run's output directory (its newest
    checkpoint), a model directory or a hub id.
    """
    saved = newest(Path(source))
    if saved is not None:
        record = json.loads((Path(source) / "config.json").read_text("utf-8"))
        model = Transformer(build(ModelConfig, record["shape"], where=source))
        model.load_state_dict(load_file(saved / "model.safetensors"))
        return model.eval(), load_tokenizer(record["recipe"]["tokenizer"])
    loaded = checkpoint.load(None if source == "embedded" else source, dtype="float32")
    if loaded.tokenizer is None:
        raise ValueError(f"{source} has no tokenizer; add its files to read text with it")
    if loaded.config.context != "causal":
        raise ValueError(f"{source} is no causal model; its likelihood of a text is not measured")
    return loaded.model, loaded.tokenizer


def measure(
    texts: list[tuple[str, str]], tokenizer: Tokenizer, scorer: Scorer, name: str
) -> dict[str, Tally]:
    """Tallies by domain, with a line of progress."""
    seen = 0

    def counting(text: str) -> list[int]:
        nonlocal seen
        seen += 1
        if seen % 100 == 0:
            print(f"{name}: {seen} of {len(texts)} texts", file=sys.stderr, flush=True)
        return tokenizer.encode(text)

    return score(texts, counting, scorer, end_of_text(tokenizer))


def as_markdown(columns: Mapping[str, Tallies]) -> str:
    """One row a domain, one column a model."""
    first = next(iter(columns.values()))
    lines = ["| domain | characters | " + " | ".join(columns) + " |"]
    lines.append("|---|---:|" + "---:|" * len(columns))
    for domain, tally in first.items():
        bits = (f"{tallies[domain].bits_per_character:.3f}" for tallies in columns.values())
        lines.append(f"| {domain} | {tally.num_characters:,} | " + " | ".join(bits) + " |")
    return "\n".join(lines)


def as_record(columns: Mapping[str, Tallies], heldout: Path) -> dict[str, object]:
    """The same as data, sums included."""
    return {
        "eval": heldout.name,
        "models": {
            name: {
                domain: {**asdict(tally), "bits_per_character": tally.bits_per_character}
                for domain, tally in tallies.items()
            }
            for name, tallies in columns.items()
        },
    }


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--eval", type=Path, required=True, help="jsonl with text and domain")
    parser.add_argument(
        "--model",
        action="append",
        metavar="DIR",
        help="embedded (the default), the output of a run, a model directory; several times",
    )
    parser.add_argument("--ngram", type=Path, metavar="DATA", help="prepared data to count")
    parser.add_argument("--ngram-tokens", type=int, default=0, help="count so many (0: all)")
    parser.add_argument("--window", type=int, help="tokens at once (default: a model's context)")
    parser.add_argument("--texts", type=int, help="the first so many of each domain only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    return parser.parse_args(arguments)


def first_of_each(texts: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """The first `most` texts of every domain."""
    taken: dict[str, int] = {}
    kept = []
    for domain, text in texts:
        taken[domain] = taken.get(domain, 0) + 1
        if taken[domain] <= most:
            kept.append((domain, text))
    return kept


def main(arguments: list[str] | None = None) -> int:
    """Measure each model in turn and print the table."""
    args = read_arguments(arguments)
    texts = read_texts(args.eval)
    if args.texts:
        texts = first_of_each(texts, args.texts)
    names: list[str] = args.model or ["embedded"]
    columns: dict[str, Tallies] = {}
    tokenizer: Tokenizer | None = None
    for name in names:
        model, words = open_model(name)
        tokenizer = tokenizer or words
        short = Path(name).name
        columns[name if short in columns else short] = measure(
            texts, words, transformer_scorer(model, window=args.window), name
        )
    if args.ngram is not None:
        assert tokenizer is not None
        counted = fit_prepared(
            args.ngram,
            vocab_size=tokenizer.vocab_size,
            end=end_of_text(tokenizer),
            num_tokens=args.ngram_tokens,
        )
        columns["5-gram"] = measure(texts, tokenizer, counted.nats, "5-gram")
    print(as_markdown(columns))
    if args.json is not None:
        record = as_record(columns, args.eval)
        args.json.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

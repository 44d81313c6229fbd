"""A model with further words: rows behind its own, which start from the pieces of each word."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from chatglm.checkpoint.gguf.header import is_gguf
from chatglm.checkpoint.load import Loaded
from chatglm.checkpoint.write import flush, save
from chatglm.model.transformer import WordEmbedding
from chatglm.tokenizer import Tokenizer
from chatglm.tokenizer.extended import ADDED, ExtendedTokenizer

_KEYS = ("vocab_size", "padded_vocab_size")


def extend(loaded: Loaded, words: Iterable[str], directory: str | os.PathLike[str]) -> list[str]:
    """Write the model with the words to a new directory, in its own format; returns those that
    were added, which are all that were several tokens before.

    The row of a word is the mean of its tokens' rows, in the embedding and in the head, so that
    the model reads it about as it did before and learns on from there.
    """
    check(loaded)
    tokenizer = loaded.tokenizer
    assert tokenizer is not None
    target = Path(directory)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty; give a new directory")
    known = tokenizer.words if isinstance(tokenizer, ExtendedTokenizer) else {}
    wanted = [word for word in dict.fromkeys(words) if len(tokens_of(word, tokenizer)) > 1]
    if not wanted:
        raise ValueError("every word is one token already, or there is none; nothing is to be done")
    first = max(loaded.config.vocab_size, tokenizer.vocab_size)
    add_rows(loaded, tokenizer, wanted, first)
    fresh = target.with_name(f".{target.name}.extended")
    shutil.rmtree(fresh, ignore_errors=True)
    save(loaded, fresh)
    table = json.loads((fresh / "config.json").read_text("utf-8"))
    table |= {key: loaded.config.vocab_size for key in _KEYS if key in table}
    added = known | {word: first + i for i, word in enumerate(wanted)}
    for name, content in (("config.json", table), (ADDED, added)):
        (fresh / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
        flush(fresh / name)
    if target.exists():
        target.rmdir()
    fresh.rename(target)
    return wanted


def check(loaded: Loaded) -> None:
    """A ValueError where a model cannot have further rows."""
    if loaded.tokenizer is None:
        raise ValueError(f"{loaded.directory} has no tokenizer files; add them to extend it")
    if loaded.adapter or loaded.prefix is not None or loaded.directory != loaded.base:
        raise ValueError(f"{loaded.directory} is not a whole model; merge it, or extend its base")
    is_plain = type(loaded.model.embedding) is WordEmbedding and loaded.quantize is None
    if is_gguf(loaded.base) or not is_plain:
        raise ValueError(f"{loaded.base} is quantized or a GGUF file; extend the published weights")


def tokens_of(word: str, tokenizer: Tokenizer) -> list[int]:
    """How a word inside a text was written so far."""
    return tokenizer.encode_stretch(word, starts=False, ends=False)


@torch.no_grad()
def add_rows(loaded: Loaded, tokenizer: Tokenizer, words: list[str], first: int) -> None:
    """Give the embedding and the head a row for each word, from row `first` on."""
    model = loaded.model
    pieces = [torch.tensor(tokens_of(word, tokenizer)) for word in words]
    tables: list[nn.Embedding | nn.Linear] = [model.embedding]
    if not loaded.config.tied:
        tables.append(model.head)
    for module in tables:
        rows = module.weight
        between = rows.new_zeros(first - len(rows), rows.shape[1])  # ids that no row was kept for
        means = torch.stack([rows[ids].float().mean(0) for ids in pieces]).to(rows.dtype)
        module.weight = nn.Parameter(torch.cat([rows, between, means]))
    model.embedding.num_embeddings = first + len(words)
    if not loaded.config.tied:
        model.head.out_features = first + len(words)
    loaded.config = model.config = replace(loaded.config, vocab_size=first + len(words))

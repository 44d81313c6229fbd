"""A published vocabulary as what tokenizer.json holds and the `tokenizers` library runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from chatglm.tokenizer.base import Tokenizer, names_apart
from chatglm.tokenizer.bpe import GLM4_PATTERN, JsonTokenizer, RankTokenizer, byte_alphabet
from chatglm.tokenizer.sentencepiece import SentencePieceTokenizer

if TYPE_CHECKING:
    import tokenizers

BLANK = "\u2581"


def as_backend(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The `tokenizers` object that gives a tokenizer's ids; a ValueError where none can."""
    if isinstance(tokenizer, JsonTokenizer):
        return tokenizer.backend
    if isinstance(tokenizer, RankTokenizer):
        ranks = {word: rank for rank, word in tokenizer.words.items()}
        return byte_level(
            {spelled(word): rank for word, rank in ranks.items()},
            [(spelled(a), spelled(b)) for a, b in merges_of(ranks)],
            GLM4_PATTERN,
            tokenizer.special,
            whole_words=True,
        )
    if isinstance(tokenizer, SentencePieceTokenizer) and not tokenizer.spells_layout:
        return sentencepiece_bpe(tokenizer)
    raise ValueError(
        f"the vocabulary of {tokenizer.generation} has peculiarities that a tokenizer.json cannot "
        "hold; keep its own files"
    )


def byte_level(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    pattern: str | None,
    special: Mapping[str, int],
    *,
    whole_words: bool,
) -> tokenizers.Tokenizer:
    """A byte-level BPE.

    pattern: what splits a text before; None for GPT-2's. whole_words: what is a word of the
        vocabulary is taken as it is, as tiktoken does.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    model = models.BPE(dict(vocabulary), list(merges), ignore_merges=whole_words)
    backend = Tokenizer(model)
    parts: list[object] = []
    if pattern is not None:
        parts.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    backend.decoder = decoders.ByteLevel()
    return with_special(backend, special)


def sentencepiece_bpe(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer:
    """ChatGLM2's and 3's vocabulary: BPE over characters, unknown ones as bytes.

    Every text between special tokens gets a blank in front, as the official code encodes it.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = [tokenizer.backend.id_to_piece(i) for i in range(tokenizer.num_pieces)]
    if "<0x00>" not in pieces:
        raise ValueError(
            f"the vocabulary of {tokenizer.generation} falls back to no bytes and a tokenizer.json "
            "cannot hold it; keep its own files"
        )
    named = {i: name for name, i in tokenizer.special.items() if i < len(pieces)}
    vocabulary = {named.get(i, piece): i for i, piece in enumerate(pieces)}
    unknown = named.get(tokenizer.backend.unk_id(), "<unk>")
    merges = list(merges_of_pieces(vocabulary, tokenizer.backend.get_score))
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(BLANK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return with_special(backend, names_apart(tokenizer.special))


def with_special(backend: tokenizers.Tokenizer, special: Mapping[str, int]) -> tokenizers.Tokenizer:
    """The vocabulary with special tokens at their ids; a ValueError where those are taken or
    leave a gap.
    """
    from tokenizers import AddedToken

    names = sorted(special, key=special.__getitem__)
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    for name in names:
        if backend.token_to_id(name) != special[name]:
            raise ValueError(
                f"{name} has the id {special[name]}, and behind this vocabulary a tokenizer.json "
                f"gives it {backend.token_to_id(name)}"
            )
    return backend


def spelled(word: bytes) -> str:
    """Bytes in the letters of a byte-level vocabulary."""
    return "".join(_LETTERS[byte] for byte in word)


_LETTERS = {byte: letter for letter, byte in byte_alphabet().items()}


def merges_of(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every pair that makes a word of a rank file, in the order in which words are merged: tiktoken
    merges whatever pair makes the word of the lowest rank.
    """
    for word in sorted(ranks, key=ranks.__getitem__):
        pairs = [(word[:at], word[at:]) for at in range(1, len(word))]
        known = [(a, b) for a, b in pairs if a in ranks and b in ranks]
        yield from sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def merges_of_pieces(vocabulary: Mapping[str, int], score: object) -> Iterator[tuple[str, str]]:
    """The pairs that make a piece of SentencePiece's BPE, best score first."""
    assert callable(score)
    found = []
    for piece, index in vocabulary.items():
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in vocabulary and right in vocabulary:
                found.append((-score(index), vocabulary[left], vocabulary[right], left, right))
    for *_, left, right in sorted(found):
        yield left, right


def split_pattern(backend: tokenizers.Tokenizer) -> str | None:
    """The pattern that splits a text before a byte-level BPE; None for GPT-2's own. A ValueError
    where the pre-tokenizer is of another make.
    """
    before = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer else {}
    parts = before.get("pretokenizers", [before])
    kinds = [part.get("type") for part in parts]
    if kinds == ["Split", "ByteLevel"] and "Regex" in parts[0]["pattern"]:
        return str(parts[0]["pattern"]["Regex"])
    if kinds == ["ByteLevel"] and parts[0]["use_regex"]:
        return None
    raise ValueError(f"this tokenizer.json splits texts by {kinds}; expected Split and ByteLevel")

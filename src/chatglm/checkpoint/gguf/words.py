"""A tokenizer as GGUF's keys, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from chatglm.checkpoint.gguf.header import Value
from chatglm.checkpoint.gguf.metadata import GENERATION, WORDS, Keys
from chatglm.errors import CheckpointError
from chatglm.tokenizer import Tokenizer
from chatglm.tokenizer.base import names_apart, official_names
from chatglm.tokenizer.bpe import GLM4_PATTERN, JsonTokenizer
from chatglm.tokenizer.convert import as_backend, byte_level, split_pattern
from chatglm.tokenizer.load import generation_of_json
from chatglm.tokenizer.pieces import from_pieces, other_settings
from chatglm.tokenizer.sentencepiece import SentencePieceTokenizer
from chatglm.tokenizer.train import PATTERN

# ggml's types of tokens.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MODEL, PRE, TYPES = "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.token_type"
SCORES, MERGES = "tokenizer.ggml.scores", "tokenizer.ggml.merges"
TEMPLATE = "tokenizer.chat_template"
# Keys of our own: what llama.cpp has no name for.
SPLIT, SETTINGS = "chatglm.split_pattern", "chatglm.sentencepiece"
# What splits a text before BPE, whether whole words are taken first, and llama.cpp's name for it.
# It has none for our own pattern, which keeps Chinese apart from other letters and takes digits one
# by one; `chatglm-bpe` gives the same ids where no word of the vocabulary crosses those borders.
_SPLITS: tuple[tuple[str | None, bool, str], ...] = (
    (GLM4_PATTERN, True, "glm4"),
    (GLM4_PATTERN, False, "chatglm-bpe"),
    (None, False, "gpt-2"),
    (PATTERN, False, "chatglm-bpe"),
)
_ENDS = {
    "tokenizer.ggml.eos_token_id": ("<|endoftext|>", "<eos>"),
    "tokenizer.ggml.eot_token_id": ("<|user|>",),
    "tokenizer.ggml.eom_token_id": ("<|observation|>",),
    "tokenizer.ggml.bos_token_id": ("<|endoftext|>", "<bos>"),
    "tokenizer.ggml.padding_token_id": ("<|endoftext|>", "<unk>"),
    "tokenizer.ggml.unknown_token_id": ("<unk>",),
}


def keys_of_tokenizer(tokenizer: Tokenizer | None, vocab_size: int, template: str | None) -> Keys:
    """The keys of a tokenizer for a model of `vocab_size` rows; a ValueError where llama.cpp could
    not run it.
    """
    if tokenizer is None:
        return {MODEL: "none"}
    count = max(tokenizer.vocab_size, max(tokenizer.special.values(), default=-1) + 1)
    if count > vocab_size:
        raise ValueError(
            f"the tokenizer has {count} ids and the model {vocab_size} rows; do "
            "they belong together?"
        )
    if isinstance(tokenizer, SentencePieceTokenizer):
        keys = keys_of_pieces(tokenizer, vocab_size)
    else:
        keys = keys_of_merges(tokenizer, vocab_size)
    for key, names in _ENDS.items():
        found = [tokenizer.special[name] for name in names if name in tokenizer.special]
        if found:
            keys[key] = found[0]
    keys["tokenizer.ggml.add_bos_token"] = False
    if template is not None:
        keys[TEMPLATE] = template
    return keys


def keys_of_merges(tokenizer: Tokenizer, vocab_size: int) -> Keys:
    """A byte-level BPE: words, kinds and merges."""
    backend = as_backend(tokenizer)
    model = json.loads(backend.to_str())["model"]
    pattern = split_pattern(backend)
    whole_words = bool(model.get("ignore_merges"))
    names = [name for *split, name in _SPLITS if split == [pattern, whole_words]]
    if model.get("type") != "BPE" or not names:
        raise ValueError(
            f"llama.cpp does not know how this tokenizer splits texts ({pattern!r}); export "
            "another model"
        )
    words, kinds = empty_words(vocab_size)
    for word, index in model["vocab"].items():
        words[index], kinds[index] = word, NORMAL
    for index, added in backend.get_added_tokens_decoder().items():
        words[index] = added.content
        kinds[index] = CONTROL if added.special else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    keys: Keys = {MODEL: "gpt2", PRE: names[0], WORDS: words, TYPES: kinds, MERGES: merges}
    if pattern == PATTERN:
        keys[SPLIT] = PATTERN
    return keys


def keys_of_pieces(tokenizer: SentencePieceTokenizer, vocab_size: int) -> Keys:
    """SentencePiece: pieces, kinds and scores."""
    backend = tokenizer.backend
    if tokenizer.spells_layout or not backend.is_byte(backend.piece_to_id("<0x00>")):
        raise ValueError(
            f"llama.cpp cannot run the vocabulary of {tokenizer.generation}; it knows those of "
            "ChatGLM2 and later"
        )
    words, kinds = empty_words(vocab_size)
    scores = np.zeros(vocab_size, dtype=np.float32)
    for index in range(tokenizer.num_pieces):
        words[index] = backend.id_to_piece(index)
        scores[index] = backend.get_score(index)
        kinds[index] = (
            UNKNOWN if backend.is_unknown(index)
            else CONTROL if backend.is_control(index)
            else BYTE if backend.is_byte(index)
            else UNUSED if backend.is_unused(index)
            else NORMAL
        )  # fmt: skip
    for name, index in names_apart(tokenizer.special).items():
        if index >= tokenizer.num_pieces:
            words[index], kinds[index] = name, CONTROL
    return {
        MODEL: "llama",
        PRE: "default",
        WORDS: words,
        TYPES: kinds,
        SCORES: scores,
        SETTINGS: np.frombuffer(other_settings(backend.serialized_model_proto()), np.uint8),
    }


def empty_words(count: int) -> tuple[list[str], np.ndarray]:
    """Names and kinds of rows that no word uses."""
    return [f"[PAD{index}]" for index in range(count)], np.full(count, UNUSED, dtype=np.int32)


def tokenizer_of(metadata: Mapping[str, Value], path: Path) -> Tokenizer | None:
    """The tokenizer that a file's keys describe; None where it has none."""
    model = metadata.get(MODEL, "none")
    if model == "none":
        return None
    words, kinds = metadata.get(WORDS), metadata.get(TYPES)
    if not isinstance(words, list) or not isinstance(kinds, np.ndarray) or len(words) != len(kinds):
        raise CheckpointError(f"{path} lacks {WORDS} or {TYPES}, or they differ in length")
    generation = generation_of_file(metadata, path)
    is_special = np.isin(kinds, (CONTROL, USER_DEFINED))
    special = {words[index]: index for index in np.flatnonzero(is_special).tolist()}
    if model == "gpt2":
        return from_merges(metadata, words, kinds, special, generation, path)
    if model == "llama":
        return from_scores(metadata, words, kinds, special, generation, path)
    raise CheckpointError(f"{path}: {MODEL} {model!r} is not read; known: gpt2, llama, none")


def from_merges(
    metadata: Mapping[str, Value],
    words: Sequence[str],
    kinds: np.ndarray,
    special: dict[str, int],
    generation: str,
    path: Path,
) -> Tokenizer:
    """The byte-level BPE of a file."""
    merges, name = metadata.get(MERGES, []), str(metadata.get(PRE, "gpt-2"))
    known = {name: (pattern, whole) for pattern, whole, name in reversed(_SPLITS)}
    if not isinstance(merges, list) or name not in known:
        raise CheckpointError(
            f"{path}: {PRE} {name!r} is not read, or {MERGES} is no list; known: {', '.join(known)}"
        )
    pattern, whole_words = known[name]
    if isinstance(said := metadata.get(SPLIT), str):
        pattern = said
    normal = np.flatnonzero(kinds == NORMAL).tolist()
    pairs = [tuple(merge.split(" ")) for merge in merges]
    try:
        backend = byte_level(
            {words[index]: index for index in normal},
            [(a, b) for a, b in pairs],
            pattern,
            special,
            whole_words=whole_words,
        )
    except Exception as error:  # the library raises a bare Exception
        raise CheckpointError(f"{path} holds no usable vocabulary ({error})") from error
    return JsonTokenizer(backend, generation=generation, special=special, files=[path])


def from_scores(
    metadata: Mapping[str, Value],
    words: Sequence[str],
    kinds: np.ndarray,
    special: dict[str, int],
    generation: str,
    path: Path,
) -> Tokenizer:
    """The SentencePiece vocabulary of a file."""
    scores, rest = metadata.get(SCORES), metadata.get(SETTINGS)
    if not isinstance(scores, np.ndarray) or len(scores) != len(words):
        raise CheckpointError(f"{path} lacks {SCORES}, or it differs in length from {WORDS}")
    settings = rest.tobytes() if isinstance(rest, np.ndarray) else None
    # Special tokens of the chat format stand behind the pieces and are none.
    is_behind = np.isin(kinds, (CONTROL, USER_DEFINED, UNUSED))
    count = int(np.flatnonzero(~is_behind).max(initial=-1)) + 1
    pieces = [
        (word, float(score), int(kind))
        for word, score, kind in zip(words[:count], scores, kinds, strict=False)
    ]
    behind = {name: index for name, index in special.items() if index >= count}
    names = {"<unk>": 0, "<bos>": 1, "<eos>": 2}
    return SentencePieceTokenizer(
        path,
        content=from_pieces(pieces, settings),
        generation=generation,
        special=official_names(behind, generation) | names,
    )


def generation_of_file(metadata: Mapping[str, Value], path: Path) -> str:
    """Whose chat format a file has: as it says, else by its template and name."""
    if isinstance(said := metadata.get(GENERATION), str):
        return said
    if metadata.get(MODEL) == "llama":
        return "chatglm3"
    architecture = metadata.get("general.architecture")
    table = {
        "model_type": {"glm4moe": "glm4_moe"}.get(str(architecture), architecture),
        "chat_template": metadata.get(TEMPLATE),
    }
    return generation_of_json(table, f"{metadata.get('general.name', '')} {path.name}".lower())

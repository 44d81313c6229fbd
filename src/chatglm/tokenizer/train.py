"""A byte-level BPE vocabulary of one's own, with the family's special tokens and chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

SPECIAL_TOKENS = (
    "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>",
    "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>",
)  # fmt: skip

# What a token may not cross: Chinese apart from other scripts, one digit at a time, a word with at
# most one blank before it, marks, line ends, blanks.
PATTERN = (
    r"\p{Han}+| ?(?:(?!\p{Han})[\p{L}\p{M}])+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

NUM_BYTES = 256

TEMPLATE = (
    "{{ '[gMASK]<sop>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def train_tokenizer(
    texts: Iterable[str],
    directory: str | Path,
    *,
    vocab_size: int = 12288,
    max_token_length: int = 12,
    max_length: int = 1024,
) -> Path:
    """The directory, with tokenizer.json and tokenizer_config.json learnt from `texts`.

    vocab_size: ids in all, the special tokens last among them. Text that no longer token covers
        falls to its UTF-8 bytes, so that every string has ids and comes back whole.
    max_token_length: in letters of the byte alphabet; 12 is four Chinese characters, which are
        three bytes each. Longer ones are mostly formulas of one source.
    max_length: the context written into the config, in tokens.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    target = Path(directory)
    smallest = NUM_BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size must be at least {smallest}, the bytes and the special tokens, got "
            f"{vocab_size}"
        )
    if max_token_length < 1:
        raise ValueError(f"max_token_length must be at least 1, got {max_token_length}")
    if (target / "tokenizer.json").exists():
        raise FileExistsError(
            f"{target} holds a tokenizer already; give another directory or remove it"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    num_words = vocab_size - len(SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=num_words,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=max_token_length,
        show_progress=False,
        special_tokens=[],
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < num_words:
        raise ValueError(
            f"the texts give only {tokenizer.get_vocab_size() + len(SPECIAL_TOKENS)} tokens of "
            f"{vocab_size}; give more text or a smaller vocab_size"
        )
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in SPECIAL_TOKENS]
    )
    target.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chatglm_generation": "nano",
        "model_max_length": max_length,
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[0],
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "chat_template": TEMPLATE,
    }
    write_whole(target / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=1))
    write_whole(target / "tokenizer.json", tokenizer.to_str(pretty=True))
    return target


def write_whole(path: Path, text: str) -> None:
    """Write a file that is either complete or not there."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written ({error}); free some space or give another directory"
        ) from error

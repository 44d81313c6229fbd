"""Replies in a given form: a grammar says which tokens may come next.

The grammars are llguidance's: JSON Schema, or its dialect of Lark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from chatglm.errors import missing_extra
from chatglm.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MAX_SCHEMA_BYTES = 64 << 10
MAX_DEPTH = 32
MAX_WIDTH = 500
"""Entries of one object or list of a schema: the library takes quadratic time over properties."""
JSON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
    # Not `u`: what can be written as itself is, so that Chinese stays Chinese.
    "json_allowed_escapes": 'nrbtf\\"',
}


class ConstraintError(ValueError):
    """A form that cannot be used, or cannot be kept: what is wrong with it."""


class Grammars:
    """Compiles forms for one vocabulary.

    vocab_size: scores a step has; may be more than the tokenizer has ids. end_ids: what ends a
    reply.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: frozenset[int]) -> None:
        try:
            from llguidance import LLTokenizer, TokenizerWrapper
        except ImportError as error:
            raise missing_extra("llguidance", "serve") from error
        if not end_ids:
            raise ConstraintError("the model has no end token; its replies cannot be constrained")
        self.end_ids = sorted(end_ids)
        self.vocab_size = vocab_size
        vocabulary = Vocabulary(tokenizer, vocab_size, self.end_ids[0])
        self.backend: LLTokenizer = LLTokenizer(
            TokenizerWrapper(vocabulary), n_vocab=vocab_size, eos_token=self.end_ids
        )

    def json(self, schema: Mapping[str, object] | None = None) -> Constraint:
        """A reply that is JSON of this schema; any object where there is none."""
        from llguidance import LLMatcher

        wanted = {"type": "object"} if schema is None else schema
        check_schema(wanted)
        return self.compile(
            LLMatcher.grammar_from_json_schema(
                json.dumps(wanted, ensure_ascii=False),
                overrides=JSON_STYLE,  # type: ignore[arg-type]
            )
        )

    def lark(self, grammar: str) -> Constraint:
        """A reply of this grammar."""
        from llguidance import LLMatcher

        return self.compile(LLMatcher.grammar_from_lark(grammar))

    def compile(self, grammar: str) -> Constraint:
        """The constraint of a grammar; the effort is bounded, here and at every step."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self.backend, grammar, log_level=0, limits=limits())
        if not matcher.is_error():
            matcher.compute_bitmask()  # some grammars that allow nothing fail only here
        if matcher.is_error():
            raise ConstraintError(f"the form cannot be used: {first_line(matcher.get_error())}")
        matcher.reset()
        return Constraint(matcher, self.vocab_size, self.end_ids)


class Constraint:
    """A `Sampling.processor` for one reply: what the grammar does not allow cannot be drawn."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, end_ids: Sequence[int]) -> None:
        self.matcher = matcher
        self.vocab_size = vocab_size
        self.end_ids = list(end_ids)
        self.num_seen: int | None = None

    def copy(self) -> Constraint:
        """The same for another reply, from its beginning."""
        return Constraint(self.matcher.deep_copy(), self.vocab_size, self.end_ids)

    def __call__(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        """Logits (V,) with what may not follow `tokens` at minus infinity."""
        if self.num_seen is None:
            self.num_seen = len(tokens)  # the prompt is not part of the form
        new = list(tokens[self.num_seen :])
        self.num_seen = len(tokens)
        if new and not self.matcher.consume_tokens(new):
            raise ConstraintError(f"the form broke: {first_line(self.matcher.get_error())}")
        allowed = torch.from_numpy(self.allowed()).to(logits.device)
        return logits.masked_fill(~allowed, -torch.inf)

    def allowed(self) -> np.ndarray:
        """Which ids may come next, (V,) of bool."""
        mask = np.zeros(self.vocab_size, dtype=bool)
        if self.matcher.is_stopped() and not self.matcher.is_error():
            mask[self.end_ids] = True
            return mask
        bits = np.frombuffer(self.matcher.compute_bitmask(), dtype=np.uint8)
        if self.matcher.is_error():
            raise ConstraintError(
                f"the form became too complex: {first_line(self.matcher.get_error())}"
            )
        mask = np.unpackbits(bits, bitorder="little")[: self.vocab_size].astype(bool)
        if not mask.any():
            raise ConstraintError("the form allows nothing that this vocabulary can write")
        return mask


class Vocabulary:
    """A tokenizer as llguidance wants it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end: int) -> None:
        self.tokenizer = tokenizer
        self.eos_token_id = end
        # A leading 0xFF marks what is no text: special tokens, and ids without any.
        self.tokens = [
            tokenizer.bytes_of(i)
            if i < tokenizer.vocab_size and i not in tokenizer.special_ids
            else b"\xff<%d>" % i
            for i in range(vocab_size)
        ]
        self.tokens = [word or b"\xff<%d>" % i for i, word in enumerate(self.tokens)]
        self.special_token_ids = [i for i in tokenizer.special_ids if i < vocab_size]

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)


def limits() -> LLParserLimits:
    """What compiling and each step may cost: tenths of a second at most."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def check_schema(schema: object) -> None:
    """A ConstraintError where a schema is too large, too deep or too wide."""
    todo: list[tuple[object, int]] = [(schema, 1)]
    size = 0
    while todo:
        node, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise ConstraintError(f"the schema is nested deeper than {MAX_DEPTH}; flatten it")
        if isinstance(node, str):
            size += len(node.encode("utf-8", "replace"))
        elif isinstance(node, Mapping | list):
            if len(node) > MAX_WIDTH:
                raise ConstraintError(
                    f"a list or object of the schema has {len(node)} entries; {MAX_WIDTH} at most"
                )
            size += 2 + 4 * len(node)
            inner = node.values() if isinstance(node, Mapping) else node
            size += sum(len(key) for key in node) if isinstance(node, Mapping) else 0
            todo += [(child, depth + 1) for child in inner]
        if size > MAX_SCHEMA_BYTES:
            raise ConstraintError(f"the schema is larger than {MAX_SCHEMA_BYTES} bytes")


def first_line(text: str) -> str:
    """The first line of the library's error, cut to a sentence's length."""
    return text.strip().split("\n", 1)[0][:200]

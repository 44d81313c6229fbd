"""Tokenizers and chat formats of every generation."""

from chatglm.tokenizer.base import StreamDecoder, Tokenizer
from chatglm.tokenizer.load import GENERATIONS, load_tokenizer

__all__ = ["GENERATIONS", "StreamDecoder", "Tokenizer", "load_tokenizer"]

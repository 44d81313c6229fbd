"""ChatGLM in one place. `from chatglm import ChatGLM` is where to begin."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatglm.config import ModelConfig
    from chatglm.generation.chat import ChatGLM
    from chatglm.generation.sampling import Sampling
    from chatglm.messages import Message, ToolCall
    from chatglm.tokenizer import load_tokenizer

__version__ = "0.1.0"
__all__ = ["ChatGLM", "Message", "ModelConfig", "Sampling", "ToolCall", "load_tokenizer"]

_HOMES = {
    "ChatGLM": "chatglm.generation.chat",
    "Message": "chatglm.messages",
    "ModelConfig": "chatglm.config",
    "Sampling": "chatglm.generation.sampling",
    "ToolCall": "chatglm.messages",
    "load_tokenizer": "chatglm.tokenizer",
}


def __getattr__(name: str) -> object:
    """Public names are imported on first use, so that `import chatglm` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'chatglm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

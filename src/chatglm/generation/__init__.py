"""Decoding: one engine, and the ChatGLM class over it."""

from chatglm.generation.chat import ChatGLM
from chatglm.generation.engine import Engine, Output
from chatglm.generation.sampling import Sampling

__all__ = ["ChatGLM", "Engine", "Output", "Sampling"]

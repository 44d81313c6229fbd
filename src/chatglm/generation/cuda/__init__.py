"""The model on a GPU: attention over blocks, and decoding as one recorded graph."""

from __future__ import annotations

__all__: list[str] = []

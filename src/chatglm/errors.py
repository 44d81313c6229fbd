"""Errors that people meet, beyond ValueError and FileNotFoundError."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A model directory that cannot be loaded: which file, what is wrong, what to do."""


def missing_extra(package: str, extra: str) -> ImportError:
    """The error that names the extra of an optional package."""
    return ImportError(f"{package} is not installed; pip install 'chatglm[{extra}]'")

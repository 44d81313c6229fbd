"""Replies in a given form: a grammar says which tokens may come next."""

from __future__ import annotations


class ConstraintError(ValueError):
    """A form that cannot be used: what is wrong with it."""

"""Two example bases, a shop's and a bank's, to try customer service with."""

from __future__ import annotations

from importlib.resources import as_file, files

from chatglm.apps.knowledge.base import KnowledgeBase
from chatglm.apps.knowledge.home import names

BASES = {"demo-shop": "shop.csv", "demo-bank": "bank.csv"}


def prepare() -> tuple[str, ...]:
    """The names of the bases, made under CHATGLM_HOME where they are not there or have changed."""
    there = names()
    for name, file in BASES.items():
        base = KnowledgeBase(name) if name in there else KnowledgeBase.create(name)
        with base, as_file(files("chatglm") / "assets" / "support" / file) as path:
            base.add([path])
    return tuple(BASES)

"""Words that mean the same to an operator's customers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from chatglm.apps.knowledge.words import normalized


class Synonyms:
    """Groups of words: a question with one of them is searched with the others too, at a part of
    their weight.
    """

    def __init__(self, groups: Sequence[Sequence[str]] = ()) -> None:
        self.groups = [[normalized(word) for word in group] for group in groups]

    def others(self, question: str) -> str:
        """The other words of each group that the question has a word of."""
        text = normalized(question)
        return " ".join(
            word
            for group in self.groups
            if any(known in text for known in group)
            for word in group
            if word not in text
        )


@cache
def packaged() -> tuple[tuple[str, ...], ...]:
    """What customers say in several ways everywhere: 运费 and 邮费, 账号 and 账户."""
    text = (files("chatglm") / "assets" / "support" / "synonyms.txt").read_text("utf-8")
    return tuple(tuple(group) for group in read_groups(text))


def read_groups(text: str) -> list[list[str]]:
    """Groups from lines of words between spaces or commas; # begins a remark."""
    groups = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].replace("，", " ").replace(",", " ").split()
        if len(words) > 1:
            groups.append(words)
        elif words:
            raise ValueError(f"synonyms: {words[0]!r} stands alone; a line needs two words or more")
    return groups

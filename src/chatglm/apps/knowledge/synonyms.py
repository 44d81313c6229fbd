"""Words that mean the same to an operator's customers."""

from __future__ import annotations

from collections.abc import Sequence

from chatglm.apps.knowledge.words import normalized


class Synonyms:
    """Groups of words: a question with one of them is searched with all."""

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self.groups = [[normalized(word) for word in group] for group in groups]

    def widened(self, question: str) -> str:
        """The question, followed by the other words of each group that it has a word of."""
        text = normalized(question)
        more = [
            word
            for group in self.groups
            if any(known in text for known in group)
            for word in group
            if word not in text
        ]
        return " ".join([question, *more]) if more else question


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

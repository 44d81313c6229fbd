"""Log-probabilities in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chatglm.generation.request import Output

LEAST = -9999.0
"""What stands for a probability of nothing: JSON knows no infinity."""


def chat_logprobs(output: Output, spell: Callable[[int], bytes]) -> dict[str, object]:
    """One token of a chat's reply with its likeliest rivals."""
    assert output.token is not None
    assert output.logprob is not None
    rivals = output.top_logprobs or {}
    return {
        **scored(spell(output.token), output.logprob),
        "top_logprobs": [scored(spell(i), score) for i, score in rivals.items()],
    }


def scored(spelled: bytes, score: float) -> dict[str, object]:
    """A token's text, log-probability and bytes."""
    return {
        "token": spelled.decode("utf-8", "replace"),
        "logprob": max(score, LEAST),
        "bytes": list(spelled),
    }


def shown(spelled: bytes) -> str:
    """A token as the older endpoint names it: its text, or its bytes where they are none."""
    try:
        return spelled.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


@dataclass(kw_only=True)
class TextScores:
    """The `logprobs` of `/v1/completions`: four lists, an entry a token."""

    spell: Callable[[int], bytes]
    offset: int = 0
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add(
        self, token: int, score: float | None, rivals: Mapping[int, float] | None, width: int
    ) -> None:
        """One more token, whose text is so wide; the first of a prompt has no score."""
        name = shown(self.spell(token))
        top: dict[str, float] | None = None
        if score is not None:
            score = max(score, LEAST)
            top = {}
            for i, rival in (rivals or {}).items():
                top.setdefault(shown(self.spell(i)), max(rival, LEAST))
            top.setdefault(name, score)
        self.tokens.append(name)
        self.token_logprobs.append(score)
        self.top_logprobs.append(top)
        self.text_offset.append(self.offset)
        self.offset += width

    def take(self) -> dict[str, object]:
        """What there is, and begin anew behind it."""
        told: dict[str, object] = {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }
        self.tokens, self.token_logprobs = [], []
        self.top_logprobs, self.text_offset = [], []
        return told

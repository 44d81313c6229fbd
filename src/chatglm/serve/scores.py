"""Log-probabilities in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Callable

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

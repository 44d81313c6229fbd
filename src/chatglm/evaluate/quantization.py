"""What quantization costs: perplexity, divergence and agreement beside the model as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chatglm.model import Transformer


@dataclass(kw_only=True)
class Loss:
    """Sums over the tokens of held-out texts.

    nats: negative log-likelihood. divergence: KL(model ‖ quantized) in nats. num_agreed: tokens
    where both find the same one likeliest.
    """

    num_tokens: int = 0
    nats: float = 0.0
    divergence: float = 0.0
    num_agreed: int = 0

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of a token."""
        return math.exp(self.nats / max(self.num_tokens, 1))

    def to_dict(self) -> dict[str, float]:
        """The means: perplexity, KL in nats a token, and percent of tokens agreed upon."""
        return {
            "perplexity": self.perplexity,
            "kl": self.divergence / max(self.num_tokens, 1),
            "agreement": 100 * self.num_agreed / max(self.num_tokens, 1),
        }


@torch.inference_mode()
def compare(
    model: Transformer, others: dict[str, Transformer], rows: Sequence[Sequence[int]]
) -> dict[str, Loss]:
    """The loss of the model itself and of each other one, over rows of ids; each row is foretold
    from its second id on, cut to the context.
    """
    losses = {name: Loss() for name in ("model", *others)}
    for row in rows:
        ids = torch.tensor([row[: model.config.max_length]])
        if ids.shape[1] < 2:
            continue
        logs = model.logits(model(ids[:, :-1]))[0].float().log_softmax(-1)  # (T, V)
        goals = ids[0, 1:]
        for name, loss in losses.items():
            theirs = logs
            if name != "model":
                other = others[name]
                theirs = other.logits(other(ids[:, :-1]))[0].float().log_softmax(-1)
            loss.num_tokens += len(goals)
            loss.nats -= float(theirs.gather(1, goals.unsqueeze(1)).sum())
            loss.divergence += float((logs.exp() * (logs - theirs)).sum())
            loss.num_agreed += int((theirs.argmax(-1) == logs.argmax(-1)).sum())
    return losses

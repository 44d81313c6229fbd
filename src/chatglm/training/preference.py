"""Objectives that compare answers: DPO, IPO, KTO, a reward model, and GRPO's policy gradient.

Rows of a batch come in twos: the chosen answer and the rejected one (KTO: a question with its own
answer and with another's). All losses are summed over pairs and divided by their number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from chatglm.data.epochs import rounded
from chatglm.training.batch import Batch
from chatglm.training.objectives import Network
from chatglm.training.tuning import TuneConfig

REFERENCE = "reference"


class Told:
    """Numbers that an objective tells between two rows of the log, as means."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, total: Tensor, count: float) -> None:
        """Take a sum over `count` pairs or rows into account."""
        before, number = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (before + float(total.detach()), number + count)

    def drain(self) -> dict[str, float]:
        """The means since the last time."""
        means = {name: total / max(count, 1.0) for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def answer_scores(network: Network, batch: Batch, chunk: int) -> Tensor:
    """Log-probability (B,) of what is learnt in each row, summed."""
    hidden = network(batch.tokens, batch.positions, batch.mask())  # (B, T, C)
    labels = batch.labels  # (B, T)
    rows, columns = (labels != -100).nonzero(as_tuple=True)
    picked, wanted = hidden[rows, columns], labels[rows, columns]  # (N, C), (N,)
    more = rounded(len(rows)) - len(rows)
    picked, wanted = F.pad(picked, (0, 0, 0, more)), F.pad(wanted, (0, more))
    parts = []
    for part, target in zip(
        picked.split(chunk or len(picked) or 1),
        wanted.split(chunk or len(wanted) or 1),
        strict=True,
    ):
        parts.append(
            checkpoint(word_scores, network, part, target, use_reentrant=False)
            if torch.is_grad_enabled()
            else word_scores(network, part, target)
        )
    scores = torch.cat(parts)[: len(rows)] if parts else hidden.new_zeros(0, dtype=torch.float32)
    # Rows without targets keep their place in the graph, so that every process has gradients.
    start = hidden[:, 0, 0].float() * 0
    return start.index_add(0, rows, scores)


def word_scores(network: Network, hidden: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities (N,) of labels under hidden states (N, C)."""
    return -F.cross_entropy(network.logits(hidden), labels, reduction="none")


def num_pairs(batch: Batch) -> int:
    """Pairs with something to learn."""
    return int((batch.labels[0::2] != -100).any(1).sum())


class Preference:
    """DPO (arXiv:2305.18290), IPO (arXiv:2310.12036) or KTO (arXiv:2402.01306) against the scores
    that the network gave before the run.
    """

    def __init__(self, config: TuneConfig, told: Told | None = None) -> None:
        self.kind = config.objective
        self.beta = config.beta
        self.smoothing = config.label_smoothing
        self.sft_weight = config.sft_weight
        self.chunk = config.loss_chunk
        self.told = told

    def __call__(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss () and the number of pairs ()."""
        scores = answer_scores(network, batch, self.chunk)
        gain = scores - batch.extras[REFERENCE].to(scores)  # (B,)
        lengths = (batch.labels != -100).sum(1)
        is_real = (lengths[0::2] > 0).float()
        first, second = gain[0::2], gain[1::2]
        if self.kind == "kto":
            loss = self.kto(first, second, batch.extras["label"][0::2].to(scores), is_real)
        elif self.kind == "ipo":
            margin = first / lengths[0::2].clamp(min=1) - second / lengths[1::2].clamp(min=1)
            loss = (margin - 1 / (2 * self.beta)).square()
        else:
            margin = self.beta * (first - second)
            loss = -(
                F.logsigmoid(margin) * (1 - self.smoothing) + F.logsigmoid(-margin) * self.smoothing
            )
        if self.sft_weight:
            loss = loss - self.sft_weight * scores[0::2] / lengths[0::2].clamp(min=1)
        if self.told is not None and network.training and self.kind != "kto":
            count = float(is_real.sum())
            self.told.add("accuracy", ((first > second).float() * is_real).sum(), count)
            self.told.add("margin", (self.beta * (first - second) * is_real).sum(), count)
        return (loss * is_real).sum(), is_real.sum()

    def kto(self, own: Tensor, strange: Tensor, label: Tensor, is_real: Tensor) -> Tensor:
        """One minus the worth of each answer; how far the model has moved is measured on answers
        to other questions, in this micro-batch.
        """
        moved = ((strange * is_real).sum() / is_real.sum().clamp(min=1)).clamp(min=0).detach()
        sign = label * 2 - 1
        return 1 - torch.sigmoid(sign * self.beta * (own - moved))


class RewardNet(nn.Module):
    """A network with a score of the whole instead of words (arXiv:2203.02155, §3.5)."""

    def __init__(self, base: Network) -> None:
        super().__init__()
        self.base = base
        self.config = base.config
        self.score = nn.Linear(base.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states (B, T, C)."""
        hidden: Tensor = self.base(tokens, positions, mask)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """The score (…,) at each place."""
        return self.score(hidden.to(self.score.weight.dtype)).float()[..., 0]


class Ranking:
    """The chosen answer's score above the rejected one's, as Bradley and Terry have it."""

    def __init__(self, told: Told | None = None) -> None:
        self.told = told

    def __call__(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss () and the number of pairs ()."""
        hidden = network(batch.tokens, batch.positions, batch.mask())
        scores = network.logits(hidden)  # (B, T)
        last = (batch.documents >= 0).sum(1) - 1
        ends = scores.gather(1, last.clamp(min=0)[:, None])[:, 0]  # (B,)
        margin = ends[0::2] - ends[1::2]
        is_real = (batch.labels[0::2] != -100).any(1).float()
        if self.told is not None and network.training:
            self.told.add("accuracy", ((margin > 0).float() * is_real).sum(), float(is_real.sum()))
        return (-F.logsigmoid(margin) * is_real).sum(), is_real.sum()


class PolicyGradient:
    """GRPO (arXiv:2402.03300, §4.1): what was better than its group becomes likelier, held near
    the scores of the network before the run by the KL estimate of that paper.

    Every batch is used for one update, so that the ratio to the sampling policy is 1 and is not
    clipped.
    """

    def __init__(self, config: TuneConfig) -> None:
        self.beta, self.chunk = config.beta, config.loss_chunk

    def __call__(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss () and the number of replies ()."""
        scores = answer_scores(network, batch, self.chunk)
        lengths = (batch.labels != -100).sum(1)
        is_real = (lengths > 0).float()
        away = (batch.extras[REFERENCE].to(scores) - scores) / lengths.clamp(min=1)
        penalty = away.exp() - away - 1
        ratio = (scores - scores.detach()).exp()
        loss = -batch.extras["advantage"].to(scores) * ratio + self.beta * penalty
        return (loss * is_real).sum(), is_real.sum()

"""The block between attentions: GELU, SwiGLU, or a mixture of SwiGLU experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatglm.config import Activation, Experts, ModelConfig


class MLP(nn.Module):
    """Widen, bend, narrow. In SwiGLU (arXiv:2002.05202) `up` holds the gate's rows, then the
    value's.
    """

    def __init__(self, config: ModelConfig, ffn_size: int | None = None) -> None:
        super().__init__()
        size = config.ffn_size if ffn_size is None else ffn_size
        self.kind: Activation = config.mlp
        bias = config.bias == "all"
        self.up = nn.Linear(config.hidden_size, 2 * size if self.kind == "swiglu" else size, bias)
        self.down = nn.Linear(size, config.hidden_size, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C)."""
        y = self.up(x)  # (…, F) or (…, 2F)
        if self.kind == "swiglu":
            gate, value = y.chunk(2, -1)
            return self.down(F.silu(gate) * value)
        return self.down(F.gelu(y, approximate="tanh" if self.kind == "gelu_tanh" else "none"))


class Router(nn.Module):
    """Sigmoid scores; the correction steers the choice and not the weight (arXiv:2412.19437,
    §2.1.2).
    """

    def __init__(self, config: ModelConfig, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.empty(experts.num_experts, config.hidden_size))
        self.correction = nn.Parameter(torch.zeros(experts.num_experts), requires_grad=False)
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen experts (N, K) and their weights (N, K) in float32 for tokens (N, C)."""
        e = self.experts
        scores = F.linear(x.float(), self.weight.float()).sigmoid()  # (N, E)
        choice = scores + self.correction.float()
        if e.num_groups > 1:
            groups = choice.unflatten(-1, (e.num_groups, -1))  # (N, groups, E/groups)
            best = groups.topk(2, dim=-1).values.sum(-1).topk(e.num_active_groups, -1).indices
            allowed = torch.zeros_like(groups[..., 0], dtype=torch.bool).scatter_(-1, best, True)
            choice = groups.masked_fill(~allowed[..., None], 0.0).flatten(-2)
        chosen = choice.topk(e.num_active, -1).indices  # (N, K)
        weights = scores.gather(-1, chosen)
        if e.weights_are_normalized:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * e.scale


class ExpertMLP(nn.Module):
    """Each token goes through its chosen experts, and all tokens through the shared one."""

    def __init__(self, config: ModelConfig, experts: Experts) -> None:
        super().__init__()
        self.router = Router(config, experts)
        self.experts = nn.ModuleList(
            MLP(config, experts.ffn_size) for _ in range(experts.num_experts)
        )
        self.shared = (
            MLP(config, experts.ffn_size * experts.num_shared) if experts.num_shared else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        flat = x.flatten(0, -2)  # (N, C)
        chosen, weights = self.router(flat)
        y = torch.zeros_like(flat)
        for index in chosen.unique().tolist():
            rows, slot = (chosen == index).nonzero(as_tuple=True)
            part = self.experts[index](flat[rows]) * weights[rows, slot, None].to(x.dtype)
            y.index_add_(0, rows, part)
        if self.shared is not None:
            y = y + self.shared(flat)
        return y.view_as(x)

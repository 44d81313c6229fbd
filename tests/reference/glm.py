"""Every generation of the family as its papers write it: one token, one head, one number at a time.

A readable specification for `chatglm.model`: loops and plain formulas over float64 arrays, no
tensor library. Weights go by the network's own names, `layers.0.attention.qkv.weight` and so on;
a linear's weight is (out, in).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from tests.reference.rotary import rotate

from chatglm.config import ModelConfig

Vector = NDArray[np.float64]
Places = Sequence[tuple[int, ...]]


def places_left_to_right(length: int, planes: int) -> Places:
    """Where each token stands in plain text: its index; a second plane stays 0."""
    return [(t, 0)[:planes] for t in range(length)]


def places_of_a_blank(length: int, planes: int, *, prefix: int, hole: int) -> Places:
    """Where each token stands when those after `prefix` fill the blank at `hole`: context counts
    up in the first plane; what fills it stays at the hole and counts 1, 2, … in the second
    (GLM, arXiv:2103.10360, §2.1). A single plane has the sums.
    """
    if planes == 1:
        counted = [*range(prefix), *(hole + t - prefix + 1 for t in range(prefix, length))]
        return [(place,) for place in counted]
    context = [(t, 0) for t in range(prefix)]
    return context + [(hole, t - prefix + 1) for t in range(prefix, length)]


class NaiveGLM:
    """The network of a config with given weights."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Vector]) -> None:
        self.config = config
        self.weights = weights

    def logits(self, tokens: Sequence[int], places: Places, *, prefix: int = 0) -> Vector:
        """Scores (T, V) of the word after each token; the first `prefix` tokens see each other."""
        x = [self.embed(token, place) for token, place in zip(tokens, places, strict=True)]
        for layer in range(self.config.num_layers):
            x = self.layer(layer, x, places, prefix)
        if self.config.final_norm:
            x = [self.norm("norm", row) for row in x]
        head = self.weights["embedding.weight" if self.config.tied else "head.weight"]
        return np.stack([head @ row for row in x])

    def embed(self, token: int, place: tuple[int, ...]) -> Vector:
        """The word's vector, with its place added unless that is rotary."""
        x = self.weights["embedding.weight"][token]
        kind, width = self.config.position, self.config.hidden_size
        if kind in ("learned", "learned_2d"):
            x = x + self.weights["position.text.weight"][place[0]]
        if kind == "learned_2d":
            x = x + self.weights["position.span.weight"][place[1]]
        if kind == "sinusoidal":  # arXiv:1706.03762, §3.5, with all sines before all cosines
            angles = [place[0] / 10000 ** (2 * i / width) for i in range(width // 2)]
            x = x + np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        return x

    def layer(self, layer: int, x: list[Vector], places: Places, prefix: int) -> list[Vector]:
        """Attention and MLP, each joined to the stream in the config's way."""
        name = f"layers.{layer}"
        normed = [self.norm(f"{name}.norm1", row) for row in x]
        read = self.attend(f"{name}.attention", normed, places, prefix)
        x = self.join(f"{name}.norm1_post", x, normed, read)
        normed = [self.norm(f"{name}.norm2", row) for row in x]
        experts = self.config.experts
        block = self.mlp if experts is None or layer < experts.first_layer else self.mixture
        made = [block(f"{name}.mlp", row) for row in normed]
        return self.join(f"{name}.norm2_post", x, normed, made)

    def join(
        self, post: str, x: list[Vector], normed: list[Vector], y: list[Vector]
    ) -> list[Vector]:
        """The residual connection."""
        kind, scale = self.config.residual, self.config.residual_scale
        if kind == "normed":
            return [scale * n + b for n, b in zip(normed, y, strict=True)]
        if kind == "sandwich":
            y = [self.norm(post, row) for row in y]
        return [a + b for a, b in zip(x, y, strict=True)]

    def norm(self, name: str, x: Vector) -> Vector:
        """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467)."""
        if self.config.norm == "layernorm":
            x = x - x.mean()
            scaled = x / math.sqrt((x * x).mean() + self.config.norm_eps)
            return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return self.rms(name, x)

    def rms(self, name: str, x: Vector) -> Vector:
        """A vector divided by the root of its mean square."""
        return x / math.sqrt((x * x).mean() + self.config.norm_eps) * self.weights[f"{name}.weight"]

    def linear(self, name: str, x: Vector) -> Vector:
        """Wx, and + b where the weights have one."""
        y = self.weights[f"{name}.weight"] @ x
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def attend(self, name: str, x: list[Vector], places: Places, prefix: int) -> list[Vector]:
        """What each token reads: softmax(q·k / √D) over those it may see, head by head."""
        c = self.config
        heads, groups, width = c.num_heads, c.num_kv_heads, c.head_dim
        queries: list[list[Vector]] = []  # token, head
        keys: list[list[Vector]] = []  # token, group
        values: list[list[Vector]] = []
        for row, place in zip(x, places, strict=True):
            parts = np.split(self.linear(f"{name}.qkv", row), heads + 2 * groups)
            q, k, v = parts[:heads], parts[heads : heads + groups], parts[heads + groups :]
            if c.qk_norm:
                q = [self.rms(f"{name}.q_norm", part) for part in q]
                k = [self.rms(f"{name}.k_norm", part) for part in k]
            if c.position in ("rope", "rope_2d"):
                q = [rotate(c, part, place) for part in q]
                k = [rotate(c, part, place) for part in k]
            queries.append(q)
            keys.append(k)
            values.append(v)
        read = []
        for t in range(len(x)):
            seen = [s for s in range(len(x)) if self.may_look(t, s, prefix)]
            parts = []
            for head in range(heads):
                group = head * groups // heads
                scores = [float(queries[t][head] @ keys[s][group]) / math.sqrt(width) for s in seen]
                shares = softmax(scores)
                heard = [p * values[s][group] for p, s in zip(shares, seen, strict=True)]
                parts.append(np.sum(heard, axis=0))
            read.append(self.linear(f"{name}.out", np.concatenate(parts)))
        return read

    def may_look(self, t: int, s: int, prefix: int) -> bool:
        """A token sees itself and what is before it; in a prefix LM also all of the context."""
        return s <= t or (self.config.context == "prefix" and s < prefix)

    def mlp(self, name: str, x: Vector) -> Vector:
        """GELU (arXiv:1606.08415) or SwiGLU (arXiv:2002.05202)."""
        y = self.linear(f"{name}.up", x)
        if self.config.mlp == "swiglu":
            gate, value = np.split(y, 2)
            return self.linear(f"{name}.down", gate * sigmoid(gate) * value)
        bend = gelu if self.config.mlp == "gelu" else gelu_tanh
        return self.linear(f"{name}.down", each(bend, y))

    def mixture(self, name: str, x: Vector) -> Vector:
        """Some of many experts, weighed by the router, and the shared one (arXiv:2412.19437,
        §2.1.2).
        """
        experts = self.config.experts
        assert experts is not None
        scores = sigmoid(self.weights[f"{name}.router.weight"] @ x)
        wanted = scores + self.weights[f"{name}.router.correction"]
        size = experts.num_experts // experts.num_groups
        groups = [wanted[g * size : (g + 1) * size] for g in range(experts.num_groups)]
        if experts.num_groups > 1:
            best = [sum(sorted(group)[-2:]) for group in groups]
            open_groups = sorted(range(len(groups)), key=lambda g: -best[g])
            for g in open_groups[experts.num_active_groups :]:
                wanted[g * size : (g + 1) * size] = 0
        chosen = sorted(range(len(wanted)), key=lambda e: -wanted[e])[: experts.num_active]
        total = sum(scores[e] for e in chosen) if experts.weights_are_normalized else 1.0
        y = self.mlp(f"{name}.shared", x) if experts.num_shared else np.zeros_like(x)
        for e in chosen:
            y = y + experts.scale * scores[e] / total * self.mlp(f"{name}.experts.{e}", x)
        return y


def softmax(scores: Sequence[float]) -> list[float]:
    """Shares of e^score."""
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def each(function: Callable[[float], float], x: Vector) -> Vector:
    """A function of one number, on every number."""
    return np.array([function(float(value)) for value in x])


def sigmoid(x: Vector) -> Vector:
    """1 / (1 + e^−x)."""
    return 1 / (1 + np.exp(-x))


def gelu(x: float) -> float:
    """x Φ(x)."""
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    """The approximation by tanh that GPT-2 and GLM use."""
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

"""What stands between a sentence's vector X and each task's output (the paper's v1 to v3b and equation (1)).

    y = alpha * f(concat(X_a, X_b, |X_a - X_b|)) + (1 - alpha) * cos(X_a, X_b)        (1)

The paper prints (alpha - 1) for the second weight; a weighted average needs (1 - alpha).
Letters: B batch, D hidden size. Every architecture has the same methods:
vector(task, x), sst(v), para(v_a, v_b), sts(v_a, v_b); v is what the cosine and the losses compare;
vectors(x), the same for several tasks at once; shared(), the modules that tasks have in common.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.model import Dropout

SST_CLASSES = 5
STS_MAX = 5.0


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """a, b: (B, D) -> (B,) in [-1, 1]"""
    return F.cosine_similarity(a, b, dim=-1)


def as_probability(cos: Tensor) -> Tensor:
    """Cosine in [-1, 1] -> [0, 1]; the clamp takes off the rounding that a binary cross-entropy refuses."""
    return ((1 + cos) / 2).clamp(0, 1)


def mlp(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """One hidden layer; dropout before each of the two products."""
    return nn.Sequential(
        Dropout(dropout), nn.Linear(inputs, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, outputs)
    )


class ResidualMLP(nn.Module):
    """x + mlp(x), starting as the identity: the last product's weights are 0.

    The paper says "MLP" alone. A fresh one would forget the geometry that the encoder was pretrained for, and cosines
    would start as noise; this one starts from the encoder's own vectors and learns the difference.
    """

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.mlp = mlp(size, size, size, dropout)
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(x)


class SeparateHeads(nn.Module):
    """v1 and v2: one MLP per task; para and sts are the cosine of the two MLP outputs (alpha = 0)."""

    def __init__(self, size: int, dropout: float):
        super().__init__()
        self.sst_head = mlp(size, size, SST_CLASSES, dropout)
        self.para_head = ResidualMLP(size, dropout)
        self.sts_head = ResidualMLP(size, dropout)

    def shared(self) -> list[nn.Module]:
        return []

    def vector(self, task: str, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)"""
        return {"sst": nn.Identity(), "para": self.para_head, "sts": self.sts_head}[task](x)

    def vectors(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """By task: (B, D) -> (B, D)"""
        return {task: self.vector(task, rows) for task, rows in x.items()}

    def sst(self, v: Tensor) -> Tensor:
        """(B, D) -> logits (B, 5)"""
        return self.sst_head(v)

    def para(self, v_a: Tensor, v_b: Tensor) -> Tensor:
        """(B, D), (B, D) -> probability (B,)"""
        return as_probability(cosine(v_a, v_b))

    def sts(self, v_a: Tensor, v_b: Tensor) -> Tensor:
        """(B, D), (B, D) -> similarity (B,), in [-5, 5]"""
        return STS_MAX * cosine(v_a, v_b)


class SharedHeads(nn.Module):
    """v3a and v3b: one MLP shared by all tasks on top of X, then a small head per task; equation (1) for pairs."""

    def __init__(self, size: int, dropout: float, alpha_para: float, alpha_sts: float):
        super().__init__()
        self.alpha_para = alpha_para
        self.alpha_sts = alpha_sts
        self.shared_mlp = ResidualMLP(size, dropout)
        self.sst_head = mlp(size, size, SST_CLASSES, dropout)
        self.para_head = mlp(3 * size, size, 1, dropout)
        self.sts_head = mlp(3 * size, size, 1, dropout)

    def shared(self) -> list[nn.Module]:
        return [self.shared_mlp]

    def vector(self, task: str, x: Tensor) -> Tensor:
        """(B, D) -> (B, D), the same for every task"""
        return self.shared_mlp(x)

    def vectors(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """By task: (B, D) -> (B, D), from one pass over the rows of all."""
        rows = self.shared_mlp(torch.cat(list(x.values())))
        return dict(zip(x, rows.split([len(part) for part in x.values()]), strict=True))

    def sst(self, v: Tensor) -> Tensor:
        """(B, D) -> logits (B, 5)"""
        return self.sst_head(v)

    def para(self, v_a: Tensor, v_b: Tensor) -> Tensor:
        """(B, D), (B, D) -> probability (B,): equation (1) with f ending in a sigmoid and the cosine in [0, 1]."""
        f = torch.sigmoid(self.para_head(pair_features(v_a, v_b))[:, 0])  # (B,)
        return self.alpha_para * f + (1 - self.alpha_para) * as_probability(cosine(v_a, v_b))

    def sts(self, v_a: Tensor, v_b: Tensor) -> Tensor:
        """(B, D), (B, D) -> similarity (B,): equation (1) with f a plain real number and the cosine times 5."""
        f = self.sts_head(pair_features(v_a, v_b))[:, 0]  # (B,)
        return self.alpha_sts * f + (1 - self.alpha_sts) * STS_MAX * cosine(v_a, v_b)


def pair_features(v_a: Tensor, v_b: Tensor) -> Tensor:
    """(B, D), (B, D) -> (B, 3 D)"""
    return torch.cat([v_a, v_b, (v_a - v_b).abs()], dim=-1)


ARCHITECTURES = {
    "v1": SeparateHeads,
    "v2": SeparateHeads,
    "v3a": lambda size, dropout: SharedHeads(size, dropout, alpha_para=0.99, alpha_sts=0.01),
    "v3b": lambda size, dropout: SharedHeads(size, dropout, alpha_para=0.01, alpha_sts=0.99),
}
